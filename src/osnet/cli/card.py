"""osnet card: describe an ONNX or OpenVINO network, so that other commands accept it."""

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
    """Describe an ONNX or OpenVINO network in a card, so that other commands accept it as --weights.

    The card is written beside the file as MODEL.card.json. It says how images are preprocessed:
    (pixel / scale - mean) / std, with pixels from 0 to 255. The network is run with these values first.

    Args:
        model: an .onnx file, or an .xml file with its .bin, with one input (images) and one output (embeddings).
        size: height and width of its images in pixels.
        order: order of the colour channels that the network expects.
        scale: divisor of the pixels: 255 for values from 0 to 1, 1 for unscaled pixels.
        mean: mean per channel after the division, in that order of channels.
        std: standard deviation per channel.
        interpolation: how crops are resized.
        images: a folder of crops to run the network on; default: generated ones.
        name: a name for the network; default: the name of the file.
        training_data: what the network was trained on.
        licence: the licence of the network.
        overwrite: replace an existing card.
    """
    parts = size.lower().split("x")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise DataError(f"--size {size!r}: give height and width in pixels, such as 256x128")
    preprocessing = scaled((int(parts[0]), int(parts[1])), order, scale, mean, std, interpolation)
    done = write_card(
        model, preprocessing, images, name=name, training_data=training_data, licence=licence, overwrite=overwrite
    )
    least, median, greatest = done.cosines
    print(f"{done.path}: {done.card.name}, embeddings of {done.card.architecture.embedding_size}; {done.found}")
    what = "generated images" if images is None else f"images of {images}"
    between = f"cosines between different ones {least:.3f} to {greatest:.3f}, median {median:.3f}"
    print(f"checked on {done.num_images} {what}: {between}")
    print(f"SHA-256 of the file: {done.card.sha256}")
