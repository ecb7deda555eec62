"""Crops as training samples: decoded, augmented, labelled."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from osnet.data.augmentation import Augmentation
from osnet.data.loading import check_header, read_image
from osnet.data.samplers import BatchSampler
from osnet.errors import DataError, ImageError
from osnet.types import DISTRACTOR_PID, JUNK_PID, Crop, Preprocessing, Split

Key = tuple[int, int, int]
"""(epoch, position in the epoch, index of the crop): determines a sample, whichever worker makes it."""


class TrainingSet(Dataset[dict[str, Tensor | int]]):
    """Samples ``image`` (3, H, W) float32 and ``label`` by key; labels are 0..C-1 in the order of the pids."""

    def __init__(
        self, crops: Sequence[Crop], augmentation: Augmentation, preprocessing: Preprocessing, seed: int
    ) -> None:
        if nobody := [crop.path.name for crop in crops if crop.pid in (JUNK_PID, DISTRACTOR_PID)]:
            raise DataError(
                f"{len(nobody)} training images are labelled junk (identity -1) or distractor (0): "
                f"{', '.join(nobody[:5])}; leave them out, or number people from 1"
            )
        self.crops = list(crops)
        self.pids = sorted({crop.pid for crop in crops})
        if len(self.pids) < 2:
            raise DataError(f"{len(self.pids)} identities to train on; it takes at least two")
        label_of = {pid: label for label, pid in enumerate(self.pids)}
        self.labels = [label_of[crop.pid] for crop in self.crops]
        self.augmentation, self.preprocessing, self.seed = augmentation, preprocessing, seed

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, key: Key) -> dict[str, Tensor | int]:
        """The sample is a function of the seed and the key alone."""
        epoch, place, index = key
        rng = np.random.default_rng([self.seed, epoch, place])
        pixels = self.augmentation.apply(self.read(index), self.preprocessing, rng, len(self), self.read)
        return {"image": pixels, "label": self.labels[index]}

    def read(self, index: int) -> Image.Image:
        """One picture, RGB."""
        return read_image(self.crops[index].path)

    def name_of(self, index: int) -> str:
        """The name of the file."""
        return self.crops[index].path.name


class EpochKeys:
    """Keys of one epoch's batches for this process, from a batch on: what a DataLoader iterates over."""

    def __init__(self, sampler: BatchSampler, epoch: int, first_batch: int = 0) -> None:
        self.batches = sampler.batches(epoch)
        self.epoch, self.first_batch = epoch, first_batch
        self.share = sampler.batch_size // sampler.num_ranks
        self.batch_size, self.rank = sampler.batch_size, sampler.rank

    def __len__(self) -> int:
        return len(self.batches) - self.first_batch

    def __iter__(self) -> Iterator[list[Key]]:
        for number in range(self.first_batch, len(self.batches)):
            start = number * self.batch_size + self.rank * self.share
            yield [(self.epoch, start + i, index) for i, index in enumerate(self.batches[number])]


def check_headers(paths: Iterable[Path]) -> None:
    """Look at the beginning of every image now, rather than meet a bad one after an hour.

    Raises:
        DataError: naming the first of those that are missing or no images.
    """
    bad: list[str] = []
    for path in paths:
        try:
            check_header(path)
        except ImageError as error:
            bad.append(str(error))
    if bad:
        raise DataError(f"{len(bad)} images cannot be trained on: {'; '.join(bad[:5])}")


def hold_out(split: Split, share: float, seed: int) -> tuple[Split, Split, Split]:
    """Train, query, gallery: a share of the identities, held out to choose by.

    Of each held-out identity and camera, the first image is a query and the rest are in the gallery. Of an identity
    without camera labels (negative camids) the first image is a query, if there are more. Where only some of its images
    have a label, those without are in the gallery.

    Raises:
        DataError: no held-out query would have a match: with camera labels, one in another camera.
    """
    pids = sorted(set(split.pids))
    chosen = set(np.random.default_rng([seed, 77]).permutation(pids)[: max(1, round(share * len(pids)))].tolist())
    train = tuple(crop for crop in split.crops if crop.pid not in chosen)
    images = Counter(split.pids)
    labelled = {crop.pid for crop in split.crops if crop.camid >= 0}
    query: list[Crop] = []
    gallery: list[Crop] = []
    seen: set[tuple[int, int]] = set()
    for crop in split.crops:
        if crop.pid not in chosen:
            continue
        place = (crop.pid, max(crop.camid, -1))  # all that is unknown counts as one place
        alone = crop.camid < 0 and (crop.pid in labelled or images[crop.pid] == 1)
        (gallery if place in seen or alone else query).append(crop)
        seen.add(place)
    if not _has_match(query, gallery):
        advice = "hold out more, or train without validation"
        if not _has_match(split.crops, split.crops):
            advice = "nobody has images in two cameras, nor two without a camera label: train without validation"
        raise DataError(
            f"holding out {len(chosen)} of {len(pids)} identities leaves no query with a match in another camera; "
            f"{advice}"
        )
    return Split("train", train), Split("query", tuple(query)), Split("gallery", tuple(gallery))


def _has_match(query: Iterable[Crop], gallery: Iterable[Crop]) -> bool:
    """Is there a query with an image of the same person in another camera?"""
    there: dict[int, set[int]] = {}
    for crop in gallery:
        there.setdefault(crop.pid, set()).add(crop.camid)
    return any(there.get(crop.pid, set()) - {crop.camid} for crop in query)
