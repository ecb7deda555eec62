"""Backends that run a network: PyTorch, ONNX Runtime, OpenVINO. Embeddings agree to 1e-4.

A backend takes RGB pixels at the network's input size and gives the network's embeddings, not normalised. It is made
from the present state of a network and does not follow later changes. Its outputs are compared with the network's
before it is used.

Shapes: B batch, H, W the network's input size, D embedding.
"""

import ctypes
import os
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal, get_args
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize as unit_length

from osnet.data.transforms import normalize, to_fractions
from osnet.errors import ModelError, require_extra
from osnet.forks import make_lock
from osnet.runtime.folding import fold, optimize
from osnet.runtime.onnx_graph import INPUT, UnknownStepError, with_float_input, write_onnx
from osnet.types import Preprocessing

BackendName = Literal[
    "auto",
    "fastest",
    "torch",
    "onnxruntime",
    "openvino",
    "cuda-bf16",
    "cuda-fp16",
    "onnxruntime-cuda",
    "onnxruntime-tensorrt",
]
CHOSEN_HERE = ("auto", "fastest")
"""Names for which ``list_backends`` makes a choice."""
TOLERANCE = 1e-4
"""Largest difference of a component of unit embeddings between a backend and the network, in float32."""
GPU_TOLERANCE = 0.02
"""The same for the backends of a GPU, which compute in half precision or TF32: a cosine of 0.999 or more."""
MANY = 500
"""Images for which ``fastest`` is worth the second or two that it needs to be ready."""
MEASURED = 8
"""Images of the batch by which ``fastest`` compares backends."""
AT_A_TIME = 2
"""Images of a batch that a thread takes at once."""

Runner = Callable[[NDArray[Any]], NDArray[np.float32]]
"""(B, 3, H, W) uint8 or float32 -> (B, D). May be called by several threads at once."""


