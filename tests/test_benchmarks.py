"""The benchmarks' fine print, set by set; each layout is built small in a temporary folder."""

import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import layouts
from osnet.data.check import check_dataset
from osnet.data.joining import join_training
from osnet.data.reid import cuhk03_images
from osnet.data.reid.benchmark import Benchmark, Published
from osnet.data.reid.catalog import BENCHMARKS, list_benchmarks, names_of, read_benchmark, read_source
from osnet.errors import DataError, MissingExtraError, OutputError
from osnet.types import ReidDataset, Split

MAKERS: dict[str, Callable[[Path], Path]] = {
    "market1501": layouts.make_market,
    "cuhk03": layouts.make_cuhk03,
    "dukemtmcreid": lambda root: layouts.make_market(root, duke=True),
    "msmt17": layouts.make_msmt17,
    "viper": layouts.make_viper,
    "grid": layouts.make_grid,
    "prid": layouts.make_prid,
    "ilids": layouts.make_ilids,
    "cuhk01": layouts.make_cuhk01,
    "cuhk02": layouts.make_cuhk02,
    "cuhksysu": layouts.make_cuhksysu,
    "sensereid": layouts.make_sensereid,
}
DRAWN = ("viper", "prid", "ilids", "cuhk01")


def names(split: Split) -> list[str]:
    return [path.name for path in split.paths]


def people(split: Split) -> set[int]:
    return set(split.pids)


def sortable(identity: str) -> str:
    """Numbers sort as numbers, other names as text."""
    return identity.zfill(9) if identity.isdecimal() else identity


# All of them.


def test_every_benchmark_of_the_list_has_a_layout_here() -> None:
    assert set(MAKERS) == set(BENCHMARKS) == set(names_of())


@pytest.mark.parametrize("name", MAKERS)
def test_every_folder_from_the_outermost_to_the_inner_one_will_do(name: str, tmp_path: Path) -> None:
    inner = MAKERS[name](tmp_path)
    from_outside = read_benchmark(name, tmp_path)
    folders = [inner, *(parent for parent in inner.parents if parent.is_relative_to(tmp_path))]
    assert len(folders) >= 2
    for folder in folders:
        found = read_benchmark(name, folder)
        assert [names(split) for d in found.datasets for split in d.splits] == [
            names(split) for d in from_outside.datasets for split in d.splits
        ]


