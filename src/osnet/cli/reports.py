"""osnet figure ranks, curves; osnet report."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from osnet.cli.common import PLAIN_FOLDER, FolderArgs, FolderOptions, app, check_counts, draw_progress, tell_unlisted
from osnet.cli.figures import figure_app, load_all, name_all
from osnet.data.folder import read_dataset
from osnet.embedding.embedder import Embedder
from osnet.errors import DataError
from osnet.evaluation.ranked_lists import Rankings, pick_queries
from osnet.figures.canvas import check_figure_path, save_figure
from osnet.figures.curves import Line, LineStyle, make_precision_recall, make_roc, plot_lines, plot_scores
from osnet.figures.ranked_list import save_ranked_lists
from osnet.figures.report import write_report
from osnet.figures.report_data import (
    DEFAULT_FPR,
    PLACES,
    EvaluatedNetwork,
    check_people,
    compile_report,
    count_of,
    evaluate_network,
    features_folder,
    read_run,
)
from osnet.files import check_writable, make_folder
from osnet.types import ReidDataset

Curve = Literal["cmc", "precision-recall", "roc", "scores", "training"]
FLAGS_OF_DATA = ("--data", "--weights", "--features", "--force", "--device", *FolderOptions.FLAGS)
USED = {
    "cmc": FLAGS_OF_DATA, "precision-recall": FLAGS_OF_DATA, "roc": FLAGS_OF_DATA,
    "scores": (*FLAGS_OF_DATA, "--threshold"), "training": ("--run",),
}  # fmt: skip
"""What each kind of curve takes beside ``--out``."""


@figure_app.command
def ranks(
    data: Annotated[Path, Positional, tyro.conf.arg(metavar="DATA")],
    *,
    weights: str,
    out: Path,
    query: tuple[str, ...] = (),
    top: int = 10,
    features: Path | None = None,
    force: bool = False,
    layout: FolderArgs = PLAIN_FOLDER,
    device: str = "auto",
) -> None:
    """Queries and what was found for them: the best, the median and the worst by average precision, and two between.

    A double frame is the right identity, a single one another, a bar across is ignored by the protocol.

    Args:
        data: a data set with query and gallery.
        weights: a path or a short name.
        out: ending in .png, .pdf or .svg.
        query: file names of queries to show instead.
        top: how many are listed, ignored ones among them.
        features: keep the vectors in this folder.
        force: score weights on images they were trained on.
        layout: who is on a crop.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    check_figure_path(out)
    check_counts(top=top)
    dataset = tell_unlisted(read_dataset(data, layout.layout()))
    names = [crop.path.name for crop in dataset.query.crops]
    if unknown := [name for name in query if name not in names]:
        raise DataError(f"no query is called {', '.join(unknown)}; they are called like {', '.join(names[:1])}")
    (studied,) = _study_all(load_all((weights,), device), dataset, features, force)
    rankings = Rankings(dataset, studied.entrant.query, studied.entrant.gallery)
    ap = rankings.scores.ap_per_query
    picked = {f"query {n}": names.index(name) for n, name in enumerate(query, 1)} if query else pick_queries(ap, PLACES)
    lists = [
        replace(rankings.list_hits(q, top, with_ignored=True), title=title, note=f"AP {100 * ap[q]:.0f} %")
        for title, q in picked.items()
    ]
    save_ranked_lists(lists, out, f"{dataset.name} by {studied.entrant.name}")
    print(f"{len(lists)} ranked lists in {out}")


