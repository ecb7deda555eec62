"""Parameters and multiply-adds, counted from the built network.

The rule, stated once:

- a parameter counts once, however often its layer runs (OSNet's shared gate runs four times);
- a convolution or dense layer costs one multiply-add per use of a weight, and one more per output
  where it has a bias (the counter of the authors' code does the same);
- normalisation, activation, pooling, the multiplication by a gate and a channel shuffle cost nothing.

``norm_ops`` adds one operation per output of every BatchNorm2d (InstanceNorm2d likewise). With it,
and without the classifier, the counts meet the supplement's Table A (1511, 885, 424M); by the plain
rule they are 0.8 to 1.4 % lower. It fits; nobody has said that it is what was counted.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Cost:
    """What a network costs, for one image."""

    params: int
    """Trainable numbers, each once."""
    madds: int
    """Multiply-adds by the plain rule."""
    norm_ops: int
    """One operation per output element of 2-D normalisation layers; not part of ``madds``."""


def count_parameters(network: nn.Module) -> int:
    """Parameters of ``network``, shared ones once."""
    return sum(p.numel() for p in network.parameters())


def count_cost(network: nn.Module, size_hw: tuple[int, int], num_classes: int = 0) -> Cost:
    """Cost of one image of ``size_hw`` pixels, with a linear classifier of ``num_classes`` if > 0.

    Args:
        network: (1, 3, H, W) -> (1, D); it is run once on zeros where it lies (the meta device will
            do), in eval mode, and left as it was.
        size_hw: height and width in pixels.
        num_classes: outputs of the classifier on top (it is no part of the network); 0 for none.
    """
    madds = norm_ops = 0

    def count(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal madds, norm_ops
        if isinstance(module, nn.Conv2d | nn.Linear):
            per_output = module.weight[0].numel() + (module.bias is not None)
            madds += per_output * output[0].numel()
        elif isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d):
            norm_ops += output[0].numel()

    hooks = [module.register_forward_hook(count) for module in network.modules()]
    was_training = network.training
    first = next(network.parameters())
    try:
        with torch.no_grad():
            embedding = network.eval()(torch.zeros(1, 3, *size_hw, device=first.device, dtype=first.dtype))
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    head = (embedding.shape[1] + 1) * num_classes
    return Cost(count_parameters(network) + head, madds + head, norm_ops)
