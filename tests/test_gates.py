"""Recorded gates against gates computed by hand; clusters with known members."""

from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import make_picture, texts_outside, write_picture
from osnet.embedding.embedder import Embedder
from osnet.errors import DataError, ModelError
from osnet.figures.gates import GateRecord, cluster_gates, draw_clusters, draw_shares, record_gates
from osnet.figures.maps import prepare_images
from osnet.models.config import OSNetConfig
from osnet.models.osnet import OSNet
from osnet.types import Preprocessing

SMALL = Preprocessing(size_hw=(64, 32))


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return [write_picture(tmp_path / f"{i:02d}.png", i) for i in range(40)]  # more than one batch


def make_embedder(**settings: object) -> Embedder:
    torch.manual_seed(0)
    return Embedder(OSNet(OSNetConfig(width=0.25, **settings)), preprocessing=SMALL)  # type: ignore[arg-type]


@pytest.mark.parametrize("aggregation", ["unified_gate", "separate_gates", "streamwise_gate"])
def test_recorded_gates_match_the_last_block(paths: list[Path], aggregation: str) -> None:
    embedder = make_embedder(aggregation=aggregation)
    record = record_gates(embedder, paths)
    assert record.blocks == ("conv2.0", "conv2.1", "conv3.0", "conv3.1", "conv4.0", "conv4.1")
    assert record.fields == (3, 5, 7, 9)
    network = embedder.network.eval()
    with torch.no_grad():
        x = network.stem_pool(network.stem(prepare_images(embedder, [make_picture(33)])))
        x = network.transition3(network.conv3(network.transition2(network.conv2(x))))
        block = network.conv4[1]
        reduced = block.reduce(network.conv4[0](x))
        streams = [stream(reduced) for stream in block.streams]
        if aggregation == "separate_gates":
            gates = [gate(s) for gate, s in zip(block.aggregate.gates, streams, strict=True)]
        else:
            gates = [block.aggregate.gate(s) for s in streams]
    by_hand = torch.cat([gate.flatten() for gate in gates]).numpy()
    np.testing.assert_allclose(record.vectors[33], by_hand, atol=1e-5)
    sums = np.array([float(gate.sum()) for gate in gates])
    np.testing.assert_allclose(record.shares[33, -1], sums / sums.sum(), atol=1e-5)
    np.testing.assert_allclose(record.shares.sum(2), 1, atol=1e-5)
    assert all(not m._forward_hooks for m in network.modules())


def test_networks_without_gates_are_refused(paths: list[Path]) -> None:
    with pytest.raises(ModelError, match="no gates"):
        record_gates(make_embedder(aggregation="addition"), paths)
    for some in (paths, paths[:1]):
        with pytest.raises(ModelError, match="same for every image"):
            record_gates(make_embedder(aggregation="static_gates"), some)
    with pytest.raises(DataError, match="no images"):
        record_gates(make_embedder(), [])


def make_record() -> tuple[GateRecord, np.ndarray]:
    """30 images in three groups of 15, 10, 5, with distances to the centre that grow in each group."""
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [15, 10, 5])
    away = np.concatenate([np.arange(n) for n in (15, 10, 5)])[:, None] * 1e-3
    signs = rng.choice([-1, 1], (30, 8)) * 0
    signs[:, 0] = np.concatenate([(-1) ** np.arange(n) for n in (15, 10, 5)])
    vectors = np.eye(3, 8)[truth] * 0.6 + 0.2 + away * signs
    order = rng.permutation(30)
    shares = np.full((30, 2, 4), 0.25, np.float32)
    return GateRecord(("a", "b"), shares, vectors[order].astype(np.float32), (3, 5, 7, 9)), truth[order]


def test_clusters_are_found_and_ordered_by_size() -> None:
    record, truth = make_record()
    clusters = cluster_gates(record, 3)
    np.testing.assert_array_equal(clusters.labels, truth)
    assert [len(members) for members in clusters.nearest] == [15, 10, 5]
    for k, members in enumerate(clusters.nearest):
        centre = record.vectors[truth == k].mean(0)
        distance = np.linalg.norm(record.vectors[members] - centre, axis=1)
        assert (np.diff(distance) >= -1e-6).all()
    np.testing.assert_array_equal(cluster_gates(record, 3).nearest[0], clusters.nearest[0])
    with pytest.raises(DataError, match="clusters 31"):
        cluster_gates(record, 31)


def test_gate_figures(paths: list[Path], tmp_path: Path) -> None:
    record = record_gates(make_embedder(), paths)
    clusters = cluster_gates(record, 3)
    draw_clusters(record, clusters, paths, tmp_path / "clusters.svg", nearest=4)
    svg = (tmp_path / "clusters.svg").read_text()
    assert f">cluster 1: {len(clusters.nearest[0])} of 40 images<" in svg
    assert ">3 x 3: " in svg
    for word in (">cluster 1: ", ">Mean share of each scale"):
        assert word in svg
    assert svg.count("<image") == sum(min(4, len(members)) for members in clusters.nearest)
    for shown, nearest in ((0, 4), (3, 0), (-1, 4)):
        with pytest.raises(DataError, match=f"shown {shown} and nearest {nearest} must be at least 1"):
            draw_clusters(record, clusters, paths, tmp_path / "none.svg", shown, nearest)
    assert not (tmp_path / "none.svg").exists()
    draw_shares(record, tmp_path / "shares.svg", {"one": (paths[0], 0)}, "people")
    svg = (tmp_path / "shares.svg").read_text()
    assert "people: 40 images" in svg
    assert "conv4.1" in svg


@pytest.mark.parametrize("nearest", [1, 15])
def test_all_text_fits_on_the_page(nearest: int, paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr("osnet.figures.gates.save_figure", lambda figure, path: drawn.append(texts_outside(figure)))
    record = record_gates(make_embedder(), paths)
    draw_clusters(record, cluster_gates(record, 3), paths, "a.png", nearest=nearest)
    assert drawn == [[]]
