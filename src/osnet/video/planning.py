"""Plan the segments of recordings, and compare them with those that an archive has.

All of it happens before the first frame is decoded: what cannot be indexed is named while nothing has been written.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, tzinfo
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from osnet.data.folder import parse_time
from osnet.errors import DataError, GalleryError
from osnet.video.archive import format_time, segment_name
from osnet.video.detectors import MotDetector
from osnet.video.protocols import Detector, FootageError, FootageWarning, Tracker
from osnet.video.recordings import list_footage, natural_order, start_from_name
from osnet.video.source import Footage, open_footage
from osnet.video.tracking import GivenTracks

MAX_OVERLAP_S = 10.0
"""Recordings of one camera may cover the same time by this much: recorders let successive files overlap."""
MIN_OVERLAP_S = 1.0
"""Shorter overlaps are not worth a warning, because names often give whole seconds."""
MEANINGS = {
    "bytes": "its size in bytes", "frames": "its number of frames", "size_wh": "its width and height",
    "fps": "its frames per second", "starts_s": "its start (Unix time)",
}  # fmt: skip
"""What the record of a file holds besides its name."""


@dataclass(frozen=True)
class IndexSettings:
    """What the content of an archive depends on, besides footage, detector, tracker and weights."""

    segment_s: float = 300.0
    """Length of a segment in seconds."""
    overlap_s: float = 2.0
    """Overlap with the next segment in seconds, by which tracklets can be linked across the border."""
    fps: float | None = None
    """Highest number of frames per second; None: all."""
    sample_s: float = 1.0
    """The best crop in each interval of this many seconds may be embedded; see ``crops.py`` for the choice."""
    crops: int = 6
    """Largest number of crops that are stored of a tracklet."""
    min_frames: int = 3
    """Tracks of fewer frames are dropped."""
    appearance: bool = True
    """Use embeddings to join broken tracks and to split tracks that contain several people."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, np.generic):  # a float32 would round Unix times to minutes
                object.__setattr__(self, name, value.item())
        for name, low in (("segment_s", 10.0), ("sample_s", 0.1), ("crops", 1), ("min_frames", 1)):
            if not low <= (value := getattr(self, name)) < math.inf:
                raise FootageError(f"{name} {value:g} must be finite and at least {low:g}")
        if not 0 <= self.overlap_s <= self.segment_s / 2:
            raise FootageError(f"overlap_s {self.overlap_s:g} must be from 0 to half of segment_s")
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise FootageError(f"fps {self.fps:g} must be above 0, at most 1000")


@dataclass(frozen=True)
class Work:
    """A segment to process."""

    footage: Footage
    start_s: float
    """Start, in seconds since the footage began."""
    core_s: float
    """Length in seconds without the overlap."""
    name: str


@dataclass
class _Span:
    """A time that a recording covers."""

    begin_s: float
    end_s: float
    path: str
    group: int
    """Spans of one group are not compared."""


def list_files(footage: str | Path | Sequence[str | Path]) -> list[Path]:
    """List the files of all inputs, each once, however it is spelled. Raises as ``list_footage``."""
    parts = [footage] if isinstance(footage, str | Path) else list(footage)
    files = [path for part in parts for path in list_footage(part)]
    if not files:
        raise FootageError("no footage was given; give files, folders or patterns")
    each: dict[Path, Path] = {}  # keeps the order and the first spelling
    for path in files:
        each.setdefault(path.resolve(), path)
    return list(each.values())


def check_box_file(detector: Detector, files: Sequence[Path]) -> None:
    """Raise FootageError if the boxes come from a file, which belongs to one video, and there are several."""
    if len(files) > 1 and isinstance(detector, MotDetector | GivenTracks):
        raise FootageError(f"a file of boxes belongs to one video, but {len(files)} were given; index each by itself")


def parse_start(starts: str | float, zone: tzinfo = UTC) -> float:
    """Convert ISO 8601 or a number of seconds to Unix time.

    Raises:
        FootageError: ``starts`` is neither, or a text of digits that looks like a date or a year.
    """
    text = starts if isinstance(starts, str) else repr(float(starts))
    try:
        return parse_time(text, "starts", refuse_year=True, zone=zone)
    except DataError as error:
        raise FootageError(f"{error}; give a time such as 2026-11-28T08:00:00+01:00") from error


