"""The inputs of an embedder, as a lazy sequence of jobs that each give named crops.

Accepted are paths of images and of folders, Pillow images, NumPy arrays, tensors, frames with boxes, and iterables of
these. A file is read when its job runs.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

from osnet.data.loading import (
    check_size,
    describe_others,
    explain_no_images,
    list_images,
    list_other_files,
    own_rgb,
    read_pixels,
    to_rgb,
)
from osnet.data.transforms import resize_array, resize_fractions, resize_image, resize_pixels
from osnet.errors import ImageError, ImageWarning
from osnet.types import ChannelOrder, Preprocessing

ACCEPTED = (
    "a path, a folder, a Pillow image, a uint8 array (height, width, 3), a tensor (3, height, width), a Frame, "
    "or an iterable of these"
)


TOGETHER = 8
"""Crops that a thread prepares at a time, if the batch is large enough for all threads."""


@dataclass(frozen=True)
class Frame:
    """An image and the boxes of the people in it. Each box becomes one crop.

    Boxes are truncated to whole pixels and clipped to the image, as trackers do. A box that covers no pixel is an
    error.
    """

    image: Any
    """A path, a Pillow image, an array (height, width, 3) or a tensor (3, height, width)."""
    boxes: ArrayLike
    """(N, 4): left, top, right, bottom in pixels, right and bottom exclusive; or ``supervision.Detections``."""
    name: str | None = None
    """Its name in errors and results; by default its path or its position in the input."""


@dataclass(frozen=True)
class PreparedCrop:
    """A crop at the network's input size, or the error of a crop that cannot be made."""

    name: str
    pixels: Tensor | ImageError
    """(3, H, W), RGB: uint8, or float32 fractions where floats came in."""
    num_rows: int = 1
    """Number of crops that it stands for: all boxes of a frame that cannot be read, else 1."""


@dataclass(frozen=True)
class Job:
    """Work for one thread: read, crop and resize one input."""

    run: Callable[[Preprocessing], list[PreparedCrop]]
    weight: int = 1
    """Number of crops that it holds in memory, at least 1."""


@dataclass(frozen=True)
class _Picture:
    """An image in memory. Channels are reversed last, in the resized crop: in a frame that would take 20 times as long,
    and the result is the same."""

    image: Image.Image | NDArray[np.uint8] | Tensor
    """Pillow's, RGB; or an array (height, width, 3); or a tensor (3, height, width) of float32 fractions."""
    bgr: bool = False
    """The channels of the array or tensor are blue, green, red."""


Prepared = tuple[list[PreparedCrop], Exception | None]
"""Crops in order, and the unexpected error that stopped the work, if any."""


def run_jobs(jobs: Sequence[Job], preprocessing: Preprocessing) -> Prepared:
    """Run jobs in order. An unexpected error ends the run; the crops before it are kept."""
    crops: list[PreparedCrop] = []
    for job in jobs:
        try:
            crops += job.run(preprocessing)
        except Exception as error:
            return crops, error
    return crops, None


def iterate_jobs(inputs: Any, channels: ChannelOrder) -> Iterator[Job]:
    """Jobs for ``inputs``, in order. Iterators are advanced one element at a time."""
    if _is_collection(inputs):
        for index, element in enumerate(inputs):
            yield from _jobs_of(element, f"input {index}", channels)
    else:
        yield from _jobs_of(inputs, "input", channels)


def _is_collection(value: Any) -> bool:
    # Each of these is one input, though Python could iterate over it.
    single = (str, bytes, Path, Image.Image, np.ndarray, Tensor, Frame, Mapping)
    return isinstance(value, Iterable) and not isinstance(value, single)


def _jobs_of(value: Any, name: str, channels: ChannelOrder) -> Iterator[Job]:
    if isinstance(value, str) and not value:  # Path("") is the current folder
        yield _failed(name, ImageError(name, "an empty path"))
    elif isinstance(value, str | Path):
        path = Path(value)
        empty = True
        for file in list_images(path) if path.is_dir() else [path]:
            yield Job(partial(_prepare_file, file))
            empty = False
        if empty:
            yield _failed(str(path), ImageError(str(path), f"a folder without images; {explain_no_images(path)}"))
        elif path.is_dir() and (others := describe_others(list_other_files(path))):
            warnings.warn(ImageWarning(f"left out of {path}: {others}"), stacklevel=2)
    elif isinstance(value, Frame):
        yield from _frame_jobs(value, name, channels)
    elif isinstance(value, np.ndarray | Tensor) and value.ndim == 4:
        for index, image in enumerate(value):
            yield _image_job(image, f"{name}[{index}]", channels)
    else:
        yield _image_job(value, name, channels)


