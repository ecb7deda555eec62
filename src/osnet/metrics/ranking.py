"""Ranking scores: CMC, mean average precision, mean inverse negative penalty.

Shapes: Q queries, G gallery, P true matches of one query, D embedding. Pure functions of arrays.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from osnet.types import DISTRACTOR_PID, JUNK_PID

BLOCK_FLOATS = 1 << 24
"""A block of the distance matrix has at most so many numbers (64 MiB), and at least one row."""

Floats = NDArray[np.float32] | NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class RankingScores:
    """Averages over the queries that have a match. NaN where none has."""

    cmc: NDArray[np.float64]
    """(K,): share of queries whose first right match is among the best k, k = 1..K. Non-decreasing."""
    mean_ap: float
    """In [0, 1]. Average precision of one query: mean, over its P matches, of (matches up to there) / rank."""
    mean_inp: float
    """In [0, 1]. Of one query: P / rank of its last match (Ye et al., arXiv:2001.04193, section 4.1)."""
    ap_per_query: NDArray[np.float64]
    """(Q,): NaN for a query without a match."""
    inp_per_query: NDArray[np.float64]
    """(Q,): NaN for a query without a match."""
    first_rank_per_query: NDArray[np.float64]
    """(Q,): rank of the first match, from 1; NaN for a query without a match."""
    unmatched: tuple[int, ...]
    """Queries without a match: not part of any average."""
    num_gallery: int
    """Items in the gallery."""

    @property
    def num_scored(self) -> int:
        """Queries that entered the averages."""
        return len(self.ap_per_query) - len(self.unmatched)

    def rank(self, k: int) -> float:
        """CMC at rank ``k`` >= 1. Beyond the gallery's size it stays at its last value."""
        if k < 1:
            raise ValueError(f"rank {k} must be at least 1")
        if len(self.cmc) < min(k, self.num_gallery):
            raise ValueError(f"rank {k} is beyond the {len(self.cmc)} ranks that were computed; raise max_rank")
        return float(self.cmc[min(k, len(self.cmc)) - 1])


def rank_scores(
    query_QD: ArrayLike,
    gallery_GD: ArrayLike,
    query_pids: ArrayLike,
    gallery_pids: ArrayLike,
    query_camids: ArrayLike,
    gallery_camids: ArrayLike,
    max_rank: int = 50,
) -> RankingScores:
    """Scores of embeddings under Market-1501's rule, by cosine distance, a block of queries at a time.

    The distance matrix is never held whole: memory beyond the input is a copy of the embeddings and
    one block. See ``rank_scores_from_distances`` for the rule, the rest of the arguments and what is raised.

    Args:
        query_QD: embeddings of the queries; rows need not have length 1.
        gallery_GD: embeddings of the gallery.
    """
    query, gallery = _unit_rows(query_QD, "query"), _unit_rows(gallery_GD, "gallery")
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(f"query embeddings have {query.shape[1]} components, gallery embeddings {gallery.shape[1]}")
    rows = max(1, BLOCK_FLOATS // max(1, len(gallery)))
    blocks = (1 - query[start : start + rows] @ gallery.T for start in range(0, len(query), rows))
    labels = _Labels.check(query_pids, gallery_pids, query_camids, gallery_camids, len(query), len(gallery))
    return _score(blocks, labels, max_rank)


def rank_scores_from_distances(
    distance_QG: ArrayLike,
    query_pids: ArrayLike,
    gallery_pids: ArrayLike,
    query_camids: ArrayLike,
    gallery_camids: ArrayLike,
    max_rank: int = 50,
) -> RankingScores:
    """Scores of given distances under Market-1501's rule (Zheng et al., ICCV 2015, section 5).

    For each query: gallery items of the same person and the same camera are ignored, and so is junk
    (pid -1). Distractors (pid 0) match nobody but do take ranks. Equal distances rank in gallery order.

    Args:
        distance_QG: lower is closer; (Q, G).
        query_pids: (Q,), from 1 upwards.
        gallery_pids: (G,), -1 junk, 0 distractor.
        query_camids: (Q,).
        gallery_camids: (G,).
        max_rank: K, the length of the CMC; shortened to G.

    Raises:
        ValueError: shapes that do not belong together, distances that are no numbers, or a query with pid
            0 or -1 (labels that count from 0 would lose their first person).
    """
    distance = np.asarray(distance_QG)
    if distance.dtype != np.float32:
        distance = distance.astype(np.float64)
    if distance.ndim != 2:
        raise ValueError(f"distances of shape {distance.shape} instead of (queries, gallery)")
    labels = _Labels.check(query_pids, gallery_pids, query_camids, gallery_camids, *distance.shape)
    return _score(iter([distance]), labels, max_rank)


@dataclass(frozen=True)
class _Labels:
    query_pids: Ints
    gallery_pids: Ints
    query_camids: Ints
    gallery_camids: Ints

    @classmethod
    def check(
        cls,
        query_pids: ArrayLike,
        gallery_pids: ArrayLike,
        query_camids: ArrayLike,
        gallery_camids: ArrayLike,
        num_queries: int,
        num_gallery: int,
    ) -> "_Labels":
        given: dict[str, tuple[ArrayLike, int]] = {
            "query_pids": (query_pids, num_queries),
            "gallery_pids": (gallery_pids, num_gallery),
            "query_camids": (query_camids, num_queries),
            "gallery_camids": (gallery_camids, num_gallery),
        }
        arrays = {}
        for name, (values, length) in given.items():
            array = np.asarray(values)
            if array.shape != (length,) or (length and array.dtype.kind not in "iu"):
                raise ValueError(f"{name} must be {length} whole numbers, not {array.dtype} of shape {array.shape}")
            arrays[name] = array.astype(np.int64)
        nobody = np.flatnonzero(arrays["query_pids"] <= DISTRACTOR_PID)
        if len(nobody):
            raise ValueError(
                f"{len(nobody)} queries have pid 0 or less (the first is number {nobody[0]}), which in Market-1501's "
                "rule is nobody; number people from 1"
            )
        return cls(**arrays)


def _unit_rows(embeddings: ArrayLike, name: str) -> Floats:
    array = np.asarray(embeddings, dtype=np.float32)
    if array.ndim != 2:
        raise ValueError(f"{name} embeddings of shape {array.shape} instead of (number, components)")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} embeddings hold values that are not finite")
    lengths = np.linalg.norm(array, axis=1, keepdims=True)
    return array / np.maximum(lengths, np.finfo(np.float32).tiny)


