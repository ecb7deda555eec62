"""Draw crops with their attributes on one sheet. Signs as well as colours mark correct, wrong and missed ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from osnet.data.loading import read_image
from osnet.errors import ImageError
from osnet.files import printable, written_aside

CELL_WH = (96, 192)
TEXT_W = 190
GAP = 14
LINE_H = 15
COLUMNS = 4
INK, PAPER, RIGHT, WRONG, MISSED, NEUTRAL = "#1b1b1b", "#ffffff", "#1a7f37", "#c62828", "#8a5a00", "#9e9e9e"


@dataclass(frozen=True)
class SheetCrop:
    """One crop with its predicted and true attributes."""

    path: Path
    predicted: tuple[str, ...]
    true: tuple[str, ...] | None = None
    """None if unknown; then no attribute is marked correct or wrong."""
    heading: str = ""
    """Line above the attributes, such as a score."""


def describe_lines(shown: SheetCrop) -> list[tuple[str, str]]:
    """(text, colour) of each line: ``= x`` predicted and true, ``+ x`` predicted but false, ``- x`` true but missed."""
    lines = [(shown.heading, INK)] if shown.heading else []
    if shown.true is None:
        return lines + [(name, INK) for name in shown.predicted]
    lines += [(f"= {name}", RIGHT) for name in shown.predicted if name in shown.true]
    lines += [(f"+ {name}", WRONG) for name in shown.predicted if name not in shown.true]
    return lines + [(f"- {name}", MISSED) for name in shown.true if name not in shown.predicted]


def draw_attribute_sheet(crops: Sequence[SheetCrop], title: str = "") -> Image.Image:
    """Draw four crops per row, each with its lines beside it (see ``describe_lines``). Returns an RGB image.

    A file that cannot be read is shown as a crossed cell.
    """
    lines = [describe_lines(shown) for shown in crops]
    cell_w, cell_h = CELL_WH
    row_h = max([cell_h, *(LINE_H * len(of) for of in lines)]) + GAP
    rows = -(-len(crops) // COLUMNS)
    top = 44 if title else GAP
    sheet = Image.new(
        "RGB", (GAP + min(COLUMNS, max(1, len(crops))) * (cell_w + TEXT_W + GAP), top + rows * row_h), PAPER
    )
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((GAP, 12), printable(title), fill=INK, font=ImageFont.load_default(18))
    font = ImageFont.load_default(13)
    for place, (shown, of) in enumerate(zip(crops, lines, strict=True)):
        x = GAP + place % COLUMNS * (cell_w + TEXT_W + GAP)
        y = top + place // COLUMNS * row_h
        written = of
        try:
            sheet.paste(read_image(shown.path).resize(CELL_WH, Image.Resampling.LANCZOS), (x, y))
        except ImageError:
            draw.line([(x, y), (x + cell_w, y + cell_h)], fill=NEUTRAL, width=2)
            draw.line([(x, y + cell_h), (x + cell_w, y)], fill=NEUTRAL, width=2)
            written = [("file not readable", INK), *of]
        for number, (line, colour) in enumerate(written):
            draw.text((x + cell_w + 8, y + number * LINE_H), printable(line), fill=colour, font=font)
    return sheet


def save_attribute_sheet(crops: Sequence[SheetCrop], path: str | Path, title: str = "") -> None:
    """Write ``draw_attribute_sheet`` as a PNG file, atomically.

    Raises:
        OutputError: the file cannot be written.
    """
    sheet = draw_attribute_sheet(crops, title)
    with written_aside(path) as aside:
        sheet.save(aside, format="PNG")
