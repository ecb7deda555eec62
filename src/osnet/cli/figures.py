"""osnet figure activation, match, gates, shares, embeddings."""

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional
from tyro.extras import SubcommandApp

from osnet.cli.common import PLAIN_FOLDER, FolderArgs, app, check_counts, check_seed, draw_progress, tell_unlisted
from osnet.data.folder import read_any, read_dataset
from osnet.data.loading import check_header, list_images, no_images
from osnet.embedding.embedder import Embedder
from osnet.errors import DataError
from osnet.figures.activation import DEFAULT_COLOURS, LayerMap, check_colours, collect_maps, draw_activation, wrap_name
from osnet.figures.canvas import check_figure_path
from osnet.figures.embeddings import METHODS, MIN_ON_MAP, Projection, choose_crops, draw_embeddings, project
from osnet.figures.gates import NUM_CLUSTERS, NUM_NEAREST, cluster_gates, draw_clusters, draw_shares, record_gates
from osnet.figures.map_overlap import draw_shares_inside, measure_shares
from osnet.figures.maps import LAST, Measure
from osnet.figures.match import draw_match, explain_match
from osnet.figures.person_boxes import BoxedImage, cut_mot_people, read_boxed_images
from osnet.files import check_writable, write_json
from osnet.types import Crop

figure_app = SubcommandApp()
app.command(figure_app, name="figure", help="Draw what a network sees, chooses and finds: PNG, PDF or SVG.")

PhotosArg = Annotated[tuple[Path, ...], Positional, tyro.conf.arg(metavar="PHOTO_OR_FOLDER...")]


