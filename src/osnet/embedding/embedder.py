"""The embedder: pictures in, vectors out, in order, in bounded memory.

Shapes: B batch, N all inputs, D embedding (512 for every named OSNet), H, W the network's input size.
"""

import hashlib
import os
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize as unit_length

from osnet.data.transforms import normalize, to_fractions
from osnet.embedding.inputs import Job, Prepared, PreparedCrop, iterate_jobs, run_jobs
from osnet.embedding.third_party import ThirdPartyNetwork, is_third_party, load_third_party
from osnet.errors import EmbeddingError, ImageError, ImageWarning, ModelError
from osnet.forks import settle
from osnet.models.network import Network
from osnet.runtime.backends import Backend, BackendName, count_cores, in_eval_mode, make_backend
from osnet.types import ChannelOrder, Preprocessing
from osnet.weights.checkpoint import Checkpoint, network_sha256
from osnet.weights.hub import load_model

OnError = Literal["raise", "skip"]
TOGETHER = 8
"""Crops that a thread prepares before it asks for more, if the batch is large enough for all threads."""
MAX_FAILURES = 1024
"""A batch of a stream lists at most so many; then it comes out, full or not."""


@dataclass(frozen=True)
class Embeddings:
    """Vectors with the names of what they were made of."""

    vectors: NDArray[np.float32]
    """(N, D)."""
    names: list[str] = field(default_factory=list)
    """N names: a path, ``input 3``, ``frame.jpg box 2``."""
    failures: list[ImageError] = field(default_factory=list)
    """What could not be embedded, if the run was to go on; these have no row."""
    probabilities: NDArray[np.float32] | None = None
    """(N, A) of the attributes, from an ``AttributePredictor``."""
    positions: list[int] | None = None
    """For each row, its place among all crops of the input, from 0; what failed has a place too. None where the vectors
    were read from files."""
    num_crops: int = 0
    """Crops of the input so far, those that failed included."""

    def __len__(self) -> int:
        return len(self.names)


