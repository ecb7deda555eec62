"""osnet models, weights, card, convert."""

import json
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from osnet.cli.common import JsonFlag, app
from osnet.embedding.third_party import scaled, write_card
from osnet.errors import DataError
from osnet.models.counting import PUBLISHED_COSTS, TABLE_A, Cost, TableARow, count_cost
from osnet.models.registry import VARIANTS, build_network, list_models
from osnet.types import ChannelOrder, Interpolation
from osnet.weights.card import LICENCE_UNKNOWN, LICENCE_ZOO
from osnet.weights.checkpoint import convert as convert_weights
from osnet.weights.hub import PUBLISHED, REPOSITORY
from osnet.weights.open_model_zoo import INTEL, INTEL_WEIGHTS, LICENCE


@app.command
def models(
    pattern: Annotated[str, Positional, tyro.conf.arg(metavar="PATTERN")] = "*",
    *,
    size: tuple[int, int] = (256, 128),
    classes: int = 0,
    table_a: bool = False,
    as_json: JsonFlag = False,
) -> None:
    """List networks with their parameters and multiply-adds, counted, beside what was published.

    Args:
        pattern: names to show; * and ? are wildcards.
        size: height and width of the input in pixels.
        classes: outputs of a classifier on top, counted in; 0 for none.
        table_a: print the supplement's Table A instead, recounted at 224 x 224 with 1000 classes.
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
        "Counted from the built network: each parameter once (a shared gate too); one multiply-add per use of a\n"
        "convolution's or dense layer's weight, one more per output with a bias; normalisation, activation, pooling,\n"
        "gating and shuffling nothing. Table A's multiply-adds lie 0.8 to 1.4 % higher: by one operation per\n"
        "BatchNorm output, it seems, and without the classifier. Table 5's pairs are published rank-1 / mAP on\n"
        "Market-1501, trained from scratch."
    )


def _print_table_a(as_json: bool) -> None:
    rows: list[tuple[TableARow, Cost]] = []
    for row in TABLE_A:
        rows.append((row, count_cost(build_network(VARIANTS[row.model].config, "meta"), (224, 224), 1000)))
    if as_json:
        print(json.dumps([{**asdict(row), "counted": asdict(cost)} for row, cost in rows], indent=2))
        return
    print("Table A of the supplement: ImageNet, 224 x 224, 1000 classes; printed beside recounted")
    print(f"{'network':<20}{'params':>8}{'counted':>10}{'mult-adds':>11}{'counted':>10}{'top-1':>7}  model")
    for row, cost in rows:
        top1 = "-" if row.top1 is None else f"{row.top1:.1f}"
        print(
            f"{row.label:<20}{row.params:>8}{f'{cost.params / 1e6:.3f}M':>10}{row.madds or '-':>11}"
            f"{f'{cost.madds / 1e6:.1f}M':>10}{top1:>7}  {row.model}"
        )
    print("top-1: published, per cent, single centre crop; none of it has been run here. Differences:")
    for row, _ in rows:
        if row.difference:
            print(textwrap.fill(f"{row.label}: {row.difference}", 110, initial_indent="  ", subsequent_indent="      "))
    print(
        "The others' printed multiply-adds are of convolutions and dense layers alone, as are all counts here; those\n"
        "of OSNet are 0.8 to 1.4 % higher, so beside the others it is a little cheaper than the table says."
    )


@app.command
def weights(*, as_json: JsonFlag = False) -> None:
    """List the published weights that can be named instead of a path.

    Args:
        as_json: print JSON.
    """
    if as_json:
        known = {"dataset": INTEL, "licence": LICENCE, "certainty": "sha256 known"}
        intel = [{**asdict(w), **known, "short_name": w.short_name, **_count(w.model)} for w in INTEL_WEIGHTS]
        print(json.dumps([*intel, *(asdict(w) | {"certainty": w.certainty} for w in PUBLISHED.values())], indent=2))
        return
    _print_intel()
    print(f"{'name':<36}{'certainty':<14}file")
    for w in PUBLISHED.values():
        print(f"{f'{w.model}_{w.dataset}':<36}{w.certainty:<14}{w.file}")
    print(
        f"From {REPOSITORY} on Hugging Face, unless they lie in the folder $OSNET_WEIGHTS under one of these names\n"
        "(with .pt or .pth). 'sha256 known': a download with another is refused. 'name quoted': the file's name was\n"
        "read in public code. 'never seen': the name follows that of its siblings, and there may be no such file.\n"
        f"Downloads of these two kinds cannot be verified; each use says so.\nLicence: {LICENCE_ZOO}"
    )


def _count(model: str) -> dict[str, int]:
    cost = count_cost(build_network(VARIANTS[model].config, "meta"), (256, 128))
    return {"params": cost.params, "madds": cost.madds}


def _print_intel() -> None:
    """Intel's networks, whose licence and figures are known."""
    heads = {"params": 10, "mult-adds": 11, "x x0.25": 9, "x x1.0": 8, "measured": 13, "said": 13, "MARS": 13}
    print(f"Intel's, from the Open Model Zoo; licence {LICENCE}; what they were trained on is not said")
    print(f"{'name':<37}" + "".join(f"{text:>{width}}" for text, width in heads.items()))
    for w in INTEL_WEIGHTS:
        f, cost = w.figures, _count(w.model)
        print(
            f"{w.name:<37}{cost['params']:>10,}{cost['madds'] / 1e6:>10.1f}M"
            f"{_one(f.speed_x0_25, 2):>9}{_one(f.speed_x1_0, 2):>8}{_pair(f.rank1, f.mean_ap):>13}"
            f"{_pair(f.rank1_published, f.mean_ap_published):>13}{_pair(f.rank1_mars, f.mean_ap_mars):>13}"
        )
        print(f"  {w.short_name}: {VARIANTS[w.model].about}; stored as {w.precision}, SHA-256 known")
    print(
        "x x0.25, x x1.0: images per second of processor time, times those of OSNet x0.25 and x1.0. Then rank-1 /\n"
        "mAP by cosine: on Market-1501, measured here and said by Intel; on single images of 16 people of MARS.\n"
        "'-': not measured. They lie in $OSNET_WEIGHTS, or are downloaded from OpenVINO's public storage.\n"
    )


