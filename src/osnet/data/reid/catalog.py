"""Every benchmark by name: its layout, its published counts, its reader."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict, Unpack

from osnet.data.folder import read_any
from osnet.data.reid import (
    cuhk01,
    cuhk02,
    cuhk03,
    cuhksysu,
    dukemtmcreid,
    grid,
    ilids,
    market1501,
    msmt17,
    prid,
    sensereid,
    viper,
)
from osnet.data.reid.benchmark import Benchmark, Published, SplitName, describe_published
from osnet.data.reid.msmt17 import Version
from osnet.errors import DataError
from osnet.progress import Progress
from osnet.types import ReidDataset


class Options(TypedDict, total=False):
    """What some benchmarks let choose; each reader's docstring says what it means there."""

    labelled: bool
    """CUHK03: boxes drawn by hand."""
    classic: bool
    """CUHK03: the 20 splits."""
    distractors: bool
    """Market-1501: the 500,000 further ones."""
    version: Version
    """MSMT17."""
    seed: int
    """VIPeR, PRID, i-LIDS, CUHK01: of the drawn splits."""
    work_dir: Path | None
    """Where what is made once is kept: drawn splits, extracted images."""
    progress: Progress | None
    """CUHK03: draws a bar over the extraction."""


@dataclass(frozen=True)
class Entry:
    """One benchmark as the catalogue lists it."""

    name: str
    title: str
    layout: str
    """Below the folder of all data sets, as Torchreid's users have it."""
    read: Callable[..., Benchmark]
    published: Mapping[str, tuple[Published, ...]]
    """By variant; ``""`` where there is one only."""
    notes: tuple[str, ...] = ()

    @property
    def options(self) -> tuple[str, ...]:
        """The names of the options that its reader takes."""
        return tuple(inspect.signature(self.read).parameters)[1:]

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.title}", f"  layout: {self.layout}"]
        if options := [option for option in self.options if option != "progress"]:
            lines.append(f"  options: {', '.join(options)}")
        for variant, published in self.published.items():
            lines.append(f"  published{f' ({variant})' if variant else ''}:")
            lines += [f"    {line}" for line in describe_published(published)]
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


_ENTRIES = (
    Entry(
        "market1501",
        "Market-1501",
        market1501.LAYOUT,
        market1501.read_market1501_benchmark,
        {"": market1501.PUBLISHED, "with the further distractors": market1501.PUBLISHED_500K},
    ),
    Entry("cuhk03", "CUHK03", cuhk03.LAYOUT, cuhk03.read_cuhk03, cuhk03.PUBLISHED, cuhk03.NOTES),
    Entry(
        "dukemtmcreid",
        "DukeMTMC-reID (withdrawn)",
        dukemtmcreid.LAYOUT,
        dukemtmcreid.read_dukemtmcreid,
        {"": dukemtmcreid.PUBLISHED},
        dukemtmcreid.NOTES,
    ),
    Entry("msmt17", "MSMT17", msmt17.LAYOUT, msmt17.read_msmt17, {"": msmt17.PUBLISHED}, msmt17.NOTES),
    Entry("viper", "VIPeR", viper.LAYOUT, viper.read_viper, {"": viper.PUBLISHED}),
    Entry("grid", "GRID", grid.LAYOUT, grid.read_grid, {"": grid.PUBLISHED}),
    Entry("prid", "PRID 2011, single-shot", prid.LAYOUT, prid.read_prid, {"": prid.PUBLISHED}),
    Entry("ilids", "i-LIDS", ilids.LAYOUT, ilids.read_ilids, {"": ilids.PUBLISHED}, ilids.NOTES),
    Entry("cuhk01", "CUHK01", cuhk01.LAYOUT, cuhk01.read_cuhk01, {"": cuhk01.PUBLISHED}, cuhk01.NOTES),
    Entry("cuhk02", "CUHK02", cuhk02.LAYOUT, cuhk02.read_cuhk02, {"": cuhk02.PUBLISHED}, cuhk02.NOTES),
    Entry("cuhksysu", "CUHK-SYSU", cuhksysu.LAYOUT, cuhksysu.read_cuhksysu, {"": cuhksysu.PUBLISHED}, cuhksysu.NOTES),
    Entry(
        "sensereid", "SenseReID", sensereid.LAYOUT, sensereid.read_sensereid, {"": sensereid.PUBLISHED}, sensereid.NOTES
    ),
)
BOTH_WAYS = ("viper", "cuhk01")
"""Benchmarks whose splits come in pairs with the same training half; see ``drawn.draw_halves``."""
BENCHMARKS: Mapping[str, Entry] = {entry.name: entry for entry in _ENTRIES}


