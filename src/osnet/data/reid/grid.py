"""GRID, QMUL underground re-identification (Loy et al., "Multi-camera activity correlation analysis", CVPR 2009).

grid/underground_reid/
  probe/    0001_1_25004_107_32_106_221.jpeg    person 1, camera 1
  gallery/  0000_5_...jpeg                      person 0: one of the 775 distractor images
  features_and_partitions.mat                   trainIdxAll: the ten partitions
"""

import re
from pathlib import Path

import numpy as np

from osnet.data.reid.benchmark import Benchmark, Published, SplitName
from osnet.data.reid.layout import SHOWN, find_layout, match_names, read_matlab5
from osnet.errors import DataError
from osnet.types import DISTRACTOR_PID, Crop, ReidDataset, Split, as_tuple

LAYOUT = "grid/underground_reid/{probe,gallery}/0001_1_25004_107_32_106_221.jpeg and features_and_partitions.mat"
INNER = ("underground_reid", "grid/underground_reid", "grid")
PARTITIONS = "features_and_partitions.mat"
FILE_NAME = re.compile(r"(\d+)_(\d+)_.*\.\w+")
_TORCHREID = "Torchreid, grid.py"
PUBLISHED = (
    Published("all", 250, 1275, 8, _TORCHREID),
    Published("train", 125, source=_TORCHREID),
    Published("query", 125, source=_TORCHREID),
    Published("gallery", None, 900, source=_TORCHREID),
)


def read_grid(root: str | Path) -> Benchmark:
    """Read GRID with its ten partitions, which become ten splits. The images in ``probe`` are the queries.

    Published counts (Torchreid, grid.py): 250 people, 1,275 images, 8 cameras. Each partition uses 125 people for
    training and the other 125 as queries. The gallery has 900 images; 775 of them are distractors (person 0), which are
    in every gallery and never in training. Torchreid reports 900 as ``num_gallery_pids`` too, but that number counts
    images. So no number of people is published for the gallery.

    Args:
        root: the folder that contains ``probe``, ``gallery`` and ``features_and_partitions.mat``, or a folder above it,
            in which it lies as ``underground_reid``, ``grid`` or ``grid/underground_reid``.

    Raises:
        DataError: the folders were not found, a file name does not follow the pattern, a probe image has person 0, or
            a partition is damaged, has people without a probe image, or leaves no people for training or the test.
        MissingExtraError: SciPy is not installed.
    """
    folder = find_layout("grid", root, INNER, ("probe", "gallery", PARTITIONS))
    found: dict[str, tuple[Crop, ...]] = {}
    other_files: tuple[str, ...] = ()
    for part in ("probe", "gallery"):
        named = match_names(folder / part, FILE_NAME, "0001_1_25004_107_32_106_221.jpeg")
        numbers = [(path, int(match[1]), int(match[2])) for path, match in named.matches]
        found[part] = as_tuple(Crop(path, pid, camid, str(pid), str(camid)) for path, pid, camid in numbers)
        other_files += named.other_files
    probe, gallery = found["probe"], found["gallery"]
    if distractors := [crop.path.name for crop in probe if crop.pid == DISTRACTOR_PID]:
        raise DataError(
            f"{folder / 'probe'}: person 0 is reserved for distractors and cannot be a query: "
            f"{', '.join(distractors[:SHOWN])}"
        )
    people = {crop.pid for crop in probe}
    datasets = []
    for number, train_pids in enumerate(_read_partitions(folder / PARTITIONS, people)):
        train = [crop for crop in (*probe, *gallery) if crop.pid in train_pids]
        queries = [crop for crop in probe if crop.pid not in train_pids]
        rest = [crop for crop in gallery if crop.pid not in train_pids]
        splits = (Split("train", as_tuple(train)), Split("query", tuple(queries)), Split("gallery", tuple(rest)))
        datasets.append(ReidDataset(str(SplitName("grid", 0, number)), folder, *splits, other_files=other_files))
    return Benchmark("grid", folder, tuple(datasets), PUBLISHED, crops=(*probe, *gallery))


def _read_partitions(path: Path, people: set[int]) -> list[set[int]]:
    """The training identities of each partition, from the third field of each cell of ``trainIdxAll``."""
    variables = read_matlab5(path)
    if "trainIdxAll" not in variables:
        names = sorted(name for name in variables if name[0] != "_")
        raise DataError(f"{path} has no variable trainIdxAll; it has {', '.join(names)}")
    partitions = []
    for number, cell in enumerate(np.asarray(variables["trainIdxAll"]).ravel()):
        try:
            indices = {int(index) for index in np.asarray(np.asarray(cell).ravel()[0][2]).ravel()}
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise DataError(
                f"{path}: the third field of partition {number} (from 0) is not a list of identities"
            ) from error
        if unknown := sorted(indices - people):
            raise DataError(
                f"{path}: partition {number} (from 0) trains on identities without a probe image: {unknown[:SHOWN]}"
            )
        if not indices or indices == people:
            purpose = "training" if not indices else "the test"
            raise DataError(f"{path}: partition {number} (from 0) has no identities for {purpose}")
        partitions.append(indices)
    if not partitions:
        raise DataError(f"{path}: trainIdxAll has no partitions")
    return partitions
