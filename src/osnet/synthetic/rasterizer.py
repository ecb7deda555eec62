"""A rasteriser with integer arithmetic only, so that an image is the same on every machine, bit for bit.

Coordinates are in sixteenths of a pixel (``UNIT``). Colours are 0 to 255. Fractions are integers with denominator 256.
This module uses no floats, no random numbers of a library and no rasteriser of a library.
"""

from collections.abc import Callable, Sequence
from math import isqrt

import numpy as np
from numpy.typing import NDArray

UNIT = 16
"""Subdivisions of a pixel in coordinates."""

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Colour = tuple[int, int, int]
Texture = Callable[[Ints, Ints], Ints]
"""Maps the position of N pixels on a shape to their colours (N, 3) before shading. The arguments are the positions
along the shape (0 to 256) and across it (-256 to 256)."""

_MASK = (1 << 64) - 1


def _mix(value: int) -> int:
    """SplitMix64's output function (Steele et al., OOPSLA 2014)."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


class Dice:
    """A generator of random integers. The numbers depend only on the arguments, such as a seed and an identity."""

    def __init__(self, *path: int) -> None:
        self._state = 0
        for part in path:
            self._state = _mix((self._state + part + 0x9E3779B97F4A7C15) & _MASK)

    def roll(self, low: int, high: int) -> int:
        """Draw an integer from ``low`` to ``high``, both included."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        return low + _mix(self._state) % (high - low + 1)

    def chance(self, percent: int) -> bool:
        """Return True with a probability of ``percent``, in per cent."""
        return self.roll(0, 99) < percent

    def pick(self, options: Sequence[int]) -> int:
        """Draw one of ``options``, all equally probable."""
        return options[self.roll(0, len(options) - 1)]

    def bell(self, spread: int) -> int:
        """Draw an integer from ``-spread`` to ``spread`` with an approximately normal distribution around 0."""
        return (self.roll(-spread, spread) + self.roll(-spread, spread) + self.roll(-spread, spread)) // 3

    def field(self, shape: tuple[int, ...]) -> Ints:
        """Draw an array of integers from 0 to 255."""
        count = int(np.prod(shape))
        words = (count + 7) // 8
        index = np.arange(1, words + 1, dtype=np.uint64)
        value = np.uint64(self.roll(0, _MASK)) + index * np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        value ^= value >> np.uint64(31)
        shifts = np.arange(0, 64, 8, dtype=np.uint64)
        octets = (value[:, None] >> shifts) & np.uint64(255)
        return octets.reshape(-1)[:count].astype(np.int32).reshape(shape)


