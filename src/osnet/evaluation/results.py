"""Results of evaluations: of one split, of all splits of a data set, and averages over several runs."""

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from osnet.data.check import SplitCounts
from osnet.data.reid.benchmark import BenchmarkFacts, SplitName
from osnet.errors import DataError
from osnet.evaluation.scoring import DEFAULT_SCORING
from osnet.metrics.thresholds import WORDS, DecisionScores

Scores = dict[str, float | None]
"""Scores by name, as fractions: mAP, mINP, rank-1, rank-5, rank-10, rank-20. None if no query has a match."""


@dataclass(frozen=True)
class SplitEvaluation:
    """Scores on one split: one query set and one gallery."""

    dataset: str
    """Name of the split, or of the data set if it has only one."""
    root: str
    """Folder of the data set, or files of the embeddings."""
    counts: dict[str, SplitCounts]
    """Sizes of ``train``, and of what was scored of ``query`` and ``gallery``."""
    weights: dict[str, Any]
    """Facts about the weights: name, training data, digests of the network and of its file, input size, flip."""
    scores: Scores
    num_queries: int
    num_scored: int
    """Number of queries that have a match."""
    unmatched: tuple[str, ...]
    """Queries without a match in another camera. They are not counted in any score."""
    unreadable: tuple[str, ...]
    """Images that were left out because they could not be read, with the reasons."""
    protocol: str = str(DEFAULT_SCORING)
    """Rule, distance and convention of the scores, in words."""
    warnings: tuple[str, ...] = ()
    decisions: tuple[DecisionScores, ...] = ()
    """TPR at fixed FPR, and FNIR at fixed FPIR, with their thresholds; empty unless ``Scoring.decisions``."""
    scores_by_distance: dict[str, Scores] = field(default_factory=dict)
    """``scores`` and the scores by the other distance, by name of the distance; empty unless
    ``Scoring.both_distances``."""


@dataclass(frozen=True)
class Evaluation:
    """The result of ``evaluate``: scores of each split, and their mean. ``print`` shows percent."""

    name: str
    """Name of the data set or benchmark."""
    splits: tuple[SplitEvaluation, ...]
    """At least one, in the order of the protocol. A data set without splits counts as one."""
    scores: Scores
    """Mean of each score over the splits; None if a split has no such score."""
    deviations: Scores
    """Sample standard deviation (n - 1) of each score over the splits; None for a single split."""
    benchmark: BenchmarkFacts | None = None
    """Form of the benchmark, notes on its protocol and differences of this copy; None for another data set."""

    @classmethod
    def of(cls, splits: Sequence[SplitEvaluation], benchmark: BenchmarkFacts | None = None) -> "Evaluation":
        """Make the result of at least one split."""
        mean, deviations = _mean_and_deviation([split.scores for split in splits])
        name = splits[0].dataset
        parsed = SplitName.parse(name)
        if len(splits) > 1 and parsed is not None:
            name = parsed.benchmark
        return cls(name, tuple(splits), mean, deviations, benchmark)

    @property
    def weights(self) -> dict[str, Any]:
        """Facts about the weights, which are the same for all splits; see ``SplitEvaluation.weights``."""
        return self.splits[0].weights

    @property
    def num_queries(self) -> int:
        """Number of queries, over all splits."""
        return sum(split.num_queries for split in self.splits)

    @property
    def num_scored(self) -> int:
        """Number of queries that have a match, over all splits."""
        return sum(split.num_scored for split in self.splits)

    @property
    def unmatched(self) -> tuple[str, ...]:
        """Queries without a match in another camera, over all splits."""
        return tuple(dict.fromkeys(name for split in self.splits for name in split.unmatched))

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Images that could not be read, with the reasons, over all splits."""
        return tuple(dict.fromkeys(name for split in self.splits for name in split.unreadable))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about the scores, over all splits."""
        return tuple(dict.fromkeys(warning for split in self.splits for warning in split.warnings))

    @property
    def protocol(self) -> str:
        """Rule, distance and convention of the scores, in words."""
        return self.splits[0].protocol

    def to_json(self) -> dict[str, Any]:
        """The content of the file that ``osnet evaluate --out`` writes.

        For one split these are its fields and ``benchmark``. For several they are ``name``, ``evaluations`` (a list
        with the fields of each), ``mean``, ``deviation`` and ``benchmark``.
        """
        benchmark = None if self.benchmark is None else asdict(self.benchmark)
        if len(self.splits) == 1:
            return _split_to_json(self.splits[0], benchmark)
        return {
            "name": self.name,
            "evaluations": tuple(_split_to_json(split, None) for split in self.splits),
            "mean": self.scores,
            "deviation": self.deviations,
            "benchmark": benchmark,
        }

    def __str__(self) -> str:
        lines = _describe_single(self) if len(self.splits) == 1 else _describe_several(self)
        if self.benchmark is not None:
            lines += str(self.benchmark).splitlines()
        return "\n".join([*lines, *(f"note: {warning}" for warning in self.warnings)])


