"""Crops of photographs for training and testing, against torchvision and cases worked by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import make_picture
from osnet.data.transforms import resize_bytes, resize_fractions, resize_image, to_tensor
from osnet.models.osnet import OSNet
from osnet.photos.photo_augmentation import PhotoAugmentation, pad_and_cut
from osnet.types import Preprocessing
from osnet.weights.card import Card, read_card
from osnet.weights.checkpoint import network_sha256, save_weights


def crop_by_torchvision(image: Image.Image, resize: object, crop: int) -> torch.Tensor:
    from torchvision import transforms

    return to_tensor(transforms.Compose([transforms.Resize(resize), transforms.CenterCrop(crop)])(image))


@pytest.mark.parametrize("size_wh", [(500, 375), (375, 500), (256, 256), (301, 300), (640, 171), (97, 211)])
def test_centre_crop_matches_torchvision(size_wh: tuple[int, int]) -> None:
    image = make_picture(1, size_wh)
    aspect_kept = Preprocessing((224, 224), crop_from=(256, 256), keep_aspect=True)
    assert torch.equal(resize_image(image, aspect_kept), crop_by_torchvision(image, 256, 224))
    squashed = Preprocessing((224, 224), crop_from=(256, 256))
    assert torch.equal(resize_image(image, squashed), crop_by_torchvision(image, (256, 256), 224))
    covering = Preprocessing((64, 64), keep_aspect=True)
    assert torch.equal(resize_image(image, covering), crop_by_torchvision(image, 64, 64))
    fractions = resize_fractions(to_tensor(image).float() / 255, aspect_kept)
    assert fractions.shape == (3, 224, 224)
    assert (fractions * 255 - resize_image(image, aspect_kept)).abs().max() < 1.5


def test_preprocessing_with_a_crop_is_stored_in_the_card(tiny_network: OSNet, tmp_path: Path) -> None:
    settings = Preprocessing((224, 224), crop_from=(256, 256), keep_aspect=True)
    save_weights(tiny_network, tmp_path / "w", Card(tiny_network.config, preprocessing=settings))
    assert read_card(tmp_path / "w")[0].preprocessing == settings
    digests = {network_sha256(tiny_network, p) for p in (settings, Preprocessing((224, 224)))}
    assert len(digests) == 2
    with pytest.raises(ValueError, match="crop_from"):
        Preprocessing((224, 224), crop_from=(200, 256))


def test_cut_windows_come_from_the_resized_image() -> None:
    """As in the supplement. Every position, mirrored or not, is drawn about equally often."""
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
    """2 x 2 pixels padded by 1: nine windows, black outside the image."""
    pixels = np.array([[[10] * 3, [20] * 3], [[30] * 3, [40] * 3]], np.uint8)
    image = Image.fromarray(pixels)
    framed = np.pad(pixels[..., 0], 1)
    expected = {framed[t : t + 2, k : k + 2].tobytes() for t in range(3) for k in range(3)}
    rng = np.random.default_rng(0)
    augmentation = PhotoAugmentation("padded", flip=0, pad=1)
    seen = {augmentation.draw(image, Preprocessing((2, 2)), rng)[0].numpy().tobytes() for _ in range(200)}
    assert seen == expected


def test_pad_and_cut_matches_a_loop_over_images() -> None:
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


def test_random_boxes_have_torchvisions_distribution() -> None:
    """Means and deviations of 4,000 boxes agree within sampling error, for a wide and a very wide image."""
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


def test_random_windows_are_resized_crops_of_their_boxes() -> None:
    image = make_picture(3, (90, 60))
    augmentation = PhotoAugmentation(flip=0)
    pixels = augmentation.draw(image, Preprocessing((32, 32)), np.random.default_rng(5))
    box = augmentation.draw_box(image.size, np.random.default_rng(5))
    expected = to_tensor(image.crop(box).resize((32, 32), Image.Resampling.BILINEAR))
    assert (pixels.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize(
    "settings", [{"window": "centre"}, {"flip": 2}, {"area": (0.5, 0.1)}, {"aspect": (0, 1)}, {"pad": -1}]
)
def test_invalid_augmentations_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        PhotoAugmentation(**settings)
