"""Whatever runs the network, the vectors are the same."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import make_picture
from osnet import Embedder, OSNet, OSNetConfig
from osnet.errors import MissingExtraError, ModelError
from osnet.runtime import backends
from osnet.runtime.backends import (
    OnnxRuntimeBackend,
    TorchBackend,
    generate_pixels,
    list_backends,
    make_backend,
    run_plainly,
)
from osnet.types import Preprocessing

CPU = torch.device("cpu")
NAMED = ["torch", "onnxruntime", "openvino"]


def need(backend: str) -> None:
    if backend in ("onnxruntime", "openvino"):
        pytest.importorskip(backend)
        pytest.importorskip("onnx")


@pytest.mark.parametrize("backend", [*NAMED, "auto"])
def test_same_vectors_for_every_input(backend: str, tiny_network: OSNet, tiny_weights: Path) -> None:
    need(backend if backend != "auto" else "torch")
    pictures = [make_picture(n, (40 + 9 * n, 200 - 7 * n)) for n in range(9)]
    tensors = [torch.from_numpy(np.array(make_picture(n, (128, 256)))).permute(2, 0, 1) / 255 for n in range(3)]
    plain = Embedder(tiny_network)  # a network as an object is run as it is
    embedder = Embedder(tiny_weights, backend=backend)  # type: ignore[arg-type]
    for inputs in (pictures, pictures[:1], pictures[:3], tensors, [pictures[0], tensors[0]], []):
        expected = plain.embed(inputs)
        found = embedder.embed(inputs)
        assert found.shape == expected.shape
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)
    raw = Embedder(tiny_weights, backend=backend, normalize=False).embed(pictures)  # type: ignore[arg-type]
    expected = Embedder(tiny_network, normalize=False).embed(pictures)
    np.testing.assert_allclose(raw, expected, atol=1e-4 * np.abs(expected).max())
    assert embedder.sha256() == plain.sha256(), "galleries do not care what made their vectors"


@pytest.mark.parametrize("backend", NAMED)
def test_the_cards_preprocessing_is_in_the_graph(backend: str, tiny_network: OSNet) -> None:
    need(backend)
    odd = Preprocessing(size_hw=(64, 96), mean=(0.2, 0.4, 0.6), std=(0.3, 0.2, 0.1), channel_order="bgr")
    pixels = generate_pixels(5, odd.size_hw, seed=3)
    made = make_backend(backend, tiny_network, odd, CPU)  # type: ignore[arg-type]
    expected = run_plainly(tiny_network, pixels, odd)
    for given in (pixels, pixels.float(), pixels[:1], pixels[:2]):
        found = made.run(given)
        assert found.shape == (len(given), 512)
        np.testing.assert_allclose(found, expected[: len(given)], atol=1e-4 * float(expected.max()))


def test_what_auto_means(tiny_network: OSNet, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Embedder(tiny_network).backend == "torch"
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    assert Embedder(tiny_weights).backend == "onnxruntime"
    assert Embedder(tiny_network, backend="onnxruntime").backend == "onnxruntime"
    monkeypatch.setattr(backends, "find_spec", lambda name: None if name == "onnx" else find_spec(name))
    assert list_backends("auto", CPU) == ["torch"]
    assert make_backend("auto", tiny_network, Preprocessing(size_hw=(64, 32)), CPU).name == "torch"


def test_a_network_in_training_is_run_as_it_is_and_a_named_backend_keeps_its_copy() -> None:
    torch.manual_seed(4)
    network = OSNet(OSNetConfig(width=0.25)).eval()
    live, copy = Embedder(network), Embedder(network, backend="torch")
    picture = make_picture(1)
    before = live.embed(picture)
    with torch.no_grad():
        network.conv5.conv.weight.mul_(torch.rand_like(network.conv5.conv.weight))
    assert np.abs(live.embed(picture) - before).max() > 1e-3
    np.testing.assert_allclose(copy.embed(picture), before, atol=1e-5)


class Liar(OnnxRuntimeBackend):
    def run(self, pixels: Tensor) -> Tensor:
        return super().run(pixels).flip(1)


def test_a_runtime_that_computes_something_else_is_not_used(
    tiny_network: OSNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("onnxruntime")
    monkeypatch.setitem(backends.RUNTIMES, "onnxruntime", Liar)
    with pytest.warns(UserWarning, match=r"differ from the network's by"):
        assert isinstance(make_backend("auto", tiny_network, Preprocessing(), CPU), TorchBackend)
    with pytest.raises(ModelError, match=r"onnxruntime.*differ from the network's by"):
        make_backend("onnxruntime", tiny_network, Preprocessing(), CPU)


def test_a_broken_runtime_is_said_and_passed_over(tiny_network: OSNet, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation that cannot be loaded, as on a Windows without the right redistributable."""
    need("onnxruntime")

    def broken(_module: str, _extra: str) -> None:
        raise ImportError("DLL load failed")

    monkeypatch.setattr(backends, "require_extra", broken)
    with pytest.warns(UserWarning, match=r"onnxruntime does not work here: ImportError: DLL load failed"):
        assert make_backend("auto", tiny_network, Preprocessing(size_hw=(64, 32)), CPU).name == "torch"
    with pytest.raises(ImportError, match="DLL load failed"):
        make_backend("onnxruntime", tiny_network, Preprocessing(size_hw=(64, 32)), CPU)


