"""Networks of the supplement's Table A: counts, layers against timm and pytorchcv, saving, digests."""

import importlib.util
import json
from math import gcd
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import FIXTURES, make_picture
from osnet import Embedder, create_model
from osnet.cli import main
from osnet.errors import ModelError, WeightsError
from osnet.losses import smoothed_cross_entropy
from osnet.models.baselines.backbone import Backbone
from osnet.models.baselines.shufflenet import ShuffleUnit
from osnet.models.config import (
    LATE_SETTINGS,
    SHUFFLENET_CHANNELS,
    SHUFFLENET_STEMS,
    BackboneConfig,
    OSNetConfig,
    round_to_eight,
)
from osnet.models.counting import TABLE_A, count_cost
from osnet.models.layers import ChannelShuffle
from osnet.models.registry import VARIANTS, build_network
from osnet.types import Preprocessing
from osnet.weights.card import Card
from osnet.weights.checkpoint import convert, load_weights, network_sha256, save_weights
from osnet.weights.torchreid import torchreid_names

SPEC = importlib.util.spec_from_file_location("make_table_a_outputs", FIXTURES / "make_table_a_outputs.py")
assert SPEC is not None
assert SPEC.loader is not None
SCRIPT = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(SCRIPT)
PEER = np.load(FIXTURES / "table_a_outputs.npz", allow_pickle=False)

# Exact parameters; multiply-adds in M, with a linear classifier after the pooling; embedding size.
COUNTS = {
    "squeezenet1_0": (1_248_424, "737.1", 512),
    "mobilenetv1_x0_5": (1_331_592, "149.5", 512),
    "mobilenetv1_x0_75": (2_585_560, "325.4", 768),
    "mobilenetv1_x1_0": (4_231_976, "568.7", 1024),
    "shufflenet_x1_0_g8": (2_434_768, "138.4", 1536),
    "shufflenet_x1_0_g3": (1_865_728, "137.5", 960),
    "shufflenet_x1_5_g3": (3_442_168, "292.4", 1440),
    "shufflenet_x2_0_g3": (5_450_776, "524.0", 1920),
    "mobilenetv2_x1_0": (3_504_872, "300.8", 1280),
    "mobilenetv2_x1_4": (6_108_776, "582.2", 1792),
    "osnet_t1": (2_082_920, "1031.4", 512),
}
OTHERS = [name for name in COUNTS if name != "osnet_t1"]


@pytest.mark.parametrize("name", COUNTS)
def test_counts_of_every_network(name: str) -> None:
    params, madds, size = COUNTS[name]
    network = build_network(VARIANTS[name].config, "meta")
    counted = count_cost(network, (224, 224), 1000)
    assert (counted.params, f"{counted.madds / 1e6:.1f}") == (params, madds)
    assert network.config.embedding_size == size


# Printed figures that differ from the rounded count; TABLE_A names the reason of each.
DIFFERING = {
    "shufflenet_x1_0_g8": "madds",
    "shufflenet_x2_0_g3": "params",
    "mobilenetv2_x1_0": "params madds",
    "mobilenetv2_x1_4": "params madds",
    "osnet_x0_5": "madds",
    "osnet_x0_75": "madds",
    "osnet_x1_0": "madds",
}


def test_table_a_row_by_row() -> None:
    """A printed figure is the rounded count exactly if the row names no difference."""
    assert [row.top1 for row in TABLE_A] == [
        57.5,
        63.7,
        68.4,
        70.6,
        67.6,
        71.5,
        73.7,
        72.0,
        74.7,
        69.5,
        73.5,
        75.5,
        None,
    ]
    for row in TABLE_A:
        if row.top1 is None:
            continue
        cost = count_cost(build_network(VARIANTS[row.model].config, "meta"), (224, 224), 1000)
        differs = DIFFERING.get(row.model, "")
        assert (f"{cost.params / 1e6:.1f}M" != row.params) == ("params" in differs), row.model
        if row.madds is not None:
            assert (f"{cost.madds / 1e6:.0f}M" != row.madds) == ("madds" in differs), row.model
        named = {"params": f"{row.params} " in row.difference or f"{cost.params / 1e6:.3f}M" in row.difference,
                "madds": f"{row.madds} " in row.difference or "multiply-adds" in row.difference}  # fmt: skip
        assert all(named[word] for word in differs.split()), row.model


