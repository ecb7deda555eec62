"""Images with known person boxes: generated images, and crops of MOT17 sequences that are larger than the box."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image

from osnet.data.loading import read_image
from osnet.errors import DataError
from osnet.figures.maps import Box
from osnet.synthetic.generate import ANNOTATIONS_FILE, Annotation, read_annotations

WIDER = 1.6
"""Crops of MOT17 are this many times as wide and as high as the person's box."""
PEDESTRIAN = 1
"""MOT17's class of pedestrians."""
MIN_HEIGHT = 96
"""In pixels; smaller people of MOT17 are skipped."""
MIN_VISIBLE = 0.6
"""Least visible fraction; people with less are skipped."""


@dataclass(frozen=True)
class BoxedImage:
    """An image with its name and, if known, the person's box."""

    name: str
    image: Image.Image
    box: Box | None = None
    annotation: Annotation | None = None
    """Annotation of a generated image."""


def read_boxed_images(paths: Sequence[Path]) -> list[BoxedImage]:
    """Read images. Those of a generated data set come with the person's box.

    Raises:
        ImageError: an image cannot be read.
    """
    images = []
    for path in paths:
        note = find_annotation(path)
        images.append(BoxedImage(path.name, read_image(path), note.box if note else None, note))
    return images


def find_annotation(path: Path) -> Annotation | None:
    """Annotation of an image in a generated data set, whose root is two folders up; None for other images."""
    path = path.absolute()
    root = path.parent.parent
    if not (root / ANNOTATIONS_FILE).is_file():
        return None
    return _annotations(root).get(path.relative_to(root).as_posix())


@cache
def _annotations(root: Path) -> dict[str, Annotation]:
    return read_annotations(root)


def cut_mot_people(sequence: Path, number: int, wider: float = WIDER) -> list[BoxedImage]:
    """Crop people from a MOT17 sequence. Crops are ``wider`` times as large as the box and clipped to the frame.

    Each person is taken from the first frame in which they are at least 60 % visible and 96 pixels high, and their box
    does not cross the left or upper border. The people are spread evenly over the track numbers.

    Args:
        sequence: folder with ``gt/gt.txt`` and ``img1/``; missing frames are skipped.
        number: largest number of people.
        wider: size of the crop relative to the box, at least 1.

    Raises:
        DataError: the sequence does not exist, or shows no person of that size.
    """
    if wider < 1 or number < 1:
        raise DataError(f"wider {wider} and number {number} must be at least 1")
    rows = _read_truth(sequence)
    frames = {int(path.stem): path for path in sorted((sequence / "img1").glob("*.jpg")) if path.stem.isdecimal()}
    first: dict[int, tuple[int, Box]] = {}
    for frame, track, kind, box, visible in rows:
        big = box[3] - box[1] >= MIN_HEIGHT
        if kind == PEDESTRIAN and visible >= MIN_VISIBLE and big and frame in frames and min(box[:2]) >= 0:
            first.setdefault(track, (frame, box))
    if not first:
        raise DataError(f"{sequence} shows no person at least {MIN_HEIGHT} pixels high in the available frames")
    tracks = sorted(first)
    chosen = [tracks[i * len(tracks) // min(number, len(tracks))] for i in range(min(number, len(tracks)))]
    return [_cut(frames[first[track][0]], track, first[track][1], wider) for track in chosen]


def _cut(frame: Path, track: int, box: Box, wider: float) -> BoxedImage:
    image = read_image(frame)
    left, top, right, bottom = box
    more_x, more_y = (wider - 1) / 2 * (right - left), (wider - 1) / 2 * (bottom - top)
    x, y = max(0, round(left - more_x)), max(0, round(top - more_y))
    end = min(image.width, round(right + more_x)), min(image.height, round(bottom + more_y))
    return BoxedImage(
        f"{frame.parent.parent.name} person {track}",
        image.crop((x, y, *end)),
        (left - x, top - y, right - x, bottom - y),
    )


def _read_truth(sequence: Path) -> list[tuple[int, int, int, Box, float]]:
    """Rows of ``gt.txt`` as (frame, track, class, box, visible fraction).

    MOT17's columns: frame, track, left, top, width, height, considered, class, visible.
    """
    path = sequence / "gt" / "gt.txt"
    rows = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.reader(file):
                left, top, width, height = (float(value) for value in row[2:6])
                box = (left - 1, top - 1, left - 1 + width, top - 1 + height)  # MOT counts pixels from 1
                rows.append((int(row[0]), int(row[1]), int(row[7]), box, float(row[8])))
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{path} is not a ground truth file in MOT17's format: {error}") from error
    return rows
