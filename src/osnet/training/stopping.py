"""Stopping a run between two batches, and undoing a batch that failed."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def buffers_kept_on_error(module: nn.Module) -> Iterator[None]:
    """Restore the module's buffers (BatchNorm's statistics) if the body raises an error."""
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
    """Set an event on Ctrl-C or SIGTERM (which clusters send), so that the loop can stop between batches.

    A second signal raises KeyboardInterrupt at once. In a thread other than the main one signals cannot be handled;
    there the event is never set.
    """
    stopping = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return

    def request_stop(_signal: int, _frame: object) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()

    before = {number: signal.signal(number, request_stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
