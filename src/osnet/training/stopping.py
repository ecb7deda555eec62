"""How a run stops between two batches, or is put back to where the last whole one ended."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def buffers_kept_on_error(module: nn.Module) -> Iterator[None]:
    """Inside, a forward pass moves BatchNorm's statistics; after an error they are as they were."""
    buffers = list(module.buffers())
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    except Exception:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
        raise


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets (and SIGTERM, which clusters send), so that a run stops between batches.

    A second one stops at once.
    """
    stopping = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return

    def ask(_signal: int, _frame: object) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
