"""The same function in fewer steps: what a network becomes when it will only be used, never trained.

``fold`` takes away what costs nothing to take away, whatever runs the network afterwards: BatchNorms go into the
convolutions before them, and the card's normalisation into the first one. ``optimize`` goes on for PyTorch alone,
where each call of an operator costs more than its arithmetic: streams run side by side in one convolution, and all
gates are one small product. ONNX Runtime and OpenVINO are given the folded network; stacking makes them slower.

Shapes: B batch, C channels, H height, W width, T streams, D embedding.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from osnet.models.layers import ChannelGate, ChannelShuffle, ConvNormAct, EmbeddingLayer, LiteConv3x3
from osnet.models.osnet import OSBlock, UnifiedGate
from osnet.types import Preprocessing

LARGEST_STACKED = 4
"""Images up to which stacking pays: it saves calls and costs copies. On 2 cores at x0.25 it gained 1.4 times over
folding alone with 1 image and lost a quarter with 32."""


class Centre(nn.Module):
    """Pixels minus the mean colour: (B, 3, H, W) RGB, uint8 or float in 0..255 -> float32. The first layer divides."""

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.mean = nn.Buffer(mean.view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, H, W), 0 where the first convolution's padding is 0 too."""
        return pixels - self.mean


class Normalize(nn.Module):
    """Pixels as ``Centre`` takes them -> what the network expects, where no first convolution could take it in."""

    def __init__(self, mean: Tensor, std: Tensor, bgr: bool) -> None:
        super().__init__()
        self.mean, self.std = nn.Buffer(mean.view(1, 3, 1, 1)), nn.Buffer(std.view(1, 3, 1, 1))
        self.bgr = bgr

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, H, W)."""
        normalized = (pixels - self.mean) / self.std
        return normalized.flip(1) if self.bgr else normalized


class Affine(nn.Module):
    """A BatchNorm in eval mode, component by component: (B, D) -> (B, D)."""

    def __init__(self, norm: nn.BatchNorm1d) -> None:
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        self.scale = nn.Buffer(scale.float())
        self.shift = nn.Buffer((norm.bias.double() - norm.running_mean.double() * scale).float())

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        return x * self.scale + self.shift


class InferenceGraph(nn.Module):
    """A network for use only, with its first step: (B, 3, H, W) -> (B, D).

    Input is what the network took or, where a preprocessing was folded in, RGB pixels: uint8, or float in 0..255.
    """

    def __init__(self, first: nn.Module, body: nn.Module) -> None:
        super().__init__()
        self.first, self.body = first, body

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D)."""
        return self.body(self.first(images))

    def feature_map(self, images: Tensor) -> Tensor:
        """The body's own: (B, 3, H, W) -> (B, C, h, w)."""
        body: Any = self.body
        return body.feature_map(self.first(images))


def fold(network: nn.Module, preprocessing: Preprocessing | None = None) -> InferenceGraph:
    """A copy of ``network`` in eval mode with its BatchNorms in the convolutions, equal to rounding.

    Args:
        network: any network of the library; it stays as it is.
        preprocessing: fold this in too; the copy then takes RGB pixels (uint8, or float in 0..255).
    """
    body = copy.deepcopy(network).float().eval().requires_grad_(False)
    for module in body.modules():
        _fold_norms(module)
    neck = getattr(body, "neck", None)
    if isinstance(neck, nn.BatchNorm1d):  # a ReLU lies between it and the linear layer
        body.neck = Affine(neck)
    first = nn.Identity() if preprocessing is None else _fold_preprocessing(body, preprocessing)
    return InferenceGraph(first.to(next(body.parameters()).device), body).eval()


