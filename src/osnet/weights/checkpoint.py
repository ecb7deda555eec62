"""Weights on disk: a folder with a safetensors file and a card with its metadata.

    my_weights/
      card.json                          architecture, preprocessing, classes, data, licence, SHA-256
      weights-6f1d0c2ab9e4.safetensors   the tensors; the name begins with their file's SHA-256

The card names the file with the tensors. It is written last, by an atomic rename, so a crash during a save leaves
either the old weights or the new ones. Loading checks the SHA-256 before it parses the tensors. Single files load
through the same functions (see ``foreign_checkpoints.py``): those of Torchreid and BoxMOT, checkpoints of training
frameworks, safetensors without a card.
"""

import hashlib
import json
import re
import reprlib
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from osnet.errors import ModelError, WeightsError
from osnet.files import TEMPORARY_PREFIX, make_folder, one_writer, sha256_file, write_json, written_aside
from osnet.models.config import NetworkConfig, OSNetConfig
from osnet.models.heads import PREFIX, AttributeHead, build_classifier, build_head, check_classifier, check_head
from osnet.models.network import Network
from osnet.models.registry import build_network, get_config, list_tensors, name_of
from osnet.types import Preprocessing
from osnet.weights.card import CARD_FILE, LICENCE_UNKNOWN, LICENCE_ZOO, Card, read_card
from osnet.weights.file_kinds import SAVE_TENSORS, check_folder_name
from osnet.weights.foreign_checkpoints import Opened, open_checkpoint
from osnet.weights.open_model_zoo import LICENCE, find_by_digest
from osnet.weights.openvino_ir import read_openvino
from osnet.weights.torchreid import (
    choose_config,
    infer_config,
    is_torchreid_path,
    published_distance,
    resembles_published,
    torchreid_names,
    training_data_from_file,
    write_torchreid,
)

HEADS = ("classifier.", PREFIX)
"""Prefixes of the names of head tensors."""
COUNTER = "num_batches_tracked"
"""BatchNorm's count of batches. No embedding depends on it. Some converters and old PyTorch versions leave it out."""
MAX_LISTED = 10
"""An error message lists at most this many tensors."""


@dataclass(frozen=True)
class Checkpoint:
    """The tensors and the metadata of weights."""

    card: Card
    state: dict[str, Tensor]
    """The tensors by their names in this package. ``classifier.*`` and ``attributes.*`` belong to heads."""

    def build(self) -> Network:
        """Build the network with copies of these tensors, in eval mode."""
        network = build_network(self.card.architecture, "meta")
        tensors = {key: value.clone() for key, value in self.state.items() if not key.startswith(HEADS)}
        network.load_state_dict(tensors, assign=True)
        network.card = self.card
        return network.eval()

    def build_attribute_head(self) -> AttributeHead | None:
        """Build the attribute head without the attributes that the card switches off; None if there is no head."""
        return build_head(self.card, self.state)

    def build_classifier(self) -> nn.Linear | None:
        """Build the classifier in eval mode, (B, D) -> logits (B, C); None if there is none.

        Raises:
            WeightsError: its tensors do not fit the embedding or are not finite.
        """
        return build_classifier(self.card, self.state)

    @property
    def lacks_neck(self) -> bool:
        """Whether an older version saved a BNNeck run without the BatchNorm that its classifier needs."""
        headless = "classifier.weight" not in self.state or "classifier.bias" in self.state
        return not headless and not self.card.architecture.neck and self.card.source.startswith("recipe ")


def load_weights(path: str | Path, *, architecture: str | None = None, config: NetworkConfig | None = None) -> Network:
    """Load a network from a checkpoint folder, a checkpoint file or Intel's OpenVINO files, in eval mode.

    ``path`` is one of these:

    * a checkpoint folder or its ``card.json``
    * the folder of a training run or of a gallery, which contains a checkpoint folder ``weights``
    * a PyTorch or safetensors file (``.pth``, ``.pth.tar-60``, ``.ckpt``, ``.safetensors``, ...) with the tensor names
      of Torchreid or of this package; it is recognised by its content and gets Torchreid's preprocessing
    * the ``.xml`` file of an OSNet with Linear Context Transform, with its ``.bin`` file beside it

    Args:
        path: see above.
        architecture: name of the network. It is needed if the tensors do not determine it.
        config: exact settings of the network, instead of a name. If the weights have a neck, it is kept.

    Raises:
        WeightsError: the file is missing, damaged or unsafe, or its tensors belong to another network. The message
            lists the first ten mismatches.
    """
    return read_checkpoint(path, architecture=architecture, config=config).build()


