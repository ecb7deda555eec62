"""An embedder in a forked process works or raises a clear error; it never hangs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import write_picture

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
LIMIT_S = 240
"""Far longer than even a busy machine needs, so that only a hang reaches it."""

BEGIN = f"""
import os, signal, sys
import numpy as np
import torch
torch.set_num_threads(2)  # one thread would start no pool that the child lacks

def in_child(work, leave=os._exit):
    child = os.fork()
    if child == 0:
        signal.alarm({LIMIT_S})  # ends a child that hangs
        try:
            work()
        except BaseException as error:
            print(type(error).__name__, error, flush=True)
            leave(1)
        leave(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


def run(code: str, *words: object) -> list[str]:
    """Run code in a new Python process; returns the lines it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + code, *map(str, words)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


EMBED = """
from osnet import Embedder, Frame
weights, backend, *files = sys.argv[1:]
noise = np.random.default_rng(0).integers(0, 256, (12, 300, 150, 3), dtype=np.uint8)
inputs = {
    "files": files, "arrays": list(noise), "one": noise[0], "fractions": torch.rand(5, 3, 300, 150),
    "frame": Frame(noise[1], [[0, 0, 100, 200], [20, 50, 140, 290]]),
}
def make():
    from osnet import load_weights
    return Embedder(load_weights(weights)) if backend == "live" else Embedder(weights, backend=backend)

made = make()
expected = {name: made.embed(value) for name, value in inputs.items()}

def embed_all(embedder):
    for name, value in inputs.items():
        np.testing.assert_allclose(embedder.embed(value), expected[name], atol=1e-5, err_msg=name)

def embed_all_anew():
    global made
    made = make()  # deletes the parent's embedder
    embed_all(made)

print(in_child(lambda: embed_all(made)))
print(in_child(lambda: embed_all_anew()))
if backend not in ("onnxruntime", "fastest"):  # a child cannot exit normally if its parent imported it
    print(in_child(lambda: embed_all(made), leave=sys.exit))  # a normal exit, as of a server's worker
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["live", "torch", "onnxruntime", "openvino", "fastest"])
def test_embedding_in_a_fork_works_or_raises(backend: str, tiny_weights: Path, tmp_path: Path) -> None:
    """Embedders made before and after the fork, and deleted after it."""
    if backend in ("onnxruntime", "openvino"):
        pytest.importorskip(backend)
        pytest.importorskip("onnx")
    files = [write_picture(tmp_path / f"{n}.jpg", n, (150, 300)) for n in range(9)]
    lines = run(EMBED, tiny_weights, backend, *files)
    if backend == "openvino":
        messages, codes = lines[0::2], lines[1::2]
        assert codes == ["1", "1", "1"]
        for message in messages:
            assert message.startswith("ModelError")
            assert "make the embedder in the process that uses it" in message
            assert "spawn" in message
    else:
        assert lines == ["0"] * (2 if backend in ("onnxruntime", "fastest") else 3)


@pytest.mark.slow
def test_other_computations_work_in_a_fork(tiny_weights: Path) -> None:
    """Scores, re-ranking, activation maps, class probabilities, a new network and a search of codes.

    Without care, they would wait for PyTorch's threads or be aborted by numba's.
    """
    code = """
from PIL import Image
from torch import nn
from osnet import create_model, rank_scores, rerank
from osnet.figures.maps import compute_maps
from osnet.embedding.class_predictor import ClassPredictor
from osnet import load_weights
from osnet.gallery.exact_search import Block, encode, find_candidates
draw = np.random.default_rng(0)
query, gallery = (draw.normal(size=(n, 512)).astype(np.float32) for n in (100, 700))
pids, camids = ([draw.integers(1, top, n) for n in (100, 700)] for top in (20, 6))
predictor = ClassPredictor(load_weights(sys.argv[1]), classifier=nn.Linear(512, 3), classes=("a", "b", "c"))
pixels = torch.from_numpy(draw.integers(0, 256, (4, 3, 256, 128), dtype=np.uint8))
picture = Image.fromarray(draw.integers(0, 256, (300, 150, 3), dtype=np.uint8))
vectors = draw.normal(size=(6000, 64)).astype(np.float32)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
block = Block(0, vectors, *encode(vectors))
work = {
    "codes": lambda: find_candidates(lambda: [block], vectors[:1], top=5, num_rows=6000)[0],
    "scores": lambda: rank_scores(query, gallery, *pids, *camids).ap_per_query,
    "rerank": lambda: np.asarray(rerank(query, gallery)),
    "maps": lambda: compute_maps(predictor, [picture])["last"],
    "classes": lambda: predictor.classify_bytes(pixels),
    "new": lambda: create_model("osnet_x0_25").eval()(torch.zeros(1, 3, 64, 32)).detach().numpy().shape,
}
expected = {name: one() for name, one in work.items()}
for name, one in work.items():
    print(name, in_child(lambda: np.testing.assert_allclose(one(), expected[name], atol=1e-5)))
"""
    assert run(code, tiny_weights) == ["codes 0", "scores 0", "rerank 0", "maps 0", "classes 0", "new 0"]


LOCKS = """
import threading, time
import numba
import osnet
from numba.core.compiler_lock import global_compiler_lock
from osnet.compiled import compile_function
from osnet.forks import import_compiled
from osnet.runtime.onnx_graph import trace
sys.path.insert(0, sys.argv[1])
begun = threading.Event()

class Slow(torch.nn.Module):
    def forward(self, x):
        begun.set()
        time.sleep(1)
        return x + 1

def compile_slowly():
    with global_compiler_lock:
        begun.set()
        time.sleep(1)

def import_slowly():
    threading.slow_import = begun
    import_compiled("slow_to_import")

work = {
    "trace": (lambda: trace(Slow()), lambda: trace(torch.nn.Linear(2, 2))),
    "compile": (compile_slowly, lambda: compile_function(lambda x: x + 1)(1)),
    "import": (import_slowly, lambda: import_compiled("slow_to_import")),
}
for name, (of_parent, of_child) in work.items():
    begun.clear()
    thread = threading.Thread(target=of_parent)
    thread.start()
    begun.wait()
    print(name, in_child(of_child))
    thread.join()
"""


@pytest.mark.slow
def test_a_fork_waits_for_what_its_child_could_not_finish(tmp_path: Path) -> None:
    """Another thread traces, compiles or imports meanwhile, under a lock that the child would find held for ever."""
    words = "import threading, time; threading.slow_import.set(); time.sleep(1)"
    (tmp_path / "slow_to_import.py").write_text(words)
    assert run(LOCKS, tmp_path) == ["trace 0", "compile 0", "import 0"]


def test_only_a_child_is_limited_to_one_thread() -> None:
    code = """
import osnet
print(torch.get_num_threads())
def check():
    assert torch.get_num_threads() == 1
print(in_child(check))
print(torch.get_num_threads())
"""
    assert run(code) == ["2", "0", "2"]
