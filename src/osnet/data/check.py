"""Check a data set before training or evaluation: count its splits and look for problems."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from osnet.data.loading import decode_image, describe_damage, describe_other, read_bytes, sees_all_damage
from osnet.errors import ImageError
from osnet.types import DISTRACTOR_PID, JUNK_PID, Crop, ReidDataset, Split

Severity = Literal["breaks", "mind"]
SHOWN = 10
RESERVED_NAME = re.compile(r"-0*1|0+")
"""Matches -1, 0 and their zero-padded forms such as 0000: junk and distractors in Market-1501's file names."""


@dataclass(frozen=True)
class Problem:
    """One kind of problem, with all images or identities that have it."""

    kind: str
    severity: Severity
    """``breaks``: training or evaluation would fail or give wrong results. ``mind``: only a warning."""
    what: str
    names: tuple[str, ...]

    def __str__(self) -> str:
        more = f", ... ({len(self.names) - SHOWN} more)" if len(self.names) > SHOWN else ""
        return f"{self.severity}: {len(self.names)} {self.what}: {', '.join(self.names[:SHOWN])}{more}"


@dataclass(frozen=True)
class SplitCounts:
    """Sizes of one split. Junk and distractors do not count as identities."""

    identities: int
    images: int
    cameras: int


@dataclass(frozen=True)
class DataReport:
    """The result of ``check_dataset``; ``str()`` gives a readable report."""

    name: str
    root: str
    counts: dict[str, SplitCounts]
    problems: tuple[Problem, ...] = field(default_factory=tuple)

    @property
    def ok(self) -> bool:
        """True if no problem has the severity ``breaks``."""
        return not any(problem.severity == "breaks" for problem in self.problems)

    def to_json(self) -> dict[str, Any]:
        """Convert to a dictionary for JSON, with all names."""
        return asdict(self) | {"ok": self.ok}

    def __str__(self) -> str:
        lines = [
            f"{self.name} in {self.root}",
            f"{'split':<10}{'identities':>12}{'images':>10}{'cameras':>10}",
        ]
        for split, c in self.counts.items():
            cameras = str(c.cameras) if c.cameras else "unknown"
            lines.append(f"{split:<10}{c.identities:>12,}{c.images:>10,}{cameras:>10}")
        lines += [str(problem) for problem in self.problems] or ["nothing wrong found"]
        return "\n".join(lines)


def check_dataset(
    dataset: ReidDataset,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] | None = None,
    decode: bool = True,
) -> DataReport:
    """Count the splits of a data set and look for problems; every image is decoded.

    Args:
        dataset: the data set, from one of the readers.
        progress: shows a progress bar; gets an iterable and its length, and returns the iterable.
        decode: whether to open the image files. False saves time if the same files were checked before.
    """
    problems = [
        *_check_matches(dataset),
        *_check_reserved_names(dataset),
        *_check_overlaps(dataset),
        *_check_train(dataset.train),
        *_check_cameras(dataset),
        *(_check_files(dataset, progress) if decode else ()),
    ]
    if dataset.num_junk:
        problems.append(Problem("junk", "mind", "kind of junk image (pid -1) left out", (f"{dataset.num_junk} files",)))
    if dataset.other_files:
        problems.append(
            Problem(
                "other files",
                "mind",
                "file(s) are not images, or in a format that cannot be read",
                tuple(map(describe_other, dataset.other_files)),
            )
        )
    order = {"breaks": 0, "mind": 1}
    problems.sort(key=lambda problem: order[problem.severity])
    counts = {split.name: count_split(split) for split in (*dataset.splits, dataset.val) if len(split)}
    return DataReport(dataset.name, str(dataset.root), counts, tuple(problems))


def count_split(split: Split) -> SplitCounts:
    """Count identities, images and cameras of one split; unknown cameras do not count."""
    people = {pid for pid in split.pids if pid not in (JUNK_PID, DISTRACTOR_PID)}
    return SplitCounts(len(people), len(split), len({camid for camid in split.camids if camid >= 0}))


def _check_matches(dataset: ReidDataset) -> Iterator[Problem]:
    if not len(dataset.query) and not len(dataset.gallery):
        return
    for split in (dataset.query, dataset.gallery):
        if not len(split):
            yield Problem("empty split", "breaks", "split without images", (split.name,))
    cameras = defaultdict(set)
    for crop in dataset.gallery.crops:
        cameras[crop.pid].add(crop.camid)
    unmatched = [str(crop.path) for crop in dataset.query.crops if not cameras[crop.pid] - {crop.camid}]
    if unmatched:
        severity: Severity = "breaks" if len(unmatched) == len(dataset.query) else "mind"
        yield Problem(
            "query without match",
            severity,
            "query image(s) have no match in another camera and are not scored",
            tuple(unmatched),
        )
    if odd := [str(c.path) for c in dataset.query.crops if c.pid in (JUNK_PID, DISTRACTOR_PID)]:
        yield Problem("junk query", "breaks", "query image(s) are labelled junk or distractor", tuple(odd))


def _check_reserved_names(dataset: ReidDataset) -> Iterator[Problem]:
    """Find ordinary identities named -1 or 0, such as folders made from Market-1501's names."""
    crops = [crop for split in (*dataset.splits, dataset.val) for crop in split.crops if crop.pid > DISTRACTOR_PID]
    named = [crop for crop in crops if RESERVED_NAME.fullmatch(crop.identity)]
    if odd := sorted({c.identity for c in named if c.identity in c.path.parts or c.path.match(f"{c.identity}_c*")}):
        yield Problem(
            "reserved name",
            "mind",
            "name(s) count as ordinary identities; if -1 means junk and 0 distractor, as in Market-1501, remove "
            "them or list them in a CSV",
            tuple(odd),
        )
    if dataset.unlisted:
        yield Problem("unlisted", "mind", "image(s) are in no split (folder or CSV) and left out", dataset.unlisted)


