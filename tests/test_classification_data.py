"""Photographs with classes: folders, CIFAR's archives, packed files, windows, top-k."""

import io
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import make_picture, shared_data, write_picture
from osnet.cli import main
from osnet.data import cifar, packed
from osnet.data.cifar import CIFAR10, CIFAR100, Archive, read_cifar
from osnet.data.classification import (
    Photos,
    PhotoSamples,
    check_photos,
    decode_all,
    hold_out_photos,
    read_photo_folder,
    read_photo_splits,
)
from osnet.data.loading import decode_image, read_image, read_pixels
from osnet.data.packed import PackedPhotos, check_packed, read_packed_index, write_packed
from osnet.data.photo_augmentation import PhotoAugmentation, pad_and_cut
from osnet.data.transforms import normalize, resize_bytes, resize_fractions, resize_image, to_tensor
from osnet.errors import DataError, ImageError
from osnet.files import sha256_file
from osnet.metrics.classification import accuracy_by_class, label_ranks, top_k_accuracy
from osnet.models.card import Card, read_card
from osnet.models.osnet import OSNet
from osnet.models.weights import network_sha256, save_weights
from osnet.types import Preprocessing

# Folders


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """train: cat 3 (one nested), dog 2; val: cat 1."""
    for n, name in enumerate(("cat/1.jpg", "cat/2.JPEG", "cat/deep/3.png", "dog/a.jpg", "dog/b.jpg")):
        write_picture(tmp_path / "zoo" / "train" / name, n, (40, 30))
    write_picture(tmp_path / "zoo" / "val" / "cat" / "9.jpg", 9, (40, 30))
    (tmp_path / "zoo" / "train" / "cat" / "notes.txt").write_text("no image")
    return tmp_path / "zoo"


def test_folders(zoo: Path) -> None:
    splits = read_photo_splits(zoo)
    assert list(splits) == ["train", "val"]
    train = splits["train"]
    assert train.classes == ("cat", "dog") == splits["val"].classes
    assert [p.relative_to(zoo / "train").as_posix() for p in train.paths] == [
        "cat/1.jpg", "cat/2.JPEG", "cat/deep/3.png", "dog/a.jpg", "dog/b.jpg",
    ]  # fmt: skip
    assert train.labels == (0, 0, 0, 1, 1)
    assert splits["val"].labels == (0,)  # dog has no image in val: no error
    assert list(read_photo_splits(zoo / "train")) == ["all"]
    assert train.select([3, 0]).labels == (1, 0)


def test_folders_agree_with_torchvisions_image_folder(zoo: Path) -> None:
    from torchvision.datasets import ImageFolder

    theirs = ImageFolder(str(zoo / "train"))
    ours = read_photo_folder(zoo / "train")
    assert [(str(p), n) for p, n in zip(ours.paths, ours.labels, strict=True)] == theirs.samples
    assert list(ours.classes) == theirs.classes


def test_folders_that_cannot_be(zoo: Path, tmp_path: Path) -> None:
    write_picture(zoo / "val" / "emu" / "1.jpg")
    with pytest.raises(DataError, match="none of the 2 classes: emu"):
        read_photo_splits(zoo)
    (zoo / "train" / "fox").mkdir()
    with pytest.raises(DataError, match="1 classes have no images: fox"):
        read_photo_folder(zoo / "train")
    write_picture(zoo / "train" / "stray.jpg")
    with pytest.raises(DataError, match=r"in no class's folder: stray\.jpg"):
        read_photo_folder(zoo / "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no sub-folders"):
        read_photo_folder(tmp_path / "empty")
    with pytest.raises(DataError, match="no such folder"):
        read_photo_folder(tmp_path / "nowhere")


def test_imagenet_samples() -> None:
    photos = read_photo_splits(shared_data("imagenet-samples"))["val"]
    assert (len(photos), len(photos.classes), photos.classes[0]) == (200, 200, "n01440764")
    assert check_photos(photos.select(range(0, 200, 10))) == []


