"""The layers of OSNet: convolutions, the Lite 3x3, gates, channel shuffle, pooling and the embedding layer.

The paper is Zhou et al., "Omni-Scale Feature Learning for Person Re-Identification", ICCV 2019 (arXiv:1905.00953),
section 3. Channel shuffle is from Zhang et al., ShuffleNet, CVPR 2018; Linear Context Transform from Ruan et al., AAAI
2020 (arXiv:1909.03834).
Shapes: B batch, C channels, H height, W width, D embedding.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from osnet.errors import ModelError
from osnet.models.config import Activation

NormKind = Literal["batch", "instance", "none"]

GATE_REDUCTION = 16
"""The hidden layer of the channel gate has C / 16 channels (paper, section 3.2)."""
LCT_GROUPS = 16
"""Number of channel groups in which Linear Context Transform normalises, as in Intel's networks."""


def make_norm(kind: NormKind, channels: int) -> nn.Module:
    """Make a normalisation layer for (B, C, H, W) with learned scale and shift; ``none`` makes an identity."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    return nn.Identity()


class ChannelShuffle(nn.Module):
    """Interleaves the channels of all groups, so that the next grouped layer gets channels of every group.

    (B, C, H, W) -> (B, C, H, W). C must be divisible by ``groups``. The layer has no parameters and no multiply-adds,
    but it takes time. The output has the memory format of the input.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W): channel ``g * C/G + i`` moves to ``i * G + g``."""
        channels_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        if channels_last and (x.requires_grad or x.device.type != "cpu"):
            # In these cases functional.channel_shuffle returns NCHW, and the next layer would convert it back.
            batch, _, height, width = x.shape
            grouped = x.permute(0, 2, 3, 1).view(batch, height, width, self.groups, -1)
            return grouped.transpose(3, 4).flatten(3).permute(0, 3, 1, 2)
        return functional.channel_shuffle(x, self.groups)

    def extra_repr(self) -> str:
        """Shown by ``print(network)``."""
        return f"groups={self.groups}"


class ConvNormAct(nn.Module):
    """Convolution without bias, channel shuffle, normalisation and ReLU.

    (B, C_in, H, W) -> (B, C_out, H/stride, W/stride). The shuffle exists only if ``groups`` > 1 and ``shuffle`` is set.
    It is useful before a grouped or depthwise convolution. Before a residual sum or a dense layer it would have no
    effect.
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
    """Lite 3x3: a pointwise convolution, then a depthwise 3x3, then BatchNorm and ReLU. (B, C, H, W) -> (B, C, H, W).

    Paper, section 3.1. There is no activation or normalisation between the two convolutions, and no bias. If ``groups``
    > 1, the pointwise convolution is grouped and a channel shuffle follows it.
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
    """Computes one weight in (0, 1) per channel from the input. (B, C, H, W) -> (B, C, 1, 1).

    Global average pooling, a layer from C to C/16, ReLU, a layer back to C, sigmoid (paper, section 3.2, eq. 2). The
    gate only returns the weights; the caller multiplies. With ``num_outputs=1`` there is one weight for the whole
    stream, (B, 1, 1, 1), as in the paper's stream-wise ablation.
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
    """Learns one weight in (0, 1) per channel that is the same for every image. (B, C, H, W) -> (1, C, 1, 1).

    These are the paper's "learned-and-fixed gates". All weights start at 1/2, the mean initial weight of
    ``ChannelGate``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (1, C, 1, 1) in (0, 1)."""
        return self.logit.sigmoid()


class LinearContextGate(nn.Module):
    """Computes one weight in (0, 1) per channel from the average of its group. (B, C, H, W) -> (B, C, 1, 1).

    Linear Context Transform (Ruan et al., AAAI 2020, section 3). The global averages are normalised to mean 0 and
    variance 1 within groups of neighbouring channels. Then each channel has its own scale and shift, and a sigmoid.
    Scales start at 0 and shifts at 1, as in the paper. The number of groups is halved until it divides the number of
    channels. In a group with one channel, the normalised value is 0, so the weight depends only on the shift.
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
    """Pools with one learned weight for each channel and position. (B, C, H, W) -> (B, C), for one fixed H and W.

    Raises:
        ModelError: the map has another size.
    """

    def __init__(self, channels: int, size_hw: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, size_hw, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C)."""
        if tuple(x.shape[2:]) != self.conv.kernel_size:
            raise ModelError(
                f"the last feature map has the size {tuple(x.shape[2:])}, but the pooling of this network needs "
                f"{self.conv.kernel_size}; use images of the size config.fixed_size_hw"
            )
        return self.conv(x).flatten(1)


class EmbeddingLayer(nn.Module):
    """The embedding layer: linear layer, BatchNorm, ReLU. (B, C) -> (B, D). Paper, Table 1, "fc".

    With ReLU all components are >= 0. With ``act="prelu"`` they may be negative; the PReLU has one slope.
    """

    def __init__(self, channels: int, size: int, act: Activation = "relu") -> None:
        super().__init__()
        self.linear = nn.Linear(channels, size)
        self.norm = nn.BatchNorm1d(size)
        self.act = nn.ReLU() if act == "relu" else nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C) -> (B, D)."""
        return self.act(self.norm(self.linear(x)))


def make_neck(size: int) -> nn.BatchNorm1d:
    """Make a BNNeck: a BatchNorm after the embedding whose shift stays 0. (B, D) -> (B, D).

    Luo et al., "Bag of Tricks and a Strong Baseline for Deep Person Re-Identification", CVPRW 2019. The triplet loss
    uses the input of the BNNeck; the classifier and the search use its output.
    """
    neck = nn.BatchNorm1d(size)
    neck.bias.requires_grad_(False)
    return neck


def init_weights(module: nn.Module) -> None:
    """Initialise the weights as in the authors' code. Layers on the meta device are skipped."""
    if any(parameter.is_meta for parameter in module.parameters(recurse=False)):
        return  # there is no storage, but drawing random numbers would still take time
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
