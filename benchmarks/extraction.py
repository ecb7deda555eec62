"""Time from image files to embeddings, compared with torchreid's FeatureExtractor; and memory use of a long stream.

    python benchmarks/extraction.py --weights osnet_x0_25_msmt17.pth --peer-python peer/bin/python
    python benchmarks/extraction.py --weights osnet_x0_25_msmt17.pth --stream 100000

The first writes generated JPEG crops, 256 per block, and measures both in turn, each in its own process.
FeatureExtractor gets 32 paths at a time, because it does not batch. Before that, the vectors are compared with those of
Pillow and plain PyTorch. The second embeds the same 512 files repeatedly, writes the vectors to disk, and prints the
process's memory after the first 2,000 crops and at the end. For ``ratio`` see inference.py.
"""

import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

THIS = Path(__file__).resolve()
sys.path.insert(0, str(THIS.parent))
import in_turn  # noqa: E402

BLOCK = 256


@dataclass(frozen=True)
class Settings:
    """Weights, crops and rounds of the measurement."""

    weights: Path | None = None
    """None: random weights of ``model``, which take the same time."""
    sizes: tuple[str, ...] = ("128x64", "256x128", "500x200")
    """Height x width of the crops."""
    rounds: int = 10
    threads: int = 2
    backends: tuple[str, ...] = ("onnxruntime", "openvino")
    peer_python: Path | None = None
    """Python of an environment with torchreid 0.2.5. Without it, the baseline is a plain loop of Pillow and PyTorch."""
    model: str = "osnet_x0_25"
    stream: int = 0
    """If above 0, stream this many crops and record the memory instead."""
    out: Path | None = None


