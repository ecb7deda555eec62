"""Images -> embeddings. Networks, their names, their costs, their weights. Imports no other room."""

from osnet.models.counting import Cost, count_cost, count_parameters
from osnet.models.osnet import OSNet, OSNetConfig
from osnet.models.registry import create_model, list_models
from osnet.models.weights import Card, convert, load_weights, save_weights

__all__ = [
    "Card",
    "Cost",
    "OSNet",
    "OSNetConfig",
    "convert",
    "count_cost",
    "count_parameters",
    "create_model",
    "list_models",
    "load_weights",
    "save_weights",
]
