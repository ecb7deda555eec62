"""MOTChallenge's text: ``frame,id,left,top,width,height,confidence,...``, frames from 1, one box a line.

BoxMOT, DeepStream, TrackEval, motmetrics and ``trackers`` read or write it. (motchallenge.net, "Submission format".)
"""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from osnet.files import sha256_file, written_aside
from osnet.video.protocols import NO_ID, Boxes, FootageError, Ints, Track

MAX_BYTES = 4 << 30
MAX_PIXEL = 1e9


class MotFile:
    """The boxes of a video by frame, with or without ids.

    Args:
        path: the text. The id -1 means a box without id (a detection). Ids of 64 bits without a sign, which DeepStream
            writes, are read with one; so its 18446744073709551615 is -1. A box with confidence 0 is ignored, as in
            the truth of MOTChallenge. A missing or negative confidence counts as 1.

    Raises:
        FootageError: the text cannot be read; the message names the line.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        rows: dict[int, list[tuple[int, float, float, float, float, float]]] = {}
        try:
            if self.path.stat().st_size > MAX_BYTES:
                raise FootageError(f"{path} is larger than the limit of {MAX_BYTES:,} bytes")
            with self.path.open(encoding="utf-8-sig") as file:  # with or without a BOM
                for place, line in enumerate(file, 1):
                    if line.strip():
                        number, row = _parse(line, f"{path}, line {place}")
                        rows.setdefault(number, []).append(row)
        except (OSError, UnicodeDecodeError) as error:
            raise FootageError(f"{path} cannot be read as MOTChallenge text: {error}") from error
        self._rows = {number: [row for row in group if row[5] > 0] for number, group in sorted(rows.items())}

    def __len__(self) -> int:
        return sum(map(len, self._rows.values()))

    @property
    def num_frames(self) -> int:
        """Number of the last frame with a box; 0 if there is none."""
        return max(self._rows, default=0)

    @property
    def has_ids(self) -> bool:
        """True if any box has an id."""
        return any(row[0] != NO_ID for group in self._rows.values() for row in group)

    def sha256(self) -> str:
        """Digest of the file."""
        return sha256_file(self.path)

    def at(self, number: int) -> tuple[Boxes, Ints]:
        """The boxes of a frame, and their ids (N,)."""
        group = self._rows.get(number, [])
        if not group:
            return Boxes(), np.empty(0, np.int64)
        table = np.array([row[1:] for row in group], np.float32)
        corners = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:4]], axis=1)
        return Boxes(corners, np.clip(table[:, 4], 0, 1)), np.array([row[0] for row in group], np.int64)


def _parse(line: str, where: str) -> tuple[int, tuple[int, float, float, float, float, float]]:
    parts = line.replace(",", " ").split()
    if len(parts) < 6:
        raise FootageError(f"{where}: {len(parts)} values; MOTChallenge has frame, id, left, top, width, height, ...")
    try:
        values = [float(part) for part in parts[:7]]
    except ValueError:
        raise FootageError(f"{where}: {line.strip()!r} contains a value that is not a number") from None
    number = values[0]
    if not all(map(math.isfinite, values)) or number < 1 or number != int(number) or values[1] != int(values[1]):
        raise FootageError(f"{where}: {line.strip()!r}; frame and id must be whole numbers, and frames begin at 1")
    try:
        track = int(parts[1])  # exactly: as floats, neighbours above 2**53 are equal
    except ValueError:
        track = int(values[1])
    if not -(2**63) <= track < 2**64:
        raise FootageError(f"{where}: the id {parts[1]} has more than 64 bits")
    if max(map(abs, values[2:6])) > MAX_PIXEL:
        raise FootageError(f"{where}: {line.strip()!r}; a box has coordinates of at most {MAX_PIXEL:g} pixels")
    if min(values[4:6]) <= 0:
        raise FootageError(f"{where}: a box of {values[4]:g} x {values[5]:g} pixels; both must be above 0")
    confidence = values[6] if len(values) > 6 and values[6] >= 0 else 1.0
    if track >= 2**63:
        track -= 2**64
    return int(number), (track, values[2], values[3], values[4], values[5], confidence)


def write_mot(path: str | Path, tracks: Iterable[Track]) -> None:
    """Write tracks as MOTChallenge text, sorted by frame and id, atomically.

    Interpolated boxes get the confidence 0.01, because readers ignore boxes with 0.
    """
    lines = [
        (number, track.id, f"{left:.2f},{top:.2f},{right - left:.2f},{bottom - top:.2f},{max(score, 0.01):.4f},1,1")
        for track in tracks
        for number, _, (left, top, right, bottom), score in track.rows()
    ]
    with written_aside(path) as aside:
        aside.write_text("".join(f"{n},{i},{rest}\n" for n, i, rest in sorted(lines)), encoding="utf-8")
