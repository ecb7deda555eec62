"""Batches of classification images in memory (or on a GPU), and of packed images."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

from osnet.data.samplers import BatchSampler
from osnet.errors import DataError
from osnet.photos.image_folder import PhotoBytes
from osnet.photos.photo_augmentation import PhotoAugmentation, pad_and_cut
from osnet.photos.shards import PackedPhotos
from osnet.training.epochs import Batch, ignore_interrupts
from osnet.types import Preprocessing


class ByteEpochs:
    """Batches of images in memory, selected and augmented on the device, so that a GPU does not wait for the CPU.

    Random numbers are drawn for the batch of all processes, and each process takes its part. The result therefore does
    not depend on the number of processes. Images are uint8; the task normalises them.

    Args:
        photos: the images and labels; they are moved to ``device``.
        augmentation: its window must be ``padded`` or ``none``.
        preprocessing: its ``size_hw`` must be the size of the images.
        sampler: chooses the images of each batch.
        device: where batches are made.

    Raises:
        DataError: the augmentation has another window, or the size differs.
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
        """See ``Epochs.load``. ``workers`` is not used."""
        batches = self.sampler.batches(epoch)[first_batch:]
        return self._make(epoch, first_batch, batches), len(batches)

    def _make(self, epoch: int, first_batch: int, batches: list[list[int]]) -> Iterator[Batch]:
        offset = self.sampler.rank * (self.sampler.batch_size // self.sampler.num_ranks)
        for index, batch in enumerate(batches, first_batch):
            rng = np.random.default_rng([self.sampler.seed, epoch, index, 81])
            chosen = torch.tensor(batch, device=self.pixels.device)
            images = pad_and_cut(self.pixels[chosen], self.pad, self.flip, rng, self.sampler.batch_size, offset)
            yield {"image": images, "label": self.labels[chosen]}

    def name_batch(self, epoch: int, batch: int) -> list[str]:
        """Indices of the batch's images in the data set."""
        return [f"image {index}" for index in self.sampler.batches(epoch)[batch]]


def check_bytes(photos: PhotoBytes, augmentation: PhotoAugmentation, preprocessing: Preprocessing) -> None:
    """Check that images in memory can be used without resizing.

    Raises:
        DataError: the preprocessing has another size or a centre crop, or the augmentation's window resizes images.
    """
    size = tuple(photos.pixels.shape[2:])
    if size != preprocessing.size_hw or preprocessing.crop_from is not None:
        wanted = f"size_hw {preprocessing.size_hw} and crop_from {preprocessing.crop_from}"
        raise DataError(
            f"{photos.name} has images of size {size} in memory, which cannot be resized; the recipe has {wanted}. "
            f"Set size_hw to {size} without crop_from, or leave out --in-memory"
        )
    if augmentation.window not in ("padded", "none"):
        raise DataError(
            f"{photos.name} is in memory, so the augmentation's window must be 'padded' or 'none', not "
            f"{augmentation.window!r}; change it or leave out --in-memory"
        )


class PackedEpochs:
    """Batches of packed images, read sequentially. When a run is resumed inside an epoch, images are skipped undecoded.

    The order of images depends on the number of processes and on the number of readers. The latter is therefore a field
    of the recipe and not a ``RunOptions``.

    Args:
        photos: makes the images of an epoch from one batch on: ``PackedPhotos`` with all its other arguments.
        pin: copy batches to pinned memory, from which a GPU copies faster.

    Raises:
        DataError: as for ``PackedPhotos``.
    """

    tied = True

    def __init__(self, photos: Callable[..., PackedPhotos], pin: bool = False) -> None:
        self.photos, self.pin = photos, pin
        self.source = photos(epoch=0, first_batch=0).index.source  # raises an error now if there are too few shards

    def load(self, epoch: int, first_batch: int, workers: int) -> tuple[Iterable[Batch], int]:
        """See ``Epochs.load``. ``workers`` is not used; the recipe sets the number of readers."""
        photos = self.photos(epoch=epoch, first_batch=first_batch)
        loader = photos.loader(pin_memory=self.pin, worker_init_fn=ignore_interrupts)
        return _after(loader, photos.num_extra), sum(photos.num_batches) - first_batch

    def name_batch(self, epoch: int, batch: int) -> list[str]:
        """The batch's number, epoch and source. Single files are not known."""
        return [f"batch {batch + 1} of epoch {epoch + 1} of {self.source}"]


def _after(batches: Iterable[Batch], number: int) -> Iterator[Batch]:
    """All batches except the first ``number``."""
    for index, batch in enumerate(batches):
        if index >= number:
            yield batch
