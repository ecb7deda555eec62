"""``create_model``: a network by name, with random weights or with published or own ones."""

from pathlib import Path
from typing import Any

from osnet.errors import ModelError
from osnet.models.build import build_network
from osnet.models.variants import get_config


def create_model(name: str, pretrained: str | Path | bool | None = None, **overrides: Any) -> Any:
    """A network by name, with random weights or with published or own ones.

    Args:
        name: one of ``list_models()``; or ``hf-hub:org/name``, ``hf-hub:org/name@revision`` for a network from the
            Hugging Face Hub, weights included.
        pretrained: None or False; True, which means ``imagenet``; or one of ``imagenet``, ``market1501``,
            ``dukemtmcreid``, ``msmt17``, ``msmt17_combineall``, ``intel``, looked for in the folder
            ``$OSNET_WEIGHTS``, then in the download cache, then downloaded from the authors' repository; or the path
            of a checkpoint folder of ours or a checkpoint file, as ``load_weights`` takes it. The network then
            carries its ``card``.
        **overrides: fields of ``OSNetConfig`` (of ``BackboneConfig`` for the other networks), such as ``width=0.5``
            or ``stem="cifar"``.

    Returns:
        A ``Network``: an ``OSNet`` or a ``Backbone``. Which one, the name decides, so the annotation leaves it open.

    Raises:
        ModelError: the name or a setting is unknown, or settings do not fit together.
        WeightsError: no such weights, or they are damaged or of another network.
    """
    if name.startswith("hf-hub:"):
        if pretrained not in (None, False, True) or overrides:
            raise ModelError(f"{name} brings its weights and its settings: leave out pretrained and overrides")
        from osnet.weights.hugging_face import fetch_checkpoint

        return fetch_checkpoint(name).build()
    config = get_config(name, **overrides)
    if pretrained is None or pretrained is False:
        return build_network(config)
    from osnet.weights.checkpoint import load_weights
    from osnet.weights.hub import find_weights  # needs more than torch

    return load_weights(find_weights(name, pretrained), architecture=name, config=config)
