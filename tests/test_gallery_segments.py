"""The files of a gallery: one per day and camera, readable by safetensors, rewritten only where needed."""

import json
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import osnet.gallery.snapshot as snapshot
import osnet.gallery.stored_rows as stored_rows
from osnet.errors import GalleryError
from osnet.gallery import FileStamp, Gallery, Where
from osnet.gallery.segment_file import map_rows
from osnet.gallery.segments import Manifest
from osnet.gallery.snapshot import Snapshot
from osnet.types import Item

SHA, SIZE, DAY_S = "a" * 64, 8, 86_400.0


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, SIZE)).astype(np.float32)


def make(folder: Path, items: list[Item]) -> Gallery:
    store = Gallery.create(folder, weights_sha256=SHA, embedding_size=SIZE)
    store.add_embeddings(rows(len(items)), items, weights_sha256=SHA)
    return store


def files(store: Gallery) -> dict[str, int]:
    """File name -> modification time in nanoseconds."""
    return {path.name: path.stat().st_mtime_ns for path in store.folder.glob("*.safetensors")}


def test_a_file_for_each_day_and_camera(tmp_path: Path) -> None:
    store = make(
        tmp_path / "g",
        [
            Item("a", camera="gate", time_s=20_785 * DAY_S),
            Item("b", camera="gate", time_s=20_786 * DAY_S - 0.001),
            Item("c", camera="gate", time_s=20_786 * DAY_S),
            Item("d", camera="door", time_s=20_785 * DAY_S),
            Item("e", camera="../../etc/passwd", time_s=20_785 * DAY_S),
            Item("f", camera="gate"),
            Item("g", time_s=5.0),
            Item("h", camera="gate", time_s=-0.5),
            Item("i", camera="gate", time_s=1e18),
        ],
    )
    names = sorted(name.rsplit("_", 1)[0] for name in files(store))
    digest = next(name for name in names if "camera-" in name)
    assert names == sorted(
        ["1969-12-31_gate", "2026-11-28_gate", "2026-11-29_gate", "2026-11-28_door", digest, "undated"]
    )
    assert digest.startswith("2026-11-28_camera-")
    assert not (tmp_path / "etc").exists()
    assert [item.source for item in Gallery.open(store.folder).items] == list("abcdefghi")
    assert Gallery.open(store.folder).items == store.items


def test_expire_and_erase_change_only_affected_files(tmp_path: Path) -> None:
    items = [Item(f"{n}", f"p{n % 5}", f"c{n % 2}", (n % 3) * DAY_S + n) for n in range(30)]
    store = make(tmp_path / "g", items)
    before = files(store)
    assert len(before) == 6
    report = store.expire(DAY_S)
    assert (report.rows, report.rewritten, report.deleted) == (10, 0, 2)
    assert files(store) == {name: when for name, when in before.items() if not name.startswith("1970-01-01")}
    remaining = files(store)
    report = store.erase(Where(sources=frozenset({"7"})))
    assert (report.rows, report.rewritten, report.deleted, report.is_complete) == (1, 1, 0, True)
    changed = set(remaining) - set(files(store))
    assert changed == {name for name in remaining if name.startswith("1970-01-02_c1")}
    assert all(files(store)[name] == when for name, when in remaining.items() if name not in changed)


