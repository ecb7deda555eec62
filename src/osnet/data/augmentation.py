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

from osnet.data.transforms import normalize, resize_image, to_fractions
from osnet.types import Preprocessing

CROP_SCALE = 1.125


@dataclass(frozen=True)
class Augmentation:
    """Probabilities of each step, in the order in which they are applied; 0 leaves a step out.

    Defaults are those of the released weights' recipes: mirroring alone.
    """

    crop: float = 0.0
    """Resize to 9/8 of the size and cut a random window (else resize)."""
    flip: float = 0.5
    patch: float = 0.0
    """Random patch: a rectangle of 1 to 50 % of the area, aspect ratio 0.1 to 10, comes from another image of the
    batch, mirrored half of the time. After Torchreid's RandomPatch, which keeps a pool of earlier patches and also
    turns them by up to 10 degrees; a pool would make a sample depend on what was seen before."""
    jitter: float = 0.0
    """Brightness within 20 %, contrast within 15 %."""
    erase: float = 0.0
    """Random erasing (Zhong et al., AAAI 2020): a box of 2 to 40 % of the area becomes the mean colour."""

    def __post_init__(self) -> None:
        for name, value in self.__dict__.items():
            if not 0 <= value <= 1:
                raise ValueError(f"augmentation {name} {value} is no probability")

    def apply(
        self,
        image: Image.Image,
        preprocessing: Preprocessing,
        rng: np.random.Generator,
        read_donor: Callable[[], Image.Image] | None = None,
    ) -> Tensor:
        """An RGB picture -> (3, H, W) float32, normalised.

        ``read_donor`` gives the picture that a random patch is taken from; it is called only if there is one.
        """
        height, width = preprocessing.size_hw
        if rng.random() < self.crop:
            large = Preprocessing(size_hw=(round(height * CROP_SCALE), round(width * CROP_SCALE)))
            pixels = resize_image(image, large)
            top, left = rng.integers(0, large.size_hw[0] - height + 1), rng.integers(0, large.size_hw[1] - width + 1)
            pixels = pixels[:, top : top + height, left : left + width]
        else:
            pixels = resize_image(image, preprocessing)
        if rng.random() < self.flip:
            pixels = pixels.flip(2)
        if rng.random() < self.patch and read_donor is not None:
            _patch(pixels, resize_image(read_donor(), preprocessing), rng)
        if rng.random() < self.jitter:
            pixels = _jitter(pixels, rng)
        tensor = normalize(to_fractions(pixels)[None], preprocessing)[0]
        if rng.random() < self.erase:
            _erase(tensor, rng)
        return tensor


def _jitter(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    picture = ImageEnhance.Brightness(picture).enhance(float(rng.uniform(0.8, 1.2)))
    picture = ImageEnhance.Contrast(picture).enhance(float(rng.uniform(0.85, 1.15)))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def _patch(pixels: Tensor, donor: Tensor, rng: np.random.Generator) -> None:
    """In place: a rectangle of ``donor``, which has the same size, at another place."""
    if (box := _draw_box(pixels, (0.01, 0.5), 0.1, rng)) is None:
        return
    top, left, h, w = box
    from_top, from_left = (rng.integers(0, donor.shape[1] - h + 1), rng.integers(0, donor.shape[2] - w + 1))
    patch = donor[:, from_top : from_top + h, from_left : from_left + w]
    pixels[:, top : top + h, left : left + w] = patch.flip(2) if rng.random() < 0.5 else patch


def _erase(tensor: Tensor, rng: np.random.Generator) -> None:
    """In place; the mean colour is 0 after normalisation."""
    if (box := _draw_box(tensor, (0.02, 0.4), 0.3, rng)) is not None:
        top, left, h, w = box
        tensor[:, top : top + h, left : left + w] = 0


def _draw_box(
    tensor: Tensor, area_range: tuple[float, float], least_aspect: float, rng: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """Top, left, height, width of a box within ``tensor``; None if 100 tries did not fit."""
    _, height, width = tensor.shape
    for _ in range(100):
        area = rng.uniform(*area_range) * height * width
        aspect = rng.uniform(least_aspect, 1 / least_aspect)
        h, w = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < h < height and 0 < w < width:
            return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
    return None
