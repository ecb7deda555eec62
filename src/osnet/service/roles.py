"""Roles: what accounts of each kind may do, who asks, and how a refusal is said."""

import hashlib
import json
from dataclasses import dataclass

from osnet.errors import OsnetError
from osnet.service.database import Row

CAPABILITIES = ("view", "search", "decide", "export", "erase", "admin", "metrics")
KINDS: dict[str, frozenset[str]] = {
    "viewer": frozenset({"view"}),
    "operator": frozenset({"view", "search", "decide", "export"}),
    "administrator": frozenset(CAPABILITIES),
}
"""What accounts of each kind may do. ``view``: cases and what is in them. ``decide``: answers and cases."""


class AccessError(OsnetError, PermissionError):
    """Not logged in, or not allowed."""


class LoginError(AccessError):
    """Name and password do not fit, or the account is disabled. It does not say which."""


class TooManyFailuresError(AccessError):
    """Too many failed logins; ``retry_s`` says when to try again."""

    def __init__(self, retry_s: float) -> None:
        super().__init__(f"too many failed logins; try again in {max(1, round(retry_s / 60))} minutes")
        self.retry_s = retry_s


class AccountError(OsnetError, ValueError):
    """An account, a role or a token that cannot be made or changed so."""


@dataclass(frozen=True)
class Actor:
    """Who asks: an account, and what it may do here."""

    account: str
    """Its id."""
    name: str
    kind: str
    cameras: frozenset[str] | None
    """None: all."""
    capabilities: frozenset[str]
    csrf: str | None = None
    """Of a session; None for a token, which no browser sends by itself."""
    session: str | None = None
    """Digest of the session."""

    def may(self, capability: str) -> bool:
        """True if it may do that."""
        return capability in self.capabilities

    def sees(self, camera: str) -> bool:
        """True if its role includes the camera."""
        return self.cameras is None or camera in self.cameras


def read_actor(row: Row, capabilities: frozenset[str], csrf: str | None = None, session: str | None = None) -> Actor:
    """The actor of a row with an account's id and name, and its role's kind and cameras."""
    cameras = None if row["cameras"] is None else frozenset(json.loads(row["cameras"]))
    return Actor(row["id"], row["name"], row["kind"], cameras, capabilities, csrf, session)


def check_name(name: str, what: str) -> None:
    """Raise AccountError for a name that is empty, long, or holds control characters."""
    if not 1 <= len(name) <= 100 or name != name.strip() or not name.isprintable():
        raise AccountError(
            f"the {what}'s name {name[:100]!r} must have 1 to 100 printable characters, no space at its ends"
        )


def digest_secret(secret: str) -> str:
    """SHA-256 of a random secret, in hexadecimal."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
