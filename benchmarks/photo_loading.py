"""Photographs per second of decoding and augmentation, compared with torchvision's reference loader in turn.

The reference is the loader of torchvision's classification reference (Pillow backend): ImageFolder, RandomResizedCrop,
RandomHorizontalFlip, PILToTensor, to float, Normalize, in a DataLoader. Ours does the same; ``bytes`` leaves the
normalisation to the GPU, ``packed`` reads tar files. All have the same number of workers with one torch thread each.
The photographs are read once before, so this measures the processor and not the disk. Quote the ratios.

    python benchmarks/photo_loading.py --photos imagenet-samples/val [--workers 2] [--rounds 5] [--tiles 5]
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch.utils.data import ConcatDataset, DataLoader

from osnet.data.samplers import RandomBatches
from osnet.data.training_set import EpochKeys
from osnet.photos.image_folder import Photos, PhotoSamples, read_photo_folder
from osnet.photos.photo_augmentation import PhotoAugmentation
from osnet.photos.shards import PackedPhotos, read_packed_index, write_packed
from osnet.types import Preprocessing

SETTINGS = Preprocessing(size_hw=(224, 224))
LABELS = {
    "reference": "torchvision's reference", "ours": "folders", "ours, bytes": "folders, bytes", "packed": "packed",
    "packed, bytes": "packed, bytes",
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """Photographs, workers and rounds of the measurement."""

    photos: Path
    """A folder with a sub-folder for each class."""
    tiles: int = 5
    """Number of times that each photograph occurs in an epoch."""
    workers: int = 2
    """Worker processes; 0 decodes in the main process."""
    batch_size: int = 50
    rounds: int = 5
    """Each round reads one epoch with every loader."""
    out: Path | None = None
    """Write the result here as JSON."""


def reference(settings: Settings) -> Callable[[int], DataLoader]:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.RandomResizedCrop(224, interpolation=v2.InterpolationMode.BILINEAR, antialias=True),
            v2.RandomHorizontalFlip(0.5),
            v2.PILToTensor(),
            v2.ToDtype(torch.float, scale=True),
            v2.Normalize(SETTINGS.mean, SETTINGS.std),
            v2.ToPureTensor(),
        ]
    )
    tiled = ConcatDataset([ImageFolder(str(settings.photos), transform)] * settings.tiles)
    options = {"batch_size": settings.batch_size, "num_workers": settings.workers, "shuffle": True, "drop_last": True}
    return lambda _epoch: DataLoader(tiled, **options)


def ours(photos: Photos, settings: Settings, as_bytes: bool) -> Callable[[int], DataLoader]:
    samples = PhotoSamples(photos, PhotoAugmentation(), SETTINGS, seed=1, as_bytes=as_bytes)
    sampler = RandomBatches(samples.labels, settings.batch_size, seed=1)
    return lambda epoch: DataLoader(
        samples, batch_sampler=EpochKeys(sampler, epoch), num_workers=settings.workers  # type: ignore[arg-type]
    )  # fmt: skip


def packed(folder: Path, settings: Settings, as_bytes: bool) -> Callable[[int], DataLoader]:
    index = read_packed_index(folder)
    return lambda epoch: PackedPhotos(
        index,
        settings.batch_size,
        PhotoAugmentation(),
        SETTINGS,
        seed=1,
        epoch=epoch,
        num_workers=settings.workers,
        as_bytes=as_bytes,
    ).loader()


def rate(loader: DataLoader) -> float:
    """Photographs per second after the first batch, without the start of the workers."""
    batches = iter(loader)
    next(batches)
    start = time.perf_counter()
    seen = 0
    for batch in batches:
        seen += len(batch["image"] if isinstance(batch, dict) else batch[0])
    return seen / (time.perf_counter() - start)


def markdown(results: dict[str, dict[str, Any]]) -> str:
    """A Markdown row per loader, as in docs/classification.md."""
    lines = ["| loader | photographs per second and core | times the reference (range) |", "|---|---|---|"]
    for name, row in results.items():
        low, high = row["ratio_range"]
        ratio = "1" if name == "reference" else f"{row['ratio_median']:.2f} ({low:.2f} to {high:.2f})"
        lines.append(f"| {LABELS[name]} | {row['images_per_s_per_core']:.0f} | {ratio} |")
    return "\n".join(lines)


def main(settings: Settings) -> None:
    torch.set_num_threads(1)
    photos = read_photo_folder(settings.photos)
    tiled = photos.select(list(range(len(photos))) * settings.tiles)
    readers = max(1, settings.workers)
    with tempfile.TemporaryDirectory() as folder:
        write_packed(tiled, Path(folder) / "packed", images_per_shard=max(1, len(tiled) // (4 * readers)))
        loaders = {
            "reference": reference(settings),
            "ours": ours(tiled, settings, as_bytes=False),
            "ours, bytes": ours(tiled, settings, as_bytes=True),
            "packed": packed(Path(folder) / "packed", settings, as_bytes=False),
            "packed, bytes": packed(Path(folder) / "packed", settings, as_bytes=True),
        }
        rates: dict[str, list[float]] = {name: [] for name in loaders}
        for number in range(settings.rounds + 1):
            for name, make in loaders.items():
                measured = rate(make(number))
                if number:  # the first round fills the system's cache
                    rates[name].append(measured)
    print(f"{len(tiled)} photographs, {settings.workers} workers, {settings.rounds} rounds; photographs per second")
    results = {}
    for name, values in rates.items():
        ratios = [a / b for a, b in zip(values, rates["reference"], strict=True)]
        results[name] = {
            "images_per_s": statistics.median(values),
            "images_per_s_per_core": statistics.median(values) / readers,
            "ratio_median": statistics.median(ratios),
            "ratio_range": (min(ratios), max(ratios)),
        }
        r = results[name]
        print(
            f"{name:<15}{r['images_per_s']:>8.0f}{r['images_per_s_per_core']:>8.0f} per core   "
            f"{r['ratio_median']:.2f} times the reference ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    if settings.out is not None:
        shown = {key: value for key, value in asdict(settings).items() if key not in ("out", "photos")}
        settings.out.write_text(
            json.dumps({"settings": shown, "torch": torch.__version__, "results": results}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
