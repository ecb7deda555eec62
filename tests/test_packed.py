"""Photographs packed in tar files: each image is read once; damaged files and unsafe addresses are refused."""

import re
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from PIL import Image

from conftest import make_picture
from osnet.cli import main
from osnet.errors import DataError, ImageError
from osnet.photos import shards as packed
from osnet.photos.image_folder import Photos, read_photo_folder
from osnet.photos.photo_augmentation import PhotoAugmentation
from osnet.photos.shards import PackedPhotos, read_packed_index, write_packed
from osnet.types import Preprocessing


@pytest.fixture
def many(tmp_path: Path) -> Photos:
    """47 images of 3 classes; each image has one colour, whose red value is the image's number."""
    for n in range(47):
        path = tmp_path / "many" / f"class{n % 3}" / f"{n:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (n, 0, 0)).save(path)
    return read_photo_folder(tmp_path / "many")


PLAIN = PhotoAugmentation("none", flip=0)

TINY = Preprocessing((8, 8))


def epoch(index: packed.PackedIndex, **settings: object) -> list[tuple[int, int]]:
    """(number, label) of every sample of an epoch, through a DataLoader."""
    data = PackedPhotos(index, settings.pop("batch_size", 4), PLAIN, TINY, seed=1, as_bytes=True, **settings)  # type: ignore[arg-type]
    loader = data.loader()
    batches = list(loader)
    assert len(batches) == sum(data.num_batches)
    return [(int(i[0, 0, 0]), int(k)) for b in batches for i, k in zip(b["image"], b["label"], strict=True)]


def test_packed_images_are_read_once_in_a_reproducible_order(many: Photos, tmp_path: Path) -> None:
    index = write_packed(many, tmp_path / "packed", images_per_shard=10)
    assert [shard.num_images for shard in index.shards] == [10, 10, 10, 10, 7]
    assert read_packed_index(tmp_path / "packed") == index
    assert len(index) == 47
    seen = epoch(index, batch_size=1)
    assert sorted(number for number, _ in seen) == list(range(47))
    assert all(label == number % 3 for number, label in seen)
    assert seen == epoch(index, batch_size=1)
    assert seen != epoch(index, batch_size=1, epoch=1)
    assert seen != epoch(index, batch_size=1, buffer=1)  # the buffer shuffles


def test_pack_command(zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "pack", str(zoo / "val"), "--out", str(tmp_path / "p"), "--classes-of", str(zoo / "train")])
    assert "1 images of 2 classes in 1 shards" in capsys.readouterr().out
    assert read_packed_index(tmp_path / "p").classes == ("cat", "dog")
    with pytest.raises(SystemExit) as stopped:
        main(["data", "pack", str(zoo / "train"), "--out", str(tmp_path / "q"), "--seed", "-1"])
    assert stopped.value.code == 2
    assert "seed -1" in capsys.readouterr().err


def test_packing_is_deterministic_and_keeps_the_bytes(many: Photos, tmp_path: Path) -> None:
    first = write_packed(many, tmp_path / "a", images_per_shard=20)
    assert [s.sha256 for s in write_packed(many, tmp_path / "b", images_per_shard=20).shards] == [
        s.sha256 for s in first.shards
    ]
    with tarfile.open(tmp_path / "a" / "shard-000000.tar") as tar:  # a plain tar file in WebDataset's layout
        names = tar.getnames()
        assert names[:4] == ["000000000.cls", "000000000.png", "000000001.cls", "000000001.png"]
        content = tar.extractfile("000000000.png").read()  # type: ignore[union-attr]
    assert content in {path.read_bytes() for path in many.paths}
    with pytest.raises(DataError, match="already"):
        write_packed(many, tmp_path / "a")


@pytest.mark.parametrize(("num_ranks", "num_workers"), [(1, 2), (2, 1), (2, 2), (3, 0)])
def test_ranks_read_equally_many_images_without_duplicates(
    many: Photos, tmp_path: Path, num_ranks: int, num_workers: int
) -> None:
    index = write_packed(many, tmp_path / "packed", images_per_shard=5)
    parts = [
        epoch(index, batch_size=2, rank=rank, num_ranks=num_ranks, num_workers=num_workers) for rank in range(num_ranks)
    ]
    assert len({len(part) for part in parts}) == 1
    numbers = [number for part in parts for number, _ in part]
    assert len(set(numbers)) == len(numbers)
    assert len(numbers) > 47 - 10 - 2 * num_ranks * max(1, num_workers)


