"""Finding and downloading published weights: a local folder, the cache, a local server."""

import hashlib
import io
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import logging as hub_logging

import osnet.weights.hub as published
from osnet import OSNet, OSNetConfig, create_model
from osnet.cli import main
from osnet.errors import WeightsError
from osnet.weights.hub import PUBLISHED, find_weights, load_model
from test_weights import torchreid_state


class Hub(ThreadingHTTPServer):
    """A local server in place of the Hugging Face Hub."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def _answer(self, with_body: bool) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        content = self.server.files.get(self.path.rsplit("/", 1)[-1])
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", published.REVISION)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def log_message(self, *_args: object) -> None: ...


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def checkpoint(width: float = 0.25, classes: int = 1041, norm: str = "bn") -> tuple[OSNet, bytes]:
    network = OSNet(OSNetConfig(width=width, norm=norm)).eval()
    buffer = io.BytesIO()
    torch.save(torchreid_state(network, classes), buffer)
    return network, buffer.getvalue()


def test_download_once_then_from_the_cache(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    """x0_25 on DukeMTMC-reID, whose hash is not in the table."""
    network, content = checkpoint(classes=751)
    entry = PUBLISHED["osnet_x0_25", "dukemtmcreid"]
    hub.files[entry.file] = content
    loaded = create_model("osnet_x0_25", pretrained="dukemtmcreid")
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), network.state_dict().values(), strict=True)
    )
    assert loaded.card is not None
    assert loaded.card.training_data == "dukemtmcreid"
    printed = capsys.readouterr().err
    assert entry.file in printed
    assert "MIT" in printed
    assert "research purpose only" in printed
    assert any(published.REVISION in request and request.startswith("GET") for request in hub.requests)
    hub.requests.clear()
    create_model("osnet_x0_25", pretrained="dukemtmcreid")
    assert hub.requests == []


def test_an_unverified_download_is_reported_every_time(
    hub: Hub, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    entry = PUBLISHED["osnet_x0_25", "dukemtmcreid"]
    _, content = checkpoint(classes=751)
    hub.files[entry.file] = content
    digest = hashlib.sha256(content).hexdigest()
    for _ in range(3):
        load_model("osnet_x0_25_dukemtmcreid")
        printed = capsys.readouterr().err
        assert "not verified" in printed
        assert entry.file in printed
        assert digest in printed
    (record,) = (tmp_path / "hub-cache" / published.RECORDS).iterdir()
    assert json.loads(record.read_text())["sha256"] == digest
    assert json.loads(record.read_text())["revision"] == published.REVISION


def test_a_file_that_differs_from_the_first_download_is_refused(
    hub: Hub, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a known hash, the first download's is recorded: a pinned file must not change."""
    entry = PUBLISHED["osnet_x0_25", "dukemtmcreid"]
    (_, first), (_, second) = checkpoint(classes=751), checkpoint(classes=752)
    hub.files[entry.file] = first
    path = find_weights("osnet_x0_25", "dukemtmcreid")
    path.unlink()
    path.write_bytes(second)
    with pytest.raises(WeightsError) as caught:
        find_weights("osnet_x0_25", "dukemtmcreid")
    for content in (first, second):
        assert hashlib.sha256(content).hexdigest() in str(caught.value)
    record = tmp_path / "hub-cache" / published.RECORDS / f"{entry.file}.json"
    assert str(record) in str(caught.value)
    record.write_text("damaged")
    assert find_weights("osnet_x0_25", "dukemtmcreid") == path
    assert hashlib.sha256(second).hexdigest() in record.read_text()
    record.unlink()
    record.parent.rmdir()
    record.parent.write_text("in the way")  # the record cannot be written, which is only reported
    capsys.readouterr()
    assert find_weights("osnet_x0_25", "dukemtmcreid") == path
    assert "not recorded" in capsys.readouterr().err


def test_unseen_file_names_are_marked(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    main(["weights"])
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.startswith("osnet_")}
    assert len(rows) == len(PUBLISHED)
    for name, mark in (
        ("osnet_x0_25_msmt17", "sha256 known"),
        ("osnet_x1_0_market1501", "name quoted"),
        ("osnet_x0_5_msmt17", "never seen"),
    ):
        assert f" {mark} " in rows[name]
    assert sum("never seen" in row for row in rows.values()) == sum(
        w.by_pattern and w.sha256 is None for w in PUBLISHED.values()
    )
    main(["weights", "--json"])
    listed = json.loads(capsys.readouterr().out)
    assert {w["certainty"] for w in listed} == {"sha256 known", "name quoted", "never seen"}
    with pytest.raises(WeightsError):
        find_weights("osnet_x0_5", "msmt17")
    assert "never seen" in capsys.readouterr().err


