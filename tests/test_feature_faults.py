"""Faults in files of embeddings, in kept embeddings, and in results that are averaged."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import write_picture
from osnet import Embedder, Scoring, average_results, evaluate
from osnet.embedding.embedder import Embeddings
from osnet.errors import DataError, ImageError, ImageWarning
from osnet.evaluation.evaluate import evaluate_features
from osnet.features.embedding_files import embed_files, find_changed, read_stamps, save_vectors
from osnet.features.labels import read_labelled
from osnet.work.embedding import merge_blocks
from test_cli import Run, run  # noqa: F401 a fixture

CAMIDS = {"query_camids": np.ones(3, int), "gallery_camids": np.full(3, 2)}


def pairs() -> dict[str, np.ndarray]:
    """Three people, each once in query and gallery, with equal embeddings."""
    vectors, pids = np.eye(3, 4) + 0.5, np.arange(1, 4)
    return {
        f"{part}_{what}": x
        for part in ("query", "gallery")
        for what, x in (("vectors", vectors.copy()), ("pids", pids))
    }


def refused(folder: Path, arrays: dict[str, Any]) -> str:
    """The error for one file with these arrays."""
    np.savez(folder / "b.npz", **arrays)
    with pytest.raises(DataError) as caught:
        read_labelled([folder / "b.npz"])
    return str(caught.value)


# Labels from two sources


def test_labels_in_a_file_and_in_a_csv_are_refused(tmp_path: Path) -> None:
    """By the files each query has a match; by the CSV none has."""
    rows = ["path,identity,camera"]
    for part, camera in (("x", 1), ("y", 2)):
        names = np.array([f"/{part}/{i}.jpg" for i in range(3)])
        np.savez(tmp_path / f"{part}.npz", vectors=np.eye(3), pids=[1, 2, 3], camids=np.full(3, camera), names=names)
        np.savez(tmp_path / f"{part}-plain.npz", vectors=np.eye(3), names=names)
        rows += [f"{name},Z{(i + camera) % 3},{camera}" for i, name in enumerate(names)]
    table = tmp_path / "l.csv"
    table.write_text("\n".join(rows))
    for files in (["x.npz", "y.npz"], ["x.npz", "y-plain.npz"], ["x-plain.npz", "y.npz"]):
        with pytest.raises(DataError, match=r"[xy]\.npz has pids and camids, and .*l\.csv"):
            read_labelled([tmp_path / name for name in files], table)
    query, gallery = read_labelled([tmp_path / "x-plain.npz", tmp_path / "y-plain.npz"], table)
    assert (query.pids.tolist(), gallery.pids.tolist()) == ([2, 3, 1], [3, 1, 2])


def test_labels_in_one_file_and_in_a_csv_with_splits_are_refused(tmp_path: Path) -> None:
    names = ["a.jpg", "b.jpg"]
    (tmp_path / "l.csv").write_text("path,identity,camera,split\na.jpg,ann,1,query\nb.jpg,ann,2,gallery\n")
    for labels in ("pids", "camids"):
        np.savez(tmp_path / "v.npz", vectors=np.eye(2), names=names, **{labels: [1, 1]})
        with pytest.raises(DataError, match=rf"v\.npz has {labels}, and .*l\.csv"):
            read_labelled([tmp_path / "v.npz"], tmp_path / "l.csv")


def test_cameras_in_a_file_are_not_replaced_by_those_in_names(tmp_path: Path) -> None:
    names = ["0001_c1s1_0.jpg", "0002_c1s1_0.jpg"]
    np.savez(tmp_path / "x.npz", vectors=np.eye(2), names=names, camids=[7, 8])
    np.savez(tmp_path / "y.npz", vectors=np.eye(2), names=names)
    with pytest.raises(DataError, match=r"x\.npz has camids but no pids"):
        read_labelled([tmp_path / "x.npz", tmp_path / "y.npz"])


# Cameras that would not be used


@pytest.mark.parametrize("part", ["query", "gallery"])
def test_cameras_of_one_part_are_refused(part: str, tmp_path: Path) -> None:
    other = {"query": "gallery", "gallery": "query"}[part]
    text = refused(tmp_path, pairs() | {f"{part}_camids": CAMIDS[f"{part}_camids"]})
    assert f"has {part}_camids but" in text
    assert f"'{other}_camids'" in text
    assert "b.npz" in text


@pytest.mark.parametrize("spelling", ["query_cams", "q_camids", "gallery_cam_ids", "camids", "Query_CamIDs", "cameras"])
def test_other_spellings_of_camids_are_refused(spelling: str, tmp_path: Path) -> None:
    text = refused(tmp_path, pairs() | {spelling: np.ones(3, int)})
    assert "no array query_camids or gallery_camids" in text
    assert spelling in text


def test_arrays_that_are_not_used_are_named(run: Run, tmp_path: Path) -> None:  # noqa: F811
    np.savez(tmp_path / "b.npz", **pairs(), **CAMIDS, query_cams=[1, 2, 3], camera_matrix=np.eye(3))
    with pytest.warns(ImageWarning, match=r"b\.npz: .*not used: camera_matrix, query_cams"):
        query, _ = read_labelled([tmp_path / "b.npz"])
    assert query.camids.tolist() == [1, 1, 1]
    status, _, err = run("evaluate-features", tmp_path / "b.npz")
    assert status == 0
    assert err.startswith("warning: ")
    assert ".py:" not in err


def test_all_arrays_that_embed_writes_are_known(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    for part in "xy":
        found = Embeddings(np.eye(1, 4, dtype=np.float32), ["0001_c1s1_0.jpg"], [ImageError("broken.jpg", "why")])
        save_vectors(tmp_path / f"{part}.npz", found, "a" * 64)
    read_labelled([tmp_path / "x.npz", tmp_path / "y.npz"])
    assert not recwarn.list


def test_the_note_on_unlisted_images_is_one_line(run: Run, tmp_path: Path) -> None:  # noqa: F811
    np.savez(tmp_path / "v.npz", vectors=np.eye(3), names=["a.jpg", "b.jpg", "c.jpg"])
    (tmp_path / "l.csv").write_text("path,identity,camera,split\na.jpg,ann,1,query\nb.jpg,ann,2,gallery\n")
    status, _, err = run("evaluate-features", tmp_path / "v.npz", "--csv", tmp_path / "l.csv")
    assert status == 0
    assert err.startswith("warning: 1 of 3 images")
    assert ".py:" not in err


# Lengths


def test_normalised_and_raw_embeddings_are_not_compared_by_euclidean_distance(run: Run, tmp_path: Path) -> None:  # noqa: F811
    """A person's raw embedding is (3, 4) or (10, 1); normalised queries lie nearer to the shorter one."""
    raw = np.array([[3.0, 4.0], [10.0, 1.0]])
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    for name, vectors, camera in (("q-unit", unit, 1), ("g-unit", unit, 2), ("q-raw", raw, 1), ("g-raw", raw, 2)):
        np.savez(tmp_path / f"{name}.npz", vectors=vectors, pids=[1, 2], camids=np.full(2, camera))
    for query, gallery in (("q-unit", "g-raw"), ("q-raw", "g-unit")):
        files = [tmp_path / f"{query}.npz", tmp_path / f"{gallery}.npz"]
        status, _, err = run("evaluate-features", *files)
        assert (status, f"{gallery}.npz" in err, "5 to 10.05" in err) == (2, True, True), err
        status, _, err = run("rerank", *files, "--no-normalize", "--out", tmp_path / "r.npz")
        assert (status, "5 to 10.05" in err, (tmp_path / "r.npz").exists()) == (2, True, False), err
        parts = read_labelled(files)
        with pytest.raises(DataError, match="Euclidean"):
            evaluate_features(*parts, scoring=Scoring(distance="euclidean"))
        assert evaluate_features(*parts).scores["mAP"] == 1  # cosine needs no lengths
    for query, gallery in (("q-unit", "g-unit"), ("q-raw", "g-raw")):
        parts = read_labelled([tmp_path / f"{query}.npz", tmp_path / f"{gallery}.npz"])
        assert evaluate_features(*parts, scoring=Scoring(distance="euclidean")).scores["mAP"] == 1