def read_checkpoint(
    path: str | Path, *, architecture: str | None = None, config: NetworkConfig | None = None
) -> Checkpoint:
    """Read the tensors and the card of weights. Arguments and errors are those of ``load_weights``."""
    path = to_path(path)
    if path.name == CARD_FILE:
        path = path.parent
    if not (path / CARD_FILE).exists() and (path / "weights" / CARD_FILE).exists():
        path = path / "weights"  # a training run's folder, or a gallery
    if path.suffix == ".safetensors" and path.is_file() and (path.parent / CARD_FILE).is_file():
        _check_described(path)
        path = path.parent
    if path.is_dir():
        return _read_folder(path, architecture, config)
    if not path.exists():
        raise WeightsError(f"no such weights: {path}")
    if path.suffix == ".xml":
        return _read_openvino_file(path, config or (get_config(architecture) if architecture else None))
    return _read_file(path, architecture, config)


def to_path(path: Any) -> Path:
    """Convert to a ``Path`` after checking that the operating system accepts it.

    Raises:
        WeightsError: ``path`` is empty, is neither a string nor a path, or the operating system does not accept it.
    """
    accepted = "pass a path, or a name that `osnet weights` lists"
    if isinstance(path, Mapping):
        raise WeightsError(
            f"weights is a {type(path).__name__} with {len(path)} entries; save it, torch.save(state, 'weights.pth'), "
            "and pass 'weights.pth'"
        )
    if isinstance(path, nn.Module):
        raise WeightsError(
            f"weights is a torch.nn.Module of the class {type(path).__name__}; {accepted}. If it is an OSNet of "
            f"another library: {SAVE_TENSORS}, and pass 'weights.pth'"
        )
    if not isinstance(path, str | PathLike):
        raise WeightsError(f"weights {reprlib.repr(path)} is a {type(path).__name__}; {accepted}")
    if path == "":
        raise WeightsError(f"the path of the weights is empty; {accepted}")
    try:
        Path(path).exists()
    except (ValueError, OSError) as error:  # the path contains a zero byte or is too long
        raise WeightsError(f"weights {str(path)[:80]!r} is not a valid path: {error}") from None
    return Path(path)


def _check_described(path: Path) -> None:
    """Check that the card beside a safetensors file describes this file. Otherwise another file would be loaded.

    Raises:
        WeightsError: the card describes another file.
    """
    described = path.parent / read_card(path.parent)[1]
    if not described.exists() or not path.samefile(described):
        raise WeightsError(
            f"{path.parent / CARD_FILE} describes {described.name}, not {path.name}; to load {described.name}, pass "
            f"{path.parent}; to load {path.name}, move it to a folder without a {CARD_FILE}"
        )


def save_weights(
    network: Network,
    folder: str | Path,
    card: Card | None = None,
    classifier: Mapping[str, Tensor] | None = None,
    attributes: AttributeHead | None = None,
) -> Card:
    """Save ``network`` as a checkpoint folder. Existing weights are replaced only after the new ones are written.

    Args:
        network: any network of this package.
        folder: the checkpoint folder; created if it does not exist.
        card: the metadata; default: ``network.card``. Architecture, number of classes and SHA-256 are filled in.
        classifier: ``weight`` (C, D) and ``bias`` (C,) of a classifier to store; default: ``network.classifier``.
        attributes: an attribute head to store with the network. Its names and thresholds are written to the card.

    Returns:
        The card that was written.

    Raises:
        WeightsError: a tensor is not finite or has a wrong shape.
        OutputError: the folder cannot be written.
    """
    card = replace(card or network.card or Card(network.config), architecture=network.config)
    state = {key: value.detach().cpu() for key, value in network.state_dict().items()}
    state |= {f"classifier.{key}": value.detach().cpu() for key, value in (classifier or {}).items()}
    state |= {key: value.cpu() for key, value in (attributes.tensors() if attributes else {}).items()}
    names, thresholds = (attributes.names, attributes.thresholds) if attributes else ((), ())
    off = tuple(name for name in card.attributes_off if name in names)
    card = replace(card, attributes=names, attribute_thresholds=thresholds, attributes_off=off)
    return save_checkpoint(Checkpoint(card, state), folder)


