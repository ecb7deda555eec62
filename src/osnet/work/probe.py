"""A task that does nothing of use: to try a runner on a cluster before real work, and to measure what it costs."""

import time
from hashlib import sha256
from pathlib import Path
from typing import Any

from osnet.files import written_aside


class Probe:
    """Waits ``seconds``, then writes digests of the item's label; fails if the item says so."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._rounds = int(settings.get("rounds", 1000))

    def __call__(self, item: dict[str, Any], result: Path) -> None:
        """Wait, then write."""
        time.sleep(float(item.get("seconds", 0)))
        if item.get("fails"):
            raise ValueError(f"{item['label']} fails, as it was asked to")
        digest = str(item["label"]).encode()
        with written_aside(result) as aside, aside.open("wb") as file:
            for _ in range(self._rounds):
                digest = sha256(digest).digest()
                file.write(digest)
