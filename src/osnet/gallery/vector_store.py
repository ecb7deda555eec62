"""The filter ``Where``, and the protocol that a gallery implements."""

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
    """The source of one item. If no item has exactly this source: a pattern with ``*``, ``?`` and ``[...]``."""
    sources: frozenset[str] | None = None
    """Exactly these sources; no patterns."""
    having: frozenset[str] = frozenset()
    """Attributes that the person is predicted to have."""
    lacking: frozenset[str] = frozenset()
    """Attributes that the person is predicted not to have."""
    min_probability: float | None = None
    """An attribute is predicted positive from this probability on; None: from its own threshold."""

    def __post_init__(self) -> None:
        for name in ("identities", "cameras", "sources", "having", "lacking"):
            if isinstance(getattr(self, name), str):
                raise TypeError(f"{name} must be a set of names, not the string {getattr(self, name)!r}")

    @property
    def is_empty(self) -> bool:
        """True if everything passes."""
        return replace(self, min_probability=None) == Where()

    def settle(self, sources: Container[str]) -> "Where":
        """The same filter, with ``source`` escaped if it equals one of ``sources``, so that it is no pattern."""
        if self.source is None or self.source not in sources:
            return self
        return replace(self, source=re.sub(r"([*?[])", r"[\1]", self.source))

    def matches(self, item: Item) -> bool:
        """True if ``item`` meets all conditions except those on attributes, which the store checks.

        ``source`` is taken as a pattern; a store calls ``settle`` first.
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
    """The methods that another store (a vector database, for instance) needs to stand in for a gallery.

    Every call with embeddings gives the digest of the weights that made them (``Embedder.sha256``). A store refuses
    embeddings of other weights, because they cannot be compared.
    """

    def __len__(self) -> int:
        """Number of items."""
        ...

    @property
    def weights_sha256(self) -> str:
        """Digest of the weights that made the stored embeddings."""
        ...

    def sources(self) -> set[str]:
        """Sources of all items; each occurs once."""
        ...

    def add_embeddings(self, embeddings_ND: ArrayLike, items: Sequence[Item], *, weights_sha256: str) -> None:
        """Store N embeddings with their items, all or none."""
        ...

    def search_embedding(
        self, embedding_D: ArrayLike, *, weights_sha256: str, top: int = 10, where: Where | None = None
    ) -> list[Hit]:
        """The ``top`` most similar items that pass ``where``, best first."""
        ...

    def remove(self, where: Where) -> int:
        """Delete the items that pass ``where``. Returns their number."""
        ...
