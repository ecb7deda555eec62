"""A store in Qdrant: a server or cluster, the client's local mode, or Qdrant's engine in this process (Edge).

Each item is a point. Its id is a digest of its source, so an item that is sent twice is stored once. The payload holds
source, identity, camera, time_s, and order (the place in the order of adding). One point of another kind holds the
weights' digest. Vectors have length 1 and are compared by their dot product, so that Qdrant stores them as they are.

Search asks for exact scores (``exact=True``) by default: Qdrant then uses no graph.

A server must be set up to erase: deleted points stay in its files until a vacuum, which it begins when their share of
a segment is above ``deleted_threshold``. So this is 0, and ``vacuum_min_vector_number`` is 100, its lowest: in smaller
segments, deleted points stay until a merge. Its write-ahead log keeps them longer.
On a cluster, ``by_day=True`` makes shards for each day (``shard_key``): a day without items is deleted with its files.
We could not run a server: its part is tested against a stand-in that records what is asked of it.
"""

import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import date
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from osnet.errors import GalleryError, require_extra
from osnet.gallery.engine_store import EngineStore, Row
from osnet.gallery.exact_search import Floats
from osnet.gallery.segments import DAY_S, FIRST_DAY, LAST_DAY, UNDATED
from osnet.gallery.vector_store import Where
from osnet.types import Item

FORMAT = "osnet-qdrant-1"
PAGE = 1000
"""Points that are read or written at once."""
ABOUT = str(uuid.UUID(int=1))
"""The id of the point that says whose embeddings these are."""
NO_ORDER = -1
NO_GRAPH = 1 << 40
"""Edge builds a graph from this size on, in KiB: never. Searches here are exact and would not use it."""


class Engine(Protocol):
    """What the store needs of Qdrant, whichever form it has. Filters are dictionaries of ``_filter``."""

    name: str

    def upsert(self, points: list[tuple[str, Floats, dict[str, Any]]]) -> None:
        """Store points: id, vector, payload."""
        ...

    def nearest(self, vector: Floats, where: "Conditions", limit: int) -> list[tuple[dict[str, Any], Floats, float]]:
        """Payload, vector and score of the best points."""
        ...

    def scroll(self, where: "Conditions", with_vectors: bool) -> Iterator[tuple[str, dict[str, Any], Any]]:
        """Id, payload and vector of all points that pass."""
        ...

    def retrieve(self, ids: list[str]) -> list[tuple[str, dict[str, Any], Any]]:
        """Id, payload and vector of those of these points that exist."""
        ...

    def count(self, where: "Conditions") -> int:
        """Number of points that pass."""
        ...

    def delete(self, ids: list[str]) -> None:
        """Delete points."""
        ...

    def vacuum(self) -> None:
        """Rewrite segments with deleted points, if that can be asked for."""
        ...

    def close(self) -> None:
        """Release files and connections."""
        ...


class Conditions:
    """A filter in Qdrant's terms, built with the classes of the client or of Edge."""

    def __init__(self, where: Where) -> None:
        self.any_of: list[tuple[str, list[str]]] = [
            (key, sorted(text for text in wanted if _is_unicode(text)))
            for key, wanted in (("identity", where.identities), ("camera", where.cameras), ("source", where.sources))
            if wanted is not None
        ]
        self.is_void = any(not wanted for _, wanted in self.any_of)
        """Nothing can pass: Qdrant refuses, or ignores, an empty list."""
        self.after_s, self.before_s = _finite(where.after_s), _finite(where.before_s)
        self.is_void |= where.after_s == np.inf or where.before_s == -np.inf
        self.is_timed = where.after_s is not None or where.before_s is not None

    def build(self, models: Any, float_range: Any, any_of: Any) -> Any:
        """The filter; ``float_range(gte, lte)`` and ``any_of(texts)`` make its parts."""
        must = [models.FieldCondition(key=key, match=any_of(wanted)) for key, wanted in self.any_of]
        low, high = (-1.7e308 if self.after_s is None else self.after_s), self.before_s
        if self.is_timed:
            must.append(models.FieldCondition(key="time_s", range=float_range(low, high)))
        must.append(models.FieldCondition(key="order", range=float_range(0.0, None)))  # not the point ``ABOUT``
        return models.Filter(must=must)


