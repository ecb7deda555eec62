"""osnet figure: draw activation maps, matches, gates, ranked lists and curves."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional
from tyro.extras import SubcommandApp

from osnet.cli.common import (
    PLAIN_FOLDER,
    FolderArgs,
    FolderOptions,
    Texts,
    app,
    check_counts,
    check_seed,
    draw_progress,
    tell_unlisted,
)
from osnet.data.folder import read_any, read_dataset
from osnet.data.loading import check_header, list_images, no_images
from osnet.embedding.embedder import Embedder
from osnet.errors import DataError
from osnet.evaluation.ranked_lists import Rankings, pick_queries
from osnet.figures.activation import DEFAULT_COLOURS, LayerMap, check_colours, collect_maps, draw_activation, wrap_name
from osnet.figures.canvas import check_figure_path, save_figure
from osnet.figures.curves import Line, LineStyle, make_precision_recall, make_roc, plot_lines, plot_scores
from osnet.figures.embeddings import METHODS, MIN_ON_MAP, Projection, choose_crops, draw_embeddings, project
from osnet.figures.gates import NUM_CLUSTERS, NUM_NEAREST, cluster_gates, draw_clusters, draw_shares, record_gates
from osnet.figures.map_overlap import draw_shares_inside, measure_shares
from osnet.figures.maps import LAST, Measure
from osnet.figures.match import draw_match, explain_match
from osnet.figures.person_boxes import BoxedImage, cut_mot_people, read_boxed_images
from osnet.figures.ranked_list import save_ranked_lists
from osnet.figures.report_data import (
    DEFAULT_FPR,
    PLACES,
    EvaluatedNetwork,
    check_people,
    count_of,
    evaluate_network,
    features_folder,
    read_run,
)
from osnet.files import check_writable, make_folder, write_json
from osnet.types import Crop, ReidDataset

figure_app = SubcommandApp()
app.command(
    figure_app, name="figure", help="Draw activation maps, matches, gates, ranked lists and curves: PNG, PDF or SVG."
)

ImagesArg = Annotated[tuple[Path, ...], Positional, tyro.conf.arg(metavar="IMAGE_OR_FOLDER...")]


Curve = Literal["cmc", "precision-recall", "roc", "scores", "training"]
FLAGS_OF_DATA = ("--data", "--weights", "--features", "--force", "--device", *FolderOptions.FLAGS)
USED = {
    "cmc": FLAGS_OF_DATA,
    "precision-recall": FLAGS_OF_DATA,
    "roc": FLAGS_OF_DATA,
    "scores": (*FLAGS_OF_DATA, "--threshold"),
    "training": ("--run",),
}
"""The flags that each kind of curve accepts beside ``--out``."""


@figure_app.command
def activation(
    images: ImagesArg = (),
    *,
    weights: str,
    out: Path,
    compare: Texts = (),
    layers: Texts = (LAST,),
    measure: Measure = "absolute",
    colours: str = DEFAULT_COLOURS,
    mot: Path | None = None,
    number: int = 6,
    device: str = "auto",
) -> None:
    """Draw activation maps beside the images, for one or several weights.

    Each map is labelled with its entropy. For generated people and --mot, it is also labelled with the share of the map
    inside the person's box, beside the share of a uniform map.

    Args:
        images: crops of people, or folders of crops; of each folder, --number crops are taken at even steps.
        weights: a path or a short name.
        out: a file that ends in .png, .pdf or .svg.
        compare: other weights; their maps are drawn beside the first ones.
        layers: last; stages; streams (of the last block); the name of a module like conv4.1; a pattern like
            'conv4.1.streams.*'.
        measure: absolute: sum of absolute values over channels, as in the paper; squares: sum of squares, as in the
            authors' code.
        colours: viridis, inferno, magma, cividis; or jet, to compare with older figures.
        mot: a MOT17 sequence; its people are cut out 1.6 times as large as their boxes.
        number: number of images to take from each folder, and from the sequence.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    paths = _list_paths(images, number)
    check_figure_path(out, reads=paths)
    check_colours(colours)
    if not layers:
        raise DataError("--layers is empty; name at least one layer, or leave the option out for the last one")
    shown = read_boxed_images(paths) + (cut_mot_people(mot, number) if mot is not None else [])
    if not shown:
        raise DataError("no images were given; name images, folders of images, or --mot SEQUENCE")
    embedders = load_all((weights, *compare), device)
    maps = collect_maps(shown, embedders, layers, measure)
    draw_activation(shown, maps, out, colours=colours, measure=measure)
    _print_maps(shown, maps)
    print(f"{len(shown)} images in {out}")


