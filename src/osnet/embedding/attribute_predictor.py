"""Predicting attributes of people (backpack, long sleeves). The embedding comes from the same forward pass.

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

from osnet.devices import pick_device
from osnet.embedding.embedder import Embedder, OnError
from osnet.embedding.head_predictor import Predictions, Predictor, open_source
from osnet.embedding.third_party import is_third_party
from osnet.errors import DataError, WeightsError
from osnet.models.heads import AttributeHead
from osnet.models.network import Network
from osnet.runtime.backends import BackendName
from osnet.types import ChannelOrder, Preprocessing
from osnet.weights.card import CARD_FILE, read_card
from osnet.weights.checkpoint import Checkpoint
from osnet.weights.hub import find_checkpoint


@dataclass(frozen=True)
class AttributePredictions(Predictions):
    """A probability for each attribute. They are independent and do not sum to 1."""

    attributes: tuple[str, ...]
    """A names, in the order of the columns of ``probabilities``."""
    thresholds: tuple[float, ...]
    """A probabilities: an attribute is predicted positive from its threshold on."""

    def positive(self, row: int) -> list[str]:
        """Names of the attributes predicted positive for one input, in the order of ``attributes``."""
        return [
            name
            for name, threshold, value in zip(self.attributes, self.thresholds, self.probabilities[row], strict=True)
            if value >= threshold
        ]


class AttributePredictor(Predictor):
    """An ``Embedder`` that also predicts attributes of people.

    Inputs, order and error handling are those of ``Embedder``.

    >>> predictor = AttributePredictor("my-run")             # weights that carry an attribute head
    >>> predictions = predictor.predict(["a.jpg", "b.jpg"])
    >>> predictions.positive(0), predictions.probabilities[0]

    Attributes that the weights' card switches off are not computed and appear in no result.

    Args:
        model: a path or short name, as ``load_weights`` takes it; a ``Checkpoint``; or a network, which needs ``head``.
        head: replaces the head of the weights.
        device, batch_size, normalize, num_workers, preprocessing, backend: as for ``Embedder``.

    Raises:
        WeightsError: the weights do not exist, are damaged, or have no attribute head.
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
                f"{source} predicts no attributes: no attribute head, or all attributes switched off; "
                "train one, for instance: osnet train pa100k-osnet-x1-0"
            )
        super().__init__(model, device, batch_size, normalize, num_workers, preprocessing, backend=backend)
        self.head: AttributeHead = head.to(self.device).eval()

    def to_probabilities(self, logits_BP: Tensor) -> Tensor:
        """Sigmoid of each logit."""
        return torch.sigmoid(logits_BP)

    @property
    def attributes(self) -> tuple[str, ...]:
        """A names, in the order of the columns of the probabilities."""
        return self.head.names

    def predict(
        self, inputs: Any, *, channels: ChannelOrder = "rgb", on_error: OnError = "raise"
    ) -> AttributePredictions:
        """Predictions of all inputs, in the order of the input. Arguments and errors are those of ``Embedder.embed``.

        With ``on_error="skip"``, images that cannot be used have no row and are listed in ``failures``.
        """
        fields = self._predict(inputs, channels, on_error)
        return AttributePredictions(attributes=self.head.names, thresholds=self.head.thresholds, **fields)


def open_embedder(
    model: str | Path, device: str = "auto", batch_size: int = 32, backend: BackendName = "auto"
) -> Embedder:
    """An ``AttributePredictor`` if the weights have an attribute head, else an ``Embedder``. Arguments as for these."""
    path = Path(model)
    folder = path if (path / CARD_FILE).is_file() else path / "weights"  # as in a gallery
    if (folder / CARD_FILE).is_file() and not is_third_party(model):
        headless = not read_card(folder)[0].attributes
    else:
        headless = is_third_party(model) or (path.is_file() and path.suffix in (".pth", ".pt"))
    if headless:  # found without reading the tensors
        return Embedder(model, device, batch_size, backend=backend)
    checkpoint = find_checkpoint(model)
    picked, head = pick_device(device), checkpoint.build_attribute_head()
    if head is None:
        return Embedder(checkpoint, picked, batch_size, backend=backend)
    return AttributePredictor(checkpoint, picked, batch_size, head=head, backend=backend)


def match_score(
    probabilities_NA: NDArray[np.float32], names: Sequence[str], having: Sequence[str], lacking: Sequence[str]
) -> NDArray[np.float32]:
    """How well each row matches a description: (N,), in [0, 1]; higher is better.

    The geometric mean of p for each attribute in ``having`` and 1 - p for each in ``lacking``. A factor of 0 makes
    the score 0.

    Args:
        probabilities_NA: (N, A), in [0, 1].
        names: of the A columns.
        having: attributes that the person has.
        lacking: attributes that the person does not have.

    Raises:
        DataError: no attribute is named, one is unknown, or one is in both lists.
    """
    columns = find_attributes(names, having), find_attributes(names, lacking)
    if not columns[0] + columns[1]:
        raise DataError("no attribute is named; give at least one that the person has or lacks")
    if twice := sorted({names[i] for i in columns[0]} & {names[i] for i in columns[1]}):
        raise DataError(f"{', '.join(twice)}: named both as present and as absent")
    fits = np.concatenate([probabilities_NA[:, columns[0]], 1 - probabilities_NA[:, columns[1]]], axis=1)
    with np.errstate(divide="ignore"):
        return np.exp(np.log(fits.astype(np.float64)).mean(axis=1)).astype(np.float32)


def find_attributes(names: Sequence[str], asked: Sequence[str]) -> list[int]:
    """Indices of attributes in ``names``.

    If no name is equal, case, spaces, punctuation and a final s are ignored: "long sleeves" finds ``LongSleeve``.

    Raises:
        DataError: an unknown name; the message lists the known ones. Or a name that fits several.
    """
    known = [_spellings(name) for name in names]
    places: list[int] = []
    for name in asked:
        wanted = _spellings(name)
        found: list[int] = []
        for level in range(len(wanted)):
            found = found or [i for i, spelled in enumerate(known) if spelled[level] == wanted[level]]
        if not found:
            raise DataError(
                f"unknown attribute {name!r}; choose from: {', '.join(names) or '(no attributes are stored)'}"
            )
        if len(found) > 1:
            raise DataError(
                f"attribute {name!r} may be {' or '.join(names[i] for i in found)}; write it as it is stored"
            )
        places += found
    return places


def _spellings(name: str) -> tuple[str, str, str]:
    """The name; without case, spaces and punctuation; also without a final s."""
    plain = "".join(c for c in name.lower() if c.isalnum())
    return name, plain, plain.removesuffix("s")
