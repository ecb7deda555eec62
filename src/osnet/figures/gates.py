"""Record and draw the gates of OSNet's unified aggregation. Zhou et al., ICCV 2019, section 4.4, Fig. 5.

The gating vector of an image is the output of the last block's gates, concatenated over its T streams of C channels.
The paper clusters the gating vectors of a data set and shows the images nearest to four centres. It does not give the
number of clusters, the scaling or the images, so these are our choices. The network is observed with hooks and not
changed. Shapes: N images, T streams, C channels of a stream, B blocks, K clusters.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from osnet.data.loading import read_image
from osnet.embedding.embedder import Embedder
from osnet.errors import DataError, ModelError, require_extra
from osnet.figures.activation import fit_size
from osnet.figures.canvas import STYLES, Sheet, new_figure, plain, save_figure
from osnet.figures.maps import BATCH, prepare_images
from osnet.models.layers import StaticGate
from osnet.models.osnet import SeparateGates, UnifiedGate
from osnet.progress import Progress, no_progress
from osnet.runtime.backends import in_eval_mode

NUM_CLUSTERS = 4
NUM_NEAREST = 15
"""Number of images per cluster, as in the paper's figure."""
MIN_WIDTH_IN = 4.6
EXAMPLES_PER_ROW = 4
HATCHES = ("", "///", "...", "xxx", "---", "ooo")


@dataclass(frozen=True)
class GateRecord:
    """Gate outputs of each image."""

    blocks: tuple[str, ...]
    """Names of the B blocks with gates, from input to output."""
    shares: NDArray[np.float32]
    """(N, B, T): share of each stream in the sum of the block's gates; sums to 1 over T."""
    vectors: NDArray[np.float32]
    """(N, T * C): gating vectors of the last block, in (0, 1)."""
    fields: tuple[int, ...]
    """Receptive fields of the T streams, in cells of the block's input map: 3, 5, 7, 9 for OSNet."""


@dataclass(frozen=True)
class GateClusters:
    """Images clustered by their gating vectors."""

    labels: NDArray[np.int64]
    """(N,): cluster of each image; clusters are numbered by decreasing size."""
    nearest: tuple[NDArray[np.int64], ...]
    """For each cluster, its images by increasing distance to the centre."""


def record_gates(embedder: Embedder, paths: Sequence[Path], progress: Progress = no_progress) -> GateRecord:
    """Run images through the network and record its gates.

    Raises:
        ModelError: the network has no gates, or its gates are the same for every image.
        DataError: there are no images.
        ImageError: an image cannot be read.
    """
    blocks = _find_gates(embedder.network)
    outputs: dict[str, list[Tensor]] = {name: [] for name in blocks}
    hooks = [
        gate.register_forward_hook(lambda _m, _i, out, name=name: outputs[name].append(out))
        for name, (gates, _) in blocks.items()
        for gate in gates
    ]
    shares: list[NDArray[np.float32]] = []
    vectors: list[NDArray[np.float32]] = []
    starts = range(0, len(paths), BATCH)
    try:
        for start in progress(starts, len(starts), "gates"):
            images = prepare_images(embedder, [read_image(path) for path in paths[start : start + BATCH]])
            for kept in outputs.values():
                kept.clear()
            with torch.inference_mode():
                in_eval_mode(embedder.network).feature_map(images)
            stacked = [torch.stack([gate.flatten(1) for gate in outputs[name]], 1).float() for name in blocks]
            sums = torch.stack([gates.sum(2) for gates in stacked], 1)
            shares.append((sums / sums.sum(2, keepdim=True)).cpu().numpy())
            vectors.append(stacked[-1].flatten(1).cpu().numpy())
    finally:
        for hook in hooks:
            hook.remove()
    if not shares:
        raise DataError("no images to record gates for; give at least one")
    return GateRecord(tuple(blocks), np.concatenate(shares), np.concatenate(vectors), next(iter(blocks.values()))[1])


