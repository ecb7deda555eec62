"""Attributes of people whose identity is known too: Market-1501's, and generated people's.

Market-1501's labels (Lin et al., "Improving Person Re-identification by Attribute and Identity Learning", 2019) are of
identities: every image of a person gets the same ones. The file ``market_attribute.mat`` lies in the data set's folder.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from osnet.data.attributes.dataset import AttributeDataset, AttributeSplit, Found, OnMismatch, finish, read_mat
from osnet.data.attributes.pa100k import ATTRIBUTES
from osnet.data.reid.market1501 import find_market1501, read_market1501
from osnet.errors import DataError
from osnet.synthetic.generate import GROUP, read_annotations
from osnet.types import DISTRACTOR_PID, Crop

MARKET_FILE = "market_attribute.mat"
MEANING_OF_2 = {
    "gender": "female",
    "hair": "long hair",
    "up": "short sleeve",
    "down": "short lower body clothing",
    "clothes": "pants",
}
"""What the value 2 means where the column's name does not say it (the data's own description); elsewhere it is yes."""
AGES = ("young", "teenager", "adult", "old")
NUM_COLUMNS = 27
PUBLISHED_IDENTITIES = {"train": 751, "test": 750}
VALIDATION_EVERY = 10
"""Every tenth training identity validates, so that nobody is in two parts."""


def find_market_labels(root: Path) -> Path | None:
    """``market_attribute.mat`` in ``root`` or in the data set's folder below it."""
    folders = [root, find_market1501(root)]
    return next((f / MARKET_FILE for f in folders if f is not None and (f / MARKET_FILE).is_file()), None)


def read_market_attributes(
    root: str | Path, on_mismatch: OnMismatch = "raise", labels: str | Path | None = None
) -> AttributeDataset:
    """Market-1501's images with their identities and 30 attributes: 26 yes-or-no ones and four ages.

    Training identities train, every tenth of them validates; query and gallery are the test part. Distractors and
    junk have no labels and are left out.

    Args:
        root: Market-1501's folder.
        on_mismatch: as for ``read_pa100k``.
        labels: ``market_attribute.mat``, where it lies elsewhere.

    Raises:
        DataError: not the layout, not the labels' form, or identities without labels or without images.
    """
    root = Path(root)
    path = Path(labels) if labels is not None else find_market_labels(root)
    if path is None:
        raise DataError(f"no {MARKET_FILE} in {root}")
    names, of_split, counts = read_market_labels(path)
    dataset = read_market1501(root)
    found = Found(dataset.root, len(names))
    train_pids = sorted({crop.pid for crop in dataset.train.crops} & set(of_split["train"]))
    validating = set(train_pids[VALIDATION_EVERY - 1 :: VALIDATION_EVERY])
    test = [crop for part in (dataset.query, dataset.gallery) for crop in part.crops if crop.pid > DISTRACTOR_PID]
    for part, crops in (("train", list(dataset.train.crops)), ("test", test)):
        there = {crop.pid for crop in crops}
        for pid in sorted(there - set(of_split[part])):
            found.problems.append(f"identity {pid:04d} of {part}: images without labels")
        for pid in sorted(set(of_split[part]) - there):
            found.problems.append(f"identity {pid:04d} of {part}: labels without images")
        for crop in crops:
            if crop.pid in of_split[part]:
                split = "val" if part == "train" and crop.pid in validating else part
                found.crops[split].append(crop)
                found.labels[split].append(of_split[part][crop.pid])
    return finish(dataset.name, dataset.root, names, found, on_mismatch, counts)


def read_market_labels(path: Path) -> tuple[list[str], dict[str, dict[int, Any]], list[str]]:
    """Names of the 30 columns; part -> identity -> float32 (30,); notes on counts that are not the published ones.

    Raises:
        DataError: not the form of ``market_attribute.mat``.
    """
    content = read_mat(path).get("market_attribute")
    if not isinstance(content, dict) or not {"train", "test"} <= set(content):
        raise DataError(f"{path} holds no structure 'market_attribute' with train and test")
    columns = sorted(set(content["train"]) - {"image_index", "age"})
    if set(content["test"]) != set(content["train"]) or len(columns) + 1 != NUM_COLUMNS:
        raise DataError(f"{path} has {len(columns) + 1} attributes, or others in test than in train; there are 27")
    names = [MEANING_OF_2.get(column, column) for column in columns] + list(AGES)
    of_split: dict[str, dict[int, Any]] = {}
    for part in ("train", "test"):
        table = content[part]
        pids = [int(name) for name in table["image_index"]]
        values = np.stack([np.asarray(table[column]) for column in columns], axis=1)
        ages = np.asarray(table["age"])
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
    """Generated people with their identities and PA-100K's 26 attributes.

    Of the training people, an eighth (whole fours, at least one four where there are two) validates.

    Raises:
        DataError: ``root`` is no generated data set.
    """
    root = Path(root)
    notes = read_annotations(root)
    crops: dict[str, list[Crop]] = {"train": [], "test": []}
    labels: dict[str, list[list[float]]] = {"train": [], "test": []}
    for file, note in sorted(notes.items()):
        part = "train" if file.startswith("bounding_box_train/") else "test"
        crops[part].append(Crop(root / file, note.pid, note.camid, f"{note.pid:04d}", str(note.camid)))
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
