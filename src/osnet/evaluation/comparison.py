"""Compare several networks on one data set: scores over all queries and by group, and intervals of the differences."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osnet.errors import DataError
from osnet.metrics.bootstrap import Interval, cluster_interval
from osnet.metrics.ranking import rank_scores
from osnet.synthetic.generate import PairKind, annotations_of, read_pairs
from osnet.types import ReidDataset

METRICS = ("rank-1", "rank-5", "mAP", "mINP")
CURVE_RANKS = 20
Indices = NDArray[np.intp]

# There is no group for the pairs of kind "small cue", which differ in the logo only. Networks of the demo's size cannot
# see the logo, so their scores on these pairs are those of guessing.
PAIR_GROUPS: dict[PairKind, str] = {
    "overall look": "two people with the same logo, bag and hair in other clothes; searched among these two in other "
    "cameras",
}
"""Kinds of pairs of generated people that form a group, with a description."""
HIDDEN_STEPS = (
    (0.0, 0.05, "in full view", "less than 5 % of the person hidden in the query"),
    (0.05, 0.25, "partly hidden", "5 to 25 % of the person hidden in the query"),
    (0.25, 1.01, "much hidden", "25 % of the person or more hidden in the query"),
)
"""Groups by occlusion: lower and upper bound of the hidden share of the person, name, description."""


@dataclass(frozen=True)
class Entrant:
    """One of the compared networks: its embeddings of a data set's query and gallery."""

    name: str
    query: NDArray[np.float32]
    """(Q, D), one row per query."""
    gallery: NDArray[np.float32]
    """(G, D), one row per gallery item."""


@dataclass(frozen=True)
class Group:
    """A group of queries, with the gallery items among which each query is searched."""

    name: str
    about: str
    """Description of the group."""
    parts: tuple[tuple[Indices, Indices], ...]
    """Indices of queries, and of the gallery items among which these are searched. A query is in one part only."""
    clusters: tuple[int, ...] | None = None
    """A cluster for each part. Bootstrap intervals resample clusters. None: they resample query identities."""


@dataclass(frozen=True)
class Difference:
    """The score of one network minus the score of another, as a fraction, over the queries of a group."""

    first: str
    second: str
    metric: str
    """``mAP`` or ``rank-1``."""
    interval: Interval
    """The difference with its 95 % interval."""

    def __str__(self) -> str:
        i = self.interval
        points = f"{100 * i.mean:+.1f} points [{100 * i.low:+.1f}, {100 * i.high:+.1f}]"
        if not i.excludes_zero:
            return f"{points}: no difference shown"
        return f"{points}: these weights of {self.first if i.mean > 0 else self.second} score higher"


@dataclass(frozen=True)
class GroupScores:
    """Scores of all networks on a group of queries. Scores are fractions."""

    name: str
    about: str
    """Description of the group."""
    num_queries: int
    """Number of queries with a match."""
    num_identities: int
    """Number of identities of these queries."""
    scores: dict[str, dict[str, float]]
    """Score by network, then by metric (``METRICS``)."""
    cmc: dict[str, list[float]]
    """By network: share of queries with a match among the first k hits, for k = 1..20."""
    differences: tuple[Difference, ...]
    """Differences of the networks that were to be compared."""


