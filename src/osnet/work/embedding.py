"""``osnet embed`` on many processes: images in blocks, a file of embeddings for each block, and their union."""

import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from osnet.embedding.embedder import Embedder, Embeddings, OnError
from osnet.errors import DataError, ImageError, OutputError, WeightsError
from osnet.features.embedding_files import check_npz, read_stamps, read_vectors, save_vectors, stamp_of
from osnet.files import check_writable
from osnet.progress import Progress, no_progress
from osnet.work.runners import Runner, run_work
from osnet.work.work_list import WorkList

BLOCK = 4096
"""Images of one item. A worker that dies costs at most as much work."""


class EmbedBlock:
    """The task: embed the images of one block."""

    def __init__(self, settings: dict[str, Any]) -> None:
        import torch

        from osnet.runtime.distributed import local_device

        torch.set_num_threads(1)
        self._on_error: OnError = settings["on_error"]
        self._embedder = Embedder(
            settings["weights"],
            device=local_device(settings["device"]),
            batch_size=settings["batch_size"],
            normalize=settings["normalize"],
            num_workers=1,
            backend=settings["backend"],
        )
        if self._embedder.sha256() != settings["weights_sha256"]:
            raise WeightsError(f"{settings['weights']} are not the weights that the list was made for")

    def __call__(self, item: dict[str, Any], result: Path) -> None:
        """Embed the images of a block into a file of embeddings."""
        paths = [name for name, _, _ in item["images"]]
        stamps = {name: stamp_of(name) for name in paths}  # before the files are read
        done = self._embedder.embed_named(paths, on_error=self._on_error)
        save_vectors(result, done, self._embedder.sha256(), stamps)


def embed_on_many(
    embedder: Embedder,
    weights: str,
    paths: Sequence[Path],
    out: str | Path,
    *,
    runner: Runner = "local",
    workers: int = 1,
    gpus: float = 0.0,
    device: str = "auto",
    on_error: OnError = "raise",
    block: int = BLOCK,
    work_folder: str | Path | None = None,
    progress: Progress = no_progress,
) -> Embeddings:
    """Embed image files into ``out`` (.npz) on several processes or machines. An interrupted call resumes.

    The result is the same byte for byte for any number of workers, on machines that compute alike.

    Args:
        embedder: of the weights; says their digest, batch size, and whether to normalise.
        weights: path or name, which every worker opens itself.
        paths: image files, which every worker finds at the same path.
        out: output file, ending in .npz.
        runner, workers, gpus: as for ``run_work``.
        device: of each worker.
        on_error: ``raise``: a block with an image that cannot be read fails; ``skip``: the image is listed.
        block: images of one item.
        work_folder: of the list and the results, seen by all machines, or ``s3://BUCKET/NAME``; by default
            ``out + ".work"``. It stays.
        progress: shows progress over the blocks.

    Raises:
        DataError: there are no paths.
        QuarantineError: blocks that failed three times; the others are kept.
        OutputError: ``out`` cannot be written or does not end in .npz, or another process runs the list.
    """
    from osnet.runtime.distributed import any_of_all, join_processes

    out = Path(out)
    check_npz(out)
    check_writable(out)
    if not paths:
        raise DataError("no images to embed: paths is empty")
    if runner == "ray" and (near := next((path for path in [*paths] if not path.is_absolute()), None)):
        raise OutputError(f"{near} is not an absolute path, by which other machines could find it")
    rank = join_processes()[0] if runner == "torchrun" else 0
    folder = work_folder if work_folder is not None else out.with_name(out.name + ".work")
    with ExitStack() as held:
        if rank == 0:
            images = [(str(path), *stamp_of(str(path))) for path in paths]
            items = [
                {"label": f"images {start + 1} to {start + len(part)}, from {part[0][0]}", "images": part}
                for start in range(0, len(images), block)
                if (part := images[start : start + block])
            ]
            settings = {
                "weights": weights,
                "weights_sha256": embedder.sha256(),
                "device": device,
                "on_error": on_error,
                "batch_size": embedder.batch_size,
                "normalize": embedder.normalize,
                "backend": embedder.backend,  # workers that measure for themselves may choose others
            }
            work = held.enter_context(WorkList.planned(folder, "embed", settings, items))
            if runner != "torchrun" and workers > len(items):
                warnings.warn(
                    f"{len(images)} images make {len(items)} block(s) of {block}, so {len(items)} of {workers} workers "
                    "have work; use a smaller block",
                    stacklevel=2,
                )
        if runner == "torchrun":
            any_of_all(False)  # the first process has written the list
        if rank:
            work = WorkList(folder)
        shown = iter(progress(range(len(work.items)), len(work.items), "blocks"))
        for _ in range(len(work.items) - len(work.todo())):
            next(shown, None)
        run_work(work, runner, workers=workers, gpus=gpus, on_done=lambda: next(shown, None))
        next(shown, None)
        return merge_blocks(work, out) if rank == 0 else Embeddings(np.empty((0, embedder.embedding_size), np.float32))


def merge_blocks(work: WorkList, out: Path) -> Embeddings:
    """The union of all blocks, in the order of the list, as one file."""
    parts: list[Embeddings] = []
    stamps: dict[str, tuple[int, int]] = {}
    for item in work.items:
        with work.reading(item) as path:
            block, sha256 = read_vectors(path)
            stamps.update(read_stamps(path))
        parts.append(block)
    failures = [ImageError(one.name, one.reason) for part in parts for one in part.failures]
    names = [name for part in parts for name in part.names]
    joined = Embeddings(np.concatenate([part.vectors for part in parts]), names, failures)
    save_vectors(out, joined, sha256, stamps)
    return joined
