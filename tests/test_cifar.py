"""Reading CIFAR: the binary archives, checked before they are used, and a JPEG copy."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from conftest import shared_data
from osnet.errors import DataError
from osnet.files import sha256_file
from osnet.photos import cifar_archives as cifar
from osnet.photos.cifar_archives import CIFAR10, CIFAR100, Archive, read_cifar
from osnet.photos.image_folder import decode_all, read_photo_folder


def write_archive(path: Path, archive: Archive, change: dict[str, bytes | None] | None = None) -> dict[str, np.ndarray]:
    """Write an archive in the published format with 5 records per training file and 3 in the test file."""
    rng = np.random.default_rng(0)
    records: dict[str, np.ndarray] = {}
    contents: dict[str, bytes] = {
        archive.class_names: "".join(f"class{n}\n" for n in range(archive.num_classes)).encode() + b"\n"
    }
    for name in (*archive.train, archive.test):
        num = 3 if name == archive.test else 5
        labels = rng.integers(0, archive.num_classes, (num, archive.num_label_bytes), dtype=np.uint8)
        records[name] = np.hstack([labels, rng.integers(0, 256, (num, 3072), dtype=np.uint8)])
        contents[name] = records[name].tobytes()
    contents |= {"readme.html": b"<html>"}
    for name, content in (change or {}).items():
        contents.pop(name)
        if content is not None:
            contents[name] = content
    with tarfile.open(path, "w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"{archive.folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return records


def small(path: Path, archive: Archive) -> Archive:
    """The archive's description, changed to the few records and the hash of ``path``."""
    settings = archive.__dict__ | {"records_per_file": (5, 3), "sha256": sha256_file(path)}
    return Archive(**settings)


@pytest.mark.parametrize("archive", [CIFAR10, CIFAR100], ids=lambda a: a.name)
def test_cifar_archives(archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = write_archive(tmp_path / "a.tar.gz", archive)
    monkeypatch.setattr(cifar, "ARCHIVES", (small(tmp_path / "a.tar.gz", archive),))
    splits = read_cifar(tmp_path / "a.tar.gz")
    assert {name: len(images) for name, images in splits.items()} == {"train": 5 * len(archive.train), "test": 3}
    label_at = archive.num_label_bytes - 1  # CIFAR-100: the fine label is the second byte
    for images, names in ((splits["train"], archive.train), (splits["test"], (archive.test,))):
        assert images.classes[:2] == ("class0", "class1")
        for place, record in enumerate(np.concatenate([records[n] for n in names])):
            assert int(images.labels[place]) == record[label_at]
            # row 2, column 7, in the published order: red, then green, then blue
            for channel in range(3):
                at = archive.num_label_bytes + channel * 1024 + 2 * 32 + 7
                assert int(images.pixels[place, channel, 2, 7]) == record[at]


def test_cifar_archives_are_checked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cifar-10-python.tar.gz"
    write_archive(path, CIFAR10)
    with pytest.raises(DataError, match=r"never opened"):
        read_cifar(path)
    with pytest.raises(DataError, match="no such archive"):
        read_cifar(tmp_path / "nothing.tar.gz")
    with pytest.raises(DataError, match="is not a file"):
        read_cifar(tmp_path)
    for change, words in (
        ({"data_batch_3.bin": None}, "lacks data_batch_3.bin"),
        ({"test_batch.bin": b"\0" * 3073}, "3 records of 3,073"),
        ({"data_batch_1.bin": (b"\x0b" + b"\0" * 3072) * 5}, "label 11"),
        ({"batches.meta.txt": b"a\nb\n"}, "2 classes instead of 10"),
    ):
        write_archive(path, CIFAR10, change)
        monkeypatch.setattr(cifar, "ARCHIVES", (small(path, CIFAR10),))
        with pytest.raises(DataError, match=words):
            read_cifar(path)


def test_cifar_as_jpegs(tmp_path: Path) -> None:
    """The first images of the JPEG copy: 32 x 32 photographs in class folders."""
    with tarfile.open(shared_data("cifar10-jpeg.tar.xz")) as tar:
        for member in tar:
            if member.isfile():
                tar.extract(member, tmp_path, filter="data")
            if member.name.endswith("/0040.jpg"):
                break
    images = decode_all(read_photo_folder(tmp_path / "train"))
    assert images.pixels.shape == (41, 3, 32, 32)
    assert images.classes == ("airplane",)
