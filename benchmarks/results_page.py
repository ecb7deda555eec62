"""Write docs/results.md and its figures from the files in benchmarks/results. Run it after one of these has changed.

    python benchmarks/results_page.py

The text between two comments of the page (<!-- NAME --> and <!-- end of NAME -->) is replaced; the rest is edited by
hand. Missing values are marked "not measured yet".
"""

import json
import re
from pathlib import Path
from typing import Any

from osnet.figures.canvas import STYLES, new_figure, save_figure
from osnet.figures.costs import CostPoint, save_costs
from osnet.models.counting import count_cost
from osnet.recipes.reid_ablations import ROWS, SCORES
from osnet.weights.factory import create_model

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE, IMAGES = ROOT / "benchmarks" / "results", ROOT / "docs" / "results.md", ROOT / "docs" / "images"
RELEASED, OMNI = "published-weights-cpu.json", "omni-scale-{}.json"
ATTRIBUTES = {"x0.25": "market-attributes-cpu.json", "x0.5": "market-attributes-x0_5-cpu.json"}
"""Files of Market-1501's attributes by width."""
MARKET, MSMT = "osnet_x0_25_market1501", "osnet_x0_25_msmt17"
NOT_YET = "not measured yet"
TABLE6_256 = {"x1.0": (1.0, 84.9), "x0.75": (0.75, 84.1), "x0.5": (0.5, 82.6), "x0.25": (0.25, 77.8)}
ZOO = {"x1.0": (1.0, 82.6), "x0.75": (0.75, 81.2), "x0.5": (0.5, 79.8), "x0.25": (0.25, 75.0)}
PAPER_OSNET = (93.6, 81.0)
"""Table 5, row 1."""
SCORE = "validation_mAP"


def read(name: str) -> dict[str, Any]:
    """A result file's content; empty if there is none."""
    path = RESULTS / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def percent(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f}"


def pair(scores: dict[str, Any] | None) -> str:
    """Rank-1 / mAP."""
    return f"{percent(scores['rank-1'])} / {percent(scores['mAP'])}" if scores else NOT_YET


def released_scores(weights: str) -> dict[str, Any]:
    """Scores of one checkpoint by kind: ranking and re-ranking."""
    steps = read(RELEASED).get("weights", {}).get(weights, {})
    return {**steps.get("score", {}).get("scores", {}), **steps.get("re-rank", {}).get("scores", {})}


def make_first_table() -> str:
    """A row per published score, with ours and its command."""
    market, msmt = released_scores(MARKET), released_scores(MSMT)
    evaluate = "`osnet evaluate --weights {}.pth --data Market-1501-v15.09.15`"
    rows = [
        ("`osnet_x0_25_market1501`, Euclidean distance", "91.2 / 75.0 (model zoo)", pair(market.get("euclidean")),
         evaluate.format(MARKET)),
        ("the same, cosine distance", "-", pair(market.get("cosine")), "the same command prints it too"),
        ("`osnet_x0_25_msmt17`, Euclidean distance (other people, other cameras)", "-", pair(msmt.get("euclidean")),
         evaluate.format(MSMT)),
        *make_claim_rows(),
    ]  # fmt: skip
    head = ["| on Market-1501, rank-1 / mAP in percent | published | ours | how to run it |", "|---|---|---|---|"]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)])


def make_claim_rows() -> list[tuple[str, str, str, str]]:
    """Rows with the mAP difference between OSNet and each network that a plan compares it with."""
    rows = []
    for plan in ("gpu", "cpu"):
        command = f"`python benchmarks/omni_scale.py --data MARKET1501 --work STATE --plan {plan}`"
        for found in read(OMNI.format(plan)).get("contrasts", []):
            name = found["second"]
            published = f"{PAPER_OSNET[1] - ROWS[name][3]:+.1f} mAP (Table 5)" if name in ROWS else "-"
            over = found.get("test_mAP_over_seeds")
            if over:
                ours = (f"{100 * over['mean']:+.1f} mAP [{100 * over['low']:+.1f}, {100 * over['high']:+.1f}], seeds: "
                        f"{over['num_seeds']}; **{found['verdict']}**")  # fmt: skip
            elif alone := _differences(plan, found):
                ours = f"{sum(alone) / len(alone):+.1f} mAP without an interval, seeds: {len(alone)}; **open**"
            else:
                ours = f"{NOT_YET}; **open**"
            rows.append((f"OSNet minus `{name}`, {found['group']}", published, ours, command))
    return rows


