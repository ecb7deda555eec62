"""Generate people with random clothes and properties, and paint them in a pose."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from osnet.synthetic.rasterizer import UNIT, Canvas, Colour, Dice, Ints, Texture, cosine, plain, sine

View = Literal["front", "side", "back"]
Pattern = Literal["plain", "stripes", "plaid", "splice"]
Legwear = Literal["trousers", "shorts", "skirt"]
Bag = Literal["none", "backpack", "shoulder bag", "hand bag"]

CLOTH: tuple[Colour, ...] = (
    (38, 38, 42),
    (70, 72, 78),
    (128, 128, 132),
    (196, 196, 194),
    (232, 230, 224),
    (34, 44, 82),
    (60, 92, 150),
    (120, 160, 200),
    (150, 36, 40),
    (196, 84, 76),
    (88, 30, 50),
    (46, 84, 54),
    (110, 130, 78),
    (196, 172, 122),
    (128, 92, 62),
    (212, 180, 60),
    (206, 122, 50),
    (110, 70, 120),
    (214, 150, 170),
    (60, 120, 124),
)
LEGS: tuple[Colour, ...] = (
    (34, 34, 38),
    (52, 54, 60),
    (40, 50, 78),
    (66, 84, 118),
    (104, 124, 150),
    (112, 104, 92),
    (166, 150, 122),
    (80, 62, 48),
    (130, 130, 130),
    (190, 186, 176),
    (70, 74, 56),
    (84, 40, 44),
)
SKIN: tuple[Colour, ...] = ((236, 196, 170), (218, 172, 140), (190, 140, 106), (148, 102, 74), (104, 70, 52))
HAIR: tuple[Colour, ...] = ((28, 24, 24), (58, 40, 30), (98, 68, 44), (168, 130, 80), (140, 138, 136), (112, 52, 34))
LOGOS: tuple[Colour, ...] = (
    (240, 240, 236),
    (22, 22, 24),
    (206, 40, 44),
    (232, 196, 52),
    (52, 110, 200),
    (60, 160, 90),
)


@dataclass(frozen=True)
class Person:
    """The properties of a person. They are the same in all of its images."""

    female: bool
    age: int
    """0 child, 1 adult, 2 over sixty."""
    height: int
    """Percentage of the usual height."""
    build: int
    """Percentage of the usual width."""
    skin: int
    """Index of the colour in ``SKIN``."""
    hair: int
    """Index of the colour in ``HAIR``."""
    hair_length: int
    """0 short, 1 to the neck, 2 to the shoulders."""
    upper: Colour
    upper_second: Colour
    pattern: Pattern
    long_sleeves: bool
    coat: bool
    lower: Colour
    legwear: Legwear
    lower_stripe: bool
    shoes: Colour
    boots: bool
    hat: int
    """Index of the colour in ``CLOTH``; -1 means no hat."""
    glasses: bool
    bag: Bag
    bag_colour: Colour
    logo: int
    """0 none, 1 disc, 2 bar, 3 square, 4 cross."""
    logo_colour: int
    """Index of the colour in ``LOGOS``."""


def roll_person(dice: Dice) -> Person:
    """Draw a random person."""
    female = dice.chance(50)
    age = dice.pick((0, 1, 1, 1, 1, 1, 1, 2))
    long_sleeves = dice.chance(55)
    legwear: list[Legwear] = ["trousers", "trousers", "trousers", "shorts", "skirt" if female else "shorts"]
    patterns: list[Pattern] = ["plain", "plain", "plain", "stripes", "plaid", "splice"]
    bags: list[Bag] = ["none", "none", "backpack", "shoulder bag", "hand bag"]
    return Person(
        female=female,
        age=age,
        height=(84 if age == 0 else 98) + dice.bell(6) - (3 if female else 0),
        build=100 + dice.bell(14) - (7 if female else 0) + (4 if age == 2 else 0),
        skin=dice.roll(0, len(SKIN) - 1),
        hair=4 if age == 2 and dice.chance(70) else dice.pick((0, 0, 1, 1, 2, 3, 5)),
        hair_length=dice.pick((0, 1, 2, 2)) if female else dice.pick((0, 0, 0, 0, 1)),
        upper=_colour(dice, CLOTH),
        upper_second=_colour(dice, CLOTH),
        pattern=patterns[dice.roll(0, 5)],
        long_sleeves=long_sleeves,
        coat=long_sleeves and dice.chance(20),
        lower=_colour(dice, LEGS),
        legwear=legwear[dice.roll(0, 4)],
        lower_stripe=dice.chance(12),
        shoes=_colour(dice, CLOTH),
        boots=dice.chance(12),
        hat=dice.roll(0, len(CLOTH) - 1) if dice.chance(15) else -1,
        glasses=dice.chance(20),
        bag=bags[dice.roll(0, 4)],
        bag_colour=_colour(dice, CLOTH),
        logo=dice.roll(0, 4),
        logo_colour=dice.roll(0, len(LOGOS) - 1),
    )


def small_twin(person: Person, dice: Dice) -> Person:
    """Make a twin who differs only in a small cue, the logo on the shirt."""
    shape = 1 + (person.logo + dice.roll(0, 2)) % 4
    colours = [i for i, logo in enumerate(LOGOS) if i != person.logo_colour and _apart(logo, person.upper) > 120]
    return replace(person, logo=shape, logo_colour=dice.pick(colours))


def overall_twin(person: Person, dice: Dice) -> Person:
    """Make a twin with other upper and lower clothes but the same logo, shoes, bag, hat, hair and glasses."""
    upper = [c for c in CLOTH if _apart(c, person.upper) > 150]
    lower = [c for c in LEGS if _apart(c, person.lower) > 90]
    return replace(person, upper=upper[dice.roll(0, len(upper) - 1)], lower=lower[dice.roll(0, len(lower) - 1)])


def _apart(a: Colour, b: Colour) -> int:
    """Distance of two colours: the sum of the absolute differences of their channels."""
    return sum(abs(x - y) for x, y in zip(a, b, strict=True))


def _colour(dice: Dice, palette: Sequence[Colour]) -> Colour:
    base = palette[dice.roll(0, len(palette) - 1)]
    shift = dice.bell(14)
    r, g, b = (max(12, min(244, c + shift + dice.bell(8))) for c in base)
    return r, g, b


@dataclass(frozen=True)
class Pose:
    """Position and pose of a person in one image. Lengths are in pixels of the canvas."""

    view: View
    phase: int
    """Phase of the gait, in degrees."""
    stride: int
    """Swing of the legs in degrees; 0 for a standing person."""
    x: int
    """Horizontal position of the feet."""
    y_feet: int
    """Vertical position of the feet."""
    tall: int
    """Height of a person with the usual height."""
    facing: int
    """Direction in the side view, and the side on which bags hang: 1 right, -1 left."""
    lean: int
    """Horizontal offset of the top of the head from the feet."""


def paint_person(canvas: Canvas, person: Person, pose: Pose) -> dict[str, np.ndarray]:
    """Paint a person on the canvas, limbs on the far side first.

    Returns:
        By name, for ``shirt``, ``logo`` and ``bag`` if they are painted: (H, W) bool, the pixels of this part, with
        those that other parts or people cover later.
    """
    painter = _Painter(canvas, person, pose)
    painter.paint()
    return painter.parts


class _Painter:
    def __init__(self, canvas: Canvas, person: Person, pose: Pose) -> None:
        self.canvas, self.person, self.pose = canvas, person, pose
        self.parts: dict[str, np.ndarray] = {}
        self.tall = pose.tall * UNIT * person.height // 100
        self.wide = person.build
        side = pose.view == "side"
        head_share = 150 if person.age else 172
        self.head_h = self.tall * head_share // 1000 // 2
        self.y_feet = pose.y_feet * UNIT
        self.y_top = self.y_feet - self.tall
        self.y_shoulder = self.y_top + self.tall * 188 // 1000
        self.y_hip = self.y_top + self.tall * 500 // 1000
        self.x = pose.x * UNIT
        self.lean = pose.lean * UNIT
        self.half_shoulder = self.tall * (70 if side else 118) * self.wide // 100000
        self.half_hip = self.tall * (66 if side else (92 if person.female else 84)) * self.wide // 100000
        self.half_waist = self.tall * (58 if side else (72 if person.female else 84)) * self.wide // 100000
        self.shirt = _cloth(person)
        self.skin = plain(SKIN[person.skin])

    def paint(self) -> None:
        person, pose = self.person, self.pose
        swing = pose.stride * sine(pose.phase) // 256
        if person.bag == "backpack" and pose.view == "side":
            self._backpack()
        self._leg(-1, -swing)
        self._arm(-1, swing)
        self._leg(1, swing)
        self._torso()
        if person.legwear == "skirt":
            self._skirt()
        self._bags()
        self._arm(1, -swing)
        self._head()

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        """Keep the pixels painted inside the block as this part."""
        before = self.canvas.mask.copy()
        self.canvas.mask[:] = False
        yield
        self.parts[name] = self.canvas.mask.copy()
        self.canvas.mask |= before

    def _at(self, y: int) -> int:
        """Horizontal position of the body's axis at the vertical position ``y``; the axis leans."""
        return self.x + self.lean * (self.y_feet - y) // max(1, self.tall)

    def _leg(self, side: int, swing: int) -> None:
        person, pose = self.person, self.pose
        thigh, shin = self.tall * 245 // 1000, self.tall * 235 // 1000
        sideways = pose.view == "side"
        hip = (self._at(self.y_hip) + side * (self.half_hip * (10 if sideways else 50) // 100), self.y_hip)
        reach = pose.facing * swing if sideways else swing // 5
        knee_bend = max(0, -swing) // 2 + (6 if pose.stride else 0)
        knee = (hip[0] + thigh * sine(reach) // 256, hip[1] + thigh * cosine(swing if sideways else swing // 2) // 256)
        back = reach - pose.facing * knee_bend if sideways else reach
        ankle = (knee[0] + shin * sine(back) // 256, knee[1] + shin * cosine(back if sideways else swing // 3) // 256)
        thick = self.tall * (48 if sideways else 46) * self.wide // 100000
        cloth = _striped_leg(person) if person.lower_stripe else plain(person.lower)
        bare = self.skin
        upper, lower = (cloth, cloth) if person.legwear == "trousers" else (bare, bare)
        if person.legwear == "shorts":
            upper = cloth
        loose = 112 if person.legwear != "trousers" else 100
        self.canvas.limb(knee, ankle, thick * 72 // 100, thick * 48 // 100, lower)
        self.canvas.limb(hip, knee, thick * loose // 100, thick * 76 * loose // 10000, upper)
        if person.boots:
            top = ((knee[0] + 2 * ankle[0]) // 3, (knee[1] + 2 * ankle[1]) // 3)
            self.canvas.limb(top, ankle, thick * 62 // 100, thick * 58 // 100, plain(person.shoes))
        forward = (pose.facing * self.tall * 42 // 1000) if sideways else side * self.tall * 10 // 1000
        toe = (ankle[0] + forward, ankle[1] + self.tall * 16 // 1000)
        self.canvas.limb(ankle, toe, self.tall * 17 // 1000, self.tall * 14 // 1000, plain(person.shoes))

    def _arm(self, side: int, swing: int) -> None:
        person, pose = self.person, self.pose
        sideways = pose.view == "side"
        upper_arm, forearm = self.tall * 165 // 1000, self.tall * 150 // 1000
        out = 0 if sideways else side * 9
        shoulder = (
            self._at(self.y_shoulder) + side * (self.half_shoulder * (8 if sideways else 92) // 100),
            self.y_shoulder + self.tall * 22 // 1000,
        )
        angle = pose.facing * swing if sideways else out + swing // 8
        elbow = (shoulder[0] + upper_arm * sine(angle) // 256, shoulder[1] + upper_arm * cosine(angle) // 256)
        bend = angle + (pose.facing * (14 + max(0, swing) // 2) if sideways else -side * 5)
        wrist = (elbow[0] + forearm * sine(bend) // 256, elbow[1] + forearm * cosine(bend) // 256)
        thick = self.tall * 32 * self.wide // 100000
        self.canvas.limb(wrist, (wrist[0], wrist[1] + self.tall * 22 // 1000), thick * 62 // 100, thick // 2, self.skin)
        sleeve = self.shirt if person.long_sleeves else self.skin
        self.canvas.limb(elbow, wrist, thick * 80 // 100, thick * 62 // 100, sleeve)
        self.canvas.limb(shoulder, elbow, thick * 110 // 100, thick * 84 // 100, self.shirt)
        if person.bag == "hand bag" and side == 1:
            top = (wrist[0], wrist[1] + self.tall * 30 // 1000)
            bottom = (wrist[0], wrist[1] + self.tall * 120 // 1000)
            half = self.tall * (52 if sideways else 34) // 1000
            with self._part("bag"):
                self.canvas.slab(top, bottom, (half * 3 // 4, half, half), plain(person.bag_colour))

    def _torso(self) -> None:
        person = self.person
        neck = (self._at(self.y_top), self.y_top + 2 * self.head_h)
        self.canvas.limb(
            neck,
            (self._at(self.y_shoulder), self.y_shoulder),
            self.tall * 30 // 1000,
            self.tall * 32 // 1000,
            self.skin,
        )
        length = 690 if person.coat else 535
        bottom = self.y_top + self.tall * length // 1000
        shoulder, waist, hip = self.half_shoulder, self.half_waist, self.half_hip
        widths = [
            shoulder * 48 // 100,
            shoulder * 96 // 100,
            shoulder,
            shoulder * 97 // 100,
            (shoulder + waist) // 2,
            waist,
            waist,
            (waist + hip) // 2,
            hip * 104 // 100,
        ]
        if person.coat:
            widths += [hip * 110 // 100, hip * 116 // 100, hip * 122 // 100]
        top = self.y_shoulder - self.tall * 28 // 1000
        with self._part("shirt"):
            self.canvas.slab((self._at(top), top), (self._at(bottom), bottom), widths, self.shirt)
        if self.pose.view != "side" and self.person.logo:
            with self._part("logo"):
                self._logo()

    def _logo(self) -> None:
        """Paint the logo: small on the chest, larger on the back."""
        person = self.person
        paint = plain(LOGOS[person.logo_colour])
        back = self.pose.view == "back"
        y = self.y_shoulder + self.tall * (105 if back else 95) // 1000
        x = self._at(y) + (0 if back else self.pose.facing * self.half_shoulder * 38 // 100)
        r = self.tall * (34 if back else 25) // 1000
        if person.logo == 1:
            self.canvas.disc((x, y), r, r, paint)
        elif person.logo == 2:
            self.canvas.slab((x, y - r // 2), (x, y + r // 2), (r * 5 // 4, r * 5 // 4), paint)
        elif person.logo == 3:
            self.canvas.slab((x, y - r), (x, y + r), (r, r), paint)
        else:
            self.canvas.slab((x, y - r), (x, y + r), (r // 3, r // 3), paint)
            self.canvas.slab((x, y - r // 3), (x, y + r // 3), (r, r), paint)

    def _skirt(self) -> None:
        person, hip = self.person, self.half_hip
        top, bottom = self.y_hip - self.tall * 25 // 1000, self.y_hip + self.tall * 175 // 1000
        widths = (hip, hip * 112 // 100, hip * 124 // 100, hip * 134 // 100)
        if not person.coat:
            self.canvas.slab((self._at(top), top), (self._at(bottom), bottom), widths, plain(person.lower))

    def _backpack(self) -> None:
        top, bottom = self.y_shoulder - self.tall * 5 // 1000, self.y_shoulder + self.tall * 250 // 1000
        sideways = self.pose.view == "side"
        shift = -self.pose.facing * self.half_shoulder * 95 // 100 if sideways else 0
        half = self.half_shoulder * (72 if sideways else 74) // 100
        with self._part("bag"):
            self.canvas.slab(
                (self._at(top) + shift, top),
                (self._at(bottom) + shift, bottom),
                (half * 3 // 4, half, half, half * 9 // 10),
                plain(self.person.bag_colour),
            )

    def _bags(self) -> None:
        person, pose, cloth = self.person, self.pose, plain(self.person.bag_colour)
        strap = self.tall * 11 // 1000
        if person.bag == "backpack":
            if pose.view == "back":
                self._backpack()
            for side in (-1, 1) if pose.view == "front" else ():
                x = self._at(self.y_shoulder) + side * self.half_shoulder * 55 // 100
                self.canvas.limb(
                    (x, self.y_shoulder - strap), (x, self.y_shoulder + self.tall // 6), strap, strap, cloth
                )
        elif person.bag == "shoulder bag":
            start = (self._at(self.y_shoulder) - pose.facing * self.half_shoulder * 60 // 100, self.y_shoulder)
            end = (self._at(self.y_hip) + pose.facing * self.half_hip * 95 // 100, self.y_hip - self.tall * 20 // 1000)
            self.canvas.limb(start, end, strap, strap, cloth)
            half = self.tall * 46 // 1000
            bottom = end[1] + self.tall * 95 // 1000
            with self._part("bag"):
                self.canvas.slab((end[0], end[1] - strap), (end[0], bottom), (half, half, half * 9 // 10), cloth)

    def _head(self) -> None:
        person, pose = self.person, self.pose
        h, w = self.head_h, self.head_h * (86 if pose.view == "side" else 76) // 100
        x, y = self._at(self.y_top) + (pose.facing * h // 6 if pose.view == "side" else 0), self.y_top + h
        hair = plain(HAIR[person.hair])
        if person.hair_length:
            bottom = y + h * (10 if person.hair_length == 1 else 19) // 10
            shift = -pose.facing * w // 3 if pose.view == "side" else 0
            self.canvas.slab((x + shift, y - h // 2), (x + shift, bottom), (w, w * 11 // 10, w, w * 3 // 4), hair)
        self.canvas.disc((x, y), w, h, hair if pose.view == "back" else self.skin)
        if pose.view == "front" and person.hair_length == 2:
            for side in (-1, 1):
                strand = x + side * w * 85 // 100
                self.canvas.limb((strand, y - h // 3), (strand, y + h * 12 // 10), w // 4, w // 5, hair)
        if pose.view != "back":
            shift = -pose.facing * w // 3 if pose.view == "side" else 0
            self.canvas.disc((x + shift, y - h * 45 // 100), w, h * 58 // 100, hair)
            if pose.view == "side":
                self.canvas.disc((x - pose.facing * w * 45 // 100, y - h // 10), w * 62 // 100, h * 72 // 100, hair)
            eye = y + h // 20
            dark = plain((24, 22, 24) if person.glasses else (70, 50, 44))
            reach = w * (75 if person.glasses else 55) // 100
            left, right = (x, x + pose.facing * reach) if pose.view == "side" else (x - reach, x + reach)
            thick = h * (13 if person.glasses else 6) // 100
            self.canvas.limb((min(left, right), eye), (max(left, right), eye), thick, thick, dark)
        if person.hat >= 0:
            cloth = plain(CLOTH[person.hat])
            self.canvas.disc((x, y - h * 55 // 100), w * 112 // 100, h * 58 // 100, cloth)
            if pose.view != "back":
                tip = x + (pose.facing * w * 16 // 10 if pose.view == "side" else 0)
                self.canvas.limb((x, y - h * 30 // 100), (tip, y - h * 26 // 100), h // 8, h // 10, cloth)


def _cloth(person: Person) -> Texture:
    first = np.array(person.upper, dtype=np.int32)
    second = np.array(person.upper_second, dtype=np.int32)

    def texture(along: Ints, across: Ints) -> Ints:
        if person.pattern == "plain":
            choose = np.zeros(len(along), dtype=bool)
        elif person.pattern == "stripes":
            choose = along // 18 % 2 == 1
        elif person.pattern == "splice":
            choose = along > 116
        else:
            warp, weft = (across + 512) // 52 % 2, along // 26 % 2
            return (first * (2 - warp - weft)[:, None] + second * (warp + weft)[:, None]) // 2
        return np.where(choose[:, None], second, first)

    return texture


def _striped_leg(person: Person) -> Texture:
    base, stripe = np.array(person.lower, dtype=np.int32), np.array((226, 226, 222), dtype=np.int32)
    return lambda _along, across: np.where((abs(across - 120) < 46)[:, None], stripe, base)
