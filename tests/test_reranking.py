"""Re-ranking against a case by hand, a slow loop and torchreid; nearest neighbours; blocks of distances."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from conftest import FIXTURES
from osnet.errors import DataError
from osnet.metrics import distance_blocks as blocks
from osnet.metrics import k_reciprocal as rerank
from osnet.metrics import nearest_neighbors as nearest
from osnet.metrics.distance_blocks import (
    DistanceBlock,
    best_of_block,
    best_of_blocks,
    euclidean_blocks,
    rank_scores_from_blocks,
)
from osnet.metrics.k_reciprocal import encode, rerank_best
from osnet.metrics.k_reciprocal import rerank as rerank_all
from osnet.metrics.nearest_neighbors import find_nearest
from osnet.metrics.query_expansion import expand_queries
from osnet.metrics.ranking import rank_scores_from_distances

PEER = np.load(FIXTURES / "torchreid_reranking.npz")
PEER_SETTINGS = [name for name in PEER.files if " " in name]


def make_features(num_queries: int, num_gallery: int, seed: int = 0, num_people: int = 9) -> tuple[np.ndarray, ...]:
    """Query and gallery features, and their identities, from 1."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(num_people, 8))
    people = rng.integers(0, num_people, num_queries + num_gallery)
    features = (centres[people] + 0.8 * rng.normal(size=(len(people), 8))).astype(np.float32)
    return features[:num_queries], features[num_queries:], people[:num_queries] + 1, people[num_queries:] + 1


