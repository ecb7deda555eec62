"""An archive: everybody who was seen in footage, as tracklets that can be searched.

    ARCHIVE/
      archive.json                    whose vectors these are
      weights/                        a copy of the weights, so that searching needs nothing else
      2026-11-28/gate/081400.000/     one segment: day and time (UTC) of its start, camera
        tracklets.jsonl               one line for each tracklet: times, crops, rows in the arrays
        vectors.npy                   (C, D) float32, of length 1: the crops
        means.npy                     (T, D) float32, of length 1: the tracklets
        frames.npy times.npy boxes.npy  (R,) (R,) (R, 5): each frame of each tracklet; number, Unix time, box and score
        crops/0001-1.jpg              tracklet 1, crop 1
        segment.json                  camera, footage, settings, troubles, and the SHA-256 of each file

A segment is written aside and appears by one rename; what is no segment does not count. A tracklet's id is its
segment's folder and its number in it, so the same footage and settings give the same ids.
Shapes: T tracklets, C crops, R frames of tracklets, D embedding.
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any, Literal

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import ArrayLike, NDArray

from osnet import Embedder, Item, save_weights
from osnet.errors import GalleryError, OutputError
from osnet.files import TEMPORARY_PREFIX, is_plain_name, make_folder, sha256_file, write_json
from osnet.gallery import Where
from osnet.types import Hit
from osnet.video.crops import Sample
from osnet.video.protocols import Floats, FootageError, Ints, Times, Track

FORMAT = "osnet-archive-1"
SEGMENT_FORMAT = "osnet-segment-1"
ERASED_FORMAT = "osnet-segment-2"
"""A segment that tracklets were erased from: each line of ``tracklets.jsonl`` has the tracklet's own ``number``."""
ARCHIVE_FILE, SEGMENT_FILE, TRACKLETS_FILE, WEIGHTS, LOCK = (
    "archive.json", "segment.json", "tracklets.jsonl", "weights", ".lock",
)  # fmt: skip
ARRAYS = ("vectors", "means", "frames", "times", "boxes")
LOCK_TIMEOUT_S = 10.0
RESCORED = 200
"""So many of the best by mean are scored again by their crops."""

Pool = Literal["mean", "best", "both"]


@dataclass(frozen=True)
class Crop:
    """One kept picture of a tracklet."""

    path: Path
    time_s: float
    """Unix time."""
    number: int
    """Of its frame in the footage, from 1."""
    box: tuple[float, float, float, float]
    quality: float
    """In (0, 1]."""


@dataclass(frozen=True)
class Tracklet:
    """One person in one camera, from when to when."""

    id: str
    camera: str
    begin_s: float
    """Unix time of the first frame."""
    end_s: float
    """Unix time of the last frame."""
    crops: tuple[Crop, ...]
    """In the order of time."""
    footage: Path
    numbers: Ints
    """(R,): frame numbers in the footage."""
    times_s: Times
    """(R,): Unix times."""
    boxes: Floats
    """(R, 5): left, top, right, bottom in pixels, and the detector's score; 0 where it was interpolated."""
    pieces: tuple[tuple[int, int, int], ...] = ()
    """What it was joined from: the tracker's id, first and last frame."""

    @property
    def best_crop(self) -> Crop:
        """The thumbnail."""
        return max(self.crops, key=lambda crop: crop.quality)

    def __str__(self) -> str:
        begin, end = (format_time(t) for t in (self.begin_s, self.end_s))
        return f"{self.camera}, {begin} to {end[11:]}"


