"""The import table of docs/architecture.md, held by reading every import."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "osnet"

ROWS = [
    {"types", "errors", "files", "forks"},
    {"models", "data", "losses", "metrics"},
    {"tasks", "training", "inference", "gallery"},
    {"evaluation", "results", "splits", "calibration", "comparison", "video"},
    {"recipes", "figures", "service"},
    {"cli", "demo"},
]
ROW_OF = {room: number for number, rooms in enumerate(ROWS) for room in rooms}

# Outside libraries, and the only places that may import them.
DOORS = {
    "huggingface_hub": {"models/published.py"},
    "safetensors": {"models/weights.py", "models/opening.py"},
    "tyro": {"cli/"},
    "tqdm": {"cli/"},
    "filelock": {"data/reid/once.py", "gallery/folder.py", "gallery/segments.py", "inference/vectors.py",
                 "video/archive.py", "video/links.py"},
    "PIL": {"data/", "inference/inputs.py", "figures/", "video/crops.py", "video/drawing.py"},
    "av": {"video/source.py", "video/drawing.py"},
    "trackers": {"video/tracking.py"},
    "supervision": {"video/tracking.py"},
    "cv2": {"video/detectors.py"},
    "simplejpeg": {"data/loading.py"},
    "torchvision": {"data/transforms.py", "models/backbones.py"},
    "onnx": {"inference/onnx_graph.py", "inference/export.py", "inference/quantization.py"},
    "llvmlite": {"inference/llvm.py", "inference/kernels.py", "inference/map_kernels.py"},
    "onnxruntime": {"inference/backends.py", "inference/export.py", "inference/quantization.py"},
    "openvino": {"inference/backends.py", "inference/export.py"},
    "accelerate": {"training/"},
    "tensorboard": {"training/"},
    "h5py": {"data/"},
    "scipy": {"data/"},
    "numba": {"metrics/"},
    "webdataset": {"data/packed.py"},
    "matplotlib": {"figures/"},
    "sklearn": {"figures/gates.py", "figures/embeddings.py"},
    "selenium": set(),
    "jinja2": {"figures/report.py"},
}
FILES = sorted(SOURCE.rglob("*.py"))


@cache
def imports_of(path: Path) -> list[str]:
    """Dotted names that a file imports, wherever in it; relative ones are refused."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_imports_point_down_or_sideways(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return
    assert room in ROW_OF, f"{room} has no place in the table"
    for name in imports_of(path):
        if not name.startswith("osnet."):
            continue
        other = name.split(".")[1]
        if other == room:
            continue
        assert other in ROW_OF, f"{path} imports {name}, which has no place in the table"
        if ROW_OF[room] <= 1:
            assert ROW_OF[other] < ROW_OF[room] or (ROW_OF[room] == 0 and room == "files" and other == "errors"), (
                f"{path} imports {name}: rows 0 and 1 do not import sideways"
            )
        else:
            assert ROW_OF[other] <= ROW_OF[room], f"{path} imports {name}, which lies above it"


def assert_no_cycle(edges: dict[str, set[str]]) -> None:
    done: set[str] = set()

    def visit(node: str, trail: tuple[str, ...]) -> None:
        assert node not in trail, f"cycle: {' -> '.join([*trail, node])}"
        if node not in done:
            for other in sorted(edges.get(node, ())):
                visit(other, (*trail, node))
            done.add(node)

    for node in edges:
        visit(node, ())


def test_no_cycle_between_rooms() -> None:
    edges: dict[str, set[str]] = {}
    for path in FILES:
        if (room := room_of(path)) != "__init__":
            others = {name.split(".")[1] for name in imports_of(path) if name.startswith("osnet.")}
            edges.setdefault(room, set()).update(others - {room})
    assert_no_cycle(edges)


def test_no_cycle_between_files() -> None:
    """Not even through an import inside a function."""
    names = {".".join(("osnet", *p.relative_to(SOURCE).with_suffix("").parts)): p for p in FILES}
    names = {name: path for name, path in names.items() if not name.endswith("__init__")}
    edges = {
        name: {other for other in names for used in imports_of(path) if used == other or used.startswith(f"{other}.")}
        - {name}
        for name, path in names.items()
    }
    assert sum(map(len, edges.values())) > 50
    assert_no_cycle(edges)


@pytest.mark.parametrize("library", sorted(DOORS))
def test_one_door_for_each_library(library: str) -> None:
    users = {
        path.relative_to(SOURCE).as_posix()
        for path in FILES
        if any(name.split(".")[0] == library for name in imports_of(path))
    }
    strangers = {user for user in users if not any(user.startswith(door) for door in DOORS[library])}
    assert not strangers


def test_import_osnet_loads_torch_and_nothing_heavier() -> None:
    heavy = ("torchvision", "PIL", "huggingface_hub", "tyro", "safetensors", "tqdm", "osnet.inference", "osnet.gallery")
    code = (
        "import sys, torch; before = set(sys.modules); import osnet; "
        f"print([m for m in {heavy!r} if m in set(sys.modules) - before])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
