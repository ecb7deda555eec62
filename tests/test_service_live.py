"""Live sources in separate processes, and the watch list: alerts, signatures, retries, expiry."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from osnet.service import camera_stream, live, rtsp_relay, watch
from osnet.service.addresses import AddressError
from osnet.service.library import ScoredTracklet
from osnet.service.scores import CalibratedPoint, ScoreScale
from osnet.video import Archive
from rtsp_camera import rtsp_camera
from small_footage import paint_walkers, walk, write_video
from small_service import API, Site, copy_archive


@pytest.fixture
def site(painted_archive: Path, tmp_path: Path) -> Site:
    return Site(tmp_path, painted_archive)


def test_the_watch_list_is_off_by_default(site: Site) -> None:
    client = site.client()
    search = client.post(f"{API}/searches", json={"tracklets": [site.tracklets()[0]]}).json()["id"]
    given = {"search": search, "threshold": 0.9, "days": 1, "webhook": "https://example.org/h", "reason": "r"}
    answer = client.post(f"{API}/watch", json=given)
    assert answer.status_code == 422
    assert "watch_list" in answer.json()["title"]
    assert site.service.watch.look() == 0


@pytest.fixture
def watched(site: Site, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """An entry that looks at everything in the archive, and a program that takes its alerts."""
    monkeypatch.setattr(watch, "check_public", lambda *_: ("example.org", 443, ["93.184.216.34"]))
    client = site.client()
    client.put(f"{API}/settings/watch_list", json={"value": 1})
    search = client.post(f"{API}/searches", json={"tracklets": [site.tracklets()[0]]}).json()["id"]
    given = {"search": search, "threshold": 0.95, "days": 1, "webhook": "https://example.org/h", "reason": "missing"}
    made = client.post(f"{API}/watch", json=given).json()
    with site.service.database.write() as tx:
        tx.run("UPDATE watch_entries SET seen_s = 0")
    sent: list[tuple[bytes, dict[str, str]]] = []
    status = {"next": 200}

    def post(_: str, body: bytes, headers: dict[str, str]) -> int:
        sent.append((body, headers))
        return status["next"]

    site.service.watch._post = post
    return {"site": site, "made": made, "sent": sent, "status": status, "search": search}


def test_alerts_are_sent_once_and_signed(watched: dict[str, Any]) -> None:
    site, sent = watched["site"], watched["sent"]
    new = site.service.watch.look()
    assert new >= 1
    assert site.service.watch.look() == 0  # the same tracklets give no second alert
    assert site.service.watch.deliver() == new
    assert site.service.watch.deliver() == 0
    body, headers = sent[0]
    assert headers["X-Osnet-Signature"] == watch.sign(watched["made"]["secret"], headers["X-Osnet-Alert"], body)
    assert headers["X-Osnet-Signature"] != watch.sign("other", headers["X-Osnet-Alert"], body)
    assert site.tracklets()[0] in {json.loads(b)["tracklet"] for b, _ in sent}
    assert b"missing" not in body  # the reason stays here
    log = site.client().get(f"{API}/audit").json()["entries"]
    assert sum(entry["action"] == "alert.sent" for entry in log) == new


def test_many_earlier_sightings_hide_no_new_one(watched: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of an entry are as many as the person was seen; each reaches the threshold, and none has an alert yet."""
    service = watched["site"].service
    seen = [ScoredTracklet(f"a~{n}", 0.99 - n / 1e5, 0.99 - n / 1e5) for n in range(500)]
    others = [ScoredTracklet(f"a~{n}", 0.5, 0.5) for n in range(500, 2000)]
    monkeypatch.setattr(service.library, "search", lambda _query, _filters, _sees, top: [*seen, *others][:top])
    monkeypatch.setattr(service.searches, "still_there", list)
    assert service.watch.look() == len(seen)
    assert service.watch.look() == 0


