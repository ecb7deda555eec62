"""OSNet, the omni-scale network, for re-identification: finding the same person, or thing, again.

Every public name is loaded when it is first used, so ``import osnet`` itself costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from osnet import errors
from osnet import forks as forks  # registers what a forked child must do

if TYPE_CHECKING:
    from osnet.data.folder import read_folder as read_folder
    from osnet.data.reid.catalog import read_benchmark as read_benchmark
    from osnet.data.reid.market1501 import read_market1501 as read_market1501
    from osnet.embedding.attribute_predictor import AttributePredictor as AttributePredictor
    from osnet.embedding.boxmot_features import BoxmotFeatures as BoxmotFeatures
    from osnet.embedding.class_predictor import ClassPredictor as ClassPredictor
    from osnet.embedding.embedder import Embedder as Embedder
    from osnet.embedding.embedder import Embeddings as Embeddings
    from osnet.embedding.inputs import Frame as Frame
    from osnet.evaluation.calibration import calibrate as calibrate
    from osnet.evaluation.evaluate import evaluate as evaluate
    from osnet.evaluation.evaluate import evaluate_features as evaluate_features
    from osnet.evaluation.results import average_results as average_results
    from osnet.evaluation.scoring import Scoring as Scoring
    from osnet.features.labels import read_labelled as read_labelled
    from osnet.gallery import Gallery as Gallery
    from osnet.gallery import Where as Where
    from osnet.metrics.k_reciprocal import rerank as rerank
    from osnet.metrics.k_reciprocal import rerank_best as rerank_best
    from osnet.metrics.query_expansion import expand_queries as expand_queries
    from osnet.metrics.ranking import rank_scores as rank_scores
    from osnet.models.config import OSNetConfig as OSNetConfig
    from osnet.models.osnet import OSNet as OSNet
    from osnet.models.registry import list_models as list_models
    from osnet.recipes import get_recipe as get_recipe
    from osnet.recipes import list_recipes as list_recipes
    from osnet.runtime.export import export as export
    from osnet.training.trainer import Trainer as Trainer
    from osnet.types import Hit as Hit
    from osnet.types import Item as Item
    from osnet.types import Preprocessing as Preprocessing
    from osnet.weights.checkpoint import Checkpoint as Checkpoint
    from osnet.weights.checkpoint import convert as convert
    from osnet.weights.checkpoint import load_weights as load_weights
    from osnet.weights.checkpoint import save_weights as save_weights
    from osnet.weights.factory import create_model as create_model

__version__ = "0.1.0"

_LAZY = {
    "AttributePredictor": "osnet.embedding.attribute_predictor",
    "BoxmotFeatures": "osnet.embedding.boxmot_features",
    "Checkpoint": "osnet.weights.checkpoint",
    "ClassPredictor": "osnet.embedding.class_predictor",
    "Embedder": "osnet.embedding.embedder",
    "Embeddings": "osnet.embedding.embedder",
    "Frame": "osnet.embedding.inputs",
    "Gallery": "osnet.gallery",
    "Hit": "osnet.types",
    "Item": "osnet.types",
    "OSNet": "osnet.models.osnet",
    "OSNetConfig": "osnet.models.config",
    "Preprocessing": "osnet.types",
    "Scoring": "osnet.evaluation.scoring",
    "Trainer": "osnet.training.trainer",
    "Where": "osnet.gallery",
    "average_results": "osnet.evaluation.results",
    "calibrate": "osnet.evaluation.calibration",
    "convert": "osnet.weights.checkpoint",
    "create_model": "osnet.weights.factory",
    "list_models": "osnet.models.registry",
    "evaluate": "osnet.evaluation.evaluate",
    "evaluate_features": "osnet.evaluation.evaluate",
    "expand_queries": "osnet.metrics.query_expansion",
    "export": "osnet.runtime.export",
    "get_recipe": "osnet.recipes",
    "list_recipes": "osnet.recipes",
    "load_weights": "osnet.weights.checkpoint",
    "rank_scores": "osnet.metrics.ranking",
    "read_benchmark": "osnet.data.reid.catalog",
    "read_folder": "osnet.data.folder",
    "read_labelled": "osnet.features.labels",
    "read_market1501": "osnet.data.reid.market1501",
    "rerank": "osnet.metrics.k_reciprocal",
    "rerank_best": "osnet.metrics.k_reciprocal",
    "save_weights": "osnet.weights.checkpoint",
}
"""Public name -> the module that defines it."""

__all__ = ["__version__", "errors", *sorted(_LAZY)]


def __getattr__(name: str) -> Any:
    """Load a public name of ``_LAZY`` on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module 'osnet' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__