def plan_segments(
    files: list[Path],
    camera: str,
    starts: str | float | None,
    name_pattern: str | None,
    zone: tzinfo,
    settings: IndexSettings,
) -> list[Work]:
    """List the segments of all files. Raises FootageError as ``index_footage``."""
    segment_name(camera, 0.0)
    following = parse_start(starts, zone) if starts is not None else None
    if following is not None:
        files = _in_order(files)
    work: list[Work] = []
    for path in files:
        begin = following
        if begin is None and name_pattern is not None:
            begin = start_from_name(path, name_pattern, zone)
        footage = open_footage(path, begin)
        if following is not None:
            following += footage.duration_s
        count = 0
        while count == 0 or count * settings.segment_s < footage.duration_s - settings.overlap_s:
            start = count * settings.segment_s
            core = min(settings.segment_s, footage.duration_s - start)
            work.append(Work(footage, start, core, segment_name(camera, footage.starts_s + start)))
            count += 1
        last = work[-1]
        work[-1] = Work(last.footage, last.start_s, footage.duration_s - last.start_s, last.name)
    every = {id(one.footage): one.footage for one in work}.values()
    _check_overlaps([_Span(f.starts_s, f.starts_s + f.duration_s, str(f.path), place) for place, f in enumerate(every)])
    names: dict[str, Path] = {}
    for one in work:
        if one.name in names:
            raise FootageError(f"{names[one.name]} and {one.footage.path} have segments at the same time, {one.name}")
        names[one.name] = one.footage.path
    return sorted(work, key=lambda one: one.footage.starts_s + one.start_s)


def _in_order(files: list[Path]) -> list[Path]:
    """The files in the order of their names. Raises FootageError if they were given in an order of the user's own."""
    ordered = sorted(files, key=lambda path: natural_order(path.absolute()))
    if files not in (ordered, sorted(files), sorted(files, key=natural_order)):
        raise FootageError(
            f"with a start (--starts), files follow in the order of their names, which begins with {ordered[0]}, but "
            f"{files[0]} was given first; give them in that order, or index each by itself with its own start"
        )
    return ordered


def _check_overlaps(spans: Sequence[_Span]) -> None:
    """Look for recordings of one camera that cover the same time.

    Raises:
        FootageError: two overlap by more than ``MAX_OVERLAP_S``. Shorter overlaps cause one ``FootageWarning``.
    """
    current: list[_Span] = []
    small: list[tuple[float, str]] = []
    for span in sorted(spans, key=lambda span: (span.begin_s, span.end_s, span.path)):
        current = [other for other in current if other.end_s > span.begin_s]
        for other in current:
            overlap_s = min(other.end_s, span.end_s) - span.begin_s
            if other.group == span.group or overlap_s <= MIN_OVERLAP_S:
                continue
            pair = f"{other.path} and {span.path}, {overlap_s:.1f} s from {format_time(span.begin_s)}"
            if overlap_s > MAX_OVERLAP_S:
                raise FootageError(
                    f"two recordings of the camera cover the same time, so people would be found twice: {pair}; leave "
                    "one out, correct their starts (--starts, --name-pattern), or give one another camera name; up to "
                    f"{MAX_OVERLAP_S:g} s are allowed"
                )
            small.append((overlap_s, pair))
        current.append(span)
    if small:
        warnings.warn(
            FootageWarning(
                f"{len(small)} overlap{'s' if len(small) > 1 else ''} of recordings of the camera, the longest of "
                f"{max(small)[1]}; people who are seen then have a tracklet in each"
            ),
            stacklevel=2,
        )


def describe(detector: Detector, tracker: Tracker, settings: IndexSettings) -> dict[str, Any]:
    """Everything that a segment depends on besides the footage, as it is stored in it.

    Raises:
        FootageError: a description contains a value that JSON cannot hold; its key and type are named.
    """
    told = {"detector": detector.description, "tracker": tracker.description, "settings": asdict(settings)}
    for name, value in told.items():
        if not isinstance(value, dict):
            raise FootageError(f"the description of the {name} is of type {type(value).__name__}; it must be a dict")
    return {name: _as_json(value, f"the description of the {name}") for name, value in told.items()}


def _as_json(value: Any, where: str) -> Any:
    """The value as JSON gives it back: lists for tuples and arrays, text for paths."""
    if isinstance(value, dict):
        return {str(key): _as_json(entry, f"{where}, {key!r}") for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(entry, f"{where}, [{place}]") for place, entry in enumerate(value)]
    if isinstance(value, np.generic | np.ndarray) and value.dtype != object:
        return _as_json(value.tolist(), where)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise FootageError(f"{where} is {value}, which JSON cannot hold; use a finite number or None")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise FootageError(
        f"{where} is of type {type(value).__name__}, which JSON cannot hold; use numbers, text, lists and dicts"
    )


