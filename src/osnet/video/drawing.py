"""Draw boxes, ids and trails on frames, write videos, and cut the footage of a tracklet."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from osnet.errors import OutputError, require_extra
from osnet.files import check_writable, written_aside
from osnet.video.archive import Tracklet
from osnet.video.protocols import FootageError, Track, VideoFrame
from osnet.video.source import open_recorded, read_frames

# The colours of Okabe and Ito without black, which colour-blind people can tell apart.
PALETTE = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
CODECS = ("libx264", "libopenh264", "mpeg4")
"""The first codec that this build of FFmpeg has is used."""
TRAIL_S = 4.0


def colour_of(key: int) -> tuple[int, int, int]:
    """The colour of a track; a function of its id."""
    return PALETTE[key % len(PALETTE)]


def draw_boxes(
    image: NDArray[np.uint8],
    boxes: Mapping[int, tuple[float, float, float, float]],
    trails: Mapping[int, list[tuple[float, float]]] | None = None,
    labels: Mapping[int, str] | None = None,
) -> NDArray[np.uint8]:
    """Draw boxes, ids and trails on a copy of a frame.

    Args:
        image: (height, width, 3) RGB.
        boxes: by id: left, top, right, bottom in pixels.
        trails: by id: past positions (x, y) of the feet, oldest first.
        labels: by id: text; default: the id.
    """
    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture)
    line = max(2, round(image.shape[0] / 300))
    font = ImageFont.load_default(max(11, round(image.shape[0] / 45)))
    for key, points in (trails or {}).items():
        if len(points) > 1:
            pen.line(points, fill=colour_of(key), width=line, joint="curve")
    for key, (left, top, right, bottom) in boxes.items():
        colour = colour_of(key)
        pen.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=line)
        text = (labels or {}).get(key, str(key))
        a, b, c, d = pen.textbbox((0, 0), text, font=font)
        height, width = d - b + 4, c - a + 6
        y = top - height if top >= height else top
        x = min(max(0.0, left), max(0, image.shape[1] - width))
        pen.rectangle((x, y, x + width, y + height), fill=colour)
        pen.text((x + 3 - a, y + 2 - b), text, fill=(0, 0, 0), font=font)
    return np.asarray(picture)


def drawn_frames(frames: Iterable[VideoFrame], tracks: Iterable[Track]) -> Iterator[NDArray[np.uint8]]:
    """Draw tracks, with trails of ``TRAIL_S`` seconds, on frames."""
    at: dict[int, dict[int, tuple[float, float, float, float]]] = {}
    for track in tracks:
        for number, _, box, _ in track.rows():
            at.setdefault(number, {})[track.id] = box
    trails: dict[int, list[tuple[float, float, float]]] = {}
    for frame in frames:
        boxes = at.get(frame.number, {})
        for key, (left, _, right, bottom) in boxes.items():
            trails.setdefault(key, []).append((frame.time_s, (left + right) / 2, bottom))
        trails = {k: [p for p in points if p[0] > frame.time_s - TRAIL_S] for k, points in trails.items()}
        trails = {k: points for k, points in trails.items() if points}
        yield draw_boxes(frame.image, boxes, {k: [(x, y) for _, x, y in points] for k, points in trails.items()})


@contextmanager
def video_writer(path: str | Path, fps: float, metadata: Mapping[str, str] | None = None) -> Iterator[Any]:
    """Yield a function that adds an RGB frame (height, width, 3) to a video. All frames have one size.

    The file is written under a temporary name and renamed at the end. A frame of odd width or height loses a column or
    a row, because the codecs need even sizes.

    Args:
        path: ends in .mp4, .mkv, .mov or .avi.
        fps: frames per second.
        metadata: such as ``creation_time``.

    Raises:
        FootageError: a frame has another size.
        OutputError: another extension, no frames, or ``path`` cannot be written.
    """
    path = Path(path)
    formats = {".mp4": "mp4", ".mkv": "matroska", ".mov": "mov", ".avi": "avi"}
    if path.suffix.lower() not in formats:
        raise OutputError(f"{path}: the name of a video must end in {', '.join(formats)}")
    av = require_extra("av", "video")
    codec = next(name for name in CODECS if name in av.codecs_available)
    with written_aside(path) as aside:
        container = av.open(str(aside), "w", format=formats[path.suffix.lower()])
        container.metadata.update(metadata or {})
        stream: Any = None

        def write(image: NDArray[np.uint8]) -> None:
            nonlocal stream
            height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
            if stream is None:
                stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                stream.options = {"crf": "20"} if codec == "libx264" else {}
                if codec != "libx264":
                    stream.bit_rate = int(width * height * fps * 0.15)
            elif (stream.height, stream.width) != (height, width):
                raise FootageError(
                    f"a frame of {width} x {height} pixels in a video of {stream.width} x {stream.height}"
                )
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
            container.mux(stream.encode(frame))

        try:
            yield write
            if stream is None:
                raise OutputError(f"no frames were added to {path}")
            container.mux(stream.encode(None))
        finally:
            container.close()


def write_clip(tracklet: Tracklet, path: str | Path, margin_s: float = 1.0, label: str = "") -> None:
    """Write the part of the footage that shows a tracklet, with its box.

    Args:
        tracklet: from an archive.
        path: the new video.
        margin_s: seconds to add before and after.
        label: text of the box; default: the tracklet's number in its segment.

    Raises:
        FootageError: the footage no longer exists, has changed since it was indexed, or is a live stream.
        OutputError: ``path`` cannot be written, or is the footage itself.
    """
    check_writable(path, reads=[tracklet.footage])
    footage = open_recorded(tracklet.footage, tracklet.footage_record, 0.0)
    begin, end = (float(footage.times_s[int(n) - 1]) for n in (tracklet.numbers[0], tracklet.numbers[-1]))
    boxes = {int(n): tuple(box[:4].tolist()) for n, box in zip(tracklet.numbers, tracklet.boxes, strict=True)}
    number = int(tracklet.id.rpartition("/")[2])
    with video_writer(path, footage.fps) as write:
        for frame in read_frames(footage, max(0.0, begin - margin_s), end + margin_s):
            here = {number: boxes[frame.number]} if frame.number in boxes else {}
            write(draw_boxes(frame.image, here, labels={number: label or str(number)}))
