"""The pages: the vendored script, their content, and a new user's first session in a real browser.

The browser is Debian's Chromium, driven by Playwright. ``OSNET_BROWSER_TESTS=required`` turns the skip into a failure.
"""

import hashlib
import io
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("fastapi")

from osnet import Embedder
from osnet.service.timeline_svg import draw_timeline, stack
from osnet.service.timelines import Appearance
from osnet.video import Archive
from small_service import PASSWORD, Site, copy_archive, crop_file, serving

STATIC = files("osnet.service") / "static"
HTMX = "a0abb04f2f45a1f89d1d4844023245537e5e6014c87b144553e0607b4cc32130"
"""SHA-256 of dist/htmx.min.js in htmx.org 4.0.1 on npm."""


def test_htmx_is_the_published_file() -> None:
    assert hashlib.sha256((STATIC / "htmx-4.0.1.min.js").read_bytes()).hexdigest() == HTMX
    assert "Zero-Clause BSD" in (STATIC / "htmx-LICENSE.txt").read_text()


def test_a_timeline_draws_bars_by_camera_and_lines_between_confirmed_ones() -> None:
    shown = [
        Appearance("a~1", "gate", 0.0, 10.0, True, 0.9),
        Appearance("a~2", "hall", 40.0, 50.0, True, 0.8),
        Appearance("a~3", "hall", 90.0, 100.0, False, None),
        Appearance("a~4", "<b>", 95.0, 100.0, False, None),
    ]
    svg = draw_timeline(shown, "s")
    assert svg.count("<rect") == 4
    assert svg.count('class="way"') == 1
    assert svg.count('class="lane"') == 3
    assert "<b>" not in svg
    assert 'x="120.0"' in svg  # the first begins at the left end; its way ends where the second begins
    assert f'x2="{120 + 0.4 * (960 - 120 - 16):.1f}"' in svg
    assert draw_timeline([], "s") == ""


def test_bars_of_one_camera_that_overlap_lie_below_each_other() -> None:
    bars = [("a", 0.0, 10.0), ("b", 5.0, 10.0), ("c", 10.0, 2.0), ("d", 11.0, 9.0), ("e", 30.0, 1.0)]
    assert stack(bars) == {"a": 0, "b": 1, "c": 0, "d": 2, "e": 0}
    shown = [Appearance(f"a~{n}", "gate", float(n), n + 5.0, False, 0.5) for n in range(3)]
    tops = re.findall(r'<rect class="proposed" x="[^"]*" y="([^"]*)"', draw_timeline(shown, "s"))
    assert len(set(tops)) == 3


def test_a_viewer_sees_no_buttons_that_do_nothing(painted_archive: Path, tmp_path: Path) -> None:
    site = Site(tmp_path, painted_archive)
    site.add("vera", "viewer")
    client, public = site.client(), site.tracklets()[0]
    case = client.post("/api/v1/cases", json={"title": "t"}).json()["id"]
    search = client.post("/api/v1/searches", json={"tracklets": [public], "case": case}).json()["id"]
    page, administrator = site.browser("vera"), site.browser()
    paths = (f"/cases/{case}", f"/searches/{search}", f"/tracklets/{public}?search={search}")
    words = ("Yes</button>", "Export", "Delete the case", "Erase")
    for path in paths:
        text = page.get(path).text
        assert page.get(path).status_code == 200
        for word in words:
            assert word not in text, (path, word)
    shown = "".join(administrator.get(path).text for path in paths)
    assert [word for word in words if word not in shown] == []


def test_times_that_occur_twice_or_not_at_all_are_refused(painted_archive: Path, tmp_path: Path) -> None:
    """In Berlin, 02:30 occurs twice on 25 October 2026, and not at all on 29 March: no search takes one silently."""
    site = Site(tmp_path, painted_archive, zone="Europe/Berlin")
    page, public = site.browser(), site.tracklets()[0]

    def search(**times: str) -> Any:
        return page.post("/search", data={"csrf": page.csrf, "tracklet": public, **times})  # type: ignore[attr-defined]

    for time in ("2026-10-25T02:30", "2026-03-29T02:30"):
        for name in ("after", "before"):
            answer = search(**{name: time})
            assert answer.status_code == 422, (name, time)
            assert time in answer.text
    assert search(after="2026-10-25T01:30", before="2026-10-25T03:00").status_code == 303
    assert search(after="2026-10-25T02:30+02:00").status_code == 303


# In a browser


