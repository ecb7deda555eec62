"""The loop of ``exact_search`` over 8-bit codes, compiled by numba. Importing this module compiles it."""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray


def _read_only(kind: Any, dimensions: int, layout: Any) -> Any:
    """An array that may be mapped from a file; writable ones are accepted, too."""
    return numba.types.Array(kind, dimensions, layout, readonly=True)


SIGNATURE = numba.void(
    _read_only(numba.i1, 2, "C"),
    _read_only(numba.f4, 2, "C"),
    _read_only(numba.i8, 1, "A"),
    _read_only(numba.i2, 1, "C"),
    numba.f8,
    numba.f8,
    numba.f8,
    numba.f4[::1],
    numba.f4[::1],
)


@numba.njit(SIGNATURE, cache=True, nogil=True)  # type: ignore[misc, untyped-decorator, unused-ignore]
def score_codes(
    codes_ND: NDArray[np.int8],
    scales_N2: NDArray[np.float32],
    rows: NDArray[np.int64],
    query_D: NDArray[np.int16],
    scale: float,
    per_remainder: float,
    fixed: float,
    scores: NDArray[np.float32],
    errors: NDArray[np.float32],
) -> None:
    """Write the score of each of ``rows``, and the bound on its error; see ``exact_search``.

    The sums stay in 32 bits, explicitly: numba would widen them, and the loop would take twice as long.
    """
    for place in range(len(rows)):
        row = rows[place]
        total = np.int32(0)
        for d in range(codes_ND.shape[1]):
            total = np.int32(total + np.int32(np.int32(codes_ND[row, d]) * np.int32(query_D[d])))
        scores[place] = total * (scale * scales_N2[row, 0])
        errors[place] = per_remainder * scales_N2[row, 1] + fixed
