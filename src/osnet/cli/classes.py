"""osnet predict classes; what osnet evaluate does with weights that name classes."""

import json
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from osnet.cli.attributes import predict_app
from osnet.cli.common import JsonFlag, check_probabilities_file, list_inputs, report_failures, write_probabilities
from osnet.embedding.class_predictor import ClassPredictions, ClassPredictor, known_classes
from osnet.embedding.embedder import OnError
from osnet.errors import DataError, WeightsError
from osnet.files import write_json
from osnet.photos.reader import SCHEME, read_photos
from osnet.runtime.distributed import join_processes, leave_processes, local_device
from osnet.tasks.photo_accuracy import score_photos
from osnet.weights.checkpoint import Checkpoint
from osnet.weights.hub import find_checkpoint


@predict_app.command(name="classes")
def predict_classes(
    inputs: Annotated[tuple[Path, ...], Positional, tyro.conf.arg(metavar="PHOTO...")],
    *,
    weights: str,
    top: int = 5,
    out: Path | None = None,
    on_error: OnError = "raise",
    batch_size: int = 32,
    device: str = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Say which class photographs are of, with probabilities, the likeliest first.

    Args:
        inputs: photographs, and folders of them.
        weights: a path of weights that a classification recipe trained.
        top: how many classes to print of each.
        out: also write all probabilities here, as .csv (a row per photograph) or .json.
        on_error: raise: stop at an image that cannot be read; skip: leave it out and say so.
        batch_size: photographs per forward pass.
        device: auto, cpu, cuda, cuda:1, mps.
        as_json: print JSON.
    """
    if out is not None:
        check_probabilities_file(out)
    paths = list_inputs(inputs)
    seen = ClassPredictor(weights, device, batch_size).predict(paths, on_error=on_error)
    if out is not None:
        _write(seen, out)
    if as_json:
        rows = [{"source": name, "probabilities": _rounded(seen, row, top)} for row, name in enumerate(seen.names)]
        print(json.dumps(rows, indent=2))
    else:
        for row, name in enumerate(seen.names):
            print(name)
            for label, probability in seen.topk(row, top):
                print(f"{100 * probability:>8.2f} %  {label}")
    report_failures([str(failure) for failure in seen.failures])


def find_classifying(weights: str, data: Path) -> Checkpoint | None:
    """The weights, if there is something at ``data`` and they tell classes apart."""
    if not data.exists() and not SCHEME.match(str(data)):
        return None
    try:
        checkpoint = find_checkpoint(weights)
    except WeightsError:
        return None
    return checkpoint if known_classes(checkpoint) else None


def evaluate_classes(
    weights: str, data: Path, out: Path | None, on_error: OnError, batch_size: int, device: str, other_flags: bool
) -> bool:
    """Print top-1 and top-5 on ``test`` (else ``val``, else the folder itself), and write them as JSON.

    False, and nothing done, if ``weights`` do not tell classes apart. ``other_flags``: some were given that mean
    nothing here.

    Raises:
        DataError: such flags; no photographs, or of other classes.
    """
    checkpoint = find_classifying(weights, data)
    if checkpoint is None:
        return False
    if other_flags:
        raise DataError(f"{weights} tells classes apart: it is scored with --data, --out, --on-error, --batch-size and "
                        "--device alone; the other flags are of re-identification")  # fmt: skip
    rank = join_processes()[0]
    leave_processes()
    if rank:  # one process is enough; the others have nothing to do
        return True
    predictor = ClassPredictor(checkpoint, local_device(device), batch_size)
    numbered = not checkpoint.card.classes  # published weights without names: the data's classes, sorted
    photos = read_photos(data, None if numbered else predictor.classes).scored
    scores = score_photos(predictor, photos, on_error)
    if out is not None:
        write_json(out, scores.to_json())
    print(scores)
    report_failures([str(failure) for failure in scores.failures])
    return True


def _rounded(seen: ClassPredictions, row: int, top: int) -> dict[str, float]:
    return {name: round(probability, 6) for name, probability in seen.topk(row, top)}


def _write(seen: ClassPredictions, out: Path) -> None:
    if out.suffix == ".json":
        every = len(seen.classes)
        images = [{"source": n, "probabilities": _rounded(seen, row, every)} for row, n in enumerate(seen.names)]
        write_json(out, {"classes": list(seen.classes), "images": images})
        return
    write_probabilities(out, seen.classes, seen.names, seen.probabilities)
