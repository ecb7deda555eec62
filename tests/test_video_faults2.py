"""Faults around footage: the order of files, what is left out, overlaps, descriptions, files that grow, names."""

import warnings
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

pytest.importorskip("av")
pytest.importorskip("trackers")

from osnet import Embedder
from osnet.cli import main
from osnet.cli.common import EXIT_ERROR, EXIT_FOUND_TROUBLE
from osnet.errors import DataError, GalleryError
from osnet.video import Archive, Boxes, FootageError, IndexSettings, VideoFrame, index_footage, make_detector
from osnet.video.indexing import IndexReport
from osnet.video.links import _strangers
from osnet.video.motfile import MotFile
from osnet.video.planning import describe, parse_start
from osnet.video.protocols import NO_ID, FootageWarning
from osnet.video.recordings import list_footage, natural_order, start_from_name
from osnet.video.spread import index_on_many
from osnet.video.tracking import front_end
from small_footage import numbered, paint_walkers, walk, write_truth, write_video

START_S = 1795852800.0
"""2026-11-28T08:00:00Z."""
BERLIN = ZoneInfo("Europe/Berlin")
PATHS = [walk(2, 20, 1.0), walk(140, 70, -0.6)]


class FindsNoOne:
    """A detector and a tracker that find nothing."""

    warmup_s = 0.0

    def __init__(self, **description: Any) -> None:
        self.description: Any = {"detector": "no one", **description}

    def reset(self, fps: float = 0.0) -> None:
        pass

    def detect(self, frame: VideoFrame) -> Boxes:
        return Boxes()

    def update(self, boxes: Boxes, frame: VideoFrame) -> Any:
        return np.full(len(boxes), NO_ID)


