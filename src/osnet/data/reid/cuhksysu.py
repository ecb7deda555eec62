"""CUHK-SYSU (Xiao et al., "End-to-End Deep Learning for Person Search", arXiv:1604.01850), as crops.

cuhksysu/cropped_images/
  p11422_s16929_1.jpg    person p11422 in scene s16929
"""

import re
from pathlib import Path

from osnet.data.reid.benchmark import Benchmark, Published
from osnet.data.reid.layout import find_folder, match_names, number_people
from osnet.types import Crop, ReidDataset, Split

LAYOUT = "cuhksysu/cropped_images/p11422_s16929_1.jpg"
INNER = ("cuhksysu",)
FILE_NAME = re.compile(r"(p\d+)_s\d+_\d+\.\w+")
PUBLISHED = (Published("train", 11_934, 34_574, None, "Torchreid, cuhksysu.py"),)
NOTES = ("for training only: the file names contain no camera, so every image gets its own camera number",)


def read_cuhksysu(root: str | Path) -> Benchmark:
    """Read the crops of CUHK-SYSU. All of them are for training; there is no test.

    Published counts (Torchreid, cuhksysu.py): 11,934 people, 34,574 images. The cameras were not published and are not
    in the file names.

    Args:
        root: the folder that contains ``cropped_images``, its parent, or ``cropped_images`` itself.

    Raises:
        DataError: the folder was not found, or a file name does not follow the pattern.
    """
    folder = find_folder("cuhksysu", root, INNER, "cropped_images")
    named = match_names(folder / "cropped_images", FILE_NAME, "p11422_s16929_1.jpg")
    pid_of = number_people(match[1] for _, match in named.matches)
    crops = tuple(
        Crop(path, pid_of[match[1]], -place, match[1]) for place, (path, match) in enumerate(named.matches, start=1)
    )
    dataset = ReidDataset("cuhksysu", folder, Split("train", crops), other_files=named.other_files)
    return Benchmark("cuhksysu", folder, (dataset,), PUBLISHED, notes=NOTES)
