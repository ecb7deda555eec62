"""The list of a gallery's segments, ``gallery.json``, and its lock. ``gallery_folder.py`` shows the layout."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from osnet.errors import GalleryError, OutputError
from osnet.files import TEMPORARY_PREFIX, check_fields, is_plain_name, sha256_file, write_json
from osnet.gallery.columns import UNKNOWN, Columns, Indices
from osnet.gallery.exact_search import Floats as Floats
from osnet.gallery.old_format import OldSegment
from osnet.gallery.segment_file import Rows, write_rows

OLD_FORMAT, FORMAT = "osnet-gallery-1", "osnet-gallery-2"
MANIFEST = "gallery.json"
LOCK = ".lock"
DAY_S = 86_400
FIRST_DAY, LAST_DAY = -719_162, 2_932_896
"""Days since 1970-01-01 that have a date: the years 1 to 9999."""
UNDATED = "undated"
SEGMENT_NAME = re.compile(r"(\d{4}-\d\d-\d\d_[A-Za-z0-9_][A-Za-z0-9._-]{0,63}|undated)_\d{6,}\.safetensors")
OLD_NAME = re.compile(r"(vectors|attributes)-\d{6,}\.npy|items-\d{6,}\.jsonl")

Group = tuple[int, str] | None
"""Day (since 1970-01-01, UTC) and camera of a segment; None: times, or cameras, that are not known."""


@dataclass(frozen=True)
class StoredAttribute:
    """An attribute whose probabilities a gallery stores."""

    name: str
    threshold: float
    """The attribute is predicted positive from this probability on."""
    sha256: str
    """Digest of the attribute's row of the head. Probabilities of another row cannot be compared."""


@dataclass(frozen=True)
class Segment:
    """Rows of one day and camera, in one file."""

    file: str
    count: int
    size: int
    """Bytes."""
    sha256: str
    day: int | None
    """Days since 1970-01-01 (UTC); None if the times are unknown."""
    camera: str | None
    """None if the times are unknown; then a segment holds several cameras."""

    @property
    def group(self) -> Group:
        """Day and camera."""
        return None if self.day is None or self.camera is None else (self.day, self.camera)


@dataclass(frozen=True)
class Manifest:
    """The content of ``gallery.json``: weights, embedding size, attributes, and the list of segments."""

    weights_sha256: str
    weights_name: str
    embedding_size: int
    next_segment: int = 1
    next_row: int = 0
    """The place in the order of adding that the next item gets."""
    segments: tuple[Segment, ...] = ()
    old_segments: tuple[OldSegment, ...] = ()
    """Of a gallery of an older version; then there are no others."""
    attributes: tuple[StoredAttribute, ...] = ()

    @property
    def files(self) -> set[str]:
        """Names of the files of all segments."""
        old = {name for segment in self.old_segments for name in segment.files.values()}
        return old | {segment.file for segment in self.segments}


