"""The same function in fewer steps: a network that will be used and not trained.

``fold`` merges BatchNorms into the convolutions before them, and the card's normalisation into the first convolution.
It also sets weights to zero that are too small to matter, because processors are slow with denormal numbers.
Every backend starts from the folded network. ``optimize`` adds what helps PyTorch: ReLUs in place, channels last.

Shapes: B batch, C channels, H height, W width, D embedding.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_eval

from osnet.models.denormals import zero_tiny
from osnet.models.layers import ChannelShuffle, ConvNormAct, EmbeddingLayer, LiteConv3x3
from osnet.models.osnet import OSBlock
from osnet.types import Preprocessing


class Centre(nn.Module):
    """Subtracts the mean colour: (B, 3, H, W) RGB, uint8 or float in 0..255 -> float32.

    The first convolution holds the division by the standard deviation.
    """

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.mean = nn.Buffer(mean.view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, H, W). The mean colour becomes 0, which the first convolution pads with."""
        return pixels - self.mean


class Normalize(nn.Module):
    """Normalises pixels where no first convolution can hold the division. Input as for ``Centre``."""

    def __init__(self, mean: Tensor, std: Tensor, bgr: bool) -> None:
        super().__init__()
        self.mean, self.std = nn.Buffer(mean.view(1, 3, 1, 1)), nn.Buffer(std.view(1, 3, 1, 1))
        self.bgr = bgr

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, H, W)."""
        normalized = (pixels - self.mean) / self.std
        return normalized.flip(1) if self.bgr else normalized


class Affine(nn.Module):
    """A BatchNorm1d in eval mode, as scale and shift: (B, D) -> (B, D)."""

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
    """A folded network after its first step: (B, 3, H, W) -> (B, D).

    The input is that of the network or, with a preprocessing folded in, RGB pixels: uint8, or float in 0..255.
    """

    def __init__(self, first: nn.Module, body: nn.Module) -> None:
        super().__init__()
        self.first, self.body = first, body

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D)."""
        return self.body(self.first(images))

    def feature_map(self, images: Tensor) -> Tensor:
        """The last feature map of the body: (B, 3, H, W) -> (B, C, h, w)."""
        body: Any = self.body
        return body.feature_map(self.first(images))


def fold(network: nn.Module, preprocessing: Preprocessing | None = None) -> InferenceGraph:
    """A copy of ``network`` in eval mode with BatchNorms merged into convolutions. Outputs are equal up to rounding.

    Args:
        network: any network of the library; not changed.
        preprocessing: merged too, if given; the copy then takes RGB pixels (uint8, or float in 0..255).
    """
    body = _copy(network).eval()
    for module in body.modules():
        _fold_norms(module)
    neck = getattr(body, "neck", None)
    if isinstance(neck, nn.BatchNorm1d):  # a ReLU between it and the linear layer prevents merging
        body.neck = Affine(neck)
    first = nn.Identity() if preprocessing is None else _fold_preprocessing(body, preprocessing)
    zero_tiny(body)
    return InferenceGraph(first.to(next(body.parameters()).device), body).eval()


def _copy(network: nn.Module) -> nn.Module:
    """A copy in float32 without gradients. ``deepcopy`` would copy all else, too."""
    twins: dict[nn.Module, nn.Module] = {}
    tensors: dict[Tensor, Tensor] = {}

    def copied(tensor: Tensor | None) -> Tensor | None:
        if tensor is not None and tensor not in tensors:
            held = tensor.detach().float() if tensor.is_floating_point() else tensor.detach()
            held = held.clone() if held.data_ptr() == tensor.data_ptr() else held
            tensors[tensor] = nn.Parameter(held, False) if isinstance(tensor, nn.Parameter) else held
        return None if tensor is None else tensors[tensor]

    for module in network.modules():
        twin = twins[module] = object.__new__(type(module))
        twin.__dict__.update(module.__dict__)
        for kind in ("_parameters", "_buffers"):
            twin.__dict__[kind] = {name: copied(tensor) for name, tensor in module.__dict__[kind].items()}
    for twin in twins.values():
        children = twin.__dict__["_modules"]
        twin.__dict__["_modules"] = {
            name: None if child is None else twins[child]
            for name, child in children.items()  # an empty nn.Sequential counts as false
        }
    return twins[network]


def optimize(network: nn.Module, preprocessing: Preprocessing | None = None) -> InferenceGraph:
    """The form for PyTorch: ``fold``, then ReLUs in place and channels last.

    Arguments as for ``fold``. On a CPU, give it channels-last images.
    """
    graph = fold(network, preprocessing)
    for module in list(graph.modules()):
        if isinstance(module, ConvNormAct | LiteConv3x3 | EmbeddingLayer | OSBlock) and isinstance(module.act, nn.ReLU):
            module.act.inplace = True  # nothing else reads its input
    return graph.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _fold_norms(module: nn.Module) -> None:
    """Merge the BatchNorms that are direct children of ``module`` into their convolutions."""
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
    """Merge ``norm`` into ``conv``, in place. Rounding in float64 loses a fifth of what float32 would lose."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    bias = None if conv.bias is None else conv.bias.double()
    weight, bias = fuse_conv_bn_weights(
        conv.weight.double(),
        bias,
        norm.running_mean.double(),
        norm.running_var.double(),
        norm.eps,
        norm.weight.double(),
        norm.bias.double(),
    )
    conv.weight, conv.bias = nn.Parameter(weight.float(), False), nn.Parameter(bias.float(), False)
    return conv


def _before_shuffle(norm: nn.BatchNorm2d, shuffle: nn.Module) -> nn.BatchNorm2d:
    """The norm with its channels in the order before ``shuffle``."""
    if not isinstance(shuffle, ChannelShuffle):
        return norm
    moved = shuffle(torch.arange(norm.num_features, device=norm.weight.device).view(1, -1, 1, 1)).flatten()
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            assert tensor is not None
            tensor[moved] = tensor.clone()
    return norm


def _fold_preprocessing(body: nn.Module, preprocessing: Preprocessing) -> nn.Module:
    """Put the division of the normalisation into the first convolution of ``body``; return the subtraction as a layer.

    The subtraction stays a layer because that convolution pads with zeros, which stand for the mean colour.
    """
    bgr = preprocessing.channel_order == "bgr"
    mean, std = (255 * torch.tensor(values, dtype=torch.float64) for values in (preprocessing.mean, preprocessing.std))
    conv = next((module for module in body.modules() if isinstance(module, nn.Conv2d)), None)
    normed_before = isinstance(getattr(body, "input_norm", None), nn.InstanceNorm2d)
    if conv is None or normed_before or conv.in_channels != 3 or conv.groups != 1 or conv.padding_mode != "zeros":
        if bgr:  # subtraction and division come before the channels are reversed
            mean, std = mean.flip(0), std.flip(0)
        return Normalize(mean.float(), std.float(), bgr)
    with torch.no_grad():
        weight = conv.weight.double() / std.to(conv.weight.device).view(1, 3, 1, 1)
        conv.weight.copy_(weight.flip(1) if bgr else weight)
    return Centre((mean.flip(0) if bgr else mean).float())
