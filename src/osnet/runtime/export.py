"""Networks as files for other runtimes, compared with the network before they get their names.

Each export makes two files: one for RGB pixels as they are (uint8, normalisation inside), and one for float32 images
that are normalised already, which is what BoxMOT and most of Torchreid's users feed. Input ``images`` (B, 3, H, W),
output ``embeddings`` (B, D), B free; heads come as further outputs by name. Shapes: B batch, D embedding, C classes.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from osnet.data.folder import read_dataset
from osnet.data.loading import list_images, read_image
from osnet.data.transforms import normalize, resize_image, to_fractions
from osnet.errors import DataError, ExportError, ModelError, require_extra
from osnet.files import make_folder, sha256_file, written_aside
from osnet.runtime.backends import generate_pixels, openvino_core
from osnet.runtime.folding import fold
from osnet.runtime.onnx_graph import INPUT, UnknownStepError, write_onnx
from osnet.runtime.quantization import Trial, check_evaluation, choose_calibration, quantize, read_crops, try_out
from osnet.types import Preprocessing, ReidDataset
from osnet.weights.checkpoint import Checkpoint, network_sha256

Format = Literal["onnx", "openvino", "torch-export"]
Precision = Literal["fp32", "fp16", "int8"]
InputKind = Literal["uint8", "float"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2"}
BATCHES = (1, 3, 8)
"""Sizes at which a file is compared with the network."""
FP32_TOLERANCE = 1e-4
"""Of unit vectors, and of heads' outputs relative to their largest."""
ALLOWED: dict[Precision, tuple[float, float]] = {
    "fp32": (FP32_TOLERANCE, 1 - FP32_TOLERANCE),
    "fp16": (0.05, 0.999),
    "int8": (float("inf"), -1.0),
}
"""Largest difference and smallest cosine of a file. int8 is judged by scores instead (``quantization.Trial``)."""

Runner = Callable[[NDArray[Any]], list[NDArray[np.float32]]]


@dataclass(frozen=True)
class ExportedFile:
    """One file, and how it compared."""

    path: Path
    input: InputKind
    outputs: tuple[str, ...]
    sha256: str
    largest_difference: float
    """Of unit vectors' components, over all batches."""
    smallest_cosine: float
    """Between the file's vectors and the network's."""
    trial: Trial | None = None
    """Of an int8 file: its scores and its speed."""


