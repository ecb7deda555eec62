"""Several embeddings of one data set side by side: overall, by kind of query, with intervals for the differences."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osnet.errors import DataError
from osnet.metrics.bootstrap import Interval, cluster_interval
from osnet.metrics.ranking import rank_scores
from osnet.synthetic.generate import PairKind, read_annotations, read_pairs
from osnet.types import ReidDataset

METRICS = ("rank-1", "rank-5", "mAP", "mINP")
CURVE_RANKS = 20
Indices = NDArray[np.intp]

# The pairs of kind "small cue", who differ in the logo alone, are no group: networks of the size that the demo trains
# cannot tell the logo, trained or not, so the scores of all of them are those of guessing.
PAIR_GROUPS: dict[PairKind, str] = {
    "overall look": "two people with the same logo, bag and hair in other clothes; searched among these two in other "
    "cameras",
}
HIDDEN_STEPS = (
    (0.0, 0.05, "in full view", "less than 5 % of the person hidden in the query"),
    (0.05, 0.25, "partly hidden", "5 to 25 % of the person hidden in the query"),
    (0.25, 1.01, "much hidden", "25 % of the person or more hidden in the query"),
)


@dataclass(frozen=True)
class Entrant:
    """One side of a comparison: vectors of a data set's query and gallery, row by row."""

    name: str
    query: NDArray[np.float32]
    """(Q, D)."""
    gallery: NDArray[np.float32]
    """(G, D)."""


@dataclass(frozen=True)
class Group:
    """Some of the queries, each searched for in some of the gallery."""

    name: str
    about: str
    parts: tuple[tuple[Indices, Indices], ...]
    """Queries and the gallery items that they are searched among. Every query is in one part."""
    clusters: tuple[int, ...] | None = None
    """One number per part: intervals draw what has the same number together. Without, they draw people."""


@dataclass(frozen=True)
class Difference:
    """One entrant's score minus another's, in fractions, over the queries of a group."""

    first: str
    second: str
    metric: str
    interval: Interval

    def __str__(self) -> str:
        i = self.interval
        points = f"{100 * i.mean:+.1f} points [{100 * i.low:+.1f}, {100 * i.high:+.1f}]"
        if not i.excludes_zero:
            return f"{points}: no difference shown"
        return f"{points}: these weights of {self.first if i.mean > 0 else self.second} score higher"


@dataclass(frozen=True)
class GroupScores:
    """What a group of queries gave. Scores are fractions."""

    name: str
    about: str
    num_queries: int
    """Those with a match."""
    num_identities: int
    scores: dict[str, dict[str, float]]
    """By entrant, then by metric."""
    cmc: dict[str, list[float]]
    """By entrant: share of queries with a right match among the best k, k = 1..20."""
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Comparison:
    """A table that prints itself; the first group is all queries."""

    dataset: str
    entrants: tuple[str, ...]
    groups: tuple[GroupScores, ...]
    ap_per_query: dict[str, NDArray[np.float64]]
    """By entrant, over all queries of the data set; NaN without a match."""

    def difference(self, first: str, second: str, metric: str = "mAP", group: int = 0) -> Difference:
        """The difference between two entrants, if it was asked for."""
        for difference in self.groups[group].differences:
            if (difference.first, difference.second, difference.metric) == (first, second, metric):
                return difference
        raise DataError(f"{first} was not compared with {second} by {metric}")

    def to_json(self) -> dict[str, Any]:
        """Everything but the scores of single queries, for a file."""
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
    """Score every entrant over all queries and over each group, by Market-1501's rule and cosine distance.

    Args:
        dataset: what the vectors' rows belong to.
        entrants: at least one; names differ.
        contrasts: pairs of entrants whose difference is wanted, in mAP and rank-1, with a 95 % interval
            over query identities.
        groups: kinds of queries.

    Raises:
        DataError: vectors that do not fit the data set, or a contrast of unknown names.
    """
    by_name = {entrant.name: entrant for entrant in entrants}
    if not entrants or len(by_name) != len(entrants):
        raise DataError(f"entrants {', '.join(e.name for e in entrants)} must be at least one, with different names")
    for entrant in entrants:
        rows = (len(entrant.query), len(entrant.gallery))
        if rows != (len(dataset.query), len(dataset.gallery)):
            raise DataError(
                f"{entrant.name} has {rows} vectors for {len(dataset.query)} queries and "
                f"{len(dataset.gallery)} gallery images"
            )
    pairs = list(contrasts)
    if unknown := {name for pair in pairs for name in pair} - set(by_name):
        raise DataError(f"no entrant is called {', '.join(sorted(unknown))}; there are {', '.join(by_name)}")
    everything = Group("all", "every query", ((np.arange(len(dataset.query)), np.arange(len(dataset.gallery))),))
    tables = {
        group.name: {e.name: _rank(dataset, e, group) for e in entrants}
        for group in (everything, *groups)
        if any(len(queries) for queries, _ in group.parts)
    }
    chosen = [group for group in (everything, *groups) if group.name in tables]
    return Comparison(
        dataset=dataset.name,
        entrants=tuple(by_name),
        groups=tuple(_score_group(dataset, group, tables[group.name], pairs) for group in chosen),
        ap_per_query={name: table["mAP"] for name, table in tables["all"].items()},
    )


def _rank(dataset: ReidDataset, entrant: Entrant, group: Group) -> dict[str, NDArray[np.float64]]:
    """Of each query of the group, part after part: average precision, inverse negative penalty, first match."""
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
    found = {f"rank-{k}": np.where(np.isnan(first), np.nan, first <= k) for k in (1, 5)}
    return {"mAP": columns["mAP"], "mINP": columns["mINP"], **found}


def group_generated(dataset: ReidDataset) -> list[Group]:
    """Kinds of queries of a generated data set: pairs of a kind, and by how much of the person is hidden.

    Pairs are of people who differ in one kind of cue only. Their queries are searched for among the images of these two
    in other cameras, so the score is about that cue and nothing else; guessing finds the right one first half of the
    time.

    Raises:
        DataError: the data set is not a generated one.
    """
    notes = read_annotations(dataset.root)
    hidden = np.array([notes[crop.path.relative_to(dataset.root).as_posix()].hidden for crop in dataset.query.crops])
    everyone = np.arange(len(dataset.gallery))
    groups = [_group_pairs(dataset, kind) for kind in PAIR_GROUPS]
    for low, high, name, about in HIDDEN_STEPS:
        groups.append(Group(name, about, ((np.flatnonzero((hidden >= low) & (hidden < high)), everyone),)))
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
                elsewhere = np.isin(gallery_pids, (a, b)) & (gallery_camids != camid)
                parts.append((queries, np.flatnonzero(elsewhere)))
                clusters.append(a)
    return Group(kind, PAIR_GROUPS[kind], tuple(parts), tuple(clusters))
