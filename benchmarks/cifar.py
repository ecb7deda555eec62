"""OSNet, ablations and other networks on CIFAR-10: one recipe, one budget, several seeds.

The learning rate is chosen for each network in short runs, scored on 5,000 held-out training images. Each final run is
scored once on the 10,000 test images. Finished runs are skipped and an interrupted one resumes, so repeat the command
until it prints that all is done. The result is written after every run.

    python benchmarks/cifar.py --plan cpu --data cifar10-jpeg.tar.xz --work out/cifar --out cifar-cpu.json
    python benchmarks/cifar.py --plan gpu --data cifar10-jpeg.tar.xz --work out/cifar-gpu --out cifar-gpu.json

``--data`` is ``cifar-10-binary.tar.gz``, or a tar file or folder of ``train/CLASS/N.jpg`` and ``test/CLASS/N.jpg``. The
plan ``gpu`` stops after ``--max-minutes`` at the latest. To try it anywhere: ``--plan gpu --device cpu --limit 256``.
"""

import json
import os
import platform
import signal
import tarfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro

from osnet.cli.common import draw_progress
from osnet.data.loading import decode_pixels
from osnet.embedding.class_predictor import ClassPredictor
from osnet.errors import DataError, TrainingError
from osnet.files import make_folder, write_json, written_aside
from osnet.models.counting import count_cost
from osnet.models.registry import build_network, get_config
from osnet.photos.image_folder import PhotoBytes, hold_out_photos
from osnet.photos.reader import HOLD_OUT_SEED, PhotoDataset, read_photos
from osnet.recipes.photos_cifar import make_cifar
from osnet.tasks.classification import ClassificationRecipe
from osnet.tasks.photo_accuracy import score_photos
from osnet.training.trainer import RunOptions, Trainer

NUM_HELD = 5000
NARROW: dict[str, dict[str, Any]] = {
    "osnet_t1_x0_25": {"model": "osnet_t1", "width": 0.25},
    "osnet_add_x0_25": {"model": "osnet_add", "width": 0.25},
    "mobilenetv2_x0_22": {"model": "mobilenetv2_x1_0", "width": 0.22},
}
"""Networks of OSNet x0.25's size. Of MobileNetV2's widths 0.22 comes closest in parameters without the classifier."""
SCORES = "scores.json"


@dataclass(frozen=True)
class Budget:
    """Networks, seeds and length of the runs."""

    entrants: tuple[str, ...]
    seeds: tuple[int, ...]
    epochs: int
    batch_size: int
    num_train: int | None
    """Number of training images. None: all; then only the short runs leave out the held-out images."""
    rates: tuple[float, ...]
    sweep_epochs: int
    precision: Literal["fp32", "bf16"]


