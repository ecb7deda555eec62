"""What the commands share: the bar, the statuses, the report of what was left out."""

import csv
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray
from tqdm import tqdm
from tyro.extras import SubcommandApp

from osnet.data.loading import list_images
from osnet.errors import DataError, OutputError
from osnet.files import check_writable, written_aside

EXIT_FOUND_TROUBLE = 1
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130

JsonFlag = Annotated[bool, tyro.conf.arg(name="json")]

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


def list_inputs(inputs: Iterable[Path]) -> list[Path]:
    """Images, and those in folders, each once.

    Raises:
        DataError: one does not exist, a folder has none, or there are none at all.
    """
    paths: list[Path] = []
    for path in inputs:
        if path.is_dir():
            found = list(list_images(path))
            if not found:
                raise DataError(f"no images in {path}")
            paths += found
        else:
            paths.append(path)
    if missing := [str(path) for path in paths if not path.exists()]:
        raise DataError(f"no such file: {', '.join(missing[:5])}")
    if not paths:
        raise DataError("nothing to look at; give images or folders of images")
    return list(dict.fromkeys(paths))


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
    with written_aside(out) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", *columns])
        writer.writerows([name, *(f"{p:.6f}" for p in row)] for name, row in zip(names, probabilities, strict=True))
