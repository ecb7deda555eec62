"""Live sources: each camera's stream is indexed by a process of its own, which is started again when it ends.

The process gets its address on its standard input, so that a password in it is in no list of processes, and prints one
line of JSON whenever something changes.
"""

import json
import logging
import queue
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from osnet.errors import DataError
from osnet.service.addresses import check_public
from osnet.service.audit import record
from osnet.service.database import Database, Row
from osnet.service.library import Library
from osnet.service.roles import Actor
from osnet.service.searches import MissingError
from osnet.video.archive import segment_name
from osnet.video.streams import SCHEMES, public_address

if TYPE_CHECKING:
    from osnet.service.core import ServiceOptions

log = logging.getLogger("osnet.service")
FIRST_PAUSE_S, MAX_PAUSE_S = 1.0, 60.0


@dataclass
class SourceState:
    """What a source's process last said."""

    state: str = "stopped"
    """stopped, starting, running, waiting (to start again)."""
    last_frame_s: float | None = None
    taken: int = 0
    dropped: int = 0
    segments: int = 0
    tracklets: int = 0
    starts: int = 0
    error: str = ""
    gaps: list[str] = field(default_factory=list)


class Sources:
    """The live sources of a service, and their processes."""

    def __init__(
        self, database: Database, library: Library, options: "ServiceOptions", clock: Callable[[], float] = time.time
    ) -> None:
        self._database, self._library, self._options, self._clock = database, library, options, clock
        self._runners: dict[str, _Runner] = {}
        self._lock = threading.Lock()

    def add(self, actor: Actor, camera: str, address: str, archive: str | None = None, reason: str = "") -> str:
        """A new source. Returns its id.

        Raises:
            DataError: an unknown archive, a camera that cannot be a folder's name or has a source.
            AddressError: an address that the service does not connect to.
        """
        segment_name(camera, 0.0)
        archives = self._library.archives
        if not archives:
            raise DataError("no archive is served, and a gallery takes no footage; serve an archive too")
        archive = archive or next(iter(archives))
        if archive not in archives:
            raise DataError(f"there is no archive {archive[:100]!r}; there are {', '.join(archives)}")
        check_public(address, SCHEMES, self._options.allow_private_sources)
        source = secrets.token_urlsafe(9)
        with self._database.write() as tx:
            if tx.one("SELECT id FROM sources WHERE camera = ?", camera):
                raise DataError(f"the camera {camera!r} has a source; remove it first")
            tx.run(
                "INSERT INTO sources VALUES (?, ?, ?, ?, ?, 1, ?)",
                source,
                camera,
                archive,
                address,
                self._options.detector,
                self._clock(),
            )
            record(
                tx,
                actor.name,
                "source.add",
                {"source": source, "camera": camera, "address": public_address(address)},
                reason,
            )
        self._start(source)
        return source

    def remove(self, actor: Actor, source: str) -> None:
        """End a source. What was indexed stays. Raises MissingError."""
        with self._database.write() as tx:
            if not tx.run("DELETE FROM sources WHERE id = ?", source):
                raise MissingError(f"there is no source {source[:100]!r}")
            record(tx, actor.name, "source.remove", {"source": source})
        with self._lock:
            runner = self._runners.pop(source, None)
        if runner is not None:
            runner.stop()

    def list_sources(self, actor: Actor) -> list[Row]:
        """Sources of cameras that the asker may see, with their states; addresses without passwords."""
        rows = self._database.all("SELECT id, camera, archive, address, detector FROM sources ORDER BY camera")
        shown = []
        for row in rows:
            if actor.sees(row["camera"]):
                runner = self._runners.get(row["id"])
                served = row["archive"] in self._library.archives
                why = "" if served else f"the archive {row['archive']} is not served"
                state = runner.state if runner else SourceState(error=why)
                shown.append({**row, "address": public_address(row["address"]), **vars(state)})
        return shown

    def start(self) -> None:
        """Start the processes of all sources."""
        for row in self._database.all("SELECT id FROM sources WHERE enabled = 1"):
            self._start(row["id"])

    def stop(self) -> None:
        """End all processes; each commits the segment at hand."""
        with self._lock:
            runners, self._runners = list(self._runners.values()), {}
        for runner in runners:
            runner.stop()

    @contextmanager
    def paused(self, cameras: set[str]) -> Iterator[None]:
        """Without the processes of these cameras, which hold the archive's locks; they start again afterwards."""
        rows = self._database.all("SELECT id, camera FROM sources WHERE enabled = 1")
        with self._lock:
            stopped = {
                row["id"]: self._runners.pop(row["id"])
                for row in rows
                if row["camera"] in cameras and row["id"] in self._runners
            }
        for runner in stopped.values():
            runner.stop()
        try:
            yield
        finally:
            for source in stopped:
                self._start(source)

    def _start(self, source: str) -> None:
        row = self._database.one("SELECT * FROM sources WHERE id = ?", source)
        if row is None or row["archive"] not in self._library.archives:  # ``list_sources`` says so
            return
        given = {
            "camera": row["camera"],
            "address": row["address"],
            "detector": row["detector"],
            "archive": str(self._library.folders[row["archive"]].absolute()),
            "device": self._options.device,
            "allow_private": self._options.allow_private_sources,
        }
        with self._lock:
            self._runners[source] = _Runner(given)


class _Runner:
    """Keeps one process running."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.state = SourceState()
        self._given = given
        self._stopped = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._run, name=f"osnet-source-{given['camera']}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        self._thread.join()
        self.state.state = "stopped"

    def _run(self) -> None:
        pause = FIRST_PAUSE_S
        while not self._stopped.is_set():
            self.state.state = "starting"
            self.state.starts += 1
            began = time.monotonic()
            try:
                self._run_once()
            except OSError as error:
                self.state.error = f"the process cannot be started: {error}"
            if self._stopped.is_set():
                return
            pause = FIRST_PAUSE_S if time.monotonic() - began > MAX_PAUSE_S else min(MAX_PAUSE_S, 2 * pause)
            self.state.state = "waiting"
            self._stopped.wait(pause)

    def _run_once(self) -> None:
        command = [sys.executable, "-m", "osnet.service.stream_worker"]
        with subprocess.Popen(  # noqa: S603  our own module, no argument from outside
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            encoding="utf-8", errors="replace", bufsize=1,
        ) as process:  # fmt: skip
            self._process = process
            if self._stopped.is_set():  # ``stop`` came before it could see this process
                process.terminate()
                return
            assert process.stdin is not None and process.stdout is not None and process.stderr is not None  # noqa: PT018
            errors: queue.Queue[str] = queue.Queue(20)
            drain = threading.Thread(target=_keep_last, args=(process.stderr, errors), daemon=True)
            drain.start()
            process.stdin.write(json.dumps(self._given) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                self._take(line)
            process.wait()
            drain.join(1)
            if process.returncode and not self._stopped.is_set():
                last = ""
                while not errors.empty():
                    last = errors.get_nowait()
                self.state.error = self.state.error or last.strip()[:300] or f"it ended with {process.returncode}"

    def _take(self, line: str) -> None:
        try:
            said = json.loads(line)
        except ValueError:
            return
        if not isinstance(said, dict):
            return
        for name in ("state", "last_frame_s", "taken", "dropped", "segments", "tracklets", "error", "gaps"):
            if name in said:
                setattr(self.state, name, said[name])


def _keep_last(lines: Any, kept: "queue.Queue[str]") -> None:
    for line in lines:
        if line.strip():
            if kept.full():
                kept.get_nowait()
            kept.put(line)
