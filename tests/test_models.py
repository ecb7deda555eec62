"""Networks and their layers: outputs, settings, and refused settings."""

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from conftest import create_small
from osnet import Embedder, OSNet, OSNetConfig, Preprocessing, create_model, list_models, save_weights
from osnet.errors import ModelError
from osnet.models.layers import ChannelGate, ChannelShuffle, LinearContextGate, LiteConv3x3, StaticGate
from osnet.models.network import Network
from osnet.models.osnet import Concatenation, OSBlock, SeparateGates, UnifiedGate
from osnet.models.registry import VARIANTS
from osnet.weights.checkpoint import network_sha256


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_every_named_network_embeds_images(name: str) -> None:
    network = create_small(name).eval()
    with torch.no_grad():
        out = network(torch.rand(2, 3, 64, 32))
    assert out.shape == (2, network.config.embedding_size)
    assert out.shape[1] == (256 if "_lct_" in name else 512) or not name.startswith("osnet")
    assert torch.isfinite(out).all()
    assert (out >= 0).all() or "_lct_" in name  # PReLU


@pytest.mark.parametrize("training", [True, False])
def test_output_shape_is_equal_in_train_and_eval_mode(training: bool) -> None:
    assert create_model("osnet_x0_25").train(training)(torch.rand(4, 3, 64, 32)).shape == (4, 512)


@pytest.mark.parametrize("norm", ["bn", "ibn", "ain"])
@pytest.mark.parametrize("width", [0.25, 0.5, 0.75, 1.0, 1.25, 0.33])
def test_any_width_with_any_norm(width: float, norm: str) -> None:
    network = OSNet(OSNetConfig(width=width, norm=norm)).eval()
    assert network(torch.rand(1, 3, 32, 32)).shape == (1, 512)


def test_feature_map_sizes() -> None:
    x = torch.rand(1, 3, 64, 32)
    assert OSNet(OSNetConfig(width=0.25)).eval().feature_map(x).shape == (1, 128, 4, 2)
    cifar = OSNet(OSNetConfig(width=0.25, stem="cifar")).eval()
    assert cifar.feature_map(torch.rand(1, 3, 32, 32)).shape == (1, 128, 8, 8)


def test_pooling_and_embedding_size() -> None:
    x = torch.rand(1, 3, 64, 32)
    network = OSNet(OSNetConfig(width=0.25, pooling="max", embedding_size=96)).eval()
    expected = network.embedding(network.feature_map(x).flatten(2).max(dim=2).values)
    torch.testing.assert_close(network(x), expected)
    assert expected.shape == (1, 96)


@pytest.mark.parametrize(("t", "pixels"), [(1, 3), (2, 5), (3, 7), (4, 9)])
def test_stream_t_sees_2t_plus_1_pixels(t: int, pixels: int) -> None:
    block = OSBlock(16, 16, OSNetConfig(), instance_norm=False).eval()
    x = torch.rand(1, 4, 21, 21, dtype=torch.float64, requires_grad=True)
    stream = block.double().streams[t - 1]
    for module in stream.modules():  # a ReLU at 0 would hide pixels
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 0.01)
    stream(x)[0, 0, 10, 10].backward()
    assert x.grad is not None
    seen = (x.grad[0].abs().sum(0) > 0).nonzero()
    assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [pixels, pixels]


@pytest.mark.parametrize(("name", "pixels"), [("osnet_t1", 135), ("osnet_add", 471)])
def test_receptive_fields(name: str, pixels: int) -> None:
    """Rows of the image on which a row of the last map depends. The streams of ``osnet_add`` are those of OSNet."""
    network = create_model(name, width=0.0625).double().eval()
    for parameter in network.parameters():  # no ReLU is 0 and no terms cancel
        parameter.data.abs_()
    network.stem_pool = nn.AvgPool2d(3, 2, 1)  # a maximum would hide pixels
    x = torch.rand(1, 3, 640, 16, dtype=torch.float64, requires_grad=True)
    network.feature_map(x)[0, :, 20].sum().backward()
    assert x.grad is not None
    rows = x.grad[0].abs().sum((0, 2)).nonzero()
    assert int(rows.max() - rows.min()) + 1 == pixels


