"""CUHK01 (Li et al., "Human Reidentification with Transferred Metric Learning", ACCV 2012).

cuhk01/
  campus/     0001001.png    person 1, image 1; images 1 and 2 are from one camera, 3 and 4 from the other
  CUHK01.zip                 contains campus/; needed only if there is no campus/
"""

import re
import shutil
import zipfile
from pathlib import Path, PurePosixPath

from osnet.data.loading import check_header
from osnet.data.reid.benchmark import Benchmark, Published
from osnet.data.reid.layout import find_folder, match_names
from osnet.data.reid.random_splits import draw_halves, drawn_datasets
from osnet.errors import DataError, ImageError, OutputError
from osnet.files import TEMPORARY_PREFIX, make_folder, one_writer
from osnet.types import Crop, as_tuple

LAYOUT = "cuhk01/campus/0001001.png, or cuhk01/CUHK01.zip"
INNER = ("cuhk01",)
FILE_NAME = re.compile(r"(\d{4})(\d{3})\.\w+")
MAX_FILE_BYTES = 16 << 20
_TORCHREID = "Torchreid, cuhk01.py"
PUBLISHED = (Published("all", 971, 3884, None, _TORCHREID),)
NOTES = (
    "Torchreid states 4 cameras; its protocol, like this one, has two: images 1 and 2 of a person are from one camera, "
    "3 and 4 from the other",
    "the first pair of cameras of cuhk02 shows the same people",
)


def read_cuhk01(root: str | Path, *, seed: int = 0, work_dir: Path | None = None) -> Benchmark:
    """Read CUHK01 with its 20 splits: ten random halves of the people, each with two search directions.

    The splits are numbered like those of VIPeR. If only ``CUHK01.zip`` exists, one process unpacks it once, into its
    own folder or ``work_dir``.

    Published counts: 971 people, 3,884 images (Torchreid, cuhk01.py). The sizes of the halves were not published. As in
    Torchreid's code, 485 people are used for training and 486 for the test. For the cameras see ``NOTES``.

    Args:
        root: the folder that contains ``campus`` or ``CUHK01.zip``, or its parent, with the folder named ``cuhk01``.
        seed: seed of the random splits, 0 to 2**32 - 1.
        work_dir: folder of the splits file and of the unpacked images; default: the folder that contains ``campus``.

    Raises:
        DataError: the images were not found, a file name does not follow the pattern, the zip file is damaged, the seed
            is out of range, or the splits file is damaged or belongs to other images.
        OutputError: the splits file cannot be written, or the zip file cannot be unpacked there.
    """
    folder = _find(root, work_dir)
    named = match_names(folder / "campus", FILE_NAME, "0001001.png")
    crops = as_tuple(
        Crop(path, int(match[1]), camid, str(int(match[1])), str(camid))
        for path, match in named.matches
        if (camid := (int(match[2]) - 1) // 2 + 1) in (1, 2) and int(match[1]) > 0
    )
    if len(crops) < len(named.matches):
        used = {crop.path for crop in crops}
        wrong = next(path.name for path, _ in named.matches if path not in used)
        raise DataError(f"{folder / 'campus'}: {wrong} has person 0 or an image number outside 1 to 4")
    datasets, kept = drawn_datasets("cuhk01", folder, crops, draw_halves(crops), seed, work_dir, named.other_files)
    return Benchmark("cuhk01", folder, datasets, PUBLISHED, notes=NOTES, crops=crops, splits_file=kept)


def _find(root: str | Path, work_dir: Path | None) -> Path:
    """Return the folder that contains ``campus``. Unpacks the zip file if there is no such folder."""
    if work_dir is not None and (work_dir / "campus").is_dir():
        return work_dir
    try:
        return find_folder("cuhk01", root, INNER, "campus")
    except DataError as error:
        zips = [path for place in ("", *INNER) if (path := Path(root) / place / "CUHK01.zip").is_file()]
        if not zips:
            raise DataError(f"{error}; there is no CUHK01.zip either") from None
    folder = zips[0].parent if work_dir is None else make_folder(work_dir)
    try:
        with one_writer(folder / "campus", timeout_s=3600, needs_lock=True):
            if not (folder / "campus").is_dir():
                _unpack(zips[0], folder)
    except OutputError as error:
        raise OutputError(f"cannot unpack {zips[0]}: {error}; pass work_dir, a writable folder") from error
    return folder


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack ``campus/*.png`` of the zip file, all or nothing. Names and sizes are checked before writing."""
    aside = folder / f"{TEMPORARY_PREFIX}campus"
    try:
        with zipfile.ZipFile(archive) as packed:
            members = [info for info in packed.infolist() if PurePosixPath(info.filename).parent.name == "campus"]
            images = {PurePosixPath(info.filename).name: info for info in members if not info.is_dir()}
            images = {name: info for name, info in images.items() if FILE_NAME.fullmatch(name)}
            if not images:
                raise DataError(f"{archive} contains no images named like campus/0001001.png")
            if large := [name for name, info in images.items() if info.file_size > MAX_FILE_BYTES]:
                raise DataError(f"{archive}: {large[0]} is larger than {MAX_FILE_BYTES:,} bytes when unpacked")
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
