"""An archive: the people in footage, stored as tracklets that can be searched.

    ARCHIVE/
      archive.json                    digest and name of the weights, embedding size
      weights/                        a copy of the weights
      2026-11-28/gate/081400.000/     a segment: day and time (UTC) of its start, and its camera
        tracklets.jsonl               a line per tracklet: times, crops, rows in the arrays
        vectors.npy                   float32 (C, D), rows of length 1: the embeddings of the crops
        means.npy                     float32 (T, D), rows of length 1: the normalised mean of each tracklet
        frames.npy times.npy boxes.npy  (R,), (R,), (R, 5): frame number, Unix time, box and score
        crops/0001-1.jpg              tracklet 1, crop 1
        segment.json                  camera, footage, settings, unreadable parts, and the SHA-256 of each file

The id of a tracklet is the name of its segment and its number in it. The same footage and settings give the same ids.
Shapes: T tracklets, C crops, R frames of tracklets (all tracklets together), D embedding.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock
from numpy.typing import ArrayLike, NDArray

from osnet.embedding.embedder import Embedder
from osnet.embedding.third_party import ThirdPartyNetwork, save_third_party
from osnet.errors import DataError, GalleryError
from osnet.files import make_folder, sha256_file, write_json
from osnet.gallery import Where
from osnet.types import ChannelOrder, Hit
from osnet.video.archive_segments import LOCK as LOCK
from osnet.video.archive_segments import LOCK_TIMEOUT_S as LOCK_TIMEOUT_S
from osnet.video.archive_segments import SEGMENT_FILE as SEGMENT_FILE
from osnet.video.archive_segments import Crop as Crop
from osnet.video.archive_segments import FinishedTrack as FinishedTrack
from osnet.video.archive_segments import StoredSegment, is_leftover, list_segments, read_json
from osnet.video.archive_segments import Tracklet as Tracklet
from osnet.video.archive_segments import format_time as format_time
from osnet.video.archive_segments import mean_vector as mean_vector
from osnet.video.archive_segments import segment_name as segment_name
from osnet.video.archive_segments import write_segment as write_segment
from osnet.video.archive_segments import writing as writing
from osnet.video.protocols import Floats, Times
from osnet.weights.card import Card
from osnet.weights.checkpoint import save_weights

FORMAT = "osnet-archive-1"
ARCHIVE_FILE, WEIGHTS = "archive.json", "weights"
RESCORED = 200
"""With the pool ``both``, this many of the best by mean are compared crop by crop."""

Pool = Literal["mean", "best", "both"]
"""What a query is compared with: the mean of a tracklet, its best crop, or both (the mean of these two cosines)."""


class Archive:
    """Tracklets of footage on disk, searchable by image. It is searched as a ``Gallery`` is.

    >>> archive = Archive.open("archive", Embedder("osnet_x0_25_msmt17"))   # made if there is none
    >>> hits = archive.search("photo.jpg", top=5)
    >>> archive.tracklet(hits[0].item.source)

    In a hit, ``item.source`` is the tracklet's id and ``item.time_s`` the Unix time of its first frame.
    ``index_footage`` and ``index_stream`` add tracklets. Several processes may read while others add segments. An open
    archive does not see new segments before ``refresh``.
    """

    _embedder: Embedder | None = None

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder, self._about = folder, about
        self._segments: list[StoredSegment] = []
        self.refresh()

    @classmethod
    def open(cls, folder: str | Path, embedder: Embedder | None = None) -> "Archive":
        """Open the archive in ``folder``. With an embedder, make it if there is none.

        A new archive keeps a copy of the embedder's weights in ``folder/weights``.

        Args:
            folder: of the archive.
            embedder: needed by ``search`` and ``search_many``.

        Raises:
            GalleryError: there is no archive (without ``embedder``); it is damaged (the file is named); it stores
                embeddings of other weights; or the folder holds something else.
            OutputError: the folder cannot be made or written.
        """
        folder = Path(folder)
        if embedder is not None:
            _make_if_missing(folder, embedder)
        if not (folder / ARCHIVE_FILE).is_file():
            raise GalleryError(
                f"{folder} has no {ARCHIVE_FILE}, so it is not an archive; `osnet video index` makes one"
            )
        archive = cls(folder, read_json(folder / ARCHIVE_FILE, FORMAT))
        if embedder is not None:
            archive.check_weights(embedder.sha256())
            archive._embedder = embedder
        return archive

    def refresh(self) -> None:
        """Find the segments that other processes have added or removed. Raises GalleryError as ``open``."""
        known = {segment.name: segment for segment in self._segments}
        names = list_segments(self.folder)
        self._segments = [known.get(name) or StoredSegment(self.folder, name, self.embedding_size) for name in names]
        self._places = {segment.name: segment for segment in self._segments}

    def __len__(self) -> int:
        return sum(map(len, self._segments))

    @property
    def embedder(self) -> Embedder:
        """The embedder that the archive was opened with. Raises GalleryError if it was opened without one."""
        if self._embedder is None:
            raise GalleryError(
                f"{self.folder} was opened without an embedder: use Archive.open({str(self.folder)!r}, embedder), or "
                "search_embedding for an embedding that you have"
            )
        return self._embedder

    @property
    def weights_sha256(self) -> str:
        """Digest of the weights that made the stored embeddings."""
        return str(self._about["weights_sha256"])

    @property
    def weights_name(self) -> str:
        """Name of these weights, for people to read."""
        return str(self._about["weights_name"])

    @property
    def embedding_size(self) -> int:
        """D."""
        return int(self._about["embedding_size"])

    @property
    def cameras(self) -> list[str]:
        """Names of the cameras, sorted."""
        return sorted({segment.camera for segment in self._segments})

    @property
    def segments(self) -> list[dict[str, Any]]:
        """Name and content of each ``segment.json``, sorted by day, time and camera."""
        return [{"name": segment.name, **segment.about} for segment in self._segments]

    def sources(self) -> set[str]:
        """Ids of all tracklets."""
        return {tracklet_id for segment in self._segments for tracklet_id in segment.ids}

    def tracklets(self, where: Where | None = None) -> Iterator[Tracklet]:
        """The tracklets that pass ``where``, in the order of their segments (day, time, camera)."""
        where = self._settled(where)
        for segment in self._segments:
            for place in np.flatnonzero(_passing(segment, where)):
                yield segment.tracklet(int(place))

    def tracklet(self, tracklet_id: str) -> Tracklet:
        """The tracklet with this id. Raises GalleryError if there is none."""
        segment, place = self._find(tracklet_id)
        return segment.tracklet(place)

    def means(self) -> tuple[list[str], Floats]:
        """The ids of all tracklets, and their mean embeddings (T, D)."""
        ids = [tracklet_id for segment in self._segments for tracklet_id in segment.ids]
        parts = [np.array(segment.means) for segment in self._segments]
        return ids, np.concatenate(parts) if parts else np.empty((0, self.embedding_size), np.float32)

    def spans(self) -> tuple[list[str], Times, Times]:
        """Camera, begin and end (Unix time) of each of the T tracklets, in the order of ``means``."""
        cameras = [segment.camera for segment in self._segments for _ in segment.ids]
        begins = np.concatenate([np.empty(0), *(segment.begins for segment in self._segments)])
        ends = np.concatenate([np.empty(0), *(segment.ends for segment in self._segments)])
        return cameras, begins, ends

    def vectors(self, tracklet_id: str) -> Floats:
        """The embeddings (C, D) of the crops of one tracklet. Raises GalleryError if there is no such tracklet."""
        segment, place = self._find(tracklet_id)
        first, last = segment.first_crops[place : place + 2]
        return np.array(segment.vectors[first:last])

    def crop_tables(self) -> list[tuple[Floats, NDArray[np.int64]]]:
        """For each segment, in the order of ``means``: the embeddings (C, D) of its crops, mapped, and (T + 1,) the
        first crop of each tracklet with the number of crops behind them.
        """
        return [(segment.vectors.view(np.ndarray), segment.first_crops) for segment in self._segments]

    def _find(self, tracklet_id: str) -> tuple[StoredSegment, int]:
        name, _, number = tracklet_id.rpartition("/")
        segment = self._places.get(name)
        plain = number.isascii() and number.isdigit() and len(number) < 10
        place = segment.places.get(int(number)) if segment is not None and plain else None
        if segment is None or place is None:
            raise GalleryError(f"{self.folder} has no tracklet {tracklet_id!r}")
        return segment, place

    def search(
        self,
        image: Any,
        *,
        top: int = 10,
        where: Where | None = None,
        channels: ChannelOrder = "rgb",
        pool: Pool = "both",
    ) -> list[Hit]:
        """The tracklets most similar to one crop, best first; equal scores in the order of ``tracklets``.

        Args:
            image: a path, a Pillow image, an array (height, width, 3), a tensor (3, height, width), or a ``Frame``
                with one box: one crop, as ``Embedder.embed`` takes it.
            top: maximum number of hits, at least 1.
            where: only tracklets that pass this filter. A tracklet passes ``after_s`` and ``before_s`` if it was seen
                at any moment in between.
            channels: the order in arrays and tensors: ``rgb``, or ``bgr`` as OpenCV gives it.
            pool: what the query is compared with. ``both`` compares with the best crop only for the ``RESCORED``
                tracklets with the most similar means.

        Raises:
            GalleryError: the archive was opened without an embedder, or not exactly one crop was given.
            ImageError: the image cannot be used.
            DataError: ``where`` names attributes, which an archive does not store.
        """
        embeddings = self._embed(image, channels)
        if len(embeddings) != 1:
            raise GalleryError(f"search takes one crop, not {len(embeddings)}; use search_many for several")
        sha256 = self.embedder.sha256()
        return self.search_embedding(embeddings[0], weights_sha256=sha256, top=top, where=where, pool=pool)

    def search_many(
        self,
        images: Any,
        *,
        top: int = 10,
        where: Where | None = None,
        channels: ChannelOrder = "rgb",
        pool: Pool = "both",
    ) -> list[list[Hit]]:
        """The hits of every crop, in the order of the crops. Arguments and errors as for ``search``."""
        embeddings, sha256 = self._embed(images, channels), self.embedder.sha256()
        return [
            self.search_embedding(embedding, weights_sha256=sha256, top=top, where=where, pool=pool)
            for embedding in embeddings
        ]

    def search_embedding(
        self,
        embedding_D: ArrayLike,
        *,
        weights_sha256: str,
        top: int = 10,
        where: Where | None = None,
        pool: Pool = "both",
    ) -> list[Hit]:
        """The tracklets most similar to an embedding, best first; equal scores in the order of ``tracklets``.

        Args:
            embedding_D: (D,) or (1, D), of any length but 0.
            weights_sha256: of the network that made it.
            top, where, pool: as for ``search``.

        Raises:
            GalleryError: an embedding of other weights or another size, zero or not finite.
            DataError: ``where`` names attributes, which an archive does not store.
        """
        self.check_weights(weights_sha256)
        if top < 1:
            raise GalleryError(f"top {top} must be at least 1")
        query = np.asarray(embedding_D, np.float32)
        length = float(np.linalg.norm(query))
        if query.shape not in ((self.embedding_size,), (1, self.embedding_size)):
            raise GalleryError(
                f"a query of shape {query.shape}; {self.folder} stores embeddings of {self.embedding_size}"
            )
        if not np.isfinite(length) or length == 0:
            raise GalleryError(f"a query of length {length:g}; it must be finite and not zero")
        query = query.reshape(-1) / length
        where = self._settled(where)
        scores_T = np.concatenate(
            [np.empty(0, np.float32), *(_scores(segment, query, where, pool) for segment in self._segments)]
        )
        kept = _highest(scores_T, max(top, RESCORED) if pool == "both" else top)
        firsts = np.cumsum([0, *map(len, self._segments)])
        orders = np.searchsorted(firsts, kept, "right") - 1
        found = list(zip(scores_T[kept].tolist(), orders.tolist(), (kept - firsts[orders]).tolist(), strict=True))
        if pool == "both":
            found = self._rescored(found, query)
        return [
            Hit(rank, float(np.clip(score, -1, 1)), self._segments[order].item(place))
            for rank, (score, order, place) in enumerate(found[:top], 1)
        ]

    def _rescored(self, found: list[tuple[float, int, int]], query: Floats) -> list[tuple[float, int, int]]:
        """Replace each score, a cosine with the mean, by its mean with the cosine of the best crop."""
        again = []
        for score, order, place in found:
            segment = self._segments[order]
            first, last = segment.first_crops[place : place + 2]
            again.append(((score + float((segment.vectors[first:last] @ query).max())) / 2, order, place))
        return sorted(again, key=lambda one: (-one[0], one[1:]))

    def check_weights(self, weights_sha256: str) -> None:
        """Raise GalleryError unless the stored embeddings are of these weights."""
        if weights_sha256 != self.weights_sha256:
            raise GalleryError(
                f"{self.folder} stores embeddings of the weights {self.weights_sha256[:12]} ({self.weights_name}), "
                f"which cannot be compared with those of {weights_sha256[:12]}; use the same weights, or a new archive"
            )

    def check(self) -> list[str]:
        """Compare every file with its stored SHA-256. Returns a line per file that is missing or damaged."""
        wrong = []
        for segment in self._segments:
            for name, digest in segment.about["sha256"].items():
                path = segment.folder / name
                if not path.is_file():
                    wrong.append(f"{path} is missing")
                elif sha256_file(path) != digest:
                    wrong.append(f"{path} is damaged")
        return wrong

    def _embed(self, images: Any, channels: ChannelOrder) -> NDArray[np.float32]:
        if isinstance(images, np.ndarray) and images.ndim <= 2:
            raise GalleryError(f"an array of shape {images.shape} is not an image; search_embedding takes embeddings")
        embedder = self.embedder
        self.check_weights(embedder.sha256())  # the network may have been trained since the archive was opened
        return embedder.embed(images, channels=channels)

    def _settled(self, where: Where | None) -> Where:
        """``where`` with its source escaped if it is an id. Raises DataError for conditions on attributes."""
        if where is None:
            return Where()
        if named := sorted(where.having | where.lacking):
            raise DataError(f"{self.folder} stores no attributes, so {named[0]!r} cannot be searched for")
        return where.settle(self.sources()) if where.source is not None else where


def _passing(segment: StoredSegment, where: Where) -> NDArray[np.bool_]:
    """(T,), True for the tracklets of a segment that pass ``where``."""
    passing = np.ones(len(segment), bool)
    if where.after_s is not None:
        passing &= segment.ends >= where.after_s
    if where.before_s is not None:
        passing &= segment.begins <= where.before_s
    others = replace(where, after_s=None, before_s=None)
    if not others.is_empty:
        passing &= np.array([others.matches(segment.item(place)) for place in range(len(segment))], bool)
    return passing


def _scores(segment: StoredSegment, query: Floats, where: Where, pool: Pool) -> Floats:
    """(T,): a query's cosine with each tracklet's mean, or best crop; -inf for those that do not pass ``where``."""
    passing = _passing(segment, where)
    if not passing.any():
        return np.full(len(segment), -np.inf, np.float32)
    scores = _best_crops(segment, query) if pool == "best" else segment.means @ query
    return np.where(passing, scores, np.float32(-np.inf))


def _highest(scores_T: Floats, number: int) -> NDArray[np.intp]:
    """The places of the highest scores, best first, equal ones in their order. Without those of -inf."""
    costs = -scores_T
    places = np.arange(len(costs))
    if number < len(costs):
        places = np.flatnonzero(~(costs > np.partition(costs, number - 1)[number - 1]))
    places = places[np.argsort(costs[places], kind="stable")][:number]
    return places[costs[places] < np.inf]


def _best_crops(segment: StoredSegment, query: Floats) -> Floats:
    """(T,): the highest cosine of a query with a crop of each tracklet."""
    if not len(segment):
        return np.empty(0, np.float32)
    best: Floats = np.maximum.reduceat(segment.vectors @ query, segment.first_crops[:-1])
    return best


def _make_if_missing(folder: Path, embedder: Embedder) -> None:
    """Make an archive for the embedder, with a copy of its weights, if ``folder`` holds none.

    Raises:
        GalleryError: the folder holds something else.
        OutputError: it cannot be written.
    """
    if (folder / ARCHIVE_FILE).exists():
        return
    with FileLock(make_folder(folder) / LOCK, timeout=LOCK_TIMEOUT_S):  # one process makes it; the others find it
        if (folder / ARCHIVE_FILE).exists():
            return
        others = sorted(path.name for path in folder.iterdir() if path.name != WEIGHTS and not is_leftover(path))
        if others:
            raise GalleryError(f"{folder} is not empty ({others[0]}); a new archive needs a new or an empty folder")
        card = embedder.card
        if isinstance(embedder.network, ThirdPartyNetwork):
            save_third_party(embedder.network, folder / WEIGHTS, embedder.preprocessing)
        else:
            own = replace(card or Card(embedder.network.config), preprocessing=embedder.preprocessing)
            save_weights(embedder.network, folder / WEIGHTS, own)
        about = {
            "format": FORMAT,
            "weights_sha256": embedder.sha256(),
            "weights_name": (card and card.name) or "unnamed",
            "embedding_size": embedder.embedding_size,
        }
        write_json(folder / ARCHIVE_FILE, about)
