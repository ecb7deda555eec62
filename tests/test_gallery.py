"""The gallery: exact search, filters, atomic writes, deletion from disk."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest

import osnet.gallery.stored_rows as rows_module
from osnet.errors import GalleryError, OutputError
from osnet.files import written_aside
from osnet.gallery import Gallery, VectorStore, Where
from osnet.types import Item

SHA, OTHER = "a" * 64, "b" * 64


def vectors(count: int, seed: int = 0, size: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)


def items(count: int, prefix: str = "crop", **fields) -> list[Item]:
    return [Item(f"{prefix}-{n}", **fields) for n in range(count)]


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    store = Gallery.create(tmp_path / "g", weights_sha256=SHA, embedding_size=8, weights_name="test")
    store.add_embeddings(vectors(50), items(50), weights_sha256=SHA)
    return store


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def test_search_against_a_slow_loop(gallery: Gallery) -> None:
    stored, query = vectors(50), vectors(1, seed=9)[0]
    cosines = [float(v @ query / np.linalg.norm(v) / np.linalg.norm(query)) for v in stored]
    expected = sorted(range(50), key=lambda i: -cosines[i])[:7]
    hits = gallery.search_embedding(query, weights_sha256=SHA, top=7)
    assert [hit.item.source for hit in hits] == [f"crop-{i}" for i in expected]
    assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5, 6, 7]
    np.testing.assert_allclose([hit.score for hit in hits], [cosines[i] for i in expected], atol=1e-6)
    assert len(gallery.search_embedding(query, weights_sha256=SHA, top=1000)) == 50
    assert gallery.search_embedding(query[None], weights_sha256=SHA, top=1)[0] == hits[0]


def test_items_with_equal_scores_keep_insertion_order(tmp_path: Path) -> None:
    store = Gallery.create(tmp_path / "g", weights_sha256=SHA, embedding_size=2)
    store.add_embeddings(np.tile([[1.0, 0.0]], (30, 1)), items(30), weights_sha256=SHA)
    found = store.search_embedding([2.0, 0.0], weights_sha256=SHA, top=5)
    assert [hit.item.source for hit in found] == [f"crop-{n}" for n in range(5)]
    assert all(hit.score <= 1.0 for hit in found)


def test_a_reopened_gallery_is_equal(gallery: Gallery) -> None:
    gallery.add_embeddings(vectors(3, 1), items(3, "late", identity="ada", camera="7", time_s=5.0), weights_sha256=SHA)
    again = Gallery.open(gallery.folder)
    assert again.items == gallery.items
    assert (len(again), again.weights_sha256, again.weights_name) == (53, SHA, "test")
    query = vectors(1, 5)[0]
    assert again.search_embedding(query, weights_sha256=SHA) == gallery.search_embedding(query, weights_sha256=SHA)
    store: VectorStore = again  # mypy checks that Gallery implements the protocol
    assert len(store) == 53


def test_filters(tmp_path: Path) -> None:
    store = Gallery.create(tmp_path / "g", weights_sha256=SHA, embedding_size=8)
    people = [
        Item("mon/a", "ada", "1", 10.0),
        Item("mon/b", "bob", "1", 20.0),
        Item("tue/c", "ada", "2", 30.0),
        Item("tue/d"),
    ]
    store.add_embeddings(vectors(4), people, weights_sha256=SHA)

    def found(**conditions) -> set[str]:
        hits = store.search_embedding(vectors(1)[0], weights_sha256=SHA, where=Where(**conditions))
        return {hit.item.source for hit in hits}

    assert found() == {"mon/a", "mon/b", "tue/c", "tue/d"}
    assert found(identities=frozenset({"ada"})) == {"mon/a", "tue/c"}
    assert found(cameras=frozenset({"1", "9"})) == {"mon/a", "mon/b"}
    assert found(after_s=20.0) == {"mon/b", "tue/c"}
    assert found(before_s=20.0) == {"mon/a", "mon/b"}
    assert found(source="tue/*") == {"tue/c", "tue/d"}
    assert found(identities=frozenset({"ada"}), after_s=11.0) == {"tue/c"}
    assert found(identities=frozenset({"eve"})) == set()


def test_filters_apply_before_the_top_k(gallery: Gallery) -> None:
    query = vectors(1, 9)[0]
    worst = gallery.search_embedding(query, weights_sha256=SHA, top=50)[-1].item.source
    assert [
        h.item.source for h in gallery.search_embedding(query, weights_sha256=SHA, top=1, where=Where(source=worst))
    ] == [worst]


def test_vectors_of_other_weights_are_refused(gallery: Gallery) -> None:
    with pytest.raises(GalleryError, match=r"aaaaaaaaaaaa.*bbbbbbbbbbbb"):
        gallery.add_embeddings(vectors(1), items(1, "x"), weights_sha256=OTHER)
    with pytest.raises(GalleryError, match="cannot be compared"):
        gallery.search_embedding(vectors(1)[0], weights_sha256=OTHER)
    assert len(gallery) == 50


@pytest.mark.parametrize(
    ("rows", "names", "words"),
    [
        (vectors(2), items(1, "x"), "2 embeddings but 1 items"),
        (vectors(1, size=9), items(1, "x"), r"\(1, 9\)"),
        (np.zeros((1, 8)), items(1, "x"), "embedding 0 is zero"),
        (np.full((1, 8), np.nan), items(1, "x"), "not finite"),
        (vectors(1), items(1, "crop"), "crop-0 is in .* already"),
        (vectors(2), [Item("same"), Item("same")], "same is in"),
    ],
)
def test_bad_rows_change_nothing(gallery: Gallery, rows: np.ndarray, names: list[Item], words: str) -> None:
    before = contents(gallery.folder)
    with pytest.raises(GalleryError, match=words):
        gallery.add_embeddings(rows, names, weights_sha256=SHA)
    assert contents(gallery.folder) == before
    assert len(gallery) == len(Gallery.open(gallery.folder)) == 50


def test_remove_deletes_the_bytes_from_every_file(gallery: Gallery) -> None:
    secret = np.full((1, 8), 0.123456789, np.float32)
    stored = (secret / np.linalg.norm(secret)).tobytes()
    gallery.add_embeddings(secret, [Item("secret-source-xyzzy", identity="doe")], weights_sha256=SHA)
    gallery.add_embeddings(vectors(2, 3), items(2, "after"), weights_sha256=SHA)
    everything = b"".join(contents(gallery.folder).values())
    assert stored in everything
    assert b"secret-source-xyzzy" in everything
    assert gallery.remove(Where(identities=frozenset({"doe"}))) == 1
    for reopen in (False, True):  # deleted even before the gallery is reopened
        where = Gallery.open(gallery.folder).folder if reopen else gallery.folder
        everything = b"".join(contents(where).values())
        assert stored not in everything
        assert b"secret-source-xyzzy" not in everything
    assert len(gallery) == len(Gallery.open(gallery.folder)) == 52
    assert gallery.remove(Where(source="nothing like it")) == 0
    with pytest.raises(GalleryError, match="needs a condition"):
        gallery.remove(Where())


def test_everything_can_be_removed_and_added_again(gallery: Gallery) -> None:
    assert gallery.remove(Where(source="*")) == 50
    assert len(Gallery.open(gallery.folder)) == 0
    assert gallery.search_embedding(vectors(1)[0], weights_sha256=SHA) == []
    gallery.add_embeddings(vectors(50), items(50), weights_sha256=SHA)
    assert len(Gallery.open(gallery.folder)) == 50


@pytest.mark.parametrize("action", ["add", "remove"])
def test_a_kill_at_any_write_leaves_the_old_or_the_new_state(gallery: Gallery, action: str, monkeypatch) -> None:
    before = set(gallery.sources())
    after = before | {"late-0"} if action == "add" else before - {"crop-7"}
    real, outcomes = Path.replace, []

    for fail_at in (1, 2, 3, 4):
        calls = 0

        def replace_or_interrupt(self: Path, target: Path) -> Path:
            nonlocal calls
            calls += 1
            if calls == fail_at:
                raise KeyboardInterrupt
            return real(self, target)

        store = Gallery.open(gallery.folder)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", replace_or_interrupt)
            try:
                if action == "add":
                    store.add_embeddings(vectors(1, 4), items(1, "late"), weights_sha256=SHA)
                else:
                    store.remove(Where(source="crop-7"))
                outcomes.append("done")
            except KeyboardInterrupt:
                outcomes.append("killed")
        now = Gallery.open(gallery.folder)
        assert now.sources() == (after if outcomes[-1] == "done" else before)
        assert len(now.search_embedding(vectors(1)[0], weights_sha256=SHA, top=100)) == len(now)
        if outcomes[-1] == "done":
            break
    assert outcomes == ["killed"] * 2 + ["done"]  # the segment and gallery.json are replaced


def test_files_left_by_a_crash_are_deleted(gallery: Gallery) -> None:
    """A kill may leave an old segment that gallery.json no longer lists, or a half-written file."""
    old = ("vectors-000099.npy", "items-000099.jsonl")
    for name in (*old, "2026-11-28_gate_000007.safetensors", "undated_000099.safetensors", ".writing-17-x.jsonl"):
        (gallery.folder / name).write_bytes(b"removed person")
    Gallery.open(gallery.folder)
    assert sorted(contents(gallery.folder)) == ["gallery.json", "undated_000001.safetensors"]


def test_other_files_in_the_folder_are_not_deleted(gallery: Gallery) -> None:
    names = ("items-export.jsonl", "vectors-backup.npy", "undated_mine.safetensors", "2026_gate_000001.safetensors")
    for name in names:
        (gallery.folder / name).write_text("mine")
    Gallery.open(gallery.folder).remove(Where(source="crop-1"))
    assert [(gallery.folder / name).read_text() for name in names] == ["mine"] * 4
    with pytest.raises(TypeError, match="set of names"):
        Where(identities="ada")  # type: ignore[arg-type]


def test_many_small_additions_are_merged(tmp_path: Path) -> None:
    store = Gallery.create(tmp_path / "g", weights_sha256=SHA, embedding_size=8)
    for n in range(rows_module.MAX_SEGMENTS + 5):
        store.add_embeddings(vectors(1, n), items(1, f"p{n}"), weights_sha256=SHA)
    assert len(list(store.folder.glob("undated_*"))) <= rows_module.MAX_SEGMENTS
    again = Gallery.open(store.folder)
    assert [item.source for item in again.items] == [f"p{n}-0" for n in range(rows_module.MAX_SEGMENTS + 5)]
    assert again.search_embedding(vectors(1, 7)[0], weights_sha256=SHA, top=1)[0].item.source == "p7-0"


def test_concurrent_writers_lose_nothing(gallery: Gallery) -> None:
    """Four writers open the same state; no addition is lost."""
    stores = [Gallery.open(gallery.folder) for _ in range(4)]
    threads = [
        threading.Thread(
            target=store.add_embeddings, args=(vectors(2, n), items(2, f"t{n}")), kwargs={"weights_sha256": SHA}
        )
        for n, store in enumerate(stores)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Gallery.open(gallery.folder)) == 58


def test_a_lock_that_is_not_released_is_an_error(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    from filelock import FileLock

    monkeypatch.setattr(rows_module, "LOCK_TIMEOUT_S", 0.1)
    with FileLock(gallery.folder / ".lock"), pytest.raises(GalleryError, match="another process is writing"):
        gallery.add_embeddings(vectors(1), items(1, "x"), weights_sha256=SHA)


def test_damaged_and_missing_segments_are_named(gallery: Gallery) -> None:
    path = gallery.folder / "undated_000001.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(GalleryError, match=r"undated_000001\.safetensors is damaged"):
        Gallery.open(gallery.folder)
    path.unlink()
    with pytest.raises(GalleryError, match=r"undated_000001\.safetensors"):
        Gallery.open(gallery.folder)


@pytest.mark.parametrize(
    "change",
    [{"format": "other"}, {"segments": [{"number": "../x"}]}, {"segments": 3}, {"surprise": 1}],
)
def test_an_invalid_gallery_json_is_refused(gallery: Gallery, change: dict) -> None:
    path = gallery.folder / "gallery.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(GalleryError, match=r"gallery\.json"):
        Gallery.open(gallery.folder)


def test_missing_used_and_full_folders_are_refused(tmp_path: Path, gallery: Gallery) -> None:
    with pytest.raises(GalleryError, match="gone"):
        Gallery.open(tmp_path / "gone")
    with pytest.raises(GalleryError, match="holds a gallery already"):
        Gallery.create(gallery.folder, weights_sha256=SHA, embedding_size=8)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    with pytest.raises(GalleryError, match="is not empty"):
        Gallery.create(tmp_path / "full", weights_sha256=SHA, embedding_size=8)
    with pytest.raises(OutputError, match="cannot make the folder"):
        Gallery.create(tmp_path / "full" / "thesis.txt" / "g", weights_sha256=SHA, embedding_size=8)


@pytest.mark.parametrize(
    ("vector", "top", "words"),
    [
        (vectors(2), 1, r"\(2, 8\)"),
        (np.zeros(8), 1, "zero"),
        (vectors(1)[0], 0, "top 0"),
        (vectors(1, size=4)[0], 1, r"\(1, 4\)"),
    ],
)
def test_invalid_searches_are_refused(gallery: Gallery, vector: np.ndarray, top: int, words: str) -> None:
    with pytest.raises(GalleryError, match=words):
        gallery.search_embedding(vector, weights_sha256=SHA, top=top)


def test_written_aside_keeps_the_old_file_on_failure(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(RuntimeError), written_aside(path) as aside:
        aside.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OutputError, match="there is no folder"), written_aside(tmp_path / "gone" / "f"):
        pass


def test_unknown_labels_stay_none(gallery: Gallery) -> None:
    assert gallery.items[0] == Gallery.open(gallery.folder).items[0] == Item("crop-0")


@pytest.mark.parametrize("key", ["weights_sha256", "weights_name", "embedding_size", "next_segment", "segments"])
@pytest.mark.parametrize("value", [None, True, 1.5, "x", [1], [None], {"a": 1}, float("nan")])
def test_wrong_types_in_gallery_json_are_refused(tmp_path: Path, key: str, value: object) -> None:
    Gallery.create(tmp_path / "g", weights_sha256="a" * 64, embedding_size=4)
    path = tmp_path / "g" / "gallery.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {key: value}))
    if key.startswith("weights") and value == "x":  # a string is valid for these keys
        assert getattr(Gallery.open(tmp_path / "g"), key) == "x"
        return
    with pytest.raises(GalleryError, match=r"gallery\.json is damaged"):
        Gallery.open(tmp_path / "g")