def _score(blocks: Iterator[Floats], labels: _Labels, max_rank: int) -> RankingScores:
    if max_rank < 1:
        raise ValueError(f"max_rank {max_rank} must be at least 1")
    num_ranks = max(1, min(max_rank, len(labels.gallery_pids)))
    num_queries = len(labels.query_pids)
    average_precision, inverse_penalty, first_rank = (np.full(num_queries, np.nan) for _ in range(3))
    unmatched: list[int] = []
    q = 0
    for block in blocks:
        if np.isnan(block).any():
            raise ValueError("distances hold NaN")
        for distance_G in block:
            ranks = match_ranks(distance_G, *_relations(labels, q))
            if len(ranks):
                average_precision[q] = np.mean(np.arange(1, len(ranks) + 1) / ranks)
                inverse_penalty[q] = len(ranks) / ranks[-1]
                first_rank[q] = ranks[0]
            else:
                unmatched.append(q)
            q += 1
    scored = ~np.isnan(first_rank)
    any_scored = bool(scored.any())
    found = np.bincount(first_rank[scored].astype(np.int64), minlength=num_ranks + 1)[1 : num_ranks + 1]
    return RankingScores(
        cmc=np.cumsum(found) / scored.sum() if any_scored else np.full(num_ranks, np.nan),
        mean_ap=float(average_precision[scored].mean()) if any_scored else float("nan"),
        mean_inp=float(inverse_penalty[scored].mean()) if any_scored else float("nan"),
        ap_per_query=average_precision,
        inp_per_query=inverse_penalty,
        first_rank_per_query=first_rank,
        unmatched=tuple(unmatched),
        num_gallery=len(labels.gallery_pids),
    )


def _relations(labels: _Labels, q: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Of query ``q``: which gallery items are matches, which are ignored."""
    same_pid_G = labels.gallery_pids == labels.query_pids[q]
    same_camid_G = labels.gallery_camids == labels.query_camids[q]
    ignored_G = (same_pid_G & same_camid_G) | (labels.gallery_pids == JUNK_PID)  # same camera proves nothing
    return same_pid_G & ~ignored_G, ignored_G


def match_ranks(distance_G: Floats, match_G: NDArray[np.bool_], ignored_G: NDArray[np.bool_]) -> Ints:
    """Ranks (from 1, increasing) of the matches of one query; shape (P,).

    A match's rank is one more than the number of items before it: the closer ones, and the equally
    close ones that stand earlier in the gallery. Counting them needs a sort of values, not of indices.
    """
    positions = np.flatnonzero(match_G)
    if not len(positions):
        return np.empty(0, dtype=np.int64)
    kept = distance_G[~ignored_G]
    wanted = distance_G[positions]
    ordered = np.sort(kept)
    ranks = np.searchsorted(ordered, wanted, side="left").astype(np.int64)
    ties = np.searchsorted(ordered, wanted, side="right") - ranks > 1
    for i in np.flatnonzero(ties):
        earlier = slice(0, positions[i])
        ranks[i] += np.count_nonzero((distance_G[earlier] == wanted[i]) & ~ignored_G[earlier])
    return np.sort(ranks) + 1


def summarize(scores: RankingScores, ranks: Sequence[int] = (1, 5, 10, 20)) -> dict[str, float | None]:
    """The figures that papers quote, as fractions; None where no query has a match."""
    values = {"mAP": scores.mean_ap, "mINP": scores.mean_inp} | {f"rank-{k}": scores.rank(k) for k in ranks}
    return {name: None if np.isnan(value) else float(value) for name, value in values.items()}
