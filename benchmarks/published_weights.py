"""The authors' released weights on the complete Market-1501: all scores of the library, compared with torchreid's.

Each step runs in its own process and writes its result into the folder ``--work`` (outside the repository). Finished
steps are skipped, so the same command resumes and adds missing steps.

    python benchmarks/published_weights.py --data MARKET1501 --work STATE --weights A.pth B.pth \\
        --peer peer/bin/python --out benchmarks/results/published-weights-cpu.json

``--peer`` is the Python of an environment with torchreid 0.2.5 (see tests/fixtures/make_torchreid_outputs.py). Seconds
are of one thread; the report also has processor seconds, which other work on the machine affects less. Intervals are
95 % bootstrap intervals over people: they estimate scores of the same weights on other people.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

RERANKING = {"k1": 20, "k2": 6, "lambda_value": 0.3}
EXPANSION = {"num_nearest": 5, "alpha": 3.0}
RATES = (0.0001, 0.001, 0.01, 0.1)
FPRS, FPIRS = (0.001, 0.01), (0.05, 0.1)
"""Rates for which thresholds are calibrated on half of the people; half of the queries must allow 30 errors."""


@dataclass(frozen=True)
class Settings:
    """Data, weights and folders."""

    data: Path
    """The folder of Market-1501 with query, bounding_box_test and bounding_box_train."""
    work: Path
    """Folder for vectors and the result of each step, outside the repository."""
    weights: tuple[Path, ...]
    """Weights in Torchreid's format."""
    peer: Path | None = None
    """The Python of an environment with torchreid 0.2.5."""
    out: Path | None = None
    """Write the result here as JSON."""


def main(settings: Settings) -> None:
    from osnet.files import write_json

    report: dict[str, Any] = {
        "what": "released weights on Market-1501, by all of the library's scores; fractions", "data": "market1501",
        "machine": {"processor": platform.machine(), "python": platform.python_version(), "threads": 1},
        "settings": {"re-ranking": RERANKING, "query expansion": EXPANSION}, "weights": {},
    }  # fmt: skip
    names = ["embed", "embed-flip", "score", "open-set", "re-rank"]
    peers = ["peer-embed", "peer-score"] if settings.peer is not None else []
    for weights in settings.weights:
        steps = report["weights"].setdefault(weights.stem, {})
        for name in (*names, *peers):
            python = str(settings.peer) if name in peers else sys.executable
            steps[name] = run_step(settings, weights, name, python)
            if settings.out is not None:
                write_json(settings.out, report)


def run_step(settings: Settings, weights: Path, name: str, python: str) -> dict[str, Any]:
    """The result of a step, from a new process or an earlier call."""
    folder = settings.work / weights.stem
    folder.mkdir(parents=True, exist_ok=True)
    saved = folder / f"{name}.json"
    if not saved.exists():
        one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        start = time.monotonic()
        command = [python, __file__, "--step", name, str(settings.data.resolve()), str(folder), str(weights.resolve())]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **one})
        if done.returncode:
            raise SystemExit(f"{weights.stem}, {name}: failed")
        saved.write_text(done.stdout.splitlines()[-1] + "\n", encoding="utf-8")
        print(f"{weights.stem}, {name}: {time.monotonic() - start:.0f} s", flush=True)
    found: dict[str, Any] = json.loads(saved.read_text(encoding="utf-8"))
    return found


def step(name: str, data: Path, folder: Path, weights: Path) -> None:
    """In the step's process: run it, print its result and costs."""
    start, cpu = time.perf_counter(), time.process_time()
    found = STEPS[name](data, folder, weights)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    cost = {"seconds": time.perf_counter() - start, "cpu_s": time.process_time() - cpu, "peak_gb": peak / 1e9}
    print(json.dumps({**found, "whole step": cost}))


def timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """The result of ``work``, and its time."""
    start, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, {"seconds": time.perf_counter() - start, "cpu_s": time.process_time() - cpu}


# Our steps. Each imports what it measures.


def embed(data: Path, folder: Path, weights: Path, flip: bool = False) -> dict[str, Any]:
    """Embed all images."""
    from osnet.data.folder import read_dataset
    from osnet.embedding.embedder import Embedder
    from osnet.evaluation.split_embeddings import embed_dataset
    from osnet.progress import no_progress

    dataset = read_dataset(data, name="market1501")
    embedder = Embedder(weights, device="cpu", normalize=False, num_workers=1, flip=flip)
    vectors = folder / ("flip" if flip else "plain")
    parts, cost = timed(lambda: embed_dataset(embedder, dataset, "raise", vectors, no_progress))
    for part in parts:
        labels = [np.asarray(getattr(part.split, name), np.int64) for name in ("pids", "camids")]
        np.savez(vectors / f"{part.split.name}-labelled.npz", vectors=part.vectors, pids=labels[0], camids=labels[1])
    images = sum(len(part.split) for part in parts)
    return {"images": images, "backend": embedder.backend, "network_sha256": embedder.sha256(), **cost}


