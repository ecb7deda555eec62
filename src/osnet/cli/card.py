"""osnet card."""

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from osnet.cli.common import app
from osnet.embedding.third_party import scaled, write_card
from osnet.errors import DataError
from osnet.types import ChannelOrder, Interpolation
from osnet.weights.card import LICENCE_UNKNOWN


@app.command
def card(
    model: Annotated[Path, Positional, tyro.conf.arg(metavar="MODEL")],
    *,
    size: str = "256x128",
    order: ChannelOrder = "rgb",
    scale: float = 255.0,
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
    std: tuple[float, float, float] = (1.0, 1.0, 1.0),
    interpolation: Interpolation = "bilinear",
    images: Path | None = None,
    name: str = "",
    training_data: str = "unknown",
    licence: str = LICENCE_UNKNOWN,
    overwrite: bool = False,
) -> None:
    """Write the card that lets a network of others (.onnx, or .xml with .bin) stand where weights may be named.

    The card lies beside the file, as MODEL.card.json, and says how images are made ready: (pixel / scale - mean) / std,
    with pixels from 0 to 255. Before it is written, the network runs as it says.

    Args:
        model: the file: one input for images, one output of vectors.
        size: height and width of its images in pixels.
        order: of the colours that it expects.
        scale: what pixels are divided by: 255 for fractions, 1 for pixels as they are.
        mean: per channel, after the division, in that order of colours.
        std: per channel.
        interpolation: how crops are resized.
        images: a folder of crops to check it on; by default generated ones.
        name: what to call it; by default the file's name.
        training_data: what it was trained on.
        licence: its terms.
        overwrite: replace a card that is there.
    """
    parts = size.lower().split("x")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise DataError(f"--size {size!r}: give height and width in pixels, such as 256x128")
    preprocessing = scaled((int(parts[0]), int(parts[1])), order, scale, mean, std, interpolation)
    done = write_card(
        model, preprocessing, images, name=name, training_data=training_data, licence=licence, overwrite=overwrite
    )
    least, median, greatest = done.cosines
    print(f"{done.path}: {done.card.name}, vectors of {done.card.architecture.embedding_size}; {done.found}")
    what = "generated images" if images is None else f"images of {images}"
    between = f"cosines between different ones {least:.3f} to {greatest:.3f}, median {median:.3f}"
    print(f"checked on {done.num_images} {what}: {between}")
    print(f"SHA-256 of the file: {done.card.sha256}")
