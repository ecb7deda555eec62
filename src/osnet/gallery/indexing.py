"""Embedding image files into a gallery: only files that are new or have changed."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osnet.data.loading import describe_others, list_images, list_other_files, no_images
from osnet.embedding.embedder import Embedder, Embeddings, OnError, join_embeddings
from osnet.errors import GalleryError, ImageError, ImageWarning
from osnet.files import plain_path
from osnet.gallery.columns import check_items
from osnet.gallery.item_attributes import attribute_probabilities
from osnet.gallery.stamps import Added, FileStamp, Stored, Update, plan_update
from osnet.progress import Progress, no_progress
from osnet.types import DISTRACTOR_PID, Crop, Item

if TYPE_CHECKING:
    from osnet.gallery.gallery_folder import Gallery

CHUNK = 2048
"""Rows that are collected before they are written to the gallery."""


@dataclass(frozen=True)
class Indexed:
    """What ``Gallery.add`` did."""

    added: Added
    """Counts of the embeddings that were written."""
    update: Update
    """What the comparison of the gallery with the files found before anything was embedded."""
    failures: list[ImageError]
    """Images that could not be embedded; empty unless ``on_error="skip"``."""


def list_items(images: Any, stored: Mapping[str, Stored]) -> list[Item]:
    """The items of files to index, each with its absolute path as source.

    Args:
        images: a path, a folder (its images in sorted order), an ``Item`` whose source is a path, a ``Crop``, or an
            iterable of these.
        stored: what the gallery holds. A bare path that it holds keeps its identity, camera and time.

    Raises:
        DataError: a folder that does not exist or holds no images.
        GalleryError: anything else, such as an image in memory.
    """
    if isinstance(images, Item):
        return [replace(images, source=str(plain_path(images.source)))]
    if isinstance(images, Crop):
        return [item_of(images)]
    if isinstance(images, str | Path):
        path = Path(images)
        files = list(list_images(path)) if path.is_dir() else [path]
        if not files:
            raise no_images(path)
        if path.is_dir() and (others := describe_others(list_other_files(path))):
            warnings.warn(ImageWarning(f"left out of {path}: {others}"), stacklevel=2)
        sources = [str(plain_path(file)) for file in files]
        return [stored[source].item if source in stored else Item(source) for source in sources]
    if isinstance(images, Mapping) or not isinstance(images, Iterable) or hasattr(images, "shape"):
        raise GalleryError(
            f"add takes paths, folders, items and crops, not {type(images).__name__}; "
            "embed images in memory yourself and use add_embeddings"
        )
    return [item for image in images for item in list_items(image, stored)]


def join_labels(items: Iterable[Item]) -> list[Item]:
    """One item for each source. A path without labels takes those of an item of the same file.

    Raises:
        GalleryError: two items of one file with other labels.
    """
    joined: dict[str, Item] = {}
    for item in items:
        there = joined.setdefault(item.source, item)
        if there != item and item != Item(item.source):
            if there != Item(item.source):
                raise GalleryError(f"{item.source} is given twice with other labels: {there} and {item}")
            joined[item.source] = item
    return list(joined.values())


def item_of(crop: Crop) -> Item:
    """The item of a crop of a data set. Junk and distractors have no identity."""
    identity = crop.identity or str(crop.pid)
    return Item(
        source=str(plain_path(crop.path)),
        identity=identity if crop.pid > DISTRACTOR_PID else None,
        camera=crop.camera or None,
        time_s=crop.time_s,
    )


def index_files(
    gallery: "Gallery",
    embedder: Embedder,
    items: Iterable[Item],
    *,
    replace_labels: bool,
    on_error: OnError = "raise",
    progress: Progress = no_progress,
) -> Indexed:
    """Embed files that the gallery does not hold in their present state, and store the embeddings.

    Embeddings are written every ``CHUNK`` rows, and when the run is interrupted or stops at an unreadable image.
    The next call embeds the rest.

    Args:
        gallery: of the embedder's weights.
        embedder: embeds the files.
        items: their sources are absolute paths, as ``plain_path`` gives them.
        replace_labels: True: the identity of ``items`` replaces the one in the gallery, and so do camera and time where
            they are known. False: they only fill in what the gallery does not know.
        on_error: ``raise`` stops at an image that cannot be embedded; ``skip`` lists it in ``failures``.
        progress: shows progress over the files that are embedded.

    Raises:
        ImageError: an image that cannot be embedded, with ``on_error="raise"``.
    """
    items = list(items)
    check_items(items)
    update = plan_update(gallery.stored(), items, replace_labels=replace_labels)
    if update.relabelled or update.restamped:
        gallery.relabel(update.relabelled, update.restamped)
    stamps: dict[str, FileStamp | None] = {}
    waiting: list[Embeddings] = []
    failures: list[ImageError] = []
    counts = [Added(0, 0, 0)]

    def stamped(sources: Iterable[str]) -> Iterator[str]:
        for source in sources:
            stamps[source] = FileStamp.of(source)  # before the file is read: a later change is noticed next time
            if stamps[source] is None and Path(source).is_dir():  # the embedder would take all images in it
                folder = ImageError(source, "a folder; give the path of an image")
                if on_error == "raise":
                    raise folder
                failures.append(folder)
            else:
                yield source

    def flush() -> None:
        if waiting:
            joined = join_embeddings(waiting, [])
            counts.append(
                gallery.put_embeddings(
                    joined.vectors,
                    [update.todo[name] for name in joined.names],
                    weights_sha256=embedder.sha256(),
                    attributes=attribute_probabilities(embedder, joined.probabilities),
                    stamps=[stamps.pop(name) for name in joined.names],
                )
            )
            waiting.clear()

    try:
        for batch in embedder.stream(
            stamped(progress(list(update.todo), len(update.todo), "index")), on_error=on_error
        ):
            failures += batch.failures
            if batch.names:
                waiting.append(batch)
            if sum(map(len, waiting)) >= CHUNK:
                flush()
    finally:  # keep what was embedded before an interrupt or an unreadable image
        flush()
    added = Added(*(sum(getattr(part, kind) for part in counts) for kind in ("new", "replaced", "same")))
    return Indexed(added, update, failures)
