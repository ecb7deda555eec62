"""Published runs, and one modern one: a function each, whose docstring holds command, sources, and what to expect."""

from collections.abc import Callable

from osnet.recipes import demo, market1501
from osnet.training.recipe import Recipe

_FUNCTIONS: tuple[Callable[[], Recipe], ...] = (
    market1501.market1501_osnet_x1_0,
    market1501.market1501_osnet_x0_75,
    market1501.market1501_osnet_x0_5,
    market1501.market1501_osnet_x0_25,
    market1501.market1501_osnet_x1_0_scratch,
    market1501.market1501_osnet_x0_75_scratch,
    market1501.market1501_osnet_x0_5_scratch,
    market1501.market1501_osnet_x0_25_scratch,
    market1501.market1501_osnet_ain_x1_0,
    market1501.market1501_osnet_x1_0_strong,
    demo.demo_osnet_x0_25,
    demo.demo_osnet_t1_x0_25,
)

RECIPES: dict[str, Callable[[], Recipe]] = {make().name: make for make in _FUNCTIONS}
"""Name -> the function that returns the recipe."""
