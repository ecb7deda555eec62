"""A gallery that is served: its crops are found one by one, with source, camera and identity.

A gallery stores embeddings and the paths of crops, not the crops. A crop's picture is shown only if it is the file that
was indexed: the stored stamp (size, times, SHA-256) must fit, or the path must lie in a folder that was given for
pictures. So a gallery from elsewhere cannot name other pictures of this machine.
"""

import hashlib
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from osnet.files import plain_path
from osnet.gallery import Erased, FileStamp, Gallery, Stored, Where
from osnet.gallery.segments import MANIFEST as MANIFEST
from osnet.service.times import show_moment
from osnet.video.archive import Crop, Tracklet

Floats = NDArray[np.float32]
DIGITS = 24
"""Of a source's SHA-256 in a public id: 96 bits."""


@dataclass(frozen=True)
class GalleryCrop(Tracklet):
    """One crop of a gallery, as a tracklet of a single crop without footage.

    ``camera`` is empty and the times are NaN where the gallery does not know them.
    """

    source: str = ""
    identity: str | None = None
    picture: Path | None = None
    """The file of the crop; None if it is not there, or may not be shown."""

    def __str__(self) -> str:
        return f"{self.camera or 'camera unknown'}, {show_moment(self.begin_s)}"


class ServedGallery:
    """One gallery as it was when it was read.

    Args:
        name: of the gallery, for public ids.
        folder: of the gallery.
        pictures: folders whose pictures may be shown, and in which moved ones are looked for.

    Raises:
        GalleryError: it is damaged.
    """

    def __init__(self, name: str, folder: Path, pictures: Sequence[Path] = ()) -> None:
        self.folder, self.state = folder, gallery_state(folder)
        self._pictures = tuple(pictures)
        self.gallery = Gallery.open(folder)
        stored = self.gallery.stored()
        self._stored = list(stored.values())
        self.ids = [f"{name}~{source_digest(source)}" for source in stored]
        self.vectors: Floats = self.gallery.embeddings(list(stored))
        self._place = {public: place for place, public in enumerate(self.ids)}

    @property
    def cameras(self) -> list[str]:
        """The camera of each crop; empty text where it is unknown."""
        return [stored.item.camera or "" for stored in self._stored]

    @property
    def times_s(self) -> NDArray[np.float64]:
        """(N,): the time of each crop; NaN where it is unknown."""
        times = [stored.item.time_s for stored in self._stored]
        return np.array([np.nan if time is None else time for time in times], np.float64)

    def crop(self, public: str) -> GalleryCrop:
        """One crop by its public id, which must be one of ``ids``."""
        stored = self._stored[self._place[public]]
        item, picture = stored.item, self._find_picture(stored)
        time_s = np.nan if item.time_s is None else float(item.time_s)
        return GalleryCrop(
            id=public,
            camera=item.camera or "",
            begin_s=time_s,
            end_s=time_s,
            crops=(Crop(picture or Path(item.source), time_s, 0, (0.0, 0.0, 0.0, 0.0), 1.0),),
            footage=Path(item.source),
            numbers=np.empty(0, np.int64),
            times_s=np.empty(0),
            boxes=np.empty((0, 5), np.float32),
            source=item.source,
            identity=item.identity,
            picture=picture,
        )

    def source_of(self, public: str) -> str | None:
        """The source of a crop; None if it is not there."""
        place = self._place.get(public)
        return None if place is None else self._stored[place].item.source

    def twins(self, publics: Sequence[str]) -> list[str]:
        """Crops with exactly the same embedding: the same picture under another name. Not those that are given."""
        given = [self._place[public] for public in publics if public in self._place]
        if not given:
            return []
        same = np.zeros(len(self.ids), bool)
        for place in given:
            same |= (self.vectors == self.vectors[place]).all(axis=1)
        same[given] = False
        return [self.ids[place] for place in np.flatnonzero(same)]

    def erase(self, publics: Sequence[str]) -> tuple[list[str], Erased | None]:
        """Erase crops; those that are not there (any more) are passed over. Returns their ids, and the report.

        Raises:
            GalleryError: another process writes to the gallery.
            OutputError: the disk is full.
        """
        there = {public: source for public in publics if (source := self.source_of(public)) is not None}
        if not there:
            return [], None
        return sorted(there), self.gallery.erase(Where(sources=frozenset(there.values())))

    def _find_picture(self, stored: Stored) -> Path | None:
        path, stamp = Path(stored.item.source), stored.stamp
        if stamp is not None and (stamp.is_of(path) or _is_same(path, stamp)):
            return path
        for folder in self._pictures:
            if stamp is None:
                inside = plain_path(path).is_relative_to(plain_path(folder))
                if inside and path.is_file() and path.resolve().is_relative_to(folder.resolve()):
                    return path
                continue
            parts = PurePath(stored.item.source).parts
            for count in range(min(4, len(parts)), 0, -1):  # camera/day/name.jpg, then only name.jpg
                moved = folder.joinpath(*(part for part in parts[-count:] if part not in ("/", "..")))
                if _is_same(moved, stamp):
                    return moved
        return None


def _is_same(path: Path, stamp: FileStamp) -> bool:
    """True if a file's content is that of the stamp. It is read only if its size fits."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return False
    if not stat.S_ISREG(status.st_mode) or status.st_size != stamp.size:
        return False
    now = FileStamp.of(path)
    return now is not None and now.sha256 == stamp.sha256


def source_digest(source: str) -> str:
    """The part of a public id that stands for a source, which may hold any characters."""
    return hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]


def gallery_state(folder: Path) -> tuple[str, ...]:
    """Changes whenever the gallery does."""
    try:
        status = (folder / MANIFEST).stat()
    except OSError:
        return ()
    return (f"{status.st_ino} {status.st_mtime_ns} {status.st_size}",)