def test_hold_out() -> None:
    labels = [0] * 50 + [1] * 30 + [2] * 20
    rest, held = hold_out_photos(labels, 10, seed=1)
    assert sorted(rest + held) == list(range(100))
    assert np.bincount([labels[i] for i in held]).tolist() == [5, 3, 2]
    assert hold_out_photos(labels, 10, seed=1) == (rest, held)
    assert hold_out_photos(labels, 10, seed=2)[1] != held
    # 7 of 100: 3.5, 2.1, 1.4; the largest remainder is class 0's
    assert np.bincount([labels[i] for i in hold_out_photos(labels, 7, seed=0)[1]]).tolist() == [4, 2, 1]
    with pytest.raises(DataError, match="nothing of class 0"):
        hold_out_photos([0, 1, 1, 1], 3, seed=0)
    with pytest.raises(DataError, match="choose 1 to 3"):
        hold_out_photos([0, 1, 1, 1], 4, seed=0)


def test_samples_are_functions_of_their_key(zoo: Path) -> None:
    photos = read_photo_folder(zoo / "train")
    settings = Preprocessing((16, 16))
    as_bytes = PhotoSamples(photos, PhotoAugmentation(), settings, seed=3, as_bytes=True)
    floats = PhotoSamples(photos, PhotoAugmentation(), settings, seed=3)
    first = as_bytes[1, 2, 4, 0]
    assert torch.equal(first["image"], as_bytes[1, 2, 4, 1]["image"])
    assert not torch.equal(first["image"], as_bytes[2, 2, 4, 0]["image"])
    assert (first["image"].dtype, first["label"]) == (torch.uint8, 1)
    expected = normalize(first["image"][None].float() / 255, settings)[0]
    torch.testing.assert_close(floats[1, 2, 4, 0]["image"], expected)
    assert floats.name_of(3) == "dog/a.jpg"


def test_decode_all(zoo: Path) -> None:
    photos = read_photo_folder(zoo / "train")
    images = decode_all(photos)
    assert images.pixels.shape == (5, 3, 30, 40)
    assert torch.equal(images.pixels[3], to_tensor(read_image(photos.paths[3])))
    assert images.select([4, 0]).labels.tolist() == [1, 0]
    write_picture(zoo / "train" / "cat" / "1.jpg", 0, (41, 30))
    with pytest.raises(DataError, match="30 x 40"):
        decode_all(read_photo_folder(zoo / "train"))


def test_damaged_photographs_are_named(zoo: Path) -> None:
    path = zoo / "train" / "dog" / "a.jpg"
    path.write_bytes(path.read_bytes()[:300])
    (error,) = check_photos(read_photo_folder(zoo / "train"))
    assert str(path) in str(error)
    with pytest.raises(ImageError, match="inside"):
        decode_image(path.read_bytes(), "inside")


