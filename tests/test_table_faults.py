"""Mistakes in tables, times and layouts that would silently change people, cameras or what is deleted."""

from pathlib import Path

import numpy as np
import pytest

from conftest import write_picture
from osnet.data.attributes.reader import read_csv
from osnet.data.check import check_dataset
from osnet.data.folder import FolderLayout, parse_time, read_any, read_dataset, read_folder
from osnet.errors import DataError
from osnet.features.path_table import PathTable
from test_cli import Run, run  # noqa: F401


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    """A folder with the images a.png, b.png and d.png."""
    for name in "abd":
        write_picture(tmp_path / "crops" / f"{name}.png")
    return tmp_path / "crops"


def read(crops: Path, content: str) -> dict[str, tuple[str, str, float | None]]:
    """Read a CSV: identity, camera and time of each image."""
    table = crops.parent / "t.csv"
    table.write_text(content, encoding="utf-8")
    found = read_folder(crops, FolderLayout(csv=table))
    return {crop.path.stem: (crop.identity, crop.camera, crop.time_s) for crop in found}


def message(crops: Path, content: str) -> str:
    """The error about a CSV of images; it names the file."""
    with pytest.raises(DataError, match=r"t\.csv") as caught:
        read(crops, content)
    return str(caught.value)


# Times


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("20240601", ["2024-06-01", "20240601.0"]),
        (" 19991231 ", ["1999-12-31"]),
        ("1714521600000", ["milliseconds", "2024-06-01T12:00:00"]),
        ("-1e12", ["milliseconds"]),
    ],
)
def test_numbers_that_look_like_dates_or_milliseconds_are_refused(text: str, words: list[str], crops: Path) -> None:
    error = message(crops, f"path,identity,time\na.png,ada,{text}\n")
    assert not [word for word in (*words, "line 2", text) if word not in error], error


def test_other_numbers_are_seconds() -> None:
    texts = ("2024", "150", "1714521600", "20240601.0", "20241301", "18991231", "00000451", "1e11")
    assert [parse_time(text, "x") for text in texts] == [float(text) for text in texts]
    assert parse_time("2024-06-01", "x") == 1717200000
    assert parse_time("150", "--after", refuse_year=True) == 150
    assert parse_time("2024.0", "--after", refuse_year=True) == 2024


def test_a_year_is_refused_where_items_are_selected(run: Run, tiny_weights: Path, crops: Path) -> None:  # noqa: F811
    gallery = crops.parent / "g"
    table = crops.parent / "t.csv"
    table.write_text("path,identity,time\na.png,ada,1700000000\n")
    status, _, err = run("index", crops, "--out", gallery, "--weights", tiny_weights, "--csv", table)
    assert status == 0, err
    for flag in ("--after", "--before"):
        for words in (("gallery", "remove", gallery), ("store", "erase", gallery), ("search", gallery, crops)):
            status, _, err = run(*words, flag, "2024")
            assert (status, flag in err, "2024-01-01" in err) == (2, True, True), err
    status, _, err = run("store", "expire", gallery, "--before", "2024")
    assert (status, "2024-01-01" in err) == (2, True), err
    assert "1 of 1 items" in run("gallery", "remove", gallery, "--before", "2024-01-01", "--dry-run")[1]


# Rows and columns


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('path,identity\na.png,ann\nb.png,"bob\nd.png,cid\n', ["line 3", "quote"]),
        ('path,identity\na.png,ann\n\nb.png,"bob\nd.png,"cid"\n', ["line 4", "quote"]),
        ('path,identity\na.png,ann\nb.png,"bob\nd.png,"\n', ["line 3", "identity", "line break"]),
        ('path,identity,camera\na.png,ann,"1\n"\n', ["line 2", "camera", "line break"]),
        ('path,identity\n"a.png\r\nb.png",ann\n', ["line 2", "path", "line break"]),
    ],
)
def test_an_open_quote_is_refused_with_its_line(content: str, words: list[str], crops: Path) -> None:
    error = message(crops, content)
    assert not [word for word in words if word not in error], error
    with pytest.raises(DataError, match=words[0]):
        PathTable(crops.parent / "t.csv")


def test_a_line_break_in_another_column_is_kept(crops: Path) -> None:
    found = read(crops, 'path,identity,note\na.png,ann,"two\nlines"\nb.png,"b, ob",\n')
    assert {name: identity for name, (identity, _, _) in found.items()} == {"a": "ann", "b": "b, ob"}


