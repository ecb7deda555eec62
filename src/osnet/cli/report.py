"""osnet report: write an HTML report on weights."""

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from osnet.cli.common import PLAIN_FOLDER, FolderArgs, Texts, app, draw_progress, tell_unlisted
from osnet.cli.figure import kept_in, load_all, parse_threshold
from osnet.data.folder import read_dataset
from osnet.figures.report import write_report
from osnet.figures.report_data import compile_report
from osnet.files import check_writable


@app.command
def report(
    weights: Annotated[str, Positional, tyro.conf.arg(metavar="RUN_OR_WEIGHTS")],
    *,
    data: Path,
    out: Path,
    compare: Texts = (),
    threshold: str | None = None,
    features: Path | None = None,
    force: bool = False,
    layout: FolderArgs = PLAIN_FOLDER,
    device: str = "auto",
) -> None:
    """Write an HTML report on weights: scores, curves, ranked lists with maps, failures, card and recipe.

    The report is one file. It needs no server and contains no scripts.

    Args:
        weights: a run's folder, a path, or a short name.
        data: a data set with query and gallery.
        out: the file to write.
        compare: other runs or weights to compare with the first; differences are given with intervals.
        threshold: threshold of the first weights: a cosine, or a file of `osnet calibrate --fpr`. Default, and for the
            others: 1 in 1,000 pairs of different identities of this data passes.
        features: keep the embeddings in this folder. After an interruption the same command resumes from there.
        force: score weights on images that they were trained on; the report says so.
        layout: where identities and cameras are read from.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    check_writable(out, reads=[*layout.reads(), *([threshold] if threshold is not None else [])])
    limit = parse_threshold(threshold)
    dataset = tell_unlisted(read_dataset(data, layout.layout()))
    check_writable(out, reads=[*dataset.query.paths, *dataset.gallery.paths])
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