@pytest.fixture(params=["tiles", "strips"])
def _both_algorithms(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test with both nearest-neighbour algorithms, each in several blocks."""
    if request.param == "tiles":
        monkeypatch.setattr(nearest, "TILE", 50)
    else:
        monkeypatch.setattr(nearest, "kernels_on", lambda device: None)
        monkeypatch.setattr(nearest, "STRIP_FLOATS", 5000)
    monkeypatch.setattr(rerank, "ROWS", 37)
    monkeypatch.setattr(rerank, "PAIRS", 1000)
    monkeypatch.setattr(blocks, "BLOCK_DISTANCES", 2000)


def slow_rerank(query: np.ndarray, gallery: np.ndarray, k1: int, k2: int, lambda_value: float) -> np.ndarray:
    """Section 3 of the paper with Python sets and complete matrices, in float64."""
    items = np.concatenate([query, gallery]).astype(np.float64)
    n = len(items)
    distance = np.array([[((a - b) ** 2).sum() for b in items] for a in items])
    ranked = [sorted(range(n), key=lambda j, i=i: (distance[i, j], j)) for i in range(n)]

    def reciprocal(i: int, k: int) -> set[int]:
        return {j for j in ranked[i][: k + 1] if i in ranked[j][: k + 1]}

    codes = np.zeros((n, n))
    for i in range(n):
        members = expanded = reciprocal(i, k1)
        for j in members:
            half = reciprocal(j, int(np.around(k1 / 2)))
            if len(half & members) > 2 / 3 * len(half):
                expanded = expanded | half
        for j in expanded:
            codes[i, j] = math.exp(-distance[i, j] / distance[i].max())
        codes[i] /= codes[i].sum()
    averaged = np.array([codes[ranked[i][:k2]].mean(0) for i in range(n)])
    result = np.zeros((len(query), len(gallery)))
    for q in range(len(query)):
        for g in range(len(gallery)):
            one, other = averaged[q], averaged[len(query) + g]
            jaccard = 1 - np.minimum(one, other).sum() / np.maximum(one, other).sum()
            original = distance[q, len(query) + g] / distance[q].max()
            result[q, g] = (1 - lambda_value) * jaccard + lambda_value * original
    return result


def test_reranking_by_hand() -> None:
    """One query at 0, a gallery at 1, 10 and 11; (0, 1) and (10, 11) are reciprocal nearest neighbours.

    k1 = 1: each encoding has two members, and the half neighbourhood (np.around(0.5) is 0) is the item itself.
    The largest distances from 0 and 1 are 11 and 10.
    """
    a, b = math.exp(-1 / 121), math.exp(-1 / 100)  # weight of 1 in the encoding of 0, and of 0 in that of 1
    shared = min(1 / (1 + a), b / (1 + b)) + min(a / (1 + a), 1 / (1 + b))
    wanted = [0.75 * (1 - shared / (2 - shared)) + 0.25 / 121, 0.75 + 0.25 * 100 / 121, 1.0]
    got = rerank_all([[0.0]], [[1.0], [10.0], [11.0]], k1=1, k2=1, lambda_value=0.25)
    np.testing.assert_allclose(got, [wanted], atol=1e-6)


@pytest.mark.usefixtures("_both_algorithms")
@pytest.mark.parametrize("settings", PEER_SETTINGS)
def test_reranking_matches_torchreid(settings: str) -> None:
    k1, k2, lambda_value = settings.split()
    got = rerank_all(PEER["query"], PEER["gallery"], int(k1), int(k2), float(lambda_value))
    np.testing.assert_allclose(got, PEER[settings], atol=1e-6)


@pytest.mark.usefixtures("_both_algorithms")
@pytest.mark.parametrize(("k1", "k2", "lambda_value"), [(20, 6, 0.3), (5, 2, 0.0), (3, 9, 0.5), (500, 6, 0.3)])
def test_reranking_against_the_slow_loop(k1: int, k2: int, lambda_value: float) -> None:
    """Covers k1 / 2 rounded to even (5 to 2, 3 to 2), k2 above k1 + 1, and k1 above the number of items."""
    query, gallery, *_ = make_features(20, 110 if k1 < 100 else 30, seed=k1)
    got = rerank_all(query, gallery, k1, k2, lambda_value)
    np.testing.assert_allclose(got, slow_rerank(query, gallery, k1, k2, lambda_value), atol=1e-6)


def test_two_thirds_rule_in_integers() -> None:
    """The published code compares with the float 2. / 3 * length; integers give the same result."""
    for length in range(1, 1500):
        edge = 2 * length // 3
        for shared in (edge - 1, edge, edge + 1):
            assert (shared > 2.0 / 3 * length) == (3 * shared > 2 * length)


@pytest.mark.usefixtures("_both_algorithms")
def test_more_duplicates_than_neighbours() -> None:
    """30 equal vectors with k1 = 5: every item keeps an encoding, and equal items stay close."""
    same, other = np.ones((30, 4), np.float32), 90 + np.eye(4, dtype=np.float32)[[0, 1, 2]]
    got = rerank_all(same[:3], np.concatenate([same[3:], other]), k1=5, k2=2)
    assert np.isfinite(got).all()
    assert got.min() >= 0
    assert got[:, :27].min(1).max() < 0.7
    assert got[:, 27:].min() > 0.99  # another group: nothing is shared, and it is furthest
    everything = rerank_all(same[:1], same)  # all distances are 0, including the largest
    assert np.isfinite(everything).all()


@pytest.mark.usefixtures("_both_algorithms")
def test_find_nearest_against_a_sort() -> None:
    query, gallery, *_ = make_features(60, 123)
    items = np.concatenate([query, gallery])
    found = find_nearest(torch.from_numpy(items), 7)
    distance = ((items[:, None].astype(np.float64) - items[None]) ** 2).sum(2)
    np.testing.assert_array_equal(found.index, np.argsort(distance, 1)[:, :7])
    np.testing.assert_allclose(found.squared_distance, np.sort(distance, 1)[:, :7], atol=1e-5)
    np.testing.assert_allclose(found.furthest, distance.max(1), rtol=1e-6)


def test_tied_neighbours_are_in_item_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small integers: distances are exact and mostly tied."""
    pytest.importorskip("numba")
    monkeypatch.setattr(nearest, "TILE", 32)
    items = np.random.default_rng(0).integers(0, 3, (150, 4)).astype(np.float32)
    distance = ((items[:, None] - items[None]) ** 2).sum(2)
    distance[np.diag_indices(150)] = -1  # each item is its own nearest
    found = find_nearest(torch.from_numpy(items), 20)
    np.testing.assert_array_equal(found.index, np.argsort(distance, 1, kind="stable")[:, :20])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_reranking_on_a_gpu_matches_torchreid() -> None:
    for settings in PEER_SETTINGS:
        k1, k2, lambda_value = settings.split()
        got = rerank_all(PEER["query"], PEER["gallery"], int(k1), int(k2), float(lambda_value), device="cuda")
        np.testing.assert_allclose(got, PEER[settings], atol=1e-6)


def test_encodings_are_multiples_of_the_resolution() -> None:
    """So that sums do not depend on the order, also on a GPU."""
    query, gallery, *_ = make_features(30, 200)
    value = encode(query, gallery).codes.value
    assert (value * rerank.RESOLUTION == (value * rerank.RESOLUTION).round()).all()
    shuffled = value[torch.randperm(len(value), generator=torch.Generator().manual_seed(0))]
    assert shuffled.cumsum(0)[-1] == value.cumsum(0)[-1]


def test_blocks_have_the_requested_size_and_form_the_matrix() -> None:
    query, gallery, *_ = make_features(23, 90)
    encoding = encode(query, gallery)
    complete = np.concatenate([block.distance for block in encoding.blocks()])
    pieces = list(encoding.blocks(num_rows=5))
    assert [block.start for block in pieces] == [0, 5, 10, 15, 20]
    assert {block.distance.shape for block in pieces} == {(5, 90), (3, 90)}
    np.testing.assert_allclose(np.concatenate([block.distance for block in pieces]), complete, atol=1e-6)
    assert blocks.block_starts(11659, 82161, None)[0][1] * 82161 <= blocks.BLOCK_DISTANCES


def test_lambda_1_gives_the_original_distance() -> None:
    query, gallery, *_ = make_features(10, 50)
    distance = ((query[:, None] - gallery[None]) ** 2).sum(2)
    (block,) = euclidean_blocks(query, gallery)
    np.testing.assert_allclose(block.distance, distance, rtol=1e-4)
    np.testing.assert_array_equal(best_of_blocks(encode(query, gallery).blocks(1.0), 50).index, np.argsort(distance, 1))


def test_reranking_raises_map_on_clusters() -> None:
    """A smoke test: on overlapping clusters, re-ranking raises mAP by more than 1 point."""
    query, gallery, query_pids, gallery_pids = make_features(60, 400, seed=3)
    labels = [query_pids, gallery_pids, np.zeros(60, int), np.ones(400, int)]
    before = rank_scores_from_blocks(euclidean_blocks(query, gallery), *labels).mean_ap
    after = rank_scores_from_blocks(encode(query, gallery).blocks(), *labels).mean_ap
    assert before < 0.97
    assert after > before + 0.01


def test_best_of_block_ranks_ties_in_gallery_order() -> None:
    block = DistanceBlock(0, np.float32([[3, 1, 2, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1, 1]]))
    best = best_of_block(block, 4)
    assert best.index.tolist() == [[6, 1, 3, 2], [0, 1, 2, 3]]
    assert best.distance.tolist() == [[0, 1, 1, 2], [1, 1, 1, 1]]
    assert best_of_block(block, 99).index.shape == (2, 7)


def test_rerank_best_matches_the_sorted_matrix() -> None:
    query, gallery, *_ = make_features(15, 80)
    complete = rerank_all(query, gallery, 8, 3, 0.2)
    best = rerank_best(query, gallery, 12, 8, 3, 0.2)
    np.testing.assert_array_equal(best.index, np.argsort(complete, 1, kind="stable")[:, :12])


def test_scores_of_blocks_match_the_matrix() -> None:
    rng = np.random.default_rng(0)
    distance = rng.integers(0, 9, (23, 70)).astype(np.float32)
    labels = [rng.integers(1, 12, 23), rng.integers(-1, 8, 70), rng.integers(1, 4, 23), rng.integers(1, 4, 70)]
    complete = rank_scores_from_distances(distance, *labels, max_rank=10)
    pieces = [DistanceBlock(i, distance[i : i + 6]) for i in range(0, 23, 6)]
    scores = rank_scores_from_blocks(pieces, *labels, max_rank=10)
    assert len(complete.unmatched) > 1  # in several blocks
    assert (scores.unmatched, scores.num_gallery, scores.mean_ap) == (complete.unmatched, 70, complete.mean_ap)
    np.testing.assert_array_equal(scores.cmc, complete.cmc)
    np.testing.assert_array_equal(scores.inp_per_query, complete.inp_per_query)
    for wrong in (pieces[1:], pieces[:-1], pieces[::-1], []):
        with pytest.raises(ValueError, match="block"):
            rank_scores_from_blocks(wrong, *labels)
    no_match = rank_scores_from_blocks(pieces[:1], labels[0][:6] + 99, labels[1], labels[2][:6], labels[3])
    assert np.isnan(no_match.mean_ap)
    assert no_match.unmatched == tuple(range(6))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k1": 0}, "k1 0 must be at least 1"),
        ({"k2": 0}, "k2 0 must be at least 1"),
        ({"lambda_value": 1.5}, "lambda_value 1.5 must be in [0, 1]"),
        ({"lambda_value": float("nan")}, "must be in [0, 1]"),
        ({"gallery_GD": np.ones((3, 5))}, "4 components, gallery embeddings have 5"),
        ({"gallery_GD": np.ones((0, 4))}, "(0, 4)"),
        ({"query_QD": np.full((2, 4), np.nan)}, "query embeddings contain values that are not finite"),
        ({"query_QD": np.full((2, 4), 1e300)}, "not finite in float32"),
        ({"query_QD": np.ones(4)}, "must be (number, components)"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_invalid_inputs_of_rerank_are_refused(change: dict, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        rerank_all(**({"query_QD": np.ones((2, 4)), "gallery_GD": np.ones((3, 4))} | change))
    assert words in str(caught.value)


def test_invalid_arguments_of_helpers_are_refused() -> None:
    query, gallery, *_ = make_features(3, 9)
    for call, words in (
        (lambda: expand_queries(query, gallery, -1), "num_nearest -1"),
        (lambda: expand_queries(query, gallery, alpha=-0.5), "alpha -0.5"),
        (lambda: find_nearest(torch.ones(3, 2), 0), "num_nearest 0"),
        (lambda: best_of_block(DistanceBlock(0, np.ones((1, 2), np.float32)), 0), "num_best 0"),
        (lambda: encode(query, gallery).blocks(num_rows=0), "num_rows 0"),
        (lambda: euclidean_blocks(query, gallery[:, :2]), "8 components, gallery embeddings have 2"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_reranking_keeps_pytorchs_number_of_threads() -> None:
    """In a new process, because numba's OpenMP threads start at the first call."""
    code = """
import numpy as np, torch
from osnet import rerank
for threads in (1, 2):
    torch.set_num_threads(threads)
    rerank(*np.random.default_rng(0).normal(size=(2, 60, 8)).astype(np.float32))
    print(torch.get_num_threads())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "2"]


@pytest.mark.parametrize("where", ["query", "gallery"])
def test_values_whose_squares_overflow_are_refused(where: str) -> None:
    """Their distances would be NaN."""
    query, gallery, *_ = make_features(3, 12)
    (query if where == "query" else gallery)[1, 2] = -1e20
    with pytest.raises(DataError, match=rf"{where}.*1\.0e\+20"):
        rerank_all(query, gallery)
