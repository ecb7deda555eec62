"""The one place where image files are opened. Every picture that enters is small enough, whole, and RGB."""

import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError, features
from torch import Tensor

from osnet.data.damage import find_damage
from osnet.errors import DataError, ImageError, ImageWarning

try:
    import simplejpeg as _simplejpeg
except ImportError:  # Pillow does all of it, slower
    _simplejpeg = None

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".avif"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
"""Files so called are images, whatever the case, readable or not. Others are judged by their content."""
OPTIONAL_FORMATS = {"WEBP": "webp", "AVIF": "avif"}
"""What not every build of Pillow reads."""
FORMATS = (
    *("JPEG", "PNG", "BMP", "PPM", "TIFF", "GIF"),
    *(name for name, codec in OPTIONAL_FORMATS.items() if codec in features.modules and features.check(codec)),
)
"""Decoders that may be tried on a file, whatever it is called: none that runs another program."""
FORMATS_READ = ", ".join({"PPM": "PPM/PGM", "GIF": "GIF (its first frame)"}.get(name, name) for name in FORMATS)
"""The same for a message."""
HEAD = 32
"""So many bytes of a file tell its format."""
CAMERA_RAW = (".dng", ".nef", ".cr2", ".cr3", ".arw", ".orf", ".rw2", ".raf")
"""They begin like TIFF; Pillow would read the thumbnail."""
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
SHOWN = 10
ROTATED = (b"Exif\0\0", b"http://ns.adobe.com/xap/")
"""A JPEG that holds one of these may say that it lies on its side."""
MAX_PIXELS = 64_000_000
"""Larger pictures are refused from their header alone. 64 million pixels decode to 192 MB."""
MAX_BYTES = 1 << 29
"""Larger files are refused unread: twice what ``MAX_PIXELS`` need without compression."""
JPEG = b"\xff\xd8\xff"


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """One image file as 8-bit RGB, upright (EXIF orientation applied), as a viewer shows it on a white page.

    The format is read from the content, not from the name: see ``FORMATS``. Of several frames or pages it is the first.

    Raises:
        ImageError: missing, no regular file, no image of a known format, truncated, more than
            ``max_pixels`` pixels, or with more than 8 bits per channel. The size is checked before
            anything is decoded.
    """
    path = Path(path)
    _check_file(path)
    return _decode(path, str(path), max_pixels)


