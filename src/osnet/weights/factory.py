"""``create_model``: build a network by name, with random or pretrained weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from osnet.errors import ModelError
from osnet.models.layers import init_weights
from osnet.models.network import Network
from osnet.models.registry import build_network, get_config

if TYPE_CHECKING:
    from osnet.weights.checkpoint import Checkpoint


def create_model(
    name: str, pretrained: bool | str | Path | None = False, num_classes: int = 0, **config: Any
) -> Network:
    """Build a network by name, with random or pretrained weights.

    >>> create_model("osnet_x1_0", pretrained=True)                # ImageNet weights
    >>> create_model("osnet_x0_25", "msmt17")                      # published weights of a data set
    >>> create_model("osnet_x1_0", "my-run", num_classes=751)      # your own weights, with a classifier
    >>> create_model("osnet_x1_0", groups=4, group_extent="lite")  # other settings, random weights

    Args:
        name: name of a network in ``list_models()``. Or ``hf-hub:org/name`` or ``hf-hub:org/name@revision`` for a
            network with its weights from the Hugging Face Hub.
        pretrained: the weights. False or None: random weights. True: those of ``imagenet``. A name (``imagenet``,
            ``market1501``, ``dukemtmcreid``, ``msmt17``, ``msmt17_combineall`` or ``intel``): published weights, from
            the folder ``$OSNET_WEIGHTS``, the download cache, or the internet, in this order. A path: a checkpoint
            folder or file; see ``load_weights``.
        num_classes: if it is not 0, ``network.classifier`` is a linear layer with this many outputs. It has the weights
            of the pretrained classifier if that has the same number of outputs, else random weights. ``forward`` still
            returns embeddings; the logits are ``network.classifier(network(images))``.
        **config: settings that differ from those of the name: fields of ``OSNetConfig``, or of ``BackboneConfig`` for
            the baselines, such as ``width=0.5`` or ``stem="cifar"``.

    Returns:
        An ``OSNet`` or a ``Backbone``, depending on the name. Pretrained networks are in eval mode and have a ``card``.

    Raises:
        ModelError: the name or a setting is unknown, or settings contradict each other. For an unknown name, the
            message suggests similar ones.
        WeightsError: the weights do not exist, are damaged, or belong to another network.
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 0:
        raise ModelError(f"num_classes {num_classes!r} must be a whole number of at least 0; 0 means no classifier")
    classifier: nn.Linear | None = None
    checkpoint: Checkpoint | None = None
    if name.startswith("hf-hub:"):
        if pretrained not in (None, False, True) or config:
            raise ModelError(f"{name} includes its weights and settings; leave out pretrained and other settings")
        from osnet.weights.hugging_face import fetch_checkpoint

        checkpoint = fetch_checkpoint(name)
    elif pretrained is None or pretrained is False:
        network = build_network(get_config(name, **config))
    else:
        from osnet.weights.checkpoint import read_checkpoint
        from osnet.weights.hub import find_weights

        settings = get_config(name, **config)
        checkpoint = read_checkpoint(find_weights(name, pretrained), architecture=name, config=settings)
    if checkpoint is not None:
        network = checkpoint.build()
        weight = checkpoint.state.get("classifier.weight")
        if num_classes and weight is not None and weight.shape[:1] == (num_classes,):
            classifier = checkpoint.build_classifier()
    if num_classes:
        if classifier is None:
            classifier = nn.Linear(network.config.embedding_size, num_classes)
            init_weights(classifier)
        network.classifier = classifier.train(network.training)
    return network
