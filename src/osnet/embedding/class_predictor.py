"""What is on a photograph: pictures in, probabilities of classes out; the embedding comes in the same pass.

Shapes: N inputs, B batch, C classes, D embedding.
"""

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

IMAGENET = "imagenet"
"""Weights whose training data are called so have ImageNet's 1000 classes, sorted by WordNet id, even without names."""


@dataclass(frozen=True)
class ClassPredictions(Predictions):
    """A probability of each class; each row sums to 1."""

    classes: tuple[str, ...]
    """C names."""

    def best(self, row: int, top: int = 5) -> list[tuple[str, float]]:
        """The ``top`` classes of one input with their probabilities, the likeliest first (ties: the lower class)."""
        order = np.argsort(-self.probabilities[row], kind="stable")[:top]
        return [(self.classes[i], float(self.probabilities[row, i])) for i in order]


class ClassPredictor(Predictor):
    """An ``Embedder`` that also says which class a photograph is of. It takes what an embedder takes, with the same
    promises.

    >>> predictor = ClassPredictor("my-run")                 # weights trained by a classification recipe
    >>> seen = predictor.predict(["a.jpg", "b.jpg"])
    >>> seen.best(0, top=3)

    Vectors are as the network gives them unless ``normalize``: a photograph whose embedding is zero has classes too,
    but no direction.

    Args:
        model: a path that ``load_weights`` takes, a short name; or a network, with its ``classifier`` and ``classes``.
        classifier: instead of the one in the weights: (B, D) -> (B, C), logits.
        classes: C names, for that classifier, or instead of those on the card.
        device, batch_size, normalize, num_workers, preprocessing, flip, backend: as for ``Embedder``; ``flip`` averages
            embeddings, not probabilities.

    Raises:
        WeightsError: no such weights, damaged ones, or none with a classifier of things that have names.
        ModelError: as for ``Embedder``; or another number of names than the classifier has rows.
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
            classes = classes or known_classes(model)
        if classifier is None or not classes:
            reason = "no classifier" if classifier is None else "its classifier tells identities apart"
            raise WeightsError(
                f"{source} names no classes: {reason}; train one, for instance: osnet train cifar10-osnet-x1-0"
            )
        if len(classes) != classifier.out_features:
            raise ModelError(f"{len(classes)} names for the {classifier.out_features} classes of {source}")
        super().__init__(model, device, batch_size, normalize, num_workers, preprocessing, flip, backend)
        self.head: nn.Linear = classifier.to(self.device).eval()
        self.classes = tuple(classes)

    def to_probabilities(self, logits_BP: Tensor) -> Tensor:
        """Rows that sum to 1."""
        return torch.softmax(logits_BP, dim=1)

    def predict(self, inputs: Any, *, channels: ChannelOrder = "rgb", on_error: OnError = "raise") -> ClassPredictions:
        """All at once, in the order of the input. Arguments and errors as for ``embed``; ``failures`` has the rest."""
        return ClassPredictions(classes=self.classes, **self._predict(inputs, channels, on_error))

    def classify_bytes(self, pixels: Tensor) -> NDArray[np.float32]:
        """(N, 3, H, W) uint8, RGB, of the network's size already -> (N, C) probabilities; nothing is resized.

        Raises:
            ModelError: bytes of another size, or of another type.
        """
        if pixels.dtype != torch.uint8 or tuple(pixels.shape[1:]) != (3, *self.preprocessing.size_hw):
            raise ModelError(f"{pixels.dtype} of {tuple(pixels.shape)}: give uint8 (N, 3, "
                             f"{', '.join(map(str, self.preprocessing.size_hw))})")  # fmt: skip
        self._settle()
        rows = [np.empty((0, len(self.classes)), np.float32)]
        with torch.inference_mode():
            for start in range(0, len(pixels), self.batch_size):
                part = list(pixels[start : start + self.batch_size])
                rows.append(self._read_probabilities(self._run(part)))
        return np.concatenate(rows)


def known_classes(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The names of what a checkpoint tells apart: from its card; numbers for ImageNet's weights without names; none
    for identities."""
    card = checkpoint.card
    if not card.classes and card.training_data == IMAGENET:
        return tuple(map(str, range(card.num_classes)))
    return card.classes
