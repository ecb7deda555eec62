"""Files of embeddings: one ``.npz`` with names. Interrupted runs resume where they stopped."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from osnet.embedding.embedder import Embedder, Embeddings, OnError
from osnet.errors import DataError, ImageError, OutputError
from osnet.features.array_files import read_arrays
from osnet.files import TEMPORARY_PREFIX, check_writable, make_folder, write_json, written_aside
from osnet.progress import Progress, no_progress

SAVED = ("vectors", "names", "failures", "weights_sha256")


def save_vectors(
    path: str | Path, embeddings: Embeddings, weights_sha256: str, stamps: Mapping[str, tuple[int, int]] | None = None
) -> None:
    """Write embeddings as ``.npz``.

    The arrays are ``vectors`` (N, D) float32, ``names`` (N,), ``stamps`` (N, 2) with size and modification time (ns) of
    each image file (-1 if the name is not a file), ``failures`` (name, reason), ``weights_sha256``, and if there are
    failures ``failure_stamps``, as ``stamps``.

    Args:
        path: output file, ending in .npz.
        embeddings: embeddings, names and failures.
        weights_sha256: ``Embedder.sha256()`` of the network.
        stamps: maps each name to the result of ``stamp_of`` before the file was read, so that ``find_changed`` notices
            a change during the run. Default: the current size and time of each file.

    Raises:
        OutputError: the path does not end in .npz or cannot be written.
    """
    path = Path(path)
    check_npz(path)
    failures = [(failure.name, failure.reason) for failure in embeddings.failures]
    failed = [name for name, _ in failures]
    known = {name: stamp_of(name) for name in (*embeddings.names, *failed)} | dict(stamps or {})
    arrays = {
        "vectors": embeddings.vectors,
        "names": np.array(embeddings.names, dtype=np.str_),
        "stamps": np.array([known[name] for name in embeddings.names], dtype=np.int64).reshape(-1, 2),
        "failures": np.array(failures, dtype=np.str_).reshape(-1, 2),
        "weights_sha256": np.array(weights_sha256),
    }
    if failed:
        arrays["failure_stamps"] = np.array([known[name] for name in failed], dtype=np.int64)
    with written_aside(path) as aside, aside.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def stamp_of(name: str) -> tuple[int, int]:
    """Size in bytes and modification time (ns) of the file ``name``; (-1, -1) if there is no such file."""
    try:
        status = os.stat(name)  # noqa: PTH116 a name need not be a valid path
    except (OSError, ValueError):
        return -1, -1
    return status.st_size, status.st_mtime_ns


def find_changed(path: str | Path) -> list[str]:
    """List the names in an embedding file whose images have changed or disappeared since they were embedded.

    Images that could not be read are listed if they have changed since; older files do not tell.

    Raises:
        DataError: the file does not exist, or was not written by ``save_vectors``.
    """
    content, stamps = read_vectors(path)[0], read_stamps(path)
    changed = [name for name in content.names if stamp_of(name) != stamps.get(name)]
    failed = (failure.name for failure in content.failures if failure.name in stamps)
    return changed + [name for name in failed if stamp_of(name) != stamps[name]]


def read_stamps(path: str | Path) -> dict[str, tuple[int, int]]:
    """Stamps by name in a file of ``save_vectors``, of failures too. A name without a stamp is left out."""
    content = read_arrays(path, ("names", "stamps", "failures", "failure_stamps"))
    found: dict[str, tuple[int, int]] = {}
    for names, key in ((content["names"], "stamps"), (content["failures"][:, 0], "failure_stamps")):
        stamps = content.get(key)
        if stamps is not None and stamps.shape == (len(names), 2):
            found |= {
                name: (size, time_ns) for name, (size, time_ns) in zip(names.tolist(), stamps.tolist(), strict=True)
            }
    return found


def check_npz(path: Path) -> None:
    """Raise OutputError unless the path ends in .npz."""
    if path.suffix != ".npz":
        raise OutputError(f"{path}: embeddings are written as .npz; choose a name that ends in .npz")


def read_vectors(path: str | Path) -> tuple[Embeddings, str]:
    """Read embeddings with their names, and the ``Embedder.sha256`` of their network. Nothing is unpickled.

    Raises:
        DataError: the file does not exist, or was not written by ``save_vectors``.
    """
    content = read_arrays(path, SAVED)
    if missing := [name for name in SAVED if name not in content]:
        raise DataError(f"{path} was not written by osnet embed: it has no {', '.join(missing)}")
    vectors, names, failures, weights_sha256 = (content[name] for name in SAVED)
    if vectors.dtype != np.float32 or vectors.ndim != 2 or names.shape != (len(vectors),) or names.dtype.kind != "U":
        raise DataError(
            f"{path}: vectors is {vectors.dtype} {vectors.shape} and names {names.dtype} {names.shape}; they must be "
            "float32 (N, D) and text (N,)"
        )
    if failures.ndim != 2 or failures.shape[1] != 2:
        raise DataError(
            f"{path}: failures is {failures.dtype} {failures.shape}; it must be text (N, 2): names and reasons"
        )
    failed = [ImageError(str(name), str(reason)) for name, reason in failures.tolist()]
    return Embeddings(vectors, names.tolist(), failed), str(weights_sha256)


def embed_files(
    embedder: Embedder,
    paths: Sequence[Path],
    out: str | Path,
    *,
    on_error: OnError = "raise",
    progress: Progress = no_progress,
    label: str = "embed",
    overwrite: bool = True,
) -> Embeddings:
    """Embed image files into ``out`` (.npz). An interrupted run resumes where it stopped.

    During the run, embeddings are appended to files in the folder ``out + ".partial"``. A later call with the same
    weights reads them and embeds the remaining images. At the end, ``out`` is written at once and the folder is
    deleted.

    Args:
        embedder: network and preprocessing.
        paths: image files.
        out: output file, ending in .npz.
        on_error: ``raise``: stop at the first image that cannot be read; ``skip``: list it in ``failures``.
        progress: draws a progress bar.
        label: label of the bar.
        overwrite: replace ``out`` if it exists.

    Returns:
        Embeddings in the order of ``paths``, and the failures if ``on_error`` is ``skip``.

    Raises:
        ImageError: an image cannot be read and ``on_error`` is ``raise``; finished embeddings stay on disk.
        OutputError: ``out`` cannot be written (checked first), another run is writing it, or it exists and
            ``overwrite`` is false.
    """
    out = Path(out)
    check_npz(out)
    check_writable(out)
    failures = [ImageError(str(path), "a folder; give the path of an image") for path in paths if path.is_dir()]
    if failures and on_error == "raise":
        raise failures[0]
    key = {"format": 2, "weights_sha256": embedder.sha256(), "normalize": embedder.normalize}
    with _VectorLog(out.with_name(out.name + ".partial"), key, embedder) as log:
        if out.exists() and not overwrite:  # checked under the lock: another run may have finished meanwhile
            if not log.names:
                log.delete()
            raise OutputError(f"{out} exists; choose another name, or set overwrite")
        folders = {failure.name for failure in failures}
        stamps = {str(path): stamp_of(str(path)) for path in paths}  # taken before any file is read
        todo = [path for path in paths if str(path) not in folders and log.known.get(str(path)) != stamps[str(path)]]
        for batch in embedder.stream(progress(todo, len(todo), label), on_error=on_error):
            log.append(batch, stamps)
            failures += batch.failures
        done = log.read()
        failed = {failure.name for failure in failures}
        position = {
            name: i for i, name in enumerate(done.names) if name not in failed
        }  # a later row of a name replaces an earlier one
        order = [position[str(path)] for path in paths if str(path) in position]
        result = Embeddings(done.vectors[order], [done.names[i] for i in order], failures)
        save_vectors(out, result, log.key["weights_sha256"], stamps)
        log.delete()
    return result


class _VectorLog:
    """Embeddings and names appended to two files. After a crash, only rows present in both count.

    A lock file keeps other processes out.
    """

    FILES = frozenset({"head.json", "names.jsonl", "vectors.f32", ".lock"})

    def __init__(self, folder: Path, key: dict[str, Any], embedder: Embedder) -> None:
        self.folder, self.key, self.size = folder, key, embedder.embedding_size
        self.vectors_path, self.names_path = folder / "vectors.f32", folder / "names.jsonl"
        self.names: list[str] = []
        self.known: dict[str, tuple[int, int]] = {}
        """Names that have an embedding, with the stamp of their file."""
        self._files: tuple[BinaryIO, TextIO] | None = None
        self._lock = FileLock(folder / ".lock", timeout=0)

    def __enter__(self) -> "_VectorLog":
        make_folder(self.folder)
        names = {path.name for path in self.folder.iterdir() if not path.name.startswith(TEMPORARY_PREFIX)}
        if strange := sorted(names - self.FILES):
            raise OutputError(
                f"{self.folder} is needed for unfinished embeddings but contains {', '.join(strange[:3])}; move these "
                "away"
            )
        try:
            self._lock.acquire()
        except Timeout as error:
            raise OutputError(
                f"another run is writing {self.folder}; wait until it ends, or choose another name"
            ) from error
        try:
            self._open()
        except BaseException:
            self._lock.release()
            raise
        return self

    def _open(self) -> None:
        head = self.folder / "head.json"
        if not _same_json(head, self.key):  # a new folder, or embeddings of other weights
            self.vectors_path.unlink(missing_ok=True)
            self.names_path.unlink(missing_ok=True)
            write_json(head, self.key)
        self.names_path.touch()
        self.vectors_path.touch()
        self._settle()
        self._files = (self.vectors_path.open("ab"), self.names_path.open("a", encoding="utf-8"))

    def _settle(self) -> None:
        """Truncate both files to the rows that both contain."""
        lines = list(takewhile(_is_row, self.names_path.read_bytes().splitlines(keepends=True)))
        rows = min(len(lines), self.vectors_path.stat().st_size // (4 * self.size))
        lines = lines[:rows]
        for path, length in ((self.names_path, sum(map(len, lines))), (self.vectors_path, rows * 4 * self.size)):
            with path.open("r+b") as file:
                file.truncate(length)
        for name, size, changed_ns in map(json.loads, lines):
            self.names.append(name)
            self.known[name] = (size, changed_ns)

    def __exit__(self, *_exc: object) -> None:
        self._close()
        self._lock.release()

    def _close(self) -> None:
        for file in self._files or ():
            file.close()
        self._files = None

    def append(self, batch: Embeddings, stamps: Mapping[str, tuple[int, int]]) -> None:
        assert self._files is not None
        vectors, names = self._files
        vectors.write(batch.vectors.tobytes())
        vectors.flush()
        names.writelines(json.dumps([name, *stamps[name]]) + "\n" for name in batch.names)
        names.flush()
        self.names += batch.names

    def read(self) -> Embeddings:
        vectors: NDArray[np.float32] = np.fromfile(self.vectors_path, dtype=np.float32).reshape(-1, self.size)
        return Embeddings(vectors, self.names)

    def delete(self) -> None:
        self._close()
        shutil.rmtree(self.folder)


def _is_row(line: bytes) -> bool:
    """Whether a line holds a name and a stamp. After a power failure, the end of the file may be zeros."""
    try:
        name, size, changed_ns = json.loads(line)
    except (ValueError, TypeError):
        return False
    return line.endswith(b"\n") and isinstance(name, str) and isinstance(size, int) and isinstance(changed_ns, int)


def _same_json(path: Path, value: Any) -> bool:
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")) == value)
    except (OSError, ValueError):
        return False
