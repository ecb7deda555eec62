"""Tests for faults that a mutation run (tests/mutation/run.py) inserted and no other test noticed."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from osnet import get_recipe
from osnet.data.reid import cuhk03_images
from osnet.errors import DataError, ModelError
from osnet.metrics.distance_blocks import BLOCK_DISTANCES, block_starts
from osnet.metrics.k_reciprocal import rerank_best
from osnet.metrics.query_expansion import expand_queries
from osnet.weights.checkpoint import read_checkpoint
from osnet.weights.torchreid import training_data_from_file
from stand_ins import write_random_weights


@pytest.mark.parametrize(("data", "size_hw"), [("imagenet", (224, 224)), ("market1501", (256, 128))])
def test_input_size_of_model_zoo_files(data: str, size_hw: tuple[int, int], tmp_path: Path) -> None:
    """224 x 224 for ImageNet (supplement, section C), 256 x 128 for the others (paper, section 4.1)."""
    num_classes = 1000 if data == "imagenet" else 751
    card = read_checkpoint(write_random_weights(tmp_path / f"osnet_x0_25_{data}.pth", num_classes=num_classes)).card
    assert (card.training_data, card.preprocessing.size_hw) == (data, size_hw)


@pytest.mark.parametrize(
    ("name", "num_classes", "data"),
    [
        ("osnet_ain_x1_0_msmt17.pth", 4101, "msmt17_combineall"),
        ("osnet_ain_x1_0_msmt17.pth", 0, "msmt17_combineall"),  # without a classifier, by the model zoo's name
        ("osnet_ain_x1_0_msmt17.pth", 1041, "msmt17"),  # the number of training identities
        ("osnet_x1_0_msmt17_combineall.pth", 1041, "msmt17"),
        ("osnet_x1_0_msmt17.pth", 1041, "msmt17"),
        ("osnet_x1_0_msmt17.pth", 4101, "msmt17_combineall"),
    ],
)
def test_training_data_of_msmt17_files(name: str, num_classes: int, data: str) -> None:
    assert training_data_from_file(Path(name), num_classes) == data


@pytest.mark.parametrize(
    ("shape", "kind"), [((4, 2, 3), np.uint16), ((4, 2, 4), np.uint8), ((4, 2, 3, 1), np.uint8), ((4, 2, 4), np.uint16)]
)
def test_cuhk03_images_that_are_not_8_bit_rgb_are_refused(
    shape: tuple[int, ...], kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuhk03_images, "_follow", lambda _file, images: images)
    good = np.zeros((4, 2, 3), np.uint8)
    found = cuhk03_images._images_of(SimpleNamespace(filename="a.mat"), 1, 7, [good, np.zeros(shape, kind)])
    assert next(found)[0] == "1_007_1_01.png"
    with pytest.raises(DataError, match=r"1_007_1_02\.png"):
        next(found)


def test_a_gallery_larger_than_a_block_is_ranked_one_query_at_a_time() -> None:
    assert block_starts(3, BLOCK_DISTANCES + 1, None) == [(0, 1), (1, 2), (2, 3)]
    assert block_starts(5, BLOCK_DISTANCES // 2, None) == [(0, 2), (2, 4), (4, 5)]


def test_rerank_best_keeps_50_items_by_default() -> None:
    rng = np.random.default_rng(0)
    query, gallery = rng.random((2, 8)), rng.random((60, 8))
    ranked = rerank_best(query.astype(np.float32), gallery.astype(np.float32))
    assert ranked.index.shape == (2, 50)


def test_query_expansion_takes_5_neighbours_and_alpha_3_by_default() -> None:
    """The values of ``osnet rerank`` and of the published scores in docs/results.md."""
    rng = np.random.default_rng(0)
    query, gallery = rng.random((3, 8)).astype(np.float32), rng.random((20, 8)).astype(np.float32)
    expected = expand_queries(query, gallery, num_nearest=5, alpha=3.0)
    np.testing.assert_array_equal(expand_queries(query, gallery), expected)
    for others in ({"num_nearest": 6}, {"alpha": 2.0}):
        assert abs(expand_queries(query, gallery, **others) - expected).max() > 1e-4


@pytest.mark.parametrize("field", ["epochs", "batch_size", "step_epochs", "evaluate_every"])
def test_counts_of_a_recipe_are_at_least_1(field: str) -> None:
    with pytest.raises(ModelError, match=f"{field} 0"):
        get_recipe("market1501-osnet-x1-0", **{field: 0})
