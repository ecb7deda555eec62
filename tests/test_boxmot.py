"""PyPI's boxmot with files of ours gives the embedder's vectors (fixtures/make_boxmot_outputs.py made the file)."""

import importlib.util
from types import ModuleType

import numpy as np
import pytest

from conftest import FIXTURES
from osnet import Embedder, Frame

BOXMOT = np.load(FIXTURES / "boxmot_outputs.npz", allow_pickle=False)


def rules() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_boxmot_outputs", FIXTURES / "make_boxmot_outputs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    making, folder = rules(), tmp_path_factory.mktemp("boxmot")
    making.prepare(folder)
    assert {f"{making.NAME}.onnx", f"{making.NAME}.pt"} <= {path.name for path in folder.iterdir()}
    frame = Frame(making.frame(), making.BOXES)
    return Embedder(folder / f"{making.NAME}.pt").embed(frame, channels="bgr")


@pytest.mark.parametrize("kind", ["onnx", "pt"])
def test_boxmot_runs_our_files_with_the_same_vectors(kind: str, vectors: np.ndarray) -> None:
    apart = [np.abs(vectors[a] - vectors[b]).max() for a, b in ((0, 1), (0, 2), (1, 2))]
    assert min(apart) > 2e-3, "different crops, different vectors"
    np.testing.assert_allclose(BOXMOT[kind], vectors, atol=1e-4)
