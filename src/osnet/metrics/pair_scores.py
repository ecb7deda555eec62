"""Scores of pairs, same person or not, counted in bins: distributions and ROC to draw; precision against recall.

The pairs are ``decisions``' (both take them from ``scored``), which finds single thresholds exactly; here is the whole
curve, to the width of a bin. Counting needs no sort and no matrix, so a gallery of any size takes the same memory.
Shapes: Q queries, G gallery, D embedding, K bins, R levels of recall, M pairs.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from osnet.metrics.matching_rules import Ints
from osnet.metrics.rank_counting import compile_function
from osnet.metrics.score_blocks import ScoredPairs

NUM_BINS = 4000
"""Bins of width 0.0005 over [-1, 1]: a threshold is known to so much."""
RECALL_LEVELS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class PairCounts:
    """How many pairs of query and gallery image have which cosine score, by the protocol's rule."""

    same: Ints
    """(K,): pairs of one person in different cameras."""
    different: Ints
    """(K,): pairs of two people, in any cameras."""

    @property
    def edges(self) -> NDArray[np.float64]:
        """(K + 1,): borders of the bins, from -1 to 1."""
        return np.linspace(-1, 1, len(self.same) + 1)

    def rates(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(K + 1,) each: share of different and of same pairs with a score of at least each border; falling.

        They are the false positive rate and the true positive rate if that border is the threshold (Fawcett, "An
        introduction to ROC analysis", 2006). NaN where there is no such pair.
        """

        def at_least(counts: Ints) -> NDArray[np.float64]:
            total = int(counts.sum())
            above = np.concatenate([np.cumsum(counts[::-1])[::-1], [0]]).astype(np.float64)
            return above / total if total else np.full(len(above), np.nan)

        return at_least(self.different), at_least(self.same)

    def threshold_at(self, false_positive_rate: float) -> float:
        """The lowest border at which at most this share of different pairs is called the same."""
        fpr, _ = self.rates()
        return float(self.edges[int(np.flatnonzero(fpr <= false_positive_rate)[0])])

    def at(self, threshold: float) -> tuple[float, float]:
        """False and true positive rate when scores of at least ``threshold`` (to the nearest border) are the same."""
        fpr, tpr = self.rates()
        place = int(np.abs(self.edges - threshold).argmin())
        return float(fpr[place]), float(tpr[place])


@dataclass(frozen=True)
class PairCurves:
    """Counted pairs, and mean precision by recall."""

    counts: PairCounts
    precision: NDArray[np.float64]
    """(R,) at ``RECALL_LEVELS``, the mean over queries of the best precision at that recall or beyond."""


def count_pairs(
    query_QD: ArrayLike,
    gallery_GD: ArrayLike,
    query_pids: ArrayLike,
    gallery_pids: ArrayLike,
    query_camids: ArrayLike,
    gallery_camids: ArrayLike,
    num_bins: int = NUM_BINS,
) -> PairCurves:
    """Count cosine scores of all pairs; a block at a time.

    Market-1501's rule: pairs of one person in one camera, and junk, are in no count. Precision of one query at recall
    r is the greatest of j / rank_j over its matches j with j / P >= r (interpolated as in PASCAL VOC, Everingham et
    al., IJCV 2010, section 4.2), with ranks of exact distances, as ``rank_scores`` has them; queries without a match
    are left out.

    Args:
        query_QD: rows need not have length 1.
        gallery_GD: as above.
        query_pids: (Q,), from 1 upwards.
        gallery_pids: (G,), -1 junk, 0 distractor.
        query_camids: (Q,).
        gallery_camids: (G,).
        num_bins: K.

    Raises:
        ValueError: as ``rank_scores``.
    """
    scored = ScoredPairs(query_QD, gallery_GD, (query_pids, gallery_pids, query_camids, gallery_camids), "cosine")
    same, different = (np.zeros(num_bins, dtype=np.int64) for _ in range(2))
    for block in scored.blocks():
        _add_bins(block.same[None], same)
        _add_bins(block.different_RC, different)
    return PairCurves(PairCounts(same, different), _mean_precision(scored))


@compile_function
def _add_bins(score_RC, counts):  # type: ignore[no-untyped-def]
    """Count scores in bins over [-1, 1]; what is hidden (-inf) in none."""
    half = np.float32(len(counts) / 2)
    for r in range(len(score_RC)):
        for c in range(score_RC.shape[1]):
            score = score_RC[r, c]
            if score > -np.inf:  # of length 1, so a little beyond 1 by rounding only
                counts[min(max(int((score + np.float32(1)) * half), 0), len(counts) - 1)] += 1


def _mean_precision(scored: ScoredPairs) -> NDArray[np.float64]:
    """(R,): precision at the levels of recall, the mean over queries with a match; NaN where there is none."""
    matches, ignored = scored.labels.same_person()
    ranks = 1 + scored.vectors.count_before(matches, ignored, scored.labels.counted)
    total, num_scored = np.zeros(len(RECALL_LEVELS)), 0
    for first, last in pairwise(matches.starts.tolist()):
        if last > first:
            total += _interpolate(np.sort(ranks[first:last]))
            num_scored += 1
    return total / num_scored if num_scored else np.full(len(RECALL_LEVELS), np.nan)


def _interpolate(ranks: Ints) -> NDArray[np.float64]:
    """Precision of one query at the levels of recall, from the increasing ranks of its matches."""
    found = np.arange(1, len(ranks) + 1)
    best_from_here = np.maximum.accumulate((found / ranks)[::-1])[::-1]
    needed = np.ceil(RECALL_LEVELS * len(ranks) - 1e-9).astype(np.int64).clip(1)
    return best_from_here[needed - 1]
