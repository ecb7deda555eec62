"""Scores of image classification: top-1 and top-5 accuracy, and the accuracy of each class."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osnet.data.loading import decode_image
from osnet.embedding.class_predictor import ClassPredictor
from osnet.embedding.embedder import OnError
from osnet.errors import DataError, ImageError
from osnet.metrics.top_k import accuracy_by_class, top_k_accuracy
from osnet.photos.image_folder import PhotoBytes
from osnet.photos.reader import PhotoSet
from osnet.photos.shards import PackedIndex, read_shard

TOPS = (1, 5)


@dataclass(frozen=True)
class ClassScores:
    """Scores of a classification. Accuracies are fractions from 0 to 1."""

    data: str
    """Name of the data set and its part."""
    num_images: int
    """Number of images that were scored."""
    classes: tuple[str, ...]
    """Names of the classes."""
    top: dict[int, float]
    """Top-k accuracy by k. k = 5 is left out if there are five classes or fewer."""
    by_class: tuple[float | None, ...]
    """Top-1 accuracy on the images of each class; None for a class without images."""
    failures: list[ImageError] = field(default_factory=list)
    """Images that could not be read. They are not counted in any score."""

    def to_json(self) -> dict[str, Any]:
        """The content of the file that ``osnet evaluate-classes --out`` writes."""
        return {
            "data": self.data,
            "images": self.num_images,
            **{f"top{k}": value for k, value in self.top.items()},
            "by_class": dict(zip(self.classes, self.by_class, strict=True)),
            "left_out": [str(failure) for failure in self.failures],
        }

    def __str__(self) -> str:
        lines = [f"{self.data}: {self.num_images:,} images, {len(self.classes):,} classes, one crop each"]
        lines += [f"{f'top-{k}':<8}{100 * value:>7.2f} %" for k, value in self.top.items()]
        known = sorted((v, n) for v, n in zip(self.by_class, self.classes, strict=True) if v is not None)
        if len(known) > 1:
            (low, worst), (high, best) = known[0], known[-1]
            lines.append(f"by class: from {100 * low:.1f} % ({worst}) to {100 * high:.1f} % ({best})")
        if self.failures:
            lines.append(f"{len(self.failures)} images could not be read and were left out")
        return "\n".join(lines)


def score_photos(predictor: ClassPredictor, photos: PhotoSet, on_error: OnError = "raise") -> ClassScores:
    """Score a classifier on images, with the preprocessing of its weights (one crop per image).

    Args:
        predictor: the classifier.
        photos: images whose classes are those of the predictor, in the same order. If the predictor's class names are
            only the numbers 0, 1, 2, ..., they match any names.
        on_error: ``raise`` an error for an image that cannot be read, or ``skip`` it and list it in ``failures``.

    Raises:
        DataError: there are no images, none can be read, or the classes differ from the predictor's.
        ImageError: an image cannot be read and ``on_error`` is ``raise``.
    """
    if photos.classes != predictor.classes and predictor.classes != tuple(map(str, range(len(photos.classes)))):
        raise DataError(
            f"{photos.name} has {len(photos.classes)} classes ({', '.join(photos.classes[:3])}, ...), but the weights "
            f"have {len(predictor.classes)} ({', '.join(predictor.classes[:3])}, ...); both need the same classes in "
            "the same order"
        )
    if not len(photos):
        raise DataError(f"{photos.name} has no images to score")
    probabilities, labels, failures = _predict(predictor, photos, on_error)
    if not len(labels):
        raise DataError(
            f"{photos.name}: none of its {len(failures)} images can be read; the first error: {failures[0]}"
        )
    top = top_k_accuracy(probabilities, labels, [k for k in TOPS if k == 1 or k < len(photos.classes)])
    accuracies = accuracy_by_class(probabilities, labels)
    by_class = tuple(None if np.isnan(value) else float(value) for value in accuracies)
    return ClassScores(photos.name, len(labels), photos.classes, top, by_class, failures)


def _predict(
    predictor: ClassPredictor, photos: PhotoSet, on_error: OnError
) -> tuple[NDArray[np.float32], NDArray[np.int64], list[ImageError]]:
    """Probabilities (N, C), labels (N,), and the images that could not be read."""
    if isinstance(photos, PhotoBytes):
        labels_N = photos.labels.cpu().numpy()
        size = tuple(photos.pixels.shape[2:])
        if size == predictor.preprocessing.size_hw and predictor.preprocessing.crop_from is None:
            return predictor.classify_bytes(photos.pixels), labels_N, []
        return predictor.predict(photos.pixels.cpu()).probabilities, labels_N, []
    if isinstance(photos, PackedIndex):
        labels: list[int] = []
        predicted = predictor.predict(_decode_packed(photos, labels))  # images were checked when they were packed
        return predicted.probabilities, np.array(labels, np.int64), []
    predicted = predictor.predict(photos.paths, on_error=on_error)
    label_of = {str(path): label for path, label in zip(photos.paths, photos.labels, strict=True)}
    labels_N = np.array([label_of[name] for name in predicted.names], np.int64)
    return predicted.probabilities, labels_N, predicted.failures


def _decode_packed(index: PackedIndex, labels: list[int]) -> Iterator[Any]:
    """Yield the decoded images, shard by shard, and append each image's label to ``labels``."""
    for shard in index.shards:
        for _, name, content, label in read_shard(index, shard):
            labels.append(label)
            yield decode_image(content, name)
