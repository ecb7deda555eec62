"""Checks before an evaluation: can the data set be scored, and were the weights trained on its test images?"""

from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from osnet.data.reid.benchmark import SplitName
from osnet.data.reid.catalog import BENCHMARKS, splits_overlap
from osnet.data.reid.market1501 import MARKET_FOLDER
from osnet.errors import DataError
from osnet.features.labels import LabelledVectors
from osnet.files import sha256_file
from osnet.types import DISTRACTOR_PID, ReidDataset, Split
from osnet.weights.card import Card

COMBINED = "_combineall"
"""Suffix of training data that include test images, as in ``msmt17_combineall`` or ``market1501+msmt17_combineall``."""


def check_scorable(data: ReidDataset) -> None:
    """Raise an error if no score can be computed on a data set.

    Raises:
        DataError: query or gallery is empty, a query is labelled junk or distractor, or no query has a match.
    """
    for split in (data.query, data.gallery):
        if not len(split):
            raise DataError(f"{data.root} has no {split.name} images; an evaluation needs queries and a gallery")
    if unlabelled := [crop.path.name for crop in data.query.crops if crop.pid <= DISTRACTOR_PID]:
        raise DataError(
            f"{data.root}: {len(unlabelled)} queries are labelled junk or distractor ({', '.join(unlabelled[:5])}); "
            "each query needs an identity"
        )
    check_matches(data.query, data.gallery, str(data.root))


def check_matches(query: Split | LabelledVectors, gallery: Split | LabelledVectors, where: str) -> None:
    """Raise an error if no query has a match, that is, a gallery item of its identity in another camera.

    Args:
        query: queries with their labels.
        gallery: gallery items with their labels.
        where: name of the data set in the error.

    Raises:
        DataError: no query has a match.
    """
    cameras: dict[int, set[int]] = {}
    for pid, camid in zip(gallery.pids, gallery.camids, strict=True):
        cameras.setdefault(int(pid), set()).add(int(camid))
    pairs = [(int(pid), int(camid)) for pid, camid in zip(query.pids, query.camids, strict=True)]
    if any(cameras.get(pid, set()) - {camid} for pid, camid in pairs):
        return
    same_camera = sum(pid in cameras for pid, _ in pairs)
    raise DataError(
        f"{where}: none of the {len(pairs)} queries has a match, so there is nothing to score. "
        f"{len(pairs) - same_camera} queries show identities that are not in the gallery; {same_camera} show "
        "identities that are there only in the query's own camera, which the protocol ignores. Check the identities "
        "and the cameras"
    )


def check_lengths(query_QD: NDArray[np.float32], gallery_GD: NDArray[np.float32], where: str) -> None:
    """Raise an error if only one part has embeddings of length 1. Euclidean distances between the parts mean nothing.

    Embeddings that are zero are not looked at.

    Args:
        query_QD: (Q, D) query embeddings.
        gallery_GD: (G, D) gallery embeddings.
        where: name of the data set in the error.

    Raises:
        DataError: all lengths of one part are 1 (within 1e-3), and those of the other are not.
    """
    squares = [np.einsum("nd,nd->n", part, part) for part in (query_QD, gallery_GD)]
    lengths = [np.sqrt(part[part > 0]) for part in squares]
    unit = [bool((abs(part - 1) <= 1e-3).all()) for part in lengths]
    if unit[0] != unit[1]:
        one, other = ("query", "gallery") if unit[0] else ("gallery", "query")
        found = lengths[unit[0]]
        raise DataError(
            f"{where}: {one} embeddings have length 1, but {other} embeddings lengths from {found.min():.4g} to "
            f"{found.max():.4g}, so Euclidean distances between them mean nothing; normalise both or neither, or "
            "compare by cosine alone"
        )


