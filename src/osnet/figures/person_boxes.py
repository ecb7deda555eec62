"""Pictures of people whose box is known: generated ones, and crops cut wider than the boxes of a MOT17 sequence."""

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
"""Crops of MOT17 are so many times as wide and high as the person's box."""
PEDESTRIAN = 1
MIN_HEIGHT = 96
"""Pixels; smaller people of MOT17 are passed over."""
MIN_VISIBLE = 0.6


@dataclass(frozen=True)
class Photo:
    """A picture, what to call it, and where the person is, if that is known."""

    name: str
    picture: Image.Image
    box: Box | None = None
    note: Annotation | None = None
    """The truth about a generated picture."""


def read_photos(paths: Sequence[Path]) -> list[Photo]:
    """Pictures from files. Those of a generated data set bring the person's box.

    Raises:
        ImageError: one cannot be read.
    """
    photos = []
    for path in paths:
        note = find_annotation(path)
        photos.append(Photo(path.name, read_image(path), note.box if note else None, note))
    return photos


def find_annotation(path: Path) -> Annotation | None:
    """The truth about a picture of a generated data set, found two folders up; None for any other picture."""
    path = path.absolute()
    root = path.parent.parent
    if not (root / ANNOTATIONS_FILE).is_file():
        return None
    return _annotations(root).get(path.relative_to(root).as_posix())


@cache
def _annotations(root: Path) -> dict[str, Annotation]:
    return read_annotations(root)


def cut_mot_people(sequence: Path, number: int, wider: float = WIDER) -> list[Photo]:
    """People of a MOT17 sequence, cut ``wider`` times as large as their box and clipped to the frame.

    One picture of each person, from the first frame in which they are visible enough (60 %), 96 pixels high and whole
    in the frame; the widest-apart of them in the order of their track numbers.

    Args:
        sequence: a folder with ``gt/gt.txt`` and ``img1/``; frames that are missing are passed over.
        number: how many at most.
        wider: at least 1.

    Raises:
        DataError: no such sequence, or nobody in it.
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
        raise DataError(f"{sequence} shows nobody who is at least {MIN_HEIGHT} pixels high in the frames at hand")
    tracks = sorted(first)
    chosen = [tracks[i * len(tracks) // min(number, len(tracks))] for i in range(min(number, len(tracks)))]
    return [_cut(frames[first[track][0]], track, first[track][1], wider) for track in chosen]


def _cut(frame: Path, track: int, box: Box, wider: float) -> Photo:
    picture = read_image(frame)
    left, top, right, bottom = box
    more_x, more_y = (wider - 1) / 2 * (right - left), (wider - 1) / 2 * (bottom - top)
    x, y = max(0, round(left - more_x)), max(0, round(top - more_y))
    end = min(picture.width, round(right + more_x)), min(picture.height, round(bottom + more_y))
    return Photo(
        f"{frame.parent.parent.name} person {track}",
        picture.crop((x, y, *end)),
        (left - x, top - y, right - x, bottom - y),
    )


def _read_truth(sequence: Path) -> list[tuple[int, int, int, Box, float]]:
    """Rows of ``gt.txt``: frame, track, left, top, width, height, considered, class, visible (MOT17's format)."""
    path = sequence / "gt" / "gt.txt"
    rows = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.reader(file):
                left, top, width, height = (float(value) for value in row[2:6])
                box = (left - 1, top - 1, left - 1 + width, top - 1 + height)  # MOT counts pixels from 1
                rows.append((int(row[0]), int(row[1]), int(row[7]), box, float(row[8])))
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{path} is no ground truth of MOT17's form: {error}") from error
    return rows
