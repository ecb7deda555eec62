"""The `osnet video` commands."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")
pytest.importorskip("trackers")

from PIL import Image

from osnet.cli import main
from osnet.cli.common import EXIT_ERROR, EXIT_FOUND_TROUBLE
from osnet.cli.gallery import choose_weights
from osnet.errors import GalleryError
from osnet.video import Archive, open_footage
from osnet.video.archive import ARCHIVE_FILE
from osnet.video.motfile import MotFile
from osnet.video.source import read_frames
from osnet.weights.open_model_zoo import DEFAULT_WEIGHTS
from small_footage import SIZE_WH, numbered, paint_walkers, walk, write_truth, write_video

PATHS = [walk(2, 20, 1.0, 0, 120), walk(140, 70, -0.6, 30, 230)]
STARTS = "2026-11-28T09:00:00+01:00"


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = 0
    group = () if args[0] == "search" else ("video",)
    try:
        main([*group, *(str(arg) for arg in args)])
    except SystemExit as stop:
        status = int(stop.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gate")
    write_truth(folder / "det.txt", PATHS, 230, ids=False)
    write_truth(folder / "gt.txt", PATHS, 230)
    return write_video(folder / "gate.mp4", paint_walkers(PATHS, 230))


@pytest.fixture(scope="module")
def archive(gate: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("archive") / "a"
    given = ["--camera", "gate", "--starts", STARTS, "--weights", tiny_weights, "--segment-s", 15, "--device", "cpu"]
    main([str(arg) for arg in ["video", "index", gate, "--out", out, "--detector", gate.with_name("det.txt"), *given]])
    return out


def test_index_resumes(archive: Path, gate: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = ("index", gate, "--camera", "gate", "--starts", STARTS, "--out", archive, "--segment-s", 15)
    status, out, _ = run(capsys, *again, "--detector", gate.with_name("det.txt"))  # the archive has the weights
    assert status == 0
    assert out.startswith("0 segments with 0 tracklets added")
    assert "2 segments were there" in out


def test_weights_of_an_archive(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As named; else the archive's copy; a new archive gets the default weights, as a new gallery does."""
    assert choose_weights(archive, ARCHIVE_FILE, None) == str(archive / "weights")
    assert choose_weights(archive, ARCHIVE_FILE, "osnet_x0_25_msmt17") == "osnet_x0_25_msmt17"
    assert choose_weights(tmp_path / "new", ARCHIVE_FILE, None) == DEFAULT_WEIGHTS
    assert DEFAULT_WEIGHTS in capsys.readouterr().err
    (tmp_path / "a").mkdir()
    shutil.copy(archive / ARCHIVE_FILE, tmp_path / "a")
    with pytest.raises(GalleryError, match="--weights"):
        choose_weights(tmp_path / "a", ARCHIVE_FILE, None)


