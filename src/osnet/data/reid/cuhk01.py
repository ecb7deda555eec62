"""CUHK01 (Li et al., "Human Reidentification with Transferred Metric Learning", ACCV 2012).

cuhk01/
  campus/     0001001.png    person 1, image 1; images 1 and 2 are one view, 3 and 4 the other
  CUHK01.zip                 or this alone, which holds campus/
"""

import re
import shutil
import zipfile
from pathlib import Path, PurePosixPath

from osnet.data.loading import check_header
from osnet.data.reid.benchmark import Benchmark, Published
from osnet.data.reid.layout import find_folder, match_names
from osnet.data.reid.random_splits import draw_halves, drawn_datasets
from osnet.data.reid.single_writer import one_at_a_time
from osnet.errors import DataError, ImageError, OutputError
from osnet.files import TEMPORARY_PREFIX, make_folder
from osnet.types import Crop, as_tuple

LAYOUT = "cuhk01/campus/0001001.png, or cuhk01/CUHK01.zip"
INNER = ("cuhk01",)
FILE_NAME = re.compile(r"(\d{4})(\d{3})\.\w+")
MAX_FILE_BYTES = 16 << 20
_TORCHREID = "Torchreid, cuhk01.py"
PUBLISHED = (Published("all", 971, 3884, None, _TORCHREID),)
NOTES = (
    "Torchreid counts 4 cameras; in its protocol, as here, images 1 and 2 of a person are one view and 3 and 4 the "
    "other, so two cameras are counted",
    "cuhk02 holds the same people in its first pair of cameras",
)


def read_cuhk01(root: str | Path, *, seed: int = 0, work_dir: Path | None = None) -> Benchmark:
    """CUHK01: ten random halves of its people, each searched in both directions: 20 splits, numbered as VIPeR's.

    Published: 971 people, 3,884 images (Torchreid, cuhk01.py). Sizes of the halves: not published; here 485 people
    train and 486 test, as Torchreid's code would make it. Cameras: see the notes. If there is only ``CUHK01.zip``,
    it is unpacked once, by one process, beside itself or into ``work_dir``.

    Args:
        root: the folder that holds ``campus`` or ``CUHK01.zip``, or the one around it.
        seed: of the draws.
        work_dir: where the drawn splits (and the unpacked images) are kept; by default that folder.

    Raises:
        DataError: the layout is not there, or images that are not named like it.
        OutputError: the splits cannot be kept, or the zip not unpacked.
    """
    folder = _find(root, work_dir)
    named = match_names(folder / "campus", FILE_NAME, "0001001.png")
    crops = as_tuple(
        Crop(path, int(match[1]), camid, str(int(match[1])), str(camid))
        for path, match in named.matches
        if (camid := (int(match[2]) - 1) // 2 + 1) in (1, 2) and int(match[1]) > 0
    )
    if len(crops) < len(named.matches):
        raise DataError(f"{folder / 'campus'}: people are numbered from 1 and their images 1 to 4; others are there")
    datasets, kept = drawn_datasets("cuhk01", folder, crops, draw_halves(crops), seed, work_dir, named.other_files)
    return Benchmark("cuhk01", folder, datasets, PUBLISHED, notes=NOTES, crops=crops, splits_file=kept)


def _find(root: str | Path, work_dir: Path | None) -> Path:
    """The folder that holds ``campus``, made from the zip if need be."""
    if work_dir is not None and (work_dir / "campus").is_dir():
        return work_dir
    try:
        return find_folder("cuhk01", root, INNER, "campus")
    except DataError as error:
        zips = [path for place in ("", *INNER) if (path := Path(root) / place / "CUHK01.zip").is_file()]
        if not zips:
            raise DataError(f"{error}; nor is there a CUHK01.zip") from None
    folder = zips[0].parent if work_dir is None else make_folder(work_dir)
    try:
        with one_at_a_time(folder / "campus"):
            if not (folder / "campus").is_dir():
                _unpack(zips[0], folder)
    except OutputError as error:
        raise OutputError(f"cannot unpack {zips[0]}: {error}; give work_dir") from error
    return folder


def _unpack(archive: Path, folder: Path) -> None:
    """``campus/*.png`` of the zip, all or nothing; names and sizes are checked before anything is written."""
    aside = folder / f"{TEMPORARY_PREFIX}campus"
    try:
        with zipfile.ZipFile(archive) as packed:
            members = [info for info in packed.infolist() if PurePosixPath(info.filename).parent.name == "campus"]
            images = {PurePosixPath(info.filename).name: info for info in members if not info.is_dir()}
            images = {name: info for name, info in images.items() if FILE_NAME.fullmatch(name)}
            if not images:
                raise DataError(f"{archive} holds no images campus/0001001.png")
            if large := [name for name, info in images.items() if info.file_size > MAX_FILE_BYTES]:
                raise DataError(f"{archive}: {large[0]} would unpack to more than {MAX_FILE_BYTES:,} bytes")
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            for name, info in sorted(images.items()):
                (aside / name).write_bytes(packed.read(info))
                check_header(aside / name)
        aside.rename(folder / "campus")
    except (zipfile.BadZipFile, ImageError) as error:
        raise DataError(f"{archive} cannot be unpacked: {error}") from error
    except OSError as error:
        raise OutputError(f"cannot write {folder / 'campus'}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
