"""Loading Intel's OSNets from OpenVINO files: vectors equal to OpenVINO's, and other files refused."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cosine_similarity

from conftest import shared_data
from osnet import Embedder, OSNetConfig, convert, load_weights, save_weights
from osnet.data.loading import list_images, read_image
from osnet.data.transforms import normalize, resize_image, to_fractions
from osnet.errors import WeightsError
from osnet.models.norms import estimate_norms, lacks_statistics
from osnet.runtime.backends import openvino_core
from osnet.runtime.export import export
from osnet.types import Preprocessing
from osnet.weights.checkpoint import read_checkpoint
from osnet.weights.open_model_zoo import INTEL_WEIGHTS

NUMBERS = {"0277": "x1_0", "0286": "x0_75", "0287": "x0_5", "0288": "x0_25"}


def find_xml(number: str) -> Path:
    return shared_data(f"omz/{number}/person-reidentification-retail-{number}.xml")


def crops(number: int) -> list[Path]:
    return [path for path, _ in zip(list_images(shared_data("people-mini")), range(number), strict=False)]


def run_openvino(xml: Path, paths: list[Path]) -> NDArray[np.float32]:
    """OpenVINO's vectors of crops resized by Pillow: BGR from 0 to 255, one at a time."""
    compiled = openvino_core().compile_model(str(xml), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    pixels = [resize_image(read_image(path), Preprocessing()).flip(0)[None].float().numpy() for path in paths]
    return np.concatenate([next(iter(compiled(one).values())).copy() for one in pixels])


@pytest.mark.slow
@pytest.mark.parametrize("number", NUMBERS)
def test_every_backend_gives_openvinos_vectors(number: str) -> None:
    """On 200 crops by the smallest network, on 40 by the others."""
    pytest.importorskip("openvino")
    pytest.importorskip("onnxruntime")
    xml, paths = find_xml(number), crops(200 if number == "0288" else 40)
    expected = run_openvino(xml, paths)
    assert expected.shape == (len(paths), 256)
    assert np.abs(expected).max() > 0.5
    for backend in ("torch", "onnxruntime", "openvino"):
        found = Embedder(xml, backend=backend, normalize=False).embed(paths)
        assert np.abs(found - expected).max() < 1e-4, backend


def test_auto_backend_gives_the_networks_vectors() -> None:
    xml, paths = find_xml("0288"), crops(3)
    embedder = Embedder(xml)
    assert embedder.backend in ("onnxruntime", "torch")
    np.testing.assert_allclose(embedder.embed(paths), Embedder(load_weights(xml)).embed(paths), atol=1e-5)


@pytest.mark.parametrize("number", NUMBERS)
def test_the_card_of_intels_weights(number: str) -> None:
    checkpoint = read_checkpoint(find_xml(number))
    card, config = checkpoint.card, checkpoint.card.architecture
    entry = next(w for w in INTEL_WEIGHTS if w.name.endswith(number))
    assert (card.name, card.licence, card.num_classes) == (f"osnet_lct_{NUMBERS[number]}", "Apache-2.0", 0)
    assert (card.name, card.sha256) == (entry.model, entry.sha256_bin)
    for digest in (entry.sha256_bin, entry.sha256_xml):
        assert digest in card.source
    assert card.preprocessing.size_hw == config.fixed_size_hw == (256, 128)
    assert config.embedding_size == 256
    if entry.precision == "FP32":
        assert card.preprocessing == Preprocessing()


def test_convert_keeps_vectors_and_digest(tmp_path: Path) -> None:
    """A converted checkpoint folder has the same digest and gives the same vectors."""
    xml, paths = find_xml("0288"), crops(4)
    convert(xml, tmp_path / "ours")
    one, other = Embedder(xml, backend="torch"), Embedder(tmp_path / "ours", backend="torch")
    assert one.sha256() == other.sha256()
    np.testing.assert_array_equal(one.embed(paths), other.embed(paths))
    with pytest.raises(ValueError, match="gate='channel_then_lct'"):
        convert(xml, tmp_path / "theirs.pth")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_onnx_export(tmp_path: Path, precision: Any) -> None:
    """Exported files differ little from the network and have the expected size."""
    pytest.importorskip("onnxruntime")
    for file in export(read_checkpoint(find_xml("0288")), tmp_path, precision=precision):
        assert file.largest_difference < (1e-4 if precision == "fp32" else 0.05)
        assert file.path.stat().st_size < (1_000_000 if precision == "fp32" else 560_000)


def test_gradients_reach_every_parameter() -> None:
    network = load_weights(find_xml("0288")).train()
    torch.manual_seed(0)
    network(torch.rand(4, 3, 256, 128)).square().sum().backward()
    without_gradient = [
        name for name, p in network.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()
    ]
    assert not without_gradient
    with_gradient = [name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    # No gradient: the scale of a group of one channel, which normalises to 0, and a bias before a BatchNorm.
    assert len(with_gradient) >= len(list(network.parameters())) - 2


def test_estimate_norms_fills_missing_statistics() -> None:
    """Outputs in eval mode stay equal; outputs in training mode become close to them."""
    network = load_weights(find_xml("0288"))
    assert lacks_statistics(network)
    assert not lacks_statistics(load_weights(shared_data("weights/osnet_x0_25_msmt17.pth")))
    pixels = torch.stack([resize_image(read_image(path), Preprocessing()) for path in crops(24)])
    images = normalize(to_fractions(pixels), Preprocessing())
    with torch.no_grad():
        before, untrained = network(images), network.train()(images)
        network = load_weights(find_xml("0288"))
        assert estimate_norms(network, images.split(8)) == 24
        assert not lacks_statistics(network)
        torch.testing.assert_close(network(images), before, atol=2e-5, rtol=0)
        trained = network.train()(images)
    assert cosine_similarity(trained, before).mean() > 0.999
    assert cosine_similarity(untrained, before).mean() < 0.9
    norm = network.conv2[0].reduce.norm
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        stem = network.eval().stem_pool(network.stem(network.input_norm(images)))
        seen = network.conv2[0].reduce.conv(stem).transpose(0, 1).flatten(1)
    torch.testing.assert_close(norm.running_mean, seen.mean(1), atol=1e-4, rtol=1e-3)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the smallest network's files, for damaging."""
    xml = find_xml("0288")
    for suffix in (".xml", ".bin"):
        shutil.copyfile(xml.with_suffix(suffix), tmp_path / f"net{suffix}")
    return tmp_path / "net.xml"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('<?xml version="1.0"?>', '<?xml version="1.0"?><!DOCTYPE net [<!ENTITY a "aaaa">]>', ["document type"]),
        ('type="Sigmoid"', 'type="Tanh"', ["stream and its gate"]),
        ('strides="2, 2"', 'strides="1, 1"', ["strides"]),
        ('from-layer="3"', 'from-layer="99999"', ["99999"]),
        ('eps="9.9999997473787516e-06"', 'eps="0.001"', ["0.001"]),
        ("</net>", "", ["not an OpenVINO network"]),
        ('type="PReLU"', 'type="ReLU"', ["ReLU", "PReLU", "osnet card"]),
    ],
)
def test_files_of_other_networks_are_refused(copied: Path, old: str, new: str, words: list[str]) -> None:
    text = copied.read_text(encoding="utf-8")
    assert old in text
    copied.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(WeightsError) as caught:
        load_weights(copied)
    for word in [*words, str(copied)]:
        assert word in str(caught.value)


