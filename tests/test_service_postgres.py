"""The SQL of the service's state on a real PostgreSQL server: migrations and a whole day's work.

The adapter here is as small as a second back end of ``Database`` would be.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from osnet.service import audit, core
from osnet.service.database import Row, read_migrations, split_statements
from small_service import PASSWORD, Site, copy_archive, crop_file
from store_servers import postgres_server

API = "/api/v1"


class Statements:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def run(self, sql: str, *values: Any) -> int:
        return int(self._connection.execute(sql.replace("?", "%s"), values).rowcount)

    def run_many(self, sql: str, rows: Any) -> None:
        self._connection.cursor().executemany(sql.replace("?", "%s"), rows)

    def all(self, sql: str, *values: Any) -> list[Row]:
        return list(self._connection.execute(sql.replace("?", "%s"), values).fetchall())

    def one(self, sql: str, *values: Any) -> Row | None:
        row: Row | None = self._connection.execute(sql.replace("?", "%s"), values).fetchone()
        return row


class PostgresDatabase:
    """What ``Database`` offers, over one connection."""

    def __init__(self, address: str) -> None:
        import psycopg
        from psycopg.rows import dict_row

        self._connection = psycopg.connect(address, autocommit=True, row_factory=dict_row)  # type: ignore[arg-type]
        self._lock, self._inside = threading.RLock(), False
        with self.write() as tx:
            for _, sql in read_migrations():
                for statement in split_statements(sql.replace(" BYTES", " BYTEA")):
                    tx.run(statement)

    def all(self, sql: str, *values: Any) -> list[Row]:
        with self._lock:
            return Statements(self._connection).all(sql, *values)

    def one(self, sql: str, *values: Any) -> Row | None:
        with self._lock:
            return Statements(self._connection).one(sql, *values)

    @contextmanager
    def write(self) -> Iterator[Statements]:
        with self._lock:
            if self._inside:
                yield Statements(self._connection)
                return
            self._inside = True
            try:
                with self._connection.transaction():
                    yield Statements(self._connection)
            finally:
                self._inside = False

    def forget(self) -> None:
        pass

    def files(self) -> list[Path]:
        return []

    def close(self) -> None:
        self._connection.close()


@pytest.mark.slow
def test_a_days_work_on_postgres(painted_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg")
    with postgres_server() as (address, _):
        database = PostgresDatabase(address)
        monkeypatch.setattr(core, "Database", lambda _: database)
        site = Site(tmp_path, copy_archive(painted_archive, tmp_path))
        site.add("olga", "operator")
        client, browser = site.client(), site.browser("olga")
        assert browser.get("/").status_code == 200
        assert browser.post("/login", data={"name": "x", "password": PASSWORD, "token": "x"}).status_code == 403
        public = site.tracklets()[0]
        case = client.post(f"{API}/cases", json={"title": "t"}, headers={"Idempotency-Key": "once-and-again"}).json()[
            "id"
        ]
        again = client.post(f"{API}/cases", json={"title": "t"}, headers={"Idempotency-Key": "once-and-again"})
        assert again.json()["id"] == case
        photo = [("photos", ("p.jpg", crop_file(site, public)))]
        search = client.post(f"{API}/searches/photos", files=photo, data={"options": f'{{"case": "{case}"}}'}).json()[
            "id"
        ]
        for answer in ("yes", "undone", "yes"):
            given = {"tracklet": public, "answer": answer}
            assert client.post(f"{API}/searches/{search}/answers", json=given).status_code == 200
        for path in ("/hits", "/answers", "/timeline", "/queries/1.jpg"):
            assert client.get(f"{API}/searches/{search}{path}").status_code == 200
        assert client.post(f"{API}/cases/{case}/export", json={"reason": "r"}).status_code == 200
        client.put(f"{API}/settings/maximum_days", json={"value": 3650})
        client.put(f"{API}/retention/camera-1", json={"days": 3000})
        site.service.retention.run("test")
        plan = client.post(f"{API}/erasures/preview", json={"tracklets": [public], "searches": [search]}).json()
        given = {"tracklets": [public], "searches": [search], "digest": plan["digest"], "reason": "r"}
        job = client.post(f"{API}/erasures", json=given).json()["job"]
        site.wait_for_jobs()
        report = client.get(f"{API}/jobs/{job}").json()["report"]
        assert report["removed"]["tracklets"] >= 1
        assert database.all("SELECT search FROM queries") == []
        for path in (
            "/accounts",
            "/roles",
            "/tokens",
            "/audit",
            "/audit/verify",
            "/jobs",
            "/watch",
            "/sources",
            "/cases",
        ):
            assert client.get(API + path).status_code == 200, path
        assert audit.verify(database).is_whole  # type: ignore[arg-type]
        database.close()
