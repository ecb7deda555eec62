"""Simulate a day of 1,000 cameras: needed workers, delay of results, lost work, and sizes of the stored data.

    python benchmarks/city.py --out benchmarks/results/city-1000-cameras.json

Each camera writes a segment every five minutes into one queue; a free worker takes the oldest. The cost of a segment
comes from measured times on one core (decoding, YOLOX-Nano and C-BIoU per frame of 768 x 576; embedding a crop). Set
your own measurements with the options. There are few people at night and many in the rush hours. Workers die and
restart, a rack is down for half an hour in the morning, some segments take five times as long, and some always fail and
are set aside after three tries. The segment of a worker that dies goes back to the queue.
"""

import argparse
import heapq
import json
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

DAY_S = 86_400.0


@dataclass(frozen=True)
class City:
    """The cameras, costs and failures to simulate."""

    cameras: int = 1000
    segment_s: float = 300.0
    fps: float = 5.0
    decode_ms: float = 6.0
    detect_ms: float = 61.0
    track_ms: float = 1.5
    embed_ms: float = 2.9
    """Per crop, on one core."""
    people_peak: float = 8.0
    """People in view at the rush hours; a tenth of it at night."""
    stay_s: float = 20.0
    """How long a person is in view: one tracklet."""
    spread: float = 0.3
    """Standard deviation of the logarithm of a segment's time."""
    stragglers: float = 0.01
    """Share of segments that take five times as long."""
    always_fail: float = 1e-4
    """Share of segments that fail at every try."""
    worker_mtbf_s: float = 24 * 3600.0
    """Mean time between a worker's deaths."""
    worker_back_s: float = 60.0
    rack_share: float = 0.1
    """Share of workers that are down for half an hour from 08:00."""
    seed: int = 1


def people(city: City, time_s: np.ndarray) -> np.ndarray:
    """People in view by the time of day: two rush hours."""
    hour = time_s / 3600 % 24
    rush = (
        np.exp(-(((hour - 8.5) / 2) ** 2))
        + np.exp(-(((hour - 17.5) / 2.5) ** 2))
        + 0.35 * np.exp(-(((hour - 13) / 3) ** 2))
    )
    return city.people_peak * np.clip(0.1 + 0.9 * rush, 0, 1)


def simulate(city: City, workers: int) -> dict[str, Any]:
    """One day with this many workers, of one core each."""
    draw = np.random.default_rng(city.seed)
    per_camera = int(DAY_S // city.segment_s)
    phase = draw.uniform(0, city.segment_s, city.cameras)
    ends = (phase[:, None] + city.segment_s * np.arange(1, per_camera + 1)[None]).ravel()
    seen = people(city, ends - city.segment_s / 2)
    frames = city.segment_s * city.fps
    frame_s = (city.decode_ms + city.detect_ms + city.track_ms) / 1000
    cost = frames * frame_s + seen * city.segment_s * city.embed_ms / 1000  # one crop per second and person
    cost *= draw.lognormal(-(city.spread**2) / 2, city.spread, len(cost))
    cost[draw.random(len(cost)) < city.stragglers] *= 5
    fails = draw.random(len(cost)) < city.always_fail
    order = np.argsort(ends, kind="stable")

    queue: deque[int] = deque()
    free = list(range(workers))
    busy: dict[int, tuple[int, float]] = {}  # worker -> segment, start
    died: set[int] = set()
    events: list[tuple[float, int, str, int, int]] = []
    number = 0
    epoch = [0] * workers  # events from before a worker's restart are ignored

    def at(time_s: float, kind: str, which: int, life: int = 0) -> None:
        nonlocal number
        number += 1
        heapq.heappush(events, (time_s, number, kind, which, life))

    for segment in order.tolist():
        at(float(ends[segment]), "arrive", segment)
    for worker in range(workers):
        at(float(draw.exponential(city.worker_mtbf_s)), "die", worker)
    rack = range(int(workers * city.rack_share))
    for worker in rack:
        at(8 * 3600.0, "rack", worker)
    finished = np.full(len(ends), np.nan)
    tries = np.zeros(len(ends), int)
    worked = lost = 0.0
    longest, aside = 0, 0

    def lose(worker: int, time_s: float, back_s: float) -> None:
        nonlocal lost
        if worker in died:
            return
        died.add(worker)
        epoch[worker] += 1
        if worker in busy:
            segment, start = busy.pop(worker)
            lost += time_s - start
            queue.appendleft(segment)
        else:
            free.remove(worker)
        at(time_s + back_s, "back", worker)

    while events:
        time_s, _, kind, which, life = heapq.heappop(events)
        if kind == "arrive":
            queue.append(which)
        elif kind == "done":
            if life != epoch[which] or which not in busy:
                continue
            segment, start = busy.pop(which)
            free.append(which)
            tries[segment] += 1
            if not fails[segment]:
                worked += time_s - start
                finished[segment] = time_s
            else:
                lost += time_s - start
                if tries[segment] < 3:
                    queue.append(segment)
                else:
                    aside += 1
        elif kind == "die":
            lose(which, time_s, city.worker_back_s)
            if time_s < DAY_S:
                at(time_s + float(draw.exponential(city.worker_mtbf_s)), "die", which)
        elif kind == "rack":
            lose(which, time_s, 1800.0)
        elif kind == "back":
            died.discard(which)
            free.append(which)
        longest = max(longest, len(queue))
        while queue and free:
            worker, segment = free.pop(), queue.popleft()
            busy[worker] = (segment, time_s)
            at(time_s + float(cost[segment]), "done", worker, epoch[worker])
    done = ~np.isnan(finished)
    assert done.sum() + aside == len(ends), "every segment must be done once or set aside"
    assert aside == fails.sum()
    late = (finished - ends)[done]
    return {
        "workers": workers,
        "busy_share": round((worked + lost) / (workers * DAY_S), 3),
        "lost_share": round(lost / (worked + lost), 4),
        "set_aside": int(aside),
        "longest_queue": longest,
        "delay_minutes": {f"p{p}": round(float(np.percentile(late, p)) / 60, 1) for p in (50, 95, 99, 100)},
    }


def sizes(city: City) -> dict[str, Any]:
    """Segments, tracklets, storage and core hours of a day."""
    hours = np.arange(0, DAY_S, 60.0)
    seconds = float(people(city, hours).mean() * DAY_S * city.cameras)
    tracklets = seconds / city.stay_s
    row = 512 * 4 + 512 + 8 + 200  # vector, codes, scales, columns and source
    return {
        "segments": int(city.cameras * DAY_S // city.segment_s),
        "tracklets_million": round(tracklets / 1e6, 2),
        "gallery_gb": round(tracklets * row / 1e9, 1),
        "gallery_gb_per_million": round(1e6 * row / 1e9, 2),
        "postgres_gb_per_million": round(1e6 * 8192 / 3 / 1e9, 2),
        "core_hours": round(
            (
                city.cameras * DAY_S * city.fps * (city.decode_ms + city.detect_ms + city.track_ms)
                + seconds * city.embed_ms
            )
            / 3.6e6
        ),
    }


def main() -> None:
    """Simulate and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[360, 380, 400, 440, 500])
    for name, value in asdict(City()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    city = City(**{name: getattr(args, name) for name in asdict(City())})
    result = {"city": asdict(city), "sizes": sizes(city), "days": [simulate(city, n) for n in args.workers]}
    text = json.dumps(result, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
