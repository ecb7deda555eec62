"""Running an OSNet by native machine code: plain networks with Lite streams and unified gates.

``lay_out`` turns a folded network into a list of steps for the kernels of ``conv_kernels.py`` and ``map_kernels.py``.
In a batch, each thread runs its own images in its own working memory. Two threads share a single image: the rows of
each step, and the streams of each block.

Shapes: B batch, C channels, H height, W width, D embedding.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from osnet.errors import ModelError
from osnet.models.layers import ChannelGate, ConvNormAct, EmbeddingLayer
from osnet.models.osnet import OSBlock, OSNet, Transition, UnifiedGate
from osnet.runtime.folding import Affine, Centre, InferenceGraph, has_lite_streams
from osnet.runtime.native.conv_kernels import Kernels, kernels
from osnet.runtime.native.llvm import STEP_WORDS, can_compile
from osnet.runtime.onnx_graph import UnknownStepError

ALL_THREADS = -1
HEADER = 64
"""Bytes at the beginning of an arena, for the addresses of the image and of its embedding."""
RELEASE_ALL = 2**62
"""A value of the barrier's counter at which every waiting thread continues."""
SHARED_BY = 2
"""Threads that share one image. The streams of a block have 10 layers, which two threads can share evenly."""
ROW = 32
"""Pixels that a 1x1 convolution treats as one row, if the map divides evenly: their channels fit the first cache."""


@dataclass(frozen=True)
class Map:
    """A feature map in the arena: (height, width, channels) float32 at ``offset``, in bytes."""

    offset: int
    num_bytes: int
    """Size of its memory, which may be larger than the map."""
    height: int
    width: int
    channels: int


