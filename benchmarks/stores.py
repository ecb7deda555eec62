"""Search, filter, add, erase: the folder gallery compared with NumPy, FAISS Flat and Qdrant Edge, in turn.

    python benchmarks/stores.py --rows 20000 --out benchmarks/results/stores-20000.json
    python benchmarks/stores.py --rows 1000000 --out benchmarks/results/stores-1000000.json
    python benchmarks/stores.py --rows 10000000 --gallery /tmp/ten --out benchmarks/results/stores-10000000.json

Vectors are random: 512 components, not negative, 41 % zeros, like OSNet's, of 20 cameras and 7 days. FAISS and Qdrant
Edge are measured if they are installed (``pip install faiss-cpu qdrant-edge-py``, in a separate environment).
Each value is the smallest of several, measured in turn; ``cpu`` is the process's processor time, ``wall`` elapsed time.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from osnet.gallery import Gallery, Where
from osnet.types import Item

SIZE, CAMERAS, DAYS, TOP = 512, 20, 7, 10
SHA = "a" * 64
START_S = 1_790_000_000 // 86_400 * 86_400
PERSON = 22
"""Number of rows of the person to erase."""
BLOCK = 100_000


def draw(count: int, seed: int) -> np.ndarray:
    """Random vectors of length 1, block by block."""
    out = np.empty((count, SIZE), np.float32)
    for start in range(0, count, BLOCK):
        part = out[start : start + BLOCK]
        part[:] = np.random.default_rng([seed, start]).standard_normal(part.shape, np.float32)
        part += 0.22
        np.maximum(part, 0, out=part)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return out


def make_items(count: int, first: int = 0) -> list[Item]:
    """Items with cameras and days in turn; one person, in one camera and day."""
    return [
        Item(
            f"/footage/camera{n % CAMERAS:02d}/{n:09d}.jpg",
            "doe" if n < PERSON * CAMERAS * DAYS and n % (CAMERAS * DAYS) == 0 else None,
            f"camera{n % CAMERAS:02d}",
            START_S + (n // CAMERAS % DAYS) * 86_400 + n % 86_400,
        )
        for n in range(first, first + count)
    ]


def measure(action: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Smallest milliseconds of ``repeats`` calls."""
    found = []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        action()
        found.append((1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu)))
    return {"wall_ms": round(min(f[0] for f in found), 3), "cpu_ms": round(min(f[1] for f in found), 3)}


def size_mb(folder: Path) -> float:
    """Size of all files."""
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20, 1)


def memory_mb(field: str = "VmRSS") -> float:
    """Memory of this process."""
    status = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in status if line.startswith(field)) / 1024, 1)


