"""Random splits of benchmarks: drawn once from a seed, saved as JSON, and checked whenever they are read.

The random numbers come from NumPy's ``RandomState``, whose stream NumPy guarantees not to change. If a splits file
exists, it is used instead of drawing again, so copying the file gives the same splits on another machine.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from osnet.data.reid.benchmark import SplitName
from osnet.data.reid.layout import SHOWN, by_relative_path
from osnet.errors import DataError, OutputError
from osnet.files import make_folder, write_json
from osnet.types import Crop, ReidDataset, Split

FORMAT = 1
NUM_DRAWS = 10
SPLITS = ("train", "query", "gallery")
Triple = tuple[Sequence[Crop], Sequence[Crop], Sequence[Crop]]
"""Train, query, gallery."""
Draw = Callable[[np.random.RandomState], Iterable[Triple]]
"""Draws all splits of a benchmark."""


def drawn_datasets(
    name: str,
    root: Path,
    crops: Sequence[Crop],
    draw: Draw,
    seed: int,
    work_dir: Path | None,
    other_files: tuple[str, ...] = (),
) -> tuple[tuple[ReidDataset, ...], Path]:
    """Return the random splits of a benchmark, and the path of the splits file.

    The first call draws the splits and writes the file; later calls read the file and check it against the images.

    Args:
        name: name of the benchmark.
        root: folder of the benchmark; paths in the splits file are relative to it.
        crops: all crops of the benchmark.
        draw: function that draws the splits by the benchmark's protocol.
        seed: seed of the draws, 0 to 2**32 - 1.
        work_dir: folder of the splits file; default: ``root``.
        other_files: files in ``root`` that are not images.

    Raises:
        DataError: the seed is out of range, or the splits file is damaged, was changed, or belongs to other images.
        OutputError: the splits file cannot be written.
    """
    if not 0 <= seed < 2**32:
        raise DataError(f"seed {seed} is outside 0 to {2**32 - 1}")
    named = by_relative_path(crops, root)
    path = _splits_path(name, root, seed, work_dir)
    if not path.exists():
        drawn = list(draw(np.random.RandomState(seed)))
        _write(path, name, seed, root, named, drawn)
    triples = _read(path, name, seed, named)
    datasets = (
        ReidDataset(str(SplitName(name, seed, number)), root, *_as_splits(triple), other_files=other_files)
        for number, triple in enumerate(triples)
    )
    return tuple(datasets), path


def draw_halves(crops: Sequence[Crop]) -> Draw:
    """Return a function that draws ten random halves of the identities and makes two splits of each, 20 in all.

    Half of the identities (rounded down) are used for training and the others for the test. In the first split of a
    pair, the queries come from the first camera and the gallery from the second. In the second split, the cameras are
    swapped. The splits are numbered as in Torchreid.
    """
    views = sorted({crop.camid for crop in crops})

    def draw(rng: np.random.RandomState) -> Iterator[Triple]:
        for _ in range(NUM_DRAWS):
            train_pids = draw_half({crop.pid for crop in crops}, rng)
            train = [crop for crop in crops if crop.pid in train_pids]
            first, second = (
                [crop for crop in crops if crop.pid not in train_pids and crop.camid == view] for view in views
            )
            yield train, first, second
            yield train, second, first

    return draw


def draw_half(pids: Iterable[int], rng: np.random.RandomState) -> set[int]:
    """Choose half of the identities at random, rounded down."""
    ordered = sorted(set(pids))
    return set(rng.permutation(ordered)[: len(ordered) // 2].tolist())


def _splits_path(name: str, root: Path, seed: int, work_dir: Path | None) -> Path:
    folder = root if work_dir is None else make_folder(work_dir)
    return folder / f"splits_osnet_{name}_seed{seed}.json"


def _as_splits(triple: Triple) -> tuple[Split, Split, Split]:
    train, query, gallery = (Split(name, tuple(part)) for name, part in zip(SPLITS, triple, strict=True))
    return train, query, gallery


def _write(path: Path, name: str, seed: int, root: Path, named: Mapping[str, Crop], drawn: Sequence[Triple]) -> None:
    def names(crops: Sequence[Crop]) -> list[str]:
        return sorted(crop.path.relative_to(root).as_posix() for crop in crops)

    splits = [{split: names(part) for split, part in zip(SPLITS, triple, strict=True)} for triple in drawn]
    content = {
        "format": FORMAT,
        "benchmark": name,
        "seed": seed,
        "num_images": len(named),
        "images_sha256": _digest(list(named)),
        "splits_sha256": _digest(splits),
        "splits": splits,
    }
    try:
        write_json(path, content)
    except OutputError as error:
        raise OutputError(f"{error}; pass work_dir, a writable folder for the splits of {name}") from error


def _read(path: Path, name: str, seed: int, named: Mapping[str, Crop]) -> list[Triple]:
    """Read and check the splits file: benchmark, seed, images, digests, and that no identity is in train and test."""
    again = "delete the file to draw the splits again"
    content = read_json_object(path, again)
    expected = {"format": FORMAT, "benchmark": name, "seed": seed}
    for key, value in expected.items():
        if content.get(key) != value:
            raise DataError(f"{path}: {key} is {content.get(key)!r} instead of {value!r}; {again}")
    splits = content.get("splits")
    if not isinstance(splits, list) or not splits or content.get("splits_sha256") != _digest(splits):
        raise DataError(f"{path} is damaged or was changed by hand; {again}")
    triples = [tuple(_lookup(path, split, part, named) for part in SPLITS) for split in splits]
    if content.get("images_sha256") != _digest(list(named)):
        raise DataError(
            f"{path} was drawn for {content.get('num_images')} images, "
            f"but the data set has {len(named)} other ones; {again}"
        )
    for number, (train, query, gallery) in enumerate(triples):
        train_pids = {crop.pid for crop in train}
        if both := sorted(train_pids & {crop.pid for crop in (*query, *gallery)}):
            raise DataError(f"{path}, split {number}: identities {both[:SHOWN]} are in train and in query or gallery")
    return [(train, query, gallery) for train, query, gallery in triples]


def _lookup(path: Path, split: Any, part: str, named: Mapping[str, Crop]) -> list[Crop]:
    """Look up the crops by name. Unknown names are an error, so no path from the file is ever opened."""
    names = split.get(part) if isinstance(split, dict) else None
    if not isinstance(names, list):
        raise DataError(f"{path} has a split without {part}; delete the file to draw the splits again")
    if unknown := [str(name) for name in names if not isinstance(name, str) or name not in named]:
        raise DataError(
            f"{path} lists {len(unknown)} image(s) that do not exist: {', '.join(unknown[:SHOWN])}; "
            "restore them, or delete the file to draw the splits again"
        )
    return [named[name] for name in names]


def read_json_object(path: Path, again: str) -> dict[str, Any]:
    """Read a JSON file that contains an object.

    Args:
        path: the file.
        again: end of the error message, which tells the user what to do.

    Raises:
        DataError: the file cannot be read, is not JSON, or contains something other than an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}; {again}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} does not contain a JSON object; {again}")
    return content


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
