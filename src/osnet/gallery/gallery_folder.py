"""A gallery in a folder: exact cosine search over one float32 matrix.

    gallery/
      gallery.json            whose vectors these are, and the list of segments; written last, atomically
      vectors-000001.npy      float32 (N, D), rows of length 1
      items-000001.jsonl      one line per row: source, identity, camera, time_s; size, times and digest of the file
      attributes-000001.npy   float32 (N, A), probabilities, if the weights say attributes
      weights/                a copy of the weights, if an embedder made the gallery

Adding writes one more segment; nothing that is there is touched. Removing writes the segments anew
without the removed rows and deletes the old files. A file that ``gallery.json`` does not name does not
count, and the next writer deletes it, so a crash leaves the state before or the state after.
Shapes: N items, D embedding, A attributes.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from osnet.embedding.attribute_predictor import AttributePredictor, match_score
from osnet.embedding.embedder import Embedder
from osnet.embedding.third_party import ThirdPartyNetwork, save_third_party
from osnet.errors import GalleryError
from osnet.files import make_folder, plain_path
from osnet.gallery.item_attributes import Described, choose_columns, find_fitting, stored_attributes
from osnet.gallery.segments import (
    MANIFEST,
    Floats,
    Manifest,
    Rows,
    StoredAttribute,
    begin,
    join_rows,
    locked,
    read_manifest,
    read_segment,
    sweep,
    sweep_if_free,
    write_manifest,
    write_segment,
)
from osnet.gallery.stamps import Added, FileStamp, Stored, is_gone, lies_below
from osnet.gallery.vector_store import Where
from osnet.types import Hit, Item
from osnet.weights.card import CARD_FILE, Card
from osnet.weights.checkpoint import save_weights

WEIGHTS = "weights"
"""A copy of the weights whose vectors these are, as a checkpoint folder."""
LOCK_TIMEOUT_S = 60.0
"""Writing one gigabyte takes seconds; a process that dies lets go at once."""
MAX_SEGMENTS = 32
"""With more, adding merges all of them into one."""


class Gallery:
    """Vectors of crops on disk, searchable by photo. Implements ``VectorStore``.

    ``Gallery.for_embedder`` opens or makes one; ``create`` and ``open`` do it for vectors from elsewhere.
    Several processes may read while one writes; a second writer waits up to a minute. An open gallery sees
    what others wrote at its own next write, or when it is opened again.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self._manifest = manifest
        self._parts: list[Rows] = []
        self._load()

    @classmethod
    def create(
        cls,
        folder: str | Path,
        *,
        weights_sha256: str,
        embedding_size: int,
        weights_name: str = "",
        attributes: Sequence[StoredAttribute] = (),
    ) -> "Gallery":
        """A new, empty gallery for vectors of one network.

        Args:
            folder: new or empty.
            weights_sha256: ``Embedder.sha256()`` of the network that makes the vectors.
            embedding_size: D.
            weights_name: for people to read.
            attributes: of which probabilities will be stored beside the vectors.

        Raises:
            GalleryError: there is something in the folder already.
            OutputError: it cannot be made or written to.
        """
        folder = make_folder(folder)
        manifest = Manifest(weights_sha256, weights_name, embedding_size, attributes=tuple(attributes))
        with locked(folder, LOCK_TIMEOUT_S):
            if (folder / MANIFEST).exists():
                raise GalleryError(f"{folder} holds a gallery already; open it instead")
            begin(folder, manifest)
        return cls(folder, manifest)

    @classmethod
    def for_embedder(cls, folder: str | Path, embedder: Embedder) -> "Gallery":
        """The gallery in ``folder``, made if there is none, for the vectors of one embedder.

        A new gallery keeps a copy of the embedder's weights in ``folder/weights``, so that it can be searched
        when the original is gone. Made for an ``AttributePredictor``, it stores the probabilities of all attributes
        that are not switched off at the card; those that are switched off later are deleted from it here.

        Raises:
            GalleryError: it holds vectors of other weights, or the folder holds something else.
        """
        folder = Path(folder)
        card = embedder.network.card
        head = embedder.head if isinstance(embedder, AttributePredictor) else None
        if not (folder / MANIFEST).exists() or not (folder / WEIGHTS / CARD_FILE).exists():
            with locked(make_folder(folder), LOCK_TIMEOUT_S):  # of several first writers one makes it
                if not (folder / MANIFEST).exists():
                    name = (card and card.name) or "unnamed"
                    stored = stored_attributes(embedder)
                    begin(folder, Manifest(embedder.sha256(), name, embedder.embedding_size, attributes=stored))
                _check_weights(folder, read_manifest(folder), embedder.sha256())
                if isinstance(embedder.network, ThirdPartyNetwork):
                    save_third_party(embedder.network, folder / WEIGHTS, embedder.preprocessing)
                elif not (folder / WEIGHTS / CARD_FILE).exists():
                    own = replace(card or Card(embedder.network.config), preprocessing=embedder.preprocessing)
                    save_weights(embedder.network, folder / WEIGHTS, own, attributes=head)
        gallery = cls.open(folder)
        gallery.check_weights(embedder.sha256())
        gallery.forget_attributes(card.attributes_off if card else ())
        return gallery

    @classmethod
    def open(cls, folder: str | Path) -> "Gallery":
        """A gallery that exists; every file is checked against its SHA-256.

        Raises:
            GalleryError: there is none, or it is damaged (the file is named).
        """
        folder = Path(folder)
        sweep_if_free(folder)
        for attempts_left in (2, 1, 0):
            try:
                return cls(folder, read_manifest(folder))
            except FileNotFoundError as error:  # another process replaced a segment meanwhile
                if not attempts_left:
                    raise GalleryError(f"{error.filename} is named by {folder / MANIFEST} but is not there") from error
        raise AssertionError("unreachable")

    def __len__(self) -> int:
        return sum(len(part.items) for part in self._parts)

    @property
    def items(self) -> tuple[Item, ...]:
        """All items, in the order in which they were added."""
        return tuple(self._rows().items)

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

    @property
    def attributes(self) -> tuple[str, ...]:
        """A names, of which probabilities are stored; none in a gallery without attributes."""
        return tuple(attribute.name for attribute in self._manifest.attributes)

    def sources(self) -> set[str]:
        """Sources of all items."""
        return {item.source for part in self._parts for item in part.items}

    def stored(self) -> dict[str, Stored]:
        """By source, each item with the stamp of its file."""
        pairs = ((item, stamp) for part in self._parts for item, stamp in zip(part.items, part.stamps, strict=True))
        return {item.source: Stored(item, stamp) for item, stamp in pairs}

    def find(self, where: Where) -> list[Item]:
        """The items that pass ``where``: what ``remove`` would delete, in the order in which they were added."""
        return [self._rows().items[i] for i in np.flatnonzero(self._passing(where))]

    def find_gone(self, below: str | Path | None = None) -> list[str]:
        """Sources whose file was there when it was embedded, and is gone now; of those below a folder, if it is given.

        Sources that are no paths of files are passed over.
        """
        folder = None if below is None else plain_path(below)
        candidates = [s for source, s in self.stored().items() if folder is None or lies_below(source, folder)]
        return [stored.item.source for stored in candidates if is_gone(stored)]

    def add(
        self,
        vectors_ND: ArrayLike,
        items: Sequence[Item],
        *,
        weights_sha256: str,
        attributes: Described | None = None,
        stamps: Sequence[FileStamp | None] | None = None,
    ) -> None:
        """Store vectors (N, D) with their items, all or none; vectors are stored at length 1.

        Args:
            vectors_ND: in any length.
            items: N of them.
            weights_sha256: of the network that made the vectors.
            attributes: what an ``AttributePredictor`` said of them, from ``describe``; of it the gallery's own
                attributes are stored, no others. Needed if there are any.
            stamps: N of them, of the files as they were before they were embedded (``FileStamp.of``); ``osnet index``
                finds by them what has changed. Without, it embeds these items again.

        Raises:
            GalleryError: vectors of other weights, of another size, not finite or zero; as many items as
                vectors are not given; a source is there already, or twice in ``items``; or attributes are
                missing or of another head.
        """
        with self._writing():
            rows = self._checked_rows(vectors_ND, items, weights_sha256, attributes, stamps)
            known = self.sources()
            if there := next((item.source for item in items if item.source in known), None):
                raise GalleryError(f"{there} is in {self.folder} already; remove it first")
            self._append(rows)

    def put(
        self,
        vectors_ND: ArrayLike,
        items: Sequence[Item],
        *,
        weights_sha256: str,
        stamps: Sequence[FileStamp | None],
        attributes: Described | None = None,
    ) -> Added:
        """As ``add``, but a source that is there already gets the new vector and item.

        A source that is there with the same digest of its file stays as it is: another process put it there.

        Raises:
            GalleryError: as ``add``, but for sources that are there.
        """
        with self._writing():
            rows = self._checked_rows(vectors_ND, items, weights_sha256, attributes, stamps)
            stored = self.stored()
            there = [stored.get(item.source) for item in items]
            same = [
                s is not None and s.stamp is not None and stamp is not None and s.stamp.sha256 == stamp.sha256
                for s, stamp in zip(there, rows.stamps, strict=True)
            ]
            rows = rows.take(~np.array(same, dtype=bool))
            doomed = {item.source for item in rows.items} & stored.keys()
            if doomed:
                kept = self._rows().take(~self._passing(Where(sources=frozenset(doomed))))
                self._replace_all(self._join([kept, rows]))
            else:
                self._append(rows)
            return Added(len(rows.items) - len(doomed), len(doomed), sum(same))

    def relabel(self, items: Sequence[Item], stamps: Mapping[str, FileStamp] | None = None) -> None:
        """Change identity, camera and time of items that are there, by their sources; vectors stay.

        Args:
            items: as they are to be; sources that are not there are passed over.
            stamps: by source, of files with the same content as before but other times.
        """
        with self._writing():
            new, stamps = {item.source: item for item in items}, stamps or {}
            rows = self._rows()
            relabelled = [new.get(item.source, item) for item in rows.items]
            restamped = [stamps.get(item.source, old) for item, old in zip(rows.items, rows.stamps, strict=True)]
            if (relabelled, restamped) != (rows.items, rows.stamps):
                self._replace_all(replace(rows, items=relabelled, stamps=restamped))

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
            DataError: ``where`` asks for attributes that are not stored.
        """
        self.check_weights(weights_sha256)
        query = np.asarray(vector_D, dtype=np.float32)
        if query.ndim == 2 and len(query) != 1:
            raise GalleryError(f"one vector is searched for at a time; this has shape {query.shape}")
        unit = self._unit_rows(query.reshape(1, -1))[0]
        return self._best(np.clip(self._rows().vectors @ unit, -1, 1), top, where)

    def search_attributes(
        self, having: Sequence[str], lacking: Sequence[str] = (), *, top: int = 10, where: Where | None = None
    ) -> list[Hit]:
        """The items that fit a description best; equal scores in the order in which they were added.

        The score is the geometric mean of the probabilities that each attribute holds, or does not: in [0, 1].

        Args:
            having: attributes that hold.
            lacking: attributes that do not.
            top: at most so many hits, at least 1.
            where: only among these; with its ``having`` and ``lacking`` only what is said to fit is listed at all.

        Raises:
            DataError: nothing is asked for, or attributes that are not stored.
        """
        scores = match_score(self._rows().probabilities, self.attributes, having, lacking)
        return self._best(scores, top, where)

    def _best(self, scores: Floats, top: int, where: Where | None) -> list[Hit]:
        if top < 1:
            raise GalleryError(f"top {top} must be at least 1")
        rows = np.arange(len(scores))
        if where is not None and not where.is_empty:
            rows = np.flatnonzero(self._passing(where))
        chosen = scores[rows]
        if len(rows) > top:
            threshold = np.partition(chosen, len(rows) - top)[len(rows) - top]
            rows = rows[chosen >= threshold]
            chosen = scores[rows]
        order = np.argsort(-chosen, kind="stable")[:top]
        return [self._hit(rank, float(chosen[i]), int(rows[i])) for rank, i in enumerate(order, start=1)]

    def _hit(self, rank: int, score: float, row: int) -> Hit:
        rows = self._rows()
        said = dict(zip(self.attributes, rows.probabilities[row].tolist(), strict=True)) if self.attributes else None
        return Hit(rank, score, rows.items[row], said)

    def _passing(self, where: Where) -> NDArray[np.bool_]:
        """(N,) bool."""
        rows = self._rows()
        where = where.settle(self.sources()) if where.source is not None else where
        passing = np.array([where.matches(item) for item in rows.items], dtype=bool)
        return passing & find_fitting(self._manifest.attributes, rows.probabilities, where)

    def remove(self, where: Where) -> int:
        """Delete what passes ``where``: its bytes are in none of the gallery's files afterwards.

        (What the disk itself keeps of deleted files, and copies elsewhere, are beyond this package.)

        Returns:
            How many items that were.

        Raises:
            GalleryError: ``where`` is empty, so it would delete everything; delete the folder instead.
        """
        self.check_removal(where)
        with self._writing():
            return self._delete(self._passing(where))

    @staticmethod
    def check_removal(where: Where) -> None:
        """Refuse what would delete everything. Raises GalleryError if ``where`` is empty."""
        if where.is_empty:
            raise GalleryError("remove needs a condition; to delete everything, delete the folder")

    def forget_attributes(self, names: Iterable[str]) -> None:
        """Delete the probabilities of some attributes: they are in none of the gallery's files afterwards.

        Names that are not stored are passed over.
        """
        doomed = set(names)
        if not doomed & {attribute.name for attribute in read_manifest(self.folder).attributes}:
            return
        with self._writing():
            kept = [i for i, name in enumerate(self.attributes) if name not in doomed]
            rows = self._rows()
            manifest = replace(self._manifest, attributes=tuple(self._manifest.attributes[i] for i in kept))
            probabilities = np.ascontiguousarray(rows.probabilities[:, kept])
            self._replace_all(replace(rows, probabilities=probabilities), manifest)

    def prune(self, below: str | Path | None = None) -> int:
        """Delete for good what ``find_gone`` finds; how many items that were."""
        with self._writing():
            return self._delete(self._passing(Where(sources=frozenset(self.find_gone(below)))))

    def _delete(self, doomed: NDArray[np.bool_]) -> int:
        if doomed.any():
            self._replace_all(self._rows().take(~doomed))
        return int(doomed.sum())

    def check_weights(self, weights_sha256: str) -> None:
        """Refuse vectors of other weights before they are made.

        Raises:
            GalleryError: ``weights_sha256`` is not the one whose vectors are stored.
        """
        _check_weights(self.folder, self._manifest, weights_sha256)

    def _checked_rows(
        self,
        vectors: ArrayLike,
        items: Sequence[Item],
        weights_sha256: str,
        attributes: Described | None,
        stamps: Sequence[FileStamp | None] | None,
    ) -> Rows:
        """What is to be written, checked against the gallery as it is now: call it under the lock."""
        self.check_weights(weights_sha256)
        unit = self._unit_rows(vectors)
        if len(unit) != len(items) or (stamps is not None and len(stamps) != len(items)):
            given = "" if stamps is None else f", {len(stamps)} stamps"
            raise GalleryError(f"{len(unit)} vectors but {len(items)} items{given}")
        counted = Counter(item.source for item in items)
        if twice := next((source for source, count in counted.items() if count > 1), None):
            raise GalleryError(f"{twice} is in the new items twice; each source has one item")
        columns = choose_columns(self._manifest.attributes, attributes, len(items), self.folder)
        return Rows(unit, list(items), columns, list(stamps) if stamps is not None else [None] * len(items))

    def _append(self, rows: Rows) -> None:
        if len(self._manifest.segments) >= MAX_SEGMENTS:
            self._replace_all(self._join([*self._parts, rows]))
        elif rows.items:
            number = self._manifest.next_segment
            segments = (*self._manifest.segments, write_segment(self.folder, number, rows))
            self._commit(replace(self._manifest, segments=segments, next_segment=number + 1))
            self._parts.append(rows)

    def _unit_rows(self, vectors: ArrayLike) -> Floats:
        array = np.asarray(vectors, dtype=np.float32)
        if array.ndim != 2 or array.shape[1] != self.embedding_size:
            raise GalleryError(f"vectors of shape {array.shape}; this gallery holds (N, {self.embedding_size})")
        lengths = np.linalg.norm(array, axis=1, keepdims=True)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise GalleryError(f"vector {int(np.argmin(np.isfinite(lengths) & (lengths > 0)))} is zero or not finite")
        return array / lengths

    def _join(self, parts: Sequence[Rows]) -> Rows:
        return join_rows(parts, self.embedding_size, len(self._manifest.attributes))

    def _rows(self) -> Rows:
        """All rows, as one piece."""
        if len(self._parts) != 1:
            self._parts = [self._join(self._parts)]
        return self._parts[0]

    def _load(self) -> None:
        size, num_attributes = self.embedding_size, len(self._manifest.attributes)
        self._parts = [read_segment(self.folder, s, size, num_attributes) for s in self._manifest.segments]

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Alone, on the newest state, in a folder without leftovers; what was replaced is deleted at the end."""
        with locked(self.folder, LOCK_TIMEOUT_S):
            newest = read_manifest(self.folder)
            if newest != self._manifest:
                self._manifest = newest
                self._load()
            sweep(self.folder, newest)
            yield
            sweep(self.folder, self._manifest)

    def _replace_all(self, rows: Rows, manifest: Manifest | None = None) -> None:
        number = self._manifest.next_segment
        segments = (write_segment(self.folder, number, rows),) if rows.items else ()
        self._commit(replace(manifest or self._manifest, segments=segments, next_segment=number + 1))
        self._parts = [rows]

    def _commit(self, manifest: Manifest) -> None:
        write_manifest(self.folder, manifest)
        self._manifest = manifest


def _check_weights(folder: Path, manifest: Manifest, weights_sha256: str) -> None:
    if weights_sha256 != manifest.weights_sha256:
        raise GalleryError(
            f"{folder} holds vectors of the weights {manifest.weights_sha256[:12]} ({manifest.weights_name}); these "
            f"are of {weights_sha256[:12]} and cannot be compared with them. Use the same weights, or index into a new "
            "gallery"
        )
