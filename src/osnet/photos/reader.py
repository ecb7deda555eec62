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
"""An address; one that was made a ``Path`` has lost a slash."""
HOLD_OUT_SEED = 0
"""Whatever a run's seed: runs that differ in it are chosen by the same images."""


@dataclass(frozen=True)
class PhotoDataset:
    """Photographs to learn from, to choose by, and to test on; those that are there. All have the same classes."""

    name: str
    classes: tuple[str, ...]
    train: PhotoSet | None = None
    val: PhotoSet | None = None
    test: PhotoSet | None = None

    @property
    def scored(self) -> PhotoSet:
        """What is tested on: ``test``; else ``val``, which is ImageNet's test in all but name.

        Raises:
            DataError: there is neither.
        """
        found = self.test if self.test is not None else self.val
        if found is None:
            raise DataError(f"{self.name} has neither test nor val; name the folder of what is to be scored itself")
        return found

    def hold_out(self, num_images: int) -> "PhotoDataset":
        """With that many images taken from ``train``, the classes in proportion, instead of ``val``.

        Raises:
            DataError: packed photographs, which are read in one piece, or too many to be taken.
        """
        if self.train is None or isinstance(self.train, PackedIndex):
            raise DataError(f"{self.name}: images can be held out of folders and archives, not of packed photographs")
        labels = list(self.train.labels) if isinstance(self.train, Photos) else self.train.labels.tolist()
        rest, held = hold_out_photos(labels, num_images, HOLD_OUT_SEED)
        name = self.train.name
        return replace(self, train=self.train.select(rest), val=self.train.select(held, f"{name}, held out"))

    def in_memory(self) -> "PhotoDataset":
        """With folders decoded into tensors, for small images of one size.

        Raises:
            DataError: images of different sizes, or packed photographs.
            ImageError: an image cannot be read.
        """
        return replace(self, train=self._decode(self.train), val=self._decode(self.val), test=self._decode(self.test))

    def _decode(self, part: PhotoSet | None) -> PhotoBytes | None:
        if isinstance(part, PackedIndex):
            raise DataError(f"{self.name}: packed photographs are read from front to back, not held in memory")
        return decode_all(part) if isinstance(part, Photos) else part


def read_photos(source: str | Path, classes: Sequence[str] | None = None) -> PhotoDataset:
    """Folders ``train``, ``val``, ``test`` (each of them packed or not), or one of CIFAR's archives.

    A folder without any of these is read as ``test``, because a single folder is usually given for evaluation.

    Args:
        source: a folder, an archive, or an address below which ``train/packed.json`` (and ``val/packed.json``) lie.
        classes: the classes and their order, where a network knows them; by default those of what is read first.

    Raises:
        DataError: nothing that can be read, or other classes than these.
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
    """``train`` and ``val`` below it; or, if there is no ``train``, the address itself as ``test``."""
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
            raise DataError(f"{address} has no packed photographs: {'; '.join([*reasons, str(error)])}") from error
    first = next(iter(parts.values()))
    for part in parts.values():
        _check_classes(part.classes, classes or first.classes, part.source)
    return PhotoDataset(first.name, first.classes, **parts)


def _check_classes(found: Sequence[str], wanted: Sequence[str] | None, source: str | Path) -> None:
    if wanted is not None and tuple(found) != tuple(wanted):
        strange = sorted(set(found) ^ set(wanted))
        which = f"not in both: {', '.join(strange[:5])}" if strange else "the same in another order"
        raise DataError(f"{source} has {len(found)} classes, which are not the {len(wanted)} expected; {which}")
