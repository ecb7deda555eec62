"""The figures in docs/attributes.md and docs/classification.md are those of benchmarks/results, and of the networks."""

import importlib.util
import json
import re
import sys
from types import ModuleType
from typing import Any

import pytest

from conftest import ROOT
from osnet.models.counting import TABLE_A, count_cost
from osnet.models.registry import VARIANTS, build_network, list_models

RESULTS = ROOT / "benchmarks" / "results"
ATTRIBUTES = (ROOT / "docs" / "attributes.md").read_text(encoding="utf-8")
CLASSES = (ROOT / "docs" / "classification.md").read_text(encoding="utf-8")
ENTRANTS = {
    "osnet_x0_25": "OSNet x0.25 from scratch", "osnet_t1_x0_25": "single-scale T=1 x0.25 from scratch",
    "mobilenetv2_x0_25": "MobileNetV2 x0.25 from scratch",
    "osnet_x0_25_finetuned": "OSNet x0.25 from the MSMT17 checkpoint",
}  # fmt: skip


def results(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def benchmark(name: str) -> ModuleType:
    path = ROOT / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def spread(row: dict[str, float]) -> str:
    return f"{100 * row['mean']:.1f} ({100 * row['min']:.1f} to {100 * row['max']:.1f})"


def words(text: str) -> str:
    """Without line breaks."""
    return " ".join(text.split())


def test_attributes_on_the_sample() -> None:
    report = results("attributes.json")
    assert report["complete"]
    assert report["images"] == {"train": 1599, "val": 200, "test": 199}
    left_out = report["attributes_left_out"]
    assert f"left out are {', '.join(left_out[:-1])} and {left_out[-1]}." in words(ATTRIBUTES)
    none = report["majority"]
    cells = " | ".join(f"{100 * none[key]:.1f}" for key in ("mA", "F1", "mAP"))
    assert f"| the majority answer, without looking | {cells} | |" in ATTRIBUTES
    for entrant, title in ENTRANTS.items():
        over = report["over_seeds"][entrant]
        assert over["seeds"] == [1, 2, 3]
        best, last = over["best epoch, at 0.5"], over["last epoch, at 0.5"]
        cells = " | ".join(spread(best[key]) for key in ("mA", "F1", "mAP"))
        ended = f"{100 * last['mA']['mean']:.1f}, {100 * last['F1']['mean']:.1f}"
        assert f"| {title} | {cells} | {ended} |" in ATTRIBUTES


def test_means_over_seeds_are_those_of_the_runs() -> None:
    report = results("attributes.json")
    for entrant in ENTRANTS:
        for key in ("mA", "F1", "mAP"):
            values = [report["runs"][f"{entrant}-seed{seed}"]["best epoch"]["at 0.5"][key] for seed in (1, 2, 3)]
            said = report["over_seeds"][entrant]["best epoch, at 0.5"][key]
            assert said["mean"] == pytest.approx(sum(values) / 3)
            assert (said["min"], said["max"]) == (min(values), max(values))
    run = report["runs"]["osnet_x0_25-seed1"]["best epoch"]
    rows = [row for row in run["per attribute"] if row["name"] in report["attributes_in_mA"]]
    assert run["at 0.5"]["mA"] == pytest.approx(sum(row["mean_accuracy"] for row in rows) / len(rows))


def test_attributes_in_words() -> None:
    """What the page concludes from the table, recomputed."""
    report, page = results("attributes.json"), words(ATTRIBUTES)
    over = {name: report["over_seeds"][name] for name in ENTRANTS}
    at = "best epoch, at 0.5"
    for criterion in ("mA", "F1"):
        way = f"best epoch, at validation's best {criterion}"
        pairs = [f"{100 * over[n][way]['mA']['mean']:.1f}, " for n in ENTRANTS]
        assert all(pair in page for pair in pairs)
    ours, none = over["osnet_x0_25"][at], report["majority"]
    gain = [100 * (ours[key]["mean"] - none[key]) for key in ("mA", "F1")]
    width = [100 * (ours[key]["max"] - ours[key]["min"]) for key in ("mA", "F1")]
    assert (
        f"by {gain[0]:.1f} points of mA and {gain[1]:.1f} of F1, with a range of {width[0]:.1f} and {width[1]:.1f}"
        in page
    )
    scratch = [100 * over[n][at]["mA"]["mean"] for n in list(ENTRANTS)[:3]]
    tuned = 100 * over["osnet_x0_25_finetuned"][at]["mA"]["mean"]
    assert (
        f"give {tuned - max(scratch):.0f} to {tuned - min(scratch):.0f} points more than the networks from scratch"
        in page
    )
    assert max(scratch) - min(scratch) < 2


def test_searches_by_description() -> None:
    sample, tuned = results("attribute-search-sample.json"), results("attribute-search-generated.json")
    scratch = results("attribute-search-generated-scratch.json")
    assert sample["images"] == 199
    assert tuned["images"] == scratch["images"] == 3072
    for report, others in ((sample, [None] * 8), (tuned, scratch["rows"])):
        for row, other in zip(report["rows"], others, strict=True):
            asked = ", ".join([*row["with"], *(f"not {name}" for name in row["without"])])
            last = "" if other is None else f" {other['right']} |"
            assert f"| {asked} | {row['right']} | {row['by_chance']:.1f} |{last}\n" in ATTRIBUTES
        right, chance = (sum(row[key] for row in report["rows"]) for key in ("right", "by_chance"))
        assert f"In all {right} of 80" in words(ATTRIBUTES)
        assert f"{chance:.1f} by chance." in words(ATTRIBUTES)
    assert f"from scratch, {sum(row['right'] for row in scratch['rows'])};" in words(ATTRIBUTES)


def test_unconfirmed_figures_are_marked() -> None:
    rows = [line for line in ATTRIBUTES.splitlines() if re.match(r"\| (DeepMAR|HP-Net|OSNet x1.0) \| 7", line)]
    assert len(rows) == 3
    assert all("unconfirmed" in row for row in rows)
    for row in rows:  # F1 from the printed precision and recall
        _, _, _, _, precision, recall, f1, _, _ = (cell.strip() for cell in row.split("|"))
        p, r = float(precision), float(recall)
        assert f"{2 * p * r / (p + r):.1f}" == f1


def test_table_a_on_the_page() -> None:
    for row in TABLE_A:
        cost = count_cost(build_network(VARIANTS[row.model].config, "meta"), (224, 224), 1000)
        (line,) = [
            x for x in CLASSES.splitlines() if x.startswith((f"| {row.label} |", f"| {row.label} (", f"| {row.label},"))
        ]
        assert f"| {row.params} | {cost.params / 1e6:.3f}M | {row.madds or '-'} | {cost.madds / 1e6:.1f}M |" in line
        assert f"| {row.top1 or '-'} |" in line


def test_cifar() -> None:
    report = results("cifar-cpu.json")
    assert report["complete"]
    assert [len(row["runs"]) for row in report["networks"].values()] == [3, 3, 3, 3]
    assert benchmark("cifar_figure").markdown(report) in CLASSES
    for row in report["networks"].values():
        values = [run["test_top1"] for run in row["runs"]]
        assert row["test_top1"]["mean"] == pytest.approx(sum(values) / 3)
        assert row["lr"] == float(max(row["held_out_top1_by_lr"], key=lambda lr, r=row: r["held_out_top1_by_lr"][lr]))


def test_grouped_networks() -> None:
    report = results("grouped-cpu.json")
    assert set(report["results"]) == {*list_models("osnet_x*_g*"), "osnet_x1_0", "osnet_x0_75", "osnet_x0_5"}
    assert benchmark("variants").markdown(report["results"]) in CLASSES
    for name in ("osnet_x1_0_g4_all", "osnet_x0_75_g3_block"):
        madds = count_cost(build_network(VARIANTS[name].config, "meta"), (224, 224)).madds
        assert report["results"][name]["madds"] == madds


def test_loading() -> None:
    assert benchmark("photo_loading").markdown(results("photo-loading-cpu.json")["results"]) in CLASSES


def test_the_results_page_is_that_of_the_json_files() -> None:
    """After a change: `python benchmarks/results_page.py`."""
    page = benchmark("results_page")
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.fill(text) == text
    for name in re.findall(r"\(images/([\w.-]+)\)", text):
        assert (ROOT / "docs" / "images" / name).exists()


def test_the_results_pages_cells() -> None:
    page = benchmark("results_page")
    assert page.pair({"rank-1": 0.91182, "mAP": 0.74938}) == "91.18 / 74.94"
    assert page.pair(None) == page.NOT_YET
    assert page.shown_interval({"intervals": {"mAP": [0.1, 0.25]}}, "mAP") == " [10.0, 25.0]"
    assert page.shown_interval({}, "mAP") == ""
