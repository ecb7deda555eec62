"""osnet embed: embed images into a file of embeddings."""

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from osnet.cli.common import app, check_counts, draw_progress, list_inputs, refuse_without_runner, report_failures
from osnet.embedding.embedder import Embedder, OnError
from osnet.errors import OutputError
from osnet.features.embedding_files import embed_files
from osnet.files import check_writable
from osnet.runtime.backends import pick_backend
from osnet.runtime.distributed import join_processes
from osnet.work.embedding import BLOCK, embed_on_many
from osnet.work.runners import Runner


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
    runner: Runner | None = None,
    workers: int = 1,
    gpus: float = 0.0,
    block: int = BLOCK,
    work: str | None = None,
) -> None:
    """Embed images into a file of embeddings. After an interruption the same command resumes.

    Args:
        inputs: images, and folders of images.
        weights: a path, or a short name like osnet_x0_25_msmt17.
        out: a file that ends in .npz; it gets the arrays vectors (N, 512), names and weights_sha256.
        normalize: scale embeddings to length 1.
        on_error: raise: stop at an image that cannot be read; skip: leave it out and report it.
        batch_size: crops per forward pass.
        device: auto, cpu, cuda, cuda:1, mps.
        overwrite: replace an existing file.
        runner: do the work in blocks, on several processes or machines: local, torchrun (start this command with
            it), or ray. Blocks that are done stay in the folder of --work, and the same command resumes.
        workers: processes, or Ray actors.
        gpus: GPUs of each Ray actor, such as 0.25.
        block: images of one block.
        work: folder of the blocks, which all machines see at this path, or s3://BUCKET/NAME. Default: OUT.work.
    """
    if runner is None:
        refuse_without_runner(workers=workers != 1, gpus=gpus != 0, block=block != BLOCK, work=work is not None)
    paths = list_inputs(inputs)
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists; choose another name or add --overwrite")
    check_writable(out)
    embedder = Embedder(
        weights, device=device, batch_size=batch_size, normalize=normalize, backend=pick_backend(len(paths))
    )
    if runner is None:
        result = embed_files(embedder, paths, out, on_error=on_error, progress=draw_progress, overwrite=overwrite)
    else:
        check_counts(workers=workers, block=block)
        result = embed_on_many(
            embedder,
            weights,
            paths,
            out,
            runner=runner,
            workers=workers,
            gpus=gpus,
            device=device,
            on_error=on_error,
            block=block,
            work_folder=work,
            progress=draw_progress,
        )
        if runner == "torchrun" and join_processes()[0]:
            return
    print(f"{len(result)} embeddings of {embedder.embedding_size} in {out}")
    report_failures([str(failure) for failure in result.failures])
