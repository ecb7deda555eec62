"""Segments of an archive: how one is named, written, read and locked.

A segment is a folder. It is written under a temporary name, synchronised to the disk, and renamed when complete, so a
crash leaves no partial segment. The layout is in ``archive.py``.
Shapes: T tracklets, C crops, R frames of tracklets (all tracklets together), D embedding.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from osnet.errors import GalleryError, OutputError
from osnet.files import TEMPORARY_PREFIX, is_plain_name, make_folder, sha256_file
from osnet.types import Item
from osnet.video.crops import Sample
from osnet.video.protocols import Floats, FootageError, Ints, Times, Track

SEGMENT_FORMAT = "osnet-segment-1"
ERASED_FORMAT = "osnet-segment-2"
"""A segment that tracklets were erased from: each line of ``tracklets.jsonl`` has the tracklet's own ``number``."""
SEGMENT_FILE, TRACKLETS_FILE, LOCK = "segment.json", "tracklets.jsonl", ".lock"
ARRAYS = ("vectors", "means", "frames", "times", "boxes")
LOCK_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Crop:
    """A stored crop of a tracklet."""

    path: Path
    time_s: float
    """Unix time."""
    number: int
    """Of its frame in the footage, from 1."""
    box: tuple[float, float, float, float]
    """Left, top, right, bottom in pixels of the frame."""
    quality: float
    """In (0, 1]; see ``crops.crop_quality``."""


@dataclass(frozen=True)
class Tracklet:
    """One person in one camera over some time."""

    id: str
    """The segment's name and the tracklet's number in it: ``2026-11-28/gate/081400.000/3``."""
    camera: str
    begin_s: float
    """Unix time of the first frame."""
    end_s: float
    """Unix time of the last frame."""
    crops: tuple[Crop, ...]
    """In the order of time; at least one."""
    footage: Path | str
    """The video file; or, as text, the address of the live stream without credentials."""
    numbers: Ints
    """(R,): frame numbers in the footage, from 1."""
    times_s: Times
    """(R,): Unix times."""
    boxes: Floats
    """(R, 5): left, top, right, bottom in pixels, and the detector's score; the score is 0 for interpolated boxes."""
    pieces: tuple[tuple[int, int, int], ...] = ()
    """What it was joined from: the tracker's id, first and last frame number."""
    footage_record: Mapping[str, Any] = field(default_factory=dict)
    """What the archive stores of the footage; see ``source.open_recorded``."""

    @property
    def best_crop(self) -> Crop:
        """The crop of the highest quality; used as thumbnail."""
        return max(self.crops, key=lambda crop: crop.quality)

    def __str__(self) -> str:
        begin, end = (format_time(t) for t in (self.begin_s, self.end_s))
        return f"{self.camera}, {begin} to {end[11:]}"


def format_time(time_s: float) -> str:
    """Convert Unix time to ISO 8601 in UTC, with tenths of a second."""
    moment = datetime.fromtimestamp(round(time_s, 1), UTC)
    return moment.isoformat(timespec="milliseconds")[:21] + "Z"


