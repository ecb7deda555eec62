"""Networks that map images to embeddings: OSNet, its variants and baselines, their names and their costs."""

from osnet.models.config import BackboneConfig, NetworkConfig, OSNetConfig
from osnet.models.counting import Cost, count_cost, count_parameters
from osnet.models.network import Network
from osnet.models.osnet import OSNet
from osnet.models.registry import build_network, list_models
from osnet.weights.factory import create_model

__all__ = [
    "BackboneConfig",
    "Cost",
    "Network",
    "NetworkConfig",
    "OSNet",
    "OSNetConfig",
    "build_network",
    "count_cost",
    "count_parameters",
    "create_model",
    "list_models",
]
