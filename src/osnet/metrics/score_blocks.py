"""Scores of query-gallery pairs in blocks, for thresholds and histograms.

A score is the cosine, or minus the squared Euclidean distance; higher is closer. Pairs follow Market-1501's rule: the
same person in the same camera and junk are left out. All other pairs count, also different people in one camera.

Shapes: Q queries, G gallery items, D components of an embedding, R x C a block, M matches in a block.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from osnet.metrics.matching_rules import Ints, Labels
from osnet.metrics.rank_counting import Distance, Floats, Vectors, hide_pairs


@dataclass(frozen=True)
class ScoredBlock:
    """Scores of consecutive queries with some gallery items; same-person pairs are separate."""

    first: int
    """Index of the query in row 0."""
    columns_C: Ints
    """(C,): gallery indices, increasing."""
    different_RC: Floats
    """(R, C): scores of different people; -inf for pairs of the same person. The next block overwrites it."""
    queries: Ints
    """(M,): query index of each match in the block."""
    items: Ints
    """(M,): gallery index of each match."""
    same: Floats
    """(M,): score of each match."""


class ScoredPairs:
    """Embeddings with labels, scored block by block.

    Args:
        query_QD: (Q, D) query embeddings, converted to float32.
        gallery_GD: (G, D) gallery embeddings.
        labels: query pids, gallery pids, query camids, gallery camids.
        distance: ``cosine`` (embeddings need not have length 1) or ``euclidean``.

    Raises:
        ValueError: as for ``rank_scores``.
    """

    def __init__(
        self, query_QD: ArrayLike, gallery_GD: ArrayLike, labels: Sequence[ArrayLike], distance: Distance
    ) -> None:
        self.vectors = Vectors(query_QD, gallery_GD, distance)
        query_pids, gallery_pids, query_camids, gallery_camids = labels
        sizes = len(self.vectors.query_QD), len(self.vectors.gallery_GD)
        self.labels = Labels.check(query_pids, gallery_pids, query_camids, gallery_camids, *sizes)
        self.same_person_pairs = self.labels.person_pairs()
        self.matches, _ = self.labels.same_person()
        self.match_queries = self.matches.queries

    def blocks(self) -> Iterator[ScoredBlock]:
        """All pairs of queries with gallery items that are not junk, each scored once."""
        for block in self.vectors.blocks(self.labels.counted):
            scores_RC, first, columns_C = block.closeness_RC, block.first, block.columns_C
            if self.vectors.euclidean:
                lengths = self.vectors.query_lengths[first : first + len(scores_RC), None]
                scores_RC *= 2
                scores_RC -= (lengths**2).astype(np.float32)
            span = slice(self.matches.starts[first], self.matches.starts[first + len(scores_RC)])
            queries, items = self.match_queries[span], self.matches.items[span]
            places = np.minimum(np.searchsorted(columns_C, items), len(columns_C) - 1)
            here = columns_C[places] == items
            queries, items, places = queries[here], items[here], places[here]
            same = scores_RC[queries - first, places]
            hide_pairs(scores_RC, first, self.same_person_pairs.starts, self.same_person_pairs.items, columns_C)
            yield ScoredBlock(first, columns_C, scores_RC, queries, items, same)

    def best(self) -> tuple[Floats, NDArray[np.bool_], Floats]:
        """(Q,) each: best score of another person, whether the best match ranks first, best score of a match.

        Scores are -inf where there is no such item. Ties keep the gallery's order.
        """
        num_queries, nowhere = len(self.labels.query_pids), len(self.labels.gallery_pids)
        other_Q, mate_Q = (np.full(num_queries, -np.inf, dtype=np.float32) for _ in range(2))
        other_place, mate_place = (np.full(num_queries, nowhere, dtype=np.int64) for _ in range(2))
        for block in self.blocks():
            rows = slice(block.first, block.first + len(block.different_RC))
            place = block.different_RC.argmax(axis=1)  # the first of equal scores
            best = block.different_RC[np.arange(len(place)), place]
            better = best > other_Q[rows]
            other_Q[rows][better], other_place[rows][better] = best[better], block.columns_C[place[better]]
            for q, item, score in zip(block.queries.tolist(), block.items.tolist(), block.same, strict=True):
                if score > mate_Q[q]:
                    mate_Q[q], mate_place[q] = score, item
        found = (mate_Q > other_Q) | ((mate_Q == other_Q) & (mate_place < other_place))
        return other_Q, found & (mate_place < nowhere), mate_Q
