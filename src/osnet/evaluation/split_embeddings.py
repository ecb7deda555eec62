"""Embeddings of the splits of a data set: made by weights, or read from a folder where an earlier run stored them."""

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osnet.embedding.embedder import Embedder, Embeddings, OnError
from osnet.errors import DataError, ImageError
from osnet.features.embedding_files import embed_files, find_changed, read_vectors, save_vectors, stamp_of
from osnet.features.labels import LabelledVectors
from osnet.files import make_folder
from osnet.models.network import Network
from osnet.progress import Progress
from osnet.runtime.backends import pick_backend
from osnet.runtime.distributed import embed_shared, gather_bytes, join_processes
from osnet.types import ReidDataset, Split


@dataclass(frozen=True)
class EmbeddedSplit:
    """A split with its embeddings, without the images that could not be read."""

    split: Split
    vectors: NDArray[np.float32]
    """(N, D), one row per crop of ``split``."""
    failures: Sequence[ImageError]
    """The images that could not be read."""

    def labelled(self) -> LabelledVectors:
        """The embeddings with the labels of their crops."""
        pids, camids = (np.array(labels, dtype=np.int64) for labels in (self.split.pids, self.split.camids))
        return LabelledVectors(self.vectors, pids, camids, tuple(map(str, self.split.paths)))

    def select(self, split: Split) -> "EmbeddedSplit":
        """The part that belongs to ``split``, in its order.

        Raises:
            DataError: no image of ``split`` could be read.
        """
        row = {crop.path: i for i, crop in enumerate(self.split.crops)}
        crops = tuple(crop for crop in split.crops if crop.path in row)
        if not crops:
            raise DataError(f"none of the {len(split)} {split.name} images can be read")
        names = {str(crop.path) for crop in split.crops}
        failures = [failure for failure in self.failures if failure.name in names]
        return EmbeddedSplit(Split(split.name, crops), self.vectors[[row[crop.path] for crop in crops]], failures)


def count_images(datasets: Iterable[ReidDataset]) -> int:
    """Number of query and gallery images of all data sets."""
    return sum(len(dataset.query) + len(dataset.gallery) for dataset in datasets)


def make_embedder(weights: Embedder | Network | str | Path, datasets: Iterable[ReidDataset]) -> Embedder:
    """Return an embedder as it is; load weights or wrap a network in one, with the backend for so many images.

    Raises:
        WeightsError: the weights do not exist or are damaged.
    """
    if isinstance(weights, Embedder):
        return weights
    return Embedder(weights, backend="auto" if isinstance(weights, Network) else pick_backend(count_images(datasets)))


def keep_lengths(embedder: Embedder) -> Embedder:
    """An embedder that does not normalize embeddings to length 1, as Euclidean distances need."""
    if not embedder.normalize:
        return embedder
    embedder = copy(embedder)
    embedder.normalize = False
    return embedder


def describe_weights(embedder: Embedder) -> dict[str, Any]:
    """Facts about the weights for a result: name, training data, digests, input size and flip."""
    card = embedder.card
    return {
        "name": (card and card.name) or "an unnamed network",
        "training_data": card.training_data if card else "random weights",
        "network_sha256": embedder.sha256(),
        "file_sha256": card.sha256 if card else "",
        "size_hw": embedder.preprocessing.size_hw,
        "flip": embedder.flip,
    }


def embed_dataset(
    embedder: Embedder, data: ReidDataset, on_error: OnError, features: str | Path | None, progress: Progress
) -> tuple[EmbeddedSplit, EmbeddedSplit]:
    """Embed query and gallery. For the arguments see ``evaluate``.

    Raises:
        DataError: stored embeddings are of other weights or images, or no image of a split can be read.
        ImageError: an image cannot be read and ``on_error`` is ``raise``.
    """
    folder = make_folder(features) if features is not None else None
    query, gallery = (embed_split(embedder, split, folder, on_error, progress) for split in (data.query, data.gallery))
    for part in (query, gallery):
        if not len(part.split):
            raise DataError(f"{data.root}: none of the {len(part.failures)} {part.split.name} images can be read")
    return query, gallery