def warn_about_copies(query: Split, gallery: Split) -> list[str]:
    """A warning if matches of queries are the query's own image: equal files, under any name.

    Only copies that count as a match raise the scores: of the query's identity, and not of its camera. The protocol
    ignores those of its camera. Files are compared only if identity and size are equal, so that few are read. Copies
    with other bytes, such as images that were saved again, are not found.
    """
    sizes: dict[tuple[int, int], list[tuple[int, Path]]] = defaultdict(list)
    people = set(query.pids)
    for crop in gallery.crops:
        if crop.pid in people and (size := _size(crop.path)):
            sizes[crop.pid, size].append((crop.camid, crop.path))
    digests: dict[Path, str] = {}
    copies: list[str] = []
    for crop in query.crops:
        alike = [path for camid, path in sizes.get((crop.pid, _size(crop.path)), ()) if camid != crop.camid]
        if alike:
            for path in (crop.path, *alike):
                if path not in digests:
                    digests[path] = sha256_file(path)
            copies += [f"{crop.path} = {path}" for path in alike if digests[path] == digests[crop.path]][:1]
    if not copies:
        return []
    return [
        f"{len(copies)} of {len(query)} queries have their own image in the gallery as a match ({copies[0]}), so they "
        "find themselves and the scores are too high; leave these images out of one part"
    ]


def warn_about_equal_vectors(query: LabelledVectors, gallery: LabelledVectors) -> list[str]:
    """As ``warn_about_copies``, for embeddings: matches that are equal to the query's embedding, and not zero."""
    cameras: dict[tuple[int, bytes], set[int]] = defaultdict(set)
    for pid, camid, vector in zip(gallery.pids, gallery.camids, gallery.vectors, strict=True):
        cameras[int(pid), vector.tobytes()].add(int(camid))
    rows = zip(query.pids, query.camids, query.vectors, strict=True)
    number = sum(bool(v.any() and cameras.get((int(p), v.tobytes()), set()) - {int(c)}) for p, c, v in rows)
    if not number:
        return []
    return [
        f"{number} of {len(query)} queries have an equal embedding in the gallery as a match; if these are the same "
        "images, they find themselves and the scores are too high"
    ]


def _size(path: Path) -> int:
    """Number of bytes; 0 for a file that is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def check_leak(card: Card | None, data: ReidDataset, force: bool) -> list[str]:
    """Check that the weights were not trained on the test identities of ``data``.

    There is an overlap if the card names all images of the benchmark (``..._combineall``), or another random split of
    the same identities, as training data. A benchmark is recognised by its images (``ReidDataset.benchmark``) or by the
    name that the user gave it, not by the name of its folder. Any other data set is recognised by its name.

    Args:
        card: card of the weights; None for random weights.
        data: the data set to be evaluated on.
        force: return a warning instead of raising an error.

    Returns:
        Warnings for the result; empty if there is no overlap.

    Raises:
        DataError: the weights were trained on test identities, and ``force`` is False.
    """
    trained_on = card.training_data if card else ""
    tested_on = _given_name(data)
    if other := next((name for name in trained_on.split("+") if splits_overlap(name, tested_on)), None):
        fact = (
            f"weights of {trained_on!r} were trained on test identities of {data.name}: both are random splits of the "
            "same identities"
        )
        if not force:
            raise DataError(f"{fact}. Evaluate on {other}, or force the evaluation (force=True, --force)")
        return [f"{fact}. This score does not show how well the weights work for new identities"]
    benchmarks = trained_on.removesuffix(COMBINED).split("+") if trained_on.endswith(COMBINED) else []
    split = SplitName.parse(tested_on)
    names = {name.lower() for name in (tested_on, data.benchmark, split.benchmark if split else "")} - {""}
    benchmark = next((name for name in benchmarks if name.lower() in names), None)
    if benchmark is None:
        return []
    fact = f"weights of {trained_on!r} were trained on the test images of {benchmark}"
    if not force:
        raise DataError(
            f"{fact}, so a score on {data.root} would be meaningless. Use weights trained on {benchmark!r} (its "
            "training split) or another data set, or force the evaluation (force=True, --force)"
        )
    return [f"{fact}. This score does not show how well the weights work for new identities"]


def _given_name(data: ReidDataset) -> str:
    """The data set's name; empty if it is the name of a benchmark and comes from the name of the folder alone."""
    if data.benchmark:
        return data.name
    folder = data.root.resolve().name
    from_folder = data.name == folder or (data.name, folder) == ("market1501", MARKET_FOLDER)
    split = SplitName.parse(data.name)
    return "" if from_folder and (split.benchmark if split else data.name.lower()) in BENCHMARKS else data.name
