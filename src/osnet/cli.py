"""The command line. Each command is one function; tyro derives its flags from the signature."""

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import tyro
from tqdm import tqdm
from tyro.conf import Positional
from tyro.extras import SubcommandApp

from osnet.data.folder import FolderLayout, IdentityFrom, parse_time, read_dataset, read_folder
from osnet.data.loading import list_images
from osnet.errors import DataError, OsnetError, OutputError
from osnet.files import check_writable, write_json
from osnet.gallery import Gallery, Where
from osnet.inference.embedder import Embedder, OnError
from osnet.inference.vectors import embed_files
from osnet.models.counting import count_cost
from osnet.models.registry import PUBLISHED_COSTS, VARIANTS, build_on_meta, list_models
from osnet.types import DISTRACTOR_PID, Hit, Item

app = SubcommandApp()
data_app = SubcommandApp()
gallery_app = SubcommandApp()
app.command(data_app, name="data")
app.command(gallery_app, name="gallery")

EXIT_FOUND_TROUBLE = 1
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130
INDEX_CHUNK = 2048
"""Rows that ``osnet index`` collects before it writes them."""


def draw_progress(iterable: Iterable[Any], total: int, label: str) -> Iterable[Any]:
    """A bar on standard error, gone where that is no terminal."""
    return tqdm(iterable, total=total, desc=label, unit="img", disable=None, dynamic_ncols=True)


