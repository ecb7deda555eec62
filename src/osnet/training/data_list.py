"""The list of a run's training data. A run can be resumed only with the same list.

An entry is a row, ``[part, index of the data set, name, label, ...]``, and the size of the image's file in bytes.
Names are paths relative to the folder that contains the part's images, so the data set may be moved. Images are not
read, only their sizes are compared. If a few sizes changed, the files may have been repaired: this gives a warning. If
more than half changed, the images are taken to be other images, which is an error.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osnet.errors import DataError
from osnet.files import written_aside
from osnet.types import Crop

DATA_FILE = "data.jsonl"
NUM_SHOWN = 3
ADVICE = "Resume it with the data that it was started with, or choose another folder"
Row = list[Any]


@dataclass(frozen=True)
class DataList:
    """Rows, and for each row the size of its file in bytes, or None if it has no file."""

    rows: list[Row]
    sizes: list[int | None]

    @classmethod
    def of(cls, entries: Iterable[tuple[Row, Path | None]]) -> "DataList":
        """Make a list from pairs of a row and its file."""
        rows, sizes = [], []
        for row, path in entries:
            rows.append(row)
            try:
                sizes.append(None if path is None else path.stat().st_size)
            except OSError:  # reading the image will raise a better error
                sizes.append(None)
        return cls(rows, sizes)

    @classmethod
    def read(cls, folder: Path) -> "DataList":
        """Read the list in a run's folder. It is empty if the file is missing or not valid."""
        try:
            entries = [json.loads(line) for line in (folder / DATA_FILE).read_bytes().splitlines()]
            return cls([entry["row"] for entry in entries], [entry["bytes"] for entry in entries])
        except (OSError, ValueError, KeyError, TypeError):
            return cls([], [])

    def write(self, folder: Path) -> None:
        """Write one JSON object per line, in ASCII. A crash leaves the old file."""
        with written_aside(folder / DATA_FILE) as aside, aside.open("w", encoding="ascii") as file:
            for row, size in zip(self.rows, self.sizes, strict=True):
                file.write(json.dumps({"row": row, "bytes": size}) + "\n")

    def sha256(self) -> str:
        """SHA-256 of the rows in their order, without the sizes."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(json.dumps(row).encode("ascii") + b"\n")
        return digest.hexdigest()

    def by_name(self) -> dict[tuple[Any, ...], Row]:
        """Labels by (part, index of the data set, name)."""
        return {tuple(row[:3]): row[3:] for row in self.rows}


def list_crops(part: str, crops: Sequence[Crop], labels: Sequence[Any]) -> Iterator[tuple[Row, Path]]:
    """Rows for crops, with their files.

    A row is ``[part, index of the data set, path, identity, label, camera]``; ``labels`` has one label per crop.
    """
    names: dict[Path, str] = {}
    for dsetid in {crop.dsetid for crop in crops}:
        paths = [crop.path for crop in crops if crop.dsetid == dsetid]
        names |= zip(paths, names_below(paths), strict=True)
    for crop, label in zip(crops, labels, strict=True):
        yield [part, crop.dsetid, names[crop.path], crop.identity or str(crop.pid), label, crop.camid], crop.path


def names_below(paths: Sequence[Path]) -> list[str]:
    """The paths relative to the deepest folder that contains them all, with slashes on every system."""
    if not paths:
        return []
    whole = [os.path.abspath(path) for path in paths]  # noqa: PTH100  # resolving would follow links into other folders
    try:
        root = os.path.commonpath([os.path.dirname(path) for path in set(whole)])  # noqa: PTH120
    except ValueError:  # the paths are on several Windows drives
        return [Path(path).as_posix() for path in whole]
    return [Path(path).relative_to(root).as_posix() for path in whole]


def check_same(folder: Path, sha256: str, now: DataList) -> list[str]:
    """Check that ``now`` is the data that the run in ``folder`` was started with.

    Args:
        folder: the run's folder, with its data list.
        sha256: SHA-256 of the list when the run was started.
        now: the present data.

    Returns:
        Names of files whose size has changed since.

    Raises:
        DataError: rows differ, or more than half of the files changed their size. The message lists the differences.
    """
    before = DataList.read(folder)
    known = before.sha256() == sha256
    if now.sha256() != sha256:
        differing = (
            _describe_difference(before, now)
            if known
            else f"the differences are unknown, because {DATA_FILE} is missing or was changed"
        )
        raise DataError(f"{folder} contains a run on other training data: {differing}. {ADVICE}")
    pairs = zip(now.rows, before.sizes, now.sizes, strict=True) if known else ()
    resized = [str(row[2]) for row, old, new in pairs if old != new]
    if 2 * len(resized) > len(now.rows):
        raise DataError(
            f"{folder} contains a run on other training data: {len(resized)} of {len(now.rows)} files changed their "
            f"size ({', '.join(resized[:NUM_SHOWN])}), so they seem to be other images of the same names. {ADVICE}"
        )
    return resized


def _describe_difference(before: DataList, now: DataList) -> str:
    old, new = before.by_name(), now.by_name()
    missing, added = [key for key in old if key not in new], [key for key in new if key not in old]
    relabelled = [key for key in new if key in old and old[key] != new[key]]
    differences = [
        f"{len(keys)} {what} ({', '.join(str(key[2]) for key in keys[:NUM_SHOWN])}{', ...' * (len(keys) > NUM_SHOWN)})"
        for keys, what in ((added, "new"), (missing, "missing"), (relabelled, "with another label"))
        if keys
    ]
    return ", ".join(differences) or "the same images in another order"
