"""Anybody's vectors with who they are of: query and gallery, from files.

One ``.npz`` with ``query_vectors`` (Q, D), ``query_pids`` and ``query_camids`` (Q,), and the same for ``gallery``; the
vectors may also be called ``query`` and ``gallery``. Or two files, query and gallery, each with ``vectors``, ``pids``
and ``camids``. Without ``camids`` every image has a camera of its own, so that no rule about equal cameras touches it.

Vectors are real numbers of any kind and become float32: half precision exactly, double precision rounded, and what
float32 cannot hold is refused (``arrays.as_vectors``).

Labels are whole numbers or names. Texts are numbers only if all are written as numbers are: ``01`` is a name. The pid
-1 is junk and 0 a distractor, also as the texts ``-1`` and ``0`` among names. Cameras have no such
numbers: -1 and 0 are cameras like others.

Files of ``osnet embed`` have ``vectors`` and ``names``: who is on them comes from a CSV (``path_table``), or from names
like Market-1501's.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osnet.data.folder import NOBODY, SPLITS
from osnet.data.reid.market1501 import parse_name
from osnet.errors import DataError
from osnet.features.array_files import as_vectors, list_arrays, read_arrays
from osnet.features.path_table import PathTable, Row

Ints = NDArray[np.int64]
PARTS = ("query", "gallery")
LARGEST = 1 << 62
"""Whole numbers beyond are names, since int64 has no room for them."""


@dataclass(frozen=True)
class LabelledVectors:
    """Vectors of one split with their labels, row by row."""

    vectors: NDArray[np.float32]
    """(N, D)."""
    pids: Ints
    """(N,): -1 junk, 0 distractor."""
    camids: Ints
    """(N,): each unknown camera has a negative number that no other image has."""
    names: tuple[str, ...]
    """N names to tell a user which row is meant."""

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True)
class RawVectors:
    """One part of a file: vectors, and labels as they are written."""

    path: Path
    prefix: str
    """What the names of its arrays begin with."""
    vectors: NDArray[np.float32]
    """(N, D)."""
    names: tuple[str, ...] | None
    pids: NDArray[Any] | None
    """(N,): whole numbers or text."""
    camids: NDArray[Any] | None
    weights_sha256: str = ""
    """Of what made them, in files of ``osnet embed``."""

    def __len__(self) -> int:
        return len(self.vectors)


def read_labelled(
    paths: Sequence[str | Path], table: str | Path | None = None
) -> tuple[LabelledVectors, LabelledVectors]:
    """Query and gallery from one file or from two; the module says how they look.

    Identities and cameras that are names, in the files or in a CSV, are numbered from 1 in sorted order; if all are
    whole numbers, they are kept. Among identities that are names, the texts ``-1`` (junk) and ``0`` (distractor) keep
    their meaning and are not numbered; among cameras they are names. Nothing is unpickled.

    Args:
        paths: one ``.npz``, or the query's and the gallery's.
        table: a CSV that says who is on the images that the vectors' ``names`` name. A row's path may be the end of
            the image's, or the image's the end of the row's, if that fits once.

    Raises:
        DataError: a file that is none of this, parts that do not belong together, an image without an identity, or
            one that two rows of the table could mean.
    """
    rows = PathTable(table) if table is not None else None
    found = _read_files(paths)
    if len(found) == 1:
        query, gallery = _split(found[0], rows)
    else:
        query, gallery = _join(*found)
        if rows is not None:
            query, gallery = _look_up(query, gallery, rows)
    return label_pair(*(_with_labels(part) for part in (query, gallery)))


def read_pair(paths: Sequence[str | Path]) -> tuple[RawVectors, RawVectors]:
    """Query and gallery as ``read_labelled`` takes them, with labels or without.

    Raises:
        DataError: a file that is none of this, or parts that do not belong together.
    """
    found = _read_files(paths)
    if len(found) == 1:
        raise DataError(f"{found[0].path} holds one list of vectors; give two files, the queries' first")
    return _join(*found)


def label_pair(query: RawVectors, gallery: RawVectors) -> tuple[LabelledVectors, LabelledVectors]:
    """Both with numbers for labels; see ``read_labelled``.

    Raises:
        DataError: one has no pids, or an identity is empty.
    """
    pids, camids = [], []
    for part, other in ((query, gallery), (gallery, query)):
        if part.pids is None:
            has = f"{other.path} has {other.prefix}pids but " if other.pids is not None else ""
            raise DataError(f"{has}{part.path} has no array {part.prefix + 'pids'!r}")
        if part.pids.dtype.kind == "U" and not np.char.str_len(part.pids).all():
            raise DataError(f"{part.path}: an identity is empty; -1 means junk, 0 a distractor")
        pids.append(part.pids)
        camids.append(np.full(len(part), "") if part.camids is None else part.camids)
    numbers = zip((query, gallery), _number(pids, NOBODY), _number(camids, {}), strict=True)
    first, second = (
        LabelledVectors(
            part.vectors,
            pid_N,
            camid_N,
            part.names or tuple(f"{part.prefix}vectors row {i}" for i in range(len(part))),
        )
        for part, pid_N, camid_N in numbers
    )
    return first, second


def _read_files(paths: Sequence[str | Path]) -> list[RawVectors]:
    """Query and gallery, or one list of vectors."""
    if len(paths) not in (1, 2):
        raise DataError(f"{len(paths)} files of vectors; give one with query and gallery, or two: query, then gallery")
    arrays = ("vectors", "pids", "camids", "names")
    wanted = {f"{prefix}{name}" for prefix in ("", "query_", "gallery_") for name in arrays}
    files = [(Path(path), read_arrays(path, wanted | {*PARTS, "weights_sha256"})) for path in paths]
    path, content = files[0]
    if len(files) == 1 and ("vectors" not in content or any(_spellings(part) & content.keys() for part in PARTS)):
        return [_take(path, content, f"{part}_", _find_vectors(path, content, part)) for part in PARTS]
    for path, content in files:
        if "vectors" not in content:
            raise DataError(f"{path} has no array 'vectors'; it holds {_told(path)}")
    return [_take(path, content, "", "vectors") for path, content in files]


def _spellings(part: str) -> set[str]:
    return {f"{part}_vectors", part}


def _find_vectors(path: Path, content: Mapping[str, NDArray[Any]], part: str) -> str:
    """What a part's vectors are called in a file with both."""
    found = sorted(_spellings(part) & content.keys())
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{path} has both {found[0]!r} and {found[1]!r}; leave one out")
    raise DataError(f"{path} has no array '{part}_vectors' or {part!r}; it holds {_told(path)}")


