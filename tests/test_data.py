"""Reading data sets from folders and tables, and ``check_dataset``."""

import shutil
from pathlib import Path

import pytest

from conftest import write_picture
from osnet.data.check import check_dataset
from osnet.data.folder import FolderLayout, parse_time, read_any, read_dataset, read_folder
from osnet.data.loading import list_images
from osnet.data.reid.market1501 import read_market1501
from osnet.errors import DataError


def test_market1501(market: Path) -> None:
    dataset = read_market1501(market)
    assert [len(split) for split in dataset.splits] == [12, 3, 7]
    assert sorted(set(dataset.train.pids)) == [2, 7, 11]
    assert dataset.query.pids == [1, 3, 5]
    assert dataset.query.camids == [1, 1, 1]
    assert sorted(dataset.gallery.pids) == [0, 1, 1, 3, 3, 5, 5]  # the distractor stays, junk does not
    assert dataset.num_junk == 1
    assert [Path(name).name for name in dataset.other_files] == ["Thumbs.db"]
    assert dataset.gallery.paths == sorted(dataset.gallery.paths)


def test_market1501_is_found_from_folders_around_it(market: Path) -> None:
    assert read_market1501(market.parent).root == market
    outer = market.parent.parent / "data"
    (outer / "market1501").mkdir(parents=True)
    shutil.move(market, outer / "market1501" / market.name)
    assert read_market1501(outer).root == outer / "market1501" / market.name


def test_market1501_refuses_unexpected_names(market: Path, tmp_path: Path) -> None:
    write_picture(market / "query" / "someone.jpg")
    with pytest.raises(DataError, match=r"1 image\(s\) in .*query are not named like .*: someone\.jpg"):
        read_market1501(market)
    with pytest.raises(DataError, match="query and bounding_box_test"):
        read_market1501(tmp_path / "gone")


def test_people_mini(people_mini: Path) -> None:
    dataset = read_dataset(people_mini)
    assert [len(split) for split in dataset.splits] == [125, 37, 234]
    people = set(dataset.train.pids) | set(dataset.query.pids) | set(dataset.gallery.pids)
    assert len(people - {0}) == 64


def crops(folder: Path, names: list[str]) -> Path:
    for n, name in enumerate(names):
        write_picture(folder / name, n)
    return folder


def test_subfolders(tmp_path: Path) -> None:
    root = crops(tmp_path, ["bob/in/1.jpg", "bob/out/2.png", "anna/3.JPG", "bob/in/0.jpg"])
    found = read_folder(root)
    assert [(c.identity, c.camera, c.pid) for c in found] == [
        ("anna", "", 1),
        ("bob", "in", 2),
        ("bob", "in", 2),
        ("bob", "out", 2),
    ]
    assert [c.camid for c in found] == [-1, 1, 1, 2]  # unknown cameras are all different
    write_picture(root / "loose.jpg")
    with pytest.raises(DataError, match=r"loose\.jpg"):
        read_folder(root)


def test_pattern(tmp_path: Path) -> None:
    root = crops(tmp_path, ["p7_gate_12.5.png", "p9_hall_2026-01-02T00:00:10.png", "sub/p7_hall_3.png"])
    layout = FolderLayout(pattern=r"(?P<identity>p\d+)_(?P<camera>[a-z]+)_(?P<time>.+)\.png")
    found = {c.path.name: c for c in read_folder(root, layout)}
    assert {c.identity: c.pid for c in found.values()} == {"p7": 1, "p9": 2}
    assert {c.camera: c.camid for c in found.values()} == {"gate": 1, "hall": 2}
    assert found["p7_gate_12.5.png"].time_s == 12.5
    assert found["p9_hall_2026-01-02T00:00:10.png"].time_s == parse_time("2026-01-02T01:00:10+01:00", "")
    with pytest.raises(DataError, match=r"3 image\(s\).*do not match the pattern"):
        read_folder(root, FolderLayout(pattern=r"(?P<identity>x\d+)"))
    with pytest.raises(DataError, match="neither a number of seconds"):
        read_folder(root, FolderLayout(pattern=r"(?P<identity>p\d+)_(?P<time>[a-z]+)"))


@pytest.mark.parametrize(("pattern", "words"), [("(", "regular expression"), (r"(\d+)", "no group")])
def test_invalid_patterns_are_refused(pattern: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        FolderLayout(pattern=pattern)


def test_csv(tmp_path: Path) -> None:
    root = crops(tmp_path / "crops", ["a.png", "b/c.png", "unlisted.png"])
    table = tmp_path / "t.csv"
    table.write_text("path,identity,camera,time\nb/c.png,zoe,2,60\na.png,anna,,\n")
    found = read_folder(root, FolderLayout(csv=table))
    assert [(c.path.name, c.identity, c.pid, c.camera, c.time_s) for c in found] == [
        ("a.png", "anna", 1, "", None),
        ("c.png", "zoe", 2, "2", 60.0),
    ]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("path,identity\n../secret.png,x\n", "outside"),
        ("path,identity\n/etc/passwd,x\n", "outside"),
        ("path,identity\ngone.png,x\n", "gone.png"),
        ("path,identity\na.png,\n", "has no identity"),
        ("path,identity\na.png,x\na.png,y\n", "line 3: a.png is listed twice"),
        ("file,who\na.png,x\n", "columns path and identity"),
        ("", "columns path and identity"),
        ("path,identity,time\na.png,x,noon\n", "'noon'"),
    ],
)
def test_invalid_tables_are_refused(tmp_path: Path, rows: str, words: str) -> None:
    root = crops(tmp_path / "crops", ["a.png"])
    write_picture(tmp_path / "secret.png")
    (tmp_path / "t.csv").write_text(rows)
    with pytest.raises(DataError) as caught:
        read_folder(root, FolderLayout(csv=tmp_path / "t.csv"))
    assert words in str(caught.value)


