"""What every network of the library is: an image goes in, an embedding comes out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Self

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
        """A network with weights from the Hugging Face Hub, in eval mode; nothing is ever unpickled.

        Args:
            source: ``org/name``, ``org/name@revision``, or a checkpoint folder.
            revision: a branch, a tag or a commit; a commit pins what is loaded.
            cache_dir, force_download, local_files_only, token: as huggingface_hub takes them.

        Raises:
            WeightsError: no such repository or revision, it cannot be reached, or it holds another network.
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
        """Write what ``push_to_hub`` uploads: card, tensors, settings and a page made from the card.

        Args:
            folder: made if need be; ``from_pretrained`` reads it back.
            figures: what was measured, for the page.
        """
        _hub().save_for_hub(self, folder, figures)

    def push_to_hub(self, repo_id: str, *, figures: Mapping[str, str] | None = None, **options: Any) -> str:
        """Upload to ``org/name`` on the Hugging Face Hub. Returns the commit's address.

        Args:
            repo_id: made if need be.
            figures: what was measured, for the page.
            **options: ``commit_message``, ``private``, ``token``, ``branch``, ``create_pr``.
        """
        address: str = _hub().push(self, repo_id, figures=figures, **options)
        return address


def _hub() -> Any:
    """Loaded when it is first used: it needs more than torch, and is made of networks itself."""
    return import_module("osnet.weights.hugging_face")
