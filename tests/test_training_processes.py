"""Training on two processes: the gradients of one, no image shared; batches and samples as functions of their keys."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from osnet import create_model, load_weights
from osnet.data.augmentation import Augmentation
from osnet.data.folder import read_any
from osnet.data.synthetic import GeneratedSettings, generate_dataset
from osnet.data.training_set import TrainingSet
from osnet.tasks.reid import ReidLoss, ReidTask
from osnet.training.engine import Trainer
from osnet.types import Preprocessing
from small_runs import INLINE, REID, assert_same_gradients, become_one_of_two, keep_gradients, spawn_two

pytest.importorskip("accelerate")
pytestmark = pytest.mark.usefixtures("one_thread")


def gradients(loss: ReidLoss, images: torch.Tensor, labels: torch.Tensor, halves: int) -> dict[str, torch.Tensor]:
    """One process: mean of the losses of each half, BatchNorm frozen."""
    torch.manual_seed(0)
    task = ReidTask(create_model("osnet_x0_25"), 4, loss).eval()
    parts = zip(images.chunk(halves), labels.chunk(halves), strict=True)
    total = torch.stack([task({"image": x, "label": y})["loss"] for x, y in parts]).mean()
    total.backward()
    return {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}


def one_of_two(rank: int, folder: str, triplet: bool) -> None:
    """What each process does: its own half of the batch, then the averaging of torch's DDP under gloo."""
    import accelerate

    become_one_of_two(rank, folder)
    accelerator = accelerate.Accelerator(cpu=True)
    batch = torch.load(Path(folder) / "batch.pt", weights_only=True)
    torch.manual_seed(0)
    task = ReidTask(create_model("osnet_x0_25"), 4, ReidLoss(triplet=float(triplet))).eval()
    task = accelerator.prepare(task).eval()
    mine = slice(rank * 4, rank * 4 + 4)
    accelerator.backward(task({"image": batch["images"][mine], "label": batch["labels"][mine]})["loss"])
    keep_gradients(rank, folder, task)


@pytest.mark.slow
@pytest.mark.parametrize("triplet", [False, True])
def test_two_processes_give_the_gradients_of_one(triplet: bool, tmp_path: Path) -> None:
    """P x K = 4 people x 2 images; each process has two whole people. The triplet's reference mines in each half."""
    torch.manual_seed(3)
    images, labels = torch.rand(8, 3, 32, 16), torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    torch.save({"images": images, "labels": labels}, tmp_path / "batch.pt")
    got = spawn_two(one_of_two, tmp_path, triplet)
    expected = gradients(ReidLoss(triplet=float(triplet)), images, labels, 2 if triplet else 1)
    assert_same_gradients(got, expected, within=1e-4 if triplet else 1e-5)  # distances are roots of small differences


@pytest.mark.slow
def test_the_command_under_torchrun(people: Path, tmp_path: Path) -> None:
    """Two processes, as on two GPUs or two nodes: one folder, one voice, and a run that one process can go on with."""
    args = ["train", "market1501-osnet-x0-25-scratch", "--data", str(people), "--out", str(tmp_path / "run"), "--cpu"]
    args += ["--batch-size", "8", "--size-hw", "32", "16", "--epochs"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "osnet.cli"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *args, "2"], capture_output=True, text=True, env=environment, timeout=800)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained 2 epochs") == 1
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 6), (2, 12)]
    assert load_weights(tmp_path / "run" / "weights").card.name == "osnet_x0_25"
    again = subprocess.run([*launch, *args, "2"], capture_output=True, text=True, env=environment, timeout=800)
    assert "going on at epoch 3, batch 1" in again.stdout


def test_no_process_sees_anothers_images(people: Path) -> None:
    from osnet.data.samplers import GroupedBatches
    from osnet.data.training_set import EpochKeys

    samples = TrainingSet(read_any(people).train.crops, Augmentation(), Preprocessing(), 1)
    keys = [EpochKeys(GroupedBatches(samples.labels, 8, 2, 1, rank, 2), epoch=0) for rank in range(2)]
    for a, b in zip(*keys, strict=True):
        assert not {index for _, _, index, _ in a} & {index for _, _, index, _ in b}
        assert not {samples.labels[index] for _, _, index, _ in a} & {samples.labels[index] for _, _, index, _ in b}
        for own in (a, b):  # a random patch comes from the process's own images, and from another person
            assert {donor for *_, donor in own} == {index for _, _, index, _ in own}
            assert all(samples.labels[index] != samples.labels[donor] for _, _, index, donor in own)
        places = sorted(place for _, place, _, _ in [*a, *b])
        assert places == list(range(places[0], places[0] + 8))


def test_samples_are_functions_of_their_keys(people: Path) -> None:
    samples = TrainingSet(read_any(people).train.crops, REID.augmentation, Preprocessing(size_hw=(32, 16)), 1)
    one = samples[1, 5, 7, 2]["image"]
    np.testing.assert_array_equal(one.numpy(), samples[1, 5, 7, 2]["image"].numpy())
    assert any((one != samples[epoch, 5, 7, 2]["image"]).any() for epoch in (2, 3, 4))
    assert samples[1, 5, 7, 2]["label"] == samples.labels[7]
    assert math.isfinite(float(one.sum()))


def test_batches_by_data_set(people: Path, tmp_path: Path) -> None:
    """Two data sets of different sizes fill each batch by halves."""
    from osnet.data.joining import join_training

    other = generate_dataset(tmp_path / "other", GeneratedSettings(24, 2, 3, 5))
    joined = join_training([read_any(people), read_any(other)])
    recipe = replace(REID, epochs=1, sampler="data set", images_per_label=4)
    trainer = Trainer(recipe, joined, tmp_path / "run", INLINE)
    batches = trainer.epochs.sampler.batches(0)
    assert len(batches) == 12  # 48 images of the smaller one, four in each
    for batch in batches:
        assert sorted(joined.train.crops[index].dsetid for index in batch) == [0] * 4 + [1] * 4
    trainer.run()
    assert load_weights(tmp_path / "run" / "weights").card.training_data == "people+other"
