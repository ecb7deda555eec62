"""Accounts, sessions, tokens, failed logins, the first administrator."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from engine_files import read_all

pytest.importorskip("argon2")

import argon2

from osnet.service.accounts import IDLE_S, MAX_FAILURES, SESSION_S, Accounts
from osnet.service.database import (
    Database,
)
from osnet.service.roles import KINDS, AccessError, AccountError, Actor, LoginError, TooManyFailuresError
from small_service import CHEAP, PASSWORD, Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def accounts(database: Database, clock: Clock) -> Accounts:
    return Accounts(database, clock, CHEAP)


def actor(accounts: Accounts, name: str = "root", kind: str = "administrator") -> Actor:
    account = accounts.add(name, PASSWORD, kind, by="test")
    return Actor(account, name, kind, None, KINDS[kind])


def test_login_sessions_and_their_ends(accounts: Accounts, clock: Clock) -> None:
    actor(accounts)
    with pytest.raises(LoginError):
        accounts.log_in("root", PASSWORD + "x", "1.2.3.4")
    with pytest.raises(LoginError):
        accounts.log_in("stranger", PASSWORD, "1.2.3.4")
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


def test_a_session_that_is_used_ends_too(accounts: Accounts, clock: Clock) -> None:
    actor(accounts)
    secret = accounts.log_in("root", PASSWORD, "1.2.3.4")
    while clock.ahead + IDLE_S / 2 < SESSION_S:
        clock.ahead += IDLE_S / 2
        assert accounts.by_session(secret) is not None
    clock.ahead = SESSION_S + 10
    assert accounts.by_session(secret) is None


def test_nothing_secret_is_stored_in_plain(accounts: Accounts, database: Database) -> None:
    root = actor(accounts)
    session = accounts.log_in("root", PASSWORD, "1.2.3.4")
    _, token = accounts.make_token(root, "t", ["view"], 1)
    database.forget()
    content = read_all(database.files())
    for secret in (PASSWORD, session, token, token.split("_", 2)[2]):  # osnet_ID_SECRET; the secret may hold "_"
        assert secret.encode() not in content
    assert b"$argon2id$" in content


def test_failed_logins_at_once_are_limited_too(database: Database) -> None:
    """Requests that come together must not all be checked before the first of them has failed."""

    class Slow:
        hash = staticmethod(CHEAP.hash)

        def verify(self, *_: str) -> bool:
            time.sleep(0.05)
            raise argon2.exceptions.VerifyMismatchError

    accounts = Accounts(database, hasher=Slow())

    def attempt(_: int) -> str:
        try:
            return accounts.log_in("root", PASSWORD, "1.2.3.4")
        except LoginError:
            return "tried"
        except TooManyFailuresError:
            return "refused"

    with ThreadPoolExecutor(16) as pool:
        tried = list(pool.map(attempt, range(32))).count("tried")
    assert MAX_FAILURES["both"] <= tried <= MAX_FAILURES["both"] + 1


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
    for name in ("root", "stranger"):
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
            accounts.change(root.account, root, **change)
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
