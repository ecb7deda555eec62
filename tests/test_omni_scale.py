"""The experiment on the paper's Table 5 (benchmarks/omni_scale.py): device batches, resuming, and its report."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import ROOT
from osnet.data.augmentation import Augmentation
from osnet.synthetic.generate import GeneratedSettings, generate_dataset
from osnet.types import Preprocessing
from osnet.weights.checkpoint import read_checkpoint

pytest.importorskip("accelerate")
sys.path.insert(0, str(ROOT / "benchmarks"))
import device_batches
import omni_scale

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("size_hw", [(64, 32), (128, 64), (100, 50)])
def test_device_batches_match_the_librarys_augmentation(size_hw: tuple[int, int]) -> None:
    """Within two of 255 levels, except for a few pixels on the border of a rotated patch."""
    rng = np.random.default_rng(3)
    pictures = [Image.fromarray(rng.integers(0, 256, (64, 32, 3), dtype=np.uint8)) for _ in range(20)]
    images = torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures])
    augmentation, settings = Augmentation(crop=0.5, flip=0.5, patch=0.8), Preprocessing(size_hw=size_hw)

    def generator(number: int) -> np.random.Generator:
        return np.random.default_rng([1, 2, number])

    wanted = torch.stack(
        [augmentation.apply(pictures[i % 20], settings, generator(i), 20, pictures.__getitem__) for i in range(60)]
    )
    draws = [augmentation.draw(size_hw, generator(i), 20) for i in range(60)]
    assert sum(drawn.patch is not None and drawn.patch.degrees != 0 for drawn in draws) > 10
    found = device_batches.make_batch(images, torch.arange(60) % 20, draws, settings)
    levels = (found - wanted).abs() * 255 * torch.tensor(settings.std).view(1, 3, 1, 1)
    assert (levels > 2).float().mean() < 1e-4


@pytest.mark.slow
def test_a_resumed_plan_gives_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny plan on the CPU. One run is stopped twice within an epoch; the report covers all its parts."""
    people = tmp_path / "people"
    generate_dataset(people, GeneratedSettings(32, 2, 3, 0))
    run = omni_scale.Run("osnet_x1_0", 0.25, (32, 16), 2, 1, batch_size=16)
    monkeypatch.setitem(omni_scale.PLANS, "tiny", lambda: [run, replace(run, model="osnet_t1")])
    whole = omni_scale.Settings(tmp_path / "whole", "tiny", people)
    assert omni_scale.run_plan(whole, omni_scale.PLANS["tiny"]())
    parts = replace(whole, work=tmp_path / "parts", minutes=0)
    assert not omni_scale.run_plan(parts, [run])
    assert not omni_scale.run_plan(parts, [run])
    assert omni_scale.run_plan(replace(parts, minutes=10), [run])
    one, other = (read_checkpoint(place / run.name / "run" / "best").state for place in (whole.work, parts.work))
    assert all(torch.equal(one[name], other[name]) for name in one)
    times = omni_scale.read_rows(parts.work / run.name / "times.jsonl")
    assert [row["epoch"] for row in times] == [1, 1, 1, 2]
    assert sum(row["batches"] for row in times) == sum(
        row["batches"] for row in omni_scale.read_rows(whole.work / run.name / "times.jsonl")
    )
    report = omni_scale.make_report(whole, omni_scale.PLANS["tiny"]())
    (found,) = report["contrasts"]
    assert found["verdict"] == "open"  # one seed
    mean_ap = [report["runs"][name]["scores"]["euclidean"]["mAP"] for name in report["runs"]]
    assert found["test_mAP_over_seeds"]["mean"] == pytest.approx(mean_ap[0] - mean_ap[1], abs=1e-6)
    assert len(found["seeds"][1]["held_out"]["by_epoch"]) == 2
    partial = omni_scale.make_report(parts, omni_scale.PLANS["tiny"]())
    assert [entry["finished"] for entry in partial["runs"].values()] == [True, False]
    gone = replace(whole, work=tmp_path / "gone")
    plan = omni_scale.PLANS["tiny"]()
    assert read_back(omni_scale.make_report(gone, plan, read_back(report))) == read_back(report)
    assert omni_scale.make_report(whole, plan, read_back(partial))["runs"] == report["runs"]
    assert not any(entry["curve"] for entry in omni_scale.make_report(gone, plan)["runs"].values())
    del report["runs"][run.name]["ap_per_query"]  # as reports were
    assert read_back(omni_scale.make_report(gone, plan, read_back(report)))["contrasts"] == read_back([found])
    chosen = replace(gone, only=("osnet_t1",), minutes=0)
    assert not omni_scale.run_plan(chosen, plan)
    assert sorted(path.name for path in gone.work.iterdir()) == [plan[1].name]


