"""How sure a difference is: bootstrap intervals over people, since one person's queries are alike."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

NUM_RESAMPLES = 2000
COVERAGE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and where it may lie."""

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
    numbers, names = np.asarray(values, dtype=np.float64), np.asarray(clusters)
    if numbers.ndim != 1 or numbers.shape != names.shape:
        raise ValueError(f"values {numbers.shape} and clusters {names.shape} must be two lists of one length")
    known = ~np.isnan(numbers)
    unique, index = np.unique(names[known], return_inverse=True)
    if len(unique) < 2:
        raise ValueError(f"{len(unique)} clusters with a value; an interval needs at least two")
    sums = np.bincount(index, weights=numbers[known])
    counts = np.bincount(index)
    drawn = np.random.default_rng(seed).integers(0, len(unique), (num_resamples, len(unique)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Interval(float(numbers[known].mean()), float(low), float(high), len(unique))
