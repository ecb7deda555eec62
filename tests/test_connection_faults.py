"""Two runs of one list of work, servers that break off or answer nonsense, and a machine without a home."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import write_picture
from osnet import Embedder
from osnet.client import Client, ServiceError
from osnet.downloads import cache_folder
from osnet.errors import DataError, GalleryError, OutputError, WeightsError
from osnet.gallery import Where
from osnet.runtime import graph_cache
from osnet.video import detectors
from osnet.video.protocols import FootageError
from osnet.weights.open_model_zoo import Figures, IntelWeights, find_intel
from osnet.work import WorkList, run_work
from osnet.work.embedding import embed_on_many

# ---- lists of work


def items(count: int) -> list[dict[str, Any]]:
    return [{"label": f"item {n}"} for n in range(count)]


def test_a_run_that_is_refused_changes_nothing(tmp_path: Path) -> None:
    with WorkList.planned(tmp_path / "w", "probe", {"rounds": 1}, items(3)) as first:
        run_work(first, workers=1)  # which takes the same lock again
        before = {path: path.read_bytes() for path in sorted((tmp_path / "w").rglob("*")) if path.is_file()}
        with pytest.raises(OutputError, match="another process"):
            WorkList.plan(tmp_path / "w", "probe", {"rounds": 2}, items(5))
        assert {p: p.read_bytes() for p in sorted((tmp_path / "w").rglob("*")) if p.is_file()} == before
        assert first.todo() == []
    assert len(WorkList.plan(tmp_path / "w", "probe", {"rounds": 2}, items(5)).todo()) == 5, "later it may"


def test_embedding_into_a_list_that_is_run_is_refused(tiny_weights: Path, tmp_path: Path) -> None:
    pictures = [write_picture(tmp_path / f"{n}.png", n, (32, 64)) for n in range(2)]
    embedder = Embedder(tiny_weights)
    given = {"embedder": embedder, "weights": str(tiny_weights), "work_folder": tmp_path / "w"}
    with WorkList.planned(tmp_path / "w", "probe", {"rounds": 1}, items(2)) as first:
        run_work(first)
        with pytest.raises(OutputError, match="another process"):
            embed_on_many(paths=pictures, out=tmp_path / "o.npz", **given)  # type: ignore[arg-type]
        assert first.todo() == []


def test_faults_of_footage_are_told_again_by_workers(tiny_weights: Path, tmp_path: Path) -> None:
    """A clip with damaged packets: index_footage and index_on_many report the same, the first time and later."""
    av = pytest.importorskip("av")
    from osnet.video import index_footage, make_detector
    from osnet.video.spread import index_on_many
    from small_footage import paint_walkers, walk, write_truth, write_video

    path = write_video(tmp_path / "d.mp4", paint_walkers([walk(5, 30, 1.2)], 40), gop=5)
    write_truth(tmp_path / "d.txt", [walk(5, 30, 1.2)], 40)
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for place, size in packets[15:20]:
        content[place : place + size] = bytes(size)
    path.write_bytes(content)
    embedder = Embedder(tiny_weights, device="cpu", batch_size=8)
    given: dict[str, Any] = {"camera": "gate", "starts": 1795852800.0, "embedder": embedder}
    first = index_footage(path, tmp_path / "a", detector=make_detector(tmp_path / "d.txt"), **given)
    assert first.troubles, "the clip is damaged"
    on_many = {"weights": tiny_weights, "detector": str(tmp_path / "d.txt"), "tracker": "cbiou", "device": "cpu"}
    for _ in range(2):
        again = index_on_many([path], tmp_path / "a", runner="torchrun", **given, **on_many)  # in this process
        assert (again.segments_added, again.segments_there) == (0, 1)
        assert again.troubles == first.troubles
    fresh = index_on_many([path], tmp_path / "b", runner="torchrun", **given, **on_many)
    assert (fresh.segments_added, fresh.frames, fresh.troubles) == (1, first.frames, first.troubles)


# ---- servers


@contextlib.contextmanager
def answering(content: bytes | None) -> Iterator[str]:
    """The address of a server that answers every connection with these bytes and closes it; None: it is silent."""
    opened: list[socket.socket] = []

    def serve() -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = server.accept()
                opened.append(connection)
                if content is not None:
                    connection.recv(65536)
                    connection.sendall(content)
                    connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)  # wakes accept
    thread.join()
    for connection in opened:
        connection.close()


OTHER = b"SSH-2.0-OpenSSH_9.2\r\n"
CUT_OFF = b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n" + bytes(40)
CUT_CHUNK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\n" + bytes(40)
ANSWERS = [(OTHER, "BadStatusLine"), (CUT_OFF, "40 of 90 bytes"), (CUT_CHUNK, "IncompleteRead")]


@pytest.mark.parametrize(("content", "said"), ANSWERS)
def test_downloads_of_weights_that_break_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, said: str
) -> None:
    entry = IntelWeights("person-x", "osnet_lct_x0_5", "FP32", "0" * 64, "1" * 64, (100, 100), Figures(1, 1))
    monkeypatch.setenv("OSNET_CACHE", str(tmp_path))
    with answering(content) as address:
        monkeypatch.setenv("OSNET_OMZ_URL", f"http://{address}")
        with pytest.raises(WeightsError, match=said) as caught:
            find_intel(entry)
    assert address in str(caught.value)
    assert "SHA-256" not in str(caught.value)


@pytest.mark.parametrize(("content", "said"), ANSWERS)
def test_downloads_of_detectors_that_break_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, said: str
) -> None:
    monkeypatch.setenv("OSNET_CACHE", str(tmp_path))
    with answering(content) as address:
        monkeypatch.setitem(detectors.DOWNLOADS, "yolox_nano", (f"http://{address}/y.onnx", "0" * 64, 1000))
        with pytest.raises(FootageError, match=said) as caught:
            detectors.make_detector("yolox_nano")
    assert address in str(caught.value)


def test_the_cache_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "home", homeless)
    for value in ("", None):
        monkeypatch.setenv("OSNET_CACHE", value) if value is not None else monkeypatch.delenv("OSNET_CACHE")
        with pytest.raises(OutputError, match="OSNET_CACHE"):
            cache_folder()
        with pytest.raises(OutputError, match="OSNET_CACHE"):
            detectors.make_detector("yolox_nano")
        with pytest.raises(OutputError, match="OSNET_CACHE"):
            find_intel(IntelWeights("person-x", "osnet_lct_x0_5", "FP32", "0" * 64, "1" * 64, (9, 9), Figures(1, 1)))
        assert graph_cache.cache_folder() is None
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("OSNET_CACHE", str(tmp_path / "given"))
    assert cache_folder() == tmp_path / "given"
    assert graph_cache.cache_folder() == tmp_path / "given" / "graphs"
    monkeypatch.setattr(detectors, "download", lambda *_: b"other")
    with pytest.raises(FootageError, match="SHA-256"):
        detectors.make_detector("yolox_nano")
    assert (tmp_path / "given" / "detectors").is_dir()


# ---- the client


def client_of(answer: Any, **more: Any) -> Client:
    """A client of the service ``http://osnet.example``; ``answer(request)`` makes its answers."""
    httpx = pytest.importorskip("httpx")
    return Client("http://osnet.example", "osnet_token", transport=httpx.MockTransport(answer), **more)


