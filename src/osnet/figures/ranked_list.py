"""Draw ranked lists: the query, then its hits. Frames and words, not only colours, mark correct and wrong hits."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from osnet.data.loading import read_image
from osnet.errors import ImageError
from osnet.figures.canvas import DPI, Sheet, name_camera, new_figure, save_figure
from osnet.files import printable, written_aside
from osnet.types import Hit, RankedList

CELL_WH = (128, 256)
GAP = 14
BORDER = 5
CAPTION = 54
INK, PAPER, RIGHT, WRONG, NEUTRAL = "#1b1b1b", "#ffffff", "#1a7f37", "#c62828", "#9e9e9e"


def draw_ranked_lists(lists: Sequence[RankedList], title: str = "") -> Image.Image:
    """Draw one row per query. Returns an RGB image, as wide as the longest list.

    Correct hits have a double green frame and the word "same", wrong ones a single red frame and "other", ignored ones
    a grey bar across and "ignored". A file that cannot be read is shown as a crossed cell.
    """
    columns = 1 + max((len(ranked.hits) for ranked in lists), default=0)
    cell_w, cell_h = CELL_WH
    top = 44 if title else GAP
    width = GAP + columns * (cell_w + GAP) + GAP
    height = top + len(lists) * (cell_h + CAPTION + GAP)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((GAP, 12), printable(title), fill=INK, font=ImageFont.load_default(18))
    for row, ranked in enumerate(lists):
        y = top + row * (cell_h + CAPTION + GAP)
        _draw_cell(
            sheet,
            (GAP, y),
            ranked.query,
            [ranked.title or "query", f"{ranked.identity or 'identity unknown'}   {ranked.note}"],
            INK,
            1,
        )
        for place, hit in enumerate(ranked.hits, start=1):
            x = 2 * GAP + place * (cell_w + GAP)
            lines, colour, rings = _judge(ranked, hit)
            _draw_cell(sheet, (x, y), Path(hit.item.source), lines, colour, rings)
            if hit.item.source in ranked.ignored:
                draw.line([(x, y + cell_h), (x + cell_w, y)], fill=NEUTRAL, width=6)
    return sheet


def save_ranked_lists(lists: Sequence[RankedList], path: str | Path, title: str = "") -> None:
    """Write ``draw_ranked_lists`` as PNG, or as PDF or SVG with the same image, atomically.

    Raises:
        OutputError: the file cannot be written.
        MissingExtraError: PDF or SVG, and matplotlib is not installed.
    """
    sheet = draw_ranked_lists(lists, title)
    if Path(path).suffix.lower() in (".pdf", ".svg"):
        with new_figure((sheet.width / DPI, sheet.height / DPI), layout=None) as figure:
            Sheet(figure).add_image(np.asarray(sheet), 0, 0, sheet.width / DPI, sheet.height / DPI)
            save_figure(figure, path)
        return
    with written_aside(path) as aside:
        sheet.save(aside, format="PNG")


def _judge(ranked: RankedList, hit: Hit) -> tuple[list[str], str, int]:
    """Caption lines, frame colour and number of frames of a hit."""
    camera = name_camera(hit.item.camera) if hit.item.camera else ""
    about = ", ".join(part for part in (hit.item.identity, camera) if part)
    if hit.item.source in ranked.ignored:
        return [f"ignored   {hit.score:.3f}", about], NEUTRAL, 1
    if ranked.identity is None:
        return [f"{hit.rank}   {hit.score:.3f}", about], NEUTRAL, 1
    right = hit.item.identity == ranked.identity
    return (
        [f"{hit.rank}   {hit.score:.3f}   {'same' if right else 'other'}", about],
        RIGHT if right else WRONG,
        1 + right,
    )


def _draw_cell(
    sheet: Image.Image, corner: tuple[int, int], path: Path, lines: list[str], colour: str, rings: int
) -> None:
    (x, y), (w, h) = corner, CELL_WH
    draw = ImageDraw.Draw(sheet)
    try:
        sheet.paste(read_image(path).resize((w, h), Image.Resampling.LANCZOS), (x, y))
    except ImageError:
        draw.line([(x, y), (x + w, y + h)], fill=NEUTRAL, width=2)
        draw.line([(x, y + h), (x + w, y)], fill=NEUTRAL, width=2)
        lines = [*lines[:1], "file not readable"]
    for ring in range(rings):
        inset = -BORDER + ring * (BORDER + 3)
        draw.rectangle([x + inset, y + inset, x + w - 1 - inset, y + h - 1 - inset], outline=colour, width=BORDER - 1)
    font = ImageFont.load_default(15)
    for number, line in enumerate(lines):
        draw.text((x, y + h + 8 + number * 20), printable(line), fill=colour if colour != NEUTRAL else INK, font=font)