def _image_job(value: Any, name: str, channels: ChannelOrder) -> Job:
    try:
        picture = _check_image(value, name, channels)
        image = _own_copy(picture)
    except ImageError as error:
        return _failed(name, error)
    return Job(lambda preprocessing: [_prepare(name, image, preprocessing)])


def _failed(name: str, error: ImageError, num_rows: int = 1) -> Job:
    return Job(lambda _preprocessing: [PreparedCrop(name, error, num_rows)])


def _frame_jobs(frame: Frame, name: str, channels: ChannelOrder) -> Iterator[Job]:
    """One job for a frame on disk; several for one in memory, so that threads share its boxes."""
    on_disk = isinstance(frame.image, str | Path)
    name = frame.name or (str(frame.image) if on_disk else name)
    num_rows = 1
    try:
        boxes = _check_boxes(frame.boxes, name)
        num_rows = len(boxes)
        picture = None if on_disk else _check_image(frame.image, name, channels)
    except ImageError as error:
        yield _failed(name, error, num_rows)
        return
    if picture is None:
        yield Job(partial(_prepare_boxes, name, Path(frame.image), boxes), max(1, num_rows))
        return
    # The caller may reuse the frame's memory for the next one: copy the crops or the whole image, whichever is smaller.
    width, height = _size_wh(picture)
    left, top, right, bottom = _clip(boxes, width, height).T
    kept = int(((right - left).clip(0) * (bottom - top).clip(0)).sum()) >= width * height
    if kept:
        picture = _own_copy(picture)
    for start in range(0, num_rows, TOGETHER):
        some = _cut_all(picture, boxes[start : start + TOGETHER], name, start)
        crops = some if kept else list(some)
        yield Job(partial(_prepare_crops, crops), min(TOGETHER, num_rows - start))


def _prepare_boxes(
    name: str, path: Path, boxes: NDArray[np.float64], preprocessing: Preprocessing
) -> list[PreparedCrop]:
    try:
        image = read_pixels(path).permute(1, 2, 0).numpy()
    except ImageError as error:
        return [PreparedCrop(name, error, len(boxes))]
    return _prepare_crops(_cut_all(_Picture(image), boxes, name), preprocessing)


def _cut_all(
    picture: _Picture, boxes: NDArray[np.float64], name: str, start: int = 0
) -> Iterator[tuple[str, _Picture | ImageError]]:
    """One crop at a time: overlapping boxes may together be many times the image. ``start``: number of the first."""
    whole = _clip(boxes, *_size_wh(picture)).tolist()
    for number, (box, cut) in enumerate(zip(boxes, whole, strict=True), start):
        crop = f"{name} box {number}"
        yield crop, _cut(picture, box, cut, crop)


def _size_wh(picture: _Picture) -> tuple[int, int]:
    image = picture.image
    if isinstance(image, Image.Image):
        return image.size
    height, width = image.shape[1:] if isinstance(image, Tensor) else image.shape[:2]
    return width, height


def _clip(boxes: NDArray[np.float64], width: int, height: int) -> NDArray[np.int64]:
    """The boxes in whole pixels (N, 4), clipped to the image; empty where a value is not finite."""
    finite = np.isfinite(boxes).all(1, keepdims=True)
    return np.clip(np.trunc(np.where(finite, boxes, 0)), 0, [width, height, width, height]).astype(np.int64)


def _prepare_crops(
    crops: Iterable[tuple[str, _Picture | ImageError]], preprocessing: Preprocessing
) -> list[PreparedCrop]:
    return [
        PreparedCrop(name, crop) if isinstance(crop, ImageError) else _prepare(name, crop, preprocessing)
        for name, crop in crops
    ]


def _prepare(name: str, picture: _Picture, preprocessing: Preprocessing) -> PreparedCrop:
    image = picture.image
    try:
        if isinstance(image, Image.Image):
            return PreparedCrop(name, resize_image(to_rgb(image), preprocessing))
    except OSError as error:  # a lazily opened Pillow image may be truncated
        return PreparedCrop(name, ImageError(name, f"cannot be decoded: {error}"))
    if isinstance(image, np.ndarray):
        return PreparedCrop(name, resize_array(image, preprocessing, picture.bgr))
    resized = resize_fractions(image, preprocessing)
    return PreparedCrop(name, resized.flip(0) if picture.bgr else resized)


