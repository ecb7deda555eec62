"""The benchmarks by name, with their layouts, published counts and readers."""

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
    """Options of ``read_benchmark``. Each benchmark has only some of them; see the docstrings of the readers."""

    labelled: bool
    """CUHK03: use the boxes drawn by hand instead of the detected ones."""
    classic: bool
    """CUHK03: use the 20 splits of Li et al. instead of the 767/700 split."""
    distractors: bool
    """Market-1501: add the 500,000 additional distractors to the gallery."""
    version: Version
    """MSMT17: version of the data set."""
    seed: int
    """VIPeR, PRID, i-LIDS, CUHK01: seed of the random splits."""
    work_dir: Path | None
    """Folder for files that are created once: splits files and extracted images."""
    progress: Progress | None
    """CUHK03: shows a progress bar during the extraction."""


@dataclass(frozen=True)
class Entry:
    """A benchmark in the catalog."""

    name: str
    title: str
    layout: str
    """Paths below the folder of all data sets, as in Torchreid."""
    read: Callable[..., Benchmark]
    published: Mapping[str, tuple[Published, ...]]
    """Published counts for each variant; the key is ``""`` if there is only one variant."""
    notes: tuple[str, ...] = ()

    @property
    def options(self) -> tuple[str, ...]:
        """The names of the options that this benchmark has."""
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
        {"": market1501.PUBLISHED, market1501.VARIANT_500K: market1501.PUBLISHED_500K},
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
"""Benchmarks whose splits come in pairs with the same training identities; see ``random_splits.draw_halves``."""
BENCHMARKS: Mapping[str, Entry] = {entry.name: entry for entry in _ENTRIES}


def list_benchmarks() -> tuple[Entry, ...]:
    """All benchmarks, with their layouts and published counts."""
    return _ENTRIES


def read_benchmark(name: str, root: str | Path, **options: Unpack[Options]) -> Benchmark:
    """Read a benchmark with its protocol.

    Args:
        name: name of a benchmark in ``list_benchmarks()``.
        root: the folder that contains the benchmark's files, or a parent of it, up to the folder of all data sets.
        options: see ``Options``. An option that the benchmark does not have must be absent, None or False.

    Raises:
        DataError: the name or an option is unknown (the message lists the known ones), or the data set is missing or
            damaged (see the readers).
        OutputError: the splits file or the extracted images cannot be written.
        MissingExtraError: a library that reads the files is not installed.
    """
    entry = get_benchmark(name)
    given = {option: value for option, value in options.items() if value is not None and value is not False}
    if strange := sorted(set(given) - set(entry.options) - {"progress"}):
        known = ", ".join(option for option in entry.options if option != "progress") or "none"
        raise DataError(f"benchmark {name} has no option {', '.join(strange)}; its options: {known}")
    return entry.read(root, **{option: value for option, value in given.items() if option in entry.options})


def get_benchmark(name: str) -> Entry:
    """Look up a benchmark by name.

    Raises:
        DataError: the name is unknown. The message lists the known names.
    """
    if name not in BENCHMARKS:
        raise DataError(f"unknown benchmark {name!r}; choose from {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def read_source(source: str | Path, work_dir: Path | None = None) -> ReidDataset:
    """Read a data set for training: a benchmark, or a folder in a layout that ``read_any`` knows.

    Args:
        source: ``NAME=FOLDER`` for a benchmark, with the options of ``read_named`` as ``NAME:WORD,WORD=FOLDER``;
            otherwise the path of a folder. If a benchmark has several splits and no number is given, the first is read.
        work_dir: folder for files that a benchmark creates once; see ``read_named``.

    Raises:
        DataError: an option or split does not exist, or the data set is missing or damaged (see ``read_benchmark``
            and ``read_any``).
    """
    name, separator, folder = str(source).partition("=")
    if not separator or Path(source).exists():
        return read_any(source)
    return read_named(name, folder, work_dir).datasets[0]


def read_named(
    spec: str, root: str | Path, work_dir: Path | None = None, progress: Progress | None = None
) -> Benchmark:
    """Read a benchmark whose name and options are in one string, as on the command line.

    Args:
        spec: ``NAME`` or ``NAME:WORD,WORD``. Each word is an option: ``labelled``, ``classic``, ``distractors``,
            ``v1``, ``v2``, ``seed7`` (seed of the random splits, 0 by default), or a number, which selects one split
            of the protocol (the first is 0).
        root: the folder of the benchmark or a parent of it; see ``read_benchmark``.
        work_dir: folder for files that are created once (splits files, extracted images); default: the folder of
            the data. Benchmarks that create no files ignore it.
        progress: shows a progress bar during long work.

    Raises:
        DataError: a word or a split is unknown, or ``read_benchmark`` raises it.
        OutputError: files cannot be written to ``work_dir``.
        MissingExtraError: a library that reads the files is not installed.
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
                f"{spec}: unknown option {word!r}; choose from labelled, classic, distractors, v1, v2, seedN (such as "
                "seed7), or the number of a split"
            )
    benchmark = read_benchmark(name, root, **options)
    if number is None:
        return benchmark
    if number >= len(benchmark.datasets):
        last = len(benchmark.datasets) - 1
        raise DataError(f"{spec}: {name} has no split {number}; choose from 0 to {last}")
    return replace(benchmark, datasets=(benchmark.datasets[number],))


def splits_overlap(trained_on: str, tested_on: str) -> bool:
    """Whether people in the test part of split ``tested_on`` may be in the training part of split ``trained_on``.

    True in these cases:

    * two splits of one benchmark with different numbers, such as ``viper-00`` and ``viper-02``, except pairs that
      share their training people (``viper-00`` and ``viper-01``)
    * splits drawn from different seeds
    * a classic split of CUHK03 and its 767/700 split

    False for names that do not belong to a benchmark.
    """
    first, second = SplitName.parse(trained_on), SplitName.parse(tested_on)
    if first is None or second is None:
        names = {split.benchmark if split else name for split, name in ((first, trained_on), (second, tested_on))}
        return names == {"cuhk03"} and first != second
    if first == second or first.benchmark != second.benchmark or first.benchmark not in BENCHMARKS:
        return False
    return not (first.seed == second.seed and first.benchmark in BOTH_WAYS and first.number // 2 == second.number // 2)
