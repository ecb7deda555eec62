"""The archives and galleries that a service searches: one embedder, all that can be found, and what a score means.

Shapes: T tracklets and crops, D embedding.
"""

import hashlib
import io
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from osnet.data.loading import read_image
from osnet.embedding.attribute_predictor import AttributePredictor, match_score
from osnet.embedding.embedder import Embedder
from osnet.errors import DataError, GalleryError, OsnetError
from osnet.files import is_plain_name
from osnet.gallery import Gallery
from osnet.runtime.backends import count_cores
from osnet.service.columns import Columns, Filters, Floats, Glance, local_offsets, public_id, split_public_id
from osnet.service.gallery_crops import MANIFEST, GalleryCrop, ServedGallery, gallery_state
from osnet.service.scores import ScoreScale
from osnet.video.archive import ARCHIVE_FILE, RESCORED, WEIGHTS, Archive, Tracklet
from osnet.video.archive_segments import footage_place, list_segments
from osnet.video.erasing import finish_erasing
from osnet.video.protocols import FootageError
from osnet.video.source import Footage, open_recorded

log = logging.getLogger("osnet.service")
TRY_AGAIN_S = 30.0
"""After which a folder that could not be read is tried again, also if no segment came or went."""


@dataclass(frozen=True)
class ScoredTracklet:
    """A tracklet or crop that a search found."""

    id: str
    score: float
    """The mean of the cosines with the tracklet's mean and with its best crop; or the match with a description."""
    crop_score: float | None
    """The cosine with its best crop."""


