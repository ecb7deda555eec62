"""A lock for work that several processes need but only one may do, such as extracting images or an archive."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from osnet.errors import OutputError
from osnet.files import TEMPORARY_PREFIX, check_writable

TIMEOUT_S = 3600.0


@contextmanager
def one_at_a_time(path: Path, timeout_s: float = TIMEOUT_S) -> Iterator[None]:
    """Let one process at a time create ``path``, a file or a folder.

    Other processes wait for the lock. Once they have it, they must check whether ``path`` exists by now. The lock file
    lies beside ``path``. It is deleted if the block succeeds and kept if the block raises, because a process that is
    already waiting and a process that starts later must then use the same lock file. The operating system releases the
    lock of a process that dies.

    Args:
        path: the file or folder to create.
        timeout_s: how long to wait for the lock, in seconds.

    Raises:
        OutputError: the folder is not writable, its file system has no locks, or another process holds the lock for
            longer than ``timeout_s``.
    """
    file = path.with_name(f"{TEMPORARY_PREFIX}{path.name}.lock")
    check_writable(file)
    lock = FileLock(file, timeout=timeout_s)
    try:
        lock.acquire()
    except Timeout as error:
        raise OutputError(
            f"another process has been creating {path} for more than {timeout_s:,.0f} s; wait for it or stop it"
        ) from error
    except (OSError, NotImplementedError) as error:
        raise OutputError(f"cannot lock {file}: {error}") from error
    try:
        yield
        with suppress(OSError):  # Windows cannot delete an open file
            file.unlink(missing_ok=True)
    finally:
        lock.release()
