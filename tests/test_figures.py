"""Figures: ranked lists, interval plots, and cost plots."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import write_picture
from osnet.errors import DataError, OutputError
from osnet.figures.costs import CostPoint, save_costs
from osnet.figures.curves import draw_intervals
from osnet.figures.ranked_list import NEUTRAL, RIGHT, WRONG, draw_ranked_lists, save_ranked_lists
from osnet.metrics.bootstrap import Interval
from osnet.types import Hit, Item, RankedList


def pixels_of(sheet, colour: str) -> int:
    rgb = tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return int((np.array(sheet) == rgb).all(axis=2).sum())


def test_ranked_list(tmp_path: Path) -> None:
    a, b = (str(write_picture(tmp_path / f"{n}.png", n)) for n in range(2))
    right, wrong = Hit(1, 0.9, Item(a, "ada", "2")), Hit(2, 0.8, Item(b, "bob"))
    both = draw_ranked_lists([RankedList(Path(a), [right, wrong], "ada")], "title")
    assert both.size == (14 * 5 + 3 * 128, 44 + 256 + 54 + 14)
    assert (
        pixels_of(both, RIGHT) > 1.5 * pixels_of(both, WRONG) > 0
    )  # a right hit has two frames, so that colour is not the only mark
    unknown = draw_ranked_lists([RankedList(Path(a), [right, wrong])])
    assert pixels_of(unknown, RIGHT) == pixels_of(unknown, WRONG) == 0


def test_a_camera_that_is_called_camera_is_not_called_so_twice(tmp_path: Path) -> None:
    photo = write_picture(tmp_path / "a.png")

    def sheet(item: Item) -> np.ndarray:
        return np.asarray(draw_ranked_lists([RankedList(photo, [Hit(1, 0.5, item)])]))

    name = "camera 1"  # as an identity it is drawn as it is
    assert np.array_equal(sheet(Item(str(photo), camera=name)), sheet(Item(str(photo), name)))
    assert np.array_equal(sheet(Item(str(photo), camera="1")), sheet(Item(str(photo), name)))


def test_a_missing_file_leaves_a_placeholder(tmp_path: Path) -> None:
    photo = write_picture(tmp_path / "a.png")
    sheet = draw_ranked_lists([RankedList(photo, [Hit(1, 0.5, Item(str(tmp_path / "gone.png")))])])
    assert sheet.size[0] > 2 * 128


def test_ignored_hits_are_marked_and_take_no_rank(tmp_path: Path) -> None:
    a, b = (str(write_picture(tmp_path / f"{n}.png", n)) for n in range(2))
    hits = [Hit(0, 0.9, Item(a, "ada", "1")), Hit(1, 0.8, Item(b, "ada", "2"))]
    plain = draw_ranked_lists([RankedList(Path(a), hits, "ada")])
    marked = draw_ranked_lists([RankedList(Path(a), hits, "ada", frozenset({a}))])
    assert plain.size == marked.size
    assert pixels_of(marked, RIGHT) < 0.7 * pixels_of(plain, RIGHT)
    assert pixels_of(marked, NEUTRAL) > pixels_of(plain, NEUTRAL)
    save_ranked_lists([RankedList(Path(a), hits, "ada", frozenset({a}))], tmp_path / "a.pdf")
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


def test_intervals_of_two_comparisons_share_no_ids() -> None:
    rows = {"all": Interval(0.1, -0.1, 0.3, 5), "small cue": Interval(0.2, 0.1, 0.3, 5)}
    drawn = [draw_intervals(rows, "difference in mAP, points", name) for name in ("a minus b", "a minus c")]
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in drawn]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert all("difference in mAP, points" in svg for svg in drawn)


def test_cost_figure(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    points = [
        CostPoint("OSNet", "x0.5", 1.1e6, 424e6, 0.695), CostPoint("OSNet", "x1.0", 2.7e6, 1511e6, 0.755),
        CostPoint("SqueezeNet", "1.0", 1.2e6, None, 0.575, 0.57, 0.58),
    ]  # fmt: skip
    save_costs(points, tmp_path / "a.svg", "top-1", "not ImageNet")
    svg = (tmp_path / "a.svg").read_text()
    assert svg.count(">x0.5<") == 2
    assert svg.count(">1.0<") == 1  # not in the plot of multiply-adds, which are unknown
    assert svg.count(">OSNet<") == 1
    assert "not ImageNet" in svg
    assert "top-1 (%)" in svg
    save_costs(points, tmp_path / "b.svg", "top-1", "not ImageNet")
    assert (tmp_path / "b.svg").read_bytes() == (tmp_path / "a.svg").read_bytes()
    with pytest.raises(DataError, match="no networks"):
        save_costs([], tmp_path / "c.svg", "top-1")
    with pytest.raises(DataError, match=r"OSNet x1\.0: parameters"):
        save_costs([replace(points[1], accuracy=75.5)], tmp_path / "c.svg", "top-1")
    with pytest.raises(OutputError, match="must end in"):
        save_costs(points, tmp_path / "c.gif", "top-1")
