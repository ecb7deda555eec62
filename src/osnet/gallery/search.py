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
from osnet.gallery.item_attributes import rows_with_attributes
from osnet.gallery.segments import Manifest
from osnet.gallery.stored_rows import StoredRows
from osnet.gallery.top_hits import check_top, top_hits
from osnet.gallery.vector_store import Where
from osnet.types import ChannelOrder, Hit, Item

SCORES_AT_ONCE = 1 << 24
"""``search_embeddings`` computes at most this many scores at a time (64 MiB), and at least one query's."""


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
        return tuple(self._rows().items)

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
        return {item.source for part in self._parts for item in part.items}

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
        check_top(top)
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
        check_top(top)
        embeddings = self._embed(images, channels)
        return self.search_embeddings(embeddings, weights_sha256=self.embedder.sha256(), top=top, where=where)

    def search_embedding(
        self, embedding_D: ArrayLike, *, weights_sha256: str, top: int = 10, where: Where | None = None
    ) -> list[Hit]:
        """The items most similar to an embedding, best first; equal scores in the order in which they were added.

        Args:
            embedding_D: (D,) or (1, D), of any length but 0.
            weights_sha256: of the network that made it.
            top: maximum number of hits, at least 1.
            where: only items that pass this filter.

        Raises:
            GalleryError: an embedding of other weights or another size, zero or not finite.
            DataError: ``where`` names attributes that are not stored.
        """
        self.check_weights(weights_sha256)
        query = np.asarray(embedding_D, dtype=np.float32)
        if query.ndim == 2 and len(query) != 1:
            raise GalleryError(f"one embedding, not an array of shape {query.shape}; use search_embeddings for several")
        unit = self._unit_rows(query.reshape(1, -1))[0]
        check_top(top)
        scores = np.clip(self._rows().vectors @ unit, -1, 1)
        return top_hits(scores, self._rows(), self._candidates(where), self.attributes, top)

    def search_embeddings(
        self, embeddings_QD: ArrayLike, *, weights_sha256: str, top: int = 10, where: Where | None = None
    ) -> list[list[Hit]]:
        """The hits of each of Q embeddings, from one matrix product (in blocks of ``SCORES_AT_ONCE`` scores).

        Scores differ from those of ``search_embedding`` by rounding, about 1e-7. Arguments and errors are those of
        ``search_embedding``, with ``embeddings_QD`` (Q, D).
        """
        self.check_weights(weights_sha256)
        check_top(top)
        units = self._unit_rows(embeddings_QD)
        rows, candidates = self._rows(), self._candidates(where)
        found: list[list[Hit]] = []
        block = max(1, SCORES_AT_ONCE // max(1, len(self)))
        for start in range(0, len(units), block):
            scores = np.clip(units[start : start + block] @ rows.vectors.T, -1, 1)
            found += [top_hits(row, rows, candidates, self.attributes, top) for row in scores]
        return found

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
        scores = match_score(self._rows().probabilities, self.attributes, having, lacking)
        check_top(top)
        return top_hits(scores, self._rows(), self._candidates(where), self.attributes, top)

    def check_weights(self, weights_sha256: str) -> None:
        """Raise GalleryError unless the stored embeddings are of these weights. Call it before embedding anything."""
        check_same_weights(self.folder, self._manifest, weights_sha256)

    def _embed(self, images: Any, channels: ChannelOrder) -> NDArray[np.float32]:
        if isinstance(images, np.ndarray) and images.ndim <= 2:
            raise GalleryError(f"an array of shape {images.shape} is not an image; search_embedding takes embeddings")
        embedder = self.embedder
        self.check_weights(embedder.sha256())  # the network may have been trained since the gallery was opened
        return embedder.embed(images, channels=channels)

    def _candidates(self, where: Where | None) -> NDArray[np.intp]:
        """Indices of the rows that pass ``where``, ascending."""
        if where is None or where.is_empty:
            return np.arange(len(self))
        return np.flatnonzero(self._passing(where))

    def _passing(self, where: Where) -> NDArray[np.bool_]:
        """(N,), True for the rows that pass ``where``."""
        rows = self._rows()
        where = where.settle(self.sources()) if where.source is not None else where
        passing = np.array([where.matches(item) for item in rows.items], dtype=bool)
        return passing & rows_with_attributes(self._manifest.attributes, rows.probabilities, where)


def check_same_weights(folder: Path, manifest: Manifest, weights_sha256: str) -> None:
    """Raise GalleryError unless the gallery's embeddings are of these weights."""
    if weights_sha256 != manifest.weights_sha256:
        raise GalleryError(
            f"{folder} stores embeddings of the weights {manifest.weights_sha256[:12]} ({manifest.weights_name}), "
            f"which cannot be compared with those of {weights_sha256[:12]}; use the same weights, or a new gallery"
        )
