"""Join and split tracks by motion and appearance, after any tracker.

1. Tracks are cut into pieces where the tracker may have switched people: where it lost a person, and where two boxes
   overlap.
2. For each pair (the end of one piece, and the start of another soon after) the log-likelihood ratio of "same person"
   against "two people" is computed. It is a sum of terms for motion (the distance from the predicted position), size,
   embeddings, and the tracker's own result. Over the border of the frame, people are not joined.
3. One assignment over all pairs chooses the joins with the highest sum. A pair below 0 is never joined.

The distributions are estimated from the footage itself, so they fit the weights and the camera. Prediction errors come
from simulated gaps in the pieces. Cosines of the same person come from within pieces, those of different people from
pieces that are visible at once. A few fixed observations are added, for footage that shows too few of its own.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from osnet.errors import require_extra
from osnet.video.crops import CROSSING_IOU, LOST_S, Sample
from osnet.video.protocols import Floats, Track

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Appearance:
    """Settings of ``refine``, chosen on TUD-Campus, TUD-Stadtmitte and generated footage (see docs/video.md)."""

    max_gap_s: float = 6.0
    """Longest time in seconds between two pieces that are joined."""
    max_overlap_s: float = 0.3
    """A piece may begin this many seconds before the first ends, because the last boxes of a lost track drift."""
    lost_s: float = LOST_S
    """A track is cut where it has no box for this many seconds."""
    crossing_iou: float = CROSSING_IOU
    """A track is also cut where the IoU with another box is highest, if it is at least this."""
    min_piece_s: float = 0.5
    """Cuts at overlaps leave pieces of at least this many seconds."""
    tracker_bonus: float = 3.0
    """In nats, for consecutive pieces of one track. Times ``exp(-gap_s)``: over a gap the tracker knows only motion."""
    exit_s: float = 1.0
    """An end is at the border of the frame if the box, at its velocity, touches the border within this many seconds."""
    join_returns: bool = False
    """True: a person who leaves the frame and comes back keeps the track; MOTChallenge counts two."""
    end_evidence: float = 1.0
    """In nats, for each end of a join. For the join if the end is inside the frame: people do not appear or disappear
    there, they are lost. Against it if the end is at the border: the person has probably left, or has just come. For
    consecutive pieces of one track both are added to ``tracker_bonus``, wherever the ends are."""
    max_evidence: float = 7.0
    """In nats: limit of the term for embeddings, on both sides."""
    fill_s: float = 6.0
    """Gaps up to this many seconds are filled with interpolated boxes."""
    use_vectors: bool = True
    """False: use motion and size only."""


@dataclass(frozen=True)
class _Piece:
    """A part of a track that is taken to show one person."""

    track: Track
    """The boxes; ``pieces`` has one entry."""
    samples: list[Sample]
    centres: Doubles
    """(R, 2): x of the centre and y of the feet in each frame, smoothed."""
    height: float
    """Median height in pixels."""

    @property
    def begin(self) -> float:
        return self.track.times_s[0]

    @property
    def end(self) -> float:
        return self.track.times_s[-1]

    def look(self, at_end: bool, count: int = 4) -> "_Look | None":
        """Appearance at one end, from the samples nearest to it."""
        return _average(self.samples[-count:] if at_end else self.samples[:count])


@dataclass(frozen=True)
class _Look:
    """The mean of some embeddings, weighted by quality."""

    vector: Floats
    """(D,), of length 1."""
    count: float
    """Effective number of embeddings: the square of the sum of weights, divided by the sum of their squares."""


@dataclass(frozen=True)
class Likelihoods:
    """Distributions that are estimated from the footage."""

    same: float
    """Mean cosine of two single crops of one person."""
    other: float
    """Mean cosine of two single crops of two people."""
    variance: float
    """Of cosines between means of crops, around their expected value."""
    spread_base: float
    spread_per_s: float
    """Prediction errors in heights: ``spread_base + spread_per_s * gap``."""

    def expected(self, single: float, count_a: float, count_b: float) -> float:
        """Expected cosine between the means of ``count_a`` and ``count_b`` crops.

        ``single`` is the expected cosine of two single crops. A mean of n unit vectors whose expected cosine is
        ``same`` has the squared length ``same + (1 - same) / n``, so cosines of means are higher than those of crops.
        """
        lengths = [math.sqrt(self.same + (1 - self.same) / count) for count in (count_a, count_b)]
        return single / (lengths[0] * lengths[1])

    def appearance(self, cosine: float, count_a: float = 1.0, count_b: float = 1.0) -> float:
        """Nats in favour of the same person, from the cosine of two means (normal distributions of one variance)."""
        same, other = (self.expected(single, count_a, count_b) for single in (self.same, self.other))
        return (cosine - (same + other) / 2) * (same - other) / self.variance

    def motion(self, error_px: float, gap_s: float, height_px: float, area_px: float) -> float:
        """Nats in favour of the same person, from a prediction error.

        Student's t with 4 degrees of freedom, against a uniform distribution over the frame.
        """
        sigma = height_px * (self.spread_base + self.spread_per_s * max(0.0, gap_s))
        density = (1 + (error_px / sigma) ** 2 / 4) ** -3 / (2 * math.pi * sigma**2)
        return math.log(max(density, 1e-300)) + math.log(area_px)


def refine(
    tracks: Sequence[Track], samples: dict[int, list[Sample]], settings: Appearance, size_wh: tuple[int, int]
) -> tuple[list[Track], dict[int, list[Sample]]]:
    """Join and split tracks.

    Args:
        tracks: of a tracker.
        samples: by the id of the track, in the order of time.
        settings: thresholds and weights.
        size_wh: width and height of the frames in pixels.

    Returns:
        The new tracks, numbered from 1 in the order of their starts, and their samples by id. ``pieces`` of a track
        says what it was joined from.
    """
    frame_s = _frame_length(tracks)
    lost_s = max(settings.lost_s, 1.5 * frame_s)
    tables = {track.id: (np.array(track.numbers), np.array(track.boxes)) for track in tracks}
    pieces = [p for track in tracks for p in _cut(track, samples.get(track.id, []), tables, settings, lost_s)]
    if not pieces:
        return [], {}
    known = learn(pieces)
    follows = _assign(pieces, known, settings, size_wh, lost_s)
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


_Tables = Mapping[int, tuple[NDArray[np.int64], Doubles]]
"""By the id of a track: its frame numbers (R,) and boxes (R, 4)."""


def _cut(track: Track, samples: list[Sample], tables: _Tables, settings: Appearance, lost_s: float) -> list[_Piece]:
    """Cut a track into pieces."""
    times, count = track.times_s, len(track)
    places = [i for i in range(1, count) if times[i] - times[i - 1] > lost_s]
    places += _crossings(track.id, tables, settings)
    bounds, last = [0], 0
    for place in sorted(set(places) - {0}):
        lost = times[place] - times[place - 1] > lost_s
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
    """Moving average over five frames."""
    if len(points) < 5:
        return points
    padded = np.pad(points, ((2, 2), (0, 0)), mode="edge")
    result: Doubles = np.mean([padded[i : i + len(points)] for i in range(5)], axis=0)
    return result


def _crossings(key: int, tables: _Tables, settings: Appearance) -> list[int]:
    """Indices of the frames of track ``key`` in which its box overlaps another's most."""
    found = []
    numbers, boxes = tables[key]
    for other, (others, their_boxes) in tables.items():
        if other == key or others[-1] < numbers[0] or others[0] > numbers[-1]:
            continue
        places = np.minimum(np.searchsorted(others, numbers), len(others) - 1)
        mine = np.flatnonzero(others[places] == numbers)
        if not len(mine):
            continue
        overlap = _row_iou(boxes[mine], their_boxes[places[mine]])
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