def make_crops(folder: Path, size_hw: tuple[int, int], number: int) -> list[str]:
    """JPEG files of quality 90, of coloured blocks with noise."""
    import numpy as np
    from PIL import Image

    paths = []
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(number):
        rng = np.random.default_rng(n)
        blocks = Image.fromarray(rng.integers(0, 256, (16, 8, 3), dtype=np.uint8))
        picture = np.asarray(blocks.resize(size_hw[::-1], Image.Resampling.BICUBIC), np.int16)
        grain = rng.integers(-12, 13, picture.shape)
        paths.append(str(folder / f"{n:04d}.jpg"))
        Image.fromarray(np.clip(picture + grain, 0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def worker(kind: str, weights: str, model: str, folder: str, threads: int) -> None:
    import torch

    in_turn.pin(threads)
    torch.set_num_threads(threads)
    paths = sorted(str(path) for path in Path(folder).iterdir())
    if kind == "torchreid":
        from torchreid.reid.utils import FeatureExtractor

        extractor = FeatureExtractor(model_name=model, model_path=weights, device="cpu", verbose=False)
        return in_turn.serve(lambda: [extractor(paths[i : i + 32]) for i in range(0, len(paths), 32)])
    if kind == "plain":
        return in_turn.serve(lambda: plain_vectors(weights, paths))
    from osnet import Embedder

    embedder = Embedder(weights, batch_size=32, backend=kind)  # type: ignore[arg-type]
    return in_turn.serve(lambda: embedder.embed(paths))


_networks: dict[str, Any] = {}


def plain_vectors(weights: str, paths: list[str]) -> Any:
    """Embeddings by Pillow, NumPy and PyTorch, 32 at a time."""
    import numpy as np
    import torch
    from PIL import Image

    from osnet import load_weights

    network = _networks.setdefault(weights, None) or load_weights(weights)
    _networks[weights] = network
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    rows = []
    for start in range(0, len(paths), 32):
        images = [
            (np.asarray(Image.open(path).convert("RGB").resize((128, 256), Image.Resampling.BILINEAR), np.float32) / 255
             - mean) / std
            for path in paths[start : start + 32]
        ]  # fmt: skip
        with torch.no_grad():
            vectors = network(torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy()))
        rows.append(torch.nn.functional.normalize(vectors).numpy())
    return np.concatenate(rows)


def memory_mb() -> float:
    """Current resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def highest_mb() -> float:
    """Largest resident memory of this process so far, including loading the weights."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in status if line.startswith("VmHWM"))


def watch_stream(settings: Settings, weights: Path) -> None:
    from itertools import cycle, islice

    from osnet import Embedder

    with tempfile.TemporaryDirectory() as folder:
        paths = make_crops(Path(folder) / "crops", (128, 64), 512)
        embedder = Embedder(weights)
        done, start = 0, time.perf_counter()
        curve: list[tuple[int, float]] = []  # crops done, MB
        with (Path(folder) / "vectors.f32").open("wb") as file:
            for batch in embedder.stream(islice(cycle(paths), settings.stream)):
                batch.vectors.tofile(file)
                done += len(batch)
                if done >= (len(curve) + 1) * max(1000, settings.stream // 50):
                    curve.append((done, memory_mb()))
        curve.append((done, memory_mb()))
        seconds = time.perf_counter() - start
        assert done == settings.stream
    early = next(mb for crops, mb in curve if crops >= 2000)
    most = max(mb for _, mb in curve)
    grown = max(mb for crops, mb in curve if crops >= 2000) - early
    print(f"{done} crops in {seconds:.0f} s ({embedder.backend}): {early:.0f} MB after the first 2,000, at most "
          f"{most:.0f} MB, so grown by {grown:.1f} MB; {highest_mb():.0f} MB at any moment")  # fmt: skip
    in_turn.write(
        settings.out,
        {"machine": in_turn.machine(settings.threads), "weights": weights.name, "crops": done,
         "backend": embedder.backend, "seconds": seconds, "mb_after_2000": early, "mb_at_most": most,
         "mb_at_any_moment": highest_mb(), "grown_mb": grown, "curve_crops_mb": curve},
    )  # fmt: skip


def main(settings: Settings) -> None:
    if settings.weights is not None:
        return measure(settings, settings.weights)
    from osnet import create_model, save_weights

    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "random"
        save_weights(create_model(settings.model), weights)
        return measure(settings, weights)


def measure(settings: Settings, weights: Path) -> None:
    if settings.stream:
        return watch_stream(settings, weights)
    import numpy as np

    from osnet import Embedder

    result: dict[str, Any] = {"machine": in_turn.machine(settings.threads), "model": settings.model, "sizes": {}}
    first = ("torchreid", settings.peer_python) if settings.peer_python else ("plain", None)
    with tempfile.TemporaryDirectory() as folder:
        for size in settings.sizes:
            height, width = map(int, size.split("x"))
            crops = Path(folder) / size
            paths = make_crops(crops, (height, width), BLOCK)
            expected = plain_vectors(str(weights), paths)
            off = {
                kind: float(np.abs(Embedder(weights, backend=kind).embed(paths) - expected).max())  # type: ignore[arg-type]
                for kind in settings.backends
            }
            arguments = [str(weights), settings.model, str(crops), str(settings.threads)]
            workers = [
                in_turn.Worker(kind, [str(python or sys.executable), str(THIS), "--worker", kind, *arguments],
                               settings.threads)
                for kind, python in [first, *((kind, None) for kind in settings.backends)]
            ]  # fmt: skip
            rows = in_turn.compare(workers, settings.rounds, 0)
            for name, row in rows.items():
                if name in off:
                    row["largest_difference"] = off[name]
                print(f"{settings.model} {size:<8} {name:<12}{row['median_ms'] / BLOCK:8.3f} ms per crop (best "
                      f"{row['best_ms'] / BLOCK:.3f}), ratio {row['ratio']:.2f}, "
                      f"in processor time {row['cpu_ratio']:.2f}, off by {off.get(name, 0):.1e}",
                      flush=True)  # fmt: skip
            result["sizes"][size] = {"rounds": settings.rounds, "block": BLOCK, "rows": rows}
            in_turn.write(settings.out, result)
    return None


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5], int(sys.argv[6]))
    else:
        import tyro

        main(tyro.cli(Settings, description=__doc__))
