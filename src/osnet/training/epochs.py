"""A process's batches, epoch by epoch: what the trainer reads from."""

import signal
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from torch import Tensor
from torch.utils.data import DataLoader

from osnet.data.samplers import BatchSampler
from osnet.data.training_set import EpochKeys, Key

Batch = Mapping[str, Tensor]
"""What a DataLoader makes of samples: ``image`` (B, 3, H, W), and the labels by name, each (B, ...)."""


class Samples(Protocol):
    """Training samples, each a function of its key alone, so that a resumed run makes the same ones."""

    def __len__(self) -> int:
        """How many."""
        ...

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """``image`` (3, H, W) float32, normalised, and the labels."""
        ...

    def name_of(self, index: int) -> str:
        """What errors call a sample: its file's name."""
        ...


class Epochs(Protocol):
    """This process's part of every batch; a function of (seed, epoch, number of the batch, rank) alone."""

    tied: bool
    """Whether the order also depends on how many processes there are: then only as many can go on in mid-epoch."""

    def load(self, epoch: int, first_batch: int, workers: int) -> tuple[Iterable[Batch], int]:
        """The batches of ``epoch`` from ``first_batch`` on, and how many they are. ``workers``: processes to read."""
        ...

    def name_batch(self, epoch: int, batch: int) -> list[str]:
        """What errors call its images."""
        ...


class SampledEpochs:
    """Batches that a sampler draws, made of single samples by a DataLoader: the usual kind.

    Args:
        samples: by key.
        sampler: which of them make up a batch.
        pin: copy batches into memory that a GPU reads faster.
    """

    tied = False

    def __init__(self, samples: Samples, sampler: BatchSampler, pin: bool = False) -> None:
        self.samples, self.sampler, self.pin = samples, sampler, pin

    def load(self, epoch: int, first_batch: int, workers: int) -> tuple[Iterable[Batch], int]:
        """As ``Epochs`` says."""
        keys = EpochKeys(self.sampler, epoch, first_batch)
        loader: DataLoader[Any] = DataLoader(
            self.samples,  # type: ignore[arg-type]  # a Protocol, and keys that are tuples
            batch_sampler=keys,
            num_workers=workers,
            worker_init_fn=ignore_interrupts,
            pin_memory=self.pin,
        )
        return loader, len(keys)

    def name_batch(self, epoch: int, batch: int) -> list[str]:
        """The files' names."""
        keys = EpochKeys(self.sampler, epoch, batch)
        return [self.samples.name_of(index) for _, _, index in next(iter(keys))]


def ignore_interrupts(_worker: int) -> None:
    """In the loader's processes: Ctrl-C is for the loop, which ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def split_batch(batch: Batch, parts: int) -> list[Batch]:
    """A batch as ``parts`` equal ones, in order; their number must divide it."""
    if parts == 1:
        return [batch]
    columns = {name: value.chunk(parts) for name, value in batch.items()}
    return [{name: column[number] for name, column in columns.items()} for number in range(parts)]
