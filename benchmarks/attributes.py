"""Attributes on real images: networks of similar size, one recipe, several seeds, and a constant baseline.

Made for the 2,000-image sample of PA-100K (the sample's mismatches are left out and listed). The best epoch and the
thresholds are chosen on validation; the test part is scored once per finished run, for the best epoch and the last one.
Finished runs are skipped and an interrupted one resumes, so repeat the command until it prints that all is done:

    python benchmarks/attributes.py --data pa100k --work out/attributes --out benchmarks/results/attributes.json

With a GPU, the supplement's recipe at full size:

    python benchmarks/attributes.py --data pa100k --work out/x1_0 --out benchmarks/results/attributes-x1_0.json \\
        --entrants osnet_x1_0 --epochs 50 --size-hw 256 128 --precision bf16
"""

import json
import platform
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from osnet.cli.common import draw_progress
from osnet.data.attributes.dataset import AttributeDataset
from osnet.data.attributes.reader import read_attributes
from osnet.embedding.attribute_predictor import AttributePredictor
from osnet.figures.attribute_sheet import SheetCrop, save_attribute_sheet
from osnet.files import make_folder, write_json
from osnet.metrics.attribute_metrics import AttributeScores, Criterion, choose_thresholds, score_attributes
from osnet.recipes.attributes_pa100k import pa100k_osnet_x1_0
from osnet.tasks.attribute_task import AttributeRecipe, labelled, score_split
from osnet.training.trainer import RunOptions, Trainer

LEAST_POSITIVES = 10
"""mA is the mean over attributes with at least this many positives in the test part."""
SHOWN = 16
SCORES = "scores.json"
NARROW = {"osnet_t1_x0_25": ("osnet_t1", 0.25), "mobilenetv2_x0_25": ("mobilenetv2_x1_0", 0.25)}
"""Networks of OSNet x0.25's size: 201,864 parameters with its embedding layer; these have 153,632 and 238,112."""
CRITERIA: tuple[Criterion, ...] = ("mA", "F1")
WAYS = ("at 0.5", "at validation's best mA", "at validation's best F1")
"""Thresholds."""


@dataclass(frozen=True)
class Settings:
    """The defaults are a small experiment for a CPU."""

    data: Path
    work: Path
    """Folder of the runs; existing ones resume."""
    out: Path
    entrants: tuple[str, ...] = ("osnet_x0_25", "osnet_t1_x0_25", "mobilenetv2_x0_25", "osnet_x0_25_finetuned")
    """Names of networks or of ``NARROW``; with ``_finetuned``, training starts from ``pretrained``."""
    pretrained: str = "osnet_x0_25_msmt17"
    """Weights for ``_finetuned``: a path, or ``MODEL_DATASET``."""
    seeds: tuple[int, ...] = (1, 2, 3)
    epochs: int = 30
    size_hw: tuple[int, int] = (128, 64)
    batch_size: int = 32
    precision: str = "fp32"
    finetuning_lr: float = 0.0065
    """A tenth of the rate from scratch."""
    max_runs: int = 1000
    """Stop after training this many runs."""
    cpu: bool = False
    workers: int | None = None
    sheet: Path | None = None
    """Draw 16 test images with predicted and true attributes into this PNG, from the first entrant's first run."""


def make_recipe(settings: Settings, entrant: str, seed: int) -> AttributeRecipe:
    """The supplement's recipe with proportionally fewer epochs; fine-tuning keeps the backbone's average pooling."""
    paper = pa100k_osnet_x1_0()
    recipe = replace(
        paper, name=f"{entrant}-seed{seed}", seed=seed, epochs=settings.epochs, size_hw=settings.size_hw,
        milestones=tuple(round(step * settings.epochs / paper.epochs) for step in paper.milestones),
        batch_size=settings.batch_size, precision="bf16" if settings.precision == "bf16" else "fp32",
        skip_mismatches=True,
    )  # fmt: skip
    if entrant.endswith("_finetuned"):
        model = entrant.removesuffix("_finetuned")
        start = settings.pretrained.removeprefix(f"{model}_")
        return replace(recipe, model=model, pretrained=start, pooling="avg", lr=settings.finetuning_lr)
    if entrant in NARROW:
        model, width = NARROW[entrant]
        return replace(recipe, model=model, width=width)
    return replace(recipe, model=entrant)


def summarize(scores: AttributeScores, counted: list[str]) -> dict[str, Any]:
    values = [row.mean_accuracy for row in scores.rows if row.name in counted]
    return {
        "mA": float(np.mean([value for value in values if value is not None])),
        "accuracy": scores.accuracy, "precision": scores.precision, "recall": scores.recall, "F1": scores.f1,
        "mAP": float(np.mean([row.average_precision or 0.0 for row in scores.rows if row.name in counted])),
    }  # fmt: skip