@figure_app.command
def curves(
    kind: Annotated[Curve, Positional],
    *,
    out: Path,
    data: Path | None = None,
    weights: tuple[str, ...] = (),
    run: tuple[Path, ...] = (),
    threshold: str | None = None,
    features: Path | None = None,
    force: bool = False,
    layout: FolderArgs = PLAIN_FOLDER,
    device: str = "auto",
) -> None:
    """One figure of curves: cmc, precision-recall or roc of several weights on a data set, the scores of one, or the
    training loss of several runs. An option that the kind has no use for is refused.

    Args:
        kind: cmc, precision-recall, roc, scores, training.
        out: ending in .png, .pdf or .svg.
        data: a data set with query and gallery; for all but training.
        weights: one or more; for all but training.
        run: folders of runs; for training.
        threshold: for scores: a cosine, or a file of `osnet calibrate --fpr`; by default 1 in 1,000 different pairs
            passes.
        features: keep the vectors in this folder.
        force: score weights on images they were trained on.
        layout: who is on a crop.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    check_figure_path(out)
    given = {"--data": data, "--weights": weights, "--run": run, "--threshold": threshold, "--features": features,
             "--force": force, "--device": device != "auto", **dict.fromkeys(layout.given(), True)}  # fmt: skip
    _refuse_unused(kind, [flag for flag, value in given.items() if value])
    if kind == "training":
        _draw_training(run, out)
    elif data is None or not weights:
        raise DataError(f"{kind} needs --data FOLDER and --weights PATH_OR_NAME ...")
    elif kind == "scores" and len(weights) != 1:
        raise DataError(f"scores are drawn of one network, not of {len(weights)}")
    else:
        limit = _parse_threshold(threshold)
        dataset = tell_unlisted(read_dataset(data, layout.layout()))
        if kind != "cmc":
            check_people(dataset)
        embedders = load_all(weights, device)
        if limit is not None:
            limit.check(next(iter(embedders.values())))
        studied = _study_all(embedders, dataset, features, force)
        _draw_curves(kind, dataset, studied, out, limit.score if limit else None)
    print(f"{kind} in {out}")


def _refuse_unused(kind: Curve, given: list[str]) -> None:
    """Options that this kind of curve has no use for are a misunderstanding: say so, rather than pass them over."""
    if unused := [flag for flag in given if flag not in USED[kind]]:
        raise DataError(f"{kind} has no use for {', '.join(unused)}; it takes --out, {', '.join(USED[kind])}")


def _draw_training(runs: tuple[Path, ...], out: Path) -> None:
    lines = {}
    for name, folder in zip(name_all([str(run) for run in runs]), runs, strict=True):
        line = read_run(folder)[1]
        if line is None:
            raise DataError(f"{folder} holds no metrics.jsonl with losses, so it is no run's folder")
        lines[name] = line
    if not lines:
        raise DataError("training curves need runs: --run FOLDER ...")
    with plot_lines(lines, "epoch", "training loss", LineStyle(whole_x=True)) as figure:
        save_figure(figure, out)


def _draw_curves(
    kind: Curve, dataset: ReidDataset, studied: list[EvaluatedNetwork], out: Path, threshold: float | None
) -> None:
    if kind == "cmc":
        found = {s.entrant.name: Rankings(dataset, s.entrant.query, s.entrant.gallery).scores.cmc[:20] for s in studied}
        lines = {name: Line(list(range(1, 1 + len(cmc))), cmc.tolist()) for name, cmc in found.items()}
        with plot_lines(lines, "rank", "queries with a match by then", LineStyle(percent=True, whole_x=True)) as figure:
            save_figure(figure, out)
        return
    pairs = {s.entrant.name: count_of(dataset, s.entrant) for s in studied}
    if kind == "scores":
        ((name, one),) = pairs.items()
        limit = one.counts.threshold_at(DEFAULT_FPR) if threshold is None else threshold
        with plot_scores(one.counts, limit, f"{name} on {dataset.name}") as figure:
            save_figure(figure, out)
    elif kind == "roc":
        lines = {name: make_roc(p.counts) for name, p in pairs.items()}
        with plot_lines(
            lines, "false positive rate", "true positive rate", LineStyle(percent=True, log_x=True)
        ) as figure:
            save_figure(figure, out)
    else:
        lines = {name: make_precision_recall(p) for name, p in pairs.items()}
        with plot_lines(lines, "recall", "precision", LineStyle(percent=True, y_limits=(0, 102))) as figure:
            save_figure(figure, out)


@app.command
def report(
    weights: Annotated[str, Positional, tyro.conf.arg(metavar="RUN_OR_WEIGHTS")],
    *,
    data: Path,
    out: Path,
    compare: tuple[str, ...] = (),
    threshold: str | None = None,
    features: Path | None = None,
    force: bool = False,
    layout: FolderArgs = PLAIN_FOLDER,
    device: str = "auto",
) -> None:
    """One HTML file about weights on a data set: scores, curves, ranked lists with maps, failures, card and recipe.

    It needs no network, no server and no script.

    Args:
        weights: a run's folder, a path, or a short name.
        data: a data set with query and gallery.
        out: the file to write.
        compare: other runs or weights, compared with the first; differences have intervals.
        threshold: of the first weights: a cosine, or a file of `osnet calibrate --fpr`; by default, and for others,
            1 in 1,000 different pairs of this data passes.
        features: keep the vectors in this folder; a call that was cut off goes on from there.
        force: score weights on images they were trained on; the report says so.
        layout: who is on a crop.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    check_writable(out)
    limit = _parse_threshold(threshold)
    dataset = tell_unlisted(read_dataset(data, layout.layout()))
    given = (weights, *compare)
    embedders = load_all(given, device)
    if limit is not None:
        limit.check(next(iter(embedders.values())))
    runs = {name: Path(each) for name, each in zip(embedders, given, strict=True)}
    with kept_in(features) as folder:
        page = compile_report(dataset, embedders, folder, runs, limit.score if limit else None, force, draw_progress)
    write_report(page, out)
    print("\n".join([*page.findings, page.caution]))
    print(f"report: {out.absolute()}")


