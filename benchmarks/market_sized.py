"""OSNet against its single-scale baseline on as many generated people as Market-1501 has, for a GPU.

752 identities train (Market-1501 has 751; ours come in fours), 752 others are searched for. Both networks train from
scratch by the paper's recipe with 60 epochs instead of 350 and the rate's steps scaled, with each seed. The people are
generated: the scores compare two networks on them and say nothing about real people.

Runs that are finished are skipped and one that was cut off goes on, so call it again until it says that all is done:

    python benchmarks/market_sized.py --work out/market-sized --out benchmarks/results/market-sized.json
"""

import json
import platform
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from osnet.cli.common import draw_progress
from osnet.data.folder import read_dataset
from osnet.embedding.embedder import Embedder
from osnet.evaluation.comparison import Entrant, compare, group_generated
from osnet.evaluation.evaluate import evaluate
from osnet.features.embedding_files import read_vectors
from osnet.files import make_folder, write_json
from osnet.metrics.bootstrap import cluster_interval
from osnet.recipes.reid_market1501 import market1501_osnet_x1_0_scratch
from osnet.synthetic.generate import GeneratedSettings, generate_dataset
from osnet.training.recipe import Recipe
from osnet.training.trainer import RunOptions, Trainer
from osnet.types import ReidDataset


@dataclass(frozen=True)
class Settings:
    """What to run; the defaults are Market-1501's size."""

    work: Path
    """Data, runs and vectors."""
    out: Path
    identities: int = 1504
    cameras: int = 4
    images: int = 4
    epochs: int = 60
    batch_size: int = 64
    size_hw: tuple[int, int] = (256, 128)
    models: tuple[str, ...] = ("osnet_x1_0", "osnet_t1")
    seeds: tuple[int, ...] = (1, 2)
    precision: str = "bf16"
    cpu: bool = False
    workers: int | None = None


def make_recipe(settings: Settings, model: str, seed: int) -> Recipe:
    """The paper's recipe from scratch, its 350 epochs and its steps shortened alike."""
    paper = market1501_osnet_x1_0_scratch()
    milestones = tuple(round(step * settings.epochs / paper.epochs) for step in paper.milestones)
    return replace(paper, name=f"{model}-seed{seed}", model=model, seed=seed, epochs=settings.epochs,
                   milestones=milestones, batch_size=settings.batch_size, size_hw=settings.size_hw,
                   precision="bf16" if settings.precision == "bf16" else "fp32")  # fmt: skip


def run_one(settings: Settings, dataset: ReidDataset, model: str, seed: int) -> tuple[Entrant, dict[str, Any]]:
    """Train (or go on), score, return the vectors."""
    recipe = make_recipe(settings, model, seed)
    folder = settings.work / recipe.name
    options = RunOptions(cpu=settings.cpu, workers=settings.workers)
    trainer = Trainer(recipe, dataset, folder / "run", options)
    before, start = trainer.progress.step, time.monotonic()
    weights = trainer.run(draw_progress)
    trained = trainer.progress.step - before
    features = make_folder(folder / "features")
    embedder = Embedder(weights, device="cpu" if settings.cpu else "auto", batch_size=256)
    result = evaluate(embedder, dataset, features=features, progress=draw_progress)
    query, gallery = (read_vectors(features / f"{part}.npz")[0].vectors for part in ("query", "gallery"))
    speed = trained * recipe.batch_size / (time.monotonic() - start) if trained else None
    return Entrant(recipe.name, query, gallery), {"scores": result.scores, "images_per_s_with_scoring": speed}


def main(settings: Settings) -> None:
    make_folder(settings.work)
    people = settings.work / "people"
    if not people.exists():
        sizes = GeneratedSettings(settings.identities, settings.cameras, settings.images, seed=0)
        generate_dataset(people, sizes, draw_progress)
    dataset = read_dataset(people)
    report: dict[str, Any] = {
        "caution": "generated people: the numbers say nothing about real people",
        "settings": json.loads(json.dumps(asdict(settings), default=str)),
        "machine": {"python": platform.python_version(), "torch": torch.__version__,
                    "device": platform.machine() if settings.cpu else torch.cuda.get_device_name()},
        "runs": {},
    }  # fmt: skip
    entrants = []
    for seed in settings.seeds:  # by seed, so that what is cut off is the second seed, not the second network
        for model in settings.models:
            entrant, scores = run_one(settings, dataset, model, seed)
            entrants.append(entrant)
            report["runs"][entrant.name] = scores
            write_json(settings.out, report)
    first, second = settings.models[:2]
    contrasts = [(f"{first}-seed{seed}", f"{second}-seed{seed}") for seed in settings.seeds]
    comparison = compare(dataset, entrants, contrasts, group_generated(dataset))
    mean = np.mean([comparison.ap_per_query[a] - comparison.ap_per_query[b] for a, b in contrasts], axis=0)
    report["comparison"] = comparison.to_json()
    report["mAP_difference_over_seeds"] = asdict(cluster_interval(mean, dataset.query.pids))
    write_json(settings.out, report)
    print(comparison, f"\nall done: {settings.out}")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
