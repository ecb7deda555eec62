"""boxmot with exported weights gives the embedder's vectors (written by fixtures/make_boxmot_outputs.py)."""

import importlib.util
from types import ModuleType

import numpy as np
import pytest

from conftest import FIXTURES
from osnet import Embedder, Frame

BOXMOT = np.load(FIXTURES / "boxmot_outputs.npz", allow_pickle=False)


def load_maker() -> ModuleType:
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
    maker, folder = load_maker(), tmp_path_factory.mktemp("boxmot")
    maker.prepare(folder)
    assert {f"{maker.NAME}.onnx", f"{maker.NAME}.pt"} <= {path.name for path in folder.iterdir()}
    frame = Frame(maker.frame(), maker.BOXES)
    return Embedder(folder / f"{maker.NAME}.pt").embed(frame, channels="bgr")


@pytest.mark.parametrize("kind", ["onnx", "pt"])
def test_boxmot_gives_the_embedders_vectors(kind: str, vectors: np.ndarray) -> None:
    differences = [np.abs(vectors[a] - vectors[b]).max() for a, b in ((0, 1), (0, 2), (1, 2))]
    assert min(differences) > 2e-3, "different crops must have different vectors"
    np.testing.assert_allclose(BOXMOT[kind], vectors, atol=1e-4)
