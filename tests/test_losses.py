"""Losses against slow loops from their papers, cases worked by hand, and numerical gradients."""

import math

import pytest
import torch

from osnet.losses import batch_hard_triplet, pairwise_distance, smoothed_cross_entropy


def test_smoothed_cross_entropy_against_its_definition() -> None:
    torch.manual_seed(0)
    logits, labels, eps = torch.randn(5, 7, dtype=torch.float64), torch.tensor([0, 6, 3, 3, 1]), 0.1
    total = 0.0
    for i in range(5):
        normaliser = math.log(sum(math.exp(x) for x in logits[i].tolist()))
        for c in range(7):
            target = (1 - eps) * (c == int(labels[i])) + eps / 7
            total -= target * (float(logits[i, c]) - normaliser)
    assert float(smoothed_cross_entropy(logits, labels, eps)) == pytest.approx(total / 5)


def slow_triplet(x: torch.Tensor, pids: list[int], margin: float | None) -> float:
    losses = []
    for a in range(len(pids)):
        positive = [math.dist(x[a], x[p]) for p in range(len(pids)) if p != a and pids[p] == pids[a]]
        negative = [math.dist(x[a], x[n]) for n in range(len(pids)) if pids[n] != pids[a]]
        if positive:
            gap = max(positive) - min(negative)
            losses.append(math.log1p(math.exp(gap)) if margin is None else max(0.0, gap + margin))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("margin", [0.3, 1.5, None])
@pytest.mark.parametrize("pids", [[1, 1, 2, 2, 3, 3], [1, 1, 1, 2, 2, 9], [4, 7, 4, 7, 4, 7]])
def test_batch_hard_triplet_against_the_slow_loop(margin: float | None, pids: list[int]) -> None:
    torch.manual_seed(len(pids))
    x = torch.randn(6, 3)
    assert float(batch_hard_triplet(x, torch.tensor(pids), margin)) == pytest.approx(
        slow_triplet(x, pids, margin), rel=1e-5
    )


def test_batch_hard_triplet_by_hand() -> None:
    """On a line: person 1 at 0 and 1, person 2 at 3. Gaps of the anchors 0 and 1: 1 - 3 and 1 - 2."""
    x, pids = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([1, 1, 2])
    assert float(batch_hard_triplet(x, pids, margin=1.5)) == pytest.approx((0 + 0.5) / 2)
    assert float(batch_hard_triplet(x, pids, margin=None)) == pytest.approx(
        (math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))) / 2
    )


def test_gradients_are_right_and_finite() -> None:
    torch.manual_seed(1)
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    assert torch.autograd.gradcheck(lambda v: smoothed_cross_entropy(v, labels), (x,))
    # Equal embeddings must not give NaN gradients.
    same = torch.zeros(4, 3, requires_grad=True)
    batch_hard_triplet(same, torch.tensor([1, 1, 2, 2])).backward()
    assert same.grad is not None
    assert torch.isfinite(same.grad).all()
    assert pairwise_distance(x.detach()).diagonal().max() < 1e-5


@pytest.mark.parametrize("pids", [[1, 1, 1], [1, 2, 3]])
def test_batches_without_a_triplet_are_refused(pids: list[int]) -> None:
    with pytest.raises(ValueError, match=f"{len(pids)} images of {len(set(pids))} identities"):
        batch_hard_triplet(torch.randn(3, 2), torch.tensor(pids))


def test_labels_and_smoothing_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="from 1 to 5; with 5 classes"):
        smoothed_cross_entropy(torch.randn(2, 5), torch.tensor([1, 5]))
    with pytest.raises(ValueError, match="smoothing 1"):
        smoothed_cross_entropy(torch.randn(2, 5), torch.tensor([1, 2]), 1.0)
