"""Search, filter, add, erase: the folder gallery compared with NumPy, FAISS Flat and Qdrant Edge, in turn.

    python benchmarks/stores.py --rows 20000 --out benchmarks/results/stores-20000.json
    python benchmarks/stores.py --rows 1000000 --folder /tmp/million --fill
    python benchmarks/stores.py --rows 1000000 --folder /tmp/million --out benchmarks/results/stores-1000000.json
    python benchmarks/stores.py --rows 10000000 --folder /tmp/ten --out benchmarks/results/stores-10000000.json

Vectors are random: 512 components, not negative, 41 % zeros, like OSNet's, of 20 cameras and 7 days. FAISS and Qdrant
Edge are measured if they are installed (``pip install faiss-cpu qdrant-edge-py``, in a separate environment).
Each value is the smallest of several, measured in turn; ``cpu`` is the process's processor time, ``wall`` elapsed time.

Qdrant Edge searches exactly, as the others do, so it builds no graph. It is set up to erase, as ``QdrantStore`` does:
without a log, and a segment with a deleted point is rewritten.
"""

import argparse
import json
import mmap
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
MOST_COMPARED = 2_000_000
"""More rows are measured in the folder gallery alone: the others need them in memory."""
WHERE = Where(cameras=frozenset({"camera00", "camera01"}), after_s=START_S, before_s=START_S + 86_399)


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


def measure(action: Callable[[], Any], repeats: int, after: Callable[[Any], Any] = lambda _: None) -> dict[str, float]:
    """Smallest milliseconds of ``repeats`` calls; ``after`` gets each result and is not measured."""
    found = []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        result = action()
        found.append((1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu)))
        after(result)
    return {"wall_ms": round(min(f[0] for f in found), 3), "cpu_ms": round(min(f[1] for f in found), 3)}


def size_mb(folder: Path) -> float:
    """Size of all files."""
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20, 1)


def memory_mb(field: str = "VmRSS") -> float:
    """Memory of this process."""
    status = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in status if line.startswith(field)) / 1024, 1)


def gallery_only(folder: Path, queries: np.ndarray, repeats: int) -> dict[str, Any]:
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
    gallery.search_embedding(queries[0], **search, where=WHERE)
    result["filter_1_percent"] = measure(lambda: gallery.search_embedding(queries[0], **search, where=WHERE), repeats)
    return result


