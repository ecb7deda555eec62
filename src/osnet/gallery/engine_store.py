"""What the stores on the engines of others share: checks, patterns, exact ranking, looking for deleted bytes.

Shapes: N items, D embedding, Q queries.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from osnet.embedding.attribute_predictor import find_attributes
from osnet.errors import GalleryError
from osnet.gallery.columns import check_items
from osnet.gallery.exact_search import LENGTH, ROUNDING, SLACK, Floats, score_exactly
from osnet.gallery.stored_rows import unit_rows
from osnet.gallery.top_hits import check_limit, check_page
from osnet.gallery.traces import Traces
from osnet.gallery.vector_store import Erased, Where
from osnet.types import Hit, Item

MORE = 16
"""Rows beyond the best that are asked for at first, so that near ties can be ranked exactly."""


@dataclass(frozen=True)
class Row:
    """A row that an engine returns."""

    item: Item
    order: int
    """The place in the order of adding."""
    vector: Floats
    """(D,)."""
    score: float
    """The engine's own score; higher is closer."""


class EngineStore(ABC):
    """A ``VectorStore`` on an engine, which gives it a few operations."""

    name: str
    """For messages; without a password."""
    weights_sha256: str
    """Digest of the weights that made the stored embeddings."""
    weights_name: str
    """Name of these weights, for people to read."""
    embedding_size: int
    """D."""

    # What an engine does. ``where`` has no ``source``, and sets instead of patterns.

    @abstractmethod
    def _insert(self, units_ND: Floats, items: Sequence[Item]) -> None:
        """Store rows, all or none. Raises GalleryError for a source that is stored."""

    @abstractmethod
    def _nearest(self, unit_D: Floats, where: Where, limit: int) -> list[Row]:
        """The best rows by the engine's score, best first."""

    @abstractmethod
    def _list(self, where: Where, after: str | None, limit: int | None) -> list[Item]:
        """Items in the order of adding."""

    @abstractmethod
    def _list_sources(self, prefix: str) -> Iterable[str]:
        """All sources that begin with ``prefix``."""

    @abstractmethod
    def _fetch(self, sources: Sequence[str]) -> dict[str, Floats]:
        """The vectors of those of ``sources`` that are stored."""

    @abstractmethod
    def _count(self, where: Where) -> int: ...

    @abstractmethod
    def _delete(self, where: Where) -> int:
        """Delete rows and return their number; bytes may stay."""

    @abstractmethod
    def _erase(self, where: Where, sources: Sequence[str]) -> tuple[int, int]:
        """Delete rows and their bytes. Returns how many parts were rewritten, and how many deleted."""

    @abstractmethod
    def _out_of_reach(self) -> tuple[str, ...]:
        """Where copies may be that cannot be deleted, in words."""

    @abstractmethod
    def check(self) -> list[str]:
        """Faults of what is stored, in words; empty if there are none."""

    def _folder(self) -> Path | None:
        """The folder of the engine's files, if they can be read here."""
        return None

    # The contract

    def __len__(self) -> int:
        return self._count(Where())

    def sources(self) -> set[str]:
        """Sources of all items; each occurs once."""
        return set(self._list_sources(""))

    def check_weights(self, weights_sha256: str) -> None:
        """Raise GalleryError unless the stored embeddings are of these weights."""
        if weights_sha256 != self.weights_sha256:
            raise GalleryError(
                f"{self.name} stores embeddings of the weights {self.weights_sha256[:12]} ({self.weights_name}), which "
                f"cannot be compared with those of {weights_sha256[:12]}; use the same weights, or a new store"
            )

    def add_embeddings(self, embeddings_ND: ArrayLike, items: Sequence[Item], *, weights_sha256: str) -> None:
        """Store N embeddings with their items, all or none. They are stored at length 1.

        Raises:
            GalleryError: embeddings of other weights or another size, zero or not finite; N differs; a source that is
                stored already or twice in ``items``; a text or a time that cannot be stored.
        """
        self.check_weights(weights_sha256)
        units = unit_rows(embeddings_ND, self.embedding_size, self.name)
        if len(units) != len(items):
            raise GalleryError(f"{len(units)} embeddings but {len(items)} items; give as many of each")
        check_items(items)
        for item in items:
            _check_item(item)
        if items:
            self._insert(units, items)

    def search_embedding(
        self, embedding_D: ArrayLike, *, weights_sha256: str, top: int = 10, where: Where | None = None, skip: int = 0
    ) -> list[Hit]:
        """The items most similar to an embedding, best first; equal scores in the order in which they were added.

        Args:
            embedding_D: (D,) or (1, D), of any length but 0.
            weights_sha256: of the network that made it.
            top: maximum number of hits, at least 1.
            where: only items that pass this filter.
            skip: leave out this many of the best, for the next page.

        Raises:
            GalleryError: an embedding of other weights or another size, zero or not finite.
        """
        query = np.asarray(embedding_D, dtype=np.float32)
        if query.ndim == 2 and len(query) != 1:
            raise GalleryError(f"one embedding, not an array of shape {query.shape}; use search_embeddings for several")
        queries = query.reshape(1, -1)
        return self.search_embeddings(queries, weights_sha256=weights_sha256, top=top, where=where, skip=skip)[0]

    def search_embeddings(
        self, embeddings_QD: ArrayLike, *, weights_sha256: str, top: int = 10, where: Where | None = None, skip: int = 0
    ) -> list[list[Hit]]:
        """As ``search_embedding``, for Q queries (Q, D)."""
        self.check_weights(weights_sha256)
        check_page(top, skip)
        units = unit_rows(embeddings_QD, self.embedding_size, self.name)
        where = self._settle(where)
        return [self._rank(unit, where, top + skip)[skip:] for unit in units]

    def _rank(self, unit_D: Floats, where: Where, top: int) -> list[Hit]:
        """Ask for more rows than wanted until the rest cannot be among the best; then score all of them in float64."""
        margin = 2 * (self.embedding_size * ROUNDING * LENGTH * LENGTH + SLACK)
        limit = top + MORE
        while True:
            rows = self._nearest(unit_D, where, limit)
            if len(rows) < limit or rows[top - 1].score - rows[-1].score > margin:
                break
            limit *= 4
        if not rows:
            return []
        scores = score_exactly(np.stack([row.vector for row in rows]), unit_D)
        best = np.lexsort((np.array([row.order for row in rows]), -scores))[:top]
        return [Hit(rank, float(scores[place]), rows[place].item) for rank, place in enumerate(best, start=1)]

    def count(self, where: Where | None = None) -> int:
        """Number of items that pass ``where``."""
        return self._count(self._settle(where))

    def find(self, where: Where | None = None, *, after: str | None = None, limit: int | None = None) -> list[Item]:
        """The items that pass ``where``, in the order in which they were added.

        Args:
            where: None: all.
            after: only items added after the item of this source: the last of the page before.
            limit: at most this many.

        Raises:
            GalleryError: ``after`` is not stored, or ``limit`` is negative.
        """
        check_limit(limit)
        if after is not None and not self._fetch([after]):
            raise GalleryError(f"{self.name} has no item of the source {after!r}")
        return self._list(self._settle(where), after, limit)

    def embeddings(self, sources: Sequence[str]) -> NDArray[np.float32]:
        """(N, D): the stored embeddings of these sources, in their order.

        Raises:
            GalleryError: a source that is not stored.
        """
        found = self._fetch(list(dict.fromkeys(sources)))
        if missing := next((source for source in sources if source not in found), None):
            raise GalleryError(f"{self.name} has no item of the source {missing!r}")
        rows = [found[source] for source in sources]
        return np.stack(rows) if rows else np.empty((0, self.embedding_size), np.float32)

    def remove(self, where: Where) -> int:
        """Delete the items that pass ``where``. Their bytes may stay in files; see ``erase``. Returns their number.

        Raises:
            GalleryError: ``where`` is empty, so it would delete everything.
        """
        _check_removal(where)
        return self._delete(self._settle(where))

    def erase(self, where: Where) -> Erased:
        """Delete the items that pass ``where`` and their bytes, then look for these in the engine's files.

        Raises:
            GalleryError: as ``remove``.
        """
        _check_removal(where)
        return self._erase_and_look(self._settle(where))

    def expire(self, before_s: float) -> Erased:
        """``erase`` of the items taken before this time (seconds, as ``Item.time_s``). Items without a time stay."""
        return self._erase_and_look(Where(before_s=float(np.nextafter(before_s, -np.inf))))

    def _erase_and_look(self, where: Where) -> Erased:
        sources = [item.source for item in self._list(where, None, None)]
        if not sources:
            return Erased(0, 0, 0, 0, (), self._out_of_reach())
        vectors = self.embeddings(sources)
        where = Where(sources=frozenset(sources))  # what is added meanwhile stays
        kept = [source.encode() for source in self._list_sources("") if source not in set(sources)]
        traces = Traces(vectors, sources, [b"\n".join(kept)])
        rewritten, deleted = self._erase(where, sources)
        searched, found = 0, list(self._fetch(sources))
        folder = self._folder()
        for path in sorted(folder.rglob("*")) if folder is not None else ():
            if path.is_file():
                with suppress(FileNotFoundError):  # the engine deletes files of its own meanwhile
                    content = path.read_bytes()
                    searched += len(content)
                    if traces.are_in(content):
                        found.append(str(path))
        return Erased(len(sources), rewritten, deleted, searched, tuple(found), self._out_of_reach())

    def _settle(self, where: Where | None) -> Where:
        """The filter with a set of sources in place of ``source``. Raises DataError for attributes: none are stored."""
        where = where or Where()
        find_attributes((), sorted(where.having | where.lacking))
        if where.source is None:
            return where
        if self._fetch([where.source]):
            found = frozenset({where.source})
        else:
            special = min((where.source.find(c) % (len(where.source) + 1) for c in "*?["), default=0)
            pattern = Where(source=where.source)
            found = frozenset(s for s in self._list_sources(where.source[:special]) if pattern.matches(Item(s)))
        return replace(where, source=None, sources=found if where.sources is None else found & where.sources)


def _check_item(item: Item) -> None:
    """Raise GalleryError for a text that is not Unicode, or a time that is not finite."""
    for name in ("source", "identity", "camera"):
        text = getattr(item, name)
        if text is not None and ("\0" in text or any("\ud800" <= c <= "\udfff" for c in text)):
            raise GalleryError(f"{name} {text!r} holds a character that only a folder gallery can store")


def _check_removal(where: Where) -> None:
    if where.is_empty:
        raise GalleryError("remove needs a condition; to delete everything, delete the store")