@pytest.fixture(scope="module")
def embedder(tiny_weights: Path) -> Embedder:
    return Embedder(tiny_weights, device="cpu", backend="torch")


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    """The exit code, standard output, and standard error."""
    capsys.readouterr()
    status = 0
    try:
        main([str(arg) for arg in args])
    except SystemExit as stop:
        status = int(stop.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def write(path: Path, seconds: float = 2.0, fps: int = 5) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    count = round(seconds * fps)
    return write_video(path, (numbered(99) * 2)[:count], fps=fps)


def index(footage: Any, out: Path, embedder: Embedder, **changes: Any) -> IndexReport:
    given: dict[str, Any] = {
        "camera": "gate", "detector": FindsNoOne(), "tracker": FindsNoOne(),
        "settings": IndexSettings(appearance=False),
    }  # fmt: skip
    return index_footage(footage, out, embedder=embedder, **{**given, **changes})


def starts_of(archive: Path) -> dict[str, float]:
    """By name of the file: seconds after ``START_S``."""
    return {s["footage"]["name"]: s["start_s"] - START_S for s in Archive.open(archive).segments}


def test_names_are_ordered_by_their_numbers() -> None:
    names = ["b/1.mp4", "a/cam_10.mp4", "a/cam_2.mp4", "a/cam.mp4", "a/cam-2.mp4", "a/cam2.mp4", "a/cam_02.mp4"]
    ordered = [path.as_posix() for path in sorted(map(Path, names), key=natural_order)]
    assert ordered == [
        "a/cam.mp4", "a/cam2.mp4", "a/cam-2.mp4", "a/cam_02.mp4", "a/cam_2.mp4", "a/cam_10.mp4", "b/1.mp4",
    ]  # fmt: skip


@pytest.mark.parametrize("given", ["folder", "pattern", "listed as a shell does"])
def test_successive_files_follow_by_their_numbers(given: str, tmp_path: Path, embedder: Embedder) -> None:
    files = [write(tmp_path / "in" / f"cam_{n}.mp4", seconds) for n, seconds in ((10, 2), (2, 4))]
    footage: Any = {"folder": tmp_path / "in", "pattern": f"{tmp_path}/in/cam*.mp4"}.get(given, sorted(files))
    index(footage, tmp_path / "a", embedder, starts=START_S)
    assert starts_of(tmp_path / "a") == {"cam_2.mp4": 0, "cam_10.mp4": 4}


def test_an_order_of_the_users_own_is_refused_with_a_start(tmp_path: Path, embedder: Embedder) -> None:
    morning, evening = write(tmp_path / "morning.mp4"), write(tmp_path / "evening.mp4")
    with pytest.raises(FootageError, match=r"order of their names.*evening\.mp4.*morning\.mp4"):
        index([morning, evening], tmp_path / "a", embedder, starts=START_S)
    assert not (tmp_path / "a").exists()


def test_a_folder_is_read_by_content_and_through_links(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write(folder / "v.mp4").rename(folder / "camera.rec")
    write(folder / "w.ts").rename(folder / "noending")
    write(tmp_path / "elsewhere" / "far.mp4")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "linked" / "loop").symlink_to(folder)
    for name in ("notes.txt", "1.json", "2.json", "3.json", "4.json", "5.json", "6.json", "odd.xyz", "broken.mp4.part"):
        (folder / name).write_text("{}")
    write(folder / ".trash" / "old.mp4")
    with pytest.warns(FootageWarning) as told:
        found = list_footage(folder)
    assert [p.relative_to(folder).as_posix() for p in found] == ["camera.rec", "linked/far.mp4", "noending"]
    (text,) = (str(warning.message) for warning in told)
    for part in ("9 files that are no videos", "notes.txt", "1.json", "odd.xyz", "broken.mp4.part", ".trash/"):
        assert part in text
    assert "6.json" not in text


def test_pictures_and_music_are_no_footage(tmp_path: Path) -> None:
    import av
    from PIL import Image

    for ending in ("jpg", "png", "gif"):
        Image.new("RGB", (64, 48)).save(tmp_path / f"plan.{ending}")
    with av.open(str(tmp_path / "song.m4a"), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(FootageError, match=r"no video files.*4 files that are no videos.*song\.m4a"):
        list_footage(tmp_path)


def test_folders_that_a_pattern_matches_are_named(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.mp4")
    write(tmp_path / "in" / "sub" / "b.mp4")
    with pytest.warns(FootageWarning, match=r"1 folder.*sub/"):
        assert list_footage(f"{tmp_path}/in/*") == [tmp_path / "in" / "a.mp4"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list_footage(f"{tmp_path}/in/**")) == 2


def test_the_command_says_what_was_left_out(
    tmp_path: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in" / "a.mp4")
    (tmp_path / "in" / "notes.txt").touch()
    status, out, err = run(
        capsys, "video", "index", tmp_path / "in", "--camera", "gate", "--starts", "2026-11-28T08:00:00", "--out",
        tmp_path / "a", "--weights", tiny_weights, "--detector", "motion", "--device", "cpu",
    )  # fmt: skip
    assert status == 0
    assert out.count("notes.txt") == err.count("notes.txt") == 1


def test_recordings_that_overlap_are_refused_and_both_are_named(tmp_path: Path, embedder: Embedder) -> None:
    folder, out = tmp_path / "in", tmp_path / "a"
    for name in ("080000", "080020"):
        write(folder / f"gate_20261128_{name}.mp4", 32)
    with pytest.raises(FootageError, match=r"080000\.mp4.*080020\.mp4, 12\.0 s from 2026-11-28T08:00:20"):
        index(folder, out, embedder, name_pattern="gate_%Y%m%d_%H%M%S")
    assert not out.exists()
    one = [folder / f"gate_20261128_{name}.mp4" for name in ("080000", "080020")]
    index(one[0], out, embedder, name_pattern="gate_%Y%m%d_%H%M%S")
    with pytest.raises(FootageError, match=r"080000\.mp4 \(in the archive\).*080020\.mp4, 12\.0 s"):
        index(one[1], out, embedder, name_pattern="gate_%Y%m%d_%H%M%S")
    with pytest.raises(FootageError, match=r"080000\.mp4 \(in the archive\).*080000\.mp4, 31\.0 s"):
        index(one[0], out, embedder, starts=START_S + 1)  # the same file, at another time
    assert index(one[1], out, embedder, name_pattern="gate_%Y%m%d_%H%M%S", camera="hall").segments_added == 1
    assert len(Archive.open(out).segments) == 2


def test_small_overlaps_are_told_once_and_indexed(tmp_path: Path, embedder: Embedder) -> None:
    folder = tmp_path / "in"
    for name, seconds in (("080000", 12), ("080009", 14), ("080021", 4)):
        write(folder / f"gate_20261128_{name}.mp4", seconds)
    given: dict[str, Any] = {"name_pattern": "gate_%Y%m%d_%H%M%S"}
    with pytest.warns(FootageWarning) as told:
        report = index(folder, tmp_path / "a", embedder, **given)
    (text,) = (str(warning.message) for warning in told)
    for part in ("2 overlaps", "080000.mp4 and ", "080009.mp4, 3.0 s from 2026-11-28T08:00:09"):
        assert part in text
    assert report.segments_added == 3
    files = [folder / f"gate_20261128_{name}.mp4" for name in ("080000", "080009")]
    index(files[0], tmp_path / "b", embedder, **given)
    with pytest.warns(FootageWarning, match=r"1 overlap .*080000\.mp4 \(in the archive\).*3\.0 s"):
        index(files[1], tmp_path / "b", embedder, **given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert index(files[1], tmp_path / "b", embedder, **given).segments_there == 1  # it is known by now


def test_people_in_two_recordings_of_one_moment_are_no_strangers(tmp_path: Path, embedder: Embedder) -> None:
    write_truth(tmp_path / "gt.txt", PATHS, 40)
    finder, follower = front_end(tmp_path / "gt.txt")
    for name, start_s in (("a.mp4", START_S), ("b.mp4", START_S + 1)):
        video = write_video(tmp_path / name, paint_walkers(PATHS, 40))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FootageWarning)
            index(video, tmp_path / "a", embedder, starts=start_s, detector=finder, tracker=follower)
    store = Archive.open(tmp_path / "a")
    _, means = store.means()
    assert len(store) == 4
    assert len(_strangers(list(store.tracklets()), means @ means.T)) == 2  # one pair in each recording


DESCRIBED: dict[str, Any] = {
    "size": (640, 480), "threshold": np.float32(0.5), "classes": np.array([0, 2]), "path": PurePosixPath("a/b.onnx"),
    "deep": [{"scale": np.int64(2), 3: True}], "none": None,
}  # fmt: skip


def test_descriptions_are_stored_as_json_and_indexing_resumes(tmp_path: Path, embedder: Embedder) -> None:
    gate, out = write(tmp_path / "gate.mp4"), tmp_path / "a"
    given: dict[str, Any] = {
        "detector": FindsNoOne(**DESCRIBED),
        "tracker": FindsNoOne(sizes=(1, 2)),
        "starts": START_S,
    }
    given["settings"] = IndexSettings(fps=np.float32(5), crops=np.int64(3), appearance=False)
    assert index(gate, out, embedder, **given).segments_added == 1
    assert index(gate, out, embedder, **given).segments_there == 1
    stored = Archive.open(out).segments[0]["detector"]
    assert stored == {
        "detector": "no one", "size": [640, 480], "threshold": 0.5, "classes": [0, 2], "path": "a/b.onnx",
        "deep": [{"scale": 2, "3": True}], "none": None,
    }  # fmt: skip
    with pytest.raises(GalleryError, match=r"detector: threshold was 0\.5, now 0\.25; use the same"):
        index(gate, out, embedder, **{**given, "detector": FindsNoOne(**{**DESCRIBED, "threshold": 0.25})})


@pytest.mark.parametrize(
    ("value", "named"), [({1, 2}, "set"), (object(), "object"), (float("nan"), "nan"), (np.float32("inf"), "inf")]
)
def test_descriptions_that_json_cannot_hold_are_refused(
    value: object, named: str, tmp_path: Path, embedder: Embedder
) -> None:
    gate = write(tmp_path / "gate.mp4")
    with pytest.raises(FootageError, match=f"detector.*'sizes', \\[1\\] is .*{named}"):
        index(gate, tmp_path / "a", embedder, starts=START_S, detector=FindsNoOne(sizes=[1, value]))
    with pytest.raises(FootageError, match="tracker, 'x'"):
        index(gate, tmp_path / "a", embedder, starts=START_S, tracker=FindsNoOne(x=value))
    plain = FindsNoOne()
    plain.description = "yolo"
    with pytest.raises(FootageError, match="description of the detector is of type str"):
        describe(plain, FindsNoOne(), IndexSettings())
    assert not (tmp_path / "a").exists()


def test_numpy_settings_do_not_round_times(tmp_path: Path, embedder: Embedder) -> None:
    settings = IndexSettings(segment_s=np.float32(10), appearance=False)
    index(write(tmp_path / "gate.mp4", 14), tmp_path / "a", embedder, starts=START_S, settings=settings)
    assert [s["start_s"] - START_S for s in Archive.open(tmp_path / "a").segments] == [0, 10]


def test_a_recording_that_has_grown_is_left_out_and_the_others_are_indexed(
    tmp_path: Path, embedder: Embedder, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "in", tmp_path / "a"
    given: dict[str, Any] = {"name_pattern": "%Y%m%d_%H%M%S"}
    grown = write(folder / "20261128_080100.mp4", 2)
    write(folder / "20261128_080000.mp4")
    index(folder, out, embedder, **given)
    before = {p: p.read_bytes() for p in out.rglob("segment.json")}
    write(grown, 20)
    write(folder / "20261128_080200.mp4")
    report = index(folder, out, embedder, **given)
    assert (report.segments_added, report.segments_there) == (1, 1)
    (line,) = report.troubles
    for part in (str(grown), "gate/080100.000", "frames was 10, now 100", "size in bytes was", "delete its segments"):
        assert part in line
    assert {p: p.read_bytes() for p in before} == before
    with pytest.raises(GalleryError, match=r"080100\.mp4.*frames was 10, now 100"):
        index(grown, out, embedder, **given)
    for how in ((), ("--runner", "local")):
        status, printed, err = run(
            capsys, "video", "index", folder, "--camera", "gate", "--out", out, "--name-pattern", "%Y%m%d_%H%M%S",
            "--detector", "motion", "--device", "cpu", *how,
        )  # fmt: skip
        assert (status, "detector was 'no one', now 'motion'" in err, printed) == (EXIT_ERROR, True, "")


def test_many_processes_leave_out_a_recording_that_has_grown(
    tmp_path: Path, embedder: Embedder, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of work does not contain it; without running the list, only what is planned is compared."""
    from osnet.video import spread

    folder, out = tmp_path / "in", tmp_path / "a"
    files = [write(folder / f"20261128_080{n}00.mp4") for n in (0, 1)]
    given: dict[str, Any] = {"name_pattern": "%Y%m%d_%H%M%S", "settings": IndexSettings(appearance=False)}
    from osnet.video import make_tracker

    index(files, out, embedder, detector=make_detector("motion"), tracker=make_tracker(), **given)
    write(files[1], 4)
    monkeypatch.setattr(spread, "run_work", lambda *_, **__: None)
    report = index_on_many(
        files, out, camera="gate", embedder=embedder, weights=tiny_weights, detector="motion", **given
    )
    assert (report.segments_added, report.segments_there) == (0, 1)
    assert str(files[1]) in report.troubles[0]


def test_the_command_ends_with_a_status_for_a_recording_that_has_grown(
    tmp_path: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    grown = [write(folder / f"20261128_080{n}00.mp4") for n in (0, 1)][1]
    args = (
        "video", "index", folder, "--camera", "gate", "--out", tmp_path / "a", "--name-pattern", "%Y%m%d_%H%M%S",
        "--detector", "motion", "--device", "cpu", "--weights", tiny_weights,
    )  # fmt: skip
    assert run(capsys, *args)[0] == 0
    write(grown, 4)
    status, out, err = run(capsys, *args)
    assert (status, "1 segments were there" in out) == (EXIT_FOUND_TROUBLE, True)
    assert f"{grown} was left out" in err


def test_files_after_one_that_has_grown_are_not_indexed_at_a_second_time(tmp_path: Path, embedder: Embedder) -> None:
    folder, out = tmp_path / "in", tmp_path / "a"
    files = [write(folder / f"{n}.mp4", seconds) for n, seconds in ((1, 2), (2, 2), (3, 3))]
    index(folder, out, embedder, starts=START_S)
    write(files[1], 20)
    write(folder / "4.mp4", 1)
    report = index(folder, out, embedder, starts=START_S)
    assert [line.split(" ")[0] for line in report.troubles] == [str(files[1]), str(files[2])]
    assert "its start (Unix time) was" in report.troubles[1]
    assert starts_of(out) == {"1.mp4": 0, "2.mp4": 2, "3.mp4": 4, "4.mp4": 25}


def test_other_footage_of_the_same_time_is_named(tmp_path: Path, embedder: Embedder) -> None:
    index(write(tmp_path / "a.mp4"), tmp_path / "out", embedder, starts=START_S)
    with pytest.raises(GalleryError, match=r"b\.mp4 was left out.*a\.mp4, which is other footage"):
        index(write(tmp_path / "b.mp4"), tmp_path / "out", embedder, starts=START_S)


def moment(*fields: int) -> float:
    return datetime(*fields, tzinfo=UTC).timestamp()  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    ("name", "pattern", "want"),
    [
        ("gate_20261128_0214PM.mp4", "gate_%Y%m%d_%I%M%p", moment(2026, 11, 28, 14, 14)),
        ("gate_20261128_1214am.mp4", "gate_%Y%m%d_%I%M%p", moment(2026, 11, 28, 0, 14)),
        ("28Mar26_0814.mp4", "%d%b%y_%H%M", moment(2026, 3, 28, 8, 14)),
        ("100%20261128_08.mp4", "100%%%Y%m%d_%H", moment(2026, 11, 28, 8)),
        ("20261128081405.5.mp4", "%Y%m%d%H%M%S.%f", moment(2026, 11, 28, 8, 14, 5) + 0.5),
        ("20261128T091405+0100.mkv", "%Y%m%dT%H%M%S%z", moment(2026, 11, 28, 8, 14, 5)),
        ("20261128T081405Z.mkv", "%Y%m%dT%H%M%S%z", moment(2026, 11, 28, 8, 14, 5)),
        ("daily-20261128.mp4", "daily-%Y%m%d", moment(2026, 11, 28)),
    ],
)
def test_patterns_of_names(name: str, pattern: str, want: float) -> None:
    assert start_from_name(Path(name), pattern) == want


@pytest.mark.parametrize(
    ("name", "pattern", "named"),
    [
        ("2026_33.mp4", "%Y_%j", "%j"),
        ("20261128_0214.mp4", "%Y%m%d_%I%M", "%I and %p"),
        ("20261128_0214PM.mp4", "%Y%m%d_%H%M%p", "%I and %p"),
        ("20261128_1314PM.mp4", "%Y%m%d_%I%M%p", "hour 13"),
        ("28November2026.mp4", "%d%B%Y", "%B"),
        ("1795852800.mp4", "%s", "%s"),
        ("2026-48-6.mp4", "%G-%V-%u", "%G"),
        ("20261128.mp4", "%Y%m%d%-H", "%-"),
        ("2026.mp4", "%Y", "no month"),
        ("202611.mp4", "%Y%m", "no day"),
        ("1128_0814.mp4", "%m%d_%H%M", "no year"),
        ("20261128_14.mp4", "%Y%m%d_%M", "%M without %H"),
        ("20261128_0814.mp4", "%Y%m%d_%H%S", "%S without %M"),
        ("20261128_26.mp4", "%Y%m%d_%y", "year twice"),
        ("20261128_20261129.mp4", "*%Y%m%d*", "several ways"),
        ("20261328_0814.mp4", "%Y%m%d_%H%M", "month"),
        ("٢٠٢٦1128.mp4", "%Y%m%d", "does not match"),
    ],
)
def test_patterns_that_do_not_give_one_moment_are_refused(name: str, pattern: str, named: str) -> None:
    with pytest.raises(FootageError, match="(?s)" + named):
        start_from_name(Path(name), pattern)


def test_patterns_do_not_depend_on_the_locale() -> None:
    import locale

    before = locale.setlocale(locale.LC_TIME)
    try:
        locale.setlocale(locale.LC_TIME, "de_DE.UTF-8")
    except locale.Error:
        pytest.skip("the locale de_DE.UTF-8 is not installed")
    try:
        assert start_from_name(Path("28oct2026_02PM.mp4"), "%d%b%Y_%I%p") == moment(2026, 10, 28, 14)
    finally:
        locale.setlocale(locale.LC_TIME, before)


@pytest.mark.parametrize(
    ("text", "named"),
    [("2026-10-25T02:30:00", r"twice.*\+02:00.*\+01:00"), ("2026-03-29T02:30:00", "not at all")],
)
def test_times_of_a_clock_change_are_refused(text: str, named: str) -> None:
    with pytest.raises(FootageError, match=f"starts.*{text}.*{named}"):
        parse_start(text, BERLIN)
    name = Path(f"{text.replace(':', '')}.mp4")
    with pytest.raises(FootageError, match=f"{name}.*{named}.*--starts"):
        start_from_name(name, "%Y-%m-%dT%H%M%S", BERLIN)
    assert parse_start(text + "+01:00", BERLIN) == parse_start(text[:11] + "01:30:00Z")
    assert parse_start("2026-10-25T03:30:00", BERLIN) == moment(2026, 10, 25, 2, 30)


def test_a_threshold_that_has_no_effect_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FootageError, match=r"0\.5.*motion"):
        make_detector("motion", 0.5)
    gate = write(tmp_path / "gate.mp4")
    write_truth(tmp_path / "gt.txt", PATHS, 10)
    with pytest.raises(FootageError, match="threshold 5"):
        make_detector(tmp_path / "gt.txt", 5)
    args = ("video", "index", gate, "--camera", "gate", "--out", tmp_path / "a")
    for more, named in (
        (("--detector", "motion", "--threshold", "0.5"), "threshold 0.5"),
        (("--tracks", tmp_path / "gt.txt", "--threshold", "0.5"), "--threshold 0.5"),
        (("--tracks", tmp_path / "gt.txt", "--tracker", "sort"), "--tracker sort"),
    ):
        status, _, err = run(capsys, *args, *more)
        assert (status, named in err) == (EXIT_ERROR, True), more
    assert not (tmp_path / "a").exists()


def test_box_files_with_capitals_and_a_byte_order_mark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_truth(tmp_path / "A.TXT", PATHS, 3)
    plain = [MotFile(path).at(n)[0].xyxy.tolist() for n in (1, 2, 3)]
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [MotFile(path).at(n)[0].xyxy.tolist() for n in (1, 2, 3)] == plain
    assert make_detector(path).description["detector"] == "MOTChallenge text"
    for name in ("B.ONNX", "B.XML"):
        (tmp_path / name).touch()
        with pytest.raises(FootageError, match=f"{name}.* cannot be used"):
            make_detector(tmp_path / name)
    pytest.importorskip("fastapi")
    pytest.importorskip("argon2")
    status, _, err = run(capsys, "serve", tmp_path / "archive", "--detector", path)
    assert (status, "belongs to one video" in err) == (EXIT_ERROR, True)


def test_a_camera_that_an_archive_does_not_have_is_named(
    tmp_path: Path, embedder: Embedder, capsys: pytest.CaptureFixture[str]
) -> None:
    write_truth(tmp_path / "gt.txt", PATHS, 40)
    finder, follower = front_end(tmp_path / "gt.txt")
    video = write_video(tmp_path / "gate.mp4", paint_walkers(PATHS, 40))
    index(video, tmp_path / "a", embedder, starts=START_S, detector=finder, tracker=follower)
    photo = next(Archive.open(tmp_path / "a").tracklets()).best_crop.path
    search = ("search", tmp_path / "a", photo, "--device", "cpu", "--camera")
    for cameras in (("gaet",), ("gate", "gaet")):  # with and without hits
        status, _, err = run(capsys, *search, *cameras)
        assert (status, "no camera 'gaet'; it has 'gate'" in err) == (0, True)
    assert "camera" not in run(capsys, *search, "gate")[2]


def test_parse_time_names_the_flag() -> None:
    from osnet.data.folder import parse_time

    with pytest.raises(DataError, match="--after"):
        parse_time("2026-10-25T02:30:00", "--after", zone=BERLIN)
