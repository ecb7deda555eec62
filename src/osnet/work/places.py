"""Where a list of work is kept: a folder, or an object store through fsspec.

A result is committed in one step. In a folder the task writes aside and renames. An object store has no rename, so the
file is sent by a conditional put (``If-None-Match: *``), which fails if the object exists: the first worker's result
stays.
"""

import json
from pathlib import Path
from secrets import token_hex
from typing import Any

from osnet.errors import OutputError, require_extra
from osnet.files import TEMPORARY_PREFIX, make_folder, write_json

STORES = ("s3", "memory")
"""Object stores whose file system in fsspec has a put that fails if the object exists. ``memory`` is for tests."""


def is_object_store(place: str | Path) -> bool:
    """True for an address such as ``s3://bucket/name``."""
    return "://" in str(place)


def open_place(place: str | Path) -> Any:
    """A ``Path``, or the same for an object store (``UPath`` of universal-pathlib).

    Raises:
        OutputError: an object store whose puts cannot be conditional.
        MissingExtraError: ``osnet[s3]`` is not installed.
    """
    if not is_object_store(place):
        return Path(place)
    kind = str(place).split("://")[0]
    if kind not in STORES:
        raise OutputError(
            f"{place}: work can be kept in a folder or in s3://BUCKET/NAME; {kind}:// has no put that fails if the "
            "object exists"
        )
    upath = require_extra("upath", "s3")
    return upath.UPath(str(place), use_listings_cache=False)  # a cached list would hide what other machines do


def make_place(place: Any) -> None:
    """Make the folder, or find out if the object store does what is needed.

    Raises:
        OutputError: it cannot be written, or the store does not obey conditional puts.
    """
    if not is_object_store(place):
        for folder in (place, place / "results", place / "tries"):
            make_folder(folder)
        return
    probe = place / f"{TEMPORARY_PREFIX}{token_hex(8)}"
    try:
        obeyed = put_new(probe, b"1") and not put_new(probe, b"2")
        probe.unlink()
    except Exception as error:  # botocore's errors have no common class
        raise OutputError(f"cannot write to {place}: {error}") from error
    if not obeyed:
        raise OutputError(
            f"{place}: this store replaces an object although the put says If-None-Match: *, so two workers could "
            "overwrite each other; use a store with conditional puts, or a shared folder"
        )


def put_new(target: Any, content: bytes) -> bool:
    """Write an object unless it exists, in one step. Returns False if it exists."""
    try:
        target.fs.pipe_file(target.path, content, mode="create")
    except FileExistsError:
        return False
    return True


def put_json(target: Any, value: Any) -> None:
    """Write JSON in place of an older file. A put is atomic."""
    if is_object_store(target):
        target.write_bytes(json.dumps(value, indent=2, allow_nan=False).encode())
    else:
        write_json(target, value)


def files_in(folder: Any) -> list[Any]:
    """The files directly in a folder. An object store has no empty folders."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
