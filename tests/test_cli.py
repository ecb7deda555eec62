"""The command line, run as users run it."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import ROOT, write_picture
from osnet import Embedder, OSNet, OSNetConfig
from osnet.cli import COMMANDS, RESUMABLE, join_lines, load_command, main
from osnet.cli.common import EXIT_ERROR, EXIT_FOUND_TROUBLE, EXIT_INTERRUPTED, app, draw_progress
from osnet.gallery import Gallery
from osnet.recipes import RECIPES
from osnet.weights.checkpoint import save_weights


class Run:
    """Runs a command in this process; returns its exit status, stdout and stderr."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *args: object) -> tuple[int, str, str]:
        self.capsys.readouterr()
        status = 0
        try:
            main([str(arg) for arg in args])
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = self.capsys.readouterr()
        return status, captured.out, captured.err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


def test_models_prints_counted_and_published_sizes(run: Run) -> None:
    status, out, _ = run("models", "osnet_x*")
    assert status == 0
    row = next(line for line in out.splitlines() if line.startswith("osnet_x1_0 "))
    assert "2,169,508" in row
    assert "978.88M" in row
    assert "2.2M / 978.9M (paper, Table 6)" in row
    assert "0.8 to 1.4 %" in out
    _, out, _ = run("models", "osnet_x1_0", "--size", 224, 224, "--classes", 1000)
    assert "2,682,508" in out
    assert "1499.26M" in out
    assert "2.7M / 1511M (supplement, Table A)" in out
    _, out, _ = run("models", "osnet_t1", "--json")
    assert json.loads(out)[0]["params"] == 1_569_920
    assert "86.5" in out  # rank-1 of Table 5's row 9
    assert run("models", "resnet*")[0] == EXIT_ERROR


def test_weights_lists_names_and_licences(run: Run) -> None:
    status, out, _ = run("weights")
    assert status == 0
    assert "osnet_x0_25_msmt17 " in out
    assert "research purpose only" in out


def test_convert_both_ways(run: Run, tiny_weights: Path, tmp_path: Path) -> None:
    assert run("convert", tiny_weights, tmp_path / "t.pt")[0] == 0
    status, out, _ = run("convert", tmp_path / "t.pt", tmp_path / "ours")
    assert status == 0
    assert "osnet_x0_25" in out
    status, _, err = run("convert", tmp_path / "t.pt", tmp_path / "ours")
    assert status == EXIT_ERROR
    assert "exists" in err
    assert run("convert", tmp_path / "t.pt", tmp_path / "ours", "--overwrite")[0] == 0


def test_embed(run: Run, tiny_weights: Path, tmp_path: Path) -> None:
    paths = [write_picture(tmp_path / "p" / f"{n}.png", n) for n in range(3)]
    out_file = tmp_path / "v.npz"
    status, out, _ = run("embed", tmp_path / "p", paths[0], "--weights", tiny_weights, "--out", out_file)
    assert status == 0
    assert out.startswith("3 embeddings of 512")
    content = np.load(out_file, allow_pickle=False)
    np.testing.assert_allclose(content["vectors"], Embedder(tiny_weights).embed(paths), atol=1e-6)
    assert content["names"].tolist() == [str(path) for path in paths]
    assert "exists" in run("embed", tmp_path / "p", "--weights", tiny_weights, "--out", out_file)[2]
    paths[1].write_bytes(b"broken")
    again = ("embed", tmp_path / "p", "--weights", tiny_weights, "--out", out_file, "--overwrite")
    status, _, err = run(*again)
    assert (status, "1.png: not an image" in err) == (EXIT_ERROR, True)
    status, out, err = run(*again, "--on-error", "skip")
    assert status == EXIT_FOUND_TROUBLE
    assert out.startswith("2 embeddings of 512")
    assert "1 left out:" in err


