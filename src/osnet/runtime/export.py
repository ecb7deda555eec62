"""Exporting networks to files of other runtimes. Each file is compared with the network before it gets its name.

An export writes two files: one takes RGB pixels (uint8, normalisation inside), the other normalised float32 images, as
BoxMOT and Torchreid feed them. Input ``images`` (B, 3, H, W), output ``embeddings`` (B, D), B free; heads are further
outputs. Shapes: B batch, D embedding, C classes, A attributes.
"""

import json
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from osnet.data.loading import list_images, read_image
from osnet.data.transforms import normalize, resize_image, to_fractions
from osnet.errors import DataError, ExportError, ModelError, require_extra
from osnet.files import make_folder, sha256_file, written_aside
from osnet.runtime.backends import generate_pixels, openvino_core
from osnet.runtime.folding import fold
from osnet.runtime.onnx_graph import INPUT, TRACING, UnknownStepError, write_onnx
from osnet.types import Preprocessing
from osnet.weights.checkpoint import Checkpoint, network_sha256
from osnet.weights.file_kinds import check_folder_name

Format = Literal["onnx", "openvino", "torch-export"]
Precision = Literal["fp32", "fp16"]
InputKind = Literal["uint8", "float"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2"}
BATCHES = (1, 3, 8)
"""Batch sizes at which a file is compared with the network."""
FP32_TOLERANCE = 1e-4
"""Largest difference of a component of unit embeddings, and of heads' outputs relative to their largest value."""
ALLOWED: dict[Precision, tuple[float, float]] = {
    "fp32": (FP32_TOLERANCE, 1 - FP32_TOLERANCE),
    "fp16": (0.05, 0.999),
}
"""Largest difference and smallest cosine that a file may have."""

FileRunner = Callable[[NDArray[Any]], list[NDArray[np.float32]]]
"""Runs an exported file: (B, 3, H, W) -> one array per output."""


@dataclass(frozen=True)
class ExportedFile:
    """An exported file, and how it compares with the network."""

    path: Path
    input: InputKind
    outputs: tuple[str, ...]
    sha256: str
    largest_difference: float
    """Over components of unit embeddings and outputs of heads (relative to their largest value), at all batch sizes."""
    smallest_cosine: float
    """Smallest cosine between an embedding of the file and that of the network."""


class WithHeads(nn.Module):
    """A network and heads on its embedding: (B, 3, H, W) -> (B, D), then one tensor per head."""

    def __init__(self, graph: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.network, self.heads = graph, nn.ModuleList(heads.values())  # the name 'graph' belongs to torch.fx

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> embeddings (B, D), then the outputs of the heads in order."""
        embeddings = self.network(images)
        return (embeddings, *[head(embeddings) for head in self.heads])


def find_heads(checkpoint: Checkpoint) -> dict[str, nn.Module]:
    """The heads of a checkpoint by output name.

    ``logits`` (B, C) of the classifier, unless the checkpoint lacks the BNNeck that it was trained with; ``attributes``
    (B, A), probabilities, without the attributes that the card switches off.
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
    overwrite: bool = False,
) -> list[ExportedFile]:
    """Write both files of ``checkpoint`` into ``folder``. A file gets its name only if its outputs are right.

    Args:
        checkpoint: of any network of the library.
        folder: made if it does not exist. File names are ``MODEL_DATA.onnx`` for float and
            ``MODEL_DATA_uint8.onnx`` for pixels.
        format: ``onnx``, ``openvino`` (.xml and .bin), ``torch-export`` (.pt2).
        precision: ``fp32``; or ``fp16``, which halves the file. ONNX and torch-export then compute in
            float16 too; OpenVINO stores float16 weights and computes in the precision that its device prefers.
        outputs: outputs beside ``embeddings`` (see ``find_heads``); by default ``attributes`` if the weights have them.
        images: folder of images to compare on (the first 12 in sorted order); by default generated images.
        overwrite: replace existing files.

    Returns:
        The float file, then the uint8 file.

    Raises:
        ExportError: a file's outputs differ from the network's; the file is deleted.
        ModelError: an unknown format, precision or output.
        DataError: a file exists already, or there are no images in ``images``.
        OutputError: the folder cannot be written to, or its name ends like that of a file, such as ``m.onnx``.
        WeightsError: the tensors of the classifier do not fit the embedding.
        MissingExtraError: a package that the format needs is not installed.
    """
    for value, known in ((format, get_args(Format)), (precision, get_args(Precision))):
        if value not in known:
            raise ModelError(f"unknown {value!r}; choose from {', '.join(known)}")
    check_folder_name(Path(folder), "a folder with two files")
    heads = find_heads(checkpoint)
    by_default = ["attributes"] if "attributes" in heads else []
    wanted = [name for name in outputs if name != "embeddings"] if outputs else by_default
    if "logits" in wanted and checkpoint.lacks_neck:
        raise ModelError(
            "these weights were trained with BNNeck and saved without it, so their logits would be wrong; "
            "run their training command again: it writes the weights anew"
        )
    if unknown := sorted(set(wanted) - set(heads)):
        raise ModelError(f"these weights have no {', '.join(unknown)}; choose from embeddings, {', '.join(heads)}")
    chosen = {name: heads[name] for name in wanted}
    preprocessing = checkpoint.card.preprocessing
    pixels = _pixels_to_compare(images, preprocessing)
    folder = make_folder(folder)
    targets = {kind: folder / f"{_file_stem(checkpoint)}{mark}{SUFFIXES[format]}" for kind, mark in _MARKS.items()}
    suffixes = (SUFFIXES[format], *[".bin"] * (format == "openvino"))
    files = [target.with_suffix(suffix) for target in targets.values() for suffix in suffixes]
    if not overwrite and (there := [str(path) for path in files if path.exists()]):
        raise DataError(f"{', '.join(there)} exists; choose another folder, or pass overwrite=True (--overwrite)")
    return [
        _export_one(checkpoint, target, kind, format, precision, chosen, pixels) for kind, target in targets.items()
    ]


_MARKS: dict[InputKind, str] = {"float": "", "uint8": "_uint8"}


def _export_one(
    checkpoint: Checkpoint,
    target: Path,
    kind: InputKind,
    format: Format,
    precision: Precision,
    heads: Mapping[str, nn.Module],
    pixels: Tensor,
) -> ExportedFile:
    network, preprocessing = checkpoint.build(), checkpoint.card.preprocessing
    graph = WithHeads(fold(network, preprocessing if kind == "uint8" else None), heads).eval().requires_grad_(False)
    names = ("embeddings", *heads)
    about = describe(checkpoint, kind, precision, names)

    def prepare(some: Tensor) -> Tensor:
        return some if kind == "uint8" else normalize(to_fractions(some), preprocessing)

    with ExitStack() as stack:
        aside = stack.enter_context(written_aside(target))
        if format == "openvino":
            stack.enter_context(written_aside(target.with_suffix(".bin")))
        _WRITERS[format](graph, aside, preprocessing.size_hw, names, kind, precision, about)
        run = _READERS[format](aside)
        plain = WithHeads(network, heads).eval()
        with torch.inference_mode():
            expected = plain(normalize(to_fractions(pixels), preprocessing))
        difference, cosine = _compare(run, prepare(pixels), expected, names, precision, target)
        digest = sha256_file(aside)
        if format == "openvino":
            target.unlink(
                missing_ok=True
            )  # an interrupt between the two renames must not leave an old .xml with a new .bin
    return ExportedFile(target, kind, names, digest, difference, cosine)


def describe(checkpoint: Checkpoint, kind: InputKind, precision: str, names: tuple[str, ...]) -> dict[str, str]:
    """Metadata of a file, as strings: everything that is needed to use it."""
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
    """A file name from which BoxMOT recognises the network."""
    card = checkpoint.card
    name = card.name or "osnet"
    stem = name if card.training_data == "unknown" else f"{name}_{card.training_data}"
    # The card may contain any text, a file name may not.
    return re.sub(r"[^\w.+-]+", "-", stem).strip("._-")[:120] or "osnet"


def _pixels_to_compare(images: str | Path | None, preprocessing: Preprocessing) -> Tensor:
    """(12, 3, H, W) uint8, or fewer if the folder has fewer."""
    number = sum(BATCHES)
    if images is None:
        return generate_pixels(number, preprocessing.size_hw)
    paths = [path for _, path in zip(range(number), list_images(images), strict=False)]
    if not paths:
        raise DataError(f"no images in {images}; give a folder that holds some, or leave it out")
    return torch.stack([resize_image(read_image(path), preprocessing) for path in paths])


def _compare(
    run: FileRunner,
    inputs: Tensor,
    expected: tuple[Tensor, ...],
    names: tuple[str, ...],
    precision: Precision,
    target: Path,
) -> tuple[float, float]:
    """The largest difference and the smallest cosine between the file and the network.

    Raises:
        ExportError: one of them is outside ``ALLOWED``, or a shape differs.
    """
    difference, cosine, done = 0.0, 1.0, 0
    for batch in BATCHES:
        rows = torch.arange(done, done + batch) % len(inputs)  # other images at every batch size
        done += batch
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
            if not worst <= allowed or not cosine >= least:  # also true for NaN
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
    with TRACING:
        program = torch.onnx.export(
            graph,
            (example,),
            dynamo=True,
            input_names=[INPUT],
            output_names=list(names),
            verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, about)
    content: bytes = model.SerializeToString()
    return content


def _write_onnx(
    graph: nn.Module,
    aside: Path,
    size_hw: tuple[int, int],
    names: tuple[str, ...],
    kind: InputKind,
    precision: Precision,
    about: dict[str, str],
) -> None:
    aside.write_bytes(_onnx_bytes(graph, size_hw, names, kind, precision == "fp16", about))


def _write_openvino(
    graph: nn.Module,
    aside: Path,
    size_hw: tuple[int, int],
    names: tuple[str, ...],
    kind: InputKind,
    precision: Precision,
    about: dict[str, str],
) -> None:
    openvino = require_extra("openvino", "openvino")
    model = openvino_core().read_model(_onnx_bytes(graph, size_hw, names, kind, False, about))
    for key, value in about.items():
        model.set_rt_info(value, ["osnet", key])
    openvino.save_model(model, aside, compress_to_fp16=precision == "fp16")


def _write_torch_export(
    graph: nn.Module,
    aside: Path,
    size_hw: tuple[int, int],
    _names: tuple[str, ...],
    kind: InputKind,
    precision: Precision,
    about: dict[str, str],
) -> None:
    pixels = generate_pixels(2, size_hw)
    module = Half(graph) if precision == "fp16" else graph
    with TRACING:
        program = torch.export.export(
            module,
            (pixels if kind == "uint8" else pixels.float(),),
            dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1, max=4096)}},
        )
        torch.export.save(program, aside, extra_files={"osnet.json": json.dumps(about)})


class Half(nn.Module):
    """A copy of ``graph`` in float16, with float32 input and outputs."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.network = deepcopy(graph).half()  # the heads in it are those of the other file, too

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) float32 -> the outputs of ``graph`` as float32."""
        return tuple(part.float() for part in self.network(images.half()))


def run_onnx(content: bytes) -> FileRunner:
    """Load the bytes of an ONNX file into ONNX Runtime on the CPU."""
    runtime = require_extra("onnxruntime", "speed")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {INPUT: images})


def _read_onnx(path: Path) -> FileRunner:
    return run_onnx(path.read_bytes())


def _read_openvino(path: Path) -> FileRunner:
    compiled = openvino_core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: [value.copy() for value in compiled({INPUT: images}).values()]


def _read_torch_export(path: Path) -> FileRunner:
    with TRACING:
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
_READERS: dict[Format, Callable[[Path], FileRunner]] = {
    "onnx": _read_onnx,
    "openvino": _read_openvino,
    "torch-export": _read_torch_export,
}
