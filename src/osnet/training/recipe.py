"""A recipe: everything that decides a training run, in one frozen dataclass; here what all tasks share."""

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
from osnet.models.network import Network
from osnet.models.norms import estimate_norms, lacks_statistics
from osnet.models.registry import get_config, without_neck
from osnet.photos.photo_augmentation import PhotoAugmentation
from osnet.training.task import Plan
from osnet.types import Preprocessing
from osnet.weights.factory import create_model

Optimizer = Literal["sgd", "adam", "amsgrad", "adamw"]
NUM_EXAMPLES = 128
"""Training images from which BatchNorms without statistics take theirs."""
Schedule = Literal["multi_step", "step", "cosine", "constant"]


@dataclass(frozen=True)
class Recipe(ABC):
    """A training run. A task's recipe adds its own fields. Every field can be overridden on the command line.

    Raises:
        ModelError: a value that cannot be, or values that do not fit together.
    """

    name: str
    model: str = "osnet_x1_0"
    """A name of ``osnet models``."""
    width: float | None = None
    """Instead of the named width."""
    pretrained: str | None = None
    """What to start from: ``imagenet``, another published data set, a path; None is from scratch."""
    size_hw: tuple[int, int] = (256, 128)
    epochs: int = 150
    batch_size: int = 64
    """Over all processes; each needs two images at a time, since BatchNorm takes mean and variance over them."""
    optimizer: Optimizer = "amsgrad"
    lr: float = 0.0015
    weight_decay: float = 5e-4
    momentum: float = 0.9
    """Of SGD; the first beta of the others."""
    schedule: Schedule = "step"
    milestones: tuple[int, ...] = ()
    """``multi_step``: epochs at which the rate falls."""
    step_epochs: int = 60
    """``step``: the rate falls every so many epochs."""
    decay: float = 0.1
    """What the rate is multiplied with when it falls."""
    warmup_epochs: int = 0
    """The rate grows linearly from a hundredth over these."""
    frozen_epochs: int = 0
    """First epochs in which only the heads learn; they count as epochs."""
    backbone_lr_factor: float = 1.0
    """The network's rate relative to the heads'."""
    augmentation: Augmentation | PhotoAugmentation = field(default_factory=Augmentation)
    """Each task names its own kind."""
    ema: float = 0.0
    """Weights saved and scored are an average with this memory per step; 0 for none."""
    precision: Literal["fp32", "bf16"] = "fp32"
    sync_batchnorm: bool = False
    """On several GPUs: BatchNorm statistics over all of them, not per process."""
    seed: int = 1
    evaluate_every: int = 10
    """Epochs between scores on the validation part, if there is one."""

    def __post_init__(self) -> None:
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
            raise ModelError(f"recipe {self.name}: batch_size 1 is too small: BatchNorm needs at least 2 images")

    def check_range(self, name: str, low: float, high: float) -> None:
        """For ``__post_init__``: field ``name`` must be from ``low`` to ``high``."""
        if not low <= (value := getattr(self, name)) <= high:
            raise ModelError(f"recipe {self.name}: {name} {value} is outside {low} to {high}")

    def network_settings(self) -> dict[str, Any]:
        """Fields of the network's config that differ from those of its name."""
        return {} if self.width is None else {"width": self.width}

    @abstractmethod
    def read(self, folders: Sequence[Path], combine_all: bool = False, work_dir: Path | None = None) -> Any:
        """The data set in ``folders``, as ``osnet train --data`` names them.

        ``work_dir``: where a benchmark keeps what is made once (drawn splits, extracted images); by default beside the
        data.

        Raises:
            DataError: they hold nothing that this task can train on.
        """

    @abstractmethod
    def plan(self, dataset: Any) -> Plan:
        """Everything that the trainer needs to run this recipe on ``dataset``.

        Raises:
            DataError: it cannot be trained on.
        """


def one_folder(recipe: Recipe, folders: Sequence[Path], combine_all: bool, work_dir: Path | None) -> Path:
    """The only folder, for tasks that cannot join several and make nothing of the data once.

    Raises:
        DataError: there are several, or test images shall be trained on too, or there is a folder of no use.
    """
    if work_dir is not None:
        raise DataError(f"recipe {recipe.name} has no use for a work_dir: only benchmarks of re-identification have")
    if len(folders) != 1 or combine_all:
        raise DataError(
            f"recipe {recipe.name} trains on the training part of one data set; got {len(folders)} folders"
            + (" and combine_all" if combine_all else "")
        )
    return folders[0]


def build_network(recipe: Recipe, examples: Sequence[Path] = (), preprocessing: Preprocessing | None = None) -> Network:
    """The network as the recipe's training begins: the same seed, the same first weights; without a BNNeck's BatchNorm,
    which belongs to the people that it was trained on.

    Args:
        recipe: names the network and its weights.
        examples: training images. Where the weights' BatchNorms have no statistics (OpenVINO folds them), those of
            ``NUM_EXAMPLES`` of these are taken; in eval mode the network stays the same function.
        preprocessing: of the examples.

    Raises:
        ModelError: the recipe's images are not of the size that the network takes.
        WeightsError: no such weights, or they are of another network.
    """
    config = get_config(recipe.model, **recipe.network_settings())
    if config.fixed_size_hw not in (None, recipe.size_hw):
        raise ModelError(
            f"recipe {recipe.name}: size_hw {recipe.size_hw}, but {recipe.model} takes {config.fixed_size_hw} only"
        )
    torch.manual_seed(recipe.seed)
    network = without_neck(create_model(recipe.model, recipe.pretrained, **recipe.network_settings()))
    if recipe.pretrained is not None and examples and lacks_statistics(network):
        settings = preprocessing or Preprocessing()
        chosen = [examples[i] for i in range(0, len(examples), max(1, len(examples) // NUM_EXAMPLES))][:NUM_EXAMPLES]
        images = (torch.stack([resize_image(read_image(p), settings) for p in part]) for part in _in_parts(chosen, 16))
        estimate_norms(network, (normalize(to_fractions(part), settings) for part in images))
    return network


def _in_parts(paths: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    return (paths[start : start + size] for start in range(0, len(paths), size))


def learning_rate(recipe: Recipe, epoch: int, batch: int, batches_per_epoch: int) -> float:
    """The rate at a batch: a pure function, so that nothing has to be saved for it.

    Steps fall at the start of an epoch (counted from 0); the cosine goes from ``lr`` to 0, by epoch, as
    torch's CosineAnnealingLR with one step per epoch does.
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
        done = (epoch * batches_per_epoch + batch) / (recipe.warmup_epochs * batches_per_epoch)
        factor *= 0.01 + 0.99 * done
    return recipe.lr * factor
