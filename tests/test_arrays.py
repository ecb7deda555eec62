"""Damaged .npz and .npy files: every reader raises ``DataError`` with the file's name."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from osnet import Gallery, Item
from osnet.cli.common import EXIT_ERROR
from osnet.cli.rerank import read_features
from osnet.embedding.embedder import Embeddings
from osnet.errors import DataError, GalleryError
from osnet.features.array_files import as_vectors, list_arrays, read_array, read_arrays
from osnet.features.embedding_files import find_changed, read_vectors, save_vectors
from osnet.features.labels import read_labelled
from osnet.files import sha256_file
from test_cli import Run, run  # noqa: F401 a fixture


def npz_bytes(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def npy_bytes() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones((3, 4), np.float32))
    return buffer.getvalue()


def flipped(content: bytes) -> bytes:
    """An .npz with 40 inverted bytes in its first compressed member, which zlib cannot read."""
    start = 30 + int.from_bytes(content[26:28], "little") + int.from_bytes(content[28:30], "little")
    return content[:start] + bytes(255 - byte for byte in content[start : start + 40]) + content[start + 40 :]


def with_member(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


ARRAYS = {name: np.ones((3, 4), np.float32) for name in ("vectors", "query", "gallery")}
VALID = npz_bytes(**ARRAYS)
BAD = {
    "empty": (b"", "it is empty"),
    "truncated": (VALID[: len(VALID) // 2], "is not an .npz"),
    "cut at the end": (VALID[:-5], "is not an .npz"),
    "npy": (npy_bytes(), "it is a single array (.npy)"),
    "flipped": (flipped(VALID), "is not an .npz"),
    "objects": (npz_bytes(**{name: np.array([{}, None]) for name in ARRAYS}), "Object arrays cannot be loaded"),
    "text": (b"path,identity\na.jpg,1\n", "b'path,i'"),
    "another zip": (with_member("vectors", b"no array"), "vectors is not an array"),
    "half a header": (with_member("vectors.npy", npy_bytes()[:20]), "is not an .npz"),
}
READERS: dict[str, Callable[[Path], object]] = {
    "read_arrays": read_arrays,
    "evaluate": lambda path: read_labelled([path]),
    "evaluate, two files": lambda path: read_labelled([path, path]),
    "rerank": lambda path: read_features((path,)),
    "rerank, two files": lambda path: read_features((path, path)),
    "saved vectors": read_vectors,
    "changed images": find_changed,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", BAD)
def test_every_reader_names_a_bad_file(kind: str, reader: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    path.write_bytes(BAD[kind][0])
    with pytest.raises(DataError) as caught:
        READERS[reader](path)
    assert str(caught.value).startswith(f"{path} is not an .npz of plain arrays")
    assert BAD[kind][1] in str(caught.value)
    assert "load it unsafely" not in str(caught.value)


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_names_a_missing_file(reader: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file: .*gone\.npz"):
        READERS[reader](tmp_path / "gone.npz")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(DataError, match=r"folder\.npz is not an \.npz"):
        READERS[reader](tmp_path / "folder.npz")


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    np.savez(tmp_path / "v.npz", vectors=np.array([Trap()], dtype=object))
    for reader in READERS.values():
        with pytest.raises(DataError):
            reader(tmp_path / "v.npz")
    assert not (tmp_path / "sprung").exists()


def test_flipped_bytes_raise_or_change_nothing(tmp_path: Path) -> None:
    """Inverts each byte of a small file in turn: the reader raises ``DataError`` or returns the right values."""
    content, path = npz_bytes(a=np.arange(6.0), b=np.array(["x", "y"])), tmp_path / "v.npz"
    num_refused = 0
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            arrays = read_arrays(path)
        except DataError:
            num_refused += 1
            continue
        for value in arrays.values():
            assert value.tolist() in ([0, 1, 2, 3, 4, 5], ["x", "y"])
    assert num_refused > len(content) / 2


@pytest.mark.parametrize("kind", ["empty", "npy", "flipped", "objects", "text"])
def test_commands_name_a_bad_file_without_a_traceback(kind: str, run: Run, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "bad.npz").write_bytes(BAD[kind][0])
    for command in (["evaluate-features"], ["rerank", "--out", tmp_path / "o.npz"]):
        status, _, err = run(*command, tmp_path / "bad.npz")
        assert (status, "Traceback" in err, "bad.npz is not an .npz" in err) == (EXIT_ERROR, False, True)


def test_only_the_requested_arrays_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", a=np.ones(2), b=np.array([{}]))
    assert read_arrays(tmp_path / "v.npz", ("a", "c")).keys() == {"a"}
    assert list_arrays(tmp_path / "v.npz") == ["a", "b"]


def test_saved_vectors_with_missing_or_wrong_arrays(tmp_path: Path) -> None:
    path = tmp_path / "v.npz"
    save_vectors(path, Embeddings(np.ones((2, 3), np.float32), ["a", "b"], []), "sha")
    arrays = read_arrays(path)
    for change, words in (
        ({"names": np.array("ab")}, "names <U2 ()"),
        ({"names": np.array([1, 2])}, "names int64 (2,)"),
        ({"failures": np.array("x")}, "failures is <U1 ()"),
        ({"vectors": np.ones((2, 3))}, "vectors is float64 (2, 3)"),
    ):
        np.savez(path, **(arrays | change))
        with pytest.raises(DataError) as caught:
            read_vectors(path)
        assert words in str(caught.value)
    np.savez(path, vectors=arrays["vectors"])
    with pytest.raises(DataError, match="it has no names, failures, weights_sha256"):
        read_vectors(path)


@pytest.mark.parametrize("kind", ["empty", "npz", "objects", "text", "cut"])
def test_a_gallery_names_a_bad_file(kind: str, tmp_path: Path) -> None:
    """gallery.json holds the bad file's digest, so that only the content is wrong."""
    folder, sha = tmp_path / "g", "a" * 64
    store = Gallery.create(folder, weights_sha256=sha, embedding_size=4)
    store.add_embeddings(np.ones((2, 4)), [Item("one"), Item("two")], weights_sha256=sha)
    (vectors,) = folder.glob("undated_*")
    np.save(tmp_path / "objects.npy", np.array([{}]))
    contents = {"empty": b"", "npz": VALID, "objects": (tmp_path / "objects.npy").read_bytes(), "text": b"1,2,3",
                "cut": vectors.read_bytes()[:-3]}  # fmt: skip
    vectors.write_bytes(contents[kind])
    listing = folder / "gallery.json"
    content = json.loads(listing.read_text())
    content["segments"][0] |= {"sha256": sha256_file(vectors), "size": len(contents[kind])}
    listing.write_text(json.dumps(content))
    with pytest.raises(GalleryError, match=vectors.name):
        Gallery.open(folder)
    with pytest.raises(DataError, match=r"is not an \.npy"):
        read_array(vectors)


