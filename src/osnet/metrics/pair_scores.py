"""Histograms of pair scores (same person, different people), ROC curves from them, and precision-recall curves.

The pairs are those of ``thresholds.py``, which finds exact thresholds for given rates. This module gives whole curves,
to the width of a bin. It needs no sorting and no score matrix, so memory does not grow with the gallery.
Shapes: Q queries, G gallery items, D components of an embedding, K bins, R levels of recall, M pairs.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from osnet.metrics.matching_rules import Ints
from osnet.metrics.rank_counting import compiled
from osnet.metrics.score_blocks import ScoredPairs

NUM_BINS = 4000
"""Bins over [-1, 1], 0.0005 wide, which is the resolution of a threshold."""
RECALL_LEVELS = np.linspace(0, 1, 101)
"""Recalls at which precision is given."""


@dataclass(frozen=True)
class PairCounts:
    """Histogram of the cosine scores of query-gallery pairs, by Market-1501's rule."""

    same: Ints
    """(K,): pairs of the same person in different cameras."""
    different: Ints
    """(K,): pairs of different people, in any cameras."""

    @property
    def edges(self) -> NDArray[np.float64]:
        """(K + 1,): bin edges, from -1 to 1."""
        return np.linspace(-1, 1, len(self.same) + 1)

    def rates(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(K + 1,) each: false and true positive rate with each bin edge as the threshold; non-increasing.

        A pair is accepted if its score is at least the threshold (Fawcett, "An introduction to ROC analysis", 2006).
        NaN if there is no pair of that kind.
        """

        def at_least(counts: Ints) -> NDArray[np.float64]:
            total = int(counts.sum())
            above = np.concatenate([np.cumsum(counts[::-1])[::-1], [0]]).astype(np.float64)
            return above / total if total else np.full(len(above), np.nan)

        return at_least(self.different), at_least(self.same)

    def threshold_at(self, false_positive_rate: float) -> float:
        """The lowest bin edge whose false positive rate is at most ``false_positive_rate``."""
        fpr, _ = self.rates()
        return float(self.edges[int(np.flatnonzero(fpr <= false_positive_rate)[0])])

    def at(self, threshold: float) -> tuple[float, float]:
        """False and true positive rate at ``threshold``, rounded to the nearest bin edge."""
        fpr, tpr = self.rates()
        place = int(np.abs(self.edges - threshold).argmin())
        return float(fpr[place]), float(tpr[place])


@dataclass(frozen=True)
class PairCurves:
    """Histogram of pair scores, and mean precision at each recall level."""

    counts: PairCounts
    precision: NDArray[np.float64]
    """(R,) at ``RECALL_LEVELS``: mean over queries of the highest precision at that recall or above."""


def count_pairs(
    query_QD: ArrayLike,
    gallery_GD: ArrayLike,
    query_pids: ArrayLike,
    gallery_pids: ArrayLike,
    query_camids: ArrayLike,
    gallery_camids: ArrayLike,
    num_bins: int = NUM_BINS,
) -> PairCurves:
    """Count the cosine scores of all pairs, a block at a time, and compute the precision-recall curve.

    Market-1501's rule: pairs of the same person in the same camera, and pairs with junk, are left out. The precision of
    a query at recall r is the maximum of j / rank_j over its matches j with j / P >= r (interpolated as in PASCAL VOC,
    Everingham et al., IJCV 2010, section 4.2). Ranks are those of ``rank_scores``. Queries without a match are left
    out.

    Args:
        query_QD: (Q, D) query embeddings, of any length (norm).
        gallery_GD: (G, D) gallery embeddings.
        query_pids: (Q,), at least 1.
        gallery_pids: (G,), -1 junk, 0 distractor.
        query_camids: (Q,).
        gallery_camids: (G,).
        num_bins: K, the number of bins over [-1, 1], at least 1.

    Raises:
        ValueError: as for ``rank_scores``; or ``num_bins`` is below 1.
    """
    if num_bins < 1:
        raise ValueError(f"num_bins {num_bins} must be at least 1")
    scored = ScoredPairs(query_QD, gallery_GD, (query_pids, gallery_pids, query_camids, gallery_camids), "cosine")
    same, different = (np.zeros(num_bins, dtype=np.int64) for _ in range(2))
    for block in scored.blocks():
        _add_bins(block.same[None], same)
        _add_bins(block.different_RC, different)
    return PairCurves(PairCounts(same, different), _mean_precision(scored))


@compiled
def _add_bins(score_RC, counts):  # type: ignore[no-untyped-def]
    """Add scores to the histogram ``counts`` over [-1, 1]; excluded pairs (-inf) are skipped."""
    half = np.float32(len(counts) / 2)
    for r in range(len(score_RC)):
        for c in range(score_RC.shape[1]):
            score = score_RC[r, c]
            if score > -np.inf:  # rounding can take a cosine slightly beyond [-1, 1]; those go to the outer bins
                counts[min(max(int((score + np.float32(1)) * half), 0), len(counts) - 1)] += 1


def _mean_precision(scored: ScoredPairs) -> NDArray[np.float64]:
    """(R,): mean precision at the recall levels over queries with a match; NaN if no query has one."""
    matches, ignored = scored.labels.same_person()
    ranks = 1 + scored.vectors.count_before(matches, ignored, scored.labels.counted)
    total, num_scored = np.zeros(len(RECALL_LEVELS)), 0
    for first, last in pairwise(matches.starts.tolist()):
        if last > first:
            total += _interpolate(np.sort(ranks[first:last]))
            num_scored += 1
    return total / num_scored if num_scored else np.full(len(RECALL_LEVELS), np.nan)


def _interpolate(ranks: Ints) -> NDArray[np.float64]:
    """(R,): interpolated precision of one query at the recall levels. ``ranks`` of its matches are increasing."""
    found = np.arange(1, len(ranks) + 1)
    best_from_here = np.maximum.accumulate((found / ranks)[::-1])[::-1]
    needed = np.ceil(RECALL_LEVELS * len(ranks) - 1e-9).astype(np.int64).clip(1)
    return best_from_here[needed - 1]
