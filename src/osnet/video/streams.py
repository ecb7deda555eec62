"""Live streams (RTSP, HTTP): frames as they arrive, gaps as they happen, and segments cut while they run.

A thread reads and decodes. Frames wait in a queue counted in frames; when it is full, whole frames are dropped before
they are converted, and counted. A stream that stalls, ends or breaks is a gap: all tracks end there, the segment at
hand is committed, and the stream is opened again after a pause that doubles. A frame's time is the wall clock at its
arrival; the stream's own rate is not believed.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from osnet import Embedder
from osnet.errors import require_extra
from osnet.video.archive import Archive, segment_name, write_segment, writing
from osnet.video.indexing import IndexSettings, describe, process_frames
from osnet.video.protocols import Detector, FootageError, Tracker, VideoFrame
from osnet.video.source import MAX_PIXELS, upright
from osnet.video.tracking import make_tracker

SCHEMES = ("rtsp", "rtsps", "http", "https")
FORMATS = "rtsp,mpegts,mov,mp4,matroska,webm,flv,mjpeg,mpjpeg,h264,hevc,avi"
"""What may come over the wire. Playlists (HLS) are not among them: they would open other addresses."""
PROTOCOLS = "rtsp,rtsps,rtp,udp,tcp,tls,http,https,httpproxy,crypto"


@dataclass(frozen=True)
class StreamSettings:
    """How a stream is read."""

    open_timeout_s: float = 10.0
    read_timeout_s: float = 10.0
    first_pause_s: float = 1.0
    """Before the first try again; it doubles up to ``max_pause_s``, and begins anew when frames have come."""
    max_pause_s: float = 60.0
    queue_frames: int = 4
    """So many wait; more are dropped."""
    fps: float | None = 5.0
    """At most so many a second are taken; None: all."""
    max_tries: int | None = None
    """In a row without a frame; then the stream ends. None: for ever."""

    def __post_init__(self) -> None:
        for name in ("open_timeout_s", "read_timeout_s", "first_pause_s", "max_pause_s", "queue_frames"):
            if not getattr(self, name) > 0:
                raise FootageError(f"{name} {getattr(self, name):g} must be above 0")


@dataclass(frozen=True)
class Gap:
    """The stream broke off here."""

    time_s: float
    """Unix time."""
    reason: str


@dataclass
class StreamCounts:
    """What became of a stream's frames."""

    taken: int = 0
    """Given out."""
    dropped: int = 0
    """Left out because the queue was full."""
    sampled_out: int = 0
    """Left out to keep to ``fps``."""
    gaps: int = 0


