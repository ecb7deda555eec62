"""Timeline of tracklets: a row per camera, a bar per tracklet, and a line per link."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from osnet.errors import DataError, require_extra
from osnet.figures.canvas import check_figure_path, new_axes, save_figure
from osnet.video.archive import Tracklet
from osnet.video.links import Link, identities

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#4b0092")
ALONE = "#9a9a9a"


def save_timeline(tracklets: Sequence[Tracklet], links: Sequence[Link], path: str | Path, title: str = "") -> None:
    """Draw tracklets over time (UTC), by camera. Linked tracklets share a colour; the others are grey.

    There are eight colours; with more people than that they repeat.

    Args:
        tracklets: the tracklets to draw, at least one.
        links: links between them. Confirmed links are solid lines, open proposals dashed; rejected ones are left out.
        path: output file, ending in .png, .pdf or .svg.
        title: above the axes.

    Raises:
        DataError: there are no tracklets.
        OutputError: ``path`` cannot be written.
    """
    check_figure_path(path)
    if not tracklets:
        raise DataError("no tracklets to draw; the archive is empty, or no tracklet meets the conditions")
    dates = require_extra("matplotlib.dates", "figures")
    shown = {t.id: t for t in tracklets}
    links = [li for li in links if li.decision != "rejected" and li.a in shown and li.b in shown]
    colour = {
        member: COLOURS[number % len(COLOURS)] for number, group in enumerate(identities(links)) for member in group
    }
    rows = _rows(tracklets)
    cameras = sorted({t.camera for t in tracklets})
    height = (
        1.2 + 0.22 * sum(1 + max(rows[t.id] for t in tracklets if t.camera == c) for c in cameras) + 0.25 * len(cameras)
    )
    base, bases = 0.0, {}
    for camera in cameras:
        bases[camera] = base
        base += 1 + max(rows[t.id] for t in tracklets if t.camera == camera) + 1
    with new_axes((9.0, height)) as (figure, axes):

        def when(time_s: float) -> float:
            return float(dates.date2num(datetime.fromtimestamp(time_s, UTC)))

        for t in tracklets:
            y = bases[t.camera] + rows[t.id]
            begin, end = when(t.begin_s), when(t.end_s)
            axes.barh(y, end - begin, left=begin, height=0.7, color=colour.get(t.id, ALONE), linewidth=0)
        for li in links:
            if li.kind == "border":
                continue  # one colour shows it; a line would cross everything
            a, b = shown[li.a], shown[li.b]
            axes.plot(
                [when(a.end_s), when(b.begin_s)],
                [bases[a.camera] + rows[a.id], bases[b.camera] + rows[b.id]],
                color=colour[li.a],
                linewidth=1.2,
                linestyle="-" if li.decision == "confirmed" else (0, (3, 2)),
            )
        axes.set_yticks([bases[c] + max(rows[t.id] for t in tracklets if t.camera == c) / 2 for c in cameras], cameras)
        for camera in cameras[1:]:
            axes.axhline(bases[camera] - 1, color="#dddddd", linewidth=0.8)
        axes.invert_yaxis()
        axes.xaxis_date(tz=UTC)
        axes.xaxis.set_major_formatter(
            dates.ConciseDateFormatter(
                dates.AutoDateLocator(),
                tz=UTC,
                formats=["%Y", "%b", "%d", "%H:%M", "%H:%M", "%H:%M:%S.%f"],  # "05" would be minutes or seconds
                zero_formats=["", "%Y", "%b", "%b-%d", "%H:%M", "%H:%M:%S"],
                offset_formats=["", "%Y", "%Y-%b", "%Y-%b-%d", "%Y-%b-%d", "%Y-%b-%d"],
            )
        )
        axes.set_title(title)
        axes.spines[["top", "right"]].set_visible(False)
        save_figure(figure, path)


def _rows(tracklets: Sequence[Tracklet]) -> dict[str, int]:
    """For each tracklet, the first row of its camera without an overlapping tracklet."""
    free: dict[str, list[float]] = {}
    rows = {}
    for t in sorted(tracklets, key=lambda t: (t.begin_s, t.id)):
        ends = free.setdefault(t.camera, [])
        row = next((r for r, end in enumerate(ends) if end < t.begin_s), len(ends))
        if row == len(ends):
            ends.append(0.0)
        ends[row] = t.end_s
        rows[t.id] = row
    return rows
