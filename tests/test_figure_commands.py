"""The commands, end to end, on a few generated people; shares and maps of embeddings."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import write_picture
from osnet import cli
from osnet.data.folder import read_dataset
from osnet.data.synthetic import GeneratedSettings, generate_dataset, read_annotations
from osnet.errors import DataError
from osnet.figures.canvas import check_figure_path
from osnet.figures.embeddings import choose_crops, project
from osnet.figures.maps import compute_maps, measure_share
from osnet.figures.shares import measure_shares
from osnet.inference.embedder import Embedder
from osnet.metrics.intervals import cluster_interval
from osnet.models.card import Card
from osnet.models.config import OSNetConfig
from osnet.models.osnet import OSNet
from osnet.models.weights import save_weights
from osnet.types import Crop, Preprocessing

SMALL = Preprocessing(size_hw=(64, 32))


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate_dataset(tmp_path_factory.mktemp("data") / "people", GeneratedSettings(16, 3, 2, 0))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    made = {}
    for name, seed in (("one", 0), ("two", 1)):
        torch.manual_seed(seed)
        network = OSNet(OSNetConfig(width=0.25))
        with torch.no_grad():
            network.train()(torch.rand(8, 3, 64, 32))
        folder = tmp_path_factory.mktemp("runs") / name
        (folder / "weights").parent.mkdir()
        save_weights(network.eval(), folder / "weights", Card(network.config, preprocessing=SMALL, licence="MIT"))
        (folder / "recipe.json").write_text(json.dumps({"recipe": {"name": name, "loss": {"margin": 0.3}}}))
        (folder / "metrics.jsonl").write_text("".join(json.dumps({"epoch": e, "loss": 3 - e}) + "\n" for e in (1, 2)))
        made[name] = str(folder)
    return made


def run(*arguments: object) -> None:
    cli.main([str(argument) for argument in arguments])


def test_shares_against_a_slow_loop(people: Path, weights: dict[str, str]) -> None:
    crops = read_dataset(people).query.crops
    embedders = {name: Embedder(path) for name, path in weights.items()}
    found = measure_shares(crops, embedders)
    notes = read_annotations(people)
    each: dict[str, list[float]] = {name: [] for name in embedders}
    for crop in crops:
        picture = Image.open(crop.path)
        box = notes[crop.path.relative_to(people).as_posix()].box
        for name, embedder in embedders.items():
            strength = compute_maps(embedder, [picture])["last"][0]
            each[name].append(measure_share(strength, box, picture.size)[0])
    difference = np.array(each["one"]) - np.array(each["two"])
    expected = cluster_interval(difference, [crop.pid for crop in crops])
    assert found.differences["all"].mean == pytest.approx(expected.mean, abs=1e-6)
    assert found.differences["all"].low == pytest.approx(expected.low, abs=1e-6)
    assert found.shares["all"]["two"].mean == pytest.approx(np.mean(each["two"]), abs=1e-6)
    assert 0.2 < found.uniform < 0.8
    assert "difference" in str(found)
    with pytest.raises(DataError, match="two networks"):
        measure_shares(crops, {"one": embedders["one"]})


def test_shares_need_boxes(tmp_path: Path, weights: dict[str, str]) -> None:
    crop = Crop(write_picture(tmp_path / "a" / "b" / "x.png"), 1, 1)
    with pytest.raises(DataError, match=r"box is not known for 1 images: x\.png"):
        measure_shares([crop], {name: Embedder(path) for name, path in weights.items()})


def test_maps_of_embeddings() -> None:
    rng = np.random.default_rng(0)
    centres = np.repeat(np.eye(3, 20), 15, axis=0)
    vectors = centres + 0.05 * rng.normal(size=centres.shape)
    for method in ("tsne", "pca"):
        places = project(vectors, method)  # type: ignore[arg-type]
        assert places.shape == (45, 2)
        np.testing.assert_allclose(places.min(0), 0, atol=1e-12)
        np.testing.assert_allclose(places.max(0), 1, atol=1e-12)
        np.testing.assert_array_equal(places, project(vectors, method))  # type: ignore[arg-type]
        distance = np.linalg.norm(places[:, None] - places, axis=2) + np.eye(45) * 9
        assert (distance.argmin(1) // 15 == np.arange(45) // 15).all(), "neighbours are of one group"
    with pytest.raises(DataError, match="at least three"):
        project(vectors[:2])


def test_whole_people_are_chosen() -> None:
    crops = [Crop(Path(f"{i}.jpg"), i % 10, 1) for i in range(50)]
    chosen = choose_crops(crops, 15)
    assert [crops[i].pid for i in chosen] == [0] * 5 + [3] * 5 + [6] * 5
    assert len(choose_crops(crops, 1000)) == 50


@pytest.mark.slow
def test_commands_draw(
    people: Path, weights: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = weights["one"], weights["two"]
    photos = sorted((people / "query").glob("*.jpg"))
    run("figure", "activation", *photos[:2], "--weights", one, "--compare", two, "--out", tmp_path / "a.png")
    said = capsys.readouterr().out
    assert "0009_c1s1_000001_00.jpg  two last: entropy " in said
    assert "in the box (uniform" in said
    run("figure", "match", *photos[:3], "--weights", one, "--out", tmp_path / "m.png")
    run("figure", "gates", people / "query", "--weights", one, "--out", tmp_path / "g.png", "--clusters", 2)
    run("figure", "shares", people, "--weights", one, "--compare", two, "--out", tmp_path / "s.png", "--json-out",
        tmp_path / "s.json")  # fmt: skip
    run("figure", "ranks", people, "--weights", one, "--out", tmp_path / "r.png", "--features", tmp_path / "f")
    run("figure", "ranks", people, "--weights", one, "--out", tmp_path / "r1.svg", "--query", photos[0].name)
    run("figure", "curves", "scores", "--data", people, "--weights", one, "--out", tmp_path / "c.png")
    run("figure", "curves", "training", "--run", one, two, "--out", tmp_path / "t.svg")
    run("figure", "embeddings", people, "--weights", one, "--number", 20, "--out", tmp_path / "e.png")
    for name in ("a", "m", "g", "g-shares", "s", "r", "c", "e"):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert min(image.size) > 200, name
            assert np.asarray(image.convert("L")).std() > 10, name
    assert {"one", "two"} <= set((tmp_path / "t.svg").read_text().replace("<", ">").split(">"))
    assert json.loads((tmp_path / "s.json").read_text())["num_images"] == len(photos)


@pytest.mark.parametrize("kind", ["cmc", "precision-recall", "roc"])
def test_curves_of_several(kind: str, people: Path, weights: dict[str, str], tmp_path: Path) -> None:
    run("figure", "curves", kind, "--data", people, "--weights", *weights.values(), "--out", tmp_path / "c.svg")
    said = (tmp_path / "c.svg").read_text()
    assert ">one<" in said
    assert ">two<" in said


def test_report_command(
    people: Path, weights: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.json").write_text('{"threshold": 0.123}')
    out = tmp_path / "report.html"
    run("report", weights["one"], "--data", people, "--compare", weights["two"], "--out", out, "--threshold",
        tmp_path / "t.json", "--features", tmp_path / "f")  # fmt: skip
    said = capsys.readouterr().out
    text = out.read_text()
    assert "one against two, mAP: " in said
    assert "one against two, mAP: " in text
    assert "threshold 0.123" in text
    assert "loss margin" in text, "the recipe"
    assert "network sha256" in text, "the card"
    assert "These are generated people" in text
    assert len(list((tmp_path / "f").iterdir())) == 2


def test_mistakes_come_before_the_work(
    people: Path, weights: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*arguments: object) -> str:
        with pytest.raises(SystemExit) as stopped:
            run(*arguments)
        assert stopped.value.code == 2
        return capsys.readouterr().err

    assert ".png, .pdf, .svg" in fails("figure", "activation", "x.jpg", "--weights", "no", "--out", tmp_path / "a.gif")
    assert "no folder" in fails("figure", "gates", "x", "--weights", "no", "--out", tmp_path / "no" / "a.png")
    assert "perceptually" not in fails(
        "figure", "activation", "x.jpg", "--weights", "no", "--out", tmp_path / "a.png", "--colours", "hsv"
    )
    assert "nothing to look at" in fails("figure", "activation", "--weights", "no", "--out", tmp_path / "a.png")
    assert "--run" in fails("figure", "curves", "training", "--out", tmp_path / "a.png")
    assert "--data" in fails("figure", "curves", "roc", "--out", tmp_path / "a.png")
    (tmp_path / "t.json").write_text("{}")
    (tmp_path / "other.json").write_text('{"threshold": 0.5, "weights": {"network_sha256": "0123456789abcdef"}}')
    data, one = people, weights["one"]
    assert "calibrated for other weights" in fails(
        "report", one, "--data", data, "--out", tmp_path / "r.html", "--threshold", tmp_path / "other.json"
    )
    assert '"threshold"' in fails(
        "report", "no", "--data", tmp_path, "--out", tmp_path / "r.html", "--threshold", tmp_path / "t.json"
    )
    check_figure_path(tmp_path / "fine.PNG")
