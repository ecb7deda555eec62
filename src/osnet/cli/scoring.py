"""osnet embed, evaluate, data generate, demo."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from osnet.cli.common import app, data_app, draw_progress, report_failures
from osnet.data.folder import FolderLayout, IdentityFrom, read_dataset
from osnet.data.loading import list_images
from osnet.data.synthetic import GeneratedSettings, generate_dataset, read_annotations
from osnet.demo import FULL, QUICK, run_demo, run_demo_on
from osnet.errors import DataError, OutputError
from osnet.evaluation import evaluate as evaluate_weights
from osnet.files import check_writable, write_json
from osnet.inference.embedder import Embedder, OnError
from osnet.inference.vectors import embed_files


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
    paths = _list_inputs(inputs)
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists; choose another name or say --overwrite")
    check_writable(out)
    embedder = Embedder(weights, device=device, batch_size=batch_size, normalize=normalize)
    result = embed_files(embedder, paths, out, on_error=on_error, progress=draw_progress)
    print(f"{len(result)} vectors of {embedder.embedding_size} in {out}")
    report_failures([str(failure) for failure in result.failures])


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
