"""Ranks from score blocks: exact for any block size, against a complete matrix and slow loops."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from torch.multiprocessing.spawn import ProcessException

from osnet.cli import main
from osnet.evaluation.evaluate import rank_shared
from osnet.evaluation.scoring import Scoring
from osnet.features.labels import LabelledVectors
from osnet.metrics import rank_counting as streaming
from osnet.metrics.matching_rules import Labels, draw_single_shot
from osnet.metrics.ranking import rank_scores, rank_scores_from_distances
from osnet.runtime.distributed import join_processes, leave_processes
from small_runs import command_as, join_as_rank, spawn
from test_ranking import slow_scores


def signs(rng: np.random.Generator, count: int, dimensions: int = 16) -> np.ndarray:
    """Vectors of +1 and -1. With 16 components their length is 4, so every cosine is exact in float32."""
    return rng.choice([-1.0, 1.0], (count, dimensions)).astype(np.float32)


def draw_labels(rng: np.random.Generator, num_queries: int, num_gallery: int, people: int = 8) -> list[np.ndarray]:
    return [rng.integers(1, people, num_queries), rng.integers(-1, people, num_gallery),
            rng.integers(1, 4, num_queries), rng.integers(1, 4, num_gallery)]  # fmt: skip


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("ap", ["precision", "trapezoid"])
@pytest.mark.parametrize("seed", range(3))
def test_scores_against_the_slow_loop_with_many_ties(distance: str, ap: str, seed: int) -> None:
    """16 signs give only 17 different cosines, so nearly all scores tie exactly."""
    rng = np.random.default_rng(seed)
    query, gallery, labels = signs(rng, 15), signs(rng, 200), draw_labels(rng, 15, 200)
    if distance == "euclidean":
        gallery *= rng.choice([1, 2], (200, 1))  # lengths differ, distances stay integers
        distances = ((query[:, None] - gallery[None]) ** 2).sum(2)
    else:
        distances = 1 - query @ gallery.T / 16
    expected = slow_scores(distances.tolist(), *(x.tolist() for x in labels), 20, ap)
    scores = rank_scores(query, gallery, *labels, max_rank=20, distance=distance, ap=ap)
    given = rank_scores_from_distances(distances, *labels, max_rank=20, ap=ap)
    for found in (scores, given):
        np.testing.assert_allclose(found.cmc, expected[0], atol=1e-12)
        assert found.mean_ap == pytest.approx(expected[1], abs=1e-12)
        assert found.mean_inp == pytest.approx(expected[2], abs=1e-12)
        assert found.unmatched == expected[3]


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_scores_do_not_depend_on_blocks_threads_and_query_subsets(
    distance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gallery has equal vectors, and nearly equal ones that float32 products cannot distinguish."""
    rng = np.random.default_rng(1)
    some = rng.normal(size=(30, 37)).astype(np.float32)
    gallery = np.concatenate([some, some * np.float32(1 + 2**-22), some, np.nextafter(some, 9), some])
    query, labels = rng.normal(size=(23, 37)).astype(np.float32), draw_labels(rng, 23, 150)
    exact = query.astype(float) @ gallery.astype(float).T
    if distance == "cosine":
        exact /= np.linalg.norm(gallery.astype(float), axis=1)
    else:
        exact -= (gallery.astype(float) ** 2).sum(1) / 2
    complete = rank_scores(query, gallery, *labels, distance=distance)
    # Rounding to 12 digits makes equal vectors' scores equal; it is far below the errors of float32 products.
    reference = rank_scores_from_distances(-np.round(exact, 12), *labels)
    for field in ("ap_per_query", "inp_per_query", "first_rank_per_query"):
        np.testing.assert_allclose(getattr(complete, field), getattr(reference, field), atol=1e-12)
    for block, chunk, threads in ((40, 7, "1"), (1000, 64, "3"), (10**6, 149, "2")):
        monkeypatch.setattr(streaming, "BLOCK_FLOATS", block)
        monkeypatch.setattr(streaming, "CHUNK_ITEMS", chunk)
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        again = rank_scores(query, gallery, *labels, distance=distance)
        np.testing.assert_array_equal(again.ap_per_query, complete.ap_per_query)
    half = rank_scores(query[1::2], gallery, labels[0][1::2], labels[1], labels[2][1::2], labels[3], distance=distance)
    np.testing.assert_array_equal(half.ap_per_query, complete.ap_per_query[1::2])


