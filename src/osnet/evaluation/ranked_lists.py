"""Ranked lists, first hits and best matches of one network's embeddings, and the choice of queries to show.

Matches and ignored items follow Market-1501's rule, as in ``metrics/ranking.py``.
Shapes: Q queries, G gallery items, D embedding size.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from osnet.errors import DataError
from osnet.metrics.distance_blocks import block_starts
from osnet.metrics.matching_rules import ignored_items
from osnet.metrics.rank_counting import BLOCK_FLOATS
from osnet.metrics.ranking import RankingScores, rank_scores
from osnet.types import DISTRACTOR_PID, JUNK_PID, Crop, Hit, Item, RankedList, ReidDataset

Ints = NDArray[np.intp]


class Rankings:
    """Scores and ranked lists of one network on a data set. Distances are cosine distances.

    Args:
        dataset: query and gallery split that the embeddings belong to.
        query_QD: query embeddings, of any length (norm).
        gallery_GD: gallery embeddings.

    Raises:
        DataError: the number of embeddings differs from the number of crops.
    """

    def __init__(self, dataset: ReidDataset, query_QD: ArrayLike, gallery_GD: ArrayLike) -> None:
        self.dataset = dataset
        self.query, self.gallery = _unit(query_QD), _unit(gallery_GD)
        rows = len(self.query), len(self.gallery)
        if rows != (len(dataset.query), len(dataset.gallery)):
            raise DataError(
                f"{rows[0]} query and {rows[1]} gallery embeddings for {len(dataset.query)} queries and "
                f"{len(dataset.gallery)} gallery crops; there must be one embedding per crop"
            )
        self.pids_Q, self.camids_Q = np.array(dataset.query.pids), np.array(dataset.query.camids)
        self.pids_G, self.camids_G = np.array(dataset.gallery.pids), np.array(dataset.gallery.camids)
        self.scores: RankingScores = rank_scores(
            query_QD, gallery_GD, self.pids_Q, self.pids_G, self.camids_Q, self.camids_G
        )
        self.first_hit_Q, self.best_match_Q = self._find_first()

    def _find_first(self) -> tuple[Ints, Ints]:
        """(Q,) each: gallery index of the first hit, and of the best-scored match; -1 if there is none.

        ``scores`` decides whether the first hit is a match, so that both agree where distances are equal.
        """
        first, best = np.full(len(self.query), -1, dtype=np.intp), np.full(len(self.query), -1, dtype=np.intp)
        num_rows = max(1, BLOCK_FLOATS // max(1, len(self.gallery)))
        for start, stop in block_starts(len(self.query), len(self.gallery), num_rows):
            block = slice(start, stop)
            distance = 1 - self.query[block] @ self.gallery.T
            same_person = self.pids_Q[block, None] == self.pids_G
            ignored = self._ignored(block)
            matches = np.where(same_person & ~ignored, distance, np.inf)
            best[block] = np.where(np.isinf(matches).all(1), -1, matches.argmin(1))
            others = np.where(same_person | ignored, np.inf, distance)
            nearest = np.where(np.isinf(others).all(1), -1, others.argmin(1))
            first[block] = np.where(self.scores.first_rank_per_query[block] == 1, best[block], nearest)
        return first, best

    def _ignored(self, queries: slice) -> NDArray[np.bool_]:
        return ignored_items(self.pids_Q[queries], self.pids_G, self.camids_Q[queries], self.camids_G)

    @property
    def failed(self) -> Ints:
        """Queries that have a match but whose first hit is another person, lowest average precision first."""
        ap = self.scores.ap_per_query
        matched = ~np.isnan(ap) & (self.first_hit_Q >= 0)
        places = np.flatnonzero(matched & (self.pids_G[self.first_hit_Q] != self.pids_Q))
        return places[np.argsort(ap[places], kind="stable")]

    def list_hits(self, q: int, top: int, *, with_ignored: bool = False) -> RankedList:
        """The ``top`` closest gallery items of query ``q``; equal distances keep the gallery's order.

        With ``with_ignored``, items that the rule ignores are listed too, with rank 0.
        """
        distance = 1 - self.query[q] @ self.gallery.T
        crop = self.dataset.query.crops[q]
        ignored = self._ignored(slice(q, q + 1))[0]
        if not with_ignored:
            distance = np.where(ignored, np.inf, distance)
        hits: list[Hit] = []
        rank = 0
        for g in np.argsort(distance, kind="stable")[:top]:
            if np.isinf(distance[g]):
                break
            rank += not ignored[g]
            score = float(1 - distance[g])
            hits.append(Hit(0 if ignored[g] else rank, score, _item(self.dataset.gallery.crops[int(g)])))
        unranked = frozenset(hit.item.source for hit in hits if hit.rank == 0)
        return RankedList(crop.path, hits, _name(crop), unranked)

    def find_next_person(self, q: int) -> Hit | None:
        """The closest gallery item of a person other than the first hit's, with rank 0; None if there is none."""
        if self.first_hit_Q[q] < 0:
            return None
        distance = 1 - self.query[q] @ self.gallery.T
        same = self.pids_G == self.pids_G[self.first_hit_Q[q]]
        distance = np.where(same | self._ignored(slice(q, q + 1))[0], np.inf, distance)
        g = int(distance.argmin())
        return None if np.isinf(distance[g]) else Hit(0, float(1 - distance[g]), _item(self.dataset.gallery.crops[g]))

    def camera_pairs(self) -> dict[tuple[int, int], tuple[float, int]]:
        """Rank-1 per pair of cameras: (query's camid, gallery's camid) -> (rank-1 as a fraction, number of queries).

        Each search is limited to the gallery items of that one camera. Only queries whose person appears in it count.
        Unknown cameras (camid below 1) are left out.
        """
        tables: dict[tuple[int, int], tuple[float, int]] = {}
        for other in np.unique(self.camids_G[self.camids_G > 0]).tolist():
            inside = np.flatnonzero((self.camids_G == other) & (self.pids_G != JUNK_PID))
            for camid in np.unique(self.camids_Q[self.camids_Q > 0]).tolist():
                queries = np.flatnonzero((self.camids_Q == camid) & np.isin(self.pids_Q, self.pids_G[inside]))
                if camid == other or not len(queries):
                    continue
                best = (1 - self.query[queries] @ self.gallery[inside].T).argmin(1)
                right = self.pids_G[inside][best] == self.pids_Q[queries]
                tables[camid, other] = float(right.mean()), len(queries)
        return tables


