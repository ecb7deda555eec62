"""Evaluating vectors from files: their labels, refused files, and the evaluation commands."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import write_picture
from layouts import make_market, make_viper
from osnet import Embedder, Scoring, evaluate, load_weights, save_weights
from osnet.cli.common import EXIT_ERROR
from osnet.data.folder import read_dataset
from osnet.errors import DataError
from osnet.evaluation.evaluate import evaluate_features
from osnet.features.embedding_files import embed_files, read_vectors
from osnet.features.labels import read_labelled
from osnet.metrics.ranking import rank_scores, summarize
from test_cli import Run, run  # noqa: F401 a fixture


def random_arrays(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    sizes = {"query": 12, "gallery": 60}
    return {
        **{f"{part}_vectors": rng.normal(size=(n, 8)) for part, n in sizes.items()},
        **{f"{part}_pids": rng.integers(1, 6, n) for part, n in sizes.items()},
        **{f"{part}_camids": rng.integers(1, 4, n) for part, n in sizes.items()},
    }


def direct(arrays: dict[str, np.ndarray], **options) -> dict:
    keys = ("query_vectors", "gallery_vectors", "query_pids", "gallery_pids", "query_camids", "gallery_camids")
    return summarize(rank_scores(*(arrays[key] for key in keys), **options))


@pytest.mark.parametrize("options", [{}, {"distance": "euclidean", "ap": "trapezoid"}, {"rule": "cuhk03", "seed": 3}])
def test_vectors_in_one_or_two_files(options: dict, tmp_path: Path) -> None:
    arrays = random_arrays()
    np.savez(tmp_path / "all.npz", **arrays)
    for part in ("query", "gallery"):
        np.savez(tmp_path / f"{part}.npz", **{k.removeprefix(f"{part}_"): v for k, v in arrays.items() if part in k})
    for files in (["all.npz"], ["query.npz", "gallery.npz"]):
        result = evaluate_features(*read_labelled([tmp_path / name for name in files]), scoring=Scoring(**options))
        assert result.scores == direct(arrays, **options)
        assert result.splits[0].counts["gallery"].images == 60
    assert options.get("distance", "cosine") in str(result.protocol)


def test_identity_names_are_numbered_and_missing_cameras_differ(tmp_path: Path) -> None:
    arrays = random_arrays()
    expected = direct(arrays | {"query_camids": np.full(12, -1), "gallery_camids": np.arange(60)})
    named = {k: np.array([f"p{v}" for v in x]) if "pids" in k else x for k, x in arrays.items() if "camids" not in k}
    np.savez(tmp_path / "named.npz", **named)
    query, gallery = read_labelled([tmp_path / "named.npz"])
    assert len({*query.camids.tolist(), *gallery.camids.tolist()}) == 72  # each row gets its own camera number
    assert query.pids.tolist() == arrays["query_pids"].tolist()  # p1, p2, ... in sorted order
    assert evaluate_features(query, gallery).scores == expected


def test_junk_and_distractors_among_identity_names(tmp_path: Path) -> None:
    """Six people, junk and a distractor, with identities as numbers, as text and as names."""
    rng = np.random.default_rng(4)
    pids = {"query": np.array([1, 2, 3, 4, 5, 6]), "gallery": np.array([*range(-1, 7)] * 6)}
    arrays = {f"{part}_vectors": rng.normal(size=(len(x), 4)) for part, x in pids.items()}
    results = []
    for kind, write in {
        "numbers": lambda pid: pid,
        "texts": str,
        "names": lambda pid: "abcdef"[pid - 1] if pid > 0 else str(pid),
        "late": lambda pid: "zyxwvu"[6 - pid] if pid > 0 else str(pid),  # sorts after the digits
        "early": lambda pid: " !#$%&"[pid - 1] if pid > 0 else str(pid),  # sorts before - and 0
    }.items():
        labels = {f"{part}_pids": np.array([write(pid) for pid in x.tolist()]) for part, x in pids.items()}
        np.savez(tmp_path / f"{kind}.npz", **arrays, **labels)
        query, gallery = read_labelled([tmp_path / f"{kind}.npz"])
        assert query.pids.tolist() == pids["query"].tolist()
        assert gallery.pids.tolist() == pids["gallery"].tolist()
        results.append(evaluate_features(query, gallery))
    assert len({result.scores["mAP"] for result in results}) == 1
    assert {result.splits[0].counts["gallery"].identities for result in results} == {6}


def test_cameras_0_and_minus_1_are_ordinary_cameras(tmp_path: Path) -> None:
    """Unlike identities, cameras -1 and 0 are ordinary; empty cameras get unused negative numbers."""
    vectors = {f"{part}_vectors": np.ones((4, 2)) for part in ("query", "gallery")}
    pids = {f"{part}_pids": np.ones(4, int) for part in ("query", "gallery")}
    for cameras, expected in (
        ((["-1", "0", "x", ""], ["0", "x", "", "-1"]), ([1, 2, 3, -1], [2, 3, -2, 1])),
        ((["-1", "0", "5", ""], ["0", "5", "", "-1"]), ([-1, 0, 5, -2], [0, 5, -3, -1])),
        (([-1, 0, 5, 5], [0, 5, -1, -1]), ([-1, 0, 5, 5], [0, 5, -1, -1])),
        (
            (["1", "0", "5", ""], ["0", str(10**30), "", "1"]),
            ([2, 1, 4, -1], [1, 3, -2, 2]),
        ),  # 10**30 does not fit an integer, so all are names
    ):
        camids = {f"{part}_camids": np.array(x) for part, x in zip(("query", "gallery"), cameras, strict=True)}
        np.savez(tmp_path / "v.npz", **vectors, **pids, **camids)
        query, gallery = read_labelled([tmp_path / "v.npz"])
        assert (query.camids.tolist(), gallery.camids.tolist()) == expected


def test_arrays_may_be_called_query_or_query_vectors(tmp_path: Path) -> None:
    arrays = random_arrays()
    np.savez(tmp_path / "v.npz", **{k.removesuffix("_vectors"): v for k, v in arrays.items()})
    assert np.load(tmp_path / "v.npz")["query"].shape == (12, 8)
    query, gallery = read_labelled([tmp_path / "v.npz"])
    assert evaluate_features(query, gallery).scores == direct(arrays)
    assert query.names[3] == "query_vectors row 3"


def test_vectors_of_different_weights_are_not_compared(tmp_path: Path) -> None:
    arrays = random_arrays()
    for part in ("query", "gallery"):
        own = {k.removeprefix(f"{part}_"): v for k, v in arrays.items() if part in k}
        np.savez(tmp_path / f"{part}.npz", **own, weights_sha256=np.array(f"{part:x<64}"))
    with pytest.raises(DataError, match="made with different weights"):
        read_labelled([tmp_path / "query.npz", tmp_path / "gallery.npz"])


def test_half_precision_vectors_are_read_exactly(tmp_path: Path) -> None:
    arrays = {k: v.astype(np.float16) if "vectors" in k else v for k, v in random_arrays().items()}
    np.savez(tmp_path / "v.npz", **arrays)
    query, _ = read_labelled([tmp_path / "v.npz"])
    np.testing.assert_array_equal(query.vectors, arrays["query_vectors"].astype(np.float64))
    assert query.vectors.dtype == np.float32


def test_the_table_of_the_images_fits_their_saved_vectors(run: Run, tiny_weights: Path, tmp_path: Path) -> None:  # noqa: F811
    """One CSV, with paths relative to the data, labels the images and the vectors saved with --features."""
    data, table, rows = tmp_path / "own", tmp_path / "own.csv", []
    for i, (split, identity, camera) in enumerate(
        [("query", "anna", "1"), ("query", "ben", "2"), *(("gallery", w, c) for c in "12" for w in ("anna", "ben")),
         ("gallery", "-1", "2"), ("gallery", "0", "1")]
    ):  # fmt: skip
        write_picture(data / "img" / f"{split}{i}.png", i)
        rows.append(f"img/{split}{i}.png,{identity},{camera},{split}")
    table.write_text("path,identity,camera,split\n" + "\n".join(rows))
    out = tmp_path / "o.json"
    status, _, err = run("evaluate", "--weights", tiny_weights, "--data", data, "--csv", table, "--features",
                         data / "f", "--out", out)  # fmt: skip
    assert (status, err) == (0, err)
    saved = [data / "f" / "query.npz", data / "f" / "gallery.npz"]
    status, _, err = run("evaluate-features", *saved, "--csv", table, "--out", tmp_path / "p.json")
    assert (status, err) == (0, err)
    first, second = (json.loads(path.read_text()) for path in (out, tmp_path / "p.json"))
    assert first["scores"] == second["scores"]
    assert second["counts"]["gallery"]["identities"] == 2


def test_files_written_by_embed_files(tiny_weights: Path, market: Path, tmp_path: Path) -> None:
    embedder, data = Embedder(tiny_weights), read_dataset(market)
    expected = evaluate(embedder, data).scores
    for split in (data.query, data.gallery):
        embed_files(embedder, split.paths, tmp_path / f"{split.name}.npz")
    both = [tmp_path / "query.npz", tmp_path / "gallery.npz"]
    assert evaluate_features(*read_labelled(both)).scores == expected  # by Market-1501's names
    rows = [f"{crop.path},P{crop.pid},C{crop.camid},{split.name}"
            for split in (data.query, data.gallery) for crop in split.crops if crop.pid > 0]  # fmt: skip
    rows += [f"{crop.path.name},stranger,C9,gallery" for crop in data.gallery.crops if crop.pid == 0]
    table = tmp_path / "labels.csv"
    table.write_text("path,identity,camera,split\n" + "\n".join(rows))
    assert evaluate_features(*read_labelled(both, table)).scores == expected
    embed_files(embedder, [*data.query.paths, *data.gallery.paths], tmp_path / "all.npz")
    assert evaluate_features(*read_labelled([tmp_path / "all.npz"], table)).scores == expected
    table.write_text("path,identity\nunlisted.jpg,1")
    with pytest.raises(DataError, match="no row for 3 images"):
        read_labelled(both, table)
    with pytest.raises(DataError, match=r"all\.npz .*second file"):
        read_labelled([tmp_path / "all.npz"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"query_vectors": None}, "has no array 'query_vectors' or 'query'; it has gallery_camids"),
        ({"query_pids": None}, "has no array 'query_pids' and no names"),
        ({"query_pids": np.ones(3, int)}, "query_pids is int64 (3,); it must be 12 "),
        ({"query_pids": np.full(12, 0.5)}, "query_pids is float64"),
        ({"query_pids": np.zeros(12, int)}, "pid 0 or less"),
        ({"gallery_vectors": np.ones((60, 9))}, "query embeddings have 8 components, gallery embeddings have 9"),
        ({"gallery_vectors": np.full((60, 8), np.nan)}, "gallery_vectors: 60 rows contain values that are not finite"),
        ({"gallery_vectors": np.ones(8)}, "(8,)"),
        ({"query_pids": np.array([""] * 12)}, "an identity is empty"),
        ({"query_pids": np.array(["0"] * 11 + ["anna"])}, "pid 0 or less"),
        ({"query": np.ones((12, 8))}, "has both 'query' and 'query_vectors'"),
        ({"gallery_vectors": np.full((60, 8), 1e300)}, "gallery_vectors: 60 rows contain values above 3.4e38"),
        ({"query_names": np.array("all")}, "query_names is <U3 (); it must be 12"),
    ],
)
def test_inconsistent_arrays_are_refused(change: dict, words: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", **{k: v for k, v in (random_arrays() | change).items() if v is not None})
    with pytest.raises(DataError) as caught:
        evaluate_features(*read_labelled([tmp_path / "v.npz"]))
    assert words in str(caught.value)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", query_vectors=np.array([{}], dtype=object))
    with pytest.raises(DataError, match=r"v\.npz is not an \.npz of plain arrays"):
        read_labelled([tmp_path / "v.npz"])


def test_evaluate_features_command(run: Run, tmp_path: Path) -> None:  # noqa: F811
    np.savez(tmp_path / "v.npz", **random_arrays())
    status, out, _ = run("evaluate-features", tmp_path / "v.npz", "--ap", "trapezoid", "--out", tmp_path / "o.json")
    assert (status, "trapezoid rule" in out) == (0, True)
    assert json.loads((tmp_path / "o.json").read_text())["scores"] == direct(random_arrays(), ap="trapezoid")
    status, _, err = run("evaluate-features", tmp_path / "v.npz", "--flip")
    assert (status, "--flip" in err) == (2, True)


def test_each_evaluation_names_the_right_command(
    run: Run,  # noqa: F811
    tiny_weights: Path,
    tmp_path: Path,
) -> None:
    file = tmp_path / "v.npz"
    np.savez(file, **random_arrays())
    classes = ("evaluate-classes", "--weights", tiny_weights, "--data", tmp_path)
    for words, hint in (
        (("evaluate", "--data", tmp_path), "--weights is missing"),
        (("evaluate", "--weights", tiny_weights), "--data is missing"),
        (("evaluate", "--features", file), f"osnet evaluate-features {file}"),
        (("evaluate", "--weights", tiny_weights, "--data", tmp_path, "--features", file), "osnet evaluate-features"),
        (classes, f"osnet evaluate --weights {tiny_weights} --data {tmp_path}"),
        (("evaluate-features",), "query, then gallery"),
    ):
        status, out, err = run(*words, "--out", tmp_path / "o.json")
        assert (status, out, hint in err) == (2, "", True), err
    assert not (tmp_path / "o.json").exists()


def test_evaluate_and_calibrate_commands(run: Run, tiny_weights: Path, market: Path, tmp_path: Path) -> None:  # noqa: F811
    words = ("evaluate", "--weights", tiny_weights, "--data", market)
    status, out, _ = run(*words, "--flip", "--distance", "euclidean", "--rule", "cuhk03", "--out", tmp_path / "o.json")
    assert (status, "CUHK03" in out) == (0, True)
    flipped = evaluate(Embedder(tiny_weights, flip=True), market, scoring=Scoring("cuhk03", "euclidean"))
    assert json.loads((tmp_path / "o.json").read_text())["scores"] == pytest.approx(flipped.scores)
    (tmp_path / "file.npz").touch()
    status, _, err = run(*words, "--features", tmp_path / "file.npz")
    assert (status, "osnet evaluate-features" in err) == (2, True)
    status, _, err = run("calibrate", "--weights", tiny_weights, "--data", market, "--fpr", 0.01)
    assert (status, "too few to estimate the rate" in err) == (2, True)
    threshold = tmp_path / "t.json"
    for pid in range(10, 50):
        write_picture(market / "query" / f"{pid:04d}_c1s1_000000_00.jpg", pid)
        write_picture(market / "bounding_box_test" / f"{pid:04d}_c2s1_000000_00.jpg", pid)
    status, out, _ = run("calibrate", "--weights", tiny_weights, "--data", market, "--fpr", 0.1, "--out", threshold)
    assert (status, "pairs of different people" in out) == (0, True)
    assert -1 <= json.loads(threshold.read_text())["threshold"] <= 1


# Flip, distance and splits in evaluate


def test_flip_averages_crops_and_mirrored_crops(tiny_weights: Path, tmp_path: Path) -> None:
    from PIL import Image, ImageOps

    path = write_picture(tmp_path / "a.png", 5, (128, 256))  # the network's input size, so that mirroring is exact
    ImageOps.mirror(Image.open(path)).save(tmp_path / "b.png")
    plain = Embedder(tiny_weights, normalize=False)
    raw = plain.embed([path, tmp_path / "b.png"])
    both = Embedder(tiny_weights, flip=True).embed([path, tmp_path / "b.png"])
    mean = raw.mean(0)
    np.testing.assert_allclose(both[0], mean / np.linalg.norm(mean), atol=1e-5)
    np.testing.assert_allclose(both[0], both[1], atol=1e-5)
    assert np.abs(raw[0] / np.linalg.norm(raw[0]) - both[0]).max() > 1e-3  # mirroring changes something
    assert Embedder(tiny_weights, flip=True).sha256() != plain.sha256() == Embedder(tiny_weights).sha256()


def test_evaluate_scores_both_distances(run: Run, tiny_weights: Path, market: Path, tmp_path: Path) -> None:  # noqa: F811
    """The card's distance comes first, else cosine. Vectors are computed once and saved raw and normalised."""
    known = tmp_path / "known"
    save_weights(load_weights(tiny_weights), known, replace(load_weights(tiny_weights).card, distance="euclidean"))
    alone = {d: evaluate(known, market, scoring=Scoring(distance=d)).scores for d in ("cosine", "euclidean")}
    assert alone["cosine"] != alone["euclidean"]
    for weights, first, second in ((tiny_weights, "cosine", "euclidean"), (known, "euclidean", "cosine")):
        words = ["evaluate", "--weights", weights, "--data", market, "--features", tmp_path / first, "--out"]
        status, out, err = run(*words, tmp_path / "o.json")
        assert (status, err) == (0, err)
        found = json.loads((tmp_path / "o.json").read_text())
        assert list(found["scores_by_distance"]) == [first, second]
        assert found["scores"] == found["scores_by_distance"][first]
        for distance, scores in found["scores_by_distance"].items():
            assert scores == pytest.approx(alone[distance], abs=1e-12)
        assert f"{first} distance" in found["protocol"]
        assert not found["warnings"]
        assert out.index(first) < out.index(second)
        saved = {name: read_vectors(tmp_path / first / f"query{name}.npz")[0].vectors for name in ("", "-raw")}
        np.testing.assert_allclose(saved[""], saved["-raw"] / np.linalg.norm(saved["-raw"], axis=1)[:, None], atol=1e-6)
    status, out, _ = run(*words, tmp_path / "o.json", "--distance", "cosine", "--no-both-distances")
    found = json.loads((tmp_path / "o.json").read_text())
    assert (status, found["scores_by_distance"]) == (0, {})
    assert found["scores"] == pytest.approx(alone["cosine"])
    assert any("euclidean" in warning and "cosine" in warning for warning in found["warnings"])  # the card's distance


