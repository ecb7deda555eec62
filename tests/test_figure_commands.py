"""The ``figure`` and ``report`` commands on a few generated people; activation shares and embedding maps."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import write_picture
from osnet import cli
from osnet.cli.figure import name_all
from osnet.data.folder import read_dataset
from osnet.embedding.embedder import Embedder
from osnet.errors import DataError
from osnet.evaluation.comparison import group_generated
from osnet.figures.canvas import check_figure_path
from osnet.figures.embeddings import choose_crops, project
from osnet.figures.map_overlap import NOISE, OTHER_IMAGE, measure_shares
from osnet.figures.maps import compute_maps, measure_share
from osnet.metrics.bootstrap import cluster_interval
from osnet.models.config import OSNetConfig
from osnet.models.osnet import OSNet
from osnet.synthetic.generate import GeneratedSettings, generate_dataset, read_annotations
from osnet.types import Crop, Preprocessing
from osnet.weights.card import Card
from osnet.weights.checkpoint import save_weights

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


def fails_with(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must end with exit status 2; returns its stderr."""
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert stopped.value.code == 2
    return capsys.readouterr().err


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


def test_a_constant_map_has_no_share_above_its_controls(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Constant maps: one strong in the middle, one flat. A third network's map follows the person."""
    crops = read_dataset(people).query.crops
    notes = read_annotations(people)
    middle = np.zeros((8, 4), np.float32)
    middle[2:6, 1:3] = 1

    def fake(embedder: SimpleNamespace, pictures: list, measure: str) -> dict:
        if embedder.sees == "person":
            maps = []
            for picture in pictures:
                box = known.get(picture.tobytes())
                maps.append(np.ones((8, 4), np.float32) if box is None else fill(box, picture.size))
            return {"last": np.stack(maps)}
        return {"last": np.stack([middle if embedder.sees == "middle" else np.ones_like(middle)] * len(pictures))}

    def fill(box: tuple, size: tuple[int, int]) -> np.ndarray:
        cells = np.zeros((8, 4), np.float32)
        left, top, right, bottom = (v / s for v, s in zip(box, [*size, *size], strict=True))
        cells[round(8 * top) : round(8 * bottom), round(4 * left) : round(4 * right)] = 1
        return cells + 0.01

    known = {
        Image.open(crop.path).convert("RGB").tobytes(): notes[crop.path.relative_to(people).as_posix()].box
        for crop in crops
    }
    monkeypatch.setattr("osnet.figures.map_overlap.compute_maps", fake)
    networks = {
        sees: SimpleNamespace(sees=sees, preprocessing=Preprocessing()) for sees in ("person", "middle", "flat")
    }
    found = measure_shares(crops, {name: networks[name] for name in ("middle", "flat")})  # type: ignore[misc]
    assert found.differences["all"].low > 0.1  # without controls, the middle looks like attention
    assert abs(found.corrected[NOISE]["all"].mean) < 1e-6
    assert abs(found.corrected[OTHER_IMAGE]["all"].mean) < 1e-6
    assert found.controls[NOISE]["flat"].mean == pytest.approx(found.uniform)
    found = measure_shares(crops, {name: networks[name] for name in ("person", "middle")})  # type: ignore[misc]
    assert found.corrected[NOISE]["all"].low > 0.05
    assert found.corrected[OTHER_IMAGE]["all"].mean > 0


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
        assert (distance.argmin(1) // 15 == np.arange(45) // 15).all(), "nearest neighbours must be of one group"
    with pytest.raises(DataError, match="at least three"):
        project(vectors[:2])


def test_choose_crops_takes_all_crops_of_each_chosen_person() -> None:
    crops = [Crop(Path(f"{i}.jpg"), 1 + i % 10, 1) for i in range(50)]
    chosen = choose_crops(crops, 15)
    assert [crops[i].pid for i in chosen] == [1] * 5 + [4] * 5 + [7] * 5
    assert len(choose_crops(crops, 1000)) == 50


def test_distractors_are_not_chosen_as_one_person() -> None:
    """Market-1501's gallery has 2,793 distractors with the pid 0, more than a map shows."""
    people = [Crop(Path(f"{i}.jpg"), 1 + i // 5, 1) for i in range(50)]
    others = [Crop(Path(f"{pid}_{i}.jpg"), pid, 1) for pid in (-1, 0) for i in range(30)]
    crops = [*others, *people]
    assert [crops[i].pid for i in choose_crops(crops, 15)] == [1] * 5 + [4] * 5 + [7] * 5
    assert choose_crops(others, 15) == []


def test_images_without_annotation_are_named_before_the_work(
    weights: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user's own image among generated people."""
    data = generate_dataset(tmp_path / "people", GeneratedSettings(8, 2, 1, 0))
    write_picture(data / "query" / "0077_c1s1_000001_00.jpg")
    write_picture(data / "bounding_box_test" / "0077_c2s1_000001_00.jpg")
    said = fails_with(capsys, "report", weights["one"], "--data", data, "--out", tmp_path / "r.html", "--device", "cpu")
    assert "0077_c1s1_000001_00.jpg" in said
    with pytest.raises(DataError, match=r"0077_c1s1_000001_00\.jpg"):
        group_generated(read_dataset(data))


@pytest.mark.slow
def test_figure_commands_write_images(
    people: Path, weights: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = weights["one"], weights["two"]
    photos = sorted((people / "query").glob("*.jpg"))
    run("figure", "activation", *photos[:2], "--weights", one, "--compare", two, "--out", tmp_path / "a.png")
    output = capsys.readouterr().out
    assert "0009_c1s1_000001_00.jpg  two last: entropy " in output
    assert "in box, uniform " in output
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


def test_gate_shares_of_chosen_images(
    people: Path, weights: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = sorted((people / "query").glob("*.jpg"))
    outside = write_picture(tmp_path / "outside.jpg")
    rest = (
        "figure",
        "gates",
        people / "query",
        "--weights",
        weights["one"],
        "--out",
        tmp_path / "g.svg",
        "--number",
        6,
    )
    run(*rest, "--clusters", 2, "--examples", photos[0], *photos[-3:], outside)
    output = (tmp_path / "g-shares.svg").read_text()
    for number, name in enumerate([p.name.split("_")[0] for p in (photos[0], *photos[-3:])] + ["outside"], 1):
        assert f">{number}. {name}" in output
    assert output.count("<image") == 5, "five images in two rows"
    assert "10 images" in output, "the folder's images and four others"
    assert "no such file" in fails_with(capsys, *rest, "--examples", tmp_path / "gone.jpg")


@pytest.mark.parametrize("kind", ["cmc", "precision-recall", "roc"])
def test_curves_of_several(kind: str, people: Path, weights: dict[str, str], tmp_path: Path) -> None:
    run("figure", "curves", kind, "--data", people, "--weights", *weights.values(), "--out", tmp_path / "c.svg")
    output = (tmp_path / "c.svg").read_text()
    assert ">one<" in output
    assert ">two<" in output


def test_report_command(
    people: Path, weights: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.json").write_text('{"threshold": 0.123}')
    out = tmp_path / "report.html"
    run("report", weights["one"], "--data", people, "--compare", weights["two"], "--out", out, "--threshold",
        tmp_path / "t.json", "--features", tmp_path / "f")  # fmt: skip
    output = capsys.readouterr().out
    text = out.read_text()
    assert "one against two, mAP: " in output
    assert "one against two, mAP: " in text
    assert "threshold 0.123" in text
    assert "loss margin" in text, "must show the recipe"
    assert "network sha256" in text, "must show the card"
    assert "The people are generated by a program" in text
    assert len(list((tmp_path / "f").iterdir())) == 2


@pytest.fixture(scope="module")
def listed(people: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same crops in one folder under neutral names, and a CSV with their identities, cameras and splits."""
    folder = tmp_path_factory.mktemp("listed") / people.name
    folder.mkdir()
    dataset = read_dataset(people)
    rows = ["path,identity,camera,split"]
    for split in (dataset.query, dataset.gallery):
        for number, crop in enumerate(split.crops):
            name = f"{split.name}{number:04d}.jpg"
            (folder / name).write_bytes(crop.path.read_bytes())
            rows.append(f"{name},{crop.pid:04d},{crop.camid},{split.name}")
    table = folder.parent / "labels.csv"
    table.write_text("\n".join(rows))
    return folder, table


@pytest.mark.slow
def test_labels_from_a_csv_give_the_same_figures(
    people: Path, listed: tuple[Path, Path], weights: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, table = listed
    one = weights["one"]
    output = {}
    for name, data, options in (("names", people, ()), ("csv", folder, ("--csv", table))):
        for kind in ("cmc", "scores"):
            run("figure", "curves", kind, "--data", data, "--weights", one, "--out", tmp_path / f"{kind}-{name}.svg",
                "--features", tmp_path / name, *options)  # fmt: skip
        run("figure", "embeddings", data, "--weights", one, "--number", 12, "--method", "pca", "--out",
            tmp_path / f"e-{name}.svg", *options)  # fmt: skip
        run("figure", "ranks", data, "--weights", one, "--out", tmp_path / f"r-{name}.png", "--features",
            tmp_path / name, *options)  # fmt: skip
        capsys.readouterr()
        run("report", one, "--data", data, "--out", tmp_path / f"{name}.html", "--features", tmp_path / name, *options)
        output[name] = capsys.readouterr().out.splitlines()[:2]
    for figure in ("cmc", "scores", "e"):
        assert (tmp_path / f"{figure}-csv.svg").read_bytes() == (tmp_path / f"{figure}-names.svg").read_bytes(), figure
    assert "mAP" in output["names"][0]
    assert output["csv"] == output["names"]
    assert Image.open(tmp_path / "r-csv.png").size == Image.open(tmp_path / "r-names.png").size


def test_a_report_does_not_say_camera_twice(people: Path, weights: dict[str, str], tmp_path: Path) -> None:
    dataset = read_dataset(people)
    for split in (dataset.query, dataset.gallery):
        (tmp_path / "d" / split.name).mkdir(parents=True)
        for number, crop in enumerate(split.crops):
            copy = tmp_path / "d" / split.name / f"{crop.pid}-camera-{crop.camid}-{number}.jpg"
            copy.write_bytes(crop.path.read_bytes())
    out, pattern = tmp_path / "r.html", r"(?P<identity>\d+)-(?P<camera>camera-\d+)-"
    run("report", weights["one"], "--data", tmp_path / "d", "--pattern", pattern, "--out", out)
    text = out.read_text()
    assert "in camera-1: first hit person" in text
    assert "camera camera" not in text


def test_report_with_a_pattern_and_unknown_cameras(
    people: Path, weights: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = read_dataset(people)
    for split in (dataset.query, dataset.gallery):
        (tmp_path / "d" / split.name).mkdir(parents=True)
        for number, crop in enumerate(split.crops):
            copy = tmp_path / "d" / split.name / f"who-{crop.pid}-{number}.jpg"
            copy.write_bytes(crop.path.read_bytes())
    out = tmp_path / "r.html"
    run("report", weights["one"], "--data", tmp_path / "d", "--pattern", r"who-(?P<identity>\d+)-", "--out", out)
    assert f"{len(dataset.query)} queries" in capsys.readouterr().out
    text = out.read_text()
    assert "unknown cameras" in text
    assert "camera -" not in text, "negative numbers of unknown cameras must not be shown"
    with pytest.raises(SystemExit):
        run("report", weights["one"], "--data", tmp_path / "d", "--pattern", "no group", "--out", out)
    assert "has no group (?P<identity>...)" in capsys.readouterr().err


def test_bad_arguments_are_refused_before_the_work(
    people: Path, weights: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*arguments: object) -> str:
        return fails_with(capsys, *arguments)

    assert ".png, .pdf, .svg" in fails("figure", "activation", "x.jpg", "--weights", "no", "--out", tmp_path / "a.gif")
    assert "no folder" in fails("figure", "gates", "x", "--weights", "no", "--out", tmp_path / "no" / "a.png")
    assert "'hsv'" in fails(
        "figure", "activation", "x.jpg", "--weights", "no", "--out", tmp_path / "a.png", "--colours", "hsv"
    )
    assert "no images were given" in fails("figure", "activation", "--weights", "no", "--out", tmp_path / "a.png")
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


def test_bad_counts_are_refused_before_reading_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The data and the weights do not exist, so nothing was read."""
    rest = ("no-data", "--weights", "no-weights", "--out", tmp_path / "a.png")
    for option in ("shown", "nearest", "clusters", "number"):
        for value in (0, -1):
            output = fails_with(capsys, "figure", "gates", *rest, f"--{option}", value)
            assert f"{option} {value} must be at least 1" in output
    for number in (0, 2, -3):
        output = fails_with(capsys, "figure", "embeddings", *rest, "--number", number)
        assert f"number {number} must be at least 3" in output
    for figure in ("gates", "embeddings"):
        assert "seed -1 must be from 0 to 4294967295" in fails_with(capsys, "figure", figure, *rest, "--seed", -1)
    assert "top 0 must be at least 1" in fails_with(capsys, "figure", "ranks", *rest, "--top", 0)
    assert "layers" in fails_with(capsys, "figure", "activation", *rest, "--layers")
    assert not list(tmp_path.iterdir())


def test_a_figure_replaces_no_image_of_its_data(
    people: Path, weights: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, names = ["path,identity,camera,split"], []
    for split in read_dataset(people).splits:
        for number, crop in enumerate(split.crops):
            names.append(f"{split.name}{number:04d}.png")
            Image.open(crop.path).save(tmp_path / names[-1])
            rows.append(f"{names[-1]},{crop.pid:04d},{crop.camid},{split.name}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    out = tmp_path / next(name for name in names if name.startswith("gallery"))
    before, options = out.read_bytes(), ("--weights", weights["one"], "--csv", tmp_path / "labels.csv", "--out", out)
    for figure in (("ranks", tmp_path), ("embeddings", tmp_path), ("curves", "cmc", "--data", tmp_path)):
        assert str(out) in fails_with(capsys, "figure", *figure, *options)
        assert out.read_bytes() == before


def test_embedding_map_needs_three_images(
    weights: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for pid in (1, 2):
        write_picture(tmp_path / "d" / str(pid) / "x.png", pid)
    output = fails_with(
        capsys, "figure", "embeddings", tmp_path / "d", "--weights", weights["one"], "--out", tmp_path / "e.png"
    )
    assert "--number 400 selects 2 of 2 images; at least 3" in output


@pytest.mark.parametrize(
    ("kind", "options", "unused"),
    [
        ("roc", ("--run", "r", "--threshold", "0.3"), "--run, --threshold;"),
        ("cmc", ("--threshold", "0.3"), "--threshold;"),
        ("precision-recall", ("--run", "r"), "--run;"),
        ("scores", ("--run", "r"), "--run;"),
        ("training", ("--data", "d", "--weights", "w", "--force"), "--data, --weights, --force;"),
        ("training", ("--features", "f", "--device", "cpu", "--csv", "c", "--pattern", "p", "--identity-from", "csv"),
         "--features, --device, --identity-from, --pattern, --csv;"),
    ],
)  # fmt: skip
def test_options_that_do_not_apply_are_refused(
    kind: str, options: tuple[str, ...], unused: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = fails_with(capsys, "figure", "curves", kind, *options, "--out", tmp_path / "a.png")
    assert f"{kind} does not take {unused}" in output


def test_curves_of_scores_need_two_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """This is checked before the weights are read."""
    for split, camera in (("query", 1), ("gallery", 2)):
        write_picture(tmp_path / "d" / split / f"0007_c{camera}s1_000001_00.jpg", camera)
    write_picture(tmp_path / "d" / "gallery" / "-1_c2s1_000001_00.jpg", 3)  # junk is not a person
    for kind in ("scores", "roc", "precision-recall"):
        output = fails_with(
            capsys, "figure", "curves", kind, "--data", tmp_path / "d", "--weights", "no", "--out", tmp_path / "a.png"
        )
        assert "only one person" in output
    assert "no such weights" in fails_with(
        capsys, "figure", "curves", "cmc", "--data", tmp_path / "d", "--weights", "no", "--out", tmp_path / "a.png"
    )


def test_a_report_needs_two_people(weights: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split, camera in (("query", 1), ("gallery", 2)):
        write_picture(tmp_path / "d" / split / f"0007_c{camera}s1_000001_00.jpg", camera)
    output = fails_with(capsys, "report", weights["one"], "--data", tmp_path / "d", "--out", tmp_path / "r.html")
    assert "only one person" in output


@pytest.mark.parametrize("command", ["scores", "report"])
def test_invalid_thresholds_are_refused(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """This is checked before data and weights are read."""

    def fails(threshold: object) -> str:
        out = tmp_path / ("a.png" if command == "scores" else "a.html")
        first = ("figure", "curves", "scores", "--weights", "no") if command == "scores" else ("report", "no")
        return fails_with(capsys, *first, "--data", "no", "--out", out, "--threshold", threshold)

    for value in ("nan", "inf", "-inf", "5", "-1.01"):
        assert f"threshold {value} must be a cosine, a number from -1 to 1" in fails(value)
    assert "threshold 0,3 is neither a number" in fails("0,3")
    photo = write_picture(tmp_path / "photo.jpg")
    output = fails(photo)
    assert f"{photo} is not a file of `osnet calibrate --out`" in output
    assert len(output) < 120 + len(str(photo)), "must not contain the bytes of the photo"
    assert "cannot read" in fails(tmp_path)
    table = tmp_path / "t.json"
    for content in ("{}", "[1]", "not JSON", "[" * 100_000, '{"threshold": true}', '{"threshold": "0.5"}'):
        table.write_text(content)
        assert "is not a file of `osnet calibrate --out`" in fails(table), content[:20]
    for number in ("NaN", "1.5", "-Infinity"):
        table.write_text(f'{{"threshold": {number}}}')
        assert "t.json must be a cosine, a number from -1 to 1" in fails(table), number
    table.write_text('{"kind": "identification", "threshold": 0.71234}')
    assert "for searches (calibrate --fpir)" in (output := fails(table))
    assert "--threshold 0.7123" in output


def test_a_threshold_is_drawn(people: Path, weights: dict[str, str], tmp_path: Path) -> None:
    """Given as a number, which may be negative, or as the file of a calibration for these weights."""
    table, out = tmp_path / "t.json", tmp_path / "c.svg"
    digest = Embedder(weights["one"]).sha256()
    table.write_text(json.dumps({"kind": "verification", "threshold": 0.875, "weights": {"network_sha256": digest}}))
    for given, drawn in ((-0.5, "threshold -0.500"), (1, "threshold 1.000"), (table, "threshold 0.875")):
        run("figure", "curves", "scores", "--data", people, "--weights", weights["one"], "--threshold", given, "--out",
            out, "--features", tmp_path / "f")  # fmt: skip
        assert drawn in out.read_text().replace("\N{MINUS SIGN}", "-")


def test_weights_whose_names_differ_in_signs_only_can_be_compared(
    people: Path, weights: dict[str, str], tmp_path: Path
) -> None:
    """The embeddings of a network are kept in a folder by its name, which has letters and digits only."""
    runs = [tmp_path / "run-1", tmp_path / "Run_1", tmp_path / "other" / "run-1"]
    for given, folder in zip(("one", "two", "one"), runs, strict=True):
        shutil.copytree(weights[given], folder)
    for features in ((), ("--features", tmp_path / "f")):
        run("figure", "curves", "cmc", "--data", people, "--weights", *runs, "--out", tmp_path / "c.svg", *features)
    assert len(list((tmp_path / "f").iterdir())) == 3


def test_short_names_are_distinct() -> None:
    for given in (["a/x (3)", "x", "b/x"], ["x (2)", "x", "y/x"], ["x", "y/x", "x (2)"]):
        assert len(set(name_all(given))) == 3, given
