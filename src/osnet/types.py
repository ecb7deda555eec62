"""Types that all packages share: crops, splits, preprocessing, items of a gallery, hits.

This module imports nothing of the package.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Interpolation = Literal["bilinear", "bicubic", "nearest"]
ChannelOrder = Literal["rgb", "bgr"]
Distance = Literal["cosine", "euclidean"]
"""Between vectors of length 1, or between vectors as the network gives them."""

JUNK_PID = -1
"""Market-1501: a junk image, ignored in every ranking."""
DISTRACTOR_PID = 0
"""Market-1501: a gallery crop that matches no query."""


@dataclass(frozen=True)
class Preprocessing:
    """How a crop becomes the input of a network. It is stored with the weights.

    Defaults are those of Torchreid's OSNet weights: 256 high, 128 wide, RGB fractions
    normalised with ImageNet's mean and standard deviation.

    Raises:
        ValueError: a size outside 1 to 4096 pixels, a standard deviation of 0 or less, or an unknown name.
    """

    size_hw: tuple[int, int] = (256, 128)
    """Height and width in pixels. The crop is stretched to it unless ``crop_from`` or ``keep_aspect`` is set."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Per channel, in fractions of 255, in ``channel_order``."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Per channel, in fractions of 255, in ``channel_order``."""
    interpolation: Interpolation = "bilinear"
    """Pillow's filter of that name. It smooths when it shrinks an image."""
    channel_order: ChannelOrder = "rgb"
    """The order of the channels that the network expects."""
    crop_from: tuple[int, int] | None = None
    """Height and width to resize to first; ``size_hw`` is then cropped from the centre. None: no centre crop."""
    keep_aspect: bool = False
    """Do not stretch: resize so that the image just covers ``crop_from`` (or ``size_hw``), and crop the rest."""

    def __post_init__(self) -> None:
        height, width = self.size_hw
        if self.crop_from is not None and not (
            height <= self.crop_from[0] <= 4096 and width <= self.crop_from[1] <= 4096
        ):
            raise ValueError(f"crop_from {self.crop_from} must be from size_hw {self.size_hw} to 4096 pixels")
        if not (1 <= height <= 4096 and 1 <= width <= 4096):
            raise ValueError(f"size_hw {self.size_hw} must be a height and a width from 1 to 4096 pixels")
        if min(self.std) <= 0:
            raise ValueError(f"std {self.std} must be positive in every channel")
        for name, choices in (
            ("interpolation", ("bilinear", "bicubic", "nearest")),
            ("channel_order", ("rgb", "bgr")),
        ):
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"unknown {name} {value!r}; choose from {', '.join(choices)}")


@dataclass(frozen=True, slots=True)
class Crop:
    """One image of one person, as a data set lists it."""

    path: Path
    pid: int
    """The identity as a number. -1 is junk and 0 a distractor, as in Market-1501."""
    camid: int
    """The camera as a number."""
    identity: str = ""
    """The identity's name in the data set; ``str(pid)`` if it has only numbers."""
    camera: str = ""
    """The camera's name in the data set."""
    time_s: float | None = None
    """When it was taken, in seconds (Unix time, or from the start of the recording); None if unknown."""
    dsetid: int = 0
    """Index of its data set, where several are joined."""


@dataclass(frozen=True)
class Split:
    """One part of a data set: train, query, gallery or val."""

    name: str
    crops: tuple[Crop, ...]

    def __len__(self) -> int:
        return len(self.crops)

    @property
    def paths(self) -> list[Path]:
        """Paths of the crops, in order."""
        return [crop.path for crop in self.crops]

    @property
    def pids(self) -> list[int]:
        """Identities of the crops as numbers, in order."""
        return [crop.pid for crop in self.crops]

    @property
    def camids(self) -> list[int]:
        """Cameras of the crops as numbers, in order."""
        return [crop.camid for crop in self.crops]


@dataclass(frozen=True)
class ReidDataset:
    """A data set for re-identification: a training part, queries, and the gallery that they are searched in."""

    name: str
    root: Path
    train: Split = field(default_factory=lambda: Split("train", ()))
    query: Split = field(default_factory=lambda: Split("query", ()))
    gallery: Split = field(default_factory=lambda: Split("gallery", ()))
    num_junk: int = 0
    """Number of junk images (pid -1) that were left out; no score uses them."""
    other_files: tuple[str, ...] = ()
    """Names of other files beside the images (Market-1501 has Thumbs.db)."""
    val: Split = field(default_factory=lambda: Split("val", ()))
    """More images of the people in ``train``, which MSMT17 sets aside. Only ``combine_all`` trains on them."""
    unlisted: tuple[str, ...] = ()
    """Images in the folder that are in no split: not in the CSV, or beside the folders ``query`` and ``gallery``."""
    benchmark: str = ""
    """Name of the benchmark, as it was asked for or recognised by its images; empty for other data sets."""

    @property
    def splits(self) -> tuple[Split, Split, Split]:
        """Train, query, gallery."""
        return self.train, self.query, self.gallery


@dataclass(frozen=True, slots=True)
class Item:
    """An entry of a gallery, without its embedding. ``None`` means unknown."""

    source: str
    """Where the crop came from: a path, or ``video.mp4#1207``. Unique in a gallery."""
    identity: str | None = None
    camera: str | None = None
    time_s: float | None = None
    """Seconds: Unix time, or from the start of the recording."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One result of a search."""

    rank: int
    """1 is the best."""
    score: float
    """Higher is better: a cosine in [-1, 1], or the match with a description in [0, 1]."""
    item: Item
    attributes: dict[str, float] | None = field(default=None, compare=False)
    """Probabilities of the stored attributes by name; None if the gallery stores none."""


@dataclass(frozen=True)
class RankedList:
    """A query and its hits."""

    query: Path
    hits: Sequence[Hit]
    identity: str | None = None
    """Identity of the query; None if unknown: then no hit is marked right or wrong."""
    ignored: frozenset[str] = frozenset()
    """Sources that the protocol ignores (same identity and same camera as the query). They have no rank."""
    title: str = ""
    """Caption of the query; "query" if empty."""
    note: str = ""
    """Text after the query's identity."""


def as_tuple(crops: Iterable[Crop]) -> tuple[Crop, ...]:
    """Crops sorted by path, so that results do not depend on the order in which a disk lists files."""
    return tuple(sorted(crops, key=lambda crop: crop.path.as_posix()))
