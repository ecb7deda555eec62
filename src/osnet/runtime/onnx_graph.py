"""Writing a folded network as an ONNX graph, in a tenth of a second.

PyTorch's exporter takes 20 to 40 s for an OSNet, too long for making an embedder. The networks use two dozen kinds of
operations, so they are traced with ``torch.fx`` and written one by one. A global mean becomes GlobalAveragePool, which
ONNX Runtime keeps in its blocked layout; a ReduceMean would make it leave that layout. An unknown operation raises
``UnknownStepError``, and ``export.py`` then uses PyTorch's exporter. Every user of a graph first compares its outputs
with the network's: a graph that loads may still be wrong.

Shapes: B batch, C channels, H height, W width.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from threading import get_ident
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import Graph, Node, Tracer

from osnet.errors import ModelError, require_extra
from osnet.forks import make_lock
from osnet.models.denormals import TINY
from osnet.models.layers import ChannelShuffle, DepthwisePool, LinearContextGate
from osnet.runtime.folding import Centre, Normalize

INPUT = "images"
OPSET = 17
"""Read by runtimes of 2022; no operation here needs a newer one."""
IR_VERSION = 8


class UnknownStepError(ModelError):
    """A network with an operation that the writer does not know."""


TRACING = make_lock()
"""Held while tracing: ``torch.fx`` patches ``nn.Module`` for all threads meanwhile. PyTorch's exporters do so, too, and
run without oneDNN, which changes the last digits of networks in other threads. Two at once could leave it so."""


class _LeafTracer(Tracer):
    """Traces our small layers as one step each. Networks that run in other threads meanwhile are not traced.

    The functions of ``math`` stay as they are. ``torch.fx`` would replace them for all threads, and numba, if first
    used in another thread meanwhile, would keep the replacements and fail to compile until the process ends.
    """

    def __init__(self) -> None:
        super().__init__(autowrap_modules=())  # type: ignore[arg-type, unused-ignore]
        self.thread = get_ident()

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Trace the call in this thread; in another thread, run it."""
        return super().call_module(m, forward, args, kwargs) if get_ident() == self.thread else forward(*args, **kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """As ``call_module``."""
        return super().getattr(attr, attr_val, parameter_proxy_cache) if get_ident() == self.thread else attr_val

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """True for modules that ``_MODULES`` writes as one step."""
        return type(m) in _MODULES or super().is_leaf_module(m, module_qualified_name)


def write_onnx(
    graph: nn.Module,
    size_hw: tuple[int, int],
    output_names: list[str],
    *,
    uint8: bool = False,
    half: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """The bytes of an ONNX file: input ``images`` (B, 3, H, W), one output per name, B free.

    Args:
        graph: a result of ``fold``, or a module around it that returns a tuple of tensors (B, ...).
        size_hw: H and W.
        output_names: one per output of the module.
        uint8: input type uint8, for graphs that begin with ``Centre`` or ``Normalize``; otherwise float32.
        half: weights and arithmetic in float16; input and outputs keep their types.
        metadata: written into the file.

    Raises:
        UnknownStepError: the network cannot be traced, or has an unknown operation.
        MissingExtraError: the package ``onnx`` is not installed.
    """
    writer = _Writer(graph, trace(graph), size_hw, half)
    return writer.model(size_hw, output_names, uint8, metadata or {})


def with_float_input(content: bytes) -> bytes:
    """A uint8 file of ``write_onnx`` as the same graph for float32 pixels in 0..255.

    Raises:
        MissingExtraError: the package ``onnx`` is not installed.
    """
    onnx: Any = require_extra("onnx", "speed")
    model = onnx.load_from_string(content)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    written: bytes = model.SerializeToString()
    return written


def zero_tiny_weights(content: bytes) -> bytes:
    """An ONNX file of any origin with its weights below ``TINY`` set to zero (see ``models.denormals``).

    What is no ONNX file, weights that are kept in other files, and single numbers are returned as they are. A single
    number may be what a division by zero is prevented with.
    """
    onnx: Any = require_extra("onnx", "speed")
    try:
        model = onnx.load_from_string(content)
    except Exception:  # the runtime will say what is wrong with it
        return content
    changed = False
    for weights in model.graph.initializer:
        if weights.data_type != onnx.TensorProto.FLOAT or weights.data_location != onnx.TensorProto.DEFAULT:
            continue
        values = onnx.numpy_helper.to_array(weights)
        tiny = (values != 0) & (np.abs(values) < TINY)
        if values.size > 1 and tiny.any():
            weights.CopyFrom(onnx.numpy_helper.from_array(np.where(tiny, np.float32(0), values), weights.name))
            changed = True
    return bytes(model.SerializeToString()) if changed else content


def trace(graph: nn.Module) -> Graph:
    """The steps of ``graph``.

    Raises:
        UnknownStepError: it cannot be traced.
    """
    tracer = _LeafTracer()
    try:
        with TRACING:
            return tracer.trace(graph)
    except Exception as error:  # tracing runs any forward with proxies instead of tensors
        raise UnknownStepError(f"{type(graph).__name__} cannot be traced: {error}") from error


class _Writer:
    """The nodes and tensors of one ONNX graph."""

    def __init__(self, graph: nn.Module, steps: Graph, size_hw: tuple[int, int], half: bool) -> None:
        self.onnx: Any = require_extra("onnx", "speed")
        self.graph, self.steps, self.half = graph, steps, half
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self.outputs: list[str] = []
        self.shapes: dict[Node, tuple[int, ...]] = {}
        """The shape of each step's result, for a batch of 1: by arithmetic, because running the network takes longer
        than all the rest."""
        self.size_hw = size_hw
        for node in steps.nodes:
            self.shapes[node] = self._measure(node)
            self._write(node)

    def emit(self, kind: str, node: Node, inputs: list[str], **attributes: Any) -> None:
        """Add an ONNX node whose output has the traced node's name."""
        self.emit_as(kind, _name(node), inputs, **attributes)

    def emit_as(self, kind: str, name: str, inputs: list[str], **attributes: Any) -> str:
        """Add an ONNX node with the output ``name``; returns the name."""
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [name], name=f"{kind}:{name}", **attributes))
        return name

    def tensor(self, name: str, value: Tensor | NDArray[Any]) -> str:
        """Add a constant; returns its name."""
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        if array.dtype.kind == "f":
            array = array.astype(np.float16 if self.half else np.float32)
        self.tensors.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def operand(self, node: Node, value: Any, place: int) -> str:
        """The name of an argument of a step: another step's output, or a number that becomes a constant."""
        if isinstance(value, Node):
            return _name(value)
        if isinstance(value, int | float):
            return self.tensor(f"{node.name}_operand{place}", np.asarray(value, dtype=np.float32))
        raise UnknownStepError(f"{node.name} has the argument {value!r}")

    def _write(self, node: Node) -> None:
        if node.op == "placeholder":
            self._write_input(node)
        elif node.op == "output":
            values = node.args[0]
            for value in values if isinstance(values, tuple) else (values,):
                assert isinstance(value, Node)
                self.outputs.append(_name(value))
        elif node.op == "get_attr":
            self.tensor(_name(node), self._parameter(node))
        elif node.op == "call_module":
            module = self.graph.get_submodule(str(node.target))
            if type(module) not in _MODULES:
                raise UnknownStepError(f"{node.target} is a {type(module).__name__}, which has no rule here")
            _MODULES[type(module)](self, node, module)
        else:
            if node.target not in _FUNCTIONS:
                raise UnknownStepError(f"{node.name} calls {node.target!r}, which has no rule here")
            _FUNCTIONS[node.target](self, node)

    def _measure(self, node: Node) -> tuple[int, ...]:
        """The shape of a step's result. Steps that are not named here keep their input's; ``_write`` refuses others."""
        inputs = [self.shapes[value] for value in node.all_input_nodes]
        if node.op == "placeholder":
            return (1, 3, *self.size_hw)
        if node.op == "output":
            return inputs[0]
        if node.op == "get_attr":
            return tuple(self._parameter(node).shape)
        if node.op == "call_module":
            return _shape_after(self.graph.get_submodule(str(node.target)), inputs[0])
        if node.target is torch.cat:
            axis = _axis(node)
            return (*inputs[0][:axis], sum(shape[axis] for shape in inputs), *inputs[0][axis:][1:])
        if node.target in ("mean", "amax"):
            return (*inputs[0][:2], 1, 1) if _keeps_dims(node) else inputs[0][:2]
        return np.broadcast_shapes(*inputs)

    def _parameter(self, node: Node) -> Tensor:
        value: Any = self.graph
        for part in str(node.target).split("."):
            value = getattr(value, part)
        assert isinstance(value, Tensor)
        return value

    def _write_input(self, node: Node) -> None:
        kind = self.onnx.TensorProto.FLOAT16 if self.half else self.onnx.TensorProto.FLOAT
        self.emit("Cast", node, [INPUT], to=kind)

    def model(self, size_hw: tuple[int, int], names: list[str], uint8: bool, metadata: Mapping[str, str]) -> bytes:
        """The bytes of the ONNX file."""
        helper, kinds = self.onnx.helper, self.onnx.TensorProto
        if len(names) != len(self.outputs):
            raise ModelError(f"{len(names)} names for {len(self.outputs)} outputs: {', '.join(names)}")
        outputs = []
        for name, made, node in zip(names, self.outputs, self._output_nodes(), strict=True):
            self.nodes.append(helper.make_node("Cast", [made], [name], name=f"Cast:{name}", to=kinds.FLOAT))
            outputs.append(helper.make_tensor_value_info(name, kinds.FLOAT, ["batch", *self.shapes[node][1:]]))
        images = helper.make_tensor_value_info(INPUT, kinds.UINT8 if uint8 else kinds.FLOAT, ["batch", 3, *size_hw])
        graph = helper.make_graph(self.nodes, "osnet", [images], outputs, self.tensors)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="osnet"
        )
        helper.set_model_props(model, dict(metadata))
        self.onnx.checker.check_model(model)
        content: bytes = model.SerializeToString()
        return content

    def _output_nodes(self) -> list[Node]:
        by_name = {_name(node): node for node in self.steps.nodes}
        return [by_name[name] for name in self.outputs]


