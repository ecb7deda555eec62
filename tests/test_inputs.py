"""Boxes of a frame: memory, reuse of arrays, and crops equal to Pillow's."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import make_picture, write_picture
from osnet.data.transforms import resize_image
from osnet.embedding import inputs
from osnet.embedding.inputs import Frame, iterate_jobs
from osnet.types import ChannelOrder, Preprocessing

WHOLE_FRAME, SMALL = [0, 0, 64, 128], [5, 5, 15, 25]
SETTINGS = Preprocessing(size_hw=(32, 16))


def pixels_of(frame: Frame) -> list[np.ndarray]:
    return [np.asarray(crop.pixels) for job in iterate_jobs(frame, "rgb") for crop in job.run(SETTINGS)]


@pytest.mark.parametrize("boxes", [[SMALL], [WHOLE_FRAME, WHOLE_FRAME, SMALL]], ids=["small", "overlapping"])
@pytest.mark.parametrize("kind", ["array", "uint8", "float", "pillow"])
def test_a_frame_may_be_overwritten_before_its_crops_are_used(boxes: list[list[int]], kind: str) -> None:
    picture = make_picture(3)
    array = np.array(picture)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    image = {"array": array, "uint8": tensor, "float": tensor / 255, "pillow": picture}[kind]
    expected = pixels_of(Frame(image, boxes))
    jobs = list(iterate_jobs(Frame(image, boxes), "rgb"))
    if kind == "pillow":
        picture.paste((0, 0, 0), (0, 0, 64, 128))
    else:
        image[:] = 0
    found = [np.asarray(crop.pixels) for job in jobs for crop in job.run(SETTINGS)]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.max() > 0


@pytest.mark.parametrize("on_disk", [True, False])
def test_large_boxes_are_cropped_one_at_a_time(on_disk: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """500 boxes of a whole 4K frame would take 12 GB, so only one crop is in memory at a time."""
    path = write_picture(tmp_path / "a.png", 3)
    events: list[str] = []
    cut, prepare = inputs._cut, inputs._prepare
    monkeypatch.setattr(inputs, "_cut", lambda *a: (events.append("cut"), cut(*a))[1])
    monkeypatch.setattr(inputs, "_prepare", lambda *a: (events.append("prepared"), prepare(*a))[1])
    crops = pixels_of(Frame(path if on_disk else np.array(make_picture(3)), [WHOLE_FRAME] * 20))
    assert len(crops) == 20
    assert events == ["cut", "prepared"] * 20


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
@pytest.mark.parametrize("layout", ["plain", "read-only", "planes", "mirrored", "reversed", "every second", "tensor"])
def test_crops_match_pillow(channels: ChannelOrder, layout: str) -> None:
    """Crops larger and smaller than the network's input, against Pillow's crop and resize."""
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (200, 240, 3), dtype=np.uint8)
    boxes = [
        [0, 0, 3, 2],
        [10, 20, 26, 52],
        [5.9, 7.2, 100.5, 199],
        [200, 100, 400, 300],
        [0, 0, 240, 200],
        [3, 3, 9, 99],
    ]
    given: np.ndarray | torch.Tensor = frame
    if layout == "read-only":
        given = np.frombuffer(frame.tobytes(), np.uint8).reshape(frame.shape)
    elif layout == "planes":
        given = frame.transpose(2, 0, 1).copy().transpose(1, 2, 0)
    elif layout == "mirrored":
        given = frame[:, ::-1].copy()[:, ::-1]
    elif layout == "reversed":
        given = frame[..., ::-1].copy()[..., ::-1]
    elif layout == "every second":
        given = np.repeat(np.repeat(frame, 2, 0), 2, 1)[::2, ::2]
    elif layout == "tensor":
        given = torch.from_numpy(frame).permute(2, 0, 1)
    picture = Image.fromarray(np.ascontiguousarray(frame[..., ::-1] if channels == "bgr" else frame))
    crops = [crop for job in iterate_jobs(Frame(given, boxes), channels) for crop in job.run(SETTINGS)]
    assert [crop.name for crop in crops] == [f"input box {i}" for i in range(len(boxes))]
    for crop, (left, top, right, bottom) in zip(crops, np.array(boxes, int), strict=True):
        cut = picture.crop((left, top, min(240, right), min(200, bottom)))
        np.testing.assert_array_equal(np.asarray(crop.pixels), resize_image(cut, SETTINGS))
