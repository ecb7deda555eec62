"""Faults of weights that a review found: file names, classifiers, wrong arguments, names of targets, wrappers."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from osnet import Embedder, create_model
from osnet.embedding.class_predictor import ClassPredictor
from osnet.errors import OutputError, WeightsError
from osnet.models.osnet import OSNet
from osnet.runtime.export import export
from osnet.weights.card import LICENCE_UNKNOWN
from osnet.weights.checkpoint import convert, load_weights, read_checkpoint, save_weights
from osnet.weights.hub import PUBLISHED, find_weights, locate
from osnet.weights.torchreid import training_data_from_file
from test_weights import same, torchreid_state

CLASSES = {"imagenet": 1000, "market1501": 751, "dukemtmcreid": 702, "msmt17": 1041, "msmt17_combineall": 4101}


def write_file(path: Path, network: OSNet, num_classes: int = 0, **tensors: torch.Tensor) -> Path:
    torch.save({**torchreid_state(network, num_classes), **tensors}, path)
    return path


def refusal(call: Any, error: type[Exception] = WeightsError) -> str:
    with pytest.raises(error) as caught:
        call()
    return str(caught.value)


# Training data from file names


def test_every_published_name_gives_its_training_data() -> None:
    names = [(name, w.dataset) for w in PUBLISHED.values() for name in w.local_names]
    assert len(names) > 80
    for name, data in names:
        assert training_data_from_file(Path(name), CLASSES[data]) == data, name
        if "msmt17" not in name or "combineall" in name:
            assert training_data_from_file(Path(name), 0) == data, name


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("osnet_ain_x1_0_dukemtmcreid_256x128_amsgrad_ep90_lr0.0015_coslr_b64_fb10_softmax_labsmth_flip_jitter.pth",
         "dukemtmcreid"),
        ("osnet_x0_5_market1501.pth.tar-150", "market1501"),
        ("osnet_x0_5_market1501.pth.tar", "market1501"),
        ("osnet_x0_25_duke.safetensors", "dukemtmcreid"),
        ("osnet_x0_25_marketing.pth", "unknown"),
        ("osnet_x0_25_duke_msmt17.pth", "unknown"),
        ("osnet_x0_25_imagenet_then_mine.pth", "unknown"),
        ("osnet_x0_25_msmt17_finetuned.pth", "unknown"),
        ("osnet_x1_0_market_256x128_amsgrad_ep150_mine.pth", "unknown"),
        ("my_osnet_x0_25_msmt17.pth", "unknown"),
    ],
)  # fmt: skip
def test_training_data_need_the_whole_name(name: str, data: str) -> None:
    assert training_data_from_file(Path(name), 0) == data


@pytest.mark.parametrize(("num_classes", "data"), [(0, "imagenet"), (1000, "imagenet"), (10, "unknown")])
def test_imagenet_has_1000_classes(num_classes: int, data: str) -> None:
    assert training_data_from_file(Path("osnet_x1_0_imagenet.pth"), num_classes) == data


def test_a_longer_name_changes_nothing_and_is_reported(tmp_path: Path, tiny_network: OSNet) -> None:
    file = write_file(tmp_path / "osnet_x0_25_imagenet_then_mine.pth", tiny_network, 9)
    with pytest.warns(UserWarning, match=r"then_mine.*unknown"):
        card = read_checkpoint(file).card
    assert (card.training_data, card.licence, card.distance) == ("unknown", LICENCE_UNKNOWN, None)
    assert card.preprocessing.size_hw == (256, 128)
    with pytest.warns(UserWarning, match="unknown"), pytest.raises(WeightsError, match="no class names"):
        ClassPredictor(file)
    published = write_file(tmp_path / "osnet_x0_25_imagenet.pth", tiny_network, 1000)
    plain = write_file(tmp_path / "mine.pth", tiny_network, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_checkpoint(published).card.preprocessing.size_hw == (224, 224)
        assert read_checkpoint(plain).card.training_data == "unknown"


# Classifiers


BAD_CLASSIFIERS = {
    "shape of classifier.weight: [10, 256] instead of [10, 512]": {"classifier.weight": torch.rand(10, 256)},
    "shape of classifier.weight: [10, 512, 1, 1]": {"classifier.weight": torch.rand(10, 512, 1, 1)},
    "shape of classifier.bias: [1] instead of [10]": {"classifier.bias": torch.rand(1)},
    "not finite: classifier.weight": {"classifier.weight": torch.full((10, 512), float("nan"))},
    "unexpected: classifier.1.weight [7, 512]": {"classifier.1.weight": torch.rand(7, 512)},
    "type of classifier.weight": {"classifier.weight": torch.ones(10, 512, dtype=torch.int64)},
}


@pytest.mark.parametrize("words", BAD_CLASSIFIERS)
def test_classifiers_that_do_not_fit_are_refused_where_they_are_needed(
    tmp_path: Path, tiny_network: OSNet, words: str
) -> None:
    file = write_file(tmp_path / "bad.pth", tiny_network, 10, **BAD_CLASSIFIERS[words])
    for use in (
        lambda: convert(file, tmp_path / "folder"),
        lambda: convert(file, tmp_path / "copy.pth"),
        lambda: export(read_checkpoint(file), tmp_path / "folder", outputs=("logits",)),
        lambda: ClassPredictor(file, classes=[str(n) for n in range(10)]),
    ):
        message = refusal(use)
        assert words in message
        assert "bad.pth" in message
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pth"]
    assert same(load_weights(file), tiny_network)  # embeddings do not depend on it
    assert same(create_model("osnet_x0_25", file), tiny_network)
    assert create_model("osnet_x0_25", file, num_classes=3).classifier.out_features == 3
    if "[10, 512, 1, 1]" not in words:
        assert words in refusal(lambda: create_model("osnet_x0_25", file, num_classes=10))


def test_a_classifier_without_its_weight_is_refused(tmp_path: Path, tiny_network: OSNet) -> None:
    file = write_file(tmp_path / "x.pth", tiny_network, **{"classifier.bias": torch.rand(10)})
    assert "missing: classifier.weight" in refusal(lambda: convert(file, tmp_path / "folder"))
    message = refusal(lambda: save_weights(tiny_network, tmp_path / "w", classifier={"weight": torch.rand(3, 7)}))
    assert "[3, 7] instead of [3, 512]" in message
    assert not (tmp_path / "w").exists()


# Arguments that are not paths


@pytest.mark.parametrize("use", [Embedder, load_weights, locate, lambda given: find_weights("osnet_x0_25", given)])
def test_objects_in_place_of_paths_are_named_not_printed(tiny_network: OSNet, use: Any) -> None:
    state = tiny_network.state_dict()
    message = refusal(lambda: use(state))
    assert f"{len(state)} entries" in message
    assert "torch.save(state, 'weights.pth')" in message
    assert len(message) < 300
    message = refusal(lambda: use(nn.Sequential(*[nn.Linear(2, 2) for _ in range(100)])))
    assert "Sequential" in message
    assert "torch.save(model.state_dict(), 'weights.pth')" in message
    assert len(message) < 400
    assert len(refusal(lambda: use(["x.pth"] * 10_000))) < 300


@pytest.mark.parametrize("use", [Embedder, load_weights, locate, lambda given: create_model("osnet_x0_25", given)])
def test_an_empty_path_is_refused(
    use: Any, tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would mean the current folder, and the checkpoint folder ``weights`` in it."""
    (tmp_path / "weights").symlink_to(tiny_weights)
    monkeypatch.chdir(tmp_path)
    assert "empty" in refusal(lambda: use(""))
    (tmp_path / "weights").unlink()
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.onnx").write_bytes(b"of another project")
    assert "empty" in refusal(lambda: use(""))