class QdrantStore(EngineStore):
    """Embeddings in Qdrant. Implements ``VectorStore``; needs the extra ``osnet[qdrant]``, or ``qdrant-edge-py``.

    Qdrant has no transactions: an addition that is interrupted may be stored in part; adding the same items again
    then raises an error, and ``remove`` deletes them. Writers of one process take turns; let only one process write.
    """

    def __init__(
        self, place: str | Path, *, collection: str = "osnet", edge: bool = False, api_key: str | None = None
    ) -> None:
        """Open a store that exists.

        Args:
            place: ``http://host:6333`` of a server, or a folder.
            collection: its name.
            edge: open the folder with Qdrant's own engine (``qdrant-edge-py``) instead of the client's local mode.
            api_key: of a server that asks for one.

        Raises:
            GalleryError: there is no store of this name; the server cannot be reached; or the folder is open elsewhere.
        """
        self._engine = _open(place, collection, edge, api_key, None)
        self.name = self._engine.name
        self._place = None if _is_address(place) else Path(place)
        self._looks = edge
        self._writing = threading.RLock()
        about = self._engine.retrieve([ABOUT])
        if not about or about[0][1].get("format") != FORMAT:
            self._engine.close()
            raise GalleryError(f"{self.name} holds no store of the format {FORMAT!r}")
        payload = about[0][1]
        self.weights_sha256, self.weights_name = str(payload["weights_sha256"]), str(payload["weights_name"])
        self.embedding_size = int(payload["embedding_size"])

    @classmethod
    def create(
        cls,
        place: str | Path,
        *,
        weights_sha256: str,
        embedding_size: int,
        weights_name: str = "",
        collection: str = "osnet",
        edge: bool = False,
        api_key: str | None = None,
        shards: int = 1,
        replicas: int = 1,
        by_day: bool = False,
    ) -> "QdrantStore":
        """A new, empty store; the other arguments are those of ``QdrantStore``.

        Args:
            shards: of the collection, or of each day, on a cluster.
            replicas: copies of each shard, on a cluster.
            by_day: keep each day (UTC) in shards of its own, on a cluster.

        Raises:
            GalleryError: there is one already; the folder holds something else; or ``by_day`` without a server.
        """
        if by_day and not _is_address(place):
            raise GalleryError(f"{place} is not a server; only a server keeps each day in shards of its own")
        engine = _open(place, collection, edge, api_key, embedding_size, _Shards(shards, replicas, by_day))
        about = {
            "format": FORMAT,
            "weights_sha256": weights_sha256,
            "weights_name": weights_name,
            "embedding_size": embedding_size,
            "order": NO_ORDER,
        }
        engine.upsert([(ABOUT, np.eye(1, embedding_size, dtype=np.float32)[0], about)])
        engine.close()
        return cls(place, collection=collection, edge=edge, api_key=api_key)

    def close(self) -> None:
        """Release files and connections."""
        self._engine.close()

    def _insert(self, units_ND: Floats, items: Sequence[Item]) -> None:
        with self._writing:
            if there := self._fetch([item.source for item in items]):
                raise GalleryError(f"{min(there)} is in {self.name} already; remove it first")
            first = time.time_ns() // 1000 * 1000  # later additions have larger numbers, up to 1,000 apart per item
            points = [
                (_point_id(item.source), vector, _payload(item, first + place))
                for place, (item, vector) in enumerate(zip(items, units_ND, strict=True))
            ]
            self._engine.upsert(points)

    def _nearest(self, unit_D: Floats, where: Where, limit: int) -> list[Row]:
        conditions = Conditions(where)
        if conditions.is_void:
            return []
        return [
            Row(_item(payload), int(payload["order"]), vector, score)
            for payload, vector, score in self._engine.nearest(unit_D, conditions, limit)
        ]

    def _list(self, where: Where, after: str | None, limit: int | None) -> list[Item]:
        conditions = Conditions(where)
        if conditions.is_void:
            return []
        found = [(int(payload["order"]), payload) for _, payload, _ in self._engine.scroll(conditions, False)]
        if after is not None:
            start = int(self._engine.retrieve([_point_id(after)])[0][1]["order"])
            found = [entry for entry in found if entry[0] > start]
        return [_item(payload) for _, payload in sorted(found, key=lambda entry: entry[0])[:limit]]

    def _list_sources(self, prefix: str) -> Iterable[str]:
        found = (str(payload["source"]) for _, payload, _ in self._engine.scroll(Conditions(Where()), False))
        return [source for source in found if source.startswith(prefix)]

    def _fetch(self, sources: Sequence[str]) -> dict[str, Floats]:
        ids = {_point_id(source): source for source in sources}
        found: dict[str, Floats] = {}
        for start in range(0, len(ids), PAGE):
            for point_id, payload, vector in self._engine.retrieve(list(ids)[start : start + PAGE]):
                if payload.get("source") == ids[point_id]:
                    found[ids[point_id]] = np.array(vector, dtype=np.float32)
        return found

    def _count(self, where: Where) -> int:
        conditions = Conditions(where)
        return 0 if conditions.is_void else self._engine.count(conditions)

    def _delete(self, where: Where) -> int:
        with self._writing:
            conditions = Conditions(where)
            ids = [] if conditions.is_void else [i for i, _, _ in self._engine.scroll(conditions, False)]
            for start in range(0, len(ids), PAGE):
                self._engine.delete(ids[start : start + PAGE])
            return len(ids)

    def _erase(self, where: Where, sources: Sequence[str]) -> tuple[int, int]:
        with self._writing:
            self._delete(where)
            self._engine.vacuum()
        return 1, 0

    def _folder(self) -> Path | None:
        return self._place if self._looks else None

    def _out_of_reach(self) -> tuple[str, ...]:
        found = ["snapshots, backups, and what the disk keeps of deleted files"]
        if self._place is None:
            found.append(
                "the server's files: deleted points stay until its vacuum, which leaves out segments of fewer than 100 "
                "points, and longer in its write-ahead log"
            )
        elif not self._looks:
            found.append("the files were not looked at: the local mode of the client stores embeddings in another form")
        return tuple(found)

    def check(self) -> list[str]:
        """Look for embeddings whose length is not 1, and ids that are not of their source."""
        wrong = mixed = 0
        for point_id, payload, vector in self._engine.scroll(Conditions(Where()), True):
            wrong += abs(float(np.linalg.norm(np.array(vector, np.float32))) - 1) > 1e-4
            mixed += point_id != _point_id(str(payload.get("source")))
        faults = [f"{self.name} holds {wrong} embeddings whose length is not 1"] if wrong else []
        return faults + ([f"{self.name} holds {mixed} points whose id is not of their source"] if mixed else [])


