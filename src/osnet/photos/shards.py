"""Photographs packed into tar files in WebDataset's form, so that they are read from front to back at full speed.

    packed/
      packed.json          the classes, the shards, how many images each holds, their SHA-256; written last
      shard-000000.tar     000000017.jpg 000000017.cls  000000018.jpg ...

The images' bytes are kept as they are. Reading is sequential, from a folder or from an address such as
https://host/packed, whatever the ``webdataset`` library opens. Each shard goes to one process and one worker.
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

from osnet.data.loading import check_header, decode_pixels
from osnet.errors import DataError, require_extra
from osnet.files import is_plain_name, make_folder, sha256_file, write_json, written_aside
from osnet.photos.image_folder import Photos
from osnet.photos.photo_augmentation import PhotoAugmentation
from osnet.types import Preprocessing

FORMAT = "osnet-packed-1"
INDEX_FILE = "packed.json"
ADDRESS = re.compile(r"(https?|s3|gs|ais|hf)://[^\s]+")
"""What may be read besides folders. ``pipe:``, which runs a command, is not among them."""
IMAGES_PER_SHARD = 2000
BUFFER = 2000
"""Samples, as bytes, among which a worker draws the next: about 250 MB of ImageNet."""


@dataclass(frozen=True)
class Shard:
    """One tar file."""

    file: str
    num_images: int
    sha256: str


@dataclass(frozen=True)
class PackedIndex:
    """What ``packed.json`` says."""

    source: str
    """The folder or address that holds the shards."""
    name: str
    classes: tuple[str, ...]
    shards: tuple[Shard, ...]

    def __len__(self) -> int:
        return sum(shard.num_images for shard in self.shards)


def write_packed(
    photos: Photos, folder: str | Path, images_per_shard: int = IMAGES_PER_SHARD, seed: int = 0
) -> PackedIndex:
    """Pack photographs, in one random order, so that what is read together is no one class.

    The same photographs and seed give the same bytes. ``packed.json`` is written last: without it there is nothing.

    Args:
        photos: what to pack; each header is looked at first.
        folder: made if need be; must not hold packed photographs already.
        images_per_shard: 2000 of ImageNet's are about 220 MB.
        seed: of the order.

    Raises:
        DataError: no photographs, packed ones there already, or shards below one image.
        ImageError: a file is no image; nothing has been written then.
        MissingExtraError: ``webdataset`` is not installed.
    """
    webdataset = require_extra("webdataset", "packed")
    folder = Path(folder)
    if not len(photos) or images_per_shard < 1:
        raise DataError(f"{len(photos)} photographs in shards of {images_per_shard}: both must be at least 1")
    if (folder / INDEX_FILE).exists():
        raise DataError(f"{folder} holds packed photographs already; choose another folder")
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
                suffix = path.suffix.lower().lstrip(".")
                tar.write({"__key__": f"{place:09d}", suffix: path.read_bytes(), "cls": str(label).encode()})
        shards.append(Shard(file.name, len(members), sha256_file(file)))
    index = PackedIndex(str(folder), photos.name, photos.classes, tuple(shards))
    content = {key: value for key, value in asdict(index).items() if key != "source"}
    write_json(folder / INDEX_FILE, {"format": FORMAT, **content})
    return index


def read_packed_index(source: str | Path) -> PackedIndex:
    """The index of packed photographs in a folder or at an address.

    Raises:
        DataError: none there, damaged, or of another version.
    """
    address = _address(source)
    try:
        content = json.loads(_read_bytes(f"{address}/{INDEX_FILE}"))
        if content.get("format") != FORMAT:
            raise DataError(f"{address}/{INDEX_FILE} has the format {content.get('format')!r}, not {FORMAT!r}")
        shards = tuple(Shard(str(s["file"]), int(s["num_images"]), str(s["sha256"])) for s in content["shards"])
        index = PackedIndex(address, str(content["name"]), tuple(map(str, content["classes"])), shards)
    except DataError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"{address}/{INDEX_FILE} cannot be read: {error!r}") from error
    if bad := [shard.file for shard in index.shards if not is_plain_name(shard.file) or shard.num_images < 1]:
        raise DataError(f"{address}/{INDEX_FILE} names the shard {bad[0]!r}, which is no plain name or has no images")
    if not index.shards or not index.classes:
        raise DataError(f"{address}/{INDEX_FILE} names no shards or no classes")
    return index


def check_packed(source: str | Path) -> None:
    """Compare every shard of a folder with its SHA-256.

    Raises:
        DataError: naming the first that differs or is missing.
    """
    index = read_packed_index(source)
    for shard in index.shards:
        path = Path(index.source) / shard.file
        if not path.is_file():
            raise DataError(f"{path} is missing")
        if (digest := sha256_file(path)) != shard.sha256:
            raise DataError(f"{path} is damaged: its SHA-256 is {digest}, {INDEX_FILE} says {shard.sha256}")


class PackedPhotos(IterableDataset[dict[str, Tensor | int]]):
    """One epoch of packed photographs for one process, read from front to back.

    The order is a function of (seed, epoch, rank, number of processes and workers): shards are shuffled and dealt
    out, and each worker draws from a buffer. A sample's augmentation is a function of (seed, epoch, its number).
    All processes give equally many batches; the few images that this leaves out differ from epoch to epoch.

    Args:
        index: what ``read_packed_index`` gave.
        batch_size: of one process; workers make whole batches.
        augmentation: what training does to them.
        preprocessing: sizes and normalisation.
        seed: of all draws.
        epoch: from 0.
        first_batch: go on from this batch of this process. Whole rounds of the workers are skipped without decoding;
            ``num_extra`` batches more than asked for then come first, to be thrown away.
        rank: this process, from 0.
        num_ranks: how many processes there are.
        num_workers: of this process's loader; 0 reads in the process itself.
        as_bytes: as for ``PhotoSamples``.
        buffer: samples that a worker draws from; 1 keeps the shards' order.

    Raises:
        DataError: fewer shards than readers, or no full batch.
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
                f"epoch {epoch}: numbers that cannot be"
            )
        self.readers = max(1, num_workers)
        if len(index.shards) < num_ranks * self.readers:
            raise DataError(
                f"{index.source} has {len(index.shards)} shards, fewer than {num_ranks} processes x {self.readers} "
                "workers; pack it into smaller shards, or take fewer workers"
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
            raise DataError(f"{index.source}: no worker has a full batch of {batch_size} images; take fewer workers")
        self.shards = [dealt[rank + num_ranks * w] for w in range(self.readers)]
        self.num_batches = _cut_to(full[rank], fewest)
        """For each worker."""
        if not 0 <= first_batch <= sum(self.num_batches):
            raise DataError(f"batch {first_batch} of an epoch of {sum(self.num_batches)}")
        # A loader takes a batch of each worker in turn, and leaves out those that have no more.
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
        """A ``DataLoader`` of ``sum(num_batches)`` batches; ``settings`` such as ``pin_memory`` go to it."""
        return DataLoader(self, batch_size=self.batch_size, num_workers=self.num_workers, drop_last=True, **settings)

    def __iter__(self) -> Iterator[dict[str, Tensor | int]]:
        """Samples ``image`` and ``label`` of this worker.

        Raises:
            DataError: a shard that is missing, damaged or shorter than the index says.
            ImageError: an image that cannot be decoded; it is named by shard and number.
        """
        info = get_worker_info()
        if (info.num_workers if info else 0) != self.num_workers:
            raise DataError(f"made for {self.num_workers} workers, but read by {info.num_workers if info else 0}")
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
            yield {"image": make(decode_pixels(content, name), self.preprocessing, rng), "label": label}

    def _shuffled(self, worker: int) -> Iterator[tuple[int, str, bytes, int]]:
        from webdataset.filters import shuffle

        draw = random.Random(f"{self.seed} {self.epoch} {self.rank} {worker}")  # noqa: S311
        samples = (
            sample for shard in self.shards[worker] for sample in read_shard(self.index, self.index.shards[shard])
        )
        yield from shuffle(self.buffer, initial=self.buffer, rng=draw)(samples)


def read_shard(index: PackedIndex, shard: Shard) -> Iterator[tuple[int, str, bytes, int]]:
    """(number, name, image file, label) of a shard in its order.

    Raises:
        DataError: it is missing, damaged or shorter than the index says.
    """
    webdataset = require_extra("webdataset", "packed")
    address = f"{index.source}/{shard.file}"
    seen = 0
    try:
        for sample in webdataset.WebDataset(
            [address], shardshuffle=False, nodesplitter=None, workersplitter=None, empty_check=False
        ):
            key, label = int(sample["__key__"]), int(sample["cls"])
            (suffix,) = [name for name in sample if not name.startswith("__") and name != "cls"]
            if not 0 <= label < len(index.classes):
                raise DataError(f"{address}: {key} has the label {label} of {len(index.classes)} classes")
            seen += 1
            yield key, f"{address}#{key:09d}.{suffix}", sample[suffix], label
    except DataError:
        raise
    except Exception as error:  # tar files, addresses and subprocesses fail in many ways
        raise DataError(f"{address} cannot be read after {seen} images: {str(error) or error!r}") from error
    if seen != shard.num_images:
        raise DataError(f"{address} holds {seen} images, {INDEX_FILE} says {shard.num_images}; it is damaged")


def _cut_to(batches: list[int], total: int) -> list[int]:
    """``batches`` with the largest made smaller until they sum to ``total``."""
    cut = list(batches)
    while sum(cut) > total:
        cut[cut.index(max(cut))] -= 1
    return cut


def _address(source: str | Path) -> str:
    """A folder's path, or an address, without the slash at the end."""
    text = str(source).rstrip("/")
    if "://" in text or text.startswith("pipe:"):
        if not ADDRESS.fullmatch(text):
            raise DataError(f"{text!r} is no address that may be read; choose https, http, s3, gs, ais or hf")
        return text
    if not Path(text).is_dir():
        raise DataError(f"no such folder of packed photographs: {text}")
    return text


def _read_bytes(address: str) -> bytes:
    if "://" not in address:
        return Path(address).read_bytes()
    from webdataset import gopen

    with gopen(address) as stream:
        return stream.read()