def _find_gates(network: nn.Module) -> dict[str, tuple[list[nn.Module], tuple[int, ...]]]:
    """For each block with gates: the gate modules, and the receptive fields of its streams."""
    found: dict[str, tuple[list[nn.Module], tuple[int, ...]]] = {}
    for name, block in network.named_modules():
        aggregate: Any = getattr(block, "aggregate", None)
        if isinstance(aggregate, UnifiedGate):
            gates: list[nn.Module] = [aggregate.gate]  # one shared gate, called once per stream, in order
        elif isinstance(aggregate, SeparateGates):
            gates = list(aggregate.gates)
            if any(isinstance(gate, StaticGate) for gate in gates):
                raise ModelError("the network has static gates, which are the same for every image")
        else:
            continue
        found[name] = gates, tuple(1 + 2 * len(stream) for stream in block.streams)
    if not found:
        raise ModelError("the network has no gates: its blocks add or concatenate streams, or have only one stream")
    return found


def cluster_gates(record: GateRecord, clusters: int = NUM_CLUSTERS, seed: int = 0) -> GateClusters:
    """Cluster the gating vectors with k-means, without scaling; the best of ten initialisations.

    Raises:
        DataError: ``clusters`` is below 1 or above the number of different gating vectors.
        MissingExtraError: scikit-learn is not installed.
    """
    different = len(np.unique(record.vectors, axis=0))
    if not 1 <= clusters <= different:
        raise DataError(f"clusters {clusters} must be from 1 to {different}, the number of different gating vectors")
    sklearn = require_extra("sklearn.cluster", "figures")
    fitted = sklearn.KMeans(clusters, n_init=10, random_state=seed).fit(record.vectors.astype(np.float64))
    order = np.argsort(-np.bincount(fitted.labels_, minlength=clusters), kind="stable")
    labels = np.argsort(order)[fitted.labels_]
    distance = np.linalg.norm(record.vectors - fitted.cluster_centers_[order][labels], axis=1)
    ranked = np.argsort(distance, kind="stable")
    return GateClusters(labels, tuple(ranked[labels[ranked] == k] for k in range(clusters)))


def draw_clusters(
    record: GateRecord,
    clusters: GateClusters,
    paths: Sequence[Path],
    path: str | Path,
    shown: int = 4,
    nearest: int = NUM_NEAREST,
) -> None:
    """Draw Fig. 5: for each of the ``shown`` largest clusters, a row with the images nearest to its centre.

    Above each row: the number of images, and the mean share of each scale in the last block with its difference from
    the mean over all images.

    Raises:
        DataError: ``shown`` or ``nearest`` is below 1.
        ImageError: an image cannot be read.
        OutputError: the file cannot be written.
    """
    if shown < 1 or nearest < 1:
        raise DataError(f"shown {shown} and nearest {nearest} must be at least 1")
    rows = clusters.nearest[:shown]
    columns = min(nearest, max(map(len, rows)))
    cell_w, cell_h, head_h, row_h = 0.52, 1.04, 0.34, 1.48
    last = record.shares[:, -1]
    width = max(MIN_WIDTH_IN, columns * (cell_w + 0.04) + 0.16)  # at least as wide as the text
    with new_figure((width, len(rows) * row_h + 0.2), layout=None) as figure:
        sheet = Sheet(figure)
        for row, members in enumerate(rows):
            y = row * row_h
            sheet.write(
                0.08, y + 0.07, f"cluster {row + 1}: {len(members)} of {len(record.vectors)} images", fontsize=8
            )
            sheet.write(
                0.08, y + 0.21, _describe_scales(last[members].mean(0), last.mean(0), record.fields), fontsize=6.5
            )
            for place, index in enumerate(members[:columns]):
                image = read_image(paths[index])
                small = image.resize(fit_size(image.size), Image.Resampling.LANCZOS)
                sheet.add_image(np.asarray(small), 0.08 + place * (cell_w + 0.04), y + head_h, cell_w, cell_h)
        about = "Mean share of each scale in the last block; in brackets, points above the mean over all images."
        sheet.write(0.08, len(rows) * row_h + 0.02, about, fontsize=6)
        save_figure(figure, path)


def _describe_scales(mean: NDArray[np.float32], of_all: NDArray[np.float32], fields: Sequence[int]) -> str:
    """Shares in percent, with their differences from those of all images in percentage points."""
    change = [f"{100 * c:+.1f}" for c in mean - of_all]
    change = ["0.0" if float(c) == 0 else c for c in change]
    return ", ".join(f"{f} x {f}: {100 * m:.1f} % ({c})" for f, m, c in zip(fields, mean, change, strict=True))


