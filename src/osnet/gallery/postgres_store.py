"""A store in PostgreSQL with the extension pgvector.

    osnet_store                one row: format, weights, size of the embeddings
    osnet_items                partitioned by day (UTC): osnet_items_20785, ...; osnet_items_undated
      id bigint                the order of adding
      day integer              days since 1970-01-01; null without a time
      source identity camera   text
      time_s                   double precision
      embedding                vector(D), of length 1, stored in the row

Retention drops partitions. Erasing deletes rows, and rewrites the touched partitions with ``VACUUM FULL``; a
checkpoint and two switches of the write-ahead log then delete the old files, if the server has ``wal_recycle = off``.
Statistics are off for columns that hold texts of items and embeddings: ``ANALYZE`` would copy values elsewhere.

Writers take turns (an advisory lock). Search is exact, unless an index was built (``build_index``) and the filter
leaves many rows: then it is approximate.
"""

import contextlib
import math
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit, urlunsplit

import numpy as np

from osnet.errors import GalleryError, require_extra
from osnet.gallery.engine_store import EngineStore, Row
from osnet.gallery.exact_search import Floats
from osnet.gallery.segments import DAY_S, FIRST_DAY, LAST_DAY
from osnet.gallery.vector_store import Where
from osnet.types import Item

FORMAT = "osnet-postgres-1"
EXACT_ROWS = 20_000
"""With an index, filters that leave at most so many rows are still searched exactly."""
UNSAMPLED = ("source", "identity", "embedding")
"""Columns of which ``ANALYZE`` must not copy values into the statistics: erasing would not reach them there."""
LIMIT_INT = 2**31
CONNECT_TIMEOUT_S = "10"
"""For a server that does not answer, unless the address or ``PGCONNECT_TIMEOUT`` gives another."""
STANDBY_TIMEOUT_S = 30.0
"""How long erasing waits for standby servers to receive the log."""


