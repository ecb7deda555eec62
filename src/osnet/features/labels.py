"""Read labelled embeddings of query and gallery, also those that other tools wrote.

Formats. Either one ``.npz`` with ``query_vectors`` (Q, D), ``query_pids`` (Q,), ``query_camids`` (Q,) and the same for
``gallery``; the embeddings may also be called ``query`` and ``gallery``. Or two files, query and gallery, each with
``vectors``, ``pids`` and ``camids``. Without ``camids`` in both parts, every image gets its own camera number, so that
the same-camera rule excludes no match. Other arrays are named in a warning; instead of ``camids``, one with a similar
name is refused.

Embeddings are real numbers of any type and are converted to float32 (see ``array_files.as_vectors``).

Labels are integers or names. Text labels are read as integers only if all of them are written as integers; ``01`` is a
name. Among identities, -1 means junk and 0 a distractor, also as the texts ``-1`` and ``0`` among names. Cameras have
no special values: -1 and 0 are ordinary cameras.

Files of ``osnet embed`` contain ``vectors`` and ``names``. Their identities and cameras come from a CSV
(``path_table``), or from file names in Market-1501's pattern. Labels in a file and in a CSV together are refused.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osnet.data.folder import RESERVED, SPLITS
from osnet.data.reid.market1501 import parse_name
from osnet.errors import DataError, ImageWarning
from osnet.features.array_files import as_vectors, list_arrays, read_arrays
from osnet.features.path_table import PathTable, Row
from osnet.types import JUNK_PID

Ints = NDArray[np.int64]
PARTS = ("query", "gallery")
READ = ("vectors", "pids", "camids", "names")
ALSO_SAVED = {"weights_sha256", "stamps", "failures", "failure_stamps"}
"""Further arrays of ``save_vectors``."""
CAMERAS = re.compile(r"(?:(?:q|g|query|gallery)_?)?cam(?:era)?s?(?:_?ids?)?(?:_?(?:q|g|query|gallery))?", re.IGNORECASE)
"""Other spellings of ``camids``, such as ``query_cams``, ``q_camids`` and ``camera_id``."""
LARGEST = 1 << 62
"""Integers beyond this are read as names, because they may not fit into int64."""


@dataclass(frozen=True)
class LabelledVectors:
    """Embeddings of one split with their labels, row by row."""

    vectors: NDArray[np.float32]
    """(N, D)."""
    pids: Ints
    """(N,): -1 junk, 0 distractor."""
    camids: Ints
    """(N,): an image with an unknown camera has a unique negative number."""
    names: tuple[str, ...]
    """N names, used in messages to identify a row."""

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True)
class RawVectors:
    """Embeddings and labels of one part of a file, before labels are turned into numbers."""

    path: Path
    prefix: str
    """Prefix of its array names: ``query_``, ``gallery_`` or empty."""
    vectors: NDArray[np.float32]
    """(N, D)."""
    names: tuple[str, ...] | None
    pids: NDArray[Any] | None
    """(N,): integers or text."""
    camids: NDArray[Any] | None
    weights_sha256: str = ""
    """``Embedder.sha256`` of the network, in files of ``osnet embed``; else empty."""

    def __len__(self) -> int:
        return len(self.vectors)


def read_labelled(
    paths: Sequence[str | Path], table: str | Path | None = None
) -> tuple[LabelledVectors, LabelledVectors]:
    """Read query and gallery from one file or from two. The module docstring describes the formats.

    Identities and cameras that are names are numbered from 1 in sorted order. If all are integers, they are kept. Among
    identity names, ``-1`` (junk) and ``0`` (distractor) keep their meaning; among camera names they are ordinary.
    Nothing is unpickled.

    Args:
        paths: one ``.npz`` with both parts, or the query file and the gallery file.
        table: a CSV with the identities of the images in ``names``. Paths match as described in ``path_table``.

    Raises:
        DataError: a file does not have one of the formats, the parts do not belong together, an image has no identity,
            several rows of the table match one image, labels are in a file and in the table, only one part has
            cameras, or an embedding is zero and not junk.

    Warns:
        ImageWarning: arrays of a file that are not used; images without a row in the table.
    """
    rows = PathTable(table) if table is not None else None
    found = _read_files(paths)
    for part in found if rows is not None else ():
        if own := [f"{part.prefix}{what}" for what in ("pids", "camids") if getattr(part, what) is not None]:
            raise DataError(
                f"{part.path} has {' and '.join(own)}, and {table} has labels too; leave out the table, or remove "
                f"{' and '.join(own)} from the file"
            )
    if len(found) == 1:
        query, gallery = _split(found[0], rows)
    else:
        query, gallery = _join(*found)
        if rows is not None:
            query, gallery = _look_up(query, gallery, rows)
    parts = _with_labels(query), _with_labels(gallery)
    labelled = label_pair(*parts)
    for part, labels in zip(parts, labelled, strict=True):
        _refuse_zeros(part, labels.pids != JUNK_PID)
    return labelled


def read_pair(paths: Sequence[str | Path]) -> tuple[RawVectors, RawVectors]:
    """Read query and gallery in the formats of ``read_labelled``; labels may be missing.

    Raises:
        DataError: a file does not have one of the formats, the parts do not belong together, or an embedding is zero.
    """
    found = _read_files(paths)
    if len(found) == 1:
        raise DataError(f"{found[0].path} has only one list of embeddings; pass two files: query, then gallery")
    for part in found:
        _refuse_zeros(part, np.ones(len(part), dtype=bool))
    return _join(*found)


def label_pair(query: RawVectors, gallery: RawVectors) -> tuple[LabelledVectors, LabelledVectors]:
    """Turn the labels of both parts into numbers, as described at ``read_labelled``.

    Raises:
        DataError: a part has no pids, only one part has camids, or an identity is empty.
    """
    pids, camids = [], []
    for part, other in ((query, gallery), (gallery, query)):
        if part.pids is None:
            has = f"{other.path} has {other.prefix}pids but " if other.pids is not None else ""
            raise DataError(f"{has}{part.path} has no array {part.prefix + 'pids'!r}")
        if part.camids is None and other.camids is not None:
            raise DataError(
                f"{other.path} has {other.prefix}camids but {part.path} has no array {part.prefix + 'camids'!r}; give "
                "the cameras of both, or of neither"
            )
        if part.pids.dtype.kind == "U" and not np.char.str_len(part.pids).all():
            raise DataError(f"{part.path}: an identity is empty; use -1 for junk and 0 for a distractor")
        pids.append(part.pids)
        camids.append(np.full(len(part), "") if part.camids is None else part.camids)
    numbers = zip((query, gallery), _number(pids, RESERVED), _number(camids, {}), strict=True)
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
    """Query and gallery, or a single part if the file has only one."""
    if len(paths) not in (1, 2):
        raise DataError(
            f"{len(paths)} files of embeddings; pass one with query and gallery, or two: query, then gallery"
        )
    wanted = {f"{prefix}{name}" for prefix in ("", "query_", "gallery_") for name in READ}
    files = [(Path(path), read_arrays(path, wanted | {*PARTS, "weights_sha256"})) for path in paths]
    path, content = files[0]
    if len(files) == 1 and ("vectors" not in content or any(_spellings(part) & content.keys() for part in PARTS)):
        parts = [_take(path, content, f"{part}_", _find_vectors(path, content, part)) for part in PARTS]
        _tell_unused(path, parts, {*PARTS, *(f"{part}_{name}" for part in PARTS for name in READ)})
        return parts
    for path, content in files:
        if "vectors" not in content:
            raise DataError(f"{path} has no array 'vectors'; it has {_list(path)}")
    parts = [_take(path, content, "", "vectors") for path, content in files]
    for part in parts:
        _tell_unused(part.path, [part], {*READ})
    return parts


def _tell_unused(path: Path, parts: Sequence[RawVectors], read: set[str]) -> None:
    """Warn about arrays that are not used. Raise DataError if one looks like the cameras that a part lacks."""
    unused = sorted({*list_arrays(path)} - read - ALSO_SAVED)
    near = [name for name in unused if CAMERAS.fullmatch(name)]
    if near and (lacking := [f"{part.prefix}camids" for part in parts if part.camids is None]):
        raise DataError(
            f"{path} has no array {' or '.join(lacking)}, but {', '.join(near)}, which would not be used; rename or "
            "remove it"
        )
    if unused:
        warnings.warn(ImageWarning(f"{path}: arrays that are not used: {', '.join(unused[:5])}"), stacklevel=4)


def _refuse_zeros(part: RawVectors, counted: NDArray[np.bool_]) -> None:
    """Raise DataError if an embedding that is ``counted`` (N,) is zero in all components."""
    rows = np.flatnonzero(~part.vectors.any(axis=1) & counted)
    if len(rows):
        name = part.names[rows[0]] if part.names else f"{part.prefix}vectors row {rows[0]}"
        raise DataError(f"{part.path}: {len(rows)} embeddings are zero, the first is {name}; leave these images out")


def _spellings(part: str) -> set[str]:
    return {f"{part}_vectors", part}


def _find_vectors(path: Path, content: Mapping[str, NDArray[Any]], part: str) -> str:
    """Name of the array with the embeddings of ``part``, in a file with both parts."""
    found = sorted(_spellings(part) & content.keys())
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{path} has both {found[0]!r} and {found[1]!r}; remove one")
    raise DataError(f"{path} has no array '{part}_vectors' or {part!r}; it has {_list(path)}")


def _list(path: Path) -> str:
    return ", ".join(list_arrays(path)) or "nothing"


def _take(path: Path, content: Mapping[str, NDArray[Any]], prefix: str, key: str) -> RawVectors:
    """Validate and return one part of a file; ``key`` is the array with its embeddings."""
    vectors = as_vectors(content[key], f"{path}: {key}")
    for what in ("pids", "camids", "names"):
        array = content.get(prefix + what)
        if array is not None and (array.shape != (len(vectors),) or array.dtype.kind not in "iuU"):
            raise DataError(
                f"{path}: {prefix}{what} is {array.dtype} {array.shape}; it must be {len(vectors)} integers or names"
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
    """Return both parts if they can be compared.

    Raises:
        DataError: they were made with different weights, or have different numbers of components.
    """
    if query.weights_sha256 and gallery.weights_sha256 and query.weights_sha256 != gallery.weights_sha256:
        raise DataError(
            f"{query.path} and {gallery.path} were made with different weights ({query.weights_sha256[:12]} and "
            f"{gallery.weights_sha256[:12]}); embed both with the same weights"
        )
    if query.vectors.shape[1] != gallery.vectors.shape[1]:
        raise DataError(
            f"{query.path}: query embeddings have {query.vectors.shape[1]} components, gallery embeddings have "
            f"{gallery.vectors.shape[1]}; embed both with the same weights"
        )
    return query, gallery


def _look_up(query: RawVectors, gallery: RawVectors, table: PathTable) -> tuple[RawVectors, RawVectors]:
    """Add the table's labels to parts that have names but no labels."""
    names = [name for part in (query, gallery) for name in part.names or ()]
    rows = iter(table.find(names))  # one call for both parts, so that ambiguities between them are found
    first, second = (
        part if part.names is None else _with_rows(part, [next(rows) for _ in part.names]) for part in (query, gallery)
    )
    return first, second


