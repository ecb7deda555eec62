"""Re-ranking compared with torchreid's, in turn, each run in its own process: time, memory, and all distances.

Features are random (512 components, overlapping clusters), so they show speed and agreement, not the benefit of
re-ranking. Time is of one call, with distances, after imports and a small call for numba's compilation. Memory is the
process's largest resident set, with imports. torchreid needs a separate environment (see
tests/fixtures/make_torchreid_outputs.py):

    python benchmarks/reranking.py --peer-python peer/bin/python --out benchmarks/results/reranking-market1501.json
    python benchmarks/reranking.py --num-queries 11659 --num-gallery 82161 --num-people 3060 --pairs 0

Matrix products can order neighbours differently that float32 cannot distinguish. So three things are counted: items
whose neighbours differ from torchreid's, with the largest float64 gap between exchanged neighbours; distances that
therefore differ by more than 1e-6; and distances that differ by more than 1e-6 if ours gets torchreid's neighbours,
which must be none.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

K1, K2, LAMBDA = 20, 6, 0.3
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Settings:
    """Sizes and environments; the defaults are Market-1501's size."""

    num_queries: int = 3368
    num_gallery: int = 15913
    num_people: int = 751
    noise: float = 3.0
    """Spread within a cluster, in units of the spread of the clusters' centres."""
    pairs: int = 3
    """Runs of torchreid, each followed by one of ours; 0: only ours, once, for the best 50 per query."""
    threads: int | None = None
    """Threads for both; by default one per core. On a busy machine use 1."""
    peer_python: Path | None = None
    """The Python of an environment with torchreid."""
    out: Path | None = None
    """Write the result here as JSON."""


