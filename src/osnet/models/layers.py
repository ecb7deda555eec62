"""The bricks of OSNet: conv-norm-act, the Lite 3x3, the gates, the channel shuffle.

Zhou et al., "Omni-Scale Feature Learning for Person Re-Identification", ICCV 2019
(arXiv:1905.00953), section 3; channel shuffle: Zhang et al., ShuffleNet, CVPR 2018; Linear
Context Transform: Ruan et al., AAAI 2020 (arXiv:1909.03834).
Shapes: B batch, C channels, H height, W width, T streams.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from osnet.errors import ModelError
from osnet.models.config import Activation

NormKind = Literal["batch", "instance", "none"]

GATE_REDUCTION = 16
"""The gate's hidden layer has a sixteenth of its channels (paper, section 3.2)."""
LCT_GROUPS = 16
"""Groups in which Linear Context Transform normalises channels, as Intel's networks have it."""


def make_norm(kind: NormKind, channels: int) -> nn.Module:
    """A normalisation layer over (B, C, H, W) with learned scale and shift."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    return nn.Identity()


class ChannelShuffle(nn.Module):
    """Interleaves ``groups`` runs of channels, so that the next grouped layer sees all of them.

    (B, C, H, W) -> (B, C, H, W); C must be divisible by ``groups``. It has no parameters and
    no multiply-adds, though it does take time; the memory format stays as it is.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W): channel ``g * C/G + i`` moves to ``i * G + g``."""
        channels_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        if channels_last and (x.requires_grad or x.device.type != "cpu"):
            # Here torch's own would give the other memory format, and the next layer would have to turn it back.
            batch, _, height, width = x.shape
            grouped = x.permute(0, 2, 3, 1).view(batch, height, width, self.groups, -1)
            return grouped.transpose(3, 4).flatten(3).permute(0, 3, 1, 2)
        return functional.channel_shuffle(x, self.groups)

    def extra_repr(self) -> str:
        """Shown by ``print(network)``."""
        return f"groups={self.groups}"


class ConvNormAct(nn.Module):
    """Convolution without bias, then (where grouped) a shuffle, a normalisation, a ReLU.

    (B, C_in, H, W) -> (B, C_out, H/stride, W/stride). ``shuffle`` belongs where the next reader is
    grouped or depthwise; before a residual sum or a dense layer it would do nothing.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        shuffle: bool = True,
        norm: NormKind = "batch",
        act: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.shuffle = ChannelShuffle(groups) if groups > 1 and shuffle else nn.Identity()
        self.norm = make_norm(norm, channels_out)
        self.act = nn.ReLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H/stride, W/stride)."""
        return self.act(self.norm(self.shuffle(self.conv(x))))


class LiteConv3x3(nn.Module):
    """Lite 3x3: a pointwise convolution, then a depthwise 3x3, then BatchNorm and ReLU.

    (B, C, H, W) -> (B, C, H, W). Paper, section 3.1: the order is pointwise first, with nothing
    between the two, and no bias anywhere.
    """

    def __init__(self, channels: int, groups: int = 1) -> None:
        super().__init__()
        self.pointwise = nn.Conv2d(channels, channels, 1, groups=groups, bias=False)
        self.shuffle = ChannelShuffle(groups) if groups > 1 else nn.Identity()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.act(self.norm(self.depthwise(self.shuffle(self.pointwise(x)))))


class ChannelGate(nn.Module):
    """One weight in (0, 1) per channel, from the input itself. (B, C, H, W) -> (B, C, 1, 1).

    Global average, C -> C/16 -> C with a ReLU between, sigmoid (paper, section 3.2, eq. 2). It
    returns the gate and does not multiply. With ``num_outputs=1`` it gives one weight for the whole
    stream: (B, 1, 1, 1), the paper's stream-wise ablation.
    """

    def __init__(self, channels: int, num_outputs: int | None = None) -> None:
        super().__init__()
        hidden = max(1, channels // GATE_REDUCTION)
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.expand = nn.Conv2d(hidden, channels if num_outputs is None else num_outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 1, 1) in (0, 1)."""
        pooled = x.mean(dim=(2, 3), keepdim=True)
        return self.expand(self.reduce(pooled).relu()).sigmoid()


class StaticGate(nn.Module):
    """One weight in (0, 1) per channel, learned and then the same for every image.

    (B, C, H, W) -> (1, C, 1, 1): the paper's "learned-and-fixed gates". It starts at 1/2, where
    ``ChannelGate`` starts on average.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (1, C, 1, 1) in (0, 1)."""
        return self.logit.sigmoid()


class LinearContextGate(nn.Module):
    """One weight in (0, 1) per channel, from the image's averages in its group. (B, C, H, W) -> (B, C, 1, 1).

    Linear Context Transform (Ruan et al., AAAI 2020, section 3): global average, normalised to mean 0 and variance 1
    within groups of neighbouring channels, then a scale and a shift for each channel, then a sigmoid. Scales begin at 0
    and shifts at 1, as in the paper. Groups are halved until they divide the channels. A group of one channel is 0
    after normalisation, so its gate is the shift's alone.
    """

    def __init__(self, channels: int, groups: int = LCT_GROUPS) -> None:
        super().__init__()
        while channels % groups:
            groups //= 2
        self.groups, self.eps = groups, 1e-5
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 1, 1) in (0, 1)."""
        grouped = x.mean(dim=(2, 3)).view(x.shape[0], self.groups, -1)
        variance, mean = torch.var_mean(grouped, dim=2, keepdim=True, correction=0)
        normalized = ((grouped - mean) * (variance + self.eps).rsqrt()).flatten(1)
        return (normalized * self.weight + self.bias).sigmoid()[..., None, None]

    def extra_repr(self) -> str:
        """Shown by ``print(network)``."""
        return f"{len(self.weight)}, groups={self.groups}"


class DepthwisePool(nn.Module):
    """A learned weight for each place of the map, channel by channel: (B, C, H, W) -> (B, C), for one H and W.

    Raises:
        ModelError: a map of another size.
    """

    def __init__(self, channels: int, size_hw: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, size_hw, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C)."""
        if tuple(x.shape[2:]) != self.conv.kernel_size:
            raise ModelError(
                f"a last map of {tuple(x.shape[2:])}, where this network's pooling takes {self.conv.kernel_size}: "
                "give images of the size that config.fixed_size_hw says"
            )
        return self.conv(x).flatten(1)


class EmbeddingLayer(nn.Module):
    """Linear, BatchNorm, ReLU: (B, C) -> (B, D), every component >= 0. Paper, Table 1, "fc". PReLU has one slope."""

    def __init__(self, channels: int, size: int, act: Activation = "relu") -> None:
        super().__init__()
        self.linear = nn.Linear(channels, size)
        self.norm = nn.BatchNorm1d(size)
        self.act = nn.ReLU() if act == "relu" else nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C) -> (B, D)."""
        return self.act(self.norm(self.linear(x)))


def make_neck(size: int) -> nn.BatchNorm1d:
    """BNNeck: a BatchNorm whose shift stays 0, on top of the embedding. (B, D) -> (B, D).

    Luo et al., "Bag of Tricks and a Strong Baseline for Deep Person Re-Identification", CVPRW 2019: the triplet loss
    sees what goes in, the classifier and the search what comes out.
    """
    neck = nn.BatchNorm1d(size)
    neck.bias.requires_grad_(False)
    return neck


def init_weights(module: nn.Module) -> None:
    """Initial values as in the authors' code."""
    if any(parameter.is_meta for parameter in module.parameters(recurse=False)):
        return  # no storage, and drawing for it takes as long as for one with
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
