"""Render crops of generated people: background, occlusion and the properties of the camera."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from osnet.synthetic.people import Person, Pose, View, paint_person, roll_person
from osnet.synthetic.rasterizer import (
    UNIT,
    Canvas,
    Colour,
    Dice,
    Ints,
    Texture,
    blur,
    coarsen,
    halve,
    plain,
    smooth_field,
)

SIZE_HW = (128, 64)
"""Height and width of a generated crop in pixels, as in Market-1501."""
CANVAS_HW = (256, 128)
"""People are painted at twice the size, and the image is then halved."""
SCENE_HW = (160, 420)
"""Height and width of a camera's background in pixels. Each crop shows a random part of it."""

Hiding = Literal["none", "below", "beside", "person"]


@dataclass(frozen=True)
class Camera:
    """The properties of a camera. They are the same for all of its images."""

    seed: int
    number: int
    gain: tuple[int, int, int]
    """Gain of each channel for brightness and white balance; 256 means 1."""
    haze: int
    """Value added to every channel."""
    contrast: int
    """Contrast around middle grey; 256 means unchanged."""
    light: int
    """Direction of the light, from -256 (right) to 256 (left)."""
    blur: int
    """How many times the image is blurred."""
    coarse: int
    """Factor by which the resolution is reduced."""
    noise: int
    """Strength of the noise."""
    views: tuple[View, ...]
    """The view of each image is drawn from these. Most cameras show people mainly from one side."""
    scale: int
    """Height of a person as a percentage of the height of the crop."""


def make_camera(seed: int, number: int) -> Camera:
    """Make camera ``number`` (from 1) of the data set with this seed."""
    dice = Dice(seed, 1_000_003, number)
    level = 256 + dice.roll(-64, 44)
    warm = dice.roll(-26, 26)
    mains: list[tuple[View, ...]] = [("front", "front"), ("back", "back"), ("side", "side"), ("front", "back")]
    return Camera(
        seed=seed,
        number=number,
        gain=(level + warm, level + dice.roll(-10, 10), level - warm),
        haze=dice.roll(0, 26),
        contrast=256 + dice.roll(-56, 24),
        light=dice.roll(-240, 240),
        blur=dice.roll(0, 2),
        coarse=dice.pick((1, 1, 1, 2)),
        noise=dice.roll(4, 13),
        views=(*mains[number % 4], "front", "side", "back"),
        scale=dice.roll(86, 94),
    )


