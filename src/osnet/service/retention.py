"""How long things are kept: segments and galleries' crops by camera, searches outside of cases, logins. A job deletes
the rest.

No camera keeps longer than the site's maximum. Until an administrator decides on it, no footage is deleted, so that
serving an old archive for the first time does not empty it. Times are those of the footage. If the clock was set back
or jumped ahead, nothing is deleted until it is right again, or an administrator confirms it.
"""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from osnet.errors import DataError, OsnetError
from osnet.service.accounts import CLOCK_SLACK_S
from osnet.service.audit import record
from osnet.service.cases import delete_case
from osnet.service.columns import public_id, split_public_id
from osnet.service.database import Database, Transaction, lists_of
from osnet.service.library import Library
from osnet.service.roles import Actor
from osnet.service.times import CLOCK_FROM_S, show_moment
from osnet.video.archive import Archive
from osnet.video.erasing import Removal, remove_segments

log = logging.getLogger("osnet.service")
DAY_S = 86_400.0
MAX_DAYS = 3650
MOST_AHEAD_S = 7 * DAY_S
"""The clock may be so far ahead of the last time that is known: the service may have been off for a week."""


@dataclass(frozen=True)
class Setting:
    """A number or a choice that administrators can change."""

    default: int
    low: int
    high: int
    meaning: str


SETTINGS = {
    "maximum_days": Setting(
        0, 0, MAX_DAYS, "no camera's footage is kept longer than so many days; 0: not decided yet, nothing is deleted"
    ),
    "search_days": Setting(30, 1, MAX_DAYS, "searches that are in no case are kept so many days"),
    "case_days": Setting(365, 1, MAX_DAYS, "cases are kept so many days"),
    "audit_days": Setting(1095, 30, MAX_DAYS, "details of audit entries are kept so many days; the chain stays"),
    "require_reason": Setting(0, 0, 1, "1: searches, exports and views need a reason"),
    "watch_list": Setting(0, 0, 1, "1: the watch list may be used"),
}