def gallery_only(folder: Path, queries: np.ndarray, repeats: int, where: Where) -> dict[str, Any]:
    """Open and search the folder gallery."""
    result: dict[str, Any] = {"open": measure(lambda: Gallery.open(folder), repeats)}
    before = memory_mb("RssAnon")
    gallery = Gallery.open(folder)
    search: dict[str, Any] = {"weights_sha256": SHA, "top": TOP}
    result["first_search"] = measure(lambda: gallery.search_embedding(queries[0], **search), 1)
    result["search_1"] = measure(lambda: gallery.search_embedding(queries[0], **search), repeats)
    result["memory_own_mb"] = round(memory_mb("RssAnon") - before, 1)
    result["memory_mapped_mb"] = memory_mb("RssFile")
    result["search_64"] = measure(lambda: gallery.search_embeddings(queries, **search), max(2, repeats // 3))
    gallery.search_embedding(queries[0], **search, where=where)
    result["filter_1_percent"] = measure(lambda: gallery.search_embedding(queries[0], **search, where=where), repeats)
    return result


def write_and_erase(folder: Path, rows: int) -> dict[str, Any]:
    """Add 1,000 rows and erase one person; changes the gallery."""
    more, items = draw(1000, 5), make_items(1000, rows)
    gallery = Gallery.open(folder)
    result = {"add_1000": measure(lambda: gallery.add_embeddings(more, items, weights_sha256=SHA), 1)}
    reports = []
    result["erase_one_person"] = measure(lambda: reports.append(gallery.erase(Where(identities=frozenset({"doe"})))), 1)
    report = reports[0]
    assert report.rows == PERSON, report
    assert report.is_complete, report
    return {**result, "erased": {"rows": report.rows, "files_rewritten": report.rewritten}, "disk_mb": size_mb(folder)}


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=0)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--gallery", type=Path, help="filled if it lacks rows, and kept; default: a temporary one")
    parser.add_argument("--edge", action="store_true", help="Qdrant Edge, too, which takes long to fill")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows, repeats = args.rows, args.repeats or (30 if args.rows <= 100_000 else 9)
    work = Path(tempfile.mkdtemp(dir=args.work))
    try:
        result = run(work, args.gallery or work / "gallery", rows, repeats, args.edge)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    text = json.dumps(result, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


def fill(folder: Path, rows: int) -> float:
    """Add the rows that are missing. Returns the seconds that this took, without drawing."""
    if not folder.exists():
        Gallery.create(folder, weights_sha256=SHA, embedding_size=SIZE)
    gallery, seconds = Gallery.open(folder), 0.0
    for start in range(len(gallery), rows, BLOCK):
        count = min(BLOCK, rows - start)
        vectors, items = draw(rows, 0) if rows <= BLOCK else draw_block(start, count), make_items(count, start)
        began = time.perf_counter()
        gallery.add_embeddings(vectors, items, weights_sha256=SHA)
        seconds += time.perf_counter() - began
    return seconds


def run(work: Path, folder: Path, rows: int, repeats: int, edge: bool) -> dict[str, Any]:
    """All measurements."""
    where = Where(cameras=frozenset({"camera00", "camera01"}), after_s=START_S, before_s=START_S + 86_399)
    queries = draw(64, 99)
    seconds = fill(folder, rows)
    result: dict[str, Any] = {
        "rows": rows,
        "embedding_size": SIZE,
        "queries": "64 drawn",
        "top": TOP,
        "repeats": repeats,
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, shared with other work",
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "fill_s": round(seconds, 1) or None,
        "disk_before_mb": size_mb(folder),
        "segments": len(list(folder.glob("*.safetensors"))),
    }
    result["gallery"] = gallery_only(folder, queries, repeats, where)
    opened = Gallery.open(folder)
    store = opened.embeddings([item.source for item in opened.find()]) if rows <= 2_000_000 else None
    if store is not None:
        result |= compare(opened, store, queries, repeats, where)
        result["qdrant_edge"] = qdrant_edge(work / "edge", store, queries, repeats) if edge or rows <= 100_000 else None
    result["gallery"] |= write_and_erase(folder, rows)
    result["memory_peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    return result


def draw_block(start: int, count: int) -> np.ndarray:
    """Random rows ``start`` to ``start + count`` of a set that is too large for memory."""
    return draw(count, 1000 + start // BLOCK)


def compare(opened: Gallery, store: np.ndarray, queries: np.ndarray, repeats: int, where: Where) -> dict[str, Any]:
    """Measure NumPy, FAISS and the gallery in turn; compare the gallery's hits with float64."""

    def product(queries_QD: np.ndarray) -> np.ndarray:
        scores = queries_QD @ store.T
        best = np.argpartition(-scores, TOP, axis=1)[:, :TOP]
        return np.take_along_axis(best, np.argsort(-np.take_along_axis(scores, best, 1), axis=1), 1)

    search: dict[str, Any] = {"weights_sha256": SHA, "top": TOP}
    runs: dict[str, Callable[[], Any]] = {
        "gallery_1": lambda: opened.search_embedding(queries[0], **search),
        "numpy_product_1": lambda: store @ queries[0],
        "numpy_top_1": lambda: product(queries[:1]),
        "gallery_filter": lambda: opened.search_embedding(queries[0], **search, where=where),
        "gallery_64": lambda: opened.search_embeddings(queries, **search),
        "numpy_top_64": lambda: product(queries),
    }
    versions = {}
    try:
        import faiss  # type: ignore[import-not-found]
    except ImportError:
        print("FAISS is not installed")
    else:
        index = faiss.IndexFlatIP(SIZE)
        index.add(store)
        versions["faiss-cpu"] = metadata.version("faiss-cpu")
        runs |= {
            "faiss_flat_1": lambda: index.search(queries[:1], TOP),
            "faiss_flat_64": lambda: index.search(queries, TOP),
        }
    for name, run in runs.items():
        if not name.endswith("64"):
            run()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for _ in range(max(3, repeats // 2)):
        for name, run in runs.items():
            if not name.endswith("64") or len(found[name]) < 2:
                found[name].append(measure(run, 1))
    turn = {name: {key: min(one[key] for one in each) for key in each[0]} for name, each in found.items()}
    sources = [item.source for item in opened.find()]
    lost, some = 0, queries[:16].astype(np.float64)
    scores = np.concatenate([store[a : a + BLOCK].astype(np.float64) @ some.T for a in range(0, len(store), BLOCK)])
    for query, of_query in zip(queries, scores.T, strict=False):
        best = {sources[row] for row in np.argsort(-of_query, kind="stable")[:TOP]}
        lost += len(best - {hit.item.source for hit in opened.search_embedding(query, **search)})
    return {"versions": versions, "in_turn": turn, "recall_at_10_of_16_queries": 1 - lost / (16 * TOP)}


def qdrant_edge(folder: Path, store: np.ndarray, queries: np.ndarray, repeats: int) -> dict[str, Any] | None:
    """Qdrant's engine in this process."""
    try:
        import qdrant_edge as edge  # type: ignore[import-not-found]
    except ImportError:
        print("Qdrant Edge is not installed")
        return None
    folder.mkdir()
    config = edge.EdgeConfig(vectors={"": edge.EdgeVectorParams(size=SIZE, distance=edge.Distance.Cosine)})
    shard = edge.EdgeShard.create(str(folder), config)
    began = time.perf_counter()
    for start in range(0, len(store), 1000):
        points = [
            edge.Point(id=n, vector=store[n].tolist(), payload={}) for n in range(start, min(len(store), start + 1000))
        ]
        shard.update(edge.UpdateOperation.upsert_points(points))
    result: dict[str, Any] = {
        "version": metadata.version("qdrant-edge-py"),
        "fill_s": round(time.perf_counter() - began, 1),
    }

    def search() -> Any:
        return shard.query(edge.QueryRequest(query=edge.Query.Nearest(queries[0].tolist()), limit=TOP))

    result["search_1"] = measure(search, repeats)
    result["disk_mb"] = size_mb(folder)
    return result


if __name__ == "__main__":
    main()
