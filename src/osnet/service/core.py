"""All parts of a service, put together; and the work in the background."""

import hashlib
import hmac
import json
import logging
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from osnet.embedding.attribute_predictor import AttributePredictor
from osnet.errors import DataError, OsnetError
from osnet.files import make_folder
from osnet.service.accounts import Accounts
from osnet.service.audit import record
from osnet.service.cases import Cases
from osnet.service.database import STATE_FILE, Row, StateError, open_database
from osnet.service.erasure import Erasure
from osnet.service.jobs import Jobs
from osnet.service.library import Library
from osnet.service.live import Sources
from osnet.service.retention import Retention, Settings
from osnet.service.roles import Actor
from osnet.service.searches import Searches
from osnet.service.timelines import Timelines
from osnet.service.watch import WatchList

log = logging.getLogger("osnet.service")
LOOPBACK = ("127.0.0.1", "::1", "localhost")
LEAST_FREE = 200 << 20
"""Bytes that must be free for the service to be ready."""
RETENTION_EVERY_S, REFRESH_EVERY_S, LAST_ALERT_S = 3600.0, 2.0, 15.0


class ReasonNeededError(DataError):
    """The site's setting makes a reason obligatory, and none was given."""


@dataclass(frozen=True)
class ServiceOptions:
    """How a service is started."""

    archives: tuple[Path, ...]
    """Folders of archives and galleries."""
    state: Path
    """The folder of its state, and of files that it makes for a moment."""
    database: str | None = None
    """Address of the state in Postgres; None: SQLite in the folder."""
    host: str = "127.0.0.1"
    port: int = 8750
    public_name: tuple[str, ...] = ()
    """Host names that requests may be for, beside the address itself."""
    tls: bool = False
    """A proxy in front speaks HTTPS: cookies are for HTTPS only."""
    calibration: tuple[Path, ...] = ()
    footage: tuple[Path, ...] = ()
    attributes: str | None = None
    """Weights that predict attributes."""
    zone: str = "UTC"
    device: str = "auto"
    max_upload_bytes: int = 32 << 20
    allow_private_sources: bool = False
    """Cameras may have private addresses. Administrators of the machine decide that, not of the service."""
    detector: str = "motion"
    """For live sources."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise DataError(f"port {self.port} must be from 0 to 65535")


class Service:
    """The parts of a service.

    Args:
        options: how it is started.
        clock: gives Unix time.
        hasher: of passwords; tests give a cheap one.

    Raises:
        OsnetError: archives, weights, state or options that cannot be used.
    """

    def __init__(self, options: ServiceOptions, clock: Callable[[], float] = time.time, hasher: Any = None) -> None:
        self.options, self.clock = options, clock
        make_folder(options.state)
        self.temporary = options.state / "tmp"
        self.temporary.mkdir(mode=0o700, exist_ok=True)
        attributes = None if options.attributes is None else AttributePredictor(options.attributes, options.device)
        self.library = Library(
            options.archives, options.calibration, options.footage, attributes, read_zone(options.zone), options.device
        )
        self.database = open_database(options.database or options.state / STATE_FILE)
        self.accounts = Accounts(self.database, clock, hasher)
        self.settings = Settings(self.database)
        self.searches = Searches(self.database, self.library, clock)
        self.timelines = Timelines(self.database, self.library, self.searches)
        self.cases = Cases(self.database, self.library, self.searches, clock)
        self.retention = Retention(self.database, self.library, self.settings, clock)
        self.erasure = Erasure(self.database, self.library, self.searches, options.state, clock)
        self.jobs = Jobs(
            self.database,
            {
                "erasure": self._erase,
                "retention": self._run_retention,
                "attributes": lambda _row, _: self._describe_tracklets(),
            },
            clock,
        )
        self.watch = WatchList(self.database, self.library, self.searches, self.settings, clock)
        self.sources = Sources(self.database, self.library, options, clock)
        self._key = secrets.token_bytes(32)
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._last_retention = -RETENTION_EVERY_S
        self._load_attributes()

    def check_address(self) -> None:
        """Raise DataError if the service would be reachable from elsewhere without an account."""
        if self.options.host not in LOOPBACK and not self.accounts.exist():
            raise DataError(
                f"--host {self.options.host}: the service would be open to others, and there is no account. Start it "
                "on 127.0.0.1 first, open the link that it prints, and make an administrator"
            )

    def start(self) -> None:
        """Begin the work beside requests: jobs, retention, live sources, the watch list.

        Raises:
            StateBusyError: another service runs on the same state.
        """
        self.database.claim()
        shutil.rmtree(self.temporary, ignore_errors=True)  # of a process that was killed; until here, of a running one
        self.temporary.mkdir(mode=0o700)
        self.sources.start()
        self.jobs.start()  # after the sources: an erasure that starts again pauses those of its cameras
        steps = (self._refresh, self._retain, self.watch.look), (lambda: self.watch.deliver(self._stopped),)
        for name, own in zip(("osnet-service", "osnet-alerts"), steps, strict=True):
            self._threads.append(threading.Thread(target=self._repeat, args=own, name=name, daemon=True))
            self._threads[-1].start()

    def stop(self) -> None:
        """End all of it. An alert that is being sent is waited for, but not for long."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(LAST_ALERT_S if thread.name == "osnet-alerts" else None)
        self.jobs.stop()  # before the sources: an erasure starts those that it had paused
        self.sources.stop()
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.database.unclaim()
        self.database.close()

    def _repeat(self, *steps: Callable[[], Any]) -> None:
        """Do these things every ``REFRESH_EVERY_S`` until the stop; if one fails, the others are still done."""
        while not self._stopped.wait(REFRESH_EVERY_S):
            for step in steps:
                try:
                    step()
                except OsnetError as error:
                    log.warning("beside requests: %s", error)
                except Exception:  # the next round may be better
                    log.exception("beside requests")

    def _refresh(self) -> None:
        if self.library.refresh() and self.library.attributes:
            self.jobs.add("attributes", "service", "new tracklets", {})

    def _retain(self) -> None:
        if time.monotonic() - self._last_retention > RETENTION_EVERY_S:
            self._last_retention = time.monotonic()
            self.jobs.repeat_failed()
            self.retention.note_clock()
            if self.retention.due():
                self.jobs.add("retention", "service", "retention", {})

    def _erase(self, row: Row, plan: dict[str, Any]) -> dict[str, Any]:
        ids = filter(None, map(self.library.columns.archive_id, plan["tracklets"]))
        cameras = {tracklet_id.split("/")[1] for _, tracklet_id in ids}
        with self.sources.paused(cameras):
            return self.erasure.run(row["account"], row["reason"], plan, row["id"])

    def _run_retention(self, row: Row, _: dict[str, Any]) -> dict[str, Any]:
        with self.sources.paused({camera for _, _, camera in self.retention.due()}):
            return self.retention.run(row["account"])

    def _load_attributes(self) -> None:
        if self.library.attributes:
            rows = self.database.all(
                "SELECT tracklet, probabilities FROM attributes WHERE head = ?", self.library.attribute_head
            )
            self.library.set_probabilities({row["tracklet"]: json.loads(row["probabilities"]) for row in rows})
            if self.library.undescribed():
                self.jobs.add("attributes", "service", "tracklets without attributes", {})

    def _describe_tracklets(self) -> dict[str, Any]:
        done = 0
        for public in self.library.undescribed():
            probabilities = self.library.predict_attributes(public)
            with self.database.write() as tx:
                tx.run(
                    "INSERT INTO attributes VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                    public,
                    self.library.attribute_head,
                    json.dumps(probabilities),
                )
            self.library.set_probabilities({public: probabilities})
            done += 1
        return {"tracklets": done}

    # Views

    def check_reason(self, reason: str) -> str:
        """The reason as it is kept. Raises ReasonNeededError if it is empty and must not be."""
        reason = " ".join(reason.split())[:1000]
        if not reason and self.settings.get("require_reason"):
            raise ReasonNeededError("a reason is obligatory here: why do you look at this? (reason, or X-Reason)")
        return reason

    def log_view(self, actor: Actor, action: str, what: dict[str, Any], reason: str) -> None:
        """Write down that somebody looked at something."""
        with self.database.write() as tx:
            record(tx, actor.name, action, what, reason)

    def sign_view(self, actor: Actor, public: str) -> str:
        """Proof that this view of a tracklet's pictures was logged with a list; valid for an hour or two."""
        return self._signature(actor, public, int(self.clock() // 3600))

    def was_logged(self, actor: Actor, public: str, signature: str) -> bool:
        """True for a signature of ``sign_view``."""
        hour = int(self.clock() // 3600)
        return any(hmac.compare_digest(signature, self._signature(actor, public, h)) for h in (hour, hour - 1))

    def _signature(self, actor: Actor, public: str, hour: int) -> str:
        return hmac.new(self._key, f"{actor.account} {public} {hour}".encode(), hashlib.sha256).hexdigest()[:32]

    # Health

    def readiness(self) -> "Readiness":
        """What works and what does not."""
        wrong = self.library.missing()
        try:
            self.database.one("SELECT 1 AS one")
            if fault := self.retention.clock_fault():
                wrong.append(fault)
        except StateError as error:
            wrong.append(str(error))
        free = shutil.disk_usage(self.options.state).free
        if free < LEAST_FREE:
            wrong.append(f"{free >> 20} MB are left on the disk of the state")
        return Readiness(wrong, free, len(self.library))


@dataclass(frozen=True)
class Readiness:
    """Whether a service can do its work."""

    wrong: list[str] = field(default_factory=list)
    free_bytes: int = 0
    num_tracklets: int = 0


def read_zone(name: str) -> tzinfo:
    """A time zone by its name. Raises DataError if it is unknown."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise DataError(f"unknown time zone {name!r}; give one like Europe/Berlin") from error
