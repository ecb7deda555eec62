"""Ranking scores: a case worked by hand, a slow loop from the definition, ties, and refused inputs."""

import numpy as np
import pytest

from osnet.metrics import rank_counting as streaming
from osnet.metrics.matching_rules import Rule
from osnet.metrics.ranking import RankingScores, rank_scores, rank_scores_from_distances, summarize


def test_scores_by_hand() -> None:
    """Two queries and seven gallery items, which cover junk, distractors and the same camera.

    Query 0 (person 1, camera 1). By distance: item 5 is junk (ignored), item 0 is the same person in the
    same camera (ignored). Then distractor 4 (rank 1), match 2 (rank 2), person 2 (rank 3), match 3 (rank 4),
    person 2 (rank 5). AP = (1/2 + 2/4) / 2 = 0.5; INP = 2/4.
    Query 1 (person 2, camera 1). Match 6 is first (rank 1). Match 1 is last, after 0, 2, 3, 4, so it has
    rank 6. AP = (1/1 + 2/6) / 2 = 2/3; INP = 2/6.
    """
    gallery_pids = [1, 2, 1, 1, 0, -1, 2]
    gallery_camids = [1, 2, 2, 3, 1, 2, 3]
    distances = [
        [0.1, 0.7, 0.3, 0.5, 0.2, 0.0, 0.4],
        [0.2, 0.9, 0.3, 0.4, 0.5, 0.0, 0.1],
    ]
    scores = rank_scores_from_distances(distances, [1, 2], gallery_pids, [1, 1], gallery_camids)
    np.testing.assert_allclose(scores.ap_per_query, [0.5, 2 / 3])
    assert scores.mean_ap == pytest.approx((0.5 + 2 / 3) / 2)
    assert scores.mean_inp == pytest.approx((2 / 4 + 2 / 6) / 2)
    np.testing.assert_allclose(scores.cmc, [0.5, 1, 1, 1, 1, 1, 1])
    assert scores.unmatched == ()
    assert (scores.rank(1), scores.rank(2), scores.rank(1000)) == (0.5, 1.0, 1.0)
    assert summarize(scores, (1,)) == {"mAP": scores.mean_ap, "mINP": scores.mean_inp, "rank-1": 0.5}


def slow_scores(distance_QG, query_pids, gallery_pids, query_camids, gallery_camids, max_rank, ap="precision"):
    """The definition, one query and one gallery item at a time; ties in gallery order.

    The trapezoid rule is summed along the ranked list, as in the official script of Market-1501.
    """
    cmc = np.zeros(max_rank)
    average_precisions, penalties, unmatched = [], [], []
    for q in range(len(query_pids)):
        order = sorted(range(len(gallery_pids)), key=lambda g: (distance_QG[q][g], g))
        rank, hits, precisions, last = 0, 0, [], 0
        total = sum(
            p == query_pids[q] and c != query_camids[q] for p, c in zip(gallery_pids, gallery_camids, strict=True)
        )
        area, old_recall, old_precision = 0.0, 0.0, 1.0
        for g in order:
            if gallery_pids[g] == -1:
                continue
            if gallery_pids[g] == query_pids[q] and gallery_camids[g] == query_camids[q]:
                continue
            rank += 1
            if gallery_pids[g] == query_pids[q]:
                hits += 1
                precisions.append(hits / rank)
                if hits == 1 and rank <= max_rank:
                    cmc[rank - 1 :] += 1
                last = rank
            if total:
                recall, precision = hits / total, hits / rank
                area += (recall - old_recall) * (old_precision + precision) / 2
                old_recall, old_precision = recall, precision
        if hits:
            average_precisions.append(area if ap == "trapezoid" else sum(precisions) / hits)
            penalties.append(hits / last)
        else:
            unmatched.append(q)
    n = len(average_precisions)
    return cmc / n, sum(average_precisions) / n, sum(penalties) / n, tuple(unmatched)


@pytest.mark.parametrize("levels", [3, 20, 10**6])
@pytest.mark.parametrize("seed", range(5))
def test_against_the_slow_loop_with_ties(levels: int, seed: int) -> None:
    """With 3 levels nearly all distances tie; with a million hardly any do."""
    rng = np.random.default_rng(seed)
    distances = (rng.integers(0, levels, (12, 60)) / levels).astype(np.float32)
    labels = [rng.integers(1, 9, 12), rng.integers(-1, 8, 60), rng.integers(1, 4, 12), rng.integers(1, 4, 60)]
    cmc, mean_ap, mean_inp, unmatched = slow_scores(distances.tolist(), *(x.tolist() for x in labels), 10)
    scores = rank_scores_from_distances(distances, *labels, max_rank=10)
    np.testing.assert_allclose(scores.cmc, cmc, atol=1e-12)
    assert scores.mean_ap == pytest.approx(mean_ap, abs=1e-12)
    assert scores.mean_inp == pytest.approx(mean_inp, abs=1e-12)
    assert scores.unmatched == unmatched


