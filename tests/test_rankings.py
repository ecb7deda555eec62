"""Ranked lists, first hits, camera pairs and failure groups on a small example."""

from pathlib import Path

import numpy as np
import pytest

from osnet.errors import DataError
from osnet.evaluation.failures import group_failures
from osnet.evaluation.ranked_lists import Rankings, pick_queries, sample_queries
from osnet.types import Crop, ReidDataset, Split


def crops(name: str, labels: list[tuple[int, int]]) -> Split:
    return Split(name, tuple(Crop(Path(f"{name}{i}.jpg"), p, c, str(p), str(c)) for i, (p, c) in enumerate(labels)))


def at(*angles: float) -> np.ndarray:
    """Unit vectors in a plane at these angles; a score is the cosine of the angle between two of them."""
    radians = np.radians(angles)
    return np.stack([np.cos(radians), np.sin(radians)], 1)


@pytest.fixture
def rankings() -> Rankings:
    data = ReidDataset(
        "d", Path(), query=crops("q", [(1, 1), (2, 1), (9, 1)]),
        gallery=crops("g", [(1, 1), (1, 2), (2, 2), (2, 3), (0, 2), (3, 2)]),
    )  # fmt: skip
    #                          1@1 1@2 2@2 2@3  0  3
    return Rankings(data, at(0, 40, 80), at(1, 10, 55, 60, 30, 45))


def test_ranked_lists_leave_out_ignored_items(rankings: Rankings) -> None:
    ranked = rankings.list_hits(0, 3)
    assert [(hit.rank, hit.item.source) for hit in ranked.hits] == [(1, "g1.jpg"), (2, "g4.jpg"), (3, "g5.jpg")]
    assert ranked.hits[0].score == pytest.approx(np.cos(np.radians(10)))
    assert ranked.hits[1].item.identity is None, "a distractor has no identity"
    with_ignored = rankings.list_hits(0, 3, with_ignored=True)
    assert [(hit.rank, hit.item.source) for hit in with_ignored.hits] == [(0, "g0.jpg"), (1, "g1.jpg"), (2, "g4.jpg")]
    assert with_ignored.ignored == {"g0.jpg"}


def test_first_hits_best_matches_and_failures(rankings: Rankings) -> None:
    assert rankings.first_hit_Q.tolist() == [1, 5, 3]
    assert rankings.best_match_Q.tolist() == [1, 2, -1]
    assert rankings.failed.tolist() == [1], "a query without a match is not a failure"
    assert rankings.scores.first_rank_per_query[1] == 3
    following = rankings.find_next_person(1)  # the first hit is person 3, the next the distractor
    assert following is not None
    assert following.item.source == "g4.jpg"


def test_camera_pairs(rankings: Rankings) -> None:
    # Queries of camera 1 in camera 2: person 1 is found (10 before 30 degrees), person 2 is not (45 before 55).
    # In camera 3: only person 2, found.
    assert rankings.camera_pairs() == {(1, 2): (0.5, 2), (1, 3): (1.0, 1)}


def test_failures_by_cause(rankings: Rankings) -> None:
    def where(**known: object) -> str:
        groups = group_failures(rankings, **{"alike_at": 2.0, **known})  # type: ignore[arg-type]
        assert sum(len(g.queries) for g in groups) == 1
        return next(g.name for g in groups if g.queries)

    assert where() == "camera pair"  # its best match is in camera 2: 50 % found, 67 % overall
    assert where(hidden_Q=np.array([0, 0.25, 0])) == "occlusion"
    assert where(hidden_Q=np.array([1, 0.24, 1])) == "camera pair"
    rankings.camera_pairs = lambda: {(1, 2): (0.5, 2)}  # type: ignore[method-assign]
    assert where() == "other"
    assert where(twins={2: frozenset({3})}) == "another person alike"
    assert where(twins={2: frozenset({4})}) == "other"
    assert where(alike_at=0.99) == "another person alike"  # cos 5 degrees = 0.996
    assert where(alike_at=0.999) == "other"


def test_first_hits_agree_with_scores_and_lists() -> None:
    rng = np.random.default_rng(0)
    data = ReidDataset(
        "d",
        Path(),
        query=crops("q", [(int(p), int(c)) for p, c in rng.integers(1, 4, (200, 2))]),
        gallery=crops("g", [(int(p), int(c)) for p, c in rng.integers(1, 4, (60, 2))]),
    )
    found = Rankings(data, rng.normal(size=(200, 3)), rng.normal(size=(60, 3)))
    first = found.scores.first_rank_per_query
    assert 20 < len(found.failed) < 180
    for q in range(200):
        hits = found.list_hits(q, 60).hits
        assert hits[0].item.source == f"g{found.first_hit_Q[q]}.jpg"
        right = [hit.rank for hit in hits if hit.item.identity == str(data.query.pids[q])]
        assert right[0] == first[q]
        assert (q in found.failed) == (first[q] > 1)
        following = found.find_next_person(q)
        assert following is not None
        others = [hit for hit in hits if hit.item.identity != hits[0].item.identity]
        assert following.item.source == others[0].item.source


def test_picking_and_sampling_queries() -> None:
    ap = np.array([0.5, np.nan, 0.9, 0.1, 0.7])
    assert pick_queries(ap, {"Best": 0.0, "Worst": 1.0}) == {"Best": 2, "Worst": 3}
    assert sample_queries(ap, 10, [2]) == [0, 3, 4]
    assert sample_queries(ap, 2, []) == sample_queries(ap, 2, [])
    with pytest.raises(DataError, match="no query has a match"):
        pick_queries(np.array([np.nan]), {"Best": 0.0})


def test_embeddings_of_the_wrong_length_are_refused(rankings: Rankings) -> None:
    with pytest.raises(DataError, match="3 queries"):
        Rankings(rankings.dataset, at(0), at(1, 2, 3, 4, 5, 6))