@pytest.mark.parametrize("installed", [True, False])
def test_pixels_are_those_of_pillow(installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With simplejpeg and without: JPEGs of all kinds, grey and CMYK ones, one turned by EXIF, a PNG."""
    if not installed:
        monkeypatch.setattr("osnet.data.loading._simplejpeg", None)
    picture = make_picture(5, (50, 37))
    turned = Image.Exif()
    turned[0x0112] = 6
    picture.save(tmp_path / "plain.jpg", quality=75)
    picture.save(tmp_path / "full.jpg", quality=95, subsampling=0, progressive=True)
    picture.save(tmp_path / "turned.jpg", exif=turned)
    picture.convert("L").save(tmp_path / "grey.jpg")
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg")
    picture.convert("P").save(tmp_path / "palette.png")
    files = sorted(tmp_path.iterdir())
    assert len(files) == 6
    odd = make_picture(6, (51, 39))
    odd.save(tmp_path / "odd.jpg", subsampling=2)
    files.append(tmp_path / "odd.jpg")
    for path in files:
        assert torch.equal(read_pixels(path), to_tensor(read_image(path))), path.name
    assert read_pixels(tmp_path / "turned.jpg").shape == (3, 50, 37)
    with pytest.raises(ImageError, match="50 x 37 is more than the 1,000"):
        read_pixels(tmp_path / "plain.jpg", max_pixels=1000)
    (tmp_path / "half.jpg").write_bytes((tmp_path / "full.jpg").read_bytes()[:700])
    (tmp_path / "text.jpg").write_text("hello")
    for name in ("half.jpg", "text.jpg", "nothing.jpg"):
        with pytest.raises(ImageError, match=name):
            read_pixels(tmp_path / name)


def test_pixels_of_real_photographs() -> None:
    for path in sorted(shared_data("imagenet-samples").rglob("*.JPEG"))[::5]:
        assert torch.equal(read_pixels(path), to_tensor(read_image(path)))


# Windows


def torchvisions(image: Image.Image, resize: object, crop: int) -> torch.Tensor:
    from torchvision import transforms

    return to_tensor(transforms.Compose([transforms.Resize(resize), transforms.CenterCrop(crop)])(image))


@pytest.mark.parametrize("size_wh", [(500, 375), (375, 500), (256, 256), (301, 300), (640, 171), (97, 211)])
def test_centre_crop_is_torchvisions(size_wh: tuple[int, int]) -> None:
    image = make_picture(1, size_wh)
    kept = Preprocessing((224, 224), crop_from=(256, 256), keep_aspect=True)
    assert torch.equal(resize_image(image, kept), torchvisions(image, 256, 224))
    squashed = Preprocessing((224, 224), crop_from=(256, 256))
    assert torch.equal(resize_image(image, squashed), torchvisions(image, (256, 256), 224))
    covering = Preprocessing((64, 64), keep_aspect=True)
    assert torch.equal(resize_image(image, covering), torchvisions(image, 64, 64))
    fractions = resize_fractions(to_tensor(image).float() / 255, kept)
    assert fractions.shape == (3, 224, 224)
    assert (fractions * 255 - resize_image(image, kept)).abs().max() < 1.5


def test_preprocessing_with_a_crop_travels_in_the_card(tiny_network: OSNet, tmp_path: Path) -> None:
    settings = Preprocessing((224, 224), crop_from=(256, 256), keep_aspect=True)
    save_weights(tiny_network, tmp_path / "w", Card(tiny_network.config, preprocessing=settings))
    assert read_card(tmp_path / "w")[0].preprocessing == settings
    digests = {network_sha256(tiny_network, p) for p in (settings, Preprocessing((224, 224)))}
    assert len(digests) == 2
    with pytest.raises(ValueError, match="crop_from"):
        Preprocessing((224, 224), crop_from=(200, 256))


def test_cut_windows_are_those_of_the_256_picture() -> None:
    """The supplement's: every window lies in the 256 x 256 picture, all places and both sides come up."""
    image = make_picture(2, (300, 200))
    settings = Preprocessing((2, 2), crop_from=(4, 3))
    small = resize_bytes(to_tensor(image), (4, 3))
    places = {}
    for top in range(3):
        for left in range(2):
            window = small[:, top : top + 2, left : left + 2]
            places[window.numpy().tobytes()] = (top, left, False)
            places[window.flip(2).numpy().tobytes()] = (top, left, True)
    rng = np.random.default_rng(0)
    seen = [places[PhotoAugmentation("cut").draw(image, settings, rng).numpy().tobytes()] for _ in range(400)]
    assert len(set(seen)) == 12
    counts = [seen.count(place) for place in set(seen)]
    assert 15 < min(counts) <= max(counts) < 60  # 33 each on average


def test_padded_windows_by_hand() -> None:
    """1 pixel of frame around 2 x 2: nine windows, black where they reach over."""
    pixels = np.array([[[10] * 3, [20] * 3], [[30] * 3, [40] * 3]], np.uint8)
    image = Image.fromarray(pixels)
    framed = np.pad(pixels[..., 0], 1)
    expected = {framed[t : t + 2, k : k + 2].tobytes() for t in range(3) for k in range(3)}
    rng = np.random.default_rng(0)
    augmentation = PhotoAugmentation("padded", flip=0, pad=1)
    seen = {augmentation.draw(image, Preprocessing((2, 2)), rng)[0].numpy().tobytes() for _ in range(200)}
    assert seen == expected


def test_pad_and_cut_is_the_loop_over_images() -> None:
    images = torch.randint(0, 256, (9, 3, 5, 7), dtype=torch.uint8)
    out = pad_and_cut(images, 2, 0.5, np.random.default_rng(4))
    rng = np.random.default_rng(4)
    tops, lefts = rng.integers(0, 5, (2, 9))
    mirrored = rng.random(9) < 0.5
    assert mirrored.any()
    assert not mirrored.all()
    for i in range(9):
        framed = torch.nn.functional.pad(images[i], (2, 2, 2, 2))
        window = framed[:, tops[i] : tops[i] + 5, lefts[i] : lefts[i] + 7]
        assert torch.equal(out[i], window.flip(2) if mirrored[i] else window)


def test_random_resized_boxes_have_torchvisions_distribution() -> None:
    """Means and spreads of 4,000 boxes of each within four standard errors, for a wide and a very wide picture."""
    from torchvision.transforms import RandomResizedCrop

    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    for size_wh in ((400, 300), (600, 100)):
        image = Image.new("RGB", size_wh)
        ours = np.array([PhotoAugmentation().draw_box(size_wh, rng) for _ in range(4000)], float)
        drawn = [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)]
        theirs = np.array([(left, top, left + w, top + h) for top, left, h, w in drawn], float)
        for values in (lambda b: b[:, 0], lambda b: b[:, 2] - b[:, 0], lambda b: b[:, 3] - b[:, 1]):
            a, b = values(ours), values(theirs)
            assert abs(a.mean() - b.mean()) < 4 * (a.var() / 4000 + b.var() / 4000) ** 0.5
            assert abs(a.std() - b.std()) < 0.06 * b.std()
        assert (ours[:, :2] >= 0).all()
        assert (ours[:, 2] <= size_wh[0]).all()
        assert (ours[:, 3] <= size_wh[1]).all()


