"""The state in one SQLite file.

SQLite runs with ``secure_delete`` (deleted rows are overwritten), a write-ahead log, foreign keys and full
synchronisation. ``forget`` also empties the log, so that deleted bytes are in no file.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from osnet.files import make_folder
from osnet.service import database
from osnet.service.database import Database, StateBusyError, StateError, StateFullError, Transaction, list_pending

CLAIM = ".serving"


class SqliteTransaction(Transaction):
    """Statements on one SQLite connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def _execute(self, sql: str, values: tuple[Any, ...]) -> sqlite3.Cursor:
        return self._connection.execute(sql, values)

    def _execute_many(self, sql: str, rows: list[tuple[Any, ...]]) -> None:
        self._connection.executemany(sql, rows)


class SqliteDatabase(Database):
    """The state of one service in one SQLite file.

    Args:
        path: the file; it is made, with its folder (readable by its owner only), and brought to the newest version.

    Raises:
        StateError: it cannot be opened, is damaged, or was written by a newer version.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self.name = str(path)
        self._claim = FileLock(self.path.with_name(CLAIM), timeout=0)
        make_folder(self.path.parent)
        with suppress(OSError):
            self.path.parent.chmod(0o700)
        with self._named_errors():
            self._migrate()
            with suppress(OSError):
                self.path.chmod(0o600)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=database.BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        connection.row_factory = sqlite3.Row
        for pragma in ("journal_mode=WAL", "foreign_keys=ON", "secure_delete=ON", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("PRAGMA temp_store=MEMORY")
        connection.execute("PRAGMA cache_size=-1000")  # kB for each connection; one for each thread at work
        return connection

    def _migrate(self) -> None:
        with self.write() as tx:
            tx.run("CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, applied_s DOUBLE PRECISION)")
            there = {row["number"] for row in tx.all("SELECT number FROM migrations")}
            for number, statements in list_pending(there, self.name):
                for statement in statements:
                    tx.run(statement.replace(" BYTES", " BLOB"))
                tx.run("INSERT INTO migrations VALUES (?, unixepoch())", number)

    def _statements(self, connection: sqlite3.Connection) -> SqliteTransaction:
        return SqliteTransaction(connection)

    @contextmanager
    def _transaction(self, connection: sqlite3.Connection) -> Iterator[SqliteTransaction]:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield SqliteTransaction(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # a full disk has rolled back already
                connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            text = str(error)
            if "locked" in text or "busy" in text:
                raise StateBusyError(f"{self.path} is locked by another process; try again") from error
            if "full" in text:
                raise StateFullError(f"no space is left for {self.path}; free some and try again") from error
            raise StateError(f"{self.path} cannot be used: {text}") from error

    def forget(self) -> None:
        """Empty the write-ahead log: what was deleted is then in no file. Waits for readers."""
        self._inside()
        with self._writing, self._named_errors(), self._lent() as connection:
            busy = int(connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
            if busy != 0:
                raise StateBusyError(f"{self.path}: another process reads it, so its log cannot be emptied; try again")

    def files(self) -> list[Path]:
        """The files that hold the state now."""
        names = [self.path, *(self.path.with_name(self.path.name + end) for end in ("-wal", "-shm", "-journal"))]
        return [path for path in names if path.exists()]

    def out_of_reach(self) -> list[str]:
        """Nothing beyond what erasures always name."""
        return []

    def claim(self) -> None:
        """Be the only service on this state. Raises StateBusyError."""
        if self._claim.is_locked:
            return
        try:
            self._claim.acquire()
        except Timeout as error:
            raise StateBusyError(
                f"another service runs on {self.path.parent}; stop it, or give another --state"
            ) from error

    def unclaim(self) -> None:
        """Let another service have it."""
        self._claim.release()
