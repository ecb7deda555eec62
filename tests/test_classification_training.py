"""Training classification: gradients of parts, resuming, packed and in-memory photographs, recipes, scores, classes."""

import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import shared_data
from osnet import Embedder, create_model, load_weights
from osnet.cli import main
from osnet.data.classification import PhotoBytes, read_photo_folder
from osnet.data.packed import PackedPhotos, read_packed_index, write_packed
from osnet.data.photo_augmentation import PhotoAugmentation, pad_and_cut
from osnet.data.photos import PhotoDataset, read_photos
from osnet.data.samplers import RandomBatches
from osnet.data.transforms import normalize, to_fractions
from osnet.errors import DataError, ModelError, WeightsError
from osnet.inference.classes import ClassPredictor
from osnet.inference.export import find_heads
from osnet.losses import smoothed_cross_entropy
from osnet.models.card import Card, read_card
from osnet.models.printed import TABLE_A
from osnet.models.weights import read_checkpoint, save_weights
from osnet.recipes import RECIPES
from osnet.tasks.classification import ClassificationRecipe, ClassificationTask
from osnet.tasks.photo_epochs import ByteEpochs
from osnet.tasks.photo_scores import score_photos
from osnet.training.engine import RunOptions, Trainer
from osnet.types import Preprocessing

pytest.importorskip("accelerate")

INLINE = RunOptions(workers=0, cpu=True)
TINY = ClassificationRecipe(
    "tiny", model="osnet_x0_25", width=0.0625, stem="cifar", size_hw=(8, 8), epochs=2, batch_size=8, optimizer="sgd",
    lr=0.02, schedule="constant", in_memory=True, augmentation=PhotoAugmentation(window="padded", pad=1),
)  # fmt: skip
COLOURS = {"blue": (30, 40, 200), "green": (40, 190, 50), "red": (210, 40, 30)}


def write_colours(folder: Path, each: int, seed: int, size: int = 8) -> Path:
    """Noisy squares of one colour in a folder of its name."""
    rng = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(each):
            noise = rng.normal(0, 8, (size, size, 3)) + np.array(colour)
            Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images to train on, 9 to test."""
    root = tmp_path_factory.mktemp("c") / "colours"
    write_colours(root / "train", 8, 1)
    write_colours(root / "test", 3, 2)
    return root


@pytest.fixture(scope="module")
def packed(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, the training part in six tar files."""
    root = tmp_path_factory.mktemp("p") / "packed"
    write_packed(read_photo_folder(colours / "train"), root / "train", 4)
    write_packed(read_photo_folder(colours / "test"), root / "val", 4)
    return root