def test_float32_errors_are_below_the_margin() -> None:
    """Float32 products against exact fractions."""
    rng = np.random.default_rng(2)
    for distance in ("cosine", "euclidean"):
        query, gallery = (np.abs(rng.normal(size=(n, 512)) ** 3).astype(np.float32) for n in (8, 300))
        vectors = streaming.Vectors(query, gallery, distance)
        (block,) = vectors.blocks(np.arange(300))
        margin = vectors.margin(block.reach)
        for q in range(8):
            for g in range(0, 300, 17):
                a, b = ([Fraction(float(x)) for x in v] for v in (query[q], gallery[g]))
                dot = sum(x * y for x, y in zip(a, b, strict=True))
                if distance == "cosine":
                    exact = float(dot) / np.sqrt(float(sum(x * x for x in a)) * float(sum(y * y for y in b)))
                else:
                    exact = float(dot - sum(y * y for y in b) / 2)
                assert abs(float(block.closeness_RC[q, g]) - exact) < margin[q]


def test_near_ties_go_wrong_without_the_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the tests above would notice an implementation that trusts float32."""
    rng = np.random.default_rng(3)
    some = rng.normal(size=(200, 512)).astype(np.float32)
    gallery = np.concatenate([some, np.nextafter(some, 9)])
    query, labels = rng.normal(size=(20, 512)).astype(np.float32), draw_labels(rng, 20, 400)
    right = rank_scores(query, gallery, *labels)
    monkeypatch.setattr(streaming, "UNIT_ROUNDOFF", 0.0)
    wrong = rank_scores(query, gallery, *labels)
    assert (right.ap_per_query != wrong.ap_per_query).any()


def test_a_collapsed_network_ranks_in_gallery_order() -> None:
    """All vectors are equal: everything ties, and a match's rank is its gallery position."""
    query, gallery = np.ones((2, 40), np.float32), np.ones((500, 40), np.float32)
    pids = np.full(500, 9)
    pids[[99, 399]] = 1
    scores = rank_scores(query, gallery, [1, 2], pids, [1, 1], np.full(500, 2))
    assert scores.ap_per_query[0] == pytest.approx((1 / 100 + 2 / 400) / 2)
    assert scores.unmatched == (1,)


def test_the_algorithm_for_many_matches_agrees() -> None:
    rng = np.random.default_rng(4)
    query, (query_pids, pids, query_camids, camids) = signs(rng, 10), draw_labels(rng, 10, 400, people=4)
    gallery, pids, camids = (np.repeat(x, 20, 0) for x in (signs(rng, 400), pids, camids))
    matches, _ = Labels.check(query_pids, pids, query_camids, camids, 10, 8000).same_person()
    assert np.diff(matches.starts).min() > streaming.MANY
    many = rank_scores(query, gallery, query_pids, pids, query_camids, camids)
    matrix = rank_scores_from_distances(1 - query @ gallery.T / 16, query_pids, pids, query_camids, camids)
    np.testing.assert_allclose(many.ap_per_query, matrix.ap_per_query, atol=1e-12)
    np.testing.assert_allclose(many.inp_per_query, matrix.inp_per_query, atol=1e-12)


def test_zero_tiny_and_huge_vectors() -> None:
    gallery = np.zeros((4, 8), np.float32)
    gallery[1], gallery[2], gallery[3] = 1e-30, 1e12, -1
    labels = [[1], [1, 2, 1, 3], [1], [2, 2, 2, 2]]
    scores = rank_scores(np.ones((1, 8)), gallery, *labels)  # cosines 0, 1, 1, -1
    assert scores.ap_per_query[0] == pytest.approx((1 / 2 + 2 / 3) / 2)
    with pytest.raises(ValueError, match="lengths up to"):
        rank_scores(np.ones((1, 8)), gallery * 1e6, *labels)
    with pytest.raises(ValueError, match="unknown distance 'manhattan'; choose from cosine, euclidean"):
        rank_scores(np.ones((1, 8)), gallery, *labels, distance="manhattan")
    with pytest.raises(ValueError, match="unknown ap"):
        rank_scores(np.ones((1, 8)), gallery, *labels, ap="11-point")
    with pytest.raises(ValueError, match="unknown rule"):
        rank_scores(np.ones((1, 8)), gallery, *labels, rule="duke")


# Average precision by hand


def test_trapezoid_by_hand() -> None:
    """Matches at ranks 1 and 3 of 3: precisions 1 and 2/3; just before them 1 (by definition) and 1/2."""
    given = ([[0.1, 0.2, 0.3]], [1], [1, 2, 1], [1], [2, 2, 2])
    assert rank_scores_from_distances(*given, ap="trapezoid").mean_ap == pytest.approx((1 + (2 / 3 + 1 / 2) / 2) / 2)
    assert rank_scores_from_distances(*given).mean_ap == pytest.approx((1 + 2 / 3) / 2)


# CUHK03


