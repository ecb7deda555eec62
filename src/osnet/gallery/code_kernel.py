"""The loop of ``exact_search`` over 8-bit codes, compiled by numba. Importing this module compiles it."""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray


def _read_only(kind: Any, dimensions: int, layout: Any) -> Any:
    """An array that may be mapped from a file; writable ones are accepted, too."""
    return numba.types.Array(kind, dimensions, layout, readonly=True)


SIGNATURE = numba.i8(
    _read_only(numba.i1, 2, "C"),
    _read_only(numba.f4, 2, "C"),
    _read_only(numba.i8, 1, "A"),
    _read_only(numba.i2, 1, "C"),
    numba.f8,
    numba.f8,
    numba.f8,
    numba.f4[::1],
    numba.i8[::1],
    numba.f4[::1],
    numba.f4[::1],
)
STREAMS = 4
"""Rows are read at this many places in turn. At one place alone, the memory waits at the end of each page (4 KiB)."""


@numba.njit(SIGNATURE, cache=True, nogil=True)  # type: ignore[misc, untyped-decorator, unused-ignore]
def find_passing(
    codes_ND: NDArray[np.int8],
    scales_N2: NDArray[np.float32],
    rows: NDArray[np.int64],
    query_D: NDArray[np.int16],
    scale: float,
    per_remainder: float,
    fixed: float,
    lowest: NDArray[np.float32],
    passing: NDArray[np.int64],
    scores: NDArray[np.float32],
    errors: NDArray[np.float32],
) -> int:
    """Find those of ``rows`` whose upper bound reaches the k-th largest lower bound so far. Returns how many.

    They are written to ``passing``, with their scores and the bounds on the errors of these; see ``exact_search``.
    ``lowest`` holds the k largest lower bounds as a heap, the smallest first; it is changed.

    The sums stay in 32 bits, explicitly: numba would widen them, and the loop would take twice as long.
    """
    count, found = len(rows), 0
    stride = (count + STREAMS - 1) // STREAMS
    for start in range(stride):
        for place in range(start, count, stride):
            row = rows[place]
            total = np.int32(0)
            for d in range(codes_ND.shape[1]):
                total = np.int32(total + np.int32(np.int32(codes_ND[row, d]) * np.int32(query_D[d])))
            score = np.float32(total * (scale * scales_N2[row, 0]))
            error = np.float32(per_remainder * scales_N2[row, 1] + fixed)
            if np.float32(score + error) < lowest[0]:
                continue
            passing[found], scores[found], errors[found] = row, score, error
            found += 1
            lower, place_in_heap, child = np.float32(score - error), 0, 1
            if lower <= lowest[0]:
                continue
            while child < len(lowest):
                if child + 1 < len(lowest) and lowest[child + 1] < lowest[child]:
                    child += 1
                if lower <= lowest[child]:
                    break
                lowest[place_in_heap], place_in_heap = lowest[child], child
                child = 2 * child + 1
            lowest[place_in_heap] = lower
    return found
