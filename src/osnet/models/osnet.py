"""OSNet, the omni-scale network: image -> embedding.

Zhou et al., "Omni-Scale Feature Learning for Person Re-Identification", ICCV 2019
(arXiv:1905.00953), section 3 and Table 1; the ablations of its Table 5; the IBN and AIN
successors of "Learning Generalisable Omni-Scale Representations", TPAMI 2021 (arXiv:1910.06827),
in the form that the authors' code fixes. One class, one table of settings: see ``registry.py``.
Shapes: B batch, C channels, H height, W width, D embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn

from osnet.errors import ModelError
from osnet.models.layers import ChannelGate, ConvNormAct, LiteConv3x3, NormKind, StaticGate

if TYPE_CHECKING:
    from osnet.models.weights import Card

Aggregation = Literal["unified_gate", "separate_gates", "streamwise_gate", "static_gates", "addition", "concatenation"]
Normalization = Literal["bn", "ibn", "ain"]
GroupExtent = Literal["lite", "block", "all"]
Stem = Literal["imagenet", "cifar"]
Pooling = Literal["avg", "max"]

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
    """``ibn``, ``ain``: instance normalisation in the stem and in some blocks (see ``instance_norms``)."""
    groups: int = 1
    """Groups of the pointwise convolutions, with channel shuffle (supplement, section C)."""
    group_extent: GroupExtent = "all"
    """Which are grouped: the Lite ones; also the block's own; also the transitions and conv5."""
    stem: Stem = "imagenet"
    """``imagenet``: 7x7 stride 2 and a max pool. ``cifar``: 3x3 stride 1 for 32x32 images (our own choice)."""
    pooling: Pooling = "avg"
    """Global pooling before the embedding."""
    embedding_size: int = 512
    """D; 512 at every width in the paper."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "depth", tuple(self.depth))  # JSON gives a list
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
        if self.norm != "bn":
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
    "pooling": get_args(Pooling),
}


class UnifiedGate(nn.Module):
    """Sum of streams, each weighted by the same gate network. T x (B, C, H, W) -> (B, C, H, W).

    Paper, section 3.2, eq. 2: sharing the gate lets every stream's gradient train it.
    """

    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, streams: Sequence[Tensor]) -> Tensor:
        """T x (B, C, H, W) -> (B, C, H, W)."""
        return reduce(torch.add, [self.gate(s) * s for s in streams])


class SeparateGates(nn.Module):
    """Sum of streams, each weighted by a gate of its own. T x (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, gates: Sequence[nn.Module]) -> None:
        super().__init__()
        self.gates = nn.ModuleList(gates)

    def forward(self, streams: Sequence[Tensor]) -> Tensor:
        """T x (B, C, H, W) -> (B, C, H, W)."""
        return reduce(torch.add, [gate(s) * s for gate, s in zip(self.gates, streams, strict=True)])


class Addition(nn.Module):
    """Plain sum of streams. T x (B, C, H, W) -> (B, C, H, W)."""

    def forward(self, streams: Sequence[Tensor]) -> Tensor:
        """T x (B, C, H, W) -> (B, C, H, W)."""
        return reduce(torch.add, streams)


class Concatenation(nn.Module):
    """Streams side by side; the next layer mixes them. T x (B, C, H, W) -> (B, T*C, H, W)."""

    def forward(self, streams: Sequence[Tensor]) -> Tensor:
        """T x (B, C, H, W) -> (B, T*C, H, W)."""
        return torch.cat(list(streams), dim=1)


def make_aggregation(config: OSNetConfig, channels: int) -> nn.Module:
    """The module that fuses ``config.streams`` maps of ``channels``."""
    if config.aggregation == "unified_gate":
        return UnifiedGate(ChannelGate(channels))
    if config.aggregation == "streamwise_gate":
        return UnifiedGate(ChannelGate(channels, num_outputs=1))
    if config.aggregation == "separate_gates":
        return SeparateGates([ChannelGate(channels) for _ in range(config.streams)])
    if config.aggregation == "static_gates":
        return SeparateGates([StaticGate(channels) for _ in range(config.streams)])
    return Addition() if config.aggregation == "addition" else Concatenation()


