"""Ranking scores: CMC, mean average precision (mAP), mean inverse negative penalty (mINP).

Pure functions of arrays. Shapes: Q queries, G gallery items, P matches of one query, D components of an embedding, K
ranks, R repeats.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from osnet.metrics import rank_counting
from osnet.metrics.matching_rules import NUM_REPEATS, Ints, Labels, Pairs, Rule, check_rule, draw_single_shot
from osnet.metrics.rank_counting import Distance, Vectors

Floats = NDArray[np.float32] | NDArray[np.float64]
Doubles = NDArray[np.float64]
Counter = Callable[[Pairs, Pairs, Ints], Ints]
"""(wanted pairs, ignored pairs, gallery items) -> (M,) number of those items that come before each wanted one."""
AveragePrecision = Literal["precision", "trapezoid"]
"""How the average precision of a query with matches i = 1..P at ranks r_i is computed.

``precision``: the mean of i / r_i, as in most papers' code. ``trapezoid``: the mean of (i / r_i + (i - 1) / (r_i - 1))
/ 2, where the second term is 1 for r_i = 1. This is the area under the precision-recall curve by the trapezoid rule, as
in the official script of Market-1501. It is never higher than ``precision``.
"""


@dataclass(frozen=True)
class RankingScores:
    """Ranking scores: means over the queries that have a match. NaN if no query has one."""

    cmc: Doubles
    """(K,): share of queries with a match among the first k hits, k = 1..K. Non-decreasing. Under CUHK03's rule: mean
    over the repeats, in each of which a query has one match."""
    mean_ap: float
    """In [0, 1]; see ``AveragePrecision``. Computed on the whole gallery under both rules."""
    mean_inp: float
    """In [0, 1]: mean of P / rank of the last match (Ye et al., arXiv:2001.04193, section 4.1)."""
    ap_per_query: Doubles
    """(Q,): NaN for a query without a match."""
    inp_per_query: Doubles
    """(Q,): NaN for a query without a match."""
    first_rank_per_query: Doubles
    """(Q,): rank of the first match in the whole gallery, at least 1; NaN for a query without a match."""
    unmatched: tuple[int, ...]
    """Indices of queries without a match; they do not enter the means."""
    num_gallery: int
    """G."""
    single_shot_ranks_RQ: Doubles | None = None
    """(R, Q), CUHK03's rule only: rank of the match in each repeat; NaN for a query without a match."""

    @property
    def num_scored(self) -> int:
        """Number of queries that have a match."""
        return len(self.ap_per_query) - len(self.unmatched)

    def rank(self, k: int) -> float:
        """CMC at rank ``k``; for ``k`` above G, its last value.

        Raises:
            ValueError: ``k`` is below 1 or above the number of computed ranks.
        """
        if k < 1:
            raise ValueError(f"rank {k} must be at least 1")
        if len(self.cmc) < min(k, self.num_gallery):
            raise ValueError(f"rank {k} was not computed; max_rank was {len(self.cmc)}")
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
        """Average the scores of single queries. The arguments are described at the fields; ``max_rank`` is K."""
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
    """Compute ranking scores from embeddings. The gallery is processed in blocks; ranks are exact.

    Besides the embeddings, this needs a copy of the queries, a few blocks of 16 MiB and about 50 bytes per pair of a
    query and a gallery item of the same person. Equal embeddings tie exactly, and ties keep the gallery's order. The
    labels are four arguments in the order that other re-ID code uses (Torchreid's ``evaluate_rank``). See
    ``rank_scores_from_distances`` for the rules, the other arguments and the errors.

    Args:
        query_QD: (Q, D) query embeddings, converted to float32.
        gallery_GD: (G, D) gallery embeddings.
        distance: ``cosine`` (embeddings need not have length 1) or ``euclidean``.
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
    """Compute ranking scores from a distance matrix under Market-1501's or CUHK03's rule.

    Market-1501 (Zheng et al., ICCV 2015, section 5): for each query, gallery items of the same person in the same
    camera are ignored, and so is junk (pid -1). Distractors (pid 0) match no query but take ranks. Equal distances keep
    the gallery's order.

    CUHK03 (Li et al., CVPR 2014, section 5), single gallery shot: of the items that Market-1501's rule keeps, one image
    per person is drawn at random. This is repeated 10 times, and CMC is the mean. Average precision and INP use the
    whole gallery, as in other libraries that report both. See ``matching_rules.draw_single_shot``.

    Args:
        distance_QG: (Q, G), lower is closer.
        query_pids: (Q,), at least 1.
        gallery_pids: (G,), -1 junk, 0 distractor.
        query_camids: (Q,).
        gallery_camids: (G,).
        max_rank: K, the length of the CMC curve; at most G.
        rule: ``market1501`` or ``cuhk03``.
        ap: convention for average precision; see ``AveragePrecision``.
        seed: seed of CUHK03's random galleries.

    Raises:
        ValueError: shapes do not agree, a distance is NaN, ``rule`` or ``ap`` is unknown, ``max_rank`` is below 1, or a
            query has pid 0 or less (with labels that start at 0, the first person would be taken for a distractor).
    """
    array = np.asarray(distance_QG)
    if array.dtype != np.float32:
        array = array.astype(np.float64, copy=False)
    if array.ndim != 2:
        raise ValueError(f"distances have shape {array.shape}; they must be (queries, gallery)")
    if any(np.isnan(row).any() for row in array):
        raise ValueError("distances contain NaN")
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
    """Split the queries into ranges with a bounded number of pairs; usually there is one range."""
    first, total = 0, 0
    for q, count in enumerate(counts.tolist()):
        if total + count > rank_counting.BLOCK_FLOATS and q > first:
            yield first, q
            first, total = q, 0
        total += count
    if first < len(counts):
        yield first, len(counts)


def _fill(ranks: Ints, matches: Pairs, ap: AveragePrecision, ap_out: Doubles, inp_out: Doubles, first: Doubles) -> None:
    """Write the scores of single queries, computed from the ranks of their matches, into the output arrays."""
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
    """(R, Q): rank of each query's drawn match in each random gallery; NaN for a query without a match."""
    same_person = _join(matches, ignored)  # the query's person appears only in the drawn match
    ranks_RQ = np.full((NUM_REPEATS, len(labels.query_pids)), np.nan)
    for repeat in range(NUM_REPEATS):
        gallery, own = draw_single_shot(labels, matches, seed, repeat)
        matched = own >= 0
        starts = np.concatenate([[0], np.cumsum(matched)]).astype(np.int64)
        ranks_RQ[repeat, matched] = 1 + count(Pairs(starts, own[matched]), same_person, gallery)
    return ranks_RQ