def pick_queries(ap: NDArray[np.float64], places: Mapping[str, float]) -> dict[str, int]:
    """Choose queries by their position when sorted by average precision. A query is chosen once at most.

    Args:
        ap: (Q,), average precision; NaN for a query without a match.
        places: title -> position, from 0 (highest average precision) to 1 (lowest).

    Returns:
        Title -> index of the query.

    Raises:
        DataError: no query has a match.
    """
    order = [int(i) for i in np.argsort(-ap, kind="stable") if not np.isnan(ap[i])]
    if not order:
        raise DataError("no query has a match in another camera")
    picked: dict[str, int] = {}
    for title, share in places.items():
        index = order[round(share * (len(order) - 1))]
        if index not in picked.values():
            picked[title] = index
    return picked


def sample_queries(ap: NDArray[np.float64], number: int, exclude: Sequence[int], seed: int = 0) -> list[int]:
    """Draw up to ``number`` queries at random, in increasing order.

    Queries without a match (``ap`` is NaN) and those in ``exclude`` are never drawn.
    """
    free = np.setdiff1d(np.flatnonzero(~np.isnan(ap)), np.asarray(exclude, dtype=np.intp))
    drawn = np.random.default_rng(seed).choice(free, min(number, len(free)), replace=False)
    return [int(i) for i in np.sort(drawn)]


def _item(crop: Crop) -> Item:
    return Item(str(crop.path), _name(crop), crop.camera or None, crop.time_s)


def _name(crop: Crop) -> str | None:
    return (crop.identity or str(crop.pid)) if crop.pid > DISTRACTOR_PID else None


def _unit(rows: ArrayLike) -> NDArray[np.float32]:
    array = np.asarray(rows, dtype=np.float32)
    return array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), np.finfo(np.float32).tiny)
