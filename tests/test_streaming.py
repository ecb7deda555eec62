"""Ranks from streamed products: exact, whatever the blocks; against one matrix and the slow loops."""

import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from osnet.metrics import rank_counting as streaming
from osnet.metrics.matching_rules import Labels, draw_single_shot
from osnet.metrics.ranking import rank_scores, rank_scores_from_distances
from test_ranking import slow_scores


def signs(rng: np.random.Generator, count: int, dimensions: int = 16) -> np.ndarray:
    """Vectors of +1 and -1 with 16 (or 64) components: lengths 4 (or 8), so every cosine is exact in float32."""
    return rng.choice([-1.0, 1.0], (count, dimensions)).astype(np.float32)


def draw_labels(rng: np.random.Generator, num_queries: int, num_gallery: int, people: int = 8) -> list[np.ndarray]:
    return [rng.integers(1, people, num_queries), rng.integers(-1, people, num_gallery),
            rng.integers(1, 4, num_queries), rng.integers(1, 4, num_gallery)]  # fmt: skip


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("ap", ["precision", "trapezoid"])
@pytest.mark.parametrize("seed", range(3))
def test_against_the_slow_loop_with_many_ties(distance: str, ap: str, seed: int) -> None:
    """16 signs give 17 cosines, so that nearly everything is tied, exactly."""
    rng = np.random.default_rng(seed)
    query, gallery, labels = signs(rng, 15), signs(rng, 200), draw_labels(rng, 15, 200)
    if distance == "euclidean":
        gallery *= rng.choice([1, 2], (200, 1))  # lengths differ, distances stay whole numbers
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
def test_blocks_threads_and_shares_change_nothing(distance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal vectors stand all over the gallery, and nearly equal ones, which float32 products cannot tell apart."""
    rng = np.random.default_rng(1)
    some = rng.normal(size=(30, 37)).astype(np.float32)
    gallery = np.concatenate([some, some * np.float32(1 + 2**-22), some, np.nextafter(some, 9), some])
    query, labels = rng.normal(size=(23, 37)).astype(np.float32), draw_labels(rng, 23, 150)
    exact = query.astype(float) @ gallery.astype(float).T
    if distance == "cosine":
        exact /= np.linalg.norm(gallery.astype(float), axis=1)
    else:
        exact -= (gallery.astype(float) ** 2).sum(1) / 2
    whole = rank_scores(query, gallery, *labels, distance=distance)
    # The equal ones are equal in any matrix, once it is rounded far below the float32 products' errors.
    reference = rank_scores_from_distances(-np.round(exact, 12), *labels)
    for field in ("ap_per_query", "inp_per_query", "first_rank_per_query"):
        np.testing.assert_allclose(getattr(whole, field), getattr(reference, field), atol=1e-12)
    for block, chunk, threads in ((40, 7, "1"), (1000, 64, "3"), (10**6, 149, "2")):
        monkeypatch.setattr(streaming, "BLOCK_FLOATS", block)
        monkeypatch.setattr(streaming, "CHUNK_ITEMS", chunk)
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        again = rank_scores(query, gallery, *labels, distance=distance)
        np.testing.assert_array_equal(again.ap_per_query, whole.ap_per_query)
    half = rank_scores(query[1::2], gallery, labels[0][1::2], labels[1], labels[2][1::2], labels[3], distance=distance)
    np.testing.assert_array_equal(half.ap_per_query, whole.ap_per_query[1::2])


def test_the_margin_holds() -> None:
    """Products of float32 are off by less than the margin: against fractions."""
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


def test_the_margin_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, near ties go wrong: the test above would see a streaming that trusts float32."""
    rng = np.random.default_rng(3)
    some = rng.normal(size=(200, 512)).astype(np.float32)
    gallery = np.concatenate([some, np.nextafter(some, 9)])
    query, labels = rng.normal(size=(20, 512)).astype(np.float32), draw_labels(rng, 20, 400)
    right = rank_scores(query, gallery, *labels)
    monkeypatch.setattr(streaming, "UNIT_ROUNDOFF", 0.0)
    wrong = rank_scores(query, gallery, *labels)
    assert (right.ap_per_query != wrong.ap_per_query).any()


def test_a_collapsed_network_ranks_in_gallery_order() -> None:
    """All vectors equal: everything is a tie, and a match's rank is its place in the gallery."""
    query, gallery = np.ones((2, 40), np.float32), np.ones((500, 40), np.float32)
    pids = np.full(500, 9)
    pids[[99, 399]] = 1
    scores = rank_scores(query, gallery, [1, 2], pids, [1, 1], np.full(500, 2))
    assert scores.ap_per_query[0] == pytest.approx((1 / 100 + 2 / 400) / 2)
    assert scores.unmatched == (1,)


def test_many_matches_are_counted_the_other_way() -> None:
    rng = np.random.default_rng(4)
    query, (query_pids, pids, query_camids, camids) = signs(rng, 10), draw_labels(rng, 10, 400, people=4)
    gallery, pids, camids = (np.repeat(x, 20, 0) for x in (signs(rng, 400), pids, camids))
    matches, _ = Labels.check(query_pids, pids, query_camids, camids, 10, 8000).same_person()
    assert np.diff(matches.starts).min() > streaming.MANY
    many = rank_scores(query, gallery, query_pids, pids, query_camids, camids)
    matrix = rank_scores_from_distances(1 - query @ gallery.T / 16, query_pids, pids, query_camids, camids)
    np.testing.assert_allclose(many.ap_per_query, matrix.ap_per_query, atol=1e-12)
    np.testing.assert_allclose(many.inp_per_query, matrix.inp_per_query, atol=1e-12)


def test_strange_lengths() -> None:
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
    """Matches at ranks 1 and 3 of 3: precisions 1, 2/3; before them 1 (by definition) and 1/2."""
    given = ([[0.1, 0.2, 0.3]], [1], [1, 2, 1], [1], [2, 2, 2])
    assert rank_scores_from_distances(*given, ap="trapezoid").mean_ap == pytest.approx((1 + (2 / 3 + 1 / 2) / 2) / 2)
    assert rank_scores_from_distances(*given).mean_ap == pytest.approx((1 + 2 / 3) / 2)


# CUHK03


def slow_cuhk03(distances, labels, seed, max_rank):
    """The definition: of each person one image stays; ties in gallery order. The draws are ours."""
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
            there = [g for g in drawn.tolist() if gallery_pids[g] != query_pids[q]] + [int(own[q])]
            order = sorted(there, key=lambda g: (distances[q][g], g))
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


def test_cuhk03_draws_one_image_of_each_person_evenly() -> None:
    labels = Labels.check([1], [1, 1, 2, 2, 2, 0, 0, -1], [1], [1, 2, 1, 2, 3, 1, 1, 1], 1, 8)
    matches, _ = labels.same_person()
    times = np.zeros(8)
    for repeat in range(600):
        gallery, own = draw_single_shot(labels, matches, 0, repeat)
        times[gallery] += 1
        assert own.tolist() == [1]  # its other image is in its own camera
    assert times[[0, 1]].sum() == times[2:5].sum() == 600
    assert (np.abs(times[2:5] - 200) < 60).all()
    assert times[5:].tolist() == [600, 600, 0]  # distractors stay, junk goes


# Several processes

SHARED = """
import json, sys
import numpy as np
from osnet.evaluation.evaluate import rank_shared
from osnet.evaluation.scoring import Scoring
from osnet.features.labels import LabelledVectors
from osnet.runtime.distributed import join_processes, leave_processes
rng = np.random.default_rng(0)
parts = [LabelledVectors(rng.normal(size=(n, 64)).astype(np.float32), rng.integers(1, 9, n), rng.integers(1, 4, n), ())
         for n in (51, 400)]
scores = [rank_shared(*parts, Scoring(rule=rule)) for rule in ("market1501", "cuhk03")]
if join_processes()[0] == 0:
    told = [[s.mean_ap, s.mean_inp, s.cmc.tolist(), s.ap_per_query.tolist()] for s in scores]
    open(sys.argv[1], "w").write(json.dumps(told))
leave_processes()
"""


@pytest.mark.slow
def test_two_processes_give_equal_scores(tmp_path: Path) -> None:
    script = tmp_path / "shared.py"
    script.write_text(SHARED)
    found = []
    for processes in (1, 2):
        out = tmp_path / f"{processes}.json"
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        done = subprocess.run([*launch, str(script), str(out)], capture_output=True, text=True, env={**os.environ})
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(json.loads(out.read_text()))
    assert found[0] == found[1]  # to the last bit


@pytest.mark.slow
def test_two_processes_share_a_whole_evaluation(tiny_weights: Path, market: Path, tmp_path: Path) -> None:
    """The command line under torchrun: images and queries are shared, and one process speaks."""
    found, printed = [], []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as torchrun sets it
    for processes in (1, 2):
        out = tmp_path / f"{processes}.json"
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        words = ["-m", "osnet.cli", "evaluate", "--weights", tiny_weights, "--data", market, "--batch-size", "2",
                 "--features", tmp_path / f"features-{processes}", "--out", out]  # fmt: skip
        start = launch if processes > 1 else [sys.executable]
        done = subprocess.run([*start, *map(str, words)], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(json.loads(out.read_text()))
        printed.append(done.stdout)
    assert found[0] == found[1]
    assert printed[0] == printed[1]
    one, two = (np.load(tmp_path / f"features-{n}" / "gallery.npz") for n in (1, 2))
    assert one["names"].tolist() == two["names"].tolist()
    np.testing.assert_array_equal(one["vectors"], two["vectors"])
    next((market / "bounding_box_test").glob("*.jpg")).write_bytes(b"broken")
    words[-3] = tmp_path / "new"
    done = subprocess.run([*launch, *map(str, words)], capture_output=True, text=True, env=environment)
    assert done.returncode != 0  # both stop; neither waits for the other
    assert "not an image" in done.stderr
