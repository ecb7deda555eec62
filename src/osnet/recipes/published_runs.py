"""A published run: the recipe, what it trains on, and what was printed of it. The table of docs/benchmarks.md."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from osnet.training.recipe import Recipe


@dataclass(frozen=True)
class Printed:
    """What a source prints of a run: rank-1 and mAP in percent on one test set; None where it does not."""

    where: str
    """Table and row, or the page."""
    test: str
    """The benchmark that is searched."""
    rank1: float | None
    mean_ap: float | None
    remark: str = ""

    def __str__(self) -> str:
        values = " / ".join("-" if value is None else f"{value:.1f}" for value in (self.rank1, self.mean_ap))
        remark = f"; {self.remark}" if self.remark else ""
        return f"{values} on {self.test} ({self.where}{remark})"


@dataclass(frozen=True)
class Run:
    """A function that returns a recipe, and what is known of its results."""

    make: Callable[[], Recipe]
    train: tuple[str, ...]
    """Benchmarks that are trained on, by the names of ``osnet data benchmarks``."""
    printed: tuple[Printed, ...] = ()
    combine_all: bool = False
    """Also on their query and gallery images."""
    here: str = ""
    """What the maintainers got, with machine and seeds; empty if they have not run it."""

    @property
    def name(self) -> str:
        """The recipe's."""
        return self.make().name

    @property
    def command(self) -> str:
        """What trains it, with ``DATA`` for the folder of all data sets."""
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
    """A run of a family that differs from its neighbours in a few values: its function, with its docstring."""

    def make() -> Recipe:
        return recipe

    run = Run(make, tuple(train), tuple(printed), combine_all)
    expect = "; ".join(map(str, printed)) or "not published"
    make.__name__ = make.__qualname__ = recipe.name.replace("-", "_")
    make.__doc__ = f"{title}\n\n    Command: {run.command}\n    Source: {source}\n    Expect: {expect}.\n    "
    return run


def describe_runs(runs: Sequence[Run]) -> str:
    """All runs as Markdown tables, one per source: what was printed, what was run here, and the command's data."""
    sections: dict[str, list[str]] = {}
    for run in runs:
        for printed in run.printed or (None,):
            section = "No figure published" if printed is None else _section(printed.where)
            sections.setdefault(section, []).append(_row(run, printed))
    head = "| recipe | trained on | searched | rank-1 / mAP published | remarks | run here |\n|---|---|---|---|---|---|"
    order = sorted(sections, key=lambda name: (not name.startswith("Paper"), name))
    return "\n\n".join("\n".join([f"### {name}", "", head, *sections[name]]) for name in order) + "\n"


def _section(where: str) -> str:
    """``paper, Table 5, row 3`` -> ``Paper, Table 5``."""
    parts = where.split(", ")
    return f"{parts[0][0].upper()}{parts[0][1:]}" + (f", {parts[1]}" if len(parts) > 1 else "")


def _row(run: Run, printed: Printed | None) -> str:
    train = " + ".join(run.train) + (", all images" if run.combine_all else "")
    if printed is None:
        return f"| `{run.name}` | {train} | - | - | | {run.here or 'not run'} |"
    values = " / ".join("-" if value is None else f"{value:.1f}" for value in (printed.rank1, printed.mean_ap))
    row = printed.where.split(", ")[2:]
    distance = "by cosine distance" if getattr(run.make(), "distance", "") == "cosine" else ""
    remarks = "; ".join(part for part in [", ".join(row), printed.remark, distance] if part)
    return f"| `{run.name}` | {train} | {printed.test} | {values} | {remarks} | {run.here or 'not run'} |"
