"""osnet index, search, gallery show, gallery remove."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from osnet.cli.common import (
    EXIT_FOUND_TROUBLE,
    JsonFlag,
    app,
    draw_progress,
    gallery_app,
    name_some,
    report_failures,
    report_other_files,
)
from osnet.data.folder import FolderLayout, IdentityFrom, parse_time, read_folder
from osnet.data.loading import list_images, no_images
from osnet.data.reid.market1501 import parse_name
from osnet.embedding.attribute_predictor import find_attributes, open_embedder
from osnet.embedding.embedder import Embedder, OnError
from osnet.errors import DataError, GalleryError, ImageError
from osnet.figures.attribute_sheet import SheetCrop, save_attribute_sheet
from osnet.figures.ranked_list import save_ranked_lists
from osnet.files import check_writable, plain_path
from osnet.gallery import Added, Gallery, Where
from osnet.gallery.gallery_folder import WEIGHTS
from osnet.gallery.indexing import index_files
from osnet.gallery.segments import MANIFEST
from osnet.gallery.stamps import Update
from osnet.types import DISTRACTOR_PID, Hit, Item, RankedList
from osnet.weights.card import CARD_FILE, read_card
from osnet.weights.open_model_zoo import DEFAULT_WEIGHTS, LICENCE

GalleryArg = Annotated[Path, Positional, tyro.conf.arg(metavar="GALLERY")]


@app.command
def index(
    crops: Annotated[Path, Positional, tyro.conf.arg(metavar="CROPS")],
    *,
    out: Path,
    weights: str | None = None,
    identity_from: IdentityFrom | None = None,
    pattern: str | None = None,
    csv: Path | None = None,
    prune: bool = False,
    on_error: OnError = "raise",
    batch_size: int = 32,
    device: str = "auto",
) -> None:
    """Put a folder of crops into a gallery, new or old. What is in it unchanged is passed over.

    A crop whose file has changed is embedded again. The gallery keeps a copy of the weights, so that searching needs
    nothing else. Where the weights say attributes, a new gallery keeps their probabilities beside the vectors, but for
    those that are switched off.

    Args:
        crops: the folder.
        out: the gallery's folder.
        weights: a path or a short name. By default the gallery's own copy; for a new gallery
            person-reidentification-retail-0287, which is downloaded if it is not here.
        identity_from: where to read who is on a crop. By default: the pattern or CSV if given; else Market-1501's
            names, if at least half of the names are like these; else identities are unknown.
        pattern: a regular expression for the path, with groups (?P<identity>...), (?P<camera>...), (?P<time>...).
        csv: a table with the columns path, identity, camera, time.
        prune: also delete the items below this folder whose files are gone from the disk.
        on_error: raise: stop at an image that cannot be read; skip: leave it out and say so.
        batch_size: crops per forward pass.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    explicit = not (identity_from is None and pattern is None and csv is None)
    items, notes = _read_items(crops, identity_from, pattern, csv, may_be_empty=(out / MANIFEST).exists())
    report_other_files(crops)
    gallery, embedder = _open_gallery(out, weights, device, batch_size)
    done = index_files(gallery, embedder, items, replace_labels=explicit, on_error=on_error, progress=draw_progress)
    plan, added, failures = done.update, done.added, done.failures
    _tell_indexed(gallery, crops, items, plan, added)
    for note in [*notes, *_tell_gone(gallery, crops, prune), *_tell_outdated(plan, failures)]:
        print(f"note: {note}", file=sys.stderr)
    report_failures([str(failure) for failure in failures])


def _tell_indexed(gallery: Gallery, crops: Path, items: list[Item], plan: Update, added: Added) -> None:
    new, again, same = added.new, added.replaced, added.same
    unknown = min(again, len(plan.unknown))
    parts = [f"{new} crops added to {gallery.folder}"]
    if again - unknown:
        parts.append(f"{again - unknown} had changed and were embedded again")
    if unknown:
        parts.append(
            f"{unknown} were embedded again, since the gallery did not say of what state of their files it was"
        )
    if plan.relabelled:
        parts.append(f"{len(plan.relabelled)} got other labels")
    print(", ".join([*parts, f"{plan.same + same} were there; {len(gallery)} in all"]))
    known, seen = sum(1 for item in items if item.identity), sum(1 for item in items if item.camera)
    print(f"of {len(items)} crops in {crops}, {known} have an identity and {seen} a camera")


def _tell_gone(gallery: Gallery, crops: Path, prune: bool) -> Iterator[str]:
    """What the gallery holds of files that are gone from the disk, or how many of it were removed."""
    everywhere, here = gallery.find_gone(), gallery.find_gone(crops)
    if prune:
        removed = gallery.prune(crops)
        print(f"{removed} items removed whose files are gone; {len(gallery)} left")
    elif here:
        yield f"{len(here)} items below {crops} are gone from the disk; --prune removes them: {name_some(here)}"
    if elsewhere := len(everywhere) - len(here):
        yield f"{elsewhere} items of other folders are gone from the disk too"


