"""What happens at the same time, or fails half-way: erasures, retention, searches, alerts, broken archives."""

import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from filelock import FileLock

from osnet.errors import DataError, OutputError
from osnet.service import audit, core
from osnet.service.app import make_app
from osnet.service.database import StateBusyError
from osnet.service.database_sqlite import SqliteDatabase
from osnet.service.searches import MissingError
from osnet.video import Archive, erasing
from osnet.video.archive_segments import LOCK
from osnet.video.links import Link, read_links, write_links
from small_service import API, Site, copy_archive

TABLES = ("queries", "hits", "answers", "alerts", "attributes")


@pytest.fixture
def site(painted_archive: Path, tmp_path: Path) -> Site:
    return Site(tmp_path, copy_archive(painted_archive, tmp_path))


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks are waited for shortly."""
    monkeypatch.setattr("osnet.video.archive_segments.LOCK_TIMEOUT_S", 0.05)


@contextmanager
def indexing(archive: Path, camera: str) -> Iterator[None]:
    """As while another process indexes a camera."""
    with FileLock(archive / f"{LOCK}-{camera}"):
        yield


def rows_of(site: Site, public: str) -> dict[str, int]:
    """How many rows name a tracklet, by table."""
    found = {}
    for table in TABLES:
        row = site.service.database.one(f"SELECT COUNT(*) AS n FROM {table} WHERE tracklet = ?", public)
        assert row is not None
        found[table] = row["n"]
    return found


def named(site: Site, public: str) -> list[str]:
    """Texts of the state that hold a tracklet's id: log, jobs, exports."""
    queries = (
        "SELECT what AS t FROM audit_details",
        "SELECT input AS t FROM jobs",
        "SELECT tracklets AS t FROM exports",
    )
    texts = [row["t"] or "" for query in queries for row in site.service.database.all(query)]
    return [text for text in texts if f'"{public}"' in text]


def search_by(site: Site, public: str) -> str:
    answer = site.client().post(f"{API}/searches", json={"tracklets": [public]})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def erase(site: Site, *publics: str) -> str:
    """Ask for an erasure as the API does; its job. It does not run yet."""
    client = site.client()
    given: dict[str, Any] = {"tracklets": list(publics), "searches": []}
    plan = client.post(f"{API}/erasures/preview", json=given).json()
    given |= {"digest": plan["digest"], "reason": "asked"}
    return str(client.post(f"{API}/erasures", json=given).json()["job"])


def meanwhile(site: Site, monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any]) -> None:
    """Let ``act`` happen, in another thread, once the next search was ranked and before it is stored."""
    ranked = site.service.searches._rank

    def rank(*given: Any) -> Any:
        hits = ranked(*given)
        monkeypatch.setattr(site.service.searches, "_rank", ranked)
        other = threading.Thread(target=act)
        other.start()
        other.join()
        return hits

    monkeypatch.setattr(site.service.searches, "_rank", rank)


def again(site: Site) -> Site:
    """The service after a new start, without its work in the background."""
    site.service.database.close()
    new = Site.__new__(Site)
    new.clock, new.archive = site.clock, site.archive
    new.service = core.Service(site.service.options, site.clock)
    new.app = make_app(new.service)
    return new


# A search, an answer, an export while a person is erased


def erase_now(site: Site, public: str) -> Callable[[], None]:
    def run() -> None:
        erase(site, public)
        site.wait_for_jobs()

    return run


def test_a_search_in_work_does_not_store_an_erased_person_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    first, other = site.tracklets("camera-1")[0], site.tracklets("camera-2")[0]
    meanwhile(site, monkeypatch, erase_now(site, first))
    answer = site.client().post(f"{API}/searches", json={"tracklets": [first]})  # by the person
    assert (answer.status_code, answer.json()["code"]) == (404, "missing")
    assert site.service.database.all("SELECT id FROM searches") == []
    found = site.tracklets("camera-1")[0]
    meanwhile(site, monkeypatch, erase_now(site, found))
    search = search_by(site, other)  # that finds the person
    hits = site.service.database.all("SELECT place, tracklet FROM hits WHERE search = ? ORDER BY place", search)
    assert other in {hit["tracklet"] for hit in hits}
    assert [hit["place"] for hit in hits] == list(range(1, len(hits) + 1))
    for public in (first, found):
        assert not any(rows_of(site, public).values())
        assert named(site, public) == []


