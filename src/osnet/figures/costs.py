"""Plot accuracy against parameters and against multiply-adds, one point per network. Needs the extra ``figures``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osnet.errors import DataError, require_extra
from osnet.figures.canvas import STYLES, check_figure_path, new_figure, plain, save_figure

SIZE_IN = (9.6, 4.0)


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
            axes.margins(x=0.22, y=0.1)
            axes.set_xlabel(label)
            axes.tick_params(labelsize=8)
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
        above = number % 4 in (0, 3)  # lines rise to the right: labels go above left, or below right
        axes.annotate(
            plain(point.label),
            (x[place], y[place]),
            xytext=(-6, 5) if above else (6, -10),
            ha="right" if above else "left",
            textcoords="offset points",
            fontsize=8,
            color=colour,
        )


def _plain_ticks(axes: Any) -> None:
    """Label ticks as 0.2, 1, 10 instead of powers of ten: the axis covers little more than a decade."""
    ticker = require_extra("matplotlib.ticker", "figures")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(
        ticker.LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if high < 10 * low else (1.0, 2.0, 5.0))
    )
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _place: f"{value:g}"))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
