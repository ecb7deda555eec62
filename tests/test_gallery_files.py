"""Indexing image files: changed and deleted images, sources and patterns, labels, concurrent writers."""

import hashlib
import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock

from conftest import FIXTURES, write_picture
from osnet import Embedder, OSNet, OSNetConfig
from osnet.cli import gallery as gallery_command
from osnet.cli import index as index_command
from osnet.errors import GalleryError
from osnet.files import plain_path
from osnet.gallery import FileStamp, Gallery, Where
from osnet.gallery.stamps import is_gone, plan_update
from osnet.types import Item
from osnet.weights.checkpoint import save_weights
from test_cli import Run, run  # noqa: F401

SHA, OTHER = "a" * 64, "b" * 64
MARKET = "{:04d}_c{}s1_000000_00.png"


def store_of(folder: Path, *sources: str) -> Gallery:
    store = Gallery.create(folder, weights_sha256=SHA, embedding_size=4)
    vectors = np.random.default_rng(0).normal(size=(len(sources), 4))
    store.add_embeddings(vectors, [Item(source) for source in sources], weights_sha256=SHA)
    return store


@pytest.fixture(autouse=True)
def _one_embedder(monkeypatch: pytest.MonkeyPatch, tiny_network: OSNet) -> None:
    """Share one embedder between commands, because making a backend takes seconds."""
    made = Embedder(tiny_network)

    def open_quickly(weights: Any, device: str, batch_size: int, backend: str) -> Embedder:
        return made if Path(weights).name in ("tiny", "weights") else Embedder(weights, backend="torch")

    monkeypatch.setattr(gallery_command, "open_embedder", open_quickly)


# Sources and patterns


@pytest.mark.parametrize(
    ("exact", "others"),
    [
        ("c/cam[1].jpg", ["c/cam1.jpg"]),
        ("c/what?.jpg", ["c/whats.jpg"]),
        ("c/a*.jpg", ["c/ab.jpg", "c/a.jpg"]),
        ("c/[!x].jpg", ["c/y.jpg"]),
        ("c/[a].jpg", ["c/a.jpg", "c/[[]a].jpg"]),
    ],
)
def test_a_pattern_equal_to_a_source_selects_only_that_item(exact: str, others: list[str], tmp_path: Path) -> None:
    store = store_of(tmp_path / "g", *others, exact)
    query = np.ones(4)
    hits = store.search_embedding(query, weights_sha256=SHA, where=Where(source=exact))
    assert [hit.item.source for hit in hits] == [exact]
    assert [item.source for item in store.find(Where(source=exact))] == [exact]
    assert len(store) == len(others) + 1
    assert store.remove(Where(source=exact)) == 1
    assert Gallery.open(store.folder).sources() == set(others)


def test_a_pattern_without_an_equal_source_is_matched(tmp_path: Path) -> None:
    store = store_of(tmp_path / "g", "c/cam1.jpg", "c/cam2.jpg", "d/cam1.jpg")
    assert store.remove(Where(source="c/cam[1].jpg")) == 1
    assert store.remove(Where(source="c/*")) == 1
    assert store.sources() == {"d/cam1.jpg"}


def test_sources_are_not_patterns(tmp_path: Path) -> None:
    store = store_of(tmp_path / "g", "a1", "a[1]", "b")
    assert store.remove(Where(sources=frozenset({"a[1]", "*"}))) == 1
    assert store.sources() == {"a1", "b"}
    with pytest.raises(TypeError, match="sources"):
        Where(sources="a1")  # type: ignore[arg-type]


def test_remove_by_source_and_dry_run(run: Run, tmp_path: Path) -> None:  # noqa: F811
    store = store_of(tmp_path / "g", "c/cam1.jpg", "c/cam[1].jpg")
    status, out, _ = run("gallery", "remove", tmp_path / "g", "--source", "c/cam[1].jpg", "--dry-run")
    assert (status, out.splitlines()[0]) == (0, "c/cam[1].jpg")
    assert "c/cam1.jpg" not in out
    assert len(Gallery.open(store.folder)) == 2
    assert run("gallery", "remove", tmp_path / "g", "--dry-run")[0] == 2
    assert run("gallery", "remove", tmp_path / "g", "--source", "none", "--dry-run")[0] == 1
    assert run("gallery", "remove", tmp_path / "g", "--source", "c/cam[1].jpg")[0] == 0
    assert Gallery.open(store.folder).sources() == {"c/cam1.jpg"}


# Changed and deleted files


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    for n in range(3):
        write_picture(tmp_path / "crops" / f"{n}.png", n)
    return tmp_path / "crops"


