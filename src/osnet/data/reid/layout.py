"""What the benchmarks' readers share: finding a layout, listing its images, numbering its people."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from re import Match, Pattern
from typing import Any

from osnet.data.loading import is_image_file, list_files, no_images, warn_of_unread
from osnet.errors import DataError, require_extra
from osnet.types import Crop

SHOWN = 5


def find_layout(name: str, root: str | Path, inner: Sequence[str], holds: Sequence[str]) -> Path:
    """The folder that holds all of ``holds``: ``root``, or one of the folders ``inner`` below it.

    Raises:
        DataError: none does; all places that were looked at are named.
    """
    folders = [Path(root) / place for place in ("", *inner)]
    for folder in folders:
        if all((folder / thing).exists() for thing in holds):
            return folder
    looked_at = ", ".join(str(folder) for folder in folders)
    raise DataError(f"{name} is not here: none of these folders holds {' and '.join(holds)}: {looked_at}")


def find_folder(name: str, root: str | Path, inner: Sequence[str], folder: str) -> Path:
    """As ``find_layout`` for one ``folder``, which may also be ``root`` itself: the folder around it.

    Raises:
        DataError: it is not there; all places that were looked at are named.
    """
    here = Path(root).absolute()
    return here.parent if here.name == folder and here.is_dir() else find_layout(name, root, inner, (folder,))


@dataclass(frozen=True)
class Named:
    """Images of one folder whose names say what they are."""

    matches: tuple[tuple[Path, Match[str]], ...]
    other_files: tuple[str, ...]
    """Files that are no images."""


def match_names(folder: Path, pattern: Pattern[str], example: str) -> Named:
    """Images directly in ``folder``, sorted, with what ``pattern`` finds in their names.

    Raises:
        DataError: images whose names do not fit (they are named), or no images.
    """
    matches, strange, others = [], [], []
    for path in list_files(folder, hidden=True):
        if path.parent != folder or not is_image_file(path):
            others.append(str(path))
        elif (match := pattern.fullmatch(path.name)) is None:
            strange.append(path.name)
        else:
            matches.append((path, match))
    warn_of_unread(others)
    refuse(strange, f"image(s) in {folder} are not named like {example}")
    if not matches:
        raise no_images(folder)
    return Named(tuple(matches), tuple(others))


def number_people(names: Iterable[str]) -> dict[str, int]:
    """Numbers from 1 for people's names, in sorted order."""
    return {name: number for number, name in enumerate(sorted(set(names)), start=1)}


def refuse(names: Sequence[str], what: str) -> None:
    """Raise if there are any, with how many and the first few.

    Raises:
        DataError: ``names`` is not empty.
    """
    if names:
        more = f", ... ({len(names) - SHOWN} more)" if len(names) > SHOWN else ""
        raise DataError(f"{len(names)} {what}: {', '.join(names[:SHOWN])}{more}")


def by_relative_path(crops: Iterable[Crop], root: Path) -> dict[str, Crop]:
    """Crops by their paths below ``root``, with ``/``, in sorted order."""
    return dict(sorted((crop.path.relative_to(root).as_posix(), crop) for crop in crops))


def read_matlab5(path: Path) -> Mapping[str, Any]:
    """The variables of a MATLAB file before version 7.3.

    Raises:
        DataError: it cannot be read.
        MissingExtraError: SciPy is not installed.
    """
    loader = require_extra("scipy.io", "benchmarks")
    try:
        variables: Mapping[str, Any] = loader.loadmat(path)
    except Exception as error:  # SciPy raises many kinds on damaged files
        raise DataError(f"{path} cannot be read as a MATLAB 5 file: {error}") from error
    return variables
