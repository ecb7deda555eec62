"""A data set for attributes: images with 0/1 labels, and what in it does not match.

Shapes: N images, A attributes.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from osnet.data.folder import inside
from osnet.data.loading import is_image_file
from osnet.errors import DataError, require_extra
from osnet.types import JUNK_PID, Crop

OnMismatch = Literal["raise", "skip"]
Labels = NDArray[np.float32]
NUM_SHOWN = 20
NO_IDENTITY = JUNK_PID
"""``Crop.pid`` of an image of which nobody says who is on it."""


@dataclass(frozen=True)
class AttributeSplit:
    """One part of a data set."""

    name: str
    crops: tuple[Crop, ...] = ()
    """``pid`` is -1 where nobody says who it is."""
    labels: Labels = field(default_factory=lambda: np.empty((0, 0), dtype=np.float32))
    """(N, A): 1 it holds, 0 it does not, NaN nobody says."""

    def __len__(self) -> int:
        return len(self.crops)

    @property
    def paths(self) -> list[Path]:
        """The crops' files, in order."""
        return [crop.path for crop in self.crops]

    def take(self, rows: Sequence[int], name: str | None = None) -> "AttributeSplit":
        """Some of the rows, in the order given."""
        return AttributeSplit(name or self.name, tuple(self.crops[i] for i in rows), self.labels[list(rows)])


@dataclass(frozen=True)
class AttributeDataset:
    """Images with labels, in three parts; a part may be empty."""

    name: str
    root: Path
    attributes: tuple[str, ...]
    """A names, in the order of the labels' columns."""
    train: AttributeSplit
    val: AttributeSplit
    test: AttributeSplit
    problems: tuple[str, ...] = ()
    """What does not match, one by one; such images are in no part."""
    notes: tuple[str, ...] = ()
    """What else should be known: counts that are not the published ones."""

    @property
    def splits(self) -> tuple[AttributeSplit, AttributeSplit, AttributeSplit]:
        """Train, val, test."""
        return self.train, self.val, self.test

    def positive_ratios(self) -> NDArray[np.float64]:
        """Of each attribute, the share of positives among the known labels of the train part: (A,), in [0, 1].

        Counted from the labels; no image is read. An attribute without any label gets 0.
        """
        known = ~np.isnan(self.train.labels)
        return np.nansum(self.train.labels, axis=0, dtype=np.float64) / np.maximum(known.sum(axis=0), 1)

    def select(self, attributes: Sequence[str]) -> "AttributeDataset":
        """Some of the attributes, in the order given; one that is not labelled here is unknown for every image."""
        place = {name: column for column, name in enumerate(self.attributes)}

        def chosen(split: AttributeSplit) -> AttributeSplit:
            unknown = np.full(len(split), np.nan, dtype=np.float32)
            columns = [split.labels[:, place[name]] if name in place else unknown for name in attributes]
            return replace(split, labels=np.stack(columns, axis=1))

        train, val, test = map(chosen, self.splits)
        return replace(self, attributes=tuple(attributes), train=train, val=val, test=test)


@dataclass(frozen=True)
class Listed:
    """A row as an annotation file has it, before it is known whether it fits."""

    split: str
    file: Any
    """The image, relative to the images' folder; whatever the annotation holds, text or not."""
    labels: Any
    """A values; NaN where unknown."""
    where: str
    """The row, in words, for messages."""
    pid: int = NO_IDENTITY
    camid: int = 0