def test_lite_3x3_is_a_pointwise_then_a_depthwise_convolution() -> None:
    """Against loops over channels, with BatchNorm at its initial values."""
    torch.manual_seed(1)
    layer = LiteConv3x3(3).eval().double()
    x = torch.rand(1, 3, 5, 4, dtype=torch.float64)
    mixed = torch.zeros_like(x)
    for o in range(3):
        for i in range(3):
            mixed[0, o] += layer.pointwise.weight[o, i, 0, 0] * x[0, i]
    padded = torch.nn.functional.pad(mixed, (1, 1, 1, 1))
    expected = torch.zeros_like(x)
    for c in range(3):
        for h in range(5):
            for w in range(4):
                expected[0, c, h, w] = (padded[0, c, h : h + 3, w : w + 3] * layer.depthwise.weight[c, 0]).sum()
    torch.testing.assert_close(layer(x), (expected / (1 + layer.norm.eps) ** 0.5).relu())


def test_gate_by_hand() -> None:
    gate = ChannelGate(16)
    with torch.no_grad():
        gate.reduce.weight.fill_(0.5)
        gate.reduce.bias.fill_(-1)
        gate.expand.weight.copy_(torch.arange(16).view(16, 1, 1, 1))
        gate.expand.bias.fill_(0.25)
    x = torch.arange(16.0).view(1, 16, 1, 1).expand(1, 16, 2, 2)  # channel c is c everywhere; mean 7.5
    hidden = 0.5 * 120 - 1
    torch.testing.assert_close(gate(x).flatten(), torch.sigmoid(torch.arange(16) * hidden + 0.25))
    assert ChannelGate(16, num_outputs=1)(x).shape == (1, 1, 1, 1)
    assert StaticGate(16)(x).flatten().tolist() == [0.5] * 16