@contextmanager
def locked(folder: Path, timeout_s: float) -> Iterator[None]:
    """Hold the lock of the gallery in ``folder``, which every writer takes.

    Raises:
        GalleryError: there is no such folder, or another process holds the lock for longer than ``timeout_s``.
        OutputError: no permission to write there.
    """
    if not folder.is_dir():
        raise GalleryError(f"no such folder: {folder}; make a gallery with `osnet index`")
    lock = FileLock(folder / LOCK, timeout=timeout_s)
    try:
        lock.acquire()
    except Timeout as error:
        raise GalleryError(f"another process is writing to {folder}; try again when it is done") from error
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def begin(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a new gallery. Call it under the lock.

    Raises:
        GalleryError: the folder is not empty; leftovers of an interrupted write are ignored.
    """
    if any(path.name != LOCK and not path.name.startswith(TEMPORARY_PREFIX) for path in folder.iterdir()):
        raise GalleryError(f"{folder} is not empty; a new gallery needs a folder of its own")
    write_manifest(folder, manifest)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace ``gallery.json``."""
    content: dict[str, Any] = {"format": FORMAT, **asdict(manifest)}
    del content["old_segments"]
    if not manifest.attributes:
        del content["attributes"]
    write_json(folder / MANIFEST, content)


def read_manifest(folder: Path) -> Manifest:
    """Read ``gallery.json``, of this version or of an older one.

    Raises:
        GalleryError: it is missing or damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise GalleryError(f"{folder} is not a gallery: it has no {MANIFEST}; make one with `osnet index`")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        form = content.pop("format")
        if form not in (FORMAT, OLD_FORMAT):
            raise GalleryError(f"{path} has the format {form!r}; this version reads {FORMAT!r} and {OLD_FORMAT!r}")
        listed = content.pop("segments")
        attributes = tuple(StoredAttribute(**attribute) for attribute in content.pop("attributes", ()))
        manifest = Manifest(**content, attributes=attributes)
        check_fields(manifest)
        if manifest.old_segments or min(manifest.next_segment, manifest.embedding_size) < 1 or manifest.next_row < 0:
            raise ValueError("a number is out of range")
        if form == OLD_FORMAT:
            old = tuple(OldSegment(**segment) for segment in listed)
            for segment in old:
                check_fields(segment)
            _check_old(old, bool(attributes))
            count = sum(segment.count for segment in old)
            return _replace(manifest, old_segments=old, next_row=count)
        segments = tuple(Segment(**segment) for segment in listed)
        for one in segments:
            _check_segment(one)
        return _replace(manifest, segments=segments)
    except GalleryError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise GalleryError(f"{path} is damaged: {error!r}") from error


def _replace(manifest: Manifest, **changes: Any) -> Manifest:
    return Manifest(**{**manifest.__dict__, **changes})


def _check_segment(segment: Segment) -> None:
    """As ``check_fields``, which would take most of the time of opening a gallery of thousands of segments."""
    numbers = (segment.count, segment.size)
    if not all(type(number) is int and number >= 0 for number in numbers) or type(segment.sha256) is not str:
        raise ValueError(f"{segment.file!r} has count {segment.count!r}, size {segment.size!r}")
    if type(segment.file) is not str or SEGMENT_NAME.fullmatch(segment.file) is None:
        raise ValueError(f"{segment.file!r} is not the name of a segment")
    if segment.day is not None and type(segment.day) is not int:
        raise ValueError(f"{segment.file}: day {segment.day!r}")
    if segment.camera is not None and type(segment.camera) is not str:
        raise ValueError(f"{segment.file}: camera {segment.camera!r}")


def _check_old(segments: tuple[OldSegment, ...], with_attributes: bool) -> None:
    names = [name for segment in segments for name in segment.files.values()]
    if not all(is_plain_name(name) for name in names) or any(s.count < 0 for s in segments):
        raise ValueError("segments must have plain numbers")
    if any(bool(s.attributes_sha256) != with_attributes for s in segments):
        raise ValueError("either all segments have attributes or none has")


def split_groups(columns: Columns) -> dict[Group, Indices]:
    """The rows of each day and camera; those without a time or a camera belong to the group None."""
    with np.errstate(invalid="ignore"):
        days = np.floor(columns.time_s / DAY_S)
    dated = (days >= FIRST_DAY) & (days <= LAST_DAY) & (columns.camera != UNKNOWN)
    groups: dict[Group, Indices] = {}
    if not dated.all():
        groups[None] = np.flatnonzero(~dated)
    rows = np.flatnonzero(dated)
    if len(rows):
        pairs = np.stack([days[rows].astype(np.int64), columns.camera[rows]], axis=1)
        keys, inverse = np.unique(pairs, axis=0, return_inverse=True)
        order = np.argsort(inverse.reshape(-1), kind="stable")
        parts = np.split(rows[order], np.cumsum(np.bincount(inverse.reshape(-1)))[:-1])
        for (day, code), part in zip(keys.tolist(), parts, strict=True):
            groups[day, columns.cameras[code]] = part
    return groups


def name_segment(group: Group, number: int) -> str:
    """The file name of a segment. A camera that is no plain name is written as a digest."""
    if group is None:
        return f"{UNDATED}_{number:06d}.safetensors"
    day, camera = group
    if not is_plain_name(camera) or len(camera) > 64:
        camera = f"camera-{blake2b(camera.encode('utf-8', 'surrogatepass'), digest_size=8).hexdigest()}"
    return f"{date.fromordinal(day - FIRST_DAY + 1).isoformat()}_{camera}_{number:06d}.safetensors"


def write_segment(folder: Path, number: int, group: Group, rows: Rows) -> Segment:
    """Write the file of one segment. It is renamed into place when it is complete."""
    name = name_segment(group, number)
    write_rows(folder / name, rows)
    day, camera = group or (None, None)
    return Segment(name, len(rows), (folder / name).stat().st_size, sha256_file(folder / name), day, camera)


def sweep(folder: Path, manifest: Manifest) -> None:
    """Delete files that the manifest does not name: replaced segments, and leftovers of interrupted writes."""
    named = manifest.files
    for path in list(folder.iterdir()):
        ours = SEGMENT_NAME.fullmatch(path.name) or OLD_NAME.fullmatch(path.name)
        if path.name not in named and (ours or path.name.startswith(TEMPORARY_PREFIX)):
            path.unlink(missing_ok=True)


def sweep_if_free(folder: Path) -> None:
    """``sweep``, unless another process is writing or the folder is read-only.

    What a crashed ``remove`` left behind must not stay.
    """
    if not (folder / MANIFEST).is_file():
        return
    try:
        with FileLock(folder / LOCK, timeout=0):
            sweep(folder, read_manifest(folder))
    except (Timeout, OSError):
        return
