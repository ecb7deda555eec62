"""Every benchmark: its layout, counts and identity numbers, and joining several. The data sets are small copies."""

import re
from pathlib import Path

import pytest

import layouts
from layouts import MAKERS, names, people
from osnet.data.check import check_dataset
from osnet.data.joining import join_training
from osnet.data.reid.benchmark import Benchmark, Published
from osnet.data.reid.catalog import BENCHMARKS, list_benchmarks, read_benchmark, read_source
from osnet.errors import DataError
from osnet.types import ReidDataset, Split


def sortable(identity: str) -> str:
    """Numbers sort as numbers, other names as text."""
    return identity.zfill(9) if identity.isdecimal() else identity


# Each benchmark.


def test_every_benchmark_is_tested() -> None:
    assert set(MAKERS) == set(BENCHMARKS)


@pytest.mark.parametrize("name", MAKERS)
def test_any_folder_from_the_outermost_to_the_inner_one_is_accepted(name: str, tmp_path: Path) -> None:
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
def test_a_missing_folder_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_benchmark(name, tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in str(caught.value)
    assert len(re.findall(r"Market-1501-v15|none of", str(caught.value))) >= 1


@pytest.mark.parametrize("name", MAKERS)
def test_queries_have_identities_and_train_and_test_do_not_overlap(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path)
    for dataset in read_benchmark(name, tmp_path).datasets:
        assert all(pid >= 1 for pid in (*dataset.query.pids, *dataset.train.pids))
        assert not (people(dataset.train) | people(dataset.val)) & (people(dataset.query) | people(dataset.gallery))
        assert not any(problem.severity == "breaks" for problem in check_dataset(dataset).problems)


@pytest.mark.parametrize("name", MAKERS)
def test_pids_follow_the_sorted_identities(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path)
    dataset = read_benchmark(name, tmp_path).datasets[0]
    crops = [crop for split in (dataset.train, dataset.val) for crop in split.crops] or list(dataset.gallery.crops)
    by_name = sorted({(sortable(crop.identity), crop.pid) for crop in crops})
    assert [pid for _, pid in by_name] == sorted({crop.pid for crop in crops})
    assert len(by_name) == len({identity for identity, _ in by_name})


@pytest.mark.parametrize("name", MAKERS)
def test_counts_that_differ_from_published_ones_are_listed(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path)
    benchmark = read_benchmark(name, tmp_path)
    differing = {(row.splits, row.kind) for row in benchmark.differences()}
    with_source = {(row.splits, row.kind) for row in benchmark.counts() if row.published is not None}
    two_cameras = {"viper", "prid", "cuhk03", "cuhk02"}  # the small copies have as many cameras as the originals
    assert differing == {(s, k) for s, k in with_source if not (k == "cameras" and name in two_cameras)}
    assert all(row.source for row in benchmark.counts() if row.published is not None)
    unpublished = [row for row in benchmark.counts() if row.published is None]
    assert unpublished
    assert all("(not published)" in str(row) for row in unpublished)
    assert f"{len(differing)} published count(s) differ" in str(benchmark)


@pytest.mark.parametrize("name", MAKERS)
def test_docstrings_state_every_published_count_and_its_source(name: str) -> None:
    entry = BENCHMARKS[name]
    text = " ".join((entry.read.__doc__ or "").split())
    for rows in entry.published.values():
        for row in rows:
            for value in (row.identities, row.images, row.cameras):
                assert value is None or re.search(rf"(?<![\d,]){value:,}(?![\d,]*\d)", text), (name, row.splits, value)
    assert "Torchreid" in text or "person-re-ranking" in text
    assert "not published" in text or name in ("grid", "dukemtmcreid", "prid")


def test_only_differing_counts_are_listed(tmp_path: Path) -> None:
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


def test_counts_are_compared_in_every_split(tmp_path: Path) -> None:
    layouts.make_market(tmp_path)
    dataset = read_benchmark("market1501", tmp_path).datasets[0]
    other = ReidDataset("y", tmp_path, dataset.train, Split("query", dataset.query.crops[:1]), dataset.gallery)
    (row,) = Benchmark("x", tmp_path, (dataset, other), (Published("query", images=1, source="s"),)).differences()
    assert row.found == (1, 2)
    assert "query images: 1 or 2; DIFFERS: 1 (s)" in str(row)


def test_unknown_names_and_options_list_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown benchmark 'cuhk3'; choose from market1501, cuhk03, dukemtmcreid"):
        read_benchmark("cuhk3", tmp_path)
    with pytest.raises(DataError, match="viper has no option classic; its options: seed, work_dir"):
        read_benchmark("viper", tmp_path, classic=True)
    with pytest.raises(DataError, match="grid has no option seed; its options: none"):
        read_benchmark("grid", tmp_path, seed=0)
    layouts.make_viper(tmp_path)
    assert len(read_benchmark("viper", tmp_path, classic=False, seed=0, work_dir=None).datasets) == 20


def test_images_with_unexpected_names_are_listed(tmp_path: Path) -> None:
    folder = layouts.make_cuhk01(tmp_path)
    layouts.write_images(folder, ["campus/someone.png"])
    with pytest.raises(DataError, match=r"1 image\(s\) in .*campus are not named like 0001001\.png: someone\.png"):
        read_benchmark("cuhk01", tmp_path)


# Joining several for training.


def test_joined_data_sets_keep_identities_and_cameras_apart(tmp_path: Path) -> None:
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


def test_combine_all_takes_each_image_once_and_no_distractors(tmp_path: Path) -> None:
    layouts.make_cuhk03(tmp_path)
    layouts.make_grid(tmp_path)
    classic = read_benchmark("cuhk03", tmp_path, classic=True).datasets[0]
    grid = read_benchmark("grid", tmp_path).datasets[0]
    joined = join_training([classic, grid], combine_all=True)
    assert sum(c.dsetid == 0 for c in joined.train.crops) == len(layouts.cuhk03_names("detected"))
    assert sum(c.dsetid == 1 for c in joined.train.crops) == 2 * layouts.GRID_PEOPLE
    assert len(people(joined.train)) == 8 + layouts.GRID_PEOPLE


def test_a_source_is_a_named_benchmark_or_a_plain_folder(tmp_path: Path) -> None:
    layouts.make_msmt17(tmp_path)
    folder = layouts.make_market(tmp_path)
    assert read_source(f"msmt17={tmp_path}").name == "msmt17"
    assert read_source(Path(f"msmt17={tmp_path}")).name == "msmt17"
    assert read_source(folder).name == "market1501"
    with pytest.raises(DataError, match="unknown benchmark 'msmt'"):
        read_source(f"msmt={tmp_path}")


def test_a_source_chooses_a_variant_and_a_split(tmp_path: Path) -> None:
    layouts.make_cuhk03(tmp_path)
    layouts.make_msmt17(tmp_path, "v2")
    layouts.make_msmt17(tmp_path, "v1")
    expected = read_benchmark("cuhk03", tmp_path, classic=True, labelled=True).datasets[13]
    assert read_source(f"cuhk03:labelled,classic,13={tmp_path}") == expected
    assert read_source(f"msmt17:v2={tmp_path}").root.name == "MSMT17_V2"
    with pytest.raises(DataError, match="cuhk03 has no split 1; choose from 0 to 0"):
        read_source(f"cuhk03:1={tmp_path}")
    with pytest.raises(DataError, match="'label'; choose from labelled, classic"):
        read_source(f"cuhk03:label={tmp_path}")
    with pytest.raises(DataError, match="msmt17 has no option classic; its options: version"):
        read_source(f"msmt17:classic={tmp_path}")


def test_combine_all_names_the_benchmark_without_a_split(tmp_path: Path) -> None:
    layouts.make_viper(tmp_path)
    datasets = read_benchmark("viper", tmp_path).datasets
    assert join_training([datasets[4]], combine_all=True).name == "viper_combineall"
    assert join_training([datasets[4]]).name == "viper-04"


def test_list_benchmarks_names_layouts_and_sources() -> None:
    text = "\n".join(map(str, list_benchmarks()))
    for piece in ("cuhk03_release/cuhk-03.mat", "MSMT17_V2", "12,936 images", "(Torchreid, grid.py)", "options: seed"):
        assert piece in text
