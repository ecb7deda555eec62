"""Names of files that are not UTF-8, that the terminal cannot show, or that mean something to a formula."""

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import write_picture
from osnet import Embedder, OSNet
from osnet.cli import main
from osnet.cli.common import write_probabilities
from osnet.errors import DataError
from osnet.figures.attribute_sheet import SheetCrop, draw_attribute_sheet
from osnet.figures.canvas import Sheet, new_figure, plain, save_figure
from osnet.figures.curves import Line, LineStyle, draw_intervals, draw_lines
from osnet.figures.ranked_list import draw_ranked_lists
from osnet.files import printable
from osnet.gallery import Gallery
from osnet.metrics.bootstrap import Interval
from osnet.types import Hit, Item, RankedList

BYTES = "za\udcff\udcfe b\u0142\u0105d \u2713 $x_{$.png"
"""Not UTF-8, not Latin-1, and half a formula."""


def names_can_be_so(folder: Path) -> None:
    try:
        write_picture(folder / BYTES)
    except (OSError, UnicodeError):
        pytest.skip("this disk takes no such names")


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    names_can_be_so(tmp_path / "crops")
    write_picture(tmp_path / "crops" / "plain.png", 2)
    return tmp_path / "crops"


class Terminal:
    """Standard output and error as a terminal of one encoding has them: strict."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
        self.patch, self.encoding = monkeypatch, encoding

    def __call__(self, *args: object) -> tuple[int, str, str]:
        streams = [io.TextIOWrapper(io.BytesIO(), self.encoding, "strict", newline="\n") for _ in range(2)]
        status = 0
        with self.patch.context() as patch:
            patch.setattr(sys, "stdout", streams[0])
            patch.setattr(sys, "stderr", streams[1])
            try:
                main([str(arg) for arg in args])
            except SystemExit as stop:
                status = int(stop.code or 0)
            for stream in streams:
                stream.flush()
        out, err = (stream.buffer.getvalue().decode(self.encoding) for stream in streams)  # type: ignore[attr-defined]
        return status, out, err


@pytest.fixture(params=["ascii", "utf-8", "cp1252"])
def terminal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tiny_network: OSNet) -> Terminal:
    made = Embedder(tiny_network)
    for module in ("gallery.open_embedder", "embed.Embedder", "evaluate.Embedder"):
        monkeypatch.setattr(f"osnet.cli.{module}", lambda *_args, **_options: made)
    return Terminal(monkeypatch, request.param)


def test_commands_with_odd_names(terminal: Terminal, odd: Path, tmp_path: Path) -> None:
    gallery = tmp_path / "g"
    assert terminal("index", odd, "--out", gallery, "--weights", "tiny")[0] == 0
    status, out, _ = terminal("search", gallery, odd / BYTES, "--sheet", tmp_path / "s.png")
    assert status == 0
    assert r"za\udcff\udcfe b" in out
    status, out, _ = terminal("search", gallery, odd / BYTES, "--json", "--top", 1)
    assert (status, json.loads(out)["hits"][0]["source"]) == (0, str(odd / BYTES))
    assert Gallery.open(gallery).sources() == {str(odd / BYTES), str(odd / "plain.png")}
    assert terminal("embed", odd, "--weights", "tiny", "--out", tmp_path / "v.npz")[0] == 0
    assert str(odd / BYTES) in np.load(tmp_path / "v.npz")["names"].tolist()
    (odd / BYTES).write_bytes(b"broken")
    status, _, err = terminal("embed", odd, "--weights", "tiny", "--out", tmp_path / "w.npz")
    assert status == 2
    assert r"za\udcff\udcfe b" in err
    assert terminal("gallery", "remove", gallery, "--source", odd / BYTES, "--dry-run")[0] == 0
    (odd / BYTES).unlink()
    assert r"za\udcff" in terminal("index", odd, "--out", gallery)[2]
    assert terminal("data", "check", tmp_path / f"gone{BYTES}")[0] == 2


def test_the_streams_stay_as_they_were_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), "ascii", "strict")
    monkeypatch.setattr(sys, "stdout", stream)
    main(["weights"])
    assert (stream.encoding, stream.errors) == ("ascii", "backslashreplace")
    monkeypatch.setattr(sys, "stdout", io.StringIO())  # no wrapper of bytes: left alone
    main(["weights"])


def test_printable() -> None:
    assert printable("a\udcffb\x1b[31m\x00\n\u0142 \u2713") == "a\\udcffb\\x1b[31m\\x00\n\u0142 \u2713"
    assert plain("$a$ \udcff") == r"\$a\$ \udcff"


def drawn_texts(figure: Any) -> list[str]:
    from matplotlib.text import Text

    figure.draw_without_rendering()
    return [text._preprocess_math(text.get_text())[0] for text in figure.findobj(Text) if text.get_text()]


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_figures_show_odd_names_as_they_are(kind: str, tmp_path: Path) -> None:
    with new_figure((3, 2), layout=None) as figure:
        Sheet(figure).write(0.1, 0.1, BYTES)
        assert r"za\udcff\udcfe błąd ✓ $x_{$.png" in drawn_texts(figure)
        save_figure(figure, tmp_path / f"f.{kind}")
    lines = {BYTES: Line([0, 1], [0, 1]), "$_{": Line([0, 1], [1, 0])}
    for svg in (
        draw_lines(lines, BYTES, "y $", LineStyle(title=BYTES)),
        draw_intervals({BYTES: Interval(0.1, 0.0, 0.2, 9)}, f"{BYTES} minus $", BYTES),
    ):
        assert r"\udcff" in svg
        assert "$x_{$.png" in svg
        svg.encode()


def test_sheets_show_odd_names(odd: Path) -> None:
    hit = Hit(1, 0.5, Item(str(odd / BYTES), BYTES, BYTES))
    draw_ranked_lists([RankedList(odd / BYTES, [hit], title=BYTES, note=BYTES)], BYTES)
    draw_attribute_sheet([SheetCrop(odd / BYTES, (BYTES,), heading=BYTES)], BYTES)


def test_probabilities_of_odd_names(tmp_path: Path) -> None:
    write_probabilities(tmp_path / "p.csv", ["hat"], [BYTES], np.array([[0.5]], dtype=np.float32))
    assert r"za\udcff\udcfe błąd" in (tmp_path / "p.csv").read_text(encoding="utf-8")


def test_a_report_of_odd_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from osnet.figures import report

    monkeypatch.setattr(report, "render_report", lambda _report: f"<p>{BYTES}</p>")
    report.write_report(None, tmp_path / "r.html")  # type: ignore[arg-type]
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == r"<p>za\udcff\udcfe błąd ✓ $x_{$.png</p>"


def test_a_table_with_a_name_that_cannot_be(odd: Path, tmp_path: Path) -> None:
    from osnet.data.folder import FolderLayout, read_folder

    (tmp_path / "t.csv").write_bytes(b"path,identity\n" + os.fsencode(BYTES) + b",ada\n")
    with pytest.raises(DataError, match="0xff"):
        read_folder(odd, FolderLayout(csv=tmp_path / "t.csv"))
