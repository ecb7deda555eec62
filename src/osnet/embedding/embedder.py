"""The embedder: images to embeddings, in order, in bounded memory.

Shapes: B batch, N all inputs, D embedding (512 for every named OSNet), H, W the network's input size.
"""

import hashlib
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize as unit_length

from osnet.data import faster_resize
from osnet.data.transforms import normalize, to_fractions
from osnet.devices import pick_device
from osnet.embedding.inputs import TOGETHER, Job, Prepared, PreparedCrop, iterate_jobs, run_jobs
from osnet.embedding.remembered import Remembered, key_of, recall, remember
from osnet.embedding.third_party import ThirdPartyNetwork, is_third_party, load_third_party
from osnet.errors import EmbeddingError, ImageError, ImageWarning, ModelError, WeightsError
from osnet.models.network import Network
from osnet.runtime.backends import (
    CHOSEN_HERE,
    RUNTIMES,
    Backend,
    BackendName,
    OnnxRuntimeBackend,
    ThreadedBackend,
    count_cores,
    list_backends,
    make_backend,
    run_as_it_is,
)
from osnet.types import ChannelOrder, Preprocessing
from osnet.weights.card import Card
from osnet.weights.checkpoint import Checkpoint, load_weights, network_sha256
from osnet.weights.hub import load_model, locate
from osnet.weights.hugging_face import PREFIX

OnError = Literal["raise", "skip"]
MAX_FAILURES = 1024
"""Maximum number of failures in a batch of a stream. A batch with as many is yielded even if it is not full."""


@dataclass(frozen=True)
class Embeddings:
    """Embeddings with the names of their inputs."""

    vectors: NDArray[np.float32]
    """(N, D): the embeddings."""
    names: list[str] = field(default_factory=list)
    """N names of the inputs: a path, ``input 3``, ``frame.jpg box 2``."""
    failures: list[ImageError] = field(default_factory=list)
    """Inputs that could not be embedded, with ``on_error="skip"``. They have no row."""
    probabilities: NDArray[np.float32] | None = None
    """(N, A) in [0, 1], from an ``AttributePredictor`` or a ``ClassPredictor``; else None."""
    positions: list[int] | None = None
    """For each row, its index among all crops of the input, those that failed included. None if the embeddings were
    read from files."""
    num_crops: int = 0
    """Number of crops of the input so far, those that failed included."""

    def __len__(self) -> int:
        return len(self.names)


