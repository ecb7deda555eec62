"""Search returns the same top k as scoring every row in float64, for any data."""

from pathlib import Path

import numpy as np
import pytest

import osnet.gallery.exact_search as exact
import osnet.gallery.snapshot as snapshot
from osnet.errors import GalleryError
from osnet.gallery import Gallery, Where
from osnet.gallery.exact_search import Block, encode, find_candidates, scan_codes, score_exactly
from osnet.gallery.stored_rows import unit_rows
from osnet.types import Item

SHA, SIZE = "a" * 64, 64


def people(count: int, seed: int, size: int = SIZE) -> np.ndarray:
    """Vectors like OSNet's embeddings: not negative, 41 % zeros."""
    return np.maximum(np.random.default_rng(seed).normal(0.22, 1, (count, size)), 0).astype(np.float32)


def difficult_vectors() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(1)
    base = people(1, 2)[0]
    near = base + draw.normal(size=(700, SIZE)).astype(np.float32) * np.float32(3e-8)
    spike = np.zeros((300, SIZE), np.float32)
    spike[np.arange(300), draw.integers(0, SIZE, 300)] = draw.choice([-1, 1], 300)
    spread = people(300, 3) * np.float32(10.0) ** draw.integers(-37, 37, (300, 1)).astype(np.float32)
    return {
        "people": people(3000, 0),
        "equal": np.repeat(people(3, 4), 400, axis=0),
        "near ties": near,
        "one nonzero component": spike,
        "huge and tiny lengths": spread,
        "signs": np.sign(draw.normal(size=(900, SIZE))).astype(np.float32),
        "one large value": np.concatenate([people(500, 5) * 1e-4, people(500, 6)])
        + 50 * np.eye(1, SIZE, dtype=np.float32),
        "few": people(3, 7),
    }


def slow(vectors: np.ndarray, unit: np.ndarray, top: int, chosen: np.ndarray) -> list[int]:
    scores = {int(row): float(np.sum(vectors[row].astype(np.float64) * unit.astype(np.float64))) for row in chosen}
    return sorted(scores, key=lambda row: (-min(1.0, max(-1.0, scores[row])), row))[:top]


