"""Augmentation of photographs of things: one random window, perhaps mirrored. Every draw comes from a given generator.

Shapes: B batch; H, W as in ``Preprocessing.size_hw``.
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
"""Boxes drawn before the random-resized window settles for the middle."""


@dataclass(frozen=True)
class PhotoAugmentation:
    """How a training photograph becomes (3, H, W). What is random is the window and the side that is left.

    Raises:
        ValueError: a setting is outside its range.
    """

    window: Window = "resized"
    """``resized``: a box of random area and aspect ratio, resized (Szegedy et al., CVPR 2015, section 6);
    ``cut``: the picture is resized to ``Preprocessing.crop_from``, and a window of ``size_hw`` cut from it (the
    supplement's, for ImageNet); ``padded``: resized to ``size_hw``, framed with black, and a window cut (He et al.,
    CVPR 2016, section 4.2, for CIFAR); ``none``: as in testing."""
    flip: float = 0.5
    """Probability of mirroring."""
    area: tuple[float, float] = (0.08, 1.0)
    """Share of the picture, for ``resized``."""
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Width to height, for ``resized``; its logarithm is uniform."""
    pad: int = 4
    """Pixels of frame on each side, for ``padded``."""

    def __post_init__(self) -> None:
        if self.window not in get_args(Window):
            raise ValueError(f"unknown window {self.window!r}; choose from {', '.join(get_args(Window))}")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip {self.flip} is no probability")
        for name, (low, high), limit in (("area", self.area, 1.0), ("aspect", self.aspect, 100.0)):
            if not 0 < low <= high <= limit:
                raise ValueError(f"{name} {(low, high)} must be two numbers, rising, above 0 and at most {limit:g}")
        if not 0 <= self.pad <= 512:
            raise ValueError(f"pad {self.pad} is outside 0 to 512")

    def draw(self, image: Image.Image | Tensor, preprocessing: Preprocessing, rng: np.random.Generator) -> Tensor:
        """A picture, or (3, h, w) uint8, RGB -> (3, H, W) uint8, not normalised: the GPU does that to whole batches."""
        height, width = preprocessing.size_hw
        if self.window == "none":
            picture = image if isinstance(image, Image.Image) else Image.fromarray(image.permute(1, 2, 0).numpy())
            pixels = resize_image(picture, preprocessing)
        else:
            pixels = to_tensor(image) if isinstance(image, Image.Image) else image
            size_wh = pixels.shape[2], pixels.shape[1]
            if self.window == "resized":
                left, top, right, bottom = self.draw_box(size_wh, rng)
                pixels = resize_bytes(pixels[:, top:bottom, left:right], (height, width), preprocessing.interpolation)
            elif self.window == "cut":
                wide, high = resized_wh(size_wh, preprocessing)
                pixels = _cut(resize_bytes(pixels, (high, wide), preprocessing.interpolation), (height, width), rng)
            else:
                pixels = resize_bytes(pixels, (height, width), preprocessing.interpolation)
                pixels = _cut(functional.pad(pixels, (self.pad,) * 4), (height, width), rng)
        return pixels.flip(2) if rng.random() < self.flip else pixels

    def apply(
        self,
        image: Image.Image | Tensor,
        preprocessing: Preprocessing,
        rng: np.random.Generator,
        num_donors: int = 0,
        read_donor: Callable[[int], Image.Image] | None = None,
    ) -> Tensor:
        """As ``draw``, normalised: (3, H, W) float32. The last two are for other augmentations."""
        return normalize(to_fractions(self.draw(image, preprocessing, rng))[None], preprocessing)[0]

    def draw_box(self, size_wh: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of a random box: torchvision's rule, ten tries and then the middle."""
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


def _cut(pixels: Tensor, size_hw: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """A window of ``size_hw`` at a random place."""
    height, width = size_hw
    top, left = rng.integers(0, pixels.shape[1] - height + 1), rng.integers(0, pixels.shape[2] - width + 1)
    return pixels[:, top : top + height, left : left + width]


def pad_and_cut(
    images: Tensor, pad: int, flip: float, rng: np.random.Generator, num_drawn: int | None = None, first: int = 0
) -> Tensor:
    """(B, 3, H, W) uint8 -> the same shape: each framed with ``pad`` black pixels, cut at random, perhaps mirrored.

    The whole batch at once, wherever it lies; the draws come from ``rng`` on the CPU, so they are the same anywhere.

    Args:
        images: as bytes, so that 50,000 CIFAR images take 154 MB.
        pad: pixels of frame.
        flip: probability of mirroring.
        rng: of the draws.
        num_drawn: draw for a larger batch, of which these are a part; by default they are all of it.
        first: their place in it.
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
