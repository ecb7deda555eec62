"""Exact ranks by counting: how many gallery items come before a given one. Works in blocks and sorts nothing.

Float32 products decide nearly all comparisons. If two products differ by less than their largest possible rounding
error, both distances are recomputed in float64 from the embeddings. Ranks therefore do not depend on block sizes,
threads, the matrix library or the split of queries, and equal embeddings tie exactly.

Shapes: Q queries, G gallery items, D components of an embedding, R x C a block, K = D or D + 1, M pairs, P wanted items
of one query.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from osnet.compiled import compile_function
from osnet.metrics.matching_rules import Ints, Pairs
from osnet.types import Distance as Distance

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

BLOCK_FLOATS = 1 << 22
"""Largest number of values in a block of products (16 MiB)."""
CHUNK_ITEMS = 1 << 13
"""Number of gallery items prepared at a time."""
SEGMENT = 256
"""Rows are compared in segments of this many values; segments with near ties are re-checked in float64."""
MANY = 512
"""Queries with more matches than this use a binary search per value instead of a pass per match."""
UNIT_ROUNDOFF = 2.0**-24
SMALLEST = float(np.finfo(np.float32).tiny)
"""Shorter embeddings count as length 0."""
LONGEST = 1e15
"""Longer embeddings would overflow float32 when squared."""


compiled: Callable[..., Any] = partial(compile_function, nogil=True)
_summing: Callable[..., Any] = partial(compiled, fastmath={"reassoc", "contract", "nsz"})
"""The compiler may vectorise sums. Such a function is compiled once, before its callers, so that the order of summation
is the same in all of them and equal embeddings give equal values (a test checks this)."""


@_summing
def _dot(a_D, b_D):  # type: ignore[no-untyped-def]
    """Dot product in float64, in which products of float32 values are exact."""
    total = 0.0
    for k in range(len(a_D)):
        total += np.float64(a_D[k]) * np.float64(b_D[k])
    return total


@_summing
def _squared_distance(a_D, b_D):  # type: ignore[no-untyped-def]
    total = 0.0
    for k in range(len(a_D)):
        step = np.float64(a_D[k]) - np.float64(b_D[k])
        total += step * step
    return total


@compiled
def _lengths(vectors_ND):  # type: ignore[no-untyped-def]
    """(N,) Euclidean lengths in float64; not finite if an embedding is not."""
    out = np.empty(len(vectors_ND))
    for n in range(len(vectors_ND)):
        out[n] = np.sqrt(_dot(vectors_ND[n], vectors_ND[n]))
    return out


@compiled
def _closeness(query_D, gallery_D, query_length, gallery_length, euclidean):  # type: ignore[no-untyped-def]
    """Closeness of two embeddings, higher is closer. Cosine: the cosine, 0 for an embedding of length 0. Euclidean:
    (|q|^2 - |q - g|^2) / 2."""
    if not euclidean:
        return _dot(query_D, gallery_D) / ((query_length or 1.0) * (gallery_length or 1.0))
    return (query_length * query_length - _squared_distance(query_D, gallery_D)) / 2


@compiled
def _pair_closeness(query_QD, gallery_GD, query_lengths, gallery_lengths, queries, items, euclidean):  # type: ignore[no-untyped-def]
    out = np.empty(len(items))
    for m in range(len(items)):
        q, g = queries[m], items[m]
        out[m] = _closeness(query_QD[q], gallery_GD[g], query_lengths[q], gallery_lengths[g], euclidean)
    return out


@compiled
def hide_pairs(block_RC, first, starts, items, columns_C):  # type: ignore[no-untyped-def]
    """Set the block's values to -inf for the pairs (``starts``, ``items``)."""
    for r in range(len(block_RC)):
        for m in range(starts[first + r], starts[first + r + 1]):
            c = np.searchsorted(columns_C, items[m])
            if c < len(columns_C) and columns_C[c] == items[m]:
                block_RC[r, c] = -np.inf


@compiled
def _compare(row_C, high, low):  # type: ignore[no-untyped-def]
    """Count values above ``high`` and values of at least ``low``. This is the hot loop; it is vectorised."""
    above, at_least = np.int32(0), np.int32(0)
    for c in range(len(row_C)):
        above = np.int32(
            above + np.int32(row_C[c] > high)
        )  # without the outer int32 numba uses 64 bits, which is half as fast
        at_least = np.int32(at_least + np.int32(row_C[c] >= low))
    return above, at_least


@compiled
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
    """Add to ``before_M`` the number of the block's items that come before each wanted item."""
    exact_C = np.full(len(columns_C), np.nan)  # exact values of the current query, computed on demand
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


@compiled
def _is_before(c, g, item, wanted, exact_C, vectors):  # type: ignore[no-untyped-def]
    """Whether gallery item ``g`` (column ``c``) comes before the wanted item, decided in float64."""
    if g == item:
        return False
    if np.isnan(exact_C[c]):
        query_D, gallery_GD, query_length, gallery_lengths, euclidean = vectors
        exact_C[c] = _closeness(query_D, gallery_GD[g], query_length, gallery_lengths[g], euclidean)
    return exact_C[c] > wanted or (exact_C[c] == wanted and g < item)


