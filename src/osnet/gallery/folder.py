"""A gallery in a folder: exact cosine search over one float32 matrix.

    gallery/
      gallery.json            whose vectors these are, and the list of segments; written last, atomically
      vectors-000001.npy      float32 (N, D), rows of length 1
      items-000001.jsonl      one line per row: source, identity, camera, time_s
      weights/                a copy of the weights, if an embedder made the gallery

Adding writes one more segment; nothing that is there is touched. Removing writes the segments anew
without the removed rows and deletes the old files. A file that ``gallery.json`` does not name does not
count, and the next writer deletes it, so a crash leaves the state before or the state after.
Shapes: N items, D embedding.
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
from numpy.typing import ArrayLike, NDArray

from osnet.errors import GalleryError
from osnet.files import TEMPORARY_PREFIX, is_plain_name, make_folder, sha256_file, write_json, written_aside
from osnet.gallery.protocol import Where
from osnet.inference.embedder import Embedder
from osnet.models.card import CARD_FILE, Card
from osnet.models.weights import save_weights
from osnet.types import Hit, Item

FORMAT = "osnet-gallery-1"
MANIFEST = "gallery.json"
WEIGHTS = "weights"
"""A copy of the weights whose vectors these are, as a checkpoint folder."""
LOCK = ".lock"
LOCK_TIMEOUT_S = 10.0
MAX_SEGMENTS = 32
"""With more, adding merges all of them into one."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class _Segment:
    number: int
    count: int
    vectors_sha256: str
    items_sha256: str

    @property
    def vectors_file(self) -> str:
        return f"vectors-{self.number:06d}.npy"

    @property
    def items_file(self) -> str:
        return f"items-{self.number:06d}.jsonl"


@dataclass(frozen=True)
class _Manifest:
    weights_sha256: str
    weights_name: str
    embedding_size: int
    next_segment: int = 1
    segments: tuple[_Segment, ...] = ()


