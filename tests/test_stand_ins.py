"""Tests that otherwise need real data, here on generated people and random weights, so that they always run.

Not covered: what needs real data (published scores, maps on real people, a third party's export), and what other tests
cover on small copies of the layouts (PA-100K, Market-1501 and its attributes, CIFAR).
"""

import json
import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import write_picture
from osnet import load_weights
from osnet.data.folder import read_any
from osnet.data.loading import read_image, read_pixels
from osnet.data.transforms import resize_image, resize_pixels, to_tensor
from osnet.embedding.embedder import Embedder
from osnet.recipes import RECIPES
from osnet.types import Preprocessing
from osnet.weights.checkpoint import convert, read_checkpoint
from small_runs import INLINE, state_of
from stand_ins import MSMT17_CLASSES, write_random_weights


@pytest.fixture(scope="module")
def random_pth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_weights(tmp_path_factory.mktemp("zoo") / "osnet_x0_25_msmt17.pth")


@pytest.mark.parametrize("batch_size", [1, 5, 32])
def test_embedding_jpegs_matches_a_plain_loop(random_pth: Path, people: Path, batch_size: int) -> None:
    """The loop uses Pillow, NumPy and the network, which test_peer.py compares with torchreid's."""
    files = sorted(people.rglob("*.jpg"))[::6]
    assert len(files) > 10
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    network, rows = load_weights(random_pth), []
    for file in files:
        picture = Image.open(file).convert("RGB").resize((128, 256), Image.Resampling.BILINEAR)
        pixels = ((np.asarray(picture, dtype=np.float32) / 255 - mean) / std).transpose(2, 0, 1)
        with torch.no_grad():
            rows.append(network(torch.from_numpy(pixels)[None])[0].numpy())
    expected = np.stack(rows)
    within = 1e-4 * np.abs(expected).max()
    assert np.ptp(expected, axis=0).max() > 100 * within  # the crops differ by far more than the tolerance
    got = Embedder(random_pth, batch_size=batch_size, normalize=False).embed(files)
    assert np.abs(got - expected).max() <= within


def test_converting_a_model_zoo_file_there_and_back(random_pth: Path, tmp_path: Path) -> None:
    card = convert(random_pth, tmp_path / "ours")
    assert (card.name, card.num_classes, card.training_data) == ("osnet_x0_25", MSMT17_CLASSES, "msmt17")
    convert(tmp_path / "ours", tmp_path / "back.pth")
    before, after = (torch.load(path, weights_only=True) for path in (random_pth, tmp_path / "back.pth"))
    assert len(before) == 567
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_generated_crops_are_read_like_pillow(people: Path) -> None:
    """The fast JPEG decoder and resize against Pillow's."""
    files = sorted(people.rglob("*.jpg"))[::8]
    assert len(files) > 5
    for path in files:
        picture = read_image(path)
        assert torch.equal(read_pixels(path), to_tensor(picture))
        expected = resize_image(picture, Preprocessing())
        assert torch.equal(resize_pixels(read_pixels(path), Preprocessing()), expected)


@pytest.mark.usefixtures("one_thread")
def test_fine_tuning_freezes_then_trains_and_resumes(random_pth: Path, people: Path, tmp_path: Path) -> None:
    """The published recipe on random weights: first only the classifier, then all; interrupted and resumed."""
    pytest.importorskip("accelerate")
    from osnet.training.trainer import Trainer

    recipe = replace(
        RECIPES["market1501-osnet-x0-25"](), name="fine-tuned", pretrained=str(random_pth), epochs=2, frozen_epochs=1,
        backbone_lr_factor=0.02, batch_size=8, size_hw=(32, 16), schedule="cosine",
    )  # fmt: skip
    data, start = read_any(people), read_checkpoint(random_pth).state

    def stop(batches: Iterable[Any], _total: int, _label: str) -> Iterator[Any]:
        for number, batch in enumerate(batches):
            if (trainer.progress.epoch, number) == (1, 0):  # after the epoch of the classifier alone
                for key, value in trainer.plan.task.network.state_dict().items():
                    assert torch.equal(value, start[key]), key
            if (trainer.progress.epoch, number) == (1, 2):
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    trainer = Trainer(recipe, data, tmp_path / "run", INLINE)
    assert trainer.plan.task.classifier.out_features == 8  # not the file's number
    with pytest.raises(KeyboardInterrupt):
        trainer.run(stop)
    assert (trainer.progress.epoch, trainer.progress.batch) == (1, 3)
    Trainer(recipe, data, tmp_path / "run", INLINE).run()
    trained = state_of(tmp_path / "run")
    names = [key for key, _ in trainer.plan.task.network.named_parameters()]
    assert sum(torch.equal(trained[f"task.network.{key}"], start[key]) for key in names) < len(names) / 10
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert [row["epoch"] for row in rows] == [1, 2]


def test_imagenet_recipe_trains_and_scores(tmp_path: Path) -> None:
    """The ImageNet recipe at a small size, on WordNet-id folders with one image each."""
    pytest.importorskip("accelerate")
    from osnet.embedding.class_predictor import ClassPredictor
    from osnet.photos.reader import read_photos
    from osnet.tasks.photo_accuracy import score_photos
    from osnet.training.trainer import Trainer
    from osnet.weights.card import read_card

    names = [f"n{1440764 + number:08d}" for number in range(12)]
    for number, name in enumerate(names):
        for split in ("train", "val"):
            write_picture(tmp_path / "data" / split / name / f"{name}_{number}.JPEG", number, (60, 50))
    recipe = replace(
        RECIPES["imagenet-osnet-x0-25"](), size_hw=(32, 32), crop_from=(40, 40), epochs=1, warmup_epochs=0,
        batch_size=6, accumulation=2,
    )  # fmt: skip
    weights = Trainer(recipe, recipe.read([tmp_path / "data"]), tmp_path / "run", INLINE).run()
    scores = score_photos(ClassPredictor(weights), read_photos(tmp_path / "data").scored)
    assert (scores.num_images, list(scores.classes), set(scores.top)) == (12, names, {1, 5})
    card, _ = read_card(weights)
    assert (card.preprocessing.crop_from, list(card.classes)) == ((40, 40), names)
