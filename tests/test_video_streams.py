"""Live streams from a local server that stalls, disconnects, changes size and comes back; cutting into segments."""

import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.client import IncompleteRead
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av")
pytest.importorskip("trackers")

from osnet import Embedder
from osnet.video import Archive, FootageError, IndexSettings, VideoFrame, open_footage
from osnet.video.streams import Gap, LiveStream, StreamCounts, StreamSettings, index_stream, public_address
from osnet.video.tracking import front_end
from small_footage import SIZE_WH, number_of, numbered, paint_walkers, walk, write_truth, write_video

QUICK = StreamSettings(
    open_timeout_s=30, read_timeout_s=2, first_pause_s=0.01, max_pause_s=0.02, queue_frames=200, fps=None, max_tries=2
)


class Server(ThreadingHTTPServer):
    """Answers each request by the next script: bytes are sent, None stalls until the client goes away."""

    daemon_threads = True
    scripts: list[list[bytes | None]]
    closed = threading.Event()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if not self.server.scripts:
            self.send_error(404)
            return
        script = self.server.scripts.pop(0)
        self.send_response(200)
        self.send_header("Content-Type", "video/mp2t")
        self.end_headers()
        for part in script:
            if part is None:
                self.server.closed.wait(60)
            else:
                try:
                    self.wfile.write(part)
                except OSError:
                    return

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.closed.clear()
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.closed.set()
        server.shutdown()


