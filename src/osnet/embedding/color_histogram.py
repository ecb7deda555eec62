"""A colour histogram as an embedding: a baseline without a network."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from osnet.data.loading import read_image

NUM_STRIPES = 6
BINS_HSV = (8, 4, 4)
SIZE_WH = (48, 96)


def embed_histogram(path: Path) -> NDArray[np.float32]:
    """Colour histogram of six horizontal stripes, after Gray and Tao, ECCV 2008, section 3. Returns (768,) float32.

    Hue, saturation and value in 8 x 4 x 4 bins. Pixels are weighted towards the middle column, where the person is.
    Square roots are taken, so that the cosine is the mean of the stripes' Bhattacharyya coefficients.

    Raises:
        ImageError: the image cannot be read.
    """
    hsv = np.asarray(read_image(path).resize(SIZE_WH).convert("HSV"), dtype=np.int64)
    bins: NDArray[np.int64] = np.zeros(hsv.shape[:2], dtype=np.int64)
    for channel, count in enumerate(BINS_HSV):
        bins = bins * count + hsv[..., channel] * count // 256
    width = bins.shape[1]
    columns = np.arange(width) + 0.5
    weights = np.exp(-(((columns - width / 2) / (width / 4)) ** 2) / 2)
    total = int(np.prod(BINS_HSV))
    stripes = [
        np.bincount(stripe.ravel(), weights=np.tile(weights, len(stripe)), minlength=total)
        for stripe in np.array_split(bins, NUM_STRIPES)
    ]
    shares = np.concatenate([stripe / stripe.sum() for stripe in stripes])
    return np.sqrt(shares / NUM_STRIPES).astype(np.float32)
