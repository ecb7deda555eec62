"""Scores of attributes: by label (mA), by instance (accuracy, precision, recall, F1), and one row per attribute.

Definitions: Li et al., "A Richly Annotated Dataset for Pedestrian Attribute Recognition", 2016, section 4, and
PA-100K's paper after it. Shapes: N images, A attributes. A label of NaN is unknown: it is left out of the attribute's
counts, and counts neither as true nor as predicted in its image.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
THRESHOLD = 0.5
"""At or above it an attribute is predicted, as the authors' code has it."""
LEAST_SUPPORT = 10
"""Positives, and negatives, that it takes to choose a threshold."""
Criterion = Literal["mA", "F1"]
ZERO_RULES = (
    "mA leaves out attributes without a positive or without a negative; an image with nothing true and nothing "
    "predicted counts 1 in accuracy, precision and recall; one with nothing predicted else counts 0 in precision, one "
    "with nothing true else 0 in recall; F1 of precision 0 and recall 0 is 0; average precision needs a positive"
)
"""What is done where a denominator is 0."""


@dataclass(frozen=True)
class AttributeRow:
    """One attribute. Fractions; None where a denominator is 0."""

    name: str
    positives: int
    negatives: int
    threshold: float
    recall: float | None
    """Of its positives, those found: TP / P."""
    specificity: float | None
    """Of its negatives, those left alone: TN / N."""
    mean_accuracy: float | None
    """The mean of the two."""
    average_precision: float | None
    """Area under precision over recall as steps, ties together; independent of the threshold."""


@dataclass(frozen=True)
class AttributeScores:
    """All scores are fractions; None where nothing defines them."""

    mean_accuracy: float | None
    """mA: over attributes, (TP / P + TN / N) / 2."""
    accuracy: float
    """Mean over images of |true and predicted| / |true or predicted|."""
    precision: float
    recall: float
    f1: float
    """2 P R / (P + R) of the mean precision and the mean recall, as the field reports it."""
    rows: tuple[AttributeRow, ...]
    left_out: tuple[str, ...]
    """Attributes that are not in mA."""
    num_images: int

    def to_json(self) -> dict[str, Any]:
        """Everything, for a file."""
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
            lines.append(f"not in mA, for want of positives or negatives: {', '.join(self.left_out)}")
        return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def score_attributes(
    probabilities_NA: ArrayLike, labels_NA: ArrayLike, names: Sequence[str], thresholds: ArrayLike = THRESHOLD
) -> AttributeScores:
    """All scores. Zero denominators: see ``ZERO_RULES``.

    Args:
        probabilities_NA: in [0, 1].
        labels_NA: 0, 1 or NaN.
        names: A names.
        thresholds: one, or one per attribute; at or above it the attribute is predicted.

    Raises:
        ValueError: shapes that do not agree, no images, or numbers outside these ranges.
    """
    probabilities, labels = _check(probabilities_NA, labels_NA, names)
    limits = np.broadcast_to(np.asarray(thresholds, dtype=np.float64), (len(names),))
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
    """Sum over distinct scores, from the highest, of (recall gained) x precision; None without a positive."""
    if not true_N.any():
        return None
    order = np.argsort(-scores_N, kind="stable")
    hits = np.cumsum(true_N[order])
    last = np.append(np.flatnonzero(np.diff(scores_N[order])), len(order) - 1)  # the last of each tie
    gained = np.diff(hits[last], prepend=0)
    return float((gained * hits[last] / (last + 1)).sum() / hits[-1])


def choose_thresholds(
    probabilities_NA: ArrayLike, labels_NA: ArrayLike, names: Sequence[str], criterion: Criterion = "F1"
) -> Floats:
    """For each attribute the threshold that is best by a criterion: (A,), in [0, 1]. On validation, never on test.

    Candidates are 0.5 and the middles between neighbouring probabilities; among equals the one nearest to 0.5.
    An attribute with fewer positives or negatives than ``LEAST_SUPPORT`` keeps 0.5: a threshold would be chance.

    Args:
        probabilities_NA: in [0, 1].
        labels_NA: 0, 1 or NaN.
        names: A names.
        criterion: ``mA``: (TP / P + TN / N) / 2, which finds rare attributes and calls them out far too often; ``F1``:
            2 TP / (2 TP + FP + FN), which is what someone who reads the answers wants.

    Raises:
        ValueError: as ``score_attributes``.
    """
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
        quality = np.round(quality, 12)  # so that equal fractions are equal
        best = candidates[quality == quality.max()]
        chosen[a] = best[np.argmin(np.abs(best - THRESHOLD))]
    return chosen


def _check(probabilities_NA: ArrayLike, labels_NA: ArrayLike, names: Sequence[str]) -> tuple[Floats, Floats]:
    probabilities = np.asarray(probabilities_NA, dtype=np.float64)
    labels = np.asarray(labels_NA, dtype=np.float64)
    if probabilities.shape != labels.shape or probabilities.ndim != 2 or probabilities.shape[1] != len(names):
        raise ValueError(f"probabilities {probabilities.shape}, labels {labels.shape} and {len(names)} names disagree")
    if not len(labels):
        raise ValueError("no images to score")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("probabilities outside 0 to 1; apply the sigmoid first")
    if not np.isin(labels[~np.isnan(labels)], (0, 1)).all():
        raise ValueError("labels other than 0, 1 and NaN")
    return probabilities, labels


def _score_one(name: str, values: Floats, true: NDArray[np.bool_], threshold: float) -> AttributeRow:
    positives, negatives = int(true.sum()), int((~true).sum())
    recall = float((values[true] >= threshold).mean()) if positives else None
    specificity = float((values[~true] < threshold).mean()) if negatives else None
    both = None if recall is None or specificity is None else (recall + specificity) / 2
    return AttributeRow(
        name, positives, negatives, threshold, recall, specificity, both, average_precision(values, true)
    )
