"""Intel's weights: found in a folder, downloaded from a local server, refused if their hashes differ."""

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

import osnet.weights.open_model_zoo as zoo
from conftest import shared_data, write_picture
from osnet import Embedder, create_model, load_weights
from osnet.cli import main
from osnet.errors import ModelError, WeightsError
from osnet.models.norms import lacks_statistics
from osnet.weights.card import read_card
from osnet.weights.hub import load_model
from osnet.weights.open_model_zoo import INTEL_WEIGHTS, Figures, IntelWeights, find_intel, get_intel
from small_runs import REID

CONTENTS = {".xml": b"<net/>", ".bin": b"\0\1\2\3"}
NAME = "person-reidentification-retail-0287"


def smallest() -> Path:
    return shared_data("omz/0288/person-reidentification-retail-0288.xml")


def digest(suffix: str) -> str:
    return hashlib.sha256(CONTENTS[suffix]).hexdigest()


ENTRY = IntelWeights(NAME, "osnet_lct_x0_5", "FP32", digest(".xml"), digest(".bin"), (6, 4), Figures(1, 1))


class Storage(ThreadingHTTPServer):
    """A local server in place of OpenVINO's storage."""

    def __init__(self) -> None:
        self.files = dict(CONTENTS)
        self.requests: list[str] = []
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Storage

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        content = self.server.files.get(Path(self.path).suffix)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_args: object) -> None: ...


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    server = Storage()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("OSNET_OMZ_URL", f"http://127.0.0.1:{server.server_port}/zoo")
    monkeypatch.setenv("OSNET_CACHE", str(tmp_path / "cache"))
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_download_once_then_from_the_cache(storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    path = find_intel(ENTRY)
    assert path.name == f"{NAME}.xml"
    assert [path.with_suffix(suffix).read_bytes() for suffix in CONTENTS] == list(CONTENTS.values())
    assert storage.requests == [f"/zoo/{NAME}/FP32/{NAME}{suffix}" for suffix in (".xml", ".bin")]
    printed = capsys.readouterr().err
    assert "Apache-2.0" in printed
    assert NAME in printed
    assert find_intel(ENTRY) == path
    assert len(storage.requests) == 2


@pytest.mark.parametrize("content", [b"\0\1\2\4", b"\0\1\2\3 and more", b""])
def test_a_download_with_a_wrong_hash_is_refused_and_deleted(storage: Storage, tmp_path: Path, content: bytes) -> None:
    storage.files[".bin"] = content
    with pytest.raises(WeightsError) as caught:
        find_intel(ENTRY)
    assert ENTRY.sha256_bin in str(caught.value)
    assert not list((tmp_path / "cache").rglob("*.bin"))
    storage.files[".bin"] = CONTENTS[".bin"]
    assert find_intel(ENTRY).is_file()


def test_a_damaged_cache_is_refused(storage: Storage) -> None:
    path = find_intel(ENTRY)
    path.with_suffix(".bin").write_bytes(b"other")
    with pytest.raises(WeightsError, match="Delete it") as caught:
        find_intel(ENTRY)
    assert str(path.with_suffix(".bin")) in str(caught.value)


@pytest.mark.parametrize("gone", ["file", "server"])
def test_a_failed_download_names_the_files_and_folder(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    if gone == "file":
        storage.files.clear()
    else:
        monkeypatch.setenv("OSNET_OMZ_URL", "http://127.0.0.1:9/zoo")
    with pytest.raises(WeightsError) as caught:
        find_intel(ENTRY)
    for word in (f"{NAME}.xml", f"{NAME}.bin", "OSNET_WEIGHTS", "127.0.0.1"):
        assert word in str(caught.value)
    assert not list((tmp_path / "cache").rglob("*.xml"))


def test_file_urls_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "zoo" / NAME / "FP32"
    folder.mkdir(parents=True)
    for suffix, content in CONTENTS.items():
        (folder / f"{NAME}{suffix}").write_bytes(content)
    monkeypatch.setenv("OSNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OSNET_OMZ_URL", f"file://{tmp_path / 'zoo'}")
    with pytest.raises(WeightsError, match="file:"):
        find_intel(ENTRY)


@pytest.mark.parametrize("place", ["", NAME, f"{NAME}/FP32", "0287"])
def test_a_local_file_comes_first(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    folder = tmp_path / "mine" / place
    folder.mkdir(parents=True)
    for suffix, content in CONTENTS.items():
        (folder / f"{NAME}{suffix}").write_bytes(content)
    monkeypatch.setenv("OSNET_WEIGHTS", str(tmp_path / "mine"))
    assert find_intel(ENTRY) == folder / f"{NAME}.xml"
    (folder / f"{NAME}.bin").unlink()
    assert find_intel(ENTRY).is_relative_to(tmp_path / "cache")


def test_names_of_intels_weights() -> None:
    assert [w.model for w in INTEL_WEIGHTS] == [f"osnet_lct_{width}" for width in ("x1_0", "x0_75", "x0_5", "x0_25")]
    for name in (NAME, f"{NAME}.xml", "osnet_lct_x0_5_intel"):
        entry = get_intel(name)
        assert entry is not None
        assert entry.name == NAME
    assert get_intel("osnet_lct_x0_5") is None
    with pytest.raises(WeightsError, match="osnet_lct_x0_5_intel"):
        load_model("osnet_lct_x0_5")
    with pytest.raises(WeightsError, match=NAME):
        load_model(f"{NAME[:-1]}6_")


def test_every_name_loads_the_same_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSNET_WEIGHTS", str(shared_data("omz")))
    one, other = load_model("person-reidentification-retail-0288"), create_model("osnet_lct_x0_25", pretrained="intel")
    assert one.card == other.card
    assert all((a == b).all() for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    with pytest.raises(WeightsError, match="not the requested network"):
        create_model("osnet_lct_x0_25", pretrained="intel", embedding_size=128)


def test_known_hashes_match_the_real_files() -> None:
    """Sizes and SHA-256 in the table against those of the files."""
    for entry in INTEL_WEIGHTS:
        folder = shared_data(f"omz/{entry.name[-4:]}")
        for name, (sha256, num_bytes) in entry.files.items():
            content = (folder / name).read_bytes()
            assert (hashlib.sha256(content).hexdigest(), len(content)) == (sha256, num_bytes)
    assert zoo.STORAGE.startswith("https://storage.openvinotoolkit.org/")


def test_weights_lists_licence_costs_and_scores(capsys: pytest.CaptureFixture[str]) -> None:
    main(["weights"])
    out = capsys.readouterr().out
    for word in ("Apache-2.0", "595,968", "272.9M", "92.9 / 76.6", "osnet_lct_x0_5_intel", "osnet_x0_25_msmt17"):
        assert word in out
    main(["weights", "--json"])
    rows = json.loads(capsys.readouterr().out)
    row = next(row for row in rows if row.get("name") == NAME)
    assert (row["licence"], row["params"], row["dataset"]) == ("Apache-2.0", 595_968, "intel")
    assert row["figures"]["rank1_published"] == 92.9


def test_models_leaves_out_networks_of_another_fixed_size(capsys: pytest.CaptureFixture[str]) -> None:
    main(["models", "osnet_*x0_25", "--size", "192", "96"])
    out = capsys.readouterr().out
    assert "osnet_x0_25 " in out
    assert "osnet_lct_x0_25" not in out
    with pytest.raises(SystemExit):
        main(["models", "osnet_lct*", "--size", "192", "96"])
    assert "osnet_lct_x0_25" in capsys.readouterr().err


def test_index_uses_them_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OSNET_WEIGHTS", str(shared_data("omz")))
    write_picture(tmp_path / "crops" / "1.png", 1)
    main(["index", str(tmp_path / "crops"), "--out", str(tmp_path / "gallery")])
    assert NAME in capsys.readouterr().err
    card, _ = read_card(tmp_path / "gallery" / "weights")
    assert (card.name, card.licence) == ("osnet_lct_x0_5", "Apache-2.0")
    main(
        ["search", str(tmp_path / "gallery"), str(tmp_path / "crops" / "1.png")]
    )  # with the gallery's copy of the weights
    assert "1.000" in capsys.readouterr().out


def test_training_starts_from_intels_weights(people: Path, tmp_path: Path) -> None:
    """BatchNorms get statistics of training images, and the embeddings stay the same."""
    recipe = replace(REID, model="osnet_lct_x0_25", pretrained=str(smallest()), size_hw=(256, 128), epochs=1)
    with pytest.raises(ModelError, match=r"\(32, 16\).*\(256, 128\)"):
        replace(recipe, size_hw=(32, 16)).plan(recipe.read([people]))
    plan = recipe.plan(recipe.read([people]))
    assert not lacks_statistics(plan.task.network)
    crop = next((people / "query").glob("*.jpg"))
    before, after = (Embedder(n, normalize=False).embed(crop) for n in (load_weights(smallest()), plan.task.network))
    np.testing.assert_allclose(after, before, atol=1e-4)
    batches, _ = plan.make_epochs(0, 1, torch.device("cpu")).load(0, 0, 0)
    loss = plan.task.train()(next(iter(batches)))["loss"]
    loss.backward()
    assert torch.isfinite(loss)
