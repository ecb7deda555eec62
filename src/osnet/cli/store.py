"""osnet store copy, show, check, erase, expire."""

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from osnet.cli.common import EXIT_FOUND_TROUBLE, Texts, draw_progress, name_some, store_app
from osnet.cli.gallery import make_where
from osnet.data.folder import parse_time
from osnet.errors import GalleryError
from osnet.gallery import Erased
from osnet.gallery.copying import copy_store, open_store

Address = Annotated[str, Positional, tyro.conf.arg(metavar="STORE")]


@store_app.command(name="copy")
def store_copy(
    source: Annotated[str, Positional, tyro.conf.arg(metavar="SRC")],
    destination: Annotated[str, Positional, tyro.conf.arg(metavar="DST")],
) -> None:
    """Copy all items of one store into another, then compare them. The same command resumes.

    A store is a gallery's folder, postgresql://USER@HOST/DATABASE, qdrant:FOLDER, qdrant-edge:FOLDER, or
    qdrant+http://HOST:PORT/COLLECTION. The destination is made if it does not exist. Probabilities of attributes are
    not copied.

    Args:
        source: the store to copy from.
        destination: the store to copy to.
    """
    origin = open_store(source)
    target = open_store(destination, like=origin)
    done = copy_store(origin, target, progress=draw_progress)
    print(f"{done.copied} items copied, {done.there} were there, {len(target)} in all")
    if done.differing:
        print(f"{len(done.differing)} differ: {name_some(done.differing)}")
        raise SystemExit(EXIT_FOUND_TROUBLE)
    print("compared: items are equal, embeddings within 1e-6")


@store_app.command(name="show")
def store_show(store: Address) -> None:
    """Show how many items a store holds, and of which weights.

    Args:
        store: as for copy.
    """
    opened = open_store(store)
    print(f"{len(opened)} items of {opened.embedding_size} numbers")
    print(f"embeddings by {opened.weights_name}, network {opened.weights_sha256}")


@store_app.command(name="check")
def store_check(store: Address) -> None:
    """Check a store for damage.

    Args:
        store: as for copy.
    """
    faults = open_store(store).check()
    print(*faults or ["no faults"], sep="\n")
    if faults:
        raise SystemExit(EXIT_FOUND_TROUBLE)


@store_app.command(name="erase")
def store_erase(
    store: Address,
    *,
    identity: Texts = (),
    camera: Texts = (),
    after: str | None = None,
    before: str | None = None,
    source: str | None = None,
    data_folder: Path | None = None,
    dry_run: bool = False,
) -> None:
    """Delete items and their bytes, then look for the bytes in the store's files.

    Args:
        store: as for copy.
        identity: these identities.
        camera: from these cameras.
        after: taken at this time or later.
        before: taken at this time or earlier.
        source: this source, or a pattern.
        data_folder: of a PostgreSQL server on this machine, to look into its files.
        dry_run: count the items and delete nothing.
    """
    where = make_where(identity, camera, after, before, source)
    if where.is_empty:
        raise GalleryError("erase needs a condition; to delete everything, delete the store")
    if dry_run:
        opened = open_store(store)
        print(f"{opened.count(where)} of {len(opened)} items would be erased")
        return
    _report(open_store(store, data_folder=data_folder).erase(where))


@store_app.command(name="expire")
def store_expire(store: Address, *, before: str, data_folder: Path | None = None) -> None:
    """Delete everything that was taken before a time. Items without a time stay.

    Args:
        store: as for copy.
        before: seconds or ISO 8601, UTC.
        data_folder: of a PostgreSQL server on this machine, to look into its files.
    """
    _report(open_store(store, data_folder=data_folder).expire(parse_time(before, "--before", refuse_year=True)))


def _report(done: Erased) -> None:
    print(f"{done.rows} items erased; {done.rewritten} files or partitions rewritten, {done.deleted} deleted")
    if done.rows:
        looked = (
            f"looked for the bytes in {done.bytes_searched} bytes of files"
            if done.bytes_searched
            else "files not looked at"
        )
        print(f"{looked}: {'found in ' + ', '.join(done.found_again) if done.found_again else 'nothing found'}")
    print("out of reach:", *done.out_of_reach, sep="\n  ")
    if done.found_again or not done.rows:
        raise SystemExit(EXIT_FOUND_TROUBLE)
