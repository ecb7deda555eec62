"""The service's state, in SQLite and in Postgres: migrations, transactions, deleted bytes; the audit chain; accounts,
sessions, tokens.
"""

import json
import secrets
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine_files import read_all

pytest.importorskip("argon2")

from osnet.cli import main
from osnet.errors import DataError
from osnet.service import audit
from osnet.service.database import (
    Database,
    StateBusyError,
    StateError,
    open_database,
    read_migrations,
    split_statements,
)
from osnet.service.database_postgres import PostgresDatabase
from osnet.service.database_sqlite import SqliteDatabase
from osnet.service.retention import forget_tracklets
from small_service import open_state

# Database


def test_migrations_bring_every_version_to_the_newest_schema(tmp_path: Path) -> None:
    numbers = [number for number, _ in read_migrations()]
    assert numbers == list(range(1, len(numbers) + 1))
    fresh = SqliteDatabase(tmp_path / "fresh.sqlite")
    want = schema(tmp_path / "fresh.sqlite")
    for stop in numbers:  # as a state that was written by the version with this number
        path = tmp_path / f"from-{stop}.sqlite"
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE migrations (number INTEGER PRIMARY KEY, applied_s DOUBLE PRECISION)")
        for number, sql in read_migrations()[:stop]:
            for statement in split_statements(sql.replace(" BYTES", " BLOB")):
                connection.execute(statement)
            connection.execute("INSERT INTO migrations VALUES (?, 0)", (number,))
        connection.execute("INSERT INTO settings VALUES ('kept', '1')")
        connection.commit()
        connection.close()
        old = SqliteDatabase(path)
        assert schema(path) == want
        assert old.one("SELECT value FROM settings WHERE name = 'kept'") == {"value": "1"}
        old.close()
    fresh.close()


def schema(path: Path) -> set[str]:
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT sql FROM sqlite_master WHERE name NOT IN ('migrations') AND sql IS NOT NULL")
    found = {row[0] for row in rows}
    connection.close()
    return found


def test_migrations_on_postgres_lead_from_each_number_to_the_same_schema(state_server: str) -> None:
    import psycopg

    found = []
    for stop in range(len(read_migrations()) + 1):
        name = f"from{stop}_{secrets.token_hex(4)}"
        with psycopg.connect(state_server, autocommit=True) as connection:
            if stop:  # as a state that was written by the version with this number
                connection.execute(f"CREATE SCHEMA {name}")
                connection.execute(f"SET search_path = {name}")
                connection.execute("CREATE TABLE migrations (number INTEGER PRIMARY KEY, applied_s DOUBLE PRECISION)")
                for number, sql in read_migrations()[:stop]:
                    for statement in split_statements(sql.replace(" BYTES", " BYTEA")):
                        connection.execute(statement)
                    connection.execute("INSERT INTO migrations VALUES (%s, 0)", (number,))
            state = PostgresDatabase(f"{state_server}&schema={name}")
            state.close()
            PostgresDatabase(f"{state_server}&schema={name}").close()  # a second start changes nothing
            found.append(
                connection.execute(
                    "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns "
                    "WHERE table_schema = %s ORDER BY 1, 2",
                    (name,),
                ).fetchall()
            )
    assert len(found[0]) > 100
    assert all(columns == found[0] for columns in found)


def test_a_newer_state_is_refused_and_kept(database: Database, state_address: str) -> None:
    with database.write() as tx:
        tx.run("INSERT INTO migrations VALUES (99, 0)")
    with pytest.raises(StateError, match="99"):
        open_state(state_address)
    assert database.one("SELECT number FROM migrations WHERE number = 99") == {"number": 99}


def test_a_server_that_is_not_there_and_an_odd_schema_are_named(state_server: str) -> None:
    with pytest.raises(StateError, match=r"127\.0\.0\.1") as failed:
        open_database("postgresql://osnet:geheim@127.0.0.1:9/none")
    assert "geheim" not in str(failed.value)
    with pytest.raises(DataError, match="Robert"):
        open_database(f"{state_server}&schema=Robert'); DROP TABLE x")


def test_statistics_hold_no_copies_of_texts_and_bytes(state_server: str) -> None:
    """ANALYZE would copy values of the tables into pg_statistic, which no erasure rewrites."""
    database = PostgresDatabase(f"{state_server}&schema=s{secrets.token_hex(6)}")
    with database.write() as tx:
        tx.run_many("INSERT INTO settings VALUES (?, ?)", [(f"n{n}", "a-person") for n in range(100)])
        tx.run_many("INSERT INTO retention VALUES (?, 7)", [(f"c{n}",) for n in range(100)])
    for table in ("settings", "retention"):
        database.all(f"ANALYZE {table}")
    rows = database.all("SELECT attname FROM pg_stats WHERE schemaname = ?", database.schema)
    assert [row["attname"] for row in rows] == ["days"]
    database.close()


