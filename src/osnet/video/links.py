"""Links between tracklets: proposals that the same person is on both, which people confirm, reject and take back.

    ARCHIVE/links.json        the proposals of the last `osnet video link`
    ARCHIVE/decisions.jsonl   who decided what when; lines are added, never changed

Nothing is ever merged: an identity is what hangs together by links at the moment, so every step can be undone.

A proposal between cameras needs: a way that can have been walked in the time between (``Travel``), nobody in two
disjoint views at once, each tracklet the other's best in that camera and direction of time, and a score. Beside the
score stands the rate of strangers: how often two people who cannot be one, because they were seen at once, reach it in
this very archive.
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
from osnet.video.protocols import Floats, FootageError

LINKS_FILE, DECISIONS_FILE = "links.json", "decisions.jsonl"
FORMAT = "osnet-links-1"
MIN_CONFIRMED = 3
"""So many confirmed links between two cameras tell how long the way takes."""

Decision = Literal["confirmed", "rejected", "undone"]
Kind = Literal["border", "camera"]


@dataclass(frozen=True)
class Travel:
    """How long the way between two cameras takes, in either direction."""

    min_s: float = 0.0
    """From leaving one view to entering the other; below 0 if the views overlap."""
    max_s: float = 600.0

    def __post_init__(self) -> None:
        if not self.min_s <= self.max_s:
            raise FootageError(f"a way takes from {self.min_s:g} to {self.max_s:g} s; the first must not be larger")


@dataclass(frozen=True)
class Link:
    """Two tracklets that may be one person; ``a`` begins first."""

    a: str
    b: str
    kind: Kind
    """``border``: one camera, cut in two by a segment's end. ``camera``: two cameras."""
    score: float
    """A cosine; for ``border`` the mean overlap of the boxes that both segments have."""
    strangers: float | None
    """Rate at which pairs that cannot be one person reach the score; None where too few are known."""
    gap_s: float
    """From the end of ``a`` to the beginning of ``b``."""
    decision: Decision | None = None
    """What a person last said of it; None and ``undone``: nothing."""


@dataclass(frozen=True)
class LinkSettings:
    """What is proposed."""

    min_score: float | None = None
    """Least score; None: where strangers become rarer than ``max_strangers``."""
    max_strangers: float = 0.01
    default_travel: Travel = Travel()
    """For pairs of cameras of which nothing is known."""
    margin: float = 0.02
    """The best must be so much better than the second best of the same camera, in cosine."""


def propose_links(
    archive: Archive, travel: Mapping[frozenset[str], Travel] | None = None, settings: LinkSettings | None = None
) -> list[Link]:
    """All proposals, the surest first; with decisions where there are any.

    Args:
        archive: whose tracklets.
        travel: for pairs of cameras. Of other pairs it is learnt, if three links were confirmed; else the default.
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
    least = settings.min_score
    if least is None:
        least = float(np.quantile(strangers, 1 - settings.max_strangers)) if len(strangers) >= 30 else 0.8
    rejected = {pair for pair, said in decided.items() if said == "rejected"}
    scores = _possible(seen, cosines, ways, settings.default_travel, rejected)
    for i, j in mutual_best([t.camera for t in seen], scores, settings.margin):
        score = float(scores[i, j])
        if score >= least:
            rate = float(np.mean(strangers >= score)) if len(strangers) >= 30 else None
            links.append(Link(seen[i].id, seen[j].id, "camera", score, rate, seen[j].begin_s - seen[i].end_s))
    there = {frozenset((link.a, link.b)) for link in links}
    place = {tracklet.id: k for k, tracklet in enumerate(seen)}
    for pair, said in decided.items():  # what a person decided stays, whatever is proposed today
        if pair not in there and said != "undone" and pair <= place.keys():
            i, j = sorted((place[t] for t in pair), key=lambda k: seen[k].begin_s)
            gap = seen[j].begin_s - seen[i].end_s
            links.append(Link(seen[i].id, seen[j].id, "camera", float(cosines[i, j]), None, gap))
    links = [replace(link, decision=decided.get(frozenset((link.a, link.b)))) for link in links]
    return sorted(links, key=lambda link: (link.kind != "border", -link.score, link.a, link.b))


def _strangers(seen: Sequence[Tracklet], cosines: Floats) -> Floats:
    """Cosines of pairs that were in one view at once, in boxes that do not cover each other: surely two people."""
    found = []
    for i, first in enumerate(seen):
        for j in range(i + 1, len(seen)):
            second = seen[j]
            if first.camera != second.camera or min(first.end_s, second.end_s) - max(first.begin_s, second.begin_s) < 1:
                continue
            if mean_overlap(first, second) < 0.1:
                found.append(float(cosines[i, j]))
    return np.array(found, np.float32)


def mean_overlap(a: Tracklet, b: Tracklet) -> float:
    """Mean intersection over union on the frames that both have; 0 without any."""
    if a.footage != b.footage:
        return 0.0
    _, mine, theirs = np.intersect1d(a.numbers, b.numbers, assume_unique=True, return_indices=True)
    if not len(mine):
        return 0.0
    x, y = a.boxes[mine, :4], b.boxes[theirs, :4]
    inside = np.clip(np.minimum(x[:, 2:], y[:, 2:]) - np.maximum(x[:, :2], y[:, :2]), 0, None).prod(1)
    union = (x[:, 2:] - x[:, :2]).prod(1) + (y[:, 2:] - y[:, :2]).prod(1) - inside
    return float((inside / np.maximum(union, 1e-6)).mean())


def _borders(seen: Sequence[Tracklet]) -> list[Link]:
    """Tracklets of two segments of one camera whose boxes agree where the segments overlap."""
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
    """(T, T): the cosine where the column may follow the row in another camera; else -1."""
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
    """Pairs that are each other's best: the row's among the column's camera, the column's among the row's camera.

    Args:
        cameras_T: of each tracklet.
        scores: (T, T); -1 where the column cannot follow the row.
        margin: the best is better than the second best of either by at least this.
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
    """Ways between cameras, from confirmed links: from half of the shortest to twice the longest."""
    gaps: dict[frozenset[str], list[float]] = {}
    for pair, said in decided.items():
        if said == "confirmed":
            try:
                first, second = sorted((archive.tracklet(t) for t in pair), key=lambda t: t.begin_s)
            except GalleryError:
                continue  # its footage was deleted
            if first.camera != second.camera:
                gaps.setdefault(frozenset((first.camera, second.camera)), []).append(second.begin_s - first.end_s)
    return {
        pair: Travel(min(found) / 2 if min(found) > 0 else min(found) * 2, max(found) * 2 if max(found) > 0 else 0.0)
        for pair, found in gaps.items()
        if len(found) >= MIN_CONFIRMED
    }