@dataclass(frozen=True)
class Comparison:
    """The result of ``compare``. ``print`` shows a table."""

    dataset: str
    """Name of the data set."""
    entrants: tuple[str, ...]
    """Names of the networks."""
    groups: tuple[GroupScores, ...]
    """Scores by group. The first group contains all queries."""
    ap_per_query: dict[str, NDArray[np.float64]]
    """By network: average precision (Q,) of each query of the data set; NaN without a match."""

    def difference(self, first: str, second: str, metric: str = "mAP", group: int = 0) -> Difference:
        """The difference between two networks in a group.

        Raises:
            DataError: the pair was not among the contrasts of ``compare``.
        """
        for difference in self.groups[group].differences:
            if (difference.first, difference.second, difference.metric) == (first, second, metric):
                return difference
        raise DataError(
            f"{first} was not compared with {second} by {metric}; pass ({first!r}, {second!r}) in the contrasts of "
            "compare()"
        )

    def to_json(self) -> dict[str, Any]:
        """All fields but ``ap_per_query``, as JSON values."""
        return {"dataset": self.dataset, "entrants": self.entrants, "groups": [asdict(g) for g in self.groups]}

    def __str__(self) -> str:
        width = max(map(len, self.entrants))
        lines: list[str] = []
        for group in self.groups:
            people = f"{group.num_queries:,} queries of {group.num_identities:,} people"
            lines += ["", f"{group.name}: {group.about} ({people})"]
            lines.append(" " * width + "".join(f"{metric:>9}" for metric in METRICS))
            for name, scores in group.scores.items():
                lines.append(f"{name:<{width}}" + "".join(f"{100 * scores[metric]:8.1f}%" for metric in METRICS))
            for d in group.differences:
                if d.metric == "mAP" and (group is self.groups[0] or d.first == group.differences[0].first):
                    lines.append(f"  {d.first} - {d.second}, mAP: {d}")
        return "\n".join(lines[1:])


def compare(
    dataset: ReidDataset,
    entrants: Sequence[Entrant],
    contrasts: Iterable[tuple[str, str]] = (),
    groups: Sequence[Group] = (),
) -> Comparison:
    """Score networks over all queries and over each group, by Market-1501's rule and cosine distance.

    Args:
        dataset: data set to which the embeddings belong.
        entrants: at least one network with its embeddings. Names must differ.
        contrasts: pairs of names to compare. Differences are in mAP and rank-1, with a 95 % interval over query
            identities.
        groups: groups of queries to score by themselves. Groups without queries are left out.

    Raises:
        DataError: there is no network, names are equal, the number of embeddings differs from the number of crops, a
            contrast has an unknown name, or no query of a group has a match.
    """
    by_name = {entrant.name: entrant for entrant in entrants}
    if not entrants or len(by_name) != len(entrants):
        names = ", ".join(entrant.name for entrant in entrants) or "none"
        raise DataError(f"the networks to compare are {names}; give at least one, with different names")
    for entrant in entrants:
        rows = (len(entrant.query), len(entrant.gallery))
        if rows != (len(dataset.query), len(dataset.gallery)):
            raise DataError(
                f"{entrant.name} has {rows} embeddings for {len(dataset.query)} queries and "
                f"{len(dataset.gallery)} gallery crops; there must be one embedding per crop"
            )
    pairs = list(contrasts)
    if unknown := {name for pair in pairs for name in pair} - set(by_name):
        raise DataError(
            f"contrasts contain the unknown name {', '.join(sorted(unknown))}; choose from {', '.join(by_name)}"
        )
    all_queries = Group("all", "every query", ((np.arange(len(dataset.query)), np.arange(len(dataset.gallery))),))
    tables = {
        group.name: {e.name: _rank(dataset, e, group) for e in entrants}
        for group in (all_queries, *groups)
        if any(len(queries) for queries, _ in group.parts)
    }
    chosen = [group for group in (all_queries, *groups) if group.name in tables]
    return Comparison(
        dataset=dataset.name,
        entrants=tuple(by_name),
        groups=tuple(_score_group(dataset, group, tables[group.name], pairs) for group in chosen),
        ap_per_query={name: table["mAP"] for name, table in tables["all"].items()},
    )


