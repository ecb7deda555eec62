"""Appearance after tracking, for any tracker: vectors join what it broke apart, and cut apart what it mixed up.

1. Tracks are cut into pieces wherever a tracker may have gone wrong: where it lost somebody, and where two boxes cover
   each other.
2. Each pair (end of one piece, start of another, soon after) gets a log-likelihood ratio: the same person against two.
   It is the sum of what motion says (how far from where the person was heading), what size says, and what the vectors
   say, and a bonus if the tracker says so too.
3. One assignment over all pairs takes the best set of joins; what stays below 0 is not joined.

What is likely is learnt from the footage itself, so it suits any weights and any camera: pieces are interrupted on
paper to see how far predictions go wrong and how alike one person's crops are; people seen at once are different.
A few made-up observations stand in where the footage shows too few.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from osnet.errors import require_extra
from osnet.video.crops import Sample
from osnet.video.protocols import Floats, Track

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Appearance:
    """Settings of ``refine``. Chosen on TUD-Campus, TUD-Stadtmitte and generated footage (docs/video.md)."""

    max_gap_s: float = 6.0
    """Longest time between the two pieces of a join."""
    max_overlap_s: float = 0.3
    """The second piece may begin so long before the first ends: a tracker's last boxes drift."""
    lost_s: float = 0.45
    """A track is cut where it was not seen for so long."""
    crossing_iou: float = 0.35
    """And where its box overlaps another so much."""
    min_piece_s: float = 0.5
    """But not into pieces shorter than this."""
    tracker_bonus: float = 3.0
    """In nats: how far a tracker's own opinion is believed."""
    exit_penalty: float = 2.0
    """In nats: who is last seen at the frame's border has probably left."""
    max_evidence: float = 3.0
    """In nats: the vectors count no more than this, for or against."""
    fill_s: float = 4.0
    """Gaps up to this are filled with interpolated boxes."""
    use_vectors: bool = True
    """False: motion and size alone."""


@dataclass(frozen=True)
class _Piece:
    """An uninterrupted part of a track."""

    track: Track
    """With ``pieces`` of one entry: the tracker's id and its frames."""
    samples: list[Sample]
    centres: Doubles
    """(R, 2): x of the middle, y of the feet; smoothed."""
    height: float
    """Median, in pixels."""

    @property
    def begin(self) -> float:
        return self.track.times_s[0]

    @property
    def end(self) -> float:
        return self.track.times_s[-1]

    def vector(self, at_end: bool, count: int = 4) -> Floats | None:
        """Mean of the samples nearest to one end, weighted by quality."""
        chosen = self.samples[-count:] if at_end else self.samples[:count]
        return _weighted(chosen)


@dataclass(frozen=True)
class Likelihoods:
    """What is likely in this footage."""

    same_mean: float
    other_mean: float
    variance: float
    """Of cosines between two groups of crops, of one person and of two."""
    spread_base: float
    spread_per_s: float
    """Prediction errors, in heights: ``base + per_s * gap``."""

    def appearance(self, cosine: float) -> float:
        """Nats for the same person, from a cosine (normal distributions of one variance)."""
        middle = (self.same_mean + self.other_mean) / 2
        return (cosine - middle) * (self.same_mean - self.other_mean) / self.variance

    def motion(self, error_px: float, gap_s: float, height_px: float, area_px: float) -> float:
        """Nats for the same person, from an error: Student's t (4 degrees of freedom) against anywhere in the frame."""
        sigma = height_px * (self.spread_base + self.spread_per_s * max(0.0, gap_s))
        density = (1 + (error_px / sigma) ** 2 / 4) ** -3 / (2 * math.pi * sigma**2)
        return math.log(max(density, 1e-300)) + math.log(area_px)