def _differences(plan: str, found: dict[str, Any]) -> list[float]:
    """mAP differences of the seeds with which both networks are done."""
    runs = read(OMNI.format(plan))["runs"]
    scores = [
        [runs.get(f"{found['group']}-{found[name]}-seed{seed}", {}).get("scores") for name in ("first", "second")]
        for seed in found["seeds"]
    ]
    return [100 * (one["euclidean"]["mAP"] - other["euclidean"]["mAP"]) for one, other in scores if one and other]


def make_released_table() -> str:
    """All scores of both released checkpoints."""
    lines = []
    for weights in (MARKET, MSMT):
        scores = released_scores(weights)
        if not scores:
            lines += [f"`{weights}`: {NOT_YET}.", ""]
            continue
        lines += [f"`{weights}`", "", "| how | rank-1 | rank-5 | rank-10 | mAP | mINP |", "|---|---|---|---|---|---|"]
        for how, row in scores.items():
            cells = [
                percent(row[name]) + shown_interval(row, name)
                for name in ("rank-1", "rank-5", "rank-10", "mAP", "mINP")
            ]
            lines.append(f"| {how} | {' | '.join(cells)} |")
        peer = read(RELEASED)["weights"][weights].get("peer-score", {}).get("scores", {})
        for distance, row in peer.items():
            lines.append(f"| torchreid 0.2.5, {distance} | {percent(row['rank-1'])} | {percent(row['rank-5'])} | "
                         f"{percent(row['rank-10'])} | {percent(row['mAP'])} | - |")  # fmt: skip
        lines.append("")
    return "\n".join(lines).strip()


def shown_interval(row: dict[str, Any], name: str) -> str:
    bounds = row.get("intervals", {}).get(name)
    return f" [{percent(bounds[0], 1)}, {percent(bounds[1], 1)}]" if bounds else ""


def make_cost_table() -> str:
    """Seconds and memory of each step."""
    lines = ["| step | weights | processor seconds | seconds | peak memory |", "|---|---|---|---|---|"]
    for weights, steps in read(RELEASED).get("weights", {}).items():
        for name, found in steps.items():
            cost = found["whole step"]
            lines.append(
                f"| {name} | `{weights}` | {cost['cpu_s']:.0f} | {cost['seconds']:.0f} | {cost['peak_gb']:.2f} GB |"
            )
    return "\n".join(lines) if len(lines) > 2 else f"{NOT_YET}."


def make_threshold_table() -> str:
    """Open-set miss rates; thresholds calibrated on half of the people, and their error rates on the other half."""
    lines = []
    for weights in (MARKET, MSMT):
        found = read(RELEASED).get("weights", {}).get(weights, {}).get("open-set")
        if not found:
            lines.append(f"`{weights}`: {NOT_YET}.")
            continue
        lines += [f"`{weights}`", "", "| kind | false positive rate | threshold | missed |", "|---|---|---|---|"]
        for kind, scores in found["open set"].items():
            lines += [
                f"| {kind} | {100 * p['asked']:g} | {p['threshold']:.4f} | {percent(p['miss_rate'])}{caution(p)} |"
                for p in scores["points"]
            ]
        lines += [
            "",
            "| kind | false positive rate asked for | threshold | false positives on the other half | "
            "missed on the other half |",
            "|---|---|---|---|---|",
        ]
        for row in found["calibrated"]:
            other = row["on the other half"]
            cells = [f"{percent(i['mean'], 3)} [{percent(i['low'], 3)}, {percent(i['high'], 3)}]"
                     for i in (other["false positives"], other["missed"])]  # fmt: skip
            lines.append(
                f"| {row['kind']} | {percent(row['asked'], 1)} | {row['threshold']:.4f} | {cells[0]} | {cells[1]} |"
            )
        lines.append("")
    return "\n".join(lines).strip()


