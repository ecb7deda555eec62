"""The colour histogram, a baseline without a network."""

from pathlib import Path

import numpy as np
from PIL import Image

from conftest import write_picture
from osnet.embedding.color_histogram import BINS_HSV, NUM_STRIPES, embed_histogram


def save(path: Path, top: str, bottom: str) -> Path:
    image = Image.new("RGB", (48, 96), top)
    image.paste(bottom, (0, 48, 48, 96))
    image.save(path)
    return path


def test_histogram_of_two_colours_by_hand(tmp_path: Path) -> None:
    """Pure red above pure blue: each stripe has all its weight in one bin."""
    vector = embed_histogram(save(tmp_path / "a.png", "#ff0000", "#0000ff"))
    size = int(np.prod(BINS_HSV))
    red, blue = (0 * 4 + 3) * 4 + 3, (170 * 8 // 256 * 4 + 3) * 4 + 3  # hue 0 and 170 of 255; full saturation and value
    expected = np.zeros(NUM_STRIPES * size)
    expected[[stripe * size + red for stripe in range(3)] + [stripe * size + blue for stripe in range(3, 6)]] = (
        1 / NUM_STRIPES
    ) ** 0.5
    np.testing.assert_allclose(vector, expected, atol=1e-6)


def test_cosine_is_the_share_of_equal_stripes(tmp_path: Path) -> None:
    a = embed_histogram(save(tmp_path / "a.png", "#ff0000", "#0000ff"))
    b = embed_histogram(save(tmp_path / "b.png", "#ff0000", "#00ff00"))
    assert np.isclose(a @ b, 0.5, atol=1e-6)


def test_histograms_have_length_1_and_weight_the_middle(tmp_path: Path) -> None:
    vector = embed_histogram(write_picture(tmp_path / "c.png", seed=3))
    assert np.isclose(vector @ vector, 1, atol=1e-5)
    edge, middle = Image.new("RGB", (64, 128), "#ff0000"), Image.new("RGB", (64, 128), "#ff0000")
    edge.paste("#0000ff", (0, 0, 16, 128))
    middle.paste("#0000ff", (24, 0, 40, 128))
    edge.save(tmp_path / "edge.png")
    middle.save(tmp_path / "middle.png")
    red = embed_histogram(save(tmp_path / "red.png", "#ff0000", "#ff0000"))
    assert red @ embed_histogram(tmp_path / "edge.png") > red @ embed_histogram(tmp_path / "middle.png") + 0.1
