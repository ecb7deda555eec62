"""Open image files. All code of this package opens images here, so that limits and checks apply everywhere.

An image is returned only if it decodes completely and is not too large. It is converted to 8-bit RGB.
"""

import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
except ImportError:  # Pillow decodes instead, more slowly
    _simplejpeg = None

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".avif"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
"""A file with one of these suffixes, in any case, counts as an image, even if it is unreadable. Other files are
recognised by their content."""
OPTIONAL_FORMATS = {"WEBP": "webp", "AVIF": "avif"}
"""Formats that not every build of Pillow reads, with the names of their Pillow features."""
FORMATS = (
    *("JPEG", "PNG", "BMP", "PPM", "TIFF", "GIF"),
    *(name for name, codec in OPTIONAL_FORMATS.items() if codec in features.modules and features.check(codec)),
)
"""Pillow's decoders that may be used, independently of the file's name. None of them runs another program."""
FORMATS_READ = ", ".join({"PPM": "PPM/PGM", "GIF": "GIF (its first frame)"}.get(name, name) for name in FORMATS)
"""``FORMATS`` as text for messages."""
HEAD = 32
"""Number of bytes at the start of a file from which its format is recognised."""
CAMERA_RAW = (".dng", ".nef", ".cr2", ".cr3", ".arw", ".orf", ".rw2", ".raf")
"""Suffixes of raw formats that start like TIFF. Pillow would read only their thumbnail."""
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
SHOWN = 10
ROTATED = (b"Exif\0\0", b"http://ns.adobe.com/xap/")
"""A JPEG that contains one of these may have an orientation tag."""
MAX_PIXELS = 64_000_000
"""Larger images are rejected after reading only the header. 64 million pixels decode to 192 MB."""
MAX_BYTES = 1 << 29
"""Larger files are rejected without reading them. The limit is more than twice the uncompressed size of ``MAX_PIXELS``
pixels."""
JPEG = b"\xff\xd8\xff"


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read an image file as 8-bit RGB. The EXIF orientation is applied and transparent pixels become white.

    The format is recognised by the content, not by the name; see ``FORMATS``. If a file has several frames or pages,
    the first is read. The size is checked before the image is decoded. Of colours with 16 bits per channel, the upper
    8 are taken.

    Raises:
        ImageError: the file is missing or not a regular file, its format is unknown, it is truncated or damaged, it has
            more than ``max_pixels`` pixels or no pixels, or grey values of more than 8 bits.
    """
    path = Path(path)
    _check_file(path)
    return _decode(path, str(path), max_pixels)


def decode_image(content: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode the bytes of an image file like ``read_image``. ``name`` identifies the image in error messages."""
    return _decode(BytesIO(content), name, max_pixels)


def decode_pixels(content: bytes, name: str, max_pixels: int = MAX_PIXELS, warn: bool = True) -> Tensor:
    """Decode the bytes of an image file to (3, height, width) uint8. The pixels equal those of ``decode_image``.

    If simplejpeg (extra ``fast``) is installed, most JPEG files decode faster. It uses the same library as Pillow but
    makes fewer copies. Pillow decodes all other formats, and JPEG files that are damaged, may have an EXIF orientation,
    or have other colour spaces than grey and YCbCr. Therefore all errors come from Pillow. With ``warn=False``, damage
    is not looked for: a training run reads each image many times.

    Raises:
        ImageError: the image cannot be decoded; see ``read_image``.

    Warns:
        ImageWarning: a file is damaged (see ``describe_damage``) but decodes. Its pixels are returned.
    """
    pixels, complaint = _decode_jpeg(content, max_pixels)
    if pixels is None:
        pixels = np.array(decode_image(content, name, max_pixels))
    if warn and (damage := find_damage(content, complaint)):
        warnings.warn(ImageWarning(f"{name}: the image is used although it is damaged: {damage}"), stacklevel=2)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def describe_damage(content: bytes) -> str | None:
    """Describe the damage in a file that decodes (see ``find_damage``). Returns None if none is found.

    Without simplejpeg, the JPEG decoder's warnings are not available and less damage is found.
    """
    return find_damage(content, _complain(content) if content.startswith(JPEG) else None)


def sees_all_damage() -> bool:
    """Whether simplejpeg is installed, so that ``describe_damage`` finds all damage that it can."""
    return _simplejpeg is not None


def _decode_jpeg(content: bytes, max_pixels: int) -> tuple[NDArray[np.uint8] | None, str | None]:
    """Decode a JPEG with simplejpeg. Returns pixels (height, width, 3) and the decoder's warning or error.

    The pixels are None if Pillow must decode the file; see ``decode_pixels``.
    """
    if _simplejpeg is None or not content.startswith(JPEG):
        return None, None
    try:
        height, width, colours, _ = _simplejpeg.decode_jpeg_header(content, strict=False)
        if not 0 < width * height <= max_pixels:
            return None, None
    except (ValueError, KeyError):  # Pillow will raise a precise error
        return None, None
    if colours not in ("YCbCr", "Gray") or any(mark in content for mark in ROTATED):
        return None, _complain(content)
    try:
        return _simplejpeg.decode_jpeg(content, "RGB"), None
    except ValueError as error:
        return None, str(error)