class OSBlock(nn.Module):
    """The omni-scale residual block. (B, C_in, H, W) -> (B, C_out, H, W). Paper, Fig. 4.

    Reduce to a quarter, look at it through T streams of growing receptive field, let the gate
    choose per channel, restore, add the input.
    """

    def __init__(self, channels_in: int, channels_out: int, config: OSNetConfig, instance_norm: bool) -> None:
        super().__init__()
        mid = channels_out // 4
        groups = config.groups_of("block")
        fused = mid * config.streams if config.aggregation == "concatenation" else mid
        inside: NormKind = "instance" if instance_norm and config.norm == "ain" else "batch"
        self.reduce = ConvNormAct(channels_in, mid, groups=groups)
        self.streams = nn.ModuleList(
            nn.Sequential(*[self._make_3x3(mid, config) for _ in range(depth)]) for depth in config.stream_depths
        )
        self.aggregate = make_aggregation(config, mid)
        self.expand = ConvNormAct(fused, channels_out, groups=groups, shuffle=False, norm=inside, act=False)
        self.shortcut = (
            nn.Identity()
            if channels_in == channels_out
            else ConvNormAct(channels_in, channels_out, groups=groups, shuffle=False, act=False)
        )
        after = instance_norm and config.norm == "ibn"
        self.instance_norm = nn.InstanceNorm2d(channels_out, affine=True) if after else nn.Identity()
        self.act = nn.ReLU()

    @staticmethod
    def _make_3x3(channels: int, config: OSNetConfig) -> nn.Module:
        return LiteConv3x3(channels, config.groups_of("lite")) if config.lite else ConvNormAct(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W)."""
        reduced = self.reduce(x)
        fused = self.aggregate([stream(reduced) for stream in self.streams])
        return self.act(self.instance_norm(self.expand(fused) + self.shortcut(x)))


class Transition(nn.Module):
    """Between stages: 1x1 convolution, then a 2x2 average. (B, C, H, W) -> (B, C, H/2, W/2)."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.mix = ConvNormAct(channels, channels, groups=groups)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H/2, W/2)."""
        return self.pool(self.mix(x))


class EmbeddingLayer(nn.Module):
    """Linear, BatchNorm, ReLU: (B, C) -> (B, D), every component >= 0. Paper, Table 1, "fc"."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, size)
        self.norm = nn.BatchNorm1d(size)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C) -> (B, D)."""
        return self.act(self.norm(self.linear(x)))


class OSNet(nn.Module):
    """(B, 3, H, W) -> (B, D), always. Any H and W of at least 16 (4 with the ``cifar`` stem).

    Input is what ``Preprocessing`` describes. The embedding is not normalised and, coming out of a
    ReLU, is >= 0, so cosines between strangers are high; compare them, do not read them as
    probabilities.

    Attributes:
        config: the settings it was built from.
        card: what its weights say about themselves; None for random ones.
    """

    def __init__(self, config: OSNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or OSNetConfig()
        self.card: Card | None = None
        stem, conv2, conv3, conv4 = config.channels
        imagenet = config.stem == "imagenet"
        self.stem = ConvNormAct(
            3,
            stem,
            7 if imagenet else 3,
            stride=2 if imagenet else 1,
            norm="batch" if config.norm == "bn" else "instance",
        )
        self.stem_pool = nn.MaxPool2d(3, 2, padding=1) if imagenet else nn.Identity()
        rows = config.instance_norms()
        self.conv2 = self._make_stage(stem, conv2, rows[0])
        self.transition2 = Transition(conv2, config.groups_of("all"))
        self.conv3 = self._make_stage(conv2, conv3, rows[1])
        self.transition3 = Transition(conv3, config.groups_of("all"))
        self.conv4 = self._make_stage(conv3, conv4, rows[2])
        self.conv5 = ConvNormAct(conv4, conv4, groups=config.groups_of("all"), shuffle=False)
        self.embedding = EmbeddingLayer(conv4, config.embedding_size)
        self.apply(_init_weights)

    def _make_stage(self, channels_in: int, channels_out: int, instance_norms: list[bool]) -> nn.Sequential:
        inputs = [channels_in] + [channels_out] * (len(instance_norms) - 1)
        return nn.Sequential(
            *[OSBlock(c, channels_out, self.config, norm) for c, norm in zip(inputs, instance_norms, strict=True)]
        )

    def feature_map(self, x: Tensor) -> Tensor:
        """The last map, after conv5: (B, 3, H, W) -> (B, C, H/16, W/16), H/4 with the ``cifar`` stem."""
        x = self.stem_pool(self.stem(x))
        x = self.transition2(self.conv2(x))
        x = self.transition3(self.conv3(x))
        return self.conv5(self.conv4(x))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D)."""
        features = self.feature_map(x)
        pooled = features.mean(dim=(2, 3)) if self.config.pooling == "avg" else features.amax(dim=(2, 3))
        return self.embedding(pooled)


def _init_weights(module: nn.Module) -> None:
    """Initial values as in the authors' code."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
