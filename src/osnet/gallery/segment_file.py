"""One segment of a gallery in one file, in the safetensors format, mapped into memory.

The file begins with the length of a JSON header (8 bytes, little endian) and the header, which gives type, shape and
place of each array. The arrays follow without gaps. Only what is read is loaded from the disk.

    vectors        F32 (N, D)   embeddings of length 1
    codes scales   I8 (N, D), F32 (N, 2): 8-bit codes for the first pass of a search (``exact_search.encode``)
    attributes     F32 (N, A)   probabilities; missing in a gallery without attributes
    order time_s camera identity source_end source_text source_hash stamp digest: ``columns.Columns``
    names          U8: JSON with the names behind the codes of cameras and identities

Shapes: N items, D embedding, A attributes.
"""

import json
import mmap
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osnet.errors import GalleryError
from osnet.files import written_aside
from osnet.gallery.columns import UNKNOWN, Columns, Indices, join_columns
from osnet.gallery.exact_search import Codes, Floats, encode

FORMAT = "osnet-segment-1"
TYPES = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "U64": "<u8", "I32": "<i4", "I8": "|i1", "U8": "|u1"}
MAX_HEADER = 1 << 20
WITHOUT_HANDLE: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) and os.name == "posix" else {}
"""From Python 3.13 on a mapped file needs no file handle, of which a process may have 1,024 by default."""
COLUMN_SHAPES: dict[str, tuple[str, tuple[int, ...]]] = {
    "order": ("I64", ()),
    "time_s": ("F64", ()),
    "camera": ("I32", ()),
    "identity": ("I32", ()),
    "source_end": ("I64", ()),
    "source_hash": ("U64", ()),
    "stamp": ("I64", (3,)),
    "digest": ("U8", (32,)),
}
"""Type of each column, and its shape after N."""


@dataclass(frozen=True)
class Rows:
    """Rows of a gallery: in memory, or mapped from a file."""

    vectors: Floats
    """(N, D), of length 1."""
    codes: Codes | None
    """(N, D); None in a file of an older version."""
    scales: Floats | None
    """(N, 2)."""
    probabilities: Floats
    """(N, A); A is 0 in a gallery without attributes."""
    columns: Columns

    def __len__(self) -> int:
        return len(self.columns)

    @classmethod
    def of(cls, vectors: Floats, probabilities: Floats, columns: Columns) -> "Rows":
        """Rows that are added now, with their codes."""
        return cls(vectors, *encode(vectors), probabilities, columns)

    def take(self, rows: Indices) -> "Rows":
        """These rows, in memory."""
        codes = None if self.codes is None else self.codes[rows]
        scales = None if self.scales is None else self.scales[rows]
        return Rows(self.vectors[rows], codes, scales, self.probabilities[rows], self.columns.take(rows))


def join_rows(parts: Sequence[Rows]) -> Rows:
    """The rows of several parts, one after the other; at least one part."""
    parts = [
        part if part.codes is not None else Rows.of(part.vectors, part.probabilities, part.columns) for part in parts
    ]
    if len(parts) == 1:
        return parts[0]

    def joined(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(part, name) for part in parts])

    columns = join_columns([part.columns for part in parts])
    return Rows(joined("vectors"), joined("codes"), joined("scales"), joined("probabilities"), columns)


def write_rows(path: Path, rows: Rows) -> None:
    """Write a segment: aside, then renamed.

    Raises:
        OutputError: it cannot be written.
    """
    names = json.dumps({"cameras": rows.columns.cameras, "identities": rows.columns.identities}).encode("ascii")
    arrays: dict[str, NDArray[Any]] = {
        entry.name: getattr(rows.columns, entry.name)
        for entry in fields(Columns)
        if entry.name not in ("cameras", "identities")
    }
    arrays |= {"vectors": rows.vectors, "names": np.frombuffer(names, np.uint8)}
    if rows.codes is not None and rows.scales is not None:
        arrays |= {"codes": rows.codes, "scales": rows.scales}
    if rows.probabilities.shape[1]:
        arrays["attributes"] = rows.probabilities
    kinds = {np.dtype(text): kind for kind, text in TYPES.items()}
    arrays = dict(sorted(arrays.items(), key=lambda entry: (-entry[1].dtype.itemsize, entry[0])))  # each is aligned
    header: dict[str, Any] = {"__metadata__": {"format": FORMAT}}
    start = 0
    for name, array in arrays.items():
        stop = start + array.nbytes
        header[name] = {"dtype": kinds[array.dtype], "shape": list(array.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    with written_aside(path) as aside, aside.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).data.cast("B") if array.size else b"")