class WithHeads(nn.Module):
    """A network and what is read off its embedding: (B, 3, H, W) -> (B, D), then one tensor per head."""

    def __init__(self, graph: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.network, self.heads = graph, nn.ModuleList(heads.values())  # torch.fx wants the name 'graph' itself

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> what the names in ``export`` promise."""
        embeddings = self.network(images)
        return (embeddings, *[head(embeddings) for head in self.heads])


def find_heads(checkpoint: Checkpoint) -> dict[str, nn.Module]:
    """The heads of a checkpoint by their outputs' names.

    ``logits`` (B, C) of the classifier, unless it lacks the BNNeck that it was trained with; ``attributes`` (B, A),
    probabilities, without those the card switches off.
    """
    heads: dict[str, nn.Module] = {}
    if (head := checkpoint.build_attribute_head()) is not None:
        heads["attributes"] = nn.Sequential(head.linear, nn.Sigmoid())
    if (linear := checkpoint.build_classifier()) is not None and not checkpoint.lacks_neck:
        heads["logits"] = linear
    return heads


def export(
    checkpoint: Checkpoint,
    folder: str | Path,
    *,
    format: Format = "onnx",  # the flag's name
    precision: Precision = "fp32",
    outputs: tuple[str, ...] = (),
    images: str | Path | None = None,
    evaluation: ReidDataset | str | Path | None = None,
    overwrite: bool = False,
) -> list[ExportedFile]:
    """Write both files of ``checkpoint`` into ``folder``; a file gets its name only when its outputs are right.

    Args:
        checkpoint: what ``read_checkpoint`` gives: any network of the library.
        folder: made if need be. Names are ``MODEL_DATA.onnx`` for float and ``MODEL_DATA_uint8.onnx`` for pixels.
        format: ``onnx``, ``openvino`` (.xml and .bin), ``torch-export`` (.pt2).
        precision: ``fp16`` halves the file. The arithmetic is float16 too for ONNX and torch-export; OpenVINO keeps
            float16 weights and computes as its device likes. ``int8`` (ONNX, embeddings only) is calibrated on
            the training images of ``evaluation`` and given only if it keeps its score there and is faster here.
        outputs: names beside ``embeddings``; by default ``attributes`` where the weights have them. See ``find_heads``.
        images: compare on images of this folder (the first 12 in sorted order); by default on generated ones.
        evaluation: for int8: a data set with at least 500 queries, on which float32 scores 30 to 90 % mAP.
        overwrite: replace files that are there.

    Raises:
        ExportError: a file's outputs differ from the network's, or int8 loses half a point of mAP or is no faster;
            nothing is left of it.
        ModelError: an unknown format, precision or output.
        DataError: files are there already, or ``images`` holds none.
        OutputError: the folder cannot be written to.
        MissingExtraError: what the format needs is not installed.
    """
    for value, known in ((format, get_args(Format)), (precision, get_args(Precision))):
        if value not in known:
            raise ModelError(f"unknown {value!r}; choose from {', '.join(known)}")
    heads = find_heads(checkpoint)
    by_default = ["attributes"] if "attributes" in heads else []
    wanted = [name for name in outputs if name != "embeddings"] if outputs else by_default
    if "logits" in wanted and checkpoint.lacks_neck:
        raise ModelError(
            "these weights were trained with BNNeck and saved without it, so their logits would be wrong; "
            "run their training command again, which writes them anew"
        )
    if unknown := sorted(set(wanted) - set(heads)):
        raise ModelError(f"these weights have no {', '.join(unknown)}; choose from embeddings, {', '.join(heads)}")
    chosen = {name: heads[name] for name in wanted}
    data = _check_int8(format, chosen, evaluation) if precision == "int8" else None
    preprocessing = checkpoint.card.preprocessing
    pixels = _pixels_to_compare(images, preprocessing)
    folder = make_folder(folder)
    targets = {kind: folder / f"{_file_stem(checkpoint)}{mark}{SUFFIXES[format]}" for kind, mark in _MARKS.items()}
    suffixes = (SUFFIXES[format], *[".bin"] * (format == "openvino"))
    files = [target.with_suffix(suffix) for target in targets.values() for suffix in suffixes]
    if not overwrite and (there := [str(path) for path in files if path.exists()]):
        raise DataError(f"{', '.join(there)} exists; choose another folder, or allow it: overwrite=True, --overwrite")
    return [
        _export_one(checkpoint, target, kind, format, precision, chosen, pixels, data)
        for kind, target in targets.items()
    ]


def _check_int8(
    format: Format, heads: Mapping[str, nn.Module], evaluation: ReidDataset | str | Path | None
) -> ReidDataset:
    """What int8 will be judged on."""
    if format != "onnx" or heads:
        raise ModelError(
            f"int8 is for format onnx and embeddings alone, not for {', '.join([format, *heads])}; "
            "choose --format onnx --outputs embeddings, or another precision"
        )
    if evaluation is None:
        raise DataError("int8 is given only where it was measured to keep its score; give a data set: --data FOLDER")
    data = evaluation if isinstance(evaluation, ReidDataset) else read_dataset(evaluation)
    check_evaluation(data)
    return data


_MARKS: dict[InputKind, str] = {"float": "", "uint8": "_uint8"}


def _export_one(
    checkpoint: Checkpoint,
    target: Path,
    kind: InputKind,
    format: Format,
    precision: Precision,
    heads: Mapping[str, nn.Module],
    pixels: Tensor,
    data: ReidDataset | None,
) -> ExportedFile:
    network, preprocessing = checkpoint.build(), checkpoint.card.preprocessing
    graph = WithHeads(fold(network, preprocessing if kind == "uint8" else None), heads).eval().requires_grad_(False)
    names = ("embeddings", *heads)
    about = describe(checkpoint, kind, precision, names)

    def prepare(some: Tensor) -> Tensor:
        return some if kind == "uint8" else normalize(to_fractions(some), preprocessing)

    trial = None
    with ExitStack() as stack:
        aside = stack.enter_context(written_aside(target))
        if format == "openvino":
            stack.enter_context(written_aside(target.with_suffix(".bin")))
        if data is not None:
            trial = _write_int8(_onnx_bytes(graph, preprocessing.size_hw, names, kind, False, about), aside, data,
                                preprocessing, prepare)  # fmt: skip
            if objections := trial.objections():
                raise ExportError(f"{target.name} is not written: {'; '.join(objections)}. Measured: {trial}")
        else:
            _WRITERS[format](graph, aside, preprocessing.size_hw, names, kind, precision, about)
        run = _READERS[format](aside)
        plain = WithHeads(network, heads).eval()
        with torch.inference_mode():
            expected = plain(normalize(to_fractions(pixels), preprocessing))
        difference, cosine = _compare(run, prepare(pixels), expected, names, precision, target)
        digest = sha256_file(aside)
        if format == "openvino":
            target.unlink(missing_ok=True)  # a cut between the two must not leave old layers with new numbers
    return ExportedFile(target, kind, names, digest, difference, cosine, trial)


def _write_int8(
    content: bytes, aside: Path, data: ReidDataset, preprocessing: Preprocessing, prepare: Callable[[Tensor], Tensor]
) -> Trial:
    """The int8 form of an ONNX file, beside that file."""
    batches = (prepare(some).numpy() for some in read_crops(choose_calibration(data), preprocessing, at_once=8))
    quantize(content, batches, aside)
    return try_out(run_onnx(content), _read_onnx(aside), data, preprocessing, prepare)


def describe(checkpoint: Checkpoint, kind: InputKind, precision: str, names: tuple[str, ...]) -> dict[str, str]:
    """What goes into a file beside the network: all that is needed to use it, as strings."""
    card = checkpoint.card
    return {
        "model": card.name or str(card.architecture),
        "input": "RGB pixels, uint8" if kind == "uint8" else "normalised float32, as the preprocessing says",
        "outputs": ", ".join(names),
        "preprocessing": json.dumps(asdict(card.preprocessing)),
        "precision": precision,
        "network_sha256": network_sha256(checkpoint.build(), card.preprocessing),
        "weights_sha256": card.sha256,
        "training_data": card.training_data,
        "licence": card.licence,
        "attributes": json.dumps([name for name in card.attributes if name not in card.attributes_off]),
        "classes": json.dumps(card.classes),
    }


def _file_stem(checkpoint: Checkpoint) -> str:
    """A name from which BoxMOT sees which network it is."""
    card = checkpoint.card
    name = card.name or "osnet"
    return name if card.training_data == "unknown" else f"{name}_{card.training_data}"


def _pixels_to_compare(images: str | Path | None, preprocessing: Preprocessing) -> Tensor:
    """(12, 3, H, W) uint8; fewer where the folder has fewer."""
    number = sum(BATCHES)
    if images is None:
        return generate_pixels(number, preprocessing.size_hw)
    paths = [path for _, path in zip(range(number), list_images(images), strict=False)]
    if not paths:
        raise DataError(f"no images in {images}")
    return torch.stack([resize_image(read_image(path), preprocessing) for path in paths])


def _compare(
    run: Runner,
    inputs: Tensor,
    expected: tuple[Tensor, ...],
    names: tuple[str, ...],
    precision: Precision,
    target: Path,
) -> tuple[float, float]:
    """The largest difference and the smallest cosine, if they are good enough.

    Raises:
        ExportError: they are not.
    """
    difference, cosine = 0.0, 1.0
    for batch in BATCHES:
        rows = torch.arange(batch) % len(inputs) if batch > len(inputs) else torch.arange(batch)
        if batch < len(inputs):
            rows += len(inputs) - batch  # not the same ones at every size
        found = [torch.from_numpy(np.asarray(value, dtype=np.float32)) for value in run(inputs[rows].numpy())]
        for name, value, right in zip(names, found, [part[rows] for part in expected], strict=True):
            if value.shape != right.shape or not bool(torch.isfinite(value).all()):
                raise ExportError(f"{target.name}: {name} is {(*value.shape,)}, not {(*right.shape,)}, or not finite")
            if name == "embeddings":
                value, right = (nn.functional.normalize(part) for part in (value, right))
                cosine = min(cosine, float((value * right).sum(dim=1).min()))
            worst = float((value - right).abs().max() / max(1.0, float(right.abs().max())))
            difference = max(difference, worst)
            allowed, least = ALLOWED[precision]
            if not worst <= allowed or not cosine >= least:  # NaN is neither
                raise ExportError(
                    f"{target.name} is not written: at batch {batch} its {name} are off by {worst:.1e}"
                    f" (allowed {allowed:.0e}), smallest cosine {cosine:.6f}"
                )
    return difference, cosine


def _onnx_bytes(
    graph: nn.Module,
    size_hw: tuple[int, int],
    names: tuple[str, ...],
    kind: InputKind,
    half: bool,
    about: dict[str, str],
) -> bytes:
    uint8 = kind == "uint8"
    try:
        return write_onnx(graph, size_hw, list(names), uint8=uint8, half=half, metadata=about)
    except UnknownStepError as error:
        if half:
            raise ModelError(f"fp16 is not possible for this network: {error}; choose precision fp32") from error
    onnx = require_extra("onnx", "export")
    require_extra("onnxscript", "export")
    example = generate_pixels(2, size_hw) if uint8 else generate_pixels(2, size_hw).float()
    program = torch.onnx.export(
        graph, (example,), dynamo=True, input_names=[INPUT], output_names=list(names), verbose=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )  # fmt: skip
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, about)
    content: bytes = model.SerializeToString()
    return content


def _write_onnx(
    graph: nn.Module, aside: Path, size_hw: tuple[int, int], names: tuple[str, ...], kind: InputKind,
    precision: Precision, about: dict[str, str],
) -> None:  # fmt: skip
    aside.write_bytes(_onnx_bytes(graph, size_hw, names, kind, precision == "fp16", about))


def _write_openvino(
    graph: nn.Module, aside: Path, size_hw: tuple[int, int], names: tuple[str, ...], kind: InputKind,
    precision: Precision, about: dict[str, str],
) -> None:  # fmt: skip
    openvino = require_extra("openvino", "openvino")
    model = openvino_core().read_model(_onnx_bytes(graph, size_hw, names, kind, False, about))
    for key, value in about.items():
        model.set_rt_info(value, ["osnet", key])
    openvino.save_model(model, aside, compress_to_fp16=precision == "fp16")


def _write_torch_export(
    graph: nn.Module, aside: Path, size_hw: tuple[int, int], _names: tuple[str, ...], kind: InputKind,
    precision: Precision, about: dict[str, str],
) -> None:  # fmt: skip
    pixels = generate_pixels(2, size_hw)
    module = Half(graph) if precision == "fp16" else graph
    program = torch.export.export(
        module, (pixels if kind == "uint8" else pixels.float(),),
        dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1, max=4096)}},
    )  # fmt: skip
    torch.export.save(program, aside, extra_files={"osnet.json": json.dumps(about)})


class Half(nn.Module):
    """``graph`` in float16, with float32 outside."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.network = graph.half()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """As ``graph``."""
        return tuple(part.float() for part in self.network(images.half()))


def run_onnx(content: bytes) -> Runner:
    """An ONNX file in ONNX Runtime on the CPU."""
    runtime = require_extra("onnxruntime", "speed")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {INPUT: images})


def _read_onnx(path: Path) -> Runner:
    return run_onnx(path.read_bytes())


def _read_openvino(path: Path) -> Runner:
    compiled = openvino_core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: [value.copy() for value in compiled({INPUT: images}).values()]


def _read_torch_export(path: Path) -> Runner:
    module = torch.export.load(path).module()

    def run(images: NDArray[Any]) -> list[NDArray[np.float32]]:
        with torch.inference_mode():
            return [part.numpy() for part in module(torch.from_numpy(images))]

    return run


_WRITERS: dict[Format, Callable[..., None]] = {
    "onnx": _write_onnx,
    "openvino": _write_openvino,
    "torch-export": _write_torch_export,
}
_READERS: dict[Format, Callable[[Path], Runner]] = {
    "onnx": _read_onnx,
    "openvino": _read_openvino,
    "torch-export": _read_torch_export,
}
