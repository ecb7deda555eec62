"""Splits that a protocol draws at random: drawn once from a seed, kept as JSON, checked whenever they are read.

The numbers come from NumPy's ``RandomState``, whose stream NumPy promises never to change; the kept file counts all
the same, so that a copied file means the same splits anywhere.
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


def drawn_datasets(
    name: str,
    root: Path,
    crops: Sequence[Crop],
    draw: Draw,
    seed: int,
    work_dir: Path | None,
    other_files: tuple[str, ...] = (),
) -> tuple[tuple[ReidDataset, ...], Path]:
    """The splits that ``draw`` makes of ``crops``, and the file that keeps them.

    The first call draws and writes; later ones read the file and check it against the images.

    Args:
        name: the benchmark.
        root: its folder, which the kept paths are relative to.
        crops: all its images.
        draw: the protocol.
        seed: 0 to 2**32 - 1.
        work_dir: where the file is kept; by default ``root``.
        other_files: files in it that are no images.

    Raises:
        DataError: a seed out of range, or a kept file that is damaged, was changed, or is of other images.
        OutputError: the file cannot be written; the message says how to choose another folder.
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
    """Ten times half of the people (rounded down) to train on; the rest is searched for twice: from the first camera in
    the second, then the other way round. Twenty splits, as Torchreid numbers them.
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
    """Half of the people, rounded down."""
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
        raise OutputError(f"{error}; give work_dir, a folder that the splits of {name} can be kept in") from error


def _read(path: Path, name: str, seed: int, named: Mapping[str, Crop]) -> list[Triple]:
    """The kept splits, checked: of this benchmark, seed and images, unchanged, and no test person in training."""
    again = "delete it, and it is drawn again"
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
            f"{path} was drawn for {content.get('num_images')} images; here are {len(named)}, "
            f"not the same ones; {again}"
        )
    for number, (train, query, gallery) in enumerate(triples):
        learnt = {crop.pid for crop in train}
        if both := sorted(learnt & {crop.pid for crop in (*query, *gallery)}):
            raise DataError(f"{path}, split {number}: people {both[:SHOWN]} are in train and in the test")
    return [(train, query, gallery) for train, query, gallery in triples]


def _lookup(path: Path, split: Any, part: str, named: Mapping[str, Crop]) -> list[Crop]:
    """Only names of images that were found are taken, so no path can lead elsewhere."""
    names = split.get(part) if isinstance(split, dict) else None
    if not isinstance(names, list):
        raise DataError(f"{path} has a split without {part}; delete it, and it is drawn again")
    if unknown := [str(name) for name in names if not isinstance(name, str) or name not in named]:
        raise DataError(
            f"{path} names {len(unknown)} image(s) that are not here: {', '.join(unknown[:SHOWN])}; "
            "restore them, or delete the file, and it is drawn again"
        )
    return [named[name] for name in names]


def read_json_object(path: Path, again: str) -> dict[str, Any]:
    """A JSON file that holds an object; ``again`` tells the user what to do if it does not.

    Raises:
        DataError: it is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}; {again}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no JSON object; {again}")
    return content


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
