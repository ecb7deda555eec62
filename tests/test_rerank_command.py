"""``osnet rerank``: its input files, output files, and refused arguments."""

import json
from pathlib import Path

import numpy as np
import pytest

from osnet.cli import main
from osnet.cli.rerank import read_features
from osnet.embedding.embedder import Embeddings
from osnet.errors import DataError
from osnet.features.embedding_files import save_vectors
from osnet.metrics.distance_blocks import best_of_blocks, euclidean_blocks
from osnet.metrics.k_reciprocal import rerank as rerank_all
from osnet.metrics.k_reciprocal import rerank_best
from osnet.metrics.query_expansion import expand_queries
from osnet.metrics.ranking import rank_scores_from_distances
from test_reranking import make_features


def write_labelled(path: Path) -> tuple[np.ndarray, ...]:
    query, gallery, query_pids, gallery_pids = make_features(20, 150, seed=3)
    cameras = {"query_camids": np.zeros(20, int), "gallery_camids": np.ones(150, int)}
    np.savez(path, query=query, gallery=gallery, query_pids=query_pids, gallery_pids=gallery_pids, **cameras)
    return query, gallery, query_pids, gallery_pids


def test_rerank_labelled_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    query, gallery, query_pids, gallery_pids = write_labelled(tmp_path / "f.npz")
    out, out_json = tmp_path / "ranked.npz", tmp_path / "ranked.json"
    main(["rerank", str(tmp_path / "f.npz"), "--out", str(out), "--out-json", str(out_json), "--top", "7"])
    printed = capsys.readouterr().out
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (query, gallery)]
    wanted = rerank_best(*unit, num_best=7)
    with np.load(out) as content:
        np.testing.assert_array_equal(content["index"], wanted.index)
        np.testing.assert_allclose(content["distance"], wanted.distance, atol=1e-6)
        assert json.loads(str(content["settings"]))["reranking"] == {"k1": 20, "k2": 6, "lambda_value": 0.3}
        assert "gallery_names" not in content
    report = json.loads(out_json.read_text())
    labels = [query_pids, gallery_pids, np.zeros(20, int), np.ones(150, int)]
    after = rank_scores_from_distances(rerank_all(*unit), *labels)
    assert report["scores"]["after"]["mAP"] == pytest.approx(after.mean_ap)
    assert report["scores"]["before"]["mAP"] == pytest.approx(
        rank_scores_from_distances(1 - unit[0] @ unit[1].T, *labels).mean_ap
    )
    assert f"{100 * after.mean_ap:.2f} %" in printed
    assert [hit["index"] for hit in report["queries"][3]["hits"]] == wanted.index[3].tolist()
    with pytest.raises(SystemExit):
        main(["rerank", str(tmp_path / "f.npz"), "--out", str(out)])
    assert "--overwrite" in capsys.readouterr().err


def write_as(arrays: dict[str, np.ndarray], kind: str, folder: Path) -> list[str]:
    """Write the vectors and labels in one of the forms that ``osnet evaluate-features`` reads; returns the files."""
    if kind == "two files":
        for part in ("query", "gallery"):
            own = {k.removeprefix(f"{part}_"): v for k, v in arrays.items() if k.startswith(part) and k != part}
            np.savez(folder / f"{part}.npz", vectors=arrays[part], **own)
        return [str(folder / "query.npz"), str(folder / "gallery.npz")]
    if kind == "names":
        arrays = {k: np.array([f"p{v:02}" for v in x]) if "pids" in k else x for k, x in arrays.items()}
    if kind != "query, gallery":
        arrays = {f"{k}_vectors" if "_" not in k else k: v for k, v in arrays.items()}
    np.savez(folder / "features.npz", **arrays)
    return [str(folder / "features.npz")]


@pytest.mark.parametrize("kind", ["query, gallery", "query_vectors, gallery_vectors", "names", "two files"])
def test_rerank_and_evaluate_features_read_every_form(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query, gallery, query_pids, gallery_pids = write_labelled(tmp_path / "f.npz")
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (query, gallery)]
    labels = [query_pids, gallery_pids, np.zeros(20, int), np.ones(150, int)]
    wanted = rank_scores_from_distances(1 - unit[0] @ unit[1].T, *labels).mean_ap
    files = write_as(dict(np.load(tmp_path / "f.npz")), kind, tmp_path)
    main(["rerank", *files, "--out", str(tmp_path / "r.npz"), "--out-json", str(tmp_path / "r.json")])
    main(["evaluate-features", *files, "--out", str(tmp_path / "e.json")])
    capsys.readouterr()
    before = json.loads((tmp_path / "r.json").read_text())["scores"]["before"]
    scores = json.loads((tmp_path / "e.json").read_text())["scores"]
    assert before == pytest.approx({name: scores[name] for name in before}, abs=1e-6)
    assert before["mAP"] == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("expansion", ["average", "alpha"])