def _average(samples: Sequence[Sample]) -> _Look | None:
    if not samples:
        return None
    weights = np.array([sample.quality for sample in samples])
    total = np.sum([sample.quality * sample.vector for sample in samples], axis=0)
    length = float(np.linalg.norm(total))
    if length == 0:
        return None
    return _Look((total / length).astype(np.float32), float(weights.sum() ** 2 / (weights**2).sum()))


def learn(pieces: Sequence[_Piece]) -> Likelihoods:
    """Estimate the distributions; see the top of this file."""
    same_pairs, other_pairs = _alike(pieces), _together(pieces)
    # Eight fixed observations of each kind, typical of OSNet's embeddings.
    same = float(np.mean([*(_mean_cosine(a, b) for a, b in same_pairs), *([0.70] * 8)]))
    other = float(np.mean([*(_mean_cosine(a, b) for a, b in other_pairs), *([0.48] * 8)]))
    if same - other < 0.02:  # these embeddings do not separate people here
        other = same
    known = Likelihoods(same, other, 1.0, 0.0, 0.0)
    residuals = []
    for single, pairs in ((same, same_pairs), (other, other_pairs)):
        for group_a, group_b in pairs:
            a, b = _average(group_a), _average(group_b)
            if a is not None and b is not None:
                residuals.append(float(a.vector @ b.vector) - known.expected(single, a.count, b.count))
    variance = (float(np.sum(np.square(residuals))) + 16 * 0.1**2) / (len(residuals) + 16)
    gaps, errors = _prediction_errors(pieces)
    gaps, errors = [*gaps, *([0.5] * 10), *([3.0] * 10)], [*errors, *([0.15] * 10), *([0.6] * 10)]
    design = np.stack([np.ones(len(gaps)), np.array(gaps)], axis=1)
    base, per_s = np.linalg.lstsq(design, np.array(errors), rcond=None)[0]
    return Likelihoods(same, other, variance, max(0.06, float(base)), max(0.03, float(per_s)))


