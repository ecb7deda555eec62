"""Exported files: inputs, outputs and metadata; a file that fails its check is not left on disk."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import write_picture
from osnet import OSNet, OSNetConfig
from osnet.cli import main
from osnet.data.transforms import normalize, to_fractions
from osnet.errors import DataError, ExportError, ModelError
from osnet.models.heads import AttributeHead
from osnet.runtime import export as exporting
from osnet.runtime.backends import generate_pixels, openvino_core
from osnet.runtime.export import WithHeads, export, find_heads
from osnet.runtime.folding import fold
from osnet.runtime.onnx_graph import UnknownStepError, write_onnx
from osnet.types import Preprocessing
from osnet.weights.card import Card
from osnet.weights.checkpoint import Checkpoint, network_sha256, read_checkpoint, save_weights

SMALL = Preprocessing(size_hw=(64, 32), channel_order="bgr", mean=(0.4, 0.5, 0.6))


def save_checkpoint(network: OSNet, folder: Path) -> Checkpoint:
    """A checkpoint for small BGR images, with a classifier of 7 classes."""
    torch.manual_seed(2)
    head = torch.nn.Linear(512, 7)
    card = Card(network.config, preprocessing=SMALL, training_data="nothing", licence="MIT")
    save_weights(network, folder, card, classifier=head.state_dict())
    return read_checkpoint(folder)


@pytest.fixture(scope="module")
def checkpoint(tiny_network: OSNet, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save_checkpoint(tiny_network, tmp_path_factory.mktemp("export") / "weights")


@pytest.fixture(scope="module")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """One block per stage, two streams per block: `torch.export` takes seconds for each layer."""
    torch.manual_seed(1)
    network = OSNet(OSNetConfig(width=0.25, depth=(1, 1, 1), streams=2))
    with torch.no_grad():
        network.train()(torch.rand(8, 3, 64, 32))
    return save_checkpoint(network.eval(), tmp_path_factory.mktemp("shallow") / "weights")


def run(path: Path, images: np.ndarray) -> list[np.ndarray]:
    runtime = pytest.importorskip("onnxruntime")
    return runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"images": images})


def expected_of(checkpoint: Checkpoint, pixels: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normalised images, embeddings and logits, computed from the definition."""
    images = normalize(to_fractions(pixels), SMALL)
    with torch.no_grad():
        embeddings = checkpoint.build()(images)
        logits = embeddings @ checkpoint.state["classifier.weight"].T + checkpoint.state["classifier.bias"]
    return images.numpy(), embeddings.numpy(), logits.numpy()


