"""Attacks on the service, one test for each. The test names list them.

path traversal, SSRF by sources and webhooks, CSRF, session fixation, stored XSS, zip and pixel bombs, header injection,
open redirect, DNS rebinding, slow and large bodies. ``test_service_rights.py``: another role's camera, expired and
revoked tokens, timing, clips by guessed ids, escalation of rights.
"""

import asyncio
import io
import json
import socket
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("fastapi")

from osnet.errors import DataError, ImageError
from osnet.service import addresses, middleware, watch
from osnet.service.addresses import AddressError, check_public
from osnet.service.queries import keep_small
from osnet.service.web import LOGIN_COOKIE, safe_next
from small_service import API, PASSWORD, Site, crop_file, form_field, guarded_site


@pytest.fixture(scope="module")
def site(painted_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return guarded_site(tmp_path_factory.mktemp("site"), painted_archive)


# Paths


@pytest.mark.parametrize(
    "path",
    [
        "/static/../../../../etc/passwd",
        "/static/%2e%2e/core.py",
        "/static/..%2fcore.py",
        "/api/v1/tracklets/..%2F..%2Farchive.json",
        "/api/v1/tracklets/archive~..~..~..~1",
        "/api/v1/tracklets/archive~2026-01-05~camera-1~080000.000~1%00",
        "/api/v1/frames/..%2F..%2Fetc.jpg?time_s=1",
        "/api/v1/tracklets/..~1/crops/1.jpg",
    ],
)
def test_path_traversal(site: Site, path: str) -> None:
    answer = site.client().get(path)
    assert answer.status_code == 404
    assert b"root:" not in answer.content
    assert b"import " not in answer.content


def test_answers_hold_no_paths_of_the_machine(site: Site) -> None:
    client, public = site.client(), site.tracklets()[0]
    search = client.post(f"{API}/searches", json={"tracklets": [public]}).json()["id"]
    plan = client.post(f"{API}/erasures/preview", json={"tracklets": [public]}).text
    browser = site.browser()
    texts = [plan, client.get(f"{API}/tracklets/{public}").text, client.get(f"{API}/searches/{search}").text]
    texts += [browser.get(p).text for p in (f"/tracklets/{public}?search={search}", "/live", "/retention", "/audit")]
    texts += [client.get(f"{API}/tracklets/nothing").text, client.get("/readyz").text]
    assert not [text for text in texts if str(site.archive.parent) in text]


# Addresses


@pytest.mark.parametrize(
    "address",
    [
        "rtsp://127.0.0.1/x",
        "rtsp://localhost/x",
        "rtsp://[::1]/x",
        "rtsp://10.0.0.1/x",
        "rtsp://192.168.1.4:554/x",
        "http://169.254.169.254/latest/meta-data",
        "rtsp://[::ffff:127.0.0.1]/x",
        "rtsp://0.0.0.0/x",
        "rtsp://2130706433/x",
        "rtsp://0x7f.1/x",
        "file:///etc/passwd",
        "concat:/etc/passwd",
        "ftp://example.org/x",
        "rtsp:///x",
        "//x",
        "x",
        "rtsp://example.org\r\nX: y/x",
        "rtsp://[fe80::1]/x",
        "rtsp://224.0.0.1/x",
        "http://100.64.0.1/x",
        "rtsp://[2002:7f00:1::]/x",
        "rtsp://[64:ff9b::7f00:1]/x",
        "rtsp://[64:ff9b::a00:1]/x",
    ],
)
def test_ssrf_by_source_addresses(site: Site, address: str) -> None:
    answer = site.client().post(f"{API}/sources", json={"camera": "new", "address": address})
    assert (answer.status_code, answer.json()["code"]) == (422, "value"), answer.text
    assert site.service.sources.list_sources(site.actor()) == []


@pytest.mark.parametrize(
    "address", ["rtsp://127.0.0.1/x", "rtsp://169.254.169.254/x", "rtsp://[::1]/x", "rtsp://0.0.0.0/"]
)
def test_private_cameras_may_be_allowed_but_never_the_machine_itself(address: str) -> None:
    with pytest.raises(AddressError):
        check_public(address, ("rtsp",), allow_private=True)
    assert check_public("rtsp://192.168.1.4/x", ("rtsp",), allow_private=True) == ("192.168.1.4", 554, ["192.168.1.4"])


@pytest.mark.parametrize(
    "address",
    ["https://127.0.0.1/h", "http://example.org/h", "https://10.1.1.1/h", "https://[::1]/h", "https://user@/h"],
)
def test_webhooks_to_private_addresses(site: Site, address: str) -> None:
    client = site.client()
    client.put(f"{API}/settings/watch_list", json={"value": 1})
    search = client.post(f"{API}/searches", json={"tracklets": [site.tracklets()[0]]}).json()["id"]
    given = {"search": search, "threshold": 0.9, "days": 1, "webhook": address, "reason": "r"}
    assert client.post(f"{API}/watch", json=given).status_code == 422
    client.put(f"{API}/settings/watch_list", json={"value": 0})


def test_a_webhook_connects_to_the_checked_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that means a public address when it is checked and the machine itself a moment later (DNS rebinding)."""
    answers = iter(["93.184.216.34", "127.0.0.1", "127.0.0.1"])

    def resolve(*_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), 443))]

    connected: list[Any] = []

    def connect(place: Any, **_: Any) -> Any:
        connected.append(place)
        raise OSError("stop here")

    monkeypatch.setattr(addresses.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(watch.socket, "create_connection", connect)
    with pytest.raises(OSError, match="stop here"):
        watch.post_webhook("https://rebind.example/h", b"", {})
    assert connected == [("93.184.216.34", 443)]


# Other sites


def test_csrf_forms_need_the_sessions_token(site: Site) -> None:
    browser = site.browser()
    good = browser.csrf  # type: ignore[attr-defined]
    for token in ("", "x", good[:-1], site.browser().csrf):  # type: ignore[attr-defined]
        answer = browser.post("/cases", data={"csrf": token, "title": "forged"})
        assert answer.status_code in (403, 422)
    assert "forged" not in browser.get("/cases").text
    assert browser.post("/cases", data={"csrf": good, "title": "mine"}).status_code == 303


def test_csrf_api_calls_with_a_cookie_need_the_token_header(site: Site) -> None:
    browser = site.browser()
    assert browser.post(f"{API}/cases", json={"title": "forged"}).status_code == 403
    headers = {"X-CSRF-Token": browser.csrf}  # type: ignore[attr-defined]
    assert browser.post(f"{API}/cases", json={"title": "mine"}, headers=headers).status_code == 201


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_csrf_requests_from_other_origins_are_refused(site: Site, headers: dict[str, str]) -> None:
    browser = site.browser()
    data = {"csrf": browser.csrf, "title": "forged"}  # type: ignore[attr-defined]
    assert browser.post("/cases", data=data, headers=headers).status_code == 403


def test_values_that_cannot_be_read_are_refused(site: Site) -> None:
    client, browser = site.client(), site.browser()
    assert browser.post(f"{API}/cases", json={"title": "x"}, headers={"Origin": "http://["}).status_code == 403
    form = {"csrf": browser.csrf, "tracklet": site.tracklets()[0]}  # type: ignore[attr-defined]
    photo = [("photos", ("a.jpg", crop_file(site, site.tracklets()[0])))]
    for boxes in (f"[[{10**400}, 0, 1, 1]]", "[[NaN, 0, 40, 80]]", "[" * 1000, "[[0, 0, Infinity, -Infinity]]"):
        assert browser.post("/search", data={**form, "boxes": boxes}, files=photo).status_code == 422, boxes[:20]
    box = '{"boxes": [{"camera": "camera-1", "time_s": %s, "box": [0, 0, 40, 80]}]}'
    for body in (
        *(box % value for value in ("NaN", "Infinity", 10**400, "1e999", '"\\u0000"')),
        *('{"tracklets": ["\\ud800"]}', "[" * 100_000, '{"tracklets": [' * 900, '{"having": ["\\u0000"]}', "\ufeff{}"),
        '{{"tracklets": ["{}"]}}'.format("~".join(["a"] * 100)),
    ):
        answer = client.post(f"{API}/searches", content=body.encode(), headers={"Content-Type": "application/json"})
        assert 400 <= answer.status_code < 500, (body[:40], answer.text)
        assert answer.json()["title"], body[:40]
    for path in (
        *(f"{API}/searches?limit={value}" for value in ("-1", "0", "NaN", "1e9", "", 10**400)),
        *(f"{API}/searches?cursor={value}" for value in ("x", "e30", "%00", "bnVsbA")),
        *(f"{API}/frames/camera-1.jpg?time_s={value}" for value in ("NaN", "-inf", "", 10**400)),
        f"{API}/tracklets/{site.tracklets()[0]}/crops/{10**30}.jpg",
        f"{API}/tracklets/%00/clip.mp4",
    ):
        assert 400 <= client.get(path).status_code < 500, path


def test_login_from_another_site(site: Site) -> None:
    """A foreign page cannot log a user in: the form's field must equal this browser's cookie."""
    browser = site.client(None)
    browser.cookies.set(LOGIN_COOKIE, "mine")
    answer = browser.post("/login", data={"name": "root", "password": PASSWORD, "token": "theirs"})
    assert answer.status_code == 403


def test_session_fixation(site: Site) -> None:
    browser = site.client(None)
    browser.follow_redirects = False
    browser.cookies.set("osnet_session", "chosen-by-the-attacker")
    token = form_field(browser.get("/login").text, "token")
    answer = browser.post("/login", data={"name": "root", "password": PASSWORD, "token": token})
    cookie = answer.headers["set-cookie"]
    assert "chosen-by-the-attacker" not in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "osnet_session=" in cookie
    first, second = site.browser(), site.browser()
    assert first.cookies["osnet_session"] != second.cookies["osnet_session"]


def test_a_session_cannot_be_replayed_after_logout(site: Site) -> None:
    browser = site.browser()
    secret = browser.cookies["osnet_session"]
    browser.post("/logout", data={"csrf": browser.csrf})  # type: ignore[attr-defined]
    browser.cookies.set("osnet_session", secret)
    assert browser.get("/cases").status_code == 303


def test_a_changed_password_ends_every_session(site: Site) -> None:
    site.add("paula", "viewer")
    first, second = site.browser("paula"), site.browser("paula")
    data = {"csrf": first.csrf, "old": "wrong password!", "new": "another long one", "again": "another long one"}  # type: ignore[attr-defined]
    assert first.post("/password", data=data).status_code == 401
    assert second.get("/cases").status_code == 200
    assert first.post("/password", data={**data, "old": PASSWORD}).status_code == 303
    for browser in (first, second):
        assert browser.get("/cases").status_code == 303


def test_dns_rebinding(site: Site) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", "", "localhost@evil.example"):
        assert site.client().get("/healthz", headers={"Host": host}).status_code == 421
    assert site.client().get("/healthz", headers={"Host": "localhost:8750"}).status_code == 200


@pytest.mark.parametrize(
    "target",
    [
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "javascript:alert(1)",
        "/a\nb",
        "",
        "/\t/evil.example",
    ],
)
def test_open_redirect(site: Site, target: str) -> None:
    assert safe_next(target) == "/"
    browser = site.client(None)
    browser.follow_redirects = False
    token = form_field(browser.get("/login", params={"next": target}).text, "token")
    answer = browser.post("/login", data={"name": "root", "password": PASSWORD, "token": token, "next": target})
    assert answer.headers["location"] == "/"


def test_pages_cannot_be_framed_and_load_nothing_from_elsewhere(site: Site) -> None:
    browser = site.browser()
    for path in ("/", "/accounts", "/nothing", "/static/page.css", f"{API}/me"):
        headers = browser.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
    text = browser.get("/").text
    assert "http://" not in text
    assert "https://" not in text
    assert " style=" not in text


# What others write


def test_stored_xss_in_names_and_file_names(site: Site) -> None:
    browser = site.browser()
    csrf = browser.csrf  # type: ignore[attr-defined]
    evil = '"><script>alert(1)</script>'
    photo = [("photos", (f"{evil}.jpg", crop_file(site, site.tracklets()[0]), "image/jpeg"))]
    went = browser.post("/search", data={"csrf": csrf, "reason": evil}, files=photo)
    assert went.status_code == 303, went.text
    results = went.headers["location"]
    case = browser.post(f"{results}/case", data={"csrf": csrf, "title": evil}).headers["location"]
    browser.post(case, data={"csrf": csrf, "title": evil, "notes": evil})
    assert (
        browser.post("/accounts", data={"csrf": csrf, "name": evil, "password": PASSWORD, "role": "viewer"}).status_code
        == 303
    )
    browser.post("/roles", data={"csrf": csrf, "name": evil, "kind": "viewer"})
    browser.post("/tokens", data={"csrf": csrf, "name": evil, "days": "1", "scope": "view"})
    for path in (
        "/",
        results,
        f"{results}/timeline",
        case,
        "/cases",
        "/accounts",
        "/audit",
        "/erase",
        "/live",
        f"/login?next=/{evil}",
    ):
        text = browser.get(path).text
        assert "<script>alert" not in text, path
        assert "&lt;script&gt;alert" in text or path in (
            "/",
            "/erase",
            "/live",
            f"{results}/timeline",
            f"/login?next=/{evil}",
        ), path


def test_header_injection(site: Site) -> None:
    browser = site.browser()
    csrf = browser.csrf  # type: ignore[attr-defined]
    answer = browser.post("/cases", data={"csrf": csrf, "title": "x\r\nSet-Cookie: a=b"})
    assert answer.status_code == 422
    for path in (
        "/login?next=/%0d%0aSet-Cookie:%20a=b",
        "/cases/%0d%0aSet-Cookie:%20a=b",
        f"{API}/tracklets/%0d%0aX:%20y",
    ):
        assert "a=b" not in str(browser.get(path).headers.get("set-cookie", ""))
        assert "x" not in browser.get(path).headers or browser.get(path).headers["x"] != "y"


def test_a_log_line_cannot_be_forged(site: Site) -> None:
    search = {"tracklets": [site.tracklets()[0]], "reason": "a\nroot\x00 deleted"}
    assert site.client().post(f"{API}/searches", json=search).json()["reason"].count("\n") == 0


# Bombs


def png_bomb(width: int, height: int) -> bytes:
    """A small PNG of so many black pixels; of a high one, the first 5000 rows."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1 + -(-width // 8)) * min(height, 5000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_pixel_bombs(site: Site) -> None:
    for width, height in ((60_000, 60_000), (5_001, 5_000), (1_000_000, 30)):
        answer = site.client().post(f"{API}/searches/photos", files=[("photos", ("b.png", png_bomb(width, height)))])
        assert (answer.status_code, answer.json().get("code")) == (422, "image")


def test_zip_and_other_files_as_photos(site: Site) -> None:
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.jpg", b"\0" * 50_000_000)
        bomb = file.getvalue()
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    for content in (bomb, svg, b"GIF89a", b"%PDF-1.4", b"", b"\xff\xd8\xff" + b"\0" * 100):
        answer = site.client().post(f"{API}/searches/photos", files=[("photos", ("a.jpg", content))])
        assert (answer.status_code, answer.json()["code"]) == (422, "image")


def test_metadata_of_a_photo_is_not_stored(site: Site) -> None:
    exif = Image.Exif()
    exif[0x010E] = "GPS-OF-THE-REPORTER"
    with io.BytesIO() as file:
        Image.new("RGB", (64, 128), "red").save(file, "JPEG", exif=exif, comment="GPS-OF-THE-REPORTER")
        content = file.getvalue()
    assert content.count(b"GPS-OF-THE-REPORTER") == 2
    search = site.client().post(f"{API}/searches/photos", files=[("photos", ("a.jpg", content))]).json()["id"]
    kept = site.service.searches.query_picture(site.actor(), search, 1)
    assert b"GPS-OF-THE-REPORTER" not in kept
    site.service.database.forget()
    assert not [p for p in site.service.database.files() if b"GPS-OF-THE-REPORTER" in p.read_bytes()]


def test_a_crop_is_kept_as_it_is_only_if_small_and_without_metadata() -> None:
    exif = Image.Exif()
    exif[0x010E] = "GPS-OF-THE-REPORTER"
    for height, more, same in (
        (512, {}, True),
        (513, {}, False),
        (512, {"exif": exif}, False),
        (9, {"comment": "GPS-OF-THE-REPORTER"}, False),
    ):
        with io.BytesIO() as file:
            Image.new("RGB", (64, height), "red").save(file, "JPEG", **more)
            content = file.getvalue()
        kept = keep_small(content)
        assert (kept == content) is same
        assert b"GPS-OF-THE-REPORTER" not in kept
        with Image.open(io.BytesIO(kept)) as small:
            assert small.height == min(height, 512)
    for damaged in (b"", b"no image", content[:20]):
        with pytest.raises(ImageError):
            keep_small(damaged)


def test_too_many_photos_and_boxes_outside(site: Site) -> None:
    crop = crop_file(site, site.tracklets()[0])
    many = [("photos", (f"{n}.jpg", crop)) for n in range(17)]
    assert site.client().post(f"{API}/searches/photos", files=many).status_code == 422
    for box in ([0, 0, 1, 1], [1e9, 0, 2e9, 9], [-5, -5, -1, -1], [9, 9, 2, 2]):
        answer = site.client().post(
            f"{API}/searches/photos",
            files=[("photos", ("a.jpg", crop))],
            data={"options": json.dumps({"boxes": [box]})},
        )
        assert answer.status_code == 422, box
    deep = "[" * 19_000
    answer = site.client().post(f"{API}/searches/photos", files=[("photos", ("a.jpg", crop))], data={"options": deep})
    assert answer.status_code == 422


def test_bodies_that_are_too_large(site: Site) -> None:
    large = [("photos", ("a.jpg", b"\0" * (1 << 20)))]
    assert site.client().post(f"{API}/searches/photos", files=large).status_code == 413

    def stream() -> Any:  # without a length
        for _ in range(40):
            yield b"\0" * 65536

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert site.client().post(f"{API}/searches/photos", content=stream(), headers=headers).status_code == 413
    answer = site.client().post(f"{API}/cases", content=stream(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


def test_a_body_that_never_ends(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "BODY_TIMEOUT_S", 0.05)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(30)
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": f"{API}/cases",
        "query_string": b"",
        "raw_path": b"",
        "scheme": "http",
        "headers": [
            (b"host", b"127.0.0.1"),
            (b"content-type", b"application/json"),
            (b"content-length", b"10"),
            (b"authorization", f"Bearer {site.token()}".encode()),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "http_version": "1.1",
        "root_path": "",
        "asgi": {},
    }
    asyncio.run(site.app(scope, receive, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 408


def test_uploads_are_not_written_to_disk(
    painted_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two megabytes: Starlette by itself keeps one of them in memory."""
    import tempfile

    site = Site(tmp_path, painted_archive)

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a temporary file")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(tempfile, "_TemporaryFileWrapper", refuse, raising=False)
    big = crop_file(site, site.tracklets()[0]) + b"\0" * 2_000_000
    answer = site.client().post(f"{API}/searches/photos", files=[("photos", ("a.jpg", big))])
    assert answer.status_code == 201, answer.text


def test_without_accounts_only_loopback_is_served(painted_archive: Path, tmp_path: Path) -> None:
    from osnet.service.core import Service, ServiceOptions

    service = Service(ServiceOptions((painted_archive,), tmp_path / "state", host="0.0.0.0", device="cpu"))
    with pytest.raises(DataError, match=r"0\.0\.0\.0.*administrator"):
        service.check_address()
    service.accounts.add("root", PASSWORD, "administrator", by="test")
    service.check_address()
