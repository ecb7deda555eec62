"""Lines and intervals as SVG that can stand inside a page, in its text colour, told apart by more than colour.

Needs the extra ``figures``.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from osnet.errors import require_extra
from osnet.metrics.intervals import Interval

# Okabe and Ito's colours, which people with colour blindness can tell apart; they hold on white and on near-black.
STYLES = (
    ("#0072b2", "-", "o"), ("#d55e00", "--", "s"), ("#009e73", "-.", "^"), ("#cc79a7", ":", "D"), ("#e69f00", "-", "v"),
)  # fmt: skip
INK = "#010203"
"""Drawn in this colour, then replaced by the page's own."""
SETTINGS = {
    "svg.fonttype": "none", "svg.hashsalt": "osnet", "font.family": "sans-serif", "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.35, "grid.linewidth": 0.6, "legend.frameon": False,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "grid.color": "#888888",
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """A curve: as many x as y."""

    x: Sequence[float]
    y: Sequence[float]


def draw_lines(
    lines: Mapping[str, Line],
    x_label: str,
    y_label: str,
    *,
    names: Sequence[str] = (),
    percent: bool = False,
    whole_x: bool = False,
) -> str:
    """Curves with a legend, as an SVG element.

    Args:
        lines: by name.
        x_label: below the axis.
        y_label: beside the axis.
        names: everything that is drawn on the page: a name looks the same in all its figures.
        percent: the values are fractions and are shown as percents.
        whole_x: only whole numbers stand at the axis.
    """
    with _new_axes((5.6, 3.6)) as (figure, axes):
        places = list(names or lines)
        for name, line in lines.items():
            colour, dash, marker = STYLES[places.index(name) % len(STYLES)]
            y = [100 * value for value in line.y] if percent else line.y
            every = max(1, len(line.x) // 8)
            axes.plot(
                line.x, y, dash, color=colour, marker=marker, markevery=every, markersize=4.5, linewidth=1.8, label=name
            )
        axes.set(xlabel=x_label, ylabel=f"{y_label} (%)" if percent else y_label)
        if whole_x:
            axes.locator_params(axis="x", integer=True)
        axes.legend()
        return _as_svg(figure, f"{x_label} {y_label}")


def draw_intervals(rows: Mapping[str, Interval], x_label: str) -> str:
    """Differences in points with their intervals, one row each, and a line at 0, as an SVG element.

    An interval that crosses 0 has a hollow dot.
    """
    with _new_axes((5.6, 0.75 + 0.36 * len(rows))) as (figure, axes):
        axes.grid(visible=False, axis="y")
        for y, interval in enumerate(rows.values()):
            colour = STYLES[0][0] if interval.excludes_zero else "#888888"
            axes.plot([100 * interval.low, 100 * interval.high], [y, y], color=colour, linewidth=2.2)
            axes.plot(
                100 * interval.mean, y, "o", markersize=8, color=colour, markeredgewidth=2,
                markerfacecolor=colour if interval.excludes_zero else "none",
            )  # fmt: skip
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(x_label)
        return _as_svg(figure, x_label)


@contextmanager
def _new_axes(size_in: tuple[float, float]) -> Iterator[tuple[Any, Any]]:
    """A figure and its axes, in our style; no window system and no global state of matplotlib's are touched."""
    matplotlib = require_extra("matplotlib", "figures")
    module = require_extra("matplotlib.figure", "figures")
    with matplotlib.rc_context(SETTINGS):
        figure = module.Figure(figsize=size_in, layout="constrained")
        yield figure, figure.subplots()


def _as_svg(figure: Any, name: str) -> str:
    """The SVG element alone, scalable, without date, in the page's text colour; ``name`` is in all its ids."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    head, rest = svg[svg.index("<svg") :].split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)  # the viewBox stays: it fills what it is put into
    prefix = re.sub(r"[^a-z0-9]+", "-", name.lower())
    rest = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{prefix}-", rest)  # ids must differ within a page
    return f"{head}>{rest}".replace(INK, "currentColor")