def test_onnx_files_for_floats_and_bytes(checkpoint: Checkpoint, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    files = export(checkpoint, tmp_path, outputs=("logits",))
    assert [file.path.name for file in files] == ["osnet_x0_25_nothing.onnx", "osnet_x0_25_nothing_uint8.onnx"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(file.path.name for file in files)
    pixels = generate_pixels(5, SMALL.size_hw, seed=9)
    images, embeddings, logits = expected_of(checkpoint, pixels)
    for file, given in zip(files, (images, pixels.numpy()), strict=True):
        assert file.outputs == ("embeddings", "logits")
        assert file.largest_difference < 1e-4
        assert 0.9999 < file.smallest_cosine < 1.0001
        for rows in (slice(0, 1), slice(0, 5), slice(2, 4)):
            found = run(file.path, given[rows])
            np.testing.assert_allclose(found[0], embeddings[rows], atol=1e-4 * embeddings.max())
            np.testing.assert_allclose(found[1], logits[rows], atol=1e-4 * np.abs(logits).max())
        about = {prop.key: prop.value for prop in onnx.load(file.path).metadata_props}
        assert about["network_sha256"] == network_sha256(checkpoint.build(), SMALL)
        assert about["weights_sha256"] == checkpoint.card.sha256
        stored = json.loads(about["preprocessing"])
        assert Preprocessing(**{k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}) == SMALL


def test_attributes_that_are_switched_on_are_an_output(tiny_network: OSNet, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    torch.manual_seed(3)
    head = AttributeHead(512, ["hat", "bag", "age"])
    card = Card(tiny_network.config, preprocessing=SMALL, attributes=head.names, attributes_off=("age",))
    save_weights(tiny_network, tmp_path / "weights", card, attributes=head)
    file = export(read_checkpoint(tmp_path / "weights"), tmp_path)[1]
    assert file.outputs == ("embeddings", "attributes")
    pixels = generate_pixels(3, SMALL.size_hw, seed=9)
    embeddings, found = run(file.path, pixels.numpy())
    with torch.no_grad():
        expected = torch.sigmoid(head(torch.from_numpy(embeddings)))[:, :2]
    assert found.shape == (3, 2), "attributes switched off in the card must not be computed"
    np.testing.assert_allclose(found, expected, atol=1e-5)
    plain = export(read_checkpoint(tmp_path / "weights"), tmp_path / "plain", outputs=("embeddings",))
    assert plain[0].outputs == ("embeddings",)


def test_half_precision_is_half_the_size_and_close(checkpoint: Checkpoint, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    full = export(checkpoint, tmp_path / "full")
    half = export(checkpoint, tmp_path / "half", precision="fp16")
    for a, b in zip(full, half, strict=True):
        assert b.path.stat().st_size < 0.6 * a.path.stat().st_size
        assert b.smallest_cosine >= 0.999
        assert b.largest_difference > a.largest_difference


def test_openvino(checkpoint: Checkpoint, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnx")
    pixels = generate_pixels(4, SMALL.size_hw, seed=9)
    images, embeddings, _ = expected_of(checkpoint, pixels)
    files = export(checkpoint, tmp_path, format="openvino")
    assert len(list(tmp_path.iterdir())) == 4, "only two .xml and two .bin"
    for file, given in zip(files, (images, pixels.numpy()), strict=True):
        model = openvino_core().read_model(file.path)
        assert model.get_rt_info(["osnet", "network_sha256"]).value == network_sha256(checkpoint.build(), SMALL)
        compiled = openvino_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        np.testing.assert_allclose(compiled(given)["embeddings"], embeddings, atol=1e-4 * embeddings.max())


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_torch_export(shallow: Checkpoint, tmp_path: Path, precision: str) -> None:
    files = export(shallow, tmp_path, format="torch-export", precision=precision)  # type: ignore[arg-type]
    extra = {"osnet.json": ""}
    module = torch.export.load(files[1].path, extra_files=extra).module()
    pixels = generate_pixels(3, SMALL.size_hw, seed=9)
    with torch.no_grad():
        (found,) = module(pixels)
    _, embeddings, _ = expected_of(shallow, pixels)
    assert torch.nn.functional.cosine_similarity(found, torch.from_numpy(embeddings)).min() > 0.999
    assert json.loads(extra["osnet.json"])["network_sha256"] == network_sha256(shallow.build(), SMALL)


def test_half_precision_leaves_the_heads_as_they_are() -> None:
    """Both files are made with the same heads, and compared with them."""
    heads = {"logits": torch.nn.Linear(4, 2)}
    half = exporting.Half(WithHeads(torch.nn.Flatten(), heads))
    embeddings, logits = half(torch.ones(1, 4))
    assert heads["logits"].weight.dtype == embeddings.dtype == torch.float32
    torch.testing.assert_close(logits, heads["logits"](embeddings), atol=1e-2, rtol=0)


def test_words_of_a_card_stay_inside_the_folder(checkpoint: Checkpoint, tmp_path: Path) -> None:
    pytest.importorskip("onnx")

    def named(name: str | None, data: str) -> Checkpoint:
        return replace(checkpoint, card=replace(checkpoint.card, name=name, training_data=data))

    stems = {
        ("osnet_x0_25", "unknown"): "osnet_x0_25",
        ("osnet_x0_25", "a/b + c"): "osnet_x0_25_a-b-+-c",
        (None, "../.."): "osnet",
        ("..", "unknown"): "osnet",
        ("../../osnet", "a\\b"): "osnet_a-b",
    }
    assert {given: exporting._file_stem(named(*given)) for given in stems} == stems
    files = export(named("../../osnet", "unknown"), tmp_path / "a" / "b")
    written = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert (
        written
        == sorted(file.path for file in files)
        == [tmp_path / "a" / "b" / n for n in ("osnet.onnx", "osnet_uint8.onnx")]
    )


def test_a_file_is_compared_on_every_image(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("onnx")
    seen = []

    def spy(path: Path) -> exporting.FileRunner:
        run = exporting.run_onnx(path.read_bytes())
        return lambda images: seen.extend(image.tobytes() for image in images) or run(images)

    monkeypatch.setitem(exporting._READERS, "onnx", spy)
    export(checkpoint, tmp_path)
    assert len(set(seen)) == 2 * 12, "twelve images for each of two files"


@pytest.mark.slow
def test_threads_export_at_once(shallow: Checkpoint, tmp_path: Path) -> None:
    """torch.export changes what all threads use, and would leave PyTorch in its compiling state."""
    with ThreadPoolExecutor(2) as pool:
        made = pool.map(lambda part: export(shallow, tmp_path / part, format="torch-export"), "ab")
        assert [len(files) for files in made] == [2, 2]
    assert not torch.compiler.is_compiling()


def test_a_file_with_wrong_outputs_is_not_written(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx")
    torch.manual_seed(8)
    other = WithHeads(fold(OSNet(OSNetConfig(width=0.25)).eval(), None), {}).eval()
    monkeypatch.setattr(exporting, "write_onnx", lambda _graph, *args, **more: write_onnx(other, *args, **more))
    with pytest.raises(ExportError, match=r"osnet_x0_25_nothing\.onnx is not written: at batch 1 its embeddings"):
        export(checkpoint, tmp_path)
    assert not list(tmp_path.iterdir())


def test_outputs_that_are_not_finite_are_not_exported(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN outputs cannot be compared with the file's."""
    pytest.importorskip("onnx")
    head = find_heads(checkpoint)["logits"]
    with torch.no_grad():
        head.bias[3] = float("nan")  # type: ignore[index, union-attr]
    with pytest.raises(ExportError, match=r"logits is \(1, 7\), not \(1, 7\), or not finite"):
        monkeypatch.setattr(exporting, "find_heads", lambda _checkpoint: {"logits": head})
        export(checkpoint, tmp_path, outputs=("logits",))
    finite = torch.nn.Linear(512, 7)
    monkeypatch.setitem(exporting._READERS, "onnx", lambda _path: lambda images: answer(checkpoint, finite, images))
    with pytest.raises(ExportError, match="its logits are off by nan"):
        export(checkpoint, tmp_path, outputs=("logits",))
    assert not list(tmp_path.iterdir())


def answer(checkpoint: Checkpoint, head: torch.nn.Module, images: np.ndarray) -> list[np.ndarray]:
    with torch.no_grad():
        embeddings = checkpoint.build().eval()(torch.from_numpy(images))
        return [embeddings.numpy(), head(embeddings).numpy()]


def test_openvino_files_are_replaced_together(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnx")
    weights = tmp_path / "osnet_x0_25_nothing.bin"
    weights.write_bytes(b"mine")
    with pytest.raises(DataError, match=r"osnet_x0_25_nothing\.bin exists"):
        export(checkpoint, tmp_path, format="openvino")
    assert weights.read_bytes() == b"mine"
    layers = tmp_path / "osnet_x0_25_nothing.xml"
    layers.write_text("old layers")
    rename = Path.replace

    def interrupt(self: Path, target: Path) -> Path:
        """Interrupt between the two renames."""
        if target == layers:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(checkpoint, tmp_path, format="openvino", overwrite=True)
    assert len(weights.read_bytes()) > 1000
    assert [path.name for path in tmp_path.iterdir()] == [weights.name], (
        "the old .xml must not stay with the new weights"
    )


@pytest.mark.slow
def test_unknown_layers_are_exported_by_pytorch(
    shallow: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")

    def unknown(*_args: object, **_more: object) -> bytes:
        raise UnknownStepError("a step")

    monkeypatch.setattr(exporting, "write_onnx", unknown)
    files = export(shallow, tmp_path, outputs=("logits",))
    pixels = generate_pixels(5, SMALL.size_hw, seed=9)
    _, embeddings, logits = expected_of(shallow, pixels)
    found = run(files[1].path, pixels.numpy())
    np.testing.assert_allclose(found[0], embeddings, atol=1e-4 * embeddings.max())
    np.testing.assert_allclose(found[1], logits, atol=1e-4 * np.abs(logits).max())
    assert "network_sha256" in {prop.key for prop in onnx.load(files[0].path).metadata_props}


def test_invalid_requests_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    assert list(find_heads(checkpoint)) == ["logits"]
    (tmp_path / "osnet_x0_25_nothing.onnx").write_text("mine")
    for arguments, error, words in (
        ({}, DataError, "exists; choose another folder"),
        ({"format": "tflite"}, ModelError, "unknown 'tflite'; choose from onnx"),
        ({"precision": "fp8"}, ModelError, "unknown 'fp8'"),
        ({"outputs": ("ages",)}, ModelError, "no ages; choose from embeddings, logits"),
        ({"images": tmp_path}, DataError, "no images in"),
    ):
        with pytest.raises(error, match=words):
            export(checkpoint, tmp_path, **arguments)  # type: ignore[arg-type]
    assert (tmp_path / "osnet_x0_25_nothing.onnx").read_text() == "mine"


def test_export_command(tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnx")
    for n in range(2):
        write_picture(tmp_path / "crops" / f"{n}.png", n)
    main(["export", str(tiny_weights), "--out", str(tmp_path / "out"), "--images", str(tmp_path / "crops")])
    shown = capsys.readouterr().out
    assert "osnet_x0_25_nothing.onnx: float images -> embeddings; sha256 " in shown
    assert "at batches of 1, 3 and 8: largest difference" in shown
    with pytest.raises(SystemExit):
        main(["export", str(tiny_weights), "--out", str(tmp_path / "out")])
    assert "--overwrite" in capsys.readouterr().err
