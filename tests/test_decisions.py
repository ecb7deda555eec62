"""Decision thresholds and their error rates: cases worked by hand, slow loops with ties, refused inputs."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from conftest import write_picture
from osnet import Embedder
from osnet.data.folder import read_dataset
from osnet.errors import DataError
from osnet.evaluation.calibration import calibrate
from osnet.evaluation.evaluate import evaluate_features
from osnet.evaluation.scoring import Scoring
from osnet.features.labels import LabelledVectors
from osnet.metrics import rank_counting
from osnet.metrics.bootstrap import cluster_interval, pair_interval, ratio_interval
from osnet.metrics.thresholds import (
    DecisionScores,
    count_decisions,
    count_false_pairs,
    identification_scores,
    verification_scores,
)
from test_streaming import draw_labels, signs

RATES = (0.0, 0.01, 0.05, 0.3, 1.0)


def scores_of(query: np.ndarray, gallery: np.ndarray, distance: str) -> np.ndarray:
    """All pairs' scores, exact because the vectors consist of signs."""
    if distance == "cosine":
        return query @ gallery.T / 16
    return -((query[:, None] - gallery[None]) ** 2).sum(2)


def slow_point(positives: list[float], negatives: list[float], rate: float) -> tuple[float, float]:
    """(false positive rate, miss rate) at the lowest threshold that keeps to the rate, found by trying all."""
    values = sorted({*negatives, *positives})
    thresholds = [-np.inf, *[np.nextafter(np.float32(v), np.float32(np.inf)) for v in values]]
    for threshold in thresholds:
        false = sum(n >= threshold for n in negatives)
        if false <= rate * len(negatives) + 1e-9:
            return false / len(negatives), sum(p < threshold or p == -np.inf for p in positives) / len(positives)
    raise AssertionError


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("seed", range(2))
def test_verification_against_the_slow_loop(distance: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_counting, "BLOCK_FLOATS", 300)
    monkeypatch.setattr(rank_counting, "CHUNK_ITEMS", 61)
    rng = np.random.default_rng(seed)
    query, gallery, labels = signs(rng, 15), signs(rng, 200), draw_labels(rng, 15, 200)
    positives, negatives = [], []
    for q, g in np.ndindex(15, 200):
        score = scores_of(query[[q]], gallery[[g]], distance)[0, 0]
        same = labels[0][q] == labels[1][g]
        if labels[1][g] != -1 and not (same and labels[2][q] == labels[3][g]):
            (positives if same else negatives).append(score)
    found = verification_scores(query, gallery, *labels, RATES, distance=distance)
    assert (found.num_positives, found.num_negatives) == (len(positives), len(negatives))
    for rate, point in zip(RATES, found.points, strict=True):
        expected = slow_point(positives, negatives, rate)
        assert (point.false_positive_rate, point.miss_rate) == pytest.approx(expected, abs=1e-12)
        counts = count_decisions(query, gallery, *labels, point.threshold, distance=distance)
        assert counts.num_false.sum() / counts.num_negatives.sum() == pytest.approx(expected[0])
        assert counts.num_missed.sum() / counts.num_positives.sum() == pytest.approx(expected[1])


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_identification_against_the_slow_loop(distance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_counting, "BLOCK_FLOATS", 300)
    monkeypatch.setattr(rank_counting, "CHUNK_ITEMS", 61)
    rng = np.random.default_rng(3)
    query, gallery, labels = signs(rng, 40), signs(rng, 90), draw_labels(rng, 40, 90, people=30)
    gallery[::3] = query[np.arange(30)]  # so that some queries have a match
    labels[1][::3] = labels[0][:30]
    labels[0][35:] = 500  # not in the gallery
    unknown, mated = [], []
    for q in range(40):
        row = scores_of(query[[q]], gallery, distance)[0]
        order = sorted((g for g in range(90) if labels[1][g] != -1), key=lambda g: (-row[g], g))
        order = [g for g in order if labels[1][g] != labels[0][q] or labels[3][g] != labels[2][q]]
        others = [g for g in order if labels[1][g] != labels[0][q]]
        unknown.append(row[others[0]])
        if len(others) < len(order):
            first = order[0]
            mated.append(row[first] if labels[1][first] == labels[0][q] else -np.inf)
    assert 0 < len(mated) < 40
    found = identification_scores(query, gallery, *labels, RATES, distance=distance)
    assert (found.num_positives, found.num_negatives) == (len(mated), 40)
    for rate, point in zip(RATES, found.points, strict=True):
        expected = slow_point(mated, unknown, rate)
        assert (point.false_positive_rate, point.miss_rate) == pytest.approx(expected, abs=1e-12)
        counts = count_decisions(query, gallery, *labels, point.threshold, identify=True, distance=distance)
        assert counts.num_missed.sum() / counts.num_positives.sum() == pytest.approx(expected[1])
        assert counts.num_false.sum() / 40 == pytest.approx(expected[0])


