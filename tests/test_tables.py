"""CSV tables of identities: matching rows to images and vectors, and malformed tables."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from conftest import write_picture
from osnet.data.attributes.reader import read_attributes
from osnet.data.check import check_dataset
from osnet.data.folder import FolderLayout, parse_time, read_any, read_dataset, read_folder
from osnet.errors import DataError
from osnet.evaluation.evaluate import evaluate_features
from osnet.features.labels import read_labelled
from osnet.features.path_table import PathTable
from osnet.metrics.ranking import rank_scores, summarize
from test_cli import Run, run  # noqa: F401

HEADER = "path,identity,camera,split\n"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    for name in ("q/a.png", "q/b.png", "g/a.png", "g/b.png"):
        write_picture(tmp_path / "own" / name)
    return tmp_path / "own"


def listed(paths: list[str]) -> str:
    labels = ("ada,1,query", "bob,1,query", "ada,2,gallery", "bob,2,gallery")
    return HEADER + "".join(f"{path},{label}\n" for path, label in zip(paths, labels, strict=True))


NAMES = ("q/a.png", "q/b.png", "g/a.png", "g/b.png")


@pytest.mark.parametrize(
    "spelling",
    ["{}", "./{}", "q/../{}", "own/{}", "../own/{}", "{root}/{}", "{root}/../own/{}", "/on/another/machine/own/{}",
     "C:/people/own/{}", "link:{}"],
)  # fmt: skip
@pytest.mark.parametrize("backslashes", [False, True])
def test_rows_match_images_and_vectors_alike(spelling: str, backslashes: bool, own: Path) -> None:
    """For every way to write a path, images and vectors get the same identities."""
    root = own
    if spelling.startswith("link:"):
        (own.parent / "linked").symlink_to(own)
        root, spelling = own.parent / "linked", "linked/{}"
    paths = [spelling.format(name, root=own) for name in NAMES]
    table = own.parent / "t.csv"
    table.write_text(listed([path.replace("/", "\\") for path in paths] if backslashes else paths))
    data = read_dataset(root, FolderLayout(csv=table))
    images = [(c.path.relative_to(root).as_posix(), c.identity) for s in (data.query, data.gallery) for c in s.crops]
    assert sorted(images) == sorted(zip(NAMES, ("ada", "bob", "ada", "bob"), strict=True))
    names = [f"{root.name}/{name}" if "machine" in spelling or "C:" in spelling else f"{root}/{name}" for name in NAMES]
    rows = PathTable(table).find(names)
    assert [row and row.identity for row in rows] == ["ada", "bob", "ada", "bob"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/etc/hostname", "outside"), ("../secret.png", "outside"),
        ("../q/a.png", "outside"), ("/x/q/a.png", "outside"),
        ("C:\\x\\a.png", "outside"),
        ("{root}/../secret.png", "outside"), ("{root}/q/gone.png", "outside"),
        ("gone.png", "gone.png"), ("other/q/a.png", "other/q/a.png"), ("a.png", "matches both"),
        ("", "path is empty"),
        ("x" * 5000, "xxxxx"),
    ],
)  # fmt: skip
def test_rows_without_a_unique_image_are_refused(path: str, words: str, own: Path) -> None:
    write_picture(own.parent / "secret.png")
    table = own.parent / "t.csv"
    table.write_text(listed([path.format(root=own), *NAMES[1:]]))
    with pytest.raises(DataError) as caught:
        read_dataset(own, FolderLayout(csv=table))
    assert words in str(caught.value)
    assert "t.csv, line 2" in str(caught.value)


def test_an_exact_path_has_precedence(own: Path) -> None:
    write_picture(own / "own" / "q" / "a.png")  # a folder of the same name inside
    write_picture(own / "a.png")
    (own.parent / "t.csv").write_text("path,identity\nown/q/a.png,inner\na.png,outer\n")
    crops = read_folder(own, FolderLayout(csv=own.parent / "t.csv"))
    assert {c.path.relative_to(own).as_posix(): c.identity for c in crops} == {"own/q/a.png": "inner", "a.png": "outer"}
    (own.parent / "t.csv").write_text(f"path,identity\nq/a.png,x\n{own}/q/../q/a.png,y\n")
    with pytest.raises(DataError, match=r"line 3: .*a.png is listed twice"):
        read_folder(own, FolderLayout(csv=own.parent / "t.csv"))


def test_attribute_tables_match_paths_alike(own: Path) -> None:
    (own / "attributes.csv").write_text(
        f"path,split,hat\nown\\q\\a.png,train,1\n{own}/q/b.png,train,0\n/other/own/g/a.png,test,1\ng/b.png,test,0\n"
    )
    data = read_attributes(own)
    assert [crop.path.relative_to(own).as_posix() for crop in data.test.crops] == ["g/a.png", "g/b.png"]
    assert len(data.train.crops) == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"path;identity\na.png;ada\n", ["semicolons", "path;identity"]),
        (b"path\tidentity\na.png\tada\n", ["tabs"]),
        (b"path|identity\na.png|ada\n", ["bars"]),
        (b"sep=;\npath;identity\n", ["semicolons"]),
        (b"Path,identity\na.png,ada\n", ["'Path'", "'path'"]),
        (b"path, identity\na.png,ada\n", ["' identity'", "'identity'"]),
        (b"path,IDENTITY \na.png,ada\n", ["'IDENTITY '", "'identity'"]),
        (b"path,identity, camera\na.png,ada,1\n", ["' camera'", "'camera'"]),
        (b"path,identity,Split\na.png,ada,query\n", ["'Split'", "'split'"]),
        (b"path,'identity'\na.png,ada\n", ["\"'identity'\"", "'identity'"]),
        (b"file,who\na.png,ada\n", ["columns path and identity", "'file', 'who'"]),
        (b"\npath,identity\na.png,ada\n", ["first line"]),
        (b"path,identity,identity\na.png,ada,bob\n", ["'identity' 2 times"]),
        ("path,identity\na.png,ada\n".encode("utf-16"), ["UTF-16", "UTF-8"]),
        ("path,identity\na.png,ada\n".encode("utf-16-be"), ["UTF-16"]),
        ("path,identity\na.png,Zo\u00eb\n".encode("latin-1"), ["line 2", "0xeb", "UTF-8"]),
        (b"PK\x03\x04....", ["Excel"]),
        (b"path,identity\na,b.png,ada\n", ["line 2", "3 values for 2 columns", "quotes"]),
        (b"path,identity\na.png,ada\nb.png,ada \n", ["line 3", "'ada '", "'ada'"]),
        (b"path,identity,camera\na.png,ada,1\nb.png,ada, 1\n", ["camera ' 1'"]),
    ],
)
def test_malformed_tables_are_refused_naming_the_fault(content: bytes, words: list[str], tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_picture(tmp_path / "crops" / name)
    (tmp_path / "t.csv").write_bytes(content)
    for read in (
        lambda: read_folder(tmp_path / "crops", FolderLayout(csv=tmp_path / "t.csv")),
        lambda: read_any(tmp_path / "crops", FolderLayout(csv=tmp_path / "t.csv")),
        lambda: PathTable(tmp_path / "t.csv"),
    ):
        with pytest.raises(DataError) as caught:
            read()
        assert "t.csv" in str(caught.value)
        assert not [word for word in words if word not in str(caught.value)], str(caught.value)


def test_errors_name_the_line_of_the_file(tmp_path: Path) -> None:
    write_picture(tmp_path / "crops" / "a.png")
    (tmp_path / "t.csv").write_text('path,identity,note\n\n\na.png,ada,"two\nlines"\ngone.png,bob,\n')
    with pytest.raises(DataError, match=r"line 6: "):
        read_folder(tmp_path / "crops", FolderLayout(csv=tmp_path / "t.csv"))


def test_images_missing_from_the_table_are_reported(run: Run, own: Path) -> None:  # noqa: F811
    table = own.parent / "t.csv"
    table.write_text(listed(list(NAMES)))
    for name in ("x.png", "g/y.png"):
        write_picture(own / name)
    data = read_dataset(own, FolderLayout(csv=table))
    assert data.unlisted == ("x.png", "g/y.png")
    assert [p.names for p in check_dataset(data).problems if p.kind == "unlisted"] == [data.unlisted]
    assert read_any(own, FolderLayout(csv=table)).unlisted == data.unlisted


# Identity and camera names


@pytest.mark.parametrize(
    ("names", "count"),
    [(["1_23", "12_3", "123"], 3), (["01", "1", "001"], 3), ([" 7", "7", "+7"], 3), (["\u0661", "1"], 2),
     (["-0", "0"], 2),
     (["1", "2", "10"], 3), (["1", str(1 << 70)], 2), (["1" * 5000, "1"], 2)],
)  # fmt: skip
def test_names_are_read_as_numbers_only_if_all_are_plain_numbers(names: list[str], count: int, tmp_path: Path) -> None:
    vectors = np.eye(len(names), 4, dtype=np.float32) + 0.1
    arrays = {"query_vectors": vectors, "query_pids": np.array(names), "query_camids": np.array(["a"] * len(names))}
    arrays |= {"gallery_vectors": vectors, "gallery_pids": np.array(names), "gallery_camids": np.array(names)}
    np.savez(tmp_path / "v.npz", **arrays)
    query, gallery = read_labelled([tmp_path / "v.npz"])
    assert len(set(query.pids.tolist())) == count
    assert gallery.pids.tolist() == query.pids.tolist()
    assert len(set(gallery.camids.tolist())) == count
    if names == ["1", "2", "10"]:
        assert query.pids.tolist() == [1, 2, 10]


def test_the_same_table_scores_alike_from_images_and_vectors(tmp_path: Path) -> None:
    """Identities 1_2, 12, 01 and 1 are four people with orthogonal vectors."""
    people, root = ("1_2", "12", "01", "1"), tmp_path / "own"
    rows, names, vectors = [], [], []
    for place, identity in enumerate(people):
        for camera, split in ((1, "query"), (2, "gallery")):
            path = write_picture(root / f"{place}_{camera}.png")
            rows.append(f"{path.name},{identity},{camera},{split}")
            names.append(str(path))
            vectors.append(np.eye(4)[place])
    (tmp_path / "t.csv").write_text(HEADER + "\n".join(rows) + "\n")
    np.savez(
        tmp_path / "v.npz", vectors=np.array(vectors, dtype=np.float32), names=np.array(names),
    )  # fmt: skip
    query, gallery = read_labelled([tmp_path / "v.npz"], tmp_path / "t.csv")
    found = evaluate_features(query, gallery).scores
    data = read_dataset(root, FolderLayout(csv=tmp_path / "t.csv"))
    of = dict(zip(names, vectors, strict=True))
    arrays = [np.array([of[str(c.path)] for c in s.crops]) for s in (data.query, data.gallery)]
    scores = rank_scores(*arrays, *(np.array(x) for x in (data.query.pids, data.gallery.pids)),
                         *(np.array(x) for x in (data.query.camids, data.gallery.camids)), 20)  # fmt: skip
    assert found["mAP"] == pytest.approx(1)
    assert summarize(scores, (1,))["mAP"] == pytest.approx(found["mAP"])


def test_times_with_underscores_are_refused() -> None:
    assert parse_time("10.5", "x") == 10.5
    with pytest.raises(DataError, match="1_000"):
        parse_time("1_000", "x")


# Reserved and unexpected names


def test_folders_with_reserved_names_are_reported(tmp_path: Path) -> None:
    for name in (
        "query/0002/x.png",
        "gallery/0002/1/a.png",
        "gallery/-1/2/b.png",
        "gallery/0000/c.png",
        "gallery/0/d.png",
    ):
        write_picture(tmp_path / name)
    report = check_dataset(read_any(tmp_path))
    assert [(p.severity, p.names) for p in report.problems if p.kind == "reserved name"] == [
        ("mind", ("-1", "0", "0000"))
    ]
    shutil.rmtree(tmp_path / "gallery" / "-1")
    shutil.rmtree(tmp_path / "gallery" / "0")
    (tmp_path / "gallery" / "0000").rename(tmp_path / "gallery" / "100")
    assert not [p for p in check_dataset(read_any(tmp_path)).problems if p.kind == "reserved name"]


def test_only_unexpected_names_are_listed(tmp_path: Path) -> None:
    for split in ("query", "gallery"):
        for pid in range(1, 6):
            write_picture(tmp_path / split / f"{pid:04d}_c1s1_000001_00.png")
    write_picture(tmp_path / "gallery" / "holiday.png")
    for read in (lambda: read_dataset(tmp_path), lambda: read_folder(tmp_path / "gallery")):
        with pytest.raises(DataError) as caught:
            read()
        assert "holiday.png" in str(caught.value)
        assert "0001_c1s1" not in str(caught.value)


def test_vectors_missing_from_the_table_are_left_out_with_a_warning(tmp_path: Path) -> None:
    names = np.array(["own/a.png", "own/b.png", "own/c.png"])
    np.savez(tmp_path / "v.npz", vectors=np.eye(3, dtype=np.float32), names=names)
    (tmp_path / "t.csv").write_text(HEADER + "a.png,ada,1,query\nb.png,ada,2,gallery\n")
    with pytest.warns(UserWarning, match=r"1 of 3 images .* own/c\.png"):
        query, gallery = read_labelled([tmp_path / "v.npz"], tmp_path / "t.csv")
    assert (query.names, gallery.names) == (("own/a.png",), ("own/b.png",))
    (tmp_path / "t.csv").write_text(HEADER + "a.png,ada,1,query\nb.png,ada,2,gallery\nc.png,bob,2,probe\n")
    with pytest.raises(DataError, match="found probe"):
        read_labelled([tmp_path / "v.npz"], tmp_path / "t.csv")
