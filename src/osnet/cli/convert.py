"""osnet convert: convert weights between Torchreid's files and checkpoint folders."""

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from osnet.cli.common import app
from osnet.weights.checkpoint import convert as convert_weights
from osnet.weights.hub import find_checkpoint


@app.command
def convert(
    source: Annotated[str, Positional, tyro.conf.arg(metavar="SOURCE")],
    target: Annotated[Path, Positional, tyro.conf.arg(metavar="TARGET")],
    *,
    architecture: str | None = None,
    overwrite: bool = False,
) -> None:
    """Convert weights between Torchreid's files and checkpoint folders of this package, in either direction.

    Args:
        source: a short name of `osnet weights`; a checkpoint folder; a Torchreid or BoxMOT file (.pth, .pt,
            .pth.tar-60), .ckpt, .safetensors; or Intel's .xml, with its .bin beside it.
        target: with the ending .pth, .pt or .tar, a file for Torchreid and BoxMOT; else a checkpoint folder.
        architecture: the name of the network, if neither the file name nor the tensors show it.
        overwrite: replace an existing target.
    """
    found = find_checkpoint(source) if architecture is None else source
    card = convert_weights(found, target, architecture=architecture, overwrite=overwrite)
    print(
        f"{target}: {card.name}, trained on {card.training_data}, {card.num_classes} classes, file sha256 {card.sha256}"
    )
    print(f"licence: {card.licence}")
