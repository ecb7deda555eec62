"""osnet average: mean and standard deviation over several results of osnet evaluate."""

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from osnet.cli.common import app
from osnet.evaluation.results import average_results
from osnet.files import check_writable, write_json


@app.command
def average(
    files: Annotated[tuple[Path, ...], Positional, tyro.conf.arg(metavar="RESULT.json...")], *, out: Path | None = None
) -> None:
    """Average several results of `osnet evaluate --out`, for instance of splits or seeds: mean and standard deviation.

    Args:
        files: at least two results, each of one data set, scored by the same protocol.
        out: write the averages here as JSON.
    """
    if out is not None:
        check_writable(out, reads=files)
    result = average_results(files)
    if out is not None:
        write_json(out, result.to_json())
    print(result)
