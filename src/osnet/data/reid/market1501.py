"""Market-1501 (Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015), and data sets in its layout.

Market-1501-v15.09.15/
  bounding_box_train/  0002_c1s1_000451_03.jpg    identity 2, camera 1
  bounding_box_test/   0000_c1s1_000151_01.jpg    0 is a distractor, -1 is junk
  query/
  images/              0000_c1s1_000001_00.jpg    optional: 500,000 additional distractors
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from osnet.data.loading import is_image_file, list_files, warn_of_unread
from osnet.data.reid.benchmark import Benchmark, Published
from osnet.data.reid.layout import refuse
from osnet.errors import DataError
from osnet.types import JUNK_PID, Crop, ReidDataset, Split, as_tuple

FILE_NAME = re.compile(r"^(-?\d+)_c(\d+)")
MARKET_FOLDER = "Market-1501-v15.09.15"
"""The name of the folder in the original archive."""
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
VARIANT_500K = "with the further distractors"
"""Name of the variant with the additional distractors. Results contain this name, so it does not change."""


def find_market1501(root: str | Path, inner: Sequence[str] = INNER_FOLDERS) -> Path | None:
    """Find the folder that contains ``query`` and ``bounding_box_test``: ``root`` or ``inner`` below it, else None."""
    folders = [Path(root) / place for place in inner]
    return next((f for f in folders if (f / "query").is_dir() and (f / "bounding_box_test").is_dir()), None)


def read_market1501_benchmark(root: str | Path, *, distractors: bool = False) -> Benchmark:
    """Read Market-1501 as a benchmark.

    Published counts: 751 people and 12,936 images in training; 750 people and 3,368 images in the query; 750 people and
    15,913 images in the gallery (with distractors, without junk); 1,501 people and 6 cameras together. The images are
    from Torchreid, market1501.py, the people per split and the cameras from Zheng et al., ICCV 2015. The paper says
    "over 500K" about the additional distractors; the size of the gallery with them is not published.

    Args:
        root: the folder that contains ``query``, or a parent of it; see ``read_market1501``.
        distractors: add the images in the folder ``images``, the 500,000 additional distractors, to the gallery.

    Raises:
        DataError: the folders were not found, or a file name does not follow the pattern.
    """
    dataset = read_market1501(root, distractors)
    variant = VARIANT_500K if distractors else ""
    published = PUBLISHED_500K if distractors else PUBLISHED
    # The name must not depend on the folder: weights trained on the test part are recognised by it.
    named = replace(dataset, name="market1501")
    return Benchmark("market1501", dataset.root, (named,), published, variant=variant)


def read_market1501(root: str | Path, distractors: bool = False) -> ReidDataset:
    """Read Market-1501, or any data set with the same folders and file names.

    ``pid`` and ``camid`` are the numbers in the file names. The protocol ignores junk (pid -1), so junk is left out of
    all splits and only counted in ``num_junk``. Distractors (pid 0) stay in the gallery.

    Args:
        root: the folder that contains ``query`` and ``bounding_box_test``, or its parent that contains one of
            ``INNER_FOLDERS``.
        distractors: add the images in the folder ``images`` to the gallery.

    Raises:
        DataError: the folders were not found, or file names do not follow the pattern (the message lists them).
    """
    folder = find_market1501(root)
    if folder is None:
        raise DataError(
            f"{root} does not have Market-1501's layout: the folders query and bounding_box_test are neither in it nor "
            f"in its {', '.join(INNER_FOLDERS[1:])}"
        )
    dataset = read_market_folder(folder, distractors)
    return replace(dataset, name="market1501") if folder.name == MARKET_FOLDER else dataset


def read_market_folder(folder: Path, distractors: bool = False) -> ReidDataset:
    """Read a folder in Market-1501's layout. The data set gets the name of the folder. Missing splits are empty.

    Raises:
        DataError: file names do not follow the pattern, or ``distractors`` is set and there is no folder ``images``.
    """
    if distractors and not (folder / "images").is_dir():
        raise DataError(f"the additional distractors were not found: there is no folder {folder / 'images'}")
    num_junk = 0
    other_files: list[str] = []
    splits: dict[str, Split] = {}
    for split, name in (
        ("train", "bounding_box_train"),
        ("query", "query"),
        ("gallery", "bounding_box_test"),
    ):
        crops, junk, other = _read_split(folder / name) if (folder / name).is_dir() else ([], 0, [])
        splits[split] = Split(split, as_tuple(crops))
        num_junk += junk
        other_files += other
    train, query, gallery = splits["train"], splits["query"], splits["gallery"]
    if distractors:
        crops, junk, other = _read_split(folder / "images")
        gallery = Split("gallery", gallery.crops + as_tuple(crops))
        num_junk, other_files = num_junk + junk, other_files + other
    return ReidDataset(folder.resolve().name, folder, train, query, gallery, num_junk, tuple(other_files))


def parse_name(path: Path) -> tuple[int, int] | None:
    """Return (pid, camid) from a file name, or None if the name does not begin like 0002_c1."""
    match = FILE_NAME.match(path.name)
    return (int(match[1]), int(match[2])) if match else None


def _read_split(folder: Path) -> tuple[list[Crop], int, list[str]]:
    """Return the crops, the number of junk images, and the files that are not images."""
    crops: list[Crop] = []
    strange: list[str] = []
    other_files: list[str] = []
    num_junk = 0
    for path in list_files(folder, hidden=True):
        if not is_image_file(path):
            other_files.append(str(path))
        elif (parsed := parse_name(path)) is None:
            strange.append(path.name)
        elif parsed[0] == JUNK_PID:
            num_junk += 1
        else:
            pid, camid = parsed
            crops.append(Crop(path, pid, camid, identity=str(pid), camera=str(camid)))
    warn_of_unread(other_files)
    refuse(strange, f"image(s) in {folder} are not named like 0002_c1s1_000451_03.jpg")
    negative = [crop.path.name for crop in crops if crop.pid < JUNK_PID]
    refuse(negative, f"image(s) in {folder} have an identity below -1 (-1 is junk)")
    return crops, num_junk, other_files
