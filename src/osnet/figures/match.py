"""Why a gallery picture is a hit: a score taken apart over the cells of the last map.

Pooling is linear in the last map, and where a unit of the embedding is on so is what follows; so the product of the
map with the score's gradient, summed over channels, says how much each cell adds to the score. For OSNet (average
pooling) the parts sum to the score exactly; what biases add is spread evenly. After Stylianou et al., "Visualizing
Deep Similarity Networks", WACV 2019, and Zhu et al., "Visual Explanation for Deep Metric Learning", TIP 2021.
Shapes: H, W cells of the map, D embedding.
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

from osnet.embedding.embedder import Embedder
from osnet.errors import ModelError, require_extra
from osnet.figures.activation import OPACITY, fit_picture, wrap_name
from osnet.figures.canvas import Sheet, new_figure, save_figure
from osnet.figures.maps import Floats, prepare_pictures
from osnet.figures.person_boxes import Photo
from osnet.runtime.backends import eval_mode

SEQUENTIAL, DIVERGING = "viridis", "RdBu_r"
CELL_IN, GAP_IN, TITLE_IN, CAPTION_IN, BAR_IN = (1.25, 2.5), 0.12, 0.42, 0.36, 0.5


@dataclass(frozen=True)
class MatchMaps:
    """A hit explained. Each map (H, W) sums to the score (or difference) that it explains."""

    score: float
    """Cosine of query and hit."""
    next_score: float | None
    """Cosine of query and the next identity's picture, if one was given."""
    query_for_hit: Floats
    """What each cell of the query adds to the score with the hit."""
    hit_for_query: Floats
    """What each cell of the hit adds to the same score."""
    query_rather_than_next: Floats | None
    """What each cell of the query adds to score minus next score: positive speaks for the hit."""


def explain_match(
    embedder: Embedder, query: Image.Image, hit: Image.Image, following: Image.Image | None = None
) -> MatchMaps:
    """Take the scores of a query with a hit, and with the best picture of the next identity, apart.

    Raises:
        ModelError: the network's embedding does not come from its ``feature_map``.
    """
    pictures = [query, hit, *([following] if following is not None else [])]
    images = prepare_pictures(embedder, pictures)
    with eval_mode(embedder.network), torch.inference_mode():
        vectors = embedder.network(images).float()
        unit = vectors / _length(vectors)[:, None]
    scores = (unit @ unit[0]).cpu().numpy()
    towards = [unit[1], unit[0]] + ([unit[1] - unit[2]] if following is not None else [])
    of_pictures = [0, 1] + ([0] if following is not None else [])
    maps = split_scores(embedder.network, images[of_pictures], torch.stack(towards))
    return MatchMaps(
        float(scores[1]),
        float(scores[2]) if following is not None else None,
        maps[0],
        maps[1],
        maps[2] if following is not None else None,
    )


def split_scores(network: nn.Module, images: Tensor, directions: Tensor) -> Floats:
    """What each cell adds to the product of an image's unit embedding with a direction.

    Args:
        network: any with ``feature_map``.
        images: (B, 3, H', W'), prepared.
        directions: (B, D), of any length.

    Returns:
        (B, H, W); a map's sum is the product.

    Raises:
        ModelError: the embedding does not come from ``feature_map``.
    """
    with eval_mode(network), torch.inference_mode(False), torch.enable_grad(), _held_map(network) as kept:
        embedding = network(images.clone()).float()
        if len(kept) != 1:
            raise ModelError(f"{type(network).__name__} calls feature_map {len(kept)} times for an embedding, not once")
        products = (embedding * directions.clone()).sum(1) / _length(embedding.detach())
        gradient = torch.autograd.grad(products.sum(), kept[0])[0]
    parts = (gradient * kept[0]).detach().sum(1).double()
    rest = products.detach().double() - parts.sum((1, 2))
    parts = parts + (rest / parts[0].numel())[:, None, None]
    return parts.float().cpu().numpy()


def _length(vectors: Tensor) -> Tensor:
    """(B, D) -> (B,), above 0: an untrained network's vectors may be very short, or zero."""
    return vectors.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)


@contextmanager
def _held_map(network: Any) -> Iterator[list[Tensor]]:
    """Inside, the last map is kept, and gradients end at it. The network is as before afterwards."""
    original = network.feature_map
    kept: list[Tensor] = []

    def hold(x: Tensor) -> Tensor:
        features: Tensor = original(x).detach().requires_grad_()
        kept.append(features)
        return features

    network.feature_map = hold  # of this object alone; the class keeps its own
    try:
        yield kept
    finally:
        del network.feature_map


