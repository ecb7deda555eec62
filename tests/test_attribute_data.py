"""Data sets of attributes: reading each layout, and errors that list every mismatch."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from conftest import shared_data, write_picture
from osnet.data.attributes.dataset import NO_IDENTITY, read_mat
from osnet.data.attributes.identities import AGES, read_generated_attributes, read_market_labels
from osnet.data.attributes.pa100k import ATTRIBUTES, read_pa100k
from osnet.data.attributes.peta_rap import read_peta, read_rap
from osnet.data.attributes.reader import knows_attributes, read_attributes, read_csv
from osnet.data.attributes.samples import AttributeSamples, join_labels
from osnet.data.augmentation import Augmentation
from osnet.data.folder import read_any
from osnet.errors import DataError
from osnet.synthetic.generate import read_annotations
from osnet.types import Preprocessing

NAN = float("nan")


def cells(values: list) -> np.ndarray:
    """An N x 1 cell array, as MATLAB saves it."""
    out = np.empty((len(values), 1), dtype=object)
    for i, value in enumerate(values):
        out[i, 0] = value
    return out


def write_pa100k(root: Path, inner: str = "annotation/annotation.mat", images: str = "data", **changes) -> Path:
    rng = np.random.default_rng(0)
    content: dict = {"attributes": cells(list(ATTRIBUTES))}
    number = 0
    for split, count in (("train", 3), ("val", 2), ("test", 2)):
        names = []
        for _ in range(count):
            number += 1
            names.append(f"{number:06d}.jpg")
            write_picture(root / images / names[-1], number)
        content[f"{split}_images_name"] = cells(names)
        content[f"{split}_label"] = rng.integers(0, 2, (count, 26), dtype=np.uint8)
    (root / inner).parent.mkdir(parents=True, exist_ok=True)
    savemat(root / inner, content | changes)
    return root


@pytest.mark.parametrize(
    ("inner", "images"),
    [
        ("annotation/annotation.mat", "data"),
        ("annotation.mat", "data"),
        ("annotation.mat", "release_data/release_data"),
    ],
)
def test_pa100k_in_both_layouts(inner: str, images: str, tmp_path: Path) -> None:
    root = write_pa100k(tmp_path, inner, images)
    raw = loadmat(root / inner)
    assert raw["train_images_name"][1, 0][0] == "000002.jpg"  # the form that public code reads
    assert raw["attributes"][0][0][0] == "Female"
    dataset = read_attributes(root)
    assert [len(split) for split in dataset.splits] == [3, 2, 2]
    assert dataset.attributes == ATTRIBUTES
    assert dataset.train.paths[1] == root / images / "000002.jpg"
    np.testing.assert_array_equal(dataset.test.labels, raw["test_label"])
    assert dataset.problems == ()
    assert dataset.notes[0] == "train has 3 usable images; PA-100K has 80,000 as published"
    assert {crop.pid for crop in dataset.train.crops} == {NO_IDENTITY}


def test_pa100k_with_one_image_in_a_split(tmp_path: Path) -> None:
    """MATLAB files do not tell one row from none of the usual kind."""
    names, labels = cells(["000004.jpg"]), np.arange(26, dtype=np.uint8)[None] % 2
    root = write_pa100k(tmp_path, val_images_name=names, val_label=labels)
    (root / "data" / "000005.jpg").unlink()
    dataset = read_pa100k(root)
    assert [len(split) for split in dataset.splits] == [3, 1, 2]
    np.testing.assert_array_equal(dataset.val.labels, labels)


def test_pa100k_attributes_are_in_the_papers_order() -> None:
    assert len(ATTRIBUTES) == 26
    assert [ATTRIBUTES.index(name) for name in ("Female", "Hat", "Backpack", "LongSleeve", "Skirt&Dress", "boots")] == [
        0, 7, 11, 14, 24, 25,
    ]  # fmt: skip


def test_every_mismatch_is_named(tmp_path: Path) -> None:
    root = write_pa100k(tmp_path, test_images_name=cells(["", "000001.jpg"]), text_images_name=cells(["000006.jpg"]))
    (root / "data" / "000005.jpg").unlink()
    with pytest.raises(DataError) as caught:
        read_attributes(root)
    message = str(caught.value)
    for part in (
        "unknown key 'text_images_name'", "test row 1: the image name is empty", "000005.jpg is not in",
        "train row 1: 000001.jpg is listed 2 times", "test row 2: 000001.jpg is listed 2 times",
        "000006.jpg: an image without labels", "000007.jpg: an image without labels", "--skip-mismatches",
    ):  # fmt: skip
        assert part in message
    dataset = read_attributes(root, "skip")
    assert [len(split) for split in dataset.splits] == [2, 1, 0]
    assert len(dataset.problems) == 7


def test_pa100k_refuses_other_attributes_labels_and_paths(tmp_path: Path) -> None:
    swapped = [ATTRIBUTES[1], ATTRIBUTES[0], *ATTRIBUTES[2:]]
    with pytest.raises(DataError, match="has the attributes AgeOver60, Female"):
        read_pa100k(write_pa100k(tmp_path / "a", attributes=cells(swapped)))
    labels = np.full((2, 26), 7, dtype=np.uint8)
    with pytest.raises(DataError, match=r"val row 1: 000004\.jpg has the label 7"):
        read_pa100k(write_pa100k(tmp_path / "b", val_label=labels))
    with pytest.raises(DataError, match="3 names but 2 rows of labels in train"):
        read_pa100k(write_pa100k(tmp_path / "c", train_label=labels))
    root = write_pa100k(tmp_path / "d", train_images_name=cells(["../../etc/passwd", "000002.jpg", "000003.jpg"]))
    with pytest.raises(DataError, match="outside"):
        read_pa100k(root, "skip")
    (root / "annotation" / "annotation.mat").write_bytes(b"MATLAB, or not")
    with pytest.raises(DataError, match="cannot be read as a MATLAB file"):
        read_pa100k(root)
    with pytest.raises(DataError, match=r"looked for attributes\.csv, .*PA-100K"):
        read_attributes(write_picture(tmp_path / "e" / "x.jpg").parent)


def test_the_real_pa100k_sample() -> None:
    root = shared_data("pa100k")
    with pytest.raises(DataError, match="test row 1: the image name is empty"):
        read_attributes(root)
    dataset = read_attributes(root, "skip")
    assert [len(split) for split in dataset.splits] == [1599, 200, 199]
    assert dataset.problems == (
        "annotation.mat: unknown key 'text_images_name'", "test row 1: the image name is empty",
        "001800.jpg: an image without labels", "002000.jpg: an image without labels",
    )  # fmt: skip
    raw = loadmat(root / "annotation" / "annotation.mat")["train_label"]
    np.testing.assert_allclose(dataset.positive_ratios(), raw.mean(0))


def peta_like(root: Path) -> Path:
    """6 images of 40 attributes, in PETA's nesting: peta[0][0][3][k][0][0][0][0][:, 0] are training image numbers."""
    labels = np.arange(6 * 44).reshape(6, 44) % 2
    split = {"train": np.array([[1], [4]]), "val": np.array([[2]]), "test": np.array([[3], [5]])}
    other = {"train": np.array([[6], [2]]), "val": np.array([[1]]), "test": np.array([[3], [4]])}
    content = {"data": labels, "names": cells([f"attribute{i}" for i in range(40)]), "unused": 0,
               "splits": cells([split, other, split, split, split])}  # fmt: skip
    root.mkdir()
    savemat(root / "PETA.mat", {"peta": content})
    for number in range(1, 7):
        write_picture(root / "images" / f"{number:05d}.png", number)
    return root