class PostgresStore(EngineStore):
    """Embeddings in PostgreSQL. Implements ``VectorStore``; needs the extra ``osnet[postgres]``.

    Several processes may read and write. A standby server serves everything that reads.
    """

    def __init__(self, address: str, *, data_folder: str | Path | None = None) -> None:
        """Open a store that exists.

        Args:
            address: ``postgresql://user@host/database``; ``?schema=NAME`` chooses a schema other than ``osnet``.
            data_folder: of the server, if it is on this machine and may be read: ``erase`` then looks into its files.

        Raises:
            GalleryError: the server cannot be reached, holds no store there, or ``data_folder`` is not its own.
        """
        self._psycopg = require_extra("psycopg", "postgres")
        self._pgvector = require_extra("pgvector.psycopg", "postgres")
        self._address, self._schema, self.name = _split(address)
        self._data_folder = None if data_folder is None else Path(data_folder)
        self._lock = threading.RLock()
        self._connection: Any = None
        rows = self._run("SELECT to_regclass(%s) IS NOT NULL", (f"{_quoted(self._schema)}.osnet_store",))
        if not rows[0][0]:
            raise GalleryError(f"{self.name} holds no store in the schema {self._schema!r}; make one with create")
        form, self.weights_sha256, self.weights_name, self.embedding_size = self._run(
            f"SELECT format, weights_sha256, weights_name, embedding_size FROM {self._table('osnet_store')}"
        )[0]
        if form != FORMAT:
            raise GalleryError(f"{self.name} has the format {form!r}; this version reads {FORMAT!r}")
        if self._data_folder is not None:
            self._check_data_folder(self._data_folder)

    def _check_data_folder(self, folder: Path) -> None:
        """Raise GalleryError unless the folder is the server's and can be read: ``erase`` would find nothing in it."""
        try:
            with (folder / "global" / "pg_control").open("rb") as file:
                identifier = int.from_bytes(file.read(8), sys.byteorder, signed=True)
        except OSError as error:
            raise GalleryError(
                f"{folder} cannot be read as the data folder of {self.name}: {error.strerror or error}"
            ) from error
        if identifier != self._run("SELECT system_identifier FROM pg_control_system()")[0][0]:
            raise GalleryError(f"{folder} is the data folder of another server than {self.name}")

    @classmethod
    def create(
        cls,
        address: str,
        *,
        weights_sha256: str,
        embedding_size: int,
        weights_name: str = "",
        data_folder: str | Path | None = None,
    ) -> "PostgresStore":
        """A new, empty store. The user must be allowed to make a schema and the extension ``vector``.

        Raises:
            GalleryError: there is one already, the size is not from 1 to 1,900, or the server refuses.
        """
        if not 1 <= embedding_size <= 1900:
            raise GalleryError(f"embedding_size {embedding_size} must be from 1 to 1900, so that a row fits a page")
        psycopg = require_extra("psycopg", "postgres")
        plain, schema, name = _split(address)
        quoted = _quoted(schema)
        try:
            with psycopg.connect(plain) as connection:
                connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (f"osnet.{schema}",))
                if connection.execute("SELECT to_regclass(%s)", (f"{quoted}.osnet_store",)).fetchone()[0]:
                    raise GalleryError(f"{name} holds a store in the schema {schema!r} already; open it instead")
                connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
                connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted}")
                connection.execute(
                    f"CREATE TABLE {quoted}.osnet_store (format text NOT NULL, weights_sha256 text NOT NULL, "
                    "weights_name text NOT NULL, embedding_size integer NOT NULL)"
                )
                connection.execute(
                    f"INSERT INTO {quoted}.osnet_store VALUES (%s, %s, %s, %s)",
                    (FORMAT, weights_sha256, weights_name, embedding_size),
                )
                connection.execute(f"CREATE SEQUENCE {quoted}.osnet_order")
                connection.execute(
                    f"CREATE TABLE {quoted}.osnet_items (id bigint NOT NULL, day integer, source text NOT NULL, "
                    "identity text, camera text, time_s double precision, "
                    f"embedding vector({embedding_size}) NOT NULL) PARTITION BY LIST (day)"
                )
                for column in UNSAMPLED:
                    connection.execute(f"ALTER TABLE {quoted}.osnet_items ALTER {column} SET STATISTICS 0")
                connection.execute(f"ALTER TABLE {quoted}.osnet_items ALTER embedding SET STORAGE PLAIN")
                connection.execute(f"CREATE INDEX ON {quoted}.osnet_items (source text_pattern_ops)")
                connection.execute(f"CREATE INDEX ON {quoted}.osnet_items (camera, time_s)")
        except psycopg.Error as error:
            raise GalleryError(f"{name}: {_first_line(error)}") from error
        return cls(address, data_folder=data_folder)

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def drop(self) -> None:
        """Delete the store with everything in it, and close the connection."""
        with self._connected() as connection:
            connection.execute(f"DROP SCHEMA {_quoted(self._schema)} CASCADE")
            flush_log(connection)
        self.close()

    def build_index(self) -> None:
        """Build an HNSW index on every partition, for searches that filter little. They become approximate.

        It takes minutes per 100,000 items, and three times their space on the disk.
        """
        self._run(
            f"CREATE INDEX IF NOT EXISTS osnet_items_hnsw ON {self._table('osnet_items')} "
            "USING hnsw (embedding vector_ip_ops)"
        )
        self._run(f"ANALYZE {self._table('osnet_items')}")

    def _table(self, name: str) -> str:
        return f"{_quoted(self._schema)}.{_quoted(name)}"

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Any]:
        """The connection, in autocommit mode, for one thread at a time; made anew if it is lost."""
        with self._lock:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = self._psycopg.connect(self._address, autocommit=True)
                    with contextlib.suppress(self._psycopg.ProgrammingError):  # before the extension is there
                        self._pgvector.register_vector(self._connection)
                yield self._connection
            except self._psycopg.OperationalError as error:
                self.close()
                raise GalleryError(f"{self.name}: {_first_line(error)}") from error
            except self._psycopg.Error as error:
                raise GalleryError(f"{self.name}: {_first_line(error)}") from error

    def _run(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._connected() as connection:
            cursor = connection.execute(query, values, binary=True)
            return cursor.fetchall() if cursor.description else []

    def _insert(self, units_ND: Floats, items: Sequence[Item]) -> None:
        days = [_day(item) for item in items]
        with self._connected() as connection, connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (f"osnet.{self._schema}",))
            there = connection.execute(
                f"SELECT source FROM {self._table('osnet_items')} WHERE source = ANY(%s) LIMIT 1",
                ([item.source for item in items],),
            ).fetchone()
            if there:
                raise GalleryError(f"{there[0]} is in {self.name} already; remove it first")
            for day in sorted(set(days), key=str):
                name = f"{_quoted(self._schema)}.{_quoted(_partition(day))}"
                if connection.execute("SELECT to_regclass(%s)", (name,)).fetchone()[0]:
                    continue
                connection.execute(
                    f"CREATE TABLE {self._table(_partition(day))} "
                    f"PARTITION OF {self._table('osnet_items')} FOR VALUES IN ({'NULL' if day is None else int(day)})"
                )
                for column in UNSAMPLED:  # a partition does not inherit it
                    connection.execute(f"ALTER TABLE {self._table(_partition(day))} ALTER {column} SET STATISTICS 0")
            (first,) = connection.execute(
                f"SELECT nextval('{self._table('osnet_order')}') FROM generate_series(1, %s) ORDER BY 1 LIMIT 1",
                (len(items),),
            ).fetchone()
            with connection.cursor().copy(
                f"COPY {self._table('osnet_items')} (id, day, source, identity, camera, time_s, embedding) "
                "FROM STDIN (FORMAT BINARY)"
            ) as copy:
                copy.set_types(["int8", "int4", "text", "text", "text", "float8", "vector"])
                for place, (item, day, vector) in enumerate(zip(items, days, units_ND, strict=True)):
                    time_s = None if item.time_s is None else float(item.time_s)
                    copy.write_row((first + place, day, item.source, item.identity, item.camera, time_s, vector))

    def _nearest(self, unit_D: Floats, where: Where, limit: int) -> list[Row]:
        text, values = _conditions(where)
        table = self._table("osnet_items")
        # adding 0 keeps the planner from an index on the distance: the search is then exact
        query = (
            f"SELECT source, identity, camera, time_s, id, embedding, -(embedding <#> %s) FROM {table} "
            f"WHERE {text} ORDER BY (embedding <#> %s) + 0 LIMIT %s"
        )
        all_values = (unit_D, *values, unit_D, limit)
        with self._connected() as connection:
            if not self._has_index(connection) or self._is_narrow(connection, text, values):
                rows = connection.execute(query, all_values, binary=True).fetchall()
            else:
                with connection.transaction():
                    connection.execute("SET LOCAL hnsw.iterative_scan = strict_order")
                    connection.execute(f"SET LOCAL hnsw.ef_search = {min(1000, max(100, 2 * limit))}")
                    # the planner takes a distance for as cheap as a comparison, and would read all rows
                    connection.execute("SET LOCAL enable_seqscan = off")
                    connection.execute("SET LOCAL enable_sort = off")
                    rows = connection.execute(
                        query.replace(") + 0 LIMIT", ") LIMIT"), all_values, binary=True
                    ).fetchall()
        return [Row(Item(*row[:4]), row[4], _to_array(row[5]), row[6]) for row in rows]

    def _has_index(self, connection: Any) -> bool:
        name = f"{_quoted(self._schema)}.osnet_items_hnsw"
        return bool(connection.execute("SELECT to_regclass(%s) IS NOT NULL", (name,)).fetchone()[0])

    def _is_narrow(self, connection: Any, text: str, values: list[Any]) -> bool:
        """True if at most ``EXACT_ROWS`` rows pass."""
        (count,) = connection.execute(
            f"SELECT count(*) FROM (SELECT 1 FROM {self._table('osnet_items')} WHERE {text} "
            f"LIMIT {EXACT_ROWS + 1}) few",
            values,
        ).fetchone()
        return bool(count <= EXACT_ROWS)

    def _list(self, where: Where, after: str | None, limit: int | None) -> list[Item]:
        text, values = _conditions(where)
        table = self._table("osnet_items")
        if after is not None:
            text += f" AND id > (SELECT id FROM {table} WHERE source = %s)"
            values.append(after)
        query = f"SELECT source, identity, camera, time_s FROM {table} WHERE {text} ORDER BY id LIMIT %s"
        return [Item(*row) for row in self._run(query, (*values, limit))]

    def _list_sources(self, prefix: str) -> Iterable[str]:
        pattern = prefix.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        query = f"SELECT source FROM {self._table('osnet_items')} WHERE source LIKE %s"
        return [row[0] for row in self._run(query, (pattern,))]

    def _fetch(self, sources: Sequence[str]) -> dict[str, Floats]:
        usable = [source for source in sources if _is_unicode(source)]
        query = f"SELECT source, embedding FROM {self._table('osnet_items')} WHERE source = ANY(%s)"
        return {source: _to_array(vector) for source, vector in self._run(query, (usable,))}

    def _count(self, where: Where) -> int:
        text, values = _conditions(where)
        return int(self._run(f"SELECT count(*) FROM {self._table('osnet_items')} WHERE {text}", values)[0][0])

    def _delete(self, where: Where) -> int:
        return len(self._delete_rows(where)[0])

    def _delete_rows(self, where: Where) -> tuple[list[int], list[str], list[str]]:
        """Delete rows, and drop partitions that are empty then: ids, names of the others, names of the dropped."""
        text, values = _conditions(where)
        with self._connected() as connection, connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (f"osnet.{self._schema}",))
            rows = connection.execute(
                f"DELETE FROM {self._table('osnet_items')} WHERE {text} RETURNING id, day", values
            ).fetchall()
            touched, dropped = [], []
            for day in {row[1] for row in rows}:
                name = _partition(day)
                if connection.execute(f"SELECT 1 FROM {self._table(name)} LIMIT 1").fetchone():
                    touched.append(name)
                else:
                    connection.execute(f"DROP TABLE {self._table(name)}")
                    dropped.append(name)
        return [row[0] for row in rows], touched, dropped

    def _erase(self, where: Where, sources: Sequence[str]) -> tuple[int, int]:
        _, touched, dropped = self._delete_rows(where)
        for name in touched:
            self._run(f"VACUUM (FULL) {self._table(name)}")
        with self._connected() as connection:
            flush_log(connection)
        return len(touched), len(dropped)

    def _out_of_reach(self) -> tuple[str, ...]:
        found = ["backups, archives of the write-ahead log, and what the disk keeps of deleted files"]
        if self._run("SHOW wal_recycle")[0][0] != "off":
            found.append(
                "the server's pg_wal: set wal_recycle = off, or old log files are renamed and keep their bytes"
            )
        if self._run("SELECT count(*) FROM pg_stat_replication")[0][0]:
            found.append("pg_wal of standby servers, until their next restart point (CHECKPOINT there)")
        if self._data_folder is None:
            found.append("the server's files were not looked at: give data_folder")
        return tuple(found)

    def _folder(self) -> Path | None:
        return self._data_folder

    def check(self) -> list[str]:
        """Look for embeddings whose length is not 1, sources that are there twice, and rows in the wrong day."""
        table = self._table("osnet_items")
        faults = []
        count = self._run(f"SELECT count(*) FROM {table} WHERE abs(vector_norm(embedding) - 1) > 1e-4")[0][0]
        if count:
            faults.append(f"{self.name} holds {count} embeddings whose length is not 1")
        twice = self._run(f"SELECT source FROM {table} GROUP BY source HAVING count(*) > 1 LIMIT 5")
        faults += [f"{self.name} holds {source} more than once" for (source,) in twice]
        wrong = self._run(
            f"SELECT count(*) FROM {table} WHERE (time_s IS NULL AND day IS NOT NULL) OR "
            f"day <> floor(least(greatest(time_s / {DAY_S}, -{LIMIT_INT}), {LIMIT_INT - 1}))"
        )[0][0]
        if wrong:
            faults.append(f"{self.name} holds {wrong} items in the partition of another day")
        return faults


