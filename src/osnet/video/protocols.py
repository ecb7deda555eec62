"""The words of this package: a frame, boxes, a detector, a tracker.

Shapes: N boxes in one frame. Boxes are left, top, right, bottom in pixels, right and bottom exclusive.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from osnet.errors import DataError

Floats = NDArray[np.float32]
Times = NDArray[np.float64]
Ints = NDArray[np.int64]

NO_ID = -1
"""The id of a box that belongs to no track (yet)."""


class FootageError(DataError):
    """Footage, detections or tracks that cannot be read."""


@dataclass(frozen=True)
class VideoFrame:
    """One decoded picture of a video."""

    image: NDArray[np.uint8]
    """(height, width, 3), RGB, upright."""
    time_s: float
    """Unix time at which it was taken."""
    number: int
    """Its place in the footage, from 1, as MOTChallenge counts."""


@dataclass(frozen=True)
class Boxes:
    """People in one frame."""

    xyxy: Floats = field(default_factory=lambda: np.empty((0, 4), np.float32))
    """(N, 4)."""
    scores: Floats = field(default_factory=lambda: np.empty(0, np.float32))
    """(N,), in [0, 1]: how sure the detector is."""

    def __post_init__(self) -> None:
        if self.xyxy.shape != (len(self.scores), 4):
            raise FootageError(f"boxes of shape {self.xyxy.shape} with {len(self.scores)} scores; (N, 4) and (N,) fit")

    def __len__(self) -> int:
        return len(self.scores)


class Detector(Protocol):
    """Finds people in frames. Frames of one camera come in the order of their times."""

    @property
    def description(self) -> dict[str, Any]:
        """What decides its boxes: names, numbers, digests. It is stored with the results."""
        ...

    @property
    def warmup_s(self) -> float:
        """Seconds of footage that it has to see before its first boxes count; 0 for most."""
        ...

    def reset(self) -> None:
        """Forget all frames: another segment begins."""
        ...

    def detect(self, frame: VideoFrame) -> Boxes:
        """The people in a frame."""
        ...


class Tracker(Protocol):
    """Gives the boxes of one person the same number from frame to frame."""

    @property
    def description(self) -> dict[str, Any]:
        """What decides its ids."""
        ...

    def reset(self, fps: float) -> None:
        """Forget everything; the next frames come at about ``fps`` per second."""
        ...

    def update(self, boxes: Boxes, frame: VideoFrame) -> Ints:
        """(N,): the id of each box, or ``NO_ID``. Times must increase from call to call."""
        ...


@dataclass(frozen=True)
class Trouble:
    """Something in the footage that could not be used, and where."""

    time_s: float
    """Seconds since the footage began."""
    what: str

    def __str__(self) -> str:
        return f"at {self.time_s:.2f} s: {self.what}"


@dataclass
class Track:
    """One person in one camera, frame by frame: what a tracker, or we after it, say."""

    id: int
    numbers: list[int] = field(default_factory=list)
    """Frame numbers, increasing."""
    times_s: list[float] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    """In [0, 1]; 0 where the box was interpolated, not detected."""
    pieces: list[tuple[int, int, int]] = field(default_factory=list)
    """What it was made of: the tracker's id, first and last frame number. So every join can be undone."""

    def __len__(self) -> int:
        return len(self.numbers)

    def append(self, number: int, time_s: float, box: tuple[float, float, float, float], score: float) -> None:
        """One more frame."""
        self.numbers.append(number)
        self.times_s.append(time_s)
        self.boxes.append(box)
        self.scores.append(score)

    def rows(self) -> Iterator[tuple[int, float, tuple[float, float, float, float], float]]:
        """Number, time, box and score of each frame."""
        return zip(self.numbers, self.times_s, self.boxes, self.scores, strict=True)
