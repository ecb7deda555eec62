"""A gallery in a folder: exact cosine search over one float32 matrix.

    gallery/
      gallery.json                                the weights' digest and the list of segments; written last, atomically
      2026-11-28_gate_000007.safetensors          a segment: the items of one day (UTC) and camera
      undated_000008.safetensors                  items whose time or camera is unknown
      weights/                                    a copy of the weights, if the gallery was made with an embedder

``segment_file`` says what a segment holds. Adding writes new segments, and merges small ones of the same day and
camera. Removing writes the affected segments anew without the removed rows and deletes the old files; a segment of
which nothing is left is only deleted. A file that ``gallery.json`` does not name does not count, and the next writer
deletes it. So a crash leaves the state before or the state after.
Galleries of the format ``osnet-gallery-1`` are read; the first write brings them to the present format.
Shapes: N items, D embedding, A attributes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from osnet.embedding.attribute_predictor import AttributePredictor
from osnet.embedding.embedder import Embedder, OnError
from osnet.embedding.third_party import ThirdPartyNetwork, save_third_party
from osnet.errors import GalleryError
from osnet.files import check_fields, make_folder, plain_path, sha256_file
from osnet.gallery.columns import Columns, Indices
from osnet.gallery.indexing import Indexed, index_files, join_labels, list_items
from osnet.gallery.item_attributes import AttributeProbabilities, choose_columns, stored_attributes
from osnet.gallery.search import SearchableRows, check_same_weights
from osnet.gallery.segment_file import Rows
from osnet.gallery.segments import (
    MANIFEST,
    Manifest,
    Segment,
    StoredAttribute,
    begin,
    locked,
    read_manifest,
    sweep_if_free,
)
from osnet.gallery.snapshot import Snapshot
from osnet.gallery.stamps import Added, FileStamp, Stored, has_changed, is_gone, lies_below
from osnet.gallery.stored_rows import LOCK_TIMEOUT_S, open_snapshot
from osnet.gallery.top_hits import check_limit
from osnet.gallery.traces import Traces
from osnet.gallery.vector_store import Erased, Where
from osnet.progress import Progress, no_progress
from osnet.types import Item
from osnet.weights.card import CARD_FILE, Card
from osnet.weights.checkpoint import save_weights

OUT_OF_REACH = (
    "copies and backups of the folder, and what the disk keeps of deleted files",
    "other processes that have the gallery open, until they open it again or end",
)
"""What ``Gallery.erase`` cannot delete."""
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
            GalleryError: there is no gallery (without ``embedder``); it is damaged (the file is named; in galleries
                above 32 MiB only sizes are compared, and ``check`` compares each SHA-256); it stores embeddings of
                other weights; or the folder holds something else.
            OutputError: the folder cannot be made or written to.
        """
        folder = Path(folder)
        if embedder is not None:
            _make_if_missing(folder, embedder)
        sweep_if_free(folder)
        gallery = cls(open_snapshot(folder))
        if embedder is not None:
            gallery.check_weights(embedder.sha256())
            card = embedder.card
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
            GalleryError: the folder is not empty, or a value could not be read again: an ``embedding_size`` below 1,
                for instance.
            OutputError: the folder cannot be made or written to.
        """
        manifest = Manifest(weights_sha256, weights_name, embedding_size, attributes=tuple(attributes))
        try:
            check_fields(manifest)
        except ValueError as error:
            raise GalleryError(f"{folder}: no gallery can be made: {error}") from error
        if embedding_size < 1:
            raise GalleryError(f"embedding_size {embedding_size} must be at least 1")
        folder = make_folder(folder)
        with locked(folder, LOCK_TIMEOUT_S):
            if (folder / MANIFEST).exists():
                raise GalleryError(f"{folder} holds a gallery already; open it instead")
            begin(folder, manifest)
        return cls(Snapshot(folder, manifest))

    def stored(self) -> dict[str, Stored]:
        """By source: each item with the stamp of its file."""
        return self._read(lambda state: _stored(state, state.in_order))

    def count(self, where: Where | None = None) -> int:
        """Number of items that pass ``where``; None: of all."""
        return len(self) if where is None else self._read(lambda state: int(state.passing(where).sum()))

    def find(self, where: Where | None = None, *, after: str | None = None, limit: int | None = None) -> list[Item]:
        """The items that pass ``where``, which ``remove`` would delete, in the order in which they were added.

        Args:
            where: None: all.
            after: only items added after the item of this source: the last of the page before.
            limit: at most this many.

        Raises:
            GalleryError: ``after`` is not stored, or ``limit`` is negative.
        """
        check_limit(limit)

        def find(state: Snapshot) -> list[Item]:
            rows = state.in_order if where is None else state.in_order[state.passing(where)[state.in_order]]
            if after is not None:
                rows = rows[state.order[rows] > state.order[_find_all(state, [after], self.folder)[0]]]
            return state.items(rows[:limit])

        return self._read(find)

    def embeddings(self, sources: Sequence[str]) -> NDArray[np.float32]:
        """(N, D): the stored embeddings of these sources, in their order.

        Raises:
            GalleryError: a source that is not stored.
        """

        def read(state: Snapshot) -> NDArray[np.float32]:
            rows, inverse = np.unique(_find_all(state, sources, self.folder), return_inverse=True)
            return state.vectors(rows)[inverse]

        return self._read(read)

    def find_gone(self, below: str | Path | None = None) -> list[str]:
        """Sources whose file existed when it was embedded and does not exist now.

        Args:
            below: only sources below this folder.

        Sources that are not paths of files are not listed.
        """
        folder = None if below is None else plain_path(below)
        candidates = [s for source, s in self.stored().items() if folder is None or lies_below(source, folder)]
        return [stored.item.source for stored in candidates if is_gone(stored)]

    def find_changed(self, sources: Iterable[str]) -> list[str]:
        """Those of ``sources`` whose file has changed, or is gone, since it was embedded."""

        def read(state: Snapshot) -> list[str]:
            rows = np.array(sorted(state.find_sources(list(sources)).values()), dtype=np.intp)
            return [source for source, stored in _stored(state, rows).items() if is_gone(stored) or has_changed(stored)]

        return self._read(read)

    def add(self, images: Any, *, on_error: OnError = "raise", progress: Progress = no_progress) -> Indexed:
        """Embed image files and store them. Files that are stored in their present state are skipped.

        A file that has changed since it was embedded is embedded again. An interrupted call keeps what it embedded.

        Args:
            images: a path, a folder (its images in sorted order), an ``Item`` whose source is a path, a ``Crop`` (of
                ``read_folder``, for instance), or an iterable of these. The identity of items and
                crops replaces the one that the gallery has; their camera and time do so if they are known. Sources are
                stored as absolute paths.
            on_error: ``raise`` stops at an image that cannot be embedded; ``skip`` leaves it out and lists it in the
                result.
            progress: shows progress over the files that are embedded.

        Raises:
            GalleryError: the gallery was opened without an embedder; images in memory; an item that ``check_items``
                refuses, or two of one file with other labels.
            ImageError: an image that cannot be embedded, with ``on_error="raise"``.
            DataError: a folder that does not exist or holds no images.
        """
        embedder = self.embedder
        items = join_labels(list_items(images, self.stored()))
        return index_files(self, embedder, items, replace_labels=True, on_error=on_error, progress=progress)

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
        with self._writing() as state:
            rows = self._checked_rows(embeddings_ND, items, weights_sha256, attributes, stamps)
            if there := state.find_sources([item.source for item in items]):
                raise GalleryError(f"{min(there)} is in {self.folder} already; remove it first, or use put_embeddings")
            if len(rows):
                self._write(state, new=[rows])

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
        with self._writing() as state:
            rows = self._checked_rows(embeddings_ND, items, weights_sha256, attributes, stamps)
            there = state.find_sources([item.source for item in items])
            stored = _stored(state, np.array(sorted(there.values()), dtype=np.intp))
            old = [stored[item.source].stamp if item.source in there else None for item in items]
            same = np.array(
                [a is not None and b is not None and a.sha256 == b.sha256 for a, b in zip(old, stamps, strict=True)],
                dtype=bool,
            )
            replaced = [
                there[item.source]
                for item, is_same in zip(items, same, strict=True)
                if item.source in there and not is_same
            ]
            kept = rows.take(np.flatnonzero(~same))
            if len(kept):
                self._change(state, state.mask(replaced), [kept])
            return Added(len(kept) - len(replaced), len(replaced), int(same.sum()))

    def relabel(self, items: Sequence[Item], stamps: Mapping[str, FileStamp] | None = None) -> None:
        """Change identity, camera and time of stored items; embeddings stay.

        Args:
            items: the new items, matched by source. Sources that are not stored are ignored.
            stamps: by source: new stamps of files with the same content and other times.
        """
        with self._writing() as state:
            new, stamps = {item.source: item for item in items}, stamps or {}
            there = state.find_sources(sorted({*new, *stamps}))
            rows = np.array(sorted(there.values()), dtype=np.intp)
            stored = _stored(state, rows)
            changed = {
                source: Stored(new.get(source, old.item), stamps.get(source, old.stamp))
                for source, old in stored.items()
                if (new.get(source, old.item), stamps.get(source, old.stamp)) != (old.item, old.stamp)
            }
            if changed:
                doomed = state.mask([there[source] for source in changed])
                self._change(state, doomed, _relabelled(state, doomed, changed))

    def remove(self, where: Where) -> int:
        """Delete the items that pass ``where``. Afterwards their bytes are in none of the gallery's files.

        This does not reach copies of the files, nor what the disk itself keeps of deleted files.

        Returns:
            The number of deleted items.

        Raises:
            GalleryError: ``where`` is empty, so it would delete everything; delete the folder instead.
        """
        self.check_removal(where)
        with self._writing() as state:
            return self._delete(state, state.passing(where))

    def erase(self, where: Where) -> Erased:
        """``remove``, then look for the deleted embeddings and sources in the files that were written instead.

        Raises:
            GalleryError: as ``remove``.
        """
        self.check_removal(where)
        return self._erase(lambda state: state.passing(where))

    def expire(self, before_s: float) -> Erased:
        """``erase`` of the items taken before this time (seconds, as ``Item.time_s``). Items without a time stay.

        The file of a day and camera that lies before it as a whole is only deleted.
        """
        return self._erase(lambda state: state.passing(Where(before_s=float(np.nextafter(before_s, -np.inf)))))

    def check(self) -> list[str]:
        """Compare every file with its SHA-256, and look for embeddings whose length is not 1. Faults, in words."""
        return self._read(_find_faults)

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
        with self._writing() as state:
            kept = [i for i, attribute in enumerate(state.manifest.attributes) if attribute.name not in doomed]
            manifest = replace(state.manifest, attributes=tuple(state.manifest.attributes[i] for i in kept))
            parts = [replace(rows, probabilities=rows.probabilities[:, kept]) for _, rows in state.each()]
            self._write(state, range(state.num_segments), [part for part in parts if len(part)], manifest)

    def prune(self, below: str | Path | None = None) -> int:
        """Delete the items that ``find_gone`` lists, as ``remove`` does. Returns their number."""
        with self._writing() as state:
            return self._delete(state, state.mask(state.find_sources(self.find_gone(below)).values()))

    def _delete(self, state: Snapshot, doomed: NDArray[np.bool_]) -> int:
        if doomed.any():
            self._change(state, doomed, [])
        return int(doomed.sum())

    def _change(self, state: Snapshot, doomed: NDArray[np.bool_], new: list[Rows]) -> tuple[list[Segment], list[str]]:
        """Replace the rows that are ``doomed`` (N,) by ``new`` ones; the segments without doomed rows stay."""
        touched = [p for p in range(state.num_segments) if doomed[state.starts[p] : state.starts[p + 1]].any()]
        kept = []
        for place in touched:
            stay = np.flatnonzero(~doomed[state.starts[place] : state.starts[place + 1]])
            if len(stay):
                kept.append(state.rows(place).take(stay))
        return self._write(state, touched, [*kept, *new])

    def _erase(self, choose: Callable[[Snapshot], NDArray[np.bool_]]) -> Erased:
        with self._writing() as state:
            doomed = choose(state)
            if not doomed.any():
                return Erased(0, 0, 0, 0, (), OUT_OF_REACH)
            rows = np.flatnonzero(doomed)
            sources = [item.source for item in state.items(rows)]
            traces = Traces(state.vectors(rows), sources, _kept_bytes(state, doomed))
            written, gone = self._change(state, doomed, [])
        texts = {
            path.name: path.read_bytes() for path in (self.folder / MANIFEST, *(self.folder / s.file for s in written))
        }
        left = sorted(name for name in gone if (self.folder / name).exists())
        found = left + [name for name, content in texts.items() if traces.are_in(content)]
        found += sorted(open_snapshot(self.folder).find_sources(sources))
        return Erased(
            len(rows), len(written), len(gone) - len(written), sum(map(len, texts.values())), tuple(found), OUT_OF_REACH
        )

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
        probabilities = choose_columns(self._manifest.attributes, attributes, len(items), self.folder)
        columns = Columns.of(items, stamps if stamps is not None else [None] * len(items), self._manifest.next_row)
        return Rows.of(unit, probabilities, columns)


def _stored(state: Snapshot, rows: Indices) -> dict[str, Stored]:
    stamps = state.gather(rows, lambda part, places: part.columns.stamps(places))
    return {item.source: Stored(item, stamp) for item, stamp in zip(state.items(rows), stamps, strict=True)}


def _find_all(state: Snapshot, sources: Sequence[str], folder: Path) -> Indices:
    """The row of each source. Raises GalleryError for one that is not stored."""
    there = state.find_sources(sources)
    if missing := next((source for source in sources if source not in there), None):
        raise GalleryError(f"{folder} has no item of the source {missing!r}")
    return np.array([there[source] for source in sources], dtype=np.intp)


def _kept_bytes(state: Snapshot, doomed: NDArray[np.bool_]) -> Iterator[bytes]:
    """Embeddings and sources that stay in segments with doomed rows."""
    for start, rows in state.each():
        gone = doomed[start : start + len(rows)]
        if gone.any() and not gone.all():
            kept = np.flatnonzero(~gone)
            yield np.asarray(rows.vectors[kept]).tobytes()
            yield rows.columns.take(kept).source_text.tobytes()


def _relabelled(state: Snapshot, doomed: NDArray[np.bool_], changed: Mapping[str, Stored]) -> list[Rows]:
    """The doomed rows with other items and stamps; they keep their places in the order."""
    parts = []
    for start, rows in state.each():
        places = np.flatnonzero(doomed[start : start + len(rows)])
        if len(places):
            part = rows.take(places)
            new = [changed[source] for source in part.columns.sources()]
            columns = Columns.of([entry.item for entry in new], [entry.stamp for entry in new], 0)
            parts.append(replace(part, columns=replace(columns, order=part.columns.order)))
    return parts


def _find_faults(state: Snapshot) -> list[str]:
    faults = []
    for place, segment in enumerate(state.manifest.segments):
        path = state.folder / segment.file
        if sha256_file(path) != segment.sha256:
            faults.append(f"{path} is damaged: its SHA-256 is not the one in {MANIFEST}")
            continue
        lengths = np.linalg.norm(state.rows(place).vectors, axis=1)
        if not (np.abs(lengths - 1) <= 1e-4).all():
            faults.append(f"{path} holds embeddings whose length is not 1")
    return faults


def _make_if_missing(folder: Path, embedder: Embedder) -> None:
    """Make a gallery for the embedder, and its copy of the weights, where one of them is missing.

    Raises:
        GalleryError: the folder holds a gallery of other weights, or something else.
    """
    if (folder / MANIFEST).exists() and (folder / WEIGHTS / CARD_FILE).exists():
        return
    card = embedder.card
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
