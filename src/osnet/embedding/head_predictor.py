"""Base of the predictors: a head that is applied in the embedder's own forward pass.

Shapes: N inputs, B batch, P outputs of the head, D embedding.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from osnet.embedding.embedder import Embedder, OnError
from osnet.errors import ImageError
from osnet.models.network import Network
from osnet.types import ChannelOrder
from osnet.weights.checkpoint import Checkpoint
from osnet.weights.hub import find_checkpoint


@dataclass(frozen=True)
class Predictions:
    """Probabilities and embeddings, with the names of the inputs."""

    probabilities: NDArray[np.float32]
    """(N, P), in [0, 1]."""
    vectors: NDArray[np.float32]
    """(N, D): the embeddings, from the same forward pass."""
    names: list[str]
    """N names of the inputs: a path, ``input 3``, ``frame.jpg box 2``."""
    failures: list[ImageError]
    """Inputs that could not be used, with ``on_error="skip"``. They have no row."""

    def __len__(self) -> int:
        return len(self.names)


class Predictor(Embedder):
    """An ``Embedder`` with a head. A subclass sets ``head`` and has ``predict``, whose result names the outputs."""

    head: nn.Module
    """Maps embeddings (B, D), not normalised, to logits (B, P)."""

    def to_probabilities(self, logits_BP: Tensor) -> Tensor:
        """Logits (B, P) to probabilities (B, P)."""
        raise NotImplementedError(f"{type(self).__name__}.to_probabilities")

    def _predict(self, inputs: Any, channels: ChannelOrder, on_error: OnError) -> dict[str, Any]:
        """The fields of ``Predictions``, as a dict."""
        done = self.embed_named(inputs, channels=channels, on_error=on_error)
        return {
            "probabilities": done.probabilities,
            "vectors": done.vectors,
            "names": done.names,
            "failures": done.failures,
        }

    def _read_probabilities(self, vectors: Tensor) -> NDArray[np.float32]:
        """Probabilities (B, P) of embeddings (B, D)."""
        with torch.inference_mode():
            weights = next(self.head.parameters(), vectors)  # of a network in half precision, too
            logits = self.head(vectors.to(self.device, weights.dtype)).float()
            return self.to_probabilities(logits).cpu().numpy()


def open_source(model: Network | Checkpoint | str | Path) -> tuple[Network | Checkpoint, str]:
    """The network or checkpoint, read from a file if ``model`` is a path or a short name; and its name for messages.

    Raises:
        WeightsError: the weights do not exist or are damaged.
    """
    if isinstance(model, Network):
        return model, "this network"
    if isinstance(model, Checkpoint):
        return model, "this checkpoint"
    return find_checkpoint(model), str(model)
