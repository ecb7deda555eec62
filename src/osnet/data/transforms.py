"""Preprocessing: turn an image into the input of a network. Training and inference use the same functions.

Shapes: H, W are the height and width in ``Preprocessing.size_hw``; h, w are those of the given image.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from osnet.data import faster_resize
from osnet.types import Interpolation, Preprocessing

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}


def resize_image(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """Resize an RGB image with Pillow, and crop its centre if the settings say so. Returns (3, H, W) uint8, RGB."""
    resized = image.resize(resized_wh(image.size, preprocessing), _FILTERS[preprocessing.interpolation])
    return crop_centre(to_tensor(resized), preprocessing.size_hw)


def resize_pixels(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Resize (3, h, w) uint8, RGB, to (3, H, W) uint8. The result equals that of ``resize_image`` bit for bit."""
    return resize_array(pixels.permute(1, 2, 0).numpy(), preprocessing)


def resize_array(image: NDArray[np.uint8], preprocessing: Preprocessing, bgr: bool = False) -> Tensor:
    """Resize an array (h, w, 3) to (3, H, W) uint8, RGB. The result equals that of ``resize_image`` bit for bit.

    Bilinear resizing uses compiled code once it is loaded (see ``faster_resize``). Before that, PyTorch's antialiased
    resize of uint8 is used if neither side shrinks and both become powers of two: its weights, of 16 bits, are then
    exact. In other cases some of its values differ by 1, up to a fifth of them if a side shrinks, so Pillow is used.

    Args:
        image: RGB, or with ``bgr`` blue, green, red.
        preprocessing: the size (H, W), the interpolation, and whether the centre is cropped.
        bgr: the channels are reversed; they are reversed in the result, which is smaller than most images.
    """
    width, height = resized_wh((image.shape[1], image.shape[0]), preprocessing)
    if preprocessing.interpolation == "bilinear":
        if (resize := faster_resize.get()) is not None:
            return crop_centre(torch.from_numpy(resize(image, (height, width), bgr)), preprocessing.size_hw)
        enlarges = image.shape[0] <= height and image.shape[1] <= width
        if enlarges and height.bit_count() == width.bit_count() == 1:
            pixels = crop_centre(
                resize_bytes(torch.from_numpy(image).permute(2, 0, 1), (height, width)), preprocessing.size_hw
            )
            return pixels.flip(0) if bgr else pixels
    pixels = resize_image(Image.fromarray(np.ascontiguousarray(image)), preprocessing)
    return pixels.flip(0) if bgr else pixels


def resize_fractions(image: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Resize (3, h, w) float in [0, 1], RGB, to (3, H, W), with antialiasing like Pillow.

    Unlike ``resize_image``, this function does not round intermediate values to multiples of 1/255.
    """
    width, height = resized_wh((image.shape[2], image.shape[1]), preprocessing)
    if tuple(image.shape[1:]) == (height, width):
        return crop_centre(image, preprocessing.size_hw)
    from torchvision.transforms.v2.functional import InterpolationMode, resize

    nearest = preprocessing.interpolation == "nearest"
    mode = InterpolationMode.NEAREST_EXACT if nearest else InterpolationMode(preprocessing.interpolation)
    resized: Tensor = resize(image, [height, width], mode, antialias=True)
    return crop_centre(resized.clamp(0, 1), preprocessing.size_hw)


def resize_bytes(pixels: Tensor, size_hw: tuple[int, int], interpolation: Interpolation = "bilinear") -> Tensor:
    """Resize (3, h, w) uint8 to (3, H, W) uint8 with PyTorch, with antialiasing. Values differ from Pillow's by at most
    1.

    Used for training only. Evaluation and inference use ``resize_image``.
    """
    if tuple(pixels.shape[1:]) == size_hw:
        return pixels
    if interpolation == "nearest":
        return functional.interpolate(pixels[None], size_hw, mode="nearest-exact")[0]
    return functional.interpolate(pixels[None], size_hw, mode=interpolation, antialias=True)[0]


def resized_wh(size_wh: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Width and height to which an image of ``size_wh`` is resized before the centre is cropped."""
    height, width = preprocessing.crop_from or preprocessing.size_hw
    if not preprocessing.keep_aspect:
        return width, height
    given_width, given_height = size_wh
    if height * given_width >= width * given_height:  # scale by the height; round the width down
        return max(width, height * given_width // given_height), height
    return width, max(height, width * given_height // given_width)


def seen_part(size_wh: tuple[int, int], preprocessing: Preprocessing) -> tuple[float, float, float, float]:
    """The part of an image of ``size_wh`` that the network sees: left, top, right, bottom as fractions of its size."""
    width, height = resized_wh(size_wh, preprocessing)
    seen_height, seen_width = preprocessing.size_hw
    top, left = round((height - seen_height) / 2), round((width - seen_width) / 2)
    return left / width, top / height, (left + seen_width) / width, (top + seen_height) / height


def crop_centre(pixels: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Crop the centre (3, H, W) of (3, h, w). Odd margins are rounded as in torchvision's CenterCrop."""
    height, width = size_hw
    if tuple(pixels.shape[1:]) == size_hw:
        return pixels
    top, left = round((pixels.shape[1] - height) / 2), round((pixels.shape[2] - width) / 2)
    return pixels[:, top : top + height, left : left + width]


def to_tensor(image: Image.Image) -> Tensor:
    """Convert an RGB image to (3, h, w) uint8. The memory layout stays channels-last, as in the image."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def normalize(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Normalise (B, 3, H, W), RGB in [0, 1], with mean and standard deviation, in the network's channel order."""
    if preprocessing.channel_order == "bgr":
        images = images.flip(1)
    mean = torch.tensor(preprocessing.mean, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(preprocessing.std, device=images.device).view(1, 3, 1, 1)
    return (images - mean).div_(std)  # in place: halves the memory traffic


def to_fractions(image: Tensor) -> Tensor:
    """Convert (3, H, W) to float32 in [0, 1], from uint8 in 0 to 255 or from float in [0, 1]."""
    return image.float().div_(255) if image.dtype == torch.uint8 else image.float()