@pytest.mark.parametrize("name", MAKERS)
def test_a_missing_folder_says_where_it_looked(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_benchmark(name, tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in str(caught.value)
    assert len(re.findall(r"Market-1501-v15|none of", str(caught.value))) >= 1


@pytest.mark.parametrize("name", MAKERS)
def test_queries_are_somebody_and_nobody_trains_and_is_tested(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path)
    for dataset in read_benchmark(name, tmp_path).datasets:
        assert all(pid >= 1 for pid in (*dataset.query.pids, *dataset.train.pids))
        assert not (people(dataset.train) | people(dataset.val)) & (people(dataset.query) | people(dataset.gallery))
        assert not any(problem.severity == "breaks" for problem in check_dataset(dataset).problems)


@pytest.mark.parametrize("name", MAKERS)
def test_numbers_follow_the_sorted_names(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path)
    dataset = read_benchmark(name, tmp_path).datasets[0]
    crops = [crop for split in (dataset.train, dataset.val) for crop in split.crops] or list(dataset.gallery.crops)
    by_name = sorted({(sortable(crop.identity), crop.pid) for crop in crops})
    assert [pid for _, pid in by_name] == sorted({crop.pid for crop in crops})
    assert len(by_name) == len({identity for identity, _ in by_name})


@pytest.mark.parametrize("name", MAKERS)
def test_published_counts_are_compared_and_the_small_copy_differs(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path)
    benchmark = read_benchmark(name, tmp_path)
    differing = {(row.splits, row.kind) for row in benchmark.differences()}
    with_source = {(row.splits, row.kind) for row in benchmark.counts() if row.published is not None}
    two_cameras = {"viper", "prid", "cuhk03", "cuhk02"}  # these small copies have all cameras of the original
    assert differing == {(s, k) for s, k in with_source if not (k == "cameras" and name in two_cameras)}
    assert all(row.source for row in benchmark.counts() if row.published is not None)
    unpublished = [row for row in benchmark.counts() if row.published is None]
    assert unpublished
    assert all("(not published)" in str(row) for row in unpublished)
    assert f"{len(differing)} published count(s) differ" in str(benchmark)


@pytest.mark.parametrize("name", MAKERS)
def test_the_reader_states_every_published_count_with_its_source(name: str) -> None:
    entry = BENCHMARKS[name]
    text = " ".join((entry.read.__doc__ or "").split())
    for rows in entry.published.values():
        for row in rows:
            for value in (row.identities, row.images, row.cameras):
                assert value is None or re.search(rf"(?<![\d,]){value:,}(?![\d,]*\d)", text), (name, row.splits, value)
    assert "Torchreid" in text or "person-re-ranking" in text
    assert "not published" in text or name in ("grid", "dukemtmcreid", "prid")


def test_counts_that_agree_do_not_differ(tmp_path: Path) -> None:
    layouts.make_market(tmp_path)
    dataset = read_benchmark("market1501", tmp_path).datasets[0]
    right = Published("train+query", 4, 6, 2, "counted by hand")
    wrong = Published("gallery", 2, 8, source="made up")
    benchmark = Benchmark("x", tmp_path, (dataset,), (right, wrong))
    assert [(row.splits, row.kind, row.published, row.found) for row in benchmark.differences()] == [
        ("gallery", "images", 8, (7,))
    ]
    assert "gallery images: 7; DIFFERS: 8 (made up)" in str(benchmark)
    assert "train+query images: 6; as published: 6 (counted by hand)" in str(benchmark)


def test_a_count_is_looked_at_in_every_split(tmp_path: Path) -> None:
    layouts.make_market(tmp_path)
    dataset = read_benchmark("market1501", tmp_path).datasets[0]
    other = ReidDataset("y", tmp_path, dataset.train, Split("query", dataset.query.crops[:1]), dataset.gallery)
    (row,) = Benchmark("x", tmp_path, (dataset, other), (Published("query", images=2, source="s"),)).differences()
    assert row.found == (1, 2)
    assert "query images: 1 or 2; DIFFERS: 2 (s)" in str(row)


def test_unknown_names_and_options_list_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown benchmark 'cuhk3'; choose from market1501, cuhk03, dukemtmcreid"):
        read_benchmark("cuhk3", tmp_path)
    with pytest.raises(DataError, match="viper has no option classic; its options: seed, work_dir"):
        read_benchmark("viper", tmp_path, classic=True)
    with pytest.raises(DataError, match="grid has no option seed; its options: none"):
        read_benchmark("grid", tmp_path, seed=0)
    layouts.make_viper(tmp_path)
    assert len(read_benchmark("viper", tmp_path, classic=False, seed=0, work_dir=None).datasets) == 20


def test_an_image_that_is_not_named_like_the_others_is_named(tmp_path: Path) -> None:
    folder = layouts.make_cuhk01(tmp_path)
    layouts.write_images(folder, ["campus/someone.png"])
    with pytest.raises(DataError, match=r"1 image\(s\) in .*campus are not named like 0001001\.png: someone\.png"):
        read_benchmark("cuhk01", tmp_path)


# Market-1501, DukeMTMC-reID.


def test_market1501_junk_is_left_out_and_distractors_stay(tmp_path: Path) -> None:
    layouts.make_market(tmp_path)
    (dataset,) = read_benchmark("market1501", tmp_path).datasets
    assert dataset.num_junk == 1
    assert sorted(dataset.gallery.pids) == [0, 1, 1, 1, 3, 3, 3]
    assert sorted(set(dataset.gallery.camids)) == [1, 2, 3, 6]
    assert [Path(name).name for name in dataset.other_files] == ["Thumbs.db"]


def test_market1501_takes_the_further_distractors_only_when_asked(tmp_path: Path) -> None:
    folder = layouts.make_market(tmp_path)
    benchmark = read_benchmark("market1501", tmp_path, distractors=True)
    (dataset,) = benchmark.datasets
    assert (len(dataset.gallery), dataset.num_junk) == (8, 2)
    assert [c.pid for c in dataset.gallery.crops if c.path.parent.name == "images"] == [0]
    assert ("gallery", "images", None) in {(row.splits, row.kind, row.published) for row in benchmark.counts()}
    shutil.rmtree(folder / "images")
    with pytest.raises(DataError, match=r"no folder .*images"):
        read_benchmark("market1501", tmp_path, distractors=True)


def test_dukemtmcreid_is_marked_as_withdrawn(tmp_path: Path) -> None:
    layouts.make_market(tmp_path, duke=True)
    benchmark = read_benchmark("dukemtmcreid", tmp_path)
    assert "withdrawn by its owners" in str(benchmark)
    assert benchmark.datasets[0].name == "dukemtmcreid"
    assert "withdrawn" in str(BENCHMARKS["dukemtmcreid"])
    assert "0001_c6_f0046182.jpg" in names(benchmark.datasets[0].gallery)
    assert max(benchmark.datasets[0].gallery.camids) == 6


# MSMT17.


def test_msmt17_person_0_of_train_is_not_person_0_of_test(tmp_path: Path) -> None:
    layouts.make_msmt17(tmp_path)
    (dataset,) = read_benchmark("msmt17", tmp_path).datasets
    assert dataset.train.pids == [1, 1, 2]
    assert dataset.val.pids == [2]
    assert dataset.query.pids == [3, 4]
    assert dataset.gallery.pids == [3, 4, 5]
    assert [crop.identity for crop in dataset.query.crops] == ["test/0000", "test/0001"]


def test_msmt17_camera_is_the_third_number_of_the_name(tmp_path: Path) -> None:
    layouts.make_msmt17(tmp_path)
    (dataset,) = read_benchmark("msmt17", tmp_path).datasets
    assert dataset.train.camids == [1, 15, 2]
    assert dataset.gallery.camids == [2, 5, 15]


def test_msmt17_val_trains_only_with_combine_all(tmp_path: Path) -> None:
    layouts.make_msmt17(tmp_path)
    (dataset,) = read_benchmark("msmt17", tmp_path).datasets
    assert len(join_training([dataset]).train) == 3
    combined = join_training([dataset], combine_all=True)
    assert len(combined.train) == 3 + 1 + 2 + 3
    assert people(combined.train) == {1, 2, 3, 4, 5}
    assert combined.name == "msmt17_combineall"
    row = next(row for row in read_benchmark("msmt17", tmp_path).counts() if row.splits == "train+val")
    assert row.found == (4,)


def test_msmt17_v1_comes_before_v2(tmp_path: Path) -> None:
    layouts.make_msmt17(tmp_path, "v2")
    assert read_benchmark("msmt17", tmp_path).variant == "V2"
    assert read_benchmark("msmt17", tmp_path).datasets[0].train.paths[0].parts[-3] == "mask_train_v2"
    layouts.make_msmt17(tmp_path, "v1")
    assert read_benchmark("msmt17", tmp_path).variant == "V1"
    assert read_benchmark("msmt17", tmp_path, version="v2").variant == "V2"
    with pytest.raises(DataError, match="unknown version 'v3'"):
        read_benchmark("msmt17", tmp_path, version="v3")  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("../../../secret_0_1_2.jpg 0", r"line 1: the path .* does not lie inside"),
        ("/etc/pass_0_1_2.jpg 0", "does not lie inside"),
        ("0000/0000_009_01_0303morning_0008_0.jpg 0", r"1 image\(s\) of .*list_train\.txt are not in"),
        ("0000/0000_000_01_0303morning_0008_0.jpg", r"1 line\(s\) of .*list_train\.txt are not like"),
        ("0000/0000_000_xx_0303morning_0008_0.jpg 0", "are not like"),
        ("", "lists no images"),
        ("\n".join(["0000/0000_000_01_0303morning_0008_0.jpg 0"] * 2), "lists an image twice"),
    ],
)
def test_msmt17_lists_are_not_trusted(line: str, words: str, tmp_path: Path) -> None:
    folder = layouts.make_msmt17(tmp_path)
    (folder / "list_train.txt").write_text(line + "\n")
    with pytest.raises(DataError, match=words):
        read_benchmark("msmt17", tmp_path)