def test_lengths_in_half_precision_are_1(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(20, 512))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for part, vectors in (("q", unit), ("g", unit.astype(np.float16))):
        np.savez(tmp_path / f"{part}.npz", vectors=vectors, pids=np.arange(1, 21))
    parts = read_labelled([tmp_path / "q.npz", tmp_path / "g.npz"])
    assert evaluate_features(*parts, scoring=Scoring(distance="euclidean")).scores["rank-1"] == 1


@pytest.mark.parametrize("part", ["query", "gallery"])
def test_embeddings_that_are_zero_are_refused(part: str, run: Run, tmp_path: Path) -> None:  # noqa: F811
    arrays = pairs() | CAMIDS
    arrays[f"{part}_vectors"][1:] = 0
    text = refused(tmp_path, arrays)
    assert "2 embeddings are zero" in text
    assert f"{part}_vectors row 1" in text
    assert "b.npz" in text
    unlabelled = {name: array for name, array in arrays.items() if "vectors" in name}
    np.savez(tmp_path / "b.npz", **unlabelled)
    status, _, err = run("rerank", tmp_path / "b.npz", "--out", tmp_path / "r.npz")
    assert (status, f"{part}_vectors row 1" in err) == (2, True), err
    np.savez(tmp_path / "b.npz", **arrays, **{f"{part}_names": [f"{part}{i}.jpg" for i in range(3)]})
    with pytest.raises(DataError, match=rf"the first is {part}1\.jpg"):
        read_labelled([tmp_path / "b.npz"])


