"""Helpers for tests of training: tiny recipes, interrupted runs, comparing runs, two processes."""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from osnet.cli import main
from osnet.data.augmentation import Augmentation
from osnet.photos.photo_augmentation import PhotoAugmentation
from osnet.tasks.attribute_task import AttributeRecipe
from osnet.tasks.classification import ClassificationRecipe
from osnet.tasks.joint import JointRecipe
from osnet.tasks.reid import ReidRecipe
from osnet.training.recipe import Recipe
from osnet.training.trainer import RunOptions, Trainer
from warm_start import LIBRARIES

INLINE = RunOptions(workers=0, cpu=True)
# OSNet's single-scale baseline has a third of OSNet's tensors, and is saved and read that much faster.
REID = ReidRecipe(
    "tiny", model="osnet_t1", width=0.25, size_hw=(32, 16), epochs=3, batch_size=8, lr=0.002, schedule="multi_step",
    milestones=(2,), augmentation=Augmentation(crop=0.5, flip=0.5, jitter=0.5, erase=0.5),
)  # fmt: skip
CLASSES = ClassificationRecipe(
    "tiny", model="osnet_t1", width=0.0625, stem="cifar", size_hw=(8, 8), epochs=2, batch_size=8, optimizer="sgd",
    lr=0.02, schedule="constant", in_memory=True, augmentation=PhotoAugmentation(window="padded", pad=1),
)  # fmt: skip
_SMALL = {
    "model": "osnet_t1", "width": 0.25, "size_hw": (32, 16), "batch_size": 8,
    "augmentation": Augmentation(crop=0.5, flip=0.5),
}  # fmt: skip
ATTRIBUTES = AttributeRecipe("tiny", epochs=2, optimizer="sgd", lr=0.02, schedule="constant", **_SMALL)
BOTH = JointRecipe("both", epochs=2, lr=0.002, schedule="constant", **_SMALL)
COLOURS = {"blue": (30, 40, 200), "green": (40, 190, 50), "red": (210, 40, 30)}
NEVER = 10_000


def write_colours(folder: Path, each: int, seed: int, size: int = 8) -> Path:
    """Noisy squares of one colour, in a folder named after the colour."""
    rng = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(each):
            noise = rng.normal(0, 8, (size, size, 3)) + np.array(colour)
            Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


def train_colours(colours: Path, out: Path) -> Path:
    recipe = replace(CLASSES, epochs=24, optimizer="adamw", lr=0.002, schedule="cosine")
    Trainer(recipe, recipe.read([colours]), out, INLINE).run()
    return out


def state_of(out: Path) -> dict[str, torch.Tensor]:
    """All tensors from which a run resumes."""
    state = torch.load(out / "state.pt", weights_only=True)
    flat = {f"task.{k}": v for k, v in state["task"].items()}
    for number, slots in state["optimizer"]["state"].items():
        flat |= {f"{number}.{k}": torch.as_tensor(v) for k, v in slots.items()}
    return flat | {f"average.{k}": v for k, v in state["average"].items()}


def assert_equal_runs(a: Path, b: Path) -> None:
    """Weights, optimiser state, averages and logs are equal bit for bit."""
    x, y = state_of(a), state_of(b)
    assert x.keys() == y.keys()
    assert [key for key in x if not torch.equal(x[key], y[key])] == []
    assert (a / "metrics.jsonl").read_text() == (b / "metrics.jsonl").read_text()


def run_in_pieces(recipe: Recipe, data: Any, out: Path, stops: tuple[int, ...], finish: bool = True) -> None:
    """Train with a stop after each of these steps, resuming each time; then to the end if ``finish``."""
    for stop_at in (*stops, *([NEVER] if finish else [])):
        trainer = Trainer(recipe, data, out, INLINE)
        step = trainer._step

        def counting(*args, trainer=trainer, stop_at=stop_at, step=step) -> None:
            step(*args)
            if trainer.progress.step + 1 == stop_at:
                trainer._stopping.set()

        trainer._step = counting
        if stop_at == NEVER:
            trainer.run()
        else:
            with pytest.raises(KeyboardInterrupt):
                trainer.run()


def assert_same_gradients(
    got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], within: float = 1e-5
) -> None:
    """Gradients differ by at most ``within`` times the largest component of all."""
    assert got.keys() == expected.keys()
    largest = max(float(value.abs().max()) for value in expected.values())
    assert largest > 1e-3
    for name, value in expected.items():
        assert float((got[name] - value).abs().max()) <= within * largest, (name, largest)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def spawn(one_of_two: Callable[..., None], folder: Path, *args: object) -> None:
    """Run ``one_of_two(rank, folder, *args)`` in two processes, forks of one that has imported libraries only."""
    (folder / "port").write_text(str(free_port()))
    multiprocessing.set_forkserver_preload(["pytest", *LIBRARIES])
    torch.multiprocessing.start_processes(one_of_two, args=(str(folder), *args), nprocs=2, start_method="forkserver")


def spawn_two(one_of_two: Callable[..., None], folder: Path, *args: object) -> dict[str, torch.Tensor]:
    """``spawn``; returns the gradients that ``save_gradients`` wrote."""
    spawn(one_of_two, folder, *args)
    return torch.load(folder / "grads.pt", weights_only=True)


def join_as_rank(rank: int, folder: str) -> None:
    """Set the environment that a launcher gives to each of two processes."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = (Path(folder) / "port").read_text()
    torch.set_num_threads(1)


def command_as(rank: int, folder: str, *words: object) -> None:
    """Run a command of ``osnet`` as one of two processes; its output is in the files ``out-RANK``, ``errors-RANK``."""
    join_as_rank(rank, folder)
    for stream, name in ((sys.stdout, "out"), (sys.stderr, "errors")):
        with (Path(folder) / f"{name}-{rank}").open("w") as file:
            os.dup2(file.fileno(), stream.fileno())
    main([str(word) for word in words])


def save_gradients(rank: int, folder: str, task: torch.nn.Module) -> None:
    """Rank 0 writes the gradients; then both processes leave the group."""
    if rank == 0:
        grads = {k.removeprefix("module."): p.grad for k, p in task.named_parameters() if p.grad is not None}
        torch.save(grads, Path(folder) / "grads.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
