"""The loop of ``exact_search`` over 8-bit codes, compiled by numba. Importing this module compiles it."""

from functools import partial
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from osnet.compiled import compile_function


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
    numba.i8,
    numba.i8,
    numba.i8[::1],
    numba.f4[::1],
    numba.f4[::1],
)
_TOOLS: Any = cgutils
STREAMS = 4
"""Rows are read at this many places in turn. At one place alone, the memory waits at the end of each page (4 KiB)."""

AHEAD = 4
"""Each row is requested from memory this many rows before its use. Processors themselves look ahead only in a page."""
LANES = 64
"""Products of one step of the sum: the codes of one cache line."""


def _define_sum(typing: Any, codes_ND: Any, row: Any, query_D: Any, later: Any) -> Any:
    """What numba needs to compile ``_sum_products``."""
    byte, short, word, index = (ir.IntType(bits) for bits in (8, 16, 32, 64))
    products, sums = ir.VectorType(word, LANES), ir.VectorType(word, LANES // 2)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        codes, query = (
            context.make_array(kind)(context, builder, value)
            for kind, value in ((signature.args[0], values[0]), (signature.args[2], values[2]))
        )
        size = builder.extract_value(codes.shape, 1)
        first, ahead = (builder.gep(codes.data, [builder.mul(number, size)]) for number in (values[1], values[3]))
        step = ir.Constant(index, LANES)
        whole = builder.mul(builder.udiv(size, step), step)
        prefetch = ir.FunctionType(ir.VoidType(), [byte.as_pointer(), word, word, word])
        fetch = _TOOLS.get_or_insert_function(builder.module, prefetch, "llvm.prefetch.p0")
        to_read_soon = [word(0), word(3), word(1)]  # reading, into the nearest cache, data
        total = _TOOLS.alloca_once_value(builder, ir.Constant(sums, None))

        def widen(array: Any, place: Any, kind: Any) -> Any:
            pointer = builder.bitcast(builder.gep(array, [place]), ir.VectorType(kind, LANES).as_pointer())
            loaded = builder.load(pointer)
            loaded.align = kind.width // 8
            return builder.sext(loaded, products)

        def every_other(vector: Any, start: int) -> Any:
            places = ir.Constant(sums, list(range(start, LANES, 2)))
            return builder.shuffle_vector(vector, ir.Constant(products, ir.Undefined), places)

        with _TOOLS.for_range_slice(builder, ir.Constant(index, 0), whole, step, inc=True) as (place, _):
            builder.call(fetch, [builder.gep(ahead, [place]), *to_read_soon])
            product = builder.mul(widen(first, place, byte), widen(query.data, place, short))
            pairs = builder.add(every_other(product, 0), every_other(product, 1))
            builder.store(builder.add(builder.load(total), pairs), total)
        name = f"llvm.vector.reduce.add.v{LANES // 2}i32"
        add_up = _TOOLS.get_or_insert_function(builder.module, ir.FunctionType(word, [sums]), name)
        return builder.call(add_up, [builder.load(total)])

    return numba.i4(codes_ND, row, query_D, later), generate


_sum_products: Any = intrinsic(_define_sum)
"""The 32-bit sum of ``codes_ND[row, d] * query_D[d]`` over the first whole steps of ``LANES``. Row ``later`` is
loaded into the cache.

Of a plain loop, LLVM makes products of 8 codes at a time. Here the products of neighbours are added first, for which
processors have one instruction (x86: ``vpdpwssd`` or ``vpmaddwd``, of up to 32 codes).
"""


@partial(compile_function, signature=SIGNATURE, nogil=True)
def find_passing(
    codes_ND: NDArray[np.int8],
    scales_N2: NDArray[np.float32],
    rows: NDArray[np.int64],
    query_D: NDArray[np.int16],
    scale: float,
    per_remainder: float,
    fixed: float,
    lowest: NDArray[np.float32],
    first: int,
    found: int,
    passing: NDArray[np.int64],
    scores: NDArray[np.float32],
    errors: NDArray[np.float32],
) -> int:
    """Find those of ``rows`` whose upper bound reaches the k-th largest lower bound so far.

    Their numbers, counted from ``first``, are written to ``passing``, with their scores and the bounds on the errors of
    these (see ``exact_search``), after the ``found`` that are there. Returns how many are there now.
    ``lowest`` holds the k largest lower bounds as a heap, the smallest first; it is changed.

    The sums stay in 32 bits, explicitly: numba would widen them, and the loop would take twice as long.
    """
    count, size = len(rows), codes_ND.shape[1]
    stride = (count + STREAMS - 1) // STREAMS
    for start in range(stride):
        for place in range(start, count, stride):
            row = rows[place]
            total = _sum_products(codes_ND, row, query_D, rows[min(place + AHEAD, count - 1)])
            for d in range(size // LANES * LANES, size):
                total = np.int32(total + np.int32(np.int32(codes_ND[row, d]) * np.int32(query_D[d])))
            score = np.float32(total * (scale * scales_N2[row, 0]))
            error = np.float32(per_remainder * scales_N2[row, 1] + fixed)
            if np.float32(score + error) < lowest[0]:
                continue
            passing[found], scores[found], errors[found] = first + row, score, error
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