@dataclass(frozen=True)
class _Shards:
    """How a server divides a collection."""

    number: int = 1
    replicas: int = 1
    by_day: bool = False


class _Client:
    """A server, or the local mode of ``qdrant-client``."""

    def __init__(
        self,
        place: str | Path,
        collection: str,
        api_key: str | None,
        create_size: int | None,
        shards: _Shards,
    ) -> None:
        client = require_extra("qdrant_client", "qdrant")
        self._models: ModuleType = client.models
        self._erasing = client.models.OptimizersConfigDiff(deleted_threshold=0.0, vacuum_min_vector_number=100)
        self._collection = collection
        self._lock = threading.RLock()  # the local mode is not safe for threads
        self._on_server = _is_address(place)
        self._days: set[str] | None = None
        """Shard keys; None if the collection is not divided by day."""
        self.name = f"{str(place).rstrip('/')}/{collection}" if self._on_server else str(place)
        if not self._on_server and create_size is None:  # Qdrant would write its files into any folder
            folder = Path(place)
            if not folder.is_dir():
                raise GalleryError(f"no such folder: {place}")
            if not (folder / "meta.json").is_file() or not (folder / "collection" / collection).is_dir():
                raise GalleryError(f"{place} holds no collection {collection!r}")
        if not self._on_server and create_size is not None:
            folder = Path(place)
            if folder.is_dir() and not (folder / "meta.json").is_file() and any(folder.iterdir()):
                raise GalleryError(f"{place} is not empty; a new store needs a folder of its own")
        where = {"url": str(place), "api_key": api_key} if self._on_server else {"path": str(place)}
        with _translated(self.name, Exception):  # of a folder that is open elsewhere, for instance, a RuntimeError
            self._client: Any = client.QdrantClient(**where)
        self._errors = (client.http.exceptions.ApiException, OSError, RuntimeError)  # the last: of a closed store
        try:
            with self._calling():
                self._settle(create_size, shards)
        except BaseException:
            self._client.close()
            raise

    def _calling(self) -> AbstractContextManager[None]:
        """One thread at a time. Qdrant's errors become GalleryError."""
        return _translated(self.name, *self._errors, lock=self._lock)

    def _settle(self, create_size: int | None, shards: _Shards) -> None:
        there = self._client.collection_exists(self._collection)
        if there != (create_size is None):
            raise GalleryError(f"{self.name} holds {'a' if there else 'no'} collection {self._collection!r}")
        if create_size is not None:
            self._create(create_size, shards)
        if self._on_server:
            params = self._client.get_collection(self._collection).config.params
            if params.sharding_method == self._models.ShardingMethod.CUSTOM:
                self._days = {str(one.key) for one in self._client.list_shard_keys(self._collection).shard_keys or ()}

    def _create(self, size: int, shards: _Shards) -> None:
        models = self._models
        on_cluster: dict[str, Any] = {}
        if self._on_server:
            on_cluster = {"shard_number": shards.number, "replication_factor": shards.replicas}
        if shards.by_day:
            on_cluster["sharding_method"] = models.ShardingMethod.CUSTOM
        self._client.create_collection(
            self._collection,
            vectors_config=models.VectorParams(size=size, distance=models.Distance.DOT),
            optimizers_config=self._erasing,
            **on_cluster,
        )
        if self._on_server:
            for key, kind in (
                ("source", "keyword"),
                ("identity", "keyword"),
                ("camera", "keyword"),
                ("time_s", "float"),
                ("order", "integer"),
            ):
                self._client.create_payload_index(self._collection, key, kind)

    def _filter(self, where: Conditions) -> Any:
        models = self._models
        return where.build(
            models, lambda gte, lte: models.Range(gte=gte, lte=lte), lambda texts: models.MatchAny(any=texts)
        )

    def upsert(self, points: list[tuple[str, Floats, dict[str, Any]]]) -> None:
        groups: dict[str | None, list[Any]] = defaultdict(list)
        for point_id, vector, payload in points:
            key = None if self._days is None else _day(payload.get("time_s"))
            groups[key].append(self._models.PointStruct(id=point_id, vector=vector.tolist(), payload=payload))
        with self._calling():
            for key, structs in groups.items():
                if self._days is not None and key is not None and key not in self._days:
                    self._client.create_shard_key(self._collection, key)
                    self._days.add(key)
                for start in range(0, len(structs), PAGE):
                    part = structs[start : start + PAGE]
                    self._client.upsert(self._collection, part, wait=True, shard_key_selector=key)

    def nearest(self, vector: Floats, where: Conditions, limit: int) -> list[tuple[dict[str, Any], Floats, float]]:
        with self._calling():
            found = self._client.query_points(
                self._collection,
                query=vector.tolist(),
                query_filter=self._filter(where),
                limit=limit,
                with_payload=True,
                with_vectors=True,
                search_params=self._models.SearchParams(exact=True) if self._on_server else None,
            ).points
        return [(point.payload, np.array(point.vector, np.float32), point.score) for point in found]

    def scroll(self, where: Conditions, with_vectors: bool) -> Iterator[tuple[str, dict[str, Any], Any]]:
        offset = None
        while True:
            with self._calling():
                points, offset = self._client.scroll(
                    self._collection, self._filter(where), limit=PAGE, offset=offset, with_vectors=with_vectors
                )
            for point in points:
                yield str(point.id), point.payload, point.vector
            if offset is None:
                return

    def retrieve(self, ids: list[str]) -> list[tuple[str, dict[str, Any], Any]]:
        with self._calling():
            found = self._client.retrieve(self._collection, ids, with_payload=True, with_vectors=True)
        return [(str(point.id), point.payload, point.vector) for point in found]

    def count(self, where: Conditions) -> int:
        with self._calling():
            return int(self._client.count(self._collection, self._filter(where), exact=True).count)

    def delete(self, ids: list[str]) -> None:
        with self._calling():
            self._client.delete(self._collection, self._models.PointIdsList(points=ids), wait=True)

    def vacuum(self) -> None:
        """A server does it by itself, by the thresholds of the collection: earlier versions of this package made it
        with a higher one. Days without points are deleted here.
        """
        with self._calling():
            if self._on_server:
                config = self._client.get_collection(self._collection).config
                if config.optimizer_config.deleted_threshold:
                    self._client.update_collection(self._collection, optimizers_config=self._erasing)
            for day in sorted(self._days or ()):
                if not self._client.count(self._collection, exact=True, shard_key_selector=day).count:
                    self._client.delete_shard_key(self._collection, day)
                    assert self._days is not None
                    self._days.discard(day)

    def close(self) -> None:
        with self._calling():
            self._client.close()


