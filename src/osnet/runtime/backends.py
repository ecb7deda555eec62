"""What runs the network: PyTorch, our own machine code, ONNX Runtime or OpenVINO. From all the same vectors, to 1e-4.

A backend takes RGB pixels at the network's size and gives embeddings as the network does, not normalised. It is made
from a network in its present state; what is done to the network later does not reach it. Before a runtime is used,
its outputs are compared with the network's.

Shapes: B batch, H, W the network's input size, D embedding.
"""

import ctypes
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from threading import Lock
from typing import Any, Literal, NamedTuple, get_args
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize as unit_length

from osnet.data.transforms import normalize, to_fractions
from osnet.errors import ModelError, require_extra
from osnet.forks import settle
from osnet.models.osnet import OSNet
from osnet.runtime.folding import fold, optimize
from osnet.runtime.onnx_graph import INPUT, UnknownStepError, write_onnx
from osnet.types import Preprocessing

BackendName = Literal["auto", "torch", "native", "onnxruntime", "openvino"]
TOLERANCE = 1e-4
"""Largest difference of a unit vector's component between a runtime and the network, in float32."""
WIDEST_NATIVE = 0.5
"""Width up to which ``auto`` takes our own code before ONNX Runtime: 1.3 times as fast at x0.25, as fast at x0.5, and
4 % slower at x1.0 (batches, 2 cores of an EPYC with AVX-512)."""
AT_A_TIME = 2
"""Images that one thread takes at once from a batch."""

Runner = Callable[[NDArray[Any]], NDArray[np.float32]]


