"""osnet embed, evaluate, average, calibrate, data generate, demo."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from osnet.cli.classes import evaluate_classes
from osnet.cli.common import (
    PLAIN_FOLDER,
    FolderArgs,
    FolderOptions,
    app,
    data_app,
    draw_progress,
    list_inputs,
    report_failures,
    tell_unlisted,
)
from osnet.data.folder import read_dataset
from osnet.data.reid.benchmark import Benchmark
from osnet.data.reid.catalog import BENCHMARKS, read_named
from osnet.demo import FULL, QUICK, run_demo, run_demo_on
from osnet.embedding.embedder import Embedder, OnError
from osnet.errors import DataError, OutputError
from osnet.evaluation.benchmarks import evaluate_benchmark
from osnet.evaluation.calibration import calibrate as calibrate_weights
from osnet.evaluation.evaluate import evaluate_vectors
from osnet.evaluation.results import Evaluation, Scoring, SplitEvaluation, average_results
from osnet.features.embedding_files import embed_files
from osnet.features.labels import read_labelled
from osnet.files import check_writable, write_json
from osnet.metrics.matching_rules import Rule
from osnet.metrics.rank_counting import Distance
from osnet.metrics.ranking import AveragePrecision
from osnet.runtime.distributed import join_processes, leave_processes, local_device
from osnet.synthetic.generate import GeneratedSettings, generate_dataset, read_annotations
from osnet.types import ReidDataset


@app.command
def embed(
    inputs: Annotated[tuple[Path, ...], Positional, tyro.conf.arg(metavar="IMAGE_OR_FOLDER...")],
    *,
    weights: str,
    out: Path,
    normalize: bool = True,
    on_error: OnError = "raise",
    batch_size: int = 32,
    device: str = "auto",
    overwrite: bool = False,
) -> None:
    """Embed images into a file of vectors. Cut off, it goes on where it stopped when called again.

    Args:
        inputs: images, and folders of images.
        weights: a path, or a short name like osnet_x0_25_msmt17.
        out: the file to write, ending in .npz: vectors (N, 512), names, weights_sha256.
        normalize: vectors of length 1.
        on_error: raise: stop at an image that cannot be read; skip: leave it out and say so.
        batch_size: crops per forward pass.
        device: auto, cpu, cuda, cuda:1, mps.
        overwrite: replace the file if it exists.
    """
    paths = list_inputs(inputs)
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists; choose another name or say --overwrite")
    check_writable(out)
    embedder = Embedder(weights, device=device, batch_size=batch_size, normalize=normalize)
    result = embed_files(embedder, paths, out, on_error=on_error, progress=draw_progress, overwrite=overwrite)
    print(f"{len(result)} vectors of {embedder.embedding_size} in {out}")
    report_failures([str(failure) for failure in result.failures])


@dataclass(frozen=True)
class ScoringOptions:
    """How vectors are scored."""

    rule: Rule | None = None
    """market1501, or cuhk03: one gallery image of each identity, drawn 10 times; by default the benchmark's."""
    distance: Distance | None = None
    """cosine, or euclidean between embeddings as the network gives them; by default the one that the published
    figures of the weights are by, else cosine."""
    ap: AveragePrecision = "precision"
    """average precision as in most papers' code (precision), or as in Market-1501's official script (trapezoid)."""
    seed: int = 0
    """of the draws of the rule cuhk03 (drawn splits: see data)."""
    decisions: bool = False
    """also TPR at fixed FPR (same identity or not) and FNIR at fixed FPIR (who is it, if anybody)."""
    both_distances: bool = True
    """the ranking scores by the other distance too."""

    def scoring(self) -> Scoring:
        """The same, checked, by Market-1501's rule and cosine distance if none is given."""
        return Scoring(**{**asdict(self), "rule": self.rule or "market1501", "distance": self.distance or "cosine"})


ScoringArgs = Annotated[ScoringOptions, tyro.conf.arg(name="")]
MARKET_SCORING = ScoringOptions()