def segment_name(camera: str, start_s: float) -> str:
    """Name a segment by day, camera and time of its start (UTC): ``2026-11-28/gate/081400.000``.

    Raises:
        FootageError: ``camera`` is not safe as the name of a folder, or ``start_s`` is outside the calendar.
    """
    if not is_plain_name(camera):
        raise FootageError(
            f"camera {camera!r} cannot be the name of a folder; use letters, digits, -, _, . and begin with a letter"
        )
    milliseconds = round(start_s * 1000)
    try:
        moment = datetime.fromtimestamp(milliseconds // 1000, UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise FootageError(f"start {start_s:g} (Unix time) is outside the calendar: {error}") from error
    return f"{moment:%Y-%m-%d}/{camera}/{moment:%H%M%S}.{milliseconds % 1000:03d}"


class StoredSegment:
    """A segment on disk. Its arrays are memory-mapped.

    Args:
        root: the archive's folder.
        name: of the segment, as from ``segment_name``.
        embedding_size: D.

    Raises:
        GalleryError: a file is missing or damaged; it is named.
    """

    def __init__(self, root: Path, name: str, embedding_size: int) -> None:
        self.folder, self.name = root / name, name
        self.about = read_json(self.folder / SEGMENT_FILE, SEGMENT_FORMAT, ERASED_FORMAT)
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

    def item(self, place: int) -> Item:
        """Describe a tracklet, counted from 0, as search results do."""
        return Item(self.ids[place], None, self.camera, self.rows[place]["begin_s"])

    def tracklet(self, place: int) -> Tracklet:
        """Read a tracklet, counted from 0."""
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
            footage=footage_place(self.about["footage"]),
            numbers=np.array(self.frames[first:last]),
            times_s=np.array(self.times[first:last]),
            boxes=np.array(self.boxes[first:last]),
            pieces=tuple(tuple(piece) for piece in row["pieces"]),
            footage_record=self.about["footage"],
        )


def footage_place(record: Mapping[str, Any]) -> Path | str:
    """The file of recorded footage, or the address of a live stream."""
    return Path(record["path"]) if "bytes" in record else str(record["path"])


def same_footage(a: Tracklet, b: Tracklet) -> bool:
    """True for tracklets of one stream, or of one file, which may have been moved between two runs."""
    if a.footage == b.footage:
        return True
    one, other = ({k: v for k, v in t.footage_record.items() if k != "path"} for t in (a, b))
    return "bytes" in one and one == other


def list_segments(folder: Path) -> list[str]:
    """List the names of all segments, sorted by day, time and camera."""
    found = [path.parent.relative_to(folder).as_posix() for path in folder.glob(f"*/*/*/{SEGMENT_FILE}")]
    named = [name for name in found if not any(part.startswith(".") for part in name.split("/"))]
    return sorted(named, key=lambda name: (name.split("/")[0], name.split("/")[2], name.split("/")[1]))


@contextmanager
def writing(folder: Path, camera: str) -> Iterator[None]:
    """Lock one camera of an archive for writing. First delete what an interrupted run left behind.

    Raises:
        GalleryError: another process holds the lock for longer than ``LOCK_TIMEOUT_S``.
    """
    lock = FileLock(folder / f"{LOCK}-{camera}", timeout=LOCK_TIMEOUT_S)
    try:
        with lock:
            for leftover in folder.glob(f"*/{camera}/{TEMPORARY_PREFIX}*"):
                shutil.rmtree(leftover, ignore_errors=True)
            yield
    except Timeout as error:
        raise GalleryError(
            f"another process is indexing camera {camera} into {folder}; wait until it has finished"
        ) from error


@dataclass(frozen=True)
class FinishedTrack:
    """A track and the samples that are stored of it."""

    track: Track
    samples: list[Sample]


def write_segment(
    root: Path, name: str, finished: Sequence[FinishedTrack], about: dict[str, Any], embedding_size: int
) -> None:
    """Write a segment under a temporary name, synchronise it to the disk, and rename it.

    Args:
        root: the archive's folder.
        name: from ``segment_name``.
        finished: its tracks in the order of their numbers, each with at least one sample.
        about: content of ``segment.json``, except for the digests.
        embedding_size: D.

    Raises:
        OutputError: the disk is full, or the folder cannot be written. No partial segment remains.
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
    """Average vectors, each (D,); the result has length 1."""
    total = np.mean(np.stack(vectors), axis=0)
    result: Floats = (total / max(1e-12, float(np.linalg.norm(total)))).astype(np.float32)
    return result


def read_json(path: Path, *forms: str) -> dict[str, Any]:
    """Read a JSON object and check its ``format``. Raises GalleryError if it is damaged or not of ``forms``."""
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


def is_leftover(path: Path) -> bool:
    """True for temporary folders and locks."""
    return path.name.startswith((TEMPORARY_PREFIX, LOCK))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
