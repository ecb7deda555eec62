"""ONNX and OpenVINO networks of other projects: cards, embedding, galleries, evaluation, refused files."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from conftest import make_picture, shared_data, write_picture
from osnet import Embedder, Gallery, calibrate, convert, evaluate
from osnet.cli import main
from osnet.data.transforms import normalize, to_fractions
from osnet.embedding.attribute_predictor import open_embedder
from osnet.embedding.third_party import card_path, load_third_party, scaled, write_card
from osnet.errors import DataError, GalleryError, MissingExtraError, ModelError, WeightsError
from osnet.files import sha256_file
from osnet.runtime.backends import generate_pixels
from osnet.runtime.export import export
from osnet.types import Preprocessing
from osnet.weights.checkpoint import read_checkpoint

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
SIZE = (8, 4)


def write_onnx(
    path: Path,
    shape: tuple[int | str, ...] = ("batch", 3, *SIZE),
    kind: str = "FLOAT",
    inputs: int = 1,
    outputs: int = 1,
    axes: tuple[int, ...] = (2, 3),
    factor: float = 1.0,
) -> Path:
    """A network whose embedding is the mean of the three channels, twice: 6 numbers that are easy to work out."""
    helper, kinds = onnx.helper, onnx.TensorProto
    names = [f"in{i}" for i in range(inputs)]
    nodes = [
        helper.make_node("Cast", ["in0"], ["wide"], to=kinds.FLOAT),
        helper.make_node("Mul", ["wide", "factor"], ["times"]),
        helper.make_node("ReduceMean", ["times"], ["mean"], axes=list(axes), keepdims=0),
        *(helper.make_node("Concat", ["mean", "mean"], [f"out{i}"], axis=1) for i in range(outputs)),
    ]
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info(name, getattr(kinds, kind), shape) for name in names],
        [helper.make_tensor_value_info(f"out{i}", kinds.FLOAT, ["batch", 6]) for i in range(outputs)],
        [onnx.numpy_helper.from_array(np.array(factor, np.float32), "factor")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def colour(red: int, green: int, blue: int) -> Image.Image:
    return Image.new("RGB", (SIZE[1], SIZE[0]), (red, green, blue))


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """The channel-mean network, with a card: RGB from 0 to 1."""
    path = write_onnx(tmp_path / "means.onnx")
    write_card(path, scaled(SIZE))
    return path


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.2, 0.4, 0.6]),
        ({"scale": 1.0}, [51, 102, 153]),
        ({"scale": 1.0, "order": "bgr"}, [153, 102, 51]),
        ({"mean": (0.1, 0.2, 0.3), "std": (0.5, 1.0, 2.0)}, [0.2, 0.2, 0.15]),
        ({"scale": 1.0, "order": "bgr", "mean": (100.0, 100.0, 100.0), "std": (10.0, 10.0, 10.0)}, [5.3, 0.2, -4.9]),
    ],
)
def test_preprocessing_of_the_card_is_applied(tmp_path: Path, settings: dict[str, Any], expected: list[float]) -> None:
    """An image of one colour, (51, 102, 153)."""
    path = write_onnx(tmp_path / "means.onnx")
    write_card(path, scaled(SIZE, **settings))
    vector = Embedder(path, normalize=False).embed(colour(51, 102, 153))[0]
    np.testing.assert_allclose(vector, expected * 2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "axes", "kind"),
    [
        (("batch", 3, *SIZE), (2, 3), "FLOAT"),
        ((1, 3, *SIZE), (2, 3), "FLOAT"),
        ((4, 3, *SIZE), (2, 3), "FLOAT"),
        ((2, *SIZE, 3), (1, 2), "FLOAT"),
        (("batch", 3, "height", "width"), (2, 3), "FLOAT"),
        ((1, 3, *SIZE), (2, 3), "UINT8"),
        ((1, 3, *SIZE), (2, 3), "FLOAT16"),
    ],
)
def test_input_layouts_types_and_batch_sizes(
    tmp_path: Path, shape: tuple[Any, ...], axes: tuple[int, ...], kind: str
) -> None:
    path = write_onnx(tmp_path / "means.onnx", shape, kind, axes=axes)
    write_card(path, scaled(SIZE, scale=1.0))
    pictures = [colour(10 * n, 20, 250 - n) for n in range(1, 8)]
    found = Embedder(path, normalize=False, batch_size=5).embed(pictures)
    np.testing.assert_allclose(found, [[10 * n, 20, 250 - n] * 2 for n in range(1, 8)], rtol=1e-3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"inputs": 2}, ["one input", "in0", "in1"]),
        ({"outputs": 2}, ["one output", "out0", "out1"]),
        ({"shape": ("batch", 1, *SIZE)}, ["(batch, 3, height, width)", "in0 float32 (batch, 1, 8, 4)"]),
        ({"shape": ("batch", 3, 16, 16)}, ["(16, 16)", "(8, 4)"]),
        ({"kind": "INT64"}, ["int64", "float32"]),
    ],
)
def test_unsuitable_networks_are_refused_naming_their_inputs(
    tmp_path: Path, settings: dict[str, Any], words: list[str]
) -> None:
    path = write_onnx(tmp_path / "means.onnx", **settings)
    with pytest.raises(WeightsError) as caught:
        write_card(path, scaled(SIZE))
    for word in [*words, str(path)]:
        assert word in str(caught.value)
    assert not card_path(path).exists()


@pytest.mark.parametrize(("factor", "words"), [(0.0, "zero"), (float("nan"), "not finite")])
def test_networks_with_zero_or_nan_embeddings_are_refused(tmp_path: Path, factor: float, words: str) -> None:
    path = write_onnx(tmp_path / "means.onnx", factor=factor)
    with pytest.raises(WeightsError, match=words):
        write_card(path, scaled(SIZE))


def test_networks_with_constant_embeddings_are_refused(tmp_path: Path) -> None:
    for n in range(3):
        colour(100, 100, 100 + n).save(tmp_path / f"{n}.png")
    with pytest.raises(WeightsError, match="the same embedding"):
        write_card(write_onnx(tmp_path / "means.onnx"), scaled(SIZE), tmp_path)
    with pytest.raises(DataError, match="0 images"):
        (tmp_path / "empty").mkdir()
        write_card(tmp_path / "means.onnx", scaled(SIZE), tmp_path / "empty")


def test_a_missing_card_error_names_the_inputs_and_command(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "means.onnx", (1, 3, *SIZE))
    with pytest.raises(WeightsError) as caught:
        Embedder(path)
    for word in ("in0 float32 (1, 3, 8, 4)", "out0", "osnet card", "--size 8x4", "means.card.json"):
        assert word in str(caught.value)
    path.write_bytes(b"not a network")
    with pytest.raises(WeightsError, match="ONNX Runtime"):
        Embedder(path)
    with pytest.raises(WeightsError, match=r"gone\.onnx"):
        Embedder(tmp_path / "gone.onnx")


def test_the_digest_depends_on_file_and_card(plain: Path, tmp_path: Path) -> None:
    embedder = Embedder(plain)
    assert embedder.network.card is not None
    assert embedder.network.card.sha256 == sha256_file(plain)
    assert (embedder.backend, embedder.embedding_size) == ("onnxruntime", 6)
    first = embedder.sha256()
    assert Embedder(plain).sha256() == first
    write_card(plain, scaled(SIZE, order="bgr"), overwrite=True)
    assert Embedder(plain).sha256() != first
    write_onnx(plain, factor=2.0)
    with pytest.raises(WeightsError) as caught:
        Embedder(plain)
    assert sha256_file(plain) in str(caught.value)
    shutil.copyfile(card_path(plain), tmp_path / "other.card.json")
    write_onnx(tmp_path / "other.onnx", factor=2.0)
    with pytest.raises(WeightsError, match=r"means\.onnx, not of other\.onnx"):
        Embedder(tmp_path / "other.onnx")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "osnet-weights-1"}, "format"),
        ({"weights": "../means.onnx"}, "not of|plain name"),
        ({"preprocessing": {"size_hw": [8, "4"]}}, "cannot be read"),
        ({"preprocessing": 3}, "cannot be read"),
        ({"embedding_size": "six"}, "cannot be read"),
        ({"extra": 1}, "cannot be read"),
        ({"licence": ["MIT"]}, "cannot be read"),
    ],
)
def test_damaged_cards_are_refused(plain: Path, change: dict[str, Any], words: str) -> None:
    content = json.loads(card_path(plain).read_text(encoding="utf-8"))
    card_path(plain).write_text(json.dumps(content | change), encoding="utf-8")
    with pytest.raises(WeightsError, match=words):
        Embedder(plain)


def test_names_with_spaces_and_brackets(tmp_path: Path) -> None:
    """As a browser names a second download."""
    path = write_onnx(tmp_path / "my model (1).onnx")
    write_card(path, scaled(SIZE))
    embedder = Embedder(path)
    Gallery.open(tmp_path / "gallery", embedder).add([write_picture(tmp_path / "a.png")])
    assert Embedder(tmp_path / "gallery").sha256() == embedder.sha256()
    odd = write_onnx(tmp_path / "a:b.onnx")
    with pytest.raises(WeightsError, match="':'"):
        write_card(odd, scaled(SIZE))
    assert not card_path(odd).exists()


def test_other_devices_and_backends_are_refused(plain: Path) -> None:
    assert Embedder(plain, device="cpu", backend="onnxruntime").backend == "onnxruntime"
    with pytest.raises(ModelError, match="openvino"):
        Embedder(plain, backend="openvino")
    with pytest.raises(ModelError, match="meta"):
        Embedder(plain, device="meta")
    with pytest.raises(ModelError, match="feature map"):
        Embedder(plain).network.feature_map(torch.zeros(1, 3, *SIZE))


def test_galleries_store_a_copy_of_the_network(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [write_picture(tmp_path / "crops" / f"{n}.png", n) for n in range(4)]
    folder = tmp_path / "gallery"
    main(["index", str(tmp_path / "crops"), "--out", str(folder), "--weights", str(plain)])
    plain.unlink()
    embedder = open_embedder(folder / "weights")
    gallery = Gallery.open(folder, embedder)
    assert len(gallery) == 4
    for n, path in enumerate(paths):
        hit = gallery.search(path, top=1)[0]
        assert (Path(hit.item.source).name, round(hit.score, 5)) == (f"{n}.png", 1.0)
    assert Embedder(folder).sha256() == embedder.sha256()
    capsys.readouterr()
    main(["search", str(folder), str(paths[2]), "--top", "1"])
    assert "2.png" in capsys.readouterr().out
    other = write_onnx(tmp_path / "other.onnx", factor=3.0)
    write_card(other, scaled(SIZE))
    with pytest.raises(GalleryError):
        Gallery.open(folder, Embedder(other))


def test_evaluation_and_calibration(plain: Path, market: Path) -> None:
    """The network's vectors match channel means computed here."""
    result = evaluate(str(plain), market)
    assert result.weights["name"] == "means"
    assert result.weights["file_sha256"] == sha256_file(plain)
    assert 0 < result.scores["mAP"] <= 1

    class Means(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(dim=(2, 3)).repeat(1, 2)

    pixels = generate_pixels(3, SIZE)
    expected = Means()(normalize(to_fractions(pixels), scaled(SIZE)))
    network = load_third_party(plain)
    torch.testing.assert_close(network(normalize(to_fractions(pixels), scaled(SIZE))), expected)
    with pytest.raises(ValueError, match=r"fpr|30"):
        calibrate(str(plain), market, fpr=0.5)  # only because the data set is too small


def test_exported_files_need_no_card(tiny_weights: Path, tmp_path: Path) -> None:
    files = export(read_checkpoint(tiny_weights), tmp_path / "exported")
    pictures = [make_picture(n) for n in range(3)]
    expected = Embedder(tiny_weights, backend="torch").embed(pictures)
    for file in files:
        np.testing.assert_allclose(Embedder(file.path).embed(pictures), expected, atol=2e-5)
    assert {file.input for file in files} == {"uint8", "float"}


def test_card_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_onnx(tmp_path / "means.onnx")
    for n in range(5):
        write_picture(tmp_path / "crops" / f"{n}.png", n)
    words = ["card", str(path), "--size", "8x4", "--order", "bgr", "--scale", "1", "--images", str(tmp_path / "crops")]
    main([*words, "--licence", "MIT", "--name", "averages"])
    out = capsys.readouterr().out
    for word in ("averages", "in0 float32 (batch, 3, 8, 4)", "5 images", sha256_file(path)):
        assert word in out
    card = load_third_party(path).card
    assert (card.licence, card.name) == ("MIT", "averages")
    assert card.preprocessing == Preprocessing(SIZE, (0, 0, 0), (1 / 255,) * 3, channel_order="bgr")
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert "--overwrite" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["card", str(path), "--size", "8", "--overwrite"])
    assert "256x128" in capsys.readouterr().err


