"""Comparisons of networks, and confidence intervals: cases worked by hand."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from osnet.data.folder import read_dataset
from osnet.errors import DataError
from osnet.evaluation.comparison import Comparison, Entrant, Group, compare, group_generated
from osnet.metrics import bootstrap
from osnet.metrics.bootstrap import cluster_interval
from osnet.synthetic.generate import GeneratedSettings, generate_dataset, read_annotations, read_pairs
from osnet.types import Crop, ReidDataset, Split


def test_interval_of_a_constant_is_a_point() -> None:
    interval = cluster_interval([0.25] * 6, [1, 1, 2, 2, 3, 3])
    assert (interval.mean, interval.low, interval.high, interval.num_clusters) == (0.25, 0.25, 0.25, 3)
    assert interval.excludes_zero


def test_interval_draws_whole_clusters() -> None:
    """Two people with values +1 and -1 in a hundred queries each: the interval of the mean is -1 to 1."""
    values, clusters = [1.0] * 100 + [-1.0] * 100, [1] * 100 + [2] * 100
    people = cluster_interval(values, clusters)
    assert (people.low, people.high) == (-1, 1)
    assert not people.excludes_zero
    queries = cluster_interval(values, range(200))
    assert queries.high - queries.low < 0.4


def test_interval_against_the_formula_of_the_mean() -> None:
    """With many clusters of one value each, the interval is the mean plus and minus 1.96 standard errors."""
    values = np.random.default_rng(5).normal(0.3, 1, 400)
    interval = cluster_interval(values, np.arange(400), num_resamples=20_000)
    error = 1.96 * values.std() / 20
    np.testing.assert_allclose([interval.low, interval.high], values.mean() + np.array([-error, error]), atol=0.01)
    assert interval == cluster_interval(values, np.arange(400), num_resamples=20_000), "the seed is fixed"


def test_interval_ignores_nan_and_needs_two_clusters() -> None:
    assert cluster_interval([1, 3, np.nan], [1, 2, 3]).mean == 2
    for values, clusters in (([1, 2], [7, 7]), ([1, 2], [1]), ([np.nan, 1], [1, 2])):
        with pytest.raises(ValueError):
            cluster_interval(values, clusters)


def test_the_interval_does_not_depend_on_how_many_clusters_are_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values, clusters = np.random.default_rng(6).normal(size=90), np.arange(90) % 37
    whole = cluster_interval(values, clusters, num_resamples=101)
    for draws in (1, 37 * 7, 37 * 101):
        monkeypatch.setattr(bootstrap, "DRAWS", draws)
        assert cluster_interval(values, clusters, num_resamples=101) == whole
    with pytest.raises(ValueError, match="num_resamples 0"):
        cluster_interval(values, clusters, num_resamples=0)


def test_the_interval_of_many_clusters_needs_little_memory() -> None:
    values = np.random.default_rng(7).normal(size=100_000)
    tracemalloc.start()
    cluster_interval(values, np.arange(len(values)), num_resamples=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 110e6  # all resamples at once take 160 MB


def as_split(name: str, people: list[int], cameras: list[int]) -> Split:
    crops = [Crop(Path(f"{name}/{i}.jpg"), p, c) for i, (p, c) in enumerate(zip(people, cameras, strict=True))]
    return Split(name, tuple(crops))


def unit_vectors(*degrees: float) -> np.ndarray:
    """Unit vectors in the plane at these angles."""
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


@pytest.fixture
def small() -> tuple[ReidDataset, list[Entrant]]:
    """Two people, queries in camera 1, gallery in camera 2."""
    data = ReidDataset(
        "small", Path(), query=as_split("query", [1, 2], [1, 1]), gallery=as_split("gallery", [1, 2, 1, 2], [2] * 4)
    )
    good = Entrant("good", unit_vectors(0, 90), unit_vectors(1, 89, 2, 88))  # both queries find their own person first
    half = Entrant("half", unit_vectors(0, 90), unit_vectors(1, 2, 80, 3))  # person 1: ranks 1, 4; person 2: ranks 2, 3
    return data, [good, half]


def test_scores_by_hand(small: tuple[ReidDataset, list[Entrant]]) -> None:
    data, entrants = small
    result = compare(data, entrants, [("good", "half")])
    scores = result.groups[0].scores
    assert scores["good"] == {"rank-1": 1, "rank-5": 1, "mAP": 1, "mINP": 1}
    ap = [(1 / 1 + 2 / 4) / 2, (1 / 2 + 2 / 3) / 2]
    assert scores["half"]["mAP"] == pytest.approx(np.mean(ap))
    assert scores["half"]["rank-1"] == 0.5
    assert scores["half"]["mINP"] == pytest.approx((2 / 4 + 2 / 3) / 2)
    np.testing.assert_allclose(result.ap_per_query["half"], ap)
    assert result.groups[0].cmc["half"][:2] == [0.5, 1.0]
    difference = result.difference("good", "half")
    assert difference.interval.mean == pytest.approx(1 - np.mean(ap))
    assert (difference.interval.low, difference.interval.high) == pytest.approx((1 - ap[0], 1 - ap[1]))
    assert str(difference).endswith("these weights of good score higher")
    assert "no difference shown" in str(result.difference("good", "half", "rank-1")), "the interval touches 0"
    shown = [line.split() for line in str(result).splitlines()]
    assert shown[1:4] == [
        ["rank-1", "rank-5", "mAP", "mINP"],
        ["good", "100.0%", "100.0%", "100.0%", "100.0%"],
        ["half", "50.0%", "100.0%", "66.7%", "58.3%"],
    ]
    with pytest.raises(DataError, match="not compared"):
        result.difference("half", "good")


def test_a_group_is_searched_only_among_its_gallery_part(small: tuple[ReidDataset, list[Entrant]]) -> None:
    data, entrants = small
    first, last_two = np.array([0]), np.array([2, 3])
    group = Group("some", "the first query among the last two", ((first, last_two),))
    scores = compare(data, entrants, groups=[group]).groups[1]
    assert (scores.num_queries, scores.num_identities) == (1, 1)
    assert scores.scores["half"]["mAP"] == 0.5, "person 1 at 80 degrees comes after person 2 at 3"
    assert scores.scores["good"]["mAP"] == 1


def test_a_group_needs_two_clusters_for_an_interval(small: tuple[ReidDataset, list[Entrant]]) -> None:
    data, entrants = small
    everything = np.arange(4)
    parts = ((np.array([0]), everything), (np.array([1]), everything))
    together = Group("together", "", parts, clusters=(5, 5))
    apart = Group("apart", "", parts, clusters=(5, 6))
    result = compare(data, entrants, [("good", "half")], [together, apart])
    assert result.groups[1].differences == ()
    assert result.groups[2].differences[0].interval.num_clusters == 2


def test_inconsistent_entrants_and_groups_are_refused(small: tuple[ReidDataset, list[Entrant]]) -> None:
    data, (good, half) = small
    with pytest.raises(DataError, match="different names"):
        compare(data, [good, good])
    with pytest.raises(DataError, match=r"missing.*good"):
        compare(data, [good], [("good", "missing")])
    with pytest.raises(DataError, match="1, 4"):
        compare(data, [Entrant("short", half.query[:1], half.gallery)])
    alone = Group("alone", "", ((np.array([0]), np.array([1])),))
    with pytest.raises(DataError, match="'alone' has a match"):
        compare(data, [good], groups=[alone])


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> ReidDataset:
    root = tmp_path_factory.mktemp("generated") / "people"
    generate_dataset(root, GeneratedSettings(identities=16, cameras=3, images=2, seed=4))
    return read_dataset(root)


def test_groups_of_generated_people(generated: ReidDataset) -> None:
    groups = {group.name: group for group in group_generated(generated)}
    query, gallery = generated.query, generated.gallery
    for kind in ("overall look",):
        pairs = [{a, b} for a, b, of_kind in read_pairs(generated.root) if of_kind == kind and a in query.pids]
        seen = []
        for (queries, items), cluster in zip(groups[kind].parts, groups[kind].clusters or (), strict=True):
            people = {query.pids[q] for q in queries}
            cameras = {query.camids[q] for q in queries}
            assert people in pairs
            assert cluster in people
            assert {gallery.pids[g] for g in items} == people
            assert len(cameras) == 1
            assert {gallery.camids[g] for g in items} == {1, 2, 3} - cameras
            seen += queries.tolist()
        assert sorted(seen) == [i for i, pid in enumerate(query.pids) if any(pid in pair for pair in pairs)]
    notes = read_annotations(generated.root)
    steps = [groups[name].parts[0][0] for name in ("in full view", "partly hidden", "much hidden")]
    assert sorted(np.concatenate(steps).tolist()) == list(range(len(query)))
    for low, high, queries in zip((0, 0.05, 0.25), (0.05, 0.25, 1.01), steps, strict=True):
        for q in queries:
            assert low <= notes[f"query/{query.crops[q].path.name}"].hidden < high


def test_a_perfect_entrant_scores_1_in_every_group(generated: ReidDataset) -> None:
    def ideal(split: Split) -> np.ndarray:
        vectors = np.zeros((len(split), 20), np.float32)
        vectors[np.arange(len(split)), split.pids] = 1
        return vectors

    perfect = Entrant("perfect", ideal(generated.query), ideal(generated.gallery))
    result: Comparison = compare(generated, [perfect], groups=group_generated(generated))
    assert len(result.groups) == 5
    assert all(group.scores["perfect"]["mAP"] == 1 for group in result.groups)
