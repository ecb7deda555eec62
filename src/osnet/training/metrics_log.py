"""The metrics log of a run: a file with one JSON object per line, and the same values for TensorBoard."""

import json
from pathlib import Path
from typing import Any

from osnet.errors import require_extra
from osnet.files import written_aside
from osnet.training.state import RunProgress

LOG_FILE, EVENTS = "metrics.jsonl", "events"
VALIDATION = "validation_"
"""Prefix of the names of validation scores."""


class MetricsLog:
    """The log in a run's folder. Only one process may write it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._events: Any = None

    def add(self, row: dict[str, Any]) -> None:
        """Append a row with ``step``, ``epoch`` and scalars."""
        with (self.folder / LOG_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self._events is None:
            tensorboard = require_extra("torch.utils.tensorboard", "train")
            self._events = tensorboard.SummaryWriter(str(self.folder / EVENTS))
        for name, value in row.items():
            if name not in ("step", "epoch"):
                self._events.add_scalar(name, value, row["step"])
        self._events.flush()

    def cut(self, progress: RunProgress) -> None:
        """Delete damaged rows, and those that were logged after ``progress``, the state from which the run resumes."""
        path = self.folder / LOG_FILE
        if path.exists():
            lines = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
            rows = [line for line in lines if _belongs(line, progress)]
            with written_aside(path) as aside:
                aside.write_bytes(b"".join(rows))


def _belongs(line: bytes, progress: RunProgress) -> bool:
    """True if a row was logged before ``progress`` was saved. Validation rows are compared by their epoch."""
    try:
        row = json.loads(line)
    except ValueError:  # after a power failure, the end of the file may be zeros
        return False
    if any(name.startswith(VALIDATION) for name in row):
        return bool(row["epoch"] <= progress.published)
    return bool(row["step"] <= progress.step and row["epoch"] <= progress.epoch)
