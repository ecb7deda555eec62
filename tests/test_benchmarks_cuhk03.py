"""CUHK03: extraction from the MATLAB 7.3 file, the 767/700 protocol, the 20 classic splits."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import layouts
from layouts import MAKERS, damage, names
from osnet.data.check import check_dataset
from osnet.data.reid import cuhk03_images
from osnet.data.reid.catalog import read_benchmark
from osnet.errors import DataError, MissingExtraError
from osnet.types import ReidDataset, Split


@pytest.mark.parametrize("boxes", ["detected", "labeled"])
def test_cuhk03_extracts_the_images_of_the_mat_file(boxes: str, tmp_path: Path) -> None:
    folder = layouts.make_cuhk03(tmp_path)
    benchmark = read_benchmark("cuhk03", tmp_path, labelled=boxes == "labeled")
    images = sorted((folder / f"images_{boxes}").iterdir())
    assert [path.name for path in images] == sorted(layouts.cuhk03_names(boxes))
    for path in images:
        assert np.array_equal(np.asarray(Image.open(path)), layouts.cuhk03_pixels(boxes, path.name))
    assert len(benchmark.crops) == len(images)
    other = {"detected": "labeled", "labeled": "detected"}[boxes]
    assert not (folder / f"images_{other}").exists()


def test_cuhk03_detected_and_labelled_are_different_images(tmp_path: Path) -> None:
    layouts.make_cuhk03(tmp_path)
    detected, labelled = (read_benchmark("cuhk03", tmp_path, labelled=labelled) for labelled in (False, True))
    assert (detected.variant, labelled.variant) == ("detected, 767/700", "labelled, 767/700")
    assert set(names(detected.datasets[0].train)) - set(names(labelled.datasets[0].train)) == {"1_001_1_02.png"}
    assert {row.published for row in detected.counts() if (row.splits, row.kind) == ("train", "images")} == {7365}
    assert {row.published for row in labelled.counts() if (row.splits, row.kind) == ("train", "images")} == {7368}


def test_cuhk03_new_protocol_reads_its_image_lists(tmp_path: Path) -> None:
    layouts.make_cuhk03(tmp_path)
    benchmark = read_benchmark("cuhk03", tmp_path)
    assert benchmark.rule == "market1501"
    (dataset,) = benchmark.datasets
    expected = layouts.cuhk03_new_split("detected")
    assert {split.name: names(split) for split in dataset.splits} == {k: sorted(v) for k, v in expected.items()}
    assert set(dataset.query.camids) == {1, 2}  # queries come from both cameras


def test_cuhk03_images_1_to_5_are_from_the_first_camera(tmp_path: Path) -> None:
    layouts.make_cuhk03(tmp_path)
    crops = {crop.path.name: crop for crop in read_benchmark("cuhk03", tmp_path).crops}
    assert {name: crop.camid for name, crop in crops.items()} == {name: int(name[6]) for name in crops}
    assert [crops[f"2_002_{c}_{i:02d}.png"].camid for c, i in ((1, 1), (1, 2), (2, 6), (2, 10))] == [1, 1, 2, 2]
    assert crops["1_005_1_01.png"].pid == 5
    assert crops["2_001_1_01.png"].pid == 6  # person 1 of the second pair is another person


def test_cuhk03_classic_splits_use_all_images_of_the_test_people(tmp_path: Path) -> None:
    layouts.make_cuhk03(tmp_path)
    benchmark = read_benchmark("cuhk03", tmp_path, classic=True)
    assert benchmark.rule == "cuhk03"
    assert len(benchmark.datasets) == 20
    for number, dataset in enumerate(benchmark.datasets):
        tested = {f"{pair}_{person:03d}" for pair, person in layouts.cuhk03_testset(number)}
        expected = sorted(name for name in layouts.cuhk03_names("detected") if name[:5] in tested)
        assert names(dataset.query) == names(dataset.gallery) == expected
        assert len(dataset.train) + len(dataset.query) == len(layouts.cuhk03_names("detected"))
    assert benchmark.variant == "detected, classic"
    whole = next(row for row in benchmark.counts() if row.splits == "train+query+gallery")
    assert whole.found == (len(layouts.cuhk03_names("detected")),)  # an image in both query and gallery counts once


def test_cuhk03_a_file_in_train_and_test_is_a_problem(tmp_path: Path) -> None:
    layouts.make_cuhk03(tmp_path)
    dataset = read_benchmark("cuhk03", tmp_path, classic=True).datasets[0]
    assert "same file" not in {problem.kind for problem in check_dataset(dataset).problems}
    train = Split("train", (*dataset.train.crops, dataset.query.crops[0]))
    mixed = ReidDataset("mixed", dataset.root, train, dataset.query, dataset.gallery)
    assert "same file" in {problem.kind for problem in check_dataset(mixed).problems}
    assert "same file" not in {problem.kind for problem in check_dataset(mixed, decode=False).problems}
    copy = dataset.gallery.paths[0].with_name("copy.png")
    shutil.copy(dataset.gallery.paths[0], copy)
    crops = tuple(type(c)(copy if i == 0 else c.path, c.pid, c.camid) for i, c in enumerate(dataset.gallery.crops))
    copied = ReidDataset("copied", dataset.root, dataset.train, dataset.query, Split("gallery", crops))
    assert "same file" in {problem.kind for problem in check_dataset(copied).problems}


def test_cuhk03_is_extracted_once(tmp_path: Path) -> None:
    folder = layouts.make_cuhk03(tmp_path)
    before = read_benchmark("cuhk03", tmp_path, classic=True)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    (folder / "cuhk03_release" / "cuhk-03.mat").unlink()
    assert read_benchmark("cuhk03", tmp_path, classic=True).datasets == before.datasets
    assert len(read_benchmark("cuhk03", tmp_path).datasets) == 1
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")} == times
    assert str(tmp_path) not in (folder / "images_detected.json").read_text()
    with pytest.raises(DataError, match=r"cuhk03 .*cuhk-03"):
        read_benchmark("cuhk03", tmp_path, labelled=True)


def test_cuhk03_resumes_an_interrupted_extraction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = layouts.make_cuhk03(tmp_path)
    write, written = cuhk03_images._write_image, []

    def interrupt(path: Path, pixels: np.ndarray) -> int:
        if len(written) == 7:
            raise KeyboardInterrupt
        written.append(path)
        return write(path, pixels)

    monkeypatch.setattr(cuhk03_images, "_write_image", interrupt)
    with pytest.raises(KeyboardInterrupt):
        read_benchmark("cuhk03", tmp_path)
    monkeypatch.undo()
    assert len(list((folder / "images_detected").iterdir())) == 7
    assert not (folder / "images_detected.json").exists()  # so the images would not be read
    times = {path: path.stat().st_mtime_ns for path in written}
    written[3].write_bytes(b"half an image")
    read_benchmark("cuhk03", tmp_path)
    intact = [path for path in written if path != written[3]]
    assert {path: path.stat().st_mtime_ns for path in intact} == {path: times[path] for path in intact}
    assert np.array_equal(np.asarray(Image.open(written[3])), layouts.cuhk03_pixels("detected", written[3].name))


def test_cuhk03_does_not_overwrite_other_images(tmp_path: Path) -> None:
    folder = layouts.make_cuhk03(tmp_path)
    other = folder / "images_detected" / "1_002_1_01.png"
    other.parent.mkdir()
    Image.new("RGB", (7, 13)).save(other)
    with pytest.raises(DataError, match=r"1_002_1_01\.png .*cuhk-03\.mat"):
        read_benchmark("cuhk03", tmp_path)
    assert len(read_benchmark("cuhk03", tmp_path, work_dir=tmp_path / "work").datasets) == 1
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["images_detected", "images_detected.json"]
    assert np.asarray(Image.open(other)).max() == 0


def test_cuhk03_extracted_images_are_checked_when_read(tmp_path: Path) -> None:
    folder = layouts.make_cuhk03(tmp_path)
    read_benchmark("cuhk03", tmp_path)
    (folder / "images_detected" / "1_001_1_01.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 image\(s\) in .* are missing or were changed: 1_001_1_01\.png"):
        read_benchmark("cuhk03", tmp_path)
    listing = folder / "images_detected.json"
    damage(listing, lambda c: c["images"].update({"../x.png": 1}))
    with pytest.raises(DataError, match=r"'\.\./x\.png'"):
        read_benchmark("cuhk03", tmp_path)
    damage(listing, lambda c: c.update(mat_bytes=1))
    with pytest.raises(DataError, match=r"images_detected\.json .*cuhk-03\.mat"):
        read_benchmark("cuhk03", tmp_path)
    listing.unlink()
    assert len(read_benchmark("cuhk03", tmp_path).datasets) == 1


def test_cuhk03_damaged_files_are_named(tmp_path: Path) -> None:
    folder = layouts.make_cuhk03(tmp_path)
    mat = folder / "cuhk03_release" / "cuhk-03.mat"
    content = mat.read_bytes()
    for damaged in (b"MATLAB 5.0 MAT-file", content[: len(content) // 2]):
        mat.write_bytes(damaged)
        with pytest.raises(DataError, match=r"cuhk-03\.mat cannot be read as"):
            read_benchmark("cuhk03", tmp_path)
    mat.write_bytes(content)
    (folder / "cuhk03_new_protocol_config_detected.mat").unlink()
    with pytest.raises(DataError, match=r"767/700.*config_detected"):
        read_benchmark("cuhk03", tmp_path)
    assert len(read_benchmark("cuhk03", tmp_path, classic=True).datasets) == 20  # the classic splits do not need it


def test_cuhk03_a_mat_file_with_links_to_other_files_is_refused(tmp_path: Path) -> None:
    import h5py

    folder = layouts.make_cuhk03(tmp_path)
    mat = folder / "cuhk03_release" / "cuhk-03.mat"
    with h5py.File(mat, "a") as file:
        del file["testsets"]
        file["testsets"] = h5py.ExternalLink("/elsewhere.mat", "/testsets")
    with pytest.raises(DataError, match="testsets"):
        read_benchmark("cuhk03", tmp_path)
    with h5py.File(mat, "a") as file:
        del file["testsets"]
        secret = [(str(tmp_path / "secret.bin"), 0, 16)]
        file.create_dataset("testsets", (1, 2), dtype="f8", external=secret)
    with pytest.raises(DataError, match="refers to another file"):
        read_benchmark("cuhk03", tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v.update(train_idx=v["train_idx"] - 1), "train_idx .*from 1 to"),
        (lambda v: v.update(query_idx=v["train_idx"][:2]), r"identities \[1\] are in train and in query"),
        (lambda v: v.update(labels=v["labels"] * 0), "labels do not agree"),
        (lambda v: v["filelist"].__setitem__((0, 0), "9_001_1_01.png"), "are not in cuhk-03.mat: 9_001"),
        (lambda v: v.pop("gallery_idx"), "gallery_idx"),
        (lambda v: v.update(train_idx="text"), "config_detected"),
        (lambda v: v.update(query_idx=np.array([[1], ["a"]], dtype=object)), "config_detected"),
        (lambda v: v.update(labels=np.array([[1], ["a"]], dtype=object)), "config_detected"),
        (lambda v: v["filelist"].__setitem__((0, 0), np.zeros((0, 0))), "config_detected"),
    ],
)
def test_cuhk03_inconsistent_protocol_files_are_refused(
    change: Callable[[dict], object], words: str, tmp_path: Path
) -> None:
    from scipy.io import loadmat, savemat

    folder = layouts.make_cuhk03(tmp_path)
    path = folder / "cuhk03_new_protocol_config_detected.mat"
    variables = {key: value for key, value in loadmat(path).items() if key[0] != "_"}
    change(variables)
    savemat(path, variables)
    with pytest.raises(DataError, match=words):
        read_benchmark("cuhk03", tmp_path)


@pytest.mark.parametrize(("name", "library"), [("cuhk03", "h5py"), ("grid", "scipy")])
def test_a_missing_library_names_the_extra(
    name: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MAKERS[name](tmp_path)

    def missing(module: str) -> None:
        raise ModuleNotFoundError(f"No module named {library!r}", name=library)

    monkeypatch.setattr("osnet.errors.import_module", missing)
    with pytest.raises(MissingExtraError, match=rf"{library}.*osnet\[benchmarks\]"):
        read_benchmark(name, tmp_path)
