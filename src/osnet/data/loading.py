"""The one place where image files are opened. Every picture that enters is small enough, whole, and RGB."""

import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from osnet.errors import DataError, ImageError

try:
    import simplejpeg as _simplejpeg
except ImportError:  # Pillow does all of it, slower
    _simplejpeg = None

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm")
"""What is taken for an image in a folder, whatever the case."""
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM")
"""Decoders that may be tried on a file, whatever it is called."""
ROTATED = (b"Exif\0\0", b"http://ns.adobe.com/xap/")
"""A JPEG that holds one of these may say that it lies on its side."""
MAX_PIXELS = 64_000_000
"""Larger pictures are refused from their header alone. 64 million pixels decode to 192 MB."""


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """One image file as 8-bit RGB, upright (EXIF orientation applied), as a viewer shows it.

    Raises:
        ImageError: missing, no regular file, no image of a known format, truncated, more than
            ``max_pixels`` pixels, or with more than 8 bits per channel. The size is checked before
            anything is decoded.
    """
    path = Path(path)
    if not path.is_file():
        raise ImageError(str(path), "no such file" if not path.exists() else "not a regular file")
    return _decode(path, str(path), max_pixels)


def decode_image(content: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """As ``read_image``, from a file's bytes; ``name`` is what errors call it."""
    return _decode(BytesIO(content), name, max_pixels)


def decode_pixels(content: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Tensor:
    """As ``decode_image``, as (3, height, width) uint8: the same pixels, sooner where simplejpeg is installed.

    simplejpeg (the extra ``fast``) decodes with the library that Pillow uses, and spares some copies. What may be
    turned by EXIF, is not grey or YCbCr, is damaged, or is no JPEG takes Pillow's way: so all errors are Pillow's.
    """
    pixels = _decode_jpeg(content, max_pixels)
    if pixels is not None:
        return torch.from_numpy(pixels).permute(2, 0, 1)
    return torch.from_numpy(np.array(decode_image(content, name, max_pixels))).permute(2, 0, 1)


def _decode_jpeg(content: bytes, max_pixels: int) -> NDArray[np.uint8] | None:
    """(height, width, 3); None for anything but a whole, upright JPEG, grey or in plain colours."""
    if _simplejpeg is None or not content.startswith(b"\xff\xd8\xff") or any(mark in content for mark in ROTATED):
        return None
    try:
        height, width, colours, _ = _simplejpeg.decode_jpeg_header(content)
        if colours not in ("YCbCr", "Gray") or not 0 < width * height <= max_pixels:
            return None
        pixels: NDArray[np.uint8] = _simplejpeg.decode_jpeg(content, "RGB")
    except ValueError:  # Pillow says what is wrong with it
        return None
    return pixels


def read_pixels(path: str | Path, max_pixels: int = MAX_PIXELS) -> Tensor:
    """As ``read_image``, as (3, height, width) uint8; see ``decode_pixels``.

    Raises:
        ImageError: as ``read_image``.
    """
    path = Path(path)
    if not path.is_file():
        raise ImageError(str(path), "no such file" if not path.exists() else "not a regular file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ImageError(str(path), f"cannot be read: {error.strerror}") from error
    return decode_pixels(content, str(path), max_pixels)


def _decode(source: Path | BytesIO, name: str, max_pixels: int) -> Image.Image:
    try:
        with Image.open(source, formats=FORMATS) as image:
            check_size(name, image.size, max_pixels)
            if image.mode.startswith(("I", "F")):
                raise ImageError(name, f"pixels of mode {image.mode!r}; give 8 bits per channel")
            image.load()
            return to_rgb(ImageOps.exif_transpose(image))
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(name, f"more than the {max_pixels:,} pixels allowed ({error})") from error
    except MemoryError:
        raise
    except Exception as error:  # decoders meet hostile bytes here and may raise anything
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else f"cannot be decoded: {error}"
        raise ImageError(name, reason) from error


def check_header(path: str | Path) -> None:
    """Look at a file's beginning only: is it an image that ``read_image`` would begin to decode?

    Raises:
        ImageError: as ``read_image``, but for what shows only in decoding.
    """
    path = Path(path)
    if not path.is_file():
        raise ImageError(str(path), "no such file" if not path.exists() else "not a regular file")
    try:
        with Image.open(path, formats=FORMATS) as image:
            check_size(str(path), image.size)
    except ImageError:
        raise
    except Exception as error:  # as above
        raise ImageError(str(path), "not an image" if path.stat().st_size else "an empty file") from error


def check_size(name: str, size_wh: tuple[int, int], max_pixels: int = MAX_PIXELS) -> None:
    """Refuse a picture without pixels or with too many.

    Raises:
        ImageError: it has none, or more than ``max_pixels``.
    """
    width, height = size_wh
    if width < 1 or height < 1:
        raise ImageError(name, f"{width} x {height} pixels: nothing to see")
    if width * height > max_pixels:
        raise ImageError(name, f"{width} x {height} is more than the {max_pixels:,} pixels allowed")


def own_rgb(image: Image.Image, name: str) -> Image.Image:
    """A copy of a picture in memory, loaded, upright and RGB: by the same rules as ``read_image``.

    Raises:
        ImageError: closed, truncated, too large, or with more than 8 bits per channel.
    """
    check_size(name, image.size)
    if image.mode.startswith(("I", "F")):
        raise ImageError(name, f"pixels of mode {image.mode!r}; give 8 bits per channel")
    try:
        return ImageOps.exif_transpose(image).convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # a lazy image may be closed, truncated, or worse
        raise ImageError(name, f"cannot be decoded: {error!r}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """The same picture in mode RGB; transparency is dropped."""
    return image if image.mode == "RGB" else image.convert("RGB")


def list_files(root: str | Path) -> Iterator[Path]:
    """Regular files below ``root``, in sorted order, one folder at a time; hidden ones left out, links followed.

    Raises:
        DataError: there is no such folder, or one below it cannot be read.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root} is no folder" if root.exists() else f"no such folder: {root}")
    above: dict[str, set[str]] = {}  # real places of a folder and of those above it: a link back up is not followed
    for folder, subfolders, names in os.walk(root, onerror=_refuse_folder, followlinks=True):
        trail = above.pop(folder, set()) | {os.path.realpath(folder)}
        subfolders[:] = sorted(
            name
            for name in subfolders
            if not name.startswith(".") and os.path.realpath(os.path.join(folder, name)) not in trail  # noqa: PTH118
        )
        above |= {os.path.join(folder, name): trail for name in subfolders}  # noqa: PTH118
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(folder) / name


def _refuse_folder(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error


def is_image_name(path: Path) -> bool:
    """True if the file's ending is one of ``IMAGE_SUFFIXES``."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def list_images(root: str | Path) -> Iterator[Path]:
    """Image files below ``root`` by their endings, in sorted order. Raises as ``list_files`` does."""
    return (path for path in list_files(root) if is_image_name(path))
