"""Frames, boxes and tracks, and the protocols of detectors and trackers.

Shapes: N boxes in one frame. Boxes are left, top, right, bottom in pixels; right and bottom are exclusive.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from osnet.errors import DataError, ImageWarning

Floats = NDArray[np.float32]
Times = NDArray[np.float64]
Ints = NDArray[np.int64]

NO_ID = -1
"""Id of a box that belongs to no track, or not yet."""


class FootageError(DataError):
    """Footage, detections or tracks that cannot be read."""


class FootageWarning(ImageWarning):
    """A warning: files that were left out, or recordings of one camera that overlap a little."""


@dataclass(frozen=True)
class VideoFrame:
    """A decoded frame."""

    image: NDArray[np.uint8]
    """(height, width, 3), RGB, upright."""
    time_s: float
    """Unix time when it was taken."""
    number: int
    """Number in the footage, from 1 as in MOTChallenge."""


@dataclass(frozen=True)
class Boxes:
    """Boxes of people in one frame."""

    xyxy: Floats = field(default_factory=lambda: np.empty((0, 4), np.float32))
    """(N, 4)."""
    scores: Floats = field(default_factory=lambda: np.empty(0, np.float32))
    """(N,), in [0, 1]."""

    def __post_init__(self) -> None:
        if self.xyxy.shape != (len(self.scores), 4):
            raise FootageError(
                f"boxes of shape {self.xyxy.shape} with {len(self.scores)} scores; they must be (N, 4) and (N,)"
            )

    def __len__(self) -> int:
        return len(self.scores)


class Detector(Protocol):
    """Finds people in the frames of one camera, which come in the order of time."""

    @property
    def description(self) -> dict[str, Any]:
        """Everything that its boxes depend on, to be stored with the results as JSON: names, numbers, digests, and
        lists or dicts of these. Tuples, arrays and paths become lists and text; other values are refused.
        """
        ...

    @property
    def warmup_s(self) -> float:
        """Seconds of footage that it needs before its boxes are valid; 0 for most detectors."""
        ...

    def reset(self) -> None:
        """Forget all frames, because a new segment begins."""
        ...

    def detect(self, frame: VideoFrame) -> Boxes:
        """Find the people in a frame.

        The next few frames may come before the tracker gets the boxes of this one. If detector and tracker are one
        object, ``detect`` and ``update`` take turns.
        """
        ...


class Tracker(Protocol):
    """Assigns the same id to the boxes of one person from frame to frame."""

    @property
    def description(self) -> dict[str, Any]:
        """Everything that its ids depend on; as for a detector."""
        ...

    def reset(self, fps: float) -> None:
        """Forget all tracks. The next frames come at about ``fps`` per second."""
        ...

    def update(self, boxes: Boxes, frame: VideoFrame) -> Ints:
        """Returns (N,): the id of each box, or ``NO_ID``. Times must increase from call to call."""
        ...


@dataclass(frozen=True)
class Trouble:
    """A part of the footage that cannot be read."""

    time_s: float
    """Seconds since the footage began."""
    what: str

    def __str__(self) -> str:
        return f"at {self.time_s:.2f} s: {self.what}"


@dataclass
class Track:
    """The boxes of one person in one camera, by frame."""

    id: int
    numbers: list[int] = field(default_factory=list)
    """Frame numbers, increasing."""
    times_s: list[float] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    """In [0, 1]; 0 where the box was interpolated, not detected."""
    pieces: list[tuple[int, int, int]] = field(default_factory=list)
    """What it was joined from: the tracker's id, first and last frame number."""

    def __len__(self) -> int:
        return len(self.numbers)

    def append(self, number: int, time_s: float, box: tuple[float, float, float, float], score: float) -> None:
        """Add a frame."""
        self.numbers.append(number)
        self.times_s.append(time_s)
        self.boxes.append(box)
        self.scores.append(score)

    def rows(self) -> Iterator[tuple[int, float, tuple[float, float, float, float], float]]:
        """Number, time, box and score of each frame."""
        return zip(self.numbers, self.times_s, self.boxes, self.scores, strict=True)