def test_a_request_is_sent_again_with_the_same_key_after_a_broken_connection() -> None:
    httpx = pytest.importorskip("httpx")
    keys: list[str | None] = []

    def answer(request: Any, breaks: int = 1) -> Any:
        keys.append(request.headers.get("Idempotency-Key"))
        if len(keys) <= breaks:
            raise httpx.ReadError("the service had done it", request=request)
        return httpx.Response(201, json={"id": "c1"})

    with client_of(answer) as client:
        assert client.create_case("theft") == "c1"
        assert len(keys) == 2
        assert keys[0] == keys[1] is not None
        client.create_case("theft")
        assert keys[2] != keys[0], "another call is another request"
    keys.clear()
    with client_of(lambda request: answer(request, 2)) as client, pytest.raises(ServiceError, match="ReadError"):
        client.create_case("theft")
    assert len(keys) == 2, "once more, not for ever"


def test_answers_while_hits_are_read_hide_none() -> None:
    """As at the service: pages go by places, and an answer ranks all hits again; here it puts the hit last."""
    httpx = pytest.importorskip("httpx")
    order = [f"t{n}" for n in range(6)]

    def row(place: int) -> dict[str, Any]:
        rest = {"identity": None, "camera": "gate", "begin_s": 0.0, "score": 0.5}
        return {"tracklet": order[place], "place": place + 1, **rest}

    def answer(request: Any) -> Any:
        if request.method == "POST":
            order.append(order.pop(order.index(json.loads(request.content)["tracklet"])))
        start = int(request.url.params.get("cursor", 0))
        page = [row(place) for place in range(start, min(start + 2, 6))]
        return httpx.Response(200, json={"hits": page, "next": str(start + 2) if start < 4 else None})

    seen = []
    with client_of(answer) as client:
        for hit in client.hits("s"):
            seen.append(hit.item.source)
            client.answer("s", hit.item.source, "no")
    assert seen == [f"t{n}" for n in range(6)]


