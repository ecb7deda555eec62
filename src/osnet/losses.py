"""Losses for re-identification and for attributes, as pure functions of tensors.

Shapes: B batch size, C number of classes, D embedding size, A number of attributes.
"""

import torch
from torch import Tensor
from torch.nn import functional

LABEL_SMOOTHING = 0.1
"""Default smoothing: the paper's value for all of its re-identification experiments."""
MARGIN = 0.3
"""Default margin of the triplet loss, in units of the Euclidean distance."""


def smoothed_cross_entropy(logits_BC: Tensor, labels_B: Tensor, smoothing: float = LABEL_SMOOTHING) -> Tensor:
    """Cross-entropy with label smoothing (Szegedy et al., CVPR 2016, section 7).

    The target is 1 - eps + eps / C for the labelled class and eps / C for the others, where eps is ``smoothing``.

    Args:
        logits_BC: scores before the softmax.
        labels_B: class indices from 0 to C - 1.
        smoothing: from 0 (plain cross-entropy) up to, but not including, 1.

    Returns:
        A scalar >= 0: the mean over the batch.

    Raises:
        ValueError: a label is outside 0 to C - 1 (checked on the CPU only: elsewhere the host would wait for the
            device), or ``smoothing`` is outside [0, 1).
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing {smoothing} must be at least 0 and less than 1")
    num_classes = logits_BC.shape[1]
    # PyTorch's own error for a bad label does not say which label it was.
    known = (labels_B >= 0) & (labels_B < num_classes)
    if labels_B.device.type == "cpu" and len(labels_B) and not bool(known.all()):
        raise ValueError(
            f"labels range from {int(labels_B.min())} to {int(labels_B.max())}; with {num_classes} classes they must "
            f"be from 0 to {num_classes - 1}"
        )
    return functional.cross_entropy(logits_BC, labels_B, label_smoothing=smoothing)


def smoothed_cross_entropy_sum(
    logits_BC: Tensor, labels_B: Tensor, smoothing: float = LABEL_SMOOTHING
) -> tuple[Tensor, Tensor]:
    """The loss of ``smoothed_cross_entropy`` as a sum, for batches in which some labels are unknown (-1).

    Returns:
        The sum of the losses over the known labels, and the number of known labels. Both are scalars.
    """
    total = functional.cross_entropy(
        logits_BC.float(), labels_B, label_smoothing=smoothing, ignore_index=-1, reduction="sum"
    )
    return total, (labels_B >= 0).sum()


def pairwise_distance(embeddings_BD: Tensor) -> Tensor:
    """Euclidean distances between all pairs of rows: (B, B).

    They are at least 1e-6, because the square root has no finite gradient at 0. Computed in float32 or float64,
    also under autocast: in bfloat16, small distances would be rounding errors.
    """
    with torch.autocast(embeddings_BD.device.type, enabled=False):
        embeddings_BD = embeddings_BD.to(torch.promote_types(embeddings_BD.dtype, torch.float32))
        squared = embeddings_BD.square().sum(1)
        products = embeddings_BD @ embeddings_BD.T
        return (squared[:, None] + squared[None, :] - 2 * products).clamp(min=1e-12).sqrt()


def batch_hard_triplet(embeddings_BD: Tensor, pids_B: Tensor, margin: float | None = MARGIN) -> Tensor:
    """Batch-hard triplet loss (Hermans et al., "In Defense of the Triplet Loss", 2017, eq. 5).

    An anchor is an image that has another image of its identity in the batch. For each anchor, d_pos is the distance
    to its farthest image of the same identity and d_neg the distance to its nearest image of another identity. The
    loss is the mean of max(0, margin + d_pos - d_neg), or of log(1 + exp(d_pos - d_neg)) with the soft margin
    (section 2 of the same paper).

    Args:
        embeddings_BD: embeddings, not normalised.
        pids_B: identities.
        margin: margin in the units of the distance; None for the soft margin.

    Returns:
        A scalar >= 0.

    Raises:
        ValueError: all images of the batch have one identity, or no identity occurs twice. It is raised for identities
            on the CPU only, because the check would make the host wait for a device. There the loss is not finite,
            or 0.
    """
    same = pids_B[:, None] == pids_B[None, :]
    positives = same & ~torch.eye(len(pids_B), dtype=torch.bool, device=same.device)
    anchors = positives.any(1)
    if pids_B.device.type == "cpu" and (not bool(anchors.any()) or bool(same.all())):
        raise ValueError(
            f"a batch of {len(pids_B)} images of {len(set(pids_B.tolist()))} identities contains no triplet. A triplet "
            "needs two identities, one of them with two images: use the identity sampler"
        )
    distance = pairwise_distance(embeddings_BD.float())
    gap = distance.masked_fill(~positives, 0).amax(1) - distance.masked_fill(same, torch.inf).amin(1)
    losses = functional.softplus(gap) if margin is None else (gap + margin).clamp(min=0)
    # Selecting the anchors instead would make the host wait for the device, which counts them.
    return losses.masked_fill(~anchors, 0).sum() / anchors.sum()


def weigh_per_attribute(ratios_A: Tensor) -> Tensor:
    """Loss weights exp(-p), the same for both labels of an attribute ("form A").

    This is the weighting of DeepMAR (Li, Chen, Huang, ACPR 2015) as the code of OSNet's authors for PA-100K computes
    it. An attribute that is never positive has weight 1; one that is always positive has weight exp(-1) = 0.37.
    Positives are not balanced against negatives.

    Args:
        ratios_A: p, the share of positives of each attribute in the training data, from 0 to 1.

    Returns:
        (2, A): row 0 for label 0, row 1 for label 1.
    """
    return torch.exp(-ratios_A).repeat(2, 1)


def weigh_per_label(ratios_A: Tensor) -> Tensor:
    """Loss weights exp(1 - p) for positives and exp(p) for negatives, which balance the two ("form B").

    Later code uses this weighting (Strong_Baseline, fast-reid), and the author of HydraPlus-Net describes it.

    Args:
        ratios_A: p, the share of positives of each attribute in the training data, from 0 to 1.

    Returns:
        (2, A): row 0 for label 0, row 1 for label 1.
    """
    return torch.stack([torch.exp(ratios_A), torch.exp(1 - ratios_A)])


def weighted_multi_label(logits_BA: Tensor, labels_BA: Tensor, weights_2A: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted sigmoid cross-entropy, -w [y log s + (1 - y) log(1 - s)], summed over images and attributes.

    The sum divided by the count is the mean over images and attributes, as in the authors' code for PA-100K
    (``BCEWithLogitsLoss``). The paper's supplement does not say how the mean is taken.

    Args:
        logits_BA: scores before the sigmoid.
        labels_BA: 0, 1, or NaN where the label is unknown.
        weights_2A: weights of label 0 (row 0) and label 1 (row 1), from ``weigh_per_attribute`` or ``weigh_per_label``.

    Returns:
        The sum over the known labels, and the number of known labels. Both are scalars.

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
