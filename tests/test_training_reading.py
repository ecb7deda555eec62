"""Fast paths of training give the same results as plain ones: samples, worker order, the triplet loss."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from conftest import make_picture
from osnet.data.augmentation import Augmentation
from osnet.data.loading import read_image
from osnet.data.samplers import RandomBatches
from osnet.data.training_set import TrainingSet
from osnet.losses import batch_hard_triplet, pairwise_distance
from osnet.training.epochs import SampledEpochs
from osnet.types import Crop, Preprocessing

SIZES_WH = [(64, 128), (30, 60), (90, 300), (16, 32), (200, 40)]


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> list[Crop]:
    folder = tmp_path_factory.mktemp("crops")
    found = []
    for n in range(20):
        path = folder / f"{n}.{'png' if n % 5 == 4 else 'jpg'}"
        make_picture(n, SIZES_WH[n % 4]).save(path)
        found.append(Crop(path, n % 4 + 1, 0))
    return found


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(),
        Augmentation(crop=1, flip=0.5),
        Augmentation(crop=0.5, patch=1),
        Augmentation(jitter=1, erase=1),
        Augmentation(crop=0.5, patch=0.5, jitter=0.5, erase=0.5),
    ],
)
def test_samples_match_pillow(crops: list[Crop], augmentation: Augmentation) -> None:
    settings = Preprocessing(size_hw=(96, 48))
    samples = TrainingSet(crops, augmentation, settings, seed=3)
    for index in range(len(crops)):
        rng = np.random.default_rng([3, 1, 7])
        pictures = [read_image(crop.path) for crop in crops]
        expected = augmentation.apply(pictures[index], settings, rng, len(crops), pictures.__getitem__)
        assert torch.equal(samples[1, 7, index]["image"], expected)  # type: ignore[arg-type]


def test_damaged_images_do_not_warn_while_training(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 60, 3), dtype=np.uint8)).save(content, "JPEG")
    damaged = bytearray(content.getvalue())
    damaged[-900:-300] = bytes(600)
    crops = []
    for pid in (1, 2):
        path = tmp_path / f"{pid}.jpg"
        path.write_bytes(damaged)
        crops.append(Crop(path, pid, 0))
    samples = TrainingSet(crops, Augmentation(flip=0), Preprocessing(size_hw=(90, 60)), seed=0)
    assert torch.equal(samples.read(0), torch.from_numpy(np.array(read_image(crops[0].path))).permute(2, 0, 1))
    assert not recwarn.list


def read_all(epochs: SampledEpochs, epoch: int, first: int, workers: int, at_most: int = 99) -> list[Tensor]:
    batches, left = epochs.load(epoch, first, workers)
    found = [batch["image"].clone() for _, batch in zip(range(at_most), batches, strict=False)]
    assert len(found) == min(left, at_most)
    return found


def test_workers_give_the_same_batches_over_several_epochs(crops: list[Crop]) -> None:
    """Over complete epochs, an epoch that is left early, and epochs that start in the middle."""
    samples = TrainingSet(crops, Augmentation(crop=0.5), Preprocessing(size_hw=(32, 16)), seed=3)
    inline, parallel = (SampledEpochs(samples, RandomBatches(samples.labels, 4, 1)) for _ in range(2))
    for epoch, first, at_most in ((0, 0, 99), (1, 0, 2), (1, 2, 99), (2, 3, 99)):
        expected = read_all(inline, epoch, first, 0, at_most)
        found = read_all(parallel, epoch, first, 1, at_most)
        assert len(expected) == len(found) > 0
        assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("margin", [0.3, None])
def test_triplet_loss_without_positives_for_some_images(margin: float | None) -> None:
    """Images without another image of their identity are not used as anchors, in loss and gradient."""
    torch.manual_seed(0)
    embeddings = torch.randn(7, 5, requires_grad=True)
    pids = torch.tensor([1, 1, 2, 3, 3, 3, 4])
    loss = batch_hard_triplet(embeddings, pids, margin)
    (gradient,) = torch.autograd.grad(loss, embeddings)
    distance = pairwise_distance(embeddings)
    terms = []
    for a in (0, 1, 3, 4, 5):
        farthest = max(distance[a, b] for b in range(7) if b != a and pids[b] == pids[a])
        closest = min(distance[a, b] for b in range(7) if pids[b] != pids[a])
        gap = farthest - closest
        terms.append(torch.nn.functional.softplus(gap) if margin is None else (gap + margin).clamp(min=0))
    expected = torch.stack(terms).mean()
    (slow,) = torch.autograd.grad(expected, embeddings)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, slow)