def test_resized_windows_are_the_boxes_pixels() -> None:
    image = make_picture(3, (90, 60))
    augmentation = PhotoAugmentation(flip=0)
    pixels = augmentation.draw(image, Preprocessing((32, 32)), np.random.default_rng(5))
    box = augmentation.draw_box(image.size, np.random.default_rng(5))
    expected = to_tensor(image.crop(box).resize((32, 32), Image.Resampling.BILINEAR))
    assert (pixels.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize(
    "settings", [{"window": "centre"}, {"flip": 2}, {"area": (0.5, 0.1)}, {"aspect": (0, 1)}, {"pad": -1}]
)
def test_augmentations_that_cannot_be(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        PhotoAugmentation(**settings)


# CIFAR


def write_archive(path: Path, archive: Archive, change: dict[str, bytes | None] | None = None) -> dict[str, np.ndarray]:
    """An archive in the published form with 5 records in each training file and 3 in the test file."""
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
    """The same archive with the few records and the hash of ``path``."""
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
            # by the description: the red of row 2, column 7, then green and blue
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
    with pytest.raises(DataError, match="give the archive"):
        read_cifar(tmp_path)
    for change, words in (
        ({"data_batch_3.bin": None}, "lacks data_batch_3.bin"),
        ({"test_batch.bin": b"\0" * 3073}, "not 3 records of 3,073"),
        ({"data_batch_1.bin": (b"\x0b" + b"\0" * 3072) * 5}, "label 11"),
        ({"batches.meta.txt": b"a\nb\n"}, "names 2 classes"),
    ):
        write_archive(path, CIFAR10, change)
        monkeypatch.setattr(cifar, "ARCHIVES", (small(path, CIFAR10),))
        with pytest.raises(DataError, match=words):
            read_cifar(path)


def test_cifar_as_jpegs(tmp_path: Path) -> None:
    """The head of the JPEG copy: 32 x 32 photographs in class folders."""
    with tarfile.open(shared_data("cifar10-jpeg.tar.xz")) as tar:
        for member in tar:
            if member.isfile():
                tar.extract(member, tmp_path, filter="data")
            if member.name.endswith("/0040.jpg"):
                break
    images = decode_all(read_photo_folder(tmp_path / "train"))
    assert images.pixels.shape == (41, 3, 32, 32)
    assert images.classes == ("airplane",)


# Packed


@pytest.fixture
def many(tmp_path: Path) -> Photos:
    """47 photographs of 3 classes; each picture is one colour, its red value its number."""
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


def test_packed_and_read_again(many: Photos, tmp_path: Path) -> None:
    index = write_packed(many, tmp_path / "packed", images_per_shard=10)
    assert [shard.num_images for shard in index.shards] == [10, 10, 10, 10, 7]
    assert read_packed_index(tmp_path / "packed") == index
    assert len(index) == 47
    check_packed(tmp_path / "packed")
    seen = epoch(index, batch_size=1)
    assert sorted(number for number, _ in seen) == list(range(47))
    assert all(label == number % 3 for number, label in seen)
    assert seen == epoch(index, batch_size=1)
    assert seen != epoch(index, batch_size=1, epoch=1)
    assert seen != epoch(index, batch_size=1, buffer=1)  # the buffer does shuffle


def test_pack_on_the_command_line(zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "pack", str(zoo / "val"), "--out", str(tmp_path / "p"), "--classes-of", str(zoo / "train")])
    assert "1 photographs of 2 classes in 1 shards" in capsys.readouterr().out
    assert read_packed_index(tmp_path / "p").classes == ("cat", "dog")


def test_packing_is_deterministic_and_keeps_the_bytes(many: Photos, tmp_path: Path) -> None:
    first = write_packed(many, tmp_path / "a", images_per_shard=20)
    assert [s.sha256 for s in write_packed(many, tmp_path / "b", images_per_shard=20).shards] == [
        s.sha256 for s in first.shards
    ]
    with tarfile.open(tmp_path / "a" / "shard-000000.tar") as tar:  # a plain tar file, as WebDataset has it
        names = tar.getnames()
        assert names[:4] == ["000000000.cls", "000000000.png", "000000001.cls", "000000001.png"]
        content = tar.extractfile("000000000.png").read()  # type: ignore[union-attr]
    assert content in {path.read_bytes() for path in many.paths}
    with pytest.raises(DataError, match="already"):
        write_packed(many, tmp_path / "a")


@pytest.mark.parametrize(("num_ranks", "num_workers"), [(1, 2), (2, 1), (2, 2), (3, 0)])
def test_no_image_is_seen_twice_and_ranks_have_equally_many(
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


def test_a_packed_samples_augmentation_does_not_depend_on_the_reader(many: Photos, tmp_path: Path) -> None:
    """Mirrored or not, a sample looks the same with one worker or two."""
    for path in many.paths:
        make_picture(int(path.stem), (8, 8)).save(path)
    index = write_packed(many, tmp_path / "packed", images_per_shard=10)
    looks = []
    for num_workers in (0, 2):
        data = PackedPhotos(index, 1, PhotoAugmentation(), TINY, seed=1, num_workers=num_workers, as_bytes=True)
        looks.append({batch["image"].numpy().tobytes() for batch in data.loader()})
    assert looks[0] == looks[1]
    assert len(looks[0]) == 47


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_args: object) -> None: ...


def test_from_an_address(many: Photos, tmp_path: Path) -> None:
    write_packed(many, tmp_path / "packed", images_per_shard=20)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        index = read_packed_index(f"http://127.0.0.1:{server.server_port}/packed/")
        seen = epoch(index, batch_size=1)
        server.shutdown()
    assert sorted(number for number, _ in seen) == list(range(47))
    assert seen == epoch(read_packed_index(tmp_path / "packed"), batch_size=1)


def test_damage_is_named(many: Photos, tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    index = write_packed(many, folder, images_per_shard=20)
    shard = folder / "shard-000001.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"shard-000001.tar"):
        epoch(index, batch_size=1)
    with pytest.raises(DataError, match=r"shard-000001.tar is damaged"):
        check_packed(folder)
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
            "no plain name",
        ),
        (
            '{"format": "osnet-packed-1", "name": "x", "classes": ["a"], '
            '"shards": [{"file": "pipe:touch x", "num_images": 1, "sha256": ""}]}',
            "no plain name",
        ),
    ],
)
def test_indexes_that_cannot_be_trusted(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "packed.json").write_text(text)
    with pytest.raises(DataError, match=words):
        read_packed_index(tmp_path)


