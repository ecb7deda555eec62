"""Downloads, and the folder that they are kept in."""

import os
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from osnet.errors import OutputError


def cache_folder() -> Path:
    """``$OSNET_CACHE``, or ``~/.cache/osnet``. It may not exist.

    Raises:
        OutputError: this user has no home, and ``OSNET_CACHE`` is not set.
    """
    if given := os.environ.get("OSNET_CACHE"):
        return Path(given)
    try:
        return Path.home() / ".cache" / "osnet"
    except RuntimeError as error:
        raise OutputError("this user has no home folder; set OSNET_CACHE to a folder for downloads") from error


def download(url: str, most_bytes: int, timeout_s: float) -> bytes:
    """The content of a URL; of a longer one, ``most_bytes`` + 1 bytes.

    Raises:
        OSError: it cannot be reached, the answer is not HTTP, or the connection broke before the end.
    """
    try:
        with urlopen(url, timeout=timeout_s) as answer:  # noqa: S310  the callers check the scheme
            content: bytes = answer.read(most_bytes + 1)
            length = int(answer.headers.get("Content-Length") or 0)
    except (HTTPException, ValueError) as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
    if len(content) < min(length, most_bytes + 1):
        raise OSError(f"the connection broke after {len(content)} of {length} bytes")
    return content
