"""Ranking scores: CMC, mean average precision, mean inverse negative penalty.

Shapes: Q queries, G gallery, P true matches of one query, D embedding, R repeats. Pure functions of arrays.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from osnet.metrics import rank_counting as streaming
from osnet.metrics.matching_rules import NUM_REPEATS, Ints, Labels, Pairs, Rule, check_rule, draw_single_shot
from osnet.metrics.rank_counting import Distance, Vectors

Floats = NDArray[np.float32] | NDArray[np.float64]
Doubles = NDArray[np.float64]
Counter = Callable[[Pairs, Pairs, Ints], Ints]
"""(wanted pairs, ignored pairs, gallery items) -> how many of these items come before each wanted one."""
AveragePrecision = Literal["precision", "trapezoid"]
"""Two conventions of one query's average precision, with matches i = 1..P at the ranks r_i:

``precision``: the mean of i / r_i, as in most papers' code. ``trapezoid``: the mean of half the sum of i / r_i and
(i - 1) / (r_i - 1), which counts as 1 for r_i = 1, as in the official script of Market-1501 (the area under the
curve of precision over recall by the trapezoid rule). The second is never higher.
"""


@dataclass(frozen=True)
class RankingScores:
    """Averages over the queries that have a match. NaN where none has."""

    cmc: Doubles
    """(K,): share of queries whose first right match is among the best k, k = 1..K. Non-decreasing. By CUHK03's
    rule: the mean over its repeats, in each of which a query has one right match."""
    mean_ap: float
    """In [0, 1]; see ``AveragePrecision``. By either rule over the whole gallery, with all matches."""
    mean_inp: float
    """In [0, 1]. Of one query: P / rank of its last match (Ye et al., arXiv:2001.04193, section 4.1)."""
    ap_per_query: Doubles
    """(Q,): NaN for a query without a match."""
    inp_per_query: Doubles
    """(Q,): NaN for a query without a match."""
    first_rank_per_query: Doubles
    """(Q,): rank of the first match in the whole gallery, from 1; NaN for a query without a match."""
    unmatched: tuple[int, ...]
    """Queries without a match: not part of any average."""
    num_gallery: int
    """Items in the gallery."""
    single_shot_ranks_RQ: Doubles | None = None
    """CUHK03's rule only: the rank of the one right match in each repeat; NaN for a query without a match."""

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

    @classmethod
    def of_queries(
        cls,
        ap_per_query: Doubles,
        inp_per_query: Doubles,
        first_rank_per_query: Doubles,
        num_gallery: int,
        max_rank: int,
        single_shot_ranks_RQ: Doubles | None = None,
    ) -> "RankingScores":
        """The averages of what single queries got; the fields say what these are."""
        num_ranks = max(1, min(max_rank, num_gallery))
        scored = ~np.isnan(first_rank_per_query)
        shots = first_rank_per_query[None] if single_shot_ranks_RQ is None else single_shot_ranks_RQ
        ranks = shots[:, scored].astype(np.int64).ravel()
        found = np.bincount(ranks, minlength=num_ranks + 1)[1 : num_ranks + 1]
        some = bool(scored.any())
        return cls(
            cmc=np.cumsum(found) / len(ranks) if some else np.full(num_ranks, np.nan),
            mean_ap=float(ap_per_query[scored].mean()) if some else float("nan"),
            mean_inp=float(inp_per_query[scored].mean()) if some else float("nan"),
            ap_per_query=ap_per_query,
            inp_per_query=inp_per_query,
            first_rank_per_query=first_rank_per_query,
            unmatched=tuple(np.flatnonzero(~scored).tolist()),
            num_gallery=num_gallery,
            single_shot_ranks_RQ=single_shot_ranks_RQ,
        )


