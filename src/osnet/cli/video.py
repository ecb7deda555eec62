"""osnet video index, track, link, decide, draw, show. `osnet search` searches an archive."""

import json
import sys
import warnings
from dataclasses import asdict
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import tyro
from tqdm import tqdm
from tyro.conf import Positional
from tyro.extras import SubcommandApp

from osnet import Embedder
from osnet.cli.common import (
    EXIT_FOUND_TROUBLE,
    JsonFlag,
    LogLines,
    Texts,
    app,
    check_counts,
    refuse_without_runner,
    report_failures,
)
from osnet.cli.gallery import choose_weights
from osnet.errors import DataError
from osnet.figures.timeline import save_timeline
from osnet.files import check_writable
from osnet.runtime.distributed import join_processes
from osnet.video.archive import ARCHIVE_FILE, Archive, format_time
from osnet.video.detectors import make_detector
from osnet.video.drawing import drawn_frames, video_writer
from osnet.video.indexing import index_footage, track_footage
from osnet.video.links import Decision, LinkSettings, Travel, decide, identities, propose_links, write_links
from osnet.video.motfile import MotFile, write_mot
from osnet.video.planning import IndexSettings, check_box_file, list_files
from osnet.video.protocols import NO_ID, Detector, Track, Tracker, Trouble
from osnet.video.source import open_footage, read_frames
from osnet.video.spread import index_on_many
from osnet.video.tracking import DEFAULT_TRACKER, front_end, make_tracker
from osnet.work import Runner

video_app = SubcommandApp()
app.command(video_app, name="video", help="Index, track, link and draw footage.")

FootageArgs = Annotated[tuple[Path, ...], Positional, tyro.conf.arg(metavar="FOOTAGE")]
ArchiveArg = Annotated[Path, Positional, tyro.conf.arg(metavar="ARCHIVE")]


@video_app.command(name="index")
def video_index(
    footage: FootageArgs,
    *,
    camera: str,
    out: Path,
    weights: str | None = None,
    detector: str | None = None,
    threshold: float | None = None,
    tracker: str = DEFAULT_TRACKER,
    tracks: Path | None = None,
    starts: str | None = None,
    name_pattern: str | None = None,
    zone: str = "UTC",
    fps: float | None = None,
    segment_s: float = 300.0,
    appearance: bool = True,
    batch_size: int = 32,
    device: str = "auto",
    runner: Runner | None = None,
    workers: int = 1,
    gpus: float = 0.0,
) -> None:
    """Find the people in footage of one camera and add them to a new or an existing archive.

    Segments that the archive already holds are skipped, so the same command resumes after an interruption. The exit
    code is 1 if some of the footage could not be read; it is listed.

    Args:
        footage: files, folders, or patterns with *.
        camera: the name of the camera.
        out: the folder of the archive.
        weights: a path or a short name. Default: the copy in the archive; for a new archive
            person-reidentification-retail-0287, which is downloaded if it is missing.
        detector: a YOLOX .onnx, an OpenVINO .xml, a MOTChallenge .txt, motion, yolox_nano, torchvision:NAME,
            rfdetr:SIZE.
        threshold: lowest score of a box; default: depends on the detector. motion has none.
        tracker: cbiou, bytetrack, ocsort, sort or botsort.
        tracks: a MOTChallenge text with boxes and ids, instead of a detector and a tracker; for one file only.
        starts: when the footage begins, such as 2026-11-28T08:00:00+01:00; further files follow without a gap, in the
            order of their names (2 before 10). Default: read from each file.
        name_pattern: read the start from the file names by this pattern, such as 'gate_*_%Y%m%d_%H%M%S'.
        zone: time zone of times without one, such as Europe/Berlin.
        fps: highest number of frames per second to process.
        segment_s: length of a segment in seconds. An interruption loses at most the current segment.
        appearance: use embeddings to join broken tracks and to split tracks that contain several people.
        batch_size: crops per forward pass.
        device: device of the embedder: auto, cpu, cuda, cuda:1, mps.
        runner: make several segments at the same time: in processes on this machine (local), in those that torchrun
            starts (start this command with it), or in actors (ray). All see the footage and the archive at the same
            paths. The list of work is kept in OUT.work.
        workers: processes, or Ray actors.
        gpus: GPUs of each Ray actor, such as 0.25.
    """
    if runner is None:
        refuse_without_runner(workers=workers != 1, gpus=gpus != 0)
    with warnings.catch_warnings(record=True) as left_out:
        files = list_files(footage)
    for warning in left_out:
        warnings.warn(warning.message, stacklevel=1)
    settings = IndexSettings(fps=fps, segment_s=segment_s, appearance=appearance)
    finder, follower = _front_end(detector, threshold, tracker, tracks, fps, files)
    chosen = choose_weights(out, ARCHIVE_FILE, weights)
    embedder = Embedder(chosen, device, batch_size, backend="fastest")
    if runner is not None:
        if detector is None:
            raise DataError("--runner needs --detector; --tracks belongs to one process")
        check_counts(workers=workers)
        report = index_on_many(
            files,
            out,
            camera=camera,
            embedder=embedder,
            weights=Path(chosen).absolute() if Path(chosen).exists() else chosen,
            detector=str(Path(detector).absolute()) if Path(detector).exists() else detector,
            threshold=threshold,
            tracker=tracker,
            starts=starts,
            name_pattern=name_pattern,
            zone=_zone(zone),
            settings=settings,
            device=device,
            runner=runner,
            workers=workers,
            gpus=gpus,
        )
        if runner == "torchrun" and join_processes()[0]:
            return
    else:
        with _Bar() as bar:
            report = index_footage(
                files,
                out,
                camera=camera,
                embedder=embedder,
                detector=finder,
                tracker=follower,
                starts=starts,
                name_pattern=name_pattern,
                zone=_zone(zone),
                settings=settings,
                on_progress=bar.show,
            )
    store = Archive.open(out)
    print(
        f"{report.segments_added} segments with {report.tracklets_added} tracklets added to {out}, "
        f"{report.segments_there} segments were there; {len(store)} tracklets of {len(store.cameras)} cameras in all",
        *(str(warning.message) for warning in left_out),
        sep="\n",
    )
    report_failures(report.troubles)


