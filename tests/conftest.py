"""Shared fixtures. Real weights and images lie outside the repository; tests that need them are skipped without."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from osnet.models.config import OSNetConfig
from osnet.models.network import Network
from osnet.models.osnet import OSNet
from osnet.models.registry import get_config
from osnet.weights.card import Card
from osnet.weights.checkpoint import convert, save_weights
from osnet.weights.factory import create_model

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = Path(__file__).parent / "fixtures"
LONGEST = (
    "test_market1501_figures", "test_training", "test_tutorials", "test_work", "test_openvino_ir", "test_export",
    "test_demo", "test_training_processes", "test_attribute_training", "test_forks", "test_readme", "test_browser",
)  # fmt: skip
"""The slowest files, run first in this order: started last, they would leave the other workers idle."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slowest files first; keep the order of the others."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


def shared_data(relative: str) -> Path:
    """The path of a real file or folder; skips the test, naming the path, if it is missing."""
    folder = Path(os.environ.get("OSNET_TEST_DATA", ROOT.parent / "shared" / "data"))
    path = folder / relative
    if not path.exists():
        pytest.skip(f"no real data at {path}; set OSNET_TEST_DATA")
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


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OSNET_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for ``$OSNET_WEIGHTS`` with a stand-in for ``osnet_x0_25_msmt17``: same file format, random tensors."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("random")
    save_weights(create_model("osnet_x0_25"), folder / "network", classifier=torch.nn.Linear(512, 1041).state_dict())
    convert(folder / "network", folder / "osnet_x0_25_msmt17.pth")
    return folder


@pytest.fixture(autouse=True)
def _no_weights_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OSNET_WEIGHTS", raising=False)
    monkeypatch.delenv("OSNET_HUB_REVISION", raising=False)
    monkeypatch.setenv("OSNET_OMZ_URL", "http://127.0.0.1:9/nothing-is-here")
    monkeypatch.setenv("OSNET_CACHE", "/no-such-folder/osnet")


def make_picture(seed: int, size_wh: tuple[int, int] = (64, 128)) -> Image.Image:
    """An image of coloured blocks, different for each seed."""
    blocks = np.random.RandomState(seed).randint(0, 256, (8, 4, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize(size_wh, Image.Resampling.BICUBIC)


def write_picture(path: Path, seed: int = 0, size_wh: tuple[int, int] = (64, 128)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    make_picture(seed, size_wh).save(path)
    return path


def create_small(name: str, **overrides: Any) -> Network:
    """A named network with random weights that takes images of 64 x 32 pixels."""
    if get_config(name).fixed_size_hw is not None:
        overrides = {"pooled_hw": (4, 2), **overrides}
    network: Network = create_model(name, **overrides)
    return network


@pytest.fixture(scope="session")
def tiny_network() -> OSNet:
    """A small OSNet with random weights and one update of its BatchNorm statistics."""
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
    """The visible texts of a matplotlib figure that do not fit on its page."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    page = figure.bbox.padded(1)
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    return [t.get_text() for t in texts if not page.containsx((box := t.get_window_extent()).x0)
            or not page.containsx(box.x1) or not page.containsy(box.y0) or not page.containsy(box.y1)]  # fmt: skip


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: results are equal bit for bit only for a fixed number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """Photographs of two classes. train: 3 cats (one in a subfolder), 2 dogs; val: 1 cat."""
    for n, name in enumerate(("cat/1.jpg", "cat/2.JPEG", "cat/deep/3.png", "dog/a.jpg", "dog/b.jpg")):
        write_picture(tmp_path / "zoo" / "train" / name, n, (40, 30))
    write_picture(tmp_path / "zoo" / "val" / "cat" / "9.jpg", 9, (40, 30))
    (tmp_path / "zoo" / "train" / "cat" / "notes.txt").write_text("no image")
    return tmp_path / "zoo"


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of three classes: 24 for training, 9 for testing."""
    from small_runs import write_colours

    root = tmp_path_factory.mktemp("c") / "colours"
    write_colours(root / "train", 8, 1)
    write_colours(root / "test", 3, 2)
    return root


@pytest.fixture(scope="session")
def packed_colours(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``colours`` as packed files, the training part in six of them."""
    from osnet.photos.image_folder import read_photo_folder
    from osnet.photos.shards import write_packed

    root = tmp_path_factory.mktemp("p") / "packed"
    write_packed(read_photo_folder(colours / "train"), root / "train", 4)
    write_packed(read_photo_folder(colours / "test"), root / "val", 4)
    return root


@pytest.fixture(scope="session")
def colour_run(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained classifier of the three colours."""
    from small_runs import train_colours

    return train_colours(colours, tmp_path_factory.mktemp("r") / "run")


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 training identities, 2 cameras, 3 images each: 48 images, 6 batches of 8."""
    from osnet.synthetic.generate import GeneratedSettings, generate_dataset

    return generate_dataset(tmp_path_factory.mktemp("t") / "people", GeneratedSettings(16, 2, 3, 9))


@pytest.fixture(scope="session")
def people_with_attributes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 training images of 4 people, 16 for validation, 32 for test; all with attributes."""
    from osnet.synthetic.generate import GeneratedSettings, generate_dataset

    return generate_dataset(tmp_path_factory.mktemp("t") / "people", GeneratedSettings(16, 2, 2, 9))


@pytest.fixture(scope="session")
def joint_run(people_with_attributes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short training run with an identity head and an attribute head."""
    from osnet.data.attributes.identities import read_generated_attributes
    from osnet.data.attributes.samples import join_labels
    from osnet.training.trainer import Trainer
    from small_runs import BOTH, INLINE

    out = tmp_path_factory.mktemp("r") / "run"
    Trainer(BOTH, join_labels([read_generated_attributes(people_with_attributes)]), out, INLINE).run()
    return out


@pytest.fixture(scope="session")
def small_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `osnet demo` writes, with less footage than its --quick. Tests do not change it."""
    pytest.importorskip("av")
    pytest.importorskip("trackers")
    from osnet.demo import run_demo
    from osnet.progress import no_progress
    from osnet.synthetic.footage import FootageSettings

    out = tmp_path_factory.mktemp("demo") / "out"
    run_demo(out, FootageSettings(people=3, cameras=2, seconds=14, fps=5, seed=3), no_progress)
    return out


@pytest.fixture(scope="session")
def state_server() -> Iterator[str]:
    """The address of a PostgreSQL server for the service's state; each test takes a schema of its own."""
    pytest.importorskip("psycopg")
    from store_servers import postgres_server

    with postgres_server() as (address, _):
        yield address


@pytest.fixture(params=["sqlite", "postgres"])
def state_address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new state is: the folder of SQLite's file, or a schema of its own in Postgres."""
    if request.param == "sqlite":
        return str(tmp_path / "state")
    return f"{request.getfixturevalue('state_server')}&schema=s{secrets.token_hex(6)}"


@pytest.fixture
def database(state_address: str) -> Iterator[Any]:
    """The state of a service, in SQLite and in Postgres."""
    pytest.importorskip("argon2")
    from small_service import open_state

    opened = open_state(state_address)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def painted_archive(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of painted footage: camera-1 and camera-2, three segments each; the footage is in its parent."""
    pytest.importorskip("av")
    pytest.importorskip("argon2")
    from small_service import write_archive

    return write_archive(tmp_path_factory.mktemp("painted"), tiny_weights)
