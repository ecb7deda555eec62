"""OSNet, the omni-scale network. It maps an image to an embedding.

One class covers these networks; ``OSNetConfig`` selects among them:

* OSNet and the ablations in Table 5: Zhou et al., "Omni-Scale Feature Learning for Person Re-Identification", ICCV 2019
  (arXiv:1905.00953), section 3 and Table 1. "The paper" below means this one.
* OSNet-IBN and OSNet-AIN: "Learning Generalisable Omni-Scale Representations", TPAMI 2021 (arXiv:1910.06827). Details
  follow the authors' code.
* Intel's OSNets with Linear Context Transform.

Shapes: B batch, C channels, H height, W width, T streams, D embedding.
"""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from osnet.models.config import OSNetConfig
from osnet.models.layers import (
    ChannelGate,
    ConvNormAct,
    DepthwisePool,
    EmbeddingLayer,
    LinearContextGate,
    LiteConv3x3,
    NormKind,
    StaticGate,
    init_weights,
    make_neck,
)
from osnet.models.network import Network


class UnifiedGate(nn.Module):
    """Sum of the streams, each weighted by the same gate. T x (B, C, H, W) -> (B, C, H, W).

    Paper, section 3.2, eq. 2: the gate is shared, so the gradients of all streams train it.
    """

    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, streams: Sequence[Tensor]) -> Tensor:
        """T x (B, C, H, W) -> (B, C, H, W)."""
        return reduce(torch.add, [self.gate(s) * s for s in streams])


class SeparateGates(nn.Module):
    """Sum of the streams, each weighted by its own gate. T x (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, gates: Sequence[nn.Module]) -> None:
        super().__init__()
        self.gates = nn.ModuleList(gates)

    def forward(self, streams: Sequence[Tensor]) -> Tensor:
        """T x (B, C, H, W) -> (B, C, H, W)."""
        return reduce(torch.add, [gate(s) * s for gate, s in zip(self.gates, streams, strict=True)])


class Addition(nn.Module):
    """Sum of the streams without gates. T x (B, C, H, W) -> (B, C, H, W)."""

    def forward(self, streams: Sequence[Tensor]) -> Tensor:
        """T x (B, C, H, W) -> (B, C, H, W)."""
        return reduce(torch.add, streams)


class Concatenation(nn.Module):
    """Concatenation of the streams along the channels. T x (B, C, H, W) -> (B, T*C, H, W)."""

    def forward(self, streams: Sequence[Tensor]) -> Tensor:
        """T x (B, C, H, W) -> (B, T*C, H, W)."""
        return torch.cat(list(streams), dim=1)


def make_aggregation(config: OSNetConfig, channels: int, lct: bool = False) -> nn.Module:
    """Make the module that fuses the streams of a block.

    Args:
        config: settings of the network.
        channels: number of channels of each stream.
        lct: use Linear Context Transform as the unified gate.
    """
    if config.aggregation == "unified_gate":
        return UnifiedGate(LinearContextGate(channels) if lct else ChannelGate(channels))
    if config.aggregation == "streamwise_gate":
        return UnifiedGate(ChannelGate(channels, num_outputs=1))
    if config.aggregation == "separate_gates":
        return SeparateGates([ChannelGate(channels) for _ in range(config.streams)])
    if config.aggregation == "static_gates":
        return SeparateGates([StaticGate(channels) for _ in range(config.streams)])
    return Addition() if config.aggregation == "addition" else Concatenation()


class OSBlock(nn.Module):
    """The omni-scale residual block. (B, C_in, H, W) -> (B, C_out, H, W). Paper, Fig. 4.

    A 1x1 convolution reduces the input to C_out / 4 channels. T streams with increasing receptive fields process it.
    The streams are fused, usually by a gate with one weight per channel. Another 1x1 convolution restores C_out
    channels, and the input is added.

    Args:
        channels_in: C_in.
        channels_out: C_out.
        config: settings of the network.
        instance_norm: whether the block has instance normalisation (IBN: after the sum; AIN: in the residual branch).
        lct: whether the gate is Linear Context Transform.
    """

    def __init__(
        self, channels_in: int, channels_out: int, config: OSNetConfig, instance_norm: bool, lct: bool = False
    ) -> None:
        super().__init__()
        mid = channels_out // 4
        groups = config.groups_of("block")
        fused = mid * config.streams if config.aggregation == "concatenation" else mid
        inside: NormKind = "instance" if instance_norm and config.norm == "ain" else "batch"
        self.reduce = ConvNormAct(channels_in, mid, groups=groups)
        self.streams = nn.ModuleList(
            nn.Sequential(*[self._make_3x3(mid, config) for _ in range(depth)]) for depth in config.stream_depths
        )
        self.aggregate = make_aggregation(config, mid, lct)
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
    """Transition between stages: 1x1 convolution, then 2x2 average pooling. (B, C, H, W) -> (B, C, H/2, W/2)."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.mix = ConvNormAct(channels, channels, groups=groups)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H/2, W/2)."""
        return self.pool(self.mix(x))


