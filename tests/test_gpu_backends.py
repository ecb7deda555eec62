"""The GPU backends, as far as a CPU can run them: the same steps without a captured graph."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from conftest import ROOT
from osnet import Embedder, OSNet, OSNetConfig
from osnet.errors import ModelError
from osnet.runtime import gpu
from osnet.runtime.backends import GPU_TOLERANCE, generate_pixels, list_backends, run_plainly
from osnet.runtime.gpu import KINDS, CudaGraphs, OnnxRuntimeGpu
from osnet.types import Preprocessing

CPU = torch.device("cpu")
ODD = Preprocessing(size_hw=(64, 32), mean=(0.2, 0.4, 0.6), std=(0.3, 0.2, 0.1), channel_order="bgr")


def nearest_rows(found: torch.Tensor, expected: torch.Tensor) -> list[int]:
    """Which row of ``expected`` each row is nearest to: embeddings of random weights differ by about the tolerance."""
    nearest: list[int] = (found[:, None] - expected[None]).abs().amax(2).argmin(1).tolist()
    return nearest


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("norm", ["bn", "ain"])
def test_half_precision_embeddings_stay_within_the_tolerance(
    name: str, norm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "LARGEST", 4)
    torch.manual_seed(0)
    network = OSNet(OSNetConfig(width=0.25, norm=norm)).eval()  # type: ignore[arg-type]
    backend = CudaGraphs(network, ODD, CPU, name)
    pixels = generate_pixels(7, ODD.size_hw, seed=3)
    expected = torch.nn.functional.normalize(run_plainly(network, pixels, ODD))
    found = []
    for given in (
        pixels[:3],
        pixels,
        pixels[:1],
        pixels[:2].float(),
        pixels[3:5],
    ):  # the call after 3 rows reuses its buffer
        found.append(backend.run(given))
        first = 3 if len(found) == 5 else 0
        unit = torch.nn.functional.normalize(found[-1])
        assert unit.dtype == torch.float32
        assert float((unit - expected[first : first + len(given)]).abs().max()) < GPU_TOLERANCE
        assert nearest_rows(unit, expected) == list(range(first, first + len(given)))
    assert nearest_rows(torch.nn.functional.normalize(found[0]), expected) == [0, 1, 2]
    assert {size for size, _ in backend._captured} == {1, 2, 4}
    assert next(network.parameters()).dtype == torch.float32


def test_gpu_backends_are_refused_without_a_gpu(
    tiny_weights: Path, tiny_network: OSNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cuda-bf16", "onnxruntime-tensorrt"):
        with pytest.raises(ModelError, match=name):
            Embedder(tiny_weights, device="cpu", backend=name)  # type: ignore[arg-type]
        assert list_backends(name, torch.device("cuda")) == [name]  # type: ignore[arg-type]
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    if "CUDAExecutionProvider" not in runtime.get_available_providers():
        with pytest.raises(ModelError, match="CUDAExecutionProvider"):
            OnnxRuntimeGpu(tiny_network, Preprocessing(), torch.device("cuda"), "onnxruntime-cuda")

    class FallbackSession:
        """ONNX Runtime falls back to the CPU where a driver is missing."""

        def __init__(self, *_args: object, **_more: object) -> None: ...

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    fake = SimpleNamespace(
        get_available_providers=lambda: ["CUDAExecutionProvider"],
        SessionOptions=SimpleNamespace,
        InferenceSession=FallbackSession,
    )
    monkeypatch.setattr(gpu, "require_extra", lambda *_args: fake)
    with pytest.raises(ModelError, match="CUDAExecutionProvider"):
        OnnxRuntimeGpu(tiny_network, Preprocessing(), torch.device("cuda"), "onnxruntime-cuda")


@pytest.mark.slow
def test_gpu_benchmark_runs_on_a_cpu(tmp_path: Path) -> None:
    """Runs every stage that a CPU can run, at a small size."""
    out = tmp_path / "ladder.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_ladder.py"), "--device", "cpu", "--out", str(out)]
    command += ["--models", "osnet_x0_25", "--batches", "3", "--size", "64x32", "--rounds", "1", "--block-s", "0"]
    done = subprocess.run([*command, "--files", "2", "--train-batch", "4"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())["rows"]
    assert not [row for row in rows if "error" in row]
    assert {row["stage"] for row in rows} == {"network", "files", "training"}
    assert {(row["way"], row["batch"]) for row in rows if row["stage"] == "network"} >= {
        ("float32", 3),
        ("bf16 ours", 3),
        ("fp16 ours", 3),
        ("cuda-bf16", 3),
    }
    assert all(row["images_per_s"] > 0 for row in rows)
