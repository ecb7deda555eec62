"""What the trainer asks of a task. Re-identification, attributes and both together are a small file each in ``tasks/``.

recipe.read(folders)  ->  a data set
recipe.plan(dataset)  ->  Plan: the batches, the task, how to score, what to save
task(batch)           ->  {"loss": ..., other scalars to watch}
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from osnet.data.samplers import BatchSampler
from osnet.training.data_list import Row
from osnet.training.epochs import Batch, Epochs, SampledEpochs, Samples
from osnet.types import Preprocessing


class Task(nn.Module, ABC):
    """A network, heads on top, and their losses.

    The trainer knows the network's tensors by the name ``network.``: they take ``backbone_lr_factor``; the others are
    the head's.
    """

    network: nn.Module

    @abstractmethod
    def forward(self, batch: Batch, frozen: bool = False) -> dict[str, Tensor]:
        """A batch -> ``loss``, a scalar with gradient, and scalars to watch.

        A batch of one process holds a part of the global one, and DDP averages gradients over processes: a loss that
        is a mean over some of the images only must count these over all processes.

        ``frozen``: only the heads learn; the network must keep its BatchNorms as they are.
        """


class Plan(ABC):
    """A recipe and a data set, made ready for the trainer. Making it must find what would stop a run later."""

    preprocessing: Preprocessing
    samples: Samples
    task: Task
    """Built with the recipe's seed: the same recipe, the same first weights."""
    metric: str = "score"
    """Which validation score picks the best epoch; higher is better. Logged as ``validation_`` and its name."""
    validated_on: str | None = None
    """What is scored, in words: ``the held-out identities``; None if nothing is, and then the last epoch counts."""
    num_micro_batches: int = 1
    """Into how many parts a process splits its part of a batch, adding up their gradients before the step. Above 1 only
    for losses that are means over images, and then the same but for BatchNorm, which sees the parts."""

    @abstractmethod
    def describe_data(self) -> dict[str, Any]:
        """Sizes and names for ``recipe.json``."""

    def list_data(self) -> Iterator[tuple[Row, Path | None]]:
        """All that is trained on and chosen by, as ``data_list`` has it: a run goes on only with the same rows. Beside
        each row its file, if it is one."""
        yield from ((["sizes", 0, name, value], None) for name, value in self.describe_data().items())

    def make_epochs(self, rank: int, num_ranks: int, device: torch.device) -> Epochs:
        """The batches of process ``rank``; they may lie on ``device`` already.

        Raises:
            DataError: a batch cannot be shared out so.
        """
        return SampledEpochs(self.samples, self.make_sampler(rank, num_ranks), pin=device.type == "cuda")

    def make_sampler(self, rank: int, num_ranks: int) -> BatchSampler:
        """Which samples make up a batch on process ``rank``, for ``make_epochs``."""
        raise NotImplementedError(f"{type(self).__name__} draws no samples")

    @abstractmethod
    def save(self, task: Any, folder: Path) -> None:
        """Write a checkpoint folder (network, heads, card), all or nothing. ``task`` is in eval mode.

        Where validation was due, ``score`` has seen this very task before.
        """

    def score(self, task: Any) -> dict[str, float]:
        """Validation scores, ``metric`` among them, all finite. Called on one process, with ``task`` in eval mode."""
        raise NotImplementedError(f"{type(self).__name__} names no validation")
