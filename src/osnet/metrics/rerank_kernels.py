"""The three inner loops of re-ranking, compiled for the CPU. The one file that needs numba.

For lists of nearest neighbours a tile of distances is read once per direction: along its rows for the items of the
rows, along its columns for the items of the columns. Most runs of numbers hold nothing that is closer than an item's
worst neighbour so far; those cost one vectorised comparison.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

CHUNK = 128
"""Numbers compared at once; a multiple of any machine's vector length."""


def _compiled(signature: str) -> Any:
    """Compiled when this file is first imported (some seconds), and read from numba's cache ever after.

    Every distance is a number or an infinity, so the order of minima and sums may be changed.
    """
    return numba.njit(signature, parallel=True, cache=True, fastmath={"nnan", "nsz", "reassoc", "contract"})


@numba.njit(cache=True, inline="always")  # type: ignore[misc, untyped-decorator, unused-ignore]
def _insert(closest_K: Any, index_K: Any, distance: Any, index: int) -> None:
    """Put one neighbour behind those that are as close: they come by increasing index, so ties keep that order."""
    place = len(closest_K) - 1
    while place > 0 and closest_K[place - 1] > distance:
        closest_K[place] = closest_K[place - 1]
        index_K[place] = index_K[place - 1]
        place -= 1
    closest_K[place] = distance
    index_K[place] = index


@_compiled("void(f4[:,::1], f4[::1], f4[::1], f4[:,::1], i4[:,::1], f4[::1], i8)")  # type: ignore[misc, untyped-decorator, unused-ignore]
def update_rows(
    tile_BC: NDArray[np.float32],
    squares_B: NDArray[np.float32],
    squares_C: NDArray[np.float32],
    closest_BK: NDArray[np.float32],
    index_BK: NDArray[np.int32],
    furthest_B: NDArray[np.float32],
    first_column: int,
) -> None:
    """Turn a tile of products into squared distances, and offer each row's to the item of that row, all in place.

    Args:
        tile_BC: inner products; afterwards squared distances. An inner product of +inf means nearest of all.
        squares_B: squared lengths of the rows' items.
        squares_C: squared lengths of the columns' items.
        closest_BK: distances of the K nearest so far, increasing; +inf where none is known.
        index_BK: whose they are.
        furthest_B: the largest distance so far.
        first_column: which item column 0 is.
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


@_compiled("void(f4[:,::1], f4[:,::1], i4[:,::1], f4[::1], i8)")  # type: ignore[misc, untyped-decorator, unused-ignore]
def update_columns(
    tile_BC: NDArray[np.float32],
    closest_CK: NDArray[np.float32],
    index_CK: NDArray[np.int32],
    furthest_C: NDArray[np.float32],
    first_row: int,
) -> None:
    """Offer each column of a tile of squared distances to the item of that column, in place; see ``update_rows``."""
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


@_compiled("void(f4[:,::1], i8[::1], i8[::1], f4[::1])")  # type: ignore[misc, untyped-decorator, unused-ignore]
def pair_distances(
    items_ND: NDArray[np.float32], one_P: NDArray[np.int64], other_P: NDArray[np.int64], distance_P: NDArray[np.float32]
) -> None:
    """Squared Euclidean distances of pairs of items, into ``distance_P``."""
    for p in numba.prange(len(one_P)):
        one, other = items_ND[one_P[p]], items_ND[other_P[p]]
        total = np.float32(0)
        for d in range(len(one)):
            difference = one[d] - other[d]
            total += difference * difference
        distance_P[p] = total


@_compiled("void(i8, i8[::1], i8[::1], f8[::1], i8[::1], i8[::1], f8[::1], f8, f4, f4[:,::1])")  # type: ignore[misc, untyped-decorator, unused-ignore]
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
    """Add ``weight`` times the Jaccard distances of some queries' codes to those of the gallery; see ``Encoding``.

    Args:
        first_row: the query of row 0 of the result.
        start: codes by rows, with ``column_E`` and ``value_E``.
        column_E: members.
        value_E: their weights, times ``num_averaged``.
        other_start: the gallery's codes by members, with ``other_column_E`` and ``other_value_E``.
        other_column_E: gallery items.
        other_value_E: the member's weights in their codes, times ``num_averaged``.
        num_averaged: codes that were added up.
        weight: share of the Jaccard distance.
        distance_BG: the rest of the distance.
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
