"""How many gallery items come before a given one: exact, a block of the gallery at a time, nothing sorted.

A block of float32 products decides nearly everything. What lies closer together than such a product can be
wrong is decided by the two distances themselves, in float64, from the two vectors alone. So ranks do not depend on
the sizes of blocks, on threads, on the matrix library or on how queries are shared out, and equal vectors tie exactly.

Shapes: Q queries, G gallery, D embedding, R x C one block, K = D or D + 1, M pairs.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from osnet.metrics.matching_rules import Ints, Pairs

Distance = Literal["cosine", "euclidean"]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

BLOCK_FLOATS = 1 << 22
"""A block of products has at most so many numbers (16 MiB), and at least one row."""
CHUNK_ITEMS = 1 << 13
"""So many gallery items are made ready at a time."""
SEGMENT = 256
"""Where something in so many numbers is too close to call, these are looked through one by one."""
MANY = 512
"""A query with more matches than this is counted another way, which is faster then."""
UNIT_ROUNDOFF = 2.0**-24
SMALLEST = float(np.finfo(np.float32).tiny)
LONGEST = 1e15
"""Longer vectors would overflow float32 when squared."""


def compile_function(function: Callable[..., Any], reorder: bool = False) -> Callable[..., Any]:
    """Machine code, kept on disk between runs where there is a folder for it.

    ``reorder`` lets the compiler sum several numbers at a time. It compiles such a function once, before what calls
    it, so that the order is the same wherever it is called: equal vectors give equal numbers (a test holds that).
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": {"reassoc", "contract", "nsz"} if reorder else False}
    try:
        compiled: Callable[..., Any] = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # nowhere to write
        compiled = numba.njit(**options)(function)
    return compiled


@partial(compile_function, reorder=True)
def _dot(a_D, b_D):  # type: ignore[no-untyped-def]
    """In float64, where the products of float32 numbers are exact."""
    total = 0.0
    for k in range(len(a_D)):
        total += np.float64(a_D[k]) * np.float64(b_D[k])
    return total


@partial(compile_function, reorder=True)
def _squared_distance(a_D, b_D):  # type: ignore[no-untyped-def]
    total = 0.0
    for k in range(len(a_D)):
        step = np.float64(a_D[k]) - np.float64(b_D[k])
        total += step * step
    return total


@compile_function
def _lengths(vectors_ND):  # type: ignore[no-untyped-def]
    """(N,) float64; not finite where a vector is not."""
    out = np.empty(len(vectors_ND))
    for n in range(len(vectors_ND)):
        out[n] = np.sqrt(_dot(vectors_ND[n], vectors_ND[n]))
    return out


@compile_function
def _closeness(query_D, gallery_D, query_length, gallery_length, euclidean):  # type: ignore[no-untyped-def]
    """Higher is closer. Cosine: the cosine. Euclidean: (|q|^2 - |q - g|^2) / 2. A vector of length 0 has cosine 0."""
    if not euclidean:
        return _dot(query_D, gallery_D) / ((query_length or 1.0) * (gallery_length or 1.0))
    return (query_length * query_length - _squared_distance(query_D, gallery_D)) / 2


@compile_function
def _pair_closeness(query_QD, gallery_GD, query_lengths, gallery_lengths, queries, items, euclidean):  # type: ignore[no-untyped-def]
    out = np.empty(len(items))
    for m in range(len(items)):
        q, g = queries[m], items[m]
        out[m] = _closeness(query_QD[q], gallery_GD[g], query_lengths[q], gallery_lengths[g], euclidean)
    return out


@compile_function
def hide_pairs(block_RC, first, starts, items, columns_C):  # type: ignore[no-untyped-def]
    """Ignored items are infinitely far."""
    for r in range(len(block_RC)):
        for m in range(starts[first + r], starts[first + r + 1]):
            c = np.searchsorted(columns_C, items[m])
            if c < len(columns_C) and columns_C[c] == items[m]:
                block_RC[r, c] = -np.inf


@compile_function
def _compare(row_C, high, low):  # type: ignore[no-untyped-def]
    """How many are above ``high``, and how many at least ``low``: the hot loop, 8 or 16 numbers at a time."""
    above, at_least = np.int32(0), np.int32(0)
    for c in range(len(row_C)):
        above = np.int32(above + np.int32(row_C[c] > high))  # without the outer int32, 64 bits and half as fast
        at_least = np.int32(at_least + np.int32(row_C[c] >= low))
    return above, at_least


@compile_function
def _count(  # type: ignore[no-untyped-def]
    block_RC,
    first,
    columns_C,
    starts,
    items,
    wanted_M,
    margin_Q,
    query_QD,
    gallery_GD,
    query_lengths,
    gallery_lengths,
    euclidean,
    before_M,
):
    """Adds to ``before_M`` what of this block comes before each wanted item of the block's queries."""
    exact_C = np.full(len(columns_C), np.nan)  # each is computed once for a query, if at all
    for r in range(len(block_RC)):
        q, row_C = first + r, block_RC[r]
        own = slice(starts[q], starts[q + 1])
        vectors = query_QD[q], gallery_GD, query_lengths[q], gallery_lengths, euclidean
        if starts[q + 1] - starts[q] > MANY:
            used = _count_many(
                row_C, columns_C, items[own], wanted_M[own], margin_Q[q], exact_C, vectors, before_M[own]
            )
        else:
            used = _count_few(row_C, columns_C, items[own], wanted_M[own], margin_Q[q], exact_C, vectors, before_M[own])
        if used:
            exact_C[:] = np.nan


