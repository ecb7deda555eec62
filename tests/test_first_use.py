"""The first use on a machine: nothing is cached, folders are missing or full, and several threads begin at once."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import pytest
import torch
from numba.core.caching import CacheImpl
from torch import Tensor, nn

from osnet.compiled import compile_function
from osnet.files import write_json, written_aside
from osnet.runtime.backends import Backend, measure_difference
from osnet.types import Preprocessing


def test_threads_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with written_aside(path) as aside, ThreadPoolExecutor(1) as pool:
        aside.write_text("mine")
        pool.submit(write_json, path, "another's").result()
        assert path.read_text().strip() == '"another\'s"'
    assert path.read_text() == "mine"
    assert [found.name for found in tmp_path.iterdir()] == ["a.json"]


def add_one(x: int) -> int:
    return x + 1


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """numba's folder."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "numba"))
    return tmp_path / "numba"


def compile_again(signature: str | None = None) -> int:
    """What a new process would do. Returns how often it found machine code."""
    made = compile_function(add_one, signature)
    assert made(2) == 3
    return sum(made.stats.cache_hits.values())


@pytest.mark.parametrize("signature", [None, "i8(i8)"])
def test_machine_code_is_kept(cache: Path, signature: str | None) -> None:
    assert [compile_again(signature), compile_again(signature)] == [0, 1]
    assert sorted(path.suffix for path in cache.rglob("*.nb?")) == [".nbc", ".nbi"]


def test_functions_compile_where_no_folder_can_be_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container whose disk is read-only. numba finds no place then."""
    monkeypatch.setattr(CacheImpl, "_locator_classes", [])
    compile_again()


def test_functions_compile_where_nothing_more_can_be_written(cache: Path) -> None:
    """The disk is full, or the folder was taken away."""
    found = compile_function(add_one)
    shutil.rmtree(cache)
    cache.write_text("no folder")
    assert found(2) == 3


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_damaged_machine_code_is_compiled_anew(cache: Path, suffix: str, content: bytes) -> None:
    """After a power failure, files may be empty."""
    compile_again()
    for path in cache.rglob(f"*{suffix}"):
        path.write_bytes(content)
    assert [compile_again(), compile_again()] == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "module", ["osnet.gallery.code_kernel", "osnet.metrics.rerank_kernels", "osnet.data.resize_kernel"]
)
def test_kernels_compile_where_no_folder_can_be_written_to(module: str) -> None:
    """In a new process, because each module is compiled once."""
    code = (
        "import sys; from importlib import import_module; from numba.core.caching import CacheImpl; "
        "CacheImpl._locator_classes = []; import_module(sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, module], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class _Zeros(Backend):
    name = "zeros"

    def run(self, pixels: Tensor) -> Tensor:
        return torch.zeros(len(pixels), 8)


def test_threads_that_begin_while_a_backend_is_made_keep_all_cores(one_thread: None) -> None:
    """The comparison runs PyTorch with one thread."""
    seen: list[int] = []

    class Looking(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            with ThreadPoolExecutor(1) as pool:
                seen.append(pool.submit(torch.get_num_threads).result())
            return super().forward(x.mean((2, 3)))

    torch.set_num_threads(3)
    measure_difference(_Zeros(), Looking(3, 8), Preprocessing(size_hw=(8, 8)))
    assert seen == [3]
    assert torch.get_num_threads() == 3