def save_checkpoint(checkpoint: Checkpoint, folder: str | Path) -> Card:
    """Write a checkpoint folder atomically and return the card that was written.

    Raises:
        WeightsError: the tensors do not fit the card.
        OutputError: the folder cannot be written, or its name ends like that of a file, such as ``x.safetensors``.
    """
    card = checkpoint.card
    check_folder_name(Path(folder), "a checkpoint folder")
    check_classifier(card, checkpoint.state)
    folder = make_folder(folder)
    _check_state(checkpoint.state, card.architecture, str(folder))
    check_head(card, checkpoint.state, str(folder))
    content = save({key: value.contiguous() for key, value in checkpoint.state.items()})
    digest = hashlib.sha256(content).hexdigest()
    weights_file = f"weights-{digest[:12]}.safetensors"
    num_classes = _num_classes(checkpoint.state)
    card = replace(
        card,
        name=name_of(card.architecture),
        num_classes=num_classes,
        classes=card.classes if num_classes else (),
        sha256=digest,
    )
    ours = re.compile(rf"weights-[0-9a-f]{{12}}\.safetensors|{re.escape(TEMPORARY_PREFIX)}.*(?<!\.lock)")
    with one_writer(folder / CARD_FILE):  # another save would delete these files as leftovers
        with written_aside(folder / weights_file) as aside:
            aside.write_bytes(content)
        write_json(folder / CARD_FILE, card.to_json(weights_file))
        for old in list(folder.iterdir()):  # files that this save replaces, or left over from an interrupted save
            if old.name != weights_file and ours.fullmatch(old.name):
                old.unlink(missing_ok=True)
    return card


def convert(
    source: Checkpoint | str | Path, target: str | Path, *, architecture: str | None = None, overwrite: bool = False
) -> Card:
    """Convert weights to a Torchreid file or to a checkpoint folder, depending on the name of the target.

    Args:
        source: a ``Checkpoint``, or a path of weights; see ``load_weights`` for the accepted formats.
        target: if the name ends in ``.pth``, ``.pt``, ``.tar`` or ``.bin``, a Torchreid file is written: a bare state
            dict, which BoxMOT also reads. Otherwise a checkpoint folder is written, whose name must not end like that
            of another file.
        architecture: name of the network; see ``load_weights``.
        overwrite: replace ``target`` if it exists.

    Returns:
        The card of the converted weights.

    Raises:
        WeightsError: the source cannot be read, its classifier does not fit, or the target exists.
        ModelError: Torchreid has no network with these settings, for example none with a BNNeck or maximum pooling.
        OutputError: the target cannot be written, or it ends in ``.safetensors``, ``.onnx`` or the like.

    Warns:
        UserWarning: a Torchreid file is written, which cannot hold the preprocessing or the attribute head.
    """
    target = Path(target)
    if target.exists() and not overwrite:
        raise WeightsError(f"{target} exists; choose another name, or replace it with overwrite=True (--overwrite)")
    if not is_torchreid_path(target):
        check_folder_name(target, "a checkpoint folder, or for .pth and .pt a file of Torchreid,")
    checkpoint = source if isinstance(source, Checkpoint) else read_checkpoint(source, architecture=architecture)
    if not is_torchreid_path(target):
        return save_checkpoint(checkpoint, target)
    if checkpoint.lacks_neck:
        raise WeightsError(
            f"{checkpoint.card.name} was trained with a BNNeck and saved without it, so its classifier would give "
            f"wrong results in {target}; run its training command again to write complete weights"
        )
    check_classifier(checkpoint.card, checkpoint.state)
    lost = []
    if checkpoint.card.preprocessing != _usual_preprocessing(checkpoint.card.training_data):
        lost.append(f"the preprocessing ({checkpoint.card.preprocessing})")
    if checkpoint.card.attributes:
        lost.append("the attribute head")
    if lost:
        warnings.warn(
            f"{target}: a file of Torchreid cannot hold {' and '.join(lost)}, so it is left out; keep the source, too",
            stacklevel=2,
        )
    write_torchreid(target, checkpoint.state, checkpoint.card.architecture)
    return replace(checkpoint.card, sha256=sha256_file(target))


def _usual_preprocessing(training_data: str) -> Preprocessing:
    """The preprocessing that a file without a card is taken to need."""
    return Preprocessing(size_hw=(224, 224)) if training_data == "imagenet" else Preprocessing()


