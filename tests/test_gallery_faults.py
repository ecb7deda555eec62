"""Items that no store can hold, flags without a value, labels that contradict each other, files that have changed."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import write_picture
from osnet import Embedder, Gallery, Item, Where
from osnet.cli import main
from osnet.errors import GalleryError, ImageError, ImageWarning

SHA, SIZE = "a" * 64, 8


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, SIZE)).astype(np.float32)


@pytest.fixture
def store(tmp_path: Path) -> Gallery:
    store = Gallery.create(tmp_path / "g", weights_sha256=SHA, embedding_size=SIZE)
    items = [Item(f"/{n}.jpg", str(10 + n), f"c{n % 2}", float(n)) for n in range(4)]
    store.add_embeddings(rows(4), items, weights_sha256=SHA)
    return store


@pytest.mark.parametrize("given", [{"embedding_size": 0}, {"embedding_size": 4.0}, {"weights_sha256": None}])
def test_a_gallery_that_could_not_be_opened_is_not_made(given: dict[str, Any], tmp_path: Path) -> None:
    settings = {"weights_sha256": SHA, "embedding_size": SIZE, **given}
    with pytest.raises(GalleryError, match=next(iter(given))):
        Gallery.create(tmp_path / "new", **settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("identity", 7), ("identity", ""), ("camera", np.int64(3)), ("camera", ""), ("source", Path("f.jpg")),
        ("source", ""), ("time_s", "2024"), ("time_s", datetime(2024, 1, 1, tzinfo=UTC)), ("time_s", float("nan")),
    ],
)  # fmt: skip
def test_an_item_that_cannot_be_stored_is_named_and_nothing_is_written(store: Gallery, field: str, value: Any) -> None:
    item = Item(**{"source": "/new.jpg", **{field: value}})
    with pytest.raises(GalleryError, match="time" if field == "time_s" else field):
        store.add_embeddings(rows(2), [Item("/fine.jpg"), item], weights_sha256=SHA)
    assert Gallery.open(store.folder).count() == 4


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_an_item_that_is_a_folder_is_no_image(on_error: Any, tiny_weights: Path, tmp_path: Path) -> None:
    """The embedder takes a folder for the images in it, but these are not the item."""
    store = Gallery.open(tmp_path / "g", Embedder(tiny_weights))
    (tmp_path / "crops").mkdir()
    pictures = [write_picture(tmp_path / "crops" / f"{n}.png", n, (16, 32)) for n in range(3)]
    given = [pictures[0], Item(str(tmp_path / "crops")), pictures[1]]
    if on_error == "raise":
        with pytest.raises(ImageError, match="crops"):
            store.add(given, on_error=on_error)
    else:
        assert [failure.name for failure in store.add(given, on_error=on_error).failures] == [str(tmp_path / "crops")]
    kept = pictures[:1] if on_error == "raise" else pictures[:2]
    assert store.sources() == {str(picture) for picture in kept}


def test_an_item_is_checked_before_its_image_is_embedded(tiny_weights: Path, tmp_path: Path) -> None:
    embedder = Embedder(tiny_weights)
    store = Gallery.open(tmp_path / "g", embedder)
    path = write_picture(tmp_path / "1.png", 1, (16, 32))
    embedder.stream = None  # type: ignore[method-assign, assignment]
    with pytest.raises(GalleryError, match=r"camera 3 .* int"):
        store.add(Item(str(path), camera=3))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given",
    [{"identities": frozenset({1})}, {"cameras": [2]}, {"after_s": "2024-01-01"}, {"before_s": datetime.now(UTC)}],
)
def test_conditions_of_another_type_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=next(iter(given))):
        Where(**given)


@pytest.mark.parametrize(
    "command",
    [
        ["gallery", "remove", "g", "--identity", "--camera", "c1"],
        ["store", "erase", "g", "--camera", "c1", "--identity"],
        ["search", "g", "x.jpg", "--identity"],
        ["gallery", "remove", "g", "--identity", "", "--camera", "c1"],
        ["index", "", "--out", "g2"],
    ],
)
def test_a_flag_or_an_argument_without_a_value_is_refused(
    store: Gallery, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(store.folder.parent)
    with pytest.raises(SystemExit) as stopped:
        main(command)
    assert stopped.value.code == 2
    assert Gallery.open(store.folder).count() == 4
    printed = capsys.readouterr()
    assert ("identity" in printed.out + printed.err) or ("index" in printed.err)


def test_erase_can_be_tried_first(store: Gallery, capsys: pytest.CaptureFixture[str]) -> None:
    main(["store", "erase", str(store.folder), "--camera", "c1", "--dry-run"])
    assert capsys.readouterr().out.startswith("2 of 4 ")
    assert Gallery.open(store.folder).count() == 4


def test_an_unknown_name_is_said_with_similar_ones(store: Gallery, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["gallery", "remove", str(store.folder), "--identity", "0010"])
    error = capsys.readouterr().err
    assert "'0010'" in error
    assert "'10'" in error


def test_labels_of_one_file_that_contradict_each_other_are_refused(tiny_weights: Path, tmp_path: Path) -> None:
    store = Gallery.open(tmp_path / "g", Embedder(tiny_weights))
    path = write_picture(tmp_path / "crops" / "1.png", 1, (16, 32))
    with pytest.raises(GalleryError, match="twice"):
        store.add([Item(str(path), "A"), Item(str(path), "B")])
    assert len(store) == 0
    store.add([Item(str(path), "A"), tmp_path / "crops"])  # the folder says nothing of its labels
    assert [item.identity for item in store.items] == ["A"]


def test_files_that_are_left_out_of_a_folder_are_named(tiny_weights: Path, tmp_path: Path) -> None:
    store = Gallery.open(tmp_path / "g", Embedder(tiny_weights))
    write_picture(tmp_path / "crops" / "1.png", 1, (16, 32))
    (tmp_path / "crops" / "notes.txt").write_text("x")
    with pytest.warns(ImageWarning, match=r"notes\.txt"):
        store.add(tmp_path / "crops")
    assert len(store) == 1


def test_a_search_names_hits_that_have_changed(
    tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [write_picture(tmp_path / "crops" / f"{n}.png", n, (16, 32)) for n in range(4)]
    store = Gallery.open(tmp_path / "g", Embedder(tiny_weights))
    store.add(paths)
    sources = [str(path) for path in paths]
    assert store.find_changed(sources) == []
    paths[1].touch()  # another time, the same content
    write_picture(paths[2], 9, (16, 32))
    paths[3].unlink()
    assert store.find_changed(sources) == sources[2:]
    main(["search", str(store.folder), sources[0], "--weights", str(tiny_weights)])
    error = capsys.readouterr().err
    assert "2 hits" in error
    assert "2.png" in error
    assert "1.png" not in error


@pytest.mark.parametrize("kind", ["TIFF", "WEBP"])
def test_a_truncated_file_is_called_so(kind: str, tiny_weights: Path, tmp_path: Path) -> None:
    path = tmp_path / f"x.{kind.lower()}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, **({"compression": "tiff_lzw"} if kind == "TIFF" else {"lossless": True}))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(ImageError, match=r"truncated|damaged|decoded"):
        Embedder(tiny_weights).embed(path)


@pytest.mark.parametrize(
    "flags",
    [
        ["--state", "postgresql+psycopg://osnet:secret@db/osnet"],
        ["--max-upload-mb", "0"],
        ["--footage", "nowhere"],
    ],
)
def test_a_service_is_not_started_with_options_that_cannot_work(
    flags: list[str], store: Gallery, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("fastapi")
    monkeypatch.chdir(store.folder.parent)
    with pytest.raises(SystemExit) as stopped:
        main(["serve", str(store.folder), *flags])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert flags[0] in error
    assert "secret" not in error
    assert [path.name for path in store.folder.parent.iterdir()] == ["g"]
