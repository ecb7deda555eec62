"""Figure of activation maps: each image beside its maps, one per network and layer. Supplement of the paper, Fig. A."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from osnet.data.transforms import seen_part
from osnet.embedding.embedder import Embedder
from osnet.errors import ModelError, require_extra
from osnet.figures.canvas import Sheet, new_figure, save_figure
from osnet.figures.maps import (
    LAST,
    WHOLE,
    Box,
    Floats,
    Measure,
    compute_maps,
    measure_entropy,
    measure_share,
    stretch_map,
)
from osnet.figures.person_boxes import BoxedImage
from osnet.files import printable

COLOURS = ("viridis", "inferno", "magma", "cividis", "jet")
"""Colour maps to choose from. All but ``jet`` are perceptually uniform; ``jet`` is for comparing with older figures."""
DEFAULT_COLOURS = "viridis"
OPACITY = 0.6
"""Opacity of the map over the image. The image is grey, so that colour shows only the map."""
CELL_IN, GAP_IN, MARGIN_IN, BAR_IN = (1.05, 2.1), 0.05, 0.08, 0.72
"""In inches. ``CELL_IN`` is the width and the largest height of an image."""
COLUMNS = 9
TITLE_LETTERS = 14
"""Number of characters that fit above an image."""
MEASURES = {"absolute": "sum of |features|", "squares": "sum of squared features"}


@dataclass(frozen=True)
class LayerMap:
    """The activation map of one image, by one network at one layer."""

    network: str
    layer: str
    strength: Floats
    """(H, W), not yet scaled for display."""
    entropy: float
    """Bits; see ``measure_entropy``."""
    share: tuple[float, float] | None
    """Share of the map inside the person's box, and that share for a uniform map; None if the box is unknown."""
    part: Box = WHOLE
    """The part of the image that the network sees, as fractions; see ``seen_part``."""

    @property
    def caption(self) -> str:
        """Entropy, and the share inside the box if it is known."""
        if math.isnan(self.entropy):
            return "no activation"
        lines = f"entropy {self.entropy:.2f}\nof {math.log2(self.strength.size):.3g} bits"
        if self.share is None:
            return lines
        inside, uniform = (100 * value for value in self.share)
        return f"{lines}\n{inside:.0f} % in box,\nuniform {uniform:.0f} %"


def collect_maps(
    images: Sequence[BoxedImage],
    embedders: Mapping[str, Embedder],
    layers: Sequence[str] = (LAST,),
    measure: Measure = "absolute",
) -> list[list[LayerMap]]:
    """Compute the maps of each image: for each network, one per layer.

    Raises:
        ModelError: a layer does not exist or does not output a map.
    """
    crops = [boxed.image for boxed in images]
    columns = [
        (name, layer, maps, [seen_part(crop.size, embedder.preprocessing) for crop in crops])
        for name, embedder in embedders.items()
        for layer, maps in compute_maps(embedder, crops, layers, measure).items()
    ]
    return [
        [
            LayerMap(
                name,
                layer,
                maps[i],
                measure_entropy(maps[i]),
                measure_share(maps[i], boxed.box, boxed.image.size, parts[i]) if boxed.box else None,
                parts[i],
            )
            for name, layer, maps, parts in columns
        ]
        for i, boxed in enumerate(images)
    ]


def overlay_map(
    image: Image.Image, strength: Floats, colours: str = DEFAULT_COLOURS, part: Box = WHOLE
) -> NDArray[np.uint8]:
    """Overlay a map on a grey image: (height, width, 3). The map is scaled by its own minimum and maximum.

    What the network does not see (outside ``part``, in fractions) stays grey.
    """
    check_colours(colours)
    matplotlib = require_extra("matplotlib", "figures")
    return colour_part(image, part, lambda size_wh: matplotlib.colormaps[colours](stretch_map(strength, size_wh)))


