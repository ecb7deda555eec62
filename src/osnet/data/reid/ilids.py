"""i-LIDS, as cut out by Zheng et al. ("Associating Groups of People", BMVC 2009).

ilids/i-LIDS_Pedestrian/Persons/
  0001001.jpg    person 1, image 1
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from osnet.data.reid.benchmark import Benchmark, Published
from osnet.data.reid.layout import find_folder, match_names, number_people, refuse
from osnet.data.reid.random_splits import NUM_DRAWS, Triple, draw_half, drawn_datasets
from osnet.types import Crop

LAYOUT = "ilids/i-LIDS_Pedestrian/Persons/0001001.jpg"
INNER = ("i-LIDS_Pedestrian", "ilids/i-LIDS_Pedestrian", "ilids")
FILE_NAME = re.compile(r"(\d{4})(\d{3})\.\w+")
_TORCHREID = "Torchreid, ilids.py"
PUBLISHED = (
    Published("all", 119, 476, None, _TORCHREID),
    Published("train", 59, source=_TORCHREID),
    Published("query", 60, 60, source=_TORCHREID),
    Published("gallery", 60, 60, source=_TORCHREID),
)
NOTES = (
    "the names do not say which camera took an image, so every image counts as taken by a camera of its own; "
    "Torchreid, which speaks of 8 cameras that are not given, takes the image's number for one, to the same effect",
)


def read_ilids(root: str | Path, *, seed: int = 0, work_dir: Path | None = None) -> Benchmark:
    """i-LIDS: ten times half of the people (rounded down); of each of the others one query and one gallery image.

    Published (Torchreid, ilids.py): 119 people, 476 images; 59 people train, 60 are searched for with 60 queries
    among 60 gallery images. Cameras: not published per image. Which people and images: not published; ours are drawn
    from ``seed``.

    Args:
        root: the folder that holds ``Persons``, or one of those around it, or ``Persons`` itself.
        seed: of the draws.
        work_dir: where the drawn splits are kept; by default beside ``Persons``.

    Raises:
        DataError: the layout is not there, or someone has one image only (they are named).
        OutputError: the splits cannot be kept.
    """
    folder = find_folder("ilids", root, INNER, "Persons")
    named = match_names(folder / "Persons", FILE_NAME, "0001001.jpg")
    pid_of = number_people(match[1] for _, match in named.matches)
    crops = tuple(
        Crop(path, pid_of[match[1]], -place, match[1]) for place, (path, match) in enumerate(named.matches, start=1)
    )
    images = {pid: [crop for crop in crops if crop.pid == pid] for pid in pid_of.values()}
    refuse([crops[0].identity for crops in images.values() if len(crops) < 2], f"people of {folder} have one image")

    def draw(rng: np.random.RandomState) -> Iterator[Triple]:
        for _ in range(NUM_DRAWS):
            learnt = draw_half(images, rng)
            tested = sorted(set(images) - learnt)
            pairs = [[images[pid][i] for i in rng.permutation(len(images[pid]))[:2]] for pid in tested]
            yield [crop for crop in crops if crop.pid in learnt], [q for q, _ in pairs], [g for _, g in pairs]

    datasets, kept = drawn_datasets("ilids", folder, crops, draw, seed, work_dir, named.other_files)
    return Benchmark("ilids", folder, datasets, PUBLISHED, notes=NOTES, crops=crops, splits_file=kept)