class Embedder:
    """Images of people -> vectors that are close where the person is the same.

    >>> embedder = Embedder("osnet_x0_25_msmt17")            # or a path, or a network
    >>> vectors = embedder.embed(["a.jpg", "b.jpg"])         # float32 (2, 512), rows of length 1
    >>> vectors = embedder.embed(Frame(frame, boxes), channels="bgr")   # an OpenCV frame and its detections

    Preprocessing comes from the weights' card, so serving cannot differ from training.

    Args:
        model: a network; or a path that ``load_weights`` takes; or a short name like ``osnet_x0_25_msmt17``; or a
            ``Checkpoint``; or a network of others as an .onnx or .xml file with a card (see ``third_party``).
        device: ``auto`` (a network stays where it is; weights go to CUDA, else MPS, else the CPU), or any
            device that torch knows.
        batch_size: crops per forward pass; the last batch may be smaller. It does not change the vectors
            beyond rounding.
        normalize: divide each vector by its length.
        num_workers: threads that read and resize; by default one per core, at most 8.
        preprocessing: instead of the card's; needed for nothing but experiments.
        flip: average each vector with that of the mirrored crop, as many papers' tests do. The resized pixels are
            mirrored left to right; both vectors go into the mean as the network gives them, and the mean is brought
            to length 1 if ``normalize``. Twice the work.
        backend: what runs the network: ``torch``, ``native`` (machine code made here), ``onnxruntime`` or ``openvino``.
            ``auto`` means, for weights on a CPU, the fastest that is installed (see ``list_backends``). With ``auto``
            a network that is given as an object, or that is on a GPU, runs as it is, so you may go on training it; a
            backend that you name takes a copy of its present state. Vectors differ by less than 1e-4 between
            backends, and ``sha256`` not at all.

    Raises:
        WeightsError: no such weights, or damaged ones.
        ModelError: an unknown device or backend, numbers below 1, or a network that a named backend cannot run.
        MissingExtraError: a named backend that is not installed.
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
    ) -> None:
        if batch_size < 1:
            raise ModelError(f"batch_size {batch_size} must be at least 1")
        if num_workers is not None and num_workers < 1:
            raise ModelError(f"num_workers {num_workers} must be at least 1")
        settle()
        self._process = os.getpid()
        if isinstance(model, Checkpoint):
            network = model.build()
        else:
            network = model if isinstance(model, Network) else _load(model)
        as_it_is = isinstance(model, Network)
        if isinstance(network, ThirdPartyNetwork):
            device, as_it_is = _check_third_party(network, device, backend), False
        self.device = pick_device(device, network if as_it_is else None)
        self.network = network.to(self.device)
        self.batch_size = batch_size
        self.normalize = normalize
        self.flip = flip
        self.num_workers = num_workers or min(8, count_cores())
        card = network.card
        self.preprocessing = preprocessing or (card.preprocessing if card else Preprocessing())
        live = backend == "auto" and (isinstance(model, Network) or self.device.type != "cpu")
        self._backend: Backend | None = None
        if not live and not isinstance(network, ThirdPartyNetwork):
            self._backend = make_backend(backend, self.network, self.preprocessing, self.device)

    @property
    def embedding_size(self) -> int:
        """D."""
        return self.network.config.embedding_size

    @property
    def backend(self) -> str:
        """What runs the network: ``torch``, ``native``, ``onnxruntime`` or ``openvino``."""
        if isinstance(self.network, ThirdPartyNetwork):
            return self.network.runtime
        return self._backend.name if self._backend else "torch"

    def sha256(self) -> str:
        """Of all that decides a vector: network, tensors, preprocessing, flip. Galleries are tied to it."""
        if isinstance(self.network, ThirdPartyNetwork):
            digest = self.network.sha256(self.preprocessing)
        else:
            digest = network_sha256(self.network, self.preprocessing)
        return hashlib.sha256(f"{digest} flip".encode()).hexdigest() if self.flip else digest

    def embed(self, inputs: Any, *, channels: ChannelOrder = "rgb", on_error: OnError = "raise") -> NDArray[np.float32]:
        """All vectors at once, in the order of the input: float32 (N, D); (0, D) for no input.

        Args:
            inputs: a path, a folder (its images in sorted order), a Pillow image, a uint8 array (height,
                width, 3) or (N, height, width, 3), a tensor (3, height, width) or (N, 3, height, width), either
                uint8 or fractions in [0, 1], a ``Frame`` with boxes, or any iterable of these.
            channels: the order in arrays and tensors: ``rgb``, or ``bgr`` as OpenCV gives it. Files and
                Pillow images know their own.
            on_error: ``raise`` stops at the first image that cannot be used; ``skip`` warns, fills its row with NaN,
                and continues, so that rows and inputs stay aligned (``embed_named`` leaves the rows out and says why).

        What is transparent in an image is laid on white.

        Raises:
            EmbeddingError: naming the image and the reason; ``done`` holds what was embedded before it.
            DataError: a folder that does not exist.

        Warns:
            ImageWarning: a JPEG that is damaged inside but decodes; files of a folder that are not images.
        """
        result = self.embed_named(inputs, channels=channels, on_error=on_error)
        if not result.failures:
            return result.vectors
        listed = "; ".join(str(failure) for failure in result.failures[:5])
        warnings.warn(
            ImageWarning(f"{len(result.failures)} input(s) have no vector, their rows are NaN: {listed}"), stacklevel=2
        )
        aligned = np.full((result.num_crops, self.embedding_size), np.nan, dtype=np.float32)
        aligned[result.positions or []] = result.vectors
        return aligned

    def embed_named(self, inputs: Any, *, channels: ChannelOrder = "rgb", on_error: OnError = "raise") -> Embeddings:
        """As ``embed``, with the name of each row, and the failures, which have none: see ``Embeddings.positions``."""
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

        At most two batches of crops are read ahead, and an iterator is asked for no more than these. With
        ``raise``, what came before a bad image is yielded first, then ``ImageError`` is raised; with
        ``skip``, a batch lists the images that failed within it.
        """
        if on_error not in ("raise", "skip"):
            raise ModelError(f"unknown on_error {on_error!r}; choose from raise, skip")
        if channels not in ("rgb", "bgr"):
            raise ModelError(f"unknown channels {channels!r}; choose from rgb, bgr")
        self._settle()
        return self._stream(inputs, channels, on_error)

    def _settle(self) -> None:
        """Before any work: get ready in a process that was forked off after the embedder was made, or say what to do.

        Raises:
            ModelError: what runs the network cannot run there.
        """
        settle()
        if self.device.type != "cpu" and os.getpid() != self._process:
            raise ModelError(
                f"this embedder uses {self.device}, which a forked process cannot; make the embedder in the process "
                "that uses it, and start that one by 'spawn'"
            )
        if self._backend is not None:
            self._backend.settle()

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
        """The batch, then the error if the run is to stop at one."""
        if on_error == "skip" and (batch.names or batch.failures):
            yield batch
        elif batch.names:
            yield replace(batch, failures=[])
        if on_error == "raise" and batch.failures:
            raise batch.failures[0]

    def _prepared(self, jobs: Iterator[Job]) -> Iterator[PreparedCrop | Exception]:
        """Crops in order, prepared by threads that are never more than two batches ahead.

        If the caller's iterator raises, what it gave before comes out first and its error last.
        """
        ahead: deque[tuple[Future[Prepared], int]] = deque()
        group: list[Job] = []  # a thread takes several small jobs at once: handing one over costs as much as reading it
        crops_ahead = in_group = 0
        together = max(1, min(TOGETHER, self.batch_size // self.num_workers))
        stopped: Exception | None = None
        with ThreadPoolExecutor(self.num_workers, thread_name_prefix="osnet-read") as pool:
            try:
                while True:
                    try:
                        job = next(jobs, None)
                    except Exception as error:
                        stopped, job = error, None
                    if job is not None:
                        group.append(job)
                        in_group += job.weight
                        crops_ahead += job.weight
                    full = in_group >= together or crops_ahead >= 2 * self.batch_size
                    if group and (full or job is None):
                        ahead.append((pool.submit(run_jobs, group, self.preprocessing), in_group))
                        group, in_group = [], 0
                    while ahead and (job is None or crops_ahead >= 2 * self.batch_size):
                        future, weight = ahead.popleft()
                        crops_ahead -= weight
                        crops, failure = future.result()
                        yield from crops
                        if failure is not None:
                            raise failure
                    if job is None:
                        break
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        if stopped is not None:
            yield stopped

    def _forward(self, crops: list[PreparedCrop], failures: list[ImageError], positions: list[int]) -> Embeddings:
        """One pass of the network. Rows that are no direction become failures."""
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
        lost = "the network gives it no direction (a zero or infinite vector); check the weights"
        failed = [ImageError(name, lost) for name, kept in zip(names, keep, strict=True) if not kept]
        kept_names = [name for name, kept in zip(names, keep, strict=True) if kept]
        kept = None if probabilities is None else probabilities[keep]
        places = [place for place, kept in zip(positions, keep, strict=True) if kept]
        return Embeddings(vectors.cpu().numpy()[keep], kept_names, failures + failed, kept, places)

    def _read_probabilities(self, _vectors: Tensor) -> NDArray[np.float32] | None:
        """(B, D), as the network gives them -> (B, A); none here."""
        return None

    def _run(self, pixels: list[Tensor]) -> Tensor:
        """B x (3, H, W) -> (B, D), not normalised."""
        whole = all(p.dtype == torch.uint8 for p in pixels)
        images = torch.stack(pixels if whole else [to_fractions(p) for p in pixels])
        run = self._run_live if self._backend is None else self._backend.run
        if self._backend is not None and not whole:
            images = 255 * images
        return (run(images) + run(images.flip(3))) / 2 if self.flip else run(images)

    def _run_live(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 or fractions -> (B, D): the network as it now is."""
        images = normalize(to_fractions(images.to(self.device)), self.preprocessing)
        if self.device.type == "cpu":  # 1.2 to 1.4 times as fast here; not measured elsewhere
            images = images.contiguous(memory_format=torch.channels_last)
        return in_eval_mode(self.network)(images).float()


def _load(model: str | Path) -> Network:
    return load_third_party(model) if is_third_party(model) else load_model(model)


def _check_third_party(network: ThirdPartyNetwork, device: str | torch.device, backend: BackendName) -> torch.device:
    """The CPU, where such a network runs.

    Raises:
        ModelError: another device, or another backend than the file's own runtime.
    """
    if backend not in ("auto", network.runtime):
        raise ModelError(f"backend {backend!r} cannot run {network.file.path}; choose auto or {network.runtime}")
    picked = pick_device("cpu" if str(device) == "auto" else device, None)
    if picked.type != "cpu":
        raise ModelError(f"{network.file.path} runs on the CPU here, not on {device}; choose device='cpu'")
    return picked


def join_embeddings(batches: Sequence[Embeddings], failures: list[ImageError]) -> Embeddings:
    """Batches as one; at least one is needed."""
    parts = [batch.probabilities for batch in batches if batch.probabilities is not None]
    names = [name for batch in batches for name in batch.names]
    vectors = np.concatenate([batch.vectors for batch in batches])
    places = [place for batch in batches for place in batch.positions or ()]
    known = all(batch.positions is not None for batch in batches)
    num_crops = max(batch.num_crops for batch in batches)
    return Embeddings(
        vectors, names, failures, np.concatenate(parts) if parts else None, places if known else None, num_crops
    )


def pick_device(device: str | torch.device, network: nn.Module | None) -> torch.device:
    """The device that ``auto`` means, for a network that stays where it is or, with None, for weights from a file.

    Raises:
        ModelError: a device that cannot be used here.
    """
    if str(device) != "auto":
        try:
            picked = torch.device(device)
            torch.empty(0, device=picked)
        except (RuntimeError, AssertionError) as error:
            raise ModelError(f"device {str(device)!r} cannot be used here: {str(error).splitlines()[0]}") from error
        return picked
    if network is not None:
        return next(network.parameters()).device
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
