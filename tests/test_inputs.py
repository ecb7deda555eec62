"""Frames with many boxes: what is kept of them, and for how long."""

from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import make_picture, write_picture
from osnet.embedding import inputs
from osnet.embedding.inputs import Frame, iterate_jobs
from osnet.types import Preprocessing

WHOLE, LITTLE = [0, 0, 64, 128], [5, 5, 15, 25]
SETTINGS = Preprocessing(size_hw=(32, 16))


def pixels_of(frame: Frame) -> list[np.ndarray]:
    (job,) = iterate_jobs(frame, "rgb")
    return [np.asarray(crop.pixels) for crop in job.run(SETTINGS)]


@pytest.mark.parametrize("boxes", [[LITTLE], [WHOLE, WHOLE, LITTLE]], ids=["little", "overlapping"])
@pytest.mark.parametrize("kind", ["array", "uint8", "float", "pillow"])
def test_a_frames_memory_may_be_reused(boxes: list[list[int]], kind: str) -> None:
    picture = make_picture(3)
    array = np.array(picture)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    image = {"array": array, "uint8": tensor, "float": tensor / 255, "pillow": picture}[kind]
    expected = pixels_of(Frame(image, boxes))
    (job,) = iterate_jobs(Frame(image, boxes), "rgb")
    if kind == "pillow":
        picture.paste((0, 0, 0), (0, 0, 64, 128))
    else:
        image[:] = 0
    found = [np.asarray(crop.pixels) for crop in job.run(SETTINGS)]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.max() > 0


@pytest.mark.parametrize("on_disk", [True, False])
def test_boxes_that_cover_a_frame_many_times_are_cut_one_by_one(
    on_disk: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 boxes of a whole 4K frame would be 12 GB; never is more than one crop beside the frame."""
    path = write_picture(tmp_path / "a.png", 3)
    events: list[str] = []
    cut, prepare = inputs._cut, inputs._prepare
    monkeypatch.setattr(inputs, "_cut", lambda *a: (events.append("cut"), cut(*a))[1])
    monkeypatch.setattr(inputs, "_prepare", lambda *a: (events.append("prepared"), prepare(*a))[1])
    crops = pixels_of(Frame(path if on_disk else np.array(make_picture(3)), [WHOLE] * 20))
    assert len(crops) == 20
    assert events == ["cut", "prepared"] * 20
