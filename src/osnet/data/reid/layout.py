"""Helpers of the benchmark readers: find the folders, list the images, number the people."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from re import Match, Pattern
from typing import Any

from osnet.data.loading import is_image_file, list_files, no_images, warn_of_unread
from osnet.errors import DataError, OsnetError, require_extra
from osnet.types import Crop

SHOWN = 5
"""An error message lists at most this many names."""


def find_layout(name: str, root: str | Path, inner: Sequence[str], holds: Sequence[str]) -> Path:
    """Find the folder of a benchmark.

    Args:
        name: name of the benchmark, for the error message.
        root: folder to start from.
        inner: paths below ``root`` that are tried after ``root`` itself.
        holds: files and folders that the folder must contain.

    Raises:
        DataError: none of the folders contains all of ``holds``. The message lists the folders.
    """
    folders = [Path(root) / place for place in ("", *inner)]
    for folder in folders:
        if all((folder / entry).exists() for entry in holds):
            return folder
    looked_at = ", ".join(str(folder) for folder in folders)
    raise DataError(f"{name} was not found: none of these folders contains {' and '.join(holds)}: {looked_at}")


def find_folder(name: str, root: str | Path, inner: Sequence[str], folder: str) -> Path:
    """Find the folder that contains ``folder``. Unlike in ``find_layout``, ``root`` may be ``folder`` itself.

    Raises:
        DataError: ``folder`` was not found. The message lists the places that were tried.
    """
    here = Path(root).absolute()
    return here.parent if here.name == folder and here.is_dir() else find_layout(name, root, inner, (folder,))


@dataclass(frozen=True)
class MatchedNames:
    """The images of a folder with the match of each file name."""

    matches: tuple[tuple[Path, Match[str]], ...]
    other_files: tuple[str, ...]
    """Files that are not images, or that lie in sub-folders."""


def match_names(folder: Path, pattern: Pattern[str], example: str) -> MatchedNames:
    """Match the names of the images in ``folder`` (sub-folders excluded) with ``pattern``. The result is sorted.

    Args:
        folder: folder of the images.
        pattern: regular expression of a whole file name.
        example: a valid file name, for the error message.

    Raises:
        DataError: names of images do not match (the message lists them), or there are no images.
    """
    matches, strange, other_files = [], [], []
    for path in list_files(folder, hidden=True):
        if path.parent != folder or not is_image_file(path):
            other_files.append(str(path))
        elif (match := pattern.fullmatch(path.name)) is None:
            strange.append(path.name)
        else:
            matches.append((path, match))
    warn_of_unread(other_files)
    refuse(strange, f"image(s) in {folder} are not named like {example}")
    if not matches:
        raise no_images(folder)
    return MatchedNames(tuple(matches), tuple(other_files))


def number_people(names: Iterable[str]) -> dict[str, int]:
    """Assign numbers from 1 to the different names, in sorted order."""
    return {name: number for number, name in enumerate(sorted(set(names)), start=1)}


def refuse(names: Sequence[str], what: str) -> None:
    """Raise an error if ``names`` is not empty. The message has their number, ``what``, and the first few names.

    Raises:
        DataError: ``names`` is not empty.
    """
    if names:
        more = f", ... ({len(names) - SHOWN} more)" if len(names) > SHOWN else ""
        raise DataError(f"{len(names)} {what}: {', '.join(names[:SHOWN])}{more}")


def by_relative_path(crops: Iterable[Crop], root: Path) -> dict[str, Crop]:
    """Map the path of each crop, relative to ``root`` and with ``/``, to the crop, in sorted order."""
    return dict(sorted((crop.path.relative_to(root).as_posix(), crop) for crop in crops))


@contextmanager
def checked_structure(path: Path) -> Iterator[None]:
    """Raise DataError with the file's name where values of a MATLAB file have another type or shape than expected."""
    try:
        yield
    except OsnetError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise DataError(f"{path} does not have the expected structure: {error}") from error


def read_matlab5(path: Path) -> Mapping[str, Any]:
    """Read the variables of a MATLAB file of a version before 7.3.

    Raises:
        DataError: the file cannot be read.
        MissingExtraError: SciPy is not installed.
    """
    loader = require_extra("scipy.io", "benchmarks")
    try:
        variables: Mapping[str, Any] = loader.loadmat(path)
    except Exception as error:  # SciPy raises errors of many types for damaged files
        raise DataError(f"{path} cannot be read as a MATLAB 5 file: {error}") from error
    return variables
