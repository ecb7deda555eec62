"""int8 is offered where it keeps its score and is faster, and refused with the figures elsewhere."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from osnet import OSNet
from osnet.cli import main
from osnet.data.folder import read_dataset
from osnet.data.transforms import normalize, to_fractions
from osnet.errors import DataError, ExportError, ModelError
from osnet.runtime import quantization
from osnet.runtime.export import export, run_onnx
from osnet.runtime.folding import fold
from osnet.runtime.onnx_graph import write_onnx
from osnet.runtime.quantization import Trial, choose_calibration, compare_speed, find_gates
from osnet.synthetic.generate import GeneratedSettings, generate_dataset
from osnet.types import Preprocessing, ReidDataset
from osnet.weights.card import Card
from osnet.weights.checkpoint import read_checkpoint, save_weights

SMALL = Preprocessing(size_hw=(64, 32))


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> ReidDataset:
    """8 people in 2 cameras, 2 images each: 8 queries, 8 in the gallery, 16 to calibrate on."""
    folder = tmp_path_factory.mktemp("people") / "people"
    return read_dataset(generate_dataset(folder, GeneratedSettings(identities=8, cameras=2, images=2, seed=1)))


@pytest.fixture(scope="module")
def weights(tiny_network: OSNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8") / "weights"
    save_weights(tiny_network, folder, Card(tiny_network.config, preprocessing=SMALL, training_data="nothing"))
    return folder


def trial(map_float32: float, map_int8: float, *ratios: float) -> Trial:
    return Trial(512, map_float32, map_int8, dict(zip((1, 8), ratios, strict=True)))


def test_what_is_objected_to() -> None:
    assert trial(0.5, 0.4951, 1.01, 1.2).objections() == []
    assert trial(0.5, 0.52, 1.01, 1.2).objections() == [], "a gain is no loss"
    (lost,) = trial(0.5, 0.495, 1.01, 1.2).objections()
    assert "falls by 0.50 points" in lost
    (slow,) = trial(0.5, 0.5, 1.0, 1.2).objections()
    assert slow == "it is no faster here at batch 1"
    assert "at batch 1 and 8" in trial(0.5, 0.5, 0.9, 0.8).objections()[0]
    for outside in (0.29, 0.91, float("nan")):
        assert "outside 30% to 90%" in trial(outside, outside, 2, 2).objections()[0]
    assert str(trial(0.5, 0.49, 0.5, 1.25)) == (
        "mAP 50.00% in float32, 49.00% in int8, over 512 queries; "
        "0.50 times as fast at batch 1, 1.25 times as fast at batch 8"
    )


def test_speed_is_compared_by_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that the runners move: a machine that slows down does so for both; one slow round counts little."""
    now, turns = 0.0, ""

    def runner(name: str, *seconds: float) -> Callable[[np.ndarray], list[np.ndarray]]:
        """The first call warms up; then three calls a round."""
        calls = iter([100.0, *(s for s in seconds for _ in range(3))])

        def run(_images: np.ndarray) -> list[np.ndarray]:
            nonlocal now, turns
            now, turns = now + next(calls), turns + name
            return []

        return run

    monkeypatch.setattr(quantization, "time", SimpleNamespace(perf_counter=lambda: now))
    images = np.zeros(1)
    steady = compare_speed(runner("a", 8, 8, 8), runner("b", 2, 2, 2), images, rounds=3)
    assert steady == pytest.approx(4)
    assert turns == "ab" + 3 * "aaabbb"
    assert compare_speed(runner("a", 2, 2, 2), runner("b", 8, 8, 8), images, rounds=3) == pytest.approx(0.25)
    # Slower and slower: 4 in each round, and 8 / 2 from best to best.
    assert compare_speed(runner("a", 8, 16, 32), runner("b", 2, 4, 8), images, rounds=3) == pytest.approx(4)
    # A slow round: the median of 4, 4 and 40. Then the best rounds say less than the median of 8, 8 and 1; then more.
    assert compare_speed(runner("a", 8, 8, 80), runner("b", 2, 2, 2), images, rounds=3) == pytest.approx(4)
    assert compare_speed(runner("a", 8, 8, 4), runner("b", 1, 1, 4), images, rounds=3) == pytest.approx(4)
    assert compare_speed(runner("a", 6, 6, 6), runner("b", 2, 2, 1), images, rounds=3) == pytest.approx(3)


