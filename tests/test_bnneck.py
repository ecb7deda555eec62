"""BNNeck: training, checkpoints, search and export use the same embeddings."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from osnet import Embedder
from osnet.data.folder import read_dataset
from osnet.data.transforms import normalize, to_fractions
from osnet.errors import ModelError, WeightsError
from osnet.losses import batch_hard_triplet, smoothed_cross_entropy
from osnet.models.config import BackboneConfig, NetworkConfig, OSNetConfig
from osnet.models.network import Network
from osnet.models.osnet import OSNet
from osnet.models.registry import build_network, without_neck
from osnet.runtime.backends import generate_pixels, make_backend, run_plainly
from osnet.runtime.export import export
from osnet.tasks.reid import ReidLoss, ReidTask
from osnet.training.optimizer import make_optimizer
from osnet.training.recipe import build_network as build_for
from osnet.training.trainer import Trainer
from osnet.types import Preprocessing
from osnet.weights.card import Card
from osnet.weights.checkpoint import convert, load_weights, network_sha256, read_checkpoint, save_weights
from osnet.weights.factory import create_model
from small_runs import INLINE, REID

RECIPE = replace(
    REID,
    model="osnet_x0_25",
    width=None,
    sampler="identity",
    images_per_label=2,
    loss=ReidLoss(triplet=1.0, bnneck=True),
    lr=0.01,
    ema=0.5,
)


@pytest.fixture(scope="module")
def trained(people: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ReidTask, Path]:
    """The trained task with its saved (averaged) weights, and the run's folder."""
    out = tmp_path_factory.mktemp("neck") / "run"
    trainer = Trainer(RECIPE, read_dataset(people), out, INLINE)
    trainer.run()
    return trainer.average.apply_to(trainer._bare()).eval(), out


