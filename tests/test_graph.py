"""The folded inference graph and its ONNX file compute the same as the network, for every named variant."""

import math
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.fx import GraphModule
from torch.fx.passes.shape_prop import ShapeProp

from conftest import create_small, shared_data
from osnet import OSNet, OSNetConfig, create_model, list_models, load_weights
from osnet.data.transforms import normalize, to_fractions
from osnet.models.denormals import TINY
from osnet.recipes import get_recipe
from osnet.runtime import folding
from osnet.runtime.folding import InferenceGraph, fold, optimize
from osnet.runtime.onnx_graph import UnknownStepError, _Writer, trace, write_onnx, zero_tiny_weights
from osnet.training.recipe import build_network
from osnet.types import Preprocessing
from osnet.weights.card import Card
from osnet.weights.checkpoint import save_weights

ODD = Preprocessing(mean=(0.2, 0.4, 0.6), std=(0.3, 0.2, 0.1), channel_order="bgr")
"""Different values per channel, so that swapped channels are noticed."""


def randomize_norms(network: nn.Module) -> nn.Module:
    """Give all norms random statistics and weights, so that wrong folding is noticed."""
    torch.manual_seed(1)
    with torch.no_grad():
        network.train()(torch.rand(4, 3, 64, 32))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.InstanceNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.3, 0.3)
    return network.eval()


def assert_close(found: torch.Tensor, expected: torch.Tensor, relative: float = 1e-5) -> None:
    assert found.shape == expected.shape
    assert found.dtype == torch.float32
    assert expected.std() > 1e-3
    assert (found - expected).norm() <= relative * expected.norm()


@pytest.mark.parametrize("name", list_models())
def test_folded_variants_match_their_networks(name: str) -> None:
    network = randomize_norms(create_small(name))
    pixels = torch.randint(0, 256, (3, 3, 64, 32), dtype=torch.uint8)
    with torch.inference_mode():
        expected = network(normalize(to_fractions(pixels), ODD))
        graph = optimize(network, ODD)
        assert_close(fold(network, ODD)(pixels), expected)
        assert_close(graph(pixels), expected)
        assert_close(graph(pixels[:1]), expected[:1])


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 16, 16), (3, 33, 47), (5, 64, 32), (2, 256, 128)])
def test_folded_networks_match_for_any_size_and_batch(batch: int, height: int, width: int) -> None:
    torch.manual_seed(batch)
    network = randomize_norms(OSNet(OSNetConfig(width=0.25)))
    images = torch.randn(batch, 3, height, width)
    with torch.inference_mode():
        for form in (fold, optimize):
            assert_close(form(network)(images), network(images))
            assert_close(form(network).feature_map(images), network.feature_map(images))
            pixels = 255 * torch.rand(batch, 3, height, width)
            assert_close(form(network, ODD)(pixels), network(normalize(pixels / 255, ODD)))


def test_optimize_does_not_change_the_network() -> None:
    network = randomize_norms(OSNet(OSNetConfig(width=0.25))).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    optimize(network, ODD)
    assert network.training
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert network.conv2[0].act.inplace is False


def test_folding_removes_all_batch_norms() -> None:
    def count(graph: nn.Module, kind: type[nn.Module]) -> int:
        return sum(isinstance(module, kind) for module in graph.modules())

    network = OSNet(OSNetConfig(width=0.25)).eval()
    for graph in (fold(network), optimize(network, Preprocessing())):
        assert count(graph, nn.BatchNorm2d) + count(graph, nn.BatchNorm1d) == 0
        assert count(graph, nn.Conv2d) == count(network, nn.Conv2d)


def count_tiny(tensors: Iterable[torch.Tensor]) -> int:
    return sum(int(((t != 0) & (t.abs() < TINY)).sum()) for t in tensors if t.is_floating_point())


def test_folding_sets_tiny_weights_to_zero(tmp_path: Path) -> None:
    """As do trainings that start from weights. The network itself keeps them, and larger weights stay."""
    network = randomize_norms(OSNet(OSNetConfig(width=0.25)))
    with torch.no_grad():
        network.conv3[0].reduce.conv.weight[:9] = -1e-22
        network.conv3[1].reduce.conv.weight[7] = 1e-15
        network.conv4[1].reduce.conv.weight[3] = 1e-39
    before = count_tiny(network.state_dict().values())
    for graph in (fold(network, ODD), optimize(network)):
        assert count_tiny(graph.state_dict().values()) == 0
        assert (graph.body.conv3[0].reduce.conv.weight[:9] == 0).all()
        assert (graph.body.conv3[1].reduce.conv.weight[7].abs() > 1e-18).all()
    assert before == count_tiny(network.state_dict().values()) > 9
    path = tmp_path / "weights"
    save_weights(network, path, Card(network.config))
    started = build_network(get_recipe("market1501-osnet-x0-25", pretrained=str(path))).state_dict()
    assert count_tiny(started.values()) == 0
    kept = {name: torch.where(value.abs() < TINY, 0, value) for name, value in network.state_dict().items()}
    assert all(torch.equal(value, kept[name]) for name, value in started.items())