@video_app.command(name="track")
def video_track(
    footage: Annotated[Path, Positional, tyro.conf.arg(metavar="FOOTAGE")],
    *,
    out: Path,
    detector: str,
    threshold: float | None = None,
    tracker: str = DEFAULT_TRACKER,
    weights: str | None = None,
    fps: float | None = None,
    device: str = "auto",
) -> None:
    """Track the people in one video, and write the tracks as MOTChallenge text.

    Args:
        footage: the video.
        out: the file to write.
        detector: as for `osnet video index`.
        threshold: lowest score of a box; default: depends on the detector. motion has none.
        tracker: cbiou, bytetrack, ocsort, sort or botsort.
        weights: use these weights to join broken tracks and to split tracks that contain several people.
        fps: highest number of frames per second to process.
        device: device of the embedder: auto, cpu, cuda, cuda:1, mps.
    """
    check_writable(out, reads=[footage, detector, *([weights] if weights is not None else [])])
    settings = IndexSettings(fps=fps)
    found = open_footage(footage, 0.0)
    finder, follower = _front_end(detector, threshold, tracker, None, fps, [footage])
    embedder = Embedder(weights, device, backend="fastest") if weights is not None else None
    troubles: list[Trouble] = list(found.troubles)
    with _Bar() as bar:
        done = track_footage(
            found, finder, follower, embedder=embedder, settings=settings, on_progress=bar.show, troubles=troubles
        )
    write_mot(out, done)
    print(f"{len(done)} tracks, {sum(map(len, done))} boxes written to {out}")
    report_failures([f"{footage} {trouble}" for trouble in troubles])


