"""Small videos for tests: coloured people walk over a grey ground on known paths."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

SIZE_WH = (160, 120)
COLOURS = ((200, 40, 40), (40, 160, 60), (50, 70, 200), (210, 190, 50))


def write_video(
    path: Path,
    images: Sequence[np.ndarray],
    fps: int = 10,
    times: Sequence[float] | None = None,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    gop: int = 8,
    metadata: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
    reordered: bool = False,
) -> Path:
    """Write RGB or RGBA frames; ``times`` in seconds make the frame rate vary; ``reordered``: with B-frames."""
    with av.open(str(path), "w", options=options or {}) as container:
        container.metadata.update(metadata or {})
        stream: Any = container.add_stream(codec, rate=fps)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt, stream.codec_context.gop_size = pix_fmt, gop
        stream.codec_context.time_base = Fraction(1, 1000)
        if codec == "libx264":
            stream.options = {"crf": "10", "preset": "ultrafast"} | ({"bf": "2", "b-adapt": "0"} if reordered else {})
        for number, image in enumerate(images):
            layout = "rgba" if image.shape[2] == 4 else "rgb24"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=layout)
            frame.time_base = Fraction(1, 1000)
            frame.pts = round(1000 * (times[number] if times is not None else number / fps))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def grey(level: int, size_wh: tuple[int, int] = SIZE_WH) -> np.ndarray:
    return np.full((size_wh[1], size_wh[0], 3), level, np.uint8)


def numbered(count: int, size_wh: tuple[int, int] = SIZE_WH) -> list[np.ndarray]:
    """Frames whose grey levels encode their number: tens in the left half, units in the right half."""
    images = []
    for n in range(count):
        image = grey(20 + 22 * (n // 10), size_wh)
        image[:, size_wh[0] // 2 :] = 20 + 22 * (n % 10)
        images.append(image)
    return images


def number_of(image: np.ndarray) -> int:
    """The number of a frame from ``numbered``."""
    middle = image.shape[1] // 2
    tens, units = (round((float(part.mean()) - 20) / 22) for part in (image[:, : middle - 4], image[:, middle + 4 :]))
    return 10 * tens + units


Path4 = Callable[[int], tuple[float, float] | None]
"""Frame number from 0 -> left and top of a person, or None if the person is not in view."""


def walk(start_x: float, y: float, speed: float, first: int = 0, last: int = 10**6) -> Path4:
    """A walk along a line, in view from frame ``first`` until before frame ``last``."""
    return lambda n: (start_x + speed * n, y) if first <= n < last else None


def paint_walkers(paths: Sequence[Path4], frames: int, seed: int = 0) -> list[np.ndarray]:
    """People of 16 x 40 pixels, each in two colours, on a textured ground."""
    ground = np.random.RandomState(seed).randint(90, 130, (SIZE_WH[1], SIZE_WH[0], 3)).astype(np.uint8)
    images = []
    for n in range(frames):
        image = ground.copy()
        for person, path in enumerate(paths):
            place = path(n)
            if place is None:
                continue
            left, top = (round(v) for v in place)
            box = (max(0, left), max(0, top), min(SIZE_WH[0], left + 16), min(SIZE_WH[1], top + 40))
            image[box[1] : top + 20, box[0] : box[2]] = COLOURS[person % 4]
            image[top + 20 : box[3], box[0] : box[2]] = COLOURS[(person + 1) % 4]
        images.append(image)
    return images


def write_truth(
    path: Path, paths: Sequence[Path4], frames: int, ids: bool = True, missing: set[int] = frozenset()
) -> Path:  # type: ignore[assignment]
    """Write the boxes as MOTChallenge text, without the frames in ``missing`` (counted from 1)."""
    lines = []
    for n in range(frames):
        for person, walker in enumerate(paths, 1):
            place = walker(n)
            if place is not None and n + 1 not in missing:
                lines.append(f"{n + 1},{person if ids else -1},{place[0]:.1f},{place[1]:.1f},16,40,0.9,-1,-1,-1\n")
    path.write_text("".join(lines))
    return path
