"""Weights + data set, or vectors -> scores."""

from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from osnet.data.check import SplitCounts, count_split
from osnet.data.folder import read_dataset
from osnet.data.reid.benchmark import SplitName
from osnet.data.reid.catalog import BENCHMARKS, splits_overlap
from osnet.data.reid.market1501 import MARKET_FOLDER
from osnet.embedding.embedder import Embedder, Embeddings, OnError
from osnet.errors import DataError, ImageError
from osnet.evaluation.results import Evaluation, Scoring
from osnet.features.embedding_files import (
    embed_files,
    find_changed,
    read_vectors,
    save_vectors,
    stamp_of,
)
from osnet.features.labels import LabelledVectors
from osnet.files import make_folder
from osnet.metrics.matching_rules import Rule
from osnet.metrics.rank_counting import Distance
from osnet.metrics.ranking import AveragePrecision, RankingScores, rank_scores, summarize
from osnet.metrics.thresholds import DecisionScores, NoPairsError, identification_scores, verification_scores
from osnet.models.network import Network
from osnet.progress import Progress, no_progress
from osnet.runtime.distributed import embed_shared, gather_bytes, gather_interleaved, join_processes
from osnet.types import DISTRACTOR_PID, ReidDataset, Split

RANKS = (1, 5, 10, 20)
COMBINED = "_combineall"
"""Training data so called (``msmt17_combineall``, ``market1501+msmt17_combineall``) hold test images."""


def evaluate(
    weights: Embedder | Network | str | Path,
    dataset: ReidDataset | str | Path,
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
) -> Evaluation:
    """Embed query and gallery, rank, score. Under torchrun the processes share both, and all get the result.

    Args:
        weights: an embedder (``Embedder(..., flip=True)`` averages mirrored crops), a network, or what ``Embedder``
            takes.
        dataset: a data set, or a folder that ``read_dataset`` understands.
        rule: ``market1501``, or ``cuhk03`` (single gallery shot).
        distance: ``cosine``; or ``euclidean``, between vectors as the network gives them, not of length 1.
        ap: ``precision``, or ``trapezoid`` as in Market-1501's official script; see ``AveragePrecision``.
        seed: of CUHK03's draws.
        decisions: ROC and open-set identification too; see ``metrics.decisions``.
        both_distances: ranking scores by the other distance too, from the same vectors: ``scores_by_distance``.
        force: evaluate even where the weights were trained on the test images; the result says so.
        on_error: ``raise`` stops at an unreadable image; ``skip`` leaves it out and says so.
        features: a folder that keeps the vectors (``query.npz``, ``gallery.npz``; of any length: ``query-raw.npz``,
            ``gallery-raw.npz``, and then both). A run that was cut off goes on from there, and a finished one is not
            embedded again.
        progress: draws a bar.

    Raises:
        DataError: no data set there, no queries or no gallery, a query labelled as nobody, no query with a match, or
            weights that were trained on this benchmark's test images.
        ImageError: an unreadable image, if ``on_error`` is ``raise``.
    """
    scoring = Scoring(rule, distance, ap, seed, decisions, both_distances)
    data = dataset if isinstance(dataset, ReidDataset) else read_dataset(dataset)
    check_scorable(data)
    embedder = prepare_embedder(weights, "euclidean" if both_distances else distance)
    warnings = check_leak(embedder.network, data, force)
    query, gallery = embed_dataset(embedder, data, on_error, features, progress)
    return score_embedded(embedder, data, query, gallery, scoring, warnings)


def score_embedded(
    embedder: Embedder,
    data: ReidDataset,
    query: "EmbeddedSplit",
    gallery: "EmbeddedSplit",
    scoring: Scoring,
    warnings: Sequence[str] = (),
) -> Evaluation:
    """The second half of ``evaluate``, for vectors that are there already."""
    vectors = [part.labelled() for part in (query, gallery)]
    if query.failures or gallery.failures:  # the only matches may be among them
        _check_matches(vectors[0], vectors[1], f"{data.root} without the images that cannot be read")
    scores, by_distance = _score_distances(vectors[0], vectors[1], scoring)
    return Evaluation(
        dataset=data.name,
        root=str(data.root),
        counts={split.name: count_split(split) for split in (data.train, query.split, gallery.split)},
        weights=describe_weights(embedder),
        scores=summarize(scores, RANKS),
        num_queries=len(query.split),
        num_scored=scores.num_scored,
        unmatched=tuple(vectors[0].names[q] for q in scores.unmatched),
        unreadable=tuple(str(failure) for failure in [*query.failures, *gallery.failures]),
        protocol=str(scoring),
        warnings=(*warnings, *_check_distance(embedder, scoring)),
        decisions=_decide(vectors[0], vectors[1], scoring),
        scores_by_distance=by_distance,
    )