def test_linear_context_gate_by_hand() -> None:
    """Two groups of two channels: averages 1, 3 and 5, 5 are normalised to -1, 1 and 0, 0 (up to eps)."""
    gate = LinearContextGate(4, groups=2)
    x = torch.tensor([1.0, 3.0, 5.0, 5.0]).view(1, 4, 1, 1).expand(1, 4, 2, 2)
    torch.testing.assert_close(gate(x).flatten(), torch.sigmoid(torch.ones(4)))  # the paper's initialisation
    with torch.no_grad():
        gate.weight.copy_(torch.tensor([2.0, 3.0, 4.0, 5.0]))
        gate.bias.copy_(torch.tensor([0.0, 0.5, 1.0, 1.5]))
    expected = torch.sigmoid(torch.tensor([-2.0, 3.5, 1.0, 1.5]))
    torch.testing.assert_close(gate(x).flatten(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("channels", "groups"), [(64, 16), (24, 8), (6, 2), (7, 1)])
def test_linear_context_gate_is_a_group_norm_of_averages(channels: int, groups: int) -> None:
    torch.manual_seed(0)
    gate, norm = LinearContextGate(channels), nn.GroupNorm(groups, channels)
    assert gate.groups == groups
    for param in (gate.weight, gate.bias):
        nn.init.normal_(param)
    norm.load_state_dict(gate.state_dict())
    x = torch.rand(3, channels, 5, 4)
    torch.testing.assert_close(gate(x), norm(x.mean(dim=(2, 3), keepdim=True)).sigmoid())
    assert LinearContextGate(16)(torch.rand(1, 16, 2, 2)).shape == (1, 16, 1, 1)  # one image, one channel in a group


def test_depthwise_pooling_needs_a_fixed_size() -> None:
    network = create_small("osnet_lct_x0_25").eval()
    assert network.config.fixed_size_hw == (64, 32)
    features = network.feature_map(x := torch.rand(2, 3, 64, 32))
    pooled = (features * network.pool.conv.weight[:, 0]).sum(dim=(2, 3)) + network.pool.conv.bias
    torch.testing.assert_close(network(x), network.embedding(pooled))
    with pytest.raises(ModelError, match=r"\(8, 4\).*\(4, 2\)"):
        network(torch.rand(2, 3, 128, 64))


def test_unified_gate_shares_one_gate_between_streams() -> None:
    gate = ChannelGate(16)
    streams = [torch.rand(2, 16, 3, 3) for _ in range(4)]
    expected = sum(gate(s) * s for s in streams)
    torch.testing.assert_close(UnifiedGate(gate)(streams), expected)
    assert Concatenation()(streams).shape == (2, 64, 3, 3)
    gates = [ChannelGate(16) for _ in range(4)]
    each = sum(param(s) * s for param, s in zip(gates, streams, strict=True))
    torch.testing.assert_close(SeparateGates(gates)(streams), each)


def test_channel_shuffle_by_hand() -> None:
    x = torch.arange(6.0).view(1, 6, 1, 1)
    assert ChannelShuffle(2)(x).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    assert ChannelShuffle(3)(x).flatten().tolist() == [0, 2, 4, 1, 3, 5]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_channel_shuffle_keeps_the_memory_format(memory_format: torch.memory_format, requires_grad: bool) -> None:
    x = torch.rand(2, 12, 3, 5).contiguous(memory_format=memory_format).requires_grad_(requires_grad)
    out = ChannelShuffle(4)(x)
    assert out.is_contiguous(memory_format=memory_format)
    for group in range(4):
        for i in range(3):
            assert torch.equal(out[:, i * 4 + group], x[:, group * 3 + i])
    if requires_grad:
        (gradient,) = torch.autograd.grad((out * torch.arange(12).view(1, 12, 1, 1)).sum(), x)
        assert gradient[0, :, 0, 0].tolist() == [i * 4 + group for group in range(4) for i in range(3)]


def test_channel_shuffle_mixes_groups_between_lite_layers() -> None:
    """Without a shuffle, group 1 of the second layer would depend only on group 1 of the input."""
    x = torch.rand(1, 8, 9, 9, requires_grad=True)
    layers = nn.Sequential(LiteConv3x3(8, groups=2), LiteConv3x3(8, groups=2)).eval()
    for module in layers.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 0.1)
    layers(x)[0, 0].sum().backward()
    assert x.grad is not None
    assert (x.grad[0].abs().sum((1, 2)) > 0).all()


def test_single_scale_baseline_has_one_stream_and_no_gate() -> None:
    network = create_model("osnet_t1")
    block = network.conv2[0]
    assert len(block.streams) == 1
    assert len(block.streams[0]) == 1
    assert not any("Gate" in type(m).__name__ for m in network.modules())


def test_list_models() -> None:
    assert list_models("osnet_ibn*") == ["osnet_ibn_x0_25", "osnet_ibn_x0_5", "osnet_ibn_x0_75", "osnet_ibn_x1_0"]
    assert list_models("nothing*") == []
    assert len(list_models()) == len(VARIANTS)


@pytest.mark.parametrize("name", ["osnet_x0_25", "squeezenet1_0"])
def test_create_model_adds_a_classifier(name: str, tmp_path: Path) -> None:
    network = create_model(name, num_classes=3)
    images = torch.rand(2, 3, 64, 32)
    embeddings = network.eval()(images)
    assert embeddings.shape == (2, network.config.embedding_size)
    assert network.classifier(embeddings).shape == (2, 3)
    assert network_sha256(network, Preprocessing()) == network_sha256(without_classifier(network), Preprocessing())
    assert save_weights(network, tmp_path / "w").num_classes == 3
    same, other, none = (create_model(name, tmp_path / "w", num_classes=c) for c in (3, 4, 0))
    assert torch.equal(same(images), embeddings)
    assert torch.equal(same.classifier.weight, network.classifier.weight)
    assert not same.classifier.training
    assert (other.classifier.out_features, none.classifier) == (4, None)
    assert torch.equal(Embedder(same, "cpu", normalize=False, backend="torch").network(images), embeddings)


