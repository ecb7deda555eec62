"""Training classifiers: loss, gradient accumulation, several processes, batches in memory and packed, resuming."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from osnet import create_model
from osnet.data.samplers import RandomBatches
from osnet.data.transforms import normalize, to_fractions
from osnet.errors import DataError
from osnet.losses import smoothed_cross_entropy
from osnet.photos.image_folder import PhotoBytes
from osnet.photos.photo_augmentation import PhotoAugmentation, pad_and_cut
from osnet.photos.reader import PhotoDataset, read_photos
from osnet.photos.shards import PackedPhotos, read_packed_index
from osnet.tasks.classification import ClassificationTask
from osnet.tasks.photo_batches import ByteEpochs
from osnet.training.trainer import Trainer
from osnet.types import Preprocessing
from small_runs import (
    CLASSES,
    INLINE,
    assert_equal_runs,
    assert_same_gradients,
    join_as_rank,
    run_in_pieces,
    save_gradients,
    spawn_two,
    state_of,
    write_colours,
)

pytest.importorskip("accelerate")
pytestmark = pytest.mark.usefixtures("one_thread")


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


def random_photos() -> PhotoDataset:
    """1024 random images of 8 x 8 in memory, of three classes."""
    torch.manual_seed(5)
    labels = torch.randint(0, 6, (1024,)).clamp(max=2)  # most have the last class
    pixels = torch.randint(0, 128, (1024, 3, 8, 8), dtype=torch.uint8) + 60 * labels.byte()[:, None, None, None]
    photos = PhotoBytes("drawn", pixels, labels, ("a", "b", "c"))
    return PhotoDataset("drawn", photos.classes, photos, None, photos)


def step_once(out: Path, accumulation: int, rank: int = 0) -> Trainer:
    """The trainer after one step with frozen BatchNorm on a batch of all 1024 images."""
    recipe = replace(CLASSES, batch_size=1024, accumulation=accumulation)
    trainer = Trainer(recipe, random_photos(), out / str(rank), INLINE)
    batches, number = trainer.epochs.load(0, 0, 0)
    assert number == 1
    trainer.task.eval()
    trainer._step(next(iter(batches)), False)
    return trainer


def gradients_of_one_batch(out: Path, accumulation: int) -> dict[str, torch.Tensor]:
    task = step_once(out, accumulation).task
    return {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("accumulation", [2, 8])
def test_gradient_accumulation_gives_the_gradients_of_the_batch(accumulation: int, tmp_path: Path) -> None:
    whole = gradients_of_one_batch(tmp_path / "whole", 1)
    assert_same_gradients(gradients_of_one_batch(tmp_path / "parts", accumulation), whole)


def one_of_two(rank: int, folder: str, accumulation: int) -> None:
    join_as_rank(rank, folder)
    save_gradients(rank, folder, step_once(Path(folder), accumulation, rank).task)


@pytest.mark.slow
def test_two_processes_give_the_gradients_of_the_batch(tmp_path: Path) -> None:
    """Two processes with 4 parts of 128 images each, as the documentation describes."""
    got = spawn_two(one_of_two, tmp_path, 4)
    assert_same_gradients(got, gradients_of_one_batch(tmp_path / "whole", 1))


def test_batchnorm_is_updated_once_per_part(colours: Path, tmp_path: Path) -> None:
    """So gradients are the same only with frozen BatchNorm, as the documentation says."""
    runs = []
    for accumulation in (1, 8):
        recipe = replace(CLASSES, batch_size=24, epochs=1, accumulation=accumulation)
        Trainer(recipe, recipe.read([colours]), tmp_path / str(accumulation), INLINE).run()
        runs.append(state_of(tmp_path / str(accumulation)))
    seen = [next(v for k, v in state.items() if k.endswith("num_batches_tracked")) for state in runs]
    assert [int(number) for number in seen] == [1, 8]


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
    assert torch.equal(load(0, 1, 2)[0]["image"], whole[2]["image"])  # resuming within the epoch
    order = RandomBatches(range(12), 4, 7).batches(3)
    assert [batch["label"].tolist() for batch in whole] == [[i % 3 for i in row] for row in order]
    rng = np.random.default_rng([7, 3, 1, 81])
    assert torch.equal(whole[1]["image"], pad_and_cut(pixels[order[1]], 2, 0.5, rng))


@pytest.mark.parametrize("kind", ["memory", "files", "packed"])
def test_interrupted_runs_end_bit_for_bit_the_same(
    kind: str, colours: Path, packed_colours: Path, tmp_path: Path
) -> None:
    recipe, source = replace(CLASSES, ema=0.9 if kind == "memory" else 0.0, dropout=0.3), colours
    if kind != "memory":
        window = PhotoAugmentation(window="cut") if kind == "files" else PhotoAugmentation()
        recipe = replace(recipe, in_memory=False, crop_from=(9, 9), augmentation=window, accumulation=2)
    if kind == "packed":
        pytest.importorskip("webdataset")
        recipe, source = replace(recipe, packed_readers=0, batch_size=4), packed_colours
    Trainer(recipe, recipe.read([source]), tmp_path / "whole", INLINE).run()
    run_in_pieces(recipe, recipe.read([source]), tmp_path / "resumed", (1, 5))
    assert_equal_runs(tmp_path / "whole", tmp_path / "resumed")
    assert (tmp_path / "whole" / "metrics.jsonl").read_text().count("\n") == 2


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 2, 3])
def test_packed_files_resume_within_an_epoch(workers: int, packed_colours: Path) -> None:
    """The workers have unequal shares, so that the last rounds miss some workers."""
    pytest.importorskip("webdataset")
    index = read_packed_index(packed_colours / "train")
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


def test_packed_files_resume_only_with_the_same_number_of_processes(packed_colours: Path, tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    recipe = replace(CLASSES, in_memory=False, augmentation=PhotoAugmentation(), packed_readers=0, batch_size=4)
    trainer = Trainer(recipe, recipe.read([packed_colours]), tmp_path / "run", INLINE)
    trainer.progress.batch, trainer.progress.num_ranks = 2, 3
    trainer.save()
    with pytest.raises(DataError, match=r"with 3 processes.*not 1"):
        Trainer(recipe, recipe.read([packed_colours]), tmp_path / "run", INLINE)


def test_reading_photos_and_what_is_refused(colours: Path, packed_colours: Path, tmp_path: Path) -> None:
    data = read_photos(colours)
    assert (data.name, data.classes) == ("colours", ("blue", "green", "red"))
    assert data.train is not None
    assert (len(data.train), len(data.scored), data.val) == (24, 9, None)
    held = data.hold_out(6)
    assert held.train is not None
    assert held.val is not None
    assert (len(held.train), sorted(held.val.labels)) == (18, [0, 0, 1, 1, 2, 2])
    assert not set(held.train.paths) & set(held.val.paths)
    assert len(read_photos(colours / "test").scored) == 9  # a folder of classes without train is for scoring
    assert len(read_photos(packed_colours).scored) == 9
    with pytest.raises(DataError, match="packed"):
        read_photos(packed_colours).hold_out(3)
    with pytest.raises(DataError, match="held in memory"):
        read_photos(packed_colours).in_memory()
    with pytest.raises(DataError, match=r"has 3 classes .* 2 expected"):
        read_photos(packed_colours, ("blue", "green"))
    with pytest.raises(DataError, match="packed"):
        read_photos(Path("http://127.0.0.1:9/nothing"))  # Path drops a slash, as on the command line
    write_colours(tmp_path / "odd", 1, 0, size=7)
    with pytest.raises(DataError, match=r"odd has images of size \(7, 7\)"):
        Trainer(replace(CLASSES, batch_size=3), CLASSES.read([tmp_path / "odd"]), tmp_path / "run", INLINE)
    with pytest.raises(DataError, match=r"window must be .* not .resized."):
        recipe = replace(CLASSES, augmentation=PhotoAugmentation())
        Trainer(recipe, recipe.read([colours]), tmp_path / "run2", INLINE)
    with pytest.raises(DataError, match="multiple of 1 processes x 3 accumulation steps"):
        Trainer(replace(CLASSES, accumulation=3), CLASSES.read([colours]), tmp_path / "run3", INLINE)
    with pytest.raises(DataError, match="got 2 folders"):
        CLASSES.read([colours, colours])