def _complain(content: bytes) -> str | None:
    """The decoder's warning or error about a JPEG, or None. Decodes at an eighth of the size, which is faster."""
    if _simplejpeg is None:
        return None
    try:
        colours = _simplejpeg.decode_jpeg_header(content, strict=False)[2]
        space = "CMYK" if colours in ("CMYK", "YCCK") else "GRAY"
        _simplejpeg.decode_jpeg(content, space, min_height=1, min_width=1, min_factor=8)
    except (ValueError, KeyError) as error:
        return str(error)
    return None


def read_pixels(path: str | Path, max_pixels: int = MAX_PIXELS, warn: bool = True) -> Tensor:
    """Read an image file to (3, height, width) uint8. The pixels equal those of ``read_image``.

    Arguments as for ``decode_pixels``.

    Raises:
        ImageError: the image cannot be read; see ``read_image``.

    Warns:
        ImageWarning: a file is damaged but decodes; see ``decode_pixels``.
    """
    return decode_pixels(read_bytes(path), str(path), max_pixels, warn)


def read_bytes(path: str | Path) -> bytes:
    """Read the bytes of an image file.

    Raises:
        ImageError: the file is missing, not a regular file, larger than ``MAX_BYTES``, or not readable.
    """
    path = Path(path)
    _check_file(path)
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ImageError(str(path), f"{size:,} bytes are more than the {MAX_BYTES:,} allowed")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(str(path), f"cannot be read: {error.strerror}") from error


def _check_file(path: Path) -> None:
    """Raise ImageError if ``path`` is not a regular file."""
    try:
        if path.is_symlink() and not path.exists():
            raise ImageError(str(path), f"a broken link: there is no file {path.readlink()}")
        if not path.is_file():
            raise ImageError(str(path), "no such file" if not path.exists() else "not a regular file")
    except OSError as error:  # the name is too long, or the folder must not be read
        raise ImageError(str(path), f"cannot be read: {error.strerror}") from error


def _decode(source: Path | BytesIO, name: str, max_pixels: int) -> Image.Image:
    with _opened(source, name, max_pixels) as image:
        image.load()
        return _upright_rgb(image)


@contextmanager
def _opened(source: Path | BytesIO, name: str, max_pixels: int) -> Iterator[Image.Image]:
    """An image whose header was checked. Errors, also those of the block, become ImageErrors."""
    try:
        with Image.open(source, formats=FORMATS) as image:
            check_size(name, image.size, max_pixels)
            _check_mode(name, image.mode)
            yield image
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(name, f"more than the {max_pixels:,} pixels allowed ({error})") from error
    except MemoryError:
        raise
    except Exception as error:  # with untrusted bytes, decoders may raise any type of error
        unknown = isinstance(error, UnidentifiedImageError)
        raise ImageError(name, _why_not_image(source) if unknown else f"cannot be decoded: {error}") from error


def check_header(path: str | Path) -> None:
    """Check the header of an image file, without decoding the image.

    Raises:
        ImageError: the file is missing or not a regular file, its format is unknown, or the image is too large or
            has grey values of more than 8 bits.
    """
    path = Path(path)
    _check_file(path)
    with _opened(path, str(path), MAX_PIXELS):
        pass


def check_size(name: str, size_wh: tuple[int, int], max_pixels: int = MAX_PIXELS) -> None:
    """Check the size of an image.

    Raises:
        ImageError: the image has no pixels, or more than ``max_pixels``.
    """
    width, height = size_wh
    if width < 1 or height < 1:
        raise ImageError(name, f"{width} x {height}: the image has no pixels")
    if width * height > max_pixels:
        raise ImageError(name, f"{width} x {height} is more than the {max_pixels:,} pixels allowed")


def _check_mode(name: str, mode: str) -> None:
    if mode.startswith(("I", "F")):
        raise ImageError(name, f"pixels of mode {mode!r}; convert it to 8 bits per channel")


def own_rgb(image: Image.Image, name: str) -> Image.Image:
    """Convert a Pillow image in memory to RGB by the rules of ``read_image``. Returns a copy, loaded and upright.

    Raises:
        ImageError: the image is closed, truncated, too large, or has grey values of more than 8 bits.
    """
    check_size(name, image.size)
    _check_mode(name, image.mode)
    try:
        return _upright_rgb(image)
    except MemoryError:
        raise
    except Exception as error:  # an image that is not loaded yet may be closed, truncated or damaged
        raise ImageError(name, f"cannot be decoded: {error!r}") from error


