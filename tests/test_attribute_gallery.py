"""Galleries that store attributes: search by image, by attributes, by both; switched-off attributes are deleted."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from osnet import Embedder, Gallery, Item
from osnet.cli import main
from osnet.data.attributes.identities import read_generated_attributes
from osnet.embedding.attribute_predictor import AttributePredictor, find_attributes, match_score
from osnet.errors import DataError, GalleryError
from osnet.gallery import AttributeProbabilities, Where, attribute_probabilities
from osnet.gallery.segments import StoredAttribute
from osnet.models.heads import AttributeHead, switch_attributes
from osnet.synthetic.generate import GeneratedSettings, generate_dataset
from osnet.weights.checkpoint import save_weights

NAMES = ("Female", "Hat", "Backpack")
STORED = tuple(StoredAttribute(name, threshold, name) for name, threshold in zip(NAMES, (0.5, 0.3, 0.5), strict=True))
PROBABILITIES = np.array([[0.9, 0.1, 0.8], [0.2, 0.4, 0.9], [0.6, 0.29, 0.4], [0.5, 0.9, 0.95]], dtype=np.float32)
VECTORS = np.array([[1, 0], [0, 1], [1, 1], [1, 0.1]], dtype=np.float32)
ITEMS = [Item(name, camera=camera) for name, camera in zip("abcd", "1122", strict=True)]


@pytest.fixture
def store(tmp_path: Path) -> Gallery:
    gallery = Gallery.create(tmp_path / "g", weights_sha256="w", embedding_size=2, attributes=STORED)
    for rows in (slice(0, 3), slice(3, 4)):
        probabilities = AttributeProbabilities(STORED, PROBABILITIES[rows])
        gallery.add_embeddings(VECTORS[rows], ITEMS[rows], weights_sha256="w", attributes=probabilities)
    return gallery


def sources(hits: list) -> str:
    return "".join(hit.item.source for hit in hits)


def test_search_by_attributes(store: Gallery) -> None:
    """The score is the geometric mean of p for wanted attributes and 1 - p for unwanted ones."""
    hits = store.search_attributes(["backpack"], ["hat"])
    expected = {"a": 0.8 * 0.9, "b": 0.9 * 0.6, "c": 0.4 * 0.71, "d": 0.95 * 0.1}
    assert sources(hits) == "abcd"
    for hit in hits:
        assert hit.score == pytest.approx(math.sqrt(expected[hit.item.source]), abs=1e-6)
    assert hits[0].attributes == pytest.approx({"Female": 0.9, "Hat": 0.1, "Backpack": 0.8})
    assert sources(store.search_attributes(["hat"], where=Where(cameras=frozenset("1")))) == "ba"
    assert sources(store.search_attributes([], ["female"], top=1)) == "b"
    for having, lacking, words in (
        ([], [], "no attribute"), (["tail"], [], "'tail'.*Female, Hat"),
        (["hat"], ["Hat"], "Hat"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=words):
            store.search_attributes(having, lacking)


def test_attributes_that_another_thread_deletes_during_a_search(
    store: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The columns of the state that is read are named by that state: else a hat would be scored as a sex."""
    expected = store.search_attributes(["backpack"], ["hat"])
    read = store._read

    def read_late(action):  # type: ignore[no-untyped-def]
        def delayed(state):  # type: ignore[no-untyped-def]
            store.forget_attributes(["Female"])
            return action(state)

        return read(delayed)

    monkeypatch.setattr(store, "_read", read_late)
    assert store.search_attributes(["backpack"], ["hat"]) == expected


def test_search_by_image_and_attributes(store: Gallery) -> None:
    """Attributes filter, each by its own threshold; the image ranks."""
    everything = store.search_embedding([1.0, 0.0], weights_sha256="w")
    assert sources(everything) == "adcb"
    with_backpack = store.search_embedding([1.0, 0.0], weights_sha256="w", where=Where(having=frozenset({"backpack"})))
    assert sources(with_backpack) == "adb"
    assert with_backpack[0].score == everything[0].score == pytest.approx(1)
    no_hat = Where(lacking=frozenset({"Hat"}))
    assert (
        sources(store.search_embedding([1.0, 0.0], weights_sha256="w", where=no_hat)) == "ac"
    )  # the hat's threshold is 0.3
    strict = Where(lacking=frozenset({"Hat"}), min_probability=0.5)
    assert sources(store.search_embedding([1.0, 0.0], weights_sha256="w", where=strict)) == "acb"
    assert Where(min_probability=0.1).is_empty