def test_query_and_gallery_folders_share_identity_numbers(tmp_path: Path) -> None:
    crops(tmp_path, ["query/zoe/in/1.png", "gallery/anna/in/2.png", "gallery/zoe/out/3.png"])
    dataset = read_dataset(tmp_path)
    assert dataset.query.pids == [2]
    assert dataset.gallery.pids == [1, 2]
    assert dataset.query.camids == [1]
    assert dataset.gallery.camids == [1, 2]
    assert dataset.name == tmp_path.name


def test_a_csv_with_splits(tmp_path: Path) -> None:
    crops(tmp_path, ["1.png", "2.png"])
    table = tmp_path / "t.csv"
    table.write_text("path,identity,camera,split\n1.png,a,1,query\n2.png,a,2,gallery\n")
    dataset = read_dataset(tmp_path, FolderLayout(csv=table))
    assert (len(dataset.train), len(dataset.query), len(dataset.gallery)) == (0, 1, 1)
    table.write_text("path,identity,camera,split\n1.png,a,1,query\n2.png,a,2,probe\n")
    with pytest.raises(DataError, match="probe"):
        read_dataset(tmp_path, FolderLayout(csv=table))


def test_a_folder_without_query_and_gallery_is_refused(tmp_path: Path) -> None:
    crops(tmp_path, ["a/1.png"])
    with pytest.raises(DataError, match="Market-1501"):
        read_dataset(tmp_path)
    assert len(read_any(tmp_path).train) == 1
    with pytest.raises(DataError, match="no such folder"):
        read_dataset(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        read_folder(tmp_path / "empty")


def problems(root: Path) -> dict[str, tuple[str, int]]:
    report = check_dataset(read_any(root))
    return {problem.kind: (problem.severity, len(problem.names)) for problem in report.problems}


def test_check_counts(market: Path) -> None:
    report = check_dataset(read_any(market))
    assert {name: (c.identities, c.images, c.cameras) for name, c in report.counts.items()} == {
        "train": (3, 12, 2),
        "query": (3, 3, 1),
        "gallery": (3, 7, 2),
    }
    assert report.ok
    assert set(problems(market)) == {"junk", "other files"}
    assert "Thumbs.db" in str(report)


def test_check_lists_every_problem(market: Path) -> None:
    train, query, gallery = (market / name for name in ("bounding_box_train", "query", "bounding_box_test"))
    write_picture(query / "0009_c1s1_000000_00.jpg", 900)  # no match in the gallery
    write_picture(gallery / "0013_c1s1_000000_00.jpg", 1300)
    write_picture(query / "0013_c1s1_000001_00.jpg", 1301)  # its only match is from the same camera
    write_picture(train / "0004_c1s1_000000_00.jpg", 400)  # one image
    write_picture(train / "0003_c1s1_000005_00.jpg", 350)  # person 3 is in the test splits
    (train / "0002_c1s1_000000_00.jpg").write_bytes(b"broken")
    shutil.copy(query / "0001_c1s1_000000_00.jpg", gallery / "0001_c2s1_000077_00.jpg")
    assert problems(market) == {
        "overlap": ("breaks", 1),
        "unreadable": ("breaks", 1),
        "same file": ("breaks", 1),
        "query without match": ("mind", 2),
        "one image": ("mind", 2),
        "junk": ("mind", 1),
        "other files": ("mind", 1),
    }
    report = check_dataset(read_any(market))
    assert not report.ok
    named = " ".join(name for problem in report.problems for name in problem.names)
    for name in ("0009_c1s1_000000_00.jpg", "0013_c1s1_000001_00.jpg", "0002_c1s1_000000_00.jpg", "0001_c2s1_000077"):
        assert name in named
    assert str(report).index("breaks") < str(report).index("mind")


def test_check_when_no_query_can_be_scored(tmp_path: Path) -> None:
    crops(tmp_path, ["query/a/1/x.png", "gallery/a/1/y.png"])
    assert problems(tmp_path)["query without match"] == ("breaks", 1)


def test_identities_are_read_alike_in_query_and_gallery(tmp_path: Path) -> None:
    """Queries with Market-1501's names in a gallery of subfolders: both take the identity from the subfolder."""
    write_picture(tmp_path / "query" / "0007" / "0007_c1s1_000001_00.jpg")
    write_picture(tmp_path / "gallery" / "0007" / "x.jpg")
    write_picture(tmp_path / "gallery" / "0003" / "y.jpg")
    data = read_dataset(tmp_path)
    assert data.query.pids == [2]
    assert [crop.pid for crop in data.gallery.crops if crop.identity == "0007"] == [2]
    (tmp_path / "query" / "0008_c1s1_000001_00.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="identity"):
        read_dataset(tmp_path)


def test_links_are_followed_without_cycles(tmp_path: Path) -> None:
    write_picture(tmp_path / "elsewhere" / "bob" / "1.png")
    write_picture(tmp_path / "crops" / "ada" / "1.png")
    (tmp_path / "crops" / "bob").symlink_to(tmp_path / "elsewhere" / "bob")
    (tmp_path / "crops" / "ada" / "up").symlink_to(tmp_path / "crops")
    found = [path.relative_to(tmp_path / "crops").as_posix() for path in list_images(tmp_path / "crops")]
    assert found == ["ada/1.png", "bob/1.png"]


def test_an_unreadable_subfolder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    write_picture(tmp_path / "ada" / "1.png")
    write_picture(tmp_path / "bob" / "1.png")
    scan = os.scandir

    def refuse(path):
        if Path(path).name == "bob":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="bob cannot be read: Permission denied"):
        read_folder(tmp_path)