def _split_to_json(split: SplitEvaluation, benchmark: dict[str, Any] | None) -> dict[str, Any]:
    content = asdict(split)
    for point in (point for scores in content["decisions"] for point in scores["points"]):
        if point["threshold"] == -math.inf:  # JSON has no infinity
            point["threshold"] = None
    by_distance = content.pop("scores_by_distance")
    return {**content, "benchmark": benchmark, "scores_by_distance": by_distance}


def _describe_single(result: Evaluation) -> list[str]:
    split = result.splits[0]
    form = f" ({result.benchmark.variant})" if result.benchmark is not None and result.benchmark.variant else ""
    lines = _describe_scored(f"{split.dataset}{form}", [split])
    columns = split.scores_by_distance or {"": split.scores}
    if split.scores_by_distance:
        lines.append(" " * 8 + "".join(f" {distance:>10}" for distance in columns))
    width = 10 if split.scores_by_distance else 1
    lines += [
        f"{name:<8}" + "".join(f" {_percent(column[name]):>{width}}" for column in columns.values())
        for name in split.scores
    ]
    lines.append(f"over {split.num_scored:,} of {split.num_queries:,} queries")
    lines += map(str, split.decisions)
    lines += _describe_left_out(result)
    if split.protocol != str(DEFAULT_SCORING) or split.scores_by_distance:
        lines.append(split.protocol)
    return lines


def _describe_several(result: Evaluation) -> list[str]:
    splits = result.splits
    lines = _describe_scored(f"{result.name}, {len(splits)} splits", splits)
    lines += _describe_means(result.scores, result.deviations, [split.scores for split in splits])
    for distance in list(splits[0].scores_by_distance)[1:]:
        scores = [split.scores_by_distance[distance] for split in splits]
        lines += [f"by {distance} distance", *_describe_means(*_mean_and_deviation(scores), scores)]
    lines.append(f"over {result.num_scored:,} of {result.num_queries:,} queries in all")
    lines += _describe_decisions(splits) + _describe_left_out(result)
    return [*lines, result.protocol]


def _describe_scored(title: str, splits: Sequence[SplitEvaluation]) -> list[str]:
    """Lines on the data set, the weights and the sizes of query and gallery."""
    first = splits[0]
    lines = [f"{title} in {first.root}", f"weights  {first.weights['name']} ({first.weights['training_data']})"]
    for name in ("query", "gallery"):
        counts = [split.counts[name] for split in splits]
        images, identities = (_range(getattr(count, kind) for count in counts) for kind in ("images", "identities"))
        cameras = "unknown" if all(not count.cameras for count in counts) else _range(c.cameras for c in counts)
        lines.append(f"{name:<8} images: {images}, identities: {identities}, cameras: {cameras}")
    return lines


def _describe_left_out(result: "Evaluation | Average") -> list[str]:
    """Lines on queries without a match and on images that could not be read."""
    lines = []
    for names, what in (
        (result.unmatched, "without a match in another camera"),
        (result.unreadable, "left out"),
    ):
        if names:
            more = f", ... ({len(names) - 5} more)" if len(names) > 5 else ""
            lines.append(f"{len(names)} {what}: {', '.join(names[:5])}{more}")
    return lines


def _range(values: Iterable[int]) -> str:
    """The smallest and the largest value: ``6 to 8``, or ``7`` if they are equal."""
    low, high = min(values := list(values)), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _percent(value: float | None) -> str:
    return "none: no query has a match" if value is None else f"{100 * value:6.2f} %"