# Splits drawn from a seed: VIPeR, CUHK01, PRID, i-LIDS.


@pytest.mark.parametrize("name", DRAWN)
def test_drawn_splits_are_kept_once_and_mean_the_same_elsewhere(name: str, tmp_path: Path) -> None:
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


def test_seed_0_means_these_people_forever(tmp_path: Path) -> None:
    """RandomState(0).permutation([1..7]) and on: NumPy promises this stream."""
    layouts.make_viper(tmp_path)
    rng = np.random.RandomState(0)
    expected = [sorted(rng.permutation([1, 2, 3, 4, 5, 6, 7])[:3].tolist()) for _ in range(10)]
    datasets = read_benchmark("viper", tmp_path).datasets
    assert [sorted(people(datasets[2 * k].train)) for k in range(10)] == expected
    assert expected[0] == [2, 3, 7]


@pytest.mark.parametrize("name", DRAWN)
def test_kept_splits_go_to_another_folder_where_the_data_is_read_only(name: str, tmp_path: Path) -> None:
    folder = MAKERS[name](tmp_path / "data")
    before = sorted(folder.rglob("*"))
    benchmark = read_benchmark(name, tmp_path / "data", work_dir=tmp_path / "work")
    assert benchmark.splits_file is not None
    assert benchmark.splits_file.parent == tmp_path / "work"
    assert sorted(folder.rglob("*")) == before
    assert benchmark.datasets[0].train.paths[0].is_relative_to(folder)


def test_data_that_cannot_be_written_to_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.make_viper(tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match=r"no permission to write in .*; give work_dir"):
        read_benchmark("viper", tmp_path)


def damage(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


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
def test_kept_splits_are_checked_when_read(change: Callable[[dict], object], words: str, tmp_path: Path) -> None:
    layouts.make_viper(tmp_path)
    kept = read_benchmark("viper", tmp_path).splits_file
    assert kept is not None
    damage(kept, change)
    with pytest.raises(DataError, match=words):
        read_benchmark("viper", tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "\x00"])