def compare(
    work: list[Work], there: dict[str, dict[str, Any]], decides: dict[str, Any], camera: str, follow: bool
) -> tuple[list[Work], list[str]]:
    """Compare the planned segments with those of the archive.

    Args:
        work: the planned segments.
        there: the archive's segments by name.
        decides: from ``describe``.
        camera: name of the camera.
        follow: each file starts where the file before it ends.

    Returns:
        The segments without those of files that have changed since they were indexed, and a line for each such file.

    Raises:
        GalleryError: other settings, or all files have changed.
        FootageError: the archive has other footage of the camera at the same time.
    """
    footages = list({id(one.footage): one.footage for one in work}.values())
    now = {footage.path: identify(footage) for footage in footages}
    own = sorted((s for s in there.values() if s["camera"] == camera), key=lambda s: float(s["start_s"]))
    same_file = {_key(s["footage"], "name", "bytes", "frames"): s for s in own}
    changed: dict[Path, str] = {}
    for one in work:
        path, old = one.footage.path, there.get(one.name)
        if old is not None:
            _check_settings(one.name, old, decides)
        elif follow and changed:  # its start depends on the length of a file that has changed
            old = same_file.get(_key(now[path], "name", "bytes", "frames"))
        if path not in changed and old is not None and (differs := _difference(old["footage"], now[path])):
            changed[path] = (
                f"{path} was left out: the archive has segment {old['name']} of {differs}; to index it as it is now, "
                "delete its segments in the archive and run again, or use another archive (index a recording when it "
                "does not grow any more)"
            )
    kept = [one for one in work if one.footage.path not in changed]
    lines = list(changed.values())
    if not kept:
        raise GalleryError("; ".join(lines[:3]) + (f"; and {len(lines) - 3} more" if len(lines) > 3 else ""))
    known = {_key(record) for record in now.values()}
    old_paths = {now[path]["path"] for path in changed}
    spans: list[_Span] = []
    latest: dict[str, _Span] = {}
    for segment in own:
        record = segment["footage"]
        if (key := _key(record)) in known or record["path"] in old_paths:
            continue
        if key in latest and segment["start_s"] <= latest[key].end_s + MIN_OVERLAP_S:
            latest[key].end_s = max(latest[key].end_s, segment["stop_s"])
        else:
            latest[key] = _Span(segment["start_s"], segment["stop_s"], f"{record['path']} (in the archive)", 0)
            spans.append(latest[key])
    new = {id(one.footage): one.footage for one in kept if one.name not in there}.values()
    _check_overlaps(spans + [_Span(f.starts_s, f.starts_s + f.duration_s, str(f.path), 1) for f in new])
    return kept, lines


def _key(record: dict[str, Any], *names: str) -> str:
    """The named values of a record of footage as text; all but the path without names."""
    return repr([record.get(name) for name in names or ("name", *MEANINGS)])


def _check_settings(name: str, old: dict[str, Any], decides: dict[str, Any]) -> None:
    """Raise GalleryError, with the settings that differ, if a segment of the archive was made with others."""
    for kind, now in decides.items():
        keys = [key for key in {**old[kind], **now} if key != "path" and old[kind].get(key) != now.get(key)]
        if keys:
            told = ", ".join(f"{key} was {old[kind].get(key)!r}, now {now.get(key)!r}" for key in keys)
            raise GalleryError(
                f"the archive has segment {name} with another {kind}: {told}; use the same, or another archive"
            )


def _difference(old: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs between two records of footage, in words; empty if nothing does."""
    if "bytes" not in old:
        return f"the live stream {old['path']}, which is other footage"
    if old["name"] != now["name"]:
        return f"{old['name']}, which is other footage of the same time"
    told = [
        f"{words} was {old.get(key)}, now {now[key]}" for key, words in MEANINGS.items() if old.get(key) != now[key]
    ]
    return f"this file before it changed: {', '.join(told)}" if told else ""


def identify(footage: Footage) -> dict[str, Any]:
    """The record of a file that is stored with each of its segments."""
    return {
        "path": str(footage.path.absolute()), "name": footage.path.name, "bytes": footage.path.stat().st_size,
        "frames": len(footage.times_s), "size_wh": list(footage.size_wh), "fps": round(footage.fps, 3),
        "starts_s": footage.starts_s,
    }  # fmt: skip