_Groups = tuple[Sequence[Sample], Sequence[Sample]]


def _alike(pieces: Sequence[_Piece]) -> list[_Groups]:
    """Samples of the first and of the second half of each piece, at most four of each."""
    found: list[_Groups] = []
    for piece in pieces:
        half = len(piece.samples) // 2
        if half:
            found.append((piece.samples[:half][-4:], piece.samples[-half:][:4]))
    return found


def _together(pieces: Sequence[_Piece]) -> list[_Groups]:
    """First samples of pieces of two tracks that were visible at once for half a second."""
    found: list[_Groups] = []
    for place, piece in enumerate(pieces):
        for later in pieces[place + 1 :]:
            both_s = min(piece.end, later.end) - max(piece.begin, later.begin)
            if later.track.id != piece.track.id and both_s >= 0.5 and piece.samples and later.samples:
                found.append((piece.samples[:4], later.samples[:4]))
    return found


def _mean_cosine(a: Sequence[Sample], b: Sequence[Sample]) -> float:
    """Mean cosine of single crops of two groups."""
    return float((np.stack([sample.vector for sample in a]) @ np.stack([sample.vector for sample in b]).T).mean())


def _prediction_errors(pieces: Sequence[_Piece]) -> tuple[list[float], list[float]]:
    """Gaps in seconds, and prediction errors in heights, for simulated gaps in the pieces."""
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
"""Position (2,) in pixels and velocity (2,) in pixels per second."""


def _state(times: Doubles, centres: Doubles, at_end: bool) -> _State:
    """Position and velocity at one end, from the frames within a second of it."""
    if at_end:
        near = slice(int(np.searchsorted(times, times[-1] - 1.0)), None)
    else:
        near = slice(int(np.searchsorted(times, times[0] + 1.0, "right")))
    t, p = times[near], centres[near]
    where = p[-1] if at_end else p[0]
    if len(t) < 3:
        return where, np.zeros(2)
    centred = t - t.mean()
    velocity = (centred[:, None] * (p - p.mean(0))).sum(0) / max(1e-9, float((centred**2).sum()))
    return where, velocity * min(1.0, (t[-1] - t[0]) / 0.5)


