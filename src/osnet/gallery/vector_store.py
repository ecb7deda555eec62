"""The filter ``Where``, and the contract of all stores."""

import math
import re
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from numbers import Real
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from osnet.errors import DataError
from osnet.gallery.columns import to_float
from osnet.types import Hit, Item


@dataclass(frozen=True)
class Where:
    """A filter; an item passes if it meets every condition that is set.

    An item whose identity, camera or time is unknown does not meet a condition on it.

    Raises:
        TypeError: a string where a set of names belongs, or a value of another type.
        DataError: a number that is NaN or beyond float64.
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
        if self.source is not None and not isinstance(self.source, str):
            raise TypeError(f"source must be text, not {self.source!r}; write {str(self.source)!r}")
        for name in ("identities", "cameras", "sources", "having", "lacking"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise TypeError(f"{name} must be a set of names, not the string {value!r}")
            if value is None and name not in ("having", "lacking"):
                continue
            names = frozenset(() if value is None else value)  # an empty list, too, is then no condition on attributes
            for entry in names:
                if not isinstance(entry, str):
                    raise TypeError(f"{name} must hold names, not {entry!r}; write {str(entry)!r}")
            object.__setattr__(self, name, names)
        for name in ("after_s", "before_s", "min_probability"):
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, Real):
                raise TypeError(f"{name} must be a number, not {value!r}")
            number = to_float(value)
            if math.isnan(number):  # in PostgreSQL it is larger than any other number
                raise DataError(f"{name} {value!r} cannot be compared with numbers")
            object.__setattr__(self, name, number)

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


@dataclass(frozen=True)
class Erased:
    """What ``VectorStore.erase`` did, and what it found when it looked for the bytes afterwards."""

    rows: int
    """Items that were deleted."""
    rewritten: int
    """Files, or partitions, that were written anew without them."""
    deleted: int
    """Files, or partitions, that were deleted as a whole."""
    bytes_searched: int
    """Size of the files that were searched for the deleted embeddings and sources; 0 where the store cannot look."""
    found_again: tuple[str, ...]
    """Names of files that still hold them."""
    out_of_reach: tuple[str, ...]
    """Where copies may be that the store cannot delete, in words."""

    @property
    def is_complete(self) -> bool:
        """True if the store has looked and found nothing."""
        return self.bytes_searched > 0 and not self.found_again


class VectorStore(Protocol):
    """What every store of embeddings offers: the folder ``Gallery``, and stores on the engines of others.

    Every call with embeddings gives the digest of the weights that made them (``Embedder.sha256``). A store refuses
    embeddings of other weights, because they cannot be compared. ``tests/test_stores.py`` runs one suite against all.
    """

    def __len__(self) -> int:
        """Number of items."""
        ...

    @property
    def weights_sha256(self) -> str:
        """Digest of the weights that made the stored embeddings."""
        ...

    @property
    def weights_name(self) -> str:
        """Name of these weights, for people to read."""
        ...

    @property
    def embedding_size(self) -> int:
        """D, the length of every stored embedding."""
        ...

    def sources(self) -> set[str]:
        """Sources of all items; each occurs once."""
        ...

    def add_embeddings(self, embeddings_ND: ArrayLike, items: Sequence[Item], *, weights_sha256: str) -> None:
        """Store N embeddings with their items, all or none.

        Raises:
            GalleryError: embeddings of other weights or another size, zero or not finite; a source that is stored.
        """
        ...

    def search_embedding(
        self, embedding_D: ArrayLike, *, weights_sha256: str, top: int = 10, where: Where | None = None, skip: int = 0
    ) -> list[Hit]:
        """The ``top`` most similar items that pass ``where``, best first, without the first ``skip``."""
        ...

    def search_embeddings(
        self, embeddings_QD: ArrayLike, *, weights_sha256: str, top: int = 10, where: Where | None = None, skip: int = 0
    ) -> list[list[Hit]]:
        """As ``search_embedding``, for Q queries."""
        ...

    def count(self, where: Where | None = None) -> int:
        """Number of items that pass ``where``."""
        ...

    def find(self, where: Where | None = None, *, after: str | None = None, limit: int | None = None) -> list[Item]:
        """The items that pass ``where``, in the order in which they were added.

        Args:
            where: None: all.
            after: only items added after the item of this source: the last of the page before.
            limit: at most this many.

        Raises:
            GalleryError: ``after`` is not stored, or ``limit`` is negative.
        """
        ...

    def embeddings(self, sources: Sequence[str]) -> NDArray[np.float32]:
        """(N, D): the stored embeddings of these sources, in their order.

        Raises:
            GalleryError: a source that is not stored.
        """
        ...

    def remove(self, where: Where) -> int:
        """Delete the items that pass ``where``. Returns their number. Raises GalleryError if ``where`` is empty."""
        ...

    def erase(self, where: Where) -> Erased:
        """``remove``, and what the engine needs so that no file holds the bytes; then look for them."""
        ...

    def expire(self, before_s: float) -> Erased:
        """``erase`` of the items taken before this time (Unix seconds). Items without a time stay.

        Raises:
            DataError: the time is NaN.
        """
        ...

    def check(self) -> list[str]:
        """Faults of what is stored, in words; empty if there are none."""
        ...
