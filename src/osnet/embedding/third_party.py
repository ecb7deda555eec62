"""Networks of other projects, run from their files: ONNX, or OpenVINO's .xml and .bin, with a card for preprocessing.

Any network with one image input and one embedding output can be used. Its card is ``NAME.card.json`` beside the file,
``card.json`` in a folder with it (as a gallery keeps it), or the metadata of an ONNX file that ``osnet export`` wrote.
The runtime gets the file's bytes and not its path, so a file cannot make it open other files.
Shapes: B batch, D embedding, H, W the network's input size.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize as unit_length

from osnet.data.loading import list_images, read_image
from osnet.data.transforms import normalize, resize_image, to_fractions
from osnet.errors import DataError, ModelError, WeightsError, require_extra
from osnet.files import check_fields, make_folder, write_json, written_aside
from osnet.models.network import Network
from osnet.runtime.backends import Runner, count_cores, generate_pixels, openvino_core
from osnet.runtime.onnx_graph import zero_tiny_weights
from osnet.types import ChannelOrder, Interpolation, Preprocessing
from osnet.weights.card import CARD_FILE, LICENCE_UNKNOWN, Card

FORMAT = "osnet-third-party-1"
SUFFIXES = (".onnx", ".xml")
SEPARATORS = frozenset("/\\:\0")
"""Characters that a file's name must not contain: it is stored in the card, which is read on any system."""
MAX_FILE_BYTES = 4 * 2**30
MIN_SPREAD = 1e-3
"""If all cosines between different images are above 1 - ``MIN_SPREAD``, the network is rejected. This is also the
tolerance for the difference between embeddings of an image alone and in a batch."""
NUM_CHECKED = 32
"""Maximum number of images that ``write_card`` embeds."""


@dataclass(frozen=True)
class ThirdPartyConfig:
    """Properties of the file."""

    file: str
    embedding_size: int
    """D."""
    smallest_side: int = 1
    fixed_size_hw: tuple[int, int] | None = None


@dataclass(frozen=True)
class ThirdPartyCard(Card):
    """The card of a file. ``sha256`` is that of the file; for OpenVINO, of the .xml and the .bin concatenated."""

    architecture: ThirdPartyConfig  # type: ignore[assignment]  # the file is the network; there are no settings to build it

    def to_json(self, weights_file: str) -> dict[str, Any]:
        """The content of ``NAME.card.json``."""
        return {
            "format": FORMAT,
            "weights": weights_file,
            "sha256": self.sha256,
            "name": self.name,
            "embedding_size": self.architecture.embedding_size,
            "preprocessing": asdict(self.preprocessing),
            "training_data": self.training_data,
            "licence": self.licence,
            "source": self.source,
        }


@dataclass(frozen=True)
class ModelFile:
    """The bytes of a network, read once, so that the hashed bytes are those that run."""

    path: Path
    content: bytes = field(repr=False)
    constants: bytes = field(default=b"", repr=False)
    """Content of the .bin beside an .xml."""

    @property
    def sha256(self) -> str:
        """SHA-256 of the concatenated files, in hexadecimal."""
        return hashlib.sha256(self.content + self.constants).hexdigest()


class ThirdPartyNetwork(Network):
    """A file as a network: normalised images (B, 3, H, W) -> (B, D). It runs on the CPU and cannot be trained.

    Attributes:
        runtime: ``onnxruntime`` or ``openvino``.
    """

    config: ThirdPartyConfig  # type: ignore[assignment]
    card: ThirdPartyCard

    def __init__(self, file: ModelFile, card: ThirdPartyCard, session: "Session") -> None:
        super().__init__()
        self.file, self.card, self.config, self.session = file, card, card.architecture, session
        self.runtime = session.runtime

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W), in the card's channel order -> (B, D)."""
        return torch.from_numpy(self.session(x.detach().cpu().numpy()))

    def feature_map(self, x: Tensor) -> Tensor:
        """Not available.

        Raises:
            ModelError: always.
        """
        raise ModelError(f"{self.file.path} gives only embeddings; feature maps need a network of this package")

    def sha256(self, preprocessing: Preprocessing) -> str:
        """SHA-256 of the file's digest and the preprocessing, which together determine an embedding."""
        settings = json.dumps(asdict(preprocessing), sort_keys=True)
        return hashlib.sha256(f"{self.card.sha256} {settings}".encode()).hexdigest()