def colour_part(image: Image.Image, part: Box, paint: Callable[[tuple[int, int]], NDArray[Any]]) -> NDArray[np.uint8]:
    """Turn an image grey, (height, width, 3), and lay colours over a part of it.

    Args:
        image: RGB image.
        part: left, top, right, bottom as fractions of the image.
        paint: takes width and height of the part in pixels; returns (height, width, 3 or more) in [0, 1].
    """
    left, top = (min(round(edge * length), length - 1) for edge, length in zip(part[:2], image.size, strict=True))
    right, bottom = (round(edge * length) for edge, length in zip(part[2:], image.size, strict=True))
    right, bottom = max(right, left + 1), max(bottom, top + 1)  # of a very wide image, less than a pixel may be seen
    mixed = np.repeat(np.asarray(image.convert("L"), dtype=np.float32)[..., None] / 255, 3, axis=2)
    mixed[top:bottom, left:right] *= 1 - OPACITY
    mixed[top:bottom, left:right] += OPACITY * paint((right - left, bottom - top))[..., :3]
    return np.rint(255 * np.clip(mixed, 0, 1)).astype(np.uint8)


def check_colours(colours: str) -> None:
    """Raise ModelError if ``colours`` is not in ``COLOURS``."""
    if colours not in COLOURS:
        raise ModelError(f"unknown colours {colours!r}; choose from {', '.join(COLOURS)}")


