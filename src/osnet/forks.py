"""PyTorch in a process that was forked off (``os.fork``, a ``Pool``, ``gunicorn --preload``).

Its threads stay behind in the parent. An operation that would share its work with them waits for ever in the child.
Imports nothing of ours.
"""

import os

import torch

_BEGAN_IN = os.getpid()
_settled_in = _BEGAN_IN


def settle() -> None:
    """Call it before PyTorch computes. In a forked process it takes PyTorch down to one thread, as a ``DataLoader``
    does in its workers; anywhere else it does nothing."""
    global _settled_in
    if os.getpid() != _settled_in:
        torch.set_num_threads(1)
        _settled_in = os.getpid()


def was_forked() -> bool:
    """True in a process that was forked off after the package was imported."""
    return os.getpid() != _BEGAN_IN