def test_index_and_search(run: Run, tiny_weights: Path, market: Path, tmp_path: Path) -> None:
    crops, gallery = market / "bounding_box_test", tmp_path / "gallery"
    status, _, err = run("index", crops, "--out", gallery)
    assert (status, "person-reidentification-retail-0287" in err) == (
        EXIT_ERROR,
        True,
    )  # the default weights, which are not available here
    assert not gallery.exists()
    status, out, _ = run("index", crops, "--out", gallery, "--weights", tiny_weights)
    assert status == 0
    assert out.startswith("8 crops added")  # with junk and distractors, whose identity is unknown
    assert sorted({item.identity or "?" for item in Gallery.open(gallery).items}) == ["1", "3", "5", "?"]
    # The gallery stores its weights, so adding and searching need no --weights.
    more = write_picture(tmp_path / "more" / "someone.png", 77)
    status, out, _ = run("index", tmp_path / "more", "--out", gallery)
    assert (status, out.startswith("1 crops added")) == (0, True)
    assert "0 crops added" in run("index", tmp_path / "more", "--out", gallery)[1]
    status, out, _ = run("search", gallery, more, "--top", 3, "--json", "--sheet", tmp_path / "sheet.png")
    assert status == 0
    hits = json.loads(out)["hits"]
    assert [hit["rank"] for hit in hits] == [1, 2, 3]
    assert hits[0]["source"] == str(more)
    assert hits[0]["score"] == pytest.approx(1.0, abs=1e-5)
    assert Image.open(tmp_path / "sheet.png").size[0] > 4 * 128
    photo, pixels = market / "query" / "0001_c1s1_000000_00.jpg", more.read_bytes()
    status, _, err = run("search", gallery, photo, "--sheet", more)  # more is one of the hits
    assert (status, str(more) in err, more.read_bytes()) == (EXIT_ERROR, True, pixels)
    _, out, _ = run("search", gallery, more, "--camera", "2", "--identity", "3")
    assert [line.split()[2] for line in out.splitlines()[1:]] == ["3"]
    assert "no item of the gallery" in run("search", gallery, more, "--after", "2026-01-01")[1]


def test_a_gallery_refuses_other_weights(run: Run, tiny_weights: Path, market: Path, tmp_path: Path) -> None:
    run("index", market / "query", "--out", tmp_path / "g", "--weights", tiny_weights)
    torch.manual_seed(5)
    save_weights(OSNet(OSNetConfig(width=0.25)), tmp_path / "other")
    photo = market / "query" / "0001_c1s1_000000_00.jpg"
    for command in (
        ("search", tmp_path / "g", photo),
        ("index", market / "bounding_box_train", "--out", tmp_path / "g"),
    ):
        status, _, err = run(*command, "--weights", tmp_path / "other")
        assert status == EXIT_ERROR
        assert "cannot be compared" in err
    assert len(Gallery.open(tmp_path / "g")) == 3


def test_index_keeps_the_crops_before_an_error(run: Run, tiny_weights: Path, tmp_path: Path) -> None:
    paths = [write_picture(tmp_path / "p" / f"{n}.png", n) for n in range(6)]
    paths[4].write_bytes(b"broken")
    command = ("index", tmp_path / "p", "--out", tmp_path / "g", "--weights", tiny_weights)
    status, _, err = run(*command)
    assert (status, "4.png" in err) == (EXIT_ERROR, True)
    assert len(Gallery.open(tmp_path / "g")) == 4
    status, out, err = run(*command, "--on-error", "skip")
    assert status == EXIT_FOUND_TROUBLE
    assert out.startswith("1 crops added")
    assert "4.png: not an image" in err
    assert len(Gallery.open(tmp_path / "g")) == 5


def test_index_with_times_then_remove_an_identity(run: Run, tiny_weights: Path, tmp_path: Path) -> None:
    for n, name in enumerate(["ada_c1_100.png", "bob_c2_200.png", "ada_c2_300.png"]):
        write_picture(tmp_path / "p" / name, n)
    pattern = r"(?P<identity>[a-z]+)_c(?P<camera>\d)_(?P<time>\d+)"
    run("index", tmp_path / "p", "--out", tmp_path / "g", "--weights", tiny_weights, "--pattern", pattern)
    _, out, _ = run("search", tmp_path / "g", tmp_path / "p" / "ada_c1_100.png", "--after", 150, "--before", 250)
    assert [line.split()[2] for line in out.splitlines()[1:]] == ["bob"]
    assert "3 items, 2 known identities, 2 known cameras" in run("gallery", "show", tmp_path / "g")[1]
    status, _, err = run("gallery", "remove", tmp_path / "g")
    assert (status, "needs a condition" in err) == (EXIT_ERROR, True)
    assert "2 items removed, 1 left" in run("gallery", "remove", tmp_path / "g", "--identity", "ada")[1]
    assert run("gallery", "remove", tmp_path / "g", "--identity", "ada")[0] == EXIT_FOUND_TROUBLE
    everything = b"".join(path.read_bytes() for path in (tmp_path / "g").iterdir() if path.is_file())
    assert b"ada_c" not in everything