def evaluate_vectors(
    query: LabelledVectors,
    gallery: LabelledVectors,
    *,
    rule: Rule = "market1501",
    distance: Distance = "cosine",
    ap: AveragePrecision = "precision",
    seed: int = 0,
    decisions: bool = False,
    both_distances: bool = False,
    name: str = "vectors",
    root: str = "",
) -> Evaluation:
    """Score anybody's vectors (``inference.labelled.read_labelled`` reads them from files); arguments as ``evaluate``.

    Raises:
        DataError: vectors or labels that cannot be scored; the message says why.
    """
    scoring = Scoring(rule, distance, ap, seed, decisions, both_distances)
    if len(query) and (query.pids > DISTRACTOR_PID).all():
        _check_matches(query, gallery, root or name)
    try:
        (scores, by_distance), points = _score_distances(query, gallery, scoring), _decide(query, gallery, scoring)
    except ValueError as error:
        raise DataError(f"{root or name}: {error}") from error
    return Evaluation(
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
        decisions=points,
        scores_by_distance=by_distance,
    )


def _decide(query: LabelledVectors, gallery: LabelledVectors, scoring: Scoring) -> tuple[DecisionScores, ...]:
    """Same or different, and who if anybody; a kind without pairs or searches is left out."""
    arrays = (query.vectors, gallery.vectors, query.pids, gallery.pids, query.camids, gallery.camids)
    found = []
    for score in (verification_scores, identification_scores) if scoring.decisions else ():
        with suppress(NoPairsError):
            found.append(score(*arrays, distance=scoring.distance))
    return tuple(found)


def _score_distances(
    query: LabelledVectors, gallery: LabelledVectors, scoring: Scoring
) -> tuple[RankingScores, dict[str, dict[str, float | None]]]:
    """By the scoring's distance; and a summary by each, if both are wanted, that one first."""
    scores = score_shared(query, gallery, scoring)
    if not scoring.both_distances:
        return scores, {}
    other: Distance = "euclidean" if scoring.distance == "cosine" else "cosine"
    also = score_shared(query, gallery, replace(scoring, distance=other))
    return scores, {scoring.distance: summarize(scores, RANKS), other: summarize(also, RANKS)}


def _check_distance(embedder: Embedder, scoring: Scoring) -> list[str]:
    """A note where the published figures of these weights are by the other distance."""
    card = embedder.card
    if card is None or card.distance in (None, scoring.distance):
        return []
    return [f"the published figures of these weights are by {card.distance} distance; "
            f"this score is by {scoring.distance} distance"]  # fmt: skip


def _count(part: LabelledVectors) -> SplitCounts:
    people, cameras = np.unique(part.pids[part.pids > DISTRACTOR_PID]), np.unique(part.camids[part.camids >= 0])
    return SplitCounts(len(people), len(part), len(cameras))


def score_shared(query: LabelledVectors, gallery: LabelledVectors, scoring: Scoring) -> RankingScores:
    """``rank_scores``; under torchrun each process ranks some of the queries and all get the same scores.

    A query's ranks do not depend on the other queries (see ``metrics.streaming``), so the scores are equal to the last
    bit from any number of processes.
    """
    rank, size = join_processes()
    mine = rank_scores(
        query.vectors[rank::size], gallery.vectors, query.pids[rank::size], gallery.pids, query.camids[rank::size],
        gallery.camids, max(RANKS), distance=scoring.distance, rule=scoring.rule, ap=scoring.ap, seed=scoring.seed,
    )  # fmt: skip
    if size == 1:
        return mine
    shots = mine.single_shot_ranks_RQ
    return RankingScores.of_queries(
        gather_interleaved(mine.ap_per_query),
        gather_interleaved(mine.inp_per_query),
        gather_interleaved(mine.first_rank_per_query),
        num_gallery=len(gallery), max_rank=max(RANKS),
        single_shot_ranks_RQ=None if shots is None else gather_interleaved(shots, axis=1),
    )  # fmt: skip


