"""The data layer: one set of SQL statements, which run on SQLite (``database_sqlite``) and on Postgres
(``database_postgres``).

Statements use ``?`` for values and portable SQL only. Identifiers are texts made by us. Reads see what was last
committed. Writes happen in one transaction at a time, also of several writers, so a crash leaves all of it or nothing,
and the audit log's chain has no forks.
"""

import os
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

from osnet.errors import OsnetError

Row = dict[str, Any]
BUSY_TIMEOUT_S = 10.0
STATE_FILE = "state.sqlite"
"""In the folder of a service's state."""
POSTGRES = ("postgresql://", "postgres://")


class StateError(OsnetError, RuntimeError):
    """The service's state cannot be read or written: locked by another process, disk full, damaged, out of reach."""


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


def list_pending(there: set[int], name: str) -> list[tuple[int, list[str]]]:
    """Numbers and statements of the migrations that are not there yet.

    Args:
        there: numbers that were applied.
        name: of the state, for the error.

    Raises:
        StateError: a newer version has written it.
    """
    migrations = read_migrations()
    newest = migrations[-1][0]
    if there and max(there) > newest:
        raise StateError(
            f"{name} was written by a newer version (its number is {max(there)}, the newest known {newest}); "
            "update osnet"
        )
    return [(number, split_statements(sql)) for number, sql in migrations if number not in there]


def lists_of(values: Iterable[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """For ``IN``: question marks and as many values, at most 500 at a time."""
    ordered = sorted(values)
    for first in range(0, len(ordered), 500):
        some = tuple(ordered[first : first + 500])
        yield ", ".join("?" * len(some)), some


def split_statements(sql: str) -> list[str]:
    """The statements of a migration. Comments are whole lines; no text in them holds a semicolon."""
    lines = [line for line in sql.splitlines() if not line.lstrip().startswith("--")]
    return [statement.strip() for statement in "\n".join(lines).split(";") if statement.strip()]


def storable(text: str) -> str:
    """The text with U+FFFD for what no database stores: zero bytes, and halves of surrogate pairs."""
    if not text.isascii():
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text.replace("\0", "\ufffd") if "\0" in text else text


class Transaction(ABC):
    """Statements on one connection."""

    def run(self, sql: str, *values: Any) -> int:
        """Execute one statement. Returns the number of rows that it changed."""
        return int(self._execute(sql, _storable(values)).rowcount)

    def run_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Execute one statement for each row of values."""
        if rows:
            self._execute_many(sql, [_storable(row) for row in rows])

    def all(self, sql: str, *values: Any) -> list[Row]:
        """Rows as dicts, column -> value."""
        return [dict(row) for row in self._execute(sql, _storable(values)).fetchall()]

    def one(self, sql: str, *values: Any) -> Row | None:
        """The first row, or None."""
        row = self._execute(sql, _storable(values)).fetchone()
        return None if row is None else dict(row)

    @abstractmethod
    def _execute(self, sql: str, values: tuple[Any, ...]) -> Any:
        """A cursor with ``rowcount``, ``fetchone`` and ``fetchall``."""

    @abstractmethod
    def _execute_many(self, sql: str, rows: list[tuple[Any, ...]]) -> None: ...


def _storable(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple([storable(value) if type(value) is str else value for value in values])


class Database(ABC):
    """The state of one service.

    Connections are lent to one thread at a time and used again, so their number is that of threads at work.
    """

    name: str
    """For messages; without a password."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._free: list[Any] = []
        self._lending, self._writing = threading.Lock(), threading.RLock()
        self._local = threading.local()

    def all(self, sql: str, *values: Any) -> list[Row]:
        """Rows of a SELECT, as dicts."""
        with self._reading() as tx:
            return tx.all(sql, *values)

    def one(self, sql: str, *values: Any) -> Row | None:
        """The first row of a SELECT, or None."""
        with self._reading() as tx:
            return tx.one(sql, *values)

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """One transaction. It is committed at the end, or rolled back if the body raises.

        Raises:
            StateBusyError, StateFullError, StateError: it cannot be written; nothing was.
        """
        if (inside := self._inside()) is not None:  # the caller's caller has begun one
            yield inside
            return
        with self._writing, self._named_errors(), self._lent() as connection, self._transaction(connection) as tx:
            self._local.transaction = tx
            try:
                yield tx
            finally:
                self._local.transaction = None

    def close(self) -> None:
        """Close the connections that no thread uses now."""
        with self._lending:
            free, self._free = self._free, []
        for connection in free:
            with suppress(Exception):
                connection.close()

    @abstractmethod
    def forget(self) -> None:
        """Make sure that what was deleted is in no file of the state. Waits for readers."""

    @abstractmethod
    def files(self) -> list[Path]:
        """The files that hold the state now, as far as this machine can read them."""

    @abstractmethod
    def out_of_reach(self) -> list[str]:
        """What ``forget`` cannot reach, or ``files`` does not show, in words."""

    @abstractmethod
    def claim(self) -> None:
        """Be the only service on this state, until the process ends or ``unclaim``. Raises StateBusyError."""

    @abstractmethod
    def unclaim(self) -> None:
        """Let another service have it."""

    def _inside(self) -> Transaction | None:
        if self._process != os.getpid():  # a forked child must not touch its parent's connections
            self._abandoned = self._free  # kept, so that none of them is closed here
            self._reset()
        inside: Transaction | None = getattr(self._local, "transaction", None)
        return inside

    @contextmanager
    def _reading(self) -> Iterator[Transaction]:
        if (inside := self._inside()) is not None:
            with self._named_errors():
                yield inside
            return
        with self._named_errors(), self._lent() as connection:
            yield self._statements(connection)

    @contextmanager
    def _lent(self) -> Iterator[Any]:
        with self._lending:
            connection = self._free.pop() if self._free else None
        connection = connection or self._connect()
        try:
            yield connection
        finally:
            if self._is_usable(connection):
                with self._lending:
                    self._free.append(connection)

    @abstractmethod
    def _connect(self) -> Any: ...

    @abstractmethod
    def _statements(self, connection: Any) -> Transaction: ...

    @abstractmethod
    def _transaction(self, connection: Any) -> AbstractContextManager[Transaction]: ...

    @abstractmethod
    def _named_errors(self) -> AbstractContextManager[None]: ...

    def _is_usable(self, connection: Any) -> bool:
        return True


def open_database(state: str | Path) -> Database:
    """The state at an address of Postgres, or in a file of SQLite; made if it is not there.

    Raises:
        StateError: it cannot be opened, or was written by a newer version.
        MissingExtraError: an address of Postgres without psycopg.
    """
    if isinstance(state, str) and state.startswith(POSTGRES):
        from osnet.service.database_postgres import PostgresDatabase

        return PostgresDatabase(state)
    from osnet.service.database_sqlite import SqliteDatabase

    return SqliteDatabase(state)