def test_euclidean_distance_uses_raw_vectors(tiny_weights: Path, market: Path, tmp_path: Path) -> None:
    embedder, data = Embedder(tiny_weights), read_dataset(market)
    raw = Embedder(tiny_weights, normalize=False)
    labels = (data.query.pids, data.gallery.pids, data.query.camids, data.gallery.camids)
    vectors = raw.embed(data.query.paths), raw.embed(data.gallery.paths)
    expected = summarize(rank_scores(*vectors, *labels, distance="euclidean"))
    found = evaluate(embedder, data, scoring=Scoring(distance="euclidean"), features=tmp_path / "f")
    assert found.scores == pytest.approx(expected)
    assert embedder.normalize
    assert evaluate(embedder, data, features=tmp_path / "f").scores == evaluate(embedder, data).scores
    assert len(list((tmp_path / "f").iterdir())) == 4  # normalised and raw vectors are separate files


def test_scores_of_splits_are_averaged(
    tiny_weights: Path, market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from osnet.types import Split

    data = read_dataset(market)
    halves = [replace(data, query=Split("query", data.query.crops[k : k + 2])) for k in (0, 1)]
    embedder = Embedder(tiny_weights)
    single = [evaluate(embedder, half, scoring=Scoring("cuhk03")).scores for half in halves]
    embedded: list[int] = []
    stream = Embedder.stream
    monkeypatch.setattr(Embedder, "stream", lambda self, *a, **k: (embedded.append(1), stream(self, *a, **k))[1])
    found = evaluate(embedder, halves, scoring=Scoring("cuhk03"))
    assert len(embedded) == 1  # an image of both splits is embedded once
    for score, mean in found.scores.items():
        values = [scores[score] for scores in single]
        assert mean == pytest.approx(np.mean(values), abs=1e-6)
        assert found.deviations[score] == pytest.approx(np.std(values, ddof=1), abs=1e-6)
    assert "2 splits" in str(found)
    assert f"{100 * found.scores['mAP']:.2f} % +- " in str(found)
    assert evaluate(embedder, halves[:1]).deviations["mAP"] is None
    with pytest.raises(DataError, match="0 splits"):
        evaluate(embedder, [])
    json.dumps(found.to_json(), allow_nan=False)


def test_evaluate_averages_over_a_benchmarks_splits(run: Run, tiny_weights: Path, tmp_path: Path) -> None:  # noqa: F811
    """VIPeR has ten random halves in two directions."""
    root = make_viper(tmp_path)
    assert root.is_relative_to(tmp_path)
    status, out, err = run("evaluate", "--weights", tiny_weights, "--data", "viper", "--root", tmp_path, "--out",
                           tmp_path / "o.json")  # fmt: skip
    assert (status, err) == (0, err)
    assert "20 splits" in out
    found = json.loads((tmp_path / "o.json").read_text())
    values = [evaluation["scores"]["rank-1"] for evaluation in found["evaluations"]]
    assert len(values) == 20
    assert found["mean"]["rank-1"] == pytest.approx(np.mean(values))


def test_evaluate_on_several_benchmarks(run: Run, tiny_weights: Path, tmp_path: Path) -> None:  # noqa: F811
    """The JSON has one result per benchmark. All benchmarks are read before anything is embedded."""
    make_viper(tmp_path)
    make_market(tmp_path)
    evaluate_them = ["evaluate", "--weights", tiny_weights, "--root", tmp_path, "--out", tmp_path / "o.json", "--data"]
    status, out, err = run(*evaluate_them, "market1501", "--targets", "viper:3", "--features", tmp_path / "f")
    assert (status, err) == (0, err)
    found = json.loads((tmp_path / "o.json").read_text())
    assert list(found) == ["market1501", "viper:3"]
    assert found["market1501"]["dataset"] == "market1501"
    assert found["viper:3"]["num_queries"] == found["viper:3"]["counts"]["query"]["images"]
    assert (tmp_path / "f" / "viper-3" / "query.npz").exists()
    assert out.count("mAP") >= 2
    status, _, err = run(*evaluate_them, "market1501", "--targets", "msmt17")
    assert (status, "msmt17" in err.lower()) == (EXIT_ERROR, True)
    status, _, err = run(*evaluate_them, "nonesuch")
    assert (status, "choose from market1501" in err) == (EXIT_ERROR, True)
    status, _, err = run("evaluate", "--weights", tiny_weights, "--data", tmp_path, "--targets", "viper")
    assert (status, "needs --root" in err) == (EXIT_ERROR, True)


def test_results_of_several_embeddings_are_averaged(run: Run, tmp_path: Path) -> None:  # noqa: F811
    """Their weights are unknown, so results of different files count as of different weights."""
    draw = np.random.default_rng(0)
    labels = {"query_pids": [1, 2], "query_camids": [1, 1], "gallery_pids": [1, 2], "gallery_camids": [2, 2]}
    for seed in (0, 1):
        vectors = {"query_vectors": draw.normal(size=(2, 4)), "gallery_vectors": draw.normal(size=(2, 4))}
        np.savez(tmp_path / f"{seed}.npz", **vectors, **labels)
        status, _, err = run("evaluate-features", tmp_path / f"{seed}.npz", "--name", "set", "--out",
                             tmp_path / f"{seed}.json")  # fmt: skip
        assert status == 0, err
    status, _, err = run("average", tmp_path / "0.json", tmp_path / "1.json", "--out", tmp_path / "mean.json")
    assert status == 0, err
    each = [json.loads((tmp_path / f"{seed}.json").read_text())["scores"]["mAP"] for seed in (0, 1)]
    assert json.loads((tmp_path / "mean.json").read_text())["mean"]["mAP"] == pytest.approx(sum(each) / 2)
    (tmp_path / "copy.json").write_bytes((tmp_path / "0.json").read_bytes())
    status, _, err = run("average", tmp_path / "0.json", tmp_path / "copy.json")
    assert status == 2
    assert "copy.json" in err