@compile_function
def _is_before(c, g, item, wanted, exact_C, vectors):  # type: ignore[no-untyped-def]
    """Whether gallery item ``g``, in column ``c``, comes before the wanted item, by the exact numbers."""
    if g == item:
        return False
    if np.isnan(exact_C[c]):
        query_D, gallery_GD, query_length, gallery_lengths, euclidean = vectors
        exact_C[c] = _closeness(query_D, gallery_GD[g], query_length, gallery_lengths[g], euclidean)
    return exact_C[c] > wanted or (exact_C[c] == wanted and g < item)


@compile_function
def _count_few(row_C, columns_C, items, wanted_P, margin, exact_C, vectors, before_P):  # type: ignore[no-untyped-def]
    """One pass over the row for each wanted item. True if exact numbers were needed."""
    used = False
    for p in range(len(items)):
        own = np.searchsorted(columns_C, items[p])
        if own == len(columns_C) or columns_C[own] != items[p] or row_C[own] == -np.inf:
            own = -1  # not here, or ignored
        high, low = np.float32(wanted_P[p] + margin), np.float32(wanted_P[p] - margin)
        for start in range(0, len(row_C), SEGMENT):
            end = min(start + SEGMENT, len(row_C))
            above, at_least = _compare(row_C[start:end], high, low)
            before_P[p] += above
            if at_least - above <= np.int32(start <= own < end):  # nothing is close to it but itself
                continue
            used = True
            for c in range(start, end):
                if low <= row_C[c] <= high:
                    before_P[p] += _is_before(c, columns_C[c], items[p], wanted_P[p], exact_C, vectors)
    return used


@compile_function
def _count_many(row_C, columns_C, items, wanted_P, margin, exact_C, vectors, before_P):  # type: ignore[no-untyped-def]
    """One pass over the row, with a search among the wanted items for each number in it. True, as exact numbers are
    nearly always needed."""
    order = np.argsort(wanted_P)
    highs, lows = wanted_P[order] + margin, wanted_P[order] - margin
    tally = np.zeros(len(items) + 1, dtype=np.int64)
    for c in range(len(row_C)):
        surely = np.searchsorted(highs, np.float64(row_C[c]), side="left")
        perhaps = np.searchsorted(lows, np.float64(row_C[c]), side="right")
        tally[surely] += 1
        for k in range(surely, perhaps):
            p = order[k]
            before_P[p] += _is_before(c, columns_C[c], items[p], wanted_P[p], exact_C, vectors)
    beaten = 0
    for k in range(len(items) - 1, -1, -1):
        beaten += tally[k + 1]
        before_P[order[k]] += beaten
    return True


@dataclass(frozen=True)
class Block:
    """Products of some queries with some gallery items."""

    first: int
    """The first query; the others follow."""
    columns_C: Ints
    """The gallery items, increasing."""
    closeness_RC: Floats
    """Higher is closer. Cosine: the cosine. Euclidean: (|q|^2 - distance^2) / 2. Valid until the next block."""
    reach: float
    """Euclidean: the longest gallery vector in it; cosine: 1."""


