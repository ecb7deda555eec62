"""Atomic writing, locks, checks of values read from files, file names, hashing."""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from secrets import token_hex
from threading import get_native_id
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints
from unicodedata import category

from osnet.errors import OutputError

TEMPORARY_PREFIX = ".writing-"
"""Files with this prefix are leftovers of an interrupted write and may be deleted."""
_TOKEN = token_hex(4)
"""Added to the process id, because two containers with equal process ids may write to one disk."""


@contextmanager
def written_aside(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``. The file written there is renamed to ``path`` at the end.

    The rename is atomic: a reader sees the old file or the new one, also after a crash. If the body raises, ``path``
    stays as it was and the temporary file is deleted. Of several threads or processes, the last one's file stays.

    Raises:
        OutputError: the folder does not exist or cannot be written to.
    """
    path = Path(path)
    check_writable(path)
    aside = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{get_native_id()}-{_TOKEN}-{path.name}")
    try:
        yield aside
        _sync(aside)
        aside.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


@contextmanager
def one_writer(path: Path, timeout_s: float = 600.0, needs_lock: bool = False) -> Iterator[None]:
    """Let one process at a time write ``path``, a file or a folder, and what belongs to it.

    Others wait; once it is their turn, they must look again whether ``path`` exists. The lock file lies beside ``path``
    and is deleted at the end. The operating system releases the lock of a process that dies.

    Args:
        path: what to write; the folder it lies in exists.
        timeout_s: how long to wait for another process, in seconds.
        needs_lock: raise where there can be no lock. Otherwise there is no protection, and if the folder cannot be
            written to, the write says so.

    Raises:
        OutputError: another process holds the lock for longer than ``timeout_s``. With ``needs_lock`` also: the folder
            is not writable, or its file system has no locks.
    """
    from filelock import FileLock, Timeout  # its import takes long, and most commands need no lock

    file = path.with_name(f"{TEMPORARY_PREFIX}{path.name}.lock")
    if needs_lock:
        check_writable(file)
    lock = FileLock(file, timeout=timeout_s)
    try:
        lock.acquire()
    except Timeout as error:
        raise OutputError(
            f"another process has been writing {path} for more than {timeout_s:g} s; wait until it ends or stop it"
        ) from error
    except (OSError, NotImplementedError) as error:
        if needs_lock:
            raise OutputError(f"cannot lock {file}: {error}") from error
    try:
        yield
    finally:
        try:
            if lock.is_locked:
                with suppress(OSError):  # Windows cannot delete an open file
                    file.unlink(missing_ok=True)
        finally:
            lock.release()


def _sync(path: Path) -> None:
    """Flush ``path`` to the disk, where the system supports it."""
    with suppress(OSError):  # folders cannot be opened on Windows
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def check_writable(path: str | Path, reads: Iterable[str | Path] = ()) -> None:
    """Raise now, before any long work, if a file cannot be written at ``path``.

    Args:
        path: the file to write.
        reads: files that are read meanwhile; ``path`` must be none of them.

    Raises:
        OutputError: ``path`` is a folder or one of ``reads``, or its folder does not exist or is not writable.
    """
    target = Path(path).resolve()
    there = target.exists()  # else no other name leads to it, and comparing thousands of names is quick
    if target in {Path(read).resolve() for read in reads if there or Path(read).name == target.name}:
        raise OutputError(f"cannot write {path}: this file is read, and would be lost; choose another name")
    if Path(path).is_dir():
        raise OutputError(f"cannot write {path}: it is a folder; give the name of a file")
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        raise OutputError(f"cannot write {path}: there is no folder {folder}; create it first")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"cannot write {path}: no permission to write in {folder}")


def make_folder(path: str | Path) -> Path:
    """Create the folder ``path`` and its parents, if missing.

    Raises:
        OutputError: it cannot be created.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {path}: {error.strerror or error}") from error
    return path


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as JSON, atomically. Raises ValueError for NaN and infinity, which are not JSON."""
    with written_aside(path) as aside:
        aside.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain_path(path: str | Path) -> Path:
    """``path`` as an absolute path without ``..`` and doubled slashes, so that one file has one name.

    Links are not resolved, except a link that ``..`` follows: its parent folder is not the one that the text shows.
    """
    absolute = Path(path).absolute()
    if ".." not in absolute.parts and absolute.anchor != "//":
        return absolute
    plain = Path("/") if absolute.anchor == "//" else Path(absolute.anchor)
    for part in absolute.relative_to(absolute.anchor).parts:
        if part != "..":
            plain /= part
        else:
            plain = (plain.resolve() if plain.is_symlink() else plain).parent
    return plain


def printable(text: str) -> str:
    """``text`` with escapes (``\\udcff``) for control characters and for bytes of a file name that are not UTF-8.

    Line breaks stay.
    """
    odd = {c for c in set(text) if c != "\n" and category(c) in ("Cc", "Cs")}
    return text.translate({ord(c): c.encode("unicode_escape").decode("ascii") for c in odd})


def is_plain_name(name: str) -> bool:
    """True if ``name`` is a file name that cannot leave its folder: no separators, no leading dot."""
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}", name) is not None


def check_fields(settings: Any) -> None:
    """Check the values of a dataclass read from a file against its type hints; also of dataclasses in it.

    Raises:
        ValueError: a value of another type, or a float that is not finite. An int is accepted for a float.
    """
    kind: Any = type(settings)
    hints = _type_hints(kind)
    for entry in fields(settings):
        value = getattr(settings, entry.name)
        if not _fits(value, hints[entry.name]):
            wanted = entry.type.__name__ if isinstance(entry.type, type) else entry.type
            raise ValueError(f"{entry.name} is {value!r}, not {wanted}")


_type_hints = cache(get_type_hints)


def _fits(value: Any, hint: Any) -> bool:
    kind, parts = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if kind is Literal:
        return value in parts
    if kind is tuple:
        if not isinstance(value, tuple):
            return False
        each = [parts[0]] * len(value) if parts[-1] is Ellipsis else parts
        return len(each) == len(value) and all(map(_fits, value, each))
    if hint is float:
        return isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        return False
    if is_dataclass(value):
        check_fields(value)
    return True
