"""Losses of re-identification. Pure functions of tensors.

Shapes: B batch, C classes, D embedding.
"""

import torch
from torch import Tensor
from torch.nn import functional

LABEL_SMOOTHING = 0.1
"""The paper's, for all of its re-identification experiments."""
MARGIN = 0.3


def smoothed_cross_entropy(logits_BC: Tensor, labels_B: Tensor, smoothing: float = LABEL_SMOOTHING) -> Tensor:
    """Cross-entropy against labels that are 1 - eps + eps / C for the right class and eps / C for the others.

    Szegedy et al., CVPR 2016, section 7. Scalar >= 0, mean over the batch.

    Raises:
        ValueError: a label is outside 0 to C - 1 (a cryptic index error otherwise), or ``smoothing`` outside [0, 1).
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing {smoothing} is outside 0 to 1")
    classes = logits_BC.shape[1]
    if len(labels_B) and not bool(((labels_B >= 0) & (labels_B < classes)).all()):
        raise ValueError(f"labels from {int(labels_B.min())} to {int(labels_B.max())} for {classes} classes")
    return functional.cross_entropy(logits_BC, labels_B, label_smoothing=smoothing)


def pairwise_distance(embeddings_BD: Tensor) -> Tensor:
    """Euclidean distances between all rows: (B, B), >= 1e-6 so that the square root has a gradient."""
    squared = embeddings_BD.square().sum(1)
    products = embeddings_BD @ embeddings_BD.T
    return (squared[:, None] + squared[None, :] - 2 * products).clamp(min=1e-12).sqrt()


def batch_hard_triplet(embeddings_BD: Tensor, pids_B: Tensor, margin: float | None = MARGIN) -> Tensor:
    """For each image, its farthest match in the batch must be closer than its closest non-match.

    Hermans et al., "In Defense of the Triplet Loss", 2017, eq. 5: mean of max(0, margin + d_pos - d_neg);
    with ``margin=None`` the soft margin of its section 2: log(1 + exp(d_pos - d_neg)). Scalar >= 0.
    Images without a second image of the same person in the batch are no anchors.

    Args:
        embeddings_BD: not normalised.
        pids_B: who is on each.
        margin: in the units of the distance; None for the soft margin.

    Raises:
        ValueError: the batch has one person only, or no person twice: an identity sampler is needed.
    """
    same = pids_B[:, None] == pids_B[None, :]
    others = same & ~torch.eye(len(pids_B), dtype=torch.bool, device=same.device)
    anchors = others.any(1)
    if not bool(anchors.any()) or bool(same.all()):
        raise ValueError(
            f"no triplet in a batch of {len(pids_B)} images of {len(set(pids_B.tolist()))} people: it takes two, "
            "one of them twice; draw batches by identity"
        )
    distance = pairwise_distance(embeddings_BD.float())
    farthest = distance.masked_fill(~others, 0).amax(1)[anchors]
    closest = distance.masked_fill(same, torch.inf).amin(1)[anchors]
    if margin is None:
        return functional.softplus(farthest - closest).mean()
    return (farthest - closest + margin).clamp(min=0).mean()