@pytest.mark.parametrize("name", list(difficult_vectors()))
@pytest.mark.parametrize("threads", [0, 1, 3])
def test_no_hit_is_lost(name: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By codes, with one thread or several; or (0) by a float32 product."""
    monkeypatch.setattr(exact, "CODES_FROM", 0 if threads else 10**9)
    monkeypatch.setattr(exact, "count_cores", lambda: threads)
    monkeypatch.setattr(exact, "ROWS_AT_ONCE", 256)
    monkeypatch.setattr(exact, "CODES_AT_ONCE", 200)
    vectors = unit_rows(difficult_vectors()[name], SIZE, name)
    codes, scales = encode(vectors)
    cut = len(vectors) // 3
    parts = [(0, cut), (cut, cut), (cut, len(vectors))]
    blocks = [Block(a, vectors[a:b], codes[a:b], scales[a:b]) for a, b in parts]
    queries = unit_rows(np.concatenate([difficult_vectors()[name][:2], people(2, 9)]), SIZE, name)
    third = np.arange(0, len(vectors), 3)
    for top in (1, 7, 500):
        for chosen in (None, third, third[:0]):
            allowed = np.arange(len(vectors)) if chosen is None else chosen
            found = find_candidates(lambda: blocks, queries, top, len(vectors), chosen)
            for unit, rows in zip(queries, found, strict=True):
                assert set(rows) <= set(allowed)
                scores = score_exactly(vectors[rows], unit)
                best = [int(row) for row in rows[np.lexsort((rows, -scores))][:top]]
                assert best == slow(vectors, unit, top, allowed)


def test_error_bounds_hold_and_candidates_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = unit_rows(people(20_000, 0), SIZE, "")
    codes, scales = encode(vectors)
    missed = np.linalg.norm(vectors.astype(np.float64) - codes * scales[:, :1].astype(np.float64), axis=1)
    assert (missed <= scales[:, 1]).all()
    assert scales[:, 1].max() < 0.02
    unit = unit_rows(people(1, 8), SIZE, "")[0]
    truth = score_exactly(vectors, unit)
    rows, scores, errors = scan_codes([(Block(0, vectors, codes, scales), None)], unit, len(vectors))
    assert sorted(rows) == list(range(len(vectors)))
    assert (np.abs(scores.astype(np.float64) - truth[rows]) <= errors).all()
    for codes_from in (0, 10**9):
        monkeypatch.setattr(exact, "CODES_FROM", codes_from)
        (rows,) = find_candidates(lambda: [Block(0, vectors, codes, scales)], unit[None], 10, len(vectors))
        assert 10 <= len(rows) < 1000
    extremes = np.full((2, 512), 1, np.float32)
    extremes[1] *= -1
    extremes = unit_rows(extremes, 512, "")
    _, scores, _ = scan_codes([(Block(0, extremes, *encode(extremes)), None)], extremes[0], 2)
    assert scores == pytest.approx([1, -1], abs=1e-3)


@pytest.mark.parametrize("size", [1, 63, 64, 65, 200, 512])
def test_sums_of_codes_are_exact(size: int) -> None:
    """Also for sizes that are no multiple of the compiled loop's step, at any address, and up to the 32-bit limit."""
    draw, count = np.random.default_rng(size), 50
    stored = draw.integers(-127, 128, 1 + count * size).astype(np.int8)
    stored[-size:] = np.where(stored[-size:] < 0, -127, 127)
    codes = np.frombuffer(stored.tobytes(), np.int8, offset=1).reshape(count, size)
    most = min(32767, (2**31 - 1) // (127 * size))
    rows = np.arange(count)[::-3]
    for query in (draw.integers(-most, most + 1, size), np.full(size, most), np.arange(size) % 7 - 3):
        query = np.where(codes[-1] < 0, -query, query).astype(np.int16)
        passing, heap = np.empty(len(rows), np.int64), np.full(count, -np.inf, np.float32)
        scores, errors = np.empty(len(rows), np.float32), np.empty(len(rows), np.float32)
        ones = np.ones((count, 2), np.float32)
        found = exact._kernel()(codes, ones, rows[:9], query, 1.0, 0.0, 0.0, heap, 70, 0, passing, scores, errors)
        assert found == 9
        found = exact._kernel()(codes, ones, rows[9:], query, 1.0, 0.0, 0.0, heap, 70, found, passing, scores, errors)
        assert found == len(rows)
        assert sorted(passing) == sorted(rows + 70)
        truth = codes[passing - 70].astype(np.int64) @ query.astype(np.int64)
        assert (scores == truth.astype(np.float32)).all()


def test_large_and_small_galleries_search_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same hits and scores for memory-mapped or in-memory vectors, one or many queries, with or without codes."""
    rows = people(600, 1)
    rows[100:140] = rows[100]
    items = [Item(f"{n}", str(n % 40), f"c{n % 3}", n * 600.0 if n % 5 else None) for n in range(600)]
    store = Gallery.create(tmp_path / "g", weights_sha256=SHA, embedding_size=SIZE)
    for start in range(0, 600, 150):
        store.add_embeddings(rows[start : start + 150], items[start : start + 150], weights_sha256=SHA)
    assert len(list(store.folder.glob("*.safetensors"))) > 12
    queries = np.concatenate([rows[100:101], people(6, 3)])
    where = Where(cameras=frozenset({"c1"}), after_s=1200.0)
    found = []
    for codes, memory in ((0, 0), (0, 1 << 30), (10**9, 0), (10**9, 1 << 30)):
        monkeypatch.setattr(exact, "CODES_FROM", codes)
        monkeypatch.setattr(snapshot, "CODES_FROM", codes)
        monkeypatch.setattr(snapshot, "IN_MEMORY_BYTES", memory)
        monkeypatch.setattr(snapshot, "MAX_MAPPED", 5)
        again = Gallery.open(store.folder)
        for condition in (None, where):
            each = [again.search_embedding(q, weights_sha256=SHA, top=45, where=condition) for q in queries]
            assert each == again.search_embeddings(queries, weights_sha256=SHA, top=45, where=condition)
            found.append(each)
    assert found[0] == found[2] == found[4] == found[6]
    assert found[1] == found[3] == found[5] == found[7]
    assert [hit.item.source for hit in found[0][0][:40]] == [str(n) for n in range(100, 140)], (
        "ties must be in the order of adding"
    )
    assert all(where.matches(hit.item) for hits in found[1] for hit in hits)
    pages = [again.search_embedding(queries[1], weights_sha256=SHA, top=15, skip=skip) for skip in (0, 15, 30)]
    assert [hit for page in pages for hit in page] == found[0][1]


def test_vector_lengths_outside_float32(tmp_path: Path) -> None:
    store = Gallery.create(tmp_path / "g", weights_sha256=SHA, embedding_size=2)
    store.add_embeddings([[3e38, 3e38], [1e-40, 0], [0, 1]], [Item(c) for c in "abc"], weights_sha256=SHA)
    assert np.linalg.norm(store.embeddings(["a", "b", "c"]), axis=1) == pytest.approx([1, 1, 1], abs=1e-6)
    assert [h.item.source for h in store.search_embedding([1e38, 0], weights_sha256=SHA)] == ["b", "a", "c"]
    for bad in ([np.inf, 1], [0, 0], [np.nan, 1], [1e39, 1]):
        with pytest.raises(GalleryError, match="embedding 1 is zero or not finite"):
            store.add_embeddings([[1, 1], bad], [Item("x"), Item("y")], weights_sha256=SHA)