def _sides(network: nn.Module) -> list[tuple[nn.Conv2d, int]]:
    """Every convolution with the height of its output for a 224 x 224 image."""
    seen: list[tuple[nn.Conv2d, int]] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, _, out: seen.append((m, out.shape[-1])))
    network(torch.zeros(1, 3, 224, 224, device="meta"))
    return seen


def test_squeezenet_with_its_convolutional_classifier() -> None:
    from torchvision.models import squeezenet1_0

    with torch.device("meta"):
        theirs = squeezenet1_0(weights=None).eval()
    cost = count_cost(theirs, (224, 224))
    assert (cost.params, f"{cost.madds / 1e6:.1f}") == (1_248_424, "823.3")
    biases = sum(m.out_channels * n**2 for m, n in _sides(theirs))
    assert f"{(cost.madds - biases) / 1e6:.1f}" == "818.9"  # without biases, as other libraries count
    body = count_cost(build_network(BackboneConfig("squeezenet"), "meta"), (224, 224))
    assert cost.madds - body.madds == 513 * 1000 * 13 * 13


def test_parameters_match_timm_and_pytorchcv() -> None:
    """The fixture has the parameters that timm and pytorchcv count, with classifiers of 1000 classes."""
    for theirs, ours in (
        ("mobilenetv1_100", BackboneConfig("mobilenetv1")),
        ("mobilenetv2_100", BackboneConfig("mobilenetv2")),
        ("mobilenetv2_140", BackboneConfig("mobilenetv2", width=1.4)),
        *((f"shufflenet_g{g}_w1", BackboneConfig("shufflenet", groups=g)) for g in (1, 2, 3, 4, 8)),
    ):
        counted = count_cost(build_network(ours, "meta"), (64, 64), 1000)
        assert counted.params == int(PEER[f"{theirs} params"]), theirs


@pytest.mark.parametrize(("name", "width"), [("mobilenetv1_100", 1.0), ("mobilenetv1_125", 1.25)])
def test_mobilenetv1_matches_timm(name: str, width: float) -> None:
    network = Backbone(BackboneConfig("mobilenetv1", width=width)).eval()
    network.load_state_dict(SCRIPT.fill(network.state_dict()))  # both list their layers in forward order
    with torch.no_grad():
        ours = network(SCRIPT.image()).numpy()
    assert np.abs(ours - PEER[name]).max() <= 1e-4 * np.abs(PEER[name]).max()


@pytest.mark.parametrize("name", SCRIPT.UNITS)
def test_shuffle_units_match_pytorchcv(name: str) -> None:
    channels_in, channels_out, groups, halves, first = SCRIPT.UNITS[name]
    unit = ShuffleUnit(channels_in, channels_out, groups, 2 if halves else 1, 1 if first else groups).eval()
    theirs = SCRIPT.fill(unit.state_dict())
    # pytorchcv shuffles after the first BatchNorm and ReLU, ours before: equal, with BatchNorm in shuffled order.
    mid = channels_out // 4
    order = ChannelShuffle(groups)(torch.arange(mid).view(1, mid, 1, 1)).flatten()
    for key in ("weight", "bias", "running_mean", "running_var"):
        theirs[f"reduce.norm.{key}"] = theirs[f"reduce.norm.{key}"][order]
    if first:  # ours has no shuffle without groups before it, so reorder the weights
        theirs["reduce.conv.weight"] = theirs["reduce.conv.weight"][order]
    unit.load_state_dict(theirs)
    with torch.no_grad():
        ours = unit(SCRIPT.image(channels_in, 6))
    if halves:  # ours has the pooled input first, pytorchcv last
        ours = torch.cat([ours[:, channels_in:], ours[:, :channels_in]], dim=1)
    expected = PEER[f"unit {name}"]
    assert np.abs(ours.numpy() - expected).max() <= 1e-4 * np.abs(expected).max()


