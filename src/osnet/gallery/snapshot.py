"""One state of a gallery that is open for reading: its segments, mapped when they are needed.

Shapes: N items, D embedding, A attributes.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from osnet.errors import GalleryError
from osnet.files import sha256_file
from osnet.gallery.columns import Floats64, Indices, Int32s, Int64s, hash_source, join_codes
from osnet.gallery.exact_search import CODES_FROM, Block, Floats
from osnet.gallery.item_attributes import rows_with_attributes
from osnet.gallery.old_format import read_old_segment
from osnet.gallery.segment_file import WITHOUT_HANDLE, Rows, map_rows
from osnet.gallery.segments import MANIFEST, Manifest
from osnet.gallery.vector_store import Where
from osnet.types import Item

IN_MEMORY_BYTES = 256 << 20
"""Vectors up to this size are held in memory as one array, which is faster than many small ones."""
CHECKED_BYTES = 32 << 20
"""A gallery up to this size is compared with its SHA-256 when it is opened; ``Gallery.check`` compares any."""


def _count_mapped() -> int:
    """How many files stay mapped: all, or a third of the file handles that the process may have (``ulimit -n``)."""
    if WITHOUT_HANDLE:
        return 30_000
    try:
        import resource
    except ImportError:  # Windows
        return 300
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 10_000 if soft == resource.RLIM_INFINITY else max(10, soft // 3)


MAX_MAPPED = _count_mapped()
"""Further files are mapped for each search, which costs as much as reading some 1,000 rows."""

T = TypeVar("T")


class Snapshot:
    """The rows that a manifest lists. Rows are numbered in the order of the segments, from 0."""

    def __init__(self, folder: Path, manifest: Manifest, *, before: "Snapshot | None" = None) -> None:
        """Open the segments.

        Args:
            folder: of the gallery.
            manifest: its list.
            before: the state that this process has just replaced: its files were checked, and stay mapped.
        """
        self.folder, self.manifest = folder, manifest
        self._mapped: dict[int, Rows] = {}
        self._lock = threading.RLock()
        counts = [segment.count for segment in manifest.old_segments or manifest.segments]
        self.starts: Int64s = np.cumsum([0, *counts], dtype=np.int64)
        if manifest.old_segments:
            size, num_attributes = manifest.embedding_size, len(manifest.attributes)
            for place, (segment, first) in enumerate(zip(manifest.old_segments, self.starts.tolist(), strict=False)):
                self._mapped[place] = read_old_segment(folder, segment, size, num_attributes, first)
        elif before is None:
            self._check_files()
        else:
            files = [segment.file for segment in before.manifest.segments]
            with before._lock:  # another thread may be mapping more of them
                mapped = {files[place]: rows for place, rows in before._mapped.items()} if files else {}
            named = enumerate(manifest.segments)
            self._mapped = {place: mapped[segment.file] for place, segment in named if segment.file in mapped}

    def __len__(self) -> int:
        return int(self.starts[-1])

    def _check_files(self) -> None:
        """Raises GalleryError for a file of another size (or content, in a small gallery), or FileNotFoundError."""
        small = sum(segment.size for segment in self.manifest.segments) <= CHECKED_BYTES
        for place, segment in enumerate(self.manifest.segments):
            path = self.folder / segment.file
            if path.stat().st_size != segment.size or (small and sha256_file(path) != segment.sha256):
                raise GalleryError(f"{path} is damaged: its size or SHA-256 is not the one in {MANIFEST}")
            if small:
                self.rows(place)

    @property
    def num_segments(self) -> int:
        """Number of segments."""
        return len(self.starts) - 1

    def rows(self, place: int) -> Rows:
        """The rows of one segment.

        Raises:
            FileNotFoundError: another process has replaced it.
        """
        with self._lock:
            if place in self._mapped:
                return self._mapped[place]
            segment, manifest = self.manifest.segments[place], self.manifest
            path = self.folder / segment.file
            mapped = map_rows(path, segment.count, manifest.embedding_size, len(manifest.attributes))
            if len(self._mapped) < MAX_MAPPED:  # the first stay: a search reads all, one after the other
                self._mapped[place] = mapped
            return mapped

    def each(self) -> Iterator[tuple[int, Rows]]:
        """Number of the first row, and the rows, of each segment."""
        for place in range(self.num_segments):
            yield int(self.starts[place]), self.rows(place)

    def blocks(self) -> Iterator[Block]:
        """What a search reads."""
        if self._joined is not None:
            yield self._joined
            return
        for start, rows in self.each():
            yield Block(start, rows.vectors, rows.codes, rows.scales)

    @cached_property
    def _joined(self) -> Block | None:
        """All rows as one block, if they are few."""
        if self.num_segments < 2 or len(self) * self.manifest.embedding_size * 4 > IN_MEMORY_BYTES:
            return None
        parts = [rows for _, rows in self.each()]
        vectors = np.concatenate([part.vectors for part in parts])
        codes = [part.codes for part in parts if part.codes is not None]
        scales = [part.scales for part in parts if part.scales is not None]
        if len(self) < CODES_FROM or len(codes) < len(parts):
            return Block(0, vectors)
        return Block(0, vectors, np.concatenate(codes), np.concatenate(scales))

    # Columns of all rows, read when they are first needed

    def _column(self, read: Callable[[Rows], NDArray]) -> NDArray:  # type: ignore[type-arg]
        parts = [read(rows) for _, rows in self.each()]
        return np.concatenate(parts) if parts else np.empty(0)

    @cached_property
    def order(self) -> Int64s:
        """(N,): the place of each row in the order of adding."""
        return self._column(lambda rows: rows.columns.order).astype(np.int64)

    @cached_property
    def _times(self) -> Floats64:
        return self._column(lambda rows: rows.columns.time_s)

    @cached_property
    def _cameras(self) -> tuple[Int32s, tuple[str, ...]]:
        return join_codes([(rows.columns.camera, rows.columns.cameras) for _, rows in self.each()])

    @cached_property
    def _identities(self) -> tuple[Int32s, tuple[str, ...]]:
        return join_codes([(rows.columns.identity, rows.columns.identities) for _, rows in self.each()])

    @cached_property
    def _hashes(self) -> tuple[NDArray[np.uint64], Indices]:
        """The hashes of all sources, ascending, and their rows."""
        hashes = self._column(lambda rows: rows.columns.source_hash).astype(np.uint64)
        order = np.argsort(hashes, kind="stable")
        return hashes[order], order

    @cached_property
    def probabilities(self) -> Floats:
        """(N, A)."""
        parts = [rows.probabilities for _, rows in self.each()]
        return np.concatenate(parts) if parts else np.empty((0, len(self.manifest.attributes)), np.float32)

    @cached_property
    def in_order(self) -> Indices:
        """The rows in the order of adding."""
        return np.argsort(self.order, kind="stable")

    # Rows by number

    def gather(self, chosen: Indices, read: Callable[[Rows, Indices], Sequence[T]]) -> list[T]:
        """``read(rows of a segment, places in it)`` for rows in any order, back in that order."""
        found: list[T | None] = [None] * len(chosen)
        places = np.searchsorted(self.starts, chosen, "right") - 1
        for place in np.unique(places).tolist():
            here = np.flatnonzero(places == place)
            values = read(self.rows(place), chosen[here] - self.starts[place])
            for where, value in zip(here.tolist(), values, strict=True):
                found[where] = value
        return found  # type: ignore[return-value]

    def items(self, chosen: Indices) -> list[Item]:
        """The items of these rows."""
        return self.gather(chosen, lambda rows, places: rows.columns.items(places))

    def vectors(self, chosen: Indices) -> Floats:
        """(len(chosen), D): the vectors of rows that ascend."""
        if (joined := self.__dict__.get("_joined")) is not None:
            vectors: Floats = joined.vectors[chosen]
            return vectors
        places = np.searchsorted(self.starts, chosen, "right") - 1
        parts = [
            self.rows(place).vectors[chosen[places == place] - self.starts[place]]
            for place in np.unique(places).tolist()
        ]
        return np.concatenate(parts) if parts else np.empty((0, self.manifest.embedding_size), np.float32)

    def orders(self, chosen: Indices) -> Int64s:
        """The places of these rows (ascending) in the order of adding."""
        if "order" in self.__dict__ or "_joined" in self.__dict__:
            return self.order[chosen]
        return np.array(self.gather(chosen, lambda rows, places: rows.columns.order[places].tolist()), dtype=np.int64)

    def find_sources(self, sources: Sequence[str]) -> dict[str, int]:
        """The rows of those of ``sources`` that are stored."""
        if not len(self) or not sources:
            return {}
        hashes, rows = self._hashes
        wanted = np.array([hash_source(source) for source in sources], dtype=np.uint64)
        first = np.searchsorted(hashes, wanted, "left").tolist()
        last = np.searchsorted(hashes, wanted, "right").tolist()
        pairs = [(source, int(row)) for source, a, b in zip(sources, first, last, strict=True) for row in rows[a:b]]
        there = self.gather(np.array([row for _, row in pairs], dtype=np.intp), lambda r, p: list(r.columns.sources(p)))
        return {source: row for (source, row), stored in zip(pairs, there, strict=True) if source == stored}

    def passing(self, where: Where) -> NDArray[np.bool_]:
        """(N,), True for the rows that pass ``where``.

        Raises:
            DataError: an attribute that is not stored.
        """
        passing = np.ones(len(self), dtype=bool)
        for wanted, name in ((where.cameras, "_cameras"), (where.identities, "_identities")):
            if wanted is not None:
                codes, names = getattr(self, name)
                passing &= np.append([entry in wanted for entry in names], False)[codes].astype(bool)
        if where.after_s is not None:
            passing &= self._times >= where.after_s
        if where.before_s is not None:
            passing &= self._times <= where.before_s
        if where.sources is not None:
            passing &= self.mask(self.find_sources(sorted(where.sources)).values())
        if where.source is not None:
            passing &= self._passing_source(where)
        if where.having or where.lacking:
            passing &= rows_with_attributes(self.manifest.attributes, self.probabilities, where)
        return passing

    def _passing_source(self, where: Where) -> NDArray[np.bool_]:
        assert where.source is not None
        if exact := self.find_sources([where.source]):
            return self.mask(exact.values())
        pattern = Where(source=where.source)
        parts = [[pattern.matches(Item(source)) for source in rows.columns.sources()] for _, rows in self.each()]
        return np.array([passes for part in parts for passes in part], dtype=bool)

    def mask(self, rows: Iterable[int]) -> NDArray[np.bool_]:
        """(N,), True for these rows."""
        mask = np.zeros(len(self), dtype=bool)
        mask[list(rows)] = True
        return mask