def test_addresses_that_run_commands_are_refused(tmp_path: Path, many: Photos) -> None:
    for source in ("pipe:touch /tmp/x", "pipe://x", "file:///etc", "ftp://x"):
        with pytest.raises(DataError, match="no address"):
            read_packed_index(source)
    with pytest.raises(DataError, match="no such folder"):
        read_packed_index(tmp_path / "nothing")
    index = write_packed(many, tmp_path / "p", images_per_shard=40)
    with pytest.raises(DataError, match="2 shards, fewer than 1 processes x 3 workers"):
        PackedPhotos(index, 1, PLAIN, TINY, 1, num_workers=3)
    with pytest.raises(DataError, match="full batch of 64"):
        PackedPhotos(index, 64, PLAIN, TINY, 1)
    with pytest.raises(DataError, match="made for 0 workers"):
        list(torch.utils.data.DataLoader(PackedPhotos(index, 1, PLAIN, TINY, 1), num_workers=1))


def test_packing_stops_before_it_writes(many: Photos, tmp_path: Path) -> None:
    many.paths[5].write_bytes(b"no image")
    with pytest.raises(ImageError, match=many.paths[5].name):
        write_packed(many, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


# Top-k


def test_top_k_is_the_slow_loop() -> None:
    """Sorted by hand, image by image, with ties."""
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (300, 9)) / 5
    labels = rng.integers(0, 9, 300)
    for k, value in top_k_accuracy(scores, labels, ks=(1, 3, 5, 9)).items():
        right = 0
        for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
            best = sorted(range(9), key=lambda c: (-row[c], c))[:k]
            right += label in best
        assert value == right / 300
    by_class = accuracy_by_class(scores, labels)
    for c in range(9):
        hits = [int(np.argmax(scores[i])) == c for i in range(300) if labels[i] == c]
        assert by_class[c] == sum(hits) / len(hits)