class _Edge:
    """Qdrant's engine in this process."""

    def __init__(self, place: str | Path, create_size: int | None) -> None:
        self._edge: Any = require_extra("qdrant_edge", "qdrant")
        self.name, folder = str(place), Path(place)
        self._lock = threading.RLock()
        edge = self._edge
        if create_size is None:
            if not folder.is_dir():
                raise GalleryError(f"no such folder: {place}")
            if not (folder / "edge_config.json").is_file() and not any(folder.glob("segments/*/segment.json")):
                raise GalleryError(f"{place} holds no store of Qdrant Edge")  # which would write into any folder
            with self._calling():
                self._shard = edge.EdgeShard.load(str(folder))
            return
        with self._calling():
            if folder.exists() and any(folder.iterdir()):
                raise GalleryError(f"{place} is not empty; a new store needs a folder of its own")
            folder.mkdir(parents=True, exist_ok=True)
        config = edge.EdgeConfig(
            vectors={"": edge.EdgeVectorParams(size=create_size, distance=edge.Distance.Dot)},
            optimizers=edge.EdgeOptimizersConfig(
                deleted_threshold=0.0,  # one deleted point among millions, too, is removed from the files
                vacuum_min_vector_number=1,
                indexing_threshold=NO_GRAPH,
            ),
            wal_enabled=False,
        )
        with self._calling():
            self._shard = edge.EdgeShard.create(str(folder), config)

    def _calling(self) -> AbstractContextManager[None]:
        """One thread at a time. Qdrant's errors, which are plain ``Exception``, become GalleryError."""
        return _translated(self.name, Exception, lock=self._lock)

    def _filter(self, where: Conditions) -> Any:
        edge = self._edge
        return where.build(edge, lambda gte, lte: edge.RangeFloat(gte=gte, lte=lte), lambda texts: edge.MatchAny(texts))

    def upsert(self, points: list[tuple[str, Floats, dict[str, Any]]]) -> None:
        edge = self._edge
        made = [edge.Point(uuid.UUID(point_id), vector.tolist(), payload) for point_id, vector, payload in points]
        with self._calling():
            self._shard.update(edge.UpdateOperation.upsert_points(made))
            self._shard.flush()

    def nearest(self, vector: Floats, where: Conditions, limit: int) -> list[tuple[dict[str, Any], Floats, float]]:
        edge = self._edge
        request = edge.QueryRequest(
            limit=limit,
            query=edge.Query.Nearest(vector.tolist()),
            filter=self._filter(where),
            with_payload=True,
            with_vector=True,
            params=edge.SearchParams(exact=True),
        )
        with self._calling():
            found = self._shard.query(request)
        return [(point.payload, _plain(point.vector), point.score) for point in found]

    def scroll(self, where: Conditions, with_vectors: bool) -> Iterator[tuple[str, dict[str, Any], Any]]:
        offset = None
        while True:
            request = self._edge.ScrollRequest(
                offset=offset, limit=PAGE, filter=self._filter(where), with_payload=True, with_vector=with_vectors
            )
            with self._calling():
                points, offset = self._shard.scroll(request)
            for point in points:
                yield str(point.id), point.payload, _plain(point.vector) if with_vectors else None
            if offset is None:
                return

    def retrieve(self, ids: list[str]) -> list[tuple[str, dict[str, Any], Any]]:
        with self._calling():
            found = self._shard.retrieve([uuid.UUID(i) for i in ids], with_payload=True, with_vector=True)
        return [(str(point.id), point.payload, _plain(point.vector)) for point in found]

    def count(self, where: Conditions) -> int:
        with self._calling():
            return int(self._shard.count(self._edge.CountRequest(filter=self._filter(where), exact=True)))

    def delete(self, ids: list[str]) -> None:
        with self._calling():
            self._shard.update(self._edge.UpdateOperation.delete_points([uuid.UUID(i) for i in ids]))

    def vacuum(self) -> None:
        with self._calling():
            self._shard.flush()
            while self._shard.optimize():
                pass
            self._shard.flush()

    def close(self) -> None:
        with self._calling():
            self._shard.close()


