"""How sure a difference is: bootstrap intervals over people, since one person's queries are alike."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

NUM_RESAMPLES = 2000
COVERAGE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean, or a ratio, and where it may lie."""

    mean: float
    low: float
    high: float
    num_clusters: int
    """What was resampled: people, or pairs of people."""

    @property
    def excludes_zero(self) -> bool:
        """True if a difference has been shown."""
        return self.low > 0 or self.high < 0


def cluster_interval(
    values: ArrayLike, clusters: ArrayLike, seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> Interval:
    """The mean of ``values`` with a 95 % percentile interval, from drawing whole clusters with replacement.

    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, sections 8 and 13. For two systems' scores of
    the same queries, give the differences: the interval is then a paired one. It speaks of other people of the
    same kind under the same weights; how another training seed would do is not in it.

    Args:
        values: (Q,); NaN (queries without a match) is left out.
        clusters: (Q,); what belongs together, such as identities.
        seed: of the draws.
        num_resamples: how many.

    Raises:
        ValueError: lengths that differ, or fewer than two clusters with a value.
    """
    numbers = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(numbers)
    return ratio_interval(np.where(known, numbers, 0), known, clusters, seed, num_resamples)


def ratio_interval(
    parts: ArrayLike, wholes: ArrayLike, clusters: ArrayLike, seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> Interval:
    """The ratio of two sums, such as false positives of all pairs, with an interval as ``cluster_interval`` draws it.

    Args:
        parts: (Q,); what is counted.
        wholes: (Q,), not negative; out of how many. Rows with 0 are left out.
        clusters: (Q,); what belongs together, such as identities.
        seed: of the draws.
        num_resamples: how many.

    Raises:
        ValueError: lengths that differ, or fewer than two clusters with a value.
    """
    numbers, counts = np.asarray(parts, dtype=np.float64), np.asarray(wholes, dtype=np.float64)
    names = np.asarray(clusters)
    if numbers.ndim != 1 or numbers.shape != names.shape or counts.shape != names.shape:
        raise ValueError(f"values {numbers.shape} and clusters {names.shape} must be two lists of one length")
    known = counts > 0
    unique, index = np.unique(names[known], return_inverse=True)
    if len(unique) < 2:
        raise ValueError(f"{len(unique)} clusters with a value; an interval needs at least two")
    part_sums, whole_sums = (np.bincount(index, weights=x[known]) for x in (numbers, counts))
    drawn = np.random.default_rng(seed).integers(0, len(unique), (num_resamples, len(unique)))
    ratios = part_sums[drawn].sum(1) / whole_sums[drawn].sum(1)
    low, high = np.quantile(ratios, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Interval(float(part_sums.sum() / whole_sums.sum()), float(low), float(high), len(unique))
