"""The saved state of a training run: one file that is replaced atomically and loaded with ``weights_only=True``."""

from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from osnet.errors import WeightsError
from osnet.files import written_aside

STATE_FILE = "state.pt"
FORMAT = "osnet-training-1"


@dataclass
class RunProgress:
    """How far a run has come."""

    epoch: int = 0
    """Index of the epoch of the next batch, from 0."""
    batch: int = 0
    """Index of the next batch in its epoch, from 0."""
    step: int = 0
    """Number of batches trained since the start."""
    sums: dict[str, float] = field(default_factory=dict)
    """Sums of the logged scalars over this epoch's batches, in process 0. If a run is resumed inside an epoch, every
    process starts from these sums."""
    published: int = 0
    """Number of epochs whose weights have been exported and, where validation was due, scored."""
    best_score: float = -1.0
    """The best validation score; -1 before the first."""
    best_epoch: int = -1
    """The epoch with the best score, counted from 1; -1 before the first."""
    num_ranks: int = 0
    """Number of processes that trained last; 0 if unknown."""


def save_state(
    folder: Path, recipe: dict[str, Any], data_sha256: str, progress: RunProgress, tensors: dict[str, Any]
) -> None:
    """Replace the state in ``folder``. A crash leaves the old state.

    Args:
        folder: the run's folder.
        recipe: the recipe as JSON would store it.
        data_sha256: ``DataList.sha256()`` of the training data.
        progress: how far the run has come.
        tensors: state dicts by name.
    """
    content = {
        "format": FORMAT,
        "recipe": recipe,
        "data_sha256": data_sha256,
        "progress": progress.__dict__,
        **tensors,
    }
    with written_aside(folder / STATE_FILE) as aside:
        torch.save(content, aside)


def read_state(folder: Path) -> bytes:
    """Read the bytes of the state file in ``folder``; no bytes if it does not exist.

    Raises:
        WeightsError: the file cannot be read, or is empty.
    """
    path = folder / STATE_FILE
    try:
        content = path.read_bytes() if path.exists() else None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    if content == b"":
        raise WeightsError(f"{path} is empty: this run cannot be resumed; choose another folder")
    return content or b""


def parse_state(content: bytes, folder: Path) -> dict[str, Any] | None:
    """Load the state from the bytes that ``read_state`` returned; None if there are none.

    Raises:
        WeightsError: the file is damaged, or was written in another format.
    """
    if not content:
        return None
    path = folder / STATE_FILE
    try:
        state = dict(torch.load(BytesIO(content), map_location="cpu", weights_only=True))
    except Exception as error:  # the restricted unpickler may raise anything on damaged bytes
        raise WeightsError(f"{path} cannot be read: {error!r}") from error
    if state.get("format") != FORMAT:
        raise WeightsError(f"{path} has the format {state.get('format')!r}; this version reads {FORMAT!r}")
    return state
