"""MSMT17 (Wei et al., "Person Transfer GAN to Bridge Domain Gap for Person Re-Identification", CVPR 2018).

msmt17/MSMT17_V1/                                    or MSMT17_V2, in which faces are blurred
  train/  0000/0000_000_01_0303morning_0008_0.jpg    mask_train_v2 in V2; the third number is the camera
  test/                                              mask_test_v2 in V2
  list_train.txt  list_val.txt  list_query.txt  list_gallery.txt    each line has a path and a person number
"""

from functools import cache
from pathlib import Path, PurePosixPath
from typing import Literal

from osnet.data.reid.benchmark import Benchmark, Published
from osnet.data.reid.layout import refuse
from osnet.errors import DataError
from osnet.types import Crop, ReidDataset, Split, as_tuple

Version = Literal["auto", "v1", "v2"]
LAYOUT = "msmt17/MSMT17_V1/{train,test} or msmt17/MSMT17_V2/{mask_train_v2,mask_test_v2}, and list_*.txt"
FOLDERS = {"v1": ("MSMT17_V1", "train", "test"), "v2": ("MSMT17_V2", "mask_train_v2", "mask_test_v2")}
LISTS = ("train", "val", "query", "gallery")
_TORCHREID = "Torchreid, msmt17.py"
_COUNTED = "counted on the original by a user, zhunzhong07/ECN issue 11; the sums of Torchreid's figures agree"
PUBLISHED = (
    Published("train+val", None, 32_621, None, _TORCHREID),
    Published("train+val", 1041, source=_COUNTED),
    Published("query", None, 11_659, None, _TORCHREID),
    Published("gallery", None, 82_161, None, _TORCHREID),
    Published("query+gallery", 3060, source=_COUNTED),
    Published("train+val+query+gallery", 4101, 126_441, 15, f"{_TORCHREID}; the images are their sum"),
)
NOTES = ("list_val.txt has more images of the training people; they are used for training only with combine_all",)


def read_msmt17(root: str | Path, *, version: Version = "auto") -> Benchmark:
    """Read MSMT17 from its lists. The images in list_val.txt become the separate split ``val``.

    In the lists, person numbers start at 0 both in training and in the test, and the same number means two different
    people. Here, training people are numbered from 1, and the numbers of test people follow.

    Published counts: 32,621 images of 1,041 people for training and validation, 11,659 queries, 82,161 gallery images,
    3,060 people in the test, and 4,101 people, 126,441 images and 15 cameras together (Torchreid, msmt17.py; 1,041 and
    3,060 are from zhunzhong07/ECN issue 11). How many of the 32,621 images are in list_val.txt was not published.

    Args:
        root: the folder ``MSMT17_V1`` or ``MSMT17_V2``, or a parent of it.
        version: version of the data set. ``auto`` reads V1 if both exist.

    Raises:
        DataError: the folders were not found, a list cannot be read or has a malformed line, lists an image twice or
            no images, has a path outside the folder, or lists missing images; or the version is unknown.
    """
    folder, found = _find(root, version)
    train_dir, test_dir = (folder / name for name in FOLDERS[found][1:])
    rows = {name: _read_list(folder, name, train_dir if name in ("train", "val") else test_dir) for name in LISTS}
    in_train = sorted({number for name in ("train", "val") for _, number, _ in rows[name]})
    in_test = sorted({number for name in ("query", "gallery") for _, number, _ in rows[name]})
    pid_of = {("train", number): pid for pid, number in enumerate(in_train, start=1)}
    pid_of |= {("test", number): pid for pid, number in enumerate(in_test, start=1 + len(in_train))}
    splits = {}
    for name in LISTS:
        half = "train" if name in ("train", "val") else "test"
        crops = (
            Crop(path, pid_of[half, number], camid, f"{half}/{number:04d}", str(camid))
            for path, number, camid in rows[name]
        )
        splits[name] = Split(name, as_tuple(crops))
    train, query, gallery = splits["train"], splits["query"], splits["gallery"]
    dataset = ReidDataset("msmt17", folder, train, query, gallery, val=splits["val"])
    return Benchmark("msmt17", folder, (dataset,), PUBLISHED, variant=found.upper(), notes=NOTES)


def _find(root: str | Path, version: Version) -> tuple[Path, str]:
    """Return the folder of the data set and its version."""
    if version not in ("auto", *FOLDERS):
        raise DataError(f"unknown version {version!r} of msmt17; choose from auto, {', '.join(FOLDERS)}")
    looked_at = []
    for name in FOLDERS if version == "auto" else (version,):
        outer, train, test = FOLDERS[name]
        for place in ("", outer, f"msmt17/{outer}", "msmt17"):
            folder = Path(root) / place
            looked_at.append(str(folder))
            if (folder / train).is_dir() and (folder / test).is_dir():
                return folder, name
    names = " or ".join(f"{train} and {test}" for _, train, test in FOLDERS.values())
    raise DataError(
        f"msmt17 was not found: none of these folders contains {names}: {', '.join(dict.fromkeys(looked_at))}"
    )


def _read_list(folder: Path, name: str, images: Path) -> list[tuple[Path, int, int]]:
    """Return (path of the image, person number, camera number) for each line of a list."""
    path = folder / f"list_{name}.txt"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    base = images.resolve()

    @cache
    def stays_inside(parent: str) -> bool:
        return (images / parent).resolve().is_relative_to(base)

    rows, bad, missing = [], [], []
    for number, line in enumerate(lines, start=1):
        relative, _, person = line.strip().rpartition(" ")
        fields = relative.split("_")
        if not line.strip():
            continue
        if not person.isdecimal() or len(fields) < 3 or not fields[2].isdecimal():
            bad.append(f"line {number}: {line.strip()!r}")
            continue
        listed = PurePosixPath(relative)
        if listed.is_absolute() or not stays_inside(str(listed.parent)) or listed.name in ("", ".."):
            raise DataError(f"{path}, line {number}: the path {relative!r} is outside {images}")
        image = images / relative
        if not image.is_file():
            missing.append(relative)
        rows.append((image, int(person), int(fields[2])))
    refuse(bad, f"line(s) of {path} are not like '0000/0000_000_01_0303morning_0008_0.jpg 0'")
    refuse(missing, f"image(s) listed in {path} are not in {images}")
    if not rows:
        raise DataError(f"{path} lists no images")
    if len({image for image, _, _ in rows}) < len(rows):
        raise DataError(f"{path} lists an image twice")
    return rows
