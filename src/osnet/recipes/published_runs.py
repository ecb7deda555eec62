"""Published runs: a recipe, its training data and its published scores; and the table of them in docs/benchmarks.md."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from osnet.training.recipe import Recipe


@dataclass(frozen=True)
class Printed:
    """Scores that a source has published for a run on one test set."""

    where: str
    """The source: paper, table and row, or a page."""
    test: str
    """Name of the benchmark of the test."""
    rank1: float | None
    """Rank-1 in percent; None if not published."""
    mean_ap: float | None
    """Mean average precision in percent; None if not published."""
    remark: str = ""
    """A remark for the table; empty for none."""

    def __str__(self) -> str:
        values = " / ".join("-" if value is None else f"{value:.1f}" for value in (self.rank1, self.mean_ap))
        remark = f"; {self.remark}" if self.remark else ""
        return f"{values} on {self.test} ({self.where}{remark})"


@dataclass(frozen=True)
class Run:
    """A run on benchmarks: its recipe, training data and published scores."""

    make: Callable[[], Recipe]
    """Function that returns the recipe."""
    train: tuple[str, ...]
    """Names of the training benchmarks, as `osnet data benchmarks` lists them."""
    printed: tuple[Printed, ...] = ()
    """Published scores."""
    combine_all: bool = False
    """Whether query and gallery images are used for training, too."""
    here: str = ""
    """Our own result, with machine and seeds; empty if we have not run it."""

    @property
    def name(self) -> str:
        """Name of the recipe."""
        return self.make().name

    @property
    def command(self) -> str:
        """The training command, with ``DATA`` for the folder that contains all data sets."""
        data = " ".join(f"{name}=DATA" for name in self.train)
        return f"osnet train {self.name} --data {data}{' --combine-all' if self.combine_all else ''} --out RUN"


def make_run(
    recipe: Recipe,
    title: str,
    train: Sequence[str],
    source: str,
    printed: Sequence[Printed] = (),
    combine_all: bool = False,
) -> Run:
    """Make a run whose function returns ``recipe`` and has a recipe's docstring.

    For families of runs that differ in a few values and need no function of their own in the source.

    Args:
        recipe: the recipe.
        title: first sentence of the docstring.
        train: names of the training benchmarks.
        source: where the values of the recipe come from.
        printed: published scores.
        combine_all: whether query and gallery images are used for training, too.
    """

    def make() -> Recipe:
        return recipe

    run = Run(make, tuple(train), tuple(printed), combine_all)
    expect = "; ".join(map(str, printed)) or "not published"
    make.__name__ = make.__qualname__ = recipe.name.replace("-", "_")
    make.__doc__ = f"{title}\n\n    Command: {run.command}\n    Source: {source}\n    Expect: {expect}.\n    "
    return run


def describe_runs(runs: Sequence[Run]) -> str:
    """Make Markdown tables of runs, one per source, with training data, published scores and our own results."""
    sections: dict[str, list[str]] = {}
    for run in runs:
        for printed in run.printed or (None,):
            section = "No figure published" if printed is None else _section(printed.where)
            sections.setdefault(section, []).append(_row(run, printed))
    head = (
        "| recipe | trained on | tested on | rank-1 / mAP published | remarks | run by us |\n|---|---|---|---|---|---|"
    )
    order = sorted(sections, key=lambda name: (not name.startswith("Paper"), name))
    return "\n\n".join("\n".join([f"### {name}", "", head, *sections[name]]) for name in order) + "\n"


def _section(where: str) -> str:
    """Heading of a source: ``paper, Table 5, row 3`` -> ``Paper, Table 5``."""
    parts = where.split(", ")
    return f"{parts[0][0].upper()}{parts[0][1:]}" + (f", {parts[1]}" if len(parts) > 1 else "")


def _row(run: Run, printed: Printed | None) -> str:
    train = " + ".join(run.train) + (", all images" if run.combine_all else "")
    if printed is None:
        return f"| `{run.name}` | {train} | - | - | | {run.here or 'not run'} |"
    values = " / ".join("-" if value is None else f"{value:.1f}" for value in (printed.rank1, printed.mean_ap))
    row = printed.where.split(", ")[2:]
    distance = "cosine distance" if getattr(run.make(), "distance", "") == "cosine" else ""
    remarks = "; ".join(part for part in [", ".join(row), printed.remark, distance] if part)
    return f"| `{run.name}` | {train} | {printed.test} | {values} | {remarks} | {run.here or 'not run'} |"
