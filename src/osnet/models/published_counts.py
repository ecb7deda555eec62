"""What the paper and its supplement print of the networks' costs, and Table A row by row."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedCost:
    """What was printed, to the digits in which it was printed."""

    params: str
    madds: str
    source: str


@dataclass(frozen=True)
class TableARow:
    """One row of the supplement's Table A: ImageNet, 224 x 224, single crop."""

    model: str
    """Its name in ``list_models()``."""
    label: str
    """As the table has it."""
    params: str
    madds: str | None
    """None where the table has a dash."""
    top1: float | None
    """Per cent; None for a row that is ours and not the table's."""
    difference: str = ""
    """Why the count differs from the print, or on what their agreement depends."""


_OSNET = (
    "parameters equal, with the 512-d layer and the classifier; multiply-adds are {gap} below the print, which is met "
    "by one operation more per BatchNorm output ({with_norm}; no classifier)"
)

TABLE_A: tuple[TableARow, ...] = (
    TableARow(
        "squeezenet1_0", "SqueezeNet 1.0", "1.2M", None, 57.5,
        "its own classifier is a convolution at each of 13 x 13 places before the pooling: 823.3M so (818.9M "
        "without biases); ours comes after it. The parameters are the same",
    ),
    TableARow("mobilenetv1_x0_5", "MobileNetV1 x0.5", "1.3M", "149M", 63.7),
    TableARow("mobilenetv1_x0_75", "MobileNetV1 x0.75", "2.6M", "325M", 68.4),
    TableARow("mobilenetv1_x1_0", "MobileNetV1 x1.0", "4.2M", "569M", 70.6),
    TableARow(
        "shufflenet_x1_0_g8", "ShuffleNet x1.0", "2.4M", "140M", 67.6,
        "2.4M fit 8 groups only (3 groups: 1.9M); the authors' released code gives its multiply-adds as 138M",
    ),
    TableARow("shufflenet_x1_5_g3", "ShuffleNet x1.5", "3.4M", "292M", 71.5, "3 groups (8 groups: 4.3M)"),
    TableARow(
        "shufflenet_x2_0_g3", "ShuffleNet x2.0", "5.4M", "524M", 73.7,
        "3 groups (8 groups: 6.5M); 5.451M, cut off rather than rounded",
    ),
    TableARow(
        "mobilenetv2_x1_0", "MobileNetV2 x1.0", "3.4M", "300M", 72.0,
        "3.4M is what the MobileNetV2 paper prints; the network it describes has 3.5M. 300M is 300.8M cut off, or that "
        "paper's rounding",
    ),
    TableARow(
        "mobilenetv2_x1_4", "MobileNetV2 x1.4", "6.9M", "585M", 74.7,
        "6.9M and 585M are what the MobileNetV2 paper prints; its authors' released network has 6.06M and 582M",
    ),
    TableARow("osnet_x0_5", "OSNet x0.5", "1.1M", "424M", 69.5, _OSNET.format(gap="1.3 %", with_norm="423.9M")),
    TableARow("osnet_x0_75", "OSNet x0.75", "1.8M", "885M", 73.5, _OSNET.format(gap="1.0 %", with_norm="884.6M")),
    TableARow("osnet_x1_0", "OSNet x1.0", "2.7M", "1511M", 75.5, _OSNET.format(gap="0.8 %", with_norm="1511.0M")),
    TableARow("osnet_t1", "single scale (T=1)", "-", None, None, "not in the table: OSNet with one stream and no gate"),
)  # fmt: skip


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
"""(name, height and width, classes) -> what the paper and its supplement print."""
