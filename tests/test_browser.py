"""The report in a real browser: it renders, its parts open, it fits the window, and it loads and runs nothing else.

Needs Debian's chromium and chromium-driver and Selenium. ``OSNET_BROWSER_TESTS=required`` (as CI sets it) turns the
skip into a failure.
"""

import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from osnet.embedding.embedder import Embedder
from osnet.evaluation.comparison import Entrant, compare
from osnet.figures.curves import Line
from osnet.figures.report import Report, write_report
from osnet.figures.report_data import EvaluatedNetwork, choose_sheet, describe_networks
from osnet.models.osnet import OSNet
from osnet.types import Crop, Preprocessing, ReidDataset, Split

NUM_PEOPLE, NUM_CAMERAS = 250, 4
PHONE, DESKTOP = (400, 800), (1280, 900)


def missing(reason: str) -> None:
    if os.environ.get("OSNET_BROWSER_TESTS") == "required":
        pytest.fail(f"the browser tests are required here: {reason}")
    pytest.skip(f"no browser test: {reason}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    chromedriver = shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        missing("chromium and chromedriver are not installed (Debian: chromium, chromium-driver)")
    try:
        from selenium import webdriver
    except ImportError:
        missing("selenium is not installed (extra: dev)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--force-color-profile=srgb"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(chromedriver))
    driver.set_page_load_timeout(1200)
    driver.set_script_timeout(1200)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, tiny_network: OSNet) -> Path:
    """A report on 1000 queries of 250 people in four cameras, with noisy embeddings and JPEGs of a realistic size."""
    folder = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    crops: dict[str, list[Crop]] = {"query": [], "gallery": []}
    for pid in range(1, NUM_PEOPLE + 1):
        blocks = Image.fromarray(rng.integers(0, 256, (8, 4, 3), dtype=np.uint8)).resize((64, 128))
        for camid in range(1, NUM_CAMERAS + 1):
            for split in crops:
                noise = rng.normal(0, 12, (128, 64, 3))
                pixels = np.clip(np.asarray(blocks) + noise, 0, 255).astype(np.uint8)
                path = folder / split / f"{pid:04d}_c{camid}.jpg"
                path.parent.mkdir(exist_ok=True)
                Image.fromarray(pixels).save(path, quality=95)
                crops[split].append(Crop(path, pid, camid, str(pid), str(camid)))
    data = ReidDataset("people", folder, query=Split("query", tuple(crops["query"])),
                       gallery=Split("gallery", tuple(crops["gallery"])))  # fmt: skip
    assert len(data.query) == 1000
    people = rng.normal(size=(NUM_PEOPLE + 1, 16))
    embedder = Embedder(tiny_network, preprocessing=Preprocessing(size_hw=(64, 32)))

    def make(name: str, noise: float) -> EvaluatedNetwork:
        query, gallery = (
            np.abs(people[split.pids] + noise * rng.normal(size=(len(split), 16))).astype(np.float32)
            for split in (data.query, data.gallery)
        )
        return EvaluatedNetwork(Entrant(name, query, gallery), embedder)

    networks = [make("one", 0.5), make("another", 0.7)]
    comparison = compare(data, [n.entrant for n in networks], [("one", "another")])
    report = Report(
        title="<b>A thousand</b> queries", caution="careful", findings=["a finding"], comparison=comparison,
        losses={"one": Line([1, 2, 3], [3.0, 2.0, 1.0])}, sheet=choose_sheet(data), facts={"name": "value"},
        recipes={"one": {"lr": "0.1"}}, **describe_networks(data, networks, comparison),
    )  # fmt: skip
    write_report(report, folder / "report.html")
    return folder / "report.html"


@pytest.fixture
def opened(browser: Any, page: Path) -> Iterator[Any]:
    """The page, freshly loaded on a desktop."""
    browser.get_log("performance")
    browser.get_log("browser")
    show(browser, page, DESKTOP)
    yield browser
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def show(browser: Any, page: Path, size: tuple[int, int]) -> None:
    width, height = size
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    browser.get("about:blank")  # otherwise the browser may not reload the same address
    browser.get(page.as_uri())


