"""The data layer: SQL that runs on SQLite here, and on Postgres too.

Statements use ``?`` for values and portable SQL only. Identifiers are texts made by us. Reads see what was last
committed. Writes happen in one transaction at a time, so a crash leaves all of it or nothing.

SQLite runs with ``secure_delete`` (deleted rows are overwritten), a write-ahead log, foreign keys and full
synchronisation. ``forget`` also empties the log, so that deleted bytes are in no file.
"""

import os
import re
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

from osnet.errors import OsnetError
from osnet.files import make_folder

Row = dict[str, Any]
BUSY_TIMEOUT_S = 10.0
STATE_FILE = "state.sqlite"
"""In the folder of a service's state."""


class StateError(OsnetError, RuntimeError):
    """The service's state cannot be read or written: locked by another process, disk full, damaged."""


class StateBusyError(StateError):
    """Another process holds the state; try again."""


class StateFullError(StateError):
    """No space is left where the state is stored."""


def read_migrations() -> list[tuple[int, str]]:
    """Numbers and SQL of all migrations, in order: ``migrations/0001_state.sql`` and so on."""
    folder = files("osnet.service") / "migrations"
    found = []
    for path in folder.iterdir():
        if match := re.fullmatch(r"(\d{4})_\w+\.sql", path.name):
            found.append((int(match[1]), path.read_text(encoding="utf-8")))
    return sorted(found)


class Transaction:
    """Statements of one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def run(self, sql: str, *values: Any) -> int:
        """Execute one statement. Returns the number of rows that it changed."""
        return self._connection.execute(sql, values).rowcount

    def run_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Execute one statement for each row of values."""
        self._connection.executemany(sql, rows)

    def all(self, sql: str, *values: Any) -> list[Row]:
        """Rows as dicts, column -> value."""
        return [dict(row) for row in self._connection.execute(sql, values)]

    def one(self, sql: str, *values: Any) -> Row | None:
        """The first row, or None."""
        row = self._connection.execute(sql, values).fetchone()
        return None if row is None else dict(row)


class Database:
    """The state of one service in one SQLite file.

    Args:
        path: the file; it is made, with its folder (readable by its owner only), and brought to the newest version.

    Raises:
        StateError: it cannot be opened, is damaged, or was written by a newer version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        make_folder(self.path.parent)
        with suppress(OSError):
            self.path.parent.chmod(0o700)
        self._local = threading.local()
        self._open: list[sqlite3.Connection] = []
        self._writing = threading.RLock()
        with self._named_errors():
            self._migrate()
            with suppress(OSError):
                self.path.chmod(0o600)

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None or self._local.process != os.getpid():
            connection = sqlite3.connect(
                self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            connection.row_factory = sqlite3.Row
            for pragma in ("journal_mode=WAL", "foreign_keys=ON", "secure_delete=ON", "synchronous=FULL"):
                connection.execute(f"PRAGMA {pragma}")
            connection.execute("PRAGMA temp_store=MEMORY")
            self._local.connection, self._local.process = connection, os.getpid()
            with self._writing:
                self._open.append(connection)
        return connection

    def _migrate(self) -> None:
        connection = self._connection()
        migrations = read_migrations()
        newest = migrations[-1][0]
        with self._writing:
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, applied_s DOUBLE PRECISION)"
                )
                there = {row[0] for row in connection.execute("SELECT number FROM migrations")}
                if there and max(there) > newest:
                    raise StateError(
                        f"{self.path} was written by a newer version (its number is {max(there)}, the newest known "
                        f"{newest}); update osnet"
                    )
                for number, sql in migrations:
                    if number not in there:
                        for statement in split_statements(sql.replace(" BYTES", " BLOB")):
                            connection.execute(statement)
                        connection.execute("INSERT INTO migrations VALUES (?, unixepoch())", (number,))
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            text = str(error)
            if "locked" in text or "busy" in text:
                raise StateBusyError(f"{self.path} is locked by another process; try again") from error
            if "full" in text:
                raise StateFullError(f"no space is left for {self.path}; free some and try again") from error
            if isinstance(error, sqlite3.IntegrityError):
                raise
            raise StateError(f"{self.path} cannot be used: {text}") from error

    def all(self, sql: str, *values: Any) -> list[Row]:
        """Rows of a SELECT, as dicts."""
        with self._named_errors():
            return Transaction(self._connection()).all(sql, *values)

    def one(self, sql: str, *values: Any) -> Row | None:
        """The first row of a SELECT, or None."""
        with self._named_errors():
            return Transaction(self._connection()).one(sql, *values)

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """One transaction. It is committed at the end, or rolled back if the body raises.

        Raises:
            StateBusyError, StateFullError, StateError: it cannot be written; nothing was.
        """
        with self._writing, self._named_errors():
            connection = self._connection()
            if connection.in_transaction:  # the caller's caller has begun one
                yield Transaction(connection)
                return
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield Transaction(connection)
                connection.execute("COMMIT")
            except BaseException:
                _roll_back(connection)
                raise

    def forget(self) -> None:
        """Empty the write-ahead log: what was deleted is then in no file. Waits for readers."""
        with self._writing, self._named_errors():
            busy = int(self._connection().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
            if busy != 0:
                raise StateBusyError(f"{self.path}: another process reads it, so its log cannot be emptied; try again")

    def files(self) -> list[Path]:
        """The files that hold the state now."""
        names = [self.path, *(self.path.with_name(self.path.name + end) for end in ("-wal", "-shm", "-journal"))]
        return [path for path in names if path.exists()]

    def close(self) -> None:
        """Close the connections of all threads."""
        with self._writing:
            for connection in self._open:
                with suppress(sqlite3.Error):
                    connection.close()
            self._open.clear()
            self._local = threading.local()


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:  # a full disk has rolled back already
        connection.execute("ROLLBACK")


def split_statements(sql: str) -> list[str]:
    """The statements of a migration. Comments are whole lines; no text in them holds a semicolon."""
    lines = [line for line in sql.splitlines() if not line.lstrip().startswith("--")]
    return [statement.strip() for statement in "\n".join(lines).split(";") if statement.strip()]