@pytest.fixture(scope="module")
def run(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("r") / "run"
    recipe = replace(TINY, epochs=24, optimizer="adamw", lr=0.002, schedule="cosine")
    Trainer(recipe, recipe.read([colours]), out, INLINE).run()
    return out


@pytest.fixture(autouse=True)
def _same_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def state_of(out: Path) -> dict[str, torch.Tensor]:
    state = torch.load(out / "state.pt", weights_only=True)
    flat = {f"task.{k}": v for k, v in state["task"].items()}
    for number, slots in state["optimizer"]["state"].items():
        flat |= {f"{number}.{k}": torch.as_tensor(v) for k, v in slots.items()}
    return flat


def assert_equal_runs(a: Path, b: Path) -> None:
    x, y = state_of(a), state_of(b)
    assert x.keys() == y.keys()
    assert [key for key in x if not torch.equal(x[key], y[key])] == []


def run_in_pieces(recipe: ClassificationRecipe, data: PhotoDataset, out: Path, stops: tuple[int, ...]) -> None:
    """Stopped after these steps, then to the end."""
    for stop_at in (*stops, 10_000):
        trainer = Trainer(recipe, data, out, INLINE)
        step = trainer._step

        def counting(*args, trainer=trainer, stop_at=stop_at, step=step) -> None:
            step(*args)
            if trainer.progress.step + 1 == stop_at:
                trainer._stopping.set()

        trainer._step = counting
        if stop_at == 10_000:
            trainer.run()
        else:
            with pytest.raises(KeyboardInterrupt):
                trainer.run()


# Loss and gradients


def test_the_loss_is_the_cross_entropy_of_normalised_bytes() -> None:
    torch.manual_seed(0)
    task = ClassificationTask(create_model("osnet_x0_25", stem="cifar"), 5, Preprocessing((8, 8)), smoothing=0.1).eval()
    pixels, labels = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8), torch.tensor([0, 1, 2, 3, 4, 0])
    scalars = task({"image": pixels, "label": labels})
    images = (pixels.double() / 255 - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor(
        [0.229, 0.224, 0.225]
    )[:, None, None]
    with torch.no_grad():
        logits = task.classifier(task.network(images.float()))
    assert float(scalars["loss"].detach()) == pytest.approx(
        float(smoothed_cross_entropy(logits, labels, 0.1)), rel=1e-5
    )
    assert float(scalars["accuracy"]) == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    normalised = task({"image": normalize(to_fractions(pixels), Preprocessing()), "label": labels})
    assert float(normalised["loss"].detach()) == pytest.approx(float(scalars["loss"].detach()), rel=1e-5)


def gradients_of_one_batch(colours: Path, out: Path, accumulation: int, rank: int = 0) -> dict[str, torch.Tensor]:
    """After one step of the real trainer with BatchNorm frozen; the first batch of 24."""
    recipe = replace(TINY, batch_size=24, accumulation=accumulation)
    trainer = Trainer(recipe, recipe.read([colours]), out / str(rank), INLINE)
    batches, number = trainer.epochs.load(0, 0, 0)
    assert number == 1
    trainer.task.eval()
    trainer._step(next(iter(batches)), False)
    bare = trainer.accelerator.unwrap_model(trainer.task)
    return {name: p.grad.clone() for name, p in bare.named_parameters() if p.grad is not None}


def assert_same_gradients(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert float((got[name] - value).abs().max()) <= 1e-5 * max(1.0, float(value.abs().max())), name
    assert max(float(value.abs().max()) for value in expected.values()) > 1e-3


@pytest.mark.parametrize("accumulation", [2, 8])
def test_parts_of_a_batch_give_the_gradients_of_the_whole(accumulation: int, colours: Path, tmp_path: Path) -> None:
    whole = gradients_of_one_batch(colours, tmp_path / "whole", 1)
    assert_same_gradients(gradients_of_one_batch(colours, tmp_path / "parts", accumulation), whole)


def one_of_two(rank: int, colours: str, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = (Path(folder) / "port").read_text()
    torch.set_num_threads(1)
    grads = gradients_of_one_batch(Path(colours), Path(folder), 3, rank)
    if rank == 0:
        torch.save(grads, Path(folder) / "grads.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_with_three_parts_each_give_the_gradients_of_one(colours: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (tmp_path / "port").write_text(str(free.getsockname()[1]))
    torch.multiprocessing.spawn(one_of_two, args=(str(colours), str(tmp_path)), nprocs=2)
    got = torch.load(tmp_path / "grads.pt", weights_only=True)
    assert_same_gradients(got, gradients_of_one_batch(colours, tmp_path / "whole", 1))


def test_live_batchnorm_sees_the_parts(colours: Path, tmp_path: Path) -> None:
    """What the docs say: only with BatchNorm frozen are the gradients the same."""
    runs = []
    for accumulation in (1, 8):
        recipe = replace(TINY, batch_size=24, epochs=1, accumulation=accumulation)
        Trainer(recipe, recipe.read([colours]), tmp_path / str(accumulation), INLINE).run()
        runs.append(state_of(tmp_path / str(accumulation)))
    seen = [next(v for k, v in state.items() if k.endswith("num_batches_tracked")) for state in runs]
    assert [int(number) for number in seen] == [1, 8]


# Where the images come from


def test_bytes_in_memory_do_not_depend_on_the_number_of_processes() -> None:
    torch.manual_seed(1)
    pixels = torch.randint(0, 256, (12, 3, 8, 8), dtype=torch.uint8)
    photos = PhotoBytes("p", pixels, torch.arange(12) % 3, ("a", "b", "c"))
    window = PhotoAugmentation(window="padded", pad=2)

    def load(rank: int, num_ranks: int, first: int = 0) -> list[dict[str, torch.Tensor]]:
        sampler = RandomBatches(range(12), 4, 7, rank, num_ranks)
        epochs = ByteEpochs(photos, window, Preprocessing((8, 8)), sampler, torch.device("cpu"))
        batches, number = epochs.load(3, first, 0)
        found = list(batches)
        assert len(found) == number
        return found

    whole, left, right = load(0, 1), load(0, 2), load(1, 2)
    assert len(whole) == 3
    for batch, a, b in zip(whole, left, right, strict=True):
        assert torch.equal(batch["image"], torch.cat([a["image"], b["image"]]))
        assert torch.equal(batch["label"], torch.cat([a["label"], b["label"]]))
    assert torch.equal(load(0, 1, 2)[0]["image"], whole[2]["image"])  # going on in mid-epoch
    order = RandomBatches(range(12), 4, 7).batches(3)
    assert [batch["label"].tolist() for batch in whole] == [[i % 3 for i in row] for row in order]
    rng = np.random.default_rng([7, 3, 1, 81])
    assert torch.equal(whole[1]["image"], pad_and_cut(pixels[order[1]], 2, 0.5, rng))


@pytest.mark.parametrize("kind", ["memory", "files", "packed"])
def test_stopped_anywhere_it_ends_bit_for_bit_the_same(kind: str, colours: Path, packed: Path, tmp_path: Path) -> None:
    recipe, source = replace(TINY, ema=0.9 if kind == "memory" else 0.0, dropout=0.3), colours
    if kind != "memory":
        window = PhotoAugmentation(window="cut") if kind == "files" else PhotoAugmentation()
        recipe = replace(recipe, in_memory=False, crop_from=(9, 9), augmentation=window, accumulation=2)
    if kind == "packed":
        pytest.importorskip("webdataset")
        recipe, source = replace(recipe, packed_readers=0, batch_size=4), packed
    Trainer(recipe, recipe.read([source]), tmp_path / "whole", INLINE).run()
    run_in_pieces(recipe, recipe.read([source]), tmp_path / "broken", (1, 5))
    assert_equal_runs(tmp_path / "whole", tmp_path / "broken")
    rows = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "broken")]
    assert rows[0] == rows[1]
    assert rows[0].count("\n") == 2


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 2, 3])
def test_packed_files_go_on_in_mid_epoch(workers: int, packed: Path) -> None:
    """With unequal shares of the workers, so that rounds at the end lack some."""
    pytest.importorskip("webdataset")
    index = read_packed_index(packed / "train")
    settings = {"augmentation": PhotoAugmentation(), "preprocessing": Preprocessing((8, 8)), "seed": 1, "epoch": 4}

    def labels(first: int) -> list[torch.Tensor]:
        photos = PackedPhotos(index, 3, num_workers=workers, first_batch=first, **settings)
        return [batch["image"] for batch in photos.loader()][photos.num_extra :]

    whole = labels(0)
    assert len(whole) >= 6
    for first in range(len(whole) + 1):
        rest = labels(first)
        assert len(rest) == len(whole) - first
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[first:], strict=True))


