"""osnet index: embed a folder of crops into a gallery."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from osnet.cli.common import app, draw_progress, name_some, report_failures, report_other_files
from osnet.cli.gallery import open_gallery
from osnet.data.folder import FolderLayout, IdentityFrom, read_folder
from osnet.data.loading import list_images, no_images
from osnet.data.reid.market1501 import parse_name
from osnet.embedding.embedder import OnError
from osnet.errors import ImageError
from osnet.files import plain_path
from osnet.gallery import Added, Gallery
from osnet.gallery.indexing import index_files
from osnet.gallery.segments import MANIFEST
from osnet.gallery.stamps import Update
from osnet.runtime.backends import pick_backend
from osnet.types import DISTRACTOR_PID, Item


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
    """Embed a folder of crops into a new or an existing gallery.

    Crops that the gallery already holds are skipped; a crop whose file has changed is embedded again. The gallery
    keeps a copy of the weights, so searching needs nothing else. If the weights predict attributes, a new gallery also
    keeps their probabilities, except for attributes that are switched off.

    Args:
        crops: the folder of crops.
        out: the folder of the gallery.
        weights: a path or a short name. Default: the copy in the gallery; for a new gallery
            person-reidentification-retail-0287, which is downloaded if it is missing.
        identity_from: where identities are read from. Default: the pattern or the CSV if given; else Market-1501's
            file names, if at least half of the files have such names; else identities are unknown.
        pattern: a regular expression for the path, with groups (?P<identity>...), (?P<camera>...), (?P<time>...).
        csv: a table with the columns path, identity, camera, time.
        prune: also delete items of this folder whose files no longer exist.
        on_error: raise: stop at an image that cannot be read; skip: leave it out and report it.
        batch_size: crops per forward pass.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    explicit = not (identity_from is None and pattern is None and csv is None)
    items, notes = _read_items(crops, identity_from, pattern, csv, may_be_empty=(out / MANIFEST).exists())
    report_other_files(crops)
    gallery, embedder = open_gallery(out, weights, device, batch_size, pick_backend(len(items)))
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
        parts.append(f"{unknown} were embedded again, because the gallery does not record the state of their files")
    if plan.relabelled:
        parts.append(f"{len(plan.relabelled)} got other labels")
    print(", ".join([*parts, f"{plan.same + same} were there; {len(gallery)} in all"]))
    known, seen = sum(1 for item in items if item.identity), sum(1 for item in items if item.camera)
    print(f"of {len(items)} crops in {crops}, {known} have an identity and {seen} a camera")


def _tell_gone(gallery: Gallery, crops: Path, prune: bool) -> Iterator[str]:
    """Report items whose files no longer exist; with ``prune``, delete those below ``crops`` first."""
    everywhere, here = gallery.find_gone(), gallery.find_gone(crops)
    if prune:
        removed = gallery.prune(crops)
        print(f"{removed} items were deleted because their files no longer exist; {len(gallery)} left")
    elif here:
        yield f"the files of {len(here)} items below {crops} are gone; --prune deletes the items: {name_some(here)}"
    if elsewhere := len(everywhere) - len(here):
        yield f"{elsewhere} items of other folders have lost their files too"


def _tell_outdated(plan: Update, failures: list[ImageError]) -> Iterator[str]:
    kept = [failure.name for failure in failures if failure.name in plan.changed]
    if kept:
        yield (
            f"{len(kept)} crops have changed and cannot be read; the gallery keeps their old embeddings: "
            f"{name_some(kept)}"
        )


def _read_items(
    crops: Path, identity_from: IdentityFrom | None, pattern: str | None, csv: Path | None, may_be_empty: bool
) -> tuple[list[Item], list[str]]:
    """Read the items of a folder, and notes about images that the layout does not cover.

    ``may_be_empty``: the gallery exists, so a folder without images is allowed (``--prune`` may delete its items).
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
        notes = (
            []
            if not odd
            else [
                f"{len(odd)} of {len(paths)} file names contain no identity, as 0002_c1s1_000451_03.jpg does: "
                f"{name_some([str(path.relative_to(crops)) for path in odd])}"
            ]
        )
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
    note = "identities are unknown; if you know them, give --identity-from, --pattern or --csv"
    few = f"; {num_fitting} file names are like Market-1501's, which is too few to use them" if num_fitting else ""
    return [f"{note}{few}"]