def test_evaluate(run: Run, tiny_weights: Path, market: Path, tmp_path: Path) -> None:
    status, out, _ = run("evaluate", "--weights", tiny_weights, "--data", market, "--out", tmp_path / "r.json")
    assert status == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert f"{100 * result['scores']['mAP']:.2f} %" in out
    status, _, err = run("evaluate", "--weights", tiny_weights, "--data", market, "--out", tmp_path / "no" / "r.json")
    assert (status, "there is no folder" in err) == (EXIT_ERROR, True)
    status, _, err = run("evaluate", "--weights", tmp_path / "gone.pth", "--data", market)
    assert (status, "gone.pth'" in err) == (EXIT_ERROR, True)


def test_data_check(run: Run, market: Path) -> None:
    status, out, _ = run("data", "check", market)
    assert status == 0
    assert "Thumbs.db" in out
    (market / "query" / "0001_c1s1_000000_00.jpg").write_bytes(b"broken")
    status, out, _ = run("data", "check", market, "--json")
    assert status == EXIT_FOUND_TROUBLE
    assert json.loads(out)["ok"] is False


def test_generate_train_and_evaluate(run: Run, tmp_path: Path) -> None:
    """Generate a data set, train on it and evaluate, with commands only."""
    people, out = tmp_path / "people", tmp_path / "run"
    status, text, _ = run("data", "generate", "--out", people, "--identities", 8, "--cameras", 2, "--images", 2)
    assert (status, text.startswith("32 images of 8 generated people")) == (0, True)
    train = ("train", "market1501-osnet-x0-25-scratch", "--data", people, "--out", out, "--workers", 0, "--cpu")
    quick = ("--epochs", 1, "--batch-size", 8, "--size-hw", 64, 32, "--milestones", 1, "--augmentation.erase", 1.0)
    status, text, _ = run(*train, *quick)
    assert status == 0
    assert f"weights of the last one in {out / 'weights'}" in text
    resolved = json.loads((out / "recipe.json").read_text())["recipe"]
    assert (resolved["epochs"], resolved["size_hw"], resolved["augmentation"]["erase"]) == (1, [64, 32], 1.0)
    assert (resolved["lr"], resolved["optimizer"]) == (0.065, "sgd")
    status, text, _ = run("evaluate", "--weights", out / "weights", "--data", people)
    assert status == 0
    assert "mAP" in text
    status, _, err = run(*train, *quick, "--lr", 0.01)
    assert (status, "values of lr" in err) == (EXIT_ERROR, True)
    status, text, _ = run("recipes", "market1501-osnet-x1-0")
    assert "94.8 / 84.9 (paper, Table 6" in text
    assert re.search(r"--lr +0.0015\n", text)


def test_lists_of_recipes_have_a_line_for_each(run: Run) -> None:
    status, text, _ = run("recipes")
    listed = [line.split("  ")[0] for line in text.splitlines() if line and not line.startswith("`")]
    assert (status, listed) == (0, list(RECIPES))
    _, text, _ = run("train", "--help")
    assert [name for name in RECIPES if f" • {name} " not in text] == []
    assert "Source:" not in text  # with sources it has over a thousand lines


