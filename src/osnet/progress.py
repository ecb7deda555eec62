"""Progress bars: how library functions report progress without depending on a terminal."""

from collections.abc import Callable, Iterable
from typing import Any

Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]
"""Wraps an iterable of known length and draws a labelled bar: ``progress(paths, len(paths), "query")``."""


def no_progress(iterable: Iterable[Any], _total: int, _label: str) -> Iterable[Any]:
    """A ``Progress`` that draws nothing."""
    return iterable
