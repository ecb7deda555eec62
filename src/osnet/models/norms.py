"""Estimate the statistics of BatchNorms that have none, because a converter had folded them into convolutions.

Shapes: B batch, C channels.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def lacks_statistics(network: nn.Module) -> bool:
    """Whether the BatchNorms come from a file in which they were folded into convolutions.

    These have mean 0 and a batch count of 0, but some have a shift. BatchNorms of a new network have no shift.
    """
    norms = [module for module in network.modules() if isinstance(module, BATCH_NORMS)]
    means = [norm.running_mean for norm in norms if norm.running_mean is not None]
    counts = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
    shifts = any(bool(norm.bias.any()) for norm in norms if norm.bias is not None)
    return shifts and len(means) == len(norms) and not any(bool(t.any()) for t in [*means, *counts])


@torch.no_grad()
def estimate_norms(network: nn.Module, batches: Iterable[Tensor]) -> int:
    """Set the mean and variance of every BatchNorm to those of its inputs. Scale and shift are changed accordingly.

    In eval mode, the network computes the same as before, up to rounding. In training mode, the scales are then correct
    from the first step on; without this, they would be wrong by the factors that were folded into the convolutions.

    Args:
        network: the network to change. The modes of its modules are kept.
        batches: batches of images (B, 3, H, W), preprocessed for the network, with B of at least 2.

    Returns:
        The number of images that were used. If there are none, the network is not changed.
    """
    sums: dict[nn.Module, list[Tensor]] = {}

    def add(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].double().transpose(0, 1).flatten(1)  # (C, everything else)
        number = torch.tensor(float(values.shape[1]), dtype=torch.float64, device=values.device)
        found = [number, values.sum(1), values.square().sum(1)]
        sums[norm] = [a + b for a, b in zip(sums[norm], found, strict=True)] if norm in sums else found

    norms = [module for module in network.modules() if isinstance(module, BATCH_NORMS)]
    hooks = [norm.register_forward_pre_hook(add) for norm in norms]
    modes = [(module, module.training) for module in network.modules()]
    num_images = 0
    try:
        network.eval()
        for images in batches:
            network(images)
            num_images += len(images)
    finally:
        for module, training in modes:
            module.training = training
        for hook in hooks:
            hook.remove()
    for norm in norms:
        if norm in sums:
            _replace_statistics(norm, *sums[norm])
    return num_images


def _replace_statistics(norm: nn.Module, number: Tensor, total: Tensor, squares: Tensor) -> None:
    """Set the statistics of a BatchNorm from the number, sum and sum of squares of its inputs, per channel."""
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