def caution(point: dict[str, Any]) -> str:
    """A remark on a rate that allows too few errors to be measured."""
    return "" if point["supported"] else f" (unreliable: allows {point['num_allowed']} errors)"


def make_runs_table() -> str:
    """A row per training run, finished or not."""
    lines = [
        "| run | parameters | multiply-adds | epochs | processor minutes | last held-out mAP | test rank-1 / mAP |",
        "|---|---|---|---|---|---|---|",
    ]
    for plan in ("gpu", "cpu"):
        for name, run in read(OMNI.format(plan)).get("runs", {}).items():
            if not run["epochs_done"]:
                continue
            held = [row[SCORE] for row in run["curve"] if SCORE in row]
            minutes, cost = run["curve"][-1]["cpu_s"] / 60, run["cost"]
            tested = pair(run["scores"]["euclidean"]) if run["finished"] else "-"
            lines.append(
                f"| {name} | {cost['parameters']:,} | {cost['multiply_adds'] / 1e6:.1f}M | "
                f"{run['epochs_done']} of {run['run']['epochs']} | {minutes:.0f} | "
                f"{percent(held[-1] if held else None, 1)} | {tested} |"
            )
    return "\n".join(lines)


def make_attribute_table() -> str:
    """Attribute scores of real people and searches by attributes, a network beside the other."""
    found = {width: result for width, name in ATTRIBUTES.items() if (result := read(name))}
    if not found:
        return f"{NOT_YET[0].upper()}{NOT_YET[1:]}."
    first = next(iter(found.values()))
    scores = {width: result["scores at 0.5"] for width, result in found.items()}
    lines = ["| | mA | F1 | right labels |", "|---|---|---|---|"]
    for name, row in {**scores, "the most common answer for everybody": first["majority"]}.items():
        values = [percent(row[key], 1) for key in ("mA", "F1", "accuracy per attribute")]
        lines.append(f"| {name} | {' | '.join(values)} % |")
    lines += ["", "Right images among the first 10 of a search; in brackets, how many people these 10 show:", ""]
    photo = [f"by photo, {width}" for width in found]
    columns = ["attributes asked for", "people who fit", "by chance", *found, *photo]
    lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for rows in zip(*(result["searches"] for result in found.values()), strict=True):
        row = rows[0]
        if any((other["with"], other["without"]) != (row["with"], row["without"]) for other in rows):
            raise ValueError(f"different searches in {' and '.join(ATTRIBUTES.values())}")
        asked = ", ".join([*row["with"], *(f"not {name}" for name in row["without"])])
        values = [f"{other['right']} ({other['different people among them']})" for other in rows]
        values += [f"{other['by photo']:.1f}" for other in rows]
        lines.append(f"| {asked} | {row['fitting people']} | {row['by chance']:.1f} | {' | '.join(values)} |")
    return "\n".join(lines)


BLOCKS = {
    "first table": make_first_table, "released weights": make_released_table, "costs": make_cost_table,
    "thresholds": make_threshold_table, "runs": make_runs_table, "attributes": make_attribute_table,
}  # fmt: skip


def fill(page: str) -> str:
    """The page with its blocks replaced."""
    for name, make in BLOCKS.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        if page.count(begin) != 1 or page.count(end) != 1:
            raise SystemExit(f"{PAGE} must have {begin} and {end} once")
        text = make()
        page = re.sub(
            f"{re.escape(begin)}.*{re.escape(end)}",
            lambda _, b=begin, t=text, e=end: f"{b}\n\n{t}\n\n{e}",
            page,
            flags=re.DOTALL,
        )
    return page


PAIR = {"osnet_x1_0": "OSNet", "osnet_t1": "T=1"}
"""The networks of Table 5 in the picture of costs."""


