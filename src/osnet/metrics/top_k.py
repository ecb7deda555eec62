"""Top-k accuracy of a classification. Pure functions. Shapes: N images, C classes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def label_ranks(scores_NC: ArrayLike, labels_N: ArrayLike) -> NDArray[np.int64]:
    """For each image, the place of its label among the classes sorted by falling score: (N,), 1 is the best.

    Among equal scores the lower class comes first, so a network that gives every class the same is not rewarded.

    Raises:
        ValueError: shapes that do not fit, a label outside 0 to C - 1, or a score that is not a number.
    """
    scores, labels = np.asarray(scores_NC), np.asarray(labels_N)
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(f"scores {scores.shape} and labels {labels.shape}: they must be (N, C) and (N,)")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels of type {labels.dtype}; give whole numbers")
    if len(labels) and not 0 <= labels.min() <= labels.max() < scores.shape[1]:
        raise ValueError(f"labels from {labels.min()} to {labels.max()} for {scores.shape[1]} classes")
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).any(1).sum())} of {len(labels)} images have a score that is no number")
    own = np.take_along_axis(scores, labels[:, None].astype(np.int64), axis=1)
    ahead = scores > own
    ahead |= (scores == own) & (np.arange(scores.shape[1]) < labels[:, None])
    return ahead.sum(1) + 1


def top_k_accuracy(scores_NC: ArrayLike, labels_N: ArrayLike, ks: Sequence[int] = (1, 5)) -> dict[int, float]:
    """k -> the share of images whose label is among the k classes with the highest scores, in [0, 1].

    Russakovsky et al., IJCV 2015, section 4.1 (one label per image): 1 - error.

    Raises:
        ValueError: as ``label_ranks``; no images; a k outside 1 to C (the top 5 of 4 classes are always right).
    """
    ranks = label_ranks(scores_NC, labels_N)
    classes = np.asarray(scores_NC).shape[1]
    if not len(ranks):
        raise ValueError("no images to score")
    if bad := [k for k in ks if not 1 <= k <= classes]:
        raise ValueError(f"top {bad[0]} of {classes} classes: k must be from 1 to {classes}")
    return {k: float((ranks <= k).mean()) for k in ks}


def accuracy_by_class(scores_NC: ArrayLike, labels_N: ArrayLike) -> NDArray[np.float64]:
    """Top-1 accuracy of each class's own images: (C,) in [0, 1]; NaN for a class without images."""
    labels = np.asarray(labels_N)
    right = label_ranks(scores_NC, labels) == 1
    classes = np.asarray(scores_NC).shape[1]
    counts = np.bincount(labels, minlength=classes)
    hits = np.bincount(labels[right], minlength=classes)
    return np.divide(hits, counts, out=np.full(classes, np.nan), where=counts > 0)