def _prepare_file(path: Path, preprocessing: Preprocessing) -> list[PreparedCrop]:
    try:
        return [PreparedCrop(str(path), resize_pixels(read_pixels(path), preprocessing))]
    except ImageError as error:
        return [PreparedCrop(str(path), error)]


def _check_image(value: Any, name: str, channels: ChannelOrder) -> _Picture:
    """The image, in the caller's memory where it is an array or a tensor."""
    if isinstance(value, Image.Image):
        return _Picture(own_rgb(value, name))
    bgr = channels == "bgr"
    if isinstance(value, np.ndarray):
        if value.dtype != np.uint8 or value.ndim != 3 or value.shape[2] != 3:
            raise ImageError(name, f"an array of {value.dtype} {value.shape}; give uint8 (height, width, 3)")
        check_size(name, (value.shape[1], value.shape[0]))
        if value.strides[2] < 0:  # a view such as frame[..., ::-1]: copying from its memory takes ten times as long
            return _Picture(value[..., ::-1], not bgr)
        return _Picture(value, bgr)
    if isinstance(value, Tensor):
        return _Picture(_check_tensor(value, name), bgr)
    raise ImageError(name, f"cannot make a crop of {type(value).__name__}; give {ACCEPTED}")


def _check_tensor(value: Tensor, name: str) -> NDArray[np.uint8] | Tensor:
    if value.ndim != 3 or value.shape[0] != 3:
        raise ImageError(name, f"a tensor of shape {tuple(value.shape)}; give (3, height, width)")
    check_size(name, (value.shape[2], value.shape[1]))
    value = value.detach().cpu()
    if value.dtype == torch.uint8:
        return value.permute(1, 2, 0).numpy()
    if not value.is_floating_point():
        raise ImageError(name, f"a tensor of {value.dtype}; give uint8 in 0..255 or floats in [0, 1]")
    if not bool((value >= 0).all()) or not bool((value <= 1).all()):
        raise ImageError(
            name,
            "a float tensor outside [0, 1]; give fractions of 255 (the embedder normalises them)",
        )
    return value.float()


def _own_copy(picture: _Picture) -> _Picture:
    """A copy of an array or tensor, because the caller may write to it meanwhile; a Pillow image is a copy already."""
    if isinstance(picture.image, Image.Image):
        return picture
    copy = np.array(picture.image, order="C") if isinstance(picture.image, np.ndarray) else picture.image.clone()
    return replace(picture, image=copy)


def _check_boxes(boxes: ArrayLike, name: str) -> NDArray[np.float64]:
    boxes = getattr(boxes, "xyxy", boxes)  # supervision.Detections
    try:
        array = np.asarray(boxes.detach().cpu() if isinstance(boxes, Tensor) else boxes, dtype=np.float64)
    except (TypeError, ValueError):
        raise ImageError(name, "boxes that are not numbers; give (N, 4): left, top, right, bottom in pixels") from None
    if array.size == 0:
        return np.empty((0, 4))
    if array.ndim != 2 or array.shape[1] != 4:
        raise ImageError(name, f"boxes of shape {array.shape}; give (N, 4): left, top, right, bottom in pixels")
    return array


def _cut(picture: _Picture, box: NDArray[np.float64], whole: list[int], name: str) -> _Picture | ImageError:
    """The part of the image in a box, as a copy; an ImageError if there is none. ``whole``: the box from ``_clip``."""
    image, (left, top, right, bottom) = picture.image, whole
    if right <= left or bottom <= top:
        shown = "(" + ", ".join(f"{value:g}" for value in box) + ")"
        if not np.isfinite(box).all():
            return ImageError(name, f"box {shown} holds values that are not finite")
        width, height = _size_wh(picture)
        return ImageError(name, f"box {shown} covers no pixel of the {width} x {height} image")
    if isinstance(image, Image.Image):
        return _Picture(image.crop((left, top, right, bottom)))
    if isinstance(image, Tensor):
        return replace(picture, image=image[:, top:bottom, left:right].clone())
    return _Picture(image[top:bottom, left:right].copy(), picture.bgr)
