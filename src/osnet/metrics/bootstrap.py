"""Bootstrap confidence intervals that resample identities, because queries of one person are not independent."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

NUM_RESAMPLES = 2000
DRAWS = 1 << 22
"""Largest number of clusters drawn at once (32 MiB); at least one resample."""
COVERAGE = 0.95
"""Confidence level of the intervals."""


@dataclass(frozen=True)
class Interval:
    """A mean or a ratio with its confidence interval."""

    mean: float
    low: float
    high: float
    num_clusters: int
    """Number of resampled units: people, or pairs of people."""

    @property
    def excludes_zero(self) -> bool:
        """True if 0 lies outside the interval: the difference is significant."""
        return self.low > 0 or self.high < 0


def cluster_interval(
    values: ArrayLike, clusters: ArrayLike, seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> Interval:
    """Mean of ``values`` with a 95 % percentile interval; clusters are resampled as a whole, with replacement.

    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, sections 8 and 13. To compare two systems, pass the
    differences of their scores on the same queries: this gives a paired interval. The interval covers the choice of
    people, not the training: other seeds may differ by more.

    Args:
        values: (Q,); NaN (a query without a match) is left out.
        clusters: (Q,); cluster of each value, for instance the identity.
        seed: seed of the resampling.
        num_resamples: number of bootstrap samples, at least 1.

    Raises:
        ValueError: lengths differ, fewer than two clusters have a value, or ``num_resamples`` is below 1.
    """
    numbers = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(numbers)
    return ratio_interval(np.where(known, numbers, 0), known, clusters, seed, num_resamples)


def ratio_interval(
    parts: ArrayLike, wholes: ArrayLike, clusters: ArrayLike, seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> Interval:
    """Ratio of two sums, such as false positives over pairs, with an interval computed as in ``cluster_interval``.

    Args:
        parts: (Q,); numerators.
        wholes: (Q,), >= 0; denominators. Rows with 0 are left out.
        clusters: (Q,); cluster of each row, for instance the identity.
        seed: seed of the resampling.
        num_resamples: number of bootstrap samples, at least 1.

    Raises:
        ValueError: as ``cluster_interval``.
    """
    numbers, counts = np.asarray(parts, dtype=np.float64), np.asarray(wholes, dtype=np.float64)
    names = np.asarray(clusters)
    if numbers.ndim != 1 or numbers.shape != names.shape or counts.shape != names.shape:
        raise ValueError(
            f"values of shape {numbers.shape}, denominators of shape {counts.shape} and clusters of shape "
            f"{names.shape} must be 1-D and equally long"
        )
    if num_resamples < 1:
        raise ValueError(f"num_resamples {num_resamples} must be at least 1")
    known = counts > 0
    unique, index = np.unique(names[known], return_inverse=True)
    if len(unique) < 2:
        raise ValueError(f"{len(unique)} clusters have a value; an interval needs at least two")
    part_sums, whole_sums = (np.bincount(index, weights=x[known]) for x in (numbers, counts))
    rng, step = np.random.default_rng(seed), max(1, DRAWS // len(unique))
    ratios = []
    for start in range(0, num_resamples, step):
        drawn = rng.integers(0, len(unique), (min(step, num_resamples - start), len(unique)))
        ratios.append(part_sums[drawn].sum(1) / whole_sums[drawn].sum(1))
    low, high = np.quantile(np.concatenate(ratios), [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Interval(float(part_sums.sum() / whole_sums.sum()), float(low), float(high), len(unique))


def pair_interval(
    first_K: ArrayLike,
    second_K: ArrayLike,
    counts_K: ArrayLike,
    queries_C: ArrayLike,
    items_C: ArrayLike,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> Interval:
    """Share of the pairs of two people that are counted, with a 95 % percentile interval; people are resampled.

    A person of a resample brings all queries and all gallery items of that person. ``cluster_interval`` over the people
    of the queries alone would be too narrow, because all queries meet the same people in the gallery.

    Args:
        first_K: (K,); for counted pairs of a query and a gallery item, the index of the query's person.
        second_K: (K,); index of the gallery item's person, which is another one.
        counts_K: (K,); number of counted pairs of these two.
        queries_C: (C,); number of queries of each person.
        items_C: (C,); number of gallery items of each person.
        seed: seed of the resampling.
        num_resamples: number of bootstrap samples, at least 1.

    Raises:
        ValueError: there is no pair of two people, or ``num_resamples`` is below 1.
    """
    first, second = np.asarray(first_K, dtype=np.int64), np.asarray(second_K, dtype=np.int64)
    counts, queries, items = (np.asarray(x, dtype=np.float64) for x in (counts_K, queries_C, items_C))
    num_people, num_pairs = len(queries), float(queries.sum() * items.sum() - queries @ items)
    if num_pairs <= 0 or num_resamples < 1:
        raise ValueError(
            f"{num_pairs:.0f} pairs of two people and num_resamples {num_resamples}; both must be at least 1"
        )
    rng, step = np.random.default_rng(seed), max(1, DRAWS // num_people)
    counted_CC = torch.sparse_coo_tensor(
        torch.from_numpy(np.stack([first, second])),
        torch.from_numpy(counts),
        (num_people, num_people),
        check_invariants=True,
    ).coalesce()
    shares = []
    for start in range(0, num_resamples, step):
        drawn = rng.integers(0, num_people, (min(step, num_resamples - start), num_people))
        times_CR = np.stack([np.bincount(row, minlength=num_people) for row in drawn], axis=1).astype(np.float64)
        found = (times_CR * torch.sparse.mm(counted_CC, torch.from_numpy(times_CR)).numpy()).sum(0)
        pairs = (queries @ times_CR) * (items @ times_CR) - (queries * items) @ times_CR**2
        shares.append(found[pairs > 0] / pairs[pairs > 0])
    low, high = np.quantile(np.concatenate(shares), [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Interval(float(counts.sum() / num_pairs), float(low), float(high), num_people)
