"""Every dial of the networks, as frozen dataclasses that check themselves: OSNet's, and the other backbones'."""

from dataclasses import dataclass
from typing import Literal, get_args

from osnet.errors import ModelError

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
    """Every dial of the network. The defaults are the paper's primary model, OSNet x1.0.

    Raises:
        ModelError: a setting is unknown or does not fit the others.
    """

    width: float = 1.0
    """Multiplies all channel counts, not the embedding's (paper, section 3.4: beta)."""
    depth: tuple[int, int, int] = (2, 2, 2)
    """Blocks in conv2, conv3, conv4. 2-2-2 is 78 layers by the paper's count, 3-8-6 is 210."""
    streams: int = 4
    """T, from 1 to 4 in the paper."""
    lite: bool = True
    """Lite 3x3 convolutions; False takes full 3x3 ones (Table 5, row 2)."""
    stream_depth: int | None = None
    """None: stream t has t 3x3 layers, so it sees 2t+1 pixels. A number: every stream has that many."""
    aggregation: Aggregation = "unified_gate"
    """How streams become one. ``unified_gate`` shares one channel gate between all of them."""
    norm: Normalization = "bn"
    """``ibn``, ``ain``: instance normalisation in the stem and in some blocks (see ``instance_norms``).
    ``stem``: in the stem alone."""
    groups: int = 1
    """Groups of the pointwise convolutions, with channel shuffle (supplement, section C)."""
    group_extent: GroupExtent = "all"
    """Which are grouped: the Lite ones; also the block's own; also the transitions and conv5."""
    stem: Stem = "imagenet"
    """``imagenet``: 7x7 stride 2 and a max pool. ``cifar``: 3x3 stride 1 for 32x32 images (our own choice)."""
    pooling: OSNetPooling = "avg"
    """Global pooling before the embedding. ``depthwise``: a learned weight for each place and channel of the last map,
    so the network takes images of one size only (see ``pooled_hw``)."""
    embedding_size: int = 512
    """D; 512 at every width in the paper."""
    neck: bool = False
    """A BatchNorm on top of the embedding, as BNNeck leaves it (Luo et al., CVPRW 2019): components may be negative."""
    gate: Gate = "channel"
    """The gate of ``unified_gate``. ``lct``: Linear Context Transform (Ruan et al., AAAI 2020) in every block.
    ``channel_then_lct``: the paper's gate in the first block of a stage, LCT in the others: Intel's networks."""
    input_norm: bool = False
    """Instance normalisation of the image itself, before the stem."""
    embedding_act: Activation = "relu"
    """After the embedding's BatchNorm. With ``prelu`` components may be negative."""
    pooled_hw: tuple[int, int] = (16, 8)
    """Height and width of the map that ``depthwise`` pooling takes: those of 256 x 128 pixels."""

    def __post_init__(self) -> None:
        for name in ("depth", "pooled_hw"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON gives a list
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise ModelError(f"unknown {name} {value!r}; choose from {', '.join(choices)}")
        if not 0.05 <= self.width <= 16:
            raise ModelError(f"width {self.width} is outside 0.05 to 16")
        if len(self.depth) != 3 or not all(1 <= blocks <= 64 for blocks in self.depth):
            raise ModelError(f"depth {self.depth} must be three numbers from 1 to 64, such as (2, 2, 2)")
        for name, low, high in (("streams", 1, 4), ("groups", 1, 512), ("embedding_size", 1, 65536)):
            if not low <= (value := getattr(self, name)) <= high:
                raise ModelError(f"{name} {value} is outside {low} to {high}")
        if self.stream_depth is not None and not 1 <= self.stream_depth <= 16:
            raise ModelError(f"stream_depth {self.stream_depth} is outside 1 to 16")
        if self.gate != "channel" and self.aggregation != "unified_gate":
            raise ModelError(f"gate {self.gate!r} needs aggregation='unified_gate', not {self.aggregation!r}")
        if len(self.pooled_hw) != 2 or not all(1 <= side <= 256 for side in self.pooled_hw):
            raise ModelError(f"pooled_hw {self.pooled_hw} must be two numbers from 1 to 256, such as (16, 8)")
        if self.groups > 1:
            self._check_groups()

    def _check_groups(self) -> None:
        if not self.lite:
            raise ModelError(f"groups {self.groups} needs lite=True: full 3x3 convolutions have no pointwise part")
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
        """Channels of the stem and the three stages. (64, 256, 384, 512) at width 1.0."""
        stem, *stages = BASE_CHANNELS
        scaled = [max(4, round(c * self.width)) for c in stages]
        return (max(1, round(stem * self.width)), scaled[0], scaled[1], scaled[2])

    @property
    def smallest_side(self) -> int:
        """The least height and width, in pixels, that leave a map to pool."""
        return 16 if self.stem == "imagenet" else 4

    @property
    def fixed_size_hw(self) -> tuple[int, int] | None:
        """Height and width, in pixels, of the only images that the network takes; None if it takes many sizes."""
        if self.pooling != "depthwise":
            return None
        shrinks = 16 if self.stem == "imagenet" else 4
        return (shrinks * self.pooled_hw[0], shrinks * self.pooled_hw[1])

    def lct_gates(self) -> list[list[bool]]:
        """Which blocks gate by Linear Context Transform, stage by stage."""
        return [
            [self.gate == "lct" or (self.gate != "channel" and block > 0) for block in range(d)] for d in self.depth
        ]

    @property
    def stream_depths(self) -> list[int]:
        """3x3 layers in each stream."""
        if self.stream_depth is not None:
            return [self.stream_depth] * self.streams
        return list(range(1, self.streams + 1))

    def groups_of(self, part: GroupExtent) -> int:
        """Groups of the pointwise convolutions in ``lite``, ``block`` or ``all`` (the rest)."""
        extents: tuple[GroupExtent, ...] = get_args(GroupExtent)
        return self.groups if extents.index(part) <= extents.index(self.group_extent) else 1

    def instance_norms(self) -> list[list[bool]]:
        """Which blocks carry instance normalisation, stage by stage.

        At depth 2-2-2 this is the authors' code: IBN in both blocks of conv2; AIN in both of conv2,
        the last of conv3, the first of conv4 (the architecture that their search found). Deeper
        networks, which they did not publish, keep that rule: all of conv2, last, first.
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
LATE_DIALS = ("neck", "gate", "input_norm", "embedding_act", "pooled_hw")
"""Cards name these only where they differ from the defaults: versions without them read the others."""


SHUFFLENET_CHANNELS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
"""Groups -> channels of stage 2 at width 1.0 (Zhang et al., ShuffleNet, Table 1); each later stage doubles them."""
SHUFFLENET_STEMS = {0.5: 12, 1.0: 24, 1.5: 24, 2.0: 48}
"""Width -> channels of the stem, as in its authors' released code; other widths were not published."""


@dataclass(frozen=True)
class BackboneConfig:
    """Every dial of the networks beside which the supplement's Table A puts OSNet.

    The embedding is the pooled last map, as in these networks' own papers, unless ``projection`` asks for a layer
    like OSNet's on top.

    Raises:
        ModelError: a setting is unknown or does not fit the others.
    """

    family: Family
    """Which network: SqueezeNet 1.0, MobileNetV1, MobileNetV2, or ShuffleNet (the first one)."""
    width: float = 1.0
    """Multiplies channel counts; SqueezeNet has one width, ShuffleNet 0.5, 1.0, 1.5 and 2.0."""
    groups: int = 1
    """ShuffleNet's groups of the pointwise convolutions: 1, 2, 3, 4 or 8. The others have none."""
    stem: Stem = "imagenet"
    """``imagenet``: as published. ``cifar``: 3x3 stride 1, and in all two halvings fewer, for 32x32 images: what
    OSNet's does to OSNet (our own choice)."""
    pooling: Pooling = "avg"
    """Global pooling before the embedding."""
    projection: int = 0
    """Outputs of a linear layer, BatchNorm and ReLU after the pooling, as OSNet has; 0: none."""
    neck: bool = False
    """A BatchNorm on top of the embedding, as for ``OSNetConfig``."""

    def __post_init__(self) -> None:
        for name, choices in (
            ("family", get_args(Family)),
            ("stem", get_args(Stem)),
            ("pooling", get_args(Pooling)),
        ):
            if (value := getattr(self, name)) not in choices:
                raise ModelError(f"unknown {name} {value!r}; choose from {', '.join(choices)}")
        if not 0 <= self.projection <= 65536:
            raise ModelError(f"projection {self.projection} is outside 0 to 65536")
        if self.family == "shufflenet":
            if self.width not in SHUFFLENET_STEMS:
                raise ModelError(f"width {self.width} of ShuffleNet: choose from {_listed(SHUFFLENET_STEMS)}")
            if self.groups not in SHUFFLENET_CHANNELS:
                raise ModelError(f"groups {self.groups} of ShuffleNet: choose from {_listed(SHUFFLENET_CHANNELS)}")
        elif self.groups != 1:
            raise ModelError(
                f"groups {self.groups}: {self.family} has no grouped pointwise convolutions; leave it at 1"
            )
        if self.family == "squeezenet" and self.width != 1:
            raise ModelError(f"width {self.width}: SqueezeNet 1.0 has one width, 1.0")
        if not 0.1 <= self.width <= 4:
            raise ModelError(f"width {self.width} is outside 0.1 to 4")

    @property
    def channels(self) -> int:
        """Channels of the last map."""
        if self.family == "squeezenet":
            return 512
        if self.family == "mobilenetv1":
            return round_to_eight(1024 * self.width)
        if self.family == "mobilenetv2":
            return round_to_eight(1280 * max(1.0, self.width))
        return 4 * round(SHUFFLENET_CHANNELS[self.groups] * self.width)

    @property
    def smallest_side(self) -> int:
        """The least height and width, in pixels, that leave a map to pool."""
        return 32 if self.stem == "imagenet" else 8

    @property
    def fixed_size_hw(self) -> None:
        """None: they take images of many sizes."""
        return None

    @property
    def embedding_size(self) -> int:
        """D."""
        return self.projection or self.channels


NetworkConfig = OSNetConfig | BackboneConfig
"""Settings of any network of the library."""


def round_to_eight(channels: float) -> int:
    """The MobileNets' rule: the nearest multiple of 8, at least 8, never more than a tenth below ``channels``."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _listed(table: dict[float, int] | dict[int, int]) -> str:
    return ", ".join(map(str, table))
