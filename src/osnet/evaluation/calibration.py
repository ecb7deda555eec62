"""A validation set -> a score threshold, and what it costs: so many strangers taken for the same, so many missed."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from osnet.data.check import SplitCounts, count_split
from osnet.data.folder import read_dataset
from osnet.embedding.embedder import Embedder, OnError
from osnet.errors import DataError
from osnet.evaluation.evaluate import check_leak, check_scorable, describe_weights, embed_dataset, prepare_embedder
from osnet.metrics.bootstrap import Interval, ratio_interval
from osnet.metrics.thresholds import MIN_ERRORS, count_decisions, identification_scores, verification_scores
from osnet.models.network import Network
from osnet.progress import Progress, no_progress
from osnet.types import ReidDataset

KINDS = {
    "verification": ("pairs of different people", "pairs of one person in two cameras", "FPR", "missed (1 - TPR)"),
    "identification": ("searches for unknown people", "searches for people in the gallery", "FPIR", "FNIR, rank 1"),
}


@dataclass(frozen=True)
class Calibration:
    """A threshold on the cosine score: accept at or above it. Rates are fractions; prints itself."""

    kind: str
    """``verification``: is it the same person; ``identification``: who is it, if anybody."""
    asked: float
    """The false positive rate that was asked for."""
    threshold: float
    """In [-1, 1]."""
    false_positives: Interval
    """The rate on this set, with a 95 % interval over query identities."""
    misses: Interval
    """1 - TPR, or FNIR; with the same kind of interval."""
    num_negatives: int
    num_positives: int
    dataset: str
    counts: dict[str, SplitCounts]
    weights: dict[str, Any]
    warnings: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    """Images left out because they could not be read, with the reasons."""

    def to_json(self) -> dict[str, Any]:
        """Everything, for a file."""
        return asdict(self)

    def __str__(self) -> str:
        negatives, positives, false_name, miss_name = KINDS[self.kind]
        lines = [
            f"{self.kind} with {self.weights['name']} on {self.dataset}: "
            f"accept at a cosine of {self.threshold:.4f} or more",
            f"{false_name:<16} {_show(self.false_positives)} of {self.num_negatives:,} {negatives}",
            f"{miss_name:<16} {_show(self.misses)} of {self.num_positives:,} {positives}",
            "95 % intervals over people; other cameras, clothes or seasons need a threshold of their own",
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
    """The lowest threshold at which the false positive rate on this set is not above what was asked.

    Give one of the two rates. ``fpr``: two crops are compared; of pairs of different people so many may pass (see
    ``metrics.decisions.verification_scores``). ``fpir``: a crop is searched for in a gallery of this set's size; of
    searches for unknown people so many may return anybody (``identification_scores``). A larger gallery returns
    more at the same threshold.

    Args:
        weights: as for ``evaluate``; so are the arguments that follow ``fpir``.
        dataset: people of your own, whom the weights were not trained on.
        fpr: in (0, 1).
        fpir: in (0, 1).

    Raises:
        DataError: not exactly one rate, or one that so few pairs or searches cannot support (the message says which
            they could); a data set that cannot be scored.
        ImageError: an unreadable image, if ``on_error`` is ``raise``.
    """
    rate = _pick_rate(fpr, fpir)
    data = dataset if isinstance(dataset, ReidDataset) else read_dataset(dataset)
    check_scorable(data)
    _check_size(data, rate, identify=fpir is not None)
    embedder = prepare_embedder(weights, "cosine")
    warnings = check_leak(embedder.network, data, force)
    embedded = embed_dataset(embedder, data, on_error, features, progress)
    query, gallery = (part.labelled() for part in embedded)
    arrays = (query.vectors, gallery.vectors, query.pids, gallery.pids, query.camids, gallery.camids)
    score = verification_scores if fpr is not None else identification_scores
    try:
        found = score(*arrays, (rate,))
    except ValueError as error:
        raise DataError(f"{data.root}: {error}") from error
    point = found.at(rate)
    _refuse_small(data, rate, found.num_negatives, found.num_positives, found.kind)
    per_query = count_decisions(*arrays, point.threshold, identify=fpir is not None)
    return Calibration(
        kind=found.kind,
        asked=rate,
        threshold=point.threshold,
        false_positives=ratio_interval(per_query.num_false, per_query.num_negatives, query.pids),
        misses=ratio_interval(per_query.num_missed, per_query.num_positives, query.pids),
        num_negatives=found.num_negatives,
        num_positives=found.num_positives,
        dataset=data.name,
        counts={part.split.name: count_split(part.split) for part in embedded},
        weights=describe_weights(embedder),
        warnings=tuple(warnings),
        unreadable=tuple(str(failure) for part in embedded for failure in part.failures),
    )


def _pick_rate(fpr: float | None, fpir: float | None) -> float:
    if (fpr is None) == (fpir is None):
        raise DataError("give either fpr (same or different?) or fpir (who is it, if anybody?)")
    rate = fpr if fpr is not None else fpir
    assert rate is not None
    if not 0 < rate < 1:
        raise DataError(f"a false positive rate of {rate:g} cannot be calibrated for; give a share between 0 and 1")
    return rate


def _check_size(data: ReidDataset, rate: float, identify: bool) -> None:
    """Before anything is embedded: no more can be there than this."""
    kind = "identification" if identify else "verification"
    most = len(data.query) * (1 if identify else len(data.gallery))
    _refuse_small(data, rate, most, most, kind)


def _refuse_small(data: ReidDataset, rate: float, num_negatives: int, num_positives: int, kind: str) -> None:
    negatives, positives, false_name, _ = KINDS[kind]
    if rate * num_negatives < MIN_ERRORS:
        lowest = MIN_ERRORS / max(num_negatives, 1)
        could = f"ask for {lowest:.2g} or more, or bring more people" if lowest < 1 else "bring more people"
        raise DataError(
            f"{data.root}: {num_negatives:,} {negatives} allow {rate * num_negatives:.3g} errors at {false_name} "
            f"{rate:g}, too few to tell the rate (at least {MIN_ERRORS}); {could}"
        )
    if num_positives < MIN_ERRORS:
        raise DataError(
            f"{data.root}: {num_positives:,} {positives} are too few to say what is missed (at least {MIN_ERRORS}); "
            "bring more people"
        )
    if len(np.unique(data.query.pids)) < 2:
        raise DataError(f"{data.root}: an interval over people needs at least two of them among the queries")