def missing(reason: str) -> None:
    if os.environ.get("OSNET_BROWSER_TESTS") == "required":
        pytest.fail(f"the browser tests are required here: {reason}")
    pytest.skip(f"no browser test: {reason}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        missing("chromium is not installed (Debian: chromium)")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed (extra: dev)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


class Visitor:
    """A page that fails the test on any error in the console, and that checks each place it looks at."""

    def __init__(self, browser: Any, address: str) -> None:
        from axe_playwright_python.sync_playwright import Axe

        self._axe, self.address = Axe(), address
        self.context = browser.new_context(viewport={"width": 1400, "height": 900})
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.set_default_timeout(60_000)

    def check(self, name: str) -> None:
        """No console error, nothing from elsewhere, nothing wider than the screen, no violation that axe-core finds.

        At 400 and 1400 pixels, light and dark. With OSNET_SCREENSHOTS=DIR, pictures of them are written there.
        """
        assert self.errors == [], name
        assert not [url for url in self.requests if not url.startswith((self.address, "blob:", "data:"))], name
        rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21aa", "best-practice"]}
        for width in (1400, 400):
            self.page.set_viewport_size({"width": width, "height": 900})
            for scheme in ("dark", "light"):
                self.page.emulate_media(color_scheme=scheme)
                wide = self.page.evaluate("document.documentElement.scrollWidth")
                assert wide <= width, f"{name} is {wide} pixels wide on a screen of {width}"
                found = self._axe.run(self.page, options=rules)
                violations = [
                    (v["id"], [n["html"][:120] for n in v["nodes"][:3]]) for v in found.response["violations"]
                ]
                assert violations == [], (name, width, scheme)
                if folder := os.environ.get("OSNET_SCREENSHOTS"):
                    self.page.screenshot(path=f"{folder}/{name}-{width}-{scheme}.png", full_page=True)
                rules = {"runOnly": {"type": "rule", "values": ["color-contrast"]}}  # what a scheme can change
            rules = {
                "runOnly": {"type": "rule", "values": ["color-contrast", "target-size", "scrollable-region-focusable"]}
            }
        self.page.set_viewport_size({"width": 1400, "height": 900})

    def wait(self, expression: str) -> None:
        """Until it is true; the page's policy forbids what Playwright's own function does."""
        while not self.page.evaluate(expression):
            assert self.errors == []
            self.page.wait_for_timeout(50)

    def press_until(self, key: str, selector: str) -> None:
        """Press a key, and wait for what it brings."""
        self.page.keyboard.press(key)
        self.page.wait_for_selector(selector)


@pytest.mark.slow
def test_the_way_of_a_newcomer(browser: Any, small_demo: Path, tmp_path: Path) -> None:
    """After `osnet demo`: the one-time link, a photo, its person; answers by keys, a box, a case, export, erasure."""
    archive = copy_archive(small_demo / "archive", tmp_path)
    photo, tracklet_id = found_person(small_demo)
    with serving(archive, tmp_path / "state") as (address, key, process):
        visitor = Visitor(browser, address)
        page = visitor.page
        page.goto(f"{address}/setup?key={key}")
        visitor.check("setup")
        page.fill("[name=name]", "anna")
        page.fill("[name=password]", PASSWORD)
        page.fill("[name=again]", PASSWORD)
        page.click("text=Make the account")
        page.wait_for_url(address + "/")

        page.set_input_files("#photos", str(photo))
        page.wait_for_selector("#previews canvas")
        page.fill("[name=reason]", "a test")
        visitor.check("search")
        page.click("main >> button:text-is('Search')")
        page.wait_for_selector(".hit")
        spent = psutil.Process(process.pid).cpu_times()
        assert spent.user + spent.system < 60, "a minute of one core, start included, whatever else the machine does"
        first = page.locator(".hit").first.get_attribute("data-tracklet")
        assert first == f"archive~{tracklet_id.replace('/', '~')}"  # the person of the photo, by the painter's plan
        visitor.check("results")
        results = page.url
        page.keyboard.press("j")
        visitor.press_until("y", ".hit.yes")
        assert page.locator(".hit.yes").get_attribute("data-tracklet") == first
        page.locator(".hit.open").first.focus()
        visitor.press_until("n", ".hit.no")
        page.locator(".hit.no").first.focus()
        page.keyboard.press("u")
        page.wait_for_selector(".hit.no", state="detached")
        visitor.check("answered")

        page.locator(".hit.yes a").click()
        page.locator("video").evaluate("v => { v.muted = true; return v.play().then(() => v.pause()); }")
        assert page.locator("video").evaluate("v => v.videoWidth") > 0
        page.locator("summary").click()
        visitor.wait("document.querySelector('.why').naturalWidth > 0")
        visitor.check("tracklet")
        page.goto(f"{results}/timeline")
        assert page.locator("svg rect.confirmed").count() == 1
        visitor.check("timeline")

        page.goto(f"{address}/footage/camera-1")
        visitor.wait("document.querySelector('#frame-picture').naturalWidth > 0")
        place = page.locator("#frame-canvas").bounding_box()
        page.mouse.move(place["x"] + 10, place["y"] + 20)
        page.mouse.down()
        page.mouse.move(place["x"] + 70, place["y"] + 140)
        page.mouse.up()
        assert page.input_value("#frame-box") == "[10,20,70,140]"
        visitor.check("footage")
        page.click("text=Search for the person in the box")
        page.wait_for_selector(".hit")

        page.goto(results)
        page.fill("[name=title]", "The gate")
        page.click("text=Keep in the case")
        page.wait_for_selector("text=Export as ZIP")
        visitor.check("case")
        page.fill("text=Reason of the export", "court")
        with page.expect_download() as download:
            page.click("text=Export as ZIP")
        with zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes())) as exported:
            assert "manifest.json" in exported.namelist()
        for path in ("cases", "accounts", "audit?check=1", "retention", "live"):
            page.goto(f"{address}/{path}")
            visitor.check(path.partition("?")[0])

        page.goto(results.replace("/searches/", "/erase?search="))
        visitor.check("erase")
        page.click("text=Show what would go")
        visitor.check("preview")
        page.fill("[name=reason]", "asked for")
        page.click("text=Erase for ever")
        page.wait_for_selector(".state.done")
        page.wait_for_selector("text=None was found")
        visitor.check("job")
        assert page.request.get(f"{address}/tracklets/{first}").status == 404
        assert tracklet_id not in Archive.open(archive).sources()
        visitor.context.close()

        visitor = Visitor(browser, address)
        page = visitor.page
        page.goto(address)
        visitor.check("login")
        page.locator("[name=name]").focus()
        page.keyboard.type("anna")
        page.keyboard.press("Tab")
        page.keyboard.type(PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_url(address + "/")
        visitor.context.close()


def found_person(demo: Path) -> tuple[Path, str]:
    """A photo of the demo, and the tracklet of its person that a search must give first, by the painter's plan."""
    archive = Archive.open(demo / "archive", Embedder(demo / "archive" / "weights", device="cpu"))
    visits = json.loads((demo / "footage" / "footage.json").read_text())["visits"]
    start = archive.segments[0]["start_s"]
    for photo in sorted((demo / "footage" / "photos").glob("*.jpg")):
        seen = archive.tracklet(archive.search(photo, top=1)[0].item.source)
        for visit in visits:
            there = (visit["pid"], f"camera-{visit['camera']}") == (int(photo.stem), seen.camera)
            if there and visit["begin_s"] - 0.5 <= seen.begin_s - start and seen.end_s - start <= visit["end_s"] + 0.5:
                return photo, seen.id
    raise AssertionError("no person of the demo was found")


# Schemathesis


@pytest.mark.slow
def test_requests_generated_from_the_openapi_document_cause_no_server_error(
    painted_archive: Path, tmp_path: Path
) -> None:
    """Generated requests, valid and not: no 5xx, and every error is problem+json."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings

    site = Site(tmp_path, copy_archive(painted_archive, tmp_path))
    client = site.client()
    schema = schemathesis.openapi.from_dict(client.get("/api/v1/openapi.json").json())
    tried = 0
    for operation in schema.get_all_operations():
        case_strategy = operation.ok().as_strategy()

        @settings(
            max_examples=5,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=case_strategy)
        def run(case: Any) -> None:
            nonlocal tried
            sent = case.as_transport_kwargs(base_url="http://127.0.0.1")
            sent.pop("cookies", None)
            headers = {k: v for k, v in (sent.pop("headers", None) or {}).items() if k.lower() != "authorization"}
            answer = client.request(**sent, headers=headers)
            tried += 1
            assert answer.status_code < 500 or answer.status_code == 503, (case.method, case.path, answer.text)
            if answer.status_code >= 400:
                assert answer.headers["content-type"].startswith(("application/problem+json", "application/json"))

        run()
    assert tried > 200
    assert crop_file(site, site.tracklets()[0])
