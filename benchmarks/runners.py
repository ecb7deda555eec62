"""Overhead of a runner: work items that only wait, on 1, 2 and 4 workers. Waiting needs no core.

python benchmarks/runners.py --out benchmarks/results/runners.json
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from osnet.work import Runner, WorkList, run_work


def measure(runner: Runner, workers: int, count: int, seconds: float) -> dict[str, Any]:
    """Wall-clock seconds from start to end, with and without the start of the workers."""
    with tempfile.TemporaryDirectory() as folder:
        items = [{"label": f"item {n}", "seconds": seconds} for n in range(count)]
        work = WorkList.plan(Path(folder) / "work", "probe", {"rounds": 1}, items)
        ends: list[float] = []
        began = time.perf_counter()
        run_work(work, runner, workers=workers, on_done=lambda: ends.append(time.perf_counter()))
        total = time.perf_counter() - began
    ideal = count * seconds / workers
    steady = (ends[-1] - ends[workers - 1]) / (len(ends) - workers) * workers / seconds
    return {
        "workers": workers,
        "items_per_s": round(count / total, 2),
        "ideal_items_per_s": round(count / ideal, 2),
        "lost_share_with_start": round(1 - ideal / total, 3),
        "lost_share_after_start": round(max(0.0, 1 - 1 / steady), 3),
    }


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runner", default="local")
    parser.add_argument("--count", type=int, default=80)
    parser.add_argument("--seconds", type=float, default=0.25)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = [measure(args.runner, workers, args.count, args.seconds) for workers in (1, 2, 4)]
    result = {"runner": args.runner, "items": args.count, "seconds_of_an_item": args.seconds, "rows": rows}
    text = json.dumps(result, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
