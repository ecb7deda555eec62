"""What is searched by: pictures of a person as small copies and vectors, and filters."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from osnet.data.loading import check_size, decode_image
from osnet.errors import ImageError
from osnet.service.columns import Filters

Floats = NDArray[np.float32]
KEPT_WH = (512, 512)
JFIF = {"jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi"}
"""What Pillow says of a JPEG without metadata."""
PLUS, MINUS = 0.75, 0.15
"""Weights of confirmed and rejected tracklets beside the query's 1: Rocchio's, as in Manning, Raghavan and Schuetze,
Introduction to Information Retrieval, section 9.1.1."""


@dataclass(frozen=True)
class Query:
    """One picture of the person who is looked for."""

    label: str
    """Where it came from, for people to read."""
    jpeg: bytes
    vector: Floats
    tracklet: str | None = None
    """It shows this tracklet."""
    camera: str | None = None
    """It was cut from footage of this camera."""


def filters_from(values: dict[str, Any]) -> Filters:
    """``Filters`` from JSON values."""
    known: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in Filters.__dataclass_fields__
    }
    return replace(Filters(), **known)


def queries_vector(queries: Sequence[Query]) -> Floats | None:
    """(D,): several pictures as one person; None without any."""
    return mean_of([q.vector for q in queries]) if queries else None


def mean_of(vectors: Sequence[Floats]) -> Floats:
    """(D,), of length 1: the mean of directions."""
    total = np.mean([v / max(1e-12, float(np.linalg.norm(v))) for v in vectors], axis=0)
    result: Floats = (total / max(1e-12, float(np.linalg.norm(total)))).astype(np.float32)
    return result


def refine_query(query_D: Floats, confirmed: Sequence[Floats], rejected: Sequence[Floats]) -> Floats:
    """The query moved towards confirmed and away from rejected tracklets: (D,), of length 1. Rocchio's rule.

    Args:
        query_D: (D,).
        confirmed: means (D,) of tracklets that were answered with yes.
        rejected: and with no.
    """
    moved = np.array(query_D, np.float32)
    if confirmed:
        moved = moved + PLUS * np.mean(confirmed, axis=0)
    if rejected:
        moved = moved - MINUS * np.mean(rejected, axis=0)
    length = float(np.linalg.norm(moved))
    result: Floats = (moved / length).astype(np.float32) if length > 1e-6 else query_D
    return result


def cut_box(picture: Image.Image, box: Sequence[float] | None, name: str) -> Image.Image:
    """The part of a picture in a box (left, top, right, bottom in pixels), or all of it.

    Raises:
        ImageError: a box that is not finite, lies outside, or is smaller than 4 x 8 pixels.
    """
    if box is None:
        return picture
    if len(box) != 4 or not np.isfinite(box).all():
        raise ImageError(name, f"the box {list(box)} must be left, top, right, bottom in pixels")
    left, top = max(0, int(box[0])), max(0, int(box[1]))
    right, bottom = min(picture.width, int(np.ceil(box[2]))), min(picture.height, int(np.ceil(box[3])))
    if right - left < 4 or bottom - top < 8:
        raise ImageError(
            name,
            f"the box {[round(float(v), 1) for v in box]} covers less than 4 x 8 pixels of "
            f"{picture.width} x {picture.height}; draw a larger one",
        )
    return picture.crop((left, top, right, bottom))


def encode_small(picture: Image.Image) -> bytes:
    """JPEG of at most 512 x 512 pixels, without metadata."""
    check_size("the picture", picture.size)
    small = picture.copy()
    small.thumbnail(KEPT_WH)
    with io.BytesIO() as file:
        small.save(file, format="JPEG", quality=88)
        return file.getvalue()


def small_jpeg(content: bytes) -> bytes:
    """The same for a file's bytes."""
    return encode_small(decode_image(content, "the crop"))


def keep_small(content: bytes) -> bytes:
    """The same for an archive's crop. A small JPEG without metadata, as archives write it, stays as it is.

    Raises:
        ImageError: no image.
    """
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as picture:  # reads no more than the header
            small = max(picture.size) <= max(KEPT_WH) and set(picture.info) <= JFIF
    except (OSError, ValueError):
        small = False
    return content if small else small_jpeg(content)


def clean_label(name: str) -> str:
    """A file's name as a label: its last part, printable characters only, at most 80."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(c for c in last if c.isprintable())[:80] or "photo"
