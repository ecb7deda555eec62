"""Files of a database engine that runs: it deletes some of its own at any time."""

from collections.abc import Iterable
from pathlib import Path


def read_there(path: Path) -> bytes:
    """The bytes of a file; none if it was deleted meanwhile."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def read_all(paths: Iterable[Path]) -> bytes:
    """The bytes of all files that are there."""
    return b"".join(read_there(path) for path in paths if path.is_file())
