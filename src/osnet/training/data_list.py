"""What a run trains on, item by item, so that it goes on with the same data or not at all.

A row is ``[part, number of the data set, name, label, ...]``. Names are paths below the folder that holds the part's
images, so a data set may move. The pictures themselves are not read: beside its row, each has the size of its file. A
few other sizes may be pictures that were damaged and have been mended; if most differ, they are other pictures.
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
ADVICE = "Give it the data it began with, or choose another folder"
Row = list[Any]


@dataclass(frozen=True)
class DataList:
    """Rows, and the size of each one's file; None where it is no file."""

    rows: list[Row]
    sizes: list[int | None]

    @classmethod
    def of(cls, entries: Iterable[tuple[Row, Path | None]]) -> "DataList":
        """Of rows with their files."""
        rows, sizes = [], []
        for row, path in entries:
            rows.append(row)
            try:
                sizes.append(None if path is None else path.stat().st_size)
            except OSError:  # whoever reads it will say so
                sizes.append(None)
        return cls(rows, sizes)

    @classmethod
    def read(cls, folder: Path) -> "DataList":
        """The list in a run's folder; an empty one if there is none, or if somebody has changed its form."""
        try:
            entries = [json.loads(line) for line in (folder / DATA_FILE).read_bytes().splitlines()]
            return cls([entry["row"] for entry in entries], [entry["bytes"] for entry in entries])
        except (OSError, ValueError, KeyError, TypeError):
            return cls([], [])

    def write(self, folder: Path) -> None:
        """A JSON object a line, in ASCII, all or nothing."""
        with written_aside(folder / DATA_FILE) as aside, aside.open("w", encoding="ascii") as file:
            for row, size in zip(self.rows, self.sizes, strict=True):
                file.write(json.dumps({"row": row, "bytes": size}) + "\n")

    def sha256(self) -> str:
        """Of the rows in their order, without the sizes."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(json.dumps(row).encode("ascii") + b"\n")
        return digest.hexdigest()

    def by_name(self) -> dict[tuple[Any, ...], Row]:
        """What is said of each item."""
        return {tuple(row[:3]): row[3:] for row in self.rows}


def list_crops(part: str, crops: Sequence[Crop], labels: Sequence[Any]) -> Iterator[tuple[Row, Path]]:
    """A row and a file for each crop: its path, who is on it, by which camera, and ``labels``, one for each crop."""
    names: dict[Path, str] = {}
    for dsetid in {crop.dsetid for crop in crops}:
        paths = [crop.path for crop in crops if crop.dsetid == dsetid]
        names |= zip(paths, names_below(paths), strict=True)
    for crop, label in zip(crops, labels, strict=True):
        yield [part, crop.dsetid, names[crop.path], crop.identity or str(crop.pid), label, crop.camid], crop.path


def names_below(paths: Sequence[Path]) -> list[str]:
    """The paths, relative to the deepest folder that holds them all; with slashes on every system."""
    if not paths:
        return []
    whole = [os.path.abspath(path) for path in paths]  # noqa: PTH100  # resolving would follow links into other folders
    try:
        root = os.path.commonpath([os.path.dirname(path) for path in set(whole)])  # noqa: PTH120
    except ValueError:  # on several drives of Windows
        return [Path(path).as_posix() for path in whole]
    return [Path(path).relative_to(root).as_posix() for path in whole]


def check_same(folder: Path, sha256: str, now: DataList) -> list[str]:
    """Compare data with those that a run in ``folder`` began with, whose list has the SHA-256 ``sha256``.

    Returns:
        Names of the files that have another size than then: mended ones, it seems.

    Raises:
        DataError: they are other data; the message says in what they differ.
    """
    before = DataList.read(folder)
    known = before.sha256() == sha256
    if now.sha256() != sha256:
        differing = _describe(before, now) if known else f"which images, {DATA_FILE} does not tell: missing or changed"
        raise DataError(f"{folder} holds a run on other training data: {differing}. {ADVICE}")
    pairs = zip(now.rows, before.sizes, now.sizes, strict=True) if known else ()
    resized = [str(row[2]) for row, old, new in pairs if old != new]
    if 2 * len(resized) > len(now.rows):
        raise DataError(
            f"{folder} holds a run on other training data: {len(resized)} of {len(now.rows)} files have another size "
            f"({', '.join(resized[:NUM_SHOWN])}), so they are other pictures of the same names. {ADVICE}"
        )
    return resized


def _describe(before: DataList, now: DataList) -> str:
    old, new = before.by_name(), now.by_name()
    gone, added = [key for key in old if key not in new], [key for key in new if key not in old]
    changed = [key for key in new if key in old and old[key] != new[key]]
    told = [
        f"{len(keys)} {what} ({', '.join(str(key[2]) for key in keys[:NUM_SHOWN])}{', ...' * (len(keys) > NUM_SHOWN)})"
        for keys, what in ((added, "new"), (gone, "gone"), (changed, "labelled otherwise"))
        if keys
    ]
    return ", ".join(told) or "the same images in another order"
