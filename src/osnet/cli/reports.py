"""osnet figure ranks, curves; osnet report."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from osnet.cli.common import app, draw_progress
from osnet.cli.figures import figure_app, name_all
from osnet.data.folder import read_dataset
from osnet.errors import DataError
from osnet.figures.canvas import check_figure_path, save_figure
from osnet.figures.curves import Line, make_precision_recall, make_roc, plotted_lines, plotted_scores
from osnet.figures.rankings import Rankings, pick_queries
from osnet.figures.ranks import save_ranked_lists
from osnet.figures.report import write_report
from osnet.figures.study import DEFAULT_FPR, PLACES, Studied, compile_report, features_of, read_run, study
from osnet.files import check_writable, make_folder
from osnet.inference.embedder import Embedder
from osnet.metrics.pair_scores import PairCurves, count_pairs
from osnet.types import ReidDataset

Curve = Literal["cmc", "precision-recall", "roc", "scores", "training"]


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
    device: str = "auto",
) -> None:
    """Queries and what was found for them: the best, the median and the worst by average precision, and two between.

    A double frame is the right person, a single one another, a bar across is ignored by the protocol.

    Args:
        data: a data set with query and gallery.
        weights: a path or a short name.
        out: ending in .png, .pdf or .svg.
        query: file names of queries to show instead.
        top: how many are listed, ignored ones among them.
        features: keep the vectors in this folder.
        force: score weights on images they were trained on.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    check_figure_path(out)
    if top < 1:
        raise DataError(f"top {top} must be at least 1")
    dataset = read_dataset(data)
    (studied,) = _study_all((weights,), dataset, features, force, device)
    rankings = Rankings(dataset, studied.entrant.query, studied.entrant.gallery)
    ap = rankings.scores.ap_per_query
    names = [crop.path.name for crop in dataset.query.crops]
    if unknown := [name for name in query if name not in names]:
        raise DataError(f"no query is called {', '.join(unknown)}; they are called like {names[0]}")
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
    device: str = "auto",
) -> None:
    """One figure of curves: cmc, precision-recall or roc of several weights on a data set, the scores of one, or the
    training loss of several runs.

    Args:
        kind: cmc, precision-recall, roc, scores, training.
        out: ending in .png, .pdf or .svg.
        data: a data set with query and gallery; for all but training.
        weights: one or more; for all but training.
        run: folders of runs; for training.
        threshold: for scores: a cosine, or a file of `osnet calibrate`; by default 1 in 1,000 different pairs passes.
        features: keep the vectors in this folder.
        force: score weights on images they were trained on.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    check_figure_path(out)
    if kind == "training":
        lines = {}
        for name, folder in zip(name_all([str(r) for r in run]), run, strict=True):
            line = read_run(folder)[1]
            if line is None:
                raise DataError(f"{folder} holds no metrics.jsonl with losses, so it is no run's folder")
            lines[name] = line
        if not lines:
            raise DataError("training curves need runs: --run FOLDER ...")
        with plotted_lines(lines, "epoch", "training loss", whole_x=True) as figure:
            save_figure(figure, out)
    elif data is None or not weights:
        raise DataError(f"{kind} needs --data FOLDER and --weights PATH_OR_NAME ...")
    elif kind == "scores" and len(weights) != 1:
        raise DataError(f"scores are drawn of one network, not of {len(weights)}")
    else:
        dataset = read_dataset(data)
        _draw_curves(kind, dataset, _study_all(weights, dataset, features, force, device), out, threshold)
    print(f"{kind} in {out}")


def _draw_curves(kind: Curve, dataset: ReidDataset, studied: list[Studied], out: Path, threshold: str | None) -> None:
    if kind == "cmc":
        found = {s.entrant.name: Rankings(dataset, s.entrant.query, s.entrant.gallery).scores.cmc[:20] for s in studied}
        lines = {name: Line(list(range(1, 1 + len(cmc))), cmc.tolist()) for name, cmc in found.items()}
        with plotted_lines(lines, "rank", "queries with a right match by then", percent=True, whole_x=True) as figure:
            save_figure(figure, out)
        return
    pairs = {s.entrant.name: _count(dataset, s) for s in studied}
    if kind == "scores":
        ((name, one),) = pairs.items()
        limit = one.counts.threshold_at(DEFAULT_FPR)
        if threshold is not None:
            limit = _parse_threshold(threshold, studied[0].embedder)
        with plotted_scores(one.counts, limit, f"{name} on {dataset.name}") as figure:
            save_figure(figure, out)
    elif kind == "roc":
        lines = {name: make_roc(p.counts) for name, p in pairs.items()}
        label = "share of different pairs called the same"
        with plotted_lines(lines, label, "same pairs found", percent=True, log_x=True) as figure:
            save_figure(figure, out)
    else:
        lines = {name: make_precision_recall(p) for name, p in pairs.items()}
        with plotted_lines(lines, "recall", "precision", percent=True, equal=(0, 102)) as figure:
            save_figure(figure, out)


def _count(dataset: ReidDataset, studied: Studied) -> PairCurves:
    return count_pairs(
        studied.entrant.query, studied.entrant.gallery, dataset.query.pids, dataset.gallery.pids,
        dataset.query.camids, dataset.gallery.camids,
    )  # fmt: skip


@app.command
def report(
    weights: Annotated[str, Positional, tyro.conf.arg(metavar="RUN_OR_WEIGHTS")],
    *,
    data: Path,
    out: Path,
    compare: tuple[str, ...] = (),
    threshold: Path | None = None,
    features: Path | None = None,
    force: bool = False,
    device: str = "auto",
) -> None:
    """One HTML file about weights on a data set: scores, curves, ranked lists with maps, failures, card and recipe.

    It needs no network, no server and no script.

    Args:
        weights: a run's folder, a path, or a short name.
        data: a data set with query and gallery.
        out: the file to write.
        compare: other runs or weights, compared with the first; differences have intervals.
        threshold: a file of `osnet calibrate` for the first weights; by default, and for others, 1 in 1,000 different
            pairs of this data passes.
        features: keep the vectors in this folder; a call that was cut off goes on from there.
        force: score weights on images they were trained on; the report says so.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    check_writable(out)
    if threshold is not None:
        _read_threshold(threshold, None)
    dataset = read_dataset(data)
    given = (weights, *compare)
    names = name_all(list(given))
    embedders = {name: Embedder(each, device=device) for name, each in zip(names, given, strict=True)}
    runs = {name: Path(each) for name, each in zip(names, given, strict=True)}
    limit = _read_threshold(threshold, embedders[names[0]]) if threshold is not None else None
    with kept_in(features) as folder:
        page = compile_report(dataset, embedders, folder, runs, limit, force, draw_progress)
    write_report(page, out)
    print("\n".join([*page.findings, page.caution]))
    print(f"report: {out.absolute()}")


