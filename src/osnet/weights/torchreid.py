"""Torchreid's checkpoint files: its names for tensors, what its files' names say, and how such files are written.

Facts from the authors' code and files: keys of plain, IBN and AIN networks; zoo files are bare state
dicts, sometimes with ``module.`` in front; training files are ``{"state_dict": ..., "rank1": ...}``
where ``rank1`` may be a NumPy scalar, which ``torch.load`` refuses since 2.6 (Torchreid issue #592).
BoxMOT carries the same files as ``osnet_x0_25_msmt17.pt``. ``opening.py`` opens them.
"""

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from osnet.errors import ModelError, WeightsError
from osnet.files import written_aside
from osnet.models.config import NetworkConfig, Normalization, OSNetConfig
from osnet.models.registry import VARIANTS, get_config, list_tensors, name_of
from osnet.types import Distance
from osnet.weights.file_kinds import SAVE_TENSORS

SUFFIXES = (".pth", ".pt", ".tar", ".bin")
"""How files end that are written for Torchreid; also ``model.pth.tar-60``."""

_STREAM_LETTERS = "abcd"


def is_torchreid_path(path: Path) -> bool:
    """True if the name is one that Torchreid or BoxMOT would give."""
    return path.suffix in SUFFIXES or ".pth.tar-" in path.name


def name_from_file(path: Path) -> str | None:
    """The network's name if the file's name holds one: ``osnet_ain_x1_0_msmt17.pt`` -> ``osnet_ain_x1_0``."""
    held = [name for name in VARIANTS if re.search(rf"{name}(?![a-z0-9])", path.name)]
    return max(held, key=len, default=None)


def is_torchreid_name(name: str) -> bool:
    """True if Torchreid has a network of this name."""
    return re.fullmatch(r"osnet(_ibn|_ain)?_x\d+_\d+", name) is not None


def training_data_from_file(path: Path, num_classes: int) -> str:
    """What the weights were trained on, by the file's name; ``unknown`` where it says nothing.

    The number of classes corrects it in one case, because names mislead: 4,101 are all people of MSMT17,
    test people included, and 1,041 those of its training split.
    """
    match = re.search(r"osnet(_ibn|_ain)?_x\d+_\d+_(imagenet|market|duke|msmt17)(\w*)", path.name)
    if not match:
        return "unknown"
    norm, data, rest = match.groups()
    if data == "msmt17" and num_classes != 1041 and (norm or rest.startswith("_combineall") or num_classes == 4101):
        return "msmt17_combineall"
    return {"market": "market1501", "duke": "dukemtmcreid"}.get(data, data)


def published_distance(config: NetworkConfig, training_data: str) -> Distance | None:
    """By which distance the model zoo scored such weights: cosine for AIN, by its config; else Torchreid's default.

    On Market-1501 the figures printed of the plain networks are met by the Euclidean one alone (docs/results.md).
    """
    if training_data in ("unknown", "imagenet"):
        return None
    return "cosine" if isinstance(config, OSNetConfig) and config.norm == "ain" else "euclidean"


def torchreid_names(config: NetworkConfig) -> "OrderedDict[str, str]":
    """Our tensor name -> Torchreid's, in Torchreid's order, classifier excluded.

    Raises:
        ModelError: Torchreid has no such network, so it has no names for it.
    """
    if not isinstance(config, OSNetConfig):
        raise ModelError(f"only OSNets can be exchanged with Torchreid, not {config.family}")
    plain = OSNetConfig(
        width=config.width, norm=config.norm, pooling=config.pooling, embedding_size=config.embedding_size
    )
    if config != plain:
        settings = [k for k in OSNetConfig.__dataclass_fields__ if getattr(config, k) != getattr(plain, k)]
        raise ModelError(
            f"Torchreid has no network with {', '.join(f'{k}={getattr(config, k)!r}' for k in settings)}; "
            "only plain, IBN and AIN OSNets of depth 2-2-2 can be exchanged with it"
        )
    keys = list_tensors(config)
    return OrderedDict((key, _to_torchreid(key, config.norm)) for key in keys)