@figure_app.command
def match(
    query: Annotated[Path, Positional, tyro.conf.arg(metavar="QUERY")],
    hit: Annotated[Path, Positional, tyro.conf.arg(metavar="HIT")],
    following: Annotated[Path | None, Positional, tyro.conf.arg(metavar="NEXT")] = None,
    *,
    weights: str,
    out: Path,
    device: str = "auto",
) -> None:
    """Draw which parts of the query match a hit, and which distinguish the hit from the next identity.

    Args:
        query: the query image.
        hit: an image that the search returned.
        following: an image of the next identity in the ranked list.
        weights: a path or a short name.
        out: a file that ends in .png, .pdf or .svg.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    images = [query, hit, *([following] if following is not None else [])]
    check_figure_path(out, reads=images)
    boxed = read_boxed_images(images)
    maps = explain_match(Embedder(weights, device=device), *[each.image for each in boxed])
    draw_match(boxed, maps, out)
    apart = "" if maps.next_score is None else f", next identity {maps.next_score:.3f}"
    print(f"score {maps.score:.3f}{apart}; drawn in {out}")


@figure_app.command
def gates(
    data: Annotated[Path, Positional, tyro.conf.arg(metavar="DATA")],
    *,
    weights: str,
    out: Path,
    shares_out: Path | None = None,
    examples: tuple[Path, ...] = (),
    clusters: int = NUM_CLUSTERS,
    shown: int = 4,
    nearest: int = NUM_NEAREST,
    number: int = 2000,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Draw Fig. 5 of the paper: images clustered by the gates of the last block, and the share of each scale per block.

    Args:
        data: a folder of images, or a data set, of which all images are used.
        weights: a path or a short name; the network must have gates.
        out: the images nearest to the centres of the clusters; a file that ends in .png, .pdf or .svg.
        shares_out: the plot of shares; default: beside --out, with -shares in its name.
        examples: images whose shares are drawn singly; they are clustered with the others. Default: the image
            nearest to each centre.
        clusters: number of clusters of k-means.
        shown: number of clusters to draw, the largest first.
        nearest: number of images to draw per cluster.
        number: largest number of images, taken at even steps.
        seed: seed of k-means.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    shares_out = shares_out or out.with_name(f"{out.stem}-shares{out.suffix}")
    check_figure_path(out)
    check_figure_path(shares_out, reads=[out])
    check_counts(clusters=clusters, shown=shown, nearest=nearest, number=number)
    check_seed(seed)
    for example in examples:
        check_header(example)
    paths = list(dict.fromkeys([*_list_paths((data,), number), *examples]))
    for path in (out, shares_out):
        check_writable(path, reads=paths)
    record = record_gates(Embedder(weights, device=device), paths, draw_progress)
    grouped = cluster_gates(record, clusters, seed)
    draw_clusters(record, grouped, paths, out, shown, nearest)
    single = {f"cluster {k + 1}": (paths[m[0]], int(m[0])) for k, m in enumerate(grouped.nearest[:shown])}
    if examples:
        single = {f"{n}. {wrap_name(p.name, letters=16)}": (p, paths.index(p)) for n, p in enumerate(examples, 1)}
    draw_shares(record, shares_out, single, data.name)
    print(f"{len(paths)} images in {clusters} clusters of {', '.join(str(len(m)) for m in grouped.nearest)}: {out}")
    print(f"shares of the scales: {shares_out}")


@figure_app.command
def shares(
    data: Annotated[Path, Positional, tyro.conf.arg(metavar="GENERATED")],
    *,
    weights: str,
    compare: str,
    out: Path,
    json_out: Path | None = None,
    measure: Measure = "absolute",
    device: str = "auto",
) -> None:
    """Compare how much of two networks' activation maps lies inside the person's box, on queries of generated people.

    A network's maps have a typical shape whatever the image is. So each share is drawn beside two controls that do not
    depend on the person: the share in the same box of another image's map, and of maps of noise. Only a difference
    beyond these controls is a difference between the networks' attention.

    Args:
        data: a generated data set, for which the boxes are known.
        weights: a path or a short name.
        compare: the other network.
        out: the plot; a file that ends in .png, .pdf or .svg.
        json_out: write the shares here as JSON.
        measure: absolute or squares.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    check_figure_path(out)
    if json_out is not None:
        check_writable(json_out, reads=[out])
    crops = read_dataset(data).query.crops
    check_writable(out, reads=[crop.path for crop in crops])
    found = measure_shares(crops, load_all((weights, compare), device), measure, draw_progress)
    draw_shares_inside(found, out)
    if json_out is not None:
        write_json(json_out, found.to_json())
    print(found)


