"""Sparse k-reciprocal re-ranking. Zhong et al., CVPR 2017, arXiv:1701.08398, section 3.

Shapes: N items (the queries, then the gallery), Q queries, G gallery items, K neighbours, H = K / 2 neighbours, D
components of an embedding, B rows of a block, E entries of a sparse matrix.

The code of an item is the paper's k-reciprocal feature (equation 7): a row of an (N, N) matrix. Only a few dozen of its
values are not zero, and only those are stored. Codes are multiples of 2^-40 in float64. Their sums are exact, so they
do not depend on the order of summation, the device or the number of threads.

The input of published code differs. Zhong's code takes features or Euclidean distances and squares the distances, as we
do. Torchreid's engine passes squared distances, which its function squares again, so it ranks by fourth powers. Given
distances that are not squared, Torchreid's function returns our result.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from osnet.devices import pick_device
from osnet.metrics import nearest_neighbors as nearest
from osnet.metrics.distance_blocks import DistanceBlock, RankedLists, best_of_blocks, block_starts, check_pair
from osnet.metrics.nearest_neighbors import find_nearest, squared_distances

RESOLUTION = 2.0**40
"""Codes are multiples of 1 / RESOLUTION. The published code uses float32, which resolves 2^-24."""
ROWS = 2048
"""Largest number of items encoded at once."""
COMPARISONS = 1 << 25
"""Largest number of neighbour comparisons at once (32 MiB); at least one item is encoded at a time."""
PAIRS = 1 << 22
"""Number of pairs of entries compared at once."""


@dataclass(frozen=True)
class SparseRows:
    """A sparse matrix in CSR form: the entries of row n are those from ``start[n]`` to ``start[n + 1]``."""

    start: Tensor
    """(rows + 1,): int64."""
    column: Tensor
    """(E,): int64."""
    value: Tensor
    """(E,): float64, positive multiples of 1 / ``RESOLUTION``."""

    @classmethod
    def of_parts(cls, parts: list[tuple[Tensor, Tensor, Tensor]], num_rows: int) -> "SparseRows":
        """Build from parts (row, column, value), sorted by row."""
        row, column, value = (torch.cat(part) for part in zip(*parts, strict=True))
        counts = torch.bincount(row, minlength=num_rows)
        return cls(torch.cat([counts.new_zeros(1), counts.cumsum(0)]), column, value)

    def places(self, rows_R: Tensor) -> tuple[Tensor, Tensor]:
        """For all entries of ``rows_R``, row by row: the row's position in ``rows_R``, and the entry's index."""
        first, lengths = self.start[rows_R], self.start[rows_R + 1] - self.start[rows_R]
        which = torch.repeat_interleave(torch.arange(len(rows_R), device=rows_R.device), lengths)
        before = lengths.cumsum(0) - lengths
        return which, torch.arange(len(which), device=which.device) + (first - before)[which]

    def transposed(self, first_row: int) -> "SparseRows":
        """Transpose of the rows from ``first_row`` on; those rows are renumbered from 0."""
        num_rows = len(self.start) - 1
        begin = int(self.start[first_row])
        row = torch.repeat_interleave(
            torch.arange(num_rows - first_row, device=self.start.device), self.start[first_row:].diff()
        )
        column, order = self.column[begin:].sort(stable=True)
        return SparseRows.of_parts([(column, row[order], self.value[begin:][order])], num_rows)


@dataclass(frozen=True)
class Encoding:
    """Codes of queries and gallery, from which re-ranked distances are computed for any lambda."""

    items: Tensor
    """(N, D): the queries, then the gallery."""
    num_queries: int
    furthest: Tensor
    """(N,): largest squared distance of each item to any item."""
    codes: SparseRows
    """Row i is the code of item i, times ``num_averaged``."""
    num_averaged: int
    """k2: number of neighbours whose codes were summed."""

    def blocks(self, lambda_value: float = 0.3, num_rows: int | None = None) -> Iterator[DistanceBlock]:
        """Re-ranked distances of all queries to the gallery, in blocks of queries.

        Section 3.4, equation 12: (1 - lambda) * Jaccard distance + lambda * original distance, in [0, 1]. The original
        distance is the squared Euclidean distance divided by the query's largest distance to any item.

        Args:
            lambda_value: weight of the original distance, in [0, 1]. With 1 the ranking does not change.
            num_rows: queries per block; by default as many as fit into 32 MiB.

        Raises:
            ValueError: ``lambda_value`` or ``num_rows`` is out of range.
        """
        if not 0 <= lambda_value <= 1:
            raise ValueError(f"lambda_value {lambda_value} must be in [0, 1]")
        return self._blocks(lambda_value, block_starts(self.num_queries, len(self.items) - self.num_queries, num_rows))

    def _blocks(self, lambda_value: float, bounds: list[tuple[int, int]]) -> Iterator[DistanceBlock]:
        gallery = self.items[self.num_queries :]
        squares = gallery.square().sum(1)
        by_member = self.codes.transposed(self.num_queries) if lambda_value < 1 else None
        for start, stop in bounds:
            distance = squared_distances(self.items[start:stop], gallery, squares).clamp_(min=0)
            furthest = self.furthest[start:stop, None].clamp(min=torch.finfo(torch.float32).tiny)
            distance.div_(furthest).mul_(lambda_value)
            if by_member is not None:
                self._add_jaccard(start, by_member, 1 - lambda_value, distance)
            yield DistanceBlock(start, distance.cpu().numpy())

    def _add_jaccard(self, start: int, by_member: SparseRows, weight: float, distance_BG: Tensor) -> None:
        """Add ``weight`` times the Jaccard distance (equation 10): 1 - s / (2 - s), s the sum of elementwise minima."""
        if kernels := nearest.kernels_on(self.items.device):
            arrays = [
                part.numpy() for rows in (self.codes, by_member) for part in (rows.start, rows.column, rows.value)
            ]
            kernels.add_jaccard(start, *arrays, self.num_averaged, weight, distance_BG.numpy())
            return
        total = torch.zeros(distance_BG.shape, dtype=torch.float64, device=self.items.device)
        _add_shared(start, self.codes, by_member, total)
        shared = total.div_(self.num_averaged).float()
        distance_BG.add_(1 - shared / (2 - shared), alpha=weight)


def _add_shared(first_row: int, codes: SparseRows, by_member: SparseRows, total_BG: Tensor) -> None:
    """The sums of ``rerank_kernels.add_jaccard`` in torch, for any device; ``PAIRS`` pairs of entries at once."""
    rows = torch.arange(len(total_BG), device=total_BG.device)
    query, place = codes.places(rows + first_row)
    member, value = codes.column[place], codes.value[place]
    num_pairs = (by_member.start[member + 1] - by_member.start[member]).cumsum(0)
    targets = torch.arange(
        0, int(num_pairs[-1]) + PAIRS, PAIRS, device=rows.device
    )  # no code is empty: it contains its own item
    bounds = [*torch.searchsorted(num_pairs, targets).tolist(), len(member)]
    for first, last in pairwise(bounds):
        which, other = by_member.places(member[first:last])
        smaller = torch.minimum(value[first:last][which], by_member.value[other])
        cell = (query[first:last] * total_BG.shape[1])[which] + by_member.column[other]
        total_BG.view(-1).index_add_(0, cell, smaller)


def encode(
    query_QD: ArrayLike, gallery_GD: ArrayLike, k1: int = 20, k2: int = 6, *, device: str | torch.device = "cpu"
) -> Encoding:
    """Compute the k-reciprocal codes of queries and gallery (sections 3.2 to 3.4, up to equation 11).

    Besides the embeddings, this needs some kilobytes per item and blocks of a fixed size.

    Args:
        query_QD: (Q, D) query embeddings. They are not normalised here.
        gallery_GD: (G, D) gallery embeddings.
        k1: size of the neighbourhood, not counting the item itself, as in the published code.
        k2: number of codes averaged (local query expansion), including the item's own; 1 turns averaging off.
        device: cpu, cuda, cuda:1, or auto (a GPU if there is one).

    Raises:
        DataError: as for ``check_pair``.
        ModelError: the device cannot be used.
        ValueError: ``k1`` or ``k2`` is below 1.
    """
    for name, value in (("k1", k1), ("k2", k2)):
        if value < 1:
            raise ValueError(f"{name} {value} must be at least 1")
    where = pick_device(device, float64=True)
    query, gallery = check_pair(query_QD, gallery_GD)
    items = torch.cat([query, gallery]).to(where)
    found = find_nearest(items, max(k1 + 1, k2))
    return encode_neighbours(items, len(query), found.index, found.furthest, k1, k2)


def encode_neighbours(
    items_ND: Tensor, num_queries: int, index_NK: Tensor, furthest_N: Tensor, k1: int, k2: int
) -> Encoding:
    """``encode`` for given nearest neighbours: (N, K) with K >= max(k1 + 1, k2), closest first."""
    num_items = len(items_ND)
    near, half = _reciprocal(index_NK, k1 + 1), _reciprocal(index_NK, int(np.around(k1 / 2)) + 1)
    bounds = _row_bounds(num_items, near.shape[1] ** 2 * half.shape[1])
    codes = SparseRows.of_parts([_codes(items_ND, furthest_N, near, half, i, j) for i, j in bounds], num_items)
    num_averaged = min(k2, index_NK.shape[1])
    if num_averaged > 1:
        bounds = _row_bounds(num_items, near.shape[1] * num_averaged)
        parts = [_add_codes(codes, index_NK[i:j, :num_averaged], i) for i, j in bounds]
        codes = SparseRows.of_parts(parts, num_items)
    return Encoding(items_ND, num_queries, furthest_N, codes, num_averaged)


def _row_bounds(num_items: int, num_comparisons: int) -> list[tuple[int, int]]:
    """(start, stop) of the items encoded at once, if one item takes ``num_comparisons`` comparisons."""
    num_rows = max(1, min(ROWS, COMPARISONS // num_comparisons))
    return [(start, min(start + num_rows, num_items)) for start in range(0, num_items, num_rows)]


def _reciprocal(index_NK: Tensor, num_nearest: int) -> Tensor:
    """(N, num_nearest) int32, equation 2: neighbours that have the item among their own neighbours; -1 elsewhere."""
    index = index_NK[:, :num_nearest]
    parts = []
    for start, stop in _row_bounds(len(index), index.shape[1] ** 2):
        some = index[start:stop]
        item = torch.arange(start, stop, device=index.device)[:, None, None]
        parts.append(torch.where((index[some] == item).any(2), some, -1).int())
    return torch.cat(parts)


def _codes(
    items_ND: Tensor, furthest_N: Tensor, near_NK: Tensor, half_NH: Tensor, start: int, stop: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes of the items ``start`` to ``stop``: exp(-original distance) over the expanded set, normalised to sum 1."""
    own = near_NK[start:stop]
    theirs = half_NH[own.clamp(min=0).long()]  # (B, K, H): half-size reciprocal set of each neighbour
    there = theirs >= 0
    shared = ((theirs[..., None] == own[:, None, None, :]).any(3) & there).sum(2)
    joins = (own >= 0) & (3 * shared > 2 * there.sum(2))  # equation 3: the sets share more than two thirds
    members = torch.cat([own, torch.where(joins[..., None], theirs, -1).flatten(1)], 1)
    row, place = (members >= 0).nonzero(as_tuple=True)
    key = torch.unique(row * len(items_ND) + members[row, place])
    row, column = key // len(items_ND) + start, key % len(items_ND)
    furthest = furthest_N.clamp(min=torch.finfo(torch.float32).tiny)
    weight = _quantized((-_pair_distances(items_ND, row, column) / furthest[row]).exp().double())
    total = torch.zeros(stop - start, dtype=torch.float64, device=row.device).index_add_(0, row - start, weight)
    return row, column, _quantized(weight / total[row - start])


