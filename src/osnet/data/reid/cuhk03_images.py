"""The images inside cuhk-03.mat as PNG files: written once, and read from there.

``cuhk-03.mat`` is MATLAB 7.3, that is HDF5: ``detected`` and ``labeled`` are cells of references to one table per
pair of cameras, rows of people, ten columns of references to images, of which the first five are the first camera's.
MATLAB stores columns first, so every array is transposed. An empty cell is a small array of another shape.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from osnet.data.loading import check_size, read_image
from osnet.data.reid.layout import SHOWN
from osnet.data.reid.random_splits import read_json_object
from osnet.data.reid.single_writer import one_at_a_time
from osnet.errors import DataError, ImageError, OutputError, require_extra
from osnet.files import TEMPORARY_PREFIX, make_folder, write_json
from osnet.progress import Progress

Boxes = Literal["detected", "labeled"]
FORMAT = 1
FILE_NAME = re.compile(r"([1-9])_(\d{3,4})_([12])_(\d{2})\.png")
VIEW_IMAGES = 5
"""Columns of the first camera; the rest are the second's."""


@dataclass(frozen=True)
class Extracted:
    """What was taken out of ``cuhk-03.mat``."""

    folder: Path
    """The PNG files, named PAIR_PERSON_CAMERA_IMAGE.png, all counted from 1."""
    names: tuple[str, ...]
    testsets: tuple[tuple[tuple[int, int], ...], ...]
    """The classic protocol's test people, as (pair, person), per split."""


def read_extracted(mat: Path | None, boxes: Boxes, folder: Path, progress: Progress | None = None) -> Extracted:
    """The images of one kind, extracted into ``folder / images_KIND`` at the first call.

    Files are written one by one and listed in ``images_KIND.json`` last; without that list nothing is read. A
    call that was cut off goes on: images that are there already (Torchreid's too) are compared pixel by pixel. Of
    several processes one extracts, and the others wait for it.

    Args:
        mat: ``cuhk-03.mat``; None if it is gone, which will do once the images are extracted.
        boxes: ``detected`` by a machine, or ``labeled`` by hand.
        folder: where the images and their list go.
        progress: draws a bar over the people.

    Raises:
        DataError: a damaged file, a list that does not fit the images, or an image that is there and differs.
        OutputError: no permission to write in ``folder``.
        MissingExtraError: h5py is not installed.
    """
    listing = folder / f"images_{boxes}.json"
    if not listing.exists():
        if mat is None:
            raise DataError(f"there is neither cuhk-03.mat nor {listing}, the list of its extracted images")
        try:
            make_folder(folder)
            with one_at_a_time(listing):
                if not listing.exists():
                    _extract(mat, boxes, folder, listing, progress)
        except OutputError as error:
            raise OutputError(f"{error}; give work_dir, a folder for the extracted images") from error
    return _read_listing(mat, listing, folder / f"images_{boxes}")


def _read_listing(mat: Path | None, listing: Path, images: Path) -> Extracted:
    again = "delete it, and the images are extracted again"
    content = read_json_object(listing, again)
    sizes, testsets = content.get("images"), content.get("testsets")
    if content.get("format") != FORMAT or not isinstance(sizes, dict) or not sizes or not isinstance(testsets, list):
        raise DataError(f"{listing} is no list of format {FORMAT}; {again}")
    if mat is not None and mat.stat().st_size != content.get("mat_bytes"):
        raise DataError(f"{listing} was made from another cuhk-03.mat than {mat}; {again}")
    if strange := [name for name in sizes if FILE_NAME.fullmatch(name) is None]:
        raise DataError(f"{listing} names {strange[0]!r}, which is none of its images; {again}")
    there = {path.name: path.stat().st_size for path in images.iterdir()} if images.is_dir() else {}
    if wrong := [name for name, size in sizes.items() if there.get(name) != size]:
        raise DataError(
            f"{len(wrong)} image(s) in {images} are missing or were changed: {', '.join(wrong[:SHOWN])}; delete "
            f"{listing}, and they are extracted again"
        )
    try:
        people = tuple(tuple((int(pair), int(person)) for pair, person in testset) for testset in testsets)
    except (TypeError, ValueError) as error:
        raise DataError(f"{listing}: testsets are not lists of (pair, person); {again}") from error
    return Extracted(images, tuple(sorted(sizes)), people)