def test_a_cyclic_graph_is_refused(copied: Path) -> None:
    """The first layer of a stream takes the output of its last layer."""
    text = copied.read_text(encoding="utf-8")
    edge = '<edge from-layer="28" from-port="1" to-layer="30" to-port="0" />'
    assert edge in text
    copied.write_text(text.replace(edge, edge.replace('from-layer="28"', 'from-layer="35"')), encoding="utf-8")
    with pytest.raises(WeightsError, match="more than 16 layers"):
        load_weights(copied)


def test_damaged_constants_are_refused(copied: Path) -> None:
    content = copied.with_suffix(".bin").read_bytes()
    copied.with_suffix(".bin").write_bytes(content[:728_000])  # only two shapes and one slope follow
    with pytest.raises(WeightsError, match="bytes at"):
        load_weights(copied)
    copied.with_suffix(".bin").write_bytes(content[:100_000] + b"\xff" * 64 + content[100_064:])  # NaN
    with pytest.raises(WeightsError, match="not finite"):
        load_weights(copied)
    copied.with_suffix(".bin").unlink()
    with pytest.raises(WeightsError, match=r"net\.bin"):
        load_weights(copied)


def test_a_changed_file_does_not_get_intels_card(copied: Path) -> None:
    content = bytearray(copied.with_suffix(".bin").read_bytes())
    content[100_000:100_004] = np.float32(0.25).tobytes()
    copied.with_suffix(".bin").write_bytes(content)
    card = read_checkpoint(copied).card
    assert card.licence == "not stated"
    assert "Open Model Zoo" not in card.source


def test_cards_store_gate_settings_only_if_used(tiny_weights: Path, tmp_path: Path) -> None:
    """So that cards of plain networks keep their old format."""
    assert '"gate"' not in (tiny_weights / "card.json").read_text(encoding="utf-8")
    network = load_weights(tiny_weights)
    assert isinstance(network.config, OSNetConfig)
    save_weights(load_weights(find_xml("0288")), tmp_path / "lct")
    text = (tmp_path / "lct" / "card.json").read_text(encoding="utf-8")
    assert '"gate": "channel_then_lct"' in text
    assert '"pooled_hw"' not in text
