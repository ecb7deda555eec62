"""Helpers that the commands share: progress bar, exit codes, listing of inputs, report of failed images."""

import csv
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, TextIO

import numpy as np
import tyro
from numpy.typing import NDArray
from tqdm import tqdm
from tyro.constructors import PrimitiveConstructorSpec
from tyro.extras import SubcommandApp

from osnet.cli import EXIT_ERROR as EXIT_ERROR
from osnet.cli import EXIT_INTERRUPTED as EXIT_INTERRUPTED
from osnet.data.folder import FolderLayout, IdentityFrom
from osnet.data.loading import describe_others, list_images, list_other_files, no_images
from osnet.errors import DataError, ImageWarning, OutputError
from osnet.files import check_writable, plain_path, written_aside
from osnet.types import ReidDataset

EXIT_FOUND_TROUBLE = 1
"""Exit code of a command that ran to its end, but left an image out or found a fault."""

MAX_WARNINGS = 10
"""Largest number of warnings about images that are printed one by one."""

JsonFlag = Annotated[bool, tyro.conf.arg(name="json")]


def _texts(given: list[str]) -> tuple[str, ...]:
    if not given:
        raise ValueError("give at least one value, or leave the flag out")
    return tuple(given)


Texts = Annotated[
    tuple[str, ...],
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="[STR [STR ...]]",
        instance_from_str=_texts,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=list,
    ),
]
"""The values of a flag. A flag without a value is refused: a condition that is not meant must not be dropped."""


@dataclass(frozen=True)
class FolderOptions:
    """Flags for the source of identities and cameras of a data set."""

    identity_from: IdentityFrom = "auto"
    """where identities are read from: sub-folders, a pattern for file names, a CSV, or Market-1501's file names."""
    pattern: str | None = None
    """a regular expression for the path, with the group (?P<identity>...) and optionally (?P<camera>...) and
    (?P<time>...)."""
    csv: Path | None = None
    """a table with the columns path and identity, and optionally camera, time and split."""

    FLAGS: ClassVar[tuple[str, ...]] = ("--identity-from", "--pattern", "--csv")

    def given(self) -> list[str]:
        """The names of the flags that differ from their defaults."""
        values = (self.identity_from != "auto", self.pattern is not None, self.csv is not None)
        return [flag for flag, value in zip(self.FLAGS, values, strict=True) if value]

    def reads(self) -> list[Path]:
        """The files that are read beside the images; no output may replace them."""
        return [] if self.csv is None else [self.csv]

    def layout(self) -> FolderLayout:
        """Convert to the ``FolderLayout`` that the readers take.

        Raises:
            DataError: the pattern is not valid, or an option that ``identity_from`` needs is missing.
        """
        return FolderLayout(self.identity_from, self.pattern, self.csv)


FolderArgs = Annotated[FolderOptions, tyro.conf.arg(name="")]
"""The options as flags without a prefix: ``--identity-from``, ``--pattern``, ``--csv``."""
PLAIN_FOLDER = FolderOptions()

MAX_SEED = 2**32 - 1
"""The largest seed that scikit-learn accepts."""
MAX_NAMES = 10
"""Largest number of names that a message lists."""
LOG_EVERY_S = 60.0
"""Seconds between two lines of progress where standard error is no terminal."""

app = SubcommandApp()
data_app = SubcommandApp()
gallery_app = SubcommandApp()
store_app = SubcommandApp()
app.command(data_app, name="data", help="Check, generate or pack a data set; list the benchmarks.")
app.command(store_app, name="store", help="Copy, show or check a store of embeddings, or delete items from it.")
app.command(gallery_app, name="gallery", help="Show what a gallery holds, or delete items from it.")


def draw_progress(iterable: Iterable[Any], total: int, label: str) -> Iterable[Any]:
    """Show a progress bar on standard error. If that is not a terminal, print a line now and then: see ``LogLines``."""
    if sys.stderr.isatty():
        return tqdm(iterable, total=total, desc=label, unit="img", dynamic_ncols=True)
    return _log_progress(iterable, total, label)


def _log_progress(iterable: Iterable[Any], total: int, label: str) -> Iterator[Any]:
    lines = LogLines()
    for number, item in enumerate(iterable, 1):
        yield item
        lines.show(f"{label}: {number} of {total}")


class LogLines:
    """Lines of progress on standard error, at most one per ``LOG_EVERY_S`` seconds."""

    def __init__(self) -> None:
        self._shown_at = time.monotonic()

    def show(self, line: str) -> None:
        """Print the line, if it is time for one."""
        if time.monotonic() - self._shown_at >= LOG_EVERY_S:
            print(line, file=sys.stderr, flush=True)
            self._shown_at = time.monotonic()


