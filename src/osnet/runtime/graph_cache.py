"""ONNX graphs that were compared with their networks, kept on disk for the next process.

    $OSNET_CACHE/graphs (or ~/.cache/osnet/graphs)
      KEY.json        what is known of the graph, and the SHA-256 of
      KEY.onnx        its bytes

Reading never fails: what is missing, damaged, or could have been written by another user is made anew. A folder or
file counts only if it belongs to this user, no other user may write to it, and it is no link. Files are opened relative
to the checked folder, so replacing the folder in between changes nothing. On Windows nothing is kept, because Python
cannot check this there.
"""

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from osnet import downloads
from osnet.errors import OutputError
from osnet.files import written_aside

MAX_GRAPHS = 32
"""Graphs that are kept; the oldest are deleted first."""
MAX_BYTES = {".json": 1 << 20, ".onnx": 1 << 28}
"""Larger files are not read."""


def cache_folder() -> Path | None:
    """The folder of the graphs, which may not exist; None if this user has no home."""
    try:
        return downloads.cache_folder() / "graphs"
    except OutputError:
        return None


def load_graph(key: str) -> tuple[dict[str, Any], bytes] | None:
    """What ``store_graph`` was given under ``key``, a name of letters and digits; None if there is nothing to trust."""
    try:
        about = json.loads(_read(f"{key}.json"))
        content = _read(f"{key}.onnx")
        if about["key"] == key and about["onnx_sha256"] == hashlib.sha256(content).hexdigest():
            return dict(about["about"]), content
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return None


def store_graph(key: str, about: Mapping[str, Any], content: bytes) -> None:
    """Keep a graph under ``key``, with what JSON can hold about it. Without effect where that is not possible."""
    folder = cache_folder()
    if folder is None or not hasattr(os, "geteuid"):
        return
    record = {"key": key, "onnx_sha256": hashlib.sha256(content).hexdigest(), "about": about}
    with suppress(OSError, OutputError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(_open_folder(folder))
        for suffix, written in ((".onnx", content), (".json", json.dumps(record).encode())):
            with written_aside(folder / f"{key}{suffix}") as aside:
                aside.touch(mode=0o600)
                aside.write_bytes(written)
                aside.chmod(0o600)  # whatever the umask
        records = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in records[MAX_GRAPHS:]:
            old.unlink(missing_ok=True)
            old.with_suffix(".onnx").unlink(missing_ok=True)


def _open_folder(folder: Path) -> int:
    """A descriptor of the folder. Raises OSError if it is not this user's alone."""
    return _checked(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW), stat.S_ISDIR)


def _checked(descriptor: int, is_kind: Any) -> int:
    """The descriptor. If what it stands for is of another kind, or others may write to it, raise OSError."""
    found = os.fstat(descriptor)
    if is_kind(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022:
        return descriptor
    os.close(descriptor)
    raise PermissionError("not this user's alone")


def _read(name: str) -> bytes:
    """A file of the cache. Raises OSError if there is none to trust."""
    folder = cache_folder()
    if folder is None or not hasattr(os, "geteuid"):
        raise FileNotFoundError(name)
    place = _open_folder(folder)
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe must not block
        descriptor = _checked(os.open(name, flags, dir_fd=place), stat.S_ISREG)
    finally:
        os.close(place)
    with os.fdopen(descriptor, "rb") as file:
        limit = MAX_BYTES[Path(name).suffix]
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(f"{name} is larger than {limit} bytes")
    return content
