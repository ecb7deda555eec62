"""What a run needs to go on: one file, written aside and renamed, loaded without unpickling objects."""

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
class Progress:
    """Where a run is: the next batch to train."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    """Batches trained in all."""
    sums: dict[str, float] = field(default_factory=dict)
    """Of this epoch's scalars so far, in the first process: after a stop in mid-epoch, the log counts these for all."""
    published: int = 0
    """Epochs whose weights have been exported and, if it was time, scored."""
    best_score: float = -1.0
    best_epoch: int = -1
    num_ranks: int = 0
    """Processes that trained last; 0: not known."""


def save_state(
    folder: Path, recipe: dict[str, Any], data_sha256: str, progress: Progress, tensors: dict[str, Any]
) -> None:
    """Replace the state in ``folder``; a crash in the middle leaves the old one.

    ``data_sha256``: of the list of what is trained on.
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
    """The file in ``folder``; nothing if there is none.

    Raises:
        WeightsError: it cannot be read, or is empty.
    """
    path = folder / STATE_FILE
    try:
        content = path.read_bytes() if path.exists() else None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    if content == b"":
        raise WeightsError(f"{path} cannot be read: it is empty")
    return content or b""


def parse_state(content: bytes, folder: Path) -> dict[str, Any] | None:
    """The state that ``read_state`` found in ``folder``, or None if there is none.

    Raises:
        WeightsError: it is damaged, or of another version.
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
