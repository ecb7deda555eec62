"""Faults of images, generated people, attribute data, names of attributes and networks, figures, and lists of work."""

import json
import shutil
import struct
import threading
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import write_picture
from osnet import Embedder
from osnet.cli import main
from osnet.data.loading import check_header, read_image, read_pixels
from osnet.embedding.attribute_predictor import find_attributes
from osnet.errors import DataError, ImageError, OutputError
from osnet.features.embedding_files import embed_files
from osnet.figures.activation import LayerMap
from osnet.figures.canvas import style_of
from osnet.figures.curves import plot_scores
from osnet.figures.report_data import read_run
from osnet.metrics.pair_scores import PairCounts
from osnet.synthetic.generate import ANNOTATIONS_FILE, GeneratedSettings, generate_dataset, read_annotations
from osnet.work import WorkList, run_work
from osnet.work.embedding import embed_on_many

SETTINGS = GeneratedSettings(8, 2, 1, 0)


# Images


def png(width: int, height: int, bits: int = 8, kind: int = 2, rows: bytes = b"") -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_000, 20_000])  # Pillow refuses the larger one itself
def test_the_header_of_a_huge_image_says_that_it_is_too_large(side: int, tmp_path: Path) -> None:
    (tmp_path / "huge.png").write_bytes(png(side, side))
    for check in (check_header, read_image, read_pixels):
        with pytest.raises(ImageError, match=f"{side * side}|{side} x {side}"):
            check(tmp_path / "huge.png")


def test_a_file_that_cannot_be_opened_is_not_called_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_picture(tmp_path / "a.png")

    def deny(*_args: object, **_more: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", deny)
    for check in (check_header, read_image):
        with pytest.raises(ImageError, match="Permission denied"):
            check(path)


def test_names_that_are_too_long_are_errors_of_images() -> None:
    for check in (check_header, read_image, read_pixels):
        with pytest.raises(ImageError, match="aaaa"):
            check("a" * 5000)


def test_colours_of_16_bits_lose_their_lower_half(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + np.full(12, 0x1234, ">u2").tobytes() for _ in range(4))
    (tmp_path / "deep.png").write_bytes(png(4, 4, 16, 2, rows))
    assert (np.asarray(read_image(tmp_path / "deep.png")) == 0x12).all()


# Generated people


def test_a_folder_of_other_files_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "people.partial").mkdir()
    (tmp_path / "people.partial" / "diary.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"diary\.txt"):
        generate_dataset(tmp_path / "people", SETTINGS)
    assert (tmp_path / "people.partial" / "diary.txt").read_text() == "mine"
    (tmp_path / "others.partial").write_text("a file")
    with pytest.raises(OutputError, match=r"others\.partial"):
        generate_dataset(tmp_path / "others", SETTINGS)


@pytest.mark.parametrize("seed", [0, 1])
def test_two_runs_into_one_folder(seed: int, tmp_path: Path) -> None:
    """The second waits, and then finds the folder, whether its settings are the same or others."""
    halfway, second_started = threading.Event(), threading.Event()
    caught: list[BaseException] = []

    def stop_halfway(people: Iterable[int], _total: int, _label: str) -> Iterable[int]:
        for number, pid in enumerate(people):
            if number == 4:
                halfway.set()
                second_started.wait(60)
                second.join(0.3)  # without a lock the second run would be done, or in the first one's way
            yield pid

    def again() -> None:
        halfway.wait(60)
        second_started.set()
        try:
            generate_dataset(tmp_path / "people", GeneratedSettings(8, 2, 1, seed))
        except BaseException as error:
            caught.append(error)

    second = threading.Thread(target=again)
    second.start()
    generate_dataset(tmp_path / "people", SETTINGS, stop_halfway)
    second.join()
    assert [type(error) for error in caught] == [OutputError]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["people"]
    lines = (tmp_path / "people" / ANNOTATIONS_FILE).read_text().splitlines()
    assert len(lines) == len(read_annotations(tmp_path / "people")) == len(list(tmp_path.rglob("*.jpg")))


def test_generation_resumes_after_a_power_failure(tmp_path: Path) -> None:
    """The end of the annotations is zeros; or all was written, but the folder was not renamed."""
    whole = generate_dataset(tmp_path / "whole", SETTINGS)
    expected = read_annotations(whole)
    shutil.copytree(whole, tmp_path / "a.partial")
    shutil.copytree(whole, tmp_path / "b.partial")
    (tmp_path / "b.partial" / "bounding_box_test" / "0001_c1s1_000009_00.jpg").touch()  # to see that it is kept
    content = json.loads((whole / "generated.json").read_text())
    del content["pairs"]
    (tmp_path / "a.partial" / "generated.json").write_text(json.dumps(content | {"complete": False}))
    path = tmp_path / "a.partial" / ANNOTATIONS_FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-3]) + bytes(50) + b"\n")
    for name in "ab":
        assert read_annotations(generate_dataset(tmp_path / name, SETTINGS)) == expected
    assert (tmp_path / "b" / "bounding_box_test" / "0001_c1s1_000009_00.jpg").exists()


