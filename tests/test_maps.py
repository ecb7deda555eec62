"""Activation maps: values worked by hand, slow loops, figures, and an unchanged network."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from conftest import make_picture, shared_data, texts_outside, write_picture
from osnet.data.transforms import seen_part
from osnet.embedding.embedder import Embedder
from osnet.errors import DataError, ModelError
from osnet.figures.activation import OPACITY, collect_maps, draw_activation, overlay_map, wrap_name
from osnet.figures.maps import (
    activation_map,
    compute_maps,
    find_layers,
    measure_entropy,
    measure_share,
    stretch_map,
)
from osnet.figures.match import explain_match, overlay_parts
from osnet.figures.person_boxes import BoxedImage, cut_mot_people, find_annotation, read_boxed_images
from osnet.models.osnet import OSNet
from osnet.synthetic.generate import GeneratedSettings, generate_dataset, read_annotations
from osnet.types import Preprocessing


@pytest.fixture
def embedder(tiny_network: OSNet) -> Embedder:
    return Embedder(tiny_network, preprocessing=Preprocessing(size_hw=(64, 32)))


def test_activation_map_by_hand() -> None:
    features = torch.tensor([[[[1.0, -2.0], [0.0, 2.0]], [[-3.0, 1.0], [0.0, 2.0]]], [[[0.0] * 2] * 2] * 2])
    absolute = torch.tensor([[4.0, 3.0], [0.0, 4.0]])
    squares = torch.tensor([[10.0, 5.0], [0.0, 8.0]])
    torch.testing.assert_close(activation_map(features)[0], absolute / math.sqrt(41))
    torch.testing.assert_close(activation_map(features, "squares")[0], squares / math.sqrt(189))
    assert not activation_map(features)[1].any()
    with pytest.raises(ModelError, match="absolute, squares"):
        activation_map(features, "cubes")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"\(2, 2, 2\)"):
        activation_map(features[0])


def test_entropy_by_hand() -> None:
    assert measure_entropy(np.ones((4, 8), np.float32)) == pytest.approx(5)
    assert measure_entropy(np.eye(1, 8, dtype=np.float32)) == 0
    assert measure_entropy(np.array([[2, 1, 1, 0]], np.float32)) == pytest.approx(1.5)
    assert math.isnan(measure_entropy(np.zeros((2, 2), np.float32)))


def test_share_in_a_box_against_counted_pixels() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        strength = rng.random((8, 4), dtype=np.float32)
        left, top = rng.integers(-10, 40), rng.integers(-20, 80)
        box = (left, top, left + rng.integers(1, 60), top + rng.integers(1, 100))
        fine = np.kron(strength, np.ones((16, 16)))  # an image of 64 x 128: each cell is 16 x 16 pixels
        inside = np.zeros((128, 64), bool)
        inside[max(0, box[1]) : max(0, box[3]), max(0, box[0]) : max(0, box[2])] = True
        share, uniform = measure_share(strength, tuple(map(float, box)), (64, 128))
        assert share == pytest.approx(fine[inside].sum() / fine.sum())
        assert uniform == pytest.approx(inside.mean())


def test_stretch_map_against_a_slow_loop() -> None:
    """Bilinear with pixel centres at halves, like OpenCV's resize, which the authors use."""
    rng = np.random.default_rng(1)
    strength = rng.random((4, 2), dtype=np.float32)
    slow = np.empty((16, 8))
    for y in range(16):
        for x in range(8):
            v, u = np.clip((y + 0.5) / 4 - 0.5, 0, 3), np.clip((x + 0.5) / 4 - 0.5, 0, 1)
            y0, x0 = int(v), int(u)
            y1, x1 = min(y0 + 1, 3), min(x0 + 1, 1)
            upper = strength[y0, x0] * (1 - (u - x0)) + strength[y0, x1] * (u - x0)
            lower = strength[y1, x0] * (1 - (u - x0)) + strength[y1, x1] * (u - x0)
            slow[y, x] = upper * (1 - (v - y0)) + lower * (v - y0)
    slow = (slow - slow.min()) / (slow.max() - slow.min())
    np.testing.assert_allclose(stretch_map(strength, (8, 16)), slow, atol=1e-6)
    assert not stretch_map(np.ones((4, 2), np.float32), (8, 16)).any(), "a constant map must stay zero"


