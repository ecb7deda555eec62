"""The words that all rooms share: crops, splits, preprocessing, items of a gallery, hits.

Nothing here imports the rest of the package.
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
"""Market-1501: neither a right nor a wrong match; ignored in every ranking."""
DISTRACTOR_PID = 0
"""Market-1501: a gallery crop that matches no query."""


@dataclass(frozen=True)
class Preprocessing:
    """How a crop becomes the tensor that a network was trained on. It travels with the weights.

    Defaults are those of Torchreid's OSNet weights: 256 high, 128 wide, RGB fractions
    normalised with ImageNet's mean and standard deviation.
    """

    size_hw: tuple[int, int] = (256, 128)
    """Height and width in pixels; the crop is stretched to it, unless one of the last two settings is used."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Per channel, in fractions of 255, in ``channel_order``."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Per channel, in fractions of 255, in ``channel_order``."""
    interpolation: Interpolation = "bilinear"
    """Pillow's filter of that name, which smooths when it makes an image smaller."""
    channel_order: ChannelOrder = "rgb"
    """The order that the network expects."""
    crop_from: tuple[int, int] | None = None
    """Height and width to resize to first; ``size_hw`` is then cut from the middle. None: nothing is cut off."""
    keep_aspect: bool = False
    """Do not stretch: resize until the picture just covers ``crop_from`` (or ``size_hw``), and cut off the rest."""

    def __post_init__(self) -> None:
        height, width = self.size_hw
        if self.crop_from is not None and not (
            height <= self.crop_from[0] <= 4096 and width <= self.crop_from[1] <= 4096
        ):
            raise ValueError(f"crop_from {self.crop_from} must be from size_hw {self.size_hw} to 4096 pixels")
        if not (1 <= height <= 4096 and 1 <= width <= 4096):
            raise ValueError(f"size_hw {self.size_hw} must be two numbers of pixels from 1 to 4096")
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
    """The person's number. -1 is junk and 0 a distractor, as in Market-1501."""
    camid: int
    """The camera's number."""
    identity: str = ""
    """The person's name in the data set; ``str(pid)`` where it has only numbers."""
    camera: str = ""
    """The camera's name in the data set."""
    time_s: float | None = None
    """When it was taken, in seconds (Unix time, or since the recording began), if the data set says."""
    dsetid: int = 0
    """Which data set it is from, where several are joined."""


@dataclass(frozen=True)
class Split:
    """One part of a data set."""

    name: str
    crops: tuple[Crop, ...]

    def __len__(self) -> int:
        return len(self.crops)

    @property
    def paths(self) -> list[Path]:
        """The crops' files, in order."""
        return [crop.path for crop in self.crops]

    @property
    def pids(self) -> list[int]:
        """The crops' identities, in order."""
        return [crop.pid for crop in self.crops]

    @property
    def camids(self) -> list[int]:
        """The crops' cameras, in order."""
        return [crop.camid for crop in self.crops]


@dataclass(frozen=True)
class ReidDataset:
    """A data set for re-identification: train on one part, search the gallery for the queries."""

    name: str
    root: Path
    train: Split = field(default_factory=lambda: Split("train", ()))
    query: Split = field(default_factory=lambda: Split("query", ()))
    gallery: Split = field(default_factory=lambda: Split("gallery", ()))
    num_junk: int = 0
    """Files left out because they are junk (pid -1), which no score looks at."""
    other_files: tuple[str, ...] = ()
    """Files found beside the images that are no images (Market-1501 carries Thumbs.db)."""
    val: Split = field(default_factory=lambda: Split("val", ()))
    """More images of the people in ``train``, which MSMT17 sets aside; only ``combine_all`` trains on them."""
    unlisted: tuple[str, ...] = ()
    """Images in its folder that the CSV does not list, and that are therefore in no split."""
    benchmark: str = ""
    """The benchmark that it is: asked for by that name, or told by its images; empty if it is none that is known."""

    @property
    def splits(self) -> tuple[Split, Split, Split]:
        """Train, query, gallery."""
        return self.train, self.query, self.gallery


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of a gallery, without its vector. ``None`` means unknown."""

    source: str
    """Where it came from: a path, or ``video.mp4#1207``. Unique in a gallery."""
    identity: str | None = None
    camera: str | None = None
    time_s: float | None = None
    """Seconds: Unix time, or since the recording began."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer of a search."""

    rank: int
    """1 is the best."""
    score: float
    """Higher is closer: a cosine in [-1, 1], or in [0, 1] how well a description fits."""
    item: Item
    attributes: dict[str, float] | None = field(default=None, compare=False)
    """What is said of it, with probabilities; None where the gallery stores no attributes."""


@dataclass(frozen=True)
class RankedList:
    """One query and what was found for it."""

    query: Path
    hits: Sequence[Hit]
    identity: str | None = None
    """Who the query shows; None if unknown, and then no hit is called right or wrong."""
    ignored: frozenset[str] = frozenset()
    """Sources that the protocol ignores (the same person in the query's own camera); they have no rank."""
    title: str = ""
    """Stands below the query instead of the word "query"."""
    note: str = ""
    """Stands behind its identity."""


def as_tuple(crops: Iterable[Crop]) -> tuple[Crop, ...]:
    """Crops in the order of their paths, so that nothing depends on how a disk lists its files."""
    return tuple(sorted(crops, key=lambda crop: crop.path.as_posix()))
