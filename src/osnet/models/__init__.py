"""Images -> embeddings. Networks, their names, their costs, their weights. Imports no other room.

``weights`` and ``published``, which need more than torch, are loaded when they are first used.
"""

from osnet.models.build import build_network
from osnet.models.config import BackboneConfig, NetworkConfig, OSNetConfig
from osnet.models.counting import Cost, count_cost, count_parameters
from osnet.models.network import Network
from osnet.models.osnet import OSNet
from osnet.models.variants import list_models
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
