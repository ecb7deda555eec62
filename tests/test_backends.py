"""Every backend gives the same embeddings as PyTorch."""

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
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
    openvino_core,
    pick_backend,
    run_plainly,
)
from osnet.types import Preprocessing
from osnet.weights.card import Card
from osnet.weights.checkpoint import save_weights

CPU = torch.device("cpu")
NAMED = ["torch", "onnxruntime", "openvino"]


def need(backend: str) -> None:
    if backend in ("onnxruntime", "openvino"):
        pytest.importorskip(backend)
        pytest.importorskip("onnx")


@pytest.mark.parametrize("backend", [*NAMED, "auto"])
def test_backends_agree_on_every_kind_of_input(backend: str, tiny_network: OSNet, tiny_weights: Path) -> None:
    need(backend if backend != "auto" else "torch")
    images = [make_picture(n, (40 + 9 * n, 200 - 7 * n)) for n in range(9)]
    tensors = [torch.from_numpy(np.array(make_picture(n, (128, 256)))).permute(2, 0, 1) / 255 for n in range(3)]
    plain = Embedder(tiny_network)  # a network given as an object runs in plain PyTorch
    embedder, alone = (Embedder(tiny_weights, backend=backend, num_threads=n) for n in (None, 1))  # type: ignore[arg-type]
    for inputs in (images, images[:1], images[:3], tensors, [images[0], tensors[0]], []):
        expected = plain.embed(inputs)
        for found in (embedder.embed(inputs), alone.embed(inputs)):
            assert found.shape == expected.shape
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, expected, atol=1e-5)
    raw = Embedder(tiny_weights, backend=backend, normalize=False).embed(images)  # type: ignore[arg-type]
    expected = Embedder(tiny_network, normalize=False).embed(images)
    np.testing.assert_allclose(raw, expected, atol=1e-4 * np.abs(expected).max())
    assert embedder.sha256() == plain.sha256(), "the digest does not depend on the backend"


@pytest.mark.parametrize("backend", NAMED)
def test_the_graph_contains_the_cards_preprocessing(backend: str, tiny_network: OSNet) -> None:
    need(backend)
    odd = Preprocessing(size_hw=(64, 96), mean=(0.2, 0.4, 0.6), std=(0.3, 0.2, 0.1), channel_order="bgr")
    pixels = generate_pixels(5, odd.size_hw, seed=3)
    made = make_backend(backend, tiny_network, odd, CPU)  # type: ignore[arg-type]
    expected = run_plainly(tiny_network, pixels, odd)
    for given in (pixels, pixels.float(), pixels[:1], pixels[:2]):
        found = made.run(given)
        assert found.shape == (len(given), 512)
        np.testing.assert_allclose(found, expected[: len(given)], atol=1e-4 * float(expected.max()))