def _tell_outdated(plan: Update, failures: list[ImageError]) -> Iterator[str]:
    kept = [failure.name for failure in failures if failure.name in plan.changed]
    if kept:
        yield (
            f"{len(kept)} crops have changed and cannot be read now; the gallery keeps the vectors of their old state: "
            f"{name_some(kept)}"
        )


@app.command
def search(
    gallery: GalleryArg,
    photo: Annotated[Path | None, Positional, tyro.conf.arg(metavar="PHOTO")] = None,
    *,
    having: Annotated[tuple[str, ...], tyro.conf.arg(name="with")] = (),
    lacking: Annotated[tuple[str, ...], tyro.conf.arg(name="without")] = (),
    min_probability: float | None = None,
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
    """Search a gallery for whoever or whatever is on a photo, for people of some description, or for both.

    With a photo the score is a cosine. Without one it says how well the description fits: the geometric mean of the
    attributes' probabilities, in 0 to 1. Higher is closer. Listed is only what is said to fit the description.

    Args:
        gallery: its folder.
        photo: a crop of one person or thing; it stands before --with and --without.
        having: attributes that hold, such as: backpack "long sleeve".
        lacking: attributes that do not, such as: hat.
        min_probability: from which probability on an attribute is said to hold; by default each one's own threshold,
            and 0 lists everything in the order of the scores.
        top: how many hits.
        identity: only these identities.
        camera: only these cameras.
        after: only what was taken at this time or later (seconds or ISO 8601, UTC).
        before: only what was taken at this time or earlier.
        source: only this source; or, if there is none, those that match this pattern, such as '*/monday/*' (sources are
            whole paths).
        weights: instead of the copy in the gallery; others are refused.
        as_json: print JSON.
        sheet: also draw the hits into this PNG.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    if sheet is not None:
        check_writable(sheet)
    if photo is None and not having + lacking:
        raise DataError("nothing to search for: give a photo, or a description: --with backpack --without hat")
    where = _fitting(_where(identity, camera, after, before, source), having, lacking, min_probability)
    store = Gallery.open(gallery)  # it must exist: searching makes none
    if photo is None:
        forget_switched_off(store)
        hits = store.search_attributes(having, lacking, top=top, where=where)
    else:
        store, _ = _open_gallery(gallery, weights, device, 1)
        hits = store.search(photo, top=top, where=where)
    asked = [store.attributes[i] for i in find_attributes(store.attributes, having + lacking)]
    _print_hits(hits, asked, None if photo is None else str(photo), (having, lacking), as_json)
    if sheet is not None and photo is not None:
        save_ranked_lists([RankedList(photo, hits)], sheet, f"{photo.name} in {gallery}")
    elif sheet is not None:
        words = [f"with {name}" for name in having] + [f"without {name}" for name in lacking]
        _draw_described(hits, asked, sheet, f"{', '.join(words)} in {gallery}")


def _fitting(where: Where, having: tuple[str, ...], lacking: tuple[str, ...], min_probability: float | None) -> Where:
    """And only what is said to fit the description; at a least probability of 0, everything does."""
    if min_probability == 0:
        return where
    if min_probability is not None and not 0 < min_probability <= 1:
        raise DataError(f"--min-probability {min_probability:g} is no probability; give one from 0 to 1")
    return replace(where, having=frozenset(having), lacking=frozenset(lacking), min_probability=min_probability)


def _draw_described(hits: list[Hit], asked: list[str], sheet: Path, title: str) -> None:
    found = [SheetCrop(Path(h.item.source), tuple(_percents(h, asked)), heading=f"{h.score:.3f}") for h in hits]
    save_attribute_sheet(found, sheet, title)


def _print_hits(
    hits: list[Hit], asked: list[str], photo: str | None, words: tuple[tuple[str, ...], tuple[str, ...]], as_json: bool
) -> None:
    if as_json:
        query = {"query": photo, "with": list(words[0]), "without": list(words[1])}
        print(json.dumps({**query, "hits": [_hit_json(hit) for hit in hits]}, indent=2))
        return
    print(
        f"{'rank':>4}  {'score':>6}  {'identity':<10}{'camera':<8}source"
        + ("  [attributes asked for]" if asked else "")
    )
    for hit in hits:
        item = hit.item
        said = f"  [{', '.join(_percents(hit, asked))}]" if asked else ""
        print(f"{hit.rank:>4}  {hit.score:6.3f}  {item.identity or '-':<10}{item.camera or '-':<8}{item.source}{said}")
    if not hits:
        print("nothing in the gallery passes these conditions")


def _percents(hit: Hit, names: list[str]) -> list[str]:
    return [f"{name} {100 * (hit.attributes or {})[name]:.0f} %" for name in names]


def forget_switched_off(store: Gallery) -> None:
    """Delete from a gallery what the card of its own weights switches off."""
    own_copy = store.folder / WEIGHTS
    if store.attributes and (own_copy / CARD_FILE).exists():
        store.forget_attributes(read_card(own_copy)[0].attributes_off)


@gallery_app.command(name="show")
def gallery_show(gallery: GalleryArg) -> None:
    """Say what a gallery holds.

    Args:
        gallery: its folder.
    """
    store = Gallery.open(gallery)
    gone = len(store.find_gone())
    people = {item.identity for item in store.items if item.identity}
    cameras = {item.camera for item in store.items if item.camera}
    print(f"{len(store)} items, {len(people)} known identities, {len(cameras)} known cameras")
    print(f"vectors of {store.weights_name}, network {store.weights_sha256}")
    print(f"attributes: {', '.join(store.attributes) or 'none'}")
    if gone:
        print(
            f"the files of {gone} items are gone from the disk; `osnet index FOLDER --out {gallery} --prune` removes "
            "those of a folder"
        )


@gallery_app.command(name="remove")
def gallery_remove(
    gallery: GalleryArg,
    *,
    identity: tuple[str, ...] = (),
    camera: tuple[str, ...] = (),
    after: str | None = None,
    before: str | None = None,
    source: str | None = None,
    dry_run: bool = False,
) -> None:
    """Delete items for good: their bytes are in none of the gallery's files afterwards.

    Items that meet all conditions given are deleted; at least one is needed.

    Args:
        gallery: its folder.
        identity: these identities.
        camera: from these cameras.
        after: taken at this time or later.
        before: taken at this time or earlier.
        source: the item with this source; if there is none, those whose sources match this pattern (*, ?, [...]).
        dry_run: delete nothing, list the items.
    """
    store = Gallery.open(gallery)
    where = _where(identity, camera, after, before, source)
    if dry_run:
        store.check_removal(where)
        found = store.find(where)
        print(*(item.source for item in found), f"{len(found)} of {len(store)} items would be removed", sep="\n")
        if not found:
            raise SystemExit(EXIT_FOUND_TROUBLE)
        return
    removed = store.remove(where)
    print(f"{removed} items removed, {len(store)} left")
    if not removed:
        raise SystemExit(EXIT_FOUND_TROUBLE)  # whoever asked for a deletion must see that nothing was deleted


def _read_items(
    crops: Path, identity_from: IdentityFrom | None, pattern: str | None, csv: Path | None, may_be_empty: bool
) -> tuple[list[Item], list[str]]:
    """Items for every image, with what the layout says of them; and what the user must know of those that it misses.

    ``may_be_empty``: the gallery exists, and may hold items of files that are gone.
    """
    paths = list(list_images(crops))
    if not paths and may_be_empty:
        return [], [f"no images in {crops}"]
    if not paths:
        raise no_images(crops)
    if identity_from is None and pattern is None and csv is None:
        odd = [path for path in paths if parse_name(path) is None]
        if 2 * len(odd) > len(paths):
            return [Item(str(plain_path(path))) for path in paths], _tell_unnamed(len(paths) - len(odd))
        notes = [] if not odd else [
            f"{len(odd)} of {len(paths)} names do not say who it is, as 0002_c1s1_000451_03.jpg does: "
            f"{name_some([str(path.relative_to(crops)) for path in odd])}"
        ]  # fmt: skip
        return [_read_market_item(path) for path in paths], notes
    found = read_folder(crops, FolderLayout(identity_from or "auto", pattern, csv))
    items = [
        Item(
            source=str(plain_path(crop.path)),
            identity=crop.identity if crop.pid > DISTRACTOR_PID else None,
            camera=crop.camera or None,
            time_s=crop.time_s,
        )
        for crop in found
    ]
    listed = {crop.path for crop in found}
    missed = [str(path.relative_to(crops)) for path in paths if path not in listed]
    if not missed:
        return items, []
    return items, [
        f"{csv} lists {len(items)} of {len(paths)} images in {crops}; the others are left out: {name_some(missed)}"
    ]


def _read_market_item(path: Path) -> Item:
    pid, camid = parse_name(path) or (DISTRACTOR_PID, None)
    return Item(
        str(plain_path(path)), str(pid) if pid > DISTRACTOR_PID else None, None if camid is None else str(camid)
    )


def _tell_unnamed(num_fitting: int) -> list[str]:
    told = "say who is on the crops with --identity-from, --pattern or --csv, if it is known"
    few = f"; {num_fitting} names are like Market-1501's, too few to read them so" if num_fitting else ""
    return [f"{told}{few}"]


def _open_gallery(folder: Path, weights: str | None, device: str, batch_size: int) -> tuple[Gallery, Embedder]:
    """A gallery and the embedder that belongs to it; the gallery's own copy of the weights by default."""
    own_copy = folder / WEIGHTS
    if weights is None and not (own_copy / CARD_FILE).exists():
        if (folder / MANIFEST).exists():
            raise GalleryError(f"{folder} carries no copy of its weights: name them, --weights PATH_OR_NAME")
        weights = DEFAULT_WEIGHTS
        print(f"no weights were named: taking {weights} ({LICENCE}); others: --weights PATH_OR_NAME", file=sys.stderr)
    embedder = open_embedder(weights or own_copy, device, batch_size)
    return Gallery.open(folder, embedder), embedder


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
    said = {} if hit.attributes is None else {"attributes": hit.attributes}
    return {"rank": hit.rank, "score": hit.score, **asdict(hit.item), **said}
