"""Counted pairs, thresholds and precision by recall, against a slow loop and cases worked by hand."""

import numpy as np
import pytest

from osnet.metrics import rank_counting as streaming
from osnet.metrics.pair_scores import RECALL_LEVELS, PairCounts, count_pairs


def make_labels(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    pids = rng.integers(1, 6, 12), rng.integers(-1, 6, 40)
    camids = rng.integers(1, 4, 12), rng.integers(1, 4, 40)
    few = rng.normal(size=(15, 3)).astype(np.float32)
    vectors = (
        rng.normal(size=(12, 3)).astype(np.float32),
        few[rng.integers(0, 15, 40)],
    )  # many equal vectors, so that scores tie
    return *vectors, *pids, *camids


def test_counts_and_precision_against_a_slow_loop() -> None:
    query, gallery, qp, gp, qc, gc = make_labels(np.random.default_rng(0))
    curves = count_pairs(query, gallery, qp, gp, qc, gc, num_bins=50)
    same, different, precisions = [], [], []
    for q in range(12):
        scored = []
        for g in range(40):
            one, other = query[q].astype(np.float64), gallery[g].astype(np.float64)
            score = float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
            if gp[g] == -1 or (gp[g] == qp[q] and gc[g] == qc[q]):
                continue
            (same if gp[g] == qp[q] else different).append(score)
            scored.append((-score, g, gp[g] == qp[q]))
        right = [is_right for _, _, is_right in sorted(scored)]
        num = sum(right)
        if num:
            points = [(sum(right[: k + 1]) / num, sum(right[: k + 1]) / (k + 1)) for k in range(len(right)) if right[k]]
            precisions.append([max(p for r, p in points if r >= level - 1e-9) for level in RECALL_LEVELS])
    edges = np.linspace(-1, 1, 51)
    np.testing.assert_array_equal(curves.counts.same, np.histogram(same, edges)[0])
    np.testing.assert_array_equal(curves.counts.different, np.histogram(different, edges)[0])
    np.testing.assert_allclose(curves.precision, np.mean(precisions, 0), atol=1e-9)


def test_counts_do_not_depend_on_block_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = make_labels(np.random.default_rng(1))
    single = count_pairs(*labels)
    monkeypatch.setattr(streaming, "CHUNK_ITEMS", 17)
    monkeypatch.setattr(streaming, "BLOCK_FLOATS", 60)  # three queries at a time
    parts = count_pairs(*labels)
    np.testing.assert_array_equal(single.counts.same, parts.counts.same)
    np.testing.assert_allclose(single.precision, parts.precision)


def test_rates_and_threshold_by_hand() -> None:
    counts = PairCounts(same=np.array([0, 1, 1, 2]), different=np.array([5, 3, 2, 0]))  # borders -1, -.5, 0, .5, 1
    fpr, tpr = counts.rates()
    np.testing.assert_allclose(fpr, [1, 0.5, 0.2, 0, 0])
    np.testing.assert_allclose(tpr, [1, 1, 0.75, 0.5, 0])
    assert counts.threshold_at(0.2) == 0
    assert counts.threshold_at(0.1999) == 0.5
    assert counts.at(0.49) == (0, 0.5)
    assert np.isnan(PairCounts(np.zeros(4, np.int64), counts.different).rates()[1]).all()


def test_labels_of_the_wrong_length_are_refused() -> None:
    with pytest.raises(ValueError, match="query_pids must be 2 "):
        count_pairs(np.ones((2, 4)), np.ones((3, 4)), [1], [1, 2, 3], [1, 1], [2, 2, 2])


@pytest.mark.parametrize("num_bins", [0, -1])
def test_there_is_at_least_one_bin(num_bins: int) -> None:
    """With none, scores were counted outside the histogram's memory."""
    with pytest.raises(ValueError, match=f"num_bins {num_bins}"):
        count_pairs(np.eye(2), np.eye(2), [1, 2], [1, 2], [0, 0], [1, 1], num_bins)
