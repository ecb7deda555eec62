"""osnet evaluate-classes: score weights on a classification."""

from pathlib import Path

from osnet.cli.common import app, report_failures
from osnet.embedding.class_predictor import ClassPredictor, known_classes
from osnet.embedding.embedder import OnError
from osnet.errors import WeightsError
from osnet.files import check_writable, write_json
from osnet.photos.reader import read_photos
from osnet.runtime.distributed import join_processes, leave_processes, local_device
from osnet.tasks.photo_accuracy import score_photos
from osnet.weights.hub import find_checkpoint


@app.command(name="evaluate-classes")
def evaluate_classes(
    *,
    weights: str,
    data: str,
    out: Path | None = None,
    on_error: OnError = "raise",
    batch_size: int = 32,
    device: str = "auto",
) -> None:
    """Score weights on a classification: top-1 and top-5.

    Args:
        weights: a path or a short name of weights that name classes: from a classification recipe, or ImageNet's.
        data: a folder with a sub-folder for each class, a folder that `osnet data pack` wrote, an archive of CIFAR, or
            a folder with several splits: test is scored, or val if there is no test.
        out: write the result here as JSON.
        on_error: raise: stop at an image that cannot be read; skip: leave it out and report it.
        batch_size: images per forward pass.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    if out is not None:
        check_writable(out)
    checkpoint = find_checkpoint(weights)
    if not known_classes(checkpoint):
        raise WeightsError(
            f"{weights} names no classes; to score re-identification: osnet evaluate --weights {weights} --data {data}"
        )
    rank = join_processes()[0]
    leave_processes()
    if rank:  # the work is not shared: the first process does it alone
        return
    predictor = ClassPredictor(checkpoint, local_device(device), batch_size)
    # Published weights without class names number the classes of the data in sorted order.
    photos = read_photos(data, predictor.classes if checkpoint.card.classes else None).scored
    scores = score_photos(predictor, photos, on_error)
    if out is not None:
        write_json(out, scores.to_json())
    print(scores)
    report_failures([str(failure) for failure in scores.failures])
