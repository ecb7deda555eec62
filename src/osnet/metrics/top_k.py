"""Top-k accuracy of a classifier. Pure functions of arrays. Shapes: N images, C classes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def label_ranks(scores_NC: ArrayLike, labels_N: ArrayLike) -> NDArray[np.int64]:
    """(N,): rank of each image's label among the classes, by decreasing score; 1 is the best.

    Equal scores rank by class index, so a network with the same score for every class gains nothing.

    Raises:
        ValueError: shapes do not agree, labels are not integers from 0 to C - 1, or a score is NaN.
    """
    scores, labels = np.asarray(scores_NC), np.asarray(labels_N)
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(f"scores have shape {scores.shape} and labels {labels.shape}; they must be (N, C) and (N,)")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels have type {labels.dtype}; they must be integers")
    if len(labels) and not 0 <= labels.min() <= labels.max() < scores.shape[1]:
        raise ValueError(
            f"labels from {labels.min()} to {labels.max()} for {scores.shape[1]} classes; they must be from 0 to "
            f"{scores.shape[1] - 1}"
        )
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).any(1).sum())} of {len(labels)} images have a NaN score")
    own = np.take_along_axis(scores, labels[:, None].astype(np.int64), axis=1)
    ahead = scores > own
    ahead |= (scores == own) & (np.arange(scores.shape[1]) < labels[:, None])
    return ahead.sum(1) + 1


def top_k_accuracy(scores_NC: ArrayLike, labels_N: ArrayLike, ks: Sequence[int] = (1, 5)) -> dict[int, float]:
    """Share of images whose label is among the k highest-scored classes, by k; in [0, 1].

    This is 1 minus the top-k error of Russakovsky et al., IJCV 2015, section 4.1 (one label per image).

    Raises:
        ValueError: as for ``label_ranks``; there are no images; or a k is outside 1 to C.
    """
    ranks = label_ranks(scores_NC, labels_N)
    classes = np.asarray(scores_NC).shape[1]
    if not len(ranks):
        raise ValueError("no images to score; give at least one row")
    if bad := [k for k in ks if not 1 <= k <= classes]:
        raise ValueError(f"top {bad[0]} of {classes} classes; k must be from 1 to {classes}")
    return {k: float((ranks <= k).mean()) for k in ks}


def accuracy_by_class(scores_NC: ArrayLike, labels_N: ArrayLike) -> NDArray[np.float64]:
    """(C,): top-1 accuracy over the images of each class, in [0, 1]; NaN for a class without images."""
    labels = np.asarray(labels_N)
    right = label_ranks(scores_NC, labels) == 1
    classes = np.asarray(scores_NC).shape[1]
    counts = np.bincount(labels, minlength=classes)
    hits = np.bincount(labels[right], minlength=classes)
    return np.divide(hits, counts, out=np.full(classes, np.nan), where=counts > 0)
