"""Generated people: reproducible pixels, Market-1501's layout, and labels that agree with the pixels."""

import hashlib
import json
from collections import Counter
from dataclasses import asdict, fields, replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import osnet.synthetic.generate as synthetic
from osnet.data.check import check_dataset
from osnet.data.folder import read_dataset
from osnet.errors import DataError, OutputError
from osnet.synthetic.generate import (
    ATTRIBUTES,
    GeneratedSettings,
    describe,
    generate_dataset,
    list_pairs,
    make_person,
    read_annotations,
    read_pairs,
    render_image,
)
from osnet.synthetic.people import CLOTH
from osnet.synthetic.rasterizer import UNIT, Canvas, Dice, blur, coarsen, cosine, halve, plain, sine, smooth_field
from osnet.synthetic.scenes import SIZE_HW, make_camera, shoot

SETTINGS = GeneratedSettings(identities=16, cameras=3, images=2, seed=5)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate_dataset(tmp_path_factory.mktemp("g") / "people", SETTINGS)


# Digests of the pixels of 16 images, computed in integers, so equal on every machine.
SHA256 = """
87bae07b25919cc9 cbdb4bed4eab67cb 43b8ea9787e9cf3e e4366384eb4b77cb
cd30bdd1c1308d3e 1218260b28fba9e4 a5e7a5a1f8808203 20671576215aa5f8
d6ac738c638734b4 6ffe059f8033238d 8931611634ae58cc 6f398501ba02a285
39d100beb8f11f6b 62ddff8399e42584 867077f68a604d53 e9672725d1534fe3
"""


def test_pixels_do_not_change() -> None:
    digests = [
        hashlib.sha256(render_image(11, pid, camid, number).pixels.tobytes()).hexdigest()[:16]
        for pid, camid, number in [(1 + n, 1 + n % 5, n % 3) for n in range(16)]
    ]
    assert len(set(digests)) == 16
    assert digests == SHA256.split()


def test_dice_are_splitmix64() -> None:
    """Reference outputs of SplitMix64 from state 0 (Vigna's splitmix64.c)."""
    dice = Dice()
    drawn = [dice.roll(0, 2**64 - 1) for _ in range(3)]
    assert drawn == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_dice_are_uniform_and_seeded() -> None:
    assert Dice(1, 2).field((5, 3)).tolist() == Dice(1, 2).field((5, 3)).tolist()
    assert Dice(1, 2).roll(0, 10**9) != Dice(2, 1).roll(0, 10**9)
    many = Dice(3).field((40_000,))
    assert (many.min(), many.max()) == (0, 255)
    assert abs(many.mean() - 127.5) < 1.5
    rolls = Counter(Dice(4, n).roll(-2, 2) for n in range(5000))
    assert sorted(rolls) == [-2, -1, 0, 1, 2]
    assert min(rolls.values()) > 850


def test_integer_sine_and_cosine() -> None:
    for degrees in range(-400, 800, 7):
        assert abs(sine(degrees) - 256 * np.sin(np.radians(degrees))) < 1.5
        assert abs(cosine(degrees) - 256 * np.cos(np.radians(degrees))) < 1.5


def test_shapes_against_their_definitions() -> None:
    """A limb covers all points within its radius of the segment; a disc satisfies the equation of an ellipse."""
    flat = np.full((40, 60), 128, np.int32)
    white = plain((255, 255, 255))

    def painted(draw) -> np.ndarray:
        canvas = Canvas(np.zeros((40, 60, 3), np.int32), flat, 0)
        draw(canvas)
        assert ((canvas.pixels.sum(2) > 0) == canvas.mask).all()
        return canvas.mask

    y, x = np.mgrid[0:40, 0:60] + 0.5
    a, b, r = np.array([12.0, 10.0]), np.array([45.0, 28.0]), 6.0
    t = np.clip(((x - a[0]) * (b - a)[0] + (y - a[1]) * (b - a)[1]) / ((b - a) ** 2).sum(), 0, 1)
    distance = np.hypot(x - a[0] - t * (b - a)[0], y - a[1] - t * (b - a)[1])
    got = painted(lambda c: c.limb((12 * UNIT, 10 * UNIT), (45 * UNIT, 28 * UNIT), 6 * UNIT, 6 * UNIT, white))
    sure = abs(distance - r) > 0.35
    assert (got == (distance <= r))[sure].all()
    ellipse = ((x - 30) / 20) ** 2 + ((y - 18) / 9) ** 2
    got = painted(lambda c: c.disc((30 * UNIT, 18 * UNIT), 20 * UNIT, 9 * UNIT, white))
    assert (got == (ellipse <= 1))[abs(ellipse - 1) > 0.05].all()
    got = painted(lambda c: c.slab((30 * UNIT, 5 * UNIT), (30 * UNIT, 35 * UNIT), (10 * UNIT, 20 * UNIT), white))
    width_at = 2 * (10 + 10 * (np.arange(6, 34) + 0.5 - 5) / 30)
    assert (abs(got[6:34].sum(1) - width_at) <= 2).all()
    assert not painted(lambda c: c.disc((-900, -900), 16, 16, white)).any()


