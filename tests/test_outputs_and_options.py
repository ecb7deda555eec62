"""Commands: outputs that are also inputs, options without an effect, and readers of the output that end early."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import write_picture
from osnet.gallery import Gallery
from osnet.types import Item
from test_cli import Run, run  # noqa: F401


def write_vectors(path: Path, seed: int = 0) -> Path:
    """Queries of six people in camera 0, two items of each in camera 1."""
    rng, pids = np.random.default_rng(seed), np.arange(1, 7)
    np.savez(
        path,
        query_vectors=rng.standard_normal((6, 8)),
        gallery_vectors=rng.standard_normal((12, 8)),
        query_pids=pids,
        gallery_pids=np.tile(pids, 2),
        query_camids=np.zeros(6, int),
        gallery_camids=np.ones(12, int),
    )
    return path


def refused(run: Run, given: Path, *arguments: object) -> None:  # noqa: F811
    """The command is an error that names the file ``given``, which stays as it was."""
    before = given.read_bytes()
    status, _, err = run(*arguments)
    assert status == 2
    assert str(given) in err
    assert given.read_bytes() == before


def test_results_do_not_replace_what_is_read(run: Run, tmp_path: Path) -> None:  # noqa: F811
    """All inputs but the weights are valid, so that no other error names them."""
    vectors, table, data = write_vectors(tmp_path / "v.npz"), tmp_path / "labels.csv", tmp_path / "own"
    rows = ("0.png,ann,1,query", "1.png,ben,1,query", "2.png,ann,2,gallery", "3.png,ben,2,gallery")
    table.write_text("path,identity,camera,split\n" + "\n".join(rows))
    images = [str(write_picture(data / f"{n}.png", n)) for n in range(4)]
    np.savez(tmp_path / "named.npz", vectors=np.eye(4), names=images)
    hats = data / "hats.csv"
    hats.write_text("path,split,hat\n0.png,train,1\n1.png,train,0\n2.png,test,1\n3.png,test,0\n")
    results = []
    for seed in range(2):
        results.append(tmp_path / f"r{seed}.json")
        assert run("evaluate-features", write_vectors(tmp_path / "w.npz", seed), "--out", results[seed])[0] == 0
        result = json.loads(results[seed].read_text())
        result["weights"]["network_sha256"] = str(seed)
        results[seed].write_text(json.dumps(result))
    assert run("average", *results, "--out", tmp_path / "mean.json")[0] == 0
    refused(run, results[0], "average", *results, "--out", results[0])
    refused(run, vectors, "evaluate-features", vectors, "--out", vectors)
    refused(run, table, "evaluate-features", tmp_path / "named.npz", "--csv", table, "--out", table)
    for command in ("evaluate", "calibrate"):
        given = ("--weights", "none", "--data", data, "--csv", table, "--out", table)
        rate = ("--fpr", 0.1) if command == "calibrate" else ()
        refused(run, table, command, *given, *rate)
        refused(run, Path(images[0]), command, *given[:-1], images[0], *rate)
    report = ("report", "none", "--data", data, "--csv", table)
    refused(run, table, *report, "--out", table)
    refused(run, Path(images[2]), *report, "--out", images[2])
    threshold = tmp_path / "threshold.json"
    threshold.write_text('{"threshold": 0.5}')
    refused(run, threshold, *report, "--threshold", threshold, "--out", threshold)
    refused(run, hats, "attributes", "evaluate", "--weights", "none", "--data", hats, "--out", hats)


def test_figures_do_not_replace_the_images_that_they_show(run: Run, tiny_weights: Path, tmp_path: Path) -> None:  # noqa: F811
    one, two = (write_picture(tmp_path / f"{n}.png", n) for n in range(2))
    rest = ("--weights", tiny_weights, "--out", one)
    refused(run, one, "figure", "activation", one, *rest)
    refused(run, one, "figure", "match", two, one, *rest)
    refused(run, one, "figure", "match", two, two, one, *rest)
    refused(run, one, "figure", "gates", tmp_path, *rest)
    refused(run, one, "figure", "gates", tmp_path, "--examples", one, *rest)
    new = tmp_path / "new.png"
    (tmp_path / "linked").symlink_to(tmp_path, target_is_directory=True)
    for arguments in (
        ("gates", tmp_path, "--shares-out", tmp_path / "linked" / "new.png"),
        ("gates", tmp_path, "--shares-out", new),
        ("shares", tmp_path, "--compare", "x", "--json-out", new),
    ):
        status, _, err = run("figure", *arguments, "--weights", tiny_weights, "--out", new)
        assert status == 2
        assert str(arguments[-1]) in err


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (("embed", "x", "--weights", "w", "--out", "o.npz"), ("--workers", 2)),
        (("embed", "x", "--weights", "w", "--out", "o.npz"), ("--gpus", 0.5)),
        (("embed", "x", "--weights", "w", "--out", "o.npz"), ("--block", 10)),
        (("embed", "x", "--weights", "w", "--out", "o.npz"), ("--work", "w")),
        (("video", "index", "x", "--camera", "c", "--out", "o"), ("--workers", 2)),
        (("video", "index", "x", "--camera", "c", "--out", "o"), ("--gpus", 0.5)),
    ],
)
def test_options_of_runners_need_one(command: tuple, option: tuple, run: Run) -> None:  # noqa: F811
    status, _, err = run(*command, *option)
    assert status == 2
    assert option[0] in err
    assert "--runner" in err


def test_conditions_that_would_be_dropped(run: Run, tmp_path: Path) -> None:  # noqa: F811
    gallery = Gallery.create(tmp_path / "g", weights_sha256="w", embedding_size=2)
    gallery.add_embeddings([[1.0, 0.0]], [Item("a")], weights_sha256="w")
    photo = write_picture(tmp_path / "p.png", 0)
    status, _, err = run("search", tmp_path / "g", photo, "--min-probability", 0.9)
    assert status == 2
    assert "--min-probability" in err
    for more in ((), ("--dry-run",)):  # a dry run does not announce what would be refused
        assert run("store", "erase", tmp_path / "g", *more)[0] == 2
    assert len(Gallery.open(tmp_path / "g")) == 1


@pytest.mark.skipif(os.name == "nt", reason="pipes end in another way on Windows")
@pytest.mark.parametrize("unbuffered", [False, True])
def test_a_reader_that_ends_is_not_success(unbuffered: bool) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, *(["-u"] if unbuffered else []), "-m", "osnet.cli", "--help"],
        stdout=writes,
        stderr=subprocess.PIPE,
        env=environment,
        check=False,
    )
    os.close(writes)
    assert (done.returncode, done.stderr) == (141, b"")
