"""Score thresholds and their error rates: verification (ROC) and open-set identification.

A score is the cosine, or minus the squared Euclidean distance; higher is closer. Pairs follow Market-1501's rule: the
same person in the same camera and junk are left out. All other pairs count, also different people in one camera.
Thresholds are exact for the float32 scores. They take two passes over the gallery and no score matrix.

The functions take the labels as four arguments, in the order of ``rank_scores``.
Shapes: Q queries, G gallery items, D components of an embedding, R x C a block, F rates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from osnet.metrics.matching_rules import Ints
from osnet.metrics.rank_counting import Distance, compiled
from osnet.metrics.score_blocks import ScoredPairs
from osnet.types import DISTRACTOR_PID, JUNK_PID

MIN_ERRORS = 30
"""Least number of allowed errors at which a rate is supported: the rule of 30 (Doddington et al., Speech Communication
31, 2000; ISO/IEC 19795-1, annex B). With 30 errors the true rate is within 30 % of the measured one with 90 %
confidence. The rule assumes independent errors. Errors of one person are not, so an interval over people is wider."""
DEFAULT_RATES = (1e-4, 1e-3, 1e-2, 1e-1)
WORDS = {
    "verification": ("pairs of one person in two cameras", "pairs of two people", "FPR", "TPR"),
    "identification": ("searches for people in the gallery", "for unknown people", "FPIR", "FNIR"),
}
BINS = 1 << 16


class NoPairsError(ValueError):
    """There are no pairs of the same person, no pairs of different people, or no query with a match."""


@dataclass(frozen=True)
class OperatingPoint:
    """Error rates at one threshold. Scores at or above it are accepted."""

    asked: float
    """The requested false positive rate (FPR, or FPIR)."""
    threshold: float
    """The lowest threshold whose false positive rate is at most ``asked``; -inf if all scores may pass."""
    false_positive_rate: float
    """The rate at the threshold, in [0, asked]."""
    miss_rate: float
    """1 - TPR, or FNIR; in [0, 1]."""
    num_allowed: int
    """Number of false positives that ``asked`` allows."""

    @property
    def supported(self) -> bool:
        """False if fewer than ``MIN_ERRORS`` errors are allowed, so that the rate is unreliable."""
        return self.num_allowed >= MIN_ERRORS

    @property
    def caution(self) -> str:
        """A remark for text after the rates; empty if the rate is supported."""
        return "" if self.supported else f"unreliable: allows only {self.num_allowed} errors"


@dataclass(frozen=True)
class DecisionScores:
    """Operating points for the requested rates."""

    kind: str
    """``verification`` or ``identification`` (open set)."""
    points: tuple[OperatingPoint, ...]
    num_positives: int
    """Pairs of the same person in different cameras; or searches for people in the gallery."""
    num_negatives: int
    """Pairs of different people; or searches for people not in the gallery."""

    def at(self, rate: float) -> OperatingPoint:
        """The operating point of a requested rate.

        Raises:
            ValueError: ``rate`` was not requested.
        """
        for point in self.points:
            if point.asked == rate:
                return point
        raise ValueError(
            f"rate {rate:g} was not requested; choose from {', '.join(f'{p.asked:g}' for p in self.points)}"
        )

    def __str__(self) -> str:
        positives, negatives, rate, hit = WORDS[self.kind]
        lines = [f"{self.kind}: {self.num_positives:,} {positives}, {self.num_negatives:,} {negatives}"]
        for point in self.points:
            found = 1 - point.miss_rate if hit == "TPR" else point.miss_rate
            line = f"  {rate} {point.asked:<7g} {hit} {100 * found:6.2f} %   score >= {point.threshold:.4f}"
            lines.append(f"{line}   {point.caution}".rstrip())
        return "\n".join(lines)


def verification_scores(
    query_QD: ArrayLike,
    gallery_GD: ArrayLike,
    query_pids: ArrayLike,
    gallery_pids: ArrayLike,
    query_camids: ArrayLike,
    gallery_camids: ArrayLike,
    fprs: Sequence[float] = DEFAULT_RATES,
    *,
    distance: Distance = "cosine",
) -> DecisionScores:
    """Verification (same person or not): operating points of the ROC at the false positive rates ``fprs``.

    FPR is the share of pairs of different people with a score at or above the threshold. TPR (1 - ``miss_rate``) is
    that share of the pairs of the same person.

    Raises:
        ValueError: as for ``rank_scores``; or a rate is outside [0, 1].
        NoPairsError: there are no pairs of the same person, or none of different people.
    """
    scored = ScoredPairs(query_QD, gallery_GD, (query_pids, gallery_pids, query_camids, gallery_camids), distance)
    _check_rates(fprs, "fprs")
    high_bins = np.zeros(BINS, dtype=np.int64)
    positives = []
    for block in scored.blocks():
        positives.append(block.same)
        _add_high(block.different_RC.view(np.uint32), high_bins)
    high_bins[_HIDDEN_BIN] = 0
    num_different = int(high_bins.sum())
    same_M = np.sort(np.concatenate(positives)) if positives else np.empty(0, dtype=np.float32)
    if not len(same_M) or not num_different:
        raise NoPairsError(
            f"{len(same_M)} pairs of the same person and {num_different} of different people; both are needed"
        )
    allowed = [_allowed(fpr, num_different) for fpr in fprs]
    keys = _select(scored, high_bins, allowed)
    points = []
    for fpr, count, (threshold, num_false) in zip(fprs, allowed, keys, strict=True):
        missed = np.searchsorted(same_M, np.float32(threshold), side="left") / len(same_M)
        points.append(OperatingPoint(fpr, threshold, num_false / num_different, float(missed), count))
    return DecisionScores("verification", tuple(points), len(same_M), num_different)


def identification_scores(
    query_QD: ArrayLike,
    gallery_GD: ArrayLike,
    query_pids: ArrayLike,
    gallery_pids: ArrayLike,
    query_camids: ArrayLike,
    gallery_camids: ArrayLike,
    fpirs: Sequence[float] = DEFAULT_RATES,
    *,
    distance: Distance = "cosine",
) -> DecisionScores:
    """Open-set identification: FNIR at fixed FPIR, rank 1 (ISO/IEC 19795-1; Grother et al., NISTIR 8271, FRVT 1:N).

    FPIR is the share of searches for people not in the gallery that return anyone at or above the threshold. FNIR is
    the share of searches for people in the gallery that do not return them first, at or above the threshold. A query
    without a match is a search for an unknown person. Every other query is searched twice: with its person in the
    gallery, and with its person removed from it.

    Raises:
        ValueError: as for ``rank_scores``; or a rate is outside [0, 1].
        NoPairsError: no query has a match.
    """
    scored = ScoredPairs(query_QD, gallery_GD, (query_pids, gallery_pids, query_camids, gallery_camids), distance)
    _check_rates(fpirs, "fpirs")
    other_Q, found_Q, mate_Q = scored.best()
    mated = np.isfinite(mate_Q)
    if not mated.any():
        raise NoPairsError("no query has a match in another camera; identification needs at least one")
    unknown = np.sort(other_Q[np.isfinite(other_Q)])  # without another person in the gallery there is no false positive
    num_searches = len(other_Q)
    points = []
    for fpir in fpirs:
        allowed = _allowed(fpir, num_searches)
        threshold = (
            float(np.nextafter(unknown[-1 - allowed], np.float32(np.inf))) if allowed < len(unknown) else -np.inf
        )
        num_false = len(unknown) - np.searchsorted(unknown, np.float32(threshold), side="left")
        hits = np.count_nonzero(found_Q[mated] & (mate_Q[mated] >= threshold))
        points.append(
            OperatingPoint(fpir, threshold, float(num_false / num_searches), float(1 - hits / mated.sum()), allowed)
        )
    return DecisionScores("identification", tuple(points), int(mated.sum()), num_searches)


@dataclass(frozen=True)
class QueryCounts:
    """Error counts of each query at a threshold, for intervals over people. All (Q,)."""

    num_positives: Ints
    num_missed: Ints
    num_negatives: Ints
    num_false: Ints


def count_decisions(
    query_QD: ArrayLike,
    gallery_GD: ArrayLike,
    query_pids: ArrayLike,
    gallery_pids: ArrayLike,
    query_camids: ArrayLike,
    gallery_camids: ArrayLike,
    threshold: float,
    *,
    identify: bool = False,
    distance: Distance = "cosine",
) -> QueryCounts:
    """Count each query's misses and false positives at ``threshold``, over its pairs or (``identify``) searches."""
    scored = ScoredPairs(query_QD, gallery_GD, (query_pids, gallery_pids, query_camids, gallery_camids), distance)
    if identify:
        other_Q, found_Q, mate_Q = scored.best()
        mated = np.isfinite(mate_Q)
        missed = mated & ~(found_Q & (mate_Q >= threshold))
        searches = np.ones(len(other_Q), dtype=np.int64)
        false = (other_Q >= threshold) & np.isfinite(other_Q)  # without another person there is no false positive
        return QueryCounts(mated.astype(np.int64), missed.astype(np.int64), searches, false.astype(np.int64))
    counts: Ints = np.zeros((4, len(scored.labels.query_pids)), dtype=np.int64)
    for block in scored.blocks():
        rows, real_RC = slice(block.first, block.first + len(block.different_RC)), block.different_RC > -np.inf
        counts[0] += np.bincount(block.queries, minlength=counts.shape[1])
        counts[1] += np.bincount(block.queries[block.same < threshold], minlength=counts.shape[1])
        counts[2, rows] += np.count_nonzero(real_RC, axis=1)
        counts[3, rows] += np.count_nonzero((block.different_RC >= threshold) & real_RC, axis=1)
    return QueryCounts(*counts)