def test_augmentation_does_not_depend_on_the_number_of_workers(many: Photos, tmp_path: Path) -> None:
    """Augmented samples are equal with no worker and with two."""
    for path in many.paths:
        make_picture(int(path.stem), (8, 8)).save(path)
    index = write_packed(many, tmp_path / "packed", images_per_shard=10)
    samples = []
    for num_workers in (0, 2):
        data = PackedPhotos(index, 1, PhotoAugmentation(), TINY, seed=1, num_workers=num_workers, as_bytes=True)
        samples.append({batch["image"].numpy().tobytes() for batch in data.loader()})
    assert samples[0] == samples[1]
    assert len(samples[0]) == 47


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_args: object) -> None: ...


def test_packed_files_are_read_over_http(many: Photos, tmp_path: Path) -> None:
    write_packed(many, tmp_path / "packed", images_per_shard=20)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        index = read_packed_index(f"http://127.0.0.1:{server.server_port}/packed/")
        seen = epoch(index, batch_size=1)
        server.shutdown()
    assert sorted(number for number, _ in seen) == list(range(47))
    assert seen == epoch(read_packed_index(tmp_path / "packed"), batch_size=1)


def test_damaged_and_missing_files_are_named(many: Photos, tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    index = write_packed(many, folder, images_per_shard=20)
    shard = folder / "shard-000001.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"shard-000001.tar"):
        epoch(index, batch_size=1)
    with tarfile.open(shard, "w") as tar:
        tar.add(many.paths[0], "000000000.png")
    with pytest.raises(DataError, match=r"shard-000001.tar cannot be read after 0"):
        epoch(index, batch_size=1)
    shard.unlink()
    with pytest.raises(DataError, match=r"shard-000001.tar"):
        epoch(index, batch_size=1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"format": "other"}', "'other'"),
        ('{"format": "osnet-packed-1", "name": "x", "classes": ["a"], "shards": []}', "no shards"),
        (
            '{"format": "osnet-packed-1", "name": "x", "classes": ["a"], '
            '"shards": [{"file": "../../x.tar", "num_images": 1, "sha256": ""}]}',
            "plain file name",
        ),
        (
            '{"format": "osnet-packed-1", "name": "x", "classes": ["a"], '
            '"shards": [{"file": "pipe:touch x", "num_images": 1, "sha256": ""}]}',
            "plain file name",
        ),
    ],
)
def test_malformed_indexes_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "packed.json").write_text(text)
    with pytest.raises(DataError, match=words):
        read_packed_index(tmp_path)


def test_unsafe_addresses_and_settings_are_refused(tmp_path: Path, many: Photos) -> None:
    for source in ("pipe:touch /tmp/x", "pipe://x", "file:///etc", "ftp://x"):
        with pytest.raises(DataError, match=re.escape(source)):
            read_packed_index(source)
    with pytest.raises(DataError, match="no such folder"):
        read_packed_index(tmp_path / "nothing")
    index = write_packed(many, tmp_path / "p", images_per_shard=40)
    with pytest.raises(DataError, match="2 shards, fewer than 1 processes x 3 workers"):
        PackedPhotos(index, 1, PLAIN, TINY, 1, num_workers=3)
    with pytest.raises(DataError, match="full batch of 64"):
        PackedPhotos(index, 64, PLAIN, TINY, 1)
    with pytest.raises(DataError, match="num_workers=0"):
        list(torch.utils.data.DataLoader(PackedPhotos(index, 1, PLAIN, TINY, 1), num_workers=1))


def test_a_bad_image_is_named_before_packing_writes(many: Photos, tmp_path: Path) -> None:
    many.paths[5].write_bytes(b"not an image")
    with pytest.raises(ImageError, match=many.paths[5].name):
        write_packed(many, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


@pytest.mark.parametrize("name", ["a#b", "a?b", "a%23b", "a b", "run:1", "a::b"])
def test_packed_images_may_lie_in_any_folder(
    name: str, many: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path is no URL, in which # and ? end the path and a colon ends the scheme."""
    monkeypatch.chdir(tmp_path)
    for folder in (Path(name), tmp_path / name):
        if not folder.exists():
            write_packed(many, folder)
        index = read_packed_index(folder)
        assert len(list(packed.read_shard(index, index.shards[0]))) == 47
