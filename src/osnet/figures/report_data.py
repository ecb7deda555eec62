"""Networks on a data set -> everything that a report shows of them. The demo and ``osnet report`` both come here."""

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from osnet.embedding.embedder import Embedder
from osnet.errors import DataError, ImageError
from osnet.evaluation.comparison import Comparison, Entrant, compare, group_generated
from osnet.evaluation.evaluate import evaluate
from osnet.evaluation.failures import group_failures
from osnet.evaluation.ranked_lists import Rankings, pick_queries, sample_queries
from osnet.evaluation.results import Evaluation
from osnet.features.embedding_files import read_vectors
from osnet.figures.activation import look
from osnet.figures.curves import Line
from osnet.figures.embeddings import MIN_ON_MAP, choose_crops, project
from osnet.figures.match import explain_match
from osnet.figures.person_boxes import read_photos
from osnet.figures.report import EmbeddingMap, Look, QueryRow, Report, ShownFailures, ShownQuery
from osnet.files import make_folder
from osnet.metrics.pair_scores import PairCurves, count_pairs
from osnet.progress import Progress, no_progress
from osnet.synthetic.generate import ANNOTATIONS_FILE, read_annotations, read_pairs
from osnet.types import JUNK_PID, RankedList, ReidDataset

PLACES = {
    "Best": 0.0,
    "Upper quartile": 0.25,
    "Median": 0.5,
    "Lower quartile": 0.75,
    "Worst": 1.0,
}
NUM_DRAWN, NUM_FAILURES, NUM_HITS, NUM_LOOKED_AT = 7, 8, 8, 4
NUM_ON_MAP, NUM_ON_SHEET = 200, 16
DEFAULT_FPR = 0.001
CAUTION = (
    "These scores hold for this data set and for people like these. Alike clothes look alike: a hit is a hint, never a "
    "proof of who somebody is, and a score is no probability."
)
CAUTION_GENERATED = (
    "These are generated people, painted by a program. The numbers show that training, scoring and search work; they "
    "say nothing about how good a network is on photographs of real people."
)
TWINS = {"small cue": "alike but for the logo", "overall look": "same logo and bag, other clothes"}


@dataclass(frozen=True)
class Studied:
    """A network with its vectors of a data set."""

    entrant: Entrant
    embedder: Embedder


def study(
    name: str,
    embedder: Embedder,
    dataset: ReidDataset,
    features: Path,
    force: bool = False,
    progress: Progress = no_progress,
) -> tuple[Studied, Evaluation]:
    """Score as ``osnet evaluate`` does; the vectors stay in the folder ``features``. Raises as ``evaluate`` does."""
    make_folder(features)
    scored = evaluate(embedder, dataset, force=force, features=features, progress=progress)
    query, gallery = (read_vectors(features / f"{part}.npz")[0].vectors for part in ("query", "gallery"))
    return Studied(Entrant(name, query, gallery), embedder), scored


