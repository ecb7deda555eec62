"""The base class of recipes, and functions that all tasks share. A recipe holds all settings of a training run."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from osnet.data.augmentation import Augmentation
from osnet.data.loading import read_image
from osnet.data.transforms import normalize, resize_image, to_fractions
from osnet.errors import DataError, ModelError
from osnet.files import check_fields
from osnet.models.denormals import zero_tiny
from osnet.models.network import Network
from osnet.models.norms import estimate_norms, lacks_statistics
from osnet.models.registry import get_config, without_neck
from osnet.photos.photo_augmentation import PhotoAugmentation
from osnet.training.task import Plan
from osnet.types import Preprocessing
from osnet.weights.factory import create_model

Optimizer = Literal["sgd", "adam", "amsgrad", "adamw"]
NUM_EXAMPLES = 128
"""Number of training images from which missing BatchNorm statistics are estimated."""
Schedule = Literal["multi_step", "step", "cosine", "constant"]


@dataclass(frozen=True)
class Recipe(ABC):
    """Settings of a training run. Each task's recipe adds fields. All fields can be changed on the command line.

    Raises:
        ModelError: a value is outside its range, or values contradict each other.
    """

    name: str
    """Name of the recipe."""
    model: str = "osnet_x1_0"
    """Name of the network; `osnet models` lists them."""
    width: float | None = None
    """Width multiplier that replaces the named network's."""
    pretrained: str | None = None
    """Weights to start from: ``imagenet``, another published data set, or a path. None: random weights."""
    size_hw: tuple[int, int] = (256, 128)
    """Height and width of the network's input, in pixels."""
    epochs: int = 150
    """Number of epochs."""
    batch_size: int = 64
    """Images per batch over all processes. Each process needs at least two at a time, for BatchNorm."""
    optimizer: Optimizer = "amsgrad"
    """Optimiser."""
    lr: float = 0.0015
    """Highest learning rate."""
    weight_decay: float = 5e-4
    """Weight decay of all parameters."""
    momentum: float = 0.9
    """Momentum of SGD, or the first beta of the other optimisers."""
    schedule: Schedule = "step"
    """Schedule of the learning rate."""
    milestones: tuple[int, ...] = ()
    """Schedule ``multi_step``: epochs, counted from 0, at which the learning rate falls."""
    step_epochs: int = 60
    """Schedule ``step``: number of epochs after which the learning rate falls."""
    decay: float = 0.1
    """Factor by which the learning rate falls."""
    warmup_epochs: int = 0
    """Number of first epochs in which the learning rate grows linearly, from a hundredth."""
    frozen_epochs: int = 0
    """Number of first epochs that train the heads only; they count as epochs."""
    backbone_lr_factor: float = 1.0
    """Learning rate of the network relative to that of the heads."""
    augmentation: Augmentation | PhotoAugmentation = field(default_factory=Augmentation)
    """Augmentation of training images."""
    ema: float = 0.0
    """Decay per step of the moving average of weights that is saved and scored; 0: no average."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of forward and backward passes."""
    sync_batchnorm: bool = False
    """Compute BatchNorm statistics over all processes (on several GPUs)."""
    seed: int = 1
    """Seed of weights, batches and augmentation."""
    evaluate_every: int = 10
    """Number of epochs between scores on the validation data, if there are any."""

    def __post_init__(self) -> None:
        try:
            check_fields(self)
        except ValueError as error:
            raise ModelError(f"recipe {self.name}: {error}") from None
        get_config(self.model, **self.network_settings())
        for name, low, high in (
            ("epochs", 1, 100_000),
            ("batch_size", 1, 1_000_000),
            ("lr", 0, 1000),
            ("weight_decay", 0, 1),
            ("momentum", 0, 1),
            ("step_epochs", 1, 100_000),
            ("decay", 0, 1),
            ("warmup_epochs", 0, self.epochs),
            ("frozen_epochs", 0, self.epochs),
            ("backbone_lr_factor", 0, 1000),
            ("ema", 0, 0.99999),
            ("evaluate_every", 1, 100_000),
            ("seed", 0, 2**62),
        ):
            self.check_range(name, low, high)
        if self.batch_size == 1:
            raise ModelError(f"recipe {self.name}: batch_size 1 is too small; BatchNorm needs at least 2 images")

    def check_range(self, name: str, low: float, high: float) -> None:
        """Raise ModelError unless the field ``name`` is from ``low`` to ``high``. For use in ``__post_init__``."""
        if not low <= (value := getattr(self, name)) <= high:
            raise ModelError(f"recipe {self.name}: {name} {value} must be from {low} to {high}")

    def network_settings(self) -> dict[str, Any]:
        """Fields of the network's config that this recipe changes."""
        return {} if self.width is None else {"width": self.width}

    @abstractmethod
    def read(self, folders: Sequence[Path], combine_all: bool = False, work_dir: Path | None = None) -> Any:
        """Read the data set.

        Args:
            folders: data folders, as given to ``osnet train --data``.
            combine_all: also train on query and gallery images.
            work_dir: where a benchmark stores random splits and extracted images; None: beside the data.

        Raises:
            DataError: the folders contain nothing that this task can train on.
        """

    @abstractmethod
    def plan(self, dataset: Any) -> Plan:
        """Prepare this recipe for ``dataset``.

        Raises:
            DataError: the data set has no usable training data.
        """