@dataclass
class Plan:
    """The steps of a network, the tensors that they read, and the memory that one image needs."""

    kernels: Kernels
    size_hw: tuple[int, int]
    uint8: bool
    """Type of the images. The kernels do not check size or type; ``NativeRunner`` does."""
    embedding_size: int = 0
    arena_bytes: int = HEADER
    steps: list[list[int]] = field(default_factory=list)
    tensors: list[NDArray[np.float32]] = field(default_factory=list)
    """The network's weights. The steps hold addresses in them."""
    free: list[tuple[int, int]] = field(default_factory=list)
    """(bytes, offset) of released maps."""
    rings: dict[tuple[int, int], int] = field(default_factory=dict)
    """Offsets of the rings by (width, channels). Rings of one size share their zero borders."""

    def step(self, kernel: str, arguments: Sequence[int], owner: int = ALL_THREADS, wait: bool = True) -> None:
        """Add a step. ``owner`` is the thread that runs it, if threads share an image; ``wait``: all wait after it."""
        words = [self.kernels.names.index(kernel), owner, int(wait), *arguments]
        self.steps.append(words + [0] * (STEP_WORDS - len(words)))

    def reserve(self, num_bytes: int) -> int:
        """Reserve memory that starts as zeros; returns its offset."""
        offset = self.arena_bytes
        self.arena_bytes += -(-num_bytes // 64) * 64 + 64  # the gap keeps maps from competing for the same cache lines
        return offset

    def map(self, height: int, width: int, channels: int) -> Map:
        """A map, in the memory of a released one if one fits. Less memory means more of it stays in the caches."""
        num_bytes = 4 * height * width * channels
        place = min((place for place in self.free if num_bytes <= place[0] <= 2 * num_bytes), default=None)
        if place is None:
            return Map(self.reserve(num_bytes), num_bytes, height, width, channels)
        self.free.remove(place)
        return Map(place[1], place[0], height, width, channels)

    def release(self, *maps: Map) -> None:
        """Allow later maps to use this memory. No later step may read or write these maps."""
        self.free += [(one.num_bytes, one.offset) for one in maps]

    def constant(self, tensor: Tensor) -> int:
        """The address of an aligned copy, which the plan keeps."""
        array = np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype=np.float32)
        aligned = np.empty(array.size + 16, np.float32)
        start = -(aligned.ctypes.data // 4) % 16
        aligned[start : start + array.size] = array.ravel()
        self.tensors.append(aligned)
        return int(aligned.ctypes.data + 4 * start)

    def blocks(self, channels: int) -> list[int]:
        """Number of vectors of output channels in each block: threes, then twos, then ones."""
        vectors = channels // self.kernels.lanes
        threes = vectors // 3
        if vectors % 3 == 1 and threes:
            threes -= 1  # 3 + 3 + 2 + 2 rather than 3 + 3 + 3 + 1
        rest = vectors - 3 * threes
        return [3] * threes + [2] * (rest // 2) + [1] * (rest % 2)

    def packed(self, channels: int) -> int:
        """``blocks`` in the form that the kernels read."""
        blocks = self.blocks(channels)
        return blocks.count(3) | blocks.count(2) << 16 | blocks.count(1) << 32

    def weights(self, matrix: Tensor) -> int:
        """Copy a matrix (C_out, K) as blocks of (K, channels of the block); returns the address."""
        lanes, parts, start = self.kernels.lanes, [], 0
        for vectors in self.blocks(len(matrix)):
            parts.append(matrix[start : start + vectors * lanes].T.flatten())
            start += vectors * lanes
        return self.constant(torch.cat(parts))

    def convolve(self, source: Map, conv: nn.Conv2d, relu: bool, out: Map | None = None, add: bool = False) -> Map:
        """Add a 1x1 convolution. ``out`` is its target, if given; ``add``: add to the values in it."""
        if conv.kernel_size != (1, 1) or conv.stride != (1, 1) or conv.groups != 1:
            raise UnknownStepError(f"{conv} is not a plain 1x1 convolution")
        target = out or self.map(source.height, source.width, conv.out_channels)
        pixels = source.height * source.width
        width = ROW if pixels % ROW == 0 else source.width
        a_px, out_px = 4 * source.channels, 4 * conv.out_channels
        bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias
        self.step(
            "convolve",
            [
                source.offset,
                width * a_px,
                a_px,
                1,
                0,
                conv.in_channels,
                self.weights(conv.weight.flatten(1)),
                self.constant(bias),
                target.offset,
                width * out_px,
                out_px,
                pixels // width,
                width,
                target.offset if add else -1,
                int(relu),
                self.packed(conv.out_channels),
            ],
        )
        return target

    def add_stem(self, graph: InferenceGraph, size_hw: tuple[int, int], uint8: bool) -> Map:
        """Add the stem: pixels minus the mean, the 7x7 convolution, the max pool."""
        body: Any = graph.body
        conv, (height, width) = body.stem.conv, size_hw
        if conv.kernel_size != (7, 7) or conv.stride != (2, 2) or not isinstance(graph.first, Centre):
            raise UnknownStepError(f"{conv} is not the stem of a plain OSNet")
        pitch = 12 * (width + 6)
        padded = self.reserve(pitch * (height + 6))
        mean = self.constant(graph.first.mean.flatten())
        self.step("widen_uint8" if uint8 else "widen_float", [padded + 3 * pitch + 36, height, width, pitch, mean])
        channels = conv.out_channels
        wide_pitch = 4 * channels * (width // 2 + 1)
        wide = self.reserve(wide_pitch * (height // 2 + 1))
        matrix = conv.weight.permute(0, 2, 3, 1).flatten(1)  # a row of the kernel is 7 pixels of 3 colours
        self.step(
            "convolve",
            [
                padded,
                2 * pitch,
                24,
                7,
                pitch,
                21,
                self.weights(matrix),
                self.constant(conv.bias),
                wide + wide_pitch + 4 * channels,
                wide_pitch,
                4 * channels,
                height // 2,
                width // 2,
                -1,
                1,
                self.packed(channels),
            ],
        )
        pooled = self.map(height // 4, width // 4, channels)
        self.step("max_pool", [wide, pooled.offset, pooled.height, pooled.width, wide_pitch, 4 * channels])
        return pooled

    def add_block(self, block: OSBlock, source: Map) -> Map:
        """Add an omni-scale block. Threads share its streams, and the rows of all other steps."""
        gate = block.aggregate.gate if isinstance(block.aggregate, UnifiedGate) else None
        if (
            not has_lite_streams(block)
            or not isinstance(gate, ChannelGate)
            or gate.expand.out_channels != block.reduce.conv.out_channels  # one weight for a whole stream
            or not isinstance(block.instance_norm, nn.Identity)
        ):
            raise UnknownStepError("a block with other streams, gates or norms than the plain ones")
        if isinstance(block.shortcut, ConvNormAct):
            out = self.convolve(source, _conv(block.shortcut), relu=False)
        else:
            out = source
        reduced = self.convolve(source, _conv(block.reduce), relu=True)
        px = 4 * reduced.channels
        gates = self.reserve(px * len(block.streams))
        depths = [len(stream) for stream in block.streams]  # type: ignore[arg-type]
        loads = [0] * SHARED_BY
        spare = [self.map(reduced.height, reduced.width, reduced.channels) for _ in loads]
        ended = [self.map(reduced.height, reduced.width, reduced.channels) for _ in depths]
        for t in sorted(range(len(depths)), key=lambda t: -depths[t]):
            owner = loads.index(min(loads))
            loads[owner] += depths[t]
            self.add_stream(block.streams[t], reduced, (ended[t], spare[owner]), owner)
            self.add_gate(gate, ended[t], gates + t * px, owner)
        self.steps[-1][2] = 1  # all threads wait for the gates
        fused = ended[0]  # in place: each pixel is read before it is written
        self.step(
            f"weigh_{len(ended)}",
            [gates, fused.offset, fused.height, fused.width, px, *(stream.offset for stream in ended)],
        )
        self.convolve(fused, _conv(block.expand), relu=True, out=out, add=True)
        self.release(reduced, *spare, *ended, *([] if out is source else [source]))
        return out

    def add_stream(self, stream: Any, reduced: Map, targets: tuple[Map, Map], owner: int) -> None:
        """Add a stream of Lite layers, run by one thread. They write the targets in turn; the last writes the first."""
        source, px = reduced, 4 * reduced.channels
        ring_bytes = 4 * (reduced.width + 2) * px
        size = reduced.width, reduced.channels
        if size not in self.rings:
            self.rings[size] = self.reserve(ring_bytes * SHARED_BY)
        zeros = self.constant(torch.zeros(reduced.channels))
        for level, layer in enumerate(stream):
            target = targets[(len(stream) - 1 - level) % 2]
            self.step(
                "lite",
                [
                    source.offset,
                    target.offset,
                    source.height,
                    source.width,
                    px,
                    self.weights(layer.pointwise.weight.flatten(1)),
                    zeros,
                    self.constant(layer.depthwise.weight.flatten(1).T),
                    self.constant(layer.depthwise.bias),
                    self.rings[size],
                    ring_bytes,
                    self.packed(reduced.channels),
                ],
                owner,
                wait=False,
            )
            source = target

    def add_gate(self, gate: ChannelGate, stream: Map, out: int, owner: int) -> None:
        """Add the gate of one stream, written at offset ``out``."""
        px = 4 * stream.channels
        pooled = self.reserve(px)
        self.step("mean", [stream.offset, pooled, stream.height * stream.width, px], owner, wait=False)
        self.step(
            "gate",
            [
                pooled,
                out,
                px,
                self.constant(gate.reduce.weight.flatten(1)),
                self.constant(_bias(gate.reduce)),
                gate.reduce.out_channels,
                self.constant(gate.expand.weight.flatten(1).T),
                self.constant(_bias(gate.expand)),
            ],
            owner,
            wait=False,
        )

    def add_end(self, layer: EmbeddingLayer, neck: nn.Module, source: Map) -> None:
        """Add the mean over the last map, the dense layer, and a neck as another dense layer with a diagonal matrix."""
        pooled = self.map(1, 1, source.channels)
        self.step("mean", [source.offset, pooled.offset, source.height * source.width, 4 * source.channels], 0)
        linear = layer.linear
        out = self.map(1, 1, linear.out_features)
        self.step(
            "convolve",
            [
                pooled.offset,
                0,
                0,
                1,
                0,
                source.channels,
                self.weights(linear.weight),
                self.constant(linear.bias),
                out.offset,
                0,
                0,
                1,
                1,
                -1,
                1,
                self.packed(linear.out_features),
            ],
        )
        if isinstance(neck, Affine):
            before, out = out, self.map(1, 1, linear.out_features)
            self.step(
                "convolve",
                [
                    before.offset,
                    0,
                    0,
                    1,
                    0,
                    linear.out_features,
                    self.weights(neck.scale.diag()),
                    self.constant(neck.shift),
                    out.offset,
                    0,
                    0,
                    1,
                    1,
                    -1,
                    0,
                    self.packed(linear.out_features),
                ],
            )
        elif not isinstance(neck, nn.Identity):
            raise UnknownStepError(f"{type(neck).__name__} on top of the embedding is not supported")
        self.step("copy", [out.offset, 4 * linear.out_features], 0, wait=True)
        self.embedding_size = linear.out_features


def _conv(layer: nn.Module) -> nn.Conv2d:
    """The convolution of a folded layer. Raises UnknownStepError if its norm was not merged."""
    if not isinstance(layer, ConvNormAct) or not isinstance(layer.norm, nn.Identity):
        raise UnknownStepError(f"{type(layer).__name__} has a norm that is not merged")
    return layer.conv


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


def lay_out(graph: InferenceGraph, size_hw: tuple[int, int], uint8: bool) -> Plan:
    """The steps of a folded network.

    Args:
        graph: from ``fold``, with a preprocessing.
        size_hw: size of the images, multiples of 32.
        uint8: images are uint8; otherwise float32 in 0..255.

    Raises:
        UnknownStepError: not a plain OSNet; channels that are not multiples of 4; a size that is no
            multiple of 32; or a processor or system without support.
    """
    body: Any = graph.body
    if not can_compile():
        raise UnknownStepError("native code needs Linux or macOS, on x86 with AVX2 and FMA")
    if (
        not isinstance(body, OSNet)
        or body.config.norm != "bn"
        or body.config.groups > 1
        or body.config.pooling != "avg"
    ):
        raise UnknownStepError("native code is for plain OSNets: no instance norms, groups or max pooling")
    mids = [block.reduce.conv.out_channels for block in body.modules() if isinstance(block, OSBlock)]
    channels = [*body.config.channels, *mids, body.config.embedding_size]
    lanes = next((n for n in (8, 4) if not any(c % n for c in channels)), 0)
    if not lanes or size_hw[0] % 32 or size_hw[1] % 32:
        raise UnknownStepError(f"channels {channels} must be multiples of 4, and size {size_hw} of 32")
    plan = Plan(kernels(lanes), size_hw, uint8)
    current = plan.add_stem(graph, size_hw, uint8)
    for stage in (body.conv2, body.transition2, body.conv3, body.transition3, body.conv4):
        if isinstance(stage, Transition):
            mixed = plan.convolve(current, _conv(stage.mix), relu=True)
            plan.release(current)
            current = plan.map(mixed.height // 2, mixed.width // 2, mixed.channels)
            plan.step("average_pool", [mixed.offset, current.offset, current.height, current.width, 4 * mixed.channels])
            plan.release(mixed)
        else:
            for block in stage.children():
                assert isinstance(block, OSBlock)
                current = plan.add_block(block, current)
    plan.add_end(body.embedding, body.neck, plan.convolve(current, _conv(body.conv5), relu=True))
    return plan


class NativeRunner:
    """Runs a plan: (B, 3, H, W) pixels, uint8 or float32, -> (B, D). Several threads may call it at once."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.steps = np.array(plan.steps, np.int64)
        self._arenas: SimpleQueue[NDArray[np.float32]] = SimpleQueue()  # those not in use

    def __call__(self, images: NDArray[Any], pool: ThreadPoolExecutor | None = None) -> NDArray[np.float32]:
        """Run the images one after the other; with ``pool``, two threads share each of them.

        Raises:
            ModelError: the size or type of the images is not the plan's.
        """
        images = self._check(images)
        out = np.empty((len(images), self.plan.embedding_size), np.float32)
        if not len(images):
            return out
        try:
            arena = self._arenas.get_nowait()
        except Empty:
            arena = np.zeros(self.plan.arena_bytes // 4 + 16, np.float32)
        counter = np.zeros(8, np.int64)
        threads = 1 if pool is None else SHARED_BY

        def work(thread: int) -> None:
            begin = arena.ctypes.data + -arena.ctypes.data % 64
            self.plan.kernels.run(
                self.steps.ctypes.data,
                len(self.steps),
                begin,
                images.ctypes.data,
                images[0].nbytes,
                out.ctypes.data,
                out[0].nbytes,
                len(images),
                thread,
                threads,
                counter.ctypes.data,
            )

        if pool is None:
            work(0)
        else:
            try:
                second = pool.submit(work, 1)
                work(0)
            except BaseException:  # an interrupt before this thread's half began: release the other thread
                counter[0] = RELEASE_ALL
                raise
            second.result()
        self._arenas.put(arena)
        return out

    def _check(self, images: NDArray[Any]) -> NDArray[Any]:
        """Check size and type, because the machine code checks no bounds."""
        kind, shape = np.dtype(np.uint8 if self.plan.uint8 else np.float32), (3, *self.plan.size_hw)
        if images.dtype != kind or images.shape[1:] != shape:
            raise ModelError(f"images of {images.dtype} {images.shape}; this code was made for {kind} (B, *{shape})")
        return np.ascontiguousarray(images)
