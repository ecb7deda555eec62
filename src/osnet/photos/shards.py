"""Labelled images packed into tar files (WebDataset format), for fast sequential reading.

    packed/
      packed.json          classes, and per shard: number of images, SHA-256; written last
      shard-000000.tar     000000000.jpg 000000000.cls  000000001.jpg ...

The image files are stored unchanged. Shards are read from a folder or from an address such as https://host/packed
(see ``ADDRESS`` for the schemes). Each shard goes to one worker of one process.
"""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from osnet.data.loading import IMAGE_SUFFIXES, check_header, decode_pixels
from osnet.errors import DataError, require_extra
from osnet.files import is_plain_name, make_folder, sha256_file, write_json, written_aside
from osnet.photos.image_folder import Photos
from osnet.photos.photo_augmentation import PhotoAugmentation
from osnet.types import Preprocessing

FORMAT = "osnet-packed-1"
INDEX_FILE = "packed.json"
ADDRESS = re.compile(r"(https?|s3|gs|ais|hf)://[^\s]+")
"""Addresses that may be read. ``pipe:`` is excluded, because it runs a command."""
IMAGES_PER_SHARD = 2000
BUFFER = 2000
"""Size of a worker's shuffle buffer, in encoded samples: about 220 MB of ImageNet."""


@dataclass(frozen=True)
class Shard:
    """One tar file."""

    file: str
    num_images: int
    sha256: str


@dataclass(frozen=True)
class PackedIndex:
    """The content of ``packed.json``."""

    source: str
    """The folder or address of the shards."""
    name: str
    classes: tuple[str, ...]
    shards: tuple[Shard, ...]

    def __len__(self) -> int:
        return sum(shard.num_images for shard in self.shards)


def write_packed(
    photos: Photos, folder: str | Path, images_per_shard: int = IMAGES_PER_SHARD, seed: int = 0
) -> PackedIndex:
    """Pack images in random order, so that a shard mixes the classes.

    The same images and seed give the same bytes. ``packed.json`` is written last; a folder without it is incomplete
    and cannot be read.

    Args:
        photos: the images to pack. The headers of all files are checked before anything is written.
        folder: created if it does not exist; must not contain packed images.
        images_per_shard: at least 1. 2000 images of ImageNet are about 220 MB.
        seed: seed of the random order.

    Raises:
        DataError: ``photos`` is empty, the folder contains packed images, or ``images_per_shard`` is below 1.
        ImageError: a file is not an image; nothing has been written.
        MissingExtraError: ``webdataset`` is not installed.
    """
    webdataset = require_extra("webdataset", "packed")
    folder = Path(folder)
    if not len(photos) or images_per_shard < 1:
        raise DataError(
            f"cannot pack {len(photos)} images in shards of {images_per_shard}: both numbers must be at least 1"
        )
    if (folder / INDEX_FILE).exists():
        raise DataError(f"{folder} already contains packed images ({INDEX_FILE}); choose another folder")
    for path in photos.paths:
        check_header(path)
    make_folder(folder)
    order = np.random.default_rng([seed, 79]).permutation(len(photos)).tolist()
    shards: list[Shard] = []
    for start in range(0, len(order), images_per_shard):
        file = folder / f"shard-{len(shards):06d}.tar"
        members = order[start : start + images_per_shard]
        with (
            written_aside(file) as aside,
            aside.open("wb") as stream,
            webdataset.TarWriter(stream, encoder=False, mtime=0, user="", group="") as tar,
        ):
            for place, index in enumerate(members, start):
                path, label = photos.paths[index], photos.labels[index]
                suffix = path.suffix.lower().lstrip(".") if path.suffix.lower() in IMAGE_SUFFIXES else "image"
                tar.write({"__key__": f"{place:09d}", suffix: path.read_bytes(), "cls": str(label).encode()})
        shards.append(Shard(file.name, len(members), sha256_file(file)))
    index = PackedIndex(str(folder), photos.name, photos.classes, tuple(shards))
    content = {key: value for key, value in asdict(index).items() if key != "source"}
    write_json(folder / INDEX_FILE, {"format": FORMAT, **content})
    return index


def read_packed_index(source: str | Path) -> PackedIndex:
    """Read the index of packed images in a folder or at an address.

    Raises:
        DataError: the index does not exist, is damaged, or has another format.
    """
    address = _address(source)
    try:
        content = json.loads(_read_bytes(f"{address}/{INDEX_FILE}"))
        if content.get("format") != FORMAT:
            raise DataError(
                f"{address}/{INDEX_FILE} has the format {content.get('format')!r}; this version reads {FORMAT!r}"
            )
        shards = tuple(Shard(str(s["file"]), int(s["num_images"]), str(s["sha256"])) for s in content["shards"])
        index = PackedIndex(address, str(content["name"]), tuple(map(str, content["classes"])), shards)
    except DataError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"{address}/{INDEX_FILE} cannot be read: {error!r}") from error
    if bad := [shard.file for shard in index.shards if not is_plain_name(shard.file) or shard.num_images < 1]:
        raise DataError(f"{address}/{INDEX_FILE}: shard {bad[0]!r} has no images, or its name is not a plain file name")
    if not index.shards or not index.classes:
        raise DataError(f"{address}/{INDEX_FILE} lists no shards or no classes")
    return index


