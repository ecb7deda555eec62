"""Files that users keep, and values that they publish, stay as they were: compared with files made by earlier code."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import FIXTURES
from fixtures import make_formats as formats

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
    assert files_of(tmp_path / "gallery") == files_of(FIXTURES / "formats" / "gallery")


def test_an_earlier_gallery_is_searched_alike(tmp_path: Path) -> None:
    for name, content in files_of(FIXTURES / "formats" / "gallery").items():
        (tmp_path / name).write_bytes(content)
    assert formats.search_gallery(tmp_path) == VALUES["search"]


def test_scores_are_equal() -> None:
    found = json.loads(json.dumps(formats.make_scores()))
    assert found.pop("reranked") == VALUES["scores"]["reranked"]
    for name, result in found.items():  # later code may say more
        before = VALUES["scores"][name]
        assert {key: result[key] for key in before} == before


def test_people_and_their_embeddings_are_equal(tmp_path: Path) -> None:
    assert formats.make_people(tmp_path / "people") == VALUES["people"]
    found = formats.embed_people(FIXTURES / "formats" / "weights", tmp_path / "people")
    assert np.ptp(VALUES["embeddings"]) > 0.1
    assert found == pytest.approx(np.array(VALUES["embeddings"]), abs=2e-6)