def index(run: Run, crops: Path, *more: object) -> tuple[str, str]:  # noqa: F811
    status, out, err = run("index", crops, "--out", crops.parent / "g", *more)
    assert status == 0, err
    return out, err


def test_a_crop_that_changed_is_embedded_again(run: Run, tiny_weights: Path, crops: Path) -> None:  # noqa: F811
    index(run, crops, "--weights", tiny_weights)
    write_picture(crops / "1.png", 77)
    os.utime(crops / "2.png", ns=(1, 1))  # another time, the same content
    (crops / "new.png").write_bytes((crops / "0.png").read_bytes())
    out, _ = index(run, crops)
    assert out.startswith("1 crops added")
    assert "1 had changed and were embedded again" in out
    assert "2 were there; 4 in all" in out
    store = Gallery.open(crops.parent / "g")
    embedder = Embedder(tiny_weights, backend="torch")
    query = embedder.embed(crops / "1.png")
    hit = store.search_embedding(query, weights_sha256=store.weights_sha256, top=1)[0]
    assert hit.item.source == str(crops / "1.png")
    assert hit.score == pytest.approx(1, abs=1e-5)
    stamp = store.stored()[str(crops / "2.png")].stamp
    assert stamp is not None
    assert stamp.mtime_ns == 1
    out, _ = index(run, crops)
    assert "0 crops added" in out
    assert "4 were there; 4 in all" in out
    assert "again" not in out


def test_a_change_with_equal_size_and_time_is_noticed(run: Run, tiny_weights: Path, tmp_path: Path) -> None:  # noqa: F811
    path = write_picture(tmp_path / "crops" / "a.bmp", 1)
    status = path.stat()
    index(run, path.parent, "--weights", tiny_weights)
    write_picture(path, 2)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert "1 had changed" in index(run, path.parent)[0]


def test_deleted_files_are_reported_and_pruned(run: Run, tiny_weights: Path, crops: Path) -> None:  # noqa: F811
    elsewhere = write_picture(crops.parent / "other" / "x.png", 9)
    index(run, crops, "--weights", tiny_weights)
    index(run, elsewhere.parent, "--out", crops.parent / "g")
    (crops / "1.png").unlink()
    elsewhere.unlink()
    _, err = index(run, crops)
    assert "1 items below" in err
    assert str(crops / "1.png") in err
    assert "1 items of other folders" in err
    assert "2 items are gone" in run("gallery", "show", crops.parent / "g")[1]
    out, _ = index(run, crops, "--prune")
    assert "1 items were deleted because their files no longer exist; 3 left" in out
    assert Gallery.open(crops.parent / "g").sources() == {str(crops / "0.png"), str(crops / "2.png"), str(elsewhere)}
    everything = b"".join(path.read_bytes() for path in (crops.parent / "g").iterdir() if path.is_file())
    assert b"1.png" not in everything
    for path in crops.iterdir():  # also if no image is left in the folder
        path.unlink()
    assert "2 items below" in index(run, crops)[1]
    index(run, crops, "--prune")
    assert Gallery.open(crops.parent / "g").sources() == {str(elsewhere)}


def test_a_changed_crop_that_cannot_be_read_is_reported(run: Run, tiny_weights: Path, crops: Path) -> None:  # noqa: F811
    index(run, crops, "--weights", tiny_weights)
    (crops / "1.png").write_bytes(b"broken")
    status, out, err = run("index", crops, "--out", crops.parent / "g", "--on-error", "skip")
    assert status == 1
    assert "2 were there; 3 in all" in out
    assert "1 crops have changed and cannot be read" in err


def test_labels_can_be_added_later(run: Run, tiny_weights: Path, crops: Path) -> None:  # noqa: F811
    index(run, crops, "--weights", tiny_weights)
    table = crops.parent / "t.csv"
    table.write_text("path,identity,camera\n0.png,ada,1\n1.png,bob,\n2.png,ada,2\n")
    out, _ = index(run, crops, "--csv", table)
    assert "3 got other labels" in out
    labels = {(i.source[-5:], i.identity, i.camera) for i in Gallery.open(crops.parent / "g").items}
    assert labels == {("0.png", "ada", "1"), ("1.png", "bob", None), ("2.png", "ada", "2")}
    assert "other labels" not in index(run, crops)[0]  # indexing without labels keeps the old ones
    assert {i.identity for i in Gallery.open(crops.parent / "g").items} == {"ada", "bob"}