def draw_activation(
    images: Sequence[BoxedImage],
    seen: Sequence[Sequence[LayerMap]],
    path: str | Path,
    *,
    colours: str = DEFAULT_COLOURS,
    measure: Measure = "absolute",
    groups_per_row: int | None = None,
) -> None:
    """Draw each image with its maps, several images per row, with one colour bar.

    Args:
        images: the images to show. Their boxes are drawn if they are known.
        seen: the maps of each image, from ``collect_maps``.
        path: output file, ending in .png, .pdf or .svg.
        colours: one of ``COLOURS``.
        measure: how the maps were computed, for the label of the colour bar.
        groups_per_row: images per row; by default as many as fit into nine columns.

    Raises:
        ModelError: ``colours`` is unknown.
        OutputError: the file cannot be written.
    """
    check_colours(colours)
    columns = 1 + len(seen[0])
    per_row = groups_per_row or max(1, min(len(images), COLUMNS // columns))
    cell_h = max(min(CELL_IN[1], CELL_IN[0] * p.image.height / p.image.width) for p in images)
    titles = _title_all(seen[0])
    title_h = 0.1 + 0.15 * max(title.count("\n") + 1 for title in titles)
    caption_h = 0.1 + 0.125 * max(max(m.caption.count("\n") + 1 for row in seen for m in row), 2)
    group_w, row_h = columns * (CELL_IN[0] + GAP_IN) + 0.14, cell_h + caption_h
    width = MARGIN_IN + per_row * group_w + BAR_IN
    height = title_h + math.ceil(len(images) / per_row) * row_h + MARGIN_IN
    with new_figure((width, height), layout=None) as figure:
        sheet = Sheet(figure)
        for group in range(per_row):
            for place, title in enumerate(["image", *titles]):
                x = MARGIN_IN + group * group_w + place * (CELL_IN[0] + GAP_IN) + CELL_IN[0] / 2
                sheet.write(x, title_h - 0.07, title, ha="center", va="baseline", fontsize=8)
        for number, (boxed, maps) in enumerate(zip(images, seen, strict=True)):
            corner = (MARGIN_IN + number % per_row * group_w, title_h + number // per_row * row_h)
            _draw_group(sheet, corner, cell_h, boxed, maps, colours)
        _draw_bar(sheet, colours, measure, title_h, min(cell_h, 2.0))
        save_figure(figure, path)


def _draw_group(
    sheet: Sheet, corner: tuple[float, float], cell_h: float, boxed: BoxedImage, maps: Sequence[LayerMap], colours: str
) -> None:
    """Draw one image and its maps side by side."""
    cell = boxed.image.resize(fit_size(boxed.image.size), Image.Resampling.LANCZOS)
    for place in range(1 + len(maps)):
        seen = maps[place - 1] if place else None
        x = corner[0] + place * (CELL_IN[0] + GAP_IN)
        pixels = np.asarray(cell) if seen is None else overlay_map(cell, seen.strength, colours, seen.part)
        axes = sheet.add_image(pixels, x, corner[1], CELL_IN[0], cell_h)
        if boxed.box is not None:
            _draw_box(axes, boxed.box, boxed.image.size, pixels.shape)
        caption = seen.caption if seen else wrap_name(boxed.name)
        sheet.write(x + CELL_IN[0] / 2, corner[1] + cell_h + 0.06, caption, ha="center")


def _title_all(seen: Sequence[LayerMap]) -> list[str]:
    """Column titles: the network, the layer or both, depending on what differs; the network if nothing differs."""
    networks, layers = ({getattr(m, what) for m in seen} for what in ("network", "layer"))
    titles = []
    for m in seen:
        network = wrap_name(m.network, letters=TITLE_LETTERS, lines=3)
        layer = "last map" if m.layer == LAST else wrap_name(m.layer, ".", TITLE_LETTERS)
        named = len(networks) > 1 or layers == {LAST}
        titles.append("\n".join([network] * named + [layer] * (layers != {LAST})))
    return titles


def wrap_name(name: str, breaks: str = "_- ", letters: int = 17, lines: int = 2) -> str:
    """Wrap a name at the characters ``breaks`` into up to ``lines`` lines of similar length, about ``letters`` long."""
    stem = printable(name).removesuffix(".jpg").removesuffix(".png")
    parts = re.split(f"(?<=[{re.escape(breaks)}])", stem)

    def fill(width: int) -> list[str]:
        made = [""]
        for part in parts:
            if made[-1] and len(made[-1]) + len(part) > width:
                made.append("")
            made[-1] += part
        return made

    widest = fill(letters)
    made = next(lines for lines in map(fill, range(letters + 1)) if len(lines) == len(widest))
    made = [line if len(line) <= letters + 4 else f"{line[: letters - 3]}..." for line in made]
    return "\n".join(line.strip() for line in (made if len(made) <= lines else [*made[: lines - 1], f"...{made[-1]}"]))


def fit_size(size_wh: tuple[int, int]) -> tuple[int, int]:
    """Size (width, height) that fits into 256 x 512 pixels and keeps the aspect ratio."""
    width, height = size_wh
    scale = min(256 / width, 512 / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _draw_box(axes: Any, box: Box, size_wh: tuple[int, int], shape: tuple[int, ...]) -> None:
    patches = require_extra("matplotlib.patches", "figures")
    x, y = shape[1] / size_wh[0], shape[0] / size_wh[1]
    left, top, right, bottom = box[0] * x - 0.5, box[1] * y - 0.5, box[2] * x - 0.5, box[3] * y - 0.5
    for colour, line in (("black", 1.6), ("white", 0.8)):  # visible on dark and on bright images
        axes.add_patch(
            patches.Rectangle(
                (left, top),
                right - left,
                bottom - top,
                fill=False,
                edgecolor=colour,
                linewidth=line,
                linestyle="-" if colour == "black" else (0, (4, 2)),
            )
        )


def _draw_bar(sheet: Sheet, colours: str, measure: Measure, y: float, height: float) -> None:
    cm = require_extra("matplotlib.cm", "figures")
    inside = sheet.add_axes(sheet.width_in - BAR_IN + 0.05, y, 0.13, height)
    bar = sheet.figure.colorbar(cm.ScalarMappable(cmap=colours), cax=inside)
    bar.set_ticks([0, 1], labels=["least", "most"])
    bar.ax.tick_params(labelsize=7, length=0)
    bar.outline.set_visible(False)
    bar.set_label(f"{MEASURES[measure]},\nstretched per map", fontsize=7, labelpad=-9)
