"""Generated footage: the people of ``synthetic.py`` walk past several cameras, and who is where in each frame is known.

Each person crosses the views of some cameras one after the other, with pauses in between as long as the way takes;
nobody is in two views at once. They enter and leave at the border, pass behind a post, stand still now and then, and
walk past each other. Everything is a function of the settings. People are painted once for each view and step, then
pasted, so a frame takes some milliseconds.
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
"""Height and width of a frame."""
SPRITE_HW = (288, 160)
"""People are painted once at this size, and then made smaller."""
SPRITE_TALL = 256
STEPS = 8
"""Pictures of one stride."""
STRIDE_S = 1.0
HEIGHT_STEP = 4
"""Heights are multiples of this, so that few sprites are made."""
VISIBLE = 0.3
"""With less of a person in sight, no box is given."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class FootageSettings:
    """What decides generated footage."""

    people: int = 12
    cameras: int = 3
    seconds: float = 90.0
    fps: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (("people", 1, 400), ("cameras", 1, 20), ("seconds", 1, 86_400), ("fps", 1, 60)):
            if not low <= (value := getattr(self, name)) <= high:
                raise DataError(f"{name} {value} is outside {low} to {high}")
        if not 0 <= self.seed < 2**63:
            raise DataError(f"seed {self.seed} is outside 0 to 2**63 - 1")


@dataclass(frozen=True)
class Visit:
    """One person crosses one camera's view, along a straight line."""

    pid: int
    """From 1."""
    camera: int
    """From 1."""
    begin_s: float
    end_s: float
    start: tuple[float, float]
    """x of the middle and y of the feet, in pixels, at ``begin_s``."""
    stop: tuple[float, float]
    """And at ``end_s``."""
    pause: tuple[float, float]
    """From when on the person stands still, in seconds since the visit began, and for how long."""

    def place(self, time_s: float) -> tuple[float, float, bool]:
        """x, y, and whether the person walks, at a time within the visit."""
        since, (pause_from, pause_for) = time_s - self.begin_s, self.pause
        walked = min(since, pause_from) + max(0.0, since - pause_from - pause_for)
        share = walked / max(1e-6, self.end_s - self.begin_s - pause_for)
        x, y = (a + share * (b - a) for a, b in zip(self.start, self.stop, strict=True))
        return x, y, not pause_from <= since < pause_from + pause_for


@dataclass(frozen=True)
class TrueBox:
    """Where a person is in a frame."""

    pid: int
    box: tuple[int, int, int, int]
    """Left, top, right, bottom of what is inside the frame; right and bottom exclusive."""
    visible: float
    """Share of the person that is inside the frame and not covered."""


def plan_visits(settings: FootageSettings) -> list[Visit]:
    """Who crosses which view when, in the order of time."""
    visits = []
    for pid in range(1, settings.people + 1):
        dice = Dice(settings.seed, 71, pid)
        # The first few are there early, so that short footage is not empty.
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
    """The usual time from a camera's view to its neighbour's."""
    return 4.0 + Dice(settings.seed, 73, camera).roll(0, 6000) / 1000


def _plan_visit(settings: FootageSettings, pid: int, camera: int, now: float, dice: Dice) -> Visit:
    height, width = FRAME_HW
    horizon = _horizon(settings.seed, camera)
    far, near = horizon + 40, height - 6
    right = dice.chance(50)
    outside = 40
    x0, x1 = (-outside, width + outside) if right else (width + outside, -outside)
    y0, y1 = dice.roll(far, near), dice.roll(far, near)
    if dice.chance(25):  # comes towards the camera, or walks away from it
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
    """Pixels of a person whose feet are at ``y_feet``."""
    return 62 + 0.34 * (y_feet - _horizon(seed, camera))