def _quantized(values: Tensor) -> Tensor:
    return values.mul_(RESOLUTION).round_().div_(RESOLUTION)


def _pair_distances(items_ND: Tensor, one_P: Tensor, other_P: Tensor) -> Tensor:
    """(P,): squared Euclidean distance of each pair of items."""
    if kernels := nearest.kernels_on(items_ND.device):
        distance = torch.empty(len(one_P))
        kernels.pair_distances(items_ND.numpy(), one_P.numpy(), other_P.numpy(), distance.numpy())
        return distance
    size = max(1, (1 << 21) // items_ND.shape[1])
    parts = [
        (items_ND[one] - items_ND[other]).square_().sum(1)
        for one, other in zip(torch.split(one_P, size), torch.split(other_P, size), strict=True)
    ]
    return torch.cat(parts)


def _add_codes(codes: SparseRows, nearest_BK: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor]:
    """Equation 11 without the division: for each item, the sum of its neighbours' codes."""
    num_items = len(codes.start) - 1
    which, place = codes.places(nearest_BK.flatten())
    key, group = torch.unique(which // nearest_BK.shape[1] * num_items + codes.column[place], return_inverse=True)
    total = torch.zeros(len(key), dtype=torch.float64, device=key.device).index_add_(0, group, codes.value[place])
    return key // num_items + start, key % num_items, total


def rerank(
    query_QD: ArrayLike,
    gallery_GD: ArrayLike,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    *,
    device: str | torch.device = "cpu",
) -> NDArray[np.float32]:
    """Re-ranked distances as a whole matrix: (Q, G), in [0, 1]. Lower is closer.

    Use ``rerank_best`` if the matrix does not fit into memory. Arguments and errors: see ``encode`` and
    ``Encoding.blocks``.
    """
    encoding = encode(query_QD, gallery_GD, k1, k2, device=device)
    blocks = encoding.blocks(lambda_value)
    distance_QG = np.empty((encoding.num_queries, len(encoding.items) - encoding.num_queries), np.float32)
    for block in blocks:
        distance_QG[block.start : block.start + len(block.distance)] = block.distance
    return distance_QG


def rerank_best(
    query_QD: ArrayLike,
    gallery_GD: ArrayLike,
    num_best: int = 50,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    *,
    device: str | torch.device = "cpu",
) -> RankedLists:
    """The ``num_best`` closest gallery items per query after re-ranking, without the (Q, G) matrix.

    Arguments and errors: see ``encode`` and ``Encoding.blocks``.
    """
    return best_of_blocks(encode(query_QD, gallery_GD, k1, k2, device=device).blocks(lambda_value), num_best)
