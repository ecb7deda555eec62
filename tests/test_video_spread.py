"""Indexing footage with several processes gives the same archive as with one."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from osnet import Embedder
from osnet.errors import OutputError
from osnet.video import Archive, IndexSettings, index_footage, make_detector, make_tracker
from osnet.video.spread import index_on_many
from small_footage import paint_walkers, walk, write_truth, write_video
from small_runs import command_as, spawn

PATHS = [walk(2, 20, 1.0, 0, 120), walk(140, 70, -0.6, 30, 230), walk(20, 60, 0.5, 150, 250)]
GIVEN: dict[str, Any] = {"camera": "gate", "starts": 1795852800.0, "settings": IndexSettings(segment_s=10)}


@pytest.mark.slow
def test_workers_make_the_same_archive_as_one_process(tiny_weights: Path, tmp_path: Path) -> None:
    write_truth(tmp_path / "det.txt", PATHS, 250, ids=False)
    footage = write_video(tmp_path / "gate.mp4", paint_walkers(PATHS, 250))
    embedder = Embedder(tiny_weights, device="cpu", batch_size=8, backend="fastest")
    finder, follower = make_detector(tmp_path / "det.txt"), make_tracker("bytetrack")
    alone = index_footage(footage, tmp_path / "a", embedder=embedder, detector=finder, tracker=follower, **GIVEN)

    def on_many(**more: Any) -> Any:
        return index_on_many(
            [footage], tmp_path / "b", embedder=embedder, weights=tiny_weights, detector=str(tmp_path / "det.txt"),
            tracker="bytetrack", device="cpu", **GIVEN, **more,
        )  # fmt: skip

    many = on_many(workers=2)
    assert many == alone
    assert many.segments_added == 3
    for path in sorted((tmp_path / "a").rglob("*")):
        other = tmp_path / "b" / path.relative_to(tmp_path / "a")
        if path.suffix == ".npy" and path.stem in ("vectors", "means"):
            np.testing.assert_allclose(np.load(other), np.load(path), atol=1e-5)
        elif path.name in ("frames.npy", "times.npy", "boxes.npy") or path.suffix == ".jpg":
            assert other.read_bytes() == path.read_bytes(), path
    found = [str(tracklet) for tracklet in Archive.open(tmp_path / "b").tracklets()]
    assert found == [str(tracklet) for tracklet in Archive.open(tmp_path / "a").tracklets()]
    assert Archive.open(tmp_path / "b").check() == []
    index = ["video", "index", footage, "--camera", "gate", "--out", tmp_path / "c", "--detector", tmp_path / "det.txt"]
    given = ["--tracker", "bytetrack", "--weights", tiny_weights, "--starts", "2026-11-28T08:00:00"]
    how = ["--segment-s", "10", "--device", "cpu", "--batch-size", "8", "--runner", "torchrun"]
    spawn(command_as, tmp_path, *index, *given, *how)
    assert (tmp_path / "out-0").read_text().count("3 segments with") == 1
    assert (tmp_path / "out-1").read_text() == "", "only the first process reports"
    for path in sorted((tmp_path / "b").rglob("*.npy")):
        assert (tmp_path / "c" / path.relative_to(tmp_path / "b")).read_bytes() == path.read_bytes(), path
    again = on_many()
    assert (again.segments_added, again.segments_there) == (0, 3)
    shutil.rmtree(tmp_path / "b" / Archive.open(tmp_path / "b").segments[1]["name"])
    again = on_many()
    assert (again.segments_added, again.segments_there) == (1, 2), "what was removed is made again"
    with pytest.raises(OutputError, match="workers 0"):
        on_many(workers=0)
