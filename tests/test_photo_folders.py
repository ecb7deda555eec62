"""Photographs in one folder per class: reading, holding out, decoding, and refused folders."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import make_picture, shared_data, write_picture
from osnet.data.loading import decode_image, read_image, read_pixels
from osnet.data.transforms import normalize, to_tensor
from osnet.errors import DataError, ImageError
from osnet.photos.image_folder import (
    PhotoSamples,
    decode_all,
    hold_out_photos,
    read_photo_folder,
)
from osnet.photos.photo_augmentation import PhotoAugmentation
from osnet.types import Preprocessing


def test_photo_folders_are_read_with_their_classes(zoo: Path) -> None:
    train = read_photo_folder(zoo / "train")
    val = read_photo_folder(zoo / "val", train.classes)
    assert train.classes == ("cat", "dog") == val.classes
    assert [p.relative_to(zoo / "train").as_posix() for p in train.paths] == [
        "cat/1.jpg", "cat/2.JPEG", "cat/deep/3.png", "dog/a.jpg", "dog/b.jpg",
    ]  # fmt: skip
    assert train.labels == (0, 0, 0, 1, 1)
    assert val.labels == (0,)  # a class without images in val is allowed
    assert train.select([3, 0]).labels == (1, 0)


def test_folders_agree_with_torchvisions_image_folder(zoo: Path) -> None:
    from torchvision.datasets import ImageFolder

    theirs = ImageFolder(str(zoo / "train"))
    ours = read_photo_folder(zoo / "train")
    assert [(str(p), n) for p, n in zip(ours.paths, ours.labels, strict=True)] == theirs.samples
    assert list(ours.classes) == theirs.classes


def test_malformed_photo_folders_are_refused(zoo: Path, tmp_path: Path) -> None:
    write_picture(zoo / "val" / "emu" / "1.jpg")
    with pytest.raises(DataError, match="the 2 classes: emu"):
        read_photo_folder(zoo / "val", ("cat", "dog"))
    (zoo / "train" / "fox").mkdir()
    with pytest.raises(DataError, match="1 classes have no images: fox"):
        read_photo_folder(zoo / "train")
    write_picture(zoo / "train" / "stray.jpg")
    with pytest.raises(DataError, match=r"folder of a class: stray\.jpg"):
        read_photo_folder(zoo / "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no sub-folders"):
        read_photo_folder(tmp_path / "empty")
    with pytest.raises(DataError, match="no such folder"):
        read_photo_folder(tmp_path / "nowhere")


def test_imagenet_samples() -> None:
    photos = read_photo_folder(shared_data("imagenet-samples") / "val")
    assert (len(photos), len(photos.classes), photos.classes[0]) == (200, 200, "n01440764")


def test_hold_out_is_stratified_by_class() -> None:
    labels = [0] * 50 + [1] * 30 + [2] * 20
    rest, held = hold_out_photos(labels, 10, seed=1)
    assert sorted(rest + held) == list(range(100))
    assert np.bincount([labels[i] for i in held]).tolist() == [5, 3, 2]
    assert hold_out_photos(labels, 10, seed=1) == (rest, held)
    assert hold_out_photos(labels, 10, seed=2)[1] != held
    # 7 of 100: 3.5, 2.1, 1.4; the largest remainder is class 0's
    assert np.bincount([labels[i] for i in hold_out_photos(labels, 7, seed=0)[1]]).tolist() == [4, 2, 1]
    with pytest.raises(DataError, match="no image of class 0"):
        hold_out_photos([0, 1, 1, 1], 3, seed=0)
    with pytest.raises(DataError, match="choose 1 to 3"):
        hold_out_photos([0, 1, 1, 1], 4, seed=0)


def test_samples_depend_only_on_their_key(zoo: Path) -> None:
    photos = read_photo_folder(zoo / "train")
    settings = Preprocessing((16, 16))
    as_bytes = PhotoSamples(photos, PhotoAugmentation(), settings, seed=3, as_bytes=True)
    floats = PhotoSamples(photos, PhotoAugmentation(), settings, seed=3)
    first = as_bytes[1, 2, 4]
    assert torch.equal(first["image"], as_bytes[1, 2, 4]["image"])
    assert not torch.equal(first["image"], as_bytes[2, 2, 4]["image"])
    assert (first["image"].dtype, first["label"]) == (torch.uint8, 1)
    expected = normalize(first["image"][None].float() / 255, settings)[0]
    torch.testing.assert_close(floats[1, 2, 4]["image"], expected)
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
    with pytest.raises(ImageError, match=re.escape(str(path))):
        decode_all(read_photo_folder(zoo / "train"))
    with pytest.raises(ImageError, match="inside"):
        decode_image(path.read_bytes(), "inside")


@pytest.mark.parametrize("installed", [True, False])
def test_pixels_match_pillow(installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without simplejpeg: JPEGs of all kinds, grey, CMYK, rotated by EXIF, and a PNG."""
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


def test_pixels_of_real_photographs_match_pillow() -> None:
    for path in sorted(shared_data("imagenet-samples").rglob("*.JPEG"))[::5]:
        assert torch.equal(read_pixels(path), to_tensor(read_image(path)))