def test_failed_alerts_are_retried_with_growing_pauses(watched: dict[str, Any]) -> None:
    site, status = watched["site"], watched["status"]
    new = site.service.watch.look()
    status["next"] = 500
    pauses = []
    for _ in range(watch.MAX_TRIES):
        site.service.watch.deliver()
        row = site.service.database.one("SELECT MIN(next_try_s) AS next FROM alerts WHERE delivered_s IS NULL")
        pauses.append(row["next"] - site.clock())
        site.clock.ahead += pauses[-1] + 1
    assert len(watched["sent"]) == new * watch.MAX_TRIES
    assert pauses[:3] == pytest.approx([30, 60, 120], abs=2)
    site.clock.ahead += 86_400
    assert site.service.watch.deliver() == 0
    assert len(watched["sent"]) == new * watch.MAX_TRIES  # no more after the last try
    row = site.service.database.one("SELECT error FROM alerts")
    assert row == {"error": "HTTP 500"}


def test_a_watch_list_entry_expires(watched: dict[str, Any]) -> None:
    site = watched["site"]
    site.clock.ahead = 86_500
    assert site.service.watch.look() == 0
    assert site.service.watch.list_entries() == []


@pytest.mark.parametrize("way", ["deleted", "expired"])
def test_an_entry_that_ends_with_its_case_is_logged(watched: dict[str, Any], way: str) -> None:
    site, client = watched["site"], watched["site"].client()
    case = client.post(f"{API}/cases", json={"title": "ends"}).json()["id"]
    assert client.post(f"{API}/cases/{case}/searches", json={"search": watched["search"]}).is_success
    if way == "deleted":
        assert client.delete(f"{API}/cases/{case}").status_code == 204
    else:
        assert client.put(f"{API}/settings/case_days", json={"value": 1}).is_success
        with site.service.database.write() as tx:
            tx.run("UPDATE cases SET created_s = created_s - 3 * 86400")
        site.service.retention.run("test")
    assert site.service.watch.list_entries() == []
    removed = site.service.database.all("SELECT d.what FROM audit a JOIN audit_details d ON a.seq = d.seq WHERE "
                                        "a.action = 'watch.remove'")  # fmt: skip
    assert [json.loads(row["what"]) for row in removed] == [{"entry": watched["made"]["id"], "case": case}]


def test_expected_false_alarms_come_from_the_calibration(watched: dict[str, Any]) -> None:
    site = watched["site"]
    assert watched["made"]["expected"]["false_alarms_per_day"] is None
    site.service.library.scale = ScoreScale((CalibratedPoint(0.5, 0.001, "val"),))
    found = site.service.watch.expect(site.actor(), watched["search"], 0.6)
    assert found["tracklets_per_day"] == len(site.service.library)  # all within a day
    assert found["false_alarms_per_day"] == pytest.approx(0.006 * len(site.service.library), abs=0.01)


def wait_for(check: Any) -> Any:
    """For a process that has to start; the test's own time-out is the limit."""
    while not (found := check()):
        time.sleep(0.05)
    return found


