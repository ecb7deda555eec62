"""A head read in the embedder's own pass: what attribute and class predictors share.

Shapes: N inputs, B batch, P probabilities of each, D embedding.
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
    """Probabilities with the names of what they were made of."""

    probabilities: NDArray[np.float32]
    """(N, P), in [0, 1]."""
    vectors: NDArray[np.float32]
    """(N, D): the embeddings, from the same pass."""
    names: list[str]
    """N names: a path, ``input 3``, ``frame.jpg box 2``."""
    failures: list[ImageError]
    """What could not be used, if the run was to go on; these have no row."""

    def __len__(self) -> int:
        return len(self.names)


class Predictor(Embedder):
    """An ``Embedder`` that also says something. A subclass has the head, and ``predict``, which adds its names."""

    head: nn.Module
    """(B, D), as the network gives them -> (B, P), logits."""

    def to_probabilities(self, logits_BP: Tensor) -> Tensor:
        """(B, P) -> (B, P), in [0, 1]."""
        raise NotImplementedError(f"{type(self).__name__} says nothing")

    def _predict(self, inputs: Any, channels: ChannelOrder, on_error: OnError) -> dict[str, Any]:
        """The fields of ``Predictions``."""
        done = self.embed_named(inputs, channels=channels, on_error=on_error)
        return {"probabilities": done.probabilities, "vectors": done.vectors, "names": done.names,
                "failures": done.failures}  # fmt: skip

    def _read_probabilities(self, vectors: Tensor) -> NDArray[np.float32]:
        """(B, D) -> (B, P)."""
        with torch.inference_mode():
            logits = self.head(vectors.to(self.device)).float()
            return self.to_probabilities(logits).cpu().numpy()


def open_source(model: Network | Checkpoint | str | Path) -> tuple[Network | Checkpoint, str]:
    """A network or a checkpoint, read from a file if need be, and what to call it in messages.

    Raises:
        WeightsError: no such weights, or damaged ones.
    """
    if isinstance(model, Network):
        return model, "this network"
    if isinstance(model, Checkpoint):
        return model, "this checkpoint"
    return find_checkpoint(model), str(model)
