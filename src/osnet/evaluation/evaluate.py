"""Evaluate weights on a data set or a benchmark, or embeddings that any program computed."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from osnet.data.check import SplitCounts, count_split
from osnet.data.folder import read_dataset
from osnet.data.reid.benchmark import Benchmark
from osnet.embedding.embedder import Embedder, OnError
from osnet.errors import DataError
from osnet.evaluation.checks import (
    check_leak,
    check_lengths,
    check_matches,
    check_scorable,
    warn_about_copies,
    warn_about_equal_vectors,
)
from osnet.evaluation.results import Evaluation, SplitEvaluation
from osnet.evaluation.scoring import DEFAULT_RULE, DEFAULT_SCORING, Scoring
from osnet.evaluation.split_embeddings import (
    EmbeddedSplit,
    describe_weights,
    embed_dataset,
    embed_union,
    keep_lengths,
    make_embedder,
)
from osnet.features.labels import LabelledVectors
from osnet.metrics.rank_counting import Distance
from osnet.metrics.ranking import RankingScores, rank_scores, summarize
from osnet.metrics.thresholds import DecisionScores, NoPairsError, identification_scores, verification_scores
from osnet.models.network import Network
from osnet.progress import Progress, no_progress
from osnet.runtime.distributed import gather_interleaved, join_processes
from osnet.types import DISTRACTOR_PID, ReidDataset

RANKS = (1, 5, 10, 20)
"""Ranks of the cumulative match curve that results report."""


def evaluate(
    weights: Embedder | Network | str | Path,
    data: ReidDataset | Benchmark | Sequence[ReidDataset] | str | Path,
    *,
    scoring: Scoring = DEFAULT_SCORING,
    force: bool = False,
    on_error: OnError = "raise",
    features: str | Path | None = None,
    progress: Progress = no_progress,
) -> Evaluation:
    """Score weights on a data set, or on each split of a benchmark: CMC, mAP, mINP.

    Published scores of a benchmark with several splits are for weights trained on each split's own training part. One
    set of weights for all splits is right for weights that were trained on other data.

    Under torchrun the processes share the work, and each gets the whole result.

    Args:
        weights: an embedder (``Embedder(..., flip=True)`` averages mirrored crops), a network, or what ``Embedder``
            accepts: a path or a short name.
        data: a data set; a folder that ``read_dataset`` understands; a benchmark from ``read_benchmark``; or several
            data sets, the splits of one protocol in its order.
        scoring: how embeddings are scored. ``rule=None`` is the rule of the benchmark.
        force: evaluate even if the weights were trained on the test images; the result then has a warning.
        on_error: ``raise`` an error for an image that cannot be read, or ``skip`` it and list it in ``unreadable``.
        features: a folder where embeddings are stored. An interrupted run is resumed from them, and a finished one is
            not embedded again. The files are ``query.npz`` and ``gallery.npz`` (``images.npz`` for several splits),
            and the same with ``-raw`` for embeddings that are not normalized.
        progress: draws a progress bar.

    Returns:
        The scores of each split, and their mean. A data set without splits counts as one split.

    Raises:
        DataError: there is no data set, it has no queries, no gallery or no query with a match, a query is labelled
            junk or distractor, the weights were trained on its test images, or ``features`` has embeddings of other
            weights or images.
        ImageError: an image cannot be read and ``on_error`` is ``raise``.
        WeightsError: the weights do not exist or are damaged.
    """
    if isinstance(data, str | Path):
        data = read_dataset(data)
    benchmark = data if isinstance(data, Benchmark) else None
    datasets = data.datasets if isinstance(data, Benchmark) else (data,) if isinstance(data, ReidDataset) else data
    if not datasets:
        raise DataError("the data has 0 splits to evaluate; give at least one data set")
    for dataset in datasets:
        check_scorable(dataset)
    embedder = make_embedder(weights, datasets)
    card = embedder.card
    scoring = scoring.resolve(benchmark.rule if benchmark else DEFAULT_RULE, card.distance if card else None)
    if scoring.needs_lengths:
        embedder = keep_lengths(embedder)
    warnings = [check_leak(embedder.card, dataset, force) for dataset in datasets]
    if len(datasets) == 1:
        embedded = [embed_dataset(embedder, datasets[0], on_error, features, progress)]
    else:
        embedded = embed_union(embedder, datasets, on_error, features, progress)
    splits = [
        _score_split(embedder, dataset, parts, scoring, split_warnings)
        for dataset, parts, split_warnings in zip(datasets, embedded, warnings, strict=True)
    ]
    return Evaluation.of(splits, benchmark.facts() if benchmark else None)


def evaluate_features(
    query: LabelledVectors,
    gallery: LabelledVectors,
    *,
    scoring: Scoring = DEFAULT_SCORING,
    name: str = "vectors",
    root: str = "",
) -> Evaluation:
    """Score embeddings that any program computed. ``read_labelled`` reads them from files.

    Args:
        query: embeddings of the queries with their labels.
        gallery: embeddings of the gallery with their labels.
        scoring: how embeddings are scored.
        name: name of the data set in the result.
        root: where the embeddings come from, for the result and for errors.

    Returns:
        The scores, as one split.

    Raises:
        DataError: embeddings or labels that cannot be scored, such as queries without any match; for Euclidean
            distances, only one of the parts is normalised.
    """
    scoring = scoring.resolve()
    if len(query) and (query.pids > DISTRACTOR_PID).all():
        check_matches(query, gallery, root or name)
    try:
        if scoring.needs_lengths:
            check_lengths(query.vectors, gallery.vectors, root or name)
        scores, by_distance = _score_distances(query, gallery, scoring)
        decisions = _score_decisions(query, gallery, scoring)
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"{root or name}: {error}") from error
    result = SplitEvaluation(
        dataset=name,
        root=root,
        counts={"query": _count(query), "gallery": _count(gallery)},
        weights={"name": "of these vectors", "training_data": "unknown"},
        scores=summarize(scores, RANKS),
        num_queries=len(query),
        num_scored=scores.num_scored,
        unmatched=tuple(query.names[q] for q in scores.unmatched),
        unreadable=(),
        protocol=str(scoring),
        warnings=tuple(warn_about_equal_vectors(query, gallery)),
        decisions=decisions,
        scores_by_distance=by_distance,
    )
    return Evaluation.of([result])


def rank_shared(query: LabelledVectors, gallery: LabelledVectors, scoring: Scoring) -> RankingScores:
    """Compute ``rank_scores``; under torchrun each process ranks a part of the queries, and all get all scores.

    The ranks of a query do not depend on the other queries (see ``metrics.rank_counting``). The scores are therefore
    equal to the last bit for any number of processes.
    """
    rank, size = join_processes()
    part = rank_scores(
        query.vectors[rank::size],
        gallery.vectors,
        query.pids[rank::size],
        gallery.pids,
        query.camids[rank::size],
        gallery.camids,
        max(RANKS),
        distance=scoring.chosen_distance,
        rule=scoring.chosen_rule,
        ap=scoring.ap,
        seed=scoring.seed,
    )
    if size == 1:
        return part
    shots = part.single_shot_ranks_RQ
    return RankingScores.of_queries(
        gather_interleaved(part.ap_per_query),
        gather_interleaved(part.inp_per_query),
        gather_interleaved(part.first_rank_per_query),
        num_gallery=len(gallery),
        max_rank=max(RANKS),
        single_shot_ranks_RQ=None if shots is None else gather_interleaved(shots, axis=1),
    )


def _score_split(
    embedder: Embedder,
    data: ReidDataset,
    parts: tuple[EmbeddedSplit, EmbeddedSplit],
    scoring: Scoring,
    warnings: Sequence[str],
) -> SplitEvaluation:
    query, gallery = (part.labelled() for part in parts)
    failures = [failure for part in parts for failure in part.failures]
    if failures:  # the images of the only matches may be missing
        check_matches(query, gallery, f"{data.root} without the images that cannot be read")
    scores, by_distance = _score_distances(query, gallery, scoring)
    return SplitEvaluation(
        dataset=data.name,
        root=str(data.root),
        counts={split.name: count_split(split) for split in (data.train, *(part.split for part in parts))},
        weights=describe_weights(embedder),
        scores=summarize(scores, RANKS),
        num_queries=len(query),
        num_scored=scores.num_scored,
        unmatched=tuple(query.names[q] for q in scores.unmatched),
        unreadable=tuple(str(failure) for failure in failures),
        protocol=str(scoring),
        warnings=(
            *warnings,
            *_warn_about_distance(embedder, scoring),
            *warn_about_copies(*(part.split for part in parts)),
        ),
        decisions=_score_decisions(query, gallery, scoring),
        scores_by_distance=by_distance,
    )


def _score_distances(
    query: LabelledVectors, gallery: LabelledVectors, scoring: Scoring
) -> tuple[RankingScores, dict[str, dict[str, float | None]]]:
    """Scores by the scoring's distance. With ``both_distances`` also a summary by distance, that one first."""
    scores = rank_shared(query, gallery, scoring)
    if not scoring.both_distances:
        return scores, {}
    distance = scoring.chosen_distance
    other: Distance = "euclidean" if distance == "cosine" else "cosine"
    other_scores = rank_shared(query, gallery, replace(scoring, distance=other))
    return scores, {distance: summarize(scores, RANKS), other: summarize(other_scores, RANKS)}


def _score_decisions(query: LabelledVectors, gallery: LabelledVectors, scoring: Scoring) -> tuple[DecisionScores, ...]:
    """Verification and open-set identification, if the scoring asks for them. A kind without pairs is left out."""
    arrays = (query.vectors, gallery.vectors, query.pids, gallery.pids, query.camids, gallery.camids)
    results = []
    for score in (verification_scores, identification_scores) if scoring.decisions else ():
        with suppress(NoPairsError):
            results.append(score(*arrays, distance=scoring.chosen_distance))
    return tuple(results)


def _warn_about_distance(embedder: Embedder, scoring: Scoring) -> list[str]:
    """A warning if the published scores of these weights use the other distance."""
    card = embedder.card
    if card is None or card.distance in (None, scoring.distance):
        return []
    return [
        f"the published scores of these weights are by {card.distance} distance; "
        f"this score is by {scoring.distance} distance"
    ]


def _count(part: LabelledVectors) -> SplitCounts:
    identities, cameras = np.unique(part.pids[part.pids > DISTRACTOR_PID]), np.unique(part.camids[part.camids >= 0])
    return SplitCounts(len(identities), len(part), len(cameras))