@app.command
def evaluate(
    *,
    weights: str | None = None,
    data: Path | None = None,
    root: Path | None = None,
    targets: tuple[str, ...] = (),
    features: tuple[Path, ...] = (),
    out: Path | None = None,
    scoring: ScoringArgs = MARKET_SCORING,
    flip: bool = False,
    work_dir: Path | None = None,
    layout: FolderArgs = PLAIN_FOLDER,
    name: str | None = None,
    force: bool = False,
    on_error: OnError = "raise",
    batch_size: int = 32,
    device: str = "auto",
) -> None:
    """Score weights on a data set, or anybody's vectors: CMC, mAP, mINP; of a classification, top-1 and top-5.

    Vectors: `--features FILE.npz` with query_vectors (or query), query_pids, query_camids and the same for gallery; or
    two files with vectors, pids, camids each, or made by `osnet embed` (identities by Market-1501's names or `--csv`).
    Several processes share the work: `torchrun --nproc-per-node 2 -m osnet.cli evaluate ...`

    Args:
        weights: a path, or a short name like osnet_x0_25_msmt17.
        data: of weights that name classes, what `osnet data pack` and recipes of classification take: test is scored,
            else val, else the folder itself. Of others Market-1501's layout; or folders query and gallery; or, with a
            CSV that has a column split, any folder. With --root, a benchmark's name (`osnet data benchmarks`):
            market1501, cuhk03:labelled,classic; viper:3 for one split, viper:seed7 for splits of another draw.
        root: the folder of all data sets, or of this one; every split is scored, by the benchmark's own rule.
        targets: further benchmarks below --root.
        features: with weights, a folder that keeps the vectors, so that a run goes on; without, files of vectors.
        out: write the result here as JSON.
        scoring: how vectors are scored.
        flip: average each vector with that of the mirrored crop.
        work_dir: with --root, where a benchmark keeps drawn splits and extracted images; by default beside the data.
        layout: who is on a crop.
        name: of the data set.
        force: evaluate weights on images they were trained on; the result says so.
        on_error: raise: stop at an image that cannot be read; skip: leave it out and say so.
        batch_size: crops per forward pass.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    if out is not None:
        check_writable(out)
    checked = scoring.scoring()
    if weights is None or data is None:
        others = weights or data or root or work_dir or targets or flip or force or on_error != "raise"
        return _tell_once({"": _score_files(features, layout, name, checked, bool(others))}, out)
    keep = _one_folder(features)
    try:
        benchmarks = _read_benchmarks(data, root, targets, layout, name, work_dir)
    except DataError:  # nobody to search for in it; but it may hold photographs of things
        others = bool(keep or flip or force or name or targets or scoring != MARKET_SCORING)
        if root or layout.given() or not evaluate_classes(weights, data, out, on_error, batch_size, device, others):
            raise
        return None
    embedder = Embedder(weights, device=local_device(device), batch_size=batch_size, flip=flip)
    return _tell_once(_score_all(embedder, benchmarks, scoring, force, on_error, keep), out)


def _score_all(
    embedder: Embedder, benchmarks: dict[str, Benchmark | ReidDataset], scoring: ScoringOptions, force: bool,
    on_error: OnError, keep: Path | None,
) -> dict[str, Evaluation | SplitEvaluation]:  # fmt: skip
    results: dict[str, Evaluation | SplitEvaluation] = {}
    card = embedder.network.card
    distance = scoring.distance or (card and card.distance) or "cosine"
    for spec, benchmark in benchmarks.items():
        folder = keep / spec.replace(":", "-").replace(",", "-") if keep and spec else keep
        results[spec] = evaluate_benchmark(
            embedder, benchmark, **{**asdict(scoring), "distance": distance}, force=force, on_error=on_error,
            features=folder, progress=draw_progress,
        )  # fmt: skip
    return results


def _one_folder(features: tuple[Path, ...]) -> Path | None:
    if len(features) > 1 or (features and features[0].is_file()):
        raise DataError("with --weights, --features is one folder that keeps the vectors; without, it is files")
    return features[0] if features else None


def _read_benchmarks(
    data: Path, root: Path | None, targets: tuple[str, ...], layout: FolderOptions, name: str | None,
    work_dir: Path | None,
) -> dict[str, Benchmark | ReidDataset]:  # fmt: skip
    """What to score, by the benchmark's name (empty for a plain folder)."""
    if root is None:
        if targets or work_dir is not None:
            given = f"--targets {' '.join(targets)}" if targets else f"--work-dir {work_dir}"
            raise DataError(f"{given} needs --root, the folder of all data sets")
        if not data.exists() and str(data).partition(":")[0] in BENCHMARKS:
            raise DataError(f"no such folder: {data}; for the benchmark {data} say --root, the folder of all data sets")
        return {"": tell_unlisted(read_dataset(data, layout.layout(), name))}
    if strange := [*layout.given(), *(["--name"] if name is not None else [])]:
        raise DataError(f"with --root, a benchmark says itself who is on its images; leave out {', '.join(strange)}")
    return {spec: read_named(spec, root, work_dir, draw_progress) for spec in dict.fromkeys([str(data), *targets])}


def _tell_once(results: dict[str, Evaluation | SplitEvaluation], out: Path | None) -> None:
    """Of several processes, one speaks and writes: one result as it is, several by name."""
    first = join_processes()[0] == 0
    leave_processes()
    if not first:
        return
    if out is not None:
        contents = {spec: result.to_json() for spec, result in results.items()}
        write_json(out, contents if len(contents) > 1 else next(iter(contents.values())))
    print(*results.values(), sep="\n\n")
    report_failures(list(dict.fromkeys(name for result in results.values() for name in result.unreadable)))


