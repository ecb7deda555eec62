"""From boxes with ids to tracks and their best crops.

While frames go by, each track keeps one crop for each second: the best by ``crop_quality``. Crops are embedded in
batches as their seconds end, and only the vector and a JPEG stay in memory. At the end ``choose_samples`` takes a few
of a track that are good, and spread in time and appearance, so that front and back are both kept.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from osnet import Embedder
from osnet.video.protocols import NO_ID, Boxes, Floats, Ints, Track, VideoFrame

GOOD_HEIGHT = 160
"""Pixels: a taller person is not a better crop, since networks see 256 at most."""
BORDER = 2
"""A box that comes so near to the frame's border is probably cut off."""
SHARP = 60.0
"""Mean squared Laplacian at which sharpness counts half."""
JPEG_QUALITY = 90
MAX_SAMPLES = 64
"""Per track; with more, of each two neighbours the better one stays."""


@dataclass
class Sample:
    """One crop of a track, embedded."""

    number: int
    """Of its frame."""
    time_s: float
    box: tuple[float, float, float, float]
    quality: float
    """In (0, 1]; see ``crop_quality``."""
    vector: Floats
    """(D,), of length 1."""
    jpeg: bytes


@dataclass
class _Candidate:
    """The best crop of a track in the present second."""

    slot: int
    number: int
    time_s: float
    box: tuple[float, float, float, float]
    quality: float
    pixels: NDArray[np.uint8]


@dataclass
class _Kept:
    """All that is kept of one track."""

    track: Track
    samples: list[Sample] = field(default_factory=list)
    candidate: _Candidate | None = None


