"""CIFAR-10 and CIFAR-100 from their binary archives, checked by hash. The pickled ones are never opened.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; https://www.cs.toronto.edu/~kriz/cifar.html.
A record is one label byte (CIFAR-100: the coarse label, then the fine one) and 3072 bytes: 32 x 32 of red, of green,
of blue, row by row.
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
    """One of the two archives, as published."""

    name: str
    file: str
    sha256: str
    folder: str
    train: tuple[str, ...]
    test: str
    class_names: str
    num_label_bytes: int
    """The last of them is the label."""
    num_classes: int
    records_per_file: tuple[int, int]
    """Of a training file, of the test file."""


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
    """``train`` (50,000) and ``test`` (10,000) of the archive at ``path``; nothing is unpacked onto the disk.

    Args:
        path: ``cifar-10-binary.tar.gz`` or ``cifar-100-binary.tar.gz``, under whatever name.

    Raises:
        DataError: no such file, or not one of these two, by its SHA-256.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(
            f"no such archive: {path}"
            if not path.exists()
            else f"{path} is no file; give the archive as it was published"
        )
    digest = sha256_file(path)
    archive = next((a for a in ARCHIVES if a.sha256 == digest), None)
    if archive is None:
        wanted = " or ".join(f"{a.file} ({a.sha256})" for a in ARCHIVES)
        pickled = "; the -python archives hold pickles, which could run code, and are never opened"
        raise DataError(
            f"{path} has the SHA-256 {digest}; it must be {wanted}{pickled if 'python' in path.name else ''}"
        )
    return read_archive(path, archive)


def read_archive(path: Path, archive: Archive) -> dict[str, PhotoBytes]:
    """Both splits of an archive whose hash was checked.

    Raises:
        DataError: a file is missing in it or has another length.
    """
    try:
        with tarfile.open(path, "r:gz") as tar:
            contents = {}
            for member in tar:  # in the order of the file: going back would mean unpacking it again
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
        raise DataError(f"{path}: {archive.class_names} names {len(classes)} classes, not {archive.num_classes}")
    splits = {}
    for split, names, num_records in (
        ("train", archive.train, archive.records_per_file[0]),
        ("test", (archive.test,), archive.records_per_file[1]),
    ):
        records = np.concatenate([_parse(contents[n], archive, num_records, f"{path}: {n}") for n in names])
        labels = torch.from_numpy(records[:, archive.num_label_bytes - 1].astype(np.int64))
        if int(labels.max()) >= archive.num_classes:
            raise DataError(f"{path}: {split} holds the label {int(labels.max())} of {archive.num_classes} classes")
        pixels = torch.from_numpy(records[:, archive.num_label_bytes :].copy()).view(-1, 3, SIDE, SIDE)
        splits[split] = PhotoBytes(f"{archive.name} {split}", pixels, labels, classes)
    return splits


def _parse(content: bytes, archive: Archive, num_records: int, name: str) -> np.ndarray:
    """(records, label bytes + 3072) uint8."""
    length = archive.num_label_bytes + 3 * SIDE * SIDE
    if len(content) != num_records * length:
        raise DataError(f"{name} has {len(content):,} bytes, not {num_records:,} records of {length:,}")
    return np.frombuffer(content, np.uint8).reshape(num_records, length)