def test_gates_are_found(tiny_network: OSNet) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(write_onnx(fold(tiny_network, SMALL), SMALL.size_hw, ["embeddings"], uint8=True))
    gates = find_gates(model)
    assert len(gates) == 6 * 4 * 2, "two convolutions for each stream of each block"
    sizes = {node.input[1]: node.name for node in model.graph.node if node.op_type == "Conv"}
    shapes = {sizes[tensor.name]: tuple(tensor.dims) for tensor in model.graph.initializer if tensor.name in sizes}
    assert {shapes[name] for name in gates} == {
        (1, 16, 1, 1),
        (16, 1, 1, 1),
        (1, 24, 1, 1),
        (24, 1, 1, 1),
        (2, 32, 1, 1),
        (32, 2, 1, 1),
    }


def test_calibration_never_sees_the_test(people: ReidDataset) -> None:
    chosen = choose_calibration(people)
    assert set(chosen) == set(people.train.crops)
    many = replace(people, train=replace(people.train, crops=people.train.crops * 20))
    assert len(choose_calibration(many)) == quantization.CALIBRATION_IMAGES


def test_a_file_that_keeps_its_score_and_is_faster(
    weights: Path, people: ReidDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = pytest.importorskip("onnx")
    monkeypatch.setattr(quantization, "LEAST_QUERIES", 8)
    monkeypatch.setattr(quantization, "MAP_RANGE", (0.0, 1.0))
    monkeypatch.setattr(quantization, "MOST_LOST", 0.3)
    monkeypatch.setattr(quantization, "compare_speed", lambda *_: 1.5)
    files = export(read_checkpoint(weights), tmp_path, precision="int8", evaluation=people)
    plain = export(read_checkpoint(weights), tmp_path / "plain")
    images = torch.cat(list(quantization.read_crops(people.query.crops, SMALL)))
    for file, other in zip(files, plain, strict=True):
        assert file.trial is not None
        assert file.trial.ratios == {1: 1.5, 8: 1.5}
        assert 0 < file.trial.map_float32 <= 1
        kinds = [node.op_type for node in onnx.load(file.path).graph.node]
        assert kinds.count("QuantizeLinear") > 50
        assert "int8" in {prop.value for prop in onnx.load(file.path).metadata_props}
        given = (images if file.input == "uint8" else normalize(to_fractions(images), SMALL)).numpy()
        a, b = run_onnx(file.path.read_bytes())(given)[0], run_onnx(other.path.read_bytes())(given)[0]
        assert a.shape == b.shape == (8, 512)
        cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert cosines.min() > 0.9
        assert np.abs(a - b).max() > 1e-4


@pytest.mark.parametrize(
    ("map_range", "ratio", "words"),
    [((0.0, 1.0), 0.9, "no faster here at batch 1 and 8"), ((0.98, 0.99), 2.0, "is outside 98% to 99%")],
)
def test_a_refused_file_is_not_left_behind(
    weights: Path, people: ReidDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    map_range: tuple[float, float], ratio: float, words: str,
) -> None:  # fmt: skip
    pytest.importorskip("onnx")
    monkeypatch.setattr(quantization, "LEAST_QUERIES", 8)
    monkeypatch.setattr(quantization, "MAP_RANGE", map_range)
    monkeypatch.setattr(quantization, "MOST_LOST", 0.9)
    monkeypatch.setattr(quantization, "compare_speed", lambda *_: ratio)
    with pytest.raises(ExportError, match=f"not written: .*{words}.*Measured: mAP .* over 8 queries"):
        export(read_checkpoint(weights), tmp_path, precision="int8", evaluation=people)
    assert not list(tmp_path.iterdir())


def test_requests_that_cannot_be(
    weights: Path, people: ReidDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = read_checkpoint(weights)
    with pytest.raises(DataError, match="give a data set: --data"):
        export(checkpoint, tmp_path, precision="int8")
    with pytest.raises(ModelError, match="int8 is for format onnx"):
        export(checkpoint, tmp_path, precision="int8", format="openvino", evaluation=people)
    with pytest.raises(DataError, match="8 queries; int8 is judged on at least 500"):
        export(checkpoint, tmp_path, precision="int8", evaluation=people)
    with pytest.raises(SystemExit):
        main(["export", str(weights), "--out", str(tmp_path / "o"), "--precision", "int8", "--data", str(people.root)])
    assert "at least 500" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
