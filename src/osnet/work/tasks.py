"""The tasks that workers can do, by name. A list of work names one; no code is read from a list."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

TASKS = {
    "embed": "osnet.work.embedding:EmbedBlock",
    "probe": "osnet.work.probe:Probe",
    "video": "osnet.video.spread:IndexSegment",
}


class Task(Protocol):
    """Does one item after the other; what is slow to make is made once, in the constructor."""

    def __call__(self, item: dict[str, Any], result: Path) -> None:
        """Write the result of an item to ``result``, by a rename. The same item gives the same bytes."""
        ...


def make_task(name: str, settings: dict[str, Any]) -> Task:
    """The task of this name. Raises ValueError if there is none."""
    if name not in TASKS:
        raise ValueError(f"no task {name!r}; there are {', '.join(TASKS)}")
    module, _, kind = TASKS[name].partition(":")
    make: Callable[[dict[str, Any]], Task] = getattr(import_module(module), kind)
    return make(settings)
