"""The results of a classification run: checkpoint, scores, classes, logits; and the recipes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import shared_data
from osnet import Embedder, create_model, load_weights
from osnet.cli import main
from osnet.embedding.class_predictor import ClassPredictor
from osnet.errors import DataError, ModelError, WeightsError
from osnet.models.counting import TABLE_A
from osnet.photos.image_folder import PhotoBytes, read_photo_folder
from osnet.photos.reader import read_photos
from osnet.recipes import RECIPES
from osnet.runtime.export import find_heads
from osnet.tasks.classification import ClassificationRecipe
from osnet.tasks.photo_accuracy import score_photos
from osnet.training.trainer import Trainer
from osnet.types import Preprocessing
from osnet.weights.card import Card, read_card
from osnet.weights.checkpoint import read_checkpoint, save_weights
from small_runs import CLASSES, INLINE, write_colours

pytest.importorskip("accelerate")
pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_run_learns_and_its_checkpoint_predicts(colour_run: Path, colours: Path) -> None:
    rows = [json.loads(line) for line in (colour_run / "metrics.jsonl").open()]
    assert rows[-1]["loss"] < 0.6 < rows[0]["loss"]
    card, _ = read_card(colour_run / "weights")
    assert (card.classes, card.num_classes, card.training_data) == (("blue", "green", "red"), 3, "colours")
    predictor = ClassPredictor(colour_run)
    scores = score_photos(predictor, read_photos(colours).scored)
    assert scores.top == {1: 1.0}  # no top-5 with three classes
    assert scores.by_class == (1.0, 1.0, 1.0)
    in_memory = read_photos(colours).in_memory().scored
    assert isinstance(in_memory, PhotoBytes)
    by_bytes = predictor.classify_bytes(in_memory.pixels)
    by_files = predictor.predict(read_photo_folder(colours / "test").paths)
    np.testing.assert_allclose(by_bytes, by_files.probabilities, atol=1e-5)
    np.testing.assert_allclose(by_bytes.sum(1), 1, atol=1e-5)
    checkpoint = read_checkpoint(colour_run)
    logits = (
        by_files.vectors @ checkpoint.state["classifier.weight"].numpy().T + checkpoint.state["classifier.bias"].numpy()
    )
    exponents = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(by_files.probabilities, exponents / exponents.sum(1, keepdims=True), atol=1e-4)
    (first, share), (_, second) = by_files.topk(0, k=2)
    assert (first, share > second) == ("blue", True)
    plain = Embedder(colour_run).embed(colours / "test")
    np.testing.assert_allclose(
        plain, by_files.vectors / np.linalg.norm(by_files.vectors, axis=1, keepdims=True), atol=1e-4
    )


def test_scores_by_hand(colour_run: Path, colours: Path, packed_colours: Path, tmp_path: Path) -> None:
    """Two of nine images are in wrong folders, so 7 are right."""
    predictor = ClassPredictor(colour_run, backend="torch")
    wrong = tmp_path / "wrong"
    write_colours(wrong, 3, 2)
    (wrong / "red" / "0.png").rename(wrong / "blue" / "x.png")
    (wrong / "red" / "1.png").rename(wrong / "green" / "x.png")
    scores = score_photos(predictor, read_photo_folder(wrong))
    assert scores.top[1] == pytest.approx(7 / 9)
    assert scores.by_class == (0.75, 0.75, 1.0)
    assert "top-1     77.78 %" in str(scores)
    pytest.importorskip("webdataset")
    assert score_photos(predictor, read_photos(packed_colours).scored).top[1] == 1.0
    (wrong / "red" / "2.png").write_bytes(b"broken")
    left = score_photos(predictor, read_photo_folder(wrong), on_error="skip")
    assert (left.num_images, left.by_class[2], len(left.failures)) == (8, None, 1)
    other = PhotoBytes("o", torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, dtype=torch.long), ("a", "b"))
    with pytest.raises(DataError, match="o has 2 classes"):
        score_photos(predictor, other)
    with pytest.raises(ModelError, match="9, 9"):
        predictor.classify_bytes(torch.zeros(1, 3, 9, 9, dtype=torch.uint8))


def test_the_best_epoch_is_chosen_on_held_out_images(colours: Path, tmp_path: Path) -> None:
    recipe = replace(CLASSES, validation=6, evaluate_every=1)
    trainer = Trainer(recipe, recipe.read([colours]), tmp_path / "run", INLINE)
    trainer.run()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    scores = [row["validation_top1"] for row in rows if "validation_top1" in row]
    assert len(scores) == 2
    assert trainer.progress.best_score == max(scores)
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["data"] == {
        "images": 18, "validation_images": 6, "classes": 3,
    }  # fmt: skip


def test_train_evaluate_and_predict_commands(
    colour_run: Path, colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--data", str(colours), "--out", str(tmp_path / "run"), "--cpu", "--epochs", "1", "--batch-size", "8"]
    main(["train", "cifar10-osnet-x0-25", *args, "--size-hw", "8", "8", "--warmup-epochs", "0"])
    assert "trained 1 epochs" in capsys.readouterr().out
    main(
        [
            "evaluate-classes",
            "--weights",
            str(colour_run),
            "--data",
            str(colours),
            "--out",
            str(tmp_path / "scores.json"),
        ]
    )
    assert "top-1    100.00 %" in capsys.readouterr().out
    assert json.loads((tmp_path / "scores.json").read_text())["top1"] == 1.0
    photo = str(colours / "test" / "red" / "1.png")
    main(["predict", "classes", photo, "--weights", str(colour_run), "--top", "2", "--out", str(tmp_path / "p.csv")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == photo
    assert lines[1].split()[-1] == "red"
    assert len(lines) == 3
    header, row = (tmp_path / "p.csv").read_text().splitlines()
    assert header == "path,blue,green,red"
    assert row.startswith(photo)
    main(["predict", "classes", photo, "--weights", str(colour_run), "--json", "--out", str(tmp_path / "p.json")])
    (predicted,) = json.loads(capsys.readouterr().out)
    assert next(iter(predicted["probabilities"])) == "red"
    assert json.loads((tmp_path / "p.json").read_text())["classes"] == ["blue", "green", "red"]
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", "--weights", str(colour_run), "--data", str(colours)])
    assert caught.value.code == 2
    assert f"osnet evaluate-classes --weights {colour_run} --data {colours}" in capsys.readouterr().err


def test_a_trained_checkpoint_is_exported_with_its_logits(colour_run: Path, colours: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    main(["export", str(colour_run), "--out", str(tmp_path), "--outputs", "logits"])
    (file,) = tmp_path.glob("*_uint8.onnx")
    about = {prop.key: prop.value for prop in onnx.load(file).metadata_props}
    assert json.loads(about["classes"]) == ["blue", "green", "red"]
    pixels = read_photos(colours).in_memory().scored
    assert isinstance(pixels, PhotoBytes)
    _, logits = runtime.InferenceSession(str(file)).run(None, {"images": pixels.pixels.numpy()})
    assert (logits.argmax(1) == pixels.labels.numpy()).all()
    assert set(find_heads(read_checkpoint(colour_run))) == {"logits"}


def test_weights_without_class_names(tmp_path: Path, colour_run: Path) -> None:
    network = create_model("osnet_x0_25")
    save_weights(network, tmp_path / "bare")
    with pytest.raises(WeightsError, match="classifier"):
        ClassPredictor(tmp_path / "bare")
    save_weights(network, tmp_path / "people", classifier=torch.nn.Linear(512, 4).state_dict())
    with pytest.raises(WeightsError, match="classes"):
        ClassPredictor(tmp_path / "people")
    card = Card(network.config, training_data="imagenet", preprocessing=Preprocessing((64, 64)))
    save_weights(network, tmp_path / "numbers", card, classifier=torch.nn.Linear(512, 4).state_dict())
    assert ClassPredictor(tmp_path / "numbers").classes == ("0", "1", "2", "3")
    with pytest.raises(ModelError, match=r"2 class names.* 4 outputs"):
        ClassPredictor(tmp_path / "numbers", classes=["a", "b"])
    with pytest.raises(ValueError, match=r"2 .*3 classes"):
        replace(read_card(colour_run / "weights")[0], classes=("a", "b"))
    save_weights(load_weights(colour_run), tmp_path / "no-classifier")  # no classifier, so no class names
    assert read_card(tmp_path / "no-classifier")[0].classes == ()


def test_imagenet_recipes_match_the_papers_supplement() -> None:
    for row in TABLE_A:
        recipe = RECIPES[f"imagenet-{row.model.replace('_', '-')}"]()
        assert isinstance(recipe, ClassificationRecipe)
        assert (recipe.optimizer, recipe.lr, recipe.batch_size, recipe.weight_decay) == ("sgd", 0.4, 1024, 4e-5)
        assert (recipe.epochs, recipe.size_hw, recipe.crop_from) == (120, (224, 224), (256, 256))
        assert (recipe.augmentation.window, recipe.augmentation.flip) == ("cut", 0.5)
        assert recipe.preprocessing.crop_from == (256, 256)
        text = RECIPES[recipe.name].__doc__ or ""
        assert row.top1 is None or f"top-1 {row.top1}" in text


def test_cifar_recipes() -> None:
    deep = RECIPES["cifar100-osnet-3-8-6"]()
    assert isinstance(deep, ClassificationRecipe)
    network = create_model(deep.model, **deep.network_settings())
    assert sum(12 * blocks for blocks in network.config.depth) + 6 == 210
    assert len([name for name in RECIPES if name.startswith("cifar10-")]) == 12
    for name in RECIPES:
        if name.startswith("cifar"):
            recipe = RECIPES[name]()
            with torch.no_grad():
                small = create_model(recipe.model, **recipe.network_settings()).eval()
                assert small.feature_map(torch.zeros(1, 3, 32, 32)).shape[2] >= 4
    for change, words in (
        ({"accumulation": 0}, "accumulation 0"), ({"dropout": 1.5}, "dropout"), ({"depth": (1, 2)}, "depth"),
        ({"model": "mobilenetv2_x1_0", "depth": (1, 1, 1)}, "no setting depth"),
    ):  # fmt: skip
        with pytest.raises(ModelError, match=words):
            replace(deep, **change)


@pytest.mark.slow
def test_imagenet_samples_train_and_score(tmp_path: Path) -> None:
    """The real pipeline on real photographs: one epoch of 200 classes."""
    root = shared_data("imagenet-samples")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").symlink_to(root / "val")
    (tmp_path / "data" / "val").symlink_to(root / "val")
    recipe = replace(
        RECIPES["imagenet-osnet-x0-25"](), size_hw=(32, 32), crop_from=(40, 40), epochs=1, warmup_epochs=0,
        batch_size=40, accumulation=2,
    )  # fmt: skip
    weights = Trainer(recipe, recipe.read([tmp_path / "data"]), tmp_path / "run", INLINE).run()
    scores = score_photos(ClassPredictor(weights), read_photos(tmp_path / "data").scored)
    assert (scores.num_images, len(scores.classes), set(scores.top)) == (200, 200, {1, 5})
    card, _ = read_card(weights)
    assert (card.preprocessing.crop_from, card.classes[0]) == ((40, 40), "n01440764")