def address(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/live"


def clip(folder: Path, name: str, frames: int, size_wh: tuple[int, int] = SIZE_WH) -> bytes:
    return write_video(folder / name, numbered(frames, size_wh)).read_bytes()


def test_a_broken_stream_is_opened_again(server: Server, tmp_path: Path) -> None:
    one, two = clip(tmp_path, "1.ts", 20), clip(tmp_path, "2.ts", 15, (96, 64))
    server.scripts = [[one], [two]]  # then 404 for ever
    stream = LiveStream(address(server), QUICK)
    events = list(stream.events())
    frames = [e for e in events if isinstance(e, VideoFrame)]
    assert [f.image.shape[:2] for f in frames] == [(SIZE_WH[1], SIZE_WH[0])] * 20 + [(64, 96)] * 15
    times = [e.time_s for e in events]
    assert times == sorted(set(times))
    # The end of each, another size, and two tries in vain.
    reasons = [e.reason for e in events if isinstance(e, Gap)]
    assert len(reasons) == 5
    assert {reasons[0], reasons[2]} <= {"it ended", "Input/output error"}  # FFmpeg may report the closed connection
    assert "96 x 64" in reasons[1]
    assert stream.counts == StreamCounts(taken=35, gaps=5)


def test_a_stream_that_stalls_is_a_gap(server: Server, tmp_path: Path) -> None:
    """It stalls after 10 seconds of footage. FFmpeg has opened it after 5, so nothing waits for ``open_timeout_s``."""
    one, long = clip(tmp_path, "1.ts", 40), write_video(tmp_path / "2.ts", 5 * numbered(40)).read_bytes()
    server.scripts = [[long[: len(long) // 2], None], [one]]
    events = list(LiveStream(address(server), QUICK).events())
    first_gap = next(i for i, e in enumerate(events) if isinstance(e, Gap))
    assert 0 < first_gap < 200
    assert "nothing came" in events[first_gap].reason  # type: ignore[union-attr]
    assert sum(isinstance(e, VideoFrame) for e in events[first_gap:]) == 40


@pytest.mark.parametrize("claimed_fps", [1, 200])
def test_a_stream_with_a_wrong_frame_rate_is_timed_by_arrival(server: Server, tmp_path: Path, claimed_fps: int) -> None:
    """40 frames arrive at 20 per second, whatever the stream says; 5 per second are taken."""
    server.scripts = [[write_video(tmp_path / "1.ts", numbered(40), fps=claimed_fps).read_bytes()]]
    ticks = itertools.count()
    stream = LiveStream(address(server), replace(QUICK, fps=5.0), clock=lambda: 1000 + next(ticks) * 0.05)
    frames = [e for e in stream.events() if isinstance(e, VideoFrame)]
    assert len(frames) == 10
    assert stream.counts.sampled_out == 30
    np.testing.assert_allclose(np.diff([f.time_s for f in frames]), 0.2, atol=0.051)
    assert [number_of(f.image) for f in frames] == sorted(number_of(f.image) for f in frames)


def test_whole_frames_are_dropped_and_counted_when_the_queue_is_full(server: Server, tmp_path: Path) -> None:
    server.scripts = [[clip(tmp_path, "1.ts", 60)]]
    settings = StreamSettings(
        open_timeout_s=30, read_timeout_s=30, queue_frames=3, fps=None, max_tries=1, first_pause_s=0.01
    )
    stream = LiveStream(address(server), settings)
    events = stream.events()
    first = next(events)
    assert isinstance(first, VideoFrame)
    while stream.counts.dropped + stream.counts.taken + stream._queue.qsize() < 60:
        time.sleep(0.01)
    assert stream._queue.qsize() <= 3
    rest = [e for e in events if isinstance(e, VideoFrame)]
    assert 1 + len(rest) == stream.counts.taken <= 5
    assert stream.counts.taken + stream.counts.dropped == 60


def test_an_unexpected_error_is_a_gap(tmp_path: Path) -> None:
    """A camera whose body ends in the middle of a chunk raises errors that FFmpeg and PyAV do not know."""
    content = clip(tmp_path, "1.ts", 12)

    class Body:
        def __init__(self) -> None:
            self.rest = content

        def read(self, count: int) -> bytes:
            if not self.rest:
                raise IncompleteRead(b"")
            part, self.rest = self.rest[:count], self.rest[count:]
            return part

    bodies = [Body(), Body()]
    stream = LiveStream("http://camera.example/live", QUICK, opener=bodies.pop)
    events = list(stream.events())
    reasons = [event.reason for event in events if isinstance(event, Gap)]
    assert [reason.split("(")[0].split(":")[0] for reason in reasons] == ["IncompleteRead", "IncompleteRead"]
    assert list(stream.events()) == []  # the reading thread has ended: nothing comes, and it does not wait


def test_metadata_that_is_not_utf8_is_read(server: Server, tmp_path: Path) -> None:
    path = write_video(tmp_path / "1.mkv", numbered(10), metadata={"title": "Caf~~"})
    content = path.read_bytes()
    assert content.count(b"Caf~~") == 1
    server.scripts = [[content.replace(b"Caf~~", b"Caf\xe9\xe9")]]
    events = list(LiveStream(address(server), QUICK).events())
    assert sum(isinstance(event, VideoFrame) for event in events) == 10
    path.write_bytes(content.replace(b"Caf~~", b"Caf\xe9\xe9"))
    assert len(open_footage(path, 0.0).times_s) == 10


def test_the_reader_stops_on_request(server: Server, tmp_path: Path) -> None:
    server.scripts = [[clip(tmp_path, "1.ts", 30), None]]
    stream = LiveStream(address(server), QUICK)
    events = stream.events()
    next(events)
    stream.stop()
    assert len(list(events)) <= 200
    assert stream._thread is not None
    stream._thread.join(30)
    assert not stream._thread.is_alive()


@pytest.mark.parametrize("text", ["file:///etc/passwd", "/dev/video0", "concat:a|b", "rtsp://", "ftp://host/x", ""])
def test_an_address_that_is_not_a_stream_is_refused(text: str) -> None:
    with pytest.raises(FootageError, match="address of a stream"):
        LiveStream(text)


def test_user_names_and_passwords_are_not_stored() -> None:
    assert public_address("rtsp://ann:secret@10.0.0.7:554/ch1?token=abc") == "rtsp://10.0.0.7:554/ch1"
    with pytest.raises(FootageError) as caught:
        LiveStream("ftp://ann:secret@host/x")
    assert "secret" not in str(caught.value)


class Played:
    """What ``LiveStream`` offers, from a list."""

    def __init__(self, events: list[VideoFrame | Gap], fps: float) -> None:
        self.address = "rtsp://ann:secret@10.0.0.7/ch1"
        self.settings, self.counts = StreamSettings(fps=fps), StreamCounts()
        self._events, self.stopped = events, False

    def events(self) -> Iterator[VideoFrame | Gap]:
        yield from self._events

    def stop(self) -> None:
        self.stopped = True


def test_a_stream_is_cut_into_segments_that_overlap_and_a_gap_ends_all_tracks(
    tiny_weights: Path, tmp_path: Path
) -> None:
    paths = [walk(2, 20, 0.5)]
    finder, follower = front_end(write_truth(tmp_path / "gt.txt", paths, 250))
    start = 1795852800.0
    events: list[VideoFrame | Gap] = [
        VideoFrame(image, round(start + n / 10, 3), n + 1) for n, image in enumerate(paint_walkers(paths, 250))
    ]
    events.insert(150, Gap(start + 14.95, "nothing came for 10 s"))
    played = Played(events, 10)
    settings = IndexSettings(segment_s=10, overlap_s=2, appearance=False)
    embedder = Embedder(tiny_weights, device="cpu", backend="torch")
    report = index_stream(
        played, str(tmp_path / "a"), camera="gate", embedder=embedder, detector=finder, tracker=follower,  # type: ignore[arg-type]
        settings=settings,
    )  # fmt: skip
    store = Archive.open(tmp_path / "a")
    spans = [(round(t.begin_s - start, 1), round(t.end_s - start, 1)) for t in store.tracklets()]
    # 0 to 10 and two seconds; 10 to the gap before frame 150; from there 10 s and the rest, which is overlap alone.
    assert spans == [(0.0, 11.9), (10.0, 14.9), (15.0, 24.9)]
    assert (report.segments_added, report.tracklets_added, played.stopped) == (3, 3, True)
    assert [len(s["troubles"]) for s in store.segments] == [0, 1, 0]
    assert all("secret" not in path.read_text() for path in (tmp_path / "a").rglob("segment.json"))
    crops = [c for t in store.tracklets() for c in t.crops]
    np.testing.assert_array_equal([c.path.is_file() for c in crops], True)


@pytest.mark.parametrize("end", ["gap", "until"])
def test_people_who_are_seen_in_an_overlap_alone_are_kept_if_it_is_interrupted(
    end: str, tiny_weights: Path, tmp_path: Path
) -> None:
    """The second person comes at 10.5 s, in the overlap from 10 to 12 s. At 11.5 s the stream breaks, or is ended."""
    paths = [walk(2, 20, 0.5), walk(2, 70, 0.5, 105, 115)]
    finder, follower = front_end(write_truth(tmp_path / "gt.txt", paths, 150))
    start, frames = 1795852800.0, paint_walkers(paths, 150)
    events: list[VideoFrame | Gap] = [
        VideoFrame(image, round(start + n / 10, 3), n + 1) for n, image in enumerate(frames)
    ]
    if end == "gap":
        events.insert(115, Gap(start + 11.45, "nothing came for 10 s"))
    calls = itertools.count(1)
    index_stream(
        Played(events, 10), str(tmp_path / "a"), camera="gate", detector=finder, tracker=follower,  # type: ignore[arg-type]
        embedder=Embedder(tiny_weights, device="cpu", backend="torch"),
        settings=IndexSettings(segment_s=10, overlap_s=2, appearance=False),
        until=lambda: end == "until" and next(calls) > 114,
    )  # fmt: skip
    store = Archive.open(tmp_path / "a")
    spans = [(round(t.begin_s - start, 1), round(t.end_s - start, 1)) for t in store.tracklets()]
    after = [(11.5, 14.9)] if end == "gap" else []
    assert sorted(spans) == [(0.0, 11.4), (10.0, 11.4), (10.5, 11.4), *after]
    covered = [(round(s["start_s"] - start, 1), round(s["stop_s"] - start, 1)) for s in store.segments]
    assert sorted(covered) == [(0.0, 10.0), (10.0, 11.4), *after]
    assert [len(s["troubles"]) for s in store.segments] == ([1, 0, 0] if end == "gap" else [0, 0])