def test_files_of_others_run_without_tiny_weights() -> None:
    """Only these change. Files without any stay as they are, to the byte, and so does what is no ONNX file."""
    onnx = pytest.importorskip("onnx")
    content = write_onnx(fold(OSNet(OSNetConfig(width=0.25)).eval()), (64, 32), ["embeddings"])
    assert zero_tiny_weights(content) == content
    assert zero_tiny_weights(b"no file") == b"no file"
    model = onnx.load_from_string(content)
    kernel = next(one for one in model.graph.initializer if len(one.dims) == 4)
    values = onnx.numpy_helper.to_array(kernel).copy()
    values[0], values[1, 0, 0, 0] = 1e-39, -3e-19
    kernel.CopyFrom(onnx.numpy_helper.from_array(values, kernel.name))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1e-38), "keeps from dividing by zero"))
    outside = model.graph.initializer.add(name="outside", data_type=onnx.TensorProto.FLOAT, dims=[1])
    outside.data_location = onnx.TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="/etc/passwd")
    found = onnx.load_from_string(zero_tiny_weights(model.SerializeToString()))
    values[0] = 0
    for before, after in zip(model.graph.initializer, found.graph.initializer, strict=True):
        if before.name == kernel.name:
            assert np.array_equal(onnx.numpy_helper.to_array(after), values)
        else:
            assert after == before


@pytest.mark.parametrize("name", ["osnet_x0_25_msmt17", "osnet_x0_25_market1501"])
def test_the_released_weights_do_not_need_their_tiny_ones(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings are equal to the last bit without them."""
    network = load_weights(shared_data(f"weights/{name}.pth"))
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 256, 128), dtype=np.uint8))
    without = fold(network, Preprocessing())
    monkeypatch.setattr(folding, "zero_tiny", lambda _: None)
    whole = fold(network, Preprocessing())
    assert count_tiny(whole.state_dict().values()) > 100
    with torch.inference_mode():
        assert torch.equal(without(pixels), whole(pixels))


def test_folding_leaves_the_network_as_it_is() -> None:
    """The copy shares no memory with it, so training it further changes nothing, and it can still be trained."""
    network = OSNet(OSNetConfig(width=0.25)).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    graph = fold(network, Preprocessing())
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(module.training for module in network.modules())
    assert not any(module.training for module in graph.modules())
    assert not any(parameter.requires_grad for parameter in graph.parameters())
    held = {tensor.data_ptr() for tensor in network.state_dict().values()}
    assert not held & {tensor.data_ptr() for tensor in graph.state_dict().values()}


def test_folding_copies_empty_modules_too() -> None:
    """An empty ``nn.Sequential`` counts as false; eval mode of the copy must not reach the network's own."""
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential()).train()
    graph = fold(network)
    assert all(module.training for module in network.modules())
    assert not any(module.training for module in graph.modules())
    assert not {*network.modules()} & {*graph.modules()}


