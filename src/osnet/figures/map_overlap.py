"""Compare how much of two networks' activation maps lies inside the person's box, on generated images.

A map can favour the centre whatever the image shows, and people stand in the centre. Two controls are therefore
measured
with the same boxes: the map of another image, and maps of noise images. Only the share beyond a control shows attention
to the person.

Both networks see the same images, so the differences are paired. Intervals resample people, because images of one
person are similar. The networks were trained once, and the intervals do not cover the training, so they say nothing
about the architectures in general. A box also contains what occludes the person, so under occlusion the share measures
attention to the person's place, not to the visible parts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from osnet.data.loading import read_image
from osnet.data.transforms import seen_part
from osnet.embedding.embedder import Embedder
from osnet.errors import DataError
from osnet.evaluation.comparison import HIDDEN_STEPS
from osnet.figures.canvas import GREY, STYLES, new_figure, plain, save_figure
from osnet.figures.maps import Box, Measure, compute_maps, measure_entropy, measure_share
from osnet.figures.person_boxes import find_annotation
from osnet.metrics.bootstrap import Interval, cluster_interval
from osnet.progress import Progress, no_progress
from osnet.types import Crop

CHUNK = 64
OTHER_IMAGE, NOISE = "maps of other images", "maps of noise"
CONTROLS = (OTHER_IMAGE, NOISE)
NUM_NOISE = 32
"""Number of noise images; the shares of their maps are averaged."""


@dataclass(frozen=True)
class Shares:
    """Shares of two networks' maps inside people's boxes. Shares and differences are fractions."""

    first: str
    second: str
    num_images: int
    num_people: int
    measure: Measure
    uniform: float
    """Mean share of a uniform map: the area of the box relative to the image."""
    shares: Mapping[str, Mapping[str, Interval]]
    """Mean share by level of occlusion (``all`` first), then by network."""
    differences: Mapping[str, Interval]
    """By level of occlusion: mean over images of the first network's share minus the second's."""
    controls: Mapping[str, Mapping[str, Interval]]
    """By control (``CONTROLS``), then by network: mean share of the control map in the same boxes."""
    corrected: Mapping[str, Mapping[str, Interval]]
    """By control, then by level of occlusion: the difference after subtracting each network's control."""
    losses: Mapping[str, Interval]
    """By network, and ``difference`` (first minus second): how much the share above a uniform map decreases from ``in
    full view`` to ``much hidden``, per person; above 0 is a loss. Empty if fewer than two people have both kinds."""
    entropies: Mapping[str, float]
    """Mean bits, by network."""

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"share of the map inside the person's box, {self.num_images:,} images of {self.num_people:,} people "
            f"(uniform map: {100 * self.uniform:.1f} %)"
        ]
        for step, by_network in self.shares.items():
            values = ", ".join(f"{name} {_show(i)}" for name, i in by_network.items())
            lines.append(f"{step}: {values}; difference {_show(self.differences[step], signed=True)}")
        for control, by_network in self.controls.items():
            values = ", ".join(f"{name} {_show(i)}" for name, i in by_network.items())
            lines.append(f"control, {control}: {values}")
            for step, interval in self.corrected[control].items():
                lines.append(f"  {step}: difference beyond this control {_show(interval, signed=True)}")
        for name, interval in self.losses.items():
            what = f"{self.first} minus {self.second}" if name == "difference" else name
            lines.append(f"lost from full view to much hidden, {what}: {_show(interval, signed=True)}")
        lines.append("entropy: " + ", ".join(f"{name} {bits:.3f} bits" for name, bits in self.entropies.items()))
        lines.append("each network was trained once; the intervals do not cover other seeds")
        return "\n".join(lines)


def _show(interval: Interval, signed: bool = False) -> str:
    low, mean, high = (100 * v for v in (interval.low, interval.mean, interval.high))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}] points" if signed else f"{mean:.1f} % [{low:.1f}, {high:.1f}]"