class Session:
    """A file loaded into its runtime: images (B, 3, H, W) float32 -> (B, D) float32.

    Raises:
        WeightsError: the runtime cannot read the file, or it does not have one image input and one embedding output;
            the message lists its inputs and outputs.
        MissingExtraError: the runtime is not installed.
    """

    def __init__(self, file: ModelFile) -> None:
        self.path = file.path
        self.metadata: dict[str, str] = {}
        self._run: Runner
        if file.path.suffix == ".onnx":
            self.runtime, inputs, outputs = "onnxruntime", *self._open_onnx(file)
        else:
            self.runtime, inputs, outputs = "openvino", *self._open_openvino(file)
        self.found = f"inputs {_listed(inputs)}; outputs {_listed(outputs)}"
        if len(inputs) != 1 or len(outputs) != 1:
            raise self._unfit("one input and one output are needed")
        (_, shape, kind), (_, out_shape, _) = inputs[0], outputs[0]
        if len(shape) != 4 or 3 not in (shape[1], shape[3]):
            raise self._unfit("the input must be images (batch, 3, height, width) or (batch, height, width, 3)")
        if kind not in _KINDS:
            raise self._unfit(f"the input must be {', '.join(_KINDS)}")
        if len(out_shape) not in (2, 4) or any(side not in (1, None) for side in out_shape[2:]):
            raise self._unfit("the output must be embeddings (batch, size)")
        self.channels_first = shape[1] == 3
        self.kind = _KINDS[kind]
        self.batch = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None
        """The fixed batch size of the file; None if it is free."""
        sides = shape[2:] if self.channels_first else shape[1:3]
        self.size_hw = (sides[0], sides[1]) if all(isinstance(side, int) and side > 0 for side in sides) else None
        """The fixed height and width of the images; None if they are free."""

    def _unfit(self, reason: str) -> WeightsError:
        return WeightsError(f"{self.path} cannot be used: {reason}. Found: {self.found}")

    def _open_onnx(self, file: ModelFile) -> tuple[list["_Port"], list["_Port"]]:
        runtime = require_extra("onnxruntime", "speed")
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = count_cores()
        try:
            content = zero_tiny_weights(file.content)
            session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime raises many types of errors
            raise WeightsError(f"{file.path} cannot be read by ONNX Runtime: {error}") from error
        self.metadata = dict(session.get_modelmeta().custom_metadata_map)
        inputs, outputs = session.get_inputs(), session.get_outputs()
        name = inputs[0].name if inputs else ""
        self._run = lambda images: session.run(None, {name: images})[0]
        return [_onnx_port(one) for one in inputs], [_onnx_port(one) for one in outputs]

    def _open_openvino(self, file: ModelFile) -> tuple[list["_Port"], list["_Port"]]:
        core = openvino_core()
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": str(count_cores())}
        try:
            model = core.read_model(file.content, file.constants)
            compiled = core.compile_model(model, "CPU", settings)
        except Exception as error:
            raise WeightsError(f"{file.path} cannot be read by OpenVINO: {error}") from error

        def run(images: NDArray[Any]) -> NDArray[np.float32]:
            request = compiled.create_infer_request()
            return next(iter(request.infer({0: images}).values())).copy()

        self._run = run
        return [_openvino_port(one) for one in model.inputs], [_openvino_port(one) for one in model.outputs]

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embed images. If the file has a fixed batch size, they are run in parts of this size; the last is padded."""
        if not self.channels_first:
            images = images.transpose(0, 2, 3, 1)
        if self.kind is np.uint8:
            images = np.clip(np.rint(images), 0, 255)
        images = np.ascontiguousarray(images, dtype=self.kind)
        step = self.batch or max(1, len(images))
        rows = []
        for start in range(0, len(images), step):
            part = images[start : start + step]
            if self.batch and len(part) < self.batch:
                part = np.concatenate([part, np.repeat(part[-1:], self.batch - len(part), axis=0)])
            found = np.asarray(self._run(part), dtype=np.float32).reshape(len(part), -1)
            rows.append(found[: len(images) - start])
        return np.concatenate(rows)


_Port = tuple[str, tuple[int | str | None, ...], str]
"""Name, shape and type of an input or output."""
_KINDS = {"float32": np.float32, "float16": np.float16, "uint8": np.uint8}


def _listed(ports: list[_Port]) -> str:
    shown = [f"{name} {kind} ({', '.join(map(str, shape))})" for name, shape, kind in ports]
    return ", ".join(shown) or "none"


def _onnx_port(port: Any) -> _Port:
    kinds = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}
    return port.name, tuple(port.shape), kinds.get(port.type, port.type)


def _openvino_port(port: Any) -> _Port:
    kinds = {"f32": "float32", "f16": "float16", "u8": "uint8"}
    shape = tuple(side.get_length() if side.is_static else None for side in port.partial_shape)
    kind = port.element_type.get_type_name()
    return port.any_name if port.names else "unnamed", shape, kinds.get(kind, kind)


def is_third_party(model: object) -> bool:
    """Whether ``load_third_party`` can read ``model``: an .onnx file, an .xml file with a card, or a folder with
    either.

    The folder may be a gallery. An .xml file without a card is not accepted, because it may be one of Intel's OSNets,
    whose weights are read into an ``OSNet``.
    """
    if not isinstance(model, str | PathLike) or model == "":
        return False
    path = Path(model)
    try:
        path.exists()
    except (ValueError, OSError):  # the path contains a zero byte or is too long
        return False
    if path.suffix == ".onnx":
        return path.is_file()
    if path.suffix == ".xml":
        return path.is_file() and card_path(path).is_file()
    return _find_folder(path) is not None


def card_path(path: Path) -> Path:
    """The path of a file's card: ``model.card.json`` beside ``model.onnx``."""
    return path.with_suffix(".card.json")