def refine(
    tracks: Sequence[Track], samples: dict[int, list[Sample]], settings: Appearance, size_wh: tuple[int, int]
) -> tuple[list[Track], dict[int, list[Sample]]]:
    """Better tracks, and the samples of each.

    Args:
        tracks: as a tracker gave them.
        samples: of each, by its id, in the order of time.
        settings: how bold to be.
        size_wh: of the frames.

    Returns:
        Tracks numbered from 1 in the order of their beginnings; ``pieces`` says what each was made of.
    """
    frame_s = _frame_length(tracks)
    pieces = [p for track in tracks for p in _cut(track, samples.get(track.id, []), tracks, settings)]
    if not pieces:
        return [], {}
    known = learn(pieces, settings)
    follows = _assign(pieces, known, settings, size_wh)
    chains = _chains(len(pieces), follows)
    joined = [_join([pieces[i] for i in chain], settings, frame_s) for chain in chains]
    joined.sort(key=lambda one: (one[0].times_s[0], one[0].boxes[0]))
    result, kept = [], {}
    for number, (track, own) in enumerate(joined, 1):
        result.append(replace(track, id=number))
        kept[number] = own
    return result, kept


def _frame_length(tracks: Sequence[Track]) -> float:
    steps = [b - a for track in tracks for a, b in pairwise(track.times_s)]
    return float(np.median(steps)) if steps else 0.1


def _cut(track: Track, samples: list[Sample], tracks: Sequence[Track], settings: Appearance) -> list[_Piece]:
    """A track in pieces."""
    times, count = track.times_s, len(track)
    places = [i for i in range(1, count) if times[i] - times[i - 1] > settings.lost_s]
    places += _crossings(track, tracks, settings)
    bounds, last = [0], 0
    for place in sorted(set(places) - {0}):
        lost = times[place] - times[place - 1] > settings.lost_s
        long_enough = min(times[place - 1] - times[last], times[-1] - times[place]) >= settings.min_piece_s
        if lost or long_enough:
            bounds.append(place)
            last = place
    bounds.append(count)
    return [_piece(track, samples, a, b) for a, b in pairwise(bounds)]


def _piece(track: Track, samples: list[Sample], first: int, last: int) -> _Piece:
    part = Track(
        track.id,
        track.numbers[first:last],
        track.times_s[first:last],
        track.boxes[first:last],
        track.scores[first:last],
    )
    part.pieces = [(track.id, part.numbers[0], part.numbers[-1])]
    own = [s for s in samples if part.numbers[0] <= s.number <= part.numbers[-1]]
    boxes = np.array(part.boxes, np.float64)
    centres = np.stack([(boxes[:, 0] + boxes[:, 2]) / 2, boxes[:, 3]], axis=1)
    return _Piece(part, own, _smoothed(centres), float(np.median(boxes[:, 3] - boxes[:, 1])))


def _smoothed(points: Doubles) -> Doubles:
    """Mean over five frames."""
    if len(points) < 5:
        return points
    padded = np.pad(points, ((2, 2), (0, 0)), mode="edge")
    result: Doubles = np.mean([padded[i : i + len(points)] for i in range(5)], axis=0)
    return result


def _crossings(track: Track, tracks: Sequence[Track], settings: Appearance) -> list[int]:
    """Places in ``track`` where its box overlaps another's most."""
    found = []
    boxes, numbers = np.array(track.boxes), np.array(track.numbers)
    for other in tracks:
        if other.id == track.id or other.numbers[-1] < numbers[0] or other.numbers[0] > numbers[-1]:
            continue
        _, mine, theirs = np.intersect1d(numbers, np.array(other.numbers), assume_unique=True, return_indices=True)
        if not len(mine):
            continue
        overlap = _row_iou(boxes[mine], np.array(other.boxes)[theirs])
        close = np.flatnonzero(overlap >= settings.crossing_iou)
        for run in np.split(close, np.flatnonzero(np.diff(close) > 5) + 1):
            if len(run):
                found.append(int(mine[run[np.argmax(overlap[run])]]))
    return found


def _row_iou(a: Doubles, b: Doubles) -> Doubles:
    inside = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - inside
    result: Doubles = inside / np.maximum(union, 1e-9)
    return result


def _weighted(samples: Sequence[Sample]) -> Floats | None:
    if not samples:
        return None
    total = np.sum([s.quality * s.vector for s in samples], axis=0)
    length = float(np.linalg.norm(total))
    return (total / length).astype(np.float32) if length > 0 else None


