"""osnet evaluate-features: score embeddings that any program wrote."""

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from osnet.cli.common import app
from osnet.cli.evaluate import CLI_SCORING, ScoringArgs
from osnet.errors import DataError
from osnet.evaluation.evaluate import evaluate_features as evaluate_embeddings
from osnet.features.labels import read_labelled
from osnet.files import check_writable, write_json


@app.command(name="evaluate-features")
def evaluate_features(
    files: Annotated[tuple[Path, ...], Positional, tyro.conf.arg(metavar="FILE...")],
    *,
    csv: Path | None = None,
    scoring: ScoringArgs = CLI_SCORING,
    name: str | None = None,
    out: Path | None = None,
) -> None:
    """Score files of embeddings, from `osnet embed` or from any other program: CMC, mAP, mINP.

    Give one .npz with query_vectors (or query), query_pids, query_camids and the same for the gallery; or two files,
    query first, each with vectors, pids, camids, or written by `osnet embed` (identities come from Market-1501's file
    names or from --csv).

    Args:
        files: one file, or the query file and the gallery file.
        csv: a table with the columns path, identity, camera for the names in the files.
        scoring: how embeddings are scored.
        name: a name for the data set.
        out: write the result here as JSON.
    """
    if not files:
        raise DataError("no files; give one file of embeddings, or two: query, then gallery")
    if out is not None:
        check_writable(out, reads=[*files, *([csv] if csv is not None else [])])
    query, gallery = read_labelled(files, csv)
    root = ", ".join(map(str, files))
    result = evaluate_embeddings(query, gallery, scoring=scoring, name=name or files[0].stem, root=root)
    if out is not None:
        write_json(out, result.to_json())
    print(result)