def _join(a: Pairs, b: Pairs) -> Pairs:
    queries, items = np.concatenate([a.queries, b.queries]), np.concatenate([a.items, b.items])
    return Pairs(a.starts + b.starts, items[np.lexsort((items, queries))])


class _MatrixCounter:
    """A ``Counter`` for a distance matrix: sorts each row's values and looks up the wanted ones."""

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
    """For each position, the number of kept items that are closer, or as close and earlier in the gallery."""
    if not len(positions):
        return np.empty(0, dtype=np.int64)
    wanted, ordered = distance_G[positions], np.sort(distance_G[kept_G])
    before = np.searchsorted(ordered, wanted, side="left").astype(np.int64)
    ties = (
        np.searchsorted(ordered, wanted, side="right") - before > kept_G[positions]
    )  # other items at the same distance
    for i in np.flatnonzero(ties):
        earlier = slice(0, positions[i])
        before[i] += np.count_nonzero((distance_G[earlier] == wanted[i]) & kept_G[earlier])
    return before


def summarize(scores: RankingScores, ranks: Sequence[int] = (1, 5, 10, 20)) -> dict[str, float | None]:
    """mAP, mINP and rank-k by name, as fractions; None if no query has a match."""
    values = {"mAP": scores.mean_ap, "mINP": scores.mean_inp} | {f"rank-{k}": scores.rank(k) for k in ranks}
    return {name: None if np.isnan(value) else float(value) for name, value in values.items()}
