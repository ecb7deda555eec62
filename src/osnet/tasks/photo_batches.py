"""Batches of photographs that are not read one by one: bytes in memory or on a GPU, and packed files."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from osnet.data.samplers import BatchSampler
from osnet.errors import DataError
from osnet.photos.image_folder import PhotoBytes
from osnet.photos.photo_augmentation import PhotoAugmentation, pad_and_cut
from osnet.photos.shards import PackedIndex, PackedPhotos
from osnet.training.epochs import Batch, ignore_interrupts
from osnet.types import Preprocessing


class ByteEpochs:
    """Whole batches taken from bytes and augmented where these lie, so that a GPU waits for nobody.

    The draws are made for the batch of all processes, of which each takes its part: they do not depend on the number
    of processes. Images are given as bytes; the task normalises them.

    Args:
        photos: moved to ``device``.
        augmentation: ``padded`` or ``none``.
        preprocessing: its size must be the images'.
        sampler: which images make up a batch.
        device: where the batches are made.

    Raises:
        DataError: another window or another size.
    """

    tied = False

    def __init__(
        self,
        photos: PhotoBytes,
        augmentation: PhotoAugmentation,
        preprocessing: Preprocessing,
        sampler: BatchSampler,
        device: torch.device,
    ) -> None:
        check_bytes(photos, augmentation, preprocessing)
        self.pad = augmentation.pad if augmentation.window == "padded" else 0
        self.flip, self.sampler = augmentation.flip, sampler
        self.pixels, self.labels = photos.pixels.to(device), photos.labels.to(device)

    def load(self, epoch: int, first_batch: int, workers: int) -> tuple[Iterable[Batch], int]:
        """As ``Epochs`` says; no workers are needed."""
        batches = self.sampler.batches(epoch)[first_batch:]
        return self._make(epoch, first_batch, batches), len(batches)

    def _make(self, epoch: int, first_batch: int, batches: list[list[int]]) -> Iterator[Batch]:
        share = self.sampler.batch_size // self.sampler.num_ranks
        mine = slice(self.sampler.rank * share, (self.sampler.rank + 1) * share)
        for number, batch in enumerate(batches, first_batch):
            rng = np.random.default_rng([self.sampler.seed, epoch, number, 81])
            chosen = torch.tensor(batch, device=self.pixels.device)
            images = pad_and_cut(self.pixels[chosen], self.pad, self.flip, rng, self.sampler.batch_size, mine.start)
            yield {"image": images, "label": self.labels[chosen]}

    def name_batch(self, epoch: int, batch: int) -> list[str]:
        """Their numbers in the archive."""
        return [f"image {index}" for index in self.sampler.batches(epoch)[batch]]


def check_bytes(photos: PhotoBytes, augmentation: PhotoAugmentation, preprocessing: Preprocessing) -> None:
    """Bytes in memory are used at the size that they have.

    Raises:
        DataError: the recipe asks for another size, or for a window that resizes.
    """
    size = tuple(photos.pixels.shape[2:])
    if size != preprocessing.size_hw or preprocessing.crop_from is not None:
        wanted = f"size_hw {preprocessing.size_hw} and crop_from {preprocessing.crop_from}"
        raise DataError(
            f"{photos.name} holds images of {size} in memory, which are not resized; the recipe has {wanted}"
        )
    if augmentation.window not in ("padded", "none"):
        raise DataError(
            f"{photos.name} is held in memory, so the window is 'padded' or 'none', not "
            f"{augmentation.window!r}; or leave out --in-memory"
        )


class PackedEpochs:
    """Packed photographs, read from front to back; going on in mid-epoch skips without decoding.

    The order depends on the number of processes and of their readers: the latter is part of the recipe, not of how it
    is run. Args as for ``PackedPhotos``.
    """

    tied = True

    def __init__(
        self,
        index: PackedIndex,
        batch_size: int,
        augmentation: PhotoAugmentation,
        preprocessing: Preprocessing,
        seed: int,
        rank: int,
        num_ranks: int,
        readers: int,
        pin: bool = False,
    ) -> None:
        self.index, self.readers, self.pin = index, readers, pin
        self.settings: dict[str, Any] = {
            "batch_size": batch_size,
            "augmentation": augmentation,
            "preprocessing": preprocessing,
            "seed": seed,
            "rank": rank,
            "num_ranks": num_ranks,
            "num_workers": readers,
            "as_bytes": True,
        }
        PackedPhotos(index, **self.settings)  # too few shards are found now

    def load(self, epoch: int, first_batch: int, workers: int) -> tuple[Iterable[Batch], int]:
        """As ``Epochs`` says; the recipe says how many readers there are."""
        photos = PackedPhotos(self.index, **self.settings, epoch=epoch, first_batch=first_batch)
        loader = photos.loader(pin_memory=self.pin, worker_init_fn=ignore_interrupts)
        return _after(loader, photos.num_extra), sum(photos.num_batches) - first_batch

    def name_batch(self, epoch: int, batch: int) -> list[str]:
        """Which batch of which source."""
        return [f"batch {batch + 1} of epoch {epoch + 1} of {self.index.source}"]


def _after(batches: Iterable[Batch], number: int) -> Iterator[Batch]:
    """All but the first ``number``."""
    for place, batch in enumerate(batches):
        if place >= number:
            yield batch
