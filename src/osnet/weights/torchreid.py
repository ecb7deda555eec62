"""Torchreid's checkpoint files: tensor names, information in file names, and writing such files.

From the authors' code and files we know the tensor names of plain, IBN and AIN networks. Files of the model zoo are
bare state dicts, sometimes with the prefix ``module.``. Files from training are ``{"state_dict": ..., "rank1": ...}``,
where ``rank1`` may be a NumPy scalar, which ``torch.load`` rejects since version 2.6 (Torchreid issue #592). BoxMOT
distributes the same files under names such as ``osnet_x0_25_msmt17.pt``. ``foreign_checkpoints`` reads all of them.
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
from osnet.models.config import BASE_CHANNELS, GroupExtent, NetworkConfig, Normalization, OSNetConfig
from osnet.models.registry import GROUPED_NAME, VARIANTS, get_config, list_tensors, name_of
from osnet.types import Distance
from osnet.weights.file_kinds import SAVE_TENSORS

SUFFIXES = (".pth", ".pt", ".tar", ".bin")
"""Suffixes of Torchreid files. Names such as ``model.pth.tar-60`` count too."""

_STREAM_LETTERS = "abcd"
_PUBLISHED_NAME = re.compile(
    r"osnet(_ibn|_ain)?_x\d+_\d+_(imagenet|market|market1501|duke|dukemtmcreid|msmt17|msmt17_combineall)"
    r"(_\d+x\d+(_amsgrad|_coslr|_softmax|_labelsmooth|_labsmth|_flip|_jitter|_(ep|stp|lr|b|fb)[\d.]+)*)?"
)
"""Names of published files without their ending: the authors' with input size and recipe, and BoxMOT's short ones."""
IMAGENET_CLASSES = 1000


def is_torchreid_path(path: Path) -> bool:
    """Whether a file name is one of Torchreid's or BoxMOT's, by its suffix in upper or lower case."""
    return path.suffix.lower() in SUFFIXES or ".pth.tar-" in path.name.lower()


def name_from_file(path: Path) -> str | None:
    """The name of a network in a file name, or None: ``osnet_ain_x1_0`` for ``osnet_ain_x1_0_msmt17.pt``."""
    if grouped := re.search(rf"{GROUPED_NAME.pattern}(?![a-z0-9])", path.name):
        return grouped[0]
    found = [name for name in VARIANTS if re.search(rf"{name}(?![a-z0-9])", path.name)]
    return max(found, key=len, default=None)


def is_torchreid_name(name: str) -> bool:
    """Whether Torchreid has a network with this name."""
    return re.fullmatch(r"osnet(_ibn|_ain)?_x\d+_\d+", name) is not None


def training_data_from_file(path: Path, num_classes: int) -> str:
    """The training data of weights, from their file name; ``unknown`` if it is not the name of a published file.

    Names with ``msmt17`` are ambiguous, so the number of classes decides: 1,041 is the number of people in MSMT17's
    training split, and 4,101 is the number of all its people, including those of the test. A classifier of ImageNet has
    1,000 classes, so with another one ``imagenet`` is ``unknown``.
    """
    match = _PUBLISHED_NAME.fullmatch(re.sub(r"(\.pth\.tar(-\d+)?|\.[A-Za-z]+)$", "", path.name))
    if not match or (match[2] == "imagenet" and num_classes not in (0, IMAGENET_CLASSES)):
        return "unknown"
    norm, data = match[1], match[2]
    if data.startswith("msmt17"):
        split = num_classes == 1041 or (data == "msmt17" and not norm and num_classes != 4101)
        return "msmt17" if split else "msmt17_combineall"
    return {"market": "market1501", "duke": "dukemtmcreid"}.get(data, data)


def resembles_published(path: Path) -> bool:
    """Whether a file name begins like that of a published file: with an OSNet and one of their data sets."""
    return re.search(r"osnet(_ibn|_ain)?_x\d+_\d+_(imagenet|market|duke|msmt17)", path.name) is not None


def published_distance(config: NetworkConfig, training_data: str) -> Distance | None:
    """The distance behind the published scores of the model zoo; None if unknown or for ImageNet.

    The configuration of the AIN networks has cosine. The others use Torchreid's default, the Euclidean distance. On
    Market-1501, only the Euclidean distance reproduces the published scores of the plain networks (docs/results.md).
    """
    if training_data in ("unknown", "imagenet"):
        return None
    return "cosine" if isinstance(config, OSNetConfig) and config.norm == "ain" else "euclidean"


def torchreid_names(config: NetworkConfig) -> "OrderedDict[str, str]":
    """Map this package's tensor names to Torchreid's, in Torchreid's order, without the classifier.

    Raises:
        ModelError: Torchreid has no network with these settings.
    """
    if not isinstance(config, OSNetConfig):
        raise ModelError(f"only OSNets can be converted to Torchreid's format, not {config.family}")
    plain = OSNetConfig(
        width=config.width,
        norm="bn" if config.norm == "stem" else config.norm,
        pooling="max" if config.pooling == "max" else "avg",  # as in the authors' code for attributes
        embedding_size=config.embedding_size,
    )
    if config != plain:
        settings = [k for k in OSNetConfig.__dataclass_fields__ if getattr(config, k) != getattr(plain, k)]
        raise ModelError(
            f"Torchreid has no network with {', '.join(f'{k}={getattr(config, k)!r}' for k in settings)}; "
            "only plain, IBN and AIN OSNets of depth 2-2-2 can be converted to its format"
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
    """Whether the tensor belongs to an AIN block (depth 2-2-2) with instance normalisation in its residual branch."""
    return key.startswith(("conv2.0.", "conv2.1.", "conv3.1.", "conv4.0."))


def infer_config(state: Mapping[str, Tensor]) -> OSNetConfig | None:
    """Infer the settings of an OSNet from the names and shapes of its tensors. Returns None if it is not an OSNet.

    The names may be Torchreid's or this package's. Average and max pooling have no tensors, so average is assumed.
    """
    ours = "stem.conv.weight" in state
    stem = state.get("stem.conv.weight" if ours else "conv1.conv.weight")
    linear = state.get("embedding.linear.weight" if ours else "fc.0.weight")
    if stem is None or linear is None or stem.ndim != 4 or linear.ndim != 2:
        return None
    block = "expand" if ours else "conv3"
    stages = [state.get(f"conv{stage}.0.{block}.conv.weight") for stage in (2, 3, 4)]
    channels = [len(weight) for weight in (stem, *stages) if weight is not None and weight.ndim]
    try:
        plain = OSNetConfig(width=_infer_width(channels), embedding_size=len(linear), neck="neck.weight" in state)
    except ModelError:
        return None
    if ours:
        return _infer_ours(state, replace(plain, stem="cifar" if stem.shape[2] == 3 else "imagenet"))
    if "conv2.0.conv2.0.layers.0.conv1.weight" in state:
        return replace(plain, norm="ain")
    return replace(plain, norm="ibn") if "conv2.0.IN.weight" in state else plain


def _infer_width(channels: list[int]) -> float:
    """A width that gives these channels of the stem and, if known, of the stages: the stem's share if that does, else
    the one with the fewest decimals."""
    pairs = list(zip(channels, BASE_CHANNELS, strict=False))
    low, high = max((c - 0.5) / base for c, base in pairs), min((c + 0.5) / base for c, base in pairs)
    share = channels[0] / BASE_CHANNELS[0]
    candidates = [share, *(round((low + high) / 2, decimals) for decimals in range(1, 6))]
    return next((width for width in candidates if low < width < high), share)


def choose_config(
    path: Path, state: Mapping[str, Tensor], inferred: OSNetConfig | None, architecture: str | None
) -> NetworkConfig:
    """Choose the settings of the network in a file without a card.

    They are the inferred ones, unless these contradict ``architecture`` or the name of a Torchreid network in the file
    name. Then the named network is returned, so that the check of the tensors fails and reports the mismatch. The
    embedding size always comes from the tensors.

    Args:
        path: path of the file.
        state: tensors in the file.
        inferred: result of ``infer_config``.
        architecture: name of the network from the user, or None.

    Raises:
        WeightsError: neither the tensors nor a name determine the network.
    """
    named = architecture or name_from_file(path)
    if inferred is not None:
        custom = "stem.conv.weight" in state and name_of(inferred) is None  # such networks may have any file name
        misnamed = named is not None and named != name_of(inferred)
        if misnamed and (architecture or (is_torchreid_name(str(named)) and not custom)):
            return get_config(str(named))
        return inferred
    if named is None:
        raise WeightsError(
            f"{path}: neither the file name nor its {len(state)} tensors ({', '.join(list(state)[:3])}, ...) determine "
            f"the network; pass its name as architecture, or save only the tensors of an OSNet: {SAVE_TENSORS}"
        )
    return get_config(named)


def _infer_ours(state: Mapping[str, Tensor], plain: OSNetConfig) -> OSNetConfig:
    """Find the named network whose tensors have these names and shapes.

    If there is none, return ``plain`` with the normalisation that the tensor names indicate.
    """
    norms = {"conv2.0.instance_norm.weight": "ibn", "conv2.0.expand.norm.running_mean": "bn"}
    norm: Any = next((norm for key, norm in norms.items() if key in state), "ain")
    plain = replace(plain, norm=norm)
    shapes = _shapes({k: v for k, v in state.items() if not k.startswith(("classifier.", "attributes."))})
    common: dict[str, Any] = {"stem": plain.stem, "embedding_size": plain.embedding_size, "neck": plain.neck}
    named = [variant.config for variant in VARIANTS.values() if isinstance(variant.config, OSNetConfig)]
    candidates = [plain, *(replace(one, **common) for one in named if one.width == plain.width)]
    if (grouped := _infer_groups(state, plain)) is not None:
        candidates = [grouped]
    return next((config for config in candidates if _shapes(list_tensors(config)) == shapes), plain)


def _infer_groups(state: Mapping[str, Tensor], plain: OSNetConfig) -> OSNetConfig | None:
    """``plain`` with the groups that the shapes of the pointwise convolutions indicate; None if they have no groups."""
    lite, block, transition = (
        state.get(f"{name}.weight")
        for name in ("conv2.0.streams.0.0.pointwise", "conv2.0.reduce.conv", "transition2.mix.conv")
    )
    if any(weight is None or weight.ndim != 4 or not weight.numel() for weight in (lite, block, transition)):
        return None
    assert lite is not None
    assert block is not None
    assert transition is not None
    groups = lite.shape[0] // lite.shape[1]
    extent: GroupExtent = "block" if block.shape[1] < plain.channels[0] else "lite"
    if transition.shape[1] < transition.shape[0]:
        extent = "all"
    try:
        return replace(plain, groups=groups, group_extent=extent) if groups > 1 else None
    except ModelError:  # the groups do not divide the channels
        return None


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items() if not key.endswith("num_batches_tracked")}


def write_torchreid(path: str | Path, state: dict[str, Tensor], config: NetworkConfig) -> None:
    """Write a Torchreid file: a bare state dict with Torchreid's tensor names, including the classifier if there is
    one.

    Raises:
        ModelError: Torchreid has no network with these settings, or one that pools by the maximum: the file could not
            say so, and its readers pool by the average.
        OutputError: the file cannot be written.
    """
    names = torchreid_names(config)
    if config.pooling == "max":
        raise ModelError(
            "pooling='max' cannot be stored in Torchreid's format, whose readers would pool by the average and get "
            "other embeddings; convert to a checkpoint folder"
        )
    theirs = OrderedDict((names[key], state[key].contiguous().clone()) for key in names)
    head = [key for key in ("classifier.weight", "classifier.bias") if key in state]
    theirs.update((key, state[key].contiguous().clone()) for key in head)
    with written_aside(path) as aside:
        torch.save(theirs, aside)
