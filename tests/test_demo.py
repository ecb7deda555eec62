"""The demo at toy size, as a newcomer runs it, and its report."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from conftest import write_picture
from osnet import cli
from osnet.cli.common import EXIT_ERROR
from osnet.demo import BASELINE, CAUTION, HISTOGRAM, OSNET, QUICK, UNTRAINED, check_learned, describe_findings
from osnet.errors import DemoError
from osnet.evaluation.comparison import Comparison, Entrant, compare
from osnet.figures.curves import Line
from osnet.figures.report import Report, ShownQuery, render_report, write_report
from osnet.types import Crop, Hit, Item, RankedList, ReidDataset, Split

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Tags that do not close in order, addresses that are asked for, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.words = ""
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "data", "poster", "xlink:href", "action"):
                self.addresses.append(value or "")
            if name == "id":
                self.ids.append(value or "")
        assert tag != "script"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def assert_self_contained(text: str) -> Page:
    page = Page(text)
    assert all(address.startswith(("data:image/jpeg;base64,", "#")) for address in page.addresses)
    assert not re.search(r"url\((?!#)|@import", text)
    assert len(page.ids) == len(set(page.ids)), "two figures share an id"
    return page


@pytest.mark.slow
def test_quick_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    cli.main(["demo", "--quick", "--out", str(out), "--device", "cpu"])
    said = capsys.readouterr().out
    assert str(out / "report.html") in said
    assert CAUTION in said
    content = json.loads((out / "comparison.json").read_text())
    everyone = content["groups"][0]
    assert everyone["num_queries"] == 16 * QUICK.people.cameras
    for name, untrained in UNTRAINED.items():
        assert everyone["scores"][name]["mAP"] > 1.5 * everyone["scores"][untrained]["mAP"]
    assert [g["name"] for g in content["groups"]] == [
        "all", "overall look", "in full view", "partly hidden", "much hidden",
    ]  # fmt: skip
    page = assert_self_contained((out / "report.html").read_text())
    assert "These are generated people" in page.words
    assert f"{100 * everyone['scores'][OSNET]['mAP']:.1f}" in page.words
    assert "✓ same" in page.words
    assert "✗ other" in page.words

    photo = next(iter((out / "generated-people" / "query").glob("*.jpg")))
    cli.main(["search", str(out / "gallery"), str(photo), "--top", "3"])
    assert re.search(r"^ +1 +0\.\d+ ", capsys.readouterr().out, re.MULTILINE)

    def written() -> dict[Path, int]:
        """When what takes long was written: people, weights, vectors."""
        kinds = ("generated-people/**/*.jpg", "*/weights/*", "scores/**/*.npz")
        return {path: path.stat().st_mtime_ns for kind in kinds for path in out.glob(kind)}

    before = written()
    assert {path.suffix for path in before} == {".jpg", ".json", ".safetensors", ".npz"}
    cli.main(["demo", "--quick", "--out", str(out), "--device", "cpu"])
    assert "resumed from an earlier call" in capsys.readouterr().out
    assert written() == before

    settings = out / "generated-people" / "generated.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "seed": 9}))
    with pytest.raises(SystemExit) as stopped:
        cli.main(["demo", "--quick", "--out", str(out)])
    assert stopped.value.code == EXIT_ERROR
    assert "generated-people contains other data" in capsys.readouterr().err


def test_data_and_weights_go_together(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["demo", "--data", "somewhere"])
    assert "go together" in capsys.readouterr().err


@pytest.fixture
def people() -> ReidDataset:
    crops = [Crop(Path(f"{i}.jpg"), 1 + i % 8, 1 + i // 8, str(1 + i % 8)) for i in range(24)]
    return ReidDataset(
        "people", Path(), query=Split("query", tuple(crops[:8])), gallery=Split("gallery", tuple(crops[8:]))
    )


def make_comparison(people: ReidDataset, learned: bool) -> Comparison:
    rng = np.random.default_rng(0)

    def entrant(name: str, good: bool) -> Entrant:
        def vectors(split: Split) -> np.ndarray:
            own = np.eye(9)[split.pids] if good else 0
            return (own + 0.1 * rng.normal(size=(len(split), 9))).astype(np.float32)

        return Entrant(name, vectors(people.query), vectors(people.gallery))

    good = {OSNET: True, BASELINE: learned}
    entrants = [entrant(name, good.get(name, False)) for name in (HISTOGRAM, *UNTRAINED.values(), BASELINE, OSNET)]
    contrasts = [(OSNET, BASELINE), *UNTRAINED.items(), (OSNET, HISTOGRAM)]
    return compare(people, entrants, contrasts)


def test_the_demo_fails_if_a_network_did_not_learn(people: ReidDataset) -> None:
    check_learned(make_comparison(people, learned=True))
    with pytest.raises(DemoError, match="single-scale T=1 did not learn"):
        check_learned(make_comparison(people, learned=False))


def test_findings_say_what_was_found(people: ReidDataset) -> None:
    same = describe_findings(make_comparison(people, learned=True))
    assert "no difference shown" in same[0]
    worse = describe_findings(make_comparison(people, learned=False))
    assert f"{OSNET} score higher" in worse[0]
    assert "no difference shown" in worse[2]


def make_report(comparison: Comparison, photo: Path) -> Report:
    hits = [
        Hit(1, 0.91, Item(str(photo), "1", "2")),
        Hit(2, 0.80, Item(str(photo), "<b>2</b>", "2")),
        Hit(3, 0.70, Item(str(photo.with_name("gone.jpg")), "3", "2")),
    ]
    return Report(
        title="<script>alert(1)</script>",
        caution="careful & slow",
        findings=["one < two"],
        comparison=comparison,
        queries=[ShownQuery("Best", {OSNET: RankedList(photo, hits, "1")}, {"3": "a twin"})],
        losses={OSNET: Line([1, 2, 3], [3.0, 2.0, 1.0])},
        sheet=[[photo]],
        facts={"took": "1 < 2 minutes"},
    )


def test_report(people: ReidDataset, tmp_path: Path) -> None:
    photo = write_picture(tmp_path / "a.png")
    report = make_report(make_comparison(people, learned=True), photo)
    text = render_report(report)
    page = assert_self_contained(text)  # also: no script tag, so the title was escaped
    for words in ("<script>alert(1)</script>", "careful & slow", "one < two", "1 < 2 minutes", "person <b>2</b>"):
        assert words in page.words
    assert page.words.count("✓ same") == 1
    assert page.words.count("✗ other") == 2
    assert "a twin" in page.words
    assert "file not readable" in page.words
    assert text == render_report(report), "the same page every time"
    write_report(replace(report, queries=[], losses={}, sheet=[]), tmp_path / "small.html")
    small = assert_self_contained((tmp_path / "small.html").read_text())
    assert "Ranked lists" not in small.words


def test_best_of_a_column_is_marked(people: ReidDataset, tmp_path: Path) -> None:
    comparison = make_comparison(people, learned=False)
    text = render_report(make_report(comparison, write_picture(tmp_path / "a.png")))
    row = re.search(rf'<th scope="row">{OSNET}</th>(.*?)</tr>', text)
    assert row is not None
    assert row.group(1).count('class="best"') == 4
