"""osnet calibrate."""

from pathlib import Path

from osnet.cli.common import PLAIN_FOLDER, FolderArgs, app, draw_progress, report_failures, tell_unlisted
from osnet.data.folder import read_dataset
from osnet.embedding.embedder import Embedder, OnError
from osnet.evaluation.calibration import calibrate as calibrate_weights
from osnet.files import check_writable, write_json


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
