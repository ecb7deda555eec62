"""The settings of the networks, as frozen dataclasses that check their values."""

from dataclasses import dataclass
from typing import Literal, get_args

from osnet.errors import ModelError
from osnet.files import check_fields

Aggregation = Literal["unified_gate", "separate_gates", "streamwise_gate", "static_gates", "addition", "concatenation"]
Normalization = Literal["bn", "ibn", "ain", "stem"]
Gate = Literal["channel", "lct", "channel_then_lct"]
Activation = Literal["relu", "prelu"]
GroupExtent = Literal["lite", "block", "all"]
Stem = Literal["imagenet", "cifar"]
Pooling = Literal["avg", "max"]
OSNetPooling = Literal["avg", "max", "depthwise"]
Family = Literal["squeezenet", "mobilenetv1", "mobilenetv2", "shufflenet"]

BASE_CHANNELS = (64, 256, 384, 512)
"""Channels of the stem and the three stages at width 1.0 (paper, Table 1)."""


@dataclass(frozen=True)
class OSNetConfig:
    """The settings of an OSNet. The defaults are the paper's primary model, OSNet x1.0.

    "The paper" is Zhou et al., ICCV 2019 (arXiv:1905.00953).

    Raises:
        ModelError: a setting is unknown or out of range, or settings contradict each other.
    """

    width: float = 1.0
    """Multiplies all channel counts except the embedding size (paper, section 3.4: beta); 0.05 to 16."""
    depth: tuple[int, int, int] = (2, 2, 2)
    """Number of blocks in conv2, conv3 and conv4, each 1 to 64. The paper counts 78 layers for 2-2-2, 210 for 3-8-6."""
    streams: int = 4
    """T, the number of streams in a block, 1 to 4."""
    lite: bool = True
    """Use Lite 3x3 convolutions. False: full 3x3 convolutions (Table 5, row 2)."""
    stream_depth: int | None = None
    """Number of 3x3 layers in every stream, 1 to 16. None: stream t has t layers and a receptive field of 2t + 1."""
    aggregation: Aggregation = "unified_gate"
    """How the streams of a block are fused. ``unified_gate``: one channel gate, shared by all streams."""
    norm: Normalization = "bn"
    """``bn``: BatchNorm everywhere. ``ibn`` and ``ain``: also instance normalisation in the stem and in some blocks
    (see ``instance_norms``). ``stem``: instance normalisation only in the stem."""
    groups: int = 1
    """Number of groups of the pointwise convolutions, with channel shuffle (supplement, section C); 1 to 512. It must
    divide the channel counts of the grouped layers."""
    group_extent: GroupExtent = "all"
    """Which pointwise convolutions are grouped. ``lite``: those of the Lite 3x3. ``block``: also the other ones in
    blocks. ``all``: also those of the transitions and conv5."""
    stem: Stem = "imagenet"
    """``imagenet``: 7x7 convolution with stride 2 and max pooling. ``cifar``: 3x3 convolution with stride 1, for 32x32
    images (our choice, not in the paper)."""
    pooling: OSNetPooling = "avg"
    """Global pooling before the embedding layer. ``depthwise``: one learned weight for each channel and position of the
    last feature map, so images must have one fixed size (see ``pooled_hw``)."""
    embedding_size: int = 512
    """D, the number of components of the embedding, 1 to 65536. The paper has 512 at every width."""
    neck: bool = False
    """Add a BatchNorm after the embedding layer (BNNeck: Luo et al., CVPRW 2019). Components may then be negative."""
    gate: Gate = "channel"
    """The gate of ``unified_gate``. ``channel``: the paper's. ``lct``: Linear Context Transform (Ruan et al., AAAI
    2020) in every block. ``channel_then_lct``: the paper's gate in the first block of each stage and LCT in the others,
    as in Intel's networks."""
    input_norm: bool = False
    """Add an instance normalisation of the input image before the stem."""
    embedding_act: Activation = "relu"
    """Activation at the end of the embedding layer. With ``prelu``, components may be negative."""
    pooled_hw: tuple[int, int] = (16, 8)
    """Height and width of the last feature map with ``depthwise`` pooling, each 1 to 256. The default fits images of
    256 x 128 pixels."""

    def __post_init__(self) -> None:
        for name in ("depth", "pooled_hw"):
            if isinstance(value := getattr(self, name), list):  # as JSON gives it
                object.__setattr__(self, name, tuple(value))
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise ModelError(f"unknown {name} {value!r}; choose from {', '.join(choices)}")
        if not isinstance(self.depth, tuple) or len(self.depth) != 3:
            raise ModelError(f"depth {self.depth!r} is invalid; it must be three numbers, such as (2, 2, 2)")
        _check_types(self)
        if not 0.05 <= self.width <= 16:
            raise ModelError(f"width {self.width} is outside 0.05 to 16")
        if not all(1 <= blocks <= 64 for blocks in self.depth):
            raise ModelError(f"depth {self.depth} is invalid; it must be three numbers from 1 to 64, such as (2, 2, 2)")
        for name, low, high in (("streams", 1, 4), ("groups", 1, 512), ("embedding_size", 1, 65536)):
            if not low <= (value := getattr(self, name)) <= high:
                raise ModelError(f"{name} {value} is outside {low} to {high}")
        if self.stream_depth is not None and not 1 <= self.stream_depth <= 16:
            raise ModelError(f"stream_depth {self.stream_depth} is outside 1 to 16")
        if self.gate != "channel" and self.aggregation != "unified_gate":
            raise ModelError(f"gate {self.gate!r} needs aggregation='unified_gate', not {self.aggregation!r}")
        if len(self.pooled_hw) != 2 or not all(1 <= side <= 256 for side in self.pooled_hw):
            raise ModelError(
                f"pooled_hw {self.pooled_hw} is invalid; it must be two numbers from 1 to 256, such as (16, 8)"
            )
        if self.groups > 1:
            self._check_groups()

    def _check_groups(self) -> None:
        if not self.lite:
            raise ModelError(
                f"groups {self.groups} needs lite=True, because full 3x3 convolutions have no pointwise convolution"
            )
        uneven = sorted({c for c in self._grouped_channels() if c % self.groups})
        if uneven:
            raise ModelError(
                f"groups {self.groups} does not divide {', '.join(map(str, uneven))} channels at width "
                f"{self.width}; choose a divisor of all of them, another width, or a smaller group_extent"
            )

    def _grouped_channels(self) -> list[int]:
        stem, *stages = self.channels
        grouped = [c // 4 for c in stages]
        if self.group_extent in ("block", "all"):
            grouped += [stem, *stages]
        return grouped

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of the stem and of the three stages; (64, 256, 384, 512) at width 1.0."""
        stem, *stages = BASE_CHANNELS
        scaled = [max(4, round(c * self.width)) for c in stages]
        return (max(1, round(stem * self.width)), scaled[0], scaled[1], scaled[2])

    @property
    def smallest_side(self) -> int:
        """The smallest height and width of an image, in pixels, for which the last feature map is not empty."""
        return 16 if self.stem == "imagenet" else 4

    @property
    def fixed_size_hw(self) -> tuple[int, int] | None:
        """Height and width, in pixels, that images must have. None: any size from ``smallest_side`` on."""
        if self.pooling != "depthwise":
            return None
        shrinks = 16 if self.stem == "imagenet" else 4
        return (shrinks * self.pooled_hw[0], shrinks * self.pooled_hw[1])

    def lct_gates(self) -> list[list[bool]]:
        """For each block of each stage, whether its gate is Linear Context Transform."""
        return [
            [self.gate == "lct" or (self.gate != "channel" and block > 0) for block in range(d)] for d in self.depth
        ]

    @property
    def stream_depths(self) -> list[int]:
        """Number of 3x3 layers in each stream."""
        if self.stream_depth is not None:
            return [self.stream_depth] * self.streams
        return list(range(1, self.streams + 1))

    def groups_of(self, part: GroupExtent) -> int:
        """Number of groups of the pointwise convolutions in a part of the network; see ``group_extent``."""
        extents: tuple[GroupExtent, ...] = get_args(GroupExtent)
        return self.groups if extents.index(part) <= extents.index(self.group_extent) else 1

    def instance_norms(self) -> list[list[bool]]:
        """For each block of each stage, whether it has instance normalisation.

        At depth 2-2-2 the result is that of the authors' code. IBN has it in both blocks of conv2. AIN has it in both
        blocks of conv2, the last of conv3 and the first of conv4, which the authors found by architecture search. They
        published no deeper networks; there we use the same rule: all blocks of conv2, the last of conv3, the first of
        conv4.
        """
        rows = [[False] * blocks for blocks in self.depth]
        if self.norm in ("ibn", "ain"):
            rows[0] = [True] * self.depth[0]
        if self.norm == "ain":
            rows[1][-1] = True
            rows[2][0] = True
        return rows


_CHOICES: dict[str, tuple[str, ...]] = {
    "aggregation": get_args(Aggregation),
    "norm": get_args(Normalization),
    "group_extent": get_args(GroupExtent),
    "stem": get_args(Stem),
    "pooling": get_args(OSNetPooling),
    "gate": get_args(Gate),
    "embedding_act": get_args(Activation),
}
LATE_SETTINGS = ("neck", "gate", "input_norm", "embedding_act", "pooled_hw")
"""Settings that the first version of the card format did not have. Cards contain them only if they differ from the
defaults, so that older versions can read the other cards."""


SHUFFLENET_CHANNELS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
"""Maps the number of groups to the channels of stage 2 at width 1.0 (Zhang et al., ShuffleNet, Table 1). Each later
stage has twice as many."""
SHUFFLENET_STEMS = {0.5: 12, 1.0: 24, 1.5: 24, 2.0: 48}
"""Maps the width to the channels of the stem, as in the authors' released code. Other widths were not published. At
width 0.5 with 8 groups there are 16 (see ``shufflenet_stem``)."""


@dataclass(frozen=True)
class BackboneConfig:
    """The settings of the baselines: the networks that the supplement's Table A compares with OSNet.

    The embedding is the pooled last feature map, as in the papers of these networks, unless ``projection`` adds an
    embedding layer like OSNet's.

    Raises:
        ModelError: a setting is unknown or out of range, or settings contradict each other.
    """

    family: Family
    """The network: SqueezeNet 1.0, MobileNetV1, MobileNetV2 or ShuffleNet (version 1)."""
    width: float = 1.0
    """Multiplies the channel counts, 0.1 to 4. SqueezeNet has only 1.0; ShuffleNet has 0.5, 1.0, 1.5 and 2.0."""
    groups: int = 1
    """Number of groups of ShuffleNet's pointwise convolutions: 1, 2, 3, 4 or 8. The other networks have no groups."""
    stem: Stem = "imagenet"
    """``imagenet``: as published. ``cifar``: for 32x32 images, a 3x3 stem with stride 1, and two fewer layers that
    halve the map in all, as in OSNet (our choice, not from the papers)."""
    pooling: Pooling = "avg"
    """Global pooling of the last feature map."""
    projection: int = 0
    """Outputs of an embedding layer (linear, BatchNorm, ReLU) after the pooling, 1 to 65536; 0: no such layer."""
    neck: bool = False
    """Add a BatchNorm after the embedding; see ``OSNetConfig.neck``."""

    def __post_init__(self) -> None:
        for name, choices in (
            ("family", get_args(Family)),
            ("stem", get_args(Stem)),
            ("pooling", get_args(Pooling)),
        ):
            if (value := getattr(self, name)) not in choices:
                raise ModelError(f"unknown {name} {value!r}; choose from {', '.join(choices)}")
        _check_types(self)
        if not 0 <= self.projection <= 65536:
            raise ModelError(f"projection {self.projection} is outside 0 to 65536")
        if self.family == "shufflenet":
            if self.width not in SHUFFLENET_STEMS:
                raise ModelError(f"ShuffleNet has no width {self.width}; choose from {_listed(SHUFFLENET_STEMS)}")
            if self.groups not in SHUFFLENET_CHANNELS:
                raise ModelError(f"ShuffleNet has no groups {self.groups}; choose from {_listed(SHUFFLENET_CHANNELS)}")
            first = round(SHUFFLENET_CHANNELS[self.groups] * self.width)
            if uneven := [c for c in (first // 4, first - shufflenet_stem(self.width, self.groups)) if c % self.groups]:
                raise ModelError(
                    f"groups {self.groups} does not divide the {uneven[0]} channels of a layer of ShuffleNet at width "
                    f"{self.width}; choose other groups or another width"
                )
        elif self.groups != 1:
            raise ModelError(f"{self.family} has no grouped pointwise convolutions, so groups {self.groups} must be 1")
        if self.family == "squeezenet" and self.width != 1:
            raise ModelError(f"SqueezeNet 1.0 has no width {self.width}; it has only width 1.0")
        if not 0.1 <= self.width <= 4:
            raise ModelError(f"width {self.width} is outside 0.1 to 4")

    @property
    def channels(self) -> int:
        """Channels of the last feature map."""
        if self.family == "squeezenet":
            return 512
        if self.family == "mobilenetv1":
            return round_to_eight(1024 * self.width)
        if self.family == "mobilenetv2":
            return round_to_eight(1280 * max(1.0, self.width))
        return 4 * round(SHUFFLENET_CHANNELS[self.groups] * self.width)

    @property
    def smallest_side(self) -> int:
        """The smallest height and width of an image, in pixels, for which the last feature map is not empty."""
        return 32 if self.stem == "imagenet" else 8

    @property
    def fixed_size_hw(self) -> None:
        """None: images may have any size from ``smallest_side`` on."""
        return None

    @property
    def embedding_size(self) -> int:
        """D, the number of components of the embedding."""
        return self.projection or self.channels


NetworkConfig = OSNetConfig | BackboneConfig
"""Settings of any network in this package."""


def round_to_eight(channels: float) -> int:
    """Round to a multiple of 8 as in the MobileNets. The result is at least 8 and at most 10 % below ``channels``."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def shufflenet_stem(width: float, groups: int) -> int:
    """Channels of ShuffleNet's stem."""
    return 16 if (width, groups) == (0.5, 8) else SHUFFLENET_STEMS[width]


def _check_types(config: NetworkConfig) -> None:
    """Check the types of all settings: a card could not hold others."""
    try:
        check_fields(config)
    except ValueError as error:
        raise ModelError(str(error)) from None


def _listed(table: dict[float, int] | dict[int, int]) -> str:
    return ", ".join(map(str, table))