class Library:
    """Archives and galleries that are searched together.

    Args:
        folders: of archives and galleries, all with embeddings of the same weights.
        calibrations: files of ``osnet calibrate --fpr --out``.
        footage: folders in which footage, and the pictures of galleries, are looked for if they are not where they
            were indexed.
        attributes: predicts attributes, for searches by description.
        zone: the site's time zone, for weekdays and hours.
        device: of the embedder.

    Raises:
        GalleryError: no folder, a damaged one, none with a copy of the weights, or embeddings of different weights.
        DataError: two folders of one name, or a calibration that does not belong to the weights.
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
            raise GalleryError("no archive and no gallery is given; make one with `osnet video index` or `osnet index`")
        self.folders: dict[str, Path] = {}
        for folder in folders:
            name = folder.resolve().name
            if not is_plain_name(name):
                raise DataError(f"{folder}: the name of a served folder has letters, digits, - _ and . only; rename it")
            if name in self.folders:
                raise DataError(f"two served folders are called {name!r}; rename one of them")
            self.folders[name] = folder
        self._footage, self._attributes, self.zone = tuple(footage), attributes, zone
        self.network_lock, self._swapping = threading.Lock(), threading.Lock()
        self._turns: threading.Lock | threading.Semaphore = self.network_lock
        for folder in folders:
            finish_erasing(folder)
        self.troubles: dict[str, str] = {}  # name -> why it is shown as it was before
        self._seen, self._seen_at = self._states(), time.monotonic()
        self._columns = self._read()
        galleries = {name: gallery.gallery for name, gallery in self._columns.galleries.items()}
        stores: dict[str, Archive | Gallery] = {**self._columns.archives, **galleries}
        first = stores[next(iter(self.folders))]
        for name, store in stores.items():
            if store.weights_sha256 != first.weights_sha256:
                raise GalleryError(
                    f"{name} has embeddings of the weights {store.weights_sha256[:12]}, the first folder of "
                    f"{first.weights_sha256[:12]}; serve them separately"
                )
        weights = next((f / WEIGHTS for f in folders if (f / WEIGHTS).is_dir()), None)
        if weights is None:
            raise GalleryError(f"{folders[0]} holds no copy of its weights, so no photo can be compared with it")
        self._weights = weights
        self.embedder = Embedder(weights, device, backend="fastest", num_threads=1)
        if self.embedder.backend == "onnxruntime":
            self._turns = threading.BoundedSemaphore(count_cores())
        first.check_weights(self.embedder.sha256())
        self.weights_sha256, self.weights_name = first.weights_sha256, first.weights_name
        self._columns.warm()
        self.scale = ScoreScale.read(tuple(calibrations), self.weights_sha256)
        self._probabilities: dict[str, list[float]] = {}

    # What there is

    def refresh(self, force: bool = False) -> bool:
        """See what was added or removed; with ``force`` open everything again. True if it changed.

        A folder that cannot be read, as while a segment is being copied into it, stays as it was last read, and
        ``troubles`` says why. It is tried again when it changes, and every ``TRY_AGAIN_S``.
        """
        with self._swapping:
            now, again = self._states(), bool(self.troubles) and time.monotonic() - self._seen_at > TRY_AGAIN_S
            if now == self._seen and not force and not again:
                return False
            before = self._columns
            columns = self._read(before)
            columns.warm()
            self._columns, self._seen, self._seen_at = columns, now, time.monotonic()
            known = self._columns.place
            self._probabilities = {public: row for public, row in self._probabilities.items() if public in known}
            return force or columns.ids != before.ids or columns.states != before.states

    def _states(self) -> dict[str, tuple[str, ...]]:
        return {name: _state_of(folder) for name, folder in self.folders.items()}

    def _open(self, name: str, previous: Columns | None, troubles: dict[str, str]) -> Archive | ServedGallery:
        """An archive or gallery; if it cannot be read, as it was before. Raises GalleryError if it never was read."""
        folder = self.folders[name]
        try:
            if (folder / MANIFEST).is_file():
                return ServedGallery(name, folder, self._footage)
            if not (folder / ARCHIVE_FILE).is_file():
                raise GalleryError(
                    f"{folder} has no {ARCHIVE_FILE} and no {MANIFEST}, so it is neither an archive nor a gallery; "
                    "`osnet video index` and `osnet index` make them"
                )
            return Archive.open(folder)
        except (OsnetError, OSError) as error:
            if previous is None:
                raise
            log.warning("%s stays as it was last read: %s", name, error)
            troubles[name] = f"{name} cannot be read, and is searched as it was before: {error}"
            return previous.archives[name] if name in previous.archives else previous.galleries[name]

    def _read(self, previous: Columns | None = None) -> Columns:
        archives: dict[str, Archive] = {}
        galleries: dict[str, ServedGallery] = {}
        states: dict[str, tuple[str, ...]] = {}
        troubles: dict[str, str] = {}
        ids: list[str] = []
        cameras: list[str] = []
        begins, ends, means = [np.empty(0)], [np.empty(0)], []
        for name in self.folders:
            opened = self._open(name, previous, troubles)
            if isinstance(opened, ServedGallery):
                gallery = galleries[name] = opened
                states[name] = gallery.state
                ids += gallery.ids
                cameras += gallery.cameras
                begins.append(gallery.times_s)
                ends.append(gallery.times_s)
                means.append(gallery.vectors)
                continue
            archive = archives[name] = opened
            states[name] = tuple(segment["name"] for segment in archive.segments)
            own, vectors = archive.means()
            own_cameras, own_begins, own_ends = archive.spans()
            ids += [public_id(name, tracklet_id) for tracklet_id in own]
            cameras += own_cameras
            begins.append(own_begins)
            ends.append(own_ends)
            means.append(vectors)
        if len({vectors.shape[1] for vectors in means}) > 1:
            raise GalleryError("the folders have embeddings of different sizes; serve them separately")
        self.troubles = troubles
        begin = np.concatenate(begins)
        return Columns(
            archives,
            galleries,
            tuple(ids),
            {public: place for place, public in enumerate(ids)},
            np.array(cameras, dtype=np.str_),
            begin,
            np.concatenate(ends),
            begin + local_offsets(begin, self.zone),
            np.concatenate(means),
            states,
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

    @property
    def galleries(self) -> dict[str, ServedGallery]:
        """Name -> gallery."""
        return self._columns.galleries

    def cameras(self) -> list[str]:
        """Names of all cameras, sorted."""
        of_galleries = {camera for gallery in self.galleries.values() for camera in gallery.cameras if camera}
        return sorted({*self.footage_cameras(), *of_galleries})

    def footage_cameras(self) -> list[str]:
        """Names of the cameras with footage, which only archives have; sorted."""
        return sorted({camera for archive in self.archives.values() for camera in archive.cameras})

    def missing(self) -> list[str]:
        """What cannot be used, in words: folders that were moved or cannot be read, weights that are gone."""
        wrong = list(self.troubles.values())
        for name, folder in self.folders.items():
            kind, file = ("gallery", MANIFEST) if name in self.galleries else ("archive", ARCHIVE_FILE)
            if not (folder / file).is_file():
                wrong.append(f"the {kind} {name} is not where it was")
            elif (kind == "archive" or folder / WEIGHTS == self._weights) and not (
                folder / WEIGHTS / "card.json"
            ).is_file():
                wrong.append(f"the {kind} {name} has lost its weights")
        return wrong

    def tracklet(self, public: str) -> Tracklet:
        """One tracklet, with its footage where it is now; or a ``GalleryCrop``.

        Raises:
            GalleryError: there is none of that id.
        """
        columns, _ = self._place_of(public)
        name, tracklet_id = split_public_id(public)
        if name in columns.galleries:
            return columns.galleries[name].crop(public)
        tracklet = columns.archives[name].tracklet(tracklet_id)
        return replace(tracklet, footage=self._locate(tracklet.footage_record))

    def glance(self, public: str) -> Glance:
        """What lists show of a tracklet or crop. Raises GalleryError if there is none of that id."""
        columns, place = self._place_of(public)
        return columns.glance(place)

    def picture(self, seen: Tracklet, number: int = 0) -> bytes:
        """A crop's picture as JPEG; number 0 is the best one. The caller has checked the number.

        Raises:
            FootageError: the gallery does not hold this picture, and it is not where it was indexed.
            ImageError: it cannot be read.
        """
        crop = seen.best_crop if number == 0 else seen.crops[number - 1]
        if not isinstance(seen, GalleryCrop):
            return crop.path.read_bytes()
        if seen.picture is None:
            raise FootageError(f"the picture {Path(seen.source).name} is not where it was indexed; give --footage DIR")
        with io.BytesIO() as file:  # written anew: without metadata, and nothing but pixels of whatever it was
            read_image(seen.picture).save(file, format="JPEG", quality=92)
            return file.getvalue()

    def camera_of(self, public: str) -> str:
        """The camera of a tracklet or crop. Raises GalleryError if there is none of that id."""
        columns, place = self._place_of(public)
        return str(columns.cameras[place])

    def vectors(self, public: str) -> Floats:
        """(C, D): of its crops."""
        columns, place = self._place_of(public)
        return np.array(columns.crops(np.array([place]))[0])

    def mean(self, public: str) -> Floats:
        """(D,): its mean."""
        columns, place = self._place_of(public)
        result: Floats = columns.means[place]
        return result

    def _place_of(self, public: str) -> tuple[Columns, int]:
        columns = self._columns
        place = columns.place.get(public)
        if place is None:
            raise GalleryError(f"there is no tracklet {public[:100]!r}")
        return columns, place

    def _locate(self, record: Mapping[str, Any]) -> Path | str:
        """Where the footage of a segment is now: a file of its name and size; else any of its name."""
        place = footage_place(record)
        if isinstance(place, str):
            return place
        there = [path for path in (place, *(folder / place.name for folder in self._footage)) if path.is_file()]
        same = [path for path in there if path.stat().st_size == record["bytes"]]
        return next(iter([*same, *there, place]))

    def footage_at(self, camera: str, time_s: float) -> Footage:
        """The footage of a camera that was being recorded at a Unix time, opened.

        Raises:
            FootageError: none was, or it is not where it was, has changed, or was a live stream.
        """
        for archive in self.archives.values():
            for segment in archive.segments:
                if segment["camera"] == camera and segment["start_s"] <= time_s < segment["stop_s"] + 1e-3:
                    record = segment["footage"]
                    starts_s = float(record.get("starts_s", segment["start_s"]))
                    return open_recorded(self._locate(record), record, starts_s)
        raise FootageError(f"the camera {camera} has no footage at that time")

    def footage_begins(self, camera: str) -> float:
        """Unix time at which the first person of a camera is seen in its footage, or at which the footage begins."""
        names = {name for name, a in self.archives.items() if camera in a.cameras}
        c = self._columns
        seen = [
            float(c.begins[place])
            for place in np.flatnonzero(c.cameras == camera)
            if split_public_id(c.ids[place])[0] in names
        ]
        starts = [s["start_s"] for name in names for s in self.archives[name].segments if s["camera"] == camera]
        return min(seen or starts or [0.0])

    def at(self, camera: str, time_s: float, slack_s: float = 0.0) -> list[str]:
        """Public ids of tracklets in a camera's view at a time."""
        c = self._columns
        found = np.flatnonzero((c.cameras == camera) & (c.begins <= time_s + slack_s) & (c.ends >= time_s - slack_s))
        return [c.ids[place] for place in found]

    # Searching

    def embed(self, images: Iterable[Image.Image]) -> Floats:
        """(N, D), of length 1. As many calls at once as there are cores, where the runtime allows it; else one."""
        with self._turns:
            vectors = self.embedder.embed(list(images))
        result: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return result

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
        rows = np.flatnonzero(c.passing(filters, sees))
        if not len(rows):
            return []
        near = c.nearest(ranked_by, rows, max(top, RESCORED))
        parts = c.crops(near)
        starts = np.cumsum([0, *(len(part) for part in parts[:-1])])
        crops = np.concatenate(parts)
        best = np.maximum.reduceat(crops @ query_D, starts)
        means = c.means[near] @ query_D
        if ranked_by is query_D:
            keys = (means + best) / 2
        else:
            keys = (c.means[near] @ ranked_by + np.maximum.reduceat(crops @ ranked_by, starts)) / 2
        scores = np.minimum(1.0, (means + best) / 2)
        order = np.lexsort((near, -keys))[:top]
        return [
            ScoredTracklet(c.ids[near[place]], float(scores[place]), min(1.0, float(best[place])))
            for place in order.tolist()
        ]

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
        paths = [crop.path for crop in self.tracklet(public).crops]  # of a gallery's crop, where its picture is
        with self.network_lock:
            predicted = self._attributes.predict(paths).probabilities
        return [round(float(p), 4) for p in predicted.mean(0)]

    def set_probabilities(self, known: dict[str, list[float]]) -> None:
        """What ``predict_attributes`` gave for tracklets, by their ids."""
        with self._swapping:
            self._probabilities.update(known)

    def undescribed(self) -> list[str]:
        """Ids of tracklets of which no attributes are known yet; not of crops whose picture is not there."""
        todo = [public for public in self._columns.ids if public not in self._probabilities]
        galleries = self.galleries
        return [
            public
            for public in todo
            if (name := split_public_id(public)[0]) not in galleries or galleries[name].crop(public).picture is not None
        ]

    def describe(
        self, having: Sequence[str], lacking: Sequence[str], filters: Filters, sees: Callable[[str], bool], top: int
    ) -> list[ScoredTracklet]:
        """The tracklets that fit a description best. Raises DataError for unknown attributes."""
        c = self._columns
        rows = [int(row) for row in np.flatnonzero(c.passing(filters, sees)) if c.ids[row] in self._probabilities]
        known = [self._probabilities[c.ids[row]] for row in rows]
        table = np.array(known, np.float32).reshape(len(rows), len(self.attributes))
        scores = match_score(table, self.attributes, having, lacking)
        order = np.argsort(-scores, kind="stable")[:top]
        return [ScoredTracklet(c.ids[rows[place]], float(scores[place]), None) for place in order]


def _state_of(folder: Path) -> tuple[str, ...]:
    return gallery_state(folder) if (folder / MANIFEST).is_file() else tuple(list_segments(folder))
