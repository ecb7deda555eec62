"""Copying between stores: resuming, comparison of the copy, and the `osnet store` commands."""

from pathlib import Path

import numpy as np
import pytest

import osnet.gallery.copying as copying
from osnet.errors import GalleryError
from osnet.gallery import Gallery, VectorStore, Where
from osnet.gallery.copying import copy_store, open_store
from osnet.types import Item
from store_servers import postgres_server
from test_cli import Run, run  # noqa: F401

SHA, SIZE = "a" * 64, 8
ITEMS = [Item(f"crop-{n:03d}", f"p{n % 7}", f"c{n % 3}", 86_400.0 * (n % 4)) for n in range(50)]


@pytest.fixture
def origin(tmp_path: Path) -> Gallery:
    store = Gallery.create(tmp_path / "origin", weights_sha256=SHA, embedding_size=SIZE, weights_name="test")
    rows = np.random.default_rng(0).normal(size=(50, SIZE))
    order = np.random.default_rng(1).permutation(50)
    store.add_embeddings(rows[order], [ITEMS[n] for n in order], weights_sha256=SHA)
    return store


def same(a: VectorStore, b: VectorStore) -> bool:
    query = np.arange(1.0, SIZE + 1)
    found, again = (s.search_embedding(query, weights_sha256=SHA, top=20) for s in (a, b))
    names = [item.source for item in a.find()]
    return (
        [hit.item for hit in found] == [hit.item for hit in again]
        and a.find() == b.find()
        and np.allclose(a.embeddings(names), b.embeddings(names), rtol=0, atol=1e-6)
    )


def test_a_copy_through_every_store_equals_the_origin(
    origin: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("psycopg", "qdrant_client", "qdrant_edge"):
        pytest.importorskip(module)
    monkeypatch.setattr(copying, "PAGE", 16)
    with postgres_server() as (address, _):
        store: VectorStore = origin
        for place in (f"qdrant:{tmp_path / 'q'}", address, f"qdrant-edge:{tmp_path / 'e'}", str(tmp_path / "last")):
            target = open_store(place, like=store)
            assert copy_store(store, target) == copying.Copied(50, 0, ())
            assert same(origin, target)
            store = target
        assert open_store(address, like=origin).count() == 50
        open_store(address).drop()  # type: ignore[attr-defined]


def test_an_interrupted_copy_resumes(origin: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "PAGE", 10)
    target = Gallery.create(tmp_path / "t", weights_sha256=SHA, embedding_size=SIZE)
    real, calls = target.add_embeddings, []

    def add_or_stop(*args: object, **kwargs: object) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(target, "add_embeddings", add_or_stop)
    with pytest.raises(KeyboardInterrupt):
        copy_store(origin, target)
    assert len(target) == 20
    monkeypatch.setattr(target, "add_embeddings", real)
    assert copy_store(origin, target) == copying.Copied(30, 20, ())
    assert same(origin, target)


def test_differing_items_are_named(origin: Gallery, tmp_path: Path) -> None:
    target = Gallery.create(tmp_path / "t", weights_sha256=SHA, embedding_size=SIZE)
    wrong = [Item("crop-007", "someone else"), ITEMS[9]]
    target.add_embeddings(np.ones((2, SIZE)), wrong, weights_sha256=SHA)
    done = copy_store(origin, target)
    assert (done.copied, done.there, sorted(done.differing)) == (48, 2, ["crop-007", "crop-009"])
    other = Gallery.create(tmp_path / "o", weights_sha256="b" * 64, embedding_size=SIZE)
    with pytest.raises(GalleryError, match=r"bbbbbbbbbbbb.*aaaaaaaaaaaa"):
        open_store(str(other.folder), like=origin)
    for bad in ("mysql://x/y", "qdrant+http://localhost:6333"):
        with pytest.raises(GalleryError, match=bad.split(":")[0].replace("+", r"\+")):
            open_store(bad)


def test_the_store_commands(origin: Gallery, run: Run, tmp_path: Path) -> None:  # noqa: F811
    copy = tmp_path / "copy"
    status, out, err = run("store", "copy", origin.folder, copy)
    assert status == 0, err
    assert "50 items copied, 0 were there, 50 in all" in out
    assert "0 items copied, 50 were there" in run("store", "copy", origin.folder, copy)[1]
    assert "50 items of 8 numbers" in run("store", "show", copy)[1]
    assert run("store", "check", copy)[0] == 0
    status, out, _ = run("store", "erase", copy, "--identity", "p3")
    assert (status, out.splitlines()[0]) == (0, "7 items erased; 7 files or partitions rewritten, 0 deleted")
    assert "nothing found" in out
    assert run("store", "erase", copy, "--identity", "p3")[0] == 1
    status, out, _ = run("store", "expire", copy, "--before", "1970-01-02T00:00:00")
    assert status == 0
    assert Gallery.open(copy).count(Where(before_s=86_399.0)) == 0
    path = next(copy.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    assert run("store", "check", copy)[0] == 2  # a small gallery is compared when it is opened


@pytest.mark.parametrize("address", ["qdrnt:o6/q2", "postgresql+psycopg://osnet:secret@db/osnet"])
def test_a_misspelled_kind_of_store_is_no_folder(
    address: str, origin: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = list(tmp_path.iterdir())
    with pytest.raises(GalleryError, match="qdrant-edge:FOLDER") as refused:
        open_store(address, like=origin)
    assert "secret" not in str(refused.value)
    assert list(tmp_path.iterdir()) == before


def test_a_new_qdrant_store_needs_a_folder_of_its_own(origin: Gallery, tmp_path: Path) -> None:
    pytest.importorskip("qdrant_client")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_bytes(b"photo")
    with pytest.raises(GalleryError, match="photos"):
        open_store(f"qdrant:{tmp_path / 'photos'}", like=origin)
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["1.jpg"]
    (tmp_path / "empty").mkdir()
    assert open_store(f"qdrant:{tmp_path / 'empty'}", like=origin).count() == 0


def test_a_data_folder_that_would_not_be_looked_into_is_refused(
    origin: Gallery,
    run: Run,  # noqa: F811
    tmp_path: Path,
) -> None:
    status, _, err = run("store", "erase", tmp_path / "origin", "--camera", "c1", "--data-folder", tmp_path)
    assert (status, str(tmp_path) in err) == (2, True)
    status, _, err = run("store", "expire", tmp_path / "origin", "--before", "1e6", "--data-folder", tmp_path)
    assert (status, str(tmp_path) in err) == (2, True)
    assert Gallery.open(tmp_path / "origin").count() == 50
    pytest.importorskip("psycopg")
    with postgres_server() as (address, data):
        assert copy_store(origin, open_store(address, like=origin)).copied == 50
        other = tmp_path / "other"
        (other / "global").mkdir(parents=True)
        control = bytearray((data / "global" / "pg_control").read_bytes())
        control[0] ^= 1
        (other / "global" / "pg_control").write_bytes(control)
        for wrong in (tmp_path / "missing", tmp_path, other):
            status, _, err = run("store", "erase", address, "--camera", "c1", "--data-folder", wrong)
            assert (status, str(wrong) in err) == (2, True), err
        assert open_store(address).count() == 50
        assert run("store", "erase", address, "--camera", "c1", "--data-folder", data)[0] == 0
