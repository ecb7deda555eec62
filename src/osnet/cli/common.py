"""What the commands share: the bar, the statuses, the report of what was left out."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import tyro
from tqdm import tqdm
from tyro.extras import SubcommandApp

from osnet.data.loading import list_images
from osnet.errors import DataError

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
