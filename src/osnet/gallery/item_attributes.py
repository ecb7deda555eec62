"""Attributes in a gallery: what was said of crops, by which head, and which of it a gallery keeps.

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
from osnet.gallery.segments import Floats, StoredAttribute
from osnet.gallery.vector_store import Where


@dataclass(frozen=True)
class Described:
    """What was said of crops, and by what."""

    attributes: tuple[StoredAttribute, ...]
    probabilities: ArrayLike
    """(N, A), in [0, 1]."""


def stored_attributes(embedder: Embedder) -> tuple[StoredAttribute, ...]:
    """What a gallery stores of an embedder: nothing, if it is no ``AttributePredictor``."""
    if not isinstance(embedder, AttributePredictor):
        return ()
    head = embedder.head
    return tuple(map(StoredAttribute, head.names, head.thresholds, head.digests()))


def describe(embedder: Embedder, probabilities_NA: ArrayLike | None) -> Described | None:
    """What ``Gallery.add`` wants to know; None if the embedder says no attributes."""
    if probabilities_NA is None or not isinstance(embedder, AttributePredictor):
        return None
    return Described(stored_attributes(embedder), probabilities_NA)


def choose_columns(stored: Sequence[StoredAttribute], said: Described | None, count: int, folder: Path) -> Floats:
    """(N, A): the gallery's attributes out of what was said.

    Raises:
        GalleryError: some of them were not said, or by another head; or the shape is not (``count``, ...).
    """
    if not stored:
        return np.empty((count, 0), dtype=np.float32)
    place = {(a.name, a.sha256): i for i, a in enumerate(said.attributes)} if said is not None else {}
    missing = [a.name for a in stored if (a.name, a.sha256) not in place]
    if said is None or missing:
        raise GalleryError(
            f"{folder} stores attributes, and of these crops it is not told {', '.join(missing)} by the head that told "
            "it of the others; use the same weights, or index into a new gallery"
        )
    probabilities = np.asarray(said.probabilities, dtype=np.float32)
    if probabilities.shape != (count, len(said.attributes)):
        raise GalleryError(f"probabilities of shape {probabilities.shape} for {count} x {len(said.attributes)}")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise GalleryError("probabilities outside 0 to 1")
    return np.ascontiguousarray(probabilities[:, [place[a.name, a.sha256] for a in stored]])


def find_fitting(stored: Sequence[StoredAttribute], probabilities_NA: Floats, where: Where) -> NDArray[np.bool_]:
    """(N,): which rows meet the conditions on attributes.

    Raises:
        DataError: a condition on an attribute that is not stored.
    """
    fitting = np.ones(len(probabilities_NA), dtype=bool)
    names = [attribute.name for attribute in stored]
    for asked, wanted in ((where.having, True), (where.lacking, False)):
        for column in find_attributes(names, sorted(asked)):
            threshold = stored[column].threshold if where.min_probability is None else where.min_probability
            fitting &= (probabilities_NA[:, column] >= threshold) == wanted
    return fitting
