"""A published score on the complete Market-1501. Needs the data set and weights; takes about a minute."""

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from conftest import shared_data
from osnet.data.reid.catalog import read_benchmark
from osnet.evaluation.evaluate import evaluate
from osnet.evaluation.scoring import Scoring
from osnet.features.embedding_files import read_vectors
from osnet.files import TEMPORARY_PREFIX
from osnet.metrics.ranking import rank_scores

FOLDER = "Market-1501-v15.09.15"


def unpack_once(archive: Path, cache: Path) -> Path:
    """The archive's folder, unpacked into ``cache`` if it is not there yet."""
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / ".lock"):
        if not (cache / FOLDER).exists():
            aside = cache / f"{TEMPORARY_PREFIX}{os.getpid()}"
            with tarfile.open(archive) as tar:
                tar.extractall(aside, filter="data")
            (aside / FOLDER).rename(cache / FOLDER)
    return cache / FOLDER


@pytest.fixture(scope="module")
def market1501(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The complete data set, unpacked in ``OSNET_TEST_CACHE`` if set, else for this session only."""
    archive = shared_data("market1501.tar.xz")
    named = os.environ.get("OSNET_TEST_CACHE")
    return unpack_once(archive, Path(named) if named else tmp_path_factory.mktemp("market"))


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_model_zoos_score(market1501: Path, tmp_path: Path) -> None:
    """Rank-1 91.18 and mAP 74.94 by Euclidean distance; the zoo prints 91.2 and 75.0. By cosine 91.48 and 77.39.

    The tolerance of 0.015 points covers rounding on other processors.
    """
    weights = shared_data("weights/osnet_x0_25_market1501.pth")
    dataset = read_benchmark("market1501", market1501).datasets[0]
    assert (len(dataset.query), len(set(dataset.query.pids))) == (3368, 750)
    assert (len(dataset.gallery), dataset.num_junk) == (19_732 - 3819, 3819)
    features = tmp_path / "features"
    result = evaluate(weights, dataset, scoring=Scoring(distance="euclidean"), features=features)
    assert result.num_scored == 3368
    assert 100 * result.scores["rank-1"] == pytest.approx(91.18, abs=0.015)
    assert 100 * result.scores["mAP"] == pytest.approx(74.94, abs=0.015)
    (query, _), (gallery, _) = (read_vectors(features / f"{split}-raw.npz") for split in ("query", "gallery"))
    assert gallery.names == [str(path) for path in dataset.gallery.paths]
    unit = [found.vectors / np.linalg.norm(found.vectors, axis=1, keepdims=True) for found in (query, gallery)]
    labels = (dataset.query.pids, dataset.gallery.pids, dataset.query.camids, dataset.gallery.camids)
    scores = rank_scores(*unit, *labels)
    assert 100 * scores.cmc[0] == pytest.approx(91.48, abs=0.015)
    assert 100 * scores.mean_ap == pytest.approx(77.39, abs=0.015)
