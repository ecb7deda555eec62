"""Count the parameters and multiply-adds of a network. Also has the counts published in the paper.

The counting rule:

- A parameter counts once, even if its layer runs several times (OSNet's shared gate runs four times).
- A convolution or dense layer costs one multiply-add per use of a weight. A bias adds one per output, as in the
  authors' code.
- Normalisation, activation, pooling, multiplication by a gate and channel shuffles cost nothing.

``norm_ops`` counts one operation per output of every BatchNorm2d and InstanceNorm2d. With ``norm_ops`` added and
without the classifier, the counts equal those in the supplement's Table A (1511M, 885M, 424M). Without ``norm_ops``
they are 0.8 to 1.4 % lower. The paper does not say how it counted, so we only assume that it used this rule.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from osnet.models.network import Network


@dataclass(frozen=True)
class Cost:
    """The cost of a network for one image."""

    params: int
    """Parameters; shared ones count once."""
    madds: int
    """Multiply-adds by the rule above."""
    norm_ops: int
    """One operation per output element of 2-D normalisation layers; not part of ``madds``."""


def count_parameters(network: nn.Module) -> int:
    """Count the parameters of ``network``; shared ones count once."""
    return sum(p.numel() for p in network.parameters())


def count_cost(network: nn.Module, size_hw: tuple[int, int], num_classes: int = 0) -> Cost:
    """Count the cost of one image of ``size_hw`` pixels, with a linear classifier if ``num_classes`` > 0.

    A ``network.classifier`` of its own is not counted, because the embedding does not need it.

    Args:
        network: maps (1, 3, H, W) to (1, D). It is run once on zeros in eval mode, on its own device, which may be the
            meta device. The modes of its modules are restored afterwards.
        size_hw: height and width of the image in pixels.
        num_classes: number of outputs of a linear classifier that is added to the counts; 0 for none.
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
    modes = [(module, module.training) for module in network.modules()]
    first = next(network.parameters())
    try:
        with torch.no_grad():
            embedding = network.eval()(torch.zeros(1, 3, *size_hw, device=first.device, dtype=first.dtype))
    finally:
        for module, training in modes:
            module.training = training
        for hook in hooks:
            hook.remove()
    head = (embedding.shape[1] + 1) * num_classes
    params = count_parameters(network)
    if isinstance(network, Network) and network.classifier is not None:
        params -= count_parameters(network.classifier)
    return Cost(params + head, madds + head, norm_ops)


@dataclass(frozen=True)
class PublishedCost:
    """Published parameters and multiply-adds, with the digits as printed."""

    params: str
    madds: str
    source: str


@dataclass(frozen=True)
class TableARow:
    """One row of the supplement's Table A: ImageNet, 224 x 224, single crop."""

    model: str
    """Name of the network in ``list_models()``."""
    label: str
    """Name of the network in the table."""
    params: str
    madds: str | None
    """Multiply-adds as printed; None if the table has a dash."""
    top1: float | None
    """Top-1 accuracy in per cent; None for a row that we added to the table."""
    difference: str = ""
    """Why our counts differ from the published ones, or under which condition they are equal."""


_OSNET = (
    "equal parameters, with the 512-d layer and the classifier; our multiply-adds are {gap} lower; with one more "
    "operation per BatchNorm output and without the classifier they are {with_norm}, as published"
)

TABLE_A: tuple[TableARow, ...] = (
    TableARow(
        "squeezenet1_0",
        "SqueezeNet 1.0",
        "1.2M",
        None,
        57.5,
        "its own classifier is a convolution before the pooling, at 13 x 13 positions, which gives 823.3M "
        "multiply-adds (818.9M without biases); ours comes after the pooling. The parameters are equal",
    ),
    TableARow("mobilenetv1_x0_5", "MobileNetV1 x0.5", "1.3M", "149M", 63.7),
    TableARow("mobilenetv1_x0_75", "MobileNetV1 x0.75", "2.6M", "325M", 68.4),
    TableARow("mobilenetv1_x1_0", "MobileNetV1 x1.0", "4.2M", "569M", 70.6),
    TableARow(
        "shufflenet_x1_0_g8",
        "ShuffleNet x1.0",
        "2.4M",
        "140M",
        67.6,
        "only 8 groups give 2.4M parameters (3 groups: 1.9M); the authors' released code states 138M multiply-adds",
    ),
    TableARow("shufflenet_x1_5_g3", "ShuffleNet x1.5", "3.4M", "292M", 71.5, "3 groups (8 groups: 4.3M parameters)"),
    TableARow(
        "shufflenet_x2_0_g3",
        "ShuffleNet x2.0",
        "5.4M",
        "524M",
        73.7,
        "3 groups (8 groups: 6.5M parameters); 5.451M parameters, rounded down in the table",
    ),
    TableARow(
        "mobilenetv2_x1_0",
        "MobileNetV2 x1.0",
        "3.4M",
        "300M",
        72.0,
        "the MobileNetV2 paper states 3.4M parameters, but the network that it describes has 3.5M; 300M are our 300.8M "
        "multiply-adds, rounded down, or a rounding of that paper",
    ),
    TableARow(
        "mobilenetv2_x1_4",
        "MobileNetV2 x1.4",
        "6.9M",
        "585M",
        74.7,
        "the MobileNetV2 paper states 6.9M parameters and 585M multiply-adds; its authors' released network has 6.06M "
        "and 582M",
    ),
    TableARow("osnet_x0_5", "OSNet x0.5", "1.1M", "424M", 69.5, _OSNET.format(gap="1.3 %", with_norm="423.9M")),
    TableARow("osnet_x0_75", "OSNet x0.75", "1.8M", "885M", 73.5, _OSNET.format(gap="1.0 %", with_norm="884.6M")),
    TableARow("osnet_x1_0", "OSNet x1.0", "2.7M", "1511M", 75.5, _OSNET.format(gap="0.8 %", with_norm="1511.0M")),
    TableARow("osnet_t1", "single scale (T=1)", "-", None, None, "not in the table; OSNet with one stream and no gate"),
)


def _published_costs() -> dict[tuple[str, tuple[int, int], int], PublishedCost]:
    table6 = "paper, Table 6"
    sizes = ((256, 128), (192, 96), (128, 64), (64, 32))
    rows = {
        "osnet_x1_0": ("2.2M", ("978.9M", "550.7M", "244.9M", "61.5M")),
        "osnet_x0_75": ("1.3M", ("571.8M", "321.7M", "143.1M", "35.9M")),
        "osnet_x0_5": ("0.6M", ("272.9M", "153.6M", "68.3M", "17.2M")),
        "osnet_x0_25": ("0.2M", ("82.3M", "46.3M", "20.6M", "5.2M")),
    }
    costs = {
        (name, size, 0): PublishedCost(params, madds, table6)
        for name, (params, row) in rows.items()
        for size, madds in zip(sizes, row, strict=True)
    }
    for line in TABLE_A:
        if line.top1 is not None:
            costs[line.model, (224, 224), 1000] = PublishedCost(line.params, line.madds or "-", "supplement, Table A")
    return costs


PUBLISHED_COSTS = _published_costs()
"""Maps (name, (height, width), number of classes) to the costs published in the paper and its supplement."""
