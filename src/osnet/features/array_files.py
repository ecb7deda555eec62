"""Arrays from files that anybody wrote: plain ones only, and one kind of error whatever is wrong with the file."""

from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osnet.errors import DataError

MAGIC_NPY, MAGIC_ZIP = b"\x93NUMPY", b"PK"
CHECKED_ROWS = 1 << 16
"""Rows are checked so many at a time, since a check needs memory of its own."""


def read_arrays(path: str | Path, wanted: Container[str] | None = None) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz`` by name. Nothing is unpickled.

    Args:
        path: the file.
        wanted: names of the arrays to read, of those that are there; all of them by default.

    Raises:
        DataError: no such file, one of another kind, a damaged one, or one that holds Python objects.
    """
    with _opened(Path(path)) as content:
        return {name: _plain(name, content[name]) for name in content.files if wanted is None or name in wanted}


def list_arrays(path: str | Path) -> list[str]:
    """The names of the arrays in an ``.npz``, sorted. Raises as ``read_arrays``."""
    with _opened(Path(path)) as content:
        return sorted(content.files)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.exists():
        raise DataError(f"no such file: {path}")
    with _one_error(path, "an .npz of plain arrays"):
        _check_magic(path, MAGIC_ZIP)
        with np.load(path, allow_pickle=False) as content:
            yield content


def read_array(path: str | Path) -> NDArray[Any]:
    """The one array of an ``.npy``. Nothing is unpickled.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: one of another kind, a damaged one, or one that holds Python objects.
    """
    with _one_error(Path(path), "an .npy"):
        _check_magic(Path(path), MAGIC_NPY)
        return _plain("it", np.load(path, allow_pickle=False))


@contextmanager
def _one_error(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:  # NumPy, zipfile and the decompressors raise a dozen kinds on damaged files
        raise DataError(f"{path} is not {kind}, or is damaged: {error or type(error).__name__}") from error


def _check_magic(path: Path, magic: bytes) -> None:
    """NumPy takes what begins otherwise for a pickle, and its message advises to load that."""
    with path.open("rb") as file:
        head = file.read(len(MAGIC_NPY))
    if not head:
        raise ValueError("it is empty")
    if magic == MAGIC_ZIP and head == MAGIC_NPY:
        raise ValueError("it is a single array; write it with numpy.savez, under the name that is asked for")
    if not head.startswith(magic):
        raise ValueError(f"it begins with {head!r}")


def _plain(name: str, value: Any) -> NDArray[Any]:
    if not isinstance(value, np.ndarray):  # NumPy gives other members of the archive as bytes
        raise ValueError(f"{name} is no array")
    return value


def as_vectors(values: NDArray[Any], where: str) -> NDArray[np.float32]:
    """Vectors as float32, (N, D).

    Half precision becomes float32 exactly, so do whole numbers up to 2**24; double precision is rounded to 24 bits.
    What float32 cannot hold is refused: numbers above 3.4e38, and vectors of which nothing but rounding would be left
    (all components below 1.2e-38).

    Args:
        values: (N, D), real numbers of any kind.
        where: how a message names them.

    Raises:
        DataError: another shape or kind, no rows, values that are not finite, or not in float32.
    """
    if values.ndim != 2 or values.dtype.kind not in "fiu" or not values.size:
        raise DataError(f"{where} is {values.dtype} {values.shape}; it must be numbers (rows, components)")
    with np.errstate(over="ignore"):
        vectors = np.ascontiguousarray(values, dtype=np.float32)
    not_finite = too_large = too_small = 0
    for start in range(0, len(vectors), CHECKED_ROWS):
        given, taken = (array[start : start + CHECKED_ROWS] for array in (values, vectors))
        infinite = ~np.isfinite(taken).all(axis=1)
        bad = int((~np.isfinite(given[infinite]).all(axis=1)).sum())
        not_finite, too_large = not_finite + bad, too_large + int(infinite.sum()) - bad
        if given.dtype.kind == "f" and given.dtype.itemsize > vectors.itemsize:
            largest = np.maximum(given.max(axis=1), -given.min(axis=1))
            too_small += int(((largest > 0) & (largest < np.finfo(np.float32).tiny)).sum())
    for count, what in (
        (not_finite, "hold values that are not finite"),
        (too_large, "hold values above 3.4e38, which are not finite in float32; scale them"),
        (too_small, "hold nothing above 1.2e-38, which float32 rounds away; scale them"),
    ):
        if count:
            raise DataError(f"{where}: {count} rows {what}")
    return vectors