@app.command
def models(
    pattern: Positional[str] = "*",
    *,
    size: tuple[int, int] = (256, 128),
    classes: int = 0,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """List networks with their parameters and multiply-adds, counted, beside what was published.

    Args:
        pattern: names to show; * and ? are wildcards.
        size: height and width of the input in pixels.
        classes: outputs of a classifier on top, counted in; 0 for none.
        as_json: print JSON.
    """
    if min(size) < 16 or classes < 0:
        raise DataError(f"size {size} must be at least 16 x 16, and classes {classes} at least 0")
    rows = []
    for name in list_models(pattern):
        cost = count_cost(build_on_meta(VARIANTS[name].config), size, classes)
        published = PUBLISHED_COSTS.get((name, size, classes))
        rows.append(
            {"name": name, **asdict(cost), "published": published and asdict(published), "about": VARIANTS[name].about}
        )
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    if not rows:
        raise DataError(f"no model matches {pattern!r}; `osnet models` lists all")
    head = f" + classifier of {classes}" if classes else ""
    print(f"input {size[0]} x {size[1]} (height x width){head}")
    print(f"{'model':<24}{'params':>11}{'mult-adds':>13}  {'published':<38}about")
    for row in rows:
        p = row["published"]
        shown = f"{p['params']} / {p['madds']} ({p['source']})" if p else "-"
        print(f"{row['name']:<24}{row['params']:>11,}{row['madds'] / 1e6:>12.2f}M  {shown:<38}{row['about']}")
    print(
        "Counted from the built network: each parameter once (a shared gate too); one multiply-add per use of a\n"
        "convolution's or dense layer's weight, one more per output with a bias; normalisation, activation, pooling,\n"
        "gating and shuffling nothing. Table A's multiply-adds lie 0.8 to 1.4 % higher: by one operation per\n"
        "BatchNorm output, it seems, and without the classifier. Table 5's pairs are published rank-1 / mAP on\n"
        "Market-1501, trained from scratch."
    )


@app.command
def weights(*, as_json: Annotated[bool, tyro.conf.arg(name="json")] = False) -> None:
    """List the published weights that can be named, as MODEL_DATASET, instead of a path.

    Args:
        as_json: print JSON.
    """
    from osnet.models.published import PUBLISHED, REPOSITORY
    from osnet.models.weights import LICENCE_ZOO

    if as_json:
        print(json.dumps([asdict(w) for w in PUBLISHED.values()], indent=2))
        return
    for w in PUBLISHED.values():
        notes = (
            "name by pattern, never seen" if w.by_pattern else "name seen",
            "hash known" if w.sha256 else "no hash",
        )
        print(f"{w.model}_{w.dataset:<20} {', '.join(notes)}\n    {w.file}")
    print(f"From {REPOSITORY} on Hugging Face, or from the folder $OSNET_WEIGHTS.\nLicence: {LICENCE_ZOO}")


@app.command
def convert(
    source: Positional[Path],
    target: Positional[Path],
    *,
    architecture: str | None = None,
    overwrite: bool = False,
) -> None:
    """Convert weights between Torchreid's files and this package's folders, whichever way.

    Args:
        source: a checkpoint folder, or a Torchreid or BoxMOT file (.pth, .pt, .pth.tar-60).
        target: ending in .pth, .pt or .tar: a file for Torchreid and BoxMOT; anything else: a checkpoint folder.
        architecture: the network's name, where neither the file's name nor its tensors tell.
        overwrite: replace what is at the target.
    """
    from osnet.models.weights import convert as convert_weights

    card = convert_weights(source, target, architecture=architecture, overwrite=overwrite)
    print(f"{target}: {card.name}, trained on {card.training_data}, {card.num_classes} classes, sha256 {card.sha256}")
    print(f"licence: {card.licence}")


@app.command
def embed(
    inputs: Positional[tuple[Path, ...]],
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
    paths = _list_inputs(inputs)
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists; choose another name or say --overwrite")
    check_writable(out)
    embedder = Embedder(weights, device=device, batch_size=batch_size, normalize=normalize)
    result = embed_files(embedder, paths, out, on_error=on_error, progress=draw_progress)
    print(f"{len(result)} vectors of {embedder.embedding_size} in {out}")
    _report_failures([str(failure) for failure in result.failures])


@app.command
def index(
    crops: Positional[Path],
    *,
    out: Path,
    weights: str | None = None,
    identity_from: IdentityFrom | None = None,
    pattern: str | None = None,
    csv: Path | None = None,
    on_error: OnError = "raise",
    batch_size: int = 32,
    device: str = "auto",
) -> None:
    """Put a folder of crops into a gallery, new or old. What is in it already is passed over.

    The gallery keeps a copy of the weights, so that searching needs nothing else.

    Args:
        crops: the folder.
        out: the gallery's folder.
        weights: a path or a short name; needed for a new gallery.
        identity_from: where to read who is on a crop. By default: the pattern or CSV if given; else Market-1501's
            names if all fit; else identities are unknown.
        pattern: a regular expression for the path, with groups (?P<identity>...), (?P<camera>...), (?P<time>...).
        csv: a table with the columns path, identity, camera, time.
        on_error: raise: stop at an image that cannot be read; skip: leave it out and say so.
        batch_size: crops per forward pass.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    items = _read_items(crops, identity_from, pattern, csv)
    gallery, embedder = _open_gallery(out, weights, device, batch_size)
    known = gallery.sources()
    todo = {item.source: item for item in items if item.source not in known}
    waiting: list[Any] = []
    failures: list[str] = []

    def flush() -> None:
        if waiting:
            vectors = [row for batch in waiting for row in batch.vectors]
            names = [name for batch in waiting for name in batch.names]
            gallery.add(vectors, [todo[name] for name in names], weights_sha256=embedder.sha256())
            waiting.clear()

    try:
        for batch in embedder.stream(draw_progress(list(todo), len(todo), "index"), on_error=on_error):
            failures += [str(failure) for failure in batch.failures]
            if batch.names:
                waiting.append(batch)
            if sum(map(len, waiting)) >= INDEX_CHUNK:
                flush()
    finally:  # cut off or stopped by a bad image: what went well is kept, and the next call goes on
        flush()
    print(
        f"{len(todo) - len(failures)} crops added to {out}, {len(items) - len(todo)} were there; {len(gallery)} in all"
    )
    _report_failures(failures)


@app.command
def search(
    gallery: Positional[Path],
    photo: Positional[Path],
    *,
    top: int = 10,
    identity: tuple[str, ...] = (),
    camera: tuple[str, ...] = (),
    after: str | None = None,
    before: str | None = None,
    source: str | None = None,
    weights: str | None = None,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
    sheet: Path | None = None,
    device: str = "auto",
) -> None:
    """Search a gallery for the person on a photo. The score is a cosine: higher is closer.

    Args:
        gallery: its folder.
        photo: a crop of one person.
        top: how many hits.
        identity: only these people.
        camera: only these cameras.
        after: only what was taken at this time or later (seconds or ISO 8601, UTC).
        before: only what was taken at this time or earlier.
        source: only sources that match this pattern, such as 'monday/*'.
        weights: instead of the copy in the gallery; others are refused.
        as_json: print JSON.
        sheet: also draw the hits into this PNG.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    if sheet is not None:
        check_writable(sheet)
    where = _where(identity, camera, after, before, source)
    store, embedder = _open_gallery(gallery, weights, device, 1, must_exist=True)
    hits = store.search(embedder.embed(photo), weights_sha256=embedder.sha256(), top=top, where=where)
    if as_json:
        print(json.dumps({"query": str(photo), "hits": [_hit_json(hit) for hit in hits]}, indent=2))
    else:
        print(f"{'rank':>4}  {'score':>6}  {'identity':<10}{'camera':<8}source")
        for hit in hits:
            item = hit.item
            print(f"{hit.rank:>4}  {hit.score:6.3f}  {item.identity or '-':<10}{item.camera or '-':<8}{item.source}")
        if not hits:
            print("nothing in the gallery passes these conditions")
    if sheet is not None:
        from osnet.figures.ranks import RankedList, save_ranked_lists

        save_ranked_lists([RankedList(photo, hits)], sheet, f"{photo.name} in {gallery}")


@app.command
def evaluate(
    *,
    weights: str,
    data: Path,
    out: Path | None = None,
    identity_from: IdentityFrom = "auto",
    pattern: str | None = None,
    csv: Path | None = None,
    name: str | None = None,
    features: Path | None = None,
    force: bool = False,
    on_error: OnError = "raise",
    batch_size: int = 32,
    device: str = "auto",
) -> None:
    """Score weights on a data set by Market-1501's rule: CMC, mAP, mINP.

    Args:
        weights: a path, or a short name like osnet_x0_25_msmt17.
        data: Market-1501's layout; or folders query and gallery; or, with a CSV that has a column split, any folder.
        out: write the result here as JSON.
        identity_from: where to read who is on a crop: auto, subfolders, pattern, csv, market1501.
        pattern: a regular expression for the path, with groups (?P<identity>...) and (?P<camera>...).
        csv: a table with the columns path, identity, camera, split.
        name: what to call the data set.
        features: keep the vectors in this folder; a run that was cut off goes on from there.
        force: evaluate weights on images they were trained on; the result says so.
        on_error: raise: stop at an image that cannot be read; skip: leave it out and say so.
        batch_size: crops per forward pass.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    from osnet.evaluation import evaluate as evaluate_weights

    if out is not None:
        check_writable(out)
    dataset = read_dataset(data, FolderLayout(identity_from, pattern, csv), name)
    embedder = Embedder(weights, device=device, batch_size=batch_size)
    result = evaluate_weights(
        embedder, dataset, force=force, on_error=on_error, features=features, progress=draw_progress
    )
    if out is not None:
        write_json(out, result.to_json())
    print(result)


@data_app.command(name="check")
def data_check(
    folder: Positional[Path],
    *,
    identity_from: IdentityFrom = "auto",
    pattern: str | None = None,
    csv: Path | None = None,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Count identities, images and cameras, and name what would break training or evaluation.

    The exit status is 1 if something would.

    Args:
        folder: a data set, or any folder of crops (taken as a training split).
        identity_from: where to read who is on a crop: auto, subfolders, pattern, csv, market1501.
        pattern: a regular expression for the path, with groups (?P<identity>...) and (?P<camera>...).
        csv: a table with the columns path, identity, camera, split.
        as_json: print JSON, with every name.
    """
    from osnet.data.check import check_dataset
    from osnet.data.folder import read_any

    dataset = read_any(folder, FolderLayout(identity_from, pattern, csv))
    report = check_dataset(dataset, lambda iterable, total: draw_progress(iterable, total, "check"))
    print(json.dumps(report.to_json(), indent=2) if as_json else report)
    if not report.ok:
        raise SystemExit(EXIT_FOUND_TROUBLE)


@gallery_app.command(name="show")
def gallery_show(gallery: Positional[Path]) -> None:
    """Say what a gallery holds.

    Args:
        gallery: its folder.
    """
    store = Gallery.open(gallery)
    people = {item.identity for item in store.items if item.identity}
    cameras = {item.camera for item in store.items if item.camera}
    print(f"{len(store)} items, {len(people)} known identities, {len(cameras)} known cameras")
    print(f"vectors of {store.weights_name}, sha256 {store.weights_sha256}")


@gallery_app.command(name="remove")
def gallery_remove(
    gallery: Positional[Path],
    *,
    identity: tuple[str, ...] = (),
    camera: tuple[str, ...] = (),
    after: str | None = None,
    before: str | None = None,
    source: str | None = None,
) -> None:
    """Delete items for good: their bytes are in none of the gallery's files afterwards.

    Items that meet all conditions given are deleted; at least one is needed.

    Args:
        gallery: its folder.
        identity: these people.
        camera: from these cameras.
        after: taken at this time or later.
        before: taken at this time or earlier.
        source: sources that match this pattern.
    """
    store = Gallery.open(gallery)
    removed = store.remove(_where(identity, camera, after, before, source))
    print(f"{removed} items removed, {len(store)} left")


@app.command
def demo(*, data: Path, weights: str, out: Path = Path("out/demo"), device: str = "auto") -> None:
    """Evaluate, index and search a data set, and draw what was found.

    Args:
        data: a data set in Market-1501's layout, or with folders query and gallery.
        weights: a path, or a short name like osnet_x0_25_msmt17.
        out: a folder for the results.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    from osnet.demo import run_demo

    run_demo(data, weights, out, device, draw_progress)


def _list_inputs(inputs: Iterable[Path]) -> list[Path]:
    paths: list[Path] = []
    for path in inputs:
        if path.is_dir():
            found = list(list_images(path))
            if not found:
                raise DataError(f"no images in {path}")
            paths += found
        else:
            paths.append(path)
    if missing := [str(path) for path in paths if not path.exists()]:
        raise DataError(f"no such file: {', '.join(missing[:5])}")
    if not paths:
        raise DataError("nothing to embed; give images or folders of images")
    return list(dict.fromkeys(paths))


def _read_items(crops: Path, identity_from: IdentityFrom | None, pattern: str | None, csv: Path | None) -> list[Item]:
    """Items for every image, with what the layout says of them."""
    from osnet.data.reid.market1501 import parse_name

    if identity_from is None and pattern is None and csv is None:
        paths = list(list_images(crops))
        if not paths:
            raise DataError(f"no images in {crops}")
        if not all(parse_name(path) for path in paths):
            return [Item(str(path.absolute())) for path in paths]
    found = read_folder(crops, FolderLayout(identity_from or "auto", pattern, csv))
    return [
        Item(
            source=str(crop.path.absolute()),
            identity=crop.identity if crop.pid > DISTRACTOR_PID else None,
            camera=crop.camera or None,
            time_s=crop.time_s,
        )
        for crop in found
    ]


def _open_gallery(
    folder: Path, weights: str | None, device: str, batch_size: int, must_exist: bool = False
) -> tuple[Gallery, Embedder]:
    """A gallery and the embedder that belongs to it; the gallery's own copy of the weights by default."""
    from osnet.models.weights import save_weights

    own_copy = folder / "weights"
    if must_exist or (folder / "gallery.json").exists():
        gallery = Gallery.open(folder)
        embedder = Embedder(weights or own_copy, device=device, batch_size=batch_size)
        gallery.check_weights(embedder.sha256())
        if not own_copy.exists():  # the call that made the gallery was cut off before this
            save_weights(embedder.network, own_copy)
        return gallery, embedder
    if weights is None:
        raise DataError(f"{folder} is a new gallery: say whose vectors it shall hold, --weights PATH_OR_NAME")
    embedder = Embedder(weights, device=device, batch_size=batch_size)
    name = (embedder.network.card and embedder.network.card.name) or "unnamed"
    gallery = Gallery.create(
        folder, weights_sha256=embedder.sha256(), embedding_size=embedder.embedding_size, weights_name=name
    )
    save_weights(embedder.network, own_copy)
    return gallery, embedder


def _where(
    identity: tuple[str, ...], camera: tuple[str, ...], after: str | None, before: str | None, source: str | None
) -> Where:
    return Where(
        identities=frozenset(identity) if identity else None,
        cameras=frozenset(camera) if camera else None,
        after_s=parse_time(after, "--after") if after is not None else None,
        before_s=parse_time(before, "--before") if before is not None else None,
        source=source,
    )


def _hit_json(hit: Hit) -> dict[str, Any]:
    return {"rank": hit.rank, "score": hit.score, **asdict(hit.item)}


def _report_failures(failures: list[str]) -> None:
    """Name what was left out, and leave with a status that says so."""
    if failures:
        print(f"{len(failures)} left out:", *failures, sep="\n  ", file=sys.stderr)
        raise SystemExit(EXIT_FOUND_TROUBLE)


def main(args: list[str] | None = None) -> None:
    """Entry point of ``osnet``. Status 1: done, but trouble was found; 2: an error; 130: interrupted."""
    try:
        app.cli(prog="osnet", description="OSNet: find the same person, or thing, again.", args=args)
    except OsnetError as error:
        print(f"osnet: {error}", file=sys.stderr)
        raise SystemExit(EXIT_ERROR) from None
    except KeyboardInterrupt:
        print(
            "osnet: interrupted; what index, embed and evaluate --features had done is kept: "
            "the same command goes on from there",
            file=sys.stderr,
        )
        raise SystemExit(EXIT_INTERRUPTED) from None
    except BrokenPipeError:
        sys.stderr.close()


if __name__ == "__main__":
    main()