def test_the_last_map_is_conv5(embedder: Embedder) -> None:
    pictures = [make_picture(i) for i in range(3)]
    maps = compute_maps(embedder, pictures, ["last", "conv5", "conv4.1.streams.2"])
    np.testing.assert_array_equal(maps["last"], maps["conv5"])
    assert maps["last"].shape == (3, 4, 2)
    np.testing.assert_allclose((maps["conv4.1.streams.2"] ** 2).sum((1, 2)), 1, rtol=1e-5)
    alone = compute_maps(embedder, pictures[1:2])["last"]
    np.testing.assert_allclose(alone[0], maps["last"][1], atol=1e-5)


def test_layers_are_found_by_name_keyword_and_pattern(tiny_network: OSNet) -> None:
    assert find_layers(tiny_network, ["last", "conv3", "last"]) == ["last", "conv3"]
    assert find_layers(tiny_network, ["streams"]) == [f"conv4.1.streams.{i}" for i in range(4)]
    assert find_layers(tiny_network, ["conv?.0.streams.3"]) == [f"conv{i}.0.streams.3" for i in (2, 3, 4)]
    stages = find_layers(tiny_network, ["stages"])
    assert stages[0] == "stem"
    assert stages[-1] == "conv5"
    assert "embedding" not in stages
    with pytest.raises(ModelError, match=r"no layer 'conv9'.*conv"):
        find_layers(tiny_network, ["conv9"])


def test_layers_without_a_single_map_are_refused(embedder: Embedder) -> None:
    with pytest.raises(ModelError, match="called 4 times"):
        compute_maps(embedder, [make_picture(0)], ["conv4.1.aggregate.gate"])
    with pytest.raises(ModelError, match="called 0 times"):
        compute_maps(embedder, [make_picture(0)], ["embedding"])


def test_computing_maps_does_not_change_the_network(embedder: Embedder, tiny_network: OSNet) -> None:
    before = {name: value.clone() for name, value in tiny_network.state_dict().items()}
    tiny_network.train()
    tiny_network.conv3.eval()
    try:
        compute_maps(embedder, [make_picture(0)], ["stages", "streams"])
        assert tiny_network.training
        assert not tiny_network.conv3.training
    finally:
        tiny_network.eval()
    assert all(not m._forward_hooks for m in tiny_network.modules())
    assert all(torch.equal(value, before[name]) for name, value in tiny_network.state_dict().items())


