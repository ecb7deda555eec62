"""Query expansion: a case worked by hand, and a slow loop from the papers."""

import math

import numpy as np
import pytest
import torch

from osnet.metrics import distance_blocks as blocks
from osnet.metrics.query_expansion import expand_queries
from test_reranking import make_features


def test_expansion_by_hand() -> None:
    """The query's cosine is 0.6, 0 and -1 with the three gallery items."""
    query, gallery = [[2.0, 0.0]], [[3.0, 4.0], [0.0, 5.0], [-1.0, 0.0]]

    def unit(x: float, y: float) -> list[list[float]]:
        return [[x / math.hypot(x, y), y / math.hypot(x, y)]]

    one = expand_queries(query, gallery, num_nearest=1, alpha=2)
    np.testing.assert_allclose(one, unit(1 + 0.36 * 0.6, 0.36 * 0.8), atol=1e-6)
    np.testing.assert_allclose(expand_queries(query, gallery, 3, 1), unit(1 + 0.36, 0.48), atol=1e-6)
    np.testing.assert_allclose(expand_queries(query, gallery, 2, 0), unit(1.6, 1.8), atol=1e-6)
    np.testing.assert_allclose(expand_queries(query, gallery, 99, 0), unit(0.6, 1.8), atol=1e-6)
    np.testing.assert_allclose(expand_queries(query, gallery, 0, 3), [[1, 0]])


@pytest.mark.parametrize("alpha", [0.0, 1.0, 3.0])
def test_expansion_against_a_slow_loop(alpha: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_DISTANCES", 300)
    query, gallery, *_ = make_features(17, 60)
    wanted = []
    for q in query.astype(np.float64):
        cosines = [float(q @ g / np.linalg.norm(q) / np.linalg.norm(g)) for g in gallery]
        total = q / np.linalg.norm(q)
        for g in sorted(range(60), key=lambda g: -cosines[g])[:4]:
            total = total + max(cosines[g], 0) ** alpha * gallery[g] / np.linalg.norm(gallery[g])
        wanted.append(total / np.linalg.norm(total))
    np.testing.assert_allclose(expand_queries(query, gallery, 4, alpha), wanted, atol=1e-5)


def test_a_block_holds_few_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a small gallery, the neighbours' embeddings take more memory than the distances."""
    query, gallery, *_ = make_features(20, 30)
    whole = expand_queries(query, gallery, 10)
    sizes = []
    einsum = torch.einsum
    monkeypatch.setattr(torch, "einsum", lambda rule, *a: sizes.append(a[1].numel()) or einsum(rule, *a))
    monkeypatch.setattr(blocks, "BLOCK_DISTANCES", 3 * 10 * query.shape[1])
    np.testing.assert_allclose(expand_queries(query, gallery, 10), whole, atol=1e-6)
    assert max(sizes) <= blocks.BLOCK_DISTANCES
