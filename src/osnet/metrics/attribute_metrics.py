"""Pedestrian attribute scores: label-based (mA), instance-based (accuracy, precision, recall, F1), and per attribute.

Definitions: Li et al., "A Richly Annotated Dataset for Pedestrian Attribute Recognition", 2016, section 4, as in the
PA-100K paper. A NaN label is unknown: it does not enter the attribute's counts, and in the instance-based scores it is
neither true nor predicted. An image without a known label is left out. Shapes: N images, A attributes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
THRESHOLD = 0.5
"""Default threshold: an attribute is predicted if its probability is at least this, as in the authors' code."""
LEAST_SUPPORT = 10
"""Least number of positives and of negatives needed to choose a threshold."""
Criterion = Literal["mA", "F1"]
ZERO_RULES = (
    "mA leaves out attributes without positives or without negatives; an image with no true and no predicted attribute "
    "counts as 1 in accuracy, precision and recall; an image with true but no predicted attributes counts as 0 in "
    "precision; one with predicted but no true attributes counts as 0 in recall; F1 is 0 if precision and recall are "
    "0; average precision is undefined without a positive"
)
"""How zero denominators are handled."""


@dataclass(frozen=True)
class AttributeRow:
    """Scores of one attribute, as fractions; None where the denominator is 0."""

    name: str
    positives: int
    negatives: int
    threshold: float
    recall: float | None
    """TP / P."""
    specificity: float | None
    """TN / N."""
    mean_accuracy: float | None
    """Mean of recall and specificity."""
    average_precision: float | None
    """Area under the stepwise precision-recall curve; equal scores form one step. Independent of the threshold."""


@dataclass(frozen=True)
class AttributeScores:
    """Scores of all attributes, as fractions; None where undefined (see ``ZERO_RULES``)."""

    mean_accuracy: float | None
    """mA: mean of (TP / P + TN / N) / 2 over attributes."""
    accuracy: float
    """Mean over images of |true and predicted| / |true or predicted|."""
    precision: float
    recall: float
    f1: float
    """2 P R / (P + R) of mean precision P and mean recall R, as papers report it (not the mean of per-image F1)."""
    rows: tuple[AttributeRow, ...]
    left_out: tuple[str, ...]
    """Attributes left out of mA, because they have no positives or no negatives."""
    num_images: int

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{'attribute':<26}{'threshold':>9}{'positives':>10}{'TP/P':>8}{'TN/N':>8}{'mA':>8}{'AP':>8}"]
        for row in self.rows:
            shown = (row.recall, row.specificity, row.mean_accuracy, row.average_precision)
            lines.append(
                f"{row.name:<26}{row.threshold:>9.2f}{row.positives:>10,}" + "".join(f"{_percent(v):>8}" for v in shown)
            )
        lines.append(
            f"mA {_percent(self.mean_accuracy)} %, accuracy {_percent(self.accuracy)} %, precision "
            f"{_percent(self.precision)} %, recall {_percent(self.recall)} %, F1 {_percent(self.f1)} % "
            f"over {self.num_images:,} images"
        )
        if self.left_out:
            lines.append(f"left out of mA (no positives or no negatives): {', '.join(self.left_out)}")
        return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def score_attributes(
    probabilities_NA: ArrayLike, labels_NA: ArrayLike, names: Sequence[str], thresholds: ArrayLike = THRESHOLD
) -> AttributeScores:
    """Score predicted attribute probabilities. ``ZERO_RULES`` says how zero denominators are handled.

    Args:
        probabilities_NA: (N, A), in [0, 1].
        labels_NA: (N, A), 0, 1 or NaN (unknown).
        names: A names.
        thresholds: one threshold, or one per attribute; an attribute is predicted if its probability is at least this.

    Raises:
        ValueError: shapes differ, there are no images with a known label, or a value is out of range.
    """
    probabilities, labels = _check(probabilities_NA, labels_NA, names)
    some = ~np.isnan(labels).all(1)
    if not some.any():
        raise ValueError(f"none of {len(labels)} images has a known label")
    probabilities, labels = probabilities[some], labels[some]
    limits = np.asarray(thresholds, dtype=np.float64)
    if limits.shape not in ((), (len(names),)) or np.isnan(limits).any():
        raise ValueError(f"thresholds {thresholds!r} must be one number, or {len(names)}: one for each name")
    limits = np.broadcast_to(limits, (len(names),))
    known, true = ~np.isnan(labels), labels == 1
    predicted = (probabilities >= limits) & known
    rows = tuple(
        _score_one(name, probabilities[known[:, a], a], true[known[:, a], a], float(limits[a]))
        for a, name in enumerate(names)
    )
    both, either = (true & predicted).sum(1), (true | predicted).sum(1)
    num_true, num_predicted = true.sum(1), predicted.sum(1)
    accuracy, precision, recall = (
        float(np.where(total > 0, both / np.maximum(total, 1), either == 0).mean())
        for total in (either, num_predicted, num_true)
    )
    defined = [row.mean_accuracy for row in rows if row.mean_accuracy is not None]
    return AttributeScores(
        mean_accuracy=float(np.mean(defined)) if defined else None,
        accuracy=accuracy,
        precision=precision,
        recall=recall,
        f1=2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        rows=rows,
        left_out=tuple(row.name for row in rows if row.mean_accuracy is None),
        num_images=len(labels),
    )