def cost_point(
    family: str, label: str, model: str, width: float, size_hw: tuple[int, int], mean_ap: float
) -> CostPoint:
    import torch

    with torch.device("meta"):
        cost = count_cost(create_model(model, width=width), size_hw)
    return CostPoint(family, label, cost.params, cost.madds, mean_ap)


def draw_costs(path: Path) -> None:
    """mAP on Market-1501 against parameters and multiply-adds, published and measured."""
    large = (256, 128)
    points = [cost_point("paper, Table 6", n, "osnet_x1_0", w, large, s / 100) for n, (w, s) in TABLE6_256.items()]
    points += [
        cost_point(
            "paper, Table 6, 128 x 64",
            f"x{get_width(suffix):g}",
            "osnet_x1_0",
            get_width(suffix),
            (128, 64),
            scores[1][1] / 100,
        )
        for suffix, scores in SCORES.items()
    ]
    points += [cost_point("model zoo", "", "osnet_x1_0", w, large, s / 100) for w, s in ZOO.values()]
    points += [
        cost_point("paper, Table 5, from scratch", "T=1", "osnet_t1", 1.0, large, ROWS["osnet_t1"][3] / 100),
        cost_point("paper, Table 5, from scratch", "OSNet", "osnet_x1_0", 1.0, large, PAPER_OSNET[1] / 100),
    ]
    if scores := released_scores(MARKET).get("euclidean"):
        points.append(cost_point("measured: released weights", "", "osnet_x1_0", 0.25, large, scores["mAP"]))
    for plan in ("gpu", "cpu"):
        for run in read(OMNI.format(plan)).get("runs", {}).values():
            settings = run["run"]
            if run["finished"] and settings["seed"] == 1 and settings["model"] in PAIR:
                place = f"{settings['epochs']} epochs, {settings['size_hw'][0]} x {settings['size_hw'][1]}"
                family = f"measured: trained here, {place}"
                label = f"{PAIR[settings['model']]} x{settings['width']:g}"
                points.append(CostPoint(family, label, run["cost"]["parameters"],
                                        run["cost"]["multiply_adds"], run["scores"]["euclidean"]["mAP"]))  # fmt: skip
    save_costs(points, path, "mAP", "Market-1501, Euclidean distance: published, and measured here")


def get_width(suffix: str) -> float:
    """``x0_25`` -> 0.25."""
    return float(suffix[1:].replace("_", "."))


def draw_curves(path: Path) -> bool:
    """Draw held-out mAP by epoch and by time for every run that has it. False if there is none.

    Runs of one network share colour and line. Markers are full for seed 1, hollow for seed 2, half for others.
    """
    runs = {n: r for plan in ("gpu", "cpu") for n, r in read(OMNI.format(plan)).get("runs", {}).items()
            if any(SCORE in row for row in r["curve"])}  # fmt: skip
    if not runs:
        return False
    with new_figure((9.6, 4.0)) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        networks = list(dict.fromkeys(name.rpartition("-seed")[0] for name in runs))
        styles = [*STYLES, ("#56b4e9", "--", "P"), *(("#888888", dash, marker) for _, dash, marker in STYLES)]
        for name, run in runs.items():
            network, _, seed = name.rpartition("-seed")
            colour, dash, marker = styles[networks.index(network)]
            fill = {"1": "full", "2": "none", "3": "left"}.get(seed, "top")
            look = {"color": colour, "marker": marker, "fillstyle": fill}
            rows = [row for row in run["curve"] if SCORE in row]
            values = [100 * row[SCORE] for row in rows]
            for axes, x in ((left, [row["epoch"] for row in rows]), (right, [row["cpu_s"] / 60 for row in rows])):
                axes.plot(x, values, dash, **look, markersize=5, linewidth=1.2, label=name)
        left.set_xlabel("epoch")
        right.set_xlabel("processor minutes of training")
        left.set_ylabel("mAP on held-out people (%)")
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", fontsize=8, ncols=2)
        save_figure(figure, path)
    return True


def main() -> None:
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    draw_costs(IMAGES / "market1501.svg")
    draw_curves(IMAGES / "omni-scale.svg")


if __name__ == "__main__":
    main()
