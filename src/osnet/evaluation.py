"""Weights + data set -> scores, by Market-1501's rule, as an object that prints itself."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osnet.data.check import SplitCounts, count_split
from osnet.data.folder import read_dataset
from osnet.errors import DataError, ImageError
from osnet.files import make_folder
from osnet.inference.embedder import Embedder, Embeddings, OnError
from osnet.inference.vectors import Progress, embed_files, find_changed, no_progress, read_vectors
from osnet.metrics.ranking import rank_scores, summarize
from osnet.models.osnet import OSNet
from osnet.types import DISTRACTOR_PID, ReidDataset, Split

RANKS = (1, 5, 10, 20)
COMBINED = "_combineall"
"""Training data so called (``msmt17_combineall``, ``market1501+msmt17_combineall``) hold test images."""


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate`` found. All scores are fractions; ``print`` shows percents."""

    dataset: str
    root: str
    counts: dict[str, SplitCounts]
    weights: dict[str, Any]
    """Name, training data, size of the input; the digest of what decides a vector, and that of the file."""
    scores: dict[str, float | None]
    """mAP, mINP, rank-1, rank-5, rank-10, rank-20; None if no query has a match."""
    num_queries: int
    num_scored: int
    unmatched: tuple[str, ...]
    """Queries without a match in another camera; in no score."""
    unreadable: tuple[str, ...]
    """Images left out because they could not be read, with the reasons."""
    protocol: str = (
        "Market-1501: same person in the same camera ignored, junk ignored, distractors count; cosine distance; "
        "ties in gallery order; AP is the mean of precision at each match"
    )
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Everything, for a file."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{self.dataset} in {self.root}", f"weights  {self.weights['name']} ({self.weights['training_data']})"]
        for name in ("query", "gallery"):
            c = self.counts[name]
            lines.append(
                f"{name:<8} images: {c.images:,}, identities: {c.identities:,}, cameras: {c.cameras or 'unknown'}"
            )
        lines += [f"{name:<8} {_percent(value)}" for name, value in self.scores.items()]
        lines.append(f"over {self.num_scored:,} of {self.num_queries:,} queries")
        for names, what in ((self.unmatched, "without a match in another camera"), (self.unreadable, "left out")):
            if names:
                more = f", ... ({len(names) - 5} more)" if len(names) > 5 else ""
                lines.append(f"{len(names)} {what}: {', '.join(names[:5])}{more}")
        return "\n".join(lines + [f"note: {warning}" for warning in self.warnings])


def _percent(value: float | None) -> str:
    return "none: no query has a match" if value is None else f"{100 * value:6.2f} %"


def evaluate(
    weights: Embedder | OSNet | str | Path,
    dataset: ReidDataset | str | Path,
    *,
    force: bool = False,
    on_error: OnError = "raise",
    features: str | Path | None = None,
    progress: Progress = no_progress,
) -> Evaluation:
    """Embed query and gallery, rank, score.

    Args:
        weights: an embedder, a network, or what ``Embedder`` takes.
        dataset: a data set, or a folder that ``read_dataset`` understands.
        force: evaluate even where the weights were trained on the test images; the result says so.
        on_error: ``raise`` stops at an unreadable image; ``skip`` leaves it out and says so.
        features: a folder that keeps the vectors (``query.npz``, ``gallery.npz``). A run that was cut off goes
            on from there, and a finished one is not embedded again.
        progress: draws a bar.

    Raises:
        DataError: no data set there, no queries or no gallery, a query labelled as nobody, or weights that
            were trained on this benchmark's test images.
        ImageError: an unreadable image, if ``on_error`` is ``raise``.
    """
    data = dataset if isinstance(dataset, ReidDataset) else read_dataset(dataset)
    _check_scorable(data)
    embedder = weights if isinstance(weights, Embedder) else Embedder(weights)
    warnings = _check_leak(embedder.network, data, force)
    folder = make_folder(features) if features is not None else None
    query, query_QD, failed_q = _embed_split(embedder, data.query, folder, on_error, progress)
    gallery, gallery_GD, failed_g = _embed_split(embedder, data.gallery, folder, on_error, progress)
    if not len(query) or not len(gallery):
        raise DataError(f"{data.root}: no readable image is left in {'query' if not len(query) else 'gallery'}")
    scores = rank_scores(
        query_QD, gallery_GD, query.pids, gallery.pids, query.camids, gallery.camids, max_rank=max(RANKS)
    )
    card = embedder.network.card
    return Evaluation(
        dataset=data.name,
        root=str(data.root),
        counts={split.name: count_split(split) for split in data.splits},
        weights={
            "name": (card and card.name) or "an unnamed network",
            "training_data": card.training_data if card else "random weights",
            "network_sha256": embedder.sha256(),
            "file_sha256": card.sha256 if card else "",
            "size_hw": embedder.preprocessing.size_hw,
        },
        scores=summarize(scores, RANKS),
        num_queries=len(query),
        num_scored=scores.num_scored,
        unmatched=tuple(str(query.crops[q].path) for q in scores.unmatched),
        unreadable=tuple(str(failure) for failure in [*failed_q, *failed_g]),
        warnings=tuple(warnings),
    )


