"""Items as columns: arrays of numbers, and texts behind codes.

Shapes: N items, C cameras, I identities.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osnet.errors import GalleryError
from osnet.gallery.stamps import FileStamp
from osnet.types import Item

Int64s = NDArray[np.int64]
Int32s = NDArray[np.int32]
Floats64 = NDArray[np.float64]
Bytes = NDArray[np.uint8]
Indices = NDArray[np.intp]

UNKNOWN = -1
"""The code of an unknown camera or identity, and the size in an unknown stamp."""


@dataclass(frozen=True)
class Columns:
    """N items with the stamps of their files."""

    order: Int64s
    """(N,): the place in the order in which the gallery's items were added."""
    time_s: Floats64
    """(N,), in seconds; NaN where unknown."""
    camera: Int32s
    """(N,): places in ``cameras``; ``UNKNOWN`` where unknown."""
    identity: Int32s
    """(N,): places in ``identities``; ``UNKNOWN`` where unknown."""
    source_end: Int64s
    """(N,): where each source ends in ``source_text``; it begins where the one before ends."""
    source_text: Bytes
    """The sources, as UTF-8, one after the other."""
    source_hash: NDArray[np.uint64]
    """(N,): ``hash_source`` of each source, to find it quickly."""
    stamp: Int64s
    """(N, 3): size, modification time and change time; size ``UNKNOWN`` without a stamp."""
    digest: Bytes
    """(N, 32): SHA-256 of each file; zeros without a stamp."""
    cameras: tuple[str, ...]
    identities: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.order)

    @classmethod
    def of(cls, items: Sequence[Item], stamps: Sequence[FileStamp | None], first: int) -> "Columns":
        """The columns of items that are added now; ``first`` is the place of the first in the order.

        Raises:
            GalleryError: as ``check_items``; or a stamp whose SHA-256 is none.
        """
        check_items(items)
        times = np.array([np.nan if item.time_s is None else item.time_s for item in items], dtype=np.float64)
        camera, cameras = _encode([item.camera for item in items])
        identity, identities = _encode([item.identity for item in items])
        texts = [_to_bytes(item.source) for item in items]
        triples = [(s.size, s.mtime_ns, s.ctime_ns) if s else (UNKNOWN, 0, 0) for s in stamps]
        return cls(
            order=np.arange(first, first + len(items), dtype=np.int64),
            time_s=times,
            camera=camera,
            identity=identity,
            source_end=np.cumsum([len(text) for text in texts], dtype=np.int64),
            source_text=np.frombuffer(b"".join(texts), dtype=np.uint8),
            source_hash=np.array([_hash_bytes(text) for text in texts], dtype=np.uint64),
            stamp=np.array(triples, dtype=np.int64).reshape(-1, 3),
            digest=np.frombuffer(b"".join(map(_digest, stamps)), dtype=np.uint8).reshape(-1, 32),
            cameras=cameras,
            identities=identities,
        )

    def sources(self, rows: Indices | None = None) -> Iterator[str]:
        """The sources of these rows, or of all."""
        for text in self._texts(rows):
            yield text.decode("utf-8", "surrogatepass")

    def items(self, rows: Indices | None = None) -> list[Item]:
        """The items of these rows, or of all."""
        chosen = slice(None) if rows is None else rows
        return [
            Item(
                source,
                None if identity == UNKNOWN else self.identities[identity],
                None if camera == UNKNOWN else self.cameras[camera],
                None if time_s != time_s else time_s,
            )
            for source, identity, camera, time_s in zip(
                self.sources(rows),
                self.identity[chosen].tolist(),
                self.camera[chosen].tolist(),
                self.time_s[chosen].tolist(),
                strict=True,
            )
        ]

    def stamps(self, rows: Indices | None = None) -> list[FileStamp | None]:
        """The stamps of these rows, or of all."""
        chosen = slice(None) if rows is None else rows
        return [
            None if size == UNKNOWN else FileStamp(size, mtime_ns, ctime_ns, bytes(digest).hex())
            for (size, mtime_ns, ctime_ns), digest in zip(self.stamp[chosen].tolist(), self.digest[chosen], strict=True)
        ]

    def take(self, rows: Indices) -> "Columns":
        """These rows."""
        texts = list(self._texts(rows))
        camera, cameras = _recode(self.camera[rows], self.cameras)
        identity, identities = _recode(self.identity[rows], self.identities)
        return Columns(
            self.order[rows],
            self.time_s[rows],
            camera,
            identity,
            np.cumsum([len(text) for text in texts], dtype=np.int64),
            np.frombuffer(b"".join(texts), dtype=np.uint8),
            self.source_hash[rows],
            self.stamp[rows],
            self.digest[rows],
            cameras,
            identities,
        )

    def _texts(self, rows: Indices | None) -> Iterator[bytes]:
        if rows is None:
            ends, starts = self.source_end, np.concatenate([[0], self.source_end[:-1]])[: len(self)]
        else:
            ends, starts = self.source_end[rows], np.where(rows > 0, self.source_end[rows - 1], 0)
        text = np.ascontiguousarray(self.source_text).data
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            yield bytes(text[start:end])