def _with_rows(part: RawVectors, rows: Sequence[Row | None]) -> RawVectors:
    if missing := [name for name, row in zip(part.names or (), rows, strict=True) if row is None]:
        raise DataError(
            f"{part.path}: the table has no row for {len(missing)} images: {', '.join(missing[:5])}; add them"
        )
    known = [row for row in rows if row is not None]
    return replace(part, pids=np.array([row.identity for row in known]), camids=np.array([r.camera for r in known]))


def _with_labels(part: RawVectors) -> RawVectors:
    """Add labels parsed from Market-1501's file names to a part without labels."""
    if part.pids is not None:
        return part
    if part.names is None:
        raise DataError(f"{part.path} has no array {part.prefix + 'pids'!r} and no names to look up identities")
    if part.camids is not None:
        raise DataError(
            f"{part.path} has {part.prefix}camids but no {part.prefix}pids; give both, or neither if the names contain "
            "both"
        )
    parsed = [parse_name(Path(name)) for name in part.names]
    if strange := [name for name, ids in zip(part.names, parsed, strict=True) if ids is None]:
        raise DataError(
            f"{part.path}: {len(strange)} names contain no identity as 0002_c1s1_000451_03.jpg does: "
            f"{', '.join(strange[:5])}; pass a CSV with the columns path, identity, camera"
        )
    pairs = np.array([ids for ids in parsed if ids is not None], dtype=np.int64)
    return replace(part, pids=pairs[:, 0], camids=pairs[:, 1])