# Names of targets


@pytest.mark.parametrize("name", ["x.safetensors", "x.onnx", "x.ckpt", "x.CKPT", "x.xml"])
def test_targets_with_the_ending_of_another_file_are_refused(tmp_path: Path, tiny_weights: Path, name: str) -> None:
    message = refusal(lambda: convert(tiny_weights, tmp_path / name), OutputError)
    assert name in message
    assert ".pth" in message
    assert str(tmp_path / "x") in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x.PTH", "x.Pt", "model.PTH.TAR-60"])
def test_endings_count_in_upper_case_too(tmp_path: Path, tiny_weights: Path, tiny_network: OSNet, name: str) -> None:
    convert(tiny_weights, tmp_path / name)
    assert (tmp_path / name).is_file()
    assert same(load_weights(tmp_path / name), tiny_network)


def test_folders_are_not_named_like_files(tmp_path: Path, tiny_weights: Path, tiny_network: OSNet) -> None:
    assert "x.pth" in refusal(lambda: save_weights(tiny_network, tmp_path / "x.pth"), OutputError)
    for name in ("m.onnx", "m.XML", "m.pt2", "m.pth"):
        message = refusal(lambda name=name: export(read_checkpoint(tiny_weights), tmp_path / name), OutputError)
        assert name in message
        assert str(tmp_path / "m") in message
    assert not list(tmp_path.iterdir())
    save_weights(tiny_network, tmp_path / "osnet_x0.25")
    assert (tmp_path / "osnet_x0.25" / "card.json").is_file()


# Networks in wrappers


@pytest.mark.parametrize(
    "others",
    [
        {"bottleneck.weight": torch.rand(512), "head.weight": torch.rand(9, 512)},
        {"center_loss.centers": torch.rand(9, 512)},
    ],
)
def test_tensors_beside_a_wrapped_network_are_refused_with_a_way_out(
    tmp_path: Path, tiny_network: OSNet, others: dict[str, torch.Tensor]
) -> None:
    inner = {f"backbone.{key}": value for key, value in torchreid_state(tiny_network).items()}
    torch.save({"state_dict": inner | others}, tmp_path / "x.pth")
    message = refusal(lambda: load_weights(tmp_path / "x.pth"))
    assert all(f"unexpected: {name}" in message for name in others)
    assert "torch.save(model.backbone.state_dict(), 'weights.pth')" in message
    torch.save({key.removeprefix("backbone."): value for key, value in inner.items()}, tmp_path / "weights.pth")
    assert same(load_weights(tmp_path / "weights.pth"), tiny_network)  # what the message says works
    inside = inner | others | {"backbone.other.weight": torch.rand(512)}
    torch.save(inside, tmp_path / "x.pth")  # saving the backbone alone would not help
    assert "model.backbone" not in refusal(lambda: load_weights(tmp_path / "x.pth"))
    del inner["backbone.conv5.conv.weight"]
    torch.save(inner | others, tmp_path / "x.pth")
    assert "model.backbone" not in refusal(lambda: load_weights(tmp_path / "x.pth"))