def learn(pieces: Sequence[_Piece], settings: Appearance) -> Likelihoods:
    """What is likely here; see the top of this file."""
    same, other = _cosines(pieces)
    # Eight made-up observations of each kind, for footage that shows few: typical of OSNet's vectors.
    same_all, other_all = [*same, *([0.80] * 8)], [*other, *([0.55] * 8)]
    same_mean, other_mean = float(np.mean(same_all)), float(np.mean(other_all))
    spread = [(c - same_mean) ** 2 for c in same_all] + [(c - other_mean) ** 2 for c in other_all]
    variance = (float(np.sum(spread)) + 16 * 0.1**2) / (len(spread) + 16)
    if same_mean - other_mean < 0.02:  # these vectors say nothing here
        other_mean = same_mean
    gaps, errors = _prediction_errors(pieces)
    gaps, errors = [*gaps, *([0.5] * 10), *([3.0] * 10)], [*errors, *([0.15] * 10), *([0.6] * 10)]
    design = np.stack([np.ones(len(gaps)), np.array(gaps)], axis=1)
    base, per_s = np.linalg.lstsq(design, np.array(errors), rcond=None)[0]
    return Likelihoods(same_mean, other_mean, variance, max(0.06, float(base)), max(0.03, float(per_s)))


def _cosines(pieces: Sequence[_Piece]) -> tuple[list[float], list[float]]:
    """Between the two halves of one piece, and between pieces that are seen at once."""
    same, other = [], []
    for place, piece in enumerate(pieces):
        if len(piece.samples) >= 4:
            half = len(piece.samples) // 2
            first, second = _weighted(piece.samples[:half][-4:]), _weighted(piece.samples[half + (half > 2) :][:4])
            if first is not None and second is not None:
                same.append(float(first @ second))
        for later in pieces[place + 1 :]:
            if later.track.id == piece.track.id or min(piece.end, later.end) - max(piece.begin, later.begin) < 0.5:
                continue
            a, b = _weighted(piece.samples[:4]), _weighted(later.samples[:4])
            if a is not None and b is not None:
                other.append(float(a @ b))
    return same, other


def _prediction_errors(pieces: Sequence[_Piece]) -> tuple[list[float], list[float]]:
    """Gaps in seconds and errors in heights, of pieces that are interrupted on paper."""
    gaps: list[float] = []
    errors: list[float] = []
    for piece in pieces:
        times = np.array(piece.track.times_s)
        for gap in (0.5, 1.0, 2.0, 4.0):
            start = piece.begin + 1.0
            while start + gap + 0.5 <= piece.end:
                a, b = int(np.searchsorted(times, start)), int(np.searchsorted(times, start + gap))
                if 2 <= a < b < len(times) - 2:
                    before = _state(times[: a + 1], piece.centres[: a + 1], at_end=True)
                    after = _state(times[b:], piece.centres[b:], at_end=False)
                    gaps.append(float(times[b] - times[a]))
                    errors.append(_error(before, after, gaps[-1]) / piece.height)
                start += max(1.0, gap)
    return gaps, errors


_State = tuple[Doubles, Doubles]
"""Where, and how fast: (2,) pixels, (2,) pixels a second."""


def _state(times: Doubles, centres: Doubles, at_end: bool) -> _State:
    """Position and velocity at an end, from the second next to it."""
    near = times >= times[-1] - 1.0 if at_end else times <= times[0] + 1.0
    t, p = times[near], centres[near]
    where = p[-1] if at_end else p[0]
    if len(t) < 3:
        return where, np.zeros(2)
    centred = t - t.mean()
    velocity = (centred[:, None] * (p - p.mean(0))).sum(0) / max(1e-9, float((centred**2).sum()))
    return where, velocity * min(1.0, (t[-1] - t[0]) / 0.5)


def _error(before: _State, after: _State, gap_s: float) -> float:
    """How far apart the two are, each moved half of the way by its own velocity."""
    gap = max(0.0, gap_s)
    difference = before[0] + before[1] * gap / 2 - (after[0] - after[1] * gap / 2)
    return float(np.linalg.norm(difference))


