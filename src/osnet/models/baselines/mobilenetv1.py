"""The layers of MobileNetV1. Howard et al., "MobileNets", 2017, arXiv:1704.04861, section 3 and Table 1.

Implemented here because torchvision has no MobileNetV1, and timm's public functions offer only widths 1.0 and 1.25.
Shapes: B batch, C channels, H height, W width.
"""

from torch import nn

from osnet.models.config import round_to_eight
from osnet.models.layers import ConvNormAct, init_weights

BLOCKS = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1),) * 5,
    *((1024, 2), (1024, 1)),
)
"""For each depthwise separable convolution of Table 1: output channels at width 1.0, stride."""


class SeparableConv(nn.Sequential):
    """Depthwise 3x3, BatchNorm, ReLU, then 1x1, BatchNorm, ReLU: (B, C_in, H, W) -> (B, C_out, H/stride, W/stride)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__(
            ConvNormAct(channels_in, channels_in, 3, stride=stride, groups=channels_in, shuffle=False),
            ConvNormAct(channels_in, channels_out),
        )


class MobileNetV1(nn.Sequential):
    """Maps (B, 3, H, W) to (B, C, H/32, W/32), where C is 1024 * width, rounded by ``round_to_eight``.

    Args:
        width: multiplies all channel counts (alpha in the paper).
        small: for 32x32 images (``stem="cifar"`` in the settings). The stem and the first block whose stride is 2 get
            stride 1 instead, so the map is (B, C, H/8, W/8).
    """

    def __init__(self, width: float, small: bool) -> None:
        channels = round_to_eight(32 * width)
        layers: list[nn.Module] = [ConvNormAct(3, channels, 3, stride=1 if small else 2)]
        for index, (base, stride) in enumerate(BLOCKS):
            out = round_to_eight(base * width)
            layers.append(SeparableConv(channels, out, 1 if small and index == 1 else stride))
            channels = out
        super().__init__(*layers)
        self.apply(init_weights)
