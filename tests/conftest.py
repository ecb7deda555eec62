"""Shared fixtures. Real weights and images lie outside the project; tests that need them skip without."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from osnet.models.card import Card
from osnet.models.config import OSNetConfig
from osnet.models.osnet import OSNet
from osnet.models.weights import save_weights

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = Path(__file__).parent / "fixtures"


def shared_data(relative: str) -> Path:
    """A file or folder of the real data, or a skip that says where it was looked for."""
    folder = Path(os.environ.get("OSNET_TEST_DATA", ROOT.parent / "shared" / "data"))
    path = folder / relative
    if not path.exists():
        pytest.skip(f"real data not here: {path} (set OSNET_TEST_DATA)")
    return path


@pytest.fixture(scope="session")
def msmt17_pth() -> Path:
    return shared_data("weights/osnet_x0_25_msmt17.pth")


@pytest.fixture(scope="session")
def msmt17_onnx() -> Path:
    return shared_data("weights/osnet_x0_25_msmt17.onnx")


@pytest.fixture(scope="session")
def people_mini() -> Path:
    return shared_data("people-mini")


@pytest.fixture(autouse=True)
def _no_weights_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OSNET_WEIGHTS", raising=False)
    monkeypatch.delenv("OSNET_HUB_REVISION", raising=False)


def make_picture(seed: int, size_wh: tuple[int, int] = (64, 128)) -> Image.Image:
    """A picture with structure: coloured blocks, different for each seed."""
    blocks = np.random.RandomState(seed).randint(0, 256, (8, 4, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize(size_wh, Image.Resampling.BICUBIC)


def write_picture(path: Path, seed: int = 0, size_wh: tuple[int, int] = (64, 128)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    make_picture(seed, size_wh).save(path)
    return path


@pytest.fixture(scope="session")
def tiny_network() -> OSNet:
    """A small OSNet with random weights whose BatchNorms have seen something."""
    torch.manual_seed(0)
    network = OSNet(OSNetConfig(width=0.25))
    with torch.no_grad():
        network.train()(torch.rand(8, 3, 64, 32))
    return network.eval()


@pytest.fixture(scope="session")
def tiny_weights(tiny_network: OSNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    save_weights(tiny_network, folder, Card(tiny_network.config, training_data="nothing", licence="MIT"))
    return folder


@pytest.fixture
def market(tmp_path: Path) -> Path:
    """A small data set in Market-1501's layout: 3 people in train, 3 in test, 2 cameras, junk, a distractor."""
    root = tmp_path / "Market-1501-v15.09.15"
    for pid in (2, 7, 11):
        for camid in (1, 2):
            for n in range(2):
                write_picture(root / "bounding_box_train" / f"{pid:04d}_c{camid}s1_{n:06d}_00.jpg", 100 * pid + n)
    for pid in (1, 3, 5):
        write_picture(root / "query" / f"{pid:04d}_c1s1_000000_00.jpg", 100 * pid)
        for camid in (1, 2):
            write_picture(root / "bounding_box_test" / f"{pid:04d}_c{camid}s1_000001_00.jpg", 100 * pid + camid)
    write_picture(root / "bounding_box_test" / "0000_c2s1_000009_00.jpg", 9)
    write_picture(root / "bounding_box_test" / "-1_c2s1_000008_00.jpg", 8)
    (root / "bounding_box_test" / "Thumbs.db").write_bytes(b"not an image")
    return root


def texts_outside(figure: Any) -> list[str]:
    """What of a matplotlib figure's text does not lie on its page."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    page = figure.bbox.padded(1)
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    return [t.get_text() for t in texts if not page.containsx((box := t.get_window_extent()).x0)
            or not page.containsx(box.x1) or not page.containsy(box.y0) or not page.containsy(box.y1)]  # fmt: skip