def test_blur_halving_and_noise_by_hand() -> None:
    step = np.arange(4 * 6 * 1, dtype=np.int32).reshape(4, 6, 1)
    assert halve(step)[:, :, 0].tolist() == [[4, 6, 8], [16, 18, 20]]  # means of 0, 1, 6, 7 and so on, rounded half up
    flat = np.full((8, 8, 3), 77, np.int32)
    for treated in (blur(flat, 3), coarsen(flat, 2)):
        assert (treated == 77).all()
    point = np.zeros((5, 5, 1), np.int32)
    point[2, 2] = 160
    assert blur(point, 1)[1:4, 1:4, 0].tolist() == [[10, 20, 10], [20, 40, 20], [10, 20, 10]]
    field = smooth_field(Dice(1), (50, 40), 8)
    assert field.shape == (50, 40)
    assert abs(np.diff(field.astype(int), axis=0)).max() <= 255 // 8 + 1


def test_generated_layout(generated: Path) -> None:
    dataset = read_dataset(generated)
    assert [len(split) for split in dataset.splits] == [8 * 3 * 2, 8 * 3, 8 * 3]
    assert sorted(set(dataset.train.pids)) == list(range(1, 9))
    assert sorted(set(dataset.query.pids)) == list(range(9, 17))
    assert set(dataset.gallery.camids) == {1, 2, 3}
    with Image.open(dataset.query.paths[0]) as image:
        assert image.size == (64, 128)
    assert check_dataset(dataset).problems == ()


def test_every_image_has_a_valid_annotation(generated: Path) -> None:
    notes = read_annotations(generated)
    assert set(notes) == {path.relative_to(generated).as_posix() for path in generated.rglob("*.jpg")}
    for note in notes.values():
        left, top, right, bottom = note.box
        assert 0 <= left < right <= SIZE_HW[1]
        assert 0 <= top < bottom <= SIZE_HW[0]
        assert bottom - top > 40
        assert 0 <= note.hidden < 1
        assert (note.hiding == "none") <= (note.hidden < 0.3)
        assert {note.view.capitalize()} == {"Front", "Side", "Back"} & set(note.attributes)
        assert set(note.attributes) <= set(ATTRIBUTES)
    assert len(ATTRIBUTES) == 26
    assert len({note.hidden for note in notes.values()}) > 10


def test_boxes_contain_the_person() -> None:
    """Images of two people at the same place differ inside the box and not outside."""
    camera = make_camera(3, 2)
    changed_in = changed_out = 0
    for n in range(6):
        a = shoot(make_person(3, 1), camera, Dice(8, n), occlusion_percent=0)
        b = shoot(make_person(3, 3), camera, Dice(8, n), occlusion_percent=0)
        assert a.box == b.box
        different = abs(a.pixels.astype(int) - b.pixels).max(2) > 8
        inside = np.zeros(SIZE_HW, bool)
        inside[max(0, a.box[1] - 3) : a.box[3] + 3, max(0, a.box[0] - 3) : a.box[2] + 3] = True
        changed_in += int(different[inside].sum())
        changed_out += int(different[~inside].sum())
    assert changed_in > 1000
    assert changed_out == 0


def test_occlusion_by_kind_and_share() -> None:
    """At 0 percent nothing occludes the person; at 100 percent every kind of occluder occurs, small and large."""
    shares = []
    for n in range(40):
        free = shoot(make_person(3, 1), make_camera(3, 1), Dice(9, n), occlusion_percent=0)
        assert free.hiding == "none"
        shares.append(shoot(make_person(3, 1), make_camera(3, 1), Dice(9, n), occlusion_percent=100))
    assert {shot.hiding for shot in shares} == {"below", "beside", "person"}
    assert max(shot.hidden for shot in shares) > 400
    assert min(shot.hidden for shot in shares) < 100


def test_twins_differ_only_in_their_cue(generated: Path) -> None:
    cues = {"small cue": {"logo", "logo_colour"}, "overall look": {"upper", "lower"}}
    pairs = read_pairs(generated)
    assert [tuple(pair) for pair in list_pairs(16)] == pairs
    assert Counter(kind for _, _, kind in pairs) == {"small cue": 4, "overall look": 4}
    for seed in (5, 6, 7):
        for a, b, kind in list_pairs(40):
            one, other = asdict(make_person(seed, a)), asdict(make_person(seed, b))
            differing = {name for name in one if one[name] != other[name]}
            assert differing
            assert differing <= cues[kind]
    small = abs(shot_of(1).astype(int) - shot_of(2)).max(2) > 8
    overall = abs(shot_of(1).astype(int) - shot_of(3)).max(2) > 8
    assert 0 < small.sum() < overall.sum() / 5


