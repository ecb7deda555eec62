"""Every dial of OSNet, as one frozen dataclass that checks itself."""

from dataclasses import dataclass
from typing import Literal, get_args

from osnet.errors import ModelError

Aggregation = Literal["unified_gate", "separate_gates", "streamwise_gate", "static_gates", "addition", "concatenation"]
Normalization = Literal["bn", "ibn", "ain"]
GroupExtent = Literal["lite", "block", "all"]
Stem = Literal["imagenet", "cifar"]
Pooling = Literal["avg", "max"]

BASE_CHANNELS = (64, 256, 384, 512)
"""Channels of the stem and the three stages at width 1.0 (paper, Table 1)."""


@dataclass(frozen=True)
class OSNetConfig:
    """Every dial of the network. The defaults are the paper's primary model, OSNet x1.0.

    Raises:
        ModelError: a setting is unknown or does not fit the others.
    """

    width: float = 1.0
    """Multiplies all channel counts, not the embedding's (paper, section 3.4: beta)."""
    depth: tuple[int, int, int] = (2, 2, 2)
    """Blocks in conv2, conv3, conv4. 2-2-2 is 78 layers by the paper's count, 3-8-6 is 210."""
    streams: int = 4
    """T, from 1 to 4 in the paper."""
    lite: bool = True
    """Lite 3x3 convolutions; False takes full 3x3 ones (Table 5, row 2)."""
    stream_depth: int | None = None
    """None: stream t has t 3x3 layers, so it sees 2t+1 pixels. A number: every stream has that many."""
    aggregation: Aggregation = "unified_gate"
    """How streams become one. ``unified_gate`` shares one channel gate between all of them."""
    norm: Normalization = "bn"
    """``ibn``, ``ain``: instance normalisation in the stem and in some blocks (see ``instance_norms``)."""
    groups: int = 1
    """Groups of the pointwise convolutions, with channel shuffle (supplement, section C)."""
    group_extent: GroupExtent = "all"
    """Which are grouped: the Lite ones; also the block's own; also the transitions and conv5."""
    stem: Stem = "imagenet"
    """``imagenet``: 7x7 stride 2 and a max pool. ``cifar``: 3x3 stride 1 for 32x32 images (our own choice)."""
    pooling: Pooling = "avg"
    """Global pooling before the embedding."""
    embedding_size: int = 512
    """D; 512 at every width in the paper."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "depth", tuple(self.depth))  # JSON gives a list
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise ModelError(f"unknown {name} {value!r}; choose from {', '.join(choices)}")
        if not 0.05 <= self.width <= 16:
            raise ModelError(f"width {self.width} is outside 0.05 to 16")
        if len(self.depth) != 3 or not all(1 <= blocks <= 64 for blocks in self.depth):
            raise ModelError(f"depth {self.depth} must be three numbers from 1 to 64, such as (2, 2, 2)")
        for name, low, high in (("streams", 1, 4), ("groups", 1, 512), ("embedding_size", 1, 65536)):
            if not low <= (value := getattr(self, name)) <= high:
                raise ModelError(f"{name} {value} is outside {low} to {high}")
        if self.stream_depth is not None and not 1 <= self.stream_depth <= 16:
            raise ModelError(f"stream_depth {self.stream_depth} is outside 1 to 16")
        if self.groups > 1:
            self._check_groups()

    def _check_groups(self) -> None:
        if not self.lite:
            raise ModelError(f"groups {self.groups} needs lite=True: full 3x3 convolutions have no pointwise part")
        uneven = sorted({c for c in self._grouped_channels() if c % self.groups})
        if uneven:
            raise ModelError(
                f"groups {self.groups} does not divide {', '.join(map(str, uneven))} channels at width "
                f"{self.width}; choose a divisor of all of them, another width, or a smaller group_extent"
            )

    def _grouped_channels(self) -> list[int]:
        stem, *stages = self.channels
        grouped = [c // 4 for c in stages]
        if self.group_extent in ("block", "all"):
            grouped += [stem, *stages]
        return grouped

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of the stem and the three stages. (64, 256, 384, 512) at width 1.0."""
        stem, *stages = BASE_CHANNELS
        scaled = [max(4, round(c * self.width)) for c in stages]
        return (max(1, round(stem * self.width)), scaled[0], scaled[1], scaled[2])

    @property
    def stream_depths(self) -> list[int]:
        """3x3 layers in each stream."""
        if self.stream_depth is not None:
            return [self.stream_depth] * self.streams
        return list(range(1, self.streams + 1))

    def groups_of(self, part: GroupExtent) -> int:
        """Groups of the pointwise convolutions in ``lite``, ``block`` or ``all`` (the rest)."""
        extents: tuple[GroupExtent, ...] = get_args(GroupExtent)
        return self.groups if extents.index(part) <= extents.index(self.group_extent) else 1

    def instance_norms(self) -> list[list[bool]]:
        """Which blocks carry instance normalisation, stage by stage.

        At depth 2-2-2 this is the authors' code: IBN in both blocks of conv2; AIN in both of conv2,
        the last of conv3, the first of conv4 (the architecture that their search found). Deeper
        networks, which they did not publish, keep that rule: all of conv2, last, first.
        """
        rows = [[False] * blocks for blocks in self.depth]
        if self.norm != "bn":
            rows[0] = [True] * self.depth[0]
        if self.norm == "ain":
            rows[1][-1] = True
            rows[2][0] = True
        return rows


_CHOICES: dict[str, tuple[str, ...]] = {
    "aggregation": get_args(Aggregation),
    "norm": get_args(Normalization),
    "group_extent": get_args(GroupExtent),
    "stem": get_args(Stem),
    "pooling": get_args(Pooling),
}
