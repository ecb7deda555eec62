"""Images -> embeddings. Networks, their names, their costs, their weights. Imports no other room.

``weights`` and ``published``, which need more than torch, are loaded when they are first used.
"""

from osnet.models.config import OSNetConfig
from osnet.models.counting import Cost, count_cost, count_parameters
from osnet.models.osnet import OSNet
from osnet.models.registry import create_model
from osnet.models.variants import list_models

__all__ = ["Cost", "OSNet", "OSNetConfig", "count_cost", "count_parameters", "create_model", "list_models"]