@dataclass(frozen=True)
class _Threshold:
    """A cosine from which on two crops are called the same identity."""

    score: float
    source: str
    made_for: str | None = None
    """The digest of the network it was calibrated for, if that is known."""

    def __post_init__(self) -> None:
        if not -1 <= self.score <= 1:
            raise DataError(f"threshold {self.source} must be a cosine, a number from -1 to 1")

    def check(self, embedder: Embedder) -> None:
        """Raises DataError if it was calibrated for other weights."""
        if self.made_for is not None and self.made_for != embedder.sha256():
            raise DataError(
                f"{self.source} was calibrated for other weights (network {self.made_for[:12]}...); "
                "calibrate these anew"
            )


def _parse_threshold(text: str | None) -> _Threshold | None:
    """A number, or of a file that ``osnet calibrate`` wrote.

    A threshold for searches (``--fpir``) is refused: it is set for the best of a whole gallery, and the shares of
    single pairs that would stand beside it here would be read as what it costs.
    """
    if text is None:
        return None
    try:
        return _Threshold(float(text), text)
    except ValueError as error:
        if isinstance(error, DataError):
            raise
    try:
        content = json.loads(Path(text).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"threshold {text} is neither a number from -1 to 1 nor a file that exists") from error
    except OSError as error:
        raise DataError(f"cannot read {text}: {error.strerror}") from error
    except (ValueError, RecursionError):  # the bytes of a file that is something else are no help
        content = None
    score = content.get("threshold") if isinstance(content, dict) else None
    if not isinstance(score, int | float) or isinstance(score, bool):
        raise DataError(f'{text} is no file of `osnet calibrate --out`: it holds no number as "threshold"')
    if content.get("kind") == "identification":
        raise DataError(
            f"{text} holds a threshold for searches (calibrate --fpir), and what is drawn here are pairs; give a file "
            f"of calibrate --fpr, or the number itself: --threshold {score:.4f}"
        )
    weights = content.get("weights")
    made_for = weights.get("network_sha256") if isinstance(weights, dict) else None
    return _Threshold(score, f"{score} of {text}", made_for if isinstance(made_for, str) else None)


@contextmanager
def kept_in(features: Path | None) -> Iterator[Path]:
    """The folder for vectors: the user's, or one that goes away."""
    if features is not None:
        yield make_folder(features)
        return
    with tempfile.TemporaryDirectory(prefix="osnet-") as folder:
        yield Path(folder)


def _study_all(
    embedders: Mapping[str, Embedder], dataset: ReidDataset, features: Path | None, force: bool
) -> list[EvaluatedNetwork]:
    with kept_in(features) as folder:
        return [
            evaluate_network(name, embedder, dataset, features_folder(folder, name), force, draw_progress)[0]
            for name, embedder in embedders.items()
        ]