def _told(path: Path) -> str:
    return ", ".join(list_arrays(path)) or "nothing"


def _take(path: Path, content: Mapping[str, NDArray[Any]], prefix: str, key: str) -> RawVectors:
    """One part, checked."""
    vectors = as_vectors(content[key], f"{path}: {key}")
    for what in ("pids", "camids", "names"):
        array = content.get(prefix + what)
        if array is not None and (array.shape != (len(vectors),) or array.dtype.kind not in "iuU"):
            raise DataError(
                f"{path}: {prefix}{what} is {array.dtype} {array.shape}; it must be {len(vectors)} whole numbers or "
                "names"
            )
    names, weights = content.get(f"{prefix}names"), content.get("weights_sha256")
    return RawVectors(
        path,
        prefix,
        vectors,
        names=tuple(map(str, names.tolist())) if names is not None else None,
        pids=content.get(f"{prefix}pids"),
        camids=content.get(f"{prefix}camids"),
        weights_sha256=str(weights) if weights is not None and not prefix else "",
    )


def _join(query: RawVectors, gallery: RawVectors) -> tuple[RawVectors, RawVectors]:
    """Both, if they can be compared."""
    if query.weights_sha256 and gallery.weights_sha256 and query.weights_sha256 != gallery.weights_sha256:
        raise DataError(
            f"{query.path} and {gallery.path} were made with different weights ({query.weights_sha256[:12]} and "
            f"{gallery.weights_sha256[:12]}); embed both with the same"
        )
    if query.vectors.shape[1] != gallery.vectors.shape[1]:
        raise DataError(
            f"{query.path}: query vectors have {query.vectors.shape[1]} components, gallery vectors "
            f"{gallery.vectors.shape[1]}"
        )
    return query, gallery


def _look_up(query: RawVectors, gallery: RawVectors, table: PathTable) -> tuple[RawVectors, RawVectors]:
    """Both with the table's labels, where a file has names and no labels of its own."""
    names = [name for part in (query, gallery) if part.pids is None for name in part.names or ()]
    rows = iter(table.find(names))  # of both at once: an image of the one may be mistaken for one of the other
    first, second = (
        part if part.pids is not None or part.names is None else _with_rows(part, [next(rows) for _ in part.names])
        for part in (query, gallery)
    )
    return first, second


