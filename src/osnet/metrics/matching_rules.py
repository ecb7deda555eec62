"""Who counts as what for a query: matches, what is ignored, and whom CUHK03's rule draws.

Shapes: Q queries, G gallery, M pairs of a query and a gallery item. Pure functions of labels.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from osnet.types import DISTRACTOR_PID, JUNK_PID

Ints = NDArray[np.int64]
Rule = Literal["market1501", "cuhk03"]
NUM_REPEATS = 10
"""CUHK03's rule draws so many galleries."""


@dataclass(frozen=True)
class Pairs:
    """Some gallery items for each query: those of query q are ``items[starts[q]:starts[q + 1]]``, increasing."""

    starts: Ints
    """(Q + 1,)."""
    items: Ints
    """(M,)."""

    @property
    def queries(self) -> Ints:
        """(M,): the query of each pair."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    def keep(self, chosen_M: NDArray[np.bool_]) -> "Pairs":
        """Only these pairs."""
        counts = np.bincount(self.queries[chosen_M], minlength=len(self.starts) - 1)
        return Pairs(_starts(counts), self.items[chosen_M])


def _starts(counts: Ints) -> Ints:
    starts = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts


@dataclass(frozen=True)
class Labels:
    """Persons and cameras of queries and gallery, checked."""

    query_pids: Ints
    gallery_pids: Ints
    query_camids: Ints
    gallery_camids: Ints

    @classmethod
    def check(
        cls,
        query_pids: ArrayLike,
        gallery_pids: ArrayLike,
        query_camids: ArrayLike,
        gallery_camids: ArrayLike,
        num_queries: int,
        num_gallery: int,
    ) -> "Labels":
        """Raises ``ValueError`` for lengths that do not fit, what is no whole number, and a query that is nobody."""
        given: dict[str, tuple[ArrayLike, int]] = {
            "query_pids": (query_pids, num_queries),
            "gallery_pids": (gallery_pids, num_gallery),
            "query_camids": (query_camids, num_queries),
            "gallery_camids": (gallery_camids, num_gallery),
        }
        arrays = {}
        for name, (values, length) in given.items():
            array = np.asarray(values)
            if array.shape != (length,) or (length and array.dtype.kind not in "iu"):
                raise ValueError(f"{name} must be {length} whole numbers, not {array.dtype} of shape {array.shape}")
            arrays[name] = array.astype(np.int64)
        nobody = np.flatnonzero(arrays["query_pids"] <= DISTRACTOR_PID)
        if len(nobody):
            raise ValueError(
                f"{len(nobody)} queries have pid 0 or less (the first is number {nobody[0]}), which in Market-1501's "
                "rule is nobody; number people from 1"
            )
        return cls(**arrays)

    @property
    def counted(self) -> Ints:
        """Gallery items that are not junk, increasing."""
        return np.flatnonzero(self.gallery_pids != JUNK_PID)

    def of_queries(self, first: int, last: int) -> "Labels":
        """The same gallery for the queries ``first`` to ``last``, exclusive."""
        return Labels(
            self.query_pids[first:last], self.gallery_pids, self.query_camids[first:last], self.gallery_camids
        )

    def num_same_person(self) -> Ints:
        """(Q,): gallery items of each query's person."""
        ordered = np.sort(self.gallery_pids)
        left, right = (np.searchsorted(ordered, self.query_pids, side) for side in ("left", "right"))
        return (right - left).astype(np.int64)

    def person_pairs(self) -> Pairs:
        """All gallery items of each query's person."""
        order = np.argsort(self.gallery_pids, kind="stable")
        first = np.searchsorted(self.gallery_pids[order], self.query_pids, "left")
        starts = _starts(self.num_same_person())
        pairs = Pairs(starts, order)
        places = np.arange(starts[-1]) - starts[pairs.queries] + first[pairs.queries]
        return Pairs(starts, order[places])

    def same_person(self) -> tuple[Pairs, Pairs]:
        """Matches, and what Market-1501's rule ignores: the same person in the query's own camera."""
        pairs = self.person_pairs()
        same_camera_M = self.gallery_camids[pairs.items] == self.query_camids[pairs.queries]  # proves nothing
        return pairs.keep(~same_camera_M), pairs.keep(same_camera_M)


def ignored_items(
    query_pids: NDArray[Any], gallery_pids: NDArray[Any], query_camids: NDArray[Any], gallery_camids: NDArray[Any]
) -> NDArray[np.bool_]:
    """(Q, G): items that Market-1501's rule ignores: junk, and the query's person in the query's own camera."""
    own = (query_pids[:, None] == gallery_pids) & (query_camids[:, None] == gallery_camids)
    return own | (gallery_pids == JUNK_PID)


def check_rule(rule: Rule) -> None:
    """Raises ``ValueError`` for an unknown rule."""
    if rule not in get_args(Rule):
        raise ValueError(f"unknown rule {rule!r}; choose from {', '.join(get_args(Rule))}")


def draw_single_shot(labels: Labels, matches: Pairs, seed: int, repeat: int) -> tuple[Ints, Ints]:
    """One repeat of CUHK03's rule (Li et al., CVPR 2014, section 5): a gallery with one image of each person.

    All gallery items get a random order. A person is represented by the first of his items in it, the query's own
    person by the first of the query's matches; so the draw depends on the gallery and the seed, never on which
    other queries there are. Distractors are people of whom nothing else is known: each of them stays.

    Returns:
        The gallery items, increasing; and (Q,) the match of each query, -1 for a query without.
    """
    order = np.random.default_rng([seed, repeat]).permutation(len(labels.gallery_pids))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    people = order[labels.gallery_pids[order] > DISTRACTOR_PID]
    _, first = np.unique(labels.gallery_pids[people], return_index=True)
    gallery = np.sort(np.concatenate([people[first], np.flatnonzero(labels.gallery_pids == DISTRACTOR_PID)]))
    own = np.full(len(labels.query_pids), -1, dtype=np.int64)
    matched = np.diff(matches.starts) > 0
    if matched.any():
        own[matched] = order[np.minimum.reduceat(place[matches.items], matches.starts[:-1][matched])]
    return gallery.astype(np.int64), own