class PaintedCamera:
    """What one camera films.

    Args:
        settings: of the whole.
        number: of the camera, from 1.
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
        """In all."""
        return max(1, round(self.settings.seconds * self.settings.fps))

    def frames(self) -> Iterator[tuple[Pixels, list[TrueBox]]]:
        """Each frame, (H, W, 3) uint8 RGB, and who is in it."""
        for place in range(self.num_frames):
            yield self.frame(place)

    def frame(self, place: int) -> tuple[Pixels, list[TrueBox]]:
        """Frame ``place`` from 0."""
        now = place / self.settings.fps
        here = [(v, *v.place(now)) for v in self._visits if v.begin_s <= now < v.end_s]
        here.sort(key=lambda one: (one[2], one[0].pid))  # who is nearer is painted later
        picture = self._ground.copy()
        owner = np.zeros(FRAME_HW, np.int32)
        sizes: dict[int, tuple[int, tuple[int, int, int, int]]] = {}
        for visit, x, y, walks in here:
            sprite, mask = self._sprite(visit, y, now, walks)
            sizes[visit.pid] = self._paste(picture, owner, sprite, mask, visit.pid, round(x), round(y))
        left, right, shade = self._post
        picture[:, left:right] = shade
        owner[:, left:right] = 0
        picture = np.clip(picture.astype(np.int16) + self._noise[place % len(self._noise)], 0, 255).astype(np.uint8)
        boxes = []
        for pid in sorted(sizes):
            total, box = sizes[pid]
            visible = float((owner == pid).sum()) / max(1, total)
            if visible >= VISIBLE and box[2] > box[0] and box[3] > box[1]:
                boxes.append(TrueBox(pid, box, round(visible, 3)))
        return picture, boxes

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
        self, picture: Pixels, owner: Ints, sprite: Pixels, mask: NDArray[np.bool_], pid: int, x: int, y: int
    ) -> tuple[int, tuple[int, int, int, int]]:
        """Paint a sprite with its feet at (x, y); its size in pixels and its box inside the frame."""
        height, width = mask.shape
        top, left = y - height, x - width // 2
        t0, l0, t1, l1 = max(0, -top), max(0, -left), min(height, FRAME_HW[0] - top), min(width, FRAME_HW[1] - left)
        total = int(mask.sum())
        if t0 >= t1 or l0 >= l1:
            return total, (0, 0, 0, 0)
        part = mask[t0:t1, l0:l1]
        window = np.s_[top + t0 : top + t1, left + l0 : left + l1]
        picture[window][part] = sprite[t0:t1, l0:l1][part]
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
    """A person on nothing: (H, W, 3) and what of it is the person."""
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
    """To ``tall`` pixels for the usual person; cut to what is painted."""
    weighted = np.dstack([pixels * mask[:, :, None], mask.astype(np.uint8) * 255])
    size = (max(1, SPRITE_HW[1] * tall // SPRITE_TALL), max(1, SPRITE_HW[0] * tall // SPRITE_TALL))
    small = np.asarray(Image.fromarray(weighted.astype(np.uint8), "RGBA").resize(size, Image.Resampling.BOX))
    # Pillow weights colours by alpha itself, so what is left over at the edges has the person's colour.
    inside = small[:, :, 3] >= 128
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    cut = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.ascontiguousarray(small[cut][:, :, :3]), inside[cut]


def _develop(pixels: Ints | Pixels, camera: Camera) -> Pixels:
    """The camera's colours, contrast and haze, without its noise."""
    work = pixels.astype(np.int32)
    grey = work.sum(axis=2, keepdims=True) // 3
    work = grey + (work - grey) * 210 // 256
    work = work * np.array(camera.gain, np.int32) // 256
    work = (work - 118) * camera.contrast // 256 + 118 + camera.haze
    return np.clip(work, 0, 255).astype(np.uint8)


def _paint_ground(seed: int, number: int) -> Ints:
    """(H, W, 3): a wall above a pavement."""
    dice = Dice(seed, 89, number)
    height, width = FRAME_HW
    horizon = _horizon(seed, number)
    y, x = np.arange(height, dtype=np.int32)[:, None, None], np.arange(width, dtype=np.int32)[None, :, None]
    wall, ground = ([level + dice.bell(14) for _ in range(3)] for level in (dice.roll(90, 170), dice.roll(100, 160)))
    picture = np.where(y < horizon, np.array(wall, np.int32), np.array(ground, np.int32) + (y - horizon) // 8)
    panel, frame = dice.roll(40, 90), dice.roll(3, 7)
    picture = picture - np.where((y < horizon - 12) & (x % panel > frame), dice.roll(10, 50), 0)
    paving = dice.roll(18, 40)
    picture = picture - np.where((y > horizon) & ((x + (y - horizon) * 2) % (2 * paving) < 2), 8, 0)
    dirt = smooth_field(dice, FRAME_HW, 48) // 6 + smooth_field(dice, FRAME_HW, 12) // 12 - 30
    return np.clip(picture + dirt[:, :, None], 0, 255).astype(np.int32)


def _post(seed: int, number: int) -> tuple[int, int, int]:
    """Left, right and grey of the post that stands before everything."""
    dice = Dice(seed, 97, number)
    left = dice.roll(FRAME_HW[1] // 4, 3 * FRAME_HW[1] // 4)
    return left, left + dice.roll(10, 26), dice.roll(40, 90)
