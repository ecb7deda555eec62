"""Faults around the service: kills during writes, full disk, missing files, locked state, clock set back."""

import errno
import os
import random
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from osnet.service import audit, cases
from osnet.service.columns import Filters
from osnet.service.database import STATE_FILE, open_database
from osnet.service.database_sqlite import SqliteDatabase
from small_service import API, Site, copy_archive, crop_file
from store_servers import postgres_server


@pytest.fixture
def site(painted_archive: Path, tmp_path: Path) -> Site:
    return Site(tmp_path, painted_archive)


def write_for_ever(site: Site, pipe: int) -> None:
    """Cases, searches and answers, one after the other; each that was confirmed is told to the pipe."""
    actor, service = site.actor(), site.service
    publics = site.tracklets()
    while True:
        case = service.cases.create(actor, "case", "notes", "reason")
        query = service.searches.read_tracklet(actor, random.choice(publics))
        search = service.searches.create(actor, [query], Filters(), reason="reason", case_id=case)
        os.write(pipe, f"search {search}\n".encode())
        for public in random.sample(publics, 3):
            service.searches.answer(actor, search, public, "yes")
            os.write(pipe, f"answer {search} {public}\n".encode())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_kills_during_writes_lose_no_confirmed_write(painted_archive: Path, tmp_path: Path, kind: str) -> None:
    """No confirmed answer is lost, no search or case is half there, the audit chain is whole."""
    if kind == "sqlite":
        kill_writers(Site(tmp_path, painted_archive), tmp_path / "state" / STATE_FILE)
        return
    pytest.importorskip("psycopg")
    with postgres_server() as (address, _):
        kill_writers(Site(tmp_path, painted_archive, database=address), address)


def kill_writers(site: Site, state: Path | str) -> None:
    """Kill 50 processes that write, then look at the state as a new service finds it."""
    random.seed(0)
    confirmed: list[list[str]] = []
    for _ in range(50):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:  # pragma: no cover
            try:
                random.seed()
                write_for_ever(site, writing)
            finally:
                os._exit(1)
        os.close(writing)
        with os.fdopen(reading, "rb") as file:
            said = b"".join(file.readline() for _ in range(random.randint(1, 6))).decode()  # it is well under way
            time.sleep(random.uniform(0, 0.03))  # somewhere in the next writes
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            said += file.read().decode()
        assert os.WIFSIGNALED(status), "it ended by itself"
        confirmed += [line.split() for line in said[: said.rfind("\n") + 1].splitlines()]
    answers = [line for line in confirmed if line[0] == "answer"]
    assert len(answers) > 50
    again = open_database(state)  # as after a new start
    there = {(r["search"], r["tracklet"]) for r in again.all("SELECT search, tracklet FROM answers")}
    assert {(line[1], line[2]) for line in answers} <= there
    searches = {r["id"] for r in again.all("SELECT id FROM searches")}
    assert {line[1] for line in confirmed if line[0] == "search"} <= searches
    for table in ("queries", "hits"):
        assert {r["search"] for r in again.all(f"SELECT DISTINCT search FROM {table}")} == searches
    if isinstance(again, SqliteDatabase):
        assert again.all("PRAGMA foreign_key_check") == []
        assert again.one("PRAGMA integrity_check") == {"integrity_check": "ok"}
    found = audit.verify(again)
    again.close()
    assert found.is_whole, found.faults
    assert found.entries > len(answers)


def test_a_full_disk_is_reported_and_changes_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    client, public = site.client(), site.tracklets()[0]
    search = client.post(f"{API}/searches", json={"tracklets": [public]}).json()["id"]
    browser = site.browser()
    pages = site.service.database.one("PRAGMA page_count")
    assert pages is not None
    real = SqliteDatabase._connect

    def full(self: SqliteDatabase) -> sqlite3.Connection:
        connection = real(self)
        connection.execute(f"PRAGMA max_page_count = {pages['page_count']}")
        return connection

    monkeypatch.setattr(SqliteDatabase, "_connect", full)
    site.service.database.close()  # the connections without the limit
    statuses = set()
    for _ in range(40):
        answer = client.post(f"{API}/searches", json={"tracklets": [public], "reason": "x" * 900})
        statuses.add(answer.status_code)
        if answer.status_code == 507:
            assert answer.json()["code"] == "disk-full"
            break
    assert 507 in statuses
    page = browser.post("/cases", data={"csrf": browser.csrf, "title": "t" * 150, "reason": "x" * 900})  # type: ignore[attr-defined]
    assert page.status_code in (303, 507)
    monkeypatch.undo()
    site.service.database.close()
    assert audit.verify(site.service.database).is_whole
    assert client.get(f"{API}/searches/{search}").status_code == 200


