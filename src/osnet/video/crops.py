"""From boxes with ids to tracks and their best crops.

Of each second of a track, the best crop by ``crop_quality`` is a candidate. A run is a part of a track in which the
person is not lost and does not begin to overlap with another. When a run ends, only the candidates at its two ends and
one for each ``MIDDLE_S`` seconds between them become samples: joining and splitting compare the ends, and embeddings
cost more than all else after the detector. Samples are embedded in batches; only the embedding and a JPEG stay in
memory. At the end ``choose_samples`` picks the samples of a track to store: good ones that differ in time and
appearance, so that front and back views are both kept.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from osnet import Embedder
from osnet.video.detectors import intersections, iou
from osnet.video.protocols import NO_ID, Boxes, Floats, Ints, Track, VideoFrame

GOOD_HEIGHT = 160
"""Height in pixels from which a crop is not better for being taller: networks read at most 256."""
BORDER = 2
"""In pixels: a box so near to the border of the frame is probably truncated."""
SHARP = 60.0
"""A sixteenth of the mean squared Laplacian at which ``sharpness`` is 0.5."""
JPEG_QUALITY = 90
ENDS = 2
"""Samples at each end of a run."""
MIDDLE_S = 5.0
"""Between its ends, a run has one sample for each interval of this many seconds."""
LOST_S = 0.45
"""A run ends when its track has no box for this many seconds, but not between two consecutive frames."""
CROSSING_IOU = 0.35
"""A box that overlaps with another person's by at least this IoU may show either of them."""
CROSSING_FRAMES = 5
"""A crossing has ended after this many frames without such an overlap."""
MAX_SAMPLES = 64
"""Per track. Beyond this, only the better sample of each two neighbours is kept."""


@dataclass
class Sample:
    """A crop of a track with its embedding."""

    number: int
    """Number of its frame."""
    time_s: float
    box: tuple[float, float, float, float]
    quality: float
    """In (0, 1]; see ``crop_quality``."""
    vector: Floats
    """(D,), of length 1."""
    jpeg: bytes


@dataclass(eq=False)
class _Candidate:
    """The best crop of a track in one interval of ``sample_s``."""

    slot: int
    number: int
    time_s: float
    box: tuple[float, float, float, float]
    clean: bool
    """The track is not in a crossing."""
    quality: float
    pixels: NDArray[np.uint8]

    @property
    def rank(self) -> tuple[bool, float]:
        return self.clean, self.quality


@dataclass
class _Kept:
    """A track, its samples, and the candidates of its current run."""

    track: Track
    samples: list[Sample] = field(default_factory=list)
    run: list[_Candidate] = field(default_factory=list)
    """In the order of time, at most one for each interval."""
    begin_s: float = 0.0
    """When the run began; intervals count from here."""
    crossed: int | None = None
    """Counter of the last frame that overlapped with another person."""


