"""osnet index, search, gallery show, gallery remove."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from osnet.cli.common import EXIT_FOUND_TROUBLE, JsonFlag, app, draw_progress, gallery_app, report_failures
from osnet.data.folder import FolderLayout, IdentityFrom, parse_time, read_folder
from osnet.data.loading import list_images
from osnet.data.reid.market1501 import parse_name
from osnet.errors import DataError, GalleryError
from osnet.figures.ranks import RankedList, save_ranked_lists
from osnet.files import check_writable
from osnet.gallery import Gallery, Where
from osnet.gallery.folder import MANIFEST, WEIGHTS
from osnet.inference.embedder import Embedder, OnError
from osnet.models.card import CARD_FILE
from osnet.types import DISTRACTOR_PID, Hit, Item

GalleryArg = Annotated[Path, Positional, tyro.conf.arg(metavar="GALLERY")]

INDEX_CHUNK = 2048
"""Rows that ``osnet index`` collects before it writes them."""


@app.command
def index(
    crops: Annotated[Path, Positional, tyro.conf.arg(metavar="CROPS")],
    *,
    out: Path,
    weights: str | None = None,
    identity_from: IdentityFrom | None = None,
    pattern: str | None = None,
    csv: Path | None = None,
    on_error: OnError = "raise",
    batch_size: int = 32,
    device: str = "auto",
) -> None:
    """Put a folder of crops into a gallery, new or old. What is in it already is passed over.

    The gallery keeps a copy of the weights, so that searching needs nothing else.

    Args:
        crops: the folder.
        out: the gallery's folder.
        weights: a path or a short name; needed for a new gallery.
        identity_from: where to read who is on a crop. By default: the pattern or CSV if given; else Market-1501's
            names if all fit; else identities are unknown.
        pattern: a regular expression for the path, with groups (?P<identity>...), (?P<camera>...), (?P<time>...).
        csv: a table with the columns path, identity, camera, time.
        on_error: raise: stop at an image that cannot be read; skip: leave it out and say so.
        batch_size: crops per forward pass.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    items = _read_items(crops, identity_from, pattern, csv)
    gallery, embedder = _open_gallery(out, weights, device, batch_size)
    known = gallery.sources()
    todo = {item.source: item for item in items if item.source not in known}
    waiting: list[Any] = []
    failures: list[str] = []

    def flush() -> None:
        if waiting:
            vectors = [row for batch in waiting for row in batch.vectors]
            names = [name for batch in waiting for name in batch.names]
            gallery.add(vectors, [todo[name] for name in names], weights_sha256=embedder.sha256())
            waiting.clear()

    try:
        for batch in embedder.stream(draw_progress(list(todo), len(todo), "index"), on_error=on_error):
            failures += [str(failure) for failure in batch.failures]
            if batch.names:
                waiting.append(batch)
            if sum(map(len, waiting)) >= INDEX_CHUNK:
                flush()
    finally:  # cut off or stopped by a bad image: what went well is kept, and the next call goes on
        flush()
    print(
        f"{len(todo) - len(failures)} crops added to {out}, {len(items) - len(todo)} were there; {len(gallery)} in all"
    )
    report_failures(failures)


