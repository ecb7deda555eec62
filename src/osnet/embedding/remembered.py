"""What an earlier process learned of a weights file: its card, its digest, and a graph that agreed with its network.

The same file read by the same code gives the same card, tensors and graph. So an embedder need not build the network,
write it as ONNX and compare the two again; it loads the graph (see ``runtime/graph_cache.py``). The key is made of the
bytes of the weights and all else that the result depends on.
"""

import hashlib
import json
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import osnet
from osnet.errors import WeightsError
from osnet.runtime.backends import RUNTIMES
from osnet.runtime.graph_cache import load_graph, store_graph
from osnet.types import Preprocessing
from osnet.weights.card import CARD_FILE, Card, parse_card, read_card

CODE = ("models", "runtime", "weights", "types.py")
"""Parts of the package that decide what is remembered."""
UNNAMED_HEAD = b"attributes.weight"
"""A file that holds these bytes may have an attribute head, of which reading it warns."""


@dataclass(frozen=True)
class Remembered:
    """A weights file that was read before."""

    card: Card
    network_sha256: str
    """``network_sha256`` of its network and the preprocessing."""
    graph: bytes
    """An ONNX file of ``write_graph``, compared with the network."""
    runtime: str
    """The backend that ran it, ``onnxruntime`` or ``openvino``."""


def key_of(path: Path, architecture: str | None, backend: str, preprocessing: Preprocessing | None) -> str | None:
    """The key of a weights file or a checkpoint folder, for this backend; None for anything else.

    Nothing is checked here: what is damaged has another key than what was read before.
    """
    try:
        files = list(_files(path))
        digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
        if not files or (path.is_file() and UNNAMED_HEAD in path.read_bytes()):
            return None
    except (OSError, ValueError, WeightsError):
        return None
    decides = [
        [file.name for file in files],
        digests,
        architecture,
        backend,
        asdict(preprocessing) if preprocessing else None,
        [_version(package) for package in ("osnet", "torch", "onnx", *RUNTIMES)],
        _code(),
        [platform.system(), platform.machine(), torch.backends.cpu.get_cpu_capability(), _processor()],
    ]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()


def _files(path: Path) -> Iterator[Path]:
    """The files that ``read_checkpoint`` would read; none if it is not a plain case."""
    if not (path / CARD_FILE).exists() and (path / "weights" / CARD_FILE).exists():
        path = path / "weights"
    if (path / CARD_FILE).is_file():
        yield path / CARD_FILE
        yield path / read_card(path)[1]
    elif path.is_file() and path.suffix in (".pth", ".pt"):
        yield path


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@cache
def _processor() -> str:
    """The processor's name, as far as the system tells: which backend is the fastest depends on it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line for line in lines if line.startswith("model name")), platform.processor())


@cache
def _code() -> list[list[Any]]:
    """Names, sizes and times of the files of ``CODE``: in a development checkout the version does not tell."""
    root = Path(osnet.__file__).parent
    files = [file for part in CODE for file in ((root / part).rglob("*.py") if "." not in part else [root / part])]
    return sorted([str(file.relative_to(root)), file.stat().st_size, file.stat().st_mtime_ns] for file in files)


def recall(key: str) -> Remembered | None:
    """What was remembered under ``key``; None if there is nothing that can be used."""
    if (found := load_graph(key)) is None:
        return None
    about, graph = found
    try:
        card = parse_card(about["card"], "a remembered card")[0]
        return Remembered(card, str(about["network_sha256"]), graph, str(about["runtime"]))
    except (WeightsError, KeyError, TypeError):
        return None


def remember(key: str, read: Remembered) -> None:
    """Keep it for the next process, where that is possible."""
    about = {"card": read.card.to_json("graph.onnx"), "network_sha256": read.network_sha256, "runtime": read.runtime}
    store_graph(key, about, read.graph)
