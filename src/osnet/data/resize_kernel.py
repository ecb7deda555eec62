"""Pillow's bilinear resize of 8-bit RGB images, compiled by numba. Importing this module compiles it.

It computes what ``src/libImaging/Resample.c`` of Pillow computes: a pass along each axis, with weights of 22 bits and
8-bit values between the passes. Only ``transforms`` should use it, after it compared both.

Shapes: h, w the given height and width; H, W the wanted ones; T the number of taps, the pixels that one pixel of the
result depends on.
"""

from functools import lru_cache, partial

import numba
import numpy as np
from numba import int32, int64, uint8, uint64
from numpy.typing import NDArray

from osnet.compiled import compile_function

BITS = 22
"""Precision of the weights: 8 bits are left for the pixel, and two for the sum."""
HALF = 1 << (BITS - 1)
MAX_TABLES = 1024
"""Tables of weights that are kept, one for each side of an image. Most have a few kilobytes."""


def resize_rgb(image: NDArray[np.uint8], size_hw: tuple[int, int], bgr: bool, height_first: bool) -> NDArray[np.uint8]:
    """Resize an array (h, w, 3) to (3, H, W).

    Args:
        image: of any size.
        size_hw: H and W.
        bgr: reverse the order of the channels.
        height_first: the pass that changes the height comes first.
    """
    height, width = size_hw
    rows = np.ascontiguousarray(image).reshape(1, image.shape[0], 3 * image.shape[1])
    down, across = _weigh(image.shape[0], height, 1), _weigh(image.shape[1], width, 2)
    out = np.empty((3, height, width), np.uint8)
    if height_first:
        shrunk = np.empty((1, height, rows.shape[2]), np.uint8)
        _resize_height(rows, *down, shrunk)
        _resize_width(shrunk[0], *across, bgr, out)
    else:
        planes = np.empty((3, rows.shape[1], width), np.uint8)
        _resize_width(rows[0], *across, bgr, planes)
        _resize_height(planes, *down, out)
    return out


@lru_cache(MAX_TABLES)
def _weigh(size: int, wanted: int, least_taps: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """For each pixel of a side of the result: its first tap (wanted,), and the weights of its taps (wanted, T).

    T is at least ``least_taps``. Unless the image is smaller than T, all taps lie inside it.
    """
    scale = size / wanted
    reach = max(scale, 1.0)
    centre = (np.arange(wanted) + 0.5) * scale
    start = np.maximum((centre - reach + 0.5).astype(np.int64), 0)
    stop = np.minimum((centre + reach + 0.5).astype(np.int64), size)
    places = start[:, None] + np.arange((stop - start).max())
    exact = np.maximum(1.0 - np.abs((places - centre[:, None] + 0.5) * (1.0 / reach)), 0.0)
    exact[places >= stop[:, None]] = 0
    total = exact.cumsum(1)[:, -1:]  # one after the other, as in C: NumPy's sum adds in another order
    fixed = (0.5 + exact / total * (1 << BITS)).astype(np.int32)
    first = start + (fixed != 0).argmax(1)
    taps = max(least_taps, int((np.where(fixed != 0, places, 0).max(1) - first).max()) + 1)
    first = np.clip(first, 0, max(0, size - taps))
    weights = np.zeros((wanted, taps), np.int32)
    line, tap = fixed.nonzero()
    weights[line, places[line, tap] - first[line]] = fixed[line, tap]
    return first, weights


_GIVEN = partial(numba.types.Array, layout="C", readonly=True)


@partial(
    compile_function,
    nogil=True,
    signature=numba.void(_GIVEN(uint8, 3), _GIVEN(int64, 1), _GIVEN(int32, 2), uint8[:, :, ::1]),
)
def _resize_height(image, first, weights, out):  # type: ignore[no-untyped-def]
    """(P, h, M) to (P, H, M): rows of M values. The loops over values become vector instructions."""
    taps, last = weights.shape[1], image.shape[1] - 1
    sums = np.empty(image.shape[2], np.int32)
    for plane in range(image.shape[0]):
        for y in range(len(first)):
            weight, row, line = weights[y, 0], image[plane, first[y]], out[plane, y]
            for i in range(len(sums)):
                sums[i] = int32(int32(HALF) + int32(weight * int32(row[i])))
            for tap in range(1, taps):
                weight, row = weights[y, tap], image[plane, min(first[y] + tap, last)]
                for i in range(len(sums)):
                    sums[i] = int32(sums[i] + int32(weight * int32(row[i])))
            for i in range(len(sums)):
                line[i] = min(sums[i] >> int32(BITS), int32(255))


@partial(
    compile_function,
    nogil=True,
    signature=numba.void(_GIVEN(uint8, 2), _GIVEN(int64, 1), _GIVEN(int32, 2), numba.boolean, uint8[:, :, ::1]),
)
def _resize_width(image, first, weights, bgr, out):  # type: ignore[no-untyped-def]
    """(h, w x 3) to (3, h, W): the channels become planes, with ``bgr`` in reversed order.

    Two rows are computed at a time in one integer of 64 bits, because a sum needs fewer than 32.
    """
    height, length, taps, wanted = image.shape[0], image.shape[1], weights.shape[1], len(first)
    both = np.zeros(max(length, 3 * taps), np.uint64)
    sums = np.empty((3, wanted), np.uint64)
    half, mask, most = uint64(HALF << 32 | HALF), uint64((1 << (32 - BITS)) - 1), uint64(255)
    for y in range(0, height, 2):
        below = min(y + 1, height - 1)
        row, row_below = image[y], image[below]
        for i in range(length):
            both[i] = uint64(row[i]) | (uint64(row_below[i]) << uint64(32))
        red_sums, green_sums, blue_sums = sums[0], sums[1], sums[2]
        for x in range(wanted):
            place = uint64(3 * first[x])
            a, b = uint64(weights[x, 0]), uint64(weights[x, 1])
            red = half + a * both[place] + b * both[place + uint64(3)]
            green = half + a * both[place + uint64(1)] + b * both[place + uint64(4)]
            blue = half + a * both[place + uint64(2)] + b * both[place + uint64(5)]
            for tap in range(2, taps):
                place, c = uint64(3 * (first[x] + tap)), uint64(weights[x, tap])
                red += c * both[place]
                green += c * both[place + uint64(1)]
                blue += c * both[place + uint64(2)]
            red_sums[x], green_sums[x], blue_sums[x] = red, green, blue
        for channel in range(3):  # a loop of its own becomes vector instructions
            found, plane = sums[channel], out[2 - channel if bgr else channel]
            line, line_below = plane[y], plane[below]
            for x in range(wanted):
                line[x] = min((found[x] >> uint64(BITS)) & mask, most)
                line_below[x] = min(found[x] >> uint64(32 + BITS), most)