def test_attributes_survive_reopening_and_removing_items(store: Gallery) -> None:
    store.remove(Where(having=frozenset({"female"}), lacking=frozenset({"hat"})))  # a and c
    again = Gallery.open(store.folder)
    assert again.attributes == NAMES
    assert sources(again.search_attributes(["hat"])) == "db"
    assert [hit.attributes for hit in again.search_attributes(["hat"], top=1)] == [
        pytest.approx({"Female": 0.5, "Hat": 0.9, "Backpack": 0.95})
    ]
    path = next(store.folder.glob("undated_*"))
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(GalleryError, match=r"undated_\d+\.safetensors is damaged"):
        Gallery.open(store.folder)


def test_forget_attributes_deletes_them_from_disk(store: Gallery) -> None:
    values = [np.float32(value).tobytes() for value in (0.2, 0.6)]  # of Female only

    def everything() -> bytes:
        return b"".join(path.read_bytes() for path in store.folder.rglob("*") if path.is_file())

    assert all(value in everything() for value in (*values, b"Female"))
    store.forget_attributes(["Female", "never stored"])
    assert store.attributes == ("Hat", "Backpack")
    again = Gallery.open(store.folder)
    assert again.attributes == ("Hat", "Backpack")
    assert sources(again.search_attributes(["backpack"])) == "dbac"
    assert not any(value in everything() for value in (*values, b"Female"))
    with pytest.raises(DataError, match=r"'female'.*Hat, Backpack"):
        again.search_attributes(["female"])
    again.add_embeddings(
        [[0, 1]], [Item("e")], weights_sha256="w", attributes=AttributeProbabilities(STORED, [[0.9, 0.1, 0.2]])
    )
    assert sources(again.search_attributes(["backpack"])) == "dbace"  # only the remaining columns are stored
    again.forget_attributes(["Hat", "Backpack"])
    assert again.attributes == ()
    assert not any(b'"attributes"' in path.read_bytes() for path in store.folder.glob("undated_*"))
    assert "attributes" not in (store.folder / "gallery.json").read_text()
    again.add_embeddings([[0, 1]], [Item("f")], weights_sha256="w")
    assert len(Gallery.open(store.folder)) == 6


def test_attributes_of_another_head_are_refused(store: Gallery) -> None:
    with pytest.raises(GalleryError, match="Female, Hat, Backpack"):
        store.add_embeddings([[0, 1]], [Item("e")], weights_sha256="w")
    other = (*STORED[:2], StoredAttribute("Backpack", 0.5, "another head's"))
    with pytest.raises(GalleryError, match="of another head: Backpack"):
        store.add_embeddings(
            [[0, 1]], [Item("e")], weights_sha256="w", attributes=AttributeProbabilities(other, [[0.1, 0.2, 0.3]])
        )
    for wrong in ([[0.1, 0.2]], [[0.1, 0.2, 1.5]], [[0.1, 0.2, math.nan]]):
        with pytest.raises(GalleryError, match="probabilities"):
            store.add_embeddings(
                [[0, 1]], [Item("e")], weights_sha256="w", attributes=AttributeProbabilities(STORED, wrong)
            )
    assert len(store) == 4


def test_merged_segments_keep_their_attributes(tmp_path: Path) -> None:
    gallery = Gallery.create(tmp_path / "g", weights_sha256="w", embedding_size=2, attributes=STORED)
    for i in range(40):
        probabilities = AttributeProbabilities(STORED, [[i / 40, 0.5, 0.5]])
        gallery.add_embeddings([[1, i]], [Item(str(i))], weights_sha256="w", attributes=probabilities)
    again = Gallery.open(tmp_path / "g")
    assert [hit.item.source for hit in again.search_attributes(["female"], top=3)] == ["39", "38", "37"]


