"""Saved embeddings: images that change while or after they are embedded, and files of concurrent runs."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import write_picture
from osnet import Embedder, OSNet
from osnet.embedding.embedder import Embeddings
from osnet.errors import OutputError
from osnet.features.embedding_files import embed_files, find_changed, save_vectors, stamp_of


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return [write_picture(tmp_path / "p" / f"{n}.png", n) for n in range(3)]


def test_images_changed_while_embedding_are_reported(tiny_network: OSNet, paths: list[Path], tmp_path: Path) -> None:
    """The first image changes after it was read, so its saved vector is outdated."""

    def change(every: Iterable[Any], _total: int, _label: str) -> Iterable[Any]:
        yield from every
        write_picture(paths[0], 77, (50, 90))

    embed_files(Embedder(tiny_network, batch_size=1, num_workers=1), paths, tmp_path / "v.npz", progress=change)
    assert find_changed(tmp_path / "v.npz") == [str(paths[0])]


def test_saved_file_stamps_are_compared(paths: list[Path], tmp_path: Path) -> None:
    names = [str(path) for path in paths]
    embeddings = Embeddings(np.eye(3, dtype=np.float32), names)
    before = {name: stamp_of(name) for name in names}
    write_picture(paths[1], 9, (30, 40))
    save_vectors(tmp_path / "v.npz", embeddings, "sha", before)
    assert find_changed(tmp_path / "v.npz") == [names[1]]
    save_vectors(tmp_path / "v.npz", embeddings, "sha")
    assert find_changed(tmp_path / "v.npz") == []


def test_output_of_a_concurrent_run_is_not_overwritten(tiny_network: OSNet, paths: list[Path], tmp_path: Path) -> None:
    """The file appears after the caller's check and before the lock is taken."""
    (tmp_path / "v.npz").write_bytes(b"of another run")
    with pytest.raises(OutputError, match=r"v\.npz exists"):
        embed_files(Embedder(tiny_network), paths, tmp_path / "v.npz", overwrite=False)
    assert (tmp_path / "v.npz").read_bytes() == b"of another run"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p", "v.npz"]
    assert len(embed_files(Embedder(tiny_network), paths, tmp_path / "v.npz")) == 3
