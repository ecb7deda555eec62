"""Group failed queries by probable cause: occlusion, camera pair, a person who looks similar, other."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from osnet.evaluation.ranked_lists import Rankings

MIN_HIDDEN_SHARE = 0.25
"""A query counts as occluded if at least this share of the person is hidden."""
WEAK_PAIR_DROP = 0.10
"""A camera pair is weak if its rank-1 is at least this much (a fraction) below that of all pairs together."""


@dataclass(frozen=True)
class FailureGroup:
    """Failed queries with the same probable cause, lowest average precision first."""

    name: str
    about: str
    """One sentence for the report: when a query belongs to this group."""
    queries: tuple[int, ...]


def group_failures(
    rankings: Rankings,
    alike_at: float,
    hidden_Q: NDArray[np.float64] | None = None,
    twins: Mapping[int, frozenset[int]] | None = None,
) -> list[FailureGroup]:
    """Group the failed queries by cause. A query belongs to the first group whose condition it meets.

    1. Occlusion: at least 25 % of the query's person is hidden (only if ``hidden_Q`` is given).
    2. Camera pair: the best-scored match is in a camera whose rank-1 with the query's camera is at least 10 points
       below the rank-1 of all camera pairs.
    3. Another person alike: the first hit is a known twin, or its score is at least ``alike_at``.
    4. Other: none of these.

    Args:
        rankings: ranked lists of one network.
        alike_at: median score of the matching pairs, a cosine.
        hidden_Q: (Q,), share of each query's person that is hidden, in [0, 1]; None if unknown.
        twins: for each pid, the pids of the people made to look like it; None if unknown.
    """
    pairs = rankings.camera_pairs()
    total = sum(n for _, n in pairs.values())
    overall = sum(rank_1 * n for rank_1, n in pairs.values()) / total if total else 0.0
    weak = {pair for pair, (rank_1, _) in pairs.items() if rank_1 <= overall - WEAK_PAIR_DROP}
    names: dict[str, list[int]] = {"occlusion": [], "camera pair": [], "another person alike": [], "other": []}
    for q in rankings.failed.tolist():
        g, best = int(rankings.first_hit_Q[q]), int(rankings.best_match_Q[q])
        score = float(rankings.query[q] @ rankings.gallery[g])
        wrong, pid = int(rankings.pids_G[g]), int(rankings.pids_Q[q])
        if hidden_Q is not None and hidden_Q[q] >= MIN_HIDDEN_SHARE:
            names["occlusion"].append(q)
        elif (int(rankings.camids_Q[q]), int(rankings.camids_G[best])) in weak:
            names["camera pair"].append(q)
        elif wrong in (twins or {}).get(pid, ()) or score >= alike_at:
            names["another person alike"].append(q)
        else:
            names["other"].append(q)
    unknown = "" if hidden_Q is not None else " This data set does not record occlusion, so the group is empty."
    about = {
        "occlusion": f"at least {100 * MIN_HIDDEN_SHARE:.0f} % of the query's person is hidden.{unknown}",
        "another person alike": "the first hit is another person whose score reaches the median score of matching "
        f"pairs ({alike_at:.3f})" + (", or who was generated to look alike." if twins else "."),
        "camera pair": "the best-scored match is in a camera whose rank-1 with the query's camera, searched alone, is "
        f"at least {100 * WEAK_PAIR_DROP:.0f} points below that of all camera pairs ({100 * overall:.0f} %).",
        "other": "none of these.",
    }
    return [FailureGroup(name, about[name], tuple(queries)) for name, queries in names.items()]
