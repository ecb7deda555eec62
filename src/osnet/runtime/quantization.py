"""int8 by static calibration: offered where it was measured to keep its accuracy and to be faster, refused elsewhere.

Convolutions are quantised, weights per channel to int8 and maps to uint8 by their smallest and largest value over
calibration images; gates stay float32, since they see one pixel each and cost nothing. Q queries, G gallery, B batch.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from osnet.data.loading import read_pixels
from osnet.data.transforms import resize_pixels
from osnet.errors import DataError, require_extra
from osnet.metrics.ranking import rank_scores
from osnet.runtime.backends import count_cores
from osnet.runtime.onnx_graph import INPUT
from osnet.types import Crop, Preprocessing, ReidDataset

MOST_LOST = 0.005
"""mAP that int8 may lose."""
MAP_RANGE = (0.3, 0.9)
"""Outside, an evaluation is too hard or too easy to show what is lost."""
LEAST_QUERIES = 500
CALIBRATION_IMAGES = 128
SPEED_BATCHES = (1, 8)
SPEED_ROUNDS = 15

Runner = Callable[[NDArray[Any]], list[NDArray[np.float32]]]


@dataclass(frozen=True)
class Trial:
    """An int8 file beside the float32 file that it was made of, in the same runtime."""

    num_queries: int
    map_float32: float
    map_int8: float
    """mAP by Market-1501's rule, of cosines; fractions."""
    ratios: dict[int, float]
    """Batch size -> how many times as fast int8 is: the smaller of the median within rounds and of best to best."""

    def objections(self) -> list[str]:
        """Why it is not offered; empty if it is."""
        found = []
        low, high = MAP_RANGE
        if not low <= self.map_float32 <= high:
            found.append(
                f"the float32 mAP {self.map_float32:.2%} is outside {low:.0%} to {high:.0%}, where losses show; "
                "choose an easier or a harder evaluation"
            )
        if not self.map_float32 - self.map_int8 < MOST_LOST:
            lost = 100 * (self.map_float32 - self.map_int8)
            found.append(f"mAP falls by {lost:.2f} points, and less than {100 * MOST_LOST} are allowed")
        if slow := [batch for batch, ratio in self.ratios.items() if ratio <= 1]:
            found.append(f"it is no faster here at batch {' and '.join(map(str, slow))}")
        return found

    def __str__(self) -> str:
        """All figures in a line."""
        speed = ", ".join(f"{ratio:.2f} times as fast at batch {batch}" for batch, ratio in self.ratios.items())
        scores = f"mAP {self.map_float32:.2%} in float32, {self.map_int8:.2%} in int8"
        return f"{scores}, over {self.num_queries} queries; {speed}"


def check_evaluation(data: ReidDataset) -> None:
    """Is it enough to show anything? Said before any work.

    Raises:
        DataError: fewer than ``LEAST_QUERIES`` queries, no gallery, or no training images to calibrate on.
    """
    if len(data.query.crops) < LEAST_QUERIES:
        raise DataError(
            f"{data.root}: {len(data.query.crops)} queries; int8 is judged on at least {LEAST_QUERIES}. "
            "`osnet data generate --identities 64 --cameras 16 --images 2` makes 512"
        )
    if not data.gallery.crops or not data.train.crops:
        raise DataError(f"{data.root}: int8 needs a gallery, and training images to calibrate on")


def choose_calibration(data: ReidDataset) -> list[Crop]:
    """``CALIBRATION_IMAGES`` of the training images, evenly over their list; never of the test's."""
    crops = data.train.crops
    places = np.linspace(0, len(crops) - 1, min(CALIBRATION_IMAGES, len(crops))).astype(int)
    return [crops[place] for place in places]