def test_an_answer_in_work_does_not_store_an_erased_person_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    query, first, second = (*site.tracklets("camera-1")[:2], site.tracklets("camera-2")[0])
    search = search_by(site, query)
    meanwhile(site, monkeypatch, erase_now(site, first))
    given = {"tracklet": first, "answer": "yes"}
    answer = site.client().post(f"{API}/searches/{search}/answers", json=given)
    assert (answer.status_code, answer.json()["code"]) == (404, "missing")
    meanwhile(site, monkeypatch, erase_now(site, second))
    given = {"tracklet": query, "answer": "yes"}
    assert site.client().post(f"{API}/searches/{search}/answers", json=given).status_code in (200, 201, 204)
    for public in (first, second):
        assert not any(rows_of(site, public).values())
        assert named(site, public) == []


def test_an_export_in_work_during_an_erasure_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    client, (query, public) = site.client(), site.tracklets("camera-1")[:2]
    case = client.post(f"{API}/cases", json={"title": "t"}).json()["id"]
    search = client.post(f"{API}/searches", json={"tracklets": [query], "case": case}).json()["id"]
    client.post(f"{API}/searches/{search}/answers", json={"tracklet": public, "answer": "yes"})
    real = site.service.cases._add_hit

    def add_hit(*given: Any) -> Any:
        line = real(*given)
        erase_now(site, public)()
        return line

    monkeypatch.setattr(site.service.cases, "_add_hit", add_hit)
    answer = client.post(f"{API}/cases/{case}/export", json={"reason": "r"})
    assert (answer.status_code, answer.json()["code"]) == (404, "missing")
    assert site.service.database.all("SELECT id FROM exports") == []
    assert named(site, public) == []


def watch(site: Site, monkeypatch: pytest.MonkeyPatch, search: str) -> str:
    """An entry of the watch list that every tracklet passes."""
    monkeypatch.setattr("osnet.service.watch.check_public", lambda *_: ("h", 443, ["1.1.1.1"]))
    site.service.settings.set(site.actor(), "watch_list", 1)
    entry, _ = site.service.watch.add(site.actor(), search, 0.01, 1, "https://example.org/x", "r")
    with site.service.database.write() as tx:
        tx.run("UPDATE watch_entries SET seen_s = 0")
    return entry


def test_an_alert_in_work_does_not_store_an_erased_person_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    query, found, told = site.tracklets("camera-1")[:3]
    watch(site, monkeypatch, search_by(site, query))
    ranked = site.service.library.search

    def search(*given: Any) -> Any:
        hits = ranked(*given)
        monkeypatch.setattr(site.service.library, "search", ranked)
        erase_now(site, found)()
        return hits

    monkeypatch.setattr(site.service.library, "search", search)
    assert site.service.watch.look() > 1
    assert not any(rows_of(site, found).values())

    def post(address: str, body: bytes, headers: dict[str, str]) -> int:
        if told in site.tracklets():
            erase_now(site, told)()
        return 200

    with site.service.database.write() as tx:
        tx.run("DELETE FROM alerts WHERE tracklet <> ?", told)
    monkeypatch.setattr(site.service.watch, "_post", post)
    assert site.service.watch.deliver() == 1
    assert named(site, told) == []
    assert "alert.sent" in [entry.action for entry in audit.list_entries(site.service.database)]


# What fails half-way


@pytest.mark.usefixtures("patient")
def test_retention_that_meets_a_locked_camera_forgets_and_records_the_rest(site: Site) -> None:
    client = site.client()
    old, locked = site.tracklets("camera-1"), site.tracklets("camera-2")
    search_by(site, old[0])
    search = search_by(site, locked[0])
    client.put(f"{API}/settings/maximum_days", json={"value": 1})
    with indexing(site.archive, "camera-1"), indexing(site.archive, "camera-2"):
        assert "camera-1" in site.service.retention.run("test")["error"]
    assert set(site.tracklets()) == {*old, *locked}
    with indexing(site.archive, "camera-2"):
        job = client.post(f"{API}/retention/run", json={"reason": "r"}).json()["job"]
        site.wait_for_jobs()
    said = client.get(f"{API}/jobs/{job}").json()
    assert said["state"] == "failed"
    assert "camera-2" in said["report"]["error"]
    assert "camera-1:" not in said["report"]["error"]
    assert said["report"]["tracklets"] == len(old)
    assert site.tracklets() == locked
    assert all(not any(rows_of(site, public).values()) for public in old)
    entry = next(e for e in audit.list_entries(site.service.database) if e.action == "retention.run")
    assert entry.what is not None
    assert entry.what["segments"] == said["report"]["segments"] != []
    assert client.get(f"{API}/searches/{search}").status_code == 200
    assert "error" not in site.service.retention.run("test")
    assert site.tracklets() == []


