"""Training with two processes: gradients as with one, no shared images, stopping and failing together.

Also: samples depend only on their keys, and batches with images of every data set.
"""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from osnet import create_model, load_weights
from osnet.data.augmentation import Augmentation
from osnet.data.folder import read_any
from osnet.data.training_set import TrainingSet
from osnet.errors import DataError, ImageError
from osnet.synthetic.generate import GeneratedSettings, generate_dataset
from osnet.tasks.reid import ReidLoss, ReidRecipe, ReidTask
from osnet.training.trainer import Trainer
from osnet.types import Preprocessing
from small_runs import (
    INLINE,
    NEVER,
    REID,
    assert_same_gradients,
    command_as,
    join_as_rank,
    save_gradients,
    spawn,
    spawn_two,
    state_of,
)

pytest.importorskip("accelerate")
pytestmark = pytest.mark.usefixtures("one_thread")


def gradients(loss: ReidLoss, images: torch.Tensor, labels: torch.Tensor, halves: int) -> dict[str, torch.Tensor]:
    """Gradients in one process: mean of the losses of each half, with frozen BatchNorm."""
    torch.manual_seed(0)
    task = ReidTask(create_model("osnet_x0_25"), 4, loss).eval()
    parts = zip(images.chunk(halves), labels.chunk(halves), strict=True)
    total = torch.stack([task({"image": x, "label": y})["loss"] for x, y in parts]).mean()
    total.backward()
    return {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}


def one_of_two(rank: int, folder: str, triplet: bool) -> None:
    """Each process takes half of the batch; DDP averages the gradients (gloo)."""
    import accelerate

    join_as_rank(rank, folder)
    accelerator = accelerate.Accelerator(cpu=True)
    batch = torch.load(Path(folder) / "batch.pt", weights_only=True)
    torch.manual_seed(0)
    task = ReidTask(create_model("osnet_x0_25"), 4, ReidLoss(triplet=float(triplet))).eval()
    task = accelerator.prepare(task).eval()
    half = slice(rank * 4, rank * 4 + 4)
    accelerator.backward(task({"image": batch["images"][half], "label": batch["labels"][half]})["loss"])
    save_gradients(rank, folder, task)


@pytest.mark.slow
@pytest.mark.parametrize("triplet", [False, True])
def test_two_processes_give_the_gradients_of_one(triplet: bool, tmp_path: Path) -> None:
    """4 people x 2 images, two people per process. The triplet loss mines within each half."""
    torch.manual_seed(3)
    images, labels = torch.rand(8, 3, 32, 16), torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    torch.save({"images": images, "labels": labels}, tmp_path / "batch.pt")
    got = spawn_two(one_of_two, tmp_path, triplet)
    expected = gradients(ReidLoss(triplet=float(triplet)), images, labels, 2 if triplet else 1)
    assert_same_gradients(
        got, expected, within=1e-4 if triplet else 1e-5
    )  # square roots of small differences are less exact


@pytest.mark.slow
def test_train_command_under_torchrun(people: Path, tmp_path: Path) -> None:
    """Two processes, as on two GPUs or nodes, write one folder and one output, and the run resumes."""
    args = ["train", "market1501-osnet-x0-25-scratch", "--data", str(people), "--out", str(tmp_path / "run"), "--cpu"]
    args += ["--batch-size", "8", "--size-hw", "32", "16", "--epochs"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "osnet.cli"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *args, "2"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained 2 epochs") == 1
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 6), (2, 12)]
    assert load_weights(tmp_path / "run" / "weights").card.name == "osnet_x0_25"
    spawn(command_as, tmp_path, *args, "2")
    assert "resuming at epoch 3, batch 1" in (tmp_path / "out-0").read_text()
    assert (tmp_path / "out-1").read_text() == ""


def make_trainer(rank: int, folder: str, recipe: ReidRecipe = REID, nodes: bool = False) -> Trainer:
    """A trainer in this process. Both processes use the same run folder, or each is a node with a disk of its own."""
    join_as_rank(rank, folder)
    if nodes:
        os.environ |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    out = Path(folder) / (f"disk-{rank}/run" if nodes else "run")
    return Trainer(recipe, read_any(Path(folder) / "people"), out, INLINE)


def run_and_record(rank: int, folder: str, trainer: Trainer) -> None:
    """Run until the end or an error, and write the outcome to a file."""
    try:
        trainer.run()
        what = "done"
    except BaseException as error:
        what = f"{type(error).__name__} {error}"
    progress = trainer.progress
    outcome = {"what": what, "epoch": progress.epoch, "batch": progress.batch, "step": progress.step}
    (Path(folder) / f"outcome-{rank}.json").write_text(json.dumps(outcome))


def outcomes(folder: Path) -> list[dict]:
    return [json.loads((folder / f"outcome-{rank}.json").read_text()) for rank in range(2)]


