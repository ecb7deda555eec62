"""The inner loops of re-ranking, compiled for the CPU with numba.

A tile of distances is read twice: along its rows to update the neighbours of the row items, and along its columns to
update those of the column items. Most chunks contain nothing closer than an item's worst neighbour so far; such a chunk
costs one vectorised comparison.

Shapes: N items, K neighbours, D components of an embedding, B x C a tile, P pairs, E entries of a sparse matrix, B x G
a block of distances.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from osnet.compiled import compile_function

CHUNK = 128
"""Number of values compared at once; a multiple of any CPU's vector length."""


def _compiled(signature: str) -> Callable[..., Any]:
    """Compile when this module is first imported (some seconds); later imports read numba's cache.

    Distances are never NaN, so the compiler may reorder minima and sums.
    """
    fast = {"nnan", "nsz", "reassoc", "contract"}
    return partial(compile_function, signature=signature, parallel=True, fastmath=fast)


@numba.njit(inline="always")  # type: ignore[misc, untyped-decorator, unused-ignore]
def _insert(closest_K: Any, index_K: Any, distance: Any, index: int) -> None:
    """Insert a neighbour after those at the same distance; callers go by increasing index, so ties keep that order."""
    place = len(closest_K) - 1
    while place > 0 and closest_K[place - 1] > distance:
        closest_K[place] = closest_K[place - 1]
        index_K[place] = index_K[place - 1]
        place -= 1
    closest_K[place] = distance
    index_K[place] = index


@_compiled("void(f4[:,::1], f4[::1], f4[::1], f4[:,::1], i4[:,::1], f4[::1], i8)")
def update_rows(
    tile_BC: NDArray[np.float32],
    squares_B: NDArray[np.float32],
    squares_C: NDArray[np.float32],
    closest_BK: NDArray[np.float32],
    index_BK: NDArray[np.int32],
    furthest_B: NDArray[np.float32],
    first_column: int,
) -> None:
    """Turn a tile of inner products into squared distances and update the neighbours of the row items, in place.

    Args:
        tile_BC: inner products; replaced by squared distances. A product of +inf makes the item the nearest.
        squares_B: squared lengths of the row items.
        squares_C: squared lengths of the column items.
        closest_BK: distances of the K nearest items so far, increasing; +inf where there is none yet.
        index_BK: indices of those items.
        furthest_B: largest distance so far.
        first_column: index of the item in column 0.
    """
    num_columns, worst = tile_BC.shape[1], closest_BK.shape[1] - 1
    for b in numba.prange(tile_BC.shape[0]):
        row, closest, index = tile_BC[b], closest_BK[b], index_BK[b]
        furthest = furthest_B[b]
        for start in range(0, num_columns, CHUNK):
            stop = min(start + CHUNK, num_columns)
            low, high = np.float32(np.inf), np.float32(-np.inf)
            for c in range(start, stop):
                distance = squares_B[b] + squares_C[c] - np.float32(2) * row[c]
                row[c] = distance
                low = min(low, distance)
                high = max(high, distance)
            furthest = max(furthest, high)
            if low < closest[worst]:
                for c in range(start, stop):
                    if row[c] < closest[worst]:
                        _insert(closest, index, row[c], first_column + c)
        furthest_B[b] = furthest


@_compiled("void(f4[:,::1], f4[:,::1], i4[:,::1], f4[::1], i8)")
def update_columns(
    tile_BC: NDArray[np.float32],
    closest_CK: NDArray[np.float32],
    index_CK: NDArray[np.int32],
    furthest_C: NDArray[np.float32],
    first_row: int,
) -> None:
    """Update the neighbours of the column items from a tile of squared distances, in place.

    Arguments as for ``update_rows``; ``first_row`` is the index of the item in row 0.
    """
    num_rows, num_columns = tile_BC.shape
    worst = closest_CK.shape[1] - 1
    for part in numba.prange((num_columns + CHUNK - 1) // CHUNK):
        start = part * CHUNK
        stop = min(start + CHUNK, num_columns)
        limit, furthest = closest_CK[start:stop, worst].copy(), furthest_C[start:stop]
        for b in range(num_rows):
            row = tile_BC[b, start:stop]
            any_closer = np.int32(0)
            for c in range(len(row)):
                any_closer |= np.int32(row[c] < limit[c])
                furthest[c] = max(furthest[c], row[c])
            if any_closer:
                for c in range(len(row)):
                    if row[c] < limit[c]:
                        _insert(closest_CK[start + c], index_CK[start + c], row[c], first_row + b)
                        limit[c] = closest_CK[start + c, worst]


@_compiled("void(f4[:,::1], i8[::1], i8[::1], f4[::1])")
def pair_distances(
    items_ND: NDArray[np.float32], one_P: NDArray[np.int64], other_P: NDArray[np.int64], distance_P: NDArray[np.float32]
) -> None:
    """Write the squared Euclidean distance of each pair of items into ``distance_P``."""
    for p in numba.prange(len(one_P)):
        one, other = items_ND[one_P[p]], items_ND[other_P[p]]
        total = np.float32(0)
        for d in range(len(one)):
            difference = one[d] - other[d]
            total += difference * difference
        distance_P[p] = total


@_compiled("void(i8, i8[::1], i8[::1], f8[::1], i8[::1], i8[::1], f8[::1], f8, f4, f4[:,::1])")
def add_jaccard(
    first_row: int,
    start: NDArray[np.int64],
    column_E: NDArray[np.int64],
    value_E: NDArray[np.float64],
    other_start: NDArray[np.int64],
    other_column_E: NDArray[np.int64],
    other_value_E: NDArray[np.float64],
    num_averaged: float,
    weight: float,
    distance_BG: NDArray[np.float32],
) -> None:
    """Add ``weight`` times the Jaccard distance of queries and gallery items to ``distance_BG``; see ``Encoding``.

    The arguments are flat arrays because numba compiles for fixed types.

    Args:
        first_row: index of the query in row 0.
        start: row starts of the codes (CSR), for ``column_E`` and ``value_E``.
        column_E: members of the codes.
        value_E: their weights, times ``num_averaged``.
        other_start: row starts of the transposed gallery codes, for ``other_column_E`` and ``other_value_E``.
        other_column_E: gallery items whose code has the member.
        other_value_E: weight of the member in those codes, times ``num_averaged``.
        num_averaged: number of codes that were summed.
        weight: weight of the Jaccard distance, 1 - lambda.
        distance_BG: lambda times the original distance; updated in place.
    """
    for b in numba.prange(len(distance_BG)):
        row = distance_BG[b]
        shared = np.zeros(len(row), np.float64)
        for place in range(start[first_row + b], start[first_row + b + 1]):
            value, member = value_E[place], column_E[place]
            for other in range(other_start[member], other_start[member + 1]):
                shared[other_column_E[other]] += min(value, other_value_E[other])
        for g in range(len(row)):
            overlap = np.float32(shared[g] / num_averaged)
            row[g] += weight * (np.float32(1) - overlap / (np.float32(2) - overlap))
