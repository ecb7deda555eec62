"""Extract the images in cuhk-03.mat as PNG files, once.

``cuhk-03.mat`` is a MATLAB 7.3 file, which is HDF5. ``detected`` and ``labeled`` are cell arrays with one table for
each pair of cameras. A table has one row per person and ten columns of references to images: five from the first
camera, then five from the second. MATLAB stores arrays column by column, so every array is transposed after reading. An
empty cell is a small array that does not have an image's shape.
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
from osnet.errors import DataError, ImageError, OutputError, require_extra
from osnet.files import TEMPORARY_PREFIX, make_folder, one_writer, write_json
from osnet.progress import Progress

Boxes = Literal["detected", "labeled"]
FORMAT = 1
FILE_NAME = re.compile(r"([1-9])_(\d{3,4})_([12])_(\d{2})\.png")
VIEW_IMAGES = 5
"""Number of columns with images from the first camera; the others are from the second."""


@dataclass(frozen=True)
class Extracted:
    """The extracted content of ``cuhk-03.mat``."""

    folder: Path
    """Folder of the PNG files."""
    names: tuple[str, ...]
    """File names, of the form PAIR_PERSON_CAMERA_IMAGE.png. All four numbers start at 1."""
    testsets: tuple[tuple[tuple[int, int], ...], ...]
    """For each classic split, its test people as (pair, person)."""


def read_extracted(mat: Path | None, boxes: Boxes, folder: Path, progress: Progress | None = None) -> Extracted:
    """Read the list of extracted images. The first call extracts them into ``folder / images_BOXES``.

    The images are written one by one. The list ``images_BOXES.json`` is written last; images without a list are not
    used. An interrupted extraction resumes: existing images, including those extracted by Torchreid, are compared pixel
    by pixel and not written again. If several processes call this function, one extracts and the others wait.

    Args:
        mat: path of ``cuhk-03.mat``; None if the file no longer exists, which is allowed once the images are extracted.
        boxes: ``detected`` for boxes of a detector, ``labeled`` for boxes drawn by hand.
        folder: folder for the images and their list.
        progress: shows a progress bar over the people.

    Raises:
        DataError: the file is damaged, the list does not fit the images, or an existing image has other pixels.
        OutputError: ``folder`` cannot be written.
        MissingExtraError: h5py is not installed.
    """
    listing = folder / f"images_{boxes}.json"
    if not listing.exists():
        if mat is None:
            raise DataError(f"neither cuhk-03.mat nor {listing}, the list of its extracted images, exists")
        try:
            make_folder(folder)
            with one_writer(listing, timeout_s=3600, needs_lock=True):
                if not listing.exists():
                    _extract(mat, boxes, folder, listing, progress)
        except OutputError as error:
            raise OutputError(f"{error}; pass work_dir, a writable folder for the extracted images") from error
    return _read_listing(mat, listing, folder / f"images_{boxes}")


def _read_listing(mat: Path | None, listing: Path, images: Path) -> Extracted:
    again = "delete this list to extract the images again"
    content = read_json_object(listing, again)
    sizes, testsets = content.get("images"), content.get("testsets")
    if content.get("format") != FORMAT or not isinstance(sizes, dict) or not sizes or not isinstance(testsets, list):
        raise DataError(f"{listing} is not an image list of format {FORMAT}; {again}")
    if mat is not None and mat.stat().st_size != content.get("mat_bytes"):
        raise DataError(f"{listing} was made from a cuhk-03.mat of another size than {mat}; {again}")
    if strange := [name for name in sizes if FILE_NAME.fullmatch(name) is None]:
        raise DataError(f"{listing} lists {strange[0]!r}, which is not the name of an extracted image; {again}")
    existing = {path.name: path.stat().st_size for path in images.iterdir()} if images.is_dir() else {}
    if wrong := [name for name, size in sizes.items() if existing.get(name) != size]:
        raise DataError(
            f"{len(wrong)} image(s) in {images} are missing or were changed: {', '.join(wrong[:SHOWN])}; delete "
            f"{listing} to extract them again"
        )
    try:
        people = tuple(tuple((int(pair), int(person)) for pair, person in testset) for testset in testsets)
    except (TypeError, ValueError) as error:
        raise DataError(f"{listing}: testsets must be lists of (pair, person); {again}") from error
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
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:  # all raised by h5py for damaged files
        raise DataError(f"{mat} cannot be read as cuhk-03.mat (MATLAB 7.3, HDF5): {error}") from error
    if not sizes:
        raise DataError(f"{mat} contains no {boxes} images")
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
    """The references in a cell array. Raises DataError for links, which could make HDF5 open other files."""
    h5py = require_extra("h5py", "benchmarks")
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise DataError(f"{file.filename} has no cell array {name}; it contains {', '.join(sorted(file))}")
    return _array(file[name], object).ravel()


def _follow(file: Any, references: Iterable[Any]) -> Iterator[NDArray[Any]]:
    """Yield the arrays that the references point to, transposed to the shapes they have in MATLAB."""
    for reference in references:
        yield _array(file[reference]).T


def _array(dataset: Any, dtype: type | None = None) -> NDArray[Any]:
    if dataset.external or dataset.is_virtual:
        raise DataError(f"{dataset.file.filename}: {dataset.name} refers to another file, which is not allowed")
    if dtype is object and dataset.dtype != object:
        raise DataError(f"{dataset.file.filename}: {dataset.name} is not a cell array")
    return np.asarray(dataset[()])


def _people(file: Any, boxes: Boxes) -> Iterator[tuple[int, int, NDArray[Any]]]:
    """Yield (pair of cameras, person, references to the images). Pairs and people are numbered from 1."""
    for pair, table in enumerate(_follow(file, _cells(file, boxes)), start=1):
        if table.ndim != 2 or table.dtype != object:
            raise DataError(f"{file.filename}: pair {pair} of {boxes} is not a table of images")
        for person, references in enumerate(table, start=1):
            yield pair, person, references


def _images_of(
    file: Any, pair: int, person: int, references: Sequence[Any] | NDArray[Any]
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield names and pixels (H, W, 3) of a person's images. Empty cells are skipped; their numbers stay unused."""
    for number, pixels in enumerate(_follow(file, references), start=1):
        if pixels.ndim < 3 or pixels.size == 0:
            continue
        name = f"{pair}_{person:03d}_{1 if number <= VIEW_IMAGES else 2}_{number:02d}.png"
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise DataError(
                f"{file.filename}: {name} is {pixels.dtype} of shape {pixels.shape}; expected uint8 of shape (H, W, 3)"
            )
        check_size(name, (pixels.shape[1], pixels.shape[0]))
        yield name, np.ascontiguousarray(pixels)


def _whole_numbers(array: NDArray[Any]) -> list[list[int]]:
    if array.ndim != 2 or array.shape[1] != 2 or (array != np.round(array)).any():
        raise DataError(
            f"a test set of cuhk-03.mat has the shape {array.shape}; expected whole numbers of shape (people, 2)"
        )
    return [[int(pair), int(person)] for pair, person in array.tolist()]


def _write_image(path: Path, pixels: NDArray[np.uint8]) -> int:
    """Write an image unless the file already has these pixels. Returns the size of the file in bytes."""
    if path.exists():
        try:
            if np.array_equal(np.asarray(read_image(path)), pixels):
                return path.stat().st_size
        except ImageError:
            pass  # an incomplete file of an interrupted extraction is overwritten
        else:
            raise DataError(f"{path} has other pixels than cuhk-03.mat; move it away or pass another work_dir")
    aside = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
    try:
        Image.fromarray(pixels).save(aside, format="PNG")
        aside.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    return path.stat().st_size
