"""The timeline as SVG without styles in it: a line per camera, a bar per appearance, its link, its way to the next."""

import itertools
import math
from collections.abc import Sequence
from html import escape

from osnet.service.timelines import Appearance
from osnet.service.times import show_clock, show_moment

WIDTH, LEFT, ROW, BAR, TOP = 960, 120, 44, 18, 26


def draw_timeline(shown: Sequence[Appearance], search: str) -> str:
    """SVG markup of the appearances whose time is known; empty without any. The page's style sheet colours classes."""
    shown = [one for one in shown if not math.isnan(one.begin_s)]
    if not shown:
        return ""
    begin, end = min(one.begin_s for one in shown), max(one.end_s for one in shown)
    span = max(1.0, end - begin)
    cameras = sorted({one.camera for one in shown})
    row = {camera: number for number, camera in enumerate(cameras)}
    height = TOP + ROW * len(cameras) + 26

    def x(time_s: float) -> float:
        return LEFT + (time_s - begin) / span * (WIDTH - LEFT - 16)

    parts = [f'<svg class="timeline" viewBox="0 0 {WIDTH} {height}" role="group" aria-label="Appearances by camera">']
    for camera, number in row.items():
        y = TOP + ROW * number + ROW / 2
        parts.append(f'<line class="lane" x1="{LEFT}" x2="{WIDTH - 16}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="lane-name" x="8" y="{y + 4}">{escape(camera[:16] or "unknown")}</text>')
    confirmed = [one for one in shown if one.confirmed]
    for a, b in itertools.pairwise(confirmed):
        y1, y2 = (TOP + ROW * row[one.camera] + ROW / 2 for one in (a, b))
        parts.append(f'<line class="way" x1="{x(a.end_s):.1f}" y1="{y1}" x2="{x(b.begin_s):.1f}" y2="{y2}"/>')
    for one in shown:
        y = TOP + ROW * row[one.camera] + (ROW - BAR) / 2
        wide = max(6.0, x(one.end_s) - x(one.begin_s))
        kind = "confirmed" if one.confirmed else "proposed"
        title = f"{one.camera or 'camera unknown'}, {show_moment(one.begin_s)} to {show_clock(one.end_s)}, {kind}"
        parts.append(
            f'<a href="/tracklets/{escape(one.id)}?search={escape(search)}" aria-label="{escape(title)}">'
            f'<rect class="{kind}" x="{x(one.begin_s):.1f}" y="{y}" width="{wide:.1f}" height="{BAR}" rx="3">'
            f"<title>{escape(title)}</title></rect></a>"
        )
    for share in (0.0, 0.5, 1.0):
        time_s = begin + share * span
        anchor = ("start", "middle", "end")[round(share * 2)]
        parts.append(
            f'<text class="tick" x="{x(time_s):.1f}" y="{height - 8}" text-anchor="{anchor}">'
            f"{show_moment(time_s)[-14:]}</text>"
        )
    return "".join(parts) + "</svg>"
