"""Augmentation of training images.

The steps are applied in this order, each with its own probability:

1. resize to the input size, or resize to 9/8 of it and crop a random window
2. horizontal flip
3. random patch
4. colour jitter
5. conversion to fractions and normalisation (always)
6. random erasing

All random numbers come from a generator that the caller passes. Therefore a sample depends neither on the worker that
makes it nor on interruptions of the run.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from osnet.data.transforms import normalize, resize_image, resize_pixels, to_fractions, to_tensor
from osnet.types import Preprocessing

CROP_SCALE = 1.125
MAX_DEGREES = 10


Picture = Image.Image | Tensor
"""An RGB image: Pillow's, or pixels (3, height, width) uint8."""


@dataclass(frozen=True)
class Augmentation:
    """The probability of each step, in [0, 1], in the order of the steps. A step with probability 0 is never applied.

    The defaults are those of the recipes of the published weights: horizontal flips only.

    Raises:
        ValueError: a probability is outside [0, 1].
    """

    crop: float = 0.0
    """Resize to 9/8 of the input size and crop a random window. Otherwise the image is resized to the input size."""
    flip: float = 0.5
    """Flip horizontally."""
    patch: float = 0.0
    """Random patch: replace a rectangle of 1 to 50 % of the area, with aspect ratio 0.1 to 10, by a patch of another
    training image. Half of the patches are flipped. Half are rotated by a whole number of degrees from -10 to 10, with
    black corners. These values are those of Torchreid's RandomPatch. Torchreid takes patches from a pool of the last
    50,000 patches, about four epochs of Market-1501. Here the patch comes from a random image of the whole training
    set, cropped and flipped like any other image, so a sample does not depend on earlier samples."""
    jitter: float = 0.0
    """Change the brightness by up to 20 % and the contrast by up to 15 %."""
    erase: float = 0.0
    """Random erasing (Zhong et al., AAAI 2020): fill a box of 2 to 40 % of the area with the mean colour."""

    def __post_init__(self) -> None:
        for name, value in self.__dict__.items():
            if not 0 <= value <= 1:
                raise ValueError(f"augmentation {name}={value}: a probability must be in [0, 1]")

    def draw(self, size_hw: tuple[int, int], rng: np.random.Generator, num_donors: int = 0) -> "Draws":
        """Draw the random choices for one sample.

        Args:
            size_hw: height and width of the network's input, in pixels.
            rng: generator of the random numbers.
            num_donors: number of images that a random patch may come from; 0 means no random patch.
        """
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
        degrees = int(rng.integers(-MAX_DEGREES, MAX_DEGREES + 1)) if rng.random() < 0.5 else 0
        return Patch(donor, framing, box, (top, left), flip, degrees)

    def apply(
        self,
        image: Picture,
        preprocessing: Preprocessing,
        rng: np.random.Generator,
        num_donors: int = 0,
        read_donor: Callable[[int], Picture] | None = None,
    ) -> Tensor:
        """Augment an RGB image. Returns (3, H, W) float32, normalised.

        Args:
            image: RGB image of any size; as pixels it is resized faster, with the same result.
            preprocessing: input size (H, W) and normalisation of the network.
            rng: generator of the random numbers.
            num_donors: number of images that a random patch may come from; 0 means no random patch.
            read_donor: reads the RGB image with an index below ``num_donors``; needed if ``num_donors`` is not 0.
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
    """How an image is resized, cropped and flipped."""

    corner: tuple[int, int] | None
    """Top and left of the crop window in the image at 9/8 of the input size. None: no crop."""
    flip: bool
    """Whether to flip horizontally afterwards."""

    def apply(self, image: Picture, preprocessing: Preprocessing) -> Tensor:
        """Resize, crop and flip an RGB image. Returns (3, H, W) uint8."""
        larger = self.larger(preprocessing)
        pixels = resize_pixels(image, larger) if isinstance(image, Tensor) else resize_image(image, larger)
        if self.corner is not None:
            (top, left), (height, width) = self.corner, preprocessing.size_hw
            pixels = pixels[:, top : top + height, left : left + width]
        return pixels.flip(2) if self.flip else pixels

    def larger(self, preprocessing: Preprocessing) -> Preprocessing:
        """The settings for the resize: those of ``preprocessing``, or 9/8 of its size if the image is cropped."""
        if self.corner is None:
            return preprocessing
        height, width = preprocessing.size_hw
        return Preprocessing(size_hw=(round(height * CROP_SCALE), round(width * CROP_SCALE)))


@dataclass(frozen=True)
class Patch:
    """A rectangle that is copied from another image, the donor."""

    donor: int
    """Index of the donor in the training set."""
    framing: Framing
    """How the donor is resized, cropped and flipped."""
    box: Box
    """Position and size of the rectangle in the sample."""
    corner: tuple[int, int]
    """Top and left of the rectangle in the donor."""
    flip: bool
    """Whether to flip the patch horizontally."""
    degrees: int
    """Counter-clockwise rotation of the patch about its centre, after the flip. The size stays the same and uncovered
    corners become black."""

    def apply(self, pixels: Tensor, donor: Tensor) -> None:
        """Copy the patch from ``donor`` into ``pixels``, in place. Both are (3, H, W) uint8."""
        (top, left, h, w), (from_top, from_left) = self.box, self.corner
        patch = donor[:, from_top : from_top + h, from_left : from_left + w]
        if self.flip:
            patch = patch.flip(2)
        if self.degrees:
            patch = to_tensor(Image.fromarray(patch.permute(1, 2, 0).contiguous().numpy()).rotate(self.degrees))
        pixels[:, top : top + h, left : left + w] = patch


@dataclass(frozen=True)
class Draws:
    """The random choices for one sample. None means that the step is not applied."""

    framing: Framing
    patch: Patch | None
    light: tuple[float, float] | None
    """Factors of brightness and contrast."""
    erased: Box | None
    """The box that is filled with the mean colour."""


def _jitter(pixels: Tensor, brightness: float, contrast: float) -> Tensor:
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    image = ImageEnhance.Brightness(image).enhance(brightness)
    image = ImageEnhance.Contrast(image).enhance(contrast)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _draw_box(
    size_hw: tuple[int, int], area_range: tuple[float, float], least_aspect: float, rng: np.random.Generator
) -> Box | None:
    """Draw a box within ``size_hw``. Returns None if none of 100 random boxes fits.

    ``area_range`` is a range of fractions of the area. The aspect ratio lies between ``least_aspect`` and its inverse.
    """
    height, width = size_hw
    for _ in range(100):
        area = rng.uniform(*area_range) * height * width
        aspect = rng.uniform(least_aspect, 1 / least_aspect)
        h, w = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < h < height and 0 < w < width:
            return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
    return None