class Gallery:
    """Vectors of crops on disk, searchable by photo. Implements ``VectorStore``.

    ``Gallery.for_embedder`` opens or makes one; ``create`` and ``open`` do it for vectors from elsewhere.
    Several processes may read while one writes; a second writer waits up to 10 s. An open gallery sees
    what others wrote at its own next write, or when it is opened again.
    """

    def __init__(self, folder: Path, manifest: _Manifest) -> None:
        self.folder = folder
        self._manifest = manifest
        self._items: list[Item] = []
        self._chunks: list[Floats] = []
        self._load()

    @classmethod
    def create(
        cls, folder: str | Path, *, weights_sha256: str, embedding_size: int, weights_name: str = ""
    ) -> "Gallery":
        """A new, empty gallery for vectors of one network.

        Args:
            folder: new or empty.
            weights_sha256: ``Embedder.sha256()`` of the network that makes the vectors.
            embedding_size: D.
            weights_name: for people to read.

        Raises:
            GalleryError: there is something in the folder already.
            OutputError: it cannot be made or written to.
        """
        folder = make_folder(folder)
        if (folder / MANIFEST).exists():
            raise GalleryError(f"{folder} holds a gallery already; open it instead")
        if any(path.name != LOCK for path in folder.iterdir()):
            raise GalleryError(f"{folder} is not empty; a new gallery needs a folder of its own")
        manifest = _Manifest(weights_sha256, weights_name, embedding_size)
        _write_manifest(folder, manifest)
        return cls(folder, manifest)

    @classmethod
    def for_embedder(cls, folder: str | Path, embedder: Embedder) -> "Gallery":
        """The gallery in ``folder``, made if there is none, for the vectors of one embedder.

        A new gallery keeps a copy of the embedder's weights in ``folder/weights``, so that it can be searched
        when the original is gone.

        Raises:
            GalleryError: it holds vectors of other weights, or the folder holds something else.
        """
        folder = Path(folder)
        card = embedder.network.card
        if (folder / MANIFEST).exists():
            gallery = cls.open(folder)
            gallery.check_weights(embedder.sha256())
        else:
            gallery = cls.create(
                folder,
                weights_sha256=embedder.sha256(),
                embedding_size=embedder.embedding_size,
                weights_name=(card and card.name) or "unnamed",
            )
        if not (folder / WEIGHTS / CARD_FILE).exists():
            card = replace(card or Card(embedder.network.config), preprocessing=embedder.preprocessing)
            save_weights(embedder.network, folder / WEIGHTS, card)
        return gallery

    @classmethod
    def open(cls, folder: str | Path) -> "Gallery":
        """A gallery that exists; every file is checked against its SHA-256.

        Raises:
            GalleryError: there is none, or it is damaged (the file is named).
        """
        folder = Path(folder)
        _sweep_if_free(folder)
        for attempts_left in (2, 1, 0):
            try:
                return cls(folder, _read_manifest(folder))
            except FileNotFoundError as error:  # another process replaced a segment meanwhile
                if not attempts_left:
                    raise GalleryError(f"{error.filename} is named by {folder / MANIFEST} but is not there") from error
        raise AssertionError("unreachable")

    def __len__(self) -> int:
        return len(self._items)

    @property
    def items(self) -> tuple[Item, ...]:
        """All items, in the order in which they were added."""
        return tuple(self._items)

    @property
    def weights_sha256(self) -> str:
        """Whose vectors are stored."""
        return self._manifest.weights_sha256

    @property
    def weights_name(self) -> str:
        """The name that was given for them."""
        return self._manifest.weights_name

    @property
    def embedding_size(self) -> int:
        """D."""
        return self._manifest.embedding_size

    def sources(self) -> set[str]:
        """Sources of all items."""
        return {item.source for item in self._items}

    def add(self, vectors_ND: ArrayLike, items: Sequence[Item], *, weights_sha256: str) -> None:
        """Store vectors (N, D) with their items, all or none; vectors are stored at length 1.

        Raises:
            GalleryError: vectors of other weights, of another size, not finite or zero; as many items as
                vectors are not given; or a source is there already, or twice in ``items``.
        """
        self.check_weights(weights_sha256)
        vectors = self._unit_rows(vectors_ND)
        if len(vectors) != len(items):
            raise GalleryError(f"{len(vectors)} vectors but {len(items)} items")
        with self._writing():
            known = self.sources()
            for item in items:
                if item.source in known:
                    raise GalleryError(f"{item.source} is in {self.folder} already; remove it first")
                known.add(item.source)
            if len(self._manifest.segments) >= MAX_SEGMENTS:
                self._replace_all(np.concatenate([self._matrix(), vectors]), [*self._items, *items])
            elif len(items):
                segment = self._write_segment(self._manifest.next_segment, vectors, items)
                self._commit((*self._manifest.segments, segment), segment.number + 1)
                self._items.extend(items)
                self._chunks.append(vectors)

    def search(
        self, vector_D: ArrayLike, *, weights_sha256: str, top: int = 10, where: Where | None = None
    ) -> list[Hit]:
        """The most similar items, best first; equal scores in the order in which they were added.

        Args:
            vector_D: (D,) or (1, D), as ``Embedder.embed`` gives it for one photo.
            weights_sha256: of the network that made it.
            top: at most so many hits, at least 1.
            where: only among these.

        Raises:
            GalleryError: a vector of other weights, of another size, or without direction.
        """
        self.check_weights(weights_sha256)
        if top < 1:
            raise GalleryError(f"top {top} must be at least 1")
        query = np.asarray(vector_D, dtype=np.float32)
        if query.ndim == 2 and len(query) != 1:
            raise GalleryError(f"one vector is searched for at a time; this has shape {query.shape}")
        unit = self._unit_rows(query.reshape(1, -1))[0]
        scores = self._matrix() @ unit
        rows = np.arange(len(scores))
        if where is not None and not where.is_empty:
            rows = np.array([i for i, item in enumerate(self._items) if where.matches(item)], dtype=np.int64)
        chosen = scores[rows]
        if len(rows) > top:
            threshold = np.partition(chosen, len(rows) - top)[len(rows) - top]
            rows = rows[chosen >= threshold]
            chosen = scores[rows]
        order = np.argsort(-chosen, kind="stable")[:top]
        return [
            Hit(rank, float(np.clip(chosen[i], -1, 1)), self._items[rows[i]]) for rank, i in enumerate(order, start=1)
        ]

    def remove(self, where: Where) -> int:
        """Delete what passes ``where``: its bytes are in none of the gallery's files afterwards.

        (What the disk itself keeps of deleted files, and copies elsewhere, are beyond this package.)

        Returns:
            How many items that were.

        Raises:
            GalleryError: ``where`` is empty, so it would delete everything; delete the folder instead.
        """
        if where.is_empty:
            raise GalleryError("remove needs a condition; to delete everything, delete the folder")
        with self._writing():
            doomed = np.array([where.matches(item) for item in self._items], dtype=bool)
            if doomed.any():
                items = [item for item, gone in zip(self._items, doomed, strict=True) if not gone]
                self._replace_all(self._matrix()[~doomed], items)
            return int(doomed.sum())

    def check_weights(self, weights_sha256: str) -> None:
        """Refuse vectors of other weights before they are made.

        Raises:
            GalleryError: ``weights_sha256`` is not the one whose vectors are stored.
        """
        if weights_sha256 != self.weights_sha256:
            raise GalleryError(
                f"{self.folder} holds vectors of the weights {self.weights_sha256[:12]} ({self.weights_name}); "
                f"these are of {weights_sha256[:12]} and cannot be compared with them. Use the same weights, or "
                "index into a new gallery"
            )

    def _unit_rows(self, vectors: ArrayLike) -> Floats:
        array = np.asarray(vectors, dtype=np.float32)
        if array.ndim != 2 or array.shape[1] != self.embedding_size:
            raise GalleryError(f"vectors of shape {array.shape}; this gallery holds (N, {self.embedding_size})")
        lengths = np.linalg.norm(array, axis=1, keepdims=True)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise GalleryError(f"vector {int(np.argmin(np.isfinite(lengths) & (lengths > 0)))} is zero or not finite")
        return array / lengths

    def _matrix(self) -> Floats:
        if len(self._chunks) != 1:
            empty = np.empty((0, self.embedding_size), dtype=np.float32)
            self._chunks = [np.concatenate([empty, *self._chunks])]
        return self._chunks[0]

    def _load(self) -> None:
        items: list[Item] = []
        chunks: list[Floats] = []
        for segment in self._manifest.segments:
            vectors, rows = _read_segment(self.folder, segment, self.embedding_size)
            chunks.append(vectors)
            items += rows
        self._items, self._chunks = items, chunks

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Alone, on the newest state, in a folder without leftovers; what was replaced is deleted at the end."""
        try:
            with FileLock(self.folder / LOCK, timeout=LOCK_TIMEOUT_S):
                newest = _read_manifest(self.folder)
                if newest != self._manifest:
                    self._manifest = newest
                    self._load()
                _sweep(self.folder, newest)
                yield
                _sweep(self.folder, self._manifest)
        except Timeout as error:
            raise GalleryError(f"another process is writing to {self.folder}; try again when it is done") from error

    def _write_segment(self, number: int, vectors: Floats, items: Sequence[Item]) -> _Segment:
        segment = _Segment(number, len(items), "", "")
        with written_aside(self.folder / segment.vectors_file) as aside, aside.open("wb") as file:
            np.save(file, vectors, allow_pickle=False)
        with (
            written_aside(self.folder / segment.items_file) as aside,
            aside.open("w", encoding="utf-8") as text,
        ):
            text.writelines(json.dumps(asdict(item), allow_nan=False) + "\n" for item in items)
        return replace(
            segment,
            vectors_sha256=sha256_file(self.folder / segment.vectors_file),
            items_sha256=sha256_file(self.folder / segment.items_file),
        )

    def _replace_all(self, vectors: Floats, items: list[Item]) -> None:
        number = self._manifest.next_segment
        segments = (self._write_segment(number, vectors, items),) if items else ()
        self._commit(segments, number + 1)
        self._items, self._chunks = items, [vectors]

    def _commit(self, segments: tuple[_Segment, ...], next_segment: int) -> None:
        manifest = replace(self._manifest, segments=segments, next_segment=next_segment)
        _write_manifest(self.folder, manifest)
        self._manifest = manifest


def _write_manifest(folder: Path, manifest: _Manifest) -> None:
    write_json(folder / MANIFEST, {"format": FORMAT, **asdict(manifest)})


def _read_manifest(folder: Path) -> _Manifest:
    path = folder / MANIFEST
    if not path.is_file():
        raise GalleryError(f"{folder} is no gallery: it holds no {MANIFEST}; make one with `osnet index`")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise GalleryError(f"{path} has another format; this version reads {FORMAT!r}")
        segments = tuple(_Segment(**segment) for segment in content.pop("segments"))
        manifest = _Manifest(**content, segments=segments)
        if not all(is_plain_name(s.vectors_file) and s.count >= 0 for s in segments):
            raise ValueError("segments must have plain numbers")
    except GalleryError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise GalleryError(f"{path} is damaged: {error!r}") from error
    return manifest


def _read_segment(folder: Path, segment: _Segment, embedding_size: int) -> tuple[Floats, list[Item]]:
    vectors_path, items_path = folder / segment.vectors_file, folder / segment.items_file
    for path, digest in ((vectors_path, segment.vectors_sha256), (items_path, segment.items_sha256)):
        if sha256_file(path) != digest:
            raise GalleryError(f"{path} is damaged: its SHA-256 is not the one in {MANIFEST}")
    try:
        vectors = np.load(vectors_path, allow_pickle=False)
        names = {field.name for field in fields(Item)}
        with items_path.open(encoding="utf-8") as file:
            items = [Item(**{k: v for k, v in json.loads(line).items() if k in names}) for line in file]
    except (ValueError, TypeError) as error:
        raise GalleryError(f"{vectors_path} or {items_path.name} cannot be read: {error}") from error
    if vectors.dtype != np.float32 or vectors.shape != (segment.count, embedding_size) or len(items) != segment.count:
        raise GalleryError(f"{vectors_path} and {items_path.name} do not hold the {segment.count} rows they should")
    return vectors, items


def _sweep(folder: Path, manifest: _Manifest) -> None:
    """Delete what no manifest names: replaced segments, and leftovers of a write that was cut off."""
    named = {name for segment in manifest.segments for name in (segment.vectors_file, segment.items_file)}
    ours = re.compile(rf"vectors-\d{{6,}}\.npy|items-\d{{6,}}\.jsonl|{re.escape(TEMPORARY_PREFIX)}.*")
    for path in list(folder.iterdir()):
        if path.name not in named and ours.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _sweep_if_free(folder: Path) -> None:
    """Sweep if nobody is writing and we may: what a crashed ``remove`` left behind must not stay."""
    if not (folder / MANIFEST).is_file():
        return
    try:
        with FileLock(folder / LOCK, timeout=0):
            _sweep(folder, _read_manifest(folder))
    except (Timeout, OSError):
        return
