"""Searching a gallery: by image, by embedding, by attributes.

Shapes: N items, D embedding, A attributes, Q queries.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from osnet.embedding.attribute_predictor import match_score
from osnet.embedding.embedder import Embedder
from osnet.errors import GalleryError
from osnet.gallery.columns import Indices
from osnet.gallery.exact_search import EXACT_AT_ONCE, Floats, find_candidates, score_exactly
from osnet.gallery.segments import Manifest
from osnet.gallery.snapshot import Snapshot
from osnet.gallery.stored_rows import StoredRows
from osnet.gallery.top_hits import check_page, choose_top
from osnet.gallery.vector_store import Where
from osnet.types import ChannelOrder, Hit, Item

QUERIES_AT_ONCE = 256
"""``search_embeddings`` reads the gallery once for this many queries."""


class SearchableRows(StoredRows):
    """Rows that can be searched. ``Gallery`` adds making, adding and removing."""

    _embedder: Embedder | None = None

    @property
    def embedder(self) -> Embedder:
        """The embedder that the gallery was opened with. Raises GalleryError if it was opened without one."""
        if self._embedder is None:
            raise GalleryError(
                f"{self.folder} was opened without an embedder: use Gallery.open({str(self.folder)!r}, embedder), or "
                "add_embeddings and search_embedding for embeddings that you have"
            )
        return self._embedder

    @property
    def items(self) -> tuple[Item, ...]:
        """All items, in the order in which they were added."""
        return tuple(self._read(lambda state: state.items(state.in_order)))

    @property
    def weights_sha256(self) -> str:
        """Digest of the weights that made the stored embeddings."""
        return self._manifest.weights_sha256

    @property
    def weights_name(self) -> str:
        """Name of these weights, for people to read."""
        return self._manifest.weights_name

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the A attributes whose probabilities are stored; empty in a gallery without attributes."""
        return tuple(attribute.name for attribute in self._manifest.attributes)

    def sources(self) -> set[str]:
        """Sources of all items."""
        return self._read(lambda state: {source for _, rows in state.each() for source in rows.columns.sources()})

    def search(
        self, image: Any, *, top: int = 10, where: Where | None = None, channels: ChannelOrder = "rgb"
    ) -> list[Hit]:
        """The items most similar to one crop, best first; equal scores in the order in which they were added.

        Args:
            image: a path, a Pillow image, an array (height, width, 3), a tensor (3, height, width), or a ``Frame``
                with one box: one crop, as ``Embedder.embed`` takes it.
            top: maximum number of hits, at least 1.
            where: only items that pass this filter.
            channels: the order in arrays and tensors: ``rgb``, or ``bgr`` as OpenCV gives it.

        Raises:
            GalleryError: the gallery was opened without an embedder, or not exactly one crop was given.
            ImageError: the image cannot be used.
            DataError: ``where`` names attributes that are not stored.
        """
        check_page(top, 0)
        embeddings = self._embed(image, channels)
        if len(embeddings) != 1:
            raise GalleryError(f"search takes one crop, not {len(embeddings)}; use search_many for several")
        return self.search_embedding(embeddings[0], weights_sha256=self.embedder.sha256(), top=top, where=where)

    def search_many(
        self, images: Any, *, top: int = 10, where: Where | None = None, channels: ChannelOrder = "rgb"
    ) -> list[list[Hit]]:
        """The hits of every crop, in the order of the crops. All are embedded, then searched in one matrix product.

        Args:
            images: anything that ``Embedder.embed`` takes: a folder, paths, images in memory, frames with boxes.
            top, where, channels: as for ``search``.

        Raises:
            GalleryError, ImageError, DataError: as ``search``.
        """
        check_page(top, 0)
        embeddings = self._embed(images, channels)
        return self.search_embeddings(embeddings, weights_sha256=self.embedder.sha256(), top=top, where=where)

    def search_embedding(
        self,
        embedding_D: ArrayLike,
        *,
        weights_sha256: str,
        top: int = 10,
        where: Where | None = None,
        skip: int = 0,
    ) -> list[Hit]:
        """The items most similar to an embedding, best first; equal scores in the order in which they were added.

        The hits and their order are those of scoring every item in float64 (``exact_search`` says how).

        Args:
            embedding_D: (D,) or (1, D), of any length but 0.
            weights_sha256: of the network that made it.
            top: maximum number of hits, at least 1.
            where: only items that pass this filter.
            skip: leave out this many of the best, for the next page.

        Raises:
            GalleryError: an embedding of other weights or another size, zero or not finite.
            DataError: ``where`` names attributes that are not stored.
        """
        self.check_weights(weights_sha256)
        query = np.asarray(embedding_D, dtype=np.float32)
        if query.ndim == 2 and len(query) != 1:
            raise GalleryError(f"one embedding, not an array of shape {query.shape}; use search_embeddings for several")
        queries = query.reshape(1, -1)
        return self.search_embeddings(queries, weights_sha256=weights_sha256, top=top, where=where, skip=skip)[0]

    def search_embeddings(
        self,
        embeddings_QD: ArrayLike,
        *,
        weights_sha256: str,
        top: int = 10,
        where: Where | None = None,
        skip: int = 0,
    ) -> list[list[Hit]]:
        """The hits of each of Q embeddings. The gallery is read once for all of them.

        The hits and scores of each are those of ``search_embedding``. Arguments and errors are its, with
        ``embeddings_QD`` (Q, D).
        """
        self.check_weights(weights_sha256)
        check_page(top, skip)
        units = self._unit_rows(embeddings_QD)
        return self._read(lambda state: self._search(state, units, top, skip, where))

    def _search(self, state: Snapshot, units_QD: Floats, top: int, skip: int, where: Where | None) -> list[list[Hit]]:
        chosen = _candidates(state, where)
        found: list[tuple[Indices, NDArray[Any]]] = []
        for start in range(0, len(units_QD), QUERIES_AT_ONCE):
            units = units_QD[start : start + QUERIES_AT_ONCE]
            for unit, rows in zip(
                units, find_candidates(state.blocks, units, top + skip, len(state), chosen), strict=True
            ):
                parts = [rows[first : first + EXACT_AT_ONCE] for first in range(0, len(rows), EXACT_AT_ONCE)]
                scores = [score_exactly(state.vectors(part), unit) for part in parts]
                found.append(_rank(state, rows, np.concatenate([np.empty(0), *scores]), top, skip))
        return _hits(state, found, skip)

    def search_attributes(
        self, having: Sequence[str], lacking: Sequence[str] = (), *, top: int = 10, where: Where | None = None
    ) -> list[Hit]:
        """The items that match a description best; equal scores in the order in which they were added.

        The score, in [0, 1], is the geometric mean of p for each attribute in ``having`` and 1 - p for each in
        ``lacking``, where p is the stored probability.

        Args:
            having: attributes that the person has.
            lacking: attributes that the person does not have.
            top: maximum number of hits, at least 1.
            where: only items that pass this filter. Its ``having`` and ``lacking`` exclude items
                that are predicted otherwise.

        Raises:
            DataError: no attribute is named, or one that is not stored.
        """
        check_page(top, 0)

        def search(state: Snapshot) -> list[Hit]:
            names = [attribute.name for attribute in state.manifest.attributes]
            scores = match_score(state.probabilities, names, having, lacking)
            rows = _candidates(state, where)
            rows = np.arange(len(state)) if rows is None else rows
            return _hits(state, [_rank(state, rows, scores[rows], top, 0)])[0]

        return self._read(search)

    def check_weights(self, weights_sha256: str) -> None:
        """Raise GalleryError unless the stored embeddings are of these weights. Call it before embedding anything."""
        check_same_weights(self.folder, self._manifest, weights_sha256)

    def _embed(self, images: Any, channels: ChannelOrder) -> NDArray[np.float32]:
        if isinstance(images, np.ndarray) and images.ndim <= 2:
            raise GalleryError(f"an array of shape {images.shape} is not an image; search_embedding takes embeddings")
        embedder = self.embedder
        self.check_weights(embedder.sha256())  # the network may have been trained since the gallery was opened
        return embedder.embed(images, channels=channels)