def measure_shares(
    crops: Sequence[Crop],
    embedders: Mapping[str, Embedder],
    measure: Measure = "absolute",
    progress: Progress = no_progress,
) -> Shares:
    """Measure the shares of two networks on generated images.

    The controls use each image's box with the map of a random image of another person, and with the mean map of
    ``NUM_NOISE`` images of uniform noise, which have the size of the first image.

    Args:
        crops: crops of a generated data set.
        embedders: two networks, by name; differences are first minus second.
        measure: see ``maps.activation_map``.
        progress: draws a progress bar.

    Raises:
        DataError: there are not two networks, a person's box is unknown, or the crops show fewer than two people.
    """
    if len(embedders) != 2:
        raise DataError(f"{len(embedders)} networks given; two networks are compared")
    notes = [find_annotation(crop.path) for crop in crops]
    if unknown := [crop.path.name for crop, note in zip(crops, notes, strict=True) if note is None]:
        raise DataError(f"the person's box is not known for {len(unknown)} images: {', '.join(unknown[:3])}")
    known = [note for note in notes if note is not None]
    pids = np.array([crop.pid for crop in crops])
    if len(set(pids.tolist())) < 2:
        raise DataError(
            f"{len(crops)} images of {len(set(pids.tolist()))} people; an interval needs at least two people"
        )
    shares = {name: np.empty(len(crops)) for name in embedders}
    maps_of: dict[str, list[NDArray[np.float32]]] = {name: [] for name in embedders}
    bits = {name: np.empty(len(crops)) for name in embedders}
    uniform = np.empty(len(crops))
    sizes = [_read_size(crop) for crop in crops]
    parts = {name: [seen_part(size, embedder.preprocessing) for size in sizes] for name, embedder in embedders.items()}
    starts = range(0, len(crops), CHUNK)
    for start in progress(starts, len(starts), "shares"):
        images = [read_image(crop.path) for crop in crops[start : start + CHUNK]]
        for name, embedder in embedders.items():
            (maps,) = compute_maps(embedder, images, measure=measure).values()
            maps_of[name] += list(maps)
            for i, strength in enumerate(maps, start):
                shares[name][i], uniform[i] = measure_share(strength, known[i].box, sizes[i], parts[name][i])
                bits[name][i] = measure_entropy(strength)
    places = {name: list(zip([note.box for note in known], sizes, parts[name], strict=True)) for name in embedders}
    controls = {
        OTHER_IMAGE: {name: _share_others(maps, places[name], pids) for name, maps in maps_of.items()},
        NOISE: {name: _share_noise(embedder, places[name], measure) for name, embedder in embedders.items()},
    }
    first, second = embedders
    hidden = np.array([note.hidden for note in known])
    steps = {"all": np.ones(len(crops), bool)} | {n: (hidden >= a) & (hidden < b) for a, b, n, _ in HIDDEN_STEPS}
    steps = {name: mask for name, mask in steps.items() if len(set(pids[mask].tolist())) >= 2}
    difference = shares[first] - shares[second]
    return Shares(
        first,
        second,
        len(crops),
        len(set(pids.tolist())),
        measure,
        float(uniform.mean()),
        {s: {n: cluster_interval(v[mask], pids[mask]) for n, v in shares.items()} for s, mask in steps.items()},
        {s: cluster_interval(difference[mask], pids[mask]) for s, mask in steps.items()},
        {c: {n: cluster_interval(v, pids) for n, v in values.items()} for c, values in controls.items()},
        {
            c: {s: cluster_interval((difference - v[first] + v[second])[mask], pids[mask]) for s, mask in steps.items()}
            for c, v in controls.items()
        },
        _measure_losses({**{n: v - uniform for n, v in shares.items()}, "difference": difference}, pids, steps),
        {name: float(np.nanmean(values)) for name, values in bits.items()},
    )


def _read_size(crop: Crop) -> tuple[int, int]:
    return read_image(crop.path).size


Place = tuple[Box, tuple[int, int], Box]
"""The person's box, the image's width and height, and the part of it that the network sees."""


