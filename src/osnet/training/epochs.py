"""The batches of one process, by epoch."""

import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from torch import Tensor
from torch.utils.data import DataLoader

from osnet.data.samplers import BatchSampler
from osnet.data.training_set import EpochKeys, Key

Batch = Mapping[str, Tensor]
"""A collated batch: ``image`` (B, 3, H, W), and labels by name, each of shape (B, ...)."""


class Samples(Protocol):
    """Training samples. A sample depends on its key alone, so a resumed run trains on the same ones."""

    def __len__(self) -> int:
        """The number of samples."""
        ...

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """The sample: ``image`` (3, H, W) float32, normalised, and its labels by name."""
        ...

    def name_of(self, index: int) -> str:
        """The sample's name in error messages: its file."""
        ...


class Epochs(Protocol):
    """One process's part of every batch. It depends on the seed, the epoch, the batch index and the rank alone."""

    tied: bool
    """True if the order also depends on the number of processes. Then a run that was stopped inside an epoch can be
    resumed only with the same number."""

    def load(self, epoch: int, first_batch: int, workers: int) -> tuple[Iterable[Batch], int]:
        """The batches of an epoch from one batch on, and their number.

        Args:
            epoch: index of the epoch, from 0.
            first_batch: index of the first batch to load, from 0.
            workers: number of processes that read images.
        """
        ...

    def name_batch(self, epoch: int, batch: int) -> list[str]:
        """Names of the batch's images, for error messages."""
        ...


class SampledEpochs:
    """Batches chosen by a sampler and collated from single samples by a DataLoader.

    Args:
        samples: the training samples.
        sampler: chooses the samples of each batch.
        pin: copy batches to pinned memory, from which a GPU copies faster.
    """

    tied = False

    def __init__(self, samples: Samples, sampler: BatchSampler, pin: bool = False) -> None:
        self.samples, self.sampler, self.pin = samples, sampler, pin
        self._keys = _CurrentKeys()
        self._loader: DataLoader[Any] | None = None

    def load(self, epoch: int, first_batch: int, workers: int) -> tuple[Iterable[Batch], int]:
        """See ``Epochs.load``. Worker processes are kept for the next epoch."""
        keys = EpochKeys(self.sampler, epoch, first_batch)
        if self._loader is None or self._loader.num_workers != workers:
            self._loader = DataLoader(
                self.samples,  # type: ignore[arg-type]  # DataLoader wants a Dataset with integer keys
                batch_sampler=self._keys,
                num_workers=workers,
                worker_init_fn=ignore_interrupts,
                pin_memory=self.pin,
                persistent_workers=workers > 0,
            )
        self._keys.keys = keys
        return self._loader, len(keys)

    def name_batch(self, epoch: int, batch: int) -> list[str]:
        """Names of the batch's files."""
        keys = EpochKeys(self.sampler, epoch, batch)
        return [self.samples.name_of(index) for _, _, index in next(iter(keys))]


class _CurrentKeys:
    """The keys of the epoch that is being read, for a loader that reads several."""

    keys: EpochKeys

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.keys)


def ignore_interrupts(_worker: int) -> None:
    """Make a DataLoader worker ignore Ctrl-C, and end without an error on SIGTERM.

    The training loop handles these signals. Clusters send SIGTERM to every process of a job. A worker that the signal
    killed would raise an error in the training process at once, perhaps within an optimiser step.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda _signal, _frame: os._exit(0))


def split_batch(batch: Batch, parts: int) -> list[Batch]:
    """Split a batch into ``parts`` batches of equal size, in order. ``parts`` must divide the batch size."""
    if parts == 1:
        return [batch]
    chunks = {name: value.chunk(parts) for name, value in batch.items()}
    return [{name: values[index] for name, values in chunks.items()} for index in range(parts)]