def test_a_full_disk_of_postgres_is_reported_and_changes_nothing(
    painted_archive: Path, tmp_path: Path, state_server: str
) -> None:
    """The server answers as it does when it cannot extend a file, in a transaction's last statement or its first."""
    site = Site(tmp_path, painted_archive, database=f"{state_server}&schema=full_disk")
    client, browser, public = site.client(), site.browser(), site.tracklets()[0]
    database = site.service.database
    tables = ("searches", "queries", "hits", "cases", "answers", "audit")
    search = client.post(f"{API}/searches", json={"tracklets": [public]}).json()["id"]

    def rows() -> dict[str, int]:
        return {table: len(database.all(f"SELECT * FROM {table}")) for table in tables}

    with database.write() as tx:
        tx.run(
            "CREATE FUNCTION no_space() RETURNS trigger AS $$ BEGIN RAISE EXCEPTION "
            "'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$ LANGUAGE plpgsql"
        )
    before = rows()
    for table in ("audit", "searches"):
        with database.write() as tx:
            tx.run(f"CREATE TRIGGER full_disk BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION no_space()")
        answer = client.post(f"{API}/searches", json={"tracklets": [public]})
        assert (answer.status_code, answer.json()["code"]) == (507, "disk-full")
        if table == "audit":
            page = browser.post("/cases", data={"csrf": browser.csrf, "title": "t", "reason": "r"})  # type: ignore[attr-defined]
            assert page.status_code == 507
        with database.write() as tx:
            tx.run(f"DROP TRIGGER full_disk ON {table}")
        assert rows() == before
    assert client.get(f"{API}/searches/{search}").status_code == 200
    assert client.post(f"{API}/searches", json={"tracklets": [public]}).status_code == 201
    assert audit.verify(database).is_whole
    site.service.database.close()


def test_a_full_disk_during_an_export_leaves_no_file(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    client, public = site.client(), site.tracklets()[0]
    case = client.post(f"{API}/cases", json={"title": "t"}).json()["id"]
    search = client.post(f"{API}/searches", json={"tracklets": [public], "case": case}).json()["id"]
    client.post(f"{API}/searches/{search}/answers", json={"tracklet": public, "answer": "yes"})

    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cases, "made_clip", full)
    answer = client.post(f"{API}/cases/{case}/export", json={"reason": "r"})
    assert (answer.status_code, answer.json()["code"]) == (507, "disk-full")
    assert [p for p in site.service.temporary.rglob("*") if p.is_file()] == []
    assert site.service.database.all("SELECT id FROM exports") == []


def test_readiness_names_missing_weights_and_archives(painted_archive: Path, tmp_path: Path) -> None:
    site = Site(tmp_path, copy_archive(painted_archive, tmp_path))
    client, public = site.client(), site.tracklets()[0]
    crop = crop_file(site, public)
    (site.archive / "weights").rename(tmp_path / "weights")
    ready = client.get("/readyz")
    assert (ready.status_code, "weights" in ready.text) == (503, True)
    # What is in memory still answers.
    assert client.post(f"{API}/searches/photos", files=[("photos", ("a.jpg", crop))]).status_code == 201
    (tmp_path / "weights").rename(site.archive / "weights")
    assert client.get("/readyz").status_code == 200
    site.archive.rename(tmp_path / "elsewhere")
    ready = client.get("/readyz")
    assert (ready.status_code, "archive" in ready.text) == (503, True)
    answer = client.get(f"{API}/tracklets/{public}/crops/1.jpg")
    assert (answer.status_code, answer.json()["code"]) == (503, "archive")
    page = site.browser().get("/")
    assert page.status_code == 200
    (tmp_path / "elsewhere").rename(site.archive)
    assert client.get(f"{API}/tracklets/{public}/crops/1.jpg").status_code == 200


def test_missing_footage_is_named(painted_archive: Path, tmp_path: Path) -> None:
    """The archive remembers where the footage was; a clip says that it is not there, and crops stay."""
    folder = tmp_path / "moved"
    folder.mkdir()
    archive = copy_archive(painted_archive, folder)
    for path in archive.rglob("segment.json"):
        path.write_text(path.read_text().replace(str(painted_archive.parent), "/nowhere"))
    site = Site(tmp_path, archive)
    client, public = site.client(), site.tracklets()[0]
    answer = client.get(f"{API}/tracklets/{public}/clip.mp4")
    assert (answer.status_code, answer.json()["code"]) == (404, "footage")
    assert client.get(f"{API}/tracklets/{public}/crops/1.jpg").status_code == 200
    found = Site(tmp_path / "two", archive, footage=(painted_archive.parent / "footage",))
    assert found.client().get(f"{API}/tracklets/{public}/clip.mp4").status_code == 200


def test_a_locked_state_is_reported_as_busy(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    client, browser = site.client(), site.browser()
    monkeypatch.setattr("osnet.service.database.BUSY_TIMEOUT_S", 0.05)
    assert isinstance(site.service.database, SqliteDatabase)
    other = sqlite3.connect(site.service.database.path, isolation_level=None)
    site.service.database.close()  # connections with the short time-out
    other.execute("BEGIN IMMEDIATE")
    answer = client.post(f"{API}/cases", json={"title": "t"})
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "busy", "2")
    page = browser.post("/cases", data={"csrf": browser.csrf, "title": "t"})  # type: ignore[attr-defined]
    assert page.status_code == 503
    assert "locked" in page.text
    assert client.get(f"{API}/cases").json()["cases"] == []  # reading still works
    other.execute("ROLLBACK")
    assert client.post(f"{API}/cases", json={"title": "t"}).status_code == 201


def test_a_clock_set_back_is_detected(site: Site) -> None:
    client = site.client()
    site.clock.ahead = -7200
    assert client.get(f"{API}/me").status_code == 401  # a token from the future
    ready = client.get("/readyz")
    assert (ready.status_code, "clock" in ready.text) == (503, True)
    assert site.service.retention.run("test")["clock_behind_s"] > 7000
    assert audit.verify(site.service.database).is_whole
    site.clock.ahead = 0
    assert client.get("/readyz").status_code == 200