def _find_folder(path: Path) -> Path | None:
    """The folder with a card of this kind: ``path`` itself, or ``weights`` in it; else None."""
    for folder in (path.parent if path.name == CARD_FILE else path, path / "weights"):
        card = folder / CARD_FILE
        if (
            card.is_file()
            and card.stat().st_size < 2**20
            and FORMAT in card.read_text(encoding="utf-8", errors="ignore")
        ):
            return folder
    return None


def load_third_party(model: str | Path) -> ThirdPartyNetwork:
    """Load the network in a file, with its card.

    Raises:
        WeightsError: the file or its card is missing, the card belongs to another file, or the file cannot be used.
        MissingExtraError: the runtime is not installed.
    """
    path = Path(model)
    folder = _find_folder(path)
    own_card = folder / CARD_FILE if folder is not None else card_path(path)
    if not own_card.is_file():
        file = read_model_file(path)
        session = Session(file)
        if (card := _card_in_metadata(file, session)) is not None:
            return ThirdPartyNetwork(file, card, session)
        size = "x".join(map(str, session.size_hw)) if session.size_hw else "256x128"
        raise WeightsError(
            f"{path} has no card with its preprocessing, neither {own_card.name} beside it nor in "
            f"its metadata. Found: {session.found}. Write one: osnet card {path} --size {size} --order rgb --scale 255"
        )
    card, name = _read_card(own_card)
    if folder is None and name != path.name:
        raise WeightsError(f"{own_card} is the card of {name}, not of {path.name}")
    file = read_model_file(own_card.parent / name)
    if file.sha256 != card.sha256:
        raise WeightsError(
            f"{file.path} is not the file that {own_card} was written for: its SHA-256 is {file.sha256} instead of "
            f"{card.sha256}"
        )
    session = Session(file)
    _check_size(session, card.preprocessing)
    return ThirdPartyNetwork(file, card, session)


def read_model_file(path: Path) -> ModelFile:
    """Read an .onnx file, or an .xml file and its .bin.

    Raises:
        WeightsError: a file is missing, of another kind, or larger than ``MAX_FILE_BYTES``.
    """
    if path.suffix not in SUFFIXES:
        raise WeightsError(
            f"{path} ends in {path.suffix or 'nothing'}; third-party networks end in {', '.join(SUFFIXES)}"
        )
    parts = [path] if path.suffix == ".onnx" else [path, path.with_suffix(".bin")]
    for part in parts:
        if not part.is_file():
            raise WeightsError(f"no such file: {part}")
        if part.stat().st_size > MAX_FILE_BYTES:
            raise WeightsError(f"{part} has {part.stat().st_size:,} bytes; at most {MAX_FILE_BYTES:,} are allowed")
    return ModelFile(path, *(part.read_bytes() for part in parts))


