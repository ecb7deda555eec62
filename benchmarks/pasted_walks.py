"""Footage to choose the settings of `osnet.video.appearance` on: crops of real people that walk over a plain ground.

    python benchmarks/pasted_walks.py --market Market-1501-v15.09.15 --weights osnet_x0_25_msmt17.pth \\
        --out benchmarks/results/pasted-walks.json [--seeds 8] [--change exit_s=0.5 end_evidence=2]

People enter at a border, walk by way-points, pause, walk in pairs, pass behind a post, leave at a border, and may come
back some seconds later. Their pixels are crops of one tracklet of a training identity of Market-1501, so embeddings
vary as they do between real frames. As in MOTChallenge, a person who has left the frame and comes back has a new id.

Boxes: "truth"; "holes", without random passages of 1 to 5 s, one for every 100 frames of a person; and "detector",
which misses people who are covered, misses others for some frames, and whose boxes are noisy. The test is another
footage (`benchmarks/tracking.py`), so figures of this one only serve to choose. Nothing is written but scores.
"""

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from osnet import Embedder
from osnet.files import write_json
from osnet.video.appearance import Appearance, refine
from osnet.video.crops import Collector, Sample, cover
from osnet.video.detectors import iou
from osnet.video.motfile import write_mot
from osnet.video.protocols import Boxes, Track, VideoFrame
from osnet.video.tracking import make_tracker

sys.path.insert(0, str(Path(__file__).resolve().parent))
from tracking import score

WIDTH, HEIGHT, FPS, SECONDS = 768, 576, 10.0, 60
POST = (470, 150, 520, 480)
"""What people pass behind: left, top, right, bottom."""
KINDS = ("truth", "holes", "detector")
TRACKERS = ("cbiou", "bytetrack")


@dataclass
class Walk:
    """One visit of a person."""

    id: int
    first: int
    feet: list[tuple[float, float]] = field(default_factory=list)
    """x and y of the feet by frame, from ``first`` on."""
    crops: list[Path] = field(default_factory=list)
    share: float = 0.5
    """The person has a box from when this share of them is in the frame, ..."""
    late: int = 0
    """... some frames later, and until some frames earlier."""


def height_at(y: float) -> float:
    """Height in pixels of a person whose feet are at ``y``: 55 far away, 150 in front."""
    return 55 + 95 * (y - 180) / 380


def tracklets(market: Path) -> list[list[list[Path]]]:
    """By training identity, the tracklets with at least four crops, each in the order of time."""
    found: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted((market / "bounding_box_train").glob("*.jpg")):
        person, place = path.name.split("_")[:2]
        found[person][place].append(path)
    return [long for each in found.values() if (long := [group for group in each.values() if len(group) >= 4])]


def border_point(rng: np.random.Generator) -> tuple[float, float]:
    """A point just outside the frame."""
    y = float(rng.uniform(200, 560))
    return [(-40.0, y), (WIDTH + 40.0, y), (float(rng.uniform(100, WIDTH - 100)), HEIGHT + 160.0)][int(rng.integers(3))]


def path_of(rng: np.random.Generator) -> list[tuple[float, float]]:
    """Positions of the feet by frame, from one border point to another."""
    inside = [(float(rng.uniform(60, WIDTH - 60)), float(rng.uniform(190, 560))) for _ in range(rng.integers(1, 5))]
    points, speed = [border_point(rng), *inside, border_point(rng)], rng.uniform(0.55, 0.95)
    here, feet = np.array(points[0]), []
    for place, target in enumerate(points[1:]):
        while (far := np.hypot(*(np.array(target) - here))) > 6:
            step = min(far, speed * height_at(min(here[1], 560)) / FPS)
            here = here + (np.array(target) - here) / far * step
            feet.append((float(here[0]), float(here[1])))
        if place < len(points) - 2 and rng.random() < 0.3:
            feet += [feet[-1]] * int(rng.uniform(1, 4) * FPS)
    return feet


def walks_of(seed: int, people: list[list[list[Path]]]) -> list[Walk]:
    """All visits of one piece of footage."""
    rng = np.random.default_rng(seed)
    walks: list[Walk] = []
    for person in rng.permutation(len(people))[:14].tolist():
        first = int(rng.uniform(-10, SECONDS - 5) * FPS)
        groups = people[person]
        path = path_of(rng)
        if walks and rng.random() < 0.25:  # beside the one before
            other = walks[-1]
            first, path = other.first, [(x + 0.5 * height_at(min(y, 560)), y - 4) for x, y in other.feet]
        while first < SECONDS * FPS:
            crops = groups[int(rng.integers(len(groups)))]
            share, late = float(rng.choice([0.5, 0.75, 1.0])), int(rng.integers(5))
            walks.append(Walk(len(walks) + 1, first, path, crops, share, late))
            if rng.random() > 0.4:
                break
            first += len(path) + int(rng.uniform(1, 6) * FPS)
            back = path_of(rng)  # people come back near where they left
            start = np.array(path[-1]) + rng.normal(0, 20, 2)
            path = _from(start, back)
    return walks


