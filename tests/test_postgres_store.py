"""The PostgreSQL store on a real server: index and recall, partitions, addresses, a streaming standby."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine_files import read_all
from osnet.errors import DataError, GalleryError
from osnet.gallery import Where
from osnet.gallery.traces import pieces_of
from osnet.types import Item
from store_servers import postgres_server

pytest.importorskip("psycopg")
pytest.importorskip("pgvector")
from osnet.gallery import postgres_store
from osnet.gallery.postgres_store import PostgresStore

SHA, SIZE, DAY_S = "a" * 64, 32, 86_400.0


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Path]]:
    with postgres_server() as started:
        yield started


def people(count: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    rows = np.maximum(draw.normal(0.22, 1, (count // 5, SIZE)), 0).repeat(5, 0) + draw.normal(0, 0.1, (count, SIZE))
    return rows.astype(np.float32)


def items(count: int) -> list[Item]:
    return [Item(f"/f/{n:05d}", f"p{n // 5}", f"c{n % 10}", (20_000 + n % 2) * DAY_S) for n in range(count)]


def fill(address: str, data: Path, count: int) -> PostgresStore:
    store = PostgresStore.create(address, weights_sha256=SHA, embedding_size=SIZE, data_folder=data)
    store.add_embeddings(people(count, 0), items(count), weights_sha256=SHA)
    return store


def test_index_search_has_high_recall_and_is_exact_for_narrow_filters(
    server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = fill(f"{server[0]}&schema=indexed", server[1], 3000)
    queries = people(20, 0) + np.float32(0.05)
    half, narrow = Where(cameras=frozenset(["c1", "c2", "c3", "c4", "c5"])), Where(cameras=frozenset({"c7"}))
    exact = {
        name: store.search_embeddings(queries, weights_sha256=SHA, top=10, where=where)
        for name, where in (("all", None), ("half", half), ("narrow", narrow))
    }
    store.build_index()
    monkeypatch.setattr(postgres_store, "EXACT_ROWS", 300)
    used: list[str] = []
    for name, where in (("all", None), ("half", half), ("narrow", narrow)):
        found = store.search_embeddings(queries, weights_sha256=SHA, top=10, where=where)
        right = sum(
            len({h.item.source for h in a} & {h.item.source for h in b})
            for a, b in zip(exact[name], found, strict=True)
        )
        used.append(f"{name}: {right / 200:.3f}")
        assert all(len(hits) == 10 for hits in found), name
        assert right / 200 >= (1 if name == "narrow" else 0.95), used
    with store._connected() as connection, connection.transaction():
        plan = "".join(
            row[0] for row in connection.execute(
                "EXPLAIN SELECT source FROM indexed.osnet_items ORDER BY embedding <#> %s LIMIT 10", (queries[0],)
            )
        )  # fmt: skip
    assert "hnsw" in plan or "embedding_idx" in plan, plan
    store.drop()


def test_partitions_are_pruned_and_dropped(server: tuple[str, Path]) -> None:
    store = fill(f"{server[0]}&schema=days", server[1], 40)
    query = (
        "SELECT relname FROM pg_class WHERE relname ~ '^osnet_items_(m?[0-9]+|undated)$' AND relkind = 'r' ORDER BY 1"
    )
    assert [row[0] for row in store._run(query)] == ["osnet_items_20000", "osnet_items_20001"]
    store._run("ANALYZE")  # autovacuum does this; no item may be copied into the statistics
    text, values = postgres_store._conditions(Where(after_s=20_001 * DAY_S))
    plan = "".join(row[0] for row in store._run(f"EXPLAIN SELECT 1 FROM days.osnet_items WHERE {text}", values))
    assert "osnet_items_20001" in plan
    assert "osnet_items_20000" not in plan
    report = store.expire(20_001 * DAY_S)
    assert (report.rows, report.rewritten, report.deleted, report.found_again) == (20, 0, 1, ())
    assert [row[0] for row in store._run(query)] == ["osnet_items_20001"]
    store.drop()


def test_bad_addresses_and_closed_connections(server: tuple[str, Path], tmp_path: Path) -> None:
    address = f"{server[0]}&schema=s"
    with pytest.raises(GalleryError, match="no store in the schema 's'"):
        PostgresStore(address)
    for bad in ('x"; DROP SCHEMA s; --', "a b", "x" * 41, ""):
        with pytest.raises(GalleryError, match="schema"):
            PostgresStore(f"{server[0]}&schema={bad}")
    with pytest.raises(GalleryError, match="2000"):
        PostgresStore.create(address, weights_sha256=SHA, embedding_size=2000)
    with pytest.raises(GalleryError) as refused:
        PostgresStore(f"postgresql://osnet:secret-word@/postgres?host={tmp_path}")
    assert "secret-word" not in str(refused.value)
    store = fill(address, server[1], 10)
    with pytest.raises(GalleryError, match="already"):
        fill(address, server[1], 10)
    other = PostgresStore(address)
    store._run("SELECT 1")
    with other._connected() as connection:  # the next call reconnects
        (pid,) = connection.execute("SELECT pg_backend_pid()").fetchone()
    store._run("SELECT pg_terminate_backend(%s)", (pid,))
    with pytest.raises(GalleryError):
        other.count()
    assert other.count() == 10
    other.close()
    store.drop()


@pytest.mark.slow
def test_a_standby_serves_searches_and_receives_erasures(server: tuple[str, Path]) -> None:
    address, data = server
    store = fill(f"{address}&schema=shared", data, 200)
    erased = store.find(Where(identities=frozenset({"p3"})))
    pieces = [piece for row in store.embeddings([i.source for i in erased]) for piece in pieces_of(row)]
    with postgres_server(follows=server) as (standby_address, standby_data):
        standby = PostgresStore(f"{standby_address}&schema=shared", data_folder=standby_data)

        def wait_until(count: int) -> None:
            for _ in range(300):
                if standby.count() == count:
                    return
                time.sleep(0.1)
            raise AssertionError(f"the standby holds {standby.count()}, not {count}")

        wait_until(200)
        for _ in range(300):
            if store._run("SELECT count(*) FROM pg_stat_replication")[0][0]:
                break
            time.sleep(0.1)
        query = people(5, 9)[0]
        assert standby.search_embedding(query, weights_sha256=SHA) == store.search_embedding(query, weights_sha256=SHA)
        with pytest.raises(GalleryError, match="read-only"):
            standby.add_embeddings(people(5, 3)[:1], [Item("new")], weights_sha256=SHA)

        def seen(folder: Path) -> int:
            everything = read_all(folder.rglob("*"))
            return sum(piece in everything for piece in pieces)

        assert seen(standby_data) > 0
        report = store.erase(Where(identities=frozenset({"p3"})))
        assert report.is_complete
        assert any("standby" in words for words in report.out_of_reach)
        wait_until(195)
        (place,) = store._run("SELECT pg_current_wal_lsn()::text")[0]
        for _ in range(300):
            if standby._run("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (place,))[0][0]:
                break
            time.sleep(0.1)
        for _ in range(3):  # the standby deletes its log at restart points after checkpoints
            with store._connected() as connection:
                postgres_store.flush_log(connection)
            time.sleep(0.3)
            standby._run("CHECKPOINT")
            time.sleep(0.3)
        assert standby.find(Where(identities=frozenset({"p3"}))) == []
        assert seen(data) == 0
        assert seen(standby_data) == 0
        standby.close()
    store.drop()


def test_an_address_keeps_its_parameters(server: tuple[str, Path]) -> None:
    """libpq reads ``%20`` as a space and ``+`` as itself."""
    from osnet.service.database_postgres import PostgresDatabase

    address = f"{server[0]}&options=-c%20work_mem%3D5MB&application_name=a%2Bb+c"
    store = PostgresStore.create(f"{address}&schema=kept", weights_sha256=SHA, embedding_size=SIZE)
    assert store._run("SHOW work_mem") == [("5MB",)]
    assert store._run("SHOW application_name") == [("a+b+c",)]
    database = PostgresDatabase(f"{address}&schema=kept_service&passfile=/a%20b")
    assert "passfile=%2Fa%20b" in database._address
    database.close()
    for make in (PostgresStore, PostgresDatabase):
        with pytest.raises((GalleryError, DataError), match="IPv6"):
            make("postgresql://[host/database")