def test_zero_rows_of_junk_are_allowed(tmp_path: Path) -> None:
    """Junk is in no ranking, so that a row of it may be empty."""
    arrays = pairs() | {"gallery_camids": np.full(4, 2), "query_camids": np.ones(3, int)}
    arrays["gallery_vectors"] = np.vstack([arrays["gallery_vectors"], np.zeros(4)])
    np.savez(tmp_path / "b.npz", **(arrays | {"gallery_pids": np.array([1, 2, 3, -1])}))
    assert evaluate_features(*read_labelled([tmp_path / "b.npz"])).scores["mAP"] == 1
    assert "1 embeddings are zero" in refused(tmp_path, arrays | {"gallery_pids": np.array([1, 2, 3, 0])})


# Repaired images


def test_repaired_images_are_noticed(tiny_weights: Path, market: Path, tmp_path: Path) -> None:
    embedder, features = Embedder(tiny_weights), tmp_path / "f"
    image = market / "query" / "0003_c1s1_000000_00.jpg"
    good = image.read_bytes()
    image.write_bytes(b"broken")
    first = evaluate(embedder, market, features=features, on_error="skip")
    assert len(first.unreadable) == 1
    assert evaluate(embedder, market, features=features, on_error="skip").num_queries == 2  # nothing has changed
    image.write_bytes(good)
    for on_error in ("skip", "raise"):
        with pytest.raises(DataError, match=rf"1 images have changed since .*{image.name}"):
            evaluate(embedder, market, features=features, on_error=on_error)
    for kept in features.iterdir():
        kept.unlink()
    assert evaluate(embedder, market, features=features).num_queries == 3


