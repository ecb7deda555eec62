"""Evaluating weights on a data set, and embedding files that resume after an interruption."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import write_picture
from osnet import Embedder, OSNet, OSNetConfig, Scoring, evaluate
from osnet.data.folder import read_dataset
from osnet.embedding.embedder import Embeddings
from osnet.errors import DataError, EmbeddingError, ImageError, OutputError
from osnet.evaluation import split_embeddings
from osnet.evaluation.results import Evaluation
from osnet.evaluation.split_embeddings import embed_dataset
from osnet.features.embedding_files import embed_files, find_changed, read_vectors, save_vectors
from osnet.metrics.ranking import rank_scores
from osnet.progress import no_progress


@pytest.fixture(scope="module")
def embedder(tiny_weights: Path) -> Embedder:
    return Embedder(tiny_weights, batch_size=4)


def test_evaluate_matches_rank_scores(embedder: Embedder, market: Path) -> None:
    result = evaluate(embedder, market)
    data = read_dataset(market)
    direct = rank_scores(
        embedder.embed(data.query.paths),
        embedder.embed(data.gallery.paths),
        data.query.pids,
        data.gallery.pids,
        data.query.camids,
        data.gallery.camids,
    )
    assert result.scores["mAP"] == pytest.approx(direct.mean_ap)
    assert result.scores["rank-1"] == pytest.approx(direct.rank(1))
    assert result.scores["rank-20"] == 1.0  # the gallery has only 7 items
    assert (result.num_queries, result.num_scored) == (3, 3)
    printed = str(result)
    assert f"{100 * direct.mean_ap:.2f} %" in printed
    assert "images: 3, identities: 3, cameras: 1" in printed
    assert json.loads(json.dumps(result.to_json()))["weights"]["network_sha256"] == embedder.sha256()


def test_decisions_are_reported_with_the_ranks(embedder: Embedder, market: Path, tmp_path: Path) -> None:
    plain, decided = (
        evaluate(embedder, market, scoring=Scoring(decisions=decisions), features=tmp_path)
        for decisions in (False, True)
    )
    assert plain.splits[0].decisions == ()
    assert plain.scores == decided.scores
    roc, search = decided.splits[0].decisions
    query, gallery = embed_dataset(embedder, read_dataset(market), "raise", tmp_path, no_progress)
    scores_QG = query.vectors @ gallery.vectors.T
    pids = np.array([[q == g for g in gallery.split.pids] for q in query.split.pids])
    junk = np.array(gallery.split.pids) == -1
    cameras = np.array([[q == g for g in gallery.split.camids] for q in query.split.camids])
    same, different = scores_QG[pids & ~cameras & ~junk], scores_QG[~pids & ~junk[None]]
    assert (roc.num_positives, roc.num_negatives) == (len(same), len(different))
    point = roc.at(0.1)
    assert np.sort(different)[-1 - len(different) // 10] == pytest.approx(point.threshold, abs=1e-6)
    assert point.miss_rate == pytest.approx(np.mean(same < point.threshold))
    assert f"TPR {100 * (1 - point.miss_rate):6.2f} %" in str(decided)
    assert search.num_negatives == len(query.split)
    assert "FNIR" in str(decided)
    assert decided.to_json()["decisions"][0]["points"][-1]["asked"] == 0.1


def test_real_weights_on_real_crops(msmt17_pth: Path, people_mini: Path) -> None:
    """A smoke test: the data set is easy (two halves of short clips), and its README states 1.0000."""
    result = evaluate(msmt17_pth, people_mini)
    assert result.scores["mAP"] == pytest.approx(1.0, abs=1e-6)
    assert result.scores["rank-1"] == 1.0
    assert result.num_scored == 37


def test_queries_without_a_match_are_named(embedder: Embedder, market: Path) -> None:
    unmatched = write_picture(market / "query" / "0009_c1s1_000000_00.jpg", 900)
    result = evaluate(embedder, market)
    assert result.unmatched == (str(unmatched),)
    assert "1 without a match in another camera" in str(result)
    assert unmatched.name in str(result)


def test_no_query_with_a_match_is_an_error(embedder: Embedder, tmp_path: Path) -> None:
    write_picture(tmp_path / "query" / "a" / "1" / "x.png", 1)
    write_picture(tmp_path / "gallery" / "b" / "1" / "y.png", 2)
    with pytest.raises(DataError, match="none of the 1 queries has a match"):
        evaluate(embedder, tmp_path)


def test_unreadable_images_raise_or_are_left_out(embedder: Embedder, market: Path) -> None:
    broken = market / "bounding_box_test" / "0001_c2s1_000001_00.jpg"
    broken.write_bytes(b"broken")
    with pytest.raises(ImageError, match=broken.name):
        evaluate(embedder, market)
    result = evaluate(embedder, market, on_error="skip")
    assert len(result.unreadable) == 1
    assert broken.name in result.unreadable[0]
    assert result.num_scored == 2  # person 1 has lost its only match
    assert f"1 left out: {broken}" in str(result)


def test_weights_trained_on_the_test_images_are_refused(embedder: Embedder, market: Path, tmp_path: Path) -> None:
    card = embedder.card
    assert card is not None
    target = tmp_path / "MSMT17_V1"
    shutil.copytree(market, target)
    embedder.card = replace(card, training_data="msmt17_combineall")
    named = replace(read_dataset(market), name="msmt17")
    try:
        with pytest.raises(DataError, match="trained on the test images of msmt17"):
            evaluate(embedder, named)
        forced = evaluate(embedder, named, force=True)
        assert "trained on the test images of msmt17" in str(forced)
        assert isinstance(evaluate(embedder, market), Evaluation)  # another benchmark
        assert evaluate(embedder, target).warnings == ()  # a folder's name does not identify its data set
        embedder.card = replace(card, training_data="msmt17")
        assert evaluate(embedder, named).warnings == ()
    finally:
        embedder.card = card


def test_missing_and_junk_queries_are_refused(embedder: Embedder, market: Path) -> None:
    write_picture(market / "query" / "0000_c1s1_000000_00.jpg", 1)
    with pytest.raises(DataError, match=r"1 queries are labelled junk or distractor .0000_c1"):
        evaluate(embedder, market)
    shutil.rmtree(market / "query")
    (market / "query").mkdir()
    with pytest.raises(DataError, match="no query images"):
        evaluate(embedder, market)


# Vectors on disk


def write_pictures(folder: Path, count: int = 10) -> list[Path]:
    return [write_picture(folder / f"{n}.png", n) for n in range(count)]


def test_an_interrupted_run_resumes(embedder: Embedder, tmp_path: Path) -> None:
    paths, out = write_pictures(tmp_path / "p", 24), tmp_path / "v.npz"
    expected = embedder.embed(paths)

    def interrupt(iterable, _total, _label):
        for n, path in enumerate(iterable):
            if n == 17:
                raise KeyboardInterrupt
            yield path

    with pytest.raises(KeyboardInterrupt):
        embed_files(embedder, paths, out, progress=interrupt)
    assert not out.exists()
    # A crash may leave an incomplete row and an incomplete line.
    with (tmp_path / "v.npz.partial" / "vectors.f32").open("ab") as file:
        file.write(b"12345")
    with (tmp_path / "v.npz.partial" / "names.jsonl").open("ab") as file:
        file.write(b'"half a na')
    seen: list[Path] = []

    def watch(iterable, total, _label):
        assert total < len(paths)
        for path in iterable:
            seen.append(path)
            yield path

    result = embed_files(embedder, paths, out, progress=watch)
    assert len(paths) - len(seen) in (8, 12, 16)  # whole batches of 4 of the 17 images that were read
    assert seen == paths[-len(seen) :]
    assert result.names == [str(path) for path in paths]
    np.testing.assert_allclose(result.vectors, expected, atol=1e-6)
    assert not (tmp_path / "v.npz.partial").exists()
    back, weights_sha256 = read_vectors(out)
    np.testing.assert_array_equal(back.vectors, result.vectors)
    assert (back.names, weights_sha256) == (result.names, embedder.sha256())


def test_partial_results_of_other_weights_are_not_resumed(embedder: Embedder, tmp_path: Path) -> None:
    paths, out = write_pictures(tmp_path / "p", 6), tmp_path / "v.npz"
    torch.manual_seed(9)
    other = Embedder(OSNet(OSNetConfig(width=0.25)), batch_size=4, backend="torch")
    content = paths[5].read_bytes()
    paths[5].write_bytes(b"broken")
    with pytest.raises(ImageError):
        embed_files(other, paths, out)
    assert (tmp_path / "v.npz.partial" / "vectors.f32").stat().st_size >= 4 * 512 * 4
    paths[5].write_bytes(content)
    expected = embedder.embed(paths)
    assert np.abs(other.embed(paths) - expected).max() > 0.01
    np.testing.assert_allclose(embed_files(embedder, paths, out).vectors, expected, atol=1e-6)


def test_a_bad_image_keeps_the_embeddings_before_it(embedder: Embedder, tmp_path: Path) -> None:
    paths, out = write_pictures(tmp_path / "p"), tmp_path / "v.npz"
    paths[6].write_bytes(b"broken")
    with pytest.raises(ImageError, match=r"6\.png"):
        embed_files(embedder, paths, out)
    assert (tmp_path / "v.npz.partial" / "vectors.f32").stat().st_size == 6 * 512 * 4
    result = embed_files(embedder, paths, out, on_error="skip")
    assert len(result) == 9
    assert [failure.name for failure in read_vectors(out)[0].failures] == [str(paths[6])]


def test_a_folder_is_no_image(embedder: Embedder, tmp_path: Path) -> None:
    paths, out = [tmp_path / "p", *write_pictures(tmp_path / "p", 2)], tmp_path / "v.npz"
    with pytest.raises(ImageError, match="folder"):
        embed_files(embedder, paths, out)
    assert not (tmp_path / "v.npz.partial").exists()
    result = embed_files(embedder, paths, out, on_error="skip")
    assert result.names == [str(path) for path in paths[1:]]
    assert [failure.name for failure in result.failures] == [str(paths[0])]


def test_saved_features_are_reused(embedder: Embedder, market: Path, tmp_path: Path, monkeypatch) -> None:
    first = evaluate(embedder, market, features=tmp_path / "f")
    assert sorted(path.name for path in (tmp_path / "f").iterdir()) == ["gallery.npz", "query.npz"]
    monkeypatch.setattr(Embedder, "stream", None)  # a second embedding would fail
    assert evaluate(embedder, market, features=tmp_path / "f").scores == first.scores
    write_picture(market / "query" / "0001_c1s1_000055_00.jpg", 3)
    with pytest.raises(DataError, match=r"query\.npz .* other images"):
        evaluate(embedder, market, features=tmp_path / "f")


class Touches:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_vectors_are_written_without_pickles(tmp_path: Path) -> None:
    embeddings = Embeddings(np.ones((1, 4), np.float32), ["ä b.jpg"], [ImageError("x", "why")])
    save_vectors(tmp_path / "v.npz", embeddings, "sha")
    back, sha = read_vectors(tmp_path / "v.npz")
    assert (back.names, sha, back.failures[0].reason) == (["ä b.jpg"], "sha", "why")
    with pytest.raises(OutputError, match=r"\.npz"):
        save_vectors(tmp_path / "v.txt", embeddings, "sha")
    (tmp_path / "bad.npz").write_bytes(b"not a zip")
    with pytest.raises(DataError, match=r"bad\.npz is not an \.npz of plain arrays"):
        read_vectors(tmp_path / "bad.npz")
    arrays = {"vectors": np.array([Touches(tmp_path / "touched")]), "names": np.array(["a"])}
    np.savez(tmp_path / "pickled.npz", **arrays, failures=np.zeros((0, 2), np.str_), weights_sha256="s")
    with pytest.raises(DataError, match=r"pickled\.npz"):
        read_vectors(tmp_path / "pickled.npz")
    assert not (tmp_path / "touched").exists()


def test_embedding_error_is_an_image_error(embedder: Embedder, tmp_path: Path) -> None:
    with pytest.raises(EmbeddingError) as caught:
        embedder.embed(tmp_path / "gone.jpg")
    assert isinstance(caught.value, ImageError)
    assert len(caught.value.done) == 0


def test_images_that_changed_before_resuming_are_embedded_again(embedder: Embedder, tmp_path: Path) -> None:
    paths, out = write_pictures(tmp_path / "p", 12), tmp_path / "v.npz"
    paths[9].write_bytes(b"broken")
    with pytest.raises(ImageError):
        embed_files(embedder, paths, out)  # eight rows are saved
    write_picture(paths[3], 77, (70, 140))
    write_picture(paths[9], 9)
    result = embed_files(embedder, paths, out)
    np.testing.assert_allclose(result.vectors, embedder.embed(paths), atol=1e-6)
    assert find_changed(out) == []
    write_picture(paths[5], 78, (70, 140))
    paths[6].unlink()
    assert find_changed(out) == [str(paths[5]), str(paths[6])]


def test_saved_features_of_changed_images_are_refused(embedder: Embedder, market: Path, tmp_path: Path) -> None:
    evaluate(embedder, market, features=tmp_path / "f")
    evaluate(embedder, market, features=tmp_path / "f")
    changed = sorted((market / "query").glob("*.jpg"))[0]
    write_picture(changed, 99, (70, 140))
    with pytest.raises(DataError, match=f"1 images have changed since .*{changed.name}"):
        evaluate(embedder, market, features=tmp_path / "f")


def test_two_runs_cannot_write_one_output(embedder: Embedder, tmp_path: Path) -> None:
    paths, out = write_pictures(tmp_path / "p", 9), tmp_path / "v.npz"

    def second(iterable, _total, _label):
        with pytest.raises(OutputError, match="another run is writing"):
            embed_files(embedder, paths, out)
        return iterable

    embed_files(embedder, paths, out, progress=second)
    assert not (tmp_path / "v.npz.partial").exists()


def test_a_user_folder_named_like_partial_results_is_not_touched(embedder: Embedder, tmp_path: Path) -> None:
    paths, out = write_pictures(tmp_path / "p", 2), tmp_path / "v.npz"
    (tmp_path / "v.npz.partial").mkdir()
    (tmp_path / "v.npz.partial" / "thesis.txt").write_text("precious")
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        embed_files(embedder, paths, out)
    assert (tmp_path / "v.npz.partial" / "thesis.txt").read_text() == "precious"
    (tmp_path / "w.npz.partial").write_text("a file")
    with pytest.raises(OutputError, match="cannot make the folder"):
        embed_files(embedder, paths, tmp_path / "w.npz")


def test_only_many_images_are_worth_measuring_backends(
    tiny_weights: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = read_dataset(market)
    chosen: list[str] = []

    class Spy:
        def __init__(self, _weights: Path, *, backend: str) -> None:
            chosen.append(backend)

    monkeypatch.setattr(split_embeddings, "Embedder", Spy)
    for many in (len(data.query) + len(data.gallery) + 1, len(data.query) + len(data.gallery)):
        monkeypatch.setattr("osnet.runtime.backends.MANY", many)
        split_embeddings.make_embedder(tiny_weights, [data])
    assert chosen == ["auto", "fastest"]
