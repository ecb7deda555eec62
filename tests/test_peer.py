"""Embeddings and scores against torchreid 0.2.5 (written by fixtures/make_torchreid_outputs.py)."""

import importlib.util

import numpy as np
import pytest
import torch

from conftest import FIXTURES
from osnet.metrics.ranking import rank_scores_from_distances
from osnet.models.osnet import OSNet
from osnet.models.registry import VARIANTS
from osnet.weights.checkpoint import load_weights
from osnet.weights.torchreid import torchreid_names

SPEC = importlib.util.spec_from_file_location("make_torchreid_outputs", FIXTURES / "make_torchreid_outputs.py")
assert SPEC is not None
assert SPEC.loader is not None
SCRIPT = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(SCRIPT)
PEER = np.load(FIXTURES / "torchreid_outputs.npz", allow_pickle=False)
CUHK03 = np.load(FIXTURES / "torchreid_cuhk03.npz", allow_pickle=False)


@pytest.mark.parametrize("name", SCRIPT.NAMES)
def test_torchreid_checkpoints_give_torchreids_embeddings(name: str, tmp_path) -> None:
    """A file with torchreid's tensor names loads, and the network gives torchreid's embeddings."""
    config = VARIANTS[name].config
    names = torchreid_names(config)
    peer_names = [key for key in PEER[f"{name} keys"].tolist() if not key.startswith("classifier.")]
    assert sorted(names.values()) == sorted(peer_names)
    shapes = {names[key]: value for key, value in OSNet(config).state_dict().items()}
    file = tmp_path / f"{name}.pth"
    torch.save(SCRIPT.fill(shapes), file)
    network = load_weights(file)
    assert network.card is not None
    assert network.card.name == name
    with torch.no_grad():
        embeddings = network(SCRIPT.image()).numpy()
    expected = PEER[name]
    assert expected.std() > 0.1  # constant embeddings would agree trivially
    assert np.abs(embeddings - expected).max() <= 1e-4 * np.abs(expected).max()


def test_tensor_names_are_in_torchreids_order() -> None:
    for name in ("osnet_x1_0", "osnet_ibn_x1_0"):
        ours = list(torchreid_names(VARIANTS[name].config).values())
        assert ours == PEER[f"{name} keys"].tolist()[: len(ours)]


def test_ranking_scores_match_torchreid() -> None:
    labels = [PEER[key] for key in ("query_pids", "gallery_pids", "query_camids", "gallery_camids")]
    scores = rank_scores_from_distances(PEER["distances"], *labels, max_rank=20)
    assert scores.mean_ap == pytest.approx(float(PEER["mean_ap"]), abs=1e-6)
    np.testing.assert_allclose(scores.cmc, PEER["cmc"], atol=1e-6)


def labels_of(prefix: str) -> list[np.ndarray]:
    return [CUHK03[prefix + key] for key in ("query_pids", "gallery_pids", "query_camids", "gallery_camids")]


def test_cuhk03_rule_without_random_choices_matches_torchreid() -> None:
    scores = rank_scores_from_distances(CUHK03["distances"], *labels_of(""), max_rank=20, rule="cuhk03")
    assert 0.0 < scores.mean_ap < 0.9
    assert scores.mean_ap == pytest.approx(float(CUHK03["mean_ap"]), abs=1e-6)
    np.testing.assert_allclose(scores.cmc, CUHK03["cmc"], atol=1e-6)


def test_cuhk03_rule_has_torchreids_distribution() -> None:
    """Random choices differ, so means over 400 repeats are compared, within four standard errors."""
    ours = np.array(
        [
            rank_scores_from_distances(
                CUHK03["drawn distances"], *labels_of("drawn "), max_rank=10, rule="cuhk03", seed=seed
            ).cmc
            for seed in range(40)
        ]
    )
    theirs = CUHK03["drawn cmcs"]
    error = np.sqrt((ours.var(0, ddof=1) + theirs.var(0, ddof=1)) / 40)
    assert (np.abs(ours.mean(0) - theirs.mean(0)) <= 4 * error + 1e-9).all()
    multi_shot = rank_scores_from_distances(CUHK03["drawn distances"], *labels_of("drawn "), max_rank=10)
    assert np.abs(multi_shot.cmc - theirs.mean(0)).max() > 0.1  # the rule matters
    assert multi_shot.mean_ap == pytest.approx(float(CUHK03["drawn mean_ap"]), abs=1e-6)