def _check_overlaps(dataset: ReidDataset) -> Iterator[Problem]:
    train = {crop.pid: crop.identity for crop in (*dataset.train.crops, *dataset.val.crops)}
    test = {crop.pid for split in (dataset.query, dataset.gallery) for crop in split.crops}
    both = sorted(train[pid] for pid in train.keys() & test if pid not in (JUNK_PID, DISTRACTOR_PID))
    if both:
        yield Problem("overlap", "breaks", "identities are in train and in query or gallery", tuple(both))


def _check_train(train: Split) -> Iterator[Problem]:
    if not len(train):
        return
    images = Counter(crop.pid for crop in train.crops)
    names = {crop.pid: crop.identity for crop in train.crops}
    if single := sorted(names[pid] for pid, count in images.items() if count == 1):
        yield Problem(
            "one image",
            "mind",
            "train identities have only one image, so they form no triplets",
            tuple(single),
        )
    if len(images) < 2:
        yield Problem("one identity", "breaks", "train split with fewer than two identities", (train.name,))


def _check_cameras(dataset: ReidDataset) -> Iterator[Problem]:
    """Find missing camera labels and identities seen by one camera only."""
    unknown = [str(crop.path) for split in dataset.splits for crop in split.crops if crop.camid < 0]
    if unknown:
        what = (
            "image(s) have no camera label: scoring cannot ignore matches in the query's own camera; training with "
            "--validation takes one image of each held-out person as the query; batches and figures by camera "
            "are meaningless"
        )
        yield Problem("no camera", "mind", what, tuple(unknown))
    cameras: dict[int, set[int]] = defaultdict(set)
    for crop in dataset.train.crops:
        cameras[crop.pid].add(crop.camid)
    if cameras and all(camids == {max(camids)} and max(camids) >= 0 for camids in cameras.values()):
        what = "train split(s) in which no identity is seen by two cameras: training with --validation is not possible"
        yield Problem("one camera", "mind", what, (dataset.train.name,))


def _check_files(
    dataset: ReidDataset, progress: Callable[[Iterable[Any], int], Iterable[Any]] | None
) -> Iterator[Problem]:
    entries = [(split.name, crop) for split in (*dataset.splits, dataset.val) for crop in split.crops]
    unreadable: list[str] = []
    damaged: list[str] = []
    places: dict[bytes, list[tuple[str, Path]]] = defaultdict(list)
    results: Iterable[_Inspected] = _map_bounded(_inspect, (crop for _, crop in entries))
    for (split, crop), found in zip(entries, progress(results, len(entries)) if progress else results, strict=True):
        if found.unreadable:
            unreadable.append(found.unreadable)
        else:
            places[found.digest].append((split, crop.path))
        if found.damage:
            damaged.append(f"{crop.path} ({found.damage})")
    if unreadable:
        yield Problem("unreadable", "breaks", "image(s) cannot be read", tuple(unreadable))
    if damaged:
        yield Problem("damaged", "breaks", "image(s) decode but are damaged", tuple(damaged))
    if entries and not sees_all_damage():
        missing = "damage in JPEG files that only simplejpeg reports (pip install 'osnet[fast]')"
        yield Problem("not checked", "mind", "check(s) left out", (missing,))
    across = [group for group in places.values() if _is_across(group)]
    if across:
        names = tuple(" = ".join(str(path) for _, path in group) for group in across)
        yield Problem("same file", "breaks", "image(s) are in more than one split, byte for byte", names)


def _is_across(group: list[tuple[str, Path]]) -> bool:
    """Whether equal files are in more than one split.

    One file in both query and gallery does not count: CUHK03's classic protocol has this, and the same-camera rule
    prevents a query from matching itself.
    """
    splits = {split for split, _ in group}
    return len(splits) > 1 and (splits != {"query", "gallery"} or len({path for _, path in group}) > 1)


def find_unreadable(crops: Iterable[Crop]) -> tuple[str, ...]:
    """List the images that cannot be decoded, or that decode but are damaged, with the reasons."""
    crops = list(crops)
    found = zip(crops, _map_bounded(_inspect, crops), strict=True)
    return tuple(
        each.unreadable or f"{crop.path} ({each.damage})" for crop, each in found if each.unreadable or each.damage
    )


class _Inspected(NamedTuple):
    """The result for one image; empty strings mean no problem."""

    unreadable: str = ""
    damage: str = ""
    digest: bytes = b""
    """SHA-256 of the file."""


def _inspect(crop: Crop) -> _Inspected:
    try:
        content = read_bytes(crop.path)
        decode_image(content, str(crop.path))
    except (ImageError, OSError) as error:
        return _Inspected(unreadable=str(error))
    return _Inspected("", describe_damage(content) or "", hashlib.sha256(content).digest())


def _map_bounded(
    function: Callable[[Crop], _Inspected], crops: Iterable[Crop], chunk: int = 256
) -> Iterator[_Inspected]:
    """Apply ``function`` in threads. Yields results in order and reads at most ``chunk`` items ahead."""
    iterator = iter(crops)
    with ThreadPoolExecutor() as pool:
        while batch := list(islice(iterator, chunk)):
            yield from pool.map(function, batch)
