"""The audit log: who did what, when, why, and what was looked at; a chain of hashes shows a gap or a change.

Each entry's hash covers the entry before it. Reason and details enter it as salted digests and are stored beside it, so
that details about an erased person can be deleted while the chain stays whole. Each deletion is itself an entry that
lists the entries it touched.
"""

import hashlib
import json
import secrets
import time
from dataclasses import dataclass
from typing import Any

from osnet.service.database import Database, Transaction, storable

FIRST = "0" * 64
ERASED = "audit.details-erased"


@dataclass(frozen=True)
class AuditEntry:
    """One line of the log."""

    seq: int
    at_s: float
    account: str
    action: str
    reason: str
    what: dict[str, Any] | None
    """None: deleted by an erasure or at the end of its time."""
    hash: str


@dataclass(frozen=True)
class Verification:
    """What ``verify`` found."""

    entries: int
    faults: tuple[str, ...]
    last_hash: str

    @property
    def is_whole(self) -> bool:
        """True if nothing is missing and nothing was changed."""
        return not self.faults


def record(
    tx: Transaction,
    account: str,
    action: str,
    what: dict[str, Any] | None = None,
    reason: str = "",
    at_s: float | None = None,
) -> int:
    """Add an entry, in the transaction of what it is about. Returns its number."""
    account, reason = storable(account), storable(reason)
    last = tx.one("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1")
    seq, previous = (int(last["seq"]) + 1, str(last["hash"])) if last else (1, FIRST)
    salt, text = secrets.token_hex(16), canonical(what or {})
    at_s = round(time.time() if at_s is None else at_s, 3)
    digests = salted(salt, "reason", reason), salted(salt, "what", text)
    entry_hash = chain_hash(seq, at_s, account, action, *digests, previous)
    tx.run(
        "INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?)", seq, at_s, account, action, *digests, previous, entry_hash
    )
    tx.run("INSERT INTO audit_details VALUES (?, ?, ?, ?)", seq, salt, reason, text)
    return seq


def erase_details(tx: Transaction, account: str, texts: set[str], reason: str) -> list[int]:
    """Delete the details of all entries that name one of ``texts``; returns their numbers. The chain stays whole."""
    if not texts:
        return []
    seqs = [
        int(row["seq"])
        for row in tx.all("SELECT seq, what FROM audit_details WHERE what IS NOT NULL")
        if names_any(json.loads(row["what"]), texts)
    ]
    tx.run_many("UPDATE audit_details SET what = NULL WHERE seq = ?", [(seq,) for seq in seqs])
    if seqs:
        record(tx, account, ERASED, {"entries": seqs}, reason)
    return seqs


def names_any(value: Any, texts: set[str]) -> bool:
    """True if one of ``texts`` is a text anywhere in a JSON value."""
    if isinstance(value, dict):
        return any(names_any(part, texts) for part in value.values())
    if isinstance(value, list):
        return any(names_any(part, texts) for part in value)
    return isinstance(value, str) and value in texts


def verify(database: Database, first_hash: str = FIRST) -> Verification:
    """Recompute the whole chain.

    A log that was cut at its end is whole by itself; compare ``last_hash`` with one that was noted elsewhere.

    Args:
        database: whose log.
        first_hash: what the first entry's ``previous`` must be.
    """
    faults: list[str] = []
    previous, expected = first_hash, 1
    blank: set[int] = set()
    explained: set[int] = set()
    rows = database.all(
        "SELECT a.*, d.salt, d.reason, d.what FROM audit a LEFT JOIN audit_details d ON d.seq = a.seq ORDER BY a.seq"
    )
    for row in rows:
        seq = int(row["seq"])
        if seq != expected:
            faults.append(f"entries {expected} to {seq - 1} are missing")
        if row["previous"] != previous:
            faults.append(f"entry {seq} does not follow the entry before it")
        want = chain_hash(
            seq, row["at_s"], row["account"], row["action"], row["reason_digest"], row["what_digest"], row["previous"]
        )
        if row["hash"] != want:
            faults.append(f"entry {seq} was changed")
        if row["salt"] is None:
            faults.append(f"the details of entry {seq} are missing")
        else:
            if salted(row["salt"], "reason", row["reason"]) != row["reason_digest"]:
                faults.append(f"the reason of entry {seq} was changed")
            if row["what"] is None:
                blank.add(seq)
            elif salted(row["salt"], "what", row["what"]) != row["what_digest"]:
                faults.append(f"the details of entry {seq} were changed")
            elif row["action"] == ERASED:
                explained |= set(json.loads(row["what"])["entries"])
        previous, expected = row["hash"], seq + 1
    faults += [f"the details of entry {seq} were deleted, and no erasure says so" for seq in sorted(blank - explained)]
    return Verification(len(rows), tuple(faults), previous)


def list_entries(
    database: Database, before: int | None = None, limit: int = 50, account: str | None = None
) -> list[AuditEntry]:
    """Entries, the newest first.

    Args:
        database: whose log.
        before: only entries with a smaller number.
        limit: at most so many.
        account: only of this account's name.
    """
    rows = database.all(
        "SELECT a.seq, a.at_s, a.account, a.action, a.hash, d.reason, d.what FROM audit a "
        "JOIN audit_details d ON d.seq = a.seq WHERE a.seq < ? AND (? = '' OR a.account = ?) "
        "ORDER BY a.seq DESC LIMIT ?",
        2**62 if before is None else before,
        account or "",
        account or "",
        limit,
    )
    return [AuditEntry(**{**row, "what": None if row["what"] is None else json.loads(row["what"])}) for row in rows]


def canonical(value: dict[str, Any]) -> str:
    """JSON with sorted keys and without spaces: equal values give equal texts."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def salted(salt: str, kind: str, text: str) -> str:
    """SHA-256 of a text with a salt, in hexadecimal."""
    return hashlib.sha256(f"{salt}\n{kind}\n{text}".encode()).hexdigest()


def chain_hash(*parts: Any) -> str:
    """SHA-256 of an entry's fields, in hexadecimal."""
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()