def rank_scores(
    query_QD: ArrayLike,
    gallery_GD: ArrayLike,
    query_pids: ArrayLike,
    gallery_pids: ArrayLike,
    query_camids: ArrayLike,
    gallery_camids: ArrayLike,
    max_rank: int = 50,
    *,
    distance: Distance = "cosine",
    rule: Rule = "market1501",
    ap: AveragePrecision = "precision",
    seed: int = 0,
) -> RankingScores:
    """Scores of embeddings; the gallery is streamed, and ranks are those of exact distances.

    Memory beyond the embeddings is a copy of the queries, a few blocks of 16 MiB and some 50 bytes per pair of a
    query and an image of the same person, whatever the size of the gallery. Equal vectors tie exactly, and ties rank
    in gallery order. See ``rank_scores_from_distances`` for the rules, the rest of the arguments and what is raised.

    Args:
        query_QD: embeddings of the queries, taken as float32.
        gallery_GD: embeddings of the gallery.
        distance: ``cosine``, where rows need not have length 1; or ``euclidean``.
    """
    vectors = Vectors(query_QD, gallery_GD, distance)
    num_queries, num_gallery = len(vectors.query_QD), len(vectors.gallery_GD)
    labels = Labels.check(query_pids, gallery_pids, query_camids, gallery_camids, num_queries, num_gallery)

    def counter(first: int, last: int) -> Counter:
        return vectors.of_queries(first, last).count_before

    return _score(counter, labels, max_rank, rule, ap, seed)


def rank_scores_from_distances(
    distance_QG: ArrayLike,
    query_pids: ArrayLike,
    gallery_pids: ArrayLike,
    query_camids: ArrayLike,
    gallery_camids: ArrayLike,
    max_rank: int = 50,
    *,
    rule: Rule = "market1501",
    ap: AveragePrecision = "precision",
    seed: int = 0,
) -> RankingScores:
    """Scores of given distances under Market-1501's rule or CUHK03's.

    Market-1501 (Zheng et al., ICCV 2015, section 5): for each query, gallery items of the same person and the same
    camera are ignored, and so is junk (pid -1). Distractors (pid 0) match nobody but do take ranks. Equal distances
    rank in gallery order.

    CUHK03 (Li et al., CVPR 2014, section 5), single gallery shot: what Market-1501's rule leaves is cut down to one
    image of each person, drawn at random, 10 times; CMC is the mean. Average precision and INP are those of the whole
    gallery, as in the peers that report both. See ``rules.draw_single_shot``.

    Args:
        distance_QG: lower is closer; (Q, G).
        query_pids: (Q,), from 1 upwards.
        gallery_pids: (G,), -1 junk, 0 distractor.
        query_camids: (Q,).
        gallery_camids: (G,).
        max_rank: K, the length of the CMC; shortened to G.
        rule: ``market1501`` or ``cuhk03``.
        ap: which average precision; see ``AveragePrecision``.
        seed: of CUHK03's draws.

    Raises:
        ValueError: shapes that do not belong together, distances that are no numbers, an unknown rule or convention,
            or a query with pid 0 or -1 (labels that count from 0 would lose their first person).
    """
    array = np.asarray(distance_QG)
    if array.dtype != np.float32:
        array = array.astype(np.float64)
    if array.ndim != 2:
        raise ValueError(f"distances of shape {array.shape} instead of (queries, gallery)")
    if any(np.isnan(row).any() for row in array):
        raise ValueError("distances hold NaN")
    labels = Labels.check(query_pids, gallery_pids, query_camids, gallery_camids, *array.shape)
    return _score(lambda first, last: _MatrixCounter(array[first:last]), labels, max_rank, rule, ap, seed)


def _score(
    counter: Callable[[int, int], Counter], labels: Labels, max_rank: int, rule: Rule, ap: AveragePrecision, seed: int
) -> RankingScores:
    if max_rank < 1:
        raise ValueError(f"max_rank {max_rank} must be at least 1")
    check_rule(rule)
    if ap not in get_args(AveragePrecision):
        raise ValueError(f"unknown ap {ap!r}; choose from {', '.join(get_args(AveragePrecision))}")
    num_queries, num_gallery = len(labels.query_pids), len(labels.gallery_pids)
    ap_per_query, inp_per_query, first_rank = (np.full(num_queries, np.nan) for _ in range(3))
    shots_RQ = np.full((NUM_REPEATS, num_queries), np.nan) if rule == "cuhk03" else None
    columns = labels.counted
    for first, last in _query_ranges(labels.num_same_person()):
        part = labels.of_queries(first, last)
        matches, ignored = part.same_person()
        if not len(matches.items):
            continue
        count = counter(first, last)
        ranks = 1 + count(matches, ignored, columns)
        _fill(ranks, matches, ap, ap_per_query[first:last], inp_per_query[first:last], first_rank[first:last])
        if shots_RQ is not None:
            shots_RQ[:, first:last] = _single_shot_ranks(count, part, matches, ignored, seed)
    return RankingScores.of_queries(ap_per_query, inp_per_query, first_rank, num_gallery, max_rank, shots_RQ)


