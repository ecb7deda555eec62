"""Make training samples with attributes, identities or both, and join data sets that have them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from osnet.data.attributes.dataset import NO_IDENTITY, AttributeDataset, AttributeSplit, Labels
from osnet.data.augmentation import Augmentation
from osnet.data.joining import join_training
from osnet.data.loading import read_pixels
from osnet.data.training_set import Key
from osnet.errors import DataError
from osnet.types import DISTRACTOR_PID, Preprocessing, ReidDataset

NO_LABEL = -1
UNNUMBERED = (NO_IDENTITY, DISTRACTOR_PID)
"""Pids that are no identity and keep their number when data sets are joined."""


class AttributeSamples(Dataset[dict[str, Tensor | int]]):
    """Training samples of a split.

    A sample has ``image`` (3, H, W) float32, ``attributes`` (A,) float32 with 0, 1 or NaN, and ``label``: the index of
    the identity, 0 to C-1 in the order of the pids, or -1 if it is unknown.
    """

    def __init__(
        self, split: AttributeSplit, augmentation: Augmentation, preprocessing: Preprocessing, seed: int
    ) -> None:
        self.split = split
        self.pids = sorted({crop.pid for crop in split.crops} - {NO_IDENTITY})
        label_of = {pid: label for label, pid in enumerate(self.pids)} | {NO_IDENTITY: NO_LABEL}
        self.labels = [label_of[crop.pid] for crop in split.crops]
        self.attributes = torch.from_numpy(split.labels.astype(np.float32))
        self.augmentation, self.preprocessing, self.seed = augmentation, preprocessing, seed

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: Key) -> dict[str, Tensor | int]:
        """Make one sample. It depends only on the seed and the key."""
        epoch, position, index = key
        rng = np.random.default_rng([self.seed, epoch, position])
        crops = self.split.crops
        image = self.augmentation.apply(
            read_pixels(crops[index].path, warn=False),
            self.preprocessing,
            rng,
            len(crops),
            lambda donor: read_pixels(crops[donor].path, warn=False),
        )
        return {"image": image, "attributes": self.attributes[index], "label": self.labels[index]}

    def name_of(self, index: int) -> str:
        """File name of an image, for messages."""
        return self.split.crops[index].path.name


def join_labels(datasets: Sequence[AttributeDataset | ReidDataset]) -> AttributeDataset:
    """Join data sets with identities, attributes or both. Labels that a data set lacks become unknown.

    The attributes are those of all data sets, in order of first appearance; equal names mean the same attribute. Pids
    and camids continue from one data set to the next; ``dsetid`` is the index in ``datasets``. Re-identification data
    sets contribute only their train split.

    Raises:
        DataError: ``datasets`` is empty, or a training image is labelled distractor.
    """
    if not datasets:
        raise DataError("no data set to train on: pass at least one")
    names = list(dict.fromkeys(name for d in datasets if isinstance(d, AttributeDataset) for name in d.attributes))
    parts: dict[str, list[AttributeSplit]] = {"train": [], "val": [], "test": []}
    first_pid, first_camid = 1, 1
    for dsetid, dataset in enumerate(datasets):
        if isinstance(dataset, ReidDataset):
            crops = join_training([dataset]).train.crops
            all_unknown = np.full((len(crops), len(names)), np.nan, dtype=np.float32)
            splits: tuple[AttributeSplit, ...] = (AttributeSplit("train", crops, all_unknown),)
        else:
            splits = dataset.select(names).splits if names else dataset.splits
        pids = sorted({crop.pid for split in splits for crop in split.crops} - set(UNNUMBERED))
        camids = sorted({crop.camid for split in splits for crop in split.crops})
        pid_of = {pid: first_pid + i for i, pid in enumerate(pids)} | {pid: pid for pid in UNNUMBERED}
        camid_of = {camid: first_camid + i for i, camid in enumerate(camids)}
        first_pid, first_camid = first_pid + len(pids), first_camid + len(camids)
        for split in splits:
            crops = tuple(
                replace(crop, pid=pid_of[crop.pid], camid=camid_of[crop.camid], dsetid=dsetid) for crop in split.crops
            )
            parts[split.name].append(replace(split, crops=crops))
    train, val, test = (_join_parts(name, parts[name], len(names)) for name in ("train", "val", "test"))
    labelled = [d for d in datasets if isinstance(d, AttributeDataset)]
    return AttributeDataset(
        "+".join(d.name for d in datasets),
        datasets[0].root,
        tuple(names),
        train,
        val,
        test,
        tuple(p for d in labelled for p in d.problems),
        tuple(n for d in labelled for n in d.notes),
    )


def _join_parts(name: str, parts: Sequence[AttributeSplit], num_attributes: int) -> AttributeSplit:
    nothing: Labels = np.empty((0, num_attributes), dtype=np.float32)
    crops = tuple(crop for part in parts for crop in part.crops)
    if distractors := [crop.path.name for crop in crops if crop.pid == DISTRACTOR_PID]:
        raise DataError(
            f"{len(distractors)} training images are labelled distractor (identity 0): {', '.join(distractors[:5])}; "
            "leave them out"
        )
    return AttributeSplit(name, crops, np.concatenate([nothing, *(part.labels for part in parts)]))