def decode_image(content: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """As ``read_image``, from a file's bytes; ``name`` is what errors call it."""
    return _decode(BytesIO(content), name, max_pixels)


def decode_pixels(content: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Tensor:
    """As ``decode_image``, as (3, height, width) uint8: the same pixels, sooner where simplejpeg is installed.

    simplejpeg (the extra ``fast``) decodes with the library that Pillow uses, and spares some copies. What may be
    turned by EXIF, is not grey or YCbCr, is damaged, or is no JPEG takes Pillow's way: so all errors are Pillow's.

    Warns:
        ImageWarning: a JPEG is damaged inside (see ``describe_damage``); its pixels are given all the same.
    """
    pixels, complaint = _decode_jpeg(content, max_pixels)
    if pixels is None:
        pixels = np.array(decode_image(content, name, max_pixels))
    if damage := find_damage(content, complaint):
        warnings.warn(ImageWarning(f"{name}: damaged inside, but used: {damage}"), stacklevel=2)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def describe_damage(content: bytes) -> str | None:
    """What is wrong inside a JPEG that decodes all the same (see ``find_damage``), or None.

    Without simplejpeg the decoder's own complaints are not known, and less is found.
    """
    return find_damage(content, _complain(content)) if content.startswith(JPEG) else None


def sees_all_damage() -> bool:
    """True if simplejpeg is installed; see ``describe_damage``."""
    return _simplejpeg is not None


def _decode_jpeg(content: bytes, max_pixels: int) -> tuple[NDArray[np.uint8] | None, str | None]:
    """(height, width, 3), or None for anything but a whole, upright JPEG, grey or in plain colours; and the decoder's
    complaint.
    """
    if _simplejpeg is None or not content.startswith(JPEG):
        return None, None
    try:
        height, width, colours, _ = _simplejpeg.decode_jpeg_header(content, strict=False)
        if not 0 < width * height <= max_pixels:
            return None, None
    except (ValueError, KeyError):  # Pillow says what is wrong with it
        return None, None
    if colours not in ("YCbCr", "Gray") or any(mark in content for mark in ROTATED):
        return None, _complain(content)
    try:
        return _simplejpeg.decode_jpeg(content, "RGB"), None
    except ValueError as error:
        return None, str(error)


def _complain(content: bytes) -> str | None:
    """What the decoder says of a JPEG, if anything; at an eighth of the size, which takes less time."""
    if _simplejpeg is None:
        return None
    try:
        colours = _simplejpeg.decode_jpeg_header(content, strict=False)[2]
        space = "CMYK" if colours in ("CMYK", "YCCK") else "GRAY"
        _simplejpeg.decode_jpeg(content, space, min_height=1, min_width=1, min_factor=8)
    except (ValueError, KeyError) as error:
        return str(error)
    return None


def read_pixels(path: str | Path, max_pixels: int = MAX_PIXELS) -> Tensor:
    """As ``read_image``, as (3, height, width) uint8; see ``decode_pixels``.

    Raises:
        ImageError: as ``read_image``.

    Warns:
        ImageWarning: as ``decode_pixels``.
    """
    return decode_pixels(read_bytes(path), str(path), max_pixels)


def read_bytes(path: str | Path) -> bytes:
    """An image file's content.

    Raises:
        ImageError: missing, no regular file, larger than ``MAX_BYTES``, or no right to read it.
    """
    path = Path(path)
    _check_file(path)
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ImageError(str(path), f"{size:,} bytes is more than the {MAX_BYTES:,} allowed")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(str(path), f"cannot be read: {error.strerror}") from error


def _check_file(path: Path) -> None:
    """Raises ImageError for what is not a regular file."""
    if path.is_symlink() and not path.exists():
        raise ImageError(str(path), f"a broken link: there is no file {path.readlink()}")
    if not path.is_file():
        raise ImageError(str(path), "no such file" if not path.exists() else "not a regular file")


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
        unknown = isinstance(error, UnidentifiedImageError)
        raise ImageError(name, _why_not_image(source) if unknown else f"cannot be decoded: {error}") from error


def check_header(path: str | Path) -> None:
    """Look at a file's beginning only: is it an image that ``read_image`` would begin to decode?

    Raises:
        ImageError: as ``read_image``, but for what shows only in decoding.
    """
    path = Path(path)
    _check_file(path)
    try:
        with Image.open(path, formats=FORMATS) as image:
            check_size(str(path), image.size)
    except ImageError:
        raise
    except Exception as error:  # as above
        raise ImageError(str(path), _why_not_image(path)) from error


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
        return to_rgb(ImageOps.exif_transpose(image))
    except MemoryError:
        raise
    except Exception as error:  # a lazy image may be closed, truncated, or worse
        raise ImageError(name, f"cannot be decoded: {error!r}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """The same picture in mode RGB. What is transparent is laid on white: the colours under it are not seen."""
    if image.has_transparency_data:
        page = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(
            page, (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        ).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def list_files(root: str | Path, hidden: bool = False) -> Iterator[Path]:
    """Files below ``root`` (and broken links), in sorted order, one folder at a time; links are followed.

    Args:
        root: the folder.
        hidden: also hidden files, and hidden folders, which are not looked into.

    Raises:
        DataError: there is no such folder, or one below it cannot be read.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root} is no folder" if root.exists() else f"no such folder: {root}")
    above: dict[str, set[str]] = {}  # real places of a folder and of those above it: a link back up is not followed
    for folder, subfolders, names in os.walk(root, onerror=_refuse_folder, followlinks=True):
        trail = above.pop(folder, set()) | {os.path.realpath(folder)}
        concealed = [name for name in subfolders if name.startswith(".")] if hidden else []
        subfolders[:] = sorted(
            name
            for name in subfolders
            if not name.startswith(".") and os.path.realpath(os.path.join(folder, name)) not in trail  # noqa: PTH118
        )
        above |= {os.path.join(folder, name): trail for name in subfolders}  # noqa: PTH118
        for name in sorted(names + concealed):
            if hidden or not name.startswith("."):
                yield Path(folder) / name


def _refuse_folder(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error


def is_image_file(path: Path) -> bool:
    """True if the name ends in one of ``IMAGE_SUFFIXES``, or if the content is of one of ``FORMATS``.

    Hidden files are none. A file that is called an image is one even if it cannot be read, so that it is not left out
    without a word.
    """
    if path.name.startswith("."):
        return False
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return True
    return path.suffix.lower() not in CAMERA_RAW and _format_of(_head(path)) in FORMATS


def list_images(root: str | Path) -> Iterator[Path]:
    """Image files below ``root`` (see ``is_image_file``), in sorted order. Raises as ``list_files`` does."""
    return (path for path in list_files(root) if is_image_file(path))


def list_other_files(root: str | Path) -> tuple[str, ...]:
    """What ``list_images`` leaves out below ``root``: hidden files and folders too. Raises as ``list_files`` does."""
    return tuple(str(path) for path in list_files(root, hidden=True) if not is_image_file(path))


def describe_others(others: Sequence[str]) -> str:
    """``3 files that are not images: Thumbs.db, ...``: at most ten names, those with a hint first; empty for none."""
    if not others:
        return ""
    shown = map(describe_other, sorted(others, key=lambda name: not _hint(Path(name)))[:SHOWN])
    more = f", ... ({len(others) - SHOWN} more)" if len(others) > SHOWN else ""
    return f"{len(others)} file(s) that are not images or cannot be read as images: {', '.join(shown)}{more}"


def describe_other(name: str) -> str:
    """A file that is not read as an image, with what to do if it is a picture."""
    hint = _hint(Path(name))
    return f"{name} ({hint})" if hint else name


def no_images(root: str | Path) -> DataError:
    """The error for a folder without images: the formats that are read, and what is there instead."""
    return DataError(f"no images in {root}; {explain_no_images(root)}")


def explain_no_images(root: str | Path) -> str:
    """The formats that are read, and what a folder without images holds instead."""
    others = describe_others(list_other_files(root))
    return f"formats read: {FORMATS_READ}" + (f"; it holds {others}" if others else "")


def warn_of_unread(others: Sequence[str]) -> None:
    """Warn of pictures among ``others`` whose format is not read; other files are no loss."""
    if unread := [name for name in others if _hint(Path(name))]:
        warnings.warn(ImageWarning(f"left out: {describe_others(unread)}"), stacklevel=3)


def _hint(path: Path) -> str:
    """What to do about a picture that is not read; empty for anything else."""
    if path.name.startswith("."):
        return ""
    if path.suffix.lower() in (".heic", ".heif", ".hif") or _format_of(_head(path)) == "HEIC":
        return "HEIC is not read: save it as JPEG or PNG"
    if path.suffix.lower() in CAMERA_RAW:
        return "a camera's raw format is not read: save it as JPEG or PNG"
    if _format_of(_head(path)) in set(OPTIONAL_FORMATS) - set(FORMATS):
        return "this build of Pillow does not read it: update Pillow"
    return ""


def _why_not_image(source: Path | BytesIO) -> str:
    head = _head(source) if isinstance(source, Path) else source.getvalue()[:HEAD]
    if not head:
        return "not an image: an empty file"
    if _format_of(head) == "HEIC":
        return "not an image that is read: HEIC; save it as JPEG or PNG"
    return f"not an image of a format that is read: {FORMATS_READ}"


def _head(path: Path) -> bytes:
    """The first bytes of a regular file; none of anything else."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return b""
        with path.open("rb") as file:
            return file.read(HEAD)
    except OSError:
        return b""


def _format_of(head: bytes) -> str:
    """The format that a file begins like, empty if it is none of those known here."""
    if head.startswith(JPEG):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"BM" and head[14:18] in [bytes([size, 0, 0, 0]) for size in (12, 40, 52, 56, 64, 108, 124)]:
        return "BMP"
    if head[:2] in (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6") and head[2:3].isspace() and head[3:4] in b"#0123456789":
        return "PPM"
    if head[4:8] == b"ftyp":
        brands = {head[8:12], *(head[at : at + 4] for at in range(16, HEAD, 4))}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        return "HEIC" if brands & set(HEIF_BRANDS) else ""
    return ""
