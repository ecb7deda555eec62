"""osnet models: list the networks with their parameters and multiply-adds."""

import json
import textwrap
from dataclasses import asdict
from typing import Annotated

import tyro
from tyro.conf import Positional

from osnet.cli.common import JsonFlag, app
from osnet.errors import DataError
from osnet.models.counting import PUBLISHED_COSTS, TABLE_A, Cost, TableARow, count_cost
from osnet.models.registry import VARIANTS, build_network, list_models


@app.command
def models(
    pattern: Annotated[str, Positional, tyro.conf.arg(metavar="PATTERN")] = "*",
    *,
    size: tuple[int, int] = (256, 128),
    classes: int = 0,
    table_a: bool = False,
    as_json: JsonFlag = False,
) -> None:
    """List the networks with their parameters and multiply-adds, beside the published counts.

    Args:
        pattern: names to show; * and ? are wildcards.
        size: height and width of the input in pixels.
        classes: number of outputs of a classifier to include in the counts; 0 for none.
        table_a: print Table A of the supplement instead, recounted at 224 x 224 with 1000 classes.
        as_json: print JSON.
    """
    if table_a:
        _print_table_a(as_json)
        return
    if min(size) < 16 or classes < 0:
        raise DataError(f"size {size} must be at least 16 x 16, and classes {classes} at least 0")
    fixed = [name for name in list_models(pattern) if VARIANTS[name].config.fixed_size_hw not in (None, size)]
    if small := [name for name in list_models(pattern) if min(size) < VARIANTS[name].config.smallest_side]:
        raise DataError(
            f"size {size} is too small for {', '.join(small[:3])}: at least 32 x 32; or name others: 'osnet_*'"
        )
    rows = []
    for name in (name for name in list_models(pattern) if name not in fixed):
        cost = count_cost(build_network(VARIANTS[name].config, "meta"), size, classes)
        published = PUBLISHED_COSTS.get((name, size, classes))
        rows.append(
            {"name": name, **asdict(cost), "published": published and asdict(published), "about": VARIANTS[name].about}
        )
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    if not rows:
        why = f"{', '.join(fixed)} takes another size" if fixed else "`osnet models` lists all"
        raise DataError(f"no model matches {pattern!r} at {size[0]} x {size[1]}; {why}")
    head = f" + classifier of {classes}" if classes else ""
    print(f"input {size[0]} x {size[1]} (height x width){head}")
    print(f"{'model':<24}{'params':>11}{'mult-adds':>13}  {'published':<38}about")
    for row in rows:
        p = row["published"]
        shown = f"{p['params']} / {p['madds']} ({p['source']})" if p else "-"
        print(f"{row['name']:<24}{row['params']:>11,}{row['madds'] / 1e6:>12.2f}M  {shown:<38}{row['about']}")
    print(
        "Counts are of the built network. Each parameter counts once, also in a shared gate. Each use of a weight of\n"
        "a convolution or a dense layer counts as one multiply-add, and each output with a bias as one more.\n"
        "Normalisation, activation, pooling, gating and shuffling are not counted. Table A's multiply-adds of OSNet\n"
        "are 0.8 to 1.4 % higher, probably because they include one operation per BatchNorm output and no classifier.\n"
        "Pairs from Table 5 are published rank-1 / mAP on Market-1501, trained from scratch."
    )


def _print_table_a(as_json: bool) -> None:
    rows: list[tuple[TableARow, Cost]] = []
    for row in TABLE_A:
        rows.append((row, count_cost(build_network(VARIANTS[row.model].config, "meta"), (224, 224), 1000)))
    if as_json:
        print(json.dumps([{**asdict(row), "counted": asdict(cost)} for row, cost in rows], indent=2))
        return
    print("Table A of the supplement: ImageNet, 224 x 224, 1000 classes; published values and our counts")
    print(f"{'network':<20}{'params':>8}{'counted':>10}{'mult-adds':>11}{'counted':>10}{'top-1':>7}  model")
    for row, cost in rows:
        top1 = "-" if row.top1 is None else f"{row.top1:.1f}"
        print(
            f"{row.label:<20}{row.params:>8}{f'{cost.params / 1e6:.3f}M':>10}{row.madds or '-':>11}"
            f"{f'{cost.madds / 1e6:.1f}M':>10}{top1:>7}  {row.model}"
        )
    print("top-1: published, in percent, single centre crop; not measured by us. Differences:")
    for row, _ in rows:
        if row.difference:
            print(textwrap.fill(f"{row.label}: {row.difference}", 110, initial_indent="  ", subsequent_indent="      "))
    print(
        "The published multiply-adds of the other networks are those of convolutions and dense layers, as are our\n"
        "counts. Those of OSNet are 0.8 to 1.4 % higher than our counts, so OSNet is slightly cheaper relative to the\n"
        "other networks than the table shows."
    )