class PixelsAsLinear(nn.Module):
    """A network into whose first layer the input normalisation cannot be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(4)
        self.linear = nn.Linear(3, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.pool(x).mean(dim=(2, 3)))


class SqueezeExcite(nn.Module):
    """Convolutions and norms in a plain Sequential, as in torchvision's networks, and further operations."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU6(), nn.MaxPool2d(3, 2, ceil_mode=True)
        )
        self.out = nn.Linear(16, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        return self.out(torch.cat([x, x * 0.5], dim=1).amax(dim=(2, 3)))


@pytest.mark.parametrize("make", [PixelsAsLinear, SqueezeExcite])
def test_networks_of_other_libraries_are_folded(make: Callable[[], nn.Module]) -> None:
    network = randomize_norms(make())
    pixels = torch.randint(0, 256, (3, 3, 32, 16), dtype=torch.uint8)
    with torch.inference_mode():
        expected = network(normalize(to_fractions(pixels), ODD))
        graph = fold(network, ODD)
        assert_close(graph(pixels), expected)
    assert_close(run_onnx(write_onnx(graph, (32, 16), ["out"], uint8=True), pixels.numpy()), expected)


def run_onnx(content: bytes, images: np.ndarray) -> torch.Tensor:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": images})[0])


KINDS = [
    *("osnet_x1_0", "osnet_ain_x1_0", "osnet_ibn_x1_0", "osnet_static_gates"),
    *("osnet_concat", "osnet_streamwise_gate", "osnet_full_conv", "osnet_x0_5_g2_all"),
    *("mobilenetv1_x0_5", "mobilenetv2_x1_0", "shufflenet_x1_0_g3", "squeezenet1_0"),
]


@pytest.mark.parametrize("name", KINDS)
def test_onnx_matches_the_network(name: str) -> None:
    pytest.importorskip("onnx")
    network = randomize_norms(create_small(name, width=0.25) if name.startswith("osnet") else create_model(name))
    pixels = torch.randint(0, 256, (3, 3, 64, 32), dtype=torch.uint8)
    with torch.inference_mode():
        expected = network(normalize(to_fractions(pixels), ODD))
    content = write_onnx(fold(network, ODD), (64, 32), ["embeddings"], uint8=True)
    assert_close(run_onnx(content, pixels.numpy()), expected)
    assert_close(run_onnx(content, pixels.numpy()[:1]), expected[:1])
    content = write_onnx(fold(network, ODD), (64, 32), ["embeddings"])
    assert_close(run_onnx(content, pixels.numpy().astype(np.float32)), expected)
    half = run_onnx(write_onnx(fold(network, ODD), (64, 32), ["embeddings"], half=True), pixels.numpy().astype("f4"))
    assert nn.functional.cosine_similarity(half, expected).min() > 0.999


class AllWindows(nn.Module):
    """Layers whose output sizes are rounded: with and without ``ceil_mode``, padding, dilation, unequal kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, (3, 5), stride=(2, 3), padding=(0, 2), dilation=(2, 1))
        self.pools = nn.Sequential(
            nn.MaxPool2d(3, 2, padding=1, ceil_mode=True),
            nn.AvgPool2d(2, 3, padding=1, ceil_mode=True),
            nn.AvgPool2d(2),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pools(self.conv(x))
        return torch.cat([x, x * x.mean(dim=(2, 3), keepdim=True)], dim=1)


@pytest.mark.parametrize("size_hw", [(64, 32), (61, 53), (60, 58), (47, 90)])
@pytest.mark.parametrize("make", [AllWindows, SqueezeExcite, *[partial(create_small, name) for name in KINDS[:9]]])
def test_onnx_shapes_match_the_network(make: Callable[[], nn.Module], size_hw: tuple[int, int]) -> None:
    pytest.importorskip("onnx")
    graph = fold(make().eval())
    traced = GraphModule(graph, trace(graph))
    ShapeProp(traced).propagate(torch.zeros(1, 3, *size_hw))
    written = _Writer(graph, trace(graph), size_hw, half=False)
    expected = {node.name: tuple(node.meta["tensor_meta"].shape) for node in traced.graph.nodes}
    assert {node.name: shape for node, shape in written.shapes.items()} == expected


def test_onnx_has_named_outputs_and_metadata() -> None:
    onnx = pytest.importorskip("onnx")

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = fold(OSNet(OSNetConfig(width=0.25)))
            self.two = nn.Linear(512, 7)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            embeddings = self.one(x)
            return embeddings, torch.sigmoid(self.two(embeddings))

    content = write_onnx(Two().eval(), (64, 32), ["embeddings", "attributes"], metadata={"key": "value"})
    model = onnx.load_model_from_string(content)
    assert [out.name for out in model.graph.output] == ["embeddings", "attributes"]
    assert [d.dim_param or d.dim_value for d in model.graph.output[1].type.tensor_type.shape.dim] == ["batch", 7]
    assert [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == ["batch", 3, 64, 32]
    assert {prop.key: prop.value for prop in model.metadata_props} == {"key": "value"}


def test_unsupported_operations_are_named() -> None:
    pytest.importorskip("onnx")

    class Softmax(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x).mean(dim=(2, 3)).softmax(1)

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x) if x.sum() > 0 else x

    for network, words in ((Softmax(), "softmax"), (Branches(), "cannot be traced")):
        with pytest.raises(UnknownStepError, match=words):
            write_onnx(InferenceGraph(nn.Identity(), network).eval(), (32, 16), ["out"])


def test_networks_run_while_other_threads_write_onnx() -> None:
    """torch.fx patches ``nn.Module`` while it traces; networks in other threads must not be affected."""
    pytest.importorskip("onnx")
    network, images = randomize_norms(OSNet(OSNetConfig(width=0.25))), torch.rand(1, 3, 64, 32)
    graphs = [fold(network, Preprocessing()) for _ in range(3)]
    call = nn.Module.__call__
    with torch.inference_mode():
        expected = network(images)
    found: list[torch.Tensor] = []
    done = threading.Event()

    def keep_running() -> None:
        while not done.is_set():
            with torch.inference_mode():
                found.append(network(images))

    with ThreadPoolExecutor(4) as pool:
        running, files = pool.submit(keep_running), set()
        try:
            while len(found) <= 5 and not running.done():  # on a quick machine all are written before the network runs
                written = [pool.submit(write_onnx, graph, (64, 32), ["out"]) for graph in graphs * 2]
                files |= {future.result() for future in written}
        finally:
            done.set()
        running.result()
    assert len(files) == 1
    assert len(found) > 5
    assert all(torch.equal(one, expected) for one in found)
    assert nn.Module.__call__ is call


def test_math_stays_as_it_is_while_a_network_is_traced() -> None:
    """torch.fx would replace its functions for all threads; numba, loaded in one of them, would keep these."""
    before, seen = dict(vars(math)), []

    class Looking(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with ThreadPoolExecutor(1) as pool:
                seen.append(pool.submit(lambda: dict(vars(math))).result())
            return x * math.sqrt(4)

    steps = trace(Looking())
    assert seen == [before]
    assert [node.args[1] for node in steps.nodes if node.op == "call_function"] == [2.0]
