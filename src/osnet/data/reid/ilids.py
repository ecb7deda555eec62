"""i-LIDS, crops by Zheng et al. ("Associating Groups of People", BMVC 2009).

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
    "the file names contain no camera, so every image gets its own camera number; Torchreid states 8 cameras but uses "
    "the image number as the camera, which has the same effect",
)


def read_ilids(root: str | Path, *, seed: int = 0, work_dir: Path | None = None) -> Benchmark:
    """Read i-LIDS with ten random splits.

    In each split, half of the people (rounded down) are used for training. Each of the others has one random query and
    one random gallery image.

    Published counts (Torchreid, ilids.py): 119 people, 476 images; 59 people for training and 60 for the test, with 60
    queries and 60 gallery images. The camera of each image and the splits were not published; the splits are drawn
    from ``seed``.

    Args:
        root: the folder that contains ``Persons``, a parent that contains ``i-LIDS_Pedestrian``, ``ilids`` or
            ``ilids/i-LIDS_Pedestrian``, or ``Persons`` itself.
        seed: seed of the random splits, 0 to 2**32 - 1.
        work_dir: folder of the splits file; default: the folder that contains ``Persons``.

    Raises:
        DataError: the folder was not found, a file name does not follow the pattern, a person has only one image (the
            message lists them), the seed is out of range, or the splits file is damaged or belongs to other images.
        OutputError: the splits file cannot be written.
    """
    folder = find_folder("ilids", root, INNER, "Persons")
    named = match_names(folder / "Persons", FILE_NAME, "0001001.jpg")
    pid_of = number_people(match[1] for _, match in named.matches)
    crops = tuple(
        Crop(path, pid_of[match[1]], -place, match[1]) for place, (path, match) in enumerate(named.matches, start=1)
    )
    images = {pid: [crop for crop in crops if crop.pid == pid] for pid in pid_of.values()}
    refuse(
        [crops[0].identity for crops in images.values() if len(crops) < 2], f"people in {folder} have only one image"
    )

    def draw(rng: np.random.RandomState) -> Iterator[Triple]:
        for _ in range(NUM_DRAWS):
            train_pids = draw_half(images, rng)
            test_pids = sorted(set(images) - train_pids)
            pairs = [[images[pid][i] for i in rng.permutation(len(images[pid]))[:2]] for pid in test_pids]
            yield [crop for crop in crops if crop.pid in train_pids], [q for q, _ in pairs], [g for _, g in pairs]

    datasets, kept = drawn_datasets("ilids", folder, crops, draw, seed, work_dir, named.other_files)
    return Benchmark("ilids", folder, datasets, PUBLISHED, notes=NOTES, crops=crops, splits_file=kept)