class Backend(ABC):
    """Pixels in, embeddings out."""

    name: str

    def settle(self) -> None:
        """Get ready in a process that was forked off after the backend was made; elsewhere it does nothing.

        Raises:
            ModelError: the backend cannot run there; it says what to do.
        """
        settle()

    @abstractmethod
    def run(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) RGB, uint8 or float32 in 0..255, on the CPU -> (B, D) float32, on any device."""


class TorchBackend(Backend):
    """PyTorch, with the network restructured for it (``optimize``)."""

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
    """What takes single images with all threads, and of a batch gives each thread a few images for itself.

    Then nothing waits for the slowest thread at each of 180 steps, and what is worked on stays in a core's cache.
    """

    runtime_threads = False
    """Whether the runtime has threads of its own."""

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, num_threads: int | None = None) -> None:
        self.num_threads = num_threads or count_cores()
        self.sharing = self.num_threads
        """Threads for a single image."""
        self.at_a_time = AT_A_TIME
        self._graph, self._size_hw = fold(network, preprocessing).cpu(), preprocessing.size_hw
        self._runners: dict[tuple[bool, int], Runner] = {}
        self._start_threads()
        self._runner(uint8=True, num_threads=self.sharing)  # what cannot be made is said now

        if self.runtime_threads:
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
        """In a process that was forked off (a loader's worker, say): of all threads only one is there.

        Raises:
            ModelError: the runtime cannot do without its own.
        """
        self._start_threads()

    @abstractmethod
    def make_runner(self, uint8: bool, num_threads: int) -> Runner:
        """A function that may be called by several threads at once: (B, 3, H, W) of that type -> (B, D)."""

    def _runner(self, uint8: bool, num_threads: int) -> Runner:
        """Made when first needed: float pixels are rare."""
        key = uint8, num_threads
        if key not in self._runners:
            self._runners[key] = self.make_runner(uint8, num_threads)
        return self._runners[key]

    def write_onnx(self, uint8: bool) -> bytes:
        """The network as an ONNX file."""
        return write_onnx(self._graph, self._size_hw, ["embeddings"], uint8=uint8)

    def run(self, pixels: Tensor) -> Tensor:
        """See ``Backend``."""
        self.settle()
        images = pixels.contiguous().numpy()
        uint8 = images.dtype == np.uint8
        if len(images) <= 1 or self.num_threads == 1:
            return torch.from_numpy(self._runner(uint8, self.sharing)(images))
        run = self._runner(uint8, 1)
        step = min(self.at_a_time, -(-len(images) // self.num_threads))
        parts = [images[start : start + step] for start in range(0, len(images), step)]
        return torch.from_numpy(np.concatenate(list(self._pool.map(run, parts))))


_WITH_THREADS: WeakSet[ThreadedBackend] = WeakSet()


def _keep_for_ever() -> None:
    """In a forked process: a runtime that is taken down waits for its threads, which stayed in the parent."""
    for backend in list(_WITH_THREADS):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(backend))  # a list would be emptied when the process ends


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_for_ever)


class NativeBackend(ThreadedBackend):
    """Machine code made for this processor (``native.py``), for plain OSNets on a CPU."""

    name = "native"

    def make_runner(self, uint8: bool, num_threads: int) -> Runner:
        """See ``ThreadedBackend``."""
        try:
            from osnet.runtime.native.program import NativeRunner, lay_out
        except ImportError as error:  # llvmlite comes with numba, but not every system has a build of it
            raise UnknownStepError(f"llvmlite cannot be loaded: {error}") from error
        runner = NativeRunner(lay_out(self._graph, self._size_hw, uint8))
        if num_threads == 1:
            return runner
        return lambda images: runner(images, self._pool)


class OnnxRuntimeBackend(ThreadedBackend):
    """ONNX Runtime on the CPU."""

    name = "onnxruntime"
    runtime_threads = True

    def make_runner(self, uint8: bool, num_threads: int) -> Runner:
        """See ``ThreadedBackend``."""
        runtime = require_extra("onnxruntime", "speed")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.log_severity_level = 3
        session = runtime.InferenceSession(self.write_onnx(uint8), options, providers=["CPUExecutionProvider"])
        return lambda images: session.run(None, {INPUT: images})[0]

    def after_fork(self) -> None:
        """See ``ThreadedBackend``: the sessions with one thread go on; those with several are left alone."""
        self.sharing = 1
        super().after_fork()


NO_OPENVINO = (
    "OpenVINO's threads are not in a forked process, which would wait for them for ever; make the embedder in the "
    "process that uses it (start processes by 'spawn' if the parent uses OpenVINO too), or choose another backend"
)


def openvino_core() -> Any:
    """The one OpenVINO core of this process.

    Each core sets up a stack for signals, and one that goes before another leaves a stack that is no more: the next
    signal with a handler then ends the process (seen with OpenVINO 2026.4.1). So there is one, and it stays.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        ModelError: the process was forked off one that uses OpenVINO.
    """
    process, core = _make_core()
    if process != os.getpid():
        raise ModelError(NO_OPENVINO)
    return core


@cache
def _make_core() -> tuple[int, Any]:
    """The core, and the process it was made in."""
    return os.getpid(), require_extra("openvino", "openvino").Core()


class OpenVinoBackend(ThreadedBackend):
    """OpenVINO on the CPU, in float32 (left alone it takes bfloat16 where the processor has it)."""

    name = "openvino"
    runtime_threads = True

    def make_runner(self, uint8: bool, num_threads: int) -> Runner:
        """See ``ThreadedBackend``."""
        core = openvino_core()
        streams = self.num_threads if num_threads == 1 else 1
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": str(self.num_threads),
            "NUM_STREAMS": str(streams),
        }
        compiled = core.compile_model(core.read_model(self.write_onnx(uint8)), "CPU", settings)

        def run(images: NDArray[Any]) -> NDArray[np.float32]:
            request = compiled.create_infer_request()  # one is used by one thread at a time
            return next(iter(request.infer({0: images}, share_inputs=True).values())).copy()

        return run

    def after_fork(self) -> None:
        """See ``ThreadedBackend``."""
        raise ModelError(NO_OPENVINO)


RUNTIMES: dict[str, type[ThreadedBackend]] = {
    "native": NativeBackend,
    "onnxruntime": OnnxRuntimeBackend,
    "openvino": OpenVinoBackend,
}


def list_backends(name: BackendName, network: nn.Module, device: torch.device) -> list[str]:
    """What may run ``network`` on ``device``, the best first: one name, or with ``auto`` what is tried in turn.

    On a CPU ``auto`` is our own code where it knows the network and the processor, and ONNX Runtime where it and
    ``onnx`` are installed, in the order that the network's width asks for; then PyTorch.

    Raises:
        ModelError: an unknown name, or a runtime for a device it does not run on here.
    """
    if name not in get_args(BackendName):
        raise ModelError(f"unknown backend {name!r}; choose from {', '.join(get_args(BackendName))}")
    if name == "auto":
        if device.type != "cpu":
            return ["torch"]
        installed = find_spec("onnxruntime") is not None and find_spec("onnx") is not None
        narrow = not isinstance(network, OSNet) or network.config.width <= WIDEST_NATIVE
        runtimes = ["native", "onnxruntime"] if narrow else ["onnxruntime", "native"]
        return [*(runtime for runtime in runtimes if runtime == "native" or installed), "torch"]
    if name in RUNTIMES and device.type != "cpu":
        raise ModelError(
            f"backend {name!r} runs on the CPU here, not on {device}; choose device='cpu' or backend='torch'"
        )
    return [name]


def make_backend(name: BackendName, network: nn.Module, preprocessing: Preprocessing, device: torch.device) -> Backend:
    """The backend called ``name``, made from ``network`` as it is now and compared with it.

    Raises:
        ModelError: an unknown name, a device it does not run on, or vectors that differ by more than ``TOLERANCE``.
        MissingExtraError: the runtime, or ``onnx``, is not installed.
    """
    trouble: ModelError | None = None
    for chosen in list_backends(name, network, device):
        if chosen not in RUNTIMES:
            return TorchBackend(network, preprocessing, device)
        try:
            backend = RUNTIMES[chosen](network, preprocessing)
            if (difference := measure_difference(backend, network, preprocessing)) <= TOLERANCE:
                return backend
            trouble = ModelError(f"{chosen} gives vectors that differ from the network's by {difference:.1e}")
        except UnknownStepError as error:
            trouble = error
            continue  # it is not for this network or this processor, and nobody need know
        except Exception as error:  # whatever a damaged installation of a runtime raises
            if name != "auto":
                raise
            trouble = ModelError(f"{chosen} does not work here: {type(error).__name__}: {error}")
        if name == "auto":
            warnings.warn(f"{trouble}; the next best runs the network", stacklevel=2)
    raise ModelError(f"backend {name!r} cannot run this network ({trouble}); choose backend='torch'") from trouble


def measure_difference(backend: Backend, network: nn.Module, preprocessing: Preprocessing) -> float:
    """Largest difference of unit vectors between ``backend`` and ``network``: two generated images, and one alone.

    A single one goes another way, since threads share it. NaN if a vector is not finite.
    """
    pixels = generate_pixels(2, preprocessing.size_hw)
    found = unit_length(torch.cat([backend.run(pixels).cpu(), backend.run(pixels[1:]).cpu()]))
    return float((found - unit_length(run_plainly(network, pixels, preprocessing))[[0, 1, 1]]).abs().max())


def run_plainly(network: nn.Module, pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """The definition: (B, 3, H, W) RGB uint8 -> what ``network`` gives in eval mode, (B, D) float32 on the CPU."""
    device = next(network.parameters()).device
    with torch.inference_mode():
        return in_eval_mode(network)(normalize(to_fractions(pixels), preprocessing).to(device)).float().cpu()


def in_eval_mode(network: nn.Module) -> Any:
    """The network in eval mode, beside the network itself, whose mode is left alone: other threads may train it or
    change its mode meanwhile.

    Its modules are copies, which share all tensors and hooks with the network's own. It is cheap and short-lived: make
    one for each pass.
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


class _Watched(NamedTuple):
    """A network in ``eval_mode``: how many are inside, and the modules to put back into training mode."""

    inside: int
    training: list[nn.Module]


_EVALUATED: dict[int, _Watched] = {}
_EVALUATED_LOCK = Lock()


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Eval mode inside; once the last one has left, be it in this thread or in another, every module has its own mode
    again. For work on the network itself (hooks, gradients); to run it, ``in_eval_mode`` leaves it alone."""
    with _EVALUATED_LOCK:
        inside, training = _EVALUATED.get(id(network), _Watched(0, []))
        training = training + [module for module in network.modules() if module.training]
        network.eval()
        _EVALUATED[id(network)] = _Watched(inside + 1, training)
    try:
        yield
    finally:
        with _EVALUATED_LOCK:
            inside, training = _EVALUATED.pop(id(network))
            if inside > 1:
                _EVALUATED[id(network)] = _Watched(inside - 1, training)
            else:
                for module in training:
                    module.training = True


def generate_pixels(number: int, size_hw: tuple[int, int], seed: int = 0) -> Tensor:
    """(number, 3, H, W) uint8: blocks of colour with noise over them, so that maps vary from place to place."""
    draw = torch.Generator().manual_seed(seed)
    blocks = torch.rand(number, 3, 8, 4, generator=draw)
    noise = torch.rand(number, 3, *size_hw, generator=draw)
    smooth = nn.functional.interpolate(blocks, size=size_hw, mode="bilinear")
    return (255 * (0.8 * smooth + 0.2 * noise)).round().to(torch.uint8)


def count_cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1
