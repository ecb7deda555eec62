"""CUHK03 (Li et al., "DeepReID", CVPR 2014) with its classic protocol and that of Zhong et al. (CVPR 2017).

cuhk03/
  cuhk03_release/cuhk-03.mat                   images and the 20 classic test sets
  cuhk03_new_protocol_config_detected.mat      the 767/700 protocol
  cuhk03_new_protocol_config_labeled.mat
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from osnet.data.reid.benchmark import Benchmark, Published, SplitName
from osnet.data.reid.cuhk03_images import FILE_NAME, Boxes, Extracted, read_extracted
from osnet.data.reid.layout import SHOWN, checked_structure, number_people, read_matlab5, refuse
from osnet.errors import DataError
from osnet.metrics.matching_rules import Rule
from osnet.progress import Progress
from osnet.types import Crop, ReidDataset, Split, as_tuple

LAYOUT = "cuhk03/cuhk03_release/cuhk-03.mat and cuhk03/cuhk03_new_protocol_config_{detected,labeled}.mat"
INNER = ("", "cuhk03")
MAT_PLACES = ("cuhk03_release/cuhk-03.mat", "cuhk-03.mat")
_NEW = "zhunzhong07/person-re-ranking, CUHK03-NP/README.md"
_CLASSIC = "Torchreid, README of 2018: 1367/100"


def _new_protocol(num_train: int, num_gallery: int) -> tuple[Published, ...]:
    return (
        Published("train", 767, num_train, None, _NEW),
        Published("query", 700, 1400, 2, f"{_NEW}: 'both two cameras'"),
        Published("gallery", None, num_gallery, None, _NEW),
        Published("query+gallery", 700, None, None, _NEW),
    )


def _classic_protocol(num_images: int) -> tuple[Published, ...]:
    return (
        Published("train", 1367, source=_CLASSIC),
        Published("query", 100, source=_CLASSIC),
        Published("gallery", 100, source=_CLASSIC),
        Published("train+query+gallery", None, num_images, None, f"the sum of {_NEW}"),
    )


PUBLISHED: Mapping[str, tuple[Published, ...]] = {
    "detected, 767/700": _new_protocol(7365, 5332),
    "labelled, 767/700": _new_protocol(7368, 5328),
    "detected, classic": _classic_protocol(14_097),
    "labelled, classic": _classic_protocol(14_096),
}
NOTES = (
    "the paper states 1,360 people, 13,164 images and 6 cameras; the released file has 1,467 people in five pairs of "
    "cameras; as in Torchreid, the first cameras of all pairs count as camera 1 and the second ones as camera 2",
)


def read_cuhk03(
    root: str | Path,
    *,
    labelled: bool = False,
    classic: bool = False,
    work_dir: Path | None = None,
    progress: Progress | None = None,
) -> Benchmark:
    """Read CUHK03 with the 767/700 protocol (one split) or the classic protocol (20 splits).

    In the classic protocol, all images of the test people are both queries and gallery. Each query is ranked against
    one random image per person, and ``rule`` is ``cuhk03``. In the 767/700 protocol, ``rule`` is ``market1501``. The
    first call extracts the images as PNG files; see ``read_extracted``.

    Published counts of the 767/700 protocol: 767 people for training and 700 for the test, 2 cameras, and 7,365 / 1,400
    / 5,332 detected or 7,368 / 1,400 / 5,328 labelled images for training, query and gallery
    (zhunzhong07/person-re-ranking, CUHK03-NP/README.md). Each classic split has 1,367 people for training and 100 for
    the test (Torchreid, README of 2018). The file has 14,097 detected and 14,096 labelled images, which is the sum of
    the numbers above. Numbers of images of the classic splits were not published.

    Args:
        root: the folder that contains ``cuhk03_release``, its parent, or ``cuhk03_release`` itself.
        labelled: use the boxes drawn by hand instead of the detected ones.
        classic: use the 20 splits of Li et al. instead of the 767/700 split.
        work_dir: folder for the extracted images; default: the folder of the data.
        progress: shows a progress bar during the extraction.

    Raises:
        DataError: files are missing (the message lists the places that were tried), damaged, or inconsistent.
        OutputError: the images cannot be written.
        MissingExtraError: h5py or SciPy is not installed.
    """
    boxes: Boxes = "labeled" if labelled else "detected"
    folder, mat = _find(root, work_dir, boxes)
    protocol = None if classic else _find_protocol(folder, mat, boxes)
    extracted = read_extracted(mat, boxes, work_dir or folder, progress)
    crops = _read_crops(extracted)
    if protocol:
        with checked_structure(protocol):
            datasets: tuple[ReidDataset, ...] = (_new_split(folder, protocol, crops),)
    else:
        datasets = _classic_splits(folder, extracted, crops)
    variant = f"{'labelled' if labelled else 'detected'}, {'classic' if classic else '767/700'}"
    rule: Rule = "cuhk03" if classic else "market1501"
    return Benchmark("cuhk03", folder, datasets, PUBLISHED[variant], rule, variant, NOTES, tuple(crops.values()))


def _find(root: str | Path, work_dir: Path | None, boxes: Boxes) -> tuple[Path, Path | None]:
    """Return the folder of the data set and the path of ``cuhk-03.mat``.

    The path is None if the file no longer exists but its images were extracted earlier.
    """
    looked_at = [Path(root) / place / name for place in INNER for name in MAT_PLACES]
    if mat := next((path for path in looked_at if path.is_file()), None):
        holder = mat.absolute().parent
        return (holder.parent if holder.name == "cuhk03_release" else holder), mat
    for place in INNER:
        folder = Path(root) / place
        if ((work_dir or folder) / f"images_{boxes}.json").is_file() and folder.is_dir():
            return folder, None
    raise DataError(f"cuhk03 was not found: none of these files exists: {', '.join(map(str, looked_at))}")


def _find_protocol(folder: Path, mat: Path | None, boxes: Boxes) -> Path:
    name = f"cuhk03_new_protocol_config_{boxes}.mat"
    looked_at = [place / name for place in (folder, mat.parent if mat else folder / "cuhk03_release", folder.parent)]
    if found := next((path for path in looked_at if path.is_file()), None):
        return found
    raise DataError(
        f"the 767/700 protocol of cuhk03 was not found: none of these files exists: {', '.join(map(str, looked_at))}"
    )


def _read_crops(extracted: Extracted) -> dict[str, Crop]:
    """Map file names to crops. People are numbered from 1 in the order of (pair, person), in every protocol alike."""
    matches = [match for name in extracted.names if (match := FILE_NAME.fullmatch(name))]
    pid_of = number_people(f"{match[1]}_{int(match[2]):04d}" for match in matches)
    return {
        match[0]: Crop(
            extracted.folder / match[0],
            pid_of[f"{match[1]}_{int(match[2]):04d}"],
            int(match[3]),
            f"{match[1]}_{match[2]}",
            match[3],
        )
        for match in matches
    }


def _classic_splits(folder: Path, extracted: Extracted, crops: Mapping[str, Crop]) -> tuple[ReidDataset, ...]:
    person_of = {
        name: (int(match[1]), int(match[2])) for name in crops if (match := FILE_NAME.fullmatch(name)) is not None
    }
    datasets = []
    for number, testset in enumerate(extracted.testsets):
        tested = set(testset)
        refuse(
            [str(key) for key in sorted(tested - set(person_of.values()))],
            "people (pair, person) in a test set of cuhk-03.mat have no images",
        )
        test = as_tuple(crop for name, crop in crops.items() if person_of[name] in tested)
        train = as_tuple(crop for name, crop in crops.items() if person_of[name] not in tested)
        splits = (Split("train", train), Split("query", test), Split("gallery", test))
        datasets.append(ReidDataset(str(SplitName("cuhk03", 0, number)), folder, *splits))
    return tuple(datasets)


def _new_split(folder: Path, protocol: Path, crops: Mapping[str, Crop]) -> ReidDataset:
    """Read the split from the protocol file. Its indices point into ``filelist`` and start at 1."""
    variables = read_matlab5(protocol)
    wanted = ("filelist", "labels", "train_idx", "query_idx", "gallery_idx")
    if missing := [name for name in wanted if name not in variables]:
        raise DataError(f"{protocol} lacks the variables {', '.join(missing)}")
    names = [str(np.asarray(entry).ravel()[0]) for entry in np.asarray(variables["filelist"]).ravel()]
    refuse([name for name in names if name not in crops], f"image(s) of {protocol} are not in cuhk-03.mat")
    labels = np.asarray(variables["labels"]).ravel().tolist()
    pairs = {(label, crops[name].pid) for label, name in zip(labels, names, strict=False)}
    people = {crops[name].pid for name in names}
    if len(labels) != len(names) or len(pairs) != len(people) or len({label for label, _ in pairs}) != len(people):
        raise DataError(f"{protocol}: labels do not agree with the people in the file names of filelist")
    splits = {}
    for split in ("train", "query", "gallery"):
        indices = _from_zero(variables[f"{split}_idx"], len(names), f"{protocol}, {split}_idx")
        splits[split] = Split(split, as_tuple(crops[names[index]] for index in indices))
    if both := sorted(set(splits["train"].pids) & {*splits["query"].pids, *splits["gallery"].pids}):
        raise DataError(f"{protocol}: identities {both[:SHOWN]} are in train and in query or gallery")
    return ReidDataset("cuhk03", folder, splits["train"], splits["query"], splits["gallery"])


def _from_zero(matlab_indices: Any, num_files: int, where: str) -> list[int]:
    """Convert MATLAB's indices, which start at 1, to indices from 0."""
    indices = np.asarray(matlab_indices).ravel().astype(np.int64) - 1
    if (
        len(indices) == 0
        or indices.min() < 0
        or indices.max() >= num_files
        or len(set(indices.tolist())) < len(indices)
    ):
        raise DataError(f"{where} must contain different numbers from 1 to {num_files}")
    return [int(index) for index in indices]
