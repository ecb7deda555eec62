"""Choice of the device that tensors are on."""

import torch
from torch import nn

from osnet.errors import ModelError


def pick_device(device: str | torch.device, network: nn.Module | None = None, *, float64: bool = False) -> torch.device:
    """Resolve a device name, and check that the device can be used.

    Args:
        device: a name such as ``cpu``, ``cuda``, ``cuda:1`` or ``mps``. ``auto`` is the device of ``network``; without
            a network it is CUDA if there is a GPU, else MPS, else the CPU.
        network: a network whose device ``auto`` means.
        float64: require a device that supports float64, which MPS does not.

    Raises:
        ModelError: the device is unknown, not available here, or does not support float64 where that is required.
    """
    if str(device) == "auto":
        if network is not None:
            return next(network.parameters()).device
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if not float64 and torch.backends.mps.is_available() else "cpu")
    try:
        picked = torch.device(device)
        torch.empty(0, device=picked, dtype=torch.float64 if float64 else torch.float32).sum()
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"device {str(device)!r} cannot be used here: {reason}; choose auto, cpu or cuda") from error
    return picked
