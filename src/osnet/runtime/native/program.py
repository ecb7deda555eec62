"""An OSNet as machine code for the processor at hand: plain networks with Lite streams and unified gates.

``lay_out`` turns a folded network into a list of steps for the kernels of ``kernels.py``. Of a batch, each thread
takes images for itself, with working memory of its own; of a single image, two threads share each step, and the
streams of each block.

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
from osnet.runtime.folding import Affine, Centre, InferenceGraph, can_stack
from osnet.runtime.native.conv_kernels import Kernels, kernels
from osnet.runtime.native.llvm import STEP_WORDS, can_compile
from osnet.runtime.onnx_graph import UnknownStepError

ALL_THREADS = -1
HEADER = 64
"""Bytes at an arena's beginning: where the picture is, and where its embedding goes."""
NOBODY_WAITS = 2**62
"""A counter beyond every meeting of threads."""
SHARED_BY = 2
"""Threads that work on one image; a block's streams are 10 layers, which two share evenly."""
ROW = 32
"""Pixels of a map that a 1x1 convolution takes as one row, if they fit: their channels stay in the first cache."""


@dataclass(frozen=True)
class Map:
    """A map in the arena: (height, width, channels) float32 at ``offset``."""

    offset: int
    num_bytes: int
    """Of its memory, which may be more than the map needs."""
    height: int
    width: int
    channels: int


