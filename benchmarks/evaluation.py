"""Scoring compared with torchreid's, measured in turn: time, memory, and equal scores.

Vectors are random: a point per person, with noise. Each measurement runs in a new process, which loads the vectors,
warms up on a few (ours compiles then), and measures the time from vectors to scores, with distances, on both sides.
Memory is the process's peak above its use after loading; its curve is stored too. Wall-clock seconds need an idle
machine (ours uses every core, torchreid's ranking one). The report also has processor seconds, which other work affects
less, and the machine's load.

torchreid needs a separate environment (see tests/fixtures/make_torchreid_outputs.py); without its Python, only ours
is measured. torchreid's Cython module is not in PyPI's 0.2.5, but in the authors' repository
(torchreid/metrics/rank_cylib), from which it can be built as torchreid.reid.metrics.rank_cylib.

    python benchmarks/evaluation.py --peer peer/bin/python --out benchmarks/results/evaluation-cpu.json
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SIZES = {"market1501": (3368, 15913, 750), "msmt17": (11659, 82161, 3060), "million": (3368, 1_000_000, 50_000)}
"""Queries, gallery, people."""
PEER_FITS = ("market1501",)
"""At MSMT17's size torchreid needs about 27 GB, for two complete matrices in 64 bits."""
NUM_CAMERAS = 6
NOISE = 2.2


@dataclass(frozen=True)
class Settings:
    """Sizes, rounds and the environment with torchreid."""

    peer: Path | None = None
    """The Python of an environment with torchreid 0.2.5."""
    sizes: tuple[str, ...] = ("market1501", "msmt17", "million")
    rounds: int = 3
    """Rounds of ours and of torchreid's Cython path; its Python path runs only in the first."""
    dimensions: int = 512
    distance: str = "cosine"
    out: Path | None = None
    """Write the result here as JSON."""


def draw(folder: Path, size: str, dimensions: int) -> None:
    num_queries, num_gallery, num_people = SIZES[size]
    rng = np.random.default_rng(0)
    people = rng.standard_normal((num_people + 1, dimensions), dtype=np.float32)
    for part, count in (("query", num_queries), ("gallery", num_gallery)):
        pids = rng.integers(1, num_people + 1, count)
        vectors = np.lib.format.open_memmap(folder / f"{part}.npy", "w+", np.float32, (count, dimensions))
        for start in range(0, count, 50_000):
            some = pids[start : start + 50_000]
            noise = rng.standard_normal((len(some), dimensions), dtype=np.float32)
            vectors[start : start + 50_000] = people[some] + np.float32(NOISE) * noise
        vectors.flush()
        np.save(folder / f"{part}-pids.npy", pids)
        np.save(folder / f"{part}-camids.npy", rng.integers(1, NUM_CAMERAS + 1, count))


# The measurement of one side, in a new process that imports only what it measures.


def ours(distance: str) -> Callable[..., dict[str, float]]:
    from osnet.metrics.ranking import rank_scores

    def score(*arrays: Any) -> dict[str, float]:
        scores = rank_scores(*arrays, distance=distance)
        return {"mAP": scores.mean_ap, "rank-1": scores.rank(1)}

    return score


