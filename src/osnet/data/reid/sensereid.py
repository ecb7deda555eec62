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
    """Read SenseReID, which has a query and a gallery but no training images.

    The person numbers in the file names may start at 0, but pid 0 means distractor in this package. Therefore people
    are numbered from 1 in sorted order, consistently in query and gallery.

    Published counts (Torchreid, sensereid.py): 522 people and 1,040 images in the query, 1,717 people and 3,388 images
    in the gallery. The cameras were not published.

    Args:
        root: the folder that contains ``test_probe`` and ``test_gallery``, or its parent that contains ``SenseReID``,
            ``sensereid`` or ``sensereid/SenseReID``.

    Raises:
        DataError: the folders were not found, or a file name does not follow the pattern.
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
    other_files = parts[0].other_files + parts[1].other_files
    splits = (Split("train", ()), Split("query", query), Split("gallery", gallery))
    dataset = ReidDataset("sensereid", folder, *splits, other_files=other_files)
    return Benchmark("sensereid", folder, (dataset,), PUBLISHED, notes=NOTES)
