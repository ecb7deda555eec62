"""osnet models, weights, convert."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from osnet.cli.common import JsonFlag, app
from osnet.errors import DataError
from osnet.models.card import LICENCE_ZOO
from osnet.models.counting import count_cost
from osnet.models.osnet import build_on_meta
from osnet.models.published import PUBLISHED, REPOSITORY
from osnet.models.variants import PUBLISHED_COSTS, VARIANTS, list_models
from osnet.models.weights import convert as convert_weights


@app.command
def models(
    pattern: Annotated[str, Positional, tyro.conf.arg(metavar="PATTERN")] = "*",
    *,
    size: tuple[int, int] = (256, 128),
    classes: int = 0,
    as_json: JsonFlag = False,
) -> None:
    """List networks with their parameters and multiply-adds, counted, beside what was published.

    Args:
        pattern: names to show; * and ? are wildcards.
        size: height and width of the input in pixels.
        classes: outputs of a classifier on top, counted in; 0 for none.
        as_json: print JSON.
    """
    if min(size) < 16 or classes < 0:
        raise DataError(f"size {size} must be at least 16 x 16, and classes {classes} at least 0")
    rows = []
    for name in list_models(pattern):
        cost = count_cost(build_on_meta(VARIANTS[name].config), size, classes)
        published = PUBLISHED_COSTS.get((name, size, classes))
        rows.append(
            {"name": name, **asdict(cost), "published": published and asdict(published), "about": VARIANTS[name].about}
        )
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    if not rows:
        raise DataError(f"no model matches {pattern!r}; `osnet models` lists all")
    head = f" + classifier of {classes}" if classes else ""
    print(f"input {size[0]} x {size[1]} (height x width){head}")
    print(f"{'model':<24}{'params':>11}{'mult-adds':>13}  {'published':<38}about")
    for row in rows:
        p = row["published"]
        shown = f"{p['params']} / {p['madds']} ({p['source']})" if p else "-"
        print(f"{row['name']:<24}{row['params']:>11,}{row['madds'] / 1e6:>12.2f}M  {shown:<38}{row['about']}")
    print(
        "Counted from the built network: each parameter once (a shared gate too); one multiply-add per use of a\n"
        "convolution's or dense layer's weight, one more per output with a bias; normalisation, activation, pooling,\n"
        "gating and shuffling nothing. Table A's multiply-adds lie 0.8 to 1.4 % higher: by one operation per\n"
        "BatchNorm output, it seems, and without the classifier. Table 5's pairs are published rank-1 / mAP on\n"
        "Market-1501, trained from scratch."
    )


@app.command
def weights(*, as_json: JsonFlag = False) -> None:
    """List the published weights that can be named, as MODEL_DATASET, instead of a path.

    Args:
        as_json: print JSON.
    """
    if as_json:
        print(json.dumps([asdict(w) for w in PUBLISHED.values()], indent=2))
        return
    print(f"{'name':<36}{'file name':<12}{'sha256':<10}file")
    for w in PUBLISHED.values():
        name, origin = f"{w.model}_{w.dataset}", "derived" if w.by_pattern else "quoted"
        print(f"{name:<36}{origin:<12}{'known' if w.sha256 else 'unknown':<10}{w.file}")
    print(
        f"From {REPOSITORY} on Hugging Face, unless they lie in the folder $OSNET_WEIGHTS under one of these names\n"
        "(with .pt or .pth). 'quoted' file names were read in public code, 'derived' ones follow their pattern;\n"
        f"a file with another SHA-256 than the known one is refused.\nLicence: {LICENCE_ZOO}"
    )


@app.command
def convert(
    source: Annotated[Path, Positional, tyro.conf.arg(metavar="SOURCE")],
    target: Annotated[Path, Positional, tyro.conf.arg(metavar="TARGET")],
    *,
    architecture: str | None = None,
    overwrite: bool = False,
) -> None:
    """Convert weights between Torchreid's files and this package's folders, whichever way.

    Args:
        source: a checkpoint folder, or a Torchreid or BoxMOT file (.pth, .pt, .pth.tar-60).
        target: ending in .pth, .pt or .tar: a file for Torchreid and BoxMOT; anything else: a checkpoint folder.
        architecture: the network's name, where neither the file's name nor its tensors tell.
        overwrite: replace what is at the target.
    """
    card = convert_weights(source, target, architecture=architecture, overwrite=overwrite)
    print(
        f"{target}: {card.name}, trained on {card.training_data}, {card.num_classes} classes, file sha256 {card.sha256}"
    )
    print(f"licence: {card.licence}")