def test_top_k_by_hand() -> None:
    scores = [[0.1, 0.7, 0.2], [0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]
    assert label_ranks(scores, [2, 0, 1]).tolist() == [2, 1, 2]
    assert top_k_accuracy(scores, [2, 0, 1], ks=(1, 2)) == {1: 1 / 3, 2: 1.0}
    assert np.isnan(accuracy_by_class(scores, [2, 0, 1])).tolist() == [False, False, False]
    assert np.isnan(accuracy_by_class([[1.0, 0.0]], [0])).tolist() == [False, True]
    assert top_k_accuracy(torch.tensor(scores), torch.tensor([1, 0, 0]), ks=(1,)) == {1: 1.0}


@pytest.mark.parametrize(
    ("scores", "labels", "words"),
    [
        ([[0.1, 0.2]], [2], "labels from 2 to 2 for 2"),
        ([[0.1, 0.2]], [-1], "labels from -1"),
        ([[0.1, float("nan")]], [0], "no number"),
        ([[0.1, 0.2]], [0, 1], "must be"),
        ([[0.1, 0.2]], [0.5], "whole numbers"),
        ([[0.1, 0.2]], [0], "top 5 of 2"),
        (np.empty((0, 5)), np.empty(0, int), "no images"),
    ],
)
def test_top_k_refuses(scores, labels, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        top_k_accuracy(scores, labels)