def optimize(network: nn.Module, preprocessing: Preprocessing | None = None) -> InferenceGraph:
    """The fastest form for PyTorch itself: ``fold``, then streams stacked, ReLUs in place, channels last.

    Arguments as for ``fold``. Give it channels-last images on a CPU. Networks without omni-scale blocks, and blocks
    whose Lite layers are grouped or full, are only folded.
    """
    graph = fold(network, preprocessing)
    for module in list(graph.modules()):
        if isinstance(module, ConvNormAct | LiteConv3x3 | EmbeddingLayer | OSBlock) and isinstance(module.act, nn.ReLU):
            module.act.inplace = True  # each reads what the layer before it has just made for it alone
    for parent in list(graph.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, OSBlock) and can_stack(child):
                setattr(parent, name, StackedBlock(child))
    return graph.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _fold_norms(module: nn.Module) -> None:
    """Fold the BatchNorms that ``module`` holds beside their convolutions."""
    if isinstance(module, ConvNormAct) and isinstance(module.norm, nn.BatchNorm2d):
        module.conv = _fuse(module.conv, _before_shuffle(module.norm, module.shuffle))
        module.norm = nn.Identity()
    elif isinstance(module, LiteConv3x3):
        module.depthwise = _fuse(module.depthwise, module.norm)
        module.norm = nn.Identity()  # type: ignore[assignment]
    elif isinstance(module, EmbeddingLayer):
        module.linear = fuse_linear_bn_eval(module.linear.double(), module.norm.double()).float()
        module.norm = nn.Identity()  # type: ignore[assignment]
    elif isinstance(module, nn.Sequential):
        for index in range(len(module) - 1):
            conv, norm = module[index], module[index + 1]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module[index], module[index + 1] = _fuse(conv, norm), nn.Identity()


def _fuse(conv: nn.Conv2d, norm: nn.Module) -> nn.Conv2d:
    """In float64: what folding loses by rounding is then a fifth of what it is in float32."""
    assert isinstance(norm, nn.BatchNorm2d)
    return fuse_conv_bn_eval(conv.double(), norm.double()).float()


def _before_shuffle(norm: nn.BatchNorm2d, shuffle: nn.Module) -> nn.BatchNorm2d:
    """The same normalisation for the channels as they are before ``shuffle`` moves them."""
    if not isinstance(shuffle, ChannelShuffle):
        return norm
    moved = shuffle(torch.arange(norm.num_features, device=norm.weight.device).view(1, -1, 1, 1)).flatten()
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            assert tensor is not None
            tensor[moved] = tensor.clone()
    return norm


def _fold_preprocessing(body: nn.Module, preprocessing: Preprocessing) -> nn.Module:
    """Normalisation: its subtraction as the layer returned, its division in the first convolution of ``body``.

    The subtraction stays outside, since that convolution pads with zeros, which mean the average colour.
    """
    bgr = preprocessing.channel_order == "bgr"
    mean, std = (255 * torch.tensor(values, dtype=torch.float64) for values in (preprocessing.mean, preprocessing.std))
    conv = next((module for module in body.modules() if isinstance(module, nn.Conv2d)), None)
    normed_before = isinstance(getattr(body, "input_norm", None), nn.InstanceNorm2d)
    if conv is None or normed_before or conv.in_channels != 3 or conv.groups != 1 or conv.padding_mode != "zeros":
        if bgr:  # the subtraction and the division come before the channels are turned round
            mean, std = mean.flip(0), std.flip(0)
        return Normalize(mean.float(), std.float(), bgr)
    with torch.no_grad():
        weight = conv.weight.double() / std.to(conv.weight.device).view(1, 3, 1, 1)
        conv.weight.copy_(weight.flip(1) if bgr else weight)
    return Centre((mean.flip(0) if bgr else mean).float())


def can_stack(block: OSBlock) -> bool:
    """True if the block's streams are Lite layers without groups."""
    layers = [layer for stream in block.streams for layer in stream.children()]
    return all(isinstance(layer, LiteConv3x3) and layer.pointwise.groups == 1 for layer in layers)