def _extract(mat: Path, boxes: Boxes, folder: Path, listing: Path, progress: Progress | None) -> None:
    h5py = require_extra("h5py", "benchmarks")
    images = make_folder(folder / f"images_{boxes}")
    sizes: dict[str, int] = {}
    try:
        with h5py.File(mat, "r") as file:
            testsets = [_whole_numbers(array) for array in _follow(file, _cells(file, "testsets"))]
            rows = list(_people(file, boxes))
            for pair, person, references in progress(rows, len(rows), f"cuhk03 {boxes}") if progress else rows:
                for name, pixels in _images_of(file, pair, person, references):
                    sizes[name] = _write_image(images / name, pixels)
    except (OutputError, DataError):
        raise
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:  # h5py raises all of these on damage
        raise DataError(f"{mat} cannot be read as cuhk-03.mat (MATLAB 7.3, HDF5): {error}") from error
    if not sizes:
        raise DataError(f"{mat} holds no {boxes} images")
    write_json(
        listing,
        {
            "format": FORMAT,
            "mat_bytes": mat.stat().st_size,
            "testsets": testsets,
            "images": dict(sorted(sizes.items())),
        },
    )


def _cells(file: Any, name: str) -> NDArray[Any]:
    """The references in one of the file's cells. What would make HDF5 open other files is refused."""
    h5py = require_extra("h5py", "benchmarks")
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise DataError(f"{file.filename} has no cell {name}; it has {', '.join(sorted(file))}")
    return _array(file[name], object).ravel()


def _follow(file: Any, references: Iterable[Any]) -> Iterator[NDArray[Any]]:
    """The arrays behind references, as MATLAB shows them."""
    for reference in references:
        yield _array(file[reference]).T


def _array(dataset: Any, dtype: type | None = None) -> NDArray[Any]:
    if dataset.external or dataset.is_virtual:
        raise DataError(f"{dataset.file.filename}: {dataset.name} refers to another file, which is not followed")
    if dtype is object and dataset.dtype != object:
        raise DataError(f"{dataset.file.filename}: {dataset.name} is no cell")
    return np.asarray(dataset[()])


def _people(file: Any, boxes: Boxes) -> Iterator[tuple[int, int, NDArray[Any]]]:
    """(pair of cameras, person, references to the images), counted from 1."""
    for pair, table in enumerate(_follow(file, _cells(file, boxes)), start=1):
        if table.ndim != 2 or table.dtype != object:
            raise DataError(f"{file.filename}: pair {pair} of {boxes} is no table of images")
        for person, references in enumerate(table, start=1):
            yield pair, person, references


def _images_of(
    file: Any, pair: int, person: int, references: Sequence[Any] | NDArray[Any]
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Names and pixels (H, W, 3) of a person's images; empty cells are left out, their numbers too."""
    for number, pixels in enumerate(_follow(file, references), start=1):
        if pixels.ndim < 3 or pixels.size == 0:
            continue
        name = f"{pair}_{person:03d}_{1 if number <= VIEW_IMAGES else 2}_{number:02d}.png"
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise DataError(f"{file.filename}: {name} is {pixels.dtype} of shape {pixels.shape}, no 8-bit RGB image")
        check_size(name, (pixels.shape[1], pixels.shape[0]))
        yield name, np.ascontiguousarray(pixels)


def _whole_numbers(array: NDArray[Any]) -> list[list[int]]:
    if array.ndim != 2 or array.shape[1] != 2 or (array != np.round(array)).any():
        raise DataError(f"a test set of cuhk-03.mat has the shape {array.shape} instead of (people, 2)")
    return [[int(pair), int(person)] for pair, person in array.tolist()]


def _write_image(path: Path, pixels: NDArray[np.uint8]) -> int:
    """Write, unless the same picture is there already; the size of the file in bytes."""
    if path.exists():
        try:
            if np.array_equal(np.asarray(read_image(path)), pixels):
                return path.stat().st_size
        except ImageError:
            pass  # a leftover of something that was cut off
        else:
            raise DataError(f"{path} shows something else than cuhk-03.mat; move it away, or give another work_dir")
    aside = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
    try:
        Image.fromarray(pixels).save(aside, format="PNG")
        aside.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    return path.stat().st_size