def _rank(dataset: ReidDataset, entrant: Entrant, group: Group) -> dict[str, NDArray[np.float64]]:
    """AP, INP (inverse negative penalty) and rank of the first match for each query of the group, part by part."""
    query_pids, query_camids = np.array(dataset.query.pids), np.array(dataset.query.camids)
    gallery_pids, gallery_camids = np.array(dataset.gallery.pids), np.array(dataset.gallery.camids)
    ap, inp, first = [], [], []
    for q, g in group.parts:
        scores = rank_scores(
            entrant.query[q],
            entrant.gallery[g],
            query_pids[q],
            gallery_pids[g],
            query_camids[q],
            gallery_camids[g],
        )
        ap.append(scores.ap_per_query)
        inp.append(scores.inp_per_query)
        first.append(scores.first_rank_per_query)
    return {"mAP": np.concatenate(ap), "mINP": np.concatenate(inp), "first": np.concatenate(first)}


def _score_group(
    dataset: ReidDataset, group: Group, table: dict[str, dict[str, NDArray[np.float64]]], pairs: list[tuple[str, str]]
) -> GroupScores:
    queries = np.concatenate([q for q, _ in group.parts])
    pids = np.array(dataset.query.pids)[queries]
    clusters = pids
    if group.clusters is not None:
        clusters = np.repeat(group.clusters, [len(q) for q, _ in group.parts])
    values = {name: _per_query(columns) for name, columns in table.items()}
    matched = ~np.isnan(next(iter(values.values()))["mAP"])
    if not matched.any():
        raise DataError(f"no query of the group {group.name!r} has a match in another camera")
    differences = [
        Difference(a, b, metric, cluster_interval(values[a][metric] - values[b][metric], clusters))
        for a, b in pairs
        for metric in ("mAP", "rank-1")
        if len(np.unique(clusters[matched])) >= 2
    ]
    ranks = range(1, CURVE_RANKS + 1)
    return GroupScores(
        group.name,
        group.about,
        int(matched.sum()),
        len(np.unique(pids[matched])),
        {name: {m: float(np.nanmean(columns[m])) for m in METRICS} for name, columns in values.items()},
        {name: [float(np.mean(columns["first"][matched] <= k)) for k in ranks] for name, columns in table.items()},
        tuple(differences),
    )


def _per_query(columns: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    first = columns["first"]
    by_rank = {f"rank-{k}": np.where(np.isnan(first), np.nan, first <= k) for k in (1, 5)}
    return {"mAP": columns["mAP"], "mINP": columns["mINP"], **by_rank}


def group_generated(dataset: ReidDataset) -> list[Group]:
    """Group the queries of a generated data set by kind of pair, and by the hidden share of the person.

    The two people of a pair differ in one kind of cue only. A query of a pair is searched among the images of these two
    people in other cameras, so the score depends on that cue alone. Guessing has a rank-1 of 50 %.

    Raises:
        DataError: the data set is not a generated one, or a query was not generated with it.
    """
    hidden = np.array([note.hidden for note in annotations_of(dataset.root, dataset.query.paths)])
    whole_gallery = np.arange(len(dataset.gallery))
    groups = [_group_pairs(dataset, kind) for kind in PAIR_GROUPS]
    for low, high, name, about in HIDDEN_STEPS:
        groups.append(Group(name, about, ((np.flatnonzero((hidden >= low) & (hidden < high)), whole_gallery),)))
    return groups


def _group_pairs(dataset: ReidDataset, kind: PairKind) -> Group:
    query_pids, query_camids = np.array(dataset.query.pids), np.array(dataset.query.camids)
    gallery_pids, gallery_camids = np.array(dataset.gallery.pids), np.array(dataset.gallery.camids)
    parts, clusters = [], []
    for a, b, of_kind in read_pairs(dataset.root):
        if of_kind != kind:
            continue
        for camid in np.unique(query_camids):
            queries = np.flatnonzero(np.isin(query_pids, (a, b)) & (query_camids == camid))
            if len(queries):
                in_other_cameras = np.isin(gallery_pids, (a, b)) & (gallery_camids != camid)
                parts.append((queries, np.flatnonzero(in_other_cameras)))
                clusters.append(a)
    return Group(kind, PAIR_GROUPS[kind], tuple(parts), tuple(clusters))