@app.command
def search(
    gallery: GalleryArg,
    photo: Annotated[Path, Positional, tyro.conf.arg(metavar="PHOTO")],
    *,
    top: int = 10,
    identity: tuple[str, ...] = (),
    camera: tuple[str, ...] = (),
    after: str | None = None,
    before: str | None = None,
    source: str | None = None,
    weights: str | None = None,
    as_json: JsonFlag = False,
    sheet: Path | None = None,
    device: str = "auto",
) -> None:
    """Search a gallery for the person on a photo. The score is a cosine: higher is closer.

    Args:
        gallery: its folder.
        photo: a crop of one person.
        top: how many hits.
        identity: only these people.
        camera: only these cameras.
        after: only what was taken at this time or later (seconds or ISO 8601, UTC).
        before: only what was taken at this time or earlier.
        source: only sources that match this pattern, such as '*/monday/*' (sources are whole paths).
        weights: instead of the copy in the gallery; others are refused.
        as_json: print JSON.
        sheet: also draw the hits into this PNG.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    if sheet is not None:
        check_writable(sheet)
    where = _where(identity, camera, after, before, source)
    Gallery.open(gallery)  # it must exist: searching makes none
    store, embedder = _open_gallery(gallery, weights, device, 1)
    hits = store.search(embedder.embed(photo), weights_sha256=embedder.sha256(), top=top, where=where)
    if as_json:
        print(json.dumps({"query": str(photo), "hits": [_hit_json(hit) for hit in hits]}, indent=2))
    else:
        print(f"{'rank':>4}  {'score':>6}  {'identity':<10}{'camera':<8}source")
        for hit in hits:
            item = hit.item
            print(f"{hit.rank:>4}  {hit.score:6.3f}  {item.identity or '-':<10}{item.camera or '-':<8}{item.source}")
        if not hits:
            print("nothing in the gallery passes these conditions")
    if sheet is not None:
        save_ranked_lists([RankedList(photo, hits)], sheet, f"{photo.name} in {gallery}")


@gallery_app.command(name="show")
def gallery_show(gallery: GalleryArg) -> None:
    """Say what a gallery holds.

    Args:
        gallery: its folder.
    """
    store = Gallery.open(gallery)
    people = {item.identity for item in store.items if item.identity}
    cameras = {item.camera for item in store.items if item.camera}
    print(f"{len(store)} items, {len(people)} known identities, {len(cameras)} known cameras")
    print(f"vectors of {store.weights_name}, network {store.weights_sha256}")


@gallery_app.command(name="remove")
def gallery_remove(
    gallery: GalleryArg,
    *,
    identity: tuple[str, ...] = (),
    camera: tuple[str, ...] = (),
    after: str | None = None,
    before: str | None = None,
    source: str | None = None,
) -> None:
    """Delete items for good: their bytes are in none of the gallery's files afterwards.

    Items that meet all conditions given are deleted; at least one is needed.

    Args:
        gallery: its folder.
        identity: these people.
        camera: from these cameras.
        after: taken at this time or later.
        before: taken at this time or earlier.
        source: sources that match this pattern.
    """
    store = Gallery.open(gallery)
    removed = store.remove(_where(identity, camera, after, before, source))
    print(f"{removed} items removed, {len(store)} left")
    if not removed:
        raise SystemExit(EXIT_FOUND_TROUBLE)  # whoever asked for a deletion must see that nothing was deleted


def _read_items(crops: Path, identity_from: IdentityFrom | None, pattern: str | None, csv: Path | None) -> list[Item]:
    """Items for every image, with what the layout says of them."""
    if identity_from is None and pattern is None and csv is None:
        paths = list(list_images(crops))
        if not paths:
            raise DataError(f"no images in {crops}")
        if not all(parse_name(path) for path in paths):
            return [Item(str(path.absolute())) for path in paths]
    found = read_folder(crops, FolderLayout(identity_from or "auto", pattern, csv))
    return [
        Item(
            source=str(crop.path.absolute()),
            identity=crop.identity if crop.pid > DISTRACTOR_PID else None,
            camera=crop.camera or None,
            time_s=crop.time_s,
        )
        for crop in found
    ]


def _open_gallery(folder: Path, weights: str | None, device: str, batch_size: int) -> tuple[Gallery, Embedder]:
    """A gallery and the embedder that belongs to it; the gallery's own copy of the weights by default."""
    own_copy = folder / WEIGHTS
    if weights is None and not (own_copy / CARD_FILE).exists():
        if (folder / MANIFEST).exists():
            raise GalleryError(f"{folder} carries no copy of its weights: name them, --weights PATH_OR_NAME")
        raise DataError(f"{folder} is a new gallery: say whose vectors it shall hold, --weights PATH_OR_NAME")
    embedder = Embedder(weights or own_copy, device=device, batch_size=batch_size)
    return Gallery.for_embedder(folder, embedder), embedder


def _where(
    identity: tuple[str, ...], camera: tuple[str, ...], after: str | None, before: str | None, source: str | None
) -> Where:
    return Where(
        identities=frozenset(identity) if identity else None,
        cameras=frozenset(camera) if camera else None,
        after_s=parse_time(after, "--after") if after is not None else None,
        before_s=parse_time(before, "--before") if before is not None else None,
        source=source,
    )


def _hit_json(hit: Hit) -> dict[str, Any]:
    return {"rank": hit.rank, "score": hit.score, **asdict(hit.item)}
