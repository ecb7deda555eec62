"""Trackers: those of Roboflow's ``trackers`` (Apache-2.0) by name, and tracks of other programs from a file."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np

from osnet.errors import require_extra
from osnet.video.kalman import quick_estimator
from osnet.video.motfile import MotFile
from osnet.video.protocols import NO_ID, Boxes, Detector, FootageError, Ints, Tracker, VideoFrame

TRACKERS = {
    "cbiou": "CBIoUTracker",
    "bytetrack": "ByteTrackTracker",
    "ocsort": "OCSORTTracker",
    "sort": "SORTTracker",
    "botsort": "BoTSORTTracker",
}
DEFAULT_TRACKER = "cbiou"
DEFAULTS = {"lost_track_buffer": 90}
"""Options that differ from those of ``trackers``: a lost person is expected for 3 s, not 1 s (frames at 30 per second).
This was chosen on TUD with passages left out (docs/video.md)."""
FRAME_USERS = frozenset({"botsort"})
"""These trackers need the pixels, to compensate camera motion."""
ESTIMATOR = "state_estimator_class"
QUICK = frozenset({"cbiou", "bytetrack"})
"""The filters of these trackers are replaced by equal ones that cost less."""


class NamedTracker:
    """A tracker of the package ``trackers``.

    Args:
        name: a key of ``TRACKERS``.
        options: for its constructor, such as ``lost_track_buffer`` (in frames, at 30 per second).

    Raises:
        FootageError: unknown name or option.
        MissingExtraError: ``trackers`` is not installed.
    """

    def __init__(self, name: str, **options: Any) -> None:
        if name not in TRACKERS:
            raise FootageError(f"unknown tracker {name!r}; choose from {', '.join(TRACKERS)}")
        module = require_extra("trackers", "video")
        self._supervision = require_extra("supervision", "video")
        self._class = getattr(module, TRACKERS[name])
        known = [p for p in inspect.signature(self._class).parameters if p != "frame_rate"]
        if unknown := sorted(set(options) - set(known)):
            raise FootageError(f"tracker {name} has no option {unknown[0]!r}; it has {', '.join(known)}")
        self.name, self._options = name, {**{k: v for k, v in DEFAULTS.items() if k in known}, **options}
        self._quick: dict[str, Any] = {}
        if name in QUICK and ESTIMATOR in known and ESTIMATOR not in options:
            self._quick[ESTIMATOR] = quick_estimator(inspect.signature(self._class).parameters[ESTIMATOR].default)
        self.reset(30.0)

    @property
    def description(self) -> dict[str, Any]:
        """Name and options."""
        return {"tracker": self.name, **self._options}

    def reset(self, fps: float) -> None:
        """Replace the tracker by a new one for ``fps`` frames per second."""
        self._tracker = self._class(frame_rate=fps, **self._options, **self._quick)

    def update(self, boxes: Boxes, frame: VideoFrame) -> Ints:
        """Returns the ids (N,)."""
        detections = self._supervision.Detections(
            xyxy=boxes.xyxy.astype(np.float32),
            confidence=boxes.scores,
            class_id=np.zeros(len(boxes), int),
            data={"row": np.arange(len(boxes))},
        )
        image = frame.image[..., ::-1] if self.name in FRAME_USERS else None
        tracked = self._tracker.update(detections, frame=image, timestamp=frame.time_s)
        ids = np.full(len(boxes), NO_ID, np.int64)
        if len(tracked) and tracked.tracker_id is not None:
            ids[np.asarray(tracked.data["row"], int)] = tracked.tracker_id
        return ids


class GivenTracks:
    """Boxes and ids from a MOTChallenge text: detector and tracker in one.

    Args:
        path: the text. Its frame numbers are those of the footage, from 1, before sampling.

    Raises:
        FootageError: the text cannot be read, or has no ids.
    """

    name = "given"
    warmup_s = 0.0

    def __init__(self, path: str | Path) -> None:
        self._file = MotFile(path)
        if not self._file.has_ids:
            raise FootageError(f"{path} has no ids (all are -1); use it as a detector: --detector {path}")
        self._ids = np.empty(0, np.int64)

    @property
    def description(self) -> dict[str, Any]:
        """Digest of the file."""
        return {"tracks": "MOTChallenge", "sha256": self._file.sha256()}

    def reset(self, fps: float = 0.0) -> None:
        """Do nothing: there is no state."""

    def detect(self, frame: VideoFrame) -> Boxes:
        """The boxes of this frame."""
        boxes, self._ids = self._file.at(frame.number)
        return boxes

    def update(self, boxes: Boxes, frame: VideoFrame) -> Ints:
        """The ids of these boxes."""
        return self._ids


def make_tracker(name: str = DEFAULT_TRACKER, **options: Any) -> Tracker:
    """Create a tracker by name. Raises as ``NamedTracker``."""
    return NamedTracker(name, **options)


def front_end(tracks: str | Path) -> tuple[Detector, Tracker]:
    """Detector and tracker that read ``tracks``, a MOTChallenge text. Raises as ``GivenTracks``."""
    given = GivenTracks(tracks)
    return given, given