def network_sha256(network: Network, preprocessing: Preprocessing) -> str:
    """Compute the SHA-256 of everything that determines an embedding: settings, preprocessing and tensors.

    The digest does not depend on the file format: a network converted from Torchreid's format has the same one. It does
    not include BatchNorm counters and heads, because no embedding depends on them.
    """
    digest = hashlib.sha256()
    settings = {"architecture": _decisions(network.config), "preprocessing": _decisions(preprocessing)}
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for key, value in sorted(network.state_dict().items()):
        if not key.endswith(COUNTER) and not key.startswith(HEADS):
            digest.update(f"{key}{tuple(value.shape)}".encode())
            digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _decisions(settings: NetworkConfig | Preprocessing) -> dict[str, Any]:
    """The settings that differ from their defaults, with 1 and 1.0 made equal.

    Defaults are left out so that a setting added in a later version does not change the digest.
    """
    defaults = {field.name: field.default for field in fields(settings)}
    return {
        name: float(value) if isinstance(defaults[name], float) else value
        for name, value in asdict(settings).items()
        if value != defaults[name]
    }


def _read_folder(folder: Path, architecture: str | None, config: NetworkConfig | None) -> Checkpoint:
    card, weights_file = read_card(folder)
    _check_asked(card, folder, architecture, config)
    path = folder / weights_file
    try:
        if (digest := sha256_file(path)) != card.sha256:
            raise WeightsError(f"{path} is damaged: its SHA-256 is {digest}, but its card has {card.sha256}")
        state = load_file(path)
    except (FileNotFoundError, IsADirectoryError):
        if read_card(folder)[1] != weights_file:  # a save replaced the weights meanwhile
            return _read_folder(folder, architecture, config)
        raise WeightsError(f"{path} is missing; {folder / CARD_FILE} refers to it") from None
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a safetensors file: {error}") from error
    check_head(card, state, str(path))
    return Checkpoint(card, _check_state(state, card.architecture, str(path)))


def _check_asked(card: Card, folder: Path, architecture: str | None, config: NetworkConfig | None) -> None:
    """Check that the card's network is the requested one.

    A name matches networks with any embedding size, pooling and neck. Settings must match exactly, except that the card
    may have a neck.

    Raises:
        WeightsError: the card has another network.
    """
    if config is None and (architecture is None or name_of(card.architecture) == architecture):
        return
    requested = config or get_config(str(architecture))
    found, wanted = asdict(card.architecture), asdict(requested)
    if found["neck"] and not wanted["neck"]:
        wanted["neck"] = True
    if type(card.architecture) is type(requested) and found == wanted:
        return
    differing = [
        f"{key} {found.get(key)!r} instead of {wanted.get(key)!r}"
        for key in found | wanted
        if found.get(key) != wanted.get(key)
    ]
    raise WeightsError(
        f"{folder} contains {card.name or card.architecture}, not the requested network "
        f"{architecture or name_of(requested) or requested}: {', '.join(differing)}"
    )


def _read_file(path: Path, architecture: str | None, config: NetworkConfig | None) -> Checkpoint:
    """Read a file without a card, with the tensor names of Torchreid or of this package."""
    opened = open_checkpoint(path)
    state, inferred = opened.state, infer_config(opened.state)
    looks_like = "no OSNet" if inferred is None else name_of(inferred) or str(inferred)
    if config is None:
        config = choose_config(path, state, inferred, architecture)
    shown: dict[str, str] = {}
    if "conv1.conv.weight" in state or ("stem.conv.weight" not in state and isinstance(config, OSNetConfig)):
        try:
            shown = dict(torchreid_names(config))
        except ModelError as error:
            raise WeightsError(
                f"{path} (its tensors look like {looks_like}) cannot be loaded into "
                f"{name_of(config) or config}: {error}"
            ) from error
        ours = {theirs_name: our_name for our_name, theirs_name in shown.items()}
        # Unknown names are kept, so that they are reported as unexpected.
        state = {ours.get(key, key): value for key, value in state.items()}
    if head := [key for key in state if key.startswith(PREFIX)]:
        warnings.warn(
            f"{path}: the attribute head is ignored, because the names of its attributes are in a {CARD_FILE}, which "
            "this file does not have",
            stacklevel=2,
        )
        state = {key: value for key, value in state.items() if key not in head}
    _check_state(state, config, f"{path} (its tensors look like {looks_like})", shown, opened)
    num_classes = _num_classes(state)
    training_data = training_data_from_file(path, num_classes)
    if training_data == "unknown" and resembles_published(path):
        warnings.warn(
            f"{path}: its name and its {num_classes} classes are not those of a published file; its training data are "
            "taken as unknown, and its images are prepared as those of people",
            stacklevel=2,
        )
    digest = sha256_file(path)
    place = "" if opened.place in ("", "state_dict") else f", {opened.place} of it"
    card = Card(
        architecture=config,
        name=name_of(config),
        preprocessing=_usual_preprocessing(training_data),
        num_classes=num_classes,
        training_data=training_data,
        licence=LICENCE_UNKNOWN if training_data == "unknown" else LICENCE_ZOO,
        source=f"{path.name} (sha256 {digest}){place}",
        sha256=digest,
        distance=published_distance(config, training_data),
    )
    return Checkpoint(card, state)


