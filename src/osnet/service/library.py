"""The archives that a service searches: their tracklets in columns, one embedder, and what a score means.

A tracklet's public id is ``ARCHIVE~DAY~CAMERA~TIME~NUMBER``: the archive's name and the tracklet's id in it.
Shapes: T tracklets of all archives, D embedding.
"""

import hashlib
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, tzinfo
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from osnet.embedding.attribute_predictor import AttributePredictor, match_score
from osnet.embedding.embedder import Embedder
from osnet.errors import DataError, GalleryError
from osnet.files import is_plain_name
from osnet.service.scores import ScoreScale
from osnet.video.archive import RESCORED, WEIGHTS, Archive, Tracklet
from osnet.video.archive_segments import list_segments
from osnet.video.erasing import finish_erasing
from osnet.video.protocols import FootageError

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
DAY_S = 86_400.0
PLUS, MINUS = 0.75, 0.15
"""Weights of confirmed and rejected tracklets beside the query's 1: Rocchio's, as in Manning, Raghavan and Schuetze,
Introduction to Information Retrieval, section 9.1.1."""


@dataclass(frozen=True)
class Filters:
    """Which tracklets a search looks at."""

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
class ScoredTracklet:
    """A tracklet that a search found."""

    id: str
    score: float
    """The mean of the cosines with the tracklet's mean and with its best crop; or the match with a description."""
    crop_score: float | None
    """The cosine with its best crop."""


@dataclass(frozen=True)
class Columns:
    """All tracklets at one moment."""

    archives: dict[str, Archive]
    ids: tuple[str, ...]
    """Public ids."""
    place: dict[str, int]
    cameras: NDArray[np.str_]
    begins: NDArray[np.float64]
    ends: NDArray[np.float64]
    local_begins: NDArray[np.float64]
    """Seconds of the site's clock."""
    means: Floats
    """(T, D)."""
    segments: dict[str, tuple[str, ...]]


