"""What the service keeps: cases and their export, the log, repeated writes, retention."""

import hashlib
import io
import json
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from osnet.service import audit
from osnet.video import Archive
from osnet.video.links import read_links
from small_service import API, Site, copy_archive, crop_file, upload


@pytest.fixture(scope="module")
def site(painted_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """One service for the tests that delete nothing."""
    return Site(tmp_path_factory.mktemp("site"), painted_archive)


# Cases


def test_a_case_is_exported_with_what_proves_it(site: Site, tmp_path: Path) -> None:
    client, public = site.client(), site.tracklets("camera-1")[0]
    title = "Theft <script>alert(1)</script>"
    case = client.post(f"{API}/cases", json={"title": title, "reason": "report 17"}).json()["id"]
    empty = client.post(f"{API}/cases/{case}/export", json={"reason": "court"})
    assert empty.status_code == 422
    search = upload(site, public, case=case, reason="report 17")["id"]
    client.post(f"{API}/searches/{search}/answers", json={"tracklet": public, "answer": "yes"})
    answer = client.post(f"{API}/cases/{case}/export", json={"reason": "court"})
    assert answer.headers["X-SHA256"] == hashlib.sha256(answer.content).hexdigest()
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        assert set(archive.namelist()) == {"manifest.json", *(f["file"] for f in manifest["files"])}
        for file in manifest["files"]:
            content = archive.read(file["file"])
            assert file["sha256"] == hashlib.sha256(content).hexdigest()
        assert (manifest["exported_by"], manifest["reason"], manifest["title"]) == ("root", "court", title)
        report = archive.read("report.html").decode()
        assert "<script>" not in report
        assert "&lt;script&gt;" in report
        crops = [f for f in manifest["files"] if f.get("tracklet") == public and f["file"].endswith(".jpg")]
        assert archive.read(crops[0]["file"]) == site.service.library.tracklet(public).crops[0].path.read_bytes()
        assert archive.read("search-1/hit-001.mp4")[4:8] == b"ftyp"
    stored = site.service.database.one("SELECT sha256, tracklets FROM exports WHERE case_id = ?", case)
    assert stored == {"sha256": answer.headers["X-SHA256"], "tracklets": json.dumps([public])}
    assert list(site.service.temporary.rglob("*.zip")) == []


def test_a_clip_is_a_video_and_nothing_of_it_is_kept(site: Site) -> None:
    public = site.tracklets("camera-2")[0]
    answer = site.client().get(f"{API}/tracklets/{public}/clip.mp4")
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.content[4:8] == b"ftyp"
    assert [p for p in site.service.temporary.rglob("*") if p.is_file()] == []
    assert answer.headers["cache-control"] == "no-store"


def test_why_it_matched_is_a_picture(site: Site) -> None:
    pytest.importorskip("matplotlib")
    public = site.tracklets()[0]
    search = upload(site, public)["id"]
    answer = site.client().get(f"{API}/tracklets/{public}/why.png", params={"search": search})
    assert answer.content.startswith(b"\x89PNG")


# Audit


def test_everything_is_in_the_log_with_reason_and_what_was_looked_at(site: Site) -> None:
    client, public = site.client(), site.tracklets()[0]
    start = audit.list_entries(site.service.database, limit=1)[0].seq
    search = upload(site, public, reason="theft")["id"]
    client.get(f"{API}/tracklets/{public}", params={"search": search})
    client.get(f"{API}/tracklets/{public}/clip.mp4", headers={"X-Reason": "to be sure"})
    thumbnail = client.get(f"{API}/searches/{search}/hits").json()["hits"][0]["thumbnail"]
    assert client.get(thumbnail).status_code == 200  # this view was logged with the list
    assert client.get(thumbnail.replace("logged=", "logged=0")).status_code == 200  # this one by itself
    entries = [e for e in audit.list_entries(site.service.database, limit=50) if e.seq > start]
    got = [(e.action, e.reason) for e in reversed(entries) if e.action != "token.make"]
    assert got == [
        ("search", "theft"),
        ("view.hits", "theft"),
        ("view.tracklet", "theft"),
        ("view.clip", "to be sure"),
        ("view.hits", "theft"),
        ("view.crop", ""),
    ]
    assert all(e.account == "root" for e in entries)
    seen = next(e for e in entries if e.action == "view.hits").what
    assert seen is not None
    assert public in seen["tracklets"]
    assert client.get(f"{API}/audit/verify").json()["whole"] is True


def test_a_reason_in_a_header_is_utf8(site: Site) -> None:
    """Other programs send Latin-1, which is kept, too."""
    client, public = site.client(), site.tracklets()[0]
    for sent in ("Südtor 盗難".encode(), "Südtor".encode("latin-1")):
        assert client.get(f"{API}/tracklets/{public}", headers={"X-Reason": sent}).status_code == 200
    entries = [e for e in audit.list_entries(site.service.database, limit=9) if e.action == "view.tracklet"]
    assert [e.reason for e in reversed(entries)][-2:] == ["Südtor 盗難", "Südtor"]


def test_a_reason_can_be_made_obligatory(site: Site) -> None:
    client, public = site.client(), site.tracklets()[0]
    client.put(f"{API}/settings/require_reason", json={"value": 1, "reason": "policy"})
    try:
        answer = client.post(f"{API}/searches", json={"tracklets": [public]})
        assert (answer.status_code, answer.json()["code"]) == (422, "reason-needed")
        assert client.get(f"{API}/tracklets/{public}").status_code == 422
        assert client.get(f"{API}/tracklets/{public}", headers={"X-Reason": "why"}).status_code == 200
        given = {"tracklets": [public], "reason": " theft \n "}
        assert client.post(f"{API}/searches", json=given).json()["reason"] == "theft"
    finally:
        client.put(f"{API}/settings/require_reason", json={"value": 0})


# Writes that are tried again


def test_an_idempotency_key_makes_a_write_happen_once(site: Site) -> None:
    client = site.client()
    before = len(site.service.cases.list_cases(limit=200))
    headers = {"Idempotency-Key": "key-of-a-case-1"}
    first = client.post(f"{API}/cases", json={"title": "once"}, headers=headers)
    again = client.post(f"{API}/cases", json={"title": "once"}, headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert again.headers["idempotent-replay"] == "true"
    assert len(site.service.cases.list_cases(limit=200)) == before + 1
    assert client.post(f"{API}/cases", json={"title": "other"}, headers=headers).status_code == 422
    other = site.client()  # another token: the key is its own
    assert other.post(f"{API}/cases", json={"title": "once"}, headers=headers).json()["id"] != first.json()["id"]
    assert client.post(f"{API}/cases", json={"title": "x"}, headers={"Idempotency-Key": "short"}).status_code == 400
    crop = crop_file(site, site.tracklets()[0])
    headers = {"Idempotency-Key": "key-of-a-search"}
    ids = {
        client.post(f"{API}/searches/photos", files=[("photos", ("a.jpg", crop))], headers=headers).json()["id"]
        for _ in range(2)  # httpx makes another boundary each time
    }
    assert len(ids) == 1


def test_the_secret_of_a_token_is_not_stored_for_a_repeated_request(site: Site) -> None:
    browser = site.browser()
    headers = {"Idempotency-Key": "key-of-a-token", "X-CSRF-Token": browser.csrf}  # type: ignore[attr-defined]
    given = {"name": "n", "scopes": ["view"], "days": 1}
    first, again = (browser.post(f"{API}/tokens", json=given, headers=headers) for _ in range(2))
    assert (first.status_code, again.json()) == (201, first.json())
    assert again.headers["idempotent-replay"] == "true"
    kept = site.service.database.all("SELECT body FROM idempotency")
    assert kept
    assert not any(first.json()["token"].encode() in bytes(row["body"]) for row in kept)


# Retention


def test_retention_deletes_old_segments_and_says_so(painted_archive: Path, tmp_path: Path) -> None:
    site = Site(tmp_path, copy_archive(painted_archive, tmp_path))
    client = site.client()
    search = upload(site, site.tracklets("camera-1")[0])["id"]
    for public in (site.tracklets("camera-1")[0], site.tracklets("camera-2")[0]):
        client.post(f"{API}/searches/{search}/answers", json={"tracklet": public, "answer": "yes"})
    assert site.service.retention.due() == []  # it is old, but no maximum is set yet
    assert client.put(f"{API}/retention/camera-1", json={"days": 5}).status_code == 422
    stop = max(s["stop_s"] for s in Archive.open(site.archive).segments)
    site.clock.ahead = stop + 10 * 86400 - site.clock()  # ten days after the footage
    client = site.client()
    assert client.put(f"{API}/settings/maximum_days", json={"value": 20}).status_code == 204
    assert client.put(f"{API}/retention/camera-1", json={"days": 21}).status_code == 422
    # The log is ahead of this clock: that is a clock that was set back, and nothing is deleted.
    assert client.put(f"{API}/retention/camera-1", json={"days": 5}).status_code == 204
    assert site.service.retention.due() == []
    assert client.get("/readyz").status_code == 503
    site.clock.ahead = 0.0
    client = site.client()
    client.put(f"{API}/settings/maximum_days", json={"value": 3650})
    client.put(f"{API}/retention/camera-1", json={"days": 5})
    kept = site.tracklets("camera-2")
    job = client.post(f"{API}/retention/run", json={"reason": "now"}).json()["job"]
    site.wait_for_jobs()
    report = client.get(f"{API}/jobs/{job}").json()["report"]
    assert [s.split("/")[2] for s in report["segments"]] == ["camera-1"] * 3
    assert site.tracklets() == kept
    assert not list(site.archive.glob("*/camera-1"))
    assert Archive.open(site.archive).check() == []
    left = {row["tracklet"] for row in site.service.database.all("SELECT tracklet FROM answers")}
    assert left == {kept[0]}
    assert read_links(Archive.open(site.archive)) == []


def test_retention_meets_a_camera_that_came_just_now(
    painted_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first segment is seen between two readings of the archives. It stays, and the others are judged."""
    site = Site(tmp_path, copy_archive(painted_archive, tmp_path))
    site.service.settings.set(site.actor(), "maximum_days", 1)
    site.clock.ahead = 5000 * 86400
    retention, days = site.service.retention, site.service.retention.days()
    old = retention.old()
    new = next(iter(days))
    monkeypatch.setattr(retention, "days", lambda: {camera: kept for camera, kept in days.items() if camera != new})
    assert retention.old() == [one for one in old if one[2] != new] != old


def test_old_searches_go_and_those_in_cases_stay(painted_archive: Path, tmp_path: Path) -> None:
    site = Site(tmp_path, painted_archive)
    case = site.client().post(f"{API}/cases", json={"title": "kept"}).json()["id"]
    loose, kept = upload(site, site.tracklets()[0])["id"], upload(site, site.tracklets()[0], case=case)["id"]
    site.clock.ahead = 40 * 86400
    site.service.retention.run("test")
    assert [r["id"] for r in site.service.database.all("SELECT id FROM searches")] == [kept]
    assert loose != kept
