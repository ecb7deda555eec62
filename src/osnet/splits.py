"""Weights + the several splits of a benchmark -> scores of each, their mean and deviation."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from osnet.errors import DataError
from osnet.evaluation import (
    EmbeddedSplit,
    Evaluation,
    Scoring,
    check_leak,
    check_scorable,
    embed_split,
    prepare_embedder,
    score_embedded,
)
from osnet.files import make_folder
from osnet.inference.embedder import Embedder, OnError
from osnet.inference.vectors import Progress, no_progress
from osnet.metrics.ranking import AveragePrecision
from osnet.metrics.rules import Rule
from osnet.metrics.streaming import Distance
from osnet.models.network import Network
from osnet.types import ReidDataset, Split


@dataclass(frozen=True)
class SplitEvaluation:
    """What ``evaluate_splits`` found: one ``Evaluation`` per split, in order."""

    name: str
    evaluations: tuple[Evaluation, ...]
    mean: dict[str, float | None]
    """Of each score over the splits, as fractions; None if a split has none."""
    deviation: dict[str, float | None]
    """Sample standard deviation over the splits (n - 1); None for a single split."""

    def to_json(self) -> dict[str, Any]:
        """Everything, for a file."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{self.name}, {len(self.evaluations)} splits"]
        for score, mean in self.mean.items():
            spread = self.deviation[score]
            values = [evaluation.scores[score] for evaluation in self.evaluations]
            each = " ".join("none" if value is None else f"{100 * value:.2f}" for value in values)
            shown = "none" if mean is None else f"{100 * mean:6.2f} %"
            lines.append(f"{score:<8} {shown}" + ("" if spread is None else f" +- {100 * spread:.2f}") + f"   ({each})")
        notes = dict.fromkeys(warning for evaluation in self.evaluations for warning in evaluation.warnings)
        return "\n".join([*lines, self.evaluations[0].protocol, *(f"note: {note}" for note in notes)])


def evaluate_splits(
    weights: Embedder | Network | str | Path,
    datasets: Sequence[ReidDataset],
    *,
    rule: Rule = "market1501",
    distance: Distance = "cosine",
    ap: AveragePrecision = "precision",
    seed: int = 0,
    decisions: bool = False,
    force: bool = False,
    on_error: OnError = "raise",
    features: str | Path | None = None,
    progress: Progress = no_progress,
) -> SplitEvaluation:
    """Score the same weights on each split of a protocol, such as VIPeR's or CUHK03's twenty.

    Published figures of such a benchmark are for weights trained on each split's own training half; one set of weights
    is right for weights from elsewhere.

    Args:
        weights: as for ``evaluate``; loaded once.
        datasets: at least one, in the protocol's order.
        rule: ``market1501`` or ``cuhk03``; the rest too is as for ``evaluate``.
        features: a folder that keeps the vectors (``images.npz``); an image of several splits is embedded once.

    Raises:
        DataError: no data set, or one that cannot be scored.
        ImageError: an unreadable image, if ``on_error`` is ``raise``.
    """
    if not datasets:
        raise DataError("no splits to evaluate; give at least one data set")
    scoring = Scoring(rule, distance, ap, seed, decisions)
    for dataset in datasets:
        check_scorable(dataset)
    embedder = prepare_embedder(weights, distance)
    warnings = [check_leak(embedder.network, dataset, force) for dataset in datasets]
    crops = {crop.path: crop for dataset in datasets for split in dataset.splits[1:] for crop in split.crops}
    folder = make_folder(features) if features is not None else None
    images = embed_split(embedder, Split("images", tuple(crops.values())), folder, on_error, progress)
    found = []
    for dataset, warned in zip(datasets, warnings, strict=True):
        query, gallery = (_pick(images, split) for split in (dataset.query, dataset.gallery))
        found.append(score_embedded(embedder, dataset, query, gallery, scoring, warned))
    mean: dict[str, float | None] = {}
    deviation: dict[str, float | None] = {}
    for score in found[0].scores:
        values = [value for evaluation in found if (value := evaluation.scores[score]) is not None]
        whole = len(values) == len(found)
        mean[score] = statistics.fmean(values) if whole else None
        deviation[score] = statistics.stdev(values) if whole and len(values) > 1 else None
    return SplitEvaluation(datasets[0].name, tuple(found), mean, deviation)


def _pick(images: EmbeddedSplit, split: Split) -> EmbeddedSplit:
    """One split's part of all embedded images."""
    row = {crop.path: i for i, crop in enumerate(images.split.crops)}
    kept = tuple(crop for crop in split.crops if crop.path in row)
    if not kept:
        raise DataError(f"no readable image is left in {split.name}")
    names = {str(crop.path) for crop in split.crops}
    failures = [failure for failure in images.failures if failure.name in names]
    return EmbeddedSplit(Split(split.name, kept), images.vectors[[row[crop.path] for crop in kept]], failures)
