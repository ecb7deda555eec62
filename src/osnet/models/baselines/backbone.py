"""The baselines in the supplement's Table A, as networks that map an image to an embedding.

SqueezeNet 1.0 (Iandola et al. 2016) and MobileNetV2 (Sandler et al. 2018) are torchvision's, without their classifiers.
MobileNetV1 and ShuffleNet are implemented in this package. In all four, dropout is part of the classifier, so it is not
included here.
Shapes: B batch, C channels, H height, W width, D embedding.
"""

from torch import Tensor, nn

from osnet.models.baselines.mobilenetv1 import MobileNetV1
from osnet.models.baselines.shufflenet import ShuffleNet
from osnet.models.config import BackboneConfig
from osnet.models.layers import EmbeddingLayer, init_weights, make_neck
from osnet.models.network import Network


class Backbone(Network):
    """A baseline: (B, 3, H, W) -> embeddings (B, D), in training and in eval mode.

    H and W must be at least 32, or 8 with the ``cifar`` stem. The embedding is the pooled last feature map, not
    normalised. Its components are >= 0, because each of these networks ends in a ReLU (unless ``config.neck`` is set).
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
        """The last feature map: (B, 3, H, W) -> (B, C, H/32, W/32), for SqueezeNet (B, C, H/16, W/16).

        With the ``cifar`` stem, the height and width of the map are four times as large.
        """
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        """Embed a batch: (B, 3, H, W) -> (B, D)."""
        features = self.feature_map(x)
        pooled = features.mean(dim=(2, 3)) if self.config.pooling == "avg" else features.amax(dim=(2, 3))
        return self.neck(self.embedding(pooled))


def build_body(config: BackboneConfig) -> nn.Module:
    """Build the layers up to the last feature map, with the random initialisation of the authors or of torchvision."""
    small = config.stem == "cifar"
    if config.family == "squeezenet":
        return _build_squeezenet(small)
    if config.family == "mobilenetv2":
        return _build_mobilenetv2(config.width, small)
    if config.family == "mobilenetv1":
        return MobileNetV1(config.width, small)
    return ShuffleNet(config.width, config.groups, small)


def _build_squeezenet(small: bool) -> nn.Module:
    from torchvision.models import squeezenet1_0  # imported here because it is slow

    layers = squeezenet1_0(weights=None).features
    if small:
        layers[0] = nn.Conv2d(3, 96, 3, padding=1)
        nn.init.kaiming_uniform_(layers[0].weight)  # as torchvision initialises the other layers
        nn.init.zeros_(layers[0].bias)
        layers[2] = nn.Identity()
    return layers


def _build_mobilenetv2(width: float, small: bool) -> nn.Module:
    from torchvision.models import MobileNetV2

    # Expansion, channels, repeats and stride from Table 2 of the MobileNetV2 paper.
    rows = [[1, 16, 1, 1], [6, 24, 2, 1 if small else 2], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2]]
    layers = MobileNetV2(width_mult=width, inverted_residual_setting=[*rows, [6, 320, 1, 1]]).features
    if small:
        stem = layers[0][0]
        assert isinstance(stem, nn.Conv2d)
        stem.stride = (1, 1)
    return layers
