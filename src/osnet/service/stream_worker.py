"""The process of one live source: ``python -m osnet.service.stream_worker``, started by ``live.Sources``.

It reads one line of JSON from its standard input: camera, address, detector, archive, device, whether private networks
are allowed. It prints lines of JSON about its state and ends when it is asked to (SIGTERM), when the stream ends, or
when the service is gone.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from osnet import Embedder
from osnet.errors import OsnetError
from osnet.service.camera_stream import open_camera
from osnet.video.archive import WEIGHTS
from osnet.video.detectors import make_detector
from osnet.video.streams import LiveStream, StreamSettings, WatchReport, index_stream

TOLD_EVERY_S = 2.0


def main() -> int:
    """Index one stream. Returns the exit status."""
    given: dict[str, Any] = json.loads(sys.stdin.readline())
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    parent = os.getppid()
    try:
        embedder = Embedder(Path(given["archive"]) / WEIGHTS, given["device"], backend="fastest")
        detector = make_detector(given["detector"], None, 5.0)
        allowed = given.get("allow_private", False), given.get("allow_loopback", False)
        settings = StreamSettings()
        stream = LiveStream(
            given["address"], settings, opener=lambda: open_camera(given["address"], settings.read_timeout_s, *allowed)
        )
        last = time.monotonic()
        report = WatchReport(counts=stream.counts)
        told = -1

        def tell(report: WatchReport) -> None:
            _say(
                state="running",
                taken=stream.counts.taken,
                dropped=stream.counts.dropped,
                segments=report.segments_added,
                tracklets=report.tracklets_added,
                gaps=report.gaps[-10:],
            )

        def until() -> bool:
            nonlocal last, told
            if time.monotonic() - last > TOLD_EVERY_S or told < 0:
                last = time.monotonic()
                if stream.counts.taken > told:
                    told = stream.counts.taken
                    _say(state="running", last_frame_s=time.time(), taken=told, dropped=stream.counts.dropped, error="")
            return stopped.is_set() or os.getppid() != parent

        watcher = threading.Thread(target=_stop_with, args=(stopped, stream, parent), daemon=True)
        watcher.start()
        report = index_stream(
            stream,
            given["archive"],
            camera=given["camera"],
            embedder=embedder,
            detector=detector,
            until=until,
            on_segment=tell,
        )
        tell(report)
    except OsnetError as error:
        _say(error=str(error))
        return 2
    return 0


def _stop_with(stopped: threading.Event, stream: LiveStream, parent: int) -> None:
    """End a stream that gives no frames, when the process is asked to end or its parent is gone."""
    while not stopped.wait(0.5):
        if os.getppid() != parent:
            break
    stream.stop()


def _say(**what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