def _query_ranges(counts: Ints) -> Iterator[tuple[int, int]]:
    """Ranges of queries with a bounded number of pairs; nearly always it is one."""
    first, total = 0, 0
    for q, count in enumerate(counts.tolist()):
        if total + count > streaming.BLOCK_FLOATS and q > first:
            yield first, q
            first, total = q, 0
        total += count
    if first < len(counts):
        yield first, len(counts)


def _fill(ranks: Ints, matches: Pairs, ap: AveragePrecision, ap_out: Doubles, inp_out: Doubles, first: Doubles) -> None:
    """Scores of single queries from the ranks of their matches."""
    queries = matches.queries
    ranks = ranks[np.lexsort((ranks, queries))]  # increasing within each query
    matched = np.flatnonzero(np.diff(matches.starts))
    starts, num_matches = matches.starts[matched], np.diff(matches.starts)[matched]
    number = np.arange(len(ranks)) - matches.starts[queries] + 1
    precision = number / ranks
    if ap == "trapezoid":
        before = np.where(ranks > 1, (number - 1) / np.maximum(ranks - 1, 1), 1.0)
        precision = (precision + before) / 2
    ap_out[matched] = np.add.reduceat(precision, starts) / num_matches
    inp_out[matched] = num_matches / ranks[starts + num_matches - 1]
    first[matched] = ranks[starts]


def _single_shot_ranks(count: Counter, labels: Labels, matches: Pairs, ignored: Pairs, seed: int) -> Doubles:
    """(R, Q): the rank of each query's one match among one image of each other person; NaN without a match."""
    everyone = _join(matches, ignored)  # of the query's person only the drawn image is there
    ranks_RQ = np.full((NUM_REPEATS, len(labels.query_pids)), np.nan)
    for repeat in range(NUM_REPEATS):
        gallery, own = draw_single_shot(labels, matches, seed, repeat)
        matched = own >= 0
        starts = np.concatenate([[0], np.cumsum(matched)]).astype(np.int64)
        ranks_RQ[repeat, matched] = 1 + count(Pairs(starts, own[matched]), everyone, gallery)
    return ranks_RQ


def _join(a: Pairs, b: Pairs) -> Pairs:
    queries, items = np.concatenate([a.queries, b.queries]), np.concatenate([a.items, b.items])
    return Pairs(a.starts + b.starts, items[np.lexsort((items, queries))])


class _MatrixCounter:
    """Counts in rows of given distances, by sorting values (not indices) and looking up the wanted ones."""

    def __init__(self, distance_QG: Floats) -> None:
        self.distance_QG = distance_QG

    def __call__(self, wanted: Pairs, ignored: Pairs, columns: Ints) -> Ints:
        before_M: Ints = np.zeros(len(wanted.items), dtype=np.int64)
        for q, distance_G in enumerate(self.distance_QG):
            items = slice(wanted.starts[q], wanted.starts[q + 1])
            kept_G = np.zeros(len(distance_G), dtype=np.bool_)
            kept_G[columns] = True
            kept_G[ignored.items[ignored.starts[q] : ignored.starts[q + 1]]] = False
            before_M[items] = _count_row(distance_G, wanted.items[items], kept_G)
        return before_M


def _count_row(distance_G: Floats, positions: Ints, kept_G: NDArray[np.bool_]) -> Ints:
    """How many kept items come before each position: closer, or as close and earlier in the gallery."""
    if not len(positions):
        return np.empty(0, dtype=np.int64)
    wanted, ordered = distance_G[positions], np.sort(distance_G[kept_G])
    before = np.searchsorted(ordered, wanted, side="left").astype(np.int64)
    ties = np.searchsorted(ordered, wanted, side="right") - before > kept_G[positions]  # others than itself
    for i in np.flatnonzero(ties):
        earlier = slice(0, positions[i])
        before[i] += np.count_nonzero((distance_G[earlier] == wanted[i]) & kept_G[earlier])
    return before


def summarize(scores: RankingScores, ranks: Sequence[int] = (1, 5, 10, 20)) -> dict[str, float | None]:
    """The figures that papers quote, as fractions; None where no query has a match."""
    values = {"mAP": scores.mean_ap, "mINP": scores.mean_inp} | {f"rank-{k}": scores.rank(k) for k in ranks}
    return {name: None if np.isnan(value) else float(value) for name, value in values.items()}