def _score_files(
    files: tuple[Path, ...], layout: FolderOptions, name: str | None, scoring: Scoring, others: bool
) -> Evaluation:
    """Vectors alone. ``others``: flags were given that mean nothing without weights."""
    if others or not files or layout != FolderOptions(csv=layout.csv):
        raise DataError(
            "give --weights and --data, or --features with files of vectors; beside these go --csv, --name, "
            "--rule, --distance, --ap, --seed, --decisions and --out (no --flip, for instance: nothing is embedded)"
        )
    query, gallery = read_labelled(files, layout.csv)
    root = ", ".join(map(str, files))
    return evaluate_vectors(query, gallery, **asdict(scoring), name=name or files[0].stem, root=root)


@app.command
def average(
    files: Annotated[tuple[Path, ...], Positional, tyro.conf.arg(metavar="RESULT.json...")], *, out: Path | None = None
) -> None:
    """Mean and deviation over several results of `osnet evaluate --out`: of splits trained one by one, or of seeds.

    Args:
        files: at least two, each of one data set, by the same protocol.
        out: write the mean here as JSON.
    """
    if out is not None:
        check_writable(out)
    result = average_results(files)
    if out is not None:
        write_json(out, result.to_json())
    print(result)


@app.command
def calibrate(
    *,
    weights: str,
    data: Path,
    fpr: float | None = None,
    fpir: float | None = None,
    out: Path | None = None,
    features: Path | None = None,
    flip: bool = False,
    layout: FolderArgs = PLAIN_FOLDER,
    name: str | None = None,
    force: bool = False,
    on_error: OnError = "raise",
    batch_size: int = 32,
    device: str = "auto",
) -> None:
    """Turn a validation set into a score threshold, and say what it costs.

    `--fpr 0.001`: two crops are compared, and one in a thousand pairs of strangers may pass. `--fpir 0.01`: a crop is
    searched for in a gallery, and one in a hundred searches for unknown identities may return anything. A rate that the
    set is too small for is refused.

    Args:
        weights: a path, or a short name like osnet_x0_25_msmt17.
        data: identities that the weights were not trained on, as for `osnet evaluate`.
        fpr: the share of pairs of different identities that may pass.
        fpir: the share of searches for unknown identities that may return a hit.
        out: write the threshold and all figures here as JSON.
        features: a folder that keeps the vectors.
        flip: average each vector with that of the mirrored crop; then searches must too.
        layout: who is on a crop.
        name: what to call the data set.
        force: use images that the weights were trained on; the result says so.
        on_error: raise: stop at an image that cannot be read; skip: leave it out and say so.
        batch_size: crops per forward pass.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    if out is not None:
        check_writable(out)
    dataset = tell_unlisted(read_dataset(data, layout.layout(), name))
    embedder = Embedder(weights, device=device, batch_size=batch_size, flip=flip)
    result = calibrate_weights(
        embedder, dataset, fpr=fpr, fpir=fpir, force=force, on_error=on_error, features=features, progress=draw_progress
    )
    if out is not None:
        write_json(out, result.to_json())
    print(result)
    report_failures(list(result.unreadable))


@data_app.command(name="generate")
def data_generate(*, out: Path, identities: int = 64, cameras: int = 6, images: int = 4, seed: int = 0) -> None:
    """Generate pedestrians in Market-1501's layout: to try things without any data, not to judge a network.

    Half of the identities train. The same seed gives the same pixels everywhere. Cut off, it goes on.

    Args:
        out: a folder that does not exist yet.
        identities: how many people; a multiple of 8.
        cameras: how many cameras see each of them; at least 2.
        images: per person and camera.
        seed: another seed, other people and other cameras.
    """
    generate_dataset(out, GeneratedSettings(identities, cameras, images, seed), draw_progress)
    print(f"{len(read_annotations(out)):,} images of {identities:,} generated people in {out}")


@app.command
def demo(
    *,
    data: Path | None = None,
    weights: str | None = None,
    out: Path | None = None,
    quick: bool = False,
    device: str = "auto",
) -> None:
    """Generate people, train OSNet and its single-scale baseline, compare them, search, and write a report.

    It takes some minutes on two cores; cut off, it goes on. With --data and --weights nothing is generated
    or trained: the weights are scored on the data, the gallery is indexed, and what is found is drawn.

    Args:
        data: a data set in Market-1501's layout, or with folders query and gallery.
        weights: a path, or a short name like osnet_x0_25_msmt17.
        out: a folder for the results; out/demo, or out/demo-quick.
        quick: toy size, under a minute: to see that everything works.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    if (data is None) != (weights is None):
        raise DataError("--data and --weights go together; give both, or neither to generate people and train")
    out = out or Path("out") / ("demo-quick" if quick else "demo")
    if data is None or weights is None:
        run_demo(out, QUICK if quick else FULL, device, draw_progress)
    else:
        run_demo_on(data, weights, out, device, draw_progress)
