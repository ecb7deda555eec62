"""Explain a hit: the contribution of each cell of the last map to the score.

Pooling is linear in the last map, and the layers after it are linear wherever their ReLU is active. The product of map
and score gradient, summed over channels, is therefore the contribution of each cell. For OSNet (average pooling) the
contributions sum to the score exactly, apart from biases, which are spread evenly over the cells. After Stylianou et
al., "Visualizing Deep Similarity Networks", WACV 2019, and Zhu et al., "Visual Explanation for Deep Metric Learning",
TIP 2021. Shapes: B images, H x W cells of the map, D components of an embedding.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate

from osnet.data.transforms import seen_part
from osnet.embedding.embedder import Embedder
from osnet.errors import ModelError, require_extra
from osnet.figures.activation import colour_part, fit_size, wrap_name
from osnet.figures.canvas import Sheet, new_figure, save_figure
from osnet.figures.maps import WHOLE, Box, Floats, prepare_images
from osnet.figures.person_boxes import BoxedImage
from osnet.runtime.backends import in_eval_mode

SEQUENTIAL, DIVERGING = "viridis", "RdBu_r"
CELL_IN, GAP_IN, TITLE_IN, CAPTION_IN, BAR_IN = (1.25, 2.5), 0.12, 0.42, 0.36, 0.5


@dataclass(frozen=True)
class MatchMaps:
    """Explanation of a hit. Each map (H, W) sums to the score, or score difference, that it explains."""

    score: float
    """Cosine of query and hit."""
    next_score: float | None
    """Cosine of query and the next person's image, if one was given."""
    query_for_hit: Floats
    """Contribution of each cell of the query to the score with the hit."""
    hit_for_query: Floats
    """Contribution of each cell of the hit to the same score."""
    query_rather_than_next: Floats | None
    """Contribution of each cell of the query to score minus next score; positive values favour the hit."""
    query_part: Box = WHOLE
    """The part of the query that the network sees, as fractions; see ``seen_part``."""
    hit_part: Box = WHOLE


def explain_match(
    embedder: Embedder, query: Image.Image, hit: Image.Image, following: Image.Image | None = None
) -> MatchMaps:
    """Explain the score of a query with a hit and, if given, with the best image of the next person.

    Raises:
        ModelError: the network does not compute its embedding from one call of ``feature_map``.
    """
    images = [query, hit, *([following] if following is not None else [])]
    batch = prepare_images(embedder, images)
    with torch.inference_mode():
        vectors = in_eval_mode(embedder.network)(batch).float()
        unit = vectors / _length(vectors)[:, None]
    scores = (unit @ unit[0]).cpu().numpy()
    towards = [unit[1], unit[0]] + ([unit[1] - unit[2]] if following is not None else [])
    of_images = [0, 1] + ([0] if following is not None else [])
    maps = split_scores(embedder.network, batch[of_images], torch.stack(towards))
    return MatchMaps(
        float(scores[1]),
        float(scores[2]) if following is not None else None,
        maps[0],
        maps[1],
        maps[2] if following is not None else None,
        *(seen_part(image.size, embedder.preprocessing) for image in (query, hit)),
    )


def split_scores(network: nn.Module, images: Tensor, directions: Tensor) -> Floats:
    """Contribution of each cell to the product of an image's unit embedding with a direction.

    Args:
        network: a network with ``feature_map``.
        images: (B, 3, height, width), preprocessed.
        directions: (B, D), of any length.

    Returns:
        (B, H, W); each map sums to the product.

    Raises:
        ModelError: the network does not compute its embedding from one call of ``feature_map``.
    """
    view = in_eval_mode(network)
    with torch.inference_mode(False), torch.enable_grad(), _held_map(view) as kept:
        embedding = view(images.clone()).float()
        if len(kept) != 1:
            raise ModelError(
                f"{type(network).__name__} calls feature_map {len(kept)} times per embedding; it must be called once"
            )
        products = (embedding * directions.clone()).sum(1) / _length(embedding.detach())
        gradient = torch.autograd.grad(products.sum(), kept[0])[0]
    parts = (gradient * kept[0]).detach().sum(1).double()
    rest = products.detach().double() - parts.sum((1, 2))
    parts = parts + (rest / parts[0].numel())[:, None, None]
    return parts.float().cpu().numpy()


def _length(vectors: Tensor) -> Tensor:
    """Lengths (B,) of embeddings (B, D), kept above 0: those of an untrained network may be zero."""
    return vectors.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)


@contextmanager
def _held_map(network: Any) -> Iterator[list[Tensor]]:
    """Context in which the output of ``feature_map`` is recorded as a leaf that requires gradients."""
    original = network.feature_map
    kept: list[Tensor] = []

    def hold(x: Tensor) -> Tensor:
        features: Tensor = original(x).detach().requires_grad_()
        kept.append(features)
        return features

    network.feature_map = hold  # set on the instance, so the class method stays
    try:
        yield kept
    finally:
        del network.feature_map