def _check_size(session: Session, preprocessing: Preprocessing) -> None:
    if session.size_hw not in (None, preprocessing.size_hw):
        raise WeightsError(
            f"{session.path} takes images of {session.size_hw} pixels (height, width), not of {preprocessing.size_hw}. "
            f"Found: {session.found}"
        )


def _read_card(path: Path) -> tuple[ThirdPartyCard, str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise WeightsError(f"{path} is not a card of a third-party network: its format is not {FORMAT!r}")
        name, preprocessing = content.pop("weights"), content.pop("preprocessing")
        config = ThirdPartyConfig(name, content.pop("embedding_size"))
        card = ThirdPartyCard(config, preprocessing=_read_preprocessing(preprocessing), **content)
        check_fields(card)
    except WeightsError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path} cannot be read: {error!r}") from error
    if set(name) & SEPARATORS:
        raise WeightsError(f"{path} names the file {name!r}, which is not a plain name in its own folder")
    return card, name


def _read_preprocessing(settings: dict[str, Any]) -> Preprocessing:
    """Make a ``Preprocessing`` from its JSON object. Raises ValueError or TypeError for invalid values."""
    lists: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    preprocessing = Preprocessing(**lists)
    check_fields(preprocessing)
    return preprocessing


def _card_in_metadata(file: ModelFile, session: Session) -> ThirdPartyCard | None:
    """The card in the metadata of an ONNX file that ``osnet export`` wrote; else None."""
    about = session.metadata
    if not {"preprocessing", "input", "weights_sha256"} <= about.keys():
        return None
    try:
        preprocessing = _read_preprocessing(json.loads(about["preprocessing"]))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{file.path}: its metadata cannot be read: {error!r}") from error
    if session.kind is np.uint8:  # normalisation is part of the network in the file
        preprocessing = replace(preprocessing, mean=(0.0,) * 3, std=(1 / 255,) * 3, channel_order="rgb")
    return ThirdPartyCard(
        ThirdPartyConfig(file.path.name, _measure_size(session, preprocessing.size_hw)),
        name=about.get("model") or file.path.stem,
        preprocessing=preprocessing,
        training_data=about.get("training_data", "unknown"),
        licence=about.get("licence", LICENCE_UNKNOWN),
        source=f"{file.path.name} (sha256 {file.sha256})",
        sha256=file.sha256,
    )


def _measure_size(session: Session, size_hw: tuple[int, int]) -> int:
    """Determine D by running one image."""
    try:
        return int(session(np.zeros((1, 3, *size_hw), np.float32)).shape[1])
    except Exception as error:  # the runtime raises many types of errors
        raise WeightsError(
            f"{session.path} does not run on images of {size_hw}: {error}. Found: {session.found}"
        ) from error


def scaled(
    size_hw: tuple[int, int],
    order: ChannelOrder = "rgb",
    scale: float = 255.0,
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
    std: tuple[float, float, float] = (1.0, 1.0, 1.0),
    interpolation: Interpolation = "bilinear",
) -> Preprocessing:
    """Express (pixel / scale - mean) / std as a ``Preprocessing``, whose mean and std are fractions of 255.

    Args:
        size_hw: height and width of the network's input, in pixels.
        order: channel order that the network expects.
        scale: divisor of the pixel values 0 to 255. 255 gives fractions; 1 leaves the values unchanged.
        mean, std: mean and standard deviation per channel, in ``order``, after the division by ``scale``.
        interpolation: filter with which crops are resized.

    Raises:
        ModelError: scale or std is not positive, a value is not finite, or a size is outside 1 to 4096 pixels.
    """
    if not (np.isfinite([scale, *mean, *std]).all() and scale > 0 and min(std) > 0):
        raise ModelError(f"scale {scale} and std {std} must be positive, and mean {mean} finite")
    means, stds = ([value * scale / 255 for value in values] for values in (mean, std))
    try:
        return Preprocessing(
            size_hw, (means[0], means[1], means[2]), (stds[0], stds[1], stds[2]), interpolation, channel_order=order
        )
    except ValueError as error:
        raise ModelError(str(error)) from error


@dataclass(frozen=True)
class Checked:
    """Result of ``write_card``."""

    card: ThirdPartyCard
    path: Path
    """Path of the card."""
    found: str
    """Inputs and outputs of the network."""
    num_images: int
    cosines: tuple[float, float, float]
    """Smallest, median and largest cosine between different images."""