class Collector:
    """Collects tracks and samples from frames with boxes and ids.

    Args:
        embedder: computes the embeddings.
        sample_s: length in seconds of the intervals of which one crop is a candidate.
    """

    def __init__(self, embedder: Embedder, sample_s: float = 1.0) -> None:
        self._embedder, self._sample_s = embedder, sample_s
        self._kept: dict[int, _Kept] = {}
        self._waiting: list[tuple[_Kept, _Candidate]] = []
        self._open: dict[int, float] = {}
        """Time of the last box, of the tracks whose run has not ended."""
        self._frames = 0
        self._time_s = -float("inf")

    def add(self, frame: VideoFrame, boxes: Boxes, ids: Ints) -> None:
        """Add the next frame."""
        self._frames += 1
        before_s, self._time_s = self._time_s, frame.time_s
        for key in [k for k, last_s in self._open.items() if last_s < before_s and frame.time_s - last_s > LOST_S]:
            self._release(self._kept[key])
            del self._open[key]
        if not (ids != NO_ID).any():
            return
        overlaps = iou(boxes.xyxy, boxes.xyxy)
        np.fill_diagonal(overlaps, 0)
        crossed = (overlaps[:, ids != NO_ID] >= CROSSING_IOU).any(1)
        columns = (ids, boxes.xyxy, boxes.scores, cover(boxes.xyxy), crossed)
        seen: set[int] = set()
        for key, corners, score, covered, crosses in zip(*(column.tolist() for column in columns), strict=True):
            if key == NO_ID or key in seen:
                continue  # if a tracker assigns an id twice in a frame, the first box counts
            seen.add(key)
            if (kept := self._kept.get(key)) is None:
                kept = self._kept[key] = _Kept(Track(key))
            box = tuple(corners)
            kept.track.append(frame.number, frame.time_s, box, score)
            crossing = kept.crossed is not None and self._frames - kept.crossed <= CROSSING_FRAMES
            if crosses:
                if not crossing:
                    self._release(kept)
                kept.crossed, crossing = self._frames, True
            self._consider(kept, frame, box, score, covered, not crossing)
            self._open[key] = frame.time_s

    def _consider(
        self,
        kept: _Kept,
        frame: VideoFrame,
        box: tuple[float, float, float, float],
        score: float,
        covered: float,
        clean: bool,
    ) -> None:
        height, width = frame.image.shape[:2]
        left, top, right, bottom = (int(v) for v in box)
        left, top, right, bottom = max(0, left), max(0, top), min(width, right), min(height, bottom)
        if right - left < 2 or bottom - top < 4:
            return
        if not kept.run:
            kept.begin_s = frame.time_s
        slot = int((frame.time_s - kept.begin_s + 1e-6) // self._sample_s)
        cut = min(left, top) < BORDER or right > width - BORDER or bottom > height - BORDER
        same_slot = bool(kept.run) and kept.run[-1].slot == slot
        best = kept.run[-1].rank if same_slot else (False, 0.0)
        if (clean, crop_quality(score, bottom - top, covered, cut, 1.0)) <= best:
            return
        pixels = frame.image[top:bottom, left:right]
        quality = crop_quality(score, bottom - top, covered, cut, sharpness(pixels))
        if (clean, quality) <= best:
            return
        if same_slot:
            kept.run.pop()
        kept.run.append(_Candidate(slot, frame.number, frame.time_s, box, clean, quality, pixels.copy()))
        if len(kept.run) > 2 * ENDS + 1:  # at least two between the ends
            earlier, later = kept.run[-ENDS - 2], kept.run[-ENDS - 1]
            if (earlier.time_s - kept.begin_s) // MIDDLE_S == (later.time_s - kept.begin_s) // MIDDLE_S:
                kept.run.remove(earlier if later.rank > earlier.rank else later)

    def _release(self, kept: _Kept) -> None:
        """Queue the samples of a track's run for embedding, because the run has ended."""
        chosen = [c for c in kept.run if c.clean] or sorted(kept.run, key=lambda c: -c.quality)[:1]
        self._waiting += [(kept, candidate) for candidate in chosen]
        kept.run = []
        while len(self._waiting) >= self._embedder.batch_size:
            self._embed()

    def _embed(self) -> None:
        batch = self._waiting[: self._embedder.batch_size]
        if not batch:
            return
        vectors = self._embedder.embed([candidate.pixels for _, candidate in batch])
        if not self._embedder.normalize:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        for (kept, c), vector in zip(batch, vectors, strict=True):
            sample = Sample(c.number, c.time_s, c.box, round(c.quality, 4), vector, encode_jpeg(c.pixels))
            kept.samples.append(sample)
            if len(kept.samples) > MAX_SAMPLES:
                pairs = [kept.samples[i : i + 2] for i in range(0, len(kept.samples), 2)]
                kept.samples = [max(pair, key=lambda s: s.quality) for pair in pairs]
        del self._waiting[: len(batch)]

    def finish(self) -> tuple[list[Track], dict[int, list[Sample]]]:
        """The tracks in the order of their ids, and by id the samples of each in the order of time."""
        for key in sorted(self._kept):
            self._release(self._kept[key])
        self._embed()
        tracks = [self._kept[key].track for key in sorted(self._kept)]
        for track in tracks:
            track.pieces = [(track.id, track.numbers[0], track.numbers[-1])]
        return tracks, {key: sorted(kept.samples, key=lambda s: s.number) for key, kept in self._kept.items()}


def crop_quality(score: float, height: int, covered: float, cut: bool, sharp: float) -> float:
    """Quality of a crop, in (0, 1]: a product of one factor per fault.

    Args:
        score: of the detector, in [0, 1].
        height: in pixels; from ``GOOD_HEIGHT`` on the factor is 1.
        covered: share of the box that another person covers, in [0, 1].
        cut: whether the box touches the border of the frame.
        sharp: from ``sharpness``.
    """
    size = min(1.0, height / GOOD_HEIGHT)
    return max(1e-6, (0.3 + 0.7 * score) * size * (1 - 0.8 * covered) * (0.5 if cut else 1.0) * (0.4 + 0.6 * sharp))


def sharpness(pixels: NDArray[np.uint8]) -> float:
    """Sharpness in [0, 1): from the mean squared Laplacian of every second pixel of the green channel."""
    green = pixels[::2, ::2, 1].astype(np.int16)
    if min(green.shape) < 3:
        return 0.0
    laplacian = green[:-2, 1:-1] + green[2:, 1:-1]
    laplacian += green[1:-1, :-2]
    laplacian += green[1:-1, 2:]
    laplacian -= 4 * green[1:-1, 1:-1]
    values = laplacian.ravel().astype(np.float64)  # a sum of whole numbers is exact, whatever the order
    energy = float(values @ values) / values.size
    return energy / (energy + SHARP * 16)


def cover(xyxy: Floats) -> Floats:
    """Returns (N,): the largest share of each box that another box in front of it covers.

    A box is in front of another if its lower edge is lower in the frame.
    """
    if len(xyxy) < 2:
        return np.zeros(len(xyxy), np.float32)
    area = np.maximum((xyxy[:, 2:] - xyxy[:, :2]).prod(1), 1e-6)
    before = xyxy[None, :, 3] > xyxy[:, None, 3]
    result: Floats = np.where(before, intersections(xyxy, xyxy) / area[:, None], 0).max(1).astype(np.float32)
    return result


def encode_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Encode RGB (height, width, 3) as JPEG."""
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, format="JPEG", quality=JPEG_QUALITY)
        return file.getvalue()


def choose_samples(samples: Sequence[Sample], at_most: int) -> list[Sample]:
    """Choose at most ``at_most`` good samples that differ in time and appearance; in the order of time.

    The sample of the highest quality is chosen first. Then, one at a time, the one with the highest product of quality
    and novelty. Novelty is the cosine distance to the nearest chosen sample, plus the distance in time to the nearest
    chosen sample as a fraction of the track's length, plus 0.1.
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
