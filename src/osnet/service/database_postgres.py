"""The state in a schema of PostgreSQL (psycopg 3, extra ``osnet[postgres]``).

Writers take turns by an advisory lock, also those of other processes. ``forget`` rewrites the tables that rows were
deleted from (``VACUUM FULL``) and has the server delete old log files, which it does with ``wal_recycle = off``.
Statistics are off for texts and bytes: ``ANALYZE`` would copy values to where no erasure reaches them.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit, urlunsplit

from osnet.errors import DataError, require_extra
from osnet.gallery.postgres_store import flush_log
from osnet.service import database
from osnet.service.database import Database, StateBusyError, StateError, StateFullError, Transaction, list_pending

SCHEMA = "osnet_service"
CHANGES = re.compile(r"\s*(?:DELETE\s+FROM|UPDATE)\s+(\w+)", re.IGNORECASE)
CASCADES = {
    "accounts": ("sessions", "tokens"),
    "searches": ("queries", "hits", "answers", "watch_entries", "alerts"),
    "watch_entries": ("alerts",),
    "cases": ("searches",),
}
"""Tables that lose or change rows with others."""


class PostgresTransaction(Transaction):
    """Statements on one connection; they note the tables whose old rows stay in the files."""

    def __init__(self, connection: Any, touched: set[str]) -> None:
        self._connection, self._touched = connection, touched

    def _execute(self, sql: str, values: tuple[Any, ...]) -> Any:
        self._note(sql)
        cursor = self._connection.execute(sql.replace("?", "%s"), values)
        return cursor if cursor.description else _Done(cursor.rowcount)

    def _execute_many(self, sql: str, rows: list[tuple[Any, ...]]) -> None:
        self._note(sql)
        with self._connection.cursor() as cursor:
            cursor.executemany(sql.replace("?", "%s"), rows)

    def _note(self, sql: str) -> None:
        if match := CHANGES.match(sql):
            table = match[1].lower()
            self._touched.update((table, *CASCADES.get(table, ())))
        elif " DO UPDATE " in sql:
            self._touched.update(re.findall(r"INSERT INTO (\w+)", sql))


class _Done:
    """A cursor of a statement that gives no rows."""

    def __init__(self, rowcount: int) -> None:
        self.rowcount = rowcount

    def fetchall(self) -> list[Any]:
        return []

    def fetchone(self) -> None:
        return None


class PostgresDatabase(Database):
    """The state of one service in one schema.

    Args:
        address: ``postgresql://user@host/database``; ``?schema=NAME`` chooses a schema other than ``osnet_service``.
            It is made, and brought to the newest version. Passwords are better in PGPASSFILE than in an address.

    Raises:
        MissingExtraError: psycopg is not installed.
        DataError: an odd name of a schema, or an address that cannot be read.
        StateError: the server cannot be reached or refuses, or a newer version has written the schema.
    """

    def __init__(self, address: str) -> None:
        super().__init__()
        self._psycopg = require_extra("psycopg", "postgres")
        try:
            parts = urlsplit(address)
        except ValueError as error:
            raise DataError(f"the address of the PostgreSQL server cannot be read: {error}") from error
        options = parse_qs(parts.query.replace("+", "%2B"), keep_blank_values=True)  # for libpq, + is no space
        self.schema = options.pop("schema", [SCHEMA])[-1]
        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,39}", self.schema):
            raise DataError(f"schema {self.schema!r} must be small letters, digits and _, at most 40")
        self._address = urlunsplit(parts._replace(query=urlencode(options, doseq=True, quote_via=quote)))
        self._host = parts.hostname or options.get("host", ["localhost"])[0]
        self.name = f"postgresql://{self._host}{parts.path}, schema {self.schema}"
        self._touched: set[str] = {"*"}  # what an earlier process left is not known
        self._claimed: Any = None
        with self._named_errors():
            self._migrate()

    def _connect(self) -> Any:
        return self._psycopg.connect(
            self._address,
            autocommit=True,
            row_factory=self._psycopg.rows.dict_row,
            connect_timeout=10,
            options=f"-c search_path={self.schema} -c lock_timeout={int(database.BUSY_TIMEOUT_S * 1000)}",
            application_name="osnet serve",
        )

    def _migrate(self) -> None:
        with self.write() as tx:
            if not tx.all("SELECT 1 FROM pg_namespace WHERE nspname = ?", self.schema):
                tx.run(f"CREATE SCHEMA {self.schema}")
            tx.run("CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, applied_s DOUBLE PRECISION)")
            there = {row["number"] for row in tx.all("SELECT number FROM migrations")}
            for number, statements in list_pending(there, self.name):
                for statement in statements:
                    tx.run(statement.replace(" BYTES", " BYTEA"))
                tx.run("INSERT INTO migrations VALUES (?, extract(epoch FROM now()))", number)
            for row in tx.all(  # texts and bytes as Postgres stores them by itself: compressed if they are long
                "SELECT c.relname AS place, a.attname AS name FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid "
                "JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = ? AND relkind = 'r' AND attnum > 0 "
                "AND NOT attisdropped AND attstorage = 'x'",
                self.schema,
            ):
                alter = f"ALTER TABLE {row['place']} ALTER {row['name']}"
                tx.run(f"{alter} SET STATISTICS 0")  # nothing is copied into the statistics
                tx.run(f"{alter} SET STORAGE EXTERNAL")  # the check after an erasure looks for bytes

    def _statements(self, connection: Any) -> PostgresTransaction:
        return PostgresTransaction(connection, self._touched)

    @contextmanager
    def _transaction(self, connection: Any) -> Iterator[PostgresTransaction]:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (f"osnet {self.schema}",))
            yield PostgresTransaction(connection, self._touched)

    @contextmanager
    def _lent(self) -> Iterator[Any]:
        """As the base's, but a connection that waited is tried first: the server may have been started again."""
        with self._lending:
            connection = self._free.pop() if self._free else None
        if connection is not None:
            try:
                connection.execute("")
            except self._psycopg.OperationalError:
                connection.close()
                connection = None
        connection = connection or self._connect()
        try:
            yield connection
        finally:
            if not connection.closed:
                with self._lending:
                    self._free.append(connection)

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        errors = self._psycopg.errors
        try:
            yield
        except self._psycopg.IntegrityError:
            raise
        except (errors.LockNotAvailable, errors.DeadlockDetected) as error:
            raise StateBusyError(f"{self.name} is locked by another process; try again") from error
        except errors.DiskFull as error:
            raise StateFullError(f"no space is left for {self.name}; free some and try again") from error
        except self._psycopg.Error as error:
            text = (str(error).splitlines() or [type(error).__name__])[0]
            raise StateError(f"{self.name} cannot be used: {text}") from error

    def forget(self) -> None:
        """Rewrite the tables that lost rows, and have the server delete old log files.

        Raises:
            StateError: the user may not; it must own the tables, and needs the roles ``pg_checkpoint`` and the right to
                call ``pg_switch_wal``.
        """
        self._inside()
        with self._writing, self._named_errors(), self._lent() as connection:
            tables = [
                row["tablename"]
                for row in connection.execute(
                    "SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY tablename", (self.schema,)
                )
            ]
            touched = set(self._touched)
            for table in tables:
                if "*" in touched or table in touched:
                    connection.execute(f'VACUUM (FULL) "{table}"')
            flush_log(connection)
            self._touched -= touched

    def files(self) -> list[Path]:
        """The files of the server, if it is on this machine and its folder may be read; else none."""
        folder = self._folder()
        return [] if folder is None else [path for path in folder.rglob("*") if path.is_file()]

    def _folder(self) -> Path | None:
        if not (self._host.startswith("/") or self._host in ("localhost", "127.0.0.1", "::1")):
            return None
        with suppress(StateError, OSError):
            row = self.one("SELECT current_setting('data_directory', true) AS folder")
            folder = Path(row["folder"]) if row and row["folder"] else None
            if folder is not None and any(folder.iterdir()):
                return folder
        return None

    def out_of_reach(self) -> list[str]:
        """Log files that the server keeps, standby servers, files that were not looked at."""
        found = ["archives of the server's write-ahead log"]
        row = self.one(
            "SELECT current_setting('wal_recycle') AS recycle, (SELECT count(*) FROM pg_stat_replication) AS standbys"
        )
        if row is not None and row["recycle"] != "off":
            found.append("pg_wal: set wal_recycle = off, or old log files are renamed and keep their bytes")
        if row is not None and row["standbys"]:
            found.append("pg_wal of standby servers, until their next restart point (CHECKPOINT there)")
        if self._folder() is None:
            found.append("the server's files, which this machine cannot read, were not looked at")
        return found

    def claim(self) -> None:
        """Be the only service on this schema. Raises StateBusyError."""
        if self._claimed is not None:
            return
        with self._named_errors():
            self._claimed = self._connect()
            row = self._claimed.execute(
                "SELECT pg_try_advisory_lock(hashtext(%s)) AS got", (f"osnet serving {self.schema}",)
            ).fetchone()
        if not row["got"]:
            self.unclaim()
            raise StateBusyError(f"another service runs on {self.name}; stop it, or give another schema")

    def unclaim(self) -> None:
        """Let another service have it."""
        if self._claimed is not None:
            with suppress(self._psycopg.Error):  # the connection is broken
                self._claimed.execute("SELECT pg_advisory_unlock_all()")  # closing alone unlocks a moment later
            self._claimed.close()
            self._claimed = None