class Settings:
    """The settings of a service."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, name: str) -> int:
        """The value of one of ``SETTINGS``."""
        row = self._database.one("SELECT value FROM settings WHERE name = ?", name)
        return SETTINGS[name].default if row is None else int(row["value"])

    def all(self) -> dict[str, int]:
        """Name -> value."""
        return {name: self.get(name) for name in SETTINGS}

    def set(self, actor: Actor, name: str, value: int, reason: str = "") -> None:
        """Raises DataError for an unknown name or a value outside its range."""
        if name not in SETTINGS:
            raise DataError(f"unknown setting {name[:100]!r}; choose from {', '.join(SETTINGS)}")
        if not SETTINGS[name].low <= value <= SETTINGS[name].high:
            raise DataError(f"{name} {value} must be from {SETTINGS[name].low} to {SETTINGS[name].high}")
        with self._database.write() as tx:
            tx.run(
                "INSERT INTO settings VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                name,
                str(value),
            )
            record(tx, actor.name, "setting.change", {"setting": name, "value": value}, reason)


class Retention:
    """Decides what is too old, and deletes it."""

    def __init__(
        self, database: Database, library: Library, settings: Settings, clock: Callable[[], float] = time.time
    ) -> None:
        self._database, self._library, self._settings, self._clock = database, library, settings, clock

    def days(self) -> dict[str, int]:
        """Camera -> for how many days its footage is kept; 0: not decided, so nothing is deleted."""
        own = {row["camera"]: int(row["days"]) for row in self._database.all("SELECT * FROM retention")}
        most = self._settings.get("maximum_days")
        return {camera: min(own.get(camera, most), most) for camera in sorted({*self._library.cameras(), *own})}

    def set_days(self, actor: Actor, camera: str, days: int, reason: str = "") -> None:
        """Raises DataError for an unknown camera, or days above the site's maximum."""
        most = self._settings.get("maximum_days")
        if camera not in self.days():
            raise DataError(f"there is no camera {camera[:100]!r}; there are {', '.join(self.days())}")
        if not most:
            raise DataError("the site's maximum is not decided; set maximum_days first")
        if not 1 <= days <= most:
            raise DataError(f"{days} days must be from 1 to the site's maximum of {most}")
        with self._database.write() as tx:
            tx.run(
                "INSERT INTO retention VALUES (?, ?) ON CONFLICT (camera) DO UPDATE SET days = excluded.days",
                camera,
                days,
            )
            record(tx, actor.name, "retention.change", {"camera": camera, "days": days}, reason)

    # The clock. The state keeps the last time at which it was right, and the audit log's last entry then: later entries
    # that are far ahead of that time come from a clock that was wrong, and do not count.

    def _noted(self) -> tuple[float, int] | None:
        row = self._database.one("SELECT value FROM settings WHERE name = 'clock'")
        return None if row is None else (float(json.loads(row["value"])[0]), int(json.loads(row["value"])[1]))

    def _last_known(self) -> float:
        """The latest time of which the service knows; 0 if it knows none."""
        noted_s, seq = self._noted() or (0.0, 0)
        until = noted_s + MOST_AHEAD_S if noted_s else float(2**62)
        last = self._database.one("SELECT MAX(at_s) AS at_s FROM audit WHERE seq > ? AND at_s <= ?", seq, until)
        return max(noted_s, float((last and last["at_s"]) or 0.0))

    def clock_was_set_back(self) -> float:
        """By how many seconds the clock is behind the last time that is known; 0 if it is not."""
        behind = self._last_known() - self._clock()
        return behind if behind > CLOCK_SLACK_S else 0.0

    def clock_is_ahead(self) -> float:
        """By how many seconds the clock is ahead of the last time that is known; 0 if that may be so.

        The date may be wrong, or the service was off for long. Only people know.
        """
        ahead = self._clock() - self._last_known()
        return ahead if ahead > MOST_AHEAD_S and self._noted() else 0.0

    def clock_fault(self) -> str:
        """What is wrong with the clock, and what to do; empty if nothing is."""
        if behind := self.clock_was_set_back():
            return (
                f"the clock is {behind:.0f} s behind the audit log; nothing is deleted until it is right, or an "
                "administrator confirms it on the page Retention"
            )
        if ahead := self.clock_is_ahead():
            return (
                f"the clock says {show_moment(self._clock())}, {ahead / DAY_S:.0f} days after the last time that the "
                f"service ran ({show_moment(self._last_known())}); nothing is deleted until the clock is right, or, "
                "if the service was off so long, an administrator confirms it on the page Retention"
            )
        return ""

    def note_clock(self) -> None:
        """Keep the present time as one at which the clock was right; the last known time, if it is not right."""
        if self._noted() and self.clock_fault():
            return
        with self._database.write() as tx:
            self._note(tx, self._clock() if self._noted() else (self._last_known() or self._clock()))

    def confirm_clock(self, actor: Actor, reason: str = "") -> None:
        """An administrator says that the clock is right; what is due is deleted again."""
        with self._database.write() as tx:
            what = {"now": show_moment(self._clock()), "last_known": show_moment(self._last_known())}
            record(tx, actor.name, "retention.clock-confirmed", what, reason)
            self._note(tx, self._clock())

    @staticmethod
    def _note(tx: Transaction, time_s: float) -> None:
        last = tx.one("SELECT MAX(seq) AS seq FROM audit")
        tx.run(
            "INSERT INTO settings VALUES ('clock', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            json.dumps([time_s, int((last and last["seq"]) or 0)]),
        )

    def due(self) -> list[tuple[str, str, str]]:
        """As ``old``; nothing while the clock is wrong."""
        return [] if self.clock_fault() else self.old()

    def old(self) -> list[tuple[str, str, str]]:
        """Archive, segment and camera of everything that is too old; of a gallery its name, ``N crops``, the camera."""
        days, now = self.days(), self._clock()
        crops = [(name, f"{len(old)} crops", camera) for (name, camera), old in self._due_crops().items()]
        return crops + [
            (name, segment["name"], segment["camera"])
            for name, archive in self._library.archives.items()
            for segment in archive.segments
            if (kept := days.get(segment["camera"], 0))  # a camera may have come just now
            and segment["stop_s"] < now - kept * DAY_S
        ]

    def _due_crops(self) -> dict[tuple[str, str], list[str]]:
        """Gallery and camera -> public ids of crops that are too old. Those without a time of a clock stay."""
        days, now, c = self.days(), self._clock(), self._library.columns
        found: dict[tuple[str, str], list[str]] = {}
        if c.galleries:
            for camera, kept in {**days, "": self._settings.get("maximum_days")}.items():  # "": camera unknown
                if kept:
                    mine = (c.cameras == camera) & (c.ends >= CLOCK_FROM_S) & (c.ends < now - kept * DAY_S)
                    for place in np.flatnonzero(mine).tolist():
                        name = split_public_id(c.ids[place])[0]
                        if name in c.galleries:
                            found.setdefault((name, camera), []).append(c.ids[place])
        return found

    def run(self, account: str) -> dict[str, Any]:
        """Delete what is due. Returns what was removed.

        A camera or gallery that cannot be deleted from, as while another process writes to it, stops none of the
        others. ``error`` names it, in the report and in the log, and the next run tries again.

        Raises:
            StateError: the state cannot be written.
        """
        fault, behind = self.clock_fault(), self.clock_was_set_back()
        due = [] if fault else self.old()
        report: dict[str, Any] = {"clock_behind_s": round(behind), "segments": [], "tracklets": 0, "crops": 0}
        if fault:
            report["held"] = fault
        gone: set[str] = set()
        errors: list[str] = []
        crops = {} if fault else self._due_crops()
        for name in sorted({name for name, _ in crops}):
            old = [public for (gallery, _), publics in crops.items() if gallery == name for public in publics]
            try:
                erased, _ = self._library.galleries[name].erase(old)
            except (OsnetError, OSError) as error:
                errors.append(f"{name}: {error}")
                continue
            report["gallery_crops"] = report.get("gallery_crops", 0) + len(erased)
            gone |= set(erased)
        by_camera: dict[tuple[str, str], list[str]] = {}
        for name, segment, camera in due:
            if name in self._library.archives:
                by_camera.setdefault((name, camera), []).append(segment)
        for (name, camera), segments in sorted(by_camera.items()):
            archive = self._library.archives[name]
            try:
                removal = remove_segments(archive, segments)
            except (OsnetError, OSError) as error:
                errors.append(f"{name}/{camera}: {error}")
                removal = _what_is_gone(archive, segments)
            report["segments"] += [f"{name}/{segment}" for segment in removal.deleted]
            report["tracklets"] += len(removal.tracklets)
            report["crops"] += removal.num_crops
            gone |= {public_id(name, tracklet) for tracklet in removal.tracklets}
        if errors:
            report["error"] = "not all was deleted: " + "; ".join(errors)
            log.warning("retention: %s", report["error"])
        if gone:
            self._library.refresh(force=True)
        with self._database.write() as tx:
            report |= {"searches": 0, "cases": 0, "audit_details": 0}
            forget_tracklets(tx, gone)
            if not fault:
                report |= self._expire(tx)
            what = {**report, "segments": report["segments"][:1000]}
            record(tx, account, "retention.run", what, "retention")
        self._database.forget()
        return report

    def _expire(self, tx: Transaction) -> dict[str, int]:
        now = self._clock()
        done = {
            "searches": tx.run(
                "DELETE FROM searches WHERE case_id IS NULL AND created_s < ? AND id NOT IN "
                "(SELECT search FROM watch_entries WHERE ends_s > ?)",
                now - self._settings.get("search_days") * DAY_S,
                now,
            ),
        }
        old = [
            row["id"]
            for row in tx.all("SELECT id FROM cases WHERE created_s < ?", now - self._settings.get("case_days") * DAY_S)
        ]
        for case in old:
            delete_case(tx, "retention", case)
        seqs = [
            int(row["seq"])
            for row in tx.all(
                "SELECT d.seq FROM audit_details d JOIN audit a ON a.seq = d.seq "
                "WHERE a.at_s < ? AND d.what IS NOT NULL AND a.action <> 'audit.details-erased'",
                now - self._settings.get("audit_days") * DAY_S,
            )
        ]
        tx.run_many("UPDATE audit_details SET what = NULL WHERE seq = ?", [(seq,) for seq in seqs])
        if seqs:
            record(tx, "retention", "audit.details-erased", {"entries": seqs}, "retention")
        tx.run("DELETE FROM idempotency WHERE created_s < ?", now - DAY_S)
        tx.run("DELETE FROM sessions WHERE ends_s < ?", now)
        return {**done, "cases": len(old), "audit_details": len(seqs)}


