"""The timeline as SVG without styles in it: a line per camera, a bar per appearance, its link, its way to the next."""

import itertools
import math
from collections.abc import Sequence
from html import escape

from osnet.service.timelines import Appearance
from osnet.service.times import show_clock, show_moment

WIDTH, LEFT, ROW, BAR, TOP, LEAST = 960, 120, 44, 18, 26, 6.0


def draw_timeline(shown: Sequence[Appearance], search: str) -> str:
    """SVG markup of the appearances whose time is known; empty without any. The page's style sheet colours classes."""
    shown = [one for one in shown if not math.isnan(one.begin_s)]
    if not shown:
        return ""
    begin, end = min(one.begin_s for one in shown), max(one.end_s for one in shown)
    span = max(1.0, end - begin)
    cameras = sorted({one.camera for one in shown})

    def x(time_s: float) -> float:
        return LEFT + (time_s - begin) / span * (WIDTH - LEFT - 16)

    bars = {one.id: (x(one.begin_s), max(LEAST, x(one.end_s) - x(one.begin_s))) for one in shown}
    level: dict[str, int] = {}
    top: dict[str, int] = {}
    height = TOP
    for camera in cameras:
        own = stack([(one.id, *bars[one.id]) for one in shown if one.camera == camera])
        level |= own
        top[camera] = height
        height += ROW + (BAR + 6) * max(own.values())
    height += 26

    def middle(one: Appearance) -> float:
        return top[one.camera] + ROW / 2 + (BAR + 6) * level[one.id]

    parts = [f'<svg class="timeline" viewBox="0 0 {WIDTH} {height}" role="group" aria-label="Appearances by camera">']
    for camera in cameras:
        y = top[camera] + ROW / 2
        parts.append(f'<line class="lane" x1="{LEFT}" x2="{WIDTH - 16}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="lane-name" x="8" y="{y + 4}">{escape(camera[:16] or "unknown")}</text>')
    for a, b in itertools.pairwise(one for one in shown if one.confirmed):
        parts.append(
            f'<line class="way" x1="{x(a.end_s):.1f}" y1="{middle(a)}" x2="{x(b.begin_s):.1f}" y2="{middle(b)}"/>'
        )
    for one in shown:
        left, wide = bars[one.id]
        kind = "confirmed" if one.confirmed else "proposed"
        title = f"{one.camera or 'camera unknown'}, {show_moment(one.begin_s)} to {show_clock(one.end_s)}, {kind}"
        parts.append(
            f'<a href="/tracklets/{escape(one.id)}?search={escape(search)}" aria-label="{escape(title)}">'
            f'<rect class="{kind}" x="{left:.1f}" y="{middle(one) - BAR / 2}" width="{wide:.1f}" height="{BAR}" rx="3">'
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


def stack(bars: Sequence[tuple[str, float, float]]) -> dict[str, int]:
    """Id -> level of bars (id, left, width): those that overlap lie on levels below each other, as high as possible."""
    ends: list[float] = []
    level: dict[str, int] = {}
    for name, left, width in sorted(bars, key=lambda bar: bar[1]):
        free = next((number for number, end in enumerate(ends) if end <= left), len(ends))
        ends[free : free + 1] = [left + width]
        level[name] = free
    return level