def test_a_sources_process_is_restarted_when_it_dies(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process gets its address by its standard input, says what it does, and comes back when it dies."""
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import json, sys\n"
        "given = json.loads(sys.stdin.readline())\n"
        "assert 'secret' in given['address']\n"
        "print(json.dumps({'state': 'running', 'last_frame_s': 12.5, 'taken': 7, 'dropped': 2}), flush=True)\n"
        "print('no json', flush=True)\n"
        "print('the camera does not answer', file=sys.stderr)\n"
        "sys.exit(3)\n"
    )
    real = live.subprocess.Popen
    commands: list[list[str]] = []

    def popen(command: list[str], **more: Any) -> Any:
        commands.append(command)
        return real([command[0], str(worker)], **more)

    monkeypatch.setattr(live.subprocess, "Popen", popen)
    monkeypatch.setattr(live, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(live, "check_public", lambda *_: ("h", 1, []))
    client = site.client()
    given = {"camera": "door", "address": "rtsp://user:secret@camera.example/stream?token=secret"}
    source = client.post(f"{API}/sources", json=given).json()["id"]
    state = wait_for(lambda: next((s for s in client.get(f"{API}/sources").json() if s["starts"] >= 2), None))
    assert (state["taken"], state["dropped"], state["last_frame_s"]) == (7, 2, 12.5)
    assert state["address"] == "rtsp://camera.example/stream"
    wait_for(lambda: client.get(f"{API}/sources").json()[0]["error"] == "the camera does not answer")
    assert not [part for command in commands for part in command if "secret" in part]
    assert "secret" not in client.get(f"{API}/audit").text
    metrics = client.get("/metrics").text
    assert 'osnet_source_frames{camera="door",outcome="dropped"} 2.0' in metrics
    second = client.post(f"{API}/sources", json=given)
    assert (second.status_code, "door" in second.json()["title"]) == (422, True)
    assert client.delete(f"{API}/sources/{source}").status_code == 204
    assert client.get(f"{API}/sources").json() == []
    assert client.delete(f"{API}/sources/{source}").status_code == 404


def test_a_source_can_be_stopped_while_its_process_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    real, starting, stopping = live.subprocess.Popen, threading.Event(), threading.Event()

    def popen(command: list[str], **more: Any) -> Any:
        starting.set()
        stopping.wait()
        time.sleep(0.1)  # ``stop`` looks for a process, and there is none yet
        return real([command[0], "-c", "import time; time.sleep(3600)"], **more)

    monkeypatch.setattr(live.subprocess, "Popen", popen)
    runner = live._Runner({"camera": "door"})
    starting.wait()
    stopping.set()
    runner.stop()
    assert runner._process is not None
    assert runner._process.returncode == -15


def test_what_a_process_writes_need_not_be_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import sys\nsys.stdin.readline()\nsys.stdout.buffer.write(b'caf\\xe9\\n7\\n{\"taken\": 3}\\n')\n"
        "sys.stderr.buffer.write(b'caf\\xe9\\n' * 100_000)\nsys.exit(3)\n"
    )
    real = live.subprocess.Popen
    monkeypatch.setattr(live.subprocess, "Popen", lambda command, **more: real([command[0], str(worker)], **more))
    runner = live._Runner({"camera": "door"})
    wait_for(lambda: runner.state.error)
    runner.stop()
    assert (runner.state.taken, runner.state.error) == (3, "caf\N{REPLACEMENT CHARACTER}")


def test_an_erasure_that_starts_again_pauses_its_sources(
    painted_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service ended during it. What it paused is started afterwards, and ended if the service ends meanwhile."""
    site = Site(tmp_path, copy_archive(painted_archive, tmp_path))
    events: list[str] = []

    class Runner:
        def __init__(self, _: dict[str, Any]) -> None:
            self.state = live.SourceState()
            events.append("start")

        def stop(self) -> None:
            events.append("stop")

    monkeypatch.setattr(live, "_Runner", Runner)
    monkeypatch.setattr(live, "check_public", lambda *_: ("h", 1, []))
    service = site.service
    service.sources.add(site.actor(), "camera-1", "rtsp://camera.example/1")
    service.sources.stop()
    plan = service.erasure.plan(site.actor(), [site.tracklets("camera-1")[0]])
    service.jobs.add("erasure", "root", "asked", dict(vars(plan)))
    started, erased, listed = service.sources.start, service.erasure.run, threading.Event()

    def start() -> None:
        time.sleep(0.2)  # a job that began before would find no source
        started()

    def erase(*given: Any) -> Any:
        events.append("erase")
        listed.set()
        service._stopped.wait()
        time.sleep(0.2)
        return erased(*given)

    monkeypatch.setattr(service.sources, "start", start)
    monkeypatch.setattr(service.erasure, "run", erase)
    del events[:]
    service.start()
    listed.wait()
    service.stop()
    assert events == ["start", "stop", "erase", "start", "stop"]


def test_a_person_can_be_erased_while_the_camera_is_indexed(
    painted_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source's process holds the camera's lock; it pauses while segments are rewritten, then resumes."""
    site = Site(tmp_path, copy_archive(painted_archive, tmp_path))
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import json, sys, time\nfrom filelock import FileLock\n"
        "given = json.loads(sys.stdin.readline())\n"
        "with FileLock(given['archive'] + '/.lock-camera-1'):\n"
        "    print(json.dumps({'state': 'running', 'taken': 1}), flush=True)\n    time.sleep(3600)\n"
    )
    real = live.subprocess.Popen
    monkeypatch.setattr(live.subprocess, "Popen", lambda command, **more: real([command[0], str(worker)], **more))
    monkeypatch.setattr(live, "check_public", lambda *_: ("h", 1, []))
    service, public = site.service, site.tracklets("camera-1")[0]
    service.sources.add(site.actor(), "camera-1", "rtsp://camera.example/1")
    wait_for(lambda: service.sources.list_sources(site.actor())[0]["taken"])
    plan = service.erasure.plan(site.actor(), [public])
    job = service.jobs.add("erasure", "root", "asked", dict(vars(plan)))
    site.wait_for_jobs()
    done = service.jobs.get(site.actor(), job)
    assert (done["state"], done["report"]["check"]["found"]) == ("done", [])
    wait_for(lambda: service.sources.list_sources(site.actor())[0]["taken"])  # it runs again
    service.sources.stop()


@contextmanager
def http_camera(footage: Path) -> Iterator[str]:
    """A camera that gives its footage over HTTP, to who knows the password (digest authentication)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if "username=" not in self.headers.get("Authorization", ""):
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Digest realm="camera", nonce="1", qop="auth"')
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            self.end_headers()
            content = footage.read_bytes()
            for start in range(0, len(content), 4096):
                self.wfile.write(content[start : start + 4096])
                time.sleep(0.02)  # a camera gives its frames one by one

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://ann:secret@127.0.0.1:{server.server_address[1]}/gate.ts"
        server.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["http", "rtsp"])
def test_a_real_stream_is_indexed_by_a_real_process(painted_archive: Path, tmp_path: Path, kind: str) -> None:
    """A stream over loopback: its frames arrive, and what was seen is committed when the source is removed."""
    archive = copy_archive(painted_archive, tmp_path)
    walkers = [walk(2, 20, 2.0), walk(140, 70, -1.5)]
    video = write_video(tmp_path / "gate.ts", paint_walkers(walkers, 60))
    with http_camera(video) if kind == "http" else rtsp_camera(video) as camera:
        address = camera if isinstance(camera, str) else camera[0]
        given = {"camera": "door", "address": address, "detector": "motion", "archive": str(archive), "device": "cpu"}
        runner = live._Runner({**given, "allow_loopback": True})
        wait_for(lambda: runner.state.taken > 0 and runner.state.gaps)
        runner.stop()
        if not isinstance(camera, str):
            assert any(request.startswith("PLAY") for request in camera[1])
    assert runner.state.state == "stopped"
    assert runner.state.last_frame_s == pytest.approx(time.time(), abs=3600)
    assert any(segment["camera"] == "door" for segment in Archive.open(archive).segments)


def test_a_camera_is_reached_at_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the name means a moment later; and a name that becomes private is refused at the next connection."""
    answers = iter(["93.184.216.34", "93.184.216.34", "10.0.0.9"])
    asked: list[tuple[str, int]] = []

    def connect(address: tuple[str, int], *_: Any) -> Any:
        asked.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", (next(answers), 0))])
    monkeypatch.setattr(rtsp_relay.socket, "create_connection", connect)
    for address in ("rtsp://ann:secret@camera.example/ch1?x=1", "http://camera.example:8080/s"):
        with pytest.raises(OSError, match=r".*"):
            camera_stream.open_camera(address, 1.0)
    assert asked == [("93.184.216.34", 554), ("93.184.216.34", 8080)]
    with pytest.raises(AddressError, match=r"10\.0\.0\.9"):
        camera_stream.open_camera("rtsp://camera.example/ch1", 1.0)


def test_a_camera_that_ends_in_the_middle_of_a_chunk() -> None:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"100\r\n" + b"x" * 8)
            self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        body = camera_stream.open_camera(f"http://127.0.0.1:{server.server_address[1]}/live", 5.0, allow_loopback=True)
        with pytest.raises(OSError, match="ended the connection"):
            for _ in range(9):
                body.read(4)
        server.shutdown()


def test_a_redirect_of_a_camera_is_not_followed() -> None:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_address[1]}/latest/meta-data")  # type: ignore[misc]
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/live"
        with pytest.raises(OSError, match="302"):
            camera_stream.open_camera(address, 5.0, allow_loopback=True)
        server.shutdown()
    assert asked == ["/live"]
