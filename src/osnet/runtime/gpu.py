"""Backends for GPUs: the folded network in half precision by CUDA graphs, and ONNX Runtime's CUDA and TensorRT.

They are used only by name: ``auto`` on a GPU runs the network as it is. Like every backend they are compared with the
network before they are used. No GPU has measured them yet; ``benchmarks/gpu_ladder.py`` does. On a CPU,
``CudaGraphs`` runs the same steps without capturing them, for tests.

Shapes: B batch, H, W the network's input size, D embedding.
"""

from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from osnet.errors import ModelError, require_extra
from osnet.runtime.backends import Backend, write_graph
from osnet.runtime.folding import InferenceGraph, optimize
from osnet.runtime.onnx_graph import with_float_input
from osnet.types import Preprocessing

KINDS = {"cuda-bf16": torch.bfloat16, "cuda-fp16": torch.float16}
PROVIDERS = {"onnxruntime-cuda": "CUDAExecutionProvider", "onnxruntime-tensorrt": "TensorrtExecutionProvider"}

LARGEST = 512
"""Images in the largest graph. Larger batches are run in parts."""
WARM_UP = 3
"""Runs before a graph is captured, in which PyTorch chooses its algorithms."""


class HalfSteps(nn.Module):
    """A folded network whose body computes in half precision: (B, 3, H, W) pixels -> (B, D) float32.

    The mean is subtracted in float32, because 8 bits of a bfloat16 do not hold a difference of pixels.
    """

    def __init__(self, graph: InferenceGraph, kind: torch.dtype) -> None:
        super().__init__()
        self.first, self.body, self.kind = graph.first, graph.body.to(kind), kind

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) uint8, or float32 in 0..255 -> (B, D)."""
        return self.body(self.first(pixels).to(self.kind)).float()


class _Captured:
    """The steps for one batch size, with fixed places for input and output, as one CUDA graph.

    Two pinned buffers take turns, so that the host can fill one while the device still reads the other.
    """

    def __init__(self, steps: nn.Module, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        self.steps, self.on_gpu = steps, device.type == "cuda"
        self.hosts = [torch.zeros(shape, dtype=dtype, pin_memory=self.on_gpu) for _ in range(2)]
        self.input = torch.zeros(shape, dtype=dtype, device=device).contiguous(memory_format=torch.channels_last)
        self.turn = 0
        if self.on_gpu:
            self.copied = [torch.cuda.Event() for _ in range(2)]  # type: ignore[no-untyped-call]
            self._capture(device)

    def _capture(self, device: torch.device) -> None:
        with torch.cuda.device(device):
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UP):
                    self.steps(self.input)
            torch.cuda.current_stream().wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.output = self.steps(self.input)

    def run(self, pixels: Tensor) -> Tensor:
        """At most B images -> their embeddings, which later calls do not overwrite."""
        self.turn = 1 - self.turn
        host = self.hosts[self.turn]
        if not self.on_gpu:
            host[: len(pixels)].copy_(pixels)  # what is left of earlier images in the other rows is not returned
            self.input.copy_(host)
            return self.steps(self.input)[: len(pixels)]
        with torch.cuda.device(self.input.device):  # events and graphs run on the current device's stream
            self.copied[self.turn].synchronize()
            host[: len(pixels)].copy_(pixels)
            self.input.copy_(host, non_blocking=True)
            self.copied[self.turn].record()
            self.graph.replay()
            return self.output[: len(pixels)].clone()


class CudaGraphs(Backend):
    """The folded network in bfloat16 or float16, channels last: a CUDA graph per power of two up to ``LARGEST``.

    Args:
        network: any network of the library; copied.
        preprocessing: of the weights.
        device: a CUDA device; the CPU for tests.
        name: a name of ``KINDS``.
    """

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, device: torch.device, name: str) -> None:
        self.name, self.device = name, device
        steps = HalfSteps(optimize(network, preprocessing), KINDS[name]).to(device)
        self.steps = steps.eval().requires_grad_(False)
        self._captured: dict[tuple[int, torch.dtype], _Captured] = {}
        self._lock = Lock()

    def run(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) RGB, uint8 or float32 in 0..255, on the CPU -> (B, D) float32, on the device."""
        with self._lock, torch.inference_mode():
            return torch.cat([self._run_part(part) for part in torch.split(pixels, LARGEST)])

    def _run_part(self, pixels: Tensor) -> Tensor:
        size = 1 << (len(pixels) - 1).bit_length()
        key = size, pixels.dtype
        if key not in self._captured:
            self._captured[key] = _Captured(self.steps, (size, *pixels.shape[1:]), pixels.dtype, self.device)
        return self._captured[key].run(pixels)


class OnnxRuntimeGpu(Backend):
    """ONNX Runtime on a GPU (package ``onnxruntime-gpu``), in float32 or TF32.

    Args:
        network: any network that can be written as ONNX; copied.
        preprocessing: of the weights.
        device: a CUDA device.
        name: a name of ``PROVIDERS``.

    Raises:
        ModelError: the installed ONNX Runtime lacks the provider, or cannot use it here.
    """

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, device: torch.device, name: str) -> None:
        self.name, self.content = name, write_graph(network, preprocessing)
        self.runtime: Any = require_extra("onnxruntime", "speed")
        self.provider, self.device_id = PROVIDERS[name], device.index or 0
        if self.provider not in self.runtime.get_available_providers():
            raise ModelError(f"{name}: this build of onnxruntime has no {self.provider}; install onnxruntime-gpu")
        self._sessions: dict[bool, Any] = {}
        self._session(uint8=True)

    def _session(self, uint8: bool) -> Any:
        if uint8 not in self._sessions:
            options = self.runtime.SessionOptions()
            options.log_severity_level = 3
            content = self.content if uint8 else with_float_input(self.content)
            providers = [(self.provider, {"device_id": self.device_id})]
            session = self.runtime.InferenceSession(content, options, providers=providers)
            if session.get_providers()[0] != self.provider:  # it falls back to the CPU without an error
                raise ModelError(f"{self.name}: onnxruntime cannot use {self.provider} here")
            self._sessions[uint8] = session
        return self._sessions[uint8]

    def run(self, pixels: Tensor) -> Tensor:
        """See ``CudaGraphs.run``; the result is on the CPU."""
        images = pixels.contiguous().numpy()
        session = self._session(uint8=pixels.dtype == torch.uint8)
        return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images})[0])


def make_gpu_backend(name: str, network: nn.Module, preprocessing: Preprocessing, device: torch.device) -> Backend:
    """The backend of this name. Raises as ``OnnxRuntimeGpu`` does."""
    return (CudaGraphs if name in KINDS else OnnxRuntimeGpu)(network, preprocessing, device, name)