def _parse_threshold(text: str, embedder: Embedder) -> float:
    try:
        return float(text)
    except ValueError:
        return _read_threshold(Path(text), embedder)


def _read_threshold(path: Path, embedder: Embedder | None) -> float:
    """The threshold of a file that ``osnet calibrate`` wrote, if it was for these weights."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        threshold, made_for = float(content["threshold"]), content.get("weights", {}).get("network_sha256")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f'{path} is no file of osnet calibrate, with a number as "threshold": {error!r}') from error
    if embedder is not None and made_for is not None and made_for != embedder.sha256():
        raise DataError(f"{path} was calibrated for other weights (network {made_for[:12]}...); calibrate these anew")
    return threshold


@contextmanager
def kept_in(features: Path | None) -> Iterator[Path]:
    """The folder for vectors: the user's, or one that goes away."""
    if features is not None:
        yield make_folder(features)
        return
    with tempfile.TemporaryDirectory(prefix="osnet-") as folder:
        yield Path(folder)


def _study_all(
    weights: tuple[str, ...], dataset: ReidDataset, features: Path | None, force: bool, device: str
) -> list[Studied]:
    names = name_all(list(weights))
    with kept_in(features) as folder:
        return [
            study(name, Embedder(each, device=device), dataset, features_of(folder, name), force, draw_progress)[0]
            for name, each in zip(names, weights, strict=True)
        ]
