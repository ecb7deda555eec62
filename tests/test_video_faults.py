"""Faults around footage: replaced files, outputs that are inputs, box files, times, a clock that is set back."""

import io
import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("av")
pytest.importorskip("trackers")

from osnet import Embedder
from osnet.cli import main
from osnet.cli.common import EXIT_ERROR
from osnet.errors import OutputError
from osnet.video import Archive, FootageError, IndexSettings, VideoFrame, index_footage, make_detector
from osnet.video.archive_segments import Tracklet
from osnet.video.drawing import write_clip
from osnet.video.links import LinkSettings
from osnet.video.planning import list_files, parse_start
from osnet.video.source import open_recorded
from osnet.video.spread import index_on_many
from osnet.video.streams import Gap, LiveStream, StreamCounts, StreamSettings, index_stream
from osnet.video.tracking import front_end
from small_footage import numbered, paint_walkers, walk, write_truth, write_video

PATHS = [walk(2, 20, 1.0), walk(140, 70, -0.6)]
FRAMES = 40
START_S = 1795852800.0
"""2026-11-28T08:00:00Z."""


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str]:
    """The exit code, and standard error."""
    capsys.readouterr()
    try:
        main([str(arg) for arg in args])
    except SystemExit as stop:
        return int(stop.code or 0), capsys.readouterr().err
    return 0, capsys.readouterr().err


@pytest.fixture(scope="module")
def embedder(tiny_weights: Path) -> Embedder:
    return Embedder(tiny_weights, device="cpu", backend="torch")


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """Footage of 4 s, with its tracks and its boxes beside it."""
    write_truth(tmp_path / "gt.txt", PATHS, FRAMES)
    write_truth(tmp_path / "det.txt", PATHS, FRAMES, ids=False)
    return write_video(tmp_path / "gate.mp4", paint_walkers(PATHS, FRAMES))


@pytest.fixture
def archive(gate: Path, embedder: Embedder, tmp_path: Path) -> Path:
    finder, follower = front_end(gate.with_name("gt.txt"))
    given: dict[str, Any] = {"camera": "gate", "starts": START_S, "detector": finder, "tracker": follower}
    index_footage(gate, tmp_path / "a", embedder=embedder, settings=IndexSettings(appearance=False), **given)
    return tmp_path / "a"


def first_of(archive: Path) -> Tracklet:
    return next(Archive.open(archive).tracklets())


