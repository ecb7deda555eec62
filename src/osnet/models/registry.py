"""The named networks, and building a network from its settings."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from osnet.errors import ModelError
from osnet.models.baselines.backbone import Backbone
from osnet.models.config import BackboneConfig, NetworkConfig, OSNetConfig
from osnet.models.network import Network
from osnet.models.osnet import OSNet

WIDTHS = {"x1_0": 1.0, "x0_75": 0.75, "x0_5": 0.5, "x0_25": 0.25}

INTEL = {"x1_0": "0277", "x0_75": "0286", "x0_5": "0287", "x0_25": "0288"}
"""Maps the width to the number of Intel's person-reidentification-retail model."""


def lct_config(width: float) -> OSNetConfig:
    """The settings of Intel's published network with this width. No paper describes the whole network."""
    return OSNetConfig(
        width=width,
        norm="stem",
        pooling="depthwise",
        embedding_size=256,
        gate="channel_then_lct",
        input_norm=True,
        embedding_act="prelu",
    )


@dataclass(frozen=True)
class Variant:
    """A named network."""

    config: NetworkConfig
    about: str
    """A short description, with the source."""


def _variants() -> dict[str, Variant]:
    table: dict[str, Variant] = {}
    for suffix, width in WIDTHS.items():
        about = "paper, Table 6" + ("; Table 5, row 1: the primary model; 93.6 / 81.0" if width == 1 else "")
        table[f"osnet_{suffix}"] = Variant(OSNetConfig(width=width), about)
    for norm in ("ibn", "ain"):
        for suffix, width in WIDTHS.items():
            table[f"osnet_{norm}_{suffix}"] = Variant(
                OSNetConfig(width=width, norm=norm),
                f"OSNet-{norm.upper()}, arXiv:1910.06827, as in the authors' code",
            )
    for suffix, width in WIDTHS.items():
        about = f"OSNet with Linear Context Transform, 256-d embedding: person-reidentification-retail-{INTEL[suffix]}"
        table[f"osnet_lct_{suffix}"] = Variant(lct_config(width), about)
    return table | _ablations() | _others()


def _others() -> dict[str, Variant]:
    """The baseline networks of the supplement's Table A."""
    table = {"squeezenet1_0": Variant(BackboneConfig("squeezenet"), "SqueezeNet 1.0, arXiv:1602.07360; Table A")}
    for suffix in ("x0_5", "x0_75", "x1_0"):
        config = BackboneConfig("mobilenetv1", width=WIDTHS[suffix])
        table[f"mobilenetv1_{suffix}"] = Variant(config, "MobileNetV1, arXiv:1704.04861; Table A")
    for suffix, width in (("x1_0", 1.0), ("x1_4", 1.4)):
        config = BackboneConfig("mobilenetv2", width=width)
        table[f"mobilenetv2_{suffix}"] = Variant(config, "MobileNetV2, arXiv:1801.04381; Table A")
    for suffix, width, groups, about in (
        ("x1_0", 1.0, 8, "Table A"),
        ("x1_0", 1.0, 3, "not in Table A, whose 2.4M parameters imply 8 groups"),
        ("x1_5", 1.5, 3, "Table A"),
        ("x2_0", 2.0, 3, "Table A"),
    ):
        config = BackboneConfig("shufflenet", width=width, groups=groups)
        table[f"shufflenet_{suffix}_g{groups}"] = Variant(config, f"ShuffleNet (the first), arXiv:1707.01083; {about}")
    return table


def _ablations() -> dict[str, Variant]:
    """The ablations of the paper's Table 5; row 1 is ``osnet_x1_0``. Rows 3, 4, 7 and 8 are our interpretation."""
    reading = " (our interpretation: the paper does not give all details)"
    rows: list[tuple[str, OSNetConfig, str]] = [
        ("osnet_full_conv", OSNetConfig(lite=False), "row 2: full 3x3 convolutions; 94.0 / 82.7"),
        ("osnet_same_depth", OSNetConfig(stream_depth=2), f"row 3: four streams of depth 2{reading}; 91.7 / 77.9"),
        ("osnet_concat", OSNetConfig(aggregation="concatenation"), f"row 4: concatenation{reading}; 91.4 / 77.4"),
        ("osnet_add", OSNetConfig(aggregation="addition"), "row 5: addition; 92.0 / 78.2"),
        ("osnet_separate_gates", OSNetConfig(aggregation="separate_gates"), "row 6: a gate per stream; 92.9 / 80.2"),
        (
            "osnet_streamwise_gate",
            OSNetConfig(aggregation="streamwise_gate"),
            f"row 7: one weight per stream{reading}; 92.6 / 80.0",
        ),
        (
            "osnet_static_gates",
            OSNetConfig(aggregation="static_gates"),
            f"row 8: learned-and-fixed gates{reading}; 91.6 / 77.5",
        ),
        ("osnet_t1", OSNetConfig(streams=1, aggregation="addition"), "row 9: single scale, as in Fig. A; 86.5 / 67.7"),
        ("osnet_t2", OSNetConfig(streams=2), "row 10: two streams; 91.7 / 77.0"),
        ("osnet_t3", OSNetConfig(streams=3), "row 11: three streams; 92.8 / 79.9"),
    ]
    table = {name: Variant(config, f"paper, Table 5, {about}") for name, config, about in rows}
    for depth in (1, 3, 4):
        about = f"paper, Table 5, row 3 interpreted with streams of depth {depth}"
        table[f"osnet_same_depth_{depth}"] = Variant(OSNetConfig(stream_depth=depth), about)
    return table


