"""Benchmarks whose splits are drawn at random from a seed: VIPeR, CUHK01, PRID, i-LIDS."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import layouts
from layouts import MAKERS, damage, names, people
from osnet.data.reid.catalog import read_benchmark
from osnet.errors import DataError, OutputError

RANDOM_SPLITS = ("viper", "prid", "ilids", "cuhk01")


@pytest.mark.parametrize("name", RANDOM_SPLITS)
def test_random_splits_are_saved_once_and_can_be_moved(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path / "one")
    first = read_benchmark(name, tmp_path / "one")
    assert first.splits_file is not None
    text = first.splits_file.read_text()
    assert str(tmp_path) not in text
    written = first.splits_file.stat().st_mtime_ns
    assert read_benchmark(name, tmp_path / "one").datasets == first.datasets
    assert first.splits_file.stat().st_mtime_ns == written
    shutil.move(tmp_path / "one", tmp_path / "two")
    second = read_benchmark(name, tmp_path / "two")
    assert second.splits_file is not None
    assert second.splits_file.read_text() == text
    assert [names(s) for d in second.datasets for s in d.splits] == [names(s) for d in first.datasets for s in d.splits]
    other = read_benchmark(name, tmp_path / "two", seed=1)
    assert other.splits_file != second.splits_file
    assert [d.train.paths for d in other.datasets] != [d.train.paths for d in second.datasets]
    assert json.loads(text)["seed"] == 0


def test_seed_0_always_draws_the_same_people(tmp_path: Path) -> None:
    """The draws are those of RandomState(0).permutation, which NumPy guarantees not to change."""
    layouts.make_viper(tmp_path)
    rng = np.random.RandomState(0)
    expected = [sorted(rng.permutation([1, 2, 3, 4, 5, 6, 7])[:3].tolist()) for _ in range(10)]
    datasets = read_benchmark("viper", tmp_path).datasets
    assert [sorted(people(datasets[2 * k].train)) for k in range(10)] == expected
    assert expected[0] == [2, 3, 7]


@pytest.mark.parametrize("name", RANDOM_SPLITS)
def test_splits_are_saved_in_work_dir(name: str, tmp_path: Path) -> None:
    folder = MAKERS[name](tmp_path / "data")
    before = sorted(folder.rglob("*"))
    benchmark = read_benchmark(name, tmp_path / "data", work_dir=tmp_path / "work")
    assert benchmark.splits_file is not None
    assert benchmark.splits_file.parent == tmp_path / "work"
    assert sorted(folder.rglob("*")) == before
    assert benchmark.datasets[0].train.paths[0].is_relative_to(folder)


def test_read_only_data_needs_work_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.make_viper(tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match=r"no permission to write in .*work_dir"):
        read_benchmark("viper", tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["splits"][0]["train"].pop(), "damaged or was changed by hand"),
        (lambda c: c["splits"].pop(), "damaged or was changed by hand"),
        (lambda c: c.update(seed=5), "seed is 5 instead of 0"),
        (lambda c: c.update(benchmark="grid"), "benchmark is 'grid' instead of 'viper'"),
        (lambda c: c.update(format=2), "format is 2 instead of 1"),
        (lambda c: c.pop("splits"), "damaged"),
    ],
)
def test_damaged_or_edited_splits_are_refused(change: Callable[[dict], object], words: str, tmp_path: Path) -> None:
    layouts.make_viper(tmp_path)
    saved = read_benchmark("viper", tmp_path).splits_file
    assert saved is not None
    damage(saved, change)
    with pytest.raises(DataError, match=words):
        read_benchmark("viper", tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "\x00"])
def test_splits_that_are_not_json_are_refused(text: str, tmp_path: Path) -> None:
    layouts.make_viper(tmp_path)
    saved = read_benchmark("viper", tmp_path).splits_file
    assert saved is not None
    saved.write_text(text)
    with pytest.raises(DataError, match="delete the file"):
        read_benchmark("viper", tmp_path)


def test_edited_splits_cannot_leave_the_folder_or_mix_train_and_test(tmp_path: Path) -> None:
    """Even if their digest is right."""
    from osnet.data.reid.random_splits import _digest

    layouts.make_viper(tmp_path)
    saved = read_benchmark("viper", tmp_path).splits_file
    assert saved is not None
    good = saved.read_text()

    def leave_the_folder(content: dict) -> None:
        content["splits"][0]["query"][0] = "../../../etc/passwd"
        content["splits_sha256"] = _digest(content["splits"])

    def mix(content: dict) -> None:
        content["splits"][3]["train"].append(content["splits"][3]["query"][0])
        content["splits_sha256"] = _digest(content["splits"])

    damage(saved, leave_the_folder)
    with pytest.raises(DataError, match=r" 1 image\(s\) .*: \.\./"):
        read_benchmark("viper", tmp_path)
    saved.write_text(good)
    damage(saved, mix)
    with pytest.raises(DataError, match=r"split 3: identities \[\d\]"):
        read_benchmark("viper", tmp_path)


def test_splits_of_other_images_are_refused(tmp_path: Path) -> None:
    folder = layouts.make_cuhk01(tmp_path)
    read_benchmark("cuhk01", tmp_path)
    layouts.write_images(folder, [f"campus/0009{i:03d}.png" for i in (1, 2, 3, 4)])
    with pytest.raises(DataError, match="24"):
        read_benchmark("cuhk01", tmp_path)
    for path in folder.glob("campus/000[19]*.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"image\(s\) .*: campus/0001"):
        read_benchmark("cuhk01", tmp_path)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_refused(seed: int, tmp_path: Path) -> None:
    layouts.make_viper(tmp_path)
    with pytest.raises(DataError, match=f"seed {seed} is outside 0 to 4294967295"):
        read_benchmark("viper", tmp_path, seed=seed)


@pytest.mark.parametrize(("name", "num_people"), [("viper", 7), ("cuhk01", 5)])
def test_each_random_half_is_tested_in_both_directions(name: str, num_people: int, tmp_path: Path) -> None:
    MAKERS[name](tmp_path)
    datasets = read_benchmark(name, tmp_path).datasets
    assert len(datasets) == 20
    assert len({tuple(sorted(people(d.train))) for d in datasets}) > 3
    for forward, backward in zip(datasets[::2], datasets[1::2], strict=True):
        assert forward.train == backward.train
        assert len(people(forward.train)) == num_people // 2
        assert people(forward.train) | people(forward.query) == set(range(1, num_people + 1))
        assert (set(forward.query.camids), set(forward.gallery.camids)) == ({1}, {2})
        assert set(forward.train.camids) == {1, 2}
        assert forward.query.paths == backward.gallery.paths
        assert forward.gallery.paths == backward.query.paths
        assert people(forward.query) == people(forward.gallery)
    assert datasets[7].name == f"{name}-07"


def test_viper_000_is_a_person_and_both_cameras_are_required(tmp_path: Path) -> None:
    folder = layouts.make_viper(tmp_path)
    crops = read_benchmark("viper", tmp_path).crops
    assert {crop.identity: crop.pid for crop in crops}["000"] == 1
    (folder / "cam_b" / "003_135.bmp").unlink()
    with pytest.raises(DataError, match=r"camera.*: 003"):
        read_benchmark("viper", tmp_path)


def test_cuhk01_images_1_and_2_are_camera_1_images_3_and_4_camera_2(tmp_path: Path) -> None:
    folder = layouts.make_cuhk01(tmp_path)
    crops = {crop.path.name: (crop.pid, crop.camid) for crop in read_benchmark("cuhk01", tmp_path).crops}
    assert [crops[f"0002{i:03d}.png"] for i in (1, 2, 3, 4)] == [(2, 1), (2, 1), (2, 2), (2, 2)]
    layouts.write_images(folder, ["campus/0002005.png"])
    with pytest.raises(DataError, match="outside 1 to 4"):
        read_benchmark("cuhk01", tmp_path)


def test_cuhk01_is_unpacked_once_from_its_zip(tmp_path: Path) -> None:
    folder = layouts.make_cuhk01(tmp_path)
    expected = [names(s) for s in read_benchmark("cuhk01", tmp_path, work_dir=tmp_path / "w").datasets[0].splits]
    with zipfile.ZipFile(folder / "CUHK01.zip", "w") as archive:
        for path in sorted((folder / "campus").iterdir()):
            archive.write(path, f"campus/{path.name}")
        archive.writestr("../escaped.png", b"x")
        archive.writestr("campus/readme.txt", b"x")
    shutil.rmtree(folder / "campus")
    other = read_benchmark("cuhk01", tmp_path, work_dir=tmp_path / "elsewhere")
    assert not (folder / "campus").exists()
    assert [names(s) for s in other.datasets[0].splits] == expected
    assert [names(s) for s in read_benchmark("cuhk01", tmp_path).datasets[0].splits] == expected
    assert sorted(path.name for path in folder.iterdir()) == ["CUHK01.zip", "campus", "splits_osnet_cuhk01_seed0.json"]
    assert not list(tmp_path.rglob("escaped.png"))


def test_cuhk01_a_broken_zip_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = layouts.make_cuhk01(tmp_path)
    shutil.rmtree(folder / "campus")
    with zipfile.ZipFile(folder / "CUHK01.zip", "w") as archive:
        archive.writestr("campus/0001001.png", b"no image")
    with pytest.raises(DataError, match=r"CUHK01\.zip cannot be unpacked"):
        read_benchmark("cuhk01", tmp_path)
    assert [path.name for path in folder.iterdir()] == ["CUHK01.zip"]


def test_prid_numbers_above_200_are_different_people_in_each_camera(tmp_path: Path) -> None:
    layouts.make_prid(tmp_path)
    benchmark = read_benchmark("prid", tmp_path)
    assert len({crop.pid for crop in benchmark.crops}) == 4 + 2 + 3
    assert len(benchmark.datasets) == 10
    for dataset in benchmark.datasets:
        assert len(people(dataset.train)) == 2
        assert len(dataset.train) == 4
        assert people(dataset.query) == {1, 2, 3, 4} - people(dataset.train)
        assert set(dataset.query.camids) == {1}
        assert people(dataset.gallery) == people(dataset.query) | {201, 202, 203}
        assert set(dataset.gallery.camids) == {2}


def test_prid_numbers_to_200_must_be_in_both_cameras(tmp_path: Path) -> None:
    folder = layouts.make_prid(tmp_path)
    (folder / "cam_a" / "person_0003.png").unlink()
    with pytest.raises(DataError, match="one camera only: person_0003"):
        read_benchmark("prid", tmp_path)


def test_ilids_has_one_query_and_one_gallery_image_per_test_person(tmp_path: Path) -> None:
    folder = layouts.make_ilids(tmp_path)
    benchmark = read_benchmark("ilids", tmp_path)
    assert len(benchmark.datasets) == 10
    for dataset in benchmark.datasets:
        assert len(people(dataset.train)) == 2  # half of five, rounded down
        assert (
            sorted(dataset.query.pids)
            == sorted(dataset.gallery.pids)
            == sorted({1, 2, 3, 4, 5} - people(dataset.train))
        )
        assert not set(dataset.query.paths) & set(dataset.gallery.paths)
        of_train = [crop for crop in benchmark.crops if crop.pid in people(dataset.train)]
        assert sorted(dataset.train.paths) == [crop.path for crop in of_train]
    layouts.write_images(folder, ["Persons/0077001.jpg"])
    with pytest.raises(DataError, match="one image: 0077"):
        read_benchmark("ilids", tmp_path)


def test_ilids_and_cuhksysu_give_each_image_its_own_unknown_camera(tmp_path: Path) -> None:
    layouts.make_ilids(tmp_path)
    layouts.make_cuhksysu(tmp_path)
    for name in ("ilids", "cuhksysu"):
        benchmark = read_benchmark(name, tmp_path)
        crops = benchmark.crops or benchmark.datasets[0].train.crops
        assert all(crop.camid < 0 and crop.camera == "" for crop in crops)
        assert len({crop.camid for crop in crops}) == len(crops)


def test_ilids_accepts_the_inner_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = layouts.make_ilids(tmp_path)
    assert read_benchmark("ilids", folder / "Persons").root == folder
    monkeypatch.chdir(folder / "Persons")
    assert read_benchmark("ilids", ".").root == folder
