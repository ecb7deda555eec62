"""Make training samples of crops: read, augment and label them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from osnet.data.augmentation import Augmentation
from osnet.data.loading import check_header, read_pixels
from osnet.data.samplers import BatchSampler
from osnet.errors import DataError, ImageError
from osnet.types import DISTRACTOR_PID, JUNK_PID, Crop, Preprocessing, Split

Key = tuple[int, int, int]
"""(epoch, position in the epoch, index of the crop). Together with the seed, it determines a sample."""


class TrainingSet(Dataset[dict[str, Tensor | int]]):
    """Training samples of crops.

    A sample has ``image`` (3, H, W) float32 and ``label``, the index of the identity: 0 to C-1 in the order of the
    pids.

    Raises:
        DataError: a crop is labelled junk or distractor, or there are fewer than two identities.
    """

    def __init__(
        self, crops: Sequence[Crop], augmentation: Augmentation, preprocessing: Preprocessing, seed: int
    ) -> None:
        _refuse_reserved(crops)
        self.crops = list(crops)
        self.pids = sorted({crop.pid for crop in crops})
        if len(self.pids) < 2:
            raise DataError(f"the training images have {len(self.pids)} identities; training needs at least 2")
        label_of = {pid: label for label, pid in enumerate(self.pids)}
        self.labels = [label_of[crop.pid] for crop in self.crops]
        self.augmentation, self.preprocessing, self.seed = augmentation, preprocessing, seed

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, key: Key) -> dict[str, Tensor | int]:
        """Make one sample. It depends only on the seed and the key."""
        epoch, position, index = key
        rng = np.random.default_rng([self.seed, epoch, position])
        pixels = self.augmentation.apply(self.read(index), self.preprocessing, rng, len(self), self.read)
        return {"image": pixels, "label": self.labels[index]}

    def read(self, index: int) -> Tensor:
        """Read one image: (3, height, width) uint8, RGB."""
        return read_pixels(self.crops[index].path, warn=False)

    def name_of(self, index: int) -> str:
        """File name of an image, for messages."""
        return self.crops[index].path.name


class EpochKeys:
    """The keys of the batches of one epoch for this process, as a batch sampler for a DataLoader.

    A resumed run starts at ``first_batch``.
    """

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
    """Check the header of every image, so that a bad image is found before the training starts.

    Raises:
        DataError: images are missing or cannot be read. The message lists the first five.
    """
    bad: list[str] = []
    for path in paths:
        try:
            check_header(path)
        except ImageError as error:
            bad.append(str(error))
    if bad:
        raise DataError(f"{len(bad)} training images cannot be read: {'; '.join(bad[:5])}")


def _refuse_reserved(crops: Iterable[Crop]) -> None:
    if reserved := [crop.path.name for crop in crops if crop.pid in (JUNK_PID, DISTRACTOR_PID)]:
        raise DataError(
            f"{len(reserved)} training images are labelled junk (identity -1) or distractor (0): "
            f"{', '.join(reserved[:5])}; leave them out, or number people from 1"
        )


def hold_out(split: Split, share: float, seed: int) -> tuple[Split, Split, Split]:
    """Hold out a share of the identities for validation. Returns train, query and gallery.

    For each held-out identity and camera, the first image is a query and the others go to the gallery. For an identity
    without camera labels (negative camids), the first image is a query if there are at least two. If only some images
    of an identity have a camera label, the images without go to the gallery.

    Args:
        split: the training split.
        share: fraction of the identities to hold out, in (0, 1). At least one identity is held out.
        seed: seed of the random choice.

    Raises:
        DataError: a crop is labelled junk or distractor, or no query would have a match. A match is an image of the
            same person in another camera, or without a camera label.
    """
    _refuse_reserved(split.crops)
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
        group = (crop.pid, max(crop.camid, -1))  # all unknown cameras of an identity form one group
        no_query = crop.camid < 0 and (crop.pid in labelled or images[crop.pid] == 1)
        (gallery if group in seen or no_query else query).append(crop)
        seen.add(group)
    if not _has_match(query, gallery):
        advice = "hold out more, or train without validation"
        if not _has_match(split.crops, split.crops):
            advice = (
                "no identity has images in two cameras or two images without a camera label: train without validation"
            )
        raise DataError(
            f"holding out {len(chosen)} of {len(pids)} identities leaves no query with a match in another camera; "
            f"{advice}"
        )
    return Split("train", train), Split("query", tuple(query)), Split("gallery", tuple(gallery))


def _has_match(query: Iterable[Crop], gallery: Iterable[Crop]) -> bool:
    """Whether any query has a gallery image of the same person in another camera."""
    cameras: dict[int, set[int]] = {}
    for crop in gallery:
        cameras.setdefault(crop.pid, set()).add(crop.camid)
    return any(cameras.get(crop.pid, set()) - {crop.camid} for crop in query)
