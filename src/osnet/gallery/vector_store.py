"""What a gallery does, whatever stores it."""

import re
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Protocol

from numpy.typing import ArrayLike

from osnet.types import Hit, Item


@dataclass(frozen=True)
class Where:
    """A filter; an item passes if it meets every condition that is set.

    An item whose identity, camera or time is unknown does not meet a condition on it.
    """

    identities: frozenset[str] | None = None
    cameras: frozenset[str] | None = None
    after_s: float | None = None
    """Taken at this time or later."""
    before_s: float | None = None
    """Taken at this time or earlier."""
    source: str | None = None
    """One item's source; or, if no item has just this source, a pattern with ``*``, ``?`` and ``[...]`` for it."""
    sources: frozenset[str] | None = None
    """Exactly these sources; no patterns."""
    having: frozenset[str] = frozenset()
    """Attributes that are said to hold."""
    lacking: frozenset[str] = frozenset()
    """Attributes that are said not to hold."""
    min_probability: float | None = None
    """From which probability on an attribute is said to hold; None: each one's own threshold."""

    def __post_init__(self) -> None:
        for name in ("identities", "cameras", "sources", "having", "lacking"):
            if isinstance(getattr(self, name), str):
                raise TypeError(f"{name} must be a set of names, not the string {getattr(self, name)!r}")

    @property
    def is_empty(self) -> bool:
        """True if everything passes."""
        return replace(self, min_probability=None) == Where()

    def settle(self, sources: Container[str]) -> "Where":
        """The same filter for a store that holds ``sources``: a ``source`` that one of them equals is no pattern."""
        if self.source is None or self.source not in sources:
            return self
        return replace(self, source=re.sub(r"([*?[])", r"[\1]", self.source))

    def matches(self, item: Item) -> bool:
        """True if ``item`` passes all but the conditions on attributes, which the store looks at.

        ``source`` is taken as a pattern here; a store calls ``settle`` first.
        """
        if self.sources is not None and item.source not in self.sources:
            return False
        if self.identities is not None and item.identity not in self.identities:
            return False
        if self.cameras is not None and item.camera not in self.cameras:
            return False
        if self.after_s is not None and (item.time_s is None or item.time_s < self.after_s):
            return False
        if self.before_s is not None and (item.time_s is None or item.time_s > self.before_s):
            return False
        return self.source is None or fnmatchcase(item.source, self.source)


class VectorStore(Protocol):
    """The few methods behind ``osnet index`` and ``osnet search``.

    Every call that brings vectors says whose they are (``weights_sha256``, from ``Embedder.sha256``);
    a store refuses those of other weights, since such vectors cannot be compared.
    """

    def __len__(self) -> int:
        """Items stored."""
        ...

    @property
    def weights_sha256(self) -> str:
        """Whose vectors are stored."""
        ...

    def sources(self) -> set[str]:
        """Sources of all items; each is there once."""
        ...

    def add(self, vectors_ND: ArrayLike, items: Sequence[Item], *, weights_sha256: str) -> None:
        """Store N vectors with their items, all or none."""
        ...

    def search(
        self, vector_D: ArrayLike, *, weights_sha256: str, top: int = 10, where: Where | None = None
    ) -> list[Hit]:
        """The ``top`` most similar items that pass ``where``, best first."""
        ...

    def remove(self, where: Where) -> int:
        """Delete what passes ``where``, for good; how many items that were."""
        ...