def load(folder: Path, kind: str) -> tuple[Any, ...]:
    """Query and gallery vectors, then the labels, as ``rank_scores`` takes them."""
    query, gallery = (np.load(folder / kind / f"{part}-labelled.npz") for part in ("query", "gallery"))
    return (query["vectors"], gallery["vectors"], query["pids"], gallery["pids"], query["camids"], gallery["camids"])


def describe(scores: Any, pids: Any) -> dict[str, Any]:
    """Ranking scores, with intervals over people."""
    from osnet.metrics.bootstrap import cluster_interval

    first = scores.first_rank_per_query
    values = {
        "mAP": scores.ap_per_query,
        "mINP": scores.inp_per_query,
        "rank-1": np.where(np.isnan(first), first, first == 1),
    }
    found: dict[str, Any] = {"mAP": scores.mean_ap, "mINP": scores.mean_inp}
    found |= {f"rank-{k}": scores.rank(k) for k in (1, 5, 10, 20)}
    intervals = {name: cluster_interval(value, pids) for name, value in values.items()}
    return {**found, "intervals": {name: [i.low, i.high] for name, i in intervals.items()}}


def unit(rows: Any) -> Any:
    """Rows scaled to length 1."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def score(_data: Path, folder: Path, _weights: Path) -> dict[str, Any]:
    """Ranking scores: both distances, flip, both average precisions, CUHK03's rule, query expansion."""
    from osnet.metrics.query_expansion import expand_queries
    from osnet.metrics.ranking import rank_scores

    found: dict[str, Any] = {}

    def add(name: str, arrays: tuple[Any, ...], **how: Any) -> None:
        scores, cost = timed(lambda: rank_scores(*arrays, **how))
        found[name] = {**describe(scores, arrays[2]), **cost}
        if how.get("rule") == "cuhk03":
            del found[name]["intervals"]["rank-1"]  # its CMC is over random single images of each person

    plain = load(folder, "plain")
    rank_scores(*(array[:100] for array in plain))  # warm up: compiles
    for kind, label in (("plain", ""), ("flip", ", flip")):
        arrays = load(folder, kind)
        for distance in ("euclidean", "cosine"):
            add(f"{distance}{label}", arrays, distance=distance)
    for distance in ("euclidean", "cosine"):
        add(f"{distance}, trapezoid AP", plain, distance=distance, ap="trapezoid")
        add(f"{distance}, CUHK03's rule", plain, distance=distance, rule="cuhk03")
    expanded, cost = timed(lambda: expand_queries(plain[0], plain[1], **EXPANSION))
    add("cosine, query expansion", (expanded, *plain[1:]), distance="cosine")
    found["cosine, query expansion"]["expansion"] = cost
    return {"scores": found}


def rerank(_data: Path, folder: Path, _weights: Path) -> dict[str, Any]:
    """k-reciprocal re-ranking of raw and of normalised vectors, without and with flip."""
    from osnet.metrics.distance_blocks import rank_scores_from_blocks
    from osnet.metrics.k_reciprocal import encode

    found: dict[str, Any] = {}
    share = RERANKING["lambda_value"]
    for kind, label in (("plain", ""), ("flip", ", flip")):
        query, gallery, *labels = load(folder, kind)
        for distance, change in (("euclidean", lambda rows: rows), ("cosine", unit)):
            scores, cost = timed(
                lambda change=change, query=query, gallery=gallery, labels=labels: rank_scores_from_blocks(
                    encode(change(query), change(gallery), 20, 6).blocks(share), *labels
                )
            )
            found[f"{distance}{label}, re-ranked"] = {**describe(scores, labels[0]), **cost}
    return {"scores": found}


def open_set(_data: Path, folder: Path, _weights: Path) -> dict[str, Any]:
    """Verification and identification; thresholds calibrated on one half of the people and applied to the other."""
    from osnet.metrics.bootstrap import pair_interval, ratio_interval
    from osnet.metrics.thresholds import (
        count_decisions,
        count_false_pairs,
        identification_scores,
        verification_scores,
    )

    arrays = load(folder, "plain")
    found: dict[str, Any] = {}
    for distance in ("cosine", "euclidean"):
        for measure in (verification_scores, identification_scores):
            scores, cost = timed(lambda measure=measure, distance=distance: measure(*arrays, RATES, distance=distance))
            points = [{**asdict(point), "supported": point.supported} for point in scores.points]
            found[f"{scores.kind}, {distance}"] = {
                "positives": scores.num_positives, "negatives": scores.num_negatives, "points": points, **cost,
            }  # fmt: skip
    one, other = halve(arrays)
    calibrated = []
    for rates, measure, identify in ((FPRS, verification_scores, False), (FPIRS, identification_scores, True)):
        for point in measure(*one, rates).points:
            counts = count_decisions(*other, point.threshold, identify=identify)
            if identify:
                false = ratio_interval(counts.num_false, counts.num_negatives, other[2])
            else:
                pairs = count_false_pairs(*other, point.threshold)
                false = pair_interval(pairs.first_K, pairs.second_K, pairs.counts_K, pairs.queries_C, pairs.items_C)
            missed = ratio_interval(counts.num_missed, counts.num_positives, other[2])
            calibrated.append({
                "kind": "identification" if identify else "verification", "asked": point.asked,
                "threshold": point.threshold, "errors allowed": point.num_allowed,
                "on its own half": {"false positives": point.false_positive_rate, "missed": point.miss_rate},
                "on the other half": {"false positives": asdict(false), "missed": asdict(missed)},
            })  # fmt: skip
    sizes = [
        {"queries": len(half[0]), "gallery": len(half[1]), "people": len(np.unique(half[2]))} for half in (one, other)
    ]
    return {"open set": found, "calibrated": calibrated, "halves": sizes}


