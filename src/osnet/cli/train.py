"""osnet train."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.extras import SubcommandApp

from osnet.cli.common import app, draw_progress
from osnet.recipes import RECIPES
from osnet.training.recipe import Recipe
from osnet.training.trainer import RunOptions, Trainer

train_app = SubcommandApp()
app.command(train_app, name="train", help="Train by a recipe; `osnet recipes` lists them. Cut off, it goes on.")


def _make_command(make: Callable[[], Recipe]) -> Callable[..., None]:
    default = make()
    kind: Any = type(default)  # its own fields become flags too

    def train(
        *,
        data: tuple[Path, ...],
        out: Path,
        recipe: Annotated[kind, tyro.conf.arg(name="")] = default,
        combine_all: bool = False,
        work_dir: Path | None = None,
        workers: int | None = None,
        cpu: bool = False,
    ) -> None:
        trainer = Trainer(recipe, recipe.read(data, combine_all, work_dir), out, RunOptions(workers=workers, cpu=cpu))
        print = trainer.accelerator.print  # of several processes, the first one speaks
        facts = trainer.plan.describe_data()
        for label, name in (("left out", "problems"), ("note", "notes")):
            for line in facts.get(name, ()):
                print(f"{label}: {line}")
        if trainer.progress.step:
            print(f"going on at epoch {trainer.progress.epoch + 1}, batch {trainer.progress.batch + 1}")
        try:
            weights = trainer.run(draw_progress)
        except KeyboardInterrupt:
            print(f"stopped after {trainer.progress.step} batches; the run is in {out}")
            raise
        print(f"trained {trainer.progress.epoch} epochs; weights of the last one in {weights}")
        if trainer.progress.best_epoch > 0:
            score = f"{100 * trainer.progress.best_score:.2f} % {trainer.plan.metric} on {trainer.plan.validated_on}"
            print(f"best epoch {trainer.progress.best_epoch} with {score}; weights in {out / 'best'}")

    train.__doc__ = f"""{(make.__doc__ or "").strip()}

    Args:
        data: what the recipe trains on; for re-identification Market-1501's layout, or folders train, query and
            gallery, or a folder of crops by identity, or NAME=FOLDER for a benchmark that `osnet data benchmarks`
            lists (its first split; NAME:3=FOLDER another, NAME:seed7,3=FOLDER one of another draw,
            cuhk03:labelled=FOLDER another form); several train as one, their identities and cameras kept apart.
        out: the run's folder, new, or one of the same recipe and data to go on with.
        recipe: the recipe; each of its fields can be overridden.
        combine_all: train on validation, query and gallery images too; such weights must not be scored on this data.
        work_dir: where a benchmark keeps drawn splits and extracted images; by default beside the data.
        workers: processes that read and augment, 0 for none; by default as many as serve the machine.
        cpu: use no GPU.
    """
    return train


for _name, _make in RECIPES.items():
    train_app.command(name=_name)(_make_command(_make))
