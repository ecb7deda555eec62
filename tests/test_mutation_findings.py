"""Faults that a mutation run (tests/mutation/run.py) put in and no other test noticed."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from osnet.data.reid import cuhk03_images
from osnet.errors import DataError
from osnet.weights.checkpoint import read_checkpoint
from osnet.weights.torchreid import training_data_from_file
from stand_ins import write_random_weights


@pytest.mark.parametrize(("data", "size_hw"), [("imagenet", (224, 224)), ("market1501", (256, 128))])
def test_the_size_that_a_file_of_the_zoo_was_trained_at(data: str, size_hw: tuple[int, int], tmp_path: Path) -> None:
    """ImageNet's weights saw 224 x 224 (supplement, section C), all others 256 x 128 (paper, section 4.1)."""
    card = read_checkpoint(write_random_weights(tmp_path / f"osnet_x0_25_{data}.pth")).card
    assert (card.training_data, card.preprocessing.size_hw) == (data, size_hw)


@pytest.mark.parametrize(
    ("name", "num_classes", "data"),
    [
        ("osnet_ain_x1_0_msmt17.pth", 4101, "msmt17_combineall"),
        ("osnet_ain_x1_0_msmt17.pth", 0, "msmt17_combineall"),  # without a classifier the zoo's name decides
        ("osnet_ain_x1_0_msmt17.pth", 1041, "msmt17"),  # the people of the training split
        ("osnet_x1_0_msmt17_combineall.pth", 1041, "msmt17"),
        ("osnet_x1_0_msmt17.pth", 1041, "msmt17"),
        ("osnet_x1_0_msmt17.pth", 4101, "msmt17_combineall"),
    ],
)
def test_the_part_of_msmt17_that_was_trained_on(name: str, num_classes: int, data: str) -> None:
    assert training_data_from_file(Path(name), num_classes) == data


@pytest.mark.parametrize(
    ("shape", "kind"), [((4, 2, 3), np.uint16), ((4, 2, 4), np.uint8), ((4, 2, 3, 1), np.uint8), ((4, 2, 4), np.uint16)]
)
def test_an_image_of_cuhk03_that_is_not_8_bit_rgb(
    shape: tuple[int, ...], kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuhk03_images, "_follow", lambda _file, images: images)
    good = np.zeros((4, 2, 3), np.uint8)
    found = cuhk03_images._images_of(SimpleNamespace(filename="a.mat"), 1, 7, [good, np.zeros(shape, kind)])
    assert next(found)[0] == "1_007_1_01.png"
    with pytest.raises(DataError, match=r"1_007_1_02\.png"):
        next(found)
