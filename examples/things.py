"""Train on photographs of things instead of people, and search for them: every step is an `osnet` command.

    python examples/things.py PHOTOS --out OUT

PHOTOS is a folder of photographs, with any sub-folders; each shows a different thing. Two simulated cameras take views
of each photograph, with different windows, scales, light and colour. A small network trains on half of the things. The
other half, which the network has never seen, is searched. OUT then contains:

    OUT/views      the views, in Market-1501's layout: 0001_c1s1_000000_00.jpg is thing 1 seen by camera 1
    OUT/run        the training run
    OUT/gallery    the views of camera 2 of things that were not trained on
    OUT/hits.png   the best matches of one query, a view of camera 1
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance
from tyro.conf import Positional

from osnet.cli import main as osnet
from osnet.data.loading import list_images, read_image

SIZE = 64
VIEWS = 3
"""Views of each thing per camera."""


@dataclass(frozen=True)
class Settings:
    """Arguments of the command line."""

    photos: Positional[Path]
    out: Path
    things: int = 200
    """Maximum number of things to use."""
    epochs: int = 40


def take_view(photo: Image.Image, camera: int, rng: np.random.Generator) -> Image.Image:
    """A window of the photograph: camera 1 is bright and near, camera 2 dark, yellowish and farther away."""
    share = rng.uniform(0.55, 0.8) if camera == 1 else rng.uniform(0.75, 1.0)
    width, height = (round(share * side) for side in photo.size)
    left, top = rng.integers(0, photo.width - width + 1), rng.integers(0, photo.height - height + 1)
    view = photo.crop((left, top, left + width, top + height)).resize((SIZE, SIZE))
    light = rng.uniform(1.0, 1.3) if camera == 1 else rng.uniform(0.5, 0.8)
    view = ImageEnhance.Brightness(view).enhance(light)
    if camera == 2:
        view = Image.fromarray((np.asarray(view) * np.array([1.0, 0.95, 0.75])).astype(np.uint8))
    return view


def make_views(photos: list[Path], root: Path) -> None:
    """Train on the first half; in the second, camera 1's first view of each thing is a query, the rest the gallery."""
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for thing, path in enumerate(photos, start=1):
        rng, photo = np.random.default_rng(thing), read_image(path)
        for camera in (1, 2):
            for number in range(VIEWS):
                query = camera == 1 and number == 0
                test_folder = "query" if query else "bounding_box_test"
                folder = "bounding_box_train" if 2 * thing <= len(photos) else test_folder
                name = f"{thing:04d}_c{camera}s1_{number:06d}_00.jpg"
                take_view(photo, camera, rng).save(root / folder / name, quality=90)


def run(settings: Settings) -> None:
    """Print and run every command."""
    out = settings.out
    photos = [path for path, _ in zip(list_images(settings.photos), range(settings.things), strict=False)]
    make_views(photos, out / "views")
    train = ["train", "market1501-osnet-x0-25-scratch", "--data", out / "views", "--out", out / "run"]
    train += ["--size-hw", SIZE, SIZE, "--epochs", settings.epochs, "--batch-size", 32]
    weights = out / "run" / "weights"
    gallery, photo = out / "gallery", min((out / "views" / "query").iterdir())
    commands: list[list[object]] = [
        ["data", "check", out / "views"],
        train,
        ["evaluate", "--weights", weights, "--data", out / "views", "--out", out / "scores.json"],
        ["calibrate", "--weights", weights, "--data", out / "views", "--fpr", 0.01, "--out", out / "threshold.json"],
        ["index", out / "views" / "bounding_box_test", "--out", gallery, "--weights", weights],
        ["search", gallery, photo, "--camera", "2", "--top", 5, "--sheet", out / "hits.png"],
    ]
    for command in commands:
        words = [str(word) for word in command]
        print("\n$ osnet", *words, flush=True)
        try:
            osnet(words)
        except SystemExit as stop:
            if stop.code not in (None, 0, 1):  # `data check` exits with 1 if it finds a fault
                raise
    print("\n", json.dumps({"things": len(photos), "views": len(photos) * 2 * VIEWS}))


if __name__ == "__main__":
    import tyro

    run(tyro.cli(Settings, description=__doc__, args=sys.argv[1:]))
