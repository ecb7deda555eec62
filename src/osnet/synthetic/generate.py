"""Generate a data set of drawn pedestrians in Market-1501's layout, with complete ground truth.

The data set shows that training, evaluation and search work. It does not show how good a network is on real people. The
same seed gives the same labels and pixels on every machine, because only integer arithmetic is used. (Pillow encodes
the JPEG files.)

Identities are generated in groups of four, and each group is in one split:

1. a person
2. a twin who differs only in a small cue, the logo on the shirt
3. a twin with the same small cues but other clothes
4. an unrelated person

    OUT/
      bounding_box_train/ query/ bounding_box_test/
      generated.json        settings, and the pairs of identities with the cue in which they differ
      annotations.jsonl     one line per image: identity, camera, boxes, occlusion, view, attributes
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from PIL import Image

from osnet.data.attributes.pa100k import ATTRIBUTES
from osnet.errors import DataError, OutputError
from osnet.files import TEMPORARY_PREFIX, check_writable, make_folder, one_writer, write_json
from osnet.progress import Progress
from osnet.synthetic.people import Person, View, overall_twin, roll_person, small_twin
from osnet.synthetic.rasterizer import Dice
from osnet.synthetic.scenes import Camera, Shot, make_camera, shoot

FORMAT = "osnet-generated-1"
SETTINGS_FILE, ANNOTATIONS_FILE = "generated.json", "annotations.jsonl"
FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
GROUP = 4
JPEG_QUALITY = 90

PairKind = Literal["small cue", "overall look"]


@dataclass(frozen=True)
class Annotation:
    """The ground truth of one generated image."""

    file: str
    """Path relative to the folder of the data set, with ``/``."""
    pid: int
    camid: int
    box: tuple[int, int, int, int]
    """Left, top, right, bottom of the person inside the crop, with occluded parts, in pixels. Right and bottom are
    exclusive."""
    hidden: float
    """Fraction of the person that is occluded or outside the crop, in [0, 1]."""
    hiding: str
    """Kind of occlusion: ``none``, ``below`` (such as a car), ``beside`` (such as a pole) or ``person``."""
    view: View
    attributes: tuple[str, ...]
    """The positive ones of PA-100K's 26 attributes. UpperLogo and Glasses are positive only if the view shows them."""
    parts: dict[str, tuple[int, int, int, int]] = field(default_factory=dict)
    """Boxes, as ``box``, of ``shirt`` (the trunk), ``logo`` and ``bag`` (without straps), covered or not. Empty in data
    sets of earlier versions."""


@dataclass(frozen=True)
class GeneratedSettings:
    """The settings that determine a generated data set.

    Raises:
        DataError: a setting is out of range.
    """

    identities: int
    """Number of people, a multiple of 8 from 8 to 9996."""
    cameras: int
    """Number of cameras, 2 to 99."""
    images: int
    """Number of images for each identity and camera, 1 to 10,000."""
    seed: int
    """Seed of all random numbers, 0 to 2**63 - 1."""

    def __post_init__(self) -> None:
        for name, low, high in (("identities", 8, 9996), ("cameras", 2, 99), ("images", 1, 10_000)):
            if not low <= (value := getattr(self, name)) <= high:
                raise DataError(f"{name} {value} is outside {low} to {high}")
        if self.identities % (2 * GROUP):
            raise DataError(
                f"identities {self.identities} must be a multiple of {2 * GROUP}, because groups of {GROUP} are "
                "divided between training and test"
            )
        if not 0 <= self.seed < 2**63:
            raise DataError(f"seed {self.seed} is outside 0 to 2**63 - 1")


def make_person(seed: int, pid: int) -> Person:
    """Make person ``pid`` (from 1) of the data set with this seed."""
    group, member = (pid - 1) // GROUP, (pid - 1) % GROUP
    base = roll_person(Dice(seed, 2, group))
    if member == 1:
        return small_twin(base, Dice(seed, 3, group))
    if member == 2:
        return overall_twin(base, Dice(seed, 4, group))
    return base if member == 0 else roll_person(Dice(seed, 5, group))


def list_pairs(identities: int) -> list[tuple[int, int, PairKind]]:
    """List the pairs of identities that differ in only one kind of cue, with the kind."""
    pairs: list[tuple[int, int, PairKind]] = []
    for first in range(1, identities + 1, GROUP):
        pairs += [(first, first + 1, "small cue"), (first, first + 2, "overall look")]
    return pairs


