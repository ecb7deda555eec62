"""The watch list: tells a program when somebody who is looked for is seen. Off unless the site's setting turns it on.

Each entry is a search with a threshold, a reason and an end. Alerts are sent as JSON by HTTPS to a public address, with
a signature; a failed one is tried again with growing pauses, at most eight times.
"""

import hashlib
import hmac
import http.client
import json
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from osnet.errors import DataError
from osnet.service.addresses import AddressError, check_public
from osnet.service.audit import record
from osnet.service.columns import Filters
from osnet.service.database import Database, Row
from osnet.service.library import Library, ScoredTracklet
from osnet.service.queries import mean_of
from osnet.service.retention import Settings
from osnet.service.roles import Actor
from osnet.service.searches import MissingError, Searches
from osnet.service.times import CLOCK_FROM_S, show_time

MAX_DAYS, MAX_TRIES, FIRST_PAUSE_S, TIMEOUT_S = 90, 8, 30.0, 10.0
DAY_S = 86_400.0
AT_FIRST = 200
"""Tracklets that are asked for; more, as long as the last of them reaches the threshold."""
Post = Callable[[str, bytes, dict[str, str]], int]
"""Address, body, headers -> HTTP status."""


class WatchList:
    """The entries of a service's watch list, and their alerts.

    Args:
        database: where they are stored.
        library: where new tracklets appear.
        searches: whose queries are watched for.
        settings: ``watch_list`` must be 1.
        clock: gives Unix time.
        post: sends an alert; tests give their own.
    """

    def __init__(
        self,
        database: Database,
        library: Library,
        searches: Searches,
        settings: Settings,
        clock: Callable[[], float] = time.time,
        post: Post | None = None,
    ) -> None:
        self._database, self._library, self._searches = database, library, searches
        self._settings, self._clock, self._post = settings, clock, post or post_webhook

    def expect(self, actor: Actor, search: str, threshold: float) -> dict[str, Any]:
        """What a threshold would mean: false alarms a day, by the calibration and by the number of tracklets a day."""
        self._searches.get(actor, search)
        c = self._library.columns
        clocked = c.begins >= CLOCK_FROM_S
        days = max(1.0, float(c.ends[clocked].max() - c.begins[clocked].min()) / DAY_S) if clocked.any() else 1.0
        per_day = int(clocked.sum()) / days
        vector = self._vector(search)
        reached = sum(
            hit.crop_score is not None and hit.crop_score >= threshold
            for hit in self._library.search(vector, Filters(), actor.sees, max(1, len(c.ids)))
        )
        passed = [point for point in self._library.scale.points if threshold >= point.threshold]
        crops = 6
        share = min(1.0, passed[0].rate * crops) if passed else None
        return {
            "tracklets_per_day": round(per_day, 1),
            "reached_in_archive": reached,
            "false_alarms_per_day": None if share is None else round(share * per_day, 2),
            "text": (
                f"at most {share * per_day:.1f} false alarms a day, at {per_day:.0f} tracklets of up to {crops} crops"
                if share is not None
                else "not calibrated for this threshold, so the number of false alarms is not known"
            ),
        }

    def add(self, actor: Actor, search: str, threshold: float, days: int, webhook: str, reason: str) -> tuple[str, str]:
        """A new entry. Returns its id and the secret of its signatures, which is shown once.

        Raises:
            DataError: the watch list is off, no reason, a threshold or an end out of range.
            AddressError: the webhook is not https, or not public.
            MissingError: no such search, or one without pictures.
        """
        if not self._settings.get("watch_list"):
            raise DataError("the watch list is off; an administrator can turn on the setting watch_list")
        if not reason.strip():
            raise DataError("an entry of the watch list needs a reason")
        if not 0 < threshold <= 1:
            raise DataError(f"threshold {threshold:g} must be above 0, at most 1")
        if not 1 <= days <= MAX_DAYS:
            raise DataError(f"an entry lasts from 1 to {MAX_DAYS} days, not {days}")
        if actor.cameras is not None:
            raise DataError("the watch list looks at all cameras, and your role does not")
        self._searches.get(actor, search)
        self._vector(search)
        check_public(webhook, ("https",))
        entry, secret, now = secrets.token_urlsafe(9), secrets.token_urlsafe(32), self._clock()
        with self._database.write() as tx:
            self._searches.get(actor, search)  # again: it may have been deleted meanwhile
            tx.run(
                "INSERT INTO watch_entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                entry,
                search,
                actor.name,
                reason,
                threshold,
                now + days * DAY_S,
                webhook,
                secret,
                now,
                now,
            )
            record(tx, actor.name, "watch.add", {"entry": entry, "search": search, "days": days}, reason)
        return entry, secret

    def list_entries(self) -> list[Row]:
        """All entries that have not ended, with their alerts; without secrets."""
        rows = self._database.all(
            "SELECT id, search, account, reason, threshold, ends_s, webhook, created_s FROM watch_entries "
            "WHERE ends_s > ? ORDER BY created_s",
            self._clock(),
        )
        for row in rows:
            row["alerts"] = self._database.all(
                "SELECT tracklet, score, at_s, tries, delivered_s, error FROM alerts WHERE entry = ? "
                "ORDER BY at_s DESC LIMIT 50",
                row["id"],
            )
        return rows

    def remove(self, actor: Actor, entry: str) -> None:
        """End an entry. Raises MissingError."""
        with self._database.write() as tx:
            if not tx.run("DELETE FROM watch_entries WHERE id = ?", entry):
                raise MissingError(f"there is no entry {entry[:100]!r}")
            record(tx, actor.name, "watch.remove", {"entry": entry})

    def _vector(self, search: str) -> Any:
        vector = self._searches.vector(search)
        if vector is None:
            raise MissingError("this search was described in words; watch for one with pictures")
        said = self._searches.answers(search)
        known = self._library.columns.place
        yes = [self._library.mean(t) for t, row in said.items() if row["answer"] == "yes" and t in known]
        return mean_of([vector, *yes])

    def look(self) -> int:
        """Compare tracklets that began since the last look with all entries. Returns the number of new alerts."""
        if not self._settings.get("watch_list"):
            return 0
        now, new = self._clock(), 0
        for entry in self._database.all("SELECT * FROM watch_entries WHERE ends_s > ?", now):
            c = self._library.columns
            filters = Filters(after_s=entry["seen_s"])
            if not c.passing(filters, lambda _: True).any():
                continue
            hits = self._reaching(entry["threshold"], self._vector(entry["search"]), filters)
            with self._database.write() as tx:
                if tx.one("SELECT id FROM watch_entries WHERE id = ?", entry["id"]) is None:
                    continue  # it was removed meanwhile
                for hit in self._searches.still_there(hits):
                    new += tx.run(
                        "INSERT INTO alerts VALUES (?, ?, ?, ?, ?, 0, ?, NULL, NULL) ON CONFLICT DO NOTHING",
                        secrets.token_urlsafe(9),
                        entry["id"],
                        hit.id,
                        hit.score,
                        now,
                        now,
                    )
        return new

    def _reaching(self, threshold: float, query_D: Any, filters: Filters) -> list[ScoredTracklet]:
        """The tracklets whose best crop reaches a threshold; most of them had their alerts earlier."""
        top = AT_FIRST
        while True:
            hits = self._library.search(query_D, filters, lambda _: True, top)
            reaching = [hit for hit in hits if hit.crop_score is not None and hit.crop_score >= threshold]
            if len(hits) < top or reaching[-1:] != hits[-1:]:
                return reaching
            top *= 4

    def deliver(self, stopped: threading.Event | None = None) -> int:
        """Send what waits and is due. Returns how many arrived. Ends between two alerts if ``stopped`` is set."""
        if not self._settings.get("watch_list"):
            return 0
        now, sent = self._clock(), 0
        due = self._database.all(
            "SELECT a.*, w.webhook, w.secret, w.reason FROM alerts a JOIN watch_entries w ON w.id = a.entry "
            "WHERE a.delivered_s IS NULL AND a.next_try_s <= ? AND a.tries < ? AND w.ends_s > ? LIMIT 20",
            now,
            MAX_TRIES,
            now,
        )
        for alert in due:
            if stopped is not None and stopped.is_set():
                break
            error = self._send(alert)
            with self._database.write() as tx:
                there = tx.run(
                    "UPDATE alerts SET tries = tries + 1, error = ?, delivered_s = ?, next_try_s = ? WHERE id = ?",
                    error,
                    None if error else now,
                    now + FIRST_PAUSE_S * 2 ** alert["tries"],
                    alert["id"],
                )
                record(
                    tx,
                    "service",
                    "alert.sent" if error is None else "alert.failed",
                    {"entry": alert["entry"], **({"tracklet": alert["tracklet"]} if there else {})},  # not if erased
                    alert["reason"],
                )
            sent += error is None
        return sent

    def _send(self, alert: Row) -> str | None:
        """None if it arrived, else what was wrong."""
        try:
            camera = self._library.camera_of(alert["tracklet"])
            tracklet = self._library.tracklet(alert["tracklet"])
        except ValueError:
            return "the tracklet was removed"
        body = json.dumps(
            {
                "entry": alert["entry"],
                "tracklet": alert["tracklet"],
                "camera": camera,
                "score": round(alert["score"], 4),
                "from": show_time(tracklet.begin_s),
                "to": show_time(tracklet.end_s),
            }
        ).encode()
        headers = {
            "Content-Type": "application/json",
            "X-Osnet-Alert": alert["id"],
            "X-Osnet-Signature": sign(alert["secret"], alert["id"], body),
        }
        try:
            status = self._post(alert["webhook"], body, headers)
        except (AddressError, OSError, http.client.HTTPException) as error:
            return f"{type(error).__name__}: {error}"[:300]
        return None if 200 <= status < 300 else f"HTTP {status}"


def sign(secret: str, alert: str, body: bytes) -> str:
    """``sha256=HEX``: HMAC-SHA256 by the entry's secret over the alert's id, a full stop and the body."""
    return "sha256=" + hmac.new(secret.encode(), f"{alert}.".encode() + body, hashlib.sha256).hexdigest()


def post_webhook(address: str, body: bytes, headers: dict[str, str]) -> int:
    """POST to a public https address, without following redirects. Returns the status.

    Raises:
        AddressError: it is not public (any more).
        OSError, HTTPException: it cannot be reached.
    """
    host, port, ips = check_public(address, ("https",))
    parts = urlsplit(address)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    context = ssl.create_default_context()
    raw = socket.create_connection((ips[0], port), timeout=TIMEOUT_S)  # the very address that was checked
    with context.wrap_socket(raw, server_hostname=host) as secure:
        connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S)
        connection.sock = secure
        connection.request("POST", path, body, headers)
        return connection.getresponse().status
