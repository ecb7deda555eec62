"""From footage to an archive, segment by segment; and from footage to tracks.

A segment is some minutes of one camera plus an overlap with the next. Each is decoded, tracked and committed by itself,
and depends on the footage and the settings only. An interrupted run loses at most the current segment; the next call
resumes and ends with the same bytes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any

from osnet import Embedder
from osnet.video.appearance import Appearance, refine
from osnet.video.archive import (
    SEGMENT_FILE,
    Archive,
    FinishedTrack,
    write_segment,
    writing,
)
from osnet.video.crops import Collector, Sample, choose_samples
from osnet.video.planning import (
    IndexSettings,
    Work,
    check_box_file,
    compare,
    describe,
    identify,
    list_files,
    plan_segments,
)
from osnet.video.protocols import (
    NO_ID,
    Detector,
    Track,
    Tracker,
    Trouble,
    VideoFrame,
)
from osnet.video.source import Footage, read_frames
from osnet.video.tracking import make_tracker

TOGETHER = 8
"""Frames of a file that pass a step together. Their code and data then stay in the processor's cache for that step: one
frame at a time, decoding and tracking take half as long again."""
TOGETHER_BYTES = 32 << 20
"""Fewer frames, if their pixels take more than this."""

OnProgress = Callable[[float, float, str], None]
"""Called with the finished seconds of footage, all seconds, and the name of the current file."""


@dataclass
class IndexReport:
    """Result of ``index_footage``."""

    segments_added: int = 0
    segments_there: int = 0
    tracklets_added: int = 0
    frames: int = 0
    troubles: list[str] = field(default_factory=list)
    """File, time and reason of each part that could not be read; files that have changed since they were indexed."""


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

    Segments that the archive holds already are skipped, so an interrupted call resumes. A file that has changed since
    some of its segments were made is left out and listed in ``troubles``. Recordings that cover the same time by a few
    seconds cause a ``FootageWarning``.

    Args:
        footage: files, folders or patterns with ``*``.
        archive: folder of the archive.
        camera: name of the camera: letters, digits, ``-``, ``_``, ``.``.
        embedder: computes the embeddings; an archive holds those of one network.
        detector: from ``make_detector``, or your own.
        tracker: from ``make_tracker``, or your own; default: C-BIoU.
        starts: when the footage begins: ISO 8601 with a zone, or Unix time. Further files follow without a gap, in
            the order of their names (2 before 10). Default: read from each file.
        name_pattern: read the start from each file's name by this pattern (see ``start_from_name``).
        zone: time zone of times without one.
        settings: segments and sampling.
        on_progress: called after each frame.

    Raises:
        FootageError: footage, camera or times cannot be used; recordings cover the same time by more than
            ``MAX_OVERLAP_S``; or a description cannot be stored. No segment was written.
        GalleryError: the archive has embeddings of other weights, this footage with other settings, or all of the
            given files as they were before they changed.
        OutputError: the archive cannot be written. Complete segments remain.
    """
    settings = settings or IndexSettings()
    tracker = tracker or make_tracker()
    files = list_files(footage)
    check_box_file(detector, files)
    decides = describe(detector, tracker, settings)
    work = plan_segments(files, camera, starts, name_pattern, zone, settings)
    store = Archive.open(archive, embedder)
    there = {segment["name"]: segment for segment in store.segments}
    work, changed = compare(work, there, decides, camera, follow=starts is not None)
    report = IndexReport()
    for item in {id(w.footage): w.footage for w in work}.values():
        report.troubles += [f"{item.path} {trouble}" for trouble in item.troubles]
    report.troubles += changed
    total = sum(one.core_s for one in work)
    done = 0.0
    with writing(store.folder, camera):
        for one in work:
            if not (store.folder / one.name / SEGMENT_FILE).exists():

                def tell(seconds: float, one: Work = one, done: float = done) -> None:
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
    size_wh = footage.size_wh
    for frame in read_frames(footage, fps=settings.fps, troubles=troubles):
        size_wh = (frame.image.shape[1], frame.image.shape[0])  # upright
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
    return refine(*collector.finish(), Appearance(), size_wh)[0]


def _about(
    one: Work, camera: str, decides: dict[str, Any], frames: int, tracklets: int, troubles: list[Trouble]
) -> dict[str, Any]:
    start = one.footage.starts_s + one.start_s
    return {
        "camera": camera, "start_s": round(start, 3), "stop_s": round(start + one.core_s, 3),
        "footage": identify(one.footage), **decides, "num_frames": frames,
        "num_tracklets": tracklets, "troubles": [str(trouble) for trouble in troubles],
    }  # fmt: skip


def _process(
    one: Work,
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
        tracker, embedder, settings, lambda time_s: tell(time_s - one.footage.starts_s - one.start_s), TOGETHER,
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
    together: int = 1,
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
        together: frames that are detected before the first of them is tracked; one if the detector is the tracker. The
            result does not depend on it.
    """
    detector.reset()
    tracker.reset(fps)
    collector = Collector(embedder, settings.sample_s)
    count, size_wh = 0, (1, 1)
    for block in in_blocks(frames, 1 if id(detector) == id(tracker) else together):
        found = []
        for frame in block:
            found.append(detector.detect(frame))
            tell(frame.time_s)
        inside = [(frame, boxes) for frame, boxes in zip(block, found, strict=True) if frame.time_s >= start_s - 1e-6]
        given = [tracker.update(boxes, frame) for frame, boxes in inside]
        for (frame, boxes), ids in zip(inside, given, strict=True):
            count += 1
            size_wh = (frame.image.shape[1], frame.image.shape[0])
            collector.add(frame, boxes, ids)
        block.clear()
        inside.clear()  # else these frames stay in memory while the next ones are decoded
    tracks, samples = collector.finish()
    if settings.appearance:
        tracks, samples = refine(tracks, samples, Appearance(), size_wh)
    return finish_tracks(tracks, samples, stop_s, settings), count


def in_blocks(frames: Iterator[VideoFrame], most: int) -> Iterator[list[VideoFrame]]:
    """Blocks of ``most`` frames, or fewer if their pixels take more than ``TOGETHER_BYTES``."""
    block: list[VideoFrame] = []
    taken = 0
    for frame in frames:
        block.append(frame)
        taken += frame.image.nbytes
        if len(block) >= most or taken + frame.image.nbytes > TOGETHER_BYTES:
            yield block
            block, taken = [], 0
    if block:
        yield block


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