def test_retention_that_fails_within_a_camera_forgets_what_is_gone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = Archive.open(site.archive)
    first, second = [s["name"] for s in archive.segments if s["camera"] == "camera-1"][:2]
    real = shutil.rmtree

    def rmtree(path: Path, *given: Any, **more: Any) -> None:
        if Path(path).name.endswith(second.rpartition("/")[2]):
            raise PermissionError(13, "Permission denied")
        real(path, *given, **more)

    site.service.settings.set(site.actor(), "maximum_days", 1)
    search_by(site, site.tracklets("camera-1")[0])
    ids = {name: [p for p in site.tracklets() if name.replace("/", "~") in p] for name in (first, second)}
    monkeypatch.setattr("osnet.video.erasing.shutil.rmtree", rmtree)
    report = site.service.retention.run("test")
    assert "camera-1" in report["error"]
    assert {f"archive/{first}", f"archive/{second}"} <= set(report["segments"])
    for public in (*ids[first], *ids[second]):
        assert public not in site.tracklets()
        assert not any(rows_of(site, public).values())


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("how", ["new start", "hourly"])
def test_an_erasure_that_fails_half_way_is_finished_later(site: Site, how: str) -> None:
    first, second, third = site.tracklets("camera-1")[0], site.tracklets("camera-2")[0], site.tracklets("camera-1")[-1]
    inner = [p.partition("~")[2].replace("~", "/") for p in (first, second, third)]
    write_links(Archive.open(site.archive), [Link(inner[0], inner[1], "camera", 0.9, None, 5.0)])
    search = search_by(site, first)
    job = erase(site, first, second)
    with indexing(site.archive, "camera-2"):
        site.wait_for_jobs()
    said = site.client().get(f"{API}/jobs/{job}").json()
    assert said["state"] == "failed"
    assert "camera-2" in said["report"]["error"]
    assert "camera-1:" not in said["report"]["error"]
    # What could be done is done, also in the state; the plan names the rest.
    assert first not in site.tracklets()
    assert second in site.tracklets()
    assert site.client().get(f"{API}/searches/{search}").status_code == 404
    assert not any(rows_of(site, first).values())
    assert named(site, first) == []
    assert len(named(site, second)) == 1
    # Another erasure that succeeds leaves that plan alone.
    erase(site, third)
    site.wait_for_jobs()
    assert third not in site.tracklets()
    assert len(named(site, second)) == 1
    if how == "new start":
        site = again(site)
        site.service.jobs._run = lambda: None  # type: ignore[method-assign]
        site.service.jobs.start()
    else:
        site.service._retain()
    site.wait_for_jobs()
    said = site.client().get(f"{API}/jobs/{job}").json()
    assert said["state"] == "done"
    assert said["report"]["check"]["found"] == []
    assert second not in site.tracklets()
    assert read_links(Archive.open(site.archive)) == []
    for public in (first, second, third):
        assert not any(rows_of(site, public).values())
        assert named(site, public) == []
    assert audit.verify(site.service.database).is_whole


def test_an_erasure_that_fails_within_a_camera_counts_what_is_gone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = site.tracklets("camera-1")
    public, other = ids[0], ids[-1]  # of the first and of the last segment
    real = erasing._rewrite

    def rewrite(root: Path, name: str, gone: set[str]) -> None:
        if other.partition("~")[2].replace("~", "/") in gone:
            raise OutputError(f"cannot rewrite {name}: Permission denied")
        real(root, name, gone)

    monkeypatch.setattr(erasing, "_rewrite", rewrite)
    num_crops = len(site.service.library.tracklet(public).crops)
    plan = {"tracklets": [public, other], "searches": [], "contents": {"out_of_reach": {}}}
    report = site.service.erasure.run("root", "asked", plan)
    assert "camera-1" in report["error"]
    assert (report["removed"]["tracklets"], report["removed"]["crops"]) == (1, num_crops)
    assert report["rewritten"] == [public.rpartition("~")[0].replace("~", "/")]
    assert public not in site.tracklets()
    assert other in site.tracklets()


