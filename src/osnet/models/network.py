"""The base class of all networks: an image goes in, an embedding comes out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from osnet.models.config import NetworkConfig
from osnet.weights.card import Card


class Network(nn.Module, ABC):
    """Maps images (B, 3, H, W) to embeddings (B, D), in training and in eval mode; D is ``config.embedding_size``.

    Attributes:
        config: the settings that the network was built from.
        card: the metadata of the loaded weights; None for random weights.
        classifier: maps embeddings (B, D) to logits (B, C); None unless ``create_model`` was called with
            ``num_classes``. ``forward`` does not use it.
    """

    config: NetworkConfig
    card: Card | None = None

    def __init__(self) -> None:
        super().__init__()
        self.classifier: nn.Linear | None = None

    @abstractmethod
    def feature_map(self, x: Tensor) -> Tensor:
        """The last feature map before pooling: (B, 3, H, W) -> (B, C, h, w)."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Embed a batch: (B, 3, H, W) -> (B, D)."""

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> Self:
        """Load a network with its weights from the Hugging Face Hub, in eval mode. Nothing is unpickled.

        Args:
            source: ``org/name``, ``org/name@revision``, or a checkpoint folder.
            revision: a branch, a tag or a commit. Only a commit always means the same files.
            cache_dir, force_download, local_files_only, token: passed to huggingface_hub.

        Raises:
            WeightsError: the repository or revision does not exist, cannot be reached, or has a network of another
                class.
        """
        network: Self = _hub().load_from_hub(
            cls,
            source,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )
        return network

    def save_pretrained(self, folder: str | Path, *, figures: Mapping[str, str] | None = None) -> None:
        """Write the files that ``push_to_hub`` uploads: card, tensors, settings, and a model page made from the card.

        Args:
            folder: created if it does not exist; ``from_pretrained`` can read it.
            figures: measured results to show on the model page.
        """
        _hub().save_for_hub(self, folder, figures)

    def push_to_hub(self, repo_id: str, *, figures: Mapping[str, str] | None = None, **options: Any) -> str:
        """Upload to ``org/name`` on the Hugging Face Hub and return the URL of the commit.

        Args:
            repo_id: ``org/name``; created if it does not exist.
            figures: measured results to show on the model page.
            **options: ``commit_message``, ``private``, ``token``, ``branch``, ``create_pr``.

        Raises:
            OutputError: the Hub refused, cannot be reached, or the name is not valid.
        """
        address: str = _hub().push(self, repo_id, figures=figures, **options)
        return address


def _hub() -> Any:
    """Import ``hugging_face`` on first use: it imports this module, and needs more than torch."""
    return import_module("osnet.weights.hugging_face")
