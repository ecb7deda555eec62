"""Distances computed a block of queries at a time, so that the (Q, G) matrix is never in memory as a whole.

Shapes: Q queries, G gallery items, B queries in a block, K hits, D components of an embedding.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from osnet.devices import pick_device
from osnet.errors import DataError
from osnet.metrics.nearest_neighbors import as_embeddings, squared_distances
from osnet.metrics.ranking import RankingScores, rank_scores_from_distances

BLOCK_DISTANCES = 1 << 23
"""Largest number of distances in a block (32 MiB); a block has at least one row."""


@dataclass(frozen=True)
class DistanceBlock:
    """Distances of consecutive queries to the whole gallery."""

    start: int
    """Index of the query in row 0."""
    distance: NDArray[np.float32]
    """(B, G); lower is closer."""


@dataclass(frozen=True)
class RankedLists:
    """The K closest gallery items of each query, closest first; equal distances keep the gallery's order."""

    index: NDArray[np.int64]
    """(Q, K): gallery indices."""
    distance: NDArray[np.float32]
    """(Q, K): non-decreasing along each row."""


def check_pair(query_QD: ArrayLike, gallery_GD: ArrayLike) -> tuple[Tensor, Tensor]:
    """Return both as float32 tensors on the CPU.

    Raises:
        DataError: an array is not 2-D or is empty, the numbers of components differ, or a value is not finite or too
            large to be squared.
    """
    query, gallery = as_embeddings(query_QD, "query"), as_embeddings(gallery_GD, "gallery")
    if query.shape[1] != gallery.shape[1]:
        raise DataError(
            f"query embeddings have {query.shape[1]} components, gallery embeddings have {gallery.shape[1]}; "
            "both must come from the same network"
        )
    return query, gallery


def block_starts(num_queries: int, num_gallery: int, num_rows: int | None) -> list[tuple[int, int]]:
    """(start, stop) of each block of queries. ``num_rows`` None: as many rows as ``BLOCK_DISTANCES`` allows.

    Raises:
        ValueError: ``num_rows`` is below 1.
    """
    if num_rows is None:
        num_rows = max(1, BLOCK_DISTANCES // num_gallery)
    if num_rows < 1:
        raise ValueError(f"num_rows {num_rows} must be at least 1")
    return [(start, min(start + num_rows, num_queries)) for start in range(0, num_queries, num_rows)]


def euclidean_blocks(
    query_QD: ArrayLike, gallery_GD: ArrayLike, *, device: str | torch.device = "cpu", num_rows: int | None = None
) -> Iterator[DistanceBlock]:
    """Squared Euclidean distances in blocks of queries. For embeddings of length 1: twice the cosine distance.

    Raises:
        DataError: as for ``check_pair``.
        ModelError: the device cannot be used.
        ValueError: ``num_rows`` is below 1.
    """
    query, gallery = (rows.to(pick_device(device, float64=True)) for rows in check_pair(query_QD, gallery_GD))
    return _euclidean_blocks(query, gallery, block_starts(len(query), len(gallery), num_rows))


def _euclidean_blocks(query_QD: Tensor, gallery_GD: Tensor, bounds: list[tuple[int, int]]) -> Iterator[DistanceBlock]:
    squares = gallery_GD.square().sum(1)
    for start, stop in bounds:
        distance = squared_distances(query_QD[start:stop], gallery_GD, squares).clamp_(min=0)
        yield DistanceBlock(start, distance.cpu().numpy())


def best_of_block(block: DistanceBlock, num_best: int) -> RankedLists:
    """The ``num_best`` closest gallery items for each query of a block; fewer if the gallery is smaller.

    Raises:
        ValueError: ``num_best`` is below 1.
    """
    if num_best < 1:
        raise ValueError(f"num_best {num_best} must be at least 1")
    num_best = min(num_best, block.distance.shape[1])
    indices = np.empty((len(block.distance), num_best), np.int64)
    for row, distance_G in enumerate(block.distance):
        worst = np.partition(distance_G, num_best - 1)[num_best - 1]
        candidates = np.flatnonzero(distance_G <= worst)  # includes all items tied for the last place
        indices[row] = candidates[np.argsort(distance_G[candidates], kind="stable")[:num_best]]
    return RankedLists(indices, np.take_along_axis(block.distance, indices, 1))


def best_of_blocks(blocks: Iterable[DistanceBlock], num_best: int) -> RankedLists:
    """``best_of_block`` for all blocks, joined."""
    return join_lists([best_of_block(block, num_best) for block in blocks])


def join_lists(lists: list[RankedLists]) -> RankedLists:
    """Concatenate the lists of consecutive blocks."""
    return RankedLists(
        np.concatenate([some.index for some in lists]), np.concatenate([some.distance for some in lists])
    )


def rank_scores_from_blocks(
    blocks: Iterable[DistanceBlock],
    query_pids: ArrayLike,
    gallery_pids: ArrayLike,
    query_camids: ArrayLike,
    gallery_camids: ArrayLike,
    max_rank: int = 50,
) -> RankingScores:
    """``rank_scores_from_distances`` for distances that come in blocks; needs the memory of one block.

    Args:
        blocks: consecutive blocks that cover all queries in order.
        query_pids: (Q,), at least 1.
        gallery_pids: (G,), -1 junk, 0 distractor.
        query_camids: (Q,).
        gallery_camids: (G,).
        max_rank: length of the CMC curve; at most G.

    Raises:
        ValueError: as for ``rank_scores_from_distances``; or the blocks are not consecutive or do not cover all
            queries.
    """
    pids, camids = np.asarray(query_pids), np.asarray(query_camids)
    if pids.shape != camids.shape or pids.ndim != 1:
        raise ValueError(
            f"query_pids of shape {pids.shape} and query_camids of shape {camids.shape} must be 1-D and equally long"
        )
    parts: list[RankingScores] = []
    done = 0
    for block in blocks:
        stop = block.start + len(block.distance)
        if block.start != done or stop > len(pids):
            raise ValueError(
                f"got a block of queries {block.start} to {stop} after {done} of {len(pids)} queries; blocks must be "
                "consecutive"
            )
        rows = slice(done, stop)
        part = rank_scores_from_distances(
            block.distance, pids[rows], gallery_pids, camids[rows], gallery_camids, max_rank
        )
        parts.append(part)
        done = stop
    if done != len(pids) or not parts:
        raise ValueError(f"the blocks cover {done} queries, but there are {len(pids)} query_pids")
    return RankingScores.of_queries(
        np.concatenate([part.ap_per_query for part in parts]),
        np.concatenate([part.inp_per_query for part in parts]),
        np.concatenate([part.first_rank_per_query for part in parts]),
        num_gallery=parts[0].num_gallery,
        max_rank=len(parts[0].cmc),
    )