def write_card(
    model: str | Path,
    preprocessing: Preprocessing,
    images: str | Path | None = None,
    *,
    name: str = "",
    training_data: str = "unknown",
    licence: str = LICENCE_UNKNOWN,
    overwrite: bool = False,
) -> Checked:
    """Run a third-party network with a preprocessing, check the embeddings, and write ``NAME.card.json`` beside it.

    Args:
        model: an .onnx file, or an .xml file with its .bin.
        preprocessing: preprocessing of the network; see ``scaled``.
        images: folder of crops for the check; the first 32 are used. Default: generated images.
        name: name of the network; default: the name of the file.
        training_data, licence: texts for the card.
        overwrite: replace an existing card.

    Raises:
        WeightsError: the file cannot be used, or its embeddings are zero, not finite, the same for all images, or
            different for an image alone and in a batch.
        DataError: the card exists, or the folder has fewer than two images.
    """
    path = Path(model)
    target = card_path(path)
    if target.exists() and not overwrite:
        raise DataError(f"{target} exists; pass overwrite=True (--overwrite) to replace it")
    file = read_model_file(path)
    if odd := sorted(set(path.name) & SEPARATORS):
        raise WeightsError(f"{path}: a card cannot name a file with {odd[0]!r} in its name; rename it")
    session = Session(file)
    _check_size(session, preprocessing)
    pixels = _read_pixels(images, preprocessing)
    config = ThirdPartyConfig(path.name, _measure_size(session, preprocessing.size_hw))
    card = ThirdPartyCard(
        config,
        name=name or path.stem,
        preprocessing=preprocessing,
        training_data=training_data,
        licence=licence,
        source=f"{path.name} (sha256 {file.sha256})",
        sha256=file.sha256,
    )
    vectors = ThirdPartyNetwork(file, card, session)(normalize(to_fractions(pixels), preprocessing))
    alone = session(normalize(to_fractions(pixels[:1]), preprocessing).numpy())
    cosines = _check_vectors(path, vectors, torch.from_numpy(alone))
    write_json(target, card.to_json(path.name))
    return Checked(card, target, session.found, len(pixels), cosines)


def _read_pixels(images: str | Path | None, preprocessing: Preprocessing) -> Tensor:
    if images is None:
        return generate_pixels(8, preprocessing.size_hw)
    paths = [path for path, _ in zip(list_images(images), range(NUM_CHECKED), strict=False)]
    if len(paths) < 2:
        raise DataError(f"{images} has {len(paths)} images; the check needs at least 2")
    return torch.stack([resize_image(read_image(path), preprocessing) for path in paths])


def _check_vectors(path: Path, vectors: Tensor, alone: Tensor) -> tuple[float, float, float]:
    """Smallest, median and largest cosine between different images. Raises WeightsError as ``write_card``."""
    lengths = vectors.norm(dim=1)
    if not bool(torch.isfinite(lengths).all()) or not bool((lengths > 0).all()):
        raise WeightsError(f"{path} gives embeddings that are zero or not finite; check scale and channel order")
    units = unit_length(vectors)
    if float((units[:1] - unit_length(alone)).abs().max()) > MIN_SPREAD:
        raise WeightsError(f"{path} gives different embeddings for an image alone and in a batch")
    between = (units @ units.T)[torch.triu(torch.ones(len(units), len(units), dtype=torch.bool), 1)]
    if float(between.min()) > 1 - MIN_SPREAD:
        raise WeightsError(
            f"{path} gives all {len(units)} images the same embedding (smallest cosine {float(between.min()):.6f}); "
            "check scale and channel order"
        )
    return float(between.min()), float(between.median()), float(between.max())


def save_third_party(network: ThirdPartyNetwork, folder: str | Path, preprocessing: Preprocessing) -> None:
    """Copy the file into ``folder`` and write its card, ``card.json``, last."""
    folder, file = make_folder(folder), network.file
    for path, content in ((file.path, file.content), (file.path.with_suffix(".bin"), file.constants)):
        if path is file.path or content:
            with written_aside(folder / path.name) as aside:
                aside.write_bytes(content)
    write_json(folder / CARD_FILE, replace(network.card, preprocessing=preprocessing).to_json(file.path.name))