def _error(before: _State, after: _State, gap_s: float) -> float:
    """Distance in pixels after each of the two has moved for half of the gap at its own velocity."""
    gap = max(0.0, gap_s)
    difference = before[0] + before[1] * gap / 2 - (after[0] - after[1] * gap / 2)
    return float(np.linalg.norm(difference))


def _assign(
    pieces: Sequence[_Piece], known: Likelihoods, settings: Appearance, size_wh: tuple[int, int], lost_s: float
) -> dict[int, int]:
    """Choose which piece follows which."""
    optimize = require_extra("scipy.optimize", "video")
    count = len(pieces)
    states = [tuple(_state(np.array(p.track.times_s), p.centres, at_end) for at_end in (False, True)) for p in pieces]
    tails, heads = [p.look(True) for p in pieces], [p.look(False) for p in pieces]
    starts = np.array([p.begin for p in pieces])
    gain = np.full((count, count), -1e6)
    for i, first in enumerate(pieces):
        window = np.flatnonzero(
            (starts >= first.end - settings.max_overlap_s) & (starts <= first.end + settings.max_gap_s)
        )
        prior = -math.log(1 + len(window))
        leaves = _at_border(first.track.boxes[-1], states[i][1][1] * settings.exit_s, size_wh)
        for j in window.tolist():
            second = pieces[j]
            if i == j or second.end <= first.end:
                continue
            gap = second.begin - first.end
            enters = _at_border(second.track.boxes[0], -states[j][0][1] * settings.exit_s, size_wh)
            if leaves and enters and gap > lost_s and not settings.join_returns:
                continue
            height = (first.height + second.height) / 2
            total = prior + known.motion(
                _error(states[i][1], states[j][0], gap), gap, height, float(size_wh[0] * size_wh[1])
            )
            total -= min(8.0, (math.log(second.height / first.height) / 0.2) ** 2 / 2)
            tail, head = tails[i], heads[j]
            if settings.use_vectors and tail is not None and head is not None:
                evidence = known.appearance(float(tail.vector @ head.vector), tail.count, head.count)
                total += min(settings.max_evidence, max(-settings.max_evidence, evidence))
            consecutive = first.track.id == second.track.id and first.track.numbers[-1] < second.track.numbers[0]
            if consecutive:
                total += (settings.tracker_bonus + 2 * settings.end_evidence) * math.exp(-max(0.0, gap))
            else:
                for at_border in (leaves, enters):
                    total += -settings.end_evidence if at_border else settings.end_evidence
            gain[i, j] = total
    rows, columns = optimize.linear_sum_assignment(-np.concatenate([gain, np.zeros((count, count))], axis=1))
    return {int(i): int(j) for i, j in zip(rows, columns, strict=True) if j < count and gain[i, j] > 0}


def _at_border(box: tuple[float, float, float, float], ahead: Doubles, size_wh: tuple[int, int]) -> bool:
    """Whether a box reaches the border, now or after it has moved by ``ahead`` (2,) pixels."""
    left, top, right, bottom = box
    left, right = left + min(0.0, float(ahead[0])), right + max(0.0, float(ahead[0]))
    top, bottom = top + min(0.0, float(ahead[1])), bottom + max(0.0, float(ahead[1]))
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
    """Join pieces into one track, and fill short gaps."""
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
    """Add interpolated boxes for all frame numbers between the last frame of a track and frame ``number``."""
    first, begin, start = track.numbers[-1], track.times_s[-1], track.boxes[-1]
    for n in range(first + 1, number):
        share = (n - first) / (number - first)
        left, top, right, bottom = (a + share * (b - a) for a, b in zip(start, box, strict=True))
        track.append(n, round(begin + share * (time_s - begin), 6), (left, top, right, bottom), 0.0)