class Plain(nn.Module):
    """A minimal network with ``feature_map``: the map is the image's red channel, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.card = None

    def feature_map(self, x: Tensor) -> Tensor:
        return self.scale * x[:, :1].relu().repeat(1, 2, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.feature_map(x).mean((2, 3))


def test_maps_of_any_network_with_a_feature_map() -> None:
    picture = Image.new("RGB", (32, 64))
    picture.paste((255, 0, 0), (16, 0, 32, 32))
    plain = Embedder.__new__(Embedder)  # only the attributes that maps need
    plain._network, plain.device = Plain(), torch.device("cpu")  # type: ignore[assignment]
    plain.preprocessing = Preprocessing(size_hw=(64, 32), mean=(0, 0, 0), std=(1, 1, 1))
    ((seen,),) = collect_maps([BoxedImage("p", picture, (16, 0, 32, 32))], {"plain": plain})
    assert seen.share == pytest.approx((1.0, 0.25))
    assert seen.entropy == pytest.approx(9)
    assert "100 % in box,\nuniform 25 %" in seen.caption


def test_maps_of_a_network_that_crops_the_centre(tmp_path: Path) -> None:
    """An image of 96 x 64 becomes 48 x 32, of which the middle 32 x 32 are seen: columns 16 to 80 of the image."""
    picture = Image.new("RGB", (96, 64), (90, 90, 90))
    picture.paste((255, 0, 0), (16, 0, 48, 64))
    crops = Preprocessing(size_hw=(32, 32), interpolation="nearest", keep_aspect=True)
    cropping = replace(crops, mean=(0.36, 0.36, 0.36), std=(1, 1, 1))
    plain = Embedder.__new__(Embedder)
    plain._network, plain.device, plain.preprocessing = Plain(), torch.device("cpu"), cropping  # type: ignore[assignment]
    ((seen,),) = collect_maps([BoxedImage("p", picture, (0, 0, 48, 64))], {"plain": plain})
    assert seen.part == pytest.approx((1 / 6, 0, 5 / 6, 1))
    assert seen.share == pytest.approx((1.0, 0.5)), "the 16 columns of the box that are not seen do not count"
    grey = np.asarray(picture.convert("L").convert("RGB"))
    match = explain_match(plain, picture, picture)
    assert match.query_part == match.hit_part == seen.part
    for laid in (
        overlay_map(picture, seen.strength, part=seen.part),
        overlay_parts(picture, match.query_for_hit, float(match.query_for_hit.max()), False, match.query_part),
    ):
        np.testing.assert_array_equal(laid[:, :16], grey[:, :16])
        np.testing.assert_array_equal(laid[:, 80:], grey[:, 80:])
        most, least = np.array([253, 231, 37]), np.array([68, 1, 84])
        np.testing.assert_allclose(laid[32, 30], (1 - OPACITY) * grey[32, 30] + OPACITY * most, atol=1.5)
        np.testing.assert_allclose(laid[32, 70], (1 - OPACITY) * grey[32, 70] + OPACITY * least, atol=1.5)
    sliver = overlay_map(Image.new("RGB", (256, 2)), seen.strength, part=seen_part((30_000, 100), cropping))
    assert (sliver.max(axis=(0, 2)) > 0).sum() == 1, "a column at least is drawn"
    assert seen_part((64, 128), Preprocessing()) == (0, 0, 1, 1)
    assert seen_part((500, 400), Preprocessing(size_hw=(224, 224), crop_from=(256, 256))) == (
        16 / 256,
        16 / 256,
        240 / 256,
        240 / 256,
    )


def test_overlay_mixes_grey_and_colour() -> None:
    picture = Image.new("RGB", (2, 2), (200, 200, 200))
    laid = overlay_map(picture, np.array([[0, 1], [1, 0]], np.float32), "viridis")
    least, most = np.array([68, 1, 84]), np.array([253, 231, 37])
    np.testing.assert_allclose(laid[0, 0], (1 - OPACITY) * 200 + OPACITY * least, atol=1.5)
    np.testing.assert_allclose(laid[0, 1], (1 - OPACITY) * 200 + OPACITY * most, atol=1.5)
    with pytest.raises(ModelError, match="jet"):
        overlay_map(picture, np.ones((1, 1), np.float32), "rainbow")


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_activation_figures_are_deterministic(tmp_path: Path, embedder: Embedder, suffix: str) -> None:
    photos = [
        BoxedImage("one_two_three", make_picture(0), (10, 20, 50, 100)),
        BoxedImage("b", make_picture(1, (90, 100))),
    ]
    maps = collect_maps(photos, {"a": embedder, "b": embedder}, ["last", "conv3"])
    outs = [tmp_path / f"{i}.{suffix}" for i in range(2)]
    for out in outs:
        draw_activation(photos, maps, out, colours="jet")
    first, again = (out.read_bytes() for out in outs)
    assert first == again
    for date in (b"CreationDate", b"<dc:date"):  # two files of one second would be equal in spite of it
        assert date not in first
    assert first.startswith({"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[suffix])
    if suffix == "svg":
        assert b"entropy" in first, "text must stay text, not paths"


@pytest.mark.parametrize(
    ("networks", "layers", "titles"),
    [
        (["osnet_x0_25_msmt17"], ["last"], ["osnet_x0_", "25_msmt17"]),
        (["one"], ["last", "conv3"], ["last map", "conv3"]),
        (["one", "two"], ["last"], ["one", "two"]),
        (["one", "two"], ["last", "conv3"], ["one", "last map", "one", "conv3", "two", "last map", "two", "conv3"]),
        (["one"], ["conv3"], ["conv3"]),
    ],
)  # fmt: skip
def test_column_titles_are_unambiguous(
    networks: list[str], layers: list[str], titles: list[str], tmp_path: Path, embedder: Embedder
) -> None:
    photos = [BoxedImage("p", make_picture(0))]
    draw_activation(photos, collect_maps(photos, dict.fromkeys(networks, embedder), layers), tmp_path / "t.svg")
    texts = re.findall(r">([^<>]+)</t(?:ext|span)>", (tmp_path / "t.svg").read_text())
    start = texts.index("image")
    assert texts[start + 1 : start + 2 + len(titles)] == [*titles, "p"], "the first row must follow with its name"


def test_all_text_fits_on_the_page(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(
        "osnet.figures.activation.save_figure", lambda figure, path: drawn.append(texts_outside(figure))
    )
    names = ["osnet_x0_25_msmt17", "market1501-osnet-t1-x0-25-scratch"]
    photos = [BoxedImage("0010_c1s2_000001_00.jpg", make_picture(0), (10, 20, 50, 100))]
    draw_activation(photos, collect_maps(photos, dict.fromkeys(names, embedder), ["last", "streams"]), "a.png")
    assert drawn == [[]]


def test_long_names_are_wrapped_between_parts() -> None:
    assert wrap_name("0010_c1s2_000001_00.jpg") == "0010_c1s2_\n000001_00"
    assert wrap_name("osnet_x0_25_msmt17", letters=14, lines=3) == "osnet_x0_\n25_msmt17", (
        "lines must be of similar length"
    )
    assert wrap_name("market1501-osnet-t1-x0-25", letters=14, lines=3) == "market1501-\nosnet-t1-x0-25"
    assert wrap_name("000001.jpg") == "000001"
    assert wrap_name("") == ""
    assert wrap_name("conv4.1.streams.0", ".") == "conv4.1.streams.0"
    assert max(map(len, wrap_name("x" * 80).split("\n"))) <= 21


def test_boxes_of_generated_people_are_read(tmp_path: Path) -> None:
    root = generate_dataset(tmp_path / "people", GeneratedSettings(8, 2, 1, 0))
    file, note = next(iter(read_annotations(root).items()))
    (photo,) = read_boxed_images([root / file])
    assert photo.box == note.box
    assert find_annotation(write_picture(tmp_path / "elsewhere" / "a.png")) is None


def test_mot_crops_are_wider_than_the_box(tmp_path: Path) -> None:
    frame = tmp_path / "img1" / "000003.jpg"
    write_picture(frame, 0, (400, 300))
    (tmp_path / "gt").mkdir()
    rows = [
        "3,7,101,51,50,100,1,1,1.0",
        "3,8,101,51,50,20,1,1,1.0",
        "3,9,101,51,50,100,1,1,0.2",
        "2,5,1,1,50,100,1,1,1",
    ]
    (tmp_path / "gt" / "gt.txt").write_text("\n".join(rows) + "\n")
    (photo,) = cut_mot_people(tmp_path, 5)  # 8 is too small, 9 occluded, 5 in a missing frame
    assert photo.name.endswith("person 7")
    assert photo.image.size == (80, 160)  # 1.6 x (50, 100)
    assert photo.box == (15, 30, 65, 130)
    with pytest.raises(DataError, match="96 pixels"):
        (tmp_path / "gt" / "gt.txt").write_text(rows[1] + "\n")
        cut_mot_people(tmp_path, 5)
    with pytest.raises(DataError, match="MOT17"):
        cut_mot_people(tmp_path / "nowhere", 5)


def test_real_weights_have_their_activation_on_people(msmt17_pth: Path) -> None:
    """On crops 1.6 times as large as the person, more of the activation is in the box than of a uniform map."""
    sequences = [shared_data(f"mot17-mini/train/MOT17-{number}-FRCNN") for number in ("04", "09")]
    photos = [photo for sequence in sequences for photo in cut_mot_people(sequence, 8)]
    seen = [maps[0] for maps in collect_maps(photos, {"": Embedder(msmt17_pth)})]
    gains = [s.share[0] - s.share[1] for s in seen if s.share]
    assert len(gains) >= 8
    assert np.mean(gains) > 0.1
