"""Losses and scores of attributes: against values worked by hand and slow loops from the definitions."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from osnet.losses import smoothed_cross_entropy_sum, weigh_per_attribute, weigh_per_label, weighted_multi_label
from osnet.metrics.attribute_metrics import average_precision, choose_thresholds, score_attributes

NAN = float("nan")


@pytest.mark.parametrize("form", ["A", "B"])
def test_weighted_multi_label_matches_the_formula(form: str) -> None:
    """Against a slow loop over images and attributes."""
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(7, 5)), (rng.random((7, 5)) < 0.4).astype(float)
    labels[2, 3] = labels[6, 0] = NAN
    ratios = np.array([0.0, 0.1, 0.5, 0.92, 1.0])
    total, count = 0.0, 0
    for i in range(7):
        for a in range(5):
            if math.isnan(labels[i, a]):
                continue
            s, y, p = 1 / (1 + math.exp(-logits[i, a])), labels[i, a], ratios[a]
            weight = math.exp(-p) if form == "A" else math.exp(1 - p) if y == 1 else math.exp(p)
            total -= weight * (y * math.log(s) + (1 - y) * math.log(1 - s))
            count += 1
    weigh = weigh_per_attribute if form == "A" else weigh_per_label
    got, known = weighted_multi_label(
        torch.tensor(logits), torch.tensor(labels, dtype=torch.float32), weigh(torch.tensor(ratios))
    )
    assert float(got) == pytest.approx(total, rel=1e-5)
    assert int(known) == count == 33


def test_loss_weights_by_hand() -> None:
    ratios = torch.tensor([0.0, 0.5, 1.0])
    a, b = weigh_per_attribute(ratios), weigh_per_label(ratios)
    assert a[0].tolist() == a[1].tolist() == pytest.approx([1.0, 0.60653, 0.36788], abs=1e-5)
    assert b[1].tolist() == pytest.approx([2.71828, 1.64872, 1.0], abs=1e-5)  # a rare attribute's positives weigh most
    assert b[0].tolist() == pytest.approx([1.0, 1.64872, 2.71828], abs=1e-5)
    with pytest.raises(ValueError, match="do not agree"):
        weighted_multi_label(torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(2, 4))


def test_unknown_labels_have_no_gradient() -> None:
    logits = torch.zeros(1, 2, requires_grad=True)
    total, count = weighted_multi_label(logits, torch.tensor([[NAN, 1.0]]), torch.ones(2, 2))
    total.backward()
    assert int(count) == 1
    assert logits.grad is not None
    assert logits.grad.tolist() == [[0.0, -0.5]]
    identities = torch.zeros(2, 4, requires_grad=True)
    total, count = smoothed_cross_entropy_sum(identities, torch.tensor([-1, 2]), 0.1)
    assert (total.item(), int(count)) == (pytest.approx(math.log(4)), 1)
    total.backward()
    assert identities.grad is not None
    assert identities.grad[0].abs().sum() == 0
    nothing, count = smoothed_cross_entropy_sum(identities, torch.tensor([-1, -1]))
    assert (float(nothing), int(count)) == (0.0, 0)


def test_scores_by_hand() -> None:
    """Three images, three attributes; the third attribute has no positives."""
    labels = [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    probabilities = [[0.9, 0.6, 0.1], [0.2, 0.7, 0.5], [0.1, 0.2, 0.3]]
    scores = score_attributes(probabilities, labels, ["a", "b", "c"])
    a, b, c = scores.rows
    assert (a.recall, a.specificity, a.mean_accuracy) == (0.5, 1.0, 0.75)
    assert (b.recall, b.specificity, b.mean_accuracy) == (1.0, 0.5, 0.75)
    assert (c.recall, c.specificity, c.mean_accuracy, c.average_precision) == (None, pytest.approx(2 / 3), None, None)
    assert (scores.mean_accuracy, scores.left_out) == (0.75, ("c",))
    # image 1: true {a}, predicted {a, b}; image 2: true {a, b}, predicted {b, c}; image 3: both empty
    assert scores.accuracy == pytest.approx((1 / 2 + 1 / 3 + 1) / 3)
    assert scores.precision == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    assert scores.recall == pytest.approx((1 + 1 / 2 + 1) / 3)
    p, r = scores.precision, scores.recall
    assert scores.f1 == pytest.approx(2 * p * r / (p + r))
    assert "(no positives or no negatives): c" in str(scores)


def test_scores_with_zero_denominators() -> None:
    none_predicted = score_attributes([[0.1, 0.1]], [[1, 0]], ["a", "b"])
    assert (none_predicted.precision, none_predicted.recall, none_predicted.accuracy, none_predicted.f1) == (0, 0, 0, 0)
    none_true = score_attributes([[0.9, 0.1]], [[0, 0]], ["a", "b"])
    assert (none_true.precision, none_true.recall, none_true.accuracy) == (0, 0, 0)
    assert none_true.mean_accuracy is None
    for wrong in ([[1.5, 0.1]], [[NAN, 0.1]]):
        with pytest.raises(ValueError, match="from 0 to 1"):
            score_attributes(wrong, [[0, 0]], ["a", "b"])
    with pytest.raises(ValueError, match=r"\(1, 1\).*\(1, 2\)"):
        score_attributes([[0.5]], [[0, 0]], ["a", "b"])


@pytest.mark.parametrize("seed", range(4))
def test_scores_against_a_slow_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, k = 60, 6
    labels = (rng.random((n, k)) < [0.02, 0.1, 0.3, 0.5, 0.9, 0.99]).astype(float)
    labels[rng.random((n, k)) < 0.05] = NAN
    probabilities = rng.random((n, k)).round(1)  # ties, and values at the threshold
    scores = score_attributes(probabilities, labels, [str(a) for a in range(k)])
    per_attribute = []
    for a in range(k):
        tp = tn = p = q = 0
        for i in range(n):
            if labels[i, a] == 1:
                p, tp = p + 1, tp + (probabilities[i, a] >= 0.5)
            elif labels[i, a] == 0:
                q, tn = q + 1, tn + (probabilities[i, a] < 0.5)
        assert (scores.rows[a].positives, scores.rows[a].negatives) == (p, q)
        if p and q:
            per_attribute.append((tp / p + tn / q) / 2)
        if p:
            known = ~np.isnan(labels[:, a])
            peer = average_precision_score(labels[known, a], probabilities[known, a])
            assert scores.rows[a].average_precision == pytest.approx(peer, abs=1e-12)
    assert scores.mean_accuracy == pytest.approx(np.mean(per_attribute), abs=1e-12)
    sums = np.zeros(3)
    for i in range(n):
        true = {a for a in range(k) if labels[i, a] == 1}
        predicted = {a for a in range(k) if not math.isnan(labels[i, a]) and probabilities[i, a] >= 0.5}
        for place, total in enumerate((true | predicted, predicted, true)):
            sums[place] += len(true & predicted) / len(total) if total else float(not (true | predicted))
    assert [scores.accuracy, scores.precision, scores.recall] == pytest.approx((sums / n).tolist(), abs=1e-12)


def test_average_precision_by_hand() -> None:
    assert average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True])) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(np.array([0.5, 0.5]), np.array([True, False])) == 0.5  # a tie is one step


def test_chosen_thresholds_are_the_best() -> None:
    rng = np.random.default_rng(1)
    labels = (rng.random((80, 3)) < 0.2).astype(float)
    labels[:, 2] = 0
    probabilities = np.clip(0.2 + 0.2 * labels + 0.15 * rng.normal(size=(80, 3)), 0, 1)
    names = ["a", "b", "never"]
    chosen = choose_thresholds(probabilities, labels, names, "mA")
    assert chosen[2] == 0.5
    best = score_attributes(probabilities, labels, names, chosen)
    assert best.mean_accuracy is not None
    plain = score_attributes(probabilities, labels, names).mean_accuracy
    assert plain is not None
    assert best.mean_accuracy > plain + 0.1
    for threshold in np.linspace(0, 1, 301):
        other = score_attributes(probabilities, labels, names, threshold)
        for row, rival in zip(best.rows[:2], other.rows[:2], strict=True):
            assert (row.mean_accuracy or 0) >= (rival.mean_accuracy or 0) - 1e-12
    by_f1 = choose_thresholds(probabilities, labels, names, "F1")

    def f1(a: int, threshold: float) -> float:
        predicted, true = probabilities[:, a] >= threshold, labels[:, a] == 1
        return 2 * (predicted & true).sum() / (predicted.sum() + true.sum()) if predicted.any() else 0.0

    for a in range(2):
        assert f1(a, by_f1[a]) == pytest.approx(max(f1(a, t) for t in [*probabilities[:, a], 0.5]), abs=1e-12)
    apart = [[0.2]] * 10 + [[0.9]] * 10
    assert choose_thresholds(apart, [[0]] * 10 + [[1]] * 10, ["a"]).tolist() == [
        0.5
    ]  # the nearest to 0.5 of equally good ones
    low = [[0.1]] * 10 + [[0.3]] * 10
    assert choose_thresholds(low, [[0]] * 10 + [[1]] * 10, ["a"]).tolist() == [pytest.approx(0.2)]
    assert choose_thresholds(low, [[0]] * 11 + [[1]] * 9, ["a"]).tolist() == [0.5]  # too few positives to choose by


def test_criteria_and_thresholds_are_checked() -> None:
    probabilities, labels = np.full((30, 2), 0.5), np.arange(60).reshape(30, 2) % 4 < 2
    for criterion in ("f1", "ma"):
        with pytest.raises(ValueError, match=f"'{criterion}'"):
            choose_thresholds(probabilities, labels, ["a", "b"], criterion)  # type: ignore[arg-type]
    for thresholds in ([0.5, 0.5, 0.5], [[0.5, 0.5]], NAN, [0.5, NAN]):
        with pytest.raises(ValueError, match="thresholds"):
            score_attributes(probabilities, labels, ["a", "b"], thresholds)


def test_an_image_without_a_known_label_is_in_no_score() -> None:
    """It has no true and no predicted attribute, but that does not make the prediction right."""
    labels = np.array([[1, 0], [NAN, NAN], [NAN, NAN]])
    found = score_attributes(np.full((3, 2), 0.1), labels, ["a", "b"])
    assert found == score_attributes(np.full((1, 2), 0.1), labels[:1], ["a", "b"])
    assert (found.accuracy, found.recall, found.num_images) == (0, 0, 1)
    with pytest.raises(ValueError, match="known label"):
        score_attributes(np.full((2, 2), 0.1), labels[1:], ["a", "b"])
