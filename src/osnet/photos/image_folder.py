"""Images with class labels, as files or in memory. Folders have ImageNet's layout:

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
    """Image files with class labels."""

    name: str
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    """For each path, the index of its class in ``classes``."""
    classes: tuple[str, ...]
    """Names of the classes."""

    def __len__(self) -> int:
        return len(self.paths)

    def select(self, indices: Sequence[int], name: str | None = None) -> "Photos":
        """Select images by their indices, in the given order."""
        paths, labels = tuple(self.paths[i] for i in indices), tuple(self.labels[i] for i in indices)
        return replace(self, name=name or self.name, paths=paths, labels=labels)


@dataclass(frozen=True)
class PhotoBytes:
    """Decoded images of one size with class labels, in memory or on a GPU."""

    name: str
    pixels: Tensor
    """(N, 3, H, W) uint8, RGB."""
    labels: Tensor
    """(N,) int64: the indices of the classes in ``classes``."""
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Sequence[int], name: str | None = None) -> "PhotoBytes":
        """Select images by their indices, in the given order."""
        chosen = torch.as_tensor(indices, dtype=torch.long, device=self.labels.device)
        return replace(self, name=name or self.name, pixels=self.pixels[chosen], labels=self.labels[chosen])


def read_photo_folder(root: str | Path, classes: Sequence[str] | None = None) -> Photos:
    """Read a folder with one sub-folder per class. Images may be at any depth in a sub-folder.

    Args:
        root: the folder.
        classes: names of the classes, in order; default: the names of the sub-folders, sorted. If ``classes`` is given,
            a class may have no sub-folder, because a sample of a data set may lack some classes.

    Raises:
        DataError: the folder does not exist, it has no sub-folders, a sub-folder has no images, images lie outside the
            sub-folders, or a sub-folder is not in ``classes``.
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
        raise DataError(f"{root}: {len(loose)} images are not in the folder of a class: {', '.join(loose[:5])}")
    folders = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if empty := [name for name in folders if name not in found]:
        raise DataError(f"{root}: {len(empty)} classes have no images: {', '.join(empty[:5])}")
    if not found:
        raise DataError(f"{root} has no sub-folders with images; each class needs one, such as {root / 'cat'}/1.jpg")
    names = tuple(classes) if classes is not None else tuple(sorted(found))
    if strange := sorted(set(found) - set(names)):
        raise DataError(
            f"{root}: {len(strange)} folders are not among the {len(names)} classes: {', '.join(strange[:5])}"
        )
    label_of = {name: label for label, name in enumerate(names)}
    pairs = [(path, label_of[name]) for name in names if name in found for path in sorted(found[name])]
    return Photos(root.name, tuple(path for path, _ in pairs), tuple(label for _, label in pairs), names)


def hold_out_photos(labels: Sequence[int], num_images: int, seed: int) -> tuple[list[int], list[int]]:
    """Choose ``num_images`` images to hold out, with the classes in proportion.

    The number of images of each class is its share, rounded down. The classes with the largest remainders give one more
    (for ties, the class with the lower label).

    Args:
        labels: label of each image.
        num_images: number of images to hold out.
        seed: seed of the random choice.

    Returns:
        The indices of the remaining images and of the held-out ones, each sorted.

    Raises:
        DataError: there are too few images, or a class would keep none.
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
            f"holding out {num_images} of {len(every)} images leaves no image of class {bare[0]}; hold out fewer"
        )
    rng = np.random.default_rng([seed, 78])
    held = np.concatenate([rng.permutation(np.flatnonzero(every == v))[:t] for v, t in zip(values, take, strict=True)])
    return sorted(set(range(len(every))) - set(held.tolist())), sorted(held.tolist())


def decode_all(photos: Photos) -> PhotoBytes:
    """Decode all images into one tensor. They must have the same size, as in CIFAR.

    Raises:
        DataError: there are no images, or an image has another size than the first.
        ImageError: an image cannot be read.
    """
    pixels: Tensor | None = None
    for index, path in enumerate(photos.paths):
        image = read_pixels(path)
        if pixels is None:
            pixels = torch.empty((len(photos), *image.shape), dtype=torch.uint8)
        if image.shape != pixels.shape[1:]:
            height, width = pixels.shape[2:]
            raise DataError(
                f"{path} is {image.shape[1]} x {image.shape[2]}, but the first image is {height} x {width}; images in "
                "memory must have one size"
            )
        pixels[index] = image
    if pixels is None:
        raise DataError(f"{photos.name} has no images")
    return PhotoBytes(photos.name, pixels, torch.tensor(photos.labels), photos.classes)


class PhotoSamples(Dataset[dict[str, Tensor | int]]):
    """Training samples with ``image`` (3, H, W) and ``label``. A sample depends only on the seed and its key.

    Args:
        photos: the images.
        augmentation: the training augmentation.
        preprocessing: image size and normalisation.
        seed: seed of the augmentation.
        as_bytes: True yields uint8, which is normalised later for the whole batch. This is faster and moves a quarter
            of the data. False yields normalised float32.
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
        """Make one sample."""
        epoch, position, index = key
        rng = np.random.default_rng([self.seed, epoch, position])
        make = self.augmentation.draw if self.as_bytes else self.augmentation.apply
        image = make(read_pixels(self.photos.paths[index], warn=False), self.preprocessing, rng)
        return {"image": image, "label": self.labels[index]}

    def name_of(self, index: int) -> str:
        """File name of an image with the folder it is in, for messages."""
        return "/".join(self.photos.paths[index].parts[-2:])