@figure_app.command
def activation(
    photos: PhotosArg = (),
    *,
    weights: str,
    out: Path,
    compare: tuple[str, ...] = (),
    layers: tuple[str, ...] = (LAST,),
    measure: Measure = "absolute",
    colours: str = DEFAULT_COLOURS,
    mot: Path | None = None,
    number: int = 6,
    device: str = "auto",
) -> None:
    """Photos beside what the network looks at, and what another one does.

    Beside each map stand its entropy and, for generated people and --mot, the share of the map inside the person's
    box with what a uniform map would have.

    Args:
        photos: crops of people, or folders of them; of a folder, --number are taken evenly.
        weights: a path or a short name.
        out: ending in .png, .pdf or .svg.
        compare: other weights, to be drawn beside.
        layers: last; stages; streams (of the last block); a module's name like conv4.1; a pattern like
            'conv4.1.streams.*'.
        measure: absolute: sum over channels of absolute values, as the paper says; squares: as the authors' code does.
        colours: viridis, inferno, magma, cividis; or jet, to compare with older figures.
        mot: a MOT17 sequence: its people are cut 1.6 times as large as their boxes.
        number: how many of a folder or a sequence.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    check_figure_path(out)
    check_colours(colours)
    if not layers:
        raise DataError("layers: name at least one, or leave the option out for the last")
    shown = read_boxed_images(_list_photos(photos, number)) + (cut_mot_people(mot, number) if mot is not None else [])
    if not shown:
        raise DataError("nothing to look at; give photos, folders of photos, or --mot SEQUENCE")
    embedders = load_all((weights, *compare), device)
    maps = collect_maps(shown, embedders, layers, measure)
    draw_activation(shown, maps, out, colours=colours, measure=measure)
    _print_maps(shown, maps)
    print(f"{len(shown)} photos in {out}")


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
    """Which parts of the query made a picture a hit, and what set it apart from the next identity.

    Args:
        query: the photo that was searched for.
        hit: what was found.
        following: a picture of the next identity in the list.
        weights: a path or a short name.
        out: ending in .png, .pdf or .svg.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    check_figure_path(out)
    photos = read_boxed_images([query, hit, *([following] if following is not None else [])])
    maps = explain_match(Embedder(weights, device=device), *[photo.image for photo in photos])
    draw_match(photos, maps, out)
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
    """Fig. 5: images grouped by what the gates of the last block say, and the share of each scale, block by block.

    Args:
        data: a folder of images, or a data set: of its folders every image, whoever is on it.
        weights: a path or a short name, of a network with gates.
        out: the images nearest to the clusters' centres; ending in .png, .pdf or .svg.
        shares_out: the plot of shares; by default beside it, with -shares in its name.
        examples: images whose shares are drawn one by one; they are clustered with the others. By default the one
            nearest to each centre.
        clusters: of k-means.
        shown: how many of the largest clusters.
        nearest: images per cluster.
        number: at most so many images, taken evenly.
        seed: of k-means.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    shares_out = shares_out or out.with_name(f"{out.stem}-shares{out.suffix}")
    for path in (out, shares_out):
        check_figure_path(path)
    check_counts(clusters=clusters, shown=shown, nearest=nearest, number=number)
    check_seed(seed)
    for example in examples:
        check_header(example)
    paths = list(dict.fromkeys([*_list_photos((data,), number), *examples]))
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
    """Shares of two networks' maps inside the person's box, beside controls, on the queries of generated people.

    A network's map has a shape of its own. So each share stands beside two that know nothing of the person: of the map
    of another image, and of maps of noise, in the same box. Only what differs beyond these is a difference of looking.

    Args:
        data: a generated data set, whose boxes are known.
        weights: a path or a short name.
        compare: the other network.
        out: the plot; ending in .png, .pdf or .svg.
        json_out: the numbers.
        measure: absolute or squares.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    check_figure_path(out)
    if json_out is not None:
        check_writable(json_out)
    found = measure_shares(read_dataset(data).query.crops, load_all((weights, compare), device), measure, draw_progress)
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
    """A data set's embeddings as a map in two dimensions, with thumbnails.

    Args:
        data: a data set (its gallery is drawn), or a folder of crops by identity.
        weights: a path or a short name.
        out: ending in .png, .pdf or .svg.
        number: at most so many images, of whole people; at least 3.
        method: tsne keeps neighbours together; pca keeps large directions.
        seed: of t-SNE.
        layout: who is on a crop.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    check_figure_path(out)
    check_seed(seed)
    if number < MIN_ON_MAP:
        raise DataError(f"number {number} must be at least {MIN_ON_MAP}: a map of fewer images says nothing")
    dataset = tell_unlisted(read_any(data, layout.layout()))
    crops: tuple[Crop, ...] = dataset.gallery.crops or dataset.train.crops
    chosen = [crops[i] for i in choose_crops(crops, number)]
    if len(chosen) < MIN_ON_MAP:
        raise DataError(
            f"{data}: {len(chosen)} of its {len(crops)} images would be drawn at number {number}; a map needs at least "
            f"{MIN_ON_MAP}: ask for more, or bring more"
        )
    embedder = Embedder(weights, device=device)
    vectors = embedder.embed(draw_progress([crop.path for crop in chosen], len(chosen), "embed"))
    people = len({crop.pid for crop in chosen})
    title = f"{dataset.name}: {len(chosen)} images of {people} people by {name_all([weights])[0]}, {METHODS[method]}"
    draw_embeddings(project(vectors, method, seed), chosen, out, title)
    print(f"{len(chosen)} images of {people} people in {out}")


def _list_photos(given: tuple[Path, ...], number: int) -> list[Path]:
    """Files as they are; of a folder, ``number`` images taken evenly."""
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
    """Embedders by the short names of ``name_all``."""
    return {n: Embedder(w, device=device) for n, w in zip(name_all(list(weights)), weights, strict=True)}


def name_all(weights: list[str]) -> list[str]:
    """Short names that differ: the last part of each path that says something."""
    names: list[str] = []
    for each in weights:
        parts = [part for part in Path(each).parts if part not in ("weights", "best", "/")]
        name = Path(parts[-1] if parts else each).name.removesuffix(".pth").removesuffix(".pt")
        names.append(name if name not in names else f"{name} ({len(names) + 1})")
    return names


def _print_maps(shown: list[BoxedImage], maps: list[list[LayerMap]]) -> None:
    for photo, row in zip(shown, maps, strict=True):
        for seen in row:
            print(f"{photo.name}  {seen.network} {seen.layer}: {' '.join(seen.caption.split())}")
