"""Everything that can be found, as columns, and the filters over them.

A tracklet's public id is ``ARCHIVE~DAY~CAMERA~TIME~NUMBER``: the archive's name and the tracklet's id in it. That of a
gallery's crop is ``GALLERY~DIGEST``: the gallery's name and a digest of the crop's source.
Shapes: T tracklets and crops, D embedding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, tzinfo
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from osnet.errors import DataError
from osnet.gallery.exact_search import CODES_FROM, Block, encode, find_candidates
from osnet.service.gallery_crops import GalleryCrop, ServedGallery
from osnet.service.times import CLOCK_FROM_S, show_moment
from osnet.video.archive import Archive

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
DAY_S = 86_400.0
CALENDAR_UNTIL_S = 253_370_764_800.0
"""The year 9999, the last one that Python knows."""


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
class Glance:
    """What lists show of a tracklet, or of a gallery's crop; nothing is read from an archive for it."""

    camera: str
    begin_s: float
    end_s: float
    num_crops: int
    crop: GalleryCrop | None = None

    @property
    def has_picture(self) -> bool:
        """False for a gallery's crop whose picture is not there."""
        return self.crop is None or self.crop.picture is not None

    def __str__(self) -> str:
        return f"{self.camera or 'camera unknown'}, {show_moment(self.begin_s)}"


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

    @cached_property
    def _camera_codes(self) -> tuple[NDArray[np.intp], list[str]]:
        names, codes = np.unique(self.cameras, return_inverse=True)
        return codes.reshape(-1), names.tolist()

    @cached_property
    def block(self) -> Block:
        """The means for the first pass of a search; with 8-bit codes from so many rows on that they are faster."""
        codes, scales = encode(self.means) if len(self.ids) >= CODES_FROM else (None, None)
        return Block(0, self.means, codes, scales)

    @cached_property
    def _crops(self) -> tuple[list[Floats], NDArray[np.int64]]:
        """Arrays of the crops' vectors, and for each row (T, 3): which array, and its first and last crop there."""
        tables: list[Floats] = []
        parts = [np.empty((0, 3), np.int64)]
        for name in self.states:
            if name in self.galleries:
                tables.append(self.galleries[name].vectors)
                firsts = np.arange(len(tables[-1]))
                parts.append(np.stack([np.full(len(firsts), len(tables) - 1), firsts, firsts + 1], axis=1))
                continue
            for vectors, firsts in self.archives[name].crop_tables():
                parts.append(np.stack([np.full(len(firsts) - 1, len(tables)), firsts[:-1], firsts[1:]], axis=1))
                tables.append(vectors)
        return tables, np.concatenate(parts)

    def crops(self, rows: NDArray[np.intp]) -> list[Floats]:
        """For each of some rows the vectors (C, D) of its crops."""
        tables, places = self._crops
        return [tables[table][first:last] for table, first, last in places[rows].tolist()]

    def warm(self) -> None:
        """Compute now what the first search would."""
        _ = self._camera_codes, self._crops
        if self.block.codes is not None:  # compiles the loop, if it is not compiled
            find_candidates(lambda: [self.block], self.means[:1], top=1, num_rows=len(self.ids))

    def nearest(self, query_D: Floats, rows: NDArray[np.intp], most: int) -> NDArray[np.intp]:
        """Those of ``rows`` (ascending) whose means have the ``most`` largest cosines with a query, best first."""
        chosen = None if len(rows) == len(self.ids) else rows
        near = rows
        if len(rows) > most:
            candidates = find_candidates(
                lambda: [self.block], query_D[None], top=most, num_rows=len(self.ids), chosen=chosen
            )
            near = np.sort(candidates[0])
        scores = self.means[near] @ query_D
        result: NDArray[np.intp] = near[np.argsort(-scores, kind="stable")][:most]
        return result

    def passing(self, filters: Filters, sees: Callable[[str], bool]) -> Mask:
        """(T,): what the filters and the asker's role let through. An unknown time passes no filter of times."""
        codes, names = self._camera_codes
        wanted = [sees(name) and (filters.cameras is None or name in filters.cameras) for name in names]
        mask: Mask = np.array(wanted, bool)[codes] if not all(wanted) else np.ones(len(self.ids), bool)
        if filters.after_s is not None:
            mask &= self.ends >= filters.after_s
        if filters.before_s is not None:
            mask &= self.begins <= filters.before_s
        if filters.weekdays is None and filters.from_hour is None and filters.to_hour is None:
            return mask
        mask &= (self.begins >= CLOCK_FROM_S) & (self.begins < CALENDAR_UNTIL_S)  # the others have no place on a clock
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

    def glance(self, place: int) -> Glance:
        """What lists show of a row."""
        _, first, last = self._crops[1][place].tolist()
        public = self.ids[place]
        gallery = self.galleries.get(split_public_id(public)[0]) if self.galleries else None
        return Glance(
            str(self.cameras[place]),
            float(self.begins[place]),
            float(self.ends[place]),
            last - first,
            None if gallery is None else gallery.crop(public),
        )

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

    0 where there is no time of a clock, or none of the calendar: a gallery holds any number.
    """
    clocked = np.where((times_s >= CLOCK_FROM_S) & (times_s < CALENDAR_UNTIL_S), times_s, 0.0)
    hours, places = np.unique(np.floor(clocked / 3600), return_inverse=True)
    offsets = []
    for hour in hours:
        delta = datetime.fromtimestamp(float(hour) * 3600, zone).utcoffset()
        offsets.append(delta.total_seconds() if delta is not None and hour else 0.0)
    result: NDArray[np.float64] = np.array(offsets, np.float64)[places.reshape(-1)] if len(hours) else np.empty(0)
    return result
