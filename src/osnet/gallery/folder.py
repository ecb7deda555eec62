"""A gallery in a folder: exact cosine search over one float32 matrix.

    gallery/
      gallery.json            whose vectors these are, and the list of segments; written last, atomically
      vectors-000001.npy      float32 (N, D), rows of length 1
      items-000001.jsonl      one line per row: source, identity, camera, time_s
      attributes-000001.npy   float32 (N, A), probabilities, if the weights say attributes
      weights/                a copy of the weights, if an embedder made the gallery

Adding writes one more segment; nothing that is there is touched. Removing writes the segments anew
without the removed rows and deletes the old files. A file that ``gallery.json`` does not name does not
count, and the next writer deletes it, so a crash leaves the state before or the state after.
Shapes: N items, D embedding, A attributes.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import ArrayLike

from osnet.errors import GalleryError
from osnet.files import make_folder
from osnet.gallery.described import Described, choose_columns, find_fitting, stored_attributes
from osnet.gallery.protocol import Where
from osnet.gallery.segments import (
    LOCK,
    MANIFEST,
    Floats,
    Manifest,
    Rows,
    StoredAttribute,
    join_rows,
    read_manifest,
    read_segment,
    sweep,
    sweep_if_free,
    write_manifest,
    write_segment,
)
from osnet.inference.attributes import AttributePredictor, match_score
from osnet.inference.embedder import Embedder
from osnet.models.card import CARD_FILE, Card
from osnet.models.weights import save_weights
from osnet.types import Hit, Item

WEIGHTS = "weights"
"""A copy of the weights whose vectors these are, as a checkpoint folder."""
LOCK_TIMEOUT_S = 10.0
MAX_SEGMENTS = 32
"""With more, adding merges all of them into one."""


class Gallery:
    """Vectors of crops on disk, searchable by photo. Implements ``VectorStore``.

    ``Gallery.for_embedder`` opens or makes one; ``create`` and ``open`` do it for vectors from elsewhere.
    Several processes may read while one writes; a second writer waits up to 10 s. An open gallery sees
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
        if (folder / MANIFEST).exists():
            raise GalleryError(f"{folder} holds a gallery already; open it instead")
        if any(path.name != LOCK for path in folder.iterdir()):
            raise GalleryError(f"{folder} is not empty; a new gallery needs a folder of its own")
        manifest = Manifest(weights_sha256, weights_name, embedding_size, attributes=tuple(attributes))
        write_manifest(folder, manifest)
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
        if (folder / MANIFEST).exists():
            gallery = cls.open(folder)
            gallery.check_weights(embedder.sha256())
            gallery.forget_attributes(card.attributes_off if card else ())
        else:
            gallery = cls.create(
                folder,
                weights_sha256=embedder.sha256(),
                embedding_size=embedder.embedding_size,
                weights_name=(card and card.name) or "unnamed",
                attributes=stored_attributes(embedder),
            )
        if not (folder / WEIGHTS / CARD_FILE).exists():
            card = replace(card or Card(embedder.network.config), preprocessing=embedder.preprocessing)
            save_weights(embedder.network, folder / WEIGHTS, card, attributes=head)
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

    def add(
        self, vectors_ND: ArrayLike, items: Sequence[Item], *, weights_sha256: str, attributes: Described | None = None
    ) -> None:
        """Store vectors (N, D) with their items, all or none; vectors are stored at length 1.

        Args:
            vectors_ND: in any length.
            items: N of them.
            weights_sha256: of the network that made the vectors.
            attributes: what an ``AttributePredictor`` said of them, from ``describe``; of it the gallery's own
                attributes are stored, no others. Needed if there are any.

        Raises:
            GalleryError: vectors of other weights, of another size, not finite or zero; as many items as
                vectors are not given; a source is there already, or twice in ``items``; or attributes are
                missing or of another head.
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
            rows = Rows(
                vectors, list(items), choose_columns(self._manifest.attributes, attributes, len(items), self.folder)
            )
            if len(self._manifest.segments) >= MAX_SEGMENTS:
                self._replace_all(self._join([*self._parts, rows]))
            elif len(items):
                segment = write_segment(self.folder, self._manifest.next_segment, rows)
                self._commit(
                    replace(
                        self._manifest,
                        segments=(*self._manifest.segments, segment),
                        next_segment=segment.number + 1,
                    )
                )
                self._parts.append(rows)

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

    def _passing(self, where: Where) -> np.ndarray:
        """(N,) bool."""
        rows = self._rows()
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
        if where.is_empty:
            raise GalleryError("remove needs a condition; to delete everything, delete the folder")
        with self._writing():
            doomed = self._passing(where)
            if doomed.any():
                self._replace_all(self._rows().take(~doomed))
            return int(doomed.sum())

    def forget_attributes(self, names: Iterable[str]) -> None:
        """Delete the probabilities of some attributes: they are in none of the gallery's files afterwards.

        Names that are not stored are passed over.
        """
        doomed = set(names)
        if not doomed & set(self.attributes):
            return
        with self._writing():
            kept = [i for i, name in enumerate(self.attributes) if name not in doomed]
            rows = self._rows()
            manifest = replace(self._manifest, attributes=tuple(self._manifest.attributes[i] for i in kept))
            probabilities = np.ascontiguousarray(rows.probabilities[:, kept])
            self._replace_all(replace(rows, probabilities=probabilities), manifest)

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
        try:
            with FileLock(self.folder / LOCK, timeout=LOCK_TIMEOUT_S):
                newest = read_manifest(self.folder)
                if newest != self._manifest:
                    self._manifest = newest
                    self._load()
                sweep(self.folder, newest)
                yield
                sweep(self.folder, self._manifest)
        except Timeout as error:
            raise GalleryError(f"another process is writing to {self.folder}; try again when it is done") from error

    def _replace_all(self, rows: Rows, manifest: Manifest | None = None) -> None:
        number = self._manifest.next_segment
        segments = (write_segment(self.folder, number, rows),) if rows.items else ()
        self._commit(replace(manifest or self._manifest, segments=segments, next_segment=number + 1))
        self._parts = [rows]

    def _commit(self, manifest: Manifest) -> None:
        write_manifest(self.folder, manifest)
        self._manifest = manifest