@dataclass(frozen=True)
class Average:
    """Mean and standard deviation over results in several files; see ``average_results``."""

    dataset: str
    """Name of the data set or benchmark."""
    names: tuple[str, ...]
    """Data set and weights of each result."""
    scores: tuple[Scores, ...]
    """Scores of each result."""
    mean: Scores
    deviation: Scores
    """Sample standard deviation (n - 1)."""
    protocol: str
    """Rule, distance and convention of the scores, in words."""
    num_queries: int
    """Number of queries, over all results."""
    num_scored: int
    """Number of queries that have a match, over all results."""
    unmatched: tuple[str, ...] = ()
    """Queries without a match in another camera, in any result."""
    unreadable: tuple[str, ...] = ()
    """Images that could not be read, with the reasons, in any result."""
    warnings: tuple[str, ...] = ()
    """Warnings of any result."""

    def to_json(self) -> dict[str, Any]:
        """The content of the file that ``osnet average --out`` writes."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{self.dataset}, {len(self.names)} results: {'; '.join(self.names)}"]
        lines += _describe_means(self.mean, self.deviation, self.scores)
        lines.append(f"over {self.num_scored:,} of {self.num_queries:,} queries in all")
        lines += [*_describe_left_out(self), self.protocol]
        return "\n".join([*lines, *(f"note: {warning}" for warning in self.warnings)])


def average_results(files: Sequence[str | Path]) -> Average:
    """Mean and standard deviation over results of several runs, for example with weights per split or per seed.

    The published scores on VIPeR and GRID are such means: a network is trained for each split and scored on it.
    Warnings, and images and queries that were left out of any result, are in the average too.

    Args:
        files: JSON files that ``osnet evaluate --out`` wrote, each with one split.

    Raises:
        DataError: fewer than two files, a file that is not such a result, results of different benchmarks, protocols,
            input sizes or settings of flip, or two results of the same weights on the same split.
    """
    if len(files) < 2:
        raise DataError(f"{len(files)} result(s) to average; give at least two")
    results = [_read_result(Path(file)) for file in files]
    first = results[0]
    benchmark = _benchmark_of(first)
    seen: dict[tuple[str, str], str | Path] = {}
    for file, result in zip(files, results, strict=True):
        for what, value, expected in (
            ("data set", _benchmark_of(result), benchmark),
            ("protocol", result["protocol"], first["protocol"]),
            ("list of scores", list(result["scores"]), list(first["scores"])),
            *((key, result["weights"].get(key), first["weights"].get(key)) for key in ("size_hw", "flip")),
        ):
            if value != expected:
                raise DataError(f"{file}: the {what} is {value!r}, but that of {files[0]} is {expected!r}")
        # Results of `osnet evaluate-features` know no weights; they are told apart by their files.
        key = (result["dataset"], str(result["weights"].get("network_sha256", result.get("root"))))
        if key in seen:
            raise DataError(
                f"{file} and {seen[key]} are results of the same weights on the same split {result['dataset']}; give "
                "each result once"
            )
        seen[key] = file
    scores = tuple(result["scores"] for result in results)
    names = tuple(f"{result['dataset']} by {result['weights'].get('name', '?')}" for result in results)
    unmatched, unreadable, warnings = (
        tuple(dict.fromkeys(str(text) for result in results for text in result[key]))
        for key in ("unmatched", "unreadable", "warnings")
    )
    return Average(
        benchmark,
        names,
        scores,
        *_mean_and_deviation(scores),
        first["protocol"],
        num_queries=sum(result["num_queries"] for result in results),
        num_scored=sum(result["num_scored"] for result in results),
        unmatched=unmatched,
        unreadable=unreadable,
        warnings=warnings,
    )


def _read_result(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    kinds = {"dataset": str, "scores": dict, "weights": dict, "protocol": str, "num_queries": int, "num_scored": int}
    kinds |= dict.fromkeys(("unmatched", "unreadable", "warnings"), list)
    if not isinstance(content, dict) or any(not isinstance(content.get(key), kind) for key, kind in kinds.items()):
        raise DataError(f"{file} is not a result of one split; give files that `osnet evaluate --out` wrote")
    if wrong := [value for value in content["scores"].values() if not isinstance(value, float | int | None)]:
        raise DataError(f"{file}: the score {wrong[0]!r} is not a number")
    return content


def _benchmark_of(result: dict[str, Any]) -> str:
    split = SplitName.parse(result["dataset"])
    return split.benchmark if split else str(result["dataset"])


def _mean_and_deviation(scores: Sequence[Scores]) -> tuple[Scores, Scores]:
    mean: Scores = {}
    deviation: Scores = {}
    for name in scores[0]:
        values = [value for row in scores if (value := row[name]) is not None]
        complete = len(values) == len(scores)
        mean[name] = statistics.fmean(values) if complete else None
        deviation[name] = statistics.stdev(values) if complete and len(values) > 1 else None
    return mean, deviation


def _describe_means(mean: Scores, deviation: Scores, scores: Sequence[Scores]) -> list[str]:
    lines = []
    for name, value in mean.items():
        each = " ".join("none" if row[name] is None else f"{100 * (row[name] or 0):.2f}" for row in scores)
        spread = deviation[name]
        shown = "none" if value is None else f"{100 * value:6.2f} %"
        lines.append(f"{name:<8} {shown}" + ("" if spread is None else f" +- {100 * spread:.2f}") + f"   ({each})")
    return lines


def _describe_decisions(splits: Sequence[SplitEvaluation]) -> list[str]:
    """Lines with the mean of each operating point over the splits that have it; marked if unreliable in any split."""
    lines = []
    for kind, (_, _, rate, hit) in WORDS.items():
        scored = [scores for split in splits for scores in split.decisions if scores.kind == kind]
        if not scored:
            continue
        lines.append(f"{kind}: mean over {len(scored)} splits")
        for index, point in enumerate(scored[0].points):
            points = [scores.points[index] for scores in scored]
            values = [1 - p.miss_rate if hit == "TPR" else p.miss_rate for p in points]
            fewest = min(points, key=lambda p: p.num_allowed)
            line = f"  {rate} {point.asked:<7g} {hit} {100 * statistics.fmean(values):6.2f} %   {fewest.caution}"
            lines.append(line.rstrip())
    return lines
