"""Vectors on disk: one ``.npz`` with names, and a run that can be cut off at any moment and goes on."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from osnet.embedding.embedder import Embedder, Embeddings, OnError
from osnet.errors import DataError, ImageError, OutputError
from osnet.features.array_files import read_arrays
from osnet.files import check_writable, make_folder, write_json, written_aside
from osnet.progress import Progress as Progress
from osnet.progress import no_progress as no_progress

SAVED = ("vectors", "names", "failures", "weights_sha256")


def save_vectors(
    path: str | Path, embeddings: Embeddings, weights_sha256: str, stamps: Mapping[str, tuple[int, int]] | None = None
) -> None:
    """Write ``vectors`` float32 (N, D), ``names``, ``failures`` (name, reason) and ``weights_sha256`` as ``.npz``.

    ``stamps`` (N, 2) holds size and time of change (ns) of the files that the names are of, -1 where they are none.

    Args:
        path: the file to write.
        embeddings: vectors and names.
        weights_sha256: ``Embedder.sha256()`` of what made them.
        stamps: by name, ``stamp_of`` from before the files were read: what changes while they are embedded shows later.
            By default as the files are now.

    Raises:
        OutputError: the name does not end in ``.npz``, or nothing can be written there.
    """
    path = Path(path)
    _check_npz(path)
    failures = [(failure.name, failure.reason) for failure in embeddings.failures]
    known = {name: stamp_of(name) for name in embeddings.names} | dict(stamps or {})
    arrays = {
        "vectors": embeddings.vectors,
        "names": np.array(embeddings.names, dtype=np.str_),
        "stamps": np.array([known[name] for name in embeddings.names], dtype=np.int64).reshape(-1, 2),
        "failures": np.array(failures, dtype=np.str_).reshape(-1, 2),
        "weights_sha256": np.array(weights_sha256),
    }
    with written_aside(path) as aside, aside.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def stamp_of(name: str) -> tuple[int, int]:
    """Size and time of change (ns) of the file ``name``; (-1, -1) if there is none."""
    try:
        status = os.stat(name)  # noqa: PTH116 a name may be no path at all
    except (OSError, ValueError):
        return -1, -1
    return status.st_size, status.st_mtime_ns


def find_changed(path: str | Path) -> list[str]:
    """Names in a file of vectors whose files have changed, or gone, since they were embedded.

    Raises:
        DataError: as ``read_vectors``.
    """
    names = read_vectors(path)[0].names
    stamps = read_arrays(path, ("stamps",)).get("stamps")
    if stamps is None or stamps.shape != (len(names), 2):
        return list(names)
    return [name for name, stamp in zip(names, stamps.tolist(), strict=True) if stamp_of(name) != tuple(stamp)]


def _check_npz(path: Path) -> None:
    if path.suffix != ".npz":
        raise OutputError(f"{path}: vectors are written as .npz; choose a name that ends so")


def read_vectors(path: str | Path) -> tuple[Embeddings, str]:
    """Vectors with their names, and whose they are (``Embedder.sha256``). Nothing is unpickled.

    Raises:
        DataError: no such file, or not one that ``save_vectors`` wrote.
    """
    content = read_arrays(path, SAVED)
    if missing := [name for name in SAVED if name not in content]:
        raise DataError(f"{path} is not a file of osnet embed: it has no {', '.join(missing)}")
    vectors, names, failures, weights_sha256 = (content[name] for name in SAVED)
    if vectors.dtype != np.float32 or vectors.ndim != 2 or names.shape != (len(vectors),) or names.dtype.kind != "U":
        raise DataError(f"{path}: {vectors.dtype} vectors {vectors.shape} and {names.shape} names do not go together")
    if failures.ndim != 2 or failures.shape[1] != 2:
        raise DataError(f"{path}: failures is {failures.dtype} {failures.shape}; it must hold names and reasons")
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
    """Embed image files into ``out`` (``.npz``); a run that was cut off goes on where it stopped.

    While it runs, rows are appended to the folder ``out + ".partial"``. A later call with the same
    weights reads them back and embeds the rest; at the end ``out`` appears whole and the folder goes.

    Returns:
        Rows in the order of ``paths``; failures if ``on_error`` is ``skip``.

    Raises:
        ImageError: an image cannot be used and ``on_error`` is ``raise``; what went well is kept on disk.
        OutputError: ``out`` cannot be written (this is checked first); or it exists, perhaps since another process
            wrote it a moment ago, and ``overwrite`` is false.
    """
    out = Path(out)
    _check_npz(out)
    check_writable(out)
    key = {"format": 2, "weights_sha256": embedder.sha256(), "normalize": embedder.normalize}
    with _VectorLog(out.with_name(out.name + ".partial"), key, embedder) as log:
        if out.exists() and not overwrite:  # under the lock: another run may just have finished
            if not log.names:
                log.delete()
            raise OutputError(f"{out} exists; choose another name, or allow to overwrite it")
        failures: list[ImageError] = []
        stamps = {str(path): stamp_of(str(path)) for path in paths}  # before anything is read
        todo = [path for path in paths if log.known.get(str(path)) != stamps[str(path)]]
        for batch in embedder.stream(progress(todo, len(todo), label), on_error=on_error):
            log.append(batch, stamps)
            failures += batch.failures
        done = log.read()
        failed = {failure.name for failure in failures}
        position = {name: i for i, name in enumerate(done.names) if name not in failed}  # the last row of a name counts
        order = [position[str(path)] for path in paths if str(path) in position]
        result = Embeddings(done.vectors[order], [done.names[i] for i in order], failures)
        save_vectors(out, result, log.key["weights_sha256"], stamps)
        log.delete()
    return result


class _VectorLog:
    """Rows appended to two files; after a crash, what both hold is what counts. One process at a time."""

    FILES = frozenset({"head.json", "names.jsonl", "vectors.f32", ".lock"})

    def __init__(self, folder: Path, key: dict[str, Any], embedder: Embedder) -> None:
        self.folder, self.key, self.size = folder, key, embedder.embedding_size
        self.vectors_path, self.names_path = folder / "vectors.f32", folder / "names.jsonl"
        self.names: list[str] = []
        self.known: dict[str, tuple[int, int]] = {}
        """Names that have a row, with the stamps of their files."""
        self._files: tuple[BinaryIO, TextIO] | None = None
        self._lock = FileLock(folder / ".lock", timeout=0)

    def __enter__(self) -> "_VectorLog":
        make_folder(self.folder)
        if strange := sorted({path.name for path in self.folder.iterdir()} - self.FILES):
            raise OutputError(
                f"{self.folder} is needed for work in progress but holds {', '.join(strange[:3])}; move it"
            )
        try:
            self._lock.acquire()
        except Timeout as error:
            raise OutputError(f"another run is writing {self.folder}; wait for it, or choose another name") from error
        try:
            self._open()
        except BaseException:
            self._lock.release()
            raise
        return self

    def _open(self) -> None:
        head = self.folder / "head.json"
        if not _same_json(head, self.key):  # of other weights, or new
            self.vectors_path.unlink(missing_ok=True)
            self.names_path.unlink(missing_ok=True)
            write_json(head, self.key)
        self.names_path.touch()
        self.vectors_path.touch()
        self._settle()
        self._files = (self.vectors_path.open("ab"), self.names_path.open("a", encoding="utf-8"))

    def _settle(self) -> None:
        """Cut both files to the rows that both hold."""
        lines = [line for line in self.names_path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
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


def _same_json(path: Path, value: Any) -> bool:
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")) == value)
    except (OSError, ValueError):
        return False