def test_pretrained_true_means_imagenet(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in timm and torchvision."""
    network, content = checkpoint(classes=1000)
    hub.files["osnet_x0_25_imagenet.pth"] = content
    loaded = create_model("osnet_x0_25", pretrained=True)
    assert torch.equal(loaded.conv5.conv.weight, network.conv5.conv.weight)
    assert (loaded.card.training_data, loaded.card.preprocessing.size_hw) == ("imagenet", (224, 224))
    assert create_model("osnet_x0_25", pretrained=False).card is None
    assert create_model("osnet_x0_25", pretrained=None).card is None
    hub.files.clear()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "osnet_x0_25_imagenet.pth").write_bytes(content)
    monkeypatch.setenv("OSNET_WEIGHTS", str(tmp_path / "mine"))
    assert create_model("osnet_x0_25", pretrained=True).card.training_data == "imagenet"


@pytest.mark.parametrize("name", ["osnet_t1", "mobilenetv2_x1_0", "osnet_same_depth"])
def test_pretrained_true_of_a_network_without_published_weights(name: str) -> None:
    with pytest.raises(WeightsError, match=rf"for {name} on imagenet.*osnet_x1_0"):
        create_model(name, pretrained=True)


@pytest.mark.parametrize("given", [3, 1.5, ["imagenet"], {}, b"imagenet", "a\0b", "x" * 5000])
def test_invalid_pretrained_values_are_refused(given: object) -> None:
    with pytest.raises(WeightsError):
        create_model("osnet_x0_25", pretrained=given)  # type: ignore[arg-type]


def test_a_download_with_a_wrong_hash_is_refused_naming_both(hub: Hub) -> None:
    entry = PUBLISHED["osnet_x0_25", "msmt17"]
    _, content = checkpoint()
    hub.files[entry.file] = content
    with pytest.raises(WeightsError) as caught:
        create_model("osnet_x0_25", pretrained="msmt17")
    assert entry.sha256 is not None
    assert entry.sha256 in str(caught.value)
    assert hashlib.sha256(content).hexdigest() in str(caught.value)


def test_downloads_at_once_leave_the_level_of_the_log(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second begins before the first ends, and ends after it."""
    usual, first_is_done, both = hub_logging.get_verbosity(), threading.Event(), threading.Barrier(2)

    def download(_repository: str, file: str, local_files_only: bool = False, **_more: object) -> str:
        if not local_files_only:
            with suppress(threading.BrokenBarrierError):
                both.wait(0.5)
            if file == names[1]:
                first_is_done.wait(0.5)
        raise LocalEntryNotFoundError("not here")

    def try_to_load(data: str) -> None:
        with pytest.raises(WeightsError):
            create_model("osnet_x0_25", pretrained=data)

    names = [PUBLISHED["osnet_x0_25", data].file for data in ("msmt17", "market1501")]
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(try_to_load, "msmt17"), pool.submit(try_to_load, "market1501")
        first.result()
        first_is_done.set()
        second.result()
    assert hub_logging.get_verbosity() == usual


def test_a_download_with_the_known_hash_is_accepted(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    _, content = checkpoint()
    entry = PUBLISHED["osnet_x0_25", "msmt17"]
    known = published.PublishedWeights(
        entry.model, entry.dataset, entry.file, entry.by_pattern, hashlib.sha256(content).hexdigest()
    )
    monkeypatch.setitem(PUBLISHED, ("osnet_x0_25", "msmt17"), known)
    hub.files[entry.file] = content
    assert create_model("osnet_x0_25", pretrained="msmt17").card.num_classes == 1041


def test_a_file_missing_on_the_server_is_named(hub: Hub) -> None:
    with pytest.raises(WeightsError) as caught:
        create_model("osnet_x0_5", pretrained="market1501")
    message = str(caught.value)
    assert PUBLISHED["osnet_x0_5", "market1501"].file in message
    assert "never seen" in message
    assert PUBLISHED["osnet_x1_0", "market1501"].file in message  # a file that is known to exist


def test_offline_error_names_the_file_and_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError) as caught:
        create_model("osnet_x1_0", pretrained="market1501")
    message = str(caught.value)
    assert "OSNET_WEIGHTS" in message
    assert "osnet_x1_0_market1501.pth" in message
    assert PUBLISHED["osnet_x1_0", "market1501"].file in message
    with pytest.raises(WeightsError, match=r"osnet_x1_0 on imagenet.*osnet_x1_0_imagenet\.pth into .*OSNET_WEIGHTS"):
        create_model("osnet_x1_0", pretrained=True)


@pytest.mark.parametrize("name", ["osnet_x0_25_market1501.pt", "osnet_x0_25_market1501.pth", "full name"])
def test_a_local_file_comes_first(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    _, content = checkpoint(classes=751)
    file = PUBLISHED["osnet_x0_25", "market1501"].file if name == "full name" else name
    (tmp_path / file).write_bytes(content)
    monkeypatch.setenv("OSNET_WEIGHTS", str(tmp_path))
    assert find_weights("osnet_x0_25", "market1501") == tmp_path / file
    assert hub.requests == []


def test_boxmots_ain_weights_are_trained_on_all_of_msmt17(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, content = checkpoint(1.0, 4101, "ain")
    (tmp_path / "osnet_ain_x1_0_msmt17.pt").write_bytes(content)
    monkeypatch.setenv("OSNET_WEIGHTS", str(tmp_path))
    for loaded in (
        create_model("osnet_ain_x1_0", pretrained="msmt17_combineall"),
        load_model("osnet_ain_x1_0_msmt17.pt"),
        load_model("osnet_ain_x1_0_msmt17_combineall"),
    ):
        assert loaded.card is not None
        assert (loaded.card.name, loaded.card.training_data) == ("osnet_ain_x1_0", "msmt17_combineall")


def test_pretrained_takes_a_path(tiny_weights: Path, tmp_path: Path) -> None:
    assert create_model("osnet_x0_25", pretrained=tiny_weights).card is not None
    assert create_model("osnet_x0_25", pretrained=str(tiny_weights)).card is not None
    with pytest.raises(WeightsError, match="not the requested network"):
        create_model("osnet_x1_0", pretrained=tiny_weights)
    with pytest.raises(WeightsError, match="neither an existing path nor one of imagenet"):
        create_model("osnet_x1_0", pretrained=str(tmp_path / "gone.pth"))


@pytest.mark.parametrize(
    ("model", "data", "words"),
    [
        ("osnet_ain_x1_0", "msmt17", ["for osnet_ain_x1_0: msmt17_combineall, imagenet"]),
        ("osnet_t1", "market1501", ["for osnet_t1: none", "on market1501: osnet_x1_0"]),
    ],
)
def test_unknown_combinations_list_the_known_ones(model: str, data: str, words: list[str]) -> None:
    with pytest.raises(WeightsError) as caught:
        create_model(model, pretrained=data)
    for word in words:
        assert word in str(caught.value)


def test_unknown_names_and_missing_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match="osnet_x0_25_msmt17"):
        load_model("osnet_x0_25")
    with pytest.raises(WeightsError, match=r"no file 'gone/weights\.pth'"):
        load_model("gone/weights.pth")
    monkeypatch.setenv("OSNET_WEIGHTS", str(tmp_path / "gone"))
    with pytest.raises(WeightsError, match=r"gone.* is not a folder"):
        load_model("osnet_x0_25_msmt17")


def test_published_table_has_the_quoted_names() -> None:
    """File names that public code quotes literally; the module's docstring explains the others."""
    files = {(w.model, w.dataset): w.file for w in PUBLISHED.values() if not w.by_pattern}
    tail = "_256x128_amsgrad_ep150_stp60_lr0.0015_b64_fb10_softmax_labelsmooth_flip.pth"
    for data, short in (("market1501", "market"), ("dukemtmcreid", "duke"), ("msmt17", "msmt17")):
        assert files["osnet_x1_0", data] == f"osnet_x1_0_{short}{tail}"
    assert files["osnet_x1_0", "imagenet"] == "osnet_x1_0_imagenet.pth"
    known = {w.sha256 for w in PUBLISHED.values() if w.sha256}
    assert len(known) == 4


@pytest.mark.parametrize("dataset", ["dukemtmcreid", "market1501"])  # with an unknown and a known digest
def test_the_damaged_file_that_the_error_names_is_downloaded_again(
    dataset: str, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache holds a link to a file: without the link alone, the same file would be linked again."""
    entry = PUBLISHED["osnet_x0_25", dataset]
    content = b"weights"
    hub.files[entry.file] = content
    if entry.sha256 is not None:
        known = replace(entry, sha256=hashlib.sha256(content).hexdigest())
        monkeypatch.setitem(PUBLISHED, ("osnet_x0_25", dataset), known)
    stored = find_weights("osnet_x0_25", dataset).resolve()
    stored.chmod(0o644)
    stored.write_bytes(b"damaged")
    with pytest.raises(WeightsError) as caught:
        find_weights("osnet_x0_25", dataset)
    assert str(stored) in str(caught.value)
    stored.unlink()
    assert find_weights("osnet_x0_25", dataset).read_bytes() == content