def sine(degrees: int) -> int:
    """256 * sin(degrees), rounded towards zero, by Bhaskara's rational approximation (error below 0.2 % of 256)."""
    degrees %= 360
    sign = 1 if degrees < 180 else -1
    d = degrees % 180
    return sign * (4 * d * (180 - d) * 256 // (40500 - d * (180 - d)))


def cosine(degrees: int) -> int:
    """256 * cos(degrees); see ``sine``."""
    return sine(degrees + 90)


def smooth_field(dice: Dice, shape_hw: tuple[int, int], cell: int) -> Ints:
    """Make a smooth random field (H, W) from 0 to 255: random values every ``cell`` pixels, bilinearly interpolated."""
    height, width = shape_hw
    corners = dice.field((height // cell + 2, width // cell + 2))
    y, x = np.arange(height, dtype=np.int32), np.arange(width, dtype=np.int32)
    top, left = y // cell, x // cell
    fy, fx = (y % cell)[:, None], (x % cell)[None, :]
    a, b = corners[top][:, left], corners[top][:, left + 1]
    c, d = corners[top + 1][:, left], corners[top + 1][:, left + 1]
    total = (a * (cell - fx) + b * fx) * (cell - fy) + (c * (cell - fx) + d * fx) * fy
    return (total // (cell * cell)).astype(np.int32)


def plain(colour: Colour) -> Texture:
    """Make a texture of one colour."""
    paint = np.array(colour, dtype=np.int32)
    return lambda along, _across: np.broadcast_to(paint, (len(along), 3))


class Canvas:
    """An image on which shapes are painted. ``mask`` (H, W) marks the painted pixels.

    Args:
        pixels_HW3: the background; it is painted over in place.
        folds_HW: variation of the brightness of shapes, 0 to 255.
        light: direction of the light, from -256 (right) to 256 (left).
    """

    def __init__(self, pixels_HW3: Ints, folds_HW: Ints, light: int) -> None:
        self.pixels = pixels_HW3
        self.mask: NDArray[np.bool_] = np.zeros(pixels_HW3.shape[:2], dtype=bool)
        self.folds = folds_HW
        self.light = light

    def limb(
        self, start: tuple[int, int], end: tuple[int, int], radius: int, radius_end: int, texture: Texture
    ) -> None:
        """Paint a tube with round ends between two points. Its radius changes from ``radius`` to ``radius_end``.

        Coordinates and radii are in sub-pixels.
        """
        (ax, ay), (bx, by) = start, end
        reach = max(radius, radius_end)
        window = self._window(min(ax, bx) - reach, min(ay, by) - reach, max(ax, bx) + reach, max(ay, by) + reach)
        if window is None:
            return
        x, y = window
        dx, dy = bx - ax, by - ay
        squared = max(1, dx * dx + dy * dy)
        along = np.clip(((x - ax) * dx + (y - ay) * dy) * 256 // squared, 0, 256)
        r = np.maximum(1, radius + (radius_end - radius) * along // 256)
        gap_x, gap_y = x - (ax + dx * along // 256), y - (ay + dy * along // 256)
        inside = gap_x * gap_x + gap_y * gap_y <= r * r
        across = np.clip(((x - ax) * dy - (y - ay) * dx) // max(1, isqrt(squared)) * 256 // r, -256, 256)
        self._paint(x, y, inside, along, across * (1 if dy >= 0 else -1), texture)

    def slab(
        self,
        top: tuple[int, int],
        bottom: tuple[int, int],
        half_widths: Sequence[int],
        texture: Texture,
        shaded: bool = True,
    ) -> None:
        """Paint a shape around an axis from ``top`` to ``bottom``.

        ``half_widths`` are its half widths at equal steps along the axis. They are interpolated. All values are in
        sub-pixels.
        """
        (tx, ty), (bx, by) = top, bottom
        reach = max(half_widths)
        window = self._window(min(tx, bx) - reach, ty, max(tx, bx) + reach, by)
        if window is None or by <= ty:
            return
        x, y = window
        along = np.clip((y - ty) * 256 // (by - ty), 0, 256)
        steps = len(half_widths) - 1
        place = along * steps
        widths = np.array([*half_widths, half_widths[-1]], dtype=np.int64)
        index, part = place // 256, place % 256
        w = np.maximum(1, (widths[index] * (256 - part) + widths[index + 1] * part) // 256)
        offset = x - (tx + (bx - tx) * along // 256)
        across = np.clip(offset * 256 // w, -512, 512)
        self._paint(x, y, abs(across) <= 256, along, across, texture, shaded)

    def disc(self, centre: tuple[int, int], radius_x: int, radius_y: int, texture: Texture) -> None:
        """Paint an ellipse. Centre and radii are in sub-pixels."""
        cx, cy = centre
        window = self._window(cx - radius_x, cy - radius_y, cx + radius_x, cy + radius_y)
        if window is None:
            return
        x, y = window
        across, down = (x - cx) * 256 // radius_x, (y - cy) * 256 // radius_y
        self._paint(x, y, across * across + down * down <= 65536, (down + 256) // 2, across, texture)

    def _window(self, left: int, top: int, right: int, bottom: int) -> tuple[Longs, Longs] | None:
        """The centres of the pixels in a box, in sub-pixels: x (1, w) and y (h, 1). None if the box has no pixels."""
        height, width = int(self.mask.shape[0]), int(self.mask.shape[1])
        x0, x1 = max(0, left // UNIT), min(width, right // UNIT + 1)
        y0, y1 = max(0, top // UNIT), min(height, bottom // UNIT + 1)
        if x0 >= x1 or y0 >= y1:
            return None
        x = np.arange(x0, x1, dtype=np.int64)[None, :] * UNIT + UNIT // 2
        y = np.arange(y0, y1, dtype=np.int64)[:, None] * UNIT + UNIT // 2
        return x, y

    def _paint(
        self,
        x: Longs,
        y: Longs,
        inside: NDArray[np.bool_],
        along: Longs,
        across: Longs,
        texture: Texture,
        shaded: bool = True,
    ) -> None:
        rows, columns = np.nonzero(inside)
        if not len(rows):
            return
        shape = inside.shape
        t = np.broadcast_to(along, shape)[rows, columns].astype(np.int32)
        u = np.broadcast_to(across, shape)[rows, columns].astype(np.int32)
        row, column = rows + int(y[0, 0]) // UNIT, columns + int(x[0, 0]) // UNIT
        colour = texture(t, u)
        if shaded:  # darker towards the edges and on one side, with folds
            shade = 262 - (u * u * 100 >> 16) - (u * self.light >> 10) + (self.folds[row, column] - 128) // 4
            colour = colour * shade[:, None] >> 8
        self.pixels[row, column] = colour
        self.mask[row, column] = True


def halve(pixels: Ints) -> Ints:
    """Halve the size by averaging 2 x 2 pixels. (2H, 2W, C) -> (H, W, C)."""
    return (pixels[::2, ::2] + pixels[1::2, ::2] + pixels[::2, 1::2] + pixels[1::2, 1::2] + 2) >> 2


def blur(pixels: Ints, times: int) -> Ints:
    """Blur (H, W, C) ``times`` times with the filter 1-2-1 in both directions. Border pixels are repeated."""
    for _ in range(times):
        padded = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), mode="edge")
        rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
        pixels = (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:] + 8) >> 4
    return pixels


def coarsen(pixels: Ints, factor: int) -> Ints:
    """Reduce the resolution of (H, W, C) by ``factor`` and enlarge it again bilinearly. The size does not change.

    Returns the input if ``factor`` is below 2 or does not divide the height and the width.
    """
    height, width, channels = pixels.shape
    if factor < 2 or height % factor or width % factor:
        return pixels
    small = pixels.reshape(height // factor, factor, width // factor, factor, channels).sum((1, 3)) // (factor * factor)
    padded = np.pad(small, ((1, 1), (1, 1), (0, 0)), mode="edge").astype(np.int32)
    place_y, place_x = (2 * np.arange(n) + 1 + factor for n in (height, width))
    y, fy = place_y // (2 * factor), (place_y % (2 * factor))[:, None, None]
    x, fx = place_x // (2 * factor), (place_x % (2 * factor))[None, :, None]
    whole = 2 * factor
    top = padded[y][:, x] * (whole - fx) + padded[y][:, x + 1] * fx
    bottom = padded[y + 1][:, x] * (whole - fx) + padded[y + 1][:, x + 1] * fx
    result: Ints = ((top * (whole - fy) + bottom * fy) // (whole * whole)).astype(np.int32)
    return result
