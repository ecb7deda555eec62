"""File names that are not UTF-8, that the terminal cannot show, or that look like a formula to matplotlib."""

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

ODD_NAME = "za\udcff\udcfe b\u0142\u0105d \u2713 $x_{$.png"
"""Contains bytes that are not UTF-8, characters outside Latin-1, and an unfinished formula."""


def skip_unless_names_allowed(folder: Path) -> None:
    try:
        write_picture(folder / ODD_NAME)
    except (OSError, UnicodeError):
        pytest.skip("this file system does not allow such names")


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    skip_unless_names_allowed(tmp_path / "crops")
    write_picture(tmp_path / "crops" / "plain.png", 2)
    return tmp_path / "crops"


class Terminal:
    """Runs a command with stdout and stderr in one encoding that raises for other characters, as a terminal does."""

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
    status, out, _ = terminal("search", gallery, odd / ODD_NAME, "--sheet", tmp_path / "s.png")
    assert status == 0
    assert r"za\udcff\udcfe b" in out
    assert out.splitlines()[-1].endswith("s.png")
    status, out, _ = terminal("search", gallery, odd / ODD_NAME, "--json", "--top", 1)
    assert (status, json.loads(out)["hits"][0]["source"]) == (0, str(odd / ODD_NAME))
    assert Gallery.open(gallery).sources() == {str(odd / ODD_NAME), str(odd / "plain.png")}
    assert terminal("embed", odd, "--weights", "tiny", "--out", tmp_path / "v.npz")[0] == 0
    assert str(odd / ODD_NAME) in np.load(tmp_path / "v.npz")["names"].tolist()
    (odd / ODD_NAME).write_bytes(b"broken")
    status, _, err = terminal("embed", odd, "--weights", "tiny", "--out", tmp_path / "w.npz")
    assert status == 2
    assert r"za\udcff\udcfe b" in err
    assert terminal("gallery", "remove", gallery, "--source", odd / ODD_NAME, "--dry-run")[0] == 0
    (odd / ODD_NAME).unlink()
    assert r"za\udcff" in terminal("index", odd, "--out", gallery)[2]
    assert terminal("data", "check", tmp_path / f"gone{ODD_NAME}")[0] == 2


def test_commands_change_only_the_streams_error_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), "ascii", "strict")
    monkeypatch.setattr(sys, "stdout", stream)
    main(["weights"])
    assert (stream.encoding, stream.errors) == ("ascii", "backslashreplace")
    monkeypatch.setattr(sys, "stdout", io.StringIO())  # has no error handler, so is not changed
    main(["weights"])


def test_printable() -> None:
    assert printable("a\udcffb\x1b[31m\x00\n\u0142 \u2713") == "a\\udcffb\\x1b[31m\\x00\n\u0142 \u2713"
    assert plain("$a$ \udcff") == r"\$a\$ \udcff"


def drawn_texts(figure: Any) -> list[str]:
    from matplotlib.text import Text

    figure.draw_without_rendering()
    return [text._preprocess_math(text.get_text())[0] for text in figure.findobj(Text) if text.get_text()]


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_figures_show_odd_names(kind: str, tmp_path: Path) -> None:
    with new_figure((3, 2), layout=None) as figure:
        Sheet(figure).write(0.1, 0.1, ODD_NAME)
        assert r"za\udcff\udcfe błąd ✓ $x_{$.png" in drawn_texts(figure)
        save_figure(figure, tmp_path / f"f.{kind}")
    lines = {ODD_NAME: Line([0, 1], [0, 1]), "$_{": Line([0, 1], [1, 0])}
    for svg in (
        draw_lines(lines, ODD_NAME, "y $", LineStyle(title=ODD_NAME)),
        draw_intervals({ODD_NAME: Interval(0.1, 0.0, 0.2, 9)}, f"{ODD_NAME} minus $", ODD_NAME),
    ):
        assert r"\udcff" in svg
        assert "$x_{$.png" in svg
        svg.encode()


def test_sheets_show_odd_names(odd: Path) -> None:
    hit = Hit(1, 0.5, Item(str(odd / ODD_NAME), ODD_NAME, ODD_NAME))
    draw_ranked_lists([RankedList(odd / ODD_NAME, [hit], title=ODD_NAME, note=ODD_NAME)], ODD_NAME)
    draw_attribute_sheet([SheetCrop(odd / ODD_NAME, (ODD_NAME,), heading=ODD_NAME)], ODD_NAME)


def test_probability_files_with_odd_names(tmp_path: Path) -> None:
    write_probabilities(tmp_path / "p.csv", ["hat"], [ODD_NAME], np.array([[0.5]], dtype=np.float32))
    assert r"za\udcff\udcfe błąd" in (tmp_path / "p.csv").read_text(encoding="utf-8")


def test_reports_with_odd_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from osnet.figures import report

    monkeypatch.setattr(report, "render_report", lambda _report: f"<p>{ODD_NAME}</p>")
    report.write_report(None, tmp_path / "r.html")  # type: ignore[arg-type]
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == r"<p>za\udcff\udcfe błąd ✓ $x_{$.png</p>"


def test_a_table_that_is_not_utf8_is_refused(odd: Path, tmp_path: Path) -> None:
    from osnet.data.folder import FolderLayout, read_folder

    (tmp_path / "t.csv").write_bytes(b"path,identity\n" + os.fsencode(ODD_NAME) + b",ada\n")
    with pytest.raises(DataError, match="0xff"):
        read_folder(odd, FolderLayout(csv=tmp_path / "t.csv"))