class OSNet(Network):
    """OSNet: (B, 3, H, W) -> embeddings (B, D), in training and in eval mode.

    H and W must be at least 16, or 4 with the ``cifar`` stem. If ``config.fixed_size_hw`` is set, they must equal it.
    ``Preprocessing`` describes how images become the input.

    Embeddings are not normalised. Their components are >= 0, because the last layer is a ReLU (unless the settings have
    ``neck`` or ``prelu``). Therefore cosines between different people are high too. Compare cosines with each other;
    they are not probabilities.

    Attributes:
        config: the settings that the network was built from.
        card: the metadata of the loaded weights; None for random weights.
    """

    config: OSNetConfig

    def __init__(self, config: OSNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or OSNetConfig()
        stem, conv2, conv3, conv4 = config.channels
        imagenet = config.stem == "imagenet"
        self.input_norm = nn.InstanceNorm2d(3, affine=True) if config.input_norm else nn.Identity()
        self.stem = ConvNormAct(
            3,
            stem,
            7 if imagenet else 3,
            stride=2 if imagenet else 1,
            norm="batch" if config.norm == "bn" else "instance",
        )
        self.stem_pool = nn.MaxPool2d(3, 2, padding=1) if imagenet else nn.Identity()
        rows = [list(zip(*both, strict=True)) for both in zip(config.instance_norms(), config.lct_gates(), strict=True)]
        self.conv2 = self._make_stage(stem, conv2, rows[0])
        self.transition2 = Transition(conv2, config.groups_of("all"))
        self.conv3 = self._make_stage(conv2, conv3, rows[1])
        self.transition3 = Transition(conv3, config.groups_of("all"))
        self.conv4 = self._make_stage(conv3, conv4, rows[2])
        self.conv5 = ConvNormAct(conv4, conv4, groups=config.groups_of("all"), shuffle=False)
        self.pool = DepthwisePool(conv4, config.pooled_hw) if config.pooling == "depthwise" else nn.Identity()
        self.embedding = EmbeddingLayer(conv4, config.embedding_size, config.embedding_act)
        self.neck = make_neck(config.embedding_size) if config.neck else nn.Identity()
        self.apply(init_weights)

    def _make_stage(self, channels_in: int, channels_out: int, rows: list[tuple[bool, bool]]) -> nn.Sequential:
        """Make a stage with one block per row. A row is (has instance normalisation, has Linear Context Transform)."""
        inputs = [channels_in] + [channels_out] * (len(rows) - 1)
        return nn.Sequential(
            *[OSBlock(c, channels_out, self.config, *row) for c, row in zip(inputs, rows, strict=True)]
        )

    def feature_map(self, x: Tensor) -> Tensor:
        """The last feature map, after conv5: (B, 3, H, W) -> (B, C, H/16, W/16), or (B, C, H/4, W/4) for ``cifar``."""
        x = self.stem_pool(self.stem(self.input_norm(x)))
        x = self.transition2(self.conv2(x))
        x = self.transition3(self.conv3(x))
        return self.conv5(self.conv4(x))

    def forward(self, x: Tensor) -> Tensor:
        """Embed a batch: (B, 3, H, W) -> (B, D)."""
        features = self.feature_map(x)
        if self.config.pooling == "depthwise":
            return self.neck(self.embedding(self.pool(features)))
        pooled = features.mean(dim=(2, 3)) if self.config.pooling == "avg" else features.amax(dim=(2, 3))
        return self.neck(self.embedding(pooled))
