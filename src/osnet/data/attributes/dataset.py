"""Attribute data sets: images with 0/1 labels, and the mismatches found in them.

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
"""``Crop.pid`` of an image whose identity is unknown."""


@dataclass(frozen=True)
class AttributeSplit:
    """One split of an attribute data set."""

    name: str
    crops: tuple[Crop, ...] = ()
    """``pid`` is -1 where the identity is unknown."""
    labels: Labels = field(default_factory=lambda: np.empty((0, 0), dtype=np.float32))
    """(N, A) float32: 1 positive, 0 negative, NaN unknown."""

    def __len__(self) -> int:
        return len(self.crops)

    @property
    def paths(self) -> list[Path]:
        """Paths of the crops, in order."""
        return [crop.path for crop in self.crops]

    def take(self, rows: Sequence[int], name: str | None = None) -> "AttributeSplit":
        """Select rows, in the given order."""
        return AttributeSplit(name or self.name, tuple(self.crops[i] for i in rows), self.labels[list(rows)])


@dataclass(frozen=True)
class AttributeDataset:
    """Images with attribute labels in three splits; a split may be empty."""

    name: str
    root: Path
    attributes: tuple[str, ...]
    """The A attribute names, in the order of the label columns."""
    train: AttributeSplit
    val: AttributeSplit
    test: AttributeSplit
    problems: tuple[str, ...] = ()
    """The mismatches between files and labels; the images concerned are in no split."""
    notes: tuple[str, ...] = ()
    """Remarks, such as counts that differ from the published ones."""

    @property
    def splits(self) -> tuple[AttributeSplit, AttributeSplit, AttributeSplit]:
        """Train, val, test."""
        return self.train, self.val, self.test

    def positive_ratios(self) -> NDArray[np.float64]:
        """Compute each attribute's share of positives among the known train labels: (A,), in [0, 1].

        This does not read images. An attribute without known labels gets 0.
        """
        known = ~np.isnan(self.train.labels)
        return np.nansum(self.train.labels, axis=0, dtype=np.float64) / np.maximum(known.sum(axis=0), 1)

    def select(self, attributes: Sequence[str]) -> "AttributeDataset":
        """Select attributes, in the given order. An attribute that this data set lacks becomes unknown (NaN)."""
        place = {name: column for column, name in enumerate(self.attributes)}

        def chosen(split: AttributeSplit) -> AttributeSplit:
            unknown = np.full(len(split), np.nan, dtype=np.float32)
            columns = [split.labels[:, place[name]] if name in place else unknown for name in attributes]
            return replace(split, labels=np.stack(columns, axis=1))

        train, val, test = map(chosen, self.splits)
        return replace(self, attributes=tuple(attributes), train=train, val=val, test=test)


@dataclass(frozen=True)
class Listed:
    """A row of an annotation file, not yet checked."""

    split: str
    file: Any
    """Path relative to the folder of the images. It comes from the annotation file, so its type is not checked yet."""
    labels: Any
    """A label values: 0, 1, or NaN if unknown."""
    where: str
    """Names the row in error messages."""
    pid: int = NO_IDENTITY
    camid: int = 0


@dataclass
class Found:
    """Collects the splits of a data set row by row, and the mismatches."""

    images: Path
    num_attributes: int
    crops: dict[str, list[Crop]] = field(default_factory=lambda: {"train": [], "val": [], "test": []})
    labels: dict[str, list[Labels]] = field(default_factory=lambda: {"train": [], "val": [], "test": []})
    problems: list[str] = field(default_factory=list)

    def add_all(self, rows: Iterable[Listed], existing: set[str]) -> None:
        """Add the valid rows and record the others as problems.

        Args:
            rows: all rows of the annotation file.
            existing: paths of all images in the folder, relative to it.

        Raises:
            DataError: a path is outside the folder of the images.
        """
        rows = list(rows)
        seen = Counter(row.file for row in rows if isinstance(row.file, str))
        for row in rows:
            if (reason := self._find_fault(row, seen, existing)) is not None:
                self.problems.append(f"{row.where}: {reason}")
                continue
            self.crops[row.split].append(Crop(self.images / row.file, row.pid, row.camid))
            self.labels[row.split].append(np.asarray(row.labels, dtype=np.float32))
        self.problems += [f"{name}: an image without labels" for name in sorted(existing - set(seen))]

    def _find_fault(self, row: Listed, seen: Counter[str], existing: set[str]) -> str | None:
        if not isinstance(row.file, str) or not row.file:
            return "the image name is empty"
        if seen[row.file] > 1:
            return f"{row.file} is listed {seen[row.file]} times"
        if row.file not in existing:
            inside(self.images, row.file, row.where)
            return f"{row.file} is not in {self.images}"
        values = np.asarray(row.labels, dtype=np.float32)
        if values.shape != (self.num_attributes,):
            return f"{row.file} has labels of shape {values.shape} instead of ({self.num_attributes},)"
        if strange := sorted({float(v) for v in values[~np.isnan(values)]} - {0.0, 1.0}):
            return f"{row.file} has the label {strange[0]:g}; labels must be 0 or 1"
        return None

    def split(self, name: str) -> AttributeSplit:
        """Build a split from the rows added so far."""
        rows = self.labels[name]
        stacked = np.stack(rows) if rows else np.empty((0, self.num_attributes), dtype=np.float32)
        return AttributeSplit(name, tuple(self.crops[name]), stacked)


def finish(
    name: str, root: Path, attributes: Sequence[str], found: Found, on_mismatch: OnMismatch, notes: Sequence[str] = ()
) -> AttributeDataset:
    """Build the data set from the collected rows.

    Raises:
        DataError: files and labels do not match and ``on_mismatch`` is ``raise``, or no labelled image is left.
    """
    if found.problems and on_mismatch == "raise":
        more = f"\n  ... and {len(found.problems) - NUM_SHOWN} more" if len(found.problems) > NUM_SHOWN else ""
        raise DataError(
            f"{root}: files and labels do not match in {len(found.problems)} places; to skip these, "
            "pass on_mismatch='skip' (command line: --skip-mismatches)\n  "
            + "\n  ".join(found.problems[:NUM_SHOWN])
            + more
        )
    train, val, test = (found.split(split) for split in ("train", "val", "test"))
    if not len(train) + len(val) + len(test):
        raise DataError(f"{root}: no image with labels is left")
    return AttributeDataset(name, root, tuple(attributes), train, val, test, tuple(found.problems), tuple(notes))


def check_counts(found: Found, published: dict[str, int], name: str) -> list[str]:
    """List the splits whose size differs from the published one."""
    return [
        f"{split} has {len(found.crops[split]):,} usable images; {name} has {count:,} as published"
        for split, count in published.items()
        if len(found.crops[split]) != count
    ]


def list_names(folder: Path) -> set[str]:
    """List the names of the images directly in ``folder``.

    Raises:
        DataError: the folder does not exist.
    """
    if not folder.is_dir():
        raise DataError(f"the folder of the images does not exist: {folder}")
    return {path.name for path in folder.iterdir() if is_image_file(path)}


def read_mat(path: Path) -> dict[str, Any]:
    """Read a MATLAB file (version 5) into dictionaries and arrays.

    Raises:
        DataError: the file cannot be read.
        MissingExtraError: SciPy (extra ``attributes``) is not installed.
    """
    loadmat = require_extra("scipy.io", "attributes").loadmat
    try:
        content = loadmat(path, simplify_cells=True)
    except Exception as error:  # the parser raises many types on damaged files
        raise DataError(f"{path} cannot be read as a MATLAB file: {error!r}") from error
    return {key: value for key, value in content.items() if not key.startswith("__")}


def as_list(cells: Any) -> list[Any]:
    """Return the cells of a MATLAB column. ``read_mat`` gives the cell of a column that has only one."""
    return list(np.atleast_1d(np.asarray(cells, dtype=object)))


def as_text(value: Any) -> str:
    """Return the text of a MATLAB cell; '' if it is empty or not text."""
    return str(value) if isinstance(value, str) else ""