def test_safetensors_reads_the_files(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    store = make(
        tmp_path / "g", [Item("ä", "ada", "1", 5.0), Item("b\udcff", None, "1", 6.0), Item("c", "bob", "1", 7.0)]
    )
    (name,) = files(store)
    found = safetensors.load_file(store.folder / name)
    np.testing.assert_array_equal(found["vectors"], store.embeddings(["ä", "b\udcff", "c"]))
    assert json.loads(found["names"].tobytes()) == {"cameras": ["1"], "identities": ["ada", "bob"]}
    assert found["identity"].tolist() == [0, -1, 1]
    assert found["time_s"].tolist() == [5, 6, 7]
    close = found["codes"] * found["scales"][:, :1]
    assert (np.linalg.norm(close - found["vectors"], axis=1) <= found["scales"][:, 1]).all()


def test_names_of_removed_people_are_deleted_from_the_files(tmp_path: Path) -> None:
    store = make(tmp_path / "g", [Item(f"{n}", f"person-{n}", f"camera-{n}") for n in range(4)])
    store.remove(Where(identities=frozenset({"person-2"})))
    everything = b"".join(path.read_bytes() for path in store.folder.iterdir())
    assert b"person-3" in everything
    assert b"person-2" not in everything
    assert b"camera-2" not in everything


def test_relabel_moves_rows_between_files_and_keeps_the_order(tmp_path: Path) -> None:
    store = make(tmp_path / "g", [Item(f"{n}", None, "c", DAY_S) for n in range(4)])
    before = store.embeddings(list("0123"))
    stamp = FileStamp(1, 2, 3, "ab" * 32)
    store.relabel([Item("1", "ada", "d", 2 * DAY_S), Item("gone")], {"2": stamp})
    again = Gallery.open(store.folder)
    assert [item.source for item in again.items] == list("0123")
    assert again.items[1] == Item("1", "ada", "d", 2 * DAY_S)
    assert [again.stored()[name].stamp for name in "12"] == [None, stamp]
    assert sorted(name[:12] for name in files(store)) == ["1970-01-02_c", "1970-01-03_d"]
    np.testing.assert_array_equal(again.embeddings(list("0123")), before)
    assert again.search_embedding(rows(4)[1], weights_sha256=SHA, top=1)[0].item.source == "1"


@pytest.mark.parametrize(
    "damage",
    ["short", "header", "offsets", "camera code", "source end", "shape", "names"],
)
def test_malformed_segment_files_are_refused(damage: str, tmp_path: Path) -> None:
    """Each file's digest in gallery.json is right, so only the content is wrong. Nothing outside it is read."""
    store = make(tmp_path / "g", [Item(f"{n}", "p", "c", 1.0) for n in range(3)])
    (name,) = files(store)
    path = store.folder / name
    content = bytearray(path.read_bytes())
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])

    def place(array: str) -> int:
        return 8 + length + header[array]["data_offsets"][0]

    if damage == "short":
        content = content[:-3]
    elif damage == "header":
        content[:8] = (1 << 40).to_bytes(8, "little")
    elif damage == "camera code":
        content[place("camera") : place("camera") + 4] = (7).to_bytes(4, "little")
    elif damage == "source end":
        content[place("source_end") : place("source_end") + 8] = (1 << 40).to_bytes(8, "little")
    elif damage == "names":
        content[place("names")] = ord("x")
    else:
        array = header["vectors"]
        if damage == "offsets":
            array["data_offsets"][1] += 1 << 30
        else:
            array["shape"] = [array["shape"][0] * 2, array["shape"][1] // 2]
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        content = bytearray(len(text).to_bytes(8, "little") + text + content[8 + length :])
    path.write_bytes(content)
    with pytest.raises(GalleryError, match=f"{name} is damaged"):
        map_rows(path, 3, SIZE, 0)
    with pytest.raises(GalleryError, match=name):
        Gallery.open(store.folder)


def test_check_finds_damage_that_open_skips_in_large_galleries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(tmp_path / "g", [Item(f"{n}", "p", f"c{n % 2}", 1.0) for n in range(6)])
    monkeypatch.setattr(snapshot, "CHECKED_BYTES", 0)
    assert Gallery.open(store.folder).check() == []
    path = store.folder / sorted(files(store))[0]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    (fault,) = Gallery.open(store.folder).check()
    assert path.name in fault


def test_a_writer_goes_by_the_state_that_it_has_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread's ``refresh`` may put an older state in place while this one writes."""
    store = make(tmp_path / "g", [Item("1", "p1", "c1", DAY_S)])
    stale, sweep, write = store._state, stored_rows.sweep, Gallery._write
    Gallery.open(store.folder).add_embeddings(rows(1, 2), [Item("2", "p2", "c2", DAY_S)], weights_sha256=SHA)

    def sweep_late(folder: Path, manifest: Manifest) -> None:
        sweep(folder, manifest)
        store._state = stale

    def write_early(self: Gallery, *given: Any, **more: Any) -> Any:
        written = write(self, *given, **more)
        self._state = stale
        return written

    monkeypatch.setattr(stored_rows, "sweep", sweep_late)
    monkeypatch.setattr(Gallery, "_write", write_early)
    store.add_embeddings(rows(1, 3), [Item("3", "p3", "c3", DAY_S)], weights_sha256=SHA)
    assert Gallery.open(store.folder).count() == 3
    assert Gallery.open(store.folder).check() == []


def test_a_write_holds_only_the_groups_that_it_is_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When all groups are merged at once, the whole gallery must not be in memory."""
    names = [f"c{n:02d}" for n in range(40)]
    store = make(tmp_path / "g", [Item(f"1{name}", "p", name, DAY_S) for name in names])
    joined: list[weakref.ref[Any]] = []
    most, join, write = [0], stored_rows.join_rows, stored_rows.write_segment

    def join_rows(parts: Any) -> Any:
        rows = join(parts)
        joined.append(weakref.ref(rows.vectors))
        return rows

    def write_segment(*given: Any) -> Any:
        most[0] = max(most[0], sum(one() is not None for one in joined))
        return write(*given)

    monkeypatch.setattr(stored_rows, "MAX_SEGMENTS", 1)
    monkeypatch.setattr(stored_rows, "join_rows", join_rows)
    monkeypatch.setattr(stored_rows, "write_segment", write_segment)
    more = [Item(f"2{name}", "p", name, DAY_S) for name in names]
    store.add_embeddings(rows(40, 1), more, weights_sha256=SHA)
    assert len(joined) == len(files(store)) == 40
    assert most[0] <= stored_rows.WRITERS
    assert [item.source for item in Gallery.open(store.folder).items] == [
        f"{n}{name}" for n in (1, 2) for name in names
    ]


def test_files_stay_mapped_while_another_thread_maps_more(tmp_path: Path) -> None:
    store = make(tmp_path / "g", [Item("1", "p1", "c1", DAY_S), Item("2", "p1", "c2", DAY_S)])
    before = store._state
    before.rows(0)
    mapping = threading.Event()

    class Mapped(dict[int, Any]):
        def items(self) -> Any:
            thread = threading.Thread(target=lambda: (before.rows(1), mapping.set()))
            thread.start()
            mapping.wait(0.2)
            yield from super().items()

    before._mapped = Mapped({0: before._mapped[0]})
    assert set(Snapshot(store.folder, before.manifest, before=before)._mapped) == {0}
    mapping.wait()
    assert set(before._mapped) == {0, 1}


def test_searching_while_a_writer_replaces_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer replaces files that a reader has listed but not mapped. The reader then uses the new ones."""
    monkeypatch.setattr(snapshot, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(snapshot, "MAX_MAPPED", 1)
    store = make(tmp_path / "g", [Item(f"{n}", f"p{n}", f"c{n % 4}", DAY_S) for n in range(40)])
    reader = Gallery.open(store.folder)
    errors: list[BaseException] = []

    def read() -> None:
        try:
            for n in range(40):
                hits = reader.search_embedding(rows(1, n)[0], weights_sha256=SHA, top=100)
                assert 20 <= len(hits) <= 40
                assert len({hit.item.source for hit in hits}) == len(hits)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    for n in range(20):
        store.remove(Where(sources=frozenset({f"{n}"})))
    thread.join()
    assert errors == []
    reader.refresh()
    assert reader.count() == 20