def by_definition(task: ReidTask, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings after the neck, and logits, computed from the trained parameters."""
    images = normalize(to_fractions(pixels), Preprocessing(size_hw=REID.size_hw))
    with torch.inference_mode():
        before, neck = task.network(images), task.neck
        assert isinstance(neck, nn.BatchNorm1d)
        after = (before - neck.running_mean) / (neck.running_var + neck.eps).sqrt() * neck.weight + neck.bias
        return after, after @ task.classifier.weight.T


def test_exported_logits_match_the_trained_task(trained: tuple[ReidTask, Path], tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    task, out = trained
    checkpoint = read_checkpoint(out)
    pixels = generate_pixels(64, REID.size_hw, seed=5)
    embeddings, logits = by_definition(task, pixels)
    assert len(logits.argmax(1).unique()) > 1
    for precision in ("fp32", "fp16"):
        file = export(checkpoint, tmp_path / precision, outputs=("logits",), precision=precision)[1]
        session = runtime.InferenceSession(str(file.path), providers=["CPUExecutionProvider"])
        found = dict(zip(file.outputs, session.run(None, {"images": pixels.numpy()}), strict=True))
        if precision == "fp32":
            np.testing.assert_array_equal(found["logits"].argmax(1), logits.argmax(1))
            np.testing.assert_allclose(found["logits"], logits, atol=1e-4 * float(logits.abs().max()))
            np.testing.assert_allclose(found["embeddings"], embeddings, atol=1e-4 * float(embeddings.abs().max()))


def test_search_uses_embeddings_after_the_neck(trained: tuple[ReidTask, Path]) -> None:
    """Luo et al., CVPRW 2019: cosine between features after the BatchNorm. Validation scores the same features."""
    task, out = trained
    pixels = generate_pixels(6, REID.size_hw, seed=6)
    embeddings, _ = by_definition(task, pixels)
    expected = nn.functional.normalize(embeddings)
    assert (expected < 0).any(), "after the neck, components can be negative"
    found = Embedder(out, num_workers=1).embed(pixels)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    scored = Embedder(task.search_network(), preprocessing=Preprocessing(size_hw=REID.size_hw))
    np.testing.assert_allclose(scored.embed(pixels), expected, atol=1e-4)


@pytest.mark.parametrize("bnneck", [False, True])
@pytest.mark.parametrize("cross_entropy", [0.0, 1.0])
def test_every_trained_parameter_gets_a_gradient(cross_entropy: float, bnneck: bool) -> None:
    """DDP waits for all of them. Without cross-entropy, classifier and neck take no part in the loss."""
    torch.manual_seed(0)
    network = OSNet(OSNetConfig(width=0.25, streams=1, aggregation="addition"))
    task = ReidTask(network, 3, ReidLoss(cross_entropy, triplet=1.0, bnneck=bnneck))
    batch = {"image": torch.rand(4, 3, 32, 16), "label": torch.tensor([0, 0, 1, 1])}
    optimizer = make_optimizer(RECIPE, task)
    task(batch)["loss"].backward()
    assert [n for n, p in task.named_parameters() if p.requires_grad and p.grad is None] == []
    before = task.classifier.weight.clone()
    optimizer.step()
    assert torch.equal(task.classifier.weight, before) == (not cross_entropy)


def test_triplet_loss_uses_embeddings_before_the_neck() -> None:
    torch.manual_seed(0)
    task = ReidTask(OSNet(OSNetConfig(width=0.25)), 3, ReidLoss(triplet=1.0, bnneck=True)).eval()
    nn.init.uniform_(task.neck.running_mean, -1, 1)  # type: ignore[arg-type]
    nn.init.uniform_(task.neck.running_var, 1e-6, 1e-4)  # type: ignore[arg-type]
    nn.init.normal_(task.classifier.weight)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    images = torch.rand(6, 3, 32, 16)
    with torch.no_grad():
        found = task({"image": images, "label": labels})
        before = task.network(images)
        after = task.search_network()(images)
        triplet = batch_hard_triplet(before, labels, task.loss.margin)
        entropy = smoothed_cross_entropy(task.classifier(after), labels, task.loss.smoothing)
    assert float(found["triplet"]) == pytest.approx(float(triplet), rel=1e-4)
    assert float(found["cross_entropy"]) == pytest.approx(float(entropy), rel=1e-4)
    assert float(batch_hard_triplet(after, labels, task.loss.margin)) != pytest.approx(float(triplet), rel=1e-2)


def test_conversion_to_torchreid_is_refused(trained: tuple[ReidTask, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="neck=True"):
        convert(trained[1], tmp_path / "x.pth")
    assert not list(tmp_path.iterdir())


def test_pretrained_weights_are_loaded_without_the_neck(trained: tuple[ReidTask, Path]) -> None:
    task, out = trained
    loaded = build_for(replace(RECIPE, pretrained=str(out)))
    assert not loaded.config.neck
    state = task.network.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())
    assert create_model("osnet_x0_25", pretrained=out).config.neck, "a network for search keeps its neck"
    with pytest.raises(WeightsError, match="neck False instead of True"):
        create_model("osnet_x0_25", pretrained=save_plain(loaded, out.parent / "plain"), neck=True)
    with pytest.raises(ModelError, match="without_neck"):
        ReidTask(load_weights(out), 3, ReidLoss(bnneck=True))


def save_plain(network: Network, folder: Path) -> Path:
    save_weights(network, folder)
    return folder


def test_the_card_and_digest_record_the_neck(trained: tuple[ReidTask, Path], tmp_path: Path) -> None:
    _, out = trained
    card = json.loads((out / "weights" / "card.json").read_text())
    assert card["architecture"]["neck"] is True
    assert card["name"] == "osnet_x0_25"
    loaded = load_weights(out)
    copy = load_weights(save_plain(loaded, tmp_path / "copy"))
    same = Preprocessing()
    assert network_sha256(copy, same) == network_sha256(loaded, same)
    plain = without_neck(loaded)
    assert network_sha256(plain, same) != network_sha256(loaded, same)
    save_weights(plain, tmp_path / "plain")
    assert "neck" not in json.loads((tmp_path / "plain" / "card.json").read_text())["architecture"]


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "openvino"])
@pytest.mark.parametrize(
    "config", [OSNetConfig(width=0.25, neck=True), BackboneConfig("mobilenetv1", width=0.25, neck=True)]
)
def test_backends_compute_the_neck(backend: str, config: NetworkConfig) -> None:
    if backend in ("onnxruntime", "openvino"):
        pytest.importorskip(backend)
    torch.manual_seed(3)
    network, shape = build_network(config), Preprocessing(size_hw=(64, 32))
    with torch.no_grad():
        network.train()(torch.rand(16, 3, 64, 32))
    network.eval()
    nn.init.uniform_(network.neck.weight, 0.5, 2)  # type: ignore[arg-type, union-attr]
    nn.init.normal_(network.neck.bias)  # type: ignore[arg-type, union-attr]
    pixels = generate_pixels(5, shape.size_hw, seed=4)
    with torch.inference_mode():
        images = normalize(to_fractions(pixels), shape)
        expected = nn.functional.batch_norm(
            without_neck(network)(images), network.neck.running_mean, network.neck.running_var,  # type: ignore[arg-type]
            network.neck.weight, network.neck.bias,  # type: ignore[arg-type]
        )  # fmt: skip
    assert torch.allclose(run_plainly(network, pixels, shape), expected, atol=1e-5)
    found = make_backend(backend, network, shape, torch.device("cpu")).run(pixels)  # type: ignore[arg-type]
    assert float((found - expected).abs().max()) < 1e-4 * float(expected.abs().max())


def test_old_checkpoints_without_the_neck_export_no_logits(tiny_network: OSNet, tmp_path: Path) -> None:
    """Old runs did not save the neck. Their classifier (without a bias) needs it, so logits would be wrong."""
    pytest.importorskip("onnx")
    shape = Preprocessing(size_hw=(64, 32))
    card = Card(tiny_network.config, preprocessing=shape, source="recipe market1501-osnet-x1-0-strong")
    save_weights(tiny_network, tmp_path / "old", card, {"weight": torch.rand(7, 512)})
    old = read_checkpoint(tmp_path / "old")
    with pytest.raises(ModelError, match="BNNeck"):
        export(old, tmp_path / "out", outputs=("logits",))
    with pytest.raises(WeightsError, match="BNNeck"):
        convert(tmp_path / "old", tmp_path / "old.pth")
    assert not (tmp_path / "old.pth").exists()
    assert [file.outputs for file in export(old, tmp_path / "out")] == [("embeddings",)] * 2
