"""Two-dimensional map of embeddings with thumbnails. Needs the extra ``figures``.

t-SNE (van der Maaten and Hinton, JMLR 2008) keeps neighbours together; sizes of groups and distances between them mean
nothing. PCA keeps the two directions of largest variance. Shapes: N images, D components of an embedding.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from osnet.data.loading import read_image
from osnet.errors import DataError, require_extra
from osnet.figures.canvas import DPI, Sheet, new_figure, save_figure
from osnet.types import DISTRACTOR_PID, JUNK_PID, Crop

Projection = Literal["tsne", "pca"]
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#000000", "#999999", "#f0e442")
SIZE_IN = 9.0
MIN_ON_MAP = 3
METHODS: dict[Projection, str] = {"tsne": "t-SNE", "pca": "PCA"}
"""Names of the methods in titles."""


def project(vectors: ArrayLike, method: Projection = "tsne", seed: int = 0) -> NDArray[np.float64]:
    """Project embeddings (N, D) to positions (N, 2) in [0, 1]. Deterministic for a given seed.

    Embeddings are normalised to length 1 first, so that distances follow the cosine.

    Args:
        vectors: at least three embeddings.
        method: ``tsne`` (initialised with PCA, perplexity 30 but at most (N - 1) / 3) or ``pca``.
        seed: random seed of t-SNE.

    Raises:
        DataError: fewer than three embeddings, or an unknown method.
        MissingExtraError: scikit-learn is not installed.
    """
    array = np.asarray(vectors, dtype=np.float64)
    if method not in ("tsne", "pca"):
        raise DataError(f"unknown method {method!r}; choose from tsne, pca")
    if array.ndim != 2 or len(array) < MIN_ON_MAP:
        raise DataError(f"embeddings have shape {array.shape}; a map needs at least three images")
    array = array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-12)
    places = require_extra("sklearn.decomposition", "figures").PCA(2, random_state=seed).fit_transform(array)
    if method == "tsne":
        manifold = require_extra("sklearn.manifold", "figures")
        perplexity = min(30.0, (len(array) - 1) / 3)
        start = places / max(float(places[:, 0].std()), 1e-12) * 1e-4
        places = manifold.TSNE(2, perplexity=perplexity, init=start, random_state=seed).fit_transform(array)
    spread = places.max(0) - places.min(0)
    return np.asarray((places - places.min(0)) / np.maximum(spread, 1e-12), dtype=np.float64)


def choose_crops(crops: Sequence[Crop], number: int) -> list[int]:
    """Indices of up to ``number`` crops: all images of people spread evenly over the sorted identities.

    Junk and distractors belong to no identity and are left out.
    """
    by_pid: dict[int, list[int]] = {}
    for place, crop in enumerate(crops):
        if crop.pid not in (JUNK_PID, DISTRACTOR_PID):
            by_pid.setdefault(crop.pid, []).append(place)
    pids = sorted(by_pid)
    if not pids:
        return []
    wanted = max(1, min(len(pids), number * len(pids) // sum(map(len, by_pid.values()))))
    chosen = [pids[i * len(pids) // wanted] for i in range(wanted)]
    return [place for pid in chosen for place in by_pid[pid]][:number]


def draw_embeddings(
    places: NDArray[np.float64], crops: Sequence[Crop], path: str | Path, title: str = "", thumb_in: float | None = None
) -> None:
    """Draw thumbnails at their positions. The frame's colour stands for the person; ten colours are repeated.

    Args:
        places: (N, 2) positions, from ``project``.
        crops: N crops.
        path: output file, ending in .png, .pdf or .svg.
        title: above the map.
        thumb_in: width of a thumbnail in inches; by default it depends on N.

    Raises:
        ImageError: an image cannot be read.
        OutputError: the file cannot be written.
    """
    width = thumb_in or min(0.5, 0.55 * SIZE_IN / math.sqrt(max(1, len(crops)) * 2))
    rank = {pid: number for number, pid in enumerate(sorted({crop.pid for crop in crops}))}
    with new_figure((SIZE_IN, SIZE_IN + 0.3), layout=None) as figure:
        sheet = Sheet(figure)
        sheet.write(0.1, 0.08, title, fontsize=10)
        axes = sheet.add_axes(0, 0.3, SIZE_IN, SIZE_IN)
        axes.set_axis_off()
        axes.set(xlim=(0, SIZE_IN), ylim=(0, SIZE_IN))
        for (x, y), crop in zip(places, crops, strict=True):
            left = 0.05 + x * (SIZE_IN - width - 0.1)
            bottom = 0.05 + y * (SIZE_IN - 2 * width - 0.1)
            framed = frame_thumb(read_image(crop.path), COLOURS[rank[crop.pid] % len(COLOURS)], width)
            axes.imshow(np.asarray(framed), extent=(left, left + width, bottom, bottom + 2 * width), aspect="auto")
        axes.set(xlim=(0, SIZE_IN), ylim=(0, SIZE_IN))
        save_figure(figure, path)


def frame_thumb(image: Image.Image, colour: str, width_in: float) -> Image.Image:
    """A thumbnail with aspect ratio 1:2 and a coloured frame."""
    width = max(24, round(width_in * DPI))
    framed = Image.new("RGB", (width, 2 * width), colour)
    edge = max(2, round(width / 14))
    inside = image.resize((width - 2 * edge, 2 * (width - edge)), Image.Resampling.LANCZOS)
    framed.paste(inside, (edge, edge))
    return framed
