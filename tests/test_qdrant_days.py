"""Each day in shards of its own. No server can be run here: the client's local mode stands in, and keeps the keys."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from osnet.errors import GalleryError
from osnet.gallery import Where
from osnet.types import Item

qdrant_client = pytest.importorskip("qdrant_client")

from osnet.gallery.qdrant_store import QdrantStore  # noqa: E402

SHA, SIZE, DAY_S = "a" * 64, 8, 86_400.0


def test_days_have_shards_and_empty_days_are_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    real, shards, made = qdrant_client.QdrantClient(":memory:"), {}, {}
    models = qdrant_client.models

    class Server:
        """As a server: a write names a shard key that exists; it deletes the points of a key."""

        def __init__(self, url: str, api_key: str | None) -> None:
            assert (url, api_key) == ("http://127.0.0.1:6333", "secret")

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def close(self) -> None:
            pass

        def create_collection(self, name: str, **given: Any) -> None:
            made.update(given)
            real.create_collection(name, vectors_config=given["vectors_config"])

        def get_collection(self, name: str) -> Any:
            config = SimpleNamespace(params=SimpleNamespace(**made), optimizer_config=made["optimizers_config"])
            return SimpleNamespace(config=config)

        def update_collection(self, name: str, optimizers_config: Any) -> None:
            made["optimizers_config"] = optimizers_config

        def list_shard_keys(self, name: str) -> Any:
            return SimpleNamespace(shard_keys=[SimpleNamespace(key=key) for key in shards])

        def create_shard_key(self, name: str, key: str) -> None:
            assert key not in shards
            shards[key] = set()

        def delete_shard_key(self, name: str, key: str) -> None:
            real.delete(name, list(shards.pop(key)))

        def upsert(self, name: str, points: list[Any], wait: bool, shard_key_selector: str) -> None:
            shards[shard_key_selector] |= {point.id for point in points}
            real.upsert(name, points)

        def count(self, name: str, where: Any = None, exact: bool = True, shard_key_selector: Any = None) -> Any:
            if shard_key_selector is None:
                return real.count(name, where, exact=True)
            return SimpleNamespace(count=len(real.retrieve(name, list(shards[shard_key_selector]))))

    monkeypatch.setattr(qdrant_client, "QdrantClient", Server)
    given: dict[str, Any] = {"weights_sha256": SHA, "embedding_size": SIZE, "api_key": "secret"}
    store = QdrantStore.create("http://127.0.0.1:6333", **given, shards=2, replicas=3, by_day=True)
    assert made["sharding_method"] == models.ShardingMethod.CUSTOM
    assert (made["shard_number"], made["replication_factor"]) == (2, 3)
    assert made["optimizers_config"].deleted_threshold == 0, "one deleted point of millions starts a vacuum"
    made["optimizers_config"].deleted_threshold = 0.0001  # as of an earlier version
    times = [20_785 * DAY_S, 20_786 * DAY_S - 1, 20_786 * DAY_S, None, -1.0, 1e18]
    items = [Item(f"{n}", f"p{n}", None, time_s) for n, time_s in enumerate(times)]
    rows = np.random.default_rng(0).normal(size=(6, SIZE)).astype(np.float32)
    store.add_embeddings(rows, items, weights_sha256=SHA)
    sizes = {key: len(ids) for key, ids in shards.items()}
    assert sizes == {"undated": 3, "2026-11-28": 2, "2026-11-29": 1, "1969-12-31": 1}, "undated: with what is known"
    store = QdrantStore("http://127.0.0.1:6333", api_key="secret")
    assert store.search_embedding(rows[2], weights_sha256=SHA, top=1)[0].item.source == "2"
    store.erase(Where(identities=frozenset({"p0"})))
    assert made["optimizers_config"].deleted_threshold == 0
    assert "2026-11-28" in shards, "the other item of this day"
    assert store.expire(20_786 * DAY_S).rows == 2
    assert set(shards) == {"undated", "2026-11-29"}
    assert store.count() == 3
    store.add_embeddings(rows[:1], [Item("0", time_s=times[0])], weights_sha256=SHA)
    assert set(shards) == {"undated", "2026-11-28", "2026-11-29"}


def test_only_a_server_divides_by_day(tmp_path: Path) -> None:
    for edge in (False, True):
        with pytest.raises(GalleryError, match="not a server"):
            QdrantStore.create(tmp_path / "q", weights_sha256=SHA, embedding_size=SIZE, edge=edge, by_day=True)
    assert not (tmp_path / "q").exists()