def list_benchmarks() -> tuple[Entry, ...]:
    """Every benchmark, with its layout and published counts."""
    return _ENTRIES


def read_benchmark(name: str, root: str | Path, **options: Unpack[Options]) -> Benchmark:
    """A benchmark with its protocol.

    Args:
        name: one of ``list_benchmarks()``.
        root: its folder: the one of all data sets, its own, or the inner one.
        options: see ``Options``; one that this benchmark does not have must be left out (or None or False).

    Raises:
        DataError: an unknown name or option (the message lists the known ones), or as the reader raises.
        OutputError, MissingExtraError: as the reader raises.
    """
    entry = get_benchmark(name)
    given = {option: value for option, value in options.items() if value is not None and value is not False}
    if strange := sorted(set(given) - set(entry.options) - {"progress"}):
        known = ", ".join(option for option in entry.options if option != "progress") or "none"
        raise DataError(f"benchmark {name} has no option {', '.join(strange)}; its options: {known}")
    return entry.read(root, **{option: value for option, value in given.items() if option in entry.options})


def get_benchmark(name: str) -> Entry:
    """The catalogue's entry.

    Raises:
        DataError: no such name; the message lists them.
    """
    if name not in BENCHMARKS:
        raise DataError(f"unknown benchmark {name!r}; choose from {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def read_source(source: str | Path, work_dir: Path | None = None) -> ReidDataset:
    """What to train on. ``NAME=FOLDER`` is a benchmark; anything else is a folder that ``read_any`` understands.

    ``NAME:WORD,WORD=FOLDER`` chooses among a benchmark's forms: see ``read_named``. Without a number it is the first
    split of its protocol.

    Args:
        source: the name or the folder.
        work_dir: as for ``read_named``.

    Raises:
        DataError: a word that means nothing, a split that is not there, or as ``read_benchmark`` and ``read_any``.
    """
    name, separator, folder = str(source).partition("=")
    if not separator or Path(source).exists():
        return read_any(source)
    return read_named(name, folder, work_dir).datasets[0]


def read_named(
    spec: str, root: str | Path, work_dir: Path | None = None, progress: Progress | None = None
) -> Benchmark:
    """``read_benchmark`` by one word: ``NAME``, or ``NAME:WORD,WORD``.

    Args:
        spec: the words are ``labelled``, ``classic``, ``distractors``, ``v1``, ``v2``, ``seed7`` (of the drawn splits;
            0 by default), or a number: one split of the protocol alone (0 is the first).
        root: as for ``read_benchmark``.
        work_dir: where a benchmark keeps what is made once (drawn splits, extracted images); by default beside the
            data. Of no use to the others.
        progress: draws a bar over what takes long.

    Raises:
        DataError: a word that means nothing, a split that is not there, or as ``read_benchmark``.
    """
    name, _, words = spec.partition(":")
    options: Options = {"progress": progress}
    if "work_dir" in get_benchmark(name).options:
        options["work_dir"] = work_dir
    number: int | None = None
    for word in filter(None, words.split(",")):
        if word in ("labelled", "classic", "distractors"):
            options[word] = True  # type: ignore[literal-required]
        elif word in ("v1", "v2"):
            options["version"] = "v1" if word == "v1" else "v2"
        elif word.isdecimal():
            number = int(word)
        elif (seed := word.removeprefix("seed")).isdecimal():
            options["seed"] = int(seed)
        else:
            raise DataError(
                f"{spec}: {word!r} is none of labelled, classic, distractors, v1, v2, seed0, a split's number"
            )
    benchmark = read_benchmark(name, root, **options)
    if number is None:
        return benchmark
    if number >= len(benchmark.datasets):
        last = len(benchmark.datasets) - 1
        raise DataError(f"{spec}: {name} has the splits 0 to {last}, so there is no split {number}")
    return replace(benchmark, datasets=(benchmark.datasets[number],))


def splits_overlap(trained_on: str, tested_on: str) -> bool:
    """Does one split of a benchmark test people whom another one trains on?

    True for two numbers of one benchmark (``viper-00``, ``viper-02``), unless they search the same half in both
    directions (``viper-00``, ``viper-01``); for two seeds of the draws; for CUHK03's classic splits and its 767/700. A
    folder of one's own that is called so is none.
    """
    first, second = SplitName.parse(trained_on), SplitName.parse(tested_on)
    if first is None or second is None:
        names = {split.benchmark if split else name for split, name in ((first, trained_on), (second, tested_on))}
        return names == {"cuhk03"} and first != second
    if first == second or first.benchmark != second.benchmark or first.benchmark not in BENCHMARKS:
        return False
    return not (first.seed == second.seed and first.benchmark in BOTH_WAYS and first.number // 2 == second.number // 2)