def test_connections_are_used_again(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads come and go; the number of connections stays."""
    made = []
    connect = database._connect
    monkeypatch.setattr(database, "_connect", lambda: made.append(1) or connect())  # type: ignore[func-returns-value]
    for _ in range(30):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(database.all, "SELECT name FROM settings").result()
            pool.submit(fill, database, 1).result()
    assert len(made) <= 1


def test_texts_that_no_database_stores(database: Database) -> None:
    """Zero bytes and halves of surrogate pairs come from names and reasons; the chain stays whole."""
    odd = "a\0b\ud800c \U0001f600"
    with database.write() as tx:
        audit.record(tx, odd, "view", {"name": odd.replace("\ud800", "")}, odd)
        tx.run("INSERT INTO settings VALUES (?, '1')", odd)
    assert database.all("SELECT name FROM settings") == [{"name": "a\ufffdb\ufffdc \U0001f600"}]
    assert audit.verify(database).is_whole


def test_rows_of_many_tracklets_are_forgotten_and_others_stay(database: Database) -> None:
    gone = {f"a~{n}" for n in range(1200)}  # more than one statement's worth
    with database.write() as tx:
        for search, tracklet in (("from-gone", "a~7"), ("from-left", "b~1")):
            tx.run("INSERT INTO searches VALUES (?, NULL, 'ann', '', '{}', '{}', 0)", search)
            tx.run("INSERT INTO queries VALUES (?, 1, 'photo', ?, ?, ?, NULL)", search, tracklet, b"jpeg", b"vector")
        hits = [*sorted(gone), "b~1", "b~2"]
        tx.run_many(
            "INSERT INTO hits VALUES (?, ?, ?, 0.5, NULL)", [("from-left", n, hit) for n, hit in enumerate(hits, 1)]
        )
        tx.run("INSERT INTO answers VALUES (1, 'from-left', 'a~1199', 'yes', 'ann', 0)")
        counts = forget_tracklets(tx, gone)
    assert counts == {"searches": 1, "hits": 1200, "answers": 1, "alerts": 0, "attributes": 0}
    assert [row["id"] for row in database.all("SELECT id FROM searches")] == ["from-left"]
    assert [row["tracklet"] for row in database.all("SELECT tracklet FROM hits ORDER BY place")] == ["b~1", "b~2"]


def test_only_one_service_runs_on_a_state(database: Database, state_address: str) -> None:
    database.claim()
    second = open_state(state_address)
    with pytest.raises(StateBusyError, match="another service"):
        second.claim()
    for _ in range(20):
        database.unclaim()
        second.claim()  # at once: a service that is restarted does not wait
        second.unclaim()
        database.claim()
    second.close()


WRITER = """
import sys
from pathlib import Path
from osnet.service import audit
from osnet.service.database import open_database
address = sys.argv[1]
database = open_database(address if address.startswith("postgresql:") else Path(address) / "state.sqlite")
for number in range(10):
    with database.write() as tx:
        audit.record(tx, sys.argv[2], "view", {"n": number})
        tx.run("INSERT INTO settings VALUES (?, '1')", f"{sys.argv[2]} {number}")
"""


def test_the_chain_is_whole_under_writers_in_threads_and_processes(database: Database, state_address: str) -> None:
    others = [subprocess.Popen([sys.executable, "-c", WRITER, state_address, f"process {n}"]) for n in range(2)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: fill(database, 3), range(4)))
    assert [other.wait(120) for other in others] == [0, 0]
    found = audit.verify(database)
    assert found.is_whole, found.faults
    assert found.entries == 2 * 10 + 4 * 3
    assert len(database.all("SELECT name FROM settings")) == 2 * 10
    seqs = [row["seq"] for row in database.all("SELECT seq FROM audit ORDER BY seq")]
    assert seqs == list(range(1, len(seqs) + 1))


def test_a_connection_that_the_server_ended_is_made_anew(state_server: str) -> None:
    import psycopg

    database = PostgresDatabase(f"{state_server}&schema=s{secrets.token_hex(6)}")
    fill(database, 1)
    with psycopg.connect(state_server, autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
            "AND application_name = 'osnet serve'"
        )
    fill(database, 1)
    assert audit.verify(database).entries == 2
    with pytest.raises(StateError), database.write() as tx:  # in the middle of a transaction: nothing of it stays
        audit.record(tx, "anna", "view")
        with psycopg.connect(state_server, autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                "AND application_name = 'osnet serve'"
            )
        audit.record(tx, "anna", "view")
    assert audit.verify(database).entries == 2
    database.close()


def test_pragmas_and_modes(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "state" / "state.sqlite")
    for pragma, want in (("secure_delete", 1), ("foreign_keys", 1), ("journal_mode", "wal"), ("synchronous", 2)):
        assert next(iter(database.one(f"PRAGMA {pragma}").values())) == want, pragma  # type: ignore[union-attr]
    assert database.path.stat().st_mode & 0o077 == 0
    assert database.path.parent.stat().st_mode & 0o077 == 0


def test_nested_transactions_are_atomic(database: Database) -> None:
    with pytest.raises(RuntimeError), database.write() as tx:
        tx.run("INSERT INTO settings VALUES ('a', '1')")
        with database.write() as inner:
            inner.run("INSERT INTO settings VALUES ('b', '1')")
        raise RuntimeError
    assert database.all("SELECT * FROM settings") == []


def test_no_file_holds_deleted_bytes_after_forget(database: Database) -> None:
    secret = b"PIECE-OF-A-VECTOR-0123456789"
    with database.write() as tx:
        for number in range(50):
            tx.run("INSERT INTO settings VALUES (?, ?)", f"s{number}", secret.decode() + secrets.token_hex(600))
    assert secret in read_all(database.files())  # the control: it would be found
    with database.write() as tx:
        tx.run("DELETE FROM settings")
    database.forget()
    assert secret not in read_all(database.files())


def test_what_is_stored_stands_in_the_files_as_it_is(database: Database) -> None:
    """The check after an erasure looks for bytes. A database that compressed them would hide what remains."""
    secret = b"PIECE-OF-A-VECTOR-0123456789"
    with database.write() as tx:
        tx.run("INSERT INTO settings VALUES ('long', ?)", secret.decode() + 5000 * "0")
    assert secret in read_all(database.files())


def test_a_state_that_another_process_holds_is_busy(
    database: Database, state_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("osnet.service.database.BUSY_TIMEOUT_S", 0.05)
    second = open_state(state_address)
    with database.write():
        with pytest.raises(StateBusyError, match="locked"), second.write() as tx:
            tx.run("DELETE FROM settings")
        assert second.all("SELECT * FROM settings") == []  # reading still works
    with second.write() as tx:
        tx.run("DELETE FROM settings")
    second.close()


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(StateError, match=r"s\.sqlite"):
        SqliteDatabase(path)


# Audit


def fill(database: Database, count: int = 6) -> None:
    for number in range(count):
        with database.write() as tx:
            audit.record(
                tx, "anna", "view", {"tracklet": f"t{number}", "list": ["x", f"u{number}"]}, f"reason {number}"
            )


def test_the_audit_chain_shows_every_change(database: Database) -> None:
    fill(database)
    found = audit.verify(database)
    assert found.is_whole
    assert found.entries == 6
    tampered = {
        "DELETE FROM audit_details WHERE seq = 3": "entry 3",
        "UPDATE audit SET account = 'bert' WHERE seq = 2": "entry 2",
        "UPDATE audit SET at_s = at_s + 1 WHERE seq = 5": "entry 5",
        "UPDATE audit_details SET reason = 'other' WHERE seq = 4": "entry 4",
        "UPDATE audit_details SET what = '{}' WHERE seq = 4": "entry 4",
        "UPDATE audit_details SET what = NULL WHERE seq = 4": "entry 4",
    }
    for sql, named in tampered.items():
        with pytest.raises(ZeroDivisionError), database.write() as tx:
            tx.run(sql)
            faults = audit.verify(database).faults
            assert len(faults) == 1, sql
            assert named in faults[0], sql
            raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), database.write() as tx:
        tx.run("DELETE FROM audit_details WHERE seq = 3")
        tx.run("DELETE FROM audit WHERE seq = 3")
        assert any("3 to 3 are missing" in fault for fault in audit.verify(database).faults)
        raise ZeroDivisionError
    assert audit.verify(database).is_whole


def test_erasing_details_keeps_the_chain_valid(database: Database) -> None:
    fill(database)
    with database.write() as tx:
        assert audit.erase_details(tx, "root", {"t1", "u4"}, "asked") == [2, 5]
    assert audit.verify(database).is_whole
    entries = {entry.seq: entry for entry in audit.list_entries(database)}
    assert entries[2].what is None
    assert entries[2].reason == "reason 1"
    assert entries[3].what == {"tracklet": "t2", "list": ["x", "u2"]}
    assert entries[7].what == {"entries": [2, 5]}


def test_audit_verify_command(database: Database, state_address: str, capsys: pytest.CaptureFixture[str]) -> None:
    fill(database)
    last = audit.verify(database).last_hash
    with database.write() as tx:
        audit.record(tx, "anna", "view")
    main(["audit", "verify", state_address, "--last-hash", last])
    assert "7 entries" in capsys.readouterr().out
    with database.write() as tx:  # cut at the end: whole by itself, but not with a hash that was noted
        for table in ("audit_details", "audit"):
            tx.run(f"DELETE FROM {table} WHERE seq >= 6")
    main(["audit", "verify", state_address])
    with pytest.raises(SystemExit) as ended:
        main(["audit", "verify", state_address, "--last-hash", last])
    assert ended.value.code == 1
    assert last in capsys.readouterr().out


def test_details_of_the_log_are_json_with_sorted_keys() -> None:
    assert audit.canonical({"b": 1, "a": [2]}) == '{"a":[2],"b":1}'
    assert json.loads(audit.canonical({"x": "ü"})) == {"x": "ü"}
