"""The service's state: migrations, transactions, deleted bytes; the audit chain; accounts, sessions, tokens."""

import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("argon2")

from osnet.cli import main
from osnet.service import audit
from osnet.service.accounts import (
    IDLE_S,
    KINDS,
    MAX_FAILURES,
    SESSION_S,
    AccessError,
    AccountError,
    Accounts,
    Actor,
    LoginError,
    TooManyFailuresError,
)
from osnet.service.database import Database, StateBusyError, StateError, read_migrations, split_statements
from small_service import CHEAP, PASSWORD, Clock


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "state" / "state.sqlite")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def accounts(database: Database, clock: Clock) -> Accounts:
    return Accounts(database, clock, CHEAP)


def actor(accounts: Accounts, name: str = "root", kind: str = "administrator") -> Actor:
    account = accounts.add(name, PASSWORD, kind, by="test")
    return Actor(account, name, kind, None, KINDS[kind])


# Database


def test_migrations_bring_every_version_to_the_newest_schema(tmp_path: Path) -> None:
    numbers = [number for number, _ in read_migrations()]
    assert numbers == list(range(1, len(numbers) + 1))
    fresh = Database(tmp_path / "fresh.sqlite")
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
        old = Database(path)
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


def test_a_newer_state_is_refused_and_kept(tmp_path: Path) -> None:
    Database(tmp_path / "s.sqlite").close()
    connection = sqlite3.connect(tmp_path / "s.sqlite")
    connection.execute("INSERT INTO migrations VALUES (99, 0)")
    connection.commit()
    connection.close()
    with pytest.raises(StateError, match="99"):
        Database(tmp_path / "s.sqlite")


def test_pragmas_and_modes(database: Database) -> None:
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
            tx.run("INSERT INTO settings VALUES (?, ?)", f"s{number}", secret.decode() * 200)
    assert any(secret in path.read_bytes() for path in database.files())  # the control: it would be found
    with database.write() as tx:
        tx.run("DELETE FROM settings")
    database.forget()
    assert not any(secret in path.read_bytes() for path in database.files())