PLANS = {
    "cpu": Budget(("osnet_x0_25", "osnet_t1_x0_25", "osnet_add_x0_25", "mobilenetv2_x0_22"), (1, 2, 3), 6, 32, 5000,
                  (0.03, 0.1, 0.3), 2, "fp32"),
    "gpu": Budget(("osnet_x1_0", "osnet_t1", "mobilenetv2_x1_0", "osnet_x1_0_g4_all", "osnet_x0_5", "mobilenetv1_x1_0",
                   "shufflenet_x1_0_g3", "squeezenet1_0"), (1, 2), 30, 256, None, (0.03, 0.1, 0.3), 2, "bf16"),
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """Data, folders, plan and changes to the plan."""

    data: Path
    work: Path
    """Folder of the runs and decoded images; existing runs resume."""
    out: Path
    plan: Literal["cpu", "gpu"] = "cpu"
    device: Literal["auto", "cpu"] = "auto"
    limit: int | None = None
    """For a quick try: number of images of each kind, with one epoch unless ``epochs`` is given."""
    max_minutes: float | None = None
    """Stop after this time, also within a run; 7.5 for the plan gpu."""
    entrants: tuple[str, ...] = ()
    """Instead of the plan's."""
    epochs: int | None = None
    """Instead of the plan's, like ``seeds``."""
    seeds: tuple[int, ...] = ()
    sweep: bool = True
    """Choose the learning rate; without, it is 0.1."""


def read_tar(path: Path) -> dict[str, PhotoBytes]:
    """``train`` and ``test`` of a tar file of images, decoded in memory."""
    found: dict[str, list[tuple[str, str, torch.Tensor]]] = {"train": [], "test": []}
    with tarfile.open(path) as tar:
        for member in tar:
            parts = member.name.split("/")
            if member.isfile() and len(parts) >= 3 and parts[-3] in found:
                content = tar.extractfile(member)
                assert content is not None
                found[parts[-3]].append((parts[-2], parts[-1], decode_pixels(content.read(), member.name)))
    splits = {}
    for split, rows in found.items():
        rows.sort(key=lambda row: row[:2])  # independent of the order in the file
        classes = tuple(sorted({row[0] for row in rows}))
        labels = torch.tensor([classes.index(row[0]) for row in rows])
        splits[split] = PhotoBytes(f"CIFAR-10 (JPEG copy) {split}", torch.stack([r[2] for r in rows]), labels, classes)
    return splits


def read_data(settings: Settings) -> dict[str, PhotoBytes]:
    """Train and test images, decoded once into the work folder."""
    cache = settings.work / "images.npz"
    if not cache.exists():
        if ".tar" in settings.data.name and not settings.data.name.endswith("-binary.tar.gz"):
            splits = read_tar(settings.data)
        else:
            dataset = read_photos(settings.data).in_memory()
            splits = {"train": dataset.train, "test": dataset.test}
        with written_aside(cache) as aside, aside.open("wb") as file:
            arrays = {
                f"{s}_{kind}": getattr(p, kind).numpy() for s, p in splits.items() for kind in ("pixels", "labels")
            }
            np.savez(file, classes=np.array(splits["train"].classes), name=splits["train"].name, **arrays)
    with np.load(cache, allow_pickle=False) as stored:
        classes, name = tuple(map(str, stored["classes"])), str(stored["name"]).removesuffix(" train")
        splits = {}
        for split in ("train", "test"):
            pixels, labels = (torch.from_numpy(stored[f"{split}_{kind}"]) for kind in ("pixels", "labels"))
            splits[split] = PhotoBytes(f"{name} {split}", pixels, labels.long(), classes)
        return splits


def split_data(splits: dict[str, PhotoBytes], budget: Budget, limit: int | None) -> tuple[PhotoDataset, PhotoDataset]:
    """The data of the short runs and of the final runs."""
    train, test = splits["train"], splits["test"]
    if limit is not None:
        train = train.select(hold_out_photos(train.labels.tolist(), 2 * limit, 1)[1])
        test = test.select(hold_out_photos(test.labels.tolist(), limit, 1)[1])
    rest, held = hold_out_photos(train.labels.tolist(), limit or NUM_HELD, HOLD_OUT_SEED)
    val = train.select(held, f"{train.name}, held out")
    shown = train.select(rest)
    if budget.num_train is not None and len(shown) > budget.num_train:
        shown = shown.select(hold_out_photos(shown.labels.tolist(), budget.num_train, HOLD_OUT_SEED + 1)[1])
    name = train.name.removesuffix(" train")
    short = PhotoDataset(name, train.classes, shown, val, test)
    if budget.num_train is not None:
        return short, short
    return short, PhotoDataset(name, train.classes, train, None, test)


def make_recipe(budget: Budget, entrant: str, seed: int, lr: float, epochs: int) -> ClassificationRecipe:
    """CIFAR's recipe with a budget's length: one epoch of warm-up, then a cosine."""
    recipe = replace(
        make_cifar("cifar10", "osnet-x1-0"), name=f"{entrant}-lr{lr:g}-epochs{epochs}-seed{seed}", seed=seed, lr=lr,
        epochs=epochs, batch_size=budget.batch_size, schedule="cosine", milestones=(), warmup_epochs=min(1, epochs - 1),
        precision=budget.precision, evaluate_every=epochs,
    )  # fmt: skip
    return replace(recipe, **NARROW.get(entrant, {"model": entrant}))


def run_one(settings: Settings, dataset: PhotoDataset, recipe: ClassificationRecipe, final: bool) -> dict[str, Any]:
    """A run's scores; trains or resumes the run if they do not exist yet."""
    folder = settings.work / ("final" if final else "short") / recipe.name
    result = folder / SCORES
    if result.exists():
        return json.loads(result.read_text(encoding="utf-8"))
    make_folder(folder)
    cpu = settings.device == "cpu" or settings.plan == "cpu"
    torch.manual_seed(recipe.seed)
    trainer = Trainer(recipe, dataset, folder / "run", RunOptions(workers=0, cpu=cpu, save_every_s=60))
    before, start = trainer.progress.step, (time.monotonic(), time.process_time())
    try:
        weights = trainer.run(draw_progress)
    except TrainingError as error:
        if final:
            raise
        scores: dict[str, Any] = {"held_out_top1": 0.0, "failed": str(error)}
        write_json(result, scores)
        return scores
    wall, processor = time.monotonic() - start[0], time.process_time() - start[1]
    images = (trainer.progress.step - before) * recipe.batch_size
    scores = {"lr": recipe.lr, "epochs": recipe.epochs, "seed": recipe.seed,
              "images_per_s": images / wall if images else None,
              "processor_s_of_last_call": processor, "whole_in_one_call": before == 0}  # fmt: skip
    if trainer.progress.best_epoch > 0:
        scores["held_out_top1"] = trainer.progress.best_score
    if final:
        assert dataset.test is not None
        predictor = ClassPredictor(weights, "cpu" if cpu else "auto", batch_size=250, backend="torch")
        seen = score_photos(predictor, dataset.test)
        scores |= {"test_top1": seen.top[1], "test_top5": seen.top.get(5)}
    write_json(result, scores)
    return scores


def choose_rate(
    settings: Settings, budget: Budget, dataset: PhotoDataset, entrant: str
) -> tuple[float, dict[str, float]]:
    """The rate with the best short run on held-out images (of equal ones the lowest), and the score of each rate."""
    if not settings.sweep:
        return 0.1, {}
    found = {}
    for rate in budget.rates:
        recipe = make_recipe(budget, entrant, 1, rate, budget.sweep_epochs)
        found[f"{rate:g}"] = run_one(settings, dataset, recipe, final=False)["held_out_top1"]
    return max(budget.rates, key=lambda rate: (found[f"{rate:g}"], -rate)), found


def cost_of(entrant: str) -> dict[str, int]:
    """Parameters and multiply-adds at 32 x 32, without the classifier."""
    settings = NARROW.get(entrant, {"model": entrant})
    config = get_config(settings["model"], stem="cifar", **{k: v for k, v in settings.items() if k != "model"})
    cost = count_cost(build_network(config, "meta"), (32, 32), 0)
    return {"params": cost.params, "madds": cost.madds}


def over_seeds(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    values = [run["test_top1"] for run in runs]
    return {"runs": len(values), "mean": float(np.mean(values)), "min": min(values), "max": max(values)}


def start_clock(minutes: float | None) -> None:
    """Stop after ``minutes`` as with Ctrl-C: between batches, with everything saved."""

    def stop(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)  # during training, the trainer handles the signal
    if minutes is not None:
        clock = threading.Timer(60 * minutes, os.kill, (os.getpid(), signal.SIGTERM))
        clock.daemon = True
        clock.start()


def main(settings: Settings) -> None:
    budget = PLANS[settings.plan]
    budget = replace(budget, entrants=settings.entrants or budget.entrants, seeds=settings.seeds or budget.seeds,
                     epochs=settings.epochs or budget.epochs)  # fmt: skip
    if settings.limit is not None:
        budget = replace(budget, epochs=settings.epochs or 1, sweep_epochs=1,
                         batch_size=min(budget.batch_size, settings.limit))  # fmt: skip
    if settings.plan == "gpu" and settings.device == "auto" and not torch.cuda.is_available():
        raise DataError("--plan gpu needs a GPU; to try it without: --device cpu --limit 256")
    start_clock(settings.max_minutes or (7.5 if settings.plan == "gpu" else None))
    try:
        run_all(settings, budget)
    except KeyboardInterrupt:
        print("stopped; everything is saved, resume with the same command")
        raise SystemExit(3) from None


def run_all(settings: Settings, budget: Budget) -> None:
    """Run everything in the budget that is not finished."""
    make_folder(settings.work)
    short, full = split_data(read_data(settings), budget, settings.limit)
    assert short.train is not None
    assert short.val is not None
    assert full.train is not None
    assert full.test is not None
    on_cpu = settings.plan == "cpu" or settings.device == "cpu"
    report: dict[str, Any] = {
        "caution": f"{full.name} with short training: neither ImageNet nor the published CIFAR figures",
        "plan": settings.plan,
        "budget": {"epochs": budget.epochs, "batch_size": budget.batch_size, "seeds": list(budget.seeds),
                   "rates": list(budget.rates), "short_epochs": budget.sweep_epochs, "precision": budget.precision,
                   "schedule": "one epoch of warm-up, cosine", "weight_decay": 5e-4, "momentum": 0.9},
        "images": {"train": len(full.train), "train_of_short_runs": len(short.train), "held_out": len(short.val),
                   "test": len(full.test)},
        "machine": {"python": platform.python_version(), "torch": torch.__version__,
                    "device": f"{platform.machine()}, {torch.get_num_threads()} threads" if on_cpu
                    else torch.cuda.get_device_name()},
        "networks": {entrant: cost_of(entrant) for entrant in budget.entrants}, "complete": False,
    }  # fmt: skip
    runs: dict[str, list[dict[str, Any]]] = {entrant: [] for entrant in budget.entrants}
    for seed in budget.seeds:  # seed by seed, so that an interruption leaves all networks with equally many seeds
        for entrant in budget.entrants:
            rate, found = choose_rate(settings, budget, short, entrant)
            recipe = make_recipe(budget, entrant, seed, rate, budget.epochs)
            runs[entrant].append(run_one(settings, full, recipe, True))
            report["networks"][entrant] |= {
                "lr": rate, "held_out_top1_by_lr": found, "test_top1": over_seeds(runs[entrant]), "runs": runs[entrant],
            }  # fmt: skip
            write_json(settings.out, report)
            print(f"{entrant} seed {seed}: {100 * runs[entrant][-1]['test_top1']:.2f} % top-1", flush=True)
    report["complete"] = True
    write_json(settings.out, report)
    print(f"all done: {settings.out.name}")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
