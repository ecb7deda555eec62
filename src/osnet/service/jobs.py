"""Work that takes longer than a request: erasures, retention. One at a time; what was interrupted is repeated."""

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

from osnet.errors import OsnetError
from osnet.service.database import Database, Row
from osnet.service.roles import Actor
from osnet.service.searches import MissingError

log = logging.getLogger("osnet.service")
Work = Callable[[Row, dict[str, Any]], dict[str, Any]]
"""A job's row and its input -> its report. ``error`` in it: a part of the work failed."""


class Jobs:
    """The jobs of a service.

    Args:
        database: where they are stored.
        work: kind -> what does it.
        clock: gives Unix time.
    """

    def __init__(self, database: Database, work: dict[str, Work], clock: Callable[[], float] = time.time) -> None:
        self._database, self._work, self._clock = database, work, clock
        self._wake, self._stopped = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to work; jobs that were running when the last process died run again, and erasures that failed."""
        with self._database.write() as tx:
            interrupted = tx.run(
                "UPDATE jobs SET state = 'done', finished_s = ? "
                "WHERE state = 'running' AND kind = 'erasure' AND report IS NOT NULL",
                self._clock(),
            )
            again = tx.run("UPDATE jobs SET state = 'waiting' WHERE state = 'running'")
        self.repeat_failed()
        if interrupted or again:
            self._database.forget()  # what a process that was killed had deleted
        self._thread = threading.Thread(target=self._run, name="osnet-jobs", daemon=True)
        self._thread.start()

    def repeat_failed(self) -> None:
        """Let erasures that failed run again, as far as something is left of them."""
        with self._database.write() as tx:
            tx.run(
                "UPDATE jobs SET state = 'waiting', report = NULL, finished_s = NULL "
                "WHERE kind = 'erasure' AND state = 'failed' AND input <> '{}'"
            )
        self._wake.set()

    def stop(self) -> None:
        """Finish the job at hand and end."""
        self._stopped.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def add(self, kind: str, account: str, reason: str, given: dict[str, Any]) -> str:
        """A new job. Returns its id."""
        job = secrets.token_urlsafe(9)
        with self._database.write() as tx:
            tx.run(
                "INSERT INTO jobs VALUES (?, ?, 'waiting', ?, ?, ?, NULL, ?, NULL)",
                job,
                kind,
                account,
                reason,
                json.dumps(given),
                self._clock(),
            )
        self._wake.set()
        return job

    def get(self, actor: Actor, job: str) -> Row:
        """A job with its report. Raises MissingError if it is not theirs and they do not administer."""
        row = self._database.one(
            "SELECT id, kind, state, account, reason, report, created_s, finished_s FROM jobs WHERE id = ?", job
        )
        if row is None or not (row["account"] == actor.name or actor.may("admin")):
            raise MissingError(f"there is no job {job[:100]!r}")
        return {**row, "report": None if row["report"] is None else json.loads(row["report"])}

    def list_jobs(self, limit: int = 50) -> list[Row]:
        """The newest first, without reports."""
        return self._database.all(
            "SELECT id, kind, state, account, reason, created_s, finished_s FROM jobs ORDER BY created_s DESC LIMIT ?",
            limit,
        )

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._wake.clear()
            try:
                while not self._stopped.is_set() and self.run_next():
                    pass
            except Exception:  # the next round may be better
                log.exception("the state cannot be read; jobs wait")
            self._wake.wait(5.0)

    def run_next(self) -> bool:
        """Do the oldest waiting job. False if there is none."""
        row = self._database.one("SELECT * FROM jobs WHERE state = 'waiting' ORDER BY created_s LIMIT 1")
        if row is None:
            return False
        with self._database.write() as tx:
            tx.run("UPDATE jobs SET state = 'running' WHERE id = ?", row["id"])
        try:
            report = self._work[row["kind"]](row, json.loads(row["input"]))
            state = "failed" if "error" in report else "done"  # a part of it failed
        except Exception as error:  # a job's failure is its result
            log.exception("the job %s (%s) failed", row["id"], row["kind"])
            state = "failed"
            report = {"error": str(error) if isinstance(error, OsnetError) else "an unexpected error; see the log"}
        with self._database.write() as tx:
            tx.run(
                "UPDATE jobs SET state = ?, report = ?, finished_s = ?, "
                "input = CASE WHEN ? = 'done' THEN '{}' ELSE input END WHERE id = ?",
                state,
                json.dumps(report),
                self._clock(),
                state,
                row["id"],
            )
        self._database.forget()
        return True
