"""Everything that can be found, as columns, and the filters over them.

A tracklet's public id is ``ARCHIVE~DAY~CAMERA~TIME~NUMBER``: the archive's name and the tracklet's id in it. That of a
gallery's crop is ``GALLERY~DIGEST``: the gallery's name and a digest of the crop's source.
Shapes: T tracklets and crops, D embedding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, tzinfo

import numpy as np
from numpy.typing import NDArray

from osnet.errors import DataError
from osnet.service.gallery_crops import ServedGallery
from osnet.service.times import CLOCK_FROM_S
from osnet.video.archive import Archive

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
DAY_S = 86_400.0


@dataclass(frozen=True)
class Filters:
    """Which tracklets and crops a search looks at."""

    cameras: tuple[str, ...] | None = None
    after_s: float | None = None
    """Seen at this Unix time or later."""
    before_s: float | None = None
    weekdays: tuple[int, ...] | None = None
    """0 is Monday; of the beginning or the end, in the site's time zone."""
    from_hour: float | None = None
    """In [0, 24), in the site's time zone. From 22 to 6 is the night."""
    to_hour: float | None = None

    def __post_init__(self) -> None:
        if self.weekdays is not None and not set(self.weekdays) <= set(range(7)):
            raise DataError(f"weekdays {list(self.weekdays)}: give numbers from 0 (Monday) to 6 (Sunday)")
        for name in ("from_hour", "to_hour"):
            if (hour := getattr(self, name)) is not None and not 0 <= hour <= 24:
                raise DataError(f"{name} {hour:g} must be from 0 to 24")
        if self.after_s is not None and self.before_s is not None and self.after_s > self.before_s:
            raise DataError("the time after which is later than the time before which; exchange them")


@dataclass(frozen=True)
class Columns:
    """All tracklets and crops at one moment."""

    archives: dict[str, Archive]
    galleries: dict[str, ServedGallery]
    ids: tuple[str, ...]
    """Public ids."""
    place: dict[str, int]
    cameras: NDArray[np.str_]
    """Empty text where a gallery does not know the camera."""
    begins: NDArray[np.float64]
    """NaN where a gallery does not know the time."""
    ends: NDArray[np.float64]
    local_begins: NDArray[np.float64]
    """Seconds of the site's clock."""
    means: Floats
    """(T, D)."""
    states: dict[str, tuple[str, ...]]
    """Name of an archive or gallery -> what it consisted of, to see changes."""

    def passing(self, filters: Filters, sees: Callable[[str], bool]) -> Mask:
        """(T,): what the filters and the asker's role let through. An unknown time passes no filter of times."""
        allowed = [camera for camera in set(self.cameras.tolist()) if sees(camera)]
        if filters.cameras is not None:
            allowed = [camera for camera in allowed if camera in filters.cameras]
        mask: Mask = np.isin(self.cameras, allowed) if allowed else np.zeros(len(self.ids), bool)
        if filters.after_s is not None:
            mask &= self.ends >= filters.after_s
        if filters.before_s is not None:
            mask &= self.begins <= filters.before_s
        if filters.weekdays is None and filters.from_hour is None and filters.to_hour is None:
            return mask
        mask &= self.begins >= CLOCK_FROM_S  # the others have no place on a clock
        begins, lasted = np.where(mask, self.local_begins, 0.0), np.where(mask, self.ends - self.begins, 0.0)
        if filters.weekdays is not None:
            days = [np.floor(t / DAY_S).astype(int) for t in (begins, begins + lasted)]
            mask &= np.any([np.isin((day + 3) % 7, filters.weekdays) for day in days], axis=0)  # 1970-01-01: Thursday
        if filters.from_hour is not None or filters.to_hour is not None:
            begin_s = 3600 * (filters.from_hour or 0.0)
            end_s = 3600 * (24.0 if filters.to_hour is None else filters.to_hour)
            of_day = begins % DAY_S
            inside = (of_day - begin_s) % DAY_S < ((end_s - begin_s) % DAY_S or DAY_S)
            mask &= inside | ((begin_s - of_day) % DAY_S <= lasted)
        return mask

    def archive_id(self, public: str) -> tuple[str, str] | None:
        """Archive and the tracklet's id in it; None for a gallery's crop. It need not exist any more."""
        name, rest = split_public_id(public)
        return (name, rest) if name in self.archives else None


def public_id(archive: str, tracklet_id: str) -> str:
    """The id of a tracklet in addresses."""
    return f"{archive}~{tracklet_id.replace('/', '~')}"


def split_public_id(public: str) -> tuple[str, str]:
    """Archive and the tracklet's id in it, or gallery and the crop's digest."""
    name, _, rest = public.partition("~")
    return name, rest.replace("~", "/")


def local_offsets(times_s: NDArray[np.float64], zone: tzinfo) -> NDArray[np.float64]:
    """(T,): what to add to Unix times to get the site's clock, exact to the hour in which the clock is changed.

    0 where there is no time of a clock.
    """
    clocked = np.where(times_s >= CLOCK_FROM_S, times_s, 0.0)
    hours, places = np.unique(np.floor(clocked / 3600), return_inverse=True)
    offsets = []
    for hour in hours:
        delta = datetime.fromtimestamp(float(hour) * 3600, zone).utcoffset()
        offsets.append(delta.total_seconds() if delta is not None and hour else 0.0)
    result: NDArray[np.float64] = np.array(offsets, np.float64)[places.reshape(-1)] if len(hours) else np.empty(0)
    return result