def prepare_embedder(weights: Embedder | Network | str | Path, distance: Distance) -> Embedder:
    """An embedder whose vectors suit the distance: for the Euclidean one, not brought to length 1."""
    embedder = weights if isinstance(weights, Embedder) else Embedder(weights)
    if distance == "euclidean" and embedder.normalize:
        embedder = copy(embedder)
        embedder.normalize = False
    return embedder


def describe_weights(embedder: Embedder) -> dict[str, Any]:
    """What a result says about the weights."""
    card = embedder.card
    return {
        "name": (card and card.name) or "an unnamed network",
        "training_data": card.training_data if card else "random weights",
        "network_sha256": embedder.sha256(),
        "file_sha256": card.sha256 if card else "",
        "size_hw": embedder.preprocessing.size_hw,
        "flip": embedder.flip,
    }


def check_scorable(data: ReidDataset) -> None:
    """Raises ``DataError`` for a data set without queries or gallery, or with queries of nobody."""
    for split in (data.query, data.gallery):
        if not len(split):
            raise DataError(f"{data.root} has no {split.name} images, so nothing can be scored")
    if nobody := [crop.path.name for crop in data.query.crops if crop.pid <= DISTRACTOR_PID]:
        raise DataError(f"{len(nobody)} queries are labelled junk or distractor: {', '.join(nobody[:5])}")
    _check_matches(data.query, data.gallery, str(data.root))


def _check_matches(query: Split | LabelledVectors, gallery: Split | LabelledVectors, where: str) -> None:
    """Raises ``DataError`` if no query can be scored: nobody is in the gallery, or in the query's own camera alone."""
    cameras: dict[int, set[int]] = {}
    for pid, camid in zip(gallery.pids, gallery.camids, strict=True):
        cameras.setdefault(int(pid), set()).add(int(camid))
    pairs = [(int(pid), int(camid)) for pid, camid in zip(query.pids, query.camids, strict=True)]
    if any(cameras.get(pid, set()) - {camid} for pid, camid in pairs):
        return
    same = sum(pid in cameras for pid, _ in pairs)
    raise DataError(
        f"{where}: none of the {len(pairs)} queries has a match, so nothing can be scored: {len(pairs) - same} show "
        f"people that are not in the gallery, {same} people that are there in the query's own camera only, which the "
        "protocol ignores; check the identities and the cameras"
    )


def check_leak(network: Network, data: ReidDataset, force: bool) -> list[str]:
    """Weights must not have seen the test images: no ``combine_all``, and no other random split of the same people.

    A benchmark is known by what it is (``ReidDataset.benchmark``) or by the name that the user gave it, not by the
    folder that it lies in. Of a data set that is no benchmark, only the name is known.
    """
    trained_on = network.card.training_data if network.card else ""
    tested_on = _told_name(data)
    if other := next((name for name in trained_on.split("+") if splits_overlap(name, tested_on)), None):
        told = f"weights of {trained_on!r} were trained on people that {data.name} tests on: both divide the same ones"
        if not force:
            raise DataError(f"{told}; score them on {other}, or say that it is to be forced")
        return [f"{told}: this score says nothing about new people"]
    benchmarks = trained_on.removesuffix(COMBINED).split("+") if trained_on.endswith(COMBINED) else []
    split = SplitName.parse(tested_on)
    names = {name.lower() for name in (tested_on, data.benchmark, split.benchmark if split else "")} - {""}
    benchmark = next((name for name in benchmarks if name.lower() in names), None)
    if benchmark is None:
        return []
    told = f"weights of {trained_on!r} were trained on the test images of {benchmark}"
    if not force:
        raise DataError(
            f"{told}, so a score on {data.root} would mean nothing; use weights of its training split "
            f"({benchmark!r}), another data set, or say that it is to be forced"
        )
    return [f"{told}: this score says nothing about new people"]