class Vectors:
    """Queries and gallery, checked; copied only a block at a time.

    Args:
        query_QD: (Q, D), taken as float32.
        gallery_GD: (G, D), taken as float32; an array of float32 is not copied.
        distance: ``cosine`` (lengths do not matter) or ``euclidean``.

    Raises:
        ValueError: shapes that do not go together, values that are not finite, an unknown distance.
    """

    def __init__(self, query_QD: ArrayLike, gallery_GD: ArrayLike, distance: Distance) -> None:
        if distance not in get_args(Distance):
            raise ValueError(f"unknown distance {distance!r}; choose from {', '.join(get_args(Distance))}")
        self.query_QD, self.query_lengths = _check(query_QD, "query")
        self.gallery_GD, self.gallery_lengths = _check(gallery_GD, "gallery")
        if self.query_QD.shape[1] != self.gallery_GD.shape[1]:
            raise ValueError(
                f"query embeddings have {self.query_QD.shape[1]} components, gallery embeddings "
                f"{self.gallery_GD.shape[1]}"
            )
        self.euclidean = distance == "euclidean"

    def of_queries(self, first: int, last: int) -> "Vectors":
        """The same gallery for the queries ``first`` to ``last``, exclusive."""
        part = object.__new__(Vectors)
        part.query_QD, part.query_lengths = self.query_QD[first:last], self.query_lengths[first:last]
        part.gallery_GD, part.gallery_lengths, part.euclidean = self.gallery_GD, self.gallery_lengths, self.euclidean
        return part

    def blocks(self, columns: Ints) -> Iterator[Block]:
        """Products of all queries with the gallery items ``columns`` (increasing), in blocks of bounded size."""
        query_QK = self._ready(self.query_QD, self.query_lengths, np.float32(1))
        rows = max(1, BLOCK_FLOATS // CHUNK_ITEMS)
        out = np.empty((min(rows, len(query_QK)), min(CHUNK_ITEMS, len(columns))), dtype=np.float32)
        for start in range(0, len(columns), CHUNK_ITEMS):
            columns_C = columns[start : start + CHUNK_ITEMS]
            whole = columns_C[-1] - columns_C[0] + 1 == len(columns_C)  # no gaps: no copy
            chosen: slice | Ints = slice(int(columns_C[0]), int(columns_C[-1]) + 1) if whole else columns_C
            lengths = self.gallery_lengths[chosen]
            half = (-(lengths**2) / 2).astype(np.float32)
            gallery_CK = self._ready(self.gallery_GD[chosen], lengths, half)
            reach = float(lengths.max()) if self.euclidean else 1.0
            for first in range(0, len(query_QK), rows):
                part_RK = query_QK[first : first + rows]
                block = out.reshape(-1)[: len(part_RK) * len(columns_C)].reshape(len(part_RK), len(columns_C))
                np.matmul(part_RK, gallery_CK.T, out=block)
                yield Block(first, columns_C, block, reach)

    def _ready(self, vectors_ND: Floats, lengths: Doubles, last: Any) -> Floats:
        """Rows whose products are the closeness: of length 1; or, Euclidean, with one more component."""
        if not self.euclidean:
            scale = (1 / np.where(lengths > 0, lengths, 1)).astype(np.float32)
            return vectors_ND * scale[:, None]
        ready = np.empty((len(vectors_ND), vectors_ND.shape[1] + 1), dtype=np.float32)
        ready[:, :-1], ready[:, -1] = vectors_ND, last
        return ready

    def margin(self, reach: float) -> Doubles:
        """(Q,): how far a float32 product can be off, whatever the order of its sum.

        Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1: n u |x||y|, nearly. 16 more
        operations cover the lengths, the last component and the rounding of what is compared.
        """
        size = self.query_lengths * reach + reach * reach if self.euclidean else np.ones(len(self.query_lengths))
        return 1.01 * (self.query_QD.shape[1] + 16) * UNIT_ROUNDOFF * size + SMALLEST  # products may underflow

    def count_before(self, wanted: Pairs, ignored: Pairs, columns: Ints) -> Ints:
        """For each wanted pair, how many of the gallery items ``columns`` come before it; (M,).

        Before an item are those that are closer to the query, and those exactly as close that stand earlier in
        the gallery. Ignored pairs are not counted. A wanted item need not be among ``columns``.
        """
        closeness_M = _pair_closeness(
            self.query_QD,
            self.gallery_GD,
            self.query_lengths,
            self.gallery_lengths,
            wanted.queries,
            wanted.items,
            self.euclidean,
        )
        before_M: Ints = np.zeros(len(wanted.items), dtype=np.int64)
        num_threads = count_threads()

        def count(block: Block, margin_Q: Doubles, rows: slice) -> None:
            part, first = block.closeness_RC[rows], block.first + rows.start
            hide_pairs(part, first, ignored.starts, ignored.items, block.columns_C)
            _count(
                part,
                first,
                block.columns_C,
                wanted.starts,
                wanted.items,
                closeness_M,
                margin_Q,
                self.query_QD,
                self.gallery_GD,
                self.query_lengths,
                self.gallery_lengths,
                self.euclidean,
                before_M,
            )

        with ThreadPoolExecutor(num_threads, thread_name_prefix="osnet-count") as pool:
            for block in self.blocks(columns):
                margin_Q = self.margin(block.reach)
                edges = np.linspace(0, len(block.closeness_RC), 4 * num_threads + 1).astype(int).tolist()
                list(pool.map(lambda a, b, bl=block, mg=margin_Q: count(bl, mg, slice(a, b)), edges[:-1], edges[1:]))
        return before_M


def _check(embeddings: ArrayLike, name: str) -> tuple[Floats, Doubles]:
    """The embeddings and their lengths."""
    array = np.ascontiguousarray(embeddings, dtype=np.float32)
    if array.ndim != 2:
        raise ValueError(f"{name} embeddings of shape {array.shape} instead of (number, components)")
    lengths: Doubles = _lengths(array)
    if not np.isfinite(lengths).all():
        raise ValueError(f"{name} embeddings hold values that are not finite")
    if len(lengths) and lengths.max() > LONGEST:
        raise ValueError(f"{name} embeddings have lengths up to {lengths.max():.1e}, above {LONGEST:.0e}; scale them")
    return array, np.where(lengths < SMALLEST, 0, lengths)


def count_threads() -> int:
    """Threads to count with: OMP_NUM_THREADS, as for the matrix product, or one per core."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) > 0 else os.cpu_count() or 1
