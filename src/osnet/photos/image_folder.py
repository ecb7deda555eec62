"""Photographs with a class each: folders in ImageNet's layout, and the same in memory as bytes.

Root/train/n01440764/n01440764_10026.JPEG    the class is the first folder below the split
Root/val/n01440764/ILSVRC2012_val_00000293.JPEG
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from osnet.data.loading import list_images, read_pixels
from osnet.data.training_set import Key
from osnet.errors import DataError
from osnet.photos.photo_augmentation import PhotoAugmentation
from osnet.types import Preprocessing


@dataclass(frozen=True)
class Photos:
    """Image files, each with a class."""

    name: str
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    """For each path, an index into ``classes``."""
    classes: tuple[str, ...]
    """Names of the classes; label 0 is the first."""

    def __len__(self) -> int:
        return len(self.paths)

    def select(self, indices: Sequence[int], name: str | None = None) -> "Photos":
        """Those photographs, in that order."""
        paths, labels = tuple(self.paths[i] for i in indices), tuple(self.labels[i] for i in indices)
        return replace(self, name=name or self.name, paths=paths, labels=labels)


@dataclass(frozen=True)
class PhotoBytes:
    """Images of one size as bytes in memory (or on a GPU), each with a class."""

    name: str
    pixels: Tensor
    """(N, 3, H, W) uint8, RGB."""
    labels: Tensor
    """(N,) int64, indices into ``classes``."""
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Sequence[int], name: str | None = None) -> "PhotoBytes":
        """Those images, in that order."""
        chosen = torch.as_tensor(indices, dtype=torch.long, device=self.labels.device)
        return replace(self, name=name or self.name, pixels=self.pixels[chosen], labels=self.labels[chosen])


def read_photo_folder(root: str | Path, classes: Sequence[str] | None = None) -> Photos:
    """Any folder with a sub-folder for each class, at whatever depth below it the images lie.

    Args:
        root: the folder.
        classes: the classes and their order; by default the sub-folders' names, sorted. A class without images is
            then no error (a sample of a data set may lack some), a sub-folder that is no class is one.

    Raises:
        DataError: no such folder, no sub-folders, one without images, images beside the sub-folders, or a class
            that is not in ``classes``.
    """
    root = Path(root)
    found: dict[str, list[Path]] = {}
    loose: list[str] = []
    for path in list_images(root):
        parts = path.relative_to(root).parts
        if len(parts) == 1:
            loose.append(parts[0])
        else:
            found.setdefault(parts[0], []).append(path)
    if loose:
        raise DataError(f"{root}: {len(loose)} images are in no class's folder: {', '.join(loose[:5])}")
    folders = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if empty := [name for name in folders if name not in found]:
        raise DataError(f"{root}: {len(empty)} classes have no images: {', '.join(empty[:5])}")
    if not found:
        raise DataError(f"{root} has no sub-folders with images; each class has one, such as {root / 'cat'}/1.jpg")
    names = tuple(classes) if classes is not None else tuple(sorted(found))
    if strange := sorted(set(found) - set(names)):
        raise DataError(
            f"{root}: {len(strange)} folders are none of the {len(names)} classes: {', '.join(strange[:5])}"
        )
    label_of = {name: label for label, name in enumerate(names)}
    pairs = [(path, label_of[name]) for name in names if name in found for path in sorted(found[name])]
    return Photos(root.name, tuple(path for path, _ in pairs), tuple(label for _, label in pairs), names)


def hold_out_photos(labels: Sequence[int], num_images: int, seed: int) -> tuple[list[int], list[int]]:
    """Indices of the rest, and of ``num_images`` held out; both sorted, disjoint, and with the classes in proportion.

    Each class gives its share, rounded down; the largest remainders give one more each (ties to the lower label).

    Raises:
        DataError: fewer images than that, or so many that a class would be left without any.
    """
    every = np.asarray(labels)
    if not 0 < num_images < len(every):
        raise DataError(f"{num_images} images cannot be held out of {len(every)}; choose 1 to {len(every) - 1}")
    values, counts = np.unique(every, return_counts=True)
    shares = counts * num_images / len(every)
    take = np.floor(shares).astype(int)
    for index in np.argsort(-(shares - take), kind="stable")[: num_images - int(take.sum())]:
        take[index] += 1
    if bare := [int(v) for v, t, c in zip(values, take, counts, strict=True) if t == c]:
        raise DataError(
            f"holding out {num_images} of {len(every)} images leaves nothing of class {bare[0]}; hold out fewer"
        )
    rng = np.random.default_rng([seed, 78])
    held = np.concatenate([rng.permutation(np.flatnonzero(every == v))[:t] for v, t in zip(values, take, strict=True)])
    return sorted(set(range(len(every))) - set(held.tolist())), sorted(held.tolist())


def decode_all(photos: Photos) -> PhotoBytes:
    """Every photograph decoded into one tensor, for images that all have one size, such as CIFAR's.

    Raises:
        DataError: an image has another size than the first.
        ImageError: an image cannot be read.
    """
    pixels: Tensor | None = None
    for index, path in enumerate(photos.paths):
        image = read_pixels(path)
        if pixels is None:
            pixels = torch.empty((len(photos), *image.shape), dtype=torch.uint8)
        if image.shape != pixels.shape[1:]:
            height, width = pixels.shape[2:]
            raise DataError(f"{path} is {image.shape[1]} x {image.shape[2]}, the first image {height} x {width}")
        pixels[index] = image
    if pixels is None:
        raise DataError(f"{photos.name} has no images")
    return PhotoBytes(photos.name, pixels, torch.tensor(photos.labels), photos.classes)


class PhotoSamples(Dataset[dict[str, Tensor | int]]):
    """Samples ``image`` (3, H, W) and ``label``, each a function of the seed and its key alone.

    Args:
        photos: what they are made of.
        augmentation: what training does to them.
        preprocessing: sizes and normalisation.
        seed: of the draws.
        as_bytes: True gives uint8, to be normalised later by batch, which is faster and moves a quarter of the
            data. False gives float32, normalised.
    """

    def __init__(
        self,
        photos: Photos,
        augmentation: PhotoAugmentation,
        preprocessing: Preprocessing,
        seed: int,
        as_bytes: bool = False,
    ) -> None:
        self.photos, self.augmentation, self.preprocessing = photos, augmentation, preprocessing
        self.labels = list(photos.labels)
        self.seed, self.as_bytes = seed, as_bytes

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, key: Key) -> dict[str, Tensor | int]:
        """One sample."""
        epoch, place, index = key
        rng = np.random.default_rng([self.seed, epoch, place])
        make = self.augmentation.draw if self.as_bytes else self.augmentation.apply
        image = make(read_pixels(self.photos.paths[index]), self.preprocessing, rng)
        return {"image": image, "label": self.labels[index]}

    def name_of(self, index: int) -> str:
        """The file's name, below its class."""
        return "/".join(self.photos.paths[index].parts[-2:])
