"""What people look like, in words: pictures in, probabilities out; the embedding comes in the same pass.

Shapes: N inputs, A attributes, D embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from osnet.embedding.embedder import Embedder, OnError, pick_device
from osnet.embedding.head_predictor import Predictions, Predictor, open_source
from osnet.embedding.third_party import is_third_party
from osnet.errors import DataError, WeightsError
from osnet.models.heads import AttributeHead
from osnet.models.network import Network
from osnet.runtime.backends import BackendName
from osnet.types import ChannelOrder, Preprocessing
from osnet.weights.checkpoint import Checkpoint
from osnet.weights.hub import find_checkpoint


@dataclass(frozen=True)
class AttributePredictions(Predictions):
    """A probability of each attribute, each by itself: they do not add up to 1."""

    attributes: tuple[str, ...]
    """A names."""
    thresholds: tuple[float, ...]
    """A probabilities, from which on an attribute is said to hold."""

    def held(self, row: int) -> list[str]:
        """The attributes that are said to hold for one input."""
        return [
            name
            for name, threshold, value in zip(self.attributes, self.thresholds, self.probabilities[row], strict=True)
            if value >= threshold
        ]


class AttributePredictor(Predictor):
    """An ``Embedder`` that also says what people look like. It takes what an embedder takes, with the same promises.

    >>> predictor = AttributePredictor("my-run")             # weights that carry an attribute head
    >>> seen = predictor.predict(["a.jpg", "b.jpg"])
    >>> seen.held(0), seen.probabilities[0]

    Attributes that the card switches off are not computed and appear nowhere.

    Args:
        model: a path that ``load_weights`` takes; or a network, with its ``head``.
        head: instead of the one in the weights.
        device, batch_size, normalize, num_workers, preprocessing, backend: as for ``Embedder``.

    Raises:
        WeightsError: no such weights, damaged ones, or none with an attribute head.
        ModelError: as for ``Embedder``.
    """

    def __init__(
        self,
        model: Network | Checkpoint | str | Path,
        device: str | torch.device = "auto",
        batch_size: int = 32,
        normalize: bool = True,
        num_workers: int | None = None,
        preprocessing: Preprocessing | None = None,
        head: AttributeHead | None = None,
        backend: BackendName = "auto",
    ) -> None:
        model, source = open_source(model)
        if head is None and isinstance(model, Checkpoint):
            head = model.build_attribute_head()
        if head is None:
            raise WeightsError(
                f"{source} says no attributes: it has no head, or its card switches all of it off; train one, "
                "for instance: osnet train pa100k-osnet-x1-0"
            )
        super().__init__(model, device, batch_size, normalize, num_workers, preprocessing, backend=backend)
        self.head: AttributeHead = head.to(self.device).eval()

    def to_probabilities(self, logits_BP: Tensor) -> Tensor:
        """Each attribute by itself."""
        return torch.sigmoid(logits_BP)

    @property
    def attributes(self) -> tuple[str, ...]:
        """A names."""
        return self.head.names

    def predict(
        self, inputs: Any, *, channels: ChannelOrder = "rgb", on_error: OnError = "raise"
    ) -> AttributePredictions:
        """All at once, in the order of the input. Arguments and errors as for ``embed``; ``failures`` has the rest."""
        said = self._predict(inputs, channels, on_error)
        return AttributePredictions(attributes=self.head.names, thresholds=self.head.thresholds, **said)


def open_embedder(model: str | Path, device: str = "auto", batch_size: int = 32) -> Embedder:
    """An ``AttributePredictor`` if the weights say attributes, else an ``Embedder``; arguments as for these."""
    if is_third_party(model):
        return Embedder(model, device, batch_size)
    checkpoint = find_checkpoint(model)
    picked, head = pick_device(device, None), checkpoint.build_attribute_head()
    if head is None:
        return Embedder(checkpoint, picked, batch_size)
    return AttributePredictor(checkpoint, picked, batch_size, head=head)


def match_score(
    probabilities_NA: NDArray[np.float32], names: Sequence[str], having: Sequence[str], lacking: Sequence[str]
) -> NDArray[np.float32]:
    """How well each row fits a description: (N,), in [0, 1]; higher is closer.

    The geometric mean of the probabilities that each named attribute holds (``having``) or does not (``lacking``):
    one that does not fit at all makes it 0.

    Raises:
        DataError: nothing is asked for, an unknown attribute, or one both asked for and ruled out.
    """
    columns = find_attributes(names, having), find_attributes(names, lacking)
    if not columns[0] + columns[1]:
        raise DataError("no attribute is asked for")
    if twice := sorted({names[i] for i in columns[0]} & {names[i] for i in columns[1]}):
        raise DataError(f"{', '.join(twice)}: both asked for and ruled out")
    fits = np.concatenate([probabilities_NA[:, columns[0]], 1 - probabilities_NA[:, columns[1]]], axis=1)
    with np.errstate(divide="ignore"):
        return np.exp(np.log(fits.astype(np.float64)).mean(axis=1)).astype(np.float32)


def find_attributes(names: Sequence[str], asked: Sequence[str]) -> list[int]:
    """Places of attributes by name; case, spaces and punctuation do not matter: "long sleeve" is ``LongSleeve``.

    Raises:
        DataError: a name that is none of them.
    """
    place = {_plain(name): i for i, name in enumerate(names)}
    places = []
    for name in asked:
        plain = _plain(name)
        found = place.get(plain, place.get(plain.removesuffix("s")))
        if found is None:
            raise DataError(f"unknown attribute {name!r}; choose from {', '.join(names) or 'none: there are none'}")
        places.append(found)
    return places


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())
