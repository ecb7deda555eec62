"""Attributes in a gallery: which probabilities it stores, and the filter on them.

Shapes: N items, A attributes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from osnet.embedding.attribute_predictor import AttributePredictor, find_attributes
from osnet.embedding.embedder import Embedder
from osnet.errors import GalleryError
from osnet.gallery.exact_search import Floats
from osnet.gallery.segments import StoredAttribute
from osnet.gallery.vector_store import Where


@dataclass(frozen=True)
class AttributeProbabilities:
    """Probabilities of attributes, with the digests of the head that predicted them."""

    attributes: tuple[StoredAttribute, ...]
    probabilities: ArrayLike
    """(N, A), in [0, 1]."""


def stored_attributes(embedder: Embedder) -> tuple[StoredAttribute, ...]:
    """The attributes that a gallery of this embedder stores; empty unless it is an ``AttributePredictor``."""
    if not isinstance(embedder, AttributePredictor):
        return ()
    head = embedder.head
    return tuple(map(StoredAttribute, head.names, head.thresholds, head.digests()))


def attribute_probabilities(embedder: Embedder, probabilities_NA: ArrayLike | None) -> AttributeProbabilities | None:
    """The argument ``attributes`` of ``Gallery.add_embeddings``; None if the embedder predicts no attributes.

    Args:
        embedder: made the probabilities.
        probabilities_NA: (N, A), in [0, 1], of ``embedder.predict(...)`` or ``embed_named(...)``.
    """
    if probabilities_NA is None or not isinstance(embedder, AttributePredictor):
        return None
    return AttributeProbabilities(stored_attributes(embedder), probabilities_NA)


def choose_columns(
    stored: Sequence[StoredAttribute], given: AttributeProbabilities | None, count: int, folder: Path
) -> Floats:
    """(N, A): the columns that the gallery stores, in its order.

    Raises:
        GalleryError: a stored attribute is missing or of another head, the shape is not (``count``, ...), or values are
            outside [0, 1].
    """
    if not stored:
        return np.empty((count, 0), dtype=np.float32)
    place = {(a.name, a.sha256): i for i, a in enumerate(given.attributes)} if given is not None else {}
    missing = [a.name for a in stored if (a.name, a.sha256) not in place]
    if given is None or missing:
        raise GalleryError(
            f"{folder} stores attributes, and these are missing or of another head: {', '.join(missing)}; "
            "use the weights that the gallery was made with, or a new gallery"
        )
    probabilities = np.asarray(given.probabilities, dtype=np.float32)
    wanted = (count, len(given.attributes))
    if probabilities.shape != wanted:
        raise GalleryError(f"attribute probabilities of shape {probabilities.shape}; expected {wanted}")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise GalleryError("attribute probabilities must be between 0 and 1, and not NaN")
    return np.ascontiguousarray(probabilities[:, [place[a.name, a.sha256] for a in stored]])


def rows_with_attributes(
    stored: Sequence[StoredAttribute], probabilities_NA: Floats, where: Where
) -> NDArray[np.bool_]:
    """(N,), True for the rows predicted to have ``where.having`` and not to have ``where.lacking``.

    Raises:
        DataError: an attribute that is not stored.
    """
    passing = np.ones(len(probabilities_NA), dtype=bool)
    names = [attribute.name for attribute in stored]
    for asked, wanted in ((where.having, True), (where.lacking, False)):
        for column in find_attributes(names, sorted(asked)):
            threshold = stored[column].threshold if where.min_probability is None else where.min_probability
            passing &= (probabilities_NA[:, column] >= threshold) == wanted
    return passing
