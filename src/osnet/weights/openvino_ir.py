"""Read OpenVINO files (.xml and .bin) of OSNets with Linear Context Transform, without OpenVINO.

The .xml file lists layers and edges. The .bin file has the constants. Layer names depend on the converter, so they are
not used. Instead, the graph is followed from its result back to its input. Each layer must be the one that our network
has at this position, and every floating-point constant must be used.

In the files, BatchNorms are folded into the preceding convolutions. Here, such a convolution gets a BatchNorm with mean
0, variance 1 and scale 1, whose shift is the bias of the folded convolution. Therefore the network computes the same as
the file in eval mode. Before training, ``norms.estimate_norms`` computes real statistics.
"""

import re
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, NoReturn, get_args
from xml.parsers import expat

import numpy as np
import torch
from torch import Tensor

from osnet.errors import WeightsError
from osnet.models.config import BASE_CHANNELS, Gate, OSNetConfig
from osnet.types import Preprocessing

MAX_XML_BYTES, MAX_BIN_BYTES = 64 * 2**20, 2 * 2**30
MAX_LAYERS, MAX_DEPTH = 20_000, 32
MAX_BLOCKS, MAX_STREAM = 64, 16
"""Limits of blocks per stage and layers per stream, so that reading a cyclic graph terminates."""
EPS = 1e-5
"""Epsilon of every normalisation, in these files and in our layers."""
_TYPES = {"f32": np.float32, "f16": np.float16, "i32": np.int32, "i64": np.int64}
_ONE_TO_ONE = {"strides": "1,1", "pads_begin": "0,0", "pads_end": "0,0"}
_THREE = {"strides": "1,1", "pads_begin": "1,1", "pads_end": "1,1"}
_STEM = {"strides": "2,2", "pads_begin": "3,3", "pads_end": "3,3"}
_MAX_POOL = {"kernel": "3,3", "strides": "2,2", "pads_begin": "1,1", "pads_end": "1,1", "rounding_type": "floor"}
_AVERAGE = {"kernel": "2,2", "strides": "2,2", "pads_begin": "0,0", "pads_end": "0,0", "rounding_type": "floor"}


@dataclass
class Layer:
    """A layer of the file."""

    number: int
    """Its id in the file."""
    kind: str
    """Its type, such as ``Convolution``."""
    name: str
    data: dict[str, str] = field(default_factory=dict)
    """Its settings, without spaces."""
    sources: dict[int, int] = field(default_factory=dict)
    """Maps each input port to the number of the layer whose output it receives."""


@dataclass(frozen=True)
class ReadIr:
    """The content of a file, as settings and tensors of this package."""

    config: OSNetConfig
    state: dict[str, Tensor]
    """Tensors by their names in this package, float32."""
    preprocessing: Preprocessing
    """The first layers of the file. They convert BGR in 0 to 255, the input according to the zoo, to normalised RGB."""


def read_openvino(path: Path) -> ReadIr:
    """Read the OSNet in ``path`` (.xml) and the .bin file beside it.

    Raises:
        WeightsError: a file is missing, damaged or too large, or contains another network. The message has the first
            layer that does not fit.
    """
    bin_path = path.with_suffix(".bin")
    for file, most in ((path, MAX_XML_BYTES), (bin_path, MAX_BIN_BYTES)):
        if not file.is_file():
            raise WeightsError(f"no such file: {file}; OpenVINO weights are two files, .xml and .bin")
        if file.stat().st_size > most:
            raise WeightsError(f"{file} has {file.stat().st_size:,} bytes; at most {most:,} are allowed")
    layers = _parse(path)
    try:
        return _Walk(layers, bin_path.read_bytes()).read()
    except (_MismatchError, ValueError, IndexError, RuntimeError) as error:  # RuntimeError: sizes that do not fit
        raise WeightsError(
            f"{path} is not an OSNet with Linear Context Transform: {error}. To run another network as it is, write a "
            "card for it: osnet card FILE --size 256x128 --order bgr --scale 1"
        ) from None


