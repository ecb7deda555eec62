"""PRID 2011, single-shot (Hirzer et al., "Person Re-Identification by Descriptive and Discriminative Classification",
SCIA 2011).

prid2011/prid_2011/single_shot/
  cam_a/  person_0001.png    numbers 1 to 200: the same person in both cameras
  cam_b/  person_0201.png    numbers above 200: a different person in each camera
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from osnet.data.reid.benchmark import Benchmark, Published
from osnet.data.reid.layout import find_layout, match_names, refuse
from osnet.data.reid.random_splits import NUM_DRAWS, Triple, draw_half, drawn_datasets
from osnet.types import Crop, as_tuple

LAYOUT = "prid2011/prid_2011/single_shot/{cam_a,cam_b}/person_0001.png"
INNER = (
    "single_shot",
    "prid_2011/single_shot",
    "prid2011/prid_2011/single_shot",
    "prid2011/single_shot",
    "prid2011",
)
FILE_NAME = re.compile(r"person_(\d{4})\.\w+")
NUM_SHARED = 200
"""Person numbers up to this one mean the same person in both cameras."""
ONLY_IN_A = 10_000
"""Offset for people who are only in camera A, so that their pids differ from those of people in camera B."""
_TORCHREID = "Torchreid, prid.py"
PUBLISHED = (
    Published("all", 385 + 749 - NUM_SHARED, 385 + 749, 2, f"{_TORCHREID}: 385 in camera A, 749 in B, 200 in both"),
    Published("train", 100, source=_TORCHREID),
    Published("query", 100, source=_TORCHREID),
    Published("gallery", 649, 649, source="Torchreid, prid.py: 100 people, and those numbered 201 to 749"),
)


def read_prid(root: str | Path, *, seed: int = 0, work_dir: Path | None = None) -> Benchmark:
    """Read PRID 2011, single-shot, with ten random splits.

    In each split, half of the 200 people who are in both cameras are used for training. The other 100 are the queries,
    from camera A. The gallery is all of camera B except the training people: 100 matches and the people 201 to 749. The
    people above 200 in camera A are in no split.

    Published counts (Torchreid, prid.py): 385 people in camera A, 749 in camera B and 200 in both, which makes 934
    people and 1,134 images in 2 cameras; 100 people for training, 100 queries, 649 gallery images. The splits were not
    published; they are drawn from ``seed``.

    Args:
        root: the folder that contains ``cam_a`` and ``cam_b``, or a parent of it (see ``INNER``).
        seed: seed of the random splits, 0 to 2**32 - 1.
        work_dir: folder of the splits file; default: the folder that contains ``cam_a``.

    Raises:
        DataError: the folders were not found, a file name does not follow the pattern, one of the first 200 people is
            in one camera only (the message lists them), the seed is out of range, or the splits file is damaged or
            belongs to other images.
        OutputError: the splits file cannot be written.
    """
    folder = find_layout("prid", root, INNER, ("cam_a", "cam_b"))
    views: list[tuple[Crop, ...]] = []
    other_files: tuple[str, ...] = ()
    for camid, camera in ((1, "a"), (2, "b")):
        named = match_names(folder / f"cam_{camera}", FILE_NAME, "person_0001.png")
        views.append(as_tuple(_crop(path, int(match[1]), camid, camera) for path, match in named.matches))
        other_files += named.other_files
    view_a, view_b = views
    shared = [{crop.pid for crop in view if crop.pid <= NUM_SHARED} for view in views]
    refuse([f"person_{pid:04d}" for pid in sorted(shared[0] ^ shared[1])], f"people in {folder} are in one camera only")

    def draw(rng: np.random.RandomState) -> Iterator[Triple]:
        for _ in range(NUM_DRAWS):
            train_pids = draw_half(shared[0], rng)
            train = [crop for crop in (*view_a, *view_b) if crop.pid in train_pids]
            query = [crop for crop in view_a if crop.pid in shared[0] - train_pids]
            yield train, query, [crop for crop in view_b if crop.pid not in train_pids]

    crops = (*view_a, *view_b)
    datasets, kept = drawn_datasets("prid", folder, crops, draw, seed, work_dir, other_files)
    return Benchmark("prid", folder, datasets, PUBLISHED, crops=crops, splits_file=kept)


def _crop(path: Path, number: int, camid: int, camera: str) -> Crop:
    only_in_a = camera == "a" and number > NUM_SHARED
    identity = f"a{number:04d}" if only_in_a else f"{number:04d}"
    return Crop(path, number + ONLY_IN_A if only_in_a else number, camid, identity, camera)