def embed_union(
    embedder: Embedder,
    datasets: Sequence[ReidDataset],
    on_error: OnError,
    features: str | Path | None,
    progress: Progress,
) -> list[tuple[EmbeddedSplit, EmbeddedSplit]]:
    """Embed query and gallery of several splits of one protocol. An image in several splits is embedded once.

    For the arguments see ``evaluate``.

    Raises:
        DataError: stored embeddings are of other weights or images, or no image of a split can be read.
        ImageError: an image cannot be read and ``on_error`` is ``raise``.
    """
    crops = {crop.path: crop for dataset in datasets for split in dataset.splits[1:] for crop in split.crops}
    folder = make_folder(features) if features is not None else None
    images = embed_split(embedder, Split("images", tuple(crops.values())), folder, on_error, progress)
    return [(images.select(dataset.query), images.select(dataset.gallery)) for dataset in datasets]


def embed_split(
    embedder: Embedder, split: Split, folder: Path | None, on_error: OnError, progress: Progress
) -> EmbeddedSplit:
    """Embed one split, or read its embeddings from ``folder`` if they are stored there.

    Raises:
        DataError: stored embeddings are of other weights or images.
        ImageError: an image cannot be read and ``on_error`` is ``raise``.
    """
    rank, size = join_processes()
    out = folder / f"{split.name}{'' if embedder.normalize else '-raw'}.npz" if folder is not None else None
    stored = out is not None and out.exists()
    if size > 1:  # process 0 decides for all, because the file may appear while they look
        stored = gather_bytes(b"1" if stored else b"0")[0] == b"1"
    if out is not None and stored:
        result = _read_stored(out, embedder, split, on_error)
    elif size > 1:
        stamps = {str(path): stamp_of(str(path)) for path in split.paths} if out is not None and rank == 0 else {}
        result = embed_shared(embedder, split.paths, on_error)
        if out is not None and rank == 0:
            save_vectors(out, result, embedder.sha256(), stamps)
    elif out is None:
        result = embedder.embed_named(progress(split.paths, len(split), split.name), on_error=on_error)
    else:
        result = embed_files(
            embedder, split.paths, out, on_error=on_error, progress=progress, label=split.name, overwrite=False
        )
    if out is not None and not embedder.normalize and rank == 0:
        _store_normalized(out.with_name(f"{split.name}.npz"), result, embedder.sha256())
    crops = {str(crop.path): crop for crop in split.crops}
    readable = tuple(crops[name] for name in result.names)
    return EmbeddedSplit(Split(split.name, readable), result.vectors, result.failures)


def _store_normalized(out: Path, result: Embeddings, sha256: str) -> None:
    """Also store the embeddings with length 1, which search, calibration and figures read, unless the file exists."""
    lengths = np.linalg.norm(result.vectors, axis=1, keepdims=True)
    if not out.exists() and (lengths > 0).all():
        save_vectors(out, replace(result, vectors=result.vectors / lengths), sha256)


def _read_stored(out: Path, embedder: Embedder, split: Split, on_error: OnError) -> Embeddings:
    """Read the embeddings that an earlier run stored. Raise an error if they are of other weights or other images."""
    result, made_by = read_vectors(out)
    stored = {*result.names, *(failure.name for failure in result.failures)}
    advice = "delete the file or choose another folder"
    if made_by != embedder.sha256():
        raise DataError(
            f"{out} contains embeddings of other weights, of another input size, or with another setting of --flip; "
            f"{advice}"
        )
    if stored != {str(path) for path in split.paths}:
        raise DataError(f"{out} contains embeddings of other images than {split.name}; {advice}")
    if changed := find_changed(out):
        raise DataError(
            f"{len(changed)} images have changed since {out} was written ({', '.join(changed[:3])}); {advice}"
        )
    if result.failures and on_error == "raise":
        raise result.failures[0]
    return result
