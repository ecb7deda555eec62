"""Opening a store by its address, and copying from one store to another."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from osnet.errors import GalleryError
from osnet.gallery.gallery_folder import Gallery
from osnet.gallery.vector_store import VectorStore, Where
from osnet.progress import Progress, no_progress
from osnet.types import Item

PAGE = 1000
"""Items that are copied at once, all or none."""
TOLERANCE = 1e-6
"""A store scales embeddings to length 1 again, which may change the last bit of a value."""
FORMS = (
    "a gallery's folder, postgresql://..., qdrant:FOLDER, qdrant-edge:FOLDER, or qdrant+http(s)://HOST:PORT/COLLECTION"
)


@dataclass(frozen=True)
class Copied:
    """What ``copy_store`` did."""

    copied: int
    """Items that were added to the destination."""
    there: int
    """Items that the destination held already."""
    differing: tuple[str, ...]
    """Sources whose item or embedding is not the same in both stores."""


def open_store(address: str, *, like: VectorStore | None = None, data_folder: Path | None = None) -> VectorStore:
    """The store at an address: a gallery's folder, or a store on another engine.

    Args:
        address: a folder, ``postgresql://...``, ``qdrant:FOLDER``, ``qdrant-edge:FOLDER`` or
            ``qdrant+http(s)://HOST:PORT/COLLECTION``.
        like: if there is no store, make one for the embeddings of this one.
        data_folder: of a PostgreSQL server on this machine.

    Raises:
        GalleryError: there is none (without ``like``), it is of other weights than ``like``, it cannot be opened, or
            ``data_folder`` is not of its server.
        MissingExtraError: the engine's package is not installed.
    """
    made = None
    if data_folder is not None and not address.startswith(("postgresql:", "postgres:")):
        raise GalleryError(f"{address} is not on a PostgreSQL server; leave out the data folder {data_folder}")
    if like is not None:
        made = {
            "weights_sha256": like.weights_sha256,
            "weights_name": like.weights_name,
            "embedding_size": like.embedding_size,
        }
    store: VectorStore
    kind, _, rest = address.partition(":")
    if kind in ("postgresql", "postgres"):
        from osnet.gallery.postgres_store import PostgresStore

        try:
            store = PostgresStore(address, data_folder=data_folder)
        except GalleryError as error:
            if made is None or "holds no store" not in str(error):
                raise
            store = PostgresStore.create(address, **made, data_folder=data_folder)  # type: ignore[arg-type]
    elif kind in ("qdrant", "qdrant-edge", "qdrant+http", "qdrant+https"):
        from osnet.gallery.qdrant_store import QdrantStore

        place, collection = rest, "osnet"
        if "+" in kind:
            place, _, collection = address.removeprefix("qdrant+").rstrip("/").rpartition("/")
            if place.count("/") != 2 or not collection:
                raise GalleryError(f"{address}: give a collection: qdrant+http://HOST:PORT/COLLECTION")
        edge = kind == "qdrant-edge"
        try:
            store = QdrantStore(place, collection=collection, edge=edge)
        except GalleryError as error:
            if made is None or not any(words in str(error) for words in ("no such folder", "holds no")):
                raise
            store = QdrantStore.create(place, **made, collection=collection, edge=edge)  # type: ignore[arg-type]
    elif "://" in address or (re.match(r"[a-z][a-z0-9+-]+:", address) and not Path(address).exists()):
        raise GalleryError(f"{kind}:... is no address of a store; give {FORMS}")
    elif like is not None and not (Path(address) / "gallery.json").exists():
        store = Gallery.create(address, **made)  # type: ignore[arg-type]
    else:
        store = Gallery.open(address)
    if like is not None and store.weights_sha256 != like.weights_sha256:
        raise GalleryError(
            f"{address} stores embeddings of the weights {store.weights_sha256[:12]}, the other store of "
            f"{like.weights_sha256[:12]}; they do not belong in one store"
        )
    return store


def copy_store(source: VectorStore, destination: VectorStore, *, progress: Progress = no_progress) -> Copied:
    """Add the items of one store to another, in their order, then compare all of them.

    Items that the destination holds are left as they are, so an interrupted copy resumes where it stopped.
    Probabilities of attributes and stamps of files are not copied.

    Raises:
        GalleryError: the stores hold embeddings of other weights.
    """
    pages = -(-len(source) // PAGE)
    copied = there = 0
    after: str | None = None
    for _ in progress(range(pages), pages, "copy"):
        items = source.find(after=after, limit=PAGE)
        if not items:
            break
        known = _stored(destination, items)
        new = [item for item in items if item.source not in known]
        if new:
            rows = source.embeddings([item.source for item in new])
            destination.add_embeddings(rows, new, weights_sha256=source.weights_sha256)
        copied, there, after = copied + len(new), there + len(items) - len(new), items[-1].source
    differing: list[str] = []
    after = None
    for _ in progress(range(pages), pages, "compare"):
        items = source.find(after=after, limit=PAGE)
        if not items:
            break
        differing += _compare(source, destination, items)
        after = items[-1].source
    return Copied(copied, there, tuple(differing))


def _stored(store: VectorStore, items: list[Item]) -> dict[str, Item]:
    found = store.find(Where(sources=frozenset(item.source for item in items)))
    return {item.source: item for item in found}


def _compare(source: VectorStore, destination: VectorStore, items: list[Item]) -> list[str]:
    """Sources that are not the same in both."""
    known = _stored(destination, items)
    same = [item for item in items if known.get(item.source) == item]
    names = [item.source for item in same]
    apart = np.abs(source.embeddings(names) - destination.embeddings(names)).max(axis=1, initial=0)
    differing = [name for name, far in zip(names, apart.tolist(), strict=True) if not far <= TOLERANCE]
    return [item.source for item in items if item.source not in set(names)] + differing