def test_attribute_names_match_loosely() -> None:
    names = ["LongSleeve", "Age18-60", "Skirt&Dress", "boots", "Glasses"]
    asked = ["long sleeves", "LONG-SLEEVE", "age 18-60", "skirt & dress", "boots", "glasses"]
    assert find_attributes(names, asked) == [0, 0, 1, 2, 3, 4]
    assert match_score(np.array([[0.0, 1.0]], np.float32), ["a", "b"], ["a", "b"], []).tolist() == [0.0]


def test_a_gallery_without_attributes_accepts_attribute_networks(tiny_network, tmp_path: Path) -> None:
    """The gallery's files hold no attributes, before and after a network with an attribute head adds an item."""
    gallery = Gallery.open(tmp_path / "g", Embedder(tiny_network))
    content = json.loads((tmp_path / "g" / "gallery.json").read_text())
    assert "attributes" not in content
    image = np.random.default_rng(0).integers(0, 255, (64, 32, 3), np.uint8)
    predictor = AttributePredictor(tiny_network, head=AttributeHead(512, ["hat"]))
    seen = predictor.predict(image)
    gallery = Gallery.open(tmp_path / "g", predictor)
    probabilities = attribute_probabilities(predictor, seen.probabilities)
    gallery.add_embeddings(seen.vectors, [Item("a")], weights_sha256=predictor.sha256(), attributes=probabilities)
    assert gallery.attributes == ()
    assert gallery.search_embedding(seen.vectors[0], weights_sha256=predictor.sha256())[0].attributes is None
    assert "attributes" not in (tmp_path / "g" / "gallery.json").read_text()


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate_dataset(tmp_path_factory.mktemp("p") / "people", GeneratedSettings(8, 2, 2, 4))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, tiny_network) -> Path:
    """A head whose predictions differ between images."""
    from osnet.data.attributes.pa100k import ATTRIBUTES

    torch.manual_seed(5)
    head = AttributeHead(512, ATTRIBUTES)
    with torch.no_grad():
        head.linear.weight.normal_(0, 0.3)
    folder = tmp_path_factory.mktemp("w") / "weights"
    save_weights(tiny_network, folder, attributes=head)
    return folder


def test_index_and_search_commands_with_attributes(
    people: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crops, gallery = people / "bounding_box_test", tmp_path / "gallery"
    photo = str(next((people / "query").iterdir()))
    main(["index", str(crops), "--out", str(gallery), "--weights", str(weights)])
    main(["gallery", "show", str(gallery)])
    assert "attributes: Female, AgeOver60" in capsys.readouterr().out
    sheet = tmp_path / "sheet.png"
    main(["search", str(gallery), "--with", "backpack", "long sleeves", "--without", "hat", "--min-probability", "0",
          "--json", "--sheet", str(sheet), "--top", "4"])  # fmt: skip
    answer = json.loads(capsys.readouterr().out)
    predictor = AttributePredictor(weights)
    paths = sorted(crops.iterdir())
    seen = predictor.predict(paths).probabilities
    place = [predictor.attributes.index(n) for n in ("Backpack", "LongSleeve", "Hat")]
    slow = [(p[place[0]] * p[place[1]] * (1 - p[place[2]])) ** (1 / 3) for p in seen.astype(float)]
    order = sorted(range(len(paths)), key=lambda i: -slow[i])
    assert [Path(hit["source"]).name for hit in answer["hits"]] == [paths[i].name for i in order[:4]]
    assert [hit["score"] for hit in answer["hits"]] == pytest.approx([slow[i] for i in order[:4]], abs=1e-4)
    assert sheet.stat().st_size > 1000
    middle = float(np.median(seen[:, place[0]]))
    main(["search", str(gallery), photo, "--with", "backpack", "--min-probability", str(middle), "--json", "--top",
          "99", "--sheet", str(sheet)])  # fmt: skip
    both = json.loads(capsys.readouterr().out)["hits"]
    expected = {path.name for path, p in zip(paths, seen[:, place[0]], strict=True) if p >= middle}
    assert {Path(hit["source"]).name for hit in both} == expected
    assert 0 < len(both) < len(paths)
    assert [hit["score"] for hit in both] == sorted((hit["score"] for hit in both), reverse=True)
    main(["search", str(gallery), photo])
    assert "attributes asked for" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["search", str(gallery)])
    assert "--with backpack" in capsys.readouterr().err