def _share_others(
    maps: Sequence[NDArray[np.float32]], places: Sequence[Place], pids: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(N,): for each image's box, the share of the map of a random image of another person."""
    rng = np.random.default_rng(0)
    others = [int(rng.choice(np.flatnonzero(pids != pid))) for pid in pids]
    return np.array([measure_share(maps[other], *place)[0] for other, place in zip(others, places, strict=True)])


def _share_noise(embedder: Embedder, places: Sequence[Place], measure: Measure) -> NDArray[np.float64]:
    """(N,): for each image's box, the mean share of the maps of noise."""
    width, height = places[0][1]
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (NUM_NOISE, height, width, 3), dtype=np.uint8)
    (maps,) = compute_maps(embedder, [Image.fromarray(image) for image in noise], measure=measure).values()
    mean = np.mean(
        [m / m.sum() for m in maps if m.sum() > 0], axis=0
    )  # the share of the mean map is the mean of the shares
    return np.array([measure_share(mean, *place)[0] for place in places])


def _measure_losses(
    values: Mapping[str, NDArray[np.float64]], pids: NDArray[np.int64], steps: Mapping[str, NDArray[np.bool_]]
) -> dict[str, Interval]:
    """Mean in full view minus mean where much is hidden, per person, with intervals."""
    open_view, much = steps.get(HIDDEN_STEPS[0][2]), steps.get(HIDDEN_STEPS[2][2])
    if open_view is None or much is None:
        return {}
    both = sorted(set(pids[open_view].tolist()) & set(pids[much].tolist()))
    if len(both) < 2:
        return {}
    return {
        name: cluster_interval([v[open_view & (pids == p)].mean() - v[much & (pids == p)].mean() for p in both], both)
        for name, v in values.items()
    }


def draw_shares_inside(shares: Shares, path: str | Path) -> None:
    """Draw the shares by level of occlusion, and the paired differences as measured and beyond each control.

    Intervals are 95 % intervals over people.

    Raises:
        OutputError: the file cannot be written.
    """
    steps = list(shares.shares)
    with new_figure((8.4, 3.4)) as figure:
        left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
        for number, name in enumerate((shares.first, shares.second)):
            colour, _, marker = STYLES[number]
            rows = [shares.shares[step][name] for step in steps]
            x = np.arange(len(steps)) + 0.16 * (number - 0.5)
            for place, i in zip(x, rows, strict=True):
                left.plot([place, place], [100 * i.low, 100 * i.high], color=colour, linewidth=2)
            left.plot(x, [100 * i.mean for i in rows], marker, color=colour, markersize=7, label=plain(name))
        left.axhline(100 * shares.uniform, color=GREY, linestyle=":", linewidth=1.2, label="uniform map, all images")
        left.set_xticks(range(len(steps)), [step.replace(" ", "\n", 1) for step in steps], fontsize=9)
        left.set_ylabel("share of the map in the box (%)")
        left.margins(y=0.25)
        left.legend(fontsize=8, loc="best")
        kinds = {"as measured": shares.differences} | {f"beyond {c}": rows for c, rows in shares.corrected.items()}
        for number, (kind, by_step) in enumerate(kinds.items()):
            colour, marker = (GREY, "o") if not number else (STYLES[number + 1][0], STYLES[number + 1][2])
            places = np.arange(len(steps)) + 0.2 * (number - 1)
            for place, step in zip(places, steps, strict=True):
                i = by_step[step]
                right.plot([100 * i.low, 100 * i.high], [place, place], color=colour, linewidth=2)
            right.plot(
                [100 * by_step[step].mean for step in steps],
                places,
                marker,
                color=colour,
                markersize=6,
                linestyle="none",
                label=kind,
            )
        right.legend(fontsize=7, loc="best")
        right.axvline(0, color="black", linewidth=1)
        right.set_yticks(range(len(steps)), steps, fontsize=9)
        right.set_ylim(len(steps) - 0.5, -0.5)
        right.set_xlabel(plain(f"{shares.first} minus\n{shares.second}, points"), fontsize=9)
        save_figure(figure, path)
