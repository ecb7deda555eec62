"""VIPeR (Gray et al., "Evaluating appearance models for recognition, reacquisition, and tracking", PETS 2007).

viper/VIPeR/
  cam_a/  000_45.bmp    person 000, seen at 45 degrees
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
    """VIPeR: ten random halves of its people, each searched in both directions: 20 splits.

    Published: 632 people, 1,264 images, 2 cameras (Torchreid, viper.py); 316 people in each half (Torchreid,
    docs/evaluation.rst). Split 2k searches camera A's images in camera B, split 2k+1 the other way round, and both
    train on the same people. Which people fall into which half was not published: ours are drawn from ``seed``.

    Args:
        root: the folder that holds ``cam_a``, or one of those around it.
        seed: of the draws.
        work_dir: where the drawn splits are kept; by default beside ``cam_a``.

    Raises:
        DataError: the layout is not there, or someone is missing in one camera (they are named).
        OutputError: the splits cannot be kept.
    """
    folder = find_layout("viper", root, INNER, ("cam_a", "cam_b"))
    found: list[tuple[Path, str, int]] = []
    others: tuple[str, ...] = ()
    for camid, camera in enumerate(("cam_a", "cam_b"), start=1):
        named = match_names(folder / camera, FILE_NAME, "000_45.bmp")
        found += [(path, match[1], camid) for path, match in named.matches]
        others += named.other_files
    seen = {camid: [name for _, name, c in found if c == camid] for camid in (1, 2)}
    refuse(sorted(set(seen[1]) ^ set(seen[2])), f"people of VIPeR in {folder} are not in both cameras")
    pid_of = number_people(seen[1])
    crops = as_tuple(Crop(path, pid_of[name], camid, name, "ab"[camid - 1]) for path, name, camid in found)
    datasets, kept = drawn_datasets("viper", folder, crops, draw_halves(crops), seed, work_dir, others)
    return Benchmark("viper", folder, datasets, PUBLISHED, crops=crops, splits_file=kept)