def _check_scorable(data: ReidDataset) -> None:
    for split in (data.query, data.gallery):
        if not len(split):
            raise DataError(f"{data.root} has no {split.name} images, so nothing can be scored")
    if nobody := [crop.path.name for crop in data.query.crops if crop.pid <= DISTRACTOR_PID]:
        raise DataError(f"{len(nobody)} queries are labelled junk or distractor: {', '.join(nobody[:5])}")


def _check_leak(network: OSNet, data: ReidDataset, force: bool) -> list[str]:
    """Weights must not have seen the test images."""
    trained_on = network.card.training_data if network.card else ""
    benchmarks = trained_on.removesuffix(COMBINED).split("+") if trained_on.endswith(COMBINED) else []
    places = [place.lower() for place in (data.name, *data.root.resolve().parts)]
    seen = [name for name in benchmarks if any(place.startswith(name.lower()) for place in places)]
    if not seen:
        return []
    benchmark = seen[0]
    told = f"weights of {trained_on!r} were trained on the test images of {benchmark}"
    if not force:
        raise DataError(
            f"{told}, so a score on {data.root} would mean nothing; use weights of its training split "
            f"({benchmark!r}), another data set, or say that it is to be forced"
        )
    return [f"{told}: this score says nothing about new people"]


def _embed_split(
    embedder: Embedder, split: Split, folder: Path | None, on_error: OnError, progress: Progress
) -> tuple[Split, NDArray[np.float32], Sequence[ImageError]]:
    """Vectors of a split, and the split without what could not be read."""
    out = folder / f"{split.name}.npz" if folder is not None else None
    if out is None:
        result = embedder.embed_named(progress(split.paths, len(split), split.name), on_error=on_error)
    elif out.exists():
        result = _read_back(out, embedder, split, on_error)
    else:
        result = embed_files(embedder, split.paths, out, on_error=on_error, progress=progress, label=split.name)
    crops = {str(crop.path): crop for crop in split.crops}
    kept = tuple(crops[name] for name in result.names)
    return Split(split.name, kept), result.vectors, result.failures


def _read_back(out: Path, embedder: Embedder, split: Split, on_error: OnError) -> Embeddings:
    """Vectors that an earlier run kept, if they are of these weights and these images."""
    result, made_by = read_vectors(out)
    there = {*result.names, *(failure.name for failure in result.failures)}
    if made_by != embedder.sha256() or there != {str(path) for path in split.paths}:
        raise DataError(f"{out} holds vectors of other weights or other images; delete it or choose another folder")
    if changed := find_changed(out):
        raise DataError(
            f"{len(changed)} images have changed since {out} was made ({', '.join(changed[:3])}); delete it or choose "
            "another folder"
        )
    if result.failures and on_error == "raise":
        raise result.failures[0]
    return result
