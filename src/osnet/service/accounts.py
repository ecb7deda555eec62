"""Accounts, roles, sessions, tokens: who may do what, with which cameras.

Passwords are stored as argon2id. Of sessions, tokens and the first administrator's link only a SHA-256 is stored: they
are 32 random bytes, so a slow hash would add nothing.
"""

import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from osnet.errors import require_extra
from osnet.service.audit import record
from osnet.service.database import Database, Row, Transaction
from osnet.service.roles import (
    KINDS,
    AccessError,
    AccountError,
    Actor,
    LoginError,
    TooManyFailuresError,
    check_name,
    digest_secret,
    read_actor,
)

MIN_PASSWORD, MAX_PASSWORD = 12, 1000
SESSION_S, IDLE_S = 12 * 3600.0, 2 * 3600.0
SETUP_S = 24 * 3600.0
MAX_TOKEN_DAYS = 366
FAILURES_S = 15 * 60.0
MAX_FAILURES = {"name": 10, "address": 30, "both": 5}
"""So many failed logins in ``FAILURES_S``: for a name, from an address, for a name from an address."""
CLOCK_SLACK_S = 60.0


class Accounts:
    """The accounts of one service.

    Args:
        database: where they are stored.
        clock: gives Unix time.
        hasher: an ``argon2.PasswordHasher``; tests give a cheap one.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time, hasher: Any = None) -> None:
        argon2 = require_extra("argon2", "service")
        self._database, self._clock = database, clock
        self._hasher = hasher or argon2.PasswordHasher()
        self._wrong = (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError)
        self._nobody = self._hasher.hash(secrets.token_urlsafe())
        self._few = threading.BoundedSemaphore(2)  # each verification takes 64 MB
        self._attempt = threading.BoundedSemaphore(2)  # from counting failures to counting one more
        with database.write() as tx:
            for kind in KINDS:
                tx.run("INSERT INTO roles (name, kind, cameras) VALUES (?, ?, NULL) ON CONFLICT DO NOTHING", kind, kind)

    # Accounts

    def exist(self) -> bool:
        """True if there is an account."""
        return self._database.one("SELECT id FROM accounts LIMIT 1") is not None

    def list_accounts(self) -> list[Row]:
        """All accounts: id, name, role, disabled, created_s."""
        return self._database.all("SELECT id, name, role, disabled, created_s FROM accounts ORDER BY name")

    def list_roles(self) -> list[Row]:
        """All roles: name, kind, cameras (a list, or None for all)."""
        rows = self._database.all("SELECT name, kind, cameras FROM roles ORDER BY name")
        return [{**row, "cameras": None if row["cameras"] is None else json.loads(row["cameras"])} for row in rows]

    def set_role(self, name: str, kind: str, cameras: Sequence[str] | None, by: Actor, reason: str = "") -> None:
        """Make or change a role. Raises AccountError for an unknown kind, or one of the three built-in roles."""
        if kind not in KINDS:
            raise AccountError(f"unknown kind {kind!r}; choose from {', '.join(KINDS)}")
        if name in KINDS:
            raise AccountError(f"the role {name!r} is built in; choose another name")
        check_name(name, "role")
        stored = None if cameras is None else json.dumps(sorted(set(cameras)))
        with self._database.write() as tx:
            tx.run(
                "INSERT INTO roles (name, kind, cameras) VALUES (?, ?, ?) "
                "ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, cameras = excluded.cameras",
                name,
                kind,
                stored,
            )
            self._keep_an_administrator(tx)
            record(tx, by.name, "role.set", {"role": name, "kind": kind, "cameras": stored or "all"}, reason)

    def add(self, name: str, password: str, role: str, by: str, reason: str = "") -> str:
        """Make an account. Returns its id.

        Raises:
            AccountError: a name that is taken or unsuitable, a short password, an unknown role.
        """
        check_name(name, "account")
        self._check_password(name, password)
        account, hashed = secrets.token_urlsafe(9), self._hash(password)
        with self._database.write() as tx:
            if tx.one("SELECT id FROM accounts WHERE name = ?", name):
                raise AccountError(f"the account {name!r} exists; choose another name")
            self._check_role(tx, role)
            tx.run("INSERT INTO accounts VALUES (?, ?, ?, ?, 0, ?)", account, name, hashed, role, self._clock())
            record(tx, by, "account.add", {"account": name, "role": role}, reason)
        return account

    def change(
        self,
        account: str,
        by: Actor,
        *,
        role: str | None = None,
        password: str | None = None,
        disabled: bool | None = None,
        reason: str = "",
    ) -> None:
        """Change an account. A new password or role, or disabling it, ends its sessions.

        Raises:
            AccountError: no such account, an unknown role, a short password, or no administrator would be left.
        """
        found = self._database.one("SELECT name FROM accounts WHERE id = ?", account)
        if found is None:
            raise AccountError(f"there is no account {account!r}")
        hashed = None
        if password is not None:
            self._check_password(found["name"], password)
            hashed = self._hash(password)
        with self._database.write() as tx:
            if role is not None:
                self._check_role(tx, role)
                tx.run("UPDATE accounts SET role = ? WHERE id = ?", role, account)
            if hashed is not None:
                tx.run("UPDATE accounts SET password = ? WHERE id = ?", hashed, account)
            if disabled is not None:
                tx.run("UPDATE accounts SET disabled = ? WHERE id = ?", int(disabled), account)
            tx.run("DELETE FROM sessions WHERE account = ?", account)
            self._keep_an_administrator(tx)
            what = {"account": found["name"], "password": hashed is not None}
            what |= {k: v for k, v in (("role", role), ("disabled", disabled)) if v is not None}
            record(tx, by.name, "account.change", what, reason)

    def change_own_password(self, actor: Actor, old: str, new: str, address: str) -> None:
        """Another password for who is logged in. All sessions of the account end.

        Raises:
            LoginError: the old password is wrong; it counts as a failed login.
            AccountError: the new one is too short.
        """
        self._check_password(actor.name, new)
        self.log_in(actor.name, old, address)
        hashed = self._hash(new)
        with self._database.write() as tx:
            tx.run("UPDATE accounts SET password = ? WHERE id = ?", hashed, actor.account)
            tx.run("DELETE FROM sessions WHERE account = ?", actor.account)
            record(tx, actor.name, "account.password", {"account": actor.name})

    def _keep_an_administrator(self, tx: Transaction) -> None:
        left = tx.one(
            "SELECT a.id FROM accounts a JOIN roles r ON r.name = a.role "
            "WHERE a.disabled = 0 AND r.kind = 'administrator' AND r.cameras IS NULL LIMIT 1"
        )
        if left is None and tx.one("SELECT id FROM accounts LIMIT 1") is not None:
            raise AccountError("no administrator of all cameras would be left; make another one first")

    def _check_role(self, tx: Transaction, role: str) -> None:
        if tx.one("SELECT name FROM roles WHERE name = ?", role) is None:
            names = ", ".join(row["name"] for row in tx.all("SELECT name FROM roles ORDER BY name"))
            raise AccountError(f"unknown role {role!r}; choose from {names}")

    def _check_password(self, name: str, password: str) -> None:
        if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
            raise AccountError(
                f"a password needs {MIN_PASSWORD} to {MAX_PASSWORD} characters; this has {len(password)}"
            )
        if name.lower() in password.lower() or len(set(password)) < 5:
            raise AccountError("the password holds the account's name, or fewer than five different characters")

    def _hash(self, password: str) -> str:
        with self._few:
            return str(self._hasher.hash(password))

    # The first administrator

    def make_setup_link(self) -> str | None:
        """The secret of a link that makes the first administrator, valid once and for a day; None if accounts exist."""
        secret = secrets.token_urlsafe(32)
        with self._database.write() as tx:
            if tx.one("SELECT id FROM accounts LIMIT 1"):
                return None
            tx.run("DELETE FROM setup_links")
            tx.run("INSERT INTO setup_links VALUES (?, ?)", digest_secret(secret), self._clock() + SETUP_S)
        return secret

    def setup_is_open(self, secret: str) -> bool:
        """True if the link can still be used."""
        row = self._database.one("SELECT ends_s FROM setup_links WHERE digest = ?", digest_secret(secret))
        return row is not None and row["ends_s"] > self._clock() and not self.exist()

    def set_up(self, secret: str, name: str, password: str) -> str:
        """Make the first administrator. Raises AccessError if the link was used or has expired."""
        check_name(name, "account")
        self._check_password(name, password)
        with self._database.write() as tx:
            row = tx.one("SELECT ends_s FROM setup_links WHERE digest = ?", digest_secret(secret))
            if row is None or row["ends_s"] <= self._clock() or tx.one("SELECT id FROM accounts LIMIT 1"):
                raise AccessError("this link was used, or has expired; start the service again for a new one")
            tx.run("DELETE FROM setup_links")
            return self.add(name, password, "administrator", by=name, reason="first administrator")

    # Logging in

    def log_in(self, name: str, password: str, address: str) -> str:
        """Check a password and begin a session. Returns the session's secret, for the cookie.

        An unknown name takes as long as a wrong password.

        Raises:
            LoginError: they do not fit.
            TooManyFailuresError: too many were wrong lately.
        """
        subjects = {
            "name": f"name {name[:200]}",
            "address": f"address {address}",
            "both": f"both {name[:200]} {address}",
        }
        with self._attempt:
            self._check_failures(subjects)
            row = self._database.one("SELECT id, password, disabled FROM accounts WHERE name = ?", name[:200])
            fits = self._fits(row["password"] if row else self._nobody, password[: MAX_PASSWORD + 1])
            if not fits or row is None or row["disabled"]:
                with self._database.write() as tx:
                    now = self._clock()
                    tx.run_many("INSERT INTO failed_logins VALUES (?, ?)", [(s, now) for s in subjects.values()])
                    tx.run("DELETE FROM failed_logins WHERE at_s < ?", now - FAILURES_S)
                    record(tx, name[:200], "login.failed", {"address": address})
                raise LoginError("name and password do not fit")
        secret = secrets.token_urlsafe(32)
        now = self._clock()
        with self._database.write() as tx:
            tx.run("DELETE FROM failed_logins WHERE subject = ?", subjects["both"])
            tx.run("DELETE FROM sessions WHERE ends_s < ?", now)
            tx.run(
                "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?)",
                digest_secret(secret),
                row["id"],
                secrets.token_urlsafe(24),
                now,
                now,
                now + SESSION_S,
            )
            record(tx, name, "login", {"address": address})
        return secret

    def _fits(self, hashed: str, password: str) -> bool:
        with self._few:
            try:
                return bool(self._hasher.verify(hashed, password))
            except self._wrong:
                return False

    def _check_failures(self, subjects: dict[str, str]) -> None:
        now = self._clock()
        for kind, subject in subjects.items():
            rows = self._database.all(
                "SELECT at_s FROM failed_logins WHERE subject = ? AND at_s > ? AND at_s <= ? ORDER BY at_s",
                subject,
                now - FAILURES_S,
                now + CLOCK_SLACK_S,  # later ones are of a clock that was ahead; they would block for as long
            )
            if len(rows) >= MAX_FAILURES[kind]:
                raise TooManyFailuresError(rows[-MAX_FAILURES[kind]]["at_s"] + FAILURES_S - now)

    def log_out(self, actor: Actor) -> None:
        """End a session."""
        with self._database.write() as tx:
            tx.run("DELETE FROM sessions WHERE digest = ?", actor.session)
            record(tx, actor.name, "logout")

    def by_session(self, secret: str) -> Actor | None:
        """Whose session it is; None if there is none, or it has ended."""
        digest, now = digest_secret(secret), self._clock()
        row = self._database.one(
            "SELECT s.csrf, s.created_s, s.used_s, s.ends_s, a.id, a.name, r.kind, r.cameras FROM sessions s "
            "JOIN accounts a ON a.id = s.account JOIN roles r ON r.name = a.role "
            "WHERE s.digest = ? AND a.disabled = 0",
            digest,
        )
        if row is None or row["ends_s"] <= now or row["used_s"] + IDLE_S <= now:
            return None
        if row["created_s"] > now + CLOCK_SLACK_S:  # the clock was set back: no session lasts longer for it
            return None
        if now - row["used_s"] > 60:
            with self._database.write() as tx:
                tx.run("UPDATE sessions SET used_s = ? WHERE digest = ?", now, digest)
        return read_actor(row, KINDS[row["kind"]], row["csrf"], digest)

    # Tokens for programs

    def make_token(
        self, owner: Actor, name: str, scopes: Sequence[str], days: int, reason: str = ""
    ) -> tuple[str, str]:
        """A token with the rights of its owner, or fewer, for some days. Returns its id, and the token, shown once.

        Raises:
            AccountError: scopes that are unknown or not the owner's, or days outside 1 to 366.
        """
        check_name(name, "token")
        if not scopes or (unknown := [s for s in scopes if s not in owner.capabilities]):
            raise AccountError(
                f"scopes {', '.join(unknown) if scopes else '(none)'}: "
                f"choose from {', '.join(sorted(owner.capabilities))}"
            )
        if not 1 <= days <= MAX_TOKEN_DAYS:
            raise AccountError(f"a token lasts from 1 to {MAX_TOKEN_DAYS} days, not {days}")
        token_id, secret, now = secrets.token_hex(6), secrets.token_urlsafe(32), self._clock()
        with self._database.write() as tx:
            tx.run(
                "INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?, ?, NULL)",
                token_id,
                owner.account,
                name,
                digest_secret(secret),
                json.dumps(sorted(set(scopes))),
                now,
                now + days * 86400,
            )
            record(
                tx, owner.name, "token.make", {"token": token_id, "scopes": sorted(set(scopes)), "days": days}, reason
            )
        return token_id, f"osnet_{token_id}_{secret}"

    def list_tokens(self, owner: Actor) -> list[Row]:
        """The owner's tokens, or everybody's for an administrator; without secrets."""
        rows = self._database.all(
            "SELECT t.id, t.name, a.name AS account, t.scopes, t.created_s, t.ends_s, t.revoked_s FROM tokens t "
            "JOIN accounts a ON a.id = t.account WHERE ? = 1 OR t.account = ? ORDER BY t.created_s",
            int(owner.may("admin")),
            owner.account,
        )
        return [{**row, "scopes": json.loads(row["scopes"])} for row in rows]

    def revoke_token(self, token_id: str, by: Actor) -> None:
        """End a token now. Raises AccountError if it is not one of theirs."""
        if token_id not in {row["id"] for row in self.list_tokens(by)}:
            raise AccountError(f"there is no token {token_id!r}")
        with self._database.write() as tx:
            tx.run("UPDATE tokens SET revoked_s = ? WHERE id = ? AND revoked_s IS NULL", self._clock(), token_id)
            record(tx, by.name, "token.revoke", {"token": token_id})

    def by_token(self, token: str) -> Actor | None:
        """Whose token it is; None if it is wrong, revoked or has ended."""
        prefix, _, rest = token.partition("_")
        token_id, _, secret = rest.partition("_")
        now = self._clock()
        row = self._database.one(
            "SELECT t.digest, t.scopes, t.created_s, t.ends_s, t.revoked_s, a.id, a.name, r.kind, r.cameras "
            "FROM tokens t JOIN accounts a ON a.id = t.account JOIN roles r ON r.name = a.role "
            "WHERE t.id = ? AND a.disabled = 0",
            token_id[:100],
        )
        right = hmac.compare_digest(row["digest"] if row else "0" * 64, digest_secret(secret))
        if prefix != "osnet" or row is None or not right or row["revoked_s"] is not None or row["ends_s"] <= now:
            return None
        if row["created_s"] > now + CLOCK_SLACK_S:
            return None
        return read_actor(row, KINDS[row["kind"]] & frozenset(json.loads(row["scopes"])))
