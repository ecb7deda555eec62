"""CUHK02 (Li and Wang, "Locally Aligned Feature Transforms across Views", CVPR 2013).

cuhk02/Dataset/
  P1/ ... P5/    pairs of cameras
    cam1/  001_0001.png    person 001 of this pair
    cam2/
"""

import re
from pathlib import Path

from osnet.data.reid.benchmark import Benchmark, Published
from osnet.data.reid.layout import find_layout, match_names, number_people
from osnet.types import Crop, ReidDataset, Split, as_tuple

LAYOUT = "cuhk02/Dataset/{P1..P5}/{cam1,cam2}/001_0001.png"
INNER = ("Dataset", "cuhk02/Dataset", "cuhk02")
PAIRS = ("P1", "P2", "P3", "P4", "P5")
TEST_PAIR = "P5"
FILE_NAME = re.compile(r"([^_]+)_.*\.\w+")
_TORCHREID = "Torchreid, cuhk02.py"
PUBLISHED = (
    Published("train+query+gallery", 1816, None, 10, f"{_TORCHREID}: five pairs of cameras"),
    Published("train", 971 + 306 + 107 + 193, source=f"{_TORCHREID}: P1 to P4, 971 + 306 + 107 + 193"),
    Published("query", 239, source=f"{_TORCHREID}: P5"),
    Published("gallery", 239, source=f"{_TORCHREID}: P5"),
)
NOTES = ("its first pair of cameras holds the people of cuhk01: do not train on the one and test on the other",)


def read_cuhk02(root: str | Path) -> Benchmark:
    """CUHK02: train on the pairs of cameras P1 to P4, search P5's first camera in its second.

    Published (Torchreid, cuhk02.py): 971, 306, 107, 193 and 239 people in P1 to P5, so 1,577 train and 239 test, 1,816
    together, in 10 cameras. Images: not published. The same name in two pairs means two people.

    Args:
        root: the folder that holds ``P1`` to ``P5``, or one of those around it.

    Raises:
        DataError: the layout is not there, or images that are not named like it.
    """
    folder = find_layout("cuhk02", root, INNER, PAIRS)
    found: list[tuple[Path, str, int, str]] = []
    others: tuple[str, ...] = ()
    cameras = [(pair, camera) for pair in PAIRS for camera in ("cam1", "cam2")]
    for camid, (pair, camera) in enumerate(cameras, start=1):
        named = match_names(folder / pair / camera, FILE_NAME, "001_0001.png")
        found += [(path, f"{pair}/{match[1]}", camid, f"{pair}/{camera}") for path, match in named.matches]
        others += named.other_files
    pid_of = number_people(identity for _, identity, _, _ in found)
    crops = as_tuple(Crop(path, pid_of[identity], camid, identity, camera) for path, identity, camid, camera in found)
    parts = {
        "train": [crop for crop in crops if not crop.camera.startswith(TEST_PAIR)],
        "query": [crop for crop in crops if crop.camera == f"{TEST_PAIR}/cam1"],
        "gallery": [crop for crop in crops if crop.camera == f"{TEST_PAIR}/cam2"],
    }
    train, query, gallery = (Split(name, tuple(part)) for name, part in parts.items())
    dataset = ReidDataset("cuhk02", folder, train, query, gallery, other_files=others)
    return Benchmark("cuhk02", folder, (dataset,), PUBLISHED, notes=NOTES)
