"""Vectors on disk: one ``.npz`` with names, and a run that can be cut off at any moment and goes on."""

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from osnet.errors import DataError, ImageError, OutputError
from osnet.files import check_writable, write_json, written_aside
from osnet.inference.embedder import Embedder, Embeddings, OnError

Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]
"""Wraps an iterable of a known length to draw a bar with a label: ``progress(paths, len(paths), "query")``."""


def no_progress(iterable: Iterable[Any], _total: int, _label: str) -> Iterable[Any]:
    """A ``Progress`` that draws nothing."""
    return iterable


def save_vectors(path: str | Path, embeddings: Embeddings, weights_sha256: str) -> None:
    """Write ``vectors`` float32 (N, D), ``names``, ``failures`` (name, reason) and ``weights_sha256`` as ``.npz``.

    Raises:
        OutputError: the name does not end in ``.npz``, or nothing can be written there.
    """
    path = Path(path)
    _check_npz(path)
    failures = [(failure.name, failure.reason) for failure in embeddings.failures]
    arrays = {
        "vectors": embeddings.vectors,
        "names": np.array(embeddings.names, dtype=np.str_),
        "failures": np.array(failures, dtype=np.str_).reshape(-1, 2),
        "weights_sha256": np.array(weights_sha256),
    }
    with written_aside(path) as aside, aside.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def _check_npz(path: Path) -> None:
    if path.suffix != ".npz":
        raise OutputError(f"{path}: vectors are written as .npz; choose a name that ends so")


def read_vectors(path: str | Path) -> tuple[Embeddings, str]:
    """Vectors with their names, and whose they are (``Embedder.sha256``). Nothing is unpickled.

    Raises:
        DataError: no such file, or not one that ``save_vectors`` wrote.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            vectors, names = content["vectors"], content["names"]
            failures = [ImageError(str(name), str(reason)) for name, reason in content["failures"]]
            weights_sha256 = str(content["weights_sha256"])
    except (OSError, KeyError, ValueError, BadZipFile) as error:
        raise DataError(f"{path} is not a file of vectors: {error}") from error
    if vectors.dtype != np.float32 or vectors.ndim != 2 or names.shape != (len(vectors),):
        raise DataError(f"{path}: {vectors.dtype} vectors {vectors.shape} and {names.shape} names do not go together")
    return Embeddings(vectors, [str(name) for name in names], failures), weights_sha256


def embed_files(
    embedder: Embedder,
    paths: Sequence[Path],
    out: str | Path,
    *,
    on_error: OnError = "raise",
    progress: Progress = no_progress,
    label: str = "embed",
) -> Embeddings:
    """Embed image files into ``out`` (``.npz``); a run that was cut off goes on where it stopped.

    While it runs, rows are appended to the folder ``out + ".partial"``. A later call with the same
    weights reads them back and embeds the rest; at the end ``out`` appears whole and the folder goes.

    Returns:
        Rows in the order of ``paths``; failures if ``on_error`` is ``skip``.

    Raises:
        ImageError: an image cannot be used and ``on_error`` is ``raise``; what went well is kept on disk.
        OutputError: ``out`` cannot be written (this is checked first).
    """
    out = Path(out)
    _check_npz(out)
    check_writable(out)
    partial = out.with_name(out.name + ".partial")
    log = _VectorLog(partial, {"weights_sha256": embedder.sha256(), "normalize": embedder.normalize}, embedder)
    failures: list[ImageError] = []
    with log:
        todo = [path for path in paths if str(path) not in log.known]
        for batch in embedder.stream(progress(todo, len(todo), label), on_error=on_error):
            log.append(batch)
            failures += batch.failures
    done = log.read()
    position = {name: i for i, name in enumerate(done.names)}
    order = [position[str(path)] for path in paths if str(path) in position]
    result = Embeddings(done.vectors[order], [done.names[i] for i in order], failures)
    save_vectors(out, result, log.key["weights_sha256"])
    shutil.rmtree(partial)
    return result


class _VectorLog:
    """Rows appended to two files; after a crash, what both hold is what counts."""

    def __init__(self, folder: Path, key: dict[str, Any], embedder: Embedder) -> None:
        self.folder, self.key, self.size = folder, key, embedder.embedding_size
        self.vectors_path, self.names_path = folder / "vectors.f32", folder / "names.jsonl"
        head = folder / "head.json"
        if folder.exists() and not _same_json(head, key):
            shutil.rmtree(folder)  # of other weights
        folder.mkdir(exist_ok=True)
        write_json(head, key)
        self.names_path.touch()
        self.vectors_path.touch()
        self.names = self._settle()
        self.known = set(self.names)
        self._files: tuple[BinaryIO, TextIO] | None = None

    def _settle(self) -> list[str]:
        """Cut both files to the rows that both hold."""
        lines = [line for line in self.names_path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        rows = min(len(lines), self.vectors_path.stat().st_size // (4 * self.size))
        lines = lines[:rows]
        for path, length in ((self.names_path, sum(map(len, lines))), (self.vectors_path, rows * 4 * self.size)):
            with path.open("r+b") as file:
                file.truncate(length)
        return [str(json.loads(line)) for line in lines]

    def __enter__(self) -> "_VectorLog":
        self._files = (self.vectors_path.open("ab"), self.names_path.open("a", encoding="utf-8"))
        return self

    def __exit__(self, *_exc: object) -> None:
        for file in self._files or ():
            file.close()

    def append(self, batch: Embeddings) -> None:
        assert self._files is not None
        vectors, names = self._files
        vectors.write(batch.vectors.tobytes())
        vectors.flush()
        names.writelines(json.dumps(name) + "\n" for name in batch.names)
        names.flush()
        self.names += batch.names

    def read(self) -> Embeddings:
        vectors: NDArray[np.float32] = np.fromfile(self.vectors_path, dtype=np.float32).reshape(-1, self.size)
        return Embeddings(vectors, self.names)


def _same_json(path: Path, value: Any) -> bool:
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")) == value)
    except (OSError, ValueError):
        return False
