"""The table of named networks, and what was printed of their costs."""

from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from osnet.errors import ModelError
from osnet.models.config import GroupExtent, OSNetConfig

WIDTHS = {"x1_0": 1.0, "x0_75": 0.75, "x0_5": 0.5, "x0_25": 0.25}


@dataclass(frozen=True)
class Variant:
    """A named network."""

    config: OSNetConfig
    about: str
    """What it is and where it is described."""


@dataclass(frozen=True)
class PublishedCost:
    """What was printed, to the digits in which it was printed."""

    params: str
    madds: str
    source: str


def _variants() -> dict[str, Variant]:
    table: dict[str, Variant] = {}
    for suffix, width in WIDTHS.items():
        about = "paper, Table 6" + ("; Table 5, row 1: the primary model; 93.6 / 81.0" if width == 1 else "")
        table[f"osnet_{suffix}"] = Variant(OSNetConfig(width=width), about)
    for norm in ("ibn", "ain"):
        for suffix, width in WIDTHS.items():
            table[f"osnet_{norm}_{suffix}"] = Variant(
                OSNetConfig(width=width, norm=norm),
                f"OSNet-{norm.upper()}, arXiv:1910.06827, as in the authors' code",
            )
    table |= _ablations()
    for suffix, groups in (("x1_0", (2, 4)), ("x0_75", (2, 3, 4)), ("x0_5", (2, 4))):
        for g in groups:
            extents: tuple[GroupExtent, ...] = ("lite", "block", "all")
            for extent in extents:
                table[f"osnet_{suffix}_g{g}_{extent}"] = Variant(
                    OSNetConfig(width=WIDTHS[suffix], groups=g, group_extent=extent),
                    "grouped pointwise convolutions with shuffle, proposed in supplement C",
                )
    return table


def _ablations() -> dict[str, Variant]:
    """Table 5 of the paper; row 1 is ``osnet_x1_0``. Rows 3, 4, 7, 8 are one reading of it."""
    reading = " (one reading: the paper leaves the detail open)"
    rows: list[tuple[str, OSNetConfig, str]] = [
        ("osnet_full_conv", OSNetConfig(lite=False), "row 2: full 3x3 convolutions; 94.0 / 82.7"),
        ("osnet_same_depth", OSNetConfig(stream_depth=2), f"row 3: four streams of depth 2{reading}; 91.7 / 77.9"),
        ("osnet_concat", OSNetConfig(aggregation="concatenation"), f"row 4: concatenation{reading}; 91.4 / 77.4"),
        ("osnet_add", OSNetConfig(aggregation="addition"), "row 5: addition; 92.0 / 78.2"),
        ("osnet_separate_gates", OSNetConfig(aggregation="separate_gates"), "row 6: a gate per stream; 92.9 / 80.2"),
        (
            "osnet_streamwise_gate",
            OSNetConfig(aggregation="streamwise_gate"),
            f"row 7: one weight per stream{reading}; 92.6 / 80.0",
        ),
        (
            "osnet_static_gates",
            OSNetConfig(aggregation="static_gates"),
            f"row 8: learned-and-fixed gates{reading}; 91.6 / 77.5",
        ),
        ("osnet_t1", OSNetConfig(streams=1, aggregation="addition"), "row 9: single scale, as in Fig. A; 86.5 / 67.7"),
        ("osnet_t2", OSNetConfig(streams=2), "row 10: two streams; 91.7 / 77.0"),
        ("osnet_t3", OSNetConfig(streams=3), "row 11: three streams; 92.8 / 79.9"),
    ]
    table = {name: Variant(config, f"paper, Table 5, {about}") for name, config, about in rows}
    for depth in (1, 3, 4):
        about = f"paper, Table 5, row 3 read with streams of depth {depth}"
        table[f"osnet_same_depth_{depth}"] = Variant(OSNetConfig(stream_depth=depth), about)
    return table


VARIANTS: dict[str, Variant] = _variants()


def _published_costs() -> dict[tuple[str, tuple[int, int], int], PublishedCost]:
    table6 = "paper, Table 6"
    sizes = ((256, 128), (192, 96), (128, 64), (64, 32))
    rows = {
        "osnet_x1_0": ("2.2M", ("978.9M", "550.7M", "244.9M", "61.5M")),
        "osnet_x0_75": ("1.3M", ("571.8M", "321.7M", "143.1M", "35.9M")),
        "osnet_x0_5": ("0.6M", ("272.9M", "153.6M", "68.3M", "17.2M")),
        "osnet_x0_25": ("0.2M", ("82.3M", "46.3M", "20.6M", "5.2M")),
    }
    costs = {
        (name, size, 0): PublishedCost(params, madds, table6)
        for name, (params, row) in rows.items()
        for size, madds in zip(sizes, row, strict=True)
    }
    for name, params, madds in (
        ("x1_0", "2.7M", "1511M"),
        ("x0_75", "1.8M", "885M"),
        ("x0_5", "1.1M", "424M"),
    ):
        costs[f"osnet_{name}", (224, 224), 1000] = PublishedCost(params, madds, "supplement, Table A")
    return costs


PUBLISHED_COSTS = _published_costs()
"""(name, height and width, classes) -> what the paper and its supplement print."""


def list_models(pattern: str = "*") -> list[str]:
    """Names that match ``pattern`` (``*`` and ``?`` are wildcards), sorted.

    >>> list_models("osnet_ain*")
    ['osnet_ain_x0_25', 'osnet_ain_x0_5', 'osnet_ain_x0_75', 'osnet_ain_x1_0']
    """
    return sorted(name for name in VARIANTS if fnmatchcase(name, pattern))


def get_config(name: str, **overrides: Any) -> OSNetConfig:
    """The settings behind a name, with any of ``OSNetConfig``'s fields replaced.

    Raises:
        ModelError: the name or a field is unknown, or the settings do not fit together.
    """
    if name not in VARIANTS:
        near = get_close_matches(name, VARIANTS, n=4)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise ModelError(f"unknown model {name!r}; {hint}choose from {', '.join(list_models())}")
    known = OSNetConfig.__dataclass_fields__
    if unknown := sorted(set(overrides) - set(known)):
        raise ModelError(f"unknown setting {', '.join(unknown)}; choose from {', '.join(known)}")
    return replace(VARIANTS[name].config, **overrides)
