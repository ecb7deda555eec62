"""The rows with the highest scores, as hits."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from osnet.errors import GalleryError
from osnet.gallery.segments import Floats, Rows
from osnet.types import Hit


def check_top(top: int) -> None:
    """Raise GalleryError unless ``top`` is at least 1."""
    if top < 1:
        raise GalleryError(f"top {top} must be at least 1")


def top_hits(
    scores: Floats, rows: Rows, candidates: NDArray[np.intp], attributes: Sequence[str], top: int
) -> list[Hit]:
    """The ``top`` candidates by score, highest first; equal scores in the order of the rows.

    Args:
        scores: (N,), one per row.
        rows: N rows.
        candidates: indices of the rows that may be returned, ascending.
        attributes: names of the columns of ``rows.probabilities``; empty if there are none.
        top: maximum number of hits.
    """
    chosen = scores[candidates]
    if len(candidates) > top:
        threshold = np.partition(chosen, len(candidates) - top)[len(candidates) - top]
        candidates = candidates[chosen >= threshold]
        chosen = scores[candidates]
    order = np.argsort(-chosen, kind="stable")[:top]
    hits = []
    for rank, i in enumerate(order, start=1):
        row = int(candidates[i])
        values = dict(zip(attributes, rows.probabilities[row].tolist(), strict=True)) if attributes else None
        hits.append(Hit(rank, float(chosen[i]), rows.items[row], values))
    return hits