def test_search_prints_camera_and_times(archive: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    store = Archive.open(archive)
    wanted = next(iter(store.tracklets()))
    photo, sheet, clip = wanted.best_crop.path, tmp_path / "hits.png", tmp_path / "best.mp4"
    status, out, err = run(capsys, "search", archive, photo, "--json", "--sheet", sheet, "--clip", clip, "--top", 3)
    assert (status, err) == (0, "")
    hits = json.loads(out)["hits"]
    assert [h["rank"] for h in hits] == [1, 2, 3][: len(hits)]
    best = store.tracklet(hits[0]["source"])
    assert (hits[0]["camera"], hits[0]["from"][:19]) == ("gate", "2026-11-28T08:00:00")
    assert hits[0]["time_s"] == best.begin_s
    assert Image.open(hits[0]["thumbnail"]).size == Image.open(best.best_crop.path).size
    assert hits[0]["frames"] == [int(best.numbers[0]), int(best.numbers[-1])]
    assert Image.open(sheet).width > 200
    frames = list(read_frames(open_footage(clip, 0.0)))
    first, last = (int(n) for n in (best.numbers[0], best.numbers[-1]))
    assert len(frames) == min(230, last + 9) - max(1, first - 10) + 1  # a second more on either side
    assert f"drawn in {sheet}\n" in run(capsys, "search", archive, photo, "--sheet", sheet)[1]
    status, out, _ = run(capsys, "search", archive, photo, "--before", "2026-11-28T07:00:00Z")
    assert status == 0
    assert str(wanted.best_crop.path) not in out
    assert len(out.splitlines()) == 2  # the heading, and that there is none


@pytest.mark.parametrize("args", [("--with", "hat"), ("--identity", "7"), ("--min-probability", "0.5")])
def test_search_refuses_filters_that_an_archive_does_not_store(
    archive: Path, args: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    photo = next(Archive.open(archive).tracklets()).best_crop.path
    status, _, err = run(capsys, "search", archive, photo, *args)
    assert status == EXIT_ERROR
    assert args[0] in err
    assert run(capsys, "search", archive)[0] == EXIT_ERROR


@pytest.mark.parametrize("args", [("--clip", "best.mp4"), ("--pool", "mean")])
def test_search_in_a_gallery_refuses_the_options_of_archives(
    args: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = run(capsys, "search", "gallery", "photo.jpg", *args)
    assert status == EXIT_ERROR
    assert args[0] in err


def test_track_and_draw(gate: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tracks, drawn = tmp_path / "tracks.txt", tmp_path / "drawn.mp4"
    status, out, _ = run(capsys, "track", gate, "--detector", gate.with_name("det.txt"), "--out", tracks)
    assert (status, out.split()[0]) == (0, "2")
    found = MotFile(tracks)
    assert found.num_frames == 230
    assert len(found) > 300
    assert run(capsys, "draw", gate, "--tracks", tracks, "--out", drawn)[0] == 0
    frames, plain = (list(read_frames(open_footage(path, 0.0))) for path in (drawn, gate))
    assert len(frames) == 230
    left, top, right, bottom = (round(v) for v in found.at(100)[0].xyxy[0])
    changed = np.abs(frames[99].image.astype(int) - plain[99].image).max(2) > 60
    edge = changed[top : top + 2, left:right].mean(), changed[bottom - 2 : bottom, left:right].mean()
    assert min(edge) > 0.5, "the box's edges are drawn"
    assert frames[0].image.shape == (SIZE_WH[1], SIZE_WH[0], 3)


def test_link_decide_and_show(archive: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    figure = tmp_path / "when.png"
    status, out, _ = run(capsys, "link", archive, "--json", "--figure", figure)
    assert status == 0
    (border,) = json.loads(out)  # person 2 walks across the border at 15 s
    assert border["kind"] == "border"
    assert Image.open(figure).width > 300
    assert str(figure) in run(capsys, "link", archive, "--figure", figure)[1]
    assert run(capsys, "decide", archive, border["a"], border["b"], "--as", "rejected", "--by", "ann")[0] == 0
    assert json.loads(run(capsys, "link", archive, "--json")[1])[0]["decision"] == "rejected"
    status, out, _ = run(capsys, "show", archive, "--check")
    assert status == 0
    assert "gate: 2026-11-28T08:00:00.0Z to 2026-11-28T08:00:23.0Z" in out
    assert out.startswith(shown := run(capsys, "show", archive)[1])
    assert out != shown, "a check that finds nothing says so"


def test_faults_in_footage_are_listed_and_the_exit_code_is_1(
    tmp_path: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = write_video(tmp_path / "whole.mp4", numbered(100), options={"movflags": "faststart"})
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 3 // 4])
    write_truth(tmp_path / "det.txt", PATHS, 60, ids=False)
    status, out, err = run(
        capsys, "index", cut, "--camera", "gate", "--starts", STARTS, "--out", tmp_path / "a",
        "--weights", tiny_weights, "--detector", tmp_path / "det.txt", "--device", "cpu",
    )  # fmt: skip
    assert status == EXIT_FOUND_TROUBLE
    assert "1 segments" in out
    assert "cut.mp4 at " in err


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("--detector", "yolo9"), "yolo9"),
        ((), "--detector"),
        (("--detector", "motion", "--tracker", "deepsort"), "deepsort"),
        (("--detector", "motion", "--tracks", "gt.txt"), "--tracks"),
        (("--detector", "motion", "--zone", "Mars/Olympus"), "Mars/Olympus"),
        (("--detector", "motion", "--starts", "yesterday"), "yesterday"),
        (("--detector", "motion", "--fps", "0"), "fps"),
    ],
)
def test_errors_are_reported_before_anything_is_written(
    args: tuple[str, ...],
    named: str,
    gate: Path,
    tiny_weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "a"
    starts = () if "--starts" in args else ("--starts", STARTS)
    status, _, err = run(
        capsys, "index", gate, "--camera", "gate", "--out", out, "--weights", tiny_weights, *starts, *args
    )  # fmt: skip
    assert status == EXIT_ERROR
    assert named in err
    assert not out.exists()


def test_draw_does_not_replace_its_own_footage(gate: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = gate.read_bytes()
    assert run(capsys, "draw", gate, "--tracks", gate.with_name("gt.txt"), "--out", gate)[0] == EXIT_ERROR
    assert gate.read_bytes() == before
