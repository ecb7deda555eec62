"""Classifying images. The embedding comes from the same forward pass.

Shapes: N inputs, B batch, C classes, P outputs of the head (here P = C), D embedding.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from osnet.embedding.embedder import OnError
from osnet.embedding.head_predictor import Predictions, Predictor, open_source
from osnet.errors import ModelError, WeightsError
from osnet.models.network import Network
from osnet.runtime.backends import BackendName
from osnet.types import ChannelOrder, Preprocessing
from osnet.weights.checkpoint import Checkpoint

IMAGENET, NUM_IMAGENET = "imagenet", 1000
"""If a card has this ``training_data`` but no class names, the classes are ImageNet's 1000, in the order of their
WordNet ids."""


@dataclass(frozen=True)
class ClassPredictions(Predictions):
    """A probability for each class. Each row sums to 1."""

    classes: tuple[str, ...]
    """C names, in the order of the columns of ``probabilities``."""

    def topk(self, row: int, k: int = 5) -> list[tuple[str, float]]:
        """The ``k`` most probable classes of one input, with their probabilities. Ties are in class order."""
        order = np.argsort(-self.probabilities[row], kind="stable")[:k]
        return [(self.classes[i], float(self.probabilities[row, i])) for i in order]


class ClassPredictor(Predictor):
    """An ``Embedder`` that also predicts the class of each image. Inputs, order and error handling are those of
    ``Embedder``.

    >>> predictor = ClassPredictor("my-run")                 # weights trained by a classification recipe
    >>> predictions = predictor.predict(["a.jpg", "b.jpg"])
    >>> predictions.topk(0, k=3)

    Embeddings are not normalised by default: a zero embedding has class probabilities but cannot be normalised.

    Args:
        model: a path or name of weights (see ``load_weights``), a ``Checkpoint``, or a network. A network needs
            ``classes``, and ``classifier`` unless it has one itself.
        classifier: maps embeddings (B, D) to logits (B, C); replaces the classifier of the weights.
        classes: names of the C classes; replace those on the card.
        device, batch_size, normalize, num_workers, preprocessing, flip, backend: see ``Embedder``. ``flip`` averages
            embeddings, not probabilities.

    Raises:
        WeightsError: the weights do not exist, are damaged, or have no classifier or no class names. A classifier of
            identities has no class names.
        ModelError: the number of names differs from the number of the classifier's outputs, or ``Embedder`` raises it.

    Warns:
        UserWarning: the card says ImageNet and names no classes, but the classifier has another number of outputs; the
            names are the outputs' numbers.
    """

    def __init__(
        self,
        model: Network | Checkpoint | str | Path,
        device: str | torch.device = "auto",
        batch_size: int = 32,
        normalize: bool = False,
        num_workers: int | None = None,
        preprocessing: Preprocessing | None = None,
        flip: bool = False,
        backend: BackendName = "auto",
        classifier: nn.Linear | None = None,
        classes: Sequence[str] = (),
    ) -> None:
        model, source = open_source(model)
        if isinstance(model, Checkpoint):
            classifier = classifier or model.build_classifier()
            if not classes and (classes := known_classes(model)) and not model.card.classes:
                _tell_numbers(source, len(classes))
        elif classifier is None and isinstance(model, Network):
            classifier = model.classifier
        if classifier is None:
            raise WeightsError(f"{source} has no classifier; train one, for example: osnet train cifar10-osnet-x1-0")
        if not classes:
            raise WeightsError(
                f"{source} has no class names (a classifier of identities has none); pass classes=[...], or train a "
                "classifier with names, for example: osnet train cifar10-osnet-x1-0"
            )
        if len(classes) != classifier.out_features:
            raise ModelError(
                f"{len(classes)} class names, but the classifier of {source} has {classifier.out_features} outputs"
            )
        super().__init__(model, device, batch_size, normalize, num_workers, preprocessing, flip, backend)
        self.head: nn.Linear = classifier.to(self.device).eval()
        self.classes = tuple(classes)

    def to_probabilities(self, logits_BP: Tensor) -> Tensor:
        """Softmax over the classes."""
        return torch.softmax(logits_BP, dim=1)

    def predict(self, inputs: Any, *, channels: ChannelOrder = "rgb", on_error: OnError = "raise") -> ClassPredictions:
        """Predict the classes of all inputs, in input order. Arguments and errors are those of ``Embedder.embed``.

        With ``on_error="skip"``, images that cannot be read have no row and are listed in ``failures``.
        """
        return ClassPredictions(classes=self.classes, **self._predict(inputs, channels, on_error))

    def classify_bytes(self, pixels: Tensor) -> NDArray[np.float32]:
        """Predict probabilities (N, C) for RGB images (N, 3, H, W) uint8 that already have the network's input size.

        Raises:
            ModelError: the images have another size or type.
        """
        if pixels.dtype != torch.uint8 or tuple(pixels.shape[1:]) != (3, *self.preprocessing.size_hw):
            height, width = self.preprocessing.size_hw
            raise ModelError(
                f"images have the type {pixels.dtype} and shape {tuple(pixels.shape)}; expected torch.uint8 and "
                f"(N, 3, {height}, {width})"
            )
        self._settle()
        rows = [np.empty((0, len(self.classes)), np.float32)]
        with torch.inference_mode():
            for start in range(0, len(pixels), self.batch_size):
                part = list(pixels[start : start + self.batch_size])
                rows.append(self._read_probabilities(self._run(part)))
        return np.concatenate(rows)


def known_classes(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Class names of a checkpoint: those on its card; "0" to "999" for ImageNet weights without names; else none."""
    card, head = checkpoint.card, checkpoint.state.get("classifier.weight")
    if not card.classes and card.training_data == IMAGENET and head is not None:
        return tuple(map(str, range(len(head))))
    return card.classes


def _tell_numbers(source: str, num_outputs: int) -> None:
    if num_outputs != NUM_IMAGENET:
        warnings.warn(
            f"{source}: its card says {IMAGENET}, but its classifier has {num_outputs} outputs instead of "
            f"{NUM_IMAGENET}, so these are not ImageNet's classes; they are shown as numbers from 0",
            stacklevel=3,
        )