@pytest.mark.parametrize(
    ("column", "meant"),
    [("camid", "camera"), ("Cam_ID", "camera"), ("camera id", "camera"), ("timestamp", "time"), ("date-time", "time"),
     ("splits", "split")],
)  # fmt: skip
def test_other_names_of_columns_are_refused(column: str, meant: str, crops: Path) -> None:
    error = message(crops, f"path,identity,{column}\na.png,ann,1\n")
    assert repr(column) in error
    assert f"rename it to {meant!r}" in error


def test_other_names_of_the_required_columns_are_refused(crops: Path) -> None:
    for column in ("pid", "person", "person_id"):
        assert "rename it to 'identity'" in message(crops, f"path,{column}\na.png,ann\n")
    assert "rename it to 'path'" in message(crops, "filepath,identity\na.png,ann\n")


def test_further_columns_are_left_alone(crops: Path) -> None:
    found = read(crops, "id,path,identity,pid,camera,camid,colour\n9,a.png,ann,7,c1,3,red\n")
    assert found == {"a": ("ann", "c1", None)}


def test_a_cell_of_spaces_is_empty(crops: Path) -> None:
    assert read(crops, "path,identity,camera,time\na.png,ann, ,\xa0\nb.png,bob,1,5\n") == {
        "a": ("ann", "", None),
        "b": ("bob", "1", 5.0),
    }
    for cell in (" ", "\t", "\xa0"):
        content = f"path,identity,camera\na.png,{cell}, \n"
        assert "line 2: a.png has no identity" in message(crops, content)
        with pytest.raises(DataError, match=r"line 2: a\.png has no path or identity"):
            PathTable(crops.parent / "t.csv")


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        ("Zo\u00eb", "Zoe\u0308", ["accents", "'Zo\\xeb'", "'Zoe\\u0308'"]),
        ("Ann Li", "Ann\xa0Li", ["spaces", "'Ann Li'", "'Ann\\xa0Li'"]),
        ("Ann", "Ann\xa0", ["spaces"]),
    ],
)
@pytest.mark.parametrize("column", ["identity", "camera"])
def test_two_encodings_of_one_name_are_refused(
    one: str, other: str, words: list[str], column: str, crops: Path
) -> None:
    rows = [f"{one},x", f"{other},x"] if column == "identity" else [f"x,{one}", f"x,{other}"]
    error = message(crops, f"path,identity,camera\na.png,{rows[0]}\nb.png,{rows[1]}\n")
    assert not [word for word in (*words, "line 3", column) if word not in error], error


@pytest.mark.parametrize("identity", ["-1.0", "0.0", "0000", "-01", "-0", "\u22121"])
def test_other_spellings_of_junk_and_distractor_are_refused(identity: str, crops: Path) -> None:
    error = message(crops, f"path,identity\na.png,ann\nb.png,{identity}\n")
    assert not [word for word in ("line 3", identity, "write -1", "or 0") if word not in error], error
    with pytest.raises(DataError, match="line 3"):
        PathTable(crops.parent / "t.csv")


def test_names_that_only_resemble_reserved_ones_are_people(crops: Path) -> None:
    found = read(crops, "path,identity\na.png,01\nb.png,1.0\nd.png,-10\n")
    assert {identity for identity, _, _ in found.values()} == {"01", "1.0", "-10"}


def test_a_row_that_names_a_folder_is_told_so(crops: Path) -> None:
    write_picture(crops / "c" / "x.png")
    for path in (".", "c", "c/"):
        error = message(crops, f"path,identity\na.png,ann\n{path},bob\n")
        assert "line 3" in error
        assert "is a folder" in error