def _one(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _pair(one: float | None, other: float | None) -> str:
    return "-" if one is None else f"{_one(one)} / {_one(other)}"


@app.command
def card(
    model: Annotated[Path, Positional, tyro.conf.arg(metavar="MODEL")],
    *,
    size: str = "256x128",
    order: ChannelOrder = "rgb",
    scale: float = 255.0,
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
    std: tuple[float, float, float] = (1.0, 1.0, 1.0),
    interpolation: Interpolation = "bilinear",
    images: Path | None = None,
    name: str = "",
    training_data: str = "unknown",
    licence: str = LICENCE_UNKNOWN,
    overwrite: bool = False,
) -> None:
    """Write the card that lets a network of others (.onnx, or .xml with .bin) stand where weights may be named.

    The card lies beside the file, as MODEL.card.json, and says how images are made ready: (pixel / scale - mean) / std,
    with pixels from 0 to 255. Before it is written, the network runs as it says.

    Args:
        model: the file: one input for images, one output of vectors.
        size: height and width of its images in pixels.
        order: of the colours that it expects.
        scale: what pixels are divided by: 255 for fractions, 1 for pixels as they are.
        mean: per channel, after the division, in that order of colours.
        std: per channel.
        interpolation: how crops are resized.
        images: a folder of crops to check it on; by default generated ones.
        name: what to call it; by default the file's name.
        training_data: what it was trained on.
        licence: its terms.
        overwrite: replace a card that is there.
    """
    parts = size.lower().split("x")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise DataError(f"--size {size!r}: give height and width in pixels, such as 256x128")
    preprocessing = scaled((int(parts[0]), int(parts[1])), order, scale, mean, std, interpolation)
    done = write_card(
        model, preprocessing, images, name=name, training_data=training_data, licence=licence, overwrite=overwrite
    )
    least, median, greatest = done.cosines
    print(f"{done.path}: {done.card.name}, vectors of {done.card.architecture.embedding_size}; {done.found}")
    what = "generated images" if images is None else f"images of {images}"
    between = f"cosines between different ones {least:.3f} to {greatest:.3f}, median {median:.3f}"
    print(f"checked on {done.num_images} {what}: {between}")
    print(f"SHA-256 of the file: {done.card.sha256}")


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
        source: a checkpoint folder; a Torchreid or BoxMOT file (.pth, .pt, .pth.tar-60), .ckpt, .safetensors; or
            Intel's .xml, with its .bin beside it.
        target: ending in .pth, .pt or .tar: a file for Torchreid and BoxMOT; anything else: a checkpoint folder.
        architecture: the network's name, where neither the file's name nor its tensors tell.
        overwrite: replace what is at the target.
    """
    card = convert_weights(source, target, architecture=architecture, overwrite=overwrite)
    print(
        f"{target}: {card.name}, trained on {card.training_data}, {card.num_classes} classes, file sha256 {card.sha256}"
    )
    print(f"licence: {card.licence}")
