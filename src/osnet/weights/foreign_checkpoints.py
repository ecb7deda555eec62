"""Read checkpoint files written by other programs, without running code from them, and find the OSNet in them.

The format is recognised by the first bytes of the file, not by its name. PyTorch files are read with
``torch.load(weights_only=True)``, which creates only tensors and plain containers. Other objects beside the tensors,
such as settings, dates and NumPy numbers, are skipped: a placeholder class without any behaviour replaces their class,
so no code of the file or of a library runs. A file that refers to a function is rejected.
"""

import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from osnet.errors import WeightsError
from osnet.forks import make_lock
from osnet.weights.file_kinds import HEAD_BYTES, SAVE_TENSORS, describe_other, is_safetensors

SUFFIXES = (".pth", ".pt", ".tar", ".bin", ".ckpt", ".safetensors")
"""Usual suffixes of checkpoint files. They appear only in messages; the format is recognised by the content."""
ENDS = {"conv1.conv.weight": "fc.0.weight", "stem.conv.weight": "embedding.linear.weight"}
"""Name of the first tensor of an OSNet -> name of its last weight, in Torchreid and in this package."""
MAX_NESTING = 5
"""Nested dictionaries and lists are searched down to this level."""
MAX_PLACEHOLDERS = 200
"""A file may contain objects of at most this many different types that are skipped."""

_WRAPPERS = re.compile(r"_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.")
"""Parts that torch.compile, FSDP and activation checkpointing insert anywhere in names."""


@dataclass(frozen=True)
class Opened:
    """The tensors found in a file: those of one network, and others such as classifiers."""

    state: dict[str, Tensor]
    """Tensors by their names in the file, without a common prefix."""
    place: str
    """Where the tensors are in the file, such as ``state_dict`` or ``checkpoint.model``; empty for the top level."""
    prefix: str = ""
    """The common prefix that was removed, such as ``backbone.``."""
    outside: frozenset[str] = frozenset()
    """Names of the tensors without this prefix."""


def open_checkpoint(path: Path) -> Opened:
    """Read the tensors of the OSNet in a PyTorch or safetensors file.

    All dictionaries in the file are searched for an OSNet, and a prefix in front of its tensor names is removed. If
    there is no OSNet, the tensors of ``state_dict``, or of the top level, are returned unchanged.

    Raises:
        WeightsError: the file does not exist, is not a checkpoint, is damaged, contains several OSNets, or contains
            objects that could run code.
    """
    if not path.is_file():
        raise WeightsError(f"no such weights file: {path}")
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    size = path.stat().st_size
    if (what := describe_other(head, size, path)) is not None:
        if path.suffix in SUFFIXES or ".pth.tar-" in path.name:
            raise WeightsError(f"{path} {what}")
        raise WeightsError(
            f"{path} is neither a checkpoint folder with a card.json nor a checkpoint file ({', '.join(SUFFIXES)}): "
            f"it {what}"
        )
    if is_safetensors(head):
        try:
            content: Any = load_file(path)
        except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise WeightsError(f"{path} is damaged, or its tensors have an unknown type: {error!r}") from error
    else:
        content = _load(path)
    if isinstance(content, dict) and str(content.get("format")).startswith("osnet-training"):
        raise WeightsError(
            f"{path} is the state of a training run, not its weights; pass the folder of the run, {path.parent}"
        )
    return _find(content, path)


# PyTorch files


class _Ignored:
    """Placeholder for a NumPy object beside the tensors. It has no behaviour."""

    def __init__(self, *_args: object) -> None: ...
    def __setstate__(self, state: object) -> None: ...


_NUMPY_GLOBALS: list[Any] = [_Ignored] + [
    (_Ignored, name)
    for name in (
        *(f"numpy.{core}.multiarray.{part}" for core in ("core", "_core") for part in ("scalar", "_reconstruct")),
        "numpy.dtype",
        "numpy.ndarray",
        *(f"numpy.random._pickle.__{kind}_ctor" for kind in ("randomstate", "generator", "bit_generator")),
    )
]
_PASSED_OVER = frozenset(
    {
        "argparse.Namespace",
        "types.SimpleNamespace",
        "collections.defaultdict",
        "uuid.UUID",
        "decimal.Decimal",
        "fractions.Fraction",
        *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
        *(
            f"pathlib{local}.{name}"
            for local in ("", "._local")
            for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path")
        ),
    }
)
"""Types of Python's standard library that are skipped."""
_PLAIN_TYPES = frozenset({"list", "dict", "tuple", "int", "float", "str", "bool", "frozenset", "bytes", "object"})
_LOADING = make_lock()
"""Only one file is read at a time, because PyTorch keeps the names of placeholders in a global table."""


