"""Curves, distributions and intervals, told apart by more than colour: as files, or as SVG in a page's text colour.

Needs the extra ``figures``.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from osnet.figures.canvas import GREY, INK, STYLES, as_svg, new_axes, plain
from osnet.metrics.bootstrap import Interval
from osnet.metrics.pair_scores import RECALL_LEVELS, PairCounts, PairCurves

NUM_BARS = 200


@dataclass(frozen=True)
class Line:
    """A curve: as many x as y."""

    x: Sequence[float]
    y: Sequence[float]


@contextmanager
def plotted_lines(
    lines: Mapping[str, Line],
    x_label: str,
    y_label: str,
    *,
    names: Sequence[str] = (),
    percent: bool = False,
    whole_x: bool = False,
    log_x: bool = False,
    title: str = "",
    equal: tuple[float, float] | None = None,
) -> Iterator[Any]:
    """Curves with a legend, as a figure.

    Args:
        lines: by name.
        x_label: below the axis.
        y_label: beside the axis.
        names: everything that is drawn on the page: a name looks the same in all its figures.
        percent: the values are fractions and are shown as percents.
        whole_x: only whole numbers stand at the axis.
        log_x: a logarithmic axis; what is not above 0 is left out.
        title: above it.
        equal: limits of y, in what is shown.
    """
    with new_axes((5.6, 3.6)) as (figure, axes):
        places = list(names or lines)
        for name, line in lines.items():
            colour, dash, marker = STYLES[places.index(name) % len(STYLES)]
            y = [100 * value for value in line.y] if percent else line.y
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
        axes.set(xlabel=plain(x_label), ylabel=plain(f"{y_label} (%)" if percent else y_label))
        if title:
            axes.set_title(plain(title), fontsize=11, loc="left")
        if equal is not None:
            axes.set_ylim(*equal)
        if log_x:
            axes.set_xscale("log")
        if whole_x:
            axes.locator_params(axis="x", integer=True)
        axes.legend()
        yield figure


def draw_lines(lines: Mapping[str, Line], x_label: str, y_label: str, **style: Any) -> str:
    """As ``plotted_lines``, as an SVG element."""
    with plotted_lines(lines, x_label, y_label, **style) as figure:
        return as_svg(figure, f"{x_label} {y_label}")


def make_roc(counts: PairCounts) -> Line:
    """True by false positive rate, from the rarest false positive that the pairs can show."""
    fpr, tpr = counts.rates()
    order = np.flatnonzero((fpr > 0) & np.append(np.diff(fpr) != 0, True))[::-1]
    return Line([float(v) for v in fpr[order]], [float(v) for v in tpr[order]])


def make_precision_recall(curves: PairCurves) -> Line:
    """Mean precision by recall, as fractions."""
    return Line([float(v) for v in RECALL_LEVELS], [float(v) for v in curves.precision])


@contextmanager
def plotted_scores(counts: PairCounts, threshold: float, title: str = "") -> Iterator[Any]:
    """Distributions of the scores of same and of different people, each of area 1, and the threshold, as a figure.

    Args:
        counts: with both kinds of pairs.
        threshold: a cosine score; a line, with what it costs written beside it.
        title: above it.
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
            axes.set_xlim(counts.edges[used[0]] - 0.02, min(1.02, counts.edges[used[-1] + 1] + 0.02))
        axes.set_ylim(0, axes.get_ylim()[1] * 1.42)  # room for the legend
        axes.set(xlabel="cosine score of a pair", ylabel="density")
        axes.legend(loc="upper left", fontsize=9)
        if title:
            axes.set_title(plain(title), fontsize=11, loc="left")
        yield figure


def draw_scores(counts: PairCounts, threshold: float, name: str) -> str:
    """As ``plotted_scores``, as an SVG element; ``name`` is in its ids."""
    with plotted_scores(counts, threshold, name) as figure:
        return as_svg(figure, f"scores {name}")


def _show_rate(rate: float) -> str:
    percent = 100 * rate
    return f"{percent:.1f} %" if percent >= 1 else f"{percent:.2g} %"


def draw_intervals(rows: Mapping[str, Interval], x_label: str, name: str) -> str:
    """Differences in points with their intervals, one row each, and a line at 0, as an SVG element.

    An interval that crosses 0 has a hollow dot. ``name`` is in its ids.
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
