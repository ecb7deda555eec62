"""An experiment: the Lite 3x3 layer as one Triton kernel: pointwise, depthwise, norm and ReLU in one pass over memory.

A program processes a strip of a feature map from top to bottom. For each input row it computes the pointwise
convolution three times, shifted by one column left, not shifted and right, because threads cannot read each other's
registers. Each result is added to three output rows, of which the top one is then complete. Intermediate results stay
in registers. It needs folded layers, whose norms are in the weights.

It has not been run on a GPU yet; ``inference.py --device cuda`` measures it. A test runs it in Triton's interpreter.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

COLUMNS, ROWS = 16, 16
"""Size of a program's strip."""


@triton.jit
def lite_kernel(  # type: ignore[no-untyped-def]
    x, pointwise, depthwise, bias, out, height, width,
    C: tl.constexpr, PADDED: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """(B, H, W, C) -> (B, H, W, C); ``pointwise`` (C_in, C_out), ``depthwise`` (3, 3, C). PADDED: C to a power of 2."""
    first_row = tl.program_id(1) * ROWS
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    channels = tl.arange(0, PADDED)
    in_channels = channels < C
    picture = tl.program_id(2) * height * width * C
    square = in_channels[:, None] & in_channels[None, :]
    weight = tl.load(pointwise + channels[:, None] * C + channels[None, :], mask=square, other=0.0)
    start = tl.zeros((COLUMNS, PADDED), tl.float32) + tl.load(bias + channels, mask=in_channels, other=0.0)[None, :]
    upper = start
    middle = start
    for step in range(ROWS + 2):
        row = first_row + step - 1
        lower = start
        for dx in tl.static_range(3):
            seen = columns + dx - 1
            inside = (seen >= 0) & (seen < width) & (row >= 0) & (row < height)
            places = picture + (row * width + seen)[:, None] * C + channels[None, :]
            values = tl.load(x + places, mask=inside[:, None] & in_channels[None, :], other=0.0)
            mixed = tl.dot(values, weight, input_precision="ieee")
            upper += mixed * tl.load(depthwise + (6 + dx) * C + channels, mask=in_channels, other=0.0)[None, :]
            middle += mixed * tl.load(depthwise + (3 + dx) * C + channels, mask=in_channels, other=0.0)[None, :]
            lower += mixed * tl.load(depthwise + dx * C + channels, mask=in_channels, other=0.0)[None, :]
        done = row - 1
        places = picture + (done * width + columns)[:, None] * C + channels[None, :]
        valid = (columns < width)[:, None] & in_channels[None, :] & (done >= first_row) & (done < height)
        tl.store(out + places, tl.maximum(upper, 0.0).to(out.dtype.element_ty), mask=valid)
        upper = middle
        middle = lower


class FusedLite(nn.Module):
    """A folded ``LiteConv3x3`` without groups. (B, C, H, W) -> (B, C, H, W), channels last."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.pointwise = nn.Buffer(layer.pointwise.weight.flatten(1).T.contiguous())
        self.depthwise = nn.Buffer(layer.depthwise.weight.flatten(1).T.contiguous())
        self.bias = nn.Buffer(layer.depthwise.bias.clone())

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        batch, channels, height, width = x.shape
        rows = x.permute(0, 2, 3, 1).contiguous()
        out = torch.empty_like(rows)
        grid = (triton.cdiv(width, COLUMNS), triton.cdiv(height, ROWS), batch)
        padded = max(16, triton.next_power_of_2(channels))
        lite_kernel[grid](
            rows, self.pointwise, self.depthwise, self.bias, out, height, width,
            C=channels, PADDED=padded, COLUMNS=COLUMNS, ROWS=ROWS,
        )  # fmt: skip
        return out.permute(0, 3, 1, 2)


def fuse_lites(graph: nn.Module) -> nn.Module:
    """A folded network with all its Lite layers replaced, in place."""
    from osnet.models.layers import LiteConv3x3

    for parent in list(graph.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LiteConv3x3) and child.pointwise.groups == 1:
                setattr(parent, name, FusedLite(child))
    return graph