def _from(start: np.ndarray, path: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same path, whose beginning is bent to another start."""
    shift, fade = start - np.array(path[0]), max(1, len(path) // 2)
    return [
        (x + shift[0] * max(0.0, 1 - i / fade), y + shift[1] * max(0.0, 1 - i / fade)) for i, (x, y) in enumerate(path)
    ]


def _boxes(feet: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """The box of a person, and its part inside the frame."""
    (x, y), tall = feet, height_at(min(feet[1], 560))
    box = np.array([x - tall / 5, y - tall, x + tall / 5, y])
    return box, np.clip(box, 0, [WIDTH, HEIGHT, WIDTH, HEIGHT])


def _share(walk: Walk, place: int) -> float:
    """Share of a person that is inside the frame."""
    box, inside = _boxes(walk.feet[min(max(0, place), len(walk.feet) - 1)])
    return float(np.prod(inside[2:] - inside[:2]) / np.prod(box[2:] - box[:2]))


@dataclass
class Scene:
    """What is seen in one frame."""

    image: np.ndarray
    ids: np.ndarray
    boxes: np.ndarray
    visible: np.ndarray


def scenes(seed: int, people: list[list[list[Path]]]) -> Iterator[Scene]:
    """Paint the frames."""
    rng = np.random.default_rng(seed + 1000)
    walks = walks_of(seed, people)
    ground = np.clip(rng.normal(120, 6, (HEIGHT, WIDTH, 1)) + rng.normal(0, 3, (HEIGHT, WIDTH, 3)), 0, 255)
    ground = ground.astype(np.uint8)
    shots: dict[Path, Image.Image] = {}
    for number in range(round(SECONDS * FPS)):
        image, rows = ground.copy(), []
        for walk in sorted(walks, key=lambda w: w.feet[min(max(0, number - w.first), len(w.feet) - 1)][1]):
            place = number - walk.first
            if not 0 <= place < len(walk.feet):
                continue
            box, inside = _boxes(walk.feet[place])
            if _share(walk, place) <= 0.05:
                continue
            path = walk.crops[int(place / FPS / 0.6) % len(walk.crops)]
            if path not in shots:
                with Image.open(path) as opened:
                    shots[path] = opened.convert("RGB")
            left, top, right, bottom = (round(v) for v in box)
            pixels = np.asarray(shots[path].resize((max(1, right - left), max(1, bottom - top))))
            a, b, c, d = max(0, left), max(0, top), min(WIDTH, right), min(HEIGHT, bottom)
            image[b:d, a:c] = pixels[b - top : d - top, a - left : c - left]
            if _share(walk, place - walk.late) >= walk.share <= _share(walk, place + walk.late):
                rows.append((walk.id, inside))
        left, top, right, bottom = POST
        image[top:bottom, left:right] = (60, 110, 90)
        boxes = np.array([box for _, box in rows]).reshape(-1, 4).astype(np.float32)
        hidden = cover(boxes)
        for place, box in enumerate(boxes):  # the post is in front of people whose feet are behind it
            wide = max(0.0, min(box[2], right) - max(box[0], left)) / (box[2] - box[0])
            if box[3] < bottom:
                hidden[place] = max(hidden[place], wide)
        yield Scene(image, np.array([key for key, _ in rows], int), boxes, 1 - hidden)


class Noise:
    """Boxes of the three kinds."""

    def __init__(self, seed: int, spans: dict[int, list[int]]) -> None:
        self._rng = np.random.default_rng(seed + 2000)
        self._state: dict[int, np.ndarray] = {}
        self._holes: dict[int, set[int]] = {}
        for key, numbers in spans.items():
            self._holes[key] = set()
            for _ in range(max(1, round(len(numbers) / 100))):
                first = int(self._rng.choice(numbers))
                self._holes[key] |= set(range(first, first + int(self._rng.uniform(1, 5) * FPS)))

    def boxes(self, kind: str, number: int, scene: Scene) -> Boxes:
        """The boxes that the tracker gets."""
        if kind != "detector":
            keep = [i for i, k in enumerate(scene.ids.tolist()) if kind == "truth" or number not in self._holes[k]]
            return Boxes(scene.boxes[keep], np.full(len(keep), 0.9, np.float32))
        found: list[np.ndarray] = []
        scores: list[float] = []
        for key, box, visible in zip(scene.ids.tolist(), scene.boxes, scene.visible.tolist(), strict=True):
            before = self._state.get(key, self._rng.normal(0, 1, 6))
            state = self._state[key] = 0.85 * before + 0.527 * self._rng.normal(0, 1, 6)
            if visible + 0.12 * state[0] < 0.45 or state[1] < -1.9:
                continue
            wide, tall = box[2] - box[0], box[3] - box[1]
            moved = box + np.array([wide, tall, wide, tall]) * 0.03 * state[2:6]
            found.append(np.clip(moved, 0, [WIDTH, HEIGHT, WIDTH, HEIGHT]))
            scores.append(float(np.clip(0.15 + 0.65 * visible + 0.08 * state[0], 0.2, 0.95)))
        if self._rng.random() < 0.03:
            x, y = self._rng.uniform(0, WIDTH - 60), self._rng.uniform(190, 560)
            found.append(np.array([x, y - height_at(y), x + 0.4 * height_at(y), y]))
            scores.append(float(self._rng.uniform(0.2, 0.4)))
        boxes, order = np.array(found).reshape(-1, 4).astype(np.float32), np.argsort(scores)[::-1]
        kept: list[int] = []
        for place in order.tolist():
            if not kept or float(iou(boxes[[place]], boxes[kept]).max()) < 0.5:
                kept.append(place)
        return Boxes(boxes[kept], np.array(scores, np.float32)[kept])


Followed = dict[tuple[str, str], tuple[list[Track], dict[int, list[Sample]]]]


def follow(seed: int, people: list[list[list[Path]]], embedder: Embedder, truth: Path) -> Followed:
    """Tracks and samples by kind of boxes and tracker; writes the true tracks."""
    spans: dict[int, list[int]] = defaultdict(list)
    lines = []
    for number, scene in enumerate(scenes(seed, people), 1):
        for key, (left, top, right, bottom) in zip(scene.ids.tolist(), scene.boxes.tolist(), strict=True):
            spans[key].append(number)
            lines.append(f"{number},{key},{left:.2f},{top:.2f},{right - left:.2f},{bottom - top:.2f},1,1,1\n")
    truth.write_text("".join(lines))
    runs = {}
    for kind in KINDS:
        for tracker in TRACKERS:
            follower = make_tracker(tracker)
            follower.reset(FPS)
            runs[kind, tracker] = (follower, Collector(embedder))
    noise = Noise(seed, spans)
    for number, scene in enumerate(scenes(seed, people), 1):
        frame = VideoFrame(scene.image, number / FPS, number)
        for kind in KINDS:
            boxes = noise.boxes(kind, number, scene)
            for tracker in TRACKERS:
                follower, collector = runs[kind, tracker]
                collector.add(frame, boxes, follower.update(boxes, frame))
    return {key: collector.finish() for key, (_, collector) in runs.items()}


def mean_scores(followed: list[tuple[Path, Followed]], settings: Appearance | None) -> dict[str, Any]:
    """HOTA, IDF1 and MOTA by kind and tracker: the mean over the footage."""
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tracks.txt"
        for kind in KINDS:
            for tracker in TRACKERS:
                rows = []
                for truth, all_tracks in followed:
                    tracks, samples = all_tracks[kind, tracker]
                    if settings is not None:
                        tracks = refine(tracks, samples, settings, (WIDTH, HEIGHT))[0]
                    write_mot(file, tracks)
                    rows.append(score(truth, file))
                result[f"{kind}, {tracker}"] = {m: round(float(np.mean([r[m] for r in rows])), 1) for m in rows[0]}
    return result


def markdown(report: dict[str, Any]) -> str:
    """A table: IDF1 / MOTA."""
    kinds = list(next(iter(report["rows"].values())))
    lines = [["IDF1 / MOTA", *kinds], ["---"] * (1 + len(kinds))]
    for name, cells in report["rows"].items():
        shown = name.replace("=", " ") if "=" in name else name
        lines.append([shown, *(f"{cells[kind]['IDF1']:.1f} / {cells[kind]['MOTA']:.1f}" for kind in kinds)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--market", type=Path, required=True, help="Market-1501; only training people are used")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument(
        "--change", nargs="*", default=[], metavar="NAME=VALUE", help="a further row for each: this setting changed"
    )
    given = parser.parse_args()
    people, embedder = tracklets(given.market), Embedder(given.weights, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        followed = []
        for seed in range(given.seeds):
            truth = Path(folder) / f"{seed}.txt"
            followed.append((truth, follow(seed, people, embedder, truth)))
            print(f"footage {seed + 1} of {given.seeds}", flush=True)
        variants: dict[str, Appearance | None] = {
            "tracker alone": None,
            "motion only": Appearance(use_vectors=False),
            "motion and embeddings": Appearance(),
            "returns joined": Appearance(join_returns=True),
        }
        for change in given.change:
            name, value = change.split("=")
            variants[change] = replace(Appearance(), **{name: float(value)})
        rows = {name: mean_scores(followed, settings) for name, settings in variants.items()}
    facts = {
        "weights": given.weights.name,
        "footage": f"{given.seeds} x {SECONDS} s",
        "people": "Market-1501, training",
    }
    write_json(given.out, {"facts": facts, "rows": rows})
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