def overlay_parts(
    image: Image.Image, parts: Floats, greatest: float, signed: bool, part: Box = WHOLE
) -> NDArray[np.uint8]:
    """Overlay contributions on a grey image: (height, width, 3).

    Args:
        image: RGB image.
        parts: (H, W) contributions.
        greatest: value of the last colour; if ``signed``, its negative is the value of the first one.
        signed: use a diverging colour map centred at 0; else one that starts at 0.
        part: the part that the network sees, as fractions of the image; the rest stays grey.
    """
    matplotlib = require_extra("matplotlib", "figures")

    def paint(size_wh: tuple[int, int]) -> NDArray[Any]:
        wide = interpolate(torch.from_numpy(parts)[None, None], size_wh[::-1], mode="bilinear")[0, 0]
        scaled = wide.numpy() / max(greatest, 1e-12)
        coloured: NDArray[Any] = matplotlib.colormaps[DIVERGING if signed else SEQUENTIAL](
            (scaled + 1) / 2 if signed else scaled
        )
        return coloured

    return colour_part(image, part, paint)


def draw_match(images: Sequence[BoxedImage], maps: MatchMaps, path: str | Path) -> None:
    """Draw query, hit and next person in the first row, and the contributions to the score in the second row.

    Args:
        images: query, hit and, if there is one, the next person's image.
        maps: result of ``explain_match`` for them.
        path: output file, ending in .png, .pdf or .svg.

    Raises:
        OutputError: the file cannot be written.
    """
    titles = ["query", f"hit: score {maps.score:.3f}"]
    below = [
        ("query: parts that\nmatch the hit", maps.query_for_hit),
        ("hit: parts that\nmatch the query", maps.hit_for_query),
    ]
    if maps.query_rather_than_next is not None and maps.next_score is not None:
        titles.append(f"next person: {maps.next_score:.3f}")
        apart = f"query: hit rather than\nnext, {maps.score - maps.next_score:+.3f}"
        below.append((apart, maps.query_rather_than_next))
    columns = len(images)
    cell_h = max(min(CELL_IN[1], CELL_IN[0] * p.image.height / p.image.width) for p in images)
    row_h = TITLE_IN + cell_h + CAPTION_IN
    greatest = [max(float(m.max()) for _, m in below[:2]), float(np.abs(below[-1][1]).max())]
    with new_figure((columns * (CELL_IN[0] + GAP_IN), 2 * row_h + BAR_IN - CAPTION_IN), layout=None) as figure:
        sheet = Sheet(figure)
        query = images[0].image.resize(fit_size(images[0].image.size), Image.Resampling.LANCZOS)
        for place, boxed in enumerate(images):
            x = GAP_IN / 2 + place * (CELL_IN[0] + GAP_IN)
            image = boxed.image.resize(fit_size(boxed.image.size), Image.Resampling.LANCZOS)
            middle = x + CELL_IN[0] / 2
            sheet.write(middle, TITLE_IN - 0.08, titles[place], ha="center", va="baseline", fontsize=8)
            sheet.add_image(np.asarray(image), x, TITLE_IN, CELL_IN[0], cell_h)
            sheet.write(middle, TITLE_IN + cell_h + 0.06, wrap_name(boxed.name, letters=20), ha="center")
            title, parts = below[place]
            signed = place == 2
            ground = image if place == 1 else query
            sheet.write(middle, row_h + TITLE_IN - 0.08, title, ha="center", va="baseline", fontsize=8)
            part = maps.hit_part if place == 1 else maps.query_part
            over = overlay_parts(ground, parts, greatest[signed], signed, part)
            sheet.add_image(over, x, row_h + TITLE_IN, CELL_IN[0], cell_h)
        y = row_h + TITLE_IN + cell_h + 0.1
        _draw_bar(sheet, GAP_IN / 2, y, 2 * CELL_IN[0] + GAP_IN, SEQUENTIAL, (0, greatest[0]))
        if columns == 3:
            x = GAP_IN / 2 + 2 * (CELL_IN[0] + GAP_IN)
            _draw_bar(sheet, x, y, CELL_IN[0], DIVERGING, (-greatest[1], greatest[1]))
        save_figure(figure, path)


def _draw_bar(sheet: Sheet, x: float, y: float, width: float, colours: str, limits: tuple[float, float]) -> None:
    """Draw a colour bar below its maps, slightly narrower so that its labels fit."""
    cm, norms = require_extra("matplotlib.cm", "figures"), require_extra("matplotlib.colors", "figures")
    mappable = cm.ScalarMappable(norm=norms.Normalize(*limits), cmap=colours)
    inside = sheet.add_axes(x + 0.15, y, width - 0.3, 0.09)
    bar = sheet.figure.colorbar(mappable, cax=inside, orientation="horizontal")
    bar.set_ticks(np.linspace(*limits, 3), labels=[f"{v:.3f}" for v in np.linspace(*limits, 3)])
    bar.ax.tick_params(labelsize=7, length=2)
    bar.outline.set_visible(False)
    bar.set_label("score per cell", fontsize=7, labelpad=1)