def test_query_expansion_without_reranking(expansion: str, tmp_path: Path) -> None:
    query, gallery, *_ = write_labelled(tmp_path / "f.npz")
    out = tmp_path / "ranked.npz"
    main(["rerank", str(tmp_path / "f.npz"), "--out", str(out), "--no-reranking", "--expansion", expansion])
    expanded = expand_queries(query, gallery, 5, 0 if expansion == "average" else 3)
    unit = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    with np.load(out) as content:
        np.testing.assert_array_equal(content["index"], best_of_blocks(euclidean_blocks(expanded, unit), 50).index)
        np.testing.assert_allclose(content["distance"][:, 0], (2 - 2 * expanded @ unit.T).min(1), atol=1e-5)


def test_rerank_two_files_of_embed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    query, gallery, *_ = make_features(4, 30)
    for name, rows in (("q", query), ("g", gallery)):
        names = [f"{name}{i}.jpg" for i in range(len(rows))]
        save_vectors(tmp_path / f"{name}.npz", Embeddings(rows, names, []), "a" * 64)
    save_vectors(tmp_path / "x.npz", Embeddings(gallery, [f"{i}.jpg" for i in range(30)], []), "b" * 64)
    files = [str(tmp_path / f"{name}.npz") for name in "qgx"]
    out = ["--out", str(tmp_path / "r.npz"), "--out-json", str(tmp_path / "r.json"), "--no-normalize"]
    main(["rerank", *files[:2], *out])
    wanted = rerank_best(query, gallery).index
    with np.load(tmp_path / "r.npz") as content:
        np.testing.assert_array_equal(content["index"], wanted)
        assert content["gallery_names"][content["index"][0, 0]] == f"g{wanted[0, 0]}.jpg"
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["scores"] is None
    assert report["queries"][1]["name"] == "q1.jpg"
    assert report["queries"][1]["hits"][0]["name"] == f"g{wanted[1, 0]}.jpg"
    assert "before" not in capsys.readouterr().out
    for arguments, words in (
        ([files[0], files[2]], "different weights"),
        ([files[0]], "q.npz"),
        ([*files], "3 files of "),
        ([str(tmp_path / "none.npz")], "no such file"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["rerank", *arguments, "--out", str(tmp_path / "s.npz")])
        assert caught.value.code == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "s.npz").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"query_pids": None}, "has gallery_pids but"),
        ({"query_pids": None}, "has no array 'query_pids'"),
        ({"query_pids": np.zeros(20, int)}, "query_pids contains 0 or less"),
        ({"query_pids": np.array(["0"] * 20)}, "query_pids contains 0 or less"),
        ({"gallery_camids": np.ones(149, int)}, "must be 150 integers"),
        ({"gallery": None}, "has no array 'gallery_vectors' or 'gallery'"),
        ({"gallery_vectors": np.ones((150, 8))}, "has both 'gallery' and 'gallery_vectors'"),
        ({"gallery": np.ones((150, 3))}, "8 components, gallery embeddings have 3"),
        ({"gallery": np.full((150, 8), 1e39)}, "gallery: 150 rows contain values above 3.4e38"),
        ({"gallery": np.array([[None, {}]])}, "is not an .npz of plain arrays"),
        ({"gallery": np.array([["a", "b"]])}, "gallery is <U1 (1, 2)"),
    ],
)
def test_invalid_features_are_refused(change: dict, words: str, tmp_path: Path) -> None:

    write_labelled(tmp_path / "f.npz")
    with np.load(tmp_path / "f.npz") as content:
        arrays = {name: value for name, value in ({**content} | change).items() if value is not None}
    np.savez(tmp_path / "f.npz", **arrays)
    with pytest.raises(DataError) as caught:
        read_features((tmp_path / "f.npz",))
    assert words in str(caught.value)
    assert "f.npz" in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--k1", "0"], "--k1 0 must be at least 1"),
        (["--lambda-value", "2"], "--lambda-value 2.0 must be from 0 to 1"),
        (["--alpha", "-1"], "--alpha -1.0 must be at least 0"),
        (["--top", "0"], "--top 0"),
        (["--no-normalize", "--expansion", "alpha"], "--expansion alpha needs --normalize"),
        (["--device", "toaster"], "device 'toaster' cannot be used here"),
        (["--out", "lists.txt"], "lists.txt: lists are written as .npz"),
        (["--out-json", "no/such/folder.json"], "there is no folder"),
        (["--out-json", "r.npz"], "--out r.npz and --out-json r.npz are the same file"),
        (["--out-json", "./x/../r.npz"], "are the same file"),
        (["--out-json", "link/r.npz"], "are the same file"),
        (["--out", "hard.npz", "--out-json", "other.json", "--overwrite"], "are the same file"),
        (["--out", "./f.npz", "--overwrite"], "f.npz is one of the input files"),
        (["--out-json", "f.npz", "--overwrite"], "f.npz is one of the input files"),
    ],
)
def test_invalid_options_are_refused_before_reading(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the features file does not exist, so it was not read
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "hard.npz").touch()
    (tmp_path / "other.json").hardlink_to(tmp_path / "hard.npz")
    with pytest.raises(SystemExit) as caught:
        main(["rerank", "f.npz", "--out", "r.npz", *flags])
    assert caught.value.code == 2
    assert words in capsys.readouterr().err
