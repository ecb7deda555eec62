"""Generate videos of people who walk past several cameras, with the box and identity of every person in every frame.

Each person crosses the views of some cameras one after the other, with travel times in between, and is never in two
views at once. People enter and leave at the border, walk behind a post, sometimes stand still, and walk past each
other. The footage depends only on the settings. A person is painted once for each view and step, and then pasted into
frames, so a frame takes only milliseconds.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from osnet.errors import DataError
from osnet.synthetic.generate import make_person
from osnet.synthetic.people import Person, Pose, View, paint_person
from osnet.synthetic.rasterizer import Canvas, Dice, Ints, smooth_field
from osnet.synthetic.scenes import Camera, make_camera

FRAME_HW = (288, 512)
"""Height and width of a frame in pixels."""
SPRITE_HW = (288, 160)
"""Height and width at which people are painted, in pixels, before they are resized."""
SPRITE_TALL = 256
"""Height of a person in a sprite, in pixels."""
STEPS = 8
"""Number of images of one stride."""
STRIDE_S = 1.0
"""Duration of a stride in seconds."""
HEIGHT_STEP = 4
"""Heights of people in frames are multiples of this, in pixels, so that only a few sprites are made."""
VISIBLE = 0.3
"""A person has a box in a frame only if at least this fraction of it is visible."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class FootageSettings:
    """The settings that determine generated footage.

    Raises:
        DataError: a setting is out of range.
    """

    people: int = 12
    """Number of people, 1 to 400."""
    cameras: int = 3
    """Number of cameras, 1 to 20."""
    seconds: float = 90.0
    """Duration of the video of each camera, 1 to 86,400 s."""
    fps: int = 10
    """Frames per second, 1 to 60."""
    seed: int = 0
    """Seed of all random numbers, 0 to 2**63 - 1."""

    def __post_init__(self) -> None:
        for name, low, high in (("people", 1, 400), ("cameras", 1, 20), ("seconds", 1, 86_400), ("fps", 1, 60)):
            if not low <= (value := getattr(self, name)) <= high:
                raise DataError(f"{name} {value} is outside {low} to {high}")
        if not 0 <= self.seed < 2**63:
            raise DataError(f"seed {self.seed} is outside 0 to 2**63 - 1")


@dataclass(frozen=True)
class Visit:
    """The walk of a person through the view of a camera, along a straight line."""

    pid: int
    """Identity, from 1."""
    camera: int
    """Number of the camera, from 1."""
    begin_s: float
    """Start of the walk, in seconds from the start of the video."""
    end_s: float
    """End of the walk, in seconds from the start of the video."""
    start: tuple[float, float]
    """Position at ``begin_s``: x of the body's axis and y of the feet, in pixels."""
    stop: tuple[float, float]
    """Position at ``end_s``."""
    pause: tuple[float, float]
    """When the person stops, in seconds from ``begin_s``, and for how many seconds."""

    def place(self, time_s: float) -> tuple[float, float, bool]:
        """Return x, y and whether the person is walking, at a time from ``begin_s`` to ``end_s``."""
        since, (pause_from, pause_for) = time_s - self.begin_s, self.pause
        walked = min(since, pause_from) + max(0.0, since - pause_from - pause_for)
        share = walked / max(1e-6, self.end_s - self.begin_s - pause_for)
        x, y = (a + share * (b - a) for a, b in zip(self.start, self.stop, strict=True))
        return x, y, not pause_from <= since < pause_from + pause_for


@dataclass(frozen=True)
class TrueBox:
    """The true box of a person in a frame."""

    pid: int
    box: tuple[int, int, int, int]
    """Left, top, right, bottom of the part inside the frame, in pixels. Right and bottom are exclusive."""
    visible: float
    """Fraction of the person that is inside the frame and not occluded, in [0, 1]."""


def plan_visits(settings: FootageSettings) -> list[Visit]:
    """Plan all walks of all people, sorted by their start."""
    visits = []
    for pid in range(1, settings.people + 1):
        dice = Dice(settings.seed, 71, pid)
        # The first three people start early, so that short footage is not empty.
        now = (
            dice.roll(0, max(1, round(1000 * settings.seconds * 0.55))) / 1000 if pid > 3 else dice.roll(0, 4000) / 1000
        )
        route = list(range(1, settings.cameras + 1))
        if dice.chance(50):
            route.reverse()
        for camera in route[: dice.roll(min(2, len(route)), len(route))]:
            visit = _plan_visit(settings, pid, camera, now, dice)
            if visit.begin_s < settings.seconds:
                visits.append(visit)
            now = visit.end_s + travel_s(settings, camera) * dice.roll(85, 125) / 100
    return sorted(visits, key=lambda v: (v.begin_s, v.pid))


def travel_s(settings: FootageSettings, camera: int) -> float:
    """The usual time from the view of a camera to the next one, in seconds."""
    return 4.0 + Dice(settings.seed, 73, camera).roll(0, 6000) / 1000


