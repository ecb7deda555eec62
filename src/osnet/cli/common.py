"""What the commands share: the bar, the statuses, the report of what was left out."""

import csv
import sys
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
from tyro.extras import SubcommandApp

from osnet.cli import EXIT_ERROR as EXIT_ERROR
from osnet.cli import EXIT_INTERRUPTED as EXIT_INTERRUPTED
from osnet.data.folder import FolderLayout, IdentityFrom
from osnet.data.loading import describe_others, list_images, list_other_files, no_images
from osnet.errors import DataError, ImageWarning, OutputError
from osnet.files import check_writable, plain_path, written_aside
from osnet.types import ReidDataset

EXIT_FOUND_TROUBLE = 1


MAX_WARNINGS = 10

JsonFlag = Annotated[bool, tyro.conf.arg(name="json")]


@dataclass(frozen=True)
class FolderOptions:
    """How a data set says who is on its crops: the flags of every command that reads one."""

    identity_from: IdentityFrom = "auto"
    """where to read who is on a crop."""
    pattern: str | None = None
    """a regular expression for the path, with groups (?P<identity>...) and (?P<camera>...)."""
    csv: Path | None = None
    """a table with the columns path, identity, camera, split."""

    FLAGS: ClassVar[tuple[str, ...]] = ("--identity-from", "--pattern", "--csv")

    def given(self) -> list[str]:
        """Those of ``FLAGS`` that are not as they would be without."""
        values = (self.identity_from != "auto", self.pattern is not None, self.csv is not None)
        return [flag for flag, value in zip(self.FLAGS, values, strict=True) if value]

    def layout(self) -> FolderLayout:
        """The same for the readers. Raises DataError for options that contradict each other."""
        return FolderLayout(self.identity_from, self.pattern, self.csv)


FolderArgs = Annotated[FolderOptions, tyro.conf.arg(name="")]
"""The options as plain flags: ``--identity-from``, ``--pattern``, ``--csv``."""
PLAIN_FOLDER = FolderOptions()

MAX_SEED = 2**32 - 1
SHOWN = 10
"""Names in a note."""

app = SubcommandApp()
data_app = SubcommandApp()
gallery_app = SubcommandApp()
app.command(data_app, name="data", help="Check a data set, or generate one.")
app.command(gallery_app, name="gallery", help="Show what a gallery holds, or remove some of it for good.")


def draw_progress(iterable: Iterable[Any], total: int, label: str) -> Iterable[Any]:
    """A bar on standard error, gone where that is no terminal."""
    return tqdm(iterable, total=total, desc=label, unit="img", disable=None, dynamic_ncols=True)


def report_failures(failures: list[str]) -> None:
    """Name what was left out, and leave with a status that says so."""
    if failures:
        print(f"{len(failures)} left out:", *failures, sep="\n  ", file=sys.stderr)
        raise SystemExit(EXIT_FOUND_TROUBLE)


def name_some(names: Sequence[str]) -> str:
    """At most ten, and how many more there are."""
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def tell_unlisted(dataset: ReidDataset) -> ReidDataset:
    """The same data set; a note on standard error says which images its CSV leaves out."""
    if dataset.unlisted:
        print(
            f"note: {len(dataset.unlisted)} images in {dataset.root} are not in the CSV and left out: "
            f"{name_some(dataset.unlisted)}",
            file=sys.stderr,
        )
    return dataset


def report_other_files(folder: Path) -> None:
    """Name on standard error what of a folder is not looked at, since it is not an image."""
    if others := describe_others(list_other_files(folder)):
        print(f"left out of {folder}: {others}", file=sys.stderr)


@contextmanager
def told_once() -> Iterator[None]:
    """Print our warnings on standard error as a line each; at most ``MAX_WARNINGS``, the rest as a number."""
    told: list[str] = []

    def tell(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not issubclass(category, ImageWarning):
            usual(message, category, filename, lineno, file, line)
        elif str(message) not in told:
            told.append(str(message))
            if len(told) <= MAX_WARNINGS:
                tqdm.write(f"warning: {message}", file=sys.stderr)

    usual = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always", ImageWarning)
        warnings.showwarning = tell
        try:
            yield
        finally:
            if len(told) > MAX_WARNINGS:
                print(f"warning: {len(told) - MAX_WARNINGS} more such warnings", file=sys.stderr)


def check_counts(**counts: int) -> None:
    """Before any work: each is at least 1.

    Raises:
        DataError: one is not; the message has its name and value.
    """
    for name, value in counts.items():
        if value < 1:
            raise DataError(f"{name} {value} must be at least 1")


def check_seed(seed: int) -> None:
    """Before any work: scikit-learn takes this seed. Raises DataError if it does not."""
    if not 0 <= seed <= MAX_SEED:
        raise DataError(f"seed {seed} must be from 0 to {MAX_SEED}")


def list_inputs(inputs: Iterable[Path]) -> list[Path]:
    """Images, and those in folders, each once. What else is in the folders is named on standard error.

    A broken link is an image that cannot be read, as it is in a folder.

    Raises:
        DataError: one does not exist, a folder has none, or there are none at all.
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
        raise DataError("nothing to look at; give images or folders of images")
    each: dict[Path, Path] = {}  # in the order and in the words of the user
    for path in paths:
        each.setdefault(plain_path(path), path)
    return list(each.values())


def check_probabilities_file(out: Path) -> None:
    """Before any work: probabilities can be written there.

    Raises:
        OutputError: another ending than .csv or .json, or no right to write.
    """
    if out.suffix not in (".csv", ".json"):
        raise OutputError(f"{out}: probabilities are written as .csv or .json; choose a name that ends so")
    check_writable(out)


def write_probabilities(
    out: Path, columns: Sequence[str], names: Sequence[str], probabilities: NDArray[np.float32]
) -> None:
    """As CSV: a row for each of N names, a column for each of C; ``probabilities`` is (N, C)."""
    with written_aside(out) as aside, aside.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(["path", *columns])
        writer.writerows([name, *(f"{p:.6f}" for p in row)] for name, row in zip(names, probabilities, strict=True))
