"""Market-1501 (Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015), its layout and names.

Market-1501-v15.09.15/
  bounding_box_train/  0002_c1s1_000451_03.jpg    identity 2, camera 1
  bounding_box_test/   0000_c1s1_000151_01.jpg    0 is a distractor, -1 is junk
  query/
"""

import re
from pathlib import Path

from osnet.data.loading import is_image_name, list_files
from osnet.errors import DataError
from osnet.types import JUNK_PID, Crop, ReidDataset, Split, as_tuple

FILE_NAME = re.compile(r"^(-?\d+)_c(\d+)")
INNER_FOLDERS = ("", "Market-1501-v15.09.15", "market1501/Market-1501-v15.09.15", "market1501")


def find_market1501(root: str | Path) -> Path | None:
    """The folder that holds ``query`` and ``bounding_box_test``: ``root`` or the usual ones inside it."""
    folders = [Path(root) / inner for inner in INNER_FOLDERS]
    return next((f for f in folders if (f / "query").is_dir() and (f / "bounding_box_test").is_dir()), None)


def read_market1501(root: str | Path) -> ReidDataset:
    """Market-1501, or any data set in its layout and naming.

    Junk (pid -1) is left out everywhere and counted in ``num_junk``: the protocol ignores it. The
    distractors (pid 0) stay in the gallery. ``pid`` and ``camid`` are the numbers in the names.

    Args:
        root: the folder that holds ``query``, or one of the folders around it.

    Raises:
        DataError: the layout is not there, or an image's name is not of this form (they are named).
    """
    folder = find_market1501(root)
    if folder is None:
        raise DataError(
            f"{root} does not hold Market-1501's layout: no folders query and bounding_box_test in it or in its "
            f"{', '.join(INNER_FOLDERS[1:])}"
        )
    num_junk = 0
    others: list[str] = []
    splits: dict[str, Split] = {}
    for split, name in (
        ("train", "bounding_box_train"),
        ("query", "query"),
        ("gallery", "bounding_box_test"),
    ):
        crops, junk, other = _read_split(folder / name) if (folder / name).is_dir() else ([], 0, [])
        splits[split] = Split(split, as_tuple(crops))
        num_junk += junk
        others += other
    train, query, gallery = splits["train"], splits["query"], splits["gallery"]
    name = "market1501" if folder.name == "Market-1501-v15.09.15" else folder.resolve().name
    return ReidDataset(name, folder, train, query, gallery, num_junk, tuple(others))


def parse_name(path: Path) -> tuple[int, int] | None:
    """(pid, camid) of a file's name, or None if it is not of Market-1501's form."""
    match = FILE_NAME.match(path.name)
    return (int(match[1]), int(match[2])) if match else None


def _read_split(folder: Path) -> tuple[list[Crop], int, list[str]]:
    crops: list[Crop] = []
    strange: list[str] = []
    others: list[str] = []
    num_junk = 0
    for path in list_files(folder):
        if not is_image_name(path):
            others.append(str(path))
        elif (parsed := parse_name(path)) is None:
            strange.append(path.name)
        elif parsed[0] == JUNK_PID:
            num_junk += 1
        else:
            pid, camid = parsed
            crops.append(Crop(path, pid, camid, identity=str(pid), camera=str(camid)))
    if strange:
        raise DataError(
            f"{len(strange)} image(s) in {folder} are not named like 0002_c1s1_000451_03.jpg: "
            f"{', '.join(strange[:5])}{', ...' if len(strange) > 5 else ''}"
        )
    if negative := [crop.path.name for crop in crops if crop.pid < JUNK_PID]:
        raise DataError(f"{folder}: identities below -1 have no meaning: {', '.join(negative[:5])}")
    return crops, num_junk, others