def _to_torchreid(key: str, norm: Normalization) -> str:
    ain = norm == "ain"
    if re.match(r"conv[234]\.\d\.expand\.norm", key) and ain and _is_instance_norm(key):
        return key.replace("expand.norm", "IN")

    def stream(match: re.Match[str]) -> str:
        t, j = int(match[1]), match[2]
        if ain:
            return f"conv2.{t}.layers.{j}."
        return f"conv2{_STREAM_LETTERS[t]}." + (f"{j}." if t else "")

    key = re.sub(r"streams\.(\d)\.(\d)\.", stream, key)
    key = re.sub(r"^transition(\d)\.mix\.", r"pool\1.0." if ain else r"conv\1.2.0.", key)
    for ours, theirs in (
        (r"^stem\.", "conv1."),
        (r"\.reduce\.(conv|norm)\.", r".conv1.\1."),
        (r"\.expand\.(conv|norm)\.", r".conv3.\1."),
        (r"\.aggregate\.gate\.reduce\.", ".gate.fc1."),
        (r"\.aggregate\.gate\.expand\.", ".gate.fc2."),
        (r"\.shortcut\.", ".downsample."),
        (r"\.instance_norm\.", ".IN."),
        (r"\.pointwise\.", ".conv1."),
        (r"\.depthwise\.", ".conv2."),
        (r"^embedding\.linear\.", "fc.0."),
        (r"^embedding\.norm\.", "fc.1."),
        (r"\.norm\.", ".bn."),
    ):
        key = re.sub(ours, theirs, key)
    return key


def _is_instance_norm(key: str) -> bool:
    """AIN blocks of depth 2-2-2 that normalise inside the residual."""
    return key.startswith(("conv2.0.", "conv2.1.", "conv3.1.", "conv4.0."))


def infer_config(state: Mapping[str, Tensor]) -> OSNetConfig | None:
    """The network that tensors belong to, by their names (Torchreid's or ours) and shapes; None if it is no OSNet.

    Pooling leaves no tensors, so it is taken to be the average.
    """
    ours = "stem.conv.weight" in state
    stem = state.get("stem.conv.weight" if ours else "conv1.conv.weight")
    linear = state.get("embedding.linear.weight" if ours else "fc.0.weight")
    if stem is None or linear is None or stem.ndim != 4 or linear.ndim != 2:
        return None
    try:
        plain = OSNetConfig(width=stem.shape[0] / 64, embedding_size=linear.shape[0], neck="neck.weight" in state)
    except ModelError:
        return None
    if ours:
        return _infer_ours(state, replace(plain, stem="cifar" if stem.shape[2] == 3 else "imagenet"))
    if "conv2.0.conv2.0.layers.0.conv1.weight" in state:
        return replace(plain, norm="ain")
    return replace(plain, norm="ibn") if "conv2.0.IN.weight" in state else plain


def choose_config(
    path: Path, state: Mapping[str, Tensor], inferred: OSNetConfig | None, architecture: str | None
) -> NetworkConfig:
    """What the caller named, else what the tensors tell, else what the file's name tells.

    Where a file of Torchreid's is called after another network than its tensors are, the name is taken, so that the
    tensors are refused. A name says nothing of the embedding's size: for that the tensors count.

    Raises:
        WeightsError: nothing tells.
    """
    named = architecture or name_from_file(path)
    if inferred is not None:
        contradicts = named is not None and named != name_of(inferred) and (architecture or is_torchreid_name(named))
        return get_config(str(named)) if contradicts else inferred
    if named is None:
        raise WeightsError(
            f"{path}: neither its name nor its {len(state)} tensors ({', '.join(list(state)[:3])}, ...) tell which "
            f"OSNet it is; give its name as architecture, or save an OSNet's tensors alone: {SAVE_TENSORS}"
        )
    return get_config(named)


def _infer_ours(state: Mapping[str, Tensor], plain: OSNetConfig) -> OSNetConfig:
    """The named network with exactly these tensors' shapes; ``plain`` with the norms that the names tell, if none."""
    norms = {"conv2.0.instance_norm.weight": "ibn", "conv2.0.expand.norm.running_mean": "bn"}
    norm: Any = next((norm for key, norm in norms.items() if key in state), "ain")
    plain = replace(plain, norm=norm)
    shapes = _shapes({k: v for k, v in state.items() if not k.startswith(("classifier.", "attributes."))})
    dials: dict[str, Any] = {"stem": plain.stem, "embedding_size": plain.embedding_size, "neck": plain.neck}
    named = [variant.config for variant in VARIANTS.values() if isinstance(variant.config, OSNetConfig)]
    for config in [plain, *(replace(one, **dials) for one in named if one.width == plain.width)]:
        if _shapes(list_tensors(config)) == shapes:
            return config
    return plain


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items() if not key.endswith("num_batches_tracked")}


def write_torchreid(path: str | Path, state: dict[str, Tensor], config: NetworkConfig) -> None:
    """Write our tensors as a Torchreid file: a bare state dict under Torchreid's names.

    Raises:
        ModelError: Torchreid has no such network.
    """
    names = torchreid_names(config)
    theirs = OrderedDict((names[key], state[key].contiguous().clone()) for key in names)
    head = [key for key in ("classifier.weight", "classifier.bias") if key in state]
    theirs.update((key, state[key].contiguous().clone()) for key in head)
    with written_aside(path) as aside:
        torch.save(theirs, aside)
