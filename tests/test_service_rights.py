"""Attempts to do or see what an account may not, a test each. The names of the tests are the table."""

import hmac
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from osnet.service import accounts as accounts_file
from osnet.service.roles import LoginError
from small_service import API, PASSWORD, Site, guarded_site


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
            assert answer.status_code in (401, 422), (method, path, answer.status_code)
            if answer.status_code == 422:  # values are looked at first; what they are of is not
                answer = anybody.request(method, path, json={})
                assert answer.status_code in (401, 422), (method, path)
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
    for path in ("", "/crops/0.jpg", "/crops/1.jpg", "/clip.mp4", "/why.png?search=x"):
        assert greta.get(f"{API}/tracklets/{hidden[0]}{path}").status_code == 404
    assert greta.get(f"{API}/frames/camera-2.jpg", params={"time_s": 1767600002}).status_code == 404
    assert greta.get(f"{API}/frames/camera-2/boxes", params={"time_s": 1767600002}).status_code == 404
    for given in (
        {"tracklets": [hidden[0]]},
        {"boxes": [{"camera": "camera-2", "time_s": 1767600002, "box": [0, 0, 50, 90]}]},
    ):
        assert greta.post(f"{API}/searches", json=given).status_code == 404
    mine = greta.post(
        f"{API}/searches", json={"tracklets": [shown[0]], "filters": {"cameras": ["camera-1", "camera-2"]}}
    )
    assert {hit["camera"] for hit in mine.json()["hits"]} == {"camera-1"}
    search = mine.json()["id"]
    assert (
        greta.post(f"{API}/searches/{search}/answers", json={"tracklet": hidden[0], "answer": "yes"}).status_code == 404
    )
    # A case of somebody who sees everything: the hits of other cameras, and pictures of them, stay hidden.
    case = root.post(f"{API}/cases", json={"title": "all"}).json()["id"]
    theirs = root.post(f"{API}/searches", json={"tracklets": [hidden[0]], "case": case}).json()["id"]
    for public in (hidden[0], shown[0]):
        root.post(f"{API}/searches/{theirs}/answers", json={"tracklet": public, "answer": "yes"})
    for path in ("", "/hits", "/answers", "/timeline"):
        text = greta.get(f"{API}/searches/{theirs}{path}").text
        assert "camera-2" not in text.replace(json.dumps(None), ""), path
    assert greta.get(f"{API}/searches/{theirs}/queries/1.jpg").status_code == 404
    exported = greta.post(f"{API}/cases/{case}/export", json={"reason": "r"})
    with zipfile.ZipFile(io.BytesIO(exported.content)) as archive:
        assert b"camera-2" not in b"".join(archive.read(name) for name in archive.namelist())
    page = site.browser("greta")
    for path in (f"/searches/{theirs}", f"/searches/{theirs}/timeline", f"/cases/{case}", "/"):
        assert "camera-2" not in page.get(path).text, path


def test_another_operators_search(site: Site) -> None:
    search = site.client().post(f"{API}/searches", json={"tracklets": [site.tracklets()[0]]}).json()["id"]
    olga = site.client("olga")
    for path in ("", "/hits", "/answers", "/timeline", "/queries/1.jpg"):
        assert olga.get(f"{API}/searches/{search}{path}").status_code == 404
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
