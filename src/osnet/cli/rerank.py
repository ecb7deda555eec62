"""osnet rerank: search embeddings with k-reciprocal re-ranking or query expansion."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from json import dumps
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray
from tyro.conf import Positional

from osnet.cli.common import app
from osnet.devices import pick_device
from osnet.errors import DataError, OutputError
from osnet.evaluation.checks import check_lengths
from osnet.features.labels import label_pair, read_pair
from osnet.files import check_writable, write_json, written_aside
from osnet.metrics.distance_blocks import (
    DistanceBlock,
    RankedLists,
    best_of_block,
    euclidean_blocks,
    join_lists,
    rank_scores_from_blocks,
)
from osnet.metrics.k_reciprocal import encode
from osnet.metrics.query_expansion import expand_queries
from osnet.metrics.ranking import summarize

LABELS = ("query_pids", "gallery_pids", "query_camids", "gallery_camids")

Vectors = NDArray[np.float32]
Expansion = Literal["none", "average", "alpha"]


@dataclass(frozen=True)
class Features:
    """Embeddings of queries and gallery, with names and labels if the files have them."""

    query: Vectors
    gallery: Vectors
    query_names: tuple[str, ...] | None = None
    gallery_names: tuple[str, ...] | None = None
    labels: dict[str, NDArray[np.int64]] | None = None
    """An array for each name of ``LABELS``."""


@app.command
def rerank(
    features: Annotated[tuple[Path, ...], Positional, tyro.conf.arg(metavar="FEATURES")],
    *,
    out: Path,
    out_json: Path | None = None,
    top: int = 50,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    reranking: bool = True,
    expansion: Expansion = "none",
    num_nearest: int = 5,
    alpha: float = 3.0,
    normalize: bool = True,
    device: str = "auto",
    overwrite: bool = False,
) -> None:
    """Search a gallery with k-reciprocal re-ranking (Zhong et al. 2017), query expansion, or both.

    FEATURES are as for `osnet evaluate-features`: two files, queries first, each with the array vectors, from
    `osnet embed` or any other program; or one .npz with query_vectors (Q, D) and gallery_vectors (G, D), also called
    query and gallery. If the files contain pids (in one file: query_pids and gallery_pids), scores before and after
    are printed; camids are used if present.

    Args:
        features: two files of embeddings, queries first; or one with query_vectors and gallery_vectors.
        out: a file that ends in .npz; it gets the arrays index (Q, N), distance (Q, N), and names if there are any.
        out_json: also write the lists here, as JSON.
        top: N, the number of gallery items to list for each query.
        k1: number of neighbours in the k-reciprocal sets.
        k2: number of neighbours whose codes are averaged (local query expansion); 1 for none.
        lambda_value: weight of the original distance, 0 to 1.
        reranking: re-rank; without it, lists are sorted by squared Euclidean distance.
        expansion: replace each query by the mean of itself and its nearest gallery items: average, or alpha (weighted
            by similarity).
        num_nearest: number of gallery items in that mean.
        alpha: exponent of the cosine in the alpha-weighted mean.
        normalize: scale all embeddings to length 1 first.
        device: auto (a GPU if there is one), cpu, cuda, cuda:1.
        overwrite: replace existing files.
    """
    _check_numbers(top=(top, 1), k1=(k1, 1), k2=(k2, 1), num_nearest=(num_nearest, 0), alpha=(alpha, 0))
    _check_choices(lambda_value, expansion, normalize)
    _check_outputs(out, out_json, features, overwrite)
    where = pick_device(device, float64=True)
    found = read_features(features)
    if not normalize:
        check_lengths(found.query, found.gallery, ", ".join(map(str, features)))
    query, gallery = (_unit_rows(found.query), _unit_rows(found.gallery)) if normalize else (found.query, found.gallery)
    before = _score(euclidean_blocks(query, gallery, device=where), found) if found.labels else None
    if expansion != "none":
        query = expand_queries(query, gallery, num_nearest, 0 if expansion == "average" else alpha, device=where)
    blocks = euclidean_blocks(query, gallery, device=where)
    if reranking:
        blocks = encode(query, gallery, k1, k2, device=where).blocks(lambda_value)
    lists, after = _list_and_score(blocks, top, found)
    settings = {
        "reranking": {"k1": k1, "k2": k2, "lambda_value": lambda_value} if reranking else None,
        "expansion": None if expansion == "none" else {"kind": expansion, "num_nearest": num_nearest, "alpha": alpha},
        "normalize": normalize,
    }
    _write(out, out_json, lists, found, settings, {"before": before, "after": after} if before else None)
    _print_scores(before, after)
    print(f"{len(found.query):,} queries, the best {lists.index.shape[1]} of {len(found.gallery):,}, in {out}")


def read_features(paths: tuple[Path, ...]) -> Features:
    """Read query and gallery in the formats of ``osnet.features.labels``, with labels if the files have any.

    Raises:
        DataError: a file has another format, the parts do not belong together, or only one part has labels.
    """
    query, gallery = read_pair(paths)
    found = Features(query.vectors, gallery.vectors, query.names, gallery.names)
    if query.pids is None and gallery.pids is None:
        return found
    labelled = label_pair(query, gallery)
    if (labelled[0].pids < 1).any():
        raise DataError(
            f"{query.path}: {query.prefix}pids contains 0 or less, which marks distractors and junk; number identities "
            "from 1"
        )
    values = [*(part.pids for part in labelled), *(part.camids for part in labelled)]
    return replace(found, labels=dict(zip(LABELS, values, strict=True)))


def _unit_rows(rows: Vectors) -> Vectors:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(lengths, np.finfo(np.float32).tiny)


def _check_numbers(**given: tuple[float, float]) -> None:
    for name, (value, least) in given.items():
        if not value >= least:
            raise DataError(f"--{name.replace('_', '-')} {value} must be at least {least}")


def _check_choices(lambda_value: float, expansion: Expansion, normalize: bool) -> None:
    if not 0 <= lambda_value <= 1:
        raise DataError(f"--lambda-value {lambda_value} must be from 0 to 1")
    if expansion != "none" and not normalize:
        raise DataError(f"--expansion {expansion} needs --normalize: it makes queries of length 1")


def _check_outputs(out: Path, out_json: Path | None, features: tuple[Path, ...], overwrite: bool) -> None:
    if out.suffix != ".npz":
        raise OutputError(f"{out}: lists are written as .npz; choose a name with this ending")
    if out_json is not None and _is_same(out, out_json):
        raise OutputError(f"--out {out} and --out-json {out_json} are the same file; choose two names")
    for path in (out, out_json):
        if path is not None:
            if any(_is_same(path, given) for given in features):
                raise OutputError(f"{path} is one of the input files; choose another name")
            if path.exists() and not overwrite:
                raise OutputError(f"{path} exists; choose another name or add --overwrite")
            check_writable(path)


def _is_same(one: Path, other: Path) -> bool:
    """True if two paths lead to one file, through links too."""
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))


def _list_and_score(
    blocks: Iterable[DistanceBlock], top: int, found: Features
) -> tuple[RankedLists, dict[str, float | None] | None]:
    """List and score in one pass over the blocks, which are not kept."""
    kept: list[RankedLists] = []
    passing = _keeping(blocks, top, kept)
    after = _score(passing, found) if found.labels else None
    for _ in passing:  # the blocks that scoring has not consumed
        pass
    return join_lists(kept), after


def _keeping(blocks: Iterable[DistanceBlock], top: int, kept: list[RankedLists]) -> Iterator[DistanceBlock]:
    for block in blocks:
        kept.append(best_of_block(block, top))
        yield block


def _score(blocks: Iterable[DistanceBlock], found: Features) -> dict[str, float | None]:
    assert found.labels is not None
    query_pids, gallery_pids, query_camids, gallery_camids = (found.labels[name] for name in LABELS)
    return summarize(
        rank_scores_from_blocks(blocks, query_pids, gallery_pids, query_camids, gallery_camids), (1, 5, 10)
    )


def _print_scores(before: dict[str, float | None] | None, after: dict[str, float | None] | None) -> None:
    if before is None or after is None:
        return
    print(f"{'':10}{'before':>10}{'after':>10}")
    for name, value in before.items():
        cells = ("no match" if number is None else f"{100 * number:.2f} %" for number in (value, after[name]))
        print(f"{name:10}" + "".join(f"{cell:>10}" for cell in cells))


def _write(
    out: Path, out_json: Path | None, lists: RankedLists, found: Features, settings: dict[str, Any], scores: Any
) -> None:
    arrays: dict[str, Any] = {"index": lists.index, "distance": lists.distance}
    for name, values in (("query_names", found.query_names), ("gallery_names", found.gallery_names)):
        if values is not None:
            arrays[name] = np.array(values, dtype=np.str_)
    arrays["settings"] = np.array(dumps(settings))
    with written_aside(out) as aside, aside.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    if out_json is not None:
        write_json(out_json, {"settings": settings, "scores": scores, "queries": _as_json(lists, found)})


def _as_json(lists: RankedLists, found: Features) -> list[dict[str, Any]]:
    def name(names: tuple[str, ...] | None, index: int) -> dict[str, Any]:
        return {"index": index} if names is None else {"index": index, "name": names[index]}

    return [
        {
            **name(found.query_names, q),
            "hits": [
                {"rank": rank, **name(found.gallery_names, g), "distance": round(distance, 7)}
                for rank, (g, distance) in enumerate(zip(index_K, distance_K, strict=True), start=1)
            ],
        }
        for q, (index_K, distance_K) in enumerate(zip(lists.index.tolist(), lists.distance.tolist(), strict=True))
    ]