def test_switching_attributes_off_in_weights_and_gallery(
    people: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gallery = tmp_path / "gallery"
    own = shutil.copytree(weights, tmp_path / "weights")
    switch_attributes([own], off=["AgeOver60"])
    main(["index", str(people / "query"), "--out", str(gallery), "--weights", str(own)])
    assert "AgeOver60" not in Gallery.open(gallery).attributes
    assert "AgeOver60" not in (gallery / "weights" / "card.json").read_text()  # removed from the copied weights
    main(
        ["attributes", "switch", str(own), str(gallery), "--off", "Female", "AgeOver60"]
    )  # weights and gallery in one command
    out = capsys.readouterr().out
    assert f"changed    {own / 'card.json'}: off: Female, AgeOver60" in out
    assert f"changed    {gallery / 'weights' / 'card.json'}: off: Female" in out
    assert f"deleted    {gallery}: the probabilities of Female" in out
    assert "osnet attributes switch GALLERY" not in out
    main(["attributes", "show", str(gallery)])
    assert "Female                    off" in capsys.readouterr().out
    assert Gallery.open(gallery).attributes[0] == "Age18-60"
    assert b"Female" not in (gallery / "gallery.json").read_bytes()
    with pytest.raises(SystemExit):
        main(["search", str(gallery), "--with", "female"])
    assert "unknown attribute 'female'" in capsys.readouterr().err
    main(["index", str(people / "bounding_box_test"), "--out", str(gallery)])  # without the switched-off attributes
    assert len(Gallery.open(gallery)) == len(list((people / "query").iterdir())) * 2
    card = json.loads((gallery / "weights" / "card.json").read_text())
    card["attributes_off"] = ["Female", "Hat"]  # edited by hand
    (gallery / "weights" / "card.json").write_text(json.dumps(card))
    with pytest.raises(SystemExit):
        main(["search", str(gallery), "--with", "hat"])
    assert "unknown attribute 'hat'" in capsys.readouterr().err
    assert "Hat" not in Gallery.open(gallery).attributes


def test_predict_and_evaluate_attributes(
    people: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = sorted((people / "query").iterdir())
    out = tmp_path / "predicted.csv"
    main(["predict", "attributes", *map(str, paths[:2]), "--weights", str(weights), "--out", str(out), "--json"])
    predicted = json.loads(capsys.readouterr().out)
    seen = AttributePredictor(weights).predict(paths[:2])
    assert list(predicted[1]["probabilities"].values()) == pytest.approx(seen.probabilities[1].tolist(), abs=1e-6)
    assert predicted[1]["holds"] == seen.positive(1)
    lines = out.read_text().splitlines()
    assert lines[0].startswith("path,Female,AgeOver60")
    assert [float(v) for v in lines[2].split(",")[1:]] == pytest.approx(seen.probabilities[1].tolist(), abs=1e-6)
    main(["predict", "attributes", str(paths[0]), "--weights", str(weights), "--out", str(tmp_path / "predicted.json")])
    assert f"{seen.positive(0)[0]} " in capsys.readouterr().out
    assert len(json.loads((tmp_path / "predicted.json").read_text())["images"]) == 1
    main(["attributes", "evaluate", "--weights", str(weights), "--data", str(people), "--json"])
    scores = json.loads(capsys.readouterr().out)
    data = read_generated_attributes(people)
    truth = data.test.labels == 1
    positive = AttributePredictor(weights).predict(data.test.paths).probabilities >= 0.5
    assert scores["recall"] == pytest.approx(np.mean((truth & positive).sum(1) / truth.sum(1)))
    main(["attributes", "show", str(weights)])
    assert "Backpack                  from 0.50" in capsys.readouterr().out