@pytest.mark.usefixtures("patient")
def test_a_failed_erasure_names_nothing_that_a_later_one_erased(site: Site) -> None:
    public = site.tracklets("camera-2")[0]
    failed = erase(site, public)
    with indexing(site.archive, "camera-2"):
        site.wait_for_jobs()
    job = erase(site, public)
    site.wait_for_jobs()
    assert site.client().get(f"{API}/jobs/{job}").json()["report"]["check"]["found"] == []
    row = site.service.database.one("SELECT state, input FROM jobs WHERE id = ?", failed)
    assert row == {"state": "failed", "input": "{}"}
    site.service.jobs.repeat_failed()
    assert not site.service.jobs.run_next()  # nothing is left of it


def test_an_erasure_waits_for_an_archive_that_is_not_served(site: Site) -> None:
    public = site.tracklets()[0]
    gone = f"elsewhere~{public.partition('~')[2]}"
    plan = {"tracklets": [public, gone], "searches": [], "contents": {"out_of_reach": {}}}
    report = site.service.erasure.run("root", "asked", plan)
    assert "elsewhere" in report["error"]
    assert "not served" in report["error"]
    assert public not in site.tracklets()


# What is deleted while it is used


def test_a_search_that_is_deleted_meanwhile_is_missing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    client, publics = site.client(), site.tracklets("camera-1")
    search = search_by(site, publics[0])
    meanwhile(site, monkeypatch, lambda: site.service.searches.delete(site.actor(), search))
    given = {"tracklet": publics[1], "answer": "yes"}
    answer = client.post(f"{API}/searches/{search}/answers", json=given)
    assert (answer.status_code, answer.json()["code"]) == (404, "missing")