@video_app.command(name="link")
def video_link(
    archive: ArchiveArg,
    *,
    travel: Texts = (),
    min_score: float | None = None,
    max_strangers: float = 0.01,
    as_json: JsonFlag = False,
    figure: Path | None = None,
) -> None:
    """Propose links between tracklets of different cameras, or of successive segments, that may be the same person.

    Tracklets are not merged. `osnet video decide` confirms or rejects a link, or undoes a decision.

    Args:
        archive: the folder of the archive.
        travel: shortest and longest time between two cameras in seconds: 'gate:hall:20:90'. For other pairs the times
            are learned from confirmed links, or else are 0 to 600.
        min_score: lowest cosine of a link; default: the score that --max-strangers gives.
        max_strangers: highest rate of pairs of different people that reach the score; people who are visible at the
            same time count as different.
        as_json: print JSON.
        figure: also draw a timeline with a line per camera (.png, .svg, .pdf).
    """
    if figure is not None:
        check_writable(figure)
    store = Archive.open(archive)
    links = propose_links(store, _ways(travel, store), LinkSettings(min_score=min_score, max_strangers=max_strangers))
    write_links(store, links)
    if as_json:
        print(json.dumps([asdict(link) for link in links], indent=2))
    else:
        print(f"{'score':>6}  {'strangers':>9}  {'gap':>7}  {'decision':<10}tracklets")
        for link in links:
            rate = "-" if link.strangers is None else f"{100 * link.strangers:.1f} %"
            said = link.decision or "-"
            print(f"{link.score:6.3f}  {rate:>9}  {link.gap_s:5.1f} s  {said:<10}{link.a}  {link.b}  ({link.kind})")
        groups = len(store) - sum(len(group) - 1 for group in identities(links))
        print(f"{len(links)} links; they join {len(store)} tracklets into {groups} groups")
    if figure is not None:
        save_timeline(
            list(store.tracklets()), links, figure, f"Who was seen where, by the links proposed ({archive.name})"
        )
        if not as_json:
            print(f"the timeline is drawn in {figure}")


@video_app.command(name="decide")
def video_decide(
    archive: ArchiveArg,
    a: Annotated[str, Positional, tyro.conf.arg(metavar="TRACKLET")],
    b: Annotated[str, Positional, tyro.conf.arg(metavar="TRACKLET")],
    *,
    decision: Annotated[Decision, tyro.conf.arg(name="as")],
    by: str,
) -> None:
    """Confirm or reject a link, or undo a decision. Each decision is stored with its author and time.

    Args:
        archive: the folder of the archive.
        a: the id of one tracklet.
        b: the id of the other tracklet.
        decision: confirmed, rejected, or undone.
        by: the name of the person who decides.
    """
    decide(Archive.open(archive), a, b, decision, by)
    print(f"{decision}: {a} and {b}")


@video_app.command(name="draw")
def video_draw(
    footage: Annotated[Path, Positional, tyro.conf.arg(metavar="FOOTAGE")],
    *,
    tracks: Path,
    out: Path,
    fps: float | None = None,
) -> None:
    """Draw boxes, ids and trails on the frames of a video.

    Args:
        footage: the video.
        tracks: MOTChallenge text, from `osnet video track` or from any other program.
        out: the new video (.mp4, .mkv, .mov, .avi).
        fps: highest number of frames per second to draw.
    """
    check_writable(out, reads=[footage, tracks])
    IndexSettings(fps=fps)  # checks it
    found, given = open_footage(footage, 0.0), MotFile(tracks)
    by_id: dict[int, Track] = {}
    for number in range(1, len(found.times_s) + 1):
        boxes, ids = given.at(number)
        if NO_ID in ids:
            raise DataError(
                f"{tracks} has a box without id (-1) in frame {number}, and only tracks are drawn; make them first: "
                f"osnet video track {footage} --detector {tracks} --out FILE"
            )
        for key, box, score in zip(ids.tolist(), boxes.xyxy.tolist(), boxes.scores.tolist(), strict=True):
            by_id.setdefault(key, Track(key)).append(number, 0.0, tuple(box), score)
    if given.num_frames > len(found.times_s):
        raise DataError(f"{tracks} has boxes in frame {given.num_frames}; {footage} has {len(found.times_s)} frames")
    troubles: list[Trouble] = list(found.troubles)
    with _Bar() as bar, video_writer(out, min(fps or found.fps, found.fps)) as write:
        frames = read_frames(found, fps=fps, troubles=troubles)
        for place, image in enumerate(drawn_frames(frames, by_id.values())):
            write(image)
            bar.show(place / min(fps or found.fps, found.fps), found.duration_s, footage.name)
    print(f"{len(by_id)} tracks drawn: {out}")
    report_failures([f"{footage} {trouble}" for trouble in troubles])


