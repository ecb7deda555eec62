"""The demo: painted footage is indexed, searched and compared with the ground truth."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av")
pytest.importorskip("cv2")
pytest.importorskip("trackers")

from PIL import Image

from osnet import Embedder, cli
from osnet.cli.common import EXIT_ERROR
from osnet.demo import QUICK, run_demo
from osnet.demo.page import FoundPerson, ShownHit, draw_answer
from osnet.demo.painted_search import CAUTION, weights_folder
from osnet.errors import OutputError
from osnet.progress import no_progress
from osnet.synthetic.footage import FootageSettings
from osnet.video import Archive
from test_demo import Page
from test_video_archive import digest_of

SMALL = FootageSettings(people=3, cameras=2, seconds=14, fps=5, seed=3)


@pytest.fixture(scope="module")
def bars() -> Counter[str]:
    """How far each progress bar of the demo came."""
    return Counter()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, bars: Counter[str]) -> Path:
    def count(items: Iterable[Any], _total: int, label: str) -> Iterator[Any]:
        for item in items:
            bars[label] += 1
            yield item

    out = tmp_path_factory.mktemp("demo") / "out"
    run_demo(out, SMALL, count)
    return out


def test_painting_and_indexing_show_how_far_they_are(demo: Path, bars: Counter[str]) -> None:
    """A bar for the frames that are painted, and one for each camera that is indexed."""
    num_frames = round(SMALL.seconds * SMALL.fps)
    assert bars == {"frames": 2 * num_frames, "camera-1": num_frames, "camera-2": num_frames}


def test_the_page_agrees_with_the_files(demo: Path) -> None:
    page = Page((demo / "index.html").read_text())
    found = json.loads((demo / "demo.json").read_text())
    assert all(a.startswith(("data:image/jpeg;base64,", "clip.mp4")) for a in page.addresses)
    assert CAUTION in page.words
    assert f"{found['first']} of {found['people']} people" in page.words
    assert found["by_chance"] <= 1
    assert found["tracklets"] == len(Archive.open(demo / "archive"))
    assert set(found["tracking"]) == {"camera-1", "camera-2"}
    assert Image.open(demo / "answer.png").width > 600
    assert (demo / "clip.mp4").stat().st_size > 1000
    assert page.words.count("✓ same") + page.words.count("✗ other") == page.words.count("camera-") - 4  # frames, table


def test_found_people_were_in_view_at_that_time(demo: Path) -> None:
    """By the footage's plan of visits; the demo itself uses the true boxes."""
    archive = Archive.open(demo / "archive", Embedder(weights_folder(), device="cpu"))
    visits = json.loads((demo / "footage" / "footage.json").read_text())["visits"]
    start = archive.segments[0]["start_s"]
    right = 0
    for pid in range(1, SMALL.people + 1):
        seen = archive.tracklet(archive.search(demo / "footage" / "photos" / f"{pid:04d}.jpg", top=1)[0].item.source)
        right += any(
            v["pid"] == pid
            and f"camera-{v['camera']}" == seen.camera
            and v["begin_s"] - 0.5 <= seen.begin_s - start
            and seen.end_s - start <= v["end_s"] + 0.5
            for v in visits
        )
    assert right >= 2
    assert right >= json.loads((demo / "demo.json").read_text())["first"]


def test_a_second_run_adds_nothing_and_other_footage_is_refused(demo: Path) -> None:
    before_s = {path: path.stat().st_mtime_ns for path in demo.glob("footage/*")}
    before = digest_of(demo / "archive")
    run_demo(demo, SMALL, no_progress)
    assert {path: path.stat().st_mtime_ns for path in demo.glob("footage/*")} == before_s
    assert digest_of(demo / "archive") == before
    with pytest.raises(OutputError, match="footage"):
        run_demo(demo, replace(SMALL, seed=4), no_progress)


def test_answer_frames_are_green_if_right_and_red_if_wrong(demo: Path) -> None:
    tracklet = next(Archive.open(demo / "archive").tracklets())
    frame = Image.new("RGB", (512, 288), "blue")
    hits = [ShownHit(1, 0.9, tracklet, 7, frame), ShownHit(2, 0.8, tracklet, 8, frame)]
    drawn = np.asarray(draw_answer(FoundPerson(7, tracklet.best_crop.path, hits))).astype(int)
    green, red = ((np.abs(drawn - colour).sum(2) < 30).nonzero()[1] for colour in ((26, 127, 55), (198, 40, 40)))
    assert len(green) > 500
    assert len(red) > 500
    assert green.max() < red.min(), "the first hit must be left of the second"


def test_demo_weights_are_small_and_have_a_card() -> None:
    assert sum(path.stat().st_size for path in weights_folder().iterdir()) < 1_000_000
    card = Embedder(weights_folder(), device="cpu").network.card
    assert card is not None
    assert "generated" in card.training_data


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_quick_demo_command_and_the_commands_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    cli.main(["demo", "--quick", "--out", str(out)])
    printed = capsys.readouterr().out
    assert str(out / "index.html") in printed
    command = next(line for line in printed.splitlines() if line.startswith("osnet search"))
    cli.main([*command.split()[1:4], "--json"])
    hits = json.loads(capsys.readouterr().out)["hits"]
    assert hits[0]["score"] > hits[1]["score"]
    cli.main(["video", "show", str(out / "archive"), "--check"])
    assert f"{QUICK.cameras} cameras" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        cli.main(["demo", "--out", str(out)])
    assert stopped.value.code == EXIT_ERROR
