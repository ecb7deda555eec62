"""A recipe: everything that decides a training run, in one frozen dataclass."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from osnet.data.augmentation import Augmentation
from osnet.errors import ModelError
from osnet.models.osnet import OSNet
from osnet.models.registry import create_model
from osnet.models.variants import get_config
from osnet.tasks.reid import ReidLoss

Optimizer = Literal["sgd", "adam", "amsgrad", "adamw"]
Schedule = Literal["multi_step", "step", "cosine", "constant"]
Sampler = Literal["random", "identity", "camera", "data set"]


@dataclass(frozen=True)
class Recipe:
    """A training run for re-identification. Every field can be overridden on the command line.

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
    """Over all processes."""
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
    """First epochs in which only the classifier learns; they count as epochs."""
    backbone_lr_factor: float = 1.0
    """The network's rate relative to the classifier's."""
    loss: ReidLoss = field(default_factory=ReidLoss)
    sampler: Sampler = "random"
    images_per_label: int = 4
    """K, for the samplers by identity, by camera and by data set."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    ema: float = 0.0
    """Weights saved and scored are an average with this memory per step; 0 for none."""
    precision: Literal["fp32", "bf16"] = "fp32"
    sync_batchnorm: bool = False
    """On several GPUs: BatchNorm statistics over all of them, not per process."""
    seed: int = 1
    validation: float = 0.0
    """Share of the training identities held out to pick the best epoch; 0: all train, the last epoch counts."""
    evaluate_every: int = 10
    """Epochs between scores on the validation identities."""

    def __post_init__(self) -> None:
        get_config(self.model, **({} if self.width is None else {"width": self.width}))
        for name, low, high in (
            ("epochs", 1, 100_000), ("batch_size", 1, 1_000_000), ("lr", 0, 1000), ("weight_decay", 0, 1),
            ("momentum", 0, 1), ("step_epochs", 1, 100_000), ("decay", 0, 1), ("warmup_epochs", 0, self.epochs),
            ("frozen_epochs", 0, self.epochs), ("backbone_lr_factor", 0, 1000), ("images_per_label", 1, 1000),
            ("ema", 0, 0.99999), ("validation", 0, 0.5), ("evaluate_every", 1, 100_000), ("seed", 0, 2**62),
        ):  # fmt: skip
            if not low <= (value := getattr(self, name)) <= high:
                raise ModelError(f"recipe {self.name}: {name} {value} is outside {low} to {high}")
        if self.loss.triplet and self.sampler != "identity":
            raise ModelError(f"recipe {self.name}: a triplet loss needs sampler 'identity', not {self.sampler!r}")
        if self.loss.triplet and self.images_per_label < 2:
            raise ModelError(f"recipe {self.name}: a triplet loss needs at least 2 images_per_label")


def build_network(recipe: Recipe) -> OSNet:
    """The network as the recipe's training begins: the same seed, the same first weights."""
    torch.manual_seed(recipe.seed)
    width: dict[str, Any] = {} if recipe.width is None else {"width": recipe.width}
    return create_model(recipe.model, recipe.pretrained, **width)


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
