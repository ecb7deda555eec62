"""Times as they are shown. Tracklets have Unix times; a gallery's crops may have none, or seconds of a recording."""

import math

from osnet.video.archive import format_time

CLOCK_FROM_S = 1e8
"""Smaller numbers (before 1973) are seconds from the start of a recording, not times of a clock."""
UNKNOWN = "time unknown"


def known(time_s: float | None) -> float | None:
    """The time, or None for NaN and None: JSON has no NaN."""
    return None if time_s is None or math.isnan(time_s) else time_s


def show_time(time_s: float | None) -> str:
    """``2026-11-28T08:14:00.0Z``, ``12.5 s of the recording``, or ``time unknown``."""
    time_s = known(time_s)
    if time_s is None:
        return UNKNOWN
    try:
        return format_time(time_s) if time_s >= CLOCK_FROM_S else f"{time_s:.1f} s of the recording"
    except (OverflowError, ValueError, OSError):  # a gallery holds any number
        return f"{time_s:g} s"


def show_moment(time_s: float | None) -> str:
    """``2026-11-28 08:14:00``; as ``show_time`` where there is no time of a clock."""
    text = show_time(time_s)
    return text[:19].replace("T", " ") if text.endswith("Z") else text


def show_clock(time_s: float | None) -> str:
    """``08:14:00``; as ``show_time`` where there is no time of a clock."""
    text = show_time(time_s)
    return text[11:19] if text.endswith("Z") else text


def show_day(time_s: float | None) -> str:
    """``2026-11-28``; empty where there is no time of a clock."""
    text = show_time(time_s)
    return text[:10] if text.endswith("Z") else ""
