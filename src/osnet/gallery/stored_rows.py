"""The rows of an open gallery in memory, and how they are written: under a lock, all or nothing.

Shapes: N items, D embedding, A attributes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from osnet.errors import GalleryError
from osnet.gallery.segments import (
    Floats,
    Manifest,
    Rows,
    join_rows,
    locked,
    read_manifest,
    read_segment,
    sweep,
    write_manifest,
    write_segment,
)

LOCK_TIMEOUT_S = 60.0
"""How long a writer waits for another one. Writing one gigabyte takes seconds; a process that ends frees its lock."""
MAX_SEGMENTS = 32
"""Adding to a gallery with this many segments merges all of them into one."""


class StoredRows:
    """Rows of all segments, read from ``folder``. ``Gallery`` adds the public methods."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self._manifest = manifest
        self._parts: list[Rows] = []
        self._load()

    def __len__(self) -> int:
        return sum(len(part.items) for part in self._parts)

    @property
    def embedding_size(self) -> int:
        """D, the length of every stored embedding."""
        return self._manifest.embedding_size

    def _rows(self) -> Rows:
        """All rows as one ``Rows``."""
        if len(self._parts) != 1:
            self._parts = [self._join(self._parts)]
        return self._parts[0]

    def _join(self, parts: Sequence[Rows]) -> Rows:
        return join_rows(parts, self.embedding_size, len(self._manifest.attributes))

    def _load(self) -> None:
        size, num_attributes = self.embedding_size, len(self._manifest.attributes)
        self._parts = [read_segment(self.folder, s, size, num_attributes) for s in self._manifest.segments]

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the lock and start from the newest state. Files that were replaced are deleted at the end."""
        with locked(self.folder, LOCK_TIMEOUT_S):
            newest = read_manifest(self.folder)
            if newest != self._manifest:
                self._manifest = newest
                self._load()
            sweep(self.folder, newest)
            yield
            sweep(self.folder, self._manifest)

    def _append(self, rows: Rows) -> None:
        if len(self._manifest.segments) >= MAX_SEGMENTS:
            self._replace_all(self._join([*self._parts, rows]))
        elif rows.items:
            number = self._manifest.next_segment
            segments = (*self._manifest.segments, write_segment(self.folder, number, rows))
            self._commit(replace(self._manifest, segments=segments, next_segment=number + 1))
            self._parts.append(rows)

    def _replace_all(self, rows: Rows, manifest: Manifest | None = None) -> None:
        number = self._manifest.next_segment
        segments = (write_segment(self.folder, number, rows),) if rows.items else ()
        self._commit(replace(manifest or self._manifest, segments=segments, next_segment=number + 1))
        self._parts = [rows]

    def _commit(self, manifest: Manifest) -> None:
        write_manifest(self.folder, manifest)
        self._manifest = manifest

    def _unit_rows(self, embeddings: ArrayLike) -> Floats:
        """(N, D) float32, divided by their lengths. Raises GalleryError for other shapes, zero or non-finite rows."""
        array = np.asarray(embeddings, dtype=np.float32)
        if array.ndim != 2 or array.shape[1] != self.embedding_size:
            raise GalleryError(f"embeddings of shape {array.shape}; {self.folder} stores (N, {self.embedding_size})")
        lengths = np.linalg.norm(array, axis=1, keepdims=True)
        usable = np.isfinite(lengths) & (lengths > 0)
        if not usable.all():
            raise GalleryError(f"embedding {int(np.argmin(usable))} is zero or not finite")
        return array / lengths
