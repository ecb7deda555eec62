"""Speed of the network: each backend compared with torchreid 0.2.5, in turn, each in its own process.

    python benchmarks/inference.py --peer-python peer/bin/python --boxmot-python boxmot-env/bin/python
    python benchmarks/inference.py --device cuda     # variants in PyTorch on a GPU: see in_pytorch.py

Without ``--peer-python``, the baseline is the network in plain PyTorch (torchreid's has the same layers). ``ratio`` is
the smaller of two: the median over rounds of the ratio within a round, and best to best. Each time also has its share
of the machine's measured matrix-product peak, counting two operations per multiply-add. The networks have random
weights, which take the same time. For the environments see make_torchreid_outputs.py and make_boxmot_outputs.py in
tests/fixtures.
"""

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

THIS = Path(__file__).resolve()
sys.path.insert(0, str(THIS.parent))
import in_pytorch  # noqa: E402
import in_turn  # noqa: E402

SIZE_HW = (256, 128)
GFLOP = {"osnet_x1_0": 1.957, "osnet_x0_75": 1.143, "osnet_x0_5": 0.546, "osnet_x0_25": 0.165}


@dataclass(frozen=True)
class Settings:
    """Networks, batches, backends and rounds of the measurement."""

    models: tuple[str, ...] = ("osnet_x0_25", "osnet_x1_0")
    batches: tuple[int, ...] = (1, 8, 32)
    rounds: int = 12
    block_s: float = 0.4
    """Length of each contender's turn, or one batch if that takes longer."""
    threads: int = 2
    backends: tuple[str, ...] = ("torch", "onnxruntime", "openvino")
    peer_python: Path | None = None
    """Python of an environment with torchreid 0.2.5."""
    boxmot_python: Path | None = None
    """Python of an environment with boxmot, which runs the exported file."""
    device: str | None = None
    """If given (cuda, cpu), compare only variants in PyTorch on this device: precisions, compile, CUDA graphs, ours."""
    size: str = "256x128"
    """With ``device``: height x width of the images."""
    out: Path | None = None


def worker(kind: str, model: str, batch: int, threads: int, folder: str) -> None:
    import torch

    if kind.startswith("on "):
        _, device, size, way = kind.split(" ", 3)
        height, width = map(int, size.split("x"))
        if not device.startswith("cuda"):
            in_turn.pin(threads)
            torch.set_num_threads(threads)
        return in_turn.serve(in_pytorch.make_way(way, model, batch, (height, width), device))
    in_turn.pin(threads)
    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (batch, 3, *SIZE_HW), dtype=np.uint8))
    images = torch.from_numpy(rng.standard_normal((batch, 3, *SIZE_HW), dtype=np.float32))
    if kind == "torchreid":
        from torchreid.reid.models import build_model

        network = build_model(model, num_classes=1, pretrained=False).eval()
    elif kind == "plain":
        from osnet import create_model

        network = create_model(model).eval()
    elif kind == "boxmot":
        from boxmot.reid.backends.onnx_backend import ONNXBackend

        backend = ONNXBackend(Path(folder) / f"{model}.onnx", torch.device("cpu"), False)
        return in_turn.serve(lambda: backend.forward(images))
    else:
        from osnet import create_model
        from osnet.runtime.backends import make_backend
        from osnet.types import Preprocessing

        made = make_backend(kind, create_model(model).eval(), Preprocessing(), torch.device("cpu"))  # type: ignore[arg-type]
        return in_turn.serve(lambda: made.run(pixels))

    def plain() -> None:
        with torch.no_grad():
            network(images)

    return in_turn.serve(plain)


def peak_gflops(threads: int) -> float:
    """Fastest float32 matrix product of PyTorch and NumPy, at three sizes."""
    import torch

    torch.set_num_threads(threads)
    peak = 0.0
    for size in (512, 1024, 2048):
        a = torch.rand(size, size)
        for _ in range(20):
            for multiply, matrix in ((torch.mm, a), (np.matmul, a.numpy())):
                start = time.perf_counter()
                multiply(matrix, matrix)  # type: ignore[operator]
                peak = max(peak, 2 * size**3 / (time.perf_counter() - start) / 1e9)
    return peak