class Backend(ABC):
    """Runs a network: pixels to embeddings."""

    name: str

    def settle(self) -> None:  # noqa: B027 - most backends have nothing to do
        """Prepare the backend in a process that was forked after it was made. Elsewhere it does nothing.

        Raises:
            ModelError: the backend cannot run in a forked process.
        """

    @abstractmethod
    def run(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) RGB, uint8 or float32 in 0..255, on the CPU -> (B, D) float32, on any device."""


class TorchBackend(Backend):
    """PyTorch, with the network in the form of ``optimize``."""

    name = "torch"

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, device: torch.device) -> None:
        self.device = device
        self.graph = optimize(network, preprocessing).to(device)

    def run(self, pixels: Tensor) -> Tensor:
        """See ``Backend``."""
        self.settle()
        pixels = pixels.to(self.device).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            return self.graph(pixels).float()


class ThreadedBackend(Backend):
    """A runtime that shares a single image among threads, and gives each thread its own images of a batch.

    So in a batch, no thread waits for the others after each step of the graph. Each takes two images at a time, whose
    data stay in its core's cache. That helps a single thread, too.
    """

    def __init__(self, content: bytes, num_threads: int | None = None) -> None:
        self.content = content
        """The network as an ONNX file for uint8 pixels, from ``write_graph``."""
        self.num_threads = num_threads or count_cores()
        self.sharing = self.num_threads
        """Threads that share a single image."""
        self.at_a_time = AT_A_TIME
        self._runners: dict[tuple[bool, int], Runner] = {}
        self._start_threads()
        self._runner(uint8=True, num_threads=self.sharing)  # a file that it cannot run is refused now
        _WITH_THREADS.add(self)

    def _start_threads(self) -> None:
        self._pool = ThreadPoolExecutor(self.num_threads, thread_name_prefix="osnet-run")
        self._process = os.getpid()

    def settle(self) -> None:
        """See ``Backend``."""
        super().settle()
        if os.getpid() != self._process:
            self.after_fork()

    def after_fork(self) -> None:
        """Start new threads in a forked process (a DataLoader's worker), where only one thread exists.

        Raises:
            ModelError: the runtime cannot run without the threads that it started before the fork.
        """
        self._start_threads()

    @abstractmethod
    def make_runner(self, uint8: bool, num_threads: int) -> Runner:
        """A ``Runner`` for images of that type that uses ``num_threads`` threads."""

    def _runner(self, uint8: bool, num_threads: int) -> Runner:
        """The runner, made when it is first needed: float pixels are rare."""
        key = uint8, num_threads
        if key not in self._runners:
            self._runners[key] = self.make_runner(uint8, num_threads)
        return self._runners[key]

    def graph(self, uint8: bool) -> bytes:
        """The ONNX file, for uint8 or for float32 pixels: they differ in the type of the input alone."""
        return self.content if uint8 else with_float_input(self.content)

    def run(self, pixels: Tensor) -> Tensor:
        """See ``Backend``."""
        self.settle()
        images = np.ascontiguousarray(pixels.numpy())  # torch copies with all cores, which then spin beside the runtime
        uint8 = images.dtype == np.uint8
        if len(images) <= 1:
            return torch.from_numpy(self._runner(uint8, self.sharing)(images))
        run = self._runner(uint8, 1)
        step = min(self.at_a_time, -(-len(images) // self.num_threads))
        parts = [images[start : start + step] for start in range(0, len(images), step)]
        done = map(run, parts) if self.num_threads == 1 else self._pool.map(run, parts)
        return torch.from_numpy(np.concatenate(list(done)))


_WITH_THREADS: WeakSet[ThreadedBackend] = WeakSet()


_making_core = make_lock()


def _prepare_child() -> None:
    """Keep runtimes alive in a forked process: destroying one would wait for threads that exist only in the parent."""
    for backend in list(_WITH_THREADS):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(backend))  # a Python reference would be dropped at exit


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_prepare_child)


class OnnxRuntimeBackend(ThreadedBackend):
    """ONNX Runtime on the CPU."""

    name = "onnxruntime"

    def make_runner(self, uint8: bool, num_threads: int) -> Runner:
        """See ``ThreadedBackend``."""
        runtime = require_extra("onnxruntime", "speed")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.log_severity_level = 3
        session = runtime.InferenceSession(self.graph(uint8), options, providers=["CPUExecutionProvider"])
        return lambda images: session.run(None, {INPUT: images})[0]

    def after_fork(self) -> None:
        """See ``ThreadedBackend``. Sessions with one thread still work; those with several are not used any more."""
        self.sharing = 1
        super().after_fork()


NO_OPENVINO = (
    "OpenVINO does not work in a forked process, where its threads do not exist; make the embedder in the process "
    "that uses it (start processes by 'spawn' if the parent uses OpenVINO too), or choose another backend"
)


def openvino_core() -> Any:
    """The OpenVINO core of this process. There is one, and it is never destroyed.

    Each core registers a stack for signal handlers. Destroying one of several leaves a freed stack registered, and the
    next signal with a handler ends the process. Threads that convert a type at once, for the first time in a process,
    wait for each other for ever; so it is done here. Both were seen with OpenVINO 2026.4.1.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        ModelError: the process was forked from one that uses OpenVINO.
    """
    with _making_core:
        process, core = _make_core()
    if process != os.getpid():
        raise ModelError(NO_OPENVINO)
    return core


@cache
def _make_core() -> tuple[int, Any]:
    """The core, and the id of the process that made it."""
    openvino: Any = require_extra("openvino", "openvino")
    openvino.Tensor(np.zeros(1, np.float32)).element_type.to_dtype()
    return os.getpid(), openvino.Core()


class OpenVinoBackend(ThreadedBackend):
    """OpenVINO on the CPU, in float32 (its default is bfloat16 where the processor has it)."""

    name = "openvino"

    def make_runner(self, uint8: bool, num_threads: int) -> Runner:
        """See ``ThreadedBackend``."""
        core = openvino_core()
        streams = self.num_threads if num_threads == 1 else 1
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": str(self.num_threads),
            "NUM_STREAMS": str(streams),
        }
        compiled = core.compile_model(core.read_model(self.graph(uint8)), "CPU", settings)

        def run(images: NDArray[Any]) -> NDArray[np.float32]:
            request = compiled.create_infer_request()  # a request serves one thread at a time
            return next(iter(request.infer({0: images}, share_inputs=True).values())).copy()

        return run

    def after_fork(self) -> None:
        """See ``ThreadedBackend``."""
        raise ModelError(NO_OPENVINO)


RUNTIMES: dict[str, type[ThreadedBackend]] = {
    "onnxruntime": OnnxRuntimeBackend,
    "openvino": OpenVinoBackend,
}
ON_GPUS = ("cuda-bf16", "cuda-fp16", "onnxruntime-cuda", "onnxruntime-tensorrt")
"""Names of the backends in ``gpu.py``."""


def list_backends(name: BackendName, device: torch.device) -> list[str]:
    """Names of the backends to try on ``device``, in order; just ``name`` unless it is ``auto``.

    ``auto`` on a CPU: ONNX Runtime (if it and ``onnx`` are installed), then PyTorch. On other devices: PyTorch.
    ``fastest``: the same, with OpenVINO before PyTorch; ``make_backend`` then measures.

    Raises:
        ModelError: an unknown name, or a backend with a device that it does not run on.
    """
    if name not in get_args(BackendName):
        raise ModelError(f"unknown backend {name!r}; choose from {', '.join(get_args(BackendName))}")
    if name in CHOSEN_HERE:
        runtimes = list(RUNTIMES) if name == "fastest" else ["onnxruntime"]
        usable = device.type == "cpu" and find_spec("onnx") is not None
        return [*(runtime for runtime in runtimes if usable and find_spec(runtime) is not None), "torch"]
    if name in RUNTIMES and device.type != "cpu":
        raise ModelError(f"backend {name!r} runs on the CPU, not on {device}; choose device='cpu' or backend='torch'")
    if name in ON_GPUS and device.type != "cuda":
        raise ModelError(f"backend {name!r} runs on a CUDA device, not on {device}; choose backend='auto'")
    return [name]


def pick_backend(num_images: int) -> BackendName:
    """The choice for so many images: ``fastest`` for many, else ``auto``. The same number gives the same embeddings."""
    return "fastest" if num_images >= MANY else "auto"


def make_backend(
    name: BackendName,
    network: nn.Module,
    preprocessing: Preprocessing,
    device: torch.device,
    num_threads: int | None = None,
) -> Backend:
    """Make a backend from the present state of ``network``, and compare it with the network.

    With ``auto``, the first of ``list_backends`` that works; with ``fastest``, the fastest. A warning names a runtime
    that is installed but fails.
    ``num_threads`` counts for a ``ThreadedBackend``; None: one per core.

    Raises:
        ModelError: an unknown name, a device that the backend does not run on, a network that it cannot run, or
            embeddings that differ by more than ``TOLERANCE`` (``GPU_TOLERANCE``).
        MissingExtraError: the runtime, or ``onnx``, is not installed.
    """
    trouble: ModelError | None = None
    working: list[Backend] = []
    for chosen in list_backends(name, device):
        if chosen == "torch":
            return choose_fastest(working, preprocessing) or TorchBackend(network, preprocessing, device)
        try:
            if chosen in ON_GPUS:
                from osnet.runtime.gpu import make_gpu_backend

                backend, allowed = make_gpu_backend(chosen, network, preprocessing, device), GPU_TOLERANCE
            else:
                backend, allowed = RUNTIMES[chosen](write_graph(network, preprocessing), num_threads), TOLERANCE
            if (difference := measure_difference(backend, network, preprocessing)) <= allowed:
                if name != "fastest":
                    return backend
                working.append(backend)
                continue
            trouble = ModelError(f"{chosen}: embeddings differ from the network's by {difference:.1e}")
        except UnknownStepError as error:
            trouble = error
            continue  # not made for this network: no reason to warn
        except Exception as error:  # a damaged installation may raise anything
            if name not in CHOSEN_HERE:
                raise
            trouble = ModelError(f"{chosen} does not work here: {type(error).__name__}: {error}")
        if name in CHOSEN_HERE:
            warnings.warn(f"{trouble}; another backend is used", stacklevel=2)
    raise ModelError(f"backend {name!r} cannot run this network ({trouble}); choose backend='torch'") from trouble


def choose_fastest(backends: Sequence[Backend], preprocessing: Preprocessing) -> Backend | None:
    """The backend that takes the least time for a batch; the first, unless another needs a tenth less. None of none."""
    if len(backends) < 2:
        return next(iter(backends), None)
    pixels = generate_pixels(MEASURED, preprocessing.size_hw)
    seconds = [min(one) for one in zip(*([measure_s(b, pixels) for b in backends] for _ in range(4)), strict=True)]
    fastest = int(np.argmin(seconds))
    return backends[fastest if seconds[fastest] < 0.9 * seconds[0] else 0]


def measure_s(backend: Backend, pixels: Tensor) -> float:
    """Seconds of one batch."""
    begin = time.perf_counter()
    backend.run(pixels)
    return time.perf_counter() - begin


def write_graph(network: nn.Module, preprocessing: Preprocessing) -> bytes:
    """The network's present state as an ONNX file that takes RGB pixels, uint8, and gives ``embeddings``.

    Raises:
        UnknownStepError: the network has an operation that the writer does not know.
        MissingExtraError: ``onnx`` is not installed.
    """
    return write_onnx(fold(network, preprocessing).cpu(), preprocessing.size_hw, ["embeddings"], uint8=True)


def measure_difference(backend: Backend, network: nn.Module, preprocessing: Preprocessing) -> float:
    """Largest difference of unit embeddings between ``backend`` and ``network``, on a batch of two and a single image.

    Single images take another path, because threads share them. NaN if an embedding is not finite.
    """
    pixels = generate_pixels(2, preprocessing.size_hw)
    found = unit_length(torch.cat([backend.run(pixels).cpu(), backend.run(pixels[1:]).cpu()]))
    with _one_thread():
        expected = unit_length(run_plainly(network, pixels, preprocessing))
    return float((found - expected[[0, 1, 1]]).abs().max())


@contextmanager
def _one_thread() -> Iterator[None]:
    """PyTorch with one thread: on a busy machine, threads that wait for each other at each of 500 steps take 25 times
    the processor time.

    OpenMP is told so for this thread alone. ``torch.set_num_threads`` tells it for all, and threads that first use
    PyTorch meanwhile would keep one for ever.
    """
    before = torch.get_num_threads()
    try:
        tell = ctypes.CDLL(torch._C.__file__).omp_set_num_threads
    except (OSError, AttributeError):  # a build without OpenMP, or on Windows, which does not find it there
        yield
        return
    tell(1)
    try:
        yield
    finally:
        tell(before)


def run_plainly(network: nn.Module, pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """The reference: (B, 3, H, W) RGB uint8 -> the network's output in eval mode, (B, D) float32 on the CPU."""
    device = next(network.parameters()).device
    with torch.inference_mode():
        return run_as_it_is(network, normalize(to_fractions(pixels), preprocessing).to(device)).cpu()


def run_as_it_is(network: nn.Module, images: Tensor) -> Tensor:
    """Normalised images (B, 3, H, W) -> (B, D) float32, in eval mode and in the number format of the network."""
    first = next(network.parameters(), None)
    embeddings: Tensor = in_eval_mode(network)(images if first is None else images.to(first.dtype))
    return embeddings.float()


def in_eval_mode(network: nn.Module) -> Any:
    """A view of the network in eval mode. The mode of the network itself does not change, so that another thread may
    train it meanwhile.

    The modules are shallow copies that share tensors and hooks with the network's. Make a new view for each pass; it is
    cheap.
    """
    twins: dict[nn.Module, nn.Module] = {}
    for module in network.modules():
        twin = twins[module] = object.__new__(type(module))
        twin.__dict__.update(module.__dict__)
        twin.__dict__["training"] = False
    for twin in twins.values():
        children = twin.__dict__["_modules"]
        twin.__dict__["_modules"] = {name: child and twins[child] for name, child in children.items()}
    return twins[network]


def generate_pixels(number: int, size_hw: tuple[int, int], seed: int = 0) -> Tensor:
    """Test images (number, 3, H, W) uint8: smooth colours with noise, so that feature maps vary over the image."""
    draw = torch.Generator().manual_seed(seed)
    blocks = torch.rand(number, 3, 8, 4, generator=draw)
    noise = torch.rand(number, 3, *size_hw, generator=draw)
    smooth = nn.functional.interpolate(blocks, size=size_hw, mode="bilinear")
    return (255 * (0.8 * smooth + 0.2 * noise)).round().to(torch.uint8)


def count_cores() -> int:
    """Cores that this process may use; no more than ``OMP_NUM_THREADS``, as in PyTorch."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        cores = os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(limit)) if limit.isdecimal() and int(limit) else cores
