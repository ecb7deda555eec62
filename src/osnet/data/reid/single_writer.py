"""What several processes want made, and one makes: extracted images, an unpacked archive."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from osnet.errors import OutputError
from osnet.files import TEMPORARY_PREFIX, check_writable

TIMEOUT_S = 3600.0


@contextmanager
def one_at_a_time(path: Path, timeout_s: float = TIMEOUT_S) -> Iterator[None]:
    """One process works on ``path``, a file or a folder; others wait, and then must look whether it is there.

    The lock is a file beside it, which goes when the work has gone well. It stays if it has not: only then does anybody
    who waits have work to do, and must not find another lock than who comes later. A process that dies lets go.

    Raises:
        OutputError: no permission to write there, no locks there, or another process takes longer than ``timeout_s``.
    """
    file = path.with_name(f"{TEMPORARY_PREFIX}{path.name}.lock")
    check_writable(file)
    lock = FileLock(file, timeout=timeout_s)
    try:
        lock.acquire()
    except Timeout as error:
        raise OutputError(
            f"another process has been making {path} for {timeout_s:,.0f} s; wait for it, or end it"
        ) from error
    except (OSError, NotImplementedError) as error:
        raise OutputError(f"cannot lock {file}: {error}") from error
    try:
        yield
        with suppress(OSError):  # Windows does not delete what is open
            file.unlink(missing_ok=True)
    finally:
        lock.release()
