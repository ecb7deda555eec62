"""Lines and intervals as SVG that can stand inside a page, in its text colour, told apart by more than colour.

Needs the extra ``figures``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from osnet.figures.canvas import GREY, INK, STYLES, as_svg, new_axes
from osnet.metrics.intervals import Interval


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
    with new_axes((5.6, 3.6)) as (figure, axes):
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
        return as_svg(figure, f"{x_label} {y_label}")


def draw_intervals(rows: Mapping[str, Interval], x_label: str) -> str:
    """Differences in points with their intervals, one row each, and a line at 0, as an SVG element.

    An interval that crosses 0 has a hollow dot.
    """
    with new_axes((5.6, 0.75 + 0.36 * len(rows))) as (figure, axes):
        axes.grid(visible=False, axis="y")
        for y, interval in enumerate(rows.values()):
            colour = STYLES[0][0] if interval.excludes_zero else GREY
            axes.plot([100 * interval.low, 100 * interval.high], [y, y], color=colour, linewidth=2.2)
            axes.plot(
                100 * interval.mean, y, "o", markersize=8, color=colour, markeredgewidth=2,
                markerfacecolor=colour if interval.excludes_zero else "none",
            )  # fmt: skip
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(x_label)
        return as_svg(figure, x_label)