def test_packed_files_go_on_with_as_many_processes_only(packed: Path, tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    recipe = replace(TINY, in_memory=False, augmentation=PhotoAugmentation(), packed_readers=0, batch_size=4)
    trainer = Trainer(recipe, recipe.read([packed]), tmp_path / "run", INLINE)
    trainer.progress.batch, trainer.progress.num_ranks = 2, 3
    trainer.save()
    with pytest.raises(DataError, match=r"with 3 processes.*go on with as many, not 1"):
        Trainer(recipe, recipe.read([packed]), tmp_path / "run", INLINE)


def test_what_is_read(colours: Path, packed: Path, tmp_path: Path) -> None:
    data = read_photos(colours)
    assert (data.name, data.classes) == ("colours", ("blue", "green", "red"))
    assert data.train is not None
    assert (len(data.train), len(data.scored), data.val) == (24, 9, None)
    held = data.hold_out(6)
    assert held.train is not None
    assert held.val is not None
    assert (len(held.train), sorted(held.val.labels)) == (18, [0, 0, 1, 1, 2, 2])
    assert not set(held.train.paths) & set(held.val.paths)
    assert len(read_photos(colours / "test").scored) == 9  # a folder of classes alone is to be scored
    assert len(read_photos(packed).scored) == 9
    with pytest.raises(DataError, match="not of packed photographs"):
        read_photos(packed).hold_out(3)
    with pytest.raises(DataError, match="not held in memory"):
        read_photos(packed).in_memory()
    with pytest.raises(DataError, match="has 3 classes, which are not the 2 expected"):
        read_photos(packed, ("blue", "green"))
    with pytest.raises(DataError, match="has no packed photographs"):
        read_photos(Path("http://127.0.0.1:9/nothing"))  # as the command line gives it: one slash
    write_colours(tmp_path / "odd", 1, 0, size=7)
    with pytest.raises(DataError, match="in memory, which are not resized"):
        Trainer(replace(TINY, batch_size=3), TINY.read([tmp_path / "odd"]), tmp_path / "run", INLINE)
    with pytest.raises(DataError, match="the window is 'padded' or 'none', not 'resized'"):
        recipe = replace(TINY, augmentation=PhotoAugmentation())
        Trainer(recipe, recipe.read([colours]), tmp_path / "run2", INLINE)
    with pytest.raises(DataError, match="multiple of 1 processes x 3 accumulation steps"):
        Trainer(replace(TINY, accumulation=3), TINY.read([colours]), tmp_path / "run3", INLINE)
    with pytest.raises(DataError, match="got 2 folders"):
        TINY.read([colours, colours])


# What comes out


def test_it_learns_and_its_checkpoint_says_so(run: Path, colours: Path) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    assert rows[-1]["loss"] < 0.6 < rows[0]["loss"]
    card, _ = read_card(run / "weights")
    assert (card.classes, card.num_classes, card.training_data) == (("blue", "green", "red"), 3, "colours")
    predictor = ClassPredictor(run)
    scores = score_photos(predictor, read_photos(colours).scored)
    assert scores.top == {1: 1.0}  # of three classes there is no top-5
    assert scores.by_class == (1.0, 1.0, 1.0)
    in_memory = read_photos(colours).in_memory().scored
    assert isinstance(in_memory, PhotoBytes)
    by_bytes = predictor.classify_bytes(in_memory.pixels)
    by_files = predictor.predict(read_photo_folder(colours / "test").paths)
    np.testing.assert_allclose(by_bytes, by_files.probabilities, atol=1e-5)
    np.testing.assert_allclose(by_bytes.sum(1), 1, atol=1e-5)
    checkpoint = read_checkpoint(run)
    logits = (
        by_files.vectors @ checkpoint.state["classifier.weight"].numpy().T + checkpoint.state["classifier.bias"].numpy()
    )
    exponents = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(by_files.probabilities, exponents / exponents.sum(1, keepdims=True), atol=1e-4)
    (first, share), (_, second) = by_files.best(0, top=2)
    assert (first, share > second) == ("blue", True)
    plain = Embedder(run).embed(colours / "test")
    np.testing.assert_allclose(
        plain, by_files.vectors / np.linalg.norm(by_files.vectors, axis=1, keepdims=True), atol=1e-4
    )


def test_scores_count_by_hand(run: Path, colours: Path, packed: Path, tmp_path: Path) -> None:
    """Two of nine in wrong folders: 7 right."""
    predictor = ClassPredictor(run, backend="torch")
    wrong = tmp_path / "wrong"
    write_colours(wrong, 3, 2)
    (wrong / "red" / "0.png").rename(wrong / "blue" / "x.png")
    (wrong / "red" / "1.png").rename(wrong / "green" / "x.png")
    scores = score_photos(predictor, read_photo_folder(wrong))
    assert scores.top[1] == pytest.approx(7 / 9)
    assert scores.by_class == (0.75, 0.75, 1.0)
    assert "top-1     77.78 %" in str(scores)
    pytest.importorskip("webdataset")
    assert score_photos(predictor, read_photos(packed).scored).top[1] == 1.0
    (wrong / "red" / "2.png").write_bytes(b"broken")
    left = score_photos(predictor, read_photo_folder(wrong), on_error="skip")
    assert (left.num_images, left.by_class[2], len(left.failures)) == (8, None, 1)
    other = PhotoBytes("o", torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, dtype=torch.long), ("a", "b"))
    with pytest.raises(DataError, match="o has the classes a, b"):
        score_photos(predictor, other)
    with pytest.raises(ModelError, match="give uint8"):
        predictor.classify_bytes(torch.zeros(1, 3, 9, 9, dtype=torch.uint8))