def test_a_state_that_another_process_holds_is_busy(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("osnet.service.database.BUSY_TIMEOUT_S", 0.05)
    other = sqlite3.connect(database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    second = object.__new__(Database)
    second.__dict__.update(database.__dict__)
    second._local = threading.local()
    with pytest.raises(StateBusyError, match="locked"), second.write() as tx:
        tx.run("DELETE FROM settings")
    other.execute("ROLLBACK")


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(StateError, match=r"s\.sqlite"):
        Database(path)


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


def test_audit_verify_command(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    fill(database)
    last = audit.verify(database).last_hash
    with database.write() as tx:
        audit.record(tx, "anna", "view")
    main(["audit", "verify", str(database.path.parent), "--last-hash", last])
    assert "7 entries" in capsys.readouterr().out
    with database.write() as tx:  # cut at the end: whole by itself, but not with a hash that was noted
        for table in ("audit_details", "audit"):
            tx.run(f"DELETE FROM {table} WHERE seq >= 6")
    main(["audit", "verify", str(database.path.parent)])
    with pytest.raises(SystemExit) as ended:
        main(["audit", "verify", str(database.path.parent), "--last-hash", last])
    assert ended.value.code == 1
    assert last in capsys.readouterr().out


# Accounts


def test_login_sessions_and_their_ends(accounts: Accounts, clock: Clock) -> None:
    actor(accounts)
    with pytest.raises(LoginError):
        accounts.log_in("root", PASSWORD + "x", "1.2.3.4")
    with pytest.raises(LoginError):
        accounts.log_in("nobody", PASSWORD, "1.2.3.4")
    secret = accounts.log_in("root", PASSWORD, "1.2.3.4")
    found = accounts.by_session(secret)
    assert found is not None
    assert (found.name, found.kind, found.cameras) == ("root", "administrator", None)
    assert accounts.by_session(secret + "x") is None
    clock.ahead = IDLE_S - 10
    assert accounts.by_session(secret) is not None  # it was used, so the pause begins anew
    clock.ahead = 2 * IDLE_S - 20
    assert accounts.by_session(secret) is not None
    clock.ahead = 3 * IDLE_S
    assert accounts.by_session(secret) is None
    clock.ahead = 0
    clock.ahead = -3600  # the clock was set back
    assert accounts.by_session(secret) is None
    assert SESSION_S > IDLE_S


def test_nothing_secret_is_stored_in_plain(accounts: Accounts, database: Database) -> None:
    root = actor(accounts)
    session = accounts.log_in("root", PASSWORD, "1.2.3.4")
    _, token = accounts.make_token(root, "t", ["view"], 1)
    database.forget()
    content = b"".join(path.read_bytes() for path in database.files())
    for secret in (PASSWORD, session, token, token.rpartition("_")[2]):
        assert secret.encode() not in content
    assert b"$argon2id$" in content


def test_failed_logins_are_limited_by_name_and_by_address(accounts: Accounts, clock: Clock) -> None:
    actor(accounts)
    for _ in range(MAX_FAILURES["both"]):
        with pytest.raises(LoginError):
            accounts.log_in("root", "wrong password!", "1.1.1.1")
    with pytest.raises(TooManyFailuresError) as limited:
        accounts.log_in("root", PASSWORD, "1.1.1.1")
    assert 0 < limited.value.retry_s <= 900
    accounts.log_in("root", PASSWORD, "2.2.2.2")  # another address is not locked out
    clock.ahead = 901
    accounts.log_in("root", PASSWORD, "1.1.1.1")
    for number in range(MAX_FAILURES["address"]):
        with pytest.raises(LoginError):
            accounts.log_in(f"name{number}", "wrong password!", "3.3.3.3")
    with pytest.raises(TooManyFailuresError):
        accounts.log_in("root", PASSWORD, "3.3.3.3")


def test_an_unknown_name_verifies_a_password_too(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Timing: both ways call the slow hash once, and nothing else that takes time."""
    actor(accounts)
    calls: list[str] = []

    def verify(hashed: str, password: str) -> bool:
        calls.append(hashed)
        return False

    monkeypatch.setattr(accounts, "_hasher", type("H", (), {"verify": staticmethod(verify)})())
    for name in ("root", "nobody"):
        with pytest.raises(LoginError):
            accounts.log_in(name, "wrong password!", "1.2.3.4")
    assert len(calls) == 2
    assert all(hashed.startswith("$argon2id$") for hashed in calls)
    assert calls[0].split("$")[3] == calls[1].split("$")[3]  # the same cost


@pytest.mark.parametrize("password", ["short", "aaaaaaaaaaaaaaaa", "xxroot1234567890", "y" * 1001])
def test_weak_passwords_are_refused(accounts: Accounts, password: str) -> None:
    with pytest.raises(AccountError, match="password"):
        accounts.add("root", password, "viewer", by="test")


@pytest.mark.parametrize("name", ["", " a", "a\nb", "x" * 101, "a\x00"])
def test_odd_names_are_refused(accounts: Accounts, name: str) -> None:
    with pytest.raises(AccountError, match="name"):
        accounts.add(name, PASSWORD, "viewer", by="test")


def test_the_first_administrator_is_made_once(accounts: Accounts, clock: Clock) -> None:
    first = accounts.make_setup_link()
    second = accounts.make_setup_link()
    assert first is not None
    assert second is not None
    assert not accounts.setup_is_open(first)  # the newer one counts
    clock.ahead = 25 * 3600
    with pytest.raises(AccessError):
        accounts.set_up(second, "anna", PASSWORD)
    clock.ahead = 0
    accounts.set_up(second, "anna", PASSWORD)
    with pytest.raises(AccessError):
        accounts.set_up(second, "bert", PASSWORD)
    assert accounts.make_setup_link() is None
    assert [row["name"] for row in accounts.list_accounts()] == ["anna"]


def test_the_last_administrator_stays(accounts: Accounts) -> None:
    root = actor(accounts)
    for change in ({"disabled": True}, {"role": "viewer"}):
        with pytest.raises(AccountError, match="administrator"):
            accounts.change(root.account, root, **change)  # type: ignore[arg-type]
    actor(accounts, "second")
    accounts.change(root.account, root, disabled=True)


def test_tokens_have_scopes_an_end_and_can_be_revoked(accounts: Accounts, clock: Clock) -> None:
    root, viewer = actor(accounts), actor(accounts, "vera", "viewer")
    with pytest.raises(AccountError, match="search"):
        accounts.make_token(viewer, "t", ["search"], 1)
    token_id, token = accounts.make_token(root, "t", ["view"], 1)
    found = accounts.by_token(token)
    assert found is not None
    assert found.capabilities == {"view"}
    assert accounts.by_token(token[:-1] + ("A" if token[-1] != "A" else "B")) is None
    for wrong in ("", "osnet_", "osnet__", f"other{token[5:]}", token + "x", "\ud800"):
        assert accounts.by_token(wrong) is None
    clock.ahead = 86_401
    assert accounts.by_token(token) is None
    clock.ahead = 0
    accounts.revoke_token(token_id, root)
    assert accounts.by_token(token) is None
    _, other = accounts.make_token(viewer, "t", ["view"], 1)
    accounts.change(viewer.account, root, disabled=True)
    assert accounts.by_token(other) is None


def test_a_demoted_account_takes_its_tokens_with_it(accounts: Accounts) -> None:
    root, other = actor(accounts), actor(accounts, "otto", "operator")
    _, token = accounts.make_token(other, "t", ["view", "search"], 1)
    accounts.set_role("gate only", "viewer", ["gate"], root)
    accounts.change(other.account, root, role="gate only")
    found: Any = accounts.by_token(token)
    assert found.capabilities == {"view"}
    assert found.sees("gate")
    assert not found.sees("hall")


def test_details_of_the_log_are_json_with_sorted_keys() -> None:
    assert audit.canonical({"b": 1, "a": [2]}) == '{"a":[2],"b":1}'
    assert json.loads(audit.canonical({"x": "ü"})) == {"x": "ü"}
