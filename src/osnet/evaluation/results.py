"""What an evaluation found: of one test, of a benchmark's splits, of several runs; objects that print themselves."""

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from osnet.data.check import SplitCounts
from osnet.data.reid.benchmark import BenchmarkFacts, SplitName
from osnet.errors import DataError
from osnet.metrics.matching_rules import Rule
from osnet.metrics.rank_counting import Distance
from osnet.metrics.ranking import AveragePrecision
from osnet.metrics.thresholds import WORDS, DecisionScores

RULES = {
    "market1501": "Market-1501: same person in the same camera ignored, junk ignored, distractors count",
    "cuhk03": "CUHK03: single gallery shot, CMC over 10 draws of one image of each person; same person in the same "
    "camera ignored; AP over the whole gallery",
}
CONVENTIONS = {
    "precision": "AP is the mean of precision at each match",
    "trapezoid": "AP by the trapezoid rule, as in Market-1501's official script",
}


@dataclass(frozen=True)
class Scoring:
    """How vectors are scored; see ``rank_scores``."""

    rule: Rule = "market1501"
    distance: Distance = "cosine"
    ap: AveragePrecision = "precision"
    seed: int = 0
    """Of CUHK03's draws."""
    decisions: bool = False
    """ROC and open-set identification too, by Market-1501's rule whatever ``rule`` is."""
    both_distances: bool = False
    """Ranking scores by the other distance too."""

    def __post_init__(self) -> None:
        distances = ("cosine", "euclidean")
        for what, value, known in (
            ("rule", self.rule, RULES),
            ("ap", self.ap, CONVENTIONS),
            ("distance", self.distance, distances),
        ):
            if value not in known:
                raise DataError(f"unknown {what} {value!r}; choose from {', '.join(known)}")
        if not 0 <= self.seed < 2**32:
            raise DataError(f"seed {self.seed} is outside 0 to {2**32 - 1}")

    def __str__(self) -> str:
        return f"{RULES[self.rule]}; {self.distance} distance; ties in gallery order; {CONVENTIONS[self.ap]}"


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate`` found. All scores are fractions; ``print`` shows percents."""

    dataset: str
    root: str
    counts: dict[str, SplitCounts]
    """Of train, as it lies there; of query and gallery, what was scored."""
    weights: dict[str, Any]
    """Name, training data, size of the input; the digest of what decides a vector, and that of the file."""
    scores: dict[str, float | None]
    """mAP, mINP, rank-1, rank-5, rank-10, rank-20; None if no query has a match."""
    num_queries: int
    num_scored: int
    unmatched: tuple[str, ...]
    """Queries without a match in another camera; in no score."""
    unreadable: tuple[str, ...]
    """Images left out because they could not be read, with the reasons."""
    protocol: str = str(Scoring())
    warnings: tuple[str, ...] = ()
    decisions: tuple[DecisionScores, ...] = ()
    """TPR at fixed FPR, FNIR at fixed FPIR, with their thresholds; if asked for."""
    benchmark: BenchmarkFacts | None = None
    """Which form of it, and what there is to say of this copy; None for a plain folder."""
    scores_by_distance: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """By distance, where both were asked for: ``scores``, and the same by the other one."""

    def to_json(self) -> dict[str, Any]:
        """Everything, for a file."""
        return asdict(self)

    def __str__(self) -> str:
        lines = _describe_scored(self.dataset, [self])
        columns = self.scores_by_distance or {"": self.scores}
        if self.scores_by_distance:
            lines.append(" " * 8 + "".join(f" {distance:>10}" for distance in columns))
        width = 10 if self.scores_by_distance else 1
        lines += [
            f"{name:<8}" + "".join(f" {_percent(column[name]):>{width}}" for column in columns.values())
            for name in self.scores
        ]
        lines.append(f"over {self.num_scored:,} of {self.num_queries:,} queries")
        lines += map(str, self.decisions)
        lines += _describe_left_out([self])
        if self.protocol != str(Scoring()) or self.scores_by_distance:
            lines.append(self.protocol)
        if self.benchmark is not None:
            lines += str(self.benchmark).splitlines()
        return "\n".join(lines + [f"note: {warning}" for warning in self.warnings])


def _describe_scored(title: str, parts: Sequence[Evaluation]) -> list[str]:
    """What was scored, with what, in lines; of several splits together."""
    first = parts[0]
    form = f" ({first.benchmark.variant})" if first.benchmark is not None and first.benchmark.variant else ""
    lines = [f"{title}{form} in {first.root}", f"weights  {first.weights['name']} ({first.weights['training_data']})"]
    for name in ("query", "gallery"):
        counts = [part.counts[name] for part in parts]
        images, people = (_range(getattr(count, kind) for count in counts) for kind in ("images", "identities"))
        cameras = "unknown" if all(not count.cameras for count in counts) else _range(c.cameras for c in counts)
        lines.append(f"{name:<8} images: {images}, identities: {people}, cameras: {cameras}")
    return lines


def _describe_left_out(parts: Sequence[Evaluation]) -> list[str]:
    """Queries without a match, and images that could not be read, in lines; each once, of all splits."""
    lines = []
    unmatched = list(dict.fromkeys(name for part in parts for name in part.unmatched))
    unreadable = list(dict.fromkeys(name for part in parts for name in part.unreadable))
    for names, what in ((unmatched, "without a match in another camera"), (unreadable, "left out")):
        if names:
            more = f", ... ({len(names) - 5} more)" if len(names) > 5 else ""
            lines.append(f"{len(names)} {what}: {', '.join(names[:5])}{more}")
    return lines


def _range(values: Iterable[int]) -> str:
    """``7``, or ``6 to 8``."""
    there = sorted(set(values))
    return f"{there[0]:,}" if len(there) == 1 else f"{there[0]:,} to {there[-1]:,}"


def _percent(value: float | None) -> str:
    return "none: no query has a match" if value is None else f"{100 * value:6.2f} %"


@dataclass(frozen=True)
class SplitEvaluation:
    """What ``evaluate_splits`` found: one ``Evaluation`` per split, in order."""

    name: str
    """Of the benchmark."""
    evaluations: tuple[Evaluation, ...]
    mean: dict[str, float | None]
    """Of each score over the splits, as fractions; None if a split has none."""
    deviation: dict[str, float | None]
    """Sample standard deviation over the splits (n - 1); None for a single split."""
    benchmark: BenchmarkFacts | None = None
    """As in ``Evaluation``."""

    @classmethod
    def of(cls, evaluations: Sequence[Evaluation]) -> "SplitEvaluation":
        """With mean and deviation; at least one split."""
        mean, deviation = _mean_and_deviation([evaluation.scores for evaluation in evaluations])
        name = evaluations[0].dataset
        split = SplitName.parse(name)
        if len(evaluations) > 1 and split is not None:
            name = split.benchmark
        return cls(name, tuple(evaluations), mean, deviation)

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Images left out of any split, each once."""
        return tuple(dict.fromkeys(name for part in self.evaluations for name in part.unreadable))

    def to_json(self) -> dict[str, Any]:
        """Everything, for a file."""
        return asdict(self)

    def __str__(self) -> str:
        lines = _describe_scored(f"{self.name}, {len(self.evaluations)} splits", self.evaluations)
        lines += _describe_means(self.mean, self.deviation, [part.scores for part in self.evaluations])
        for distance in list(self.evaluations[0].scores_by_distance)[1:]:
            scores = [part.scores_by_distance[distance] for part in self.evaluations]
            lines += [f"by {distance} distance", *_describe_means(*_mean_and_deviation(scores), scores)]
        scored, asked = (sum(getattr(part, n) for part in self.evaluations) for n in ("num_scored", "num_queries"))
        lines.append(f"over {scored:,} of {asked:,} queries in all")
        lines += _describe_decisions(self.evaluations) + _describe_left_out(self.evaluations)
        lines.append(self.evaluations[0].protocol)
        if self.benchmark is not None:
            lines += str(self.benchmark).splitlines()
        notes = dict.fromkeys(warning for evaluation in self.evaluations for warning in evaluation.warnings)
        return "\n".join([*lines, *(f"note: {note}" for note in notes)])