def saved_progress(folder: Path) -> dict:
    return torch.load(folder / "run" / "state.pt", weights_only=True)["progress"]


def terminated_at(rank: int, folder: str, step: int, nodes: bool = False) -> None:
    """The second process gets a SIGTERM during this step; with ``NEVER``, none does."""
    trainer = make_trainer(rank, folder, nodes=nodes)
    train = trainer._step

    def train_and_kill(*args: object) -> None:
        train(*args)
        if rank == 1 and trainer.progress.step + 1 == step:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer._step = train_and_kill
    run_and_record(rank, folder, trainer)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_within_an_epoch(people: Path, tmp_path: Path) -> None:
    """They then resume and end with the weights of an uninterrupted run."""
    for name in ("whole", "resumed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "people").symlink_to(people)
    spawn(terminated_at, tmp_path / "resumed", 9)
    for one in outcomes(tmp_path / "resumed"):
        assert one == {"what": "KeyboardInterrupt ", "epoch": 1, "batch": 3, "step": 9}
    assert (saved_progress(tmp_path / "resumed")["epoch"], saved_progress(tmp_path / "resumed")["batch"]) == (1, 3)
    for name in ("whole", "resumed"):
        spawn(terminated_at, tmp_path / name, NEVER)
        assert [one["what"] for one in outcomes(tmp_path / name)] == ["done", "done"]
    whole, resumed = (state_of(tmp_path / name / "run") for name in ("whole", "resumed"))
    assert [key for key in whole if not torch.equal(whole[key], resumed[key])] == []


def unreadable_at(rank: int, folder: str) -> None:
    """The second process cannot read an image; the first process has no error of its own."""
    trainer = make_trainer(rank, folder)
    load = trainer.epochs.load

    def load_failing(*args):
        batches, left = load(*args)

        def broken():
            for number, batch in enumerate(batches):
                if number == 4:
                    raise ImageError("x.jpg", "cannot be decoded")
                yield batch

        return (broken() if rank == 1 else batches), left

    trainer.epochs.load = load_failing
    run_and_record(rank, folder, trainer)


@pytest.mark.slow
def test_an_error_of_one_process_stops_the_other(people: Path, tmp_path: Path) -> None:
    (tmp_path / "people").symlink_to(people)
    spawn(unreadable_at, tmp_path)
    first, second = outcomes(tmp_path)
    assert second["what"] == "ImageError x.jpg: cannot be decoded"
    assert first["what"] == "TrainingError process 1 of 2 failed: ImageError: x.jpg: cannot be decoded"
    assert first["step"] == second["step"] == saved_progress(tmp_path)["step"] == 4


SHORT_S = 1


def score_longer_than_the_timeout(rank: int, folder: str) -> None:
    """Validation takes three times as long as the time-out of a collective."""
    trainer = make_trainer(rank, folder, replace(REID, epochs=1, validation=0.4))
    score, publish = trainer.plan.score, trainer._publish

    def score_slowly(task: object) -> dict[str, float]:
        time.sleep(3 * SHORT_S)  # on a busy machine only longer
        return score(task)

    def publish_with_short_timeout() -> None:  # only the waiting has the short time-out
        set_timeout = torch.distributed.distributed_c10d._set_pg_timeout
        set_timeout(timedelta(seconds=SHORT_S), torch.distributed.group.WORLD)
        publish()
        set_timeout(timedelta(hours=1), torch.distributed.group.WORLD)

    trainer.plan.score, trainer._publish = score_slowly, publish_with_short_timeout
    run_and_record(rank, folder, trainer)


@pytest.mark.slow
def test_scoring_may_take_longer_than_a_collective(people: Path, tmp_path: Path) -> None:
    (tmp_path / "people").symlink_to(people)
    spawn(score_longer_than_the_timeout, tmp_path)
    assert [one["what"] for one in outcomes(tmp_path)] == ["done", "done"]
    assert load_weights(tmp_path / "run" / "best").card.num_classes == 5


def triplet_alone(rank: int, folder: str) -> None:
    """The classifier takes no part in the loss."""
    loss = ReidLoss(cross_entropy=0, triplet=1)
    recipe = replace(REID, epochs=1, loss=loss, sampler="identity", images_per_label=2)
    run_and_record(rank, folder, make_trainer(rank, folder, recipe))


@pytest.mark.slow
def test_a_triplet_loss_alone(people: Path, tmp_path: Path) -> None:
    (tmp_path / "people").symlink_to(people)
    spawn(triplet_alone, tmp_path)
    for one in outcomes(tmp_path):
        assert (one["what"], one["epoch"]) == ("done", 1)


def with_other_data(rank: int, folder: str) -> None:
    """First the second process has one image less; then each process would get one image per batch."""
    join_as_rank(rank, folder)
    complete = read_any(Path(folder) / "people")
    other = replace(complete, train=replace(complete.train, crops=complete.train.crops[rank:]))
    words = []
    for recipe, data in ((REID, other), (replace(REID, batch_size=2), complete)):
        try:
            Trainer(recipe, data, Path(folder) / "run", INLINE)
            words.append("")
        except DataError as error:
            words.append(str(error))
    (Path(folder) / f"outcome-{rank}.json").write_text(json.dumps(words))


@pytest.mark.slow
def test_different_data_and_single_images_are_refused(people: Path, tmp_path: Path) -> None:
    (tmp_path / "people").symlink_to(people)
    spawn(with_other_data, tmp_path)
    for other, single in outcomes(tmp_path):
        assert "different training data" in other
        assert "batch size 2 for 2 processes" in single
        assert "at least 4" in single
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_nodes_without_a_shared_disk(people: Path, tmp_path: Path) -> None:
    """The first node stores the state; the second receives it from the first."""
    (tmp_path / "people").symlink_to(people)
    spawn(terminated_at, tmp_path, 9, True)
    for one in outcomes(tmp_path):
        assert one == {"what": "KeyboardInterrupt ", "epoch": 1, "batch": 3, "step": 9}
    spawn(terminated_at, tmp_path, NEVER, True)
    for one in outcomes(tmp_path):
        assert (one["what"], one["step"]) == ("done", 18)
    rows = [json.loads(line) for line in (tmp_path / "disk-0" / "run" / "metrics.jsonl").open()]
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 6), (2, 12), (3, 18)]
    assert load_weights(tmp_path / "disk-0" / "run" / "weights").card.num_classes == 8
    assert not (tmp_path / "disk-1").exists()


