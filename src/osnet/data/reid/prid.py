"""PRID 2011, single-shot (Hirzer et al., "Person Re-Identification by Descriptive and Discriminative Classification",
SCIA 2011).

prid2011/prid_2011/single_shot/
  cam_a/  person_0001.png    the first 200 numbers are the same people in both cameras;
  cam_b/  person_0001.png    above 200 the same number means two different people
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
"""Numbers up to this one mean the same person in both cameras."""
ONLY_IN_A = 10_000
"""Added to the numbers of those whom only camera A saw, so that nobody in camera B has them."""
_TORCHREID = "Torchreid, prid.py"
PUBLISHED = (
    Published("all", 385 + 749 - NUM_SHARED, 385 + 749, 2, f"{_TORCHREID}: 385 in camera A, 749 in B, 200 in both"),
    Published("train", 100, source=_TORCHREID),
    Published("query", 100, source=_TORCHREID),
    Published("gallery", 649, 649, source="Torchreid, prid.py: 100 people, and those numbered 201 to 749"),
)


def read_prid(root: str | Path, *, seed: int = 0, work_dir: Path | None = None) -> Benchmark:
    """PRID, single-shot: ten times half of the 200 people that both cameras saw; 10 splits.

    Published (Torchreid, prid.py): 385 people in camera A, 749 in camera B, 200 of them in both, so 934 people and
    1,134 images in 2 cameras; 100 train, 100 are queries (camera A), and the gallery is camera B's 649 others: 100
    matches and the people numbered 201 to 749. Camera A's people above 200 are in no split. Which 100 train was not
    published: ours are drawn from ``seed``.

    Args:
        root: the folder that holds ``cam_a``, or one of those around it.
        seed: of the draws.
        work_dir: where the drawn splits are kept; by default beside ``cam_a``.

    Raises:
        DataError: the layout is not there, or one of the first 200 is missing in one camera (they are named).
        OutputError: the splits cannot be kept.
    """
    folder = find_layout("prid", root, INNER, ("cam_a", "cam_b"))
    views: list[tuple[Crop, ...]] = []
    others: tuple[str, ...] = ()
    for camid, camera in ((1, "a"), (2, "b")):
        named = match_names(folder / f"cam_{camera}", FILE_NAME, "person_0001.png")
        views.append(as_tuple(_crop(path, int(match[1]), camid, camera) for path, match in named.matches))
        others += named.other_files
    view_a, view_b = views
    shared = [{crop.pid for crop in view if crop.pid <= NUM_SHARED} for view in views]
    refuse([f"person_{pid:04d}" for pid in sorted(shared[0] ^ shared[1])], f"people of {folder} are in one camera only")

    def draw(rng: np.random.RandomState) -> Iterator[Triple]:
        for _ in range(NUM_DRAWS):
            learnt = draw_half(shared[0], rng)
            train = [crop for crop in (*view_a, *view_b) if crop.pid in learnt]
            query = [crop for crop in view_a if crop.pid in shared[0] - learnt]
            yield train, query, [crop for crop in view_b if crop.pid not in learnt]

    crops = (*view_a, *view_b)
    datasets, kept = drawn_datasets("prid", folder, crops, draw, seed, work_dir, others)
    return Benchmark("prid", folder, datasets, PUBLISHED, crops=crops, splits_file=kept)


def _crop(path: Path, number: int, camid: int, camera: str) -> Crop:
    alone = camera == "a" and number > NUM_SHARED
    identity = f"a{number:04d}" if alone else f"{number:04d}"
    return Crop(path, number + ONLY_IN_A if alone else number, camid, identity, camera)