class _MismatchError(Exception):
    """A layer of the file is not the one that our network has at this position."""


def _parse(path: Path) -> dict[int, Layer]:
    """Read the layers and edges. Document types and entities are rejected, because OpenVINO does not write them."""
    layers: dict[int, Layer] = {}
    depth = 0
    current: list[Layer] = []

    def start(tag: str, given: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH or len(layers) > MAX_LAYERS:
            raise WeightsError(f"{path} has more than {MAX_LAYERS:,} layers, or is nested deeper than {MAX_DEPTH}")
        if tag == "layer":
            layer = Layer(int(given["id"]), given["type"], given["name"])
            if layer.number in layers:
                raise WeightsError(f"{path} has two layers numbered {layer.number}")
            layers[layer.number] = layer
            current[:] = [layer]
        elif tag == "data" and current:
            current[0].data = {key: value.replace(" ", "") for key, value in given.items()}
        elif tag == "edge":
            layers[int(given["to-layer"])].sources[int(given["to-port"])] = int(given["from-layer"])

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        if tag == "layer":
            current.clear()

    def refuse(*_given: Any) -> NoReturn:
        raise WeightsError(f"{path} declares a document type or an entity, which is not allowed in OpenVINO files")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    parser.UnparsedEntityDeclHandler = parser.ExternalEntityRefHandler = refuse
    try:
        parser.Parse(path.read_bytes(), True)
    except (expat.ExpatError, KeyError, ValueError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path} is not an OpenVINO network: {error!r}") from error
    if not layers:
        raise WeightsError(f"{path} is not an OpenVINO network: it has no layers")
    return layers


class _Walk:
    """Follows the graph from its result back to its input, and collects the tensors.

    Methods take the last layer of a part of the network. Most return the layer before this part.
    """

    def __init__(self, layers: dict[int, Layer], constants: bytes) -> None:
        self.layers, self.constants = layers, constants
        self.used: set[int] = set()
        self.state: dict[str, Tensor] = {}

    def read(self) -> ReadIr:
        """Read the whole graph."""
        results = [layer for layer in self.layers.values() if layer.kind == "Result"]
        if len(results) != 1:
            raise _MismatchError(f"it has {len(results)} results instead of one")
        x = self._embedding(self._source(results[0]))
        x, pooled_hw = self._depthwise_pool(x)
        x = self._folded("conv5", self._past(x, "ReLU"), _ONE_TO_ONE)
        stages: list[list[bool]] = []
        for stage in (4, 3, 2):
            gates, x = self._stage(stage, x)
            stages.insert(0, gates)
            if stage > 2:
                x = self._past(self._pool(x, "AvgPool", _AVERAGE), "ReLU")
                x = self._folded(f"transition{stage - 1}.mix", x, _ONE_TO_ONE)
        x = self._past(self._pool(x, "MaxPool", _MAX_POOL), "ReLU")
        x = self._instance_norm("stem.norm", x)
        stem = self._kind(x, "Convolution", _STEM)
        self.state["stem.conv.weight"], x = self._constant(stem, 1), self._source(stem)
        has_input_norm = self.layers[self._variable(x)].kind == "MVN" or x.kind == "Add"
        if has_input_norm:
            x = self._instance_norm("input_norm", x)
        preprocessing = self._preprocessing(x)
        unused = [layer.name for layer in self.layers.values() if self._is_unused(layer)]
        if unused:
            raise _MismatchError(
                f"it has {len(unused)} constants that our network does not have: {', '.join(unused[:3])}"
            )
        config = self._config(stages, pooled_hw, has_input_norm)
        return ReadIr(config, self.state, preprocessing)

    def _config(self, stages: list[list[bool]], pooled_hw: tuple[int, int], input_norm: bool) -> OSNetConfig:
        width = len(self.state["stem.conv.weight"]) / BASE_CHANNELS[0]
        depth = (len(stages[0]), len(stages[1]), len(stages[2]))
        size = len(self.state["embedding.linear.weight"])
        gates: tuple[Gate, ...] = get_args(Gate)
        for gate in gates:
            config = OSNetConfig(
                width=width,
                depth=depth,
                norm="stem",
                pooling="depthwise",
                embedding_size=size,
                gate=gate,
                input_norm=input_norm,
                embedding_act="prelu",
                pooled_hw=pooled_hw,
            )
            if config.lct_gates() == stages:
                return config
        raise _MismatchError(f"its blocks have an unknown sequence of gates (True means LCT): {stages}")

    def _embedding(self, x: Layer) -> Layer:
        act = self._kind(self._past_reshapes(x), "PReLU")
        self.state["embedding.act.weight"] = self._constant(act, 1).flatten()
        if self.state["embedding.act.weight"].shape != (1,):
            raise _MismatchError(f"{act.name} has {self.state['embedding.act.weight'].numel()} slopes instead of one")
        add = self._kind(self._past_reshapes(self._source(act)), "Add")
        shift, scale = self._operands(add)
        multiply = self._kind(scale, "Multiply")
        factor, x = self._operands(multiply)
        self._norm("embedding.norm", shift.flatten(), factor.flatten())
        add = self._kind(self._past_reshapes(x), "Add")
        bias, x = self._operands(add)
        product = self._kind(x, "MatMul", {"transpose_a": "false", "transpose_b": "true"})
        self.state["embedding.linear.bias"] = bias.flatten()
        self.state["embedding.linear.weight"] = self._constant(product, 1)
        return self._past_reshapes(self._source(product))

    def _depthwise_pool(self, x: Layer) -> tuple[Layer, tuple[int, int]]:
        bias, x = self._operands(self._kind(x, "Add"))
        conv = self._kind(x, "GroupConvolution", _ONE_TO_ONE)
        weight = self._constant(conv, 1)
        if weight.ndim != 5 or weight.shape[1:3] != (1, 1):
            raise _MismatchError(f"{conv.name} has weights of shape {tuple(weight.shape)}; expected (C, 1, 1, H, W)")
        self.state["pool.conv.weight"], self.state["pool.conv.bias"] = weight.flatten(0, 1), bias.flatten()
        return self._source(conv), (weight.shape[3], weight.shape[4])

    def _stage(self, stage: int, x: Layer) -> tuple[list[bool], Layer]:
        """Read the blocks of a stage. Returns which blocks have LCT gates, and the layer before the first block."""
        blocks: list[tuple[dict[str, Tensor], bool]] = []
        while x.kind == "ReLU":
            if len(blocks) == MAX_BLOCKS:
                raise _MismatchError(f"it has more than {MAX_BLOCKS} blocks in a stage")
            outer, self.state = self.state, {}
            lct, x = self._block(x)
            blocks.insert(0, (self.state, lct))
            self.state = outer
        for number, (tensors, _) in enumerate(blocks):
            self.state |= {f"conv{stage}.{number}.{key}": value for key, value in tensors.items()}
        return [lct for _, lct in blocks], x

    def _block(self, x: Layer) -> tuple[bool, Layer]:
        """Read an omni-scale block. Returns whether its gate is LCT, and the layer before the block."""
        add = self._kind(self._past(x, "ReLU"), "Add")
        one, other = (self._layer(add.sources[port]) for port in (0, 1))
        if not self._comes_from_streams(one):
            one, other = other, one
        fused = self._folded("expand", one, _ONE_TO_ONE)
        lct, reduced = self._streams(fused)
        before = self._folded("reduce", self._past(reduced, "ReLU"), _ONE_TO_ONE)
        if other is not before:
            shortcut = self._folded("shortcut", other, _ONE_TO_ONE)
            if shortcut is not before:
                raise _MismatchError(f"{other.name} and {reduced.name} do not have the same input")
        return lct, before

    def _comes_from_streams(self, x: Layer) -> bool:
        """Whether the layer is the 1x1 convolution after the sum of the gated streams (and not the shortcut)."""
        if x.kind != "Add" or not self._has_constant(x):
            return False
        conv = self._layer(self._variable(x))
        return conv.kind == "Convolution" and self._source(conv).kind in ("Add", "Multiply")

    def _streams(self, fused: Layer) -> tuple[bool, Layer]:
        """Read the sum of the gated streams. Returns whether the gate is LCT, and the common input of the streams."""
        waiting, ends = [fused], list[Layer]()
        while waiting and len(ends) <= MAX_STREAM and len(waiting) <= MAX_STREAM:
            x = waiting.pop()
            if x.kind == "Add":
                waiting += [self._layer(number) for number in x.sources.values()]
            else:
                ends.append(self._kind(x, "Multiply"))
        found = []
        for end in ends:
            sides = [self._layer(number) for number in end.sources.values()]
            gate = next((side for side in sides if side.kind == "Sigmoid"), None)
            stream = next((side for side in sides if side.kind == "ReLU"), None)
            if gate is None or stream is None:
                raise _MismatchError(f"{end.name} is not the product of a stream and its gate")
            found.append((self._stream(stream), self._gate(gate, stream)))
        found.sort(key=lambda one: len(one[0][0]))
        depths = [len(layers) for (layers, _), _ in found]
        if depths != [1, 2, 3, 4]:
            raise _MismatchError(f"the streams before {fused.name} have {depths} layers instead of 1, 2, 3, 4")
        (_, reduced), (lct, gate_tensors) = found[0]
        for t, ((layers, begin), (kind, tensors)) in enumerate(found):
            if begin is not reduced or kind != lct or not _equal(tensors, gate_tensors):
                raise _MismatchError(f"the streams before {fused.name} differ in their gates or inputs")
            for j, layer in enumerate(layers):
                self.state |= {f"streams.{t}.{j}.{key}": value for key, value in layer.items()}
        self.state |= {f"aggregate.gate.{key}": value for key, value in gate_tensors.items()}
        return lct, reduced

    def _stream(self, x: Layer) -> tuple[list[dict[str, Tensor]], Layer]:
        """Read a stream of Lite 3x3 layers. Returns their tensors in order, and the layer before the stream."""
        layers: list[dict[str, Tensor]] = []
        while len(layers) <= MAX_STREAM:
            bias, conv = self._operands(self._kind(self._past(x, "ReLU"), "Add"))
            if conv.kind == "Convolution":
                return layers, x
            depthwise = self._constant(self._kind(conv, "GroupConvolution", _THREE), 1)
            pointwise = self._kind(self._source(conv), "Convolution", _ONE_TO_ONE)
            outer, self.state = self.state, {}
            self.state = {"pointwise.weight": self._constant(pointwise, 1), "depthwise.weight": depthwise.flatten(0, 1)}
            self._norm("norm", bias.flatten())
            layers.insert(0, self.state)
            self.state, x = outer, self._source(pointwise)
        raise _MismatchError(f"the stream before {x.name!r} has more than {MAX_STREAM} layers")

    def _gate(self, sigmoid: Layer, stream: Layer) -> tuple[bool, dict[str, Tensor]]:
        """Read a gate. Returns whether it is LCT, and its tensors by their names in this package."""
        bias, x = self._operands(self._kind(self._source(sigmoid), "Add"))
        if x.kind == "Multiply":
            weight, x = self._operands(x)
            norm = self._mvn(self._past_reshapes(x), [2])
            pooled = self._past_reshapes(self._source(norm))
            tensors = {"weight": weight.flatten(), "bias": bias.flatten()}
        else:
            expand = self._kind(x, "Convolution", _ONE_TO_ONE)
            hidden, x = self._operands(self._kind(self._past(self._source(expand), "ReLU"), "Add"))
            reduce = self._kind(x, "Convolution", _ONE_TO_ONE)
            pooled = self._source(reduce)
            tensors = {"reduce.weight": self._constant(reduce, 1), "reduce.bias": hidden.flatten()}
            tensors |= {"expand.weight": self._constant(expand, 1), "expand.bias": bias.flatten()}
        mean = self._kind(pooled, "ReduceMean")
        if self._axes(mean) != [2, 3] or self._source(mean) is not stream:
            raise _MismatchError(f"{mean.name} is not the spatial average of the gated stream")
        return "weight" in tensors, tensors

    def _preprocessing(self, x: Layer) -> Preprocessing:
        factor, x = self._operands(self._kind(x, "Multiply"))
        subtract = self._kind(x, "Subtract")
        mean, gather = self._constant(subtract, 1), self._kind(self._source(subtract), "Gather")
        order, axis = (self._constant(gather, port).flatten().tolist() for port in (1, 2))
        image = self._kind(self._source(gather), "Parameter")
        shape = [int(side) for side in image.data.get("shape", "").split(",") if side.isdigit()]
        if order != [2, 1, 0] or axis != [1] or len(shape) != 4 or (mean.numel(), factor.numel()) != (3, 3):
            raise _MismatchError(
                f"{image.name} of shape {shape} is not a BGR image that is converted to RGB and normalised"
            )
        means = [round(value / 255, 6) for value in mean.flatten().tolist()]
        stds = [round(1 / value / 255, 6) if value > 0 else 0.0 for value in factor.flatten().tolist()]
        try:
            return Preprocessing(
                (shape[2], shape[3]), mean=(means[0], means[1], means[2]), std=(stds[0], stds[1], stds[2])
            )
        except ValueError as error:
            raise _MismatchError(f"{image.name}: {error}") from error

    def _instance_norm(self, name: str, x: Layer) -> Layer:
        shift, x = self._operands(self._kind(x, "Add"))
        scale, x = self._operands(self._kind(x, "Multiply"))
        self.state |= {f"{name}.weight": scale.flatten(), f"{name}.bias": shift.flatten()}
        return self._source(self._mvn(x, [2, 3]))

    def _mvn(self, x: Layer, axes: list[int]) -> Layer:
        norm = self._kind(x, "MVN", {"normalize_variance": "true", "eps_mode": "INSIDE_SQRT"})
        if abs(float(norm.data.get("eps", "nan")) - EPS) > 1e-3 * EPS or self._axes(norm) != axes:
            raise _MismatchError(
                f"{norm.name} normalises over the axes {self._axes(norm)} with eps {norm.data.get('eps')}; expected "
                f"{axes} and {EPS}"
            )
        return norm

    def _axes(self, x: Layer) -> list[int]:
        return sorted(int(axis) for axis in self._constant(x, 1).flatten().tolist())

    def _folded(self, name: str, x: Layer, settings: dict[str, str]) -> Layer:
        """Read a convolution with a folded BatchNorm. Returns the layer before it."""
        bias, conv = self._operands(self._kind(x, "Add"))
        self.state[f"{name}.conv.weight"] = self._constant(self._kind(conv, "Convolution", settings), 1)
        self._norm(f"{name}.norm", bias.flatten())
        return self._source(conv)

    def _norm(self, name: str, shift: Tensor, scale: Tensor | None = None) -> None:
        """Set the tensors of a BatchNorm that only scales and shifts in eval mode."""
        self.state[f"{name}.weight"] = torch.ones_like(shift) if scale is None else scale
        self.state[f"{name}.bias"] = shift
        self.state[f"{name}.running_mean"] = torch.zeros_like(shift)
        self.state[f"{name}.running_var"] = torch.full_like(shift, 1 - EPS)  # with eps it is 1
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(0)

    def _pool(self, x: Layer, kind: str, settings: dict[str, str]) -> Layer:
        return self._source(self._kind(x, kind, settings))

    def _kind(self, x: Layer, kind: str, settings: dict[str, str] | None = None) -> Layer:
        """Return ``x`` after checking its kind and settings."""
        if x.kind != kind:
            raise _MismatchError(f"layer {x.number}, {x.name!r}, is a {x.kind} instead of a {kind}")
        for key, value in (settings or {}).items():
            if (found := x.data.get(key, "false" if value == "false" else None)) != value:
                raise _MismatchError(f"layer {x.number}, {x.name!r}, has {key} {found} instead of {value}")
        if x.data.get("dilations", "1,1") != "1,1" or x.data.get("auto_pad", "explicit") != "explicit":
            raise _MismatchError(f"layer {x.number}, {x.name!r}, has dilations or automatic padding")
        return x

    def _layer(self, number: int) -> Layer:
        if number not in self.layers:
            raise _MismatchError(f"an edge starts at layer {number}, which does not exist")
        return self.layers[number]

    def _source(self, x: Layer) -> Layer:
        """The layer at the first input port of ``x``."""
        if 0 not in x.sources:
            raise _MismatchError(f"layer {x.number}, {x.name!r}, has no input")
        return self._layer(x.sources[0])

    def _past(self, x: Layer, kind: str) -> Layer:
        """The layer before ``x``, which must be of this kind."""
        return self._source(self._kind(x, kind))

    def _past_reshapes(self, x: Layer) -> Layer:
        for _ in range(4):
            if x.kind != "Reshape":
                break
            x = self._source(x)
        return x

    def _stored(self, x: Layer) -> Layer:
        """The constant before its conversion from float16, or ``x`` itself if there is no conversion."""
        return self._source(x) if x.kind == "Convert" else x

    def _has_constant(self, x: Layer) -> bool:
        return any(self._stored(self._layer(number)).kind == "Const" for number in x.sources.values())

    def _variable(self, x: Layer) -> int:
        return next((n for n in x.sources.values() if self._stored(self._layer(n)).kind != "Const"), x.number)

    def _operands(self, x: Layer) -> tuple[Tensor, Layer]:
        """The constant operand of a sum or product, and the layer of the other operand."""
        for port, number in x.sources.items():
            if self._stored(self._layer(number)).kind == "Const":
                return self._constant(x, port), self._layer(self._variable(x))
        raise _MismatchError(f"layer {x.number}, {x.name!r}, has no constant operand")

    def _constant(self, x: Layer, port: int) -> Tensor:
        """The constant at an input port, as float32 or int64."""
        if port not in x.sources:
            raise _MismatchError(f"layer {x.number}, {x.name!r}, has no input at port {port}")
        const = self._kind(self._stored(self._layer(x.sources[port])), "Const")
        kind, text = const.data.get("element_type", ""), const.data.get("shape", "")
        if kind not in _TYPES or not re.fullmatch(r"(\d{1,9}(,\d{1,9}){0,7})?", text):
            raise _MismatchError(f"the constant {const.name!r} has the unsupported type {kind!r} or shape {text!r}")
        shape = [int(side) for side in text.split(",") if side]
        offset, size = (int(const.data.get(key, "-1")) for key in ("offset", "size"))
        if offset < 0 or size != prod(shape) * np.dtype(_TYPES[kind]).itemsize or offset + size > len(self.constants):
            raise _MismatchError(
                f"the constant {const.name!r} of shape {shape} and type {kind} does not fit its {size} bytes at offset "
                f"{offset} of {len(self.constants)} bytes"
            )
        self.used.add(const.number)
        array = np.frombuffer(self.constants, _TYPES[kind], prod(shape), offset).reshape(shape)
        return torch.from_numpy(array.astype(np.float32 if kind.startswith("f") else np.int64))

    def _is_unused(self, x: Layer) -> bool:
        """Whether ``x`` is a floating-point constant that was not read."""
        return x.kind == "Const" and x.data.get("element_type", "").startswith("f") and x.number not in self.used


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