def shot_of(pid: int) -> np.ndarray:
    """An image that shows the person's logo."""
    for n in range(20):
        shot = shoot(make_person(5, pid), make_camera(5, 1), Dice(12, n), occlusion_percent=0)
        if "UpperLogo" in describe(make_person(5, 1), shot.view):
            return shot.pixels
    raise AssertionError("no such view")


def test_twins_are_in_the_same_split(generated: Path) -> None:
    for a, b, _ in read_pairs(generated):
        assert (a <= 8) == (b <= 8)


def test_attributes_follow_the_person_and_the_view() -> None:
    person = make_person(5, 1)
    assert (person.bag, person.logo) == ("backpack", 2)
    for view in ("front", "side", "back"):
        named = describe(person, view)
        assert list(named) == [name for name in ATTRIBUTES if name in named]
        assert ("LongSleeve" in named) == person.long_sleeves
        assert ("UpperLogo" in named) == (view == "front")  # a backpack covers the back
        assert ("Hat" in named) == (person.hat >= 0)
        assert len({"Trousers", "Shorts", "Skirt&Dress"} & set(named)) == 1
        assert len({"AgeOver60", "Age18-60", "AgeLess18"} & set(named)) == 1
    assert all(len(colour) == 3 for colour in CLOTH)


def test_an_interrupted_generation_resumes_to_the_same_files(generated: Path, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "again"

    def interrupt(iterable, _total, _label):
        for n, pid in enumerate(iterable):
            if n == 6:
                raise KeyboardInterrupt
            yield pid

    with pytest.raises(KeyboardInterrupt):
        generate_dataset(out, SETTINGS, interrupt)
    assert not out.exists()
    with (tmp_path / "again.partial" / "annotations.jsonl").open("a") as file:
        file.write('{"pid": 7, "half a li')  # an incomplete line, as after a crash
    rendered = 0
    real = synthetic.shoot

    def counting(*args, **kwargs):
        nonlocal rendered
        rendered += 1
        return real(*args, **kwargs)

    monkeypatch.setattr(synthetic, "shoot", counting)
    generate_dataset(out, SETTINGS)
    assert rendered == 10 * 3 * 2
    assert not (tmp_path / "again.partial").exists()
    for path in generated.rglob("*.*"):
        assert path.read_bytes() == (out / path.relative_to(generated)).read_bytes()


def test_one_image_per_camera_is_query_and_gallery(tmp_path: Path) -> None:
    out = generate_dataset(tmp_path / "g", GeneratedSettings(8, 2, 1, 1))
    dataset = read_dataset(out)
    assert [len(split) for split in dataset.splits] == [8, 8, 8]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((7, 2, 1, 0), "identities 7"),
        ((12, 2, 1, 0), "multiple of 8"),
        ((8, 1, 1, 0), "cameras 1"),
        ((8, 2, 0, 0), "images 0"),
        ((8, 2, 1, -1), "seed -1"),
    ],
)
def test_invalid_settings_are_refused(settings: tuple, words: str) -> None:
    with pytest.raises(DataError, match=words):
        GeneratedSettings(*settings)


def test_invalid_folders_are_refused(generated: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exists"):
        generate_dataset(generated, SETTINGS)
    with pytest.raises(OutputError, match="there is no folder"):
        generate_dataset(tmp_path / "no" / "g", SETTINGS)
    with pytest.raises(DataError, match="not a generated data set"):
        read_annotations(tmp_path)
    with pytest.raises(DataError, match="not a generated data set"):
        read_pairs(tmp_path)
    (tmp_path / "generated.json").write_text(json.dumps({"format": "other", "pairs": []}))
    with pytest.raises(DataError, match="'other'"):
        read_pairs(tmp_path)
    assert len(fields(GeneratedSettings)) == 4


def test_boxes_of_parts_hold_the_pixels_of_these_parts() -> None:
    """The same image without its logo, or without its bag, differs inside the part's box only, but for the blur."""
    compared = Counter[str]()
    for pid, camid, number in product(range(1, 33, 4), (1, 2), (0, 1)):
        person, camera = make_person(5, pid), make_camera(5, camid)
        shot = shoot(person, camera, Dice(5, 6, pid, camid, number), occlusion_percent=0)
        bare = {"logo": replace(person, logo=0), "bag": replace(person, bag="none")}
        for part, box in shot.parts.items():
            left, top, right, bottom = box
            assert 0 <= left < right <= SIZE_HW[1]
            assert 0 <= top < bottom <= SIZE_HW[0]
            if part == "shirt" or (part == "bag" and person.bag != "hand bag"):  # other bags have straps too
                continue
            without = shoot(bare[part], camera, Dice(5, 6, pid, camid, number), occlusion_percent=0)
            assert part not in without.parts
            changed = abs(shot.pixels.astype(int) - without.pixels).max(2) > 24
            rows, columns = np.nonzero(changed)
            assert ((rows >= top - 3) & (rows < bottom + 3)).all()
            assert ((columns >= left - 3) & (columns < right + 3)).all()
            compared[part] += bool(changed.any())
    assert min(compared["logo"], compared["bag"]) >= 4