@pytest.mark.parametrize("fault", ["bytes", "frames", "fps"])
def test_a_clip_of_footage_that_was_replaced_is_refused(
    archive: Path, gate: Path, tmp_path: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another file under the name; and, as bytes, frames and fps are compared each by itself, records that differ."""
    photo, clip = first_of(archive).best_crop.path, tmp_path / "clip.mp4"
    write_clip(first_of(archive), clip)
    clip.unlink()
    if fault == "bytes":
        write_video(gate, paint_walkers(PATHS[::-1], FRAMES, seed=1))  # as many frames
        status, err = run(capsys, "search", archive, photo, "--clip", clip, "--device", "cpu")
        assert status == EXIT_ERROR
        assert "changed" in err
    tracklet = first_of(archive)
    record = dict(tracklet.footage_record)
    if fault != "bytes":
        record[fault] += 1
    with pytest.raises(FootageError, match=f"changed.*{fault}"):
        open_recorded(tracklet.footage, record, 0.0)
    assert not clip.exists()


def test_the_service_shows_no_clip_and_no_frame_of_other_footage(
    archive: Path, gate: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    pytest.importorskip("fastapi")
    pytest.importorskip("argon2")
    from osnet.service.library import Library
    from osnet.service.media import made_clip, read_frame

    (tmp_path / "moved").mkdir()
    library = Library([archive], footage=(tmp_path / "moved",), device="cpu")
    public = library.columns.ids[0]
    _, time_s, _ = read_frame(library, "gate", START_S + 1)
    assert time_s == START_S + 1
    shutil.move(gate, tmp_path / "moved" / gate.name)
    write_video(gate, paint_walkers(PATHS[::-1], FRAMES, seed=1))  # the recorder uses the name again
    assert read_frame(library, "gate", START_S + 1)[1] == START_S + 1  # of the file that was indexed
    assert library.tracklet(public).footage == tmp_path / "moved" / gate.name
    (tmp_path / "moved" / gate.name).unlink()
    with pytest.raises(FootageError, match="changed"):
        read_frame(library, "gate", START_S + 1)
    with pytest.raises(FootageError, match="changed"), made_clip(library.tracklet(public), tmp_path / "clips"):
        pass


def test_outputs_do_not_replace_what_is_read(archive: Path, gate: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo, boxes = first_of(archive).best_crop.path, gate.with_name("det.txt")
    kept = {path: path.read_bytes() for path in (gate, photo, boxes)}
    track = ("video", "track", gate, "--detector", boxes, "--out")
    search = ("search", archive, photo, "--device", "cpu")
    again = f"{gate.parent}/../{gate.parent.name}/gate.mp4"
    for args in (
        (*track, again),
        (*track, boxes),
        ("video", "draw", gate, "--tracks", gate.with_name("gt.txt"), "--out", again),
        (*search, "--clip", again),
        (*search, "--sheet", again),
        (*search, "--sheet", photo),
    ):
        status, err = run(capsys, *args)
        assert (status, "another name" in err) == (EXIT_ERROR, True), args
    with pytest.raises(OutputError, match="another name"):
        write_clip(first_of(archive), gate)
    assert {path: path.read_bytes() for path in kept} == kept


def test_a_file_of_boxes_is_for_one_video(
    gate: Path, embedder: Embedder, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, boxes, out = tmp_path / "other.mp4", gate.with_name("det.txt"), tmp_path / "new"
    shutil.copy(gate, other)
    given: dict[str, Any] = {"camera": "gate", "embedder": embedder, "starts": START_S}
    for detector in (make_detector(boxes), front_end(gate.with_name("gt.txt"))[0]):
        with pytest.raises(FootageError, match="one video"):
            index_footage([gate, other], out, detector=detector, **given)
    with pytest.raises(FootageError, match="one video"):
        index_on_many([gate, other], out, weights=tiny_weights, detector=str(boxes), **given)
    index = ("video", "index", gate, other, "--camera", "gate", "--starts", START_S, "--weights", tiny_weights)
    for runner in ((), ("--runner", "local")):
        status, err = run(capsys, *index, "--out", out, "--detector", boxes, *runner)
        assert (status, "one video" in err) == (EXIT_ERROR, True)
    assert not out.exists()
    pytest.importorskip("fastapi")
    pytest.importorskip("argon2")
    status, err = run(capsys, "serve", tmp_path / "a", "--detector", boxes)
    assert (status, "--detector" in err) == (EXIT_ERROR, True)


@pytest.mark.parametrize("text", ["20261128", "2026", "nan", "inf", "1795852800000", float("nan"), float("inf")])
def test_starts_that_are_no_time_are_refused(text: str | float, gate: Path) -> None:
    with pytest.raises(FootageError, match="starts"):
        parse_start(text)


def test_starts() -> None:
    from zoneinfo import ZoneInfo

    assert parse_start("1795852800") == parse_start(1795852800) == START_S
    assert parse_start("20261128.0") == parse_start(20261128) == 20261128  # Unix time, as it is written
    assert parse_start("2026-11-28T09:00:00+01:00") == START_S
    assert parse_start("2026-11-28T09:00:00", ZoneInfo("Europe/Berlin")) == START_S


def test_a_file_under_two_spellings_is_indexed_once(
    gate: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "link.mp4").symlink_to(gate)
    monkeypatch.chdir(tmp_path)
    spellings = ["gate.mp4", gate, f"{tmp_path}/../{tmp_path.name}/gate.mp4", "link.mp4"]
    assert list_files(spellings) == [Path("gate.mp4")]


class Body:
    """A video as an opened stream."""

    def __init__(self, content: bytes) -> None:
        self.read = io.BytesIO(content).read


@pytest.mark.parametrize("fps", [None, 5.0])
def test_a_clock_that_is_set_back_is_a_gap(fps: float | None, tmp_path: Path) -> None:
    """40 readings of the clock, ten a second; then it is set back by an hour."""
    content = write_video(tmp_path / "1.ts", numbered(80)).read_bytes()
    settings = StreamSettings(first_pause_s=0.01, queue_frames=200, fps=fps, max_tries=1)
    opened = iter([Body(content)])

    def opener() -> Body:
        for body in opened:
            return body
        raise OSError("no more")

    ticks = itertools.count()
    stream = LiveStream(
        "http://camera.example/live", settings, lambda: 10000 + (n := next(ticks)) / 10 - 3600 * (n >= 40), opener
    )
    events = list(stream.events())
    place = next(n for n, event in enumerate(events) if isinstance(event, Gap))
    assert "set back by 3599.9 s" in events[place].reason  # type: ignore[union-attr]
    before = [e.time_s for e in events[:place] if isinstance(e, VideoFrame)]
    after = [e.time_s for e in events[place + 1 :] if isinstance(e, VideoFrame)]
    assert (before[0], before[-1]) == ((10000, 10003.9) if fps is None else (10000, 10003.8))
    assert after == sorted(set(after))
    assert (after[0], after[-1]) == ((6404.001, 6407.9) if fps is None else (6404.001, 6407.8))
    assert stream.counts.taken == len(before) + len(after) == (80 if fps is None else 40)


class Played:
    """What ``LiveStream`` offers, from a list."""

    def __init__(self, events: list[VideoFrame | Gap]) -> None:
        self.address = "rtsp://ann:secret@10.0.0.7/ch1"
        self.settings, self.counts = StreamSettings(fps=10), StreamCounts()
        self._events = events

    def events(self) -> Any:
        yield from self._events

    def stop(self) -> None:
        pass


def test_a_segment_of_the_same_time_is_kept_and_a_stream_has_no_clip(
    gate: Path, embedder: Embedder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The clock is set back to where the stream began. Tracklets of a stream have no clip."""
    finder, follower = front_end(gate.with_name("gt.txt"))
    frames: list[VideoFrame | Gap] = [
        VideoFrame(image, round(START_S + n % 20 / 10, 3), n + 1) for n, image in enumerate(paint_walkers(PATHS, 40))
    ]
    events = [*frames[:20], Gap(START_S, "the clock was set back by 2.0 s"), *frames[20:]]
    report = index_stream(
        Played(events),  # type: ignore[arg-type]
        str(tmp_path / "live"),
        camera="gate",
        embedder=embedder,
        detector=finder,
        tracker=follower,
        settings=IndexSettings(appearance=False),
    )
    assert (report.segments_added, len(report.gaps)) == (2, 1)
    store = Archive.open(tmp_path / "live")
    assert [s["name"][-10:] for s in store.segments] == ["080000.000", "080000.001"]
    assert [[int(t.numbers[0]), int(t.numbers[-1])] for t in store.tracklets()] == [
        [1, 20],
        [1, 20],
        [22, 40],
        [22, 40],
    ]
    tracklet = first_of(tmp_path / "live")
    assert tracklet.footage == "rtsp://10.0.0.7/ch1"
    search = ("search", tmp_path / "live", tracklet.best_crop.path, "--device", "cpu")
    status, err = run(capsys, *search, "--clip", tmp_path / "c.mp4")
    assert status == EXIT_ERROR
    assert "rtsp://10.0.0.7/ch1 is a live stream" in err
    capsys.readouterr()
    main([str(arg) for arg in (*search, "--json")])
    assert json.loads(capsys.readouterr().out)["hits"][0]["footage"] == "rtsp://10.0.0.7/ch1"


def test_boxes_without_ids_are_not_drawn(gate: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, err = run(capsys, "video", "draw", gate, "--tracks", gate.with_name("det.txt"), "--out", tmp_path / "d.mp4")
    assert (status, "without id" in err) == (EXIT_ERROR, True)
    assert not (tmp_path / "d.mp4").exists()


@pytest.mark.parametrize("fps", ["0", "-1", "nan", "inf"])
def test_frame_rates_that_cannot_be(gate: Path, fps: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = ("video", "draw", gate, "--tracks", gate.with_name("gt.txt"), "--out", tmp_path / "d.mp4")
    track = ("video", "track", gate, "--detector", "motion", "--out", tmp_path / "t.txt")
    for args in (draw, track):
        status, err = run(capsys, *args, f"--fps={fps}")
        assert (status, f"fps {fps}" in err) == (EXIT_ERROR, True), args
    assert not (tmp_path / "d.mp4").exists()


@pytest.mark.parametrize("name", ["segment_s", "sample_s"])
def test_lengths_are_finite(name: str) -> None:
    for value in (math.inf, math.nan, 0.0):
        with pytest.raises(FootageError, match=name):
            IndexSettings(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_strangers", 2), ("max_strangers", math.nan), ("max_strangers", -0.1), ("min_score", math.nan),
     ("min_score", 1.5)],
)  # fmt: skip
def test_thresholds_of_links_are_shares_and_cosines(
    name: str, value: float, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FootageError, match=name):
        LinkSettings(**{name: value})
    status, err = run(capsys, "video", "link", archive, f"--{name.replace('_', '-')}={value}")
    assert (status, name in err) == (EXIT_ERROR, True)
    assert not (archive / "links.json").exists()
