"""Generated footage: its ground truth is right, and people are detected in it."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")
pytest.importorskip("cv2")

from osnet.errors import DataError, OutputError
from osnet.synthetic.footage import FRAME_HW, FootageSettings, PaintedCamera, plan_visits
from osnet.video import open_footage
from osnet.video.detectors import MotionDetector, iou
from osnet.video.motfile import MotFile
from osnet.video.painted import write_painted_footage
from osnet.video.protocols import VideoFrame
from osnet.video.source import read_frames

SMALL = FootageSettings(people=6, cameras=2, seconds=24, fps=5, seed=3)


def test_nobody_is_in_two_views_at_once() -> None:
    for seed in range(5):
        by_person: dict[int, list[tuple[float, float]]] = {}
        for visit in plan_visits(FootageSettings(seed=seed)):
            by_person.setdefault(visit.pid, []).append((visit.begin_s, visit.end_s))
        for spans in by_person.values():
            spans.sort()
            assert all(later[0] > earlier[1] for earlier, later in pairwise(spans))
        assert sum(len(spans) > 1 for spans in by_person.values()) >= 6


def test_the_boxes_hold_all_that_is_no_ground() -> None:
    camera = PaintedCamera(SMALL, 1)
    left, right, _ = camera._post
    checked = 0
    for place in range(0, camera.num_frames, 6):
        picture, boxes = camera.frame(place)
        here = [v for v in camera._visits if v.begin_s <= place / SMALL.fps < v.end_s]
        if len(here) != len(boxes):
            continue
        changed = np.abs(picture.astype(int) - camera._ground).max(2) > 24
        changed[:, left:right] = False
        for one in boxes:
            x0, y0, x1, y1 = one.box
            assert 0 <= x0 < x1 <= FRAME_HW[1]
            assert 0 <= y0 < y1 <= FRAME_HW[0]
            changed[y0:y1, x0:x1] = False
            checked += 1
        assert not changed.any()
    assert checked >= 5


def test_the_same_settings_give_the_same_frame() -> None:
    one, again = PaintedCamera(SMALL, 2), PaintedCamera(SMALL, 2)
    for place in (40, 10):  # in any order
        assert np.array_equal(one.frame(place)[0], again.frame(place)[0])
    assert not np.array_equal(one.frame(10)[0], PaintedCamera(FootageSettings(seed=4, cameras=2), 2).frame(10)[0])


def test_the_motion_detector_finds_the_painted_people() -> None:
    camera, detector = PaintedCamera(SMALL, 1), MotionDetector(learns_at_fps=5)
    found = 0
    people = 0
    for place, (picture, boxes) in enumerate(camera.frames()):
        got = detector.detect(VideoFrame(picture, place / 5, place + 1))
        clear = np.array([b.box for b in boxes if b.visible > 0.95], np.float32).reshape(-1, 4)
        if place > 5 and len(clear):
            people += len(clear)
            found += int((iou(clear, got.xyxy) > 0.5).any(1).sum()) if len(got) else 0
    assert people > 40
    assert found / people > 0.7


def test_files_of_painted_footage(tmp_path: Path) -> None:
    settings = FootageSettings(people=4, cameras=2, seconds=6, fps=5, seed=3)
    videos = write_painted_footage(tmp_path / "f", settings)
    assert [v.name for v in videos] == ["camera-1.mp4", "camera-2.mp4"]
    for number, video in enumerate(videos, 1):
        footage = open_footage(video)  # it says itself when it was taken
        assert len(footage.times_s) == 30
        truth, camera = MotFile(video.with_suffix(".txt")), PaintedCamera(settings, number)
        assert len(truth) == sum(len(boxes) for _, boxes in camera.frames())
        frame = next(iter(read_frames(footage, 2.0)))
        assert np.abs(frame.image.astype(int) - camera.frame(10)[0]).mean() < 8  # compressed
    assert len(list((tmp_path / "f" / "photos").iterdir())) == 4
    assert json.loads((tmp_path / "f" / "footage.json").read_text())["people"] == 4
    with pytest.raises(OutputError, match="exists"):
        write_painted_footage(tmp_path / "f", settings)


def test_bad_settings_are_named() -> None:
    for name, value in (("people", 0), ("cameras", 99), ("fps", 0), ("seed", -1)):
        with pytest.raises(DataError, match=name):
            FootageSettings(**{name: value})