def _plan_visit(settings: FootageSettings, pid: int, camera: int, now: float, dice: Dice) -> Visit:
    height, width = FRAME_HW
    horizon = _horizon(settings.seed, camera)
    far, near = horizon + 40, height - 6
    right = dice.chance(50)
    outside = 40
    x0, x1 = (-outside, width + outside) if right else (width + outside, -outside)
    y0, y1 = dice.roll(far, near), dice.roll(far, near)
    if dice.chance(25):  # the person walks towards the camera or away from it
        x0, x1 = dice.roll(60, width - 60), dice.roll(60, width - 60)
        y0, y1 = (far - 6, height + 110) if dice.chance(50) else (height + 110, far - 6)
    scale = _tall(settings.seed, camera, (y0 + y1) / 2) / 100
    speed = dice.roll(55, 80) * scale
    seconds = max(3.0, float(np.hypot(x1 - x0, y1 - y0)) / speed)
    pause = (seconds * dice.roll(30, 70) / 100, dice.roll(10, 30) / 10) if dice.chance(25) else (seconds, 0.0)
    return Visit(pid, camera, now, now + seconds + pause[1], (x0, y0), (x1, y1), pause)


def _horizon(seed: int, camera: int) -> int:
    return Dice(seed, 77, camera).roll(70, 110)


def _tall(seed: int, camera: int, y_feet: float) -> float:
    """Height in pixels of a person whose feet are at ``y_feet``."""
    return 62 + 0.34 * (y_feet - _horizon(seed, camera))


