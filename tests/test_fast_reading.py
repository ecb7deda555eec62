"""The fast reader (simplejpeg and our resize) gives Pillow's pixels bit for bit, and Pillow's errors."""

from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import make_picture, shared_data
from osnet.data import faster_resize, loading
from osnet.data.loading import read_image, read_pixels
from osnet.data.transforms import resize_fractions, resize_image, resize_pixels
from osnet.errors import ImageError
from osnet.types import Preprocessing


def noisy(seed: int, size_wh: tuple[int, int]) -> Image.Image:
    """An image with pixel noise, which shows any difference between decoders and filters."""
    rng = np.random.RandomState(seed)
    grain = rng.randint(-40, 41, (size_wh[1], size_wh[0], 3))
    return Image.fromarray(np.clip(np.asarray(make_picture(seed, size_wh), np.int16) + grain, 0, 255).astype(np.uint8))


def as_tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("size_wh", [(64, 128), (37, 91), (201, 499), (1, 1)])
def test_jpeg_pixels_are_pillows(size_wh: tuple[int, int], subsampling: int, tmp_path: Path) -> None:
    pytest.importorskip("simplejpeg")
    for n, settings in enumerate(({"quality": 50}, {"quality": 95}, {"quality": 80, "progressive": True})):
        path = tmp_path / f"{n}.jpg"
        noisy(n, size_wh).save(path, subsampling=subsampling, **settings)
        assert loading._decode_jpeg(path.read_bytes(), 10**6) is not None, "the fast decoder must be used"
        np.testing.assert_array_equal(read_pixels(path), as_tensor(read_image(path)))


def test_files_that_are_left_to_pillow(tmp_path: Path) -> None:
    """Rotated by EXIF, CMYK, grey, truncated, another format, too many pixels, missing."""
    pytest.importorskip("simplejpeg")
    picture = noisy(1, (60, 90))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert read_pixels(tmp_path / "turned.jpg").shape == (3, 60, 90)
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    picture.save(tmp_path / "xmp.jpg", xmp=xmp, quality=95)
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg")
    picture.convert("L").save(tmp_path / "grey.jpg")
    picture.save(tmp_path / "really.png")
    (tmp_path / "really.png").rename(tmp_path / "png.jpg")
    for name in ("turned", "xmp", "cmyk", "grey", "png"):
        path = tmp_path / f"{name}.jpg"
        np.testing.assert_array_equal(read_pixels(path), as_tensor(read_image(path)), err_msg=name)
    content = (tmp_path / "grey.jpg").read_bytes()
    (tmp_path / "truncated.jpg").write_bytes(content[:-300])
    (tmp_path / "head.jpg").write_bytes(content[:40])
    (tmp_path / "empty.jpg").write_bytes(b"")
    for name in ("truncated", "head", "empty", "missing"):
        path = tmp_path / f"{name}.jpg"
        with pytest.raises(ImageError) as pillows:
            read_image(path)
        with pytest.raises(ImageError) as ours:
            read_pixels(path)
        assert str(ours.value) == str(pillows.value)
    assert read_pixels(tmp_path / "grey.jpg", max_pixels=5400).shape == (3, 90, 60)
    with pytest.raises(ImageError, match="60 x 90 is more than the 5,399"):
        read_pixels(tmp_path / "grey.jpg", max_pixels=5399)


def test_reading_without_simplejpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noisy(1, (30, 40)).save(tmp_path / "a.jpg")
    monkeypatch.setattr(loading, "_simplejpeg", None)
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.jpg"), as_tensor(read_image(tmp_path / "a.jpg")))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize(
    "size_hw", [(128, 64), (256, 128), (77, 33), (255, 127), (1, 1), (500, 200), (256, 129), (300, 20), (20, 300)]
)
def test_resized_pixels_are_pillows(size_hw: tuple[int, int], interpolation: str) -> None:
    """Enlarged and reduced along both, one or no axis; no pixel differs by even one level."""
    preprocessing = Preprocessing(interpolation=interpolation)  # type: ignore[arg-type]
    picture = noisy(3, size_hw[::-1])
    expected = resize_image(picture, preprocessing)
    found = resize_pixels(as_tensor(picture), preprocessing)
    assert found.shape == (3, 256, 128)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size_hw", [(256, 128), (77, 33), (500, 200), (300, 20)])
def test_nearest_takes_the_same_pixels_of_fractions(size_hw: tuple[int, int]) -> None:
    """As Pillow: those at the centres. PyTorch's mode of that name takes other ones."""
    preprocessing = Preprocessing(interpolation="nearest")
    pixels = as_tensor(noisy(3, size_hw[::-1]))
    found = resize_fractions(pixels.float() / 255, preprocessing)
    np.testing.assert_array_equal((255 * found).round().to(torch.uint8), resize_pixels(pixels, preprocessing))


