"""What a threshold costs: same or different (ROC), and who is it, if anybody (open-set identification).

A score is the cosine, or minus the squared Euclidean distance: higher is closer. Pairs are those of Market-1501's rule:
the same person in the same camera and junk are left out; every other pair counts, two people in one camera too.
No matrix is held; thresholds are exact for the float32 products, in two passes over the gallery.

Shapes: Q queries, G gallery, R x C one block, F rates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from osnet.metrics.matching_rules import Ints
from osnet.metrics.rank_counting import Distance, compile_function
from osnet.metrics.score_blocks import ScoredPairs

MIN_ERRORS = 30
"""A rate is supported if so many errors are allowed at it: the rule of 30 (Doddington et al., Speech Communication 31,
2000; ISO/IEC 19795-1, annex B), by which the true rate is within 30 % of the measured one, with 90 % confidence. It
takes errors for independent, which one person's are not: an interval over people is wider."""
DEFAULT_RATES = (1e-4, 1e-3, 1e-2, 1e-1)
WORDS = {
    "verification": ("pairs of one person in two cameras", "pairs of two people", "FPR", "TPR"),
    "identification": ("searches for people in the gallery", "for unknown people", "FPIR", "FNIR"),
}
BINS = 1 << 16


class NoPairsError(ValueError):
    """Nothing to decide: no pair of one person, none of two, or nobody who can be found."""


@dataclass(frozen=True)
class OperatingPoint:
    """What happens at one threshold: accept scores at or above it."""

    asked: float
    """The false positive rate that was asked for (FPR, or FPIR)."""
    threshold: float
    """The lowest at which the rate is not above ``asked``; -inf if every score may pass."""
    false_positive_rate: float
    """What it is there, in [0, asked]."""
    miss_rate: float
    """1 - TPR, or FNIR; in [0, 1]."""
    num_allowed: int
    """False positives that ``asked`` allows."""

    @property
    def supported(self) -> bool:
        """False if so few errors are allowed that the rate says little; see ``MIN_ERRORS``."""
        return self.num_allowed >= MIN_ERRORS