class PaintedCamera:
    """Makes the frames of one camera.

    Args:
        settings: the settings of the footage.
        number: number of the camera, from 1.

    Raises:
        DataError: there is no such camera.
    """

    def __init__(self, settings: FootageSettings, number: int) -> None:
        if not 1 <= number <= settings.cameras:
            raise DataError(f"camera {number} is outside 1 to {settings.cameras}")
        self.settings, self.number = settings, number
        self._camera = make_camera(settings.seed, number)
        self._visits = [visit for visit in plan_visits(settings) if visit.camera == number]
        self._ground = _develop(_paint_ground(settings.seed, number), self._camera)
        self._post = _post(settings.seed, number)
        dice = Dice(settings.seed, 79, number)
        grain = self._camera.noise
        self._noise = [((dice.field((*FRAME_HW, 1)) - 128) * grain // 512).astype(np.int16) for _ in range(4)]
        self._sprites: dict[tuple[int, View, int, int, int], tuple[Pixels, NDArray[np.bool_]]] = {}

    @property
    def num_frames(self) -> int:
        """Number of frames of the video."""
        return max(1, round(self.settings.seconds * self.settings.fps))

    def frames(self) -> Iterator[tuple[Pixels, list[TrueBox]]]:
        """Yield every frame, (H, W, 3) uint8 RGB, with the boxes of the people in it."""
        for index in range(self.num_frames):
            yield self.frame(index)

    def frame(self, index: int) -> tuple[Pixels, list[TrueBox]]:
        """Make the frame with this index (from 0): (H, W, 3) uint8 RGB, and the boxes of the people in it."""
        now = index / self.settings.fps
        present = [(v, *v.place(now)) for v in self._visits if v.begin_s <= now < v.end_s]
        present.sort(key=lambda one: (one[2], one[0].pid))  # paint nearer people last
        pixels = self._ground.copy()
        owner = np.zeros(FRAME_HW, np.int32)
        sizes: dict[int, tuple[int, tuple[int, int, int, int]]] = {}
        for visit, x, y, walks in present:
            sprite, mask = self._sprite(visit, y, now, walks)
            sizes[visit.pid] = self._paste(pixels, owner, sprite, mask, visit.pid, round(x), round(y))
        left, right, shade = self._post
        pixels[:, left:right] = shade
        owner[:, left:right] = 0
        pixels = np.clip(pixels.astype(np.int16) + self._noise[index % len(self._noise)], 0, 255).astype(np.uint8)
        boxes = []
        for pid in sorted(sizes):
            total, box = sizes[pid]
            visible = float((owner == pid).sum()) / max(1, total)
            if visible >= VISIBLE and box[2] > box[0] and box[3] > box[1]:
                boxes.append(TrueBox(pid, box, round(visible, 3)))
        return pixels, boxes

    def _sprite(self, visit: Visit, y: float, now: float, walks: bool) -> tuple[Pixels, NDArray[np.bool_]]:
        dx, dy = (b - a for a, b in zip(visit.start, visit.stop, strict=True))
        view: View = "side" if abs(dx) > 0.8 * abs(dy) else ("front" if dy > 0 else "back")
        facing = 1 if dx >= 0 else -1
        step = round(STEPS * (now - visit.begin_s) / STRIDE_S) % STEPS if walks else -1
        tall = max(24, round(_tall(self.settings.seed, self.number, y) / HEIGHT_STEP) * HEIGHT_STEP)
        key = (visit.pid, view, facing, step, tall)
        if key not in self._sprites:
            person = make_person(self.settings.seed, visit.pid)
            pixels, mask = _paint_sprite(person, visit.pid, self.settings.seed, view, facing, step, self._camera.light)
            self._sprites[key] = _shrink(_develop(pixels, self._camera), mask, tall)
        return self._sprites[key]

    def _paste(
        self, pixels: Pixels, owner: Ints, sprite: Pixels, mask: NDArray[np.bool_], pid: int, x: int, y: int
    ) -> tuple[int, tuple[int, int, int, int]]:
        """Paste a sprite with its feet at (x, y). Returns its number of pixels and its box inside the frame."""
        height, width = mask.shape
        top, left = y - height, x - width // 2
        t0, l0, t1, l1 = max(0, -top), max(0, -left), min(height, FRAME_HW[0] - top), min(width, FRAME_HW[1] - left)
        total = int(mask.sum())
        if t0 >= t1 or l0 >= l1:
            return total, (0, 0, 0, 0)
        part = mask[t0:t1, l0:l1]
        window = np.s_[top + t0 : top + t1, left + l0 : left + l1]
        pixels[window][part] = sprite[t0:t1, l0:l1][part]
        owner[window][part] = pid
        rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
        if not len(rows):
            return total, (0, 0, 0, 0)
        return total, (
            left + l0 + int(columns[0]),
            top + t0 + int(rows[0]),
            left + l0 + int(columns[-1]) + 1,
            top + t0 + int(rows[-1]) + 1,
        )


@lru_cache(maxsize=2048)
def _paint_sprite(
    person: Person, pid: int, seed: int, view: View, facing: int, step: int, light: int
) -> tuple[Ints, NDArray[np.bool_]]:
    """Paint a person without background. Returns the pixels (H, W, 3) and the mask of the person (H, W)."""
    height, width = SPRITE_HW
    folds = smooth_field(Dice(seed, 83, pid), SPRITE_HW, 14)
    canvas = Canvas(np.zeros((height, width, 3), np.int32), folds, light)
    pose = Pose(
        view=view,
        phase=0 if step < 0 else 360 * step // STEPS,
        stride=0 if step < 0 else 24,
        x=width // 2,
        y_feet=height - 12,
        tall=SPRITE_TALL,
        facing=facing,
        lean=0,
    )
    paint_person(canvas, person, pose)
    return canvas.pixels, canvas.mask.copy()


def _shrink(pixels: Pixels, mask: NDArray[np.bool_], tall: int) -> tuple[Pixels, NDArray[np.bool_]]:
    """Resize a sprite so that a person with the usual height has ``tall`` pixels, and crop it to its mask."""
    weighted = np.dstack([pixels * mask[:, :, None], mask.astype(np.uint8) * 255])
    size = (max(1, SPRITE_HW[1] * tall // SPRITE_TALL), max(1, SPRITE_HW[0] * tall // SPRITE_TALL))
    small = np.asarray(Image.fromarray(weighted.astype(np.uint8), "RGBA").resize(size, Image.Resampling.BOX))
    # Pillow weights colours by alpha, so the pixels at the edges get the colours of the person.
    inside = small[:, :, 3] >= 128
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    crop = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.ascontiguousarray(small[crop][:, :, :3]), inside[crop]


def _develop(pixels: Ints | Pixels, camera: Camera) -> Pixels:
    """Apply the camera's colours, contrast and haze, without its noise."""
    work = pixels.astype(np.int32)
    grey = work.sum(axis=2, keepdims=True) // 3
    work = grey + (work - grey) * 210 // 256
    work = work * np.array(camera.gain, np.int32) // 256
    work = (work - 118) * camera.contrast // 256 + 118 + camera.haze
    return np.clip(work, 0, 255).astype(np.uint8)


def _paint_ground(seed: int, number: int) -> Ints:
    """Paint the background of a camera, (H, W, 3): a wall above a pavement."""
    dice = Dice(seed, 89, number)
    height, width = FRAME_HW
    horizon = _horizon(seed, number)
    y, x = np.arange(height, dtype=np.int32)[:, None, None], np.arange(width, dtype=np.int32)[None, :, None]
    wall, ground = ([level + dice.bell(14) for _ in range(3)] for level in (dice.roll(90, 170), dice.roll(100, 160)))
    pixels = np.where(y < horizon, np.array(wall, np.int32), np.array(ground, np.int32) + (y - horizon) // 8)
    panel, frame = dice.roll(40, 90), dice.roll(3, 7)
    pixels = pixels - np.where((y < horizon - 12) & (x % panel > frame), dice.roll(10, 50), 0)
    paving = dice.roll(18, 40)
    pixels = pixels - np.where((y > horizon) & ((x + (y - horizon) * 2) % (2 * paving) < 2), 8, 0)
    dirt = smooth_field(dice, FRAME_HW, 48) // 6 + smooth_field(dice, FRAME_HW, 12) // 12 - 30
    return np.clip(pixels + dirt[:, :, None], 0, 255).astype(np.int32)


def _post(seed: int, number: int) -> tuple[int, int, int]:
    """Left edge, right edge and grey level of a post in front of all people."""
    dice = Dice(seed, 97, number)
    left = dice.roll(FRAME_HW[1] // 4, 3 * FRAME_HW[1] // 4)
    return left, left + dice.roll(10, 26), dice.roll(40, 90)
