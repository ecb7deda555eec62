"""Statistics for BatchNorms that came without: networks of other formats whose norms were folded into convolutions.

Shapes: B batch, C channels.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def lacks_statistics(network: nn.Module) -> bool:
    """True if every BatchNorm's mean is exactly 0 and none has seen a batch, though some of them shift.

    So are folded ones. Those of a new network do not shift yet.
    """
    norms = [module for module in network.modules() if isinstance(module, BATCH_NORMS)]
    means = [norm.running_mean for norm in norms if norm.running_mean is not None]
    counts = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
    shifts = any(bool(norm.bias.any()) for norm in norms if norm.bias is not None)
    return shifts and len(means) == len(norms) and not any(bool(t.any()) for t in [*means, *counts])


@torch.no_grad()
def estimate_norms(network: nn.Module, batches: Iterable[Tensor]) -> int:
    """Give every BatchNorm the mean and variance of what it reads, and the scale and shift that undo the change.

    In eval mode the network computes what it did before, to rounding; in training mode it no longer begins with scales
    that are wrong by the folded factor.

    Args:
        network: in any mode, which it keeps.
        batches: images as the network takes them, each (B, 3, H, W), B of at least 2.

    Returns:
        How many images were looked at; with none, nothing changes.
    """
    sums: dict[nn.Module, list[Tensor]] = {}

    def add(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].double().transpose(0, 1).flatten(1)  # (C, everything else)
        number = torch.tensor(float(values.shape[1]), dtype=torch.float64, device=values.device)
        found = [number, values.sum(1), values.square().sum(1)]
        sums[norm] = [a + b for a, b in zip(sums[norm], found, strict=True)] if norm in sums else found

    norms = [module for module in network.modules() if isinstance(module, BATCH_NORMS)]
    hooks = [norm.register_forward_pre_hook(add) for norm in norms]
    training = network.training
    num_images = 0
    try:
        network.eval()
        for images in batches:
            network(images)
            num_images += len(images)
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    for norm in norms:
        if norm in sums:
            _replace_statistics(norm, *sums[norm])
    return num_images


def _replace_statistics(norm: nn.Module, number: Tensor, total: Tensor, squares: Tensor) -> None:
    """New mean and variance, from the sums of what the norm reads."""
    assert isinstance(norm, BATCH_NORMS)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean = total / number
    variance = (squares / number - mean.square()).clamp_min(0)
    factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.double() + factor * (mean - norm.running_mean.double())
    norm.weight.copy_(factor * (variance + norm.eps).sqrt())
    norm.bias.copy_(shift)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
