"""From settings to a network, whichever class they belong to."""

import torch

from osnet.forks import settle
from osnet.models.backbones import Backbone
from osnet.models.config import NetworkConfig, OSNetConfig
from osnet.models.network import Network
from osnet.models.osnet import OSNet


def build_network(config: NetworkConfig, device: str | torch.device | None = None) -> Network:
    """The network that ``config`` describes, with random weights.

    Args:
        config: settings of OSNet or of another backbone.
        device: where its numbers lie; ``"meta"`` gives them no storage, for counting and for comparing shapes.
    """
    settle()
    with torch.device(torch.get_default_device() if device is None else device):
        return OSNet(config) if isinstance(config, OSNetConfig) else Backbone(config)