def test_peta(tmp_path: Path) -> None:
    root = peta_like(tmp_path / "peta")
    raw = loadmat(root / "PETA.mat")
    assert raw["peta"][0][0][3][0][0][0][0][0][:, 0].tolist() == [1, 4]  # as public code indexes it
    assert raw["peta"][0][0][1][7, 0][0] == "attribute7"
    dataset = read_peta(root)
    assert len(dataset.attributes) == 35
    assert [path.name for path in dataset.train.paths] == ["00001.png", "00004.png"]
    assert [path.name for path in dataset.test.paths] == ["00003.png", "00005.png"]
    np.testing.assert_array_equal(dataset.val.labels[0], raw["peta"][0][0][0][1, 4:39])
    assert [path.name for path in read_peta(root, partition=1).train.paths] == ["00006.png", "00002.png"]
    assert read_attributes(root).name == "peta"
    assert "train has 2 usable images; peta has 9,500 as published" in dataset.notes
    with pytest.raises(DataError, match="partition 5; choose from 0 to 4"):
        read_peta(root, partition=5)


def rap_like(root: Path, version: int) -> Path:
    """RAP 1: [0] partitions, [1] labels, [3] names, [5] files. RAP 2: files, labels, names, selected, partitions."""
    files = cells([f"CAM01-{i}.png" for i in range(6)])
    rng = np.random.default_rng(0)
    if version == 1:
        names = cells([f"attribute{i}" for i in range(92)])
        parts = cells([{"train": np.array([[1, 2, 3, 6]]), "test": np.array([[4, 5]])}] * 5)
        content = {"partition": parts, "label": rng.integers(0, 2, (6, 92)), "chinese": 0, "names": names,
                   "position": 0, "files": files}  # fmt: skip
    else:
        names = cells([f"attribute{i}" for i in range(152)])
        part = {"train": np.array([[1, 2]]), "val": np.array([[3]]), "test": np.array([[4, 5]])}
        parts = np.empty((1, 5), dtype=object)
        parts[0, :] = [part] * 5
        labels = rng.integers(0, 2, (6, 152))
        labels[1, 3] = 2
        content = {"files": files, "label": labels, "names": names, "selected": np.array([[2, 4, 152]]), "parts": parts}
    (root / "RAP_annotation").mkdir(parents=True)
    savemat(root / "RAP_annotation" / "RAP_annotation.mat", {"RAP_annotation": content})
    for i in range(6):
        write_picture(root / "RAP_dataset" / f"CAM01-{i}.png", i)
    return root