def _split(whole: RawVectors, table: PathTable | None) -> tuple[RawVectors, RawVectors]:
    """Split one part into query and gallery by the table's column ``split``; other splits are left out.

    Images without a row are left out with a warning.
    """
    found = table.find(whole.names) if table is not None and whole.names is not None else []
    if table is not None and (odd := sorted({row.split for row in found if row is not None} - {"", *SPLITS})):
        raise DataError(f"{table.file}: column split must be one of {', '.join(SPLITS)}; found {', '.join(odd[:5])}")
    if missing := [name for name, row in zip(whole.names or (), found, strict=False) if row is None]:
        warnings.warn(
            ImageWarning(
                f"{len(missing)} of {len(found)} images in {whole.path} have no row in the table and are left out: "
                f"{', '.join(missing[:5])}"
            ),
            stacklevel=3,
        )
    places = [[i for i, row in enumerate(found) if row is not None and row.split == part] for part in PARTS]
    if not all(places):
        raise DataError(
            f"{whole.path} has only one list of embeddings; pass a second file, or a CSV whose column split contains "
            "query and gallery"
        )
    query, gallery = (_part_of(whole, chosen, [found[i] for i in chosen]) for chosen in places)
    return query, gallery


def _part_of(whole: RawVectors, chosen: list[int], rows: Sequence[Row | None]) -> RawVectors:
    names = tuple(whole.names[i] for i in chosen) if whole.names is not None else None
    return _with_rows(replace(whole, vectors=whole.vectors[chosen], names=names), rows)


def _is_number(text: str) -> bool:
    """Whether a text is an integer in the usual notation. ``01`` and ``1_23`` are names, though int() accepts them."""
    return re.fullmatch(r"-?[1-9][0-9]{0,18}|0", text) is not None and abs(int(text)) <= LARGEST


def _number(parts: Sequence[NDArray[Any]], kept: Mapping[str, int]) -> list[Ints]:
    """Turn labels into numbers, consistently over ``parts``.

    Integers are kept. Names are numbered from 1 in sorted order, except those with a number in ``kept``. Each empty
    label gets a unique negative number, below all others.
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