def report_failures(failures: list[str]) -> None:
    """Print the images that were left out. If there are any, exit with ``EXIT_FOUND_TROUBLE``."""
    if failures:
        print(f"{len(failures)} left out:", *failures, sep="\n  ", file=sys.stderr)
        raise SystemExit(EXIT_FOUND_TROUBLE)


def name_some(names: Sequence[str]) -> str:
    """Join the first ``MAX_NAMES`` names; say how many more there are."""
    more = f", and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more


def tell_unlisted(dataset: ReidDataset) -> ReidDataset:
    """Print a note on standard error if images of the folder are in no split. Returns the data set unchanged."""
    if dataset.unlisted:
        print(
            f"note: {len(dataset.unlisted)} images in {dataset.root} are in no split (folder or CSV) and are left out: "
            f"{name_some(dataset.unlisted)}",
            file=sys.stderr,
        )
    return dataset


def report_other_files(folder: Path) -> None:
    """Print on standard error which files of a folder are not images."""
    if others := describe_others(list_other_files(folder)):
        print(f"left out of {folder}: {others}", file=sys.stderr)


@contextmanager
def warn_once() -> Iterator[None]:
    """Print each ``UserWarning`` once, as one line on standard error. Other kinds are for programmers; they stay.

    After ``MAX_WARNINGS``, of ``ImageWarning`` only the number is printed.
    """
    printed: list[str] = []
    hidden: list[str] = []

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not issubclass(category, UserWarning):
            usual(message, category, filename, lineno, file, line)
        elif str(message) not in [*printed, *hidden]:
            if issubclass(category, ImageWarning) and len(printed) >= MAX_WARNINGS:
                hidden.append(str(message))
            else:
                printed.append(str(message))
                tqdm.write(f"warning: {message}", file=sys.stderr)

    usual = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always", ImageWarning)
        warnings.showwarning = show
        try:
            yield
        finally:
            if hidden:
                print(f"warning: {len(hidden)} more such warnings", file=sys.stderr)


def check_counts(**counts: int) -> None:
    """Check options before long work. Raises DataError, with name and value, if one is below 1."""
    for name, value in counts.items():
        if value < 1:
            raise DataError(f"{name} {value} must be at least 1")


def refuse_without_runner(**options: bool) -> None:
    """Raise DataError for options that are given (True) and mean nothing without ``--runner``."""
    if given := [f"--{name}" for name, is_given in options.items() if is_given]:
        raise DataError(f"{', '.join(given)}: needs --runner, such as --runner local")


def check_seed(seed: int) -> None:
    """Check a seed before long work. Raises DataError unless it is from 0 to ``MAX_SEED``."""
    if not 0 <= seed <= MAX_SEED:
        raise DataError(f"seed {seed} must be from 0 to {MAX_SEED}")


def list_inputs(inputs: Iterable[Path]) -> list[Path]:
    """List the given images and the images in the given folders, each once, in the order given.

    Other files in the folders are reported on standard error. A broken link is listed, so that reading it fails like
    any unreadable image.

    Raises:
        DataError: a path does not exist, a folder contains no images, or no path was given.
    """
    paths: list[Path] = []
    for path in inputs:
        if path.is_dir():
            found = list(list_images(path))
            if not found:
                raise no_images(path)
            report_other_files(path)
            paths += found
        else:
            paths.append(path)
    if missing := [str(path) for path in paths if not path.exists() and not path.is_symlink()]:
        raise DataError(f"no such file: {', '.join(missing[:5])}")
    if not paths:
        raise DataError("no images were given; name images or folders of images")
    each: dict[Path, Path] = {}  # keeps the user's order and spelling
    for path in paths:
        each.setdefault(plain_path(path), path)
    return list(each.values())


def check_probabilities_file(out: Path) -> None:
    """Check before long work that probabilities can be written to ``out``.

    Raises:
        OutputError: ``out`` does not end in .csv or .json, or cannot be written.
    """
    if out.suffix not in (".csv", ".json"):
        raise OutputError(f"{out}: probabilities are written as .csv or .json; choose a name with one of these endings")
    check_writable(out)


def write_probabilities(
    out: Path, columns: Sequence[str], names: Sequence[str], probabilities: NDArray[np.float32]
) -> None:
    """Write probabilities (N, C) as CSV: a row for each of N images, a column for each of C attributes or classes."""
    with written_aside(out) as aside, aside.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(["path", *columns])
        writer.writerows([name, *(f"{p:.6f}" for p in row)] for name, row in zip(names, probabilities, strict=True))