class LiveStream:
    """One camera's stream.

    Args:
        address: rtsp, rtsps, http or https.
        settings: time-outs, queue, sampling.
        clock: gives Unix time.

    Raises:
        FootageError: another kind of address.
    """

    def __init__(
        self, address: str, settings: StreamSettings | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        parts = urlsplit(address)
        if parts.scheme not in SCHEMES or not parts.hostname:
            raise FootageError(
                f"{public_address(address)!r} is no address of a stream; give {', '.join(SCHEMES)}://..."
            )
        self.address, self.settings, self._clock = address, settings or StreamSettings(), clock
        self.counts = StreamCounts()
        self._queue: queue.Queue[VideoFrame | Gap | None] = queue.Queue(self.settings.queue_frames)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._last_s, self._last_slot, self._number = 0.0, -1, 0
        self._size: tuple[int, int] = (0, 0)

    def events(self) -> Iterator[VideoFrame | Gap]:
        """Frames and gaps, in the order of time, until ``stop`` is called or ``max_tries`` are used up."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._read, name="osnet-stream", daemon=True)
            self._thread.start()
        while True:
            try:
                event = self._queue.get(timeout=0.2)
            except queue.Empty:
                if self._stop.is_set():
                    return
                continue
            if event is None:
                return
            if isinstance(event, VideoFrame):
                self.counts.taken += 1
            yield event

    def stop(self) -> None:
        """End; ``events`` returns soon."""
        self._stop.set()
        while True:  # the reader may wait for room
            try:
                self._queue.get_nowait()
            except queue.Empty:
                break

    def _read(self) -> None:
        pause, failed = self.settings.first_pause_s, 0
        while not self._stop.is_set():
            before = self._number
            reason = self._read_once()
            if self._stop.is_set():
                break
            self.counts.gaps += 1
            self._put(Gap(self._now(), reason))
            came = self._number > before
            failed, pause = (0, self.settings.first_pause_s) if came else (failed + 1, pause)
            if self.settings.max_tries is not None and failed >= self.settings.max_tries:
                break
            self._stop.wait(pause)
            if not came:
                pause = min(self.settings.max_pause_s, 2 * pause)
        self._put(None)

    def _read_once(self) -> str:
        """Until the stream breaks; why it did."""
        av = require_extra("av", "video")
        timeouts = (self.settings.open_timeout_s, self.settings.read_timeout_s)
        options = {"rtsp_transport": "tcp", "protocol_whitelist": PROTOCOLS, "format_whitelist": FORMATS}
        if urlsplit(self.address).scheme.startswith("http"):
            del options["rtsp_transport"]
        try:
            with av.open(self.address, timeout=timeouts, container_options=options) as container:
                if not container.streams.video:
                    return "it has no video"
                for frame in container.decode(container.streams.video[0]):
                    if self._stop.is_set():
                        return "stopped"
                    self._take(frame)
            return "it ended"
        except av.error.ExitError:
            return f"nothing came for {self.settings.read_timeout_s:g} s"
        except (av.error.FFmpegError, OSError) as error:
            return str(getattr(error, "strerror", None) or error)

    def _take(self, frame: Any) -> None:
        """One decoded frame: into the queue, or counted."""
        now = self._now()
        self._number += 1
        size = (frame.width, frame.height)
        if size[0] * size[1] > MAX_PIXELS:
            return
        if self._size not in ((0, 0), size):
            self.counts.gaps += 1
            self._put(Gap(now, f"frames of {size[0]} x {size[1]} after {self._size[0]} x {self._size[1]}"))
            now = self._now()
        self._size = size
        if self.settings.fps is not None:
            slot = int(now * self.settings.fps)
            if slot == self._last_slot:
                self.counts.sampled_out += 1
                return
            self._last_slot = slot
        if self._queue.full():
            self.counts.dropped += 1
            return
        self._put(VideoFrame(upright(frame, public_address(self.address)), now, self._number))

    def _put(self, event: VideoFrame | Gap | None) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(event, timeout=0.2)
                return
            except queue.Full:
                continue

    def _now(self) -> float:
        """The clock, never backwards."""
        self._last_s = max(round(self._clock(), 3), round(self._last_s + 0.001, 3))
        return self._last_s


@dataclass
class WatchReport:
    """What ``index_stream`` did."""

    segments_added: int = 0
    tracklets_added: int = 0
    counts: StreamCounts = field(default_factory=StreamCounts)
    gaps: list[str] = field(default_factory=list)
    """The last hundred: when and why."""


def index_stream(
    stream: LiveStream,
    archive: str,
    *,
    camera: str,
    embedder: Embedder,
    detector: Detector,
    tracker: Tracker | None = None,
    settings: IndexSettings | None = None,
    until: Callable[[], bool] = lambda: False,
    on_segment: Callable[[WatchReport], None] | None = None,
) -> WatchReport:
    """Put everybody on a live stream into an archive, a segment at a time, until ``until`` says so or the stream ends.

    Args:
        stream: it is stopped at the end.
        archive: the folder.
        camera: its name.
        embedder: makes the vectors.
        detector: finds people.
        tracker: C-BIoU by default.
        settings: ``segment_s``, ``overlap_s``, ``sample_s``, ``crops``, ``appearance``. Sampling is the stream's own.
        until: asked after each frame.
        on_segment: told after each segment.

    Raises:
        GalleryError: the archive holds vectors of other weights, or another process indexes this camera.
        OutputError: the archive cannot be written; whole segments stay.
    """
    settings = settings or IndexSettings()
    tracker = tracker or make_tracker()
    segment_name(camera, 0.0)
    store = Archive.open(archive, embedder)
    decides = describe(detector, tracker, settings)
    report = WatchReport(counts=stream.counts)
    source = _Cutter(stream, settings, until, report)
    fps = stream.settings.fps or 25.0
    with writing(store.folder, camera):
        try:
            while source.goes_on():
                start_s = source.start_s
                before = stream.counts.dropped
                finished, count = process_frames(
                    source.segment(), start_s, start_s + settings.segment_s, fps, detector, tracker, embedder, settings
                )
                if not count:
                    continue
                about = {
                    "camera": camera, "start_s": start_s, "stop_s": source.stop_s,
                    "footage": {"path": public_address(stream.address), "fps": fps}, **decides, "num_frames": count,
                    "num_tracklets": len(finished), "dropped": stream.counts.dropped - before,
                    "troubles": source.troubles,
                }  # fmt: skip
                write_segment(store.folder, segment_name(camera, start_s), finished, about, embedder.embedding_size)
                report.segments_added += 1
                report.tracklets_added += len(finished)
                if on_segment is not None:
                    on_segment(report)
        finally:
            stream.stop()
    return report


class _Cutter:
    """Frames of a stream, a segment at a time; the overlap's frames come in both."""

    def __init__(
        self, stream: LiveStream, settings: IndexSettings, until: Callable[[], bool], report: WatchReport
    ) -> None:
        self._events = stream.events()
        self._settings, self._until, self._report = settings, until, report
        self._carried: list[VideoFrame] = []
        self._over = False
        self.start_s = self.stop_s = 0.0
        self.troubles: list[str] = []

    def goes_on(self) -> bool:
        """True if another segment begins; waits for its first frame."""
        self.troubles = []
        while not self._carried and not self._over:
            event = next(self._events, None)
            if event is None or self._until():
                self._over = True
            elif isinstance(event, Gap):
                self._note(event)
            else:
                self._carried.append(event)
        if self._carried:
            self.start_s = self._carried[0].time_s
        return bool(self._carried)

    def segment(self) -> Iterator[VideoFrame]:
        """Its frames, to the end of the overlap, or to a gap."""
        border = self.start_s + self._settings.segment_s
        end = border + self._settings.overlap_s
        carried, self._carried = self._carried, []
        self.stop_s = carried[-1].time_s
        yield from carried
        while not self._over:
            event = next(self._events, None)
            if event is None:
                self._over = True
                return
            if isinstance(event, Gap):
                self._note(event)
                self._carried = []  # after a gap, nothing is the same
                return
            if event.time_s >= border:
                self._carried.append(event)
            if event.time_s >= end:
                return
            self.stop_s = min(border, event.time_s)
            yield event
            if self._until():
                self._over = True
                self._carried = []

    def _note(self, gap: Gap) -> None:
        text = f"at {gap.time_s:.1f}: {gap.reason}"
        self.troubles.append(text)
        self._report.gaps = [*self._report.gaps, text][-100:]


def public_address(address: str) -> str:
    """Without name and password, which are stored nowhere."""
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "an address that cannot be read"
    return urlunsplit((parts.scheme, host + port, parts.path, "", ""))
