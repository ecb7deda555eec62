"""Augmentation for training: a fixed order of steps, each with its own probability, each from a given generator.

The order, which the settings show: resize (or resize by 1.125 and crop), flip, random patch, colour
jitter, [fractions, normalisation], random erasing. Every draw comes from the generator that is passed
in, so a sample looks the same whichever worker makes it and however often a run was interrupted.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from osnet.data.transforms import normalize, resize_image, to_fractions, to_tensor
from osnet.types import Preprocessing

CROP_SCALE = 1.125
MOST_DEGREES = 10


@dataclass(frozen=True)
class Augmentation:
    """Probabilities of each step, in the order in which they are applied; 0 leaves a step out.

    Defaults are those of the released weights' recipes: mirroring alone.
    """

    crop: float = 0.0
    """Resize to 9/8 of the size and cut a random window (else resize)."""
    flip: float = 0.5
    patch: float = 0.0
    """Random patch: a rectangle of 1 to 50 % of the area, aspect ratio 0.1 to 10, comes from another training image.
    Half of the patches are mirrored; half are turned by a whole number of degrees from -10 to 10, with black corners.
    The values are those of Torchreid's RandomPatch. Its pool holds the last 50,000 patches, about four epochs of
    Market-1501. Here the pool is the training set: a patch is cut from an image that the sample's own generator
    draws, cropped and mirrored like any other, so no sample depends on what was seen before."""
    jitter: float = 0.0
    """Brightness within 20 %, contrast within 15 %."""
    erase: float = 0.0
    """Random erasing (Zhong et al., AAAI 2020): a box of 2 to 40 % of the area becomes the mean colour."""

    def __post_init__(self) -> None:
        for name, value in self.__dict__.items():
            if not 0 <= value <= 1:
                raise ValueError(f"augmentation {name} {value} is no probability")

    def draw(self, size_hw: tuple[int, int], rng: np.random.Generator, num_donors: int = 0) -> "Draws":
        """What happens to one sample of ``size_hw`` pixels. ``num_donors``: images that a patch may come from."""
        framing = self._draw_framing(size_hw, rng)
        patch = self._draw_patch(size_hw, rng, num_donors) if rng.random() < self.patch and num_donors else None
        light = (rng.uniform(0.8, 1.2), rng.uniform(0.85, 1.15)) if rng.random() < self.jitter else None
        erased = _draw_box(size_hw, (0.02, 0.4), 0.3, rng) if rng.random() < self.erase else None
        return Draws(framing, patch, light, erased)

    def _draw_framing(self, size_hw: tuple[int, int], rng: np.random.Generator) -> "Framing":
        corner = None
        if rng.random() < self.crop:
            top, left = (int(rng.integers(0, round(side * CROP_SCALE) - side + 1)) for side in size_hw)
            corner = (top, left)
        return Framing(corner, bool(rng.random() < self.flip))

    def _draw_patch(self, size_hw: tuple[int, int], rng: np.random.Generator, num_donors: int) -> "Patch | None":
        donor, framing = int(rng.integers(num_donors)), self._draw_framing(size_hw, rng)
        if (box := _draw_box(size_hw, (0.01, 0.5), 0.1, rng)) is None:
            return None
        top, left = (int(rng.integers(0, side - length + 1)) for side, length in zip(size_hw, box[2:], strict=True))
        flip = bool(rng.random() < 0.5)
        degrees = int(rng.integers(-MOST_DEGREES, MOST_DEGREES + 1)) if rng.random() < 0.5 else 0
        return Patch(donor, framing, box, (top, left), flip, degrees)

    def apply(
        self,
        image: Image.Image,
        preprocessing: Preprocessing,
        rng: np.random.Generator,
        num_donors: int = 0,
        read_donor: Callable[[int], Image.Image] | None = None,
    ) -> Tensor:
        """An RGB picture -> (3, H, W) float32, normalised.

        ``read_donor`` gives the picture, of ``num_donors``, that a random patch is cut from.
        """
        drawn = self.draw(preprocessing.size_hw, rng, num_donors)
        pixels = drawn.framing.apply(image, preprocessing)
        if drawn.patch is not None:
            assert read_donor is not None
            drawn.patch.apply(pixels, drawn.patch.framing.apply(read_donor(drawn.patch.donor), preprocessing))
        if drawn.light is not None:
            pixels = _jitter(pixels, *drawn.light)
        tensor = normalize(to_fractions(pixels)[None], preprocessing)[0]
        if drawn.erased is not None:
            top, left, h, w = drawn.erased
            tensor[:, top : top + h, left : left + w] = 0  # the mean colour is 0 after normalisation
        return tensor


Box = tuple[int, int, int, int]
"""Top, left, height, width, in pixels of the network's input."""


@dataclass(frozen=True)
class Framing:
    """How an image becomes the network's input."""

    corner: tuple[int, int] | None
    """Top and left of the window that is cut out of the image at 9/8 of the size; None: it is just resized."""
    flip: bool
    """Then mirrored."""

    def apply(self, image: Image.Image, preprocessing: Preprocessing) -> Tensor:
        """(3, H, W) uint8."""
        pixels = resize_image(image, self.larger(preprocessing))
        if self.corner is not None:
            (top, left), (height, width) = self.corner, preprocessing.size_hw
            pixels = pixels[:, top : top + height, left : left + width]
        return pixels.flip(2) if self.flip else pixels

    def larger(self, preprocessing: Preprocessing) -> Preprocessing:
        """What the image is resized to."""
        if self.corner is None:
            return preprocessing
        height, width = preprocessing.size_hw
        return Preprocessing(size_hw=(round(height * CROP_SCALE), round(width * CROP_SCALE)))


@dataclass(frozen=True)
class Patch:
    """A rectangle that comes from another image."""

    donor: int
    framing: Framing
    """Of the donor."""
    box: Box
    """Where it goes."""
    corner: tuple[int, int]
    """Top and left of where it comes from."""
    flip: bool
    degrees: int
    """Turned about its centre after that, counter-clockwise; the size stays, corners that come free are black."""

    def apply(self, pixels: Tensor, donor: Tensor) -> None:
        """In place; both (3, H, W) uint8."""
        (top, left, h, w), (from_top, from_left) = self.box, self.corner
        patch = donor[:, from_top : from_top + h, from_left : from_left + w]
        if self.flip:
            patch = patch.flip(2)
        if self.degrees:
            patch = to_tensor(Image.fromarray(patch.permute(1, 2, 0).contiguous().numpy()).rotate(self.degrees))
        pixels[:, top : top + h, left : left + w] = patch


@dataclass(frozen=True)
class Draws:
    """What happens to one sample."""

    framing: Framing
    patch: Patch | None
    light: tuple[float, float] | None
    """Factors of brightness and contrast."""
    erased: Box | None


def _jitter(pixels: Tensor, brightness: float, contrast: float) -> Tensor:
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    picture = ImageEnhance.Brightness(picture).enhance(brightness)
    picture = ImageEnhance.Contrast(picture).enhance(contrast)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def _draw_box(
    size_hw: tuple[int, int], area_range: tuple[float, float], least_aspect: float, rng: np.random.Generator
) -> Box | None:
    """A box within ``size_hw``; None if 100 tries did not fit."""
    height, width = size_hw
    for _ in range(100):
        area = rng.uniform(*area_range) * height * width
        aspect = rng.uniform(least_aspect, 1 / least_aspect)
        h, w = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < h < height and 0 < w < width:
            return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
    return None
