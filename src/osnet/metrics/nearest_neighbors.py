"""Exact nearest neighbours within one set, by squared Euclidean distance, in bounded memory.

There are two implementations. On a CPU, compiled kernels work in tiles: each inner product is computed once and updates
the lists of both items. On a GPU, and in a forked process, ``torch.topk`` works on strips of rows. Products are
float32, so neighbours whose distances differ by less than float32 rounding may swap places.
Shapes: N items, K neighbours, D components of an embedding.
"""

from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from osnet.errors import DataError
from osnet.forks import import_compiled, was_forked

TILE = 2048
"""Rows and columns of a tile on the CPU: 16 MiB, which fits into the last-level cache."""
STRIP_FLOATS = 1 << 25
"""Largest number of distances in a strip (128 MiB); a strip has at least one row."""

LARGEST = 1e15
"""Squared distances of larger values would overflow float32."""


@dataclass(frozen=True)
class Nearest:
    """The K nearest neighbours of each item. The first is the item itself."""

    index: Tensor
    """(N, K): int64, closest first."""
    squared_distance: Tensor
    """(N, K): float32, non-negative, non-decreasing."""
    furthest: Tensor
    """(N,): float32: the largest squared distance to any item."""


def as_embeddings(embeddings: ArrayLike, name: str) -> Tensor:
    """Convert embeddings (N, D) to a float32 tensor on the CPU. ``name`` is used in errors.

    Raises:
        DataError: the array is not 2-D or is empty, or a value is not finite or too large to be squared.
    """
    array = np.ascontiguousarray(np.asarray(embeddings), dtype=np.float32)
    if array.ndim != 2 or 0 in array.shape:
        raise DataError(f"{name} embeddings have shape {array.shape}; they must be (number, components) and not empty")
    if not np.isfinite(array).all():
        raise DataError(f"{name} embeddings contain values that are not finite in float32")
    if (largest := max(array.max(), -array.min())) > LARGEST:
        raise DataError(f"{name} embeddings contain values up to {largest:.1e}, above {LARGEST:.0e}; scale them")
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def find_nearest(items_ND: Tensor, num_nearest: int) -> Nearest:
    """Find the nearest neighbours of every item, on the device of ``items_ND``.

    Besides input and result, this needs the memory of one tile or one strip.

    Args:
        items_ND: (N, D), float32, finite.
        num_nearest: K, at least 1, including the item itself; at most N.

    Raises:
        ValueError: ``num_nearest`` is below 1.
    """
    if num_nearest < 1:
        raise ValueError(f"num_nearest {num_nearest} must be at least 1; the first neighbour is the item itself")
    num_nearest = min(num_nearest, len(items_ND))
    kernels = kernels_on(items_ND.device)
    if kernels is None:
        return _by_strips(items_ND, num_nearest)
    return _by_tiles(items_ND, num_nearest, kernels)


def kernels_on(device: torch.device) -> ModuleType | None:
    """The compiled CPU kernels; None on a GPU and in a forked process, where numba's threads would crash.

    They are imported here because the first import compiles them, which takes some seconds.
    """
    if device.type != "cpu" or was_forked():
        return None
    threads = torch.get_num_threads()
    kernels = import_compiled("osnet.metrics.rerank_kernels")
    at_most: int = kernels.numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined, unused-ignore]
    kernels.numba.set_num_threads(min(threads, at_most))
    torch.set_num_threads(threads)  # both use OpenMP: when numba starts its threads, it changes PyTorch's number too
    return kernels


def _by_tiles(items_ND: Tensor, num_nearest: int, kernels: ModuleType) -> Nearest:
    num_items = len(items_ND)
    squares = items_ND.square().sum(1).numpy()
    closest = np.full((num_items, num_nearest), np.inf, np.float32)
    index = np.zeros((num_items, num_nearest), np.int32)
    furthest = np.zeros(num_items, np.float32)
    buffer = torch.empty(min(TILE, num_items) ** 2)
    # In this order each item sees its candidates by increasing index, so ties keep that order.
    for first in range(0, num_items, TILE):
        rows = slice(first, min(first + TILE, num_items))
        for start in range(first, num_items, TILE):
            columns = slice(start, min(start + TILE, num_items))
            shape = (rows.stop - rows.start, columns.stop - columns.start)
            tile = torch.mm(items_ND[rows], items_ND[columns].T, out=buffer[: shape[0] * shape[1]].view(shape))
            if start == first:
                tile.fill_diagonal_(torch.inf)  # the item itself comes first, regardless of rounding
            values = tile.numpy()
            kernels.update_rows(
                values, squares[rows], squares[columns], closest[rows], index[rows], furthest[rows], start
            )
            if start != first:
                kernels.update_columns(values, closest[columns], index[columns], furthest[columns], first)
    return Nearest(torch.from_numpy(index).long(), torch.from_numpy(closest).clamp_(min=0), torch.from_numpy(furthest))


def _by_strips(items_ND: Tensor, num_nearest: int) -> Nearest:
    num_items = len(items_ND)
    squares = items_ND.square().sum(1)
    num_rows = max(1, STRIP_FLOATS // num_items)
    indices, distances, furthest = [], [], []
    for start in range(0, num_items, num_rows):
        strip = squared_distances(items_ND[start : start + num_rows], items_ND, squares)
        furthest.append(strip.amax(1))
        own = torch.arange(len(strip), device=strip.device)
        strip[own, own + start] = -torch.inf  # the item itself comes first, regardless of rounding
        closest, index = strip.topk(num_nearest, dim=1, largest=False, sorted=True)
        indices.append(index)
        distances.append(closest.clamp_(min=0))
    return Nearest(torch.cat(indices), torch.cat(distances), torch.cat(furthest))


def squared_distances(query_QD: Tensor, gallery_GD: Tensor, gallery_squares_G: Tensor | None = None) -> Tensor:
    """(Q, G): |q|^2 + |g|^2 - 2 q.g in float32; rounding can make small distances slightly negative."""
    squares = gallery_GD.square().sum(1) if gallery_squares_G is None else gallery_squares_G
    return torch.mm(query_QD, gallery_GD.T).mul_(-2).add_(squares).add_(query_QD.square().sum(1, keepdim=True))
