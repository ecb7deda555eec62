"""From footage to an archive, segment by segment; and from footage to tracks.

A segment is some minutes of one camera plus an overlap with the next. Each is decoded, tracked and committed by itself,
and depends on the footage and the settings only. An interrupted run loses at most the current segment; the next call
resumes and ends with the same bytes.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any

from osnet import Embedder
from osnet.data.folder import parse_time
from osnet.errors import DataError, GalleryError
from osnet.video.appearance import Appearance, refine
from osnet.video.archive import SEGMENT_FILE, Archive, FinishedTrack, segment_name, write_segment, writing
from osnet.video.crops import Collector, Sample, choose_samples
from osnet.video.detectors import MotDetector
from osnet.video.protocols import NO_ID, Detector, FootageError, Track, Tracker, Trouble, VideoFrame
from osnet.video.source import Footage, list_footage, open_footage, read_frames, start_from_name
from osnet.video.tracking import GivenTracks, make_tracker

OnProgress = Callable[[float, float, str], None]
"""Called with the finished seconds of footage, all seconds, and the name of the current file."""


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
        for name, low in (("segment_s", 10.0), ("sample_s", 0.1), ("crops", 1), ("min_frames", 1)):
            if not low <= (value := getattr(self, name)) < math.inf:
                raise FootageError(f"{name} {value:g} must be finite and at least {low:g}")
        if not 0 <= self.overlap_s <= self.segment_s / 2:
            raise FootageError(f"overlap_s {self.overlap_s:g} must be from 0 to half of segment_s")
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise FootageError(f"fps {self.fps:g} must be above 0, at most 1000")


@dataclass
class IndexReport:
    """Result of ``index_footage``."""

    segments_added: int = 0
    segments_there: int = 0
    tracklets_added: int = 0
    frames: int = 0
    troubles: list[str] = field(default_factory=list)
    """File, time and reason of each part that could not be read."""


@dataclass(frozen=True)
class _Work:
    """A segment to process."""

    footage: Footage
    start_s: float
    """Start, in seconds since the footage began."""
    core_s: float
    """Length in seconds without the overlap."""
    name: str


def index_footage(
    footage: str | Path | Sequence[str | Path],
    archive: str | Path,
    *,
    camera: str,
    embedder: Embedder,
    detector: Detector,
    tracker: Tracker | None = None,
    starts: str | float | None = None,
    name_pattern: str | None = None,
    zone: tzinfo = UTC,
    settings: IndexSettings | None = None,
    on_progress: OnProgress | None = None,
) -> IndexReport:
    """Find the people in footage of one camera and add them to a new or an existing archive.

    Segments that the archive holds already are skipped, so an interrupted call resumes.

    Args:
        footage: files, folders or patterns with ``*``.
        archive: folder of the archive.
        camera: name of the camera: letters, digits, ``-``, ``_``, ``.``.
        embedder: computes the embeddings; an archive holds those of one network.
        detector: from ``make_detector``, or your own.
        tracker: from ``make_tracker``, or your own; default: C-BIoU.
        starts: when the footage begins: ISO 8601 with a zone, or Unix time. Further files follow without a gap, in
            the order of their names. Default: read from each file.
        name_pattern: read the start from each file's name by this pattern (see ``start_from_name``).
        zone: time zone of times without one.
        settings: segments and sampling.
        on_progress: called after each frame.

    Raises:
        FootageError: footage, camera or times cannot be used. Nothing was written.
        GalleryError: the archive has embeddings of other weights, or this footage with other settings.
        OutputError: the archive cannot be written. Complete segments remain.
    """
    settings = settings or IndexSettings()
    tracker = tracker or make_tracker()
    files = list_files(footage)
    check_box_file(detector, files)
    work = _plan(files, camera, starts, name_pattern, zone, settings)
    report = IndexReport()
    for item in {id(w.footage): w.footage for w in work}.values():
        report.troubles += [f"{item.path} {trouble}" for trouble in item.troubles]
    store = Archive.open(archive, embedder)
    decides = describe(detector, tracker, settings)
    there = {segment["name"]: segment for segment in store.segments}
    for one in work:
        if one.name in there:
            _check_same(one, there[one.name], decides)
    total = sum(one.core_s for one in work)
    done = 0.0
    with writing(store.folder, camera):
        for one in work:
            if not (store.folder / one.name / SEGMENT_FILE).exists():

                def tell(seconds: float, one: _Work = one, done: float = done) -> None:
                    if on_progress is not None:
                        on_progress(done + min(seconds, one.core_s), total, one.footage.path.name)

                finished, frames, troubles = _process(one, detector, tracker, embedder, settings, tell)
                about = _about(one, camera, decides, frames, len(finished), troubles)
                write_segment(store.folder, one.name, finished, about, embedder.embedding_size)
                report.segments_added += 1
                report.tracklets_added += len(finished)
                del finished  # else it stays in memory during the next segment
                report.frames += frames
                report.troubles += [f"{one.footage.path} {trouble}" for trouble in troubles]
            else:
                report.segments_there += 1
                if one.name in there:
                    report.troubles += [f"{one.footage.path} {t}" for t in there[one.name]["troubles"]]
            done += one.core_s
            if on_progress is not None:
                on_progress(done, total, one.footage.path.name)
    return report


def track_footage(
    footage: Footage,
    detector: Detector,
    tracker: Tracker,
    *,
    embedder: Embedder | None = None,
    settings: IndexSettings | None = None,
    on_progress: OnProgress | None = None,
    troubles: list[Trouble] | None = None,
) -> list[Track]:
    """Track the people in one file, without segments and without an archive.

    Args:
        footage: from ``open_footage``.
        detector: finds boxes.
        tracker: assigns ids.
        embedder: if given, tracks are joined and split by appearance afterwards.
        settings: ``fps``, ``sample_s`` and ``appearance`` are used.
        on_progress: called after each frame.
        troubles: what cannot be decoded is added to this list.
    """
    settings = settings or IndexSettings()
    detector.reset()
    tracker.reset(min(settings.fps or footage.fps, footage.fps))
    tracks: dict[int, Track] = {}
    collector = Collector(embedder, settings.sample_s) if embedder is not None and settings.appearance else None
    for frame in read_frames(footage, fps=settings.fps, troubles=troubles):
        boxes = detector.detect(frame)
        ids = tracker.update(boxes, frame)
        if collector is not None:
            collector.add(frame, boxes, ids)
        else:
            for place, key in enumerate(ids.tolist()):
                if key != NO_ID:
                    track = tracks.setdefault(key, Track(key))
                    track.append(
                        frame.number, frame.time_s, tuple(boxes.xyxy[place].tolist()), float(boxes.scores[place])
                    )
        if on_progress is not None:
            on_progress(frame.time_s - footage.starts_s, footage.duration_s, footage.path.name)
    if collector is None:
        return [tracks[key] for key in sorted(tracks)]
    return refine(*collector.finish(), Appearance(), footage.size_wh)[0]


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


def _plan(
    files: list[Path],
    camera: str,
    starts: str | float | None,
    name_pattern: str | None,
    zone: tzinfo,
    settings: IndexSettings,
) -> list[_Work]:
    """List the segments of all files. Raises FootageError as ``index_footage``."""
    segment_name(camera, 0.0)
    following = parse_start(starts, zone) if starts is not None else None
    work: list[_Work] = []
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
            work.append(_Work(footage, start, core, segment_name(camera, footage.starts_s + start)))
            count += 1
        last = work[-1]
        work[-1] = _Work(last.footage, last.start_s, footage.duration_s - last.start_s, last.name)
    names: dict[str, Path] = {}
    for one in work:
        if one.name in names:
            raise FootageError(f"{names[one.name]} and {one.footage.path} have segments at the same time, {one.name}")
        names[one.name] = one.footage.path
    return sorted(work, key=lambda one: one.footage.starts_s + one.start_s)


def describe(detector: Detector, tracker: Tracker, settings: IndexSettings) -> dict[str, Any]:
    """Everything that a segment depends on besides the footage, to be stored in it."""
    return {"detector": detector.description, "tracker": tracker.description, "settings": asdict(settings)}


def _check_same(one: _Work, there: dict[str, Any], decides: dict[str, Any]) -> None:
    for name, value in {**decides, "footage": _identify(one.footage)}.items():
        old = {k: v for k, v in there[name].items() if k != "path"}
        if old != {k: v for k, v in value.items() if k != "path"}:
            raise GalleryError(
                f"the archive has segment {one.name} with another {name}: {old}, now {value}; use the same, or another "
                "archive"
            )


def _identify(footage: Footage) -> dict[str, Any]:
    return {
        "path": str(footage.path.absolute()), "name": footage.path.name, "bytes": footage.path.stat().st_size,
        "frames": len(footage.times_s), "size_wh": list(footage.size_wh), "fps": round(footage.fps, 3),
        "starts_s": footage.starts_s,
    }  # fmt: skip


def _about(
    one: _Work, camera: str, decides: dict[str, Any], frames: int, tracklets: int, troubles: list[Trouble]
) -> dict[str, Any]:
    start = one.footage.starts_s + one.start_s
    return {
        "camera": camera, "start_s": round(start, 3), "stop_s": round(start + one.core_s, 3),
        "footage": _identify(one.footage), **decides, "num_frames": frames,
        "num_tracklets": tracklets, "troubles": [str(trouble) for trouble in troubles],
    }  # fmt: skip


def _process(
    one: _Work,
    detector: Detector,
    tracker: Tracker,
    embedder: Embedder,
    settings: IndexSettings,
    tell: Callable[[float], None],
) -> tuple[list[FinishedTrack], int, list[Trouble]]:
    """Returns a segment's tracks, the number of its frames, and what could not be read."""
    troubles: list[Trouble] = []
    stop_s = one.start_s + one.core_s + settings.overlap_s
    warmup_s = min(one.start_s, detector.warmup_s)
    frames = read_frames(one.footage, one.start_s - warmup_s, stop_s, settings.fps, troubles)
    fps = min(settings.fps or one.footage.fps, one.footage.fps)
    finished, count = process_frames(
        frames, one.footage.starts_s + one.start_s, one.footage.starts_s + one.start_s + one.core_s, fps, detector,
        tracker, embedder, settings, lambda time_s: tell(time_s - one.footage.starts_s - one.start_s),
    )  # fmt: skip
    return finished, count, troubles