def test_a_reason_in_any_language_is_sent(tmp_path: Path) -> None:
    httpx = pytest.importorskip("httpx")
    sent: list[bytes] = []

    def answer(request: Any) -> Any:
        sent.append(dict(request.headers.raw)[b"X-Reason"])
        return httpx.Response(200, content=b"mp4")

    with client_of(answer) as client:
        for reason in ("Südtor", "盗難", "two\nlines"):
            client.save_clip("t", tmp_path / "c.mp4", reason)
    assert sent == ["Südtor".encode(), "盗難".encode(), b"two lines"]


def test_the_client_takes_numbers_of_numpy() -> None:
    httpx = pytest.importorskip("httpx")
    sent: list[bytes] = []

    def answer(request: Any) -> Any:
        sent.append(request.content)
        return httpx.Response(200, json={"id": "s", "hits": []})

    boxes = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    where = Where(after_s=np.float32(3))  # type: ignore[arg-type]
    with client_of(answer) as client:
        for given in (boxes, [boxes[0], None], [boxes[0].astype(np.float32), tuple(boxes[1])]):
            client.search([b"a", b"b"], boxes=given)
        client.search(tracklets=["t"], where=where, weekdays=np.arange(2))  # type: ignore[arg-type]
        for wrong in ({"photos": "photo.jpg"}, {"photos": b"bytes"}, {"tracklets": "t1"}):
            with pytest.raises(DataError, match=next(iter(wrong))):
                client.search(**wrong)  # type: ignore[arg-type]
        for photos in ([b"a"], []):
            with pytest.raises(DataError, match="before_s"):
                client.search(photos, tracklets=["t"][len(photos) :], where=Where(before_s=float("inf")))
    first, second = [1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]
    read = [json.loads(content.partition(b'"options"\r\n\r\n')[2].partition(b"\r\n")[0]) for content in sent[:3]]
    assert [options["boxes"] for options in read] == [[first, second], [first, None], [first, second]]
    filters = json.loads(sent[3])["filters"]
    assert (filters["after_s"], filters["weekdays"]) == (3.0, [0, 1])


def test_a_request_that_lasts_too_long_is_not_sent_again() -> None:
    httpx = pytest.importorskip("httpx")
    seen: list[Any] = []

    def answer(request: Any) -> Any:
        seen.append(request)
        raise httpx.ReadTimeout("too long", request=request)

    with client_of(answer) as client, pytest.raises(ServiceError, match="ReadTimeout") as caught:
        client.cameras()
    assert (len(seen), caught.value.status, caught.value.code) == (1, 0, "connection")
    assert "http://osnet.example" in str(caught.value)


@pytest.mark.parametrize("content", [OTHER, CUT_OFF, None])
def test_a_client_of_a_server_that_is_none(content: bytes | None) -> None:
    pytest.importorskip("httpx")
    with (
        answering(content) as address,
        Client(f"http://{address}", "token", timeout_s=0.3) as client,
        pytest.raises(ServiceError, match="127"),
    ):
        client.cameras()
    with Client(f"http://{address}", "token") as client, pytest.raises(ServiceError, match=address):
        client.create_case("no server is there")


def test_a_client_of_another_site(tmp_path: Path) -> None:
    httpx = pytest.importorskip("httpx")
    page = httpx.Response(200, html="<html>log in</html>")
    with client_of(lambda _: page) as client:
        with pytest.raises(ServiceError, match=r"osnet\.example answered a web page"):
            client.cameras()
        with pytest.raises(ServiceError, match="web page"):
            client.save_clip("t", tmp_path / "c.mp4")
        assert not (tmp_path / "c.mp4").exists()
    half = httpx.Response(200, content=b"{")
    with client_of(lambda _: half) as client, pytest.raises(ServiceError, match=r"osnet\.example .* JSON"):
        client.cameras()
    moved = httpx.Response(301, headers={"location": "https://osnet.example/api/v1/cameras"})
    with client_of(lambda _: moved) as client, pytest.raises(ServiceError, match=r"https://osnet\.example/") as caught:
        client.cameras()
    assert caught.value.status == 301


@pytest.mark.parametrize("address", ["127.0.0.1:8750", "", "ftp://host", "http://[::1", "http://host:port"])
def test_addresses_that_are_none(address: str) -> None:
    pytest.importorskip("httpx")
    with pytest.raises(DataError, match="address"):
        Client(address, "token")


@pytest.mark.parametrize("token", ["token\n", "t\u00f6ken"])
def test_tokens_that_are_none(token: str) -> None:
    pytest.importorskip("httpx")
    with pytest.raises(DataError, match="token has") as caught:
        Client("http://127.0.0.1", token)
    assert token not in str(caught.value), "a secret is not shown"


