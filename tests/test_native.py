"""Our own machine code computes what the network computes, alone and with two threads on one image."""

import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from osnet import OSNet, OSNetConfig, create_model
from osnet.data.transforms import normalize
from osnet.errors import ModelError
from osnet.runtime.backends import NativeBackend, generate_pixels, list_backends, make_backend, run_plainly
from osnet.runtime.folding import fold
from osnet.runtime.native import conv_kernels as kernel_code
from osnet.runtime.native import llvm
from osnet.runtime.native.llvm import can_compile
from osnet.runtime.native.program import NativeRunner, lay_out
from osnet.runtime.onnx_graph import UnknownStepError
from osnet.types import Preprocessing

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not can_compile(), reason="no native code is made for this system or processor")


def make_network(seed: int = 1, **settings: Any) -> OSNet:
    """Norms that do something, so that folding and every bias count."""
    torch.manual_seed(seed)
    network = OSNet(OSNetConfig(**settings)).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.normal_(module.bias, 0, 0.2)
    return network


@pytest.mark.parametrize(
    "settings",
    [
        {"width": 0.25}, {"width": 0.5}, {"width": 0.75}, {"width": 1.0}, {"width": 0.25, "streams": 1},
        {"width": 0.25, "streams": 3, "depth": (1, 2, 1)}, {"width": 0.5, "stream_depth": 2, "embedding_size": 64},
        {"width": 0.125, "depth": (1, 1, 1)},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("size_hw", [(256, 128), (64, 32), (96, 160)], ids=str)
def test_the_networks_own_embeddings(settings: dict[str, Any], size_hw: tuple[int, int]) -> None:
    network = make_network(**settings)
    preprocessing = Preprocessing(size_hw=size_hw, mean=(0.2, 0.4, 0.6), std=(0.3, 0.2, 0.1), channel_order="bgr")
    pixels = generate_pixels(5, size_hw, seed=4)
    expected = run_plainly(network, pixels, preprocessing).numpy()
    assert expected.std() > 1e-3
    backend = NativeBackend(network, preprocessing, num_threads=3)
    for given in (pixels, pixels[:1], pixels[3:4], pixels[1:4].float(), pixels[:1].float()):
        first = int(torch.all(pixels.float() == given[0].float(), dim=(1, 2, 3)).nonzero()[0])
        rows = expected[first : first + len(given)]
        np.testing.assert_allclose(backend.run(given), rows, atol=1e-5 * np.abs(expected).max())


def test_two_threads_share_an_image_and_many_callers_one_runner() -> None:
    network, preprocessing = make_network(width=0.25), Preprocessing(size_hw=(64, 64))
    runner = NativeRunner(lay_out(fold(network, preprocessing), preprocessing.size_hw, uint8=True))
    pixels = generate_pixels(40, preprocessing.size_hw, seed=5).numpy()
    alone = runner(pixels)
    with ThreadPoolExecutor(3) as helpers, ThreadPoolExecutor(6) as callers:
        shared = list(callers.map(lambda image: runner(image[None], helpers), pixels))
        pairs = list(callers.map(lambda n: runner(pixels[n : n + 2]), range(0, 40, 2)))
    np.testing.assert_array_equal(np.concatenate(shared), alone)
    np.testing.assert_array_equal(np.concatenate(pairs), alone)


@pytest.mark.parametrize(
    ("settings", "size_hw"),
    [
        ({"width": 0.25, "norm": "ibn"}, (64, 32)), ({"width": 0.25, "norm": "ain"}, (64, 32)),
        ({"width": 0.25, "groups": 2}, (64, 32)), ({"width": 0.25, "pooling": "max"}, (64, 32)),
        ({"width": 0.25, "aggregation": "addition"}, (64, 32)), ({"width": 0.25, "lite": False}, (64, 32)),
        ({"width": 0.25, "aggregation": "streamwise_gate"}, (64, 32)),
        ({"width": 0.25, "aggregation": "separate_gates"}, (64, 32)),
        ({"width": 0.25, "aggregation": "static_gates"}, (64, 32)),
        ({"width": 0.25, "aggregation": "concatenation"}, (64, 32)),
        ({"width": 0.25, "stem": "cifar"}, (32, 32)), ({"width": 0.25}, (64, 48)), ({"width": 0.3}, (64, 32)),
    ],
    ids=str,
)  # fmt: skip
def test_other_networks_are_left_to_other_backends(settings: dict[str, Any], size_hw: tuple[int, int]) -> None:
    network, preprocessing = OSNet(OSNetConfig(**settings)).eval(), Preprocessing(size_hw=size_hw)
    with pytest.raises(UnknownStepError):
        lay_out(fold(network, preprocessing), size_hw, uint8=True)
    with pytest.raises(ModelError, match="backend 'native' cannot run this network"):
        make_backend("native", network, preprocessing, CPU)
    assert make_backend("auto", network, preprocessing, CPU).name in ("onnxruntime", "torch")


def test_what_auto_tries_first() -> None:
    narrow, wide = create_model("osnet_x0_25"), create_model("osnet_x1_0")
    assert list_backends("auto", narrow, CPU)[0] == "native"
    assert list_backends("auto", wide, CPU)[-2:] == ["native", "torch"]
    assert list_backends("auto", narrow, torch.device("cuda")) == ["torch"]
    assert list_backends("openvino", narrow, CPU) == ["openvino"]
    with pytest.raises(ModelError, match="'native'"):
        list_backends("native", narrow, torch.device("cuda"))


def test_pictures_that_the_code_was_not_made_for() -> None:
    """It has no bounds of its own: a picture that is too small would be read beyond its end."""
    network, preprocessing = make_network(width=0.25), Preprocessing(size_hw=(64, 32))
    backend = NativeBackend(network, preprocessing, num_threads=2)
    runner = NativeRunner(lay_out(fold(network, preprocessing), preprocessing.size_hw, uint8=True))
    pixels = generate_pixels(4, (64, 32), seed=7)
    for wrong in (pixels[:, :, :32], pixels[:, :, :, ::2], pixels[:, :1], generate_pixels(3, (32, 64))):
        for images in (wrong, wrong[:1], wrong.float()):
            with pytest.raises(ModelError, match=r"this code was made for .* \(B, \*\(3, 64, 32\)\)"):
                backend.run(images)
    with pytest.raises(ModelError, match="images of float64"):
        backend.run(pixels.double())
    strided = np.asfortranarray(pixels.numpy())[::-1]
    np.testing.assert_array_equal(runner(strided), runner(pixels.numpy())[::-1])
    assert backend.run(pixels[:0]).shape == (0, 512)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is arranged by Linux's numbers")
def test_nothing_outside_its_buffers_is_touched() -> None:
    """In a process of its own, which a touch would end."""
    script = Path(__file__).with_name("guard_pages.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("12 runs")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_stays_none_and_in_its_row(bad: float) -> None:
    network, preprocessing = make_network(width=0.25), Preprocessing(size_hw=(64, 32))
    pixels = generate_pixels(5, preprocessing.size_hw, seed=8).float()
    pixels[2, 1, 30, 9] = bad
    expected = run_plainly_on_floats(network, pixels, preprocessing)
    assert not torch.isfinite(expected[2]).any()
    for threads in (1, 2):
        found = NativeBackend(network, preprocessing, threads).run(pixels)
        np.testing.assert_array_equal(torch.isfinite(found), torch.isfinite(expected))
        np.testing.assert_allclose(found[[0, 1, 3, 4]], expected[[0, 1, 3, 4]], atol=1e-4)


def run_plainly_on_floats(network: OSNet, pixels: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    with torch.inference_mode():
        return network(normalize(pixels / 255, preprocessing))


def test_weights_that_are_no_numbers_are_seen() -> None:
    network = make_network(width=0.25)
    with torch.no_grad():
        network.conv3[0].reduce.conv.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="differ from the network's by nan"):
        make_backend("native", network, Preprocessing(size_hw=(64, 32)), CPU)


class InterruptedPool(ThreadPoolExecutor):
    """Ctrl-C just after the second thread was sent to work."""

    def submit(self, *args: Any, **more: Any) -> Any:
        super().submit(*args, **more)
        raise KeyboardInterrupt


def test_an_interrupt_leaves_no_thread_waiting() -> None:
    network, preprocessing = make_network(width=0.25), Preprocessing(size_hw=(64, 32))
    runner = NativeRunner(lay_out(fold(network, preprocessing), preprocessing.size_hw, uint8=True))
    pixels = generate_pixels(1, preprocessing.size_hw, seed=9).numpy()
    expected = runner(pixels)
    pool = InterruptedPool(1)
    with pytest.raises(KeyboardInterrupt):
        runner(pixels, pool)
    ended = threading.Thread(target=pool.shutdown, daemon=True)
    ended.start()
    ended.join(300)  # a hang, on any machine
    assert not ended.is_alive(), "the second thread still waits for the first"
    np.testing.assert_array_equal(runner(pixels), expected)


def test_a_processor_without_avx512_and_compiled_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """No instruction that an older processor lacks: the machine code is looked at."""

    class Features(dict[str, bool]):
        def flatten(self) -> str:
            return ",".join(f"{'+' if there else '-'}{name}" for name, there in self.items())

    known = dict(llvm.binding.get_host_cpu_features())
    older = Features({name: there and not name.startswith("avx512") for name, there in known.items()})
    monkeypatch.setattr(llvm.binding, "get_host_cpu_features", lambda: older)
    monkeypatch.setattr(llvm.binding, "get_host_cpu_name", lambda: "haswell")
    kernel_code.kernels.cache_clear()
    try:
        network, preprocessing = make_network(width=0.25), Preprocessing(size_hw=(64, 32))
        pixels = generate_pixels(3, preprocessing.size_hw, seed=6)
        found = NativeBackend(network, preprocessing, num_threads=2).run(pixels)
        made = kernel_code.kernels(8)
        assert made.pixels == 4
        text = llvm.make_machine().emit_assembly(llvm.binding.parse_assembly(str(made.module)))
        assert "vfmadd" in text
        assert "ymm" in text
        assert "zmm" not in text
        assert "{%k" not in text
    finally:
        kernel_code.kernels.cache_clear()
    expected = run_plainly(network, pixels, preprocessing)
    np.testing.assert_allclose(found, expected, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("lacking", ["avx2", "fma", "everything", "expf"])
def test_other_processors_are_left_to_other_backends(lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    features = {} if lacking == "everything" else {"avx2": True, "fma": True, lacking: False}
    monkeypatch.setattr(llvm, "host_features", lambda: features)
    if lacking == "expf":
        monkeypatch.setattr(llvm, "OUTSIDE", ("expf", "a_function_that_no_system_has"))
    network, preprocessing = make_network(width=0.25), Preprocessing(size_hw=(64, 32))
    with pytest.raises(ModelError, match=r"AVX2 and FMA\); choose backend='torch'"):
        make_backend("native", network, preprocessing, CPU)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert make_backend("auto", network, preprocessing, CPU).name in ("onnxruntime", "torch")


def test_processors_with_16_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    """There, sums of fewer pixels are kept at once."""
    monkeypatch.setattr(kernel_code, "host_features", dict)
    kernel_code.kernels.cache_clear()
    network, preprocessing = make_network(width=0.25), Preprocessing(size_hw=(64, 32))
    pixels = generate_pixels(3, preprocessing.size_hw, seed=6)
    backend = NativeBackend(network, preprocessing, num_threads=2)
    found = backend.run(pixels)
    assert kernel_code.kernels(8).pixels == 4
    kernel_code.kernels.cache_clear()
    expected = run_plainly(network, pixels, preprocessing)
    np.testing.assert_allclose(found, expected, atol=1e-5 * float(expected.abs().max()))