# Layouts


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ({"identity_from": "subfolders", "csv": Path("t.csv")}, ["subfolders", "csv"]),
        ({"identity_from": "market1501", "csv": Path("t.csv")}, ["market1501", "csv"]),
        ({"identity_from": "subfolders", "pattern": "(?P<identity>.)"}, ["subfolders", "pattern"]),
        ({"identity_from": "csv", "csv": Path("t.csv"), "pattern": "(?P<identity>.)"}, ["csv", "pattern"]),
        ({"identity_from": "pattern", "csv": Path("t.csv"), "pattern": "(?P<identity>.)"}, ["csv", "pattern"]),
        ({"csv": Path("t.csv"), "pattern": "(?P<identity>.)"}, ["csv", "pattern"]),
        ({"pattern": r"(?P<identity>\d+)_c(?P<cam>\d)"}, ["'cam'", "camera"]),
    ],
)
def test_contradicting_layouts_and_unknown_groups_are_refused(layout: dict[str, object], words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        FolderLayout(**layout)  # type: ignore[arg-type]
    assert not [word for word in words if word not in str(caught.value)], caught.value


def test_layouts_with_one_source_are_accepted() -> None:
    FolderLayout("csv", csv=Path("t.csv"))
    FolderLayout("pattern", r"(a|b)(?P<identity>.)(?P<camera>.)(?P<time>.)")


@pytest.mark.parametrize(
    ("folders", "wrong"),
    [
        (["Query", "Gallery"], ["Query", "Gallery"]),
        (["query", "GALLERY"], ["GALLERY"]),
        (["query", "gallery", "Train"], ["Train"]),
        (["Query", "bounding_box_test"], ["Query"]),
    ],
)
def test_folders_of_splits_with_capitals_are_refused(folders: list[str], wrong: list[str], tmp_path: Path) -> None:
    for folder in folders:
        write_picture(tmp_path / folder / "0001_c1s1_000001_00.png")
    for reader in (read_any, read_dataset):
        with pytest.raises(DataError, match="rename") as caught:
            reader(tmp_path)
        named = str(caught.value).removeprefix(str(tmp_path))
        assert not [name for name in (*wrong, *map(str.lower, wrong)) if name not in named], named


def test_a_person_called_gallery_is_a_person(tmp_path: Path) -> None:
    for folder in ("Gallery", "ann"):
        write_picture(tmp_path / folder / "x.png")
    assert [crop.identity for crop in read_any(tmp_path).train.crops] == ["Gallery", "ann"]


def test_images_beside_the_splits_are_listed(tmp_path: Path) -> None:
    for name in ("query/ann/1.png", "gallery/ann/2.png", "gallery_night/ann/3.png", "d.png", ".hidden/e.png"):
        write_picture(tmp_path / name)
    data = read_any(tmp_path)
    assert data.unlisted == ("d.png", "gallery_night/ann/3.png")
    assert [(p.severity, p.names) for p in check_dataset(data).problems if p.kind == "unlisted"] == [
        ("mind", data.unlisted)
    ]


def test_a_table_without_splits_is_told_from_one_with_a_wrong_split(tmp_path: Path) -> None:
    for split in ("query", "gallery"):
        write_picture(tmp_path / "d" / split / "x.png")
    table = tmp_path / "t.csv"
    for content, words in (
        ("path,identity\nquery/x.png,a\ngallery/x.png,a\n", ["no column split"]),
        ("path,identity,split\nquery/x.png,a,query\ngallery/x.png,a,\n", ["line 3", "''", "gallery"]),
        ("path,identity,split\nquery/x.png,a,Query\ngallery/x.png,a,gallery\n", ["line 2", "'Query'"]),
    ):
        table.write_text(content)
        for reader in (read_any, read_dataset):
            with pytest.raises(DataError) as caught:
                reader(tmp_path / "d", FolderLayout(csv=table))
            assert not [word for word in (*words, "t.csv") if word not in str(caught.value)], caught.value
            assert "None" not in str(caught.value)


# Attributes


def test_faults_of_attribute_tables_name_column_and_image(crops: Path) -> None:
    table = crops / "attributes.csv"
    for content, words in (
        ("path,hat,bag\na.png,1,0002\n", ["line 2", "a.png", "'bag'", "'0002'"]),
        ("path,hat,hat \na.png,1,0\n", ["'hat'", "'hat '", "each once"]),
        ("path,identity,camera,hat\na.png,1,1,0\n", ["identity, camera", "not attributes"]),
        ('path,hat\na.png,"1\nb.png,0\n', ["line 2", "quote"]),
    ):
        table.write_text(content)
        with pytest.raises(DataError, match=r"attributes\.csv") as caught:
            read_csv(table)
        assert not [word for word in words if word not in str(caught.value)], caught.value
    table.write_text("path,camera,hat\na.png,1,\nb.png,0, \nd.png,0,1\n")  # a person may carry a camera
    data = read_csv(table)
    assert data.attributes == ("camera", "hat")
    np.testing.assert_array_equal(data.train.labels, [[1, np.nan], [0, np.nan], [0, 1]])
