"""A gallery in a folder: exact cosine search over one float32 matrix.

    gallery/
      gallery.json            the weights' digest and the list of segments; written last, atomically
      vectors-000001.npy      float32 (N, D), rows of length 1
      items-000001.jsonl      one line per row: source, identity, camera, time_s; size, times and digest of the file
      attributes-000001.npy   float32 (N, A), probabilities, if the weights have an attribute head
      weights/                a copy of the weights, if the gallery was made with an embedder

Adding writes one more segment and leaves the others as they are. Removing writes the segments anew without the
removed rows and deletes the old files. A file that ``gallery.json`` does not name does not count, and the next
writer deletes it. So a crash leaves the state before or the state after.
Shapes: N items, D embedding, A attributes.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from osnet.embedding.attribute_predictor import AttributePredictor
from osnet.embedding.embedder import Embedder, OnError
from osnet.embedding.third_party import ThirdPartyNetwork, save_third_party
from osnet.errors import GalleryError
from osnet.files import make_folder, plain_path
from osnet.gallery.indexing import Indexed, index_files, list_items
from osnet.gallery.item_attributes import AttributeProbabilities, choose_columns, stored_attributes
from osnet.gallery.search import SearchableRows, check_same_weights
from osnet.gallery.segments import (
    MANIFEST,
    Manifest,
    Rows,
    StoredAttribute,
    begin,
    locked,
    read_manifest,
    sweep_if_free,
)
from osnet.gallery.stamps import Added, FileStamp, Stored, is_gone, lies_below
from osnet.gallery.stored_rows import LOCK_TIMEOUT_S
from osnet.gallery.vector_store import Where
from osnet.progress import Progress, no_progress
from osnet.types import Item
from osnet.weights.card import CARD_FILE, Card
from osnet.weights.checkpoint import save_weights

WEIGHTS = "weights"
"""A copy of the weights that made the embeddings, as a checkpoint folder."""


class Gallery(SearchableRows):
    """Embeddings of crops on disk, searchable by image. Implements ``VectorStore``.

    >>> gallery = Gallery.open("gallery", Embedder("osnet_x0_25_msmt17"))   # made if there is none
    >>> gallery.add("crops")                                 # a folder, paths, items or crops
    >>> hits = gallery.search("photo.jpg", top=5)

    Embeddings made elsewhere go through ``add_embeddings`` and ``search_embedding``, which take the digest of the
    weights that made them: embeddings of different weights cannot be compared.

    Several processes may read while one writes; a second writer waits up to a minute. An open gallery sees
    what others wrote at its own next write, or when it is opened again.
    """

    @classmethod
    def open(cls, folder: str | Path, embedder: Embedder | None = None) -> "Gallery":
        """The gallery in ``folder``. With an embedder, it is made if there is none.

        A new gallery keeps a copy of the embedder's weights in ``folder/weights``, so that it can be searched when the
        original is gone. Made with an ``AttributePredictor``, it stores the probabilities of all attributes that the
        card has not switched off. Attributes that are switched off later are deleted from the gallery here.

        Args:
            folder: of the gallery.
            embedder: needed by ``add``, ``search`` and ``search_many``; not by the methods that take embeddings.

        Raises:
            GalleryError: there is no gallery (without ``embedder``); it is damaged (the file is named: every file is
                checked against its SHA-256); it stores embeddings of other weights; or the folder holds something else.
            OutputError: the folder cannot be made or written to.
        """
        folder = Path(folder)
        if embedder is not None:
            _make_if_missing(folder, embedder)
        sweep_if_free(folder)
        for attempts_left in (2, 1, 0):
            try:
                gallery = cls(folder, read_manifest(folder))
                break
            except FileNotFoundError as error:  # another process replaced a segment meanwhile
                if not attempts_left:
                    raise GalleryError(f"{error.filename} is missing; {folder / MANIFEST} lists it") from error
        if embedder is not None:
            gallery.check_weights(embedder.sha256())
            card = embedder.network.card
            gallery.forget_attributes(card.attributes_off if card else ())
            gallery._embedder = embedder
        return gallery

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
        """A new, empty gallery for embeddings made elsewhere. It holds no copy of the weights.

        Args:
            folder: new or empty.
            weights_sha256: ``Embedder.sha256()`` of the network that makes the embeddings, or any other string that
                identifies it.
            embedding_size: D.
            weights_name: shown to people; not compared.
            attributes: attributes whose probabilities will be stored beside the embeddings.

        Raises:
            GalleryError: the folder is not empty.
            OutputError: the folder cannot be made or written to.
        """
        folder = make_folder(folder)
        manifest = Manifest(weights_sha256, weights_name, embedding_size, attributes=tuple(attributes))
        with locked(folder, LOCK_TIMEOUT_S):
            if (folder / MANIFEST).exists():
                raise GalleryError(f"{folder} holds a gallery already; open it instead")
            begin(folder, manifest)
        return cls(folder, manifest)

    def stored(self) -> dict[str, Stored]:
        """By source: each item with the stamp of its file."""
        pairs = ((item, stamp) for part in self._parts for item, stamp in zip(part.items, part.stamps, strict=True))
        return {item.source: Stored(item, stamp) for item, stamp in pairs}

    def find(self, where: Where) -> list[Item]:
        """The items that pass ``where``, which ``remove`` would delete, in the order in which they were added."""
        return [self._rows().items[i] for i in np.flatnonzero(self._passing(where))]

    def find_gone(self, below: str | Path | None = None) -> list[str]:
        """Sources whose file existed when it was embedded and does not exist now.

        Args:
            below: only sources below this folder.

        Sources that are not paths of files are not listed.
        """
        folder = None if below is None else plain_path(below)
        candidates = [s for source, s in self.stored().items() if folder is None or lies_below(source, folder)]
        return [stored.item.source for stored in candidates if is_gone(stored)]

    def add(self, images: Any, *, on_error: OnError = "raise", progress: Progress = no_progress) -> Indexed:
        """Embed image files and store them. Files that are stored in their present state are skipped.

        A file that has changed since it was embedded is embedded again. An interrupted call keeps what it embedded.

        Args:
            images: a path, a folder (its images in sorted order), an ``Item`` whose source is a path, a ``Crop`` (of
                ``read_folder``, for instance), or an iterable of these. Items and crops bring an identity, a camera
                and a time, which replace those that the gallery has. Sources are stored as absolute paths.
            on_error: ``raise`` stops at an image that cannot be embedded; ``skip`` leaves it out and lists it in the
                result.
            progress: shows progress over the files that are embedded.

        Raises:
            GalleryError: the gallery was opened without an embedder, or images in memory.
            ImageError: an image that cannot be embedded, with ``on_error="raise"``.
            DataError: a folder that does not exist or holds no images.
        """
        embedder = self.embedder
        items = {item.source: item for item in list_items(images, self.stored())}
        return index_files(self, embedder, items.values(), replace_labels=True, on_error=on_error, progress=progress)

    def add_embeddings(
        self,
        embeddings_ND: ArrayLike,
        items: Sequence[Item],
        *,
        weights_sha256: str,
        attributes: AttributeProbabilities | None = None,
        stamps: Sequence[FileStamp | None] | None = None,
    ) -> None:
        """Store embeddings (N, D) with their items, all or none. They are stored at length 1.

        Args:
            embeddings_ND: of any length but 0.
            items: N items, whose sources the gallery does not hold.
            weights_sha256: of the network that made the embeddings.
            attributes: probabilities from an ``AttributePredictor`` (see ``attribute_probabilities``). Required if the
                gallery stores attributes; others than the gallery's are ignored.
            stamps: N stamps of the files from before they were embedded (``FileStamp.of``). ``add`` and
                ``osnet index`` use them to find changed files; without stamps they embed these files again.

        Raises:
            GalleryError: embeddings of other weights or another size, zero or not finite; N differs between
                arguments; a source that is stored already, or twice in ``items``; or attributes that are missing or
                of another head.
        """
        with self._writing():
            rows = self._checked_rows(embeddings_ND, items, weights_sha256, attributes, stamps)
            known = self.sources()
            if there := next((item.source for item in items if item.source in known), None):
                raise GalleryError(f"{there} is in {self.folder} already; remove it first, or use put_embeddings")
            self._append(rows)

    def put_embeddings(
        self,
        embeddings_ND: ArrayLike,
        items: Sequence[Item],
        *,
        weights_sha256: str,
        stamps: Sequence[FileStamp | None],
        attributes: AttributeProbabilities | None = None,
    ) -> Added:
        """As ``add_embeddings``, but replaces the items whose sources the gallery holds.

        An item whose stored stamp has the same SHA-256 stays as it is: another process stored it meanwhile.

        Raises:
            GalleryError: as ``add_embeddings``, except for stored sources.
        """
        with self._writing():
            rows = self._checked_rows(embeddings_ND, items, weights_sha256, attributes, stamps)
            stored = self.stored()
            there = [stored.get(item.source) for item in items]
            same = [
                s is not None and s.stamp is not None and stamp is not None and s.stamp.sha256 == stamp.sha256
                for s, stamp in zip(there, rows.stamps, strict=True)
            ]
            rows = rows.take(~np.array(same, dtype=bool))
            replaced = {item.source for item in rows.items} & stored.keys()
            if replaced:
                kept = self._rows().take(~self._passing(Where(sources=frozenset(replaced))))
                self._replace_all(self._join([kept, rows]))
            else:
                self._append(rows)
            return Added(len(rows.items) - len(replaced), len(replaced), sum(same))

    def relabel(self, items: Sequence[Item], stamps: Mapping[str, FileStamp] | None = None) -> None:
        """Change identity, camera and time of stored items; embeddings stay.

        Args:
            items: the new items, matched by source. Sources that are not stored are ignored.
            stamps: by source: new stamps of files with the same content and other times.
        """
        with self._writing():
            new, stamps = {item.source: item for item in items}, stamps or {}
            rows = self._rows()
            relabelled = [new.get(item.source, item) for item in rows.items]
            restamped = [stamps.get(item.source, old) for item, old in zip(rows.items, rows.stamps, strict=True)]
            if (relabelled, restamped) != (rows.items, rows.stamps):
                self._replace_all(replace(rows, items=relabelled, stamps=restamped))

    def remove(self, where: Where) -> int:
        """Delete the items that pass ``where``. Afterwards their bytes are in none of the gallery's files.

        This does not reach copies of the files, nor what the disk itself keeps of deleted files.

        Returns:
            The number of deleted items.

        Raises:
            GalleryError: ``where`` is empty, so it would delete everything; delete the folder instead.
        """
        self.check_removal(where)
        with self._writing():
            return self._delete(self._passing(where))

    @staticmethod
    def check_removal(where: Where) -> None:
        """Raise GalleryError if ``where`` is empty, which would delete everything."""
        if where.is_empty:
            raise GalleryError("remove needs a condition; to delete everything, delete the folder")

    def forget_attributes(self, names: Iterable[str]) -> None:
        """Delete the stored probabilities of these attributes. Afterwards they are in none of the gallery's files.

        Names that are not stored are ignored.
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
        """Delete the items that ``find_gone`` lists, as ``remove`` does. Returns their number."""
        with self._writing():
            return self._delete(self._passing(Where(sources=frozenset(self.find_gone(below)))))

    def _delete(self, doomed: NDArray[np.bool_]) -> int:
        if doomed.any():
            self._replace_all(self._rows().take(~doomed))
        return int(doomed.sum())

    def _checked_rows(
        self,
        embeddings: ArrayLike,
        items: Sequence[Item],
        weights_sha256: str,
        attributes: AttributeProbabilities | None,
        stamps: Sequence[FileStamp | None] | None,
    ) -> Rows:
        """The rows to write, checked against the present state of the gallery. Call it under the lock."""
        self.check_weights(weights_sha256)
        unit = self._unit_rows(embeddings)
        if len(unit) != len(items) or (stamps is not None and len(stamps) != len(items)):
            given = "" if stamps is None else f", {len(stamps)} stamps"
            raise GalleryError(f"{len(unit)} embeddings but {len(items)} items{given}; give as many of each")
        counted = Counter(item.source for item in items)
        if twice := next((source for source, count in counted.items() if count > 1), None):
            raise GalleryError(f"{twice} is in the new items twice; each source has one item")
        columns = choose_columns(self._manifest.attributes, attributes, len(items), self.folder)
        return Rows(unit, list(items), columns, list(stamps) if stamps is not None else [None] * len(items))


def _make_if_missing(folder: Path, embedder: Embedder) -> None:
    """Make a gallery for the embedder, and its copy of the weights, where one of them is missing.

    Raises:
        GalleryError: the folder holds a gallery of other weights, or something else.
    """
    if (folder / MANIFEST).exists() and (folder / WEIGHTS / CARD_FILE).exists():
        return
    card = embedder.network.card
    with locked(make_folder(folder), LOCK_TIMEOUT_S):  # of several processes one makes it; the others find it
        if not (folder / MANIFEST).exists():
            name = (card and card.name) or "unnamed"
            stored = stored_attributes(embedder)
            begin(folder, Manifest(embedder.sha256(), name, embedder.embedding_size, attributes=stored))
        check_same_weights(folder, read_manifest(folder), embedder.sha256())
        if isinstance(embedder.network, ThirdPartyNetwork):
            save_third_party(embedder.network, folder / WEIGHTS, embedder.preprocessing)
        elif not (folder / WEIGHTS / CARD_FILE).exists():
            own = replace(card or Card(embedder.network.config), preprocessing=embedder.preprocessing)
            head = embedder.head if isinstance(embedder, AttributePredictor) else None
            save_weights(embedder.network, folder / WEIGHTS, own, attributes=head)