def write_and_erase(folder: Path, rows: int) -> dict[str, Any]:
    """Add 1,000 rows and erase one person, in a copy of the gallery (links: its files are replaced, never changed)."""
    copy = folder.with_name("gallery-copy")
    shutil.copytree(folder, copy, copy_function=os.link)
    more, items = draw(1000, 5), make_items(1000, rows)
    gallery = Gallery.open(copy)
    result = {"add_1000": measure(lambda: gallery.add_embeddings(more, items, weights_sha256=SHA), 1)}
    reports = []
    result["erase_one_person"] = measure(lambda: reports.append(gallery.erase(Where(identities=frozenset({"doe"})))), 1)
    report = reports[0]
    assert report.rows == PERSON, report
    assert report.is_complete, report
    result |= {"erased": {"rows": report.rows, "files_rewritten": report.rewritten}, "disk_mb": size_mb(copy)}
    shutil.rmtree(copy)
    return result


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="of the stores: filled if they lack rows, and kept")
    parser.add_argument("--fill", action="store_true", help="only fill the stores in --folder")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    repeats = args.repeats or (30 if args.rows <= 100_000 else 9)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        filled = fill_all(folder, args.rows)
        if args.fill:
            print(filled)
            return
        result = run(folder, args.rows, repeats, filled)
    text = json.dumps(result, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


def draw_block(start: int, count: int, rows: int) -> np.ndarray:
    """Random rows ``start`` to ``start + count`` of a set of ``rows`` that may be too large for memory."""
    return draw(count, 0 if rows <= BLOCK else 1000 + start // BLOCK)


def fill_all(folder: Path, rows: int) -> dict[str, float]:
    """Fill the stores. Returns the seconds, which are kept in the folder for a later measurement."""
    path = folder / "filled.json"
    seconds = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"fill_s": 0.0, "edge_fill_s": 0.0}
    seconds["fill_s"] += fill(folder / "gallery", rows)
    if rows <= MOST_COMPARED:
        seconds["edge_fill_s"] += fill_edge(folder / "edge", rows)
    path.write_text(json.dumps(seconds), encoding="utf-8")
    return seconds


def fill(folder: Path, rows: int) -> float:
    """Add the rows that are missing. Returns the seconds that this took, without drawing."""
    if not folder.exists():
        Gallery.create(folder, weights_sha256=SHA, embedding_size=SIZE)
    gallery, seconds = Gallery.open(folder), 0.0
    for start in range(len(gallery), rows, BLOCK):
        count = min(BLOCK, rows - start)
        vectors, items = draw_block(start, count, rows), make_items(count, start)
        began = time.perf_counter()
        gallery.add_embeddings(vectors, items, weights_sha256=SHA)
        seconds += time.perf_counter() - began
    return round(seconds, 1)


class Edge:
    """Qdrant's engine in this process."""

    def __init__(self, folder: Path) -> None:
        import qdrant_edge as edge  # type: ignore[import-not-found, unused-ignore]

        self.edge: Any = edge
        config = edge.EdgeConfig(
            vectors={"": edge.EdgeVectorParams(size=SIZE, distance=edge.Distance.Dot)},
            optimizers=edge.EdgeOptimizersConfig(
                deleted_threshold=0.0, vacuum_min_vector_number=1, indexing_threshold=2**40, default_segment_number=1
            ),
            max_search_threads=int(os.environ.get("OMP_NUM_THREADS", "0")) or None,
            wal_enabled=False,
        )
        if folder.exists():
            self.shard = edge.EdgeShard.load(str(folder), config)
            return
        folder.mkdir(parents=True)
        self.shard = edge.EdgeShard.create(str(folder), config)
        for name, kind in (("camera", "Keyword"), ("identity", "Keyword"), ("time_s", "Float")):
            index = edge.UpdateOperation.create_field_index(name, getattr(edge.PayloadSchemaType, kind))
            self.shard.update(index)

    def __len__(self) -> int:
        return int(self.shard.count(self.edge.CountRequest(exact=True)))

    def add(self, first: int, vectors: np.ndarray, items: list[Item]) -> None:
        """Numbers of points are those of rows."""
        for start in range(0, len(items), 1000):
            points = [
                self.edge.Point(
                    first + row,
                    vectors[row].tolist(),
                    {"source": item.source, "camera": item.camera, "time_s": item.time_s}
                    | ({"identity": item.identity} if item.identity else {}),
                )
                for row, item in enumerate(items[start : start + 1000], start)
            ]
            self.shard.update(self.edge.UpdateOperation.upsert_points(points))
        self.shard.flush()

    def search(self, queries: np.ndarray, where: bool = False) -> Any:
        """The hits of each query."""
        edge = self.edge
        key_cameras = edge.FieldCondition(key="camera", match=edge.MatchAny(sorted(WHERE.cameras or ())))
        key_time = edge.FieldCondition(key="time_s", range=edge.RangeFloat(gte=WHERE.after_s, lte=WHERE.before_s))
        requests = [
            edge.QueryRequest(
                query=edge.Query.Nearest(query.tolist()),
                filter=edge.Filter(must=[key_cameras, key_time]) if where else None,
                limit=TOP,
                with_payload=True,
                params=edge.SearchParams(exact=True),
            )
            for query in queries
        ]
        if len(requests) == 1:
            return [self.shard.query(requests[0])]
        return self.shard.query_batch(edge.QueryBatchRequest(requests))

    def erase(self) -> None:
        """Delete the person, and rewrite what held the person."""
        doe = self.edge.FieldCondition(key="identity", match=self.edge.MatchValue("doe"))
        self.shard.update(self.edge.UpdateOperation.delete_points_by_filter(self.edge.Filter(must=[doe])))
        self.shard.flush()
        while self.shard.optimize():
            pass
        self.shard.flush()


def fill_edge(folder: Path, rows: int) -> float:
    """As ``fill``; nothing happens if Qdrant Edge is not installed."""
    try:
        edge = Edge(folder)
    except ImportError:
        print("Qdrant Edge is not installed")
        return 0.0
    seconds, there = 0.0, len(edge)
    for start in range(there, rows, BLOCK):
        count = min(BLOCK, rows - start)
        vectors, items = draw_block(start, count, rows), make_items(count, start)
        began = time.perf_counter()
        edge.add(start, vectors, items)
        seconds += time.perf_counter() - began
        print(f"Qdrant Edge: {len(edge):,} rows, {seconds:.0f} s", flush=True)
    edge.shard.close()
    return round(seconds, 1)


def edge_only(folder: Path) -> dict[str, Any]:
    """Open Qdrant Edge."""
    result: dict[str, Any] = {"version": metadata.version("qdrant-edge-py"), "disk_mb": size_mb(folder)}
    result["open"] = measure(lambda: Edge(folder), 3, lambda edge: edge.shard.close())
    before = memory_mb("RssAnon")
    edge = Edge(folder)
    edge.search(draw(1, 99))
    result["memory_own_mb"] = round(memory_mb("RssAnon") - before, 1)
    edge.shard.close()
    return result


def edge_write_and_erase(folder: Path, rows: int) -> dict[str, Any]:
    """Add 1,000 rows to a copy, and erase one person."""
    copy = folder.with_name("edge-copy")
    shutil.copytree(folder, copy)
    edge, more, items = Edge(copy), draw(1000, 5), make_items(1000, rows)
    result: dict[str, Any] = {"add_1000": measure(lambda: edge.add(rows, more, items), 1)}
    result["erase_one_person"] = measure(edge.erase, 1)
    assert len(edge) == rows + 1000 - PERSON, len(edge)
    edge.shard.close()
    piece = draw_block(0, 1, rows)[0, :16].tobytes()  # of the person's first row
    assert holds(folder, piece)
    assert not holds(copy, piece), "Qdrant Edge has not erased"
    shutil.rmtree(copy)
    return result


def holds(folder: Path, piece: bytes) -> bool:
    """Whether a file holds these bytes."""
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                if mapped.find(piece) >= 0:
                    return True
    return False


def describe_machine() -> dict[str, Any]:
    """The processor, and the loops that NumPy's product uses on it."""
    from threadpoolctl import threadpool_info  # type: ignore[import-untyped, unused-ignore]

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    about = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    blas = [one for one in threadpool_info() if one["user_api"] == "blas"]
    return {
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, shared with other work",
        "cpu": f"{about['model name']}, family {about['cpu family']}, model {about['model']}",
        "instructions": [name for name in ("avx2", "avx512f", "avx512_vnni", "amx_int8") if name in about["flags"]],
        "blas": ", ".join(f"{one['internal_api']} {one['version']}" for one in blas),
        "blas_kernel": ", ".join(str(one.get("architecture")) for one in blas),
    }


def run(folder: Path, rows: int, repeats: int, filled: dict[str, float]) -> dict[str, Any]:
    """All measurements."""
    queries = draw(64, 99)
    result: dict[str, Any] = {
        "rows": rows,
        "embedding_size": SIZE,
        "queries": "64 drawn",
        "top": TOP,
        "repeats": repeats,
        **describe_machine(),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        **filled,
        "disk_before_mb": size_mb(folder / "gallery"),
        "segments": len(list((folder / "gallery").glob("*.safetensors"))),
    }
    result["gallery"] = gallery_only(folder / "gallery", queries, repeats)
    has_edge = (folder / "edge").exists()
    result["qdrant_edge"] = edge_only(folder / "edge") if has_edge else None
    if rows <= MOST_COMPARED:
        result |= compare(folder, queries, repeats)
    result["gallery"] |= write_and_erase(folder / "gallery", rows)
    if has_edge:
        result["qdrant_edge"] |= edge_write_and_erase(folder / "edge", rows)
    result["memory_peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    return result


def compare(folder: Path, queries: np.ndarray, repeats: int) -> dict[str, Any]:
    """Measure NumPy, FAISS, Qdrant Edge and the gallery in turn; compare the hits with float64."""
    opened = Gallery.open(folder / "gallery")
    items = opened.find()
    store = opened.embeddings([item.source for item in items])

    def product(queries_QD: np.ndarray) -> np.ndarray:
        scores = queries_QD @ store.T
        best = np.argpartition(-scores, TOP, axis=1)[:, :TOP]
        return np.take_along_axis(best, np.argsort(-np.take_along_axis(scores, best, 1), axis=1), 1)

    search: dict[str, Any] = {"weights_sha256": SHA, "top": TOP}
    runs: dict[str, Callable[[], Any]] = {
        "gallery_1": lambda: opened.search_embedding(queries[0], **search),
        "numpy_product_1": lambda: store @ queries[0],
        "numpy_top_1": lambda: product(queries[:1]),
        "gallery_filter": lambda: opened.search_embedding(queries[0], **search, where=WHERE),
        "gallery_64": lambda: opened.search_embeddings(queries, **search),
        "numpy_top_64": lambda: product(queries),
    }
    versions = {}
    try:
        import faiss  # type: ignore[import-not-found, unused-ignore]
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
    edge = Edge(folder / "edge") if (folder / "edge").exists() else None
    if edge is not None:
        runs |= {
            "edge_1": lambda: edge.search(queries[:1]),
            "edge_filter": lambda: edge.search(queries[:1], where=True),
            "edge_64": lambda: edge.search(queries),
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
    rows = {item.source: row for row, item in enumerate(items)}
    some = queries[:16]
    scores = [store[a : a + BLOCK].astype(np.float64) @ some.T.astype(np.float64) for a in range(0, len(store), BLOCK)]
    best = [set(np.argsort(-column, kind="stable")[:TOP].tolist()) for column in np.concatenate(scores).T]
    hits = {"": [[rows[hit.item.source] for hit in each] for each in opened.search_embeddings(some, **search)]}
    if edge is not None:
        hits["edge_"] = [[rows[point.payload["source"]] for point in each] for each in edge.search(some)]
        edge.shard.close()
    recalls = {
        f"{name}recall_at_10_of_16_queries": sum(len(a & set(b)) for a, b in zip(best, each, strict=True)) / (16 * TOP)
        for name, each in hits.items()
    }
    return {"versions": versions, "in_turn": turn, **recalls}


if __name__ == "__main__":
    main()
