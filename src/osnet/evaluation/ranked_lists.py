"""Who was found for whom: ranked lists from vectors, which queries to show, and failures by what went wrong.

Market-1501's rule throughout, as in ``metrics/ranking.py``. Shapes: Q queries, G gallery, D embedding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from osnet.errors import DataError
from osnet.metrics.ranking import RankingScores, rank_scores
from osnet.types import DISTRACTOR_PID, JUNK_PID, Crop, Hit, Item, RankedList, ReidDataset

BLOCK_FLOATS = 1 << 22
MUCH_HIDDEN = 0.25
WEAK_PAIR = 0.10
"""A pair of cameras is weak if its rank-1 lies so far (in fractions) below that of all pairs."""

Ints = NDArray[np.intp]


class Rankings:
    """A data set with one network's vectors: scores, ranked lists, outcomes.

    Args:
        dataset: what the rows belong to.
        query_QD: embeddings of the queries; rows need not have length 1.
        gallery_GD: embeddings of the gallery.

    Raises:
        DataError: as many rows as images are needed.
    """

    def __init__(self, dataset: ReidDataset, query_QD: ArrayLike, gallery_GD: ArrayLike) -> None:
        self.dataset = dataset
        self.query, self.gallery = _unit(query_QD), _unit(gallery_GD)
        rows = len(self.query), len(self.gallery)
        if rows != (len(dataset.query), len(dataset.gallery)):
            raise DataError(
                f"{rows} vectors for {len(dataset.query)} queries and {len(dataset.gallery)} gallery images"
            )
        self.pids_Q, self.camids_Q = np.array(dataset.query.pids), np.array(dataset.query.camids)
        self.pids_G, self.camids_G = np.array(dataset.gallery.pids), np.array(dataset.gallery.camids)
        self.scores: RankingScores = rank_scores(
            query_QD, gallery_GD, self.pids_Q, self.pids_G, self.camids_Q, self.camids_G
        )
        self.first_G, self.best_match_G = self._find_first()

    def _find_first(self) -> tuple[Ints, Ints]:
        """Of each query: place of the first hit, and of the best right match (-1 if there is none).

        Whether the first hit is right is what the scores say, so that the two agree where distances are equal.
        """
        first, best = np.full(len(self.query), -1, dtype=np.intp), np.full(len(self.query), -1, dtype=np.intp)
        rows = max(1, BLOCK_FLOATS // max(1, len(self.gallery)))
        for start in range(0, len(self.query), rows):
            block = slice(start, start + rows)
            distance = 1 - self.query[block] @ self.gallery.T
            equal = self.pids_Q[block, None] == self.pids_G
            ignored = (equal & (self.camids_Q[block, None] == self.camids_G)) | (self.pids_G == JUNK_PID)
            right = np.where(equal & ~ignored, distance, np.inf)
            best[block] = np.where(np.isinf(right).all(1), -1, right.argmin(1))
            wrong = np.where(equal | ignored, np.inf, distance)
            nearest = np.where(np.isinf(wrong).all(1), -1, wrong.argmin(1))
            first[block] = np.where(self.scores.first_rank_per_query[block] == 1, best[block], nearest)
        return first, best

    @property
    def failed(self) -> Ints:
        """Queries with a match whose first hit is another person, the worst average precision first."""
        ap = self.scores.ap_per_query
        matched = ~np.isnan(ap) & (self.first_G >= 0)
        places = np.flatnonzero(matched & (self.pids_G[self.first_G] != self.pids_Q))
        return places[np.argsort(ap[places], kind="stable")]

    def list_hits(self, q: int, top: int, *, with_ignored: bool = False) -> RankedList:
        """The ``top`` best of a query, ties in gallery order; ignored items stand among them only if asked for."""
        distance = 1 - self.query[q] @ self.gallery.T
        crop = self.dataset.query.crops[q]
        ignored = (self.pids_G == crop.pid) & (self.camids_G == crop.camid) | (self.pids_G == JUNK_PID)
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
        unseen = frozenset(hit.item.source for hit in hits if hit.rank == 0)
        return RankedList(crop.path, hits, _name(crop), unseen)

    def find_next_person(self, q: int) -> Hit | None:
        """The best-scored picture of anybody but the first hit's person; None if there is nobody else."""
        if self.first_G[q] < 0:
            return None
        crop = self.dataset.query.crops[q]
        distance = 1 - self.query[q] @ self.gallery.T
        same = self.pids_G == self.pids_G[self.first_G[q]]
        ignored = (self.pids_G == crop.pid) & (self.camids_G == crop.camid) | (self.pids_G == JUNK_PID)
        distance = np.where(same | ignored, np.inf, distance)
        g = int(distance.argmin())
        return None if np.isinf(distance[g]) else Hit(0, float(1 - distance[g]), _item(self.dataset.gallery.crops[g]))

    def camera_pairs(self) -> dict[tuple[int, int], tuple[float, int]]:
        """Rank-1 by (query's camera, other camera), searching that camera alone, and over how many queries.

        A query counts for a camera where its person is in it. Unknown cameras (numbers below 1) are left out.
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


@dataclass(frozen=True)
class FailureGroup:
    """Queries that failed in one way, the worst first."""

    name: str
    about: str
    queries: tuple[int, ...]


def group_failures(
    rankings: Rankings,
    alike_at: float,
    hidden_Q: NDArray[np.float64] | None = None,
    twins: Mapping[int, frozenset[int]] | None = None,
) -> list[FailureGroup]:
    """Failures by what went wrong; each counts once, in the first group that fits.

    Occlusion: a quarter of the query's person or more is hidden (where that is known). Camera pair: the best right
    match lies in a camera whose rank-1 with the query's camera is 10 points or more below that of all pairs. Another
    person alike: a known twin, or a score that at least half of the right pairs do not reach. The rest: none of these.

    Args:
        rankings: of the network.
        alike_at: the median score of right pairs.
        hidden_Q: (Q,) share of the person that is hidden, if known.
        twins: who is made to look like whom, if known.
    """
    pairs = rankings.camera_pairs()
    total = sum(n for _, n in pairs.values())
    overall = sum(rank_1 * n for rank_1, n in pairs.values()) / total if total else 0.0
    weak = {pair for pair, (rank_1, _) in pairs.items() if rank_1 <= overall - WEAK_PAIR}
    names: dict[str, list[int]] = {"occlusion": [], "camera pair": [], "another person alike": [], "other": []}
    for q in rankings.failed.tolist():
        g, best = int(rankings.first_G[q]), int(rankings.best_match_G[q])
        score = float(rankings.query[q] @ rankings.gallery[g])
        wrong, pid = int(rankings.pids_G[g]), int(rankings.pids_Q[q])
        if hidden_Q is not None and hidden_Q[q] >= MUCH_HIDDEN:
            names["occlusion"].append(q)
        elif (int(rankings.camids_Q[q]), int(rankings.camids_G[best])) in weak:
            names["camera pair"].append(q)
        elif wrong in (twins or {}).get(pid, ()) or score >= alike_at:
            names["another person alike"].append(q)
        else:
            names["other"].append(q)
    known = "" if hidden_Q is not None else " How much of a person is hidden is not known here, so this stays empty."
    about = {
        "occlusion": f"a quarter or more of the query's person is hidden.{known}",
        "another person alike": "the first hit is somebody whose score with the query is one that half of the right "
        f"pairs do not reach ({alike_at:.3f})" + (", or who was made to look alike." if twins else "."),
        "camera pair": "the best right picture is in a camera whose rank-1 with the query's camera, searched alone, "
        f"is {100 * WEAK_PAIR:.0f} points or more below that of all pairs ({100 * overall:.0f} %).",
        "other": "none of these.",
    }
    return [FailureGroup(name, about[name], tuple(queries)) for name, queries in names.items()]


def pick_queries(ap: NDArray[np.float64], places: Mapping[str, float]) -> dict[str, int]:
    """Queries by their place in the order of average precision, 0 the best and 1 the worst; each once.

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


def draw_lots(ap: NDArray[np.float64], number: int, besides: Sequence[int], seed: int = 0) -> list[int]:
    """Up to ``number`` queries with a match, drawn at random, in order, none of ``besides``."""
    free = np.setdiff1d(np.flatnonzero(~np.isnan(ap)), np.asarray(besides, dtype=np.intp))
    drawn = np.random.default_rng(seed).choice(free, min(number, len(free)), replace=False)
    return [int(i) for i in np.sort(drawn)]


def _item(crop: Crop) -> Item:
    return Item(str(crop.path), _name(crop), crop.camera or None, crop.time_s)


def _name(crop: Crop) -> str | None:
    return (crop.identity or str(crop.pid)) if crop.pid > DISTRACTOR_PID else None


def _unit(rows: ArrayLike) -> NDArray[np.float32]:
    array = np.asarray(rows, dtype=np.float32)
    return array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), np.finfo(np.float32).tiny)