class WrongAlone(OnnxRuntimeBackend):
    def run(self, pixels: Tensor) -> Tensor:
        return super().run(pixels).flip(1) if len(pixels) == 1 else super().run(pixels)


def test_a_single_image_is_compared_too(tiny_network: OSNet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads share it, so it goes another way than those of a batch."""
    need("onnxruntime")
    monkeypatch.setitem(backends.RUNTIMES, "onnxruntime", WrongAlone)
    with pytest.raises(ModelError, match="differ from the network's by"):
        make_backend("onnxruntime", tiny_network, Preprocessing(size_hw=(64, 32)), CPU)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_after_a_fork(backend: str) -> None:
    """The threads of the parent are not in the child, which must not wait for them."""
    need(backend)
    code = f"""
import os, signal, torch
from osnet import OSNet, OSNetConfig
from osnet.errors import ModelError
from osnet.runtime.backends import RUNTIMES, generate_pixels, write_graph
from osnet.types import Preprocessing
torch.manual_seed(0)
graph = write_graph(OSNet(OSNetConfig(width=0.25)).eval(), Preprocessing(size_hw=(64, 32)))
made = RUNTIMES[{backend!r}](graph, num_threads=2)
pixels = generate_pixels(5, (64, 32))
many, one = made.run(pixels), made.run(pixels[:1])
child = os.fork()
if child == 0:
    signal.alarm(240)  # a hang, on any machine
    try:
        good = torch.equal(made.run(pixels), many) and torch.allclose(made.run(pixels[:1]), one, atol=1e-5)
    except ModelError as error:
        good = "make the embedder in the process that uses it" in str(error) and {backend!r} == "openvino"
    os._exit(0 if good else 1)
print(os.waitpid(child, 0)[1])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "0", done.stderr


def test_signals_still_arrive_when_openvino_backends_come_and_go() -> None:
    """In a process of its own, which a signal on a stack that is gone would end."""
    need("openvino")
    code = """
import gc, signal, torch
from osnet import OSNet, OSNetConfig
from osnet.runtime.backends import OpenVinoBackend, write_graph
from osnet.types import Preprocessing
graph = write_graph(OSNet(OSNetConfig(width=0.25)).eval(), Preprocessing(size_hw=(32, 16)))
made = [OpenVinoBackend(graph) for _ in range(2)]
while made:
    made.pop(0)
    gc.collect()
signal.signal(signal.SIGALRM, lambda *_: print("caught", flush=True))
signal.raise_signal(signal.SIGALRM)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "caught"), done.stderr


def test_settings_that_cannot_be(tiny_network: OSNet, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="tensorrt"):
        Embedder(tiny_network, backend="tensorrt")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="'openvino'"):
        list_backends("openvino", torch.device("cuda"))

    def absent(module: str, extra: str) -> None:
        raise MissingExtraError(f"{module} {extra}")

    monkeypatch.setattr(backends, "require_extra", absent)
    with pytest.raises(MissingExtraError, match="onnxruntime speed"):
        Embedder(tiny_network, backend="onnxruntime")