@figure_app.command
def embeddings(
    data: Annotated[Path, Positional, tyro.conf.arg(metavar="DATA")],
    *,
    weights: str,
    out: Path,
    number: int = 400,
    method: Projection = "tsne",
    seed: int = 0,
    layout: FolderArgs = PLAIN_FOLDER,
    device: str = "auto",
) -> None:
    """Draw the embeddings of a data set in two dimensions, with thumbnails.

    Args:
        data: a data set (its gallery is drawn), or a folder of crops by identity.
        weights: a path or a short name.
        out: a file that ends in .png, .pdf or .svg.
        number: largest number of images, all those of each chosen person; at least 3.
        method: tsne keeps neighbours together; pca keeps large directions.
        seed: seed of t-SNE.
        layout: where identities and cameras are read from.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    check_figure_path(out)
    check_seed(seed)
    if number < MIN_ON_MAP:
        raise DataError(f"number {number} must be at least {MIN_ON_MAP}")
    dataset = tell_unlisted(read_any(data, layout.layout()))
    crops: tuple[Crop, ...] = dataset.gallery.crops or dataset.train.crops
    chosen = [crops[i] for i in choose_crops(crops, number)]
    check_writable(out, reads=[crop.path for crop in chosen])
    if len(chosen) < MIN_ON_MAP:
        raise DataError(
            f"{data}: --number {number} selects {len(chosen)} of {len(crops)} images; at least {MIN_ON_MAP} needed: "
            "raise --number, or use a larger data set"
        )
    embedder = Embedder(weights, device=device)
    vectors = embedder.embed(draw_progress([crop.path for crop in chosen], len(chosen), "embed"))
    people = len({crop.pid for crop in chosen})
    title = f"{dataset.name}: {len(chosen)} images of {people} people by {name_all([weights])[0]}, {METHODS[method]}"
    draw_embeddings(project(vectors, method, seed), chosen, out, title)
    print(f"{len(chosen)} images of {people} people in {out}")


def _list_paths(given: tuple[Path, ...], number: int) -> list[Path]:
    """The given files, and from each folder ``number`` images at even steps."""
    check_counts(number=number)
    paths: list[Path] = []
    for path in given:
        if path.is_dir():
            found = list(list_images(path))
            if not found:
                raise no_images(path)
            wanted = min(number, len(found))
            paths += [found[i * len(found) // wanted] for i in range(wanted)]
        else:
            paths.append(path)
    return paths


def load_all(weights: tuple[str, ...], device: str) -> dict[str, Embedder]:
    """Open an embedder for each of ``weights``, under the short names of ``name_all``."""
    return {n: Embedder(w, device=device) for n, w in zip(name_all(list(weights)), weights, strict=True)}


def name_all(weights: list[str]) -> list[str]:
    """Short names: the last part of each path that is not ``weights`` or ``best``.

    They differ also as names of folders (``features_folder``).
    """
    names: list[str] = []
    folders: set[Path] = set()
    for each in weights:
        parts = [part for part in Path(each).parts if part not in ("weights", "best", "/")]
        name = Path(parts[-1] if parts else each).name.removesuffix(".pth").removesuffix(".pt")
        number, own = len(names) + 1, name
        while features_folder(Path(), own) in folders:
            own = f"{name} ({number})"
            number += 1
        folders.add(features_folder(Path(), own))
        names.append(own)
    return names


def _print_maps(shown: list[BoxedImage], maps: list[list[LayerMap]]) -> None:
    for image, row in zip(shown, maps, strict=True):
        for layer_map in row:
            print(f"{image.name}  {layer_map.network} {layer_map.layer}: {' '.join(layer_map.caption.split())}")


@figure_app.command
def ranks(
    data: Annotated[Path, Positional, tyro.conf.arg(metavar="DATA")],
    *,
    weights: str,
    out: Path,
    query: Texts = (),
    top: int = 10,
    features: Path | None = None,
    force: bool = False,
    layout: FolderArgs = PLAIN_FOLDER,
    device: str = "auto",
) -> None:
    """Draw ranked lists of five queries: best, median and worst by average precision, and two in between.

    A double frame marks the right identity, a single frame another one. A bar marks an image that the protocol ignores.

    Args:
        data: a data set with query and gallery.
        weights: a path or a short name.
        out: a file that ends in .png, .pdf or .svg.
        query: file names of the queries to draw instead.
        top: length of each list, including ignored images.
        features: keep the embeddings in this folder.
        force: accept weights that were trained on these images.
        layout: where identities and cameras are read from.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    check_figure_path(out)
    check_counts(top=top)
    dataset = _read_for(out, data, layout)
    names = [crop.path.name for crop in dataset.query.crops]
    if unknown := [name for name in query if name not in names]:
        raise DataError(f"unknown query {', '.join(unknown)}; queries have names like {', '.join(names[:1])}")
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
    weights: Texts = (),
    run: tuple[Path, ...] = (),
    threshold: str | None = None,
    features: Path | None = None,
    force: bool = False,
    layout: FolderArgs = PLAIN_FOLDER,
    device: str = "auto",
) -> None:
    """Draw curves: cmc, precision-recall or roc of several weights, the scores of one, or the training loss of runs.

    Args:
        kind: cmc, precision-recall, roc, scores, training.
        out: a file that ends in .png, .pdf or .svg.
        data: a data set with query and gallery; for all kinds except training.
        weights: one or more paths or short names; for all kinds except training.
        run: folders of runs; for training.
        threshold: for scores: a cosine, or a file of `osnet calibrate --fpr`. Default: 1 in 1,000 pairs of different
            identities passes.
        features: keep the embeddings in this folder.
        force: accept weights that were trained on these images.
        layout: where identities and cameras are read from.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    check_figure_path(out)
    given = {
        "--data": data,
        "--weights": weights,
        "--run": run,
        "--threshold": threshold,
        "--features": features,
        "--force": force,
        "--device": device != "auto",
        **dict.fromkeys(layout.given(), True),
    }
    _refuse_unused(kind, [flag for flag, value in given.items() if value])
    if kind == "training":
        _draw_training(run, out)
    elif data is None or not weights:
        raise DataError(f"{kind} needs --data FOLDER and --weights PATH_OR_NAME ...")
    elif kind == "scores" and len(weights) != 1:
        raise DataError(f"scores takes one of --weights, not {len(weights)}")
    else:
        limit = parse_threshold(threshold)
        dataset = _read_for(out, data, layout)
        if kind != "cmc":
            check_people(dataset)
        embedders = load_all(weights, device)
        if limit is not None:
            limit.check(next(iter(embedders.values())))
        studied = _study_all(embedders, dataset, features, force)
        _draw_curves(kind, dataset, studied, out, limit.score if limit else None)
    print(f"{kind} in {out}")


def _read_for(out: Path, data: Path, layout: FolderOptions) -> ReidDataset:
    """Read a data set; raise OutputError if ``out`` is one of its query or gallery images."""
    dataset = tell_unlisted(read_dataset(data, layout.layout()))
    if out.exists():
        check_writable(out, reads=[crop.path for part in (dataset.query, dataset.gallery) for crop in part.crops])
    return dataset


def _refuse_unused(kind: Curve, given: list[str]) -> None:
    """Raise DataError for options that this kind of curve does not use."""
    if unused := [flag for flag in given if flag not in USED[kind]]:
        raise DataError(f"{kind} does not take {', '.join(unused)}; it takes --out, {', '.join(USED[kind])}")


def _draw_training(runs: tuple[Path, ...], out: Path) -> None:
    lines = {}
    for name, folder in zip(name_all([str(run) for run in runs]), runs, strict=True):
        line = read_run(folder)[1]
        if line is None:
            raise DataError(f"{folder} has no metrics.jsonl with losses; give the folder of a run")
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


@dataclass(frozen=True)
class Threshold:
    """The cosine from which two crops count as the same identity."""

    score: float
    source: str
    """What the user gave: the number, or the file. For messages."""
    made_for: str | None = None
    """SHA-256 of the network that it was calibrated for, if known."""

    def __post_init__(self) -> None:
        if not -1 <= self.score <= 1:
            raise DataError(f"threshold {self.source} must be a cosine, a number from -1 to 1")

    def check(self, embedder: Embedder) -> None:
        """Raise DataError if the threshold was calibrated for other weights."""
        if self.made_for is not None and self.made_for != embedder.sha256():
            raise DataError(
                f"{self.source} was calibrated for other weights (network {self.made_for[:12]}...); "
                "run osnet calibrate with these weights"
            )


def parse_threshold(text: str | None) -> Threshold | None:
    """Read a threshold: a number, or a file that ``osnet calibrate`` wrote.

    A threshold for searches (``--fpir``) is an error. It applies to the best score of a whole gallery, but the error
    rates of these figures are those of single pairs.

    Raises:
        DataError: ``text`` is neither a number from -1 to 1 nor a readable file with a threshold for pairs.
    """
    if text is None:
        return None
    try:
        return Threshold(float(text), text)
    except ValueError as error:
        if isinstance(error, DataError):
            raise
    try:
        content = json.loads(Path(text).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"threshold {text} is neither a number from -1 to 1 nor a file that exists") from error
    except OSError as error:
        raise DataError(f"cannot read {text}: {error.strerror}") from error
    except (ValueError, RecursionError):  # not JSON; the message below says what is expected
        content = None
    score = content.get("threshold") if isinstance(content, dict) else None
    if not isinstance(score, int | float) or isinstance(score, bool):
        raise DataError(f'{text} is not a file of `osnet calibrate --out`: it has no number "threshold"')
    if content.get("kind") == "identification":
        raise DataError(
            f"{text} contains a threshold for searches (calibrate --fpir), but this figure shows pairs; give a file of "
            f"calibrate --fpr, or the number itself: --threshold {score:.4f}"
        )
    weights = content.get("weights")
    made_for = weights.get("network_sha256") if isinstance(weights, dict) else None
    return Threshold(score, f"{score} of {text}", made_for if isinstance(made_for, str) else None)


@contextmanager
def kept_in(features: Path | None) -> Iterator[Path]:
    """The folder for embeddings: the given one, or a temporary one that is deleted at the end."""
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