def can_be_skipped(name: str) -> bool:
    """Whether an object of this type can be skipped: settings, dates, or a class of some library.

    False for functions, and for everything in Python's standard library that is not known to be harmless.

    Args:
        name: full name of the type or function, as the file has it.
    """
    module, _, last = name.rpartition(".")
    if name in _PASSED_OVER or name in _PLAIN_TYPES:
        return True
    if not module or (module.split(".")[0] in sys.stdlib_module_names and module != "__main__"):
        return False
    return last.lstrip("_")[:1].isupper()


def _make_placeholder(name: str) -> type:
    """Make a class whose constructor returns an empty container, which takes the content of the skipped object."""

    class Placeholder:
        def __new__(cls, *_args: object, **_more: object) -> Any:
            blank: Counter[str] = (
                Counter()
            )  # the restricted unpickler can fill this type like a dict and like an object
            blank.__dict__["placeholder_for"] = name
            return blank

    return Placeholder


def _load(path: Path) -> Any:
    """Read a file with ``torch.load(weights_only=True)``. Objects that can be skipped become placeholders."""
    placeholders: dict[str, Any] = {}
    with _LOADING:
        while True:
            known = [
                (placeholder, f"builtins.{name}" if name in _PLAIN_TYPES else name)
                for name, placeholder in placeholders.items()
            ]
            try:
                with torch.serialization.safe_globals([*_NUMPY_GLOBALS, *known]):
                    return torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:  # for untrusted bytes, the restricted unpickler may raise any type of error
                found = re.search(r"GLOBAL (\S+)", str(error))
                name = found[1] if found else ""
                new = bool(name) and name not in placeholders and len(placeholders) < MAX_PLACEHOLDERS
                if not new or not can_be_skipped(name):
                    raise WeightsError(_explain(path, error, name, list(placeholders))) from None
                placeholders[name] = _make_placeholder(name)


def _explain(path: Path, error: Exception, name: str, skipped: list[str]) -> str:
    """The message for a file that ``torch.load`` rejected."""
    alone = f"on the machine where it was made, save only the tensors: {SAVE_TENSORS}"
    if name:
        return f"{path} contains {name}, which could run code when unpickled, so it is not loaded; {alone}"
    if skipped:
        return f"{path} contains objects that cannot be skipped ({', '.join(skipped[:5])}); {alone}"
    with path.open("rb") as file:
        head = file.read(16)
    if head[:1] == b"\x80" and b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19" not in head:  # PyTorch's magic number
        return f"{path} is a pickle that was not written by PyTorch; {alone}"
    return f"{path} is damaged or incomplete ({type(error).__name__}); download or copy it again"


# Finding the OSNet


def _find(content: Any, path: Path) -> Opened:
    """Find the only OSNet in the content of a file; see ``open_checkpoint``."""
    places: list[tuple[str, dict[str, Tensor], list[str]]] = []
    for place, dictionary in _walk(content):
        if (state := _tensors(dictionary, path)) and (prefixes := _prefixes(state)):
            places.append((place, state, prefixes))
    if len(places) > 1:
        places = _choose(places, path)
    if places:
        place, state, prefixes = places[0]
        if len(prefixes) > 1:
            named = ", ".join(repr(prefix) for prefix in prefixes)
            raise WeightsError(
                f"{path} contains {len(prefixes)} OSNets, with the prefixes {named}; save one of them alone, for "
                f"example torch.save(model.{prefixes[-1].removesuffix('.')}.state_dict(), 'weights.pth')"
            )
        prefix = prefixes[0]
        outside = frozenset(key for key in state if not key.startswith(prefix))
        return Opened(_strip(state, prefix), place, prefix, outside)
    whole = content
    if isinstance(whole, dict) and isinstance(whole.get("state_dict"), dict):
        whole = whole["state_dict"]
    state = _tensors(whole, path) if isinstance(whole, dict) else {}
    if not state:
        raise WeightsError(
            f"{path} contains {_describe_content(content)}, and no tensors with the names of an OSNet; "
            f"on the machine where it was made, save only the tensors: {SAVE_TENSORS}"
        )
    return Opened(state, "state_dict" if whole is not content else "")


