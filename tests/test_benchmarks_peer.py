"""Small benchmark layouts read by osnet and by torchreid 0.2.5 (fixtures/make_torchreid_splits.py)."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import layouts
from conftest import FIXTURES
from osnet.data.joining import join_training
from osnet.data.reid.catalog import read_benchmark
from osnet.types import Crop, ReidDataset

PEER: dict[str, dict[str, list[list[Any]]]] = json.loads((FIXTURES / "torchreid_splits.json").read_text())
Row = tuple[str, int, int]


def read(case: str, root: Path) -> ReidDataset:
    """Read a case of the fixture with osnet."""
    name, *words = case.split()
    if name == "msmt17":
        for version in ("v2", "v1") if "v1" in words else ("v2",):
            layouts.make_msmt17(root, version)
        (dataset,) = read_benchmark(name, root).datasets
        return join_training([dataset], combine_all=True) if "combine_all" in words else dataset
    if name == "cuhk03":
        layouts.make_cuhk03(root)
        benchmark = read_benchmark(name, root, labelled="labelled" in words, classic="classic" in words)
        return benchmark.datasets[int(words[-1]) if "classic" in words else 0]
    if name == "grid":
        layouts.make_grid(root, num_people=250, num_others=4)
        return read_benchmark(name, root).datasets[int(words[0])]
    if name in ("market1501", "dukemtmcreid"):
        layouts.make_market(root, duke=name == "dukemtmcreid")
    else:
        getattr(layouts, f"make_{name}")(root)
    return read_benchmark(name, root, distractors="distractors" in words).datasets[0]


def partition(rows: Sequence[Row], label: int) -> set[frozenset[str]]:
    """Images grouped by a label; the label values do not matter."""
    groups: dict[int, set[str]] = {}
    for row in rows:
        groups.setdefault(row[label], set()).add(row[0])
    return {frozenset(group) for group in groups.values()}


@pytest.mark.parametrize("case", PEER)
def test_splits_have_torchreids_images_identities_and_cameras(case: str, tmp_path: Path) -> None:
    dataset = read(case, tmp_path)

    def ours(crops: Sequence[Crop]) -> list[Row]:
        return sorted((c.path.relative_to(tmp_path).as_posix(), c.pid, c.camid) for c in crops)

    mine = {split.name: ours(split.crops) for split in dataset.splits}
    theirs = {split: [(path, pid, camid) for path, pid, camid in rows] for split, rows in PEER[case].items()}
    for split, rows in theirs.items():
        assert [row[0] for row in mine[split]] == [row[0] for row in rows], split
    for together in (("train",), ("query", "gallery")):
        mixed, peer = ([row for s in together if s in theirs for row in part[s]] for part in (mine, theirs))
        assert partition(mixed, 1) == partition(peer, 1)
        if "cuhksysu" not in case:  # torchreid has one camera for all; here they are unknown
            assert partition(mixed, 2) == partition(peer, 2)


@pytest.mark.parametrize("case", ["market1501", "market1501 distractors", "grid 0"])
def test_distractors_are_torchreids(case: str, tmp_path: Path) -> None:
    mine = {c.path.name for c in read(case, tmp_path).gallery.crops if c.pid == 0}
    assert mine == {Path(path).name for path, pid, _ in PEER[case]["gallery"] if pid == 0}
    assert mine


def test_cuhksysu_labels_are_in_sorted_order(tmp_path: Path) -> None:
    """torchreid's labels for CUHK-SYSU depend on the hash order of a set."""
    crops = read("cuhksysu", tmp_path).train.crops
    by_name = dict(sorted((crop.identity, crop.pid) for crop in crops))
    assert list(by_name.values()) == [1, 2, 3]