def _candidates(state: Snapshot, where: Where | None) -> Indices | None:
    """The rows that pass ``where``, ascending; None: all."""
    return None if where is None or where.is_empty else np.flatnonzero(state.passing(where))


def _rank(state: Snapshot, rows: Indices, scores: NDArray[Any], top: int, skip: int) -> tuple[Indices, NDArray[Any]]:
    """The best of ``rows`` (ascending), best first, and their scores; the first ``skip`` are left out."""
    best = choose_top(scores, lambda ties: state.orders(rows[ties]), top + skip)[skip:]
    return rows[best], scores[best]


def _hits(state: Snapshot, found: list[tuple[Indices, NDArray[Any]]], skip: int = 0) -> list[list[Hit]]:
    """What ``_rank`` found for each query, as hits. Each item is read once."""
    chosen = np.unique(np.concatenate([np.empty(0, np.intp), *(rows for rows, _ in found)]))
    items = dict(zip(chosen.tolist(), state.items(chosen), strict=True))
    names = [attribute.name for attribute in state.manifest.attributes]
    said: dict[int, dict[str, float]] = {}
    if names:
        rows_of_p = state.gather(chosen, lambda part, places: part.probabilities[places].tolist())
        said = {row: dict(zip(names, p, strict=True)) for row, p in zip(chosen.tolist(), rows_of_p, strict=True)}
    return [
        [
            Hit(rank, score, items[row], dict(said[row]) if names else None)
            for rank, (row, score) in enumerate(zip(rows.tolist(), scores.tolist(), strict=True), skip + 1)
        ]
        for rows, scores in found
    ]


def check_same_weights(folder: Path, manifest: Manifest, weights_sha256: str) -> None:
    """Raise GalleryError unless the gallery's embeddings are of these weights."""
    if weights_sha256 != manifest.weights_sha256:
        raise GalleryError(
            f"{folder} stores embeddings of the weights {manifest.weights_sha256[:12]} ({manifest.weights_name}), "
            f"which cannot be compared with those of {weights_sha256[:12]}; use the same weights, or a new gallery"
        )