class Embedder:
    """Turns images of people into embeddings that are similar if the person is the same.

    >>> embedder = Embedder("osnet_x0_25_msmt17")            # or a path, or a network
    >>> embeddings = embedder.embed(["a.jpg", "b.jpg"])      # float32 (2, 512), rows of length 1
    >>> embeddings = embedder.embed(Frame(image, boxes), channels="bgr")   # an OpenCV image and its detections

    The preprocessing comes from the weights' card, so it is the same as in training.

    Args:
        model: a path or a short name like ``osnet_x0_25_msmt17``, as ``load_weights`` takes it; a ``Checkpoint``; a
            network; or another library's network as an .onnx or .xml file with a card (see ``third_party``).
        device: ``auto`` (a network stays on its device; weights go to CUDA, else MPS, else the CPU), or any device
            of PyTorch.
        batch_size: crops per forward pass; the last batch may be smaller. It changes embeddings
            by rounding only.
        normalize: divide each embedding by its length.
        num_workers: threads that read and resize images; by default one per core, at most 8.
        preprocessing: replaces the card's; for experiments.
        flip: average each embedding with that of the mirrored crop, as many papers do in testing. The resized pixels
            are mirrored left to right; the mean is taken before normalising. Takes twice as long.
        backend: runs the network: ``torch``, ``onnxruntime`` or ``openvino``; on a GPU also ``cuda-bf16``,
            ``cuda-fp16``, ``onnxruntime-cuda`` or ``onnxruntime-tensorrt``. ``auto``: for weights on a CPU, one that
            is fast and ready at once (see ``list_backends``); a network object, or one on a GPU, runs as it is, so
            that training it further takes effect. ``fastest``: for long work; the backend that is the fastest here, on
            some processors twice as fast, and up to a second later ready. Each but ``auto`` copies the present state of
            the network.
            Embeddings differ by less than 1e-4 between backends (0.02 on a GPU); ``sha256`` is the same.
        num_threads: threads that run the network in ONNX Runtime or OpenVINO; by default one per core, which share a
            single crop. 1 costs the least processor time per crop: for a server whose requests share the cores.

    Raises:
        WeightsError: the weights do not exist or are damaged.
        ModelError: an unknown device or backend, ``batch_size``, ``num_workers`` or ``num_threads`` below 1, or a
            network that the named backend cannot run.
        MissingExtraError: the named backend is not installed.
    """

    def __init__(
        self,
        model: Network | Checkpoint | str | Path,
        device: str | torch.device = "auto",
        batch_size: int = 32,
        normalize: bool = True,
        num_workers: int | None = None,
        preprocessing: Preprocessing | None = None,
        flip: bool = False,
        backend: BackendName = "auto",
        num_threads: int | None = None,
    ) -> None:
        for name, number in (("batch_size", batch_size), ("num_workers", num_workers), ("num_threads", num_threads)):
            if number is not None and (number < 1 or number % 1):
                raise ModelError(f"{name} {number} must be a whole number of at least 1")
        self._process = os.getpid()
        self.batch_size = batch_size
        self.normalize = normalize
        self.flip = flip
        self.num_workers = num_workers or min(8, count_cores())
        self.card: Card | None
        """What the weights say of themselves; None for a network without."""
        self._pool: tuple[int, ThreadPoolExecutor] | None = None
        """The process that started the reading threads, and they."""
        self._backend: Backend | None = None
        self._chosen_here = backend in CHOSEN_HERE
        self._network: Network | None = None
        self._digest: str | None = None
        """``network_sha256`` of the state that the backend copied."""
        if backend == "fastest":
            faster_resize.start_loading()
        load, file = _find(model)
        as_it_is = isinstance(model, Network)
        first = "" if file is None else list_backends(backend, pick_device(device, None))[0]
        wanted = backend if backend == "fastest" else first
        key = key_of(*file, wanted, preprocessing) if file is not None and first in RUNTIMES else None
        known = recall(key) if key else None
        if known and self._use(known, num_threads):
            self.device, self.card = torch.device("cpu"), known.card
            self.preprocessing = preprocessing or known.card.preprocessing
            self._load = load
            return
        network = load()
        if isinstance(network, ThirdPartyNetwork):
            device, as_it_is = _check_third_party(network, device, backend), False
        self.device = pick_device(device, network if as_it_is else None)
        self._network = network.to(self.device)
        self.card = network.card
        self.preprocessing = preprocessing or (self.card.preprocessing if self.card else Preprocessing())
        live = (backend == "auto" and as_it_is) or (backend in CHOSEN_HERE and self.device.type != "cpu")
        if live or isinstance(network, ThirdPartyNetwork):
            return
        self._digest = network_sha256(network, self.preprocessing)
        self._backend = made = make_backend(backend, network, self.preprocessing, self.device, num_threads)
        if not (file and key and isinstance(made, ThreadedBackend) and wanted in (made.name, "fastest")):
            return
        same = key_of(*file, wanted, preprocessing) == key  # not replaced while it was read
        if same and (known is None or wanted != "fastest"):  # in a fork, the fastest may not run
            assert self.card is not None
            remember(key, Remembered(self.card, self._digest, made.content, made.name))

    def _use(self, known: Remembered, num_threads: int | None) -> bool:
        """Make the backend from a remembered graph; False if the runtime fails, which is then said in the long way."""
        try:
            self._backend, self._digest = RUNTIMES[known.runtime](known.graph, num_threads), known.network_sha256
        except Exception:  # a damaged installation may raise anything
            return False
        return True

    @property
    def network(self) -> Network:
        """The network. If its graph was remembered, it is loaded now.

        Raises:
            WeightsError: the file has been replaced since by other weights.
        """
        if self._network is None:
            with torch.inference_mode(False):  # the first use may be in inference mode; gradients need usual tensors
                network = self._load()
            if network_sha256(network, self.preprocessing) != self._digest:
                raise WeightsError("the file of the weights has changed since this embedder was made; make a new one")
            self._network = network
        return self._network

    @property
    def embedding_size(self) -> int:
        """D, the length of an embedding."""
        config = self.card.architecture if self._network is None and self.card else self.network.config
        return config.embedding_size

    @property
    def backend(self) -> str:
        """Name of the backend in use: ``torch``, ``onnxruntime`` or ``openvino``."""
        if isinstance(self._network, ThirdPartyNetwork):
            return self._network.runtime
        return self._backend.name if self._backend else "torch"

    def sha256(self) -> str:
        """Digest of all that determines an embedding: network, tensors, preprocessing, flip. Galleries store it."""
        if self._digest is not None:
            digest = self._digest
        elif isinstance(self.network, ThirdPartyNetwork):
            digest = self.network.sha256(self.preprocessing)
        else:  # it may have been trained further
            digest = network_sha256(self.network, self.preprocessing)
        return hashlib.sha256(f"{digest} flip".encode()).hexdigest() if self.flip else digest

    def embed(self, inputs: Any, *, channels: ChannelOrder = "rgb", on_error: OnError = "raise") -> NDArray[np.float32]:
        """Embeddings of all inputs, in the order of the input: float32 (N, D); (0, D) for no input.

        Args:
            inputs: a path, a folder (its images in sorted order), a Pillow image, a uint8 array (height,
                width, 3) or (N, height, width, 3), a tensor (3, height, width) or (N, 3, height, width), either
                uint8 or fractions in [0, 1], a ``Frame`` with boxes, or any iterable of these.
            channels: the order in arrays and tensors: ``rgb``, or ``bgr`` as OpenCV gives it. It does not concern files
                and Pillow images.
            on_error: ``raise`` stops at the first image that cannot be used; ``skip`` warns, fills its row with NaN,
                and continues, so that rows and inputs stay aligned (``embed_named`` lists failures instead).

        Transparent images are drawn on white.

        Raises:
            EmbeddingError: an image cannot be used, or a path does not exist; ``done`` holds the embeddings before it.

        Warns:
            ImageWarning: an image that is damaged inside but decodes; files of a folder that are not images.
        """
        result = self.embed_named(inputs, channels=channels, on_error=on_error)
        if not result.failures:
            return result.vectors
        listed = "; ".join(str(failure) for failure in result.failures[:5])
        warnings.warn(
            ImageWarning(f"{len(result.failures)} input(s) cannot be embedded, their rows are NaN: {listed}"),
            stacklevel=2,
        )
        aligned = np.full((result.num_crops, self.embedding_size), np.nan, dtype=np.float32)
        aligned[result.positions or []] = result.vectors
        return aligned

    def embed_named(self, inputs: Any, *, channels: ChannelOrder = "rgb", on_error: OnError = "raise") -> Embeddings:
        """As ``embed``, with names. Failures have no row; ``Embeddings.positions`` maps rows to inputs."""
        batches: list[Embeddings] = []

        def collected() -> Embeddings:
            failures = [failure for batch in batches for failure in batch.failures]
            return join_embeddings([self._forward([], [], []), *batches], failures)

        try:
            for batch in self.stream(inputs, channels=channels, on_error=on_error):
                batches.append(batch)
        except ImageError as error:
            raise EmbeddingError(error, collected()) from error
        return collected()

    def stream(
        self, inputs: Any, *, channels: ChannelOrder = "rgb", on_error: OnError = "raise"
    ) -> Iterator[Embeddings]:
        """Batches in order, for inputs of any length. Arguments as for ``embed``.

        At most two batches of crops are read ahead, also from an iterator. With ``raise``, the crops before an unusable
        image are yielded first, then ``ImageError`` is raised. With ``skip``, each batch lists its failures.
        """
        if on_error not in ("raise", "skip"):
            raise ModelError(f"unknown on_error {on_error!r}; choose from raise, skip")
        if channels not in ("rgb", "bgr"):
            raise ModelError(f"unknown channels {channels!r}; choose from rgb, bgr")
        self._settle()
        return self._stream(inputs, channels, on_error)

    def _settle(self) -> None:
        """Prepare a process that was forked after the embedder was made. Call it before any work.

        Raises:
            ModelError: the device or the backend does not work in a forked process.
        """
        if self.device.type != "cpu" and os.getpid() != self._process:
            raise ModelError(
                f"this embedder uses {self.device}, which a forked process cannot; make the embedder in the process "
                "that uses it, and start that one by 'spawn'"
            )
        if self._backend is None:
            return
        try:
            self._backend.settle()
        except ModelError:
            if not (self._chosen_here and isinstance(self._backend, ThreadedBackend)):
                raise
            self._backend = OnnxRuntimeBackend(self._backend.content, self._backend.num_threads)

    def _stream(self, inputs: Any, channels: ChannelOrder, on_error: OnError) -> Iterator[Embeddings]:
        waiting: list[PreparedCrop] = []
        positions: list[int] = []
        failures: list[ImageError] = []
        num_crops = 0

        def finish() -> Iterator[Embeddings]:
            batch = self._forward(waiting, failures, positions)
            return self._finish(replace(batch, num_crops=num_crops), on_error)

        for crop in self._prepared(iterate_jobs(inputs, channels)):
            if isinstance(crop, Exception):
                yield from finish()
                raise crop
            if isinstance(crop.pixels, ImageError):
                failures.append(crop.pixels)
            else:
                waiting.append(crop)
                positions.append(num_crops)
            num_crops += crop.num_rows
            stops = bool(failures) and on_error == "raise"
            if stops or len(waiting) == self.batch_size or len(failures) == MAX_FAILURES:
                yield from finish()
                waiting, positions, failures = [], [], []
        yield from finish()

    def _finish(self, batch: Embeddings, on_error: OnError) -> Iterator[Embeddings]:
        """Yield the batch; then raise its first failure, with ``on_error="raise"``."""
        if on_error == "skip" and (batch.names or batch.failures):
            yield batch
        elif batch.names:
            yield replace(batch, failures=[])
        if on_error == "raise" and batch.failures:
            raise batch.failures[0]

    def _prepared(self, jobs: Iterator[Job]) -> Iterator[PreparedCrop | Exception]:
        """Crops in order, prepared by threads at most two batches ahead.

        The last group is prepared here: this thread would only wait, and a small input then needs no other thread.
        If the caller's iterator raises, the crops before it are yielded first, then its error.
        """
        ahead: deque[tuple[Future[Prepared], int]] = deque()
        group: list[Job] = []  # small jobs go to a thread in groups: handing one over costs as much as reading it
        crops_ahead = in_group = 0
        together = max(1, min(TOGETHER, self.batch_size // self.num_workers))
        stopped: Exception | None = None
        try:
            while True:
                try:
                    job = next(jobs, None)
                except Exception as error:
                    stopped, job = error, None
                if job is None:
                    break
                group.append(job)
                in_group += job.weight
                crops_ahead += job.weight
                if in_group >= together or crops_ahead >= 2 * self.batch_size:
                    ahead.append((self._readers().submit(run_jobs, group, self.preprocessing), in_group))
                    group, in_group = [], 0
                while ahead and crops_ahead >= 2 * self.batch_size:
                    future, weight = ahead.popleft()
                    crops_ahead -= weight
                    yield from _taken(future.result())
            last = run_jobs(group, self.preprocessing)
            while ahead:
                yield from _taken(ahead.popleft()[0].result())
            yield from _taken(last)
        finally:
            waited = [future for future, _ in ahead if not future.cancel()]
            wait(waited)
        if stopped is not None:
            yield stopped

    def _readers(self) -> ThreadPoolExecutor:
        """The threads that read and resize: started when they are first needed, and anew in a forked process."""
        process = os.getpid()
        if self._pool is None or self._pool[0] != process:
            self._pool = process, ThreadPoolExecutor(self.num_workers, thread_name_prefix="osnet-read")
        return self._pool[1]

    def _forward(self, crops: list[PreparedCrop], failures: list[ImageError], positions: list[int]) -> Embeddings:
        """One pass of the network. Embeddings that are zero (if normalised) or not finite become failures."""
        names = [crop.name for crop in crops]
        pixels = [crop.pixels for crop in crops if isinstance(crop.pixels, Tensor)]
        if not pixels:
            nothing = torch.empty(0, self.embedding_size)
            return Embeddings(nothing.numpy(), [], failures, self._read_probabilities(nothing.to(self.device)), [])
        with torch.inference_mode():
            vectors = self._run(pixels)
            lengths = vectors.norm(dim=1)
            probabilities = self._read_probabilities(vectors)
            if self.normalize:
                vectors = unit_length(vectors)
        good = torch.isfinite(lengths) & ((lengths > 0) | (not self.normalize))
        keep = good.cpu().numpy()
        lost = "its embedding is zero or not finite; check the weights"
        failed = [ImageError(name, lost) for name, kept in zip(names, keep, strict=True) if not kept]
        kept_names = [name for name, kept in zip(names, keep, strict=True) if kept]
        kept = None if probabilities is None else probabilities[keep]
        places = [place for place, kept in zip(positions, keep, strict=True) if kept]
        return Embeddings(vectors.cpu().numpy()[keep], kept_names, failures + failed, kept, places)

    def _read_probabilities(self, _vectors: Tensor) -> NDArray[np.float32] | None:
        """Probabilities (B, A) of embeddings that are not normalised. None here; ``Predictor`` has them."""
        return None

    def _run(self, pixels: list[Tensor]) -> Tensor:
        """B images (3, H, W) -> embeddings (B, D), not normalised."""
        whole = all(p.dtype == torch.uint8 for p in pixels)
        images = stack_images(pixels if whole else [to_fractions(p) for p in pixels])
        run = self._run_live if self._backend is None else self._backend.run
        if self._backend is not None and not whole:
            images = 255 * images
        return (run(images) + run(images.flip(3))) / 2 if self.flip else run(images)

    def _run_live(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 or fractions -> (B, D), by the present state of the network."""
        images = normalize(to_fractions(images.to(self.device)), self.preprocessing)
        if self.device.type == "cpu":  # 1.2 to 1.4 times as fast on a CPU; not measured on others
            images = images.contiguous(memory_format=torch.channels_last)
        return run_as_it_is(self.network, images)


def _taken(prepared: Prepared) -> Iterator[PreparedCrop]:
    """The crops; then the error that stopped the work is raised."""
    crops, failure = prepared
    yield from crops
    if failure is not None:
        raise failure


def _find(model: Network | Checkpoint | str | Path) -> tuple[Callable[[], Network], tuple[Path, str | None] | None]:
    """How to load the network; and for weights in a file or folder, its path and the network's name, if that was given.

    Raises:
        WeightsError: no such file and no such name.
    """
    if isinstance(model, Network):
        return lambda: model, None
    if isinstance(model, Checkpoint):
        return model.build, None
    if is_third_party(model):
        return partial(load_third_party, model), None
    if str(model).startswith(PREFIX):
        return partial(load_model, model), None
    path, architecture = locate(model)
    return partial(load_weights, path, architecture=architecture), (path, architecture)


def _check_third_party(network: ThirdPartyNetwork, device: str | torch.device, backend: BackendName) -> torch.device:
    """The device of a third-party network, the CPU.

    Raises:
        ModelError: another device, or a backend that is not the file's runtime.
    """
    if backend not in (*CHOSEN_HERE, network.runtime):
        raise ModelError(f"backend {backend!r} cannot run {network.file.path}; choose auto or {network.runtime}")
    picked = pick_device("cpu" if str(device) == "auto" else device)
    if picked.type != "cpu":
        raise ModelError(f"{network.file.path} runs on the CPU, not on {device}; choose device='cpu'")
    return picked


def stack_images(images: Sequence[Tensor]) -> Tensor:
    """B tensors (3, H, W) of one size and type on the CPU -> (B, 3, H, W), contiguous.

    ``torch.stack`` copies with all cores, which then wait for work and slow down the runtime that comes next: on two
    cores it doubles the time of one image.
    """
    stacked = np.empty((len(images), *images[0].shape), images[0].numpy().dtype)
    for place, image in enumerate(images):
        stacked[place] = image.numpy()
    return torch.from_numpy(stacked)


def join_embeddings(batches: Sequence[Embeddings], failures: list[ImageError]) -> Embeddings:
    """Concatenate batches, at least one. ``failures`` are those of all batches."""
    parts = [batch.probabilities for batch in batches if batch.probabilities is not None]
    names = [name for batch in batches for name in batch.names]
    vectors = np.concatenate([batch.vectors for batch in batches])
    places = [place for batch in batches for place in batch.positions or ()]
    known = all(batch.positions is not None for batch in batches)
    num_crops = max(batch.num_crops for batch in batches)
    return Embeddings(
        vectors, names, failures, np.concatenate(parts) if parts else None, places if known else None, num_crops
    )