def test_conditions_that_the_service_does_not_know_are_refused() -> None:
    httpx = pytest.importorskip("httpx")
    sent: list[Any] = []

    def answer(request: Any) -> Any:
        sent.append(request)
        return httpx.Response(201, json={"id": "s1", "hits": []})

    photo = [b"a photo"]
    with client_of(answer) as client:
        for name in ("identities", "sources"):
            for given in ({"photos": photo}, {"tracklets": ["t"]}):
                with pytest.raises(DataError, match=name):
                    client.search(**given, where=Where(**{name: frozenset({"x"})}))  # type: ignore[arg-type]
        with pytest.raises(DataError, match="source"):
            client.search(photo, where=Where(source="x*"))
        with pytest.raises(DataError, match="min_probability"):
            client.search(where=Where(having=frozenset({"hat"}), min_probability=0.9))
        for name in ("having", "lacking"):
            with pytest.raises(DataError, match=f"{name}.* photos"):
                client.search(photo, where=Where(**{name: frozenset({"hat"})}))  # type: ignore[arg-type]
        with pytest.raises(DataError, match=r"tracklets.* photos"):
            client.search(photo, tracklets=["t"])
        with pytest.raises(DataError, match=r"boxes.* tracklets"):
            client.search(tracklets=["t"], boxes=[[0, 0, 5, 5]])
        assert sent == []
        client.search(tracklets=["t"], where=Where(cameras=frozenset({"gate"}), having=frozenset({"hat"})))
        client.search(photo, boxes=[[0, 0, 5, 5]], where=Where(after_s=5.0))
        assert json.loads(sent[0].content)["having"] == ["hat"]
        assert len(sent) == 2


# ---- stores

MADE: dict[str, Any] = {"weights_sha256": "a" * 64, "embedding_size": 4}


def test_a_qdrant_server_that_does_not_answer() -> None:
    pytest.importorskip("qdrant_client")
    from osnet.gallery.qdrant_store import QdrantStore

    with answering(b"") as address:
        pass  # no server is there any more
    for opening in (QdrantStore, lambda place: QdrantStore.create(place, **MADE)):
        with pytest.raises(GalleryError, match=address):
            opening(f"http://{address}")


@pytest.mark.parametrize("edge", [False, True])
def test_qdrant_in_the_wrong_folder_writes_nothing(tmp_path: Path, edge: bool) -> None:
    pytest.importorskip("qdrant_edge" if edge else "qdrant_client")
    from osnet.gallery.qdrant_store import QdrantStore

    photos = tmp_path / "photos"
    write_picture(photos / "a.png", 1, (8, 8))
    with pytest.raises(GalleryError, match="photos"):
        QdrantStore(photos, edge=edge)
    assert [path.name for path in photos.iterdir()] == ["a.png"]
    with pytest.raises(GalleryError, match=r"a\.png"):
        QdrantStore.create(photos / "a.png", **MADE, edge=edge)


def test_qdrant_folders_that_are_open_or_damaged(tmp_path: Path) -> None:
    pytest.importorskip("qdrant_client")
    from osnet.gallery.qdrant_store import QdrantStore

    store = QdrantStore.create(tmp_path / "s", **MADE)
    with pytest.raises(GalleryError, match="already accessed") as caught:
        QdrantStore(tmp_path / "s")
    assert str(tmp_path / "s") in str(caught.value)
    store.close()
    QdrantStore(tmp_path / "s").close()
    with pytest.raises(GalleryError, match="'other'"):
        QdrantStore(tmp_path / "s", collection="other")
    (tmp_path / "s" / "meta.json").write_text("{")
    with pytest.raises(GalleryError, match=str(tmp_path / "s")):
        QdrantStore(tmp_path / "s")


def test_a_qdrant_edge_store_that_is_damaged(tmp_path: Path) -> None:
    pytest.importorskip("qdrant_edge")
    from osnet.gallery.qdrant_store import QdrantStore

    (tmp_path / "edge_config.json").write_text("{")
    with pytest.raises(GalleryError, match=str(tmp_path)):
        QdrantStore(tmp_path, edge=True)


def test_a_postgres_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg")
    pytest.importorskip("pgvector")
    from osnet.gallery import postgres_store
    from osnet.gallery.postgres_store import PostgresStore

    monkeypatch.delenv("PGCONNECT_TIMEOUT", raising=False)
    assert "connect_timeout=10" in postgres_store._split("postgresql://h/d")[0]
    assert "connect_timeout=3" in postgres_store._split("postgresql://h/d?connect_timeout=3")[0]
    monkeypatch.setattr(postgres_store, "CONNECT_TIMEOUT_S", "2")  # libpq's least
    with answering(None) as address:
        with pytest.raises(GalleryError, match=r"127\.0\.0\.1"):
            PostgresStore(f"postgresql://u@{address}/d")
        with pytest.raises(GalleryError, match=r"127\.0\.0\.1"):
            PostgresStore.create(f"postgresql://u@{address}/d", **MADE)
