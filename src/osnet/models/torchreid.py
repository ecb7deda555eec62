"""Torchreid's checkpoint files: read without unpickling anything unsafe, and written.

Facts from the authors' code and files: keys of plain, IBN and AIN networks; zoo files are bare state
dicts, sometimes with ``module.`` in front; training files are ``{"state_dict": ..., "rank1": ...}``
where ``rank1`` may be a NumPy scalar, which ``torch.load`` refuses since 2.6 (Torchreid issue #592).
BoxMOT carries the same files as ``osnet_x0_25_msmt17.pt``.
"""

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from osnet.errors import ModelError, WeightsError
from osnet.files import written_aside
from osnet.models.config import NetworkConfig, Normalization, OSNetConfig
from osnet.models.osnet import build_on_meta
from osnet.models.variants import VARIANTS

SUFFIXES = (".pth", ".pt", ".tar", ".bin")
"""How such files end; also ``model.pth.tar-60``."""

_STREAM_LETTERS = "abcd"


def is_torchreid_path(path: Path) -> bool:
    """True if the name is one that Torchreid or BoxMOT would give."""
    return path.suffix in SUFFIXES or ".pth.tar-" in path.name


def name_from_file(path: Path) -> str | None:
    """The network's name if the file's name holds one: ``osnet_ain_x1_0_msmt17.pt`` -> ``osnet_ain_x1_0``."""
    match = re.search(r"osnet(_ibn|_ain)?_x\d+_\d+", path.name)
    return match[0] if match and match[0] in VARIANTS else None


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
    keys = build_on_meta(config).state_dict().keys()
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


def infer_config(state: dict[str, Tensor]) -> OSNetConfig | None:
    """The network that Torchreid's tensors belong to, by their names and shapes; None if it is no OSNet."""
    stem, linear = state.get("conv1.conv.weight"), state.get("fc.0.weight")
    if stem is None or linear is None or stem.ndim != 4 or linear.ndim != 2:
        return None
    norm: Normalization = "bn"
    if "conv2.0.conv2.0.layers.0.conv1.weight" in state:
        norm = "ain"
    elif "conv2.0.IN.weight" in state:
        norm = "ibn"
    try:
        return OSNetConfig(width=stem.shape[0] / 64, norm=norm, embedding_size=linear.shape[0])
    except ModelError:
        return None


class _Ignored:
    """Stands for whatever NumPy object a training file holds beside the tensors. It does nothing."""

    def __init__(self, *_args: object) -> None: ...
    def __setstate__(self, state: object) -> None: ...


_NUMPY_GLOBALS: list[Any] = [_Ignored] + [
    (_Ignored, name) for name in ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype")
]


def read_torchreid(path: Path) -> dict[str, Tensor]:
    """Tensors of a Torchreid file by their names there, without ``module.``; classifier included.

    ``torch.load(weights_only=True)`` admits tensors and plain containers only. NumPy scalars, which
    training files hold as ``rank1``, become an object that does nothing; NumPy's own code never runs.

    Raises:
        WeightsError: no such file, not a checkpoint, or one that would have to be unpickled unsafely.
    """
    if not path.is_file():
        raise WeightsError(f"no such weights file: {path}")
    try:
        with torch.serialization.safe_globals(_NUMPY_GLOBALS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the restricted unpickler may raise anything on hostile bytes
        unsafe = re.search(r"GLOBAL (\S+)", str(error))
        if unsafe or "WeightsUnpickler" in str(error):
            what = unsafe[1] if unsafe else "objects"
            raise WeightsError(f"{path} holds {what}, which could run code when unpickled; refused") from None
        raise WeightsError(f"{path} is damaged, or no checkpoint at all ({type(error).__name__})") from None
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not tensors by name")
    state: dict[str, Tensor] = {}
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor) or value.layout != torch.strided:
            raise WeightsError(f"{path} holds {key!r}, a {type(value).__name__}, where a tensor by name was expected")
        state[key.removeprefix("module.")] = value.detach()
    if not state:
        raise WeightsError(f"{path} holds no tensors")
    return state


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
