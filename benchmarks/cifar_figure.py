"""The results of cifar.py as a Markdown table and a figure; or the supplement's Table A, as published, as a figure.

python benchmarks/cifar_figure.py --results benchmarks/results/cifar-cpu.json --figure cifar.png
python benchmarks/cifar_figure.py --published --figure table-a.png
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from osnet.errors import DataError
from osnet.figures.costs import CostPoint, save_costs
from osnet.models.counting import TABLE_A, count_cost
from osnet.models.registry import VARIANTS, build_network

LABELS = {
    "osnet_x0_25": ("OSNet", "x0.25"), "osnet_t1_x0_25": ("T=1", "x0.25"),
    "osnet_add_x0_25": ("OSNet, addition", "x0.25"), "mobilenetv2_x0_22": ("MobileNetV2", "x0.22"),
    "osnet_x0_5": ("OSNet", "x0.5"), "osnet_x1_0": ("OSNet", "x1.0"), "osnet_t1": ("T=1", "x1.0"),
    "osnet_x1_0_g4_all": ("OSNet, 4 groups", "x1.0"), "mobilenetv2_x1_0": ("MobileNetV2", "x1.0"),
    "mobilenetv1_x1_0": ("MobileNetV1", "x1.0"), "shufflenet_x1_0_g3": ("ShuffleNet, 3 groups", "x1.0"),
    "squeezenet1_0": ("SqueezeNet", "1.0"),
}  # fmt: skip
"""Network -> family and label within the family."""


@dataclass(frozen=True)
class Settings:
    """Results to draw, and the output file."""

    results: Path | None = None
    """A JSON file of cifar.py."""
    published: bool = False
    """Table A as published, with counted parameters and multiply-adds, instead."""
    figure: Path | None = None
    """A file ending in .png, .pdf or .svg."""


def markdown(report: dict[str, Any]) -> str:
    """A row per network, with the spread over seeds; paired differences to the first network."""
    lines = ["| network | parameters | multiply-adds | rate | seeds | top-1 on test, mean (least to greatest) | "
             "against the first, seed by seed |", "|---|---|---|---|---|---|---|"]  # fmt: skip
    rows = [(name, row) for name, row in report["networks"].items() if "test_top1" in row]
    first = {run["seed"]: run["test_top1"] for run in rows[0][1]["runs"]}
    for name, row in rows:
        top = row["test_top1"]
        gaps = [100 * (run["test_top1"] - first[run["seed"]]) for run in row["runs"] if run["seed"] in first]
        shown = "" if name == rows[0][0] else ", ".join(f"{gap:+.1f}" for gap in gaps)
        title = " ".join(LABELS.get(name, (name,)))
        lines.append(
            f"| {title} | {row['params']:,} | {row['madds'] / 1e6:.1f}M | {row['lr']:g} | "
            f"{top['runs']} | {100 * top['mean']:.1f} ({100 * top['min']:.1f} to {100 * top['max']:.1f}) | {shown} |"
        )
    return "\n".join(lines)


def result_points(report: dict[str, Any]) -> list[CostPoint]:
    points = []
    for name, row in report["networks"].items():
        if top := row.get("test_top1"):
            family, label = LABELS.get(name, (name, ""))
            points.append(CostPoint(family, label, row["params"], row["madds"], top["mean"], top["min"], top["max"]))
    return points


def published_points() -> list[CostPoint]:
    points = []
    for row in TABLE_A:
        if row.top1 is not None:
            cost = count_cost(build_network(VARIANTS[row.model].config, "meta"), (224, 224), 1000)
            family, label = row.label.split(" ", 1)
            points.append(CostPoint(family, label, cost.params, cost.madds, row.top1 / 100))
    return points


def main(settings: Settings) -> None:
    if settings.published == (settings.results is not None):
        raise DataError("give either --results FILE or --published")
    if settings.results is None:
        points = published_points()
        title = "ImageNet: top-1 as published in Table A, not run here; costs as counted at 224 x 224"
    else:
        report = json.loads(settings.results.read_text(encoding="utf-8"))
        points = result_points(report)
        budget, images = report["budget"], report["images"]
        title = (f"CIFAR-10 (JPEG copy), {images['train']:,} training images, {budget['epochs']} epochs: not ImageNet. "
                 "Bars: least to greatest seed")  # fmt: skip
        print(markdown(report))
    if settings.figure is not None:
        save_costs(points, settings.figure, "top-1", title)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