def test_processes_have_disjoint_images_and_labels(people: Path) -> None:
    from osnet.data.samplers import GroupedBatches
    from osnet.data.training_set import EpochKeys

    samples = TrainingSet(read_any(people).train.crops, Augmentation(), Preprocessing(), 1)
    keys = [EpochKeys(GroupedBatches(samples.labels, 8, 2, 1, rank, 2), epoch=0) for rank in range(2)]
    for a, b in zip(*keys, strict=True):
        assert not {index for *_, index in a} & {index for *_, index in b}
        assert not {samples.labels[index] for *_, index in a} & {samples.labels[index] for *_, index in b}
        places = sorted(place for _, place, _ in [*a, *b])
        assert places == list(range(places[0], places[0] + 8))


def test_samples_depend_only_on_their_keys(people: Path) -> None:
    """Also with random patches, whose donor does not depend on earlier samples."""
    augmentation = replace(REID.augmentation, patch=1.0)
    samples = TrainingSet(read_any(people).train.crops, augmentation, Preprocessing(size_hw=(32, 16)), 1)
    one = samples[1, 5, 7]["image"]
    for place in range(8):
        samples[1, place, place + 20]
    np.testing.assert_array_equal(one.numpy(), samples[1, 5, 7]["image"].numpy())
    assert any((one != samples[epoch, 5, 7]["image"]).any() for epoch in (2, 3, 4))
    assert samples[1, 5, 7]["label"] == samples.labels[7]
    assert math.isfinite(float(one.sum()))


def test_batches_have_equal_parts_of_every_data_set(people: Path, tmp_path: Path) -> None:
    """Each batch has half of its images from each of two data sets of different sizes."""
    from osnet.data.joining import join_training

    other = generate_dataset(tmp_path / "other", GeneratedSettings(24, 2, 3, 5))
    joined = join_training([read_any(people), read_any(other)])
    recipe = replace(REID, epochs=1, sampler="data set", images_per_label=4)
    trainer = Trainer(recipe, joined, tmp_path / "run", INLINE)
    batches = trainer.epochs.sampler.batches(0)
    assert len(batches) == 12  # the smaller data set has 48 images, four per batch
    for batch in batches:
        assert sorted(joined.train.crops[index].dsetid for index in batch) == [0] * 4 + [1] * 4
    trainer.run()
    assert load_weights(tmp_path / "run" / "weights").card.training_data == "people+other"


def test_images_without_a_camera_label_count_as_one_camera(people: Path) -> None:
    """Each has a camid of its own (negative). Taken as cameras, a batch would have the same image K times."""
    data = read_any(people)
    crops = tuple(replace(c, camid=-1 - i if c.camid == 1 else c.camid) for i, c in enumerate(data.train.crops))
    data = replace(data, train=replace(data.train, crops=crops))
    sampler = replace(REID, sampler="camera", images_per_label=4).plan(data).make_sampler(0, 1)
    for batch in sampler.batches(0):
        assert len(set(batch)) == 8
        assert len({max(crops[index].camid, 0) for index in batch}) == 2