def test_a_gallery_without_file_stamps_can_be_extended(run: Run, tmp_path: Path) -> None:  # noqa: F811
    folder = shutil.copytree(FIXTURES / "gallery_before_stamps", tmp_path / "g")
    store = Gallery.open(folder)
    assert store.items == (
        Item("/crops/ada.png", "ada", "1", 5.0), Item("/crops/../crops/bob.png", "bob"), Item("video.mp4#7"),
    )  # fmt: skip
    assert [stored.stamp for stored in store.stored().values()] == [None] * 3
    store.add_embeddings(np.ones((1, 3)), [Item("new")], weights_sha256=SHA, stamps=[FileStamp(1, 2, 3, "c" * 64)])
    again = Gallery.open(folder)
    assert again.stored()["new"].stamp == FileStamp(1, 2, 3, "c" * 64)
    files = ["1970-01-01_1_000003.safetensors", "gallery.json", "undated_000002.safetensors"]
    assert sorted(path.name for path in folder.glob("[!.]*")) == files
    assert again.items[:3] == store.items[:3]
    plan = plan_update(again.stored(), [Item("/crops/bob.png"), Item("/crops/ada.png", "eve")], replace_labels=True)
    assert plan.todo == {
        "/crops/bob.png": Item("/crops/../crops/bob.png"), "/crops/ada.png": Item("/crops/ada.png", "eve", "1", 5.0),
    }  # fmt: skip
    assert plan.unknown == {"/crops/bob.png", "/crops/ada.png"}
    assert again.find_gone("/crops") == ["/crops/ada.png", "/crops/../crops/bob.png"]


def test_items_without_file_stamps_are_embedded_again(run: Run, tiny_weights: Path, crops: Path) -> None:  # noqa: F811
    embedder = Embedder(tiny_weights, backend="torch")
    store = Gallery.open(crops.parent / "g", embedder)
    paths = sorted(crops.iterdir())
    items = [Item(str(path)) for path in paths]
    store.add_embeddings(embedder.embed(paths), items, weights_sha256=embedder.sha256())  # without stamps
    write_picture(crops / "0.png", 50)
    out, _ = index(run, crops)
    assert "3 were embedded again" in out
    hit = Gallery.open(store.folder).search_embedding(
        embedder.embed(crops / "0.png"), weights_sha256=embedder.sha256(), top=1
    )[0]
    assert (hit.item.source, hit.score) == (str(crops / "0.png"), pytest.approx(1, abs=1e-5))
    assert "3 were there; 3 in all" in index(run, crops)[0]


def test_put_replaces_changed_items_and_keeps_equal_ones(tmp_path: Path) -> None:
    store = Gallery.create(tmp_path / "g", weights_sha256=SHA, embedding_size=2)
    old, new = FileStamp(1, 1, 1, "1" * 64), FileStamp(1, 1, 1, "2" * 64)
    store.put_embeddings([[1, 0], [0, 1]], [Item("a"), Item("b")], weights_sha256=SHA, stamps=[old, old])
    added = store.put_embeddings(
        [[0, 1], [1, 1], [1, 0]], [Item("a"), Item("c"), Item("b")], weights_sha256=SHA, stamps=[new, None, old]
    )
    assert (added.new, added.replaced, added.same) == (1, 1, 1)
    again = Gallery.open(store.folder)
    assert [item.source for item in again.items] == ["b", "a", "c"]
    assert [hit.item.source for hit in again.search_embedding([0, 1], weights_sha256=SHA, top=2)] == ["b", "a"]
    first = {"a": "2", "b": "1"}
    assert {s: (x.stamp and x.stamp.sha256[0]) for s, x in again.stored().items()} == first | {"c": None}


