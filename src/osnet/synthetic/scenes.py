"""Generated street cameras: what stands behind people and before them, and what the camera does to it all."""

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
"""Height and width of a generated crop, as in Market-1501."""
CANVAS_HW = (256, 128)
"""People are painted at twice the size and averaged down."""
SCENE_HW = (160, 420)

Hiding = Literal["none", "below", "beside", "person"]


@dataclass(frozen=True)
class Camera:
    """What stays the same from one image of a camera to the next."""

    seed: int
    number: int
    gain: tuple[int, int, int]
    """Per channel, of 256: light and white balance."""
    haze: int
    """Added to every channel: a lifted black."""
    contrast: int
    """Of 256, around middle grey."""
    light: int
    """-256 from the right to 256 from the left."""
    blur: int
    coarse: int
    noise: int
    views: tuple[View, ...]
    """Views are drawn from here: most cameras see people mainly from one side."""
    scale: int
    """Percent of the crop's height that a person takes."""


def make_camera(seed: int, number: int) -> Camera:
    """Camera ``number`` (from 1) of the network of cameras ``seed``."""
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
    """(160, 420, 3): a wall with windows or panels above a pavement, poles, and dirt on all of it."""
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
    for _ in range(dice.roll(2, 6)):  # poles, door frames, people's far shapes
        left, thick, end = dice.roll(0, width), dice.roll(2, 16), dice.roll(horizon - 10, 130)
        shade = np.array([dice.roll(30, 150)] * 3, dtype=np.int32)
        scene[dice.roll(0, 30) : end, left : left + thick] = shade
    dirt = smooth_field(dice, SCENE_HW, 24) // 6 + smooth_field(dice, SCENE_HW, 6) // 14 - 30
    return np.clip(blur(scene + dirt[:, :, None], 1), 0, 255).astype(np.int32)


def _muted(dice: Dice, low: int, high: int, chroma: int) -> Colour:
    """A colour that streets have: mostly grey."""
    level = dice.roll(low, high)
    return level + dice.bell(chroma), level + dice.bell(chroma // 2), level + dice.bell(chroma)


@dataclass(frozen=True)
class Shot:
    """A rendered crop and the truth about it."""

    pixels: np.ndarray
    """(128, 64, 3) uint8, RGB."""
    box: tuple[int, int, int, int]
    """Left, top, right, bottom of the person, hidden parts included, in pixels; right and bottom exclusive."""
    hidden: int
    """Thousandths of the person's pixels that something stands before, or that lie outside of the crop."""
    view: View
    hiding: Hiding


def shoot(person: Person, camera: Camera, dice: Dice, occlusion_percent: int = 35) -> Shot:
    """One image of ``person`` by ``camera``; everything that varies comes from ``dice``.

    Args:
        person: who.
        camera: by which camera.
        dice: decides the pose, the place, the occlusion and the noise.
        occlusion_percent: in how many of 100 images something stands before the person.
    """
    height, width = CANVAS_HW
    y, x = dice.roll(0, SCENE_HW[0] - SIZE_HW[0]), dice.roll(0, SCENE_HW[1] - SIZE_HW[1])
    behind = _scene(camera.seed, camera.number)[y : y + SIZE_HW[0], x : x + SIZE_HW[1]]
    pixels = behind.repeat(2, axis=0).repeat(2, axis=1)
    # The person is painted on a taller canvas, so that what a bad box cuts off is known too.
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
    paint_person(canvas, person, pose)
    whole = canvas.mask.copy()
    hiding = _hide(canvas, camera, pose, dice, occlusion_percent)
    seen = whole & ~canvas.mask if hiding != "none" else whole.copy()
    seen[:margin] = seen[-margin:] = False
    visible, total = int(seen.sum()), max(1, int(whole.sum()))
    inside = whole[margin:-margin]
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    left, right = int(columns[0]) // 2, int(columns[-1]) // 2 + 1
    box = (left, int(rows[0]) // 2, right, int(rows[-1]) // 2 + 1)
    crop = halve(canvas.pixels[margin:-margin])
    return Shot(
        pixels=develop(crop, camera, dice),
        box=box,
        hidden=1000 - 1000 * visible // total,
        view=pose.view,
        hiding=hiding,
    )


def _shadow(canvas: Canvas, pose: Pose) -> None:
    """A dark ellipse on the ground."""
    x, y = pose.x * UNIT, pose.y_feet * UNIT

    def darker(_along: Ints, _across: Ints) -> Ints:
        return np.zeros((len(_along), 3), dtype=np.int32)

    before = canvas.pixels.copy()
    canvas.disc((x, y), 30 * UNIT, 7 * UNIT, darker)
    canvas.pixels[:] = (before * 5 + canvas.pixels * 3) // 8


def _hide(canvas: Canvas, camera: Camera, pose: Pose, dice: Dice, percent: int) -> Hiding:
    """Paint something before the person, perhaps; afterwards ``canvas.mask`` is what it covers."""
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
    """What the camera makes of light: softness, resolution, colour cast, contrast, noise. (H, W, 3) uint8."""
    exposure = 256 + dice.bell(24)
    pixels = coarsen(blur(pixels, camera.blur), camera.coarse)
    grey = pixels.sum(axis=2, keepdims=True) // 3
    pixels = grey + (pixels - grey) * 210 // 256  # street cameras are paler than paint
    pixels = pixels * np.array(camera.gain, dtype=np.int32) // 256 * exposure // 256
    pixels = (pixels - 118) * camera.contrast // 256 + 118 + camera.haze
    noise = dice.field((*pixels.shape[:2], 4)) - 128
    grain = (noise[..., 3:] * 3 + noise[..., :3]) * camera.noise // 512
    return np.clip(pixels + grain, 0, 255).astype(np.uint8)
