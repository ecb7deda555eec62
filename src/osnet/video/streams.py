"""Live streams (RTSP, HTTP), indexed in segments while they run.

A thread reads and decodes. Frames wait in a queue of limited length. If it is full, new frames are dropped before they
are converted, and counted. If a stream stalls, ends or fails, there is a gap: all tracks end, the current segment is
committed, and the stream is opened again after a pause, which doubles with each attempt. The time of a frame is the
wall clock at its arrival, because the rate that a stream states is often wrong.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from osnet import Embedder
from osnet.errors import OsnetError, require_extra
from osnet.video.archive import Archive, segment_name, write_segment, writing
from osnet.video.indexing import process_frames
from osnet.video.planning import IndexSettings, describe
from osnet.video.protocols import Detector, FootageError, Tracker, VideoFrame
from osnet.video.source import MAX_PIXELS, make_converter, open_input, upright
from osnet.video.tracking import make_tracker

SCHEMES = ("rtsp", "rtsps", "http", "https")
FORMATS = "rtsp,mpegts,mov,mp4,matroska,webm,flv,mjpeg,mpjpeg,h264,hevc,avi"
"""The demuxers that are allowed. Playlists (HLS) are excluded, because they open other addresses."""
PROTOCOLS = "rtsp,rtsps,rtp,udp,tcp,tls,http,https,httpproxy,crypto"

CLOCK_SLACK_S = 1.0
"""A clock that is set back by more is a gap; until then times wait for it."""


@dataclass(frozen=True)
class StreamSettings:
    """Time-outs, pauses, queue and sampling of a stream."""

    open_timeout_s: float = 10.0
    read_timeout_s: float = 10.0
    first_pause_s: float = 1.0
    """Pause before the first new attempt. It doubles up to ``max_pause_s``, and is reset when a frame arrives."""
    max_pause_s: float = 60.0
    queue_frames: int = 4
    """Length of the queue."""
    fps: float | None = 5.0
    """Highest number of frames per second that are taken; None: all."""
    max_tries: int | None = None
    """Attempts in a row without a frame, after which the stream ends. None: no limit."""

    def __post_init__(self) -> None:
        for name in ("open_timeout_s", "read_timeout_s", "first_pause_s", "max_pause_s", "queue_frames"):
            if not getattr(self, name) > 0:
                raise FootageError(f"{name} {getattr(self, name):g} must be above 0")


@dataclass(frozen=True)
class Gap:
    """An interruption of the stream."""

    time_s: float
    """Unix time."""
    reason: str


@dataclass
class StreamCounts:
    """Numbers of frames of a stream."""

    taken: int = 0
    """Yielded by ``events``."""
    dropped: int = 0
    """Dropped because the queue was full."""
    sampled_out: int = 0
    """Skipped by ``fps``."""
    gaps: int = 0


class LiveStream:
    """The stream of one camera.

    Args:
        address: begins with rtsp, rtsps, http or https.
        settings: time-outs, queue, sampling.
        clock: returns Unix time.
        opener: gives, for each attempt, what is opened instead of ``address``: another address, or a binary file with
            ``read``. It may raise OSError or an error of this package, which count as a failed attempt.

    Raises:
        FootageError: ``address`` has another scheme or no host.
    """

    def __init__(
        self,
        address: str,
        settings: StreamSettings | None = None,
        clock: Callable[[], float] = time.time,
        opener: Callable[[], Any] | None = None,
    ) -> None:
        parts = urlsplit(address)
        if parts.scheme not in SCHEMES or not parts.hostname:
            raise FootageError(
                f"{public_address(address)!r} is not the address of a stream; it must begin with {', '.join(SCHEMES)}://"
            )
        self.address, self.settings, self._clock = address, settings or StreamSettings(), clock
        self.counts = StreamCounts()
        self._opener = opener or (lambda: address)
        self._queue: queue.Queue[VideoFrame | Gap | None] = queue.Queue(self.settings.queue_frames)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._last_s, self._last_slot, self._number = 0.0, -1, 0
        self._size: tuple[int, int] = (0, 0)

    def events(self) -> Iterator[VideoFrame | Gap]:
        """Frames and gaps in the order of time, until ``stop`` is called or ``max_tries`` is reached.

        After a gap because the clock was set back, times are lower than before.

        Raises:
            MissingExtraError: PyAV is not installed.
        """
        require_extra("av", "video")
        if self._thread is None:
            self._thread = threading.Thread(target=self._read, name="osnet-stream", daemon=True)
            self._thread.start()
        while True:
            try:
                event = self._queue.get(timeout=0.2)
            except queue.Empty:
                if self._stop.is_set() or not (self._thread.is_alive() or self._queue.qsize()):
                    return
                continue
            if event is None:
                return
            if isinstance(event, VideoFrame):
                self.counts.taken += 1
            yield event

    def stop(self) -> None:
        """End the stream. ``events`` then returns within a fraction of a second."""
        self._stop.set()
        while True:  # the reading thread may be waiting for room
            try:
                self._queue.get_nowait()
            except queue.Empty:
                break

    def _read(self) -> None:
        try:
            self._read_again()
        finally:
            self._put(None)

    def _read_again(self) -> None:
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

    def _read_once(self) -> str:
        """Read until the stream is interrupted. Returns the reason."""
        av = require_extra("av", "video")
        timeouts = (self.settings.open_timeout_s, self.settings.read_timeout_s)
        options = {"rtsp_transport": "tcp", "protocol_whitelist": PROTOCOLS, "format_whitelist": FORMATS}
        if urlsplit(self.address).scheme.startswith("http"):
            del options["rtsp_transport"]
        source: Any = None
        try:
            source = self._opener()
            with open_input(source, timeout=timeouts, container_options=options) as container:
                if not container.streams.video:
                    return "it has no video"
                converter = make_converter()
                for frame in container.decode(container.streams.video[0]):
                    if self._stop.is_set():
                        return "stopped"
                    self._take(frame, converter)
            return "it ended"
        except (av.error.ExitError, TimeoutError):
            return f"nothing came for {self.settings.read_timeout_s:g} s"
        except (av.error.FFmpegError, OSError, OsnetError) as error:
            return str(getattr(error, "strerror", None) or error)
        except Exception as error:  # whatever a camera sends, it is opened again
            return f"{type(error).__name__}: {error}"
        finally:
            if hasattr(source, "close"):
                source.close()

    def _take(self, frame: Any, converter: Any) -> None:
        """Put a decoded frame into the queue, or count why not."""
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
        self._put(VideoFrame(upright(frame, public_address(self.address), converter), now, self._number))

    def _put(self, event: VideoFrame | Gap | None) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(event, timeout=0.2)
                return
            except queue.Full:
                continue

    def _now(self) -> float:
        """The time, at least a millisecond after the last. A clock that was set back is a gap."""
        now = round(self._clock(), 3)
        if now < self._last_s - CLOCK_SLACK_S:
            back_s, self._last_s, self._last_slot = self._last_s - now, now, -1
            self.counts.gaps += 1
            self._put(Gap(now, f"the clock was set back by {back_s:.1f} s"))
        self._last_s = max(now, round(self._last_s + 0.001, 3))
        return self._last_s


@dataclass
class WatchReport:
    """Result of ``index_stream``."""

    segments_added: int = 0
    tracklets_added: int = 0
    counts: StreamCounts = field(default_factory=StreamCounts)
    gaps: list[str] = field(default_factory=list)
    """Time and reason of the last hundred gaps."""


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
    """Add the people on a live stream to an archive, segment by segment, until the stream ends or ``until`` is true.

    Args:
        stream: is stopped at the end.
        archive: folder of the archive.
        camera: name of the camera.
        embedder: computes the embeddings.
        detector: finds people.
        tracker: default: C-BIoU.
        settings: as for ``index_footage``, except ``fps``, which is a setting of the stream.
        until: called after each frame; true ends the indexing.
        on_segment: called after each segment.

    Raises:
        FootageError: a description cannot be stored as JSON.
        GalleryError: the archive has embeddings of other weights, or another process is indexing this camera.
        OutputError: the archive cannot be written. Complete segments remain.
    """
    settings = settings or IndexSettings()
    tracker = tracker or make_tracker()
    segment_name(camera, 0.0)
    decides = describe(detector, tracker, settings)
    store = Archive.open(archive, embedder)
    report = WatchReport(counts=stream.counts)
    source = _Cutter(stream, settings, until, report)
    fps = stream.settings.fps or 25.0
    with writing(store.folder, camera):
        try:
            while source.has_next():
                start_s = source.start_s
                while (store.folder / segment_name(camera, start_s)).exists():  # the clock was set back
                    start_s = round(start_s + 0.001, 3)
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
                del finished  # else it stays in memory during the next segment
                if on_segment is not None:
                    on_segment(report)
        finally:
            stream.stop()
    return report


class _Cutter:
    """Splits a stream into segments. The frames of an overlap belong to both segments."""

    def __init__(
        self, stream: LiveStream, settings: IndexSettings, until: Callable[[], bool], report: WatchReport
    ) -> None:
        self._events = stream.events()
        self._settings, self._until, self._report = settings, until, report
        self._carried: list[VideoFrame] = []
        self._gap_follows = self._over = False
        self.start_s = self.stop_s = 0.0
        self.troubles: list[str] = []

    def has_next(self) -> bool:
        """Wait for the first frame of the next segment. False if the stream has ended."""
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
        """The frames of the segment, up to the end of the overlap or to a gap.

        If a gap or the end comes during the overlap, its frames are the next segment: people may be in no others.
        """
        border = self.start_s + self._settings.segment_s
        end = border + self._settings.overlap_s
        carried, self._carried = self._carried, []
        gap_follows, self._gap_follows = self._gap_follows, False
        self.stop_s = carried[-1].time_s
        yield from carried
        while not (self._over or gap_follows):
            event = next(self._events, None)
            if event is None:
                self._over = True
                return
            if isinstance(event, Gap):
                self._note(event)
                self._gap_follows = bool(self._carried)  # tracks do not continue after a gap
                return
            if event.time_s >= border:
                self._carried.append(event)
            if event.time_s >= end:
                return
            self.stop_s = min(border, event.time_s)
            yield event
            if self._until():
                self._over = True

    def _note(self, gap: Gap) -> None:
        text = f"at {gap.time_s:.1f}: {gap.reason}"
        self.troubles.append(text)
        self._report.gaps = [*self._report.gaps, text][-100:]


def public_address(address: str) -> str:
    """The address without user name, password and query, which must not be stored."""
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "an invalid address"
    return urlunsplit((parts.scheme, host + port, parts.path, "", ""))
