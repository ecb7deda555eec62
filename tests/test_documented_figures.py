"""Tables in the documentation agree with benchmarks/results and with the counted networks."""

import importlib.util
import json
from types import ModuleType
from typing import Any

import pytest

from conftest import ROOT
from osnet.models.counting import count_cost
from osnet.models.registry import build_network, get_config
from osnet.weights.open_model_zoo import INTEL_WEIGHTS


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_tables", ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TABLES = load("tables")


def results(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))
    return found


def test_tables_agree_with_the_results(capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, run ``python docs/tables.py``."""
    assert TABLES.main(["--check"]) == 0, capsys.readouterr().out


def test_a_changed_figure_is_noticed() -> None:
    page = (ROOT / "docs" / "attributes.md").read_text(encoding="utf-8")
    assert TABLES.fill("attributes.md", page) == page
    report = results("attributes.json")["over_seeds"]["osnet_x0_25"]["best epoch, at 0.5"]["mA"]
    shown = f"{100 * report['mean']:.1f} ("
    assert page.count(shown) == 1
    assert TABLES.fill("attributes.md", page.replace(shown, "99.9 (")) == page


def test_the_page_of_results_agrees_with_the_results() -> None:
    """If this fails, run ``python benchmarks/results_page.py``."""
    script = TABLES.benchmark("results_page")
    page = script.PAGE.read_text(encoding="utf-8")
    assert script.fill(page) == page
    assert page.count("91.18 / 74.94 |") == 1
    assert script.fill(page.replace("91.18 / 74.94 |", "91.19 / 74.94 |")) == page


def test_rates_of_few_errors_are_marked() -> None:
    """Of 3,368 searches, a rate of 0.0001 allows none and 0.001 three; every other rate allows at least 30."""
    table = TABLES.benchmark("results_page").make_threshold_table()
    marked = [row.split(" | ")[0:2] for row in table.splitlines() if "unreliable" in row]
    kinds = [f"| identification, {distance}" for distance in ("cosine", "euclidean")]
    assert marked == [[kind, rate] for kind in kinds for rate in ("0.01", "0.1")] * 2


def test_held_out_people_are_compared_within_a_seed() -> None:
    """Each seed holds out other people."""
    runs, page = results("omni-scale-cpu.json")["runs"], (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    ranges = {}
    for other in ("t2", "add"):
        curves = [
            {
                row["epoch"]: row["validation_mAP"]
                for row in run["curve"]
                if row["epoch"] >= 14 and "validation_mAP" in row
            }
            for run in (runs[f"x0.5-128x64-30epochs-osnet_{name}-seed1"] for name in ("x1_0", other))
        ]
        gaps = [100 * (curves[0][epoch] - value) for epoch, value in curves[1].items()]
        ranges[other] = f"{min(gaps):.1f} to {max(gaps):.1f}"
    said = "On the held-out people of this seed OSNet is {t2} mAP above T=2 from epoch 14 on, and {add} above addition."
    assert said.format(**ranges) in " ".join(page.split())


def test_missing_comments_are_named() -> None:
    page = (ROOT / "docs" / "attributes.md").read_text(encoding="utf-8")
    with pytest.raises(SystemExit, match="end of thresholds"):
        TABLES.fill("attributes.md", page.replace("<!-- end of thresholds -->", ""))


def test_attribute_means_agree_with_their_runs() -> None:
    report = results("attributes.json")
    assert report["complete"]
    for entrant in TABLES.ENTRANTS:
        for key in ("mA", "F1", "mAP"):
            values = [report["runs"][f"{entrant}-seed{seed}"]["best epoch"]["at 0.5"][key] for seed in (1, 2, 3)]
            row = report["over_seeds"][entrant]["best epoch, at 0.5"][key]
            assert row["mean"] == pytest.approx(sum(values) / 3)
            assert (row["min"], row["max"]) == (min(values), max(values))
    run = report["runs"]["osnet_x0_25-seed1"]["best epoch"]
    rows = [row for row in run["per attribute"] if row["name"] in report["attributes_in_mA"]]
    assert run["at 0.5"]["mA"] == pytest.approx(sum(row["mean_accuracy"] for row in rows) / len(rows))


def test_cifar_means_and_learning_rates_agree_with_their_runs() -> None:
    report = results("cifar-cpu.json")
    assert report["complete"]
    assert [len(row["runs"]) for row in report["networks"].values()] == [3, 3, 3, 3]
    for row in report["networks"].values():
        values = [run["test_top1"] for run in row["runs"]]
        assert row["test_top1"]["mean"] == pytest.approx(sum(values) / 3)
        assert row["lr"] == float(max(row["held_out_top1_by_lr"], key=lambda lr, r=row: r["held_out_top1_by_lr"][lr]))


GROUPS = {"x1_0": (2, 4, 8), "x0_75": (2, 3, 4, 8), "x0_5": (2, 4, 8)}


def test_grouped_results_agree_with_counted_networks() -> None:
    found = results("grouped-cpu.json")["results"]
    names = {f"osnet_{width}" for width in GROUPS} | {
        f"osnet_{width}_g{groups}_{extent}"
        for width in GROUPS
        for groups in GROUPS[width]
        for extent in ("lite", "block", "all")
    }
    assert set(found) == names
    for name in ("osnet_x1_0_g4_all", "osnet_x0_75_g3_block"):
        assert found[name]["madds"] == count_cost(build_network(get_config(name), "meta"), (224, 224)).madds


def test_figures_of_intels_networks_are_those_of_the_results() -> None:
    """``osnet weights`` and README show what ``benchmarks/permissive_weights.py`` measured."""
    report = results("permissive-weights.json")
    for weights in INTEL_WEIGHTS:
        scores, speed = report["scores"][weights.name], report["speed"]["rows"][weights.model]
        market, mars, found = scores["market1501"], scores["mars-mini"], weights.figures
        assert market["num_queries"] == 3368
        speeds = [speed["beside_x0_25"], speed["beside_x1_0"]]
        measured = [market["rank1"], market["mAP"], mars["rank1"], mars["mAP"], *speeds]
        shown = [found.rank1, found.mean_ap, found.rank1_mars, found.mean_ap_mars, found.speed_x0_25, found.speed_x1_0]
        assert shown == [round(value, 2) for value in measured]
        assert found.rank1 == pytest.approx(found.rank1_published, abs=0.3)
        if weights.name.endswith("0286"):
            assert f"{found.rank1:.2f} / {found.mean_ap:.2f}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_shows_the_measured_scores_of_market1501() -> None:
    scores = results("published-weights-cpu.json")["weights"]["osnet_x0_25_market1501"]["score"]["scores"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for distance in ("euclidean", "cosine"):
        assert f"| {100 * scores[distance]['rank-1']:.2f} / {100 * scores[distance]['mAP']:.2f} |" in readme