@video_app.command(name="show")
def video_show(archive: ArchiveArg, *, check: bool = False, as_json: JsonFlag = False) -> None:
    """Show what an archive holds.

    Args:
        archive: the folder of the archive.
        check: also compare each file with its stored SHA-256.
        as_json: print the records of all segments as JSON.
    """
    store = Archive.open(archive)
    if as_json:
        print(json.dumps(store.segments, indent=2))
    else:
        print(f"{len(store)} tracklets, {len(store.segments)} segments, {len(store.cameras)} cameras")
        print(f"embeddings by {store.weights_name}, network {store.weights_sha256}")
        for camera in store.cameras:
            own = [s for s in store.segments if s["camera"] == camera]
            begin, end = min(s["start_s"] for s in own), max(s["stop_s"] for s in own)
            seconds, people = sum(s["stop_s"] - s["start_s"] for s in own), sum(s["num_tracklets"] for s in own)
            print(f"{camera}: {format_time(begin)} to {format_time(end)}, {seconds / 60:.1f} min, {people} tracklets")
    if check and (wrong := store.check()):
        print(*wrong, sep="\n", file=sys.stderr)
        raise SystemExit(EXIT_FOUND_TROUBLE)
    if check and not as_json:
        print("no faults")


class _Bar:
    """A progress bar in seconds of footage, on standard error. If that is not a terminal, a line now and then."""

    def __init__(self) -> None:
        self._bar: Any = tqdm(total=0, unit="s", disable=None, dynamic_ncols=True, unit_scale=True)
        self._lines = LogLines()

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, done_s: float, total_s: float, what: str) -> None:
        """Show that ``done_s`` of ``total_s`` seconds are done."""
        if self._bar.disable:
            self._lines.show(f"{what}: {done_s:.0f} of {total_s:.0f} s")
            return
        self._bar.total = total_s
        self._bar.set_description(what, refresh=False)
        self._bar.update(max(0.0, done_s - self._bar.n))


def _front_end(
    detector: str | None,
    threshold: float | None,
    tracker: str,
    tracks: Path | None,
    fps: float | None,
    files: list[Path],
) -> tuple[Detector, Tracker]:
    if tracks is not None:
        if detector is not None:
            raise DataError("--tracks contains the boxes; leave out --detector")
        if threshold is not None:
            raise DataError(f"--threshold {threshold:g} is for a detector; with --tracks, leave it out")
        if tracker != DEFAULT_TRACKER:
            raise DataError(f"--tracks contains the ids; leave out --tracker {tracker}")
        if len(files) != 1:
            raise DataError(f"--tracks belongs to one video, but {len(files)} were given")
        return front_end(tracks)
    if detector is None:
        raise DataError("no detector: give --detector FILE_OR_NAME, or --tracks FILE (MOTChallenge)")
    finder = make_detector(detector, threshold, fps)
    check_box_file(finder, files)
    return finder, make_tracker(tracker)


def _ways(travel: tuple[str, ...], store: Archive) -> dict[frozenset[str], Travel]:
    ways = {}
    for text in travel:
        parts = text.split(":")
        try:
            first, second, least, most = parts
            way = Travel(float(least), float(most))
        except ValueError as error:
            raise DataError(f"--travel {text!r}; give two cameras, least and most seconds: gate:hall:20:90") from error
        if unknown := {first, second} - set(store.cameras):
            raise DataError(
                f"--travel {text!r}: no camera {sorted(unknown)[0]!r}; there are {', '.join(store.cameras)}"
            )
        ways[frozenset((first, second))] = way
    return ways


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise DataError(f"unknown time zone {name!r}; give one like Europe/Berlin") from error
