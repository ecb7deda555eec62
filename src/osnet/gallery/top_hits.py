"""Which scores are the highest."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osnet.errors import GalleryError
from osnet.gallery.columns import Indices, Int64s


def check_page(top: int, skip: int) -> None:
    """Raise GalleryError unless ``top`` is at least 1 and ``skip`` at least 0."""
    if top < 1:
        raise GalleryError(f"top {top} must be at least 1")
    if skip < 0:
        raise GalleryError(f"skip {skip} must be at least 0")


def check_limit(limit: int | None) -> None:
    """Raise GalleryError for a negative ``limit``: a slice would leave out the last items."""
    if limit is not None and limit < 0:
        raise GalleryError(f"limit {limit} must be at least 0, or None for all")


def choose_top(scores_N: NDArray[Any], orders: Callable[[Indices], Int64s], top: int) -> Indices:
    """Places of the ``top`` highest scores, highest first; equal scores by their order.

    Args:
        scores_N: the scores.
        orders: gives the orders of the places that it gets (ascending); asked only for those that may be chosen.
        top: maximum number of places.
    """
    places = np.arange(len(scores_N))
    if len(scores_N) > top:
        threshold = np.partition(scores_N, len(scores_N) - top)[len(scores_N) - top]
        places = np.flatnonzero(scores_N >= threshold)
    chosen = np.lexsort((orders(places), -scores_N[places]))[:top]
    return places[chosen]