@contextmanager
def _translated(name: str, *errors: type[Exception], lock: AbstractContextManager[Any] | None = None) -> Iterator[None]:
    """Raise GalleryError with the store's name in place of ``errors``."""
    with lock or nullcontext():
        try:
            yield
        except GalleryError:
            raise
        except errors as error:
            raise GalleryError(f"{name}: {(str(error).splitlines() or [type(error).__name__])[0]}") from error


def _open(
    place: str | Path,
    collection: str,
    edge: bool,
    api_key: str | None,
    create_size: int | None,
    shards: _Shards = _Shards(),
) -> Engine:
    if edge:
        return _Edge(place, create_size)
    return _Client(place, collection, api_key, create_size, shards)


def _is_address(place: str | Path) -> bool:
    return str(place).startswith(("http://", "https://"))


def _day(time_s: float | None) -> str:
    """The shard key of an item: the date (UTC), or ``UNDATED``."""
    day = None if time_s is None else time_s // DAY_S
    if day is None or not FIRST_DAY <= day <= LAST_DAY:
        return UNDATED
    return date.fromordinal(int(day) - FIRST_DAY + 1).isoformat()


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in text)


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def _point_id(source: str) -> str:
    return str(uuid.UUID(bytes=blake2b(source.encode("utf-8", "surrogatepass"), digest_size=16).digest()))


def _payload(item: Item, order: int) -> dict[str, Any]:
    time_s = None if item.time_s is None else float(item.time_s)  # JSON has no NumPy numbers, and no fractions
    values = {"source": item.source, "identity": item.identity, "camera": item.camera, "time_s": time_s}
    return {name: value for name, value in values.items() if value is not None} | {"order": order}


def _item(payload: dict[str, Any]) -> Item:
    return Item(payload["source"], payload.get("identity"), payload.get("camera"), payload.get("time_s"))


def _plain(vector: Any) -> Floats:
    return np.array(vector[""] if isinstance(vector, dict) else vector, dtype=np.float32)
