"""Which gallery items are matches, ignored or distractors for a query, by Market-1501's and CUHK03's protocol.

Shapes: Q queries, G gallery items, M pairs of a query and a gallery item. Pure functions of labels.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from osnet.types import DISTRACTOR_PID, JUNK_PID

Ints = NDArray[np.int64]
Rule = Literal["market1501", "cuhk03"]
"""``market1501``: every match in another camera counts. ``cuhk03``: single gallery shot, one random gallery image per
person, repeated ``NUM_REPEATS`` times (Li et al., CVPR 2014, section 5)."""
NUM_REPEATS = 10
"""Number of random galleries under CUHK03's rule."""


@dataclass(frozen=True)
class Pairs:
    """Gallery items per query: those of query q are ``items[starts[q]:starts[q + 1]]``, in increasing order."""

    starts: Ints
    """(Q + 1,)."""
    items: Ints
    """(M,)."""

    @property
    def queries(self) -> Ints:
        """(M,): index of each pair's query."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    def keep(self, chosen_M: NDArray[np.bool_]) -> "Pairs":
        """The pairs selected by the mask ``chosen_M``."""
        counts = np.bincount(self.queries[chosen_M], minlength=len(self.starts) - 1)
        return Pairs(_starts(counts), self.items[chosen_M])


def _starts(counts: Ints) -> Ints:
    starts = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts


@dataclass(frozen=True)
class Labels:
    """Validated identities and cameras of queries and gallery: (Q,) and (G,) each."""

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
        """Convert to int64 and validate.

        Raises:
            ValueError: an array has another length or is not integer, a query has pid 0 or less, or a gallery item has
                one below -1.
        """
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
                raise ValueError(f"{name} must be {length} integers, not {array.dtype} of shape {array.shape}")
            arrays[name] = array.astype(np.int64)
        invalid = np.flatnonzero(arrays["query_pids"] <= DISTRACTOR_PID)
        if len(invalid):
            raise ValueError(
                f"{len(invalid)} queries have pid 0 or less (the first is query {invalid[0]}), which Market-1501's "
                "rule reserves for distractors (0) and junk (-1); number people from 1"
            )
        odd = arrays["gallery_pids"][arrays["gallery_pids"] < JUNK_PID]
        if len(odd):
            raise ValueError(
                f"{len(odd)} gallery items have a pid below -1 (the first is {odd[0]}); -1 is junk, 0 a distractor"
            )
        return cls(**arrays)

    @property
    def counted(self) -> Ints:
        """Indices of the gallery items that are not junk, in increasing order."""
        return np.flatnonzero(self.gallery_pids != JUNK_PID)

    def of_queries(self, first: int, last: int) -> "Labels":
        """Labels of the queries ``first`` to ``last`` (exclusive), with the whole gallery."""
        return Labels(
            self.query_pids[first:last], self.gallery_pids, self.query_camids[first:last], self.gallery_camids
        )

    def num_same_person(self) -> Ints:
        """(Q,): number of gallery items of each query's person, in any camera."""
        ordered = np.sort(self.gallery_pids)
        left, right = (np.searchsorted(ordered, self.query_pids, side) for side in ("left", "right"))
        return (right - left).astype(np.int64)

    def person_pairs(self) -> Pairs:
        """All gallery items of each query's person, in any camera."""
        order = np.argsort(self.gallery_pids, kind="stable")
        first = np.searchsorted(self.gallery_pids[order], self.query_pids, "left")
        starts = _starts(self.num_same_person())
        pairs = Pairs(starts, order)
        places = np.arange(starts[-1]) - starts[pairs.queries] + first[pairs.queries]
        return Pairs(starts, order[places])

    def same_person(self) -> tuple[Pairs, Pairs]:
        """Market-1501's rule: matches (same person, another camera) and ignored pairs (same person, same camera)."""
        pairs = self.person_pairs()
        same_camera_M = self.gallery_camids[pairs.items] == self.query_camids[pairs.queries]
        return pairs.keep(~same_camera_M), pairs.keep(same_camera_M)


def ignored_items(
    query_pids: NDArray[Any], gallery_pids: NDArray[Any], query_camids: NDArray[Any], gallery_camids: NDArray[Any]
) -> NDArray[np.bool_]:
    """(Q, G): True for items that Market-1501's rule ignores: junk, and the query's person in the query's camera."""
    own = (query_pids[:, None] == gallery_pids) & (query_camids[:, None] == gallery_camids)
    return own | (gallery_pids == JUNK_PID)


def check_rule(rule: Rule) -> None:
    """Raise ValueError if ``rule`` is unknown."""
    if rule not in get_args(Rule):
        raise ValueError(f"unknown rule {rule!r}; choose from {', '.join(get_args(Rule))}")


def draw_single_shot(labels: Labels, matches: Pairs, seed: int, repeat: int) -> tuple[Ints, Ints]:
    """Draw one single-shot gallery of CUHK03's rule (Li et al., CVPR 2014, section 5): one image per person.

    The gallery items are put in random order. Each person is represented by the first of their items, and the query's
    own person by the first of the query's matches. The draw therefore depends on the gallery and the seed, not on the
    other queries. Each distractor counts as a person of its own, so all distractors stay.

    Returns:
        Indices of the drawn gallery items, in increasing order; and (Q,) the drawn match of each query, -1 if it has
        no match.
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