def read_crops(crops: Sequence[Crop], preprocessing: Preprocessing, at_once: int = 32) -> Iterator[Tensor]:
    """(B, 3, H, W) uint8, in order."""
    with ThreadPoolExecutor(count_cores(), thread_name_prefix="osnet-read") as pool:
        for start in range(0, len(crops), at_once):
            paths = [crop.path for crop in crops[start : start + at_once]]
            yield torch.stack(list(pool.map(lambda path: resize_pixels(read_pixels(path), preprocessing), paths)))


def quantize(content: bytes, batches: Iterator[NDArray[Any]], target: Path) -> None:
    """Write the int8 form of an ONNX file to ``target``.

    Args:
        content: the float32 file.
        batches: its inputs, for calibration.
        target: where to; metadata are kept.
    """
    onnx: Any = require_extra("onnx", "export")
    tools: Any = require_extra("onnxruntime.quantization", "speed")

    class Reader(tools.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, NDArray[Any]] | None:
            batch = next(batches, None)
            return None if batch is None else {INPUT: batch}

    model = onnx.load_from_string(content)
    with _quiet():
        tools.quantize_static(
            model, target, Reader(), quant_format=tools.QuantFormat.QDQ, per_channel=True,
            activation_type=tools.QuantType.QUInt8, weight_type=tools.QuantType.QInt8,
            op_types_to_quantize=["Conv"], nodes_to_exclude=find_gates(model),
        )  # fmt: skip


def find_gates(model: Any) -> list[str]:
    """Names of the convolutions whose input was pooled to one pixel."""
    pooled: set[str] = set()
    found = []
    for node in model.graph.node:
        if node.op_type == "GlobalAveragePool" or (node.op_type in ("Conv", "Relu") and node.input[0] in pooled):
            pooled.update(node.output)
            if node.op_type == "Conv":
                found.append(node.name)
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice that the quantiser gives whatever it is given."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def try_out(
    float32: Runner, int8: Runner, data: ReidDataset, preprocessing: Preprocessing, prepare: Callable[[Tensor], Tensor]
) -> Trial:
    """Both on the same pixels: mAP, then speed by turns.

    Args:
        float32: runs the file that ``int8``'s was made of.
        int8: runs the other.
        data: as ``check_evaluation`` wants it.
        preprocessing: the network's.
        prepare: (B, 3, H, W) uint8 -> what the files take.
    """
    vectors: list[list[NDArray[np.float32]]] = [[], []]
    some: NDArray[Any] | None = None
    for pixels in read_crops([*data.query.crops, *data.gallery.crops], preprocessing):
        images = prepare(pixels).numpy()
        some = images if some is None else some
        for run, rows in zip((float32, int8), vectors, strict=True):
            rows.append(run(images)[0])
    assert some is not None
    maps = [_mean_ap(np.concatenate(rows), data) for rows in vectors]
    ratios = {batch: compare_speed(float32, int8, some[:batch]) for batch in SPEED_BATCHES}
    return Trial(len(data.query.crops), maps[0], maps[1], ratios)


def _mean_ap(vectors: NDArray[np.float32], data: ReidDataset) -> float:
    query, gallery = data.query.crops, data.gallery.crops
    scores = rank_scores(
        vectors[: len(query)], vectors[len(query) :], [crop.pid for crop in query], [crop.pid for crop in gallery],
        [crop.camid for crop in query], [crop.camid for crop in gallery],
    )  # fmt: skip
    return float(scores.mean_ap)


def compare_speed(one: Runner, other: Runner, images: NDArray[Any], rounds: int = SPEED_ROUNDS) -> float:
    """How many times as fast ``other`` is: by turns; the smaller of the median ratio in a round and of best to best."""
    seconds: tuple[list[float], list[float]] = [], []
    for run in (one, other):
        run(images)
    for _ in range(rounds):
        for run, taken in zip((one, other), seconds, strict=True):
            start = time.perf_counter()
            for _ in range(3):
                run(images)
            taken.append(time.perf_counter() - start)
    within = median(a / b for a, b in zip(*seconds, strict=True))
    return min(within, min(seconds[0]) / min(seconds[1]))
