"""Checkpoint files that others wrote: opened without running anything of theirs, and searched for the OSNet in them.

A file is known by its first bytes, not by its name. PyTorch's files go through ``torch.load(weights_only=True)``, which
makes tensors and plain containers only. Other objects that lie beside the tensors (settings, dates, NumPy's numbers)
are passed over: a class of ours that does nothing stands for theirs, so no code of the file's or of a library's runs.
What names a function of Python's or of a library's is refused.
"""

import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from osnet.errors import WeightsError
from osnet.weights.file_kinds import HEAD_BYTES, SAVE_TENSORS, describe_other, is_safetensors

SUFFIXES = (".pth", ".pt", ".tar", ".bin", ".ckpt", ".safetensors")
"""How checkpoint files end; only for messages, since the content decides."""
ENDS = {"conv1.conv.weight": "fc.0.weight", "stem.conv.weight": "embedding.linear.weight"}
"""First tensor -> last layer of an OSNet, by Torchreid's names and by ours."""
DEEPEST = 5
"""Dictionaries within dictionaries are looked into so far."""
MAX_STAND_INS = 200

_WRAPPERS = re.compile(r"_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.")
"""What torch.compile, FSDP and activation checkpointing put into names, anywhere."""


@dataclass(frozen=True)
class Opened:
    """Tensors of one network, and classifiers or others beside it, by the names in the file, without a prefix."""

    state: dict[str, Tensor]
    place: str
    """Where in the file they lie: ``state_dict``, ``checkpoint.model``; empty at the top."""


def open_checkpoint(path: Path) -> Opened:
    """The tensors of the OSNet in a file of PyTorch's or of safetensors'.

    A prefix that all names share is stripped if an OSNet remains, and of several dictionaries the one is opened that
    holds an OSNet. If there is none, the tensors of ``state_dict``, or of the file itself, come as they are.

    Raises:
        WeightsError: no such file; something else than a checkpoint; damaged; several OSNets; or objects that could
            run code.
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
            f"{path} is neither a folder with a card.json nor a checkpoint file ({', '.join(SUFFIXES)}): it {what}"
        )
    if is_safetensors(head):
        try:
            content: Any = load_file(path)
        except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise WeightsError(f"{path} is damaged, or its tensors are of an unknown kind: {error!r}") from error
    else:
        content = _load(path)
    if isinstance(content, dict) and str(content.get("format")).startswith("osnet-training"):
        raise WeightsError(
            f"{path} is the state of a training run, not its weights; give the run's folder, {path.parent}"
        )
    return _find(content, path)


# PyTorch's files


class _Ignored:
    """Stands for a NumPy object beside the tensors. It does nothing."""

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
"""Of Python's own library these may lie beside the tensors."""
_PLAIN_TYPES = frozenset({"list", "dict", "tuple", "int", "float", "str", "bool", "frozenset", "bytes", "object"})
_LOADING = Lock()
"""The names that stand-ins are known by are global to PyTorch."""


def may_be_passed_over(name: str) -> bool:
    """True if the object that a file names so can be left out: settings, dates, a class of some library.

    False for functions, and for everything of Python's own library that is not known to be harmless.
    """
    module, _, last = name.rpartition(".")
    if name in _PASSED_OVER or name in _PLAIN_TYPES:
        return True
    if not module or (module.split(".")[0] in sys.stdlib_module_names and module != "__main__"):
        return False
    return last.lstrip("_")[:1].isupper()


def _make_stand_in(name: str) -> type:
    """A class that makes an empty container of everything: what such an object holds falls into it and is forgotten."""

    class StandIn:
        def __new__(cls, *_args: object, **_more: object) -> Any:
            blank: Counter[str] = Counter()  # a type that the restricted unpickler fills, as a dict and as an object
            blank.__dict__["stands_for"] = name
            return blank

    return StandIn


def _load(path: Path) -> Any:
    """What ``torch.load(weights_only=True)`` gives, with stand-ins for what is passed over."""
    stand_ins: dict[str, Any] = {}
    with _LOADING:
        while True:
            known = [
                (stand_in, f"builtins.{name}" if name in _PLAIN_TYPES else name) for name, stand_in in stand_ins.items()
            ]
            try:
                with torch.serialization.safe_globals([*_NUMPY_GLOBALS, *known]):
                    return torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:  # the restricted unpickler may raise anything on hostile bytes
                found = re.search(r"GLOBAL (\S+)", str(error))
                name = found[1] if found else ""
                new = bool(name) and name not in stand_ins and len(stand_ins) < MAX_STAND_INS
                if not new or not may_be_passed_over(name):
                    raise WeightsError(_explain(path, error, name, list(stand_ins))) from None
                stand_ins[name] = _make_stand_in(name)


