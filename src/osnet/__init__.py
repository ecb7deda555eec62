"""OSNet, the omni-scale network: find the same person, or thing, again.

``import osnet`` loads torch and the networks; everything else is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from osnet.models.config import OSNetConfig
from osnet.models.osnet import OSNet
from osnet.models.registry import create_model
from osnet.models.variants import list_models

if TYPE_CHECKING:
    from osnet.calibration import calibrate as calibrate
    from osnet.data.folder import read_folder as read_folder
    from osnet.data.reid.market1501 import read_market1501 as read_market1501
    from osnet.evaluation import evaluate as evaluate
    from osnet.evaluation import evaluate_vectors as evaluate_vectors
    from osnet.gallery import Gallery as Gallery
    from osnet.inference.attributes import AttributePredictor as AttributePredictor
    from osnet.inference.classes import ClassPredictor as ClassPredictor
    from osnet.inference.embedder import Embedder as Embedder
    from osnet.inference.inputs import Frame as Frame
    from osnet.inference.labelled import read_labelled as read_labelled
    from osnet.metrics.expansion import expand_queries as expand_queries
    from osnet.metrics.ranking import rank_scores as rank_scores
    from osnet.metrics.rerank import rerank as rerank
    from osnet.metrics.rerank import rerank_best as rerank_best
    from osnet.models.weights import convert as convert
    from osnet.models.weights import load_weights as load_weights
    from osnet.models.weights import save_weights as save_weights
    from osnet.results import average_results as average_results
    from osnet.splits import evaluate_benchmark as evaluate_benchmark
    from osnet.splits import evaluate_splits as evaluate_splits
    from osnet.types import Item as Item

__version__ = "0.1.0"

_LAZY = {
    "AttributePredictor": "osnet.inference.attributes",
    "ClassPredictor": "osnet.inference.classes",
    "Embedder": "osnet.inference.embedder",
    "Frame": "osnet.inference.inputs",
    "Gallery": "osnet.gallery",
    "Item": "osnet.types",
    "average_results": "osnet.results",
    "calibrate": "osnet.calibration",
    "convert": "osnet.models.weights",
    "evaluate": "osnet.evaluation",
    "expand_queries": "osnet.metrics.expansion",
    "evaluate_benchmark": "osnet.splits",
    "evaluate_splits": "osnet.splits",
    "evaluate_vectors": "osnet.evaluation",
    "load_weights": "osnet.models.weights",
    "rank_scores": "osnet.metrics.ranking",
    "read_folder": "osnet.data.folder",
    "read_labelled": "osnet.inference.labelled",
    "read_market1501": "osnet.data.reid.market1501",
    "rerank": "osnet.metrics.rerank",
    "rerank_best": "osnet.metrics.rerank",
    "save_weights": "osnet.models.weights",
}

__all__ = ["OSNet", "OSNetConfig", "__version__", "create_model", "list_models", *sorted(_LAZY)]


def __getattr__(name: str) -> Any:
    """Public names that load more than torch, on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module 'osnet' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__
