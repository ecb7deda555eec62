"""Work shared by the processes that torchrun started: each takes a part, and all get the whole.

``torchrun --nproc-per-node 2 -m osnet.cli evaluate ...`` (with ``--nnodes`` for several machines). Without torchrun
there is one process, and nothing here costs anything.
"""

import json
import os
from datetime import timedelta
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed

from osnet.embedding.embedder import Embedder, Embeddings, OnError
from osnet.errors import ImageError

TIMEOUT_S = 24 * 3600
"""A slow process may be waited for so long: embedding a benchmark can take hours."""


def join_processes() -> tuple[int, int]:
    """This process's number and how many there are. The first call under torchrun waits for the others.

    They talk over the CPU (gloo), whatever computes.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size <= 1 or not distributed.is_available():
        return 0, 1
    if not distributed.is_initialized():
        distributed.init_process_group("gloo", timeout=timedelta(seconds=TIMEOUT_S))
    return distributed.get_rank(), distributed.get_world_size()


def leave_processes() -> None:
    """Say goodbye to the others, if there are any."""
    if distributed.is_available() and distributed.is_initialized():
        _group_beside.cache_clear()
        distributed.destroy_process_group()


def local_device(device: str) -> str:
    """``auto`` on a machine with several GPUs and several processes: one GPU for each."""
    local = os.environ.get("LOCAL_RANK")
    if device == "auto" and local is not None and torch.cuda.device_count() > 1:
        return f"cuda:{int(local) % torch.cuda.device_count()}"
    return device


def gather_bytes(mine: bytes) -> list[bytes]:
    """What each process gave, in the order of their numbers. Plain bytes: nothing is pickled."""
    _, size = join_processes()
    if size == 1:
        return [mine]
    group = patient_group()
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(size)]
    distributed.all_gather(lengths, torch.tensor([len(mine)]), group=group)
    longest = max(1, *(int(length) for length in lengths))
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: len(mine)] = torch.from_numpy(np.frombuffer(mine, dtype=np.uint8).copy())
    parts = [torch.empty_like(padded) for _ in range(size)]
    distributed.all_gather(parts, padded, group=group)
    return [part[: int(length)].numpy().tobytes() for part, length in zip(parts, lengths, strict=True)]


def share_bytes(mine: bytes) -> bytes:
    """What the first process gave, on all of them."""
    rank, size = join_processes()
    if size == 1:
        return mine
    group = patient_group()
    length = torch.tensor([len(mine)])
    distributed.broadcast(length, 0, group=group)
    if not int(length):
        return b""
    content = np.zeros(int(length), np.uint8) if rank else np.frombuffer(mine, np.uint8).copy()
    distributed.broadcast(torch.from_numpy(content), 0, group=group)
    return content.tobytes()


def any_of_all(*flags: bool) -> list[bool]:
    """Of each flag, whether it is set in any process. Waits for all of them, however long one takes."""
    if join_processes()[1] == 1:
        return list(flags)
    raised = torch.tensor(flags, dtype=torch.int64)
    distributed.all_reduce(raised, distributed.ReduceOp.MAX, group=patient_group())
    return [bool(flag) for flag in raised.tolist()]


def patient_group() -> Any:
    """All processes, over the CPU, with ``TIMEOUT_S``: the group that computes gives up after minutes. The first call
    waits for the others."""
    return _group_beside(distributed.group.WORLD)


@lru_cache(maxsize=1)
def _group_beside(_world: Any) -> Any:
    """One for each set of processes that was joined."""
    return distributed.new_group(backend="gloo", timeout=timedelta(seconds=TIMEOUT_S))


def gather_interleaved(mine: NDArray[Any], axis: int = 0) -> NDArray[Any]:
    """The whole array, of which process k of n holds the entries k, k + n, k + 2n, ... along ``axis``."""
    _, size = join_processes()
    if size == 1:
        return mine
    moved = np.ascontiguousarray(np.moveaxis(mine, axis, 0))
    parts = [
        np.frombuffer(part, dtype=mine.dtype).reshape(-1, *moved.shape[1:]) for part in gather_bytes(moved.tobytes())
    ]
    whole = np.empty((sum(map(len, parts)), *moved.shape[1:]), dtype=mine.dtype)
    for number, part in enumerate(parts):
        whole[number::size] = part
    return np.moveaxis(whole, 0, axis)


def embed_shared(embedder: Embedder, paths: list[Any], on_error: OnError) -> Embeddings:
    """Every image's vector, in order, on every process. Whole batches are dealt out, so that vectors do not depend
    on how many processes there are where the machines are alike.

    Raises:
        ImageError: on every process, for the first image that cannot be used, if ``on_error`` is ``raise``.
    """
    rank, size = join_processes()
    batches = [paths[i : i + embedder.batch_size] for i in range(0, len(paths), embedder.batch_size)]
    mine = [embedder.embed_named(batch, on_error="skip") for batch in batches[rank::size]]
    vectors = np.concatenate([np.empty((0, embedder.embedding_size), np.float32), *(part.vectors for part in mine)])
    told = {"names": [n for part in mine for n in part.names],
            "failures": [(f.name, f.reason) for part in mine for f in part.failures]}  # fmt: skip
    every_told = [json.loads(part) for part in gather_bytes(json.dumps(told).encode())]
    row = {name: (number, i) for number, part in enumerate(every_told) for i, name in enumerate(part["names"])}
    every_vectors = [
        np.frombuffer(part, dtype=np.float32).reshape(-1, embedder.embedding_size)
        for part in gather_bytes(vectors.tobytes())
    ]
    reasons = {name: reason for part in every_told for name, reason in part["failures"]}
    failures = [ImageError(str(path), reasons[str(path)]) for path in paths if str(path) in reasons]
    if failures and on_error == "raise":
        raise failures[0]
    names = [str(path) for path in paths if str(path) in row]
    rows = [every_vectors[number][i] for number, i in map(row.__getitem__, names)]
    return Embeddings(np.stack(rows) if rows else vectors[:0], names, failures)
