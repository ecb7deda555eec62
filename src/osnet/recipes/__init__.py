"""Recipes of published runs and of our own. Each is a function; its docstring gives command, sources and results."""

from collections.abc import Callable
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import Any

from osnet.errors import TrainingError
from osnet.recipes import attributes_pa100k as pa100k
from osnet.recipes import demo_recipes as demo
from osnet.recipes import photos_cifar as cifar
from osnet.recipes import photos_imagenet as imagenet
from osnet.recipes import reid_ablations as ablations
from osnet.recipes import reid_cross_domain as cross_domain
from osnet.recipes import reid_market1501 as market1501
from osnet.recipes import reid_same_domain as same_domain
from osnet.recipes.published_runs import Printed, Run
from osnet.training.recipe import Recipe

_TABLE6, _ZOO, _MARKET = "paper, Table 6", "Torchreid's model zoo", "market1501"


def _market(make: Callable[[], Recipe], *printed: tuple[str, float, float, str], here: str = "") -> Run:
    scores = (Printed(where, _MARKET, rank1, mean_ap, remark) for where, rank1, mean_ap, remark in printed)
    return Run(make, (_MARKET,), tuple(scores), here=here)


RUNS: list[Run] = [
    _market(
        market1501.market1501_osnet_x1_0_scratch,
        ("paper, Table 3", 93.6, 81.0, ""),
        ("paper, Table 5, row 1", 93.6, 81.0, ""),
    ),
    _market(market1501.market1501_osnet_x0_75_scratch),
    _market(market1501.market1501_osnet_x0_5_scratch),
    _market(market1501.market1501_osnet_x0_25_scratch),
    _market(
        market1501.market1501_osnet_x1_0,
        ("paper, Table 3", 94.8, 84.9, ""),
        (_TABLE6, 94.8, 84.9, ""),
    ),
    _market(market1501.market1501_osnet_x0_75, (_TABLE6, 94.5, 84.1, "")),
    _market(market1501.market1501_osnet_x0_5, (_TABLE6, 93.4, 82.6, "")),
    _market(market1501.market1501_osnet_x0_25, (_TABLE6, 92.2, 77.8, "")),
    _market(market1501.market1501_osnet_x1_0_zoo, (_ZOO, 94.2, 82.6, "")),
    _market(market1501.market1501_osnet_x0_75_zoo, (_ZOO, 93.7, 81.2, "")),
    _market(market1501.market1501_osnet_x0_5_zoo, (_ZOO, 92.5, 79.8, "")),
    _market(
        market1501.market1501_osnet_x0_25_zoo,
        (_ZOO, 91.2, 75.0, ""),
        here="not trained; the released weights score 91.18 / 74.94",
    ),
    Run(market1501.market1501_osnet_ain_x1_0, (_MARKET,), (Printed(_ZOO, "dukemtmcreid", 52.4, 30.5),)),
    _market(market1501.market1501_osnet_x1_0_strong),
    *same_domain.RUNS,
    *ablations.RUNS,
    *cross_domain.RUNS,
]
"""All runs on re-identification benchmarks."""

RECIPES: dict[str, Callable[[], Recipe]] = {
    **{run.name: run.make for run in RUNS},
    **{make().name: make for make in (*pa100k.RUNS, *imagenet.RUNS, *cifar.RUNS)},
    **{make().name: make for make in (demo.demo_osnet_x0_25, demo.demo_osnet_t1_x0_25)},
}
"""Functions that return the recipes, by the recipe's name."""


def list_recipes() -> list[str]:
    """The names of all recipes, sorted."""
    return sorted(RECIPES)


def get_title(name: str) -> str:
    """The first line of a recipe's docstring, for instance ``OSNet x1.0 from scratch.``"""
    return (RECIPES[name].__doc__ or "").strip().split("\n")[0]


def get_recipe(name: str, **changes: Any) -> Recipe:
    """Return a recipe by name, with some fields changed.

    Args:
        name: one of ``list_recipes()``.
        changes: new values of the recipe's fields, for instance ``epochs=1``.

    Raises:
        TrainingError: the name or a field is unknown.
        ModelError: a value is outside its range, or values contradict each other.
    """
    if name not in RECIPES:
        near = get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise TrainingError(f"unknown recipe {name!r}; {hint}list_recipes() and `osnet recipes` list all recipes")
    recipe = RECIPES[name]()
    known = [entry.name for entry in fields(recipe)]
    if unknown := sorted(set(changes) - set(known)):
        raise TrainingError(f"recipe {name} has no field {', '.join(unknown)}; its fields are {', '.join(known)}")
    return replace(recipe, **changes)