def test_auto_chooses_a_backend(tiny_network: OSNet, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Embedder(tiny_network).backend == "torch"
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    assert Embedder(tiny_weights).backend == "onnxruntime"
    assert Embedder(tiny_network, backend="onnxruntime").backend == "onnxruntime"
    monkeypatch.setattr(backends, "find_spec", lambda name: None if name == "onnx" else find_spec(name))
    assert list_backends("auto", CPU) == list_backends("fastest", CPU) == ["torch"]
    assert make_backend("auto", tiny_network, Preprocessing(size_hw=(64, 32)), CPU).name == "torch"


def test_default_embedder_follows_weight_changes_a_named_backend_copies() -> None:
    torch.manual_seed(4)
    network = OSNet(OSNetConfig(width=0.25)).eval()
    live, copy = Embedder(network), Embedder(network, backend="torch")
    image = make_picture(1)
    before = live.embed(image)
    with torch.no_grad():
        network.conv5.conv.weight.mul_(torch.rand_like(network.conv5.conv.weight))
    assert np.abs(live.embed(image) - before).max() > 1e-3
    np.testing.assert_allclose(copy.embed(image), before, atol=1e-5)


class WrongBackend(OnnxRuntimeBackend):
    def run(self, pixels: Tensor) -> Tensor:
        return super().run(pixels).flip(1)


def test_a_runtime_with_wrong_outputs_is_not_used(tiny_network: OSNet, monkeypatch: pytest.MonkeyPatch) -> None:
    need("onnxruntime")
    monkeypatch.setitem(backends.RUNTIMES, "onnxruntime", WrongBackend)
    with pytest.warns(UserWarning, match=r"differ from the network's by"):
        assert isinstance(make_backend("auto", tiny_network, Preprocessing(), CPU), TorchBackend)
    with pytest.raises(ModelError, match=r"onnxruntime.*differ from the network's by"):
        make_backend("onnxruntime", tiny_network, Preprocessing(), CPU)


def test_a_broken_runtime_is_skipped_with_a_warning(tiny_network: OSNet, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation that cannot be loaded, as on Windows without the Visual C++ runtime."""
    need("onnxruntime")

    def broken(_module: str, _extra: str) -> None:
        raise ImportError("DLL load failed")

    monkeypatch.setattr(backends, "require_extra", broken)
    with pytest.warns(UserWarning, match=r"onnxruntime does not work here: ImportError: DLL load failed"):
        assert make_backend("auto", tiny_network, Preprocessing(size_hw=(64, 32)), CPU).name == "torch"
    with pytest.raises(ImportError, match="DLL load failed"):
        make_backend("onnxruntime", tiny_network, Preprocessing(size_hw=(64, 32)), CPU)


class WrongForSingleImages(OnnxRuntimeBackend):
    def run(self, pixels: Tensor) -> Tensor:
        return super().run(pixels).flip(1) if len(pixels) == 1 else super().run(pixels)


def test_single_images_are_checked_too(tiny_network: OSNet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A single image uses other code than a batch: the threads share it."""
    need("onnxruntime")
    monkeypatch.setitem(backends.RUNTIMES, "onnxruntime", WrongForSingleImages)
    with pytest.raises(ModelError, match="differ from the network's by"):
        make_backend("onnxruntime", tiny_network, Preprocessing(size_hw=(64, 32)), CPU)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
def test_embedding_starts_no_threads_of_torch(tmp_path: Path) -> None:
    """After a copy with several cores, torch's threads spin beside the runtime, which then takes twice as long."""
    need("onnxruntime")
    network = OSNet(OSNetConfig(width=0.25)).eval()
    save_weights(network, tmp_path / "weights", Card(network.config))
    code = f"""
import os
import numpy as np
from PIL import Image
from osnet import Embedder
embedder = Embedder({str(tmp_path / "weights")!r}, device="cpu", backend="onnxruntime", num_threads=1)
before = len(os.listdir("/proc/self/task"))
crop = Image.fromarray(np.full((128, 64, 3), 99, np.uint8))
shapes = [len(embedder.embed(images)) for images in (crop, [crop] * 5, np.full((128, 64, 3), 99, np.uint8))]
print(len(os.listdir("/proc/self/task")) - before, shapes)
"""
    environment = {**os.environ, "OSNET_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "2"}
    for _ in ("the first traces the network with torch", "the second has the graph"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "0 [1, 5, 1]", done.stdout + done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_backends_do_not_hang_after_a_fork(backend: str) -> None:
    """The child has none of the parent's threads and must not wait for them."""
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
    signal.alarm(240)  # ends a child that hangs
    try:
        good = torch.equal(made.run(pixels), many) and torch.allclose(made.run(pixels[:1]), one, atol=1e-5)
    except ModelError as error:
        good = "make the embedder in the process that uses it" in str(error) and {backend!r} == "openvino"
    os._exit(0 if good else 1)
print(os.waitpid(child, 0)[1])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "0", done.stderr


def test_signals_work_after_openvino_backends_are_deleted() -> None:
    """In a separate process, because a signal on a freed stack would kill it."""
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


def test_threads_do_not_hang_in_openvinos_first_inference() -> None:
    """Without what ``openvino_core`` does first, these threads hang in five of six processes."""
    need("openvino")
    code = """
import faulthandler, sys, threading, time
import openvino
from osnet.runtime.backends import openvino_core
faulthandler.dump_traceback_later(300, exit=True)
openvino_core()
sys.setswitchinterval(1e-5)
begun = False
def convert():
    while not begun:
        pass
    openvino.Type.f32.to_dtype()
threads = [threading.Thread(target=convert) for _ in range(4)]
for thread in threads:
    thread.start()
time.sleep(0.05)
begun = True
for thread in threads:
    thread.join()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_threads_get_one_openvino_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if they ask at once."""
    made: list[object] = []

    @cache
    def make_slowly() -> tuple[int, object]:
        core = object()
        made.append(core)
        time.sleep(0.1)
        return os.getpid(), core

    monkeypatch.setattr(backends, "_make_core", make_slowly)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: openvino_core(), range(4))) == made * 4


def test_the_fastest_backend_is_measured_once(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("openvino")
    need("onnxruntime")
    monkeypatch.setenv("OSNET_CACHE", str(tmp_path))
    assert list_backends("fastest", CPU) == ["onnxruntime", "openvino", "torch"]
    assert list_backends("fastest", torch.device("cuda")) == ["torch"]
    assert [pick_backend(number) for number in (0, 499, 500)] == ["auto", "auto", "fastest"]
    measured: list[str] = []

    def measure(seconds: dict[str, list[float]]) -> None:
        def measure_s(backend: backends.Backend, _: Tensor) -> float:
            measured.append(backend.name)
            return seconds[backend.name][measured.count(backend.name) - 1]

        measured.clear()
        monkeypatch.setattr(backends, "measure_s", measure_s)

    slow = [9.0] * 3
    for name, seconds, expected in (
        ("a", {"onnxruntime": [1.0, *slow], "openvino": [0.95, *slow]}, "onnxruntime"),  # not worth a second
        ("b", {"onnxruntime": [1.0, *slow], "openvino": [*slow, 0.5]}, "openvino"),
    ):
        weights = Path(shutil.copytree(tiny_weights, tmp_path / name))
        card = json.loads((weights / "card.json").read_text())
        (weights / "card.json").write_text(json.dumps({**card, "training_data": name}))  # other weights than before
        measure(seconds)
        assert Embedder(weights, backend="fastest").backend == expected
        assert measured == ["onnxruntime", "openvino"] * 4
        measure({})
        assert Embedder(weights, backend="fastest").backend == expected, "as it was measured"
        assert Embedder(weights).backend == "onnxruntime"
        assert measured == []


def test_unknown_and_missing_backends_are_refused(tiny_network: OSNet, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="tensorrt"):
        Embedder(tiny_network, backend="tensorrt")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="'openvino'"):
        list_backends("openvino", torch.device("cuda"))

    def absent(module: str, extra: str) -> None:
        raise MissingExtraError(f"{module} {extra}")

    monkeypatch.setattr(backends, "require_extra", absent)
    with pytest.raises(MissingExtraError, match="onnxruntime speed"):
        Embedder(tiny_network, backend="onnxruntime")