def _told_name(data: ReidDataset) -> str:
    """The data set's name; empty if it is a benchmark's and comes from the folder alone."""
    if data.benchmark:
        return data.name
    folder = data.root.resolve().name
    from_folder = data.name == folder or (data.name, folder) == ("market1501", MARKET_FOLDER)
    split = SplitName.parse(data.name)
    return "" if from_folder and (split.benchmark if split else data.name.lower()) in BENCHMARKS else data.name


class EmbeddedSplit(NamedTuple):
    """A split without what could not be read, its vectors, and what could not be read."""

    split: Split
    vectors: NDArray[np.float32]
    failures: Sequence[ImageError]

    def labelled(self) -> LabelledVectors:
        """With the labels of its crops."""
        pids, camids = (np.array(labels, dtype=np.int64) for labels in (self.split.pids, self.split.camids))
        return LabelledVectors(self.vectors, pids, camids, tuple(map(str, self.split.paths)))


def embed_dataset(
    embedder: Embedder, data: ReidDataset, on_error: OnError, features: str | Path | None, progress: Progress
) -> tuple[EmbeddedSplit, EmbeddedSplit]:
    """Query and gallery; arguments as for ``evaluate``.

    Raises:
        DataError: kept vectors of other weights or images; or nothing readable is left.
        ImageError: an unreadable image, if ``on_error`` is ``raise``.
    """
    folder = make_folder(features) if features is not None else None
    query, gallery = (embed_split(embedder, split, folder, on_error, progress) for split in (data.query, data.gallery))
    for part in (query, gallery):
        if not len(part.split):
            raise DataError(f"{data.root}: no readable image is left in {part.split.name}")
    return query, gallery


def embed_split(
    embedder: Embedder, split: Split, folder: Path | None, on_error: OnError, progress: Progress
) -> EmbeddedSplit:
    """One split; what a folder keeps of it is used. What is raised: see ``embed_dataset``."""
    rank, size = join_processes()
    out = folder / f"{split.name}{'' if embedder.normalize else '-raw'}.npz" if folder is not None else None
    there = out is not None and out.exists()
    if size > 1:  # one process decides for all: the file may appear while they look
        there = gather_bytes(b"1" if there else b"0")[0] == b"1"
    if out is not None and there:
        result = _read_back(out, embedder, split, on_error)
    elif size > 1:
        stamps = {str(path): stamp_of(str(path)) for path in split.paths} if out is not None and rank == 0 else {}
        result = embed_shared(embedder, split.paths, on_error)
        if out is not None and rank == 0:
            save_vectors(out, result, embedder.sha256(), stamps)
    elif out is None:
        result = embedder.embed_named(progress(split.paths, len(split), split.name), on_error=on_error)
    else:
        result = embed_files(
            embedder, split.paths, out, on_error=on_error, progress=progress, label=split.name, overwrite=False
        )
    if out is not None and not embedder.normalize and rank == 0:
        _keep_unit_length(out.with_name(f"{split.name}.npz"), result, embedder.sha256())
    crops = {str(crop.path): crop for crop in split.crops}
    kept = tuple(crops[name] for name in result.names)
    return EmbeddedSplit(Split(split.name, kept), result.vectors, result.failures)


def _keep_unit_length(out: Path, result: Embeddings, sha256: str) -> None:
    """The same vectors of length 1, which searches, calibration and figures take; once."""
    lengths = np.linalg.norm(result.vectors, axis=1, keepdims=True)
    if not out.exists() and (lengths > 0).all():
        save_vectors(out, replace(result, vectors=result.vectors / lengths), sha256)


def _read_back(out: Path, embedder: Embedder, split: Split, on_error: OnError) -> Embeddings:
    """Vectors that an earlier run kept, if they are of these weights and these images."""
    result, made_by = read_vectors(out)
    there = {*result.names, *(failure.name for failure in result.failures)}
    another = "delete it or choose another folder"
    if made_by != embedder.sha256():
        raise DataError(
            f"{out} holds vectors that were made otherwise: by other weights, for another input size, or with another "
            f"--flip; {another}"
        )
    if there != {str(path) for path in split.paths}:
        raise DataError(f"{out} holds vectors of other images; {another}")
    if changed := find_changed(out):
        raise DataError(
            f"{len(changed)} images have changed since {out} was made ({', '.join(changed[:3])}); {another}"
        )
    if result.failures and on_error == "raise":
        raise result.failures[0]
    return result
