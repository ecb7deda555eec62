"""Curves, score distributions and intervals, as matplotlib figures or as SVG elements.

Line styles and markers distinguish curves in addition to colour. Needs the extra ``figures``.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from osnet.figures.canvas import GREY, INK, STYLES, as_svg, new_axes, plain, style_of
from osnet.metrics.bootstrap import Interval
from osnet.metrics.pair_scores import RECALL_LEVELS, PairCounts, PairCurves

NUM_BARS = 200


@dataclass(frozen=True)
class Line:
    """A curve: x and y of equal length."""

    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class LineStyle:
    """How ``plot_lines`` draws curves."""

    names: Sequence[str] = ()
    """All names on the page, so that a name looks the same in every figure; by default those of the curves."""
    percent: bool = False
    """Show the y values, which are fractions, as percentages."""
    whole_x: bool = False
    """Put ticks at integers only."""
    log_x: bool = False
    """Use a logarithmic x axis; points with x <= 0 are not shown."""
    title: str = ""
    """Above the axes."""
    y_limits: tuple[float, float] | None = None
    """Limits of the y axis, in percent if ``percent``."""


PLAIN = LineStyle()


@contextmanager
def plot_lines(
    lines: Mapping[str, Line],
    x_label: str,
    y_label: str,
    style: LineStyle = PLAIN,
) -> Iterator[Any]:
    """Plot curves with a legend; yields the figure.

    Args:
        lines: curves by name.
        x_label: label of the x axis.
        y_label: label of the y axis, without a unit.
        style: title, scales and limits.
    """
    with new_axes((5.6, 3.6)) as (figure, axes):
        places = list(style.names or lines)
        for name, line in lines.items():
            colour, dash, marker = style_of(places.index(name))
            y = [100 * value for value in line.y] if style.percent else line.y
            every = max(1, len(line.x) // 8)
            axes.plot(
                line.x,
                y,
                dash,
                color=colour,
                marker=marker,
                markevery=every,
                markersize=4.5,
                linewidth=1.8,
                label=plain(name),
            )
        axes.set(xlabel=plain(x_label), ylabel=plain(f"{y_label} (%)" if style.percent else y_label))
        if style.title:
            axes.set_title(plain(style.title), fontsize=11, loc="left")
        if style.y_limits is not None:
            axes.set_ylim(*style.y_limits)
        if style.log_x:
            axes.set_xscale("log")
        if style.whole_x:
            axes.locator_params(axis="x", integer=True)
        axes.legend()
        yield figure


def draw_lines(lines: Mapping[str, Line], x_label: str, y_label: str, style: LineStyle = PLAIN) -> str:
    """``plot_lines`` as an SVG element."""
    with plot_lines(lines, x_label, y_label, style) as figure:
        return as_svg(figure, f"{x_label} {y_label}")


def make_roc(counts: PairCounts) -> Line:
    """ROC curve: true positive rate by false positive rate, from the lowest rate above 0."""
    fpr, tpr = counts.rates()
    order = np.flatnonzero((fpr > 0) & np.append(np.diff(fpr) != 0, True))[::-1]
    return Line([float(v) for v in fpr[order]], [float(v) for v in tpr[order]])


def make_precision_recall(curves: PairCurves) -> Line:
    """Precision-recall curve: mean precision by recall, as fractions."""
    return Line([float(v) for v in RECALL_LEVELS], [float(v) for v in curves.precision])


@contextmanager
def plot_scores(counts: PairCounts, threshold: float, title: str = "") -> Iterator[Any]:
    """Plot the score distributions of same-person and different-people pairs, each of area 1; yields the figure.

    Args:
        counts: histogram with both kinds of pairs.
        threshold: a cosine score, drawn as a line; the legend gives its true and false positive rate.
        title: above the axes.
    """
    fpr, tpr = counts.at(threshold)
    with new_axes((5.6, 3.6)) as (figure, axes):
        step = max(1, len(counts.same) // NUM_BARS)
        edges = counts.edges[::step]
        for name, values, (colour, dash, _), hatch in (
            ("different people", counts.different, STYLES[1], "///"),
            ("same person", counts.same, STYLES[0], ""),
        ):
            total = np.add.reduceat(values, np.arange(0, len(values), step))
            borders = np.append(edges[: len(total)], 1.0)
            density = total / max(1, total.sum()) / np.diff(borders)
            label = f"{name} ({values.sum():,} pairs)"
            axes.stairs(density, borders, fill=True, facecolor=colour, edgecolor=colour, alpha=0.3, hatch=hatch)
            axes.stairs(density, borders, color=colour, linestyle=dash, linewidth=1.6, label=label)
        axes.axvline(threshold, color=INK, linewidth=1.4, linestyle="-")
        axes.plot(
            [],
            [],
            color=INK,
            linewidth=1.4,
            label=f"threshold {threshold:.3f}: {100 * tpr:.1f} % of same,\n{_show_rate(fpr)} of different pairs pass",
        )
        used = np.flatnonzero(counts.same + counts.different)
        if len(used):
            low, high = counts.edges[used[0]], counts.edges[used[-1] + 1]
            axes.set_xlim(min(low, threshold) - 0.02, min(1.02, max(high, threshold) + 0.02))
        axes.set_ylim(0, axes.get_ylim()[1] * 1.42)  # space for the legend
        axes.set(xlabel="cosine score of a pair", ylabel="density")
        axes.legend(loc="upper left", fontsize=9)
        if title:
            axes.set_title(plain(title), fontsize=11, loc="left")
        yield figure


def draw_scores(counts: PairCounts, threshold: float, name: str) -> str:
    """``plot_scores`` as an SVG element; ``name`` is its title and part of its ids."""
    with plot_scores(counts, threshold, name) as figure:
        return as_svg(figure, f"scores {name}")


def _show_rate(rate: float) -> str:
    percent = 100 * rate
    return f"{percent:.1f} %" if percent >= 1 else f"{percent:.2g} %"


def draw_intervals(rows: Mapping[str, Interval], x_label: str, name: str) -> str:
    """Forest plot as an SVG element: differences in percentage points with their intervals, and a line at 0.

    A hollow dot marks an interval that contains 0. ``name`` is part of the ids.
    """
    with new_axes((5.6, 0.75 + 0.36 * len(rows))) as (figure, axes):
        axes.grid(visible=False, axis="y")
        for y, interval in enumerate(rows.values()):
            colour = STYLES[0][0] if interval.excludes_zero else GREY
            axes.plot([100 * interval.low, 100 * interval.high], [y, y], color=colour, linewidth=2.2)
            axes.plot(
                100 * interval.mean,
                y,
                "o",
                markersize=8,
                color=colour,
                markeredgewidth=2,
                markerfacecolor=colour if interval.excludes_zero else "none",
            )
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_yticks(range(len(rows)), list(map(plain, rows)))
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(plain(x_label))
        return as_svg(figure, f"intervals {name}")
