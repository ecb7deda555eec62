"""Links between tracklets: proposals that two tracklets show the same person, which people confirm, reject or undo.

    ARCHIVE/links.json        the proposals of the last `osnet video link`
    ARCHIVE/decisions.jsonl   all decisions, with author and time; lines are only appended

Tracklets are never merged. An identity is a connected component of the current links, so every decision can be undone.

For a proposal between cameras, the time between the tracklets must fit the travel time (``Travel``), each must be the
other's best match in that camera and direction of time, and the cosine must be high enough. Each proposal has a false
match rate: how often two people who were visible at once, and are therefore different, reach its score in this archive.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from osnet.errors import GalleryError
from osnet.files import write_json
from osnet.video.archive import LOCK, LOCK_TIMEOUT_S, Archive, Tracklet
from osnet.video.archive_segments import same_footage
from osnet.video.protocols import Floats, FootageError

LINKS_FILE, DECISIONS_FILE = "links.json", "decisions.jsonl"
FORMAT = "osnet-links-1"
MIN_CONFIRMED = 3
"""Number of confirmed links between two cameras from which the travel time is estimated."""
DEFAULT_SCORE = 0.8
"""Lowest cosine of a link where the rate of strangers is not known."""
MIN_STRANGERS = 30
"""Number of pairs of different people from which their rate is computed."""

Decision = Literal["confirmed", "rejected", "undone"]
Kind = Literal["border", "camera"]


@dataclass(frozen=True)
class Travel:
    """Travel time between two cameras, in either direction."""

    min_s: float = 0.0
    """Seconds from leaving one view to entering the other; negative if the views overlap."""
    max_s: float = 600.0

    def __post_init__(self) -> None:
        if not self.min_s <= self.max_s:
            raise FootageError(
                f"travel time from {self.min_s:g} to {self.max_s:g} s; the first must not be larger than the second"
            )


@dataclass(frozen=True)
class Link:
    """Two tracklets that may show one person; ``a`` begins first."""

    a: str
    b: str
    kind: Kind
    """``border``: across the border of two segments of one camera. ``camera``: between two cameras."""
    score: float
    """The cosine of the means; for ``border`` the mean IoU of the boxes in the overlap of the segments."""
    strangers: float | None
    """Share of the pairs of different people that reach the score; None if fewer than 30 such pairs are known."""
    gap_s: float
    """Seconds from the end of ``a`` to the beginning of ``b``."""
    decision: Decision | None = None
    """The last decision of a person; None if there is none."""


@dataclass(frozen=True)
class LinkSettings:
    """Thresholds of proposals."""

    min_score: float | None = None
    """Lowest cosine; None: ``max_strangers`` decides, or ``DEFAULT_SCORE`` if too few pairs of different people are
    known."""
    max_strangers: float = 0.01
    """Highest share of pairs of different people that may reach the score."""
    default_travel: Travel = Travel()
    """For pairs of cameras without a given or estimated travel time."""
    margin: float = 0.02
    """The best match must exceed the second best in the same camera by this cosine."""

    def __post_init__(self) -> None:
        if self.min_score is not None and not -1 <= self.min_score <= 1:
            raise FootageError(f"min_score {self.min_score:g} must be from -1 to 1, as a cosine is")
        if not 0 <= self.max_strangers <= 1:
            raise FootageError(f"max_strangers {self.max_strangers:g} must be a share from 0 to 1")


def propose_links(
    archive: Archive, travel: Mapping[frozenset[str], Travel] | None = None, settings: LinkSettings | None = None
) -> list[Link]:
    """Propose links between the tracklets of an archive, highest score first, with the decisions on them.

    Args:
        archive: holds the tracklets.
        travel: travel times by pair of cameras. For other pairs they are estimated from ``MIN_CONFIRMED`` confirmed
            links, or else the default.
        settings: thresholds.
    """
    settings = settings or LinkSettings()
    seen = list(archive.tracklets())
    decided = read_decisions(archive)
    _, means = archive.means()
    cosines = (means @ means.T).astype(np.float32)
    strangers = np.sort(_strangers(seen, cosines))
    ways = {**learn_travel(archive, decided), **(travel or {})}
    links = _borders(seen)
    rejected = {pair for pair, said in decided.items() if said == "rejected"}
    scores = _possible(seen, cosines, ways, settings.default_travel, rejected)
    for i, j in mutual_best([t.camera for t in seen], scores, settings.margin):
        score = float(scores[i, j])
        rate = float(np.mean(strangers >= score)) if len(strangers) >= MIN_STRANGERS else None
        if settings.min_score is None and rate is not None:
            fits = rate <= settings.max_strangers
        else:
            fits = score >= (DEFAULT_SCORE if settings.min_score is None else settings.min_score)
        if fits:
            links.append(Link(seen[i].id, seen[j].id, "camera", score, rate, seen[j].begin_s - seen[i].end_s))
    there = {frozenset((link.a, link.b)) for link in links}
    place = {tracklet.id: k for k, tracklet in enumerate(seen)}
    for pair, said in decided.items():  # a decided pair is listed even if it is not proposed any more
        if pair not in there and said != "undone" and pair <= place.keys():
            i, j = sorted((place[t] for t in pair), key=lambda k: seen[k].begin_s)
            gap = seen[j].begin_s - seen[i].end_s
            links.append(Link(seen[i].id, seen[j].id, "camera", float(cosines[i, j]), None, gap))
    links = [replace(link, decision=decided.get(frozenset((link.a, link.b)))) for link in links]
    return sorted(links, key=lambda link: (link.kind != "border", -link.score, link.a, link.b))


def _strangers(seen: Sequence[Tracklet], cosines: Floats) -> Floats:
    """Cosines of pairs of tracklets that were in one view at once without overlap, and so are different people."""
    found = []
    for i, first in enumerate(seen):
        for j in range(i + 1, len(seen)):
            second = seen[j]
            if first.camera != second.camera or min(first.end_s, second.end_s) - max(first.begin_s, second.begin_s) < 1:
                continue
            if not same_footage(first, second):
                continue  # recordings that overlap show the same person twice
            if mean_overlap(first, second) < 0.1:
                found.append(float(cosines[i, j]))
    return np.array(found, np.float32)


def mean_overlap(a: Tracklet, b: Tracklet) -> float:
    """Mean IoU of the boxes in common frames; 0 if there are none."""
    if not same_footage(a, b):
        return 0.0
    _, mine, theirs = np.intersect1d(a.numbers, b.numbers, assume_unique=True, return_indices=True)
    if not len(mine):
        return 0.0
    x, y = a.boxes[mine, :4], b.boxes[theirs, :4]
    inside = np.clip(np.minimum(x[:, 2:], y[:, 2:]) - np.maximum(x[:, :2], y[:, :2]), 0, None).prod(1)
    union = (x[:, 2:] - x[:, :2]).prod(1) + (y[:, 2:] - y[:, :2]).prod(1) - inside
    return float((inside / np.maximum(union, 1e-6)).mean())


def _borders(seen: Sequence[Tracklet]) -> list[Link]:
    """Links between tracklets of two segments of one camera with the same boxes where the segments overlap."""
    links = []
    by_segment: dict[str, list[Tracklet]] = {}
    for tracklet in seen:
        by_segment.setdefault(tracklet.id.rpartition("/")[0], []).append(tracklet)
    segments = sorted(by_segment, key=lambda name: min(t.begin_s for t in by_segment[name]))
    for place, name in enumerate(segments):
        for other in segments[place + 1 :]:
            pairs = [
                (mean_overlap(a, b), a, b)
                for a in by_segment[name]
                for b in by_segment[other]
                if a.camera == b.camera and a.end_s >= b.begin_s
            ]
            taken: set[str] = set()
            for overlap, a, b in sorted(pairs, key=lambda p: (-p[0], p[1].id, p[2].id)):
                if overlap >= 0.5 and a.id not in taken and b.id not in taken:
                    taken |= {a.id, b.id}
                    links.append(Link(a.id, b.id, "border", overlap, None, b.begin_s - a.end_s))
    return links


def _possible(
    seen: Sequence[Tracklet],
    cosines: Floats,
    ways: Mapping[frozenset[str], Travel],
    default: Travel,
    rejected: set[frozenset[str]],
) -> Floats:
    """Returns (T, T): the cosine where the column's tracklet may follow the row's in another camera; else -1."""
    scores = np.full(cosines.shape, -1, np.float32)
    begins, ends = np.array([t.begin_s for t in seen]), np.array([t.end_s for t in seen])
    cameras = np.array([t.camera for t in seen])
    for i, first in enumerate(seen):
        gap = begins - first.end_s
        for camera in np.unique(cameras):
            if camera == first.camera:
                continue
            way = ways.get(frozenset((first.camera, str(camera))), default)
            fits = (cameras == camera) & (gap >= way.min_s) & (gap <= way.max_s) & (ends > first.end_s)
            scores[i, fits] = cosines[i, fits]
        for j in np.flatnonzero(scores[i] > -1).tolist():
            if frozenset((first.id, seen[j].id)) in rejected:
                scores[i, j] = -1
    return scores


def mutual_best(cameras_T: Sequence[str], scores: Floats, margin: float) -> list[tuple[int, int]]:
    """Find pairs that are each other's best match among the tracklets of the other's camera.

    Args:
        cameras_T: camera of each tracklet.
        scores: (T, T); -1 where the column's tracklet cannot follow the row's.
        margin: difference by which the best must exceed the second best of either.
    """
    cameras = np.array(cameras_T)
    masks: dict[str, NDArray[np.bool_]] = {str(c): cameras == c for c in np.unique(cameras)}
    pairs = []
    for i in range(len(cameras)):
        for mask in masks.values():
            row = np.where(mask, scores[i], -1)
            j = int(np.argmax(row)) if len(row) else 0
            if row[j] <= -1:
                continue
            column = np.where(masks[str(cameras[i])], scores[:, j], -1)
            second = max(_second(row), _second(column))
            if int(np.argmax(column)) == i and row[j] - second >= margin:
                pairs.append((i, j))
    return pairs


def _second(values: Floats) -> float:
    return float(np.partition(values, -2)[-2]) if len(values) > 1 else -1.0


def learn_travel(archive: Archive, decided: Mapping[frozenset[str], Decision]) -> dict[frozenset[str], Travel]:
    """Estimate travel times from confirmed links: from half of the shortest to twice the longest."""
    gaps: dict[frozenset[str], list[float]] = {}
    for pair, said in decided.items():
        if said == "confirmed":
            try:
                first, second = sorted((archive.tracklet(t) for t in pair), key=lambda t: t.begin_s)
            except GalleryError:
                continue  # its segment was deleted
            if first.camera != second.camera:
                gaps.setdefault(frozenset((first.camera, second.camera)), []).append(second.begin_s - first.end_s)
    return {
        pair: Travel(min(found) / 2 if min(found) > 0 else min(found) * 2, max(found) * 2 if max(found) > 0 else 0.0)
        for pair, found in gaps.items()
        if len(found) >= MIN_CONFIRMED
    }


def decide(archive: Archive, a: str, b: str, decision: Decision, by: str, at: datetime | None = None) -> None:
    """Store a person's decision on two tracklets. It replaces earlier decisions, which remain on record.

    Args:
        archive: holds the tracklets.
        a: id of one tracklet.
        b: id of the other.
        decision: ``confirmed``, ``rejected`` or ``undone``.
        by: name of the person.
        at: time of the decision; default: now.

    Raises:
        GalleryError: an unknown tracklet or decision, or twice the same tracklet.
    """
    if decision not in ("confirmed", "rejected", "undone"):
        raise GalleryError(f"unknown decision {decision!r}; choose from confirmed, rejected, undone")
    if a == b:
        raise GalleryError(f"a link needs two different tracklets, not twice {a}")
    for tracklet_id in (a, b):
        archive.tracklet(tracklet_id)
    first, second = sorted((a, b))
    moment = (at or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds")
    line = json.dumps({"a": first, "b": second, "decision": decision, "by": by, "at": moment})
    path = archive.folder / DECISIONS_FILE
    with FileLock(archive.folder / f"{LOCK}-decisions", timeout=LOCK_TIMEOUT_S), path.open("ab+") as file:
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)  # removes an incomplete line of a crash
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_decisions(archive: Archive) -> dict[frozenset[str], Decision]:
    """The last decision on each pair of tracklets.

    Raises:
        GalleryError: a line is damaged. An incomplete last line is ignored.
    """
    said: dict[frozenset[str], Decision] = {}
    lines = history(archive)
    for line in lines:
        said[frozenset((line["a"], line["b"]))] = line["decision"]
    return said


def history(archive: Archive) -> list[dict[str, Any]]:
    """All decisions, oldest first, with the keys a, b, decision, by, at. Raises as ``read_decisions``."""
    path = archive.folder / DECISIONS_FILE
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):  # the last is empty or incomplete
        try:
            entry = json.loads(line)
            if entry["decision"] not in ("confirmed", "rejected", "undone") or not entry["a"] or not entry["b"]:
                raise ValueError("unknown decision")
        except (ValueError, KeyError, TypeError) as error:
            raise GalleryError(f"{path}, line {number} is damaged: {error}; correct or delete this line") from error
        found.append(entry)
    return found


def write_links(archive: Archive, links: Iterable[Link]) -> Path:
    """Replace ``links.json``."""
    path = archive.folder / LINKS_FILE
    write_json(path, {"format": FORMAT, "links": [asdict(link) for link in links]})
    return path


def read_links(archive: Archive) -> list[Link]:
    """Read ``links.json``, with the decisions that were made since.

    Raises:
        GalleryError: the file is damaged.
    """
    path = archive.folder / LINKS_FILE
    if not path.is_file():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"the format is {content['format']!r}")
        links = [Link(**link) for link in content["links"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GalleryError(f"{path} is damaged: {error}; run `osnet video link` again") from error
    decided = read_decisions(archive)
    return [replace(link, decision=decided.get(frozenset((link.a, link.b)))) for link in links]


def identities(links: Iterable[Link], *, only_confirmed: bool = False) -> list[list[str]]:
    """Connected components of links: lists of tracklet ids, sorted. They are not stored.

    Args:
        links: rejected links are ignored.
        only_confirmed: use only confirmed links, and those across the border of segments.
    """
    group: dict[str, set[str]] = {}
    for link in links:
        counts = link.decision != "rejected" and (
            link.decision == "confirmed" or link.kind == "border" or not only_confirmed
        )
        if counts:
            one, other = group.setdefault(link.a, {link.a}), group.setdefault(link.b, {link.b})
            if one is not other:
                one |= other
                for member in other:
                    group[member] = one
    unique = {id(members): members for members in group.values()}
    return sorted(sorted(members) for members in unique.values())
