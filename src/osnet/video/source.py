"""Read video files through PyAV (FFmpeg): the times of their frames, and the pixels.

Times come from the stream's own clock, so variable frame rates need no special treatment. Where the clock jumps back
(two recordings in one file), times continue one frame later. What cannot be decoded is left out and listed.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osnet.errors import require_extra
from osnet.video.protocols import FootageError, Times, Trouble, VideoFrame

FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,mpegts,mpeg,mpegvideo,flv,asf,ogg,h264,hevc,m4v,mjpeg,nut,mxf,ivf,obu,"
    "wtv,dhav"
)
"""The demuxers of FFmpeg that may open a file. Playlists are excluded, because they open other files and addresses."""
MAX_PIXELS = 8192 * 8192
MAX_TROUBLES = 100
"""At most this many are listed for a file."""
MAX_REORDER = 32
"""Frames that are still missing this many frames after the last wanted one will not come: codecs reorder less."""
DEFAULT_FPS = 25.0
"""Frames per second of raw streams, which have no clock."""


@dataclass(frozen=True)
class Footage:
    """One video file."""

    path: Path
    starts_s: float
    """Unix time of its first frame."""
    times_s: Times
    """(F,): the time of each frame in seconds since the first, increasing."""
    size_wh: tuple[int, int]
    """Width and height as stored, before the rotation is applied."""
    origin_s: float
    """Time of the first frame on the stream's own clock, in seconds."""
    seekable: bool
    """False if the clock jumps or is missing. Then each segment is decoded from the beginning of the file."""
    troubles: tuple[Trouble, ...] = ()
    """Faults that the packets and the header show before anything is decoded."""

    @property
    def fps(self) -> float:
        """Median number of frames per second; ``DEFAULT_FPS`` for a single frame."""
        return round(float(1 / np.median(np.diff(self.times_s))), 6) if len(self.times_s) > 1 else DEFAULT_FPS

    @property
    def duration_s(self) -> float:
        """Seconds from the first frame to the end of the last."""
        return float(self.times_s[-1]) + 1 / self.fps


def open_footage(path: str | Path, starts_s: float | None = None) -> Footage:
    """Read the times of all frames from a file's packets, without decoding them.

    Args:
        path: a video file.
        starts_s: Unix time of its first frame; default: the file's ``creation_time``.

    Raises:
        FootageError: the file cannot be opened, has no video or no frames, or has no ``creation_time``.
    """
    path = Path(path)
    with open_container(path) as (container, stream):
        packets = _Packets(container, stream)
        shown = [(packet.is_discard, time_s) for packet, time_s in packets if packet.size]
        # A trimmed file begins at a keyframe. Its edit list hides the frames before the cut; no decoder gives them.
        times = np.array([time_s for is_hidden, time_s in shown if not is_hidden], np.float64)
        if not len(times):
            raise FootageError(f"{path} has a video stream without frames")
        if starts_s is None:
            starts_s = _creation_time(path, container, stream)
        # Two packets with the same time are one frame (interlaced fields; frames that are never shown).
        sorted_times = np.unique(np.round(times, 6))
        origin_s = float(sorted_times[0])
        troubles = [Trouble(max(0.0, t.time_s - origin_s), t.what) for t in packets.troubles]
        troubles += _find_cut(container, stream, len(shown), sorted_times - origin_s)
        return Footage(
            path, starts_s, sorted_times - origin_s, (stream.width, stream.height), origin_s, packets.steady,
            tuple(troubles[:MAX_TROUBLES]),
        )  # fmt: skip


def open_recorded(path: str | Path, record: Mapping[str, Any], starts_s: float) -> Footage:
    """``open_footage`` of footage that an archive was made of.

    Args:
        path: where the file is now.
        record: ``footage`` of ``segment.json``: ``bytes``, ``frames`` and ``fps`` of the file that was indexed.
        starts_s: Unix time of its first frame.

    Raises:
        FootageError: a live stream, which is not kept; a file that is not there, or has changed since.
    """
    if "bytes" not in record:
        raise FootageError(f"{path} is a live stream, which is not kept, so it has no clips and no frames")
    footage = open_footage(path, starts_s)
    now = {"bytes": footage.path.stat().st_size, "frames": len(footage.times_s), "fps": round(footage.fps, 3)}
    for name, value in now.items():
        if value != record[name]:
            raise FootageError(
                f"the footage {path} has changed since it was indexed: its {name} were {record[name]}, now {value}"
            )
    return footage