class StackedBlock(nn.Module):
    """An omni-scale block (folded already) whose streams run side by side. (B, C_in, H, W) -> (B, C_out, H, W).

    At level j all streams that have a j-th Lite 3x3 are one tensor, the deepest first: one 1x1 convolution (dense at
    the first level, where all read the same input; in groups after it) and one depthwise 3x3. Streams that end at
    that level are cut off its end. Batches larger than ``LARGEST_STACKED`` go through the block as it was.
    """

    def __init__(self, block: OSBlock) -> None:
        super().__init__()
        self.block = block
        streams: list[list[Any]] = [list(stream.children()) for stream in block.streams]
        order = sorted(range(len(streams)), key=lambda t: -len(streams[t]))
        self.levels = nn.ModuleList()
        self.going_on: list[int] = []
        for level in range(len(streams[order[0]])):
            layers = [streams[t][level] for t in order if len(streams[t]) > level]
            pointwise = stack_convolutions([layer.pointwise for layer in layers], shared_input=level == 0)
            depthwise = stack_convolutions([layer.depthwise for layer in layers], shared_input=False)
            self.levels.append(nn.Sequential(pointwise, depthwise, nn.ReLU(inplace=True)))
            self.going_on.append(sum(len(stream) > level + 1 for stream in streams))
        self.places = [order.index(t) for t in range(len(streams))]
        gate = block.aggregate.gate if isinstance(block.aggregate, UnifiedGate) else None
        self.aggregate = GatedSum(gate) if isinstance(gate, ChannelGate) else block.aggregate

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W)."""
        if x.shape[0] > LARGEST_STACKED:
            return self.block(x)
        running = self.block.reduce(x)
        mid = running.shape[1]
        ended: list[Tensor] = [running] * len(self.places)
        for level, going_on in zip(self.levels, self.going_on, strict=True):
            running = level(running)
            done = running[:, mid * going_on :].split(mid, dim=1)
            ended[going_on : going_on + len(done)] = done
            running = running[:, : mid * going_on]
        fused = self.aggregate([ended[place] for place in self.places])
        summed = self.block.expand(fused).add_(self.block.shortcut(x))
        return self.block.act(self.block.instance_norm(summed))


class GatedSum(nn.Module):
    """``UnifiedGate`` with all T gates in one go. T x (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, gate: ChannelGate) -> None:
        super().__init__()
        self.reduce, self.expand = (_as_linear(conv) for conv in (gate.reduce, gate.expand))

    def forward(self, streams: Sequence[Tensor]) -> Tensor:
        """T x (B, C, H, W) -> (B, C, H, W)."""
        pooled_TBC = torch.stack([stream.mean(dim=(2, 3)) for stream in streams])
        gates = self.expand(self.reduce(pooled_TBC).relu_()).sigmoid_()[..., None, None].unbind(0)
        fused = streams[0] * gates[0]
        for stream, gate in zip(streams[1:], gates[1:], strict=True):
            fused.addcmul_(stream, gate)
        return fused


def _as_linear(conv: nn.Conv2d) -> nn.Linear:
    """A 1x1 convolution over one pixel."""
    linear = nn.Linear(conv.in_channels, conv.out_channels, device=conv.weight.device)
    assert conv.bias is not None
    with torch.no_grad():
        linear.weight.copy_(conv.weight.flatten(1))
        linear.bias.copy_(conv.bias)
    return linear


def stack_convolutions(convs: Sequence[nn.Conv2d], *, shared_input: bool) -> nn.Conv2d:
    """Equal convolutions as one whose outputs lie side by side.

    Args:
        convs: of equal sizes and strides.
        shared_input: all read the same channels; otherwise each reads its own, lying side by side.
    """
    one = convs[0]
    stacked = nn.Conv2d(
        one.in_channels * (1 if shared_input else len(convs)),
        one.out_channels * len(convs),
        one.kernel_size,  # type: ignore[arg-type]  # Conv2d keeps it as a pair, whatever the annotation says
        one.stride,  # type: ignore[arg-type]
        one.padding,  # type: ignore[arg-type]
        groups=one.groups * (1 if shared_input else len(convs)),
        bias=one.bias is not None,
        device=one.weight.device,
    )
    with torch.no_grad():
        stacked.weight.copy_(torch.cat([conv.weight for conv in convs]))
        if stacked.bias is not None:
            stacked.bias.copy_(torch.cat([conv.bias for conv in convs if conv.bias is not None]))
    return stacked