def test_kept_splits_that_are_no_json(text: str, tmp_path: Path) -> None:
    layouts.make_viper(tmp_path)
    kept = read_benchmark("viper", tmp_path).splits_file
    assert kept is not None
    kept.write_text(text)
    with pytest.raises(DataError, match="delete it, and it is drawn again"):
        read_benchmark("viper", tmp_path)


def test_kept_splits_cannot_lead_out_or_mix_train_and_test(tmp_path: Path) -> None:
    """Even with a fitting digest: only images that were found are taken, and people are looked at."""
    from osnet.data.reid.drawn import _digest

    layouts.make_viper(tmp_path)
    kept = read_benchmark("viper", tmp_path).splits_file
    assert kept is not None
    good = kept.read_text()

    def lead_out(content: dict) -> None:
        content["splits"][0]["query"][0] = "../../../etc/passwd"
        content["splits_sha256"] = _digest(content["splits"])

    def mix(content: dict) -> None:
        content["splits"][3]["train"].append(content["splits"][3]["query"][0])
        content["splits_sha256"] = _digest(content["splits"])

    damage(kept, lead_out)
    with pytest.raises(DataError, match=r"names 1 image\(s\) that are not here: \.\./"):
        read_benchmark("viper", tmp_path)
    kept.write_text(good)
    damage(kept, mix)
    with pytest.raises(DataError, match=r"split 3: people \[\d\] are in train and in the test"):
        read_benchmark("viper", tmp_path)