@pytest.mark.parametrize("target_hw", [(256, 128), (32, 512), (1, 2), (288, 144), (224, 224), (92, 101), (384, 128)])
def test_resized_pixels_are_pillows_for_random_input_sizes(target_hw: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        height, width = (int(rng.integers(1, side + 1)) for side in target_hw)
        picture = noisy(int(rng.integers(9)), (width, height))
        found = resize_pixels(as_tensor(picture), Preprocessing(size_hw=target_hw))
        np.testing.assert_array_equal(found, resize_image(picture, Preprocessing(size_hw=target_hw)))


def by_passes(image: np.ndarray, size_hw: tuple[int, int], axes: tuple[int, int]) -> np.ndarray:
    """Pillow's resize by its documented steps, one axis after the other, slowly."""
    for axis in axes:
        size, wanted = image.shape[axis], size_hw[axis]
        scale, lines = size / wanted, []
        for place in range(wanted):
            centre, reach = (place + 0.5) * scale, max(scale, 1.0)
            span = range(max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), size))
            near = [max(1 - abs((i - centre + 0.5) / reach), 0.0) for i in span]
            weights = [int(0.5 + w / sum(near) * 2**22) for w in near]
            total = sum(w * image.take(i, axis).astype(int) for w, i in zip(weights, span, strict=True))
            lines.append(np.clip((total + 2**21) >> 22, 0, 255))
        image = np.stack(lines, axis).astype(np.uint8)
    return image


@pytest.mark.parametrize("size_hw", [(256, 128), (64, 32), (33, 70), (1, 2), (300, 7)])
def test_the_compiled_resize_is_pillows(size_hw: tuple[int, int]) -> None:
    assert faster_resize.load()
    resize = faster_resize.get()
    assert resize is not None
    rng = np.random.default_rng(0)
    for number in range(60):
        given_hw = rng.integers(1, (1, 40, 150, 600)[number % 4] + 1, 2)
        given_hw[number % 2] = size_hw[number % 2] if number % 7 == 0 else given_hw[number % 2]
        image = rng.integers(0, 256, (*given_hw, 3), dtype=np.uint8)
        if number % 3 == 0:
            image = np.where(image > 127, 255, 0).astype(np.uint8)  # sums up to their limits
        expected = np.asarray(Image.fromarray(image).resize(size_hw[::-1], Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(resize(image, size_hw, False).transpose(1, 2, 0), expected, err_msg=str(given_hw))
        np.testing.assert_array_equal(resize(image[..., ::-1], size_hw, True), resize(image, size_hw, False))


def test_the_compiled_resize_in_either_order_of_passes() -> None:
    """Versions of Pillow differ in the order, and so in values: 13 begins with the height of some images."""
    from osnet.data.resize_kernel import resize_rgb

    image = np.random.default_rng(0).integers(0, 256, (90, 41, 3), dtype=np.uint8)
    height_first, width_first = (resize_rgb(image, (64, 32), False, first) for first in (True, False))
    np.testing.assert_array_equal(height_first.transpose(1, 2, 0), by_passes(image, (64, 32), (0, 1)))
    np.testing.assert_array_equal(width_first.transpose(1, 2, 0), by_passes(image, (64, 32), (1, 0)))
    assert (height_first != width_first).any()


@pytest.fixture
def not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process."""
    for name, value in {"_resize": None, "_loading": None, "_resized": count(1)}.items():
        monkeypatch.setattr(faster_resize, name, value)


@pytest.mark.usefixtures("not_loaded")
def test_the_compiled_resize_is_loaded_after_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faster_resize, "ENOUGH", 3)
    picture = noisy(3, (90, 200))
    expected = resize_image(picture, Preprocessing(size_hw=(100, 50)))
    for number in range(1, 6):
        np.testing.assert_array_equal(resize_pixels(as_tensor(picture), Preprocessing(size_hw=(100, 50))), expected)
        assert (faster_resize._loading is None) == (number < 3)
        faster_resize._finish()
    assert faster_resize.get() is not None


@pytest.mark.usefixtures("not_loaded")
def test_a_resize_that_is_not_pillows_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later Pillow may compute in another way."""
    plain = Image.Image.resize

    def brighter(self: Image.Image, *arguments: object, **more: object) -> Image.Image:
        return plain(self, *arguments, **more).point(lambda level: min(255, level + 1))  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "resize", brighter)
        assert not faster_resize.load()
    assert faster_resize.get() is None
    picture = noisy(3, (90, 200))
    expected = resize_image(picture, Preprocessing(size_hw=(100, 50)))
    np.testing.assert_array_equal(resize_pixels(as_tensor(picture), Preprocessing(size_hw=(100, 50))), expected)


def test_real_crops_are_read_like_pillow() -> None:
    files = sorted(shared_data("people-mini").rglob("*.jpg"))
    for path in files[::4]:
        picture = read_image(path)
        np.testing.assert_array_equal(read_pixels(path), as_tensor(picture))
        np.testing.assert_array_equal(
            resize_pixels(read_pixels(path), Preprocessing()), resize_image(picture, Preprocessing())
        )
