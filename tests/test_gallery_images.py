"""A gallery with an embedder: adding and searching images; adapters for boxes of other libraries."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import osnet
import osnet.gallery.search as search_module
from osnet import BoxmotFeatures, Embedder, Frame, Gallery, Item, OSNet, Preprocessing
from osnet.errors import GalleryError, ImageError, TrainingError
from osnet.types import Crop

SMALL = Preprocessing(size_hw=(64, 32))


@pytest.fixture(scope="module")
def embedder(tiny_network: OSNet) -> Embedder:
    return Embedder(tiny_network, preprocessing=SMALL)


def image(seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return np.kron(draw.integers(0, 256, (8, 4, 3)), np.ones((8, 8, 1))).astype(np.uint8)


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    folder = tmp_path / "crops"
    folder.mkdir()
    for n in range(5):
        Image.fromarray(image(n)).save(folder / f"{n}.png")
    return folder


@pytest.fixture
def gallery(tmp_path: Path, crops: Path, embedder: Embedder) -> Gallery:
    made = Gallery.open(tmp_path / "g", embedder)
    made.add(crops)
    return made


def test_search_by_image_matches_search_by_embedding(gallery: Gallery, crops: Path, embedder: Embedder) -> None:
    assert gallery.sources() == {str(crops / f"{n}.png") for n in range(5)}
    rows = embedder.embed(crops)
    hits = gallery.search(crops / "3.png", top=5)
    order = np.argsort(-(rows @ rows[3]), kind="stable")
    assert [hit.item.source for hit in hits] == [str(crops / f"{n}.png") for n in order]
    assert hits[0].score == pytest.approx(1, abs=1e-6)
    same = gallery.search_embedding(rows[3], weights_sha256=embedder.sha256(), top=5)
    assert [hit.item for hit in hits] == [hit.item for hit in same]
    assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in same], abs=1e-6)
    assert gallery.search(image(3)[..., ::-1], channels="bgr", top=1)[0].item.source == str(crops / "3.png")
    assert gallery.search(Frame(image(3), [[0, 0, 32, 64]]), top=1)[0].item.source == str(crops / "3.png")
    assert len(Gallery.open(gallery.folder)) == 5


def test_only_new_and_changed_files_are_embedded(gallery: Gallery, crops: Path) -> None:
    again = gallery.add(crops)
    assert (again.added.new, again.added.replaced, again.update.same, again.update.todo) == (0, 0, 5, {})
    Image.fromarray(image(7)).save(crops / "1.png")
    Image.fromarray(image(8)).save(crops / "new.png")
    done = gallery.add([crops / "0.png", crops / "1.png", crops / "new.png"])
    assert (done.added.new, done.added.replaced, done.update.same) == (1, 1, 1)
    assert gallery.search(image(7), top=1)[0].item.source == str(crops / "1.png")


def test_items_and_crops_set_labels_and_paths_keep_them(gallery: Gallery, crops: Path) -> None:
    gallery.add([Item(str(crops / "0.png"), "ada", "north"), Crop(crops / "1.png", 7, 2, camera="2"), crops / "2.png"])
    gallery.add(Crop(crops / "3.png", 0, 1, "0"))  # a distractor
    gallery.add(crops)
    labels = {Path(item.source).stem: (item.identity, item.camera) for item in gallery.items}
    assert labels == {"0": ("ada", "north"), "1": ("7", "2"), "2": (None, None), "3": (None, None), "4": (None, None)}


def test_unreadable_images_raise_or_are_skipped(gallery: Gallery, crops: Path) -> None:
    (crops / "6.png").write_bytes(b"not an image")
    Image.fromarray(image(9)).save(crops / "5.png")
    with pytest.raises(ImageError, match=r"6\.png"):
        gallery.add([crops / "5.png", crops / "6.png"])
    assert len(gallery) == 6, "images before the bad one must be added"
    done = gallery.add(crops, on_error="skip")
    assert [failure.name for failure in done.failures] == [str(crops / "6.png")]


def test_search_many_matches_single_searches(
    gallery: Gallery, crops: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    singly = [gallery.search(crops / f"{n}.png", top=3) for n in range(5)]
    for at_once in (search_module.QUERIES_AT_ONCE, 3, 1):
        monkeypatch.setattr(search_module, "QUERIES_AT_ONCE", at_once)
        joint = gallery.search_many(crops, top=3)
        assert [[hit.item for hit in hits] for hits in joint] == [[hit.item for hit in hits] for hits in singly]
        for hits, others in zip(joint, singly, strict=True):
            np.testing.assert_allclose([hit.score for hit in hits], [hit.score for hit in others], atol=1e-6)
    frame = Frame(np.concatenate([image(2), image(4)], axis=1), [[0, 0, 32, 64], [32, 0, 64, 64]])
    found = gallery.search_many(frame, top=1)
    assert [Path(hits[0].item.source).stem for hits in found] == ["2", "4"]
    assert gallery.search_many([]) == []
    with pytest.raises(GalleryError, match="2"):
        gallery.search(frame)


def test_invalid_calls_are_refused(gallery: Gallery, crops: Path, embedder: Embedder, tiny_network: OSNet) -> None:
    alone = Gallery.open(gallery.folder)
    calls: list[Callable[[], object]] = [
        lambda: alone.search(crops / "0.png"),
        lambda: alone.add(crops),
        lambda: alone.embedder,
        lambda: gallery.search(embedder.embed(crops / "0.png")),
        lambda: gallery.search_many(embedder.embed(crops)),
        lambda: gallery.search(crops / "0.png", top=0),
        lambda: gallery.add(image(1)),
        lambda: Gallery.open(gallery.folder, Embedder(tiny_network)),
        lambda: gallery.search_embeddings(np.ones((2, 3)), weights_sha256=embedder.sha256()),
        lambda: gallery.search_embeddings(np.ones((2, 512)), weights_sha256="0" * 64),
    ]
    for call in calls:
        with pytest.raises(GalleryError):
            call()
    assert len(Gallery.open(gallery.folder)) == 5


def test_detections_of_supervision_are_boxes(embedder: Embedder) -> None:
    boxes = np.array([[0, 0, 16, 64], [8, 0, 32, 64]], np.float32)
    detections = SimpleNamespace(xyxy=boxes, confidence=None)
    expected = embedder.embed(Frame(image(0), boxes))
    np.testing.assert_array_equal(embedder.embed(Frame(image(0), detections)), expected)  # type: ignore[arg-type]
    none = SimpleNamespace(xyxy=np.empty((0, 4)))
    assert embedder.embed(Frame(image(0), none)).shape == (0, 512)  # type: ignore[arg-type]


@pytest.mark.parametrize("normalize", [True, False])
def test_features_for_boxmot(tiny_network: OSNet, normalize: bool) -> None:
    embedder = Embedder(tiny_network, normalize=normalize, preprocessing=SMALL)
    reid, boxes = BoxmotFeatures(embedder), np.array([[0.0, 0, 16, 64], [8, 0, 32, 64]])
    features = reid.get_features(boxes, image(0)[..., ::-1])
    assert (features.dtype, features.shape) == (np.float32, (2, 512))
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)
    expected = Embedder(tiny_network, preprocessing=SMALL).embed(Frame(image(0), boxes))
    np.testing.assert_allclose(features, expected, atol=1e-6)
    assert reid.get_features(np.empty((0, 4)), image(0)).shape == (0, 512)
    assert reid.get_features(np.array([]), image(0)).shape == (0, 512)
    with pytest.raises(ImageError, match="box 1"):
        reid.get_features(np.array([[0, 0, 9, 9], [40, 0, 50, 9]]), image(0))
    dead = SimpleNamespace(normalize=False, embed=lambda *_, **__: np.zeros((1, 4), np.float32))
    assert not BoxmotFeatures(dead).get_features(boxes, image(0)).any()  # type: ignore[arg-type]


def test_every_public_name_exists() -> None:
    for name in osnet.__all__:
        assert getattr(osnet, name) is not None, name
    needed = {"Hit", "Where", "Preprocessing", "Checkpoint", "Embeddings", "Trainer", "Scoring", "export", "errors"}
    assert needed | {"read_benchmark", "get_recipe", "list_recipes", "BoxmotFeatures"} <= set(osnet.__all__)


def test_recipes_by_name() -> None:
    assert "market1501-osnet-x0-25-scratch" in osnet.list_recipes()
    recipe = osnet.get_recipe("market1501-osnet-x0-25-scratch", epochs=3)
    assert (recipe.name, recipe.epochs) == ("market1501-osnet-x0-25-scratch", 3)
    with pytest.raises(TrainingError, match="'market1501-osnet-x0-25-scratch'"):
        osnet.get_recipe("market1501-osnet-x025-scratch")
    with pytest.raises(TrainingError, match="epoch_count"):
        osnet.get_recipe("market1501-osnet-x0-25-scratch", epoch_count=3)