def halve(arrays: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Split people at random into halves; distractors are divided at random."""
    query, gallery, query_pids, gallery_pids, query_camids, gallery_camids = arrays
    rng = np.random.default_rng(0)
    people = rng.permutation(np.unique(query_pids))
    first = set(people[: len(people) // 2].tolist())
    lots = rng.random(len(gallery)) < 0.5
    in_first_Q = np.array([pid in first for pid in query_pids.tolist()])
    in_first_G = np.array(
        [pid in first if pid > 0 else lot for pid, lot in zip(gallery_pids.tolist(), lots, strict=True)]
    )
    halves = []
    for q, g in ((in_first_Q, in_first_G), (~in_first_Q, ~in_first_G)):
        halves.append((query[q], gallery[g], query_pids[q], gallery_pids[g], query_camids[q], gallery_camids[g]))
    return halves[0], halves[1]


# Torchreid's steps.


def peer_embed(data: Path, folder: Path, weights: Path) -> dict[str, Any]:
    """Embed with torchreid's reader, transforms and network, as in its engine's test."""
    import torch
    import torchreid

    torch.set_num_threads(1)
    root = folder / "torchreid"
    (root / "market1501").mkdir(parents=True, exist_ok=True)
    link = root / "market1501" / "Market-1501-v15.09.15"
    if not link.exists():
        link.symlink_to(data)
    sys.stdout = sys.stderr  # torchreid prints
    manager = torchreid.reid.data.ImageDataManager(
        root=str(root), sources="market1501", height=256, width=128, batch_size_test=64, workers=0,
        use_gpu=False, transforms=["random_flip"],
    )  # fmt: skip
    name = "osnet_x0_25"
    model = torchreid.reid.models.build_model(name, num_classes=manager.num_train_pids, pretrained=False, use_gpu=False)
    torch_load = torch.load
    torch.load = lambda *args, **kwargs: torch_load(*args, **{**kwargs, "weights_only": False})  # an old-format file
    torchreid.reid.utils.load_pretrained_weights(model, str(weights))
    torch.load = torch_load
    engine = torchreid.reid.engine.ImageSoftmaxEngine(manager, model, None, use_gpu=False)
    engine.set_model_mode("eval")
    images, cost = 0, {}
    start, cpu = time.perf_counter(), time.process_time()
    for part in ("query", "gallery"):
        loader = manager.test_loader["market1501"][part]
        features, pids, camids = [], [], []
        with torch.no_grad():
            for batch in loader:
                inputs, some_pids, some_camids = engine.parse_data_for_eval(batch)
                features.append(engine.extract_features(inputs).cpu())
                pids.extend(some_pids.tolist())
                camids.extend(some_camids.tolist())
        images += len(pids)
        np.savez(folder / f"torchreid-{part}.npz", vectors=torch.cat(features).numpy(), pids=pids, camids=camids)
    cost = {"seconds": time.perf_counter() - start, "cpu_s": time.process_time() - cpu}
    sys.stdout = sys.__stdout__
    return {"images": images, **cost}


def peer_score(_data: Path, folder: Path, _weights: Path) -> dict[str, Any]:
    """Torchreid's distances and ranks, in Python (PyPI's package lacks its compiled module)."""
    import torch
    from torchreid.reid.metrics import compute_distance_matrix, evaluate_rank

    torch.set_num_threads(1)
    query, gallery = (np.load(folder / f"torchreid-{part}.npz") for part in ("query", "gallery"))
    labels = (query["pids"], gallery["pids"], query["camids"], gallery["camids"])
    vectors = [torch.from_numpy(part["vectors"]) for part in (query, gallery)]
    found = {}
    for distance in ("euclidean", "cosine"):

        def work(distance: str = distance) -> Any:
            return evaluate_rank(compute_distance_matrix(*vectors, distance).numpy(), *labels, use_cython=False)

        (cmc, mean_ap), cost = timed(work)
        found[distance] = {"mAP": float(mean_ap), **{f"rank-{k}": float(cmc[k - 1]) for k in (1, 5, 10, 20)}, **cost}
    return {"scores": found}


STEPS: dict[str, Callable[[Path, Path, Path], dict[str, Any]]] = {
    "embed": embed,
    "embed-flip": lambda *args: embed(*args, flip=True),
    "score": score,
    "open-set": open_set,
    "re-rank": rerank,
    "peer-embed": peer_embed,
    "peer-score": peer_score,
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        step(sys.argv[2], *map(Path, sys.argv[3:6]))
    else:
        import tyro

        main(tyro.cli(Settings, description=__doc__))
