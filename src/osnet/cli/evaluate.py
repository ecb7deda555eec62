"""osnet evaluate: score re-identification weights on a data set or on benchmarks."""

from pathlib import Path
from typing import Annotated

import tyro

from osnet.cli.common import (
    PLAIN_FOLDER,
    FolderArgs,
    FolderOptions,
    Texts,
    app,
    draw_progress,
    report_failures,
    tell_unlisted,
)
from osnet.data.folder import read_dataset
from osnet.data.reid.benchmark import Benchmark
from osnet.data.reid.catalog import BENCHMARKS, read_named
from osnet.embedding.class_predictor import known_classes
from osnet.embedding.embedder import Embedder, OnError
from osnet.errors import DataError, WeightsError
from osnet.evaluation.evaluate import evaluate as evaluate_weights
from osnet.evaluation.results import Evaluation
from osnet.evaluation.scoring import Scoring
from osnet.evaluation.split_embeddings import count_images
from osnet.files import check_writable, write_json
from osnet.runtime.backends import pick_backend
from osnet.runtime.distributed import join_processes, leave_processes, local_device
from osnet.types import ReidDataset
from osnet.weights.hub import find_checkpoint

ScoringArgs = Annotated[Scoring, tyro.conf.arg(name="")]
"""The fields of ``Scoring`` as flags without a prefix."""
CLI_SCORING = Scoring(distance=None, both_distances=True)
"""Defaults of the flags. They differ from those in Python: scores are printed by both distances."""


@app.command
def evaluate(
    *,
    weights: str | None = None,
    data: Path | None = None,
    root: Path | None = None,
    targets: Texts = (),
    features: Path | None = None,
    out: Path | None = None,
    scoring: ScoringArgs = CLI_SCORING,
    flip: bool = False,
    work_dir: Path | None = None,
    layout: FolderArgs = PLAIN_FOLDER,
    name: str | None = None,
    force: bool = False,
    on_error: OnError = "raise",
    batch_size: int = 32,
    device: str = "auto",
) -> None:
    """Score re-identification weights on a data set or on benchmarks: CMC, mAP, mINP.

    `osnet evaluate-features` scores files of embeddings. `osnet evaluate-classes` scores a classification.
    Several processes share the work: `torchrun --nproc-per-node 2 -m osnet.cli evaluate ...`

    Args:
        weights: required: a path, or a short name like osnet_x0_25_msmt17.
        data: required: a folder in Market-1501's layout; or a folder with sub-folders query and gallery; or, with a
            CSV that has a column split, any folder. With --root, the name of a benchmark (`osnet data benchmarks`
            lists them): market1501; cuhk03:labelled,classic; viper:3 for one split; viper:seed7 for the splits drawn
            with another seed.
        root: the folder that contains the benchmarks, or this one. Every split is scored, by the benchmark's own rule.
        targets: further benchmarks in --root.
        features: a folder that keeps the embeddings. After an interruption the same command resumes from there.
        out: write the result here as JSON.
        scoring: how embeddings are scored.
        flip: average each embedding with that of the mirrored crop.
        work_dir: with --root: where a benchmark keeps random splits and extracted images; default: beside the data.
        layout: where identities and cameras are read from.
        name: a name for the data set.
        force: score weights on images that they were trained on; the result says so.
        on_error: raise: stop at an image that cannot be read; skip: leave it out and report it.
        batch_size: crops per forward pass.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    if weights is None or data is None:
        raise _missing(weights, features)
    if features is not None and features.is_file():
        raise DataError(
            f"--features {features} is a file; give a folder that keeps the embeddings. `osnet evaluate-features "
            f"{features}` scores the embeddings of a file"
        )
    if out is not None:
        check_writable(out, reads=layout.reads())
    try:
        benchmarks = _read_benchmarks(data, root, targets, layout, name, work_dir)
    except DataError as error:
        if root is None and data.exists() and _predicts_classes(weights):
            raise DataError(
                f"{error}. {weights} predicts classes; to score them: osnet evaluate-classes --weights {weights} "
                f"--data {data}"
            ) from error
        raise
    datasets = [d for each in benchmarks.values() for d in (each.datasets if isinstance(each, Benchmark) else (each,))]
    if out is not None:
        check_writable(out, reads=[path for d in datasets for part in (d.query, d.gallery) for path in part.paths])
    backend = pick_backend(count_images(datasets))
    embedder = Embedder(weights, device=local_device(device), batch_size=batch_size, flip=flip, backend=backend)
    _write_results(_score_all(embedder, benchmarks, scoring, force, on_error, features), out)


def _missing(weights: str | None, features: Path | None) -> DataError:
    missing = "--weights" if weights is None else "--data"
    if weights is None and features is not None:
        return DataError(f"{missing} is missing; to score files of embeddings: osnet evaluate-features {features}")
    return DataError(
        f"{missing} is missing: osnet evaluate --weights WEIGHTS --data DATA; `osnet evaluate-features FILE...` scores "
        "files of embeddings"
    )


def _predicts_classes(weights: str) -> bool:
    try:
        return bool(known_classes(find_checkpoint(weights)))
    except WeightsError:
        return False


def _score_all(
    embedder: Embedder,
    benchmarks: dict[str, Benchmark | ReidDataset],
    scoring: Scoring,
    force: bool,
    on_error: OnError,
    features: Path | None,
) -> dict[str, Evaluation]:
    return {
        spec: evaluate_weights(
            embedder,
            benchmark,
            scoring=scoring,
            force=force,
            on_error=on_error,
            features=features / spec.replace(":", "-").replace(",", "-") if features and spec else features,
            progress=draw_progress,
        )
        for spec, benchmark in benchmarks.items()
    }


def _read_benchmarks(
    data: Path,
    root: Path | None,
    targets: tuple[str, ...],
    layout: FolderOptions,
    name: str | None,
    work_dir: Path | None,
) -> dict[str, Benchmark | ReidDataset]:
    """Read the data to score, by the name of the benchmark (an empty name for a plain folder)."""
    if root is None:
        if targets or work_dir is not None:
            given = f"--targets {' '.join(targets)}" if targets else f"--work-dir {work_dir}"
            raise DataError(f"{given} needs --root, the folder that contains the benchmarks")
        if not data.exists() and str(data).partition(":")[0] in BENCHMARKS:
            raise DataError(
                f"no such folder: {data}; for the benchmark {data} add --root, the folder that contains the benchmarks"
            )
        return {"": tell_unlisted(read_dataset(data, layout.layout(), name))}
    if unused := [*layout.given(), *(["--name"] if name is not None else [])]:
        raise DataError(f"with --root, the benchmark defines its identities; leave out {', '.join(unused)}")
    return {spec: read_named(spec, root, work_dir, draw_progress) for spec in dict.fromkeys([str(data), *targets])}


def _write_results(results: dict[str, Evaluation], out: Path | None) -> None:
    """Print the results in process 0, and write them as JSON: one result by itself, several as an object by name."""
    rank = join_processes()[0]
    leave_processes()
    if rank:
        return
    if out is not None:
        contents = {spec: result.to_json() for spec, result in results.items()}
        write_json(out, contents if len(contents) > 1 else next(iter(contents.values())))
    print(*results.values(), sep="\n\n")
    report_failures(list(dict.fromkeys(name for result in results.values() for name in result.unreadable)))