@lru_cache(maxsize=64)
def _scene(seed: int, number: int) -> Ints:
    """Paint the background of a camera, (160, 420, 3): a wall with panels, a pavement, poles and dirt."""
    dice = Dice(seed, 1_000_033, number)
    height, width = SCENE_HW
    wall = np.array(_muted(dice, 70, 185, 34), dtype=np.int32)
    ground = np.array(_muted(dice, 80, 160, 10), dtype=np.int32)
    horizon = dice.roll(40, 88)
    y = np.arange(height, dtype=np.int32)[:, None, None]
    x = np.arange(width, dtype=np.int32)[None, :, None]
    scene = np.where(y < horizon, wall, ground + (y - horizon) // 5)
    panel, frame = dice.roll(26, 70), dice.roll(2, 5)
    tint = np.array([dice.bell(60)] * 3, dtype=np.int32) + np.array([dice.bell(16), 0, dice.bell(16)], dtype=np.int32)
    scene = scene + np.where((y < horizon - 8) & (x % panel > frame), tint, 0)
    paving = dice.roll(9, 22)
    rows = (y - horizon) * (y - horizon) // (6 * paving)
    scene = scene - np.where((y > horizon) & ((rows % 3 == 0) | ((x + (y - horizon) // 2) % (2 * paving) < 1)), 9, 0)
    for _ in range(dice.roll(2, 6)):  # poles, door frames, distant people
        left, thick, end = dice.roll(0, width), dice.roll(2, 16), dice.roll(horizon - 10, 130)
        shade = np.array([dice.roll(30, 150)] * 3, dtype=np.int32)
        scene[dice.roll(0, 30) : end, left : left + thick] = shade
    dirt = smooth_field(dice, SCENE_HW, 24) // 6 + smooth_field(dice, SCENE_HW, 6) // 14 - 30
    return np.clip(blur(scene + dirt[:, :, None], 1), 0, 255).astype(np.int32)


def _muted(dice: Dice, low: int, high: int, chroma: int) -> Colour:
    """A random colour that is nearly grey."""
    level = dice.roll(low, high)
    return level + dice.bell(chroma), level + dice.bell(chroma // 2), level + dice.bell(chroma)


@dataclass(frozen=True)
class Shot:
    """A rendered crop and its ground truth."""

    pixels: np.ndarray
    """(128, 64, 3) uint8, RGB."""
    box: tuple[int, int, int, int]
    """Left, top, right, bottom of the person inside the crop, with occluded parts, in pixels. Right and bottom are
    exclusive."""
    hidden: int
    """Thousandths of the person's pixels that are occluded or outside the crop."""
    view: View
    hiding: Hiding
    """Kind of occlusion; see ``Annotation``."""
    parts: dict[str, tuple[int, int, int, int]]
    """Boxes of ``shirt``, ``logo`` and ``bag``, as far as they are inside the crop; see ``Annotation``."""


def shoot(person: Person, camera: Camera, dice: Dice, occlusion_percent: int = 35) -> Shot:
    """Render one crop of a person.

    Args:
        person: the person.
        camera: the camera.
        dice: generator of the random numbers for pose, position, occlusion and noise.
        occlusion_percent: probability of an occlusion, in per cent.
    """
    height, width = CANVAS_HW
    y, x = dice.roll(0, SCENE_HW[0] - SIZE_HW[0]), dice.roll(0, SCENE_HW[1] - SIZE_HW[1])
    behind = _scene(camera.seed, camera.number)[y : y + SIZE_HW[0], x : x + SIZE_HW[1]]
    pixels = behind.repeat(2, axis=0).repeat(2, axis=1)
    # The canvas is taller than the crop, so that the part of the person outside the crop is known too.
    margin = height // 4
    padded = np.pad(pixels, ((margin, margin), (0, 0), (0, 0)), mode="edge")
    canvas = Canvas(padded, smooth_field(dice, padded.shape[:2], 14), camera.light)
    tall = height * (camera.scale + dice.bell(5)) // 100
    pose = Pose(
        view=camera.views[dice.roll(0, len(camera.views) - 1)],
        phase=dice.roll(0, 359),
        stride=dice.pick((0, 12, 18, 24, 28)),
        x=width // 2 + dice.bell(14),
        y_feet=margin + (height + tall) // 2 + dice.bell(12),
        tall=tall,
        facing=1 if dice.chance(50) else -1,
        lean=dice.bell(8),
    )
    _shadow(canvas, pose)
    canvas.mask[:] = False
    parts = paint_person(canvas, person, pose)
    whole = canvas.mask.copy()
    hiding = _hide(canvas, camera, pose, dice, occlusion_percent)
    seen = whole & ~canvas.mask if hiding != "none" else whole.copy()
    seen[:margin] = seen[-margin:] = False
    visible, total = int(seen.sum()), max(1, int(whole.sum()))
    inside = {name: part[margin:-margin] for name, part in parts.items()}
    crop = halve(canvas.pixels[margin:-margin])
    return Shot(
        pixels=develop(crop, camera, dice),
        box=_box_around(whole[margin:-margin]),
        hidden=1000 - 1000 * visible // total,
        view=pose.view,
        hiding=hiding,
        parts={name: _box_around(part) for name, part in inside.items() if part.any()},
    )


def _box_around(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom in pixels of the crop, whose sides are half as long."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]) // 2, int(rows[0]) // 2, int(columns[-1]) // 2 + 1, int(rows[-1]) // 2 + 1


def _shadow(canvas: Canvas, pose: Pose) -> None:
    """Paint the shadow: a dark ellipse on the ground."""
    x, y = pose.x * UNIT, pose.y_feet * UNIT

    def darker(_along: Ints, _across: Ints) -> Ints:
        return np.zeros((len(_along), 3), dtype=np.int32)

    before = canvas.pixels.copy()
    canvas.disc((x, y), 30 * UNIT, 7 * UNIT, darker)
    canvas.pixels[:] = (before * 5 + canvas.pixels * 3) // 8


def _hide(canvas: Canvas, camera: Camera, pose: Pose, dice: Dice, percent: int) -> Hiding:
    """Paint an occluding object with a probability of ``percent``. ``canvas.mask`` is then what the object covers."""
    if not dice.chance(percent):
        return "none"
    canvas.mask[:] = False
    height, width = canvas.mask.shape
    kinds: list[Hiding] = ["below", "beside", "person"]
    hiding = kinds[dice.roll(0, 2)]
    if hiding == "person":
        other = Pose(
            view=camera.views[dice.roll(0, len(camera.views) - 1)],
            phase=dice.roll(0, 359),
            stride=dice.pick((0, 18, 24)),
            x=pose.x + dice.pick((-1, 1)) * dice.roll(26, 48),
            y_feet=pose.y_feet + dice.roll(4, 24),
            tall=pose.tall * dice.roll(96, 108) // 100,
            facing=1 if dice.chance(50) else -1,
            lean=0,
        )
        paint_person(canvas, roll_person(dice), other)
        return hiding
    colour = _muted(dice, 35, 185, 50)
    if hiding == "below":  # a car, a bench, a hedge
        top = (pose.y_feet - pose.tall * dice.roll(12, 55) // 100) * UNIT
        middle = (width // 2 + dice.bell(40)) * UNIT
        half = dice.roll(50, 110) * UNIT
        widths = (half * dice.roll(60, 100) // 100, half, half, half)
        canvas.slab((middle, top), (middle, height * UNIT), widths, _panelled(colour, dice.roll(20, 60)), shaded=False)
    else:  # a pole, a door, a tree
        x = (pose.x + dice.pick((-1, 1)) * dice.roll(4, 34)) * UNIT
        half = dice.roll(5, 17) * UNIT
        canvas.slab((x, 0), (x, height * UNIT), (half, half), plain(colour))
    return hiding


def _panelled(colour: Colour, step: int) -> Texture:
    base = np.array(colour, dtype=np.int32)
    return lambda along, _across: base - (12 * (along // step % 2))[:, None] - along[:, None] // 8


def develop(pixels: Ints, camera: Camera, dice: Dice) -> np.ndarray:
    """Apply the camera's blur, resolution, colour cast, contrast and noise. Returns (H, W, 3) uint8."""
    exposure = 256 + dice.bell(24)
    pixels = coarsen(blur(pixels, camera.blur), camera.coarse)
    grey = pixels.sum(axis=2, keepdims=True) // 3
    pixels = grey + (pixels - grey) * 210 // 256  # reduce the saturation, as in images of street cameras
    pixels = pixels * np.array(camera.gain, dtype=np.int32) // 256 * exposure // 256
    pixels = (pixels - 118) * camera.contrast // 256 + 118 + camera.haze
    noise = dice.field((*pixels.shape[:2], 4)) - 128
    grain = (noise[..., 3:] * 3 + noise[..., :3]) * camera.noise // 512
    return np.clip(pixels + grain, 0, 255).astype(np.uint8)
