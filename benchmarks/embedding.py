"""How fast embedding is on this machine: ``Embedder`` and a plain loop, measured in turn.

The plain loop handles one file at a time: Pillow, resize, tensor, normalise, network. Files are generated, because
quality does not matter. Quote the ratio; times depend on the machine and its load.

    python benchmarks/embedding.py [--model osnet_x1_0] [--files 96] [--rounds 10] [--out FILE]
"""

import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image

from osnet import Embedder, create_model
from osnet.data.transforms import normalize

SIZES_WH = ((64, 128), (128, 256), (200, 500))


@dataclass(frozen=True)
class Settings:
    """Network, files and rounds of the measurement."""

    model: str = "osnet_x0_25"
    """A named network with random weights, which have the same speed."""
    files: int = 96
    """JPEGs in each round."""
    rounds: int = 10
    """Each round times both sides once."""
    batch_size: int = 32
    out: Path | None = None
    """Write the result here as JSON."""


def write_files(folder: Path, count: int, size_wh: tuple[int, int]) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = []
    for n in range(count):
        blocks = rng.integers(0, 256, (16, 8, 3), dtype=np.uint8)
        path = folder / f"{size_wh[0]}x{size_wh[1]}-{n:04d}.jpg"
        Image.fromarray(blocks).resize(size_wh, Image.Resampling.BICUBIC).save(path, quality=90)
        paths.append(path)
    return paths


def plain_loop(embedder: Embedder, paths: list[Path]) -> np.ndarray:
    rows = []
    height, width = embedder.preprocessing.size_hw
    for path in paths:
        picture = Image.open(path).convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()[None] / 255
        with torch.no_grad():
            vector = embedder.network(normalize(pixels.to(embedder.device), embedder.preprocessing))
        rows.append(torch.nn.functional.normalize(vector).cpu().numpy())
    return np.concatenate(rows)


def main(settings: Settings) -> None:
    torch.manual_seed(0)
    embedder = Embedder(create_model(settings.model).eval(), batch_size=settings.batch_size)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for size_wh in SIZES_WH:
            paths = write_files(Path(folder), settings.files, size_wh)
            difference = float(np.abs(plain_loop(embedder, paths) - embedder.embed(paths)).max())
            ratios, ours, plain = [], [], []
            for _ in range(settings.rounds):
                start = time.perf_counter()
                plain_loop(embedder, paths)
                middle = time.perf_counter()
                embedder.embed(paths)
                end = time.perf_counter()
                plain.append((middle - start) / len(paths) * 1000)
                ours.append((end - middle) / len(paths) * 1000)
                ratios.append(plain[-1] / ours[-1])
            name = f"{size_wh[0]}x{size_wh[1]}"
            results[name] = {
                "ratio_median": statistics.median(ratios),
                "ratio_min": min(ratios),
                "ratio_max": max(ratios),
                "ms_per_image_ours": statistics.median(ours),
                "ms_per_image_plain": statistics.median(plain),
                "largest_difference": difference,
            }
            r = results[name]
            print(
                f"{settings.model}, JPEGs of {name:>7}: {r['ratio_median']:.2f} times the plain loop "
                f"({r['ratio_min']:.2f} to {r['ratio_max']:.2f} over {settings.rounds} rounds), "
                f"{r['ms_per_image_ours']:.1f} ms per image, vectors within {difference:.0e}"
            )
    if settings.out is not None:
        report = {"settings": {**settings.__dict__, "out": str(settings.out)}, "threads": torch.get_num_threads()}
        settings.out.write_text(json.dumps({**report, "torch": torch.__version__, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