def test_a_case_that_is_deleted_while_it_takes_a_search(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    actor, service = site.actor(), site.service
    search, case = search_by(site, site.tracklets()[0]), service.cases.create(actor, "t")
    get = service.searches.get
    other = threading.Thread(target=lambda: service.cases.delete(actor, case))

    def look(actor: Any, search: str) -> Any:
        row = get(actor, search)
        other.start()
        other.join(0.3)  # it waits for the transaction
        return row

    monkeypatch.setattr(service.searches, "get", look)
    service.cases.attach(actor, case, search)
    other.join()
    with pytest.raises(MissingError):
        service.cases.attach(actor, case, search)


def test_the_watch_list_takes_no_search_that_is_deleted_meanwhile(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    search = search_by(site, site.tracklets()[0])
    monkeypatch.setattr("osnet.service.watch.check_public", lambda *_: site.service.searches.delete(actor, search))
    actor = site.actor()
    site.service.settings.set(actor, "watch_list", 1)
    with pytest.raises(MissingError):
        site.service.watch.add(actor, search, 0.5, 1, "https://example.org/x", "r")
    assert site.service.watch.list_entries() == []


# What is not there


def test_a_source_of_an_archive_that_is_not_served_is_stopped(site: Site) -> None:
    with site.service.database.write() as tx:
        tx.run("INSERT INTO sources VALUES ('s', 'gate', 'second', 'rtsp://10.0.0.9/x', 'motion', 1, 0)")
    site.service.sources.start()
    (shown,) = site.client().get(f"{API}/sources").json()
    assert shown["state"] == "stopped"
    assert "second" in shown["error"]
    assert "not served" in shown["error"]
    site.service.sources.remove(site.actor(), "s")
    assert site.service.sources.list_sources(site.actor()) == []


def test_a_busy_state_is_named_with_an_idempotency_key_too(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    client, given = site.client(), {"json": {"title": "t"}, "headers": {"Idempotency-Key": "abcdefgh12"}}
    monkeypatch.setattr("osnet.service.database.BUSY_TIMEOUT_S", 0.05)
    assert isinstance(site.service.database, SqliteDatabase)
    other = sqlite3.connect(site.service.database.path, isolation_level=None)
    site.service.database.close()  # connections with the long time-out
    other.execute("BEGIN IMMEDIATE")
    answer = client.post(f"{API}/cases", **given)  # type: ignore[arg-type]
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "busy", "2")
    assert answer.headers["content-type"] == "application/problem+json"
    other.execute("ROLLBACK")
    other.close()
    assert client.post(f"{API}/cases", **given).status_code == 201  # type: ignore[arg-type]


def break_second(second: Path) -> Path:
    """A segment that is being copied into the second archive: its arrays have not come yet."""
    segment = min(path.parent for path in second.glob("*/*/*/segment.json"))
    half = second / "2030-01-06" / "camera-1" / "080000.000"
    half.mkdir(parents=True)
    for name in ("segment.json", "tracklets.jsonl"):
        shutil.copy(segment / name, half)
    return half


def test_a_broken_segment_keeps_only_its_archive_as_it_was(painted_archive: Path, tmp_path: Path) -> None:
    archive, second = copy_archive(painted_archive, tmp_path), tmp_path / "second"
    shutil.copytree(archive, second)
    later = max(path.parent for path in archive.glob("*/*/*/segment.json"))
    shutil.move(later, tmp_path / "later")
    site = Site(tmp_path, archive, archives=(archive, second))
    client, library = site.client(), site.service.library
    before = len(library)
    half = break_second(second)
    shutil.move(tmp_path / "later", later)
    assert library.refresh()
    assert len(library) > before
    assert not library.refresh()  # nothing changed, and it is not time to try again
    ready = client.get("/readyz")
    assert ready.status_code == 503
    assert "second" in ready.text
    public = next(p for p in site.tracklets() if p.startswith("second~"))
    assert client.get(f"{API}/tracklets/{public}").status_code == 200
    # Erasing from it is not over before it can be read again: until then it shows what it was.
    job = erase(site, public)
    site.wait_for_jobs()
    assert client.get(f"{API}/jobs/{job}").json()["state"] == "failed"
    shutil.rmtree(half)
    site.service.jobs.repeat_failed()
    site.wait_for_jobs()
    assert client.get(f"{API}/jobs/{job}").json()["state"] == "done"
    assert public not in site.tracklets()
    assert client.get("/readyz").status_code == 200


def test_a_folder_that_could_not_be_read_is_tried_again(
    painted_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that is completed changes no list of segments."""
    archive, second = copy_archive(painted_archive, tmp_path), tmp_path / "second"
    shutil.copytree(archive, second)
    segment = max(path.parent for path in second.glob("*/*/*/segment.json"))
    whole = tmp_path / "vectors.npy"
    shutil.copytree(segment, tmp_path / "whole")
    shutil.rmtree(segment)
    site = Site(tmp_path, archive, archives=(archive, second))
    before = len(site.service.library)
    shutil.copytree(tmp_path / "whole", segment)
    shutil.move(segment / "vectors.npy", whole)
    site.service.library.refresh()
    assert len(site.service.library) == before
    shutil.move(whole, segment / "vectors.npy")
    monkeypatch.setattr("osnet.service.library.TRY_AGAIN_S", 0.0)
    assert site.service.library.refresh()
    assert len(site.service.library) > before
    assert site.service.library.troubles == {}
    assert not site.service.library.refresh()


def test_a_step_that_fails_and_a_slow_webhook_stop_nothing_else(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "REFRESH_EVERY_S", 0.01)
    monkeypatch.setattr(core, "LAST_ALERT_S", 0.01)
    watch(site, monkeypatch, search_by(site, site.tracklets()[0]))
    assert site.service.watch.look() > 1
    sending, answered, looked, sent = threading.Event(), threading.Event(), threading.Event(), []

    def post(address: str, body: bytes, headers: dict[str, str]) -> int:
        sent.append(body)
        sending.set()
        answered.wait(60)
        return 200

    def refresh() -> None:
        raise DataError("it does not work")

    def look() -> int:
        if sending.is_set():
            looked.set()
        return 0

    monkeypatch.setattr(site.service.watch, "_post", post)
    monkeypatch.setattr(site.service.watch, "look", look)
    monkeypatch.setattr(site.service.library, "refresh", refresh)
    site.service.start()
    try:
        assert sending.wait(60)
        assert looked.wait(60)  # although the receiver has not answered, and refreshing fails
        site.service.stop()  # nor is it waited for
    finally:
        answered.set()
    for thread in site.service._threads:
        thread.join(60)
    assert len(sent) == 1  # no further one after the stop


def test_a_second_service_on_the_state_is_refused_and_leaves_the_files_of_the_first(site: Site) -> None:
    """Clips and exports that are being made; those of a process that was killed are deleted at the next start."""
    site.service.database.claim()
    clip = site.service.temporary / "clip.mp4"
    clip.write_bytes(b"being made")
    second = core.Service(site.service.options, site.clock)
    with pytest.raises(StateBusyError):
        second.start()
    assert clip.exists()
    site.service.database.unclaim()
    second.start()
    try:
        assert not clip.exists()
        assert second.temporary.is_dir()
    finally:
        second.stop()