class Library:
    """Archives that are searched together.

    Args:
        folders: of archives, all with vectors of the same weights.
        calibrations: files of ``osnet calibrate --fpr --out``.
        footage: folders in which footage is looked for by its name if it is not where it was indexed.
        attributes: predicts attributes, for searches by description.
        zone: the site's time zone, for weekdays and hours.
        device: of the embedder.

    Raises:
        GalleryError: no archive, a damaged one, one without its weights, or archives of different weights.
        DataError: two archives of one name, or a calibration that does not belong to the weights.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        calibrations: Sequence[Path] = (),
        footage: Sequence[Path] = (),
        attributes: AttributePredictor | None = None,
        zone: tzinfo = UTC,
        device: str = "auto",
    ) -> None:
        if not folders:
            raise GalleryError("no archive is given; make one with `osnet video index`")
        self.folders: dict[str, Path] = {}
        for folder in folders:
            name = folder.resolve().name
            if not is_plain_name(name):
                raise DataError(f"{folder}: an archive's name has letters, digits, - _ and . only; rename the folder")
            if name in self.folders:
                raise DataError(f"two archives are called {name!r}; rename one of the folders")
            self.folders[name] = folder
        self._footage, self._attributes, self.zone = tuple(footage), attributes, zone
        self.network_lock, self._swapping = threading.Lock(), threading.Lock()
        for folder in folders:
            finish_erasing(folder)
        archives = {name: Archive.open(folder) for name, folder in self.folders.items()}
        first = next(iter(archives.values()))
        for name, archive in archives.items():
            if archive.weights_sha256 != first.weights_sha256:
                raise GalleryError(
                    f"the archive {name} has vectors of the weights {archive.weights_sha256[:12]}, the first one of "
                    f"{first.weights_sha256[:12]}; serve them separately"
                )
        weights = next((f / WEIGHTS for f in folders if (f / WEIGHTS).is_dir()), None)
        if weights is None:
            raise GalleryError(f"{folders[0]} holds no copy of its weights, so no photo can be compared with it")
        self.embedder = Embedder(weights, device)
        first.check_weights(self.embedder.sha256())
        self.weights_sha256, self.weights_name = first.weights_sha256, first.weights_name
        self.scale = ScoreScale.read(tuple(calibrations), self.weights_sha256)
        self._columns = self._read(archives)
        self._probabilities: dict[str, list[float]] = {}

    # What there is

    def refresh(self, force: bool = False) -> bool:
        """See segments that were added or removed; with ``force`` open all archives again. True if it changed."""
        with self._swapping:
            now = {name: tuple(list_segments(folder)) for name, folder in self.folders.items()}
            if now == self._columns.segments and not force:
                return False
            self._columns = self._read({name: Archive.open(folder) for name, folder in self.folders.items()})
            known = self._columns.place
            self._probabilities = {public: row for public, row in self._probabilities.items() if public in known}
            return True

    def _read(self, archives: dict[str, Archive]) -> Columns:
        ids: list[str] = []
        cameras: list[str] = []
        begins, ends, means = [np.empty(0)], [np.empty(0)], []
        for name, archive in archives.items():
            own, vectors = archive.means()
            own_cameras, own_begins, own_ends = archive.spans()
            ids += [public_id(name, tracklet_id) for tracklet_id in own]
            cameras += own_cameras
            begins.append(own_begins)
            ends.append(own_ends)
            means.append(vectors)
        begin = np.concatenate(begins)
        return Columns(
            archives,
            tuple(ids),
            {tracklet: place for place, tracklet in enumerate(ids)},
            np.array(cameras, dtype=np.str_),
            begin,
            np.concatenate(ends),
            begin + local_offsets(begin, self.zone),
            np.concatenate(means),
            {name: tuple(s["name"] for s in a.segments) for name, a in archives.items()},
        )

    def __len__(self) -> int:
        return len(self._columns.ids)

    @property
    def columns(self) -> Columns:
        """All tracklets now; a later change makes new ones."""
        return self._columns

    @property
    def archives(self) -> dict[str, Archive]:
        """Name -> archive."""
        return self._columns.archives

    def cameras(self) -> list[str]:
        """Names of all cameras, sorted."""
        return sorted({camera for archive in self.archives.values() for camera in archive.cameras})

    def missing(self) -> list[str]:
        """What is not there any more, in words: archives that were moved, weights that are gone."""
        wrong = []
        for name, folder in self.folders.items():
            if not (folder / "archive.json").is_file():
                wrong.append(f"the archive {name} is not where it was")
            elif not (folder / WEIGHTS / "card.json").is_file():
                wrong.append(f"the archive {name} has lost its weights")
        return wrong

    def tracklet(self, public: str) -> Tracklet:
        """One tracklet, with its footage where it is now.

        Raises:
            GalleryError: there is none of that id.
        """
        archive, tracklet_id = self._find(public)
        tracklet = archive.tracklet(tracklet_id)
        return replace(tracklet, footage=self._locate(tracklet.footage))

    def camera_of(self, public: str) -> str:
        """The camera of a tracklet. Raises GalleryError if there is none of that id."""
        place = self._columns.place.get(public)
        if place is None:
            raise GalleryError(f"there is no tracklet {public[:100]!r}")
        return str(self._columns.cameras[place])

    def vectors(self, public: str) -> Floats:
        """(C, D): of its crops."""
        archive, tracklet_id = self._find(public)
        return archive.vectors(tracklet_id)

    def mean(self, public: str) -> Floats:
        """(D,): its mean."""
        self.camera_of(public)
        columns = self._columns
        result: Floats = columns.means[columns.place[public]]
        return result

    def _find(self, public: str) -> tuple[Archive, str]:
        columns = self._columns
        if public not in columns.place:
            raise GalleryError(f"there is no tracklet {public[:100]!r}")
        name, tracklet_id = split_public_id(public)
        return columns.archives[name], tracklet_id

    def _locate(self, footage: Path) -> Path:
        if not footage.is_file():
            for folder in self._footage:
                if (folder / footage.name).is_file():
                    return folder / footage.name
        return footage

    def footage_at(self, camera: str, time_s: float) -> Path:
        """The footage of a camera that was being recorded at a Unix time.

        Raises:
            FootageError: none was.
        """
        for archive in self.archives.values():
            for segment in archive.segments:
                if segment["camera"] == camera and segment["start_s"] <= time_s < segment["stop_s"] + 1e-3:
                    return self._locate(Path(segment["footage"]["path"]))
        raise FootageError(f"the camera {camera} has no footage at that time")

    def at(self, camera: str, time_s: float, slack_s: float = 0.0) -> list[str]:
        """Public ids of tracklets in a camera's view at a time."""
        c = self._columns
        found = np.flatnonzero((c.cameras == camera) & (c.begins <= time_s + slack_s) & (c.ends >= time_s - slack_s))
        return [c.ids[place] for place in found]

    # Searching

    def embed(self, images: Iterable[Image.Image]) -> Floats:
        """(N, D), of length 1: one photo at a time takes the network, in the order in which they ask."""
        with self.network_lock:
            vectors = self.embedder.embed(list(images))
        result: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return result

    def passing(self, filters: Filters, sees: Callable[[str], bool], columns: Columns | None = None) -> Mask:
        """(T,): which tracklets the filters and the asker's role let through."""
        c = columns or self._columns
        allowed = [camera for camera in set(c.cameras.tolist()) if sees(camera)]
        if filters.cameras is not None:
            allowed = [camera for camera in allowed if camera in filters.cameras]
        mask: Mask = np.isin(c.cameras, allowed) if allowed else np.zeros(len(c.ids), bool)
        if filters.after_s is not None:
            mask &= c.ends >= filters.after_s
        if filters.before_s is not None:
            mask &= c.begins <= filters.before_s
        lasted = c.ends - c.begins
        if filters.weekdays is not None:
            days = [np.floor(t / DAY_S).astype(int) for t in (c.local_begins, c.local_begins + lasted)]
            mask &= np.any([np.isin((day + 3) % 7, filters.weekdays) for day in days], axis=0)  # 1970-01-01: Thursday
        if filters.from_hour is not None or filters.to_hour is not None:
            begin_s, end_s = (
                3600 * (filters.from_hour or 0.0),
                3600 * (24.0 if filters.to_hour is None else filters.to_hour),
            )
            of_day = c.local_begins % DAY_S
            inside = (of_day - begin_s) % DAY_S < ((end_s - begin_s) % DAY_S or DAY_S)
            mask &= inside | ((begin_s - of_day) % DAY_S <= lasted)
        return mask

    def search(
        self,
        query_D: Floats,
        filters: Filters,
        sees: Callable[[str], bool],
        top: int,
        ranked_by_D: Floats | None = None,
    ) -> list[ScoredTracklet]:
        """The most similar tracklets, best first, scored as ``Archive.search`` does.

        Args:
            query_D: (D,), of length 1.
            filters: which tracklets to look at.
            sees: true for the cameras of the asker's role.
            top: at most so many.
            ranked_by_D: (D,): orders the hits, as ``refine_query`` gives it; scores stay those of the query.
        """
        c = self._columns
        ranked_by = query_D if ranked_by_D is None else ranked_by_D
        rows = np.flatnonzero(self.passing(filters, sees, c))
        if not len(rows):
            return []
        most = max(top, RESCORED)
        by_mean = (c.means if len(rows) == len(c.ids) else c.means[rows]) @ ranked_by
        if len(rows) > most:
            border = np.partition(by_mean, len(rows) - most)[len(rows) - most]
            near = np.flatnonzero(by_mean >= border)
        else:
            near = np.arange(len(rows))
        near = near[np.argsort(-by_mean[near], kind="stable")][:most]
        parts = [self._crops(c, int(rows[place])) for place in near]
        starts = np.cumsum([0, *(len(part) for part in parts[:-1])])
        crops = np.concatenate(parts)
        best = np.maximum.reduceat(crops @ query_D, starts)
        best_key = np.maximum.reduceat(crops @ ranked_by, starts)
        means = c.means[rows[near]] @ query_D
        found = [
            (
                (float(by_mean[place]) + float(key)) / 2,
                int(rows[place]),
                ScoredTracklet(
                    c.ids[int(rows[place])], min(1.0, (float(mean) + float(crop)) / 2), min(1.0, float(crop))
                ),
            )
            for place, key, mean, crop in zip(near, best_key, means, best, strict=True)
        ]
        found.sort(key=lambda f: (-f[0], f[1]))
        return [scored for _, _, scored in found[:top]]

    @staticmethod
    def _crops(c: Columns, row: int) -> Floats:
        name, tracklet_id = split_public_id(c.ids[row])
        return c.archives[name].vectors(tracklet_id)

    # Attributes

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the attributes that can be asked for; empty without weights that predict them."""
        return self._attributes.attributes if self._attributes else ()

    @property
    def attribute_head(self) -> str:
        """Digest of what predicts the attributes."""
        if self._attributes is None:
            return ""
        parts = [self._attributes.sha256(), *self._attributes.head.digests()]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    def predict_attributes(self, public: str) -> list[float]:
        """Probabilities for a tracklet: the mean over its crops."""
        assert self._attributes is not None
        paths = [crop.path for crop in self.tracklet(public).crops]
        with self.network_lock:
            predicted = self._attributes.predict(paths).probabilities
        return [round(float(p), 4) for p in predicted.mean(0)]

    def set_probabilities(self, known: dict[str, list[float]]) -> None:
        """What ``predict_attributes`` gave for tracklets, by their ids."""
        self._probabilities.update(known)

    def undescribed(self) -> list[str]:
        """Ids of tracklets of which no attributes are known yet."""
        return [tracklet for tracklet in self._columns.ids if tracklet not in self._probabilities]

    def describe(
        self, having: Sequence[str], lacking: Sequence[str], filters: Filters, sees: Callable[[str], bool], top: int
    ) -> list[ScoredTracklet]:
        """The tracklets that fit a description best. Raises DataError for unknown attributes."""
        c = self._columns
        rows = [int(row) for row in np.flatnonzero(self.passing(filters, sees, c)) if c.ids[row] in self._probabilities]
        known = [self._probabilities[c.ids[row]] for row in rows]
        table = np.array(known, np.float32).reshape(len(rows), len(self.attributes))
        scores = match_score(table, self.attributes, having, lacking)
        order = np.argsort(-scores, kind="stable")[:top]
        return [ScoredTracklet(c.ids[rows[place]], float(scores[place]), None) for place in order]


def refine_query(query_D: Floats, confirmed: Sequence[Floats], rejected: Sequence[Floats]) -> Floats:
    """The query moved towards confirmed and away from rejected tracklets: (D,), of length 1. Rocchio's rule.

    Args:
        query_D: (D,).
        confirmed: means (D,) of tracklets that were answered with yes.
        rejected: and with no.
    """
    moved = np.array(query_D, np.float32)
    if confirmed:
        moved = moved + PLUS * np.mean(confirmed, axis=0)
    if rejected:
        moved = moved - MINUS * np.mean(rejected, axis=0)
    length = float(np.linalg.norm(moved))
    result: Floats = (moved / length).astype(np.float32) if length > 1e-6 else query_D
    return result


def public_id(archive: str, tracklet_id: str) -> str:
    """The id of a tracklet in addresses."""
    return f"{archive}~{tracklet_id.replace('/', '~')}"


def split_public_id(public: str) -> tuple[str, str]:
    """Archive and the tracklet's id in it."""
    name, _, rest = public.partition("~")
    return name, rest.replace("~", "/")


def local_offsets(times_s: NDArray[np.float64], zone: tzinfo) -> NDArray[np.float64]:
    """(T,): what to add to Unix times to get the site's clock, exact to the hour in which the clock is changed."""
    hours, places = np.unique(np.floor(times_s / 3600), return_inverse=True)
    offsets = []
    for hour in hours:
        delta = datetime.fromtimestamp(float(hour) * 3600, zone).utcoffset()
        offsets.append(delta.total_seconds() if delta is not None else 0.0)
    result: NDArray[np.float64] = np.array(offsets, np.float64)[places.reshape(-1)] if len(hours) else np.empty(0)
    return result
