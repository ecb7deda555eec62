"""Top-k accuracy: a case worked by hand, and a slow loop."""

import numpy as np
import pytest
import torch

from osnet.metrics.top_k import accuracy_by_class, label_ranks, top_k_accuracy


def test_top_k_against_a_slow_loop() -> None:
    """The loop sorts each image's scores; ties are in class order."""
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (300, 9)) / 5
    labels = rng.integers(0, 9, 300)
    for k, value in top_k_accuracy(scores, labels, ks=(1, 3, 5, 9)).items():
        right = 0
        for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
            best = sorted(range(9), key=lambda c: (-row[c], c))[:k]
            right += label in best
        assert value == right / 300
    by_class = accuracy_by_class(scores, labels)
    for c in range(9):
        hits = [int(np.argmax(scores[i])) == c for i in range(300) if labels[i] == c]
        assert by_class[c] == sum(hits) / len(hits)


def test_top_k_by_hand() -> None:
    scores = [[0.1, 0.7, 0.2], [0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]
    assert label_ranks(scores, [2, 0, 1]).tolist() == [2, 1, 2]
    assert top_k_accuracy(scores, [2, 0, 1], ks=(1, 2)) == {1: 1 / 3, 2: 1.0}
    assert np.isnan(accuracy_by_class(scores, [2, 0, 1])).tolist() == [False, False, False]
    assert np.isnan(accuracy_by_class([[1.0, 0.0]], [0])).tolist() == [False, True]
    assert top_k_accuracy(torch.tensor(scores), torch.tensor([1, 0, 0]), ks=(1,)) == {1: 1.0}


@pytest.mark.parametrize(
    ("scores", "labels", "words"),
    [
        ([[0.1, 0.2]], [2], "labels from 2 to 2 for 2"),
        ([[0.1, 0.2]], [-1], "labels from -1"),
        ([[0.1, float("nan")]], [0], "NaN"),
        ([[0.1, 0.2]], [0, 1], "must be"),
        ([[0.1, 0.2]], [0.5], "float64"),
        ([[0.1, 0.2]], [0], "top 5 of 2"),
        (np.empty((0, 5)), np.empty(0, int), "no images"),
    ],
)
def test_invalid_scores_and_labels_are_refused(scores, labels, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        top_k_accuracy(scores, labels)
