"""osnet calibrate: choose a score threshold on a validation set."""

from pathlib import Path

from osnet.cli.common import PLAIN_FOLDER, FolderArgs, app, draw_progress, report_failures, tell_unlisted
from osnet.data.folder import read_dataset
from osnet.embedding.embedder import Embedder, OnError
from osnet.evaluation.calibration import calibrate as calibrate_weights
from osnet.evaluation.split_embeddings import count_images
from osnet.files import check_writable, write_json
from osnet.runtime.backends import pick_backend


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
    """Choose a score threshold on a validation set, and print its error rates.

    With `--fpr 0.001`, one in a thousand pairs of crops of different identities passes. With `--fpir 0.01`, one in a
    hundred searches for an identity that is not in the gallery returns a hit. A rate that is too low for the size of
    the validation set is an error.

    Args:
        weights: a path, or a short name like osnet_x0_25_msmt17.
        data: identities that the weights were not trained on, as for `osnet evaluate`.
        fpr: the share of pairs of different identities that may pass.
        fpir: the share of searches for unknown identities that may return a hit.
        out: write the threshold and all figures here as JSON.
        features: keep the embeddings in this folder.
        flip: average each embedding with that of the mirrored crop; then searches must do so too.
        layout: where identities and cameras are read from.
        name: a name for the data set.
        force: use images that the weights were trained on; the result says so.
        on_error: raise: stop at an image that cannot be read; skip: leave it out and report it.
        batch_size: crops per forward pass.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    if out is not None:
        check_writable(out, reads=layout.reads())
    dataset = tell_unlisted(read_dataset(data, layout.layout(), name))
    if out is not None:
        check_writable(out, reads=[*dataset.query.paths, *dataset.gallery.paths])
    backend = pick_backend(count_images([dataset]))
    embedder = Embedder(weights, device=device, batch_size=batch_size, flip=flip, backend=backend)
    result = calibrate_weights(
        embedder, dataset, fpr=fpr, fpir=fpir, force=force, on_error=on_error, features=features, progress=draw_progress
    )
    if out is not None:
        write_json(out, result.to_json())
    print(result)
    report_failures(list(result.unreadable))
