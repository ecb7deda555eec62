"""A service whose state lies on a real PostgreSQL server: a day's work, and an erasure down to the server's files."""

from pathlib import Path

import pytest

from engine_files import read_there

pytest.importorskip("fastapi")

from osnet.service import audit
from osnet.service.database_postgres import PostgresDatabase
from small_service import API, PASSWORD, Site, copy_archive, crop_file, serving
from store_servers import postgres_server


@pytest.mark.slow
def test_a_days_work_on_postgres(painted_archive: Path, tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    with postgres_server() as (address, folder):
        site = Site(tmp_path, copy_archive(painted_archive, tmp_path), database=address)
        database = site.service.database
        assert isinstance(database, PostgresDatabase)
        assert not (tmp_path / "state" / "state.sqlite").exists()
        site.add("olga", "operator")
        client, browser = site.client(), site.browser("olga")
        assert browser.get("/").status_code == 200
        odd = {"name": "x\0y", "password": PASSWORD, "token": "x"}
        assert browser.post("/login", data=odd).status_code == 403
        public = site.tracklets()[0]
        once = {"Idempotency-Key": "once-and-again"}
        case = client.post(f"{API}/cases", json={"title": "t"}, headers=once).json()["id"]
        assert client.post(f"{API}/cases", json={"title": "t"}, headers=once).json()["id"] == case
        photo = [("photos", ("p.jpg", crop_file(site, public)))]
        options = {"options": f'{{"case": "{case}", "reason": "a\\u0000b"}}'}
        search = client.post(f"{API}/searches/photos", files=photo, data=options).json()["id"]
        for answer in ("yes", "undone", "yes"):
            given = {"tracklet": public, "answer": answer}
            assert client.post(f"{API}/searches/{search}/answers", json=given).status_code == 200
        for path in ("/hits", "/answers", "/timeline", "/queries/1.jpg"):
            assert client.get(f"{API}/searches/{search}{path}").status_code == 200
        assert client.post(f"{API}/cases/{case}/export", json={"reason": "r"}).status_code == 200
        client.put(f"{API}/settings/maximum_days", json={"value": 3650})
        client.put(f"{API}/retention/camera-1", json={"days": 3000})
        site.service.retention.run("test")
        vector = database.all("SELECT vector FROM queries")[0]["vector"]
        at = next(n for n in range(0, 2048, 4) if all(vector[k : k + 4] != bytes(4) for k in range(n, n + 24, 4)))
        needles = [vector[at : at + 24], public.encode()]

        def holders() -> set[str]:
            """Files of the server that hold a piece of the query's vector, or the tracklet's id."""
            database.all("SELECT pg_switch_wal()")
            places = [path for path in folder.rglob("*") if path.is_file()]
            return {p.relative_to(folder).as_posix() for p in places if any(n in read_there(p) for n in needles)}

        assert holders()  # the control: they are there before
        plan = client.post(f"{API}/erasures/preview", json={"tracklets": [public], "searches": [search]}).json()
        given = {"tracklets": [public], "searches": [search], "digest": plan["digest"], "reason": "r"}
        job = client.post(f"{API}/erasures", json=given).json()["job"]
        site.wait_for_jobs()
        report = client.get(f"{API}/jobs/{job}").json()["report"]
        assert report["removed"]["tracklets"] >= 1
        assert report["check"]["found"] == []
        assert report["check"]["files"] > 500  # the server's own files were looked through
        assert not any("pg_wal" in text or "looked at" in text for text in report["out_of_reach"]["state"])
        assert database.all("SELECT search FROM queries") == []
        assert holders() == set()
        paths = ("/accounts", "/roles", "/tokens", "/audit", "/audit/verify", "/jobs", "/watch", "/sources", "/cases")
        for path in paths:
            assert client.get(API + path).status_code == 200, path
        assert audit.verify(database).is_whole
        database.close()
        with serving(painted_archive, tmp_path / "command", state=address) as (_, key, _):
            assert key is None  # the accounts of before are there


def test_the_server_that_is_gone_is_said(painted_archive: Path, tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    with postgres_server() as (address, _):
        site = Site(tmp_path, painted_archive, database=address)
        client = site.client()
        assert client.get("/readyz").status_code == 200
    answer = client.get(f"{API}/cases")
    assert (answer.status_code, answer.json()["code"]) == (503, "state")
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").status_code == 200