@dataclass
class Plan:
    """Steps, what they read, and how much memory one image needs."""

    kernels: Kernels
    size_hw: tuple[int, int]
    uint8: bool
    """The pictures' size and type; the kernels believe in both, so ``NativeRunner`` looks."""
    embedding_size: int = 0
    arena_bytes: int = HEADER
    steps: list[list[int]] = field(default_factory=list)
    tensors: list[NDArray[np.float32]] = field(default_factory=list)
    """The network's numbers, which the steps point into."""
    free: list[tuple[int, int]] = field(default_factory=list)
    """(bytes, offset) of maps that nothing reads any more."""
    rings: dict[tuple[int, int], int] = field(default_factory=dict)
    """Offsets of the rings by width and channels: only for these are their borders the same, and stay zero."""

    def step(self, kernel: str, arguments: Sequence[int], owner: int = ALL_THREADS, wait: bool = True) -> None:
        """Add one; ``owner`` is the thread that runs it, of those that share an image."""
        words = [self.kernels.names.index(kernel), owner, int(wait), *arguments]
        self.steps.append(words + [0] * (STEP_WORDS - len(words)))

    def reserve(self, num_bytes: int) -> int:
        """An offset of so many bytes of their own, which begin as zeros."""
        offset = self.arena_bytes
        self.arena_bytes += -(-num_bytes // 64) * 64 + 64  # a gap: equal offsets in the pages would share cache lines
        return offset

    def map(self, height: int, width: int, channels: int) -> Map:
        """Memory for a map, that of a released one where it fits: the less there is, the more stays in the caches."""
        num_bytes = 4 * height * width * channels
        place = min((place for place in self.free if num_bytes <= place[0] <= 2 * num_bytes), default=None)
        if place is None:
            return Map(self.reserve(num_bytes), num_bytes, height, width, channels)
        self.free.remove(place)
        return Map(place[1], place[0], height, width, channels)

    def release(self, *maps: Map) -> None:
        """These are not read after the steps so far, nor written."""
        self.free += [(one.num_bytes, one.offset) for one in maps]

    def constant(self, tensor: Tensor) -> int:
        """The address of a copy, which this plan keeps."""
        array = np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype=np.float32)
        aligned = np.empty(array.size + 16, np.float32)
        start = -(aligned.ctypes.data // 4) % 16
        aligned[start : start + array.size] = array.ravel()
        self.tensors.append(aligned)
        return int(aligned.ctypes.data + 4 * start)

    def blocks(self, channels: int) -> list[int]:
        """Vectors of output channels that are computed together: threes, then twos, then ones."""
        vectors = channels // self.kernels.lanes
        threes = vectors // 3
        if vectors % 3 == 1 and threes:
            threes -= 1  # 3 + 3 + 2 + 2 rather than 3 + 3 + 3 + 1
        rest = vectors - 3 * threes
        return [3] * threes + [2] * (rest // 2) + [1] * (rest % 2)

    def packed(self, channels: int) -> int:
        """``blocks`` as the kernels read it."""
        blocks = self.blocks(channels)
        return blocks.count(3) | blocks.count(2) << 16 | blocks.count(1) << 32

    def weights(self, matrix: Tensor) -> int:
        """(C_out, K) -> the address of its blocks, each (K, channels of the block)."""
        lanes, parts, start = self.kernels.lanes, [], 0
        for vectors in self.blocks(len(matrix)):
            parts.append(matrix[start : start + vectors * lanes].T.flatten())
            start += vectors * lanes
        return self.constant(torch.cat(parts))

    def convolve(self, source: Map, conv: nn.Conv2d, relu: bool, out: Map | None = None, add: bool = False) -> Map:
        """A 1x1 convolution, into ``out`` if given; with ``add`` on top of what is there."""
        if conv.kernel_size != (1, 1) or conv.stride != (1, 1) or conv.groups != 1:
            raise UnknownStepError(f"{conv} is no plain 1x1 convolution")
        target = out or self.map(source.height, source.width, conv.out_channels)
        pixels = source.height * source.width
        width = ROW if pixels % ROW == 0 else source.width
        a_px, out_px = 4 * source.channels, 4 * conv.out_channels
        bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias
        self.step("convolve", [
            source.offset, width * a_px, a_px, 1, 0, conv.in_channels, self.weights(conv.weight.flatten(1)),
            self.constant(bias), target.offset, width * out_px, out_px, pixels // width, width,
            target.offset if add else -1, int(relu), self.packed(conv.out_channels),
        ])  # fmt: skip
        return target

    def add_stem(self, graph: InferenceGraph, size_hw: tuple[int, int], uint8: bool) -> Map:
        """Pixels minus the mean, the 7x7 convolution, the max pool."""
        body: Any = graph.body
        conv, (height, width) = body.stem.conv, size_hw
        if conv.kernel_size != (7, 7) or conv.stride != (2, 2) or not isinstance(graph.first, Centre):
            raise UnknownStepError(f"{conv} is not the stem that is known here")
        pitch = 12 * (width + 6)
        padded = self.reserve(pitch * (height + 6))
        mean = self.constant(graph.first.mean.flatten())
        self.step("widen_uint8" if uint8 else "widen_float", [padded + 3 * pitch + 36, height, width, pitch, mean])
        channels = conv.out_channels
        wide_pitch = 4 * channels * (width // 2 + 1)
        wide = self.reserve(wide_pitch * (height // 2 + 1))
        matrix = conv.weight.permute(0, 2, 3, 1).flatten(1)  # a row of the kernel is 7 pixels of 3 colours
        self.step("convolve", [
            padded, 2 * pitch, 24, 7, pitch, 21, self.weights(matrix), self.constant(conv.bias),
            wide + wide_pitch + 4 * channels, wide_pitch, 4 * channels, height // 2, width // 2, -1, 1,
            self.packed(channels),
        ])  # fmt: skip
        pooled = self.map(height // 4, width // 4, channels)
        self.step("max_pool", [wide, pooled.offset, pooled.height, pooled.width, wide_pitch, 4 * channels])
        return pooled

    def add_block(self, block: OSBlock, source: Map) -> Map:
        """An omni-scale block: streams are shared out among the threads, the rest by rows."""
        gate = block.aggregate.gate if isinstance(block.aggregate, UnifiedGate) else None
        if (
            not can_stack(block)
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
        self.steps[-1][2] = 1  # all wait for the gates
        fused = ended[0]  # each pixel is read before it is written
        self.step(f"weigh_{len(ended)}", [
            gates, fused.offset, fused.height, fused.width, px, *(stream.offset for stream in ended)
        ])  # fmt: skip
        self.convolve(fused, _conv(block.expand), relu=True, out=out, add=True)
        self.release(reduced, *spare, *ended, *([] if out is source else [source]))
        return out

    def add_stream(self, stream: Any, reduced: Map, targets: tuple[Map, Map], owner: int) -> None:
        """Lite layers, all by one thread, that write both targets by turns; the last one writes the first target."""
        source, px = reduced, 4 * reduced.channels
        ring_bytes = 4 * (reduced.width + 2) * px
        size = reduced.width, reduced.channels
        if size not in self.rings:
            self.rings[size] = self.reserve(ring_bytes * SHARED_BY)
        zeros = self.constant(torch.zeros(reduced.channels))
        for level, layer in enumerate(stream):
            target = targets[(len(stream) - 1 - level) % 2]
            self.step("lite", [
                source.offset, target.offset, source.height, source.width, px,
                self.weights(layer.pointwise.weight.flatten(1)), zeros,
                self.constant(layer.depthwise.weight.flatten(1).T), self.constant(layer.depthwise.bias),
                self.rings[size], ring_bytes, self.packed(reduced.channels),
            ], owner, wait=False)  # fmt: skip
            source = target

    def add_gate(self, gate: ChannelGate, stream: Map, out: int, owner: int) -> None:
        """The gate of one stream, at ``out``."""
        px = 4 * stream.channels
        pooled = self.reserve(px)
        self.step("mean", [stream.offset, pooled, stream.height * stream.width, px], owner, wait=False)
        self.step("gate", [
            pooled, out, px, self.constant(gate.reduce.weight.flatten(1)), self.constant(_bias(gate.reduce)),
            gate.reduce.out_channels, self.constant(gate.expand.weight.flatten(1).T),
            self.constant(_bias(gate.expand)),
        ], owner, wait=False)  # fmt: skip

    def add_end(self, layer: EmbeddingLayer, neck: nn.Module, source: Map) -> None:
        """The mean over the last map, the dense layer, and a neck as one more dense layer, with a diagonal matrix."""
        pooled = self.map(1, 1, source.channels)
        self.step("mean", [source.offset, pooled.offset, source.height * source.width, 4 * source.channels], 0)
        linear = layer.linear
        out = self.map(1, 1, linear.out_features)
        self.step("convolve", [
            pooled.offset, 0, 0, 1, 0, source.channels, self.weights(linear.weight), self.constant(linear.bias),
            out.offset, 0, 0, 1, 1, -1, 1, self.packed(linear.out_features),
        ])  # fmt: skip
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
            raise UnknownStepError(f"{type(neck).__name__} on top of the embedding is not known here")
        self.step("copy", [out.offset, 4 * linear.out_features], 0, wait=True)
        self.embedding_size = linear.out_features


def _conv(layer: nn.Module) -> nn.Conv2d:
    """The convolution of a folded layer."""
    if not isinstance(layer, ConvNormAct) or not isinstance(layer.norm, nn.Identity):
        raise UnknownStepError(f"{type(layer).__name__} keeps a norm of its own")
    return layer.conv


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


def lay_out(graph: InferenceGraph, size_hw: tuple[int, int], uint8: bool) -> Plan:
    """The steps of a folded network.

    Raises:
        UnknownStepError: it is no plain OSNet, its channels or the picture cannot be cut evenly, or the processor
            is none that is known here.
    """
    body: Any = graph.body
    if not can_compile():
        raise UnknownStepError("native code is made on Linux and macOS, for x86 with AVX2 and FMA")
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
        raise UnknownStepError(
            f"channels {channels} or size {size_hw} cannot be cut evenly; multiples of 4 and of 32 can"
        )
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
    """Runs a plan: (B, 3, H, W) pixels, uint8 or float32, -> (B, D). Any number of threads may call it at once."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.steps = np.array(plan.steps, np.int64)
        self._arenas: SimpleQueue[NDArray[np.float32]] = SimpleQueue()  # free ones

    def __call__(self, images: NDArray[Any], pool: ThreadPoolExecutor | None = None) -> NDArray[np.float32]:
        """All images one after the other; with ``pool``, two threads share each.

        Raises:
            ModelError: pictures of another size or type than the plan's.
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
                self.steps.ctypes.data, len(self.steps), begin, images.ctypes.data, images[0].nbytes, out.ctypes.data,
                out[0].nbytes, len(images), thread, threads, counter.ctypes.data,
            )  # fmt: skip

        if pool is None:
            work(0)
        else:
            try:
                second = pool.submit(work, 1)
                work(0)
            except BaseException:  # Ctrl-C, say, before this thread's half began: the other must not wait for ever
                counter[0] = NOBODY_WAITS
                raise
            second.result()
        self._arenas.put(arena)
        return out

    def _check(self, images: NDArray[Any]) -> NDArray[Any]:
        """What the machine code may read: it has no bounds of its own."""
        kind, shape = np.dtype(np.uint8 if self.plan.uint8 else np.float32), (3, *self.plan.size_hw)
        if images.dtype != kind or images.shape[1:] != shape:
            raise ModelError(f"images of {images.dtype} {images.shape}; this code was made for {kind} (B, *{shape})")
        return np.ascontiguousarray(images)
