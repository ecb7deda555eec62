"""The other networks of the supplement's Table A, as image -> embedding: torchvision's where it has them.

SqueezeNet 1.0 (Iandola et al. 2016) and MobileNetV2 (Sandler et al. 2018) are torchvision's, without their
classifiers; MobileNetV1 and ShuffleNet are ours. Dropout belongs to their classifiers, so it is left to the task.
Shapes: B batch, C channels, D embedding.
"""

from torch import Tensor, nn

from osnet.models.baselines.mobilenetv1 import MobileNetV1
from osnet.models.baselines.shufflenet import ShuffleNet
from osnet.models.config import BackboneConfig
from osnet.models.layers import EmbeddingLayer, init_weights, make_neck
from osnet.models.network import Network


class Backbone(Network):
    """(B, 3, H, W) -> (B, D), always. Any H and W of at least 32 (8 with the ``cifar`` stem).

    The embedding is the pooled last map, so it is >= 0 (without ``config.neck``): every one of these networks ends in
    a ReLU. It is not normalised.
    """

    config: BackboneConfig

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.body = build_body(config)
        self.embedding = EmbeddingLayer(config.channels, config.projection) if config.projection else nn.Identity()
        self.embedding.apply(init_weights)
        self.neck = make_neck(config.embedding_size) if config.neck else nn.Identity()

    def feature_map(self, x: Tensor) -> Tensor:
        """The last map: (B, 3, H, W) -> (B, C, H/32, W/32); SqueezeNet H/16. A quarter of that with ``cifar``."""
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D)."""
        features = self.feature_map(x)
        pooled = features.mean(dim=(2, 3)) if self.config.pooling == "avg" else features.amax(dim=(2, 3))
        return self.neck(self.embedding(pooled))


def build_body(config: BackboneConfig) -> nn.Module:
    """Image -> last map, with random weights as the family's authors (or torchvision) draw them."""
    small = config.stem == "cifar"
    if config.family == "squeezenet":
        return _build_squeezenet(small)
    if config.family == "mobilenetv2":
        return _build_mobilenetv2(config.width, small)
    if config.family == "mobilenetv1":
        return MobileNetV1(config.width, small)
    return ShuffleNet(config.width, config.groups, small)


def _build_squeezenet(small: bool) -> nn.Module:
    from torchvision.models import squeezenet1_0  # needs more than torch

    layers = squeezenet1_0(weights=None).features
    if small:
        layers[0] = nn.Conv2d(3, 96, 3, padding=1)
        nn.init.kaiming_uniform_(layers[0].weight)  # as torchvision draws the others
        nn.init.zeros_(layers[0].bias)
        layers[2] = nn.Identity()
    return layers


def _build_mobilenetv2(width: float, small: bool) -> nn.Module:
    from torchvision.models import MobileNetV2

    # Expansion, channels, repeats, stride: the paper's Table 2.
    rows = [[1, 16, 1, 1], [6, 24, 2, 1 if small else 2], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2]]
    layers = MobileNetV2(width_mult=width, inverted_residual_setting=[*rows, [6, 320, 1, 1]]).features
    if small:
        stem = layers[0][0]
        assert isinstance(stem, nn.Conv2d)
        stem.stride = (1, 1)
    return layers
