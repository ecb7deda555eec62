"""Scores of pairs, same person or not, counted in bins: distributions, ROC, thresholds; precision against recall.

Counting needs no sort and no matrix, so a gallery of any size takes the same memory. Shapes: Q queries, G gallery,
D embedding, K bins, R levels of recall.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from osnet.metrics.ranking import match_ranks
from osnet.types import JUNK_PID

NUM_BINS = 4000
"""Bins of width 0.0005 over [-1, 1]: a threshold is known to so much."""
BLOCK_FLOATS = 1 << 22
RECALL_LEVELS = np.linspace(0, 1, 101)
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class PairCounts:
    """How many pairs of query and gallery image have which cosine score, by the protocol's rule."""

    same: Counts
    """(K,): pairs of one person in different cameras."""
    different: Counts
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

        def at_least(counts: Counts) -> NDArray[np.float64]:
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
    """Count cosine scores of all pairs; a block of queries at a time.

    Market-1501's rule: pairs of one person in one camera, and junk, are in no count. Precision of one query at recall
    r is the greatest of j / rank_j over its matches j with j / P >= r (interpolated as in PASCAL VOC, Everingham et
    al., IJCV 2010, section 4.2); queries without a match are left out.

    Args:
        query_QD: rows need not have length 1.
        gallery_GD: as above.
        query_pids: (Q,).
        gallery_pids: (G,), -1 junk, 0 distractor.
        query_camids: (Q,).
        gallery_camids: (G,).
        num_bins: K.

    Raises:
        ValueError: rows and labels of different lengths.
    """
    query, gallery = _unit(query_QD), _unit(gallery_GD)
    pids_Q, pids_G = np.asarray(query_pids), np.asarray(gallery_pids)
    camids_Q, camids_G = np.asarray(query_camids), np.asarray(gallery_camids)
    lengths = (len(query), len(query), len(gallery), len(gallery))
    if tuple(map(len, (pids_Q, camids_Q, pids_G, camids_G))) != lengths:
        raise ValueError(f"labels do not fit {len(query)} queries and {len(gallery)} gallery rows")
    same, different = (np.zeros(num_bins, dtype=np.int64) for _ in range(2))
    precision, num_scored = np.zeros(len(RECALL_LEVELS)), 0
    rows = max(1, BLOCK_FLOATS // max(1, len(gallery)))
    for start in range(0, len(query), rows):
        block = slice(start, start + rows)
        score = query[block] @ gallery.T
        bins = np.clip(((score + 1) * (num_bins / 2)).astype(np.int64), 0, num_bins - 1)
        equal = pids_Q[block, None] == pids_G
        junk = np.broadcast_to(pids_G == JUNK_PID, equal.shape)
        ignored = (equal & (camids_Q[block, None] == camids_G)) | junk
        same += np.bincount(bins[equal & ~ignored], minlength=num_bins)
        different += np.bincount(bins[~equal & ~junk], minlength=num_bins)
        for score_G, equal_G, ignored_G in zip(score, equal, ignored, strict=True):
            ranks = match_ranks(-score_G, equal_G & ~ignored_G, ignored_G)
            if len(ranks):
                precision += _interpolate(ranks)
                num_scored += 1
    mean = precision / num_scored if num_scored else np.full(len(RECALL_LEVELS), np.nan)
    return PairCurves(PairCounts(same, different), mean)


def _interpolate(ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """Precision of one query at the levels of recall."""
    found = np.arange(1, len(ranks) + 1)
    best_from_here = np.maximum.accumulate((found / ranks)[::-1])[::-1]
    needed = np.ceil(RECALL_LEVELS * len(ranks) - 1e-9).astype(np.int64).clip(1)
    return best_from_here[needed - 1]


def _unit(rows: ArrayLike) -> NDArray[np.float32]:
    array = np.asarray(rows, dtype=np.float32)
    return array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), np.finfo(np.float32).tiny)
