"""Query expansion: a query is replaced by a weighted mean of itself and what it finds first.

Shapes: Q queries, G gallery, K nearest, D embedding.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn.functional import normalize

from osnet.metrics.distance_blocks import block_starts, check_pair
from osnet.metrics.nearest_neighbors import pick_device


def expand_queries(
    query_QD: ArrayLike,
    gallery_GD: ArrayLike,
    num_nearest: int = 5,
    alpha: float = 3.0,
    *,
    device: str | torch.device = "cpu",
) -> NDArray[np.float32]:
    """Expanded queries, (Q, D), of length 1: the direction of q + sum over its K nearest g of cos(q, g)^alpha g.

    ``alpha`` 0 weighs all alike: average query expansion (Chum et al., ICCV 2007, section 4.1, there with local
    features). Above 0 it is alpha-weighted query expansion (Radenovic et al., TPAMI 2019, arXiv:1711.02512, section
    3.3), which trusts what is closer. Nearest is by cosine. Negative cosines count as 0, and 0^0 as 1.

    Args:
        query_QD: embeddings; they need not have length 1.
        gallery_GD: embeddings. Nothing is known of whose they are.
        num_nearest: K; shortened to G. 0 leaves the queries as they are, but of length 1.
        alpha: at least 0.
        device: where to compute: cpu, cuda, cuda:1, or auto (a GPU if there is one).

    Raises:
        DataError: embeddings of wrong or different shapes, or not finite.
        ModelError: a device that cannot be used.
        ValueError: ``num_nearest`` or ``alpha`` under 0.
    """
    if num_nearest < 0:
        raise ValueError(f"num_nearest {num_nearest} must be at least 0")
    if not alpha >= 0:
        raise ValueError(f"alpha {alpha} must be at least 0, which is the plain average")
    query, gallery = (normalize(rows.to(pick_device(device))) for rows in check_pair(query_QD, gallery_GD))
    parts = []
    for start, stop in block_starts(len(query), len(gallery), None):
        some = query[start:stop]
        cosine, index = torch.mm(some, gallery.T).topk(min(num_nearest, len(gallery)), dim=1)
        weight = cosine.clamp_(min=0).pow_(alpha)
        parts.append(normalize(some + torch.einsum("bk,bkd->bd", weight, gallery[index])))
    expanded: NDArray[np.float32] = torch.cat(parts).cpu().numpy()
    return expanded