def one_folder(recipe: Recipe, folders: Sequence[Path], combine_all: bool, work_dir: Path | None) -> Path:
    """The one data folder of a task that can use neither several folders nor the other options of ``Recipe.read``.

    Raises:
        DataError: there is not exactly one folder, or ``combine_all`` or ``work_dir`` is set.
    """
    if work_dir is not None:
        raise DataError(
            f"recipe {recipe.name} cannot use work_dir {work_dir}; only re-identification benchmarks need one. "
            "Leave it out"
        )
    if len(folders) != 1 or combine_all:
        raise DataError(
            f"recipe {recipe.name} trains on the training part of exactly one data set; got {len(folders)} folders"
            + (" and combine_all" if combine_all else "")
        )
    return folders[0]


def build_network(recipe: Recipe, examples: Sequence[Path] = (), preprocessing: Preprocessing | None = None) -> Network:
    """Build the network with the weights from which the recipe's training starts. They depend on its seed.

    A BNNeck's BatchNorm in the pretrained weights is dropped, because it belongs to the identities of that training.
    Pretrained weights that are too small to matter become zero (see ``models.denormals``).

    Args:
        recipe: gives the network, its weights and the seed.
        examples: paths of training images. If BatchNorm statistics are missing in the weights (OpenVINO folds them),
            they are estimated on ``NUM_EXAMPLES`` of these images. In eval mode the network's outputs do not change.
        preprocessing: preprocessing of the examples.

    Raises:
        ModelError: the network accepts only one image size and ``recipe.size_hw`` is another.
        WeightsError: the weights do not exist, or belong to another network.
    """
    config = get_config(recipe.model, **recipe.network_settings())
    if config.fixed_size_hw not in (None, recipe.size_hw):
        raise ModelError(
            f"recipe {recipe.name}: size_hw is {recipe.size_hw}, but {recipe.model} only accepts {config.fixed_size_hw}"
        )
    torch.manual_seed(recipe.seed)
    network = without_neck(create_model(recipe.model, recipe.pretrained, **recipe.network_settings()))
    if recipe.pretrained is not None:
        zero_tiny(network)
    if recipe.pretrained is not None and examples and lacks_statistics(network):
        settings = preprocessing or Preprocessing()
        chosen = [examples[i] for i in range(0, len(examples), max(1, len(examples) // NUM_EXAMPLES))][:NUM_EXAMPLES]
        images = (torch.stack([resize_image(read_image(p), settings) for p in part]) for part in _in_parts(chosen, 16))
        estimate_norms(network, (normalize(to_fractions(part), settings) for part in images))
    return network


def _in_parts(paths: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    return (paths[start : start + size] for start in range(0, len(paths), size))


def learning_rate(recipe: Recipe, epoch: int, batch: int, batches_per_epoch: int) -> float:
    """The learning rate of a batch. It is a pure function, so the saved state need not contain the schedule.

    The schedules ``step`` and ``multi_step`` change the rate at the start of an epoch. ``cosine`` falls from ``lr`` to
    0 and changes once per epoch, like PyTorch's CosineAnnealingLR. During warm-up the rate changes with every batch.

    Args:
        recipe: gives the schedule.
        epoch: index of the epoch, from 0.
        batch: index of the batch in the epoch, from 0.
        batches_per_epoch: number of batches of an epoch.
    """
    if recipe.schedule == "multi_step":
        factor = recipe.decay ** sum(epoch >= milestone for milestone in recipe.milestones)
    elif recipe.schedule == "step":
        factor = recipe.decay ** (epoch // recipe.step_epochs)
    elif recipe.schedule == "cosine":
        factor = (1 + math.cos(math.pi * epoch / recipe.epochs)) / 2
    else:
        factor = 1.0
    if epoch < recipe.warmup_epochs:
        fraction = (epoch * batches_per_epoch + batch) / (recipe.warmup_epochs * batches_per_epoch)
        factor *= 0.01 + 0.99 * fraction
    return recipe.lr * factor