def slow_cuhk03(distances, labels, seed, max_rank):
    """The definition, with our random draws: one image per person is kept; ties are in gallery order."""
    query_pids, gallery_pids, query_camids, gallery_camids = (x.tolist() for x in labels)
    checked = Labels.check(*labels, len(query_pids), len(gallery_pids))
    matches, _ = checked.same_person()
    cmc, scored = np.zeros(max_rank), set()
    for repeat in range(10):
        drawn, own = draw_single_shot(checked, matches, seed, repeat)
        for q in range(len(query_pids)):
            if own[q] < 0:
                continue
            scored.add(q)
            assert gallery_pids[own[q]] == query_pids[q]
            assert gallery_camids[own[q]] != query_camids[q]
            kept = [g for g in drawn.tolist() if gallery_pids[g] != query_pids[q]] + [int(own[q])]
            order = sorted(kept, key=lambda g: (distances[q][g], g))
            rank = order.index(int(own[q])) + 1
            if rank <= max_rank:
                cmc[rank - 1 :] += 1
    return cmc / (10 * len(scored))


def test_cuhk03_against_the_slow_loop_with_ties() -> None:
    rng = np.random.default_rng(5)
    query, gallery, labels = signs(rng, 15), signs(rng, 120), draw_labels(rng, 15, 120)
    distances = 1 - query @ gallery.T / 16
    expected = slow_cuhk03(distances.tolist(), labels, 7, 8)
    for scores in (rank_scores(query, gallery, *labels, max_rank=8, rule="cuhk03", seed=7),
                   rank_scores_from_distances(distances, *labels, max_rank=8, rule="cuhk03", seed=7)):  # fmt: skip
        np.testing.assert_allclose(scores.cmc, expected, atol=1e-12)
        assert scores.mean_ap == pytest.approx(rank_scores(query, gallery, *labels).mean_ap)
    assert (rank_scores(query, gallery, *labels, max_rank=8, rule="cuhk03", seed=8).cmc != expected).any()


def test_cuhk03_draws_one_image_per_person_uniformly() -> None:
    labels = Labels.check([1], [1, 1, 2, 2, 2, 0, 0, -1], [1], [1, 2, 1, 2, 3, 1, 1, 1], 1, 8)
    matches, _ = labels.same_person()
    times = np.zeros(8)
    for repeat in range(600):
        gallery, own = draw_single_shot(labels, matches, 0, repeat)
        times[gallery] += 1
        assert own.tolist() == [1]  # the other image of the person is from the query's camera
    assert times[[0, 1]].sum() == times[2:5].sum() == 600
    assert (np.abs(times[2:5] - 200) < 60).all()
    assert times[5:].tolist() == [600, 600, 0]  # distractors are kept, junk is removed


# Several processes


def rank_as(rank: int, folder: str) -> None:
    """One of two processes."""
    join_as_rank(rank, folder)
    rank_random(Path(folder) / "2.json")


def rank_random(out: Path) -> None:
    rng = np.random.default_rng(0)
    parts = [
        LabelledVectors(rng.normal(size=(n, 64)).astype(np.float32), rng.integers(1, 9, n), rng.integers(1, 4, n), ())
        for n in (51, 400)
    ]
    scores = [rank_shared(*parts, Scoring(rule=rule)) for rule in ("market1501", "cuhk03")]
    if join_processes()[0] == 0:
        values = [[s.mean_ap, s.mean_inp, s.cmc.tolist(), s.ap_per_query.tolist()] for s in scores]
        out.write_text(json.dumps(values))
    leave_processes()


@pytest.mark.slow
def test_two_processes_give_equal_scores(tmp_path: Path) -> None:
    rank_random(tmp_path / "1.json")
    spawn(rank_as, tmp_path)
    one, two = (json.loads((tmp_path / f"{processes}.json").read_text()) for processes in (1, 2))
    assert one == two  # bit for bit


@pytest.mark.slow
def test_two_processes_share_an_evaluation(
    tiny_weights: Path, market: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """``osnet evaluate`` in two processes: they split images and queries, and one process prints."""
    found, printed = [], []
    for processes in (1, 2):
        out = tmp_path / f"{processes}.json"
        words = ["evaluate", "--weights", tiny_weights, "--data", market, "--batch-size", "2",
                 "--features", tmp_path / f"features-{processes}", "--out", out]  # fmt: skip
        if processes == 1:
            main([str(word) for word in words])
            printed.append(capfd.readouterr().out)
        else:
            spawn(command_as, tmp_path, *words)
            printed.append("".join((tmp_path / f"out-{rank}").read_text() for rank in range(2)))
        found.append(json.loads(out.read_text()))
    assert found[0] == found[1]
    assert printed[0] == printed[1]
    one, two = (np.load(tmp_path / f"features-{n}" / "gallery.npz") for n in (1, 2))
    assert one["names"].tolist() == two["names"].tolist()
    np.testing.assert_array_equal(one["vectors"], two["vectors"])
    next((market / "bounding_box_test").glob("*.jpg")).write_bytes(b"broken")
    words[-3] = tmp_path / "new"
    with pytest.raises(ProcessException):  # both stop, neither waits for the other
        spawn(command_as, tmp_path, *words)
    assert "not an image" in "".join((tmp_path / f"errors-{rank}").read_text() for rank in range(2))