def test_failures_have_the_stamps_from_before_they_were_read(tiny_weights: Path, tmp_path: Path) -> None:
    paths = [write_picture(tmp_path / "p" / f"{n}.png", n) for n in range(3)]
    paths[1].write_bytes(b"broken")
    out = tmp_path / "v.npz"
    embed_files(Embedder(tiny_weights), paths, out, on_error="skip")
    assert find_changed(out) == []
    assert read_stamps(out)[str(paths[1])][0] == len(b"broken")
    write_picture(paths[1], 1)
    assert find_changed(out) == [str(paths[1])]
    arrays = {name: array for name, array in np.load(out).items() if name != "failure_stamps"}
    np.savez(out, **arrays)
    assert find_changed(out) == []  # a file from before failures had stamps


def test_joined_blocks_keep_the_stamps_of_failures(tmp_path: Path) -> None:
    class Blocks:
        items = (0, 1)

        def reading(self, item: int) -> Any:
            from contextlib import nullcontext

            return nullcontext(tmp_path / f"{item}.npz")

    for item in Blocks.items:
        found = Embeddings(np.eye(1, 4, dtype=np.float32), [f"a{item}"], [ImageError(f"b{item}", "why")])
        save_vectors(tmp_path / f"{item}.npz", found, "sha", {f"a{item}": (item, 5), f"b{item}": (item, 6)})
    merge_blocks(Blocks(), tmp_path / "v.npz")  # type: ignore[arg-type]
    assert read_stamps(tmp_path / "v.npz") == {"a0": (0, 5), "a1": (1, 5), "b0": (0, 6), "b1": (1, 6)}


# Averages


def write_result(path: Path, **changes: Any) -> Path:
    query, gallery = (np.eye(3, 4, dtype=np.float32) for _ in range(2))
    np.savez(path.with_suffix(".npz"), query=query, query_pids=[1, 2, 3], gallery=gallery, gallery_pids=[1, 2, 3])
    content = evaluate_features(*read_labelled([path.with_suffix(".npz")]), name="own").to_json()
    content["weights"] = {"name": path.stem, "network_sha256": path.stem, "size_hw": [256, 128], "flip": False}
    path.write_text(json.dumps(content | changes))
    return path


def test_averages_repeat_warnings_and_what_was_left_out(run: Run, tmp_path: Path) -> None:  # noqa: F811
    one = write_result(tmp_path / "one.json", warnings=["trained on the test images"], unreadable=["x.jpg: no image"])
    two = write_result(tmp_path / "two.json", unreadable=["x.jpg: no image"], unmatched=["q.jpg"], num_scored=2)
    status, out, _ = run("average", one, two, "--out", tmp_path / "mean.json")
    assert status == 0
    assert "over 5 of 6 queries in all" in out
    assert "1 left out: x.jpg: no image" in out
    assert "1 without a match in another camera: q.jpg" in out
    assert "note: trained on the test images" in out
    found = json.loads((tmp_path / "mean.json").read_text())
    assert (found["num_queries"], found["num_scored"]) == (6, 5)
    own, equal = found["warnings"]  # the toy embeddings of query and gallery are equal, in both results
    assert own == "trained on the test images"
    assert "equal embedding" in equal
    assert found["unreadable"] == ["x.jpg: no image"]
    assert found["unmatched"] == ["q.jpg"]


@pytest.mark.parametrize(("setting", "other"), [("flip", True), ("size_hw", [384, 128])])
def test_results_with_other_settings_are_not_averaged(setting: str, other: Any, tmp_path: Path) -> None:
    one = write_result(tmp_path / "one.json")
    weights = json.loads(one.read_text())["weights"] | {"network_sha256": "two", setting: other}
    two = write_result(tmp_path / "two.json", weights=weights)
    with pytest.raises(DataError) as caught:
        average_results([one, two])
    for words in (str(two), setting, str(other), str(one)):
        assert words in str(caught.value)


def test_a_result_without_counts_is_refused(tmp_path: Path) -> None:
    files = [write_result(tmp_path / "one.json"), write_result(tmp_path / "two.json", warnings="none")]
    with pytest.raises(DataError, match=r"two\.json is not a result"):
        average_results(files)