def read_back(report: Any) -> Any:
    """As a report is read from its file."""
    return json.loads(json.dumps(report))


def test_the_widened_baseline_has_osnets_parameters() -> None:
    for width in (0.25, 0.5, 1.0):
        wanted = omni_scale.count_parameters("osnet_x1_0", width)
        run = omni_scale.Run(omni_scale.WIDENED, width, (128, 64), 30, 1)
        assert omni_scale.count_run(run)["parameters"] == pytest.approx(wanted, rel=0.02)


def test_curves_are_compared_by_epoch_and_by_time() -> None:
    slow = [{"epoch": e, "cpu_s": 10.0 * e, omni_scale.SCORE: 0.1 * e} for e in (1, 2, 3)]
    fast = [{"epoch": e, "cpu_s": 4.0 * e, omni_scale.SCORE: 0.05 * e} for e in (1, 2, 3, 5)]
    rows = omni_scale.compare_curves(slow, fast)["by_epoch"]
    assert [row["first"] for row in rows] == [0.1, 0.2, pytest.approx(0.3), None]
    assert [row["first_at_equal_time"] for row in rows] == [None, None, 0.1, 0.2]


def test_intervals_resample_people_and_seeds() -> None:
    """If all people have equal differences, the interval over people is a point; differing seeds widen it."""
    pids = np.repeat(np.arange(20), 3)
    alike = omni_scale.interval_over_seeds(np.full((1, 60), 0.1), pids)
    assert (alike["low"], alike["high"]) == (pytest.approx(0.1), pytest.approx(0.1))
    differing = omni_scale.interval_over_seeds(np.stack([np.full(60, 0.3), np.full(60, -0.1)]), pids)
    assert (differing["mean"], differing["low"], differing["high"]) == pytest.approx((0.1, -0.1, 0.3))
    assert omni_scale.judge({"test_mAP_over_seeds": differing}) == "open"
    for low, high, verdict in ((0.01, 0.2, "confirmed"), (-0.2, -0.01, "refuted")):
        mean = (low + high) / 2
        over = {"num_seeds": 2, "low": low, "high": high, "by_seed": [mean - 0.001, mean + 0.001]}
        assert omni_scale.judge({"test_mAP_over_seeds": over}) == verdict
        over["by_seed"] = [mean - 0.05, mean + 0.05]  # Student's interval is then mean +- 0.64
        assert omni_scale.judge({"test_mAP_over_seeds": over}) == "open"
        over |= {"num_seeds": 4, "by_seed": [mean - 0.01, mean + 0.01] * 2}  # mean +- 0.018
        assert omni_scale.judge({"test_mAP_over_seeds": over}) == verdict


def test_seeds_of_an_earlier_report_are_kept() -> None:
    def entry(mean: float) -> dict[str, Any]:
        return {"held_out": {}, "test_mAP": {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}}

    over = {"mean": 0.11, "low": 0.09, "high": 0.13, "num_seeds": 2, "num_people": 750, "by_seed": [0.1, 0.12]}
    known = {"seeds": {"1": entry(0.1), "2": entry(0.12)}, "test_mAP_over_seeds": over, "verdict": "open"}
    lost: dict[int, Any] = {1: {"held_out": {}}, 2: {"held_out": {}}, 3: {"held_out": {}}}
    kept = omni_scale.keep_seeds({"seeds": dict(lost), "verdict": "open"}, known)
    assert kept["test_mAP_over_seeds"] == over  # nothing new
    third = {"seeds": lost | {3: entry(0.11)}, "test_mAP_over_seeds": over | {"num_seeds": 1}, "verdict": "open"}
    found = omni_scale.keep_seeds(third, known)
    joined = found["test_mAP_over_seeds"]
    assert joined["by_seed"] == [0.1, 0.12, 0.11]
    half = 4.303 * 0.01 / 3**0.5  # the standard deviation of the three is 0.01
    assert (joined["low"], joined["high"]) == pytest.approx((0.11 - half, 0.11 + half))
    assert (found["verdict"], found["seeds"][1]["test_mAP"]["mean"]) == ("confirmed", 0.1)
    again = omni_scale.keep_seeds(third, read_back(found))
    assert again["test_mAP_over_seeds"] == joined


def test_verdicts_are_those_of_the_results() -> None:
    report = json.loads((ROOT / "benchmarks" / "results" / "omni-scale-cpu.json").read_text(encoding="utf-8"))
    assert [omni_scale.judge(found) for found in report["contrasts"]] == [c["verdict"] for c in report["contrasts"]]


def test_state_in_tracked_folders_is_refused() -> None:
    with pytest.raises(SystemExit, match="docs"):
        omni_scale.Settings(ROOT / "docs" / "state", "cpu", Path("data"))
    omni_scale.Settings(ROOT / "out" / "state", "cpu", Path("data"))