def render_image(seed: int, pid: int, camid: int, number: int) -> Shot:
    """Render image ``number`` of person ``pid`` from camera ``camid``. The result depends only on the arguments."""
    return shoot(make_person(seed, pid), make_camera(seed, camid), Dice(seed, 6, pid, camid, number))


def generate_dataset(
    out: str | Path,
    settings: GeneratedSettings,
    progress: Progress | None = None,
) -> Path:
    """Write a data set. If the call is interrupted, a call with the same settings resumes it.

    The first half of the identities is the training split. Of each other identity, the first image of each camera is a
    query and the others are in the gallery. If there is only one image per camera, it is in both.

    Args:
        out: folder of the data set. It must not exist; it is created when all files are written.
        settings: numbers of identities, cameras and images, and the seed.
        progress: shows a progress bar over the people.

    Returns:
        The path of the folder.

    Raises:
        OutputError: ``out`` exists or cannot be written, or the folder of unfinished people (``out`` with ``.partial``)
            contains something else.
    """
    out = Path(out)
    _check_new(out)
    with one_writer(out, timeout_s=3600):
        _check_new(out)  # another process may have made it meanwhile
        return _generate(out, settings, progress)


def _check_new(out: Path) -> None:
    if out.exists():
        raise OutputError(f"{out} exists; choose another name, or delete it first")
    check_writable(out)


def _generate(out: Path, settings: GeneratedSettings, progress: Progress | None) -> Path:
    partial = out.with_name(f"{out.name}.partial")
    done = _resume(partial, settings)
    cameras = [make_camera(settings.seed, number) for number in range(1, settings.cameras + 1)]
    todo = [pid for pid in range(1, settings.identities + 1) if pid not in done]
    with (partial / ANNOTATIONS_FILE).open("a", encoding="utf-8") as file:
        for pid in progress(todo, len(todo), "people") if progress else todo:
            lines = [json.dumps(asdict(note)) + "\n" for note in _write_person(partial, settings, pid, cameras)]
            file.write("".join(lines))
            file.flush()
    pairs = list_pairs(settings.identities)
    write_json(partial / SETTINGS_FILE, {"format": FORMAT, **asdict(settings), "complete": True, "pairs": pairs})
    partial.rename(out)
    return out


def _resume(partial: Path, settings: GeneratedSettings) -> set[int]:
    """Prepare the partial folder. Returns the identities that an interrupted call with the same settings wrote."""
    head = {"format": FORMAT, **asdict(settings), "complete": False}
    settings_file, annotations = partial / SETTINGS_FILE, partial / ANNOTATIONS_FILE
    try:
        there = json.loads(settings_file.read_text(encoding="utf-8"))
        same = {**head, "complete": there["complete"]} == {key: there[key] for key in head}
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        _refuse_strange(partial)
        shutil.rmtree(partial, ignore_errors=True)
        for folder in FOLDERS:
            make_folder(partial / folder)
        write_json(settings_file, head)
        annotations.touch()
        return set()
    lines = annotations.read_bytes().splitlines(keepends=True)
    per_person: dict[int, list[bytes]] = {}
    for line in lines:
        if line.endswith(b"\n"):
            with suppress(ValueError, KeyError, TypeError):  # after a power failure, the end of the file may be zeros
                per_person.setdefault(int(json.loads(line)["pid"]), []).append(line)
    complete = {pid: group for pid, group in per_person.items() if len(group) == _images_each(settings, pid)}
    annotations.write_bytes(b"".join(line for group in complete.values() for line in group))
    return set(complete)


def _refuse_strange(partial: Path) -> None:
    """Raise OutputError if ``partial`` contains what ``generate_dataset`` does not write: it would be deleted."""
    if partial.exists() and not partial.is_dir():
        raise OutputError(f"{partial} is needed for unfinished people but is a file; move it away")
    names = {path.name for path in partial.iterdir()} if partial.exists() else set()
    known = {*FOLDERS, SETTINGS_FILE, ANNOTATIONS_FILE}
    if strange := sorted(name for name in names - known if not name.startswith(TEMPORARY_PREFIX)):
        raise OutputError(f"{partial} is needed for unfinished people but contains {strange[0]}; move it away")


def _images_each(settings: GeneratedSettings, pid: int) -> int:
    """Number of files of one person. A single test image is written twice, for query and gallery."""
    doubled = pid > settings.identities // 2 and settings.images == 1
    return settings.cameras * settings.images * (2 if doubled else 1)


