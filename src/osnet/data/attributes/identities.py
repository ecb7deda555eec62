"""Attribute data sets with identities: Market-1501, and the generated people.

Market-1501's labels (Lin et al., "Improving Person Re-identification by Attribute and Identity Learning", 2019) belong
to identities: all images of a person have the same labels. They are in the file ``market_attribute.mat``.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from osnet.data.attributes.dataset import AttributeDataset, AttributeSplit, Found, OnMismatch, as_list, finish, read_mat
from osnet.data.attributes.pa100k import ATTRIBUTES
from osnet.data.folder import inside
from osnet.data.reid.market1501 import find_market1501, read_market1501
from osnet.errors import DataError
from osnet.synthetic.generate import ANNOTATIONS_FILE, GROUP, read_annotations
from osnet.types import DISTRACTOR_PID, Crop

MARKET_FILE = "market_attribute.mat"
MEANING_OF_2 = {
    "gender": "female",
    "hair": "long hair",
    "up": "short sleeve",
    "down": "short lower body clothing",
    "clothes": "pants",
}
"""Meaning of the value 2 in these columns, from the data set's description; in all other columns 2 means yes."""
AGES = ("young", "teenager", "adult", "old")
NUM_COLUMNS = 27
PUBLISHED_IDENTITIES = {"train": 751, "test": 750}
VALIDATION_EVERY = 10
"""Every tenth training identity goes to ``val``, so the splits share no identity."""


def find_market_labels(root: Path) -> Path | None:
    """Find ``market_attribute.mat`` in ``root`` or in the data set's folder below it."""
    folders = [root, find_market1501(root)]
    return next((f / MARKET_FILE for f in folders if f is not None and (f / MARKET_FILE).is_file()), None)


def read_market_attributes(
    root: str | Path, on_mismatch: OnMismatch = "raise", labels: str | Path | None = None
) -> AttributeDataset:
    """Read Market-1501 with identities and 30 attributes: 26 binary ones and four age groups.

    The training identities form ``train``, except every tenth, which goes to ``val``. Query and gallery form ``test``.
    Distractors and junk have no labels and are left out.

    Args:
        root: folder of Market-1501.
        on_mismatch: see ``read_pa100k``.
        labels: path of ``market_attribute.mat``; default: searched in ``root``.

    Raises:
        DataError: the folder is not Market-1501, the label file is missing or malformed, or an identity has no labels
            or no images.
    """
    root = Path(root)
    path = Path(labels) if labels is not None else find_market_labels(root)
    if path is None:
        raise DataError(f"{root} has no {MARKET_FILE}")
    names, of_split, counts = read_market_labels(path)
    dataset = read_market1501(root)
    found = Found(dataset.root, len(names))
    train_pids = sorted({crop.pid for crop in dataset.train.crops} & set(of_split["train"]))
    validating = set(train_pids[VALIDATION_EVERY - 1 :: VALIDATION_EVERY])
    test = [crop for part in (dataset.query, dataset.gallery) for crop in part.crops if crop.pid > DISTRACTOR_PID]
    for part, crops in (("train", list(dataset.train.crops)), ("test", test)):
        with_images = {crop.pid for crop in crops}
        for pid in sorted(with_images - set(of_split[part])):
            found.problems.append(f"identity {pid:04d} of {part}: images without labels")
        for pid in sorted(set(of_split[part]) - with_images):
            found.problems.append(f"identity {pid:04d} of {part}: labels without images")
        for crop in crops:
            if crop.pid in of_split[part]:
                split = "val" if part == "train" and crop.pid in validating else part
                found.crops[split].append(crop)
                found.labels[split].append(of_split[part][crop.pid])
    return finish(dataset.name, dataset.root, names, found, on_mismatch, counts)


def read_market_labels(path: Path) -> tuple[list[str], dict[str, dict[int, Any]], list[str]]:
    """Read ``market_attribute.mat``.

    Returns:
        The 30 attribute names; split -> identity -> labels, float32 (30,); notes on counts that differ from the
        published ones.

    Raises:
        DataError: the file does not have the structure of ``market_attribute.mat``.
    """
    content = read_mat(path).get("market_attribute")
    if not isinstance(content, dict) or not {"train", "test"} <= set(content):
        raise DataError(f"{path} has no structure 'market_attribute' with train and test")
    columns = sorted(set(content["train"]) - {"image_index", "age"})
    if set(content["test"]) != set(content["train"]) or len(columns) + 1 != NUM_COLUMNS:
        raise DataError(f"{path} has {len(columns) + 1} attributes, or test and train differ; expected 27")
    names = [MEANING_OF_2.get(column, column) for column in columns] + list(AGES)
    of_split: dict[str, dict[int, Any]] = {}
    for part in ("train", "test"):
        table = content[part]
        try:
            pids = [int(name) for name in as_list(table["image_index"])]
            values = np.stack([np.atleast_1d(table[column]) for column in columns], axis=1)
            ages = np.atleast_1d(table["age"])
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise DataError(f"{path}: {part} cannot be read: {error}") from error
        if not len(pids) == len(values) == len(ages):
            raise DataError(f"{path}: {part} has {len(pids)} identities, but {len(values)} rows and {len(ages)} ages")
        if not np.isin(values, (1, 2)).all() or not np.isin(ages, (1, 2, 3, 4)).all():
            raise DataError(f"{path}: {part} has values other than 1 and 2 (1 to 4 for the age)")
        rows = np.concatenate([values == 2, ages[:, None] == np.arange(1, 5)], axis=1).astype(np.float32)
        of_split[part] = dict(zip(pids, rows, strict=True))
    notes = [
        f"{part} has {len(of_split[part])} identities; {count} as published"
        for part, count in PUBLISHED_IDENTITIES.items()
        if len(of_split[part]) != count
    ]
    return names, of_split, notes


def read_generated_attributes(root: str | Path) -> AttributeDataset:
    """Read a generated data set with identities and PA-100K's 26 attributes.

    Identities are generated in groups of four. The last eighth of the training groups becomes ``val``; if there are at
    least two groups, at least one.

    Raises:
        DataError: ``root`` is not a generated data set, or a path in its annotations is outside it.
    """
    root = Path(root)
    notes = read_annotations(root)
    crops: dict[str, list[Crop]] = {"train": [], "test": []}
    labels: dict[str, list[list[float]]] = {"train": [], "test": []}
    for file, note in sorted(notes.items()):
        part = "train" if file.startswith("bounding_box_train/") else "test"
        path = inside(root, file, f"{root / ANNOTATIONS_FILE}")
        crops[part].append(Crop(path, note.pid, note.camid, f"{note.pid:04d}", str(note.camid)))
        labels[part].append([float(name in note.attributes) for name in ATTRIBUTES])
    pids = sorted({crop.pid for crop in crops["train"]})
    fours = len(pids) // GROUP
    held = set(pids[-GROUP * max(1, fours // 8) :]) if fours > 1 else set()
    everyone = AttributeSplit("train", tuple(crops["train"]), np.array(labels["train"], dtype=np.float32))
    train, val = (_rows(everyone, held, inside) for inside in (False, True))
    test = AttributeSplit("test", tuple(crops["test"]), np.array(labels["test"], dtype=np.float32))
    return AttributeDataset(root.resolve().name, root, ATTRIBUTES, train, val, test)


def _rows(split: AttributeSplit, pids: Iterable[int], inside: bool) -> AttributeSplit:
    rows = [i for i, crop in enumerate(split.crops) if (crop.pid in pids) == inside]
    return split.take(rows, "val" if inside else "train")