def map_rows(path: Path, count: int, embedding_size: int, num_attributes: int) -> Rows:
    """Map a segment that ``write_rows`` wrote. Shapes and codes are checked; ``Gallery.check`` compares the SHA-256.

    Raises:
        GalleryError: the file is damaged.
        FileNotFoundError: there is none, because another process replaced the segment meanwhile.
    """
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ, **WITHOUT_HANDLE)
        arrays = _read_arrays(mapped)
        wanted = {name: (kind, (count, *rest)) for name, (kind, rest) in COLUMN_SHAPES.items()}
        wanted |= {"vectors": ("F32", (count, embedding_size)), "codes": ("I8", (count, embedding_size))}
        wanted |= {"scales": ("F32", (count, 2))}
        if num_attributes:
            wanted["attributes"] = ("F32", (count, num_attributes))
        for name, (kind, shape) in wanted.items():
            if arrays[name].shape != shape or arrays[name].dtype != np.dtype(TYPES[kind]):
                raise ValueError(f"{name} is {arrays[name].dtype} {arrays[name].shape}, not {kind} {shape}")
        names = json.loads(arrays.pop("names").tobytes())
        cameras, identities = (tuple(map(_text, names[key])) for key in ("cameras", "identities"))
        columns = Columns(
            **{n: arrays[n] for n in (*COLUMN_SHAPES, "source_text")}, cameras=cameras, identities=identities
        )
        _check_columns(columns)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise GalleryError(f"{path} is damaged: {error}") from error
    probabilities = arrays["attributes"] if num_attributes else np.empty((count, 0), np.float32)
    return Rows(arrays["vectors"], arrays["codes"], arrays["scales"], probabilities, columns)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a name is {value!r}")
    return value


def _read_arrays(mapped: mmap.mmap) -> dict[str, NDArray[Any]]:
    """Views of the arrays. Raises ValueError, KeyError or TypeError for a header that does not describe the file."""
    length = int.from_bytes(mapped[:8], "little")
    if not 2 <= length <= min(MAX_HEADER, len(mapped) - 8):
        raise ValueError(f"its header of {length} bytes does not fit its {len(mapped)} bytes")
    header = json.loads(mapped[8 : 8 + length])
    if header.pop("__metadata__", {}).get("format") != FORMAT:
        raise ValueError(f"it has not the format {FORMAT!r}")
    arrays, size = {}, len(mapped) - 8 - length
    for name, entry in header.items():
        kind, shape, (start, stop) = np.dtype(TYPES[entry["dtype"]]), entry["shape"], entry["data_offsets"]
        whole = [start, stop, *shape]
        if not all(type(value) is int and value >= 0 for value in whole) or not start <= stop <= size:
            raise ValueError(f"{name} lies outside the file")
        count = 1
        for dimension in shape:
            count *= dimension
        if count * kind.itemsize != stop - start:
            raise ValueError(f"{name} of the shape {shape} does not fit {stop - start} bytes")
        arrays[name] = np.frombuffer(mapped, kind, count, 8 + length + start).reshape(shape)
    return arrays


def _check_columns(columns: Columns) -> None:
    """Raise ValueError for codes or places that would lead outside."""
    for codes, table in ((columns.camera, columns.cameras), (columns.identity, columns.identities)):
        if len(codes) and not UNKNOWN <= codes.min() <= codes.max() < len(table):
            raise ValueError("a code has no name")
    ends = columns.source_end
    if columns.source_text.ndim != 1 or columns.source_text.dtype != np.uint8:
        raise ValueError("source_text is not bytes")
    last = int(ends[-1]) if len(ends) else 0
    if last != len(columns.source_text) or (len(ends) and (ends[0] < 0 or (np.diff(ends) < 0).any())):
        raise ValueError("the sources do not lie in source_text")
