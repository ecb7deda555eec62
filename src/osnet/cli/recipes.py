"""osnet recipes: list the recipes, or print some of them whole."""

from dataclasses import asdict
from difflib import get_close_matches
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from osnet.cli.common import app
from osnet.errors import DataError
from osnet.models.registry import get_config
from osnet.recipes import RECIPES, RUNS, get_title
from osnet.recipes.published_runs import describe_runs


@app.command
def recipes(
    names: Annotated[tuple[str, ...], Positional, tyro.conf.arg(metavar="NAME...")] = (), *, markdown: bool = False
) -> None:
    """List the recipes, or print the named ones with command, sources, expected results and all values.

    Args:
        names: recipes to print; each value is under the name of the flag that overrides it.
        markdown: print the tables of docs/benchmarks.md.
    """
    if markdown:
        if names:
            raise DataError("--markdown prints all recipes; leave out the names")
        print(describe_runs(RUNS))
        return
    for name in names:
        if name not in RECIPES:
            near = get_close_matches(name, RECIPES, n=4)
            hint = f"did you mean {', '.join(near)}? " if near else ""
            raise DataError(f"unknown recipe {name!r}; {hint}`osnet recipes` lists them")
    for name in names:
        text = (RECIPES[name].__doc__ or "").strip()
        print("\n".join([name, f"    {text}", *(f"    {line}" for line in describe_values(name)), ""]))
    if not names:
        width = max(map(len, RECIPES)) + 2
        print("\n".join(f"{name:<{width}}{get_title(name)}" for name in RECIPES))
        print("\n`osnet recipes NAME` prints a recipe's command, sources, expected result and values.")


def describe_values(name: str) -> list[str]:
    """One line for each value of a recipe: flag and value."""
    recipe = RECIPES[name]()
    values: dict[str, Any] = {"width": get_config(recipe.model, **recipe.network_settings()).width}
    values |= {field: value for field, value in asdict(recipe).items() if field != "name" and value is not None}
    flat: dict[str, Any] = {}
    for field, value in values.items():
        inner = value if isinstance(value, dict) else {"": value}
        flat |= {f"{field}.{key}".rstrip("."): part for key, part in inner.items()}
    flags = {f"--{field.replace('_', '-')}": value for field, value in flat.items()}
    return [f"{flag:<32} {' '.join(map(str, v)) if isinstance(v, tuple) else v}" for flag, v in flags.items()]