def format_time(time_s: float) -> str:
    """Unix time as ISO 8601 in UTC, to the tenth of a second."""
    moment = datetime.fromtimestamp(round(time_s, 1), UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + f".{moment.microsecond // 100_000}Z"


def segment_name(camera: str, start_s: float) -> str:
    """``2026-11-28/gate/081400.000``: day, camera, time of a segment's start (UTC).

    Raises:
        FootageError: a camera's name that could mean another folder.
    """
    if not is_plain_name(camera):
        raise FootageError(
            f"camera {camera!r} cannot be a folder's name; use letters, digits, - _ and ., a letter first"
        )
    milliseconds = round(start_s * 1000)
    try:
        moment = datetime.fromtimestamp(milliseconds // 1000, UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise FootageError(f"no footage begins {start_s:g} seconds after 1970: {error}") from error
    return f"{moment:%Y-%m-%d}/{camera}/{moment:%H%M%S}.{milliseconds % 1000:03d}"


class _Segment:
    """One segment that was read; its arrays are mapped, not loaded."""

    def __init__(self, root: Path, name: str, embedding_size: int) -> None:
        self.folder, self.name = root / name, name
        self.about = _read_json(self.folder / SEGMENT_FILE, SEGMENT_FORMAT, ERASED_FORMAT)
        path = self.folder / TRACKLETS_FILE
        try:
            if sha256_file(path) != self.about["sha256"][TRACKLETS_FILE]:
                raise GalleryError(f"{path} is damaged: its SHA-256 is not the one in {SEGMENT_FILE}")
            with path.open(encoding="utf-8") as file:
                self.rows: list[dict[str, Any]] = [json.loads(line) for line in file]
            arrays = {a: np.load(self.folder / f"{a}.npy", "r", allow_pickle=False) for a in ARRAYS}
            crops = sum(len(row["crops"]) for row in self.rows)
            frames = sum(row["rows"][1] - row["rows"][0] for row in self.rows)
            want = {
                "vectors": (crops, embedding_size), "means": (len(self.rows), embedding_size), "frames": (frames,),
                "times": (frames,), "boxes": (frames, 5),
            }  # fmt: skip
            for array, shape in want.items():
                if arrays[array].shape != shape:
                    raise GalleryError(
                        f"{self.folder / array}.npy has the shape {arrays[array].shape}; its tracklets need {shape}"
                    )
        except GalleryError:
            raise
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise GalleryError(f"the segment {self.folder} is damaged: {error}") from error
        self.vectors: Floats = arrays["vectors"]
        self.means: Floats = arrays["means"]
        self.frames: Ints = arrays["frames"]
        self.times: Times = arrays["times"]
        self.boxes: Floats = arrays["boxes"]
        self.camera: str = self.about["camera"]
        self.begins = np.array([row["begin_s"] for row in self.rows], np.float64)
        self.ends = np.array([row["end_s"] for row in self.rows], np.float64)
        self.first_crops = np.cumsum([0, *(len(row["crops"]) for row in self.rows)])
        self.numbers = [int(row.get("number", place)) for place, row in enumerate(self.rows, 1)]
        self.ids = [f"{name}/{number}" for number in self.numbers]
        self.places = {number: place for place, number in enumerate(self.numbers)}

    def __len__(self) -> int:
        return len(self.rows)

    def tracklet(self, place: int) -> Tracklet:
        row = self.rows[place]
        first, last = row["rows"]
        crops = tuple(
            Crop(
                self.folder / "crops" / f"{self.numbers[place]:04d}-{number}.jpg",
                crop["time_s"],
                crop["frame"],
                tuple(crop["box"]),
                crop["quality"],
            )
            for number, crop in enumerate(row["crops"], 1)
        )
        return Tracklet(
            id=self.ids[place],
            camera=self.camera,
            begin_s=row["begin_s"],
            end_s=row["end_s"],
            crops=crops,
            footage=Path(self.about["footage"]["path"]),
            numbers=np.array(self.frames[first:last]),
            times_s=np.array(self.times[first:last]),
            boxes=np.array(self.boxes[first:last]),
            pieces=tuple(tuple(piece) for piece in row["pieces"]),
        )


class Archive:
    """Tracklets of footage on disk, searchable by photo.

    It answers what a ``VectorStore`` answers (``len``, ``weights_sha256``, ``sources``, ``search``), its items being
    tracklets. Several processes may read while others add segments; an open archive sees what was there when it was
    opened, or at the last ``refresh``.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder, self._about = folder, about
        self._segments: list[_Segment] = []
        self.refresh()

    @classmethod
    def open(cls, folder: str | Path) -> "Archive":
        """An archive that exists.

        Raises:
            GalleryError: there is none, or a segment is damaged (it is named).
        """
        folder = Path(folder)
        if not (folder / ARCHIVE_FILE).is_file():
            raise GalleryError(f"{folder} is no archive: it holds no {ARCHIVE_FILE}; make one with `osnet video index`")
        return cls(folder, _read_json(folder / ARCHIVE_FILE, FORMAT))

    @classmethod
    def for_embedder(cls, folder: str | Path, embedder: Embedder) -> "Archive":
        """The archive in ``folder``, made if there is none, for the vectors of one embedder.

        Raises:
            GalleryError: it holds vectors of other weights, or the folder holds something else.
            OutputError: it cannot be written.
        """
        folder = make_folder(folder)
        if not (folder / ARCHIVE_FILE).exists():
            strangers = [p.name for p in folder.iterdir() if p.name not in (LOCK, WEIGHTS) and not _is_leftover(p)]
            if strangers:
                raise GalleryError(f"{folder} is not empty ({strangers[0]}); a new archive needs a folder of its own")
            card = embedder.network.card
            if card is not None:
                save_weights(embedder.network, folder / WEIGHTS, replace(card, preprocessing=embedder.preprocessing))
            about = {
                "format": FORMAT,
                "weights_sha256": embedder.sha256(),
                "weights_name": (card and card.name) or "unnamed",
                "embedding_size": embedder.embedding_size,
            }
            write_json(folder / ARCHIVE_FILE, about)
        archive = cls.open(folder)
        archive.check_weights(embedder.sha256())
        return archive

    def refresh(self) -> None:
        """See what other processes added or removed meanwhile."""
        known = {segment.name: segment for segment in self._segments}
        names = list_segments(self.folder)
        self._segments = [known.get(name) or _Segment(self.folder, name, self.embedding_size) for name in names]
        self._places = {segment.name: segment for segment in self._segments}

    def __len__(self) -> int:
        return sum(map(len, self._segments))

    @property
    def weights_sha256(self) -> str:
        """Whose vectors are stored."""
        return str(self._about["weights_sha256"])

    @property
    def weights_name(self) -> str:
        """For people to read."""
        return str(self._about["weights_name"])

    @property
    def embedding_size(self) -> int:
        """D."""
        return int(self._about["embedding_size"])

    @property
    def cameras(self) -> list[str]:
        """Names, sorted."""
        return sorted({segment.camera for segment in self._segments})

    @property
    def segments(self) -> list[dict[str, Any]]:
        """What each ``segment.json`` says, in the order of time and camera."""
        return [{"name": segment.name, **segment.about} for segment in self._segments]

    def sources(self) -> set[str]:
        """Ids of all tracklets."""
        return {tracklet_id for segment in self._segments for tracklet_id in segment.ids}

    def tracklets(self, where: Where | None = None) -> Iterator[Tracklet]:
        """All that pass ``where``, in the order of time and camera of their segments."""
        for segment in self._segments:
            for place in np.flatnonzero(_passing(segment, where)):
                yield segment.tracklet(int(place))

    def tracklet(self, tracklet_id: str) -> Tracklet:
        """One tracklet by its id.

        Raises:
            GalleryError: there is none of that id.
        """
        segment, place = self._find(tracklet_id)
        return segment.tracklet(place)

    def means(self) -> tuple[list[str], Floats]:
        """Ids of all T tracklets, and (T, D): their vectors."""
        ids = [tracklet_id for segment in self._segments for tracklet_id in segment.ids]
        parts = [np.array(segment.means) for segment in self._segments]
        return ids, np.concatenate(parts) if parts else np.empty((0, self.embedding_size), np.float32)

    def spans(self) -> tuple[list[str], Times, Times]:
        """Camera, begin and end (Unix time) of all T tracklets, in the order of ``means``."""
        cameras = [segment.camera for segment in self._segments for _ in segment.ids]
        begins = np.concatenate([np.empty(0), *(segment.begins for segment in self._segments)])
        ends = np.concatenate([np.empty(0), *(segment.ends for segment in self._segments)])
        return cameras, begins, ends

    def vectors(self, tracklet_id: str) -> Floats:
        """(C, D): the vectors of one tracklet's crops."""
        segment, place = self._find(tracklet_id)
        first, last = segment.first_crops[place : place + 2]
        return np.array(segment.vectors[first:last])

    def _find(self, tracklet_id: str) -> tuple[_Segment, int]:
        name, _, number = tracklet_id.rpartition("/")
        segment = self._places.get(name)
        plain = number.isascii() and number.isdigit() and len(number) < 10
        place = segment.places.get(int(number)) if segment is not None and plain else None
        if segment is None or place is None:
            raise GalleryError(f"{self.folder} has no tracklet {tracklet_id!r}")
        return segment, place

    def search(
        self,
        vector_D: ArrayLike,
        *,
        weights_sha256: str,
        top: int = 10,
        where: Where | None = None,
        pool: Pool = "both",
    ) -> list[Hit]:
        """The most similar tracklets, best first. A hit's ``item.source`` is the tracklet's id.

        Args:
            vector_D: (D,) or (1, D), as ``Embedder.embed`` gives it for one photo.
            weights_sha256: of the network that made it.
            top: at most so many, at least 1.
            where: only among these; a time in it must lie within, or overlap, the tracklet's.
            pool: what is compared: the tracklet's ``mean``, its ``best`` crop, or ``both``: the mean of these two
                cosines, for the first 200 by mean.

        Raises:
            GalleryError: a vector of other weights, of another size, or without direction.
        """
        self.check_weights(weights_sha256)
        if top < 1:
            raise GalleryError(f"top {top} must be at least 1")
        query = np.asarray(vector_D, np.float32).reshape(-1)
        length = float(np.linalg.norm(query))
        if query.shape != (self.embedding_size,) or not np.isfinite(length) or length == 0:
            raise GalleryError(
                f"a query of {query.size} numbers and length {length:g}; one vector of {self.embedding_size}"
            )
        query = query / length
        found: list[tuple[float, int, _Segment, int]] = []
        for order, segment in enumerate(self._segments):
            rows = np.flatnonzero(_passing(segment, where))
            if not len(rows):
                continue
            scores = segment.means[rows] @ query
            if pool == "best":
                scores = self._best_crops(segment, rows, query)
            most = max(top, RESCORED)
            for place in np.argsort(-scores, kind="stable")[:most]:
                found.append((float(scores[place]), order, segment, int(rows[place])))
        found.sort(key=lambda f: (-f[0], f[1], f[3]))
        if pool == "both":
            again = [
                ((score + float(self._best_crops(segment, np.array([place]), query)[0])) / 2, order, segment, place)
                for score, order, segment, place in found[: max(top, RESCORED)]
            ]
            found = sorted(again, key=lambda f: (-f[0], f[1], f[3]))
        return [
            Hit(
                rank,
                float(np.clip(score, -1, 1)),
                Item(segment.ids[place], None, segment.camera, segment.rows[place]["begin_s"]),
            )
            for rank, (score, _, segment, place) in enumerate(found[:top], 1)
        ]

    @staticmethod
    def _best_crops(segment: _Segment, rows: NDArray[np.intp], query: Floats) -> Floats:
        starts = segment.first_crops
        best = [float((segment.vectors[starts[row] : starts[row + 1]] @ query).max()) for row in rows]
        return np.array(best, np.float32)

    def check_weights(self, weights_sha256: str) -> None:
        """Raises GalleryError if these are not the weights whose vectors are stored."""
        if weights_sha256 != self.weights_sha256:
            raise GalleryError(
                f"{self.folder} has vectors of the weights {self.weights_sha256[:12]} ({self.weights_name}); these are "
                f"of {weights_sha256[:12]} and cannot be compared with them. Use the same weights, or another archive"
            )

    def check(self) -> list[str]:
        """Every file against its SHA-256; what is wrong, in words."""
        wrong = []
        for segment in self._segments:
            for name, digest in segment.about["sha256"].items():
                path = segment.folder / name
                if not path.is_file():
                    wrong.append(f"{path} is missing")
                elif sha256_file(path) != digest:
                    wrong.append(f"{path} is damaged")
        return wrong


def list_segments(folder: Path) -> list[str]:
    """Names of all segments, in the order of day, time and camera."""
    found = [path.parent.relative_to(folder).as_posix() for path in folder.glob(f"*/*/*/{SEGMENT_FILE}")]
    named = [name for name in found if not any(part.startswith(".") for part in name.split("/"))]
    return sorted(named, key=lambda name: (name.split("/")[0], name.split("/")[2], name.split("/")[1]))


def _passing(segment: _Segment, where: Where | None) -> NDArray[np.bool_]:
    """(T,): which tracklets pass."""
    passing = np.ones(len(segment), bool)
    if where is None or where.is_empty:
        return passing
    if where.identities is not None or where.having or where.lacking:
        return ~passing  # nobody in an archive has a name, and nothing is said of them
    if where.cameras is not None and segment.camera not in where.cameras:
        return ~passing
    if where.after_s is not None:
        passing &= segment.ends >= where.after_s
    if where.before_s is not None:
        passing &= segment.begins <= where.before_s
    if where.source is not None:
        pattern = replace(where, cameras=None, after_s=None, before_s=None)
        passing &= np.array([pattern.matches(Item(tracklet_id)) for tracklet_id in segment.ids], bool)
    return passing


@contextmanager
def writing(folder: Path, camera: str) -> Iterator[None]:
    """Alone on one camera of an archive; leftovers of a run that was killed are deleted first.

    Raises:
        GalleryError: another process is at it.
    """
    lock = FileLock(folder / f"{LOCK}-{camera}", timeout=LOCK_TIMEOUT_S)
    try:
        with lock:
            for leftover in folder.glob(f"*/{camera}/{TEMPORARY_PREFIX}*"):
                shutil.rmtree(leftover, ignore_errors=True)
            yield
    except Timeout as error:
        raise GalleryError(
            f"another process is indexing the camera {camera} into {folder}; wait until it is done"
        ) from error


@dataclass(frozen=True)
class FinishedTrack:
    """A track and what is kept of it."""

    track: Track
    samples: list[Sample]


def write_segment(
    root: Path, name: str, finished: Sequence[FinishedTrack], about: dict[str, Any], embedding_size: int
) -> None:
    """One segment: written aside, on the disk, then renamed.

    Args:
        root: the archive's folder.
        name: from ``segment_name``.
        finished: its tracks, in the order of their numbers; each has at least one sample.
        about: what ``segment.json`` says beside the digests.
        embedding_size: D.

    Raises:
        OutputError: the disk is full, or the folder cannot be written to. Nothing is left behind.
    """
    target = root / name
    make_folder(target.parent)
    aside = target.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{token_hex(4)}-{target.name}")
    try:
        (aside / "crops").mkdir(parents=True)
        _write_files(aside, finished, embedding_size)
        names = sorted(path.relative_to(aside).as_posix() for path in aside.rglob("*") if path.is_file())
        digests = {file: sha256_file(aside / file) for file in names}
        text = json.dumps({"format": SEGMENT_FORMAT, **about, "sha256": digests}, indent=1, allow_nan=False)
        (aside / SEGMENT_FILE).write_text(text + "\n", encoding="utf-8")
        for path in [*aside.rglob("*"), aside]:
            _sync(path)
        aside.rename(target)
        _sync(target.parent)
    except OSError as error:
        raise OutputError(f"cannot write the segment {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write_files(folder: Path, finished: Sequence[FinishedTrack], embedding_size: int) -> None:
    rows, first = [], 0
    for place, one in enumerate(finished, 1):
        track, last = one.track, first + len(one.track)
        crops = [
            {"time_s": s.time_s, "frame": s.number, "box": [round(v, 2) for v in s.box], "quality": s.quality}
            for s in one.samples
        ]
        for number, sample in enumerate(one.samples, 1):
            (folder / "crops" / f"{place:04d}-{number}.jpg").write_bytes(sample.jpeg)
        rows.append({
            "begin_s": track.times_s[0], "end_s": track.times_s[-1], "rows": [first, last], "crops": crops,
            "pieces": track.pieces,
        })  # fmt: skip
        first = last
    lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    (folder / TRACKLETS_FILE).write_text(lines, encoding="utf-8")
    vectors = [s.vector for one in finished for s in one.samples]
    means = [mean_vector([s.vector for s in one.samples]) for one in finished]
    tracks = [one.track for one in finished]
    arrays: dict[str, NDArray[Any]] = {
        "vectors": np.array(vectors, np.float32).reshape(-1, embedding_size),
        "means": np.array(means, np.float32).reshape(-1, embedding_size),
        "frames": np.array([n for t in tracks for n in t.numbers], np.int64),
        "times": np.array([s for t in tracks for s in t.times_s], np.float64),
        "boxes": np.array([(*b, s) for t in tracks for _, _, b, s in t.rows()], np.float32).reshape(-1, 5),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)


def mean_vector(vectors: Sequence[Floats]) -> Floats:
    """(D,), of length 1."""
    total = np.mean(np.stack(vectors), axis=0)
    result: Floats = (total / max(1e-12, float(np.linalg.norm(total)))).astype(np.float32)
    return result


def _read_json(path: Path, *forms: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content.get("format") not in forms:
            raise GalleryError(
                f"{path} has the format {content.get('format')!r}; this version reads {' and '.join(forms)}"
            )
    except (OSError, ValueError, AttributeError) as error:
        if isinstance(error, GalleryError):
            raise
        raise GalleryError(f"{path} is damaged: {error}") from error
    return content


def _is_leftover(path: Path) -> bool:
    return path.name.startswith((TEMPORARY_PREFIX, LOCK))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