class PackedPhotos(IterableDataset[dict[str, Tensor | int]]):
    """One epoch of packed images for one process, read sequentially.

    Shards are shuffled and distributed over the workers of all processes; each worker shuffles samples in a buffer. The
    order depends only on the seed, the epoch, the rank and the numbers of processes and workers. The augmentation of a
    sample depends only on the seed, the epoch and the number of the sample. All processes yield the same number of
    batches, so a few images are left out; which ones differs between epochs.

    Args:
        index: result of ``read_packed_index``.
        batch_size: images per batch of one process. Each batch comes from one worker.
        augmentation: the training augmentation.
        preprocessing: image size and normalisation.
        seed: seed of the order and of the augmentation.
        epoch: the epoch, from 0.
        first_batch: batch of this process at which to resume. Batches can be skipped without decoding only in whole
            rounds, each of one batch from each worker. Iteration therefore begins ``num_extra`` batches before
            ``first_batch``, and the caller must discard these.
        rank: index of this process, from 0.
        num_ranks: number of processes.
        num_workers: workers of this process's loader; 0 reads in the process itself.
        as_bytes: yield uint8 images that are not normalised; the caller normalises the whole batch. If False, yield
            normalised float32 images.
        buffer: size of a worker's shuffle buffer, in samples; 1 keeps the order of the shards.

    Raises:
        DataError: an argument is out of range, there are fewer shards than workers, or some process has no full batch.
        MissingExtraError: ``webdataset`` is not installed.
    """

    def __init__(
        self,
        index: PackedIndex,
        batch_size: int,
        augmentation: PhotoAugmentation,
        preprocessing: Preprocessing,
        seed: int,
        *,
        epoch: int = 0,
        first_batch: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
        num_workers: int = 0,
        as_bytes: bool = False,
        buffer: int = BUFFER,
    ) -> None:
        require_extra("webdataset", "packed")
        if not 0 <= rank < num_ranks or batch_size < 1 or num_workers < 0 or buffer < 1 or epoch < 0:
            raise DataError(
                f"rank {rank} of {num_ranks}, batch size {batch_size}, {num_workers} workers, buffer {buffer}, "
                f"epoch {epoch}: rank must be from 0 to the number of processes minus 1, batch size and buffer at "
                "least 1, workers and epoch at least 0"
            )
        self.readers = max(1, num_workers)
        if len(index.shards) < num_ranks * self.readers:
            raise DataError(
                f"{index.source} has {len(index.shards)} shards, fewer than {num_ranks} processes x {self.readers} "
                "workers; pack into smaller shards or use fewer workers"
            )
        self.index, self.batch_size, self.augmentation, self.preprocessing = (
            index,
            batch_size,
            augmentation,
            preprocessing,
        )
        self.seed, self.epoch, self.rank, self.num_workers = seed, epoch, rank, num_workers
        self.as_bytes, self.buffer = as_bytes, buffer
        order = np.random.default_rng([seed, epoch, 80]).permutation(len(index.shards)).tolist()
        dealt = [order[place :: num_ranks * self.readers] for place in range(num_ranks * self.readers)]
        full = [[self._full_batches(dealt[r + num_ranks * w]) for w in range(self.readers)] for r in range(num_ranks)]
        fewest = min(sum(batches) for batches in full)
        if not fewest:
            raise DataError(
                f"{index.source}: one of {num_ranks} processes has no full batch of {batch_size} images; "
                "use a smaller batch or fewer workers"
            )
        self.shards = [dealt[rank + num_ranks * w] for w in range(self.readers)]
        self.num_batches = _cut_to(full[rank], fewest)
        """Number of batches of each worker."""
        if not 0 <= first_batch <= sum(self.num_batches):
            raise DataError(
                f"first_batch {first_batch} is outside 0 to {sum(self.num_batches)}, the batches of an epoch"
            )
        # A DataLoader takes one batch of each worker in turn and skips workers that have finished.
        taken = [
            sum(min(batches, rounds) for batches in self.num_batches) for rounds in range(max(self.num_batches) + 1)
        ]
        self.rounds = max(rounds for rounds, batches in enumerate(taken) if batches <= first_batch)
        self.num_extra = first_batch - taken[self.rounds]

    def _full_batches(self, shards: list[int]) -> int:
        return sum(self.index.shards[i].num_images for i in shards) // self.batch_size

    def __len__(self) -> int:
        return sum(self.num_batches) * self.batch_size

    def loader(self, **settings: Any) -> DataLoader[dict[str, Tensor | int]]:
        """Make a ``DataLoader`` of the batches from ``first_batch - num_extra`` on.

        Its ``len`` is that of the whole epoch. ``settings`` such as ``pin_memory`` are passed on.
        """
        return DataLoader(self, batch_size=self.batch_size, num_workers=self.num_workers, drop_last=True, **settings)

    def __iter__(self) -> Iterator[dict[str, Tensor | int]]:
        """Yield this worker's samples, with ``image`` and ``label``.

        Raises:
            DataError: a shard is missing or damaged, or has another number of images than the index says.
            ImageError: an image cannot be decoded; the message has its shard and number.
        """
        info = get_worker_info()
        if (info.num_workers if info else 0) != self.num_workers:
            raise DataError(
                f"PackedPhotos(num_workers={self.num_workers}) is read by {info.num_workers if info else 0} workers; "
                "the numbers must be equal"
            )
        worker = info.id if info else 0
        skipped = min(self.rounds, self.num_batches[worker]) * self.batch_size
        left = self.num_batches[worker] * self.batch_size
        for key, name, content, label in self._shuffled(worker):
            if not left:
                return
            left -= 1
            skipped -= 1
            if skipped >= 0:
                continue
            rng = np.random.default_rng([self.seed, self.epoch, key])
            make = self.augmentation.draw if self.as_bytes else self.augmentation.apply
            yield {"image": make(decode_pixels(content, name, warn=False), self.preprocessing, rng), "label": label}

    def _shuffled(self, worker: int) -> Iterator[tuple[int, str, bytes, int]]:
        from webdataset.filters import shuffle

        draw = random.Random(f"{self.seed} {self.epoch} {self.rank} {worker}")  # noqa: S311
        samples = (
            sample for shard in self.shards[worker] for sample in read_shard(self.index, self.index.shards[shard])
        )
        yield from shuffle(self.buffer, initial=self.buffer, rng=draw)(samples)


