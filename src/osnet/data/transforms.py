"""Preprocessing: from a picture to what the network was trained on. One code for training and serving.

Shapes: H, W as in ``Preprocessing.size_hw``; h, w whatever the picture has.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from osnet.types import Interpolation, Preprocessing

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}


def resize_image(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """RGB picture of any size -> (3, H, W) uint8, RGB: stretched by Pillow's filter, or cut as the settings say."""
    resized = image.resize(resized_wh(image.size, preprocessing), _FILTERS[preprocessing.interpolation])
    return cut_centre(to_tensor(resized), preprocessing.size_hw)


def resize_pixels(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """(3, h, w) uint8, RGB -> (3, H, W) uint8: the same as ``resize_image``, bit for bit, sooner where it enlarges.

    PyTorch's antialiased resize of uint8 gives Pillow's values where neither side shrinks, in under half the time.
    Where a side shrinks, up to a fifth of the values are 1 off, so Pillow does it then.
    """
    width, height = resized_wh((pixels.shape[2], pixels.shape[1]), preprocessing)
    enlarges = pixels.shape[1] <= height and pixels.shape[2] <= width
    if not enlarges or preprocessing.interpolation != "bilinear":
        return resize_image(Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()), preprocessing)
    return cut_centre(resize_bytes(pixels, (height, width)), preprocessing.size_hw)


def resize_fractions(image: Tensor, preprocessing: Preprocessing) -> Tensor:
    """(3, h, w) float in [0, 1], RGB -> (3, H, W), smoothed where it shrinks, as Pillow does it.

    Unlike ``resize_image`` it does not round to 1/255 in between.
    """
    width, height = resized_wh((image.shape[2], image.shape[1]), preprocessing)
    if tuple(image.shape[1:]) == (height, width):
        return cut_centre(image, preprocessing.size_hw)
    from torchvision.transforms.v2.functional import InterpolationMode, resize

    mode = InterpolationMode[preprocessing.interpolation.upper()]
    resized: Tensor = resize(image, [height, width], mode, antialias=True)
    return cut_centre(resized.clamp(0, 1), preprocessing.size_hw)


def resize_bytes(pixels: Tensor, size_hw: tuple[int, int], interpolation: Interpolation = "bilinear") -> Tensor:
    """(3, h, w) uint8 -> (3, H, W) uint8, smoothed where it shrinks: Pillow's result to one level, without Pillow.

    For training; what is tested or served takes ``resize_image``.
    """
    if tuple(pixels.shape[1:]) == size_hw:
        return pixels
    if interpolation == "nearest":
        return functional.interpolate(pixels[None], size_hw, mode="nearest-exact")[0]
    return functional.interpolate(pixels[None], size_hw, mode=interpolation, antialias=True)[0]


def resized_wh(size_wh: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Width and height that a picture of ``size_wh`` is resized to before the middle is cut out."""
    height, width = preprocessing.crop_from or preprocessing.size_hw
    if not preprocessing.keep_aspect:
        return width, height
    given_width, given_height = size_wh
    if height * given_width >= width * given_height:  # the height decides; fractions of a pixel are cut off
        return max(width, height * given_width // given_height), height
    return width, max(height, width * given_height // given_width)


def cut_centre(pixels: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """(3, h, w) -> (3, H, W), the middle; an odd rest is shared out as torchvision's CenterCrop does."""
    height, width = size_hw
    top, left = round((pixels.shape[1] - height) / 2), round((pixels.shape[2] - width) / 2)
    return pixels[:, top : top + height, left : left + width]


def to_tensor(image: Image.Image) -> Tensor:
    """RGB picture -> (3, h, w) uint8, laid out pixel by pixel as it is in the picture."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def normalize(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """(B, 3, H, W) RGB, fractions -> what the network expects, in its channel order."""
    if preprocessing.channel_order == "bgr":
        images = images.flip(1)
    mean = torch.tensor(preprocessing.mean, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(preprocessing.std, device=images.device).view(1, 3, 1, 1)
    return (images - mean).div_(std)  # in place: half the traffic


def to_fractions(image: Tensor) -> Tensor:
    """(3, H, W) uint8 in 0..255, or float in [0, 1] already -> float32 in [0, 1]."""
    return image.float().div_(255) if image.dtype == torch.uint8 else image.float()