@dataclass(frozen=True)
class FalsePairs:
    """False positives of pairs, by the two people: the arguments of ``bootstrap.pair_interval``.

    The C people are those of the queries and of the gallery; each distractor is a person of its own.
    """

    first_K: Ints
    second_K: Ints
    counts_K: Ints
    queries_C: Ints
    items_C: Ints


def count_false_pairs(
    query_QD: ArrayLike,
    gallery_GD: ArrayLike,
    query_pids: ArrayLike,
    gallery_pids: ArrayLike,
    query_camids: ArrayLike,
    gallery_camids: ArrayLike,
    threshold: float,
    *,
    distance: Distance = "cosine",
) -> FalsePairs:
    """Count the pairs of different people with a score of at least ``threshold``, for each two people."""
    scored = ScoredPairs(query_QD, gallery_GD, (query_pids, gallery_pids, query_camids, gallery_camids), distance)
    labels, counted = scored.labels, scored.labels.counted
    alone = JUNK_PID - 1 - np.arange(len(labels.gallery_pids))  # a number of its own for each distractor
    names_G = np.where(labels.gallery_pids == DISTRACTOR_PID, alone, labels.gallery_pids)
    people, person = np.unique(np.concatenate([labels.query_pids, names_G[counted]]), return_inverse=True)
    person_Q, person_G = person[: len(labels.query_pids)], np.zeros(len(names_G), dtype=np.int64)
    person_G[counted] = person[len(person_Q) :]
    keys: list[Ints] = [np.empty(0, dtype=np.int64)]
    counts: list[Ints] = [np.empty(0, dtype=np.int64)]
    for block in scored.blocks():
        rows, columns = np.nonzero((block.different_RC >= threshold) & (block.different_RC > -np.inf))
        pairs = person_Q[block.first + rows] * len(people) + person_G[block.columns_C[columns]]
        some, numbers = np.unique(pairs, return_counts=True)
        keys.append(some.astype(np.int64))
        counts.append(numbers.astype(np.int64))
    key_K, place = np.unique(np.concatenate(keys), return_inverse=True)
    counts_K = np.bincount(place, weights=np.concatenate(counts), minlength=len(key_K))
    sizes = [np.bincount(who, minlength=len(people)) for who in (person_Q, person_G[counted])]
    return FalsePairs(key_K // len(people), key_K % len(people), counts_K.astype(np.int64), *sizes)


def _check_rates(rates: Sequence[float], name: str) -> None:
    if not rates or not all(0 <= rate <= 1 for rate in rates):
        raise ValueError(f"{name} {tuple(rates)} must be one or more rates from 0 to 1")


def _allowed(rate: float, count: int) -> int:
    """The largest number of errors whose share is at most ``rate``. Robust to rounding: 0.29 of 100 gives 29."""
    return min(count, int(rate * count * (1 + 1e-12)))


# Select a value by rank without storing the values, as in a two-step radix sort: count values by the upper 16 bits of
# their keys, then, in a second pass, by the lower 16 bits within the bins that contain the wanted ranks.


@compiled
def _key(bits):  # type: ignore[no-untyped-def]
    """Map the bits of a float32 to an integer of the same order; -0 maps to the key of 0."""
    if bits == np.uint32(0x80000000):
        bits = np.uint32(0)
    return np.uint32(~bits) if bits >> np.uint32(31) else np.uint32(bits | np.uint32(0x80000000))


_HIDDEN_BIN = 0x007F
"""Upper 16 bits of the key of -inf (excluded pairs); no finite value has them."""


@compiled
def _add_high(bits_RC, counts):  # type: ignore[no-untyped-def]
    for r in range(len(bits_RC)):
        for c in range(bits_RC.shape[1]):
            counts[_key(bits_RC[r, c]) >> np.uint32(16)] += 1


@compiled
def _add_low(bits_RC, place_of_bin, counts):  # type: ignore[no-untyped-def]
    for r in range(len(bits_RC)):
        for c in range(bits_RC.shape[1]):
            key = _key(bits_RC[r, c])
            place = place_of_bin[key >> np.uint32(16)]
            if place >= 0:
                counts[place, key & np.uint32(0xFFFF)] += 1


def _select(scored: ScoredPairs, high_counts: Ints, allowed: Sequence[int]) -> list[tuple[float, int]]:
    """For each allowed number of false positives: the lowest threshold that respects it, and their actual number."""
    at_or_above = np.cumsum(high_counts[::-1])[::-1]
    bins = [int(np.flatnonzero(at_or_above > count)[-1]) if at_or_above[0] > count else -1 for count in allowed]
    wanted = sorted(set(bins) - {-1})
    place_of_bin: NDArray[np.int64] = np.full(BINS, -1, dtype=np.int64)
    place_of_bin[wanted] = np.arange(len(wanted))
    low_counts: Ints = np.zeros((len(wanted), BINS), dtype=np.int64)
    for block in scored.blocks():
        _add_low(block.different_RC.view(np.uint32), place_of_bin, low_counts)
    found = []
    for count, high in zip(allowed, bins, strict=True):
        if high < 0:
            found.append((-float("inf"), int(at_or_above[0])))
            continue
        above = int(at_or_above[high + 1]) if high + 1 < BINS else 0
        inside = above + np.cumsum(low_counts[place_of_bin[high]][::-1])[::-1]
        low = int(np.flatnonzero(inside > count)[-1])  # the highest score that would exceed the allowed number
        num_false = int(inside[low + 1]) if low + 1 < BINS else above
        found.append((float(np.nextafter(_value((high << 16) | low), np.float32(np.inf))), num_false))
    return found


def _value(key: int) -> np.float32:
    bits = key & 0x7FFFFFFF if key >> 31 else key ^ 0xFFFFFFFF
    return np.array([bits], dtype=np.uint32).view(np.float32)[0]
