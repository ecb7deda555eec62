"""What only a Qdrant server shows: days in shards of their own, two replicas, a search while a node is down, erasure.

NOT RUN BY US: no server can be installed from PyPI or Debian. It is written from Qdrant's documentation.

    export QDRANT_API_KEY=...
    docker compose -f examples/qdrant/compose.yaml up -d
    python examples/qdrant/server.py
    docker compose -f examples/qdrant/compose.yaml stop qdrant-2   # then run it again with --keep: it must still answer
"""

import argparse
import os
import time

import numpy as np

from osnet.gallery import Where
from osnet.gallery.qdrant_store import QdrantStore
from osnet.types import Item

SHA, SIZE, COUNT = "a" * 64, 512, 5000


def main() -> None:
    """Fill, search, erase."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="http://127.0.0.1:6333")
    parser.add_argument("--keep", action="store_true", help="the store is there; only search")
    args = parser.parse_args()
    key = os.environ["QDRANT_API_KEY"]
    rows = np.maximum(np.random.default_rng(0).normal(0.22, 1, (COUNT, SIZE)), 0)
    if not args.keep:
        store = QdrantStore.create(
            args.address, weights_sha256=SHA, embedding_size=SIZE, api_key=key, shards=2, replicas=2, by_day=True
        )
        items = [Item(f"crop-{n:05d}", f"p{n // 10}", f"c{n % 20}", 86_400.0 * (n % 7)) for n in range(COUNT)]
        store.add_embeddings(rows, items, weights_sha256=SHA)
    store = QdrantStore(args.address, api_key=key)
    began = time.perf_counter()
    hits = store.search_embedding(rows[17], weights_sha256=SHA, where=Where(cameras=frozenset({"c17"})))
    print(f"{hits[0].item.source} in {1000 * (time.perf_counter() - began):.1f} ms; it must be crop-00017")
    if not args.keep:
        print(store.erase(Where(identities=frozenset({"p3"}))))
        print(store.expire(86_400.0))  # the whole first day: its shards are deleted with their files
        keys = store._engine._client.list_shard_keys("osnet")  # type: ignore[attr-defined]
        print(f"{keys}; 1970-01-01 must be missing")
        print("now look for the bytes: docker compose exec qdrant-1 grep -rc crop-00030 /qdrant/storage")


if __name__ == "__main__":
    main()