@dataclass(frozen=True)
class Average:
    """Mean and deviation over results from several files; see ``average_results``."""

    dataset: str
    names: tuple[str, ...]
    """Per result: its test and its weights."""
    scores: tuple[dict[str, float | None], ...]
    mean: dict[str, float | None]
    deviation: dict[str, float | None]
    protocol: str

    def to_json(self) -> dict[str, Any]:
        """Everything, for a file."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{self.dataset}, {len(self.names)} results: {'; '.join(self.names)}"]
        return "\n".join([*lines, *_describe_means(self.mean, self.deviation, self.scores), self.protocol])


def average_results(files: Sequence[str | Path]) -> Average:
    """Mean and deviation over results that ``evaluate`` wrote: over splits with weights of their own, or over seeds.

    VIPeR's and GRID's published figures are such means: one training per split, scored on that split.

    Args:
        files: JSON files of ``osnet evaluate --out``, each of one data set.

    Raises:
        DataError: a file that is no such result, results of different benchmarks or protocols, or one twice.
    """
    if len(files) < 2:
        raise DataError(f"{len(files)} result(s) to average; give at least two")
    found = [_read_result(Path(file)) for file in files]
    first = found[0]
    benchmark = _benchmark_of(first)
    seen: dict[tuple[str, str], str | Path] = {}
    for file, result in zip(files, found, strict=True):
        for what, value, expected in (
            ("data set", _benchmark_of(result), benchmark),
            ("protocol", result["protocol"], first["protocol"]),
            ("list of scores", list(result["scores"]), list(first["scores"])),
        ):
            if value != expected:
                raise DataError(f"{file}: its {what} is {value!r}, that of {files[0]} is {expected!r}")
        key = (result["dataset"], str(result["weights"].get("network_sha256", "")))
        if key in seen:
            raise DataError(f"{file} and {seen[key]} are of the same weights on the same {result['dataset']}")
        seen[key] = file
    scores = tuple(result["scores"] for result in found)
    names = tuple(f"{result['dataset']} by {result['weights'].get('name', '?')}" for result in found)
    return Average(benchmark, names, scores, *_mean_and_deviation(scores), protocol=first["protocol"])


def _read_result(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    kinds = {"dataset": str, "scores": dict, "weights": dict, "protocol": str}
    if not isinstance(content, dict) or any(not isinstance(content.get(key), kind) for key, kind in kinds.items()):
        raise DataError(f"{file} is not the result of one data set; give files that `osnet evaluate --out` wrote")
    if any(not isinstance(value, float | int | None) for value in content["scores"].values()):
        raise DataError(f"{file}: its scores are no numbers")
    return content


def _benchmark_of(result: dict[str, Any]) -> str:
    split = SplitName.parse(result["dataset"])
    return split.benchmark if split else str(result["dataset"])


def _mean_and_deviation(
    scores: Sequence[dict[str, float | None]],
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    mean: dict[str, float | None] = {}
    deviation: dict[str, float | None] = {}
    for name in scores[0]:
        values = [value for row in scores if (value := row[name]) is not None]
        whole = len(values) == len(scores)
        mean[name] = statistics.fmean(values) if whole else None
        deviation[name] = statistics.stdev(values) if whole and len(values) > 1 else None
    return mean, deviation


def _describe_means(
    mean: dict[str, float | None], deviation: dict[str, float | None], scores: Sequence[dict[str, float | None]]
) -> list[str]:
    lines = []
    for name, value in mean.items():
        each = " ".join("none" if row[name] is None else f"{100 * (row[name] or 0):.2f}" for row in scores)
        spread = deviation[name]
        shown = "none" if value is None else f"{100 * value:6.2f} %"
        lines.append(f"{name:<8} {shown}" + ("" if spread is None else f" +- {100 * spread:.2f}") + f"   ({each})")
    return lines


def _describe_decisions(parts: Sequence[Evaluation]) -> list[str]:
    """The mean of each operating point over the splits that have it."""
    lines = []
    for kind, (_, _, rate, hit) in WORDS.items():
        found = [scores for part in parts for scores in part.decisions if scores.kind == kind]
        if not found:
            continue
        lines.append(f"{kind}: mean over {len(found)} splits")
        for place, point in enumerate(found[0].points):
            misses = [scores.points[place].miss_rate for scores in found]
            values = [1 - miss for miss in misses] if hit == "TPR" else misses
            lines.append(f"  {rate} {point.asked:<7g} {hit} {100 * statistics.fmean(values):6.2f} %")
    return lines
