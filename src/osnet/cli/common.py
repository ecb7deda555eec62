"""What the commands share: the bar, the statuses, the report of what was left out."""

import sys
from collections.abc import Iterable
from typing import Annotated, Any

import tyro
from tqdm import tqdm
from tyro.extras import SubcommandApp

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