def _explain(path: Path, error: Exception, name: str, passed_over: list[str]) -> str:
    """Why ``torch.load`` refused a file."""
    alone = f"where it was made, save the tensors alone: {SAVE_TENSORS}"
    if name:
        return f"{path} holds {name}, which could run code when unpickled; refused: {alone}"
    if passed_over:
        return f"{path} holds objects that cannot be passed over ({', '.join(passed_over[:5])}); {alone}"
    with path.open("rb") as file:
        head = file.read(16)
    if head[:1] == b"\x80" and b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19" not in head:  # PyTorch's mark
        return f"{path} is a pickle that PyTorch did not write; {alone}"
    return f"{path} is damaged or cut off ({type(error).__name__}); get it again"


# The OSNet in it


def _find(content: Any, path: Path) -> Opened:
    """The one OSNet in ``content``."""
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
                f"{path} holds {len(prefixes)} OSNets whose names begin with {named}; save the one that you mean, "
                f"such as torch.save(model.{prefixes[-1].removesuffix('.')}.state_dict(), 'weights.pth')"
            )
        return Opened(_strip(state, prefixes[0]), place)
    whole = content
    if isinstance(whole, dict) and isinstance(whole.get("state_dict"), dict):
        whole = whole["state_dict"]
    state = _tensors(whole, path) if isinstance(whole, dict) else {}
    if not state:
        raise WeightsError(
            f"{path} holds {_describe_content(content)}, and no OSNet by its tensors' names; "
            f"where it was made, save the tensors alone: {SAVE_TENSORS}"
        )
    return Opened(state, "state_dict" if whole is not content else "")


def _walk(content: Any) -> Iterator[tuple[str, dict[Any, Any]]]:
    """Every dictionary in ``content`` with its place, each once, the outermost first."""
    seen: set[int] = set()
    level: list[tuple[str, Any]] = [("", content)]
    for _ in range(DEEPEST):
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
    """Its tensors by name, without what wrappers put into names; other entries are left out."""
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
            raise WeightsError(f"{path} holds two tensors that are both {name} once wrappers' names are taken off")
        state[name] = value.detach()
    return state


def _prefixes(state: dict[str, Tensor]) -> list[str]:
    """What stands before an OSNet's names, for each OSNet among the tensors; often one empty text."""
    found = []
    for first, last in ENDS.items():
        for key in state:
            prefix = key.removesuffix(first)
            if prefix != key and (not prefix or prefix.endswith(".")) and prefix + last in state:
                found.append(prefix)
    return found


def _strip(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Names without ``prefix``. What has another one stays, to be reported, but for classifiers and single numbers."""
    if not prefix:
        return state
    inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    outside = {key: value for key, value in state.items() if not key.startswith(prefix) and value.ndim}
    return inside | {key: value for key, value in outside.items() if key not in inside}


def _choose(
    places: list[tuple[str, dict[str, Tensor], list[str]]], path: Path
) -> list[tuple[str, dict[str, Tensor], list[str]]]:
    """Of several dictionaries with an OSNet the one called ``state_dict``, or the first of equal ones."""
    first = next((one for one in places if one[0] == "state_dict"), places[0])
    others = [one[0] for one in places if one is not first and not _equal(one[1], first[1])]
    if not others:
        return [first]
    if first[0] == "state_dict":
        warnings.warn(f"{path}: its state_dict is used; {', '.join(others)} hold other OSNets", stacklevel=2)
        return [first]
    names = [one[0] for one in places]
    raise WeightsError(
        f"{path} holds several OSNets: {', '.join(names)}; save the one that you mean by itself: "
        f"torch.save(torch.load({path.name!r}, weights_only=True){_index(names[-1])}, 'weights.pth')"
    )


def _equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def _index(place: str) -> str:
    return "".join(f"[{part}]" if part.isdigit() else f"[{part!r}]" for part in place.split("."))


def _describe_content(content: Any) -> str:
    """For a message: the keys found, or the type."""
    if name := getattr(content, "stands_for", None):
        return f"a whole object ({name})"
    if not isinstance(content, dict):
        return f"a {type(content).__name__}"
    if not content:
        return "nothing"
    shown = [f"{key} ({getattr(value, 'stands_for', type(value).__name__)})" for key, value in content.items()]
    more = f" and {len(shown) - 10} more" if len(shown) > 10 else ""
    return f"the keys {', '.join(shown[:10])}{more}"
