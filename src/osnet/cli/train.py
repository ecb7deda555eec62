"""osnet train: train by a recipe. Each recipe is a sub-command whose flags are its fields."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.extras import SubcommandApp

from osnet.cli import join_lines
from osnet.cli.common import app, draw_progress
from osnet.recipes import RECIPES, get_title
from osnet.training.trainer import RunOptions, Trainer

train_app = SubcommandApp()
app.command(
    train_app,
    name="train",
    help="Train by a recipe; `osnet recipes` lists them, `osnet train RECIPE --help` the options of one. After an "
    "interruption the same command resumes.",
)


def _make_command(name: str) -> Callable[..., None]:
    default = RECIPES[name]()
    kind: Any = type(default)  # so that fields of a subclass become flags too

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
        print = trainer.accelerator.print  # with several processes, only the first prints
        facts = trainer.plan.describe_data()
        for label, name in (("left out", "problems"), ("note", "notes")):
            for line in facts.get(name, ()):
                print(f"{label}: {line}")
        if trainer.progress.step:
            print(f"resuming at epoch {trainer.progress.epoch + 1}, batch {trainer.progress.batch + 1}")
        try:
            weights = trainer.run(draw_progress)
        except KeyboardInterrupt:
            print(f"stopped after batch {trainer.progress.step}; the run is in {out}")
            raise
        print(f"trained {trainer.progress.epoch} epochs; weights of the last one in {weights}")
        if trainer.progress.best_epoch > 0:
            score = f"{100 * trainer.progress.best_score:.2f} % {trainer.plan.metric} on {trainer.plan.validated_on}"
            print(f"best epoch {trainer.progress.best_epoch} with {score}; weights in {out / 'best'}")

    text = f"""{get_title(name)} `osnet recipes {name}` prints its command, sources and expected result.

    Args:
        data: the training data. For re-identification: a folder in Market-1501's layout; or with sub-folders train,
            query and gallery; or with a sub-folder for each identity; or NAME=FOLDER for a benchmark that
            `osnet data benchmarks` lists (its first split; NAME:3=FOLDER for another split, NAME:seed7,3=FOLDER for
            splits drawn with another seed, cuhk03:labelled=FOLDER for another version). Several data sets are joined;
            their identities and cameras stay separate.
        out: a new folder for the run, or the folder of a run to resume, with the same recipe and data.
        recipe: the recipe; a flag overrides each of its fields.
        combine_all: train on validation, query and gallery images too; do not score such weights on this data.
        work_dir: where a benchmark keeps random splits and extracted images; default: beside the data.
        workers: number of processes that read and augment images; 0 for none; default: chosen for the machine.
        cpu: train on the CPU, even if there is a GPU.
    """
    train.__doc__ = join_lines(text)
    return train


for _name in RECIPES:
    train_app.command(name=_name)(_make_command(_name))