@compiled
def _count_few(row_C, columns_C, items, wanted_P, margin, exact_C, vectors, before_P):  # type: ignore[no-untyped-def]
    """Count with one pass over the row per wanted item. True if exact values were computed."""
    used = False
    for p in range(len(items)):
        own = np.searchsorted(columns_C, items[p])
        if own == len(columns_C) or columns_C[own] != items[p] or row_C[own] == -np.inf:
            own = -1  # not in this block, or ignored
        high, low = np.float32(wanted_P[p] + margin), np.float32(wanted_P[p] - margin)
        for start in range(0, len(row_C), SEGMENT):
            end = min(start + SEGMENT, len(row_C))
            above, at_least = _compare(row_C[start:end], high, low)
            before_P[p] += above
            if at_least - above <= np.int32(start <= own < end):  # no near tie, except the item with itself
                continue
            used = True
            for c in range(start, end):
                if low <= row_C[c] <= high:
                    before_P[p] += _is_before(c, columns_C[c], items[p], wanted_P[p], exact_C, vectors)
    return used


@compiled
def _count_many(row_C, columns_C, items, wanted_P, margin, exact_C, vectors, before_P):  # type: ignore[no-untyped-def]
    """Count with one pass over the row and a binary search among the wanted items per value. Always True: exact
    values are nearly always needed."""
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
    """Closeness of consecutive queries to some gallery items."""

    first: int
    """Index of the query in row 0."""
    columns_C: Ints
    """(C,): gallery indices, increasing."""
    closeness_RC: Floats
    """(R, C), higher is closer. Cosine: the cosine. Euclidean: (|q|^2 - distance^2) / 2.
    The next block overwrites it."""
    reach: float
    """Euclidean: length of the longest gallery embedding in the block; cosine: 1."""


class Vectors:
    """Validated query and gallery embeddings. Copies are made a block at a time.

    Args:
        query_QD: (Q, D), converted to float32.
        gallery_GD: (G, D), converted to float32; a contiguous float32 array is not copied.
        distance: ``cosine`` (lengths do not matter) or ``euclidean``.

    Raises:
        ValueError: shapes do not agree, a value is not finite, an embedding is too long, or ``distance`` is unknown.
    """

    def __init__(self, query_QD: ArrayLike, gallery_GD: ArrayLike, distance: Distance) -> None:
        if distance not in get_args(Distance):
            raise ValueError(f"unknown distance {distance!r}; choose from {', '.join(get_args(Distance))}")
        self.query_QD, self.query_lengths = _check(query_QD, "query")
        self.gallery_GD, self.gallery_lengths = _check(gallery_GD, "gallery")
        if self.query_QD.shape[1] != self.gallery_GD.shape[1]:
            raise ValueError(
                f"query embeddings have {self.query_QD.shape[1]} components, gallery embeddings have "
                f"{self.gallery_GD.shape[1]}; both must come from the same network"
            )
        self.euclidean = distance == "euclidean"

    def of_queries(self, first: int, last: int) -> "Vectors":
        """The queries ``first`` to ``last`` (exclusive), with the whole gallery."""
        part = object.__new__(Vectors)
        part.query_QD, part.query_lengths = self.query_QD[first:last], self.query_lengths[first:last]
        part.gallery_GD, part.gallery_lengths, part.euclidean = self.gallery_GD, self.gallery_lengths, self.euclidean
        return part

    def blocks(self, columns: Ints) -> Iterator[Block]:
        """Closeness of all queries to the gallery items ``columns`` (increasing), in blocks of bounded size."""
        query_QK = self._ready(self.query_QD, self.query_lengths, np.float32(1))
        rows = max(1, BLOCK_FLOATS // CHUNK_ITEMS)
        out = np.empty((min(rows, len(query_QK)), min(CHUNK_ITEMS, len(columns))), dtype=np.float32)
        for start in range(0, len(columns), CHUNK_ITEMS):
            columns_C = columns[start : start + CHUNK_ITEMS]
            whole = columns_C[-1] - columns_C[0] + 1 == len(columns_C)  # a slice without gaps needs no copy
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
        """Embeddings whose products are the closeness. Cosine: of length 1. Euclidean: with one component more."""
        if not self.euclidean:
            scale = (1 / np.where(lengths > 0, lengths, 1)).astype(np.float32)
            return vectors_ND * scale[:, None]
        ready = np.empty((len(vectors_ND), vectors_ND.shape[1] + 1), dtype=np.float32)
        ready[:, :-1], ready[:, -1] = vectors_ND, last
        return ready

    def margin(self, reach: float) -> Doubles:
        """(Q,): largest error of a float32 product, for any order of summation.

        The bound is nearly n u |x| |y| (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1). 16
        more operations account for the lengths, the last component and the rounding of the compared values.
        """
        size = self.query_lengths * reach + reach * reach if self.euclidean else np.ones(len(self.query_lengths))
        return (
            1.01 * (self.query_QD.shape[1] + 16) * UNIT_ROUNDOFF * size + SMALLEST
        )  # SMALLEST: products may underflow

    def count_before(self, wanted: Pairs, ignored: Pairs, columns: Ints) -> Ints:
        """(M,): for each wanted pair, the number of gallery items ``columns`` that come before it.

        An item comes before another if it is closer to the query, or exactly as close and earlier in the gallery.
        Ignored pairs are not counted. A wanted item need not be in ``columns``.
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
    """The embeddings as float32 and their lengths (N,)."""
    array = np.ascontiguousarray(embeddings, dtype=np.float32)
    if array.ndim != 2:
        raise ValueError(f"{name} embeddings have shape {array.shape}; they must be (number, components)")
    lengths: Doubles = _lengths(array)
    if not np.isfinite(lengths).all():
        raise ValueError(f"{name} embeddings contain values that are not finite")
    if len(lengths) and lengths.max() > LONGEST:
        raise ValueError(f"{name} embeddings have lengths up to {lengths.max():.1e}, above {LONGEST:.0e}; scale them")
    return array, np.where(lengths < SMALLEST, 0, lengths)


def count_threads() -> int:
    """Number of threads: OMP_NUM_THREADS, as for the matrix product, else one per core."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) > 0 else os.cpu_count() or 1
