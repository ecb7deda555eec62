"""From settings to a network, whichever class they belong to."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from osnet.errors import ModelError
from osnet.forks import settle
from osnet.models.baselines.backbone import Backbone
from osnet.models.config import BackboneConfig, NetworkConfig, OSNetConfig
from osnet.models.network import Network
from osnet.models.osnet import OSNet


def build_network(config: NetworkConfig, device: str | torch.device | None = None) -> Network:
    """The network that ``config`` describes, with random weights.

    Args:
        config: settings of OSNet or of another backbone.
        device: where its numbers lie; ``"meta"`` gives them no storage, for counting and for comparing shapes.

    Raises:
        ModelError: settings of no network of ours.
    """
    if not isinstance(config, OSNetConfig | BackboneConfig):
        raise ModelError(f"{config} is no network of this library: a file of others can be used, not built or saved")
    settle()
    with torch.device(torch.get_default_device() if device is None else device):
        return OSNet(config) if isinstance(config, OSNetConfig) else Backbone(config)


@lru_cache(maxsize=128)
def list_tensors(config: NetworkConfig) -> Mapping[str, Tensor]:
    """The network's tensors by name, without storage: for comparing names and shapes. Kept, so do not change it."""
    return build_network(config, "meta").state_dict()


def without_neck(network: Network) -> Network:
    """The network up to where triplet losses and new heads look: ``network`` itself if it has no neck, else a copy."""
    if not network.config.neck:
        return network
    bare = build_network(replace(network.config, neck=False), next(network.parameters()).device)
    bare.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("neck.")})
    return bare.train(network.training)
