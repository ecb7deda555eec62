"""PyTorch in a forked process (``os.fork``, a ``Pool``, ``gunicorn --preload``).

PyTorch's threads exist only in the parent. An operation that would use them hangs in the child. So each child of a
process that imported this package gets one thread, as in the workers of a ``DataLoader``.
"""

import os
import sys

_BEGAN_IN = os.getpid()


def was_forked() -> bool:
    """True if this process was forked after the package was imported."""
    return os.getpid() != _BEGAN_IN


def _use_one_thread() -> None:
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_use_one_thread)