def test_half_precision_is_exact_and_double_is_rounded() -> None:
    half = np.float16([[1 / 3, -65504, 6e-8]])
    assert as_vectors(half, "x").tolist() == half.astype(np.float64).tolist()
    assert as_vectors(half, "x").dtype == np.float32
    assert as_vectors(np.array([[2**24 - 1, -3]]), "x").tolist() == [[2**24 - 1, -3]]
    assert as_vectors(np.array([[1 / 3]]), "x")[0, 0] == np.float32(1 / 3)
    same = np.ones((2, 2), np.float32)
    assert as_vectors(same, "x") is same  # not copied


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.array([[1.0, 1e39], [1.0, 2.0]]), "x: 1 rows contain values above 3.4e38"),
        (np.array([[1e-60, -1e-50], [0, 0], [1, 1e-60]]), "x: 1 rows contain no value above 1.2e-38"),
        (np.array([[1.0, np.nan], [np.inf, 1e300]]), "x: 2 rows contain values that are not finite"),
        (np.float16([[np.inf]]), "x: 1 rows contain values that are not finite"),
        (np.ones(3), "x is float64 (3,)"),
        (np.ones((0, 3)), "x is float64 (0, 3)"),
        (np.ones((3, 0)), "x is float64 (3, 0)"),
        (np.ones((1, 2), complex), "x is complex128"),
        (np.array([["1"]]), "x is <U1"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_values_outside_float32_are_refused(values: np.ndarray, words: str) -> None:
    with pytest.raises(DataError) as caught:
        as_vectors(values, "x")
    assert words in str(caught.value)
