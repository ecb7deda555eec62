"""A benchmark: its splits, its scoring rule, and its published counts compared with those on disk."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from osnet.data.check import SplitCounts, count_split
from osnet.metrics.matching_rules import Rule
from osnet.types import Crop, ReidDataset, Split

KINDS = ("identities", "images", "cameras")
NOT_PUBLISHED = "not published"
SPLIT_NAME = re.compile(r"(.+?)(?:-seed(\d+))?-(\d\d)")


class SplitName(NamedTuple):
    """The name of one of several splits, such as ``viper-03``, or ``viper-seed7-03`` if the seed is not 0."""

    benchmark: str
    seed: int
    number: int

    @classmethod
    def parse(cls, name: str) -> "SplitName | None":
        """Parse ``name``. Returns None if it does not have this form."""
        match = SPLIT_NAME.fullmatch(name)
        return cls(match[1], int(match[2] or 0), int(match[3])) if match else None

    def __str__(self) -> str:
        return f"{self.benchmark}{f'-seed{self.seed}' if self.seed else ''}-{self.number:02d}"


@dataclass(frozen=True)
class Published:
    """Published counts of one split, or of several splits together. None: we found no source for the count."""

    splits: str
    """``train``, ``val``, ``query``, ``gallery``, or several of them joined by ``+``. ``all`` means every image of the
    data set, including images that no split uses."""
    identities: int | None = None
    """Number of people. Distractors and junk do not count."""
    images: int | None = None
    cameras: int | None = None
    source: str = ""


@dataclass(frozen=True)
class CountRow:
    """One published count and the corresponding counts on disk."""

    splits: str
    kind: str
    """``identities``, ``images`` or ``cameras``."""
    published: int | None
    """None: we found no published count."""
    found: tuple[int, ...]
    """The different counts found, over all train/query/gallery divisions of the protocol."""
    source: str

    @property
    def differs(self) -> bool:
        """Whether a count was published and a different one was found."""
        return self.published is not None and any(count != self.published for count in self.found)

    def __str__(self) -> str:
        nothing = "unknown" if self.kind == "cameras" else "0"
        found = " or ".join(f"{count:,}" if count else nothing for count in self.found)
        if self.published is None:
            return f"{self.splits} {self.kind}: {found} ({NOT_PUBLISHED})"
        verdict = "DIFFERS" if self.differs else "as published"
        return f"{self.splits} {self.kind}: {found}; {verdict}: {self.published:,} ({self.source})"


@dataclass(frozen=True)
class BenchmarkFacts:
    """Facts about a benchmark that are reported with every score on it."""

    name: str
    variant: str
    num_splits: int
    notes: tuple[str, ...]
    differences: tuple[str, ...]
    """One sentence for each published count that differs from this copy of the data."""
    splits_file: str | None

    def __str__(self) -> str:
        lines = [f"splits file: {self.splits_file}"] if self.splits_file else []
        return "\n".join([*lines, *(f"note: {line}" for line in (*self.notes, *self.differences))])


@dataclass(frozen=True)
class Benchmark:
    """A data set with its protocol. The score on a benchmark is the mean over ``datasets``."""

    name: str
    root: Path
    datasets: tuple[ReidDataset, ...]
    """One entry for each train/query/gallery division of the protocol."""
    published: tuple[Published, ...] = ()
    rule: Rule = "market1501"
    variant: str = ""
    """The variant of the benchmark, such as ``detected, 767/700``; empty if there is only one."""
    notes: tuple[str, ...] = ()
    """Warnings for users, for example that the owners withdrew the data set."""
    crops: tuple[Crop, ...] = ()
    """Every image that was found, including images that no split uses; empty if the splits contain all images."""
    splits_file: Path | None = None
    """File with the random splits; None if the splits are not random."""

    def __post_init__(self) -> None:
        named = tuple(replace(dataset, benchmark=self.name) for dataset in self.datasets)
        object.__setattr__(self, "datasets", named)

    def counts(self) -> tuple[CountRow, ...]:
        """Compare every count with the published one. Empty splits without published counts are left out."""
        rows = [row for published in self.published for row in self._compare(published)]
        there = {(row.splits, row.kind) for row in rows}
        for splits in ("train", "query", "gallery"):
            unknown = Published(splits)
            if self._found(unknown, "images") != (0,):
                kinds = [kind for kind in KINDS if (splits, kind) not in there]
                rows += [CountRow(splits, kind, None, self._found(unknown, kind), "") for kind in kinds]
        order = {splits: place for place, splits in enumerate(("train", "query", "gallery"))}
        return tuple(sorted(rows, key=lambda row: (order.get(row.splits, len(order)), row.splits)))

    def differences(self) -> tuple[CountRow, ...]:
        """The rows of ``counts`` in which this copy of the data differs from the published count."""
        return tuple(row for row in self.counts() if row.differs)

    def facts(self) -> BenchmarkFacts:
        """The facts that are reported with a score."""
        file = None if self.splits_file is None else str(self.splits_file)
        differences = tuple(map(str, self.differences()))
        return BenchmarkFacts(self.name, self.variant, len(self.datasets), self.notes, differences, file)

    def to_json(self) -> dict[str, Any]:
        """Name, counts and notes as a dictionary for JSON."""
        rows = [asdict(row) | {"differs": row.differs} for row in self.counts()]
        return {
            "name": self.name,
            "variant": self.variant,
            "root": str(self.root),
            "rule": self.rule,
            "num_splits": len(self.datasets),
            "counts": rows,
            "notes": list(self.notes),
            "splits_file": None if self.splits_file is None else str(self.splits_file),
        }

    def __str__(self) -> str:
        variant = f" ({self.variant})" if self.variant else ""
        lines = [f"{self.name}{variant} in {self.root}", f"splits: {len(self.datasets)}, scored by {self.rule}'s rule"]
        if self.splits_file is not None:
            lines.append(f"splits file: {self.splits_file}")
        lines += [f"note: {note}" for note in self.notes]
        lines += [str(row) for row in self.counts()]
        num_differing = len(self.differences())
        return "\n".join([*lines, f"{num_differing} published count(s) differ"])

    def _compare(self, published: Published) -> list[CountRow]:
        values = {kind: getattr(published, kind) for kind in KINDS}
        return [
            CountRow(published.splits, kind, value, self._found(published, kind), published.source)
            for kind, value in values.items()
            if value is not None
        ]

    def _found(self, published: Published, kind: str) -> tuple[int, ...]:
        if published.splits == "all" and self.crops:
            return (_count(self.crops, kind),)
        found = {_count(_crops_of(dataset, published.splits), kind) for dataset in self.datasets}
        return tuple(sorted(found))


def _crops_of(dataset: ReidDataset, splits: str) -> list[Crop]:
    """The crops of one or several splits, each file once. ``splits`` as in ``Published``."""
    by_name = {split.name: split for split in (*dataset.splits, dataset.val)}
    names = list(by_name) if splits == "all" else splits.split("+")
    return list({crop.path: crop for name in names for crop in by_name[name].crops}.values())


def _count(crops: Sequence[Crop], kind: str) -> int:
    counts: SplitCounts = count_split(Split("", tuple(crops)))
    return int(getattr(counts, kind))


def describe_published(published: Iterable[Published]) -> list[str]:
    """One line of text for each entry, with its counts and its source."""
    lines = []
    for row in published:
        values = [f"{value:,} {kind}" for kind in KINDS if (value := getattr(row, kind)) is not None]
        lines.append(f"{row.splits}: {', '.join(values) or NOT_PUBLISHED}" + (f" ({row.source})" if row.source else ""))
    return lines