def flush_log(connection: Any) -> None:
    """Have the server delete files of dropped tables, and log files (if it does not recycle them).

    Args:
        connection: of psycopg, in autocommit mode, of a user who may checkpoint and switch the log.
    """
    connection.execute("CHECKPOINT")
    for _ in range(2):  # a log file is deleted when the checkpoint before the last no longer needs it
        place = _single(connection, "SELECT pg_switch_wal()::text")
        end = time.monotonic() + STANDBY_TIMEOUT_S
        while time.monotonic() < end:  # a slot keeps log files until its standby has them
            behind = _single(connection, "SELECT count(*) FROM pg_stat_replication WHERE flush_lsn < %s::pg_lsn", place)
            if not behind:
                break
            time.sleep(0.05)
        connection.execute("CHECKPOINT")


def _single(connection: Any, query: str, *values: Any) -> Any:
    """The one value of a query, whatever the connection makes of its rows."""
    row = connection.execute(query, values).fetchone()
    return next(iter(row.values())) if isinstance(row, dict) else row[0]


def _conditions(where: Where) -> tuple[str, list[Any]]:
    """The filter as SQL with placeholders, and their values."""
    parts: list[str] = ["true"]
    values: list[Any] = []
    for column, wanted in (("identity", where.identities), ("camera", where.cameras), ("source", where.sources)):
        if wanted is not None:
            parts.append(f"{column} = ANY(%s)")
            values.append([text for text in sorted(wanted) if _is_unicode(text)])
    for sign, time_s in ((">=", where.after_s), ("<=", where.before_s)):
        if time_s is not None:
            parts.append(f"time_s {sign} %s")
            values.append(float(time_s))
            if math.isfinite(time_s) and FIRST_DAY <= time_s // DAY_S <= LAST_DAY:
                parts.append(f"(day {sign} %s)")  # lets the server leave out partitions
                values.append(int(time_s // DAY_S))
    return " AND ".join(parts), values


def _day(item: Item) -> int | None:
    if item.time_s is None:
        return None
    day = math.floor(item.time_s / DAY_S)
    return max(-LIMIT_INT, min(LIMIT_INT - 1, day))


def _partition(day: int | None) -> str:
    return "osnet_items_undated" if day is None else f"osnet_items_{day}".replace("-", "m")


def _is_unicode(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


def _to_array(vector: Any) -> Floats:
    values = vector.to_numpy() if hasattr(vector, "to_numpy") else vector
    return np.array(values, dtype=np.float32)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _split(address: str) -> tuple[str, str, str]:
    """Address for libpq, schema, and name for messages (without user and password)."""
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise GalleryError(f"the address of the PostgreSQL server cannot be read: {error}") from error
    options = parse_qs(parts.query.replace("+", "%2B"), keep_blank_values=True)  # for libpq, + is no space
    schema = options.pop("schema", ["osnet"])[-1]
    if not schema.replace("_", "a").isalnum() or not schema.isascii() or len(schema) > 40:
        raise GalleryError(f"schema {schema!r} must be letters, digits and _, at most 40")
    options.setdefault("connect_timeout", [os.environ.get("PGCONNECT_TIMEOUT", CONNECT_TIMEOUT_S)])
    plain = urlunsplit(parts._replace(query=urlencode(options, doseq=True, quote_via=quote)))
    host = parts.hostname or options.get("host", ["localhost"])[0]
    return plain, schema, f"postgresql://{host}{parts.path}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