def peer(distance: str, use_cython: bool) -> Callable[..., dict[str, float]]:
    import torch
    from torchreid.reid.metrics.distance import compute_distance_matrix
    from torchreid.reid.metrics.rank import IS_CYTHON_AVAI, evaluate_rank

    if use_cython and not IS_CYTHON_AVAI:
        sys.exit("torchreid's Cython module is not built in this environment")

    def score(query: Any, gallery: Any, *labels: Any) -> dict[str, float]:
        matrix = compute_distance_matrix(torch.from_numpy(query), torch.from_numpy(gallery), distance).numpy()
        cmc, mean_ap = evaluate_rank(matrix, *labels, use_cython=use_cython)
        return {"mAP": float(mean_ap), "rank-1": float(cmc[0])}

    return score


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class MemoryCurve:
    """Records the process's resident memory in the background."""

    def __enter__(self) -> "MemoryCurve":
        self.start, self.over = time.perf_counter(), threading.Event()
        self.points: list[tuple[float, float]] = []
        self.watcher = threading.Thread(target=self.watch, daemon=True)
        self.watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.watcher.join()

    def watch(self) -> None:
        while not self.over.wait(0.25):
            self.points.append((round(time.perf_counter() - self.start, 2), round(resident_bytes() / 1e9, 4)))

    def thinned(self) -> list[tuple[float, float]]:
        """At most 40 points (seconds, GB)."""
        return self.points[:: len(self.points) // 40 + 1]


def child(side: str, folder: Path, distance: str) -> None:
    score = ours(distance) if side == "ours" else peer(distance, side == "cython")
    files = ("query", "gallery", "query-pids", "gallery-pids", "query-camids", "gallery-camids")
    arrays = [np.load(folder / f"{name}.npy") for name in files]
    few = [a[:200] if name.startswith("query") else a[:4000] for name, a in zip(files, arrays, strict=True)]
    score(*few)
    held = resident_bytes()
    with MemoryCurve() as curve:
        start, processor_start = time.perf_counter(), time.process_time()
        found = score(*arrays)
        seconds, processor_s = time.perf_counter() - start, time.process_time() - processor_start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    features = sum(a.nbytes for a in arrays[:2])
    print(json.dumps({"seconds": seconds, "processor_s": processor_s,
                      "load": os.getloadavg()[0], "beyond_gb": (peak - held) / 1e9, "peak_gb": peak / 1e9,
                      "features_gb": features / 1e9, "curve_s_gb": curve.thinned(), **found}))  # fmt: skip


def measure(side: str, python: Path | str, folder: Path, distance: str) -> dict[str, Any] | None:
    done = subprocess.run(
        [str(python), __file__, "--child", side, str(folder), distance], capture_output=True, text=True
    )
    if done.returncode:
        print(f"{side}: not measured: {done.stderr.strip().splitlines()[-1:]}")
        return None
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{side:<8} {result['seconds']:8.2f} s, processors {result['processor_s']:.2f} s, "
          f"{result['beyond_gb']:.2f} GB beyond what was loaded, mAP {result['mAP']:.6f}", flush=True)  # fmt: skip
    return result


def run_size(size: str, settings: Settings, folder: Path) -> dict[str, Any]:
    draw(folder, size, settings.dimensions)
    print(f"{size}: {SIZES[size][0]:,} queries, {SIZES[size][1]:,} gallery items", flush=True)
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "cython": [], "python": []}
    with_peer = settings.peer is not None and size in PEER_FITS
    for number in range(settings.rounds if size in PEER_FITS else 1):
        for side in runs:
            if (side != "ours" and not with_peer) or (side == "python" and number):
                continue
            result = measure(side, sys.executable if side == "ours" else settings.peer or "", folder, settings.distance)
            if result is not None:
                runs[side].append(result)
    report: dict[str, Any] = {"queries": SIZES[size][0], "gallery": SIZES[size][1], "runs": runs}
    seconds = {side: statistics.median(run["seconds"] for run in found) for side, found in runs.items() if found}
    report["median_seconds"] = seconds
    for side in ("cython", "python"):
        if side in seconds:
            report[f"times_as_fast_as_{side}"] = seconds[side] / seconds["ours"]
            report[f"mAP_difference_to_{side}"] = abs(runs[side][0]["mAP"] - runs["ours"][0]["mAP"])
    report["ns_per_query_and_gallery_item"] = 1e9 * seconds["ours"] / (SIZES[size][0] * SIZES[size][1])
    return report


def main(settings: Settings) -> None:
    if settings.peer is None:
        print("no --peer: torchreid is not measured")
    report: dict[str, Any] = {
        "what": "seconds from vectors to CMC and mAP; random vectors", "dimensions": settings.dimensions,
        "distance": settings.distance,
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version(),
                    "numpy": np.__version__},
        "sizes": {},
    }  # fmt: skip
    for size in settings.sizes:
        with tempfile.TemporaryDirectory() as folder:
            report["sizes"][size] = run_size(size, settings, Path(folder))
        if settings.out is not None:
            settings.out.parent.mkdir(parents=True, exist_ok=True)
            settings.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for size, found in report["sizes"].items():
        print(size, {key: round(value, 4) for key, value in found.items() if isinstance(value, float)})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]), sys.argv[4])
    else:
        import tyro

        main(tyro.cli(Settings, description=__doc__))
