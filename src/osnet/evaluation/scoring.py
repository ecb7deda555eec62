"""``Scoring``: how embeddings are scored. It passes as one object through all functions that evaluate."""

from dataclasses import dataclass, replace

from osnet.errors import DataError
from osnet.metrics.matching_rules import Rule
from osnet.metrics.rank_counting import Distance
from osnet.metrics.ranking import AveragePrecision

DEFAULT_RULE: Rule = "market1501"
DEFAULT_DISTANCE: Distance = "cosine"
DISTANCES: tuple[Distance, ...] = ("cosine", "euclidean")
RULES: dict[Rule, str] = {
    "market1501": "Market-1501: same person in the same camera ignored, junk ignored, distractors count",
    "cuhk03": "CUHK03: single gallery shot, CMC over 10 draws of one image of each person; same person in the same "
    "camera ignored; AP over the whole gallery",
}
"""Descriptions of the rules, as results print them."""
CONVENTIONS: dict[AveragePrecision, str] = {
    "precision": "AP is the mean of precision at each match",
    "trapezoid": "AP by the trapezoid rule, as in Market-1501's official script",
}
"""Descriptions of the ways to compute average precision, as results print them."""


@dataclass(frozen=True)
class Scoring:
    """How embeddings are scored: see ``rank_scores``.

    A rule of None is the benchmark's own, or market1501 for data that are no benchmark. The fields are also flags of
    ``osnet evaluate``, so their descriptions are the help text.

    Raises:
        DataError: a value is unknown, or the seed is out of range.
    """

    rule: Rule | None = None
    """market1501, or cuhk03 (one random gallery image of each identity, 10 draws); None: the benchmark's rule."""
    distance: Distance | None = "cosine"
    """cosine, or euclidean (without normalization); None: that of the weights' published scores, else cosine."""
    ap: AveragePrecision = "precision"
    """average precision: precision, as most papers compute it; trapezoid, as Market-1501's official script does."""
    seed: int = 0
    """seed of the random draws of the rule cuhk03. For random splits of a benchmark see --data of osnet evaluate."""
    decisions: bool = False
    """also compute TPR at fixed FPR and FNIR at fixed FPIR (open set), always by Market-1501's rule."""
    both_distances: bool = False
    """also compute the ranking scores by the other distance."""

    def __post_init__(self) -> None:
        for name, value, known in (
            ("rule", self.rule, (None, *RULES)),
            ("ap", self.ap, tuple(CONVENTIONS)),
            ("distance", self.distance, (None, *DISTANCES)),
        ):
            if value not in known:
                raise DataError(f"unknown {name} {value!r}; choose from {', '.join(filter(None, known))}")
        if not 0 <= self.seed < 2**32:
            raise DataError(f"seed {self.seed} is outside 0 to {2**32 - 1}")

    def resolve(self, rule: Rule = DEFAULT_RULE, distance: Distance | None = None) -> "Scoring":
        """Replace a rule or a distance of None by the given one (a distance of None by cosine)."""
        return replace(self, rule=self.rule or rule, distance=self.distance or distance or DEFAULT_DISTANCE)

    @property
    def chosen_rule(self) -> Rule:
        """The rule; market1501 for None."""
        return self.rule or DEFAULT_RULE

    @property
    def chosen_distance(self) -> Distance:
        """The distance; cosine for None."""
        return self.distance or DEFAULT_DISTANCE

    @property
    def needs_lengths(self) -> bool:
        """True if embeddings are needed as the network returns them, not normalized to length 1."""
        return self.both_distances or self.chosen_distance == "euclidean"

    def __str__(self) -> str:
        return (
            f"{RULES[self.chosen_rule]}; {self.chosen_distance} distance; ties in gallery order; {CONVENTIONS[self.ap]}"
        )


DEFAULT_SCORING = Scoring()
