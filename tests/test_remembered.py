"""The cache of inference graphs: reused by later processes, and only if no other user could have written it."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import make_picture
from osnet import Embedder, OSNet, OSNetConfig, save_weights
from osnet.embedding import embedder as embedding
from osnet.embedding.remembered import key_of, recall
from osnet.errors import WeightsError
from osnet.runtime import graph_cache
from osnet.runtime.graph_cache import MAX_GRAPHS, load_graph, store_graph
from osnet.types import Preprocessing

KEY = "0" * 64
owners = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="graphs are cached only where files have owners")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OSNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "graphs"


@owners
def test_a_cached_graph_saves_building_the_network(tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    pictures = [make_picture(n, (40 + 9 * n, 200 - 7 * n)) for n in range(3)]
    first = Embedder(tiny_weights)
    expected = first.embed(pictures)

    def fail(*_args: object) -> None:
        raise AssertionError("built or compared again")

    with monkeypatch.context() as patch:
        patch.setattr(embedding, "make_backend", fail)
        patch.setattr(embedding, "load_weights", fail)
        second = Embedder(tiny_weights)
        assert second.backend == "onnxruntime"
        np.testing.assert_array_equal(second.embed(pictures), expected)
        np.testing.assert_array_equal(second.embed(pictures[:1]), first.embed(pictures[:1]))
        floats = torch.rand(1, 3, 256, 128)
        np.testing.assert_array_equal(second.embed(floats), first.embed(floats))
        assert (second.sha256(), second.embedding_size) == (first.sha256(), first.embedding_size)
        assert (second.card, second.preprocessing) == (first.card, first.preprocessing)
    again = Embedder(tiny_weights)
    assert {key: value.tolist() for key, value in again.network.state_dict().items()} == {
        key: value.tolist() for key, value in first.network.state_dict().items()
    }


@owners
def test_replaced_weights_do_not_use_the_cached_graph(tiny_weights: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    weights = tmp_path / "weights"
    shutil.copytree(tiny_weights, weights)
    Embedder(weights)
    embedder = Embedder(weights)
    torch.manual_seed(5)
    save_weights(OSNet(OSNetConfig(width=0.25)), weights)
    with pytest.raises(WeightsError):
        _ = embedder.network
    assert Embedder(weights).sha256() != embedder.sha256()


def test_the_key_depends_on_everything_that_changes_the_graph(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "osnet_x0_25_msmt17.pth"
    file.write_bytes(b"weights")
    other = tmp_path / "osnet_x0_25_market.pth"
    other.write_bytes(b"weights")
    keys = [key_of(file, None, "onnxruntime", None), key_of(other, None, "onnxruntime", None)]
    keys += [key_of(file, "osnet_x0_25", "onnxruntime", None), key_of(file, None, "openvino", None)]
    keys += [key_of(file, None, "onnxruntime", Preprocessing(size_hw=(64, 32)))]
    assert key_of(file, None, "onnxruntime", None) == keys[0]
    file.write_bytes(b"Weights")
    keys += [key_of(file, None, "onnxruntime", None), key_of(tiny_weights, None, "onnxruntime", None)]
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another")
    keys += [key_of(file, None, "onnxruntime", None)]
    assert None not in keys
    assert len(set(keys)) == len(keys)
    file.write_bytes(b"PK attributes.weight")  # not cached, so that its warning appears every time
    assert key_of(file, None, "onnxruntime", None) is None
    assert key_of(tmp_path / "absent", None, "onnxruntime", None) is None
    assert key_of(tmp_path, None, "onnxruntime", None) is None


def replace_by_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def swap_graph(folder: Path) -> None:
    """Put a valid graph and record of another key under ``KEY``."""
    store_graph("1" * 64, {}, b"another graph")
    for suffix in (".json", ".onnx"):
        (folder / f"{'1' * 64}{suffix}").replace(folder / f"{KEY}{suffix}")


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


UNTRUSTED: dict[str, Callable[[Path], object]] = {
    "a changed graph": lambda folder: (folder / f"{KEY}.onnx").write_bytes(b"Graph"),
    "a truncated graph": lambda folder: (folder / f"{KEY}.onnx").write_bytes(b"grap"),
    "no graph": lambda folder: (folder / f"{KEY}.onnx").unlink(),
    "the graph of another key": swap_graph,
    "not JSON": lambda folder: (folder / f"{KEY}.json").write_bytes(b"\xff{"),
    "a list": lambda folder: (folder / f"{KEY}.json").write_text("[1, 2]"),
    "deep JSON": lambda folder: (folder / f"{KEY}.json").write_text("[" * 100_000),
    "a huge record": lambda folder: (folder / f"{KEY}.json").write_bytes(b" " * ((1 << 20) + 1)),
    "about is not a dict": lambda folder: (folder / f"{KEY}.json").write_text(
        json.dumps({"key": KEY, "onnx_sha256": hashlib.sha256(b"graph").hexdigest(), "about": 3})
    ),
    "a folder writable by all": lambda folder: folder.chmod(0o777),
    "a folder writable by the group": lambda folder: folder.chmod(0o770),
    "a graph writable by all": lambda folder: (folder / f"{KEY}.onnx").chmod(0o666),
    "a record writable by all": lambda folder: (folder / f"{KEY}.json").chmod(0o622),
    "a link to a folder": replace_by_link,
    "a link to a graph": lambda folder: replace_by_link(folder / f"{KEY}.onnx"),
    "a link to a record": lambda folder: replace_by_link(folder / f"{KEY}.json"),
    "a pipe": lambda folder: make_pipe(folder / f"{KEY}.onnx"),
}


@owners
@pytest.mark.parametrize("kind", UNTRUSTED)
def test_untrusted_cache_files_are_not_used(kind: str, cache: Path) -> None:
    store_graph(KEY, {"card": 1}, b"graph")
    assert load_graph(KEY) == ({"card": 1}, b"graph")
    UNTRUSTED[kind](cache)
    assert load_graph(KEY) is None
    assert recall(KEY) is None


@owners
def test_files_of_another_user_are_not_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store_graph(KEY, {}, b"graph")
    assert cache.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in cache.iterdir())
    me = os.geteuid()
    monkeypatch.setattr(graph_cache.os, "geteuid", lambda: me + 1)
    assert load_graph(KEY) is None
    store_graph("1" * 64, {}, b"graph")  # nothing is written into another user's folder
    assert {path.stem for path in cache.iterdir()} == {KEY}


@owners
def test_a_malformed_record_is_ignored(cache: Path) -> None:
    store_graph(KEY, {"card": {"format": "osnet-weights-1"}, "network_sha256": "a"}, b"graph")
    assert load_graph(KEY) is not None
    assert recall(KEY) is None


@owners
def test_concurrent_reads_and_writes_give_complete_graphs() -> None:
    graphs = [bytes([n]) * 50_000 for n in range(4)]

    def work(n: int) -> bool:
        store_graph(KEY, {"n": n % 4}, graphs[n % 4])
        found = load_graph(KEY)
        return found is None or found[1] in graphs

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(40)))
    store_graph(KEY, {"n": 1}, graphs[1])
    assert load_graph(KEY) == ({"n": 1}, graphs[1])


@owners
def test_the_oldest_graphs_are_deleted(cache: Path) -> None:
    for n in range(MAX_GRAPHS + 3):
        store_graph(f"{n:064}", {}, b"graph")
        os.utime(cache / f"{n:064}.json", (n, n))
    assert load_graph(f"{MAX_GRAPHS + 2:064}") is not None
    assert load_graph(f"{0:064}") is None
    assert len(list(cache.iterdir())) == 2 * MAX_GRAPHS


def test_an_unwritable_cache_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OSNET_CACHE", str(tmp_path / "file" / "cache"))
    store_graph(KEY, {}, b"graph")
    assert load_graph(KEY) is None


@owners
def test_a_network_loaded_in_inference_mode_allows_gradients(tiny_weights: Path) -> None:
    pytest.importorskip("onnxruntime")
    Embedder(tiny_weights, device="cpu")
    second = Embedder(tiny_weights, device="cpu")
    with torch.inference_mode():
        network = second.network  # loaded at first use
    assert not any(tensor.is_inference() for tensor in network.state_dict().values())
