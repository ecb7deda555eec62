"""Rules of single benchmarks: Market-1501, DukeMTMC-reID, MSMT17, GRID, CUHK02, CUHK-SYSU, SenseReID."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import layouts
from layouts import names, people
from osnet.data.joining import join_training
from osnet.data.reid.catalog import BENCHMARKS, read_benchmark
from osnet.errors import DataError

# Market-1501, DukeMTMC-reID.


def test_market1501_junk_is_left_out_and_distractors_stay(tmp_path: Path) -> None:
    layouts.make_market(tmp_path)
    (dataset,) = read_benchmark("market1501", tmp_path).datasets
    assert dataset.num_junk == 1
    assert sorted(dataset.gallery.pids) == [0, 1, 1, 1, 3, 3, 3]
    assert sorted(set(dataset.gallery.camids)) == [1, 2, 3, 6]
    assert [Path(name).name for name in dataset.other_files] == ["Thumbs.db"]


def test_market1501_500k_distractors_are_optional(tmp_path: Path) -> None:
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


def test_msmt17_uses_val_for_training_only_with_combine_all(tmp_path: Path) -> None:
    layouts.make_msmt17(tmp_path)
    (dataset,) = read_benchmark("msmt17", tmp_path).datasets
    assert len(join_training([dataset]).train) == 3
    combined = join_training([dataset], combine_all=True)
    assert len(combined.train) == 3 + 1 + 2 + 3
    assert people(combined.train) == {1, 2, 3, 4, 5}
    assert combined.name == "msmt17_combineall"
    row = next(row for row in read_benchmark("msmt17", tmp_path).counts() if row.splits == "train+val")
    assert row.found == (4,)


def test_msmt17_prefers_v1_to_v2(tmp_path: Path) -> None:
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
        ("../../../secret_0_1_2.jpg 0", r"line 1: the path .*secret_0_1_2"),
        ("/etc/pass_0_1_2.jpg 0", "pass_0_1_2.*outside"),
        ("0000/0000_009_01_0303morning_0008_0.jpg 0", r"1 image.*list_train\.txt are not in"),
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
    with pytest.raises(DataError, match=r"partition 0.* probe image: \[3\]"):
        read_benchmark("grid", tmp_path)
    savemat(folder / "features_and_partitions.mat", {"other": 1})
    with pytest.raises(DataError, match=r"trainIdxAll.*other"):
        read_benchmark("grid", tmp_path)
    savemat(folder / "features_and_partitions.mat", {"trainIdxAll": np.zeros((1, 10))})
    with pytest.raises(DataError, match="partition 0"):
        read_benchmark("grid", tmp_path)
    for odd in (np.zeros((0, 0)), np.full((1, 10), np.inf)):
        savemat(folder / "features_and_partitions.mat", {"trainIdxAll": odd})
        with pytest.raises(DataError, match="features_and_partitions"):
            read_benchmark("grid", tmp_path)
    (folder / "features_and_partitions.mat").write_bytes(b"damaged")
    with pytest.raises(DataError, match="cannot be read as a MATLAB 5 file"):
        read_benchmark("grid", tmp_path)


# CUHK02, CUHK-SYSU, SenseReID.


def test_cuhk02_numbers_people_per_pair_of_cameras(tmp_path: Path) -> None:
    layouts.make_cuhk02(tmp_path)
    (dataset,) = read_benchmark("cuhk02", tmp_path).datasets
    assert len(people(dataset.train)) == 3 + 2 + 1 + 1
    assert people(dataset.query) == people(dataset.gallery) == {8, 9}
    assert sorted(set(dataset.train.camids)) == list(range(1, 9))
    assert (set(dataset.query.camids), set(dataset.gallery.camids)) == ({9}, {10})
    assert {crop.identity for crop in dataset.query.crops} == {"P5/001", "P5/002"}


def test_cuhksysu_has_only_train_and_sorts_names_as_text(tmp_path: Path) -> None:
    layouts.make_cuhksysu(tmp_path)
    benchmark = read_benchmark("cuhksysu", tmp_path)
    (dataset,) = benchmark.datasets
    assert (len(dataset.train), len(dataset.query), len(dataset.gallery)) == (6, 0, 0)
    assert {crop.identity: crop.pid for crop in dataset.train.crops} == {"p10": 1, "p11422": 2, "p9": 3}
    assert {row.splits for row in benchmark.counts()} == {"train"}


def test_sensereid_has_only_query_and_gallery_with_shared_identities(tmp_path: Path) -> None:
    layouts.make_sensereid(tmp_path)
    (dataset,) = read_benchmark("sensereid", tmp_path).datasets
    assert len(dataset.train) == 0
    assert dataset.query.pids == [1, 3]
    assert dataset.gallery.pids == [1, 2, 3]
    assert (set(dataset.query.camids), set(dataset.gallery.camids)) == ({0}, {1})
