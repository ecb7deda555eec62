"""ShuffleNet, version 1. Zhang et al., "ShuffleNet", CVPR 2018, arXiv:1707.01083, section 3 and Table 1.

Implemented here because neither torchvision nor timm has it. Details that the paper does not give follow its authors'
released code: blocks have a quarter of the channels inside, the first 1x1 convolution of stage 2 is not grouped, and
the stem has 48 channels at width 2.0, and 16 at width 0.5 with 8 groups.
Shapes: B batch, C channels, H height, W width.
"""

import torch
from torch import Tensor, nn

from osnet.models.config import SHUFFLENET_CHANNELS, shufflenet_stem
from osnet.models.layers import ConvNormAct, init_weights

REPEATS = (4, 8, 4)
"""Number of blocks in stages 2, 3 and 4."""


class ShuffleUnit(nn.Module):
    """The block in Figure 2 (b) and (c): (B, C_in, H, W) -> (B, C_out, H/stride, W/stride).

    Grouped 1x1 convolution, channel shuffle, depthwise 3x3, grouped 1x1. With stride 1 the input is added. With stride
    2, the input is average pooled (3x3) and concatenated in front; the convolutions then make C_out - C_in channels.
    """

    def __init__(self, channels_in: int, channels_out: int, groups: int, stride: int, first_groups: int) -> None:
        super().__init__()
        mid = channels_out // 4
        made = channels_out - (channels_in if stride == 2 else 0)
        self.pool = nn.AvgPool2d(3, 2, padding=1) if stride == 2 else nn.Identity()
        self.reduce = ConvNormAct(channels_in, mid, groups=first_groups)  # shuffles only if first_groups > 1
        self.depthwise = ConvNormAct(mid, mid, 3, stride=stride, groups=mid, shuffle=False, act=False)
        self.expand = ConvNormAct(mid, made, groups=groups, shuffle=False, act=False)
        self.joins = stride == 2
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H/stride, W/stride)."""
        made = self.expand(self.depthwise(self.reduce(x)))
        return self.act(torch.cat([self.pool(x), made], dim=1) if self.joins else x + made)


class ShuffleNet(nn.Sequential):
    """Maps (B, 3, H, W) to (B, C, H/32, W/32).

    Args:
        width: multiplies all channel counts (the scale factor s in the paper).
        groups: number of groups of the 1x1 convolutions.
        small: use stride 1 in the stem and no max pooling after it, for 32x32 images (``stem="cifar"``). The map is
            then (B, C, H/8, W/8).
    """

    def __init__(self, width: float, groups: int, small: bool) -> None:
        channels = shufflenet_stem(width, groups)
        layers: list[nn.Module] = [ConvNormAct(3, channels, 3, stride=1 if small else 2)]
        if not small:
            layers.append(nn.MaxPool2d(3, 2, padding=1))
        stage2 = round(SHUFFLENET_CHANNELS[groups] * width)
        for stage, repeats in enumerate(REPEATS):
            out = stage2 * 2**stage
            for block in range(repeats):
                first_groups = 1 if stage == block == 0 else groups
                layers.append(ShuffleUnit(channels, out, groups, 2 if block == 0 else 1, first_groups))
                channels = out
        super().__init__(*layers)
        self.apply(init_weights)
