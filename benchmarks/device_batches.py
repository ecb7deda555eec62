"""Training images in GPU memory: batches are cropped, flipped and patched valid.

Random choices come from the library (``Augmentation.draw``), so samples equal the library's except for rounding: Pillow
rounds to integers after each resizing. This holds for images that are not reduced; images larger than the network's
input are reduced once, before the augmentation.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from osnet.data.augmentation import CROP_SCALE, Draws, Framing
from osnet.data.loading import read_image
from osnet.data.samplers import BatchSampler
from osnet.data.training_set import EpochKeys, Key, TrainingSet
from osnet.data.transforms import normalize, resize_image, to_tensor
from osnet.training.epochs import Batch
from osnet.types import Preprocessing


class DeviceEpochs:
    """Like ``training.epochs.SampledEpochs``, with batches made on a device.

    Args:
        samples: training samples, whose augmentation has no jitter and no erasing.
        sampler: which samples make up a batch.
        device: the device that stores the images and makes the batches.
        threads: number of threads that read the files.
    """

    tied = False

    def __init__(self, samples: TrainingSet, sampler: BatchSampler, device: torch.device, threads: int = 1) -> None:
        if samples.augmentation.jitter or samples.augmentation.erase:
            raise ValueError("jitter and erasing are not made on the device")
        self.samples, self.sampler, self.device = samples, sampler, device
        self.labels = torch.tensor(samples.labels, device=device)
        size_hw = samples.preprocessing.size_hw
        with ThreadPoolExecutor(threads) as pool:
            pictures = list(pool.map(lambda crop: _read(crop.path, size_hw), samples.crops))
        if len({picture.shape for picture in pictures}) != 1:
            raise ValueError("images differ in size; these batches are for data sets of crops of one size")
        self.images = torch.stack(pictures).to(device)

    def load(self, epoch: int, first_batch: int, workers: int) -> tuple[Iterable[Batch], int]:
        """See ``training.epochs.Epochs``; ``workers`` is not used."""
        keys = EpochKeys(self.sampler, epoch, first_batch)
        return self._make(keys), len(keys)

    def name_batch(self, epoch: int, batch: int) -> list[str]:
        """See ``training.epochs.Epochs``."""
        return [self.samples.name_of(index) for _, _, index in next(iter(EpochKeys(self.sampler, epoch, batch)))]

    def _make(self, keys: EpochKeys) -> Iterator[Batch]:
        """Yield batches; the random choices of the next one are made while the device works on this one."""
        with ThreadPoolExecutor(1) as pool:
            waiting = None
            for batch in keys:
                ready, waiting = waiting, (batch, pool.submit(self._draw, batch))
                if ready is not None:
                    yield self._finish(*ready)
            if waiting is not None:
                yield self._finish(*waiting)

    def _draw(self, batch: list[Key]) -> list[Draws]:
        samples = self.samples
        return [
            samples.augmentation.draw(
                samples.preprocessing.size_hw, np.random.default_rng([samples.seed, epoch, place]), len(samples)
            )
            for epoch, place, _ in batch
        ]

    def _finish(self, batch: list[Key], draws) -> Batch:  # type: ignore[no-untyped-def]
        indices = torch.tensor([index for *_, index in batch], device=self.device)
        images = make_batch(self.images, indices, draws.result(), self.samples.preprocessing)
        return {"image": images, "label": self.labels[indices]}


def _read(path, size_hw: tuple[int, int]) -> Tensor:  # type: ignore[no-untyped-def]
    picture = to_tensor(read_image(path))
    if picture.shape[1] <= size_hw[0] and picture.shape[2] <= size_hw[1]:
        return picture
    return resize_image(read_image(path), Preprocessing(size_hw=size_hw))


def make_batch(images: Tensor, indices: Tensor, draws: list[Draws], preprocessing: Preprocessing) -> Tensor:
    """A batch of augmented images (B, 3, H, W): float32, normalised, channels last.

    Args:
        images: (N, 3, h, w) uint8, all training images; patches come from any of them.
        indices: (B,), the batch's indices in ``images``.
        draws: the random choices of each of the B samples.
        preprocessing: the network's preprocessing.
    """
    height, width = preprocessing.size_hw
    rows, columns = (torch.arange(side, device=images.device, dtype=torch.float32) for side in (height, width))
    y, x = rows.view(1, -1, 1).expand(1, height, width), columns.view(1, 1, -1).expand(1, height, width)
    pixels = _sample(images, indices, [drawn.framing for drawn in draws], y, x, (height, width))
    patched = [(i, drawn.patch) for i, drawn in enumerate(draws) if drawn.patch is not None]
    if patched:
        where = torch.tensor([i for i, _ in patched], device=images.device)
        numbers = [
            (
                *patch.box,
                *patch.corner,
                patch.flip,
                np.cos(np.radians(patch.degrees)),
                np.sin(np.radians(patch.degrees)),
            )
            for _, patch in patched
        ]
        values = torch.tensor(numbers, device=images.device, dtype=torch.float32).view(-1, 9, 1, 1).unbind(1)
        top, left, h, w, from_top, from_left, flip, cos, sin = values
        inside = (y >= top) & (y < top + h) & (x >= left) & (x < left + w)
        # Rotated about the centre of the patch with the nearest pixel, as in Pillow.
        across, down = x - left + 0.5 - w / 2, y - top + 0.5 - h / 2
        column, row = (cos * across - sin * down + w / 2).floor(), (sin * across + cos * down + h / 2).floor()
        valid = (column >= 0) & (column < w) & (row >= 0) & (row < h)
        column = torch.where(flip > 0, w - 1 - column, column)
        donors = torch.tensor([patch.donor for _, patch in patched], device=images.device)
        framings = [patch.framing for _, patch in patched]
        patches = _sample(images, donors, framings, from_top + row, from_left + column, (height, width))
        patches = torch.where(valid[:, None], patches, 0)
        pixels[where] = torch.where(inside[:, None], patches, pixels[where])
    return normalize(pixels / 255, preprocessing).contiguous(memory_format=torch.channels_last)


def _sample(
    images: Tensor, indices: Tensor, framings: list[Framing], y: Tensor, x: Tensor, size_hw: tuple[int, int]
) -> Tensor:
    """Pixels (B, 3, H, W) from 0 to 255, sampled at ``y`` and ``x``, each (B or 1, H, W), of the framed images."""
    height, width = size_hw
    numbers = []
    for framing in framings:
        large = (height, width) if framing.corner is None else (round(height * CROP_SCALE), round(width * CROP_SCALE))
        numbers.append((*(framing.corner or (0, 0)), framing.flip, *large))
    values = torch.tensor(numbers, device=images.device, dtype=torch.float32).view(-1, 5, 1, 1).unbind(1)
    top, left, flip, large_height, large_width = values
    x = torch.where(flip > 0, width - 1 - x, x)
    grid = torch.stack([2 * (x + left + 0.5) / large_width - 1, 2 * (y + top + 0.5) / large_height - 1], -1)
    return functional.grid_sample(images[indices].float(), grid, "bilinear", "border", align_corners=False)