def test_decision_scores_by_hand() -> None:
    """Cosines: 0.8 for the match in another camera, 0.6 and 0 for others; 1 in the same camera is ignored."""
    gallery = [[0.8, 0.6], [0.6, 0.8], [0, 1], [1, 0]]
    labels = ([1], [1, 2, 3, 1], [1], [2, 2, 2, 1])
    point = verification_scores([[1, 0]], gallery, *labels, (0.0,)).at(0.0)
    assert 0.6 < point.threshold < 0.6001
    assert (point.false_positive_rate, point.miss_rate, point.supported) == (0, 0, False)
    half = verification_scores([[1, 0]], gallery, *labels, (0.5,)).at(
        0.5
    )  # one false positive is allowed: the closer one
    assert 0 < half.threshold < 0.001
    assert half.false_positive_rate == 0.5
    identified = identification_scores([[1, 0]], gallery, *labels, (0.0, 1.0))
    assert (identified.at(0.0).miss_rate, identified.at(1.0).threshold) == (0, -np.inf)
    with pytest.raises(ValueError, match=r"rate 0\.25 .* 0, 1"):
        identified.at(0.25)


def test_too_few_pairs_and_wrong_rates_are_refused() -> None:
    vectors, labels = np.eye(2), ([1, 2], [1, 2], [1, 1], [1, 1])
    with pytest.raises(ValueError, match="0 pairs of the same person and 2 of"):
        verification_scores(vectors, vectors, *labels)
    with pytest.raises(ValueError, match="no query has a match"):
        identification_scores(vectors, vectors, *labels)
    with pytest.raises(ValueError, match=r"fprs \(2,\) must be"):
        verification_scores(vectors, vectors, *labels, fprs=(2,))


def test_ratio_interval() -> None:
    """A ratio of sums, not a mean of ratios; with equal denominators it equals cluster_interval."""
    assert ratio_interval([1, 0], [1, 9], [1, 2]).mean == pytest.approx(0.1)
    values, clusters = np.random.default_rng(0).random(40), np.arange(40) // 4
    a, b = ratio_interval(values, np.ones(40), clusters), cluster_interval(values, clusters)
    assert (a.mean, a.low, a.high) == pytest.approx((b.mean, b.low, b.high))


def test_pair_interval_against_the_slow_loop() -> None:
    """All queries and items of the drawn people are paired; pairs of a person with itself do not count."""
    rng = np.random.default_rng(2)
    queries, items = np.array([2, 0, 1, 3, 0]), np.array([1, 4, 0, 2, 1])
    counts = np.minimum(rng.integers(0, 9, (5, 5)), np.outer(queries, items))
    np.fill_diagonal(counts, 0)
    first, second = np.nonzero(counts)
    found = pair_interval(first, second, counts[first, second], queries, items, num_resamples=50)
    shares = []
    for drawn in np.random.default_rng(0).integers(0, 5, (50, 5)):
        pairs = [(a, b) for a in drawn for b in drawn if a != b]
        if total := sum(queries[a] * items[b] for a, b in pairs):
            shares.append(sum(counts[a, b] for a, b in pairs) / total)
    assert (found.low, found.high) == pytest.approx(np.quantile(shares, [0.025, 0.975]).tolist())
    assert found.mean == pytest.approx(counts.sum() / (np.outer(queries, items).sum() - queries @ items))
    assert found.num_clusters == 5
    with pytest.raises(ValueError, match="0 pairs"):
        pair_interval([], [], [], [3], [2])


def test_people_of_the_gallery_widen_the_interval() -> None:
    """Each query has the same false positives, with one person of the gallery. Over queries alone nothing varies."""
    people = np.arange(12)
    first = people[people != 3]
    pairs = pair_interval(first, np.full(11, 3), np.ones(11), np.ones(12), np.ones(12))
    alone = ratio_interval(np.ones(11), np.full(11, 11), first)
    assert alone.low == alone.high == alone.mean
    assert pairs.mean == pytest.approx(1 / 12)
    assert pairs.low == 0
    assert pairs.high > 0.15