def read_frames(
    footage: Footage,
    start_s: float = 0.0,
    stop_s: float = float("inf"),
    fps: float | None = None,
    troubles: list[Trouble] | None = None,
) -> Iterator[VideoFrame]:
    """Decode the frames from ``start_s`` (included) to ``stop_s`` (excluded).

    The pixels, time and number of a frame do not depend on where reading begins.

    Args:
        footage: from ``open_footage``.
        start_s: in seconds since the footage began.
        stop_s: likewise.
        fps: highest number of frames per second; the first frame of each interval of 1 / fps seconds is taken. None:
            all frames.
        troubles: frames that cannot be decoded are added to this list.

    Raises:
        FootageError: the file no longer exists, or has changed.
    """
    troubles = [] if troubles is None else troubles
    wanted = choose_frames(footage.times_s, start_s, stop_s, fps)
    if not len(wanted):
        return
    if footage.seekable and start_s > 0:
        try:
            yield from _read(footage, wanted, troubles, seek=True)
            return
        except _SeekTooFarError:
            pass
    yield from _read(footage, wanted, troubles, seek=False)


def choose_frames(times_s: Times, start_s: float, stop_s: float, fps: float | None) -> NDArray[np.int64]:
    """Indices of the frames that ``read_frames`` reads."""
    chosen = np.ones(len(times_s), bool)
    if fps is not None:
        slots = np.floor(times_s * fps + 1e-6)
        chosen[1:] = slots[1:] > slots[:-1]
    return np.flatnonzero(chosen & (times_s >= start_s - 1e-6) & (times_s < stop_s - 1e-6))


class _SeekTooFarError(Exception):
    """The first frame after a seek comes after the wanted one. No frame has been yielded yet."""


def _read(footage: Footage, wanted: NDArray[np.int64], troubles: list[Trouble], seek: bool) -> Iterator[VideoFrame]:
    av = require_extra("av", "video")
    todo = set(wanted.tolist())
    first_wanted, last_wanted = int(wanted[0]), int(wanted[-1])
    tolerance_s = 0.5 / footage.fps
    with open_container(footage.path) as (container, stream):
        stream.thread_type = "AUTO"
        if seek:
            target_s = footage.origin_s + float(footage.times_s[first_wanted])
            try:
                container.seek(int(target_s / stream.time_base), stream=stream)
            except av.error.FFmpegError:
                raise _SeekTooFarError from None
        at_start, passed = seek, 0
        packets, converter = _Packets(container, stream), make_converter()
        for packet, _ in packets:
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                continue  # the missing frames are listed below
            for frame in frames:
                if frame.pts is None or frame.is_corrupt:
                    continue
                time_s = float(frame.pts * frame.time_base) - footage.origin_s
                index = _nearest(footage.times_s, time_s)
                if at_start and index > first_wanted:
                    raise _SeekTooFarError
                at_start = False
                passed += index > last_wanted
                if index in todo and abs(footage.times_s[index] - time_s) <= tolerance_s:
                    todo.discard(index)
                    taken_s = round(footage.starts_s + float(footage.times_s[index]), 6)
                    yield VideoFrame(upright(frame, footage.path, converter), taken_s, index + 1)
            if not todo or passed > MAX_REORDER:
                break
    for first, count in _runs(sorted(todo)):
        what = f"{count} frame{'s' if count > 1 else ''} that cannot be decoded"
        troubles.append(Trouble(float(footage.times_s[first]), what))


def _nearest(times_s: Times, time_s: float) -> int:
    place = int(np.searchsorted(times_s, time_s))
    if place and (place == len(times_s) or time_s - times_s[place - 1] < times_s[place] - time_s):
        place -= 1
    return place


def _runs(indices: list[int]) -> Iterator[tuple[int, int]]:
    """First index and length of each run. Gaps up to 100 frames, which sampling causes, do not end a run."""
    start = 0
    for place in range(1, len(indices) + 1):
        if place == len(indices) or indices[place] - indices[place - 1] > 100:
            yield indices[start], place - start
            start = place