def process_frames(
    frames: Iterator[VideoFrame],
    start_s: float,
    stop_s: float,
    fps: float,
    detector: Detector,
    tracker: Tracker,
    embedder: Embedder,
    settings: IndexSettings,
    tell: Callable[[float], None] = lambda _: None,
) -> tuple[list[FinishedTrack], int]:
    """Process the frames of one segment. Returns its tracks, and the number of frames.

    Args:
        frames: in the order of time. Frames before ``start_s`` are given to the detector only, to warm it up.
        start_s: Unix time of the segment's start.
        stop_s: Unix time of its end, without the overlap. Tracks that begin later belong to the next segment.
        fps: frames per second.
        detector: is reset first.
        tracker: is reset first.
        embedder: computes the embeddings.
        settings: sampling, number of crops, appearance.
        tell: called with the time of each frame.
    """
    detector.reset()
    tracker.reset(fps)
    collector = Collector(embedder, settings.sample_s)
    count, size_wh = 0, (1, 1)
    for frame in frames:
        boxes = detector.detect(frame)
        tell(frame.time_s)
        if frame.time_s < start_s - 1e-6:
            continue
        count += 1
        size_wh = (frame.image.shape[1], frame.image.shape[0])
        collector.add(frame, boxes, tracker.update(boxes, frame))
    tracks, samples = collector.finish()
    if settings.appearance:
        tracks, samples = refine(tracks, samples, Appearance(), size_wh)
    return finish_tracks(tracks, samples, stop_s, settings), count


def finish_tracks(
    tracks: list[Track], samples: dict[int, list[Sample]], stop_s: float, settings: IndexSettings
) -> list[FinishedTrack]:
    """Choose the samples to store of each track. Tracks that are too short or begin after ``stop_s`` are dropped."""
    kept = [
        FinishedTrack(track, choose_samples(samples[track.id], settings.crops))
        for track in tracks
        if len(track) >= settings.min_frames and samples.get(track.id) and track.times_s[0] < stop_s - 1e-6
    ]
    return sorted(kept, key=lambda one: (one.track.numbers[0], one.track.boxes[0]))
