"""What a forked process (``os.fork``, a ``Pool``, ``gunicorn --preload``) lacks: the other threads of its parent.

An operation of PyTorch that would use its threads hangs in the child. So each child of a process that imported this
package gets one thread, as in the workers of a ``DataLoader``. A lock that another thread held would be held for ever
in the child. So a fork first waits for the locks of ``make_lock``, and for the one under which numba compiles.
"""

import os
import sys
from importlib import import_module
from threading import RLock
from types import ModuleType
from typing import Any

_BEGAN_IN = os.getpid()


def was_forked() -> bool:
    """True if this process was forked after the package was imported."""
    return os.getpid() != _BEGAN_IN


def make_lock() -> Any:
    """A lock for the whole process that no child finds held. Its owner may take it again."""
    lock = RLock()
    if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock


def import_compiled(name: str) -> ModuleType:
    """Import a module that numba compiles meanwhile. A fork waits: its child could not import the module again."""
    with _IMPORTING:
        return import_module(name)


_held: list[Any] = []
"""numba's lock, during a fork."""


def _wait_for_numba() -> None:
    lock = getattr(sys.modules.get("numba.core.compiler_lock"), "global_compiler_lock", None)
    if lock is not None:
        lock.acquire()
        _held.append(lock)


def _release_numba() -> None:
    while _held:
        _held.pop().release()


def _prepare_child() -> None:
    _release_numba()
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # the last to be registered is the first to wait: numba's lock is the innermost
    os.register_at_fork(before=_wait_for_numba, after_in_parent=_release_numba, after_in_child=_prepare_child)

_IMPORTING = make_lock()
