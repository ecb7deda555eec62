"""Anybody's vectors with who they are of: query and gallery, from files.

One ``.npz`` with ``query_vectors`` (Q, D), ``query_pids`` and ``query_camids`` (Q,), and the same for ``gallery``;
or two files, query and gallery, each with ``vectors``, ``pids`` and ``camids``. Labels are whole numbers or names; the
pid -1 is junk and 0 a distractor. Without ``camids`` every image has a camera of its own, so that no rule about equal
cameras touches it.

Files of ``osnet embed`` have ``vectors`` and ``names``: who is on them comes from a CSV with the columns ``path``,
``identity`` and, if known, ``camera`` and ``split``, or from names like Market-1501's.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from osnet.data.reid.market1501 import parse_name
from osnet.errors import DataError

Ints = NDArray[np.int64]
PARTS = ("query", "gallery")


@dataclass(frozen=True)
class LabelledVectors:
    """Vectors of one split with their labels, row by row."""

    vectors: NDArray[np.float32]
    """(N, D)."""
    pids: Ints
    """(N,): -1 junk, 0 distractor."""
    camids: Ints
    """(N,): negative where the camera is unknown."""
    names: tuple[str, ...]
    """N names to tell a user which row is meant."""

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True)
class _Table:
    """What a CSV says of a path."""

    identity: str
    camera: str
    split: str


def read_labelled(
    paths: Sequence[str | Path], table: str | Path | None = None
) -> tuple[LabelledVectors, LabelledVectors]:
    """Query and gallery from one file or from two; the module says how they look.

    Identities and cameras that are names, in the files or in a CSV, are numbered from 1 in sorted order; whole numbers,
    in a CSV too, are kept. Nothing is unpickled.

    Args:
        paths: one ``.npz``, or the query's and the gallery's.
        table: a CSV that says who is on the images that the vectors' ``names`` name, by path or by file name.

    Raises:
        DataError: a file that is none of this, parts that do not belong together, or an image without an identity.
    """
    if len(paths) not in (1, 2):
        raise DataError(f"{len(paths)} files of vectors; give one with query and gallery, or two: query, then gallery")
    rows = _read_table(Path(table)) if table is not None else None
    files = [(Path(path), _read_npz(Path(path))) for path in paths]
    if len(files) == 2:
        raw = {part: _take(path, content, "", rows) for part, (path, content) in zip(PARTS, files, strict=True)}
    elif "vectors" in files[0][1]:
        raw = _split(files[0][0], _take(*files[0], "", rows), rows)
    else:
        raw = {part: _take(*files[0], f"{part}_", rows) for part in PARTS}
    if any("" in np.asarray(raw[part]["pids"]).tolist() for part in PARTS):
        raise DataError(f"{', '.join(map(str, paths))}: an identity is empty; -1 means junk, 0 a distractor")
    pids, camids = _number([raw[part]["pids"] for part in PARTS]), _number([raw[part]["camids"] for part in PARTS])
    query, gallery = (
        LabelledVectors(raw[part]["vectors"], pids[i], camids[i], tuple(raw[part]["names"]))
        for i, part in enumerate(PARTS)
    )
    if query.vectors.shape[1] != gallery.vectors.shape[1]:
        raise DataError(
            f"query vectors have {query.vectors.shape[1]} components, gallery vectors {gallery.vectors.shape[1]}"
        )
    return query, gallery


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as content:
            return {key: content[key] for key in content}
    except (OSError, ValueError, TypeError, BadZipFile) as error:
        raise DataError(f"{path} is not an .npz of plain arrays: {error}") from error


def _take(
    path: Path, content: Mapping[str, NDArray[Any]], prefix: str, rows: Mapping[str, _Table] | None
) -> dict[str, Any]:
    """Vectors, names and labels of one part, the labels as they are written."""
    key = f"{prefix}vectors"
    if key not in content:
        raise DataError(f"{path} has no array {key!r}; it holds {', '.join(sorted(content)) or 'nothing'}")
    vectors = content[key]
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiu" or not len(vectors):
        raise DataError(f"{path}: {key} is {vectors.dtype} {vectors.shape}; it must be numbers (rows, components)")
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if bad := int((~np.isfinite(vectors).all(axis=1)).sum()):
        raise DataError(f"{path}: {bad} rows of {key} hold values that are not finite")
    names = [str(name) for name in content[f"{prefix}names"]] if f"{prefix}names" in content else None
    labels: dict[str, Any] = {"vectors": vectors, "names": names or [f"{key} row {i}" for i in range(len(vectors))]}
    if f"{prefix}pids" in content:
        labels["pids"] = content[f"{prefix}pids"]
        labels["camids"] = content.get(f"{prefix}camids", _unknown(len(vectors)))
    elif names is not None:
        labels["pids"], labels["camids"] = _labels_of_names(path, names, rows)
    else:
        raise DataError(f"{path} has no array {prefix + 'pids'!r} and no names to look identities up by")
    for what in ("pids", "camids", "names"):
        array = np.asarray(labels[what])
        if array.shape != (len(vectors),) or array.dtype.kind not in "iuU":
            raise DataError(
                f"{path}: {prefix}{what} is {array.dtype} {array.shape}; it must be {len(vectors)} whole numbers or "
                "names"
            )
    return labels


def _unknown(count: int) -> NDArray[Any]:
    return np.full(count, "")


def _labels_of_names(
    path: Path, names: Sequence[str], rows: Mapping[str, _Table] | None
) -> tuple[NDArray[Any], NDArray[Any]]:
    if rows is not None:
        found = [rows.get(name) or rows.get(Path(name).name) for name in names]
        if missing := [name for name, row in zip(names, found, strict=True) if row is None]:
            raise DataError(f"{path}: the table has no row for {len(missing)} images: {', '.join(missing[:5])}")
        known = [row for row in found if row is not None]
        return np.array([row.identity for row in known]), np.array([row.camera for row in known])
    parsed = [parse_name(Path(name)) for name in names]
    if strange := [name for name, ids in zip(names, parsed, strict=True) if ids is None]:
        raise DataError(
            f"{path}: {len(strange)} names do not say who it is, as 0002_c1s1_000451_03.jpg does: "
            f"{', '.join(strange[:5])}; give a CSV with the columns path, identity, camera"
        )
    pairs = np.array([ids for ids in parsed if ids is not None], dtype=np.int64)
    return pairs[:, 0], pairs[:, 1]


def _read_table(table: Path) -> dict[str, _Table]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {table}: {error}") from error
    if not lines or not {"path", "identity"} <= set(lines[0]):
        raise DataError(f"{table} needs a header with the columns path and identity, and at least one row")
    rows: dict[str, _Table] = {}
    for number, line in enumerate(lines, start=2):
        name = line["path"] or ""
        if not name or not line["identity"] or name in rows:
            raise DataError(f"{table}, line {number}: {name or 'a row'} has no path or no identity, or is listed twice")
        rows[name] = _Table(line["identity"], line.get("camera") or "", line.get("split") or "")
    return rows


def _split(path: Path, whole: dict[str, Any], rows: Mapping[str, _Table] | None) -> dict[str, dict[str, Any]]:
    """One file of vectors, cut into query and gallery by the table's column ``split``; other rows are left out."""
    splits = [(rows.get(name) or rows.get(Path(name).name)) if rows else None for name in whole["names"]]
    said = np.array([row.split if row is not None else "" for row in splits])
    if not all((said == part).any() for part in PARTS):
        raise DataError(
            f"{path} holds one list of vectors; give a second file, or a CSV whose column split says query or gallery"
        )
    return {part: {key: np.asarray(values)[said == part] for key, values in whole.items()} for part in PARTS}


def _number(parts: Sequence[NDArray[Any]]) -> list[Ints]:
    """Whole numbers as they are; names as numbers from 1, in sorted order; what is unknown as -1, -2, ..."""
    arrays = [np.asarray(part) for part in parts]
    texts = [[str(value) for value in array.tolist()] for array in arrays]
    known = sorted({text for part in texts for text in part if text})
    try:
        number = {text: int(text) for text in known}
    except ValueError:
        number = {text: i for i, text in enumerate(known, start=1)}
    unknown = 0
    numbered: list[Ints] = []
    for part in texts:
        out: Ints = np.empty(len(part), dtype=np.int64)
        for i, text in enumerate(part):
            unknown += not text
            out[i] = number[text] if text else -unknown
        numbered.append(out)
    return numbered