def grouped_cost(width: float, groups: int, extent: str) -> tuple[int, int]:
    """Parameters and multiply-adds of OSNet at 224 x 224 with 1000 classes, from the paper's Table 1."""
    stem, *stages = [round(c * width) for c in (64, 256, 384, 512)]
    lite = groups
    block = groups if extent in ("block", "all") else 1
    rest = groups if extent == "all" else 1
    params, madds = 147 * stem + 2 * stem, 147 * stem * 112**2
    channels_in, side = stem, 56
    for stage, out in enumerate(stages):
        mid, places = out // 4, side**2
        for first in (channels_in, out):
            convolutions = first * mid // block + mid * out // block + (first * out // block if first != out else 0)
            convolutions += 10 * (mid * mid // lite + 9 * mid)  # 1 + 2 + 3 + 4 Lite layers
            norms = 2 * mid + 10 * 2 * mid + 2 * out + (2 * out if first != out else 0)
            hidden = max(1, mid // 16)
            gate = mid * hidden + hidden + hidden * mid + mid
            params += convolutions + norms + gate
            madds += convolutions * places + 4 * gate
        params += out * out // rest + 2 * out  # a transition, or conv5 after the last stage
        madds += out * out // rest * places
        channels_in, side = out, side // 2 if stage < 2 else side
    head = channels_in * 512 + 512 + 513 * 1000
    return params + head + 1024, madds + head


@pytest.mark.parametrize("width", [1.0, 0.75, 0.5])
def test_every_group_count_and_extent_by_hand(width: float) -> None:
    """Group counts that divide the channels, for all three extents; others are refused."""
    channels = OSNetConfig(width=width).channels
    for extent in ("lite", "block", "all"):
        grouped = [c // 4 for c in channels[1:]] + (list(channels) if extent != "lite" else [])
        for groups in range(2, 65):
            if gcd(*grouped) % groups:
                with pytest.raises(ModelError, match=f"groups {groups} does not divide"):
                    OSNetConfig(width=width, groups=groups, group_extent=extent)
                continue
            config = OSNetConfig(width=width, groups=groups, group_extent=extent)
            if groups > 8 and (width, extent) != (0.75, "all"):
                continue  # each takes a third of a second
            cost = count_cost(build_network(config, "meta"), (224, 224), 1000)
            assert (cost.params, cost.madds) == grouped_cost(width, groups, extent), (groups, extent)
    plain = count_cost(build_network(OSNetConfig(width=width), "meta"), (224, 224), 1000)
    assert (plain.params, plain.madds) == grouped_cost(width, 1, "all")


@pytest.mark.parametrize("name", OTHERS)
def test_cifar_stem_does_not_halve_twice(name: str) -> None:
    """Like OSNet's: the feature map of a 32 x 32 image is four times as high and wide as with the ImageNet stem."""
    large = build_network(VARIANTS[name].config, "meta").eval()
    small = create_model(name, stem="cifar").eval()
    side = small.feature_map(torch.rand(1, 3, 32, 32)).shape[-1]
    assert side == (8 if name.startswith("squeezenet") else 4)
    with torch.device("meta"):
        assert large.feature_map(torch.rand(1, 3, 4 * 32, 4 * 32)).shape[-1] in (side, side - 1)
    first = next(m for m in small.modules() if isinstance(m, nn.Conv2d))
    assert (first.kernel_size, first.stride) == ((3, 3), (1, 1))


@pytest.mark.parametrize("name", OTHERS)
def test_the_output_is_the_pooled_feature_map(name: str) -> None:
    network = create_model(name).eval()
    x = torch.rand(2, 3, 64, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(x), network.feature_map(x).mean((2, 3)))
        assert network.train()(x).shape == (2, network.config.embedding_size)


def test_projection_and_pooling() -> None:
    network = create_model("mobilenetv2_x1_0", projection=96, pooling="max").eval()
    x = torch.rand(2, 3, 64, 32)
    with torch.no_grad():
        pooled = network.feature_map(x).amax((2, 3))
        expected = (network.embedding.linear(pooled) / (1 + network.embedding.norm.eps) ** 0.5).relu()
        torch.testing.assert_close(network(x), expected)
    assert network.config.embedding_size == 96


@pytest.mark.parametrize("family", ["squeezenet", "mobilenetv1", "mobilenetv2", "shufflenet"])
def test_every_parameter_has_a_gradient(family: str) -> None:
    network = Backbone(BackboneConfig(family, stem="cifar", groups=2 if family == "shufflenet" else 1, projection=16))
    head = nn.Linear(16, 3)
    images, labels = torch.rand(6, 3, 32, 32), torch.tensor([0, 1, 2, 0, 1, 2])
    smoothed_cross_entropy(head(network(images)), labels).backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("name", OTHERS)
def test_saving_and_loading_with_a_card(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = create_model(name, stem="cifar").eval()
    written = save_weights(network, tmp_path / "w", Card(network.config, preprocessing=Preprocessing(size_hw=(32, 32))))
    loaded = load_weights(tmp_path / "w")
    assert type(loaded) is Backbone
    assert loaded.card == written
    assert loaded.config == network.config
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded(x), network(x))
    embedder = Embedder(tmp_path / "w")
    assert embedder.embed(make_picture(0)).shape == (1, network.config.embedding_size)
    assert embedder.sha256() == network_sha256(network, Preprocessing(size_hw=(32, 32)))


def test_a_card_names_the_network_and_others_are_refused(tmp_path: Path) -> None:
    network = create_model("mobilenetv2_x1_0")
    assert save_weights(network, tmp_path / "w").name == "mobilenetv2_x1_0"
    with pytest.raises(WeightsError, match="not the requested network"):
        load_weights(tmp_path / "w", architecture="mobilenetv2_x1_4")
    with pytest.raises(ModelError, match=r"Torchreid.*mobilenetv2"):
        torchreid_names(network.config)
    with pytest.raises(ModelError, match="only OSNets"):
        convert(tmp_path / "w", tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()
    assert create_model("mobilenetv2_x1_0", pretrained=tmp_path / "w").card.name == "mobilenetv2_x1_0"


def fill_deterministically(state: dict[str, Tensor]) -> None:
    for i, (_, v) in enumerate(sorted(state.items())):
        if v.is_floating_point():
            v.copy_((torch.arange(v.numel(), dtype=torch.float64).reshape(v.shape) * (i + 1) % 97 / 97).float())


@pytest.mark.parametrize(
    ("settings", "digest"),
    [
        ({}, "68c0158889b953f56b81ffd400657b5f9485aac7d9c3125f9aa696993e083b87"),
        (
            {"norm": "ain", "stem": "cifar", "groups": 2, "group_extent": "lite"},
            "3b1b4e7a602c2d8b304bf0f23c5762e2bf85b08f94d7ca504c41ca34fd68139a",
        ),
    ],
)
def test_osnet_digests_do_not_change(settings: dict, digest: str) -> None:
    """Galleries store them. These were computed before other networks were added."""
    network = build_network(OSNetConfig(width=0.25, **settings))
    fill_deterministically(network.state_dict())
    assert network_sha256(network, Preprocessing()) == digest


def test_cards_store_late_settings_only_if_used(tiny_weights: Path) -> None:
    """So that older versions can read the cards of plain OSNets."""
    card = json.loads((tiny_weights / "card.json").read_text())
    assert set(card["architecture"]) == set(OSNetConfig.__dataclass_fields__) - set(LATE_SETTINGS)
    assert "family" not in card["architecture"]


def test_digests_depend_on_the_structure() -> None:
    """Networks with equal tensors but different structures must not share galleries."""
    plain, pooled = (Backbone(BackboneConfig("mobilenetv1", width=0.25, pooling=p)) for p in ("avg", "max"))
    pooled.load_state_dict(plain.state_dict())
    small = Backbone(BackboneConfig("mobilenetv1", width=0.25, stem="cifar"))
    small.load_state_dict(plain.state_dict())
    digests = {network_sha256(n, Preprocessing()) for n in (plain, pooled, small)}
    assert len(digests) == 3


def test_round_to_eight() -> None:
    """By hand: 44.8 -> 48, 22.4 -> 24, 33.6 -> 32, 4 -> 8; 12 -> 16 (half up); 10 -> 16, as 8 would lose a fifth."""
    assert [round_to_eight(c) for c in (44.8, 22.4, 33.6, 4, 12, 10)] == [48, 24, 32, 8, 16, 16]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: BackboneConfig("resnet"), ["'resnet'", "mobilenetv2"]),
        (lambda: BackboneConfig("squeezenet", width=0.5), ["width 0.5", "1.0"]),
        (lambda: BackboneConfig("mobilenetv1", groups=2), ["groups 2", "must be 1"]),
        (lambda: BackboneConfig("shufflenet", groups=5), ["groups 5", "1, 2, 3, 4, 8"]),
        (lambda: BackboneConfig("shufflenet", width=0.7), ["width 0.7", "0.5, 1.0, 1.5, 2.0"]),
        (lambda: create_model("mobilenetv2_x1_0", norm="ibn"), ["norm", "projection"]),
        (lambda: create_model("mobilenetv2"), ["mobilenetv2_x1_"]),
    ],
)
def test_invalid_settings_are_refused(call, words: list[str]) -> None:
    with pytest.raises(ModelError) as caught:
        call()
    for word in words:
        assert word in str(caught.value)


def test_table_a_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    main(["models", "--table-a"])
    out = capsys.readouterr().out
    rows = {line.split("  ")[0]: line.split()[-6:] for line in out.splitlines()}
    assert rows["MobileNetV2 x1.4"] == ["6.9M", "6.109M", "585M", "582.2M", "74.7", "mobilenetv2_x1_4"]
    assert rows["OSNet x1.0"] == ["2.7M", "2.683M", "1511M", "1499.3M", "75.5", "osnet_x1_0"]
    assert "823.3M" in out
    monkeypatch.setattr("osnet.cli.models.TABLE_A", TABLE_A[9:10])
    main(["models", "--table-a", "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["model"], row["top1"], row["counted"]["params"]) == ("osnet_x0_5", 69.5, 1_143_034)


def test_models_refuses_sizes_too_small_for_a_network(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["models", "--size", "16", "16"])
    assert "too small for mobilenetv1_x0_5" in capsys.readouterr().err
    main(["models", "osnet_x0_25", "--size", "16", "16"])


def test_all_shufflenets_can_be_built_or_are_refused() -> None:
    """Width 0.5 with 8 groups has 16 channels in the stem, as the authors published it."""
    refused = set()
    for width in SHUFFLENET_STEMS:
        for groups in SHUFFLENET_CHANNELS:
            try:
                network = build_network(BackboneConfig("shufflenet", width=width, groups=groups), "meta")
            except ModelError:
                refused.add((width, groups))
            else:
                stem = 16 if (width, groups) == (0.5, 8) else SHUFFLENET_STEMS[width]
                assert network.state_dict()["body.0.conv.weight"].shape[0] == stem
    assert refused == {(0.5, 2), (0.5, 4), (1.5, 2), (1.5, 4)}
