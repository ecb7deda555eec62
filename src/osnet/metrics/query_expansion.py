"""Query expansion: replace each query by a weighted mean of itself and its nearest gallery items.

Shapes: Q queries, G gallery items, K nearest items, D components of an embedding.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn.functional import normalize

from osnet.devices import pick_device
from osnet.metrics.distance_blocks import block_starts, check_pair


def expand_queries(
    query_QD: ArrayLike,
    gallery_GD: ArrayLike,
    num_nearest: int = 5,
    alpha: float = 3.0,
    *,
    device: str | torch.device = "cpu",
) -> NDArray[np.float32]:
    """Return expanded queries (Q, D) of length 1: q + sum over the K nearest g of cos(q, g)^alpha g, normalised.

    With ``alpha`` 0 all neighbours weigh the same: average query expansion (Chum et al., ICCV 2007, section 4.1, there
    with local features). With ``alpha`` above 0, closer neighbours weigh more: alpha-weighted query expansion
    (Radenovic et al., TPAMI 2019, arXiv:1711.02512, section 3.3). Neighbours are found by cosine. Negative cosines
    count as 0, and 0^0 is 1.

    Args:
        query_QD: (Q, D) query embeddings, of any length (norm).
        gallery_GD: (G, D) gallery embeddings. Their identities are not used.
        num_nearest: K; at most G. With 0 the queries are only normalised.
        alpha: exponent of the weights, at least 0.
        device: cpu, cuda, cuda:1, or auto (a GPU if there is one).

    Raises:
        DataError: embeddings have wrong or different shapes, or values that are not finite.
        ModelError: the device cannot be used.
        ValueError: ``num_nearest`` or ``alpha`` is below 0.
    """
    if num_nearest < 0:
        raise ValueError(f"num_nearest {num_nearest} must be at least 0")
    if not alpha >= 0:
        raise ValueError(f"alpha {alpha} must be at least 0 (0: plain average)")
    query, gallery = (
        normalize(rows.to(pick_device(device, float64=True))) for rows in check_pair(query_QD, gallery_GD)
    )
    num_nearest = min(num_nearest, len(gallery))
    parts = []
    # A block holds the cosines with the gallery, and then the neighbours' embeddings.
    for start, stop in block_starts(len(query), max(len(gallery), num_nearest * query.shape[1]), None):
        some = query[start:stop]
        cosine, index = torch.mm(some, gallery.T).topk(num_nearest, dim=1)
        weight = cosine.clamp_(min=0).pow_(alpha)
        parts.append(normalize(some + torch.einsum("bk,bkd->bd", weight, gallery[index])))
    expanded: NDArray[np.float32] = torch.cat(parts).cpu().numpy()
    return expanded
