"""Results in an object store: committed by a put that fails if the object exists. The S3 server is moto's."""

from pathlib import Path
from typing import Any

import pytest

from conftest import write_picture
from osnet import Embedder
from osnet.errors import OutputError
from osnet.work import WorkList, run_work
from osnet.work.embedding import embed_on_many
from osnet.work.places import open_place, put_new
from osnet.work.work_list import QuarantineError

pytest.importorskip("upath")


def items(count: int) -> list[dict[str, Any]]:
    return [{"label": f"item {n}"} for n in range(count)]


def results(work: WorkList) -> list[bytes]:
    return [work.result(item).read_bytes() for item in work.items]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``s3://work`` on a server of this process."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name, value in (("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem(use_listings_cache=False).mkdir("work")
    yield "s3://work"
    server.stop()


@pytest.mark.slow
def test_processes_that_share_a_bucket(bucket: str, tmp_path: Path) -> None:
    listed = items(7)
    listed[3]["fails"] = True
    work = WorkList.plan(f"{bucket}/run", "probe", {"rounds": 50}, listed)
    first, second = list(work.items)[:2]
    assert put_new(work.result(second), b"another worker was faster")
    with pytest.raises(QuarantineError, match="item 3: ValueError"):
        run_work(work, workers=2)
    assert work.result(second).read_bytes() == b"another worker was faster"
    assert not put_new(work.result(first), b"late")
    work.result(second).unlink()
    listed[3]["fails"] = False
    again = WorkList.plan(f"{bucket}/run", "probe", {"rounds": 50}, listed)
    assert len(again.todo()) == 2, "the one that was deleted, and the one that failed"
    run_work(WorkList(f"{bucket}/run"), workers=2)
    quiet = WorkList.plan(tmp_path / "w", "probe", {"rounds": 50}, listed)
    run_work(quiet, "torchrun")
    assert results(again) == results(quiet)
    with pytest.raises(OutputError, match="cannot write to s3://gone/run"):
        WorkList.plan("s3://gone/run", "probe", {}, items(1))


def test_embeddings_are_those_of_a_folder(tiny_weights: Path, tmp_path: Path) -> None:
    paths = [write_picture(tmp_path / f"{n}.png", n, (32, 64)) for n in range(5)]
    made: dict[str, Any] = {
        "embedder": Embedder(tiny_weights, device="cpu", batch_size=2), "weights": str(tiny_weights), "paths": paths,
        "runner": "torchrun", "block": 2, "device": "cpu",
    }  # fmt: skip
    embed_on_many(**made, out=tmp_path / "a.npz")
    embed_on_many(**made, out=tmp_path / "b.npz", work_folder="memory://embeddings/run")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert len(list(open_place("memory://embeddings/run/results").iterdir())) == 3
    assert not (tmp_path / "b.npz.work").exists()


def test_stores_without_conditional_puts(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("http://127.0.0.1/run", "ftp://host/run", "gs://bucket/run"):
        with pytest.raises(OutputError, match=place.split(":")[0]):
            WorkList.plan(place, "probe", {}, items(1))
    real = type(open_place("memory://x").fs).pipe_file
    monkeypatch.setattr(
        type(open_place("memory://x").fs), "pipe_file", lambda fs, path, value, mode="", **more: real(fs, path, value)
    )
    with pytest.raises(OutputError, match="If-None-Match"):
        WorkList.plan("memory://ignores/run", "probe", {}, items(1))
    assert list(open_place("memory://ignores").glob("**/*.json")) == []