def test_false_pairs_by_hand() -> None:
    """Against all cosines; person 1 has two queries, two distractors are two people, junk is left out."""
    rng = np.random.default_rng(5)
    query, gallery = rng.normal(size=(4, 3)), rng.normal(size=(9, 3))
    query_pids, gallery_pids = [1, 1, 2, 4], [1, 1, 2, 3, 0, 0, -1, 3, 2]
    labels = (query_pids, gallery_pids, [1, 2, 1, 1], [1, 2, 2, 1, 1, 2, 1, 2, 1])
    found = count_false_pairs(query, gallery, *labels, 0.1)
    cosines = query @ gallery.T / np.outer(np.linalg.norm(query, axis=1), np.linalg.norm(gallery, axis=1))
    names = [f"{pid}" if pid else f"distractor {place}" for place, pid in enumerate(gallery_pids)]
    wanted = Counter(
        (str(query_pids[q]), names[g])
        for q, g in zip(*np.nonzero(cosines >= 0.1), strict=True)
        if gallery_pids[g] not in (query_pids[q], -1)
    )
    people = ["distractor 5", "distractor 4", "1", "2", "3", "4"]  # sorted by their numbers
    keys = zip(found.first_K, found.second_K, strict=True)
    assert {(people[a], people[b]): n for (a, b), n in zip(keys, found.counts_K, strict=True)} == wanted
    assert found.queries_C.tolist() == [0, 0, 2, 1, 0, 1]
    assert found.items_C.tolist() == [1, 1, 2, 2, 2, 0]
    counts = count_decisions(query, gallery, *labels, 0.1)
    assert found.counts_K.sum() == counts.num_false.sum()
    assert found.queries_C.sum() * found.items_C.sum() - found.queries_C @ found.items_C == counts.num_negatives.sum()


# Calibration


@pytest.fixture(scope="module")
def embedder(tiny_weights: Path) -> Embedder:
    return Embedder(tiny_weights, batch_size=8)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("people")
    for pid in range(1, 33):
        write_picture(root / "query" / f"{pid:04d}_c1s1_000000_00.jpg", 10 * pid)
        write_picture(root / "bounding_box_test" / f"{pid:04d}_c2s1_000001_00.jpg", 10 * pid + 1)
    return root


def test_calibrate_finds_the_threshold_of_its_vectors(embedder: Embedder, people: Path) -> None:
    data = read_dataset(people)
    found = calibrate(embedder, data, fpr=0.05)
    query, gallery = embedder.embed(data.query.paths), embedder.embed(data.gallery.paths)
    labels = (data.query.pids, data.gallery.pids, data.query.camids, data.gallery.camids)
    point = verification_scores(query, gallery, *labels, (0.05,)).at(0.05)
    cosines = query @ gallery.T
    different, same = cosines[~np.eye(32, dtype=bool)], np.diag(cosines)
    assert found.threshold == pytest.approx(point.threshold, abs=1e-6)
    assert (different >= found.threshold).mean() == pytest.approx(found.false_positives.mean, abs=0.002)
    assert found.false_positives.mean <= 0.05 < (different >= found.threshold - 0.002).mean() + 0.01
    assert (same < found.threshold).mean() == pytest.approx(found.misses.mean, abs=0.04)
    assert found.misses.low <= found.misses.mean <= found.misses.high
    pairs = count_false_pairs(query, gallery, *labels, found.threshold)
    assert found.false_positives == pair_interval(*(getattr(pairs, name) for name in pairs.__dataclass_fields__))
    assert (found.num_negatives, found.num_positives) == (32 * 31, 32)
    printed = str(found)
    assert f"accept at a cosine of {found.threshold:.4f} or more" in printed
    assert "of 992 pairs of different people" in printed
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["weights"]["network_sha256"] == embedder.sha256()