def draw_shares(
    record: GateRecord, path: str | Path, examples: Mapping[str, tuple[Path, int]] | None = None, title: str = ""
) -> None:
    """Draw the share of each stream by block: its distribution over all images, and the values of single images.

    Args:
        record: gates of the data set.
        path: output file, ending in .png, .pdf or .svg.
        examples: images to show one by one, four in a row: title -> (file, index in the record).
        title: above the figure.

    Raises:
        ImageError: an example cannot be read.
        OutputError: the file cannot be written.
    """
    rows = math.ceil(len(examples or {}) / EXAMPLES_PER_ROW)
    with new_figure((8.4, 3.4 + 2.5 * rows)) as figure:
        parts = figure.subfigures(2, 1, height_ratios=[3.4, 2.5 * rows]) if examples else [figure]
        _draw_boxes(parts[0], record, title)
        if examples:
            _draw_examples(parts[1], record, examples, rows)
        save_figure(figure, path)


def _draw_boxes(part: Any, record: GateRecord, title: str) -> None:
    """Draw the quartiles, the median and the 5th to 95th percentile over images, for each block and stream."""
    axes = part.subplots()
    num_streams = record.shares.shape[2]
    width = 0.8 / num_streams
    for stream in range(num_streams):
        values = 100 * record.shares[:, :, stream]
        low, q1, median, q3, high = np.percentile(values, [5, 25, 50, 75, 95], axis=0)
        x = np.arange(len(record.blocks)) + (stream - (num_streams - 1) / 2) * width
        colour = STYLES[stream % len(STYLES)][0]
        axes.vlines(x, low, high, color=colour, linewidth=1)
        label = f"{record.fields[stream]} x {record.fields[stream]}"
        axes.bar(
            x,
            np.maximum(q3 - q1, 0.05),
            0.8 * width,
            q1,
            color=colour,
            alpha=0.55,
            edgecolor=colour,
            label=label,
            hatch=HATCHES[stream % len(HATCHES)],
            linewidth=0.8,
        )
        axes.hlines(median, x - 0.4 * width, x + 0.4 * width, color="black", linewidth=1.4)
    axes.axhline(100 / num_streams, color="black", linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(record.blocks)), record.blocks)
    axes.grid(visible=False, axis="x")
    axes.set(xlabel="block", ylabel="share of the summed gates (%)")
    axes.set_title(f"{plain(title) + ': ' if title else ''}{len(record.shares):,} images", fontsize=10, loc="left")
    part.legend(
        *axes.get_legend_handles_labels(),
        loc="outside right upper" if hasattr(part, "subfigs") else "outside right",
        title="stream sees\n(cells of the\nblock's map)",
        fontsize=9,
        title_fontsize=8,
    )


def _draw_examples(part: Any, record: GateRecord, examples: Mapping[str, tuple[Path, int]], rows: int) -> None:
    """Draw single images, each beside the deviation of its shares from equal ones, by block."""
    num_streams = record.shares.shape[2]
    columns = min(len(examples), EXAMPLES_PER_ROW)
    grid = part.subplots(rows, 2 * columns, width_ratios=[1, 2.6] * columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()  # the last row may have empty cells
    places = [index for _, index in examples.values()]
    reach = 1.1 * max(0.01, float(np.abs(100 * record.shares[places] - 100 / num_streams).max()))
    for number, (name, (file, index)) in enumerate(examples.items()):
        left, lines = grid.flat[2 * number], grid.flat[2 * number + 1]
        image = read_image(file)
        left.imshow(np.asarray(image.resize(fit_size(image.size), Image.Resampling.LANCZOS)))
        lines.set_title(plain(name), fontsize=7)  # above the wider axes
        lines.set_axis_on()
        for stream in range(num_streams):
            colour, dash, marker = STYLES[stream % len(STYLES)]
            values = 100 * record.shares[index, :, stream] - 100 / num_streams
            lines.plot(values, dash, color=colour, marker=marker, markersize=3, linewidth=1.1)
        lines.axhline(0, color="black", linewidth=0.8, linestyle=":")
        lines.set_ylim(-reach, reach)
        lines.set_xticks(range(len(record.blocks)), record.blocks, fontsize=6, rotation=60)
        lines.tick_params(axis="y", labelsize=6)
    part.supylabel("points from an even share", fontsize=8)