def test_rap_1(tmp_path: Path) -> None:
    root = rap_like(tmp_path / "rap", 1)
    raw = loadmat(root / "RAP_annotation" / "RAP_annotation.mat")["RAP_annotation"]
    assert (raw[0][0][0][0][0][0][0][0][0, :] - 1).tolist() == [0, 1, 2, 5]  # as public code indexes it
    dataset = read_rap(root)
    assert (len(dataset.attributes), dataset.name) == (51, "rap1")
    assert [len(split) for split in dataset.splits] == [4, 0, 2]
    assert dataset.train.paths[3].name == "CAM01-5.png"
    np.testing.assert_array_equal(dataset.test.labels[1], raw[0][0][1][4, :51])


def test_rap_2(tmp_path: Path) -> None:
    root = rap_like(tmp_path / "rap", 2)
    raw = loadmat(root / "RAP_annotation" / "RAP_annotation.mat")["RAP_annotation"]
    assert (raw[0][0][4][0, 0][0][0][2][0, :] - 1).tolist() == [3, 4]  # as public code indexes it
    dataset = read_attributes(root)
    assert (dataset.attributes, dataset.name) == (("attribute1", "attribute3", "attribute151"), "rap2")
    assert [len(split) for split in dataset.splits] == [2, 1, 2]
    assert np.isnan(dataset.train.labels[1, 1])  # 2 is uncertain
    assert dataset.train.labels[1, 0] == raw[0][0][1][1, 1]


def market_mat(path: Path, train: list[int], test: list[int]) -> Path:
    """27 columns of 1 and 2 (1 to 4 for the age), and the identities."""
    columns = [f"up{i}" for i in range(20)] + ["gender", "hair", "up", "down", "clothes", "hat"]
    content = {}
    for part, pids in (("train", train), ("test", test)):
        table: dict = {name: np.array([[1 + (pid + i) % 2 for pid in pids]]) for i, name in enumerate(columns)}
        table["age"] = np.array([[1 + pid % 4 for pid in pids]])
        table["image_index"] = cells([f"{pid:04d}" for pid in pids])
        content[part] = table
    savemat(path, {"market_attribute": content})
    return path