@dataclass
class Found:
    """Parts of a data set, put together row by row; what does not match is noted."""

    images: Path
    num_attributes: int
    crops: dict[str, list[Crop]] = field(default_factory=lambda: {"train": [], "val": [], "test": []})
    labels: dict[str, list[Labels]] = field(default_factory=lambda: {"train": [], "val": [], "test": []})
    problems: list[str] = field(default_factory=list)

    def add_all(self, rows: Iterable[Listed], there: set[str]) -> None:
        """Take the rows that fit; ``there`` holds the paths, relative to the images' folder, of all images in it."""
        rows = list(rows)
        seen = Counter(row.file for row in rows if isinstance(row.file, str))
        for row in rows:
            if (reason := self._find_fault(row, seen, there)) is not None:
                self.problems.append(f"{row.where}: {reason}")
                continue
            self.crops[row.split].append(Crop(self.images / row.file, row.pid, row.camid))
            self.labels[row.split].append(np.asarray(row.labels, dtype=np.float32))
        self.problems += [f"{name}: an image without labels" for name in sorted(there - set(seen))]

    def _find_fault(self, row: Listed, seen: Counter[str], there: set[str]) -> str | None:
        if not isinstance(row.file, str) or not row.file:
            return "an empty name instead of an image's"
        if seen[row.file] > 1:
            return f"{row.file} is listed {seen[row.file]} times"
        if row.file not in there:
            inside(self.images, row.file, row.where)
            return f"{row.file} is not in {self.images}"
        values = np.asarray(row.labels, dtype=np.float32)
        if values.shape != (self.num_attributes,):
            return f"{row.file} has labels of shape {values.shape} instead of ({self.num_attributes},)"
        if strange := sorted({float(v) for v in values[~np.isnan(values)]} - {0.0, 1.0}):
            return f"{row.file} has the label {strange[0]:g}; only 0 and 1 have a meaning"
        return None

    def split(self, name: str) -> AttributeSplit:
        """A part as it stands."""
        rows = self.labels[name]
        stacked = np.stack(rows) if rows else np.empty((0, self.num_attributes), dtype=np.float32)
        return AttributeSplit(name, tuple(self.crops[name]), stacked)


def finish(
    name: str, root: Path, attributes: Sequence[str], found: Found, on_mismatch: OnMismatch, notes: Sequence[str] = ()
) -> AttributeDataset:
    """The data set, if nothing is wrong with it or the user chose to go on.

    Raises:
        DataError: files and labels do not match, and ``on_mismatch`` is ``raise``; or nothing is left.
    """
    if found.problems and on_mismatch == "raise":
        more = f"\n  ... and {len(found.problems) - NUM_SHOWN} more" if len(found.problems) > NUM_SHOWN else ""
        raise DataError(
            f"{root}: files and labels do not match in {len(found.problems)} places; to leave these out and go on, "
            "choose on_mismatch='skip', on the command line --skip-mismatches\n  "
            + "\n  ".join(found.problems[:NUM_SHOWN])
            + more
        )
    train, val, test = (found.split(split) for split in ("train", "val", "test"))
    if not len(train) + len(val) + len(test):
        raise DataError(f"{root}: no image with labels is left")
    return AttributeDataset(name, root, tuple(attributes), train, val, test, tuple(found.problems), tuple(notes))


def check_counts(found: Found, published: dict[str, int], name: str) -> list[str]:
    """Notes on parts whose size is not the published one."""
    return [
        f"{split} has {len(found.crops[split]):,} usable images; {name} has {count:,} as published"
        for split, count in published.items()
        if len(found.crops[split]) != count
    ]


def list_names(folder: Path) -> set[str]:
    """Names of the images directly in ``folder``.

    Raises:
        DataError: there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder} with the images")
    return {path.name for path in folder.iterdir() if is_image_file(path)}


def read_mat(path: Path) -> dict[str, Any]:
    """A MATLAB file (version 5) as dictionaries and arrays.

    Raises:
        DataError: it cannot be read.
        MissingExtraError: SciPy, of the extra ``attributes``, is not installed.
    """
    loadmat = require_extra("scipy.io", "attributes").loadmat
    try:
        content = loadmat(path, simplify_cells=True)
    except Exception as error:  # a damaged file may make the parser raise anything
        raise DataError(f"{path} cannot be read as a MATLAB file: {error!r}") from error
    return {key: value for key, value in content.items() if not key.startswith("__")}


def as_text(value: Any) -> str:
    """A name out of a MATLAB cell; '' for one that is empty or no text."""
    return str(value) if isinstance(value, str) else ""
