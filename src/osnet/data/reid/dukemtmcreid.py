"""DukeMTMC-reID (Ristani et al., ECCVW 2016; Zheng et al., ICCV 2017), in Market-1501's layout.

The owners withdrew this data set.

dukemtmc-reid/DukeMTMC-reID/
  bounding_box_train/  0001_c2_f0046182.jpg    person 1, camera 2
  bounding_box_test/  query/
"""

from dataclasses import replace
from pathlib import Path

from osnet.data.reid.benchmark import Benchmark, Published
from osnet.data.reid.market1501 import find_market1501, read_market_folder
from osnet.errors import DataError

LAYOUT = "dukemtmc-reid/DukeMTMC-reID/{bounding_box_train,query,bounding_box_test}/0001_c2_f0046182.jpg"
INNER = ("", "DukeMTMC-reID", "dukemtmc-reid/DukeMTMC-reID", "dukemtmc-reid")
_TORCHREID = "Torchreid, dukemtmcreid.py"
PUBLISHED = (
    Published("train", 702, 16_522, None, f"{_TORCHREID}; 702 is half of its 1,404"),
    Published("query", 702, 2228, None, f"{_TORCHREID}; 702 is half of its 1,404"),
    Published("gallery", None, 17_661, None, _TORCHREID),
    Published("train+query", 1404, source=_TORCHREID),
    Published("train+query+gallery", cameras=8, source=_TORCHREID),
)
NOTES = (
    "withdrawn by its owners: an existing copy can be read, but think twice before you use it or publish results on it",
)


def read_dukemtmcreid(root: str | Path) -> Benchmark:
    """Read an existing copy of DukeMTMC-reID. Its owners withdrew it; the benchmark's notes say this.

    Published counts (Torchreid, dukemtmcreid.py): 16,522 training images, 2,228 queries, 17,661 gallery images, 8
    cameras, and 702 people each in training and in the queries, 1,404 together. The number of people in the gallery is
    not published there.

    Args:
        root: the folder that contains ``query`` and ``bounding_box_test``, or its parent that contains
            ``DukeMTMC-reID``, ``dukemtmc-reid`` or ``dukemtmc-reid/DukeMTMC-reID``.

    Raises:
        DataError: the folders were not found, or a file name does not follow the pattern.
    """
    folder = find_market1501(root, INNER)
    if folder is None:
        looked_at = ", ".join(str(Path(root) / place) for place in INNER)
        raise DataError(
            f"dukemtmcreid was not found: none of these folders contains query and bounding_box_test: {looked_at}"
        )
    dataset = replace(read_market_folder(folder), name="dukemtmcreid")
    return Benchmark("dukemtmcreid", folder, (dataset,), PUBLISHED, notes=NOTES)