class Collector:
    """Takes frames with boxes and ids; gives tracks with samples.

    Args:
        embedder: makes the vectors.
        sample_s: one crop is kept for each so many seconds of a track.
    """

    def __init__(self, embedder: Embedder, sample_s: float = 1.0) -> None:
        self._embedder, self._sample_s = embedder, sample_s
        self._kept: dict[int, _Kept] = {}
        self._waiting: list[tuple[_Kept, _Candidate]] = []
        self._previous: set[int] = set()

    def add(self, frame: VideoFrame, boxes: Boxes, ids: Ints) -> None:
        """The next frame."""
        seen: set[int] = set()
        covered = cover(boxes.xyxy)
        slot = int(frame.time_s // self._sample_s)
        for place in np.flatnonzero(ids != NO_ID):
            key, box = int(ids[place]), tuple(boxes.xyxy[place].tolist())
            kept = self._kept.setdefault(key, _Kept(Track(key)))
            if key in seen:
                continue  # a tracker that gives two boxes of a frame one id: the first counts
            seen.add(key)
            kept.track.append(frame.number, frame.time_s, box, float(boxes.scores[place]))
            if kept.candidate is not None and kept.candidate.slot != slot:
                self._release(kept)
            self._consider(kept, frame, box, float(boxes.scores[place]), float(covered[place]), slot)
        for key in self._previous - seen:  # lost: what it has is embedded now, so nothing waits for ever
            self._release(self._kept[key])
        self._previous = seen

    def _consider(
        self,
        kept: _Kept,
        frame: VideoFrame,
        box: tuple[float, float, float, float],
        score: float,
        covered: float,
        slot: int,
    ) -> None:
        height, width = frame.image.shape[:2]
        left, top, right, bottom = (int(v) for v in box)
        left, top, right, bottom = max(0, left), max(0, top), min(width, right), min(height, bottom)
        if right - left < 2 or bottom - top < 4:
            return
        cut = min(left, top) < BORDER or right > width - BORDER or bottom > height - BORDER
        best = kept.candidate.quality if kept.candidate is not None else 0.0
        if crop_quality(score, bottom - top, covered, cut, 1.0) <= best:
            return
        pixels = frame.image[top:bottom, left:right]
        quality = crop_quality(score, bottom - top, covered, cut, sharpness(pixels))
        if quality > best:
            kept.candidate = _Candidate(slot, frame.number, frame.time_s, box, quality, pixels.copy())

    def _release(self, kept: _Kept) -> None:
        """The present second of a track is over."""
        if kept.candidate is not None:
            self._waiting.append((kept, kept.candidate))
            kept.candidate = None
        if len(self._waiting) >= self._embedder.batch_size:
            self._embed()

    def _embed(self) -> None:
        if not self._waiting:
            return
        vectors = self._embedder.embed([candidate.pixels for _, candidate in self._waiting])
        for (kept, c), vector in zip(self._waiting, vectors, strict=True):
            sample = Sample(c.number, c.time_s, c.box, round(c.quality, 4), vector, encode_jpeg(c.pixels))
            kept.samples.append(sample)
            if len(kept.samples) > MAX_SAMPLES:
                pairs = [kept.samples[i : i + 2] for i in range(0, len(kept.samples), 2)]
                kept.samples = [max(pair, key=lambda s: s.quality) for pair in pairs]
        self._waiting.clear()

    def finish(self) -> tuple[list[Track], dict[int, list[Sample]]]:
        """Tracks in the order of their ids, and the samples of each by its id, in the order of time."""
        for key in sorted(self._kept):
            self._release(self._kept[key])
        self._embed()
        tracks = [self._kept[key].track for key in sorted(self._kept)]
        for track in tracks:
            track.pieces = [(track.id, track.numbers[0], track.numbers[-1])]
        return tracks, {key: sorted(kept.samples, key=lambda s: s.number) for key, kept in self._kept.items()}


def crop_quality(score: float, height: int, covered: float, cut: bool, sharp: float) -> float:
    """How good a crop is, in (0, 1]: a product of what each fault leaves of it.

    Args:
        score: the detector's, in [0, 1].
        height: in pixels; from ``GOOD_HEIGHT`` on it counts fully.
        covered: share of the box that others stand before.
        cut: it touches the frame's border.
        sharp: from ``sharpness``.
    """
    size = min(1.0, height / GOOD_HEIGHT)
    return max(1e-6, (0.3 + 0.7 * score) * size * (1 - 0.8 * covered) * (0.5 if cut else 1.0) * (0.4 + 0.6 * sharp))


def sharpness(pixels: NDArray[np.uint8]) -> float:
    """In [0, 1): the mean squared Laplacian of the green channel, at every second pixel, squashed."""
    green = pixels[::2, ::2, 1].astype(np.float32)
    if min(green.shape) < 3:
        return 0.0
    inner = green[1:-1, 1:-1]
    laplacian = green[:-2, 1:-1] + green[2:, 1:-1] + green[1:-1, :-2] + green[1:-1, 2:] - 4 * inner
    energy = float((laplacian * laplacian).mean())
    return energy / (energy + SHARP * 16)


def cover(xyxy: Floats) -> Floats:
    """(N,): the largest share of each box that one box before it covers. Before is: its lower edge is lower."""
    if len(xyxy) < 2:
        return np.zeros(len(xyxy), np.float32)
    top_left = np.maximum(xyxy[:, None, :2], xyxy[None, :, :2])
    bottom_right = np.minimum(xyxy[:, None, 2:], xyxy[None, :, 2:])
    inside = np.clip(bottom_right - top_left, 0, None).prod(2)
    area = np.maximum((xyxy[:, 2:] - xyxy[:, :2]).prod(1), 1e-6)
    before = xyxy[None, :, 3] > xyxy[:, None, 3]
    result: Floats = np.where(before, inside / area[:, None], 0).max(1).astype(np.float32)
    return result


def encode_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """RGB (height, width, 3) as JPEG."""
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, format="JPEG", quality=JPEG_QUALITY)
        return file.getvalue()


def choose_samples(samples: Sequence[Sample], at_most: int) -> list[Sample]:
    """A few good ones, spread in time and in appearance; in the order of time.

    The best comes first; then, one at a time, the one with the highest quality times what it adds: its cosine distance
    to the nearest chosen one, and its distance in time as a share of the track's length.
    """
    if len(samples) <= at_most:
        return list(samples)
    quality = np.array([s.quality for s in samples])
    vectors = np.stack([s.vector for s in samples])
    times = np.array([s.time_s for s in samples])
    span = max(1e-6, float(times[-1] - times[0]))
    chosen = [int(np.argmax(quality))]
    while len(chosen) < at_most:
        apart = 1 - (vectors @ vectors[chosen].T).max(1)
        later = np.abs(times[:, None] - times[chosen]).min(1) / span
        gain = quality * (0.1 + apart + later)
        gain[chosen] = -1
        chosen.append(int(np.argmax(gain)))
    return [samples[i] for i in sorted(chosen)]
