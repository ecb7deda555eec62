"""Market-1501 (Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015), its layout and names.

Market-1501-v15.09.15/
  bounding_box_train/  0002_c1s1_000451_03.jpg    identity 2, camera 1
  bounding_box_test/   0000_c1s1_000151_01.jpg    0 is a distractor, -1 is junk
  query/
  images/              0000_c1s1_000001_00.jpg    optional: the 500,000 further distractors
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from osnet.data.loading import is_image_file, list_files, warn_of_unread
from osnet.data.reid.benchmark import Benchmark, Published
from osnet.errors import DataError
from osnet.types import JUNK_PID, Crop, ReidDataset, Split, as_tuple

FILE_NAME = re.compile(r"^(-?\d+)_c(\d+)")
MARKET_FOLDER = "Market-1501-v15.09.15"
"""What the original archive calls it."""
INNER_FOLDERS = ("", MARKET_FOLDER, f"market1501/{MARKET_FOLDER}", "market1501")
LAYOUT = "market1501/Market-1501-v15.09.15/{bounding_box_train,query,bounding_box_test}/0002_c1s1_000451_03.jpg"
_TORCHREID = "Torchreid, market1501.py"
_PAPER = "Zheng et al., ICCV 2015"
_TRAINING = (
    Published("train", 751, 12_936, None, f"{_TORCHREID}; 751 people: {_PAPER}"),
    Published("query", 750, 3368, None, f"{_TORCHREID}; 750 people: {_PAPER}"),
    Published("train+query+gallery", 1501, None, 6, f"{_TORCHREID}; 6 cameras: {_PAPER}"),
)
PUBLISHED = (*_TRAINING, Published("gallery", 750, 15_913, None, f"{_TORCHREID}; 750 people: {_PAPER}"))
PUBLISHED_500K = (*_TRAINING, Published("gallery", 750, None, None, _PAPER))


def find_market1501(root: str | Path, inner: Sequence[str] = INNER_FOLDERS) -> Path | None:
    """The folder that holds ``query`` and ``bounding_box_test``: ``root`` or the usual ones inside it."""
    folders = [Path(root) / place for place in inner]
    return next((f for f in folders if (f / "query").is_dir() and (f / "bounding_box_test").is_dir()), None)


def read_market1501_benchmark(root: str | Path, *, distractors: bool = False) -> Benchmark:
    """Market-1501 as a benchmark.

    Published: 751 people and 12,936 images in training, 750 and 3,368 in the query, 750 and 15,913 images in the
    gallery (distractors included, junk left out), 1,501 people and 6 cameras together (Torchreid, market1501.py;
    people per split and cameras: Zheng et al., ICCV 2015). Of the further distractors the paper says "over 500K": the
    gallery's size with them is not published.

    Args:
        root: as ``read_market1501`` takes it.
        distractors: add the folder ``images``, the 500,000 further distractors, to the gallery.

    Raises:
        DataError: as ``read_market1501``.
    """
    dataset = read_market1501(root, distractors)
    variant = "with the further distractors" if distractors else ""
    published = PUBLISHED_500K if distractors else PUBLISHED
    named = replace(dataset, name="market1501")  # whatever the folder is called: weights of its test must be told
    return Benchmark("market1501", dataset.root, (named,), published, variant=variant)


def read_market1501(root: str | Path, distractors: bool = False) -> ReidDataset:
    """Market-1501, or any data set in its layout and naming.

    Junk (pid -1) is left out everywhere and counted in ``num_junk``: the protocol ignores it. The
    distractors (pid 0) stay in the gallery. ``pid`` and ``camid`` are the numbers in the names.

    Args:
        root: the folder that holds ``query``, or one of the folders around it.
        distractors: add the images of the folder ``images`` to the gallery.

    Raises:
        DataError: the layout is not there, or an image's name is not of this form (they are named).
    """
    folder = find_market1501(root)
    if folder is None:
        raise DataError(
            f"{root} does not hold Market-1501's layout: no folders query and bounding_box_test in it or in its "
            f"{', '.join(INNER_FOLDERS[1:])}"
        )
    dataset = read_market_folder(folder, distractors)
    return replace(dataset, name="market1501") if folder.name == MARKET_FOLDER else dataset


def read_market_folder(folder: Path, distractors: bool = False) -> ReidDataset:
    """What lies in a folder of Market-1501's layout, named after the folder.

    Raises:
        DataError: images that are not named like it, or no folder ``images`` where ``distractors`` asks for it.
    """
    if distractors and not (folder / "images").is_dir():
        raise DataError(f"the further distractors are not here: there is no folder {folder / 'images'}")
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
    if distractors:
        crops, junk, other = _read_split(folder / "images")
        gallery = Split("gallery", gallery.crops + as_tuple(crops))
        num_junk, others = num_junk + junk, others + other
    return ReidDataset(folder.resolve().name, folder, train, query, gallery, num_junk, tuple(others))


def parse_name(path: Path) -> tuple[int, int] | None:
    """(pid, camid) of a file's name, or None if it is not of Market-1501's form."""
    match = FILE_NAME.match(path.name)
    return (int(match[1]), int(match[2])) if match else None


def _read_split(folder: Path) -> tuple[list[Crop], int, list[str]]:
    crops: list[Crop] = []
    strange: list[str] = []
    others: list[str] = []
    num_junk = 0
    for path in list_files(folder, hidden=True):
        if not is_image_file(path):
            others.append(str(path))
        elif (parsed := parse_name(path)) is None:
            strange.append(path.name)
        elif parsed[0] == JUNK_PID:
            num_junk += 1
        else:
            pid, camid = parsed
            crops.append(Crop(path, pid, camid, identity=str(pid), camera=str(camid)))
    warn_of_unread(others)
    if strange:
        raise DataError(
            f"{len(strange)} image(s) in {folder} are not named like 0002_c1s1_000451_03.jpg: "
            f"{', '.join(strange[:5])}{', ...' if len(strange) > 5 else ''}"
        )
    if negative := [crop.path.name for crop in crops if crop.pid < JUNK_PID]:
        raise DataError(f"{folder}: identities below -1 have no meaning: {', '.join(negative[:5])}")
    return crops, num_junk, others