@dataclass(frozen=True)
class DecisionScores:
    """Operating points, by asked rate."""

    kind: str
    """``verification`` (same or different) or ``identification`` (open set)."""
    points: tuple[OperatingPoint, ...]
    num_positives: int
    """Pairs of one person in two cameras; or searches for people who are in the gallery."""
    num_negatives: int
    """Pairs of two people; or searches for people who are not in it."""

    def at(self, rate: float) -> OperatingPoint:
        """The point of an asked rate."""
        for point in self.points:
            if point.asked == rate:
                return point
        raise ValueError(f"rate {rate:g} was not asked for; there are {', '.join(f'{p.asked:g}' for p in self.points)}")

    def __str__(self) -> str:
        positives, negatives, rate, hit = WORDS[self.kind]
        lines = [f"{self.kind}: {self.num_positives:,} {positives}, {self.num_negatives:,} {negatives}"]
        for point in self.points:
            found = 1 - point.miss_rate if hit == "TPR" else point.miss_rate
            few = "" if point.supported else f"   allows {point.num_allowed} errors only, which says little"
            lines.append(f"  {rate} {point.asked:<7g} {hit} {100 * found:6.2f} %   score >= {point.threshold:.4f}{few}")
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
    """Is this the same person? The ROC at the false positive rates ``fprs``; many of them draw the whole curve.

    FPR is the share of pairs of different people whose score is at or above the threshold, TPR (1 - ``miss_rate``)
    that of pairs of the same person.

    Raises:
        ValueError: as ``rank_scores``; a rate outside [0, 1]; no pair of one of the two kinds.
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
        raise NoPairsError(f"{len(same_M)} pairs of one person and {num_different} of two; both kinds are needed")
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
    """Who is it, if anybody? FNIR at fixed FPIR, rank 1 (ISO/IEC 19795-1; NIST FRVT 1:N, Grother et al., NISTIR 8271).

    FPIR is the share of searches for people who are not in the gallery that return anybody at or above the threshold.
    FNIR is the share of searches for people who are in it that do not return them first, at or above the threshold.
    A query without a match is a search for somebody unknown. Every other query is searched twice: as it is, and with
    its own person taken out of the gallery, which makes it unknown.

    Raises:
        ValueError: as ``rank_scores``; a rate outside [0, 1]; no query with a match.
    """
    scored = ScoredPairs(query_QD, gallery_GD, (query_pids, gallery_pids, query_camids, gallery_camids), distance)
    _check_rates(fpirs, "fpirs")
    other_Q, found_Q, mate_Q = scored.best()
    mated = np.isfinite(mate_Q)
    if not mated.any():
        raise NoPairsError("no query has a match, so nobody can be identified")
    unknown = np.sort(other_Q[np.isfinite(other_Q)])  # where nobody else is there, nobody can be taken for him
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
    """What a threshold does to each query; for intervals over people. All (Q,)."""

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
    """Misses and false positives of each query at a threshold: of pairs, or (``identify``) of searches."""
    scored = ScoredPairs(query_QD, gallery_GD, (query_pids, gallery_pids, query_camids, gallery_camids), distance)
    if identify:
        other_Q, found_Q, mate_Q = scored.best()
        mated = np.isfinite(mate_Q)
        missed = mated & ~(found_Q & (mate_Q >= threshold))
        searches = np.ones(len(other_Q), dtype=np.int64)
        return QueryCounts(
            mated.astype(np.int64), missed.astype(np.int64), searches, (other_Q >= threshold).astype(int)
        )
    counts: Ints = np.zeros((4, len(scored.labels.query_pids)), dtype=np.int64)
    for block in scored.blocks():
        rows, real_RC = slice(block.first, block.first + len(block.different_RC)), block.different_RC > -np.inf
        counts[0] += np.bincount(block.queries, minlength=counts.shape[1])
        counts[1] += np.bincount(block.queries[block.same < threshold], minlength=counts.shape[1])
        counts[2, rows] += np.count_nonzero(real_RC, axis=1)
        counts[3, rows] += np.count_nonzero((block.different_RC >= threshold) & real_RC, axis=1)
    return QueryCounts(*counts)


def _check_rates(rates: Sequence[float], name: str) -> None:
    if not rates or not all(0 <= rate <= 1 for rate in rates):
        raise ValueError(f"{name} {tuple(rates)} must be at least one share from 0 to 1")


def _allowed(rate: float, count: int) -> int:
    """The largest number of errors that is not above the rate; 0.29 of 100 is 29, whatever the rounding."""
    return min(count, int(rate * count * (1 + 1e-12)))


# Selecting a value by its rank without keeping the values: count them by the upper half of their bits, then, in a
# second pass, by the lower half where the wanted rank lies (a radix sort's two steps).


@compile_function
def _key(bits):  # type: ignore[no-untyped-def]
    """Of a float32's bits: a whole number in the floats' order, in which -0 is 0."""
    if bits == np.uint32(0x80000000):
        bits = np.uint32(0)
    return np.uint32(~bits) if bits >> np.uint32(31) else np.uint32(bits | np.uint32(0x80000000))


_HIDDEN_BIN = 0x007F
"""The upper half of -inf's key; no finite number has it."""


@compile_function
def _add_high(bits_RC, counts):  # type: ignore[no-untyped-def]
    for r in range(len(bits_RC)):
        for c in range(bits_RC.shape[1]):
            counts[_key(bits_RC[r, c]) >> np.uint32(16)] += 1


@compile_function
def _add_low(bits_RC, place_of_bin, counts):  # type: ignore[no-untyped-def]
    for r in range(len(bits_RC)):
        for c in range(bits_RC.shape[1]):
            key = _key(bits_RC[r, c])
            place = place_of_bin[key >> np.uint32(16)]
            if place >= 0:
                counts[place, key & np.uint32(0xFFFF)] += 1


def _select(scored: ScoredPairs, high_counts: Ints, allowed: Sequence[int]) -> list[tuple[float, int]]:
    """For each number of allowed false positives: the lowest threshold that keeps to it, and how many there are."""
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
        low = int(np.flatnonzero(inside > count)[-1])  # the highest score that would be one too many
        num_false = int(inside[low + 1]) if low + 1 < BINS else above
        found.append((float(np.nextafter(_value((high << 16) | low), np.float32(np.inf))), num_false))
    return found


def _value(key: int) -> np.float32:
    bits = key & 0x7FFFFFFF if key >> 31 else key ^ 0xFFFFFFFF
    return np.array([bits], dtype=np.uint32).view(np.float32)[0]