def _write_person(folder: Path, settings: GeneratedSettings, pid: int, cameras: list[Camera]) -> Iterator[Annotation]:
    person = make_person(settings.seed, pid)
    for camera in cameras:
        for number in range(settings.images):
            shot = shoot(person, camera, Dice(settings.seed, 6, pid, camera.number, number))
            if pid <= settings.identities // 2:
                splits = ["bounding_box_train"]
            elif number:
                splits = ["bounding_box_test"]
            else:
                splits = ["query", "bounding_box_test"] if settings.images == 1 else ["query"]
            for split in splits:
                name = f"{split}/{pid:04d}_c{camera.number}s1_{number + 1:06d}_00.jpg"
                Image.fromarray(shot.pixels).save(folder / name, quality=JPEG_QUALITY)
                yield Annotation(
                    name,
                    pid,
                    camera.number,
                    shot.box,
                    shot.hidden / 1000,
                    shot.hiding,
                    shot.view,
                    describe(person, shot.view),
                    shot.parts,
                )


def describe(person: Person, view: View) -> tuple[str, ...]:
    """List the positive attributes of a person in one view, in PA-100K's order.

    HoldObjectsInFront and LowerPattern are never positive, because they are not drawn.
    """
    positive = {
        "Female": person.female,
        "AgeOver60": person.age == 2,
        "Age18-60": person.age == 1,
        "AgeLess18": person.age == 0,
        "Front": view == "front",
        "Side": view == "side",
        "Back": view == "back",
        "Hat": person.hat >= 0,
        "Glasses": person.glasses and view != "back",
        "HandBag": person.bag == "hand bag",
        "ShoulderBag": person.bag == "shoulder bag",
        "Backpack": person.bag == "backpack",
        "ShortSleeve": not person.long_sleeves,
        "LongSleeve": person.long_sleeves,
        "UpperStride": person.pattern == "stripes",
        "UpperLogo": person.logo > 0 and view != "side" and (view, person.bag) != ("back", "backpack"),
        "UpperPlaid": person.pattern == "plaid",
        "UpperSplice": person.pattern == "splice",
        "LowerStripe": person.lower_stripe,
        "LongCoat": person.coat,
        "Trousers": person.legwear == "trousers",
        "Shorts": person.legwear == "shorts",
        "Skirt&Dress": person.legwear == "skirt",
        "boots": person.boots,
    }
    return tuple(name for name in ATTRIBUTES if positive.get(name))


def read_annotations(root: str | Path) -> dict[str, Annotation]:
    """Read the ground truth of a generated data set. Maps the path of each image, relative to ``root``, to it.

    Raises:
        DataError: ``root`` is not a generated data set.
    """
    path = Path(root) / ANNOTATIONS_FILE
    try:
        with path.open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        notes = [
            Annotation(
                **{
                    **row,
                    "box": tuple(row["box"]),
                    "attributes": tuple(row["attributes"]),
                    "parts": {name: tuple(box) for name, box in row.get("parts", {}).items()},
                }
            )
            for row in rows
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{root} is not a generated data set: {path} cannot be read ({error})") from error
    return {note.file: note for note in notes}


def annotations_of(root: Path, paths: Iterable[Path]) -> list[Annotation]:
    """The ground truth of images of the generated data set in ``root``, in the given order.

    Raises:
        DataError: ``root`` is not a generated data set, or an image was not generated with it.
    """
    notes = read_annotations(root)
    names = [path.relative_to(root).as_posix() for path in paths]
    if unknown := [name for name in names if name not in notes]:
        raise DataError(
            f"{root}: {len(unknown)} images are not in {ANNOTATIONS_FILE}: {', '.join(unknown[:5])}; move them to "
            "another data set"
        )
    return [notes[name] for name in names]


def read_pairs(root: str | Path) -> list[tuple[int, int, PairKind]]:
    """Read the pairs of identities that differ in only one kind of cue, with the kind.

    Raises:
        DataError: ``root`` is not a generated data set.
    """
    path = Path(root) / SETTINGS_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise DataError(f"{path} has the format {content['format']!r}; this version reads {FORMAT!r}")
        return [(int(a), int(b), kind) for a, b, kind in content["pairs"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{root} is not a generated data set: {path} cannot be read ({error})") from error
