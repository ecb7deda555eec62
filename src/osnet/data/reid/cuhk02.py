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
NOTES = ("its first pair of cameras shows the people of cuhk01: do not train on one and test on the other",)


def read_cuhk02(root: str | Path) -> Benchmark:
    """Read CUHK02.

    The pairs of cameras P1 to P4 are used for training. The queries are from the first camera of P5, the gallery is
    from the second. The same person number in two pairs means two different people.

    Published counts (Torchreid, cuhk02.py): 971, 306, 107, 193 and 239 people in P1 to P5. This makes 1,577 people for
    training and 239 for the test, 1,816 together, in 10 cameras. The numbers of images were not published.

    Args:
        root: the folder that contains ``P1`` to ``P5``, or a parent of it that contains ``Dataset``, ``cuhk02`` or
            ``cuhk02/Dataset``.

    Raises:
        DataError: the folders were not found, or a file name does not follow the pattern.
    """
    folder = find_layout("cuhk02", root, INNER, PAIRS)
    found: list[tuple[Path, str, int, str]] = []
    other_files: tuple[str, ...] = ()
    cameras = [(pair, camera) for pair in PAIRS for camera in ("cam1", "cam2")]
    for camid, (pair, camera) in enumerate(cameras, start=1):
        named = match_names(folder / pair / camera, FILE_NAME, "001_0001.png")
        found += [(path, f"{pair}/{match[1]}", camid, f"{pair}/{camera}") for path, match in named.matches]
        other_files += named.other_files
    pid_of = number_people(identity for _, identity, _, _ in found)
    crops = as_tuple(Crop(path, pid_of[identity], camid, identity, camera) for path, identity, camid, camera in found)
    parts = {
        "train": [crop for crop in crops if not crop.camera.startswith(TEST_PAIR)],
        "query": [crop for crop in crops if crop.camera == f"{TEST_PAIR}/cam1"],
        "gallery": [crop for crop in crops if crop.camera == f"{TEST_PAIR}/cam2"],
    }
    train, query, gallery = (Split(name, tuple(part)) for name, part in parts.items())
    dataset = ReidDataset("cuhk02", folder, train, query, gallery, other_files=other_files)
    return Benchmark("cuhk02", folder, (dataset,), PUBLISHED, notes=NOTES)
