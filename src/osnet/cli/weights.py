"""osnet weights: list the published weights."""

import json
from dataclasses import asdict

from osnet.cli.common import JsonFlag, app
from osnet.models.counting import count_cost
from osnet.models.registry import VARIANTS, build_network
from osnet.weights.card import LICENCE_ZOO
from osnet.weights.hub import PUBLISHED, REPOSITORY
from osnet.weights.open_model_zoo import INTEL, INTEL_WEIGHTS, LICENCE


@app.command
def weights(*, as_json: JsonFlag = False) -> None:
    """List the published weights that --weights accepts by name.

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
        "Files are read from the folder $OSNET_WEIGHTS if it contains one of these names (with .pt or .pth);\n"
        f"otherwise they are downloaded from {REPOSITORY} on Hugging Face.\n"
        "sha256 known   the digest is known, and a download with another digest is an error\n"
        "name quoted    the file name was found in public code; a download cannot be verified, which a warning says\n"
        "never seen     the file name is a guess from similar ones, so the file may not exist; also not verifiable\n"
        f"Licence: {LICENCE_ZOO}"
    )


def _count(model: str) -> dict[str, int]:
    cost = count_cost(build_network(VARIANTS[model].config, "meta"), (256, 128))
    return {"params": cost.params, "madds": cost.madds}


def _print_intel() -> None:
    """Print Intel's networks, whose licence and scores are known."""
    heads = {"params": 10, "mult-adds": 11, "x x0.25": 9, "x x1.0": 8, "measured": 13, "published": 13, "MARS": 13}
    print(f"Intel's networks from the Open Model Zoo; licence {LICENCE}; the training data are not published")
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
        "x x0.25, x x1.0    images per second of processor time, relative to OSNet x0.25 and x1.0\n"
        "measured           rank-1 / mAP on Market-1501 by cosine distance, measured by us\n"
        "published          the same, published by Intel\n"
        "MARS               rank-1 / mAP on single images of 16 people of MARS, measured by us\n"
        "-                  not measured\n"
        "Files are read from the folder $OSNET_WEIGHTS, or downloaded from OpenVINO's public storage.\n"
    )


def _one(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _pair(one: float | None, other: float | None) -> str:
    return "-" if one is None else f"{_one(one)} / {_one(other)}"