class _Packets:
    """The packets of a stream with their times in seconds, which never decrease."""

    def __init__(self, container: Any, stream: Any) -> None:
        self._container, self._stream = container, stream
        self.troubles: list[Trouble] = []
        self.steady = True

    def __iter__(self) -> Iterator[tuple[Any, float]]:
        rate = self._stream.average_rate or self._stream.base_rate
        base = self._stream.time_base
        step = max(1, round(1 / (float(rate or DEFAULT_FPS) * float(base))))
        offset, last = 0, None
        for packet in self._demuxed():
            if not packet.size:
                yield packet, float((last or 0) * base)
                continue
            if packet.dts is None and packet.pts is None:
                packet.pts = packet.dts = (0 if last is None else last + step) - offset
                self.steady = False
            if packet.dts is not None:  # times of showing alone jump back wherever frames are reordered
                if last is not None and packet.dts + offset < last:
                    self.steady = False
                    back_s = float((last - packet.dts - offset) * base)
                    self._add(float(last * base), f"the clock jumps back by {back_s:.2f} s")
                    offset = last + step - packet.dts
                last = packet.dts + offset
            if offset:
                packet.dts = None if packet.dts is None else packet.dts + offset
                packet.pts = None if packet.pts is None else packet.pts + offset
            shown = packet.pts if packet.pts is not None else packet.dts
            yield packet, float(shown * base)

    def _demuxed(self) -> Iterator[Any]:
        """The packets that can be read; reading continues after an unreadable part."""
        av = require_extra("av", "video")
        last_s = 0.0
        for _ in range(MAX_TROUBLES):
            try:
                for packet in self._container.demux(self._stream):
                    if packet.pts is not None:
                        last_s = float(packet.pts * packet.time_base)
                    yield packet
                return
            except av.error.EOFError:
                return
            except (av.error.FFmpegError, OSError) as error:
                self._add(last_s, f"a part cannot be read ({getattr(error, 'strerror', None) or error})")

    def _add(self, time_s: float, what: str) -> None:
        if len(self.troubles) < MAX_TROUBLES:
            self.troubles.append(Trouble(time_s, what))


def open_input(place: Any, **options: Any) -> Any:
    """``av.open`` for reading. Metadata need not be UTF-8: PyAV 19 takes other bytes too, PyAV 18 if it is told so."""
    av = require_extra("av", "video")
    if int(av.__version__.split(".")[0]) < 19:
        options["metadata_errors"] = "surrogateescape"
    return av.open(place, **options)


@contextmanager
def open_container(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open a file. Yields the container and its first video stream."""
    av = require_extra("av", "video")
    if not path.is_file():
        raise FootageError(f"no such footage: {path}")
    try:
        options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
        container = open_input(str(path.absolute()), container_options=options)
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FootageError(
            f"{path} cannot be opened as a video: {reason}; it may be truncated, or another kind of file"
        ) from error
    with container:
        if not container.streams.video:
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            raise FootageError(f"{path} has no video stream; it has {kinds}")
        stream = container.streams.video[0]
        context = stream.codec_context
        if context is None:
            raise FootageError(f"{path}: FFmpeg has no decoder for its video")
        _check_size(path, context.width, context.height)
        yield container, stream


def _check_size(path: Path | str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise FootageError(f"{path} has frames of {width} x {height} pixels; the limit is {MAX_PIXELS:,} pixels")


def make_converter() -> Any:
    """What converts the pixels of a stream's frames; its tables are made once, for the first frame."""
    return require_extra("av.video.reformatter", "video").VideoReformatter()


def upright(frame: Any, path: Path | str, converter: Any) -> NDArray[np.uint8]:
    """Convert a frame to RGB (height, width, 3), and apply the rotation that phones store.

    ``converter`` is from ``make_converter``, one for each stream.
    """
    _check_size(path, frame.width, frame.height)
    image: NDArray[np.uint8] = converter.reformat(frame, format="rgb24", threads=1).to_ndarray()
    quarters = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, quarters)) if quarters else image


def _find_cut(container: Any, stream: Any, count: int, times_s: Times) -> list[Trouble]:
    """Faults of a file that is shorter than its header says, or lacks frames although its rate is steady."""
    troubles = []
    steps = np.diff(times_s)
    step = float(np.median(steps)) if len(steps) else 0.0
    if len(steps) >= 20 and np.mean(np.abs(steps - step) < 0.2 * step) > 0.9:
        for place in np.flatnonzero(steps > 1.7 * step):
            missing = round(float(steps[place]) / step) - 1
            troubles.append(
                Trouble(float(times_s[place]), f"{missing} frame{'s are' if missing > 1 else ' is'} missing")
            )
    end_s = float(times_s[-1])
    counts = "mp4" in container.format.name  # other formats may state any number of frames
    # An edit list hides frames, and states the duration without them.
    lasts_s = float((stream.duration or 0) * stream.time_base) or math.inf
    if counts and count < stream.frames and lasts_s > end_s + 1.5 * step:
        troubles.append(Trouble(end_s, f"the file ends here, with {count} of its {stream.frames} frames"))
    stated_s = float(container.duration or 0) / 1e6
    if not counts and stream.duration and stated_s > end_s + max(1.0, 0.05 * stated_s):
        troubles.append(Trouble(end_s, f"the file ends here; its header states {stated_s:.1f} s"))
    return troubles


def _creation_time(path: Path, container: Any, stream: Any) -> float:
    for metadata in (stream.metadata, container.metadata):
        text = metadata.get("creation_time", "")
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            continue
        if moment.year > 1971:  # cameras whose clock is not set write 1904 or 1970
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    raise FootageError(
        f"{path} does not say when it was taken; give --starts, such as 2026-11-28T08:00:00+01:00, or --name-pattern"
    )