def test_calibrate_for_identification(embedder: Embedder, people: Path) -> None:
    """Rates by hand: of each person's best match among the others, and of the match if it is better."""
    data = read_dataset(people)
    found = calibrate(embedder, people, fpir=0.95)
    assert (found.kind, found.num_negatives, found.num_positives) == ("identification", 32, 32)
    cosines = embedder.embed(data.query.paths) @ embedder.embed(data.gallery.paths).T
    same, others = np.diag(cosines), np.where(np.eye(32, dtype=bool), -1, cosines).max(1)
    assert found.false_positives.mean == 30 / 32
    assert np.mean(others >= found.threshold) == pytest.approx(30 / 32, abs=0.04)
    missed = (same < found.threshold) | (same < others)
    assert found.misses.mean == pytest.approx(np.mean(missed), abs=0.04)


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        (
            {"fpr": 0.001},
            "allow 1.02 errors at FPR 0.001, too few to estimate the rate (at least 30 are needed)",
        ),
        ({"fpir": 0.1}, "32 searches for unknown people allow 3.2 errors at FPIR 0.1"),
        ({}, "fpr is None and fpir is None"),
        ({"fpr": 0.1, "fpir": 0.1}, "fpr is 0.1 and fpir is 0.1"),
        ({"fpr": 1.5}, "rate 1.5 must be"),
    ],
)
def test_impossible_rates_are_refused_before_embedding(
    embedder: Embedder, people: Path, rates: dict, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Embedder, "stream", None)
    with pytest.raises(DataError) as caught:
        calibrate(embedder, people, **rates)
    assert words in str(caught.value)


@pytest.mark.parametrize("rates", [{"fpr": 0.5}, {"fpir": 0.5}])
def test_matches_of_one_identity_are_refused(rates: dict, embedder: Embedder, tmp_path: Path) -> None:
    """Queries show two identities, but only one has matches: no interval over identities can be given for misses."""
    for n in range(40):
        write_picture(tmp_path / "query" / f"000{1 + n % 2}_c1s1_{n:06d}_00.jpg", n)
    for n in range(20):
        write_picture(tmp_path / "bounding_box_test" / f"000{1 if n < 10 else 3}_c2s1_{n:06d}_00.jpg", 100 + n)
    if "fpir" in rates:
        for n in range(20):
            write_picture(tmp_path / "query" / f"0001_c1s1_1{n:05d}_00.jpg", 200 + n)
    with pytest.raises(DataError, match="one identity"):
        calibrate(embedder, tmp_path, **rates)


def test_a_threshold_that_all_pass_is_written_as_json() -> None:
    """Nearly all queries show the only person of the gallery, so that few unknown people can be mistaken for them."""
    rng = np.random.default_rng(0)

    def part(pids: list[int], camera: int) -> LabelledVectors:
        names = tuple(f"{n}" for n in range(len(pids)))
        vectors = rng.standard_normal((len(pids), 4)).astype(np.float32)
        return LabelledVectors(vectors, np.array(pids), np.full(len(pids), camera), names)

    result = evaluate_features(part([1] * 95 + [2] * 5, 1), part([1] * 9, 2), scoring=Scoring(decisions=True))
    content = json.loads(json.dumps(result.to_json(), allow_nan=False))
    (points,) = [found["points"] for found in content["decisions"] if found["kind"] == "identification"]
    assert [point["threshold"] is None for point in points] == [False, False, False, True]
    assert result.splits[0].decisions[1].at(0.1).threshold == -np.inf


def test_few_matches_are_refused(embedder: Embedder, people: Path, tmp_path: Path) -> None:
    data = read_dataset(people)
    for crop in data.query.crops[:3]:
        write_picture(tmp_path / "query" / crop.path.name, 1)
    for crop in data.gallery.crops:
        write_picture(tmp_path / "bounding_box_test" / crop.path.name, crop.pid)
    with pytest.raises(DataError, match="3 pairs of one person in two cameras are too few to estimate the miss rate"):
        calibrate(embedder, tmp_path, fpr=0.5)


def test_a_rate_is_supported_from_30_expected_errors() -> None:
    rng = np.random.default_rng(0)
    query, gallery = rng.normal(size=(10, 8)), rng.normal(size=(301, 8))
    labels = (np.ones(10, int), np.r_[1, np.full(300, 2)], np.ones(10, int), np.full(301, 2))
    found = verification_scores(query, gallery, *labels, (0.0099, 0.01))
    assert isinstance(found, DecisionScores)
    assert [point.supported for point in found.points] == [False, True]


def test_a_search_that_finds_no_other_person_is_no_false_positive() -> None:
    """The second query's person is alone in the gallery once the first one's is removed: here there is one person."""
    arrays = (np.eye(2), np.eye(2), [1, 1], [1, 1], [0, 0], [1, 1])
    point = identification_scores(*arrays, [1.0]).points[0]
    counts = count_decisions(*arrays, point.threshold, identify=True)
    assert point.false_positive_rate == counts.num_false.sum() == 0