def run_one(
    settings: Settings, dataset: AttributeDataset, entrant: str, seed: int, counted: list[str]
) -> tuple[dict[str, Any], bool]:
    """Scores of a run, and whether it was trained in this call."""
    recipe = make_recipe(settings, entrant, seed)
    folder = settings.work / recipe.name
    result = folder / SCORES
    if result.exists():
        return json.loads(result.read_text(encoding="utf-8")), False
    make_folder(folder)
    trainer = Trainer(recipe, dataset, folder / "run", RunOptions(cpu=settings.cpu, workers=settings.workers))
    trainer.run(draw_progress)
    scores: dict[str, Any] = {"best_epoch": trainer.progress.best_epoch, "validation_mA": trainer.progress.best_score}
    names, test, val = dataset.attributes, labelled(dataset.test), labelled(dataset.val)
    for name, weights in (("best epoch", "best"), ("last epoch", "weights")):
        predictor = AttributePredictor(folder / "run" / weights, device="cpu" if settings.cpu else "auto")
        plain, probabilities = score_split(predictor, test, names)
        _, on_val = score_split(predictor, val, names)
        scores[name] = {WAYS[0]: summarize(plain, counted)}
        for way, criterion in zip(WAYS[1:], CRITERIA, strict=True):
            thresholds = choose_thresholds(on_val, val.labels, names, criterion)
            scores[name][way] = summarize(score_attributes(probabilities, test.labels, names, thresholds), counted)
        scores[name]["per attribute"] = [asdict(row) for row in plain.rows]
    write_json(result, scores)
    return scores, True


def majority(dataset: AttributeDataset, counted: list[str]) -> dict[str, Any]:
    """Scores of a constant prediction: each attribute as in most training images."""
    test = labelled(dataset.test)
    answer = np.tile((dataset.positive_ratios() >= 0.5).astype(float), (len(test), 1))
    return summarize(score_attributes(answer, test.labels, dataset.attributes), counted)


def over_seeds(runs: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Mean, minimum and maximum over the seeds, for all thresholds."""
    table: dict[str, Any] = {"seeds": sorted(runs)}
    for epoch in ("best epoch", "last epoch"):
        for way in WAYS:
            values = {name: [run[epoch][way][name] for run in runs.values()] for name in ("mA", "F1", "mAP")}
            table[f"{epoch}, {way}"] = {
                name: {"mean": float(np.mean(v)), "min": min(v), "max": max(v)} for name, v in values.items()
            }
    return table


def draw_sheet(settings: Settings, dataset: AttributeDataset) -> None:
    run = settings.work / make_recipe(settings, settings.entrants[0], settings.seeds[0]).name / "run" / "best"
    predictor = AttributePredictor(run, device="cpu" if settings.cpu else "auto")
    test, val = labelled(dataset.test), labelled(dataset.val)
    _, on_val = score_split(predictor, val, dataset.attributes)
    predictor.head.thresholds = tuple(choose_thresholds(on_val, val.labels, dataset.attributes))
    rows = list(range(0, len(test), max(1, len(test) // SHOWN)))[:SHOWN]
    seen = predictor.predict([test.paths[i] for i in rows])
    shown = [
        SheetCrop(
            test.paths[i], tuple(seen.positive(place)),
            tuple(n for n, v in zip(dataset.attributes, test.labels[i], strict=True) if v == 1),
        )
        for place, i in enumerate(rows)
    ]  # fmt: skip
    assert settings.sheet is not None
    save_attribute_sheet(
        shown, settings.sheet, "= right, + false positive, - missed; thresholds of the best F1 on validation"
    )


def main(settings: Settings) -> None:
    make_folder(settings.work)
    dataset = read_attributes(settings.data, "skip")
    positives = np.nansum(labelled(dataset.test).labels, axis=0)
    counted = [name for name, number in zip(dataset.attributes, positives, strict=True) if number >= LEAST_POSITIVES]
    report: dict[str, Any] = {
        "caution": "a sample of 2 % of PA-100K: not comparable with published figures",
        "settings": json.loads(json.dumps({**asdict(settings), "pretrained": Path(settings.pretrained).name},
                                          default=lambda path: path.name)),
        "images": {split.name: len(labelled(split)) for split in dataset.splits},
        "problems": dataset.problems,
        "attributes_in_mA": counted,
        "attributes_left_out": [name for name in dataset.attributes if name not in counted],
        "majority": majority(dataset, counted),
        "machine": {"python": platform.python_version(), "torch": torch.__version__,
                    "device": platform.machine() if settings.cpu else "auto"},
        "runs": {}, "over_seeds": {}, "complete": False,
    }  # fmt: skip
    trained, runs = 0, {entrant: {} for entrant in settings.entrants}
    for seed in settings.seeds:  # seed by seed, so that an interruption leaves all networks with equally many seeds
        for entrant in settings.entrants:
            finished = settings.work / make_recipe(settings, entrant, seed).name / SCORES
            if trained >= settings.max_runs and not finished.exists():
                print("stopped after --max-runs; call it again")
                return
            scores, new = run_one(settings, dataset, entrant, seed, counted)
            trained += new
            runs[entrant][seed] = scores
            report["runs"][f"{entrant}-seed{seed}"] = scores
            report["over_seeds"] = {name: over_seeds(of) for name, of in runs.items() if of}
            write_json(settings.out, report)
    report["complete"] = True
    write_json(settings.out, report)
    if settings.sheet is not None:
        draw_sheet(settings, dataset)
    print(f"all done: {settings.out}")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
