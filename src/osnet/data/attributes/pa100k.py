"""PA-100K (Liu et al., "HydraPlus-Net", ICCV 2017): 100,000 pedestrians, 26 attributes.

ROOT/annotation/annotation.mat   or  ROOT/annotation.mat
ROOT/data/000001.jpg             or  ROOT/release_data/release_data/000001.jpg
"""

from pathlib import Path

import numpy as np

from osnet.data.attributes.dataset import (
    AttributeDataset,
    Found,
    Listed,
    OnMismatch,
    as_list,
    as_text,
    check_counts,
    finish,
    list_names,
    read_mat,
)
from osnet.data.reid.layout import checked_structure
from osnet.errors import DataError

ATTRIBUTES = (
    "Female",
    "AgeOver60",
    "Age18-60",
    "AgeLess18",
    "Front",
    "Side",
    "Back",
    "Hat",
    "Glasses",
    "HandBag",
    "ShoulderBag",
    "Backpack",
    "HoldObjectsInFront",
    "ShortSleeve",
    "LongSleeve",
    "UpperStride",
    "UpperLogo",
    "UpperPlaid",
    "UpperSplice",
    "LowerStripe",
    "LowerPattern",
    "LongCoat",
    "Trousers",
    "Shorts",
    "Skirt&Dress",
    "boots",
)
"""In the order and spelling of the data set."""
PUBLISHED = {"train": 80_000, "val": 10_000, "test": 10_000}
ANNOTATIONS = ("annotation/annotation.mat", "annotation.mat")
IMAGES = ("data", "release_data/release_data", "release_data")
SPLITS = ("train", "val", "test")
KEYS = {"attributes", *(f"{split}_{what}" for split in SPLITS for what in ("images_name", "label"))}


def find_pa100k(root: Path) -> Path | None:
    """Find the annotation file below ``root`` in either layout; None if there is none."""
    return next((root / name for name in ANNOTATIONS if (root / name).is_file()), None)


def read_pa100k(root: str | Path, on_mismatch: OnMismatch = "raise") -> AttributeDataset:
    """Read PA-100K or a part of it, in either layout. Differences from the published counts go to ``notes``.

    Args:
        root: the folder with the annotations and the images.
        on_mismatch: what to do if files and labels do not match. ``raise``: raise an error that lists them. ``skip``:
            leave them out and list them in ``problems``.

    Raises:
        DataError: annotations or images are missing, the attributes are not PA-100K's 26 in their order, or files and
            labels do not match.
    """
    root = Path(root)
    annotation = find_pa100k(root)
    images = next((root / name for name in IMAGES if (root / name).is_dir()), None)
    if annotation is None or images is None:
        looked = f"{' or '.join(ANNOTATIONS)}, and {' or '.join(IMAGES)}"
        raise DataError(f"{root} is not PA-100K: looked for {looked}")
    content = read_mat(annotation)
    if missing := sorted(KEYS - set(content)):
        raise DataError(f"{annotation} lacks the variables {', '.join(missing)}")
    with checked_structure(annotation):
        names = tuple(as_text(name) for name in content["attributes"])
        if names != ATTRIBUTES:
            raise DataError(
                f"{annotation} has the attributes {', '.join(names)}; PA-100K's are {', '.join(ATTRIBUTES)}"
            )
        found = Found(images, len(ATTRIBUTES))
        found.problems = [f"{annotation.name}: unknown key {key!r}" for key in sorted(set(content) - KEYS)]
        rows = []
        for split in SPLITS:
            files, labels = as_list(content[f"{split}_images_name"]), content[f"{split}_label"]
            if len(files) == 1:
                labels = np.atleast_2d(labels)
            if len(files) != len(labels):
                raise DataError(f"{annotation}: {len(files)} names but {len(labels)} rows of labels in {split}")
            for number, (file, row) in enumerate(zip(files, labels, strict=True), start=1):
                rows.append(Listed(split, as_text(file), row, f"{split} row {number}"))
        found.add_all(rows, list_names(images))
    notes = check_counts(found, PUBLISHED, "PA-100K")
    return finish("pa100k", root, ATTRIBUTES, found, on_mismatch, notes)
