"""Augmentation for classification: a random crop and a random horizontal flip.

All random numbers come from a generator that the caller passes.
Shapes: B batch; H, W are the height and width in ``Preprocessing.size_hw``; h, w are those of the given image.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from osnet.data.transforms import normalize, resize_bytes, resize_image, resized_wh, to_fractions, to_tensor
from osnet.types import Preprocessing

Window = Literal["resized", "cut", "padded", "none"]
TRIES = 10
"""Number of random boxes that are tried before the centre of the image is used."""


@dataclass(frozen=True)
class PhotoAugmentation:
    """The settings of the augmentation.

    Raises:
        ValueError: a setting is unknown or out of range.
    """

    window: Window = "resized"
    """How the image is cropped to (3, H, W).

    * ``resized``: crop a box of random area and aspect ratio and resize it (Szegedy et al., CVPR 2015, section 6).
    * ``cut``: resize the image to ``Preprocessing.crop_from`` and crop a random window (the paper's supplement, for
      ImageNet).
    * ``padded``: resize to ``size_hw``, pad with black and crop a random window (He et al., CVPR 2016, section 4.2, for
      CIFAR).
    * ``none``: resize or crop the centre, as in evaluation."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    area: tuple[float, float] = (0.08, 1.0)
    """For ``resized``: range of the area of the box, as a fraction of the image."""
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """For ``resized``: range of the aspect ratio, width to height. Its logarithm is uniformly distributed."""
    pad: int = 4
    """For ``padded``: width of the padding on each side, in pixels, 0 to 512."""

    def __post_init__(self) -> None:
        if self.window not in get_args(Window):
            raise ValueError(f"unknown window {self.window!r}; choose from {', '.join(get_args(Window))}")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip {self.flip} is not a probability; it must be in [0, 1]")
        for name, (low, high), limit in (("area", self.area, 1.0), ("aspect", self.aspect, 100.0)):
            if not 0 < low <= high <= limit:
                raise ValueError(
                    f"{name} {(low, high)} must be a range of two numbers that are above 0 and at most {limit:g}"
                )
        if not 0 <= self.pad <= 512:
            raise ValueError(f"pad {self.pad} is outside 0 to 512")

    def draw(self, image: Image.Image | Tensor, preprocessing: Preprocessing, rng: np.random.Generator) -> Tensor:
        """Augment an RGB image to (3, H, W) uint8, not normalised. Whole batches are normalised later, on the GPU.

        Args:
            image: a Pillow image, or (3, h, w) uint8.
            preprocessing: image size and normalisation.
            rng: generator of the random numbers.
        """
        height, width = preprocessing.size_hw
        if self.window == "none":
            whole = image if isinstance(image, Image.Image) else Image.fromarray(image.permute(1, 2, 0).numpy())
            pixels = resize_image(whole, preprocessing)
        else:
            pixels = to_tensor(image) if isinstance(image, Image.Image) else image
            size_wh = pixels.shape[2], pixels.shape[1]
            if self.window == "resized":
                left, top, right, bottom = self.draw_box(size_wh, rng)
                pixels = resize_bytes(pixels[:, top:bottom, left:right], (height, width), preprocessing.interpolation)
            elif self.window == "cut":
                wide, high = resized_wh(size_wh, preprocessing)
                pixels = _crop(resize_bytes(pixels, (high, wide), preprocessing.interpolation), (height, width), rng)
            else:
                pixels = resize_bytes(pixels, (height, width), preprocessing.interpolation)
                pixels = _crop(functional.pad(pixels, (self.pad,) * 4), (height, width), rng)
        return pixels.flip(2) if rng.random() < self.flip else pixels

    def apply(
        self,
        image: Image.Image | Tensor,
        preprocessing: Preprocessing,
        rng: np.random.Generator,
        num_donors: int = 0,
        read_donor: Callable[[int], Image.Image] | None = None,
    ) -> Tensor:
        """Augment an RGB image like ``draw``, and normalise it: (3, H, W) float32.

        ``num_donors`` and ``read_donor`` are ignored. They exist because ``Augmentation.apply`` has them.
        """
        return normalize(to_fractions(self.draw(image, preprocessing, rng))[None], preprocessing)[0]

    def draw_box(self, size_wh: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Draw a random box by the rule of torchvision's RandomResizedCrop. Returns left, top, right, bottom."""
        width, height = size_wh
        low, high = (math.log(a) for a in self.aspect)
        for _ in range(TRIES):
            area = width * height * rng.uniform(*self.area)
            aspect = math.exp(rng.uniform(low, high))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
                return left, top, left + w, top + h
        w, h = width, height
        if width / height < self.aspect[0]:
            h = min(height, round(width / self.aspect[0]))
        elif width / height > self.aspect[1]:
            w = min(width, round(height * self.aspect[1]))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h


def _crop(pixels: Tensor, size_hw: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """Crop a window of ``size_hw`` at a random position."""
    height, width = size_hw
    top, left = rng.integers(0, pixels.shape[1] - height + 1), rng.integers(0, pixels.shape[2] - width + 1)
    return pixels[:, top : top + height, left : left + width]


def pad_and_cut(
    images: Tensor, pad: int, flip: float, rng: np.random.Generator, num_drawn: int | None = None, first: int = 0
) -> Tensor:
    """Augment a batch (B, 3, H, W) uint8: pad each image with black, crop a random window, and flip it at random.

    The batch is processed at once, on its device. Random numbers are drawn on the CPU, so they do not depend on the
    device. The result has the same shape.

    Args:
        images: the images as bytes, so that 50,000 CIFAR images take 154 MB.
        pad: width of the padding on each side, in pixels.
        flip: probability of a horizontal flip.
        rng: generator of the random numbers.
        num_drawn: size of the larger batch that ``images`` are a part of; default: ``images`` are the whole batch.
            Random numbers are drawn for the larger batch.
        first: index of the first image in the larger batch.
    """
    num, _, height, width = images.shape
    drawn, part = num_drawn or num, slice(first, first + num)
    corners = torch.from_numpy(rng.integers(0, 2 * pad + 1, (2, drawn))[:, part]).to(images.device)
    mirrored = torch.from_numpy((rng.random(drawn) < flip)[part]).to(images.device)
    rows = corners[0][:, None] + torch.arange(height, device=images.device)
    columns = corners[1][:, None] + torch.arange(width, device=images.device)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    framed = functional.pad(images, (pad,) * 4).permute(0, 2, 3, 1)
    each = torch.arange(num, device=images.device)[:, None, None]
    return framed[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
