"""DukeMTMC-reID (Ristani et al., ECCVW 2016; Zheng et al., ICCV 2017), in Market-1501's layout. Withdrawn.

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
    "withdrawn by its owners: it can be read where a copy is at hand, but think twice before you use it or "
    "report on it",
)


def read_dukemtmcreid(root: str | Path) -> Benchmark:
    """DukeMTMC-reID. Its owners withdrew it; a copy that is at hand can be read, and the notes say so.

    Published (Torchreid, dukemtmcreid.py): 16,522 training images, 2,228 queries, 17,661 gallery images, 1,404 people
    in training and query together, 702 in each, 8 cameras. People in the gallery: not published there.

    Args:
        root: the folder that holds ``query``, or one of those around it.

    Raises:
        DataError: the layout is not there, or images that are not named like it.
    """
    folder = find_market1501(root, INNER)
    if folder is None:
        looked_at = ", ".join(str(Path(root) / place) for place in INNER)
        raise DataError(
            f"dukemtmcreid is not here: none of these folders holds query and bounding_box_test: {looked_at}"
        )
    dataset = replace(read_market_folder(folder), name="dukemtmcreid")
    return Benchmark("dukemtmcreid", folder, (dataset,), PUBLISHED, notes=NOTES)