def _what_is_gone(archive: Archive, segments: Sequence[str]) -> Removal:
    """What ``remove_segments`` had removed of these segments before it failed."""
    deleted = [name for name in segments if archive.folder.is_dir() and not (archive.folder / name).exists()]
    ids = sorted(i for i in archive.sources() if i.rpartition("/")[0] in set(deleted))
    return Removal(tracklets=ids, num_crops=sum(len(archive.tracklet(i).crops) for i in ids), deleted=deleted)


def forget_tracklets(tx: Transaction, publics: set[str]) -> dict[str, int]:
    """Delete every row of the state that names one of these tracklets. Returns table -> number of rows.

    A search that was made from such a tracklet goes as a whole, because its picture shows the person.
    """
    counts = dict.fromkeys(("searches", "hits", "answers", "alerts", "attributes"), 0)
    for marks, some in lists_of(publics):
        made_from = f"SELECT search FROM queries WHERE tracklet IN ({marks})"  # noqa: S608  question marks
        counts["searches"] += tx.run(f"DELETE FROM searches WHERE id IN ({made_from})", *some)  # noqa: S608
        for table in ("hits", "answers", "alerts", "attributes"):
            counts[table] += tx.run(f"DELETE FROM {table} WHERE tracklet IN ({marks})", *some)  # noqa: S608
    if publics:
        tx.run("DELETE FROM idempotency")  # kept answers of the API may name them
    for row in tx.all("SELECT id, tracklets FROM exports"):
        named = json.loads(row["tracklets"])
        left = [public for public in named if public not in publics]
        if len(left) < len(named):
            tx.run("UPDATE exports SET tracklets = ? WHERE id = ?", json.dumps(left), row["id"])
    return counts