def test_scores_from_embeddings_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    query, gallery = rng.normal(size=(11, 8)), rng.normal(size=(40, 8))
    labels = [rng.integers(1, 6, 11), rng.integers(-1, 6, 40), rng.integers(1, 3, 11), rng.integers(1, 3, 40)]
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query, gallery)]
    expected = rank_scores_from_distances(1 - unit[0] @ unit[1].T, *labels)
    monkeypatch.setattr(streaming, "BLOCK_FLOATS", 100)
    monkeypatch.setattr(streaming, "CHUNK_ITEMS", 17)
    blocks = rank_scores(query * 5, gallery, *labels)  # lengths do not matter
    assert blocks.mean_ap == pytest.approx(expected.mean_ap, abs=1e-9)
    np.testing.assert_allclose(blocks.cmc, expected.cmc)


def test_memory_is_bounded_by_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    import tracemalloc

    rng = np.random.default_rng(0)
    query, gallery = rng.normal(size=(2000, 4)).astype(np.float32), rng.normal(size=(5000, 4)).astype(np.float32)
    labels = [rng.integers(1, 200, 2000), rng.integers(1, 200, 5000), np.zeros(2000, int), np.ones(5000, int)]
    monkeypatch.setattr(streaming, "BLOCK_FLOATS", 50_000)
    monkeypatch.setattr(streaming, "CHUNK_ITEMS", 500)
    tracemalloc.start()
    rank_scores(query, gallery, *labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2000 * 5000 / 10


def test_queries_without_a_match_are_counted_and_left_out() -> None:
    scores = rank_scores_from_distances([[0.1, 0.2], [0.3, 0.1]], [1, 2], [1, 2], [1, 1], [1, 2])
    assert scores.unmatched == (0,)  # its only match is from the same camera
    assert scores.num_scored == 1
    assert np.isnan(scores.ap_per_query[0])
    assert scores.mean_ap == 1.0
    no_match = rank_scores_from_distances([[0.1]], [1], [5], [1], [1])
    assert no_match.unmatched == (0,)
    assert np.isnan(no_match.mean_ap)
    assert summarize(no_match, (1, 5)) == {"mAP": None, "mINP": None, "rank-1": None, "rank-5": None}


def test_rank_k_beyond_the_gallery_size() -> None:
    """Torchreid raises in this case, after the last epoch and before it saves."""
    scores = rank_scores_from_distances([[0.5, 0.1, 0.2]], [1], [1, 2, 3], [1], [2, 2, 2], max_rank=50)
    assert isinstance(scores, RankingScores)
    assert len(scores.cmc) == 3
    assert scores.rank(20) == 1.0
    short = rank_scores_from_distances([[0.5, 0.1, 0.2]], [1], [1, 2, 3], [1], [2, 2, 2], max_rank=2)
    with pytest.raises(ValueError, match=r"rank 3 .*max_rank was 2"):
        short.rank(3)
    assert rank_scores_from_distances([[0.50000002, 0.50000001]], [1], [1, 2], [1], [2, 2]).mean_ap == 0.5
    assert scores.rank(2) == 0.0


def test_ties_rank_in_gallery_order() -> None:
    for pids, ranks in (([2, 1, 2, 2], [3]), ([1, 2, 1, 2], [2, 4])):
        scores = rank_scores_from_distances(np.float32([[0.5, 0.5, 0.5, 0.1]]), [1], pids, [1], [2, 2, 2, 2])
        assert scores.first_rank_per_query.tolist() == ranks[:1]
        assert scores.inp_per_query.tolist() == [len(ranks) / ranks[-1]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"query_pids": [0]}, "pid 0 or less"),
        ({"query_pids": [-1]}, "pid 0 or less"),
        ({"query_pids": [1, 2]}, "query_pids must be 1 "),
        ({"gallery_camids": [0.5, 0.5]}, "gallery_camids must be 2 "),
        ({"distance_QG": [[float("nan"), 0]]}, "NaN"),
        ({"distance_QG": [0.1, 0.2]}, "(2,)"),
        ({"max_rank": 0}, "max_rank 0"),
    ],
)
def test_invalid_inputs_are_refused(change: dict, words: str) -> None:
    good = {
        "distance_QG": [[0.1, 0.2]],
        "query_pids": [1],
        "gallery_pids": [1, 2],
        "query_camids": [1],
        "gallery_camids": [2, 2],
    }
    with pytest.raises(ValueError) as caught:
        rank_scores_from_distances(**(good | change))
    assert words in str(caught.value)


def test_embeddings_of_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="8 components, gallery embeddings have 9"):
        rank_scores(np.ones((1, 8)), np.ones((1, 9)), [1], [1], [1], [2])
    with pytest.raises(ValueError, match="not finite"):
        rank_scores(np.full((1, 8), np.inf), np.ones((1, 8)), [1], [1], [1], [2])


@pytest.mark.parametrize("rule", ["market1501", "cuhk03"])
def test_gallery_ids_below_junk_are_refused(rule: Rule) -> None:
    """They have no meaning: one rule would count them as distractors, the other leave them out."""
    with pytest.raises(ValueError, match="-2"):
        rank_scores_from_distances([[0.1, 0.2, 0.3]], [1], [1, -2, 2], [1], [2, 2, 2], rule=rule)
