"""SenseReID (Zhao et al., "Spindle Net: Person Re-identification with Human Body Region Guided Feature Decomposition
and Fusion", CVPR 2017).

sensereid/SenseReID/
  test_probe/    00001_0.jpg    person 1, camera 0
  test_gallery/  00001_1.jpg
"""

import re
from pathlib import Path

from osnet.data.reid.benchmark import Benchmark, Published
from osnet.data.reid.layout import find_layout, match_names, number_people
from osnet.types import Crop, ReidDataset, Split, as_tuple

LAYOUT = "sensereid/SenseReID/{test_probe,test_gallery}/00001_0.jpg"
INNER = ("SenseReID", "sensereid/SenseReID", "sensereid")
FILE_NAME = re.compile(r"(\d+)_(\d+)\.\w+")
_TORCHREID = "Torchreid, sensereid.py"
PUBLISHED = (
    Published("query", 522, 1040, source=_TORCHREID),
    Published("gallery", 1717, 3388, source=_TORCHREID),
)
NOTES = ("for testing only: it has no training images",)


def read_sensereid(root: str | Path) -> Benchmark:
    """SenseReID: a test without training images.

    Published (Torchreid, sensereid.py): query 522 people and 1,040 images, gallery 1,717 people and 3,388 images.
    Cameras: not published. Numbers in the names may begin at 0, which means nobody elsewhere, so people are numbered
    from 1 in sorted order, the same in query and gallery.

    Args:
        root: the folder that holds ``test_probe``, or one of those around it.

    Raises:
        DataError: the layout is not there, or images that are not named like it.
    """
    folder = find_layout("sensereid", root, INNER, ("test_probe", "test_gallery"))
    parts = [match_names(folder / part, FILE_NAME, "00001_0.jpg") for part in ("test_probe", "test_gallery")]
    pid_of = number_people(f"{int(match[1]):09d}" for part in parts for _, match in part.matches)
    query, gallery = (
        as_tuple(
            Crop(path, pid_of[f"{int(match[1]):09d}"], int(match[2]), match[1], match[2])
            for path, match in part.matches
        )
        for part in parts
    )
    others = parts[0].other_files + parts[1].other_files
    splits = (Split("train", ()), Split("query", query), Split("gallery", gallery))
    dataset = ReidDataset("sensereid", folder, *splits, other_files=others)
    return Benchmark("sensereid", folder, (dataset,), PUBLISHED, notes=NOTES)