def test_openvino_files_with_a_card_run_in_openvino(tmp_path: Path) -> None:
    """Intel's file, run by OpenVINO and converted to our network, gives the same vectors."""
    pytest.importorskip("openvino")
    for suffix in (".xml", ".bin"):
        name = f"person-reidentification-retail-0288{suffix}"
        shutil.copyfile(shared_data(f"omz/0288/{name}"), tmp_path / f"net{suffix}")
    ours = Embedder(tmp_path / "net.xml", backend="torch")
    write_card(tmp_path / "net.xml", scaled((256, 128), order="bgr", scale=1))
    theirs = Embedder(tmp_path / "net.xml")
    assert (ours.backend, theirs.backend, theirs.embedding_size) == ("torch", "openvino", 256)
    pictures = [make_picture(n) for n in range(3)]
    np.testing.assert_allclose(theirs.embed(pictures), ours.embed(pictures), atol=1e-4)


def test_saving_and_converting_are_refused(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"means\.onnx"):
        load_third_party(plain).save_pretrained(tmp_path / "hub")
    assert not (tmp_path / "hub" / "card.json").exists()
    for call in (lambda: convert(plain, tmp_path / "ours"), lambda: read_checkpoint(plain)):
        with pytest.raises(WeightsError, match=r"means\.onnx"):
            call()


def test_a_missing_runtime_is_named(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match="speed"):
        Embedder(plain)
