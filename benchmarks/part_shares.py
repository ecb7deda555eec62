"""How much of an activation map lies on a person's logo, bag and shirt, against controls (supplement, section A).

    python benchmarks/part_shares.py --weights osnet_x0_25_msmt17 osnet_x0_25_market1501 ... --out OUT.json

The people are generated, so the box of each part is known, and an image can be painted again without its logo or bag.
Only images in which nothing hides the person count. For each network:

- **telling**: can it tell the logo? Of three images from three cameras, two show one person and the third a twin whose
  only difference is the logo. The value is the share of such triples in which the two images of one person are closer
  (cosine). 50 % is chance.
- **share** of the map in the part's box, and the share of three controls in the same box: the map of the same image
  painted without the part (logo, bag), the map of an image of another person in the same view, the mean map of noise.
  Only what is beyond a control is due to the part.

Intervals are 95 %, over people. Each network was trained once, so nothing follows for kinds of networks.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray
from PIL import Image

from osnet import Embedder
from osnet.figures.maps import compute_maps, measure_share
from osnet.metrics.bootstrap import cluster_interval
from osnet.synthetic.generate import GROUP, describe, make_person
from osnet.synthetic.people import Person
from osnet.synthetic.rasterizer import Dice
from osnet.synthetic.scenes import Shot, make_camera, shoot

PARTS = ("logo", "bag", "shirt")
NUM_NOISE, CHUNK = 64, 64


@dataclass(frozen=True)
class Settings:
    """What to measure."""

    weights: tuple[str, ...]
    """Paths or names."""
    out: Path
    groups: int = 64
    """Each has a person and the twin with another logo."""
    cameras: int = 4
    images: int = 2
    """Images of each person from each camera; those with the person partly hidden are left out."""
    seed: int = 20


@dataclass(frozen=True)
class Painted:
    """An image, and how to paint it again."""

    pid: int
    group: int
    camera: int
    number: int
    person: Person
    shot: Shot

    def without(self, part: str, seed: int) -> Shot:
        changed = replace(self.person, logo=0) if part == "logo" else replace(self.person, bag="none")
        return shoot(changed, make_camera(seed, self.camera), Dice(seed, 6, self.pid, self.camera, self.number))


def paint(settings: Settings) -> list[Painted]:
    """All images in which nothing hides the person."""
    found = []
    for group in range(settings.groups):
        for pid in (group * GROUP + 1, group * GROUP + 2):
            person = make_person(settings.seed, pid)
            for camera, number in product(range(1, settings.cameras + 1), range(settings.images)):
                dice = Dice(settings.seed, 6, pid, camera, number)
                shot = shoot(person, make_camera(settings.seed, camera), dice)
                if shot.hidden == 0:
                    found.append(Painted(pid, group, camera, number, person, shot))
    return found


def maps_of(embedder: Embedder, shots: Sequence[Shot]) -> list[NDArray[np.float32]]:
    maps: list[NDArray[np.float32]] = []
    for start in range(0, len(shots), CHUNK):
        images = [Image.fromarray(shot.pixels) for shot in shots[start : start + CHUNK]]
        maps += list(next(iter(compute_maps(embedder, images).values())))
    return maps


def tell_logo(embedder: Embedder, images: Sequence[Painted]) -> dict[str, Any]:
    """Share of triples (image, same person, twin; three cameras) in which the same person is closer."""
    shown = [i for i in images if "UpperLogo" in describe(i.person, i.shot.view)]
    vectors = embedder.embed([Image.fromarray(image.shot.pixels) for image in shown])
    scores = vectors @ vectors.T
    pids, groups, cameras = (np.array([getattr(i, key) for i in shown]) for key in ("pid", "group", "camera"))
    values, owners, triples = [], [], 0
    for q in range(len(shown)):
        other = cameras != cameras[q]
        same = np.flatnonzero(other & (pids == pids[q]))
        twin = np.flatnonzero(other & (groups == groups[q]) & (pids != pids[q]))
        apart = cameras[same][:, None] != cameras[twin][None]
        closer = scores[q, same][:, None] - scores[q, twin][None]
        if apart.any():
            values.append(float(((closer > 0) + (closer == 0) / 2)[apart].mean()))
            owners.append(int(groups[q]))
            triples += int(apart.sum())
    return {"closer": interval(values, owners), "images": len(values), "triples": triples}


def interval(values: Sequence[float], owners: Sequence[int]) -> dict[str, float]:
    found = cluster_interval(np.array(values), np.array(owners))
    return {"mean": found.mean, "low": found.low, "high": found.high}


def measure_part(
    part: str, images: Sequence[Painted], maps: Sequence[NDArray[np.float32]], noise: NDArray[np.float32],
    embedder: Embedder, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Shares of one part, as measured and in the controls."""
    chosen = [i for i, image in enumerate(images) if part in image.shot.parts and is_visible(part, image)]
    rng = np.random.default_rng(0)
    views = np.array([image.shot.view for image in images])
    groups = np.array([image.group for image in images])
    shares: dict[str, list[float]] = {"share": [], "uniform": [], "another person": [], "noise": []}
    size = (images[0].shot.pixels.shape[1], images[0].shot.pixels.shape[0])
    for i in chosen:
        box = images[i].shot.parts[part]
        share, uniform = measure_share(maps[i], box, size)
        other = int(rng.choice(np.flatnonzero((views == views[i]) & (groups != groups[i]))))
        values = (share, uniform, measure_share(maps[other], box, size)[0], measure_share(noise, box, size)[0])
        for name, value in zip(shares, values, strict=True):
            shares[name].append(value)
    if part != "shirt":
        repainted = maps_of(embedder, [images[i].without(part, seed) for i in chosen])
        shares["without the part"] = [
            measure_share(strength, images[i].shot.parts[part], size)[0]
            for i, strength in zip(chosen, repainted, strict=True)
        ]
    owners = [images[i].group for i in chosen]
    controls = [name for name in shares if name not in ("share", "uniform")]
    beyond = {name: interval(np.subtract(shares["share"], shares[name]).tolist(), owners) for name in controls}
    return {
        "images": len(chosen),
        "people": len({images[i].pid for i in chosen}),
        **{name: interval(values, owners) for name, values in shares.items()},
        "beyond": beyond,
    }


def is_visible(part: str, image: Painted) -> bool:
    """A backpack covers the logo on the back."""
    return part != "logo" or "UpperLogo" in describe(image.person, image.shot.view)


def main(settings: Settings) -> None:
    images = paint(settings)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (NUM_NOISE, *images[0].shot.pixels.shape), dtype=np.uint8)
    result: dict[str, Any] = {
        "groups": settings.groups, "images": len(images), "seed": settings.seed, "networks": {}
    }  # fmt: skip
    for name in settings.weights:
        embedder = Embedder(name)
        maps = maps_of(embedder, [image.shot for image in images])
        noise_maps = next(iter(compute_maps(embedder, [Image.fromarray(image) for image in pixels]).values()))
        noise = np.mean([one / one.sum() for one in noise_maps], axis=0)
        found: dict[str, Any] = {"telling": tell_logo(embedder, images), "map": list(maps[0].shape)}
        for part in PARTS:
            found[part] = measure_part(part, images, maps, noise, embedder, settings.seed)
        result["networks"][Path(name).stem] = found
        settings.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        sys.stdout.write(f"{Path(name).stem}: {json.dumps(found['telling'])}\n")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
