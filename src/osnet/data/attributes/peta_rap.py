"""Read PETA and RAP from their MATLAB files. Written after public code that reads them; not tested on the real files.

    PETA (Deng et al., ACM MM 2014):  ROOT/PETA.mat                           ROOT/images/00001.png
    RAP 1 and 2 (Li et al.):          ROOT/RAP_annotation/RAP_annotation.mat  ROOT/RAP_dataset/*.png

Fields of a structure are read by position, as in other public code:
    peta            labels (19000, 4 + 105), names, _, partitions of (train, val, test)
    RAP_annotation  RAP 1: partitions of (train, test), labels (41585, 92), _, names, _, files
                    RAP 2: files, labels (84928, 152), names, selected, partitions of (train, val, test)
Numbers in partitions begin at 1.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from osnet.data.attributes.dataset import (
    AttributeDataset,
    Found,
    Listed,
    OnMismatch,
    as_text,
    check_counts,
    finish,
    list_names,
    read_mat,
)
from osnet.data.reid.layout import checked_structure
from osnet.errors import DataError

NUM_PARTITIONS = 5
PETA_EVALUATED = 35
"""The first 35 of PETA's 105 columns are the binary attributes that are scored."""
RAP1_EVALUATED = 51
"""The first 51 of RAP 1's 92."""
COUNTS = {
    "peta": {"train": 9_500, "val": 1_900, "test": 7_600},
    "rap1": {"train": 33_268, "test": 8_317},
    "rap2": {"train": 50_957, "val": 16_986, "test": 16_985},
}
PETA_FILE, RAP_FILE = "PETA.mat", "RAP_annotation/RAP_annotation.mat"


def read_peta(root: str | Path, on_mismatch: OnMismatch = "raise", partition: int = 0) -> AttributeDataset:
    """Read PETA with its 35 evaluated attributes.

    Args:
        root: the folder with ``PETA.mat``.
        on_mismatch: what to do if files and labels do not match; see ``read_pa100k``.
        partition: index of one of the five random splits, from 0.

    Raises:
        DataError: the file is missing, cannot be read or does not have PETA's structure, ``partition`` is out of range,
            or files and labels do not match.
    """
    root = Path(root)
    with checked_structure(root / PETA_FILE):
        fields = _fields(root / PETA_FILE, "peta", 4)
        labels = np.asarray(fields[0])
        if labels.ndim != 2 or labels.shape[1] < 4 + PETA_EVALUATED:
            raise DataError(f"{root / PETA_FILE}: labels of shape {labels.shape}; PETA's are (19000, 109)")
        names = [as_text(name) for name in fields[1]][:PETA_EVALUATED]
        files = [f"{number:05d}.png" for number in range(1, len(labels) + 1)]
        parts = _partition(fields[3], partition, ("train", "val", "test"), len(files), root / PETA_FILE)
        return _build(
            "peta", root, root / "images", names, files, labels[:, 4 : 4 + PETA_EVALUATED], parts, on_mismatch
        )


def read_rap(root: str | Path, on_mismatch: OnMismatch = "raise", partition: int = 0) -> AttributeDataset:
    """Read RAP 1 with its 51 evaluated attributes, or RAP 2 with the attributes that its file selects.

    RAP 1 has no validation split, so training keeps the weights of the last epoch. In RAP 2, the label 2 means
    "uncertain" and is read as unknown (NaN).

    Args:
        root: the folder with ``RAP_annotation`` and ``RAP_dataset``.
        on_mismatch: what to do if files and labels do not match; see ``read_pa100k``.
        partition: index of one of the five random splits, from 0.

    Raises:
        DataError: the file is missing, cannot be read or does not have RAP's structure, ``partition`` is out of range,
            or files and labels do not match.
    """
    root = Path(root)
    path = root / RAP_FILE
    with checked_structure(path):
        fields = _fields(path, "RAP_annotation", 5)
        if all(isinstance(name, str) for name in np.asarray(fields[0]).ravel()):
            name, files, all_names = "rap2", [as_text(f) for f in fields[0]], [as_text(n) for n in fields[2]]
            columns = [int(number) - 1 for number in np.asarray(fields[3]).ravel()]
            parts = _partition(fields[4], partition, ("train", "val", "test"), len(files), path)
        else:
            if len(fields) < 6:
                raise DataError(f"{path} has {len(fields)} fields; RAP 1 has 6 or more")
            name, files, all_names = "rap1", [as_text(f) for f in fields[5]], [as_text(n) for n in fields[3]]
            columns = list(range(RAP1_EVALUATED))
            parts = _partition(fields[0], partition, ("train", "test"), len(files), path)
        labels = np.asarray(fields[1]).astype(np.float32)
        if labels.ndim != 2 or len(labels) != len(files) or not all(0 <= c < labels.shape[1] for c in columns):
            raise DataError(
                f"{path}: labels of shape {labels.shape} do not fit {len(files)} files, {len(columns)} names"
            )
        if name == "rap2":
            labels[labels == 2] = np.nan
        names = [all_names[column] for column in columns]
        return _build(name, root, root / "RAP_dataset", names, files, labels[:, columns], parts, on_mismatch)


def _fields(path: Path, key: str, at_least: int) -> list[Any]:
    content = read_mat(path)
    structure = content.get(key)
    if not isinstance(structure, dict) or len(structure) < at_least:
        raise DataError(f"{path} has no structure {key!r} of at least {at_least} fields; it has {sorted(content)}")
    return list(structure.values())


def _partition(partitions: Any, number: int, splits: Sequence[str], num_files: int, path: Path) -> dict[str, list[int]]:
    """Row indices, from 0, of each split."""
    choices = [partitions] if isinstance(partitions, dict) else list(partitions)
    if not 0 <= number < len(choices):
        raise DataError(f"{path} has no partition {number}; choose from 0 to {len(choices) - 1}")
    chosen = choices[number]
    values = list(chosen.values()) if isinstance(chosen, dict) else []
    if len(values) < len(splits):
        raise DataError(f"{path}: a partition has {len(values)} parts instead of {', '.join(splits)}")
    parts = {}
    for split, value in zip(splits, values, strict=False):
        rows = np.asarray(value).ravel().astype(np.int64) - 1
        if len(rows) and not (rows.min() >= 0 and rows.max() < num_files):
            raise DataError(
                f"{path}: {split} lists the images {rows.min() + 1} to {rows.max() + 1}; there are 1 to {num_files}"
            )
        parts[split] = rows.tolist()
    return parts


def _build(
    name: str,
    root: Path,
    images: Path,
    names: Sequence[str],
    files: Sequence[str],
    labels_NA: np.ndarray,
    parts: dict[str, list[int]],
    on_mismatch: OnMismatch,
) -> AttributeDataset:
    if not all(names) or len(set(names)) != len(names):
        raise DataError(f"{root}: attribute names must be non-empty and distinct: {', '.join(names)}")
    found = Found(images, len(names))
    listed = {row for rows in parts.values() for row in rows}
    rows = [
        Listed(split, files[i], labels_NA[i], f"{split} image {i + 1}") for split, part in parts.items() for i in part
    ]
    unused = {files[i] for i in range(len(files)) if i not in listed}  # labelled, but not in this partition
    found.add_all(rows, list_names(images) - unused)
    return finish(name, root, names, found, on_mismatch, check_counts(found, COUNTS[name], name))