def make_features(settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Rows of length 1; centres are in 64 of the 512 dimensions, so that clusters overlap."""
    rng = np.random.default_rng(0)
    number = settings.num_queries + settings.num_gallery
    basis = np.linalg.qr(rng.standard_normal((512, 64)))[0].T
    centres = rng.standard_normal((settings.num_people, 64)) @ basis
    people = rng.integers(0, settings.num_people, number)
    spread = settings.noise * np.sqrt(64 / 512)
    features = np.empty((number, 512), np.float32)
    for start in range(0, number, 4096):
        part = people[start : start + 4096]
        features[start : start + 4096] = centres[part] + spread * rng.standard_normal((len(part), 512))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return features[: settings.num_queries], features[settings.num_queries :]


def euclidean(one: torch.Tensor, other: torch.Tensor) -> np.ndarray:
    """Distances that are not squared, because torchreid's re-ranking squares its input."""
    from torchreid.reid.metrics.distance import euclidean_squared_distance

    return euclidean_squared_distance(one, other).clamp_(min=0).sqrt_().numpy()


def run_peer(folder: Path) -> dict[str, float]:
    from torchreid.reid.utils.rerank import re_ranking

    query, gallery = (torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("query", "gallery"))
    re_ranking(
        euclidean(query[:40], gallery[:99]), euclidean(query[:40], query[:40]), euclidean(gallery[:99], gallery[:99])
    )
    clock = Clock()
    result = re_ranking(euclidean(query, gallery), euclidean(query, query), euclidean(gallery, gallery), K1, K2, LAMBDA)
    times = clock.read()
    np.save(folder / "peer.npy", result.astype(np.float32))
    return {**times, "gib": peak_gib()}


def run_peer_neighbours(folder: Path) -> dict[str, float]:
    """Torchreid's order of neighbours: its steps on its matrix, storing only the used neighbours."""
    query, gallery = (torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("query", "gallery"))
    across = euclidean(query, gallery)
    lower = euclidean(gallery, gallery)
    upper = euclidean(query, query)
    lists, furthest = [], []
    for first, second in ((upper, across), (across.T, lower)):
        for start in range(0, len(first), 512):
            rows = np.power(np.concatenate([first[start : start + 512], second[start : start + 512]], 1), 2)
            largest = rows.max(1, keepdims=True)
            lists.append(np.argsort(rows / largest)[:, : max(K1 + 1, K2)])
            furthest.append(largest[:, 0])
    np.savez(folder / "neighbours.npz", index=np.concatenate(lists), furthest=np.concatenate(furthest))
    return {"gib": peak_gib()}


def run_ours(folder: Path) -> dict[str, float]:
    from osnet.metrics.k_reciprocal import rerank

    query, gallery = (np.load(folder / f"{name}.npy") for name in ("query", "gallery"))
    rerank(query[:40], gallery[:99])
    clock = Clock()
    result = rerank(query, gallery, K1, K2, LAMBDA)
    times = clock.read()
    np.save(folder / "ours.npy", result)
    return {**times, "gib": peak_gib()}


def run_ours_best(folder: Path) -> dict[str, float]:
    """The best 50 for each query, without the complete matrix."""
    from osnet.metrics.k_reciprocal import encode, rerank_best
    from osnet.metrics.nearest_neighbors import find_nearest

    query, gallery = (np.load(folder / f"{name}.npy") for name in ("query", "gallery"))
    rerank_best(query[:40], gallery[:99])
    clock = Clock()
    rerank_best(query, gallery, 50, K1, K2, LAMBDA)
    times, gib = clock.read(), peak_gib()
    clock = Clock()
    find_nearest(torch.from_numpy(np.concatenate([query, gallery])), K1 + 1)
    nearest_seconds = clock.read()["seconds"]
    code_entries = len(encode(query, gallery, K1, K2).codes.value) / (len(query) + len(gallery))
    return {**times, "gib": gib,
            "seconds_of_nearest_neighbours": nearest_seconds, "entries_per_code": code_entries}  # fmt: skip


class Clock:
    """Wall-clock seconds, and processor seconds of all cores, which other work affects less."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        return {"seconds": time.perf_counter() - self.wall, "cpu_seconds": time.process_time() - self.cpu}


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def compare(folder: Path) -> dict[str, Any]:
    """Compare our distances and neighbours with torchreid's."""
    from osnet.metrics.k_reciprocal import encode_neighbours
    from osnet.metrics.nearest_neighbors import find_nearest

    items = np.concatenate([np.load(folder / "query.npy"), np.load(folder / "gallery.npy")])
    peer = np.load(folder / "neighbours.npz")
    ours, theirs = find_nearest(torch.from_numpy(items), K1 + 1).index.numpy(), peer["index"]
    unlike: set[int] = set()
    gap = 0.0
    for size in {K1 + 1, int(np.around(K1 / 2)) + 1, K2}:
        for i in np.flatnonzero((np.sort(ours[:, :size]) != np.sort(theirs[:, :size])).any(1)):
            unlike.add(int(i))
            exchanged = np.setxor1d(ours[i, :size], theirs[i, :size])
            distance = ((items[exchanged].astype(np.float64) - items[i]) ** 2).sum(1) / peer["furthest"][i]
            gap = max(gap, float(np.ptp(distance)))
    wanted = np.load(folder / "peer.npy", mmap_mode="r")
    difference = np.abs(np.load(folder / "ours.npy", mmap_mode="r") - wanted)
    num_queries = wanted.shape[0]
    furthest = torch.from_numpy(peer["furthest"])
    encoding = encode_neighbours(torch.from_numpy(items), num_queries, torch.from_numpy(theirs), furthest, K1, K2)
    given = 0.0, 0
    for block in encoding.blocks(LAMBDA):
        part = np.abs(block.distance - wanted[block.start : block.start + len(block.distance)])
        given = max(given[0], float(part.max())), given[1] + int((part > TOLERANCE).sum())
    return {
        "items": len(items),
        "items_whose_neighbours_differ": len(unlike),
        "largest_gap_of_exchanged_neighbours": gap,
        "distances": int(difference.size),
        "distances_off_by_more_than_1e-6": int((difference > TOLERANCE).sum()),
        "largest_difference": float(difference.max()),
        "given_torchreids_neighbours": {
            "distances_off_by_more_than_1e-6": given[1], "largest_difference": given[0],
        },
    }  # fmt: skip


RUNS = {run.__name__: run for run in (run_peer, run_peer_neighbours, run_ours, run_ours_best)}


def child(python: Path, run: Any, folder: Path, threads: int | None) -> dict[str, Any]:
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    if threads is not None:
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads))
    done = subprocess.run(
        [python, __file__, run.__name__, str(folder)], capture_output=True, text=True, check=True, env=environment
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{run.__name__}: " + ", ".join(f"{name} {value:.4g}" for name, value in result.items()), flush=True)
    return result


def main(settings: Settings) -> None:
    report: dict[str, Any] = {
        "caution": "random features: speed and agreement, not the benefit of re-ranking",
        "settings": json.loads(json.dumps(asdict(settings) | {"out": None, "peer_python": None})),
        "machine": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__,
                    "threads": settings.threads or torch.get_num_threads(), "cores": os.cpu_count(),
                    "load_at_start": os.getloadavg()[0]},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part, rows in zip(("query", "gallery"), make_features(settings), strict=True):
            np.save(folder / f"{part}.npy", rows)
        this = Path(sys.executable)
        if settings.pairs == 0:
            report["ours"] = child(this, run_ours_best, folder, settings.threads)
        else:
            if settings.peer_python is None:
                raise SystemExit(
                    "--peer-python is missing: the Python of an environment with torchreid; or use --pairs 0"
                )
            runs = [
                (
                    child(settings.peer_python, run_peer, folder, settings.threads),
                    child(this, run_ours, folder, settings.threads),
                )
                for _ in range(settings.pairs)
            ]
            ratios = [peer["seconds"] / ours["seconds"] for peer, ours in runs]
            cpu_ratios = [peer["cpu_seconds"] / ours["cpu_seconds"] for peer, ours in runs]
            report |= {
                "torchreid": [peer for peer, _ in runs],
                "ours": [ours for _, ours in runs],
                "times_as_fast": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
                "times_less_cpu": {
                    "median": statistics.median(cpu_ratios),
                    "min": min(cpu_ratios),
                    "max": max(cpu_ratios),
                },
                "share_of_memory": max(ours["gib"] for _, ours in runs) / min(peer["gib"] for peer, _ in runs),
            }
            child(settings.peer_python, run_peer_neighbours, folder, settings.threads)
            report["agreement"] = compare(folder)
            shown = ("times_as_fast", "times_less_cpu", "share_of_memory", "agreement")
            print(json.dumps({key: report[key] for key in shown}, indent=2))
    if settings.out is not None:
        settings.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] in RUNS:
        print(json.dumps(RUNS[sys.argv[1]](Path(sys.argv[2]))))
    else:
        import tyro

        main(tyro.cli(Settings, description=__doc__))
