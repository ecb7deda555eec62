"""Speed of embedding the boxes of one 1080p BGR frame, as a tracker does, compared with BoxMOT and Torchreid.

    python benchmarks/tracker.py --weights W.pth --peer-python peer/bin/python --boxmot-python boxmot/bin/python

The contenders are measured in turn, each in its own process. ``run`` is the backend alone, on prepared crops, and
``prepare`` is cropping and resizing alone; ``embed`` is both, with the Python between them. The resize is the compiled
one, as in a process that has resized thousands of crops; ``prepare-by-Pillow`` begins with Pillow, as a new process
does. BoxMOT's ``get_features`` takes the frame; Torchreid's FeatureExtractor takes RGB crops cut from it. People are 80
to 400 pixels high, so some crops are scaled down. ``ratio`` and the peers' environments: see inference.py.
"""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

THIS = Path(__file__).resolve()
sys.path.insert(0, str(THIS.parent))
import in_turn  # noqa: E402

Call = Callable[[np.ndarray, np.ndarray], Any]
"""Embeds the boxes of a frame."""


@dataclass(frozen=True)
class Settings:
    """Settings of the measurement."""

    weights: Path | None = None
    """Default: random weights of ``model``, which take the same time."""
    model: str = "osnet_x0_25"
    boxes: tuple[int, ...] = (1, 5, 20, 60)
    rounds: int = 12
    block_s: float = 0.4
    threads: int = 2
    backends: tuple[str, ...] = ("onnxruntime",)
    peer_python: Path | None = None
    """Python of an environment with torchreid 0.2.5."""
    boxmot_python: Path | None = None
    """Python of an environment with boxmot 25."""
    old: Path | None = None
    """The ``src`` folder of another version of this package, to measure as well."""
    out: Path | None = None


def make_frame(number: int) -> tuple[np.ndarray, np.ndarray]:
    """(1080, 1920, 3) uint8, and (number, 4) boxes: left, top, right, bottom."""
    rng = np.random.default_rng(0)
    frame = np.kron(rng.integers(0, 200, (27, 48, 3)), np.ones((40, 40, 1))) + rng.integers(0, 56, (1080, 1920, 3))
    height = rng.uniform(80, 400, number)
    width = 0.4 * height
    left, top = rng.uniform(0, 1920 - width), rng.uniform(0, 1080 - height)
    return frame.astype(np.uint8), np.stack([left, top, left + width, top + height], 1)


def worker(kind: str, folder: str, model: str, numbers: list[int], threads: int) -> None:
    in_turn.pin(threads)
    import torch

    torch.set_num_threads(threads)
    weights = Path(folder) / f"{model}_msmt17.pt"
    make = {"torchreid": by_torchreid, "boxmot": by_boxmot}.get(kind.split()[0], by_osnet)
    call = make(kind, weights, model)
    in_turn.serve(*(partial(call, *make_frame(number)) for number in numbers))


def by_torchreid(_kind: str, weights: Path, model: str) -> Call:
    from torchreid.reid.utils import FeatureExtractor

    extractor = FeatureExtractor(model_name=model, model_path=str(weights), device="cpu", verbose=False)
    return lambda frame, boxes: extractor(
        [np.ascontiguousarray(frame[t:b, left:r, ::-1]) for left, t, r, b in boxes.astype(int)]
    )


def by_boxmot(kind: str, weights: Path, _model: str) -> Call:
    import torch
    from boxmot.reid.backends.onnx_backend import ONNXBackend
    from boxmot.reid.backends.pytorch_backend import PyTorchBackend

    onnx = kind.endswith("onnx")
    made = (ONNXBackend if onnx else PyTorchBackend)(
        weights.with_suffix(".onnx") if onnx else weights, torch.device("cpu"), False
    )
    return lambda frame, boxes: made.get_features(boxes, frame)