def wait_for_rendering(browser: Any) -> None:
    """Wait until all images of the page are loaded and two more frames are drawn."""
    browser.execute_async_script(
        "const done = arguments[0]; for (const image of document.images) image.loading = 'eager';"
        "Promise.all([...document.images].map(i => i.complete || new Promise(r => i.onload = i.onerror = r)))"
        ".then(() => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )


def test_the_page_is_small(browser: Any, page: Path) -> None:
    """Counts what makes a page slow to open: bytes, elements, scripts."""
    assert page.stat().st_size < 10_000_000
    show(browser, page, DESKTOP)
    wait_for_rendering(browser)
    assert browser.execute_script("return document.readyState") == "complete"
    assert browser.execute_script("return document.querySelectorAll('*').length") < 30_000
    assert browser.execute_script("return document.querySelectorAll('script, iframe, object').length") == 0


def test_the_page_renders(opened: Any) -> None:
    assert opened.title == "<b>A thousand</b> queries"
    assert opened.find_element("css selector", "h1").text == "<b>A thousand</b> queries"
    headings = [h.text for h in opened.find_elements("css selector", "h2")]
    for wanted in ("Scores", "Curves", "Ranked lists", "What went wrong", "Map of the embeddings", "How this was made"):
        assert wanted in headings
    dangling = opened.execute_script(
        "return [...document.querySelectorAll('use')].filter(u => !document.querySelector(u.href.baseVal)).length"
    )
    assert dangling == 0, "thumbnails that refer to no image"
    assert len(opened.find_elements("css selector", "use")) > len(opened.find_elements("css selector", "image")) > 100
    cells = opened.find_elements("css selector", "#lists .cell svg")
    assert all(cell.size == {"width": 64, "height": 128} for cell in cells[:20])
    shot = Image.open(io.BytesIO(cells[0].screenshot_as_png)).convert("RGB")
    assert np.asarray(shot).std() > 20, "the thumbnail is drawn, not blank"
    overlapping = opened.execute_script(
        "const t = [...document.querySelectorAll('figure svg')].map(s => [...s.querySelectorAll('text')].map(x => "
        "x.getBoundingClientRect()).filter(r => r.width)); return t.map(rs => rs.filter((a, i) => rs.some((b, j) => "
        "j > i && a.left < b.right - 2 && b.left < a.right - 2 && a.top < b.bottom - 3 && b.top < a.bottom - 3"
        ")).length)"
    )
    assert len(overlapping) >= 6
    assert not any(overlapping), f"number of overlapping labels per figure: {overlapping}"


def test_the_page_requests_nothing_and_logs_no_errors(opened: Any, page: Path) -> None:
    for details in opened.find_elements("css selector", "details"):
        opened.execute_script("arguments[0].open = true", details)
    opened.execute_script("window.scrollTo(0, document.body.scrollHeight)")
    wait_for_rendering(opened)
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    requested = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert page.as_uri() in requested
    assert all(url == page.as_uri() or url.startswith("data:image/jpeg") for url in requested)
    assert opened.get_log("browser") == []
    assert opened.find_elements("css selector", "script, link, iframe, object") == []


def test_lists_open_to_show_maps_by_mouse_and_by_keyboard(opened: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    first, second = opened.find_elements("css selector", "#lists details.looks")[:2]
    maps = first.find_elements("css selector", "img")
    assert len(maps) >= 2 * (5 + 3)
    assert not any(image.is_displayed() for image in maps)
    first.find_element("css selector", "summary").click()
    assert all(image.is_displayed() for image in maps)
    assert "entropy" in first.text
    opened.execute_script("arguments[0].scrollIntoView()", maps[-1])
    widths = opened.execute_async_script(
        "const [imgs, done] = arguments; Promise.all([...imgs].map(i => i.decode())).then(() => "
        "done([...imgs].map(i => i.naturalWidth)))", maps,
    )  # fmt: skip
    assert set(widths) == {64}
    summary = second.find_element("css selector", "summary")
    for _ in range(300):  # only with Tab, from the top of the page
        opened.switch_to.active_element.send_keys(Keys.TAB)
        if opened.switch_to.active_element == summary:
            break
    assert opened.switch_to.active_element == summary
    summary.send_keys(Keys.ENTER)
    assert second.find_element("css selector", "img").is_displayed()
    assert opened.execute_script("return getComputedStyle(arguments[0]).outlineStyle", summary) != "none"


def test_failures_are_grouped(opened: Any) -> None:
    for _ in range(100):  # a busy machine may not have laid the page out yet
        groups = opened.find_elements("css selector", "#failures details.group")
        if len(groups) == 4:
            break
        opened.implicitly_wait(1)
    assert [g.find_element("css selector", "b").text for g in groups] == [
        "occlusion", "camera pair", "another person alike", "other",
    ]  # fmt: skip
    assert "0 queries" in groups[0].get_attribute("textContent")
    alike = groups[2]
    alike.find_element("css selector", "summary").click()
    rows = alike.find_elements("css selector", ":scope > section > .row")
    assert rows
    assert all("✗ other" in row.text for row in rows[::2]), "the first network ranks another person first"


def test_navigation_links_scroll_to_their_sections(opened: Any) -> None:
    links = opened.find_elements("css selector", "nav a")
    assert len(links) > 3
    for link in links:
        link.click()
        target = link.get_attribute("href").rpartition("#")[2]
        assert abs(opened.find_element("id", target).rect["y"] - opened.execute_script("return scrollY")) < 700
        opened.execute_script("scrollTo(0, 0)")


@pytest.mark.parametrize("size", [PHONE, DESKTOP])
def test_the_page_fits_the_window(browser: Any, page: Path, size: tuple[int, int]) -> None:
    show(browser, page, size)
    for details in browser.find_elements("css selector", "details"):
        browser.execute_script("arguments[0].open = true", details)
    assert browser.execute_script("return document.scrollingElement.scrollWidth") <= size[0]
    # Wider parts scroll inside their own frame.
    small = browser.execute_script(
        "return [...document.querySelectorAll('p, dd, td, summary')].filter(e => e.offsetParent && "
        "parseFloat(getComputedStyle(e).fontSize) < 11).length"
    )
    assert small == 0


def luminance(colour: str) -> float:
    parts = np.array([float(v) for v in colour[colour.index("(") + 1 : -1].split(",")[:3]]) / 255
    return float(np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_have_enough_contrast(opened: Any, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    ground = luminance(opened.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert (ground > 0.5) == (scheme == "light")
    for selector in ("body", ".soft", "figcaption", ".cell.same b", ".cell.other b", "figure svg text"):
        of = "fill" if selector.endswith("text") else "color"
        found = opened.execute_script(f"return getComputedStyle(document.querySelector(arguments[0])).{of}", selector)
        light, dark = sorted((luminance(found), ground), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{selector} in {scheme}: contrast too low"


def test_print_shows_closed_parts_on_white(opened: Any) -> None:
    closed = opened.find_elements("css selector", "details:not([open])")
    assert closed
    assert not any(opened.execute_script("return arguments[0].checkVisibility()", d.find_elements("css selector", "p, dl, .inner, table")[0]) for d in closed[:5])  # fmt: skip  # noqa: E501
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": features})
    shown = opened.execute_script(
        "return [...arguments[0]].map(d => d.querySelector('p, dl, .inner, table')).map(e => e.checkVisibility() && "
        "e.getBoundingClientRect().height > 5)", closed,
    )  # fmt: skip
    assert all(shown)
    ground = opened.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert luminance(ground) > 0.9, "print has a white background in dark mode too"
    assert opened.execute_script("return document.scrollingElement.scrollWidth") <= DESKTOP[0]
