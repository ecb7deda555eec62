"""File formats, vectors and scores must not change: comparison with files made by earlier code."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import FIXTURES
from fixtures import make_formats as formats
from osnet import Gallery, Item

VALUES: dict[str, Any] = json.loads((formats.FORMATS / "values.json").read_text(encoding="utf-8"))


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def test_weights_are_written_byte_for_byte(tmp_path: Path) -> None:
    formats.make_weights(tmp_path / "weights")
    assert files_of(tmp_path / "weights") == files_of(FIXTURES / "formats" / "weights")


def test_embeddings_are_written_byte_for_byte(tmp_path: Path) -> None:
    formats.make_embedding_file(tmp_path / "embeddings.npz")
    assert (tmp_path / "embeddings.npz").read_bytes() == (FIXTURES / "formats" / "embeddings.npz").read_bytes()


def test_a_gallery_is_written_byte_for_byte(tmp_path: Path) -> None:
    formats.make_gallery(tmp_path / "gallery")
    assert files_of(tmp_path / "gallery") == files_of(FIXTURES / "formats" / "gallery-2")


@pytest.mark.parametrize("name", ["gallery", "gallery-2"])
def test_older_galleries_give_the_same_hits(name: str, tmp_path: Path) -> None:
    before = files_of(FIXTURES / "formats" / name)
    for file, content in before.items():
        (tmp_path / file).write_bytes(content)
    assert formats.search_gallery(tmp_path) == VALUES["search"]
    assert files_of(tmp_path) == before, "reading must not write"


def test_the_first_write_converts_an_older_gallery(tmp_path: Path) -> None:
    for file, content in files_of(FIXTURES / "formats" / "gallery").items():
        (tmp_path / file).write_bytes(content)
    before = Gallery.open(tmp_path).stored()
    Gallery.open(tmp_path).add_embeddings(-np.ones((1, 16)), [Item("new")], weights_sha256="5" * 64)
    assert json.loads((tmp_path / "gallery.json").read_text())["format"] == "osnet-gallery-2"
    assert not [*tmp_path.glob("*.npy"), *tmp_path.glob("*.jsonl")]
    assert formats.search_gallery(tmp_path) == VALUES["search"]
    again = Gallery.open(tmp_path)
    assert list(again.stored().items())[:-1] == list(before.items())
    assert again.items[-1] == Item("new")
    assert again.check() == []


def test_scores_are_equal() -> None:
    found = json.loads(json.dumps(formats.make_scores()))
    assert found.pop("reranked") == VALUES["scores"]["reranked"]
    for name, result in found.items():  # later code may add keys
        before = VALUES["scores"][name]
        assert {key: result[key] for key in before} == before


def test_people_and_their_embeddings_are_equal(tmp_path: Path) -> None:
    assert formats.make_people(tmp_path / "people") == VALUES["people"]
    found = formats.embed_people(FIXTURES / "formats" / "weights", tmp_path / "people")
    assert np.ptp(VALUES["embeddings"]) > 0.1
    assert found == pytest.approx(np.array(VALUES["embeddings"]), abs=2e-6)
