"""Speed of the trainer compared with a plain training loop, in turn, in blocks of 10 steps.

The plain loop is what most people write: torchvision's transforms, a DataLoader, default Adam and the default memory
format. Network, loss, batch size, augmentation and the generated images are the same. By default both decode in the
loop, so that neither reads ahead while the other is timed. Quote the ratio within pairs; the times depend on the
machine and its load.

    python benchmarks/training.py --model osnet_x0_25 --pairs 12 --out benchmarks/results/training-x0-25.json
"""

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from osnet.data.augmentation import Augmentation
from osnet.data.folder import read_dataset
from osnet.synthetic.generate import GeneratedSettings, generate_dataset
from osnet.tasks.reid import ReidLoss, ReidRecipe, ReidTask
from osnet.training.recipe import Recipe, build_network
from osnet.training.trainer import RunOptions, Trainer
from osnet.types import Crop, Preprocessing


@dataclass(frozen=True)
class Settings:
    """Settings of the measurement."""

    model: str = "osnet_x0_25"
    pairs: int = 12
    """Pairs of timed blocks, after one pair to warm up."""
    steps: int = 10
    """Steps per block."""
    batch_size: int = 32
    size_hw: tuple[int, int] = (256, 128)
    workers: int = 0
    """Worker processes of each loader. With any, each side reads ahead during the other's block."""
    precision: str = "fp32"
    cpu: bool = True
    out: Path | None = None
    """Write the result here as JSON."""


class PlainSet(Dataset):
    def __init__(self, crops: Iterable[Crop], size_hw: tuple[int, int]) -> None:
        self.crops = list(crops)
        self.label_of = {pid: i for i, pid in enumerate(sorted({crop.pid for crop in self.crops}))}
        defaults = Preprocessing()
        self.transform = v2.Compose(
            [v2.Resize(size_hw), v2.RandomHorizontalFlip(), v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
             v2.Normalize(defaults.mean, defaults.std)]
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        crop = self.crops[index]
        return self.transform(Image.open(crop.path).convert("RGB")), self.label_of[crop.pid]


def plain_steps(crops: list[Crop], recipe: Recipe, settings: Settings, device: torch.device) -> Iterator[None]:
    """The plain loop; each ``next`` is one step."""
    data = PlainSet(crops, recipe.size_hw)
    task = ReidTask(build_network(recipe), len(data.label_of), ReidLoss()).to(device).train()
    optimizer = torch.optim.Adam(task.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, amsgrad=True)
    bf16 = settings.precision == "bf16"
    while True:
        for images, labels in DataLoader(
            data, recipe.batch_size, shuffle=True, drop_last=True, num_workers=settings.workers
        ):
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                loss = task({"image": images.to(device), "label": labels.to(device)})["loss"]
            loss.backward()
            optimizer.step()
            loss.item()
            yield


class DoneError(Exception):
    """All pairs have been timed."""


class InTurn:
    """Passed as the trainer's progress bar: yields batches to the trainer and runs the plain loop between blocks."""

    def __init__(self, plain: Iterator[None], settings: Settings) -> None:
        self.plain, self.settings = plain, settings
        self.seconds: dict[str, list[float]] = {"ours": [], "plain": []}

    def __call__(self, loader: Iterable[Any], _total: int, _label: str) -> Iterator[Any]:
        steps, batches = self.settings.steps, iter(loader)
        while True:
            start = time.perf_counter()
            for _ in range(steps):
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                yield batch  # the trainer makes its step before the generator resumes
            self.seconds["ours"].append(time.perf_counter() - start)
            start = time.perf_counter()
            for _ in range(steps):
                next(self.plain)
            self.seconds["plain"].append(time.perf_counter() - start)
            print(f"pair {len(self.seconds['plain']) - 1}: ours {self.seconds['ours'][-1]:.2f} s, "
                  f"plain {self.seconds['plain'][-1]:.2f} s", flush=True)  # fmt: skip
            if len(self.seconds["plain"]) > self.settings.pairs:
                raise DoneError


def measure(settings: Settings, folder: Path) -> dict[str, Any]:
    """Median and quartiles of ours / plain over the pairs."""
    people = 16 * max(4, (settings.pairs + 2) * settings.steps * settings.batch_size // (16 * 16) + 1)
    people = min(people, 256)
    root = generate_dataset(folder / "people", GeneratedSettings(people, 4, 4, seed=1))
    data = read_dataset(root)
    recipe = ReidRecipe("benchmark", model=settings.model, size_hw=settings.size_hw, epochs=1000,
                    batch_size=settings.batch_size, augmentation=Augmentation(flip=0.5),
                    precision="bf16" if settings.precision == "bf16" else "fp32")  # fmt: skip
    trainer = Trainer(recipe, data, folder / "run", RunOptions(workers=settings.workers, cpu=settings.cpu))
    device = trainer.accelerator.device
    turns = InTurn(plain_steps(list(data.train.crops), recipe, settings, device), settings)
    with suppress(DoneError):
        trainer.run(turns)
    ours, plain = (turns.seconds[side][1:] for side in ("ours", "plain"))
    ratios = sorted(a / b for a, b in zip(ours, plain, strict=True))
    images = settings.steps * settings.batch_size
    return {
        "model": settings.model, "size_hw": settings.size_hw, "batch_size": settings.batch_size,
        "steps_per_block": settings.steps, "pairs": len(ratios), "workers": settings.workers,
        "precision": settings.precision,
        "ratio_ours_to_plain": {
            "median": statistics.median(ratios), "min": ratios[0], "max": ratios[-1],
            "quartiles": statistics.quantiles(ratios, n=4)[::2] if len(ratios) > 1 else ratios * 2,
        },
        "images_per_s_here": {"ours": images / statistics.median(ours), "plain": images / statistics.median(plain)},
        "seconds": {"ours": ours, "plain": plain},
        "machine": {
            "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
            "cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__,
        },
    }  # fmt: skip


def main(settings: Settings) -> None:
    with tempfile.TemporaryDirectory() as folder:
        result = measure(settings, Path(folder))
    ratio = result["ratio_ours_to_plain"]
    low, high = ratio["quartiles"]
    print(
        f"{settings.model}: ours takes {ratio['median']:.2f} of the plain loop's time "
        f"(quartiles {low:.2f} to {high:.2f}, {result['pairs']} pairs)"
    )
    if settings.out is not None:
        settings.out.parent.mkdir(parents=True, exist_ok=True)
        settings.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Settings))
