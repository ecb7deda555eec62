"""Weights trained on the test images are refused, whatever the data set's folder is called."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from osnet.data.folder import read_any, read_dataset
from osnet.data.joining import join_training
from osnet.data.reid.catalog import read_named, read_source
from osnet.data.reid.identify import MARKET_PEOPLE, identify_benchmark
from osnet.errors import DataError
from osnet.evaluation.checks import check_leak
from osnet.models.config import OSNetConfig
from osnet.models.osnet import OSNet
from osnet.types import Crop, ReidDataset, Split
from osnet.weights.card import Card

TEST_PEOPLE = [1, 3, 4, 5, 6, 8, 9, 13, 14, 15, 16, 17, 18, 19, 21, 24, 25, 26, 29, 31, 1498, 1499, 1501]
TRAIN_PEOPLE = [2, 7, 10, 11, 12, 20, 22, 23, 27, 28, 30, 32, 35, 37, 42, 43, 46, 47, 48, 52, 1495, 1496, 1500]
"""The first and last identities of the original's test and training folders."""


def trained_on(name: str) -> OSNet:
    network = OSNet(OSNetConfig(width=0.25))
    network.card = Card(network.config, training_data=name)
    return network


def touch(folder: Path, names: Iterator[str] | list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")


def market_copy(root: Path, people: list[int] = TEST_PEOPLE, train: list[int] = TRAIN_PEOPLE) -> Path:
    """Empty files under the names of a part of Market-1501, with junk and a distractor."""
    touch(root / "query", [f"{pid:04d}_c1s1_000151_00.jpg" for pid in people])
    others = ["0000_c2s1_000001_00.jpg", "-1_c1s1_000401_03.jpg", f"{people[0]:04d}_c1s6_023021_02.jpg.jpg"]
    touch(root / "bounding_box_test", [f"{pid:04d}_c2s1_000176_00.jpg" for pid in people] + others)
    touch(root / "bounding_box_train", [f"{pid:04d}_c3s1_000176_00.jpg" for pid in train])
    return root


def test_the_list_of_market1501_test_identities() -> None:
    assert MARKET_PEOPLE.bit_count() == 750
    assert all(MARKET_PEOPLE >> pid & 1 for pid in TEST_PEOPLE)
    assert not any(MARKET_PEOPLE >> pid & 1 for pid in TRAIN_PEOPLE)


@pytest.mark.parametrize("place", ["mine", "data/Market-1501-v15.09.15", "market1501/sub/x", "msmt17/y"])
def test_market1501_is_recognised_in_any_folder(place: str, tmp_path: Path) -> None:
    data = read_dataset(market_copy(tmp_path / place))
    assert (data.name, data.benchmark) == ("market1501", "market1501")
    for name in ("market1501_combineall", "msmt17+market1501_combineall"):
        with pytest.raises(DataError, match="trained on the test images of market1501"):
            check_leak(trained_on(name).card, data, force=False)
        assert "test images of market1501" in check_leak(trained_on(name).card, data, force=True)[0]
        with pytest.raises(DataError, match="market1501"):  # with another name given by the user
            check_leak(trained_on(name).card, read_dataset(tmp_path / place, name="mine"), force=False)
    for name in ("market1501", "msmt17_combineall", "nothing"):
        assert check_leak(trained_on(name).card, data, force=False) == []


@pytest.mark.parametrize("place", ["market1501", "market1501/own", "market1501-like/crops", "Market-1501-v15.09.15"])
def test_other_people_in_a_market1501_folder_are_not_refused(place: str, tmp_path: Path) -> None:
    data = read_dataset(market_copy(tmp_path / place, list(range(1, 40)), [50, 51]))
    assert data.benchmark == ""
    assert check_leak(trained_on("market1501_combineall").card, data, force=False) == []


def test_market1501_in_subfolders_of_people_is_recognised(tmp_path: Path) -> None:
    """Sorted for a classifier, with folders for distractors and junk too."""
    for pid in ("-1", "0000", *(f"{pid:04d}" for pid in TEST_PEOPLE)):
        for split, camid in (("query", 1), ("gallery", 2)):
            touch(tmp_path / split / pid / "1", [f"{pid}_c{camid}s1_000151_00.jpg"])
    assert read_dataset(tmp_path).benchmark == "market1501"


def test_few_people_and_other_names_are_not_recognised(tmp_path: Path) -> None:
    assert read_dataset(market_copy(tmp_path / "few", TEST_PEOPLE[:5])).benchmark == ""
    named = [Crop(Path(f"{pid:04d}_c1_{pid}.jpg"), pid, 1) for pid in TEST_PEOPLE]
    assert identify_benchmark(ReidDataset("x", tmp_path, query=Split("query", tuple(named)))) is None
    assert identify_benchmark(ReidDataset("x", tmp_path)) is None


@pytest.mark.parametrize(
    ("benchmark", "name"),
    [("dukemtmcreid", "0005_c2_f0046985.jpg"), ("msmt17", "0000_000_01_0303morning_0015_0.jpg"),
     ("msmt17", "0003_002_15_0302afternoon_1183_1_ex.jpg")],
)  # fmt: skip
def test_benchmarks_are_recognised_by_their_file_names(benchmark: str, name: str, tmp_path: Path) -> None:
    """In another layout: subfolders of people."""
    for split in ("query", "gallery"):
        touch(tmp_path / split / "5" / "1", [name])
    data = read_dataset(tmp_path)
    assert data.benchmark == benchmark
    with pytest.raises(DataError, match=f"test images of {benchmark}"):
        check_leak(trained_on(f"{benchmark}_combineall").card, data, force=False)
    touch(tmp_path / "query" / "6" / "1", ["mine.jpg"])
    assert read_dataset(tmp_path).benchmark == benchmark  # most names are of the benchmark
    touch(tmp_path / "query" / "6" / "1", ["mine2.jpg", "mine3.jpg"])
    assert read_dataset(tmp_path).benchmark == ""


def test_a_benchmark_named_by_the_user_is_believed(tmp_path: Path) -> None:
    """For example for a renumbered copy, which is not recognised by its file names."""
    data = read_named("market1501", market_copy(tmp_path / "market1501", [1, 2])).datasets[0]
    with pytest.raises(DataError, match="test images of market1501"):
        check_leak(trained_on("market1501_combineall").card, data, force=False)
    called = read_dataset(market_copy(tmp_path / "z", [1, 2]), name="market1501")
    with pytest.raises(DataError, match="test images of market1501"):
        check_leak(trained_on("market1501_combineall").card, called, force=False)


def test_training_data_name_the_recognised_benchmark(tmp_path: Path) -> None:
    """Weights trained on a renamed copy with combine_all name the benchmark."""
    joined = join_training([read_source(market_copy(tmp_path / "mine"))], combine_all=True)
    assert joined.name == "market1501_combineall"
    touch(tmp_path / "t", [f"{pid:04d}_c3s1_000176_00.jpg" for pid in TRAIN_PEOPLE])
    assert read_any(tmp_path / "t").benchmark == "market1501"


def test_other_data_sets_are_compared_by_name(tmp_path: Path) -> None:
    data = read_dataset(market_copy(tmp_path / "shop", [1, 2]))
    with pytest.raises(DataError, match="test images of shop"):
        check_leak(trained_on("shop_combineall").card, data, force=False)
    inside = read_dataset(market_copy(tmp_path / "shop" / "2027", [1, 2]))
    assert check_leak(trained_on("shop_combineall").card, inside, force=False) == []
    split = replace(data, name="viper-02", root=tmp_path / "viper-02")
    assert check_leak(trained_on("viper-00").card, split, force=False) == []  # only a folder of that name
    with pytest.raises(DataError, match="viper-02"):
        check_leak(trained_on("viper-00").card, replace(split, benchmark="viper"), force=False)
