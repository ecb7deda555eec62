"""Calibrate a score threshold on validation data, and report its false positives and misses."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from osnet.data.check import SplitCounts, count_split
from osnet.data.folder import read_dataset
from osnet.embedding.embedder import Embedder, OnError
from osnet.errors import DataError
from osnet.evaluation.checks import check_leak, check_scorable
from osnet.evaluation.split_embeddings import describe_weights, embed_dataset, make_embedder
from osnet.metrics.bootstrap import Interval, pair_interval, ratio_interval
from osnet.metrics.thresholds import (
    MIN_ERRORS,
    count_decisions,
    count_false_pairs,
    identification_scores,
    verification_scores,
)
from osnet.models.network import Network
from osnet.progress import Progress, no_progress
from osnet.types import ReidDataset

KINDS = {
    "verification": ("pairs of different people", "pairs of one person in two cameras", "FPR", "missed (1 - TPR)"),
    "identification": ("searches for unknown people", "searches for people in the gallery", "FPIR", "FNIR, rank 1"),
}

PEOPLE = {"verification": "people", "identification": "people who are searched for, in this gallery"}
"""Over whom the intervals are, by kind."""


@dataclass(frozen=True)
class Calibration:
    """A threshold on the cosine and its error rates, as fractions. Scores at or above the threshold are accepted."""

    kind: str
    """``verification`` (same person or not) or ``identification`` (open-set search)."""
    asked: float
    """The requested false positive rate."""
    threshold: float
    """The threshold, in [-1, 1]."""
    false_positives: Interval
    """False positive rate on this data, with a 95 % interval: for pairs over all identities, as queries and in the
    gallery; for searches over query identities, with the gallery as it is."""
    misses: Interval
    """Miss rate (1 - TPR, or FNIR), with a 95 % interval over query identities."""
    num_negatives: int
    """Number of pairs of different people, or of searches for people who are not in the gallery."""
    num_positives: int
    """Number of pairs of one person in two cameras, or of searches for people in the gallery."""
    dataset: str
    """Name of the data set."""
    counts: dict[str, SplitCounts]
    """Sizes of what was scored of ``query`` and ``gallery``."""
    weights: dict[str, Any]
    """Facts about the weights: name, training data, digests, input size, flip."""
    warnings: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    """Images that were left out because they could not be read, with the reasons."""

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        negatives, positives, false_name, miss_name = KINDS[self.kind]
        lines = [
            f"{self.kind} with {self.weights['name']} on {self.dataset}: "
            f"accept at a cosine of {self.threshold:.4f} or more",
            f"{false_name:<16} {_show(self.false_positives)} of {self.num_negatives:,} {negatives}",
            f"{miss_name:<16} {_show(self.misses)} of {self.num_positives:,} {positives}",
            f"95 % intervals over {PEOPLE[self.kind]}; calibrate again for other cameras, clothes or seasons",
        ]
        if self.unreadable:
            lines.append(f"{len(self.unreadable)} left out: {', '.join(self.unreadable[:5])}")
        return "\n".join(lines + [f"note: {warning}" for warning in self.warnings])


def _show(interval: Interval) -> str:
    return f"{100 * interval.mean:.4g} % [{100 * interval.low:.4g}, {100 * interval.high:.4g}]"


def calibrate(
    weights: Embedder | Network | str | Path,
    dataset: ReidDataset | str | Path,
    *,
    fpr: float | None = None,
    fpir: float | None = None,
    force: bool = False,
    on_error: OnError = "raise",
    features: str | Path | None = None,
    progress: Progress = no_progress,
) -> Calibration:
    """Find the lowest threshold whose false positive rate on this data is at most the requested one.

    Give exactly one rate. ``fpr`` is for comparing two crops: the share of pairs of different people that are accepted
    (see ``thresholds.verification_scores``). ``fpir`` is for searching a gallery: the share of searches for people who
    are not in it that return a hit (see ``thresholds.identification_scores``). It holds for a gallery of this size; a
    larger one has more false positives at the same threshold.

    Args:
        weights: weights, network or embedder, as for ``evaluate``.
        dataset: data set of people that the weights were not trained on.
        fpr: requested false positive rate of pairs, in (0, 1).
        fpir: requested false positive rate of searches, in (0, 1).
        force: calibrate even if the weights were trained on the test images; the result then has a warning.
        on_error: ``raise`` an error for an image that cannot be read, or ``skip`` it and list it in ``unreadable``.
        features: a folder where embeddings are stored, as for ``evaluate``.
        progress: draws a progress bar.

    Raises:
        DataError: not exactly one rate is given, the data set has too few pairs or searches for the rate (the message
            has the lowest possible rate), or it cannot be evaluated.
        ImageError: an image cannot be read and ``on_error`` is ``raise``.
    """
    rate = _pick_rate(fpr, fpir)
    data = dataset if isinstance(dataset, ReidDataset) else read_dataset(dataset)
    check_scorable(data)
    _check_size(data, rate, identify=fpir is not None)
    embedder = make_embedder(weights, [data])
    warnings = check_leak(embedder.card, data, force)
    embedded = embed_dataset(embedder, data, on_error, features, progress)
    query, gallery = (part.labelled() for part in embedded)
    arrays = (query.vectors, gallery.vectors, query.pids, gallery.pids, query.camids, gallery.camids)
    score = verification_scores if fpr is not None else identification_scores
    try:
        scores = score(*arrays, (rate,))
    except ValueError as error:
        raise DataError(f"{data.root}: {error}") from error
    point = scores.at(rate)
    _refuse_small(data, rate, scores.num_negatives, scores.num_positives, scores.kind)
    if not np.isfinite(point.threshold):
        raise DataError(f"{data.root}: {scores.num_negatives:,} {KINDS[scores.kind][0]} all pass {rate:g}; add people")
    per_query = count_decisions(*arrays, point.threshold, identify=fpir is not None)
    if len(np.unique(query.pids[per_query.num_positives > 0])) < 2:
        raise DataError(
            f"{data.root}: all {KINDS[scores.kind][1]} show one identity; an interval over identities needs at least "
            "two. Add people"
        )
    if fpr is None:
        false_positives = ratio_interval(per_query.num_false, per_query.num_negatives, query.pids)
    else:
        pairs = count_false_pairs(*arrays, point.threshold)
        false_positives = pair_interval(pairs.first_K, pairs.second_K, pairs.counts_K, pairs.queries_C, pairs.items_C)
    return Calibration(
        kind=scores.kind,
        asked=rate,
        threshold=point.threshold,
        false_positives=false_positives,
        misses=ratio_interval(per_query.num_missed, per_query.num_positives, query.pids),
        num_negatives=scores.num_negatives,
        num_positives=scores.num_positives,
        dataset=data.name,
        counts={part.split.name: count_split(part.split) for part in embedded},
        weights=describe_weights(embedder),
        warnings=tuple(warnings),
        unreadable=tuple(str(failure) for part in embedded for failure in part.failures),
    )


def _pick_rate(fpr: float | None, fpir: float | None) -> float:
    if (fpr is None) == (fpir is None):
        raise DataError(f"fpr is {fpr} and fpir is {fpir}; give exactly one: fpr (of pairs) or fpir (of searches)")
    rate = fpr if fpr is not None else fpir
    assert rate is not None
    if not 0 < rate < 1:
        raise DataError(f"the false positive rate {rate:g} must be more than 0 and less than 1")
    return rate


def _check_size(data: ReidDataset, rate: float, identify: bool) -> None:
    """Raise an error before embedding if the data set is certainly too small for the rate."""
    kind = "identification" if identify else "verification"
    upper_bound = len(data.query) * (1 if identify else len(data.gallery))
    _refuse_small(data, rate, upper_bound, upper_bound, kind)


def _refuse_small(data: ReidDataset, rate: float, num_negatives: int, num_positives: int, kind: str) -> None:
    negatives, positives, false_name, _ = KINDS[kind]
    if rate * num_negatives < MIN_ERRORS:
        lowest = MIN_ERRORS / max(num_negatives, 1)
        advice = f"request a rate of {lowest:.2g} or more, or add people" if lowest < 1 else "add people"
        raise DataError(
            f"{data.root}: {num_negatives:,} {negatives} allow {rate * num_negatives:.3g} errors at {false_name} "
            f"{rate:g}, too few to estimate the rate (at least {MIN_ERRORS} are needed); {advice}"
        )
    if num_positives < MIN_ERRORS:
        raise DataError(
            f"{data.root}: {num_positives:,} {positives} are too few to estimate the miss rate (at least "
            f"{MIN_ERRORS} are needed); add people"
        )
    if len(np.unique(data.query.pids)) < 2:
        raise DataError(
            f"{data.root}: all queries show one identity; an interval over identities needs at least two. Add people"
        )
