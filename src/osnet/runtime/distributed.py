"""Sharing work among processes started by torchrun. Each does a part, and all get the whole result.

``torchrun --nproc-per-node 2 -m osnet.cli evaluate ...`` (with ``--nnodes`` for several machines). Without torchrun
there is one process, and these functions return at once.
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
"""How long processes wait for the slowest one. Embedding a benchmark can take hours."""


def join_processes() -> tuple[int, int]:
    """Rank of this process and number of processes. The first call under torchrun waits for the others.

    They communicate over the CPU (gloo), on whatever device they compute.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size <= 1 or not distributed.is_available():
        return 0, 1
    if not distributed.is_initialized():
        distributed.init_process_group("gloo", timeout=timedelta(seconds=TIMEOUT_S))
    return distributed.get_rank(), distributed.get_world_size()


def leave_processes() -> None:
    """Leave the process group, if there is one."""
    if distributed.is_available() and distributed.is_initialized():
        _group_beside.cache_clear()
        distributed.destroy_process_group()


def local_device(device: str) -> str:
    """The device for this process: with ``auto``, several GPUs and several processes, one GPU per process."""
    local = os.environ.get("LOCAL_RANK")
    if device == "auto" and local is not None and torch.cuda.device_count() > 1:
        return f"cuda:{int(local) % torch.cuda.device_count()}"
    return device


def gather_bytes(mine: bytes) -> list[bytes]:
    """The bytes of every process, in the order of their ranks. Nothing is pickled."""
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
    """The bytes of the first process, on all processes."""
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
    """For each flag: is it set in any process? Waits for all processes, up to ``TIMEOUT_S``."""
    if join_processes()[1] == 1:
        return list(flags)
    raised = torch.tensor(flags, dtype=torch.int64)
    distributed.all_reduce(raised, distributed.ReduceOp.MAX, group=patient_group())
    return [bool(flag) for flag in raised.tolist()]


def patient_group() -> Any:
    """A group of all processes over the CPU with ``TIMEOUT_S``; the default group gives up after minutes.

    The first call waits for the others.
    """
    return _group_beside(distributed.group.WORLD)


@lru_cache(maxsize=1)
def _group_beside(_world: Any) -> Any:
    """Cached for the present default group."""
    return distributed.new_group(backend="gloo", timeout=timedelta(seconds=TIMEOUT_S))


def gather_interleaved(mine: NDArray[Any], axis: int = 0) -> NDArray[Any]:
    """The whole array. Process k of n holds the entries k, k + n, k + 2n, ... along ``axis``."""
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
    """The embeddings of all images, in order, on every process.

    Whole batches are distributed, so embeddings do not depend on the number of processes, as long as the machines are
    alike.

    Raises:
        ImageError: on every process, for the first image that cannot be used, with ``on_error="raise"``.
    """
    rank, size = join_processes()
    batches = [paths[i : i + embedder.batch_size] for i in range(0, len(paths), embedder.batch_size)]
    mine = [embedder.embed_named(batch, on_error="skip") for batch in batches[rank::size]]
    vectors = np.concatenate([np.empty((0, embedder.embedding_size), np.float32), *(part.vectors for part in mine)])
    listed = {
        "names": [name for part in mine for name in part.names],
        "failures": [(failure.name, failure.reason) for part in mine for failure in part.failures],
    }
    all_listed = [json.loads(part) for part in gather_bytes(json.dumps(listed).encode())]
    row = {name: (number, i) for number, part in enumerate(all_listed) for i, name in enumerate(part["names"])}
    all_vectors = [
        np.frombuffer(part, dtype=np.float32).reshape(-1, embedder.embedding_size)
        for part in gather_bytes(vectors.tobytes())
    ]
    reasons = {name: reason for part in all_listed for name, reason in part["failures"]}
    failures = [ImageError(str(path), reasons[str(path)]) for path in paths if str(path) in reasons]
    if failures and on_error == "raise":
        raise failures[0]
    names = [str(path) for path in paths if str(path) in row]
    rows = [all_vectors[number][i] for number, i in map(row.__getitem__, names)]
    return Embeddings(np.stack(rows) if rows else vectors[:0], names, failures)