# Embeddings


def test_embedding_resumes_after_a_power_failure(tiny_network: torch.nn.Module, tmp_path: Path) -> None:
    paths = [write_picture(tmp_path / f"{n}.png", n) for n in range(4)]
    embedder = Embedder(tiny_network, device="cpu", batch_size=2)
    expected = embed_files(embedder, paths, tmp_path / "whole.npz")
    (tmp_path / "bad.png").write_bytes(b"broken")
    with pytest.raises(ImageError):
        embed_files(embedder, [*paths, tmp_path / "bad.png"], tmp_path / "v.npz")
    names = tmp_path / "v.npz.partial" / "names.jsonl"
    lines = names.read_bytes().splitlines(keepends=True)
    assert len(lines) == 4
    names.write_bytes(lines[0] + bytes(20) + b"\n" + lines[2] + lines[3])
    found = embed_files(embedder, paths, tmp_path / "v.npz")
    assert found.names == expected.names
    np.testing.assert_allclose(found.vectors, expected.vectors, atol=1e-6)


# Attributes


def test_attribute_names_that_differ_little() -> None:
    assert find_attributes(["boots", "Shorts"], ["boot", "short"]) == [0, 1]
    assert find_attributes(["hat", "Hat", "Hats"], ["hat", "Hat", "Hats", "hats"]) == [0, 1, 2, 2]
    with pytest.raises(DataError, match="hat or Hat"):
        find_attributes(["hat", "Hat"], ["HAT"])


def test_the_number_of_classes_to_print_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = write_picture(tmp_path / "a.png")
    for top in ("0", "-1"):
        with pytest.raises(SystemExit):
            main(["predict", "classes", str(picture), "--weights", str(tmp_path / "none"), "--top", top])
        assert f"top {top}" in capsys.readouterr().err


# Figures


def test_the_entropy_in_a_caption_is_below_its_limit() -> None:
    """10 x 4 cells, as for images of 160 x 64 pixels: 5.32 bits."""
    assert "of 5.32 bits" in LayerMap("", "", np.ones((10, 4), np.float32), 5.32, None).caption
    assert "of 7 bits" in LayerMap("", "", np.ones((16, 8), np.float32), 6.5, None).caption


def test_25_curves_have_different_styles() -> None:
    styles = [style_of(number) for number in range(25)]
    assert len({(colour, marker) for colour, _, marker in styles}) == 25


def test_a_threshold_beyond_all_scores_is_in_the_figure() -> None:
    same, different = np.zeros(200, np.int64), np.zeros(200, np.int64)
    same[120:140] = different[100:110] = 5
    for threshold in (-0.5, 0.9):
        with plot_scores(PairCounts(same, different), threshold) as figure:
            low, high = figure.axes[0].get_xlim()
        assert low < threshold < high


def test_losses_of_a_run_whose_log_is_being_written(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "epoch": 1, "loss": 2.0}\n7\n{"step": 2, "epo')
    line = read_run(tmp_path)[1]
    assert line is not None
    assert (line.x, line.y) == ([1], [2.0])


# Work


def test_an_error_in_one_thread_stops_the_others(tmp_path: Path) -> None:
    work = WorkList.plan(tmp_path / "w", "probe", {"rounds": 1}, [{"label": f"item {n}"} for n in range(400)])

    calls: list[int] = []

    def fail_once() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise OutputError("no space left")

    with pytest.raises(OutputError, match="no space left"):
        run_work(work, workers=2, on_done=fail_once)
    assert work.todo(), "the other thread ended after its item"


def test_workers_without_work_are_told(
    tiny_network: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("osnet.work.embedding.run_work", lambda *_args, **_more: None)
    monkeypatch.setattr("osnet.work.embedding.merge_blocks", lambda *_args: None)
    paths = [write_picture(tmp_path / f"{n}.png", n) for n in range(3)]
    embedder = Embedder(tiny_network, device="cpu")
    with pytest.warns(UserWarning, match="2 of 4 workers"):
        embed_on_many(embedder, "w", paths, tmp_path / "v.npz", workers=4, block=2)


def test_workers_need_images(tiny_network: torch.nn.Module, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="paths"):
        embed_on_many(Embedder(tiny_network, device="cpu"), "w", [], tmp_path / "v.npz")
    assert not list(tmp_path.iterdir())