def describe_networks(
    dataset: ReidDataset,
    studied: Sequence[Studied],
    comparison: Comparison,
    thresholds: Mapping[str, float] | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """The fields of a ``Report`` that come from networks and data: lists with maps, failures, curves, the map.

    Shown in full are five queries by the first network's average precision (best, median, worst, two between), seven
    drawn by lot, and the eight worst of each kind of failure; the table has every query.

    Args:
        dataset: what was searched.
        studied: one or more; the first decides which queries are shown.
        comparison: that holds them among others.
        thresholds: scores from which pairs count as the same, by name; by default such that one in a thousand
            different pairs of this data passes.
        progress: draws a bar.
    """
    main = studied[0].entrant.name
    rankings = {s.entrant.name: Rankings(dataset, s.entrant.query, s.entrant.gallery) for s in studied}
    pairs = {s.entrant.name: count_of(dataset, s.entrant) for s in studied}
    hidden, twins, notes = _read_truth(dataset)
    groups = group_failures(rankings[main], _find_median(pairs[main]), hidden, twins)
    ap = comparison.ap_per_query[main]
    titles = _pick_titles(main, ap)
    failed = {q: _describe_failure(rankings[main], q) for group in groups for q in group.queries[:NUM_FAILURES]}
    every = list(dict.fromkeys([*titles, *failed]))
    show = _Shower(dataset, studied, rankings, notes)
    shown = {q: show.make(q) for q in progress(every, len(every), "maps")}
    num_failed = len(rankings[main].failed)
    return {
        "queries": [show.named(shown[q], title) for q, title in titles.items()],
        "failures": [
            ShownFailures(
                g.name, g.about, len(g.queries), [show.named(shown[q], failed[q]) for q in g.queries[:NUM_FAILURES]]
            )
            for g in groups
        ],
        "failures_about": f"{num_failed:,} of {int((~np.isnan(ap)).sum()):,} queries find another person first by "
        f"{main}. Each counts once, in the first group that fits.",
        "cameras": _name_cameras(dataset, rankings[main]),
        "pairs": pairs,
        "thresholds": {n: p.counts.threshold_at(DEFAULT_FPR) for n, p in pairs.items()} | dict(thresholds or {}),
        "threshold_about": (f"The threshold of {', '.join(thresholds)} was given. " if thresholds else "")
        + "Where none was given, it was set on these same pairs, "
        "so that at most 1 in 1,000 different pairs passes; on other data its costs differ.",
        "embedding_map": _draw_map(dataset, studied[0]),
        "rows": _list_rows(rankings[main]),
        "cards": {s.entrant.name: describe_card(s.embedder) for s in studied},
    }


def check_people(dataset: ReidDataset) -> None:
    """Before any work: there are pairs of different people.

    Raises:
        DataError: queries and gallery show one person only.
    """
    people = {*dataset.query.pids, *(pid for pid in dataset.gallery.pids if pid != JUNK_PID)}
    if len(people) == 1:
        raise DataError(f"{dataset.root} shows one person only, so no pairs of different people; bring more people")


def count_of(dataset: ReidDataset, entrant: Entrant) -> PairCurves:
    """``count_pairs`` of a data set by one network's vectors."""
    query, gallery = dataset.query, dataset.gallery
    return count_pairs(entrant.query, entrant.gallery, query.pids, gallery.pids, query.camids, gallery.camids)


def _pick_titles(name: str, ap: NDArray[np.float64]) -> dict[int, str]:
    """Queries that are shown whatever went wrong, with their titles: by average precision, and by lot."""
    picked = pick_queries(ap, PLACES)
    titles = {q: f"{title} query by {name}: average precision {100 * ap[q]:.0f} %" for title, q in picked.items()}
    drawn = sample_queries(ap, NUM_DRAWN, list(picked.values()))
    return titles | {q: f"Drawn by lot: average precision {100 * ap[q]:.0f} % by {name}" for q in drawn}


def _find_median(pairs: PairCurves) -> float:
    """The score that half of the right pairs reach; 1 where there is none."""
    rates = pairs.counts.rates()[1]
    return float(pairs.counts.edges[int(np.flatnonzero(rates >= 0.5)[-1])]) if rates[0] == 1 else 1.0


class _Shower:
    """Makes what is shown of a query."""

    def __init__(
        self,
        dataset: ReidDataset,
        studied: Sequence[Studied],
        rankings: Mapping[str, Rankings],
        notes: Mapping[int, Mapping[str, str]],
    ) -> None:
        self.dataset, self.studied, self.rankings, self.notes = dataset, studied, rankings, notes

    def make(self, q: int) -> ShownQuery:
        """Lists by network, and what each looked at."""
        lists = {name: rankings.list_hits(q, NUM_HITS) for name, rankings in self.rankings.items()}
        looks: dict[str, Look] = {}
        for s in self.studied:
            name = s.entrant.name
            found = self._look(s.embedder, lists[name], self.rankings[name], q)
            if found is not None:
                looks[name] = found
        return ShownQuery("", lists, self.notes.get(self.dataset.query.crops[q].pid, {}), looks)

    @staticmethod
    def named(query: ShownQuery, title: str) -> ShownQuery:
        """The same under a title."""
        return ShownQuery(title, query.lists, query.notes, query.looks)

    @staticmethod
    def _look(embedder: Embedder, ranked: RankedList, rankings: Rankings, q: int) -> Look | None:
        hits = [Path(hit.item.source) for hit in ranked.hits[:NUM_LOOKED_AT]]
        following = rankings.find_next_person(q)
        try:
            photos = read_photos([ranked.query, *hits])
            after = read_photos([Path(following.item.source)])[0].picture if following else None
        except ImageError:  # gone since it was embedded: the list says so
            return None
        seen = [maps[0] for maps in look(photos, {"": embedder})]
        match = explain_match(embedder, photos[0].picture, photos[1].picture, after) if hits else None
        return Look(list(zip([ranked.query, *hits], seen, strict=True)), match, hits[0] if hits else None)


def _describe_failure(rankings: Rankings, q: int) -> str:
    crop, hit = rankings.dataset.query.crops[q], rankings.dataset.gallery.crops[int(rankings.first_hit_Q[q])]
    rank = rankings.scores.first_rank_per_query[q]
    return (
        f"Person {crop.identity or crop.pid} in camera {crop.camera or 'unknown'}: first hit person "
        f"{hit.identity or hit.pid} in camera {hit.camera or 'unknown'}; first right picture at rank {rank:.0f}"
    )


def _read_truth(
    dataset: ReidDataset,
) -> tuple[NDArray[np.float64] | None, dict[int, frozenset[int]], dict[int, dict[str, str]]]:
    """Of generated people: how much of each query is hidden, who is made like whom, and what to say of it."""
    if not (dataset.root / ANNOTATIONS_FILE).is_file():
        return None, {}, {}
    truth = read_annotations(dataset.root)
    hidden = np.array([truth[crop.path.relative_to(dataset.root).as_posix()].hidden for crop in dataset.query.crops])
    notes: dict[int, dict[str, str]] = {}
    for a, b, kind in read_pairs(dataset.root):
        notes.setdefault(a, {})[str(b)] = TWINS[kind]
        notes.setdefault(b, {})[str(a)] = TWINS[kind]
    return hidden, {pid: frozenset(map(int, others)) for pid, others in notes.items()}, notes


def _name_cameras(dataset: ReidDataset, rankings: Rankings) -> dict[tuple[str, str], tuple[float, int]]:
    names = {crop.camid: crop.camera or str(crop.camid) for crop in (*dataset.query.crops, *dataset.gallery.crops)}
    return {(names[a], names[b]): value for (a, b), value in rankings.camera_pairs().items()}


def _draw_map(dataset: ReidDataset, studied: Studied) -> EmbeddingMap | None:
    chosen = choose_crops(dataset.gallery.crops, NUM_ON_MAP)
    if len(chosen) < MIN_ON_MAP:
        return None
    crops = [dataset.gallery.crops[i] for i in chosen]
    about = (
        f"{len(chosen)} gallery images of {len({crop.pid for crop in crops})} people by {studied.entrant.name}, t-SNE: "
        "neighbours belong together; how far groups lie apart means nothing. A frame's colour says who it is; ten "
        "colours are used again and again."
    )
    return EmbeddingMap(project(studied.entrant.gallery[chosen]), crops, about)


def _list_rows(rankings: Rankings) -> list[QueryRow]:
    ap, rows = rankings.scores.ap_per_query, []
    for q in np.argsort(np.where(np.isnan(ap), 2.0, ap), kind="stable").tolist():
        g = int(rankings.first_hit_Q[q])
        hit = rankings.dataset.gallery.crops[g] if g >= 0 else None
        score = float(rankings.query[q] @ rankings.gallery[g]) if hit else float("nan")
        found = f"person {hit.identity or hit.pid}, camera {hit.camera or 'unknown'}" if hit else "nothing"
        name = rankings.dataset.query.crops[q].path.name
        rows.append(QueryRow(name, float(ap[q]), float(rankings.scores.first_rank_per_query[q]), found, score))
    return rows


def choose_sheet(dataset: ReidDataset) -> list[list[Path]]:
    """The first people of the query split, each as all cameras see them."""
    rows: dict[int, list[Path]] = {}
    for crop in dataset.query.crops:
        rows.setdefault(crop.pid, []).append(crop.path)
    return list(rows.values())[:NUM_ON_SHEET]


def describe_card(embedder: Embedder) -> dict[str, str]:
    """What the weights' card says, name by name."""
    card = embedder.network.card
    if card is None:
        return {"weights": "random or unnamed"}
    fields = {key: value for key, value in asdict(card).items() if value not in (None, "")}
    nested = {f"{key}: {k}": v for key, value in fields.items() if isinstance(value, dict) for k, v in value.items()}
    plain = {key: value for key, value in fields.items() if not isinstance(value, dict)}
    said = {**plain, **nested, "network sha256": embedder.sha256()}
    return {key.replace("_", " "): str(value) for key, value in said.items()}


def read_run(folder: Path) -> tuple[dict[str, str], Line | None]:
    """A run's recipe, name by name, and its training loss; empty and None for what is no run's folder."""
    recipe: dict[str, str] = {}
    rows = _read_quietly(folder / "recipe.json", json.loads)
    for key, value in (rows.get("recipe", {}) if isinstance(rows, dict) else {}).items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        recipe |= {f"{key} {k}".strip().replace("_", " "): str(v) for k, v in inner}
    lines = _read_quietly(folder / "metrics.jsonl", lambda text: [json.loads(line) for line in text.splitlines()])
    losses = [row for row in lines or [] if isinstance(row, dict) and "loss" in row and "epoch" in row]
    line = Line([row["epoch"] for row in losses], [row["loss"] for row in losses]) if losses else None
    return recipe, line


def _read_quietly(path: Path, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def features_folder(folder: Path, name: str) -> Path:
    """The folder of one network's vectors among several."""
    return folder / "".join(c if c.isalnum() else "-" for c in name.lower())


def compile_report(
    dataset: ReidDataset,
    embedders: Mapping[str, Embedder],
    features: Path,
    runs: Mapping[str, Path],
    threshold: float | None = None,
    force: bool = False,
    progress: Progress = no_progress,
) -> Report:
    """The report of weights on a data set.

    Args:
        dataset: with query and gallery.
        embedders: one or more, by name; the others are compared with the first.
        features: a folder that keeps the vectors.
        runs: by name, the folder of a run, whose recipe and losses are shown; others are passed over.
        threshold: of the first network; by default 1 in 1,000 different pairs of this data passes.
        force: score weights on images they were trained on.
        progress: draws a bar.

    Raises:
        DataError: as ``evaluate``; no query has a match; one person only.
    """
    check_people(dataset)
    made = [study(n, e, dataset, features_folder(features, n), force, progress) for n, e in embedders.items()]
    return compile_studied(dataset, made, runs, threshold, progress)


def compile_studied(
    dataset: ReidDataset,
    made: Sequence[tuple[Studied, Evaluation]],
    runs: Mapping[str, Path],
    threshold: float | None = None,
    progress: Progress = no_progress,
) -> Report:
    """The report of what ``study`` gave, one or more. Arguments and errors as for ``compile_report``."""
    check_people(dataset)
    names = [s.entrant.name for s, _ in made]
    generated = (dataset.root / ANNOTATIONS_FILE).is_file()
    contrasts = [(names[0], other) for other in names[1:]]
    groups = group_generated(dataset) if generated else []
    comparison = compare(dataset, [s.entrant for s, _ in made], contrasts, groups)
    given = None if threshold is None else {names[0]: threshold}
    parts = describe_networks(dataset, [s for s, _ in made], comparison, given, progress)
    told = {name: read_run(runs[name]) for name in names if name in runs}
    scores = comparison.groups[0].scores
    findings = [
        f"{name} finds the right person first for {100 * scores[name]['rank-1']:.1f} % of the queries "
        f"(mAP {100 * scores[name]['mAP']:.1f} %)."
        for name in names
    ]
    findings += [f"{a} against {b}, mAP: {comparison.difference(a, b)}." for a, b in contrasts]
    findings += [f"{len(parts['rows']):,} queries; {parts['failures_about'].split('. ')[0]}."]
    findings += [f"Note: {warning}." for _, scored in made for warning in scored.warnings]
    return Report(
        title=f"{' and '.join(names[:3])} on {dataset.name}",
        caution=CAUTION_GENERATED if generated else CAUTION,
        findings=findings,
        comparison=comparison,
        losses={name: line for name, (_, line) in told.items() if line},
        recipes={name: recipe for name, (recipe, _) in told.items() if recipe},
        sheet=choose_sheet(dataset),
        facts=_describe_data(dataset, made[0][1]),
        **parts,
    )


def _describe_data(dataset: ReidDataset, scored: Evaluation) -> dict[str, str]:
    """How it was made."""
    counts = [
        f"{name}: {c.images:,} images of {c.identities:,} people in {c.cameras or 'unknown'} cameras"
        for name, c in scored.counts.items()
        if c.images
    ]
    return {
        "data": f"{dataset.name}; " + "; ".join(counts),
        "protocol": scored.protocol,
        "shown": f"five queries by average precision, {NUM_DRAWN} drawn by lot (the same each time), and the "
        f"{NUM_FAILURES} worst of each kind of failure; the table has every query",
        "made with": f"Python {platform.python_version()}, torch {torch.__version__}",
    }