def test_kept_splits_of_other_images_are_refused(tmp_path: Path) -> None:
    folder = layouts.make_cuhk01(tmp_path)
    read_benchmark("cuhk01", tmp_path)
    layouts.write_images(folder, [f"campus/0009{i:03d}.png" for i in (1, 2, 3, 4)])
    with pytest.raises(DataError, match="was drawn for 20 images; here are 24"):
        read_benchmark("cuhk01", tmp_path)
    for path in folder.glob("campus/000[19]*.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"image\(s\) that are not here: campus/0001"):
        read_benchmark("cuhk01", tmp_path)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range(seed: int, tmp_path: Path) -> None:
    layouts.make_viper(tmp_path)
    with pytest.raises(DataError, match=f"seed {seed} is outside 0 to 4294967295"):
        read_benchmark("viper", tmp_path, seed=seed)


@pytest.mark.parametrize(("name", "num_people"), [("viper", 7), ("cuhk01", 5)])
def test_ten_halves_in_both_directions(name: str, num_people: int, tmp_path: Path) -> None:
    MAKERS[name](tmp_path)
    datasets = read_benchmark(name, tmp_path).datasets
    assert len(datasets) == 20
    assert len({tuple(sorted(people(d.train))) for d in datasets}) > 3
    for forth, back in zip(datasets[::2], datasets[1::2], strict=True):
        assert forth.train == back.train
        assert len(people(forth.train)) == num_people // 2
        assert people(forth.train) | people(forth.query) == set(range(1, num_people + 1))
        assert (set(forth.query.camids), set(forth.gallery.camids)) == ({1}, {2})
        assert set(forth.train.camids) == {1, 2}
        assert forth.query.paths == back.gallery.paths
        assert forth.gallery.paths == back.query.paths
        assert people(forth.query) == people(forth.gallery)
    assert datasets[7].name == f"{name}-07"


def test_viper_person_000_is_somebody_and_people_must_be_in_both_cameras(tmp_path: Path) -> None:
    folder = layouts.make_viper(tmp_path)
    crops = read_benchmark("viper", tmp_path).crops
    assert {crop.identity: crop.pid for crop in crops}["000"] == 1
    (folder / "cam_b" / "003_135.bmp").unlink()
    with pytest.raises(DataError, match="are not in both cameras: 003"):
        read_benchmark("viper", tmp_path)


def test_cuhk01_images_1_and_2_are_one_view_3_and_4_the_other(tmp_path: Path) -> None:
    folder = layouts.make_cuhk01(tmp_path)
    crops = {crop.path.name: (crop.pid, crop.camid) for crop in read_benchmark("cuhk01", tmp_path).crops}
    assert [crops[f"0002{i:03d}.png"] for i in (1, 2, 3, 4)] == [(2, 1), (2, 1), (2, 2), (2, 2)]
    layouts.write_images(folder, ["campus/0002005.png"])
    with pytest.raises(DataError, match="their images 1 to 4"):
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


def test_prid_numbers_above_200_are_other_people_in_each_camera(tmp_path: Path) -> None:
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


def test_prid_everyone_of_the_first_200_is_in_both_cameras(tmp_path: Path) -> None:
    folder = layouts.make_prid(tmp_path)
    (folder / "cam_a" / "person_0003.png").unlink()
    with pytest.raises(DataError, match="one camera only: person_0003"):
        read_benchmark("prid", tmp_path)


def test_ilids_one_query_and_one_gallery_image_of_each_tested_person(tmp_path: Path) -> None:
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
    with pytest.raises(DataError, match="have one image: 0077"):
        read_benchmark("ilids", tmp_path)


def test_ilids_and_cuhksysu_unknown_cameras_are_all_different(tmp_path: Path) -> None:
    layouts.make_ilids(tmp_path)
    layouts.make_cuhksysu(tmp_path)
    for name in ("ilids", "cuhksysu"):
        benchmark = read_benchmark(name, tmp_path)
        crops = benchmark.crops or benchmark.datasets[0].train.crops
        assert all(crop.camid < 0 and crop.camera == "" for crop in crops)
        assert len({crop.camid for crop in crops}) == len(crops)


def test_ilids_persons_itself_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = layouts.make_ilids(tmp_path)
    assert read_benchmark("ilids", folder / "Persons").root == folder
    monkeypatch.chdir(folder / "Persons")
    assert read_benchmark("ilids", ".").root == folder


# GRID.


def test_grid_uses_its_ten_partitions(tmp_path: Path) -> None:
    layouts.make_grid(tmp_path)
    benchmark = read_benchmark("grid", tmp_path)
    assert [sorted(people(d.train)) for d in benchmark.datasets] == [layouts.grid_partition(k) for k in range(10)]
    for number, dataset in enumerate(benchmark.datasets):
        tested = set(range(1, 7)) - set(layouts.grid_partition(number))
        assert people(dataset.query) == tested
        assert len(dataset.train) == 6  # probe and gallery images
        assert dataset.name == f"grid-{number:02d}"


def test_grid_person_0_is_a_distractor_in_every_gallery(tmp_path: Path) -> None:
    layouts.make_grid(tmp_path)
    benchmark = read_benchmark("grid", tmp_path)
    for dataset in benchmark.datasets:
        assert sorted(dataset.gallery.pids) == [0, 0, 0, *sorted(people(dataset.query))]
        assert 0 not in people(dataset.train)
    gallery = next(row for row in benchmark.counts() if (row.splits, row.kind) == ("gallery", "identities"))
    assert gallery.found == (3,)
    assert gallery.published is None


def test_grid_camera_is_the_second_number(tmp_path: Path) -> None:
    layouts.make_grid(tmp_path)
    dataset = read_benchmark("grid", tmp_path).datasets[0]
    assert set(dataset.query.camids) == {1}
    assert {crop.camid for crop in dataset.gallery.crops if crop.pid} == {5}


def test_grid_partitions_must_fit_the_images(tmp_path: Path) -> None:
    from scipy.io import savemat

    folder = layouts.make_grid(tmp_path)
    (folder / "probe" / "0003_1_25004_107_32_106_221.jpeg").unlink()
    with pytest.raises(DataError, match=r"partition 0 trains on people without a probe image: \[3\]"):
        read_benchmark("grid", tmp_path)
    savemat(folder / "features_and_partitions.mat", {"other": 1})
    with pytest.raises(DataError, match="holds no trainIdxAll; it has other"):
        read_benchmark("grid", tmp_path)
    savemat(folder / "features_and_partitions.mat", {"trainIdxAll": np.zeros((1, 10))})
    with pytest.raises(DataError, match="partition 0 has no list of people"):
        read_benchmark("grid", tmp_path)
    (folder / "features_and_partitions.mat").write_bytes(b"damaged")
    with pytest.raises(DataError, match="cannot be read as a MATLAB 5 file"):
        read_benchmark("grid", tmp_path)


# CUHK02, CUHK-SYSU, SenseReID.


def test_cuhk02_the_same_name_in_another_pair_is_another_person(tmp_path: Path) -> None:
    layouts.make_cuhk02(tmp_path)
    (dataset,) = read_benchmark("cuhk02", tmp_path).datasets
    assert len(people(dataset.train)) == 3 + 2 + 1 + 1
    assert people(dataset.query) == people(dataset.gallery) == {8, 9}
    assert sorted(set(dataset.train.camids)) == list(range(1, 9))
    assert (set(dataset.query.camids), set(dataset.gallery.camids)) == ({9}, {10})
    assert {crop.identity for crop in dataset.query.crops} == {"P5/001", "P5/002"}


def test_cuhksysu_only_trains_and_sorts_names_as_text(tmp_path: Path) -> None:
    layouts.make_cuhksysu(tmp_path)
    benchmark = read_benchmark("cuhksysu", tmp_path)
    (dataset,) = benchmark.datasets
    assert (len(dataset.train), len(dataset.query), len(dataset.gallery)) == (6, 0, 0)
    assert {crop.identity: crop.pid for crop in dataset.train.crops} == {"p10": 1, "p11422": 2, "p9": 3}
    assert {row.splits for row in benchmark.counts()} == {"train"}


def test_sensereid_only_tests_and_shares_numbers_between_query_and_gallery(tmp_path: Path) -> None:
    layouts.make_sensereid(tmp_path)
    (dataset,) = read_benchmark("sensereid", tmp_path).datasets
    assert len(dataset.train) == 0
    assert dataset.query.pids == [1, 3]
    assert dataset.gallery.pids == [1, 2, 3]
    assert (set(dataset.query.camids), set(dataset.gallery.camids)) == ({0}, {1})


# CUHK03.


@pytest.mark.parametrize("boxes", ["detected", "labeled"])
def test_cuhk03_images_are_those_of_the_mat_file(boxes: str, tmp_path: Path) -> None:
    folder = layouts.make_cuhk03(tmp_path)
    benchmark = read_benchmark("cuhk03", tmp_path, labelled=boxes == "labeled")
    images = sorted((folder / f"images_{boxes}").iterdir())
    assert [path.name for path in images] == sorted(layouts.cuhk03_names(boxes))
    for path in images:
        assert np.array_equal(np.asarray(Image.open(path)), layouts.cuhk03_pixels(boxes, path.name))
    assert len(benchmark.crops) == len(images)
    other = {"detected": "labeled", "labeled": "detected"}[boxes]
    assert not (folder / f"images_{other}").exists()


def test_cuhk03_detected_and_labelled_are_different_images(tmp_path: Path) -> None:
    layouts.make_cuhk03(tmp_path)
    detected, labelled = (read_benchmark("cuhk03", tmp_path, labelled=labelled) for labelled in (False, True))
    assert (detected.variant, labelled.variant) == ("detected, 767/700", "labelled, 767/700")
    assert set(names(detected.datasets[0].train)) - set(names(labelled.datasets[0].train)) == {"1_001_1_02.png"}
    assert {row.published for row in detected.counts() if (row.splits, row.kind) == ("train", "images")} == {7365}
    assert {row.published for row in labelled.counts() if (row.splits, row.kind) == ("train", "images")} == {7368}


def test_cuhk03_the_new_protocol_lists_its_images(tmp_path: Path) -> None:
    layouts.make_cuhk03(tmp_path)
    benchmark = read_benchmark("cuhk03", tmp_path)
    assert benchmark.rule == "market1501"
    (dataset,) = benchmark.datasets
    expected = layouts.cuhk03_new_split("detected")
    assert {split.name: names(split) for split in dataset.splits} == {k: sorted(v) for k, v in expected.items()}
    assert set(dataset.query.camids) == {1, 2}  # both cameras are searched from


def test_cuhk03_the_first_five_images_are_the_first_camera(tmp_path: Path) -> None:
    layouts.make_cuhk03(tmp_path)
    crops = {crop.path.name: crop for crop in read_benchmark("cuhk03", tmp_path).crops}
    assert {name: crop.camid for name, crop in crops.items()} == {name: int(name[6]) for name in crops}
    assert [crops[f"2_002_{c}_{i:02d}.png"].camid for c, i in ((1, 1), (1, 2), (2, 6), (2, 10))] == [1, 1, 2, 2]
    assert crops["1_005_1_01.png"].pid == 5
    assert crops["2_001_1_01.png"].pid == 6  # person 1 of the second pair is another one


def test_cuhk03_classic_splits_search_all_images_of_the_test_people_by_cuhk03s_rule(tmp_path: Path) -> None:
    layouts.make_cuhk03(tmp_path)
    benchmark = read_benchmark("cuhk03", tmp_path, classic=True)
    assert benchmark.rule == "cuhk03"
    assert len(benchmark.datasets) == 20
    for number, dataset in enumerate(benchmark.datasets):
        tested = {f"{pair}_{person:03d}" for pair, person in layouts.cuhk03_testset(number)}
        expected = sorted(name for name in layouts.cuhk03_names("detected") if name[:5] in tested)
        assert names(dataset.query) == names(dataset.gallery) == expected
        assert len(dataset.train) + len(dataset.query) == len(layouts.cuhk03_names("detected"))
    assert benchmark.variant == "detected, classic"


def test_cuhk03_one_file_as_query_and_gallery_is_no_trouble_but_in_train_it_is(tmp_path: Path) -> None:
    layouts.make_cuhk03(tmp_path)
    dataset = read_benchmark("cuhk03", tmp_path, classic=True).datasets[0]
    assert "same file" not in {problem.kind for problem in check_dataset(dataset).problems}
    train = Split("train", (*dataset.train.crops, dataset.query.crops[0]))
    mixed = ReidDataset("mixed", dataset.root, train, dataset.query, dataset.gallery)
    assert "same file" in {problem.kind for problem in check_dataset(mixed).problems}
    assert "same file" not in {problem.kind for problem in check_dataset(mixed, decode=False).problems}
    copy = dataset.gallery.paths[0].with_name("copy.png")
    shutil.copy(dataset.gallery.paths[0], copy)
    crops = tuple(type(c)(copy if i == 0 else c.path, c.pid, c.camid) for i, c in enumerate(dataset.gallery.crops))
    copied = ReidDataset("copied", dataset.root, dataset.train, dataset.query, Split("gallery", crops))
    assert "same file" in {problem.kind for problem in check_dataset(copied).problems}


def test_cuhk03_is_extracted_once_and_then_needs_no_mat_file(tmp_path: Path) -> None:
    folder = layouts.make_cuhk03(tmp_path)
    before = read_benchmark("cuhk03", tmp_path, classic=True)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    (folder / "cuhk03_release" / "cuhk-03.mat").unlink()
    assert read_benchmark("cuhk03", tmp_path, classic=True).datasets == before.datasets
    assert len(read_benchmark("cuhk03", tmp_path).datasets) == 1
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")} == times
    assert str(tmp_path) not in (folder / "images_detected.json").read_text()
    with pytest.raises(DataError, match="cuhk03 is not here"):
        read_benchmark("cuhk03", tmp_path, labelled=True)


def test_cuhk03_an_extraction_that_was_cut_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = layouts.make_cuhk03(tmp_path)
    write, written = cuhk03_images._write_image, []

    def cut_off(path: Path, pixels: np.ndarray) -> int:
        if len(written) == 7:
            raise KeyboardInterrupt
        written.append(path)
        return write(path, pixels)

    monkeypatch.setattr(cuhk03_images, "_write_image", cut_off)
    with pytest.raises(KeyboardInterrupt):
        read_benchmark("cuhk03", tmp_path)
    monkeypatch.undo()
    assert len(list((folder / "images_detected").iterdir())) == 7
    assert not (folder / "images_detected.json").exists()  # so nothing would be read
    times = {path: path.stat().st_mtime_ns for path in written}
    written[3].write_bytes(b"half an image")
    read_benchmark("cuhk03", tmp_path)
    kept = [path for path in written if path != written[3]]
    assert {path: path.stat().st_mtime_ns for path in kept} == {path: times[path] for path in kept}
    assert np.array_equal(np.asarray(Image.open(written[3])), layouts.cuhk03_pixels("detected", written[3].name))


def test_cuhk03_another_image_of_that_name_is_not_written_over(tmp_path: Path) -> None:
    folder = layouts.make_cuhk03(tmp_path)
    mine = folder / "images_detected" / "1_002_1_01.png"
    mine.parent.mkdir()
    Image.new("RGB", (7, 13)).save(mine)
    with pytest.raises(DataError, match=r"1_002_1_01\.png shows something else than cuhk-03\.mat"):
        read_benchmark("cuhk03", tmp_path)
    assert len(read_benchmark("cuhk03", tmp_path, work_dir=tmp_path / "work").datasets) == 1
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["images_detected", "images_detected.json"]
    assert np.asarray(Image.open(mine)).max() == 0


def test_cuhk03_extracted_images_are_checked_when_read(tmp_path: Path) -> None:
    folder = layouts.make_cuhk03(tmp_path)
    read_benchmark("cuhk03", tmp_path)
    (folder / "images_detected" / "1_001_1_01.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 image\(s\) in .* are missing or were changed: 1_001_1_01\.png"):
        read_benchmark("cuhk03", tmp_path)
    listing = folder / "images_detected.json"
    damage(listing, lambda c: c["images"].update({"../x.png": 1}))
    with pytest.raises(DataError, match=r"names '\.\./x\.png'"):
        read_benchmark("cuhk03", tmp_path)
    damage(listing, lambda c: c.update(mat_bytes=1))
    with pytest.raises(DataError, match=r"made from another cuhk-03.mat"):
        read_benchmark("cuhk03", tmp_path)
    listing.unlink()
    assert len(read_benchmark("cuhk03", tmp_path).datasets) == 1


def test_cuhk03_damaged_files_are_named(tmp_path: Path) -> None:
    folder = layouts.make_cuhk03(tmp_path)
    mat = folder / "cuhk03_release" / "cuhk-03.mat"
    whole = mat.read_bytes()
    for damaged in (b"MATLAB 5.0 MAT-file", whole[: len(whole) // 2]):
        mat.write_bytes(damaged)
        with pytest.raises(DataError, match=r"cuhk-03\.mat cannot be read as"):
            read_benchmark("cuhk03", tmp_path)
    mat.write_bytes(whole)
    (folder / "cuhk03_new_protocol_config_detected.mat").unlink()
    with pytest.raises(DataError, match=r"protocol is not here: there is none of .*config_detected"):
        read_benchmark("cuhk03", tmp_path)
    assert len(read_benchmark("cuhk03", tmp_path, classic=True).datasets) == 20  # which does not need it


def test_cuhk03_a_mat_file_that_would_open_other_files_is_refused(tmp_path: Path) -> None:
    import h5py

    folder = layouts.make_cuhk03(tmp_path)
    mat = folder / "cuhk03_release" / "cuhk-03.mat"
    with h5py.File(mat, "a") as file:
        del file["testsets"]
        file["testsets"] = h5py.ExternalLink("/elsewhere.mat", "/testsets")
    with pytest.raises(DataError, match="has no cell testsets"):
        read_benchmark("cuhk03", tmp_path)
    with h5py.File(mat, "a") as file:
        del file["testsets"]
        secret = [(str(tmp_path / "secret.bin"), 0, 16)]
        file.create_dataset("testsets", (1, 2), dtype="f8", external=secret)
    with pytest.raises(DataError, match="refers to another file"):
        read_benchmark("cuhk03", tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v.update(train_idx=v["train_idx"] - 1), "train_idx must hold different numbers from 1"),
        (lambda v: v.update(query_idx=v["train_idx"][:2]), r"people \[1\] are in train and in the test"),
        (lambda v: v.update(labels=v["labels"] * 0), "labels do not agree"),
        (lambda v: v["filelist"].__setitem__((0, 0), "9_001_1_01.png"), "are not in cuhk-03.mat: 9_001"),
        (lambda v: v.pop("gallery_idx"), "does not hold gallery_idx"),
    ],
)
def test_cuhk03_a_configuration_that_does_not_fit(change: Callable[[dict], object], words: str, tmp_path: Path) -> None:
    from scipy.io import loadmat, savemat

    folder = layouts.make_cuhk03(tmp_path)
    path = folder / "cuhk03_new_protocol_config_detected.mat"
    variables = {key: value for key, value in loadmat(path).items() if key[0] != "_"}
    change(variables)
    savemat(path, variables)
    with pytest.raises(DataError, match=words):
        read_benchmark("cuhk03", tmp_path)


@pytest.mark.parametrize(("name", "library"), [("cuhk03", "h5py"), ("grid", "scipy")])
def test_a_missing_library_names_the_extra(
    name: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MAKERS[name](tmp_path)

    def missing(module: str) -> None:
        raise ModuleNotFoundError(f"No module named {library!r}", name=library)

    monkeypatch.setattr("osnet.errors.import_module", missing)
    with pytest.raises(MissingExtraError, match=rf"{library}.*osnet\[benchmarks\]"):
        read_benchmark(name, tmp_path)


# Several together; train on some, test on others.


def test_people_cameras_and_data_sets_of_several_stay_apart(tmp_path: Path) -> None:
    for name in ("market1501", "msmt17", "cuhksysu", "ilids"):
        MAKERS[name](tmp_path)
    sources = [read_benchmark(name, tmp_path).datasets[0] for name in ("market1501", "msmt17", "cuhksysu", "ilids")]
    joined = join_training(sources)
    assert joined.name == "market1501+msmt17+cuhksysu+ilids-00"
    people_of = [{c.pid for c in joined.train.crops if c.dsetid == k} for k in range(4)]
    assert [len(p) for p in people_of] == [2, 2, 3, 2]
    assert set.union(*people_of) == set(range(1, 10))
    known = [{c.camid for c in joined.train.crops if c.dsetid == k and c.camid > 0} for k in range(4)]
    assert known == [{1, 2}, {3, 4, 5}, set(), set()]
    unknown = [c.camid for c in joined.train.crops if c.camid < 0]
    assert len(set(unknown)) == len(unknown) == len(sources[2].train) + len(sources[3].train)
    assert all(c.camera == "" for c in joined.train.crops if c.camid < 0)
    assert {c.camera for c in joined.train.crops if c.dsetid == 1} == {"msmt17:1", "msmt17:2", "msmt17:15"}


def test_combine_all_takes_an_image_that_is_query_and_gallery_once_and_no_distractors(tmp_path: Path) -> None:
    layouts.make_cuhk03(tmp_path)
    layouts.make_grid(tmp_path)
    classic = read_benchmark("cuhk03", tmp_path, classic=True).datasets[0]
    grid = read_benchmark("grid", tmp_path).datasets[0]
    joined = join_training([classic, grid], combine_all=True)
    assert sum(c.dsetid == 0 for c in joined.train.crops) == len(layouts.cuhk03_names("detected"))
    assert sum(c.dsetid == 1 for c in joined.train.crops) == 2 * layouts.GRID_PEOPLE
    assert len(people(joined.train)) == 8 + layouts.GRID_PEOPLE


def test_sources_are_benchmarks_by_name_or_plain_folders(tmp_path: Path) -> None:
    layouts.make_msmt17(tmp_path)
    folder = layouts.make_market(tmp_path)
    assert read_source(f"msmt17={tmp_path}").name == "msmt17"
    assert read_source(Path(f"msmt17={tmp_path}")).name == "msmt17"
    assert read_source(folder).name == "market1501"
    with pytest.raises(DataError, match="unknown benchmark 'msmt'"):
        read_source(f"msmt={tmp_path}")


def test_the_list_names_layouts_and_sources() -> None:
    text = "\n".join(map(str, list_benchmarks()))
    for piece in ("cuhk03_release/cuhk-03.mat", "MSMT17_V2", "12,936 images", "(Torchreid, grid.py)", "options: seed"):
        assert piece in text