def check_items(items: Iterable[Item]) -> None:
    """Refuse what no store can hold.

    Raises:
        GalleryError: a source that is not text, empty, or there twice; an identity or a camera that is neither text nor
            None, or is empty; a time that is neither a finite number of seconds nor None.
    """
    seen = set()
    for item in items:
        for name in ("source", "identity", "camera"):
            value = getattr(item, name)
            if not (isinstance(value, str) or (value is None and name != "source")):
                kind = type(value).__name__
                raise GalleryError(f"{item.source}: the {name} {value!r} is of type {kind}; give text: {str(value)!r}")
            if value == "":
                raise GalleryError(f"{item}: the {name} is empty; give None if it is unknown")
        time_s: Any = item.time_s
        if time_s is not None and not (isinstance(time_s, Real) and math.isfinite(to_float(time_s))):
            raise GalleryError(f"{item.source}: the time {time_s!r} is not a finite number of seconds")
        if item.source in seen:
            raise GalleryError(f"{item.source} is in the new items twice; each source has one item")
        seen.add(item.source)


def to_float(number: Real) -> float:
    """The number as a float; NaN for an integer that is too large for one."""
    try:
        return float(number)
    except OverflowError:
        return math.nan


def join_columns(parts: Sequence[Columns]) -> Columns:
    """The rows of several parts, one after the other; at least one part."""
    camera, cameras = join_codes([(part.camera, part.cameras) for part in parts])
    identity, identities = join_codes([(part.identity, part.identities) for part in parts])
    lengths = np.cumsum([0, *(len(part.source_text) for part in parts)])

    def joined(name: str) -> NDArray:  # type: ignore[type-arg]
        return np.concatenate([getattr(part, name) for part in parts])

    return Columns(
        joined("order"),
        joined("time_s"),
        camera,
        identity,
        np.concatenate([part.source_end + start for part, start in zip(parts, lengths.tolist(), strict=False)]),
        joined("source_text"),
        joined("source_hash"),
        joined("stamp"),
        joined("digest"),
        cameras,
        identities,
    )


def join_codes(parts: Sequence[tuple[Int32s, tuple[str, ...]]]) -> tuple[Int32s, tuple[str, ...]]:
    """Codes of several tables as codes of one; sorted, so that the result does not depend on the parts."""
    names = tuple(sorted({name for _, table in parts for name in table}))
    place = {name: code for code, name in enumerate(names)}
    codes = [
        np.append(np.array([place[name] for name in table], np.int32), np.int32(UNKNOWN))[part] for part, table in parts
    ]
    return np.concatenate([np.empty(0, np.int32), *codes]), names


def hash_source(source: str) -> int:
    """64 bits of a source. Two sources may share them: compare the sources, too."""
    return _hash_bytes(_to_bytes(source))


def _hash_bytes(text: bytes) -> int:
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


def _to_bytes(source: str) -> bytes:
    return source.encode("utf-8", "surrogatepass")


def _digest(stamp: FileStamp | None) -> bytes:
    if stamp is None:
        return bytes(32)
    try:
        digest = bytes.fromhex(stamp.sha256)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise GalleryError(f"the stamp's sha256 {stamp.sha256!r} is not a SHA-256 in hexadecimal")
    return digest


def _encode(names: Sequence[str | None]) -> tuple[Int32s, tuple[str, ...]]:
    table = tuple(sorted({name for name in names if name is not None}))
    place: dict[str | None, int] = {name: code for code, name in enumerate(table)}
    return np.array([place.get(name, UNKNOWN) for name in names], dtype=np.int32), table


def _recode(codes: Int32s, table: tuple[str, ...]) -> tuple[Int32s, tuple[str, ...]]:
    """The same codes with a table of only the names that occur: names of removed rows must not stay."""
    used = np.unique(codes[codes != UNKNOWN])
    place = np.full(len(table) + 1, UNKNOWN, dtype=np.int32)
    place[used] = np.arange(len(used), dtype=np.int32)
    return place[codes], tuple(table[code] for code in used.tolist())
