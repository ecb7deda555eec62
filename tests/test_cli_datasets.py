"""The commands ``data benchmarks``, ``data check --benchmark`` and ``train`` on benchmarks."""

import json
from pathlib import Path

import pytest

import layouts
from osnet.data.reid.catalog import BENCHMARKS, read_benchmark
from test_cli import Run


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


def test_data_check_shows_which_counts_differ(run: Run, tmp_path: Path) -> None:
    layouts.make_viper(tmp_path)
    status, out, err = run("data", "check", str(tmp_path), "--benchmark", "viper")
    assert status == 1
    assert "splits: 20, scored by market1501's rule" in out
    assert "train identities: 3; DIFFERS: 316 (Torchreid, docs/evaluation.rst)" in out
    assert "all cameras: 2; as published: 2 (Torchreid, viper.py)" in out
    assert "query cameras: 1 (not published)" in out
    assert "split 0 of 20:" in out
    (tmp_path / "viper" / "VIPeR" / "cam_a" / "000_0.bmp").write_bytes(b"broken")
    status, out, err = run("data", "check", str(tmp_path), "--benchmark", "viper", "--json")
    report = json.loads(out)
    assert (status, report["ok"], report["num_splits"], len(report["splits"])) == (1, False, 20, 20)
    assert "000_0.bmp" in out
    assert {"splits": "train", "kind": "identities", "published": 316, "found": [3],
            "source": "Torchreid, docs/evaluation.rst", "differs": True} in report["counts"]  # fmt: skip
    status, out, err = run("data", "check", str(tmp_path), "--benchmark", "vipr")
    assert (status, "choose from market1501, cuhk03" in err) == (2, True)
    status, out, err = run("data", "check", str(tmp_path), "--classic")
    assert (status, "classic: needs --benchmark" in err) == (2, True)
    status, out, err = run("data", "check", str(tmp_path), "--benchmark", "viper", "--pattern", "(?P<identity>.)")
    assert (status, "leave out --" in err) == (2, True)


def test_data_check_finds_broken_images_of_every_split(run: Run, tmp_path: Path) -> None:
    folder = layouts.make_ilids(tmp_path)
    first = read_benchmark("ilids", tmp_path).datasets[0]
    used = {path for split in first.splits for path in split.paths}
    unused = next(path for path in sorted(folder.glob("Persons/*")) if path not in used)
    unused.write_bytes(b"broken")
    _, out, _ = run("data", "check", str(tmp_path), "--benchmark", "ilids")
    assert f"{unused}: not an image" in out


def test_data_benchmarks(run: Run) -> None:
    status, out, _ = run("data", "benchmarks")
    assert status == 0
    assert [line.split(":")[0] for line in out.splitlines() if line and line[0] != " "] == list(BENCHMARKS)
    assert "note: withdrawn by its owners" in out
    status, out, _ = run("data", "benchmarks", "grid", "--json")
    (row,) = json.loads(out)
    assert row["layout"].startswith("grid/underground_reid")
    assert row["published"][""][0]["images"] == 1275


@pytest.mark.slow
def test_train_on_one_benchmark_and_test_on_another(run: Run, tmp_path: Path) -> None:
    """Cross-domain: train on two benchmarks, evaluate on a third."""
    layouts.make_viper(tmp_path, num_people=16)
    layouts.make_cuhk01(tmp_path, num_people=8)
    folder = layouts.make_market(tmp_path)
    tiny = ("--epochs", 1, "--batch-size", 8, "--size-hw", 32, 16, "--workers", 0, "--cpu")
    command = ("train", "market1501-osnet-x0-25-scratch", "--out", tmp_path / "run", *tiny)
    status, out, err = run(*command, "--data", f"viper:3={tmp_path}", f"cuhk01={tmp_path}")
    assert status == 0, err
    card = json.loads(next((tmp_path / "run").rglob("card.json")).read_text())
    assert card["training_data"] == "viper-03+cuhk01-00"
    status, out, err = run("evaluate", "--weights", tmp_path / "run", "--data", folder)
    assert status == 0, err
    assert "market1501 in" in out
