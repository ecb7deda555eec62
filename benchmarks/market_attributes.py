"""Attributes of real people: a network for identities and the 27 attributes of Market-1501 is trained and searched.

OSNet is trained on identities and attributes (``both-osnet``) of the training people; every tenth person is used for
validation. On the 750 test people it is scored (mA, F1), and searched by attributes, compared with chance and with a
search by image. Labels are per identity: all images of a person have the same ones, visible or not.

    python benchmarks/market_attributes.py --data MARKET1501 --labels market_attribute.mat --work STATE \\
        --out benchmarks/results/market-attributes-cpu.json
    python benchmarks/market_attributes.py ... --model osnet_x1_0 --size-hw 256 128 --precision bf16 --no-cpu    # a GPU

An interrupted run resumes. STATE contains weights and vectors and must be outside the repository.
"""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro

from osnet.cli.common import draw_progress
from osnet.data.attributes.dataset import AttributeSplit
from osnet.data.attributes.identities import read_market_attributes
from osnet.embedding.attribute_predictor import AttributePredictor
from osnet.files import make_folder, write_json
from osnet.metrics.attribute_metrics import score_attributes
from osnet.metrics.bootstrap import cluster_interval
from osnet.recipes.attributes_pa100k import both_osnet_x0_25
from osnet.training.trainer import RunOptions, Trainer

TOP = 10
DESCRIPTIONS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("female", "backpack"), ()),
    (("backpack",), ("female",)),
    (("female", "upwhite"), ("backpack",)),
    (("upred",), ("female",)),
    (("female",), ("pants",)),
    (("short sleeve", "short lower body clothing", "upblack"), ()),
    (("hat",), ()),
    (("handbag", "long hair"), ()),
)
"""Wanted and unwanted attributes. Combinations with attributes that the data lack are left out."""


@dataclass(frozen=True)
class Settings:
    """Data, network and length of the run."""

    data: Path
    """Market-1501's folder."""
    labels: Path
    """``market_attribute.mat``."""
    work: Path
    """Folder of the run, outside the repository."""
    out: Path
    model: str = "osnet_x0_25"
    size_hw: tuple[int, int] = (128, 64)
    epochs: int = 20
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 1
    cpu: bool = True
    threads: int = 1


def main(settings: Settings) -> None:
    torch.set_num_threads(settings.threads)
    dataset = read_market_attributes(settings.data, "skip", settings.labels)
    recipe = replace(
        both_osnet_x0_25(), name=f"market-attributes-{settings.model}", model=settings.model, seed=settings.seed,
        size_hw=settings.size_hw, epochs=settings.epochs, precision=settings.precision,
    )  # fmt: skip
    run = make_folder(settings.work) / f"{recipe.name}-seed{settings.seed}"
    trainer = Trainer(recipe, dataset, run, RunOptions(workers=0 if settings.cpu else None, cpu=settings.cpu))
    start, before = time.process_time(), trainer.progress.step
    trainer.run(draw_progress)
    cost = {"cpu_s": time.process_time() - start, "steps": trainer.progress.step - before}
    predictor = AttributePredictor(run / "best", device="cpu" if settings.cpu else "auto")
    names = list(predictor.attributes)
    test = dataset.select(names).test
    seen = predictor.predict(list(test.paths))
    report: dict[str, Any] = {
        "what": "identities and attributes of Market-1501, trained here; the test people are not in the training set",
        "run": {"model": settings.model, "size_hw": settings.size_hw, "epochs": settings.epochs, "seed": settings.seed},
        "people": {split.name: len({crop.pid for crop in split.crops}) for split in dataset.splits},
        "best_epoch": trainer.progress.best_epoch, "cost of this call": cost,
        "scores at 0.5": score(seen.probabilities, test, names),
        "majority": score(np.tile(np.nanmean(dataset.train.labels, 0), (len(test), 1)), test, names),
        "searches": search(seen.vectors, seen.probabilities, test, names),
    }  # fmt: skip
    write_json(settings.out, json.loads(json.dumps(report)))
    print(json.dumps(report, indent=1))


def score(probabilities: Any, test: AttributeSplit, names: list[str]) -> dict[str, float | None]:
    """mA over the attributes with positives and negatives, F1 of mean precision and recall, and mean accuracies.

    ``accuracy`` is the mean over images; ``accuracy per attribute`` is the share of right labels, over attributes.
    """
    scores = score_attributes(probabilities, test.labels, names)
    known = ~np.isnan(test.labels)
    right = ((probabilities >= 0.5) == (test.labels == 1)) & known
    return {
        "mA": scores.mean_accuracy, "F1": scores.f1, "accuracy": scores.accuracy,
        "accuracy per attribute": float((right.sum(0) / known.sum(0)).mean()),
    }  # fmt: skip


def search(vectors: Any, probabilities: Any, test: AttributeSplit, names: list[str]) -> list[dict[str, Any]]:
    """How many of the first ten images match each combination: by attributes, by chance, and by image.

    Search by image uses the first image of each matching person in turn and leaves out that person's images, which
    match by definition. So it measures whether people who look alike have equal labels.
    """
    pids, rows = np.array([crop.pid for crop in test.crops]), []
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for having, lacking in DESCRIPTIONS:
        if not {*having, *lacking} <= set(names):
            continue
        columns = [(names.index(name), 1) for name in having] + [(names.index(name), 0) for name in lacking]
        fits = np.all([test.labels[:, column] == value for column, value in columns], axis=0)
        if not fits.any() or fits.all():
            continue
        odds = np.sum([np.log(probabilities[:, c] if v else 1 - probabilities[:, c]) for c, v in columns], axis=0)
        first = np.argsort(-odds, kind="stable")[:TOP]
        by_photo, people = [], []
        for pid in np.unique(pids[fits]):
            photo = np.flatnonzero(pids == pid)[0]
            others = np.flatnonzero(pids != pid)
            nearest = others[np.argsort(-(unit[others] @ unit[photo]), kind="stable")[:TOP]]
            by_photo.append(fits[nearest].sum())
            people.append(pid)
        interval = cluster_interval(by_photo, people) if len(people) > 1 else None
        rows.append({
            "with": having, "without": lacking, "fitting people": len(people), "right": int(fits[first].sum()),
            "different people among them": len(set(pids[first].tolist())), "by chance": TOP * float(fits.mean()),
            "by photo": float(np.mean(by_photo)), "by photo, interval": interval and [interval.low, interval.high],
        })  # fmt: skip
    return rows


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
