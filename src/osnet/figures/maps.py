"""Activation maps: where a network's features are strong. They work with every network of the library.

Zhou et al., ICCV 2019, Fig. 6 and supplement A, after Zagoruyko and Komodakis, "Paying More Attention to Attention",
ICLR 2017, section 3.1. The paper sums absolute values over channels; the authors' code sums squares, which gives a more
concentrated map. Networks are observed with hooks and not changed.
Shapes: N images, B images of a batch, C channels, H x W cells of a map.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.functional import normalize as unit_length

from osnet.data.transforms import normalize, resize_image, to_fractions
from osnet.embedding.embedder import Embedder
from osnet.errors import ModelError
from osnet.runtime.backends import in_eval_mode

Measure = Literal["absolute", "squares"]
"""``absolute``: sum of absolute values over channels (paper); ``squares``: sum of squares (authors' code)."""
Floats = NDArray[np.float32]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of the image; right and bottom are exclusive."""
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
"""The whole of an image as a part of it, in fractions; see ``seen_part``."""

LAST, STAGES, STREAMS = "last", "stages", "streams"
BATCH = 32


def activation_map(features: Tensor, measure: Measure = "absolute") -> Tensor:
    """Sum |features| (``absolute``) or features squared (``squares``) over channels: (B, C, H, W) -> (B, H, W), >= 0.

    Each map is then normalised to Euclidean length 1; a map of zeros stays zero.

    Raises:
        ModelError: ``measure`` is unknown, or the features are not (B, C, H, W).
    """
    if measure not in ("absolute", "squares"):
        raise ModelError(f"unknown measure {measure!r}; choose from absolute, squares")
    if features.ndim != 4:
        raise ModelError(f"features of shape {tuple(features.shape)} are not maps; they must be (B, C, H, W)")
    strength = features.float().abs() if measure == "absolute" else features.float().square()
    return unit_length(strength.sum(1).flatten(1)).view(len(features), *features.shape[2:])


def measure_entropy(strength: Floats) -> float:
    """Entropy of a map (H, W), in bits: from 0 (one cell) to log2(H * W) (uniform); NaN for a map of zeros."""
    total = float(strength.sum())
    if total <= 0:
        return math.nan
    p = strength[strength > 0].astype(np.float64) / total
    return max(0.0, float(-(p * np.log2(p)).sum()))


def measure_share(strength: Floats, box: Box, size_wh: tuple[int, int], part: Box = WHOLE) -> tuple[float, float]:
    """Share of a map's sum inside a box, and that share for a uniform map; both in [0, 1].

    A cell stands for a rectangle of the image. A cell that is partly inside the box counts by that part. The receptive
    field of a cell is larger than its rectangle, so the share shows where the map is strong, not which pixels caused
    it.

    Args:
        strength: (H, W), >= 0, not scaled for display.
        box: in pixels of the image; what the network does not see is ignored.
        size_wh: width and height of the image.
        part: the part that the network sees, as fractions of the image; see ``seen_part``.
    """
    height, width = strength.shape
    columns, rows = (
        _overlap(
            cells,
            *((box[side] / size_wh[axis] - part[axis]) / (part[axis + 2] - part[axis]) for side in (axis, axis + 2)),
        )
        for axis, cells in enumerate((width, height))
    )
    exact = strength.astype(np.float64)
    total = float(exact.sum())
    share = float(rows @ exact @ columns) / total if total > 0 else math.nan
    return share, float(rows.sum() * columns.sum()) / (height * width)


def _overlap(num_cells: int, low: float, high: float) -> NDArray[np.float64]:
    """(num_cells,): part of each cell between two fractions of the whole, in [0, 1]."""
    starts = np.arange(num_cells)
    return np.clip(np.minimum(starts + 1, high * num_cells) - np.maximum(starts, low * num_cells), 0, 1)


def stretch_map(strength: Floats, size_wh: tuple[int, int]) -> Floats:
    """Resize a map (H, W) to an image's size (bilinear) and scale it to [0, 1] by its minimum and maximum.

    Scaling hides the strength of a map, so figures give its entropy and share as well.
    """
    wide = interpolate(torch.from_numpy(strength)[None, None].float(), (size_wh[1], size_wh[0]), mode="bilinear")[0, 0]
    low, high = wide.min(), wide.max()
    return ((wide - low) / (high - low).clamp_min(1e-12)).numpy()


def find_layers(network: nn.Module, wanted: Sequence[str]) -> list[str]:
    """Resolve layer names and patterns. Each layer is returned once, in the order of ``wanted``, then of the network.

    Args:
        network: a network with ``feature_map``.
        wanted: ``last`` (the output of ``feature_map``), ``stages`` (all children that output a map), ``streams``
            (those of the last block that has streams), a module name such as ``conv4.1``, or a pattern such as
            ``conv4.1.streams.*``.

    Raises:
        ModelError: no layer matches; the error suggests similar names.
    """
    names = [name for name, _ in network.named_modules() if name]
    found: list[str] = []
    for wish in wanted:
        if wish == LAST:
            matching = [LAST]
        elif wish == STAGES:
            no_maps = _no_maps(network)
            matching = [name for name, child in network.named_children() if name not in no_maps]
        elif wish == STREAMS:
            blocks = [name.rpartition(".")[0] for name in names if name.endswith(".streams.0")]
            matching = [name for name in names if blocks and _is_child(name, blocks[-1])]
        else:
            depth = wish.count(".")
            matching = [name for name in names if name.count(".") == depth and fnmatchcase(name, wish)]
        if not matching:
            near = ", ".join(get_close_matches(wish, names, 4)) or ", ".join(name for name in names if "." not in name)
            raise ModelError(
                f"the network has no layer {wish!r}; choose last, stages, streams, or a layer such as {near}"
            )
        found += matching
    return list(dict.fromkeys(found))


def _is_child(name: str, parent: str) -> bool:
    return name.rpartition(".")[0] == parent


def _no_maps(network: nn.Module) -> set[str]:
    """Children that do not output a feature map, found with a forward pass."""
    seen: dict[str, bool] = {}
    hooks = [
        child.register_forward_hook(
            lambda _m, _i, out, name=name: seen.__setitem__(name, isinstance(out, Tensor) and out.ndim == 4)
        )
        for name, child in network.named_children()
    ]
    parameter = next(network.parameters())
    try:
        with torch.inference_mode():
            height, width = getattr(getattr(network, "config", None), "fixed_size_hw", None) or (64, 64)
            in_eval_mode(network)(torch.zeros(1, 3, height, width, device=parameter.device))
    finally:
        for hook in hooks:
            hook.remove()
    unused = {name for name, child in network.named_children() if isinstance(child, nn.Identity)}
    return unused | {"input_norm", *(name for name, _ in network.named_children() if not seen.get(name))}


@contextmanager
def watch_layers(network: nn.Module, names: Iterable[str]) -> Iterator[dict[str, list[Any]]]:
    """Context in which the outputs of the named modules are recorded: name -> list of outputs, one per call."""
    kept: dict[str, list[Any]] = {name: [] for name in names}
    hooks = [
        network.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: kept[name].append(out))
        for name in kept
    ]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()


def prepare_images(embedder: Embedder, images: Sequence[Image.Image]) -> Tensor:
    """Preprocess RGB images of any size for the embedder's network: (N, 3, height, width)."""
    pixels = torch.stack([resize_image(image, embedder.preprocessing) for image in images])
    return normalize(to_fractions(pixels.to(embedder.device)), embedder.preprocessing)


def compute_maps(
    embedder: Embedder,
    images: Sequence[Image.Image],
    layers: Sequence[str] = (LAST,),
    measure: Measure = "absolute",
) -> dict[str, Floats]:
    """Activation maps by layer: (N, H, W) each, of length 1 per image.

    Args:
        embedder: embedder of a network with ``feature_map``.
        images: RGB images.
        layers: names or patterns, see ``find_layers``.
        measure: see ``activation_map``.

    Raises:
        ModelError: a layer does not exist, does not output a map, or is called more than once per forward pass.
    """
    names = find_layers(embedder.network, layers)
    made: dict[str, list[Floats]] = {name: [] for name in names}
    inner = [name for name in names if name != LAST]
    for start in range(0, len(images), BATCH):
        batch = prepare_images(embedder, images[start : start + BATCH])
        with torch.inference_mode(), watch_layers(embedder.network, inner) as kept:
            last = in_eval_mode(embedder.network).feature_map(batch)
            for name in names:
                outputs = [last] if name == LAST else kept[name]
                made[name].append(activation_map(_one_map(name, outputs), measure).cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in made.items()}


def _one_map(name: str, outputs: list[Any]) -> Tensor:
    if len(outputs) != 1:
        raise ModelError(f"layer {name!r} is called {len(outputs)} times before the last map; it must be called once")
    if not isinstance(outputs[0], Tensor) or outputs[0].ndim != 4:
        shape = tuple(outputs[0].shape) if isinstance(outputs[0], Tensor) else type(outputs[0]).__name__
        raise ModelError(f"layer {name!r} outputs {shape}, which is not a map (B, C, H, W)")
    return outputs[0]