def test_the_best_epoch_is_picked_on_held_out_images(colours: Path, tmp_path: Path) -> None:
    recipe = replace(TINY, validation=6, evaluate_every=1)
    trainer = Trainer(recipe, recipe.read([colours]), tmp_path / "run", INLINE)
    trainer.run()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    scores = [row["validation_top1"] for row in rows if "validation_top1" in row]
    assert len(scores) == 2
    assert trainer.progress.best_score == max(scores)
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["data"] == {
        "images": 18, "validation_images": 6, "classes": 3,
    }  # fmt: skip


def test_commands(run: Path, colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--data", str(colours), "--out", str(tmp_path / "run"), "--cpu", "--epochs", "1", "--batch-size", "8"]
    main(["train", "cifar10-osnet-x0-25", *args, "--size-hw", "8", "8", "--warmup-epochs", "0"])
    assert "trained 1 epochs" in capsys.readouterr().out
    main(["evaluate", "--weights", str(run), "--data", str(colours), "--out", str(tmp_path / "scores.json")])
    assert "top-1    100.00 %" in capsys.readouterr().out
    assert json.loads((tmp_path / "scores.json").read_text())["top1"] == 1.0
    photo = str(colours / "test" / "red" / "1.png")
    main(["predict", "classes", photo, "--weights", str(run), "--top", "2", "--out", str(tmp_path / "p.csv")])
    said = capsys.readouterr().out.splitlines()
    assert said[0] == photo
    assert said[1].split()[-1] == "red"
    assert len(said) == 3
    header, row = (tmp_path / "p.csv").read_text().splitlines()
    assert header == "path,blue,green,red"
    assert row.startswith(photo)
    main(["predict", "classes", photo, "--weights", str(run), "--json", "--out", str(tmp_path / "p.json")])
    (told,) = json.loads(capsys.readouterr().out)
    assert next(iter(told["probabilities"])) == "red"
    assert json.loads((tmp_path / "p.json").read_text())["classes"] == ["blue", "green", "red"]
    for wrong in (["--flip"], ["--rule", "cuhk03"], ["--features", "x"]):
        with pytest.raises(SystemExit):
            main(["evaluate", "--weights", str(run), "--data", str(colours), *wrong])
        assert "re-identification" in capsys.readouterr().err


def test_a_trained_checkpoint_is_exported_with_its_logits(run: Path, colours: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    main(["export", str(run), "--out", str(tmp_path), "--outputs", "logits"])
    (file,) = tmp_path.glob("*_uint8.onnx")
    about = {prop.key: prop.value for prop in onnx.load(file).metadata_props}
    assert json.loads(about["classes"]) == ["blue", "green", "red"]
    pixels = read_photos(colours).in_memory().scored
    assert isinstance(pixels, PhotoBytes)
    _, logits = runtime.InferenceSession(str(file)).run(None, {"images": pixels.pixels.numpy()})
    assert (logits.argmax(1) == pixels.labels.numpy()).all()
    assert set(find_heads(read_checkpoint(run))) == {"logits"}


def test_weights_that_name_no_classes(tmp_path: Path, run: Path) -> None:
    network = create_model("osnet_x0_25")
    save_weights(network, tmp_path / "bare")
    with pytest.raises(WeightsError, match="names no classes: no classifier"):
        ClassPredictor(tmp_path / "bare")
    save_weights(network, tmp_path / "people", classifier=torch.nn.Linear(512, 4).state_dict())
    with pytest.raises(WeightsError, match="tells identities apart"):
        ClassPredictor(tmp_path / "people")
    card = Card(network.config, training_data="imagenet", preprocessing=Preprocessing((64, 64)))
    save_weights(network, tmp_path / "numbers", card, classifier=torch.nn.Linear(512, 4).state_dict())
    assert ClassPredictor(tmp_path / "numbers").classes == ("0", "1", "2", "3")
    with pytest.raises(ModelError, match="2 names for the 4 classes"):
        ClassPredictor(tmp_path / "numbers", classes=["a", "b"])
    with pytest.raises(ValueError, match="2 names for 3 classes"):
        replace(read_card(run / "weights")[0], classes=("a", "b"))
    save_weights(load_weights(run), tmp_path / "cut")  # without the classifier, the names go too
    assert read_card(tmp_path / "cut")[0].classes == ()


# Recipes


def test_imagenet_recipes_are_the_supplements() -> None:
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
        ({"model": "mobilenetv2_x1_0", "depth": (1, 1, 1)}, "unknown setting depth"),
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


def test_the_figure_of_costs(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from osnet.errors import OutputError
    from osnet.figures.costs import CostPoint, save_costs

    points = [
        CostPoint("OSNet", "x0.5", 1.1e6, 424e6, 0.695), CostPoint("OSNet", "x1.0", 2.7e6, 1511e6, 0.755),
        CostPoint("SqueezeNet", "1.0", 1.2e6, None, 0.575, 0.57, 0.58),
    ]  # fmt: skip
    save_costs(points, tmp_path / "a.svg", "top-1", "not ImageNet")
    svg = (tmp_path / "a.svg").read_text()
    assert svg.count(">x0.5<") == 2
    assert svg.count(">1.0<") == 1  # its multiply-adds are not known
    assert svg.count(">OSNet<") == 1
    assert "not ImageNet" in svg
    assert "top-1 (%)" in svg
    save_costs(points, tmp_path / "b.svg", "top-1", "not ImageNet")
    assert (tmp_path / "b.svg").read_bytes() == (tmp_path / "a.svg").read_bytes()
    with pytest.raises(DataError, match="no networks"):
        save_costs([], tmp_path / "c.svg", "top-1")
    with pytest.raises(DataError, match=r"OSNet x1\.0: parameters"):
        save_costs([replace(points[1], accuracy=75.5)], tmp_path / "c.svg", "top-1")
    with pytest.raises(OutputError, match="must end in"):
        save_costs(points, tmp_path / "c.gif", "top-1")