def decide(archive: Archive, a: str, b: str, decision: Decision, by: str, at: datetime | None = None) -> None:
    """Write down what a person says of two tracklets; later words replace earlier ones, which stay on record.

    Raises:
        GalleryError: no such tracklets, one and the same, or a decision of another name.
    """
    if decision not in ("confirmed", "rejected", "undone"):
        raise GalleryError(f"unknown decision {decision!r}; choose from confirmed, rejected, undone")
    if a == b:
        raise GalleryError(f"a link needs two tracklets; {a} is one")
    for tracklet_id in (a, b):
        archive.tracklet(tracklet_id)
    first, second = sorted((a, b))
    moment = (at or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds")
    line = json.dumps({"a": first, "b": second, "decision": decision, "by": by, "at": moment})
    path = archive.folder / DECISIONS_FILE
    with FileLock(archive.folder / f"{LOCK}-decisions", timeout=LOCK_TIMEOUT_S), path.open("ab+") as file:
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)  # a line that a crash cut off never counted
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_decisions(archive: Archive) -> dict[frozenset[str], Decision]:
    """What was last said of each pair.

    Raises:
        GalleryError: a line in the middle that is damaged. A last line that was cut off counts for nothing.
    """
    said: dict[frozenset[str], Decision] = {}
    lines = history(archive)
    for line in lines:
        said[frozenset((line["a"], line["b"]))] = line["decision"]
    return said


def history(archive: Archive) -> list[dict[str, Any]]:
    """Every decision, oldest first: a, b, decision, by, at. Raises as ``read_decisions``."""
    path = archive.folder / DECISIONS_FILE
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):  # the last is empty, or was cut off
        try:
            entry = json.loads(line)
            if entry["decision"] not in ("confirmed", "rejected", "undone") or not entry["a"] or not entry["b"]:
                raise ValueError("unknown decision")
        except (ValueError, KeyError, TypeError) as error:
            raise GalleryError(f"{path}, line {number} is damaged: {error}; mend or delete this line") from error
        found.append(entry)
    return found


def write_links(archive: Archive, links: Iterable[Link]) -> Path:
    """Replace ``links.json``."""
    path = archive.folder / LINKS_FILE
    write_json(path, {"format": FORMAT, "links": [asdict(link) for link in links]})
    return path


def read_links(archive: Archive) -> list[Link]:
    """The proposals of the last time, with what was decided since.

    Raises:
        GalleryError: the file is damaged; link again.
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
    """Tracklets that hang together, each group sorted; a view, which is stored nowhere.

    Args:
        links: rejected ones join nothing.
        only_confirmed: only confirmed ones, and those across a segment's border, join.
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
