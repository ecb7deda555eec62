"""Weights + a benchmark with its protocol -> scores; of several splits each, their mean and deviation."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from osnet.data.reid.benchmark import Benchmark
from osnet.embedding.embedder import Embedder, OnError
from osnet.errors import DataError
from osnet.evaluation.evaluate import (
    EmbeddedSplit,
    check_leak,
    check_scorable,
    embed_split,
    evaluate,
    prepare_embedder,
    score_embedded,
)
from osnet.evaluation.results import Evaluation, Scoring, SplitEvaluation
from osnet.files import make_folder
from osnet.metrics.matching_rules import Rule
from osnet.metrics.rank_counting import Distance
from osnet.metrics.ranking import AveragePrecision
from osnet.models.network import Network
from osnet.progress import Progress, no_progress
from osnet.types import ReidDataset, Split


def evaluate_splits(
    weights: Embedder | Network | str | Path,
    datasets: Sequence[ReidDataset],
    *,
    rule: Rule = "market1501",
    distance: Distance = "cosine",
    ap: AveragePrecision = "precision",
    seed: int = 0,
    decisions: bool = False,
    both_distances: bool = False,
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
    scoring = Scoring(rule, distance, ap, seed, decisions, both_distances)
    for dataset in datasets:
        check_scorable(dataset)
    embedder = prepare_embedder(weights, "euclidean" if both_distances else distance)
    warnings = [check_leak(embedder.network, dataset, force) for dataset in datasets]
    crops = {crop.path: crop for dataset in datasets for split in dataset.splits[1:] for crop in split.crops}
    folder = make_folder(features) if features is not None else None
    images = embed_split(embedder, Split("images", tuple(crops.values())), folder, on_error, progress)
    found = []
    for dataset, warned in zip(datasets, warnings, strict=True):
        query, gallery = (_pick(images, split) for split in (dataset.query, dataset.gallery))
        found.append(score_embedded(embedder, dataset, query, gallery, scoring, warned))
    return SplitEvaluation.of(found)


def evaluate_benchmark(
    weights: Embedder | Network | str | Path,
    benchmark: Benchmark | ReidDataset,
    *,
    rule: Rule | None = None,
    distance: Distance = "cosine",
    ap: AveragePrecision = "precision",
    seed: int = 0,
    decisions: bool = False,
    both_distances: bool = False,
    force: bool = False,
    on_error: OnError = "raise",
    features: str | Path | None = None,
    progress: Progress = no_progress,
) -> Evaluation | SplitEvaluation:
    """Score weights by a benchmark's own protocol (``data.reid.catalog.read_benchmark``); the rest as ``evaluate``.

    The result says which form of the benchmark it is, what its owners or its protocol want known, and which published
    counts this copy does not have. It is a ``SplitEvaluation`` if the protocol has several splits.

    Args:
        benchmark: or a plain data set, of which there is nothing to say.
        rule: another one than the benchmark's; by default that, and Market-1501's for a plain data set.
    """
    datasets = (benchmark,) if isinstance(benchmark, ReidDataset) else benchmark.datasets
    usual: Rule = "market1501" if isinstance(benchmark, ReidDataset) else benchmark.rule
    facts = None if isinstance(benchmark, ReidDataset) else benchmark.facts()
    asked: dict[str, Any] = {
        "rule": rule or usual,
        "distance": distance,
        "ap": ap,
        "seed": seed,
        "decisions": decisions,
        "both_distances": both_distances,
        "force": force,
        "on_error": on_error,
        "features": features,
        "progress": progress,
    }
    result: Evaluation | SplitEvaluation = (
        evaluate(weights, datasets[0], **asked) if len(datasets) == 1 else evaluate_splits(weights, datasets, **asked)
    )
    return replace(result, benchmark=facts)


def _pick(images: EmbeddedSplit, split: Split) -> EmbeddedSplit:
    """One split's part of all embedded images."""
    row = {crop.path: i for i, crop in enumerate(images.split.crops)}
    kept = tuple(crop for crop in split.crops if crop.path in row)
    if not kept:
        raise DataError(f"no readable image is left in {split.name}")
    names = {str(crop.path) for crop in split.crops}
    failures = [failure for failure in images.failures if failure.name in names]
    return EmbeddedSplit(Split(split.name, kept), images.vectors[[row[crop.path] for crop in kept]], failures)