def _assign(
    pieces: Sequence[_Piece], known: Likelihoods, settings: Appearance, size_wh: tuple[int, int]
) -> dict[int, int]:
    """Which piece follows which."""
    optimize = require_extra("scipy.optimize", "video")
    count = len(pieces)
    states = [tuple(_state(np.array(p.track.times_s), p.centres, at_end) for at_end in (False, True)) for p in pieces]
    tails, heads = [p.vector(True) for p in pieces], [p.vector(False) for p in pieces]
    starts = np.array([p.begin for p in pieces])
    gain = np.full((count, count), -1e6)
    for i, first in enumerate(pieces):
        window = np.flatnonzero(
            (starts >= first.end - settings.max_overlap_s) & (starts <= first.end + settings.max_gap_s)
        )
        prior = -math.log(1 + len(window))
        leaving = settings.exit_penalty if _at_border(first, size_wh) else 0.0
        for j in window.tolist():
            second = pieces[j]
            if i == j or second.end <= first.end:
                continue
            gap = second.begin - first.end
            height = (first.height + second.height) / 2
            total = prior + known.motion(
                _error(states[i][1], states[j][0], gap), gap, height, float(size_wh[0] * size_wh[1])
            )
            total -= min(8.0, (math.log(second.height / first.height) / 0.2) ** 2 / 2)
            tail, head = tails[i], heads[j]
            if settings.use_vectors and tail is not None and head is not None:
                evidence = known.appearance(float(tail @ head))
                total += min(settings.max_evidence, max(-settings.max_evidence, evidence))
            consecutive = first.track.id == second.track.id and first.track.numbers[-1] < second.track.numbers[0]
            total += settings.tracker_bonus if consecutive else -leaving
            gain[i, j] = total
    rows, columns = optimize.linear_sum_assignment(-np.concatenate([gain, np.zeros((count, count))], axis=1))
    return {int(i): int(j) for i, j in zip(rows, columns, strict=True) if j < count and gain[i, j] > 0}


def _at_border(piece: _Piece, size_wh: tuple[int, int]) -> bool:
    left, top, right, bottom = piece.track.boxes[-1]
    margin = 0.01 * max(size_wh)
    return left < margin or top < margin or right > size_wh[0] - margin or bottom > size_wh[1] - margin


def _chains(count: int, follows: dict[int, int]) -> list[list[int]]:
    later = set(follows.values())
    chains = []
    for start in range(count):
        if start not in later:
            chain = [start]
            while chain[-1] in follows:
                chain.append(follows[chain[-1]])
            chains.append(chain)
    return chains


def _join(pieces: list[_Piece], settings: Appearance, frame_s: float) -> tuple[Track, list[Sample]]:
    """One track of several pieces, with short gaps filled."""
    whole = Track(pieces[0].track.id)
    for piece in pieces:
        for number, time_s, box, score in piece.track.rows():
            if not whole.numbers or number > whole.numbers[-1]:
                if whole.numbers and 1.5 * frame_s < time_s - whole.times_s[-1] <= settings.fill_s:
                    _fill(whole, number, time_s, box)
                whole.append(number, time_s, box, score)
        if whole.pieces and whole.pieces[-1][0] == piece.track.id:
            key, first, _ = whole.pieces.pop()
            whole.pieces.append((key, first, piece.track.numbers[-1]))
        else:
            whole.pieces += piece.track.pieces
    return whole, sorted((s for piece in pieces for s in piece.samples), key=lambda s: s.number)


def _fill(track: Track, number: int, time_s: float, box: tuple[float, float, float, float]) -> None:
    """Interpolated boxes between a track's last frame and the next; as many as there are frame numbers."""
    first, begin, start = track.numbers[-1], track.times_s[-1], track.boxes[-1]
    for n in range(first + 1, number):
        share = (n - first) / (number - first)
        left, top, right, bottom = (a + share * (b - a) for a, b in zip(start, box, strict=True))
        track.append(n, round(begin + share * (time_s - begin), 6), (left, top, right, bottom), 0.0)
