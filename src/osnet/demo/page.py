"""The page of the demo: one HTML file without scripts, and the picture of the answer."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from osnet.data.loading import read_image
from osnet.errors import require_extra
from osnet.files import written_aside
from osnet.video.archive import Tracklet, format_time

CROP_WH = (96, 192)
GAP = 12
INK, PAPER, SAME, OTHER = "#1b1b1b", "#ffffff", "#1a7f37", "#c62828"


@dataclass(frozen=True)
class ShownHit:
    """A hit, with the truth about it."""

    rank: int
    score: float
    tracklet: Tracklet
    pid: int
    """The true person; 0 if the tracklet shows no one."""
    frame: Image.Image
    """The frame of the best crop, with the box drawn."""

    @property
    def when(self) -> str:
        """From when to when, as times of the day (UTC)."""
        return f"{format_time(self.tracklet.begin_s)[11:19]} to {format_time(self.tracklet.end_s)[11:19]}"


@dataclass(frozen=True)
class FoundPerson:
    """A person who was searched for."""

    pid: int
    photo: Path
    hits: Sequence[ShownHit]


@dataclass(frozen=True)
class Page:
    """Content of the page, from top to bottom."""

    title: str
    caution: str
    findings: Sequence[str]
    answer: Image.Image
    people: Sequence[FoundPerson]
    frames: Mapping[str, Image.Image]
    """By camera."""
    timeline: Image.Image
    tracking: Mapping[str, Mapping[str, float]]
    """Scores by camera, in percent."""
    num_people: int
    """Number of groups of linked tracklets."""
    commands: Sequence[str]
    """Commands to continue with."""


def draw_answer(person: FoundPerson) -> Image.Image:
    """Draw the image that was searched for, and beside it the frames of the hits with camera, time and score."""
    width, height = person.hits[0].frame.size
    scale = CROP_WH[1] / height
    cell = (round(width * scale), CROP_WH[1])
    columns = 2
    rows = -(-len(person.hits) // columns)
    left = CROP_WH[0] + 3 * GAP
    sheet = Image.new("RGB", (left + columns * (cell[0] + GAP), rows * (cell[1] + 44) + GAP), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    sheet.paste(read_image(person.photo).resize(CROP_WH, Image.Resampling.LANCZOS), (GAP, GAP))
    draw.text((GAP, GAP + CROP_WH[1] + 6), "query", fill=INK, font=font)
    for place, hit in enumerate(person.hits):
        x, y = left + place % columns * (cell[0] + GAP), GAP + place // columns * (cell[1] + 44)
        right = hit.pid == person.pid
        sheet.paste(hit.frame.resize(cell, Image.Resampling.LANCZOS), (x, y))
        draw.rectangle((x - 2, y - 2, x + cell[0] + 1, y + cell[1] + 1), outline=SAME if right else OTHER, width=3)
        text = f"{hit.rank}.  {hit.score:.3f}  {hit.tracklet.camera}, {hit.when}  {'same' if right else 'other'}"
        draw.text((x, y + cell[1] + 6), text, fill=SAME if right else OTHER, font=font)
    return sheet


def write_page(page: Page, path: Path) -> None:
    """Write the page. All texts are escaped, all images embedded; only the clip is a file beside it.

    Raises:
        MissingExtraError: Jinja is not installed.
        OutputError: the file cannot be written.
    """
    jinja2 = require_extra("jinja2", "figures")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files("osnet.demo").joinpath("page.html").read_text(encoding="utf-8")
    text = environment.from_string(source).render(page=page, uri=_uri, thumb=_thumb)
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8", errors="backslashreplace")


def _thumb(path: Path) -> str:
    return _uri(read_image(path).resize(CROP_WH, Image.Resampling.LANCZOS))


def _uri(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
