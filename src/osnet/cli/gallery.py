"""osnet gallery: show what a gallery contains, or delete items from it."""

import difflib
import sys
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from osnet.cli.common import EXIT_FOUND_TROUBLE, Texts, gallery_app
from osnet.data.folder import parse_time
from osnet.embedding.attribute_predictor import open_embedder
from osnet.embedding.embedder import Embedder
from osnet.errors import GalleryError
from osnet.gallery import Gallery, Where
from osnet.gallery.gallery_folder import WEIGHTS
from osnet.gallery.segments import MANIFEST
from osnet.runtime.backends import BackendName
from osnet.weights.card import CARD_FILE, read_card
from osnet.weights.open_model_zoo import DEFAULT_WEIGHTS, LICENCE

GalleryArg = Annotated[Path, Positional, tyro.conf.arg(metavar="GALLERY")]


def forget_switched_off(store: Gallery) -> None:
    """Delete from a gallery the attributes that the card of its weights switches off."""
    own_copy = store.folder / WEIGHTS
    if store.attributes and (own_copy / CARD_FILE).exists():
        store.forget_attributes(read_card(own_copy)[0].attributes_off)


@gallery_app.command(name="show")
def gallery_show(gallery: GalleryArg) -> None:
    """Show what a gallery holds.

    Args:
        gallery: the folder of the gallery.
    """
    store = Gallery.open(gallery)
    gone = len(store.find_gone())
    people = {item.identity for item in store.items if item.identity}
    cameras = {item.camera for item in store.items if item.camera}
    print(f"{len(store)} items, {len(people)} known identities, {len(cameras)} known cameras")
    print(f"embeddings by {store.weights_name}, network {store.weights_sha256}")
    print(f"attributes: {', '.join(store.attributes) or 'none'}")
    if gone:
        print(
            f"the files of {gone} items are gone; `osnet index FOLDER --out {gallery} --prune` deletes the "
            "items of a folder"
        )


@gallery_app.command(name="remove")
def gallery_remove(
    gallery: GalleryArg,
    *,
    identity: Texts = (),
    camera: Texts = (),
    after: str | None = None,
    before: str | None = None,
    source: str | None = None,
    dry_run: bool = False,
) -> None:
    """Delete items permanently: no file of the gallery contains their bytes afterwards.

    Items that meet all given conditions are deleted. At least one condition is required.

    Args:
        gallery: the folder of the gallery.
        identity: these identities.
        camera: from these cameras.
        after: taken at this time or later.
        before: taken at this time or earlier.
        source: the item with this source; or, if none has it, items whose source matches it as a pattern (*, ?, [...]).
        dry_run: list the items and delete nothing.
    """
    store = Gallery.open(gallery)
    where = make_where(identity, camera, after, before, source)
    if dry_run:
        store.check_removal(where)
        found = store.find(where)
        print(*(item.source for item in found), f"{len(found)} of {len(store)} items would be removed", sep="\n")
        if not found:
            tell_unknown(where, store)
            raise SystemExit(EXIT_FOUND_TROUBLE)
        return
    removed = store.remove(where)
    print(f"{removed} items removed, {len(store)} left")
    if not removed:
        tell_unknown(where, store)
        raise SystemExit(EXIT_FOUND_TROUBLE)  # the user must notice that nothing was deleted


def choose_weights(folder: Path, description: str, weights: str | None) -> str:
    """Path or name of the weights of a gallery or an archive: as given; else its own copy; of a new one, the default.

    Args:
        folder: of the gallery or archive.
        description: the file that every existing one holds.
        weights: as given by the user.

    Raises:
        GalleryError: it exists and holds no copy of its weights.
    """
    if weights is not None:
        return weights
    if (folder / WEIGHTS / CARD_FILE).exists():
        return str(folder / WEIGHTS)
    if (folder / description).exists():
        raise GalleryError(f"{folder} contains no copy of its weights; give --weights PATH_OR_NAME")
    print(f"no --weights given: using {DEFAULT_WEIGHTS} ({LICENCE})", file=sys.stderr)
    return DEFAULT_WEIGHTS


def open_gallery(
    folder: Path, weights: str | None, device: str, batch_size: int, backend: BackendName = "auto"
) -> tuple[Gallery, Embedder]:
    """Open a gallery and its embedder. ``weights`` defaults to the gallery's own copy."""
    embedder = open_embedder(choose_weights(folder, MANIFEST, weights), device, batch_size, backend)
    return Gallery.open(folder, embedder), embedder


def tell_unknown(where: Where, store: Gallery) -> None:
    """Name the identities and cameras of a condition that the gallery does not have, and similar ones that it has."""
    items = store.items
    for kind, wanted, known in (
        ("identity", where.identities, {item.identity for item in items if item.identity}),
        ("camera", where.cameras, {item.camera for item in items if item.camera}),
    ):
        for name in sorted((wanted or frozenset()) - known):
            near = [n for n in known if n.lstrip("0 ").lower() == name.lstrip("0 ").lower()]
            near = near or difflib.get_close_matches(name, known, 3)
            hint = f"; it has {', '.join(map(repr, sorted(near)))}" if near else f"; it has {len(known)} others"
            print(f"note: the gallery has no {kind} {name!r}{hint}", file=sys.stderr)


def make_where(
    identity: tuple[str, ...], camera: tuple[str, ...], after: str | None, before: str | None, source: str | None
) -> Where:
    """Turn the flags of a search or a deletion into conditions. Raises DataError if a time cannot be read."""
    return Where(
        identities=frozenset(identity) if identity else None,
        cameras=frozenset(camera) if camera else None,
        after_s=parse_time(after, "--after", refuse_year=True) if after is not None else None,
        before_s=parse_time(before, "--before", refuse_year=True) if before is not None else None,
        source=source,
    )