def test_market_labels_are_joined_to_its_images(market: Path) -> None:
    market_mat(market / "market_attribute.mat", [2, 7, 11], [1, 3, 5])
    dataset = read_attributes(market.parent)
    assert len(dataset.attributes) == 30
    assert dataset.attributes[-4:] == AGES
    assert [len(split) for split in dataset.splits] == [12, 0, 9]  # distractor and junk are left out
    row = next(i for i, crop in enumerate(dataset.train.crops) if crop.pid == 7)
    labels = dict(zip(dataset.attributes, dataset.train.labels[row], strict=True))
    assert (labels["young"], labels["teenager"], labels["adult"], labels["old"]) == (0, 0, 0, 1)  # 1 + 7 % 4 = 4
    assert (labels["female"], labels["up1"]) == (1, 0)  # gender: 1 + (7 + 20) % 2 = 2; up1: 1 + 8 % 2 = 1
    market_mat(market / "market_attribute.mat", [2, 7, 12], [1, 3, 5])
    with pytest.raises(DataError, match=r"(?s)identity 0011 of train: images without.*identity 0012 of train: labels"):
        read_attributes(market)
    assert len(read_attributes(market, "skip").train) == 8


def test_market_labels_of_one_identity(tmp_path: Path) -> None:
    _, of_split, _ = read_market_labels(market_mat(tmp_path / "market_attribute.mat", [2, 7], [11]))
    assert [list(of_split[part]) for part in ("train", "test")] == [[2, 7], [11]]
    assert of_split["test"][11].shape == (30,)


def test_the_real_market_labels() -> None:
    names, of_split, notes = read_market_labels(shared_data("market1501-attribute/market_attribute.mat"))
    assert notes == []
    assert (len(names), len(of_split["train"]), len(of_split["test"])) == (30, 751, 750)
    rows = np.stack([*of_split["train"].values(), *of_split["test"].values()])
    assert (rows[:, -4:].sum(1) == 1).all()  # one age each
    assert not set(of_split["train"]) & set(of_split["test"])


def test_generated_people(people_with_attributes: Path) -> None:
    dataset = read_attributes(people_with_attributes)
    assert [len(split) for split in dataset.splits] == [16, 16, 32]
    parts = [{crop.pid for crop in split.crops} for split in dataset.splits]
    assert not parts[0] & parts[1] | parts[1] & parts[2] | parts[0] & parts[2]
    notes = read_annotations(people_with_attributes)
    for split in dataset.splits:
        for crop, row in zip(split.crops, split.labels, strict=True):
            note = notes[crop.path.relative_to(people_with_attributes).as_posix()]
            assert tuple(n for n, v in zip(ATTRIBUTES, row, strict=True) if v) == note.attributes
            assert (crop.pid, crop.camid) == (note.pid, note.camid)


def test_annotations_of_generated_people_stay_in_their_folder(people_with_attributes: Path, tmp_path: Path) -> None:
    lines = (people_with_attributes / "annotations.jsonl").read_text().splitlines(keepends=True)
    outside = write_picture(tmp_path / "outside.jpg")
    (tmp_path / "people").mkdir()
    for name in ("../outside.jpg", str(outside)):
        row = json.loads(lines[0]) | {"file": name}
        (tmp_path / "people" / "annotations.jsonl").write_text(json.dumps(row) + "\n")
        with pytest.raises(DataError, match=r"outside\.jpg"):
            read_attributes(tmp_path / "people")


