"""Matching images to rows of a table by the last parts of their paths: unambiguous, and in linear time."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

from osnet.errors import DataError
from osnet.features.path_table import PathTable


def table(folder: Path, *paths: str) -> PathTable:
    (folder / "t.csv").write_text("path,identity\n" + "".join(f"{path},of {path}\n" for path in paths))
    return PathTable(folder / "t.csv")


def found(rows: PathTable, *names: str) -> list[str | None]:
    return [row.path if row else None for row in rows.find(names)]


@pytest.mark.parametrize(
    ("paths", "names", "expected"),
    [
        (["img/a.jpg"], ["own/img/a.jpg"], ["img/a.jpg"]),  # relative to the data
        (["img/a.jpg"], ["/abs/own/img/a.jpg"] * 2, ["img/a.jpg"] * 2),  # one image, requested twice
        (["a.jpg"], ["own/img/a.jpg"], ["a.jpg"]),
        (["/abs/own/img/a.jpg"], ["img/a.jpg"], ["/abs/own/img/a.jpg"]),  # the row has the longer path
        (["./img//a.jpg"], ["own/./img/a.jpg"], ["./img//a.jpg"]),
        (["img\\a.jpg"], ["C:\\own\\img\\a.jpg"], ["img\\a.jpg"]),
        (["mg/a.jpg", "g.jpg"], ["own/img/a.jpg", "img.jpg"], [None, None]),  # only whole path parts match
        (["gallery/a.jpg"], ["own/query/a.jpg"], [None]),  # one path must be the end of the other
        (["a.jpg", "own/a.jpg"], ["own/a.jpg"], ["own/a.jpg"]),  # an equal path has precedence
        (["c1/a.jpg", "c2/a.jpg"], ["d/c2/a.jpg", "d/c1/a.jpg", "d/c3/a.jpg"], ["c2/a.jpg", "c1/a.jpg", None]),
    ],
)
def test_rows_are_found_by_the_ends_of_paths(
    paths: list[str], names: list[str], expected: list[str | None], tmp_path: Path
) -> None:
    assert found(table(tmp_path, *paths), *names) == expected


@pytest.mark.parametrize(
    ("paths", "names", "words"),
    [
        (["a.jpg", "img/a.jpg"], ["own/img/a.jpg"], "own/img/a.jpg matches the rows img/a.jpg and a.jpg"),
        (["x/a.jpg", "y/a.jpg"], ["a.jpg"], "a.jpg matches the rows x/a.jpg and y/a.jpg"),
        (["a.jpg", "x/img/a.jpg"], ["img/a.jpg"], "img/a.jpg matches the rows a.jpg and x/img/a.jpg"),
        (["a.jpg"], ["query/a.jpg", "gallery/a.jpg"], "row a.jpg matches query/a.jpg and gallery/a.jpg"),
        (["img/a.jpg"], ["img/a.jpg", "own/img/a.jpg"], "row img/a.jpg matches img/a.jpg and own/img/a.jpg"),
    ],
)
def test_ambiguous_paths_are_refused(paths: list[str], names: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        table(tmp_path, *paths).find(names)
    assert words in str(caught.value)
    assert "t.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,identity\na.jpg,1\n./a.jpg,2\n", "line 3: ./a.jpg"),
        ("path,identity\na.jpg,\n", "line 2: a.jpg"),
        ("path,identity\n/,1\n", "line 2: / has no path"),
        ("path,identity\na.jpg\n", "line 2: a.jpg"),
        ("path,identity\n", "needs a header with the columns path and identity, and at least one row"),
        ("path,who\na.jpg,1\n", "needs a header"),
    ],
)
def test_malformed_tables_are_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        PathTable(tmp_path / "t.csv")
    assert words in str(caught.value)


def count_instructions(call: Callable[[], object]) -> int:
    """Executed byte-code instructions, a measure of work that does not depend on the machine's load."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> object:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    sys._getframe().f_trace_opcodes = True  # Python 3.12 counts none if no frame asked for it before settrace
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(None)
    return count


@pytest.mark.parametrize("case", ["rows are ends", "names are ends"])
def test_equal_file_names_take_linear_time(case: str, tmp_path: Path) -> None:
    """All images share one file name, as in FOLDER_PER_IMAGE/image.jpg; comparing all pairs would be quadratic."""
    counts = []
    for number in (200, 400):
        short = [f"{i:05d}/image.jpg" for i in range(number)]
        long = [f"/data/own/{name}" for name in short]
        rows, names = (short, long) if case == "rows are ends" else (long, short)
        made = table(tmp_path, *rows)
        counts.append(count_instructions(lambda made=made, names=names: made.find(names)))
        assert found(made, *names) == rows
    assert counts[0] > 200
    assert counts[1] < 2.5 * counts[0]  # comparing all pairs would take 4 times as many