def main(settings: Settings) -> None:
    result: dict[str, Any] = {"machine": in_turn.machine(settings.threads), "cells": []}
    if settings.device is not None:
        return measure_device(settings, settings.device, result)
    result["peak_gflops"] = peak = peak_gflops(settings.threads)
    print(f"{result['machine']['cpu']}, {settings.threads} threads, measured peak {peak:.0f} GFLOP/s in float32")
    with tempfile.TemporaryDirectory() as folder:
        contenders = [("torchreid", settings.peer_python)] if settings.peer_python else [("plain", None)]
        contenders += [(name, None) for name in settings.backends]
        if settings.boxmot_python:
            contenders.append(("boxmot", settings.boxmot_python))
            _export_all(settings.models, Path(folder))
        for model in settings.models:
            for batch in settings.batches:
                rows = _measure(settings, contenders, model, batch, folder)
                for name, row in rows.items():
                    row["share_of_peak"] = GFLOP[model] * batch / (row["best_ms"] / 1e3) / peak
                    print(f"{model} batch {batch:<3}{name:<12}{row['median_ms']:9.2f} ms (best {row['best_ms']:8.2f}), "
                          f"{row['share_of_peak']:4.0%} of the peak, ratio {row['ratio']:.2f}, "
                          f"in processor time {row['cpu_ratio']:.2f}", flush=True)  # fmt: skip
                result["cells"].append({"model": model, "batch": batch, "rounds": settings.rounds, "rows": rows})
                in_turn.write(settings.out, result)
    return None


def measure_device(settings: Settings, device: str, result: dict[str, Any]) -> None:
    """Images per second of each variant in PyTorch."""
    import torch

    if device.startswith("cuda"):
        result["machine"]["gpu"] = torch.cuda.get_device_name(device)
    result["machine"]["torch"] = torch.__version__
    ways = [(f"on {device} {settings.size} {way}", None) for way in in_pytorch.ways_on(device)]
    for model in settings.models:
        for batch in settings.batches:
            rows = _measure(settings, ways, model, batch, "")
            rows = {name.split(" ", 3)[3]: row for name, row in rows.items()}
            for name, row in rows.items():
                row["images_per_s"] = 1e3 * batch / row["median_ms"]
                print(f"{model} batch {batch:<5}{name:<24}{row['median_ms']:9.3f} ms, "
                      f"{row['images_per_s']:9.0f} images/s, ratio {row['ratio']:.2f}", flush=True)  # fmt: skip
            cell = {"model": model, "batch": batch, "size": settings.size, "rounds": settings.rounds, "rows": rows}
            result["cells"].append(cell)
            in_turn.write(settings.out, result)


def _measure(
    settings: Settings, contenders: list[tuple[str, Path | None]], model: str, batch: int, folder: str
) -> dict[str, dict[str, Any]]:
    arguments = [model, str(batch), str(settings.threads), folder]
    workers = []
    for kind, python in contenders:
        command = [str(python or sys.executable), str(THIS), "--worker", kind, *arguments]
        try:
            workers.append(in_turn.Worker(kind, command, settings.threads))
        except SystemExit as error:
            if settings.device is None or not workers:
                raise
            print(f"left out: {error}")  # the other variants can be measured without it
    return in_turn.compare(workers, settings.rounds, settings.block_s)


def _export_all(models: tuple[str, ...], folder: Path) -> None:
    from osnet import create_model
    from osnet.runtime.export import export
    from osnet.weights.checkpoint import read_checkpoint, save_weights

    for model in models:
        save_weights(create_model(model).eval(), folder / model / "weights")
        export(read_checkpoint(folder / model / "weights"), folder)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]), sys.argv[6])
    else:
        import tyro

        main(tyro.cli(Settings, description=__doc__))