def read_shard(index: PackedIndex, shard: Shard) -> Iterator[tuple[int, str, bytes, int]]:
    """Yield (number, name, encoded image, label) for each image of a shard, in order.

    Raises:
        DataError: the shard is missing or damaged, or has another number of images than the index says.
    """
    address = f"{index.source}/{shard.file}"
    seen = 0
    try:
        for sample in _samples(address):
            key, label = int(sample["__key__"]), int(sample["cls"])
            (suffix,) = [name for name in sample if not name.startswith("__") and name != "cls"]
            if not 0 <= label < len(index.classes):
                raise DataError(
                    f"{address}: image {key} has the label {label}; labels must be from 0 to {len(index.classes) - 1}"
                )
            seen += 1
            yield key, f"{address}#{key:09d}.{suffix}", sample[suffix], label
    except DataError:
        raise
    except Exception as error:  # webdataset and tar files raise many types
        raise DataError(f"{address} cannot be read after {seen} images: {str(error) or error!r}") from error
    if seen != shard.num_images:
        raise DataError(f"{address} is damaged: it has {seen} images instead of {shard.num_images} ({INDEX_FILE})")


def _samples(address: str) -> Iterator[dict[str, Any]]:
    """The members of a tar file, grouped by their number."""
    webdataset = require_extra("webdataset", "packed")
    if "://" in address:
        yield from webdataset.WebDataset(
            [address], shardshuffle=False, nodesplitter=None, workersplitter=None, empty_check=False
        )
        return
    tar = webdataset.tariterators
    with Path(address).open("rb") as stream:  # WebDataset would take the path for a URL, and cut it at # and ?
        yield from tar.group_by_keys(tar.tar_file_expander([{"url": address, "stream": stream}]))


def _cut_to(batches: list[int], total: int) -> list[int]:
    """Reduce the largest of ``batches`` until they sum to ``total``."""
    cut = list(batches)
    while sum(cut) > total:
        cut[cut.index(max(cut))] -= 1
    return cut


def _address(source: str | Path) -> str:
    """Check a folder or an address and return it without a slash at the end."""
    text = str(source).rstrip("/")
    if "://" in text or text.startswith("pipe:"):
        if not ADDRESS.fullmatch(text):
            raise DataError(f"{text!r} is not a supported address; use https, http, s3, gs, ais or hf")
        return text
    if not Path(text).is_dir():
        raise DataError(f"no such folder of packed images: {text}")
    return text


def _read_bytes(address: str) -> bytes:
    if "://" not in address:
        return Path(address).read_bytes()
    from webdataset import gopen

    with gopen(address) as stream:
        return stream.read()