def by_osnet(kind: str, weights: Path, _model: str) -> Call:
    import torch

    from osnet import Embedder, Frame
    from osnet.embedding.inputs import iterate_jobs

    what, _, backend = kind.removeprefix("old ").partition(" ")
    if not kind.startswith("old ") and what != "prepare-by-Pillow":
        from osnet.data import faster_resize

        if not faster_resize.load():
            raise SystemExit("the compiled resize does not load")
    embedder: Any = Embedder(weights, backend=backend or "torch", batch_size=64)
    if what == "embed":
        return lambda frame, boxes: embedder.embed(Frame(frame, boxes), channels="bgr")

    def prepare(frame: np.ndarray, boxes: np.ndarray) -> list[Any]:
        return list(embedder._prepared(iterate_jobs(Frame(frame, boxes), "bgr")))

    if what != "run":
        return prepare
    ready: dict[int, torch.Tensor] = {}

    def run(frame: np.ndarray, boxes: np.ndarray) -> None:
        if len(boxes) not in ready:
            ready[len(boxes)] = torch.stack([crop.pixels for crop in prepare(frame, boxes)])
        embedder._backend.run(ready[len(boxes)])

    return run


def write_weights(settings: Settings, folder: Path) -> None:
    """Write the weights in Torchreid's format and as ONNX, under file names from which BoxMOT infers the network."""
    from osnet import create_model, export, load_weights, save_weights
    from osnet.weights.checkpoint import convert, read_checkpoint

    network = load_weights(settings.weights) if settings.weights else create_model(settings.model)
    save_weights(network, folder / "ours")
    convert(folder / "ours", folder / f"{settings.model}_msmt17.pt")
    (file, _) = export(read_checkpoint(folder / "ours"), folder / "exported")
    file.path.rename(folder / f"{settings.model}_msmt17.onnx")


def main(settings: Settings) -> None:
    result: dict[str, Any] = {"machine": in_turn.machine(settings.threads), "model": settings.model, "cells": []}
    contenders: list[tuple[str, Path | None]] = []
    for name in settings.backends:
        contenders += [(f"embed {name}", None), (f"run {name}", None)]
    contenders += [("prepare", None), ("prepare-by-Pillow", None)]
    if settings.old:
        contenders += [("old embed auto", None), ("old prepare", None)]
    if settings.boxmot_python:
        contenders += [("boxmot pt", settings.boxmot_python), ("boxmot onnx", settings.boxmot_python)]
    if settings.peer_python:
        contenders.append(("torchreid", settings.peer_python))
    with tempfile.TemporaryDirectory() as folder:
        write_weights(settings, Path(folder))
        arguments = [folder, settings.model, ",".join(map(str, settings.boxes)), str(settings.threads)]
        workers = []
        for kind, python in contenders:
            version = ["env", f"PYTHONPATH={settings.old}"] if kind.startswith("old ") else []
            command = [*version, str(python or sys.executable), str(THIS), "--worker", kind, *arguments]
            workers.append(in_turn.Worker(kind, command, settings.threads))
        for task, number in enumerate(settings.boxes):
            last = number == settings.boxes[-1]
            rows = in_turn.compare(workers, settings.rounds, settings.block_s, task, last)
            for name, row in rows.items():
                times = f"{row['median_ms']:9.2f} ms (best {row['best_ms']:.2f}, processor {row['cpu_ms']:.2f})"
                ratios = " ".join(f"{row[key]:.2f}" for key in ("ratio_within_rounds", "ratio_best", "cpu_ratio"))
                print(f"{settings.model} {number:>3} boxes  {name:<20}{times}, ratios {ratios}", flush=True)
            result["cells"].append({"boxes": number, "rounds": settings.rounds, "rows": rows})
            in_turn.write(settings.out, result)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(*sys.argv[2:5], list(map(int, sys.argv[5].split(","))), int(sys.argv[6]))
    else:
        import tyro

        main(tyro.cli(Settings, description=__doc__))
