"""``create_model``: build a network by name, with random or pretrained weights."""

from pathlib import Path
from typing import Any

from osnet.errors import ModelError
from osnet.models.network import Network
from osnet.models.registry import build_network, get_config


def create_model(name: str, pretrained: str | Path | bool | None = None, **overrides: Any) -> Network:
    """Build a network by name, with random or pretrained weights.

    Args:
        name: one of ``list_models()``; or ``hf-hub:org/name`` or ``hf-hub:org/name@revision`` for a network from the
            Hugging Face Hub, which brings its own weights.
        pretrained: which weights to load. None or False: random weights. True: ``imagenet``. One of ``imagenet``,
            ``market1501``, ``dukemtmcreid``, ``msmt17``, ``msmt17_combineall``, ``intel``: published weights, taken
            from the folder ``$OSNET_WEIGHTS``, else from the download cache, else downloaded from the authors'
            repository. A path: a checkpoint folder or file, as for ``load_weights``. A network with pretrained weights
            has its ``card`` set.
        **overrides: fields of ``OSNetConfig`` (or of ``BackboneConfig`` for the other networks), such as ``width=0.5``
            or ``stem="cifar"``.

    Returns:
        An ``OSNet`` or a ``Backbone``, depending on the name.

    Raises:
        ModelError: the name or a setting is unknown, or settings contradict each other.
        WeightsError: the weights do not exist, are damaged, or belong to another network.
    """
    if name.startswith("hf-hub:"):
        if pretrained not in (None, False, True) or overrides:
            raise ModelError(f"{name} includes its weights and settings; leave out pretrained and overrides")
        from osnet.weights.hugging_face import fetch_checkpoint

        return fetch_checkpoint(name).build()
    config = get_config(name, **overrides)
    if pretrained is None or pretrained is False:
        return build_network(config)
    from osnet.weights.checkpoint import load_weights
    from osnet.weights.hub import find_weights

    return load_weights(find_weights(name, pretrained), architecture=name, config=config)