def average_precision(scores_N: Floats, true_N: NDArray[np.bool_]) -> float | None:
    """Sum of (increase in recall) x precision over distinct scores, highest first; None if there is no positive.

    ``scores_N`` and ``true_N`` are (N,).
    """
    if not true_N.any():
        return None
    order = np.argsort(-scores_N, kind="stable")
    hits = np.cumsum(true_N[order])
    last = np.append(
        np.flatnonzero(np.diff(scores_N[order])), len(order) - 1
    )  # index of the last item of each group of equal scores
    gained = np.diff(hits[last], prepend=0)
    return float((gained * hits[last] / (last + 1)).sum() / hits[-1])


def choose_thresholds(
    probabilities_NA: ArrayLike, labels_NA: ArrayLike, names: Sequence[str], criterion: Criterion = "F1"
) -> Floats:
    """Choose the best threshold per attribute: (A,), in [0, 1]. Use validation data, never test data.

    Candidates are 0.5 and the midpoints between consecutive probabilities; of equally good ones, the one closest to 0.5
    is taken. An attribute with fewer than ``LEAST_SUPPORT`` positives or negatives keeps 0.5, since a threshold chosen
    from so few would be chance.

    Args:
        probabilities_NA: (N, A), in [0, 1].
        labels_NA: (N, A), 0, 1 or NaN (unknown).
        names: A names.
        criterion: ``mA`` maximises (TP / P + TN / N) / 2: high recall of rare attributes, with many false positives.
            ``F1`` maximises 2 TP / (2 TP + FP + FN), which suits reading the predictions.

    Raises:
        ValueError: as for ``score_attributes``; or an unknown criterion.
    """
    if criterion not in get_args(Criterion):
        raise ValueError(f"unknown criterion {criterion!r}; choose from {', '.join(get_args(Criterion))}")
    probabilities, labels = _check(probabilities_NA, labels_NA, names)
    chosen = np.full(len(names), THRESHOLD)
    for a in range(len(names)):
        known = ~np.isnan(labels[:, a])
        values, true = probabilities[known, a], labels[known, a] == 1
        if min(true.sum(), (~true).sum()) < LEAST_SUPPORT:
            continue
        distinct = np.unique(values)
        candidates = np.append((distinct[1:] + distinct[:-1]) / 2, THRESHOLD)
        positives, negatives = np.sort(values[true]), np.sort(values[~true])
        found = len(positives) - np.searchsorted(positives, candidates)
        wrong = len(negatives) - np.searchsorted(negatives, candidates)
        if criterion == "mA":
            quality = (found / len(positives) + 1 - wrong / len(negatives)) / 2
        else:
            quality = 2 * found / (found + wrong + len(positives))
        quality = np.round(quality, 12)  # so that equal fractions compare equal despite rounding
        best = candidates[quality == quality.max()]
        chosen[a] = best[np.argmin(np.abs(best - THRESHOLD))]
    return chosen


def _check(probabilities_NA: ArrayLike, labels_NA: ArrayLike, names: Sequence[str]) -> tuple[Floats, Floats]:
    probabilities = np.asarray(probabilities_NA, dtype=np.float64)
    labels = np.asarray(labels_NA, dtype=np.float64)
    if probabilities.shape != labels.shape or probabilities.ndim != 2 or probabilities.shape[1] != len(names):
        raise ValueError(
            f"probabilities of shape {probabilities.shape}, labels of shape {labels.shape} and {len(names)} names do "
            "not agree; both arrays must be (images, names)"
        )
    if not len(labels):
        raise ValueError("no images to score; give at least one row")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("probabilities must be from 0 to 1; apply a sigmoid to logits first")
    if not np.isin(labels[~np.isnan(labels)], (0, 1)).all():
        raise ValueError("labels must be 0, 1 or NaN (unknown)")
    return probabilities, labels


def _score_one(name: str, values: Floats, true: NDArray[np.bool_], threshold: float) -> AttributeRow:
    positives, negatives = int(true.sum()), int((~true).sum())
    recall = float((values[true] >= threshold).mean()) if positives else None
    specificity = float((values[~true] < threshold).mean()) if negatives else None
    both = None if recall is None or specificity is None else (recall + specificity) / 2
    return AttributeRow(
        name, positives, negatives, threshold, recall, specificity, both, average_precision(values, true)
    )
