"""What every network of the library is: an image goes in, an embedding comes out."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from osnet.models.config import NetworkConfig
from osnet.weights.card import Card


class Network(nn.Module, ABC):
    """(B, 3, H, W) -> (B, D), always, whatever the mode; ``config.embedding_size`` is D.

    Attributes:
        config: the settings it was built from.
        card: what its weights say about themselves; None for random ones.
    """

    config: NetworkConfig
    card: Card | None = None

    @abstractmethod
    def feature_map(self, x: Tensor) -> Tensor:
        """The last map before pooling: (B, 3, H, W) -> (B, C, h, w)."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D)."""