def _with_rows(part: RawVectors, rows: Sequence[Row | None]) -> RawVectors:
    if missing := [name for name, row in zip(part.names or (), rows, strict=True) if row is None]:
        raise DataError(f"{part.path}: the table has no row for {len(missing)} images: {', '.join(missing[:5])}")
    known = [row for row in rows if row is not None]
    return replace(part, pids=np.array([row.identity for row in known]), camids=np.array([r.camera for r in known]))


def _with_labels(part: RawVectors) -> RawVectors:
    """With the labels of Market-1501's names, where there are no others."""
    if part.pids is not None:
        return part
    if part.names is None:
        raise DataError(f"{part.path} has no array {part.prefix + 'pids'!r} and no names to look identities up by")
    parsed = [parse_name(Path(name)) for name in part.names]
    if strange := [name for name, ids in zip(part.names, parsed, strict=True) if ids is None]:
        raise DataError(
            f"{part.path}: {len(strange)} names do not say who it is, as 0002_c1s1_000451_03.jpg does: "
            f"{', '.join(strange[:5])}; give a CSV with the columns path, identity, camera"
        )
    pairs = np.array([ids for ids in parsed if ids is not None], dtype=np.int64)
    return replace(part, pids=pairs[:, 0], camids=pairs[:, 1])


def _split(whole: RawVectors, table: PathTable | None) -> tuple[RawVectors, RawVectors]:
    """One file of vectors, cut into query and gallery by the table's column ``split``; other rows are left out.

    Images without a row are left out with a warning.
    """
    found = table.find(whole.names) if table is not None and whole.names is not None else []
    if table is not None and (odd := sorted({row.split for row in found if row is not None} - {"", *SPLITS})):
        raise DataError(f"{table.file}: column split must hold {', '.join(SPLITS)}; found {', '.join(odd[:5])}")
    if missing := [name for name, row in zip(whole.names or (), found, strict=False) if row is None]:
        warnings.warn(
            f"{len(missing)} of {len(found)} images in {whole.path} have no row in the table and are left out: "
            f"{', '.join(missing[:5])}",
            stacklevel=4,
        )
    places = [[i for i, row in enumerate(found) if row is not None and row.split == part] for part in PARTS]
    if not all(places):
        raise DataError(
            f"{whole.path} holds one list of vectors; give a second file, or a CSV whose column split says query or "
            "gallery"
        )
    query, gallery = (_part_of(whole, chosen, [found[i] for i in chosen]) for chosen in places)
    return query, gallery


def _part_of(whole: RawVectors, chosen: list[int], rows: Sequence[Row | None]) -> RawVectors:
    names = tuple(whole.names[i] for i in chosen) if whole.names is not None else None
    pids, camids = (array[chosen] if array is not None else None for array in (whole.pids, whole.camids))
    part = replace(whole, vectors=whole.vectors[chosen], names=names, pids=pids, camids=camids)
    return part if pids is not None else _with_rows(part, rows)


def _is_number(text: str) -> bool:
    """True for a whole number as it is written: not 01, which may be another one than 1, nor 1_23, which is no 123."""
    return re.fullmatch(r"-?[1-9][0-9]{0,18}|0", text) is not None and abs(int(text)) <= LARGEST


def _number(parts: Sequence[NDArray[Any]], kept: Mapping[str, int]) -> list[Ints]:
    """Whole numbers as they are; else names as numbers from 1, in sorted order, except for those that ``kept`` has a
    number for. What is unknown gets numbers below all others and below 0, each another one.
    """
    if all(part.dtype.kind == "i" for part in parts):
        return [part.astype(np.int64) for part in parts]
    texts = [[str(value) for value in part.tolist()] for part in parts]
    known = sorted({text for part in texts for text in part if text})
    if all(map(_is_number, known)):
        number = {text: int(text) for text in known}
    else:
        names = [text for text in known if text not in kept]
        number = {name: i for i, name in enumerate(names, start=1)} | dict(kept)
    unknown = min(0, *number.values()) if number else 0
    numbered: list[Ints] = []
    for part in texts:
        out: Ints = np.empty(len(part), dtype=np.int64)
        for i, text in enumerate(part):
            unknown -= not text
            out[i] = number[text] if text else unknown
        numbered.append(out)
    return numbered
