"""VIPeR (Gray et al., "Evaluating appearance models for recognition, reacquisition, and tracking", PETS 2007).

viper/VIPeR/
  cam_a/  000_45.bmp    person 000 at 45 degrees
  cam_b/  000_90.bmp
"""

import re
from pathlib import Path

from osnet.data.reid.benchmark import Benchmark, Published
from osnet.data.reid.layout import find_layout, match_names, number_people, refuse
from osnet.data.reid.random_splits import draw_halves, drawn_datasets
from osnet.types import Crop, as_tuple

LAYOUT = "viper/VIPeR/{cam_a,cam_b}/000_45.bmp"
INNER = ("VIPeR", "viper/VIPeR", "viper")
FILE_NAME = re.compile(r"(\d+)_(-?\d+)\.\w+")
_TORCHREID = "Torchreid, viper.py"
PUBLISHED = (
    Published("all", 632, 1264, 2, _TORCHREID),
    Published("train", 316, source="Torchreid, docs/evaluation.rst"),
    Published("query", 316, source="Torchreid, docs/evaluation.rst"),
    Published("gallery", 316, source="Torchreid, docs/evaluation.rst"),
)


def read_viper(root: str | Path, *, seed: int = 0, work_dir: Path | None = None) -> Benchmark:
    """Read VIPeR with its 20 splits: ten random halves of the people, each with two search directions.

    In split 2k, the queries are from camera A and the gallery is from camera B. In split 2k + 1, the cameras are
    swapped. Both splits use the same people for training.

    Published counts: 632 people, 1,264 images, 2 cameras (Torchreid, viper.py); 316 people in each half (Torchreid,
    docs/evaluation.rst). The halves were not published; they are drawn from ``seed``.

    Args:
        root: the folder that contains ``cam_a`` and ``cam_b``, or a folder above it, in which it lies as ``VIPeR``,
            ``viper`` or ``viper/VIPeR``.
        seed: seed of the random splits, 0 to 2**32 - 1.
        work_dir: folder of the splits file, a JSON file that the first call writes and later calls read; default: the
            folder that contains ``cam_a``.

    Raises:
        DataError: the folders were not found, a file name does not follow the pattern, a person has images in one
            camera only (the message lists them), the seed is out of range, or the splits file is damaged or belongs
            to other images.
        OutputError: the splits file cannot be written.
    """
    folder = find_layout("viper", root, INNER, ("cam_a", "cam_b"))
    found: list[tuple[Path, str, int]] = []
    other_files: tuple[str, ...] = ()
    for camid, camera in enumerate(("cam_a", "cam_b"), start=1):
        named = match_names(folder / camera, FILE_NAME, "000_45.bmp")
        found += [(path, match[1], camid) for path, match in named.matches]
        other_files += named.other_files
    in_a, in_b = ([name for _, name, camid in found if camid == wanted] for wanted in (1, 2))
    refuse(sorted(set(in_a) ^ set(in_b)), f"people in {folder} are in one camera only")
    pid_of = number_people(in_a)
    crops = as_tuple(Crop(path, pid_of[name], camid, name, "ab"[camid - 1]) for path, name, camid in found)
    datasets, kept = drawn_datasets("viper", folder, crops, draw_halves(crops), seed, work_dir, other_files)
    return Benchmark("viper", folder, datasets, PUBLISHED, crops=crops, splits_file=kept)