def _read_openvino_file(path: Path, expected: NetworkConfig | None) -> Checkpoint:
    found = read_openvino(path)
    if expected is not None and expected != found.config:
        raise WeightsError(f"{path} contains {found.config}, not the requested network {expected}")
    digest, digest_xml = sha256_file(path.with_suffix(".bin")), sha256_file(path)
    known = find_by_digest(digest)
    card = Card(
        architecture=found.config,
        name=name_of(found.config),
        preprocessing=found.preprocessing,
        licence=LICENCE if known else LICENCE_UNKNOWN,
        source=f"{'Open Model Zoo: ' if known else ''}{path.stem}.bin (sha256 {digest}) and {path.name} (sha256 "
        f"{digest_xml}); their first steps, from BGR in 0 to 255 to normalised RGB, are this card's preprocessing",
        sha256=digest,
    )
    return Checkpoint(card, _check_state(found.state, found.config, str(path)))


def _num_classes(state: Mapping[str, Tensor]) -> int:
    head = state.get("classifier.weight")
    return head.shape[0] if head is not None and head.ndim == 2 else 0


def _check_state(
    state: dict[str, Tensor],
    config: NetworkConfig,
    source: str,
    shown_as: Mapping[str, str] | None = None,
    opened: Opened | None = None,
) -> dict[str, Tensor]:
    """Check the tensors and return them as float32. Heads are not checked. Missing BatchNorm counters are set to 0.

    Args:
        state: tensors by their names in this package.
        config: settings of the network that they must fit.
        source: what the tensors were read from, for error messages.
        shown_as: maps names of this package to names in the file, for error messages.
        opened: the file that they were read from, for error messages.

    Raises:
        WeightsError: tensors are missing, unexpected, not finite, or have another shape or type. The message lists up
            to ``MAX_LISTED`` of them.
    """
    shown = shown_as or {}
    expected = list_tensors(config)
    for key in expected:
        if key.endswith(COUNTER):
            state[key] = _as_counter(state.get(key))
    body = {key: value for key, value in state.items() if not key.startswith(HEADS)}
    problems = [f"missing: {shown.get(key, key)}" for key in expected if key not in body]
    unexpected = [key for key in body if key not in expected]
    problems += [f"unexpected: {shown.get(key, key)}" for key in unexpected]
    for key, wanted in expected.items():
        value = body.get(key)
        if value is None:
            continue
        if value.shape != wanted.shape:
            problems.append(f"shape of {shown.get(key, key)}: {list(value.shape)} instead of {list(wanted.shape)}")
        elif value.is_floating_point() != wanted.is_floating_point():
            problems.append(f"type of {shown.get(key, key)}: {value.dtype} instead of {wanted.dtype}")
        elif not torch.isfinite(value).all():
            problems.append(f"not finite: {shown.get(key, key)}")
    if problems:
        listed = problems[:MAX_LISTED]
        if len(problems) > MAX_LISTED:
            listed.append(f"and {len(problems) - MAX_LISTED} more")
        if opened and len(unexpected) == len(problems) and opened.outside.issuperset(unexpected):
            module = opened.prefix.removesuffix(".")
            listed.append(
                f"the OSNet is {module} in this file; to use it without what follows it, such as a BNNeck, save it "
                f"alone: torch.save(model.{module}.state_dict(), 'weights.pth')"
            )
        raise WeightsError(f"{source} does not fit the network, in {len(problems)} tensors:\n  " + "\n  ".join(listed))
    for key, value in state.items():
        if value.is_floating_point():
            state[key] = value.float()
    return state


def _as_counter(value: Tensor | None) -> Tensor:
    """A counter as an integer tensor; 0 if it is missing or invalid."""
    if value is None or value.numel() != 1 or value.is_complex() or not torch.isfinite(value).all():
        return torch.tensor(0)
    return value.reshape(()).long()