def _walk(content: Any) -> Iterator[tuple[str, dict[Any, Any]]]:
    """Yield every dictionary in ``content`` with its place, once each, outer ones first."""
    seen: set[int] = set()
    level: list[tuple[str, Any]] = [("", content)]
    for _ in range(MAX_NESTING):
        inner: list[tuple[str, Any]] = []
        for place, value in level:
            if id(value) in seen or not isinstance(value, dict | list | tuple):
                continue
            seen.add(id(value))
            if isinstance(value, dict):
                yield place, value
                children: Any = value.items()
            else:
                children = enumerate(value)
            inner += [
                (f"{place}.{key}".lstrip("."), child)
                for key, child in children
                if isinstance(child, dict | list | tuple)
            ]
        level = inner


def _tensors(dictionary: dict[Any, Any], path: Path) -> dict[str, Tensor]:
    """The tensors in a dictionary, by their names without the parts that wrappers insert. Skips other entries."""
    state: dict[str, Tensor] = {}
    for key, value in dictionary.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            continue
        if value.is_nested or value.layout != torch.strided or value.device.type != "cpu":
            continue
        name = _WRAPPERS.sub("", key)
        while name.startswith("module."):
            name = name.removeprefix("module.")
        if name in state:
            raise WeightsError(
                f"{path} contains two tensors named {name} (without the prefixes of wrappers such as torch.compile); "
                f"save the model without wrappers: {SAVE_TENSORS}"
            )
        state[name] = value.detach()
    return state


def _prefixes(state: dict[str, Tensor]) -> list[str]:
    """The prefix of the tensor names of each OSNet among the tensors. An OSNet at the top level has the prefix ''."""
    found = []
    for first, last in ENDS.items():
        for key in state:
            prefix = key.removesuffix(first)
            if prefix != key and (not prefix or prefix.endswith(".")) and prefix + last in state:
                found.append(prefix)
    return found


def _strip(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Remove ``prefix`` from the names. Tensors without it are kept, except scalars, so that they are reported."""
    if not prefix:
        return state
    inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    outside = {key: value for key, value in state.items() if not key.startswith(prefix) and value.ndim}
    return inside | {key: value for key, value in outside.items() if key not in inside}


def _choose(
    places: list[tuple[str, dict[str, Tensor], list[str]]], path: Path
) -> list[tuple[str, dict[str, Tensor], list[str]]]:
    """Choose one of several dictionaries with an OSNet: ``state_dict``, or the first if all are equal."""
    first = next((one for one in places if one[0] == "state_dict"), places[0])
    others = [one[0] for one in places if one is not first and not _equal(one[1], first[1])]
    if not others:
        return [first]
    if first[0] == "state_dict":
        warnings.warn(
            f"{path}: the OSNet in state_dict is loaded; others in {', '.join(others)} are ignored", stacklevel=2
        )
        return [first]
    names = [one[0] for one in places]
    raise WeightsError(
        f"{path} contains several OSNets: {', '.join(names)}; save one of them alone, for example "
        f"torch.save(torch.load({path.name!r}, weights_only=True){_index(names[-1])}, 'weights.pth')"
    )


def _equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def _index(place: str) -> str:
    return "".join(f"[{part}]" if part.isdigit() else f"[{part!r}]" for part in place.split("."))


def _describe_content(content: Any) -> str:
    """The keys of a dictionary, or the type of another object, for a message."""
    if name := getattr(content, "placeholder_for", None):
        return f"an object of the class {name}"
    if not isinstance(content, dict):
        return f"a {type(content).__name__}"
    if not content:
        return "nothing"
    shown = [f"{key} ({getattr(value, 'placeholder_for', type(value).__name__)})" for key, value in content.items()]
    more = f" and {len(shown) - 10} more" if len(shown) > 10 else ""
    return f"the keys {', '.join(shown[:10])}{more}"