def test_file_stamps_of_wrong_types_are_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / "gallery_before_stamps", tmp_path / "g")
    file, lines = folder / "items-000001.jsonl", (folder / "items-000001.jsonl").read_text().splitlines(keepends=True)
    for content in ('"x"', "[]", '{"size": "1", "mtime_ns": 1, "ctime_ns": 1, "sha256": ""}', '{"size": 1}'):
        file.write_text(json.dumps({"source": "a"})[:-1] + f', "file": {content}}}\n' + "".join(lines[1:]))
        manifest = json.loads((folder / "gallery.json").read_text())
        manifest["segments"][0]["items_sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
        (folder / "gallery.json").write_text(json.dumps(manifest))
        with pytest.raises(GalleryError, match="cannot be read"):
            Gallery.open(folder)


# One source per file


def test_plain_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep")
    monkeypatch.chdir(tmp_path)
    assert plain_path("a/../b/./x.png") == tmp_path / "b" / "x.png"
    assert plain_path(f"/{tmp_path}/x.png") == tmp_path / "x.png"
    assert plain_path("link/x.png") == tmp_path / "link" / "x.png"  # links are not resolved
    assert plain_path("link/../x.png") == (tmp_path / "real" / "x.png").resolve()  # not tmp_path / x.png
    assert plain_path("/../../x") == Path("/x")


def test_two_spellings_of_a_path_are_one_item(run: Run, tiny_weights: Path, crops: Path) -> None:  # noqa: F811
    index(run, crops, "--weights", tiny_weights)
    out, _ = index(run, crops / ".." / "crops", "--out", crops.parent / "g")
    assert out.startswith("0 crops added")
    assert "3 in all" in out
    both = (crops / "0.png", crops / ".." / "crops" / "0.png")
    _, out, _ = run("embed", *both, crops, "--weights", tiny_weights, "--out", crops.parent / "v.npz")
    assert out.startswith("3 embeddings of 512")


# Labels from file names


def test_a_file_without_a_market_name_has_no_labels(run: Run, tiny_weights: Path, tmp_path: Path) -> None:  # noqa: F811
    for pid in (1, 2):
        write_picture(tmp_path / "crops" / MARKET.format(pid, 3), pid)
    write_picture(tmp_path / "crops" / "odd one.png", 9)
    out, err = index(run, tmp_path / "crops", "--weights", tiny_weights)
    assert "of 3 crops" in out
    assert "2 have an identity and 2 a camera" in out
    assert "odd one.png" in err
    assert "0001" not in err
    assert {(i.identity, i.camera) for i in Gallery.open(tmp_path / "g").items} == {
        ("1", "3"),
        ("2", "3"),
        (None, None),
    }


def test_many_files_without_labels_are_counted(run: Run, tiny_weights: Path, tmp_path: Path) -> None:  # noqa: F811
    for n in range(12):
        (tmp_path / "crops").mkdir(exist_ok=True)
        first = tmp_path / "crops" / "odd00.png"
        path = tmp_path / "crops" / f"odd{n:02d}.png"
        if n:
            shutil.copy(first, path)
        else:
            write_picture(path)
        shutil.copy(first, tmp_path / "crops" / MARKET.format(n + 1, 1))
    _, err = index(run, tmp_path / "crops", "--weights", tiny_weights)
    assert "odd09.png, and 2 more" in err
    assert "odd10.png" not in err
    for n in range(1, 13):
        (tmp_path / "crops" / MARKET.format(n, 1)).unlink()
    out, err = index(run, tmp_path / "crops", "--prune")
    assert "0 have an identity and 0 a camera" in out
    assert "--identity-from" in err


def test_images_missing_from_the_table_are_named(run: Run, tiny_weights: Path, crops: Path) -> None:  # noqa: F811
    (crops.parent / "t.csv").write_text("path,identity\n1.png,ada\n")
    out, err = index(run, crops, "--weights", tiny_weights, "--csv", crops.parent / "t.csv")
    assert out.startswith("1 crops added")
    assert "lists 1 of 3 images" in err
    assert "0.png, 2.png" in err


# Several writers


def test_weights_are_checked_under_the_lock(tmp_path: Path) -> None:
    """The gallery is deleted and created again for other weights: the old object must not write into it."""
    store = store_of(tmp_path / "g", "a")
    shutil.rmtree(tmp_path / "g")
    other = Gallery.create(tmp_path / "g", weights_sha256=OTHER, embedding_size=4)
    for write in (store.add_embeddings, store.put_embeddings):
        with pytest.raises(GalleryError, match=r"bbbbbbbbbbbb.*aaaaaaaaaaaa"):
            write(np.ones((1, 4)), [Item("x")], weights_sha256=SHA, stamps=[None])
    assert len(Gallery.open(other.folder)) == 0
    shutil.rmtree(tmp_path / "g")
    Gallery.create(tmp_path / "g", weights_sha256=SHA, embedding_size=8)
    older = Gallery.open(tmp_path / "g")
    shutil.rmtree(tmp_path / "g")
    Gallery.create(tmp_path / "g", weights_sha256=SHA, embedding_size=4)
    with pytest.raises(GalleryError, match=r"\(N, 4\)"):
        older.add_embeddings(np.ones((1, 8)), [Item("x")], weights_sha256=SHA)
    shutil.rmtree(tmp_path / "g")
    with pytest.raises(GalleryError, match="no such folder"):
        store.add_embeddings(np.ones((1, 4)), [Item("x")], weights_sha256=SHA)
    assert not (tmp_path / "g").exists()


def test_forget_attributes_uses_the_state_on_disk(tmp_path: Path) -> None:
    from osnet.gallery import AttributeProbabilities
    from osnet.gallery.segments import StoredAttribute

    store = store_of(tmp_path / "g", "a")
    shutil.rmtree(tmp_path / "g")
    hat = StoredAttribute("hat", 0.5, "h")
    again = Gallery.create(tmp_path / "g", weights_sha256=SHA, embedding_size=4, attributes=[hat])
    again.add_embeddings(
        np.ones((1, 4)), [Item("x")], weights_sha256=SHA, attributes=AttributeProbabilities((hat,), [[0.7]])
    )
    store.forget_attributes(["hat"])
    assert Gallery.open(tmp_path / "g").attributes == ()
    assert b"hat" not in b"".join(path.read_bytes() for path in (tmp_path / "g").iterdir())


def test_concurrent_first_writers_all_add(tiny_network: OSNet, tmp_path: Path) -> None:
    embedder = Embedder(tiny_network)
    errors: list[Exception] = []
    start = threading.Barrier(4)

    def write(n: int) -> None:
        try:
            start.wait()
            store = Gallery.open(tmp_path / "g", embedder)
            store.add_embeddings(np.ones((1, 512)), [Item(f"from {n}")], weights_sha256=embedder.sha256())
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert Gallery.open(tmp_path / "g").sources() == {f"from {n}" for n in range(4)}
    assert Embedder(tmp_path / "g" / "weights").sha256() == embedder.sha256()


def test_a_first_writer_waits_for_the_lock(tiny_network: OSNet, tmp_path: Path) -> None:
    """Another process holds the lock of an empty folder and creates a gallery of other weights."""
    (tmp_path / "g").mkdir()
    embedder, found = Embedder(tiny_network), []

    def write() -> None:
        try:
            Gallery.open(tmp_path / "g", embedder)
        except GalleryError as error:
            found.append(str(error))

    with FileLock(tmp_path / "g" / ".lock"):
        thread = threading.Thread(target=write)
        thread.start()
        thread.join(0.3)
        assert not (tmp_path / "g" / "gallery.json").exists()
        shutil.copy(FIXTURES / "gallery_before_stamps" / "gallery.json", tmp_path / "g")
    thread.join()
    assert "cannot be compared" in found[0]
    assert not (tmp_path / "g" / "weights").exists()


def test_two_index_commands_at_once_add_each_crop_once(
    tiny_weights: Path, crops: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both find an empty gallery and embed everything; the second keeps the items of the first."""
    open_gallery, both = gallery_command.open_gallery, threading.Barrier(2)

    def opened_together(*args: Any) -> Any:
        found = open_gallery(*args)
        both.wait()
        return found

    monkeypatch.setattr(index_command, "open_gallery", opened_together)
    threads = [
        threading.Thread(
            target=index_command.index, args=(crops,), kwargs={"out": crops.parent / "g", "weights": "tiny"}
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    summaries = [line for line in capsys.readouterr().out.splitlines() if "crops added" in line]
    assert sorted(line[0] for line in summaries) == ["0", "3"]
    assert len(Gallery.open(crops.parent / "g")) == 3


def test_create_after_a_crash_in_create(tmp_path: Path) -> None:
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / ".writing-1-x-gallery.json").write_text("{")
    assert len(Gallery.create(tmp_path / "g", weights_sha256=SHA, embedding_size=4)) == 0


def test_only_sources_that_are_missing_files_are_gone(tmp_path: Path) -> None:
    store = store_of(tmp_path / "g", "crop-1", "video.mp4#3", str(tmp_path / "gone.png"), f"{tmp_path}/v.mp4#9")
    (tmp_path / "v.mp4").write_bytes(b"")
    assert [s.item.source for s in store.stored().values() if is_gone(s)] == [str(tmp_path / "gone.png")]
    assert store.find_gone(tmp_path / "elsewhere") == []
    assert store.prune(tmp_path) == 1
    assert len(Gallery.open(store.folder)) == 3


def test_other_weights_do_not_change_the_gallery(run: Run, tiny_weights: Path, crops: Path) -> None:  # noqa: F811
    index(run, crops, "--weights", tiny_weights)
    torch.manual_seed(5)
    save_weights(OSNet(OSNetConfig(width=0.25)), crops.parent / "other")
    (crops / "0.png").unlink()
    status, _, _ = run("index", crops, "--out", crops.parent / "g", "--weights", crops.parent / "other", "--prune")
    assert status == 2
    assert len(Gallery.open(crops.parent / "g")) == 3
