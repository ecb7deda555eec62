"""Read CIFAR-10 and CIFAR-100 from their binary archives. The archives are checked by their SHA-256.

The other published archives contain pickles and are never opened. Source: Krizhevsky, "Learning Multiple Layers of
Features from Tiny Images", 2009; https://www.cs.toronto.edu/~kriz/cifar.html. A record has one label byte (in CIFAR-100
two: the coarse label, then the fine one) and 3072 bytes of pixels: 32 x 32 red values row by row, then green, then
    blue.
"""

import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from osnet.errors import DataError
from osnet.files import sha256_file
from osnet.photos.image_folder import PhotoBytes

SIDE = 32


@dataclass(frozen=True)
class Archive:
    """A published archive."""

    name: str
    file: str
    sha256: str
    folder: str
    train: tuple[str, ...]
    test: str
    class_names: str
    num_label_bytes: int
    """Number of label bytes in a record. The last one is the label."""
    num_classes: int
    records_per_file: tuple[int, int]
    """Number of records in a training file and in the test file."""


CIFAR10 = Archive(
    "cifar10",
    "cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    "cifar-10-batches-bin",
    tuple(f"data_batch_{n}.bin" for n in range(1, 6)),
    "test_batch.bin",
    "batches.meta.txt",
    1,
    10,
    (10_000, 10_000),
)
CIFAR100 = Archive(
    "cifar100",
    "cifar-100-binary.tar.gz",
    "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    "cifar-100-binary",
    ("train.bin",),
    "test.bin",
    "fine_label_names.txt",
    2,
    100,
    (50_000, 10_000),
)
ARCHIVES = (CIFAR10, CIFAR100)


def read_cifar(path: str | Path) -> dict[str, PhotoBytes]:
    """Read an archive into memory: 50,000 images in ``train`` and 10,000 in ``test``.

    Args:
        path: path of ``cifar-10-binary.tar.gz`` or ``cifar-100-binary.tar.gz``. The file may have another name.

    Raises:
        DataError: the file does not exist, or its SHA-256 is not that of one of these archives.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(
            f"no such archive: {path}"
            if not path.exists()
            else f"{path} is not a file; pass the archive as it was published"
        )
    digest = sha256_file(path)
    archive = next((a for a in ARCHIVES if a.sha256 == digest), None)
    if archive is None:
        wanted = " or ".join(f"{a.file} ({a.sha256})" for a in ARCHIVES)
        pickled = "; the -python archives contain pickles, which could run code, and are never opened"
        raise DataError(
            f"{path} has the SHA-256 {digest}; it must be {wanted}{pickled if 'python' in path.name else ''}"
        )
    return read_archive(path, archive)


def read_archive(path: Path, archive: Archive) -> dict[str, PhotoBytes]:
    """Read both splits of an archive whose SHA-256 was checked.

    Raises:
        DataError: the archive cannot be unpacked, or a file in it is missing or has a wrong length or label.
    """
    try:
        with tarfile.open(path, "r:gz") as tar:
            contents = {}
            for member in tar:  # in file order: going back would decompress the archive again
                if member.isfile() and member.name.startswith(f"{archive.folder}/"):
                    file = tar.extractfile(member)
                    assert file is not None
                    contents[member.name.removeprefix(f"{archive.folder}/")] = file.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{path} cannot be unpacked: {error}") from error
    if missing := [n for n in (*archive.train, archive.test, archive.class_names) if n not in contents]:
        raise DataError(f"{path} lacks {', '.join(missing)}")
    classes = tuple(line for line in contents[archive.class_names].decode("ascii").split("\n") if line.strip())
    if len(classes) != archive.num_classes:
        raise DataError(f"{path}: {archive.class_names} has {len(classes)} classes instead of {archive.num_classes}")
    splits = {}
    for split, names, num_records in (
        ("train", archive.train, archive.records_per_file[0]),
        ("test", (archive.test,), archive.records_per_file[1]),
    ):
        records = np.concatenate([_parse(contents[n], archive, num_records, f"{path}: {n}") for n in names])
        labels = torch.from_numpy(records[:, archive.num_label_bytes - 1].astype(np.int64))
        if int(labels.max()) >= archive.num_classes:
            raise DataError(
                f"{path}: {split} has the label {int(labels.max())}; labels must be from 0 to {archive.num_classes - 1}"
            )
        pixels = torch.from_numpy(records[:, archive.num_label_bytes :].copy()).view(-1, 3, SIDE, SIDE)
        splits[split] = PhotoBytes(f"{archive.name} {split}", pixels, labels, classes)
    return splits


def _parse(content: bytes, archive: Archive, num_records: int, name: str) -> np.ndarray:
    """Split the bytes of a file into records: (N, label bytes + 3072) uint8."""
    length = archive.num_label_bytes + 3 * SIDE * SIDE
    if len(content) != num_records * length:
        raise DataError(f"{name} has {len(content):,} bytes instead of {num_records:,} records of {length:,} bytes")
    return np.frombuffer(content, np.uint8).reshape(num_records, length)
