"""Read images for classification from folders, packed files or CIFAR's archives."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from osnet.errors import DataError
from osnet.photos.cifar_archives import read_cifar
from osnet.photos.image_folder import (
    PhotoBytes,
    Photos,
    decode_all,
    hold_out_photos,
    read_photo_folder,
)
from osnet.photos.shards import INDEX_FILE, PackedIndex, read_packed_index

PhotoSet = Photos | PhotoBytes | PackedIndex
SCHEME = re.compile(r"(https?|s3|gs|ais|hf):/+(?=[^/])")
"""Start of a URL. Converting a URL to a ``Path`` and back removes one of its slashes, so one slash is accepted."""
HOLD_OUT_SEED = 0
"""Seed of the choice of held-out images. It is fixed, so that runs with different seeds use the same images."""


@dataclass(frozen=True)
class PhotoDataset:
    """A data set for classification. Its splits have the same classes; a split that does not exist is None."""

    name: str
    classes: tuple[str, ...]
    train: PhotoSet | None = None
    val: PhotoSet | None = None
    test: PhotoSet | None = None

    @property
    def scored(self) -> PhotoSet:
        """The split for evaluation: ``test``, or ``val`` if there is no test, as in ImageNet.

        Raises:
            DataError: there is neither.
        """
        found = self.test if self.test is not None else self.val
        if found is None:
            raise DataError(f"{self.name} has neither test nor val; pass the folder of the images to evaluate")
        return found

    def hold_out(self, num_images: int) -> "PhotoDataset":
        """Move ``num_images`` images from ``train`` to ``val``, with the classes in proportion.

        Returns a new data set. Its ``val`` replaces the existing one.

        Raises:
            DataError: there is no ``train``, it is packed, or it has too few images.
        """
        if self.train is None or isinstance(self.train, PackedIndex):
            raise DataError(f"{self.name}: images can be held out of folders and archives, but not of packed images")
        labels = list(self.train.labels) if isinstance(self.train, Photos) else self.train.labels.tolist()
        rest, held = hold_out_photos(labels, num_images, HOLD_OUT_SEED)
        name = self.train.name
        return replace(self, train=self.train.select(rest), val=self.train.select(held, f"{name}, held out"))

    def in_memory(self) -> "PhotoDataset":
        """Decode all folders into tensors. The images must have one size and should be small.

        Raises:
            DataError: the images have different sizes, or a split is packed.
            ImageError: an image cannot be read.
        """
        return replace(self, train=self._decode(self.train), val=self._decode(self.val), test=self._decode(self.test))

    def _decode(self, part: PhotoSet | None) -> PhotoBytes | None:
        if isinstance(part, PackedIndex):
            raise DataError(f"{self.name}: packed images are read sequentially and cannot be held in memory")
        return decode_all(part) if isinstance(part, Photos) else part


def read_photos(source: str | Path, classes: Sequence[str] | None = None) -> PhotoDataset:
    """Read a data set for classification.

    Args:
        source: a folder with sub-folders ``train``, ``val`` or ``test``, each packed or not; a CIFAR archive; or a URL
            below which there are ``train/packed.json`` and ``val/packed.json``. A folder without any of these
            sub-folders is read as ``test``, because a single folder is usually given for evaluation.
        classes: names of the classes, in order, for example those of a network; default: those of the first split.

    Raises:
        DataError: the data set does not exist or cannot be read, or its classes differ from ``classes`` or between
            splits.
    """
    text = SCHEME.sub(r"\1://", str(source), count=1)
    if "://" in text:
        return _read_address(text.rstrip("/"), classes)
    root = Path(source)
    if root.is_file():
        splits = read_cifar(root)
        _check_classes(splits["train"].classes, classes, root)
        return PhotoDataset(splits["train"].name.split()[0], splits["train"].classes, **splits)
    parts: dict[str, Photos | PackedIndex] = {}
    for split in ("train", "val", "test"):
        if (root / split).is_dir():
            parts[split] = part = _read_part(root / split, classes)
            classes = part.classes
    if not parts:
        parts["test"] = _read_part(root, classes)
    return PhotoDataset(root.resolve().name, next(iter(parts.values())).classes, **parts)


def _read_part(folder: Path, classes: Sequence[str] | None) -> Photos | PackedIndex:
    if not (folder / INDEX_FILE).exists():
        return read_photo_folder(folder, classes)
    index = read_packed_index(folder)
    _check_classes(index.classes, classes, folder)
    return index


def _read_address(address: str, classes: Sequence[str] | None) -> PhotoDataset:
    """Read ``train`` and ``val`` below a URL. If there is neither, read the URL itself as ``test``."""
    parts = {}
    reasons = []
    for split in ("train", "val"):
        try:
            parts[split] = read_packed_index(f"{address}/{split}")
        except DataError as error:
            reasons.append(str(error))
    if not parts:
        try:
            parts["test"] = read_packed_index(address)
        except DataError as error:
            raise DataError(f"{address} has no packed images: {'; '.join([*reasons, str(error)])}") from error
    first = next(iter(parts.values()))
    for part in parts.values():
        _check_classes(part.classes, classes or first.classes, part.source)
    return PhotoDataset(first.name, first.classes, **parts)


def _check_classes(found: Sequence[str], wanted: Sequence[str] | None, source: str | Path) -> None:
    if wanted is not None and tuple(found) != tuple(wanted):
        strange = sorted(set(found) ^ set(wanted))
        which = f"only one of them has {', '.join(strange[:5])}" if strange else "they are in another order"
        raise DataError(f"{source} has {len(found)} classes that differ from the {len(wanted)} expected ones: {which}")