def without_classifier(network: Network) -> Network:
    bare = copy.deepcopy(network)
    bare.classifier = None
    return bare


@pytest.mark.parametrize("value", [-1, 2.5, True, "10", None])
def test_invalid_num_classes_are_refused(value: object) -> None:
    with pytest.raises(ModelError, match=re.escape(f"num_classes {value!r}")):
        create_model("osnet_x0_25", num_classes=value)  # type: ignore[arg-type]


def test_grouped_networks_are_made_by_settings() -> None:
    assert not list_models("osnet*_g*_*")
    network = create_model("osnet_x0_5", groups=4, group_extent="lite")
    assert network.config == OSNetConfig(width=0.5, groups=4, group_extent="lite")
    assert create_model("osnet_x0_5_g4_lite").config == network.config, "names of older versions"
    with pytest.raises(ModelError, match="groups 5"):
        create_model("osnet_x0_5_g5_all")


def test_create_model_overrides_settings() -> None:
    network = create_model("osnet_t1", width=0.25)
    assert network.config == OSNetConfig(width=0.25, streams=1, aggregation="addition")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: create_model("osnet_x1.0"), ["'osnet_x1.0'", "osnet_x1_0"]),
        (lambda: create_model("osnet_x1_0", widht=2), ["widht", "width"]),
        (lambda: OSNetConfig(norm="batch"), ["'batch'", "bn, ibn, ain, stem"]),
        (lambda: OSNetConfig(streams=5), ["streams 5", "1 to 4"]),
        (lambda: OSNetConfig(width=0), ["width 0"]),
        (lambda: OSNetConfig(depth=(2, 2)), ["(2, 2)", "three"]),
        (lambda: OSNetConfig(groups=3), ["groups 3", "64, 128, 256, 512", "width 1.0"]),
        (lambda: OSNetConfig(groups=2, lite=False), ["groups 2", "lite"]),
        (lambda: OSNetConfig(gate="lct", aggregation="addition"), ["'lct'", "unified_gate", "'addition'"]),
        (lambda: OSNetConfig(pooled_hw=(0, 8)), ["(0, 8)", "(16, 8)"]),
        (lambda: OSNetConfig(stem="resnet"), ["'resnet'", "imagenet, cifar"]),
    ],
)
def test_errors_name_the_value_and_what_would_work(call, words: list[str]) -> None:
    with pytest.raises(ModelError) as caught:
        call()
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("depth", 2), ("depth", (2, 2.0, 2)), ("pooled_hw", 16), ("width", "0.5"), ("width", np.float32(0.5))),
        *(("width", True), ("streams", 2.0), ("stream_depth", 1.5), ("groups", 2.0), ("lite", "no"), ("neck", 1)),
        *(("embedding_size", 256.0), ("embedding_size", np.int64(128)), ("input_norm", None)),
    ],
)
def test_settings_of_another_type_are_refused_at_once(name: str, value: object) -> None:
    """A card could not hold them: the weights of a finished training could not be saved, or not be read again."""
    with pytest.raises(ModelError) as caught:
        create_model("osnet_x0_25", **{name: value})
    assert name in str(caught.value)
    assert repr(value) in str(caught.value)
    with pytest.raises(ModelError, match=r"projection.*16\.0"):
        create_model("mobilenetv1_x0_5", projection=16.0)


def test_lists_are_as_good_as_tuples() -> None:
    assert create_model("osnet_x0_25", depth=[1, 2, 1]).config == OSNetConfig(width=0.25, depth=(1, 2, 1))