def test_demo(run: Run, tiny_weights: Path, market: Path, tmp_path: Path) -> None:
    for _ in range(2):  # the second time over existing results
        status, out, _ = run("demo", "--data", market, "--weights", tiny_weights, "--out", tmp_path / "demo")
        assert status == 0
    assert "mAP" in out
    assert str(tmp_path / "demo" / "ranked.png") in out
    assert Image.open(tmp_path / "demo" / "ranked.png").size[1] > 3 * 256
    assert "What went wrong" in (tmp_path / "demo" / "report.html").read_text()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("evaluate", "--weights", "x", "--data", "."), "query and gallery"),
        (("evaluate", "--weights", "x", "--data", "gone"), "no such folder: gone"),
        (("embed", "gone.jpg", "--weights", "x", "--out", "v.npz"), "no such file: gone.jpg"),
        (("embed", "--weights", "x", "--out", "v.npz"), "no images were given"),
        (("search", "gone", "photo.jpg"), "gone"),
        (("index", "gone", "--out", "g", "--weights", "x"), "no such folder: gone"),
        (("data", "check", "gone"), "no such folder: gone"),
        (("convert", "gone.pth", "out"), "'gone.pth'"),
        (("models", "--size", "3", "3"), "at least 16 x 16"),
    ],
)
def test_user_errors_print_one_line_and_write_nothing(
    run: Run, args: tuple, words: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = run(*args)
    assert status == EXIT_ERROR
    assert words in err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("args", "resumes"),
    [
        (("train", "market1501-osnet-x0-25", "--data", "d", "--out", "o"), True),
        (("index", "crops", "--out", "g", "--weights", "w"), True),
        (("embed", "crops", "--weights", "w", "--out", "v.npz"), True),
        (("demo", "--quick"), True),
        (("data", "generate", "--out", "d"), True),
        (("evaluate", "--weights", "w", "--data", "d", "--features", "f"), True),
        (("evaluate", "--weights=w", "--data=d", "--features=f"), True),
        (("calibrate", "--weights", "w", "--data", "d", "--fpr", "0.1", "--features", "f"), True),
        (("report", "w", "--data", "d", "--out", "o.html", "--features", "f"), True),
        (("figure", "ranks", "d", "--weights", "w", "--out", "o.png", "--features", "f"), True),
        (("evaluate", "--weights", "w", "--data", "d"), False),
        (("evaluate-features", "v.npz"), False),
        (("evaluate-classes", "--weights", "w", "--data", "d"), False),
        (("video", "index", "f.mp4", "--camera", "c", "--out", "a"), True),
        (("video", "search", "a", "photo.jpg"), False),
        (("attributes", "evaluate", "--weights", "w", "--data", "d"), False),
        (("calibrate", "--weights", "w", "--data", "d", "--fpr", "0.1"), False),
        (("report", "w", "--data", "d", "--out", "o.html"), False),
        (("figure", "curves", "training", "--run", "r", "--out", "o.png"), False),
        (("search", "g", "photo.jpg"), False),
        (("gallery", "show", "g"), False),
        (("data", "check", "d"), False),
        (("data", "pack", "d", "--out", "o"), False),
        (("export", "w", "--out", "o"), False),
        (("convert", "a", "b"), False),
        (("predict", "attributes", "x.jpg", "--weights", "w"), False),
        (("rerank", "v.npz"), False),
        (("models",), False),
        (("weights",), False),
    ],
)
def test_interrupted_commands_say_whether_they_resume(
    run: Run, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], resumes: bool
) -> None:
    def interrupted(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("osnet.cli.common.app.cli", interrupted)
    status, out, err = run(*args)
    assert status == EXIT_INTERRUPTED
    assert out == ""
    resume = " Resume with the same command."
    assert err == f"osnet: Interrupted.{resume if resumes else ''}\n"


def test_resumable_commands_and_flags_exist(run: Run) -> None:
    for command, flags in RESUMABLE.items():
        words = command.split() + (["market1501-osnet-x0-25"] if command == "train" else [])
        status, out, _ = run(*words, "--help")
        assert status == 0
        assert all(flag in out for flag in flags)


def test_help_of_the_program() -> None:
    out = subprocess.run([sys.executable, "-m", "osnet.cli", "--help"], capture_output=True, text=True, check=True)
    for command in ("models", "convert", "embed", "index", "search", "evaluate", "data", "gallery", "demo"):
        assert command in out.stdout


def test_help_lists_every_command_and_loads_none() -> None:
    code = (
        "import sys; from osnet.cli import main; main(['--help']); "
        "print([m for m in ('torch', 'numpy', 'tyro', 'osnet.cli.common') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *listing, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    assert {line.split()[0] for line in listing if line.startswith("  ")} == set(COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help(run: Run, name: str) -> None:
    status, out, _ = run(name, "--help")
    assert status == 0
    assert f"osnet {name}" in out


def test_the_command_table_has_every_module() -> None:
    for name in COMMANDS:
        load_command(name)
    others = {"__init__", "__main__", "common", "video_search"}
    modules = {path.stem for path in (ROOT / "src" / "osnet" / "cli").glob("*.py")} - others
    assert {name.replace("-", "_") for name in COMMANDS} == modules
    assert set(app._subcommands) == set(COMMANDS)


def test_an_unknown_command_suggests_the_nearest(run: Run) -> None:
    status, out, err = run("evalute")
    assert (status, out) == (EXIT_ERROR, "")
    assert "'evalute'" in err
    assert "'evaluate'" in err


def test_help_joins_the_lines_of_an_argument() -> None:
    def command() -> None:
        """Do.

        More,
        on two lines.

        Args:
            one: first,
                second
                third.
            two: fourth.
        """

    joined = join_lines(command.__doc__ or "")
    assert joined == "Do.\n\nMore,\non two lines.\n\nArgs:\n    one: first, second third.\n    two: fourth."
    assert join_lines(joined) == joined


def test_without_a_terminal_progress_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0, 30, 59, 61, 61, 100, 130, 130])  # seconds: at the start, after each item, and after each line
    monkeypatch.setattr("osnet.cli.common.time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert list(draw_progress("abcde", 5, "epoch 1/2")) == list("abcde")
    assert capsys.readouterr().err == "epoch 1/2: 3 of 5\nepoch 1/2: 5 of 5\n"
