"""Checkpoints on the Hugging Face Hub, with a local folder and a local server in its place."""

import hashlib
import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard, constants

from osnet import OSNet, create_model, load_weights
from osnet.errors import ModelError, WeightsError
from osnet.models.baselines.backbone import Backbone
from osnet.models.counting import count_parameters
from osnet.weights import hugging_face
from osnet.weights.checkpoint import read_checkpoint, save_weights
from osnet.weights.hub import load_model

COMMITS = {"main": "1" * 40, "v1": "2" * 40}


class Hub(ThreadingHTTPServer):
    """A server with two revisions of one repository."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], bytes] = {}
        self.requests: list[str] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    def put(self, folder: Path, revision: str) -> None:
        for path in folder.iterdir():
            self.files[COMMITS[revision], path.name] = path.read_bytes()


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def _answer(self, with_body: bool) -> None:
        self.server.requests.append(self.path)
        parts = self.path.strip("/").split("/")  # org/name/resolve/revision/file
        commit = COMMITS.get(parts[3], parts[3]) if len(parts) == 5 else ""
        content = self.server.files.get((commit, parts[-1])) if parts[:2] == ["org", "name"] else None
        self.send_response(404 if content is None else 200)
        if content is None:
            known = commit in COMMITS.values()
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RevisionNotFound")
        else:
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if with_body:
            self.wfile.write(content or b"")

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
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def same(one: Any, other: Any) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture
def folder(tiny_weights: Path, tmp_path: Path) -> Path:
    load_weights(tiny_weights).save_pretrained(tmp_path / "repository", figures={"Market-1501, rank-1": "12.3 %"})
    return tmp_path / "repository"


def test_from_pretrained_reads_a_folder(folder: Path, tiny_network: OSNet) -> None:
    loaded = OSNet.from_pretrained(folder)
    assert same(loaded, tiny_network)
    assert not loaded.training
    assert same(OSNet.from_pretrained(str(folder)), tiny_network)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "card.json",
        "config.json",
        "model.safetensors",
    ]


def test_the_model_page(folder: Path, tiny_network: OSNet) -> None:
    page = ModelCard.load(folder / "README.md")
    assert page.data.license == "mit"
    assert page.data.library_name == "osnet"
    assert page.data.pipeline_tag == "image-feature-extraction"
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    for word in (
        "Market-1501, rank-1 | 12.3 %",
        "## Licence",
        "## Training data",
        "nothing",
        "## Intended use and limits",
        digest,
        "256 x 128",
        f"{count_parameters(tiny_network):,} parameters",
        "surveillance",
    ):
        assert " ".join(word.split()) in " ".join(page.text.split()), word


def test_an_unknown_licence_is_called_other(tiny_network: OSNet, tmp_path: Path) -> None:
    tiny_network.save_pretrained(tmp_path)
    page = ModelCard.load(tmp_path / "README.md")
    assert page.data.license == "other"
    assert "who trained" in page.text


def test_from_pretrained_downloads_then_works_offline(hub: Hub, folder: Path, tiny_network: OSNet) -> None:
    hub.put(folder, "main")
    hub.files[COMMITS["main"], "pytorch_model.bin"] = pickle.dumps("never requested")
    assert same(OSNet.from_pretrained("org/name"), tiny_network)
    assert {path.rsplit("/", 1)[1] for path in hub.requests} == {"card.json", "model.safetensors"}
    assert any(COMMITS["main"] in path for path in hub.requests if "safetensors" in path)  # of the card's commit
    hub.requests.clear()
    assert same(OSNet.from_pretrained("org/name", local_files_only=True), tiny_network)
    assert hub.requests == []


def test_create_model_and_load_model_take_hub_names(hub: Hub, folder: Path, tiny_network: OSNet) -> None:
    hub.put(folder, "main")
    for network in (create_model("hf-hub:org/name"), load_model("hf-hub:org/name")):
        assert same(network, tiny_network)
        assert network.card.training_data == "nothing"
    with pytest.raises(ModelError, match="leave out"):
        create_model("hf-hub:org/name", width=0.5)


def test_a_revision_is_pinned(hub: Hub, folder: Path, tiny_network: OSNet, tmp_path: Path) -> None:
    hub.put(folder, "v1")
    torch.manual_seed(7)
    other = OSNet(tiny_network.config).eval()
    other.save_pretrained(tmp_path / "newer")
    hub.put(tmp_path / "newer", "main")
    assert same(OSNet.from_pretrained("org/name", revision="v1"), tiny_network)
    assert same(create_model(f"hf-hub:org/name@{COMMITS['v1']}"), tiny_network)
    assert same(OSNet.from_pretrained("org/name"), other)
    with pytest.raises(WeightsError, match="v9"):
        OSNet.from_pretrained("org/name", revision="v9")


def test_repositories_without_a_valid_card_are_refused(hub: Hub, folder: Path) -> None:
    hub.files[COMMITS["main"], "pytorch_model.bin"] = b""
    with pytest.raises(WeightsError, match=r"card\.json"):
        OSNet.from_pretrained("org/name")
    hub.put(folder, "main")
    card = (folder / "card.json").read_text(encoding="utf-8")
    hub.files[COMMITS["main"], "card.json"] = card.replace("model.safetensors", "pytorch_model.bin").encode()
    hub.requests.clear()
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin"):
        OSNet.from_pretrained("org/name", force_download=True)
    assert not any("pytorch_model" in path for path in hub.requests)


def test_damaged_tensors_and_other_classes_are_refused(folder: Path) -> None:
    with pytest.raises(WeightsError, match="OSNet"):
        Backbone.from_pretrained(folder)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-1] + b"\x01")
    with pytest.raises(WeightsError, match="damaged"):
        OSNet.from_pretrained(folder)


def test_offline_without_a_cached_copy_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="org/name"):
        OSNet.from_pretrained("org/name")
    with pytest.raises(WeightsError, match="a/b/c"):
        OSNet.from_pretrained("a/b/c")


def test_push_to_hub(tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uploads what ``save_pretrained`` writes."""
    seen: dict[str, Any] = {}

    class Api:
        def __init__(self, endpoint: str | None, token: str | None) -> None:
            seen["token"] = token

        def create_repo(self, repo_id: str, private: bool | None, exist_ok: bool) -> Any:
            seen["private"] = private
            return type("Url", (), {"repo_id": repo_id})()

        def upload_folder(self, repo_id: str, folder_path: str, **options: Any) -> str:
            seen.update(options, repo_id=repo_id, network=OSNet.from_pretrained(folder_path))
            return "https://the.commit"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    network = load_weights(tiny_weights)
    assert network.push_to_hub("org/name", token="secret", private=True, branch="next") == "https://the.commit"
    assert same(seen.pop("network"), network)
    assert seen == {
        "token": "secret",
        "private": True,
        "repo_id": "org/name",
        "commit_message": "Upload weights with osnet",
        "revision": "next",
        "create_pr": None,
    }


def test_the_model_page_counts_the_network_and_loads_any(tmp_path: Path) -> None:
    """The files hold no classifier, and networks that are no OSNets are saved, too."""
    for name in ("osnet_x0_25", "mobilenetv1_x0_5"):
        create_model(name, num_classes=751).save_pretrained(tmp_path / name)
        page = (tmp_path / name / "README.md").read_text(encoding="utf-8")
        assert f"{count_parameters(create_model(name)):,} parameters" in page
        assert "OSNet.from_pretrained" not in page
        assert 'create_model("hf-hub:' in page


def test_a_classifier_from_the_hub_is_used(
    tiny_network: OSNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = torch.nn.Linear(512, 5)
    save_weights(tiny_network, tmp_path, classifier=head.state_dict())
    monkeypatch.setattr(hugging_face, "fetch_checkpoint", lambda _name: read_checkpoint(tmp_path))
    network = create_model("hf-hub:org/name", num_classes=5)
    assert network.classifier is not None
    assert torch.equal(network.classifier.weight, head.weight)
