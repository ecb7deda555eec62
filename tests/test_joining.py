"""Joining several data sets for training, and weights trained on test images."""

from dataclasses import replace
from pathlib import Path

import pytest

from osnet.data.joining import join_training
from osnet.data.training_set import TrainingSet
from osnet.errors import DataError
from osnet.evaluation.checks import check_leak
from osnet.models.osnet import OSNet
from osnet.types import Crop, ReidDataset, Split
from osnet.weights.card import Card


def make(name: str, train: list[tuple[int, int]], test: list[tuple[int, int]] = ()) -> ReidDataset:
    root = Path("/data") / name

    def split(part: str, people: list[tuple[int, int]]) -> Split:
        return Split(part, tuple(Crop(root / part / f"{i}.jpg", p, c, f"{p:04d}") for i, (p, c) in enumerate(people)))

    return ReidDataset(name, root, split("train", train), split("query", test[:1]), split("gallery", test[1:]))


A = make("a", [(7, 1), (7, 3), (2, 1)], [(4, 1), (4, 2), (0, 2)])
B = make("b", [(7, 1), (9, 2)], [(1, 5), (1, 6), (-1, 1)])


def test_joined_data_sets_keep_identities_and_cameras_apart() -> None:
    joined = join_training([A, B])
    assert joined.name == "a+b"
    assert (len(joined.query), len(joined.gallery)) == (0, 0)
    rows = [(c.pid, c.camid, c.dsetid, c.identity, c.camera) for c in joined.train.crops]
    assert rows == [
        (2, 1, 0, "a:0007", "a:1"), (2, 2, 0, "a:0007", "a:3"), (1, 1, 0, "a:0002", "a:1"),
        (3, 3, 1, "b:0007", "b:1"), (4, 4, 1, "b:0009", "b:2"),
    ]  # fmt: skip


def test_combine_all_leaves_out_distractors_and_junk() -> None:
    joined = join_training([A, B], combine_all=True)
    assert joined.name == "a+b_combineall"
    assert [c.identity for c in joined.train.crops] == [
        "a:0007", "a:0007", "a:0002", "a:0004", "a:0004", "b:0007", "b:0009", "b:0001", "b:0001",
    ]  # fmt: skip
    assert len({c.pid for c in joined.train.crops}) == 6
    assert min(c.pid for c in joined.train.crops) == 1


def test_junk_and_distractors_cannot_be_trained_on() -> None:
    from osnet.data.augmentation import Augmentation
    from osnet.types import Preprocessing

    joined = join_training([make("c", [(0, 1), (1, 1), (2, 1)]), A])
    with pytest.raises(
        DataError, match=r"1 training images are labelled junk \(identity -1\) or distractor \(0\): 0\.jpg"
    ):
        TrainingSet(joined.train.crops, Augmentation(), Preprocessing(), 0)


def test_duplicates_are_refused_and_equal_names_are_numbered() -> None:
    with pytest.raises(DataError, match="twice"):
        join_training([A, A])
    other = ReidDataset("a", Path("/elsewhere/a"), B.train)
    assert join_training([A, other]).name == "a-1+a-2"
    with pytest.raises(DataError, match="no data set"):
        join_training([])


@pytest.mark.parametrize(
    ("trained_on", "refused"),
    [("a+b_combineall", True), ("b_combineall", True), ("a+b", False), ("a_combineall", False)],
)
def test_weights_trained_on_the_test_images_are_refused(trained_on: str, refused: bool, tiny_network: OSNet) -> None:
    network = OSNet(tiny_network.config)
    network.card = Card(network.config, training_data=trained_on)
    if not refused:
        assert check_leak(network.card, B, force=False) == []
        return
    with pytest.raises(DataError, match="trained on the test images of b"):
        check_leak(network.card, B, force=False)
    assert "test images of b" in check_leak(network.card, B, force=True)[0]


@pytest.mark.parametrize(
    ("trained_on", "tested_on", "overlap"),
    [
        ("viper-00", "viper-00", False),
        ("viper-00", "viper-01", False),  # the same half in the other direction
        ("viper-01", "viper-02", True),
        ("grid-00", "grid-01", True),  # each split has its own partition
        ("viper-00", "grid-02", False),
        ("market1501", "viper-00", False),
        ("street-01", "street-02", False),  # no benchmark, only folder names
        ("market1501+viper-00", "viper-04", True),
    ],
)
def test_weights_trained_on_another_split_are_refused(
    trained_on: str, tested_on: str, overlap: bool, tiny_network: OSNet
) -> None:
    network = OSNet(tiny_network.config)
    network.card = Card(network.config, training_data=trained_on)
    tested = replace(B, name=tested_on)
    if overlap:
        with pytest.raises(DataError, match=f"test identities of {tested_on}"):
            check_leak(network.card, tested, force=False)
    assert bool(check_leak(network.card, tested, force=True)) == overlap