def test_csv(tmp_path: Path) -> None:
    for name in ("a.jpg", "sub/b.jpg", "c.jpg"):
        write_picture(tmp_path / name)
    table = tmp_path / "attributes.csv"
    table.write_text("path,split,hat,long sleeve\na.jpg,train,1,0\nsub/b.jpg,test,,1\nc.jpg,,0,1\n")
    dataset = read_attributes(tmp_path)
    assert dataset.attributes == ("hat", "long sleeve")
    assert [[p.name for p in split.paths] for split in dataset.splits] == [["a.jpg", "c.jpg"], [], ["b.jpg"]]
    np.testing.assert_array_equal(dataset.test.labels, [[NAN, 1]])
    assert dataset.positive_ratios().tolist() == [0.5, 0.5]
    for row, words in (
        ("d.jpg,train,1,0", "d.jpg is not in"), ("a.jpg,train,yes,0", "'yes'; it must be 0, 1"),
        ("../a.jpg,train,1,0", "outside"), ("a.jpg,dev,1,0", "'dev'; choose from train"),
        ("a.jpg,train,1,0,1", "5 values for 4 columns"),
    ):  # fmt: skip
        table.write_text(f"path,split,hat,long sleeve\n{row}\n")
        with pytest.raises(DataError, match=words):
            read_csv(table)
    table.write_text("file,hat\na.jpg,1\n")
    with pytest.raises(DataError, match="needs a header with path"):
        read_csv(table)


def test_joining_data_sets_with_and_without_attributes(people_with_attributes: Path, tmp_path: Path) -> None:
    other = shutil.copytree(people_with_attributes, tmp_path / "other")
    for name in ("annotations.jsonl", "generated.json"):
        (other / name).unlink()
    assert knows_attributes(people_with_attributes)
    assert not knows_attributes(other)
    for name in ("x.jpg", "y.jpg"):
        write_picture(tmp_path / "words" / name)
    (tmp_path / "words" / "attributes.csv").write_text("path,Hat,scarf\nx.jpg,1,1\ny.jpg,0,\n")
    joined = join_labels(
        [read_generated_attributes(people_with_attributes), read_any(other), read_attributes(tmp_path / "words")]
    )
    assert joined.attributes == (*ATTRIBUTES, "scarf")
    assert [len(split) for split in joined.splits] == [16 + 32 + 2, 16, 32]
    by_source = [[c for c in joined.train.crops if c.dsetid == i] for i in range(3)]
    assert [len({c.pid for c in part}) for part in by_source] == [4, 8, 1]
    assert not {c.pid for c in by_source[0]} & {c.pid for c in by_source[1]}
    assert {c.pid for c in by_source[2]} == {NO_IDENTITY}
    assert np.isnan(joined.train.labels[16:48]).all()  # re-ID data sets have no attribute labels
    np.testing.assert_array_equal(joined.train.labels[48, [7, 26]], [1, 1])
    assert np.isnan(joined.train.labels[48, 0])
    samples = AttributeSamples(joined.train, Augmentation(), Preprocessing(size_hw=(16, 8)), 1)
    assert len(samples.pids) == 12
    assert samples[0, 0, 48]["label"] == -1
    assert samples[0, 0, 0]["label"] == 0
    assert samples[0, 0, 0]["image"].shape == (3, 16, 8)


ODD_VALUES = (5, "text", np.array([["text"]], dtype=object), np.full((2, 44), np.inf))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("kind", ["pa100k", "peta", "rap1", "rap2"])
def test_matlab_files_of_another_structure_are_named(kind: str, tmp_path: Path) -> None:
    """Each variable in turn is a number, a text, a cell, or infinite."""
    root, read, place, key = {
        "pa100k": lambda: (write_pa100k(tmp_path / "x"), read_pa100k, "annotation/annotation.mat", ""),
        "peta": lambda: (peta_like(tmp_path / "x"), read_peta, "PETA.mat", "peta"),
        "rap1": lambda: (rap_like(tmp_path / "x", 1), read_rap, "RAP_annotation/RAP_annotation.mat", "RAP_annotation"),
        "rap2": lambda: (rap_like(tmp_path / "x", 2), read_rap, "RAP_annotation/RAP_annotation.mat", "RAP_annotation"),
    }[kind]()  # fmt: skip
    content = read_mat(root / place)
    inner = content[key] if key else content
    unused = {"unused", "chinese", "position"}
    for name in inner.keys() - unused:
        for odd in ODD_VALUES:
            if name == "selected" and odd is ODD_VALUES[0]:
                continue  # one attribute
            changed = inner | {name: odd}
            savemat(root / place, {key: changed} if key else changed)
            with pytest.raises(DataError) as caught:
                read(root)
            assert str(root) in str(caught.value), (name, odd)
