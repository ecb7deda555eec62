"""PyTorch in a forked process (``os.fork``, a ``Pool``, ``gunicorn --preload``).

PyTorch's threads exist only in the parent. An operation that would use them hangs in the child.
"""

import os

import torch

_BEGAN_IN = os.getpid()
_settled_in = _BEGAN_IN


def settle() -> None:
    """Limit PyTorch to one thread if this process was forked, as a ``DataLoader`` does in its workers.

    Call it before PyTorch computes. It does nothing in other processes.
    """
    global _settled_in
    if os.getpid() != _settled_in:
        torch.set_num_threads(1)
        _settled_in = os.getpid()


def was_forked() -> bool:
    """True if this process was forked after the package was imported."""
    return os.getpid() != _BEGAN_IN
