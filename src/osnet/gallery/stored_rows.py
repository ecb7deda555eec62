"""The rows of an open gallery, and how they are written: under a lock, all or nothing.

Shapes: N items, D embedding, A attributes.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from osnet.errors import GalleryError
from osnet.gallery.exact_search import Floats
from osnet.gallery.segment_file import Rows, join_rows
from osnet.gallery.segments import (
    MANIFEST,
    Group,
    Manifest,
    Segment,
    locked,
    read_manifest,
    split_groups,
    sweep,
    write_manifest,
    write_segment,
)
from osnet.gallery.snapshot import Snapshot

LOCK_TIMEOUT_S = 60.0
"""How long a writer waits for another one. Writing one gigabyte takes seconds; a process that ends frees its lock."""
SEGMENT_ROWS = 1 << 17
"""A segment holds at most this many rows, so that erasing one person rewrites little."""
MAX_SEGMENTS = 8
"""A day and camera with this many segments gets small ones merged when rows are added."""

WRITERS = 8
"""Files that are written at a time: most of the time is spent waiting for the disk."""

T = TypeVar("T")


class StoredRows:
    """Rows of all segments below ``folder``. ``Gallery`` adds the public methods."""

    def __init__(self, state: Snapshot) -> None:
        self.folder = state.folder
        self._state = state
        self._opening = threading.Lock()
        """Held while a state is read and put in place, so that no thread replaces a newer one by an older one."""

    def __len__(self) -> int:
        return len(self._state)

    @property
    def _manifest(self) -> Manifest:
        return self._state.manifest

    @property
    def embedding_size(self) -> int:
        """D, the length of every stored embedding."""
        return self._manifest.embedding_size

    def refresh(self) -> None:
        """See what other processes have written since the gallery was opened, or last written to.

        Raises:
            GalleryError: the gallery is gone or damaged.
        """
        if read_manifest(self.folder) != self._manifest:
            self._reopen()

    def _reopen(self) -> None:
        with self._opening:
            self._state = open_snapshot(self.folder)

    def _read(self, action: Callable[[Snapshot], T]) -> T:
        """``action`` on the present state; on the newest one if another process has replaced a file meanwhile."""
        for _ in range(3):
            try:
                return action(self._state)
            except FileNotFoundError:
                self._reopen()
        return action(self._state)

    @contextmanager
    def _writing(self) -> Iterator[Snapshot]:
        """Hold the lock and start from the newest state. Files that were replaced are deleted at the end."""
        with locked(self.folder, LOCK_TIMEOUT_S):
            with self._opening:
                newest = read_manifest(self.folder)
                if newest != self._manifest:
                    self._state = Snapshot(self.folder, newest)
                state = self._state
            sweep(self.folder, newest)
            yield state
            sweep(self.folder, read_manifest(self.folder))

    def _write(
        self,
        state: Snapshot,
        doomed: Iterable[int] = (),
        new: Sequence[Rows] = (),
        manifest: Manifest | None = None,
    ) -> tuple[list[Segment], list[str]]:
        """Replace the segments at the places ``doomed`` by ``new`` rows, in one step.

        Call it under the lock, with the ``state`` that ``_writing`` gave: another thread may replace ``_state``.
        The first write to a gallery of an older version replaces all its segments.

        Returns:
            The segments that were written, and the names of the files that were replaced.
        """
        dropped = set(doomed)
        parts = list(new)
        if state.manifest.old_segments:
            parts = [state.rows(place) for place in range(state.num_segments) if place not in dropped] + parts
            dropped = set(range(state.num_segments))
        groups: dict[Group, list[Rows]] = {}
        for part in parts:
            for group, places in split_groups(part.columns).items():
                whole = len(places) == len(part)
                groups.setdefault(group, []).append(part if whole else part.take(places))
        by_group: dict[Group, list[int]] = {}
        if not state.manifest.old_segments:
            for place, segment in enumerate(state.manifest.segments):
                if place not in dropped and segment.group in groups:
                    by_group.setdefault(segment.group, []).append(place)
        todo: list[tuple[int, Group, list[int], list[Rows]]] = []
        number = state.manifest.next_segment
        for group, pieces in groups.items():
            count = sum(map(len, pieces))
            merged = _to_merge(state.manifest.segments, by_group.get(group, []), count)
            dropped.update(merged)
            todo.append((number, group, merged, pieces))
            count += sum(state.manifest.segments[place].count for place in merged)
            number += -(-count // SEGMENT_ROWS)

        def write_group(number: int, group: Group, merged: list[int], pieces: list[Rows]) -> list[Segment]:
            """Join and write; only the groups that are being written are in memory."""
            rows = join_rows([*(state.rows(place) for place in merged), *pieces])
            parts = (rows,) if len(rows) <= SEGMENT_ROWS else _split(rows)
            return [write_segment(self.folder, number + place, group, part) for place, part in enumerate(parts)]

        with ThreadPoolExecutor(WRITERS) as pool:
            written = [segment for done in pool.map(lambda given: write_group(*given), todo) for segment in done]
        kept = [s for place, s in enumerate(state.manifest.segments) if place not in dropped]
        last = max((int(rows.columns.order.max()) + 1 for rows in parts if len(rows)), default=0)
        manifest = replace(
            manifest or state.manifest,
            segments=tuple(
                sorted([*kept, *written], key=lambda s: (s.day is not None, s.day or 0, s.camera or "", s.file))
            ),
            old_segments=(),
            next_segment=number,
            next_row=max(state.manifest.next_row, last),
        )
        write_manifest(self.folder, manifest)
        gone = state.manifest.files - manifest.files
        with self._opening:
            self._state = Snapshot(self.folder, manifest, before=state)
        return written, sorted(gone)

    def _unit_rows(self, embeddings: ArrayLike) -> Floats:
        """(N, D) float32, divided by their lengths. Raises GalleryError for other shapes, zero or non-finite rows."""
        return unit_rows(embeddings, self.embedding_size, str(self.folder))


def _split(rows: Rows) -> Iterator[Rows]:
    """Parts of at most ``SEGMENT_ROWS``."""
    for start in range(0, len(rows), SEGMENT_ROWS):
        yield rows.take(np.arange(start, min(len(rows), start + SEGMENT_ROWS)))


def _to_merge(segments: Sequence[Segment], places: list[int], count: int) -> list[int]:
    """Segments of a group to write anew with ``count`` more rows: each row is written a few times in all."""
    if len(places) < MAX_SEGMENTS:
        return []
    merged = []
    for place in sorted(places, key=lambda place: segments[place].count):
        if segments[place].count > max(count, SEGMENT_ROWS // 64) or count >= SEGMENT_ROWS:
            break
        merged.append(place)
        count += segments[place].count
    return sorted(merged)


def open_snapshot(folder: Path) -> Snapshot:
    """The newest state of the gallery in ``folder``.

    Raises:
        GalleryError: it is damaged.
    """
    for attempts_left in (2, 1, 0):
        try:
            return Snapshot(folder, read_manifest(folder))
        except FileNotFoundError as error:  # another process replaced a segment meanwhile
            if not attempts_left:
                raise GalleryError(f"{error.filename} is missing; {folder / MANIFEST} lists it") from error
    raise AssertionError


def unit_rows(embeddings: ArrayLike, size: int, name: str) -> Floats:
    """(N, D) float32 of length 1. ``name`` is of the store, for messages.

    Raises:
        GalleryError: another shape; a row that is zero or not finite.
    """
    with np.errstate(over="ignore"):
        array = np.asarray(embeddings, dtype=np.float32)
        if array.ndim != 2 or array.shape[1] != size:
            raise GalleryError(f"embeddings of shape {array.shape}; {name} stores (N, {size})")
        lengths = np.linalg.norm(array, axis=1, keepdims=True)
    extreme = ~((lengths[:, 0] > 1e-15) & (lengths[:, 0] < 1e15))  # squares leave float32's range
    if extreme.any():
        exact = array[extreme].astype(np.float64)
        exact_lengths = np.linalg.norm(exact, axis=1)
        usable = np.isfinite(exact_lengths) & (exact_lengths > 0)
        if not usable.all():
            raise GalleryError(f"embedding {int(np.flatnonzero(extreme)[np.argmin(usable)])} is zero or not finite")
        array = array.copy()
        array[extreme] = exact / exact_lengths[:, None]
        lengths[extreme] = 1
    return array / lengths
