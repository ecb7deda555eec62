"""Match explanations: the score's parts per location sum to the score and are at the right places."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import make_picture, texts_outside
from osnet.embedding.embedder import Embedder
from osnet.errors import ModelError
from osnet.figures.match import draw_match, explain_match, split_scores
from osnet.figures.person_boxes import BoxedImage
from osnet.models.config import OSNetConfig
from osnet.models.osnet import OSNet
from osnet.types import Preprocessing


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_parts_of_a_match_sum_to_the_score(pooling: str) -> None:
    torch.manual_seed(0)
    network = OSNet(OSNetConfig(width=0.25, pooling=pooling))  # type: ignore[arg-type]
    with torch.no_grad():
        network.train()(torch.rand(8, 3, 64, 32))
    embedder = Embedder(network.eval(), preprocessing=Preprocessing(size_hw=(64, 32)))
    a, b, c = (make_picture(i) for i in range(3))
    maps = explain_match(embedder, a, b, c)
    va, vb, vc = embedder.embed([a, b, c])
    assert maps.score == pytest.approx(float(va @ vb), abs=1e-5)
    assert maps.next_score == pytest.approx(float(va @ vc), abs=1e-5)
    assert maps.query_for_hit.sum() == pytest.approx(maps.score, abs=1e-5)
    assert maps.hit_for_query.sum() == pytest.approx(maps.score, abs=1e-5)
    assert maps.query_rather_than_next is not None
    assert maps.query_rather_than_next.sum() == pytest.approx(float(va @ vb - va @ vc), abs=1e-5)
    assert "feature_map" not in vars(network), "the network must be restored"
    assert all(p.grad is None for p in network.parameters())


def test_parts_with_average_pooling_by_the_formula(tiny_network: OSNet) -> None:
    """A slow loop: embed each cell alone, apply the mask of the whole embedding's ReLU, project."""
    torch.manual_seed(1)
    images, direction = torch.randn(1, 3, 64, 32), torch.rand(1, 512)
    parts = split_scores(tiny_network, images, direction)[0]
    with torch.no_grad():
        features = tiny_network.feature_map(images)[0]
        whole = tiny_network(images)[0]
        layer = tiny_network.embedding
        slow = np.empty(parts.shape)
        zero = layer.norm(layer.linear(torch.zeros(1, features.shape[0])))[0]
        for y in range(parts.shape[0]):
            for x in range(parts.shape[1]):
                cell = layer.norm(layer.linear(features[None, :, y, x]))[0]
                linear = (cell - zero) / parts.size  # the cell's part of the mean, without the biases
                slow[y, x] = float((linear + zero / parts.size) * (whole > 0) @ direction[0] / whole.norm())
    np.testing.assert_allclose(parts, slow, atol=1e-5)


class ChannelMeans(nn.Module):
    """A network whose embedding is the mean of the image's channels, so that each pixel's part is known."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def feature_map(self, x: Tensor) -> Tensor:
        return x * self.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.feature_map(x).mean((2, 3))


def test_parts_are_at_the_pixels_that_cause_them() -> None:
    image = torch.zeros(1, 3, 4, 2)
    image[0, 0, 3, 1] = 8.0  # red at the bottom right
    image[0, 1, 0, 0] = 6.0  # green at the top left
    red = split_scores(ChannelMeans(), image, torch.tensor([[1.0, 0.0, 0.0]]))[0]
    assert red[3, 1] == pytest.approx(0.8)  # the mean is (1, 0.75, 0), of length 1.25
    assert np.count_nonzero(np.abs(red) > 1e-6) == 1


def test_a_network_that_does_not_use_its_map_is_refused() -> None:
    class Odd(ChannelMeans):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3))

    with pytest.raises(ModelError, match="calls feature_map 0 times"):
        split_scores(Odd(), torch.rand(1, 3, 4, 2), torch.ones(1, 3))


def test_match_figure(tmp_path: Path, tiny_network: OSNet) -> None:
    embedder = Embedder(tiny_network, preprocessing=Preprocessing(size_hw=(64, 32)))
    photos = [BoxedImage(f"photo {i}", make_picture(i)) for i in range(3)]
    for number in (2, 3):
        maps = explain_match(embedder, *[photo.image for photo in photos[:number]])
        draw_match(photos[:number], maps, tmp_path / f"{number}.svg")
    assert f"hit: score {maps.score:.3f}" in (tmp_path / "2.svg").read_text()
    assert "next person" not in (tmp_path / "2.svg").read_text()
    assert f"next person: {maps.next_score:.3f}" in (tmp_path / "3.svg").read_text()


@pytest.mark.parametrize("number", [2, 3])
def test_all_text_fits_on_the_page(number: int, tiny_network: OSNet, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr("osnet.figures.match.save_figure", lambda figure, path: drawn.append(texts_outside(figure)))
    photos = [BoxedImage(f"0012_c1s2_00000{i}_00.jpg", make_picture(i)) for i in range(number)]
    maps = explain_match(Embedder(tiny_network), *[photo.image for photo in photos])
    draw_match(photos, maps, "a.png")
    assert drawn == [[]]
