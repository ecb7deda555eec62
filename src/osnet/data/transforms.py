"""Preprocessing: from a picture to what the network was trained on. One code for training and serving.

Shapes: H, W as in ``Preprocessing.size_hw``; h, w whatever the picture has.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from osnet.types import Preprocessing

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}


def resize_image(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """RGB picture of any size -> (3, H, W) uint8, RGB, stretched by Pillow's filter."""
    height, width = preprocessing.size_hw
    resized = image.resize((width, height), _FILTERS[preprocessing.interpolation])
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def resize_fractions(image: Tensor, preprocessing: Preprocessing) -> Tensor:
    """(3, h, w) float in [0, 1], RGB -> (3, H, W), smoothed where it shrinks, as Pillow does it.

    Unlike ``resize_image`` it does not round to 1/255 in between.
    """
    if tuple(image.shape[1:]) == preprocessing.size_hw:
        return image
    from torchvision.transforms.v2.functional import InterpolationMode, resize

    mode = InterpolationMode[preprocessing.interpolation.upper()]
    resized: Tensor = resize(image, list(preprocessing.size_hw), mode, antialias=True)
    return resized.clamp(0, 1)


def normalize(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """(B, 3, H, W) RGB, fractions -> what the network expects, in its channel order."""
    if preprocessing.channel_order == "bgr":
        images = images.flip(1)
    mean = torch.tensor(preprocessing.mean, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(preprocessing.std, device=images.device).view(1, 3, 1, 1)
    return (images - mean) / std


def to_fractions(image: Tensor) -> Tensor:
    """(3, H, W) uint8 in 0..255, or float in [0, 1] already -> float32 in [0, 1]."""
    return image.float() / 255 if image.dtype == torch.uint8 else image.float()
