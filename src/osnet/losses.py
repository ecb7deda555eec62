"""Losses of re-identification and of attributes. Pure functions of tensors.

Shapes: B batch, C classes, D embedding, A attributes.
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


def smoothed_cross_entropy_sum(
    logits_BC: Tensor, labels_B: Tensor, smoothing: float = LABEL_SMOOTHING
) -> tuple[Tensor, Tensor]:
    """As ``smoothed_cross_entropy``, for batches in which some labels are unknown (-1): the sum, and over how many."""
    total = functional.cross_entropy(
        logits_BC.float(), labels_B, label_smoothing=smoothing, ignore_index=-1, reduction="sum"
    )
    return total, (labels_B >= 0).sum()


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


def weigh_per_attribute(ratios_A: Tensor) -> Tensor:
    """Form A: one weight per attribute, exp(-p), whatever the label: (A,) -> (2, A), first row for label 0.

    p is the attribute's share of positives in training. DeepMAR (Li, Chen, Huang, ACPR 2015) in the form of the
    authors' code for PA-100K: rare attributes weigh up to 1, ever-present ones 0.37. It does not balance positives
    against negatives.
    """
    return torch.exp(-ratios_A).repeat(2, 1)


def weigh_per_label(ratios_A: Tensor) -> Tensor:
    """Form B: exp(1 - p) for positives, exp(p) for negatives: (A,) -> (2, A), first row for label 0.

    The class-balancing form of later code (Strong_Baseline, fast-reid) and, in words, of HydraPlus-Net's author.
    """
    return torch.stack([torch.exp(ratios_A), torch.exp(1 - ratios_A)])


def weighted_multi_label(logits_BA: Tensor, labels_BA: Tensor, weights_2A: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of weighted sigmoid cross-entropies, and over how many labels: -w [y log s + (1 - y) log(1 - s)].

    A label of NaN is unknown and counts for nothing. The mean, sum over count, is that of the authors' code for PA-100K
    (``BCEWithLogitsLoss``, over images and attributes); the supplement does not say over what it is taken.

    Args:
        logits_BA: before the sigmoid.
        labels_BA: 0, 1 or NaN.
        weights_2A: of label 0 and of label 1, from ``weigh_per_attribute`` or ``weigh_per_label``.

    Raises:
        ValueError: the shapes do not agree.
    """
    if logits_BA.shape != labels_BA.shape or weights_2A.shape != (2, logits_BA.shape[1]):
        raise ValueError(
            f"logits {tuple(logits_BA.shape)}, labels {tuple(labels_BA.shape)}, "
            f"weights {tuple(weights_2A.shape)} do not agree"
        )
    known = ~labels_BA.isnan()
    labels = labels_BA.nan_to_num(0)
    weights = torch.where(labels > 0, weights_2A[1], weights_2A[0]) * known
    losses = functional.binary_cross_entropy_with_logits(logits_BA.float(), labels, weights, reduction="none")
    return losses.sum(), known.sum()