def _name(node: Node) -> str:
    """The name of a step's result in the graph. The prefix keeps it apart from the graph's input and outputs."""
    return f"step_{node.name}"


def _shape_after(module: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a layer gives for an input of ``shape``."""
    if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        batch, channels, *size_hw = shape
        if isinstance(module, nn.Conv2d):
            channels = module.out_channels
        dilation = getattr(module, "dilation", 1)
        settings = [_pair(value) for value in (module.kernel_size, module.stride, module.padding, dilation)]  # type: ignore[arg-type]
        round_up = getattr(module, "ceil_mode", False)
        return (
            batch,
            channels,
            *(_windows(sizes, round_up) for sizes in zip(size_hw, *settings, strict=True)),
        )
    if isinstance(module, nn.Linear):
        return (*shape[:-1], module.out_features)
    if isinstance(module, DepthwisePool):
        return (shape[0], module.conv.out_channels)
    if isinstance(module, LinearContextGate):
        return (*shape[:2], 1, 1)
    return shape


def _windows(sizes: Sequence[int], round_up: bool) -> int:
    """Number of places of a window along a side, as PyTorch counts them: size, kernel, stride, padding, dilation."""
    size, kernel, stride, padding, dilation = sizes
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    number = (room + (stride - 1 if round_up else 0)) // stride + 1
    if round_up and (number - 1) * stride >= size + padding:  # a window may not begin in the padding at the end
        number -= 1
    return number


def _axis(node: Node) -> int:
    axis = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    assert isinstance(axis, int)
    return axis


def _keeps_dims(node: Node) -> bool:
    return bool(node.kwargs.get("keepdim", len(node.args) > 2 and node.args[2]))


def _source(node: Node) -> str:
    first = node.args[0]
    assert isinstance(first, Node)
    return _name(first)


def _pair(value: int | tuple[int, ...]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _conv(writer: _Writer, node: Node, conv: nn.Conv2d) -> None:
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        raise UnknownStepError(f"{node.target} pads with {conv.padding_mode} {conv.padding}")
    inputs = [_source(node), writer.tensor(f"{node.name}_weight", conv.weight)]
    if conv.bias is not None:
        inputs.append(writer.tensor(f"{node.name}_bias", conv.bias))
    writer.emit(
        "Conv",
        node,
        inputs,
        kernel_shape=list(conv.kernel_size),
        strides=list(conv.stride),
        pads=_pair(conv.padding) * 2,
        dilations=list(conv.dilation),
        group=conv.groups,
    )


def _linear(writer: _Writer, node: Node, linear: nn.Linear) -> None:
    if len(writer.shapes[node]) != 2:
        raise UnknownStepError(f"{node.target} is a Linear over {len(writer.shapes[node])} dimensions")
    inputs = [_source(node), writer.tensor(f"{node.name}_weight", linear.weight)]
    if linear.bias is not None:
        inputs.append(writer.tensor(f"{node.name}_bias", linear.bias))
    writer.emit("Gemm", node, inputs, transB=1)


def _batch_norm(writer: _Writer, node: Node, norm: nn.BatchNorm2d) -> None:
    if norm.running_mean is None or norm.running_var is None:
        raise UnknownStepError(f"{node.target} is a BatchNorm without running statistics")
    parts = {"weight": norm.weight, "bias": norm.bias, "mean": norm.running_mean, "var": norm.running_var}
    names = [writer.tensor(f"{node.name}_{key}", value) for key, value in parts.items()]
    writer.emit("BatchNormalization", node, [_source(node), *names], epsilon=norm.eps)


def _instance_norm(writer: _Writer, node: Node, norm: nn.InstanceNorm2d) -> None:
    if norm.track_running_stats or norm.weight is None:
        raise UnknownStepError(f"{node.target} is an InstanceNorm with running statistics, or without a scale")
    names = [writer.tensor(f"{node.name}_{key}", getattr(norm, key)) for key in ("weight", "bias")]
    writer.emit("InstanceNormalization", node, [_source(node), *names], epsilon=norm.eps)


def _max_pool(writer: _Writer, node: Node, pool: nn.MaxPool2d) -> None:
    writer.emit(
        "MaxPool",
        node,
        [_source(node)],
        kernel_shape=_pair(pool.kernel_size),
        strides=_pair(pool.stride),
        pads=_pair(pool.padding) * 2,
        dilations=_pair(pool.dilation),
        ceil_mode=int(pool.ceil_mode),
    )


def _avg_pool(writer: _Writer, node: Node, pool: nn.AvgPool2d) -> None:
    if pool.divisor_override is not None:
        raise UnknownStepError(f"{node.target} has divisor_override, which is not supported")
    writer.emit(
        "AveragePool",
        node,
        [_source(node)],
        kernel_shape=_pair(pool.kernel_size),
        strides=_pair(pool.stride),
        pads=_pair(pool.padding) * 2,
        ceil_mode=int(pool.ceil_mode),
        count_include_pad=int(pool.count_include_pad),
    )


def _clip(writer: _Writer, node: Node, act: nn.Hardtanh) -> None:
    limits = [
        writer.tensor(f"{node.name}_{k}", np.array(v, np.float32))
        for k, v in (("min", act.min_val), ("max", act.max_val))
    ]
    writer.emit("Clip", node, [_source(node), *limits])


def _shuffle(writer: _Writer, node: Node, shuffle: ChannelShuffle) -> None:
    _, channels, height, width = writer.shapes[node]
    split = writer.tensor(f"{node.name}_split", np.array([0, shuffle.groups, channels // shuffle.groups, -1]))
    joined = writer.tensor(f"{node.name}_joined", np.array([0, channels, height, width]))
    grouped = writer.emit_as("Reshape", f"{node.name}_grouped", [_source(node), split])
    turned = writer.emit_as("Transpose", f"{node.name}_turned", [grouped], perm=[0, 2, 1, 3])
    writer.emit("Reshape", node, [turned, joined])


def _centre(writer: _Writer, node: Node, centre: Centre) -> None:
    writer.emit("Sub", node, [_source(node), writer.tensor(f"{node.name}_mean", centre.mean)])


def _normalize(writer: _Writer, node: Node, layer: Normalize) -> None:
    mean, std = (writer.tensor(f"{node.name}_{key}", getattr(layer, key)) for key in ("mean", "std"))
    centred = writer.emit_as("Sub", f"{node.name}_centred", [_source(node), mean])
    if not layer.bgr:
        return writer.emit("Div", node, [centred, std])
    divided = writer.emit_as("Div", f"{node.name}_divided", [centred, std])
    order = writer.tensor(f"{node.name}_order", np.array([2, 1, 0]))
    return writer.emit("Gather", node, [divided, order], axis=1)


def _prelu(writer: _Writer, node: Node, act: nn.PReLU) -> None:
    if act.num_parameters != 1:
        raise UnknownStepError(f"{node.target} is a PReLU with {act.num_parameters} slopes")
    writer.emit("PRelu", node, [_source(node), writer.tensor(f"{node.name}_slope", act.weight)])


def _depthwise_pool(writer: _Writer, node: Node, pool: DepthwisePool) -> None:
    parts = [writer.tensor(f"{node.name}_{key}", getattr(pool.conv, key)) for key in ("weight", "bias")]
    shape, groups = list(pool.conv.kernel_size), pool.conv.groups
    pooled = writer.emit_as("Conv", f"{node.name}_pooled", [_source(node), *parts], kernel_shape=shape, group=groups)
    writer.emit("Flatten", node, [pooled], axis=1)


def _linear_context(writer: _Writer, node: Node, gate: LinearContextGate) -> None:
    """The groups' channels take the place of an image's pixels, so that an instance norm normalises them."""
    name, channels = node.name, len(gate.weight)
    pooled = writer.emit_as("GlobalAveragePool", f"{name}_pooled", [_source(node)])
    split = writer.tensor(f"{name}_split", np.array([0, gate.groups, channels // gate.groups]))
    grouped = writer.emit_as("Reshape", f"{name}_grouped", [pooled, split])
    plain = [writer.tensor(f"{name}_{key}", make(gate.groups, np.float32)) for key, make in _PLAIN_NORM.items()]
    normed = writer.emit_as("InstanceNormalization", f"{name}_normed", [grouped, *plain], epsilon=gate.eps)
    joined = writer.tensor(f"{name}_joined", np.array([0, channels, 1, 1]))
    normalized = writer.emit_as("Reshape", f"{name}_normalized", [normed, joined])
    weight, bias = (writer.tensor(f"{name}_{key}", getattr(gate, key)[:, None, None]) for key in ("weight", "bias"))
    scaled = writer.emit_as("Mul", f"{name}_scaled", [normalized, weight])
    writer.emit("Sigmoid", node, [writer.emit_as("Add", f"{name}_shifted", [scaled, bias])])


_PLAIN_NORM: dict[str, Callable[..., NDArray[Any]]] = {"ones": np.ones, "zeros": np.zeros}


def _plain(kind: str) -> Callable[..., None]:
    """A rule for an operation with one input and no attributes."""

    def rule(writer: _Writer, node: Node, _module: nn.Module | None = None) -> None:
        writer.emit(kind, node, [_source(node)])

    return rule


def _binary(kind: str) -> Callable[[_Writer, Node], None]:
    def rule(writer: _Writer, node: Node) -> None:
        writer.emit(kind, node, [writer.operand(node, value, place) for place, value in enumerate(node.args)])

    return rule


def _concat(writer: _Writer, node: Node) -> None:
    parts = node.args[0]
    assert isinstance(parts, list | tuple)
    operands = [writer.operand(node, part, place) for place, part in enumerate(parts)]
    writer.emit("Concat", node, operands, axis=_axis(node))


def _pool_all(kind: str) -> Callable[[_Writer, Node], None]:
    """A rule for mean or amax over height and width."""

    def rule(writer: _Writer, node: Node) -> None:
        dims = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
        if dims not in ((2, 3), [2, 3], (-2, -1), [-2, -1]):
            raise UnknownStepError(f"{node.name} pools over {dims}, not over height and width")
        if _keeps_dims(node):
            return writer.emit(kind, node, [_source(node)])
        pooled = writer.emit_as(kind, f"{node.name}_pooled", [_source(node)])
        return writer.emit("Flatten", node, [pooled], axis=1)

    return rule


_MODULES: dict[type[nn.Module], Callable[..., None]] = {
    nn.Conv2d: _conv,
    nn.Linear: _linear,
    nn.BatchNorm2d: _batch_norm,
    nn.InstanceNorm2d: _instance_norm,
    nn.ReLU: _plain("Relu"),
    nn.PReLU: _prelu,
    nn.ReLU6: _clip,
    nn.Hardtanh: _clip,
    nn.Sigmoid: _plain("Sigmoid"),
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _avg_pool,
    nn.Identity: _plain("Identity"),
    nn.Dropout: _plain("Identity"),
    nn.Dropout2d: _plain("Identity"),
    ChannelShuffle: _shuffle,
    DepthwisePool: _depthwise_pool,
    LinearContextGate: _linear_context,
    Centre: _centre,
    Normalize: _normalize,
}
_FUNCTIONS: dict[Any, Callable[[_Writer, Node], None]] = {
    operator.add: _binary("Add"),
    torch.add: _binary("Add"),
    operator.mul: _binary("Mul"),
    torch.mul: _binary("Mul"),
    torch.cat: _concat,
    torch.relu: _plain("Relu"),
    torch.sigmoid: _plain("Sigmoid"),
    "relu": _plain("Relu"),
    "sigmoid": _plain("Sigmoid"),
    "mean": _pool_all("GlobalAveragePool"),
    "amax": _pool_all("GlobalMaxPool"),
}
