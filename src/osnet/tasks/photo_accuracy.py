"""How well weights tell photographs' classes: top-1 and top-5."""

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
    """Accuracies of a classification, as fractions."""

    data: str
    num_images: int
    classes: tuple[str, ...]
    top: dict[int, float]
    """k -> the share of images whose class is among the k likeliest; 5 only where there are more classes than that."""
    by_class: tuple[float | None, ...]
    """Top-1 of each class's own images; None for a class without any."""
    failures: list[ImageError] = field(default_factory=list)
    """Images that could not be read and are in no figure."""

    def to_json(self) -> dict[str, Any]:
        """As ``osnet evaluate-classes --out`` writes it."""
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
            lines.append(f"by class from {100 * low:.1f} % ({worst}) to {100 * high:.1f} % ({best})")
        if self.failures:
            lines.append(f"{len(self.failures)} images could not be read and are left out")
        return "\n".join(lines)


def score_photos(predictor: ClassPredictor, photos: PhotoSet, on_error: OnError = "raise") -> ClassScores:
    """Top-1, top-5 and each class's own accuracy, with the preprocessing of the predictor's weights: one crop.

    Args:
        predictor: whose weights.
        photos: with the same classes in the same order; names that are mere numbers fit any.
        on_error: ``raise`` at an image that cannot be read, or ``skip`` it and say so.

    Raises:
        DataError: no images, or other classes.
        ImageError: an image that cannot be read.
    """
    if photos.classes != predictor.classes and predictor.classes != tuple(map(str, range(len(photos.classes)))):
        raise DataError(
            f"{photos.name} has the classes {', '.join(photos.classes[:3])}, ... ({len(photos.classes)}), the weights "
            f"{', '.join(predictor.classes[:3])}, ... ({len(predictor.classes)})"
        )
    if not len(photos):
        raise DataError(f"{photos.name} has no images to score")
    probabilities, labels, failures = _look(predictor, photos, on_error)
    if not len(labels):
        raise DataError(f"{photos.name}: none of the {len(failures)} images can be read; the first: {failures[0]}")
    top = top_k_accuracy(probabilities, labels, [k for k in TOPS if k == 1 or k < len(photos.classes)])
    own = accuracy_by_class(probabilities, labels)
    by_class = tuple(None if np.isnan(value) else float(value) for value in own)
    return ClassScores(photos.name, len(labels), photos.classes, top, by_class, failures)


def _look(
    predictor: ClassPredictor, photos: PhotoSet, on_error: OnError
) -> tuple[NDArray[np.float32], NDArray[np.int64], list[ImageError]]:
    """(N, C) probabilities, (N,) labels, and what could not be read."""
    if isinstance(photos, PhotoBytes):
        given = photos.labels.cpu().numpy()
        size = tuple(photos.pixels.shape[2:])
        if size == predictor.preprocessing.size_hw and predictor.preprocessing.crop_from is None:
            return predictor.classify_bytes(photos.pixels), given, []
        return predictor.predict(photos.pixels.cpu()).probabilities, given, []
    if isinstance(photos, PackedIndex):
        labels: list[int] = []
        seen = predictor.predict(_packed_pictures(photos, labels))  # the shards were checked when they were packed
        return seen.probabilities, np.array(labels, np.int64), []
    seen = predictor.predict(photos.paths, on_error=on_error)
    label_of = {str(path): label for path, label in zip(photos.paths, photos.labels, strict=True)}
    return seen.probabilities, np.array([label_of[name] for name in seen.names], np.int64), seen.failures


def _packed_pictures(index: PackedIndex, labels: list[int]) -> Iterator[Any]:
    """Every picture, shard by shard; the labels are appended as it goes."""
    for shard in index.shards:
        for _, name, content, label in read_shard(index, shard):
            labels.append(label)
            yield decode_image(content, name)
