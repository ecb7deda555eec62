"""osnet export: write weights as ONNX, OpenVINO or torch.export files."""

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from osnet.cli.common import Texts, app
from osnet.runtime.export import Format, Precision
from osnet.runtime.export import export as export_files
from osnet.weights.hub import find_checkpoint


@app.command
def export(
    weights: Annotated[str, Positional, tyro.conf.arg(metavar="WEIGHTS")],
    *,
    out: Path,
    format: Format = "onnx",
    precision: Precision = "fp32",
    outputs: Texts = (),
    images: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Write weights as files for other runtimes, and compare their output with the network's.

    Two files are written: one takes RGB pixels (uint8; normalisation is included), one takes normalised float images,
    as BoxMOT gives them. The batch size is variable. Metadata describe the preprocessing. For BoxMOT's format:
    `osnet convert WEIGHTS osnet_x0_25_msmt17.pt`.

    Args:
        weights: a path or a short name.
        out: the folder for the files.
        format: onnx; openvino (.xml and .bin); torch-export (.pt2).
        precision: fp32; fp16 for half the size.
        outputs: outputs beside the embeddings: attributes, logits. Default: attributes, if the weights have them.
        images: a folder of images to compare on; default: generated ones.
        overwrite: replace existing files.
    """
    files = export_files(
        find_checkpoint(weights),
        out,
        format=format,
        precision=precision,
        outputs=outputs,
        images=images,
        overwrite=overwrite,
    )
    for file in files:
        print(f"{file.path}: {file.input} images -> {', '.join(file.outputs)}; sha256 {file.sha256}")
        print(
            f"  beside the network, at batches of 1, 3 and 8: largest difference {file.largest_difference:.1e}, "
            f"smallest cosine {file.smallest_cosine:.6f}"
        )