VARIANTS: dict[str, Variant] = _variants()

GROUPED_NAME = re.compile(r"(osnet_x\d_\d+)_g(\d+)_(lite|block|all)")
"""Names of OSNets with grouped convolutions in older versions, such as ``osnet_x1_0_g4_lite``. Existing recipes,
training runs and files have these names, so ``get_config`` still accepts them; ``list_models`` does not list them. In
new code, use ``create_model("osnet_x1_0", groups=4, group_extent="lite")``."""


def list_models(pattern: str = "*") -> list[str]:
    """List the model names that match ``pattern`` (``*`` and ``?`` are wildcards), sorted.

    >>> list_models("osnet_ain*")
    ['osnet_ain_x0_25', 'osnet_ain_x0_5', 'osnet_ain_x0_75', 'osnet_ain_x1_0']
    """
    return sorted(name for name in VARIANTS if fnmatchcase(name, pattern))


def get_config(name: str, **settings: Any) -> NetworkConfig:
    """Return the settings of a named network.

    Args:
        name: name of a network in ``list_models()``.
        **settings: fields of ``OSNetConfig`` or ``BackboneConfig`` that replace those of the named network.

    Raises:
        ModelError: the name or a field is unknown, or settings contradict each other. The message suggests similar
            names.
    """
    if (grouped := GROUPED_NAME.fullmatch(name)) and grouped[1] in VARIANTS:
        name, settings = grouped[1], {"groups": int(grouped[2]), "group_extent": grouped[3], **settings}
    if name not in VARIANTS:
        near = get_close_matches(name, VARIANTS, n=4) or get_close_matches(name, VARIANTS, n=4, cutoff=0)
        raise ModelError(f"unknown model {name!r}; did you mean {', '.join(near)}? (list_models() returns all names)")
    config = VARIANTS[name].config
    known = config.__dataclass_fields__
    if unknown := sorted(set(settings) - set(known)):
        raise ModelError(f"{name} has no setting {', '.join(unknown)}; choose from {', '.join(known)}")
    return replace(config, **settings)


def name_of(config: NetworkConfig) -> str | None:
    """The name of these settings in ``list_models()``, or None. Pooling, embedding size and neck are not compared."""
    plain = _without_head(config)
    return next((name for name, variant in VARIANTS.items() if _without_head(variant.config) == plain), None)


def _without_head(config: NetworkConfig) -> NetworkConfig:
    if isinstance(config, OSNetConfig):
        return replace(config, pooling="avg", embedding_size=512, neck=False)
    return replace(config, pooling="avg", projection=0, neck=False)


def build_network(config: NetworkConfig, device: str | torch.device | None = None) -> Network:
    """Build the network that ``config`` describes, with random weights.

    Args:
        config: settings of an OSNet or of another backbone.
        device: where the tensors are created; ``"meta"`` allocates no storage, for counting and comparing shapes.

    Raises:
        ModelError: ``config`` is neither an ``OSNetConfig`` nor a ``BackboneConfig``.
    """
    if not isinstance(config, OSNetConfig | BackboneConfig):
        raise ModelError(
            f"{config} does not describe a network of this library; "
            "a third-party model can be run, but not built or saved"
        )
    with torch.device(torch.get_default_device() if device is None else device):
        return OSNet(config) if isinstance(config, OSNetConfig) else Backbone(config)


@lru_cache(maxsize=128)
def list_tensors(config: NetworkConfig) -> Mapping[str, Tensor]:
    """The network's tensors by name, without storage, to compare names and shapes. Cached: do not modify the result."""
    return build_network(config, "meta").state_dict()


def without_neck(network: Network) -> Network:
    """Return the network without its BNNeck. Triplet losses and new heads use the features before the neck.

    Returns ``network`` itself if it has no neck, otherwise a copy without a neck and a classifier.
    """
    if not network.config.neck:
        return network
    bare = build_network(replace(network.config, neck=False), next(network.parameters()).device)
    bare.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith(("neck.", "classifier."))})
    return bare.train(network.training)
