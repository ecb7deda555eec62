"""The files of a gallery: the manifest, and the segments that it lists. ``gallery_folder.py`` shows the layout.

Shapes: N items, D embedding, A attributes.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from osnet.errors import GalleryError, OutputError
from osnet.features.array_files import read_array
from osnet.files import TEMPORARY_PREFIX, check_fields, is_plain_name, sha256_file, write_json, written_aside
from osnet.gallery.stamps import FileStamp
from osnet.types import Item

FORMAT = "osnet-gallery-1"
MANIFEST = "gallery.json"
LOCK = ".lock"

Floats = NDArray[np.float32]


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
    """Rows that were written together, in files of their own."""

    number: int
    count: int
    vectors_sha256: str
    items_sha256: str
    attributes_sha256: str = ""
    """Empty in a gallery without attributes."""

    @property
    def files(self) -> dict[str, str]:
        """File names by kind: vectors, items, and attributes if there are any."""
        names = {"vectors": f"vectors-{self.number:06d}.npy", "items": f"items-{self.number:06d}.jsonl"}
        if self.attributes_sha256:
            names["attributes"] = f"attributes-{self.number:06d}.npy"
        return names


@dataclass(frozen=True)
class Manifest:
    """The content of ``gallery.json``: weights, embedding size, attributes, and the list of segments."""

    weights_sha256: str
    weights_name: str
    embedding_size: int
    next_segment: int = 1
    segments: tuple[Segment, ...] = ()
    attributes: tuple[StoredAttribute, ...] = ()


@dataclass(frozen=True)
class Rows:
    """The content of segments."""

    vectors: Floats
    """(N, D), of length 1."""
    items: list[Item]
    probabilities: Floats
    """(N, A); A is 0 in a gallery without attributes."""
    stamps: list[FileStamp | None]
    """N stamps of the files from before they were embedded; None where unknown."""

    def take(self, keep: NDArray[np.bool_]) -> "Rows":
        """The rows where ``keep`` (N,) is true."""
        kept = np.flatnonzero(keep)
        items, stamps = [self.items[i] for i in kept], [self.stamps[i] for i in kept]
        return Rows(self.vectors[keep], items, self.probabilities[keep], stamps)


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
    """Replace ``gallery.json``. Without attributes it has the form of versions that knew none."""
    content: dict[str, Any] = {"format": FORMAT, **asdict(manifest)}
    if not manifest.attributes:
        del content["attributes"]
        for segment in content["segments"]:
            del segment["attributes_sha256"]
    write_json(folder / MANIFEST, content)


def read_manifest(folder: Path) -> Manifest:
    """Read ``gallery.json``.

    Raises:
        GalleryError: it is missing or damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise GalleryError(f"{folder} is not a gallery: it has no {MANIFEST}; make one with `osnet index`")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise GalleryError(f"{path} has another format; this version reads {FORMAT!r}")
        segments = tuple(Segment(**segment) for segment in content.pop("segments"))
        attributes = tuple(StoredAttribute(**attribute) for attribute in content.pop("attributes", ()))
        manifest = Manifest(**content, segments=segments, attributes=attributes)
        check_fields(manifest)
        names = [name for s in segments for name in s.files.values()]
        if not all(is_plain_name(name) for name in names) or any(s.count < 0 for s in segments):
            raise ValueError("segments must have plain numbers")
        if any(bool(s.attributes_sha256) != bool(attributes) for s in segments):
            raise ValueError("either all segments have attributes or none has")
    except GalleryError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise GalleryError(f"{path} is damaged: {error!r}") from error
    return manifest


def _line(item: Item, stamp: FileStamp | None) -> str:
    """A line of the items file. Older versions write none of ``file``, and ignore it."""
    return json.dumps(asdict(item) | ({"file": asdict(stamp)} if stamp else {}), allow_nan=False) + "\n"


def write_segment(folder: Path, number: int, rows: Rows) -> Segment:
    """Write the files of one segment. Each is renamed into place when it is complete."""
    has_attributes = rows.probabilities.shape[1] > 0
    segment = Segment(number, len(rows.items), "", "", "to come" if has_attributes else "")
    arrays = {"vectors": rows.vectors} | ({"attributes": rows.probabilities} if has_attributes else {})
    for kind, array in arrays.items():
        with written_aside(folder / segment.files[kind]) as aside, aside.open("wb") as file:
            np.save(file, array, allow_pickle=False)
    with written_aside(folder / segment.files["items"]) as aside, aside.open("w", encoding="utf-8") as text:
        text.writelines(map(_line, rows.items, rows.stamps))
    digests = {f"{kind}_sha256": sha256_file(folder / name) for kind, name in segment.files.items()}
    return replace(segment, **digests)  # type: ignore[arg-type]


def read_segment(folder: Path, segment: Segment, embedding_size: int, num_attributes: int) -> Rows:
    """Read one segment.

    Raises:
        GalleryError: a file is damaged.
        FileNotFoundError: a file is missing, because another process replaced the segment meanwhile.
    """
    for kind, name in segment.files.items():
        if sha256_file(folder / name) != getattr(segment, f"{kind}_sha256"):
            raise GalleryError(f"{folder / name} is damaged: its SHA-256 is not the one in {MANIFEST}")
    path = folder / segment.files["vectors"]
    try:
        vectors = read_array(path)
        known = {field.name for field in fields(Item)}
        with (folder / segment.files["items"]).open(encoding="utf-8") as file:
            lines = [json.loads(line) for line in file]
        items = [Item(**{k: v for k, v in line.items() if k in known}) for line in lines]
        stamps = [FileStamp.read(line.get("file")) for line in lines]
        probabilities = np.empty((len(items), 0), dtype=np.float32)
        if num_attributes:
            probabilities = read_array(folder / segment.files["attributes"])
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise GalleryError(f"{path} or {segment.files['items']} cannot be read: {error}") from error
    wanted = ((vectors, embedding_size), (probabilities, num_attributes))
    right = all(a.dtype == np.float32 and a.shape == (segment.count, size) for a, size in wanted)
    if not right or len(items) != segment.count:
        raise GalleryError(f"the files of {path.name} do not hold the {segment.count} rows that {MANIFEST} lists")
    return Rows(vectors, items, probabilities, stamps)


def sweep(folder: Path, manifest: Manifest) -> None:
    """Delete files that the manifest does not name: replaced segments, and leftovers of interrupted writes."""
    named = {name for segment in manifest.segments for name in segment.files.values()}
    ours = re.compile(rf"(vectors|attributes)-\d{{6,}}\.npy|items-\d{{6,}}\.jsonl|{re.escape(TEMPORARY_PREFIX)}.*")
    for path in list(folder.iterdir()):
        if path.name not in named and ours.fullmatch(path.name):
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


def join_rows(parts: Sequence[Rows], embedding_size: int, num_attributes: int) -> Rows:
    """The rows of several segments, concatenated."""
    vectors = np.empty((0, embedding_size), dtype=np.float32)
    probabilities = np.empty((0, num_attributes), dtype=np.float32)
    return Rows(
        np.concatenate([vectors, *(part.vectors for part in parts)]),
        [item for part in parts for item in part.items],
        np.concatenate([probabilities, *(part.probabilities for part in parts)]),
        [stamp for part in parts for stamp in part.stamps],
    )
