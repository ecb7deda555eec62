"""Attempts to do or see what an account may not, a test each. The names of the tests are the table."""

import hmac
import io
import zipfile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from osnet.service import accounts as accounts_file
from osnet.service.database import read_migrations, split_statements
from osnet.service.roles import LoginError
from small_service import API, PASSWORD, Site, guarded_site, upload


@pytest.fixture(scope="module")
def site(painted_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return guarded_site(tmp_path_factory.mktemp("site"), painted_archive)


def routes(site: Site) -> list[tuple[str, str]]:
    document = site.client(None).get(f"{API}/openapi.json").json()
    fill = {"tracklet": site.tracklets()[0], "number": "1", "place": "1", "camera": "camera-1"}
    found = []
    for path, methods in document["paths"].items():
        for name in ("tracklet", "number", "place", "camera"):
            path = path.replace(f"{{{name}}}", fill[name])
        import re

        path = re.sub(r"\{\w+\}", "nothing", path)
        found += [(method.upper(), path) for method in methods]
    return found


def test_nothing_is_open_without_an_account(site: Site) -> None:
    anybody = site.client(None)
    anybody.follow_redirects = False
    tried = 0
    for method, path in routes(site):
        if path not in ("/healthz", "/readyz"):
            answer = anybody.request(method, path, params={"time_s": 1, "search": "x", "threshold": 0.5})
            assert answer.status_code == 401, (method, path, answer.status_code)  # before any value is looked at
            tried += 1
    assert tried > 50
    for path in (
        "/",
        "/cases",
        "/accounts",
        "/audit",
        "/retention",
        "/erase",
        "/live",
        f"/tracklets/{site.tracklets()[0]}",
    ):
        answer = anybody.get(path)
        assert (answer.status_code, answer.headers["location"][:6]) == (303, "/login"), path


@pytest.mark.parametrize(
    ("name", "method", "path", "given"),
    [
        ("vera", "POST", "/searches", {"tracklets": []}),
        ("vera", "POST", "/cases", {"title": "x"}),
        ("vera", "POST", "/cases/x/export", {}),
        ("olga", "POST", "/erasures/preview", {"tracklets": []}),
        ("olga", "POST", "/erasures", {"tracklets": [], "digest": "", "reason": "x"}),
        ("olga", "GET", "/accounts", None),
        ("olga", "POST", "/accounts", {"name": "x", "password": PASSWORD, "role": "administrator"}),
        ("olga", "GET", "/audit", None),
        ("olga", "PUT", "/settings/require_reason", {"value": 0}),
        ("olga", "POST", "/sources", {"camera": "x", "address": "rtsp://example.org/x"}),
        ("olga", "POST", "/watch", {"search": "x", "threshold": 0.5, "days": 1, "webhook": "https://x", "reason": "x"}),
        ("olga", "POST", "/retention/run", {}),
    ],
)
def test_what_a_role_does_not_include(site: Site, name: str, method: str, path: str, given: Any) -> None:
    answer = site.client(name).request(method, API + path, json=given)
    assert (answer.status_code, answer.json()["code"]) == (403, "not-allowed")


def test_another_roles_camera(site: Site) -> None:
    """Neither hits, crops, clips, frames, boxes, timelines, links, nor exports of a camera that is not in the role."""
    greta, root = site.client("greta"), site.client()
    hidden, shown = site.tracklets("camera-2"), site.tracklets("camera-1")
    assert [row["camera"] for row in greta.get(f"{API}/cameras").json()] == ["camera-1"]
    # A case of somebody who sees everything, with a search for a person of another camera.
    case = root.post(f"{API}/cases", json={"title": "all"}).json()["id"]
    theirs = root.post(f"{API}/searches", json={"tracklets": [hidden[0]], "case": case}).json()["id"]
    time_s = site.service.library.tracklet(hidden[0]).begin_s
    for path in (
        *(f"tracklets/{hidden[0]}{rest}" for rest in ("", "/crops/1.jpg", "/clip.mp4")),
        *(f"frames/camera-2{rest}?time_s={time_s}" for rest in (".jpg", "/boxes")),
        f"searches/{theirs}/queries/1.jpg",
    ):
        assert [who.get(f"{API}/{path}").status_code for who in (root, greta)] == [200, 404], path
    for given in (
        {"tracklets": [hidden[0]]},
        {"boxes": [{"camera": "camera-2", "time_s": time_s, "box": [0, 0, 50, 90]}]},
    ):
        assert [who.post(f"{API}/searches", json=given).status_code for who in (root, greta)] == [201, 404], given
    mine = greta.post(
        f"{API}/searches", json={"tracklets": [shown[0]], "filters": {"cameras": ["camera-1", "camera-2"]}}
    )
    assert {hit["camera"] for hit in mine.json()["hits"]} == {"camera-1"}
    search = mine.json()["id"]
    why = [greta.get(f"{API}/tracklets/{one}/why.png?search={search}").status_code for one in (shown[0], hidden[0])]
    assert why == [200, 404]
    assert (
        greta.post(f"{API}/searches/{search}/answers", json={"tracklet": hidden[0], "answer": "yes"}).status_code == 404
    )
    # The hits of other cameras, and pictures of them, stay hidden.
    for public in (hidden[0], shown[0]):
        root.post(f"{API}/searches/{theirs}/answers", json={"tracklet": public, "answer": "yes"})
    for path in ("", "/hits", "/answers", "/timeline"):
        answers = [who.get(f"{API}/searches/{theirs}{path}") for who in (root, greta)]
        assert [answer.status_code for answer in answers] == [200, 200], path
        assert [hidden[0] in answer.text for answer in answers] == [True, False], path
        assert "camera-2" not in answers[1].text, path
        assert shown[0] in answers[1].text, path
    for who, seen in ((root, True), (greta, False)):
        exported = who.post(f"{API}/cases/{case}/export", json={"reason": "r"})
        with zipfile.ZipFile(io.BytesIO(exported.content)) as archive:
            content = b"".join(archive.read(name) for name in archive.namelist())
        assert (b"camera-1" in content, b"camera-2" in content) == (True, seen)
    page = site.browser("greta")
    for path in (f"/searches/{theirs}", f"/searches/{theirs}/timeline", f"/cases/{case}", "/"):
        answer = page.get(path)
        assert (answer.status_code, "camera-2" in answer.text) == (200, False), path


def test_a_picture_from_the_footage_of_another_roles_camera(site: Site) -> None:
    """Neither in the search, nor by its place, nor in an export, nor what was stored before cameras were kept."""
    greta, root = site.client("greta"), site.client()
    case = root.post(f"{API}/cases", json={"title": "boxes"}).json()["id"]
    one = site.service.library.tracklet(site.tracklets("camera-2")[0])
    box = {"camera": "camera-2", "time_s": one.begin_s, "box": [0, 0, 50, 90]}
    search = root.post(f"{API}/searches", json={"boxes": [box], "case": case}).json()["id"]
    shown = site.tracklets("camera-1")[0]
    root.post(f"{API}/searches/{search}/answers", json={"tracklet": shown, "answer": "yes"})
    for _ in range(2):
        for who, seen in ((root, True), (greta, False)):
            assert bool(who.get(f"{API}/searches/{search}").json()["queries"]) is seen
            picture = who.get(f"{API}/searches/{search}/queries/1.jpg")
            assert picture.status_code == (200 if seen else 404)
            exported = who.post(f"{API}/cases/{case}/export", json={"reason": "r"})
            with zipfile.ZipFile(io.BytesIO(exported.content)) as archive:
                assert ("search-1/query-1.jpg" in archive.namelist()) is seen
        with site.service.database.write() as tx:  # as an earlier version left it, and what the migration does
            tx.run("UPDATE queries SET camera = NULL WHERE search = ?", search)
            migration = next(sql for number, sql in read_migrations() if number == 3)
            tx.run(next(sql for sql in split_statements(migration) if sql.startswith("UPDATE")))
    photo = upload(site, shown, case=case)["id"]
    assert greta.get(f"{API}/searches/{photo}/queries/1.jpg").status_code == 200


def test_anothers_search_cannot_be_taken_out_of_its_case_and_deleted(site: Site) -> None:
    root, olga = site.client(), site.client("olga")
    case = root.post(f"{API}/cases", json={"title": "evidence"}).json()["id"]
    given = {"tracklets": [site.tracklets()[0]], "case": case}
    search = root.post(f"{API}/searches", json=given).json()["id"]
    own = olga.post(f"{API}/cases", json={"title": "own"}).json()["id"]
    assert olga.post(f"{API}/cases/{own}/searches", json={"search": search}).status_code == 403
    assert olga.delete(f"{API}/cases/{own}").status_code == 204
    assert root.get(f"{API}/searches/{search}").json()["case"] == case
    mine = olga.post(f"{API}/searches", json=given).json()["id"]
    other = olga.post(f"{API}/cases", json={"title": "other"}).json()["id"]
    assert olga.post(f"{API}/cases/{other}/searches", json={"search": mine}).status_code == 200
    assert root.post(f"{API}/cases/{other}/searches", json={"search": search}).status_code == 200


def test_another_operators_search(site: Site) -> None:
    root, olga = site.client(), site.client("olga")
    search = root.post(f"{API}/searches", json={"tracklets": [site.tracklets()[0]]}).json()["id"]
    for path in ("", "/hits", "/answers", "/timeline", "/queries/1.jpg"):
        assert [who.get(f"{API}/searches/{search}{path}").status_code for who in (root, olga)] == [200, 404], path
    assert olga.delete(f"{API}/searches/{search}").status_code == 404


def test_clips_by_guessed_ids(site: Site) -> None:
    """Ids of tracklets can be guessed; what protects them is the role, and each view is written down."""
    anybody = site.client(None)
    public = site.tracklets("camera-2")[0]
    for path in ("/clip.mp4", "/crops/1.jpg"):
        assert anybody.get(f"{API}/tracklets/{public}{path}").status_code == 401
        assert anybody.get(f"{API}/tracklets/{public}{path}?logged=" + "0" * 32).status_code == 401
    signature = site.service.sign_view(site.actor(), public)
    assert site.service.was_logged(site.actor(), public, signature)
    assert not site.service.was_logged(site.actor("olga"), public, signature)
    assert not site.service.was_logged(site.actor(), site.tracklets("camera-1")[0], signature)
    site.clock.ahead = 2 * 3600
    assert not site.service.was_logged(site.actor(), public, signature)
    site.clock.ahead = 0


def test_expired_and_revoked_tokens(site: Site) -> None:
    client = site.client()
    assert client.get(f"{API}/me").status_code == 200
    site.clock.ahead = 2 * 86400
    assert client.get(f"{API}/me").status_code == 401
    site.clock.ahead = 0
    mine = [row["id"] for row in client.get(f"{API}/tokens").json() if not row["revoked_s"]]
    other = site.client()
    for token_id in mine:
        assert other.delete(f"{API}/tokens/{token_id}").status_code == 204
    assert client.get(f"{API}/me").status_code == 401


def test_a_token_cannot_make_a_larger_one(site: Site) -> None:
    small = site.client(scopes=["view"])
    for path, given in (("/tokens", {"name": "t", "scopes": ["view"], "days": 1}), ("/cases", {"title": "x"})):
        assert small.post(API + path, json=given).status_code == 403
    browser = site.browser("vera")
    headers = {"X-CSRF-Token": browser.csrf}  # type: ignore[attr-defined]
    given = {"name": "t", "scopes": ["admin"], "days": 1}
    assert browser.post(f"{API}/tokens", json=given, headers=headers).status_code == 422


def test_ones_own_password_by_the_api(site: Site) -> None:
    """With the old one, in a session; a token cannot, and a wrong old one counts as a failed login."""
    site.add("paula", "viewer")
    given = {"old": PASSWORD, "new": "another long sentence"}
    assert site.client("paula").put(f"{API}/me/password", json=given).status_code == 403
    page = site.browser("paula")
    header = {"X-CSRF-Token": page.csrf}  # type: ignore[attr-defined]
    wrong = page.put(f"{API}/me/password", json={**given, "old": "x" * 12}, headers=header)
    assert wrong.status_code == 401
    assert page.put(f"{API}/me/password", json=given, headers=header).status_code == 204
    assert page.get(f"{API}/me").status_code == 401  # the session has ended
    with pytest.raises(LoginError):
        site.service.accounts.log_in("paula", PASSWORD, "1.2.3.4")
    site.service.accounts.log_in("paula", given["new"], "1.2.3.4")


def test_tokens_of_others_cannot_be_revoked(site: Site) -> None:
    site.token()
    theirs = [row["id"] for row in site.client().get(f"{API}/tokens").json() if row["account"] == "root"]
    assert site.client("olga").delete(f"{API}/tokens/{theirs[0]}").status_code == 404


def test_timing_of_tokens_and_sessions(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets are found by their SHA-256, and compared in constant time; an unknown id compares too."""
    compared: list[tuple[str, str]] = []
    real = hmac.compare_digest

    def spy(a: Any, b: Any) -> bool:
        compared.append((a, b))
        return real(a, b)

    monkeypatch.setattr(accounts_file.hmac, "compare_digest", spy)
    token = site.token()
    for tried in (token, token[:-2] + "xx", "osnet_000000000000_" + "x" * 43):
        site.service.accounts.by_token(tried)
    assert len(compared) == 3
    assert all(len(a) == len(b) == 64 for a, b in compared)
    assert all(token.split("_", 2)[2] not in pair for pair in compared)