def lay_parts_over(picture: Image.Image, parts: Floats, greatest: float, signed: bool) -> NDArray[np.uint8]:
    """A map of parts over a grey photo: (height, width, 3).

    Args:
        picture: RGB.
        parts: (H, W).
        greatest: the value that gets the last colour; with ``signed``, its negative gets the first one.
        signed: colours that diverge from 0; else they begin at 0.
    """
    matplotlib = require_extra("matplotlib", "figures")
    wide = interpolate(torch.from_numpy(parts)[None, None], (picture.height, picture.width), mode="bilinear")[0, 0]
    scaled = wide.numpy() / max(greatest, 1e-12)
    coloured = matplotlib.colormaps[DIVERGING if signed else SEQUENTIAL]((scaled + 1) / 2 if signed else scaled)
    grey = np.asarray(picture.convert("L"), dtype=np.float32)[..., None] / 255
    mixed = (1 - OPACITY) * grey + OPACITY * coloured[..., :3]
    return np.rint(255 * np.clip(mixed, 0, 1)).astype(np.uint8)


def draw_match(photos: Sequence[Photo], maps: MatchMaps, path: str | Path) -> None:
    """Write the figure: query, hit, next identity above; below, which parts spoke for the hit, in points of score.

    Args:
        photos: query, hit, and the next identity's if there is one.
        maps: what ``explain_match`` gave for them.
        path: ending in .png, .pdf or .svg.

    Raises:
        OutputError: it cannot be written.
    """
    titles = ["query", f"hit: score {maps.score:.3f}"]
    below = [
        ("query: what\nspeaks for the hit", maps.query_for_hit),
        ("hit: what speaks\nfor the query", maps.hit_for_query),
    ]
    if maps.query_rather_than_next is not None and maps.next_score is not None:
        titles.append(f"next person: {maps.next_score:.3f}")
        apart = f"query: hit rather than\nnext, {maps.score - maps.next_score:+.3f}"
        below.append((apart, maps.query_rather_than_next))
    columns = len(photos)
    cell_h = max(min(CELL_IN[1], CELL_IN[0] * p.picture.height / p.picture.width) for p in photos)
    row_h = TITLE_IN + cell_h + CAPTION_IN
    greatest = [max(float(m.max()) for _, m in below[:2]), float(np.abs(below[-1][1]).max())]
    with new_figure((columns * (CELL_IN[0] + GAP_IN), 2 * row_h + BAR_IN - CAPTION_IN), layout=None) as figure:
        sheet = Sheet(figure)
        query = photos[0].picture.resize(fit_picture(photos[0].picture.size), Image.Resampling.LANCZOS)
        for place, photo in enumerate(photos):
            x = GAP_IN / 2 + place * (CELL_IN[0] + GAP_IN)
            picture = photo.picture.resize(fit_picture(photo.picture.size), Image.Resampling.LANCZOS)
            middle = x + CELL_IN[0] / 2
            sheet.write(middle, TITLE_IN - 0.08, titles[place], ha="center", va="baseline", fontsize=8)
            sheet.add_image(np.asarray(picture), x, TITLE_IN, CELL_IN[0], cell_h)
            sheet.write(middle, TITLE_IN + cell_h + 0.06, wrap_name(photo.name, letters=20), ha="center")
            title, parts = below[place]
            signed = place == 2
            ground = picture if place == 1 else query
            sheet.write(middle, row_h + TITLE_IN - 0.08, title, ha="center", va="baseline", fontsize=8)
            over = lay_parts_over(ground, parts, greatest[signed], signed)
            sheet.add_image(over, x, row_h + TITLE_IN, CELL_IN[0], cell_h)
        y = row_h + TITLE_IN + cell_h + 0.1
        _draw_bar(sheet, GAP_IN / 2, y, 2 * CELL_IN[0] + GAP_IN, SEQUENTIAL, (0, greatest[0]))
        if columns == 3:
            x = GAP_IN / 2 + 2 * (CELL_IN[0] + GAP_IN)
            _draw_bar(sheet, x, y, CELL_IN[0], DIVERGING, (-greatest[1], greatest[1]))
        save_figure(figure, path)


def _draw_bar(sheet: Sheet, x: float, y: float, width: float, colours: str, limits: tuple[float, float]) -> None:
    """Below the maps it belongs to, a little narrower, so that its numbers stay within."""
    cm, norms = require_extra("matplotlib.cm", "figures"), require_extra("matplotlib.colors", "figures")
    mappable = cm.ScalarMappable(norm=norms.Normalize(*limits), cmap=colours)
    inside = sheet.add_axes(x + 0.15, y, width - 0.3, 0.09)
    bar = sheet.figure.colorbar(mappable, cax=inside, orientation="horizontal")
    bar.set_ticks(np.linspace(*limits, 3), labels=[f"{v:.3f}" for v in np.linspace(*limits, 3)])
    bar.ax.tick_params(labelsize=7, length=2)
    bar.outline.set_visible(False)
    bar.set_label("score per cell", fontsize=7, labelpad=1)
