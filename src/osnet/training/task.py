"""The interface between the trainer and a task. The tasks are in ``osnet.tasks``, one file each.

recipe.read(folders)  ->  data set
recipe.plan(dataset)  ->  Plan: batches, task, validation, saving
task(batch)           ->  {"loss": ..., other scalars to log}
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
    """A network, the heads on top of it, and their losses.

    Parameters whose name starts with ``network.`` are trained with the learning rate times ``backbone_lr_factor``. All
    other parameters belong to the heads and are trained with the full learning rate.
    """

    network: nn.Module

    @abstractmethod
    def forward(self, batch: Batch, frozen: bool = False) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        With several processes each gets a part of the batch, and DDP averages their gradients. A loss that is a mean
        over only some of the images must therefore count these images over all processes (``mean_count``).

        Args:
            batch: this process's part of the batch.
            frozen: train the heads only; the network must also keep its BatchNorm statistics.

        Returns:
            ``loss``, a scalar with gradient, and other scalars to log.
        """


class Plan(ABC):
    """A recipe prepared for one data set: all that the trainer needs.

    A plan checks its data when it is made, so that an error does not stop a run hours later.
    """

    preprocessing: Preprocessing
    samples: Samples
    task: Task
    """Built with the recipe's seed, so that the same recipe starts from the same weights."""
    metric: str = "score"
    """Name of the validation score that decides which epoch is best; higher is better. It is logged with the prefix
    ``validation_``."""
    validated_on: str | None = None
    """Name of the validation data for messages, such as ``the held-out identities``; None if there is no validation."""
    num_micro_batches: int = 1
    """Number of parts into which a process splits its part of a batch (gradient accumulation). More than 1 is correct
    only if the loss is a mean over images. BatchNorm's statistics are then those of each part."""

    @abstractmethod
    def describe_data(self) -> dict[str, Any]:
        """Sizes and names of the data, for ``recipe.json``."""

    def list_data(self) -> Iterator[tuple[Row, Path | None]]:
        """Rows of ``data_list`` for the training and validation data, each with its file or None.

        A run can be resumed only with the same rows.
        """
        yield from ((["sizes", 0, name, value], None) for name, value in self.describe_data().items())

    def make_epochs(self, rank: int, num_ranks: int, device: torch.device) -> Epochs:
        """Make the batches of one process.

        Args:
            rank: index of the process.
            num_ranks: number of processes.
            device: where the network runs; the batches may be there already.

        Raises:
            DataError: the batch size cannot be divided among the processes.
        """
        return SampledEpochs(self.samples, self.make_sampler(rank, num_ranks), pin=device.type == "cuda")

    def make_sampler(self, rank: int, num_ranks: int) -> BatchSampler:
        """Make the sampler that chooses the samples of each batch of process ``rank``."""
        raise NotImplementedError(f"{type(self).__name__} has no sampler")

    @abstractmethod
    def save(self, task: Any, folder: Path) -> None:
        """Write a checkpoint folder (network, heads, card). A crash leaves the old one.

        ``task`` is in eval mode. If validation is due, the trainer calls ``score`` with the same object first.
        """

    def score(self, task: Any) -> dict[str, float]:
        """Compute the validation scores, including ``metric``. All must be finite.

        Called in one process only, with ``task`` in eval mode.
        """
        raise NotImplementedError(f"{type(self).__name__} has no validation")
