"""The results of cifar.py as a Markdown table and a figure; or the supplement's Table A, as published, as a figure.

python benchmarks/cifar_figure.py --results benchmarks/results/cifar-cpu.json --figure cifar.png
python benchmarks/cifar_figure.py --published --figure table-a.png
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from osnet.errors import DataError, require_extra
from osnet.figures.canvas import STYLES, check_figure_path, new_figure, plain, save_figure
from osnet.models.build import build_network
from osnet.models.counting import count_cost
from osnet.models.published_counts import TABLE_A
from osnet.models.variants import VARIANTS

SIZE_IN = (9.6, 4.0)
LABELS = {
    "osnet_x0_25": ("OSNet", "x0.25"), "osnet_t1_x0_25": ("T=1", "x0.25"),
    "osnet_add_x0_25": ("OSNet, addition", "x0.25"), "mobilenetv2_x0_22": ("MobileNetV2", "x0.22"),
    "osnet_x0_5": ("OSNet", "x0.5"), "osnet_x1_0": ("OSNet", "x1.0"), "osnet_t1": ("T=1", "x1.0"),
    "osnet_x1_0_g4_all": ("OSNet, 4 groups", "x1.0"), "mobilenetv2_x1_0": ("MobileNetV2", "x1.0"),
    "mobilenetv1_x1_0": ("MobileNetV1", "x1.0"), "shufflenet_x1_0_g3": ("ShuffleNet, 3 groups", "x1.0"),
    "squeezenet1_0": ("SqueezeNet", "1.0"),
}  # fmt: skip
"""A network's family, and what tells it apart in it."""


@dataclass(frozen=True)
class Settings:
    """What to draw."""

    results: Path | None = None
    """A JSON file of cifar.py."""
    published: bool = False
    """Table A as published, with counted parameters and multiply-adds, instead."""
    figure: Path | None = None
    """A file ending in .png, .pdf or .svg."""


@dataclass(frozen=True)
class CostPoint:
    """One network in the figure."""

    family: str
    """Points of one family share a style and are joined from smallest to largest. Shown in the legend."""
    label: str
    """Short text beside the point, such as ``x0.5``."""
    params: float
    """Number of parameters."""
    madds: float | None
    """Number of multiply-adds. None: the point is left out of that panel."""
    accuracy: float
    """A fraction in [0, 1]; the mean over runs."""
    low: float | None = None
    """Lowest and highest accuracy of the runs (``low``, ``high``); None: no error bar."""
    high: float | None = None


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


def save_costs(points: Sequence[CostPoint], path: str | Path, y_label: str, title: str = "") -> None:
    """Plot accuracy against parameters and against multiply-adds, side by side.

    Args:
        points: at least one.
        path: output file, ending in .png, .pdf or .svg.
        y_label: name of the accuracy, without its unit.
        title: above both panels; it should name the data set.

    Raises:
        DataError: no points, or a count or accuracy out of range.
        OutputError: ``path`` has another ending or cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    check_figure_path(path)
    if not points:
        raise DataError("no networks to draw; give at least one point")
    if bad := [
        f"{p.family} {p.label}" for p in points if p.params <= 0 or (p.madds or 1) <= 0 or not 0 <= p.accuracy <= 1
    ]:
        raise DataError(f"{bad[0]}: parameters and multiply-adds must be above 0, the accuracy from 0 to 1")
    with new_figure(SIZE_IN) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        families = list(dict.fromkeys(point.family for point in points))
        panels = ((left, "params", "parameters (millions)"), (right, "madds", "multiply-adds (millions)"))
        for axes, cost, label in panels:
            shown = [point for point in points if getattr(point, cost) is not None]
            for number, family in enumerate(families):
                members = sorted((p for p in shown if p.family == family), key=lambda p: getattr(p, cost))
                _draw_family(axes, members, cost, family, number)
            axes.set_xscale("log")
            axes.margins(x=0.15, y=0.1)
            axes.set_xlabel(label)
            _plain_ticks(axes)
        left.set_ylabel(f"{y_label} (%)")
        figure.legend(*left.get_legend_handles_labels(), loc="outside right upper", fontsize=9)
        if title:
            figure.suptitle(plain(title), fontsize=11, x=0.01, ha="left")
        save_figure(figure, path)


def _draw_family(axes: Any, members: Sequence[CostPoint], cost: str, family: str, number: int) -> None:
    colour, dash, marker = STYLES[number % len(STYLES)]
    face = colour if number < len(STYLES) else "none"  # hollow markers once the styles are used up
    x = [getattr(point, cost) / 1e6 for point in members]
    y = [100 * point.accuracy for point in members]
    axes.plot(
        x,
        y,
        dash,
        color=colour,
        marker=marker,
        markersize=6.5,
        markerfacecolor=face,
        linewidth=1.2,
        label=plain(family),
    )
    for place, point in enumerate(members):
        if point.low is not None and point.high is not None:
            bar = [[y[place] - 100 * point.low], [100 * point.high - y[place]]]
            axes.errorbar(x[place], y[place], bar, color=colour, capsize=4, linewidth=1.2)
        above = number % 4 == 3  # lines rise to the right, so labels go below right; every fourth family above left
        axes.annotate(
            plain(point.label), (x[place], y[place]), xytext=(-6, 5) if above else (6, -10),
            ha="right" if above else "left", textcoords="offset points", fontsize=8, color=colour,
        )  # fmt: skip


def _plain_ticks(axes: Any) -> None:
    """Label ticks as 0.2, 1, 10 instead of powers of ten: the axis covers little more than a decade."""
    ticker = require_extra("matplotlib.ticker", "figures")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(
        ticker.LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if high < 10 * low else (1.0, 2.0, 5.0))
    )
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _place: f"{value:g}"))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())


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
