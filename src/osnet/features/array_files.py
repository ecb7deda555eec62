"""Read arrays from untrusted NumPy files. Nothing is unpickled, and every fault of a file raises DataError."""

from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osnet.errors import DataError

MAGIC_NPY, MAGIC_ZIP = b"\x93NUMPY", b"PK"
CHECKED_ROWS = 1 << 16
"""Number of rows checked at a time, which bounds the memory of the check."""


def read_arrays(path: str | Path, wanted: Container[str] | None = None) -> dict[str, NDArray[Any]]:
    """Read the arrays of an ``.npz`` file, by name. Nothing is unpickled.

    Args:
        path: the file.
        wanted: names of the arrays to read; names that the file lacks are skipped. By default all arrays are read.

    Raises:
        DataError: the file does not exist, is not an .npz, is damaged, or contains Python objects.
    """
    with _opened(Path(path)) as content:
        return {name: _plain(name, content[name]) for name in content.files if wanted is None or name in wanted}


def list_arrays(path: str | Path) -> list[str]:
    """List the names of the arrays in an ``.npz`` file, sorted. Raises like ``read_arrays``."""
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
    """Read the array of an ``.npy`` file. Nothing is unpickled.

    Raises:
        FileNotFoundError: the file does not exist.
        DataError: the file is not an .npy, is damaged, or contains Python objects.
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
    except Exception as error:  # NumPy, zipfile and the decompressors raise many kinds of errors on damaged files
        raise DataError(f"{path} is not {kind}, or is damaged: {error or type(error).__name__}") from error


def _check_magic(path: Path, magic: bytes) -> None:
    """Raise ValueError unless the file starts with ``magic``.

    NumPy takes any other file for a pickle, and its error message advises loading it as one.
    """
    with path.open("rb") as file:
        head = file.read(len(MAGIC_NPY))
    if not head:
        raise ValueError("it is empty")
    if magic == MAGIC_ZIP and head == MAGIC_NPY:
        raise ValueError("it is a single array (.npy); save it with numpy.savez under the expected name")
    if not head.startswith(magic):
        raise ValueError(f"it starts with {head!r}")


def _plain(name: str, value: Any) -> NDArray[Any]:
    if not isinstance(value, np.ndarray):  # NumPy returns other members of the archive as bytes
        raise ValueError(f"{name} is not an array")
    return value


def as_vectors(values: NDArray[Any], where: str) -> NDArray[np.float32]:
    """Convert embeddings to float32, (N, D).

    Half precision and integers up to 2**24 convert exactly; double precision is rounded to 24 bits. Values that float32
    cannot represent raise an error: above 3.4e38, or rows in which every component is below 1.2e-38.

    Args:
        values: (N, D), integers or real numbers of any width.
        where: name of the array in error messages.

    Raises:
        DataError: the array is not 2-D and numeric, is empty, or has values that are not finite in float32.
    """
    if values.ndim != 2 or values.dtype.kind not in "fiu" or not values.size:
        raise DataError(f"{where} is {values.dtype} {values.shape}; it must be numbers of shape (rows, components)")
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
        (not_finite, "contain values that are not finite"),
        (too_large, "contain values above 3.4e38, the limit of float32; scale them"),
        (too_small, "contain no value above 1.2e-38, the smallest of float32; scale them"),
    ):
        if count:
            raise DataError(f"{where}: {count} rows {what}")
    return vectors