def _upright_rgb(image: Image.Image) -> Image.Image:
    """A copy: upright, in RGB, without metadata. Pillow would write a JPEG's comment into what is made from it."""
    copy = to_rgb(ImageOps.exif_transpose(image))
    copy.info = {}
    return copy


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert to mode RGB. Transparent pixels are composited on white, so that hidden colours do not appear."""
    if image.has_transparency_data:
        page = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(
            page, (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        ).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def list_files(root: str | Path, hidden: bool = False) -> Iterator[Path]:
    """Yield the files below ``root``, in sorted order, folder by folder. Links are followed; broken links are yielded.

    Args:
        root: the folder.
        hidden: also yield hidden files and hidden folders. Hidden folders are not entered.

    Raises:
        DataError: ``root`` is not a folder, or a folder below it cannot be read.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder" if root.exists() else f"no such folder: {root}")
    above: dict[str, set[str]] = {}  # real paths of a folder and its parents; links to these would make a loop
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
    """Whether a file counts as an image: by its suffix (``IMAGE_SUFFIXES``) or by its content (``FORMATS``).

    Hidden files do not count. A file with an image suffix counts even if it cannot be read, so that it causes an error
    and is not left out silently.
    """
    if path.name.startswith("."):
        return False
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return True
    return path.suffix.lower() not in CAMERA_RAW and _format_of(_head(path)) in FORMATS


def list_images(root: str | Path) -> Iterator[Path]:
    """Yield the image files below ``root`` (see ``is_image_file``), in sorted order. Raises like ``list_files``."""
    return (path for path in list_files(root) if is_image_file(path))


def list_other_files(root: str | Path) -> tuple[str, ...]:
    """List the files below ``root`` that ``list_images`` leaves out, and hidden folders. Raises like ``list_files``."""
    return tuple(str(path) for path in list_files(root, hidden=True) if not is_image_file(path))


def describe_others(others: Sequence[str]) -> str:
    """Describe files that are not read as images, in one line: their number and up to ``SHOWN`` names.

    Names with a hint come first. The text is empty if there are no such files.
    """
    if not others:
        return ""
    shown = map(describe_other, sorted(others, key=lambda name: not _hint(Path(name)))[:SHOWN])
    more = f", ... ({len(others) - SHOWN} more)" if len(others) > SHOWN else ""
    return f"{len(others)} file(s) that are not images or cannot be read as images: {', '.join(shown)}{more}"


def describe_other(name: str) -> str:
    """The file's name and, if it is an image in a format that is not read, a hint what to do."""
    hint = _hint(Path(name))
    return f"{name} ({hint})" if hint else name


def no_images(root: str | Path) -> DataError:
    """The error for a folder without images. The message lists the formats that are read and the files found."""
    return DataError(f"no images in {root}; {explain_no_images(root)}")


def explain_no_images(root: str | Path) -> str:
    """Text with the formats that are read and the files in a folder without images."""
    others = describe_others(list_other_files(root))
    return f"formats read: {FORMATS_READ}" + (f"; the folder contains {others}" if others else "")


def warn_of_unread(others: Sequence[str]) -> None:
    """Warn if some of ``others`` are images in a format that is not read."""
    if unread := [name for name in others if _hint(Path(name))]:
        warnings.warn(ImageWarning(f"left out: {describe_others(unread)}"), stacklevel=3)


def _hint(path: Path) -> str:
    """What to do about an image in a format that is not read; empty for other files."""
    if path.name.startswith("."):
        return ""
    if path.suffix.lower() in (".heic", ".heif", ".hif") or _format_of(_head(path)) == "HEIC":
        return "HEIC is not supported: save it as JPEG or PNG"
    if path.suffix.lower() in CAMERA_RAW:
        return "raw formats of cameras are not supported: save it as JPEG or PNG"
    if _format_of(_head(path)) in set(OPTIONAL_FORMATS) - set(FORMATS):
        return "this build of Pillow does not read this format: update Pillow"
    return ""


def _why_not_image(source: Path | BytesIO) -> str:
    head = _head(source) if isinstance(source, Path) else source.getvalue()[:HEAD]
    if not head:
        return "not an image: the file is empty"
    kind = _format_of(head)
    if kind == "HEIC":
        return "HEIC is not supported; save it as JPEG or PNG"
    if kind in FORMATS:
        return f"a {kind} file that is truncated or damaged"
    return f"not an image in a supported format: {FORMATS_READ}"


def _head(path: Path) -> bytes:
    """The first bytes of a regular file; empty for anything else."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return b""
        with path.open("rb") as file:
            return file.read(HEAD)
    except OSError:
        return b""


def _format_of(head: bytes) -> str:
    """Recognise an image format by the first bytes of a file; empty if unknown."""
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
