"""Distances that come a block of queries at a time: ranked lists and scores of them, without the whole matrix.

Shapes: Q queries, G gallery, B queries of a block, D embedding.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from osnet.errors import DataError
from osnet.metrics.nearest_neighbors import as_embeddings, pick_device, squared_distances
from osnet.metrics.ranking import RankingScores, rank_scores_from_distances

BLOCK_DISTANCES = 1 << 23
"""A block has at most so many distances (32 MiB), and at least one row."""


@dataclass(frozen=True)
class DistanceBlock:
    """Distances of some queries to the whole gallery."""

    start: int
    """Its first row is this query."""
    distance: NDArray[np.float32]
    """(B, G): Lower is closer."""


@dataclass(frozen=True)
class RankedLists:
    """The best of the gallery for each query, closest first; equal distances in gallery order."""

    index: NDArray[np.int64]
    """(Q, K): Places in the gallery."""
    distance: NDArray[np.float32]
    """(Q, K): Non-decreasing."""


def check_pair(query_QD: ArrayLike, gallery_GD: ArrayLike) -> tuple[Tensor, Tensor]:
    """Both as float32 tensors on the CPU.

    Raises:
        DataError: wrong or different shapes, or values that are not finite.
    """
    query, gallery = as_embeddings(query_QD, "query"), as_embeddings(gallery_GD, "gallery")
    if query.shape[1] != gallery.shape[1]:
        raise DataError(f"query embeddings have {query.shape[1]} components, gallery embeddings {gallery.shape[1]}")
    return query, gallery


def block_starts(num_queries: int, num_gallery: int, num_rows: int | None) -> list[tuple[int, int]]:
    """First query, and the one after the last, of each block.

    Raises:
        ValueError: ``num_rows`` under 1.
    """
    if num_rows is None:
        num_rows = max(1, BLOCK_DISTANCES // num_gallery)
    if num_rows < 1:
        raise ValueError(f"num_rows {num_rows} must be at least 1")
    return [(start, min(start + num_rows, num_queries)) for start in range(0, num_queries, num_rows)]


def euclidean_blocks(
    query_QD: ArrayLike, gallery_GD: ArrayLike, *, device: str | torch.device = "cpu", num_rows: int | None = None
) -> Iterator[DistanceBlock]:
    """Squared Euclidean distances, some queries at a time; for rows of length 1 that is twice the cosine distance.

    Raises:
        DataError: wrong or different shapes, or values that are not finite.
        ModelError: a device that cannot be used.
        ValueError: ``num_rows`` under 1.
    """
    query, gallery = (rows.to(pick_device(device)) for rows in check_pair(query_QD, gallery_GD))
    return _euclidean_blocks(query, gallery, block_starts(len(query), len(gallery), num_rows))


def _euclidean_blocks(query_QD: Tensor, gallery_GD: Tensor, bounds: list[tuple[int, int]]) -> Iterator[DistanceBlock]:
    squares = gallery_GD.square().sum(1)
    for start, stop in bounds:
        distance = squared_distances(query_QD[start:stop], gallery_GD, squares).clamp_(min=0)
        yield DistanceBlock(start, distance.cpu().numpy())


def best_of_block(block: DistanceBlock, num_best: int) -> RankedLists:
    """The ``num_best`` closest for each query of a block; fewer if the gallery is smaller.

    Raises:
        ValueError: ``num_best`` under 1.
    """
    if num_best < 1:
        raise ValueError(f"num_best {num_best} must be at least 1")
    num_best = min(num_best, block.distance.shape[1])
    indices = np.empty((len(block.distance), num_best), np.int64)
    for row, distance_G in enumerate(block.distance):
        worst = np.partition(distance_G, num_best - 1)[num_best - 1]
        candidates = np.flatnonzero(distance_G <= worst)  # all that are tied for the last place, too
        indices[row] = candidates[np.argsort(distance_G[candidates], kind="stable")[:num_best]]
    return RankedLists(indices, np.take_along_axis(block.distance, indices, 1))


def best_of_blocks(blocks: Iterable[DistanceBlock], num_best: int) -> RankedLists:
    """The same over all blocks."""
    return join_lists([best_of_block(block, num_best) for block in blocks])


def join_lists(lists: list[RankedLists]) -> RankedLists:
    """Lists of several blocks, one after the other."""
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
    """``rank_scores_from_distances`` of a matrix that is never whole: memory is that of one block.

    Args:
        blocks: in order, all queries once.
        query_pids: (Q,), from 1 upwards.
        gallery_pids: (G,), -1 junk, 0 distractor.
        query_camids: (Q,).
        gallery_camids: (G,).
        max_rank: the length of the CMC; shortened to G.

    Raises:
        ValueError: as ``rank_scores_from_distances``, or blocks that do not follow each other up to the last query.
    """
    pids, camids = np.asarray(query_pids), np.asarray(query_camids)
    if pids.shape != camids.shape or pids.ndim != 1:
        raise ValueError(f"query_pids {pids.shape} and query_camids {camids.shape} must be two lists of one length")
    parts: list[RankingScores] = []
    done = 0
    for block in blocks:
        stop = block.start + len(block.distance)
        if block.start != done or stop > len(pids):
            raise ValueError(f"a block of queries {block.start} to {stop} came after {done} of {len(pids)} queries")
        rows = slice(done, stop)
        part = rank_scores_from_distances(
            block.distance, pids[rows], gallery_pids, camids[rows], gallery_camids, max_rank
        )
        parts.append(part)
        done = stop
    if done != len(pids) or not parts:
        raise ValueError(f"blocks of {done} queries for {len(pids)} query_pids")
    return RankingScores.of_queries(
        np.concatenate([part.ap_per_query for part in parts]),
        np.concatenate([part.inp_per_query for part in parts]),
        np.concatenate([part.first_rank_per_query for part in parts]),
        num_gallery=parts[0].num_gallery,
        max_rank=len(parts[0].cmc),
    )
